//! A stranger's calls: the broker makes them, with the credentials of each message, and this process gives and takes what they read and write
//! of its memory.
//!
//! What users see: a process of another user, or in another user or PID namespace, has the namespace's IPC with the rights that it has in it, as with the kernel.
//! Each thread keeps a connection, closed by exec; one that the program has closed, or put something else in the place of, is noticed by its inode.
//! A descriptor of a POSIX queue comes with the answer, and goes with each call on it: so the broker knows what it is, and that it is held.
//! What is missing: huge pages; cancellation. A handler that leaves a call by `siglongjmp` leaves its connection open.
//!
//! # Safety
//! What the broker sends goes where the call that the program made stores its results, and the kernel checks the address.
//!
//! No signal is handled between the sending of a call and the wait for its answer, so none comes too early to end it.

#![expect(unsafe_code, reason = "a call's results are stored in the program's memory")]

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::*};

use abi::{
    Errno, Result,
    ipc::IPC_SET,
    mqueue::{MqAttr, SIGEV_THREAD, Sigevent},
    syscall as nr,
    time::{Clock, Timespec},
};
use arena::{Handle, Host as _};
use engine::{Call, Cred, Descriptors as _, MapPlace, MapRequest, Mqd, Task as _};
use sys::{
    memory as files,
    net::{self, Credentials, Fd, Taken},
    queue,
};

use crate::{
    LinuxHost, attach, attachments, holders, memory, mqd,
    park::wait_awake,
    tls::{self, Tls},
    wire::{self, calls},
};

/// Of what a call reads for sure, as much is sent with it.
const SENT_AT_ONCE: usize = 16 << 10;

/// Whether the thread's process was told that it is a stranger, and has still the same credentials.
pub(crate) fn is_known(tls: &Tls) -> bool {
    is_known_as(tls, sys::getpid())
}

fn is_known_as(tls: &Tls, pid: u32) -> bool {
    let known = tls.stranger.load(Relaxed);
    known != 0 && known == tls::credentials_generation() && tls.stranger_pid.load(Relaxed) == pid
}

/// The process was told so.
pub(crate) fn note(tls: &Tls) {
    tls.stranger.store(tls::credentials_generation(), Relaxed);
    tls.stranger_pid.store(sys::getpid(), Relaxed);
}

/// Makes a call by the broker.
///
/// # Errors
/// The call's; `ENOSYS` without a broker, `EACCES` if it won't.
#[cold]
#[inline(never)]
pub(crate) fn call<C: Call>(call: &C) -> Result<i64> {
    let (number, registers) = call.registers();
    match ask(number, registers) {
        // What a socket is for a notification is not seen there.
        Err(Errno::EBADF) if number == nr::MQ_NOTIFY => Err(refused_notify(registers[1])),
        done => done,
    }
}

/// Why a notification can't be had, where the descriptor is wrong that it would go to.
fn refused_notify(sevp: u64) -> Errno {
    let host = LinuxHost { tls: tls::get() };
    match host.get_user::<Sigevent>(sevp) {
        Ok(event) if sevp != 0 && event.sigev_notify == SIGEV_THREAD => {
            queue::check_netlink(event.sigev_signo).err().unwrap_or(Errno::EINVAL)
        }
        _ => Errno::EBADF,
    }
}

/// Does something here, or for a stranger otherwise.
pub(crate) fn or_by_broker<R>(here: Result<R>, by_broker: impl FnOnce() -> Result<R>) -> Result<R> {
    match here {
        Err(Errno::EACCES) if attach::generation() == 0 => by_broker(),
        done => done,
    }
}

/// Makes a call by its number.
///
/// # Errors
/// As [`call`].
pub(crate) fn ask(number: i64, registers: [u64; 6]) -> Result<i64> {
    ask_telling(number, registers, &mut || ())
}

/// As [`ask`]; `begun` is called where the call tells that it sleeps.
///
/// # Errors
/// As there.
pub(crate) fn ask_telling(number: i64, registers: [u64; 6], begun: &mut dyn FnMut()) -> Result<i64> {
    let tls = tls::get();
    if number == nr::MQ_OPEN {
        // Nothing is made that can't be had.
        LinuxHost { tls }.mqd_possible()?;
    }
    let before = sys::signal::set_mask(!0);
    let pid = sys::getpid();
    let mut tries = 0;
    let mut interrupted = false;
    // Time goes on, so no other call of the thread's has it.
    let known_as = sys::clock_ns(Clock::Monotonic);
    let done = (|| loop {
        // Taken, so that a handler's call has another one.
        let kept = tls.connection.swap(0, Relaxed);
        let (connection, packed) = match still_ours(kept, tls, pid) {
            Some(connection) => (connection, kept),
            None => connect(tls, pid)?,
        };
        let sent = send_call(connection.raw(), number, registers, known_as).map_err(|_| Lost::Unread);
        let done = match sent
            .and_then(|()| exchange(&connection, number, registers, before, &mut interrupted, begun))
        {
            Ok(done) => done,
            // Another broker may be in the place of this one, which was killed, or wanted no more of it.
            Err(lost) if tries < TRIES => match lost.is(number) {
                Some(done) => return done,
                None => {
                    tries += 1;
                    continue;
                }
            },
            Err(_) => return Err(Errno::ENOSYS),
        };
        if tls.connection.load(Relaxed) == 0 {
            tls.connection.store(packed, Relaxed);
            connection.leak();
        }
        return done;
    })();
    sys::signal::set_mask(before);
    done
}

fn pack(fd: &Fd, ino: u64) -> u64 {
    u64::from(fd.raw().cast_unsigned() + 1) << 32 | ino & 0xffff_ffff
}

/// The kept connection, if it is still what it was, and not that of the parent.
fn still_ours(packed: u64, tls: &Tls, pid: u32) -> Option<Fd> {
    const S_IFMT: u32 = 0o170_000;
    const S_IFSOCK: u32 = 0o140_000;
    let fd = i32::try_from((packed >> 32).checked_sub(1)?).ok()?;
    let stat = files::stat(fd).ok()?;
    if stat.ino & 0xffff_ffff != packed & 0xffff_ffff || stat.mode & S_IFMT != S_IFSOCK {
        return None;
    }
    let connection = Fd::new(fd);
    // The parent's is closed here. So is one that was made with other credentials: groups are those of the moment of connecting.
    let is_own = tls.connection_pid.load(Relaxed) == pid && is_known_as(tls, pid);
    is_own.then_some(connection)
}

/// Whether this program has had a connection: what it has attached is its own then.
static CONNECTED: AtomicBool = AtomicBool::new(false);
/// The process that has had one.
static CONNECTED_PID: AtomicU32 = AtomicU32::new(0);

/// Whether the process has had calls made so.
pub(crate) fn has_called() -> bool {
    CONNECTED_PID.load(Relaxed) == sys::getpid()
}

/// Whether the process is a stranger, whose program has had calls made so: by this process, or by one that forked it.
pub(crate) fn is_one() -> bool {
    attach::generation() == 0 && CONNECTED.load(Relaxed)
}

/// A new connection of the thread's, and what it is kept as.
fn connect(tls: &Tls, pid: u32) -> Result<(Fd, u64)> {
    let again = CONNECTED.load(Relaxed) || attach::was_attached();
    let link = holders::out_of_the_way(attach::exchange(wire::ASK_CALLS, [again.into(), 0])?.link);
    CONNECTED.store(true, Relaxed);
    CONNECTED_PID.store(pid, Relaxed);
    net::set_patience(link.raw(), AT_ONCE_US)?;
    let packed = pack(&link, files::stat(link.raw())?.ino);
    tls.connection_pid.store(pid, Relaxed);
    tls.connection_tid.store(sys::gettid(), Relaxed);
    Ok((link, packed))
}

/// So long an answer is waited for in one system call, with signals blocked: longer than one takes, unless the call sleeps.
const AT_ONCE_US: u64 = 2000;

/// How often a call is made anew whose broker was killed.
const TRIES: u32 = 10;

/// The connection is of no use any more.
enum Lost {
    /// Nobody has read the call.
    Unread,
    /// It may have been made, or not.
    Begun,
    /// It was made as far as it is to be seen: this was mapped, or unmapped.
    Made(i64),
}

impl Lost {
    /// What the call came to; none if it is to be made anew: the next broker knows what came of those that send, receive or change semaphores.
    fn is(self, number: i64) -> Option<Result<i64>> {
        match self {
            Lost::Made(value) => Some(Ok(value)),
            // Its caller begins it anew, and is told then.
            Lost::Begun if number == calls::MQ_NOTIFY_THREAD => Some(Err(Errno::EINTR)),
            Lost::Begun | Lost::Unread => None,
        }
    }
}

type Done = core::result::Result<Result<i64>, Lost>;

/// One call that was sent, to its answer. `interrupted` says whether a signal has come meanwhile, for this broker or one before.
fn exchange(
    connection: &Fd,
    number: i64,
    registers: [u64; 6],
    mask: u64,
    interrupted: &mut bool,
    begun: &mut dyn FnMut(),
) -> Done {
    let mut made = None;
    let mut heard = false;
    if *interrupted {
        interrupt(connection.raw()).map_err(|_| Lost::Begun)?;
    }
    let mut talk = Talk { heard: &mut heard, made: &mut made, interrupted };
    let expected = results(number, registers);
    converse(connection.raw(), mask, expected, &mut talk, begun).map_err(|error| match made {
        Some(value) => Lost::Made(value),
        // What was sent to the broker lay there when it was closed.
        None if error == Errno::ECONNRESET && !heard => Lost::Unread,
        None => Lost::Begun,
    })
}

/// Where a call stores what it results in: at one place from there on, or nowhere. None where the messages are to be looked at first.
fn results(number: i64, [_, b, c, ..]: [u64; 6]) -> Option<(usize, usize)> {
    match number {
        nr::MSGSND | nr::SEMTIMEDOP | nr::MQ_TIMEDSEND => Some((0, 0)),
        nr::MSGRCV => Some((b as usize, (c as usize).saturating_add(8).min(calls::BYTES_MAX))),
        _ => None,
    }
}

/// The next message: taken, where it is known where its bytes go; else its head is looked at.
///
/// # Errors
/// `EAGAIN`: there was none, at once or for a while. Those of [`net::take_parts`], and `EPIPE` at the connection's end.
///
/// # Safety
/// As there.
unsafe fn next(
    fd: i32,
    head: &mut [u64; calls::HEAD],
    place: Option<(usize, usize)>,
    wait: bool,
) -> Result<Taken> {
    let Some(place) = place else {
        return if net::peek_words(fd, head, wait)? { Ok(Taken::default()) } else { Err(Errno::EPIPE) };
    };
    // SAFETY: the caller's promise.
    unsafe { net::take_parts(fd, head, place, wait) }
}

/// As [`next`], which waits, awake where the answer is likely to come soon.
///
/// # Errors
/// As there.
///
/// # Safety
/// As there.
unsafe fn soon(fd: i32, head: &mut [u64; calls::HEAD], place: Option<(usize, usize)>) -> Result<Taken> {
    let broker = calls::cpu_of(tls::get().connection_cpu.load(Relaxed).into());
    let mut taken = Err(Errno::EAGAIN);
    let came = wait_awake(broker, || {
        // SAFETY: the caller's promise.
        taken = unsafe { next(fd, head, place, false) };
        !matches!(taken, Err(Errno::EAGAIN))
    });
    // SAFETY: as above.
    if came { taken } else { unsafe { next(fd, head, place, true) } }
}

/// What is known of a call whose answer has not come.
struct Talk<'a> {
    /// The broker has it, for sure.
    heard: &'a mut bool,
    /// What was mapped or unmapped for it.
    made: &'a mut Option<i64>,
    /// A signal has come.
    interrupted: &'a mut bool,
}

/// What the broker asks, up to the call's answer.
///
/// # Errors
/// The connection is of no use any more: `ECONNRESET` if something that was sent was not read.
fn converse(
    fd: i32,
    mask: u64,
    mut expected: Option<(usize, usize)>,
    Talk { heard, made, interrupted }: &mut Talk<'_>,
    begun: &mut dyn FnMut(),
) -> Result<Result<i64>> {
    let mut faulted = false;
    let mut reset = false;
    loop {
        let mut head = [0; calls::HEAD];
        // SAFETY: where the call that the program made stores its results.
        let taken = match unsafe { soon(fd, &mut head, expected) } {
            Err(Errno::EAGAIN) => {
                match net::wait_readable(fd, (!**interrupted).then_some(mask)) {
                    Err(Errno::EINTR) if !**interrupted => {
                        **interrupted = true;
                        **heard = true;
                        interrupt(fd)?;
                    }
                    Err(Errno::EINTR) => {}
                    other => other?,
                }
                continue;
            }
            // It was killed before it read of a signal; the answer may have been sent before.
            Err(Errno::ECONNRESET) if **interrupted && !reset => {
                reset = true;
                continue;
            }
            // The place is none at all: nothing was taken.
            Err(Errno::EFAULT) if expected.is_some() && head[0] == 0 => {
                expected = None;
                continue;
            }
            other => other,
        };
        **heard |= matches!(taken, Ok(_) | Err(Errno::EFAULT));
        let [kind, a, b, c, d, queue, oflag, cpu, ..] = head;
        let place = match kind {
            calls::STORE => (a as usize, b as usize),
            calls::ANSWER => (c as usize, d as usize),
            _ => (0, 0),
        };
        let file = match (taken, expected) {
            (Err(Errno::EFAULT), Some(_)) => {
                faulted = true;
                None
            }
            (Err(error), _) => return Err(error),
            (Ok(taken), Some(expected)) => {
                // It was stored already, and must have been meant for there.
                let (bytes, is_there) = (place.1, place.0 == expected.0 && place.1 <= expected.1);
                if taken.bytes != bytes || bytes > 0 && !is_there {
                    return Err(Errno::EPROTO);
                }
                taken.file
            }
            (Ok(_), None) => {
                // After a fault, nothing more is stored.
                let place = if faulted { (0, 0) } else { place };
                // SAFETY: as above.
                match unsafe { net::take_parts(fd, &mut head, place, true) } {
                    Err(Errno::EFAULT) => {
                        faulted = true;
                        pass_over(fd, head[calls::HEAD - 1])?;
                        None
                    }
                    other => other?.file,
                }
            }
        };
        if place.1 > 0 || faulted {
            // What follows goes elsewhere.
            expected = None;
        }
        if kind == calls::ANSWER {
            tls::get().connection_cpu.store(u32::try_from(cpu).unwrap_or(0), Relaxed);
        }
        match kind {
            calls::STORE => {}
            calls::BEGUN => begun(),
            calls::FETCH => {
                let range = (a as usize, (b as usize).min(calls::BYTES_MAX));
                match send(fd, &[calls::DONE, 0, 0], range) {
                    Err(Errno::EFAULT) => reply(fd, Err(Errno::EFAULT))?,
                    other => other?,
                }
            }
            calls::MAP => {
                let mapped = file.ok_or(Errno::EMFILE).and_then(|file| map(&head, file));
                **made = mapped.ok();
                reply(fd, mapped)?;
            }
            calls::UNMAP => {
                let unmapped = attachments::unmap(a, |memory| look_up(fd, memory).unwrap_or(None));
                **made = unmapped.ok().map(|_| 0);
                reply(fd, unmapped.map(i64::from))?;
            }
            calls::ANSWER if faulted => return Ok(Err(Errno::EFAULT)),
            calls::ANSWER if a != 0 => return Ok(Err(error(a))),
            calls::ANSWER if queue != 0 => return Ok(opened(queue, oflag, file)),
            calls::ANSWER => return Ok(Ok(b.cast_signed())),
            _ => return Err(Errno::EPROTO),
        }
    }
}

/// A new descriptor of a queue.
#[expect(clippy::cast_possible_truncation, reason = "as they were there")]
fn opened(queue: u64, oflag: u64, file: Option<Fd>) -> Result<i64> {
    let fd = file.ok_or(Errno::EMFILE)?.leak();
    mqd::learn(fd, Mqd::opened(Handle(queue as u32), (oflag as u32).cast_signed()));
    Ok(fd.into())
}

/// Registers the calling thread for a message into a descriptor's queue, and sleeps until there is one.
///
/// # Errors
/// Those of registering.
pub(crate) fn wait_for_notice(fd: i32, registered: &mut dyn FnMut()) -> Result<i64> {
    loop {
        match ask_telling(calls::MQ_NOTIFY_THREAD, [fd.cast_unsigned().into(), 0, 0, 0, 0, 0], registered) {
            // A signal of libc's own: the program's are blocked.
            Err(Errno::EINTR) => {}
            done => return done,
        }
    }
}

/// Takes the message of that number, where the kernel has left it after a fault.
fn pass_over(fd: i32, number: u64) -> Result<()> {
    let mut head = [0; calls::HEAD];
    if net::has_message(fd) && net::peek_words(fd, &mut head, true)? && head[calls::HEAD - 1] == number {
        // SAFETY: nothing is stored.
        drop(unsafe { net::take_parts(fd, &mut head, (0, 0), true) }?);
    }
    Ok(())
}

/// Asks which segment has some memory, and how large it is.
fn look_up(fd: i32, memory: u64) -> Result<Option<(i32, u64)>> {
    send(fd, &[calls::LOOK_UP, memory], (0, 0))?;
    let mut head = [0; calls::HEAD];
    loop {
        // SAFETY: nothing is stored.
        match unsafe { net::take_parts(fd, &mut head, (0, 0), true) } {
            Err(Errno::EAGAIN) => {}
            taken => break drop(taken?),
        }
    }
    match head {
        [calls::KNOWN, id, size, ..] => {
            Ok(id.checked_sub(1).and_then(|id| Some((i32::try_from(id).ok()?, size))))
        }
        _ => Err(Errno::EINVAL),
    }
}

fn error(number: u64) -> Errno {
    Errno::from_raw(i32::try_from(number).unwrap_or(0))
}

/// Sends a call with what it is known to read. Where that can't be read, without: what is read first then decides.
fn send_call(fd: i32, number: i64, registers: [u64; 6], known_as: u64) -> Result<()> {
    const NOTHING: ((usize, usize), (usize, usize)) = ((0, 0), (0, 0));
    let [a, b, c, d, e, f] = registers;
    let [mut first, mut second] = known(number, registers);
    let mut file = descriptor(number, registers);
    let tls = tls::get();
    let host = LinuxHost { tls };
    let Cred { euid, egid, .. } = host.cred();
    loop {
        let head = [
            calls::CALL,
            number.cast_unsigned(),
            a,
            b,
            c,
            d,
            e,
            f,
            first.0 as u64,
            second.0 as u64,
            (second.1 as u64) << 32 | first.1 as u64,
            known_as,
            calls::cpu(host.cpu()) << 32 | u64::from(tls.connection_tid.load(Relaxed)),
        ];
        let who = Credentials { pid: tls.connection_pid.load(Relaxed), uid: euid, gid: egid };
        let sent = net::send_parts(fd, &head, [first, second], Some(who), file);
        match sent {
            // Of a user namespace where it has no name: the kernel says who it is.
            Err(Errno::EINVAL | Errno::EPERM) => {
                return net::send_parts(fd, &head, [first, second], None, file);
            }
            // It has been closed meanwhile.
            Err(Errno::EBADF) if file.is_some() => file = None,
            // Where nothing is read the address counts as well.
            Err(Errno::EFAULT) if (first, second) != NOTHING => (first, second) = NOTHING,
            done => return done,
        }
    }
}

/// The descriptor that a call is about, if it can be a queue's.
#[expect(clippy::cast_possible_truncation, reason = "an int")]
fn descriptor(number: i64, [fd, ..]: [u64; 6]) -> Option<i32> {
    let fd = (fd as u32).cast_signed();
    (calls::ON_QUEUES.contains(&number) && queue::is_fifo(fd)).then_some(fd)
}

/// As much of a name as is likely to be all of it, on its page.
fn name(at: u64) -> (usize, usize) {
    const USUAL: usize = 64;
    const PAGE: usize = 4096;
    let from = at as usize & !7;
    if at == 0 { (0, 0) } else { (from, USUAL.min(PAGE - from % PAGE)) }
}

/// Two ranges that a call reads, whatever comes.
#[expect(clippy::cast_possible_truncation, reason = "addresses, and the kernel takes ints")]
fn known(number: i64, [a, b, c, d, e, _]: [u64; 6]) -> [(usize, usize); 2] {
    const NONE: (usize, usize) = (0, 0);
    let set = |cmd: u64, at: u64, size| if cmd as i32 == IPC_SET { (at as usize, size) } else { NONE };
    let given = |at: u64, size| if at == 0 { NONE } else { (at as usize, size) };
    match number {
        nr::MQ_OPEN => [name(a), given(d, size_of::<MqAttr>())],
        nr::MQ_UNLINK => [name(a), NONE],
        nr::MQ_TIMEDSEND => [given(b, (c as usize).min(SENT_AT_ONCE)), given(e, size_of::<Timespec>())],
        nr::MQ_TIMEDRECEIVE => [NONE, given(e, size_of::<Timespec>())],
        nr::MQ_NOTIFY => [given(b, size_of::<Sigevent>()), NONE],
        nr::MQ_GETSETATTR => [given(b, size_of::<MqAttr>()), NONE],
        nr::MSGSND => [(b as usize, (c as usize).saturating_add(8).min(SENT_AT_ONCE)), NONE],
        nr::SEMTIMEDOP => {
            [(b as usize, (c as usize).saturating_mul(6).min(SENT_AT_ONCE)), given(d, size_of::<Timespec>())]
        }
        calls::WRITE => [(c as usize, (d as usize).min(SENT_AT_ONCE)), NONE],
        nr::MSGCTL => [set(b, c, size_of::<abi::msg::Msqid64Ds>()), NONE],
        nr::SEMCTL => [set(c, d, size_of::<abi::sem::Semid64Ds>()), NONE],
        nr::SHMCTL => [set(b, c, size_of::<abi::shm::Shmid64Ds>()), NONE],
        _ => [NONE, NONE],
    }
}

fn send(fd: i32, words: &[u64], range: (usize, usize)) -> Result<()> {
    let mut head = [0; calls::HEAD];
    for (to, from) in head.iter_mut().zip(words) {
        *to = *from;
    }
    net::send_parts(fd, &head, [range, (0, 0)], None, None)
}

/// Tells that a signal has come. If the broker has ended, its answer may lie there nevertheless: the next message tells.
fn interrupt(fd: i32) -> Result<()> {
    match send(fd, &[calls::INTERRUPT], (0, 0)) {
        Err(Errno::EPIPE | Errno::ECONNRESET) => Ok(()),
        sent => sent,
    }
}

fn reply(fd: i32, done: Result<i64>) -> Result<()> {
    let (error, value) = match done {
        Ok(value) => (0, value.cast_unsigned()),
        Err(error) => (u64::from(error.raw().cast_unsigned()), 0),
    };
    send(fd, &[calls::DONE, error, value], (0, 0))
}

fn map(head: &[u64; calls::HEAD], file: Fd) -> Result<i64> {
    let [_, id, memory, kind, at, flags, ..] = *head;
    let place = match kind {
        0 => MapPlace::Anywhere,
        1 => MapPlace::Free(at),
        _ => MapPlace::Over(at),
    };
    let id = i32::try_from(id).map_err(|_| Errno::EINVAL)?;
    let wanted = MapRequest { id, memory, place, write: flags & 1 != 0, execute: flags & 2 != 0 };
    let stat = files::stat(file.raw())?;
    memory::learn_device(stat.dev, stat.block > 4096);
    attachments::map_given(&file, stat.size, &wanted, attachments::tell_unmapped).map(u64::cast_signed)
}
