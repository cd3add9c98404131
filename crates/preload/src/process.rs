//! `vfork`, so that its child is known to be one: it uses its parent's memory and is a process of its own.
//!
//! What users see: a vfork child may make any call of ours, as it may any system call.

use core::arch::naked_asm;

/// 0, or a negated error number.
extern "C" fn before() -> i64 {
    client::before_vfork().map_or_else(|error| -i64::from(error.raw()), |()| 0)
}

extern "C" fn after(result: i64) -> i64 {
    client::after_vfork(result);
    if result < 0 {
        #[expect(clippy::cast_possible_truncation, reason = "a negated error number")]
        let error = abi::Errno::from_raw(-result as i32);
        return crate::finish(Err(error));
    }
    result
}

/// `vfork(2)`. The child overwrites the stack that its parent comes back to: so the return address is kept in a
/// register meanwhile, and there is no frame.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn vfork() -> i32 {
    naked_asm!(
        "endbr64",
        "sub rsp, 8",
        "call {before}",
        "add rsp, 8",
        "test rax, rax",
        "jnz 2f",
        "pop rdi",
        "mov eax, 58",
        "syscall",
        "push rdi",
        "2:",
        "mov rdi, rax",
        "sub rsp, 8",
        "call {after}",
        "add rsp, 8",
        "ret",
        before = sym before,
        after = sym after,
    )
}
