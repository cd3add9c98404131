//! `/dev/mqueue` for programs without the library ([`client::queues`]), where no view of it is mounted.
//!
//! What users see: opening, `access`, `stat` and its kin, `unlink` and listings are those of the namespace's queues, as with the library; and by relative
//! paths too, from the directory where the machine has one, or from its descriptor.
//! What is missing: links and `..` on the way there (the directory's own `..` is itself); the old `stat` of i386, which no libc uses any more.
//!
//! The path as it is written decides, joined to what the link of the directory says that it begins at. The descriptor of the directory is one of an empty
//! directory of ours without a name: who lists that is asked about, and the descriptor's own place in it says how far the list has been read.

use std::fs::read_link;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Mutex;

use abi::{Errno, Result};
use arena::Ctx;
use client::queues::{self, Access, DIRECTORY, Entry, Seen, is_path};
use engine::{Task, mqueue};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{Whence, lseek, mkdtemp};
use sys::{file, net::Fd};

use crate::files::Answer;
use crate::process::{descriptor_of, pidfd_open};

/// What a path names.
pub(crate) enum Place {
    Directory,
    /// The queue of that name, which is at that address; what is behind it says that it is a directory.
    Queue {
        name: Vec<u8>,
        at: u64,
        slash: bool,
    },
}

/// What is wanted of it.
#[derive(Clone, Copy)]
pub(crate) enum Act {
    /// With these flags, and this mode for a new one.
    Open(i32, u32),
    Access(i32),
    /// Into a structure there.
    Stat(Structure, u64),
    /// With flags.
    Unlink(i32),
}

/// What the kind of `stat` tells by.
#[derive(Clone, Copy)]
pub(crate) enum Structure {
    Stat,
    /// Of i386.
    Stat64,
    Statx,
}

/// The next entries of an open directory.
#[derive(Clone, Copy)]
pub(crate) struct Listing {
    fd: i32,
    to: u64,
    room: usize,
    shape: Shape,
}

/// How an entry is laid out.
#[derive(Clone, Copy)]
pub(crate) enum Shape {
    /// `getdents64`.
    Dirent64,
    /// `getdents`, by the size of its numbers.
    Dirent(usize),
}

pub(crate) enum Request {
    Of(Place, Act),
    List(Listing),
}

// ---- paths

/// What a thread's path names, which is at that address; nothing if it is none of ours, or a view is mounted there.
pub(crate) fn place(tid: u32, dir: i32, path: &[u8], at: u64) -> Option<Place> {
    let start = match dir {
        // The descriptor itself.
        _ if path.is_empty() => return None,
        _ if is_path(path) => Vec::new(),
        _ if path.starts_with(b"/") => return None,
        libc::AT_FDCWD => start_of(tid, "cwd")?,
        dir => start_of(tid, &format!("fd/{dir}"))?,
    };
    let whole = [start.as_slice(), b"/", path].concat();
    let mut parts = whole.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && part != b".");
    if (parts.next(), parts.next()) != (Some(b"dev"), Some(b"mqueue")) {
        return None;
    }
    let found = match (parts.next(), parts.next()) {
        (None, _) => Place::Directory,
        // As listings have it: what is above may not be there.
        (Some(b".."), None) => Place::Directory,
        (_, Some(_)) => return None,
        (Some(name), None) => {
            let from = path.windows(name.len()).rposition(|part| part == name)?;
            let slash = path.len() > from + name.len();
            Place::Queue { name: name.to_vec(), at: at + from as u64, slash }
        }
    };
    (!is_view(tid)).then_some(found)
}

/// Where a link in `/proc/TID` leads; the directory of ours stands for that of the queues.
fn start_of(tid: u32, link: &str) -> Option<Vec<u8>> {
    let path = read_link(format!("/proc/{tid}/{link}")).ok()?.into_os_string();
    Some(if is_ours(path.as_bytes()) { DIRECTORY.to_vec() } else { path.as_bytes().to_vec() })
}

/// Whether a view of the namespace is mounted where the thread has the directory.
fn is_view(tid: u32) -> bool {
    const FUSE_SUPER_MAGIC: i64 = 0x6573_5546;
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let opened = open(format!("/proc/{tid}/root/dev/mqueue").as_str(), flags, Mode::empty());
    opened.is_ok_and(|fd| file::is_on(fd.as_raw_fd(), FUSE_SUPER_MAGIC))
}

// ---- the directory

/// How the directory's name begins, so that a broker knows another one's.
const MARK: &[u8] = b"ipcspace-mqueue-";

fn is_ours(link: &[u8]) -> bool {
    let name = link.rsplit(|byte| *byte == b'/').next().unwrap_or(link);
    name.starts_with(MARK) && name.ends_with(b" (deleted)")
}

/// A descriptor of the directory, with a place of its own in it.
fn open_directory() -> Result<Fd> {
    static DIRECTORY: Mutex<Option<OwnedFd>> = Mutex::new(None);
    let mut made = DIRECTORY.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let empty = match &*made {
        Some(empty) => empty,
        None => made.insert(make_directory()?),
    };
    file::reopen(empty.as_raw_fd(), libc::O_DIRECTORY | file::O_CLOEXEC)
}

fn make_directory() -> Result<OwnedFd> {
    let failed = |error: nix::Error| Errno::from_raw(error as i32);
    let mut result = Err(Errno::EACCES);
    for place in [std::env::temp_dir(), PathBuf::from("/dev/shm"), PathBuf::from("/tmp")] {
        let template = place.join("ipcspace-mqueue-XXXXXX");
        let made = mkdtemp(&template).and_then(|path| {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let opened = open(&path, flags, Mode::empty());
            let _ = std::fs::remove_dir(&path);
            opened
        });
        result = made.map_err(failed);
        if result.is_ok() {
            break;
        }
    }
    result
}

impl Listing {
    /// If the descriptor is of the directory.
    pub(crate) fn of(tid: u32, fd: i32, to: u64, room: usize, shape: Shape) -> Option<Listing> {
        let link = read_link(format!("/proc/{tid}/fd/{fd}")).ok()?;
        is_ours(link.as_os_str().as_bytes()).then_some(Listing { fd, to, room, shape })
    }

    /// The same description as the thread's: what moves it, moves theirs.
    fn description(&self, tgid: u32) -> Result<OwnedFd> {
        let fd = descriptor_of(&pidfd_open(tgid)?, self.fd)?;
        // It may be another one by now.
        let link = read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).map_err(|_| Errno::EBADF)?;
        if is_ours(link.as_os_str().as_bytes()) { Ok(fd) } else { Err(Errno::EBADF) }
    }

    fn serve<T: Task>(&self, ctx: &Ctx<'_, T>) -> Result<Answer> {
        let description = self.description(ctx.host.tgid())?;
        let failed = |error: nix::Error| Errno::from_raw(error as i32);
        let began = lseek(&description, 0, Whence::SeekCur).map_err(failed)?;
        let mut at = u32::try_from(began).unwrap_or(u32::MAX);
        let mut bytes = Vec::new();
        while let Some((next, entry)) = queues::next_entry(ctx, at)? {
            let length = bytes.len();
            self.shape.append(&mut bytes, &entry, next);
            if bytes.len() > self.room {
                bytes.truncate(length);
                if length == 0 {
                    return Err(Errno::EINVAL);
                }
                break;
            }
            at = next;
        }
        lseek(&description, at.into(), Whence::SeekSet).map_err(failed)?;
        Ok(Answer::Bytes(self.to, bytes))
    }
}

impl Shape {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "some hundred bytes; numbers as small as those of i386"
    )]
    fn append(self, to: &mut Vec<u8>, entry: &Entry, next: u32) {
        let begin = to.len();
        let word = match self {
            Shape::Dirent64 => 8,
            Shape::Dirent(word) => word,
        };
        let kind_at_end = matches!(self, Shape::Dirent(_));
        to.extend_from_slice(&entry.ino().to_le_bytes()[..word]);
        to.extend_from_slice(&u64::from(next).to_le_bytes()[..word]);
        let length_at = to.len();
        to.extend_from_slice(&[0; 2]);
        if !kind_at_end {
            to.push(entry.kind());
        }
        to.extend(entry.name());
        // The name's end, and the kind where it is last.
        let length = (to.len() - begin + 1 + usize::from(kind_at_end)).next_multiple_of(word);
        to.resize(begin + length, 0);
        if kind_at_end {
            to[begin + length - 1] = entry.kind();
        }
        to[length_at..length_at + 2].copy_from_slice(&(length as u16).to_le_bytes());
    }
}

// ---- answers

impl Request {
    /// Does what is wanted, on behalf of whom `ctx` is.
    pub(crate) fn serve<T: Task>(&self, ctx: &Ctx<'_, T>) -> Result<Answer> {
        match self {
            Request::List(listing) => listing.serve(ctx),
            Request::Of(Place::Directory, act) => of_directory(ctx, *act),
            Request::Of(Place::Queue { name, slash: true, .. }, _) => {
                queues::find(ctx, name, Access::Exists).and(Err(Errno::ENOTDIR))
            }
            Request::Of(Place::Queue { name, at, .. }, act) => of_queue(ctx, name, *at, *act),
        }
    }
}

fn of_directory<T: Task>(ctx: &Ctx<'_, T>, act: Act) -> Result<Answer> {
    const WRITES: i32 = libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT;
    match act {
        Act::Open(flags, _) if flags & libc::O_PATH == 0 && flags & WRITES != 0 => Err(Errno::EISDIR),
        Act::Open(flags, _) => Ok(Answer::Descriptor(open_directory()?, flags)),
        Act::Access(_) => Ok(Answer::Value(0)),
        Act::Unlink(flags) if flags & libc::AT_REMOVEDIR != 0 => Err(Errno::EBUSY),
        Act::Unlink(_) => Err(Errno::EISDIR),
        Act::Stat(structure, to) => show(ctx, structure, to, &queues::see_directory(ctx)?),
    }
}

fn of_queue<T: Task>(ctx: &Ctx<'_, T>, name: &[u8], at: u64, act: Act) -> Result<Answer> {
    match act {
        Act::Open(flags, _) if flags & libc::O_DIRECTORY != 0 => {
            queues::find(ctx, name, Access::Exists).and(Err(Errno::ENOTDIR))
        }
        Act::Open(flags, _) if flags & libc::O_PATH != 0 => {
            let seen = queues::find(ctx, name, Access::Exists)?;
            // Of `O_PATH` itself none can be given; this one can't be read either, nor written, as it is sealed.
            Ok(Answer::Descriptor(queues::make(&seen, libc::O_WRONLY)?, flags))
        }
        Act::Open(flags, mode) => {
            // Nobody told us of what was closed.
            mqueue::settle_unlinked(ctx)?;
            let mqd = mqueue::do_mq_open(ctx, at, queues::asked(flags), mode, 0)?;
            let seen = mqueue::stat_mqd(ctx, mqd);
            close(ctx, mqd)?;
            Ok(Answer::Descriptor(queues::make(&seen?, flags)?, flags))
        }
        Act::Access(mode) => {
            match Access::of(mode) {
                Access::Open(flags) => close(ctx, mqueue::do_mq_open(ctx, at, flags, 0, 0)?)?,
                access => drop(queues::find(ctx, name, access)?),
            }
            Ok(Answer::Value(0))
        }
        Act::Unlink(flags) if flags & libc::AT_REMOVEDIR != 0 => Err(Errno::ENOTDIR),
        Act::Unlink(_) => mqueue::do_mq_unlink(ctx, at).map(|()| Answer::Value(0)),
        Act::Stat(structure, to) => {
            show(ctx, structure, to, &Seen::from(&queues::find(ctx, name, Access::Exists)?))
        }
    }
}

/// Takes back a descriptor of a queue before it is given.
fn close<T: Task>(ctx: &Ctx<'_, T>, mqd: i32) -> Result<()> {
    let queue = ctx.host.mqd(mqd)?.queue;
    ctx.host.drop_mqd(mqd);
    mqueue::do_close(ctx, queue)
}

fn show<T: Task>(ctx: &Ctx<'_, T>, structure: Structure, to: u64, seen: &Seen) -> Result<Answer> {
    match structure {
        Structure::Stat => ctx.host.put_user(to, &seen.stat()),
        Structure::Stat64 => ctx.host.put_user(to, &seen.stat64()),
        Structure::Statx => ctx.host.put_user(to, &seen.statx()),
    }
    .map(|()| Answer::Value(0))
}
