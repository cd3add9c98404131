//! What the doors share: attaching to a namespace, fork and exec, the thread's place in it, credentials, sleeping.
//!
//! What users see: nothing. A process attaches at its first call, and keeps no descriptor. A child of fork finds its
//! page wiped and attaches anew; a program after exec starts from nothing, and the broker knows it by its id.
//!
//! What is missing: signal handlers that interrupt the middle of an operation get `EAGAIN` from IPC calls of their
//! own; one that leaves a sleeping call by `siglongjmp` leaves its place in the queue behind until the thread ends.
#![no_std]
#![deny(unsafe_code)]

mod attach;
mod host;
mod tls;
pub mod wire;

use abi::{Errno, Result};
use arena::{ArenaError, Ctx, Handle, sync::Ordering::*};
use engine::{Call, Cause, Outcome};

pub use attach::{found, wait_doorbell};
pub use host::LinuxHost;
pub use tls::credentials_changed;

/// The context of an operation of this process.
pub type Operation<'a> = Ctx<'a, LinuxHost>;

const IDLE: u32 = 0;
const BUSY: u32 = 1;
const PARKED: u32 = 2;

/// Runs an operation in the namespace of this process, attaching first if need be.
///
/// # Errors
/// The operation's; `ENOSYS` where there is no namespace, `EACCES` for a stranger.
#[inline(always)]
pub fn with<R>(operation: impl FnOnce(&Operation<'_>) -> Result<R>) -> Result<R> {
    let tls = tls::get();
    let generation = attach::generation();
    if tls.busy.load(Relaxed) != IDLE {
        return nested(operation);
    }
    if generation == 0 || tls.generation.load(Relaxed) != generation {
        enter_slow()?;
    }
    let host = LinuxHost { tls };
    let ctx =
        Ctx::new(&attach::ARENA, &host, Handle(tls.slot.load(Relaxed))).map_err(engine::util::arena_errno)?;
    tls.busy.store(BUSY, Relaxed);
    let result = operation(&ctx);
    tls.busy.store(IDLE, Relaxed);
    result
}

#[cold]
#[inline(never)]
fn enter_slow() -> Result<()> {
    let tls = tls::get();
    let generation = attach::attach()?;
    tls.begin();
    let host = LinuxHost { tls };
    let ctx = claim(&host, false)?;
    tls.slot.store(ctx.slot.handle().0, Relaxed);
    tls.generation.store(generation, Relaxed);
    attach::register_if_needed(tls);
    Ok(())
}

fn claim(host: &LinuxHost, nested: bool) -> Result<Operation<'_>> {
    for _ in 0..64 {
        match Ctx::claim(&attach::ARENA, host, attach::process(), nested) {
            Err(ArenaError::Full) => attach::more_threads()?,
            Err(other) => return Err(engine::util::arena_errno(other)),
            Ok((ctx, dead)) => {
                if let Some(tid) = dead {
                    engine::reap::settle_slot(&ctx, &ctx.slot, tid);
                }
                return Ok(ctx);
            }
        }
    }
    Err(Errno::ENOMEM)
}

/// A signal handler's operation, while the one it interrupted sleeps: it gets a slot of its own.
#[cold]
#[inline(never)]
fn nested<R>(operation: impl FnOnce(&Operation<'_>) -> Result<R>) -> Result<R> {
    let tls = tls::get();
    if attach::generation() == 0 || tls.generation.load(Relaxed) != attach::generation() {
        // A child of fork in a signal handler: what its parent did is not its business.
        tls.busy.store(IDLE, Relaxed);
        return with(operation);
    }
    if tls.busy.load(Relaxed) != PARKED {
        return Err(Errno::EAGAIN);
    }
    let outer = tls.slot.load(Relaxed);
    let host = LinuxHost { tls };
    let ctx = claim(&host, true)?;
    tls.slot.store(ctx.slot.handle().0, Relaxed);
    tls.busy.store(BUSY, Relaxed);
    let result = operation(&ctx);
    ctx.quit();
    tls.slot.store(outer, Relaxed);
    tls.busy.store(PARKED, Relaxed);
    result
}

/// Makes a system call, and sleeps as long as it blocks.
///
/// # Errors
/// The call's.
#[inline(always)]
pub fn call<C: Call>(call: &C) -> Result<i64> {
    with(|ctx| {
        let begun = call.begin(ctx)?;
        wait(ctx, begun.outcome, begun.deadline, |cause| call.resume(ctx, cause))
    })
}

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
    let slept = ctx.slot.waiter.park(Cause::Signal, |word, value| {
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
        match sys::futex_wait(word, value, left) {
            Err(Errno::EINTR) => Err(Cause::Signal),
            _ => Ok(()),
        }
    });
    tls.busy.store(BUSY, Relaxed);
    match slept {
        Ok(_) => Cause::Woken,
        Err(cause) => cause,
    }
}
