//! Memory below 4 GiB, and what can be reached of memory of any address.
//!
//! # Safety
//! A mapping belongs to one [`Low`]; the kernel does all other copying, and bears any address.

use std::io::{IoSlice, IoSliceMut};

use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::getpid;

/// Most bytes of an argument.
pub(crate) const CAPACITY: usize = 1 << 20;
const PAGE: usize = 4096;

/// What can be read of `length` bytes there.
pub(crate) fn read(at: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let there = pages(at, length);
    let got = process_vm_readv(getpid(), &mut [IoSliceMut::new(&mut bytes)], &there).unwrap_or(0);
    bytes.truncate(got);
    bytes
}

/// How many of the bytes could be written there.
pub(crate) fn write(at: u64, bytes: &[u8]) -> usize {
    process_vm_writev(getpid(), &[IoSlice::new(bytes)], &pages(at, bytes.len())).unwrap_or(0)
}

/// How many of so many bytes there can be written.
pub(crate) fn writable(at: u64, length: usize) -> usize {
    let mut bytes = 0;
    for RemoteIoVec { base, len } in pages(at, length) {
        let page = std::ptr::without_provenance_mut(base / PAGE * PAGE);
        // SAFETY: has the page made as a write to it would, and changes nothing of it.
        if unsafe { libc::madvise(page, PAGE, libc::MADV_POPULATE_WRITE) } != 0 {
            break;
        }
        bytes += len;
    }
    bytes
}

/// The range page by page: of a part, all is copied or nothing.
fn pages(at: u64, length: usize) -> Vec<RemoteIoVec> {
    let Some(end) = usize::try_from(at).ok().and_then(|at| at.checked_add(length)) else { return Vec::new() };
    let mut parts = Vec::new();
    let mut base = end - length;
    // As many as the kernel takes in a call, and more than there are in the largest argument.
    while base < end && parts.len() < 1024 {
        let next = end.min((base / PAGE + 1) * PAGE);
        parts.push(RemoteIoVec { base, len: next - base });
        base = next;
    }
    parts
}

/// Writable memory before a page without access, and the same again, for what can't be written.
pub(crate) struct Low {
    base: *mut u8,
}

const LENGTH: usize = 2 * (CAPACITY + PAGE);

impl Low {
    pub(crate) fn new() -> Low {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_32BIT;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, where there is room.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), LENGTH, access, flags, -1, 0) };
        assert_ne!(base, libc::MAP_FAILED, "mmap below 4 GiB");
        let low = Low { base: base.cast() };
        low.protect(CAPACITY, PAGE, libc::PROT_NONE);
        low.protect(LENGTH - PAGE, PAGE, libc::PROT_NONE);
        low
    }

    fn protect(&self, offset: usize, length: usize, access: i32) {
        // SAFETY: a part of our own mapping, to which there is no reference.
        let done = unsafe { libc::mprotect(self.base.wrapping_add(offset).cast(), length, access) };
        assert_eq!(done, 0, "mprotect");
    }

    /// Puts what a pointer leads to before a page without access; NULL stays NULL.
    pub(crate) fn place(&mut self, pointer: u64, bytes: &[u8], writable: bool) -> u32 {
        if pointer == 0 { 0 } else { self.put(bytes, writable) }
    }

    /// Puts bytes before a page without access.
    pub(crate) fn put(&mut self, bytes: &[u8], writable: bool) -> u32 {
        let edge = if writable { CAPACITY } else { LENGTH - PAGE };
        let start = edge.checked_sub(bytes.len()).expect("no more than there is room for");
        let pages = bytes.len().next_multiple_of(PAGE);
        if !writable {
            self.protect(edge - pages, pages, libc::PROT_READ | libc::PROT_WRITE);
        }
        let at = self.base.wrapping_add(start);
        // SAFETY: inside our mapping, which is writable there, and nothing else refers to.
        unsafe { at.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        if !writable {
            self.protect(edge - pages, pages, libc::PROT_READ);
        }
        u32::try_from(at.expose_provenance()).expect("below 4 GiB")
    }
}

impl Drop for Low {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and its last use.
        unsafe { libc::munmap(self.base.cast(), LENGTH) };
    }
}
