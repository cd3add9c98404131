//! The processes of `ipcspace run -- CMD`.
//!
//! ```text
//!   run, the front     what the shell sees: stops, continues, is signalled and ends as CMD
//!    └ the broker      own session, child subreaper: serves the namespace until the last process has ended
//!       └ CMD          in run's session and process group, as if run were not there
//! ```
//!
//! CMD finds descriptors, signal mask, dispositions, directory and umask as `run` had them. If the front is killed, CMD goes with it;
//! if the broker is killed, the front takes CMD over, and the namespace lives on in its clients without a server.
//!
//! Missing: a front that is stopped by SIGSTOP itself doesn't stop CMD, as nobody can see that signal.

mod front;
mod keeper;
pub(crate) mod os;
mod show;
mod start;
mod trap;
mod wire;

use std::ffi::{CString, OsString};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;
use std::{fmt, io};

use nix::unistd::{ForkResult, fork, getpid};

pub(crate) use self::start::open_descriptors;
use crate::service::{Lease, Service};

/// How the system calls of the command, and of all that it starts, reach the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// By what is preloaded only.
    Preload,
    /// By the trap where there can be one, besides what is preloaded.
    Auto,
    /// By the trap.
    Trap,
}

/// What to run, and how.
#[derive(Debug, Clone)]
pub struct Job {
    /// The command and its arguments.
    pub command: Vec<OsString>,
    /// What LD_PRELOAD is to be, if anything is preloaded.
    pub preload: Option<Preload>,
    /// How its system calls reach the namespace.
    pub door: Door,
    /// Whether it sees the namespace's files in the place of the kernel's: see [`views::be_able_to_mount`].
    pub shows_files: bool,
    /// Whether the rest of its descendants are killed when the command has ended.
    pub kill_rest: bool,
}

/// The value of LD_PRELOAD.
#[derive(Debug, Clone)]
pub struct Preload {
    /// Below a trap, which answers the loaders of 32-bit programs ([`trap::stub`](::trap::stub)).
    pub trapped: OsString,
    /// Where there is none.
    pub alone: OsString,
}

impl Job {
    fn argv(&self) -> Result<Vec<CString>, Failure> {
        let strings = self.command.iter().map(|argument| CString::new(argument.clone().into_vec()));
        Ok(strings.collect::<Result<_, _>>()?)
    }
}

/// A namespace from the side of one `run`.
pub enum Namespace {
    /// Made for this `run`, which serves it.
    Own(Box<Service>),
    /// Another's, which is held as long as this `run` has processes.
    Joined(Lease),
    /// Given back.
    Gone,
}

impl Namespace {
    fn env(&self) -> Vec<(String, String)> {
        match self {
            Namespace::Own(service) => service.env(),
            Namespace::Joined(lease) => lease.env(),
            Namespace::Gone => Vec::new(),
        }
    }

    /// Where its broker is asked.
    fn socket(&self) -> Option<PathBuf> {
        match self {
            Namespace::Own(service) => Some(service.socket()),
            Namespace::Joined(lease) => Some(lease.socket().to_owned()),
            Namespace::Gone => None,
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Namespace::Own(service) => Some(service.fd()),
            Namespace::Joined(_) | Namespace::Gone => None,
        }
    }

    fn start(&mut self) -> Result<(), Failure> {
        match self {
            Namespace::Own(service) => service.start().map_err(|error| Failure::Namespace(error.to_string())),
            Namespace::Joined(_) | Namespace::Gone => Ok(()),
        }
    }

    fn dispatch(&mut self) -> Option<Duration> {
        match self {
            Namespace::Own(service) => service.dispatch(),
            Namespace::Joined(_) | Namespace::Gone => None,
        }
    }

    fn reaped(&mut self, pid: i32) {
        if let Namespace::Own(service) = self {
            service.reaped(pid);
        }
    }

    fn refusal(&mut self) -> Option<String> {
        match self {
            Namespace::Own(service) => service.refusal(),
            Namespace::Joined(_) | Namespace::Gone => None,
        }
    }

    /// Whether nobody from elsewhere is in it either.
    fn is_deserted(&self) -> bool {
        match self {
            Namespace::Own(service) => service.clients() == 0,
            Namespace::Joined(_) | Namespace::Gone => true,
        }
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Namespace::Own(_) => "Own",
            Namespace::Joined(_) => "Joined",
            Namespace::Gone => "Gone",
        })
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It could not be executed, with this errno.
    CannotExec(i32),
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

impl Outcome {
    fn from_status(status: i32) -> Outcome {
        if libc::WIFSIGNALED(status) {
            Outcome::Killed(libc::WTERMSIG(status))
        } else {
            Outcome::Exited(libc::WEXITSTATUS(status))
        }
    }
}

/// Why `run` itself failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The namespace could not be made or joined; the text says why.
    #[error("{0}")]
    Namespace(String),
    /// The command would have to be run without the trap that was asked for.
    #[error("no trap: {0}")]
    NoTrap(String),
    /// The namespace's files can't be put in the place of the kernel's.
    #[error("the namespace's files can't be shown: {0}")]
    NoViews(String),
    /// The broker ended before the command ran.
    #[error("the broker was killed before the command was started")]
    BrokerDied,
    /// The broker reaped the command and ended before it could tell.
    #[error("the broker was killed, and with it the knowledge of how the command ended")]
    CommandLost,
    /// An argument or a variable can't be passed on.
    #[error("an argument contains a NUL byte")]
    Nul(#[from] std::ffi::NulError),
    /// The system refused something basic.
    #[error("{0}")]
    System(#[from] io::Error),
}

impl From<nix::Error> for Failure {
    fn from(errno: nix::Error) -> Failure {
        Failure::System(errno.into())
    }
}

/// Runs a command in the namespace that `open` gives, and waits for its end. `open` is called in the broker.
///
/// The process must have one thread only. Afterwards every signal is blocked, and standard input and output lead
/// nowhere unless the command could not be started.
///
/// # Errors
/// See [`Failure`]: the command was not run, or its end could not be seen.
pub fn run<E: std::error::Error>(
    job: &Job,
    open: impl FnOnce() -> Result<Namespace, E>,
) -> Result<Outcome, Failure> {
    start::can_let_go()?;
    let start = start::Start::block_signals()?;
    // If the broker is killed, the command becomes a child of this process.
    nix::sys::prctl::set_child_subreaper(true)?;
    let (link, brokers_end) = wire::Link::pair()?;
    let front = getpid().as_raw();
    // SAFETY: this process has one thread, which the caller promises; the child never returns from here.
    match unsafe { fork() }? {
        ForkResult::Child => {
            drop(link);
            keeper::keep(brokers_end, front, start, job, open)
        }
        ForkResult::Parent { child } => {
            drop(brokers_end);
            front::attend(link, child.as_raw(), start)
        }
    }
}

/// Ends this process by that signal, without a core dump of its own, so that its parent sees what the command's would have seen.
pub fn die_by(signal: i32) -> ! {
    // Not dumpable: a limit of zero would not keep a dump from a pipe in core_pattern.
    let _ = nix::sys::prctl::set_dumpable(false);
    os::suffer(signal);
    // A signal that does not kill can't have killed the command: the status was another's invention.
    std::process::exit(128 + signal)
}
