//! Memory of a segment that `SHM_LOCK` keeps from being swapped out.
//!
//! What users see: as in the kernel, pages are locked that are there, whoever has them mapped or nobody; none are made for it.
//! What is missing: pages that come to be after that are locked when the broker looks again, [`Locked::lock_more`].
//!
//! # Safety
//! A mapping is made where there is room, read only, of a file that can't shrink, and removed when nobody uses it any more.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr;

use abi::Errno;

/// A mapping through which pages are locked.
pub(crate) struct Locked {
    at: usize,
    len: usize,
    /// How many pages of the memory there were when it was looked at last.
    seen: u64,
}

const PAGE: usize = 4096;
/// Pages that are asked for at a time.
const AT_A_TIME: usize = 1 << 14;

impl Locked {
    /// Locks what there is of a file that is open for reading only, so that its mapping is none that could write.
    ///
    /// # Errors
    /// `ENOMEM` above `RLIMIT_MEMLOCK`.
    pub(crate) fn new(file: &File, len: usize) -> Result<Locked, Errno> {
        let (access, flags) = (libc::PROT_READ, libc::MAP_SHARED | libc::MAP_NORESERVE);
        // SAFETY: it goes where there is room.
        let at = unsafe { libc::mmap(ptr::null_mut(), len, access, flags, file.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED {
            return Err(Errno::ENOMEM);
        }
        let locked = Locked { at: at.expose_provenance(), len, seen: 0 };
        // SAFETY: the mapping just made.
        let done = unsafe { libc::syscall(libc::SYS_mlock2, locked.at, len, libc::MLOCK_ONFAULT) };
        if done == 0 { Ok(locked) } else { Err(Errno::ENOMEM) }
    }

    /// Locks what has come to be, if `there` pages are not what they were. Whether there was something.
    pub(crate) fn lock_more(&mut self, there: u64) -> bool {
        let is_new = there != self.seen;
        if is_new {
            self.seen = there;
            (0..self.len).step_by(AT_A_TIME * PAGE).for_each(|offset| self.touch(offset));
        }
        is_new
    }

    /// Touches the pages that are there, which locks them.
    fn touch(&self, offset: usize) {
        let start = ptr::with_exposed_provenance_mut::<u8>(self.at + offset);
        let len = (self.len - offset).min(AT_A_TIME * PAGE);
        let mut there = vec![0u8; len.div_ceil(PAGE)];
        // SAFETY: part of the mapping, and room for a byte for each of its pages.
        if unsafe { libc::mincore(start.cast(), len, there.as_mut_ptr()) } != 0 {
            return;
        }
        for page in (0..there.len()).filter(|page| there[*page] & 1 != 0) {
            // SAFETY: in the mapping, whose file is not shorter.
            unsafe { start.add(page * PAGE).read_volatile() };
        }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // SAFETY: the mapping is nobody else's.
        unsafe { libc::munmap(ptr::with_exposed_provenance_mut(self.at), self.len) };
    }
}
