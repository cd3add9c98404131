//! The rows: what is set up, and what is then done N times under the clock.

use std::ffi::{c_long, c_short, c_ushort};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::bare;
use crate::clock::Clock;
use crate::cpus::{Cpus, Gate, Peer};
use crate::library;
use crate::objects::{Fifo, Message, Name, PosixQueue, Queue, Segment, Set, WANTED, checked, op};
use crate::pattern::Pattern;
use crate::{Outcome, door::Kind};

/// A row of the table.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// What one iteration is.
    pub(crate) about: &'static str,
    /// The row that ours makes to be compared with it: the same, but for peers.
    pub(crate) ours: &'static str,
    /// Which worker of ours makes it.
    pub(crate) kind: Kind,
    pub(crate) run: fn(&mut Clock, &Cpus) -> Outcome<()>,
}

pub(crate) const fn row(
    name: &'static str,
    about: &'static str,
    run: fn(&mut Clock, &Cpus) -> Outcome<()>,
) -> Row {
    Row { name, about, ours: name, kind: Kind::Ordinary, run }
}

static ROWS: [Row; 71] = [
    row("msg.pair.64", "send and receive 64 bytes, one process", |clock, _| msg_pair(clock, 64)),
    row("msg.pair.1k", "the same, 1 KiB", |clock, _| msg_pair(clock, 1024)),
    row("msg.pair.8k", "the same, 8 KiB", |clock, _| msg_pair(clock, 8192)),
    row("msg.stream.64", "64 bytes from one process to another, two CPUs", |clock, cpus| {
        msg_stream(clock, cpus, 64)
    }),
    row("msg.stream.1k", "the same, 1 KiB", |clock, cpus| msg_stream(clock, cpus, 1024)),
    row("msg.stream.8k", "the same, 8 KiB", |clock, cpus| msg_stream(clock, cpus, 8192)),
    row("msg.select.1k", "send and receive by type, 1 000 other messages ahead", |clock, _| {
        msg_select(clock, 1000, WANTED)
    }),
    row("msg.select.10k", "the same, 10 000", |clock, _| msg_select(clock, 10_000, WANTED)),
    row("msg.select.100k", "the same, 100 000", |clock, _| msg_select(clock, 100_000, WANTED)),
    row("msg.lowest.10k", "send and receive the lowest type, 10 000 others ahead", |clock, _| {
        msg_select(clock, 10_000, LOWEST)
    }),
    row("msg.lowest.100k", "the same, 100 000", |clock, _| msg_select(clock, 100_000, LOWEST)),
    row("msg.rtt.cross", "round trip of a message, two processes, two CPUs", |clock, cpus| {
        msg_rtt(clock, cpus.second()?)
    }),
    row("msg.rtt.same", "the same, both on one CPU", |clock, cpus| msg_rtt(clock, cpus.own)),
    row("msg.rtt.crowd", "the same on two CPUs by five pairs at once, per round trip", msg_rtt_crowd),
    row("msg.rtt.load", "the same on two CPUs, each of which another process would use wholly", msg_rtt_load),
    row(
        "msg.cpu.blocked",
        "CPU time of a receiver that sleeps a millisecond for each message",
        msg_cpu_blocked,
    ),
    row("msg.get", "`msgget` of an existing key", |clock, _| get(clock, 1, Queue::create, Queue::get)),
    row("msg.get.30000", "the same, 30 000 queues there", |clock, _| {
        get(clock, MANY, Queue::create, Queue::get)
    }),
    row("msg.list", "`MSG_STAT` of each of ten queues, per queue", |clock, _| {
        list(clock, FEW, Queue::create, Queue::list)
    }),
    row("msg.list.30000", "the same, of 30 000", |clock, _| list(clock, MANY, Queue::create, Queue::list)),
    row("msg.stat", "`IPC_STAT`", |clock, _| msg_stat(clock)),
    row("msg.create", "create and remove a queue", |clock, _| msg_create(clock, 0)),
    row("msg.create.30000", "the same, 30 000 queues there", |clock, _| msg_create(clock, MANY)),
    row("mq.pair.64", "`mq_send` and `mq_receive` of 64 bytes, one process", |clock, _| mq_pair(clock, 64)),
    row("mq.pair.1k", "the same, 1 KiB", |clock, _| mq_pair(clock, 1024)),
    row("mq.pair.8k", "the same, 8 KiB", |clock, _| mq_pair(clock, 8192)),
    row("mq.pair.64.watched", "64 bytes, on a queue that somebody polls", |clock, _| mq_pair_watched(clock)),
    row(
        "mq.prio.7000",
        "send at random and receive the most urgent, 7 000 messages of as many priorities there",
        |clock, _| mq_prio(clock, 7000),
    ),
    row("mq.stream.64", "64 bytes from one process to another, two CPUs", mq_stream),
    row("mq.rtt.cross", "round trip by POSIX queues, two processes, two CPUs", |clock, cpus| {
        mq_rtt(clock, cpus.second()?)
    }),
    row("mq.rtt.same", "the same, both on one CPU", |clock, cpus| mq_rtt(clock, cpus.own)),
    row("mq.create", "`mq_open` of a new queue, `mq_unlink` and `mq_close`", |clock, _| mq_create(clock)),
    row("mq.open", "`mq_open` and `mq_close` of a queue that is there", |clock, _| mq_open(clock)),
    row("sem.pair", "`semop` −1 and +1", |clock, _| sem_pair(clock, 0)),
    row("sem.pair.undo", "the same with `SEM_UNDO`", |clock, _| sem_pair(clock, UNDO)),
    row("sem.ten", "one `semop` of ten operations", |clock, _| sem_ten(clock, 0)),
    row("sem.ten.undo", "the same with `SEM_UNDO`", |clock, _| sem_ten(clock, UNDO)),
    row("sem.getval", "`GETVAL`", |clock, _| sem_getval(clock)),
    row("sem.rtt.cross", "round trip by semaphores, two CPUs", |clock, cpus| sem_rtt(clock, cpus.second()?)),
    row("sem.rtt.same", "the same, both on one CPU", |clock, cpus| sem_rtt(clock, cpus.own)),
    row("sem.contend.2", "−1 and +1 by one of 2 processes on one semaphore", |clock, cpus| {
        sem_contend(clock, cpus, 2)
    }),
    row("sem.contend.8", "the same, 8 processes", |clock, cpus| sem_contend(clock, cpus, 8)),
    row("sem.contend.16", "the same, 16 processes", |clock, cpus| sem_contend(clock, cpus, 16)),
    Row {
        kind: Kind::Barging,
        ..row("sem.contend.8.barging", "8 processes, ours with `ipcspace.sem_barging=1`", |clock, cpus| {
            sem_contend(clock, cpus, 8)
        })
    },
    row("sem.create", "create and remove a set", |clock, _| sem_create(clock, 0)),
    row("sem.create.30000", "the same, 30 000 sets there", |clock, _| sem_create(clock, MANY)),
    row("sem.get", "`semget` of an existing key", |clock, _| get(clock, 1, set_of_one, Set::get)),
    row("sem.get.30000", "the same, 30 000 sets there", |clock, _| get(clock, MANY, set_of_one, Set::get)),
    row("sem.list", "`SEM_STAT` of each of ten sets, per set", |clock, _| {
        list(clock, FEW, set_of_one, Set::list)
    }),
    row("sem.list.30000", "the same, of 30 000", |clock, _| list(clock, MANY, set_of_one, Set::list)),
    Row {
        kind: Kind::Stranger,
        ..row(
            "stranger.msg.pair",
            "send and receive 64 bytes, as another user than the namespace's owner",
            |clock, _| {
                become_stranger()?;
                msg_pair(clock, 64)
            },
        )
    },
    Row {
        kind: Kind::Stranger,
        ..row("stranger.sem.pair", "`semop` −1 and +1 as such a user", |clock, _| {
            become_stranger()?;
            sem_pair(clock, 0)
        })
    },
    row(
        "stranger.socket.rtt",
        "a bare round trip over a socket, of which a stranger's call is at least one",
        socket_rtt,
    ),
    row("shm.attach", "`shmat` and `shmdt`", |clock, _| shm_attach(clock)),
    row("shm.attach.stat", "`IPC_STAT` of a segment that is attached", |clock, _| shm_attach_stat(clock)),
    row("shm.create", "create and remove a segment", |clock, _| shm_create(clock, 0)),
    row("shm.create.4000", "the same, 4 000 segments there", |clock, _| shm_create(clock, MANY_SEGMENTS)),
    row("shm.get", "`shmget` of an existing key", |clock, _| get(clock, 1, small_segment, Segment::get)),
    row("shm.get.4000", "the same, 4 000 segments there", |clock, _| {
        get(clock, MANY_SEGMENTS, small_segment, Segment::get)
    }),
    row("shm.list", "`SHM_STAT` of each of ten segments, per segment", |clock, _| {
        list(clock, FEW, small_segment, Segment::list)
    }),
    row("shm.list.4000", "the same, of 4 000", |clock, _| {
        list(clock, MANY_SEGMENTS, small_segment, Segment::list)
    }),
    row("shm.cycle.4k", "make, attach, detach and remove 4 KiB", |clock, _| shm_cycle(clock, 4 << 10)),
    row("shm.cycle.16m", "the same, 16 MiB", |clock, _| shm_cycle(clock, 16 << 20)),
    row(
        "api.msg.pair.64",
        "as msg.pair.64, by the crate `ipcspace`, which has a namespace of its own",
        |clock, _| library::msg_pair(clock, 64),
    ),
    row("api.sem.pair", "as sem.pair, by the crate", |clock, _| library::sem_pair(clock)),
    row("api.mq.pair.64", "as mq.pair.64, by the crate", |clock, _| library::mq_pair(clock, 64)),
    row("c.msg.pair.64", "as msg.pair.64, by libipcspace", |clock, _| library::c_msg_pair(clock, 64)),
    row(
        "trap.getppid",
        "`getppid`: what the trap costs a system call that is none of its own",
        |clock, _| {
            clock.time(|| {
                // SAFETY: takes nothing.
                unsafe { libc::syscall(libc::SYS_getppid) };
                Ok(())
            })
        },
    ),
    row(
        "trap.open",
        "open and close `/dev/null`: what the trap costs who opens files that are none of its own",
        |clock, _| {
            clock.time(|| {
                // SAFETY: a terminated string, and what was just opened.
                unsafe { libc::close(libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY)) };
                Ok(())
            })
        },
    ),
    Row {
        ours: "sem.getval",
        ..row(
            "trap.bare",
            "`getppid` that is asked about and answered with a constant, against our `GETVAL`",
            |clock, _| bare::time(clock),
        )
    },
    row("exec.true", "start `true`: what the library costs a program that uses no IPC", |clock, _| {
        clock.time(exec_true)
    }),
];

/// The messages that wait in a select row have this many types, in turn.
const OTHER_TYPES: c_long = 1000;
/// The lowest type, whichever there is.
const LOWEST: c_long = -(WANTED + OTHER_TYPES);
const UNDO: c_short = libc::SEM_UNDO as c_short;
/// How many objects are there in the rows with many.
const MANY: libc::key_t = 30_000;
/// The same of segments, of which there may be fewer.
const MANY_SEGMENTS: libc::key_t = 4000;
const FEW: libc::key_t = 10;
/// The key of the first of them that has one.
const KEY: libc::key_t = 0x6265_6e63;
/// `MSGMNB`, which the streams are to have: the worker's namespace has another for the rows with many messages.
const QUEUE_BYTES: libc::msglen_t = 16_384;

/// All rows there are.
fn all() -> impl Iterator<Item = &'static Row> {
    #[cfg(feature = "peers")]
    return ROWS.iter().chain(&crate::peers::ROWS);
    #[cfg(not(feature = "peers"))]
    ROWS.iter()
}

/// The rows whose names the pattern matches (all, if it is empty).
pub(crate) fn matching(pattern: &str) -> Outcome<Vec<&'static Row>> {
    let pattern = Pattern::new(pattern)?;
    let chosen: Vec<_> = all().filter(|row| pattern.matches(row.name)).collect();
    if chosen.is_empty() {
        let all: Vec<_> = all().map(|row| row.name).collect();
        return Err(format!("no row matches; there are: {}", all.join(" ")).into());
    }
    Ok(chosen)
}

/// Sets the row up, and makes its iterations.
pub(crate) fn run(name: &str, clock: &mut Clock, cpus: &Cpus) -> Outcome<()> {
    let row = all().find(|row| row.name == name).ok_or_else(|| format!("unknown row {name}"))?;
    (row.run)(clock, cpus)
}

fn msg_pair(clock: &mut Clock, size: usize) -> Outcome<()> {
    let queue = Queue::create(libc::IPC_PRIVATE)?;
    let mut message = Message::new();
    clock.time(|| {
        queue.send(&message, size)?;
        queue.receive(&mut message, size, WANTED)
    })
}

fn msg_stream(clock: &mut Clock, cpus: &Cpus, size: usize) -> Outcome<()> {
    let (queue, answers) = (Queue::create(libc::IPC_PRIVATE)?, Queue::create(libc::IPC_PRIVATE)?);
    queue.set_room(QUEUE_BYTES)?;
    stream(clock, cpus, size, &queue, &answers)
}

/// The sender never waits for an answer; the clock stops when the receiver has the last message.
fn stream(clock: &mut Clock, cpus: &Cpus, size: usize, queue: &dyn Fifo, answers: &dyn Fifo) -> Outcome<()> {
    let count = clock.iterations();
    let receiver = Peer::fork(cpus.second()?, || {
        let mut message = Message::new();
        let mut receive = |count| (0..count).try_for_each(|_| queue.take(&mut message, size));
        let answer = || answers.put(&Message::new(), size);
        receive(1)?;
        answer()?;
        receive(count)?;
        answer()
    })?;
    let message = Message::new();
    let wait = || answers.take(&mut Message::new(), size);
    queue.put(&message, size)?;
    wait()?;
    clock.time_until(count, || queue.put(&message, size), wait)?;
    receiver.join()
}

fn msg_select(clock: &mut Clock, ahead: c_long, wanted: c_long) -> Outcome<()> {
    let queue = Queue::create(libc::IPC_PRIVATE)?;
    let mut message = Message::new();
    for i in 0..ahead {
        message.mtype = WANTED + 1 + i % OTHER_TYPES;
        queue.send(&message, 8)?;
    }
    message.mtype = WANTED;
    clock.time(|| {
        queue.send(&message, 8)?;
        queue.receive(&mut message, 8, wanted)
    })
}

fn msg_rtt(clock: &mut Clock, peer_cpu: usize) -> Outcome<()> {
    let pair = Pair::start(peer_cpu)?;
    let mut message = Message::new();
    pair.round_trip(&mut message)?;
    clock.time(|| pair.round_trip(&mut message))?;
    pair.end()
}

/// A process that sends each message back.
struct Pair {
    there: Queue,
    here: Queue,
    peer: Peer,
}

impl Pair {
    fn start(peer_cpu: usize) -> Outcome<Pair> {
        let (there, here) = (Queue::create(libc::IPC_PRIVATE)?, Queue::create(libc::IPC_PRIVATE)?);
        let peer = Peer::fork(peer_cpu, || {
            let mut message = Message::new();
            // The removal of the queues ends the loop.
            while there.receive(&mut message, 64, 0).is_ok() && here.send(&message, 64).is_ok() {}
            Ok(())
        })?;
        Ok(Pair { there, here, peer })
    }

    fn round_trip(&self, message: &mut Message) -> Outcome<()> {
        self.there.send(message, 64)?;
        self.here.receive(message, 64, 0)
    }

    fn end(self) -> Outcome<()> {
        let Pair { there, here, peer } = self;
        drop((there, here));
        peer.join()
    }
}

/// More tasks than CPUs, all of which sleep and wake: five pairs share the iterations.
fn msg_rtt_crowd(clock: &mut Clock, cpus: &Cpus) -> Outcome<()> {
    const PAIRS: u64 = 5;
    let share = clock.iterations().div_ceil(PAIRS);
    let pairs = (0..PAIRS).map(|_| Pair::start(cpus.second()?)).collect::<Outcome<Vec<_>>>()?;
    let [mine, others @ ..] = &pairs[..] else { return Ok(()) };
    let turn = || mine.round_trip(&mut Message::new());
    turn()?;
    let gate = Gate::new()?;
    let mut crowd = Vec::new();
    for pair in others {
        crowd.push(Peer::fork(cpus.own, || {
            let mut message = Message::new();
            pair.round_trip(&mut message)?;
            gate.wait()?;
            (0..share).try_for_each(|_| pair.round_trip(&mut message))
        })?);
    }
    gate.open(crowd.len())?;
    clock.time_until(share, turn, || crowd.into_iter().try_for_each(Peer::join))?;
    pairs.into_iter().try_for_each(Pair::end)
}

fn msg_rtt_load(clock: &mut Clock, cpus: &Cpus) -> Outcome<()> {
    let busy = || Peer::busy_as_long_as_its_parent_lives();
    let hogs = [Peer::fork(cpus.own, busy)?, Peer::fork(cpus.second()?, busy)?];
    msg_rtt(clock, cpus.second()?)?;
    hogs.into_iter().try_for_each(Peer::kill)
}

/// Waits long enough for the receiver to fall asleep; its CPU time is what counts.
fn msg_cpu_blocked(clock: &mut Clock, cpus: &Cpus) -> Outcome<()> {
    const PAUSE: Duration = Duration::from_millis(1);
    /// It is a receiver that has waited for a while which is measured, not one that still learns how long it has to.
    const WAITS_BEFORE: u32 = 200;
    let (queue, ready) = (Queue::create(libc::IPC_PRIVATE)?, Queue::create(libc::IPC_PRIVATE)?);
    let receiver = Peer::fork(cpus.second()?, || {
        let mut message = Message::new();
        queue.receive(&mut message, 64, 0)?;
        ready.send(&message, 64)?;
        while queue.receive(&mut message, 64, 0).is_ok() {}
        Ok(())
    })?;
    let mut message = Message::new();
    queue.send(&message, 64)?;
    ready.receive(&mut message, 64, 0)?;
    for _ in 0..WAITS_BEFORE {
        thread::sleep(PAUSE / 10);
        queue.send(&message, 64)?;
    }
    thread::sleep(PAUSE);
    let before = receiver.cpu_time()?;
    clock.time(|| {
        queue.send(&message, 64)?;
        thread::sleep(PAUSE);
        Ok(())
    })?;
    clock.set_cost(receiver.cpu_time()? - before);
    drop(queue);
    receiver.join()
}

/// Messages that a POSIX queue has room for unless limits say more.
const MQ_ROOM: usize = 10;

fn mq_pair(clock: &mut Clock, size: usize) -> Outcome<()> {
    let queue = PosixQueue::create(MQ_ROOM, size)?;
    let mut message = Message::new();
    clock.time(|| {
        queue.send(&message, size)?;
        queue.receive(&mut message, size)
    })
}

fn mq_pair_watched(clock: &mut Clock) -> Outcome<()> {
    let queue = PosixQueue::create(MQ_ROOM, 64)?;
    let mut message = Message::new();
    queue.send(&message, 64)?;
    if !queue.is_readable()? {
        return Err("a queue with a message can't be read from".into());
    }
    queue.receive(&mut message, 64)?;
    clock.time(|| {
        queue.send(&message, 64)?;
        queue.receive(&mut message, 64)
    })
}

/// As many messages as that are always there; each that goes is followed by another, so that both ways through the priorities count.
fn mq_prio(clock: &mut Clock, there: usize) -> Outcome<()> {
    const LENGTH: usize = 8;
    let queue = PosixQueue::create(there + 1, LENGTH)?;
    let mut message = Message::new();
    let mut random = 1_u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as c_long % PRIORITIES
    };
    for _ in 0..there {
        message.mtype = next();
        queue.send(&message, LENGTH)?;
    }
    clock.time(|| {
        message.mtype = next();
        queue.send(&message, LENGTH)?;
        queue.receive(&mut message, LENGTH)
    })
}

/// Of POSIX queues; there are so many.
const PRIORITIES: c_long = 32_768;

fn mq_stream(clock: &mut Clock, cpus: &Cpus) -> Outcome<()> {
    const SIZE: usize = 64;
    let (queue, answers) = (PosixQueue::create(MQ_ROOM, SIZE)?, PosixQueue::create(1, SIZE)?);
    stream(clock, cpus, SIZE, &queue, &answers)
}

fn mq_rtt(clock: &mut Clock, peer_cpu: usize) -> Outcome<()> {
    const SIZE: usize = 64;
    const END: c_long = 9;
    let (there, here) = (PosixQueue::create(1, SIZE)?, PosixQueue::create(1, SIZE)?);
    let peer = Peer::fork(peer_cpu, || {
        let mut message = Message::new();
        loop {
            there.receive(&mut message, SIZE)?;
            if message.mtype == END {
                return Ok(());
            }
            here.send(&message, SIZE)?;
        }
    })?;
    let mut message = Message::new();
    let mut round_trip = || {
        there.send(&message, SIZE)?;
        here.receive(&mut message, SIZE)
    };
    round_trip()?;
    clock.time(round_trip)?;
    message.mtype = END;
    there.send(&message, SIZE)?;
    peer.join()
}

fn mq_create(clock: &mut Clock) -> Outcome<()> {
    let name = Name::new();
    clock.time(|| PosixQueue::create_as(&name, MQ_ROOM, 64).map(drop))
}

fn mq_open(clock: &mut Clock) -> Outcome<()> {
    let name = Name::new();
    let _queue = name.open(libc::O_CREAT | libc::O_EXCL, MQ_ROOM, 64)?;
    let opened = clock.time(|| name.open(0, 0, 0).map(drop));
    name.unlink()?;
    opened
}

/// Looks one of so many objects up by its key.
fn get<T>(
    clock: &mut Clock,
    count: libc::key_t,
    create: impl Fn(libc::key_t) -> Outcome<T>,
    get: impl Fn(libc::key_t) -> Outcome<()>,
) -> Outcome<()> {
    let _objects = (KEY..KEY + count).map(create).collect::<Outcome<Vec<_>>>()?;
    clock.time(|| get(KEY + count / 2))
}

/// Looks at so many objects in turn, as ipcs(1) does.
fn list<T>(
    clock: &mut Clock,
    count: libc::key_t,
    create: impl Fn(libc::key_t) -> Outcome<T>,
    look: impl Fn(&T) -> Outcome<()>,
) -> Outcome<()> {
    let objects = (KEY..KEY + count).map(create).collect::<Outcome<Vec<_>>>()?;
    let mut turns = objects.iter().cycle();
    clock.time(|| turns.next().map_or(Ok(()), &look))
}

fn set_of_one(key: libc::key_t) -> Outcome<Set> {
    Set::create(key, 1)
}

fn small_segment(key: libc::key_t) -> Outcome<Segment> {
    Segment::create(key, 4 << 10)
}

/// Another user than the namespace's owner, for good. On the kernel that makes no difference.
fn become_stranger() -> Outcome<()> {
    const NOBODY: libc::uid_t = 65534;
    // SAFETY: asks for a number.
    let uid = unsafe { libc::geteuid() };
    if uid == NOBODY || std::env::var_os("IPCSPACE_SOCKET").is_none() {
        return Ok(());
    }
    // SAFETY: no pointer but that of no groups.
    checked("setgroups, which only root may", unsafe { libc::setgroups(0, std::ptr::null()) })?;
    // SAFETY: numbers.
    checked("setresuid", unsafe { libc::setresuid(NOBODY, NOBODY, NOBODY) }).map(drop)
}

/// A process answers each message of as many bytes as a call and its answer have; it may be on either CPU, as a broker's thread.
fn socket_rtt(clock: &mut Clock, cpus: &Cpus) -> Outcome<()> {
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    let mut ends = [0; 2];
    // SAFETY: room for two numbers.
    checked("socketpair", unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) })?;
    // SAFETY: just made, nobody else has them.
    let [here, there] = ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    let peer = Peer::fork(cpus.own, || {
        cpus.unpin()?;
        // Else its own copy would keep it from seeing the end.
        // SAFETY: closed once, in this process.
        unsafe { libc::close(here.as_raw_fd()) };
        while pass(&there, true)? && pass(&there, false)? {}
        Ok(())
    })?;
    drop(there);
    clock.time(|| {
        pass(&here, false)?;
        pass(&here, true).map(drop)
    })?;
    drop(here);
    peer.join()
}

/// Receives or sends a message. False at the connection's end.
fn pass(socket: &OwnedFd, receive: bool) -> Outcome<bool> {
    // A head of 13 words, and the message.
    let mut bytes = [0u8; 13 * 8 + 64];
    let fd = socket.as_raw_fd();
    // SAFETY: the bytes are valid for their length.
    let passed = unsafe {
        if receive {
            libc::recv(fd, bytes.as_mut_ptr().cast(), bytes.len(), 0)
        } else {
            libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL)
        }
    };
    match passed {
        0 => Ok(false),
        1.. => Ok(true),
        _ => Err(std::io::Error::last_os_error().into()),
    }
}

fn msg_stat(clock: &mut Clock) -> Outcome<()> {
    let queue = Queue::create(libc::IPC_PRIVATE)?;
    clock.time(|| queue.stat().map(drop))
}

fn msg_create(clock: &mut Clock, others: libc::key_t) -> Outcome<()> {
    let _queues = (0..others).map(|i| Queue::create(KEY + i)).collect::<Outcome<Vec<_>>>()?;
    clock.time(|| Queue::create(libc::IPC_PRIVATE)?.remove())
}

fn sem_pair(clock: &mut Clock, flags: c_short) -> Outcome<()> {
    let set = set_of_one(libc::IPC_PRIVATE)?;
    clock.time(|| {
        set.op(&mut [op(0, 1, flags)])?;
        set.op(&mut [op(0, -1, flags)])
    })
}

/// Ten operations in one call, on ten of sixteen semaphores; down and up in turn, so that it can go on for ever.
fn sem_ten(clock: &mut Clock, flags: c_short) -> Outcome<()> {
    let set = Set::create(libc::IPC_PRIVATE, 16)?;
    let mut up: [_; 10] = std::array::from_fn(|i| op(i as c_ushort, 1, flags));
    let mut down: [_; 10] = std::array::from_fn(|i| op(i as c_ushort, -1, flags));
    let mut raised = false;
    clock.time(|| {
        raised = !raised;
        set.op(if raised { &mut up } else { &mut down })
    })
}

fn sem_getval(clock: &mut Clock) -> Outcome<()> {
    let set = set_of_one(libc::IPC_PRIVATE)?;
    clock.time(|| set.value().map(drop))
}

fn sem_rtt(clock: &mut Clock, peer_cpu: usize) -> Outcome<()> {
    let set = Set::create(libc::IPC_PRIVATE, 2)?;
    let peer = Peer::fork(peer_cpu, || {
        while set.op(&mut [op(0, -1, 0)]).is_ok() && set.op(&mut [op(1, 1, 0)]).is_ok() {}
        Ok(())
    })?;
    let round_trip = || {
        set.op(&mut [op(0, 1, 0)])?;
        set.op(&mut [op(1, -1, 0)])
    };
    round_trip()?;
    clock.time(round_trip)?;
    drop(set);
    peer.join()
}

/// A semaphore as a mutex that `processes` want all the time; they are spread over two CPUs.
fn sem_contend(clock: &mut Clock, cpus: &Cpus, processes: u64) -> Outcome<()> {
    let set = set_of_one(libc::IPC_PRIVATE)?;
    let share = clock.iterations().div_ceil(processes);
    let turn = || {
        set.op(&mut [op(0, -1, 0)])?;
        set.op(&mut [op(0, 1, 0)])
    };
    let gate = Gate::new()?;
    let mut others = Vec::new();
    for i in 1..processes {
        let cpu = if i % 2 == 0 { cpus.own } else { cpus.second().unwrap_or(cpus.own) };
        others.push(Peer::fork(cpu, || {
            set.value()?;
            gate.wait()?;
            (0..share).try_for_each(|_| turn())
        })?);
    }
    set.op(&mut [op(0, 1, 0)])?;
    gate.open(others.len())?;
    clock.time_until(share, turn, || others.into_iter().try_for_each(Peer::join))
}

fn sem_create(clock: &mut Clock, others: libc::key_t) -> Outcome<()> {
    let _sets = (KEY..KEY + others).map(set_of_one).collect::<Outcome<Vec<_>>>()?;
    clock.time(|| set_of_one(libc::IPC_PRIVATE)?.remove())
}

fn shm_create(clock: &mut Clock, others: libc::key_t) -> Outcome<()> {
    let _segments = (KEY..KEY + others).map(small_segment).collect::<Outcome<Vec<_>>>()?;
    clock.time(|| small_segment(libc::IPC_PRIVATE)?.remove())
}

fn shm_attach(clock: &mut Clock) -> Outcome<()> {
    let segment = small_segment(libc::IPC_PRIVATE)?;
    clock.time(|| segment.attach()?.detach())
}

/// IPC_STAT of a segment that this process has attached.
fn shm_attach_stat(clock: &mut Clock) -> Outcome<()> {
    let segment = small_segment(libc::IPC_PRIVATE)?;
    let attached = segment.attach()?;
    clock.time(|| segment.stat())?;
    attached.detach()
}

/// Make, attach, detach, remove; nothing is written.
fn shm_cycle(clock: &mut Clock, size: usize) -> Outcome<()> {
    clock.time(|| {
        let segment = Segment::create(libc::IPC_PRIVATE, size)?;
        segment.attach()?.detach()?;
        segment.remove()
    })
}

/// Under ours the environment names the library to preload, so the child loads it.
fn exec_true() -> Outcome<()> {
    let status = Command::new("/bin/true").status()?;
    if status.success() { Ok(()) } else { Err(format!("/bin/true: {status}").into()) }
}
