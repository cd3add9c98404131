//! libc's streams.
//!
//! libc writes what a stream holds by calls of its own, which nobody sees: for a sysctl it lies in the memfd then. It is carried to the
//! namespace where the program hears of its fate, at the end of `fflush` and `fclose`; at the latest when the descriptor is closed, or the
//! program ends.
//!
//! # Safety
//! Streams are the program's, which passes them to libc.

use core::ffi::{c_int, c_void};

use abi::Result;
use client::files;
use engine::ipc_sysctl::Sysctl;
use sys::file;

use super::{O_ACCMODE, O_WRONLY, symbols, there, write};

/// Of a text that is found in a memfd, the bytes that are looked at.
const WINDOW: usize = 512;

unsafe extern "C" {
    fn fileno(stream: *mut c_void) -> c_int;
}

/// The descriptor of a stream, -1 if it has none.
///
/// # Safety
/// A stream.
pub(super) unsafe fn descriptor(stream: *mut c_void) -> c_int {
    let errno = crate::errno();
    // SAFETY: the caller's promise.
    let fd = unsafe { fileno(stream) };
    if fd < 0 {
        crate::set_errno(errno);
    }
    fd
}

/// Carries what libc has written to the namespace.
pub(super) fn carry(fd: i32) -> Result<()> {
    write::of_descriptor(fd).map_or(Ok(()), |sysctl| carry_to(sysctl, fd))
}

fn carry_to(sysctl: &Sysctl, fd: i32) -> Result<()> {
    if file::flags(fd)? & O_ACCMODE != O_WRONLY {
        return Ok(());
    }
    let mut text = [0; WINDOW];
    let size = files::take_written(fd, &mut text)?;
    if size == 0 {
        return Ok(());
    }
    let text = &text[..size];
    there(client::proc::write(sysctl, || Ok(text), Some((text.as_ptr().addr(), size)), 0)).map(|_| ())
}

/// All that this process has open for writing.
fn carry_all() -> Result<()> {
    write::numbers().map(carry).fold(Ok(()), Result::and)
}

/// `fflush` of a stream of ours, or of all.
pub(super) extern "C" fn flush(stream: *mut c_void) -> c_int {
    // SAFETY: libc's own function, called by the program.
    let flushed = unsafe { symbols::libc_fflush()(stream) };
    if stream.is_null() {
        return if let Err(error) = carry_all() { crate::finish_int(Err(error)) } else { flushed };
    }
    // SAFETY: the program's stream.
    match carry(unsafe { descriptor(stream) }) {
        Ok(()) => flushed,
        Err(error) => {
            // SAFETY: the program's stream. Its first word has the error flag in this bit, in glibc (whose inline functions make it part
            // of the ABI) and in musl.
            unsafe { *stream.cast::<u32>() |= 0x20 };
            crate::finish_int(Err(error))
        }
    }
}

/// `fclose` of a stream of ours.
pub(super) extern "C" fn close(stream: *mut c_void) -> c_int {
    // SAFETY: the program's stream.
    let fd = unsafe { descriptor(stream) };
    let kept = write::of_descriptor(fd).zip(file::duplicate(fd, 0).ok());
    // SAFETY: libc's own function, called by the program.
    let closed = unsafe { symbols::libc_fclose()(stream) };
    match kept.map(|(sysctl, fd)| carry_to(sysctl, fd.raw())) {
        None | Some(Ok(())) => closed,
        Some(Err(error)) => crate::finish_int(Err(error)),
    }
}

/// The program ends: its standard output may be a sysctl, and libc flushes it later than this.
extern "C" fn at_exit() {
    for fd in [1, 2] {
        if write::of_descriptor(fd).is_some() {
            flush(core::ptr::null_mut());
        }
    }
}

#[used]
#[unsafe(link_section = ".fini_array")]
static AT_EXIT: extern "C" fn() = at_exit;
