//! Each line of the behaviour of message queues, semaphores and shared memory, as a case that runs on the kernel
//! (`--door kernel`, as root: each case in a new IPC namespace), under `ipcspace run` (`--door preload`), there as another user than the namespace's
//! owner (`--door stranger`, as root; without the cases of files and those that take more identities), by the crate `ipcspace` in a namespace that the case makes for itself (`--door api`, see [`api`]; without the cases that take other identities), and on a simulated machine (`--door host`), whose tasks are no processes and whose kernel is the engine; without the cases that need more than that (`Case::system`).
//!
//! A case is first seen to pass on the kernel, which is the oracle. `--list` prints which lines have a case,
//! from coverage/*.toml, and fails if a case is missing there or does not exist.
//!
//! Missing: limits that only CAP_SYS_RESOURCE lifts; namespaces of other users.

mod api;
mod call;
mod capabilities;
mod case;
mod check;
mod compat;
mod coverage;
mod errno;
mod memory;
mod mqd;
mod mqueue;
mod msgctl;
mod msgget;
mod msgrcv;
mod msgsnd;
mod namespace;
mod options;
mod process;
mod runner;
mod semctl;
mod semget;
mod semop;
mod shmat;
mod shmctl;
mod shmdt;
mod shmget;
mod simulated;
mod sysctl;
mod task;

use std::ops::Range;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use crate::case::Case;
use crate::options::BuildOption;

/// By which implementation the calls of a case are answered.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Door {
    /// The running kernel, each case in a new IPC namespace; needs root.
    Kernel,
    /// ipcspace, by the library that `ipcspace run` preloads.
    Preload,
    /// ipcspace, by its broker, as another user than the namespace's owner; needs root.
    Stranger,
    /// ipcspace, by the trap of `ipcspace run`: no library is preloaded.
    Trap,
    /// The running kernel, by calls of 32-bit programs; needs root.
    Kernel32,
    /// ipcspace, by the trap, and calls of 32-bit programs.
    Trap32,
    /// ipcspace, by the crate for programs, in a private namespace.
    Api,
    /// ipcspace's engine on a simulated machine, all in one thread.
    Host,
}

/// Run the cases; with names, only those whose name contains one of them.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Where to run the cases; may be repeated.
    #[arg(long, value_enum, default_values = ["kernel", "preload", "stranger", "trap", "kernel32", "trap32", "api", "host"])]
    door: Vec<Door>,
    /// Print which lines of behaviour have a case, and check the list.
    #[arg(long)]
    list: bool,
    /// Run this one case in this process: on the simulated machine if that is the door, else where the process is.
    #[arg(long, hide = true)]
    here: Option<String>,
    /// On the simulated machine: run each case with so many schedules, in which turns are drawn and calls are interrupted at any step.
    #[arg(long, default_value_t = 0)]
    seeds: u64,
    /// The first of them; alone, only this one: a schedule that has failed goes the same way again.
    #[arg(long)]
    seed: Option<u64>,
    /// What is left out of the build under test: the cases that need it are not run, and those that show it are.
    #[arg(long, value_enum, value_delimiter = ',')]
    without: Vec<BuildOption>,
    /// Parts of names.
    names: Vec<String>,
}

impl Arguments {
    /// The seeds of schedules; none where nothing is left to chance.
    fn seeds(&self) -> Range<u64> {
        let first = self.seed.unwrap_or(1);
        let count = if self.seed.is_some() { self.seeds.max(1) } else { self.seeds };
        first..first.saturating_add(count)
    }
}

/// All cases, call by call.
fn cases() -> impl Iterator<Item = &'static Case> {
    [
        capabilities::CASES,
        compat::CASES,
        msgget::CASES,
        msgsnd::CASES,
        msgrcv::CASES,
        msgctl::CASES,
        semget::CASES,
        semop::CASES,
        semctl::CASES,
        sysctl::CASES,
        shmget::CASES,
        shmat::CASES,
        shmdt::CASES,
        shmctl::CASES,
        mqueue::CASES,
        mqd::CASES,
        namespace::CASES,
        options::CASES,
    ]
    .into_iter()
    .flatten()
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seeds = arguments.seeds();
    if let Some(name) = &arguments.here {
        return runner::run_here(arguments.door.first().copied(), cases(), name, &seeds);
    }
    let clean = if arguments.list {
        coverage::list(cases())
    } else {
        runner::run(&arguments.door, cases(), &arguments.names, &arguments.without, &seeds)
    };
    if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
