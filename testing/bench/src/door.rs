//! A worker process behind one of the two implementations, and the talk with it.
//!
//! The talk is one line each way: `ROW ITERATIONS`, answered by `ok NANOSECONDS` or `error TEXT`.

use std::env;
use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::Door;

/// A sample lasts about as long as this.
const SAMPLE_NS: f64 = 50e6;

/// Room for the longest row: 100 000 messages that wait, and the 8 KiB ones.
pub(crate) const MSGMNB: u32 = 64 << 20;

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
    pub(crate) fn start(door: Door) -> Result<Worker, Box<dyn Error>> {
        let mut child = command(door)?
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

    /// How many iterations of the row take about a sample's time.
    pub(crate) fn calibrate(&mut self, row: &str) -> Result<u64, Box<dyn Error>> {
        let mut iterations = 1;
        loop {
            let per_iteration = self.sample(row, iterations)?.max(0.1);
            let wanted = (SAMPLE_NS / per_iteration).max(1.0) as u64;
            // A short trial says little: approach the goal by steps.
            if wanted <= iterations.saturating_mul(2) {
                return Ok(wanted);
            }
            iterations = wanted.min(iterations * 20);
        }
    }

    /// Nanoseconds per iteration.
    pub(crate) fn sample(&mut self, row: &str, iterations: u64) -> Result<f64, Box<dyn Error>> {
        let commands = self.commands.as_mut().ok_or("the worker has been told to end")?;
        writeln!(commands, "{row} {iterations}")?;
        let total: f64 = self.answer()?.parse()?;
        Ok(total / iterations as f64)
    }

    fn answer(&mut self) -> Result<String, Box<dyn Error>> {
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

fn command(door: Door) -> Result<Command, Box<dyn Error>> {
    let bench = env::current_exe()?;
    let mut command = match door {
        Door::Kernel => Command::new(&bench),
        Door::Preload => {
            let mut run = Command::new(ipcspace(&bench)?);
            run.args(["run", "--sysctl", &format!("kernel.msgmnb={MSGMNB}"), "--"]).arg(&bench);
            run
        }
    };
    command.arg("--worker").arg(match door {
        Door::Kernel => "kernel",
        Door::Preload => "preload",
    });
    Ok(command)
}

/// The command under test: what `IPCSPACE_BIN` names, else the one beside this executable.
fn ipcspace(bench: &Path) -> Result<PathBuf, Box<dyn Error>> {
    if let Some(named) = env::var_os("IPCSPACE_BIN") {
        return Ok(named.into());
    }
    let beside = bench.with_file_name("ipcspace");
    if beside.exists() {
        return Ok(beside);
    }
    Err(format!(
        "{} does not exist: build it with `cargo build --release -p cli`, or name another by IPCSPACE_BIN",
        beside.display()
    )
    .into())
}
