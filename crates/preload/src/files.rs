//! The files of the namespace: `/proc/sysvipc/{msg,sem,shm}` and the sysctls of `ipc/` below `/proc/sys/kernel`.
//!
//! What users see: plain `ipcs`, `lsipc`, `sysctl`, `cat` and shell redirection see the namespace. A file that is opened becomes a
//! memfd with the text of that moment, at the number that the kernel gave; a sysctl that is opened for writing, one whose writes go to the
//! namespace.
//! What is missing: opening by system calls of the program's own, `stat` (the kernel's own file is shown); see LIMITATIONS.md.
//!
//! The kernel opens first, so that it makes all its checks, also of the path's address, and only then is looked at what was opened: the last
//! component of the path decides whether it can be one of ours, the descriptor's link in /proc whether it is. So no form of a path
//! (relative, by a symbolic link of the same name, with dots) needs to be understood here.

mod path;
mod stream;
mod symbols;
mod write;

use core::ffi::{CStr, c_int};

use abi::{Errno, Result};
use engine::{
    IpcNamespace,
    ipc_sysctl::Sysctl,
    proc::{Line, Sysvipc},
};
use sys::{file, net::Fd};

use path::File;
pub(crate) use symbols::{close_number, find_all};

const O_ACCMODE: i32 = 3;
const O_RDONLY: i32 = 0;
const O_WRONLY: i32 = 1;
const O_TRUNC: i32 = 0o1000;
const O_NONBLOCK: i32 = 0o4000;
const O_NOFOLLOW: i32 = 0o400_000;
/// What a sysctl that is open for writing is named, for programs to which it is handed on.
const WRITTEN: &[u8] = b"ipcspace:";

/// Runs an operation on the namespace. Where there is none, its files are not there either.
fn with<R>(operation: impl FnOnce(&client::Operation<'_>, &IpcNamespace) -> Result<R>) -> Result<R> {
    client::with(|ctx| operation(ctx, IpcNamespace::of(ctx.arena, ctx.host)?.get()))
        .map_err(|error| if error == Errno::ENOSYS { Errno::ENOENT } else { error })
}

/// Whether the caller may write the sysctl now.
fn may_write(sysctl: &Sysctl) -> Result<bool> {
    with(|ctx, ns| Ok(sysctl.may_write(ctx.host, ns)))
}

/// A descriptor of the file, opened with these flags.
fn make(of: File, flags: i32) -> Result<Fd> {
    let kind = flags & O_ACCMODE;
    let writes = kind != O_RDONLY;
    let mut name = [0; 64];
    let fd = file::memfd(name_of(of, writes, &mut name)?)?;
    let (mode, seals) = match of {
        File::Sysvipc(list) => {
            write_list(list, &fd)?;
            (0o444, file::SEALED)
        }
        File::Sysctl(sysctl) => {
            if (writes || flags & O_TRUNC != 0) && !may_write(sysctl)? {
                return Err(Errno::EACCES);
            }
            if kind == O_WRONLY {
                // What libc writes for a stream, by calls that nobody sees, is found in the file; see `stream`.
                (sysctl.mode(), file::SEAL_SEAL)
            } else {
                let mut line = Line::default();
                with(|ctx, _| sysctl.show(ctx, &mut line))?;
                file::write_all(&fd, line.text())?;
                (sysctl.mode(), file::SEALED)
            }
        }
    };
    file::seal(&fd, seals)?;
    let opened = file::reopen(fd.raw(), flags & (O_ACCMODE | O_NONBLOCK) | file::O_CLOEXEC)?;
    file::fchmod(&fd, mode)?;
    Ok(opened)
}

/// The memfd's name: the file's path, or a mark.
fn name_of(of: File, writes: bool, room: &mut [u8; 64]) -> Result<&CStr> {
    let parts = match of {
        File::Sysvipc(Sysvipc::Msg) => [path::SYSVIPC, b"msg"],
        File::Sysvipc(Sysvipc::Sem) => [path::SYSVIPC, b"sem"],
        File::Sysvipc(Sysvipc::Shm) => [path::SYSVIPC, b"shm"],
        File::Sysctl(sysctl) if writes => [WRITTEN, sysctl.file().unwrap_or_default()],
        File::Sysctl(sysctl) => [path::SYSCTL, sysctl.file().unwrap_or_default()],
    };
    for (to, from) in room.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    CStr::from_bytes_until_nul(room).map_err(|_| Errno::EINVAL)
}

fn write_list(list: Sysvipc, fd: &Fd) -> Result<()> {
    file::write_all(fd, list.header().as_bytes())?;
    let mut line = Line::default();
    let mut from = 0;
    while let Some(next) = with(|ctx, _| list.row(ctx, from, &mut line))? {
        file::write_all(fd, line.text())?;
        from = next;
    }
    Ok(())
}

/// Which of the namespace's files a descriptor of the kernel's is.
fn identify(fd: i32) -> Option<File> {
    const PROC_SUPER_MAGIC: i64 = 0x9fa0;
    let mut text = [0; 64];
    let link = file::link_of(fd, &mut text).ok()?;
    path::of_path(link).filter(|_| file::is_on(fd, PROC_SUPER_MAGIC))
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
        Errno::ENOENT => path::of_path(unsafe { path::text(path) }),
        _ => None,
    }
}
