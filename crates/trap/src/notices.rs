//! Notifications of POSIX queues (`mq_notify`): those that go to a socket, and the end of those whose queue is closed.
//!
//! What users see: with `SIGEV_THREAD`, libc waits at a netlink socket, to which nobody but the kernel can send. It is given one of ours, under the same
//! number, and a thread that waits there already begins to anew. Who closes a number that was the queue's when its process registered, or that was opened since, ends the
//! registration: before the next call of the trap's that it matters to, and for others a moment later.
//! What is missing: numbers that were made by `dup` since, or that are more than [`NUMBERS`]; one that is closed and soon is of the same queue again.
//!
//! A registration for a socket is a sleeper, as it is where a thread of a preloaded program waits; [`crate::room`] has them.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, read_link};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use abi::{Errno, Result};
use arena::Handle;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};
use nix::sys::stat::fstat;

use crate::notify::Listener;
use crate::process::is_netlink;
use crate::room::spawn;
use crate::target::Subject;
use crate::trace;

// ---- sockets

/// How many sockets a process may have: each costs us a descriptor. libc has one.
const SOCKETS_OF_ONE: usize = 16;

/// Our ends of the sockets that were given, by the inodes of the others, and to which process.
static SOCKETS: Mutex<BTreeMap<u64, (u32, OwnedFd)>> = Mutex::new(BTreeMap::new());

fn sockets() -> MutexGuard<'static, BTreeMap<u64, (u32, OwnedFd)>> {
    SOCKETS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The inode of a socket of somebody's.
fn inode_of(subject: &Subject, fd: i32) -> Result<u64> {
    let link = link_of(subject.tid, fd).ok_or(Errno::EBADF)?;
    let inode = link.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
    inode.ok_or(Errno::ENOTSOCK)
}

fn link_of(pid: u32, fd: i32) -> Option<PathBuf> {
    read_link(format!("/proc/{pid}/fd/{fd}")).ok()
}

/// Whether a notification can go to a descriptor: to a netlink socket, or one of ours that stands for it.
///
/// # Errors
/// `EBADF`, `ENOTSOCK`, and `EINVAL` for another socket.
pub(crate) fn check_socket(subject: &Subject, fd: i32) -> Result<()> {
    let inode = inode_of(subject, fd)?;
    if is_netlink(subject.tid, fd) || sockets().contains_key(&inode) { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Has a socket of ours stand for a netlink socket of whoever waits for that answer, unless one does already. By its inode it is told.
///
/// # Errors
/// `ENOMEM` for one that has too many; where there are no descriptors, or it is closed meanwhile.
pub(crate) fn take_place(listener: &Listener, id: u64, subject: &Subject, fd: i32) -> Result<u64> {
    let inode = inode_of(subject, fd)?;
    if sockets().contains_key(&inode) {
        return Ok(inode);
    }
    if !may_have_another(subject.tgid) {
        return Err(Errno::ENOMEM);
    }
    let failed = |error| Errno::from_raw(error as i32);
    // One whose other end is gone does not say so: libc's thread would ask again and again.
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::SOCK_CLOEXEC).map_err(failed)?;
    let inode = fstat(&theirs).map_err(failed)?.st_ino;
    listener.give_for(id, theirs.as_raw_fd(), fd, true).map_err(failed)?;
    sockets().insert(inode, (subject.tgid, ours));
    let (tgid, tid) = (subject.tgid, subject.tid);
    let receive_anew = move || trace::receive_anew(tgid, tid, fd);
    let anew = move || {
        receive_anew();
        trace::see_to_all_late();
    };
    if spawn("trap-anew", anew).is_err() {
        receive_anew();
    }
    Ok(inode)
}

/// Whether a process may have one more; those that it has closed are let go.
fn may_have_another(tgid: u32) -> bool {
    let mut all = sockets();
    let count = |all: &BTreeMap<u64, (u32, OwnedFd)>| all.values().filter(|(of, _)| *of == tgid).count();
    if count(&all) > 0
        && let Some(open) = open_sockets()
    {
        all.retain(|inode, _| open.contains(inode));
    }
    count(&all) < SOCKETS_OF_ONE
}

/// The inodes of the Unix sockets that somebody has. Nothing else tells our end that the other one is closed.
fn open_sockets() -> Option<HashSet<u64>> {
    const INODE: usize = 6;
    let table = fs::read_to_string("/proc/thread-self/net/unix").ok()?;
    let inode = |line: &str| line.split_ascii_whitespace().nth(INODE)?.parse().ok();
    Some(table.lines().skip(1).filter_map(inode).collect())
}

/// Tells a socket what became of a registration.
pub(crate) fn tell(inode: u64, cookie: [u64; 4], what: u8) {
    let mut bytes: Vec<u8> = cookie.iter().flat_map(|word| word.to_ne_bytes()).collect();
    if let Some(last) = bytes.last_mut() {
        *last = what;
    }
    if let Some((_, ours)) = sockets().get(&inode) {
        // Who has closed it, or reads nothing, is told nothing.
        let _ = send(ours.as_raw_fd(), &bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
    }
}

/// That process has ended.
pub(crate) fn forget_sockets(tgid: u32) {
    sockets().retain(|_, (of, _)| *of != tgid);
}

// ---- closed descriptors

/// How many numbers of a registration's queue are looked at.
const NUMBERS: usize = 64;

/// The registrations of programs that the trap serves, those included that are over.
pub(crate) struct Registrations {
    news: Inotify,
    all: Vec<Registration>,
}

struct Registration {
    by: Subject,
    queue: Handle,
    /// Where the queue's descriptors lead, and those that the process had.
    link: PathBuf,
    numbers: Vec<i32>,
    watch: WatchDescriptor,
}

impl Registration {
    fn is_whole(&self) -> bool {
        self.numbers.iter().all(|fd| link_of(self.by.tgid, *fd).as_ref() == Some(&self.link))
    }
}

/// The numbers by which a process has a queue's file open: not those that the library keeps to ask by, for writing only.
fn numbers_of(tgid: u32, link: &Path) -> Vec<i32> {
    const READS: u32 = 0o400;
    let Ok(entries) = fs::read_dir(format!("/proc/{tgid}/fd")) else { return Vec::new() };
    let reads = |entry: &fs::DirEntry| entry.metadata().is_ok_and(|link| link.mode() & READS != 0);
    let entries = entries.flatten().filter(reads);
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(|fd| link_of(tgid, *fd).as_deref() == Some(link)).take(NUMBERS).collect()
}

impl Registrations {
    pub(crate) fn new() -> nix::Result<Registrations> {
        Ok(Registrations {
            news: Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?,
            all: Vec::new(),
        })
    }

    /// What is readable when a descriptor of such a queue was closed.
    pub(crate) fn news(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// A process has registered by that descriptor.
    pub(crate) fn add(&mut self, by: Subject, fd: i32) {
        let Some(link) = link_of(by.tid, fd) else { return };
        let Some(queue) = client::mqd::queue_of(link.as_os_str().as_bytes()) else { return };
        // A queue has one at a time.
        self.all.retain(|one| one.queue != queue);
        if let Ok(watch) = self.news.add_watch(&link, AddWatchFlags::IN_CLOSE) {
            let numbers = numbers_of(by.tgid, &link);
            self.all.push(Registration { by, queue, link, numbers, watch });
        }
    }

    /// A process has been given another descriptor.
    pub(crate) fn opened(&mut self, tgid: u32, link: &Path, fd: i32) {
        for one in self.all.iter_mut().filter(|one| one.by.tgid == tgid && one.link == link) {
            if one.numbers.len() < NUMBERS {
                one.numbers.push(fd);
            }
        }
    }

    /// Takes those of which a descriptor is closed: whose they were, and for which queue.
    pub(crate) fn take_closed(&mut self) -> Vec<(Subject, Handle)> {
        // All are looked at, whichever the news is of.
        let _ = self.news.read_events();
        let closed: Vec<Registration> = self.all.extract_if(.., |one| !one.is_whole()).collect();
        for one in &closed {
            let _ = self.news.rm_watch(one.watch);
        }
        closed.into_iter().map(|one| (one.by, one.queue)).collect()
    }
}
