//! What the arena needs of the world.

use core::ptr::NonNull;

use crate::{ArenaError, sync::AtomicU32};

/// The system under the arena: mapping, memory, identity, sleep. A client process implements it with system calls,
/// a simulator without.
///
/// # Safety
/// [`Host::map_extent`] must return memory that is valid for reads and writes for as long as the [`crate::Arena`]
/// lives, of the extent's whole size, aligned to a page.
pub unsafe trait Host {
    /// Maps extent `index` of the arena's file and returns its start.
    fn map_extent(&self, index: u32) -> Result<NonNull<u8>, ArenaError>;
    /// Another thread has mapped the extent at the same time, and nobody uses this mapping.
    fn unmap_spare(&self, _index: u32, _start: NonNull<u8>) {}
    /// Puts memory under a mapped range, so that no later access can fail for lack of it.
    fn back(&self, start: NonNull<u8>, len: usize) -> Result<(), ArenaError>;
    /// Gives the memory under a mapped range back; it reads as zeros afterwards.
    fn unback(&self, start: NonNull<u8>, len: usize);
    /// The calling thread's id, below 2^30: what the kernel compares lock words with.
    fn tid(&self) -> u32;
    /// Announces that the thread is about to take the lock, or still holds it: should it die, the word is marked.
    fn arm(&self, word: &AtomicU32);
    /// Takes the announcement back.
    fn disarm(&self);
    /// Sleeps while `word` is `value`, at most about 10 ms. `rounds` counts the sleeps for this lock so far:
    /// the host may ask for help. `offset` is the lock's place in the arena.
    fn lock_wait(&self, word: &AtomicU32, value: u32, rounds: u32, offset: u64);
    /// Wakes up to `count` sleepers on the word.
    fn wake(&self, word: &AtomicU32, count: u32);
    /// The CPU that the calling thread runs on, for sleepers that wait awake. Any number will do where nobody does.
    fn cpu(&self) -> u32 {
        0
    }
    /// The thread is between two stores whose order matters to others: it may be made to wait here, or never come back, as if it had died. A
    /// simulator does so; to all others it is nothing.
    #[inline(always)]
    fn step(&self) {}
    /// Whether the process is known to have ended; `start` is when it began, as the broker recorded it.
    fn process_dead(&self, pid: u32, start: u64) -> bool;
    /// Whether the thread of the calling process is known to have ended.
    fn thread_dead(&self, tid: u32) -> bool;
    /// Memory could be given back: somebody with time for it should look.
    fn trim_wanted(&self);
}
