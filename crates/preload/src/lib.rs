//! The libc symbols of System V IPC, for dynamic programs.
//!
//! What users see: `msgget msgsnd msgrcv msgctl semget semop semtimedop semctl shmget shmat shmdt shmctl`, those of POSIX queues
//! ([`mqueue`]), and `syscall` with their numbers, act on the namespace of `ipcspace run`, and so do the files in /proc that show it ([`files`]); the calls that change
//! credentials are watched, `unshare`, `setns` and `clone` go to other namespaces of ours ([`namespaces`]), those that install signal handlers or change signal masks are, and `dlopen` is, for its
//! `RTLD_DEEPBIND`.
//! What is missing: see [`mqueue`].
//!
//! No logic here, but for that of descriptors in [`files`]: decode, call, encode. `errno` is written in [`finish`] only.
//!
//! # Safety
//! Each symbol has the signature of libc's. Pointers of the program are passed on as numbers and only ever copied
//! from and to by the fault-safe copy.
#![no_std]
#![expect(unsafe_code, reason = "a C interface")]

#[expect(unreachable_pub, reason = "exported to C by name")]
mod credentials;
#[expect(unreachable_pub, reason = "exported to C by name")]
mod files;
#[expect(unreachable_pub, reason = "exported to C by name")]
mod loader;
#[expect(unreachable_pub, reason = "exported to C by name")]
mod mappings;
#[expect(unreachable_pub, reason = "exported to C by name")]
mod mqueue;
#[expect(unreachable_pub, reason = "exported to C by name")]
mod namespaces;
#[expect(unreachable_pub, reason = "exported to C by name")]
mod process;
mod runtime;
#[expect(unreachable_pub, reason = "exported to C by name")]
mod signal;

use core::ffi::{c_int, c_long};

use abi::Result;
use engine::{
    Syscall,
    syscall::{Msgctl, Msgget, Msgrcv, Msgsnd, Semctl, Semget, Semtimedop, Shmat, Shmctl, Shmget},
};

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
}

fn errno() -> c_int {
    // SAFETY: libc's errno of this thread.
    unsafe { __errno_location().read() }
}

fn set_errno(value: c_int) {
    // SAFETY: libc's errno of this thread.
    unsafe { __errno_location().write(value) };
}

/// The one place where `errno` is written for a call.
fn finish(result: Result<i64>) -> i64 {
    match result {
        Ok(value) => value,
        Err(error) => {
            set_errno(error.raw());
            -1
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the calls return an int")]
fn finish_int(result: Result<i64>) -> c_int {
    finish(result) as c_int
}

/// `msgget(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn msgget(key: c_int, flags: c_int) -> c_int {
    finish_int(client::call(&Msgget { key, flags }))
}

/// `msgsnd(2)`; a cancellation point.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn msgsnd(id: c_int, msgp: usize, size: usize, flags: c_int) -> c_int {
    client::test_cancel();
    finish_int(client::call(&Msgsnd { id, msgp: msgp as u64, size: size as u64, flags, mtype: None }))
}

/// `msgrcv(2)`; a cancellation point.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn msgrcv(id: c_int, msgp: usize, size: usize, msgtyp: c_long, flags: c_int) -> isize {
    client::test_cancel();
    let call = Msgrcv { id, msgp: msgp as u64, size: size as u64, msgtyp, flags, text: None };
    #[expect(clippy::cast_possible_truncation, reason = "the same width")]
    let received = finish(client::call(&call)) as isize;
    received
}

/// `msgctl(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn msgctl(id: c_int, cmd: c_int, buf: usize) -> c_int {
    finish_int(client::call(&Msgctl { id, cmd, buf: buf as u64 }))
}

/// `semget(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn semget(key: c_int, nsems: c_int, flags: c_int) -> c_int {
    finish_int(client::call(&Semget { key, nsems, flags }))
}

/// `semop(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn semop(id: c_int, sops: usize, nsops: usize) -> c_int {
    finish_int(client::call(&Semtimedop {
        id,
        sops: sops as u64,
        nsops: nsops as u64,
        timeout: 0,
        time32: false,
    }))
}

/// `semtimedop(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn semtimedop(id: c_int, sops: usize, nsops: usize, timeout: usize) -> c_int {
    finish_int(client::call(&Semtimedop {
        id,
        sops: sops as u64,
        nsops: nsops as u64,
        timeout: timeout as u64,
        time32: false,
    }))
}

/// `semctl(2)`. Variadic in C: a fourth argument that was not passed is a register's old value, as in the kernel.
#[unsafe(no_mangle)]
pub extern "C" fn semctl(id: c_int, num: c_int, cmd: c_int, arg: usize) -> c_int {
    finish_int(client::call(&Semctl { id, num, cmd, arg: arg as u64 }))
}

/// `shmget(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn shmget(key: c_int, size: usize, flags: c_int) -> c_int {
    finish_int(client::call(&Shmget { key, size: size as u64, flags }))
}

/// `shmat(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn shmat(id: c_int, addr: usize, flags: c_int) -> isize {
    #[expect(clippy::cast_possible_truncation, reason = "the same width")]
    let at = finish(client::call(&Shmat { id, addr: addr as u64, flags, raddr: None })) as isize;
    at
}

/// `shmdt(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn shmdt(addr: usize) -> c_int {
    finish_int(client::shmdt(addr as u64))
}

/// `shmctl(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn shmctl(id: c_int, cmd: c_int, buf: usize) -> c_int {
    finish_int(client::call(&Shmctl { id, cmd, buf: buf as u64 }))
}

/// `syscall(2)`. The numbers of the calls that the engine has come here, all others go to the kernel.
#[unsafe(no_mangle)]
pub extern "C" fn syscall(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    let ours = Syscall::decode(number, [a, b, c, d, e, f].map(|register| register as u64));
    let result = match ours {
        Some(call) if abi::syscall::is_mq(number) => client::uncancellable(|| client::call_again(&call)),
        Some(call) => client::uncancellable(|| client::call(&call)),
        None => {
            let ours = signal::raw(number, [a, b, c, d]);
            ours.or_else(|| namespaces::raw(number, [a, b, c, d, e])).unwrap_or_else(|| {
                mqueue::before_raw(number);
                // SAFETY: the program's own call, with its own arguments.
                let result = unsafe { sys::syscall6(number, a, b, c, d, e, f) };
                credentials::note_raw(number);
                mqueue::note_raw(number, [a, b], result);
                sys::check(result).map(|value| value as i64)
            })
        }
    };
    finish(result)
}
