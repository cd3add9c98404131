//! The least that any trap costs: a call that the kernel asks about, and another thread answers with a constant.
//!
//! # Safety
//! Structures are locals of the types that the kernel's calls take.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::mpsc;
use std::{mem, thread};

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, c_int, c_ulong, sock_filter, sock_fprog,
};

use crate::Outcome;
use crate::clock::Clock;
use crate::objects::checked;

const ANSWER: i64 = 7;

/// Makes the calls in a thread of its own, as it can't get rid of its filter.
pub(crate) fn time(clock: &mut Clock) -> Outcome<()> {
    thread::scope(|scope| {
        let caller = scope.spawn(|| timed(clock).map_err(|error| error.to_string()));
        Ok(caller.join().map_err(|_| "the thread with the filter ended")??)
    })
}

fn timed(clock: &mut Clock) -> Outcome<()> {
    let (send, receive) = mpsc::channel();
    let answers = clock.iterations();
    let answering = thread::spawn(move || receive.recv().map(|listener| answer(&listener, answers)));
    send.send(install()?)?;
    drop(send);
    let done = clock.time(|| match call() {
        ANSWER => Ok(()),
        other => Err(format!("answered by {other}").into()),
    });
    answering.join().map_err(|_| "the thread that answers ended")??;
    done
}

fn call() -> i64 {
    // SAFETY: takes nothing.
    unsafe { libc::syscall(libc::SYS_getppid) }
}

/// A filter of the calling thread's that asks about `getppid`.
fn install() -> Outcome<OwnedFd> {
    let instruction = |code: u32, jt, jf, k| sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        instruction(BPF_LD | BPF_W | BPF_ABS, 0, 0, 0),
        instruction(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, libc::SYS_getppid as u32),
        instruction(BPF_RET | BPF_K, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
        instruction(BPF_RET | BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: integers.
    checked("no_new_privs", unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    // SAFETY: a valid program.
    let fd =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    let fd = checked("seccomp", fd as c_int)?;
    // SAFETY: a new descriptor of ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Answers so many calls; the end of the listener answers others.
fn answer(listener: &OwnedFd, calls: u64) {
    const SYNC_WAKE_UP: c_ulong = 1;
    let control = |request, structure: *mut libc::c_void| {
        // SAFETY: the structure is the request's.
        unsafe { libc::ioctl(listener.as_raw_fd(), request, structure) }
    };
    control(libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP as *mut libc::c_void);
    for _ in 0..calls {
        // SAFETY: integers, which the kernel wants to be zeros.
        let mut asked: libc::seccomp_notif = unsafe { mem::zeroed() };
        if control(libc::SECCOMP_IOCTL_NOTIF_RECV, (&raw mut asked).cast()) == -1 {
            return;
        }
        let mut response = libc::seccomp_notif_resp { id: asked.id, val: ANSWER, error: 0, flags: 0 };
        control(libc::SECCOMP_IOCTL_NOTIF_SEND, (&raw mut response).cast());
    }
}
