//! A holder of a lock that is stopped must not stop the others.
//!
//! A stopped process is seized, runs until it has released the lock, and is left stopped as it was: its parent sees
//! nothing of it. One that has ended without the kernel's mark is declared dead, and so is one that there never was: then the
//! lock's word was overwritten.

use std::fs;
use std::time::Duration;

use arena::Host as _;

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
                Some('T') => trap::run_until(tid, RUN, || ctx.lock_owner(&slot) != tid),
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
