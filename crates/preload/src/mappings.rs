//! `mmap`, `munmap` and `mremap`: passed on, and watched, so that nothing is taken for an attachment of shared memory
//! that is none any more.

use core::ffi::c_int;

use abi::syscall as nr;

use crate::{finish, finish_int};

/// `munmap(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn munmap(at: usize, len: usize) -> c_int {
    let attachments = client::unmapping(at, len);
    // SAFETY: the program's own call, with its own arguments.
    let done = sys::check(unsafe { sys::syscall6(nr::MUNMAP, at, len, 0, 0, 0, 0) });
    attachments.over(done.is_ok());
    finish_int(done.map(|value| value as i64))
}

/// `mmap(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn mmap(at: usize, len: usize, access: c_int, flags: c_int, fd: c_int, offset: i64) -> isize {
    const MAP_FIXED: c_int = 0x10;
    let replaced =
        if flags & MAP_FIXED == 0 { client::Unmapping::default() } else { client::unmapping(at, len) };
    let (access, flags, fd) = (access as usize, flags as usize, fd as usize);
    // SAFETY: the program's own call, with its own arguments.
    let done = sys::check(unsafe { sys::syscall6(nr::MMAP, at, len, access, flags, fd, offset as usize) });
    replaced.over(done.is_ok());
    #[expect(clippy::cast_possible_truncation, reason = "the same width")]
    let place = finish(done.map(|value| value as i64)) as isize;
    place
}

/// `mmap64(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn mmap64(
    at: usize,
    len: usize,
    access: c_int,
    flags: c_int,
    fd: c_int,
    offset: i64,
) -> isize {
    mmap(at, len, access, flags, fd, offset)
}

/// `mremap(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn mremap(at: usize, old: usize, new: usize, flags: usize, to: usize) -> isize {
    const MREMAP_FIXED: usize = 2;
    let moved = client::moving(at, old);
    let replaced =
        if flags & MREMAP_FIXED == 0 { client::Unmapping::default() } else { client::unmapping(to, new) };
    // SAFETY: the program's own call, with its own arguments.
    let done = sys::check(unsafe { sys::syscall6(nr::MREMAP, at, old, new, flags, to, 0) });
    moved.over(done.is_ok());
    replaced.over(done.is_ok());
    #[expect(clippy::cast_possible_truncation, reason = "the same width")]
    let place = finish(done.map(|value| value as i64)) as isize;
    place
}
