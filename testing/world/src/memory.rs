//! A task's own buffers behind the pointers of its calls.
//!
//! # Safety
//! Each mapping belongs to one [`Area`]; every access through it stays inside, by the lengths checked
//! in [`Area::place`], [`Area::fill`] and [`Area::read`].

use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use crate::Ptr;
use crate::arguments::{Buffers, CAPACITY, WILD};

const PAGE: usize = 4096;

/// Room for the pointers of a call: all may be of the same kind.
pub(crate) struct Memory {
    first: Area,
    second: Area,
}

/// Writable memory, a page without access, and memory that can only be read, in this order.
struct Area {
    base: NonNull<u8>,
}

const LENGTH: usize = 2 * CAPACITY + PAGE;
const NO_ACCESS: usize = CAPACITY;
const READ_ONLY: usize = CAPACITY + PAGE;

impl Memory {
    pub(crate) fn new() -> Memory {
        Memory { first: Area::new(), second: Area::new() }
    }
}

impl Buffers for Memory {
    fn place(&mut self, ptr: Ptr, bytes: &[u8]) -> u64 {
        self.first.place(ptr, bytes)
    }

    fn place_second(&mut self, ptr: Ptr, bytes: &[u8]) -> u64 {
        self.second.place(ptr, bytes)
    }

    fn fill(&mut self, byte: u8, length: usize) {
        self.first.fill(byte, length);
    }

    fn read(&self, length: usize) -> Vec<u8> {
        self.first.read(length)
    }

    fn read_second(&self, length: usize) -> Vec<u8> {
        self.second.read(length)
    }

    fn time(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is set")
    }
}

impl Area {
    fn new() -> Area {
        let length = NonZeroUsize::new(LENGTH).expect("not zero");
        let writable = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let private = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping; no address is asked for.
        let base = unsafe { mmap_anonymous(None, length, writable, private) }.expect("mmap");
        let area = Area { base: base.cast() };
        area.protect(NO_ACCESS, PAGE, ProtFlags::PROT_NONE);
        area
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

    fn place(&mut self, ptr: Ptr, bytes: &[u8]) -> u64 {
        let address = match ptr {
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
            Ptr::Null => return 0,
            Ptr::Wild => return WILD,
        };
        address.expose_provenance() as u64
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) -> *mut u8 {
        assert!(bytes.len() <= CAPACITY);
        let address = self.at(offset).as_ptr();
        // SAFETY: offset + length are inside one of the two areas, which are writable now.
        unsafe { address.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        address
    }

    fn fill(&mut self, byte: u8, length: usize) {
        // SAFETY: the length is bounded to the valid area.
        unsafe { self.base.as_ptr().write_bytes(byte, length.min(CAPACITY)) };
    }

    fn read(&self, length: usize) -> Vec<u8> {
        let length = length.min(CAPACITY);
        let mut bytes = vec![0; length];
        // SAFETY: the length is bounded to the valid area.
        unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(self.base.as_ptr(), length) };
        bytes
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and its last use.
        unsafe { munmap(self.base.cast(), LENGTH) }.expect("munmap");
    }
}
