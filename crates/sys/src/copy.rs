//! Copies that survive bad addresses: a fault inside them becomes `EFAULT`.
//!
//! The copy is a few instructions whose addresses are known. The handler of SIGSEGV and SIGBUS (it is the client's),
//! finding the fault there, continues at the end with an error.
//!
//! # Safety
//! `ipcspace_copy` reads and writes only the ranges it is given; one of them belongs to us, the other one is the
//! program's own memory, which it asked us to read or write.

use core::arch::global_asm;
use core::ptr::NonNull;

use abi::{Errno, Result};

use crate::{check, getpid, syscall6};

// rdi: to, rsi: from, rdx: bytes. Returns 0, or 1 after a fault. No stack, so that a fault can end it anywhere.
global_asm!(
    ".pushsection .text.ipcspace_copy,\"ax\",@progbits",
    ".hidden ipcspace_copy",
    ".hidden ipcspace_copy_end",
    ".hidden ipcspace_copy_fault",
    ".globl ipcspace_copy",
    ".type ipcspace_copy,@function",
    ".p2align 5",
    "ipcspace_copy:",
    "cmp rdx, 16",
    "jb 3f",
    "cmp rdx, 768",
    "jae 5f",
    // 16 bytes at a time, the last 16 overlapping.
    "lea rcx, [rdx - 16]",
    "xor eax, eax",
    "2: movups xmm0, [rsi + rax]",
    "movups [rdi + rax], xmm0",
    "add rax, 16",
    "cmp rax, rcx",
    "jb 2b",
    "movups xmm0, [rsi + rcx]",
    "movups [rdi + rcx], xmm0",
    "xor eax, eax",
    "ret",
    "3: cmp rdx, 8",
    "jb 4f",
    "mov rax, [rsi]",
    "mov rcx, [rsi + rdx - 8]",
    "mov [rdi], rax",
    "mov [rdi + rdx - 8], rcx",
    "xor eax, eax",
    "ret",
    // No string instruction for so few: it starts slowly, and what it stores can't be read back at once.
    "4: cmp rdx, 4",
    "jb 6f",
    "mov eax, [rsi]",
    "mov ecx, [rsi + rdx - 4]",
    "mov [rdi], eax",
    "mov [rdi + rdx - 4], ecx",
    "xor eax, eax",
    "ret",
    "6: test rdx, rdx",
    "jz 7f",
    "movzx eax, byte ptr [rsi]",
    "mov [rdi], al",
    "inc rsi",
    "inc rdi",
    "dec rdx",
    "jmp 6b",
    "7: xor eax, eax",
    "ret",
    "5: mov rcx, rdx",
    "rep movsb",
    "xor eax, eax",
    "ret",
    ".globl ipcspace_copy_end",
    "ipcspace_copy_end:",
    ".globl ipcspace_copy_fault",
    ".type ipcspace_copy_fault,@function",
    "ipcspace_copy_fault:",
    "mov eax, 1",
    "ret",
    ".size ipcspace_copy, . - ipcspace_copy",
    ".popsection",
);

unsafe extern "C" {
    fn ipcspace_copy(to: *mut u8, from: *const u8, len: usize) -> u32;
    fn ipcspace_copy_end();
    fn ipcspace_copy_fault();
}

/// Copies between our memory and the program's, in either direction.
///
/// # Safety
/// The side that is ours must be valid; the other one is whatever the program passed.
///
/// # Errors
/// `EFAULT`; part of it may have been copied.
#[inline(always)]
pub unsafe fn copy(to: *mut u8, from: *const u8, len: usize) -> Result<()> {
    // SAFETY: faults on the program's side are caught, ours is valid.
    if unsafe { ipcspace_copy(to, from, len) } == 0 { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Writes one byte of a page with what it holds.
///
/// # Safety
/// As [`copy`].
///
/// # Errors
/// `ENOMEM` if there is no memory for the page.
pub unsafe fn touch(at: NonNull<u8>) -> Result<()> {
    // SAFETY: the caller's promise; source and target are the same byte.
    unsafe { copy(at.as_ptr(), at.as_ptr(), 1) }.map_err(|_| Errno::ENOMEM)
}

/// Where a thread goes on that a fault stopped at `at`, if that is in the copy.
pub fn after_fault(at: usize) -> Option<usize> {
    (ipcspace_copy as *const () as usize..ipcspace_copy_end as *const () as usize)
        .contains(&at)
        .then_some(ipcspace_copy_fault as *const () as usize)
}

/// As [`copy`], by the kernel: for where a fault would end the process. A part may be copied there too.
///
/// # Safety
/// As [`copy`].
///
/// # Errors
/// `EFAULT`.
pub unsafe fn copy_by_kernel(to: *mut u8, from: *const u8, len: usize) -> Result<()> {
    let local = [to as usize, len];
    let remote = [from as usize, len];
    let (local_at, remote_at) = (local.as_ptr() as usize, remote.as_ptr() as usize);
    // SAFETY: one range each, of this process; the kernel checks both. It is process_vm_readv.
    match check(unsafe { syscall6(310, getpid() as usize, local_at, 1, remote_at, 1, 0) }) {
        Ok(done) if done == len => Ok(()),
        // SAFETY: the caller's promise. Where the call is not there, nothing better is.
        Err(Errno::ENOSYS | Errno::EPERM) => unsafe { copy(to, from, len) },
        _ => Err(Errno::EFAULT),
    }
}
