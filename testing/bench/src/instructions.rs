//! Instructions of one iteration, counted by valgrind: what a busy machine does not change, so a test can hold on to it.
//!
//! What users see: a line for each row, with what `instructions.toml` beside this crate says of it; an iteration may take [`TOLERANCE`] more. Who makes one longer on
//! purpose, or shorter, renews the file by `cargo run --release -p bench -- --instructions renew`.
//!
//! Counted is all that the worker does, under ours: the slope between two numbers of iterations, in which its start has no part. Rows that sleep are missing, as what they do
//! depends on time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs, process};

use clap::ValueEnum;

use crate::door::{Kind, Worker};
use crate::{Door, Outcome, rows};

/// What to do with the counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Instructions {
    /// Compare them with those that are kept.
    Check,
    /// Keep them.
    Renew,
}

/// Rows that one process makes without sleeping, and that no broker has a part in.
const COUNTED: &str = "^(msg.pair.*|msg.select.10k|msg.lowest.10k|msg.get|msg.stat|msg.create|mq.pair.(64|1k|8k)|mq.prio.7000|sem.pair.*|sem.ten.*|sem.getval|sem.create|api.*)$";
/// What is kept may be exceeded by this part: other versions of libc and of the compiler differ by as much.
const TOLERANCE: f64 = 0.03;
/// From so many iterations to so many.
const ITERATIONS: [u64; 2] = [500, 2500];
const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.toml");

/// Counts, and compares or keeps; `false` if a row takes more than it did.
pub(crate) fn count(then: Instructions) -> Outcome<bool> {
    let kept: BTreeMap<String, f64> = match then {
        Instructions::Check => toml::from_str(&fs::read_to_string(KEPT)?)?,
        Instructions::Renew => BTreeMap::new(),
    };
    let mut counted = BTreeMap::new();
    let mut good = true;
    for row in rows::matching(COUNTED)? {
        let now = per_iteration(row.name)?;
        match kept.get(row.name) {
            Some(&before) => {
                let change = now / before - 1.0;
                let verdict = if change >= TOLERANCE {
                    "MORE than is kept"
                } else if change <= -TOLERANCE {
                    "less: the file can be renewed"
                } else {
                    ""
                };
                println!("{:<21} {now:>8.0} {before:>8.0} {:>+7.1} % {verdict}", row.name, change * 100.0);
                good &= change < TOLERANCE;
            }
            None => {
                println!("{:<21} {now:>8.0}", row.name);
                good &= then == Instructions::Renew;
            }
        }
        counted.insert(row.name, now);
    }
    if then == Instructions::Renew {
        let lines: String =
            counted.iter().map(|(name, count)| format!("\"{name}\" = {count:.1}\n")).collect();
        fs::write(
            KEPT,
            format!(
                "# Instructions of one iteration of each row: written by `bench --instructions renew`.\n{lines}"
            ),
        )?;
    }
    Ok(good)
}

fn per_iteration(row: &str) -> Outcome<f64> {
    let [few, many] = ITERATIONS;
    Ok((total(row, many)? - total(row, few)?) / (many - few) as f64)
}

/// All instructions of a worker that makes one sample.
fn total(row: &str, iterations: u64) -> Outcome<f64> {
    let counts = Counts(env::temp_dir().join(format!("ipcspace-bench-{}", process::id())));
    let valgrind = ["valgrind", "--quiet", "--tool=callgrind"].map(str::to_owned);
    let out = format!("--callgrind-out-file={}", counts.0.display());
    let mut worker = Worker::start_under(&[&valgrind[..], &[out]].concat(), door(row), Kind::Ordinary)?;
    worker.sample(row, iterations)?;
    worker.end()?;
    counts.sum()
}

/// Where a row's worker is started. Those of the crate in the namespace of `run` without a library in the way: for one of its own valgrind knows too few
/// system calls.
fn door(row: &str) -> Door {
    if row.starts_with("api.") { Door::Trap } else { Door::Preload }
}

/// What callgrind writes; removed when dropped.
struct Counts(PathBuf);

impl Counts {
    fn sum(&self) -> Outcome<f64> {
        let text = read(&self.0)?;
        let line =
            text.lines().find_map(|line| line.strip_prefix("totals: ")).ok_or("valgrind gives no sum")?;
        Ok(line.trim().parse()?)
    }
}

fn read(path: &Path) -> Outcome<String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()).into())
}

impl Drop for Counts {
    fn drop(&mut self) {
        // It is in a directory of temporary files.
        let _ = fs::remove_file(&self.0);
    }
}
