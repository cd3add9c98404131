//! A thread whose call was asked about, stopped on its way out of it: so that it makes another call first, or surely sees its signals.
//!
//! It is seized and interrupted before it is answered, so it stops before it is back in the program. There it has all signals
//! blocked while it makes calls of ours from the instruction that made its own. In the end it has its registers, with the result, and its mask.
//! A child that it is made to make stops before its first instruction, and is put right in the same way.
//!
//! The broker waits for its children with [`untraced`], as waitpid(2) would tell it of these stops.
//!
//! # Safety
//! Registers and masks are locals of the kernel's types.

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use abi::{Errno, Result};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::notify::Listener;

static TRACING: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    TRACING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does something while no thread is traced here.
pub fn untraced<R>(act: impl FnOnce() -> R) -> R {
    let _none = alone();
    act()
}

/// While a thread is traced, stops send no SIGCHLD: the broker's first thread would wake at each of them.
struct Quiet {
    _alone: MutexGuard<'static, ()>,
}

impl Quiet {
    fn begin() -> Quiet {
        let quiet = Quiet { _alone: alone() };
        Quiet::hear_of_stops(false);
        quiet
    }

    fn hear_of_stops(hears: bool) {
        let flags = if hears { SaFlags::empty() } else { SaFlags::SA_NOCLDSTOP };
        // It has no handler: it is read from a descriptor.
        let action = SigAction::new(SigHandler::SigDfl, flags, SigSet::empty());
        // SAFETY: no handler.
        let _ = unsafe { sigaction(Signal::SIGCHLD, &action) };
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        Quiet::hear_of_stops(true);
        // A child may have been stopped or continued meanwhile, not by us.
        let kinds = WaitPidFlag::WSTOPPED | WaitPidFlag::WCONTINUED | WaitPidFlag::WNOWAIT;
        let news = waitid(Id::All, kinds | WaitPidFlag::WNOHANG);
        if news.is_ok_and(|status| status != WaitStatus::StillAlive) {
            let _ = kill(Pid::this(), Signal::SIGCHLD);
        }
    }
}

/// How long a thread may take to its next stop: it does nothing that could take long.
const PATIENCE: Duration = Duration::from_secs(2);

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
            (Injected::Unshare, false) => 272,
            (Injected::Unshare, true) => 310,
            (Injected::Setns, false) => 308,
            (Injected::Setns, true) => 346,
        }
    }
}

/// Waits until a thread that is traced stops: returns its signal, and above that the event that it stops for.
fn wait_for_stop(pid: Pid, deadline: Instant) -> Result<i32> {
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
            (0, _) if Instant::now() >= deadline => return Err(Errno::ESRCH),
            // It comes at once, but for the scheduler.
            (0, _) if rounds < 200 => std::thread::yield_now(),
            (0, _) => std::thread::sleep(Duration::from_micros(100)),
            (libc::CLD_TRAPPED | libc::CLD_STOPPED, signal) => {
                let mut status = 0;
                // SAFETY: a valid place.
                unsafe { libc::waitpid(pid.as_raw(), &mut status, libc::__WALL | libc::WNOHANG) };
                return Ok(signal);
            }
            _ => return Err(Errno::ESRCH),
        }
        rounds += 1;
    }
}

fn set_mask(pid: Pid, mask: u64) -> Result<()> {
    // SAFETY: a mask of eight bytes.
    let done =
        unsafe { libc::ptrace(libc::PTRACE_SETSIGMASK, pid.as_raw(), size_of::<u64>(), &raw const mask) };
    nix::errno::Errno::result(done).map(drop).map_err(errno)
}

/// A thread that was made to stop.
struct Tracee {
    pid: Pid,
    /// A signal that can't be blocked, to be delivered when it is let go.
    owed: Option<Signal>,
    _quiet: Quiet,
}

impl Tracee {
    /// Has a thread stop on its way out of the call that it is in.
    fn interrupt(tid: u32) -> Result<Tracee> {
        let quiet = Quiet::begin();
        let pid = Pid::from_raw(tid.cast_signed());
        ptrace::seize(pid, Options::empty()).map_err(errno)?;
        let tracee = Tracee { pid, owed: None, _quiet: quiet };
        ptrace::interrupt(pid).map_err(errno)?;
        Ok(tracee)
    }

    /// Stops a thread on its way out of the call, which gets this answer. Before that, `prepare` does what must be done while it waits.
    fn catch<R>(
        listener: &Listener,
        id: u64,
        tid: u32,
        answer: std::result::Result<i64, i32>,
        prepare: impl FnOnce() -> Result<R>,
    ) -> Result<(Tracee, R)> {
        let mut tracee = Tracee::interrupt(tid)?;
        let prepared = prepare()?;
        if !listener.answer(id, answer) {
            return Err(Errno::ESRCH);
        }
        tracee.stop(Instant::now() + PATIENCE)?;
        Ok((tracee, prepared))
    }

    /// Waits for the next stop: returns its signal.
    fn stop(&mut self, deadline: Instant) -> Result<i32> {
        wait_for_stop(self.pid, deadline)
    }

    /// Goes on by one instruction: one that makes a system call ends with the call, without a stop at its beginning.
    fn step(&mut self) -> Result<()> {
        loop {
            ptrace::step(self.pid, None).map_err(errno)?;
            match self.stop(Instant::now() + PATIENCE)? {
                libc::SIGTRAP => return Ok(()),
                libc::SIGSTOP => self.owed = Some(Signal::SIGSTOP),
                _ => {}
            }
        }
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
}

impl Drop for Tracee {
    fn drop(&mut self) {
        let _ = ptrace::detach(self.pid, self.owed);
    }
}

/// Ends a call so that the kernel takes `answer`, one of its own codes of a call that signals have interrupted, for what it is, whether or
/// not the signals are still there.
pub(crate) fn interrupt(listener: &Listener, id: u64, tid: u32, answer: i32) -> Result<()> {
    Tracee::catch(listener, id, tid, Err(answer), || Ok(())).map(drop)
}

/// A socket of that process is another one now: has its threads that wait to receive from it, but for the one that knows, begin their calls
/// anew. This takes its time, for which nobody need wait: what is sent to the new socket meanwhile is found there.
pub(crate) fn receive_anew(tgid: u32, but: u32, fd: i32) {
    /// How often it is looked at whether those that run have come to wait: they may be about to.
    const LOOKS: u32 = 20;
    let Ok(threads) = fs::read_dir(format!("/proc/{tgid}/task")) else { return };
    let tids = threads.flatten().filter_map(|thread| thread.file_name().to_str()?.parse().ok());
    let mut undecided: Vec<u32> = tids.filter(|tid| *tid != but).collect();
    let deadline = Instant::now() + PATIENCE;
    for _ in 0..LOOKS {
        undecided.retain(|tid| match receives(*tid, fd) {
            None => true,
            Some(false) => false,
            Some(true) => {
                // Who can't be stopped is traced by somebody else, or has ended.
                let _ = Tracee::interrupt(*tid).and_then(|mut thread| thread.stop(deadline));
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

impl Held {
    /// Holds the thread that waits for an answer. `prepare` does what must be done while it waits.
    pub(crate) fn catch<R>(
        listener: &Listener,
        id: u64,
        tid: u32,
        compat: bool,
        prepare: impl FnOnce() -> Result<R>,
    ) -> Result<(Held, R)> {
        let (tracee, prepared) = Tracee::catch(listener, id, tid, Ok(0), prepare)?;
        let registers = tracee.registers()?;
        let mask = tracee.mask()?;
        set_mask(tracee.pid, !0)?;
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

    /// The register of a call's first argument.
    fn first(registers: &mut libc::user_regs_struct, compat: bool) -> &mut u64 {
        if compat { &mut registers.rbx } else { &mut registers.rdi }
    }

    /// Has it make its own call again, which makes a child, with another first argument, and lets it go on from there. `see` is told of the child before that
    /// has executed an instruction.
    pub(crate) fn release_cloning(mut self, number: u64, first: u64, see: impl FnOnce(u32)) {
        match self.begin_cloning(number, first) {
            Ok(child) => {
                let parent = self.tracee.pid;
                let _ = self.put_right(child, see);
                // In the middle of its call, in which it may have to wait for the child.
                let _ = self.restore(parent);
            }
            Err(error) => self.release(Err(error.raw())),
        }
    }

    /// Up to where the child is there.
    fn begin_cloning(&mut self, number: u64, first: u64) -> Result<Pid> {
        const EVENTS: [i32; 3] =
            [libc::PTRACE_EVENT_FORK, libc::PTRACE_EVENT_VFORK, libc::PTRACE_EVENT_CLONE];
        let pid = self.tracee.pid;
        let options =
            Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK | Options::PTRACE_O_TRACECLONE;
        ptrace::setoptions(pid, options).map_err(errno)?;
        let mut registers = self.before(number);
        *Held::first(&mut registers, self.compat) = first;
        self.tracee.set_registers(registers)?;
        loop {
            ptrace::step(pid, None).map_err(errno)?;
            match self.tracee.stop(Instant::now() + PATIENCE)? {
                // The step is over, so there is no child.
                libc::SIGTRAP => return self.result().and(Err(Errno::EINVAL)),
                libc::SIGSTOP => self.tracee.owed = Some(Signal::SIGSTOP),
                stop if EVENTS.contains(&(stop >> 8)) => {
                    let child = ptrace::getevent(pid).map_err(errno)?;
                    #[expect(clippy::cast_possible_truncation, reason = "a process's id")]
                    return Ok(Pid::from_raw(child as i32));
                }
                _ => {}
            }
        }
    }

    /// Gives a child the registers and the mask that it would have, shows it, and lets it go.
    fn put_right(&self, child: Pid, see: impl FnOnce(u32)) -> Result<()> {
        let stopped = wait_for_stop(child, Instant::now() + PATIENCE);
        see(child.as_raw().cast_unsigned());
        stopped?;
        let restored = self.restore(child);
        ptrace::detach(child, None).map_err(errno)?;
        restored
    }

    /// Gives a thread that made this one's call the argument and the mask that this one had.
    fn restore(&self, pid: Pid) -> Result<()> {
        let mut registers = ptrace::getregs(pid).map_err(errno)?;
        *Held::first(&mut registers, self.compat) = *Held::first(&mut self.registers.clone(), self.compat);
        ptrace::setregs(pid, registers).map_err(errno)?;
        set_mask(pid, self.mask)
    }

    /// Lets it go on from its call with this result.
    pub(crate) fn release(mut self, result: std::result::Result<i64, i32>) {
        self.registers.rax = result.unwrap_or_else(|error| -i64::from(error)).cast_unsigned();
        // If it has ended, there is nobody to tell.
        let _ = self.tracee.set_registers(self.registers);
        let _ = set_mask(self.tracee.pid, self.mask);
    }
}
