//! The files of the namespace: `/proc/sysvipc/{msg,sem,shm}` and the sysctls of `ipc/` below `/proc/sys`.
//!
//! What users see: a file that is opened is a memfd with the text of that moment; a sysctl that is opened for writing has a mark in its name, by which
//! it is known wherever it goes. Which paths are the namespace's, and what a descriptor of one is, are the same for each door. What is left out of the build
//! is not there: who opens it has not the kernel's.

use core::ffi::CStr;

use abi::{Errno, Result};
use engine::{
    ipc_sysctl::Sysctl,
    options::SYSVIPC,
    proc::{Line, Sysvipc},
};
use sys::{file, net::Fd};

/// Which way a file is opened: a part of `open`'s flags.
pub const O_ACCMODE: i32 = 3;
/// `open`: to read.
pub const O_RDONLY: i32 = 0;
/// `open`: to write.
pub const O_WRONLY: i32 = 1;
/// `open`: the file is emptied.
pub const O_TRUNC: i32 = 0o1000;
const O_NONBLOCK: i32 = 0o4000;

const PROC: &[u8] = b"/proc/";
const LISTS: &[u8] = b"sysvipc/";
const SYS: &[u8] = b"sys/";
/// What a sysctl that is open for writing is named, for programs to which it is handed on.
const WRITTEN: &[u8] = b"ipcspace:";
/// Bytes of the longest last component.
const LONGEST: usize = b"shm_rmid_forced".len();

/// One of the namespace's files.
#[derive(Clone, Copy)]
pub enum File {
    /// Of `/proc/sysvipc`.
    Sysvipc(Sysvipc),
    /// Below `/proc/sys`.
    Sysctl(&'static Sysctl),
}

impl File {
    /// `ENOENT` for what is left out of the build.
    ///
    /// # Errors
    /// That.
    pub fn require(self) -> Result<()> {
        let is_built = match self {
            File::Sysvipc(_) => SYSVIPC,
            File::Sysctl(sysctl) => sysctl.is_built(),
        };
        if is_built { Ok(()) } else { Err(Errno::ENOENT) }
    }
}

/// Where the text of a file comes from: each method is an operation of its own.
pub trait Source {
    /// Whether what is written by a descriptor comes to the namespace without being looked for in its file. If not, one that is open for both
    /// has nothing to read.
    const SEES_WRITES: bool;

    /// As [`Sysvipc::row`].
    ///
    /// # Errors
    /// As there.
    fn row(&self, list: Sysvipc, from: u32, line: &mut Line) -> Result<Option<u32>>;
    /// As [`Sysctl::show`].
    ///
    /// # Errors
    /// As there.
    fn show(&self, sysctl: &Sysctl, line: &mut Line) -> Result<()>;
    /// As [`Sysctl::may_write`].
    ///
    /// # Errors
    /// Where there is no namespace.
    fn may_write(&self, sysctl: &Sysctl) -> Result<bool>;
}

// ---- paths

/// Whether a path can name one of the files: by its last component alone.
#[inline(always)]
pub fn may_be_ours(path: &[u8]) -> bool {
    // The letters that their names end with.
    matches!(path.last(), Some(b'b' | b'c' | b'd' | b'g' | b'i' | b'l' | b'm' | b't' | b'x'))
        && has_name(path)
}

#[cold]
fn has_name(path: &[u8]) -> bool {
    let end = &path[path.len().saturating_sub(LONGEST + 1)..];
    let name = end.rsplit(|byte| *byte == b'/').next().unwrap_or(end);
    Sysvipc::named(name).is_some() || Sysctl::of_file(name).is_some()
}

/// The file of a path in its normal form.
pub fn of_path(path: &[u8]) -> Option<File> {
    in_proc(path.strip_prefix(PROC)?)
}

/// The file of a path in its normal form, wherever the kernel's /proc, which it leads into, is mounted.
pub fn of_path_in_proc(path: &[u8]) -> Option<File> {
    let parts = (0..path.len()).filter(|at| path[*at] == b'/').map(|at| &path[at + 1..]);
    parts.filter_map(in_proc).next()
}

/// The file of a path in the kernel's /proc.
fn in_proc(path: &[u8]) -> Option<File> {
    if let Some(name) = path.strip_prefix(LISTS) {
        return Sysvipc::named(name).map(File::Sysvipc);
    }
    let path = path.strip_prefix(SYS)?;
    let name = path.rsplit(|byte| *byte == b'/').next()?;
    let sysctl = Sysctl::of_file(name)?;
    (path.strip_suffix(name) == Some(sysctl.directory())).then_some(File::Sysctl(sysctl))
}

// ---- descriptors

/// A descriptor of the file, opened with these flags.
///
/// # Errors
/// `ENOENT` for what is left out of the build; `EACCES` for a sysctl that the caller may not write; those of descriptors and memory.
pub fn make<S: Source>(of: File, flags: i32, source: &S) -> Result<Fd> {
    of.require()?;
    let kind = flags & O_ACCMODE;
    let writes = kind != O_RDONLY;
    let mut name = [0; 64];
    let fd = file::memfd(name_of(of, writes, &mut name)?)?;
    let (mode, seals) = match of {
        File::Sysvipc(list) => {
            write_list(list, &fd, source)?;
            (0o444, file::SEALED)
        }
        File::Sysctl(sysctl) => {
            if (writes || flags & O_TRUNC != 0) && !source.may_write(sysctl)? {
                return Err(Errno::EACCES);
            }
            if kind == O_WRONLY || writes && !S::SEES_WRITES {
                // What is written by calls that nobody sees is found in the file.
                (sysctl.mode(), file::SEAL_SEAL)
            } else {
                let mut line = Line::default();
                source.show(sysctl, &mut line)?;
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
    let parts: [&[u8]; 4] = match of {
        File::Sysvipc(Sysvipc::Msg) => [PROC, LISTS, b"", b"msg"],
        File::Sysvipc(Sysvipc::Sem) => [PROC, LISTS, b"", b"sem"],
        File::Sysvipc(Sysvipc::Shm) => [PROC, LISTS, b"", b"shm"],
        File::Sysctl(sysctl) if writes => [WRITTEN, b"", b"", sysctl.file().unwrap_or_default()],
        File::Sysctl(sysctl) => [PROC, SYS, sysctl.directory(), sysctl.file().unwrap_or_default()],
    };
    for (to, from) in room.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    CStr::from_bytes_until_nul(room).map_err(|_| Errno::EINVAL)
}

fn write_list(list: Sysvipc, fd: &Fd, source: &impl Source) -> Result<()> {
    file::write_all(fd, list.header().as_bytes())?;
    let mut line = Line::default();
    let mut from = 0;
    while let Some(next) = source.row(list, from, &mut line)? {
        file::write_all(fd, line.text())?;
        from = next;
    }
    Ok(())
}

/// The sysctl that a descriptor is open for writing of, by its mark.
pub fn written(fd: i32) -> Option<&'static Sysctl> {
    if !file::can_be_sealed(fd) {
        return None;
    }
    let mut text = [0; 64];
    let link = file::link_of(fd, &mut text).ok()?;
    let name = link.strip_prefix(b"/memfd:")?.strip_prefix(WRITTEN)?;
    Sysctl::of_file(name.strip_suffix(b" (deleted)").unwrap_or(name))
}

/// Takes what has been written to a sysctl's descriptor by calls that nobody saw, into `text`; how much that is.
///
/// # Errors
/// Those of opening the file anew.
pub fn take_written(fd: i32, text: &mut [u8]) -> Result<usize> {
    let size = file::read_start(&file::reopen(fd, file::O_CLOEXEC)?, text)?.min(text.len());
    // A descriptor keeps its place when its file is emptied, so what is written further on has zeros before it, and changes nothing, as in the
    // kernel.
    if size == 0 || text[0] == 0 {
        return Ok(0);
    }
    file::empty(fd);
    Ok(size)
}

/// Whether a descriptor is of a file in the kernel's /proc.
pub fn is_in_proc(fd: i32) -> bool {
    const PROC_SUPER_MAGIC: i64 = 0x9fa0;
    file::is_on(fd, PROC_SUPER_MAGIC)
}
