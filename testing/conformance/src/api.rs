//! The door `api`: the crate for programs, in a private namespace that the case has made.
//!
//! A call goes by the crate's types where they can say it. What they can't say (a bad pointer, a type below 1, an unknown flag, `IPC_SET` of an owner) goes to the same namespace
//! as the C library makes it, so each case is run whole. The handles are kept by their numbers, as the cases name objects by these.

use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use ipcspace::{Access, Error, Key, Mqueue, MsgType, Namespace, Queue, Select, Semaphores, raw};
use libc::{c_int, sembuf};

use crate::call::{Answer, Attr, Message, NOWAIT, SEM_NOWAIT, UNDO, message};
use crate::errno::Errno;

static IS_ON: AtomicBool = AtomicBool::new(false);
static PLACE: OnceLock<Namespace> = OnceLock::new();

/// What was opened, by identifier or descriptor.
#[derive(Default)]
struct Handles {
    queues: HashMap<i32, Queue>,
    sets: HashMap<i32, Semaphores>,
    posix: HashMap<i32, Mqueue>,
}

static HANDLES: OnceLock<Mutex<Handles>> = OnceLock::new();

fn handles() -> MutexGuard<'static, Handles> {
    HANDLES.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on this process's calls are made in a namespace of its own, with these limits.
pub(crate) fn begin(limits: &[(&str, &str)]) {
    let limits: Vec<_> =
        limits.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let made = raw::with_sysctls("", &limits).unwrap_or_else(|error| panic!("no namespace: {error}"));
    PLACE.get_or_init(|| made);
    IS_ON.store(true, Relaxed);
}

/// Whether they are.
pub(crate) fn is_on() -> bool {
    IS_ON.load(Relaxed)
}

fn place() -> Option<Namespace> {
    is_on().then(|| PLACE.get().copied()).flatten()
}

fn errno(error: Error) -> Errno {
    Errno(error.errno())
}

/// A call that is not said by types.
pub(crate) fn call(number: i64, registers: [u64; 6]) -> Answer<i64> {
    let made = place().and_then(|place| raw::syscall(place, number, registers));
    made.unwrap_or(Err(libc::ENOSYS)).map_err(Errno)
}

/// Whether `*get` makes the object, and whether it has to; none if the types can't say it.
fn creation(flags: c_int) -> Option<(bool, bool, u32)> {
    let rest = flags & !(libc::IPC_CREAT | libc::IPC_EXCL);
    let (create, exclusive) = (flags & libc::IPC_CREAT != 0, flags & libc::IPC_EXCL != 0);
    let is_said = (0..=0o777).contains(&rest) && (create || !exclusive);
    is_said.then_some((create, exclusive, rest.cast_unsigned()))
}

pub(crate) fn msgget(key: i32, flags: c_int) -> Option<Answer<i32>> {
    let (create, new, mode) = creation(flags)?;
    let opened = place()?.queue(Key::new(key)).create(create).create_new(new).mode(mode).open();
    Some(opened.map_err(errno).map(|queue| {
        let id = queue.id();
        handles().queues.insert(id, queue);
        id
    }))
}

fn queue(id: i32) -> Option<Queue> {
    place().and_then(|_| handles().queues.get(&id).cloned())
}

pub(crate) fn msgsnd(id: i32, mtype: i64, text: &[u8], flags: c_int) -> Option<Answer<i32>> {
    let (queue, kind) = (queue(id)?, MsgType::new(mtype).ok()?);
    let sent = match flags {
        0 => queue.send(kind, text),
        NOWAIT => queue.try_send(kind, text),
        _ => return None,
    };
    Some(sent.map(|()| 0).map_err(errno))
}

pub(crate) fn msgrcv(id: i32, size: usize, mtype: i64, flags: c_int) -> Option<Answer<Message>> {
    let queue = queue(id)?;
    let kind = |number| MsgType::new(number).ok();
    let (select, rest) = match (mtype, flags & libc::MSG_EXCEPT != 0) {
        (0, false) => (Select::Any, flags),
        (1.., false) => (Select::Exactly(kind(mtype)?), flags),
        (1.., true) => (Select::Not(kind(mtype)?), flags & !libc::MSG_EXCEPT),
        (..0, false) => (Select::AtMost(kind(mtype.checked_neg()?)?), flags),
        _ => return None,
    };
    let mut text = vec![0; size];
    let got = match rest {
        0 => queue.recv(select, &mut text),
        NOWAIT => queue.try_recv(select, &mut text),
        libc::MSG_NOERROR => queue.recv_truncated(select, &mut text),
        _ => return None,
    };
    Some(got.map_err(errno).map(|got| message(got.kind.number(), &text[..got.len])))
}

pub(crate) fn msg_remove(id: i32) -> Option<Answer<i32>> {
    Some(queue(id)?.remove().map(|()| 0).map_err(errno))
}

pub(crate) fn semget(key: i32, nsems: c_int, flags: c_int) -> Option<Answer<i32>> {
    let (create, new, mode) = creation(flags)?;
    let options = place()?.semaphores(usize::try_from(nsems).ok()?).key(Key::new(key)).create(create);
    Some(options.create_new(new).mode(mode).open().map_err(errno).map(|set| {
        let id = set.id();
        handles().sets.insert(id, set);
        id
    }))
}

fn set(id: i32) -> Option<Semaphores> {
    place().and_then(|_| handles().sets.get(&id).cloned())
}

/// Operations that all take, all give, or all wait for zero, with the same flags.
pub(crate) fn semop(id: i32, operations: &[sembuf], timeout: Option<(i64, i64)>) -> Option<Answer<i32>> {
    let set = set(id)?;
    let first = operations.first()?;
    let same = |one: &sembuf| {
        one.sem_op.signum() == first.sem_op.signum() && one.sem_flg == first.sem_flg && one.sem_op != i16::MIN
    };
    if !operations.iter().all(same) || first.sem_flg & !(SEM_NOWAIT | UNDO) != 0 {
        return None;
    }
    let set = if first.sem_flg & UNDO != 0 { set.undo() } else { set };
    let amounts: Vec<(u16, u16)> =
        operations.iter().map(|one| (one.sem_num, one.sem_op.unsigned_abs())).collect();
    let numbers: Vec<u16> = operations.iter().map(|one| one.sem_num).collect();
    let timeout = match timeout {
        None => None,
        Some((sec, nsec)) => {
            let nsec = u32::try_from(nsec).ok().filter(|nsec| *nsec < 1_000_000_000)?;
            Some(Duration::new(u64::try_from(sec).ok()?, nsec))
        }
    };
    let done = match (first.sem_op.signum(), first.sem_flg & SEM_NOWAIT != 0, timeout) {
        (1, false, None) => set.release(&amounts),
        (-1, false, None) => set.acquire(&amounts).map(ipcspace::Guard::keep),
        (-1, true, None) => set.try_acquire(&amounts).map(ipcspace::Guard::keep),
        (-1, false, Some(timeout)) => set.acquire_timeout(&amounts, timeout).map(ipcspace::Guard::keep),
        (0, false, None) => set.wait_for_zero(&numbers),
        (0, true, None) => set.try_wait_for_zero(&numbers),
        (0, false, Some(timeout)) => set.wait_for_zero_timeout(&numbers, timeout),
        _ => return None,
    };
    Some(done.map(|()| 0).map_err(errno).map_err(|error| match (error, timeout) {
        // The call says of the end of its time that it can't be done now.
        (Errno(libc::ETIMEDOUT), Some(_)) => Errno(libc::EAGAIN),
        (error, _) => error,
    }))
}

pub(crate) fn getval(id: i32, num: c_int) -> Option<Answer<i32>> {
    Some(set(id)?.value(u16::try_from(num).ok()?).map(i32::from).map_err(errno))
}

pub(crate) fn setval(id: i32, num: c_int, value: i32) -> Option<Answer<i32>> {
    let (num, value) = (u16::try_from(num).ok()?, u16::try_from(value).ok()?);
    Some(set(id)?.set(num, value).map(|()| 0).map_err(errno))
}

pub(crate) fn waiting(id: i32, num: c_int) -> Option<Answer<(i32, i32)>> {
    let waiting = set(id)?.waiting(u16::try_from(num).ok()?);
    Some(waiting.map_err(errno).map(|(grow, zero)| (grow as i32, zero as i32)))
}

pub(crate) fn sem_remove(id: i32) -> Option<Answer<i32>> {
    Some(set(id)?.remove().map(|()| 0).map_err(errno))
}

pub(crate) fn mq_open(name: &str, flags: c_int, mode: u32, attr: Option<Attr>) -> Option<Answer<i32>> {
    let place = place()?;
    let access = match flags & libc::O_ACCMODE {
        libc::O_RDONLY => Access::Receive,
        libc::O_WRONLY => Access::Send,
        libc::O_RDWR => Access::Both,
        _ => return None,
    };
    let (create, new) = (flags & libc::O_CREAT != 0, flags & libc::O_EXCL != 0);
    let is_said = flags & !(libc::O_ACCMODE | libc::O_CREAT | libc::O_EXCL) == 0 && (create || !new);
    if !is_said || mode > 0o777 {
        return None;
    }
    let mut options = place.mqueue(name).access(access).create(create).create_new(new).mode(mode);
    if let Some(attr) = attr {
        options = options.size(usize::try_from(attr.maxmsg).ok()?, usize::try_from(attr.msgsize).ok()?);
    }
    Some(options.open().map_err(errno).map(|queue| {
        let fd = queue.as_raw_fd();
        handles().posix.insert(fd, queue);
        fd
    }))
}

/// Does something with a queue of that descriptor.
fn with_posix<R>(fd: i32, act: impl FnOnce(&Mqueue) -> R) -> Option<R> {
    place()?;
    // Out of the list meanwhile: others may call while this one sleeps.
    let queue = handles().posix.remove(&fd)?;
    let done = act(&queue);
    handles().posix.insert(fd, queue);
    Some(done)
}

pub(crate) fn mq_send(fd: i32, text: &[u8], prio: u32) -> Option<Answer<i32>> {
    with_posix(fd, |queue| queue.send(text, prio).map(|()| 0).map_err(errno))
}

pub(crate) fn mq_receive(fd: i32, len: usize) -> Option<Answer<(Vec<u8>, u32)>> {
    with_posix(fd, |queue| {
        let mut text = vec![0; len];
        let (len, prio) = queue.recv(&mut text).map_err(errno)?;
        text.truncate(len);
        Ok((text, prio))
    })
}

/// Closes a queue's descriptor, whichever it is.
pub(crate) fn close(fd: i32) -> Option<Answer<i32>> {
    let place = place()?;
    if handles().posix.remove(&fd).is_some() {
        return Some(Ok(0));
    }
    // SAFETY: passes a number.
    let closed = raw::close_queue(place, fd, || unsafe { libc::close(fd) });
    Some(if closed == 0 { Ok(0) } else { Err(Errno(libc::EBADF)) })
}
