//! Strangers that mean harm, and what others notice of them.
//!
//! - `hostile flood --connections N --seconds S`: N connections of four users that flood the broker, say nothing, say half of something, sleep, come
//!   and go, and are killed in the middle. Measured is how long others wait meanwhile; and, for comparison, who asks a server that nobody floods, on the same CPUs.
//! - `hostile fuzz --seconds S --seed N`: random messages to each of the broker's sockets, and random answers to what it asks.
//!
//! Both see that nobody else's objects change, that the quotas hold, and that in the end the broker holds no more than in the beginning: memory, threads,
//! descriptors. A seed gives the same messages again; what the broker does at a time is its own.
//!
//! As root, for the other users; all of it under `ipcspace run`.

mod broker;
mod flood;
mod fuzz;
mod link;
mod user;

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::{env, io};

use clap::{Parser, Subcommand};

/// Harm a broker, and see what others notice.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Flood(flood::Options),
    Fuzz(fuzz::Options),
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = if env::var_os(client::wire::SOCKET_ENV).is_some() { run(&args) } else { start_inside(&args) };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("hostile: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything held.
fn run(args: &Args) -> Result<bool, Box<dyn Error>> {
    match &args.what {
        What::Flood(options) => flood::run(options),
        What::Fuzz(options) => fuzz::run(options),
    }
}

/// Runs this program again under `ipcspace run`, and reads what the broker has to say.
fn start_inside(args: &Args) -> Result<bool, Box<dyn Error>> {
    if !nix::unistd::geteuid().is_root() {
        return Err("only root can be other users".into());
    }
    let sysctls = match &args.what {
        What::Flood(options) => options.sysctls(),
        What::Fuzz(_) => fuzz::sysctls(),
    };
    let mut command = Command::new(ipcspace()?);
    command.args(["run", "--kill"]).args(sysctls.iter().flat_map(|sysctl| ["--sysctl", sysctl]));
    command.arg("--").arg(env::current_exe()?).args(env::args_os().skip(1)).stderr(Stdio::piped());
    let mut running = command.spawn()?;
    let stderr = running.stderr.take().ok_or_else(|| io::Error::other("no pipe"))?;
    let mut has_panicked = false;
    for line in BufReader::new(stderr).lines() {
        let line = line?;
        has_panicked |= line.contains("panicked");
        eprintln!("{line}");
    }
    Ok(running.wait()?.success() && !has_panicked)
}

/// The command under test: what `IPCSPACE_BIN` names, else the one beside this executable.
fn ipcspace() -> Result<PathBuf, Box<dyn Error>> {
    match env::var_os("IPCSPACE_BIN") {
        Some(named) => Ok(named.into()),
        None => Ok(env::current_exe()?.with_file_name("ipcspace")),
    }
}
