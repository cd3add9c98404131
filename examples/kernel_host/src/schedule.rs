//! Who runs when, and who dies: by a seed.
//!
//! What users see: [`Schedule`]. All that a machine leaves to chance is asked here, so two machines with the same seed, of which the same is asked
//! in the same order, do the same to the letter.

use std::cell::{Cell, RefCell};

use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// How a machine chooses.
pub struct Schedule {
    /// None: nothing is left to chance.
    dice: Option<RefCell<Xoshiro256PlusPlus>>,
    pause_in: Cell<u32>,
    kill_in: Cell<u32>,
    steps: Cell<u64>,
}

/// What becomes of a task at a step of its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    GoOn,
    Pause,
    Kill,
}

impl Default for Schedule {
    fn default() -> Self {
        Schedule::in_order()
    }
}

impl Schedule {
    /// Each call runs to its end or to its sleep, and who is woken first goes on first.
    pub fn in_order() -> Schedule {
        Schedule { dice: None, pause_in: Cell::new(0), kill_in: Cell::new(0), steps: Cell::new(0) }
    }

    /// At one step of `pause_in`, on an average, the task has to wait while others run, and at one of `kill_in` its process is killed; with 0 at none. Who
    /// of those that can goes on is drawn too.
    pub fn random(seed: u64, pause_in: u32, kill_in: u32) -> Schedule {
        let dice = Some(RefCell::new(Xoshiro256PlusPlus::seed_from_u64(seed)));
        Schedule { dice, pause_in: Cell::new(pause_in), kill_in: Cell::new(kill_in), steps: Cell::new(0) }
    }

    /// From now on nobody is made to wait or killed.
    pub fn calm_down(&self) {
        self.pause_in.set(0);
        self.kill_in.set(0);
    }

    /// How many steps all calls have made.
    pub fn steps(&self) -> u64 {
        self.steps.get()
    }

    /// Whether calls can be interrupted in their middle.
    pub(crate) fn preempts(&self) -> bool {
        self.dice.is_some()
    }

    pub(crate) fn step(&self) -> Step {
        self.steps.set(self.steps.get() + 1);
        match self {
            _ if self.one_in(self.kill_in.get()) => Step::Kill,
            _ if self.one_in(self.pause_in.get()) => Step::Pause,
            _ => Step::GoOn,
        }
    }

    /// One of so many; the first if nothing is left to chance.
    pub fn choose(&self, count: usize) -> usize {
        match &self.dice {
            Some(dice) if count > 1 => dice.borrow_mut().random_range(0..count),
            _ => 0,
        }
    }

    fn one_in(&self, count: u32) -> bool {
        count != 0 && self.dice.as_ref().is_some_and(|dice| dice.borrow_mut().random_ratio(1, count))
    }
}
