//! Sleeping in an operation.
//!
//! What users see: a peer on another CPU that answers at once is awaited without a system call on either side. A wait that did not
//! pay is not tried again for some time, twice as long after each, so a sleeper that waits for long costs no more than asleep.

use abi::{Errno, Result};
use arena::{
    Host, Phase,
    sync::{AtomicU32, Ordering::*},
};
use engine::{Cause, Outcome};

use crate::{
    BUSY, LinuxHost, Operation, PARKED, cancel, leave,
    tls::{self, Tls},
};

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
        if leave::has_left() {
            return Err(Cause::Signal);
        }
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

/// How long a waker on another CPU is awaited: about as long as it takes to be woken by it.
const AWAKE_NS: u64 = 20_000;
/// How often others are let run on this CPU, where the waker is one of them.
const YIELDS: u32 = 2;
/// It is tried again after at most so many sleeps, as a power of two.
const RELUCTANCE: u32 = 8;

/// Waits awake for the end of the sleep, if that is likely to come soon. Whether it came.
fn woken_awake(ctx: &Operation<'_>, tls: &'static Tls) -> bool {
    // Whoever is before this one sleeps and has to be woken first.
    if ctx.slot.waiter.has_others_before() {
        return false;
    }
    awake(tls, ctx.slot.waiter.waker_cpu(), || ctx.slot.waiter.phase() != Phase::Waiting)
}

/// Waits awake for something that whoever runs on the CPU `waker` brings about, if that is likely to come soon. Whether `is_over`, which is asked
/// again and again, says that it came.
pub fn wait_awake(waker: Option<u32>, is_over: impl FnMut() -> bool) -> bool {
    awake(tls::get(), waker, is_over)
}

fn awake(tls: &'static Tls, waker: Option<u32>, mut is_over: impl FnMut() -> bool) -> bool {
    let at_once = tls.asleep_at_once.load(Relaxed);
    if at_once != 0 {
        tls.asleep_at_once.store(at_once - 1, Relaxed);
        return false;
    }
    let woken = match waker {
        // Nobody has woken this thread yet: nothing speaks for it.
        None => return false,
        // It would keep the CPU from whoever is to wake it. To ask costs a system call, so not before each sleep.
        Some(_) if sys::is_real_time() => {
            tls.asleep_at_once.store((1 << RELUCTANCE) - 1, Relaxed);
            return false;
        }
        Some(cpu) if cpu == LinuxHost { tls }.cpu() => (0..YIELDS).any(|_| {
            sys::sched_yield();
            is_over()
        }),
        Some(_) => spin(tls, is_over),
    };
    let in_vain = if woken { 0 } else { (tls.in_vain.load(Relaxed) + 1).min(RELUCTANCE) };
    tls.in_vain.store(in_vain, Relaxed);
    tls.asleep_at_once.store((1 << in_vain) - 1, Relaxed);
    woken
}

fn spin(tls: &Tls, mut is_over: impl FnMut() -> bool) -> bool {
    let end = crate::host::monotonic_ns() + AWAKE_NS;
    // A signal ends the sleep, which is seen to further on.
    while tls.deferred.load(Relaxed) == 0 {
        for _ in 0..32 {
            if is_over() {
                return true;
            }
            core::hint::spin_loop();
        }
        if crate::host::monotonic_ns() >= end {
            break;
        }
    }
    is_over()
}
