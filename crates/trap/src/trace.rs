//! A thread whose call was asked about, stopped on its way out of it: so that it makes another call first, or surely sees its signals.
//!
//! It is seized and interrupted before it is answered, so it stops before it is back in the program. There it has all signals
//! blocked while it makes calls of ours from the instruction that made its own. In the end it has its registers, with the result, and its mask.
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
use crate::target::Subject;

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
        }
    }
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
        let mut rounds = 0u32;
        loop {
            // SAFETY: a structure of integers.
            let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
            let options = libc::WEXITED | libc::WSTOPPED | libc::__WALL | libc::WNOWAIT | libc::WNOHANG;
            // Its end is for its parent, who may be us, in another thread.
            // SAFETY: a valid place.
            let done =
                unsafe { libc::waitid(libc::P_PID, self.pid.as_raw().cast_unsigned(), &mut info, options) };
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
                    unsafe { libc::waitpid(self.pid.as_raw(), &mut status, libc::__WALL | libc::WNOHANG) };
                    return Ok(signal);
                }
                _ => return Err(Errno::ESRCH),
            }
            rounds += 1;
        }
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

    fn mask(&self, request: libc::c_uint, mask: &mut u64) -> Result<()> {
        // SAFETY: a mask of eight bytes.
        let done = unsafe { libc::ptrace(request, self.pid.as_raw(), size_of::<u64>(), &raw mut *mask) };
        nix::errno::Errno::result(done).map(drop).map_err(errno)
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
        subject: &Subject,
        prepare: impl FnOnce() -> Result<R>,
    ) -> Result<(Held, R)> {
        let (tracee, prepared) = Tracee::catch(listener, id, subject.tid, Ok(0), prepare)?;
        let registers = tracee.registers()?;
        let mut mask = 0;
        tracee.mask(libc::PTRACE_GETSIGMASK, &mut mask)?;
        tracee.mask(libc::PTRACE_SETSIGMASK, &mut !0)?;
        Ok((Held { tracee, registers, mask, compat: subject.compat }, prepared))
    }

    /// Has it make a system call.
    fn call(&mut self, call: Injected, [a, b, c, d, e, f]: [u64; 6]) -> Result<u64> {
        /// Of `syscall`, and of `int 0x80`, which also lies where the vDSO of 32-bit programs goes on after a call.
        const INSTRUCTION: u64 = 2;
        let mut registers = self.registers;
        registers.rip -= INSTRUCTION;
        registers.rax = call.number(self.compat);
        // It is in no call that could begin anew.
        registers.orig_rax = u64::MAX;
        if self.compat {
            (registers.rbx, registers.rcx, registers.rdx) = (a, b, c);
            (registers.rsi, registers.rdi, registers.rbp) = (d, e, f);
        } else {
            (registers.rdi, registers.rsi, registers.rdx) = (a, b, c);
            (registers.r10, registers.r8, registers.r9) = (d, e, f);
        }
        self.tracee.set_registers(registers)?;
        self.tracee.step()?;
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

    /// Lets it go on from its call with this result.
    pub(crate) fn release(mut self, result: std::result::Result<i64, i32>) {
        self.registers.rax = result.unwrap_or_else(|error| -i64::from(error)).cast_unsigned();
        // If it has ended, there is nobody to tell.
        let _ = self.tracee.set_registers(self.registers);
        let _ = self.tracee.mask(libc::PTRACE_SETSIGMASK, &mut self.mask.clone());
    }
}
