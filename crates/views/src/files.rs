//! What the kernel asks of the file system.
//!
//! The errors are those that the kernel's own files give. What a file of `/proc/sysvipc` has is made anew when it is read from its beginning,
//! as there; a sysctl and a queue's line are of the moment of each read.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use abi::Result;
use arena::sync::Ordering as Order;
use engine::IpcNamespace;
use engine::ipc_sysctl::Sysctl;
use engine::mqueuefs::{self, Change, Creator, MqStat};
use engine::proc::{Line, Sysvipc};
use fuser::{
    BsdFileFlags, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};
use parking_lot::Mutex;
use procfs::process::Process;

use crate::in_namespace;
use crate::queue::{OpenQueue, Watch, events};
use crate::tree::{self, Node};

/// Nothing is kept: programs change the namespace by themselves.
const NOT_KEPT: Duration = Duration::ZERO;
const BLOCK: u32 = 4096;
/// A line's text is shorter. The kernel's files have a size of 0; but what `sendfile` reads of one of FUSE ends with its size, which therefore
/// must not be less than what there is. That it is more does no harm: where the text ends, so does the file.
const LONGEST_LINE: u64 = 512;
/// When the first view was served: the age of what is always there.
static BEGUN: LazyLock<SystemTime> = LazyLock::new(SystemTime::now);

/// A file that is open.
enum Open {
    Queue(OpenQueue),
    /// One of `/proc/sysvipc`: what it had when it was last read from the beginning.
    List(Vec<u8>),
}

/// The file system of a mount.
#[derive(Default)]
pub(crate) struct Files {
    open: Mutex<HashMap<u64, Open>>,
    opened: AtomicU64,
    watch: Watch,
}

fn refusal(error: abi::Errno) -> fuser::Errno {
    fuser::Errno::from_i32(error.raw())
}

fn at(seconds: i64) -> SystemTime {
    let (past, distance) = (seconds < 0, Duration::from_secs(seconds.unsigned_abs()));
    let time = if past { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    time.unwrap_or(UNIX_EPOCH)
}

fn seconds(time: TimeOrNow) -> i64 {
    let time = match time {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    };
    let of = |distance: Duration| distance.as_secs().cast_signed();
    time.duration_since(UNIX_EPOCH).map_or_else(|before| -of(before.duration()), of)
}

/// Who is root in the namespace.
fn owner() -> Result<u32> {
    in_namespace(|ctx| Ok(IpcNamespace::of(ctx.arena, ctx.host)?.owner_uid.load(Order::Relaxed)))
}

fn attributes(ino: u64, node: Node) -> Result<FileAttr> {
    let root = owner()?;
    let mut attr = FileAttr {
        ino: INodeNo(ino),
        size: 0,
        blocks: 0,
        atime: *BEGUN,
        mtime: *BEGUN,
        ctime: *BEGUN,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0o444,
        nlink: 1,
        uid: root,
        // The namespace is made by a process of its owner's, this one.
        gid: nix::unistd::getegid().as_raw(),
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    };
    match node {
        Node::Queue(id) => return Ok(of_queue(&in_namespace(|ctx| mqueuefs::stat(ctx, id))?)),
        Node::List(of) => attr.size = of.header().len() as u64 + rows_of(of)? * LONGEST_LINE,
        Node::Sysctl(sysctl) => {
            // Who is root here has the right that the others need for it, though not by the kernel's measure.
            let own = if root == 0 { 0 } else { 0o200 };
            attr.perm = u16::try_from(sysctl.mode()).unwrap_or(0o444) | own;
            attr.size = LONGEST_LINE;
        }
        Node::Directory | Node::Mqueue => {
            attr.kind = FileType::Directory;
            attr.perm = 0o555;
            attr.nlink = 2;
        }
    }
    if matches!(node, Node::Mqueue) {
        let directory = in_namespace(mqueuefs::directory)?;
        attr.perm = 0o1777;
        attr.size = directory.size;
        let time = at(directory.time);
        (attr.atime, attr.mtime, attr.ctime) = (time, time, time);
    }
    Ok(attr)
}

/// How many rows there are in a list, at most: cheap to say.
fn rows_of(list: Sysvipc) -> Result<u64> {
    in_namespace(|ctx| {
        let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
        let ids = match list {
            Sysvipc::Msg => &ns.get().msg_ids,
            Sysvipc::Sem => &ns.get().sem_ids,
            Sysvipc::Shm => &ns.get().shm_ids,
        };
        Ok(ids.in_use().into())
    })
}

fn of_queue(stat: &MqStat) -> FileAttr {
    FileAttr {
        ino: INodeNo(tree::ino_of_queue(stat.id)),
        size: mqueuefs::FILENT_SIZE,
        blocks: 0,
        atime: at(stat.atime),
        mtime: at(stat.mtime),
        ctime: at(stat.ctime),
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: u16::try_from(stat.mode & 0o7777).unwrap_or(0),
        nlink: if stat.unlinked { 0 } else { 1 },
        uid: stat.uid,
        gid: stat.gid,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

fn find(parent: u64, name: &OsStr) -> Result<FileAttr> {
    if let Some(Node::Mqueue) = tree::node(parent) {
        return in_namespace(|ctx| mqueuefs::find(ctx, name.as_bytes())).map(|stat| of_queue(&stat));
    }
    let (ino, node) = tree::child(parent, name).ok_or(abi::Errno::ENOENT)?;
    attributes(ino, node)
}

/// Who asks for something, if it can be seen.
fn process(request: &Request) -> Option<Process> {
    Process::new(i32::try_from(request.pid()).ok()?).ok()
}

/// What is written to a sysctl, which who writes must have the right to still.
fn write_sysctl(request: &Request, sysctl: &Sysctl, text: &[u8], offset: u64) -> Result<usize> {
    const SYS_ADMIN_OR_CHECKPOINT_RESTORE: u64 = 1 << 21 | 1 << 40;
    let status = process(request).and_then(|process| process.status().ok());
    let euid = status.as_ref().map_or(request.uid(), |status| status.euid);
    let capable = status.is_some_and(|status| status.capeff & SYS_ADMIN_OR_CHECKPOINT_RESTORE != 0);
    // Those of another user namespace are none here.
    let user_namespace = |pid: &str| fs::metadata(format!("/proc/{pid}/ns/user")).map(|meta| meta.ino()).ok();
    let is_near = || user_namespace(&request.pid().to_string()) == user_namespace("self");
    in_namespace(|ctx| {
        let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
        let is_owner = euid == ns.owner_uid.load(Order::Relaxed);
        if sysctl.may_be_written(euid, is_owner || capable && is_near(), ns.get()) {
            sysctl.write(ctx, text, offset)
        } else {
            Err(abi::Errno::EPERM)
        }
    })
}

/// Who asks for a queue. What can't be seen of it, it has not.
fn creator(request: &Request) -> Result<Creator> {
    const CAP_SYS_RESOURCE: u64 = 1 << 24;
    let process = process(request);
    let status = process.as_ref().and_then(|process| process.status().ok());
    let capable = status.as_ref().is_some_and(|status| status.capeff & CAP_SYS_RESOURCE != 0);
    in_namespace(|ctx| {
        let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
        // Capabilities of the initial user namespace are meant, which nobody has in another one.
        let initial = ns.initial_userns.load(Order::Relaxed) != 0;
        let own = || {
            let limits = process.as_ref().and_then(|process| process.limits().ok());
            limits.map_or(0, |limits| match limits.max_msgqueue_size.soft_limit {
                procfs::process::LimitValue::Unlimited => u64::MAX,
                procfs::process::LimitValue::Value(bytes) => bytes,
            })
        };
        Ok(Creator {
            uid: status.as_ref().map_or(request.uid(), |status| status.ruid),
            fsuid: request.uid(),
            fsgid: request.gid(),
            sys_resource: initial && capable,
            limit: mqueuefs::msgqueue_limit(ns.get(), own),
            // The kernel has taken it away already.
            umask: 0,
        })
    })
}

/// Why nothing can be made in a directory but queues, in theirs.
fn not_made(parent: u64) -> abi::Errno {
    match tree::node(parent) {
        Some(Node::Mqueue) => abi::Errno::EPERM,
        // In the kernel's ones there can't even be a place for it.
        _ => abi::Errno::ENOENT,
    }
}

/// Makes a queue's file.
fn create(request: &Request, parent: u64, name: &OsStr, mode: u32) -> Result<FileAttr> {
    if !matches!(tree::node(parent), Some(Node::Mqueue)) {
        return Err(not_made(parent));
    }
    let by = creator(request)?;
    in_namespace(|ctx| mqueuefs::create(ctx, name.as_bytes(), mode, &by))?;
    find(parent, name)
}

fn list(of: Sysvipc) -> Result<Vec<u8>> {
    let mut text = of.header().as_bytes().to_vec();
    let (mut line, mut from) = (Line::default(), 0);
    while let Some(next) = in_namespace(|ctx| of.row(ctx, from, &mut line))? {
        text.extend(line.text());
        from = next;
    }
    Ok(text)
}

/// The part of a text that a read asks for.
fn part(text: &[u8], offset: u64, size: u32) -> &[u8] {
    let rest = usize::try_from(offset).ok().and_then(|offset| text.get(offset..)).unwrap_or_default();
    &rest[..rest.len().min(size as usize)]
}

impl Files {
    fn open_file(&self, ino: u64) -> Result<FileHandle> {
        let open = match tree::node(ino).ok_or(abi::Errno::ENOENT)? {
            Node::Queue(id) => Open::Queue(OpenQueue::open(id)?),
            Node::List(_) => Open::List(Vec::new()),
            _ => return Ok(FileHandle(0)),
        };
        let number = self.opened.fetch_add(1, Relaxed) + 1;
        self.open.lock().insert(number, open);
        Ok(FileHandle(number))
    }

    fn read_file(&self, ino: u64, file: u64, offset: u64, size: u32) -> Result<Vec<u8>> {
        let mut line = Line::default();
        match tree::node(ino).ok_or(abi::Errno::EBADF)? {
            Node::Queue(id) => {
                in_namespace(|ctx| mqueuefs::stat(ctx, id))?.line(&mut line);
                Ok(part(line.text(), offset, size).to_vec())
            }
            // As the kernel's: all that there is, or nothing.
            Node::Sysctl(_) if offset != 0 => Ok(Vec::new()),
            Node::Sysctl(sysctl) => {
                in_namespace(|ctx| sysctl.show(ctx, &mut line))?;
                Ok(part(line.text(), 0, size).to_vec())
            }
            Node::List(of) => {
                let is_new = matches!(self.open.lock().get(&file), Some(Open::List(text)) if text.is_empty());
                // Not under the lock: it may take its time.
                let fresh = if offset == 0 || is_new { Some(list(of)?) } else { None };
                match self.open.lock().get_mut(&file) {
                    Some(Open::List(text)) => {
                        if let Some(fresh) = fresh {
                            *text = fresh;
                        }
                        Ok(part(text, offset, size).to_vec())
                    }
                    _ => Err(abi::Errno::EBADF),
                }
            }
            Node::Directory | Node::Mqueue => Err(abi::Errno::EINVAL),
        }
    }

    /// What is in a directory behind an offset: inodes, offsets to go on from, kinds and names, until one is not taken.
    fn entries(ino: u64, from: u64, mut add: impl FnMut(u64, u64, FileType, &[u8]) -> bool) -> Result<()> {
        /// Offsets of `.` and `..`, and of the first one behind them.
        const OWN: [u64; 3] = [0, 1, 2];
        for (offset, (dots, name)) in OWN.iter().zip([(ino, "."), (tree::parent(ino), "..")]) {
            if from <= *offset && !add(dots, offset + 1, FileType::Directory, name.as_bytes()) {
                return Ok(());
            }
        }
        let from = from.max(OWN[2]) - OWN[2];
        if let Some(Node::Mqueue) = tree::node(ino) {
            let mut from = u32::try_from(from).unwrap_or(u32::MAX);
            while let Some((next, stat)) = in_namespace(|ctx| mqueuefs::next_queue(ctx, from))? {
                let name: Vec<u8> = stat.name().collect();
                if !add(tree::ino_of_queue(stat.id), u64::from(next) + OWN[2], FileType::RegularFile, &name) {
                    break;
                }
                from = next;
            }
            return Ok(());
        }
        for (at, (child, name, node)) in
            (0..).zip(tree::children(ino)).skip(usize::try_from(from).unwrap_or(usize::MAX))
        {
            let kind = match node {
                Node::Directory | Node::Mqueue => FileType::Directory,
                _ => FileType::RegularFile,
            };
            if !add(child, at + 1 + OWN[2], kind, name.as_bytes()) {
                break;
            }
        }
        Ok(())
    }

    fn poll_file(&self, ino: u64, file: u64, notifier: Option<PollNotifier>) -> Result<PollEvents> {
        const ALWAYS: PollEvents = PollEvents::POLLIN
            .union(PollEvents::POLLOUT)
            .union(PollEvents::POLLRDNORM)
            .union(PollEvents::POLLWRNORM);
        let Some(Node::Queue(id)) = tree::node(ino) else { return Ok(ALWAYS) };
        // First that, then the look: what happens in between is told.
        if let Some(notifier) = notifier
            && let Some(Open::Queue(open)) = self.open.lock().get_mut(&file)
        {
            self.watch.add(file, open, notifier)?;
        }
        in_namespace(|ctx| mqueuefs::stat(ctx, id)).map(|stat| events(&stat))
    }
}

/// Answers with what came out, or with the error.
macro_rules! answer {
    ($reply:ident, $result:expr, $value:pat => $answer:expr) => {
        match $result {
            Ok($value) => $answer,
            Err(error) => $reply.error(refusal(error)),
        }
    };
}

impl Filesystem for Files {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer!(reply, find(parent.0, name), attr => reply.entry(&NOT_KEPT, &attr, Generation(0)));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let node = tree::node(ino.0).ok_or(abi::Errno::ENOENT);
        answer!(reply, node.and_then(|node| attributes(ino.0, node)), attr => reply.attr(&NOT_KEPT, &attr));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        _size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let of_file = mode.is_some() || uid.is_some() || gid.is_some() || atime.is_some() || mtime.is_some();
        let changed = match tree::node(ino.0) {
            Some(Node::Queue(id)) => {
                let change = Change { mode, uid, gid, atime: atime.map(seconds), mtime: mtime.map(seconds) };
                in_namespace(|ctx| mqueuefs::set_attr(ctx, id, &change)).map(|stat| of_queue(&stat))
            }
            // What is written to them begins anew each time.
            Some(node @ Node::Sysctl(_)) if !of_file => attributes(ino.0, node),
            Some(_) => Err(abi::Errno::EPERM),
            None => Err(abi::Errno::ENOENT),
        };
        answer!(reply, changed, attr => reply.attr(&NOT_KEPT, &attr));
    }

    fn readlink(&self, _: &Request, _: INodeNo, reply: ReplyData) {
        reply.error(fuser::Errno::EINVAL);
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        const S_IFMT: u32 = 0o170_000;
        const S_IFREG: u32 = 0o100_000;
        let made = match mode & S_IFMT {
            S_IFREG => create(request, parent.0, name, mode),
            _ => Err(not_made(parent.0)),
        };
        answer!(reply, made, attr => reply.entry(&NOT_KEPT, &attr, Generation(0)));
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(refusal(not_made(parent.0)));
    }

    fn symlink(&self, _: &Request, parent: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(refusal(not_made(parent.0)));
    }

    fn link(&self, _: &Request, _: INodeNo, parent: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(refusal(not_made(parent.0)));
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        parent: INodeNo,
        _: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(refusal(not_made(parent.0)));
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(fuser::Errno::EPERM);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = match tree::node(parent.0) {
            Some(Node::Mqueue) => in_namespace(|ctx| mqueuefs::unlink(ctx, name.as_bytes())),
            _ => Err(abi::Errno::EACCES),
        };
        answer!(reply, done, () => reply.ok());
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        answer!(reply, self.open_file(ino.0), file => reply.opened(file, FopenFlags::FOPEN_DIRECT_IO));
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let made = create(request, parent.0, name, mode)
            .and_then(|attr| self.open_file(attr.ino.0).map(|file| (attr, file)));
        answer!(reply, made, (attr, file) => {
            reply.created(&NOT_KEPT, &attr, Generation(0), file, FopenFlags::FOPEN_DIRECT_IO);
        });
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        file: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        answer!(reply, self.read_file(ino.0, file.0, offset, size), text => reply.data(&text));
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // The end of the kernel's files is their beginning.
        let offset = if flags.0 & nix::libc::O_APPEND != 0 { 0 } else { offset };
        let written = match tree::node(ino.0) {
            Some(Node::Sysctl(sysctl)) => write_sysctl(request, sysctl, data, offset),
            _ => Err(abi::Errno::EINVAL),
        };
        // No more than was given, which was counted so.
        answer!(reply, written, taken => reply.written(u32::try_from(taken).unwrap_or(u32::MAX)));
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(fuser::Errno::EINVAL);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        file: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.watch.forget(file.0);
        // Ended outside the lock.
        let open = self.open.lock().remove(&file.0);
        drop(open);
        reply.ok();
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let added = Files::entries(ino.0, offset, |child, next, kind, name| {
            // True from there if it is full.
            !reply.add(INodeNo(child), next, kind, OsStr::from_bytes(name))
        });
        answer!(reply, added, () => reply.ok());
    }

    fn listxattr(&self, _: &Request, _: INodeNo, size: u32, reply: ReplyXattr) {
        if size == 0 { reply.size(0) } else { reply.data(&[]) }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, 0, 0, BLOCK, 255, BLOCK);
    }

    fn poll(
        &self,
        _: &Request,
        ino: INodeNo,
        file: FileHandle,
        notifier: PollNotifier,
        _: PollEvents,
        flags: PollFlags,
        reply: ReplyPoll,
    ) {
        let wanted = flags.contains(PollFlags::FUSE_POLL_SCHEDULE_NOTIFY);
        answer!(reply, self.poll_file(ino.0, file.0, wanted.then_some(notifier)), found => reply.poll(found));
    }
}
