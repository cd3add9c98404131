//! The kernel against ours: what one operation costs on either side, in one run.
//!
//! `cargo run --release -p bench -- [--rows REGEX]` prints a table with a line per row: nanoseconds in the kernel, nanoseconds in ours, their
//! ratio (above 1: ours is faster) and how much either side varied. `--markdown` prints it as the README has it; `--json FILE` and
//! `--html FILE` write the figures, the latter with charts of them and of how long single iterations took.
//!
//! `--instructions check` counts instead of measuring, see [`instructions`].
//!
//! Workers, the same executable, live through the whole run: one in a private IPC namespace of the kernel, one under `ipcspace run`, and one more for rows
//! that need another namespace of ours. They take turns (A B A B …) in samples of about 50 ms, so that what the machine does meanwhile hits both. The figures
//! are medians over the rounds. All are of elapsed time, but for `msg.cpu.blocked`.
//!
//! With the feature `peers`, rows `peers.*` have another library in the kernel's place.
//!
//! Missing: memory is not measured.

mod bare;
mod clock;
mod cpus;
mod door;
mod instructions;
mod library;
mod objects;
mod pattern;
#[cfg(feature = "peers")]
mod peers;
mod report;
mod rows;
mod worker;

use std::error::Error;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use crate::door::{Kind, Worker};
use crate::instructions::Instructions;
use crate::report::{Distribution, Figures};
use crate::rows::Row;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Which implementation stands on the right-hand side of the comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Door {
    /// The kernel's own calls: the comparison then shows nothing but noise.
    Kernel,
    /// Ours, by way of `ipcspace run`.
    Preload,
    /// Ours, by `ipcspace run --door trap`.
    Trap,
}

/// Compare the kernel's IPC with ours.
#[derive(Parser)]
struct Args {
    /// Only the rows whose name matches this extended regular expression
    #[arg(long, default_value = "")]
    rows: String,
    /// Print the table as Markdown
    #[arg(long)]
    markdown: bool,
    /// Write the figures to this file as well
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write a report with charts to this file; each row then takes a sample more, for how long single iterations take
    #[arg(long)]
    html: Option<PathBuf>,
    /// Samples per row and side
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// What to compare the kernel with
    #[arg(long, default_value = "preload")]
    door: Door,
    /// Count the instructions of an iteration by valgrind instead, and compare them with those that are kept
    #[arg(long)]
    instructions: Option<Instructions>,
    /// Serve rows over the standard streams; used by the bench itself
    #[arg(long, hide = true)]
    worker: Option<Door>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match (args.worker, args.instructions) {
        (Some(door), _) => worker::serve(door).map(|()| true),
        (None, Some(then)) => instructions::count(then),
        (None, None) => compare(&args),
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
fn compare(args: &Args) -> Outcome<bool> {
    let chosen = rows::matching(&args.rows)?;
    let mut kernel = Worker::start(Door::Kernel, Kind::Ordinary)?;
    let mut ours = Worker::start(args.door, Kind::Ordinary)?;
    let (mut barging, mut stranger) = (None, None);
    report::print_machine(&kernel, &ours);
    report::print_heading(args.markdown);

    let mut measured = Vec::new();
    for row in chosen.iter().copied() {
        let worker = match row.kind {
            Kind::Ordinary => Ok(&mut ours),
            Kind::Barging => another(&mut barging, args.door, row.kind),
            Kind::Stranger => another(&mut stranger, args.door, row.kind),
        };
        match worker.and_then(|ours| measure(row, args, &mut kernel, ours)) {
            Ok(figures) => {
                figures.print(args.markdown);
                measured.push(figures);
            }
            Err(error) => println!("{:<21} failed: {error}", row.name),
        }
    }
    let document = report::document(&measured, &kernel, &ours);
    if let Some(path) = &args.json {
        serde_json::to_writer_pretty(File::create(path)?, &document)?;
    }
    if let Some(path) = &args.html {
        fs::write(path, document.html())?;
    }
    Ok(measured.len() == chosen.len())
}

/// A worker that is started when the first row needs it.
fn another(slot: &mut Option<Worker>, door: Door, kind: Kind) -> Outcome<&mut Worker> {
    if slot.is_none() {
        *slot = Some(Worker::start(door, kind)?);
    }
    slot.as_mut().ok_or_else(|| "there is no worker".into())
}

/// One row, both sides taking turns.
fn measure(row: &Row, args: &Args, kernel: &mut Worker, ours: &mut Worker) -> Outcome<Figures> {
    let kernel_iterations = kernel.calibrate(row.name)?;
    let ours_iterations = ours.calibrate(row.ours)?;
    let (mut kernel_ns, mut ours_ns) = (Vec::new(), Vec::new());
    for _ in 0..args.rounds {
        kernel_ns.push(kernel.sample(row.name, kernel_iterations)?);
        ours_ns.push(ours.sample(row.ours, ours_iterations)?);
    }
    let mut figures = Figures::new(row, &mut kernel_ns, &mut ours_ns);
    if args.html.is_some() {
        figures.distribution = Some(Distribution {
            kernel: kernel.histogram(row.name, kernel_iterations)?,
            ours: ours.histogram(row.ours, ours_iterations)?,
        });
    }
    Ok(figures)
}
