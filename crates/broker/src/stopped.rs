//! A holder of a lock that is stopped must not stop the others.
//!
//! A stopped process is seized, runs until it has released the lock, and is left stopped as it was: its parent sees
//! nothing of it. One that has ended without the kernel's mark is declared dead, and so is one that there never was: then the
//! lock's word was overwritten.

use std::fs;
use std::time::{Duration, Instant};

use arena::Host as _;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// How long a holder may run. It needs microseconds.
const RUN: Duration = Duration::from_millis(200);

/// Looks at every thread that holds a lock, or waits for one, and helps those that can't go on. Takes no lock: the broker calls it
/// also when it waits for one itself.
pub(crate) fn release_locks(ctx: &client::Operation<'_>) {
    let Ok(threads) = ctx.threads() else { return };
    let own = (ctx.slot, ctx.host.tid());
    for (slot, tid) in threads.map(|(slot, _, tid)| (slot, tid)).chain([own]) {
        match ctx.lock_owner(&slot) {
            0 => {}
            owner if owner == tid => match state(tid) {
                None => ctx.declare_dead(&slot, tid),
                Some('T') => run_until(tid, || ctx.lock_owner(&slot) != tid),
                Some(_) => {}
            },
            owner if ctx.is_nobodys_lock(&slot, owner) => ctx.declare_dead(&slot, owner),
            _ => {}
        }
    }
}

/// A thread's state letter; none if there is no such thread.
fn state(tid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{tid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

fn run_until(tid: u32, done: impl Fn() -> bool) {
    let pid = Pid::from_raw(tid.cast_signed());
    if ptrace::seize(pid, ptrace::Options::empty()).is_err() {
        return;
    }
    let deadline = Instant::now() + RUN;
    // A process that is stopped reports so at once when it is seized; one that was continued meanwhile does not.
    if !has_reported(pid, deadline) {
        let _ = ptrace::interrupt(pid);
        has_reported(pid, deadline + RUN);
    } else if ptrace::cont(pid, None).is_ok() {
        while !done() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        let _ = ptrace::interrupt(pid);
        has_reported(pid, deadline + RUN);
    }
    let _ = ptrace::detach(pid, None);
}

/// Waits for news of a traced thread; false if there was none in time.
fn has_reported(pid: Pid, deadline: Instant) -> bool {
    loop {
        match waitpid(pid, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) if Instant::now() < deadline => std::thread::yield_now(),
            Ok(WaitStatus::StillAlive) => return false,
            _ => return true,
        }
    }
}
