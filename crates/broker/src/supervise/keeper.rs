//! The broker's process of a `run`: the parent of the command, the reaper of all that it leaves, and the namespace's server.
//!
//! It lives in a session of its own, holds nothing that was inherited, and ends with the last descendant and the last client.
//! It acts on no signal but SIGCHLD: nothing that is meant for the command's group may end it.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};
use std::{iter, process};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{self, ForkResult, Pid};

use super::os::{self, Child};
use super::show;
use super::start::{Start, let_go_of_inherited};
use super::trap::{self, Below};
use super::wire::{Event, Link, Request};
use super::{Failure, Job, Namespace};

/// How long until an act that may have met a race is repeated.
const AGAIN: Duration = Duration::from_millis(20);
/// Signals of job control that stop a process.
const STOPS: [i32; 3] = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
/// How long the front waits for those that `--kill` can't end: in the kernel, or of another user.
const KILL_PATIENCE: Duration = Duration::from_secs(2);

/// Serves one `run` to its end. `front` is the process to whom `link` leads.
pub(super) fn keep<E: std::error::Error>(
    link: Link,
    front: i32,
    start: Start,
    job: &Job,
    open: impl FnOnce() -> Result<Namespace, E>,
) -> ! {
    let code = match Keeper::begin(front, start, job, open) {
        // Who wanted the command is gone: its process ends with us.
        Ok((keeper, _)) if link.is_over() => {
            drop(keeper);
            1
        }
        Ok((mut keeper, listener)) => {
            link.send(&Event::Forked(keeper.command));
            listener.release();
            keeper.link = Some(link);
            // Dropped before the exit, with the files of the namespace.
            i32::from(keeper.serve().is_err())
        }
        Err(failure) => {
            link.send(&Event::Failed(failure.to_string()));
            1
        }
    };
    process::exit(code);
}

struct Keeper {
    namespace: Namespace,
    /// `None` when the front is gone, or needs us no more.
    link: Option<Link>,
    front: i32,
    command: i32,
    /// Says by its end that the command was executed, or why it was not.
    exec: Option<File>,
    signals: SignalFd,
    kill_rest: bool,
    state: State,
    /// How often the command has been stopped.
    stops: i32,
    /// The front was told of a stop and has not been continued since.
    front_stops: bool,
    childless: bool,
    /// Why there is no trap, though there might have been one; `None` once that has been told.
    untrapped: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Stopped,
    /// With this wait status.
    Ended {
        status: i32,
        at: Instant,
    },
}

impl Keeper {
    fn begin<E: std::error::Error>(
        front: i32,
        start: Start,
        job: &Job,
        open: impl FnOnce() -> Result<Namespace, E>,
    ) -> Result<(Keeper, trap::Listener), Failure> {
        // Before the command exists, so that no child of it can be missed.
        nix::sys::prctl::set_child_subreaper(true)?;
        let mut namespace = open().map_err(|error| Failure::Namespace(error.to_string()))?;
        let mut mask = SigSet::empty();
        mask.add(nix::sys::signal::SIGCHLD);
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let (exec, report) = unistd::pipe2(OFlag::O_CLOEXEC)?;
        let argv = job.argv()?;
        let env = |below| environment(job, &namespace, below);
        let envs = Envs { own: env(Below::Own)?, outer: env(Below::Outer)?, alone: env(Below::Nothing)? };
        let (server, show) = show::pair(job.shows_files)?;
        let (mut listener, snare) = trap::pair(job.door)?;
        // SAFETY: this process has one thread; the service starts its other one when it is first called.
        let command = match unsafe { unistd::fork() }? {
            ForkResult::Child => {
                drop((listener, server));
                become_command(&argv, &envs, start, show, snare, File::from(report))
            }
            ForkResult::Parent { child } => child.as_raw(),
        };
        drop((show, snare));
        drop(report);
        namespace.start()?;
        server.serve(&namespace)?;
        let untrapped = listener.serve(&namespace)?;
        unistd::setsid()?;
        nix::sys::prctl::set_name(c"ipcspace-broker")?;
        let keeper = Keeper {
            namespace,
            link: None,
            front,
            command,
            exec: Some(File::from(exec)),
            signals,
            kill_rest: job.kill_rest,
            state: State::Running,
            stops: 0,
            front_stops: false,
            childless: false,
            untrapped,
        };
        Ok((keeper, listener))
    }

    fn serve(&mut self) -> Result<(), Failure> {
        let mut wanted = self.namespace.dispatch();
        loop {
            self.wait(wanted)?;
            while self.signals.read_signal()?.is_some() {}
            if self.exec_failed()? {
                return Ok(());
            }
            self.hear_front();
            self.see_children();
            self.mend();
            // Before the last question, as its answer may be that the last client has gone.
            wanted = self.namespace.dispatch();
            for warning in self.untrapped.take().into_iter().chain(self.namespace.refusal()) {
                self.tell(&Event::Warning(warning));
            }
            if self.has_ended() {
                return Ok(());
            }
        }
    }

    /// Waits until something happens, or somebody wants to be called.
    fn wait(&self, wanted: Option<Duration>) -> nix::Result<()> {
        let timeout = os::timeout(wanted.into_iter().chain(self.is_mending().then_some(AGAIN)).min());
        let fds = iter::once(self.signals.as_fd())
            .chain(self.namespace.fd())
            .chain(self.link.as_ref().map(Link::as_fd))
            .chain(self.exec.as_ref().map(File::as_fd));
        let mut fds: Vec<PollFd> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => Ok(()),
            result => result.map(drop),
        }
    }

    /// Whether exec has failed; tells the front of either outcome.
    fn exec_failed(&mut self) -> Result<bool, Failure> {
        let Some(exec) = &mut self.exec else { return Ok(false) };
        if !is_readable(exec.as_fd()) {
            return Ok(false);
        }
        let mut report = Vec::new();
        exec.read_to_end(&mut report)?;
        self.exec = None;
        let event = match <[u8; 4]>::try_from(report) {
            Err(_) => Event::Started,
            Ok(errno) => {
                os::reap(self.command);
                self.namespace = Namespace::Gone;
                Event::CannotExec(i32::from_ne_bytes(errno))
            }
        };
        let failed = matches!(event, Event::CannotExec(_));
        self.tell(&event);
        if !failed {
            let_go_of_inherited(&[])?;
            // A directory that is somebody's current one can't be unmounted.
            std::env::set_current_dir("/")?;
        }
        Ok(failed)
    }

    fn hear_front(&mut self) {
        while let Some(link) = self.link.as_ref().filter(|link| is_readable(link.as_fd())) {
            match link.receive() {
                Ok(Some(Request::Signal { signal, value, serial })) => {
                    // What stopped the command already, as it was meant for the whole group, must not stop it again.
                    self.see_children();
                    if !STOPS.contains(&signal) || serial == self.stops {
                        self.signal_command(signal, value);
                    }
                }
                Ok(Some(Request::Continue { serial })) => {
                    self.front_stops &= serial != self.stops;
                    // The news of a continuation that everybody got may not have been read yet.
                    self.see_children();
                    if self.state == State::Stopped && serial == self.stops {
                        self.signal_command(libc::SIGCONT, None);
                    }
                }
                Ok(None) | Err(_) => {
                    // The front was killed, and the command with it.
                    self.link = None;
                    self.signal_command(libc::SIGKILL, None);
                }
            }
        }
    }

    /// Signals the command, which is ours and not reaped, so the process id is its own.
    fn signal_command(&self, signal: i32, value: Option<u64>) {
        if !matches!(self.state, State::Ended { .. }) {
            os::signal(self.command, signal, value);
        }
    }

    fn see_children(&mut self) {
        loop {
            match os::next_child() {
                Child::Changed { pid, status } => self.child_changed(pid, status),
                Child::Quiet => return,
                Child::None => {
                    self.childless = true;
                    return;
                }
            }
        }
    }

    fn child_changed(&mut self, pid: i32, status: i32) {
        let is_command = pid == self.command;
        if libc::WIFSTOPPED(status) {
            if is_command {
                self.state = State::Stopped;
                self.stops += 1;
                self.front_stops = true;
                self.tell(&Event::Stopped { signal: libc::WSTOPSIG(status), serial: self.stops });
            }
        } else if libc::WIFCONTINUED(status) {
            if is_command {
                self.state = State::Running;
            }
        } else {
            self.namespace.reaped(pid);
            if is_command {
                self.state = State::Ended { status, at: Instant::now() };
            }
        }
    }

    /// Whether something must be done again until it has worked.
    fn is_mending(&self) -> bool {
        self.front_is_stuck() || self.is_killing()
    }

    /// The front stopped, or is about to, for a stop that is over: its own continuation may have come too early.
    fn front_is_stuck(&self) -> bool {
        self.front_stops && self.state != State::Stopped && self.link.is_some()
    }

    fn is_killing(&self) -> bool {
        self.kill_rest && matches!(self.state, State::Ended { .. }) && !self.childless
    }

    fn mend(&self) {
        if self.front_is_stuck() {
            os::signal(self.front, libc::SIGCONT, None);
        }
        if self.is_killing() {
            // Whoever they leave behind comes to us in turn.
            for child in os::children(Pid::this().as_raw()).unwrap_or_default() {
                os::signal(child, libc::SIGKILL, None);
            }
        }
    }

    /// Tells the front when the command has ended, and says whether all has.
    fn has_ended(&mut self) -> bool {
        let State::Ended { status, at } = self.state else { return false };
        // It may yet stop for the stop of a command that has ended since, and only we continue it.
        if self.front_is_stuck() {
            return false;
        }
        if self.childless && self.namespace.is_deserted() {
            // The files first: whoever waits for the front finds nothing left.
            self.namespace = Namespace::Gone;
            self.tell(&Event::Ended { status, last: true });
            return true;
        }
        if !self.is_killing() || at.elapsed() > KILL_PATIENCE {
            self.tell(&Event::Ended { status, last: false });
            self.link = None;
        }
        false
    }

    fn tell(&self, event: &Event) {
        if let Some(link) = &self.link {
            link.send(event);
        }
    }
}

fn is_readable(fd: std::os::fd::BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// The environment of the command, below a trap of ours, below another one, and without any.
struct Envs {
    own: Vec<CString>,
    outer: Vec<CString>,
    alone: Vec<CString>,
}

/// The environment of the command: ours, with what `run` and the namespace want in it.
fn environment(job: &Job, namespace: &Namespace, below: Below) -> Result<Vec<CString>, Failure> {
    let mut env: std::collections::BTreeMap<_, _> = std::env::vars_os().collect();
    if let Some(preload) = &job.preload {
        let value = if below == Below::Nothing { &preload.alone } else { &preload.trapped };
        env.insert("LD_PRELOAD".into(), value.clone());
        with_any_order_of_libraries(env.entry("ASAN_OPTIONS".into()).or_default());
    }
    env.extend(namespace.env().into_iter().map(|(key, value)| (key.into(), value.into())));
    if below == Below::Own {
        env.insert(::trap::routes::TRAP_ENV.into(), ::trap::routes::address().into());
    }
    let pair =
        |(key, value): (OsString, OsString)| CString::new([key.as_bytes(), b"=", value.as_bytes()].concat());
    Ok(env.into_iter().map(pair).collect::<Result<_, _>>()?)
}

/// A program built with gcc's `-fsanitize=address` would not start where another library comes before the sanitizer's: it works all the same.
fn with_any_order_of_libraries(options: &mut OsString) {
    const OPTION: &[u8] = b"verify_asan_link_order";
    if !options.as_bytes().windows(OPTION.len()).any(|part| part == OPTION) {
        let separator = if options.is_empty() { "" } else { ":" };
        options.push(format!("{separator}verify_asan_link_order=0"));
    }
}

/// Executes the command in this process, or reports why that can't be.
fn become_command(
    argv: &[CString],
    envs: &Envs,
    start: Start,
    show: show::Show,
    snare: trap::Snare,
    mut report: File,
) -> ! {
    let errno = match execute(argv, envs, start, show, snare) {
        Err(errno) => errno,
        Ok(never) => match never {},
    };
    // Whoever reads it has no more to learn if this fails.
    let _ = report.write_all(&(errno as i32).to_ne_bytes());
    // SAFETY: ends this process without running what the broker registered for its own end.
    unsafe { libc::_exit(127) }
}

fn execute(
    argv: &[CString],
    envs: &Envs,
    start: Start,
    show: show::Show,
    snare: trap::Snare,
) -> nix::Result<Infallible> {
    start.restore()?;
    show.begin()?;
    let env = match snare.spring()? {
        Below::Own => &envs.own,
        Below::Outer => &envs.outer,
        Below::Nothing => &envs.alone,
    };
    unistd::execvpe(argv.first().ok_or(Errno::ENOENT)?, argv, env)
}
