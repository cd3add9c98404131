//! What a library without std owes its loader.

use core::arch::global_asm;

// Without unwinding nobody calls the personality, but the precompiled core names it. Hidden, so that it does not
// take the place of the program's own.
global_asm!(
    ".hidden rust_eh_personality",
    ".globl rust_eh_personality",
    "rust_eh_personality:",
    "ud2",
    ".hidden _Unwind_Resume",
    ".globl _Unwind_Resume",
    "_Unwind_Resume:",
    "ud2",
);

/// A mistake of ours must not end the program: the thread stops here, asleep.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        let never = core::sync::atomic::AtomicU32::new(0);
        let _ = sys::futex_wait(&never, 0, u64::MAX / 2);
    }
}
