//! Who makes the calls: processes and threads, their rights and their memory.
//!
//! Nobody tells us of a change of credentials, or that a number has come to name another thread. So each call asks: the inode of
//! `/proc/TID` and its owner say whether what was learnt last time still holds. The owner is the
//! effective user, or root where the process hides itself (not dumpable): then all of it is read anew, unless it is root's. The way to that directory is
//! gone anew once it is [`FRESH`] no more: no sooner can a number come to name another thread. Capabilities are asked for where they count.
//!
//! # Safety
//! Memory of ours that is copied to or from is valid for the length that comes with it.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read};
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use abi::{Errno, Result};
use arena::Handle;
use client::behalf::{self, Caller};
use client::mqd;
use engine::{Cred, MapPlace, MapRequest, Mqd, Syscall, shm};
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use nix::unistd::geteuid;
use sys::memory::{Mapping, find_shared_mapping, has_mappings, is_write_sealed};
use sys::{file, net::Fd};

use crate::descriptors::{Descriptors, Named};
use crate::notices;
use crate::notify::Listener;
use crate::process::{has_free_descriptor, pidfd_open, soft_limit, start_time, umask};
use crate::trace::{self, Held};

/// How long a mapping is tried while somebody may be trying to seal its memory.
const PATIENCE: Duration = Duration::from_millis(100);
/// Threads that are remembered before all are forgotten.
const REMEMBERED: usize = 4096;
/// Of how many of them the directory is kept open: others cost a look-up in each call.
const DIRECTORIES: usize = 512;
/// How long the directory of a thread is taken for that of its number: the kernel gives numbers in turn, and hundreds of them have to be given before one comes
/// again.
pub(crate) const FRESH: Duration = Duration::from_millis(1);

/// The processes that have a slot here, by their ids, and whether they have left the namespace: for the broker's first thread, which must not wait for us.
static SLOTS: Mutex<BTreeMap<u32, (Handle, bool)>> = Mutex::new(BTreeMap::new());

fn slots() -> MutexGuard<'static, BTreeMap<u32, (Handle, bool)>> {
    SLOTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The processes that have made calls here, and have not ended as far as is known, with their slots. Those among them that have gone to another
/// namespace still have segments attached.
pub fn processes() -> BTreeMap<u32, Handle> {
    slots().iter().map(|(tgid, (slot, _))| (*tgid, *slot)).collect()
}

/// Whether a process is among them, and has not gone.
pub fn has(tgid: u32) -> bool {
    slots().get(&tgid).is_some_and(|(_, has_left)| !has_left)
}

fn note(tgid: u32, slot: Option<(Handle, bool)>) {
    let mut slots = slots();
    match slot {
        Some(slot) => slots.insert(tgid, slot),
        None => slots.remove(&tgid),
    };
}

/// A thread that makes a call, as it was found at the call's beginning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject {
    pub(crate) tid: u32,
    pub(crate) tgid: u32,
    process: Handle,
    uid: u32,
    euid: u32,
    fsuid: u32,
    egid: u32,
    fsgid: u32,
    /// Its parent, if its memory is that one's, as a vfork child's is until it executes a program.
    lender: Option<u32>,
    /// It makes the call as a 32-bit program does.
    pub(crate) compat: bool,
}

/// By what a change is noticed.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    ino: u64,
    uid: u32,
    gid: u32,
}

impl From<FileStat> for Seen {
    fn from(meta: FileStat) -> Seen {
        Seen { ino: meta.st_ino, uid: meta.st_uid, gid: meta.st_gid }
    }
}

struct Thread {
    seen: Seen,
    subject: Subject,
    /// `/proc/TID`, and when the way there was gone last.
    directory: Option<OwnedFd>,
    looked: Instant,
}

struct Process {
    handle: Handle,
    descriptors: Arc<Descriptors>,
    /// The mappings of a program that has attached segments: there are none any more when it has executed another one.
    maps: Option<File>,
    /// It has gone to another namespace, and still has segments attached.
    has_left: bool,
}

/// All that have made calls.
pub(crate) struct Targets {
    threads: HashMap<u32, Thread>,
    processes: HashMap<u32, Process>,
    /// `/proc`: threads are looked up from there at each call.
    proc: File,
}

/// The user namespace of a process in /proc, by its inode.
pub(crate) fn user_namespace(of: &str) -> Option<u64> {
    fs::metadata(format!("/proc/{of}/ns/user")).ok().map(|meta| meta.ino())
}

/// The effective capabilities of a thread that count here: those in another user namespace are none.
pub(crate) fn capabilities(tid: u32) -> u64 {
    static OWN: OnceLock<Option<u64>> = OnceLock::new();
    let header = [0x2008_0522u32, tid];
    let mut sets = [0u32; 6];
    // SAFETY: version 3 takes a header of two words and two sets of three.
    let got = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) };
    let caps = if got == 0 { u64::from(sets[0]) | u64::from(sets[3]) << 32 } else { 0 };
    let counts = || user_namespace(&tid.to_string()) == *OWN.get_or_init(|| user_namespace("self"));
    if caps != 0 && counts() { caps } else { 0 }
}

impl Targets {
    pub(crate) fn new() -> io::Result<Targets> {
        let proc = File::open("/proc")?;
        Ok(Targets { threads: HashMap::new(), processes: HashMap::new(), proc })
    }

    /// Who a thread is, and whether it was known: then it is the one that asks, as its number names no other since. `watch` is
    /// told of new processes, by their ids, when they have ended.
    pub(crate) fn meet(&mut self, tid: u32, watch: &Epoll) -> Result<(Subject, bool)> {
        let now = Instant::now();
        if let Some(thread) = self.threads.get_mut(&tid) {
            let is_fresh = now.duration_since(thread.looked) < FRESH;
            let seen = match &thread.directory {
                Some(directory) if is_fresh => look(directory),
                _ => look_up(&self.proc, tid),
            }?;
            if thread.seen == seen && (seen.uid != 0 || thread.subject.euid == 0) {
                if !is_fresh {
                    thread.looked = now;
                }
                return Ok((thread.subject, true));
            }
        }
        self.threads.remove(&tid);
        // Where there is no descriptor left for it, the way is gone in each call.
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let open = || openat(&self.proc, tid.to_string().as_str(), flags, Mode::empty()).ok();
        let directory = if self.may_open() { open() } else { None };
        let seen = directory.as_ref().map_or_else(|| look_up(&self.proc, tid), look)?;
        let mut learnt = self.learn(tid, watch);
        if learnt.is_err() && self.has_no_descriptor() {
            // Those can be done without.
            self.threads.values_mut().for_each(|thread| thread.directory = None);
            learnt = self.learn(tid, watch);
        }
        let subject = learnt.map_err(|error| if self.has_no_descriptor() { Errno::ENOMEM } else { error })?;
        if self.threads.len() >= REMEMBERED {
            self.threads.clear();
        }
        self.threads.insert(tid, Thread { seen, subject, directory, looked: now });
        Ok((subject, false))
    }

    fn has_no_descriptor(&self) -> bool {
        self.proc.try_clone().is_err()
    }

    /// Whether the directory of one more thread may be kept open.
    fn may_open(&self) -> bool {
        let is_open = |thread: &&Thread| thread.directory.is_some();
        self.threads.len() < DIRECTORIES || self.threads.values().filter(is_open).count() < DIRECTORIES
    }

    fn learn(&mut self, tid: u32, watch: &Epoll) -> Result<Subject> {
        let status = Status::of(tid)?;
        let tgid = status.number("Tgid").ok_or(Errno::ESRCH)?;
        let id = |line, at| status.numbers(line).nth(at).ok_or(Errno::ESRCH);
        let parent = status.number("PPid");
        Ok(Subject {
            tid,
            tgid,
            process: self.process(tgid, watch)?,
            uid: id("Uid", 0)?,
            euid: id("Uid", 1)?,
            fsuid: id("Uid", 3)?,
            egid: id("Gid", 1)?,
            fsgid: id("Gid", 3)?,
            lender: parent.filter(|parent| has_memory_of(tid, *parent)),
            compat: false,
        })
    }

    fn process(&mut self, tgid: u32, watch: &Epoll) -> Result<Handle> {
        if let Some(known) = self.processes.get_mut(&tgid) {
            if !known.descriptors.has_ended() {
                if mem::take(&mut known.has_left) {
                    note(tgid, Some((known.handle, false)));
                    client::with(|ctx| engine::reap::come_back(ctx, known.handle))?;
                }
                return Ok(known.handle);
            }
            // Another one with its number; the rest is done when its end is heard of.
            self.bury(tgid);
        }
        let pidfd = pidfd_open(tgid)?;
        let start = start_time(tgid).ok_or(Errno::ESRCH)?;
        let handle = behalf::add_process(tgid, start)?;
        watch.add(&pidfd, EpollEvent::new(EpollFlags::EPOLLIN, tgid.into())).map_err(|_| Errno::ENOMEM)?;
        let descriptors = Arc::new(Descriptors::new(tgid, pidfd));
        self.processes.insert(tgid, Process { handle, descriptors, maps: None, has_left: false });
        note(tgid, Some((handle, false)));
        Ok(handle)
    }

    /// A process is about to have a segment attached.
    pub(crate) fn attaches(&mut self, tgid: u32) {
        if let Some(process) = self.processes.get_mut(&tgid)
            && process.maps.is_none()
        {
            process.maps = File::open(format!("/proc/{tgid}/maps")).ok();
        }
    }

    /// Detaches what programs had attached that have executed others.
    pub(crate) fn see_programs(&mut self) {
        for process in self.processes.values_mut() {
            let is_there = |maps: &File| has_mappings(maps.as_raw_fd()) == Ok(true);
            if process.maps.take_if(|maps| !is_there(maps)).is_some() {
                let _ = client::with(|ctx| {
                    engine::shm::detach_all(ctx, process.handle);
                    Ok(())
                });
            }
        }
    }

    /// The descriptors of a process that was met.
    pub(crate) fn descriptors(&self, tgid: u32) -> Option<Arc<Descriptors>> {
        self.processes.get(&tgid).map(|process| Arc::clone(&process.descriptors))
    }

    /// Whether a process that was watched has ended.
    pub(crate) fn has_ended(&self, tgid: u32) -> bool {
        self.processes.get(&tgid).is_some_and(|process| process.descriptors.has_ended())
    }

    /// A process goes to another namespace.
    pub(crate) fn leave(&mut self, tgid: u32) {
        let Some(process) = self.processes.get_mut(&tgid) else { return };
        let handle = process.handle;
        process.has_left = client::with(|ctx| Ok(engine::reap::leave_process(ctx, handle))).unwrap_or(false);
        if process.has_left {
            self.threads.retain(|_, thread| thread.subject.tgid != tgid);
            note(tgid, Some((handle, true)));
        } else {
            self.bury(tgid);
        }
    }

    /// Puts right what a process has left that has ended.
    pub(crate) fn bury(&mut self, tgid: u32) {
        let Some(Process { handle, .. }) = self.processes.remove(&tgid) else { return };
        self.threads.retain(|_, thread| thread.subject.tgid != tgid);
        note(tgid, None);
        notices::forget_sockets(tgid);
        let _ = client::with(|ctx| {
            engine::reap::reap_process(ctx, handle);
            Ok(())
        });
    }
}

/// Whether two are in the same memory, as far as may be known.
fn has_memory_of(tid: u32, other: u32) -> bool {
    const KCMP_VM: i32 = 1;
    // SAFETY: no memory is passed.
    unsafe { libc::syscall(libc::SYS_kcmp, tid, other, KCMP_VM, 0, 0) == 0 }
}

fn look(directory: &OwnedFd) -> Result<Seen> {
    fstat(directory).map(Seen::from).map_err(|_| Errno::ESRCH)
}

fn look_up(proc: &File, tid: u32) -> Result<Seen> {
    let meta = fstatat(proc, tid.to_string().as_str(), AtFlags::empty());
    meta.map(Seen::from).map_err(|_| Errno::ESRCH)
}

/// The text of `/proc/TID/status`.
pub(crate) struct Status(String);

impl Status {
    pub(crate) fn of(tid: u32) -> Result<Status> {
        // In one read, as it is asked for often; only who is in thousands of groups has more.
        const USUAL: usize = 8192;
        let mut text = vec![0; USUAL];
        let read = File::open(format!("/proc/{tid}/status")).and_then(|mut file| {
            let length = file.read(&mut text)?;
            text.truncate(length);
            if length == USUAL { file.read_to_end(&mut text) } else { Ok(0) }
        });
        read.map_err(|_| Errno::ESRCH)?;
        String::from_utf8(text).map(Status).or_else(|error| {
            // A name may be any bytes.
            Ok(Status(String::from_utf8_lossy(error.as_bytes()).into_owned()))
        })
    }

    pub(crate) fn line(&self, name: &str) -> &str {
        let value = |line: &'_ str| line.strip_prefix(name).and_then(|rest| rest.strip_prefix(':')).is_some();
        self.0.lines().find(|line| value(line)).map_or("", |line| line[name.len() + 1..].trim())
    }

    pub(crate) fn numbers(&self, name: &str) -> impl Iterator<Item = u32> {
        self.line(name).split_ascii_whitespace().map_while(|number| number.parse().ok())
    }

    pub(crate) fn number(&self, name: &str) -> Option<u32> {
        self.numbers(name).next()
    }

    /// A set, of signals or of capabilities.
    pub(crate) fn set(&self, name: &str) -> u64 {
        u64::from_str_radix(self.line(name), 16).unwrap_or(0)
    }
}

/// A call on its way: who makes it, and where the answer goes.
pub(crate) struct Errand<'l> {
    pub(crate) listener: &'l Listener,
    pub(crate) id: u64,
    pub(crate) subject: Subject,
    /// The owner's capabilities make no difference to the call.
    lean: Cell<bool>,
    /// Those of the thread, once they were asked for.
    caps: OnceCell<u64>,
    /// The thread, where it had to be held; it has no other answer to wait for then.
    held: RefCell<Option<Held>>,
    /// What of other attachments a new one took the place of: the memory, and whether there is nothing else of that attachment.
    replaced: RefCell<Vec<(u64, bool)>>,
    /// The socket that a notification goes to, and the cookie that it is told.
    pub(crate) told: Cell<Option<(i32, [u64; 4])>>,
    /// What it is given with the answer.
    made: RefCell<Option<Fd>>,
    /// Its process's descriptors, for a call that may name one, and which it named last.
    descriptors: Option<Arc<Descriptors>>,
    named: RefCell<Option<Named>>,
    /// What was read last, and what is behind it on its page: a message's text comes behind its type.
    ahead: RefCell<Ahead>,
    /// A small write that is not made yet: a message's text is likely to follow behind its type.
    behind: RefCell<Option<(u64, [u8; SMALL], usize)>>,
    /// Whether the thread is to write itself ([`Errand::writes_itself`]), once that was asked for; and what.
    writes: OnceCell<bool>,
    own: RefCell<Vec<(u64, Vec<u8>)>>,
}

/// Stands for what is given with the answer: a number that no descriptor has.
const TO_BE_GIVEN: i32 = i32::MAX;
/// A write up to this size waits for the next one, bytes.
const SMALL: usize = 8;
/// How much is read at a time, bytes.
const AHEAD: usize = 256;
const PAGE: u64 = 4096;

/// What /proc calls a segment's memory, before its key.
const NAMED: &[u8] = b" /memfd:SYSV";

/// A part of the target's memory, as it was.
struct Ahead {
    from: u64,
    len: usize,
    bytes: [u8; AHEAD],
}

impl<'l> Errand<'l> {
    pub(crate) fn new(listener: &'l Listener, id: u64, subject: Subject) -> Errand<'l> {
        Errand {
            listener,
            id,
            subject,
            lean: Cell::default(),
            caps: OnceCell::new(),
            held: RefCell::default(),
            replaced: RefCell::default(),
            told: Cell::default(),
            made: RefCell::default(),
            descriptors: None,
            named: RefCell::default(),
            ahead: RefCell::new(Ahead { from: 0, len: 0, bytes: [0; AHEAD] }),
            behind: RefCell::default(),
            writes: OnceCell::new(),
            own: RefCell::default(),
        }
    }

    /// The call may name a descriptor of these.
    pub(crate) fn with(self, descriptors: Option<Arc<Descriptors>>) -> Errand<'l> {
        Errand { descriptors, ..self }
    }

    /// It is for that call. In those that are made most, permissions are all that capabilities are for, and the namespace's owner has them anyway.
    pub(crate) fn is_for(&self, call: &Syscall) {
        self.lean.set(matches!(
            call,
            Syscall::Msgsnd(_) | Syscall::Msgrcv(_) | Syscall::Semtimedop(_) | Syscall::Semctl(_)
        ));
    }

    /// Makes the writes that wait.
    fn flush(&self) -> Result<()> {
        let own = self.own.take();
        if !own.is_empty() {
            return self.have_written(&own);
        }
        match self.behind.take() {
            None => Ok(()),
            Some((to, mut bytes, len)) => {
                self.copy(&[part(NonNull::from(&mut bytes).cast(), len)], &[its(to, len)], true)
            }
        }
    }

    /// Where the descriptor leads that it is given with the answer.
    pub(crate) fn given(&self) -> Option<PathBuf> {
        let file = self.made.borrow();
        fs::read_link(format!("/proc/self/fd/{}", file.as_ref()?.raw())).ok()
    }

    /// Ends the call.
    pub(crate) fn finish(self, result: std::result::Result<i64, i32>) {
        self.finish_giving(result);
    }

    /// Ends the call with bytes for the thread's memory; their number is the result.
    pub(crate) fn finish_writing(self, to: u64, bytes: &[u8]) {
        let from = NonNull::from(bytes).cast();
        let written = if bytes.is_empty() { Ok(()) } else { self.write(to, from, bytes.len()) };
        let count = i64::try_from(bytes.len()).unwrap_or(0);
        self.finish(written.map(|()| count).map_err(Errno::raw));
    }

    /// Ends the call; returns the number of what it was given.
    pub(crate) fn finish_giving(self, result: std::result::Result<i64, i32>) -> Option<i32> {
        let result = result.and_then(|value| self.flush().map(|()| value).map_err(Errno::raw));
        // Who goes on may close its own, and be the last to hold the queue.
        self.named.take();
        if let (Ok(_), Some(file)) = (result, self.made.take()) {
            return self.listener.answer_giving(self.id, &file, true);
        }
        match self.held.into_inner() {
            Some(held) => held.release(result),
            // If it has ended, there is nobody to tell.
            None => drop(self.listener.answer(self.id, result)),
        }
        None
    }

    /// Holds the thread, after `prepare`, and has it do something before its call ends.
    fn hold<P, R>(
        &self,
        prepare: impl FnOnce() -> Result<P>,
        act: impl FnOnce(&mut Held, P) -> Result<R>,
    ) -> Result<R> {
        let Subject { tid, compat, .. } = self.subject;
        let (held, prepared) = Held::catch(self.listener, self.id, tid, compat, trace::PATIENCE, prepare)?;
        act(self.held.borrow_mut().insert(held), prepared)
    }

    /// Has the thread, held for this or for something before, do something before its call ends.
    fn have<R>(&self, act: impl FnOnce(&mut Held) -> Result<R>) -> Result<R> {
        if let Some(held) = &mut *self.held.borrow_mut() {
            return act(held);
        }
        self.hold(|| Ok(()), |held, ()| act(held))
    }

    /// Whether what we would write may come to somebody else's memory: it is its parent's too, or the thread's number may come to be that of a program that another thread
    /// executes, and which gains rights that only we have.
    fn writes_itself(&self) -> bool {
        let Subject { tid, tgid, euid, lender, .. } = self.subject;
        // As many links more than two as there are threads.
        let has_others = || fs::metadata(format!("/proc/{tgid}/task")).is_ok_and(|meta| meta.nlink() > 3);
        // One answer for the whole call, so that all its writes go the same way.
        *self.writes.get_or_init(|| {
            lender.is_some_and(|parent| has_memory_of(tid, parent))
                || tid == tgid && euid != 0 && geteuid().is_root() && has_others()
        })
    }

    /// Has the thread itself write to its memory, from a file: if it is killed, a write of ours would come to whose memory it is then. A vfork child's is its
    /// parent's alone, who goes on at once; a main thread's, which another thread's exec kills, that of the program that is executed.
    fn have_written(&self, parts: &[(u64, Vec<u8>)]) -> Result<()> {
        let copied = || {
            parts.iter().try_for_each(|(to, bytes)| {
                let ours = part(NonNull::from(bytes.as_slice()).cast(), bytes.len());
                self.copy(&[ours], &[its(*to, bytes.len())], true)
            })
        };
        let given = file::memfd(c"written").and_then(|file| {
            parts.iter().try_for_each(|(_, bytes)| file::write_all(&file, bytes))?;
            Ok(file)
        });
        // Who is held already waits for nothing that it could be given, and for others there may be no room.
        let Ok(file) = given else { return copied() };
        if self.held.borrow().is_some() || self.can_be_given().is_err() {
            return copied();
        }
        let give = || self.listener.give(self.id, file.raw()).map_err(|error| Errno::from_raw(error as i32));
        let written = self.hold(give, |held, fd| {
            let mut offset = 0;
            let written = parts.iter().try_for_each(|(to, bytes)| {
                let at = offset;
                offset += bytes.len() as u64;
                held.read(fd, *to, bytes.len() as u64, at)
            });
            held.close(fd)?;
            written
        });
        // One that a debugger has is not held: it waits as before.
        if written.is_err() && self.held.borrow().is_none() && self.listener.is_valid(self.id) {
            return copied();
        }
        written
    }

    /// Takes what a new attachment took the place of.
    pub(crate) fn replaced(&self) -> Vec<(u64, bool)> {
        self.replaced.take()
    }

    /// The thread's process's mappings.
    fn maps(&self) -> Result<File> {
        File::open(format!("/proc/{}/maps", self.subject.tid)).map_err(|_| Errno::EINVAL)
    }

    /// Whether a mapping is of a file with the name of segments.
    fn is_named_as_segment(&self, mapping: &Mapping) -> bool {
        let maps = fs::read(format!("/proc/{}/maps", self.subject.tid)).unwrap_or_default();
        let range = format!("{:08x}-{:08x} ", mapping.start, mapping.end);
        let mut lines = maps.split(|byte| *byte == b'\n');
        let line = lines.find(|line| line.starts_with(range.as_bytes()));
        line.is_some_and(|line| line.windows(NAMED.len()).any(|part| part == NAMED))
    }

    /// What would be lost of attachments if something else came to be there. That may be memory files of the program's own as well.
    fn attached_at(&self, start: u64, size: u64) -> Result<Vec<(u64, bool)>> {
        let mut all: Vec<Mapping> = Vec::new();
        find_shared_mapping(self.maps()?.as_raw_fd(), 0, |m| {
            all.extend(behalf::is_segments_device(m.dev).then_some(*m));
            false
        })
        .map_err(|_| Errno::EINVAL)?;
        let (start, end) = (start as usize, start.saturating_add(size) as usize);
        let touched = |m: &&Mapping| m.start < end && m.end > start;
        let is_within = |m: &Mapping| m.start >= start && m.end <= end;
        // Parts of one attachment have the same beginning.
        let attachment = |m: &Mapping| (m.dev, m.ino, (m.start as u64).wrapping_sub(m.offset));
        let of = |m: &Mapping| {
            let whole = all.iter().filter(|other| attachment(other) == attachment(m)).all(is_within);
            (m.ino, whole)
        };
        let mut lost: Vec<_> = all.iter().filter(touched).map(|m| (attachment(m), of(m))).collect();
        lost.dedup();
        Ok(lost.into_iter().map(|(_, lost)| lost).collect())
    }

    /// Copies between parts of our memory and one of the thread's, of `len` bytes together.
    ///
    /// The memory of a thread that is killed may be another's: a vfork child's is its parent's, which goes on then. So what was read counts if the
    /// thread still waits, or is held, after that, and nothing is written to one that does not. It may be killed between, so such a child writes itself
    /// where it can ([`Errand::have_written`]).
    fn copy(&self, ours: &[libc::iovec], theirs: &[libc::iovec], write: bool) -> Result<()> {
        let is_there = || self.held.borrow().is_some() || self.listener.is_valid(self.id);
        if write && !is_there() {
            return Err(Errno::EFAULT);
        }
        copy(self.subject.tid, ours, theirs, write)?;
        if write || is_there() { Ok(()) } else { Err(Errno::EFAULT) }
    }
}

fn copy(tid: u32, ours: &[libc::iovec], theirs: &[libc::iovec], write: bool) -> Result<()> {
    let call = if write { libc::process_vm_writev } else { libc::process_vm_readv };
    let count = |parts: &[libc::iovec]| parts.len() as libc::c_ulong;
    // SAFETY: our parts are valid for their lengths.
    let copied =
        unsafe { call(tid.cast_signed(), ours.as_ptr(), count(ours), theirs.as_ptr(), count(theirs), 0) };
    let wanted = theirs.iter().map(|part| part.iov_len).sum();
    if usize::try_from(copied) == Ok(wanted) { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Writes bytes to a thread's memory.
pub(crate) fn write(tid: u32, to: u64, bytes: &[u8]) -> Result<()> {
    copy(tid, &[part(NonNull::from(bytes).cast(), bytes.len())], &[its(to, bytes.len())], true)
}

/// A part of the target's memory.
fn its(at: u64, len: usize) -> libc::iovec {
    libc::iovec { iov_base: at as *mut libc::c_void, iov_len: len }
}

fn part(at: NonNull<u8>, len: usize) -> libc::iovec {
    libc::iovec { iov_base: at.as_ptr().cast(), iov_len: len }
}

const CAP_DAC_OVERRIDE: u32 = 1;
const CAP_DAC_READ_SEARCH: u32 = 2;
const CAP_FOWNER: u32 = 3;
const CAP_IPC_LOCK: u32 = 14;
const CAP_IPC_OWNER: u32 = 15;
pub(crate) const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYS_RESOURCE: u32 = 24;
const CAP_CHECKPOINT_RESTORE: u32 = 40;

impl Caller for Errand<'_> {
    fn tgid(&self) -> u32 {
        self.subject.tgid
    }

    fn pid(&self) -> u32 {
        self.subject.tid
    }

    fn process(&self) -> Handle {
        self.subject.process
    }

    fn is_gone(&self, place: u32) -> bool {
        self.listener.is_gone(place)
    }

    fn cred(&self, owner: u32, initial_userns: bool) -> Cred {
        let Subject { tid, uid, euid, fsuid, egid, fsgid, .. } = self.subject;
        let is_owner = euid == owner;
        let caps = if is_owner && self.lean.get() { 0 } else { *self.caps.get_or_init(|| capabilities(tid)) };
        let has = |cap: u32| caps >> cap & 1 != 0;
        let sys_admin = is_owner || has(CAP_SYS_ADMIN);
        Cred {
            uid,
            fsuid,
            dac_override: is_owner || has(CAP_DAC_OVERRIDE),
            dac_read_search: is_owner || has(CAP_DAC_READ_SEARCH),
            fowner: is_owner || has(CAP_FOWNER),
            euid,
            egid,
            fsgid,
            ipc_owner: is_owner || has(CAP_IPC_OWNER),
            sys_admin,
            checkpoint_restore: sys_admin || has(CAP_CHECKPOINT_RESTORE),
            ipc_lock: has(CAP_IPC_LOCK),
            sys_resource: initial_userns && has(CAP_SYS_RESOURCE),
        }
    }

    fn in_compat_syscall(&self) -> bool {
        self.subject.compat
    }

    fn in_group(&self, gid: u32) -> bool {
        Status::of(self.subject.tid).is_ok_and(|status| status.numbers("Groups").any(|of| of == gid))
    }

    fn read(&self, to: NonNull<u8>, from: u64, len: usize) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        let mut ahead = self.ahead.borrow_mut();
        if from < ahead.from || from.saturating_add(len as u64) > ahead.from + ahead.len as u64 {
            // What is on the same page can be read as well.
            let on_page = usize::try_from(PAGE - from % PAGE).unwrap_or(0).min(AHEAD);
            if len > on_page {
                return self.copy(&[part(to, len)], &[its(from, len)], false);
            }
            let into = NonNull::from(&mut ahead.bytes).cast();
            ahead.len = 0;
            self.copy(&[part(into, on_page)], &[its(from, on_page)], false)?;
            (ahead.from, ahead.len) = (from, on_page);
        }
        let start = usize::try_from(from - ahead.from).map_err(|_| Errno::EFAULT)?;
        let bytes = ahead.bytes.get(start..start + len).ok_or(Errno::EFAULT)?;
        // SAFETY: `to` is valid for the length, and no memory of the errand's.
        unsafe { to.copy_from_nonoverlapping(NonNull::from(bytes).cast(), len) };
        Ok(())
    }

    fn write(&self, to: u64, from: NonNull<u8>, len: usize) -> Result<()> {
        self.ahead.borrow_mut().len = 0;
        if len == 0 {
            return Ok(());
        }
        if self.writes_itself() {
            let mut bytes = vec![0; len];
            // SAFETY: `from` is valid for the length, which there is room for.
            unsafe { from.copy_to_nonoverlapping(NonNull::from(bytes.as_mut_slice()).cast(), len) };
            self.own.borrow_mut().push((to, bytes));
            return Ok(());
        }
        if let Some((before, mut bytes, length)) = self.behind.take() {
            let first = part(NonNull::from(&mut bytes).cast(), length);
            return self.copy(&[first, part(from, len)], &[its(before, length), its(to, len)], true);
        }
        if len <= SMALL {
            let mut bytes = [0; SMALL];
            // SAFETY: `from` is valid for the length, which there is room for.
            unsafe { from.copy_to_nonoverlapping(NonNull::from(&mut bytes).cast(), len) };
            *self.behind.borrow_mut() = Some((to, bytes, len));
            return Ok(());
        }
        self.copy(&[part(from, len)], &[its(to, len)], true)
    }

    fn map(&self, wanted: &MapRequest, file: &Fd, size: u64, _: impl FnMut(i32, bool)) -> Result<u64> {
        let (at, fixed) = match wanted.place {
            MapPlace::Anywhere => (0, 0),
            MapPlace::Free(at) => (at, libc::MAP_FIXED_NOREPLACE),
            MapPlace::Over(at) => (at, libc::MAP_FIXED),
        };
        let access =
            [(libc::PROT_READ, true), (libc::PROT_WRITE, wanted.write), (libc::PROT_EXEC, wanted.execute)];
        let protection: i32 = access.iter().filter(|(_, may)| *may).map(|(bit, _)| bit).sum();
        let flags = (libc::MAP_SHARED | fixed) as u64;
        let lost = match wanted.place {
            MapPlace::Over(at) => self.attached_at(at, size)?,
            _ => Vec::new(),
        };
        let give = || self.listener.give(self.id, file.raw()).map_err(|error| Errno::from_raw(error as i32));
        self.hold(give, |held, fd| {
            let began = Instant::now();
            let mapped = loop {
                match held.mmap(at, size, protection as u64, flags, fd) {
                    Err(Errno::EEXIST) => break Err(Errno::EINVAL),
                    Err(Errno::EPERM) if is_write_sealed(file) => break Err(Errno::EIDRM),
                    // Somebody is trying to seal it, and may yet find that it is mapped.
                    Err(Errno::EPERM) if wanted.write && began.elapsed() < PATIENCE => thread::yield_now(),
                    done => break done,
                }
            };
            held.close(fd)?;
            if mapped.is_ok() {
                *self.replaced.borrow_mut() = lost;
            }
            mapped
        })
    }

    fn unmap(&self, addr: u64, segment_of: impl Fn(u64) -> Option<(i32, u64)>) -> Result<i32> {
        let maps = self.maps()?;
        let find = |from, wanted: &mut dyn FnMut(&Mapping) -> bool| {
            find_shared_mapping(maps.as_raw_fd(), from, wanted).map_err(|_| Errno::EINVAL)
        };
        let fits = |m: &Mapping| {
            (m.start as u64).checked_sub(addr) == Some(m.offset) && behalf::is_segments_device(m.dev)
        };
        // A memory file of the program's own is none of ours.
        let mut segment = None;
        let start = usize::try_from(addr).map_err(|_| Errno::EINVAL)?;
        let mut first = find(start, &mut |m| {
            segment = fits(m).then(|| segment_of(m.ino)).flatten();
            segment.is_some()
        })?;
        if first.is_none() {
            // One of a namespace that the process has left, as its name in the list says.
            first = find(start, &mut |m| fits(m) && self.is_named_as_segment(m))?;
            segment = Some((shm::ELSEWHERE, 0));
        }
        let (Some(first), Some((id, size))) = (first, segment) else { return Err(Errno::EINVAL) };
        let end = addr.saturating_add(size).max(first.end as u64);
        let mut pieces = vec![first];
        find(first.end, &mut |m| {
            let is_below = (m.start as u64) < end;
            if is_below && fits(m) && m.ino == first.ino && m.dev == first.dev {
                pieces.push(*m);
            }
            !is_below
        })?;
        let unmap = |held: &mut Held| {
            for piece in pieces {
                held.munmap(piece.start as u64, (piece.end - piece.start) as u64)?;
            }
            Ok(id)
        };
        self.have(unmap)
    }

    fn memlock_limit(&self) -> u64 {
        soft_limit(self.subject.tid, "Max locked memory")
    }

    fn give(&self, file: Fd) -> i32 {
        *self.made.borrow_mut() = Some(file);
        TO_BE_GIVEN
    }

    fn can_be_given(&self) -> Result<()> {
        if has_free_descriptor(self.subject.tid) { Ok(()) } else { Err(Errno::EMFILE) }
    }

    fn take_back(&self, _: i32) {
        self.made.take();
    }

    fn descriptor(&self, fd: i32) -> Result<(Mqd, i32)> {
        if let (TO_BE_GIVEN, Some(file)) = (fd, &*self.made.borrow()) {
            let flags = file::flags(file.raw())?;
            let queue = mqd::queue_of(file::link_of(file.raw(), &mut [0; 128])?).ok_or(Errno::EBADF)?;
            return Ok((mqd::opened_as(queue, flags)?, flags));
        }
        let mut named = self.named.borrow_mut();
        let named = match &mut *named {
            Some(named) if named.is(fd) => named,
            other => {
                let descriptors = self.descriptors.as_ref().ok_or(Errno::EBADF)?;
                other.insert(descriptors.named(self.subject.tid, fd)?)
            }
        };
        Ok((named.mqd, named.flags))
    }

    fn own_descriptor(&self, queue: Handle) -> Option<i32> {
        self.named.borrow().as_ref()?.of_queue(queue)
    }

    fn set_flags(&self, fd: i32, flags: i32) {
        let _ = self.have(|held| held.set_flags(fd, flags));
    }

    fn notify_socket(&self, fd: i32, cookie: [u64; 4]) -> Result<()> {
        notices::check_socket(&self.subject, fd)?;
        self.told.set(Some((fd, cookie)));
        Ok(())
    }

    fn msgqueue_limit(&self) -> u64 {
        soft_limit(self.subject.tid, "Max msgqueue size")
    }

    fn umask(&self) -> u32 {
        umask(self.subject.tid)
    }

    fn scheduling_priority(&self) -> i32 {
        const OF_NICE_0: i32 = 120;
        // As it is shown, that of nice 0 is 20.
        const SHOWN: i32 = 100;
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.subject.tid)).unwrap_or_default();
        let shown =
            stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(15)?.parse().ok());
        shown.map_or(OF_NICE_0, |shown: i32| shown + SHOWN)
    }
}

impl std::fmt::Debug for Errand<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Errand").field("id", &self.id).field("subject", &self.subject).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_status_is_found_by_its_whole_name() {
        let status =
            Status("Name:\tUid: 9\nUid:\t1\t2\t3\t4\nSigPnd:\t0000000000000400\nGroups:\t \n".into());
        assert_eq!(status.numbers("Uid").collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(status.set("SigPnd"), 1 << 10);
        assert_eq!((status.number("Groups"), status.number("Id")), (None, None));
    }

    /// This process stands for the target: its memory is reached by the same calls.
    #[test]
    fn memory_is_copied_whole_or_not_at_all() {
        let pipe = nix::unistd::pipe().unwrap().0;
        let tid = nix::unistd::gettid().as_raw().cast_unsigned();
        let subject = Subject {
            tid,
            tgid: tid,
            process: Handle::NULL,
            uid: 0,
            euid: 0,
            fsuid: 0,
            egid: 0,
            fsgid: 0,
            lender: None,
            compat: false,
        };
        let listener = Listener::new(pipe, None);
        let errand = Errand::new(&listener, 0, subject);
        let theirs: Vec<u8> = (0..200).collect();
        let at = theirs.as_ptr() as u64;
        let mut ours = [0; 100];
        let to = NonNull::from(&mut ours).cast();
        for (from, len) in [(0, 8), (8, 92), (90, 10), (150, 50), (0, 100)] {
            errand.read(to, at + from, len).unwrap();
            assert_eq!(ours[..len], theirs[from as usize..from as usize + len], "{len} at {from}");
        }
        assert_eq!(errand.read(to, 1, 8), Err(Errno::EFAULT));
        assert_eq!(errand.read(to, u64::MAX, 8), Err(Errno::EFAULT));

        let mut theirs = [0u8; 40];
        let at = theirs.as_mut_ptr() as u64;
        for (to, len) in [(0, 8), (8, 16), (30, 4), (24, 2)] {
            errand.write(at + to, NonNull::from(&[7u8; 16]).cast(), len).unwrap();
        }
        errand.flush().unwrap();
        let written: Vec<usize> = (0..40).filter(|at| theirs[*at] == 7).collect();
        assert_eq!(written, (0..26).chain(30..34).collect::<Vec<_>>());
        errand.write(1, NonNull::from(&[0u8; 8]).cast(), 8).unwrap();
        assert_eq!(errand.flush(), Err(Errno::EFAULT), "a write that waits fails in the end");
    }
}
