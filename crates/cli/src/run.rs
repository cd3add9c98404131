//! `ipcspace run`: a command in a namespace of its own, or in a named one.

use std::ffi::OsString;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use broker::service::{Error, Service};
use broker::supervise::{self, Failure, Job, Namespace, Outcome};
use clap::Args;
use nix::errno::Errno;

use crate::config::{Config, Invalid};
use crate::library::{self, NoPlace};
use crate::{program, source};

/// ipcspace itself failed, as env(1) has it.
pub(crate) const FAILED: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
/// How long another may be making, or leaving, the namespace of a name.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Join the namespace of this name, or make it if there is none
    #[arg(short, long, value_name = "NAME", value_parser = source::name)]
    name: Option<String>,
    /// Set a limit of the new namespace, as sysctl(8) would: kernel.msgmnb=65536
    #[arg(long, value_name = "KEY=VALUE", value_parser = sysctl)]
    sysctl: Vec<(String, String)>,
    /// Give the new namespace a limit of its own in place of each process's: msgqueue=BYTES, or msgqueue=unlimited
    #[arg(long, value_name = "LIMIT=VALUE", value_parser = ulimit)]
    ulimit: Vec<(String, String)>,
    /// Show the namespace's files to all programs, in the place of the kernel's: /dev/mqueue, /proc/sysvipc and the limits in /proc/sys
    ///
    /// By mounts that only the command sees, as root or in a user namespace. There, no other user is known, and mount(8) of /proc fails in containers.
    #[arg(long)]
    mount: bool,
    /// When the command has ended, kill what it has left running
    #[arg(long)]
    kill: bool,
    /// How system calls reach the namespace: by the preloaded library, or by the trap, which any program falls into
    #[arg(long, value_enum, default_value_t = Door::Auto)]
    door: Door,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// `ipcspace exec`: a command in a namespace that is there.
#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// The namespace to join
    #[arg(value_parser = source::name)]
    name: String,
    /// Show the namespace's files to all programs, in the place of the kernel's: /dev/mqueue, /proc/sysvipc and the limits in /proc/sys
    ///
    /// By mounts that only the command sees, as root or in a user namespace. There, no other user is known, and mount(8) of /proc fails in containers.
    #[arg(long)]
    mount: bool,
    /// When the command has ended, kill what it has left running
    #[arg(long)]
    kill: bool,
    /// How system calls reach the namespace: by the preloaded library, or by the trap, which any program falls into
    #[arg(long, value_enum, default_value_t = Door::Auto)]
    door: Door,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Door {
    /// Preload, and the trap for programs that the library does not serve
    Auto,
    /// The preloaded library: quick, for dynamic 64-bit programs
    Preload,
    /// Seccomp notifications: for any program, each call costs a few microseconds
    Trap,
}

impl From<Door> for supervise::Door {
    fn from(door: Door) -> supervise::Door {
        match door {
            Door::Auto => supervise::Door::Auto,
            Door::Preload => supervise::Door::Preload,
            Door::Trap => supervise::Door::Trap,
        }
    }
}

/// A limit and its value, as sysctl(8) takes them.
pub(crate) fn sysctl(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE, as in kernel.msgmnb=65536")?;
    // sysctl(8) takes slashes too.
    Ok((key.trim().replace('/', "."), value.trim().to_owned()))
}

/// A limit that `ulimit` has for processes, as the sysctl that stands for it in a namespace.
pub(crate) fn ulimit(text: &str) -> Result<(String, String), String> {
    let limit = text.split_once('=').filter(|(limit, _)| limit.trim() == "msgqueue");
    let (_, value) = limit.ok_or("expected msgqueue=BYTES or msgqueue=unlimited: there is no other limit")?;
    let bytes = match value.trim() {
        "unlimited" => u64::MAX,
        // To the sysctl 0 means none; no queue is as small as 1.
        value => value.parse::<u64>().map_err(|error| error.to_string())?.max(1),
    };
    Ok(("ipcspace.msgqueue".to_owned(), bytes.to_string()))
}

pub(crate) fn run(run: Run) -> ExitCode {
    let Run { name, mut sysctl, ulimit, mount, kill, door, command } = run;
    sysctl.extend(ulimit);
    start(command, How { door, mount, kill }, || open(name.as_deref(), &sysctl))
}

pub(crate) fn exec(exec: Exec) -> ExitCode {
    let Exec { name, mount, kill, door, command } = exec;
    start(command, How { door, mount, kill }, || {
        let lease = Service::join(&name)?.ok_or_else(|| NoNamespace::Unknown(name.clone()))?;
        Ok(Namespace::Joined(lease))
    })
}

/// How a command is run.
#[derive(Clone, Copy)]
struct How {
    door: Door,
    mount: bool,
    kill: bool,
}

fn start(
    command: Vec<OsString>,
    how: How,
    open: impl FnOnce() -> Result<Namespace, NoNamespace>,
) -> ExitCode {
    if how.door == Door::Preload
        && let Some((path, why)) = command.first().and_then(|command| program::unserved(command))
    {
        eprintln!(
            "ipcspace: warning: {} {}: its own IPC calls go to the kernel, not to this namespace",
            path.display(),
            why.reason()
        );
    }
    let name = command.first().map(|name| name.display().to_string()).unwrap_or_default();
    match supervise(command, how, open) {
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
    Mount(#[from] views::Failure),
    #[error(transparent)]
    Supervision(#[from] Failure),
}

fn supervise(
    command: Vec<OsString>,
    How { door, mount, kill }: How,
    open: impl FnOnce() -> Result<Namespace, NoNamespace>,
) -> Result<Outcome, NotStarted> {
    let preload = match door {
        Door::Auto | Door::Preload => Some(library::ld_preload()?),
        Door::Trap => None,
    };
    let is_elsewhere = mount && views::be_able_to_mount()?;
    let job = Job { command, preload, door: door.into(), shows_files: mount, kill_rest: kill };
    Ok(supervise::run(&job, || match open() {
        Err(NoNamespace::Service(Error::System(Errno::EACCES))) if is_elsewhere => {
            Err(NoNamespace::Elsewhere)
        }
        opened => opened,
    })?)
}

/// Why there is no namespace to run in.
#[derive(Debug, thiserror::Error)]
enum NoNamespace {
    #[error(transparent)]
    Service(#[from] Error),
    #[error(transparent)]
    Config(#[from] Invalid),
    #[error(
        "there is no namespace '{0}': 'ipcspace serve {0}' makes it and keeps it, 'ipcspace run -n {0} -- CMD' makes it for a command"
    )]
    Unknown(String),
    #[error(
        "who is not root mounts in a user namespace of its own, in which it is a stranger to a namespace that exists already: --mount is for a new one then"
    )]
    Elsewhere,
    #[error("the namespace '{0}' exists already: --sysctl and --ulimit are for a new one")]
    Existing(String),
}

fn open(name: Option<&str>, sysctls: &[(String, String)]) -> Result<Namespace, NoNamespace> {
    let started = Instant::now();
    loop {
        if let Some(name) = name
            && let Some(lease) = Service::join(name)?
        {
            if !sysctls.is_empty() {
                return Err(NoNamespace::Existing(name.to_owned()));
            }
            return Ok(Namespace::Joined(lease));
        }
        let config = Config::of(name)?;
        match Service::create(name, &config.with(sysctls)) {
            // Another was faster and can be joined in a moment, or has just ended.
            Err(Error::Taken) if started.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(2)),
            Ok(mut made) => {
                if name.is_none() {
                    made.admit_only_kin(std::process::id());
                }
                return Ok(Namespace::Own(Box::new(made)));
            }
            Err(error) => return Err(config.explain(error)?.into()),
        }
    }
}
