//! What a process is known by.
//!
//! # Safety
//! A new descriptor belongs to nobody else.

use std::fs;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use abi::{Errno, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A descriptor that is readable when the process has ended.
///
/// # Errors
/// `ESRCH`.
pub fn pidfd_open(pid: u32) -> Result<OwnedFd> {
    // SAFETY: two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or(Errno::ESRCH)?;
    // SAFETY: a new descriptor of ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether the process of a descriptor has ended.
pub fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// When a process began, in clock ticks after boot.
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}
