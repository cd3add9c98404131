//! Position-independent, crash-proof memory: one file, mapped by every process of a namespace.
//!
//! What users of the crate see: blocks, named by [`Handle`]s (never by pointers), reached through [`Arena::at`],
//! allocated and freed through a [`Ctx`]; [`Lock`]s that survive the death of their holder; [`Tx`]s, whose
//! changes happen wholly or not at all; [`Waiter`]s, on which a task sleeps until another completes it.
//!
//! What is missing: nothing is moved or compacted; a block is at most 64 KiB.
//!
//! The crate makes no system call: parking, waking, mapping and identity are a [`Host`]'s.
//!
//! # Which lock guards what
//! A task holds at most one lock at a time. A slab class has a lock (its spans' free lists), the span pool has
//! one, the table of tasks has one; all other locks belong to the objects of the layers above.
//!
//! # Memory ordering
//! A lock's acquisition is `Acquire`, its release `Release`; everything it guards is then read and written
//! `Relaxed`. The undo log relies on x86-64's total store order and on a dead task's stores being visible in program
//! order; [`sync::ordered`] keeps the compiler from reordering them.
//!
//! # Safety
//! Shared memory is input. Every handle, index and length that is read from it is checked before use; a `&T` into
//! it is only ever to a [`Shared`] type, which consists of atomics and is valid for any bytes.
#![no_std]

#[cfg(test)]
extern crate std;

mod bell;
mod ctx;
mod handle;
mod host;
mod journal;
mod lock;
mod map;
mod slab;
mod slots;
pub mod sync;
mod waitq;
mod walk;

pub use bell::{Bell, PLACES};
pub use ctx::Ctx;
pub use handle::Handle;
pub use host::Host;
pub use journal::{Tx, Word};
pub use lock::Lock;
pub use map::{Arena, EXTENT_SHIFT, FIRST_EXTENT, MAX_EXTENTS, ROOT_MAX, Ref, Shared, SharedBytes};
pub use slab::{Class, OBJECT_LOCK, SPAN, Usage};
pub use slots::{
    ATTACHED, CALL_BEGUN, CALL_DONE, CALL_FAILED, CALL_RECEIVES, InFlight, LIVENESS_OFFSET, PROC_SLOT_SIZE,
    ProcSlot, SLOT_DEAD, SLOT_FREE, SLOT_LIVE, ThreadSlot,
};
pub use waitq::{Phase, Waiter};

/// Why an operation on the arena failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArenaError {
    /// No memory could be had, or no address space to map it.
    NoMemory,
    /// The arena is as large as it may become.
    Full,
    /// Something read from shared memory is out of its range.
    Corrupt,
}

/// The arena's result.
pub type Result<T> = core::result::Result<T, ArenaError>;

/// Version of the layout of shared memory: a client with another one must not map it.
pub const LAYOUT_VERSION: u32 = 10;
