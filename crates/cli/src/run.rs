//! `ipcspace run`: a command in a namespace of its own, or in a named one.

use std::ffi::OsString;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{fs, io};

use broker::service::{Error, Service};
use broker::supervise::{self, Failure, Job, Namespace, Outcome};
use clap::Args;
use nix::errno::Errno;

use crate::library::{self, NoPlace};
use crate::program;

/// ipcspace itself failed, as env(1) has it.
pub(crate) const FAILED: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
/// How long two may be making a namespace of one name.
const RACE_MAX: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Join the namespace of this name, or make it if there is none
    #[arg(short, long, value_name = "NAME")]
    name: Option<String>,
    /// Set a limit of the new namespace, as sysctl(8) would: kernel.msgmnb=65536
    #[arg(long, value_name = "KEY=VALUE", value_parser = sysctl)]
    sysctl: Vec<(String, String)>,
    /// When the command has ended, kill what it has left running
    #[arg(long)]
    kill: bool,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
}

fn sysctl(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE, as in kernel.msgmnb=65536")?;
    // sysctl(8) takes slashes too.
    Ok((key.trim().replace('/', "."), value.trim().to_owned()))
}

pub(crate) fn run(run: Run) -> ExitCode {
    if let Some((path, why)) = run.command.first().and_then(|command| program::unserved(command)) {
        eprintln!(
            "ipcspace: warning: {} {}: its own IPC calls go to the kernel, not to this namespace",
            path.display(),
            why.reason()
        );
    }
    let name = run.command.first().map(|name| name.display().to_string()).unwrap_or_default();
    match start(run) {
        Ok(Outcome::Exited(code)) => ExitCode::from(code as u8),
        Ok(Outcome::Killed(signal)) => supervise::die_by(signal),
        Ok(Outcome::CannotExec(errno)) => {
            let errno = Errno::from_raw(errno);
            eprintln!("ipcspace: cannot run '{name}': {}", errno.desc());
            ExitCode::from(if errno == Errno::ENOENT { NOT_FOUND } else { NOT_EXECUTABLE })
        }
        Err(failure) => {
            eprintln!("ipcspace: {failure}");
            ExitCode::from(FAILED)
        }
    }
}

/// Why the command was not started.
#[derive(Debug, thiserror::Error)]
enum NotStarted {
    #[error(transparent)]
    Library(#[from] NoPlace),
    #[error(transparent)]
    Supervision(#[from] Failure),
}

fn start(run: Run) -> Result<Outcome, NotStarted> {
    let preload = library::ld_preload()?;
    let job = Job { command: run.command, env: vec![("LD_PRELOAD".into(), preload)], kill_rest: run.kill };
    let started = Instant::now();
    Ok(supervise::run(&job, || open(run.name.as_deref(), &run.sysctl, started))?)
}

/// Why there is no namespace to run in.
#[derive(Debug, thiserror::Error)]
enum NoNamespace {
    #[error(transparent)]
    Service(#[from] Error),
    #[error("the namespace '{0}' exists already: --sysctl is for a new one")]
    Existing(String),
}

/// `None` where this must be tried again: two make the same namespace, or one was left over.
fn open(
    name: Option<&str>,
    sysctls: &[(String, String)],
    started: Instant,
) -> Result<Option<Namespace>, NoNamespace> {
    if let Some(name) = name
        && let Some(lease) = Service::join(name)?
    {
        if !sysctls.is_empty() {
            return Err(NoNamespace::Existing(name.to_owned()));
        }
        return Ok(Some(Namespace::Joined(lease)));
    }
    match Service::create(name, sysctls) {
        Err(Error::File(directory, error)) if error.kind() == io::ErrorKind::AlreadyExists => {
            if is_left_over(&directory, started.elapsed()) {
                fs::remove_dir_all(&directory).map_err(|error| Error::File(directory, error))?;
            }
            Ok(None)
        }
        result => Ok(Some(Namespace::Own(Box::new(result?)))),
    }
}

/// Whether nobody serves the namespace of that directory any more: its broker was killed.
fn is_left_over(directory: &Path, waited: Duration) -> bool {
    // A broker that lives refuses the type of this socket, not the connection.
    match UnixStream::connect(directory.join("socket")).map_err(|error| error.kind()) {
        Err(io::ErrorKind::ConnectionRefused) => true,
        // Or it is about to make the socket.
        Err(io::ErrorKind::NotFound) => waited >= RACE_MAX,
        _ => false,
    }
}
