//! What a process is known by.
//!
//! # Safety
//! A new descriptor belongs to nobody else; the kernel gets strings and room of ours.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use abi::{Errno, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::target::Status;

/// A descriptor that is readable when the process has ended.
///
/// # Errors
/// `ESRCH`, and `ENOMEM` where there is none left.
pub fn pidfd_open(pid: u32) -> Result<OwnedFd> {
    // SAFETY: two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    owned(fd).map_err(|error| match error {
        Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM => Errno::ENOMEM,
        _ => Errno::ESRCH,
    })
}

/// As [`pidfd_open`], of a thread, since Linux 6.9.
///
/// # Errors
/// `ESRCH`, and `EINVAL` where only processes have any.
pub(crate) fn thread_pidfd(tid: u32) -> Result<OwnedFd> {
    const PIDFD_THREAD: i32 = libc::O_EXCL;
    // SAFETY: two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, tid, PIDFD_THREAD) };
    owned(fd)
}

/// A descriptor of ours of what another process has open, with the same place in it.
///
/// # Errors
/// `EBADF`, `EPERM` of one that may not be traced, and `EMFILE`.
pub(crate) fn descriptor_of(pidfd: &OwnedFd, fd: i32) -> Result<OwnedFd> {
    // SAFETY: three integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) };
    owned(fd)
}

/// Device and inode of a FIFO; none of anything else. The file system is not asked: it may be slow to answer.
pub(crate) fn fifo(fd: &OwnedFd) -> Option<(u64, u64)> {
    let mut stat = std::mem::MaybeUninit::<libc::statx>::zeroed();
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    let mask = libc::STATX_TYPE | libc::STATX_INO;
    // SAFETY: an empty string, and room for the structure, of which all zeros are a valid value.
    let stat = unsafe {
        let done = libc::statx(fd.as_raw_fd(), c"".as_ptr(), flags, mask, stat.as_mut_ptr());
        (done == 0).then(|| stat.assume_init())?
    };
    let is_fifo = u32::from(stat.stx_mode) & libc::S_IFMT == libc::S_IFIFO;
    is_fifo.then_some((u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor), stat.stx_ino))
}

/// What a call has opened, or why it has not.
fn owned(fd: libc::c_long) -> Result<OwnedFd> {
    let failed = || Errno::from_raw(std::io::Error::last_os_error().raw_os_error().unwrap_or(0));
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(failed)?;
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

/// A soft limit of a process's, as `/proc/PID/limits` names it; all ones if there is none. prlimit(2) would want more rights.
pub fn soft_limit(pid: u32, name: &str) -> u64 {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let soft = limits.lines().find_map(|line| line.strip_prefix(name));
    match soft.and_then(|rest| rest.split_ascii_whitespace().next()) {
        Some("unlimited") => u64::MAX,
        Some(amount) => amount.parse().unwrap_or(0),
        None => 0,
    }
}

/// Whether a thread has a number free for another descriptor, as far as can be seen.
pub fn has_free_descriptor(tid: u32) -> bool {
    let limit = soft_limit(tid, "Max open files");
    let directory = format!("/proc/{tid}/fd");
    // Since Linux 6.2 the directory's size is how many there are, of which some may lie beyond a limit that was lowered.
    if fs::metadata(&directory).is_ok_and(|fds| (1..limit).contains(&fds.len())) {
        return true;
    }
    let Ok(fds) = fs::read_dir(directory) else { return true };
    let numbers = fds.flatten().filter_map(|fd| fd.file_name().to_str()?.parse().ok());
    (numbers.filter(|number: &u64| *number < limit).count() as u64) < limit
}

/// A process's umask, or the usual one if that can't be read.
pub fn umask(pid: u32) -> u32 {
    let status = Status::of(pid);
    status.ok().and_then(|status| u32::from_str_radix(status.line("Umask"), 8).ok()).unwrap_or(0o022)
}

/// Whether a descriptor of a thread is a netlink socket: the table in /proc has only those with an address.
pub(crate) fn is_netlink(tid: u32, fd: i32) -> bool {
    let Ok(path) = CString::new(format!("/proc/{tid}/fd/{fd}")) else { return false };
    let mut protocol = [0u8; 32];
    let room = protocol.as_mut_ptr().cast();
    // SAFETY: two terminated strings, and room of that length.
    let length =
        unsafe { libc::getxattr(path.as_ptr(), c"system.sockprotoname".as_ptr(), room, protocol.len()) };
    length > 0 && protocol.starts_with(b"NETLINK\0")
}
