//! Leaving the namespace: what a process does that is about to give its owner's uid up for good.
//!
//! What users see: such a process is a stranger from then on: the broker makes its calls, and nothing of the arena is mapped. Threads that
//! sleep in a call get `EINTR`, as they do with the kernel, where libc's `setuid` signals each of them. What it has attached of
//! segments stays, and its adjustments of `SEM_UNDO` are applied when it ends.
//! What is missing: a vfork child that is about to change its user leaves its parent's memory as it is; from a signal handler that
//! runs in the middle of a call nothing can be left.
//!
//! It leaves before libc's call, while the broker still answers, and nobody attaches until that is over. The order is: no attachment
//! has the number any more; a barrier on all CPUs; then each thread is waited for that says it is in an operation. One that
//! has not said so yet finds the number changed, behind the barrier.
//!
//! # Safety
//! What is unmapped nobody uses: no thread is in an operation, and none begins one. If one does not come to an end, it
//! finds zeros, which are as good as any bytes to who distrusts the arena.
#![expect(unsafe_code, reason = "a thread's words are read in its own storage, and mappings removed")]

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::*};

use arena::{Ctx, Handle, Ref, ThreadSlot};
use engine::reap;
use sys::signal::{FAULTS, LIBC, Mask, set_mask};

use crate::{
    IDLE, LinuxHost, Operation, attach, claim, memory, mqd,
    tls::{self, Tls},
    vfork,
};

/// A change of the process's users by libc's call of that name. An id of all ones stays as it is.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the names and arguments of libc's calls")]
pub enum UserChange {
    Setuid(u32),
    Setreuid(u32, u32),
    Setresuid(u32, u32, u32),
}

impl UserChange {
    /// What it makes of the real, effective and saved user, if it is allowed.
    fn of(self, [real, effective, saved]: [u32; 3], may_set_any: bool) -> [u32; 3] {
        const KEEP: u32 = u32::MAX;
        let or = |new: u32, old: u32| if new == KEEP { old } else { new };
        match self {
            UserChange::Setuid(user) if may_set_any => [user; 3],
            UserChange::Setuid(user) => [real, user, saved],
            UserChange::Setreuid(new_real, new) => {
                let also_saved = new_real != KEEP || new != KEEP && new != real;
                let new = or(new, effective);
                [or(new_real, real), new, if also_saved { new } else { saved }]
            }
            UserChange::Setresuid(new_real, new, new_saved) => {
                [or(new_real, real), or(new, effective), or(new_saved, saved)]
            }
        }
    }
}

/// Whether this process, or the one that forked it, has left.
static LEFT: AtomicBool = AtomicBool::new(false);

/// Whether the process is a stranger by its own doing. To be asked before what is no call of the program's.
pub fn has_left() -> bool {
    LEFT.load(Acquire)
}

/// The process has attached, so it is no stranger.
pub(crate) fn came_back() {
    LEFT.store(false, Release);
}

/// While it lives, nobody of this process attaches, and no handler of the program's runs in this thread.
#[derive(Debug)]
pub struct Leaving {
    mask: Mask,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        attach::unlock();
        set_mask(self.mask);
    }
}

/// To be called right before libc's call, and the result to be dropped right behind it. Leaves the namespace, if the call can be the end of the
/// owner's uid in this process.
pub fn before_user_change(change: UserChange) -> Option<Leaving> {
    const CAP_SETUID: u32 = 7;
    let (owner, _) = attach::ownership();
    let may_set_any = || sys::capabilities() >> CAP_SETUID & 1 != 0;
    let tls = tls::get();
    if !attach::has_mappings() || vfork::is_child(tls) || tls.busy.load(Relaxed) != IDLE {
        return None;
    }
    if change.of(sys::getresuid(), may_set_any()).contains(&owner) {
        return None;
    }
    mqd::distrust_all();
    let mask = set_mask(!(FAULTS | LIBC));
    if attach::lock().is_err() {
        set_mask(mask);
        return None;
    }
    leave(tls);
    Some(Leaving { mask })
}

/// Under the lock of attaching.
fn leave(tls: &'static Tls) {
    LEFT.store(true, Release);
    let generation = attach::end_generation();
    let quiet = if generation == 0 { true } else { end_operations(tls, generation) };
    attach::unmap_all(quiet);
    memory::forget_kept();
    attach::stop_giving();
}

/// Waits for all operations to end, and gives the threads' slots up. Whether all did end.
fn end_operations(tls: &'static Tls, generation: u32) -> bool {
    let host = LinuxHost { tls };
    let own = if tls.generation.load(Relaxed) == generation {
        Ctx::new(&attach::ARENA, &host, Handle(tls.slot.load(Relaxed))).map_err(engine::util::arena_errno)
    } else {
        tls.begin();
        claim(&host, false)
    };
    sys::barrier_in_threads();
    let end = sys::monotonic_ns() + PATIENCE_NS;
    let mut quiet = attach::wait_for_entering(|| pause(end));
    let Ok(ctx) = own else { return false };
    let process = attach::process();
    if let Ok(threads) = ctx.threads() {
        let others = threads.filter(|(slot, of, _)| *of == process && slot.handle() != ctx.slot.handle());
        for (slot, _, tid) in others {
            if has_ended(&ctx, &slot, tid, end) {
                reap::reap_thread(&ctx, &slot, tid);
            } else {
                quiet = false;
            }
        }
    }
    attach::mark_liveness();
    ctx.quit();
    tls.generation.store(0, Relaxed);
    quiet
}

/// How long an operation of another thread is waited for: it may need a lock whose holder is traced.
const PATIENCE_NS: u64 = 10_000_000_000;

/// Sleeps for a moment. False if it has been long enough.
fn pause(end: u64) -> bool {
    let _ = sys::futex_wait(&AtomicU32::new(0), 0, 200_000);
    sys::monotonic_ns() < end
}

/// Interrupts a thread's sleep, and waits for its operation's end.
fn has_ended(ctx: &Operation<'_>, slot: &Ref<'_, ThreadSlot>, tid: u32, end: u64) -> bool {
    loop {
        let at = slot.pthread.load(Relaxed) as *const u8;
        let mut busy = IDLE;
        // SAFETY: a word of ours is written; what is read may be anything, and is no more than a number to wait for.
        let read = unsafe { sys::copy::copy((&raw mut busy).cast(), at, size_of_val(&busy)) };
        // Where its storage is gone, so is the thread.
        if read.is_err() || busy == IDLE || !sys::thread_exists(tid) {
            return true;
        }
        slot.waiter.wake(ctx.host);
        if !pause(end) {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::UserChange::{Setresuid, Setreuid, Setuid};

    #[test]
    fn what_a_change_makes_of_the_users() {
        const KEEP: u32 = u32::MAX;
        let all = [1, 2, 3];
        assert_eq!(Setuid(7).of(all, true), [7, 7, 7]);
        assert_eq!(Setuid(1).of(all, false), [1, 1, 3]);
        assert_eq!(Setresuid(KEEP, 7, KEEP).of(all, true), [1, 7, 3]);
        assert_eq!(Setresuid(7, KEEP, 8).of(all, true), [7, 2, 8]);
        assert_eq!(Setreuid(KEEP, KEEP).of(all, true), all);
        assert_eq!(Setreuid(KEEP, 1).of(all, true), [1, 1, 3]);
        assert_eq!(Setreuid(KEEP, 7).of(all, true), [1, 7, 7]);
        assert_eq!(Setreuid(7, KEEP).of(all, true), [7, 2, 2]);
    }
}
