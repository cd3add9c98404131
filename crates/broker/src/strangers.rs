//! Strangers: processes that may not map the arena, whose calls the broker makes for them.
//!
//! What users see: a process of another user, or in another user or PID namespace, uses the namespace with the rights that it has there. Its ids, and those of
//! others, are shown as its own user and PID namespace know them.
//! What is missing: huge pages; `shm_nattch` of a process whose /proc/PID/maps the broker may not read is what it has told.
//!
//! Each connection has a thread, which makes one call at a time, in the same engine and on the same arena as all. A connection is bound to the process
//! that made it. The credentials are those of each message; the supplementary groups are those of the moment of connecting (a client connects anew
//! after it has changed any), and capabilities are looked at again for each call of who had any: if it is not root, only as long as it executes the program that it had when
//! it was told that it may call, for what it executes later may have more. One more thread sees that a sleeper's connection has
//! something to say, and ends the sleep.
//!
//! A stranger is waited for while nothing is locked, and not for long.
//!
//! # Safety
//! Bytes are copied between the arena, where the engine says that they lie, and memory of ours; descriptors were just received.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use std::{fs, mem};

use abi::{Errno, Plain, Result, ipc, msg, sem, shm, time::Clock};
use arena::{
    ArenaError, CALL_BEGUN, CALL_RECEIVES, Ctx, Handle, Host, SharedBytes, ThreadSlot, sync::AtomicU32,
    sync::Ordering::*,
};
use client::wire::{self, calls};
use client::{LinuxHost, Operation, proc};
use engine::{
    Backing, Begun, Call, Cause, Cred, Deadline, Descriptors, IpcNamespace, MapPlace, MapRequest, Mqd,
    NewMemory, Notice, Outcome, Readiness, Syscall, Task, Usage, ipc_sysctl::Text, mqueue, proc::Line,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    ControlMessage, MsgFlags, Shutdown, UnixAddr, sendmsg, setsockopt, shutdown, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use trap::process;

use crate::caller::Link;
use crate::door::reply;
use crate::left::{self, Left};
use crate::quota::{self, Connection, Turn, User, locked};
use crate::segments;
use crate::service::{ask, namespaces};
use crate::workers;

/// How long a stranger may let us wait in the middle of a call.
const PATIENCE: Duration = Duration::from_secs(10);
/// Questions in the middle of one unmapping.
const LOOK_UPS_MAX: usize = 100_000;
const HEAD_BYTES: usize = calls::HEAD * size_of::<u64>();

/// A stranger's process, by all of its connections.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Its user, when it connected first.
    pub(crate) uid: u32,
    links: Mutex<Vec<RawFd>>,
    busy: AtomicUsize,
    gone: AtomicBool,
}

impl Peer {
    pub(crate) fn new(uid: u32) -> Peer {
        Peer { uid, links: Mutex::default(), busy: AtomicUsize::new(0), gone: AtomicBool::new(false) }
    }

    /// Whether a thread still works for it.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy.load(Acquire) != 0
    }

    /// It has ended: its calls come to an end, at once if none meets a lock that is held.
    pub(crate) fn end(&self) {
        self.gone.store(true, Release);
        for link in locked(&self.links).iter() {
            let _ = shutdown(*link, Shutdown::Both);
        }
    }
}

/// Who a connection is of.
pub(crate) struct Who {
    pub(crate) pid: i32,
    /// Its process slot.
    pub(crate) process: Handle,
    pub(crate) peer: Arc<Peer>,
}

/// Where we are, and whose the namespace is.
pub(crate) struct Home {
    pub(crate) socket: PathBuf,
    pub(crate) owner: u32,
    pub(crate) initial_userns: bool,
    /// Our user and PID namespace.
    pub(crate) namespaces: [u64; 2],
}

/// Serves a connection by a thread that is its own meanwhile, which says so there, and calls `done` when it has come to its end.
///
/// # Errors
/// `EAGAIN`: there can be no more threads.
pub(crate) fn serve(
    link: Arc<Link>,
    who: Who,
    home: Arc<Home>,
    connection: Connection,
    done: impl FnOnce() + Send + 'static,
) -> Result<()> {
    setsockopt(&**link, sockopt::PassCred, &true).map_err(|_| Errno::ENOMEM)?;
    let patience = TimeVal::seconds(PATIENCE.as_secs().cast_signed());
    setsockopt(&**link, sockopt::SendTimeout, &patience).map_err(|_| Errno::ENOMEM)?;
    let peer = who.peer.clone();
    let fd = link.as_raw_fd();
    locked(&peer.links).push(fd);
    peer.busy.fetch_add(1, AcqRel);
    let started = workers::run(Box::new(move || {
        let peer = who.peer.clone();
        // What there is to say is said by its results.
        let _ = client::with(|own| attend(own, &link, who, home, &connection.user));
        locked(&peer.links).retain(|other| *other != fd);
        // If it is not the first thread's still, whose answer comes at that moment.
        if let Some(link) = Arc::into_inner(link) {
            drop(link.into_fd());
        }
        drop(connection);
        peer.busy.fetch_sub(1, AcqRel);
        done();
    }));
    if started.is_err() {
        locked(&peer.links).retain(|other| *other != fd);
        peer.busy.fetch_sub(1, AcqRel);
        return Err(Errno::EAGAIN);
    }
    Ok(())
}

/// Makes a stranger's calls until its connection ends.
fn attend(own: &Operation<'_>, link: &OwnedFd, who: Who, home: Arc<Home>, user: &User) -> Result<()> {
    let turn = user.turn();
    let stranger = Stranger::new(own.host, link, who, home, user);
    let claimed = claim(own, &stranger);
    // From here on it calls.
    reply(link, claimed.as_ref().map(|_| [0; 2]).map_err(|error| *error), None);
    let ctx = claimed?;
    *stranger.turn.borrow_mut() = Some(turn);
    while let Some(message) = stranger.next_call() {
        let [_, number, registers @ ..] = message.head;
        let Ok(()) = stranger.begin(message) else { break };
        let call = Syscall::decode(number.cast_signed(), *registers.first_chunk().unwrap_or(&[0; 6]));
        stranger.call.set(call);
        let left = left::take(stranger.caller.get(), stranger.number.get());
        announce(&ctx, call.as_ref());
        let result = match call {
            Some(call) => stranger.was_made(&call, left).unwrap_or_else(|| make(&ctx, &call)),
            None => of_none_of_the_kernels(&ctx, number.cast_signed(), &registers),
        };
        ctx.flush_wakes();
        stranger.given.take();
        let is_told = stranger.answer(result);
        // A message that was received is the stranger's now. In this order, so that what is free is never taken for one.
        ctx.slot.caller.store(0, Release);
        arena::sync::ordered(&stranger);
        ctx.free_chain();
        if !is_told {
            break;
        }
    }
    stranger.turn.take();
    ctx.quit();
    Ok(())
}

/// A thread slot for the calls. It is the broker's, so that nobody takes it for one that the dead stranger left.
fn claim<'a>(own: &Operation<'a>, stranger: &'a Stranger<'a>) -> Result<Ctx<'a, Stranger<'a>>> {
    for _ in 0..64 {
        match Ctx::claim(own.arena, stranger, Handle::NULL, true) {
            Err(ArenaError::Full) => own.add_thread_span().map_err(engine::util::arena_errno)?,
            Err(other) => return Err(engine::util::arena_errno(other)),
            Ok((ctx, dead)) => {
                if let Some(tid) = dead {
                    engine::reap::settle_slot(&ctx, &ctx.slot, tid);
                }
                return Ok(ctx);
            }
        }
    }
    Err(Errno::ENOMEM)
}

/// Whether the call takes a message.
fn receives(call: &Syscall) -> bool {
    match call {
        Syscall::Msgrcv(call) => call.flags & msg::MSG_COPY == 0,
        Syscall::MqTimedreceive(_) => true,
        _ => false,
    }
}

/// Says in the arena which call is made, so that the next broker knows what came of it, should this one be killed.
fn announce(ctx: &Ctx<'_, Stranger<'_>>, call: Option<&Syscall>) {
    let came = if call.is_some_and(receives) { CALL_RECEIVES } else { CALL_BEGUN };
    // In this order, so that what came of the one before is never taken for this one's.
    ctx.slot.came.store(CALL_BEGUN, Release);
    ctx.slot.call.store(ctx.host.number.get(), Release);
    ctx.slot.came.store(came, Release);
    ctx.slot.caller.store(ctx.host.caller.get(), Release);
}

fn make(ctx: &Ctx<'_, Stranger<'_>>, call: &Syscall) -> Result<i64> {
    let begun = call.begin(ctx)?;
    // Nothing has been seen of it yet.
    if let Some(made) = &*ctx.host.made.borrow() {
        mqueue::distrust(ctx, made.queue)?;
    }
    finish(ctx, begun, |cause| call.resume(ctx, cause))
}

/// Sleeps as long as a call blocks.
fn finish(
    ctx: &Ctx<'_, Stranger<'_>>,
    begun: Begun,
    resume: impl Fn(Cause) -> Result<Outcome>,
) -> Result<i64> {
    // Who sleeps holds a queue by that: its descriptor is not held here as well.
    ctx.host.given.take();
    let mut outcome = begun.outcome;
    let mut waiting = None;
    loop {
        if let Outcome::Done(value) = outcome {
            return Ok(value);
        }
        if waiting.is_none() {
            waiting = ctx.host.user.wait();
        }
        let may_sleep = waiting.is_some();
        let cause = if may_sleep { sleep(ctx, begun.deadline) } else { Cause::Signal };
        if ctx.host.is_gone() {
            // Whatever it was woken for is another's.
            engine::reap::give_up(ctx);
            return Err(Errno::EINTR);
        }
        outcome = match resume(cause) {
            Err(Errno::EINTR) if !may_sleep => return Err(Errno::ENOMEM),
            resumed => resumed?,
        };
    }
}

/// Sleeps until the call's waiter is completed, the stranger interrupts or is gone, or the time is over.
fn sleep(ctx: &Ctx<'_, Stranger<'_>>, deadline: Option<Deadline>) -> Cause {
    let stranger = ctx.host;
    if stranger.interrupted.take() {
        return Cause::Signal;
    }
    let Some(_watched) = Watched::new(stranger.link, ctx.slot.handle()) else { return Cause::Signal };
    let park = || {
        ctx.slot.waiter.park(Cause::Signal, |word, value| {
            let Deadline { clock, ns } = client::next_look(deadline)?;
            let _ = sys::futex_wait_until(word, value, clock, ns);
            Ok(())
        })
    };
    stranger.off_turn(park).map_or_else(|cause| cause, |_| Cause::Woken)
}

/// What is asked by a number that is none of the kernel's.
fn of_none_of_the_kernels(ctx: &Ctx<'_, Stranger<'_>>, ask: i64, registers: &[u64]) -> Result<i64> {
    [of_queue, of_segment, of_file]
        .iter()
        .map(|of| of(ctx, ask, registers))
        .find(|done| *done != Err(Errno::ENOSYS))
        .unwrap_or(Err(Errno::ENOSYS))
}

// ---- segments

/// What is told of segments that are attached; `ENOSYS` if it is something else.
fn of_segment(ctx: &Ctx<'_, Stranger<'_>>, told: i64, registers: &[u64]) -> Result<i64> {
    let &[id, whole, ..] = registers else { return Err(Errno::ENOSYS) };
    match told {
        calls::SHM_UNMAPPED => {
            let id = i32::try_from(id).map_err(|_| Errno::EINVAL)?;
            if !engine::shm::has_attached(ctx, ctx.host.process(), id) {
                return Err(Errno::EINVAL);
            }
            engine::shm::unmapped(ctx, id, whole != 0);
            Ok(0)
        }
        calls::SHM_FORK => {
            engine::shm::fork_begin(ctx);
            Ok(0)
        }
        _ => Err(Errno::ENOSYS),
    }
}

// ---- queues

/// What is asked of a POSIX queue that is none of the kernel's calls; `ENOSYS` if it is something else.
fn of_queue(ctx: &Ctx<'_, Stranger<'_>>, ask: i64, registers: &[u64]) -> Result<i64> {
    let &[first, second, ..] = registers else { return Err(Errno::ENOSYS) };
    match ask {
        calls::MQ_CLOSED => {
            mqueue::do_close_named(ctx, Handle(u32::try_from(first).map_err(|_| Errno::EBADF)?))?;
            Ok(0)
        }
        calls::MQ_WATCH => mqueue::watch(ctx, GIVEN, second != 0).map(|()| 0),
        calls::MQ_NOTIFY_THREAD => {
            let outcome = mqueue::do_mq_notify_thread(ctx, GIVEN)?;
            if !ctx.host.say(&[calls::BEGUN], &[], None) {
                ctx.host.broken.set(true);
            }
            finish(ctx, outcome.into(), |cause| mqueue::resume_mq_notify_thread(ctx, cause))
        }
        calls::MQ_STAT => {
            let mut seen = mqueue::stat_mqd(ctx, GIVEN)?;
            seen.uid = ctx.host.shown_user(seen.uid);
            seen.gid = ctx.host.shown_group(seen.gid);
            seen.notify_pid = ctx.host.shown_pid(seen.notify_pid.cast_signed()).cast_unsigned();
            let bytes: Vec<u8> = seen.words().iter().flat_map(|word| word.to_ne_bytes()).collect();
            ctx.host.write(second, &bytes)?;
            Ok(0)
        }
        _ => Err(Errno::ENOSYS),
    }
}

// ---- files

/// What is asked of one of the namespace's files.
fn of_file(ctx: &Ctx<'_, Stranger<'_>>, ask: i64, registers: &[u64]) -> Result<i64> {
    let &[file, second, third, fourth, ..] = registers else { return Err(Errno::ENOSYS) };
    let sysctl = proc::sysctl_of(file).ok_or(Errno::ENOENT);
    match ask {
        calls::SHOW => {
            let mut line = Line::default();
            let list = usize::try_from(file).ok().and_then(|place| proc::LISTS.get(place));
            let next = match list {
                Some(list) => list.row(ctx, u32::try_from(second).map_err(|_| Errno::EINVAL)?, &mut line)?,
                None => sysctl?.show(ctx, &mut line).map(|()| None)?,
            };
            // Behind the last row there is what is left of the one before.
            let text = if list.is_some() && next.is_none() { &[] } else { line.text() };
            if text.len() as u64 > fourth {
                return Err(Errno::EINVAL);
            }
            ctx.host.write(third, text)?;
            let length = i64::try_from(text.len()).map_err(|_| Errno::EINVAL)?;
            Ok(i64::from(next.unwrap_or(0)) << proc::LENGTH_BITS | length)
        }
        calls::MAY_WRITE => {
            let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
            Ok(sysctl?.may_write(ctx.host, &ns).into())
        }
        calls::WRITE => {
            let size = usize::try_from(fourth).map_err(|_| Errno::EINVAL)?;
            let taken = sysctl?.write(ctx, &Written { stranger: ctx.host, at: third, size }, second)?;
            i64::try_from(taken).map_err(|_| Errno::EINVAL)
        }
        _ => Err(Errno::ENOSYS),
    }
}

/// What a stranger writes.
struct Written<'a> {
    stranger: &'a Stranger<'a>,
    at: u64,
    size: usize,
}

impl Text for Written<'_> {
    fn size(&self) -> usize {
        self.size
    }

    fn byte(&self, at: usize) -> Result<u8> {
        let mut byte = [0];
        self.stranger.read(self.at.wrapping_add(at as u64), &mut byte)?;
        Ok(byte[0])
    }
}

// ---- who watches the connections of sleepers

struct Watcher {
    epoll: Epoll,
    /// The thread slots of the sleepers, by a number that each sleep has.
    sleepers: Mutex<HashMap<u64, Handle>>,
}

fn watcher() -> Option<&'static Watcher> {
    static WATCHER: OnceLock<Option<Watcher>> = OnceLock::new();
    static BEGUN: OnceLock<bool> = OnceLock::new();
    let watcher = WATCHER.get_or_init(|| {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).ok()?;
        Some(Watcher { epoll, sleepers: Mutex::default() })
    });
    let watcher = watcher.as_ref()?;
    let begun = BEGUN.get_or_init(|| {
        let thread = std::thread::Builder::new().name("watcher".into()).stack_size(128 << 10);
        thread.spawn(|| client::with(|own| watcher.watch(own))).is_ok()
    });
    begun.then_some(watcher)
}

impl Watcher {
    fn watch(&self, own: &Operation<'_>) -> Result<()> {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let ready = self.epoll.wait(&mut events, EpollTimeout::NONE).unwrap_or(0);
            let sleepers = locked(&self.sleepers);
            for event in &events[..ready] {
                if let Some(slot) = sleepers.get(&event.data())
                    && let Ok(slot) = own.at::<ThreadSlot>(*slot)
                {
                    slot.waiter.kick(own.host);
                }
            }
        }
    }
}

/// A sleeper whose connection is watched.
struct Watched<'a> {
    watcher: &'static Watcher,
    link: &'a OwnedFd,
    number: u64,
}

impl<'a> Watched<'a> {
    fn new(link: &'a OwnedFd, slot: Handle) -> Option<Watched<'a>> {
        let watcher = watcher()?;
        let number = NUMBER.fetch_add(1, Relaxed);
        locked(&watcher.sleepers).insert(number, slot);
        let watched = Watched { watcher, link, number };
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLONESHOT;
        watcher.epoll.add(link, EpollEvent::new(flags, number)).ok()?;
        Some(watched)
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        let _ = self.watcher.epoll.delete(self.link);
        locked(&self.watcher.sleepers).remove(&self.number);
    }
}

// ---- messages

struct Message {
    head: [u64; calls::HEAD],
    bytes: Vec<u8>,
    /// Process, user, group.
    sender: Option<(i32, u32, u32)>,
    /// The descriptor that came with it.
    file: Option<OwnedFd>,
}

/// The next message; none at the connection's end, or for one that makes no sense. `room` is for the longest there can be.
fn receive(link: &OwnedFd, room: &mut [u8]) -> Option<Message> {
    received(link, room, MsgFlags::empty()).ok().flatten()
}

/// As [`receive`], with flags.
///
/// # Errors
/// The socket's.
fn received(link: &OwnedFd, room: &mut [u8], flags: MsgFlags) -> Result<Option<Message>> {
    let mut head = [0; HEAD_BYTES];
    let received = sys::net::receive_message(link.as_raw_fd(), [&mut head, room], flags.bits())?;
    // SAFETY: just received, nobody else has it.
    let file = received.file.map(|file| unsafe { OwnedFd::from_raw_fd(file.leak()) });
    let sender = received.sender.map(|who| (who.pid.cast_signed(), who.uid, who.gid));
    let length = received.bytes.checked_sub(HEAD_BYTES).filter(|_| !received.is_truncated);
    let Some(bytes) = length.and_then(|length| room.get(..length)) else { return Ok(None) };
    let bytes = bytes.to_vec();
    let mut words = [0; calls::HEAD];
    for (word, from) in words.iter_mut().zip(head.as_chunks().0) {
        *word = u64::from_ne_bytes(*from);
    }
    Ok(Some(Message { head: words, bytes, sender, file }))
}

/// Numbers messages to strangers, and their sleeps.
static NUMBER: AtomicU64 = AtomicU64::new(1);

fn send(
    link: &OwnedFd,
    words: &[u64],
    bytes: &[u8],
    file: Option<&OwnedFd>,
    flags: MsgFlags,
) -> nix::Result<()> {
    let number = NUMBER.fetch_add(1, Relaxed);
    let words = words.iter().copied().chain(std::iter::repeat(0)).take(calls::HEAD - 1).chain([number]);
    let mut head = [0; HEAD_BYTES];
    for (to, word) in head.chunks_exact_mut(size_of::<u64>()).zip(words) {
        to.copy_from_slice(&u64::to_ne_bytes(word));
    }
    let iov = [IoSlice::new(&head), IoSlice::new(bytes)];
    let files = file.map(|file| [file.as_raw_fd()]);
    let rights = files.as_ref().map(|files| [ControlMessage::ScmRights(files)]);
    let control = rights.as_ref().map_or(&[][..], |rights| &rights[..]);
    loop {
        match sendmsg::<UnixAddr>(link.as_raw_fd(), &iov, control, MsgFlags::MSG_NOSIGNAL | flags, None) {
            Err(nix::Error::EINTR) => {}
            sent => return sent.map(drop),
        }
    }
}

/// Whether there is something that the other side has not received yet.
fn has_unread(link: &OwnedFd) -> bool {
    let mut bytes: nix::libc::c_int = 0;
    // SAFETY: room for the number.
    let done = unsafe { nix::libc::ioctl(link.as_raw_fd(), nix::libc::TIOCOUTQ, &raw mut bytes) };
    done != 0 || bytes != 0
}

/// Whether nothing has come that is not received yet, and nothing has gone wrong.
fn is_quiet(link: &OwnedFd) -> bool {
    poll(&mut [PollFd::new(link.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) == Ok(0)
}

// ---- ids

/// One line of uid_map or gid_map: first inside, first outside, how many.
type Range = (u32, u32, u32);

/// How a process's user and PID namespace name what ours name otherwise.
struct Names {
    /// None where it is in ours.
    users: Option<[Vec<Range>; 2]>,
    /// Whether that is so, and not only taken to be.
    are_known: bool,
    /// The PID namespace, where it is not ours.
    pids: Option<u64>,
}

const OVERFLOW_ID: u32 = 65534;

fn map_of(pid: i32, file: &str) -> Vec<Range> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let line = |line: &str| {
        let mut numbers = line.split_whitespace().map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    text.lines().filter_map(line).collect()
}

impl Names {
    fn of(pid: i32, home: &Home) -> Names {
        // Of one that hides them it can't be known: then it has ours.
        let found = namespaces(&pid.to_string());
        let are_known = found.is_ok();
        let [user, pids] = found.unwrap_or(home.namespaces);
        Names {
            are_known,
            users: (user != home.namespaces[0]).then(|| [map_of(pid, "uid_map"), map_of(pid, "gid_map")]),
            pids: (pids != home.namespaces[1]).then_some(pids),
        }
    }

    /// An id of ours as the process knows it: a user's (0) or a group's (1).
    fn inside(&self, kind: usize, id: u32) -> u32 {
        let Some(maps) = &self.users else { return id };
        let within = |(inside, outside, count): &Range| {
            let at = id.checked_sub(*outside).filter(|at| at < count)?;
            inside.checked_add(at)
        };
        maps[kind].iter().find_map(within).unwrap_or(OVERFLOW_ID)
    }

    /// An id of the process's as we know it; the one that is nobody's if it has none.
    fn outside(&self, kind: usize, id: u32) -> u32 {
        let Some(maps) = &self.users else { return id };
        let within = |(inside, outside, count): &Range| {
            let at = id.checked_sub(*inside).filter(|at| at < count)?;
            outside.checked_add(at)
        };
        maps[kind].iter().find_map(within).unwrap_or(u32::MAX)
    }

    /// A process's id as it is in the process's PID namespace; 0 if it is not there.
    fn pid(&self, pid: i32) -> i32 {
        let Some(theirs) = self.pids else { return pid };
        let of = namespaces(&pid.to_string()).ok().filter(|[_, pids]| *pids == theirs);
        let numbers = || {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
            line.split_whitespace().last()?.parse().ok()
        };
        of.and_then(|_| numbers()).unwrap_or(0)
    }
}

// ---- the task

/// Stands for the descriptor that a call is about, whatever its number is to the stranger.
const GIVEN: i32 = 0;
/// Stands for one that the stranger is to have.
const TO_BE_GIVEN: i32 = 1;

/// A descriptor that goes with the answer.
struct Made {
    file: OwnedFd,
    queue: Handle,
    oflag: i32,
}

/// A stranger, for whom a thread of ours makes calls.
struct Stranger<'a> {
    /// The thread that does.
    base: &'a LinuxHost,
    link: &'a OwnedFd,
    who: Who,
    home: Arc<Home>,
    names: Names,
    groups: Vec<u32>,
    /// Capabilities that count here: bits of the kernel's numbers. Zero at first look is zero for ever.
    caps: Cell<u64>,
    /// The program that has them, of a user that is not root: they count only as long as it is executed.
    program: Option<[u64; 4]>,
    cred: Cell<Cred>,
    /// The calling thread.
    tid: Cell<u32>,
    /// As `left.rs` has it: by the id that the thread has for itself.
    caller: Cell<u64>,
    /// The call's number.
    number: Cell<u64>,
    /// Where it runs.
    cpu: Cell<Option<u32>>,
    call: Cell<Option<Syscall>>,
    /// Where messages are received.
    room: RefCell<Vec<u8>>,
    /// What came with the call of the stranger's memory.
    known: RefCell<Vec<(u64, Vec<u8>)>>,
    /// What is to be stored there: one range, as results mostly are.
    stored: RefCell<(u64, Vec<u8>)>,
    /// The descriptor that the call is about.
    given: RefCell<Option<OwnedFd>>,
    made: RefCell<Option<Made>>,
    interrupted: Cell<bool>,
    broken: Cell<bool>,
    user: &'a User,
    /// Held while a call is made, but not while something is waited for.
    turn: RefCell<Option<Turn>>,
}

/// Supplementary groups at the moment of connecting.
fn groups_of(link: &OwnedFd) -> Vec<u32> {
    const SO_PEERGROUPS: nix::libc::c_int = 59;
    let ask = |groups: &mut [u32]| {
        let mut bytes = nix::libc::socklen_t::try_from(mem::size_of_val(groups)).unwrap_or(0);
        // SAFETY: room for as many bytes as are said.
        let done = unsafe {
            nix::libc::getsockopt(
                link.as_raw_fd(),
                nix::libc::SOL_SOCKET,
                SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        (done == 0, bytes as usize / size_of::<u32>())
    };
    // It says how many there are, whether or not there is room.
    let (_, count) = ask(&mut []);
    let mut groups = vec![0; count];
    let (done, count) = ask(&mut groups);
    groups.truncate(if done { count } else { 0 });
    groups
}

/// What tells the program that a process executes from one that it executes later: where its parts lie, which is new at each time, the more so where a program gains rights.
fn program_of(pid: i32) -> Option<[u64; 4]> {
    /// startcode startstack arg_start env_start of proc_pid_stat(5), counted from the state on. Who may not look is shown none.
    const PLACES: [usize; 4] = [23, 25, 45, 47];
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let places = PLACES.map(|at| fields.get(at).and_then(|field| field.parse().ok()).unwrap_or(0));
    places.iter().all(|place| *place > 1).then_some(places)
}

fn capabilities_of(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

impl<'a> Stranger<'a> {
    fn new(
        base: &'a LinuxHost,
        link: &'a OwnedFd,
        who: Who,
        home: Arc<Home>,
        user: &'a User,
    ) -> Stranger<'a> {
        let names = Names::of(who.pid, &home);
        let is_root = who.peer.uid == 0;
        // Those in a user namespace of its own count for nothing here, and where that can't be known, only root's may be others.
        let may_count = names.users.is_none() && (names.are_known || is_root);
        let caps = if may_count { capabilities_of(who.pid) } else { 0 };
        // What is called for comes after this: so if it comes from the process, it comes from that program, or from a later one.
        let program = if caps != 0 && !is_root { program_of(who.pid) } else { None };
        let caps = if is_root || program.is_some() && is_quiet(link) { caps } else { 0 };
        Stranger {
            base,
            link,
            groups: groups_of(link),
            names,
            who,
            home,
            caps: Cell::new(caps),
            program,
            cred: Cell::default(),
            tid: Cell::new(0),
            caller: Cell::new(0),
            number: Cell::new(0),
            cpu: Cell::new(None),
            call: Cell::new(None),
            room: RefCell::new(vec![0; calls::BYTES_MAX]),
            known: RefCell::default(),
            stored: RefCell::default(),
            given: RefCell::default(),
            made: RefCell::default(),
            interrupted: Cell::new(false),
            broken: Cell::new(false),
            user,
            turn: RefCell::default(),
        }
    }

    /// Waits until there is a message.
    fn wait(&self, most: PollTimeout) -> nix::Result<i32> {
        poll(&mut [PollFd::new(self.link.as_fd(), PollFlags::POLLIN)], most)
    }

    /// Waits for something while others of the user have their turn.
    fn off_turn<R>(&self, wait: impl FnOnce() -> R) -> R {
        let had = self.turn.take().is_some();
        let result = wait();
        if had {
            *self.turn.borrow_mut() = Some(self.user.turn());
        }
        result
    }

    /// Sends a message. Whether that was possible.
    fn say(&self, words: &[u64], bytes: &[u8], file: Option<&OwnedFd>) -> bool {
        // Descriptors on their way count for our user, who may have only so many: one for each connection, then.
        if file.is_some() && has_unread(self.link) {
            return false;
        }
        match send(self.link, words, bytes, file, MsgFlags::MSG_DONTWAIT) {
            // It does not take what it was sent before.
            Err(nix::Error::EAGAIN) => {
                self.off_turn(|| send(self.link, words, bytes, file, MsgFlags::empty())).is_ok()
            }
            sent => sent.is_ok(),
        }
    }

    /// Whether it has ended, or has closed the connection.
    fn is_gone(&self) -> bool {
        let mut link = [PollFd::new(self.link.as_fd(), PollFlags::POLLHUP)];
        let is_closed = poll(&mut link, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
        is_closed || sys::has_ended(self.tgid())
    }

    /// The next message that is a call.
    fn next_call(&self) -> Option<Message> {
        loop {
            let message = self.off_turn(|| self.next_message())?;
            match message.head[0] {
                calls::CALL => return Some(message),
                // It came too late.
                calls::INTERRUPT => {}
                _ => return None,
            }
        }
    }

    /// The next message, which may follow an answer at once.
    fn next_message(&self) -> Option<Message> {
        let mut room = self.room.borrow_mut();
        let mut message = None;
        let came = self.user.await_call(|| {
            client::wait_awake(self.cpu.get(), || {
                match received(self.link, &mut room, MsgFlags::MSG_DONTWAIT) {
                    Err(Errno::EAGAIN) => return false,
                    done => message = done.ok().flatten(),
                }
                true
            })
        });
        if came { message } else { receive(self.link, &mut room) }
    }

    /// Takes the credentials and the memory that come with a call.
    fn begin(&self, message: Message) -> Result<()> {
        let (pid, uid, gid) = message.sender.ok_or(Errno::EPERM)?;
        if pid != self.who.pid || self.who.peer.gone.load(Acquire) {
            return Err(Errno::EPERM);
        }
        if self.caps.get() != 0 {
            let caps = capabilities_of(pid);
            // It may have executed one that has gained rights since it sent this. Root has what it would gain.
            let is_same = self.program.is_none() || self.program == program_of(pid);
            self.caps.set(if is_same { caps } else { 0 });
        }
        let has = |cap: u32| self.caps.get() >> cap & 1 != 0;
        let is_owner = uid == self.home.owner;
        self.cred.set(Cred {
            uid,
            fsuid: uid,
            dac_override: is_owner || has(1),
            dac_read_search: is_owner || has(2),
            fowner: is_owner || has(3),
            euid: uid,
            egid: gid,
            fsgid: gid,
            ipc_owner: is_owner || has(15),
            sys_admin: is_owner || has(21),
            checkpoint_restore: is_owner || has(21) || has(40),
            ipc_lock: has(14),
            sys_resource: self.home.initial_userns && has(24),
        });
        let [.., at, at2, lengths, number, tid] = message.head;
        let (len, len2) = (lengths & u64::from(u32::MAX), lengths >> 32);
        self.caller.set(u64::from(self.who.process.0) << 32 | tid & u64::from(u32::MAX));
        self.number.set(number);
        self.tid.set(self.thread(tid & u64::from(u32::MAX)));
        self.cpu.set(calls::cpu_of(tid >> 32));
        let (len, len2) = (usize::try_from(len), usize::try_from(len2));
        let (Ok(len), Ok(len2)) = (len, len2) else { return Err(Errno::EINVAL) };
        if len.checked_add(len2) != Some(message.bytes.len()) {
            return Err(Errno::EINVAL);
        }
        let (first, second) = message.bytes.split_at(len);
        *self.known.borrow_mut() = vec![(at, first.to_owned()), (at2, second.to_owned())];
        *self.stored.borrow_mut() = (0, Vec::new());
        *self.given.borrow_mut() = message.file;
        *self.made.borrow_mut() = None;
        self.interrupted.set(false);
        Ok(())
    }

    /// A thread of the stranger's, by the id that it says it has; the first one where that can't be.
    fn thread(&self, tid: u64) -> u32 {
        let (pid, last) = (self.who.pid, self.tid.get());
        if tid == u64::from(last) {
            return last;
        }
        let is_its =
            self.names.pids.is_none() && fs::exists(format!("/proc/{pid}/task/{tid}")).unwrap_or(false);
        u32::try_from(tid).ok().filter(|_| is_its).unwrap_or(pid.cast_unsigned())
    }

    /// What a call came to that a broker which was killed had made; none if it had not.
    fn was_made(&self, call: &Syscall, left: Option<Left>) -> Option<Result<i64>> {
        let left = left?;
        if let Some((mtype, text)) = left.message.filter(|_| receives(call)) {
            return Some(self.deliver(call, mtype, &text));
        }
        let sends = matches!(call, Syscall::Msgsnd(_) | Syscall::Semtimedop(_) | Syscall::MqTimedsend(_));
        match left.outcome? {
            Ok(()) => sends.then_some(Ok(0)),
            Err(error) => (sends || receives(call)).then_some(Err(error)),
        }
    }

    /// Gives the stranger a message that was received for it.
    fn deliver(&self, call: &Syscall, mtype: i64, text: &[u8]) -> Result<i64> {
        let (at, room) = match call {
            Syscall::Msgrcv(call) => {
                self.write(call.msgp, &mtype.to_ne_bytes())?;
                (call.msgp.wrapping_add(size_of::<i64>() as u64), call.size)
            }
            Syscall::MqTimedreceive(call) => {
                if call.prio != 0 {
                    self.write(call.prio, &u32::try_from(mtype).unwrap_or(0).to_ne_bytes())?;
                }
                (call.msg, call.len)
            }
            _ => return Err(Errno::EINVAL),
        };
        let text = &text[..text.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
        self.write(at, text)?;
        i64::try_from(text.len()).map_err(|_| Errno::EINVAL)
    }

    /// Says what the call came to. False at the connection's end.
    fn answer(&self, result: Result<i64>) -> bool {
        if self.broken.get() {
            return false;
        }
        let call = self.call.take();
        let (error, value) = match result {
            Ok(value) => (0, self.shown(call.as_ref(), value)),
            Err(error) => (u64::from(error.raw().cast_unsigned()), 0),
        };
        let (at, bytes) = mem::take(&mut *self.stored.borrow_mut());
        let made = self.made.take().filter(|_| result.is_ok());
        let (queue, oflag) = made.as_ref().map_or((0, 0), |made| (made.queue.0, made.oflag.cast_unsigned()));
        let cpu = calls::cpu(self.cpu());
        let (value, len) = (value.cast_unsigned(), bytes.len() as u64);
        let head = [calls::ANSWER, error, value, at, len, queue.into(), oflag.into(), cpu];
        self.say(&head, &bytes, made.as_ref().map(|made| &made.file))
    }

    /// A call's result, which may be a process id.
    fn shown(&self, call: Option<&Syscall>, value: i64) -> i64 {
        match call {
            Some(Syscall::Semctl(call)) if call.cmd == sem::GETPID => {
                self.names.pid(i32::try_from(value).unwrap_or(0)).into()
            }
            _ => value,
        }
    }

    /// Waits for the stranger's reply, of this kind or of another one, to something in the middle of a call.
    fn reply(&self, or: u64) -> Result<Message> {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now()).as_millis();
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            let ready = self.off_turn(|| self.wait(left));
            if ready == Err(nix::Error::EINTR) {
                continue;
            }
            let message = if ready == Ok(1) { receive(self.link, &mut self.room.borrow_mut()) } else { None };
            match message {
                Some(message) if message.head[0] == calls::INTERRUPT => self.interrupted.set(true),
                Some(message) if message.head[0] == calls::DONE || message.head[0] == or => {
                    return Ok(message);
                }
                _ => {
                    self.broken.set(true);
                    return Err(Errno::EFAULT);
                }
            }
        }
    }

    fn done(&self) -> Result<(u64, Vec<u8>)> {
        self.reply(calls::DONE).and_then(Stranger::result)
    }

    fn result(message: Message) -> Result<(u64, Vec<u8>)> {
        let Message { head: [_, error, value, ..], bytes, .. } = message;
        match i32::try_from(error) {
            Ok(0) => Ok((value, bytes)),
            // The kernel's error numbers end there.
            Ok(error @ 1..4095) => Err(Errno::from_raw(error)),
            _ => Err(Errno::EFAULT),
        }
    }

    /// Asks for something in the middle of a call.
    fn request(&self, words: &[u64], file: Option<&OwnedFd>) -> Result<(u64, Vec<u8>)> {
        if self.broken.get() || !self.say(words, &[], file) {
            self.broken.set(true);
            return Err(Errno::EFAULT);
        }
        self.done()
    }

    /// Bytes of the stranger's memory.
    fn read(&self, at: u64, to: &mut [u8]) -> Result<()> {
        let sent = |(start, bytes): &(u64, Vec<u8>)| {
            let from = usize::try_from(at.checked_sub(*start)?).ok()?;
            bytes.get(from..from.checked_add(to.len())?).map(<[u8]>::to_vec)
        };
        let known = self.known.borrow().iter().find_map(sent);
        if let Some(known) = known {
            to.copy_from_slice(&known);
            return Ok(());
        }
        let mut at = at;
        for part in to.chunks_mut(calls::BYTES_MAX) {
            let (_, bytes) = self.request(&[calls::FETCH, at, part.len() as u64], None)?;
            if bytes.len() != part.len() {
                self.broken.set(true);
                return Err(Errno::EFAULT);
            }
            part.copy_from_slice(&bytes);
            at = at.wrapping_add(part.len() as u64);
        }
        Ok(())
    }

    /// Bytes for the stranger's memory. Whether they can be stored is seen there: what the call comes to is the same.
    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let mut at = at;
        for part in bytes.chunks(calls::BYTES_MAX) {
            let mut stored = self.stored.borrow_mut();
            let (start, before) = &mut *stored;
            let follows = start.checked_add(before.len() as u64) == Some(at);
            if before.is_empty() {
                *start = at;
            } else if !follows || before.len() + part.len() > calls::BYTES_MAX {
                let sent = self.say(&[calls::STORE, *start, before.len() as u64], before, None);
                before.clear();
                *start = at;
                if !sent {
                    self.broken.set(true);
                    return Err(Errno::EFAULT);
                }
            }
            before.extend_from_slice(part);
            at = at.wrapping_add(part.len() as u64);
        }
        Ok(())
    }

    /// Whether the bytes are a structure that the present call shows, and where in it process ids are.
    fn is_shown(&self, len: usize) -> Option<&'static [usize]> {
        const MSG: &[usize] =
            &[mem::offset_of!(msg::Msqid64Ds, msg_lspid), mem::offset_of!(msg::Msqid64Ds, msg_lrpid)];
        const SHM: &[usize] =
            &[mem::offset_of!(shm::Shmid64Ds, shm_cpid), mem::offset_of!(shm::Shmid64Ds, shm_lpid)];
        let (size, pids) = match self.call.get()? {
            Syscall::Msgctl(_) => (size_of::<msg::Msqid64Ds>(), MSG),
            Syscall::Semctl(call) if !matches!(call.cmd, sem::GETALL | sem::SETALL) => {
                (size_of::<sem::Semid64Ds>(), &[][..])
            }
            Syscall::Shmctl(_) => (size_of::<shm::Shmid64Ds>(), SHM),
            _ => return None,
        };
        (size == len).then_some(pids)
    }

    /// Puts the stranger's names of users, groups and processes in the place of ours.
    fn name_inside(&self, bytes: &mut [u8]) {
        let Some(pids) = self.is_shown(bytes.len()) else { return };
        for (kind, at) in ID_PLACES {
            change(bytes, at, |id| self.names.inside(kind, id));
        }
        for at in pids {
            change(bytes, *at, |pid| self.names.pid(pid.cast_signed()).cast_unsigned());
        }
    }

    /// The other way round, for `IPC_SET`.
    fn name_outside(&self, bytes: &mut [u8]) {
        if self.is_shown(bytes.len()).is_some() {
            for (kind, at) in ID_PLACES {
                change(bytes, at, |id| self.names.outside(kind, id));
            }
        }
    }
}

/// Where in the head of each such structure ids of users (0) and groups (1) are.
const ID_PLACES: [(usize, usize); 4] = [
    (0, mem::offset_of!(ipc::Ipc64Perm, uid)),
    (1, mem::offset_of!(ipc::Ipc64Perm, gid)),
    (0, mem::offset_of!(ipc::Ipc64Perm, cuid)),
    (1, mem::offset_of!(ipc::Ipc64Perm, cgid)),
];

fn change(bytes: &mut [u8], at: usize, to: impl Fn(u32) -> u32) {
    if let Some(word) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<4>) {
        *word = to(u32::from_ne_bytes(*word)).to_ne_bytes();
    }
}

// SAFETY: it is the thread's own host, under another name.
unsafe impl Host for Stranger<'_> {
    fn map_extent(&self, index: u32) -> std::result::Result<NonNull<u8>, ArenaError> {
        self.base.map_extent(index)
    }

    fn back(&self, start: NonNull<u8>, len: usize) -> std::result::Result<(), ArenaError> {
        self.base.back(start, len)
    }

    fn unback(&self, start: NonNull<u8>, len: usize) {
        self.base.unback(start, len);
    }

    fn tid(&self) -> u32 {
        self.base.tid()
    }

    fn arm(&self, word: &AtomicU32) {
        self.base.arm(word);
    }

    fn disarm(&self) {
        self.base.disarm();
    }

    fn lock_wait(&self, word: &AtomicU32, value: u32, rounds: u32, offset: u64) {
        self.base.lock_wait(word, value, rounds, offset);
    }

    fn wake(&self, word: &AtomicU32, count: u32) {
        self.base.wake(word, count);
    }

    fn cpu(&self) -> u32 {
        self.base.cpu()
    }

    fn process_dead(&self, pid: u32, start: u64) -> bool {
        self.base.process_dead(pid, start)
    }

    fn thread_dead(&self, tid: u32) -> bool {
        self.base.thread_dead(tid)
    }

    fn trim_wanted(&self) {
        self.base.trim_wanted();
    }
}

impl Backing for Stranger<'_> {
    fn make_memory(&self, wanted: NewMemory, named: impl FnOnce(u64) -> Handle) -> Result<()> {
        if wanted.flags & shm::SHM_HUGETLB != 0 {
            return Err(Errno::EPERM);
        }
        self.base.make_memory(wanted, named)
    }

    fn map_memory(&self, wanted: &MapRequest, _replaced: impl FnMut(i32, bool)) -> Result<u64> {
        // For reading only, the descriptor is one that can't be written, and the mapping can't become so.
        let file = segments::file(wanted.memory, !wanted.write)?;
        let (kind, at) = match wanted.place {
            MapPlace::Anywhere => (0, 0),
            MapPlace::Free(at) => (1, at),
            MapPlace::Over(at) => (2, at),
        };
        let flags = u64::from(wanted.write) | u64::from(wanted.execute) << 1;
        let id = u64::from(wanted.id.cast_unsigned());
        self.request(&[calls::MAP, id, wanted.memory, kind, at, flags], Some(&file)).map(|(at, _)| at)
    }

    fn unmap_memory(&self, addr: u64, segment_of: impl Fn(u64) -> Option<(i32, u64)>) -> Result<i32> {
        let mut said = self.say(&[calls::UNMAP, addr], &[], None);
        // It has as many mappings as a process can have, at most.
        for _ in 0..LOOK_UPS_MAX {
            if !said {
                break;
            }
            let message = self.reply(calls::LOOK_UP)?;
            if message.head[0] == calls::DONE {
                let (id, _) = Stranger::result(message)?;
                return i32::try_from(id.cast_signed()).map_err(|_| Errno::EINVAL);
            }
            let (id, size) = segment_of(message.head[1]).map_or((0, 0), |(id, size)| (id + 1, size));
            said = self.say(&[calls::KNOWN, u64::from(id.cast_unsigned()), size], &[], None);
        }
        self.broken.set(true);
        Err(Errno::EINVAL)
    }

    fn drop_memory(&self, memory: u64) {
        self.base.drop_memory(memory);
    }

    fn retire_memory(&self, memory: u64, read_only: Option<i32>) -> Result<bool> {
        self.base.retire_memory(memory, read_only)
    }

    fn settle(&self, id: Option<i32>) -> Result<(u64, u64)> {
        // By the first thread, as all who ask.
        let which = if id.is_some() { wire::ASK_COUNT } else { wire::ASK_USAGE };
        let mut answer = [0; wire::ANSWER];
        let asked = ask(&self.home.socket, which, [id.unwrap_or(0).cast_unsigned(), 0], &mut answer);
        match asked {
            Ok(Some(_)) => {
                let [_, _, first, second] = wire::decode(&answer);
                Ok((first.into(), second.into()))
            }
            _ => Err(Errno::ENOSYS),
        }
    }

    fn memory_usage(&self, memory: u64) -> Result<(u64, u64)> {
        segments::memory_usage(memory)
    }

    fn lock_memory(&self, memory: u64, lock: bool) -> Result<()> {
        let which = if lock { wire::ASK_LOCK } else { wire::ASK_UNLOCK };
        #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
        let halves = [memory as u32, (memory >> 32) as u32];
        match ask(&self.home.socket, which, halves, &mut [0; wire::ANSWER]) {
            Ok(Some(_)) => Ok(()),
            _ => Err(Errno::ENOMEM),
        }
    }

    fn watch_removed(&self) {
        // The broker's own look is for its first thread, which sleeps.
        client::have_segments_looked_at(self.base);
    }

    fn memlock_limit(&self) -> u64 {
        process::soft_limit(self.who.pid.cast_unsigned(), "Max locked memory")
    }
}

impl Descriptors for Stranger<'_> {
    fn new_mqd(&self, queue: Handle, oflag: i32) -> Result<i32> {
        let file = client::mqd::open_new(queue, oflag)?;
        // SAFETY: just opened, nobody else has it.
        let file = unsafe { OwnedFd::from_raw_fd(file.leak()) };
        *self.made.borrow_mut() = Some(Made { file, queue, oflag });
        Ok(TO_BE_GIVEN)
    }

    fn drop_mqd(&self, _: i32) {
        self.made.take();
    }

    fn mqd(&self, _: i32) -> Result<Mqd> {
        let given = self.given.borrow();
        let given = given.as_ref().ok_or(Errno::EBADF)?;
        client::mqd::of_given(given.as_raw_fd()).map_err(|_| Errno::EBADF)
    }

    fn mqd_nonblock(&self, _: i32) -> bool {
        self.given.borrow().as_ref().is_some_and(|given| self.base.mqd_nonblock(given.as_raw_fd()))
    }

    fn set_mqd_nonblock(&self, _: i32, nonblock: bool) {
        if let Some(given) = &*self.given.borrow() {
            self.base.set_mqd_nonblock(given.as_raw_fd(), nonblock);
        }
    }

    fn queue_held(&self, queue: Handle) -> bool {
        self.base.queue_held(queue)
    }

    fn show_readiness(&self, queue: Handle, _: i32, from: Readiness, to: Readiness, edges: bool) {
        // By a descriptor of our own, which does not wait.
        self.base.show_readiness(queue, mqueue::NO_FD, from, to, edges);
    }

    fn notify(&self, notice: &Notice) {
        self.base.notify(notice);
    }

    fn program(&self, pid: u32) -> u64 {
        self.base.program(pid)
    }

    fn watch_unlinked(&self) {
        // As in `watch_removed`.
        client::have_segments_looked_at(self.base);
    }

    fn msgqueue_limit(&self) -> u64 {
        process::soft_limit(self.who.pid.cast_unsigned(), "Max msgqueue size")
    }

    fn umask(&self) -> u32 {
        process::umask(self.who.pid.cast_unsigned())
    }

    fn scheduling_priority(&self) -> i32 {
        sys::queue::scheduling_priority(self.tid.get())
    }
}

impl Task for Stranger<'_> {
    const HAS_QUOTAS: bool = true;
    const ASKS_LATER: bool = true;

    fn charge(&self, ctx: &Ctx<'_, Self>, creator: u32, more: Usage) -> bool {
        // As with the kernel's limits, and the owner's memory is its own.
        if creator == self.home.owner || self.cred().sys_resource {
            return true;
        }
        quota::user(creator).charge(ctx, creator, more)
    }

    fn tgid(&self) -> u32 {
        self.who.pid.cast_unsigned()
    }

    fn caller(&self) -> u32 {
        self.tid.get()
    }

    fn process(&self) -> Handle {
        self.who.process
    }

    fn cred(&self) -> Cred {
        self.cred.get()
    }

    fn shown_pid(&self, pid: i32) -> i32 {
        self.names.pid(pid)
    }

    fn shown_user(&self, uid: u32) -> u32 {
        self.names.inside(0, uid)
    }

    fn shown_group(&self, gid: u32) -> u32 {
        self.names.inside(1, gid)
    }

    fn in_group(&self, gid: u32) -> bool {
        self.groups.contains(&gid)
    }

    fn now(&self) -> i64 {
        self.base.now()
    }

    fn clock_ns(&self, clock: Clock) -> u64 {
        self.base.clock_ns(clock)
    }

    fn copy_from_user(&self, to: SharedBytes<'_>, from: u64) -> Result<()> {
        let mut bytes = vec![0; to.len()];
        self.read(from, &mut bytes)?;
        // SAFETY: `to` is mapped for its length, which is that of `bytes`.
        unsafe { to.start().as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    fn copy_to_user(&self, to: u64, from: SharedBytes<'_>) -> Result<()> {
        let mut bytes = vec![0; from.len()];
        // SAFETY: `from` is mapped for its length, which is that of `bytes`.
        unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(from.start().as_ptr(), bytes.len()) };
        self.write(to, &bytes)
    }

    fn put_user<P: Plain>(&self, to: u64, value: &P) -> Result<()> {
        // SAFETY: plain: all of its bytes may be read.
        let bytes =
            unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast::<u8>(), size_of::<P>()) };
        let mut bytes = bytes.to_vec();
        self.name_inside(&mut bytes);
        self.write(to, &bytes)
    }

    fn get_user<P: Plain>(&self, from: u64) -> Result<P> {
        let mut bytes = vec![0; size_of::<P>()];
        self.read(from, &mut bytes)?;
        self.name_outside(&mut bytes);
        let mut value = P::default();
        // SAFETY: plain: any bytes are a value of it, and there are as many.
        unsafe {
            std::ptr::from_mut(&mut value).cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
        };
        Ok(value)
    }
}
