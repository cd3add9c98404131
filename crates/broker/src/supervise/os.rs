//! The few calls on processes that must know real-time signals too, which `nix::Signal` doesn't.

use std::time::Duration;
use std::{io, ptr};

use nix::poll::PollTimeout;

/// What waitpid(2) tells of the children of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Child {
    /// This one ended, stopped or went on.
    Changed { pid: i32, status: i32 },
    /// There are some, and nothing new of them.
    Quiet,
    /// There is none.
    None,
}

/// The next news of any child.
pub(super) fn next_child() -> Child {
    let mut status = 0;
    let options = libc::WNOHANG | libc::WUNTRACED | libc::WCONTINUED;
    match trap::wait_for_child(&mut status, options) {
        0 => Child::Quiet,
        -1 => Child::None,
        pid => Child::Changed { pid, status },
    }
}

/// Waits until that child has ended.
pub(super) fn reap(pid: i32) {
    // SAFETY: no memory is passed.
    while unsafe { libc::waitpid(pid, ptr::null_mut(), 0) } == -1
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
}

/// kill(2), or sigqueue(3) where there is a value. A process that is gone or not ours is no error here.
pub(super) fn signal(pid: i32, signal: i32, value: Option<u64>) {
    // SAFETY: no memory is passed: the value goes on as the number it is, whether or not its sender meant a pointer.
    unsafe {
        match value {
            Some(value) => {
                libc::sigqueue(pid, signal, libc::sigval { sival_ptr: value as *mut libc::c_void })
            }
            None => libc::kill(pid, signal),
        };
    }
}

/// Gives this process what that signal does by default: its end or its stop.
pub(super) fn suffer(signal: i32) {
    // SAFETY: the mask is a local; this program has no handlers that could run.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, signal);
        libc::sigprocmask(libc::SIG_UNBLOCK, &set, ptr::null_mut());
        // Here it happens.
        libc::sigprocmask(libc::SIG_BLOCK, &set, ptr::null_mut());
    }
}

/// Whether a blocked signal has arrived.
pub(super) fn is_pending(signal: i32) -> bool {
    // SAFETY: the set is a local that sigpending fills.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigpending(&mut set) == 0 && libc::sigismember(&set, signal) == 1
    }
}

/// How long poll(2) is to wait. Rounded up, so that nobody is called too early, again and again.
pub(crate) fn timeout(wait: Option<Duration>) -> PollTimeout {
    wait.map_or(PollTimeout::NONE, |wait| {
        PollTimeout::try_from(wait.as_millis() + 1).unwrap_or(PollTimeout::MAX)
    })
}

/// The parent of a process, if there is such a process.
pub(crate) fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, also spaces and parentheses.
    let after_name = &stat[stat.iter().rposition(|&byte| byte == b')')? + 1..];
    std::str::from_utf8(after_name).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The direct children of a process.
pub(super) fn children(of: i32) -> io::Result<Vec<i32>> {
    let names = std::fs::read_dir("/proc")?.flatten().map(|entry| entry.file_name());
    Ok(names
        .filter_map(|name| name.to_string_lossy().parse().ok())
        .filter(|&pid| parent(pid) == Some(of))
        .collect())
}
