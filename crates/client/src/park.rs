//! Sleeping in an operation.

use abi::{Errno, Result};
use arena::sync::{AtomicU32, Ordering::*};
use engine::{Cause, Outcome};

use crate::{BUSY, Operation, PARKED, cancel, tls};

/// Longest sleep before a sleeper looks at its own slot again.
const SLICE_NS: u64 = 5_000_000_000;

/// Sleeps as long as the operation is blocked. `deadline` is in nanoseconds of the monotonic clock.
///
/// # Errors
/// The operation's.
#[inline(always)]
pub fn wait(
    ctx: &Operation<'_>,
    mut outcome: Outcome,
    deadline: Option<u64>,
    mut resume: impl FnMut(Cause) -> Result<Outcome>,
) -> Result<i64> {
    loop {
        if let Outcome::Done(value) = outcome {
            return Ok(value);
        }
        outcome = resume(park(ctx, deadline))?;
    }
}

#[cold]
#[inline(never)]
fn park(ctx: &Operation<'_>, deadline: Option<u64>) -> Cause {
    let tls = tls::get();
    tls.busy.store(PARKED, Relaxed);
    let sleep = |word: &AtomicU32, value| {
        let left = match deadline {
            None => SLICE_NS,
            Some(end) => {
                let left = end.saturating_sub(sys::monotonic_ns());
                if left == 0 {
                    return Err(Cause::Timeout);
                }
                left.min(SLICE_NS)
            }
        };
        match sys::park::futex_wait(word, value, left, &tls.deferred) {
            Err(Errno::EINTR) => Err(Cause::Signal),
            _ => Ok(()),
        }
    };
    let slept = cancel::sleep(ctx, || ctx.slot.waiter.park(Cause::Signal, sleep));
    tls.busy.store(BUSY, Relaxed);
    match slept {
        Ok(_) => Cause::Woken,
        Err(cause) => cause,
    }
}
