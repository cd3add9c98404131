//! A case: a function with a name, and what its namespace needs.

use crate::Door;
use crate::check::Outcome;
use crate::options::BuildOption;

/// One case. It gets a process and a namespace of its own.
pub(crate) struct Case {
    /// `call/what_it_shows`.
    pub(crate) name: &'static str,
    pub(crate) run: fn() -> Outcome,
    /// Limits of its namespace, as sysctl(8) writes them.
    pub(crate) limits: &'static [(&'static str, &'static str)],
    /// It takes other identities, which only root can.
    pub(crate) needs_root: bool,
    /// By which doors ipcspace is known to fail it, and why.
    pub(crate) differs: Option<(&'static [Door], &'static str)>,
    /// Where else than everywhere it is run: what it shows is not the same at the other doors.
    pub(crate) only: Option<&'static [Door]>,
    /// It is run only where this is left out of the build.
    pub(crate) without: Option<BuildOption>,
    /// It needs what the simulated machine does not have.
    pub(crate) needs_system: bool,
    /// It needs numbers or commands that 32-bit programs don't have.
    pub(crate) is_wide: bool,
}

impl Case {
    pub(crate) const fn new(name: &'static str, run: fn() -> Outcome) -> Self {
        Case {
            name,
            run,
            limits: &[],
            needs_root: false,
            differs: None,
            only: None,
            without: None,
            needs_system: false,
            is_wide: false,
        }
    }

    pub(crate) const fn limits(mut self, limits: &'static [(&'static str, &'static str)]) -> Self {
        self.limits = limits;
        self
    }

    pub(crate) const fn root(mut self) -> Self {
        self.needs_root = true;
        self
    }

    pub(crate) const fn only(mut self, doors: &'static [Door]) -> Self {
        self.only = Some(doors);
        self
    }

    pub(crate) const fn without(mut self, option: BuildOption) -> Self {
        self.without = Some(option);
        self
    }

    pub(crate) const fn wide(mut self) -> Self {
        self.is_wide = true;
        self
    }

    /// It is not run on the simulated machine, which lacks what it needs: `_what`.
    pub(crate) const fn system(mut self, _what: &'static str) -> Self {
        self.needs_system = true;
        self
    }

    pub(crate) const fn differs(mut self, at: &'static [Door], reason: &'static str) -> Self {
        self.differs = Some((at, reason));
        self
    }
}

/// The cases of a file: `cases!("msgget": ids_cycle, full.limits(&[…]), …)`.
macro_rules! cases {
    ($call:literal: $($name:ident $(.$setting:ident($($argument:expr),*))*),* $(,)?) => {
        pub(crate) const CASES: &[$crate::case::Case] = &[
            $($crate::case::Case::new(concat!($call, "/", stringify!($name)), $name)
                $(.$setting($($argument),*))*),*
        ];
    };
}

pub(crate) use cases;
