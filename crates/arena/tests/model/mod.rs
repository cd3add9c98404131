//! The system under the models: a futex, and threads with ids. Nothing sleeps with a timeout here, so a wake that is
//! lost is a deadlock, which loom reports.

use std::ptr::NonNull;

use arena::{
    ArenaError, Host,
    sync::{AtomicU32, Ordering::Relaxed},
};
use loom::sync::{Arc, Condvar, Mutex};

/// Runs a model in every order of its threads' steps with up to three preemptions, as three threads have too many for
/// all.
pub(crate) fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// The kernel's side of one futex word.
pub(crate) struct Futex {
    bucket: Mutex<()>,
    sleepers: Condvar,
}

impl Futex {
    pub(crate) fn new() -> Arc<Futex> {
        Arc::new(Futex { bucket: Mutex::new(()), sleepers: Condvar::new() })
    }

    /// FUTEX_WAIT: sleeps if the word still has the value. May return without a reason, as the kernel's may.
    pub(crate) fn wait(&self, word: &AtomicU32, value: u32) {
        let bucket = self.bucket.lock().unwrap();
        // The kernel never sees an old value here, a model's plain load could: read by modifying.
        if word.fetch_or(0, Relaxed) == value {
            drop(self.sleepers.wait(bucket).unwrap());
        }
    }

    /// FUTEX_WAKE.
    pub(crate) fn wake(&self, count: u32) {
        let _bucket = self.bucket.lock().unwrap();
        if count == 1 { self.sleepers.notify_one() } else { self.sleepers.notify_all() }
    }
}

/// A thread: its id, and the futex of the only word that it sleeps on.
#[derive(Clone)]
pub(crate) struct Thread {
    pub(crate) tid: u32,
    pub(crate) futex: Arc<Futex>,
}

// SAFETY: no memory is ever handed out.
unsafe impl Host for Thread {
    fn map_extent(&self, _: u32) -> Result<NonNull<u8>, ArenaError> {
        Err(ArenaError::NoMemory)
    }
    fn back(&self, _: NonNull<u8>, _: usize) -> Result<(), ArenaError> {
        Err(ArenaError::NoMemory)
    }
    fn unback(&self, _: NonNull<u8>, _: usize) {}
    fn tid(&self) -> u32 {
        self.tid
    }
    // The models say themselves who dies, and when.
    fn arm(&self, _: &AtomicU32) {}
    fn disarm(&self) {}
    fn lock_wait(&self, word: &AtomicU32, value: u32, _: u32, _: u64) {
        self.futex.wait(word, value);
    }
    fn wake(&self, _: &AtomicU32, count: u32) {
        self.futex.wake(count);
    }
    fn process_dead(&self, _: u32, _: u64) -> bool {
        false
    }
    fn thread_dead(&self, _: u32) -> bool {
        false
    }
    fn trim_wanted(&self) {}
}
