//! The namespace service: the arena's file, the socket at which clients ask for it, and what is left when they die.
//!
//! What users see: a namespace that appears with `run` and is gone after its last process.
//! What is missing: a broker of `run` that is killed is not replaced.
//!
//! What changes the arena happens in the thread that calls [`Service::dispatch`], but for the calls of strangers, which have threads of their
//! own (`strangers.rs`). Two more threads only pass things on:
//! one waits for the arena's doorbell, one takes questions at the socket. That one answers by itself whoever asks for
//! the arena's file or a segment's: the former may hold a lock that the first thread waits for.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, atomic::AtomicBool};
use std::time::{Duration, Instant};

use abi::Errno;
use arena::{Handle, ProcSlot, sync::Ordering::*};
use client::wire;
use engine::{IpcNamespace, Limit, ipc_sysctl::Sysctl, mqueue, namespace, reap, shm};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect, listen, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::caller::Link;
use crate::door::{Door, Question, Questions, reply, small};
use crate::left;
use crate::offshoot;
use crate::place::{self, Place};
pub use crate::place::{check_name, places};
use crate::quota::{self, Connection, locked};
use crate::segments::{self, Look};
use crate::serve::Activation;
use crate::stopped;
use crate::store::{Files, Store};
use crate::strangers::{self, Home, Peer, Who};
use crate::supervise::os;

/// Size of the arena's file: all that offsets can name. It is sparse.
const FILE_SIZE: i64 = 64 << 30;
/// After how long free memory goes back to the system.
const TRIM_AFTER: Duration = Duration::from_millis(200);
/// After how long what may be over is looked at, and how often what is removed and still mapped.
const LOOK_AFTER: Duration = Duration::from_millis(10);
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How often what has come to be of locked memory is looked for: more and more seldom while there is nothing.
const LOCK_AGAIN: Duration = Duration::from_millis(200);
const LOCK_SELDOM: Duration = Duration::from_secs(10);
/// After how long a store that has ended is replaced: one that can't live is not begun all the time.
const STORE_AFTER: Duration = Duration::from_millis(100);
/// Questions that are answered before something else is looked at.
const AT_ONCE: usize = 64;
/// How long it is waited for the end of a broker that was killed.
const PATIENCE: Duration = Duration::from_secs(5);
// What the events of the epoll are of: numbers of descriptors, but for these.
const LISTENER: u64 = 0;
const DOORBELL: u64 = 1;
const STORE: u64 = 2;
/// A question of our own: somebody who made calls for a stranger has come to the end. No client's, as those are checked at the door.
const STRANGER_IS_DONE: u32 = u32::MAX;
/// Tells the first thread what a stranger that was forked says of itself.
pub(crate) const STRANGER_HAS_FORKED: u32 = u32::MAX - 1;
/// And what of that was seen to be true.
const STRANGER_HAS_INHERITED: u32 = u32::MAX - 2;

/// Why a namespace can't be made or joined.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such limit.
    #[error("there is no sysctl '{0}' in a namespace; there are: {known}", known = known_sysctls())]
    UnknownSysctl(String),
    /// The value is no number, or out of range.
    #[error("sysctl {0} can't be '{1}': it takes {2}")]
    BadValue(String, String, String),
    /// The value can't be set, though it is right.
    #[error("sysctl {0} can't be set: {1}")]
    Sysctl(String, Errno),
    /// The name can't be one.
    #[error(
        "'{0}' can't name a namespace: use letters, digits, '-', '_' and '.', at most 32, not beginning with '.'"
    )]
    BadName(String),
    /// The directory of namespaces is not ours.
    #[error("{p} does not belong to this user, or others can write to it: remove it, or set XDG_RUNTIME_DIR", p = .0.display())]
    ForeignDirectory(PathBuf),
    /// A file can't be made.
    #[error("{p}: {1}", p = .0.display())]
    File(PathBuf, io::Error),
    /// The arena can't be made.
    #[error("no memory for the namespace: {0}")]
    Arena(Errno),
    /// The arena's file would be larger than a file may be.
    #[error(
        "a file may have {0} bytes only (RLIMIT_FSIZE, 'ulimit -f'), and that of a namespace has {FILE_SIZE}, most of which are never used: raise the limit"
    )]
    FileSize(u64),
    /// Its broker speaks another protocol.
    #[error("{p} belongs to another version of ipcspace", p = .0.display())]
    OtherVersion(PathBuf),
    /// What is there is not a broker's.
    #[error("{p} is no socket of ipcspace's: remove it", p = .0.display())]
    ForeignSocket(PathBuf),
    /// Its broker is in another user or PID namespace, or ours is another one to it.
    #[error("{p} is served in another user or PID namespace, where this one is not known", p = .0.display())]
    Elsewhere(PathBuf),
    /// Its broker was killed.
    #[error("nobody serves the namespace at {p} any more: its broker has ended", p = .0.display())]
    Unserved(PathBuf),
    /// There is one of that name.
    #[error(
        "another ipcspace is making or leaving the namespace, and does not come to an end; is it stopped?"
    )]
    Taken,
    /// Somebody listens there, and says nothing.
    #[error("nobody answers at {p}: if its server was killed, 'ipcspace serve' goes on with it within a minute", p = .0.display())]
    NoAnswer(PathBuf),
    /// It ends with its last process.
    #[error(
        "the namespace '{0}' is not kept by 'serve': it ends with its last process; 'ipcspace rm -N {0} --all' removes what is in it"
    )]
    NotServed(String),
    /// The sockets that a supervisor passed on are not those of a namespace.
    #[error(
        "a supervisor's sockets must be two of type SOCK_SEQPACKET, at PATH and PATH{given}, and there are others", given = wire::GIVEN
    )]
    BadActivation,
    /// Others are at work there and do not come to an end.
    #[error("{p} has been locked by another ipcspace for seconds; is one stopped? 'fuser {p}' names it", p = .0.display())]
    Busy(PathBuf),
    /// The system refused something basic.
    #[error(transparent)]
    System(#[from] nix::Error),
}

impl Error {
    /// The error number that says about the same.
    pub fn errno(&self) -> Errno {
        let raw = |raw: Option<i32>| raw.map_or(Errno::EINVAL, Errno::from_raw);
        match self {
            Error::UnknownSysctl(_) | Error::BadValue(..) | Error::BadName(_) | Error::BadActivation => {
                Errno::EINVAL
            }
            Error::Sysctl(_, errno) | Error::Arena(errno) => *errno,
            Error::FileSize(_) => Errno::EFBIG,
            Error::ForeignDirectory(_) => Errno::EPERM,
            Error::Elsewhere(_) => Errno::EACCES,
            Error::File(_, error) => raw(error.raw_os_error()),
            Error::OtherVersion(_) | Error::ForeignSocket(_) => Errno::EPROTO,
            Error::NoAnswer(_) => Errno::ETIMEDOUT,
            Error::Unserved(_) => Errno::ECONNRESET,
            Error::Taken => Errno::EEXIST,
            Error::NotServed(_) | Error::Busy(_) => Errno::EBUSY,
            Error::System(error) => raw(Some(*error as i32)),
        }
    }
}

fn known_sysctls() -> String {
    Sysctl::all().map(Sysctl::name).collect::<Vec<_>>().join(", ")
}

/// Sets a limit of a namespace that nobody uses yet.
fn set_sysctl(key: &str, value: &str) -> Result<(), Error> {
    let sysctl =
        Sysctl::all().find(|s| s.name() == key).ok_or_else(|| Error::UnknownSysctl(key.to_owned()))?;
    let written = client::with(|ctx| sysctl.write(ctx, value.as_bytes(), 0));
    match written {
        Ok(1..) => Ok(()),
        // To write nothing changes nothing, which nobody asks for.
        Ok(0) | Err(Errno::EINVAL | Errno::ERANGE) => {
            let ranges = sysctl.ranges().map(|(least, most)| format!("{least} to {most}"));
            let takes = ranges.collect::<Vec<_>>().join(", then ");
            Err(Error::BadValue(key.to_owned(), value.to_owned(), takes))
        }
        Err(errno) => Err(Error::Sysctl(key.to_owned(), errno)),
    }
}

// Names of what is stored; those of segments' memory are in `segments.rs`.
const LOCK: &str = "lock";
const ASKED: &str = "asked";
const GIVEN: &str = "given";
const ARENA: &str = "arena-";

/// The arena's name: nobody goes on with one of another layout.
fn arena_name() -> String {
    format!("{ARENA}{:08x}", wire::MAGIC)
}

/// Whether an arena is among them, of whatever version.
pub(crate) fn has_arena(files: &Files) -> bool {
    files.keys().any(|name| name.starts_with(ARENA))
}

/// Whether what a supervisor has passed on under that name was stored by us.
pub(crate) fn is_stored(name: &str) -> bool {
    [LOCK, ASKED, GIVEN].contains(&name) || name.starts_with(ARENA) || segments::is_stored(name)
}

/// Waits until a broker that was killed is gone, so that none of its threads is taken for a living one.
fn wait_for_end(broker: u32) {
    let begun = Instant::now();
    while broker != std::process::id() && !sys::has_ended(broker) && begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(1));
    }
}

struct Client {
    pid: i32,
    start: u64,
    process: Handle,
    pidfd: OwnedFd,
    /// Whether it was given the arena since its threads were ended last, so that they may have slots in it.
    maps: bool,
    /// Of a stranger: those who make its calls.
    peer: Option<Arc<Peer>>,
}

impl Client {
    fn has_ended(&self) -> bool {
        trap::process::has_ended(&self.pidfd)
    }
}

/// A namespace that this process serves.
pub struct Service {
    file: OwnedFd,
    place: Place,
    owner: u32,
    epoll: Epoll,
    listener: OwnedFd,
    /// Rings when the door has a question for us, or the namespace does; once the door is open.
    bell: Option<Arc<EventFd>>,
    /// Whether all questions can be answered.
    begun: Arc<AtomicBool>,
    questions: Questions,
    clients: HashMap<RawFd, Client>,
    leases: HashMap<RawFd, Link>,
    trim_at: Option<Instant>,
    look_at: Option<Instant>,
    lock_at: Option<Instant>,
    lock_after: Duration,
    store_at: Option<Instant>,
    /// Whether it lives, with clients or without, until it is told to end.
    is_served: bool,
    /// How many namespaces it was made within, one in the other.
    depth: u32,
    /// See [`Service::admit_only_kin`].
    root: Option<u32>,
    /// Where the descriptors lie that the next broker needs, if it is to have one.
    store: Option<Arc<Store>>,
    /// Who told it to end: their connections end when all is over, so they come last.
    enders: Vec<Link>,
    /// What those who make strangers' calls need to know of us, once there was one.
    home: Option<Arc<Home>>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service")
            .field("socket", &self.place.socket())
            .field("clients", &self.clients.len())
            .finish()
    }
}

fn seqpacket() -> nix::Result<OwnedFd> {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
}

/// Asks the broker at that socket, and returns the connection; `None` if nobody serves there.
pub(crate) fn ask(
    path: &Path,
    which: u32,
    args: [u32; 2],
    answer: &mut [u8],
) -> Result<Option<OwnedFd>, Error> {
    // Where it has ended before it had read the question, another one may have taken its place.
    const TRIES: usize = 10;
    for _ in 0..TRIES {
        match ask_once(path, which, args, answer) {
            Err(Error::System(nix::Error::ECONNRESET | nix::Error::EPIPE)) => {}
            // It is about to begin, or has just ended.
            Err(Error::System(nix::Error::ECONNREFUSED | nix::Error::ENOENT)) => break,
            done => return done.map(Some),
        }
    }
    Ok(None)
}

fn ask_once(path: &Path, which: u32, [low, high]: [u32; 2], answer: &mut [u8]) -> Result<OwnedFd, Error> {
    let link = seqpacket()?;
    // One that is stopped must not stop us.
    setsockopt(&link, sockopt::ReceiveTimeout, &TimeVal::seconds(5))?;
    match connect(link.as_raw_fd(), &UnixAddr::new(path)?) {
        Err(nix::Error::EPROTOTYPE) => return Err(Error::ForeignSocket(path.into())),
        connected => connected?,
    }
    let question = wire::encode([wire::MAGIC, which, low, high]);
    send(link.as_raw_fd(), &question, MsgFlags::MSG_NOSIGNAL)?;
    let answered = recv(link.as_raw_fd(), answer, MsgFlags::empty());
    let head = answer.first_chunk::<{ wire::ANSWER }>().map_or([0; 4], wire::decode);
    match (answered, head) {
        (Ok(0), _) => Err(nix::Error::ECONNRESET.into()),
        (Ok(length), [wire::MAGIC, 0, ..]) if length == answer.len() => Ok(link),
        (Ok(wire::ANSWER..), [wire::MAGIC, error, ..]) if error != 0 => {
            Err(nix::Error::from_raw(error.cast_signed()).into())
        }
        (Ok(_), _) => Err(Error::OtherVersion(path.into())),
        (Err(nix::Error::EAGAIN), _) => Err(Error::NoAnswer(path.into())),
        (Err(error), _) => Err(error.into()),
    }
}

/// Whether nobody listens at the socket there.
pub(crate) fn is_refused(path: &Path) -> bool {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let link = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None);
    let connected = link.and_then(|link| connect(link.as_raw_fd(), &UnixAddr::new(path)?));
    matches!(connected, Err(nix::Error::ECONNREFUSED | nix::Error::ENOENT))
}

fn environment(socket: &Path) -> Vec<(String, String)> {
    vec![(wire::SOCKET_ENV.to_owned(), socket.to_string_lossy().into_owned())]
}

impl Service {
    /// Makes a namespace, named or not, and applies limits to it.
    ///
    /// # Errors
    /// See [`Error`]; nothing is left behind.
    pub fn create(name: Option<&str>, sysctls: &[(String, String)]) -> Result<Service, Error> {
        // First, so that a name that is taken costs nothing.
        Service::begin(Place::make(name)?, None, sysctls)
    }

    /// Makes a namespace that lives until it is told to end, at a supervisor's sockets or at its own.
    ///
    /// # Errors
    /// See [`Error`].
    pub(crate) fn served(
        name: &str,
        sockets: Option<Activation>,
        sysctls: &[(String, String)],
    ) -> Result<Service, Error> {
        let place = match &sockets {
            Some(sockets) => Place::of_socket(&sockets.path)?,
            None => Place::make(Some(name))?,
        };
        let store = Store::begin(&place::store_beside(&place.socket()))?;
        let mut service = Service::begin(place, sockets, sysctls)?;
        service.is_served = true;
        service.keep_all_in(store)?;
        Ok(service)
    }

    /// Goes on with a namespace that was served by a process which was killed, and which has left these files.
    ///
    /// # Errors
    /// `OtherVersion`; see [`Error`].
    pub(crate) fn succeed(
        socket: &Path,
        sockets: Option<Activation>,
        store: Store,
        mut files: Files,
    ) -> Result<Service, Error> {
        for (name, file) in &files {
            // Where it is kept already, nothing changes.
            store.keep(name, file);
        }
        let lost = || Error::OtherVersion(socket.into());
        let file = files.remove(&arena_name()).ok_or_else(lost)?;
        let place = Place::again(socket, sockets.is_none(), files.remove(LOCK).ok_or_else(lost)?.into())?;
        let (listener, given) = match sockets {
            Some(sockets) => (sockets.asked, sockets.given),
            None => (files.remove(ASKED).ok_or_else(lost)?, files.remove(GIVEN).ok_or_else(lost)?),
        };
        let owner = nix::unistd::geteuid().as_raw();
        let mut service = Service::new(file, place, owner, listener)?;
        // Before anything is put right: a client may hold a lock that this takes, and ask for the arena's file meanwhile.
        service.open_door().map_err(|error| Error::File(socket.into(), error))?;
        client::help_stalled_by(stopped::release_locks);
        client::succeed(service.file.as_raw_fd(), wait_for_end, left::note).map_err(Error::Arena)?;
        segments::begin(given, owner);
        client::use_socket(socket.as_os_str().as_bytes()).map_err(Error::Arena)?;
        let has_locked = segments::hold_again(files);
        service.is_served = true;
        service.keep_in(store)?;
        service.know_clients()?;
        let now = Instant::now();
        service.trim_at = Some(now + TRIM_AFTER);
        service.look_at = Some(now);
        service.lock_at = has_locked.then_some(now);
        Ok(service)
    }

    /// From now on, what the next broker needs is kept there, where all is already that it needs now.
    fn keep_in(&mut self, store: Store) -> Result<(), Error> {
        self.epoll.add(store.fd(), EpollEvent::new(EpollFlags::EPOLLIN, STORE))?;
        let store = Arc::new(store);
        segments::keep_in(store.clone());
        self.store = Some(store);
        Ok(())
    }

    /// As [`Service::keep_in`], where nothing is yet.
    fn keep_all_in(&mut self, store: Store) -> Result<(), Error> {
        store.keep(LOCK, self.place.lock());
        if self.place.is_ours() {
            store.keep(ASKED, &self.listener);
            store.keep(GIVEN, &segments::listener().ok_or(nix::Error::EBADF)?);
        }
        store.keep(&arena_name(), &self.file);
        self.keep_in(store)?;
        segments::keep_all();
        Ok(())
    }

    /// The store has ended, by somebody's mistake or for lack of memory.
    fn replace_store(&mut self) {
        let begun = Store::begin(&place::store_beside(&self.place.socket()));
        if begun.and_then(|store| self.keep_all_in(store)).is_err() {
            self.store_at = Some(Instant::now() + STORE_AFTER);
        }
    }

    /// Knows the processes that the namespace has, and puts right what those have left that ended while nobody was there.
    fn know_clients(&mut self) -> Result<(), Error> {
        let slots = client::with(|ctx| {
            let slots = ctx.processes().map_err(engine::util::arena_errno)?;
            let read = |slot: arena::Ref<'_, ProcSlot>| {
                let [pid, left] = [&slot.pid, &slot.left].map(|word| word.load(Relaxed));
                (slot.handle(), pid, slot.start.load(Relaxed), left != 0)
            };
            Ok(slots.map(read).collect::<Vec<_>>())
        });
        for (process, pid, start, has_left) in slots.map_err(Error::Arena)? {
            let pidfd = trap::process::pidfd_open(pid);
            match pidfd {
                Ok(pidfd) if trap::process::start_time(pid) == Some(start) => {
                    self.know(Client {
                        pid: pid.cast_signed(),
                        start,
                        process,
                        pidfd,
                        maps: true,
                        peer: None,
                    })
                    .map_err(Error::Arena)?;
                    if has_left {
                        segments::note_left(pid.cast_signed());
                    }
                }
                _ => {
                    left::forget(process);
                    let _ = client::with(|ctx| {
                        reap::reap_process(ctx, process);
                        Ok(())
                    });
                }
            }
        }
        Ok(())
    }

    fn know(&mut self, client: Client) -> Result<(), Errno> {
        let fd = client.pidfd.as_raw_fd();
        let event = EpollEvent::new(EpollFlags::EPOLLIN, fd.cast_unsigned().into());
        self.epoll.add(&client.pidfd, event).map_err(|_| Errno::ENOMEM)?;
        segments::note_client(client.pid, true);
        self.clients.insert(fd, client);
        Ok(())
    }

    fn begin(
        place: Place,
        sockets: Option<Activation>,
        sysctls: &[(String, String)],
    ) -> Result<Service, Error> {
        let owner = nix::unistd::geteuid().as_raw();
        let file = memfd_create("ipcspace", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        // It would end this process.
        let (most, hard) = getrlimit(Resource::RLIMIT_FSIZE)?;
        if hard < FILE_SIZE.cast_unsigned() {
            return Err(Error::FileSize(hard));
        }
        setrlimit(Resource::RLIMIT_FSIZE, hard, hard)?;
        nix::unistd::ftruncate(&file, FILE_SIZE)?;
        setrlimit(Resource::RLIMIT_FSIZE, most, hard)?;
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        nix::fcntl::fcntl(
            &file,
            nix::fcntl::FcntlArg::F_ADD_SEALS(nix::fcntl::SealFlag::from_bits_retain(seals)),
        )?;
        nix::sys::stat::fchmod(&file, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR)?;
        client::help_stalled_by(stopped::release_locks);
        client::found(file.as_raw_fd(), owner, in_initial_userns()).map_err(Error::Arena)?;
        for (key, value) in sysctls {
            set_sysctl(key, value)?;
        }
        let (listener, given) = match sockets {
            Some(sockets) => (Some(sockets.asked), sockets.given),
            None => {
                let path = place.given();
                (None, segments::listen_at(&path).map_err(|e| Error::File(path, e))?)
            }
        };
        segments::begin(given, owner);
        // What is made for strangers is given to the keeper as by everybody.
        client::use_socket(place.socket().as_os_str().as_bytes()).map_err(Error::Arena)?;
        // Last: who finds it can ask.
        let listener = listener.map_or_else(|| listen_at(&place.socket()), Ok)?;
        Service::new(file, place, owner, listener)
    }

    fn new(file: OwnedFd, place: Place, owner: u32, listener: OwnedFd) -> Result<Service, Error> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        Ok(Service {
            file,
            place,
            owner,
            epoll,
            listener,
            bell: None,
            begun: Arc::default(),
            questions: Questions::default(),
            clients: HashMap::new(),
            leases: HashMap::new(),
            trim_at: None,
            look_at: None,
            lock_at: None,
            lock_after: LOCK_AGAIN,
            store_at: None,
            is_served: false,
            root: None,
            depth: 0,
            store: None,
            enders: Vec::new(),
            home: None,
        })
    }

    /// As nobody comes into an IPC namespace of the kernel's but by its parent: of those that are not the owner's, only descendants of that process are let
    /// in. To be called before [`Service::start`].
    pub fn admit_only_kin(&mut self, root: u32) {
        self.root = Some(root);
    }

    /// It was made within so many others.
    pub(crate) fn set_depth(&mut self, depth: u32) {
        self.depth = depth;
    }

    /// Where it is asked.
    pub(crate) fn socket(&self) -> PathBuf {
        self.place.socket()
    }

    /// Whether somebody told it to end.
    pub(crate) fn is_told_to_end(&self) -> bool {
        !self.enders.is_empty()
    }

    /// Removes all that is in it, for good.
    pub(crate) fn end(mut self) {
        // First, so that nobody goes on with what is half gone.
        if let Some(store) = &self.store {
            store.end();
        }
        self.see_ends();
        let _ = client::with(namespace::free_ipc_ns);
        self.end_segments();
    }

    /// A lease on the namespace of that name, or `None` if there is none. What dead brokers left is cleaned away.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn join(name: &str) -> Result<Option<Lease>, Error> {
        place::sweep()?;
        match place::find(name)? {
            Some(path) => Service::lease(&path),
            None => Ok(None),
        }
    }

    /// A lease on the namespace whose broker is asked there, or `None` if nobody serves it.
    pub(crate) fn lease(path: &Path) -> Result<Option<Lease>, Error> {
        let link = ask(path, wire::ASK_LEASE, [0; 2], &mut [0; wire::ANSWER])?;
        Ok(link.map(|link| Lease { path: path.to_owned(), _link: link }))
    }

    /// All namespaces of this user: what each has, and who serves it. And what is wrong with places of others.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn list() -> Result<(Vec<Status>, Vec<Error>), Error> {
        place::sweep()?;
        let (mut list, mut wrong) = (Vec::new(), Vec::new());
        for (name, socket) in place::all()? {
            let mut answer = [0; wire::STATUS * size_of::<u32>()];
            match ask(&socket, wire::ASK_STATUS, [0; 2], &mut answer) {
                Ok(Some(_)) => list.push(Status::new(name, socket, &answer)),
                // What is there nobody can say.
                Ok(None) | Err(Error::NoAnswer(_)) => {}
                Err(Error::System(nix::Error::EACCES)) => wrong.push(Error::Elsewhere(socket)),
                Err(error) => wrong.push(error),
            }
        }
        Ok((list, wrong))
    }

    /// Ends the namespace of that name, which is served until it is told to end, and all that is in it; waits until that is done.
    /// False if there is none.
    ///
    /// # Errors
    /// `NotServed`; see [`Error`].
    pub fn remove(name: &str) -> Result<bool, Error> {
        place::sweep()?;
        let Some(path) = place::find(name)? else { return Ok(false) };
        let mut answer = [0; wire::ANSWER];
        match ask(&path, wire::ASK_END, [0; 2], &mut answer) {
            Ok(None) => return Ok(false),
            Ok(Some(link)) => {
                // Nothing comes but the end.
                let _ = recv(link.as_raw_fd(), &mut answer, MsgFlags::empty());
            }
            Err(Error::System(nix::Error::EBUSY)) => return Err(Error::NotServed(name.into())),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// What a program needs in its environment to be in this namespace.
    pub fn env(&self) -> Vec<(String, String)> {
        environment(&self.place.socket())
    }

    /// Readable when [`Service::dispatch`] has work.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// Handles all that is ready; returns when it wants to be called again at the latest.
    pub fn dispatch(&mut self) -> Option<Duration> {
        let mut events = [EpollEvent::empty(); 64];
        let ready = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        // Ends first: a question's answer may open a descriptor with the number of one that this batch closes.
        let (bells, ends): (Vec<u64>, Vec<u64>) = events[..ready]
            .iter()
            .map(EpollEvent::data)
            .filter(|d| *d != LISTENER)
            .partition(|d| [DOORBELL, STORE].contains(d));
        let ends: Vec<RawFd> = ends.into_iter().filter_map(|fd| fd.try_into().ok()).collect();
        for fd in ends {
            self.gone(fd);
        }
        if bells.contains(&DOORBELL) {
            self.answer_bell();
        }
        let now = Instant::now();
        if bells.contains(&STORE)
            && let Some(store) = &self.store
        {
            let _ = self.epoll.delete(store.fd());
            self.store_at = Some(now + STORE_AFTER);
        }
        if self.store_at.is_some_and(|at| at <= now) {
            self.store_at = None;
            self.replace_store();
        }
        if self.trim_at.is_some_and(|at| at <= now) {
            self.trim_at = None;
            let _ = client::with(|ctx| {
                IpcNamespace::of(ctx.arena, ctx.host)?.asks.fetch_and(!namespace::ASK_TRIM, AcqRel);
                ctx.trim().map_err(engine::util::arena_errno)
            });
        }
        if segments::must_look() {
            self.look_at.get_or_insert(now + LOOK_AFTER);
        }
        if self.look_at.is_some_and(|at| at <= now) {
            self.look_at = self.end_segments().then(|| now + LOOK_AGAIN);
        }
        if self.lock_at.is_some_and(|at| at <= now) {
            self.lock_at = segments::lock_more().map(|is_new| {
                self.lock_after = if is_new { LOCK_AGAIN } else { LOCK_SELDOM.min(self.lock_after * 2) };
                now + self.lock_after
            });
        }
        let due = [self.trim_at, self.look_at, self.lock_at, self.store_at].into_iter().flatten().min();
        due.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Ends the segments and POSIX queues that are over, and lets their memory go. Whether some have to be looked at again.
    fn end_segments(&self) -> bool {
        let left = client::with(|ctx| {
            IpcNamespace::of(ctx.arena, ctx.host)?.asks.fetch_and(!namespace::ASK_SEGMENTS, AcqRel);
            // Each may be left when the other is over.
            let (segments, queues) = (shm::sweep(ctx), mqueue::settle_unlinked(ctx));
            Ok(segments? | queues?)
        });
        segments::release_unneeded();
        segments::must_look();
        left.unwrap_or(false)
    }

    /// Looks whether a client has ended.
    fn see_end(&mut self, pid: i32) {
        let ended = self.clients.iter().find(|(_, c)| c.pid == pid && c.has_ended()).map(|(fd, _)| *fd);
        if let Some(fd) = ended {
            self.gone(fd);
        }
    }

    /// Looks for ends of clients, and of their programs by exec, that have not been handled yet.
    fn see_ends(&mut self) {
        let dead: Vec<RawFd> =
            self.clients.iter().filter(|(_, c)| c.has_ended()).map(|(fd, _)| *fd).collect();
        for fd in dead {
            self.gone(fd);
        }
        let _ = client::with(|ctx| {
            // So it is also where only a thread has ended: what is mapped tells.
            // Of a stranger, who may have made that a long look, it is seen when its segment is counted or swept.
            let is_marked = |c: &&Client| {
                c.peer.is_none() && ctx.at::<ProcSlot>(c.process).is_ok_and(|slot| slot.marked())
            };
            for client in self.clients.values().filter(is_marked) {
                let ids: Vec<i32> = shm::attached(ctx, client.process).collect();
                // One look for all of them.
                let Some(mapped) = ids.first().and_then(|_| segments::mapped(client.pid, Look::AtOnce))
                else {
                    continue;
                };
                for id in ids {
                    let memory = shm::memory_of(ctx, id);
                    if memory.is_ok_and(|memory| !mapped.contains_key(&memory)) {
                        shm::detached_unseen(ctx, client.process, id);
                    }
                }
            }
            Ok(())
        });
    }

    /// Counts the mappings of a segment. A client that had some and has none any more has detached it.
    fn count(&mut self, id: i32) -> Result<(u64, u64), Errno> {
        self.see_ends();
        let counting = client::with(|ctx| shm::begin_count(ctx, id))?;
        let counts = segments::count(counting.memory);
        let mut total = counts.values().sum();
        let trapped = trap::processes();
        let is_known = |pid: &i32| {
            trapped.contains_key(&pid.cast_unsigned()) || self.clients.values().any(|c| c.pid == *pid)
        };
        // A child that has not come to tell of itself yet: its end is to be noted too.
        for pid in counts.keys().copied().filter(|pid| !is_known(pid)).collect::<Vec<_>>() {
            if let Ok(process) = self.attach(pid, true, false) {
                let _ = client::with(|ctx| {
                    shm::found_attached(ctx, process, id);
                    Ok(())
                });
            }
        }
        client::with(|ctx| {
            // A stranger that has ended is among them until its last call is over.
            let clients = self.clients.values().map(|c| (c.pid, c.process, c.has_ended()));
            let trapped = trapped.iter().map(|(pid, process)| (pid.cast_signed(), *process, false));
            for (pid, process, has_ended) in
                clients.chain(trapped).filter(|(pid, ..)| !counts.contains_key(pid))
            {
                if !has_ended && !segments::can_see(pid) {
                    // Another user's, or one that lets nobody see its memory: what it has told counts.
                    total += shm::attached_by(ctx, process, id);
                } else if shm::has_attached(ctx, process, id) {
                    shm::detached_unseen(ctx, process, id);
                }
            }
            shm::set_nattch(ctx, id, counting, total)
        })?;
        Ok((total, 0))
    }

    /// A process whose parent had segments attached.
    fn forked(&mut self, child_pid: i32, ids: &[i32], more: bool) {
        let child = self.attach(child_pid, true, false);
        let _ = client::with(|ctx| {
            match child {
                Ok(child) => shm::inherit(ctx, child, ids, more),
                Err(_) => shm::inherited_and_ended(ctx, ids, child_pid.cast_unsigned()),
            }
            Ok(())
        });
    }

    /// As [`Service::forked`], of a stranger: what it has is not believed, but seen, in its user's turn and by a thread that counts as a connection,
    /// as it may have made that a long look.
    fn stranger_forked(&self, said: Question) -> Result<(), Errno> {
        let Some(connection) = said.connection.filter(|_| self.may_come_in(said.pid)) else { return Ok(()) };
        let tell = self.teller()?;
        let (pid, ids, more) = (said.pid, said.rest, said.args[1] != 0);
        spawn("look", move || {
            be_last();
            let turn = connection.user.turn();
            let (ids, more) = seen_of(pid, ids, more);
            client::end_thread();
            drop(turn);
            if !ids.is_empty() {
                let which = STRANGER_HAS_INHERITED;
                // It counts until the first thread has noted it.
                let connection = Some(connection);
                tell(Question { which, args: [0, more.into()], rest: ids, connection, link: None, ..said });
            }
        })
        .map_err(|_| Errno::EAGAIN)
    }

    /// What tells the first thread something, for another one.
    fn teller(&self) -> Result<impl FnOnce(Question) + Send + 'static, Errno> {
        let bell = self.bell.clone().ok_or(Errno::EPROTO)?;
        let questions = self.questions.clone();
        Ok(move |question: Question| {
            locked(&questions).push(question.uid, question);
            ring(&bell);
        })
    }

    /// From now on it answers: to be called once, before it is dispatched, and not before a fork, which must not happen beside other threads.
    ///
    /// # Errors
    /// `File`: descriptors or threads can't be had.
    pub fn start(&mut self) -> Result<(), Error> {
        self.start_threads().map_err(|error| Error::File(self.place.socket(), error))?;
        // Somebody may have rung for a broker that was killed.
        self.answer_bell();
        Ok(())
    }

    fn start_threads(&mut self) -> io::Result<()> {
        self.open_door()?;
        let Some(bell) = self.bell.clone() else { return Ok(()) };
        spawn("doorbell", move || {
            let mut seen = 0;
            loop {
                let now = client::wait_doorbell(seen);
                if now != seen {
                    seen = now;
                    ring(&bell);
                }
            }
        })?;
        self.begun.store(true, Release);
        Ok(())
    }

    /// From now on who asks for the arena's file has it; other questions are answered once all has begun.
    fn open_door(&mut self) -> io::Result<()> {
        if self.bell.is_some() {
            return Ok(());
        }
        sys::thread::be_prompt();
        raise_limits();
        let bell = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let copy = bell.clone();
        let door = Door::new(
            self.listener.try_clone()?,
            self.file.try_clone()?,
            self.owner,
            self.begun.clone(),
            self.questions.clone(),
        )?;
        spawn("door", move || door.run(|| ring(&copy)))?;
        let _ = self.epoll.delete(&self.listener);
        self.epoll.add(&*bell, EpollEvent::new(EpollFlags::EPOLLIN, DOORBELL))?;
        self.bell = Some(bell);
        Ok(())
    }

    fn answer_bell(&mut self) {
        if let Some(bell) = &self.bell {
            let _ = bell.read();
        }
        for _ in 0..AT_ONCE {
            let Some(question) = locked(&self.questions).pop() else { break };
            if question.which == STRANGER_HAS_FORKED {
                let _ = self.stranger_forked(question);
                continue;
            }
            let Question { link, which, args, rest, pid, uid, connection } = question;
            if which == STRANGER_IS_DONE {
                self.see_end(pid);
                continue;
            }
            if which == wire::TELL_FORKED {
                self.forked(pid, &rest, args[1] != 0);
                continue;
            }
            if which == STRANGER_HAS_INHERITED {
                if self.know_stranger(pid, uid, true).is_ok() {
                    self.forked(pid, &rest, args[1] != 0);
                }
                continue;
            }
            let Some(link) = link else { continue };
            match which {
                wire::ASK_STATUS => {
                    self.tell_status(&link);
                    continue;
                }
                wire::ASK_CALLS => {
                    if args[1] != 0 && !self.may_come_in(pid) {
                        reply(&link, Err(Errno::EACCES), None);
                    } else if let Some(connection) = connection {
                        self.serve_stranger(link, args[0] != 0, pid, uid, connection);
                    }
                    continue;
                }
                wire::ASK_NEW_NAMESPACE => {
                    let depth = self.depth + 1;
                    let root = self.root;
                    answer_later(link, move || offshoot::make(depth, root));
                    continue;
                }
                wire::ASK_NAMESPACE_OF => {
                    answer_later(link, move || offshoot::find(args[0].cast_signed()));
                    continue;
                }
                _ => {}
            }
            if which == wire::ASK_ATTACH
                && let Some(elsewhere) = trap::elsewhere(pid.cast_unsigned(), args[0] != 0)
            {
                reply(&link, Ok([0, 1]), Some(&elsewhere));
                continue;
            }
            let answer = self.answer(which, args, pid);
            reply(&link, answer, (which == wire::ASK_ATTACH).then_some(&self.file));
            match which {
                wire::ASK_LEASE if answer.is_ok() => self.keep(link),
                wire::ASK_END if answer.is_ok() => self.enders.push(link),
                _ => {}
            }
        }
        if locked(&self.questions).users() > 0
            && let Some(bell) = &self.bell
        {
            ring(bell);
        }
        // These stay until they are done, so that nobody rings for them again.
        let kept = namespace::ASK_SEGMENTS | namespace::ASK_TRIM;
        let asks =
            client::with(|ctx| Ok(IpcNamespace::of(ctx.arena, ctx.host)?.asks.fetch_and(kept, AcqRel)));
        let asks = asks.unwrap_or(0);
        if asks & namespace::ASK_TRIM != 0 && self.trim_at.is_none() {
            self.trim_at = Some(Instant::now() + TRIM_AFTER);
        }
        if asks & namespace::ASK_SEGMENTS != 0 {
            let soon = Instant::now() + LOOK_AFTER;
            self.look_at = Some(self.look_at.map_or(soon, |at| at.min(soon)));
        }
        if asks & namespace::ASK_STALLED != 0 {
            let _ = client::with(|ctx| {
                stopped::release_locks(ctx);
                Ok(())
            });
        }
    }

    fn keep(&mut self, link: Link) {
        let fd = link.as_raw_fd();
        let event = EpollEvent::new(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLIN, fd.cast_unsigned().into());
        if self.epoll.add(&*link, event).is_ok() {
            self.leases.insert(fd, link);
        }
    }

    fn answer(&mut self, which: u32, [arg, high]: [u32; 2], pid: i32) -> Result<[u32; 2], Errno> {
        match which {
            wire::ASK_LOCK | wire::ASK_UNLOCK => {
                segments::lock(u64::from(high) << 32 | u64::from(arg), which == wire::ASK_LOCK)?;
                self.lock_after = LOCK_AGAIN;
                self.lock_at = Some(Instant::now() + self.lock_after);
                Ok([0; 2])
            }
            wire::ASK_ATTACH => Ok([self.attach(pid, arg != 0, true)?.0, 0]),
            wire::ASK_COUNT => self.count(arg.cast_signed()).map(small),
            wire::ASK_USAGE => {
                self.see_ends();
                self.end_segments();
                Ok(small(segments::usage()))
            }
            wire::ASK_THREADS => {
                client::with(|ctx| ctx.add_thread_span().map_err(engine::util::arena_errno))?;
                Ok([0; 2])
            }
            wire::ASK_LEASE => Ok([0; 2]),
            wire::ASK_LEAVE => {
                self.leave(pid);
                Ok([0; 2])
            }
            wire::ASK_END if self.is_served => Ok([0; 2]),
            wire::ASK_END => Err(Errno::EBUSY),
            _ => Err(Errno::EPROTO),
        }
    }

    fn tell_status(&mut self, link: &Link) {
        self.see_ends();
        let objects = client::with(|ctx| {
            let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
            Ok([&ns.msg_ids, &ns.sem_ids, &ns.shm_ids].map(|ids| ids.in_use()))
        });
        let [queues, sets, segments] = objects.unwrap_or_default();
        let clients = u32::try_from(self.clients.len()).unwrap_or(u32::MAX);
        let (pid, is_served) = (std::process::id(), self.is_served.into());
        let words: [u32; wire::STATUS] = [wire::MAGIC, 0, queues, sets, segments, clients, pid, is_served];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let _ = send(link.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT);
    }

    /// The slot of a process. `same_program` says that what its memory is attached to is still true.
    fn attach(&mut self, pid: i32, same_program: bool, maps: bool) -> Result<Handle, Errno> {
        let pidfd = trap::process::pidfd_open(pid.cast_unsigned())?;
        let start = trap::process::start_time(pid.cast_unsigned()).ok_or(Errno::ESRCH)?;
        // A program after exec keeps its adjustments; what its threads had in their hands is gone.
        if let Some(known) = self.clients.values_mut().find(|c| c.pid == pid && c.start == start) {
            let process = known.process;
            let mapped = std::mem::replace(&mut known.maps, maps);
            client::with(|ctx| {
                // They are looked for among all slots: not for each connection of a stranger's.
                if mapped {
                    reap::end_threads(ctx, process);
                }
                reap::come_back(ctx, process)?;
                if !same_program {
                    shm::detach_all(ctx, process);
                    // Its descriptors of queues were closed by exec.
                    mqueue::exit_process(ctx, process)?;
                }
                Ok(())
            })?;
            // It may have been in another namespace meanwhile.
            segments::note_client(pid, true);
            return Ok(process);
        }
        // One of the same id that is not the same process has ended, whether or not its pidfd was read yet.
        if let Some(fd) = self.clients.iter().find(|(_, c)| c.pid == pid).map(|(fd, _)| *fd) {
            self.gone(fd);
        }
        let process = client::with(|ctx| {
            ctx.add_process(pid.cast_unsigned(), start).map_err(engine::util::arena_errno)
        })?;
        self.know(Client { pid, start, process, pidfd, maps, peer: None })?;
        Ok(process)
    }

    /// Makes the calls of a process over a connection. `again` says that its program has had one before.
    fn serve_stranger(&mut self, link: Link, again: bool, pid: i32, uid: u32, connection: Connection) {
        let link = Arc::new(link);
        let started = (|| {
            let (process, peer) = self.know_stranger(pid, uid, again)?;
            let home = self.home()?;
            let tell = self.teller()?;
            let done = move || {
                tell(Question {
                    link: None,
                    which: STRANGER_IS_DONE,
                    args: [0; 2],
                    rest: Vec::new(),
                    pid,
                    uid,
                    connection: None,
                });
            };
            strangers::serve(link.clone(), Who { pid, process, peer }, home, connection, done)
        })();
        if started == Err(Errno::EAGAIN) {
            quota::refused(pid, uid);
        }
        if let Err(error) = started {
            reply(&link, Err(error), None);
        }
    }

    fn home(&mut self) -> Result<Arc<Home>, Errno> {
        if self.home.is_none() {
            self.home = Some(Arc::new(Home {
                socket: self.place.socket(),
                owner: self.owner,
                initial_userns: in_initial_userns(),
                namespaces: namespaces("self").map_err(|_| Errno::EPERM)?,
            }));
        }
        self.home.clone().ok_or(Errno::EPERM)
    }

    fn know_stranger(&mut self, pid: i32, uid: u32, again: bool) -> Result<(Handle, Arc<Peer>), Errno> {
        self.check_processes(pid, uid)?;
        let process = self.attach(pid, again, false)?;
        let client = self.clients.values_mut().find(|c| c.process == process).ok_or(Errno::ESRCH)?;
        let peer = client.peer.get_or_insert_with(|| Arc::new(Peer::new(uid))).clone();
        client::with(|ctx| {
            ctx.at::<ProcSlot>(process).map_err(engine::util::arena_errno).map(|slot| slot.mark())
        })?;
        Ok((process, peer))
    }

    /// Whether a stranger is let in: see [`Service::admit_only_kin`]. Who is known has been.
    fn may_come_in(&self, pid: i32) -> bool {
        let is_known = || self.clients.values().any(|c| c.pid == pid && !c.has_ended());
        self.root.is_none_or(|root| is_known() || is_kin(pid, root))
    }

    /// Each process is known until it ends, connected or not: as many are as may be connected.
    fn check_processes(&self, pid: i32, uid: u32) -> Result<(), Errno> {
        let most = usize::try_from(client::limit(Limit::StrangerConnections)?).unwrap_or(0);
        // One that has ended may not have been seen to yet.
        let is_of_user = |c: &&Client| c.peer.as_ref().is_some_and(|peer| peer.uid == uid) && !c.has_ended();
        let is_known = self.clients.values().any(|c| c.pid == pid);
        if !is_known && self.clients.values().filter(is_of_user).count() >= most {
            return Err(Errno::EAGAIN);
        }
        Ok(())
    }

    /// A client has gone to another namespace.
    fn leave(&mut self, pid: i32) {
        let Some((fd, client)) = self.clients.iter().find(|(_, c)| c.pid == pid) else { return };
        let (fd, process) = (*fd, client.process);
        if client::with(|ctx| Ok(reap::leave_process(ctx, process))).unwrap_or(false) {
            segments::note_left(pid);
        } else {
            self.gone(fd);
        }
    }

    /// A client has ended, or a lease was given back.
    fn gone(&mut self, fd: RawFd) {
        if let Some(client) = self.clients.get(&fd)
            && let Some(peer) = &client.peer
        {
            // Its calls come to an end first; when they have, it is told.
            peer.end();
            if peer.is_busy() {
                let _ = self.epoll.delete(&client.pidfd);
                return;
            }
        }
        if let Some(link) = self.leases.remove(&fd) {
            let _ = self.epoll.delete(&*link);
        } else if let Some(client) = self.clients.remove(&fd) {
            let _ = self.epoll.delete(&client.pidfd);
            segments::note_client(client.pid, false);
            left::forget(client.process);
            let _ = client::with(|ctx| {
                reap::reap_process(ctx, client.process);
                Ok(())
            });
            self.trim_at.get_or_insert(Instant::now() + TRIM_AFTER);
            // It may have died in the middle of a removal, and so may others that were no clients.
            segments::look();
        }
    }

    /// A descendant has been reaped.
    pub fn reaped(&mut self, pid: i32) {
        if let Some(fd) = self.clients.iter().find(|(_, c)| c.pid == pid).map(|(fd, _)| *fd) {
            self.gone(fd);
        }
    }

    /// Who was the first to be refused, and why: once.
    pub fn refusal(&mut self) -> Option<String> {
        quota::refusal()
    }

    /// How many clients live.
    pub fn clients(&self) -> usize {
        self.clients.len() + self.leases.len()
    }
}

/// Lets others go before the calling thread.
fn be_last() {
    const NICE: i32 = 10;
    // SAFETY: numbers; zero is the thread itself.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}

/// Of what a forked process says to have attached, identifiers one for each mapping and perhaps more, what it is seen to have mapped.
fn seen_of(pid: i32, ids: Vec<i32>, more: bool) -> (Vec<i32>, bool) {
    let memory = |id: i32| client::with(|ctx| shm::memory_of(ctx, id)).ok();
    let told: Vec<(i32, u64)> = ids.into_iter().filter_map(|id| Some((id, memory(id)?))).collect();
    let mapped = if told.is_empty() { None } else { segments::mapped(pid, Look::AtLength) };
    let Some(mut mapped) = mapped else { return (Vec::new(), false) };
    let more = more && mapped.values().sum::<usize>() > wire::INHERITED;
    let has = |(id, memory): (i32, u64)| {
        let left = mapped.get_mut(&memory).filter(|left| **left > 0)?;
        *left -= 1;
        Some(id)
    };
    (told.into_iter().filter_map(has).collect(), more)
}

/// The memory of each segment is a descriptor of ours, and what is locked of it is locked by us.
pub(crate) fn raise_limits() {
    for resource in [Resource::RLIMIT_NOFILE, Resource::RLIMIT_MEMLOCK] {
        if let Ok((_, most)) = getrlimit(resource) {
            let _ = setrlimit(resource, most, most);
        }
    }
}

fn ring(bell: &EventFd) {
    let _ = bell.write(1);
}

pub(crate) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.into()).stack_size(128 << 10).spawn(run).map(drop)
}

/// Whether a process is in another PID namespace than ours, where thread ids mean others, or in another user namespace,
/// whose capabilities count for nothing here. One without an id for us is. Of one that hides itself (not dumpable, and the broker is not root) it
/// can't be known.
pub(crate) fn is_elsewhere(pid: i32, ours: [u64; 2]) -> bool {
    pid == 0 || namespaces(&pid.to_string()).is_ok_and(|theirs| theirs != ours)
}

/// Whether a process is a descendant of `root`, which reaps those whose parents have ended. Who has ended, or can't be seen, is none: its number may be somebody
/// else's in a moment.
fn is_kin(pid: i32, root: u32) -> bool {
    /// More has nobody but who wants us to be at it for long.
    const GENERATIONS: usize = 256;
    /// A parent that ends meanwhile leaves the way to another one.
    const TRIES: usize = 5;
    for _ in 0..TRIES {
        let mut last = pid;
        for _ in 0..GENERATIONS {
            if last.cast_unsigned() == root {
                return true;
            }
            match os::parent(last) {
                Some(0) => return false,
                Some(parent) => last = parent,
                None => break,
            }
        }
    }
    false
}

/// The user and the PID namespace of a process.
pub(crate) fn namespaces(process: &str) -> io::Result<[u64; 2]> {
    let inode = |kind| fs::metadata(format!("/proc/{process}/ns/{kind}")).map(|meta| meta.ino());
    Ok([inode("user")?, inode("pid")?])
}

/// Whether who has connected, as process `pid`, is the owner's all the same, though it was another user then: its message shows that it has that user's rights, and
/// has put them aside.
///
/// What /proc says of a process counts for nothing here: it may be executing a program by now that gains rights, and somebody else have the connection.
pub(crate) fn shows_rights(owner: u32, pid: i32, sender: Option<sys::net::Credentials>) -> bool {
    sender.is_some_and(|sender| sender.uid == owner && pid != 0 && sender.pid.cast_signed() == pid)
}

/// Answers a question with a connection to another broker, by a thread that may wait for that.
fn answer_later(link: Link, find: impl FnOnce() -> Result<OwnedFd, Errno> + Send + 'static) {
    // Where there can't be a thread, the connection just ends.
    let _ = spawn("answer", move || {
        let found = find();
        reply(&link, found.as_ref().map(|_| [0; 2]).map_err(|e| *e), found.as_ref().ok());
    });
}

fn listen_at(path: &Path) -> Result<OwnedFd, Error> {
    let listener = seqpacket()?;
    bind(listener.as_raw_fd(), &UnixAddr::new(path)?)?;
    // Strangers may ask, and are told so.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).map_err(|e| Error::File(path.into(), e))?;
    listen(&listener, Backlog::MAXCONN)?;
    Ok(listener)
}

fn in_initial_userns() -> bool {
    const PROC_USER_INIT_INO: u64 = 0xEFFF_FFFD;
    fs::metadata("/proc/self/ns/user").is_ok_and(|m| m.ino() == PROC_USER_INIT_INO)
}

/// What there is in a namespace, and who serves it.
#[derive(Debug, Clone)]
pub struct Status {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Where its broker is asked.
    pub socket: PathBuf,
    /// Message queues.
    pub queues: u32,
    /// Semaphore sets.
    pub sets: u32,
    /// Segments of shared memory.
    pub segments: u32,
    /// Processes that have used it.
    pub processes: u32,
    /// The broker's process id.
    pub pid: i32,
    /// Whether it lives until it is told to end.
    pub is_served: bool,
    /// Who is root in it.
    pub owner: u32,
}

impl Status {
    fn new(name: Option<String>, socket: PathBuf, answer: &[u8]) -> Status {
        let word = |at: usize| {
            let bytes = answer.chunks_exact(size_of::<u32>()).nth(at).and_then(|word| word.try_into().ok());
            bytes.map_or(0, u32::from_ne_bytes)
        };
        let owner = fs::metadata(&socket).map_or(0, |meta| meta.uid());
        Status {
            name,
            socket,
            queues: word(2),
            sets: word(3),
            segments: word(4),
            processes: word(5),
            pid: word(6).cast_signed(),
            is_served: word(7) != 0,
            owner,
        }
    }
}

/// Keeps another's namespace alive.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    _link: OwnedFd,
}

impl Lease {
    /// Where that namespace's broker is asked.
    pub fn socket(&self) -> &Path {
        &self.path
    }

    /// What a program needs in its environment to be in that namespace.
    pub fn env(&self) -> Vec<(String, String)> {
        environment(&self.path)
    }

    /// Lets this process make its calls in that namespace, which lives as long as it then.
    ///
    /// # Errors
    /// `EINVAL` for a path that is too long.
    pub fn enter(self) -> io::Result<()> {
        client::use_socket(self.path.as_os_str().as_bytes())
            .map_err(|error| io::Error::from_raw_os_error(error.raw()))?;
        std::mem::forget(self._link);
        Ok(())
    }
}
