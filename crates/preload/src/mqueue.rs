//! The libc symbols of POSIX queues.
//!
//! What users see: `mq_open` and all others, which libc makes of six system calls, as glibc does: names begin with a slash, and a notification by a
//! thread has one that waits for it.
//!
//! # Safety
//! As in the crate's head; the names of queues are read here as libc reads them. libc's functions have the signatures that they are called by.

use core::ffi::{c_char, c_int, c_long, c_uint};

use abi::{
    Errno, Result,
    mqueue::{O_CREAT, SIGEV_THREAD, Sigevent},
};
use engine::syscall::{MqGetsetattr, MqNotify, MqOpen, MqTimedreceive, MqTimedsend, MqUnlink};

use crate::{finish, finish_int, loader::Next};

/// A queue's name without its slash.
///
/// # Safety
/// A terminated string.
unsafe fn name_of(name: *const c_char) -> Result<u64> {
    // SAFETY: the caller's promise.
    if unsafe { name.read() } != b'/'.cast_signed() {
        return Err(Errno::EINVAL);
    }
    Ok(name.addr() as u64 + 1)
}

/// `mq_open(3)`. Variadic in C: mode and attributes are there with `O_CREAT`.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_open(name: *const c_char, oflag: c_int, mode: c_uint, attr: usize) -> c_int {
    let (mode, attr) = if oflag & O_CREAT != 0 { (mode, attr as u64) } else { (0, 0) };
    // SAFETY: the caller's promise.
    let name = unsafe { name_of(name) };
    finish_int(name.and_then(|name| client::call(&MqOpen { name, oflag, mode, attr })))
}

static MQ_OPEN_2: Next = Next::new(c"__mq_open_2");

/// `mq_open` as glibc's headers name it in programs that are fortified, where only two arguments are given. With `O_CREAT` it is libc's, which
/// ends the program.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __mq_open_2(name: *const c_char, oflag: c_int) -> c_int {
    if oflag & O_CREAT != 0 {
        // SAFETY: libc's function of that name.
        let refuse: extern "C" fn(*const c_char, c_int) -> c_int =
            unsafe { core::mem::transmute(MQ_OPEN_2.get()) };
        return refuse(name, oflag);
    }
    // SAFETY: the caller's promise.
    unsafe { mq_open(name, oflag, 0, 0) }
}

/// `mq_close(3)`.
#[unsafe(no_mangle)]
pub extern "C" fn mq_close(fd: c_int) -> c_int {
    crate::files::close_number(fd)
}

/// `mq_unlink(3)`.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_unlink(name: *const c_char) -> c_int {
    // SAFETY: the caller's promise.
    let name = unsafe { name_of(name) };
    finish_int(name.and_then(|name| client::call(&MqUnlink { name })).map_err(|error| match error {
        // As POSIX names it.
        Errno::EPERM => Errno::EACCES,
        error => error,
    }))
}

/// `mq_getattr(3)`.
#[unsafe(no_mangle)]
pub extern "C" fn mq_getattr(fd: c_int, attr: usize) -> c_int {
    finish_int(client::call(&MqGetsetattr { fd, new: 0, old: attr as u64 }))
}

/// `mq_setattr(3)`.
#[unsafe(no_mangle)]
pub extern "C" fn mq_setattr(fd: c_int, new: usize, old: usize) -> c_int {
    finish_int(client::call(&MqGetsetattr { fd, new: new as u64, old: old as u64 }))
}

/// `mq_send(3)`; a cancellation point.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn mq_send(fd: c_int, msg: usize, len: usize, prio: c_uint) -> c_int {
    mq_timedsend(fd, msg, len, prio, 0)
}

/// `mq_timedsend(3)`; a cancellation point.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn mq_timedsend(
    fd: c_int,
    msg: usize,
    len: usize,
    prio: c_uint,
    timeout: usize,
) -> c_int {
    client::test_cancel();
    let call =
        MqTimedsend { fd, msg: msg as u64, len: len as u64, prio, timeout: timeout as u64, time32: false };
    finish_int(client::call_again(&call))
}

/// `mq_receive(3)`; a cancellation point.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn mq_receive(fd: c_int, msg: usize, len: usize, prio: usize) -> isize {
    mq_timedreceive(fd, msg, len, prio, 0)
}

/// `mq_timedreceive(3)`; a cancellation point.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn mq_timedreceive(
    fd: c_int,
    msg: usize,
    len: usize,
    prio: usize,
    timeout: usize,
) -> isize {
    client::test_cancel();
    let call = MqTimedreceive {
        fd,
        msg: msg as u64,
        len: len as u64,
        prio: prio as u64,
        timeout: timeout as u64,
        time32: false,
    };
    #[expect(clippy::cast_possible_truncation, reason = "the same width")]
    let received = finish(client::call_again(&call)) as isize;
    received
}

/// `mq_notify(3)`.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_notify(fd: c_int, event: *const Sigevent) -> c_int {
    // SAFETY: the caller's promise: null, or what libc reads as well.
    let by_thread = unsafe { event.as_ref() }.filter(|event| event.sigev_notify == SIGEV_THREAD);
    finish_int(match by_thread {
        // SAFETY: the caller's promise.
        Some(event) => unsafe { client::notify_by_thread(fd, event) },
        None => client::call(&MqNotify { fd, sevp: event.addr() as u64 }),
    })
}

/// The program is about to make a call by its number: one that may poll queues, or hand them on, is not taken to pieces.
pub(crate) fn before_raw(number: c_long) {
    // poll ioctl select sendmsg fcntl epoll_wait epoll_ctl pselect6 ppoll epoll_pwait sendmmsg io_uring_enter epoll_pwait2
    const POLLS: [c_long; 13] = [7, 16, 23, 46, 72, 232, 233, 270, 271, 281, 307, 426, 441];
    if client::mqd::has_any() && POLLS.contains(&number) {
        crate::files::watch_all();
    }
}

/// The program has made a call by its number.
#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "ints in registers")]
pub(crate) fn note_raw(number: c_long, [first, second]: [usize; 2], result: isize) {
    const CLOSE: c_long = 3;
    const DUP2: c_long = 33;
    const UMASK: c_long = 95;
    const DUP3: c_long = 292;
    const CLOSE_RANGE: c_long = 436;
    if number == CLOSE_RANGE && result >= 0 {
        return crate::files::closed_numbers(first as c_uint, second as c_uint);
    }
    let gone = match number {
        CLOSE => first as i32,
        DUP2 | DUP3 if first != second => second as i32,
        UMASK => return client::mqd::umask_set(first as u32),
        _ => return,
    };
    if result >= 0
        && let Some(queue) = client::mqd::forget(gone)
    {
        client::mqd::closed(queue);
    }
}

// ---- umask

static UMASK: Next = Next::new(c"umask");

/// `umask(2)`: new queues heed it.
#[unsafe(no_mangle)]
pub extern "C" fn umask(mask: c_uint) -> c_uint {
    // SAFETY: libc's function of that name.
    let set: extern "C" fn(c_uint) -> c_uint = unsafe { core::mem::transmute(UMASK.get()) };
    let before = set(mask);
    client::mqd::umask_set(mask);
    before
}
