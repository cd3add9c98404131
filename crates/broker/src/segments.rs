//! The keeper of shared memory: the files of all segments, held while nobody has them mapped.
//!
//! What users see: a segment outlives who made it, and its memory is given back when it is gone.
//! What is missing: mappings in processes that are neither clients nor descendants of the broker or of clients are not counted.
//!
//! Who makes a segment gives us its file and goes on; the file lies in our end of a connection by then, and nobody needs to be woken for it. Before a
//! file is looked for, all that was given is taken. One lock guards all that is here; no lock of the arena is taken under it.
//!
//! # Safety
//! A descriptor that was just received or made belongs to nobody else; system calls get integers and places of ours.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use abi::Errno;
use arena::Handle;
use client::{Keeper, wire};
use engine::shm;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, getsockname, getsockopt,
    recv, socket, socketpair, sockopt,
};
use sys::memory::{Mapping, find_mapping, find_shared_mapping};

use crate::caller;
use crate::locked::Locked;
use crate::service::{is_elsewhere, namespaces};
use crate::store::{Files, Store};

/// The memory of a segment.
struct Held {
    file: OwnedFd,
    dev: u64,
    /// Where the arena says what it is for.
    segment: Handle,
    /// Who made it.
    maker: i32,
    /// What keeps it from being swapped out.
    locked: Option<Locked>,
}

/// A connection by which we are given files, and the number that it is stored under.
struct Link {
    link: OwnedFd,
    number: u64,
}

struct Segments {
    /// By the inode's number.
    held: HashMap<u64, Held>,
    /// The socket at which connections are made, and those by which we are given files.
    listener: Option<OwnedFd>,
    links: Vec<Link>,
    /// How many there have been.
    numbers: u64,
    /// Where both are kept for the next broker.
    store: Option<Arc<Store>>,
    owner: u32,
    /// Processes that may have mappings; their descendants may too.
    clients: BTreeSet<i32>,
    /// Those of them that have gone to another namespace.
    left: BTreeSet<i32>,
}

impl Link {
    fn name(&self) -> String {
        format!("{LINK}{}", self.number)
    }
}

impl Held {
    /// What it is stored under: of two at the same place, which there can be for a moment, each has its own.
    fn name(&self, memory: u64) -> String {
        format!("{MEMORY}{:x}-{}-{memory:x}", self.segment.0, self.maker)
    }

    fn open_to_read(&self) -> io::Result<fs::File> {
        fs::File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}

static SEGMENTS: Mutex<Option<Segments>> = Mutex::new(None);
static LOOK: AtomicBool = AtomicBool::new(false);

fn with<R>(use_it: impl FnOnce(&mut Segments) -> R) -> R {
    let mut guard: MutexGuard<'_, _> = SEGMENTS.lock().unwrap_or_else(PoisonError::into_inner);
    use_it(guard.get_or_insert_with(|| Segments {
        held: HashMap::new(),
        listener: None,
        links: Vec::new(),
        numbers: 0,
        store: None,
        owner: 0,
        clients: BTreeSet::new(),
        left: BTreeSet::new(),
    }))
}

/// Makes the socket at which files are given.
pub(crate) fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    bind(listener.as_raw_fd(), &UnixAddr::new(path)?)?;
    nix::sys::socket::listen(&listener, Backlog::MAXCONN)?;
    Ok(listener)
}

/// Makes the socket there the owner's alone: connections wait for us until somebody asks, and strangers would fill the room that there is for them.
fn close_to_others(listener: &OwnedFd) -> io::Result<()> {
    let address: UnixAddr = getsockname(listener.as_raw_fd())?;
    match address.path() {
        Some(path) => fs::set_permissions(path, fs::Permissions::from_mode(0o600)),
        None => Ok(()),
    }
}

/// Another connection by which we are given files: its other end.
///
/// # Errors
/// Those of having no descriptor.
pub(crate) fn end_to_give() -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let ends = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags);
    let (ours, theirs) = ends.map_err(|error| Errno::from_raw(error as i32))?;
    with(|all| all.adopt(ours));
    Ok(theirs)
}

/// Begins to keep memory for the owner's processes, given at this socket, which does not block.
pub(crate) fn begin(listener: OwnedFd, owner: u32) {
    static KEEPER: Keeper = Keeper { retire, forget, look };
    // Where a supervisor has removed it nobody can connect.
    let _ = close_to_others(&listener);
    with(|all| {
        all.listener = Some(listener);
        all.owner = owner;
        all.drain();
    });
    client::keep_memory(&KEEPER);
}

/// The socket at which files are given.
pub(crate) fn listener() -> Option<OwnedFd> {
    with(|all| all.listener.as_ref()?.try_clone().ok())
}

/// From now on, the next broker is to have what is held.
pub(crate) fn keep_in(store: Arc<Store>) {
    with(|all| all.store = Some(store));
}

/// Gives the store, which is new, what is held.
pub(crate) fn keep_all() {
    with(|all| {
        let Some(store) = &all.store else { return };
        for link in &all.links {
            store.keep(&link.name(), &link.link);
        }
        for (memory, held) in &all.held {
            store.keep(&held.name(*memory), &held.file);
        }
    });
}

const MEMORY: &str = "m-";
const LINK: &str = "l-";

/// Whether something of that name was stored here.
pub(crate) fn is_stored(name: &str) -> bool {
    name.starts_with(MEMORY) || name.starts_with(LINK)
}

/// Holds what a broker that was killed has stored. Whether some of it is to be kept from being swapped out.
pub(crate) fn hold_again(files: Files) -> bool {
    let held = with(|all| {
        for (name, file) in files {
            if let Some(number) = name.strip_prefix(LINK).and_then(|number| number.parse().ok()) {
                all.numbers = all.numbers.max(number);
                all.links.push(Link { link: file, number });
            } else if let Some((segment, maker)) = owner_of(&name) {
                all.hold(file, segment, maker);
            }
        }
        all.held.iter().map(|(memory, held)| (*memory, held.segment)).collect::<Vec<_>>()
    });
    let locked = client::with(|ctx| {
        Ok(held.into_iter().filter(|(_, segment)| shm::is_locked(ctx, *segment)).collect::<Vec<_>>())
    });
    let locked = locked.unwrap_or_default();
    // Where that can't be done any more, it is swapped out as the rest.
    for (memory, _) in &locked {
        let _ = lock(*memory, true);
    }
    !locked.is_empty()
}

/// What the name of a segment's memory says: where the arena says what it is for, and who made it.
fn owner_of(name: &str) -> Option<(Handle, i32)> {
    let mut parts = name.strip_prefix(MEMORY)?.split('-');
    let segment = u32::from_str_radix(parts.next()?, 16).ok()?;
    Some((Handle(segment), parts.next()?.parse().ok()?))
}

/// A process may have mappings from now on, or can't have any more.
pub(crate) fn note_client(pid: i32, lives: bool) {
    with(|all| {
        all.left.remove(&pid);
        if lives { all.clients.insert(pid) } else { all.clients.remove(&pid) }
    });
}

/// A process has gone to another namespace, and may have mappings of this one's.
pub(crate) fn note_left(pid: i32) {
    with(|all| all.left.insert(pid));
}

/// Whether the process is known to be in this namespace.
pub(crate) fn has(pid: i32) -> bool {
    with(|all| all.clients.contains(&pid) && !all.left.contains(&pid))
}

/// Takes all that was given.
pub(crate) fn take() {
    with(Segments::drain);
}

/// The file of a segment, for a client.
pub(crate) fn file(memory: u64, to_read: bool) -> Result<OwnedFd, Errno> {
    with(|all| {
        all.drain();
        all.held.get(&memory).ok_or(Errno::EIDRM).and_then(|held| {
            if to_read {
                held.open_to_read().map(OwnedFd::from).map_err(|_| Errno::EACCES)
            } else {
                held.file.try_clone().map_err(|_| Errno::ENFILE)
            }
        })
    })
}

/// Lets memory go that no segment needs any more.
fn forget(memory: u64) {
    with(|all| {
        all.drain();
        all.let_go(memory);
    });
}

/// Lets go what no segment needs.
pub(crate) fn release_unneeded() {
    // What is held is copied: the arena is looked at without our lock.
    let all: Vec<(u64, Handle, i32)> = with(|all| {
        all.drain();
        all.held.iter().map(|(memory, held)| (*memory, held.segment, held.maker)).collect()
    });
    let lives = |pid| fs::metadata(format!("/proc/{pid}")).is_ok();
    let unneeded = client::with(|ctx| {
        let mut unneeded = all;
        unneeded
            .retain(|(memory, segment, maker)| !shm::needs_memory(ctx, *segment, *memory, || lives(*maker)));
        Ok(unneeded)
    });
    with(|all| {
        for (memory, segment, _) in unneeded.unwrap_or_default() {
            if all.held.get(&memory).is_some_and(|held| held.segment == segment) {
                all.let_go(memory);
            }
        }
    });
}

/// Pages of all memory held: resident, and swapped out.
pub(crate) fn usage() -> (u64, u64) {
    with(|all| {
        all.held
            .values()
            .map(|held| usage_of(&held.file))
            .fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1))
    })
}

/// Pages of the memory of one segment: resident, and swapped out.
pub(crate) fn memory_usage(memory: u64) -> Result<(u64, u64), Errno> {
    with(|all| {
        all.drain();
        all.held.get(&memory).map(|held| usage_of(&held.file)).ok_or(Errno::EIDRM)
    })
}

/// Keeps memory from being swapped out, or lets it again.
pub(crate) fn lock(memory: u64, lock: bool) -> Result<(), Errno> {
    with(|all| {
        all.drain();
        let held = all.held.get_mut(&memory).ok_or(Errno::EIDRM)?;
        if !lock {
            held.locked = None;
        } else if held.locked.is_none() {
            let size = nix::sys::stat::fstat(&held.file).map_or(0, |stat| stat.st_size);
            let file = held.open_to_read().map_err(|_| Errno::ENOMEM)?;
            let locked = Locked::new(&file, usize::try_from(size).map_err(|_| Errno::ENOMEM)?)?;
            held.locked.insert(locked).lock_more(usage_of(&held.file).0);
        }
        Ok(())
    })
}

/// Locks what has come to be of memory that is to be locked: whether there was something, `None` if none is to be.
pub(crate) fn lock_more() -> Option<bool> {
    with(|all| {
        let locked = all.held.values_mut().filter_map(|held| held.locked.as_mut().map(|l| (&held.file, l)));
        locked.map(|(file, locked)| locked.lock_more(usage_of(file).0)).reduce(|one, other| one | other)
    })
}

fn usage_of(file: &OwnedFd) -> (u64, u64) {
    let pages =
        nix::sys::stat::fstat(file).map_or(0, |s| u64::try_from(s.st_blocks).unwrap_or(0) / (4096 / 512));
    let cached = cached_pages(file).unwrap_or(pages).min(pages);
    (cached, pages - cached)
}

/// Pages of a file that are in memory, where the kernel tells (from Linux 6.5 on).
fn cached_pages(file: &OwnedFd) -> Option<u64> {
    const SYS_CACHESTAT: libc::c_long = 451;
    let whole = [0u64; 2];
    let mut counts = [0u64; 5];
    // SAFETY: a range of two words and room for five counts.
    let done =
        unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), whole.as_ptr(), counts.as_mut_ptr(), 0u32) };
    (done == 0).then_some(counts[0])
}

/// How often each process has some memory mapped.
pub(crate) fn count(memory: u64) -> HashMap<i32, u64> {
    let (dev, mut clients) = with(|all| {
        all.drain();
        (all.held.get(&memory).map(|h| h.dev), all.clients.clone())
    });
    let Some(dev) = dev else { return HashMap::new() };
    // In a namespace that was made inside, or is joined from there, those of the trap are no descendants.
    clients.extend(trap::processes().into_keys().map(u32::cast_signed));
    with_descendants(clients)
        .into_iter()
        .map(|pid| (pid, mappings_in(pid, dev, memory).unwrap_or(0)))
        .filter(|(_, n)| *n > 0)
        .collect()
}

/// Whether it can be seen what a process has mapped.
pub(crate) fn can_see(pid: i32) -> bool {
    fs::File::open(format!("/proc/{pid}/maps")).is_ok()
}

/// How to look at what a process has mapped.
#[derive(Clone, Copy)]
pub(crate) enum Look {
    /// Others wait for it. Of who has very many mappings it takes milliseconds, in which the CPU is nobody else's.
    AtOnce,
    /// Others go first: after some mappings there is a pause.
    AtLength,
}

/// Mappings that are looked at before a pause: as many as few programs have.
const PAUSE_AFTER: usize = 1000;
const PAUSE: Duration = Duration::from_millis(5);

/// The memory of segments that a process has mapped, and how often each, if that can be read.
pub(crate) fn mapped(pid: i32, look: Look) -> Option<HashMap<u64, usize>> {
    let maps = fs::File::open(format!("/proc/{pid}/maps")).ok()?;
    let mut seen = HashMap::<_, usize>::new();
    let mut note = |mapping: &Mapping| {
        *seen.entry((mapping.ino, mapping.dev)).or_default() += 1;
        false
    };
    match look {
        Look::AtOnce => find_shared_mapping(maps.as_raw_fd(), 0, note),
        Look::AtLength => {
            let mut looked = 0;
            find_mapping(maps.as_raw_fd(), 0, |mapping| {
                looked += 1;
                if looked % PAUSE_AFTER == 0 {
                    thread::sleep(PAUSE);
                }
                mapping.is_shared && note(mapping)
            })
        }
    }
    .ok()?;
    Some(with(|all| {
        all.drain();
        seen.retain(|(ino, dev), _| all.held.get(ino).is_some_and(|held| held.dev == *dev));
        seen.into_iter().map(|((ino, _), times)| (ino, times)).collect()
    }))
}

fn mappings_in(pid: i32, dev: u64, ino: u64) -> Option<u64> {
    let maps = fs::File::open(format!("/proc/{pid}/maps")).ok()?;
    let mut count = 0;
    let look = |mapping: &Mapping| {
        count += u64::from(mapping.ino == ino && mapping.dev == dev);
        false
    };
    find_shared_mapping(maps.as_raw_fd(), 0, look).ok()?;
    Some(count)
}

/// These processes, the descendants of each, and those of the broker.
fn with_descendants(clients: BTreeSet<i32>) -> BTreeSet<i32> {
    let mut all = clients;
    all.extend(children(std::process::id().cast_signed()));
    let mut next: Vec<i32> = all.iter().copied().collect();
    while let Some(pid) = next.pop() {
        next.extend(children(pid).into_iter().filter(|child| all.insert(*child)));
    }
    all
}

fn children(pid: i32) -> Vec<i32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let of_task = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).ok();
    let numbers = |text: String| text.split_whitespace().filter_map(|n| n.parse().ok()).collect::<Vec<_>>();
    tasks.flatten().filter_map(of_task).flat_map(numbers).collect()
}

/// [`engine::Backing::retire_memory`], for the process that has it.
fn retire(memory: u64, read_only: Option<i32>) -> abi::Result<bool> {
    if read_only.is_some() && !count(memory).is_empty() {
        return Ok(false);
    }
    let sealed = with(|all| {
        all.drain();
        all.held.get(&memory).map_or(Ok(()), |held| seal(&held.file, libc::F_SEAL_WRITE))
    });
    match sealed {
        Ok(()) => Ok(true),
        Err(nix::Error::EBUSY) => Ok(false),
        // Somebody who may write it has sealed it against further seals: it is over when nobody is seen to have it.
        Err(nix::Error::EPERM) => Ok(count(memory).is_empty()),
        Err(error) => Err(Errno::from_raw(error as i32)),
    }
}

fn seal(file: &OwnedFd, seals: i32) -> nix::Result<()> {
    let seals = nix::fcntl::SealFlag::from_bits_retain(seals);
    nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_ADD_SEALS(seals)).map(drop)
}

/// Something may be over: a look should be taken.
pub(crate) fn look() {
    LOOK.store(true, Relaxed);
}

/// Whether something may be over, since the last time this was asked.
pub(crate) fn must_look() -> bool {
    LOOK.swap(false, Relaxed)
}

impl Segments {
    /// Takes all that was given.
    fn drain(&mut self) {
        while let Some(link) = self.listener.as_ref().and_then(accept) {
            let peer = getsockopt(&link, sockopt::PeerCredentials);
            let is_here = |pid| namespaces("self").is_ok_and(|ours| !is_elsewhere(pid, ours));
            if peer.is_ok_and(|peer| peer.uid() == self.owner && is_here(peer.pid())) {
                self.adopt(link);
            } else {
                drop(caller::Link::new(link, peer.map_or(self.owner, |p| p.uid())));
            }
        }
        let mut wanted: Vec<PollFd<'_>> =
            self.links.iter().map(|link| PollFd::new(link.link.as_fd(), PollFlags::POLLIN)).collect();
        if poll(&mut wanted, PollTimeout::ZERO).unwrap_or(0) == 0 {
            return;
        }
        let ready: Vec<bool> = wanted.iter().map(|w| w.any().unwrap_or(false)).collect();
        let links = std::mem::take(&mut self.links);
        for (link, ready) in links.into_iter().zip(ready) {
            let mut is_open = true;
            while ready && is_open {
                // It stays where it is until the store has it.
                match receive(&link.link, MsgFlags::MSG_PEEK) {
                    Ok(Some(given)) => {
                        self.accept_given(given);
                        let _ = recv(link.link.as_raw_fd(), &mut [], MsgFlags::empty());
                    }
                    Ok(None) => is_open = false,
                    // Without a descriptor left for it, it is taken later.
                    Err(Errno::EAGAIN | Errno::EMFILE) => break,
                    Err(_) => is_open = false,
                }
            }
            if is_open {
                self.links.push(link);
            } else if let Some(store) = &self.store {
                store.forget(&link.name());
            }
        }
    }

    /// A connection by which we are given files from now on.
    fn adopt(&mut self, link: OwnedFd) {
        self.numbers += 1;
        let link = Link { link, number: self.numbers };
        if let Some(store) = &self.store {
            store.keep(&link.name(), &link.link);
        }
        self.links.push(link);
    }

    fn accept_given(&mut self, (words, file): Given) {
        let [magic, which, segment, maker] = words;
        if let (wire::MAGIC, wire::GIVE_MEMORY, Some(file)) = (magic, which, file) {
            self.hold(file, Handle(segment), maker.cast_signed());
        }
    }

    /// Holds a file that is as it must be: of memory, of a fixed size, for its user only. One of size 0 was given up already.
    fn hold(&mut self, file: OwnedFd, segment: Handle, maker: i32) {
        if nix::sys::stat::fstat(&file).is_ok_and(|stat| stat.st_size == 0) {
            return;
        }
        let fixed = seal(&file, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW);
        let private =
            nix::sys::stat::fchmod(&file, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR);
        if let (Ok(()), Ok(()), Ok(stat)) = (fixed, private, nix::sys::stat::fstat(&file))
            && stat.st_size != 0
        {
            let held = Held { file, dev: stat.st_dev, segment, maker, locked: None };
            if let Some(store) = &self.store {
                store.keep(&held.name(stat.st_ino), &held.file);
            }
            self.held.entry(stat.st_ino).or_insert(held);
        }
    }

    fn let_go(&mut self, memory: u64) {
        if let Some(held) = self.held.remove(&memory)
            && let Some(store) = &self.store
        {
            store.forget(&held.name(memory));
        }
    }
}

fn accept(listener: &OwnedFd) -> Option<OwnedFd> {
    let fd = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK).ok()?;
    // SAFETY: just accepted, nobody else has it.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A message's words, and the descriptor that came with it.
type Given = ([u32; 4], Option<OwnedFd>);

/// One message; none at the connection's end.
///
/// # Errors
/// The socket's; `EMFILE` if there is no descriptor left for what came.
fn receive(link: &OwnedFd, flags: MsgFlags) -> Result<Option<Given>, Errno> {
    let mut bytes = [0; wire::QUESTION];
    let message = sys::net::receive_message(link.as_raw_fd(), [&mut bytes, &mut []], flags.bits())?;
    // SAFETY: just received, nobody else has it.
    let file = message.file.map(|file| unsafe { OwnedFd::from_raw_fd(file.leak()) });
    match (message.bytes, &file) {
        (0, None) if !message.is_truncated => Ok(None),
        (wire::QUESTION, None) if message.is_truncated => Err(Errno::EMFILE),
        (wire::QUESTION, _) => Ok(Some((wire::decode(&bytes), file))),
        _ => Ok(Some(([0; 4], file))),
    }
}
