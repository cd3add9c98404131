//! Whose programs' calls are made where.
//!
//! A process may have one listener, so the calls of all programs below a trap are asked about there: also those of programs in a namespace that was made
//! by a `run` inside, or by a program ([`crate::namespaces`]). They are handed on to the trap of that namespace, over a connection, and answered at the listener.
//!
//! The trap waits at an address that its programs' environment names ([`TRAP_ENV`]): there a `run` inside connects, says which
//! namespace it serves, and is given the listener. To brokers that don't come by themselves the trap gives it ([`wire::ASK_TRAP`]), when a program
//! is about to go there, or is found to be there. All of them are one hop away, however deep they lie in each other.
//! Whoever has the listener answers for all programs: only who listens as the trap's own user is given it, or is asked anything.
//!
//! A program is where its process has gone, or else where its environment leads, or else where its nearest parent is. A child's environment may be that of
//! before its parent went: it counts only where it names another namespace than those that the parent has left.
//!
//! What is missing: if a broker is killed, who sleeps in a call there sleeps on, and further calls are `ENOSYS`. A program that has
//! an environment of before, and comes here first when its parent has ended, is where that leads. What is executed is noticed a moment ([`FRESH`]) late, and only of some threads. A program that the library serves, and that has such
//! an environment, is told where it is only by the broker whose process the trap is in.
//!
//! # Safety
//! What is received by a message belongs to nobody else; a question is made of integers.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use abi::{Errno, Result};
use client::wire::{self, SOCKET_ENV};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, connect,
    getsockopt, listen, recv, send, sendmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::{geteuid, getpid};
use sys::net::{self, Fd};

use crate::namespaces::{path_of, rename};
use crate::notify::Notification;
use crate::process::{has_ended, pidfd_open};
use crate::target::{FRESH, Status};

/// The variable that names where a trap waits for those inside.
pub const TRAP_ENV: &str = "IPCSPACE_TRAP";
/// Parents that are looked at for somebody whose namespace is known.
const GENERATIONS: usize = 64;
/// Threads whose way is remembered before all are forgotten.
const REMEMBERED: usize = 4096;
/// Of how many of them it is noticed that they execute something else.
const ENVIRONMENTS: usize = 256;
/// How long nobody is taken to serve a socket where that was tried.
const UNSERVED: Duration = Duration::from_secs(1);
/// How long a broker may take to answer, microseconds: it may have another one begin.
const PATIENCE_US: i64 = 10_000_000;
/// How long who has connected may take to say what it serves, microseconds: others wait.
const SAYS_US: i64 = 500_000;
/// How long nobody is taken in when there was no descriptor for one.
const SHORTAGE: Duration = Duration::from_millis(10);
/// In the place of a question's number: the process leaves.
pub(crate) const LEAVES: u64 = 0;
/// In the trap's epoll, what is added to the ids of processes that have gone elsewhere.
const MOVED: u64 = 1 << 32;

/// The address of a trap that this process serves: one that nobody else may have taken, be it in another PID namespace or on purpose.
pub fn address() -> &'static str {
    static ADDRESS: OnceLock<String> = OnceLock::new();
    ADDRESS.get_or_init(|| {
        let mut random = [0u8; 8];
        // SAFETY: as many bytes as it has. If there are none yet, the address is only easier to guess.
        unsafe { libc::getrandom(random.as_mut_ptr().cast(), random.len(), libc::GRND_NONBLOCK) };
        format!("ipcspace-trap-{}-{:016x}", getpid(), u64::from_ne_bytes(random))
    })
}

fn seqpacket() -> nix::Result<OwnedFd> {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
}

/// The listener of the trap outside this one, for a namespace with that socket; and the connection by which its questions come.
///
/// # Errors
/// Where there is none.
pub fn join(socket: &Path) -> io::Result<(OwnedFd, OwnedFd)> {
    let at = std::env::var(TRAP_ENV).map_err(|_| io::Error::from(io::ErrorKind::NotFound))?;
    let link = seqpacket()?;
    connect(link.as_raw_fd(), &UnixAddr::new_abstract(at.as_bytes())?)?;
    // Whoever has the listener says for whom calls are made.
    check_peer(link.as_fd())?;
    send(link.as_raw_fd(), socket.as_os_str().as_bytes(), MsgFlags::MSG_NOSIGNAL)?;
    let message = sys::net::receive_message(link.as_raw_fd(), [&mut [0], &mut []], 0)
        .map_err(|error| io::Error::from_raw_os_error(error.raw()))?;
    let file = message.file.ok_or(io::ErrorKind::UnexpectedEof)?;
    // SAFETY: just received, nobody else has it.
    Ok((unsafe { OwnedFd::from_raw_fd(file.leak()) }, link))
}

/// The next question that comes over a connection; none when that has ended. One without a number says that the process leaves, and is
/// [`acknowledge`]d.
pub(crate) fn receive(link: &OwnedFd) -> Option<Notification> {
    let mut bytes = [0; size_of::<Notification>()];
    loop {
        match recv(link.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
            Ok(length) if length == bytes.len() => {
                // SAFETY: as many bytes as it has, and any are a value.
                return Some(unsafe { bytes.as_ptr().cast::<Notification>().read_unaligned() });
            }
            Err(nix::Error::EINTR) => {}
            _ => return None,
        }
    }
}

/// Says over a connection that the process has left that this question was about.
pub(crate) fn acknowledge(link: &OwnedFd, asked: &Notification) {
    let _ = send(link.as_raw_fd(), &asked.flags.to_ne_bytes(), MsgFlags::MSG_NOSIGNAL);
}

/// The connection to a trap inside.
pub(crate) struct Link {
    socket: OwnedFd,
    /// How many have left over it; locked by who waits for the answer.
    left: Mutex<u32>,
}

/// A namespace that a process can go to: where its broker is asked, and a connection that keeps it.
pub(crate) struct Space {
    socket: PathBuf,
    pub(crate) kept: Fd,
}

/// A process that has gone elsewhere, or that is not where its parent has gone.
struct Moved {
    pidfd: OwnedFd,
    to: PathBuf,
    /// What environments of before may name.
    was: Vec<PathBuf>,
    kept: Option<Fd>,
}

/// Where a thread is.
enum Way {
    To(PathBuf),
    /// There, if somebody serves that.
    Perhaps(PathBuf),
}

/// What comes of a question.
pub(crate) enum Handed {
    /// It is to be answered here.
    Here,
    Over,
    /// To be [sent](Link::send), which takes as long as that broker is stopped.
    Full(Arc<Link>),
    /// To be handed on once that broker has the listener ([`Routes::link`]), which may take its time.
    Later(PathBuf),
}

impl Link {
    /// Hands a question on.
    pub(crate) fn send(&self, question: &Notification) -> nix::Result<()> {
        self.send_as(question, MsgFlags::empty())
    }

    fn send_as(&self, question: &Notification, flags: MsgFlags) -> nix::Result<()> {
        // SAFETY: integers, without padding.
        let bytes = unsafe {
            std::slice::from_raw_parts((&raw const *question).cast::<u8>(), size_of::<Notification>())
        };
        send(self.socket.as_raw_fd(), bytes, flags | MsgFlags::MSG_NOSIGNAL).map(drop)
    }

    /// See [`Routes::tell_leaving`].
    fn leave(&self, tgid: u32) -> nix::Result<()> {
        let mut left = lock(&self.left);
        *left = left.wrapping_add(1);
        // SAFETY: a structure of integers.
        let mut question: Notification = unsafe { std::mem::zeroed() };
        (question.id, question.pid, question.flags) = (LEAVES, tgid, *left);
        self.send(&question)?;
        setsockopt(&self.socket, sockopt::ReceiveTimeout, &TimeVal::microseconds(PATIENCE_US))?;
        let mut answer = [0; size_of::<u32>()];
        // An answer that came too late is about an earlier one.
        while recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::empty())? != 0 {
            if u32::from_ne_bytes(answer) == *left {
                break;
            }
        }
        Ok(())
    }
}

/// Whose programs are whose.
pub(crate) struct Routes {
    /// This namespace's socket.
    own: PathBuf,
    listener: RawFd,
    links: Mutex<HashMap<PathBuf, Arc<Link>>>,
    /// Where somebody is about to connect; locked by who does.
    connecting: Mutex<HashMap<PathBuf, Arc<Mutex<()>>>>,
    /// By the process's id.
    moved: Mutex<HashMap<u32, Moved>>,
    /// Tells of their ends.
    watch: Arc<Epoll>,
    /// Sockets that environments name, and nobody serves, or served when that was tried last.
    unserved: Mutex<HashMap<PathBuf, Instant>>,
    known: Mutex<HashMap<u32, Known>>,
}

/// Where a thread was found to be.
struct Known {
    /// The inode of its directory in /proc, and when that was looked at last.
    ino: u64,
    looked: Instant,
    way: PathBuf,
    /// When it is to be found anew, if its environment names a socket that nobody serves.
    until: Option<Instant>,
    /// Its environment as a file, which is empty once it has executed something; not of all.
    environment: Option<File>,
}

impl Known {
    /// Whether it still holds for a thread whose directory has that inode.
    fn holds(&self, ino: u64, now: Instant) -> bool {
        self.ino == ino
            && self.until.is_none_or(|until| now < until)
            && self.environment.as_ref().is_none_or(is_in_use)
    }
}

/// Whether the memory whose environment a file is belongs to a process still.
fn is_in_use(environment: &File) -> bool {
    environment.read_at(&mut [0], 0).is_ok_and(|length| length > 0)
}

impl Routes {
    pub(crate) fn new(own: PathBuf, listener: RawFd, watch: Arc<Epoll>) -> Routes {
        Routes {
            own,
            listener,
            links: Mutex::default(),
            connecting: Mutex::default(),
            moved: Mutex::default(),
            watch,
            unserved: Mutex::default(),
            known: Mutex::default(),
        }
    }

    /// Takes in those inside, for ever.
    pub(crate) fn welcome(&self, at: &OwnedFd) {
        loop {
            match accept4(at.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
                Ok(fd) => {
                    // SAFETY: a new descriptor of ours.
                    let link = unsafe { OwnedFd::from_raw_fd(fd) };
                    let _ = self.take_in(link);
                }
                Err(nix::Error::EBADF | nix::Error::EINVAL) => return,
                // There may be a descriptor for it in a while, or it has gone.
                Err(_) => std::thread::sleep(SHORTAGE),
            }
        }
    }

    fn take_in(&self, link: OwnedFd) -> nix::Result<()> {
        check_peer(link.as_fd())?;
        setsockopt(&link, sockopt::ReceiveTimeout, &TimeVal::microseconds(SAYS_US))?;
        let mut path = [0; 128];
        let length = recv(link.as_raw_fd(), &mut path, MsgFlags::empty())?;
        let socket = PathBuf::from(std::ffi::OsStr::from_bytes(&path[..length]));
        let rights = [self.listener];
        let control = [ControlMessage::ScmRights(&rights)];
        sendmsg::<UnixAddr>(link.as_raw_fd(), &[IoSlice::new(b".")], &control, MsgFlags::MSG_NOSIGNAL, None)?;
        self.add(socket, link);
        Ok(())
    }

    fn add(&self, socket: PathBuf, link: OwnedFd) {
        let mut links = lock(&self.links);
        links.retain(|_, link| !is_over(&link.socket));
        links.insert(socket.clone(), Arc::new(Link { socket: link, left: Mutex::default() }));
        drop(links);
        lock(&self.unserved).remove(&socket);
        lock(&self.known).clear();
    }

    /// Has the broker at that socket make the calls of its processes.
    ///
    /// # Errors
    /// `ENOSYS` if there is none that would.
    pub(crate) fn link(&self, socket: &Path) -> Result<()> {
        let mut connecting = lock(&self.connecting);
        connecting.retain(|_, lock| Arc::strong_count(lock) > 1);
        let alone = Arc::clone(connecting.entry(socket.to_owned()).or_default());
        drop(connecting);
        let _alone = lock(&alone);
        if socket == self.own || lock(&self.links).contains_key(socket) {
            return Ok(());
        }
        let linked = (|| {
            // A thread of ours is only told; the listener is the kernel's.
            let listener = sys::file::duplicate(self.listener, 0)?;
            let (link, _) = ask(socket, wire::ASK_TRAP, 0)?;
            net::send_file(link.raw(), b".", &listener)?;
            answer(&link)?;
            Ok(link)
        })();
        let done = linked.map(|link| {
            // SAFETY: just connected, nobody else has it.
            self.add(socket.to_owned(), unsafe { OwnedFd::from_raw_fd(link.leak()) });
        });
        if done.is_err() {
            let mut unserved = lock(&self.unserved);
            if unserved.len() >= REMEMBERED {
                unserved.clear();
            }
            unserved.insert(socket.to_owned(), Instant::now());
        }
        done.map_err(|_: Errno| Errno::ENOSYS)
    }

    /// Hands a question on where it belongs.
    ///
    /// # Errors
    /// If whoever should answer is no more.
    pub(crate) fn hand_on(&self, asked: &Notification) -> nix::Result<Handed> {
        let socket = match self.way_of(asked.pid) {
            Way::To(socket) if socket == self.own => return Ok(Handed::Here),
            Way::To(socket) => socket,
            Way::Perhaps(socket) => return Ok(Handed::Later(socket)),
        };
        let link = lock(&self.links).get(&socket).cloned().ok_or(nix::Error::EPIPE)?;
        match link.send_as(asked, MsgFlags::MSG_DONTWAIT) {
            Err(nix::Error::EAGAIN) => Ok(Handed::Full(link)),
            sent => sent.map(|()| Handed::Over),
        }
    }

    /// A process leaves that namespace, which is another one than ours: returns when that is done.
    pub(crate) fn tell_leaving(&self, tgid: u32, socket: &Path) {
        let link = lock(&self.links).get(socket).cloned();
        // Where its broker is no more, nobody can know.
        let _ = link.map_or(Ok(()), |link| link.leave(tgid));
    }

    /// Where a thread's calls are made.
    pub(crate) fn way(&self, tid: u32) -> PathBuf {
        match self.way_of(tid) {
            Way::To(socket) => socket,
            Way::Perhaps(_) => self.own.clone(),
        }
    }

    /// Whether it is here.
    pub(crate) fn is_own(&self, socket: &Path) -> bool {
        socket == self.own
    }

    fn way_of(&self, tid: u32) -> Way {
        let now = Instant::now();
        if let Some(known) = lock(&self.known).get(&tid)
            && now.duration_since(known.looked) < FRESH
        {
            return Way::To(known.way.clone());
        }
        let Ok(meta) = fs::metadata(format!("/proc/{tid}")) else { return Way::To(self.own.clone()) };
        if let Some(known) = lock(&self.known).get_mut(&tid)
            && known.holds(meta.ino(), now)
        {
            known.looked = now;
            return Way::To(known.way.clone());
        }
        // Before it is read.
        let environment = File::open(format!("/proc/{tid}/environ")).ok().filter(is_in_use);
        let (way, until) = self.find(tid);
        if let Way::To(way) = &way {
            let mut known = lock(&self.known);
            if known.len() >= REMEMBERED {
                known.clear();
            }
            let environment = environment.filter(|_| known.len() < ENVIRONMENTS);
            known.insert(tid, Known { ino: meta.ino(), looked: now, way: way.clone(), until, environment });
        }
        way
    }

    /// Where a thread is, and until when, if that is not to last.
    fn find(&self, tid: u32) -> (Way, Option<Instant>) {
        let links = lock(&self.links);
        let moved = lock(&self.moved);
        let (mut named, mut until) = (None, None);
        let mut pid = tid;
        for _ in 0..GENERATIONS {
            let Ok(status) = Status::of(pid) else { break };
            if named.is_none() {
                match socket_of(pid) {
                    Some(socket) if socket == self.own || links.contains_key(&socket) => named = Some(socket),
                    Some(socket) => match lock(&self.unserved).get(&socket).map(|tried| *tried + UNSERVED) {
                        Some(again) if Instant::now() < again => until = Some(again),
                        _ => return (Way::Perhaps(socket), None),
                    },
                    None => {}
                }
            }
            let process = status.number("Tgid").and_then(|tgid| moved.get(&tgid));
            if let Some(process) = process.filter(|process| !has_ended(&process.pidfd)) {
                let is_newer = named.as_ref().is_some_and(|named| pid != tid && !process.was.contains(named));
                return (Way::To(named.filter(|_| is_newer).unwrap_or_else(|| process.to.clone())), until);
            }
            match status.number("PPid").filter(|parent| *parent > 1) {
                Some(parent) if named.is_none() || !moved.is_empty() => pid = parent,
                _ => break,
            }
        }
        (Way::To(named.unwrap_or_else(|| self.own.clone())), until)
    }

    // ---- going elsewhere

    /// A new namespace, made in that of a thread.
    ///
    /// # Errors
    /// The broker's: `ENOSPC ENOMEM`; `ENOSYS` if there is none.
    pub(crate) fn new_space(&self, tid: u32) -> Result<Space> {
        let (_, made) = ask(&self.way(tid), wire::ASK_NEW_NAMESPACE, 0)?;
        self.space_of_socket(made.ok_or(Errno::EMFILE)?)
    }

    /// The namespace that a connection to its broker stands for.
    ///
    /// # Errors
    /// `EINVAL` if it is none, or another user's; `ENOSYS` if it is served no more.
    pub(crate) fn space_of_socket(&self, kept: Fd) -> Result<Space> {
        // SAFETY: open as long as `kept`.
        check_peer(unsafe { BorrowedFd::borrow_raw(kept.raw()) }).map_err(|_| Errno::EINVAL)?;
        let socket = path_of(&kept).ok_or(Errno::EINVAL)?;
        self.link(&socket)?;
        Ok(Space { socket, kept })
    }

    /// The namespace that a process is in.
    ///
    /// # Errors
    /// `ESRCH` if it is in none of ours.
    pub(crate) fn space_of_process(&self, pid: u32) -> Result<Space> {
        let moved = lock(&self.moved).get(&pid).map(|process| process.to.clone());
        match moved {
            Some(socket) => ask(&socket, wire::ASK_LEASE, 0).map(|(kept, _)| Space { socket, kept }),
            None => {
                let (_, found) = ask(&self.own, wire::ASK_NAMESPACE_OF, pid)?;
                self.space_of_socket(found.ok_or(Errno::EMFILE)?)
            }
        }
    }

    /// A process is in that namespace from now on, which it comes to from that of a thread's: its own, or its parent's.
    /// Its memory is its own only if it is told whether it is still there.
    pub(crate) fn enter(&self, tgid: u32, from: u32, space: Space, is_there: Option<&dyn Fn() -> bool>) {
        let was = [Some(self.way(from)), socket_of(tgid)].into_iter().flatten();
        let earlier = lock(&self.moved).get(&from).map_or_else(Vec::new, |process| process.was.clone());
        let was: Vec<PathBuf> = was.chain(earlier).collect();
        // Those of before stay where they are.
        for child in children(tgid).filter(|_| tgid == from) {
            let is_known = lock(&self.moved).contains_key(&child);
            if !is_known && let Way::To(socket) = self.way_of(child) {
                self.note(child, socket, Vec::new(), None);
            }
        }
        if let Some(is_there) = is_there {
            rename(tgid, &space.socket, is_there);
        }
        self.note(tgid, space.socket, was, Some(space.kept));
    }

    /// See [`crate::elsewhere`].
    pub(crate) fn elsewhere(&self, pid: u32, again: bool) -> Option<OwnedFd> {
        if lock(&self.moved).is_empty() {
            return None;
        }
        let (Way::To(socket), _) = self.find(pid) else { return None };
        if socket == self.own {
            return None;
        }
        if again {
            self.note(pid, self.own.clone(), Vec::new(), None);
            return None;
        }
        let moved = lock(&self.moved);
        let kept =
            moved.values().find_map(|process| process.kept.as_ref().filter(|_| process.to == socket))?;
        let kept = sys::file::duplicate(kept.raw(), 0).ok()?;
        // SAFETY: a new descriptor of ours.
        Some(unsafe { OwnedFd::from_raw_fd(kept.leak()) })
    }

    fn note(&self, tgid: u32, to: PathBuf, was: Vec<PathBuf>, kept: Option<Fd>) {
        let Ok(pidfd) = pidfd_open(tgid) else { return };
        let event = EpollEvent::new(EpollFlags::EPOLLIN, MOVED | u64::from(tgid));
        // Without it, the end is noted when somebody else ends.
        let _ = self.watch.add(&pidfd, event);
        lock(&self.moved).insert(tgid, Moved { pidfd, to, was, kept });
        lock(&self.known).clear();
    }

    /// Forgets those that have gone elsewhere and have ended.
    pub(crate) fn forget_ended(&self) {
        lock(&self.moved).retain(|_, process| !has_ended(&process.pidfd));
    }
}

/// Whether the other end of a connection is closed.
fn is_over(link: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(link.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// The processes that a process has started, as far as they are its children.
pub(crate) fn children(tgid: u32) -> impl Iterator<Item = u32> {
    let tasks = fs::read_dir(format!("/proc/{tgid}/task")).into_iter().flatten().flatten();
    let texts = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let of =
        |text: String| text.split_ascii_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>();
    texts.flat_map(of)
}

/// Sees that it is our user who listens at, or has connected from, the other end. Programs name any socket, and who has the listener answers for all of them.
fn check_peer(link: BorrowedFd<'_>) -> nix::Result<()> {
    let peer = getsockopt(&link, sockopt::PeerCredentials)?;
    if peer.uid() == geteuid().as_raw() { Ok(()) } else { Err(nix::Error::EACCES) }
}

/// Asks the broker at that socket, which is our user's; returns the connection, and what came with the answer.
fn ask(socket: &Path, which: u32, argument: u32) -> Result<(Fd, Option<Fd>)> {
    let connected = (|| {
        let link = seqpacket()?;
        let patience = TimeVal::microseconds(PATIENCE_US);
        // It counts for connecting: somebody may listen there who takes nobody.
        setsockopt(&link, sockopt::SendTimeout, &patience)?;
        setsockopt(&link, sockopt::ReceiveTimeout, &patience)?;
        connect(link.as_raw_fd(), &UnixAddr::new(socket)?)?;
        check_peer(link.as_fd())?;
        setsockopt(&link, sockopt::SendTimeout, &TimeVal::microseconds(0))?;
        Ok(Fd::new(link.into_raw_fd()))
    })();
    let link = connected.map_err(|_: nix::Error| Errno::ENOSYS)?;
    net::send(&link, &wire::encode([wire::MAGIC, which, argument, 0])).map_err(|_| Errno::ENOSYS)?;
    let file = answer(&link)?;
    Ok((link, file))
}

/// Waits for an answer.
fn answer(link: &Fd) -> Result<Option<Fd>> {
    let mut bytes = [0; wire::ANSWER];
    let file = net::receive(link, &mut bytes).map_err(|_| Errno::ENOSYS)?;
    match wire::decode(&bytes) {
        [wire::MAGIC, 0, ..] => Ok(file),
        [wire::MAGIC, error, ..] => Err(Errno::from_raw(error.cast_signed())),
        _ => Err(Errno::ENOSYS),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The socket of the namespace that a program was started in.
pub(crate) fn socket_of(pid: u32) -> Option<PathBuf> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mut variables = environment.split(|byte| *byte == 0);
    let value =
        variables.find_map(|variable| variable.strip_prefix(SOCKET_ENV.as_bytes())?.strip_prefix(b"="))?;
    Some(std::ffi::OsStr::from_bytes(value).into())
}

/// Where those inside are waited for.
///
/// # Errors
/// Of sockets.
pub(crate) fn wait_at(address: &str) -> nix::Result<OwnedFd> {
    let at = seqpacket()?;
    bind(at.as_raw_fd(), &UnixAddr::new_abstract(address.as_bytes())?)?;
    listen(&at, Backlog::new(16)?)?;
    Ok(at)
}
