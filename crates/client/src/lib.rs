//! What the doors share: attaching to a namespace, fork and exec, the thread's place in it, credentials, sleeping.
//!
//! What users see: nothing. A process attaches at its first call, and keeps no descriptor but those of some segments and queues. A child of fork finds its
//! page wiped and attaches anew; a program after exec starts from nothing, and the broker knows it by its id.
#![no_std]
#![deny(unsafe_code)]

mod attach;
mod attachments;
pub mod behalf;
mod cancel;
pub mod files;
mod holders;
mod host;
mod leave;
mod memory;
pub mod mqd;
mod notify;
mod park;
pub mod proc;
pub mod queues;
pub mod signal;
mod stranger;
mod switch;
mod tls;
mod vfork;
pub mod wire;

use core::sync::atomic::compiler_fence;

use abi::{Errno, Result};
use arena::{ArenaError, Ctx, Handle, sync::Ordering::*};
use engine::{Call, Cause, Deadline, Task as _};

pub use attach::{found, have_segments_looked_at, limit, succeed, use_socket, wait_doorbell};
pub use attachments::{Unmapping, moving, unmapping, unseen_mappings};
pub use cancel::{test_cancel, uncancellable};
pub use host::{LinuxHost, copy, help_stalled_by};
pub use leave::{Leaving, UserChange, before_user_change, has_left};
pub use memory::{Keeper, keep_memory};
pub use notify::notify_by_thread;
pub use park::{next_look, wait, wait_awake};
pub use switch::{CLONE_NEWIPC, Target, is_within};
pub use sys::clock_ns;
pub use tls::credentials_changed;
pub use vfork::{after_vfork, before_vfork, in_vfork_child};

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
    if tls.busy.load(Relaxed) != IDLE {
        return nested(operation);
    }
    // Before the look at the number: see `leave`.
    tls.busy.store(BUSY, Relaxed);
    compiler_fence(SeqCst);
    if !is_entered(tls) {
        enter(tls)?;
    }
    let host = LinuxHost { tls };
    let result = match Ctx::new(&attach::ARENA, &host, Handle(tls.slot.load(Relaxed))) {
        Ok(ctx) => {
            let result = operation(&ctx);
            // One that failed early may have ended what a dead holder of its lock left, and so owe wake-ups.
            ctx.flush_wakes();
            result
        }
        Err(error) => Err(engine::util::arena_errno(error)),
    };
    compiler_fence(SeqCst);
    tls.busy.store(IDLE, Relaxed);
    compiler_fence(SeqCst);
    if tls.deferred.load(Relaxed) != 0 {
        signal::deliver(tls);
    }
    result
}

/// Whether the thread has a slot of the process's attachment.
#[inline(always)]
fn is_entered(tls: &tls::Tls) -> bool {
    let generation = attach::generation();
    generation != 0 && tls.generation.load(Relaxed) == generation
}

/// Attaches the process, gets the thread a slot, and marks it busy.
#[cold]
#[inline(never)]
fn enter(tls: &'static tls::Tls) -> Result<()> {
    loop {
        tls.busy.store(IDLE, Relaxed);
        compiler_fence(SeqCst);
        if tls.deferred.load(Relaxed) != 0 {
            signal::deliver(tls);
        }
        if attach::generation() == 0 && stranger::is_known(tls) {
            return Err(Errno::EACCES);
        }
        signal::undisturbed(enter_slow)?;
        tls.busy.store(BUSY, Relaxed);
        compiler_fence(SeqCst);
        // A vfork child has no number where its parent has none.
        if is_entered(tls) || vfork::is_child(tls) {
            return Ok(());
        }
    }
}

fn enter_slow() -> Result<()> {
    let tls = tls::get();
    if vfork::is_child(tls) {
        return vfork::enter(tls);
    }
    attach::attach().inspect_err(|error| {
        if *error == Errno::EACCES {
            stranger::note(tls);
        }
    })?;
    let Some(entering) = attach::Entering::begin() else { return Ok(()) };
    tls.begin();
    let host = LinuxHost { tls };
    let ctx = claim(&host, false)?;
    tls.slot.store(ctx.slot.handle().0, Relaxed);
    tls.generation.store(entering.generation, Relaxed);
    attach::register_if_needed(tls);
    Ok(())
}

/// Gives the thread's slot up: the thread is about to end, in a process that goes on.
pub fn end_thread() {
    let tls = tls::get();
    let host = LinuxHost { tls };
    if is_entered(tls)
        && let Ok(ctx) = Ctx::new(&attach::ARENA, &host, Handle(tls.slot.load(Relaxed)))
    {
        tls.generation.store(0, Relaxed);
        ctx.quit();
    }
}

fn claim(host: &LinuxHost, nested: bool) -> Result<Operation<'_>> {
    for _ in 0..64 {
        match Ctx::claim(&attach::ARENA, host, host.process(), nested) {
            Err(ArenaError::Full) => attach::more_threads()?,
            Err(other) => return Err(engine::util::arena_errno(other)),
            Ok((ctx, dead)) => {
                if let Some(tid) = dead {
                    engine::reap::settle_slot(&ctx, &ctx.slot, tid);
                }
                ctx.slot.pthread.store(core::ptr::from_ref(&host.tls.busy).addr() as u64, Relaxed);
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
    if leave::has_left() {
        // Another thread is about to end the operation below this one.
        return Err(Errno::EACCES);
    }
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

/// `shmdt`, which also a process can make that has left the namespace.
///
/// # Errors
/// The call's.
pub fn shmdt(addr: u64) -> Result<i64> {
    match call(&engine::syscall::Shmdt { addr }) {
        Err(Errno::EACCES) if leave::has_left() => attachments::unmap_alone(addr).map(|()| 0),
        done => done,
    }
}

/// As [`call`], for one that can't be said by registers: `EACCES` for a stranger, whose calls are made elsewhere.
///
/// # Errors
/// The call's.
#[inline(always)]
pub fn call_here<C: Call>(call: &C) -> Result<i64> {
    with(|ctx| {
        let begun = call.begin(ctx)?;
        wait(ctx, begun.outcome, begun.deadline, |cause| call.resume(ctx, cause))
    })
}

/// Makes a system call that the kernel begins anew after a handler with `SA_RESTART`. Its timeout, if it has one, is a time of day.
///
/// # Errors
/// The call's.
#[inline(always)]
pub fn call_again<C: Call>(made: &C) -> Result<i64> {
    let tls = tls::get();
    loop {
        tls.handled.store(0, Relaxed);
        let credentials = tls::credentials_generation();
        let done = call(made);
        if done != Err(Errno::EINTR) || !begins_anew(tls, credentials) {
            return done;
        }
    }
}

/// Whether a signal has ended a call that begins anew behind its handler. One that was not seen to run ends it, but that by which libc has each thread change its
/// credentials, as it does when they are others than at the call's beginning.
#[cold]
fn begins_anew(tls: &tls::Tls, credentials: u32) -> bool {
    match tls.handled.load(Relaxed) {
        signal::RAN => true,
        0 => tls::credentials_generation() != credentials && !has_left(),
        _ => false,
    }
}

/// Makes a system call, and sleeps until then at the latest: for calls that have no timeout of their own.
///
/// # Errors
/// The call's, and `ETIMEDOUT`; `EACCES` for a stranger, whose calls can't be made so.
pub fn call_until<C: Call>(call: &C, deadline: Deadline) -> Result<i64> {
    let mut is_over = false;
    let done = with(|ctx| {
        let begun = call.begin(ctx)?;
        wait(ctx, begun.outcome, Some(deadline), |cause| {
            is_over = cause == Cause::Timeout;
            call.resume(ctx, cause)
        })
    });
    match done {
        // To such a call, the end of its time is a signal.
        Err(Errno::EINTR) if is_over => Err(Errno::ETIMEDOUT),
        done => done,
    }
}

/// Makes a system call, and sleeps as long as it blocks.
///
/// # Errors
/// The call's.
#[inline(always)]
pub fn call<C: Call>(call: &C) -> Result<i64> {
    match call_here(call) {
        // Who is not attached was refused, and not by an object.
        Err(Errno::EACCES) if attach::generation() == 0 => stranger::call(call),
        done => done,
    }
}
