//! How long a call may wait.

use std::time::{Duration, Instant, SystemTime};

use abi::time::{Clock, Timespec};
use engine::Deadline;

/// Until when.
#[derive(Clone, Copy)]
pub(crate) enum Wait {
    Not,
    Until(Instant),
    ForEver,
}

impl Wait {
    /// For so long; a time that no clock reaches is for ever.
    pub(crate) fn during(timeout: Duration) -> Wait {
        Instant::now().checked_add(timeout).map_or(Wait::ForEver, Wait::Until)
    }
}

pub(crate) fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// That time on the clock of the engine's sleeps.
pub(crate) fn monotonic(deadline: Instant) -> Deadline {
    let left = u64::try_from(left(deadline).as_nanos()).unwrap_or(u64::MAX);
    let clock = Clock::Monotonic;
    Deadline { clock, ns: client::clock_ns(clock).saturating_add(left) }
}

pub(crate) fn timespec(span: Duration) -> Timespec {
    let tv_sec = i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    Timespec { tv_sec, tv_nsec: span.subsec_nanos().into() }
}

/// That time on the clock of the day, by which POSIX queues wait.
pub(crate) fn time_of_day(deadline: Instant) -> Timespec {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    timespec(now.saturating_add(left(deadline)))
}
