//! Opening the files of the namespace ([`client::files`]).
//!
//! What users see: `/proc/sysvipc` and the sysctls are the namespace's for those who open them by system calls that the filter asks about. All other
//! paths are left to the kernel, as soon as their last component tells that they can't be meant; and so is what its own files are right for: stat,
//! listings, paths that lead nowhere. `/dev/mqueue`, all of which is the namespace's, is in [`crate::queues`].
//! A sysctl that is opened for writing is a file of a view ([`View`]), which hears of each write and answers it.
//! What is missing: where there can be no view, who writes a sysctl does not hear of an error. The descriptor is a memfd's then, as the library's is, and what was written is found
//! there, before the next question of anybody is answered. Opening with rules for the way (`resolve` of `openat2`) leads to the kernel's file.
//!
//! Whether a path leads to one of the kernel's files is seen by going that way, from the target's root, directory or descriptor.

use std::collections::HashMap;
use std::fs::read_link;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use abi::{Errno, Result};
use arena::Ctx;
use client::files::{self, File, O_ACCMODE, O_RDONLY, O_TRUNC, Source};
use engine::{IpcNamespace, Task, ipc_sysctl::Sysctl, proc::Line, proc::Sysvipc};
use nix::fcntl::{OFlag, open};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use nix::sys::stat::{Mode, fstat, lstat};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use sys::{file, net::Fd};

use crate::filter::{ARCH_64, Sign, Test};
use crate::namespaces;
use crate::notify::{Listener, Notification};
use crate::queues::{self, Listing};
use crate::stub;
use crate::target::{Status, Subject};

/// What a system call does with a path.
#[derive(Clone, Copy)]
enum Kind {
    Open,
    Creat,
    Openat,
    Openat2,
    Access,
    Faccessat,
    Faccessat2,
    Stat,
    Fstatat,
    Statx,
    Unlink,
    Unlinkat,
    Getdents,
    Getdents64,
}

/// The calls, by their numbers of x86-64 and of i386.
const CALLS: [(Kind, u32, u32); COUNT] = [
    (Kind::Open, 2, 5),
    (Kind::Creat, 85, 8),
    (Kind::Openat, 257, 295),
    (Kind::Openat2, 437, 437),
    (Kind::Access, 21, 33),
    (Kind::Faccessat, 269, 307),
    (Kind::Faccessat2, 439, 439),
    (Kind::Stat, 4, 195),
    // lstat: there are no links.
    (Kind::Stat, 6, 196),
    (Kind::Fstatat, 262, 300),
    (Kind::Statx, 332, 383),
    (Kind::Unlink, 87, 10),
    (Kind::Unlinkat, 263, 301),
    (Kind::Getdents, 78, 141),
    (Kind::Getdents64, 217, 220),
];
const COUNT: usize = 15;

impl Kind {
    /// Whether the first argument is a directory's descriptor.
    fn is_relative(self) -> bool {
        use Kind::*;
        matches!(self, Openat | Openat2 | Faccessat | Faccessat2 | Fstatat | Statx | Unlinkat)
    }

    /// Where the path is.
    fn path(self, args: [u64; 6]) -> u64 {
        args[usize::from(self.is_relative())]
    }

    /// What has a call pass.
    fn passes(self, compat: bool) -> Option<Sign> {
        const EMPTY_PATH: u32 = libc::AT_EMPTY_PATH.cast_unsigned();
        match self {
            // What a library of ours opens; there is none of 32 bits.
            Kind::Openat if !compat => Some(Sign { argument: 5, test: Test::Equals, value: file::MARK }),
            // Of a descriptor: as some libcs make `fstat`.
            Kind::Fstatat => Some(Sign { argument: 3, test: Test::HasBit, value: EMPTY_PATH }),
            Kind::Statx => Some(Sign { argument: 2, test: Test::HasBit, value: EMPTY_PATH }),
            _ => None,
        }
    }
}

/// The numbers that are asked about, and what has a call pass nevertheless.
pub(crate) fn numbers(compat: bool) -> [(u32, Option<Sign>); COUNT] {
    CALLS.map(|(kind, native, of_32)| (if compat { of_32 } else { native }, kind.passes(compat)))
}

/// Opens a file of a view for a sysctl, with flags of `open`, as this process may; none where there is no view.
pub type View = dyn Fn(&Sysctl, i32) -> Option<Fd> + Send + Sync;

/// What is wanted of a file.
#[derive(Clone, Copy)]
enum Act {
    /// With these flags.
    Open(i32),
    /// To know whether it may be written.
    Access,
}

/// One of the namespace's files, and what is wanted of it.
#[derive(Clone, Copy)]
pub(crate) struct Request {
    of: File,
    act: Act,
}

/// What a question is about.
pub(crate) enum About {
    /// Anything else.
    Else,
    /// A file that is none of ours, or that the kernel's will do for.
    Kernels,
    /// A 32-bit program opens the preload library.
    Library,
    Ours(Request),
    /// A process's namespace, opened with these flags.
    Namespace(u32, i32),
    /// The queues' directory, or what is in it.
    Queues(queues::Request),
}

pub(crate) fn about(asked: &Notification) -> About {
    let is_64 = asked.data.arch == ARCH_64;
    let number = asked.data.nr.cast_unsigned();
    let is_it = |call: &&(Kind, u32, u32)| number == if is_64 { call.1 } else { call.2 };
    match CALLS.iter().find(is_it) {
        None => About::Else,
        Some((kind, ..)) => {
            let args = asked.data.args.map(|register| if is_64 { register } else { register & 0xffff_ffff });
            if let Kind::Getdents | Kind::Getdents64 = kind {
                return listing(asked.pid, *kind, args, is_64).map_or(About::Kernels, About::Queues);
            }
            match read_path(asked.pid, kind.path(args)) {
                None => About::Kernels,
                Some(path) if !is_64 && stub::stands_for(&path) => About::Library,
                Some(path) => {
                    if let Some(request) = request_of_queues(asked.pid, *kind, args, &path, is_64) {
                        return About::Queues(request);
                    }
                    if let Some((pid, flags)) = namespace(asked.pid, *kind, args, &path) {
                        return About::Namespace(pid, flags);
                    }
                    request(asked.pid, *kind, args, &path).map_or(About::Kernels, About::Ours)
                }
            }
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "ints in registers")]
fn listing(tid: u32, kind: Kind, [fd, to, room, ..]: [u64; 6], is_64: bool) -> Option<queues::Request> {
    let shape = match kind {
        Kind::Getdents => queues::Shape::Dirent(if is_64 { 8 } else { 4 }),
        _ => queues::Shape::Dirent64,
    };
    Listing::of(tid, fd as i32, to, room as u32 as usize, shape).map(queues::Request::List)
}

/// What is wanted of a queue's file, or of their directory.
#[expect(clippy::cast_possible_truncation, reason = "ints in registers")]
fn request_of_queues(
    tid: u32,
    kind: Kind,
    args: [u64; 6],
    path: &[u8],
    is_64: bool,
) -> Option<queues::Request> {
    use queues::{Act, Structure};
    let dir = if kind.is_relative() { args[0] as i32 } else { libc::AT_FDCWD };
    let place = queues::place(tid, dir, path, kind.path(args))?;
    let [_, b, c, d, e, _] = args;
    let stat = if is_64 { Structure::Stat } else { Structure::Stat64 };
    let act = match kind {
        Kind::Open => Act::Open(b as i32, c as u32),
        Kind::Creat => Act::Open(libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC, b as u32),
        Kind::Openat => Act::Open(c as i32, d as u32),
        Kind::Openat2 => open_how(tid, c, d).map(|(flags, mode)| Act::Open(flags, mode))?,
        Kind::Access => Act::Access(b as i32),
        Kind::Faccessat | Kind::Faccessat2 => Act::Access(c as i32),
        Kind::Stat => Act::Stat(stat, b),
        Kind::Fstatat => Act::Stat(stat, c),
        Kind::Statx => Act::Stat(Structure::Statx, e),
        Kind::Unlink => Act::Unlink(0),
        Kind::Unlinkat => Act::Unlink(c as i32),
        Kind::Getdents | Kind::Getdents64 => return None,
    };
    Some(queues::Request::Of(place, act))
}

/// The process whose IPC namespace is opened to be read, and the flags.
#[expect(clippy::cast_possible_truncation, reason = "ints in registers")]
fn namespace(tid: u32, kind: Kind, [a, b, c, d, ..]: [u64; 6], path: &[u8]) -> Option<(u32, i32)> {
    if path != b"ipc" && !path.ends_with(b"/ipc") {
        return None;
    }
    let (dir, flags) = match kind {
        Kind::Open => (libc::AT_FDCWD, b as i32),
        Kind::Openat => (a as i32, c as i32),
        Kind::Openat2 => (a as i32, open_how(tid, c, d)?.0),
        _ => return None,
    };
    let (_, follows) = opening(flags)?;
    if !follows || flags & O_ACCMODE != O_RDONLY {
        return None;
    }
    // The link itself, which says whose it is.
    let itself = OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let file = open(way(tid, dir, path).as_slice(), itself, Mode::empty()).ok()?;
    let link = read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
    let pid = namespaces::pid_in(link.as_os_str().as_bytes())?;
    // The path is one of that thread's: another file may be there for us, as the numbers of another PID namespace are others.
    let (theirs, ours) = (fstat(&file).ok()?, lstat(&link).ok()?);
    if !files::is_in_proc(file.as_raw_fd()) || (theirs.st_dev, theirs.st_ino) != (ours.st_dev, ours.st_ino) {
        return None;
    }
    // Its own is ours, as we have gone there.
    let is_self = path.split(|byte| *byte == b'/').any(|part| part == b"self" || part == b"thread-self");
    let pid = if is_self && pid == std::process::id() { Status::of(tid).ok()?.number("Tgid")? } else { pid };
    Some((pid, flags))
}

#[expect(clippy::cast_possible_truncation, reason = "ints in registers")]
fn request(tid: u32, kind: Kind, [a, b, c, d, ..]: [u64; 6], path: &[u8]) -> Option<Request> {
    if !files::may_be_ours(path) {
        return None;
    }
    let dir = if kind.is_relative() { a as i32 } else { libc::AT_FDCWD };
    let (act, follows) = match kind {
        Kind::Open => opening(b as i32)?,
        Kind::Creat => opening(libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC)?,
        Kind::Openat => opening(c as i32)?,
        Kind::Openat2 => opening(open_how(tid, c, d)?.0)?,
        Kind::Access => accessing(b as i32, 0)?,
        Kind::Faccessat => accessing(c as i32, 0)?,
        Kind::Faccessat2 => accessing(c as i32, d as i32)?,
        _ => return None,
    };
    let of = find(tid, dir, path, follows)?;
    // What is open to nobody but root's curiosity.
    let is_wanted = match (of, act) {
        _ if of.require().is_err() => true,
        (File::Sysctl(_), _) => true,
        (File::Sysvipc(_), Act::Open(flags)) => flags & (O_ACCMODE | O_TRUNC) == O_RDONLY,
        (File::Sysvipc(_), Act::Access) => false,
    };
    is_wanted.then_some(Request { of, act })
}

/// Opening, and whether a symbolic link at the end is followed; none where the kernel has nothing to open or to refuse but its own.
fn opening(flags: i32) -> Option<(Act, bool)> {
    const NEW: i32 = libc::O_CREAT | libc::O_EXCL;
    let is_plain = flags & (libc::O_PATH | libc::O_DIRECTORY) == 0
        && flags & NEW != NEW
        && flags & O_ACCMODE != O_ACCMODE;
    is_plain.then_some((Act::Open(flags), flags & libc::O_NOFOLLOW == 0))
}

/// The question whether a file may be written: to read all are open, to execute none.
fn accessing(mode: i32, flags: i32) -> Option<(Act, bool)> {
    const KNOWN: i32 = libc::AT_EACCESS | libc::AT_SYMLINK_NOFOLLOW;
    let is_to_write = mode & libc::W_OK != 0 && mode & !(libc::W_OK | libc::R_OK) == 0;
    (is_to_write && flags & !KNOWN == 0).then_some((Act::Access, flags & libc::AT_SYMLINK_NOFOLLOW == 0))
}

/// The flags and the mode of `struct open_how`, where it has no rules for the way.
fn open_how(tid: u32, at: u64, size: u64) -> Option<(i32, u32)> {
    const SIZE: usize = 24;
    let mut how = [0; SIZE];
    if size != SIZE as u64 || read(tid, at, &mut how) != Some(SIZE) {
        return None;
    }
    let field = |at: usize| Some(u64::from_ne_bytes(*how.get(at..)?.first_chunk()?));
    (field(16)? == 0).then_some(())?;
    Some((i32::try_from(field(0)?).ok()?, u32::try_from(field(8)?).ok()?))
}

/// Reads from the memory of a thread; how much could be read.
pub(crate) fn read(tid: u32, from: u64, to: &mut [u8]) -> Option<usize> {
    let remote = RemoteIoVec { base: usize::try_from(from).ok()?, len: to.len() };
    process_vm_readv(Pid::from_raw(tid.cast_signed()), &mut [IoSliceMut::new(to)], &[remote]).ok()
}

/// A path in the memory of a thread, without its end; none where it can't be read, or is too long for the kernel.
fn read_path(tid: u32, at: u64) -> Option<Vec<u8>> {
    const PAGE: u64 = 4096;
    let mut path = Vec::new();
    while path.len() < PAGE as usize {
        let from = at.checked_add(path.len() as u64)?;
        let mut part = [0; PAGE as usize];
        // The rest of the page, of which a path takes little.
        let most = usize::try_from(PAGE - from % PAGE).ok()?;
        let room = part.get_mut(..most)?;
        let got = read(tid, from, room).filter(|got| *got > 0)?;
        match room[..got].iter().position(|byte| *byte == 0) {
            Some(end) => {
                path.extend_from_slice(&room[..end]);
                return Some(path);
            }
            None => path.extend_from_slice(&room[..got]),
        }
    }
    None
}

/// The way to where a thread's path leads.
fn way(tid: u32, dir: i32, path: &[u8]) -> Vec<u8> {
    let start = match dir {
        _ if path.starts_with(b"/") => format!("/proc/{tid}/root"),
        libc::AT_FDCWD => format!("/proc/{tid}/cwd/"),
        dir => format!("/proc/{tid}/fd/{dir}/"),
    };
    [start.as_bytes(), path].concat()
}

/// Where a thread's path leads, if to one of the kernel's files that are ours here.
fn find(tid: u32, dir: i32, path: &[u8], follows: bool) -> Option<File> {
    let way = way(tid, dir, path);
    let nofollow = if follows { OFlag::empty() } else { OFlag::O_NOFOLLOW };
    match open(way.as_slice(), OFlag::O_PATH | OFlag::O_CLOEXEC | nofollow, Mode::empty()) {
        Ok(fd) => {
            let link = read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()?;
            files::of_path_in_proc(link.as_os_str().as_bytes()).filter(|_| files::is_in_proc(fd.as_raw_fd()))
        }
        // Of a kernel that has no such file.
        Err(nix::Error::ENOENT) => files::of_path(path),
        Err(_) => None,
    }
}

/// The namespace, in an operation for somebody.
struct Within<'a, 'c, T: Task>(&'a Ctx<'c, T>);

impl<T: Task> Source for Within<'_, '_, T> {
    const SEES_WRITES: bool = false;

    fn row(&self, list: Sysvipc, from: u32, line: &mut Line) -> Result<Option<u32>> {
        list.row(self.0, from, line)
    }

    fn show(&self, sysctl: &Sysctl, line: &mut Line) -> Result<()> {
        sysctl.show(self.0, line)
    }

    fn may_write(&self, sysctl: &Sysctl) -> Result<bool> {
        Ok(sysctl.may_write(self.0.host, IpcNamespace::of(self.0.arena, self.0.host)?.get()))
    }
}

/// What a request comes to.
pub(crate) enum Answer {
    Value(i64),
    /// This descriptor, with these flags of `open`.
    Descriptor(Fd, i32),
    /// The same, of a memfd in which what is written to this sysctl is found.
    Written(Fd, i32, &'static Sysctl),
    /// Bytes to be written there, and how many they are.
    Bytes(u64, Vec<u8>),
}

impl Request {
    /// Does what is wanted, on behalf of whom `ctx` is.
    pub(crate) fn serve<T: Task>(&self, ctx: &Ctx<'_, T>, view: &View) -> Result<Answer> {
        self.of.require()?;
        let source = Within(ctx);
        match (self.act, self.of) {
            (Act::Open(flags), File::Sysctl(sysctl)) if flags & O_ACCMODE != O_RDONLY => {
                if !source.may_write(sysctl)? {
                    return Err(Errno::EACCES);
                }
                match view(sysctl, flags & (O_ACCMODE | libc::O_APPEND | libc::O_NONBLOCK)) {
                    Some(fd) => Ok(Answer::Descriptor(fd, flags)),
                    None => Ok(Answer::Written(files::make(self.of, flags, &source)?, flags, sysctl)),
                }
            }
            (Act::Open(flags), of) => Ok(Answer::Descriptor(files::make(of, flags, &source)?, flags)),
            (Act::Access, File::Sysctl(sysctl)) if source.may_write(sysctl)? => Ok(Answer::Value(0)),
            (Act::Access, _) => Err(Errno::EACCES),
        }
    }
}

/// The sysctls that are open for writing where there is no [`View`].
pub(crate) struct Written {
    news: Inotify,
    open: HashMap<WatchDescriptor, Open>,
}

struct Open {
    fd: Fd,
    sysctl: &'static Sysctl,
    /// Whose rights count.
    opener: Subject,
}

/// What was written to a sysctl.
pub(crate) struct Text {
    pub(crate) sysctl: &'static Sysctl,
    pub(crate) bytes: Vec<u8>,
    pub(crate) opener: Subject,
}

/// How many may be open for writing, of all: each costs us a descriptor.
const MOST: usize = 256;
/// Of a text that is written, the bytes that are looked at.
const WINDOW: usize = 512;

impl Written {
    pub(crate) fn new() -> nix::Result<Written> {
        let news = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        Ok(Written { news, open: HashMap::new() })
    }

    /// What is readable when something was written, or closed.
    pub(crate) fn news(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The descriptor of a sysctl is about to be given to who wanted it: it is watched from now on.
    pub(crate) fn watch(&mut self, sysctl: &'static Sysctl, fd: &Fd, opener: Subject) -> Result<()> {
        if self.open.len() >= MOST {
            return Err(Errno::ENFILE);
        }
        // One of our own, so that the end of theirs is told; some can't be written by their mode.
        file::fchmod(fd, 0o600)?;
        let own = file::reopen(fd.raw(), libc::O_RDWR | file::O_CLOEXEC)?;
        file::fchmod(fd, sysctl.mode())?;
        let path = format!("/proc/self/fd/{}", own.raw());
        let watched = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CLOSE_WRITE;
        let watch = self.news.add_watch(path.as_str(), watched).map_err(|_| Errno::ENFILE)?;
        self.open.insert(watch, Open { fd: own, sysctl, opener });
        Ok(())
    }

    /// Takes what has been written since.
    pub(crate) fn take(&mut self) -> Vec<Text> {
        let mut texts = Vec::new();
        for event in self.news.read_events().unwrap_or_default() {
            let Some(Open { fd, sysctl, opener }) = self.open.get(&event.wd) else { continue };
            let mut bytes = vec![0; WINDOW];
            let size = files::take_written(fd.raw(), &mut bytes).unwrap_or(0);
            bytes.truncate(size);
            // Behind zeros is what was written further on.
            bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(size));
            if !bytes.is_empty() {
                texts.push(Text { sysctl, bytes, opener: *opener });
            }
            if event.mask.contains(AddWatchFlags::IN_CLOSE_WRITE) {
                let _ = self.news.rm_watch(event.wd);
                self.open.remove(&event.wd);
            }
        }
        texts
    }
}

/// Gives the loader of 32-bit programs the library of theirs that does nothing.
pub(crate) fn give_library(listener: &Listener, id: u64) {
    let library = file::memfd(c"ipcspace").and_then(|fd| {
        file::write_all(&fd, &stub::library())?;
        file::seal(&fd, file::SEALED)?;
        file::reopen(fd.raw(), file::O_CLOEXEC)
    });
    match library {
        Ok(fd) => listener.answer_with(id, &fd, true),
        // It then says that it is none of its class, and goes on.
        Err(_) => listener.pass(id),
    }
}
