//! A queue's descriptor as the file that it is with the kernel: of the file system of queues, with one line to read.
//!
//! What is missing: `chmod`, `chown` and times of an open descriptor, which are the FIFO's; `readv` and what is not in [`super::symbols`].

use core::ffi::c_int;

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
