//! `unshare`, `setns`, `clone` and `clone3` with `CLONE_NEWIPC`, and descriptors of `/proc/PID/ns/ipc`.
//!
//! What users see: a process of a namespace of ours, which needs no right of the host for it, goes to a new one, or to that of another process, as with
//! util-linux's `unshare --ipc` and `nsenter --ipc`. Other flags of the same call are the kernel's, with its checks, and come first.
//! What is missing: `stat`, `readlink` and listings show the kernel's namespace; see LIMITATIONS.md.
//!
//! # Safety
//! What the program passes goes to libc or to the kernel as it is, but for the one flag.

use core::ffi::{c_int, c_void};
use core::sync::atomic::Ordering::Relaxed;

use abi::{Errno, Result};
use client::{
    CLONE_NEWIPC, Target,
    mqd::{NAMESPACE, kinds},
};
use sys::{file, net::Fd};

use crate::loader::Next;

const CLONE_VM: u64 = 0x100;
const CLONE_SYSVSEM: u64 = 0x4_0000;

mod nr {
    pub(super) const CLONE: i64 = 56;
    pub(super) const UNSHARE: i64 = 272;
    pub(super) const SETNS: i64 = 308;
    pub(super) const CLONE3: i64 = 435;
}

/// Whether the flags concern a namespace of ours.
fn concerns(flags: u64) -> bool {
    flags & CLONE_NEWIPC != 0 && client::is_within()
}

fn kernel(number: i64, a: usize, b: usize) -> Result<i64> {
    // SAFETY: `unshare` and `setns` take integers.
    sys::check(unsafe { sys::syscall6(number, a, b, 0, 0, 0, 0) }).map(|value| value as i64)
}

#[expect(clippy::cast_possible_truncation, reason = "the same width")]
fn do_unshare(flags: u64) -> Result<i64> {
    let target = Target::new()?;
    let rest = flags & !CLONE_NEWIPC;
    if rest != 0 {
        kernel(nr::UNSHARE, rest as usize, 0)?;
    }
    target.enter().map(|()| 0)
}

/// None if the kernel should have the call as it is.
fn do_setns(fd: c_int, kinds: u64) -> Option<Result<i64>> {
    if !client::is_within() {
        return None;
    }
    if let Some(target) = Target::of_descriptor(fd) {
        return Some(match kinds {
            0 | CLONE_NEWIPC => target.enter().map(|()| 0),
            _ => Err(Errno::EINVAL),
        });
    }
    if kinds & CLONE_NEWIPC == 0 {
        return None;
    }
    let target = Target::of_process(pid_of(fd)?).ok()?;
    let rest = kinds & !CLONE_NEWIPC;
    #[expect(clippy::cast_possible_truncation, reason = "the same width")]
    let kernels =
        if rest == 0 { Ok(0) } else { kernel(nr::SETNS, fd.cast_unsigned() as usize, rest as usize) };
    Some(kernels.and_then(|_| target.enter()).map(|()| 0))
}

/// Whether that is a question of `ioctl_ns(2)`, whose a namespace is and of which kind, to one of ours.
pub(crate) fn is_asked(fd: c_int, request: usize) -> bool {
    (0xb701..=0xb704).contains(&request) && Target::is_descriptor(fd)
}

/// `ioctl` of such a descriptor, which is answered as that of the kernel's IPC namespace is: lsns(8) would show nothing at all without.
pub(crate) extern "C" fn ioctl_ns(_: c_int, request: usize, arg: usize) -> c_int {
    let path = c"/proc/self/ns/ipc".as_ptr() as usize;
    // SAFETY: a terminated string.
    let kernels = unsafe { file::openat(file::AT_FDCWD, path, file::O_CLOEXEC) };
    crate::finish_int(kernels.and_then(|kernels| {
        // SAFETY: the kernel checks `arg`, which is the program's.
        let answer = unsafe { sys::syscall6(16, kernels.raw() as usize, request, arg, 0, 0, 0) };
        sys::check(answer).map(|value| value as i64)
    }))
}

/// The process of a pidfd.
fn pid_of(fd: c_int) -> Option<u32> {
    let mut path = *b"/proc/self/fdinfo/\0\0\0\0\0\0\0\0\0\0\0\0";
    let mut digits = [0; 10];
    let text = decimal(u32::try_from(fd).ok()?, &mut digits);
    path[18..].get_mut(..text.len())?.copy_from_slice(text);
    // SAFETY: a terminated string.
    let info = unsafe { file::openat(file::AT_FDCWD, path.as_ptr() as usize, file::O_CLOEXEC) }.ok()?;
    let mut text = [0; 256];
    let len = file::read_start(&info, &mut text).ok()?;
    let line = text.get(..len)?.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Pid:\t"))?;
    number(line)
}

fn decimal(mut value: u32, room: &mut [u8; 10]) -> &[u8] {
    let mut at = room.len();
    loop {
        at -= 1;
        room[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return &room[at..];
        }
    }
}

fn number(text: &[u8]) -> Option<u32> {
    core::str::from_utf8(text).ok()?.parse().ok()
}

/// `unshare(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn unshare(flags: c_int) -> c_int {
    let wanted = u64::from(flags.cast_unsigned());
    let done = if concerns(wanted) {
        do_unshare(wanted)
    } else {
        kernel(nr::UNSHARE, flags.cast_unsigned() as usize, 0)
    };
    crate::finish_int(done)
}

/// `setns(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn setns(fd: c_int, kinds: c_int) -> c_int {
    let kernels = || kernel(nr::SETNS, fd.cast_unsigned() as usize, kinds.cast_unsigned() as usize);
    crate::finish_int(do_setns(fd, kinds.cast_unsigned().into()).unwrap_or_else(kernels))
}

type Function = extern "C-unwind" fn(*mut c_void) -> c_int;
type LibcClone =
    unsafe extern "C-unwind" fn(Function, *mut c_void, c_int, *mut c_void, usize, usize, usize) -> c_int;
static LIBC_CLONE: Next = Next::new(c"clone");

fn libc_clone() -> LibcClone {
    // SAFETY: libc's function, whose variadic arguments are passed as others are.
    unsafe { core::mem::transmute::<usize, LibcClone>(LIBC_CLONE.get()) }
}

/// What a child of clone is to do: first go to its namespace.
struct Start {
    target: Target,
    function: Function,
    argument: *mut c_void,
}

extern "C-unwind" fn start(start: *mut c_void) -> c_int {
    // SAFETY: what `do_clone` passed; the child has its own copy.
    let start = unsafe { &*start.cast::<Start>() };
    match start.target.enter_unchecked() {
        Ok(()) => (start.function)(start.argument),
        // It must not act on what is another namespace's.
        Err(_) => 127,
    }
}

/// `EINVAL` for what the kernel refuses, and for a child that shares its parent's memory.
fn check_clone(flags: u64) -> Result<()> {
    if flags & (CLONE_SYSVSEM | CLONE_VM) == 0 { Ok(()) } else { Err(Errno::EINVAL) }
}

/// `clone(2)`. Variadic in C: what was not passed is a register's old value, which libc and the kernel don't look at.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn clone(
    function: Function,
    stack: *mut c_void,
    flags: c_int,
    argument: *mut c_void,
    parent_tid: usize,
    tls: usize,
    child_tid: usize,
) -> c_int {
    let libc = libc_clone();
    let wanted = u64::from(flags.cast_unsigned());
    if !concerns(wanted) {
        // SAFETY: the program's own call.
        return unsafe { libc(function, stack, flags, argument, parent_tid, tls, child_tid) };
    }
    let target = match check_clone(wanted).and_then(|()| Target::new()) {
        Ok(target) => target,
        Err(error) => return crate::finish_int(Err(error)),
    };
    let mut own = Start { target, function, argument };
    #[expect(clippy::cast_possible_truncation, reason = "one bit of an int")]
    let flags = flags & !(CLONE_NEWIPC as c_int);
    // SAFETY: as above; the child reads its own copy of what is on this stack.
    unsafe { libc(start, stack, flags, (&raw mut own).cast(), parent_tid, tls, child_tid) }
}

/// A call by `syscall(2)`; none if the kernel should have it as it is.
pub(crate) fn raw(number: i64, arguments: [usize; 5]) -> Option<Result<i64>> {
    let first = arguments[0] as u64;
    match number {
        nr::UNSHARE if concerns(first) => Some(do_unshare(first)),
        #[expect(clippy::cast_possible_truncation, reason = "an int to the kernel")]
        nr::SETNS => do_setns(first as c_int, arguments[1] as u64 & u64::from(u32::MAX)),
        nr::CLONE if concerns(first) => Some(raw_clone(arguments)),
        nr::CLONE3 if client::is_within() => raw_clone3(arguments[0], arguments[1]),
        _ => None,
    }
}

fn raw_clone([flags, stack, parent_tid, child_tid, tls]: [usize; 5]) -> Result<i64> {
    check_clone(flags as u64)?;
    if stack != 0 {
        // The child could not go on here.
        return Err(Errno::EINVAL);
    }
    let target = Target::new()?;
    let flags = flags as u64 & !CLONE_NEWIPC;
    #[expect(clippy::cast_possible_truncation, reason = "the same width")]
    // SAFETY: the program's own call. The child goes on here, on its copy of this stack.
    let result = unsafe { sys::syscall6(nr::CLONE, flags as usize, stack, parent_tid, child_tid, tls, 0) };
    finish_clone(&target, result)
}

/// The program's structure, with room for what later kernels added.
const CLONE_ARGS: usize = 128;
/// Which word of it is the child's stack.
const STACK: usize = 5;

fn raw_clone3(at: usize, size: usize) -> Option<Result<i64>> {
    let mut own = [0u64; CLONE_ARGS / 8];
    if !(64..=CLONE_ARGS).contains(&size) {
        return None;
    }
    // SAFETY: `own` has room for `size` bytes; a fault at `at` is caught.
    unsafe { client::copy(own.as_mut_ptr().cast(), at as *const u8, size) }.ok()?;
    if own[0] & CLONE_NEWIPC == 0 {
        return None;
    }
    Some((|| {
        check_clone(own[0])?;
        if own[STACK] != 0 {
            return Err(Errno::EINVAL);
        }
        let target = Target::new()?;
        own[0] &= !CLONE_NEWIPC;
        // SAFETY: as in `raw_clone`, with a copy of the program's structure.
        let result = unsafe { sys::syscall6(nr::CLONE3, own.as_ptr() as usize, size, 0, 0, 0, 0) };
        finish_clone(&target, result)
    })())
}

fn finish_clone(target: &Target, result: isize) -> Result<i64> {
    let result = sys::check(result)?;
    if result == 0 {
        // Its parent was allowed to. It must not go on in another namespace.
        if target.enter_unchecked().is_err() {
            // SAFETY: ends this process.
            unsafe { sys::syscall6(231, 127, 0, 0, 0, 0, 0) };
        }
    }
    Ok(result as i64)
}

// ---- descriptors

/// Whether a path can be that of a process's IPC namespace.
pub(crate) fn is_path(path: &[u8]) -> bool {
    path == b"ipc" || path.ends_with(b"/ipc")
}

/// A path was opened that [`is_path`] knows: if it was a process's IPC namespace, and the process is in one of ours, that one takes the
/// descriptor's place.
///
/// # Safety
/// The kernel has read the path.
pub(crate) unsafe fn opened(fd: c_int, dir: c_int, path: &[u8]) {
    let _ = (|| {
        let mut text = [0; 64];
        if !file::link_of(fd, &mut text)?.starts_with(b"ipc:[") || file::flags(fd)? & file::O_PATH != 0 {
            return Err(Errno::EINVAL);
        }
        let pid = pid_in(&parent_of(dir, path)?).ok_or(Errno::EINVAL)?;
        file::put_at(Target::of_process(pid)?.into_descriptor(), fd, file::cloexec(fd)?)?;
        if let Some(kinds) = kinds(fd) {
            kinds.fetch_or(NAMESPACE, Relaxed);
        }
        Ok(())
    })();
}

/// The directory that a path's last component is in.
fn parent_of(dir: c_int, path: &[u8]) -> Result<Fd> {
    let mut parent = [0; 256];
    let len = path.len() - b"ipc".len();
    let text = if len == 0 { b"./" } else { &path[..len] };
    parent[..255].get_mut(..text.len()).ok_or(Errno::EINVAL)?.copy_from_slice(text);
    // SAFETY: a terminated string.
    unsafe { file::openat(dir, parent.as_ptr() as usize, file::O_PATH | file::O_CLOEXEC) }
}

/// The process in whose directory of namespaces, or one of whose threads', this is.
fn pid_in(directory: &Fd) -> Option<u32> {
    let mut text = [0; 64];
    let link = file::link_of(directory.raw(), &mut text).ok()?;
    let mut parts = link.strip_prefix(b"/proc/")?.strip_suffix(b"/ns")?.split(|byte| *byte == b'/');
    number(parts.next()?)
}
