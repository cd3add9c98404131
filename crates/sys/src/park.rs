//! The sleep that a signal ends at once, whatever the moment it comes.
//!
//! Between the look at the word that signals set and the sleep, a signal would go unseen until the next wake. So both are in
//! a few instructions whose addresses are known: a handler that finds the thread there lets it go on at the end.
//!
//! # Safety
//! `ipcspace_park` uses no stack, so that a handler can end it anywhere, and has unwind information, so that a
//! cancelled thread can leave it anywhere.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU32, AtomicU64};

use abi::{Result, time::Clock};

use crate::{EVERYBODY, Timespec, check, timespec, wait_until};

// rdi: word, rsi: FUTEX_WAIT_BITSET, rdx: value, rcx: until when, r8: what signals set, r9: the bits. Returns the system call's result.
global_asm!(
    ".pushsection .text.ipcspace_park,\"ax\",@progbits",
    ".hidden ipcspace_park",
    ".hidden ipcspace_park_end",
    ".hidden ipcspace_park_interrupted",
    ".globl ipcspace_park",
    ".type ipcspace_park,@function",
    "ipcspace_park:",
    ".cfi_startproc",
    "mov r10, rcx",
    "cmp qword ptr [r8], 0",
    "jne ipcspace_park_interrupted",
    "mov eax, 202",
    "syscall",
    ".globl ipcspace_park_end",
    "ipcspace_park_end:",
    "ret",
    ".globl ipcspace_park_interrupted",
    "ipcspace_park_interrupted:",
    "mov rax, -4",
    "ret",
    ".cfi_endproc",
    ".size ipcspace_park, . - ipcspace_park",
    ".popsection",
);

// Not as what unwinds, see the client's cancellation: a guard of ours would be in the way.
unsafe extern "C" {
    fn ipcspace_park(
        word: *const AtomicU32,
        op: usize,
        value: usize,
        time: *const Timespec,
        signalled: *const AtomicU64,
        bits: usize,
    ) -> isize;
    fn ipcspace_park_end();
    fn ipcspace_park_interrupted();
}

/// As [`crate::futex_wait_until`], but ended as by a signal when `signalled` is no longer 0.
///
/// # Errors
/// `EAGAIN` if the word differs, `EINTR`, `ETIMEDOUT`.
pub fn futex_wait_until(
    word: &AtomicU32,
    value: u32,
    clock: Clock,
    ns: u64,
    signalled: &AtomicU64,
) -> Result<()> {
    let (op, time) = (wait_until(clock), timespec(ns));
    // SAFETY: all places are valid for the call.
    check(unsafe { ipcspace_park(word, op, value as usize, &raw const time, signalled, EVERYBODY) })
        .map(|_| ())
}

/// Where a thread that a signal found at `at` goes on, if it was about to sleep.
pub fn after_signal(at: usize) -> Option<usize> {
    (ipcspace_park as *const () as usize..ipcspace_park_end as *const () as usize)
        .contains(&at)
        .then_some(ipcspace_park_interrupted as *const () as usize)
}
