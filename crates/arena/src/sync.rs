//! The atomics, in one place, so that a model checker can take their place.
//!
//! A model's atomics are larger: what the crate asserts of layouts is asserted of the real ones only.

#[cfg(not(any(loom, shuttle)))]
pub use core::sync::atomic::{AtomicI32, AtomicI64, AtomicPtr, AtomicU16, AtomicU32, AtomicU64, Ordering};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicI32, AtomicI64, AtomicPtr, AtomicU16, AtomicU32, AtomicU64, Ordering};
#[cfg(shuttle)]
pub use shuttle::sync::atomic::{AtomicI32, AtomicI64, AtomicPtr, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// Stores before it reach memory before stores after it, as a task that dies leaves them. On x86-64 the processor
/// keeps the order of stores, so only the compiler has to be told, and a host that wants to try each of these deaths.
#[inline(always)]
pub fn ordered<H: crate::Host>(host: &H) {
    core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
    host.step();
    core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
}
