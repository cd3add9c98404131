//! The calls of System V and of POSIX queues, and what else libc must be asked for, without unsafe blocks at every use.

use std::ffi::{CStr, c_char, c_int, c_long, c_short, c_uint, c_ushort};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{io, mem, ptr};

unsafe extern "C" {
    // The libc crate has no declaration of it for glibc.
    #[link_name = "semtimedop"]
    fn c_semtimedop(
        semid: c_int,
        sops: *mut libc::sembuf,
        nsops: usize,
        timeout: *const libc::timespec,
    ) -> c_int;
}

/// The largest message text.
pub(crate) const TEXT_SIZE: usize = 8192;

/// The number of an error, such as `libc::EAGAIN`.
pub(crate) type Errno = c_int;

/// What msgsnd and msgrcv take.
#[repr(C)]
pub(crate) struct Message {
    pub(crate) mtype: c_long,
    pub(crate) text: [u8; TEXT_SIZE],
}

impl Message {
    pub(crate) fn new() -> Message {
        Message { mtype: 1, text: [0; TEXT_SIZE] }
    }
}

fn errno() -> Errno {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn checked(result: c_int) -> Result<c_int, Errno> {
    if result == -1 { Err(errno()) } else { Ok(result) }
}

pub(crate) fn msgget(key: libc::key_t, flags: c_int) -> Result<c_int, Errno> {
    // SAFETY: no pointers are passed.
    checked(unsafe { libc::msgget(key, flags) })
}

pub(crate) fn msgsnd(queue: c_int, message: &Message, size: usize, flags: c_int) -> Result<(), Errno> {
    assert!(size <= TEXT_SIZE);
    // SAFETY: the message has at least `size` bytes of text.
    checked(unsafe { libc::msgsnd(queue, ptr::from_ref(message).cast(), size, flags) }).map(drop)
}

/// The number of bytes received.
pub(crate) fn msgrcv(
    queue: c_int,
    message: &mut Message,
    size: usize,
    mtype: c_long,
    flags: c_int,
) -> Result<usize, Errno> {
    assert!(size <= TEXT_SIZE);
    // SAFETY: the message has room for `size` bytes of text.
    let got = unsafe { libc::msgrcv(queue, ptr::from_mut(message).cast(), size, mtype, flags) };
    usize::try_from(got).map_err(|_| errno())
}

/// The queue with this id.
pub(crate) fn msg_stat(queue: c_int) -> Result<libc::msqid_ds, Errno> {
    // SAFETY: all-zero is a valid value of this plain C structure.
    let mut stat: libc::msqid_ds = unsafe { mem::zeroed() };
    // SAFETY: `stat` has room for what IPC_STAT writes.
    checked(unsafe { libc::msgctl(queue, libc::IPC_STAT, &mut stat) })?;
    Ok(stat)
}

/// The id of the queue in this slot of the namespace's table.
pub(crate) fn msg_at(index: c_int) -> Result<c_int, Errno> {
    // SAFETY: all-zero is a valid value of this plain C structure.
    let mut stat: libc::msqid_ds = unsafe { mem::zeroed() };
    // SAFETY: `stat` has room for what MSG_STAT writes.
    checked(unsafe { libc::msgctl(index, libc::MSG_STAT, &mut stat) })
}

/// The highest slot in use, and the namespace's totals: msgpool queues with msgmap messages and msgtql bytes.
pub(crate) fn msg_info() -> Result<(c_int, libc::msginfo), Errno> {
    // SAFETY: all-zero is a valid value of this plain C structure.
    let mut info: libc::msginfo = unsafe { mem::zeroed() };
    // SAFETY: `info` has room for what MSG_INFO writes.
    let highest = checked(unsafe { libc::msgctl(0, libc::MSG_INFO, ptr::from_mut(&mut info).cast()) })?;
    Ok((highest, info))
}

pub(crate) fn msg_remove(queue: c_int) -> Result<(), Errno> {
    // SAFETY: IPC_RMID ignores the pointer.
    checked(unsafe { libc::msgctl(queue, libc::IPC_RMID, ptr::null_mut()) }).map(drop)
}

/// Sets qbytes, and leaves the rest as it is.
pub(crate) fn msg_set_qbytes(queue: c_int, qbytes: u64) -> Result<(), Errno> {
    let mut stat = msg_stat(queue)?;
    stat.msg_qbytes = qbytes;
    // SAFETY: IPC_SET reads the structure.
    checked(unsafe { libc::msgctl(queue, libc::IPC_SET, &mut stat) }).map(drop)
}

pub(crate) fn semget(key: libc::key_t, count: c_int, flags: c_int) -> Result<c_int, Errno> {
    // SAFETY: no pointers are passed.
    checked(unsafe { libc::semget(key, count, flags) })
}

/// A queue with room for so many messages of that length, if it is made.
pub(crate) fn mq_open(name: &CStr, flags: c_int, messages: i64, length: i64) -> Result<c_int, Errno> {
    const MODE: c_uint = 0o600;
    // SAFETY: all-zero is a valid value of this plain C structure.
    let mut attributes: libc::mq_attr = unsafe { mem::zeroed() };
    (attributes.mq_maxmsg, attributes.mq_msgsize) = (messages, length);
    // SAFETY: a terminated string, and a structure that is only read.
    checked(unsafe { libc::mq_open(name.as_ptr(), flags, MODE, &raw const attributes) })
}

pub(crate) fn mq_close(fd: c_int) -> Result<(), Errno> {
    // SAFETY: only a number is passed, of a descriptor that nothing else owns.
    checked(unsafe { libc::mq_close(fd) }).map(drop)
}

pub(crate) fn mq_unlink(name: &CStr) -> Result<(), Errno> {
    // SAFETY: a terminated string.
    checked(unsafe { libc::mq_unlink(name.as_ptr()) }).map(drop)
}

/// The message's type is its priority.
pub(crate) fn mq_send(fd: c_int, message: &Message, size: usize) -> Result<(), Errno> {
    assert!(size <= TEXT_SIZE);
    // SAFETY: the message has at least `size` bytes of text.
    checked(unsafe { libc::mq_send(fd, message.text.as_ptr().cast(), size, message.mtype as c_uint) })
        .map(drop)
}

/// The number of bytes received.
pub(crate) fn mq_receive(fd: c_int, message: &mut Message) -> Result<usize, Errno> {
    mq_received(message, |text, prio| {
        // SAFETY: as many bytes as the call is told, and room for a priority.
        unsafe { libc::mq_receive(fd, text, TEXT_SIZE, prio) }
    })
}

pub(crate) fn mq_timedreceive(fd: c_int, message: &mut Message, timeout_ms: u32) -> Result<usize, Errno> {
    let until = SystemTime::now() + Duration::from_millis(timeout_ms.into());
    let until = until.duration_since(UNIX_EPOCH).unwrap_or_default();
    let until =
        libc::timespec { tv_sec: until.as_secs().cast_signed(), tv_nsec: until.subsec_nanos().into() };
    mq_received(message, |text, prio| {
        // SAFETY: as above, and the timeout lives through the call.
        unsafe { libc::mq_timedreceive(fd, text, TEXT_SIZE, prio, &until) }
    })
}

fn mq_received(
    message: &mut Message,
    call: impl FnOnce(*mut c_char, *mut c_uint) -> isize,
) -> Result<usize, Errno> {
    let mut prio = 0;
    let got = call(message.text.as_mut_ptr().cast(), &mut prio);
    let got = usize::try_from(got).map_err(|_| errno())?;
    message.mtype = prio.into();
    Ok(got)
}

pub(crate) fn mq_attributes(fd: c_int) -> Result<libc::mq_attr, Errno> {
    // SAFETY: all-zero is a valid value of this plain C structure.
    let mut attributes: libc::mq_attr = unsafe { mem::zeroed() };
    // SAFETY: room for what the call writes.
    checked(unsafe { libc::mq_getattr(fd, &mut attributes) })?;
    Ok(attributes)
}

/// Registers for a notification that does nothing, or takes the registration back.
pub(crate) fn mq_notify(fd: c_int, on: bool) -> Result<(), Errno> {
    // SAFETY: all-zero is a valid value of this plain C structure.
    let mut event: libc::sigevent = unsafe { mem::zeroed() };
    event.sigev_notify = libc::SIGEV_NONE;
    let event = if on { &raw const event } else { ptr::null() };
    // SAFETY: null, or a structure that is only read.
    checked(unsafe { libc::mq_notify(fd, event) }).map(drop)
}

/// One operation of a semop.
pub(crate) fn op(sem_num: usize, sem_op: c_int, flags: c_int) -> libc::sembuf {
    libc::sembuf { sem_num: sem_num as c_ushort, sem_op: sem_op as c_short, sem_flg: flags as c_short }
}

pub(crate) fn semop(set: c_int, ops: &mut [libc::sembuf]) -> Result<(), Errno> {
    // SAFETY: pointer and length are of one slice.
    checked(unsafe { libc::semop(set, ops.as_mut_ptr(), ops.len()) }).map(drop)
}

pub(crate) fn semtimedop(set: c_int, ops: &mut [libc::sembuf], timeout_ms: u32) -> Result<(), Errno> {
    let timeout = libc::timespec {
        tv_sec: (timeout_ms / 1000).into(),
        tv_nsec: (timeout_ms % 1000 * 1_000_000).into(),
    };
    // SAFETY: pointer and length are of one slice, and the timeout lives through the call.
    checked(unsafe { c_semtimedop(set, ops.as_mut_ptr(), ops.len(), &timeout) }).map(drop)
}

/// GETVAL, GETNCNT and GETZCNT.
pub(crate) fn sem_query(set: c_int, semnum: usize, command: c_int) -> Result<c_int, Errno> {
    assert!([libc::GETVAL, libc::GETNCNT, libc::GETZCNT].contains(&command));
    // SAFETY: these commands take no further argument.
    checked(unsafe { libc::semctl(set, semnum as c_int, command) })
}

pub(crate) fn sem_set_value(set: c_int, semnum: usize, value: c_int) -> Result<(), Errno> {
    // SAFETY: SETVAL takes an int.
    checked(unsafe { libc::semctl(set, semnum as c_int, libc::SETVAL, value) }).map(drop)
}

/// SETALL; there must be as many values as semaphores.
pub(crate) fn sem_set_all(set: c_int, values: &[c_ushort]) -> Result<(), Errno> {
    // SAFETY: the caller passes a value for each semaphore.
    checked(unsafe { libc::semctl(set, 0, libc::SETALL, values.as_ptr()) }).map(drop)
}

/// The id of the set in this slot of the namespace's table.
pub(crate) fn sem_at(index: c_int) -> Result<c_int, Errno> {
    // SAFETY: all-zero is a valid value of this plain C structure.
    let mut stat: libc::semid_ds = unsafe { mem::zeroed() };
    // SAFETY: `stat` has room for what SEM_STAT writes.
    checked(unsafe { libc::semctl(index, 0, libc::SEM_STAT, &mut stat) })
}

/// The highest slot in use, and the namespace's totals: semusz sets with semaem semaphores.
pub(crate) fn sem_info() -> Result<(c_int, libc::seminfo), Errno> {
    // SAFETY: all-zero is a valid value of this plain C structure.
    let mut info: libc::seminfo = unsafe { mem::zeroed() };
    // SAFETY: `info` has room for what SEM_INFO writes.
    let highest = checked(unsafe { libc::semctl(0, 0, libc::SEM_INFO, &mut info) })?;
    Ok((highest, info))
}

pub(crate) fn sem_remove(set: c_int) -> Result<(), Errno> {
    // SAFETY: IPC_RMID takes no further argument.
    checked(unsafe { libc::semctl(set, 0, libc::IPC_RMID) }).map(drop)
}

/// `struct shm_info`, which the libc crate doesn't have.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct ShmInfo {
    pub(crate) used_ids: c_int,
    pub(crate) shm_tot: u64,
    pub(crate) shm_rss: u64,
    pub(crate) shm_swp: u64,
    swap_attempts: u64,
    swap_successes: u64,
}

pub(crate) fn shmget(key: libc::key_t, size: usize, flags: c_int) -> Result<c_int, Errno> {
    // SAFETY: no pointers are passed.
    checked(unsafe { libc::shmget(key, size, flags) })
}

/// An attached segment.
pub(crate) struct Attached(*mut u8);

pub(crate) fn shmat(segment: c_int, flags: c_int) -> Result<Attached, Errno> {
    // SAFETY: it goes where there is room.
    let at = unsafe { libc::shmat(segment, ptr::null(), flags) };
    if at.addr() == usize::MAX { Err(errno()) } else { Ok(Attached(at.cast())) }
}

impl Attached {
    /// The byte at an offset, which must be in the segment.
    pub(crate) fn get(&self, offset: usize) -> u8 {
        // SAFETY: attached, and the caller's promise.
        unsafe { self.0.add(offset).read_volatile() }
    }

    /// Sets the byte at an offset, which must be in the segment.
    pub(crate) fn set(&self, offset: usize, value: u8) {
        // SAFETY: as above; it was not attached for reading only.
        unsafe { self.0.add(offset).write_volatile(value) };
    }

    pub(crate) fn detach(self) -> Result<(), Errno> {
        // SAFETY: attached there, and nothing refers to it.
        checked(unsafe { libc::shmdt(self.0.cast()) }).map(drop)
    }
}

/// The segment in this slot of the namespace's table: its id, and what SHM_STAT says.
pub(crate) fn shm_at(index: c_int) -> Result<(c_int, libc::shmid_ds), Errno> {
    // SAFETY: all-zero is a valid value of this plain C structure.
    let mut stat: libc::shmid_ds = unsafe { mem::zeroed() };
    // SAFETY: `stat` has room for what SHM_STAT (13) writes.
    let id = checked(unsafe { libc::shmctl(index, 13, &mut stat) })?;
    Ok((id, stat))
}

pub(crate) fn shm_stat(segment: c_int) -> Result<libc::shmid_ds, Errno> {
    // SAFETY: all-zero is a valid value of this plain C structure.
    let mut stat: libc::shmid_ds = unsafe { mem::zeroed() };
    // SAFETY: `stat` has room for what IPC_STAT writes.
    checked(unsafe { libc::shmctl(segment, libc::IPC_STAT, &mut stat) })?;
    Ok(stat)
}

/// The highest slot in use, and the namespace's totals.
pub(crate) fn shm_info() -> Result<(c_int, ShmInfo), Errno> {
    let mut info = ShmInfo::default();
    // SAFETY: `info` has room for what SHM_INFO (14) writes.
    let highest = checked(unsafe { libc::shmctl(0, 14, ptr::from_mut(&mut info).cast()) })?;
    Ok((highest, info))
}

pub(crate) fn shm_remove(segment: c_int) -> Result<(), Errno> {
    // SAFETY: IPC_RMID ignores the pointer.
    checked(unsafe { libc::shmctl(segment, libc::IPC_RMID, ptr::null_mut()) }).map(drop)
}

/// Runs `child` in a forked process that dies with its parent, and ends with the code it returns.
///
/// Only for processes with one thread.
pub(crate) fn fork(child: impl FnOnce() -> c_int) -> io::Result<libc::pid_t> {
    // SAFETY: the caller has one thread, so the child may go on with anything.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: only numbers are passed.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            // A panic must not unwind into the parent's code.
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(101);
            // SAFETY: ends the process.
            unsafe { libc::_exit(code) }
        }
        pid => Ok(pid),
    }
}

/// Interrupts this process's blocking calls from now on, so often.
pub(crate) fn interrupt_every(microseconds: i64) {
    extern "C" fn nothing(_: c_int) {}
    let time = libc::timeval { tv_sec: 0, tv_usec: microseconds };
    let timer = libc::itimerval { it_interval: time, it_value: time };
    // SAFETY: a handler that does nothing; the timer's structure is read only.
    unsafe {
        libc::signal(libc::SIGALRM, nothing as *const () as usize);
        libc::syscall(libc::SYS_setitimer, libc::ITIMER_REAL, &timer, ptr::null_mut::<libc::itimerval>());
    }
}

/// Sends a signal to a child that has not been reaped.
pub(crate) fn kill(pid: libc::pid_t, signal: c_int) {
    assert!(pid > 0, "a signal to {pid}");
    // SAFETY: only numbers are passed. An unreaped child's pid is its own, so this can't fail.
    unsafe { libc::kill(pid, signal) };
}

/// How a child ended, once it has.
pub(crate) fn wait(pid: libc::pid_t) -> c_int {
    let mut status = 0;
    // SAFETY: `status` is writable.
    while unsafe { libc::waitpid(pid, &mut status, 0) } == -1 && errno() == libc::EINTR {}
    status
}

/// How a child ended, if it has.
pub(crate) fn try_wait(pid: libc::pid_t) -> Option<c_int> {
    let mut status = 0;
    // SAFETY: `status` is writable.
    (unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) } == pid).then_some(status)
}

/// A wait status in words.
pub(crate) fn ended(status: c_int) -> String {
    if libc::WIFSIGNALED(status) {
        format!("killed by signal {}", libc::WTERMSIG(status))
    } else {
        format!("exit code {}", libc::WEXITSTATUS(status))
    }
}
