//! A lock whose holder may die at any instruction.
//!
//! The word holds the owner's thread id, as the kernel's robust futexes want it: when a thread dies that has
//! announced the lock ([`Host::arm`]), the kernel replaces its id by `OWNER_DIED` and wakes a waiter. The second word
//! names the holder's thread slot, where its undo log lies; it is cleared before the lock is released, so a holder
//! found by the next owner means unfinished work, whether or not `OWNER_DIED` was seen.
//!
//! Ordering: acquired with `Acquire`, released with `Release`.

use crate::{
    Handle, Host,
    sync::{AtomicU32, Ordering::*, ordered},
};

pub(crate) const TID_MASK: u32 = 0x3fff_ffff;
pub(crate) const WAITERS: u32 = 0x8000_0000;
/// Set by the kernel (or the broker) in place of a dead owner's id.
pub(crate) const OWNER_DIED: u32 = 0x4000_0000;
/// The longest pause before a last look and sleep, in turns of a spin: pauses grow up to it, to some microseconds in all.
const SPINS: u32 = if cfg!(any(loom, shuttle)) { 0 } else { 60 };

crate::shared! {
    /// A crash-proof lock in the arena. All zeros: free.
    pub struct Lock {
        word: AtomicU32,
        holder: AtomicU32,
    }
}

impl Default for Lock {
    fn default() -> Self {
        Self::new()
    }
}

impl Lock {
    /// A free lock.
    #[cfg(not(any(loom, shuttle)))]
    pub const fn new() -> Lock {
        Lock { word: AtomicU32::new(0), holder: AtomicU32::new(0) }
    }

    /// A free lock.
    #[cfg(any(loom, shuttle))]
    pub fn new() -> Lock {
        Lock { word: AtomicU32::new(0), holder: AtomicU32::new(0) }
    }

    /// Takes the lock for `slot`. Returns the slot whose unfinished work must be undone first, if there is any.
    #[inline(always)]
    pub fn acquire<H: Host>(&self, host: &H, offset: u64) -> Option<Handle> {
        host.arm(&self.word);
        ordered(host);
        if self.word.compare_exchange(0, host.tid(), Acquire, Relaxed).is_err() {
            self.acquire_slow(host, offset);
        }
        Handle(self.holder.load(Relaxed)).some()
    }

    #[cold]
    #[inline(never)]
    fn acquire_slow<H: Host>(&self, host: &H, offset: u64) {
        let tid = host.tid();
        let mut sticky = 0;
        let mut rounds = 0;
        let mut spins = 0;
        loop {
            let seen = self.word.load(Relaxed);
            // Our own id: the thread left an operation without ending it (a longjmp that nobody saw).
            if seen & TID_MASK == 0 || seen & TID_MASK == tid {
                let mine = tid | (seen & WAITERS) | sticky;
                if self.word.compare_exchange(seen, mine, Acquire, Relaxed).is_ok() {
                    return;
                }
                continue;
            }
            if spins < SPINS {
                // Twice as long each time: the lock's line stays with its holder, who gets more done.
                spins = 2 * spins + 1;
                (0..spins).for_each(|_| core::hint::spin_loop());
                continue;
            }
            if seen & WAITERS == 0
                && self.word.compare_exchange(seen, seen | WAITERS, Relaxed, Relaxed).is_err()
            {
                continue;
            }
            host.lock_wait(&self.word, seen | WAITERS, rounds, offset);
            rounds = rounds.saturating_add(1);
            // Others may sleep too: whoever slept hands the duty to wake on.
            sticky = WAITERS;
        }
    }

    /// Names the slot whose log covers the changes to come.
    #[inline(always)]
    pub fn set_holder<H: Host>(&self, host: &H, slot: Handle) {
        self.holder.store(slot.0, Relaxed);
        ordered(host);
    }

    /// Releases the lock; the holder's log is empty.
    #[inline(always)]
    pub fn release<H: Host>(&self, host: &H) {
        ordered(host);
        self.holder.store(0, Relaxed);
        let old = self.word.swap(0, Release);
        if old & WAITERS != 0 {
            host.wake(&self.word, 1);
        }
        ordered(host);
        host.disarm();
    }

    /// Keeps everybody out of a free lock, with an id that nobody has; false if somebody holds it.
    pub(crate) fn close<H: Host>(&self, _host: &H) -> bool {
        self.word.compare_exchange(0, TID_MASK, Acquire, Relaxed).is_ok()
    }

    /// Opens a lock that was closed.
    pub(crate) fn open<H: Host>(&self, host: &H) {
        if self.word.load(Relaxed) & TID_MASK == TID_MASK {
            self.word.store(0, Release);
            host.wake(&self.word, u32::MAX);
        }
    }

    /// The owner's thread id, 0 if free or marked dead.
    pub fn owner(&self) -> u32 {
        self.word.load(Relaxed) & TID_MASK
    }

    /// Marks the lock as the kernel would if `tid` had died with it, and wakes a waiter. For deaths that the
    /// kernel did not see, found by the broker. Returns whether it was still `tid`'s.
    pub fn declare_dead<H: Host>(&self, host: &H, tid: u32) -> bool {
        let mut seen = self.word.load(Relaxed);
        while seen & TID_MASK == tid && tid != 0 {
            // Fails if a waiter announces itself meanwhile.
            match self.word.compare_exchange(seen, seen & WAITERS | OWNER_DIED, AcqRel, Relaxed) {
                Ok(_) => {
                    host.wake(&self.word, 1);
                    return true;
                }
                Err(now) => seen = now,
            }
        }
        false
    }
}
