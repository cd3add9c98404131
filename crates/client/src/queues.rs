//! `/dev/mqueue`: what each door shows of the directory of the namespace's POSIX queues, where no view of it is mounted.
//!
//! What users see: a queue's file is a memfd with the line of the moment of opening; `stat` and its kin and a listing tell what
//! `mount -t mqueue` would.

use abi::{
    Errno, Result,
    mqueue::{O_CREAT, O_EXCL, O_RDWR, O_WRONLY},
    stat::{Stat, Stat64, Statx},
};
use arena::{Ctx, sync::Ordering::*};
use engine::{
    IpcNamespace, Task,
    mqueuefs::{self, MqStat},
    proc::Line,
};
use sys::{file, net::Fd};

use crate::files::O_ACCMODE;

/// The directory.
pub const DIRECTORY: &[u8] = b"/dev/mqueue";

const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;
const BLOCK: u32 = 4096;
/// The directory's inode; a queue's is further on.
const INO: u64 = 1;

/// Whether a path is one of the directory, or in it, as it is written.
#[inline(always)]
pub fn is_path(text: &[u8]) -> bool {
    text.len() >= DIRECTORY.len() && text[..DIRECTORY.len()] == *DIRECTORY
}

// ---- open, access

/// Of the flags of `open`, those that a queue is opened with: with the same rights as a descriptor that can be sent to and received from.
pub fn asked(flags: i32) -> i32 {
    flags & (O_ACCMODE | O_CREAT | O_EXCL)
}

/// A descriptor of a queue's file, opened with these flags.
///
/// # Errors
/// Those of descriptors and memory.
pub fn make(of: &MqStat, flags: i32) -> Result<Fd> {
    let mut line = Line::default();
    of.line(&mut line);
    let fd = file::memfd(c"/dev/mqueue")?;
    file::write_all(&fd, line.text())?;
    file::seal(&fd, file::SEALED)?;
    file::reopen(fd.raw(), flags & (O_ACCMODE | file::O_PATH) | file::O_CLOEXEC)
}

/// What `access` asks of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Whether it is there.
    Exists,
    /// Whether it can be opened with these flags.
    Open(i32),
    /// Whether it can be executed: nobody can.
    Execute,
}

impl Access {
    /// By the mode that `access` is given.
    pub fn of(mode: i32) -> Access {
        const X_OK: i32 = 1;
        const W_OK: i32 = 2;
        const R_OK: i32 = 4;
        match (mode & R_OK != 0, mode & W_OK != 0) {
            _ if mode & X_OK != 0 => Access::Execute,
            (false, false) => Access::Exists,
            (true, true) => Access::Open(O_RDWR),
            (true, false) => Access::Open(0),
            (false, true) => Access::Open(O_WRONLY),
        }
    }
}

// ---- stat

/// What `stat` tells, of whatever shape its structure is.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    ino: u64,
    mode: u32,
    nlink: u32,
    uid: u32,
    gid: u32,
    size: u64,
    times: [i64; 3],
}

fn ino_of(stat: &MqStat) -> u64 {
    INO + 1 + u64::from(stat.id.cast_unsigned())
}

impl From<&MqStat> for Seen {
    fn from(q: &MqStat) -> Seen {
        Seen {
            ino: ino_of(q),
            mode: S_IFREG | q.mode & 0o7777,
            nlink: u32::from(!q.unlinked),
            uid: q.uid,
            gid: q.gid,
            size: mqueuefs::FILENT_SIZE,
            times: [q.atime, q.mtime, q.ctime],
        }
    }
}

/// What is to be seen of the directory.
///
/// # Errors
/// Those of a namespace that makes no sense.
pub fn see_directory<T: Task>(ctx: &Ctx<'_, T>) -> Result<Seen> {
    let directory = mqueuefs::directory(ctx)?;
    let owner = IpcNamespace::of(ctx.arena, ctx.host)?.owner_uid.load(Relaxed);
    let times = [directory.time; 3];
    Ok(Seen {
        ino: INO,
        mode: S_IFDIR | 0o1777,
        nlink: 2,
        uid: owner,
        gid: owner,
        size: directory.size,
        times,
    })
}

impl Seen {
    /// For `stat`.
    pub fn stat(&self) -> Stat {
        let [atime, mtime, ctime] = self.times.map(|seconds| [seconds.cast_unsigned(), 0]);
        Stat {
            ino: self.ino,
            nlink: self.nlink.into(),
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            size: self.size,
            blksize: BLOCK.into(),
            atime,
            mtime,
            ctime,
            ..Stat::default()
        }
    }

    /// For `stat64` of a 32-bit program.
    #[expect(clippy::cast_possible_truncation, reason = "the lower half, and times as they are cut there")]
    pub fn stat64(&self) -> Stat64 {
        let halves = |value: u64| [value as u32, (value >> 32) as u32];
        let [atime, mtime, ctime] = self.times.map(|seconds| [seconds as u32, 0]);
        Stat64 {
            ino_low: self.ino as u32,
            mode: self.mode,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            size: halves(self.size),
            blksize: BLOCK,
            atime,
            mtime,
            ctime,
            ino: halves(self.ino),
            ..Stat64::default()
        }
    }

    /// For `statx`.
    #[expect(clippy::cast_possible_truncation, reason = "a mode")]
    pub fn statx(&self) -> Statx {
        /// What is known: all but when it was made.
        const BASIC: u32 = 0x7ff;
        let [atime, mtime, ctime] = self.times.map(|seconds| [seconds.cast_unsigned(), 0]);
        Statx {
            mask: BASIC,
            blksize: BLOCK,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            mode: self.mode as u16,
            ino: self.ino,
            size: self.size,
            atime,
            ctime,
            mtime,
            ..Statx::default()
        }
    }
}

// ---- listings

/// What a listing has: one of the dots, or a queue.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time, and not for long: there is no allocation here")]
pub enum Entry {
    /// The directory, by one or two dots.
    Dots(&'static [u8]),
    /// A queue.
    Queue(MqStat),
}

impl Entry {
    /// Its inode.
    pub fn ino(&self) -> u64 {
        match self {
            Entry::Dots(_) => INO,
            Entry::Queue(q) => ino_of(q),
        }
    }

    /// `d_type`.
    pub fn kind(&self) -> u8 {
        const DT_DIR: u8 = 4;
        const DT_REG: u8 = 8;
        match self {
            Entry::Dots(_) => DT_DIR,
            Entry::Queue(_) => DT_REG,
        }
    }

    /// The bytes of its name.
    pub fn name(&self) -> impl Iterator<Item = u8> {
        let (dots, queue) = match self {
            Entry::Dots(name) => (Some(name.iter().copied()), None),
            Entry::Queue(q) => (None, Some(q.name())),
        };
        dots.into_iter().flatten().chain(queue.into_iter().flatten())
    }
}

/// The first entry of a listing from a place on, which are numbers from 0 on, and the place behind it.
///
/// # Errors
/// Those of a namespace that makes no sense.
pub fn next_entry<T: Task>(ctx: &Ctx<'_, T>, at: u32) -> Result<Option<(u32, Entry)>> {
    const DOTS: [&[u8]; 2] = [b".", b".."];
    const QUEUES: u32 = 2;
    if let Some(name) = DOTS.get(at as usize) {
        return Ok(Some((at + 1, Entry::Dots(name))));
    }
    let found = mqueuefs::next_queue(ctx, at - QUEUES)?;
    Ok(found.map(|(next, stat)| (next + QUEUES, Entry::Queue(stat))))
}

/// The queue of a name, which `access` or `stat` looks for.
///
/// # Errors
/// As [`mqueuefs::find`]; `EACCES` where it is asked whether it can be executed.
pub fn find<T: Task>(ctx: &Ctx<'_, T>, name: &[u8], access: Access) -> Result<MqStat> {
    let found = mqueuefs::find(ctx, name)?;
    if access == Access::Execute { Err(Errno::EACCES) } else { Ok(found) }
}
