//! Models of the waiter: every order of the steps of the sleeper and of who completes or kicks it, with three
//! preemptions at most if there are two of them.
//!
//!     RUSTFLAGS="--cfg loom" cargo test -p arena --release --test loom_waiter
//!
//! Missing: the object's lock, under which a sleep ends and an outcome is written; its models are in `loom_lock`.
#![cfg(loom)]

mod model;

use arena::{Phase, Waiter, sync::Ordering::Relaxed};
use loom::{sync::Arc, thread};
use model::{Futex, Thread, explore};

/// The sleep was interrupted.
#[derive(Debug, PartialEq)]
struct Interrupted;

/// One waiter and the futex of its state word.
struct Sleeper {
    waiter: Waiter,
    futex: Arc<Futex>,
}

impl Sleeper {
    fn new() -> Arc<Sleeper> {
        Arc::new(Sleeper { waiter: Waiter::new(), futex: Futex::new() })
    }

    fn host(&self) -> Thread {
        Thread { tid: 1, futex: self.futex.clone() }
    }

    fn park(&self) -> Result<Phase, Interrupted> {
        self.waiter.park(Interrupted, |word, value| {
            self.futex.wait(word, value);
            Ok(())
        })
    }

    /// What a waker does: outcome, phase, and the wake only if it is needed.
    fn complete(&self, sleep: u32, phase: Phase, result: i64) {
        self.waiter.result.store(result, Relaxed);
        if self.waiter.complete(sleep, phase) {
            self.waiter.wake(&self.host());
        }
    }
}

fn spawn(sleeper: &Arc<Sleeper>, work: impl FnOnce(&Sleeper) + 'static) -> thread::JoinHandle<()> {
    let sleeper = sleeper.clone();
    thread::spawn(move || work(&sleeper))
}

#[test]
fn a_completion_is_never_lost() {
    loom::model(|| {
        let sleeper = Sleeper::new();
        let sleep = sleeper.waiter.begin();
        let waker = spawn(&sleeper, move |sleeper| sleeper.complete(sleep, Phase::Done, 42));
        assert_eq!(sleeper.park(), Ok(Phase::Done));
        assert_eq!(sleeper.waiter.result.load(Relaxed), 42);
        sleeper.waiter.end();
        waker.join().unwrap();
        assert_eq!(sleeper.waiter.phase(), Phase::Idle);
    });
}

#[test]
fn one_of_two_completions_counts() {
    explore(|| {
        let sleeper = Sleeper::new();
        let sleep = sleeper.waiter.begin();
        let wakers = [Phase::Done, Phase::Retry]
            .map(|phase| spawn(&sleeper, move |sleeper| sleeper.complete(sleep, phase, 0)));
        let phase = sleeper.park().unwrap();
        for waker in wakers {
            waker.join().unwrap();
        }
        // The second one did not replace what the sleeper has acted on.
        assert_eq!(sleeper.waiter.phase(), phase);
    });
}

#[test]
fn a_completion_of_an_old_sleep_never_hits_a_new_one() {
    explore(|| {
        let sleeper = Sleeper::new();
        let old = sleeper.waiter.begin();
        sleeper.waiter.end();
        let late = spawn(&sleeper, move |sleeper| sleeper.complete(old, Phase::Retry, 0));
        let new = sleeper.waiter.begin();
        assert_ne!(old, new);
        let waker = spawn(&sleeper, move |sleeper| sleeper.complete(new, Phase::Done, 0));
        assert_eq!(sleeper.park(), Ok(Phase::Done));
        late.join().unwrap();
        waker.join().unwrap();
        assert_eq!(sleeper.waiter.phase(), Phase::Done);
    });
}

#[test]
fn a_kick_is_never_lost() {
    loom::model(|| {
        let sleeper = Sleeper::new();
        sleeper.waiter.begin();
        let kicker = spawn(&sleeper, |sleeper| sleeper.waiter.kick(&sleeper.host()));
        assert_eq!(sleeper.park(), Err(Interrupted));
        kicker.join().unwrap();
        // Seen once: the sleep itself goes on.
        assert_eq!(sleeper.waiter.phase(), Phase::Waiting);
    });
}

#[test]
fn a_kick_never_hides_a_completion() {
    explore(|| {
        let sleeper = Sleeper::new();
        let sleep = sleeper.waiter.begin();
        let kicker = spawn(&sleeper, |sleeper| sleeper.waiter.kick(&sleeper.host()));
        let waker = spawn(&sleeper, move |sleeper| sleeper.complete(sleep, Phase::Done, 42));
        while sleeper.park() == Err(Interrupted) {}
        assert_eq!(sleeper.waiter.phase(), Phase::Done);
        assert_eq!(sleeper.waiter.result.load(Relaxed), 42);
        kicker.join().unwrap();
        waker.join().unwrap();
    });
}
