//! Processes of other users.
//!
//! # Safety
//! This process has one thread when it forks.

use std::error::Error;
use std::{fs, io, panic};

/// A forked process, which is killed when it is no longer wanted.
pub(crate) struct Process(libc::pid_t);

impl Process {
    /// Runs something as another user, in a process of its own.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn start(uid: u32, run: impl FnOnce() -> Result<(), Box<dyn Error>>) -> io::Result<Process> {
        // SAFETY: there is one thread.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                // What is the parent's to drop must not be dropped here.
                let done = panic::catch_unwind(panic::AssertUnwindSafe(|| {
                    become_user(uid).map_err(Into::into).and_then(|()| run())
                }));
                if let Ok(Err(error)) = &done {
                    eprintln!("hostile: a process of uid {uid}: {error}");
                }
                // SAFETY: passes a number.
                unsafe { libc::_exit(i32::from(!matches!(done, Ok(Ok(()))))) }
            }
            pid => Ok(Process(pid)),
        }
    }

    /// Waits for its end. Whether all went well.
    pub(crate) fn wait(self) -> bool {
        let mut status = 0;
        // SAFETY: the status is written to a local.
        let waited = unsafe { libc::waitpid(self.0, &raw mut status, 0) };
        let is_well = waited == self.0 && status == 0;
        std::mem::forget(self);
        is_well
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SAFETY: numbers and a null pointer: our child, which nobody else has waited for.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

fn become_user(uid: u32) -> io::Result<()> {
    // By libc, so that the library notices.
    // SAFETY: numbers, and no groups.
    let done = unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0
            && libc::setgroups(0, std::ptr::null()) == 0
            && libc::setresgid(uid, uid, uid) == 0
            && libc::setresuid(uid, uid, uid) == 0
            && libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0
            && libc::prctl(libc::PR_SET_DUMPABLE, 1) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A number of a process's status, as /proc/PID/status has it.
pub(crate) fn status(pid: u32, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
