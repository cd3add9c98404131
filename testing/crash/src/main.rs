//! Clients are killed and stopped wherever they happen to be; then every invariant is checked.
//!
//! - `crash storm --kills N --stops N --seed S`: SIGKILL and SIGSTOP/SIGCONT of random clients in a running mix of
//!   queues and sets. Ends with `K kills, S stops, V violations`.
//! - `crash step [--op NAME] [--stride N]`: SIGKILL at every single instruction of every operation.
//! - `crash threads --count N`: N short threads, each doing one operation.
//! - `crash undo --count N`: a parent that has just reaped its killed child finds SEM_UNDO applied.
//! - `crash poison`: objects whose memory makes no sense become errors, and can be removed.
//! - `crash flip --rounds N --seed S`: random bytes of the arena are overwritten under running clients.
//!
//! All of it runs under `ipcspace run`, or with `--door kernel` on the kernel itself, where every invariant must hold
//! too: that is what shows the checks to be right.
//!
//! Missing: clients that exec in the middle.

mod client;
mod door;
mod flip;
mod ipc;
mod matching;
mod poison;
mod queue;
mod shared;
mod step;
mod storm;
mod threads;
mod undo;
mod usage;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::door::Door;

/// Kill and stop clients, then check every invariant.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    what: What,
    /// Whose calls the clients make
    #[arg(long, global = true, default_value = "preload")]
    door: Door,
}

#[derive(Subcommand)]
enum What {
    /// Kill and stop random clients in a running mix
    Storm(storm::Options),
    /// Kill at every single instruction of every operation
    Step(step::Options),
    /// Many short threads, each doing one operation
    Threads {
        /// How many
        #[arg(long, default_value_t = 1_000_000)]
        count: u64,
    },
    /// A killed and reaped child's SEM_UNDO is applied at once
    Undo {
        /// How many children
        #[arg(long, default_value_t = 1000)]
        count: u64,
    },
    /// Queues and a set whose memory is overwritten become errors
    Poison,
    Flip(flip::Options),
    #[command(hide = true)]
    FlipRound {
        seed: u64,
    },
    /// Print what is in use of the arena
    #[command(hide = true)]
    Usage,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("crash: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything held.
fn run(args: &Args) -> Result<bool, Box<dyn Error>> {
    if matches!(args.what, What::Usage) {
        return usage::print();
    }
    if let What::Flip(options) = &args.what {
        return flip::run(options);
    }
    door::enter(args.door)?;
    match &args.what {
        What::Flip(options) => flip::run(options),
        What::FlipRound { seed } => flip::round(*seed),
        What::Poison => poison::run(),
        What::Step(options) => step::run(options),
        What::Usage => usage::print(),
        What::Storm(options) => storm::run(options),
        What::Threads { count } => threads::run(*count),
        What::Undo { count } => undo::run(*count),
    }
}
