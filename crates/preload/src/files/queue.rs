//! A queue's descriptor as the file that it is with the kernel: of the file system of queues, with one line to read.
//!
//! What is missing: `chmod`, `chown` and times of an open descriptor, which are the FIFO's; `readv` and what is not in [`super::symbols`].
//!
//! # Safety
//! What libc has filled in is there.

use core::{
    ffi::{c_char, c_int},
    ptr,
};

use client::mqd;

pub(super) fn choose_read(fd: c_int, _: usize) -> Option<usize> {
    mqd::is_queue(fd).then_some(read as *const () as usize)
}

pub(super) fn choose_pread(fd: c_int, _: usize) -> Option<usize> {
    mqd::is_queue(fd).then_some(pread as *const () as usize)
}

pub(super) fn choose_lseek(fd: c_int, _: usize) -> Option<usize> {
    mqd::is_queue(fd).then_some(lseek as *const () as usize)
}

fn read_from(fd: c_int, to: *mut u8, size: usize, at: Option<i64>) -> isize {
    // SAFETY: the program's memory, where a fault is caught; the process has attached to read the text.
    let copy = |text: &[u8]| unsafe { client::copy(to, text.as_ptr(), text.len()) };
    crate::finish(mqd::read(fd, size, at, copy)) as isize
}

extern "C" fn read(fd: c_int, to: *mut u8, size: usize) -> isize {
    read_from(fd, to, size, None)
}

extern "C" fn pread(fd: c_int, to: *mut u8, size: usize, at: i64) -> isize {
    read_from(fd, to, size, Some(at))
}

extern "C" fn lseek(fd: c_int, offset: i64, whence: c_int) -> i64 {
    crate::finish(mqd::seek(fd, offset, whence))
}

/// The kernel's `struct stat`.
#[repr(C)]
pub(super) struct Stat {
    dev: u64,
    ino: u64,
    nlink: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    pad: u32,
    rdev: u64,
    size: i64,
    blksize: i64,
    blocks: i64,
    /// Seconds and nanoseconds, of `atime`, `mtime` and `ctime`.
    times: [i64; 6],
}

/// libc has told of a descriptor; of a queue's there is more to tell.
pub(super) extern "C" fn stated(result: c_int, fd: c_int, stat: *mut Stat) -> c_int {
    if result == 0
        && mqd::is_queue(fd)
        && let Ok(seen) = mqd::stat(fd)
    {
        const S_IFREG: u32 = 0o100_000;
        const PAGE: i64 = 4096;
        // SAFETY: libc has filled it in.
        let stat = unsafe { &mut *stat };
        stat.nlink = u64::from(!seen.unlinked);
        stat.mode = S_IFREG | seen.mode;
        (stat.uid, stat.gid) = (seen.uid, seen.gid);
        stat.size = mqd::FILE_SIZE;
        (stat.blksize, stat.blocks) = (PAGE, 0);
        stat.times = [seen.atime, 0, seen.mtime, 0, seen.ctime, 0];
    }
    result
}

/// As programs that were built for an old libc call it.
pub(super) extern "C" fn stated_by_version(
    result: c_int,
    _version: c_int,
    fd: c_int,
    stat: *mut Stat,
) -> c_int {
    stated(result, fd, stat)
}

/// `fstatat`, which tells of the descriptor itself where the path is empty.
pub(super) extern "C" fn stated_at(result: c_int, fd: c_int, path: *const c_char, stat: *mut Stat) -> c_int {
    // SAFETY: libc has read the path.
    let of_descriptor =
        result == 0 && mqd::is_queue(fd) && (path.is_null() || unsafe { ptr::read(path) } == 0);
    if of_descriptor { stated(result, fd, stat) } else { result }
}
