//! A queue's descriptor as the file that it is with the kernel: of the file system of queues, with one line to read.
//!
//! What is missing: `chmod`, `chown` and times of an open descriptor, which are the FIFO's; `readv` and what is not in [`super::symbols`].
//!
//! # Safety
//! What libc has filled in is there.

use core::{ffi::c_int, ptr};

use client::mqd;

pub(super) fn choose_read(fd: c_int, _: usize) -> Option<usize> {
    mqd::is_still_queue(fd).then_some(read as *const () as usize)
}

pub(super) fn choose_pread(fd: c_int, _: usize) -> Option<usize> {
    mqd::is_still_queue(fd).then_some(pread as *const () as usize)
}

pub(super) fn choose_lseek(fd: c_int, _: usize) -> Option<usize> {
    mqd::is_still_queue(fd).then_some(lseek as *const () as usize)
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

/// `struct msghdr`, as far as descriptors that were received are in it.
#[repr(C)]
pub(super) struct Message {
    others: [usize; 4],
    control: usize,
    control_len: usize,
}

/// A message has been received. Descriptors that came with it may be queues', which nobody else would know of before they are used so.
pub(super) extern "C" fn received(result: isize, _socket: c_int, message: *const Message) -> isize {
    if result >= 0 {
        // SAFETY: libc has filled it in.
        let message = unsafe { &*message };
        if message.control_len > 0 {
            take_descriptors(message);
        }
    }
    result
}

#[cold]
fn take_descriptors(message: &Message) {
    const SOL_SOCKET: i32 = 1;
    const SCM_RIGHTS: i32 = 1;
    /// `struct cmsghdr`: a length, which is of all of it, and what it is.
    const HEADER: usize = 16;
    let mut at = 0;
    while at + HEADER <= message.control_len {
        let header: *const usize = ptr::with_exposed_provenance(message.control + at);
        // SAFETY: the kernel has written it, in the program's memory.
        let len = unsafe { header.read_unaligned() };
        // SAFETY: as above; behind the length there are two numbers.
        let kind: [i32; 2] = unsafe { header.add(1).cast::<[i32; 2]>().read_unaligned() };
        if len < HEADER {
            return;
        }
        if kind == [SOL_SOCKET, SCM_RIGHTS] {
            let count = len.min(message.control_len - at).saturating_sub(HEADER) / size_of::<c_int>();
            for nth in 0..count {
                // SAFETY: as above: in front of the end of what was written.
                mqd::received(unsafe { header.cast::<c_int>().add(HEADER / 4 + nth).read_unaligned() });
            }
        }
        at += len.next_multiple_of(size_of::<usize>());
    }
}
