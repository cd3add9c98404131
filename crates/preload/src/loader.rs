//! `dlopen`, so that libraries loaded with `RTLD_DEEPBIND` are in the namespace as well.
//!
//! What users see: PHP's extensions work; PHP loads them so. The flag makes a library look into its own dependencies
//! first, and there it finds libc's `msgget`. So it is taken away: a name defined both in such a library and in the
//! program is then the program's.
//! What is missing: `dlmopen`, whose libraries have a libc of their own.

use core::{
    arch::naked_asm,
    ffi::{c_char, c_int, c_void},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

const RTLD_DEEPBIND: c_int = 8;
const RTLD_NEXT: *mut c_void = core::ptr::without_provenance_mut(usize::MAX);

/// The address of libc's `dlopen`, 0 before the first call.
static LIBC_DLOPEN: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

extern "C" fn find_libc_dlopen() -> usize {
    // SAFETY: a terminated name; RTLD_NEXT is a handle that dlsym knows.
    let address = unsafe { dlsym(RTLD_NEXT, c"dlopen".as_ptr()) }.addr();
    LIBC_DLOPEN.store(address, Relaxed);
    address
}

/// `dlopen(3)`. It jumps to libc's and is no caller of it, for libc takes the search path from who calls.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn dlopen(file: *const c_char, flags: c_int) -> *mut c_void {
    naked_asm!(
        "endbr64",
        "mov rax, [rip + {libc_dlopen}]",
        "test rax, rax",
        "jnz 2f",
        // Both arguments outlive the look-up; the third word aligns the stack for the call.
        "push rdi",
        "push rsi",
        "sub rsp, 8",
        "call {find}",
        "add rsp, 8",
        "pop rsi",
        "pop rdi",
        "2:",
        "and esi, {kept_flags}",
        "jmp rax",
        libc_dlopen = sym LIBC_DLOPEN,
        find = sym find_libc_dlopen,
        kept_flags = const !RTLD_DEEPBIND,
    )
}
