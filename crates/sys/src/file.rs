//! Descriptors and the files behind them, as far as the namespace's own files need it.
//!
//! # Safety
//! Every call is given integers, terminated strings and buffers that are valid for their length.

use core::ffi::CStr;

use abi::{Errno, Result};

use crate::{check, net::Fd, syscall6};

const F_GETFL: usize = 3;
const F_ADD_SEALS: usize = 1033;
const F_GET_SEALS: usize = 1034;
const MFD_CLOEXEC_SEALING: usize = 3;
/// `openat`: no directory of one's own.
pub const AT_FDCWD: i32 = -100;
/// `open`: close the descriptor on exec.
pub const O_CLOEXEC: i32 = 0o2_000_000;
/// `open`: a name only, not the file.
pub const O_PATH: i32 = 0o10_000_000;
/// `F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE`: never to be changed again.
pub const SEALED: u32 = 15;
/// No more seals.
pub const SEAL_SEAL: u32 = 1;

fn at(fd: i32) -> usize {
    // Sign and all, as AT_FDCWD is passed.
    fd as isize as usize
}

/// A new memfd of that name.
///
/// # Errors
/// `EMFILE ENFILE ENOMEM`.
pub fn memfd(name: &CStr) -> Result<Fd> {
    // SAFETY: a terminated string.
    let fd = check(unsafe { syscall6(319, name.as_ptr() as usize, MFD_CLOEXEC_SEALING, 0, 0, 0, 0) })?;
    Ok(Fd::own(fd as i32))
}

/// Appends to a file of one's own.
///
/// # Errors
/// `ENOSPC ENOMEM EIO`.
pub fn write_all(fd: &Fd, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        // SAFETY: the slice is valid.
        match check(unsafe { syscall6(1, at(fd.raw()), bytes.as_ptr() as usize, bytes.len(), 0, 0, 0) }) {
            Ok(0) => return Err(Errno::ENOSPC),
            Ok(written) => bytes = &bytes[written.min(bytes.len())..],
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Adds seals to a memfd.
///
/// # Errors
/// `EPERM`.
pub fn seal(fd: &Fd, seals: u32) -> Result<()> {
    // SAFETY: integers.
    check(unsafe { syscall6(72, at(fd.raw()), F_ADD_SEALS, seals as usize, 0, 0, 0) }).map(|_| ())
}

/// Whether the descriptor is of a file that can have seals at all: a memfd, or one of tmpfs.
pub fn can_be_sealed(fd: i32) -> bool {
    // SAFETY: integers.
    check(unsafe { syscall6(72, at(fd), F_GET_SEALS, 0, 0, 0, 0) }).is_ok()
}

/// The root directory, for nothing but to have a descriptor.
///
/// # Errors
/// Those of `open`.
pub fn open_root() -> Result<Fd> {
    open(AT_FDCWD, c"/", O_PATH | O_CLOEXEC)
}

/// Opens a path of ours, from a directory on: the kernel's file in any case.
///
/// # Errors
/// Those of `open`.
pub fn open(dir: i32, path: &CStr, flags: i32) -> Result<Fd> {
    // SAFETY: a terminated string.
    unsafe { openat(dir, path.as_ptr() as usize, flags) }
}

/// Sets a file's mode.
///
/// # Errors
/// `EPERM`.
pub fn fchmod(fd: &Fd, mode: u32) -> Result<()> {
    // SAFETY: integers.
    check(unsafe { syscall6(91, at(fd.raw()), mode as usize, 0, 0, 0, 0) }).map(|_| ())
}

/// The flags of an open descriptor.
///
/// # Errors
/// `EBADF`.
pub fn flags(fd: i32) -> Result<i32> {
    // SAFETY: integers.
    check(unsafe { syscall6(72, at(fd), F_GETFL, 0, 0, 0, 0) }).map(|f| f as i32)
}

/// Whether exec closes the descriptor, as the flag of `open`.
///
/// # Errors
/// `EBADF`.
pub fn cloexec(fd: i32) -> Result<i32> {
    const F_GETFD: usize = 1;
    // SAFETY: integers.
    let flags = check(unsafe { syscall6(72, at(fd), F_GETFD, 0, 0, 0, 0) })?;
    Ok(if flags & 1 != 0 { O_CLOEXEC } else { 0 })
}

/// Exec does not close the descriptor any more.
///
/// # Errors
/// `EBADF`.
pub fn keep_over_exec(fd: i32) -> Result<()> {
    const F_SETFD: usize = 2;
    // SAFETY: integers.
    check(unsafe { syscall6(72, at(fd), F_SETFD, 0, 0, 0, 0) }).map(|_| ())
}

/// `/proc/self/fd/N`, terminated.
struct Link([u8; 26]);

impl Link {
    fn of(fd: i32) -> Link {
        let mut text = *b"/proc/self/fd/\0\0\0\0\0\0\0\0\0\0\0\0";
        let mut digits = [0u8; 10];
        let (mut number, mut count) = (fd.unsigned_abs(), 0);
        while count == 0 || number > 0 {
            digits[count] = b'0' + (number % 10) as u8;
            number /= 10;
            count += 1;
        }
        for (to, digit) in text[14..].iter_mut().zip(digits[..count].iter().rev()) {
            *to = *digit;
        }
        Link(text)
    }
}

/// In the place of an argument that `openat` does not have: the trap's filter lets pass what is opened so. It may be opened under a lock, which
/// whoever answers for the trap waits for.
pub const MARK: u32 = 0xb5ad_4ece;

/// `openat`, to a path that is known to be good or one of the program's own. It is the kernel's file in any case.
///
/// # Safety
/// `path` is whatever the kernel may be given: it checks it.
///
/// # Errors
/// The call's.
pub unsafe fn openat(dir: i32, path: usize, flags: i32) -> Result<Fd> {
    // SAFETY: the kernel checks the address.
    check(unsafe { syscall6(257, at(dir), path, flags as usize, 0, 0, MARK as usize) })
        .map(|fd| Fd::own(fd as i32))
}

/// Whether the kernel can read a path, and so may we.
pub fn can_be_read(path: usize) -> bool {
    // SAFETY: the kernel checks the address.
    let looked = check(unsafe { syscall6(269, at(AT_FDCWD), path, 0, 0, 0, 0) });
    !matches!(looked, Err(Errno::EFAULT | Errno::ENAMETOOLONG))
}

/// Opens the file behind a descriptor once more.
///
/// # Errors
/// Those of `open`.
pub fn reopen(fd: i32, flags: i32) -> Result<Fd> {
    let link = Link::of(fd);
    // SAFETY: a terminated string.
    unsafe { openat(AT_FDCWD, link.0.as_ptr() as usize, flags) }
}

/// What the descriptor's link in /proc says: a path, or what else it is.
///
/// # Errors
/// `EBADF`, or there is no /proc.
pub fn link_of(fd: i32, text: &mut [u8]) -> Result<&[u8]> {
    let link = Link::of(fd);
    // SAFETY: a terminated string, and room for what is written.
    let len = check(unsafe {
        syscall6(267, at(AT_FDCWD), link.0.as_ptr() as usize, text.as_mut_ptr() as usize, text.len(), 0, 0)
    })?;
    Ok(&text[..len.min(text.len())])
}

/// Whether the file is on a file system of this type.
pub fn is_on(fd: i32, magic: i64) -> bool {
    let mut stat = [0i64; 15];
    // SAFETY: struct statfs has 120 bytes.
    let done = check(unsafe { syscall6(138, at(fd), stat.as_mut_ptr() as usize, 0, 0, 0, 0) });
    done.is_ok() && stat[0] == magic
}

/// Gives `fd` the number `number`, in the place of what had it.
///
/// # Errors
/// `EBADF EMFILE`.
pub fn put_at(fd: Fd, number: i32, flags: i32) -> Result<()> {
    // SAFETY: integers.
    check(unsafe { syscall6(292, at(fd.raw()), at(number), (flags & O_CLOEXEC) as usize, 0, 0, 0) })
        .map(|_| ())
}

/// Where the descriptor stands in its file.
///
/// # Errors
/// `EBADF ESPIPE`.
pub fn position(fd: i32) -> Result<u64> {
    // SAFETY: integers.
    check(unsafe { syscall6(8, at(fd), 0, 1, 0, 0, 0) }).map(|p| p as u64)
}

/// Moves the descriptor on in its file.
pub fn advance(fd: i32, by: usize) {
    // SAFETY: integers.
    unsafe { syscall6(8, at(fd), by, 1, 0, 0, 0) };
}

/// The file's first bytes, as many as there are.
///
/// # Errors
/// `EBADF` of one that is open for writing only.
pub fn read_start(fd: &Fd, text: &mut [u8]) -> Result<usize> {
    // SAFETY: the slice is valid.
    check(unsafe { syscall6(17, at(fd.raw()), text.as_mut_ptr() as usize, text.len(), 0, 0, 0) })
}

/// Empties a file.
pub fn empty(fd: i32) {
    // SAFETY: integers.
    unsafe { syscall6(77, at(fd), 0, 0, 0, 0, 0) };
}

/// Another descriptor of the same file, by the lowest number that is free from `lowest` on.
///
/// # Errors
/// `EMFILE EBADF`; `EINVAL` where no number is as high.
pub fn duplicate(fd: i32, lowest: i32) -> Result<Fd> {
    const F_DUPFD_CLOEXEC: usize = 1030;
    // SAFETY: integers.
    check(unsafe { syscall6(72, at(fd), F_DUPFD_CLOEXEC, at(lowest), 0, 0, 0) }).map(|fd| Fd::own(fd as i32))
}

/// Closes a descriptor of the program's.
pub fn close(fd: i32) {
    // SAFETY: the caller replaces what it has just opened.
    unsafe { syscall6(3, at(fd), 0, 0, 0, 0, 0) };
}

/// `close(2)`.
///
/// # Errors
/// `EBADF`, and what the file system says.
pub fn closed(fd: i32) -> Result<()> {
    // SAFETY: an integer.
    check(unsafe { syscall6(3, at(fd), 0, 0, 0, 0, 0) }).map(|_| ())
}

/// Closes all of the caller's descriptors from `first` on.
///
/// # Errors
/// `ENOSYS` before Linux 5.9.
pub fn close_from(first: i32) -> Result<()> {
    // SAFETY: the caller has none any more that it needs.
    check(unsafe { syscall6(436, at(first), u32::MAX as usize, 0, 0, 0, 0) }).map(|_| ())
}
