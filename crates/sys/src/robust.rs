//! The thread's robust list: how the kernel learns what to mark when the thread dies.
//!
//! The list's head belongs to libc. Two things of ours hang on it: the lock that is about to be taken or held, in the
//! head's `list_op_pending` (one word, restored afterwards), and the liveness words of a process, as nodes of the list.

use core::sync::atomic::AtomicU32;

use crate::{check, syscall6};

/// The kernel's `struct robust_list_head`.
#[repr(C)]
pub struct RobustListHead {
    list: *mut Node,
    futex_offset: isize,
    list_op_pending: usize,
}

#[repr(C)]
struct Node {
    next: *mut Node,
}

/// The calling thread's head, if it has one.
pub fn head() -> *mut RobustListHead {
    let mut head: *mut RobustListHead = core::ptr::null_mut();
    let mut len = 0usize;
    let (at, len_at) = (&raw mut head as usize, &raw mut len as usize);
    // SAFETY: two valid places.
    let ret = unsafe { syscall6(274, 0, at, len_at, 0, 0, 0) };
    if check(ret).is_ok() && len == size_of::<RobustListHead>() { head } else { core::ptr::null_mut() }
}

/// Makes `head` an empty list, and the calling thread's: for one that has none. There must be room for a word before it.
///
/// # Safety
/// It must live as long as the thread, or until it executes another program.
pub unsafe fn set_head(head: *mut RobustListHead) {
    let empty = RobustListHead { list: head.cast(), futex_offset: -32, list_op_pending: 0 };
    // SAFETY: the caller's promise.
    unsafe { head.write(empty) };
    // SAFETY: as above.
    unsafe { syscall6(273, head as usize, size_of::<RobustListHead>(), 0, 0, 0, 0) };
}

/// Announces a lock word; returns what was announced before.
///
/// # Safety
/// `head` is the calling thread's head, or null.
#[inline(always)]
pub unsafe fn arm(head: *mut RobustListHead, word: &AtomicU32) -> usize {
    if head.is_null() {
        return 0;
    }
    // SAFETY: the head lives as long as the thread. Volatile, because the kernel reads it.
    unsafe {
        let before = (&raw const (*head).list_op_pending).read_volatile();
        let offset = (&raw const (*head).futex_offset).read();
        let entry = (core::ptr::from_ref(word) as usize).wrapping_add_signed(-offset);
        (&raw mut (*head).list_op_pending).write_volatile(entry);
        before
    }
}

/// Restores what was announced before.
///
/// # Safety
/// As [`arm`].
#[inline(always)]
pub unsafe fn disarm(head: *mut RobustListHead, before: usize) {
    if !head.is_null() {
        // SAFETY: as in `arm`.
        unsafe { (&raw mut (*head).list_op_pending).write_volatile(before) };
    }
}

/// Puts the word on the calling thread's list: the kernel marks it when the thread ends.
/// Returns false where libc's list has another layout than glibc's.
///
/// # Safety
/// `head` is the calling thread's. The word, and the 16 bytes from 24 behind it on, which are private and nobody else's, stay mapped as long as the
/// thread lives.
pub unsafe fn register(head: *mut RobustListHead, word: *mut u8) -> bool {
    // SAFETY: the head lives as long as the thread.
    if head.is_null() || unsafe { (*head).futex_offset } != -32 {
        return false;
    }
    let prev_of = |node: *mut Node| node.cast::<u8>().wrapping_sub(8).cast::<*mut Node>();
    let node = word.wrapping_add(32).cast::<Node>();
    // SAFETY: glibc keeps a back link 8 bytes before each node, and before the head; all of them are private memory
    // of this thread, which is here and not in glibc's list code.
    unsafe {
        let first = (*head).list;
        (*node).next = first;
        prev_of(node).write(head.cast());
        prev_of(first).write(node);
        (&raw mut (*head).list).write_volatile(node);
    }
    true
}
