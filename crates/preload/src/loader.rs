//! Finding libc's functions; and `dlopen`, so that libraries loaded with `RTLD_DEEPBIND` are in the namespace as well.
//!
//! What users see: PHP's extensions work; PHP loads them so. The flag makes a library look into its own dependencies
//! first, and there it finds libc's `msgget`. So it is taken away: a name defined both in such a library and in the
//! program is then the program's.
//! What is missing: `dlmopen`, whose libraries have a libc of their own.

use core::{
    arch::naked_asm,
    ffi::{CStr, c_char, c_int, c_void},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use abi::Errno;
use sys::libc_function;

const RTLD_DEEPBIND: c_int = 8;
static LIBC_DLOPEN: Next = Next::pointer(c"dlopen");

type Find = extern "C" fn(*const c_void, *const c_char) -> *const c_void;

/// The address of the function behind ours of the same name, 0 if there is none.
fn next(name: &CStr) -> usize {
    const RTLD_NEXT: *const c_void = core::ptr::without_provenance(usize::MAX);
    let dlsym = libc_function!("dlsym");
    if dlsym == 0 {
        return in_old_libc(name);
    }
    // SAFETY: libc's function.
    let find = unsafe { core::mem::transmute::<usize, Find>(dlsym) };
    find(RTLD_NEXT, name.as_ptr()).addr()
}

/// Before glibc 2.34, `dlsym` is in a library that few programs load; libc has one for its own use.
#[cold]
fn in_old_libc(name: &CStr) -> usize {
    /// `RTLD_LAZY`, and libc's mark of its own calls.
    const MODE: c_int = 1 | 0x8000_0000_u32.cast_signed();
    let (open, find) = (libc_function!("__libc_dlopen_mode"), libc_function!("__libc_dlsym"));
    if open == 0 || find == 0 {
        return 0;
    }
    // SAFETY: libc's functions. The library is loaded already, and never goes.
    unsafe {
        let open: extern "C" fn(*const c_char, c_int) -> *const c_void = core::mem::transmute(open);
        core::mem::transmute::<usize, Find>(find)(open(c"libc.so.6".as_ptr(), MODE), name.as_ptr()).addr()
    }
}

/// A function of libc behind ours of the same name, looked for once.
pub(crate) struct Next {
    name: &'static CStr,
    /// What stands for it where this libc does not have it.
    absent: extern "C" fn() -> isize,
    address: AtomicUsize,
}

impl Next {
    /// Where the address lies, 0 before it was looked for.
    pub(crate) const ADDRESS: usize = core::mem::offset_of!(Next, address);

    /// One that returns a number.
    pub(crate) const fn new(name: &'static CStr) -> Next {
        Next { name, absent: absent_call, address: AtomicUsize::new(0) }
    }

    /// One that returns a pointer.
    pub(crate) const fn pointer(name: &'static CStr) -> Next {
        Next { name, absent: absent_pointer, address: AtomicUsize::new(0) }
    }

    pub(crate) fn get(&self) -> usize {
        match self.address.load(Relaxed) {
            0 => self.find(),
            address => address,
        }
    }

    #[cold]
    pub(crate) fn find(&self) -> usize {
        let found = next(self.name);
        let address = if found == 0 { self.absent as *const () as usize } else { found };
        self.address.store(address, Relaxed);
        address
    }
}

// No program was built to call what its libc does not have.

extern "C" fn absent_call() -> isize {
    crate::finish(Err(Errno::ENOSYS)) as isize
}

extern "C" fn absent_pointer() -> isize {
    absent_call();
    0
}

extern "C" fn find_libc_dlopen() -> usize {
    LIBC_DLOPEN.find()
}

/// `dlopen(3)`. It jumps to libc's and is no caller of it, for libc takes the search path from who calls.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn dlopen(file: *const c_char, flags: c_int) -> *mut c_void {
    naked_asm!(
        "endbr64",
        "mov rax, [rip + {libc_dlopen} + {address}]",
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
        address = const Next::ADDRESS,
        find = sym find_libc_dlopen,
        kept_flags = const !RTLD_DEEPBIND,
    )
}
