//! `libipcspace`: the calls of System V IPC and POSIX queues for C programs, by names that begin with `ipcspace_`.
//!
//! What users see: libipcspace(3). Each function is the call of its name, in the namespace that the program has chosen, or else in the one that is found at the first call: that of
//! `ipcspace run`, that of the variable `IPCSPACE_NAMESPACE`, or a private one.
//! What is missing: cancellation but in the sleeps of `msgsnd` and `msgrcv`.
//!
//! No logic here, but for that choice: decode, call, encode.
//!
//! # Safety
//! Each symbol has the signature that ipcspace.h declares. Pointers are passed on as numbers and only ever copied from and to by the fault-safe copy, or by the
//! kernel; but for names, which are read here as libc reads them.
#![expect(unsafe_code, reason = "a C interface")]

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_long, c_uint};
use std::sync::OnceLock;

use abi::mqueue::{O_CREAT, SIGEV_THREAD, Sigevent};
use engine::Call;
use engine::syscall::{
    MqGetsetattr, MqNotify, MqOpen, MqTimedreceive, MqTimedsend, MqUnlink, Msgctl, Msgget, Msgrcv, Msgsnd,
    Semctl, Semget, Semtimedop, Shmat, Shmctl, Shmget,
};
use ipcspace_api::{Error, Namespace, raw};

/// Where the program's calls are made.
static PLACE: OnceLock<Namespace> = OnceLock::new();
/// The namespace of programs that choose none.
const VARIABLE: &str = "IPCSPACE_NAMESPACE";

thread_local! {
    static REASON: RefCell<CString> = RefCell::default();
}

fn set_errno(value: c_int) {
    // SAFETY: libc's errno of this thread.
    unsafe { libc::__errno_location().write(value) };
}

/// The one place where `errno` is written for a call.
fn finish(result: Result<i64, i32>) -> i64 {
    match result {
        Ok(value) => value,
        Err(errno) => {
            set_errno(errno);
            -1
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the calls return an int")]
fn finish_int(result: Result<i64, i32>) -> c_int {
    finish(result) as c_int
}

// ---- where

/// Notes why there is no namespace, for people.
fn note(error: &Error) -> i32 {
    let text = CString::new(error.to_string()).unwrap_or_default();
    // At the end of a thread there is nobody to tell.
    let _ = REASON.try_with(|reason| reason.replace(text));
    error.errno()
}

/// Where calls are made that come before any choice.
#[cold]
fn found() -> Result<Namespace, Error> {
    match Namespace::current() {
        Err(error) if error.errno() == libc::ENOENT => {}
        found => return found,
    }
    match std::env::var(VARIABLE) {
        Ok(name) if !name.is_empty() => join_or_make(&name),
        _ => Namespace::private(),
    }
}

/// Whoever comes first makes it.
fn join_or_make(name: &str) -> Result<Namespace, Error> {
    loop {
        match Namespace::open(name) {
            Err(error) if error.errno() == libc::ENOENT => {}
            found => return found,
        }
        match Namespace::builder(name).create() {
            // Another was faster.
            Err(error) if error.errno() == libc::EEXIST => std::thread::yield_now(),
            made => return made,
        }
    }
}

#[inline]
fn place() -> Result<Namespace, i32> {
    match PLACE.get() {
        Some(place) => Ok(*place),
        None => found().map(|found| *PLACE.get_or_init(|| found)).map_err(|error| note(&error)),
    }
}

/// Makes the choice, unless it has been made.
fn choose(choice: impl FnOnce() -> Result<Namespace, Error>) -> c_int {
    let chosen = match PLACE.get() {
        Some(_) => Err(libc::EBUSY),
        None => choice().map_err(|error| note(&error)),
    };
    let done = chosen.and_then(|new| PLACE.set(new).map_err(|_| libc::EBUSY));
    finish_int(done.map(|()| 0))
}

/// A name that a program passes.
///
/// # Safety
/// A terminated string.
unsafe fn name_of<'a>(name: *const c_char) -> &'a str {
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(name) };
    // What is no text can be no name either.
    name.to_str().unwrap_or("")
}

/// A namespace of this process and its children.
#[unsafe(no_mangle)]
pub extern "C" fn ipcspace_private() -> c_int {
    choose(Namespace::private)
}

/// The namespace of that name, which is there.
///
/// # Safety
/// A terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipcspace_open(name: *const c_char) -> c_int {
    // SAFETY: the caller's promise.
    let name = unsafe { name_of(name) };
    choose(|| Namespace::open(name))
}

/// The namespace of that name; whoever comes first makes it.
///
/// # Safety
/// A terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipcspace_join(name: *const c_char) -> c_int {
    // SAFETY: the caller's promise.
    let name = unsafe { name_of(name) };
    choose(|| join_or_make(name))
}

/// The namespace that `ipcspace run` has started the program in.
#[unsafe(no_mangle)]
pub extern "C" fn ipcspace_current() -> c_int {
    choose(Namespace::current)
}

/// The kernel's objects.
#[unsafe(no_mangle)]
pub extern "C" fn ipcspace_kernel() -> c_int {
    choose(|| Ok(Namespace::kernel()))
}

/// Why this thread's last choice of a namespace failed; valid until its next one.
#[unsafe(no_mangle)]
pub extern "C" fn ipcspace_reason() -> *const c_char {
    REASON.try_with(|reason| reason.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

// ---- System V

#[inline]
fn call<C: Call>(call: &C) -> Result<i64, i32> {
    raw::call(place()?, call)
}

/// `msgget(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn ipcspace_msgget(key: c_int, flags: c_int) -> c_int {
    finish_int(call(&Msgget { key, flags }))
}

/// `msgsnd(2)`; a thread may be cancelled in its sleep.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn ipcspace_msgsnd(id: c_int, msgp: usize, size: usize, flags: c_int) -> c_int {
    finish_int(call(&Msgsnd { id, msgp: msgp as u64, size: size as u64, flags, mtype: None }))
}

/// `msgrcv(2)`; a thread may be cancelled in its sleep.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn ipcspace_msgrcv(
    id: c_int,
    msgp: usize,
    size: usize,
    msgtyp: c_long,
    flags: c_int,
) -> isize {
    finish(call(&Msgrcv { id, msgp: msgp as u64, size: size as u64, msgtyp, flags, text: None })) as isize
}

/// `msgctl(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn ipcspace_msgctl(id: c_int, cmd: c_int, buf: usize) -> c_int {
    finish_int(call(&Msgctl { id, cmd, buf: buf as u64 }))
}

/// `semget(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn ipcspace_semget(key: c_int, nsems: c_int, flags: c_int) -> c_int {
    finish_int(call(&Semget { key, nsems, flags }))
}

/// `semop(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn ipcspace_semop(id: c_int, sops: usize, nsops: usize) -> c_int {
    ipcspace_semtimedop(id, sops, nsops, 0)
}

/// `semtimedop(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn ipcspace_semtimedop(id: c_int, sops: usize, nsops: usize, timeout: usize) -> c_int {
    let (sops, nsops, timeout) = (sops as u64, nsops as u64, timeout as u64);
    finish_int(call(&Semtimedop { id, sops, nsops, timeout, time32: false }))
}

/// `semctl(2)`. Variadic in C: a fourth argument that was not passed is a register's old value, as in the kernel.
#[unsafe(no_mangle)]
pub extern "C" fn ipcspace_semctl(id: c_int, num: c_int, cmd: c_int, arg: usize) -> c_int {
    finish_int(call(&Semctl { id, num, cmd, arg: arg as u64 }))
}

/// `shmget(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn ipcspace_shmget(key: c_int, size: usize, flags: c_int) -> c_int {
    finish_int(call(&Shmget { key, size: size as u64, flags }))
}

/// `shmat(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn ipcspace_shmat(id: c_int, addr: usize, flags: c_int) -> isize {
    finish(call(&Shmat { id, addr: addr as u64, flags, raddr: None })) as isize
}

/// `shmdt(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn ipcspace_shmdt(addr: usize) -> c_int {
    finish_int(place().and_then(|place| raw::detach(place, addr as u64)))
}

/// `shmctl(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn ipcspace_shmctl(id: c_int, cmd: c_int, buf: usize) -> c_int {
    finish_int(call(&Shmctl { id, cmd, buf: buf as u64 }))
}

// ---- POSIX message queues

/// A queue's name without its slash, as the system call takes it.
///
/// # Safety
/// A terminated string.
unsafe fn queue_of(name: *const c_char) -> Result<u64, i32> {
    // SAFETY: the caller's promise.
    if unsafe { name.read() } != b'/'.cast_signed() {
        return Err(libc::EINVAL);
    }
    Ok(name.expose_provenance() as u64 + 1)
}

/// `mq_open(3)`. Variadic in C: mode and attributes are there with `O_CREAT`.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipcspace_mq_open(
    name: *const c_char,
    oflag: c_int,
    mode: c_uint,
    attr: usize,
) -> c_int {
    let (mode, attr) = if oflag & O_CREAT != 0 { (mode, attr as u64) } else { (0, 0) };
    // SAFETY: the caller's promise.
    let name = unsafe { queue_of(name) };
    finish_int(name.and_then(|name| call(&MqOpen { name, oflag, mode, attr })))
}

/// `mq_close(3)`.
#[unsafe(no_mangle)]
pub extern "C" fn ipcspace_mq_close(fd: c_int) -> c_int {
    // SAFETY: the program's own descriptor.
    let close = || unsafe { libc::close(fd) };
    match place() {
        Ok(place) => raw::close_queue(place, fd, close),
        Err(errno) => finish_int(Err(errno)),
    }
}

/// `mq_unlink(3)`.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipcspace_mq_unlink(name: *const c_char) -> c_int {
    // SAFETY: the caller's promise.
    let name = unsafe { queue_of(name) };
    let removed = name.and_then(|name| call(&MqUnlink { name }));
    // As POSIX names it.
    finish_int(removed.map_err(|errno| if errno == libc::EPERM { libc::EACCES } else { errno }))
}

/// `mq_send(3)`.
#[unsafe(no_mangle)]
pub extern "C" fn ipcspace_mq_send(fd: c_int, msg: usize, len: usize, prio: c_uint) -> c_int {
    ipcspace_mq_timedsend(fd, msg, len, prio, 0)
}

/// `mq_timedsend(3)`.
#[unsafe(no_mangle)]
pub extern "C" fn ipcspace_mq_timedsend(
    fd: c_int,
    msg: usize,
    len: usize,
    prio: c_uint,
    timeout: usize,
) -> c_int {
    let call =
        MqTimedsend { fd, msg: msg as u64, len: len as u64, prio, timeout: timeout as u64, time32: false };
    finish_int(place().and_then(|place| raw::call_again(place, &call)))
}

/// `mq_receive(3)`.
#[unsafe(no_mangle)]
pub extern "C" fn ipcspace_mq_receive(fd: c_int, msg: usize, len: usize, prio: usize) -> isize {
    ipcspace_mq_timedreceive(fd, msg, len, prio, 0)
}

/// `mq_timedreceive(3)`.
#[unsafe(no_mangle)]
pub extern "C" fn ipcspace_mq_timedreceive(
    fd: c_int,
    msg: usize,
    len: usize,
    prio: usize,
    timeout: usize,
) -> isize {
    let (msg, len, prio, timeout) = (msg as u64, len as u64, prio as u64, timeout as u64);
    let call = MqTimedreceive { fd, msg, len, prio, timeout, time32: false };
    finish(place().and_then(|place| raw::call_again(place, &call))) as isize
}

/// `mq_getattr(3)`.
#[unsafe(no_mangle)]
pub extern "C" fn ipcspace_mq_getattr(fd: c_int, attr: usize) -> c_int {
    ipcspace_mq_setattr(fd, 0, attr)
}

/// `mq_setattr(3)`.
#[unsafe(no_mangle)]
pub extern "C" fn ipcspace_mq_setattr(fd: c_int, new: usize, old: usize) -> c_int {
    finish_int(call(&MqGetsetattr { fd, new: new as u64, old: old as u64 }))
}

/// `mq_notify(3)`.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipcspace_mq_notify(fd: c_int, event: *const Sigevent) -> c_int {
    // SAFETY: the caller's promise: null, or what libc reads as well.
    let by_thread = unsafe { event.as_ref() }.filter(|event| event.sigev_notify == SIGEV_THREAD);
    finish_int(match by_thread {
        // SAFETY: the caller's promise.
        Some(event) => place().and_then(|place| unsafe { raw::notify_by_thread(place, fd, event) }),
        None => call(&MqNotify { fd, sevp: event.expose_provenance() as u64 }),
    })
}
