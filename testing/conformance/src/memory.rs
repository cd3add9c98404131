//! Addresses that a call has to refuse.

use std::{ffi::c_void, ptr};

/// Two neighbouring pages, the first with the access `first`, the second with `second` (`PROT_*`).
pub(crate) struct Pages(*mut c_void);

const PAGE: usize = 4096;

impl Pages {
    pub(crate) fn new(first: i32, second: i32) -> Self {
        Pages::of(first, second, 0)
    }

    /// Where 32-bit programs can be, too.
    pub(crate) fn low(first: i32, second: i32) -> Self {
        Pages::of(first, second, libc::MAP_32BIT)
    }

    fn of(first: i32, second: i32, flags: i32) -> Self {
        // SAFETY: a new anonymous mapping wherever there is room.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                2 * PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags,
                -1,
                0,
            )
        };
        assert_ne!(base, libc::MAP_FAILED, "mmap of two pages");
        let pages = Pages(base);
        pages.protect(0, first);
        pages.protect(PAGE, second);
        pages
    }

    fn protect(&self, offset: usize, access: i32) {
        // SAFETY: the page is one of our own mapping, into which no reference exists.
        let done = unsafe { libc::mprotect(self.at(offset), PAGE, access) };
        assert_eq!(done, 0, "mprotect of a page");
    }

    /// The address `offset` bytes after the start.
    pub(crate) fn at(&self, offset: usize) -> *mut c_void {
        self.0.wrapping_byte_add(offset)
    }

    /// Writes `bytes` so that they end where the first, writable page ends; answers their address.
    pub(crate) fn before_the_edge(&self, bytes: &[u8]) -> *mut c_void {
        let place = self.at(PAGE - bytes.len());
        // SAFETY: the bytes fit into the first page, which the caller made writable.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), place.cast(), bytes.len()) };
        place
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing refers to it any more.
        unsafe { libc::munmap(self.0, 2 * PAGE) };
    }
}

/// One address that can't be read, one that can be read but not written, and NULL.
pub(crate) struct Bad {
    none: Pages,
    read_only: Pages,
}

impl Bad {
    pub(crate) fn new() -> Self {
        Bad {
            none: Pages::new(libc::PROT_NONE, libc::PROT_NONE),
            read_only: Pages::new(libc::PROT_READ, libc::PROT_READ),
        }
    }

    /// What no call may read.
    pub(crate) fn unreadable(&self) -> [*mut c_void; 3] {
        [ptr::null_mut(), self.none.at(0), ptr::without_provenance_mut(usize::MAX - 7)]
    }

    /// What no call may write.
    pub(crate) fn unwritable(&self) -> [*mut c_void; 4] {
        let [null, none, top] = self.unreadable();
        [null, none, top, self.read_only.at(0)]
    }
}
