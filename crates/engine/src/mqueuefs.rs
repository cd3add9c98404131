//! The directory of POSIX queues, as `mount -t mqueue` shows it: for doors that are asked for names and files, not for descriptors.
//!
//! What users see: a file a queue, with its mode, owners and times, and one line in it ([`MqStat::line`]). Whoever asks has been checked by
//! the door, which knows the rights of files; here nobody is refused.
//! What is missing: times of less than a second; a size other than 80, which `truncate` gives the kernel's files.
//!
//! A queue is known by its identifier, which no other one gets soon. Locks are as in [`mqueue`](crate::mqueue).

use abi::{Errno, Result};
use arena::{Ctx, Handle, sync::Ordering::*};

pub use crate::mqueue::{Creator, MqStat, msgqueue_limit, next_queue};
use crate::{
    mqueue::{self, MqueueInodeInfo, Name, is_live, lookup, mq_create, mq_unlink},
    namespace::IpcNamespace,
    task::Task,
    util::{Locked, heed, obtain_object_check},
};

/// The size that a queue's file shows, bytes.
pub const FILENT_SIZE: u64 = 80;
/// What the directory shows for each name, bytes.
const DIRENT_SIZE: u64 = 20;
/// What it shows for none.
const EMPTY_DIR_SIZE: u64 = 2 * DIRENT_SIZE;

/// The directory.
#[derive(Clone, Copy, Debug)]
pub struct Directory {
    /// Bytes, as it shows them.
    pub size: u64,
    /// When a name was last made or removed, seconds since 1970; 0: never.
    pub time: i64,
}

/// What is to be seen of the directory.
///
/// # Errors
/// Those of a namespace that makes no sense.
pub fn directory<T: Task>(ctx: &Ctx<'_, T>) -> Result<Directory> {
    let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
    let names = u64::from(ns.mq_names.load(Relaxed));
    Ok(Directory { size: EMPTY_DIR_SIZE + names * DIRENT_SIZE, time: ns.mq_dir_time.load(Relaxed) })
}

/// The queue of a name.
///
/// # Errors
/// `ENOENT ENAMETOOLONG`.
pub fn find<T: Task>(ctx: &Ctx<'_, T>, name: &[u8]) -> Result<MqStat> {
    let (_, id) = lookup(ctx, &Name::of_bytes(name)?)?.ok_or(Errno::ENOENT)?;
    stat(ctx, id)
}

/// Makes a queue with the namespace's default attributes.
///
/// # Errors
/// `EEXIST`, and those of `mq_open`.
pub fn create<T: Task>(ctx: &Ctx<'_, T>, name: &[u8], mode: u32, by: &Creator) -> Result<()> {
    mq_create(ctx, &Name::of_bytes(name)?, None, mode, None, by)?.map(drop).ok_or(Errno::EEXIST)
}

/// Takes a queue's name away.
///
/// # Errors
/// `ENOENT ENAMETOOLONG`.
pub fn unlink<T: Task>(ctx: &Ctx<'_, T>, name: &[u8]) -> Result<()> {
    mq_unlink(ctx, &Name::of_bytes(name)?, |_, _| true)
}

/// What is to be seen of a queue, which may have no name any more.
///
/// # Errors
/// `ENOENT` if it is over.
pub fn stat<T: Task>(ctx: &Ctx<'_, T>, id: i32) -> Result<MqStat> {
    let seen = by_id(ctx, id).and_then(|Locked { object: q, tx: _tx }| mqueue::stat(ctx, &q));
    heed::<MqueueInodeInfo, T, _>(ctx, id, seen)
}

/// Opens a queue: `hold` has it held by whoever it hands the queue's handle to. Told by [`mqueue::do_close`] when that is over.
///
/// # Errors
/// `ENOENT` if it is over, and those of `hold`.
pub fn open<T: Task, R>(
    ctx: &Ctx<'_, T>,
    id: i32,
    hold: impl FnOnce(Handle) -> Result<R>,
) -> Result<(Handle, R)> {
    let q = by_id(ctx, id)?.object;
    let held = hold(q.handle())?;
    if is_live(ctx, &q, id)? { Ok((q.handle(), held)) } else { Err(Errno::ENOENT) }
}

/// What is to be changed of a queue's file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    /// Its permissions.
    pub mode: Option<u32>,
    /// Its owner.
    pub uid: Option<u32>,
    /// Its group.
    pub gid: Option<u32>,
    /// When it was last read, seconds since 1970.
    pub atime: Option<i64>,
    /// When it was last written.
    pub mtime: Option<i64>,
}

/// `simple_setattr`.
///
/// # Errors
/// `ENOENT` if it is over.
pub fn set_attr<T: Task>(ctx: &Ctx<'_, T>, id: i32, change: &Change) -> Result<MqStat> {
    let changed = by_id(ctx, id).and_then(|Locked { object: q, mut tx }| {
        if let Some(mode) = change.mode {
            tx.set(&q, |q| &q.perm.mode, mode & 0o7777);
        }
        if let Some(uid) = change.uid {
            tx.set(&q, |q| &q.perm.uid, uid);
        }
        if let Some(gid) = change.gid {
            tx.set(&q, |q| &q.perm.gid, gid);
        }
        if let Some(atime) = change.atime {
            tx.set(&q, |q| &q.atime, atime);
        }
        if let Some(mtime) = change.mtime {
            tx.set(&q, |q| &q.mtime, mtime);
        }
        let now = ctx.host.now();
        tx.set(&q, |q| &q.ctime, now);
        tx.commit();
        mqueue::stat(ctx, &q)
    });
    heed::<MqueueInodeInfo, T, _>(ctx, id, changed)
}

fn by_id<'c, 'a, T: Task>(ctx: &'c Ctx<'a, T>, id: i32) -> Result<Locked<'c, 'a, MqueueInodeInfo, T>> {
    obtain_object_check(ctx, id).map_err(|error| if error == Errno::EINVAL { Errno::ENOENT } else { error })
}
