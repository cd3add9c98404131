//! A worker process behind one of the two implementations, and the talk with it.
//!
//! The talk is one line each way: `ROW ITERATIONS`, answered by `ok ELAPSED COST`, both in nanoseconds, or `error TEXT`. With a third word,
//! `each`, the answer is `ok` and a [`Histogram`] of the iterations.

use std::env;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::clock::Histogram;
use crate::{Door, Outcome};

/// A sample lasts about as long as this.
const SAMPLE_NS: f64 = 50e6;

/// Room for the longest row: 100 000 messages that wait, and the 8 KiB ones.
pub(crate) const MSGMNB: u32 = 64 << 20;

/// Messages that a POSIX queue may have room for: those of the row with many, and one more.
pub(crate) const MQ_MESSAGES: u32 = 7001;

/// The word that asks for a histogram.
pub(crate) const EACH: &str = "each";

/// What is special of the namespace that a worker of ours is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Ordinary,
    /// Semaphores are without order among those who wait.
    Barging,
    /// The worker becomes another user than its owner.
    Stranger,
}

impl Kind {
    fn sysctls(self) -> Vec<String> {
        let mut sysctls = vec![format!("kernel.msgmnb={MSGMNB}"), format!("fs.mqueue.msg_max={MQ_MESSAGES}")];
        if self == Kind::Barging {
            sysctls.push("ipcspace.sem_barging=1".to_owned());
        }
        sysctls
    }
}

/// A process that measures rows on one implementation.
pub(crate) struct Worker {
    child: Child,
    /// `None` once it has been told to end.
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// What it said of itself: where its calls go, and its CPUs.
    pub(crate) greeting: String,
}

impl Worker {
    /// Starts the worker and waits for its greeting.
    pub(crate) fn start(door: Door, kind: Kind) -> Outcome<Worker> {
        Worker::start_under(&[], door, kind)
    }

    /// Starts the worker as an argument of another command.
    pub(crate) fn start_under(above: &[String], door: Door, kind: Kind) -> Outcome<Worker> {
        let mut child = command(above, door, kind)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("starting the {door:?} worker: {error}"))?;
        let commands = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().ok_or("the worker has no standard output")?);
        let mut worker = Worker { child, commands, answers, greeting: String::new() };
        worker.greeting = worker.answer()?;
        Ok(worker)
    }

    /// Waits until it has ended.
    pub(crate) fn end(mut self) -> Outcome<()> {
        self.commands = None;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("the worker ended: {status}").into()) }
    }

    /// How many iterations of the row take about a sample's time.
    pub(crate) fn calibrate(&mut self, row: &str) -> Outcome<u64> {
        let mut iterations = 1;
        loop {
            let per_iteration = (self.made(row, iterations)?.0 / iterations as f64).max(0.1);
            let wanted = (SAMPLE_NS / per_iteration).max(1.0) as u64;
            // A short trial says little: approach the goal by steps.
            if wanted <= iterations.saturating_mul(2) {
                return Ok(wanted);
            }
            iterations = wanted.min(iterations * 20);
        }
    }

    /// Nanoseconds per iteration, of time or of what else the row is about.
    pub(crate) fn sample(&mut self, row: &str, iterations: u64) -> Outcome<f64> {
        Ok(self.made(row, iterations)?.1 / iterations as f64)
    }

    /// How long single iterations take.
    pub(crate) fn histogram(&mut self, row: &str, iterations: u64) -> Outcome<Histogram> {
        Histogram::parse(&self.ask(&format!("{row} {iterations} {EACH}"))?)
    }

    /// Elapsed time and cost.
    fn made(&mut self, row: &str, iterations: u64) -> Outcome<(f64, f64)> {
        let answer = self.ask(&format!("{row} {iterations}"))?;
        let (elapsed, cost) = answer.split_once(' ').ok_or("the worker answers with one figure")?;
        Ok((elapsed.parse()?, cost.parse()?))
    }

    fn ask(&mut self, command: &str) -> Outcome<String> {
        let commands = self.commands.as_mut().ok_or("the worker has been told to end")?;
        writeln!(commands, "{command}")?;
        self.answer()
    }

    fn answer(&mut self) -> Outcome<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            let status = self.child.wait()?;
            return Err(format!("the worker ended without an answer ({status})").into());
        }
        match line.trim_end().split_once(' ') {
            Some(("ok", answer)) => Ok(answer.to_owned()),
            Some(("error", text)) => Err(text.to_owned().into()),
            _ => Err(format!("the worker said {line:?}").into()),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.commands = None;
        // It ends at the end of its input; nothing is left to do about one that fails to.
        let _ = self.child.wait();
    }
}

fn command(above: &[String], door: Door, kind: Kind) -> Outcome<Command> {
    let bench = env::current_exe()?;
    let mut words: Vec<OsString> = Vec::new();
    if door != Door::Kernel {
        words.extend([ipcspace(&bench)?.into(), "run".into()]);
        words.extend((door == Door::Trap).then_some(["--door".into(), "trap".into()]).into_iter().flatten());
        words.extend(kind.sysctls().into_iter().flat_map(|sysctl| ["--sysctl".into(), sysctl.into()]));
        words.push("--".into());
    }
    words.extend(above.iter().map(OsString::from));
    words.extend([bench.into(), "--worker".into()]);
    words.push(match door {
        Door::Kernel => "kernel".into(),
        Door::Preload => "preload".into(),
        Door::Trap => "trap".into(),
    });
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    Ok(command)
}

/// The command under test: what `IPCSPACE_BIN` names, else the one beside this executable.
fn ipcspace(bench: &Path) -> Outcome<PathBuf> {
    if let Some(named) = env::var_os("IPCSPACE_BIN") {
        return Ok(named.into());
    }
    let beside = bench.with_file_name("ipcspace");
    // The bench may be built with another profile than the command.
    let found =
        [beside.clone(), bench.with_file_name("../release/ipcspace")].into_iter().find(|at| at.exists());
    if let Some(found) = found {
        return Ok(found);
    }
    Err(format!(
        "{} does not exist: build it with `cargo build --release -p cli`, or name another by IPCSPACE_BIN",
        beside.display()
    )
    .into())
}
