//! What the arena keeps for each thread and each process that uses it.
//!
//! A thread slot holds all that a thread has in its hands, so that a survivor can put it right when the thread dies:
//! its undo log, the lock it may hold, blocks that are allocated and not yet linked, wake-ups that are owed, and
//! the waiter it sleeps on. It is claimed with one compare-and-swap that names its owner; spans of slots are added
//! by the broker. A process slot is one page, whose liveness word the kernel marks when the process dies.
//!
//! Only the owner writes a slot (but for the waiter, see there), and after its death whoever reaps it.

use crate::{
    Bell, Handle, Waiter,
    sync::{AtomicI32, AtomicU32, AtomicU64, Ordering::*},
};

/// Entries of the undo log that lie in the slot itself.
pub(crate) const LOG_INLINE: usize = 112;
/// Blocks that can extend the log.
pub(crate) const LOG_EXTENTS: usize = 16;
/// Wake-ups a thread can owe at a time.
pub(crate) const WAKES: usize = 32;
/// Size classes with a magazine.
pub(crate) const MAGAZINES: usize = 7;
/// Blocks of a magazine. Where one process only sends and another only receives, each has to go to the class every half a magazine.
pub(crate) const MAGAZINE: usize = 32;

crate::shared! {
    /// Free blocks of one size class that a thread keeps for itself.
    pub struct Magazine {
        pub(crate) count: AtomicU32,
        pub(crate) items: [AtomicU32; MAGAZINE],
    }

    /// What a thread has in its hands and no object owns.
    pub struct InFlight {
        /// A block just taken from a magazine.
        pub taking: AtomicU32,
        /// Head of a chain of blocks, linked by their first word.
        pub chain: AtomicU32,
        /// A span between the pool and a class, as its number.
        pub(crate) span: AtomicU32,
        /// An object whose removal this thread has begun: its handle.
        pub doomed: AtomicU32,
        /// Of which class of objects that is.
        pub doomed_class: AtomicU32,
    }

    /// A thread of a client.
    pub struct ThreadSlot {
        /// Owner: the process slot's handle and the thread's id. 0: free.
        pub(crate) owner: AtomicU64,
        unused_link: AtomicU32,
        unused_word: AtomicU32,
        /// Offset of the lock it holds or took last.
        pub(crate) locked: AtomicU64,
        /// Entries in the log (low half); number of the wake to publish, plus one (high half).
        pub(crate) log_head: AtomicU64,
        /// The lock it has been waiting for for too long: its offset, 0 if none.
        pub stalled: AtomicU64,
        /// What nobody else owns.
        pub in_flight: InFlight,
        pub(crate) wake_count: AtomicU32,
        /// The sleep of the thread's present operation.
        pub waiter: Waiter,
        /// Where its own process finds what the thread is doing: an address there.
        pub pthread: AtomicU64,
        /// The call that it makes for somebody who asks later what came of it, should this process be killed: the caller's process slot in the high half
        /// and thread in the low one. 0: none.
        pub caller: AtomicU64,
        /// That call's number.
        pub call: AtomicU64,
        /// What came of it: one of `CALL_...` in the low half; the message that it has taken in the high one.
        pub came: AtomicU64,
        pub(crate) wakes: [AtomicU64; WAKES],
        pub(crate) log_ext: [AtomicU32; LOG_EXTENTS],
        pub(crate) magazines: [Magazine; MAGAZINES],
        pad: AtomicU32,
        pub(crate) log: [AtomicU64; 2 * LOG_INLINE],
        /// For the sleepers whom the thread serves.
        pub bell: Bell,
    }
}
#[cfg(not(any(loom, shuttle)))]
const _: () = assert!(size_of::<ThreadSlot>() <= 4096);
#[cfg(not(any(loom, shuttle)))]
const _: () = assert!(core::mem::offset_of!(ThreadSlot, waiter) % 64 == 0);

impl Magazine {
    pub(crate) fn holds(&self, block: Handle) -> bool {
        let count = (self.count.load(Relaxed) as usize).min(MAGAZINE);
        self.items.iter().take(count).any(|i| i.load(Relaxed) == block.0)
    }
}

impl ThreadSlot {
    /// The process slot and thread id of the owner, if there is one.
    pub fn owner(&self) -> Option<(Handle, u32)> {
        let owner = self.owner.load(Acquire);
        #[expect(clippy::cast_possible_truncation, reason = "the low half")]
        (owner != 0).then_some((Handle((owner >> 32) as u32), owner as u32))
    }

    pub(crate) fn claim(&self, process: Handle, tid: u32) -> bool {
        let owner = (u64::from(process.0) << 32) | u64::from(tid);
        self.owner.compare_exchange(0, owner, AcqRel, Relaxed).is_ok()
    }

    /// A dead thread's slot becomes another thread's of the same process.
    pub(crate) fn take_over(&self, process: Handle, dead: u32, tid: u32) -> bool {
        let owner = |tid| (u64::from(process.0) << 32) | u64::from(tid);
        self.owner.compare_exchange(owner(dead), owner(tid), AcqRel, Relaxed).is_ok()
    }

    pub(crate) fn release(&self) {
        self.owner.store(0, Release);
    }
}

/// What came of a call: nothing yet.
pub const CALL_BEGUN: u64 = 0;
/// What came of a call: it has done what it was to do. Stored as one change with that.
pub const CALL_DONE: u64 = 1;
/// What came of a call: it has failed with the error in the upper half.
pub const CALL_FAILED: u64 = 3;
/// What came of a call: a message, if one is named with this or was given to the thread's sleep.
pub const CALL_RECEIVES: u64 = 2;

/// Bytes of a process slot: one page, mapped on its own.
pub const PROC_SLOT_SIZE: usize = 4096;
/// Where in the page the liveness word lies: 24 bytes before its end, where glibc's robust list wants it for a
/// list node at the beginning of the next page.
pub const LIVENESS_OFFSET: usize = PROC_SLOT_SIZE - 24;
/// Segments of which a process slot can say that they are attached.
pub const ATTACHED: usize = 496;
/// State of a process slot: nobody's.
pub const SLOT_FREE: u32 = 0;
/// State of a process slot: of a living process, for all that is known.
pub const SLOT_LIVE: u32 = 1;
/// State of a process slot: the process has ended, and is being put right.
pub const SLOT_DEAD: u32 = 2;

crate::shared! {
    /// A process.
    pub struct ProcSlot {
        /// `SLOT_FREE`, `SLOT_LIVE` or `SLOT_DEAD`.
        pub state: AtomicU32,
        /// Process id.
        pub pid: AtomicU32,
        unused_link: AtomicU32,
        /// Whether it ever had undo adjustments.
        pub has_undo: AtomicU32,
        /// When the process began, in the unit of /proc/PID/stat.
        pub start: AtomicU64,
        /// What it has attached of segments: an identifier plus one in the high half, how often in the low one. Entries
        /// are changed by compare-and-swap; 0 is a free one.
        pub attached: [AtomicU64; ATTACHED],
        /// Whether it ever attached more than there is room for.
        pub attached_more: AtomicU32,
        /// Whether it ever made a segment.
        pub made_segments: AtomicU32,
        /// Whether it has gone to another namespace, with what it has attached.
        pub left: AtomicU32,
        unused_word: AtomicU32,
        pad: [AtomicU64; (LIVENESS_OFFSET - 40) / 8 - ATTACHED],
        /// The registering thread's id; `OWNER_DIED` when it has ended.
        pub liveness: AtomicU32,
        pad2: [AtomicI32; 3],
        /// The first thread's id, if it has made calls; `OWNER_DIED` when it has ended, as by an exec of another thread's, which goes on with its id.
        pub first: AtomicU32,
        pad3: AtomicI32,
    }
}
#[cfg(not(any(loom, shuttle)))]
const _: () = assert!(size_of::<ProcSlot>() == PROC_SLOT_SIZE);
#[cfg(not(any(loom, shuttle)))]
const _: () = assert!(core::mem::offset_of!(ProcSlot, liveness) == LIVENESS_OFFSET);

impl ProcSlot {
    /// Marks the process in the kernel's place, which is not to do it.
    pub fn mark(&self) {
        self.liveness.fetch_or(crate::lock::OWNER_DIED, Release);
    }

    /// Whether the kernel has marked an end: of the process, of the registering or the first thread, or an exec. One that the registering thread itself
    /// has made, not being the first one, is marked for the first one only, whose id it has by then.
    pub fn marked(&self) -> bool {
        (self.liveness.load(Acquire) | self.first.load(Acquire)) & crate::lock::OWNER_DIED != 0
    }

    /// Whether the kernel has marked the end of the registering thread.
    pub fn registrar_ended(&self) -> bool {
        self.liveness.load(Acquire) & crate::lock::OWNER_DIED != 0
    }

    /// Whether the kernel has marked the end of the first thread, or of the program that it was in.
    pub fn first_ended(&self) -> bool {
        self.first.load(Acquire) & crate::lock::OWNER_DIED != 0
    }
}
