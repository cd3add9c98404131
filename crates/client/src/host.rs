//! The arena's host and the engine's task, by system calls.
//!
//! # Safety
//! Copies have one side in the arena, which is mapped, and the other in the program's memory, where a fault is caught.
#![expect(unsafe_code, reason = "mapping and copying are what a host is for")]

use core::ptr::NonNull;
use core::sync::atomic::AtomicPtr;

use abi::{
    Plain, Result,
    time::{Clock, Timespec},
};
use arena::{
    Arena, ArenaError, Ctx, Handle, Host, SharedBytes,
    sync::{AtomicU32, Ordering::*},
};
use engine::{Cred, Task, namespace};

use crate::{Operation, attach, signal, tls::Tls};

unsafe extern "C" {
    /// libc's: seconds, from the vDSO.
    fn time(at: *mut i64) -> i64;
    /// libc's: from the vDSO, or what the kernel keeps for it.
    fn sched_getcpu() -> i32;
    /// libc's, from the vDSO.
    fn clock_gettime(clock: i32, now: *mut Timespec) -> i32;
}

/// A clock without a system call, nanoseconds: for what is not slept, as it may be shifted.
pub(crate) fn clock_ns(clock: Clock) -> u64 {
    let mut now = Timespec::default();
    // SAFETY: a valid place.
    unsafe { clock_gettime(clock as i32, &raw mut now) };
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// A thread of this process.
#[derive(Clone, Copy)]
pub struct LinuxHost {
    pub(crate) tls: &'static Tls,
}

/// What [`help_stalled_by`] was given; null in a client.
static HELPER: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// This process is the one that is asked where somebody waits for a lock for too long. When it does so itself, it calls `helper`,
/// which must take no lock.
pub fn help_stalled_by(helper: fn(&Operation<'_>)) {
    HELPER.store(helper as *mut (), Release);
}

impl LinuxHost {
    fn help_itself(&self) -> bool {
        let helper = HELPER.load(Acquire);
        if helper.is_null() {
            return false;
        }
        // SAFETY: only `help_stalled_by` writes it, and such a function.
        let helper: fn(&Operation<'_>) = unsafe { core::mem::transmute(helper) };
        if let Ok(ctx) = Ctx::new(&attach::ARENA, self, Handle(self.tls.slot.load(Relaxed))) {
            helper(&ctx);
        }
        true
    }

    /// [`sys::copy::copy`], also where the program blocks the signals of a fault.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn copy(&self, to: *mut u8, from: *const u8, len: usize) -> Result<()> {
        if self.tls.unsure.load(Relaxed) != 0 {
            // SAFETY: the caller's promise.
            return unsafe { self.copy_unsure(to, from, len) };
        }
        // SAFETY: the caller's promise.
        unsafe { sys::copy::copy(to, from, len) }
    }

    #[cold]
    #[inline(never)]
    unsafe fn copy_unsure(&self, to: *mut u8, from: *const u8, len: usize) -> Result<()> {
        if signal::faults_kill(self.tls) {
            // SAFETY: the caller's promise.
            return unsafe { sys::copy::copy_by_kernel(to, from, len) };
        }
        // SAFETY: the caller's promise.
        unsafe { sys::copy::copy(to, from, len) }
    }
}

/// Copies between memory of ours and the program's, in either direction, for a process that has attached.
///
/// # Safety
/// As [`sys::copy::copy`].
///
/// # Errors
/// `EFAULT`; part of it may have been copied.
pub unsafe fn copy(to: *mut u8, from: *const u8, len: usize) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { LinuxHost { tls: crate::tls::get() }.copy(to, from, len) }
}

// SAFETY: extents are mapped whole, by page, and stay mapped.
unsafe impl Host for LinuxHost {
    fn map_extent(&self, index: u32) -> core::result::Result<NonNull<u8>, ArenaError> {
        attach::map_extent(index)
    }

    fn unmap_spare(&self, index: u32, start: NonNull<u8>) {
        let len = usize::try_from(Arena::extent_len(index)).unwrap_or(0);
        // SAFETY: just mapped by `map_extent`, and nobody uses it.
        unsafe { sys::unmap(start, len) };
    }

    fn back(&self, start: NonNull<u8>, len: usize) -> core::result::Result<(), ArenaError> {
        // SAFETY: the arena passes ranges of its own mappings.
        unsafe { sys::populate(start, len) }.map_err(|_| ArenaError::NoMemory)
    }

    fn unback(&self, start: NonNull<u8>, len: usize) {
        // SAFETY: as above; the arena has made sure that nobody uses it.
        unsafe { sys::remove(start, len) };
    }

    #[inline(always)]
    fn tid(&self) -> u32 {
        self.tls.tid.load(Relaxed)
    }

    #[inline(always)]
    fn arm(&self, word: &AtomicU32) {
        // SAFETY: the head is this thread's own.
        let before = unsafe { sys::robust::arm(self.tls.head.load(Relaxed) as *mut _, word) };
        self.tls.pending.store(before, Relaxed);
    }

    #[inline(always)]
    fn disarm(&self) {
        // SAFETY: as in `arm`.
        unsafe { sys::robust::disarm(self.tls.head.load(Relaxed) as *mut _, self.tls.pending.load(Relaxed)) };
    }

    fn lock_wait(&self, word: &AtomicU32, value: u32, rounds: u32, _offset: u64) {
        // How it ended does not matter: the word is looked at again.
        let _ = sys::futex_wait(word, value, 10_000_000);
        if rounds > 0 && !self.help_itself() {
            attach::ring(self, namespace::ASK_STALLED);
        }
    }

    fn wake(&self, word: &AtomicU32, count: u32) {
        sys::futex_wake(word, count);
    }

    fn cpu(&self) -> u32 {
        // SAFETY: no arguments. It can't fail; if it did, the number would be one that no CPU has.
        unsafe { sched_getcpu() }.cast_unsigned()
    }

    fn process_dead(&self, pid: u32, _start: u64) -> bool {
        sys::has_ended(pid)
    }

    fn thread_dead(&self, tid: u32) -> bool {
        !sys::thread_exists(tid)
    }

    fn trim_wanted(&self) {
        attach::ring(self, namespace::ASK_TRIM);
    }
}

impl Task for LinuxHost {
    #[inline(always)]
    fn tgid(&self) -> u32 {
        self.tls.pid.load(Relaxed)
    }

    #[inline(always)]
    fn process(&self) -> Handle {
        Handle(self.tls.process.load(Relaxed))
    }

    #[inline(always)]
    fn cred(&self) -> Cred {
        let (owner, initial) = attach::ownership();
        self.tls.cred(owner, initial)
    }

    fn in_group(&self, gid: u32) -> bool {
        sys::in_group(gid)
    }

    #[inline(always)]
    fn now(&self) -> i64 {
        // SAFETY: a null place is allowed.
        unsafe { time(core::ptr::null_mut()) }
    }

    fn clock_ns(&self, clock: Clock) -> u64 {
        sys::clock_ns(clock)
    }

    #[inline(always)]
    fn copy_from_user(&self, to: SharedBytes<'_>, from: u64) -> Result<()> {
        // SAFETY: `to` is mapped for its length.
        unsafe { self.copy(to.start().as_ptr(), from as *const u8, to.len()) }
    }

    #[inline(always)]
    fn copy_to_user(&self, to: u64, from: SharedBytes<'_>) -> Result<()> {
        // SAFETY: `from` is mapped for its length.
        unsafe { self.copy(to as *mut u8, from.start().as_ptr(), from.len()) }
    }

    #[inline(always)]
    fn put_user<P: Plain>(&self, to: u64, value: &P) -> Result<()> {
        // SAFETY: `value` is ours, and plain: all of its bytes may be read.
        unsafe { self.copy(to as *mut u8, core::ptr::from_ref(value).cast(), size_of::<P>()) }
    }

    #[inline(always)]
    fn get_user<P: Plain>(&self, from: u64) -> Result<P> {
        let mut value = P::default();
        // SAFETY: `value` is ours, and plain: any bytes are a value of it.
        unsafe { self.copy(core::ptr::from_mut(&mut value).cast(), from as *const u8, size_of::<P>()) }?;
        Ok(value)
    }
}
