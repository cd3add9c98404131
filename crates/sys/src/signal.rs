//! Signals, below libc: actions, masks, and a signal that is sent again to come later.
//!
//! # Safety
//! Structures have the kernel's layout of x86-64. [`Context`] looks into the frame that the kernel hands a handler.

use core::arch::global_asm;

use abi::Result;

use crate::{check, getpid, gettid, syscall6};

/// A set of signals: signal n is bit n - 1.
pub type Mask = u64;

/// The set of one signal.
pub const fn bit(signal: i32) -> Mask {
    1 << ((signal - 1) & 63)
}

/// Bad memory.
pub const SIGSEGV: i32 = 11;
/// Memory that is not there.
pub const SIGBUS: i32 = 7;
/// Those that code raises by itself: ILL, TRAP, BUS, FPE, SEGV, SYS.
pub const FAULTS: Mask = bit(4) | bit(5) | bit(SIGBUS) | bit(8) | bit(SIGSEGV) | bit(31);
/// Those that can have no handler: KILL, STOP.
pub const WITHOUT_HANDLER: Mask = bit(9) | bit(19);
/// Those that libc keeps for itself: cancellation, change of credentials.
pub const LIBC: Mask = bit(32) | bit(33);

/// `SA_SIGINFO`.
pub const SA_SIGINFO: u64 = 4;
/// `SA_RESTART`.
pub const SA_RESTART: u64 = 0x1000_0000;
/// `SA_INTERRUPT`, which only old programs name.
pub const SA_INTERRUPT: u64 = 0x2000_0000;
/// `SA_NODEFER`.
pub const SA_NODEFER: u64 = 0x4000_0000;
/// `SA_RESETHAND`.
pub const SA_RESETHAND: u64 = 0x8000_0000;
/// The kernel's: there is a restorer.
pub const SA_RESTORER: u64 = 0x0400_0000;
/// The default.
pub const SIG_DFL: usize = 0;
/// Ignored.
pub const SIG_IGN: usize = 1;

/// The kernel's `struct sigaction`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelSigaction {
    /// Address of the handler, `SIG_DFL` or `SIG_IGN`.
    pub handler: usize,
    /// `SA_*`.
    pub flags: u64,
    /// Where a handler returns to.
    pub restorer: usize,
    /// What is blocked meanwhile.
    pub mask: Mask,
}

global_asm!(
    ".pushsection .text.ipcspace_restorer,\"ax\",@progbits",
    ".hidden ipcspace_restorer",
    ".globl ipcspace_restorer",
    // The unwinder recognises these two instructions.
    "nop",
    "ipcspace_restorer:",
    "mov rax, 15",
    "syscall",
    ".popsection",
);
unsafe extern "C" {
    fn ipcspace_restorer();
}

/// A restorer, for who has none.
pub fn restorer() -> usize {
    ipcspace_restorer as *const () as usize
}

/// `rt_sigaction(2)`: the action before.
///
/// # Safety
/// The handler must be one, or `SIG_DFL` or `SIG_IGN`.
///
/// # Errors
/// `EINVAL`.
pub unsafe fn rt_sigaction(signal: i32, new: Option<&KernelSigaction>) -> Result<KernelSigaction> {
    let mut old = KernelSigaction::default();
    let new = new.map_or(0, |new| core::ptr::from_ref(new) as usize);
    // SAFETY: valid or null structures of the kernel's layout.
    check(unsafe { syscall6(13, signal as usize, new, &raw mut old as usize, 8, 0, 0) })?;
    Ok(old)
}

/// `rt_sigprocmask(2)`: the mask before.
///
/// # Errors
/// `EINVAL`.
pub fn rt_sigprocmask(how: i32, set: Option<Mask>) -> Result<Mask> {
    let mut old = 0;
    // SAFETY: a valid place.
    unsafe { rt_sigprocmask_to(how, set, &raw mut old) }?;
    Ok(old)
}

/// `rt_sigprocmask(2)`, the mask before goes to `old`.
///
/// # Safety
/// `old` is the program's, null, or a bad address: the kernel writes there.
///
/// # Errors
/// `EINVAL EFAULT`.
pub unsafe fn rt_sigprocmask_to(how: i32, set: Option<Mask>, old: *mut Mask) -> Result<()> {
    let new = set.as_ref().map_or(0, |set| core::ptr::from_ref(set) as usize);
    // SAFETY: a valid place or null; the caller's promise.
    check(unsafe { syscall6(14, how as usize, new, old as usize, 8, 0, 0) }).map(|_| ())
}

/// Sets the thread's mask; returns the one before.
pub fn set_mask(mask: Mask) -> Mask {
    const SIG_SETMASK: i32 = 2;
    rt_sigprocmask(SIG_SETMASK, Some(mask)).unwrap_or(0)
}

/// Adds to the thread's mask; returns the one before.
pub fn block(mask: Mask) -> Mask {
    rt_sigprocmask(0, Some(mask)).unwrap_or(0)
}

/// The thread's mask.
pub fn mask() -> Mask {
    rt_sigprocmask(0, None).unwrap_or(0)
}

/// The kernel's `siginfo_t`, of which only the head is looked at.
#[repr(C)]
pub struct Siginfo {
    signo: i32,
    errno: i32,
    code: i32,
    rest: [u32; 29],
}

impl Siginfo {
    /// Whether the thread's own code raised it.
    pub fn is_fault(&self, signal: i32) -> bool {
        FAULTS & bit(signal) != 0 && self.code > 0
    }
}

/// Sends a signal with all that came with it to the calling thread.
///
/// # Errors
/// `EAGAIN` if no more signals can be queued.
pub fn send_again(signal: i32, info: &Siginfo) -> Result<()> {
    let at = core::ptr::from_ref(info) as usize;
    // SAFETY: a valid siginfo. A process may send itself whatever it wants.
    check(unsafe { syscall6(297, getpid() as usize, gettid() as usize, signal as usize, at, 0, 0) })
        .map(|_| ())
}

/// `ucontext_t`: uc_flags, uc_link and uc_stack, 23 registers, fpregs, reserved words, and the mask.
const REGISTERS: usize = 40;
const RIP: usize = REGISTERS + 16 * 8;
const UC_SIGMASK: usize = REGISTERS + 23 * 8 + 8 + 64;

/// The thread as a signal has found it, and as it goes on after the handler.
#[derive(Clone, Copy)]
pub struct Context(*mut u8);

impl Context {
    /// What a handler is given as its third argument.
    ///
    /// # Safety
    /// It must be that.
    pub unsafe fn new(context: *mut u8) -> Context {
        Context(context)
    }

    /// The next instruction.
    pub fn rip(self) -> usize {
        // SAFETY: inside the kernel's frame.
        unsafe { self.0.add(RIP).cast::<usize>().read() }
    }

    /// Goes on elsewhere.
    ///
    /// # Safety
    /// It must be a place that the interrupted code can go on at.
    pub unsafe fn set_rip(self, to: usize) {
        // SAFETY: inside the kernel's frame.
        unsafe { self.0.add(RIP).cast::<usize>().write(to) }
    }

    /// What is blocked after the handler.
    pub fn mask(self) -> Mask {
        // SAFETY: inside the kernel's frame.
        unsafe { self.0.add(UC_SIGMASK).cast::<Mask>().read() }
    }

    /// Changes what is blocked after the handler.
    pub fn set_mask(self, mask: Mask) {
        // SAFETY: inside the kernel's frame.
        unsafe { self.0.add(UC_SIGMASK).cast::<Mask>().write(mask) }
    }
}
