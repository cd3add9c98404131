//! The only crate that makes system calls: what the client processes of a namespace need, without libc, without
//! allocation, without hidden state.
//!
//! # Safety
//! [`syscall6`] is the one unsafe primitive; the functions below give it arguments whose meaning for memory is known.
#![no_std]

use core::arch::asm;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use abi::{
    Errno, Result,
    time::{Clock, Timespec},
};

pub mod copy;
pub mod file;
pub mod memory;
pub mod mount;
pub mod net;
pub mod park;
pub mod queue;
pub mod robust;
pub mod signal;
pub mod thread;

/// The address of a function of libc that this one may not have, 0 if so. (Of a function that is declared, the compiler takes the address
/// for never null.)
#[macro_export]
macro_rules! libc_function {
    ($name:literal) => {{
        let address: usize;
        // SAFETY: reads a word that the loader has filled in.
        unsafe {
            core::arch::asm!(concat!(".weakref ipcspace_weak_", $name, ", ", $name), concat!("mov {}, qword ptr [rip + ipcspace_weak_", $name, "@GOTPCREL]"), out(reg) address,
                 options(pure, readonly, nostack, preserves_flags));
        }
        address
    }};
}

/// Makes a system call.
///
/// # Safety
/// As the call's: pointers among the arguments must be valid for what it does with them.
#[inline(always)]
pub unsafe fn syscall6(nr: i64, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
    let ret: isize;
    // SAFETY: the syscall instruction clobbers rcx and r11 only; the rest is the caller's promise.
    unsafe {
        asm!("syscall", inlateout("rax") nr as isize => ret, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
             in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    ret
}

/// A call's result as a value or an error.
#[inline(always)]
pub fn check(ret: isize) -> Result<usize> {
    if (-4095..0).contains(&ret) { Err(Errno::from_raw(-ret as i32)) } else { Ok(ret as usize) }
}

macro_rules! plain {
    ($($(#[$doc:meta])* $name:ident = $nr:literal;)*) => {
        $($(#[$doc])* pub fn $name() -> u32 {
            // SAFETY: takes no arguments and cannot fail.
            unsafe { syscall6($nr, 0, 0, 0, 0, 0, 0) as u32 }
        })*
    };
}
plain! {
    /// Thread id.
    gettid = 186;
    /// Process id.
    getpid = 39;
    /// Effective user.
    geteuid = 107;
    /// Effective group.
    getegid = 108;
}

/// Real, effective and saved user.
pub fn getresuid() -> [u32; 3] {
    let mut ids = [0u32; 3];
    let at = ids.as_mut_ptr();
    // SAFETY: three valid places.
    unsafe { syscall6(118, at as usize, at.wrapping_add(1) as usize, at.wrapping_add(2) as usize, 0, 0, 0) };
    ids
}

/// Real user id.
pub fn getuid() -> u32 {
    // SAFETY: no arguments.
    unsafe { syscall6(102, 0, 0, 0, 0, 0, 0) as u32 }
}

/// The user that file permissions are tested by.
pub fn getfsuid() -> u32 {
    // SAFETY: an id that cannot be set only makes it return the present one.
    unsafe { syscall6(122, u32::MAX as usize, 0, 0, 0, 0, 0) as u32 }
}

/// The group that file permissions are tested by.
pub fn getfsgid() -> u32 {
    // SAFETY: an id that cannot be set only makes it return the present one.
    unsafe { syscall6(123, u32::MAX as usize, 0, 0, 0, 0, 0) as u32 }
}

/// Whether `gid` is a supplementary group.
pub fn in_group(gid: u32) -> bool {
    const MANY: usize = 256;
    let mut groups = [0u32; MANY];
    // SAFETY: room for MANY groups. With more than that, the call fails and the thread is taken to have none.
    let count = unsafe { syscall6(115, MANY, groups.as_mut_ptr() as usize, 0, 0, 0, 0) };
    check(count).is_ok_and(|n| groups[..n.min(MANY)].contains(&gid))
}

/// Effective capabilities, as bits.
pub fn capabilities() -> u64 {
    let header = [0x2008_0522u32, 0];
    let mut data = [0u32; 6];
    // SAFETY: version 3 takes a header of two words and two sets of three.
    let ret = unsafe { syscall6(125, header.as_ptr() as usize, data.as_mut_ptr() as usize, 0, 0, 0, 0) };
    if ret == 0 { u64::from(data[0]) | u64::from(data[3]) << 32 } else { 0 }
}

/// Whether a process or thread of that id exists (0: `Ok`), by signal 0.
pub fn exists(id: u32) -> bool {
    // SAFETY: no memory involved; signal 0 only checks.
    check(unsafe { syscall6(62, id as usize, 0, 0, 0, 0, 0) }) != Err(Errno::ESRCH)
}

/// Whether a process has ended, whether or not its parent has waited for it. False where that can't be found out.
pub fn has_ended(pid: u32) -> bool {
    if !exists(pid) {
        return true;
    }
    // SAFETY: two integers.
    let Ok(fd) = check(unsafe { syscall6(434, pid as usize, 0, 0, 0, 0, 0) }) else { return false };
    let ready = net::poll_now(fd as i32, net::POLLIN);
    // SAFETY: the descriptor is ours, and closed once.
    unsafe { syscall6(3, fd, 0, 0, 0, 0, 0) };
    ready != 0
}

/// Whether a thread of this process exists.
pub fn thread_exists(tid: u32) -> bool {
    // SAFETY: as `exists`.
    check(unsafe { syscall6(234, getpid() as usize, tid as usize, 0, 0, 0, 0) }) != Err(Errno::ESRCH)
}

/// Lets others run on this CPU.
pub fn sched_yield() {
    // SAFETY: no memory involved.
    unsafe { syscall6(24, 0, 0, 0, 0, 0, 0) };
}

/// Whether the calling thread is scheduled before all ordinary ones: in a real-time or deadline class.
pub fn is_real_time() -> bool {
    const SCHED_FIFO: isize = 1;
    const SCHED_RR: isize = 2;
    const SCHED_DEADLINE: isize = 6;
    const RESET_ON_FORK: isize = 0x4000_0000;
    // SAFETY: no memory involved.
    let class = unsafe { syscall6(145, 0, 0, 0, 0, 0, 0) } & !RESET_ON_FORK;
    matches!(class, SCHED_FIFO | SCHED_RR | SCHED_DEADLINE)
}

/// A clock of the kernel's, nanoseconds: libc's may be shifted by a library that takes its place, and sleeps are not.
pub fn clock_ns(clock: Clock) -> u64 {
    let mut now = Timespec::default();
    // SAFETY: one valid timespec.
    unsafe { syscall6(228, clock as usize, core::ptr::from_mut(&mut now) as usize, 0, 0, 0, 0) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The monotonic clock, nanoseconds.
pub fn monotonic_ns() -> u64 {
    clock_ns(Clock::Monotonic)
}

/// Sleeps while `word` is `value`, at most `ns` nanoseconds. With a timeout, a signal handler ends the sleep with
/// `EINTR` whatever its flags, and SIGSTOP with SIGCONT doesn't.
///
/// # Errors
/// `EAGAIN` if the word differs, `EINTR`, `ETIMEDOUT`.
pub fn futex_wait(word: &AtomicU32, value: u32, ns: u64) -> Result<()> {
    let time = timespec(ns);
    let at = core::ptr::from_ref(word) as usize;
    // SAFETY: the word and the timespec are valid for the call.
    check(unsafe { syscall6(202, at, 0, value as usize, core::ptr::from_ref(&time) as usize, 0, 0) })
        .map(|_| ())
}

/// As [`futex_wait`], until a clock shows `ns` nanoseconds: whatever it is set to meanwhile.
///
/// # Errors
/// As there.
pub fn futex_wait_until(word: &AtomicU32, value: u32, clock: Clock, ns: u64) -> Result<()> {
    let time = timespec(ns);
    let (at, end) = (core::ptr::from_ref(word) as usize, core::ptr::from_ref(&time) as usize);
    // SAFETY: the word and the timespec are valid for the call.
    check(unsafe { syscall6(202, at, wait_until(clock), value as usize, end, 0, EVERYBODY) }).map(|_| ())
}

fn timespec(ns: u64) -> Timespec {
    Timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as i64 }
}

/// What `futex` is asked for by who sleeps until a time: `FUTEX_WAIT_BITSET`, whose bits are [`EVERYBODY`]'s.
fn wait_until(clock: Clock) -> usize {
    const FUTEX_WAIT_BITSET: usize = 9;
    const FUTEX_CLOCK_REALTIME: usize = 256;
    match clock {
        Clock::Monotonic => FUTEX_WAIT_BITSET,
        Clock::Realtime => FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME,
    }
}

/// `FUTEX_BITSET_MATCH_ANY`.
const EVERYBODY: usize = u32::MAX as usize;

/// Wakes up to `count` sleepers.
pub fn futex_wake(word: &AtomicU32, count: u32) {
    // SAFETY: the kernel only takes the address as a name.
    unsafe {
        syscall6(202, core::ptr::from_ref(word) as usize, 1, count.min(i32::MAX as u32) as usize, 0, 0, 0)
    };
}

const PROT_RW: usize = 3;
const MAP_SHARED: usize = 1;
const MAP_PRIVATE: usize = 2;
const MAP_FIXED: usize = 16;
const MAP_ANONYMOUS: usize = 32;
const MAP_NORESERVE: usize = 0x4000;
const MADV_REMOVE: usize = 9;
const MADV_DONTDUMP: usize = 16;
const MADV_WIPEONFORK: usize = 18;
const MADV_POPULATE_WRITE: usize = 23;

fn mmap(at: usize, len: usize, prot: usize, flags: usize, fd: isize, offset: u64) -> Result<NonNull<u8>> {
    // SAFETY: callers pass no address, or one of a range that they own.
    let start = check(unsafe { syscall6(9, at, len, prot, flags, fd as usize, offset as usize) })?;
    NonNull::new(start as *mut u8).ok_or(Errno::ENOMEM)
}

/// A place for a mapping of ours, far from where the kernel puts the program's: a hole that the program has just found, or made, is its own to use.
fn own_place(len: usize) -> usize {
    /// Above it are 16 TiB where neither programs nor the kernel's choice lie.
    const BASE: usize = 0x2000_0000_0000;
    /// What is random of an address where the layout is.
    const RANDOM: usize = 0x0fff_ffff_f000;
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let first = BASE | (&raw const NEXT).addr() & RANDOM;
    let _ = NEXT.compare_exchange(0, first, Ordering::Relaxed, Ordering::Relaxed);
    // A page between two, which nobody has.
    NEXT.fetch_add(len.next_multiple_of(4096) + 4096, Ordering::Relaxed)
}

/// Maps where there is room, most likely at a place of ours.
fn mmap_anywhere(len: usize, prot: usize, flags: usize, fd: isize, offset: u64) -> Result<NonNull<u8>> {
    mmap(own_place(len), len, prot, flags, fd, offset)
}

/// Maps a part of the arena's file, readable and writable. Nothing is filled in, also under mlockall(MCL_FUTURE), and
/// core dumps leave it out.
///
/// # Errors
/// `ENOMEM EAGAIN`.
pub fn map_shared(fd: i32, offset: u64, len: usize) -> Result<NonNull<u8>> {
    // Under MCL_FUTURE a mapping is filled at once if it is accessible: so it becomes that later, unlocked.
    let start = mmap_anywhere(len, 0, MAP_SHARED | MAP_NORESERVE, fd as isize, offset)?;
    open_shared(start, len)?;
    Ok(start)
}

fn open_shared(start: NonNull<u8>, len: usize) -> Result<()> {
    let at = start.as_ptr() as usize;
    // SAFETY: the range was just mapped here and nobody else knows it.
    unsafe {
        syscall6(150, at, len, 0, 0, 0, 0);
        syscall6(28, at, len, MADV_DONTDUMP, 0, 0, 0);
        check(syscall6(10, at, len, PROT_RW, 0, 0, 0)).map(|_| ())
    }
}

/// Maps one page of the arena's file and directly behind it a private page. Returns the first.
///
/// # Errors
/// `ENOMEM EAGAIN`.
pub fn map_page_pair(fd: i32, offset: u64) -> Result<NonNull<u8>> {
    const PAGE: usize = 4096;
    let start = mmap_anywhere(2 * PAGE, PROT_RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)?;
    let shared = mmap(start.as_ptr() as usize, PAGE, 0, MAP_SHARED | MAP_FIXED, fd as isize, offset)?;
    open_shared(shared, PAGE)?;
    Ok(start)
}

/// Private memory.
///
/// # Errors
/// `ENOMEM`.
pub fn map_private(len: usize) -> Result<NonNull<u8>> {
    mmap_anywhere(len, PROT_RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
}

/// A private page that reads as zeros in a child after fork.
///
/// # Errors
/// `ENOMEM`.
pub fn map_wiped_page() -> Result<NonNull<u8>> {
    let start = mmap_anywhere(4096, PROT_RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)?;
    // SAFETY: the page was just mapped.
    check(unsafe { syscall6(28, start.as_ptr() as usize, 4096, MADV_WIPEONFORK, 0, 0, 0) })?;
    Ok(start)
}

/// Puts memory under a mapped range of the arena, so that no later access fails.
///
/// # Safety
/// The range must be a mapping of the arena.
///
/// # Errors
/// `ENOMEM`, also where the kernel would give SIGBUS.
pub unsafe fn populate(start: NonNull<u8>, len: usize) -> Result<()> {
    // SAFETY: the caller's promise.
    match check(unsafe { syscall6(28, start.as_ptr() as usize, len, MADV_POPULATE_WRITE, 0, 0, 0) }) {
        Ok(_) => Ok(()),
        // Before Linux 5.14: the copy routine finds out page by page.
        Err(Errno::EINVAL) => (0..len).step_by(4096).try_for_each(|at| {
            // SAFETY: inside the range; one byte is written back as it was read.
            unsafe { copy::touch(start.add(at)) }
        }),
        Err(_) => Err(Errno::ENOMEM),
    }
}

/// Gives the memory under a mapped range of the arena back; it reads as zeros.
///
/// # Safety
/// The range must be a mapping of the arena, and nobody may need what is there.
pub unsafe fn remove(start: NonNull<u8>, len: usize) {
    // SAFETY: the caller's promise.
    unsafe { syscall6(28, start.as_ptr() as usize, len, MADV_REMOVE, 0, 0, 0) };
}

/// Puts private zeros in the place of what is mapped.
///
/// # Safety
/// Whoever uses the range must be content with zeros.
pub unsafe fn map_zeros(start: NonNull<u8>, len: usize) {
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    // It can't fail for the address, and without memory for the mapping's entry the process is lost anyway.
    let _ = mmap(start.as_ptr() as usize, len, PROT_RW, flags, -1, 0);
}

/// All stores that the process's threads have begun are seen behind this, and all their later loads see what was stored before it.
/// Where the kernel can't do that, a store may take a moment.
pub fn barrier_in_threads() {
    const PRIVATE_EXPEDITED: usize = 1 << 3;
    const REGISTER_PRIVATE_EXPEDITED: usize = 1 << 4;
    for command in [REGISTER_PRIVATE_EXPEDITED, PRIVATE_EXPEDITED] {
        // SAFETY: integers.
        unsafe { syscall6(324, command, 0, 0, 0, 0, 0) };
    }
}

/// Unmaps what was mapped here.
///
/// # Safety
/// Nobody may use the range any more.
pub unsafe fn unmap(start: NonNull<u8>, len: usize) {
    // SAFETY: the caller's promise.
    unsafe { syscall6(11, start.as_ptr() as usize, len, 0, 0, 0, 0) };
}
