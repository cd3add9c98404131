//! Child processes that make a call and report what it answered, while the case watches them sleep.

use std::{
    fs,
    io::{PipeReader, PipeWriter, Read, Write, pipe},
    marker::PhantomData,
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant},
};

use abi::compat::nr;
use serde::{Serialize, de::DeserializeOwned};

use crate::check::{Failure, Outcome};

/// Longer than any machine needs; what takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// A child process that runs one closure and reports its value.
pub(crate) struct Process<T> {
    pid: i32,
    report: PipeReader,
    reaped: bool,
    value: PhantomData<T>,
}

impl<T: Serialize + DeserializeOwned> Process<T> {
    /// Forks a child that reports what `work` answers and exits by `_exit`. It dies with the case.
    pub(crate) fn start(work: impl FnOnce() -> T) -> Outcome<Self> {
        let (report, writer) = pipe().map_err(|error| Failure(format!("pipe: {error}")))?;
        // SAFETY: a case that forks has one thread, so the child may do whatever its parent could.
        match unsafe { libc::fork() } {
            -1 => Err(Failure(format!("fork: {}", std::io::Error::last_os_error()))),
            0 => run_child(writer, work),
            pid => Ok(Process { pid, report, reaped: false, value: PhantomData }),
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits until the task sleeps in the call.
    pub(crate) fn asleep(&self) -> Outcome {
        let end = Instant::now() + PATIENCE;
        let mut seen = 0;
        while seen < 3 {
            seen = if self.sleeps_now() { seen + 1 } else { 0 };
            if Instant::now() > end {
                return Err(Failure(format!(
                    "the task does not come to sleep: {:?} in {}",
                    self.state(),
                    self.whereabouts()
                )));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Gives the task time to do the wrong thing, then answers whether it sleeps.
    pub(crate) fn sleeps_on(&self) -> bool {
        thread::sleep(Duration::from_millis(30));
        self.sleeps_now()
    }

    /// Asleep in an IPC call of the kernel, or in futex(2), by which an implementation in user space sleeps;
    /// restart_syscall(2) is what a futex(2) with a timeout goes on as after a stop.
    fn sleeps_now(&self) -> bool {
        const BLOCKING: [i64; 16] = [
            libc::SYS_msgsnd,
            libc::SYS_msgrcv,
            libc::SYS_mq_timedsend,
            libc::SYS_mq_timedreceive,
            libc::SYS_semop,
            libc::SYS_semtimedop,
            libc::SYS_futex,
            libc::SYS_restart_syscall,
            // As a 32-bit program.
            nr::IPC as i64,
            nr::MSGSND as i64,
            nr::MSGRCV as i64,
            nr::SEMTIMEDOP_TIME64 as i64,
            nr::MQ_TIMEDSEND as i64,
            nr::MQ_TIMEDRECEIVE as i64,
            nr::MQ_TIMEDSEND_TIME64 as i64,
            nr::MQ_TIMEDRECEIVE_TIME64 as i64,
        ];
        let asleep_in = |calls: &[i64]| {
            let number = self.whereabouts().split(' ').next().and_then(|number| number.parse().ok());
            number.is_some_and(|number| calls.contains(&number)) && self.state() == Some('S')
        };
        if asleep_in(&BLOCKING) {
            return true;
        }
        // A stranger waits for its broker, at first for as long as that takes to make the call.
        if !asleep_in(&[libc::SYS_ppoll]) {
            return false;
        }
        thread::sleep(Duration::from_millis(100));
        asleep_in(&[libc::SYS_ppoll])
    }

    fn whereabouts(&self) -> String {
        fs::read_to_string(format!("/proc/{}/syscall", self.pid)).unwrap_or_default()
    }

    /// The letter of /proc/PID/stat: R, S, T, Z…
    fn state(&self) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    /// Waits until the process executes another program of this name.
    pub(crate) fn executes(&self, program: &str) -> Outcome {
        let file = format!("/proc/{}/comm", self.pid);
        let end = Instant::now() + PATIENCE;
        while fs::read_to_string(&file).is_ok_and(|name| name.trim_end() != program) {
            if Instant::now() > end {
                return Err(Failure(format!("no exec of {program}")));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    pub(crate) fn signal(&self, signal: i32) {
        // SAFETY: the child is ours and not yet reaped, so the pid is its own.
        unsafe { libc::kill(self.pid, signal) };
    }

    /// Stops the task and waits until it is stopped.
    pub(crate) fn stop(&self) -> Outcome {
        self.signal(libc::SIGSTOP);
        let end = Instant::now() + PATIENCE;
        while self.state() != Some('T') {
            if Instant::now() > end {
                return Err(Failure("the task does not stop".into()));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Kills the task and waits for its death.
    pub(crate) fn kill(mut self) {
        self.signal(libc::SIGKILL);
        self.reap();
    }

    /// Waits for the report and then for the task's death.
    pub(crate) fn report(mut self) -> Outcome<T> {
        let mut waiting = libc::pollfd { fd: self.report.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd that lives through the call.
        if unsafe { libc::poll(&raw mut waiting, 1, PATIENCE.as_millis() as i32) } != 1 {
            return Err(Failure(format!("the task does not return: in {}", self.whereabouts())));
        }
        let mut text = String::new();
        self.report.read_to_string(&mut text).map_err(|error| Failure(format!("the report: {error}")))?;
        self.reap();
        serde_json::from_str(&text).map_err(|error| Failure(format!("the report {text:?}: {error}")))
    }
}

impl<T> Process<T> {
    fn reap(&mut self) {
        // SAFETY: the child is ours and not yet reaped; no status is asked for.
        unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
        self.reaped = true;
    }
}

/// A case that ends early leaves nobody behind.
impl<T> Drop for Process<T> {
    fn drop(&mut self) {
        if !self.reaped {
            // SAFETY: the child is ours and not yet reaped, so the pid is its own.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
            self.reap();
        }
    }
}

fn run_child<T: Serialize>(mut writer: PipeWriter, work: impl FnOnce() -> T) -> ! {
    // SAFETY: asks only for a signal to ourselves.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let written = serde_json::to_string(&work()).is_ok_and(|text| writer.write_all(text.as_bytes()).is_ok());
    drop(writer);
    // SAFETY: ends the child at once, without the parent's exit handlers.
    unsafe { libc::_exit(i32::from(!written)) }
}
