//! Served namespaces, for tests.

use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{self, Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub(crate) const IPCSPACE: &str = env!("CARGO_BIN_EXE_ipcspace");
/// After this, what should have happened won't.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(20);

pub(crate) fn name(of: &str) -> String {
    format!("test-{of}-{}", process::id())
}

pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < WATCHDOG, "never happened: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A served namespace, which ends with the test at the latest.
pub(crate) struct Served(pub(crate) Child);

impl Served {
    /// Returns once it says that it can be joined.
    pub(crate) fn by(command: &mut Command) -> Served {
        let mut served = Served(command.stderr(Stdio::piped()).spawn().unwrap());
        let mut line = String::new();
        BufReader::new(served.0.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("serving"), "{line}");
        served
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).unwrap();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // In order, so that nothing is kept for a next one.
        if self.0.try_wait().is_ok_and(|status| status.is_none()) {
            self.signal(Signal::SIGTERM);
            self.signal(Signal::SIGCONT);
        }
        let _ = self.0.wait();
    }
}

/// `serve` with these descriptors as a supervisor passes them on.
pub(crate) fn activated(name: &str, passed_on: &[(&str, &OwnedFd)]) -> Command {
    let mut command = Command::new("sh");
    let script = format!("LISTEN_PID=$$ LISTEN_FDS={} exec {IPCSPACE} serve {name}", passed_on.len());
    command.args(["-c", &script]);
    command.env("LISTEN_FDNAMES", passed_on.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(":"));
    let fds: Vec<i32> = passed_on.iter().map(|(_, fd)| fd.as_raw_fd()).collect();
    let mut high = vec![0; fds.len()];
    // SAFETY: between fork and exec only dup2 and fcntl are called. Numbers above all that are to be made come first.
    unsafe {
        command.pre_exec(move || {
            for (high, fd) in high.iter_mut().zip(&fds) {
                *high = nix::libc::fcntl(*fd, nix::libc::F_DUPFD, 500);
            }
            for (number, high) in (3..).zip(&high) {
                nix::libc::dup2(*high, number);
                nix::libc::close(*high);
            }
            Ok(())
        });
    }
    command
}
