//! A thread for a moment, with a table of descriptors of its own: for where the process has none free.
//!
//! # Safety
//! The thread runs on a stack of its own with the caller's thread-local storage, while the caller sleeps in the kernel and
//! all signals are blocked. It is unknown to libc.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering::*};

use abi::{Errno, Result};

use crate::{check, file, futex_wait, map_private, signal, syscall6, unmap};

const CLONE_VM: usize = 0x100;
const CLONE_FS: usize = 0x200;
const CLONE_SIGHAND: usize = 0x800;
const CLONE_THREAD: usize = 0x1_0000;
const CLONE_SYSVSEM: usize = 0x4_0000;
const CLONE_CHILD_CLEARTID: usize = 0x20_0000;
const FLAGS: usize =
    CLONE_VM | CLONE_FS | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_CHILD_CLEARTID;

const STACK: usize = 32 << 10;

/// Has the calling thread scheduled in shorter slices that come earlier, so that what it does for others does not wait until those who compute
/// have used theirs up; its share stays. Threads that it makes are alike. Before Linux 6.12, and for other classes than the usual one, nothing
/// changes.
pub fn be_prompt() {
    const SCHED_GETATTR: i64 = 315;
    const SCHED_SETATTR: i64 = 314;
    const SLICE_NS: u64 = 100_000;
    /// `sched_attr`, version 0.
    #[repr(C)]
    #[derive(Default)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    let mut attr = Attributes::default();
    // SAFETY: there is room for as much as is said, of the calling thread.
    let got = check(unsafe {
        syscall6(SCHED_GETATTR, 0, &raw mut attr as usize, size_of::<Attributes>(), 0, 0, 0)
    });
    if got.is_ok() && attr.policy == 0 {
        attr.runtime = SLICE_NS;
        // SAFETY: what was got, with another slice.
        unsafe { syscall6(SCHED_SETATTR, 0, &raw const attr as usize, 0, 0, 0, 0) };
    }
}

/// Whether the calling thread is the only one of its process; not if that can't be known.
pub fn is_only() -> bool {
    let count = || {
        let mut text = [0; 512];
        // SAFETY: a terminated string.
        let stat =
            unsafe { file::openat(file::AT_FDCWD, c"/proc/self/stat".as_ptr() as usize, file::O_CLOEXEC) };
        let len = file::read_start(&stat.ok()?, &mut text).ok()?;
        let fields = text.get(..len)?.rsplit(|byte| *byte == b')').next()?;
        // Behind the name comes the third field; it is the twentieth.
        let field = fields.split(|byte| *byte == b' ').nth(18)?;
        Some(field == b"1")
    };
    count().unwrap_or(false)
}

/// Does `work` where no descriptor is open. It must not panic; what it opens is closed behind it.
///
/// # Errors
/// `EAGAIN ENOMEM`: there can't be a thread.
pub fn without_descriptors<R>(work: impl FnOnce() -> R) -> Result<R> {
    struct Job<F, R> {
        work: Option<F>,
        done: Option<R>,
    }
    extern "C" fn run<F: FnOnce() -> R, R>(job: &mut Job<F, R>) {
        // SAFETY: closes what is the thread's own, a copy. Locks of the process on its files are of the original.
        let closed = check(unsafe { syscall6(436, 0, u32::MAX as usize, 0, 0, 0, 0) });
        if closed.is_ok() {
            job.done = job.work.take().map(|work| work());
        }
    }
    fn runner<F: FnOnce() -> R, R>(_: &F) -> extern "C" fn(&mut Job<F, R>) {
        run::<F, R>
    }
    let entry = runner(&work) as *const ();
    let mut job = Job { work: Some(work), done: None };
    let stack = map_private(STACK)?;
    let before = signal::set_mask(!0);
    let running = AtomicU32::new(1);
    // SAFETY: the stack is new; the job and the word outlive the thread, which is waited for below.
    let started = unsafe { start(stack.as_ptr().add(STACK), entry.cast(), (&raw mut job).cast(), &running) };
    while started.is_ok() && running.load(Acquire) != 0 {
        let _ = futex_wait(&running, 1, 1_000_000_000);
    }
    signal::set_mask(before);
    // SAFETY: its thread has ended, or never began.
    unsafe { unmap(stack, STACK) };
    started?;
    job.done.ok_or(Errno::ENOSYS)
}

/// Starts a thread that calls `entry(argument)` and ends; the kernel then clears `running`.
///
/// # Safety
/// `top` ends a stack that lives as long as the thread, and so does all that `entry` uses.
unsafe fn start(top: *mut u8, entry: *const u8, argument: *mut u8, running: &AtomicU32) -> Result<()> {
    let ret: isize;
    // SAFETY: the caller's promise. The new thread begins behind the first instruction, and never leaves this block.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "xor edi, edi",
            "mov eax, 60",
            "syscall",
            "ud2",
            "2:",
            inlateout("rax") 56isize => ret,
            in("rdi") FLAGS,
            in("rsi") top,
            in("rdx") 0,
            in("r10") core::ptr::from_ref(running),
            in("r8") 0,
            in("r12") argument,
            in("r13") entry,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    check(ret).map(|_| ())
}
