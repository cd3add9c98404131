//! `munmap` and `mremap`: passed on, and watched, so that nothing is taken for an attachment of shared memory that is
//! none any more.

use core::ffi::c_int;

use abi::syscall as nr;

use crate::{finish, finish_int};

/// `munmap(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn munmap(at: usize, len: usize) -> c_int {
    let attachments = client::unmapping(at, len);
    // SAFETY: the program's own call, with its own arguments.
    let done = sys::check(unsafe { sys::syscall6(nr::MUNMAP, at, len, 0, 0, 0, 0) });
    if done.is_ok() {
        attachments.note();
    }
    finish_int(done.map(|value| value as i64))
}

/// `mremap(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn mremap(at: usize, old: usize, new: usize, flags: usize, to: usize) -> isize {
    const MREMAP_FIXED: usize = 2;
    let moved = client::moving(at, old);
    let replaced =
        if flags & MREMAP_FIXED == 0 { client::Unmapped::default() } else { client::unmapping(to, new) };
    // SAFETY: the program's own call, with its own arguments.
    let done = sys::check(unsafe { sys::syscall6(nr::MREMAP, at, old, new, flags, to, 0) });
    if done.is_ok() {
        moved.note();
        replaced.note();
    }
    #[expect(clippy::cast_possible_truncation, reason = "the same width")]
    let place = finish(done.map(|value| value as i64)) as isize;
    place
}
