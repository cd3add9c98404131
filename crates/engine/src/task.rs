//! What the engine needs to know of the caller.

use abi::{
    Errno, Plain, Result,
    mqueue::{O_ACCMODE, O_RDWR, O_WRONLY},
    time::Clock,
};
use arena::{Ctx, Handle, Host, SharedBytes, Waiter};

use crate::usage::Usage;

/// Who asks: the credentials of the moment of the call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cred {
    /// Real user.
    pub uid: u32,
    /// Effective user.
    pub euid: u32,
    /// File system user: the one that the rights to files are tested by.
    pub fsuid: u32,
    /// Effective group: the group of what is created.
    pub egid: u32,
    /// File system group: the one that permissions are tested by.
    pub fsgid: u32,
    /// Whether `CAP_IPC_OWNER` in the namespace is held.
    pub ipc_owner: bool,
    /// Whether `CAP_SYS_ADMIN` in the namespace is held.
    pub sys_admin: bool,
    /// Whether `CAP_CHECKPOINT_RESTORE` or `CAP_SYS_ADMIN` in the namespace is held.
    pub checkpoint_restore: bool,
    /// Whether `CAP_IPC_LOCK` is held.
    pub ipc_lock: bool,
    /// Whether `CAP_DAC_OVERRIDE` in the namespace is held.
    pub dac_override: bool,
    /// Whether `CAP_DAC_READ_SEARCH` in the namespace is held.
    pub dac_read_search: bool,
    /// Whether `CAP_FOWNER` in the namespace is held.
    pub fowner: bool,
    /// Whether `CAP_SYS_RESOURCE` in the initial user namespace is held.
    pub sys_resource: bool,
}

/// The memory that a new segment wants.
#[derive(Clone, Copy, Debug)]
pub struct NewMemory {
    /// The segment's key, which names the memory for people.
    pub key: i32,
    /// Bytes.
    pub size: u64,
    /// Of `shmget`: `SHM_HUGETLB` and the size of its pages, `SHM_NORESERVE`.
    pub flags: i32,
}

/// Where a segment is to be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapPlace {
    /// Where there is room.
    Anywhere,
    /// There, if nothing is.
    Free(u64),
    /// There, in place of what is.
    Over(u64),
}

/// How a segment is to be mapped.
#[derive(Clone, Copy, Debug)]
pub struct MapRequest {
    /// The segment's identifier.
    pub id: i32,
    /// The number of its memory.
    pub memory: u64,
    /// Where.
    pub place: MapPlace,
    /// Whether it may be written, now or ever.
    pub write: bool,
    /// Whether it may be executed.
    pub execute: bool,
}

/// The memory of segments. The engine knows it by numbers: no two that exist have the same one. A *keeper* holds it while
/// nobody has it mapped.
pub trait Backing {
    /// Makes memory, calls `named` with its number, and gives it to the keeper, to be kept for the segment that `named` returns.
    ///
    /// # Errors
    /// As the kernel's for a segment: `EINVAL EPERM ENOMEM ENFILE`.
    fn make_memory(&self, wanted: NewMemory, named: impl FnOnce(u64) -> Handle) -> Result<()>;
    /// Maps a segment into the caller's process; returns where. `replaced` is told of other attachments in that place: the
    /// segment, and whether all of it is gone.
    ///
    /// # Errors
    /// `EINVAL` if the place is not free; those of mmap.
    fn map_memory(&self, wanted: &MapRequest, replaced: impl FnMut(i32, bool)) -> Result<u64>;
    /// Unmaps what is left of the attachment at an address of the caller's process, and returns the segment's identifier. `segment_of` knows
    /// it by the number of its memory, and its size in whole pages.
    ///
    /// # Errors
    /// `EINVAL` if nothing is attached there.
    fn unmap_memory(&self, addr: u64, segment_of: impl Fn(u64) -> Option<(i32, u64)>) -> Result<i32>;
    /// No segment needs the memory any more.
    fn drop_memory(&self, memory: u64);
    /// Makes sure that nobody has the memory mapped, nor ever will again, and returns true; or false if somebody has. Not to be
    /// called with a lock held. `read_only` names the segment if somebody may have mapped it for reading only.
    ///
    /// # Errors
    /// If that can't be found out.
    fn retire_memory(&self, memory: u64, read_only: Option<i32>) -> Result<bool>;
    /// Has all mappings of one segment counted, and what is over destroyed; returns the pages of all memory, resident and
    /// swapped out. Not to be called with a lock held.
    ///
    /// # Errors
    /// If there is nobody who could do it.
    fn settle(&self, id: Option<i32>) -> Result<(u64, u64)>;
    /// The pages of some memory, resident and swapped out. Not to be called with a lock held.
    ///
    /// # Errors
    /// If there is nobody who could tell.
    fn memory_usage(&self, memory: u64) -> Result<(u64, u64)>;
    /// Keeps some memory from being swapped out, or lets it again. Not to be called with a lock held.
    ///
    /// # Errors
    /// If there is nobody who could do it, or that may lock so much.
    fn lock_memory(&self, memory: u64, lock: bool) -> Result<()>;
    /// A removed segment is still mapped: somebody must look for its end.
    fn watch_removed(&self);
    /// `RLIMIT_MEMLOCK`, bytes.
    fn memlock_limit(&self) -> u64;
}

/// What a descriptor of a POSIX queue says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mqd {
    /// The queue.
    pub queue: Handle,
    /// Whether it was opened for reading.
    pub read: bool,
    /// Whether it was opened for writing.
    pub write: bool,
}

impl Mqd {
    /// What a descriptor is that `mq_open` gives. With the fourth access mode, which only who makes a queue can ask for, neither is possible.
    pub fn opened(queue: Handle, oflag: i32) -> Mqd {
        let mode = oflag & O_ACCMODE;
        Mqd { queue, read: mode == 0 || mode == O_RDWR, write: mode == O_WRONLY || mode == O_RDWR }
    }
}

/// What a queue shows to who polls a descriptor of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Readiness {
    /// Not known: it has to be made anew.
    Unknown = 0,
    /// No message, so only writing goes.
    Empty = 1,
    /// Both go.
    Between = 2,
    /// No room, so only reading goes.
    Full = 3,
}

/// The signal of a notification.
#[derive(Clone, Copy, Debug)]
pub struct Notice {
    /// Whose message it tells of.
    pub queue: Handle,
    /// The process that registered.
    pub pid: u32,
    /// Signal.
    pub signo: i32,
    /// What it brings.
    pub value: u64,
    /// The process that sent the message.
    pub from_pid: u32,
    /// Its real user.
    pub from_uid: u32,
}

/// Descriptors of POSIX queues. The system keeps them, as any others: it knows who holds one, what it was opened for, and whether it
/// is to wait.
///
/// What is there by itself is a system without them, or a door that has none yet.
pub trait Descriptors {
    /// A new descriptor of a queue, as `oflag` wants it.
    ///
    /// # Errors
    /// `EMFILE ENFILE ENOMEM`.
    fn new_mqd(&self, _queue: Handle, _oflag: i32) -> Result<i32> {
        Err(Errno::ENOSYS)
    }
    /// Takes a descriptor back that nobody has seen.
    fn drop_mqd(&self, _fd: i32) {}
    /// What a descriptor is.
    ///
    /// # Errors
    /// `EBADF` if it is none of a queue.
    fn mqd(&self, _fd: i32) -> Result<Mqd> {
        Err(Errno::EBADF)
    }
    /// Whether it is `O_NONBLOCK`.
    fn mqd_nonblock(&self, _fd: i32) -> bool {
        false
    }
    /// Makes it `O_NONBLOCK`, or no longer so.
    fn set_mqd_nonblock(&self, _fd: i32, _nonblock: bool) {}
    /// Whether the process itself has a descriptor of the queue, if that is known at once. One may have been closed unseen: then
    /// it is [`watch_unlinked`](Descriptors::watch_unlinked) that finds out.
    fn has_mqd(&self, _queue: Handle) -> bool {
        false
    }
    /// Whether anybody has a descriptor of the queue. May be asked with a lock held.
    fn queue_held(&self, _queue: Handle) -> bool {
        true
    }
    /// Whether the process can have another descriptor.
    ///
    /// # Errors
    /// `EMFILE ENFILE`.
    fn mqd_possible(&self) -> Result<()> {
        Ok(())
    }
    /// Makes all descriptors of a queue show something else to who polls them; `fd` is one of them,
    /// or [`NO_FD`](crate::mqueue::NO_FD). What they show now is `from`, unless all have been closed meanwhile. With `edges`, who waits for
    /// something new is woken as well, though it be the same. Is called with the queue's lock held.
    fn show_readiness(&self, _queue: Handle, _fd: i32, _from: Readiness, _to: Readiness, _edges: bool) {}
    /// Sends the signal of a notification. Is called with the queue's lock held.
    fn notify(&self, _notice: &Notice) {}
    /// What tells a process's program from the next one that it executes; 0 where that can't be found out.
    fn program(&self, _pid: u32) -> u64 {
        0
    }
    /// A queue without a name is still held: somebody must look for its end.
    fn watch_unlinked(&self) {}
    /// Whether a descriptor is a netlink socket, which this host will send the cookie by what stands for it, its last byte being what the sleep that
    /// begins now comes to.
    ///
    /// # Errors
    /// `EBADF ENOTSOCK`; `EINVAL` for another socket, and where the host can't do that: nobody but the kernel can send what such a socket takes.
    fn notify_socket(&self, _fd: i32, _cookie: [u64; 4]) -> Result<()> {
        Err(Errno::EBADF)
    }
    /// `RLIMIT_MSGQUEUE`, bytes.
    fn msgqueue_limit(&self) -> u64 {
        0
    }
    /// The bits of the mode that a new queue is not to have.
    fn umask(&self) -> u32 {
        0o022
    }
    /// The thread's `prio` as the kernel counts: the less, the more urgent.
    fn scheduling_priority(&self) -> i32 {
        120
    }
}

/// A thread that makes a call, on a [`Host`].
pub trait Task: Host + Backing + Descriptors {
    /// Whether the caller asks later what came of a call, should this process be killed in the middle of it. Then a message that was received stays in the
    /// thread's chain until the host frees it.
    const ASKS_LATER: bool = false;
    /// Whether what users hold is limited: then [`Task::charge`] is asked.
    const HAS_QUOTAS: bool = false;
    /// Whether what `creator` has made may come to hold so much more. Not to be asked with a lock held.
    fn charge(&self, _ctx: &Ctx<'_, Self>, _creator: u32, _more: Usage) -> bool
    where
        Self: Sized,
    {
        true
    }
    /// The process's id.
    fn tgid(&self) -> u32;
    /// The id of the thread that makes the call, which may be another one than its host's.
    fn caller(&self) -> u32 {
        self.tid()
    }
    /// The process's slot.
    fn process(&self) -> Handle;
    /// Whether a sleeper is the host's, and does not wait for the end of its call any more. Is asked with the object's lock held.
    fn sleeper_gone(&self, _who: &Waiter) -> bool {
        false
    }
    /// Credentials now.
    fn cred(&self) -> Cred;
    /// Whether the call is one of a 32-bit program's.
    #[inline(always)]
    fn in_compat_syscall(&self) -> bool {
        false
    }
    /// Whether `gid` is a supplementary group.
    fn in_group(&self, gid: u32) -> bool;
    /// A process as the caller's PID namespace knows it.
    fn shown_pid(&self, pid: i32) -> i32 {
        pid
    }
    /// A user as the caller's user namespace knows it.
    fn shown_user(&self, uid: u32) -> u32 {
        uid
    }
    /// A group as the caller's user namespace knows it.
    fn shown_group(&self, gid: u32) -> u32 {
        gid
    }
    /// Wall-clock seconds.
    fn now(&self) -> i64;
    /// A clock that timeouts are counted by, nanoseconds.
    fn clock_ns(&self, clock: Clock) -> u64;
    /// Copies from the caller's memory.
    ///
    /// # Errors
    /// `EFAULT`.
    fn copy_from_user(&self, to: SharedBytes<'_>, from: u64) -> Result<()>;
    /// Copies to the caller's memory.
    ///
    /// # Errors
    /// `EFAULT`.
    fn copy_to_user(&self, to: u64, from: SharedBytes<'_>) -> Result<()>;
    /// Writes a structure to the caller's memory.
    ///
    /// # Errors
    /// `EFAULT`.
    fn put_user<P: Plain>(&self, to: u64, value: &P) -> Result<()>;
    /// Reads a structure of the caller's memory.
    ///
    /// # Errors
    /// `EFAULT`.
    fn get_user<P: Plain>(&self, from: u64) -> Result<P>;
}

/// When a sleep ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// The clock that decides, whatever it is set to meanwhile.
    pub clock: Clock,
    /// What it shows then, nanoseconds.
    pub ns: u64,
}

/// What a call came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is over, with this value.
    Done(i64),
    /// It sleeps on the thread's waiter: park, then resume.
    Blocked,
}

/// Why a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The waiter was completed, or should be tried again.
    Woken,
    /// A signal.
    Signal,
    /// The time is over.
    Timeout,
}
