//! Children of vfork, which use their parent's memory, and its thread's storage, until they execute or end.
//!
//! What users see: such a child is a process of its own for every call, as any other; its parent's attachment goes on untouched.
//! What is missing: a vfork child of a vfork child gets `ENOSYS`; handlers that a vfork child installs are not put off.
//!
//! The parent's thread stands still meanwhile. So what it knows of itself is put aside when the child begins, and comes back
//! when the parent goes on; in between, the words are the child's. What the process knows stays the parent's.
//!
//! # Safety
//! The child's robust list lies in the storage of the parent's thread, which the kernel has done with when the parent goes on.
#![expect(unsafe_code, reason = "the kernel is given a list in thread-local storage")]

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::*};

use abi::{Errno, Result};

use crate::{
    IDLE, LinuxHost, attach, claim, signal,
    tls::{self, Tls},
};

/// A thread's words for its vfork child.
#[repr(C)]
pub(crate) struct Vfork {
    /// How many vforks deep this is.
    depth: AtomicU32,
    /// Whether the child has attached.
    attached: AtomicU32,
    /// Its pair of pages.
    pair: AtomicUsize,
    /// Room for a back link, and the list's head.
    before_head: AtomicUsize,
    head: [AtomicUsize; 3],
    /// What the parent goes on with: slot, generation, thread, what it does; list head; process.
    words: [AtomicU32; 4],
    parent_head: AtomicUsize,
    process: [AtomicU32; 2],
}

fn words(tls: &Tls) -> [&AtomicU32; 4] {
    [&tls.slot, &tls.generation, &tls.tid, &tls.busy]
}

/// Whether the thread is a vfork child. One of fork that has begun in a vfork child is not.
#[inline]
pub(crate) fn is_child(tls: &Tls) -> bool {
    tls.vfork.depth.load(Relaxed) != 0 && attach::is_shared_memory()
}

/// Whether the calling thread is a vfork child.
pub fn in_vfork_child() -> bool {
    is_child(tls::get())
}

/// To be called right before vfork.
///
/// # Errors
/// `ENOMEM`: the child could not be told from one of fork.
pub fn before_vfork() -> Result<()> {
    let tls = tls::get();
    if tls.vfork.depth.load(Relaxed) != 0 && !attach::is_shared_memory() {
        // Of fork, begun in a vfork child.
        tls.vfork.depth.store(0, Relaxed);
    }
    attach::note_shared_memory()
}

/// To be called right after vfork, in the child (`child` is 0) and in the parent, which has none if it is negative.
pub fn after_vfork(child: i64) {
    let tls = tls::get();
    let vfork = &tls.vfork;
    let depth = vfork.depth.load(Relaxed);
    match child {
        0 => {
            vfork.depth.store(depth + 1, Relaxed);
            if depth == 0 {
                begin(tls);
            }
        }
        1.. => {
            vfork.depth.store(depth.saturating_sub(1), Relaxed);
            if depth == 1 {
                end(tls);
            }
        }
        _ => {}
    }
}

fn begin(tls: &Tls) {
    let vfork = &tls.vfork;
    for (kept, word) in vfork.words.iter().zip(words(tls)) {
        kept.store(word.load(Relaxed), Relaxed);
    }
    vfork.parent_head.store(tls.head.load(Relaxed), Relaxed);
    vfork.process[0].store(tls.pid.load(Relaxed), Relaxed);
    vfork.process[1].store(tls.process.load(Relaxed), Relaxed);
    vfork.attached.store(0, Relaxed);
    vfork.pair.store(0, Relaxed);
    // The first call goes the slow way, to `enter`.
    tls.generation.store(0, Relaxed);
    tls.busy.store(IDLE, Relaxed);
}

fn end(tls: &Tls) {
    let vfork = &tls.vfork;
    for (kept, word) in vfork.words.iter().zip(words(tls)) {
        word.store(kept.load(Relaxed), Relaxed);
    }
    tls.head.store(vfork.parent_head.load(Relaxed), Relaxed);
    tls.pid.store(vfork.process[0].load(Relaxed), Relaxed);
    tls.process.store(vfork.process[1].load(Relaxed), Relaxed);
    // Whatever the child has left in the middle, and what it was allowed to.
    tls.deferred.store(0, Relaxed);
    tls.forget_credentials();
    if let Some(pair) = NonNull::new(vfork.pair.swap(0, Relaxed) as *mut u8) {
        // SAFETY: the child's; it has another memory now, or none.
        unsafe { sys::unmap(pair, 2 * arena::PROC_SLOT_SIZE) };
    }
}

/// The slow way into an operation of a vfork child.
pub(crate) fn enter(tls: &'static Tls) -> Result<()> {
    let vfork = &tls.vfork;
    if vfork.depth.load(Relaxed) > 1 {
        return Err(Errno::ENOSYS);
    }
    if vfork.attached.load(Relaxed) != 0 {
        return Ok(());
    }
    if attach::generation() == 0 {
        // In the child's kernel alone, so bad pointers are errors there too; the parent's comes when it attaches.
        signal::replace_all();
    }
    let head = vfork.head.as_ptr().cast_mut().cast::<sys::robust::RobustListHead>();
    // SAFETY: lives as long as the parent's thread, which waits for the child; there is a word before it.
    unsafe { sys::robust::set_head(head) };
    tls.begin();
    let (process, pair) = attach::attach_beside(tls)?;
    vfork.pair.store(pair.map_or(0, |pair| pair.as_ptr() as usize), Relaxed);
    tls.pid.store(sys::getpid(), Relaxed);
    tls.process.store(process.0, Relaxed);
    let host = LinuxHost { tls };
    let ctx = claim(&host, false)?;
    tls.slot.store(ctx.slot.handle().0, Relaxed);
    // A parent that is not attached has no number, and each call of the child comes here.
    tls.generation.store(attach::generation(), Relaxed);
    vfork.attached.store(1, Relaxed);
    Ok(())
}
