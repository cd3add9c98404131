//! What descriptors of POSIX queues are made of, and what the queues ask of the kernel besides.
//!
//! # Safety
//! Every call is given integers, terminated strings and places that are valid for their length.

use core::ffi::CStr;
use core::sync::atomic::AtomicU8;

use abi::{
    Errno, Result,
    mqueue::{O_NONBLOCK, O_RDWR, O_WRONLY, SI_MESGQ},
};

use crate::{
    check,
    file::{AT_FDCWD, O_CLOEXEC, O_PATH, openat, read_start},
    memory::stat,
    net::{Fd, poll_now},
    syscall6,
};

const CWD: usize = AT_FDCWD as isize as usize;

/// A FIFO that only its owner has, whatever the umask.
///
/// # Errors
/// Those of `mknod`, but for `EEXIST`.
pub fn make_fifo(path: &CStr) -> Result<()> {
    const S_IFIFO: usize = 0o010_000;
    const OWNERS: usize = 0o600;
    let path = path.as_ptr() as usize;
    // SAFETY: a terminated string.
    match check(unsafe { syscall6(259, CWD, path, S_IFIFO | OWNERS, 0, 0, 0) }) {
        Err(Errno::EEXIST) => return Ok(()),
        made => made?,
    };
    // SAFETY: as above.
    check(unsafe { syscall6(268, CWD, path, OWNERS, 0, 0, 0) }).map(|_| ())
}

/// Opens a FIFO, for reading and writing.
///
/// # Errors
/// Those of `open`.
pub fn open_fifo(path: &CStr, flags: i32) -> Result<Fd> {
    // SAFETY: a terminated string.
    unsafe { openat(AT_FDCWD, path.as_ptr() as usize, O_RDWR | O_CLOEXEC | flags) }
}

/// Whether an open file is the FIFO of that path.
///
/// # Errors
/// Those of `open`.
pub fn is_fifo_at(path: &CStr, fd: i32) -> Result<bool> {
    // SAFETY: a terminated string.
    let there = unsafe { openat(AT_FDCWD, path.as_ptr() as usize, O_PATH | O_CLOEXEC) }?;
    let [there, here] = [stat(there.raw())?, stat(fd)?];
    Ok(is_fifo(fd) && (there.dev, there.ino) == (here.dev, here.ino))
}

/// Opens a FIFO that somebody has open for reading, for writing only.
///
/// # Errors
/// `ENXIO` if nobody has; those of `open`.
pub fn open_to_write(path: &CStr) -> Result<Fd> {
    // SAFETY: a terminated string.
    unsafe { openat(AT_FDCWD, path.as_ptr() as usize, O_WRONLY | O_NONBLOCK | O_CLOEXEC) }
}

/// Whether somebody has the FIFO of a descriptor for writing open for reading.
pub fn has_reader(fd: i32) -> bool {
    const POLLERR: i16 = 8;
    poll_now(fd, 0) & POLLERR == 0
}

/// Bytes of the two pages that a queue's FIFO has room for.
const PAGE: usize = 4096;
/// What is written to them and read from them, which is nothing.
static PAGES: [AtomicU8; 2 * PAGE] = [const { AtomicU8::new(0) }; 2 * PAGE];

/// Whether a descriptor is a FIFO's or a pipe's.
pub fn is_fifo(fd: i32) -> bool {
    const F_GETPIPE_SZ: usize = 1032;
    // SAFETY: integers.
    check(unsafe { syscall6(72, fd as usize, F_GETPIPE_SZ, 0, 0, 0, 0) }).is_ok()
}

/// Gives a FIFO room for two pages.
pub fn make_small(fd: i32) {
    const F_SETPIPE_SZ: usize = 1031;
    // SAFETY: integers.
    unsafe { syscall6(72, fd as usize, F_SETPIPE_SZ, 2 * PAGE, 0, 0, 0) };
}

/// Has none, one or both of a FIFO's two pages in use, so that it can be written to, both, or read from: by one byte in one page, or one and a
/// whole page. On the way from one to another it is nothing else. So many are in use as far as is known; what somebody else has put there is
/// thrown away.
pub fn fill_pages(fd: i32, known: Option<usize>, wanted: usize) {
    /// Bytes that are there when so many pages are in use.
    const BYTES: [usize; 3] = [0, 1, 1 + PAGE];
    let counted = || {
        let there = waiting(fd);
        BYTES.iter().position(|bytes| *bytes == there).unwrap_or_else(|| {
            take(fd, there);
            0
        })
    };
    // Who reads counts first, for if somebody else has read the bytes it would sleep.
    let pages = known.filter(|known| *known <= wanted).unwrap_or_else(counted);
    match BYTES[wanted.min(2)].checked_sub(BYTES[pages.min(2)]) {
        // As one call, which nobody sees half done. No part goes to a page that is in use.
        Some(more) => put(fd, more),
        // What is left of two pages is one byte of the last.
        None => take(fd, BYTES[pages.min(2)] - BYTES[wanted.min(2)]),
    }
}

/// Bytes that can be read.
fn waiting(fd: i32) -> usize {
    const FIONREAD: usize = 0x541b;
    let mut bytes = 0i32;
    // SAFETY: room for an int.
    unsafe { syscall6(16, fd as usize, FIONREAD, &raw mut bytes as usize, 0, 0, 0) };
    bytes as usize
}

/// Writes so much, for which there is room.
fn put(fd: i32, bytes: usize) {
    if bytes > 0 {
        // SAFETY: the pages are as long, and nobody minds what is in them.
        unsafe { syscall6(1, fd as usize, PAGES.as_ptr() as usize, bytes.min(2 * PAGE), 0, 0, 0) };
    }
}

/// Reads so much, which is there.
fn take(fd: i32, mut bytes: usize) {
    while bytes > 0 {
        let size = bytes.min(2 * PAGE);
        // SAFETY: as above, and atomics may be written.
        match check(unsafe { syscall6(0, fd as usize, PAGES.as_ptr() as usize, size, 0, 0, 0) }) {
            Ok(taken @ 1..) => bytes -= taken.min(bytes),
            _ => return,
        }
    }
}

/// Sets the flags of an open descriptor, of those that can be set.
pub fn set_flags(fd: i32, flags: i32) {
    const F_SETFL: usize = 4;
    // SAFETY: integers.
    unsafe { syscall6(72, fd as usize, F_SETFL, flags as usize, 0, 0, 0) };
}

/// `RLIMIT_MSGQUEUE`, bytes; all ones if there is none.
pub fn msgqueue_limit() -> u64 {
    let mut limit = [0u64; 2];
    // SAFETY: room for a `struct rlimit`.
    unsafe { syscall6(97, 12, limit.as_mut_ptr() as usize, 0, 0, 0, 0) };
    limit[0]
}

/// A thread's `prio` as the kernel counts, 0 being the caller: the less, the more urgent.
pub fn scheduling_priority(tid: u32) -> i32 {
    const SCHED_FIFO: u32 = 1;
    const SCHED_RR: u32 = 2;
    const SCHED_DEADLINE: u32 = 6;
    const OF_NICE_0: i32 = 120;
    // struct sched_attr: size, policy, flags, nice, priority, ...
    let mut attr = [0u32; 12];
    // SAFETY: room for as many bytes as the call is told.
    let asked = check(unsafe {
        syscall6(315, tid as usize, attr.as_mut_ptr() as usize, size_of_val(&attr), 0, 0, 0)
    });
    match attr[1] {
        _ if asked.is_err() => OF_NICE_0,
        SCHED_FIFO | SCHED_RR => 99 - attr[5].cast_signed(),
        SCHED_DEADLINE => -1,
        _ => OF_NICE_0 + attr[4].cast_signed(),
    }
}

/// What tells a process's program from the next one that it executes: where the kernel put its random bytes. 0 if it can't be read.
pub fn program_of(pid: u32) -> u64 {
    const AT_RANDOM: [u8; 8] = 25u64.to_ne_bytes();
    const DIGITS: usize = 10;
    let mut path = *b"/proc/0000000000/auxv\0";
    let start = b"/proc/".len();
    let mut left = pid;
    for digit in path[start..start + DIGITS].iter_mut().rev() {
        *digit = b'0' + (left % 10) as u8;
        left /= 10;
    }
    // The kernel wants no zeros in front.
    let zeros = path[start..].iter().take_while(|digit| **digit == b'0').count().min(DIGITS - 1);
    path.copy_within(start + zeros.., start);
    let mut text = [0; 512];
    // SAFETY: a terminated string.
    let file = unsafe { openat(AT_FDCWD, path.as_ptr() as usize, O_CLOEXEC) };
    let len = file.and_then(|file| read_start(&file, &mut text)).unwrap_or(0);
    let entries = text[..len].chunks_exact(16).map(|entry| entry.split_at(8));
    let mut random = entries.filter(|(key, _)| *key == AT_RANDOM);
    random.next().and_then(|(_, value)| value.try_into().ok()).map_or(0, u64::from_ne_bytes)
}

/// The process's umask. That of the file's line, as the call that tells it would change it.
pub fn umask() -> u32 {
    let mut text = [0; 256];
    // SAFETY: a terminated string.
    let status = unsafe { openat(AT_FDCWD, c"/proc/thread-self/status".as_ptr() as usize, O_CLOEXEC) };
    let len = status.and_then(|file| read_start(&file, &mut text)).unwrap_or(0);
    let line = text[..len].split(|b| *b == b'\n').find_map(|line| line.strip_prefix(b"Umask:\t"));
    line.map_or_else(umask_by_changing, |digits| {
        digits.iter().fold(0, |mask, digit| mask * 8 + u32::from(digit.wrapping_sub(b'0') & 7))
    })
}

/// Meanwhile what other threads create is their owner's alone.
fn umask_by_changing() -> u32 {
    // SAFETY: integers.
    let mask = unsafe { syscall6(95, 0o077, 0, 0, 0, 0, 0) };
    // SAFETY: as above.
    unsafe { syscall6(95, mask as usize, 0, 0, 0, 0, 0) };
    mask as u32 & 0o777
}

/// Whether a descriptor is a netlink socket.
///
/// # Errors
/// `EBADF`, `ENOTSOCK`, and `EINVAL` for another socket.
pub fn check_netlink(fd: i32) -> Result<()> {
    const SOL_SOCKET: usize = 1;
    const SO_DOMAIN: usize = 39;
    const AF_NETLINK: i32 = 16;
    let (mut domain, mut size) = (0i32, 4u32);
    let (at, size_at) = (&raw mut domain as usize, &raw mut size as usize);
    // SAFETY: room for an int, and its size.
    check(unsafe { syscall6(55, fd as usize, SOL_SOCKET, SO_DOMAIN, at, size_at, 0) })?;
    if domain == AF_NETLINK { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Sends a process the signal of a queue's message.
///
/// # Errors
/// `EPERM ESRCH EAGAIN`.
pub fn send_notice(pid: u32, signo: i32, value: u64, (from_pid, from_uid): (u32, u32)) -> Result<()> {
    let words = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    // struct siginfo: number, errno, code, a gap, sender, its user, value.
    let mut info = [0u64; 16];
    info[0] = words(signo.cast_unsigned(), 0);
    info[1] = words(SI_MESGQ.cast_unsigned(), 0);
    info[2] = words(from_pid, from_uid);
    info[3] = value;
    // SAFETY: a whole siginfo.
    check(unsafe { syscall6(129, pid as usize, signo as usize, info.as_ptr() as usize, 0, 0, 0) }).map(|_| ())
}
