//! Descriptors of POSIX queues.
//!
//! What users see: a queue's descriptor is that of a FIFO beside the namespace's socket, opened anew by each `mq_open`, so the kernel keeps what is the
//! description's: `O_NONBLOCK`, whoever has it by dup, fork or `SCM_RIGHTS`. What it was opened for stands in flags that mean nothing to a
//! FIFO and that nobody can change. Whether anybody has the queue open, the FIFO tells.
//! Who polls one sees what the queue has: as none, one or both of the FIFO's two pages are in use. That costs system calls, so it is done only while
//! somebody polls ([`Polling`]), or once nobody can say when somebody does: if a descriptor has been handed on, or is waited for by edges ([`watch`]).
//! Strangers have such descriptors from the broker, which makes their calls (`stranger.rs`).
//! What is missing: to read a descriptor without libc takes that away; the place up to where one was read is the number's, not the description's.
//!
//! A table says which queue a number is of, so that sending and receiving ask the kernel nothing. A number that is not in it is asked for
//! its link in /proc, each time in a vfork child: its numbers are not those of the process whose memory it uses.

use core::ffi::CStr;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use abi::{
    Errno, Result,
    mqueue::{O_ACCMODE, O_NONBLOCK, O_RDWR, O_WRONLY},
};
use arena::Handle;
use engine::{
    Cause, Descriptors, Mqd, Notice, Outcome, Readiness, Task, mqueue::MqStat, namespace, proc::Line,
};
use sys::{file, net::Fd, queue};

use crate::{
    LinuxHost, attach, holders, memory,
    stranger::{self, or_by_broker},
    tls, vfork,
    wire::{self, calls},
};

/// Descriptors that the tables have room for.
pub const NUMBERS: usize = 1 << 16;
/// A number may be one of ours in this way: a sysctl that is open for writing.
pub const SYSCTL: u8 = 1;
/// A number may be one of ours in this way: a queue's descriptor.
pub const QUEUE: u8 = 2;
/// A number may be one of ours in this way: a namespace's. It stays so.
pub const NAMESPACE: u8 = 4;
/// In which ways a number may be ours; mostly 0.
pub static MAY_BE_OURS: [AtomicU8; NUMBERS] = [const { AtomicU8::new(0) }; NUMBERS];

/// In which ways a number may be ours; none if the table does not reach so far.
pub fn kinds(fd: i32) -> Option<&'static AtomicU8> {
    place(&MAY_BE_OURS, fd)
}

/// The queue of a number, and what it was opened for; 0 if that is not known.
static QUEUES: [AtomicU64; NUMBERS] = [const { AtomicU64::new(0) }; NUMBERS];
/// One more than the highest number that was ever a queue's.
static END: AtomicI32 = AtomicI32::new(0);

/// Not opened for reading.
const NO_READING: i32 = 0o10_000; // O_DSYNC
/// Not opened for writing.
const NO_WRITING: i32 = 0o400_000; // O_NOFOLLOW
const READ: u64 = 1 << 32;
const WRITE: u64 = 1 << 33;
/// The queue's readiness has been shown since this process has the number.
const SHOWN: u64 = 1 << 34;
/// And is always.
const WATCHED: u64 = 1 << 35;
/// And each change, for edges.
const EDGES: u64 = 1 << 36;
/// An epoll of the process's may have the number.
const IN_EPOLL: u64 = 1 << 37;
/// Where the next read begins: the bits from this one on.
const PLACE: u32 = 40;
const PLACE_MAX: u64 = u64::MAX >> PLACE;

/// An int as a register.
fn int(value: i32) -> u64 {
    value.cast_unsigned().into()
}

fn place<T>(table: &[T; NUMBERS], fd: i32) -> Option<&T> {
    table.get(usize::try_from(fd).ok()?)
}

/// The flags that a queue's FIFO is opened with.
fn flags_of(oflag: i32) -> i32 {
    let kept = match oflag & O_ACCMODE {
        O_RDWR => 0,
        O_WRONLY => NO_READING,
        O_ACCMODE => NO_READING | NO_WRITING,
        _ => NO_WRITING,
    };
    kept | oflag & O_NONBLOCK
}

/// The flags of `mq_open`, for what `F_GETFL` says of a queue's FIFO.
pub fn flags_shown(flags: i32) -> i32 {
    let mode = match (flags & NO_READING, flags & NO_WRITING) {
        (0, 0) => O_RDWR,
        (0, _) => 0,
        (_, 0) => O_WRONLY,
        _ => O_ACCMODE,
    };
    /// `open` sets it, `mq_open` doesn't.
    const O_LARGEFILE: i32 = 0o100_000;
    flags & !(NO_READING | NO_WRITING | O_LARGEFILE | O_ACCMODE) | mode
}

// ---- the table

pub(crate) fn learn(fd: i32, mqd: Mqd) {
    if vfork::is_child(tls::get()) {
        return;
    }
    let (Some(word), Some(kind)) = (place(&QUEUES, fd), kinds(fd)) else { return };
    let rights = if mqd.read { READ } else { 0 } | if mqd.write { WRITE } else { 0 };
    word.store(rights | u64::from(mqd.queue.0), Relaxed);
    kind.fetch_or(QUEUE, Relaxed);
    END.fetch_max(fd + 1, Relaxed);
}

#[inline]
fn known(fd: i32) -> Option<Mqd> {
    match place(&QUEUES, fd)?.load(Relaxed) {
        0 => None,
        #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
        word => Some(Mqd { queue: Handle(word as u32), read: word & READ != 0, write: word & WRITE != 0 }),
    }
}

/// A number is about to be closed: the queue that it was of, for [`closed`].
pub fn forget(fd: i32) -> Option<Handle> {
    let queue = known(fd)?.queue;
    // What is known is the parent's as well, which still has it.
    if vfork::is_child(tls::get()) {
        return None;
    }
    place(&QUEUES, fd)?.store(0, Relaxed);
    kinds(fd)?.fetch_and(!QUEUE, Relaxed);
    Some(queue)
}

/// Whether a number is a queue's, as far as is known.
pub fn is_queue(fd: i32) -> bool {
    known(fd).is_some() && !is_other_in_child(fd)
}

/// Whether a queue's number is something else by now to the vfork child that asks: it is not known what that has closed.
fn is_other_in_child(fd: i32) -> bool {
    vfork::is_child(tls::get()) && is_other(fd)
}

fn is_other(fd: i32) -> bool {
    file::link_of(fd, &mut [0; 128]).map_or(true, |link| queue_of(link).is_none())
}

/// As [`is_queue`], for what is seldom asked of one: libc may have closed it on its own, and opened something else.
pub fn is_still_queue(fd: i32) -> bool {
    if known(fd).is_none() {
        return false;
    }
    let is = !is_other(fd);
    if !is && let Some(queue) = forget(fd) {
        closed(queue);
    }
    is
}

/// Whether a queue's number was opened for writing.
pub fn is_for_writing(fd: i32) -> bool {
    known(fd).is_some_and(|mqd| mqd.write) && !is_other_in_child(fd)
}

/// A descriptor of the queue has been closed. A process that has made no call yet has no registration to lose; if it was the last to hold a
/// queue without a name, the broker finds out.
pub fn closed(queue: Handle) {
    if vfork::is_child(tls::get()) {
        return;
    }
    if attach::generation() != 0 {
        let _ = crate::with(|ctx| engine::mqueue::do_close(ctx, queue));
    } else if stranger::has_called() {
        let _ = stranger::ask(calls::MQ_CLOSED, [queue.0.into(), 0, 0, 0, 0, 0]);
    }
}

/// Marks a queue's number, unless it has become something else since it was `before`.
fn mark(fd: i32, before: u64, marks: u64) {
    if let Some(word) = place(&QUEUES, fd).filter(|_| before != 0) {
        let _ = word.compare_exchange(before, before | marks, Relaxed, Relaxed);
    }
}

/// What is known of a queue's number; none of one that is no queue's, or where nothing may be changed.
fn marks(fd: i32) -> Option<u64> {
    let word = place(&QUEUES, fd)?.load(Relaxed);
    (word != 0 && !vfork::is_child(tls::get())).then_some(word)
}

/// The number may be polled at any time from now on, as it is handed on.
pub fn watch(fd: i32) {
    watch_for(fd, false);
}

fn watch_for(fd: i32, edges: bool) {
    let wanted = SHOWN | WATCHED | if edges { EDGES } else { 0 };
    if let Some(before) = marks(fd)
        && before & wanted != wanted
        && or_by_broker(crate::with(|ctx| engine::mqueue::watch(ctx, fd, edges)), || {
            stranger::ask(calls::MQ_WATCH, [int(fd), edges.into(), 0, 0, 0, 0]).map(drop)
        })
        .is_ok()
    {
        mark(fd, before, wanted);
    }
}

/// The number is about to be put into an epoll, to be waited for so.
pub fn put_in_epoll(fd: i32, event: u64) {
    const EPOLLET: u32 = 1 << 31;
    let Some(before) = marks(fd) else { return };
    let host = LinuxHost { tls: tls::get() };
    // What can't be read the kernel will refuse.
    if host.get_user::<u32>(event).is_ok_and(|events| events & EPOLLET != 0) {
        watch_for(fd, true);
    } else {
        mark(fd, before, IN_EPOLL);
    }
    EPOLLS.store(true, Relaxed);
}

/// Whether a `struct msghdr` has more than data.
pub fn sends_control(message: usize) -> bool {
    const CONTROL_LEN: usize = 40;
    let host = LinuxHost { tls: tls::get() };
    host.get_user::<u64>(message.wrapping_add(CONTROL_LEN) as u64).is_ok_and(|len| len != 0)
}

/// Whether [`put_in_epoll`] was ever told of a queue.
static EPOLLS: AtomicBool = AtomicBool::new(false);

/// The queues that show what they have while a thread polls them. It is not dropped, for the thread may be cancelled: what polls is to end it.
pub struct Polling {
    queues: [u32; Polling::MOST],
    count: usize,
}

impl Polling {
    /// Queues that can be polled at a time; further ones are watched from then on, which is better than to ask for each at each poll.
    const MOST: usize = 8;

    /// What is in the process's epolls is polled whatever it polls: an epoll can be in a set, and in another epoll.
    pub fn begin() -> Polling {
        let mut polling = Polling { queues: [0; Polling::MOST], count: 0 };
        if EPOLLS.load(Relaxed) {
            let in_epoll = |fd: &i32| marks(*fd).is_some_and(|marks| marks & IN_EPOLL != 0);
            numbers(0, i32::MAX).filter(in_epoll).for_each(|fd| polling.add(fd));
        }
        polling
    }

    fn add(&mut self, fd: i32) {
        let Some(before) = marks(fd) else { return };
        let Some(room) = self.queues.get_mut(self.count) else { return watch(fd) };
        if before & WATCHED != 0 {
            return;
        }
        match crate::with(|ctx| engine::mqueue::begin_poll(ctx, fd, before & SHOWN == 0)) {
            Ok(Some(queue)) => {
                *room = queue.0;
                self.count += 1;
                if before & SHOWN == 0 {
                    mark(fd, before, SHOWN);
                }
            }
            Ok(None) => mark(fd, before, SHOWN | WATCHED),
            // A stranger is not known as one that polls just now.
            Err(_) => watch(fd),
        }
    }

    /// With those of an array of `struct pollfd`.
    pub fn add_array(&mut self, polled: usize, count: usize) {
        let host = LinuxHost { tls: tls::get() };
        for at in 0..count.min(NUMBERS) {
            // What can't be read the kernel will refuse.
            let Ok([fd, _]) = host.get_user::<[u32; 2]>(polled.wrapping_add(at * 8) as u64) else { return };
            self.add(fd.cast_signed());
        }
    }

    /// With those of sets of `select`.
    pub fn add_sets(&mut self, end: i32, sets: [usize; 3]) {
        let host = LinuxHost { tls: tls::get() };
        for fd in numbers(0, end.saturating_sub(1)) {
            let (word, bit) = (fd.cast_unsigned() as usize / 64 * 8, fd % 64);
            let has = |set: usize| {
                set != 0
                    && host
                        .get_user::<u64>(set.wrapping_add(word) as u64)
                        .is_ok_and(|set| set >> bit & 1 != 0)
            };
            if sets.into_iter().any(has) {
                self.add(fd);
            }
        }
    }

    /// It has polled.
    pub fn end(self) {
        for queue in self.queues.iter().take(self.count) {
            let _ = crate::with(|ctx| engine::mqueue::end_poll(ctx, Handle(*queue)));
        }
    }
}

/// Whether the process has ever had a queue's number.
pub fn has_any() -> bool {
    END.load(Relaxed) != 0
}

/// A number has come from another process.
pub fn received(fd: i32) {
    if known(fd).is_none() && attach::path().is_ok() {
        // Mostly it is nothing of ours.
        let _ = look(fd);
    }
}

/// `new` is what `old` is, since `dup`.
pub fn copied(old: i32, new: i32) {
    if let Some(mqd) = known(old) {
        learn(new, mqd);
        // What has been put into an epoll is there as long as any descriptor is left of it.
        let in_epoll = marks(old).unwrap_or(0) & IN_EPOLL;
        mark(new, marks(new).unwrap_or(0), in_epoll);
    }
}

/// Numbers of queues, from one to another.
pub fn numbers(from: i32, to: i32) -> impl Iterator<Item = i32> {
    (from..END.load(Relaxed).min(to.saturating_add(1))).filter(|fd| known(*fd).is_some())
}

/// The process keeps its descriptors, and is about to be a stranger: nobody relies on what it may put there any more.
pub(crate) fn distrust_all() {
    for queue in numbers(0, i32::MAX).filter_map(known).map(|mqd| mqd.queue) {
        let _ = crate::with(|ctx| engine::mqueue::distrust(ctx, queue));
    }
}

/// Nothing is known of any number: the process has left the namespace that the queues are in.
pub(crate) fn forget_all() {
    for fd in numbers(0, i32::MAX) {
        forget(fd);
    }
    holders::forget_all();
}

// ---- as a file

/// Bytes that a queue's file says it has.
const FILE_SIZE: i64 = engine::mqueuefs::FILENT_SIZE.cast_signed();

/// Reads a queue's file: one line, from `at` on, or from where the last read ended. What was read `copy` takes to the program's memory.
///
/// # Errors
/// `EBADF EINVAL EFAULT`.
pub fn read(fd: i32, size: usize, at: Option<i64>, copy: impl FnOnce(&[u8]) -> Result<()>) -> Result<i64> {
    let from = match at {
        Some(at) => u64::try_from(at).map_err(|_| Errno::EINVAL)?,
        None => seek(fd, 0, SEEK_CUR)?.cast_unsigned(),
    };
    let host = LinuxHost { tls: tls::get() };
    if !host.mqd(fd)?.read {
        return Err(Errno::EBADF);
    }
    let mut line = Line::default();
    stat(fd)?.line(&mut line);
    let text = line.text().get(usize::try_from(from).unwrap_or(usize::MAX)..).unwrap_or_default();
    let text = text.get(..size).unwrap_or(text);
    copy(text)?;
    let len = text.len() as i64;
    if at.is_none() {
        seek(fd, len, SEEK_CUR)?;
    }
    Ok(len)
}

const SEEK_CUR: i32 = 1;

/// `lseek(2)` on a queue's descriptor.
///
/// # Errors
/// `EBADF EINVAL`.
pub fn seek(fd: i32, offset: i64, whence: i32) -> Result<i64> {
    let word = place(&QUEUES, fd).ok_or(Errno::EBADF)?;
    let now = word.load(Relaxed);
    let from = match whence {
        0 => 0,
        SEEK_CUR => (now >> PLACE).cast_signed(),
        2 => FILE_SIZE,
        // What is in the file is data, and behind it there is a hole.
        3 | 4 if !(0..FILE_SIZE).contains(&offset) => return Err(Errno::ENXIO),
        3 => 0,
        4 => FILE_SIZE - offset,
        _ => return Err(Errno::EINVAL),
    };
    let to = from.checked_add(offset).filter(|to| *to >= 0).ok_or(Errno::EINVAL)?;
    let kept = to.cast_unsigned().min(PLACE_MAX);
    let _ = word.compare_exchange(now, now & ((1 << PLACE) - 1) | kept << PLACE, Relaxed, Relaxed);
    Ok(kept.cast_signed())
}

/// What is to be seen of the queue of a number.
///
/// # Errors
/// `EBADF`.
pub fn stat(fd: i32) -> Result<MqStat> {
    or_by_broker(crate::with(|ctx| engine::mqueue::stat_mqd(ctx, fd)), || {
        let mut words = [0u64; MqStat::WORDS];
        let place = words.as_mut_ptr().expose_provenance() as u64;
        stranger::ask(calls::MQ_STAT, [int(fd), place, 0, 0, 0, 0])?;
        Ok(MqStat::of_words(&words))
    })
}

/// Registers the calling thread to be told of a message, calls `registered`, and sleeps until there is one (`NOTIFY_WOKENUP`), or the
/// registration is gone.
///
/// # Errors
/// `EBADF EBUSY`; `EINTR` once the process has left the namespace.
pub fn wait_for_notice(fd: i32, mut registered: impl FnMut()) -> Result<i64> {
    let here = crate::with(|ctx| {
        let outcome = engine::mqueue::do_mq_notify_thread(ctx, fd)?;
        registered();
        crate::wait(ctx, outcome, None, |cause| match cause {
            // One of libc's own: the program's are blocked.
            Cause::Signal if !crate::has_left() => Ok(Outcome::Blocked),
            cause => engine::mqueue::resume_mq_notify_thread(ctx, cause),
        })
    });
    or_by_broker(here, || stranger::wait_for_notice(fd, &mut registered))
}

// ---- FIFOs

/// Does something with the path of a queue's FIFO.
fn at_path<R>(queue: Handle, does: impl FnOnce(&CStr) -> Result<R>) -> Result<R> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits: [u8; 8] = core::array::from_fn(|at| DIGITS[(queue.0 >> (28 - 4 * at)) as usize & 15]);
    let (mut text, mut end) = ([0; 128], 0);
    for part in [attach::path()?, wire::QUEUE.as_bytes(), &digits] {
        let from = end;
        end += part.len();
        text.get_mut(from..end).ok_or(Errno::ENOSYS)?.copy_from_slice(part);
    }
    let path = text.get(..=end).and_then(|text| CStr::from_bytes_with_nul(text).ok());
    does(path.ok_or(Errno::ENOSYS)?)
}

/// The queue that a descriptor is of, by its link in /proc.
pub fn queue_of(link: &[u8]) -> Option<Handle> {
    let digits = core::str::from_utf8(link.last_chunk::<8>()?).ok()?;
    let queue = Handle(u32::from_str_radix(digits, 16).ok()?);
    let is_it = at_path(queue, |path| Ok(path.to_bytes() == link));
    is_it.is_ok_and(|is_it| is_it).then_some(queue)
}

/// Opens a queue's FIFO, which is made if it is not there yet.
fn open(queue: Handle, flags: i32) -> Result<Fd> {
    let opened = at_path(queue, |path| {
        queue::open_fifo(path, flags).or_else(|error| match error {
            Errno::ENOENT => queue::make_fifo(path).and_then(|()| queue::open_fifo(path, flags)),
            _ => Err(error),
        })
    });
    match opened {
        Err(error @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM)) => Err(error),
        // Who has given the owner's rights up for a while can't, but the broker can.
        Err(_) if !memory::is_keeper() => {
            let (_, file) = attach::ask(wire::ASK_QUEUE, [queue.0, flags.cast_unsigned()])?;
            let file = file.ok_or(Errno::EMFILE)?;
            // While it came, the connection had the lowest number, which is the file's now.
            Ok(match file::duplicate(file.raw(), 0) {
                Ok(lower) if lower.raw() < file.raw() => lower,
                _ => file,
            })
        }
        opened => opened,
    }
}

/// What the broker does when it is asked for a queue's descriptor.
///
/// # Errors
/// Those of `open`.
pub fn open_for(queue: u32, flags: u32) -> Result<Fd> {
    let kept = (NO_READING | NO_WRITING | O_NONBLOCK).cast_unsigned();
    open(Handle(queue), (flags & kept).cast_signed())
}

/// What a descriptor of ours is that somebody else has given: that its link is a queue's does not say that it is, for who gives it may see other mounts.
///
/// # Errors
/// `EBADF`.
pub fn of_given(fd: i32) -> Result<Mqd> {
    let mut room = [0; 128];
    let mqd = of_link(file::link_of(fd, &mut room)?, file::flags(fd)?)?;
    if at_path(mqd.queue, |path| queue::is_fifo_at(path, fd))? { Ok(mqd) } else { Err(Errno::EBADF) }
}

fn open_to_write(queue: Handle) -> Result<Fd> {
    at_path(queue, queue::open_to_write)
}

/// Whether anybody has a descriptor of the queue.
///
/// # Errors
/// Those of who may not look.
pub fn is_held(queue: Handle) -> Result<bool> {
    match open_to_write(queue) {
        Err(Errno::ENXIO) => Ok(false),
        // One that was never opened, where the namespace's directory is sure to be seen: not after `chroot`, or where something is mounted over it.
        Err(Errno::ENOENT) if memory::is_keeper() => Ok(false),
        opened => opened.map(|_| true),
    }
}

// ---- umask

/// The process's umask plus one; 0 if it is not known.
static UMASK: AtomicU32 = AtomicU32::new(0);

/// The program has set its umask.
pub fn umask_set(mask: u32) {
    // A vfork child's is its own.
    if vfork::is_child(tls::get()) {
        return;
    }
    UMASK.store((mask & 0o777) + 1, Relaxed);
}

/// A new descriptor of a queue, as `oflag` wants it.
///
/// # Errors
/// Those of `open`.
pub fn open_new(queue: Handle, oflag: i32) -> Result<Fd> {
    open(queue, flags_of(oflag))
}

/// What a descriptor is, by its link in /proc and its flags.
fn of_link(link: &[u8], flags: i32) -> Result<Mqd> {
    opened_as(queue_of(link).ok_or(Errno::EBADF)?, flags)
}

/// What a queue's descriptor was opened for, by its flags.
///
/// # Errors
/// `EBADF` if it is for nothing that queues are for.
pub fn opened_as(queue: Handle, flags: i32) -> Result<Mqd> {
    if flags & file::O_PATH != 0 || flags & O_ACCMODE != O_RDWR {
        return Err(Errno::EBADF);
    }
    Ok(Mqd { queue, read: flags & NO_READING == 0, write: flags & NO_WRITING == 0 })
}

impl Descriptors for LinuxHost {
    fn new_mqd(&self, queue: Handle, oflag: i32) -> Result<i32> {
        let fd = open_new(queue, oflag)?.leak();
        learn(fd, Mqd::opened(queue, oflag));
        Ok(fd)
    }

    fn mqd_possible(&self) -> Result<()> {
        match file::open_root() {
            Err(error @ (Errno::EMFILE | Errno::ENFILE)) => Err(error),
            _ => Ok(()),
        }
    }

    fn drop_mqd(&self, fd: i32) {
        forget(fd);
        file::close(fd);
    }

    #[inline(always)]
    fn mqd(&self, fd: i32) -> Result<Mqd> {
        match known(fd) {
            Some(mqd) if !vfork::is_child(self.tls) => Ok(mqd),
            _ => look(fd),
        }
    }

    fn mqd_nonblock(&self, fd: i32) -> bool {
        file::flags(fd).is_ok_and(|flags| flags & O_NONBLOCK != 0)
    }

    fn set_mqd_nonblock(&self, fd: i32, nonblock: bool) {
        if let Ok(flags) = file::flags(fd) {
            queue::set_flags(fd, flags & !O_NONBLOCK | if nonblock { O_NONBLOCK } else { 0 });
        }
    }

    fn has_mqd(&self, queue: Handle) -> bool {
        let is_of_it = |fd| known(fd).is_some_and(|mqd| mqd.queue == queue);
        let has = !vfork::is_child(self.tls) && numbers(0, i32::MAX).any(is_of_it);
        if has {
            holders::keep(queue, || open_to_write(queue));
        }
        has
    }

    fn queue_held(&self, queue: Handle) -> bool {
        if !vfork::is_child(self.tls) {
            let has = |fd| known(fd).is_some_and(|mqd| mqd.queue == queue) && queue::is_fifo(fd);
            if numbers(0, i32::MAX).any(has) {
                return true;
            }
            if let Some(held) = holders::is_held(queue) {
                return held;
            }
        }
        let held = is_held(queue).or_else(|error| match memory::keeper() {
            // Who has given the owner's rights up for a while, or does not see it, can't tell, but the broker can.
            None => attach::ask(wire::ASK_QUEUE_HELD, [queue.0, 0]).map(|(words, _)| words[2] != 0),
            Some(_) => Err(error),
        });
        // One that is kept too long is looked at again.
        held.unwrap_or(true)
    }

    fn show_readiness(&self, queue: Handle, fd: i32, from: Readiness, to: Readiness, edges: bool) {
        let own = if fd == engine::mqueue::NO_FD { open(queue, O_NONBLOCK).ok() } else { None };
        let fd = own.as_ref().map_or(fd, Fd::raw);
        let pages = |readiness| match readiness {
            Readiness::Unknown => None,
            Readiness::Empty => Some(0),
            Readiness::Between => Some(1),
            Readiness::Full => Some(2),
        };
        if from == Readiness::Unknown {
            queue::make_small(fd);
        }
        // A full FIFO that has room again wakes who waits to write, and what was written woke who waits to read.
        let over_full = to == Readiness::Between || from == Readiness::Between && to == Readiness::Empty;
        if edges && over_full {
            // One that is full already is first made not to be, for those who wait to read.
            let mut has = pages(from);
            if has == Some(2) {
                queue::fill_pages(fd, has, 1);
                has = Some(1);
            }
            queue::fill_pages(fd, has, 2);
            queue::fill_pages(fd, Some(2), pages(to).unwrap_or(0));
        } else {
            queue::fill_pages(fd, pages(from), pages(to).unwrap_or(0));
        }
    }

    fn notify(&self, notice: &Notice) {
        let from = (notice.from_pid, notice.from_uid);
        let sent = queue::send_notice(notice.pid, notice.signo, notice.value, from);
        // Who has other rights than the one that registered can't, but the broker may.
        if sent == Err(Errno::EPERM) && !memory::is_keeper() {
            let _ = attach::ask(wire::ASK_NOTIFY, [notice.queue.0, 0]);
        }
    }

    fn program(&self, pid: u32) -> u64 {
        queue::program_of(pid)
    }

    fn watch_unlinked(&self) {
        match memory::keeper_itself(self) {
            Some(keeper) => (keeper.look)(),
            None => attach::ring(self, namespace::ASK_SEGMENTS),
        }
    }

    fn notify_socket(&self, fd: i32, _: [u64; 4]) -> Result<()> {
        queue::check_netlink(fd).and(Err(Errno::EINVAL))
    }

    fn msgqueue_limit(&self) -> u64 {
        queue::msgqueue_limit()
    }

    fn umask(&self) -> u32 {
        if vfork::is_child(self.tls) {
            return queue::umask();
        }
        match UMASK.load(Relaxed).checked_sub(1) {
            Some(mask) => mask,
            None => {
                let mask = queue::umask();
                umask_set(mask);
                mask
            }
        }
    }

    fn scheduling_priority(&self) -> i32 {
        queue::scheduling_priority(0)
    }
}

/// What a descriptor is that is not in the table. What is quickly told is asked first: its link costs more.
#[cold]
#[inline(never)]
fn look(fd: i32) -> Result<Mqd> {
    let flags = file::flags(fd)?;
    if !queue::is_fifo(fd) {
        return Err(Errno::EBADF);
    }
    let mut room = [0; 128];
    let link = file::link_of(fd, &mut room).map_err(|_| Errno::EBADF)?;
    let mqd = of_link(link, flags)?;
    learn(fd, mqd);
    Ok(mqd)
}
