//! A thread whose call was asked about, stopped on its way out of it: so that it makes another call first, or surely sees its signals.
//!
//! It is seized and interrupted before it is answered, so it stops before it is back in the program. There it has all signals
//! blocked while it makes calls of ours from the instruction that made its own. In the end it has its registers, with the result, and its mask.
//! A child that it is made to make stops before its first instruction, and is put right in the same way.
//!
//! Several threads of ours may do so at a time, each with another one, and no lock is held meanwhile: what one is made to call may itself be asked about.
//! Who answers all others does not wait for long. One that takes longer (it is frozen, say) is put right and let go by the same thread of ours when it
//! does stop ([`see_to_late`]); what it was to do may then be done or not.
//!
//! The broker waits for its children with [`wait_for_child`], as waitpid(2) would tell it of these stops.
//!
//! # Safety
//! Registers and masks are locals of the kernel's types.

use std::cell::RefCell;
use std::fs;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use abi::{Errno, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::notify::Listener;
use crate::routes::children;
use crate::target::Status;

/// The threads that are traced here, or about to be: the kernel may take its time to begin, while one executes a file that is slow to be read.
struct Tracing {
    tids: Vec<u32>,
    /// The broker has looked for news of its children meanwhile.
    looked: bool,
    /// It does so, which not all do.
    looks: bool,
}

static TRACING: Mutex<Tracing> = Mutex::new(Tracing { tids: Vec::new(), looked: false, looks: false });

fn tracing() -> MutexGuard<'static, Tracing> {
    TRACING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// waitpid(2) for any child, but for the stops of those that are traced here: 0 also if only such ones are left. There is a SIGCHLD when
/// none is traced any more.
pub fn wait_for_child(status: &mut i32, options: i32) -> i32 {
    let mut tracing = tracing();
    tracing.looks = true;
    // SAFETY: a valid place.
    let mut wait = |pid| unsafe { libc::waitpid(pid, status, options) };
    if tracing.tids.is_empty() {
        return wait(-1);
    }
    tracing.looked = true;
    // A child is traced from when it is there, or is one of these.
    let is_ours = |tid: u32| is_stopped_here(tid, tracing.tids.contains(&tid));
    let others = children(std::process::id()).filter(|child| !is_ours(*child));
    others.map(|child| wait(child.cast_signed())).find(|found| *found > 0).unwrap_or(0)
}

/// Whether a thread is traced, or is to be, and has not ended.
fn is_stopped_here(tid: u32, is_to_be: bool) -> bool {
    let is_traced = |status: &Status| is_to_be || status.number("TracerPid") != Some(0);
    Status::of(tid).is_ok_and(|status| !status.line("State").starts_with('Z') && is_traced(&status))
}

/// Whether a thread of ours traces that one.
fn is_traced_here(tid: u32) -> bool {
    let tracer = Status::of(tid).ok().and_then(|status| status.number("TracerPid"));
    tracer.is_some_and(|tracer| Path::new(&format!("/proc/self/task/{tracer}")).exists())
}

/// While a thread is traced, stops send no SIGCHLD: the broker's first thread would wake at each of them.
struct Quiet(u32);

impl Quiet {
    fn begin(tid: u32) -> Quiet {
        let mut tracing = tracing();
        if tracing.tids.is_empty() && tracing.looks {
            Quiet::hear_of_stops(false);
        }
        tracing.tids.push(tid);
        Quiet(tid)
    }

    fn hear_of_stops(hears: bool) {
        /// Never runs, as the signal is blocked, and read from a descriptor. Without a handler, one that waits to be read would be thrown away here.
        extern "C" fn never(_: i32) {}
        let flags = if hears { SaFlags::empty() } else { SaFlags::SA_NOCLDSTOP };
        let action = SigAction::new(SigHandler::Handler(never), flags, SigSet::empty());
        // SAFETY: the handler does nothing.
        let _ = unsafe { sigaction(Signal::SIGCHLD, &action) };
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let mut tracing = tracing();
        if let Some(at) = tracing.tids.iter().position(|tid| *tid == self.0) {
            tracing.tids.swap_remove(at);
        }
        if !tracing.tids.is_empty() || !tracing.looks {
            return;
        }
        Quiet::hear_of_stops(true);
        // A child may have been stopped or continued meanwhile, not by us.
        let kinds = WaitPidFlag::WSTOPPED | WaitPidFlag::WCONTINUED | WaitPidFlag::WNOWAIT;
        let news = waitid(Id::All, kinds | WaitPidFlag::WNOHANG);
        if std::mem::take(&mut tracing.looked) || news.is_ok_and(|status| status != WaitStatus::StillAlive) {
            let _ = kill(Pid::this(), Signal::SIGCHLD);
        }
    }
}

/// Has a thread that is stopped run, for `most` at a time, until `done`, and leaves it stopped as it was: its parent sees nothing of it.
pub fn run_until(tid: u32, most: Duration, done: impl Fn() -> bool) {
    let pid = Pid::from_raw(tid.cast_signed());
    let quiet = Quiet::begin(tid);
    if ptrace::seize(pid, Options::empty()).is_err() {
        return;
    }
    let deadline = Instant::now() + most;
    // One that is stopped reports so at once when it is seized; one that was continued meanwhile does not.
    let mut stop = wait_for_stop(pid, Some(deadline));
    let has_stopped = matches!(stop, Ok(Some(_)));
    if has_stopped && ptrace::cont(pid, None).is_ok() {
        while !done() && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
    if stop.is_ok() {
        let _ = ptrace::interrupt(pid);
        stop = wait_for_stop(pid, Some(deadline + most));
    }
    if stop.is_err() || ptrace::detach(pid, None).is_err() {
        bury(pid);
    }
    drop(quiet);
}

/// One that has ended is seen by its own parent when its tracer has seen it. A child of ours the broker waits for.
fn bury(pid: Pid) {
    let is_child = children(std::process::id()).any(|child| child == pid.as_raw().cast_unsigned());
    if !is_child {
        // SAFETY: no place for the status.
        unsafe { libc::waitpid(pid.as_raw(), std::ptr::null_mut(), libc::__WALL | libc::WNOHANG) };
    }
}

/// How long a thread may take to its next stop where others wait for us: it does nothing then that should take long.
pub(crate) const PATIENCE: Option<Duration> = Some(Duration::from_secs(2));
/// How often it is looked at those that have taken longer.
pub(crate) const LOOK: Duration = Duration::from_millis(10);

fn errno(error: nix::Error) -> Errno {
    Errno::from_raw(error as i32)
}

/// Calls that a thread is made to make, by their numbers as a 64-bit program and as a 32-bit one.
#[derive(Clone, Copy, Debug)]
enum Injected {
    Mmap,
    Munmap,
    Close,
    Fcntl,
    Pread,
    Unshare,
    Setns,
}

impl Injected {
    fn number(self, compat: bool) -> u64 {
        match (self, compat) {
            (Injected::Mmap, false) => 9,
            // mmap2, whose offset is in pages: ours is 0.
            (Injected::Mmap, true) => 192,
            (Injected::Munmap, false) => 11,
            (Injected::Munmap, true) => 91,
            (Injected::Close, false) => 3,
            (Injected::Close, true) => 6,
            (Injected::Fcntl, false) => 72,
            (Injected::Fcntl, true) => 55,
            (Injected::Pread, false) => 17,
            (Injected::Pread, true) => 180,
            (Injected::Unshare, false) => 272,
            (Injected::Unshare, true) => 310,
            (Injected::Setns, false) => 308,
            (Injected::Setns, true) => 346,
        }
    }
}

/// Waits until a thread that is traced stops: returns its signal, and above that the event that it stops for; none if it has not in time.
fn wait_for_stop(pid: Pid, deadline: Option<Instant>) -> Result<Option<i32>> {
    /// Looks while it is about to stop: it comes at once, but for the scheduler; and while it should soon.
    const AT_ONCE: u32 = 200;
    const SOON: u32 = 2000;
    let mut rounds = 0u32;
    loop {
        // SAFETY: a structure of integers.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let options = libc::WEXITED | libc::WSTOPPED | libc::__WALL | libc::WNOWAIT | libc::WNOHANG;
        // Its end is for its parent, who may be us, in another thread.
        // SAFETY: a valid place.
        let done = unsafe { libc::waitid(libc::P_PID, pid.as_raw().cast_unsigned(), &mut info, options) };
        nix::errno::Errno::result(done).map_err(errno)?;
        // SAFETY: of a child, or zero.
        match (info.si_code, unsafe { info.si_status() }) {
            (0, _) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => return Ok(None),
            (0, _) if rounds < AT_ONCE => std::thread::yield_now(),
            (0, _) if rounds < SOON => std::thread::sleep(Duration::from_micros(100)),
            (0, _) => std::thread::sleep(LOOK),
            (libc::CLD_TRAPPED | libc::CLD_STOPPED, signal) => {
                // Not its end, which it may have come to meanwhile.
                let options = libc::WSTOPPED | libc::__WALL | libc::WNOHANG;
                // SAFETY: a valid place.
                unsafe { libc::waitid(libc::P_PID, pid.as_raw().cast_unsigned(), &mut info, options) };
                // SAFETY: of a child, or zero.
                if unsafe { info.si_pid() } != 0 {
                    return Ok(Some(signal));
                }
            }
            _ => return Err(Errno::ESRCH),
        }
        rounds = rounds.saturating_add(1);
    }
}

fn set_mask(pid: Pid, mask: u64) -> Result<()> {
    // SAFETY: a mask of eight bytes.
    let done =
        unsafe { libc::ptrace(libc::PTRACE_SETSIGMASK, pid.as_raw(), size_of::<u64>(), &raw const mask) };
    nix::errno::Errno::result(done).map(drop).map_err(errno)
}

/// What a thread gets back before it goes on.
#[derive(Clone, Copy)]
enum Due {
    Nothing,
    /// All its registers, and its mask.
    Whole(libc::user_regs_struct, u64),
    /// The first two arguments of its call, as a 32-bit program or not, and its mask.
    Arguments([u64; 2], bool, u64),
}

/// A thread that was made to stop, and goes on when this is dropped.
struct Tracee {
    pid: Pid,
    /// It is on its way to a stop.
    runs: bool,
    /// It makes a step, at the end of which is a signal that is no one else's.
    steps: bool,
    /// How long it may take to its next stop.
    patience: Option<Duration>,
    due: Due,
    /// A signal to be delivered when it is let go.
    owed: Option<Signal>,
    /// None if it is seen to elsewhere.
    quiet: Option<Quiet>,
}

thread_local! {
    /// Those that this thread, which alone can, has yet to let go.
    static LATE: RefCell<Vec<Tracee>> = const { RefCell::new(Vec::new()) };
}

/// Sees to those that were not let go in time: whether there still are any.
pub(crate) fn see_to_late() -> bool {
    LATE.with_borrow_mut(|late| {
        late.retain_mut(|tracee| !tracee.let_go(Instant::now()));
        !late.is_empty()
    })
}

/// The same until there are none: for a thread that ends.
pub(crate) fn see_to_all_late() {
    while see_to_late() {
        std::thread::sleep(LOOK);
    }
}

/// The same until there is something to read.
pub(crate) fn see_to_late_until(news: BorrowedFd<'_>) {
    let timeout = PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::ZERO);
    while see_to_late() && poll(&mut [PollFd::new(news, PollFlags::POLLIN)], timeout) == Ok(0) {}
}

impl Tracee {
    /// Has a thread stop on its way out of the call that it is in.
    fn interrupt(tid: u32, patience: Option<Duration>) -> Result<Tracee> {
        /// For another thread of ours that has it stop for a moment.
        const ITS_TURN: Duration = Duration::from_secs(1);
        let pid = Pid::from_raw(tid.cast_signed());
        let begun = Instant::now();
        loop {
            let quiet = Quiet::begin(tid);
            match ptrace::seize(pid, Options::empty()) {
                Ok(()) => {
                    let quiet = Some(quiet);
                    let tracee = Tracee {
                        pid,
                        runs: true,
                        steps: false,
                        patience,
                        due: Due::Nothing,
                        owed: None,
                        quiet,
                    };
                    ptrace::interrupt(pid).map_err(errno)?;
                    return Ok(tracee);
                }
                Err(nix::Error::EPERM) if begun.elapsed() < ITS_TURN && is_traced_here(tid) => {
                    std::thread::sleep(Duration::from_micros(100));
                }
                Err(error) => return Err(errno(error)),
            }
        }
    }

    /// Stops a thread on its way out of the call, which gets this answer. Before that, `prepare` does what must be done while it waits.
    fn catch<R>(
        listener: &Listener,
        id: u64,
        tid: u32,
        answer: std::result::Result<i64, i32>,
        patience: Option<Duration>,
        prepare: impl FnOnce() -> Result<R>,
    ) -> Result<(Tracee, R)> {
        let mut tracee = Tracee::interrupt(tid, patience)?;
        let prepared = prepare()?;
        if !listener.answer(id, answer) {
            return Err(Errno::ESRCH);
        }
        tracee.stop()?;
        Ok((tracee, prepared))
    }

    /// Waits for the next stop: returns its signal.
    fn stop(&mut self) -> Result<i32> {
        self.stop_until(self.patience.map(|patience| Instant::now() + patience))?.ok_or(Errno::ESRCH)
    }

    fn stop_until(&mut self, deadline: Option<Instant>) -> Result<Option<i32>> {
        let stop = wait_for_stop(self.pid, deadline)?;
        if let Some(signal) = stop {
            self.runs = false;
            self.steps &= stop != Some(libc::SIGTRAP) && !EVENTS.contains(&(signal >> 8));
            // One that comes while it has all blocked can't be.
            if signal != libc::SIGTRAP
                && let Ok(signal) = Signal::try_from(signal)
            {
                self.owed = Some(signal);
            }
        }
        Ok(stop)
    }

    /// Goes on by one instruction: one that makes a system call ends with the call, without a stop at its beginning. Returns what it stops for.
    fn step(&mut self) -> Result<i32> {
        let deadline = self.patience.map(|patience| Instant::now() + patience);
        loop {
            self.begin_step()?;
            let stop = self.stop_until(deadline)?.ok_or(Errno::ESRCH)?;
            if !self.steps {
                return Ok(stop);
            }
            // It stopped for a signal that is owed, or for nothing: somebody may have it continued again and again.
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(Errno::ESRCH);
            }
        }
    }

    fn begin_step(&mut self) -> Result<()> {
        ptrace::step(self.pid, None).map_err(errno)?;
        (self.runs, self.steps) = (true, true);
        Ok(())
    }

    fn registers(&self) -> Result<libc::user_regs_struct> {
        ptrace::getregs(self.pid).map_err(errno)
    }

    fn set_registers(&self, registers: libc::user_regs_struct) -> Result<()> {
        ptrace::setregs(self.pid, registers).map_err(errno)
    }

    /// Its mask of signals.
    fn mask(&self) -> Result<u64> {
        let mut mask = 0u64;
        // SAFETY: a mask of eight bytes.
        let done = unsafe {
            libc::ptrace(libc::PTRACE_GETSIGMASK, self.pid.as_raw(), size_of::<u64>(), &raw mut mask)
        };
        nix::errno::Errno::result(done).map(|_| mask).map_err(errno)
    }

    /// Gives it what it is due.
    fn put_right(&self) -> Result<()> {
        let (registers, mask) = match self.due {
            Due::Nothing => return Ok(()),
            Due::Whole(registers, mask) => (registers, mask),
            Due::Arguments(own, compat, mask) => {
                let mut registers = self.registers()?;
                for (register, own) in arguments(&mut registers, compat).into_iter().zip(own) {
                    *register = own;
                }
                (registers, mask)
            }
        };
        self.set_registers(registers)?;
        set_mask(self.pid, mask)
    }

    /// Lets it go on, if it has stopped by then.
    fn let_go(&mut self, deadline: Instant) -> bool {
        // Where it steps, the signal of that is still to come when it stops for us.
        while self.runs || self.steps && self.begin_step().is_ok() {
            match self.stop_until(Some(deadline)) {
                Ok(None) => return false,
                Ok(Some(_)) => {}
                Err(_) => {
                    bury(self.pid);
                    self.quiet = None;
                    return true;
                }
            }
        }
        let _ = self.put_right();
        if ptrace::detach(self.pid, self.owed) == Err(nix::Error::ESRCH) {
            // It was killed, and its end is to come.
            self.runs = true;
            return self.let_go(deadline);
        }
        self.quiet = None;
        true
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        /// For one that is about to stop.
        const MOMENT: Duration = Duration::from_millis(10);
        if self.quiet.is_none() || self.let_go(Instant::now() + MOMENT) {
            return;
        }
        let _ = ptrace::interrupt(self.pid);
        let Tracee { pid, runs, steps, patience, due, owed, .. } = *self;
        let mut late = Some(Tracee { pid, runs, steps, patience, due, owed, quiet: self.quiet.take() });
        let _ = LATE.try_with(|all| all.try_borrow_mut().map(|mut all| all.extend(late.take())));
        // A thread that ends lets go by that.
        if let Some(late) = &mut late {
            late.quiet = None;
        }
    }
}

/// The registers of a call's first two arguments.
fn arguments(registers: &mut libc::user_regs_struct, compat: bool) -> [&mut u64; 2] {
    if compat { [&mut registers.rbx, &mut registers.rcx] } else { [&mut registers.rdi, &mut registers.rsi] }
}

/// What a thread stops for that has made a child.
const EVENTS: [i32; 3] = [libc::PTRACE_EVENT_FORK, libc::PTRACE_EVENT_VFORK, libc::PTRACE_EVENT_CLONE];

/// Ends a call so that the kernel takes `answer`, one of its own codes of a call that signals have interrupted, for what it is, whether or
/// not the signals are still there.
pub(crate) fn interrupt(listener: &Listener, id: u64, tid: u32, answer: i32) -> Result<()> {
    Tracee::catch(listener, id, tid, Err(answer), PATIENCE, || Ok(())).map(drop)
}

/// A socket of that process is another one now: has its threads that wait to receive from it, but for the one that knows, begin their calls
/// anew. This takes its time, for which nobody need wait: what is sent to the new socket meanwhile is found there.
pub(crate) fn receive_anew(tgid: u32, but: u32, fd: i32) {
    /// How often it is looked at whether those that run have come to wait: they may be about to.
    const LOOKS: u32 = 20;
    const WHOLE: Duration = Duration::from_secs(2);
    /// One that has gone on may have to wait for somebody who wants to hold it.
    const MOMENT: Option<Duration> = Some(Duration::from_millis(50));
    let Ok(threads) = fs::read_dir(format!("/proc/{tgid}/task")) else { return };
    let tids = threads.flatten().filter_map(|thread| thread.file_name().to_str()?.parse().ok());
    let mut undecided: Vec<u32> = tids.filter(|tid| *tid != but).collect();
    let deadline = Instant::now() + WHOLE;
    for _ in 0..LOOKS {
        undecided.retain(|tid| match receives(*tid, fd) {
            None => true,
            Some(false) => false,
            Some(true) => {
                // Who can't be stopped is traced by somebody else, or has ended, or has gone on.
                let _ = Tracee::interrupt(*tid, MOMENT).and_then(|mut thread| thread.stop());
                false
            }
        });
        if undecided.is_empty() || Instant::now() >= deadline {
            return;
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// Whether a thread waits to receive from a descriptor; nothing if it runs.
fn receives(tid: u32, fd: i32) -> Option<bool> {
    // read recvfrom recvmsg, of x86-64 and of i386, either of which a program may use; what else has these numbers does not wait.
    const CALLS: [i32; 6] = [0, 45, 47, 3, 371, 372];
    /// Of i386, with its arguments in memory.
    const SOCKETCALL: i32 = 102;
    let text = fs::read_to_string(format!("/proc/{tid}/syscall")).unwrap_or_default();
    let mut words = text.split_ascii_whitespace();
    match words.next().map(str::parse::<i32>) {
        Some(Ok(number)) => {
            let first = words.next().and_then(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok());
            let is_its = first.is_some_and(|register| register as u32 == fd.cast_unsigned());
            Some(number == SOCKETCALL || CALLS.contains(&number) && is_its)
        }
        Some(Err(_)) => None,
        None => Some(false),
    }
}

/// A thread held where its call ends.
pub(crate) struct Held {
    tracee: Tracee,
    registers: libc::user_regs_struct,
    mask: u64,
    compat: bool,
}

/// The signal of a step, whose handler would be taken away if it came while it is blocked.
const STEPS: u64 = 1 << (libc::SIGTRAP - 1);
/// What a call comes to whose thread was told to stop, and did not: if it does, its registers tell otherwise.
const NEVER_SEEN: i32 = libc::ENOMEM;

impl Held {
    /// Holds the thread that waits for an answer. `prepare` does what must be done while it waits.
    pub(crate) fn catch<R>(
        listener: &Listener,
        id: u64,
        tid: u32,
        compat: bool,
        patience: Option<Duration>,
        prepare: impl FnOnce() -> Result<R>,
    ) -> Result<(Held, R)> {
        let (mut tracee, prepared) = Tracee::catch(listener, id, tid, Err(NEVER_SEEN), patience, prepare)?;
        let registers = tracee.registers()?;
        let mask = tracee.mask()?;
        tracee.due = Due::Whole(registers, mask);
        set_mask(tracee.pid, !STEPS)?;
        Ok((Held { tracee, registers, mask, compat }, prepared))
    }

    /// Its registers before its instruction, to make that call.
    fn before(&self, number: u64) -> libc::user_regs_struct {
        /// Of `syscall`, and of `int 0x80`, which also lies where the vDSO of 32-bit programs goes on after a call.
        const INSTRUCTION: u64 = 2;
        let mut registers = self.registers;
        registers.rip -= INSTRUCTION;
        registers.rax = number;
        // It is in no call that could begin anew.
        registers.orig_rax = u64::MAX;
        registers
    }

    /// The result in its registers.
    fn result(&self) -> Result<u64> {
        let result = self.tracee.registers()?.rax.cast_signed();
        // A 32-bit address may look like a negative number.
        #[expect(clippy::cast_possible_truncation, reason = "the register of a 32-bit program")]
        let error = if self.compat { i64::from(result as i32) } else { result };
        if (-4095..0).contains(&error) {
            return Err(Errno::from_raw(i32::try_from(-error).unwrap_or(0)));
        }
        let kept = if self.compat { u64::from(u32::MAX) } else { u64::MAX };
        Ok(result.cast_unsigned() & kept)
    }

    /// Has it make a system call.
    fn call(&mut self, call: Injected, [a, b, c, d, e, f]: [u64; 6]) -> Result<u64> {
        let mut registers = self.before(call.number(self.compat));
        if self.compat {
            (registers.rbx, registers.rcx, registers.rdx) = (a, b, c);
            (registers.rsi, registers.rdi, registers.rbp) = (d, e, f);
        } else {
            (registers.rdi, registers.rsi, registers.rdx) = (a, b, c);
            (registers.r10, registers.r8, registers.r9) = (d, e, f);
        }
        self.tracee.set_registers(registers)?;
        self.tracee.step()?;
        self.result()
    }

    /// mmap(2) of a whole file, shared.
    pub(crate) fn mmap(&mut self, at: u64, len: u64, protection: u64, flags: u64, fd: i32) -> Result<u64> {
        if self.compat && len > u32::MAX.into() {
            // So much is not free anywhere: there is a stack.
            let wants_free = flags & libc::MAP_FIXED_NOREPLACE as u64 != 0;
            return Err(if wants_free { Errno::EEXIST } else { Errno::ENOMEM });
        }
        self.call(Injected::Mmap, [at, len, protection, flags, fd as u64, 0])
    }

    /// munmap(2).
    pub(crate) fn munmap(&mut self, at: u64, len: u64) -> Result<()> {
        self.call(Injected::Munmap, [at, len, 0, 0, 0, 0]).map(drop)
    }

    /// close(2).
    pub(crate) fn close(&mut self, fd: i32) -> Result<()> {
        self.call(Injected::Close, [fd as u64, 0, 0, 0, 0, 0]).map(drop)
    }

    /// fcntl(2) with `F_SETFL`.
    pub(crate) fn set_flags(&mut self, fd: i32, flags: i32) -> Result<()> {
        let flags = u64::from(flags.cast_unsigned());
        self.call(Injected::Fcntl, [fd as u64, libc::F_SETFL as u64, flags, 0, 0, 0]).map(drop)
    }

    /// pread(2) of so many bytes of a file to its memory.
    pub(crate) fn read(&mut self, fd: i32, to: u64, len: u64, at: u64) -> Result<()> {
        let read = self.call(Injected::Pread, [u64::from(fd.cast_unsigned()), to, len, at, 0, 0])?;
        if read == len { Ok(()) } else { Err(Errno::EFAULT) }
    }

    /// unshare(2).
    pub(crate) fn unshare(&mut self, flags: u64) -> Result<()> {
        self.call(Injected::Unshare, [flags, 0, 0, 0, 0, 0]).map(drop)
    }

    /// setns(2).
    pub(crate) fn setns(&mut self, fd: i32, kinds: u64) -> Result<()> {
        self.call(Injected::Setns, [u64::from(fd.cast_unsigned()), kinds, 0, 0, 0, 0]).map(drop)
    }

    /// A place on its stack that nothing of its own is at, for so many bytes.
    pub(crate) fn room(&self, size: u64) -> u64 {
        /// What functions use below the stack's end without saying so.
        const RED_ZONE: u64 = 128;
        self.registers.rsp.saturating_sub(RED_ZONE + size) & !15
    }

    /// Whether it is still there.
    pub(crate) fn is_there(&self) -> bool {
        self.tracee.registers().is_ok()
    }

    /// Has it make its own call again, which makes a child, with other first arguments, and lets it go on from there. `see` is told of the child before that
    /// has executed an instruction, and how to know whether it is still there.
    pub(crate) fn release_cloning(
        mut self,
        number: u64,
        instead: [u64; 2],
        see: impl FnOnce(u32, &dyn Fn() -> bool),
    ) {
        let due = Due::Arguments(self.arguments(), self.compat, self.mask);
        match self.begin_cloning(number, instead) {
            Ok(mut child) => {
                child.due = due;
                // If it has been killed, it is seen all the same.
                let _ = child.stop();
                see(child.pid.as_raw().cast_unsigned(), &|| child.registers().is_ok());
                // In the middle of its call, in which it may have to wait for the child.
                self.tracee.due = due;
            }
            Err(error) => self.release(Err(error.raw())),
        }
    }

    /// The first two arguments of its call.
    fn arguments(&self) -> [u64; 2] {
        arguments(&mut self.registers.clone(), self.compat).map(|register| *register)
    }

    /// Up to where the child is there.
    fn begin_cloning(&mut self, number: u64, instead: [u64; 2]) -> Result<Tracee> {
        let pid = self.tracee.pid;
        let options =
            Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK | Options::PTRACE_O_TRACECLONE;
        ptrace::setoptions(pid, options).map_err(errno)?;
        let mut registers = self.before(number);
        for (register, value) in arguments(&mut registers, self.compat).into_iter().zip(instead) {
            *register = value;
        }
        self.tracee.set_registers(registers)?;
        if self.tracee.step()? == libc::SIGTRAP {
            // The step is over, so there is no child.
            return self.result().and(Err(Errno::EINVAL));
        }
        let child = ptrace::getevent(pid).map_err(errno)?;
        #[expect(clippy::cast_possible_truncation, reason = "a process's id")]
        let pid = Pid::from_raw(child as i32);
        let quiet = Some(Quiet::begin(pid.as_raw().cast_unsigned()));
        Ok(Tracee { pid, runs: true, steps: false, patience: None, due: Due::Nothing, owed: None, quiet })
    }

    /// Lets it go on from its call with this result.
    pub(crate) fn release(mut self, result: std::result::Result<i64, i32>) {
        self.registers.rax = result.unwrap_or_else(|error| -i64::from(error)).cast_unsigned();
        self.tracee.due = Due::Whole(self.registers, self.mask);
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{SigmaskHow, pthread_sigmask, raise};

    use super::*;

    #[test]
    fn a_childs_end_that_is_not_read_yet_is_not_lost() {
        let of_children = SigSet::from(Signal::SIGCHLD);
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&of_children), None).unwrap();
        raise(Signal::SIGCHLD).unwrap();
        tracing().looks = true;
        drop(Quiet::begin(0));
        // SAFETY: a set of ours.
        let is_pending = unsafe {
            let mut pending = std::mem::zeroed();
            libc::sigpending(&mut pending);
            libc::sigismember(&pending, libc::SIGCHLD) == 1
        };
        assert!(is_pending);
    }
}
