//! The libc symbols of System V IPC, for dynamic programs.
//!
//! What users see: `msgget msgsnd msgrcv msgctl semget semop semtimedop semctl`, and `syscall` with their numbers,
//! act on the namespace of `ipcspace run`; the calls that change credentials are watched, and `dlopen` is, for its
//! `RTLD_DEEPBIND`.
//! What is missing: shared memory, POSIX queues; `sigaction` is not watched yet (see LIMITATIONS.md).
//!
//! No logic here: decode, call, encode. `errno` is written in [`finish`] only.
//!
//! # Safety
//! Each symbol has the signature of libc's. Pointers of the program are passed on as numbers and only ever copied
//! from and to by the fault-safe copy.
#![no_std]
#![expect(unsafe_code, reason = "a C interface")]

#[expect(unreachable_pub, reason = "exported to C by name")]
mod credentials;
#[expect(unreachable_pub, reason = "exported to C by name")]
mod loader;
mod runtime;

use core::ffi::{c_int, c_long};

use abi::{
    Errno, Result,
    ipc::{IPC_INFO, IPC_RMID, IPC_SET, IPC_STAT},
    msg::{MSG_INFO, MSG_STAT, MSG_STAT_ANY, Msqid64Ds},
    sem::{GETALL, SEM_INFO, SEM_STAT, SEM_STAT_ANY, SETALL, SETVAL, Semid64Ds},
    syscall as nr,
};
use engine::{msg, sem};

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
}

/// The one place where `errno` is written.
fn finish(result: Result<i64>) -> i64 {
    match result {
        Ok(value) => value,
        Err(error) => {
            // SAFETY: libc's errno of this thread.
            unsafe { __errno_location().write(error.raw()) };
            -1
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the calls return an int")]
fn finish_int(result: Result<i64>) -> c_int {
    finish(result) as c_int
}

/// Copies a structure to the program.
fn put<T: Copy>(to: usize, value: &T) -> Result<()> {
    // SAFETY: `value` is ours, faults at `to` are caught.
    unsafe { sys::copy::copy(to as *mut u8, core::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// Copies a structure of plain numbers from the program.
fn get<T: Copy + Default>(from: usize) -> Result<T> {
    let mut value = T::default();
    // SAFETY: `value` is ours and valid for any bytes, faults at `from` are caught.
    unsafe { sys::copy::copy(core::ptr::from_mut(&mut value).cast(), from as *const u8, size_of::<T>()) }?;
    Ok(value)
}

fn call_msgget(key: i32, flags: i32) -> Result<i64> {
    client::with(|ctx| msg::do_msgget(ctx, key, flags).map(i64::from))
}

fn call_msgsnd(id: i32, msgp: u64, size: u64, flags: i32) -> Result<i64> {
    client::with(|ctx| {
        let sent = msg::do_msgsnd(ctx, id, msgp, size, flags)?;
        client::wait(ctx, sent, None, |cause| msg::resume_msgsnd(ctx, id, flags, cause))
    })
}

fn call_msgrcv(call: &msg::Msgrcv) -> Result<i64> {
    client::with(|ctx| {
        let received = msg::do_msgrcv(ctx, call)?;
        client::wait(ctx, received, None, |cause| msg::resume_msgrcv(ctx, call, cause))
    })
}

fn call_msgctl(id: i32, cmd: i32, buf: usize) -> Result<i64> {
    msg::check_msgctl(id, cmd)?;
    match cmd {
        IPC_STAT | MSG_STAT | MSG_STAT_ANY => {
            let (result, stat) = client::with(|ctx| msg::msgctl_stat(ctx, id, cmd))?;
            put(buf, &stat)?;
            Ok(result.into())
        }
        IPC_INFO | MSG_INFO => {
            let (highest, info) = client::with(|ctx| msg::msgctl_info(ctx, cmd))?;
            put(buf, &info)?;
            Ok(highest.into())
        }
        IPC_SET => client::with(|ctx| msg::msgctl_set(ctx, id, &get::<Msqid64Ds>(buf)?)).map(|()| 0),
        IPC_RMID => client::with(|ctx| msg::msgctl_rmid(ctx, id)).map(|()| 0),
        _ => Err(Errno::EINVAL),
    }
}

fn call_semget(key: i32, nsems: i32, flags: i32) -> Result<i64> {
    client::with(|ctx| sem::do_semget(ctx, key, nsems, flags).map(i64::from))
}

fn call_semtimedop(id: i32, sops: u64, nsops: u64, timeout: usize) -> Result<i64> {
    // Nothing is copied before the process is attached: only then is a bad address caught.
    client::with(|ctx| {
        let timeout = if timeout == 0 { None } else { Some(get::<sys::Timespec>(timeout)?) };
        let valid = timeout.is_none_or(|t| t.tv_sec >= 0 && (0..1_000_000_000).contains(&t.tv_nsec));
        let deadline = timeout.filter(|_| valid).map(|t| {
            let ns = t
                .tv_sec
                .cast_unsigned()
                .saturating_mul(1_000_000_000)
                .saturating_add(t.tv_nsec.cast_unsigned());
            sys::monotonic_ns().saturating_add(ns)
        });
        let done = sem::do_semtimedop(ctx, id, sops, nsops, valid)?;
        client::wait(ctx, done, deadline, |cause| sem::resume_semtimedop(ctx, cause))
    })
}

fn call_semctl(id: i32, num: i32, cmd: i32, arg: usize) -> Result<i64> {
    sem::check_semctl(id, cmd)?;
    match cmd {
        IPC_STAT | SEM_STAT | SEM_STAT_ANY => {
            let (result, stat) = client::with(|ctx| sem::semctl_stat(ctx, id, cmd))?;
            put(arg, &stat)?;
            Ok(result.into())
        }
        IPC_INFO | SEM_INFO => {
            let (highest, info) = client::with(|ctx| sem::semctl_info(ctx, cmd))?;
            put(arg, &info)?;
            Ok(highest.into())
        }
        IPC_SET => client::with(|ctx| sem::semctl_set(ctx, id, &get::<Semid64Ds>(arg)?)).map(|()| 0),
        IPC_RMID => client::with(|ctx| sem::semctl_rmid(ctx, id)).map(|()| 0),
        // The union's int is the low half of the argument.
        #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "the union's int")]
        SETVAL => client::with(|ctx| sem::semctl_setval(ctx, id, num, arg as i32)).map(|()| 0),
        SETALL => client::with(|ctx| sem::semctl_setall(ctx, id, arg as u64)).map(|()| 0),
        GETALL => client::with(|ctx| sem::semctl_getall(ctx, id, arg as u64)).map(|()| 0),
        _ => client::with(|ctx| sem::semctl_get(ctx, id, num, cmd).map(i64::from)),
    }
}

/// `msgget(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn msgget(key: c_int, flags: c_int) -> c_int {
    finish_int(call_msgget(key, flags))
}

/// `msgsnd(2)`; a cancellation point.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn msgsnd(id: c_int, msgp: usize, size: usize, flags: c_int) -> c_int {
    runtime::test_cancel();
    finish_int(call_msgsnd(id, msgp as u64, size as u64, flags))
}

/// `msgrcv(2)`; a cancellation point.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn msgrcv(id: c_int, msgp: usize, size: usize, msgtyp: c_long, flags: c_int) -> isize {
    runtime::test_cancel();
    let call = msg::Msgrcv { id, msgp: msgp as u64, size: size as u64, msgtyp, flags };
    #[expect(clippy::cast_possible_truncation, reason = "the same width")]
    let received = finish(call_msgrcv(&call)) as isize;
    received
}

/// `msgctl(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn msgctl(id: c_int, cmd: c_int, buf: usize) -> c_int {
    finish_int(call_msgctl(id, cmd, buf))
}

/// `semget(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn semget(key: c_int, nsems: c_int, flags: c_int) -> c_int {
    finish_int(call_semget(key, nsems, flags))
}

/// `semop(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn semop(id: c_int, sops: usize, nsops: usize) -> c_int {
    finish_int(call_semtimedop(id, sops as u64, nsops as u64, 0))
}

/// `semtimedop(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn semtimedop(id: c_int, sops: usize, nsops: usize, timeout: usize) -> c_int {
    finish_int(call_semtimedop(id, sops as u64, nsops as u64, timeout))
}

/// `semctl(2)`. Variadic in C: a fourth argument that was not passed is a register's old value, as in the kernel.
#[unsafe(no_mangle)]
pub extern "C" fn semctl(id: c_int, num: c_int, cmd: c_int, arg: usize) -> c_int {
    finish_int(call_semctl(id, num, cmd, arg))
}

/// `syscall(2)`. The numbers of System V calls come here, all others go to the kernel.
#[unsafe(no_mangle)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "the kernel takes ints of these registers"
)]
pub extern "C" fn syscall(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    let result = match number {
        nr::MSGGET => call_msgget(a as i32, b as i32),
        nr::MSGSND => call_msgsnd(a as i32, b as u64, c as u64, d as i32),
        nr::MSGRCV => {
            let (msgp, size) = (b as u64, c as u64);
            call_msgrcv(&msg::Msgrcv { id: a as i32, msgp, size, msgtyp: d as i64, flags: e as i32 })
        }
        nr::MSGCTL => call_msgctl(a as i32, b as i32, c),
        nr::SEMGET => call_semget(a as i32, b as i32, c as i32),
        nr::SEMOP => call_semtimedop(a as i32, b as u64, c as u64, 0),
        nr::SEMTIMEDOP => call_semtimedop(a as i32, b as u64, c as u64, d),
        nr::SEMCTL => call_semctl(a as i32, b as i32, c as i32, d),
        // SAFETY: the program's own call, with its own arguments.
        _ => sys::check(unsafe { sys::syscall6(number, a, b, c, d, e, f) }).map(|value| value as i64),
    };
    finish(result)
}
