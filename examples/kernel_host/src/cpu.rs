//! What the arena and the engine ask of a system, answered without one.
//!
//! # Safety
//! A run looks at its machine and its process by address, so that it can be given up without counting down what it holds: the machine gives up
//! a process's runs before the process, and all before itself.
//! A word that is armed lies in an extent. Extents are allocated whole and zeroed, with room to align them to a page, and freed with the machine. Copies have one side in an
//! extent, by the length that the arena has checked, and the other in a buffer of their own. A [`Plain`] structure has
//! no padding, and any bytes are a value of it.
#![expect(
    unsafe_code,
    reason = "the arena wants memory, and its bytes are reached by address; a run is not dropped"
)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ptr::NonNull;
use std::rc::{Rc, Weak};
use std::slice;

use abi::{Errno, Plain, Result, mqueue, time::Clock};
use arena::{
    Arena, ArenaError, Ctx, Handle, Host, SharedBytes,
    sync::{AtomicU32, Ordering::Relaxed},
};
use engine::{Backing, Cred, Descriptors, MapRequest, Mqd, NewMemory, Notice, Task, shm, util::arena_errno};

use crate::address_space::Gone;
use crate::machine::{Doing, Process, Tid};
use crate::run::{Halt, Runs, Slice, Turn};
use crate::schedule::{Schedule, Step};
use crate::segment::Segment;
use crate::{Memory, PAGE};

/// When a machine is started, seconds after 1970.
const EPOCH: u64 = 1_800_000_000 * 1_000_000_000;

/// Who a process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Real user.
    pub uid: u32,
    /// Effective user.
    pub euid: u32,
    /// Effective group.
    pub egid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Effective capabilities, as bits.
    pub capabilities: u64,
}

impl Default for Credentials {
    fn default() -> Self {
        Credentials::new(0, 0, Vec::new())
    }
}

impl Credentials {
    /// A user, who is really root, with what it has by itself: root all capabilities, others none.
    pub fn new(euid: u32, egid: u32, groups: Vec<u32>) -> Self {
        Credentials { uid: 0, euid, egid, groups, capabilities: if euid == 0 { u64::MAX } else { 0 } }
    }
}

/// What all tasks of a machine share.
#[derive(Default)]
pub(crate) struct Hardware {
    pub(crate) arena: Arena,
    extents: RefCell<Vec<(NonNull<u8>, Layout)>>,
    /// Nanoseconds since the machine was started.
    pub(crate) clock: Cell<u64>,
    /// How far the clock of the day has been set from where it was.
    pub(crate) set_by: Cell<i64>,
    /// Words that somebody was woken on, and has not been looked at since.
    pub(crate) woken: RefCell<Vec<usize>>,
    /// Processes and threads that have not ended.
    pub(crate) alive: RefCell<BTreeSet<u32>>,
    /// All open POSIX queues.
    pub(crate) open: RefCell<Vec<Weak<Description>>>,
    /// Signals of notifications that are on their way.
    pub(crate) notices: RefCell<Vec<Notice>>,
    /// The memory of all segments, by its number.
    pub(crate) segments: RefCell<BTreeMap<u64, Rc<Segment>>>,
    /// How many there have been.
    segments_made: Cell<u64>,
    /// A queue without a name was left because somebody holds it.
    pub(crate) unlinked_watched: Cell<bool>,
    /// Free memory has been announced.
    pub(crate) trim_wanted: Cell<bool>,
    /// Whether root may exceed limits.
    sys_resource: bool,
    pub(crate) schedule: Schedule,
    pub(crate) runs: Runs,
    /// Locks that threads hold, or are about to: what a kernel reads in their robust lists.
    armed: RefCell<BTreeMap<Tid, NonNull<AtomicU32>>>,
    /// Threads whose calls came to something that the machine has not seen yet.
    pub(crate) over: RefCell<Vec<(Tid, Doing)>>,
    /// Threads that were killed at a step, and are not buried.
    pub(crate) killed: RefCell<Vec<Tid>>,
}

/// The bits of a robust futex, as the kernel has them.
const FUTEX_TID_MASK: u32 = 0x3fff_ffff;
const FUTEX_WAITERS: u32 = 0x8000_0000;
const FUTEX_OWNER_DIED: u32 = 0x4000_0000;

impl Hardware {
    pub(crate) fn new(sys_resource: bool, schedule: Schedule) -> Hardware {
        let mut hardware = Hardware::default();
        (hardware.sys_resource, hardware.schedule) = (sys_resource, schedule);
        hardware
    }

    pub(crate) fn clock_ns(&self, clock: Clock) -> u64 {
        let since_start = self.clock.get();
        match clock {
            Clock::Monotonic => since_start,
            Clock::Realtime => (EPOCH + since_start).saturating_add_signed(self.set_by.get()),
        }
    }

    /// Lets a thread's call go on until it is over, or has to wait.
    pub(crate) fn slice(&self, tid: Tid) {
        match self.runs.slice(tid) {
            Some(Slice::Over(doing)) => self.over.borrow_mut().push((tid, doing)),
            Some(Slice::Killed) => {
                self.end(tid);
                self.killed.borrow_mut().push(tid);
            }
            Some(Slice::Paused) | None => {}
        }
    }

    /// Lets one of the calls that have to wait go on; false if there is none.
    pub(crate) fn slice_of_any(&self) -> bool {
        let tids = self.runs.tids();
        let Some(tid) = tids.get(self.schedule.choose(tids.len())) else { return false };
        self.slice(*tid);
        true
    }

    /// The thread is no more, wherever it was: the lock that it holds is marked, as the kernel does, and who waits for it will look.
    pub(crate) fn end(&self, tid: Tid) {
        self.runs.drop_run(tid);
        self.alive.borrow_mut().remove(&tid);
        let Some(word) = self.armed.borrow_mut().remove(&tid) else { return };
        // SAFETY: it was armed by reference, and lies in an extent.
        let word = unsafe { word.as_ref() };
        let seen = word.load(Relaxed);
        if seen & FUTEX_TID_MASK == tid {
            word.store(seen & FUTEX_WAITERS | FUTEX_OWNER_DIED, Relaxed);
        }
    }
}

impl Drop for Hardware {
    fn drop(&mut self) {
        for (start, layout) in self.extents.get_mut().drain(..) {
            // SAFETY: allocated with this layout by `map_extent`; the arena is not used without its hardware.
            unsafe { dealloc(start.as_ptr(), layout) };
        }
    }
}

/// A task that runs just now.
pub(crate) struct Cpu<'m, M> {
    pub(crate) hardware: &'m Hardware,
    pub(crate) tid: u32,
    pub(crate) pid: u32,
    /// The process's slot in the arena.
    pub(crate) slot: Handle,
    /// Who and what its process is.
    pub(crate) process: &'m Process<M>,
    /// Where it hands its turn back in the middle of a call; none for what the machine does itself.
    pub(crate) turn: Option<&'m Turn>,
}

/// What a run keeps of the task that makes the call.
pub(crate) struct Caller<M> {
    hardware: *const Hardware,
    tid: u32,
    pid: u32,
    slot: Handle,
    process: *const Process<M>,
}

impl<M: Memory> Caller<M> {
    /// The task, on a stack whose turn is `turn`. To be called by a run only.
    pub(crate) fn cpu<'m>(&'m self, turn: &'m Turn) -> Cpu<'m, M> {
        // SAFETY: see the file's head.
        let (hardware, process) = unsafe { (&*self.hardware, &*self.process) };
        Cpu { hardware, tid: self.tid, pid: self.pid, slot: self.slot, process, turn: Some(turn) }
    }
}

impl<M: Memory> Cpu<'_, M> {
    pub(crate) fn caller(&self) -> Caller<M> {
        let Cpu { hardware, tid, pid, slot, process, .. } = *self;
        Caller { hardware, tid, pid, slot, process }
    }

    /// Runs an operation as this task.
    pub(crate) fn run<R>(&self, operation: impl FnOnce(&Ctx<'_, Self>) -> Result<R>) -> Result<R> {
        operation(&Ctx::new(&self.hardware.arena, self, self.slot).map_err(arena_errno)?)
    }
}

/// An open POSIX queue.
pub(crate) struct Description {
    mqd: Mqd,
    pub(crate) nonblock: Cell<bool>,
}

/// A process's descriptors, all of POSIX queues.
pub(crate) type Files = BTreeMap<i32, Rc<Description>>;

/// Descriptors below it are taken.
pub const FIRST_FILE: i32 = 3;
/// Descriptors that a process can have.
const FILES_MAX: i32 = 1024;
/// How often a lock is looked at before it is a mistake that it is not free.
const LOCK_ROUNDS: u32 = 100_000;
/// `RLIMIT_MSGQUEUE`, bytes.
const MSGQUEUE_LIMIT: u64 = 819_200;

// SAFETY: each extent is an allocation of its full size, aligned to a page, that lives as long as the machine.
unsafe impl<M: Memory> Host for Cpu<'_, M> {
    fn map_extent(&self, index: u32) -> core::result::Result<NonNull<u8>, ArenaError> {
        let len = usize::try_from(Arena::extent_len(index)).map_err(|_| ArenaError::NoMemory)?;
        // Aligned by hand: only what is not aligned may come from the system as zeros, which cost nothing until they are used.
        let layout = Layout::array::<u8>(len + PAGE).map_err(|_| ArenaError::NoMemory)?;
        // SAFETY: the size is not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(ArenaError::NoMemory)?;
        self.hardware.extents.borrow_mut().push((start, layout));
        // SAFETY: less than a page, by which the memory is longer.
        Ok(unsafe { start.add(start.align_offset(PAGE)) })
    }

    fn back(&self, _start: NonNull<u8>, _len: usize) -> core::result::Result<(), ArenaError> {
        // Ordinary memory is there.
        Ok(())
    }

    fn unback(&self, start: NonNull<u8>, len: usize) {
        // SAFETY: a range of an extent, which the arena has made sure that nobody uses.
        unsafe { start.write_bytes(0, len) };
    }

    fn tid(&self) -> u32 {
        self.tid
    }

    fn arm(&self, word: &AtomicU32) {
        self.hardware.armed.borrow_mut().insert(self.tid, NonNull::from(word));
    }

    fn disarm(&self) {
        self.hardware.armed.borrow_mut().remove(&self.tid);
    }

    fn lock_wait(&self, _word: &AtomicU32, _value: u32, rounds: u32, offset: u64) {
        // Whoever holds it has to wait at a step, and will have its turn.
        assert!(rounds < LOCK_ROUNDS, "the lock at {offset:#x} was left behind by a call that is over");
        match self.turn {
            Some(turn) => turn.suspend(Halt::Paused),
            None => _ = self.hardware.slice_of_any(),
        }
    }

    fn step(&self) {
        match (self.hardware.schedule.step(), self.turn) {
            (Step::GoOn, _) => {}
            (Step::Pause, Some(turn)) => turn.suspend(Halt::Paused),
            (Step::Kill, Some(turn)) => turn.suspend(Halt::Killed),
            // The machine itself does not die; but others may come in between.
            (_, None) => _ = self.hardware.slice_of_any(),
        }
    }

    fn wake(&self, word: &AtomicU32, _count: u32) {
        self.hardware.woken.borrow_mut().push(std::ptr::from_ref(word).addr());
    }

    fn process_dead(&self, pid: u32, _start: u64) -> bool {
        !self.hardware.alive.borrow().contains(&pid)
    }

    fn thread_dead(&self, tid: u32) -> bool {
        !self.hardware.alive.borrow().contains(&tid)
    }

    fn trim_wanted(&self) {
        self.hardware.trim_wanted.set(true);
    }
}

impl<M: Memory> Cpu<'_, M> {
    fn segment(&self, memory: u64) -> Option<Rc<Segment>> {
        self.hardware.segments.borrow().get(&memory).cloned()
    }

    /// In how many areas of all processes a segment is mapped.
    fn mappings(&self, memory: u64) -> u64 {
        self.hardware.segments.borrow().get(&memory).map_or(0, Segment::mappings)
    }

    fn next_gone(&self) -> Option<Gone> {
        self.process.gone.borrow_mut().pop()
    }

    /// Says what of the process's attachments is gone.
    pub(crate) fn tell_gone(&self, mut told: impl FnMut(i32, bool)) {
        while let Some(Gone { id, whole }) = self.next_gone() {
            told(id, whole);
        }
    }
}

/// The machine keeps the memory, and knows at any time who has it mapped: whoever unmaps something tells the engine at once, and what was mapped by who dies
/// is looked at then.
impl<M: Memory> Backing for Cpu<'_, M> {
    fn make_memory(&self, wanted: NewMemory, named: impl FnOnce(u64) -> Handle) -> Result<()> {
        Segment::possible(wanted, &self.cred(), self.memlock_limit())?;
        let memory = self.hardware.segments_made.get() + 1;
        self.hardware.segments_made.set(memory);
        let segment = Rc::new(Segment::new(wanted.size, named(memory), self.tid));
        self.hardware.segments.borrow_mut().insert(memory, segment);
        Ok(())
    }

    fn map_memory(&self, wanted: &MapRequest, replaced: impl FnMut(i32, bool)) -> Result<u64> {
        let at = {
            let segments = self.hardware.segments.borrow();
            let segment = segments.get(&wanted.memory).filter(|s| !s.is_retired()).ok_or(Errno::EIDRM)?;
            let mut memory = self.process.memory.borrow_mut();
            segment.read_only.set(segment.read_only.get() || !wanted.write);
            memory.space().attach(segment, wanted, &mut self.process.gone.borrow_mut())?
        };
        self.tell_gone(replaced);
        Ok(at)
    }

    fn unmap_memory(&self, addr: u64, _segment_of: impl Fn(u64) -> Option<(i32, u64)>) -> Result<i32> {
        self.process.memory.borrow_mut().space().detach(addr)
    }

    fn drop_memory(&self, memory: u64) {
        self.hardware.segments.borrow_mut().remove(&memory);
    }

    fn retire_memory(&self, memory: u64, read_only: Option<i32>) -> Result<bool> {
        Ok(self.hardware.segments.borrow().get(&memory).is_none_or(|segment| segment.retire(read_only)))
    }

    fn settle(&self, id: Option<i32>) -> Result<(u64, u64)> {
        self.run(|ctx| match id {
            Some(id) => {
                let counting = shm::begin_count(ctx, id)?;
                let count = self.mappings(counting.memory);
                shm::set_nattch(ctx, id, counting, count)?;
                Ok((count, 0))
            }
            None => {
                shm::sweep(ctx)?;
                let segments = self.hardware.segments.borrow();
                Ok((segments.values().map(|segment| segment.resident()).sum(), 0))
            }
        })
    }

    fn memory_usage(&self, memory: u64) -> Result<(u64, u64)> {
        self.segment(memory).map(|segment| (segment.resident(), 0)).ok_or(Errno::EIDRM)
    }

    fn lock_memory(&self, _memory: u64, _lock: bool) -> Result<()> {
        // Nothing is ever swapped out.
        Ok(())
    }

    fn watch_removed(&self) {}

    fn memlock_limit(&self) -> u64 {
        self.process.memlock.get()
    }
}

/// The least number from `from` on that is no descriptor.
pub(crate) fn free_number(files: &Files, from: i32) -> Result<i32> {
    (from.max(FIRST_FILE)..FILES_MAX).find(|fd| !files.contains_key(fd)).ok_or(Errno::EMFILE)
}

impl<M: Memory> Cpu<'_, M> {
    fn file(&self, fd: i32) -> Option<Rc<Description>> {
        self.process.files.borrow().get(&fd).cloned()
    }
}

impl<M: Memory> Descriptors for Cpu<'_, M> {
    fn new_mqd(&self, queue: Handle, oflag: i32) -> Result<i32> {
        let mut files = self.process.files.borrow_mut();
        let fd = free_number(&files, 0)?;
        let mqd = Mqd::opened(queue, oflag);
        let nonblock = Cell::new(oflag & mqueue::O_NONBLOCK != 0);
        let description = Rc::new(Description { mqd, nonblock });
        let mut open = self.hardware.open.borrow_mut();
        open.retain(|open| open.strong_count() > 0);
        open.push(Rc::downgrade(&description));
        files.insert(fd, description);
        Ok(fd)
    }

    fn drop_mqd(&self, fd: i32) {
        self.process.files.borrow_mut().remove(&fd);
    }

    fn mqd(&self, fd: i32) -> Result<Mqd> {
        self.file(fd).map(|file| file.mqd).ok_or(Errno::EBADF)
    }

    fn mqd_nonblock(&self, fd: i32) -> bool {
        self.file(fd).is_some_and(|file| file.nonblock.get())
    }

    fn set_mqd_nonblock(&self, fd: i32, nonblock: bool) {
        if let Some(file) = self.file(fd) {
            file.nonblock.set(nonblock);
        }
    }

    fn queue_held(&self, queue: Handle) -> bool {
        let holds = |open: &Weak<Description>| open.upgrade().is_some_and(|open| open.mqd.queue == queue);
        self.hardware.open.borrow().iter().any(holds)
    }

    fn watch_unlinked(&self) {
        self.hardware.unlinked_watched.set(true);
    }

    fn notify(&self, notice: &Notice) {
        self.hardware.notices.borrow_mut().push(*notice);
    }

    fn notify_socket(&self, fd: i32, _: [u64; 4]) -> Result<()> {
        Err(if self.file(fd).is_some() { Errno::ENOTSOCK } else { Errno::EBADF })
    }

    fn msgqueue_limit(&self) -> u64 {
        MSGQUEUE_LIMIT
    }

    fn umask(&self) -> u32 {
        self.process.umask.get()
    }
}

impl<M: Memory> Task for Cpu<'_, M> {
    fn tgid(&self) -> u32 {
        self.pid
    }

    fn process(&self) -> Handle {
        self.process.slot
    }

    fn cred(&self) -> Cred {
        let Credentials { uid, euid, egid, capabilities, .. } = *self.process.credentials.borrow();
        let has = |capability: u32| capabilities >> capability & 1 != 0;
        Cred {
            uid,
            euid,
            egid,
            fsuid: euid,
            fsgid: egid,
            ipc_owner: has(15),
            sys_admin: has(21),
            checkpoint_restore: has(21) || has(40),
            ipc_lock: has(14),
            dac_override: has(1),
            dac_read_search: has(2),
            fowner: has(3),
            sys_resource: has(24) && self.hardware.sys_resource,
        }
    }

    fn in_group(&self, gid: u32) -> bool {
        self.process.credentials.borrow().groups.contains(&gid)
    }

    fn now(&self) -> i64 {
        (self.clock_ns(Clock::Realtime) / 1_000_000_000).cast_signed()
    }

    fn clock_ns(&self, clock: Clock) -> u64 {
        self.hardware.clock_ns(clock)
    }

    fn copy_from_user(&self, to: SharedBytes<'_>, from: u64) -> Result<()> {
        let mut bytes = vec![0; to.len()];
        self.process.memory.borrow().read(from, &mut bytes)?;
        // SAFETY: `to` is in an extent for its whole length, and the buffer is no extent.
        unsafe { to.start().copy_from_nonoverlapping(NonNull::from(&bytes[..]).cast(), to.len()) };
        Ok(())
    }

    fn copy_to_user(&self, to: u64, from: SharedBytes<'_>) -> Result<()> {
        let mut bytes = vec![0; from.len()];
        // SAFETY: as above, the other way round.
        unsafe { NonNull::from(&mut bytes[..]).cast().copy_from_nonoverlapping(from.start(), from.len()) };
        self.process.memory.borrow_mut().write(to, &bytes)
    }

    fn put_user<P: Plain>(&self, to: u64, value: &P) -> Result<()> {
        // SAFETY: the structure's own bytes, all of which are numbers.
        let bytes = unsafe { slice::from_raw_parts(std::ptr::from_ref(value).cast::<u8>(), size_of::<P>()) };
        self.process.memory.borrow_mut().write(to, bytes)
    }

    fn get_user<P: Plain>(&self, from: u64) -> Result<P> {
        let mut value = P::default();
        // SAFETY: the structure's own bytes; whatever they become is a value of it.
        let bytes = unsafe { slice::from_raw_parts_mut((&raw mut value).cast::<u8>(), size_of::<P>()) };
        self.process.memory.borrow().read(from, bytes)?;
        Ok(value)
    }
}
