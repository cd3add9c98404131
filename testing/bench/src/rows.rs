//! The rows: what is set up, and what is then done N times under the clock.
//!
//! All calls go through libc's symbols, as a program's would.

use std::error::Error;
use std::ffi::{c_int, c_long, c_short, c_ushort, c_void};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fmt, io, mem, ptr};

type Outcome<T> = Result<T, Box<dyn Error>>;

const ALL: [&str; 22] = [
    "msg.pair.64",
    "msg.pair.1k",
    "msg.pair.8k",
    "sem.pair",
    "sem.pair.undo",
    "sem.ten",
    "msg.select.1k",
    "msg.select.10k",
    "msg.select.100k",
    "msg.rtt.cross",
    "msg.rtt.same",
    "sem.rtt.cross",
    "sem.rtt.same",
    "msg.get",
    "msg.stat",
    "msg.create",
    "sem.create",
    "shm.attach",
    "shm.attach.stat",
    "shm.cycle.4k",
    "shm.cycle.16m",
    "exec.true",
];

/// The largest message of any row.
const TEXT_SIZE: usize = 8192;
const WANTED: c_long = 1;
/// The messages that wait in a select row have this many types, in turn.
const OTHER_TYPES: usize = 1000;
const UNDO: c_short = libc::SEM_UNDO as c_short;

/// The rows whose names the pattern matches (all, if it is empty).
pub(crate) fn matching(pattern: &str) -> Outcome<Vec<&'static str>> {
    let pattern = Pattern::new(pattern)?;
    let chosen: Vec<_> = ALL.into_iter().filter(|name| pattern.matches(name)).collect();
    if chosen.is_empty() {
        return Err(format!("no row matches; there are: {}", ALL.join(" ")).into());
    }
    Ok(chosen)
}

/// Sets the row up, and times `n` iterations.
pub(crate) fn run(row: &str, n: u64, cpus: &Cpus) -> Outcome<Duration> {
    match row {
        "msg.pair.64" => msg_pair(n, 64),
        "msg.pair.1k" => msg_pair(n, 1024),
        "msg.pair.8k" => msg_pair(n, 8192),
        "sem.pair" => sem_pair(n, 0),
        "sem.pair.undo" => sem_pair(n, UNDO),
        "sem.ten" => sem_ten(n),
        "msg.select.1k" => msg_select(n, 1000),
        "msg.select.10k" => msg_select(n, 10_000),
        "msg.select.100k" => msg_select(n, 100_000),
        "msg.rtt.cross" => msg_rtt(n, cpus.second()?),
        "msg.rtt.same" => msg_rtt(n, cpus.own),
        "sem.rtt.cross" => sem_rtt(n, cpus.second()?),
        "sem.rtt.same" => sem_rtt(n, cpus.own),
        "msg.get" => msg_get(n),
        "msg.stat" => msg_stat(n),
        "msg.create" => timed(n, || Queue::create(libc::IPC_PRIVATE)?.remove()),
        "sem.create" => timed(n, || Set::create(1)?.remove()),
        "shm.attach" => shm_attach(n),
        "shm.attach.stat" => shm_attach_stat(n),
        "shm.cycle.4k" => shm_cycle(n, 4 << 10),
        "shm.cycle.16m" => shm_cycle(n, 16 << 20),
        "exec.true" => timed(n, exec_true),
        _ => Err(format!("unknown row {row}").into()),
    }
}

fn msg_pair(n: u64, size: usize) -> Outcome<Duration> {
    let queue = Queue::create(libc::IPC_PRIVATE)?;
    let mut message = Message::new();
    timed(n, || {
        queue.send(&message, size)?;
        queue.receive(&mut message, size, WANTED)
    })
}

fn msg_select(n: u64, ahead: usize) -> Outcome<Duration> {
    let queue = Queue::create(libc::IPC_PRIVATE)?;
    let mut message = Message::new();
    for i in 0..ahead {
        message.mtype = WANTED + 1 + (i % OTHER_TYPES) as c_long;
        queue.send(&message, 8)?;
    }
    message.mtype = WANTED;
    timed(n, || {
        queue.send(&message, 8)?;
        queue.receive(&mut message, 8, WANTED)
    })
}

fn msg_rtt(n: u64, peer_cpu: usize) -> Outcome<Duration> {
    let (here, there) = (Queue::create(libc::IPC_PRIVATE)?, Queue::create(libc::IPC_PRIVATE)?);
    let peer = Peer::fork(peer_cpu, || {
        let mut message = Message::new();
        // The removal of the queues ends the loop.
        while there.receive(&mut message, 64, 0).is_ok() && here.send(&message, 64).is_ok() {}
    })?;
    let mut message = Message::new();
    let mut round_trip = || {
        there.send(&message, 64)?;
        here.receive(&mut message, 64, 0)
    };
    round_trip()?;
    let elapsed = timed(n, round_trip);
    drop((here, there));
    peer.join()?;
    elapsed
}

fn sem_pair(n: u64, flags: c_short) -> Outcome<Duration> {
    let set = Set::create(1)?;
    timed(n, || {
        set.op(&mut [op(0, 1, flags)])?;
        set.op(&mut [op(0, -1, flags)])
    })
}

/// Ten operations in one call, on ten of sixteen semaphores; down and up in turn, so that it can go on for ever.
fn sem_ten(n: u64) -> Outcome<Duration> {
    let set = Set::create(16)?;
    let mut up: [_; 10] = std::array::from_fn(|i| op(i as c_ushort, 1, 0));
    let mut down: [_; 10] = std::array::from_fn(|i| op(i as c_ushort, -1, 0));
    let mut raised = false;
    timed(n, || {
        raised = !raised;
        set.op(if raised { &mut up } else { &mut down })
    })
}

fn sem_rtt(n: u64, peer_cpu: usize) -> Outcome<Duration> {
    let set = Set::create(2)?;
    let peer = Peer::fork(peer_cpu, || {
        while set.op(&mut [op(0, -1, 0)]).is_ok() && set.op(&mut [op(1, 1, 0)]).is_ok() {}
    })?;
    let round_trip = || {
        set.op(&mut [op(0, 1, 0)])?;
        set.op(&mut [op(1, -1, 0)])
    };
    round_trip()?;
    let elapsed = timed(n, round_trip);
    drop(set);
    peer.join()?;
    elapsed
}

fn msg_get(n: u64) -> Outcome<Duration> {
    const KEY: libc::key_t = 0x6265_6e63;
    let _queue = Queue::create(KEY)?;
    timed(n, || {
        // SAFETY: no pointers are passed.
        checked("msgget", unsafe { libc::msgget(KEY, 0) }).map(drop)
    })
}

fn msg_stat(n: u64) -> Outcome<Duration> {
    let queue = Queue::create(libc::IPC_PRIVATE)?;
    timed(n, || {
        let mut stat = mem::MaybeUninit::<libc::msqid_ds>::uninit();
        // SAFETY: `stat` has room for what IPC_STAT writes.
        checked("msgctl", unsafe { libc::msgctl(queue.0, libc::IPC_STAT, stat.as_mut_ptr()) }).map(drop)
    })
}

fn shm_attach(n: u64) -> Outcome<Duration> {
    let segment = Segment::create(4 << 10)?;
    timed(n, || segment.attach()?.detach())
}

/// IPC_STAT of a segment that this process has attached.
fn shm_attach_stat(n: u64) -> Outcome<Duration> {
    let segment = Segment::create(4 << 10)?;
    let attached = segment.attach()?;
    let elapsed = timed(n, || segment.stat());
    attached.detach()?;
    elapsed
}

/// Make, attach, detach, remove; nothing is written.
fn shm_cycle(n: u64, size: usize) -> Outcome<Duration> {
    timed(n, || {
        let segment = Segment::create(size)?;
        segment.attach()?.detach()?;
        segment.remove()
    })
}

/// Under ours the environment names the library to preload, so the child loads it.
fn exec_true() -> Outcome<()> {
    let status = Command::new("/bin/true").status()?;
    if status.success() { Ok(()) } else { Err(format!("/bin/true: {status}").into()) }
}

fn timed(n: u64, mut iteration: impl FnMut() -> Outcome<()>) -> Outcome<Duration> {
    let start = Instant::now();
    for _ in 0..n {
        iteration()?;
    }
    Ok(start.elapsed())
}

#[repr(C)]
struct Message {
    mtype: c_long,
    text: [u8; TEXT_SIZE],
}

impl Message {
    fn new() -> Message {
        Message { mtype: WANTED, text: [7; TEXT_SIZE] }
    }
}

/// A message queue, removed when dropped.
struct Queue(c_int);

impl Queue {
    fn create(key: libc::key_t) -> Outcome<Queue> {
        // SAFETY: no pointers are passed.
        checked("msgget", unsafe { libc::msgget(key, libc::IPC_CREAT | libc::IPC_EXCL | 0o600) }).map(Queue)
    }

    fn send(&self, message: &Message, size: usize) -> Outcome<()> {
        debug_assert!(size <= TEXT_SIZE);
        // SAFETY: the message has at least `size` bytes of text.
        checked("msgsnd", unsafe { libc::msgsnd(self.0, ptr::from_ref(message).cast(), size, 0) }).map(drop)
    }

    fn receive(&self, message: &mut Message, size: usize, mtype: c_long) -> Outcome<()> {
        debug_assert!(size <= TEXT_SIZE);
        // SAFETY: the message has room for `size` bytes of text.
        let got = unsafe { libc::msgrcv(self.0, ptr::from_mut(message).cast(), size, mtype, 0) };
        match usize::try_from(got) {
            Ok(got) if got == size => Ok(()),
            Ok(got) => Err(format!("msgrcv: {got} bytes instead of {size}").into()),
            Err(_) => Err(format!("msgrcv: {}", io::Error::last_os_error()).into()),
        }
    }

    fn remove(self) -> Outcome<()> {
        let removed = self.remove_now();
        mem::forget(self);
        removed
    }

    fn remove_now(&self) -> Outcome<()> {
        // SAFETY: IPC_RMID ignores the pointer.
        checked("msgctl", unsafe { libc::msgctl(self.0, libc::IPC_RMID, ptr::null_mut()) }).map(drop)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // The namespace ends with the run; a queue too many till then harms no figure.
        let _ = self.remove_now();
    }
}

/// A semaphore set, removed when dropped.
struct Set(c_int);

impl Set {
    fn create(nsems: c_int) -> Outcome<Set> {
        // SAFETY: no pointers are passed.
        checked("semget", unsafe { libc::semget(libc::IPC_PRIVATE, nsems, 0o600) }).map(Set)
    }

    fn op(&self, ops: &mut [libc::sembuf]) -> Outcome<()> {
        // SAFETY: pointer and length are of one slice.
        checked("semop", unsafe { libc::semop(self.0, ops.as_mut_ptr(), ops.len()) }).map(drop)
    }

    fn remove(self) -> Outcome<()> {
        let removed = self.remove_now();
        mem::forget(self);
        removed
    }

    fn remove_now(&self) -> Outcome<()> {
        // SAFETY: IPC_RMID takes no further argument.
        checked("semctl", unsafe { libc::semctl(self.0, 0, libc::IPC_RMID) }).map(drop)
    }
}

impl Drop for Set {
    fn drop(&mut self) {
        // As for a queue.
        let _ = self.remove_now();
    }
}

/// A segment of shared memory, removed when dropped.
struct Segment(c_int);

/// Where one is attached.
struct Attached(*mut c_void);

impl Segment {
    fn create(size: usize) -> Outcome<Segment> {
        // SAFETY: no pointers are passed.
        checked("shmget", unsafe { libc::shmget(libc::IPC_PRIVATE, size, 0o600) }).map(Segment)
    }

    fn attach(&self) -> Outcome<Attached> {
        // SAFETY: it goes where there is room.
        let at = unsafe { libc::shmat(self.0, ptr::null(), 0) };
        if at.addr() == usize::MAX {
            return Err(format!("shmat: {}", io::Error::last_os_error()).into());
        }
        Ok(Attached(at))
    }

    fn stat(&self) -> Outcome<()> {
        let mut stat = mem::MaybeUninit::<libc::shmid_ds>::uninit();
        // SAFETY: `stat` has room for what IPC_STAT writes.
        checked("shmctl", unsafe { libc::shmctl(self.0, libc::IPC_STAT, stat.as_mut_ptr()) }).map(drop)
    }

    fn remove(self) -> Outcome<()> {
        let removed = self.remove_now();
        mem::forget(self);
        removed
    }

    fn remove_now(&self) -> Outcome<()> {
        // SAFETY: IPC_RMID ignores the pointer.
        checked("shmctl", unsafe { libc::shmctl(self.0, libc::IPC_RMID, ptr::null_mut()) }).map(drop)
    }
}

impl Attached {
    fn detach(self) -> Outcome<()> {
        // SAFETY: attached there, and nothing refers to it.
        checked("shmdt", unsafe { libc::shmdt(self.0) }).map(drop)
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // As for a queue.
        let _ = self.remove_now();
    }
}

fn op(sem_num: c_ushort, sem_op: c_short, sem_flg: c_short) -> libc::sembuf {
    libc::sembuf { sem_num, sem_op, sem_flg }
}

fn checked(call: &str, result: c_int) -> Outcome<c_int> {
    if result == -1 { Err(format!("{call}: {}", io::Error::last_os_error()).into()) } else { Ok(result) }
}

/// The other side of a round trip.
struct Peer(libc::pid_t);

impl Peer {
    fn fork(cpu: usize, serve: impl FnOnce()) -> Outcome<Peer> {
        // SAFETY: the worker has one thread, so the child may go on with anything.
        match checked("fork", unsafe { libc::fork() })? {
            0 => {
                if pin(cpu).is_ok() {
                    serve();
                }
                // SAFETY: ends the process.
                unsafe { libc::_exit(0) }
            }
            pid => Ok(Peer(pid)),
        }
    }

    fn join(self) -> Outcome<()> {
        // SAFETY: a null status is allowed.
        checked("waitpid", unsafe { libc::waitpid(self.0, ptr::null_mut(), 0) }).map(drop)
    }
}

/// The CPUs that the rows use.
pub(crate) struct Cpus {
    /// Of the worker, and of the peer in the `same` rows.
    pub(crate) own: usize,
    /// Of the peer in the `cross` rows, if the machine has a second one.
    other: Option<usize>,
}

impl Cpus {
    /// The first two that this process may use.
    pub(crate) fn allowed() -> Outcome<Cpus> {
        // SAFETY: all-zero is the empty set.
        let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
        // SAFETY: the size is the set's.
        checked("sched_getaffinity", unsafe {
            libc::sched_getaffinity(0, mem::size_of::<libc::cpu_set_t>(), &mut set)
        })?;
        // SAFETY: the index is within the set.
        let mut cpus = (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) });
        Ok(Cpus { own: cpus.next().ok_or("no CPU is allowed")?, other: cpus.next() })
    }

    fn second(&self) -> Outcome<usize> {
        self.other.ok_or_else(|| "needs two CPUs".into())
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pinned to CPU {}, ", self.own)?;
        match self.other {
            Some(other) => write!(f, "peer of the cross rows to CPU {other}"),
            None => write!(f, "no second CPU for the cross rows"),
        }
    }
}

/// Binds the calling thread to one CPU.
pub(crate) fn pin(cpu: usize) -> Outcome<()> {
    // SAFETY: all-zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the index came out of such a set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the size is the set's.
    checked("sched_setaffinity", unsafe {
        libc::sched_setaffinity(0, mem::size_of::<libc::cpu_set_t>(), &set)
    })
    .map(drop)
}

/// A compiled POSIX extended regular expression.
struct Pattern(libc::regex_t);

impl Pattern {
    fn new(source: &str) -> Outcome<Pattern> {
        let c_source = std::ffi::CString::new(source)?;
        // SAFETY: all-zero is a valid value of this plain C structure, to be filled by regcomp.
        let mut compiled: libc::regex_t = unsafe { mem::zeroed() };
        // SAFETY: both pointers are valid for the call.
        let error =
            unsafe { libc::regcomp(&mut compiled, c_source.as_ptr(), libc::REG_EXTENDED | libc::REG_NOSUB) };
        if error != 0 {
            return Err(format!("{source:?} is no regular expression").into());
        }
        Ok(Pattern(compiled))
    }

    fn matches(&self, name: &str) -> bool {
        let Ok(name) = std::ffi::CString::new(name) else { return false };
        // SAFETY: the expression is compiled; no match positions are asked for.
        unsafe { libc::regexec(&self.0, name.as_ptr(), 0, ptr::null_mut::<c_void>().cast(), 0) == 0 }
    }
}

impl Drop for Pattern {
    fn drop(&mut self) {
        // SAFETY: compiled by regcomp, and not used any more.
        unsafe { libc::regfree(&mut self.0) };
    }
}
