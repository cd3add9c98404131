//! The kernel against ours: what one operation costs on either side, in one run.
//!
//! `cargo run --release -p bench -- [--rows REGEX] [--json FILE]` prints a table with a line per row: nanoseconds in the
//! kernel, nanoseconds in ours, their ratio (above 1: ours is faster) and how much either side varied.
//!
//! Two workers, the same executable, live through the whole run: one in a private IPC namespace of the kernel, one
//! under `ipcspace run`. They take turns (A B A B …) in samples of about 50 ms, so that what the machine does
//! meanwhile hits both. The figures are medians over the rounds.
//!
//! Missing: POSIX message queues. Memory and CPU time are not measured, only elapsed time.

mod door;
mod report;
mod rows;
mod worker;

use std::error::Error;
use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use crate::door::Worker;
use crate::report::Row;

/// Which implementation stands on the right-hand side of the comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Door {
    /// The kernel's own calls: the comparison then shows nothing but noise.
    Kernel,
    /// Ours, by way of `ipcspace run`.
    Preload,
}

/// Compare the kernel's System V IPC with ours.
#[derive(Parser)]
struct Args {
    /// Only the rows whose name matches this extended regular expression
    #[arg(long, default_value = "")]
    rows: String,
    /// Write the figures to this file as well
    #[arg(long)]
    json: Option<PathBuf>,
    /// Samples per row and side
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// What to compare the kernel with
    #[arg(long, default_value = "preload")]
    door: Door,
    /// Serve rows over the standard streams; used by the bench itself
    #[arg(long, hide = true)]
    worker: Option<Door>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.worker {
        Some(door) => worker::serve(door).map(|()| true),
        None => compare(&args),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures the chosen rows; `false` if some could not be measured.
fn compare(args: &Args) -> Result<bool, Box<dyn Error>> {
    let chosen = rows::matching(&args.rows)?;
    let mut kernel = Worker::start(Door::Kernel)?;
    let mut ours = Worker::start(args.door)?;
    report::print_machine(&kernel, &ours);

    report::print_heading();
    let mut measured = Vec::new();
    for name in chosen.iter().copied() {
        match measure(name, args.rounds, &mut kernel, &mut ours) {
            Ok(row) => {
                row.print();
                measured.push(row);
            }
            Err(error) => println!("{name:<16} failed: {error}"),
        }
    }
    if let Some(path) = &args.json {
        serde_json::to_writer_pretty(File::create(path)?, &report::document(&measured, &kernel, &ours))?;
    }
    Ok(measured.len() == chosen.len())
}

/// One row, both sides taking turns.
fn measure(name: &str, rounds: u32, kernel: &mut Worker, ours: &mut Worker) -> Result<Row, Box<dyn Error>> {
    let kernel_iterations = kernel.calibrate(name)?;
    let ours_iterations = ours.calibrate(name)?;
    let (mut kernel_ns, mut ours_ns) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        kernel_ns.push(kernel.sample(name, kernel_iterations)?);
        ours_ns.push(ours.sample(name, ours_iterations)?);
    }
    Ok(Row::new(name, &mut kernel_ns, &mut ours_ns))
}
