//! Sleeping in an operation.
//!
//! What users see: a peer on another CPU that answers at once is awaited without a system call on either side, and those who stand in line for an
//! object that changes hands quickly let each other run instead of being woken one by one. A wait that did not pay is not tried again for some
//! time, twice as long after each, so a sleeper that waits for long costs no more than asleep.

use abi::{Errno, Result, time::Clock};
use arena::{
    Host, Phase,
    sync::{AtomicU32, Ordering::*},
};
use engine::{Cause, Deadline, Outcome};

use crate::{
    BUSY, LinuxHost, Operation, PARKED, cancel, host, leave,
    tls::{self, Tls},
};

/// Longest sleep before a sleeper looks at its own slot again.
const SLICE_NS: u64 = 5_000_000_000;

/// Sleeps as long as the operation is blocked.
///
/// # Errors
/// The operation's.
#[inline(always)]
pub fn wait(
    ctx: &Operation<'_>,
    mut outcome: Outcome,
    deadline: Option<Deadline>,
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
fn park(ctx: &Operation<'_>, deadline: Option<Deadline>) -> Cause {
    let tls = tls::get();
    tls.busy.store(PARKED, Relaxed);
    let sleep = |word: &AtomicU32, value| {
        if leave::has_left() {
            return Err(Cause::Signal);
        }
        let Deadline { clock, ns } = next_look(deadline)?;
        match sys::park::futex_wait_until(word, value, clock, ns, &tls.deferred) {
            Err(Errno::EINTR) => Err(Cause::Signal),
            _ => Ok(()),
        }
    };
    if woken_awake(ctx, tls) {
        tls.busy.store(BUSY, Relaxed);
        return Cause::Woken;
    }
    let slept = cancel::sleep(ctx, || ctx.slot.waiter.park(Cause::Signal, sleep));
    tls.busy.store(BUSY, Relaxed);
    match slept {
        Ok(_) => Cause::Woken,
        Err(cause) => cause,
    }
}

/// When a sleeper looks at its own slot again: the clock that it sleeps by is that of its deadline, so that it hears at once of one that is set.
/// (One that is set back puts the look off by as much.)
///
/// # Errors
/// `Timeout` if the deadline is over.
pub fn next_look(deadline: Option<Deadline>) -> core::result::Result<Deadline, Cause> {
    let Deadline { clock, ns } = deadline.unwrap_or(Deadline { clock: Clock::Monotonic, ns: u64::MAX });
    let now = sys::clock_ns(clock);
    if ns <= now {
        return Err(Cause::Timeout);
    }
    Ok(Deadline { clock, ns: ns.min(now.saturating_add(SLICE_NS)) })
}

/// How long a waker on another CPU is awaited: about as long as it takes to be woken by it.
const AWAKE_NS: u64 = 20_000;
/// How often others are let run on this CPU, where the waker is one of them.
const YIELDS: u32 = 2;
/// And where others are before this one in the line, each of which has its turn first.
const YIELDS_IN_LINE: u32 = 16;
/// As long as those of a line may take, and far shorter than the share of one that computes.
const LONGEST_YIELD_NS: u64 = 100_000;
/// It is tried again after at most so many sleeps, as a power of two.
const RELUCTANCE: u32 = 8;

/// Waits awake for the end of the sleep, if that is likely to come soon. Whether it came.
fn woken_awake(ctx: &Operation<'_>, tls: &'static Tls) -> bool {
    let waiter = &ctx.slot.waiter;
    awake(tls, waiter.waker_cpu(), waiter.has_others_before(), || waiter.phase() != Phase::Waiting)
}

/// Waits awake for something that whoever runs on the CPU `waker` brings about, if that is likely to come soon. Whether `is_over`, which is asked
/// again and again, says that it came.
pub fn wait_awake(waker: Option<u32>, is_over: impl FnMut() -> bool) -> bool {
    awake(tls::get(), waker, false, is_over)
}

fn awake(tls: &'static Tls, waker: Option<u32>, in_line: bool, mut is_over: impl FnMut() -> bool) -> bool {
    // What one of them came to says nothing of the other.
    let paid = if in_line { &tls.awake_in_line } else { &tls.awake };
    let at_once = paid.asleep_at_once.load(Relaxed);
    if at_once != 0 {
        paid.asleep_at_once.store(at_once - 1, Relaxed);
        return false;
    }
    let woken = match waker {
        // Nobody has woken this thread yet: nothing speaks for it.
        None => return false,
        // It would keep the CPU from whoever is to wake it. To ask costs a system call, so not before each sleep.
        Some(_) if sys::is_real_time() => {
            paid.asleep_at_once.store((1 << RELUCTANCE) - 1, Relaxed);
            return false;
        }
        Some(_) if in_line => let_line_run(tls, is_over),
        Some(cpu) if cpu == LinuxHost { tls }.cpu() => (0..YIELDS).any(|_| {
            sys::sched_yield();
            is_over()
        }),
        Some(_) => spin(tls, is_over),
    };
    let in_vain = if woken { 0 } else { (paid.in_vain.load(Relaxed) + 1).min(RELUCTANCE) };
    paid.in_vain.store(in_vain, Relaxed);
    paid.asleep_at_once.store((1 << in_vain) - 1, Relaxed);
    woken
}

/// Others that keep the CPU for longer are none of the line. Among them a sleeper fares better: it gets the CPU when it is woken.
fn let_line_run(tls: &Tls, mut is_over: impl FnMut() -> bool) -> bool {
    let mut now = host::clock_ns(Clock::Monotonic);
    for _ in 0..YIELDS_IN_LINE {
        let before = now;
        sys::sched_yield();
        now = host::clock_ns(Clock::Monotonic);
        // A signal ends the sleep, which is seen to further on.
        if now.saturating_sub(before) > LONGEST_YIELD_NS || tls.deferred.load(Relaxed) != 0 {
            break;
        }
        if is_over() {
            return true;
        }
    }
    false
}

fn spin(tls: &Tls, mut is_over: impl FnMut() -> bool) -> bool {
    let end = host::clock_ns(Clock::Monotonic) + AWAKE_NS;
    // A signal ends the sleep, which is seen to further on.
    while tls.deferred.load(Relaxed) == 0 {
        for _ in 0..32 {
            if is_over() {
                return true;
            }
            core::hint::spin_loop();
        }
        if host::clock_ns(Clock::Monotonic) >= end {
            break;
        }
    }
    is_over()
}
