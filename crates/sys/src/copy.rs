//! Copies that survive bad addresses: a fault inside them becomes `EFAULT`.
//!
//! The copy is a few instructions whose addresses are known. A handler for SIGSEGV and SIGBUS, finding the fault
//! there, continues at the end with an error; any other fault is handed to whoever had the signal before.
//!
//! # Safety
//! `ipcspace_copy` reads and writes only the ranges it is given; one of them belongs to us, the other one is the
//! program's own memory, which it asked us to read or write.

use core::arch::global_asm;
use core::ptr::NonNull;

use abi::{Errno, Result};

use crate::syscall6;

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

/// The kernel's `struct sigaction`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelSigaction {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

const SIGSEGV: usize = 11;
const SIGBUS: usize = 7;
const SA_SIGINFO: u64 = 4;
const SA_ONSTACK: u64 = 0x0800_0000;
const SA_RESTORER: u64 = 0x0400_0000;
const SA_NODEFER: u64 = 0x4000_0000;
const NOTHING: KernelSigaction = KernelSigaction { handler: 0, flags: 0, restorer: 0, mask: 0 };
/// Offset of the saved instruction pointer in `ucontext_t`: uc_flags, uc_link and uc_stack, then the 17th register.
const UC_RIP: usize = 40 + 16 * 8;

static mut BEFORE_SEGV: KernelSigaction = NOTHING;
static mut BEFORE_BUS: KernelSigaction = NOTHING;

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

fn rt_sigaction(signal: usize, new: *const KernelSigaction, old: *mut KernelSigaction) {
    // SAFETY: valid or null structures of the kernel's layout.
    unsafe { syscall6(13, signal, new as usize, old as usize, 8, 0, 0) };
}

/// Installs the handler, once. Its predecessors get all faults that are not ours.
pub fn install_handler() {
    for (signal, before) in [(SIGSEGV, &raw mut BEFORE_SEGV), (SIGBUS, &raw mut BEFORE_BUS)] {
        let ours = KernelSigaction {
            handler: on_fault as *const () as usize,
            flags: SA_SIGINFO | SA_ONSTACK | SA_RESTORER | SA_NODEFER,
            restorer: ipcspace_restorer as *const () as usize,
            mask: 0,
        };
        let mut old = NOTHING;
        rt_sigaction(signal, &ours, &raw mut old);
        if old.handler != ours.handler {
            // SAFETY: written by the one thread that attaches first; read by the handler only.
            unsafe { before.write(old) };
        }
    }
}

extern "C" fn on_fault(signal: i32, _info: *mut u8, context: *mut u8) {
    // SAFETY: the kernel passes a ucontext_t, whose saved rip lies there.
    let rip = unsafe { context.add(UC_RIP).cast::<usize>() };
    // SAFETY: as above.
    let at = unsafe { rip.read() };
    if (ipcspace_copy as *const () as usize..ipcspace_copy_end as *const () as usize).contains(&at) {
        // SAFETY: the copy keeps nothing on the stack, so it can return from here.
        unsafe { rip.write(ipcspace_copy_fault as *const () as usize) };
        return;
    }
    // Not ours: as if we had never been there. The instruction faults again.
    let before = if signal as usize == SIGSEGV { &raw const BEFORE_SEGV } else { &raw const BEFORE_BUS };
    rt_sigaction(signal as usize, before, core::ptr::null_mut());
}
