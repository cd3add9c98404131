//! Calls that are being made: each on a stack of its own, as in a kernel, so that it can be left in its middle.
//!
//! What users of the module see: [`Runs`]. A run is given a slice of time by [`Runs::slice`], which ends when the call does, sleeps, or is made to wait at a
//! step. A run that is dropped in its middle is not unwound: what the task had locked stays locked, as after a SIGKILL.
//!
//! # Safety
//! A stack that is given up has nothing on it that must be dropped: between two steps the arena and the engine have no memory but the arena, and
//! `cpu` holds no borrow and no buffer while it asks for the next step.
#![expect(unsafe_code, reason = "a call that is killed is not unwound")]

use std::cell::RefCell;
use std::collections::BTreeMap;

use corosensei::{Coroutine, CoroutineResult, Yielder, stack::DefaultStack};

use crate::machine::{Doing, Tid};

/// Why a slice ended before the call did.
pub(crate) enum Halt {
    /// Others are to run.
    Paused,
    /// The process is dead.
    Killed,
}

/// Where a call hands its slice back.
pub(crate) type Turn = Yielder<(), Halt>;

type Stack = DefaultStack;

struct Run(Option<Coroutine<(), Halt, Doing, Stack>>);

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(call) = &mut self.0 {
            // SAFETY: see the file's head.
            unsafe { call.force_reset() };
        }
    }
}

/// What a slice came to.
pub(crate) enum Slice {
    /// The call is over, or sleeps.
    Over(Doing),
    Paused,
    Killed,
}

/// All calls that are being made.
#[derive(Default)]
pub(crate) struct Runs {
    runs: RefCell<BTreeMap<Tid, Run>>,
    /// Stacks of calls that are over.
    stacks: RefCell<Vec<Stack>>,
}

impl Runs {
    /// Begins a run, which has no slice yet.
    pub(crate) fn begin(&self, tid: Tid, call: impl FnOnce(&Turn) -> Doing + 'static) {
        let stack = self.stacks.borrow_mut().pop().unwrap_or_default();
        let run = Run(Some(Coroutine::with_stack(stack, move |turn, ()| call(turn))));
        let before = self.runs.borrow_mut().insert(tid, run);
        assert!(before.is_none(), "thread {tid} makes one call at a time");
    }

    pub(crate) fn is_running(&self, tid: Tid) -> bool {
        self.runs.borrow().contains_key(&tid)
    }

    /// Those that can have a slice.
    pub(crate) fn tids(&self) -> Vec<Tid> {
        self.runs.borrow().keys().copied().collect()
    }

    /// Lets the thread's call go on. None if it makes none.
    pub(crate) fn slice(&self, tid: Tid) -> Option<Slice> {
        let mut run = self.runs.borrow_mut().remove(&tid)?;
        let halt = match run.0.as_mut()?.resume(()) {
            CoroutineResult::Return(doing) => {
                self.stacks.borrow_mut().extend(run.0.take().map(Coroutine::into_stack));
                return Some(Slice::Over(doing));
            }
            CoroutineResult::Yield(halt) => halt,
        };
        Some(match halt {
            Halt::Killed => Slice::Killed,
            Halt::Paused => {
                self.runs.borrow_mut().insert(tid, run);
                Slice::Paused
            }
        })
    }

    /// The thread's call ends where it is.
    pub(crate) fn drop_run(&self, tid: Tid) {
        self.runs.borrow_mut().remove(&tid);
    }
}
