//! The front of a `run`: the process that the shell sees in the place of the command.
//!
//! It stops when the command stops, goes on when it is told to, hands on the signals that were meant for it, and ends
//! as the command ended. It owns nothing of the namespace, and survives the broker: as a child subreaper it inherits the command.
//! Of what `run` was started with it keeps stderr only, for what the user shall know.
//!
//! Signals of the terminal reach the command by the process group, so the front drops them; and those that were sent from within
//! the command's own tree, where `kill 0` is meant for the group. One sent from outside to the whole group arrives at the command
//! twice, as nothing tells it from one sent to the front.

use std::io::{self, Write};
use std::iter;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};

use super::os::{self, Child};
use super::start::{Start, let_go_of_inherited};
use super::wire::{Event, Link, Request};
use super::{Failure, Outcome};

/// Signals that a terminal sends to its foreground process group.
const OF_TERMINAL: [i32; 7] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU, libc::SIGWINCH];
/// How long the broker has, once the user wants an end, to begin with the command.
const GRACE: Duration = Duration::from_millis(200);
/// si_code of a signal that the kernel sent.
const SI_KERNEL: i32 = 0x80;

/// Sees the command through, and returns how it ended.
pub(super) fn attend(link: Link, broker: i32, start: Start) -> Result<Outcome, Failure> {
    let mut front = Front::new(link, broker, start)?;
    loop {
        let (signalled, told) = front.wait()?;
        if signalled {
            while let Some(info) = front.signals.read_signal()? {
                front.pass_on(&info);
            }
        }
        if let Some(outcome) = front.give_up() {
            return Ok(outcome);
        }
        if told && let Some(outcome) = front.follow()? {
            return Ok(outcome);
        }
        if front.link.is_none()
            && let Some(outcome) = front.stand_in()?
        {
            return Ok(outcome);
        }
    }
}

struct Front {
    /// `None` once the broker has died.
    link: Option<Link>,
    broker: i32,
    /// The process that is the command, or becomes it.
    command: Option<i32>,
    /// The serial of the last stop of the command that the broker told of.
    stops_seen: i32,
    signals: SignalFd,
    start: Start,
    /// A signal that would have ended the command, had there been one, and until when there may be.
    unheard: Option<(i32, Instant)>,
}

impl Front {
    fn new(link: Link, broker: i32, start: Start) -> nix::Result<Front> {
        let signals = SignalFd::with_flags(&SigSet::all(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Front { link: Some(link), broker, command: None, stops_seen: 0, signals, start, unheard: None })
    }

    /// Whether there is a signal, and whether the broker has something to say.
    fn wait(&self) -> nix::Result<(bool, bool)> {
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.link.as_ref().map(|link| PollFd::new(link.as_fd(), PollFlags::POLLIN)));
        let left = self.unheard.map(|(_, until)| until.saturating_duration_since(Instant::now()));
        poll(&mut fds, os::timeout(left))?;
        let ready = |index: usize| fds.get(index).is_some_and(|fd| fd.any().unwrap_or(true));
        Ok((ready(0), ready(1)))
    }

    /// Hands a signal on, if it was meant for the command and has not reached it already.
    fn pass_on(&mut self, info: &siginfo) {
        let signal = info.ssi_signo as i32;
        if signal == libc::SIGCONT {
            return self.request(Request::Continue { serial: self.stops_seen });
        }
        if self.is_no_news(info) {
            return;
        }
        let value = (info.ssi_code == libc::SI_QUEUE).then_some(info.ssi_ptr);
        self.request(Request::Signal { signal, value, serial: self.stops_seen });
        if self.command.is_none() && self.start.is_ended_by(signal) {
            self.unheard.get_or_insert((signal, Instant::now() + GRACE));
        }
    }

    /// Ends all if a signal that ends commands came, and there is none: whoever is asked to join a namespace may be stopped.
    fn give_up(&mut self) -> Option<Outcome> {
        let (signal, until) = self.unheard?;
        if self.command.is_some() {
            self.unheard = None;
            return None;
        }
        (Instant::now() >= until).then(|| {
            os::signal(self.broker, libc::SIGKILL, None);
            os::reap(self.broker);
            Outcome::from_status(signal)
        })
    }

    /// Whether a signal is no business of the command, or is known to have reached it.
    fn is_no_news(&self, info: &siginfo) -> bool {
        let signal = info.ssi_signo as i32;
        if signal == libc::SIGCHLD && info.ssi_code > 0 {
            return true;
        }
        match info.ssi_code {
            // Before there is a command, nothing of the terminal can have reached it.
            SI_KERNEL => {
                self.command.is_some() && OF_TERMINAL.contains(&signal) && !is_hangup_of_leader(signal)
            }
            libc::SI_USER | libc::SI_QUEUE | libc::SI_TKILL => self.is_within(info.ssi_pid as i32),
            _ => false,
        }
    }

    /// Whether a process is the command, or was started by it.
    fn is_within(&self, pid: i32) -> bool {
        let mut ancestors = iter::successors(Some(pid), |&pid| os::parent(pid).filter(|&pid| pid > 1));
        ancestors.any(|pid| pid == self.broker || Some(pid) == self.command)
    }

    fn request(&self, request: Request) {
        match (&self.link, self.command, request) {
            (Some(link), _, request) => link.send(&request),
            (None, Some(command), Request::Signal { signal, value, .. }) => {
                os::signal(command, signal, value)
            }
            (None, Some(command), Request::Continue { .. }) => os::signal(command, libc::SIGCONT, None),
            (None, None, _) => {}
        }
    }

    /// Takes what the broker says; the outcome if that was the end.
    fn follow(&mut self) -> Result<Option<Outcome>, Failure> {
        let Some(link) = &self.link else { return Ok(None) };
        match link.receive()? {
            Some(Event::Failed(why)) => {
                os::reap(self.broker);
                return Err(Failure::Namespace(why));
            }
            Some(Event::CannotExec(errno)) => {
                os::reap(self.broker);
                return Ok(Some(Outcome::CannotExec(errno)));
            }
            Some(Event::Forked(pid)) => self.command = Some(pid),
            // Its own words go where the command's do; it ends with the command, so no pipe is open for longer.
            Some(Event::Started) => let_go_of_inherited(&[libc::STDERR_FILENO])?,
            Some(Event::Warning(what)) => warn(&what),
            Some(Event::Stopped { signal, serial }) => {
                self.stops_seen = serial;
                self.stop(signal);
            }
            Some(Event::Ended { status, last }) => {
                if last {
                    os::reap(self.broker);
                }
                return Ok(Some(Outcome::from_status(status)));
            }
            None => {
                // Only with its death are its children ours.
                os::reap(self.broker);
                self.link = None;
                if self.command.is_none() {
                    return Err(Failure::BrokerDied);
                }
            }
        }
        Ok(None)
    }

    /// Stops as the command did, until somebody continues the front.
    fn stop(&self, signal: i32) {
        os::suffer(signal);
        if !os::is_pending(libc::SIGCONT) {
            // The signals of job control do nothing to an orphaned process group.
            os::suffer(libc::SIGSTOP);
        }
        self.request(Request::Continue { serial: self.stops_seen });
    }

    /// Does the broker's part for the command when the broker has died.
    fn stand_in(&self) -> Result<Option<Outcome>, Failure> {
        loop {
            match os::next_child() {
                Child::Changed { pid, status } if Some(pid) == self.command => {
                    if libc::WIFSTOPPED(status) {
                        self.stop(libc::WSTOPSIG(status));
                    } else if !libc::WIFCONTINUED(status) {
                        return Ok(Some(Outcome::from_status(status)));
                    }
                }
                Child::Changed { .. } => {}
                Child::Quiet => return Ok(None),
                Child::None => return Err(Failure::CommandLost),
            }
        }
    }
}

/// Says something to the user, unless that would have to wait: the command's signals can't.
fn warn(what: &str) {
    let stderr = io::stderr();
    let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0) {
        let line = format!("ipcspace: warning: {what}\n");
        // Nobody can be told that nobody could be told.
        let _ = (&stderr).write_all(line.as_bytes());
    }
}

/// A terminal that hangs up tells the session's leader alone; a front in that place has to pass it on.
fn is_hangup_of_leader(signal: i32) -> bool {
    signal == libc::SIGHUP && nix::unistd::getsid(None) == Ok(nix::unistd::getpid())
}
