//! The files of the namespace: `/proc/sysvipc/{msg,sem,shm}` and the sysctls of `ipc/` below `/proc/sys` ([`client::files`]).
//!
//! What users see: plain `ipcs`, `lsipc`, `sysctl`, `cat` and shell redirection see the namespace. A file that is opened becomes a
//! memfd with the text of that moment, at the number that the kernel gave; a sysctl that is opened for writing, one whose writes go to the
//! namespace.
//! `/dev/mqueue` is in [`queues`].
//! What is missing: opening by system calls of the program's own, `stat` (the kernel's own file is shown); see LIMITATIONS.md.
//!
//! The kernel opens first, so that it makes all its checks, also of the path's address, and only then is looked at what was opened: the last
//! component of the path decides whether it can be one of ours, the descriptor's link in /proc whether it is. So no form of a path
//! (relative, by a symbolic link of the same name, with dots) needs to be understood here.

mod path;
mod queue;
mod queues;
mod stream;
mod symbols;
mod write;

use core::ffi::c_int;

use abi::{Errno, Result};
use client::files::{self, File, O_ACCMODE, O_RDONLY, O_WRONLY, Source};
use engine::{
    IpcNamespace,
    ipc_sysctl::Sysctl,
    proc::{Line, Sysvipc},
};
use sys::{file, net::Fd};

pub(crate) use symbols::{close_number, closed_numbers, find_all, watch_all};

const O_NOFOLLOW: i32 = 0o400_000;

/// Runs an operation on the namespace.
fn with<R>(operation: impl FnOnce(&client::Operation<'_>, &IpcNamespace) -> Result<R>) -> Result<R> {
    there(client::with(|ctx| operation(ctx, IpcNamespace::of(ctx.arena, ctx.host)?.get())))
}

/// What an operation on the namespace came to. Where there is none, its files are not there either.
fn there<R>(done: Result<R>) -> Result<R> {
    done.map_err(|error| if error == Errno::ENOSYS { Errno::ENOENT } else { error })
}

/// The namespace, as this process sees it.
struct Own;

impl Source for Own {
    const SEES_WRITES: bool = true;

    fn row(&self, list: Sysvipc, from: u32, line: &mut Line) -> Result<Option<u32>> {
        there(client::proc::row(list, from, line))
    }

    fn show(&self, sysctl: &Sysctl, line: &mut Line) -> Result<()> {
        there(client::proc::show(sysctl, line))
    }

    fn may_write(&self, sysctl: &Sysctl) -> Result<bool> {
        there(client::proc::may_write(sysctl))
    }
}

/// A descriptor of the file, opened with these flags.
fn make(of: File, flags: i32) -> Result<Fd> {
    files::make(of, flags, &Own)
}

/// Which of the namespace's files a descriptor of the kernel's is.
fn identify(fd: i32) -> Option<File> {
    let mut text = [0; 64];
    let link = file::link_of(fd, &mut text).ok()?;
    files::of_path(link).filter(|_| files::is_in_proc(fd))
}

/// Puts the namespace's file at the number of the kernel's, if it is one.
///
/// # Errors
/// Why it can't be made; the descriptor is the kernel's still.
fn replace(fd: i32) -> Result<()> {
    identify(fd).map_or(Ok(()), |of| replace_by(of, fd))
}

/// Puts a file of the namespace at the number of what was opened for it.
///
/// # Errors
/// As [`replace`].
fn replace_by(of: File, fd: i32) -> Result<()> {
    let flags = file::flags(fd)?;
    if flags & file::O_PATH == 0 {
        file::put_at(make(of, flags)?, fd, file::cloexec(fd)?)?;
        if flags & O_ACCMODE != O_RDONLY {
            write::opened(fd)?;
        }
    }
    Ok(())
}

/// The namespace's file where the kernel refused its own: for want of rights, which the namespace's owner has here, or because the
/// kernel has no such file.
///
/// # Safety
/// The kernel has read the path.
unsafe fn open_refused(why: Errno, dir: c_int, path: usize, flags: i32) -> Result<c_int> {
    // SAFETY: the caller's promise.
    let of = unsafe { find_refused(why, dir, path, flags) }.ok_or(why)?;
    let fd = make(of, flags)?;
    let number = fd.raw();
    if flags & file::O_CLOEXEC == 0 {
        file::keep_over_exec(number)?;
    }
    if flags & O_ACCMODE != O_RDONLY {
        write::opened(number)?;
    }
    Ok(fd.leak())
}

/// Which file a path names that the kernel refused.
///
/// # Safety
/// As [`open_refused`].
unsafe fn find_refused(why: Errno, dir: c_int, path: usize, flags: i32) -> Option<File> {
    match why {
        // Read-only is what containers make of /proc/sys.
        Errno::EACCES | Errno::EROFS => {
            // SAFETY: the kernel checks the address.
            let name =
                unsafe { file::openat(dir, path, flags & O_NOFOLLOW | file::O_PATH | file::O_CLOEXEC) };
            identify(name.ok()?.raw()).filter(|of| matches!(of, File::Sysctl(_)))
        }
        // SAFETY: the caller's promise.
        Errno::ENOENT => files::of_path(unsafe { path::text(path) }),
        _ => None,
    }
}
