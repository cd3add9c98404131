//! Models of the lock: every order of the threads' steps, with three preemptions at most where all would be too many.
//!
//!     RUSTFLAGS="--cfg loom" cargo test -p arena --release --test loom_lock
//!
//! Missing: a death inside `acquire` or `release`; killing clients at every instruction is the crash tests' part.
#![cfg(loom)]

mod model;

use arena::{Handle, Lock};
use loom::{cell::UnsafeCell, sync::Arc, thread};
use model::{Futex, Thread, explore};

/// The slot of the thread that dies.
const DEAD_SLOT: Handle = Handle(7);
const DEAD_TID: u32 = 100;

/// A lock and what it guards. Loom fails the model if two threads reach `count` unordered.
struct Guarded {
    lock: Lock,
    count: UnsafeCell<u32>,
    futex: Arc<Futex>,
}

// SAFETY: `count` is only reached under the lock; that this is enough is what the models check.
unsafe impl Sync for Guarded {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl Send for Guarded {}

impl Guarded {
    fn new() -> Arc<Guarded> {
        Arc::new(Guarded { lock: Lock::new(), count: UnsafeCell::new(0), futex: Futex::new() })
    }

    fn thread(&self, tid: u32) -> Thread {
        Thread { tid, futex: self.futex.clone() }
    }

    fn add_one(&self) {
        self.count.with_mut(|count| {
            // SAFETY: the caller holds the lock.
            unsafe { *count += 1 }
        });
    }

    /// Counts one under the lock; returns whose unfinished work was found.
    fn count_one(&self, tid: u32) -> Option<Handle> {
        let host = self.thread(tid);
        let unfinished = self.lock.acquire(&host, 0);
        assert_eq!(self.lock.owner(), tid);
        self.lock.set_holder(&host, Handle(tid));
        self.add_one();
        self.lock.release(&host);
        unfinished
    }

    /// Takes the lock, changes what it guards, and goes no further.
    fn die_holding(&self, begun: bool) {
        let host = self.thread(DEAD_TID);
        assert_eq!(self.lock.acquire(&host, 0), None);
        if begun {
            self.lock.set_holder(&host, DEAD_SLOT);
        }
        self.add_one();
    }

    fn counted(&self) -> u32 {
        assert_eq!(self.lock.acquire(&self.thread(50), 0), None);
        self.count.with(|count| {
            // SAFETY: the lock is held.
            unsafe { *count }
        })
    }
}

fn spawn<T: 'static>(
    guarded: &Arc<Guarded>,
    work: impl FnOnce(&Guarded) -> T + 'static,
) -> thread::JoinHandle<T> {
    let guarded = guarded.clone();
    thread::spawn(move || work(&guarded))
}

#[test]
fn two_threads_exclude_each_other() {
    explore(|| {
        let guarded = Guarded::new();
        let other = spawn(&guarded, |guarded| {
            assert_eq!(guarded.count_one(2), None);
            assert_eq!(guarded.count_one(2), None);
        });
        assert_eq!(guarded.count_one(1), None);
        assert_eq!(guarded.count_one(1), None);
        other.join().unwrap();
        assert_eq!(guarded.counted(), 4);
    });
}

#[test]
fn three_threads_exclude_each_other_and_no_wake_is_lost() {
    explore(|| {
        let guarded = Guarded::new();
        let others =
            [2, 3].map(|tid| spawn(&guarded, move |guarded| assert_eq!(guarded.count_one(tid), None)));
        assert_eq!(guarded.count_one(1), None);
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(guarded.counted(), 3);
    });
}

#[test]
fn a_dead_holders_work_is_found_by_one_survivor_alone() {
    explore(|| {
        let guarded = Guarded::new();
        guarded.die_holding(true);
        let survivors = [2, 3].map(|tid| spawn(&guarded, move |guarded| guarded.count_one(tid)));
        assert!(guarded.lock.declare_dead(&guarded.thread(1), DEAD_TID));
        let found = survivors.map(|survivor| survivor.join().unwrap());
        assert!(matches!(found, [Some(DEAD_SLOT), None] | [None, Some(DEAD_SLOT)]), "{found:?}");
        assert_eq!(guarded.counted(), 3);
    });
}

#[test]
fn a_holder_that_died_before_it_began_left_nothing_to_undo() {
    loom::model(|| {
        let guarded = Guarded::new();
        guarded.die_holding(false);
        let survivor = spawn(&guarded, |guarded| guarded.count_one(2));
        assert!(guarded.lock.declare_dead(&guarded.thread(1), DEAD_TID));
        assert_eq!(survivor.join().unwrap(), None);
        assert_eq!(guarded.counted(), 2);
    });
}

#[test]
fn a_death_is_declared_once_and_never_hits_the_next_owner() {
    explore(|| {
        let guarded = Guarded::new();
        guarded.die_holding(true);
        let survivor = spawn(&guarded, |guarded| guarded.count_one(2));
        // The kernel and the broker both notice.
        let kernel = spawn(&guarded, |guarded| guarded.lock.declare_dead(&guarded.thread(3), DEAD_TID));
        let broker = guarded.lock.declare_dead(&guarded.thread(1), DEAD_TID);
        assert!(kernel.join().unwrap() != broker, "declared {}", if broker { "twice" } else { "by nobody" });
        assert_eq!(survivor.join().unwrap(), Some(DEAD_SLOT));
        assert_eq!(guarded.counted(), 2);
    });
}

#[test]
fn a_thread_that_died_elsewhere_frees_nobodys_lock() {
    loom::model(|| {
        let guarded = Guarded::new();
        let other = spawn(&guarded, |guarded| guarded.count_one(2));
        assert!(!guarded.lock.declare_dead(&guarded.thread(1), DEAD_TID));
        assert!(!guarded.lock.declare_dead(&guarded.thread(1), 0));
        assert_eq!(guarded.count_one(1), None);
        assert_eq!(other.join().unwrap(), None);
        assert_eq!(guarded.counted(), 2);
    });
}
