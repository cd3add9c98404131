//! The objects that rows work on: each call goes through libc's symbol, as a program's would.

use std::ffi::{CString, c_int, c_long, c_short, c_uint, c_ushort, c_void};
use std::{io, mem, ptr};

use crate::Outcome;

/// The largest message of any row.
const TEXT_SIZE: usize = 8192;
/// The type of a new message.
pub(crate) const WANTED: c_long = 1;

#[repr(C)]
pub(crate) struct Message {
    pub(crate) mtype: c_long,
    text: [u8; TEXT_SIZE],
}

impl Message {
    pub(crate) fn new() -> Message {
        Message { mtype: WANTED, text: [7; TEXT_SIZE] }
    }
}

/// What of an object's identifier is its index, of which the commands take it that list all objects.
const INDEXES: c_int = 32_768;
/// Missing from the libc crate.
const SHM_STAT: c_int = 13;

/// A message queue, removed when dropped.
pub(crate) struct Queue(c_int);

impl Queue {
    pub(crate) fn create(key: libc::key_t) -> Outcome<Queue> {
        // SAFETY: no pointers are passed.
        checked("msgget", unsafe { libc::msgget(key, libc::IPC_CREAT | libc::IPC_EXCL | 0o600) }).map(Queue)
    }

    pub(crate) fn send(&self, message: &Message, size: usize) -> Outcome<()> {
        debug_assert!(size <= TEXT_SIZE);
        // SAFETY: the message has at least `size` bytes of text.
        checked("msgsnd", unsafe { libc::msgsnd(self.0, ptr::from_ref(message).cast(), size, 0) }).map(drop)
    }

    pub(crate) fn receive(&self, message: &mut Message, size: usize, mtype: c_long) -> Outcome<()> {
        debug_assert!(size <= TEXT_SIZE);
        // SAFETY: the message has room for `size` bytes of text.
        let got = unsafe { libc::msgrcv(self.0, ptr::from_mut(message).cast(), size, mtype, 0) };
        match usize::try_from(got) {
            Ok(got) if got == size => Ok(()),
            Ok(got) => Err(format!("msgrcv: {got} bytes instead of {size}").into()),
            Err(_) => Err(format!("msgrcv: {}", io::Error::last_os_error()).into()),
        }
    }

    pub(crate) fn stat(&self) -> Outcome<libc::msqid_ds> {
        let mut stat = mem::MaybeUninit::uninit();
        // SAFETY: `stat` has room for what IPC_STAT writes.
        checked("msgctl", unsafe { libc::msgctl(self.0, libc::IPC_STAT, stat.as_mut_ptr()) })?;
        // SAFETY: IPC_STAT has written all of it.
        Ok(unsafe { stat.assume_init() })
    }

    pub(crate) fn get(key: libc::key_t) -> Outcome<()> {
        // SAFETY: no pointers are passed.
        checked("msgget", unsafe { libc::msgget(key, 0) }).map(drop)
    }

    /// As one of all.
    pub(crate) fn list(&self) -> Outcome<()> {
        let mut stat = mem::MaybeUninit::<libc::msqid_ds>::uninit();
        // SAFETY: `stat` has room for what MSG_STAT writes.
        checked("msgctl", unsafe { libc::msgctl(self.0 % INDEXES, libc::MSG_STAT, stat.as_mut_ptr()) })
            .map(drop)
    }

    /// How many bytes of text may wait in it.
    pub(crate) fn set_room(&self, bytes: libc::msglen_t) -> Outcome<()> {
        let mut stat = self.stat()?;
        stat.msg_qbytes = bytes;
        // SAFETY: IPC_SET only reads.
        checked("msgctl", unsafe { libc::msgctl(self.0, libc::IPC_SET, &mut stat) }).map(drop)
    }

    pub(crate) fn remove(self) -> Outcome<()> {
        let removed = self.remove_now();
        mem::forget(self);
        removed
    }

    fn remove_now(&self) -> Outcome<()> {
        // SAFETY: IPC_RMID ignores the pointer.
        checked("msgctl", unsafe { libc::msgctl(self.0, libc::IPC_RMID, ptr::null_mut()) }).map(drop)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // The namespace ends with the run; a queue too many till then harms no figure.
        let _ = self.remove_now();
    }
}

/// A POSIX queue without a name, which ends with its descriptor.
pub(crate) struct PosixQueue(c_int);

impl PosixQueue {
    /// Of so many messages of that length.
    pub(crate) fn create(messages: usize, length: usize) -> Outcome<PosixQueue> {
        PosixQueue::create_as(&Name::new(), messages, length)
    }

    /// The same, of a name that it has for a moment.
    pub(crate) fn create_as(name: &Name, messages: usize, length: usize) -> Outcome<PosixQueue> {
        let queue = name.open(libc::O_CREAT | libc::O_EXCL, messages, length);
        queue.and_then(|queue| name.unlink().map(|()| queue))
    }

    /// The text is of a message; its type is the priority.
    pub(crate) fn send(&self, message: &Message, size: usize) -> Outcome<()> {
        debug_assert!(size <= TEXT_SIZE);
        let prio = message.mtype as c_uint;
        // SAFETY: the message has at least `size` bytes of text.
        checked("mq_send", unsafe { libc::mq_send(self.0, message.text.as_ptr().cast(), size, prio) })
            .map(drop)
    }

    pub(crate) fn receive(&self, message: &mut Message, size: usize) -> Outcome<()> {
        let mut prio = 0;
        // SAFETY: the message has room for as many bytes as the call is told.
        let got =
            unsafe { libc::mq_receive(self.0, message.text.as_mut_ptr().cast(), TEXT_SIZE, &raw mut prio) };
        message.mtype = prio.into();
        match usize::try_from(got) {
            Ok(got) if got == size => Ok(()),
            Ok(got) => Err(format!("mq_receive: {got} bytes instead of {size}").into()),
            Err(_) => Err(format!("mq_receive: {}", io::Error::last_os_error()).into()),
        }
    }

    /// Whether it can be read from, without waiting.
    pub(crate) fn is_readable(&self) -> Outcome<bool> {
        let mut polled = libc::pollfd { fd: self.0, events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure.
        Ok(checked("poll", unsafe { libc::poll(&raw mut polled, 1, 0) })? == 1)
    }
}

impl Drop for PosixQueue {
    fn drop(&mut self) {
        // SAFETY: a descriptor of our own, and its last use. One that stays open till the end harms no figure.
        unsafe { libc::mq_close(self.0) };
    }
}

/// What is sent first is received first, whichever kind of queue it is.
pub(crate) trait Fifo {
    fn put(&self, message: &Message, size: usize) -> Outcome<()>;
    fn take(&self, message: &mut Message, size: usize) -> Outcome<()>;
}

impl Fifo for Queue {
    fn put(&self, message: &Message, size: usize) -> Outcome<()> {
        self.send(message, size)
    }

    fn take(&self, message: &mut Message, size: usize) -> Outcome<()> {
        self.receive(message, size, 0)
    }
}

impl Fifo for PosixQueue {
    fn put(&self, message: &Message, size: usize) -> Outcome<()> {
        self.send(message, size)
    }

    fn take(&self, message: &mut Message, size: usize) -> Outcome<()> {
        self.receive(message, size)
    }
}

/// The name of a POSIX queue of this process's.
pub(crate) struct Name(CString);

impl Name {
    pub(crate) fn new() -> Name {
        Name(CString::new(format!("/bench-{}", std::process::id())).unwrap_or_default())
    }

    /// Opens the queue, for reading and writing; made, it has room for so many messages of that length.
    pub(crate) fn open(&self, flags: c_int, messages: usize, length: usize) -> Outcome<PosixQueue> {
        const MODE: c_uint = 0o600;
        // SAFETY: all-zero is a valid value of this plain C structure.
        let mut attributes: libc::mq_attr = unsafe { mem::zeroed() };
        (attributes.mq_maxmsg, attributes.mq_msgsize) = (messages as c_long, length as c_long);
        // SAFETY: a terminated string, and a structure that is only read.
        let fd = unsafe { libc::mq_open(self.0.as_ptr(), libc::O_RDWR | flags, MODE, &raw const attributes) };
        checked("mq_open", fd).map(PosixQueue)
    }

    pub(crate) fn unlink(&self) -> Outcome<()> {
        // SAFETY: a terminated string.
        checked("mq_unlink", unsafe { libc::mq_unlink(self.0.as_ptr()) }).map(drop)
    }
}

/// A semaphore set, removed when dropped.
pub(crate) struct Set(c_int);

impl Set {
    pub(crate) fn create(key: libc::key_t, nsems: c_int) -> Outcome<Set> {
        // SAFETY: no pointers are passed.
        checked("semget", unsafe { libc::semget(key, nsems, libc::IPC_CREAT | libc::IPC_EXCL | 0o600) })
            .map(Set)
    }

    pub(crate) fn get(key: libc::key_t) -> Outcome<()> {
        // SAFETY: no pointers are passed.
        checked("semget", unsafe { libc::semget(key, 0, 0) }).map(drop)
    }

    /// As one of all.
    pub(crate) fn list(&self) -> Outcome<()> {
        let mut stat = mem::MaybeUninit::<libc::semid_ds>::uninit();
        // SAFETY: `stat` has room for what SEM_STAT writes.
        checked("semctl", unsafe { libc::semctl(self.0 % INDEXES, 0, libc::SEM_STAT, stat.as_mut_ptr()) })
            .map(drop)
    }

    /// GETVAL of the first.
    pub(crate) fn value(&self) -> Outcome<c_int> {
        // SAFETY: GETVAL takes no further argument.
        checked("semctl", unsafe { libc::semctl(self.0, 0, libc::GETVAL) })
    }

    pub(crate) fn op(&self, ops: &mut [libc::sembuf]) -> Outcome<()> {
        // SAFETY: pointer and length are of one slice.
        checked("semop", unsafe { libc::semop(self.0, ops.as_mut_ptr(), ops.len()) }).map(drop)
    }

    pub(crate) fn remove(self) -> Outcome<()> {
        let removed = self.remove_now();
        mem::forget(self);
        removed
    }

    fn remove_now(&self) -> Outcome<()> {
        // SAFETY: IPC_RMID takes no further argument.
        checked("semctl", unsafe { libc::semctl(self.0, 0, libc::IPC_RMID) }).map(drop)
    }
}

impl Drop for Set {
    fn drop(&mut self) {
        // As for a queue.
        let _ = self.remove_now();
    }
}

/// A segment of shared memory, removed when dropped.
pub(crate) struct Segment(c_int);

/// Where one is attached.
pub(crate) struct Attached(*mut c_void);

impl Segment {
    pub(crate) fn create(key: libc::key_t, size: usize) -> Outcome<Segment> {
        // SAFETY: no pointers are passed.
        checked("shmget", unsafe { libc::shmget(key, size, libc::IPC_CREAT | libc::IPC_EXCL | 0o600) })
            .map(Segment)
    }

    pub(crate) fn get(key: libc::key_t) -> Outcome<()> {
        // SAFETY: no pointers are passed.
        checked("shmget", unsafe { libc::shmget(key, 0, 0) }).map(drop)
    }

    /// As one of all.
    pub(crate) fn list(&self) -> Outcome<()> {
        let mut stat = mem::MaybeUninit::<libc::shmid_ds>::uninit();
        // SAFETY: `stat` has room for what SHM_STAT writes.
        checked("shmctl", unsafe { libc::shmctl(self.0 % INDEXES, SHM_STAT, stat.as_mut_ptr()) }).map(drop)
    }

    pub(crate) fn attach(&self) -> Outcome<Attached> {
        // SAFETY: it goes where there is room.
        let at = unsafe { libc::shmat(self.0, ptr::null(), 0) };
        if at.addr() == usize::MAX {
            return Err(format!("shmat: {}", io::Error::last_os_error()).into());
        }
        Ok(Attached(at))
    }

    pub(crate) fn stat(&self) -> Outcome<()> {
        let mut stat = mem::MaybeUninit::<libc::shmid_ds>::uninit();
        // SAFETY: `stat` has room for what IPC_STAT writes.
        checked("shmctl", unsafe { libc::shmctl(self.0, libc::IPC_STAT, stat.as_mut_ptr()) }).map(drop)
    }

    pub(crate) fn remove(self) -> Outcome<()> {
        let removed = self.remove_now();
        mem::forget(self);
        removed
    }

    fn remove_now(&self) -> Outcome<()> {
        // SAFETY: IPC_RMID ignores the pointer.
        checked("shmctl", unsafe { libc::shmctl(self.0, libc::IPC_RMID, ptr::null_mut()) }).map(drop)
    }
}

impl Attached {
    pub(crate) fn detach(self) -> Outcome<()> {
        // SAFETY: attached there, and nothing refers to it.
        checked("shmdt", unsafe { libc::shmdt(self.0) }).map(drop)
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // As for a queue.
        let _ = self.remove_now();
    }
}

pub(crate) fn op(sem_num: c_ushort, sem_op: c_short, sem_flg: c_short) -> libc::sembuf {
    libc::sembuf { sem_num, sem_op, sem_flg }
}

pub(crate) fn checked(call: &str, result: c_int) -> Outcome<c_int> {
    if result == -1 { Err(format!("{call}: {}", io::Error::last_os_error()).into()) } else { Ok(result) }
}
