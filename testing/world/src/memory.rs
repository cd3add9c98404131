//! A task's own buffers behind the pointers of its calls.
//!
//! # Safety
//! The mappings belong to one [`Memory`]; every access through it stays inside them, by the lengths checked
//! in [`Memory::place`], [`Memory::fill`] and [`Memory::read`].

use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use crate::Ptr;

/// Bytes that a valid pointer points to; behind them nothing can be accessed.
pub(crate) const CAPACITY: usize = 1 << 20;
const PAGE: usize = 4096;

/// Writable memory, a page without access, and memory that can only be read, in this order.
pub(crate) struct Memory {
    base: NonNull<u8>,
}

const LENGTH: usize = 2 * CAPACITY + PAGE;
const NO_ACCESS: usize = CAPACITY;
const READ_ONLY: usize = CAPACITY + PAGE;
/// Not a canonical address of user space.
const WILD: usize = 0xdead_0000_0000_0000;

impl Memory {
    pub(crate) fn new() -> Memory {
        let length = NonZeroUsize::new(LENGTH).expect("not zero");
        let writable = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let private = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping; no address is asked for.
        let base = unsafe { mmap_anonymous(None, length, writable, private) }.expect("mmap");
        let memory = Memory { base: base.cast() };
        memory.protect(NO_ACCESS, PAGE, ProtFlags::PROT_NONE);
        memory
    }

    fn protect(&self, offset: usize, length: usize, access: ProtFlags) {
        // SAFETY: inside our own mapping, to which no reference exists.
        unsafe { mprotect(self.at(offset).cast(), length, access) }.expect("mprotect");
    }

    fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset <= LENGTH);
        // SAFETY: offset is inside the mapping, or just behind it.
        unsafe { self.base.add(offset) }
    }

    /// Puts `bytes` to where `ptr` points, as many as can be there, and gives the address.
    pub(crate) fn place(&mut self, ptr: Ptr, bytes: &[u8]) -> *mut u8 {
        match ptr {
            Ptr::Valid => self.write(0, bytes),
            Ptr::Straddle(valid) => {
                let valid = valid.min(CAPACITY);
                self.write(CAPACITY - valid, &bytes[..valid.min(bytes.len())])
            }
            Ptr::ReadOnly => {
                let pages = bytes.len().clamp(1, CAPACITY).next_multiple_of(PAGE);
                self.protect(READ_ONLY, pages, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE);
                let address = self.write(READ_ONLY, bytes);
                self.protect(READ_ONLY, pages, ProtFlags::PROT_READ);
                address
            }
            Ptr::Bad => self.at(NO_ACCESS).as_ptr(),
            Ptr::Null => std::ptr::null_mut(),
            Ptr::Wild => std::ptr::without_provenance_mut(WILD),
        }
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) -> *mut u8 {
        assert!(bytes.len() <= CAPACITY);
        let address = self.at(offset).as_ptr();
        // SAFETY: offset + length are inside one of the two areas, which are writable now.
        unsafe { address.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        address
    }

    /// Fills the first `length` bytes of the valid area.
    pub(crate) fn fill(&mut self, byte: u8, length: usize) {
        // SAFETY: the length is bounded to the valid area.
        unsafe { self.base.as_ptr().write_bytes(byte, length.min(CAPACITY)) };
    }

    /// The first `length` bytes of the valid area.
    pub(crate) fn read(&self, length: usize) -> Vec<u8> {
        let length = length.min(CAPACITY);
        let mut bytes = vec![0; length];
        // SAFETY: the length is bounded to the valid area.
        unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(self.base.as_ptr(), length) };
        bytes
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and its last use.
        unsafe { munmap(self.base.cast(), LENGTH) }.expect("munmap");
    }
}
