//! Signals, as far as sleeping calls feel them.
//!
//! What users see: a handler ends every sleep with `EINTR`, whatever its flags, but for POSIX messages with `SA_RESTART`. A stop takes sleeping messages' calls
//! out of their line; they queue up again when the process goes on, unless a handler runs first. Operations on
//! semaphores end with `EINTR` then. Without a handler a signal ends the process, or is ignored.

use crate::machine::{Handler, Interruption};
use crate::{Machine, Memory, Tid};

/// Ends the process.
pub const SIGKILL: i32 = 9;
/// Lets the process go on.
pub const SIGCONT: i32 = 18;
/// Stops the process.
pub const SIGSTOP: i32 = 19;
/// `SIGCHLD SIGCONT SIGURG SIGWINCH`: without a handler nothing happens.
const IGNORED: [i32; 4] = [17, SIGCONT, 23, 28];

impl<M: Memory> Machine<M> {
    /// Installs a handler that does nothing but count. Returns how often the process's handlers have run.
    ///
    /// # Panics
    /// If the thread is dead.
    pub fn handle(&mut self, tid: Tid, signal: i32, restarts: bool) -> u64 {
        let mut handlers = self.process(tid).handlers.borrow_mut();
        handlers.entry(signal).or_default().restarts = restarts;
        handlers.values().map(|handler| handler.runs).sum()
    }

    /// Sends a signal to the thread, as tgkill(2).
    ///
    /// # Panics
    /// If it is dead.
    pub fn signal(&mut self, tid: Tid, signal: i32) {
        let pid = self.pid(tid);
        match signal {
            SIGKILL => self.exit(tid),
            SIGSTOP => self.stop(pid),
            SIGCONT => self.go_on_all(pid, tid),
            _ if self.process(tid).stopped.get() => {
                self.process(tid).pending.borrow_mut().push((tid, signal))
            }
            _ => {
                self.deliver(tid, signal);
            }
        }
        self.run_woken();
    }

    fn stop(&mut self, pid: u32) {
        let threads: Vec<Tid> = self.threads_of(pid).collect();
        for tid in threads {
            self.interrupt(tid, Interruption::Stop);
        }
        if let Some(process) = self.processes.get(&pid) {
            process.stopped.set(true);
        }
    }

    fn go_on_all(&mut self, pid: u32, to: Tid) {
        let process = self.process(to);
        process.stopped.set(false);
        let pending = process.pending.take();
        let mut handled: Vec<(Tid, Interruption)> = Vec::new();
        for (tid, signal) in pending.into_iter().chain([(to, SIGCONT)]) {
            if self.processes.contains_key(&pid)
                && self.threads_of(pid).any(|own| own == tid)
                && let Some(by) = self.deliver(tid, signal)
            {
                handled.push((tid, by));
            }
        }
        let threads: Vec<Tid> = self.threads_of(pid).collect();
        for tid in threads {
            let by = handled.iter().find(|(handler, _)| *handler == tid).map(|(_, by)| *by);
            self.go_on(tid, by);
        }
    }

    /// What the signal does to a thread that is not stopped; how, if a handler has run.
    fn deliver(&mut self, tid: Tid, signal: i32) -> Option<Interruption> {
        let handler = self.process(tid).handlers.borrow_mut().get_mut(&signal).map(|handler| {
            handler.runs += 1;
            *handler
        });
        if let Some(Handler { restarts, .. }) = handler {
            let by = if restarts { Interruption::RestartingHandler } else { Interruption::Handler };
            self.interrupt(tid, by);
            return Some(by);
        }
        if !IGNORED.contains(&signal) {
            self.exit(tid);
        }
        None
    }
}
