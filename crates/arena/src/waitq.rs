//! What a task sleeps on.
//!
//! A waiter is completed by another task: that one writes the outcome into it under the object's lock, and then
//! changes its state word with one store. The word's number tells one sleep from the next, so a late or repeated
//! completion never hits the wrong one.
//!
//! Ordering: the state is published with `Release` and read with `Acquire`, which covers the outcome.

use crate::{
    Host,
    sync::{AtomicI32, AtomicI64, AtomicU16, AtomicU32, AtomicU64, Ordering::*},
};

const PHASE_MASK: u32 = 0b11;
const PARKED: u32 = 0b0100;
const KICKED: u32 = 0b1000;
const SEQ_SHIFT: u32 = 4;

/// Where a sleep stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// Not asleep.
    Idle = 0,
    /// Registered with an object, not completed.
    Waiting = 1,
    /// Completed: the outcome is in the waiter.
    Done = 2,
    /// To be tried again: something changed.
    Retry = 3,
}

impl Phase {
    fn of(state: u32) -> Phase {
        match state & PHASE_MASK {
            0 => Phase::Idle,
            1 => Phase::Waiting,
            2 => Phase::Done,
            _ => Phase::Retry,
        }
    }
}

crate::shared! {
    /// One sleeping operation. Its fields but `state` belong to the lock of the object it waits for.
    pub struct Waiter {
        /// Phase, flags and number of the sleep; the futex word.
        state: AtomicU32,
        /// Thread that sleeps.
        pub tid: AtomicU32,
        /// Its process.
        pub pid: AtomicU32,
        /// What it waits for; 0: nothing.
        pub kind: AtomicU32,
        /// The object's handle.
        pub object: AtomicU32,
        /// The object's identifier.
        pub id: AtomicI32,
        /// Which of the object's lists it is on.
        pub list: AtomicU32,
        /// Next on the list (a waiter's handle).
        pub next: AtomicU32,
        /// Previous on the list.
        pub prev: AtomicU32,
        /// Next on the object's second list.
        pub next2: AtomicU32,
        /// Previous on the second list.
        pub prev2: AtomicU32,
        /// A block that belongs to the sleep: a message to send, one that was received, operations.
        pub block: AtomicU32,
        /// What the call returns when completed: a value, or a negated error number.
        pub result: AtomicI64,
        /// The CPU, plus one, of whoever ended the last sleep; 0 if unknown. A hint: see [`Waiter::waker_cpu`].
        waker: AtomicU32,
        /// The thread slot whose bell is to be rung instead of waking the sleeper on its own word; 0: none.
        pub bell: AtomicU32,
        /// Arguments, by kind.
        pub args: [AtomicU64; 6],
        /// Room for a semop's operations.
        pub ops: [[AtomicU16; 3]; 32],
        /// The sleeper's place at that bell.
        pub place: AtomicU32,
        pad: AtomicU32,
    }
}

impl Waiter {
    /// A waiter that is not asleep. In an arena it needs no making: all zeros is one, but not a model's.
    #[cfg(any(loom, shuttle))]
    #[expect(clippy::new_without_default, reason = "for models only")]
    pub fn new() -> Waiter {
        use core::array::from_fn;
        let zero = || AtomicU32::new(0);
        Waiter {
            state: zero(),
            tid: zero(),
            pid: zero(),
            kind: zero(),
            object: zero(),
            id: AtomicI32::new(0),
            list: zero(),
            next: zero(),
            prev: zero(),
            next2: zero(),
            prev2: zero(),
            block: zero(),
            result: AtomicI64::new(0),
            waker: zero(),
            bell: zero(),
            args: from_fn(|_| AtomicU64::new(0)),
            ops: from_fn(|_| from_fn(|_| AtomicU16::new(0))),
            place: zero(),
            pad: zero(),
        }
    }

    /// Begins a sleep: returns the state that a completion must name.
    pub fn begin(&self) -> u32 {
        let seq = (self.state.load(Relaxed) >> SEQ_SHIFT).wrapping_add(1);
        let state = (seq << SEQ_SHIFT) | Phase::Waiting as u32;
        self.state.store(state, Relaxed);
        state
    }

    /// The sleep is over, whatever its phase.
    pub fn end(&self) {
        let state = self.state.load(Relaxed);
        self.state.store(state & !(PHASE_MASK | PARKED | KICKED), Relaxed);
    }

    /// Where the sleep stands; `Done` and `Retry` come with what the completer wrote.
    pub fn phase(&self) -> Phase {
        Phase::of(self.state.load(Acquire))
    }

    /// Number and phase, for [`Waiter::complete`].
    pub fn state(&self) -> u32 {
        self.state.load(Relaxed) & !(PARKED | KICKED)
    }

    /// Ends the sleep `state` with a phase. Does nothing if that sleep is over already. Returns whether the sleeper
    /// may be asleep in the kernel, so that it must be woken.
    pub fn complete(&self, state: u32, phase: Phase) -> bool {
        let mut seen = self.state.load(Relaxed);
        loop {
            if seen & !(PARKED | KICKED) != state || Phase::of(state) != Phase::Waiting {
                return false;
            }
            let new = (seen & !(PHASE_MASK | PARKED)) | phase as u32;
            match self.state.compare_exchange(seen, new, Release, Relaxed) {
                Ok(_) => return seen & PARKED != 0,
                Err(now) => seen = now,
            }
        }
    }

    /// Whether others stand before it on its list. A hint, as its object's lock is not held.
    pub fn has_others_before(&self) -> bool {
        self.prev.load(Relaxed) != 0
    }

    /// Where whoever ended the last sleep ran: the next one is likely to come from there too.
    pub fn waker_cpu(&self) -> Option<u32> {
        self.waker.load(Relaxed).checked_sub(1)
    }

    /// Tells the sleeper, before its sleep is ended, where this happens.
    pub(crate) fn name_waker(&self, cpu: u32) {
        self.waker.store(cpu.wrapping_add(1), Relaxed);
    }

    /// Interrupts the sleeper: its next or present [`Waiter::park`] returns. For signals and cancellation.
    pub fn kick<H: Host>(&self, host: &H) {
        self.state.fetch_or(KICKED, AcqRel);
        self.wake(host);
    }

    /// Wakes whoever sleeps on the state word.
    pub fn wake<H: Host>(&self, host: &H) {
        host.wake(&self.state, 1);
    }

    /// Sleeps by `sleep(word, value)` until the state is no longer waiting, or the sleep returns an error. Spurious
    /// wakes are seen through.
    ///
    /// # Errors
    /// What `sleep` returned; `interrupted` after a [`Waiter::kick`].
    pub fn park<E>(
        &self,
        interrupted: E,
        mut sleep: impl FnMut(&AtomicU32, u32) -> Result<(), E>,
    ) -> Result<Phase, E> {
        loop {
            let seen = self.state.load(Acquire);
            if Phase::of(seen) != Phase::Waiting {
                return Ok(Phase::of(seen));
            }
            if seen & KICKED != 0 {
                self.state.fetch_and(!KICKED, Relaxed);
                return Err(interrupted);
            }
            if seen & PARKED == 0
                && self.state.compare_exchange(seen, seen | PARKED, Relaxed, Relaxed).is_err()
            {
                continue;
            }
            sleep(&self.state, seen | PARKED)?;
        }
    }
}
