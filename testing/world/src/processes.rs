//! The world of real processes.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, io, thread};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll, ppoll};
use nix::sys::signal::{Signal, kill};
use nix::sys::time::TimeSpec;
use nix::unistd::Pid;

use crate::sample::{Look, Servant, Watch, fields_of_stat};
use crate::wire::{self, Channel, Got, Hello};
use crate::worker::{ARGUMENT, Entry, FACTORY, Mode};
use crate::{Call, Reply, SHORT, State, TaskId, Timeout, World};

/// How long a task may take to come to rest, or to be born.
const LIMIT: Duration = Duration::from_secs(10);

/// How a world of processes begins.
#[derive(Debug, Clone)]
pub struct Start {
    executable: PathBuf,
    prefix: Vec<OsString>,
    mode: Mode,
    patient: bool,
    served: bool,
    sleeps_on: bool,
}

impl Start {
    /// On the kernel, in a private IPC namespace (and user namespace, unless started by root).
    ///
    /// # Panics
    /// Where /proc is not mounted.
    pub fn kernel() -> Start {
        let executable = env::current_exe().expect("/proc/self/exe");
        Start {
            executable,
            prefix: Vec::new(),
            mode: Mode { kernel: true, entry: Entry::Symbol },
            patient: false,
            served: false,
            sleeps_on: false,
        }
    }

    /// Below a command that takes a command, such as `ipcspace run --`.
    pub fn below(prefix: impl IntoIterator<Item: Into<OsString>>) -> Start {
        let prefix = prefix.into_iter().map(Into::into).collect();
        Start { prefix, mode: Mode { kernel: false, entry: Entry::Symbol }, ..Start::kernel() }
    }

    /// The calls are made by syscall(2), not by their own symbols.
    pub fn raw(mut self) -> Start {
        self.mode.entry = Entry::Syscall;
        self
    }

    /// The calls are made as by a 32-bit program.
    pub fn compat(mut self) -> Start {
        self.mode.entry = Entry::Int80;
        self
    }

    /// After a death, all that the broker does for it is waited for: which process used a segment last is noted by it.
    pub fn patient(mut self) -> Start {
        self.patient = true;
        self
    }

    /// The calls are made by another process for the tasks, which look asleep meanwhile: it is waited for each time.
    pub fn served(mut self) -> Start {
        self.served = true;
        self
    }

    /// Who makes the calls for the tasks does not notice that one is stopped.
    pub fn sleeping_on(mut self) -> Start {
        self.sleeps_on = true;
        self
    }

    /// The workers are this executable, whose `main` calls
    /// [`run_worker_if_asked`](crate::run_worker_if_asked), instead of the current one.
    pub fn worker(mut self, executable: &Path) -> Start {
        self.executable = executable.to_owned();
        self
    }
}

struct Task {
    pid: i32,
    tid: i32,
    /// Readable when the process has ended.
    process: OwnedFd,
    watch: Watch,
    channel: Channel,
    phase: Phase,
    /// Its call is one that may sleep for ever.
    sleeps: bool,
    /// It has a timeout that is to be waited for.
    expires: bool,
}

#[derive(Debug)]
enum Phase {
    Idle,
    InCall { at_rest: bool },
    Done(Reply),
    Dead,
}

impl Task {
    fn in_call(&self) -> bool {
        matches!(self.phase, Phase::InCall { .. })
    }

    fn process_ended(&self) -> bool {
        let mut fds = [PollFd::new(self.process.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

/// Tasks that are processes and threads.
pub struct Processes {
    listener: UnixListener,
    root: Child,
    tasks: Vec<Task>,
    /// By pid and tid; those of the dead stay.
    numbers: HashMap<i32, TaskId>,
    stopped: HashSet<i32>,
    /// The broker, in a world that has one.
    servant: Option<Servant>,
    /// The kernel's own calls are made.
    kernel: bool,
    patient: bool,
    served: bool,
    sleeps_on: bool,
    /// A task has died, and the servant may not have done all that follows from it.
    mourning: bool,
}

impl Processes {
    /// Starts the first process, which is none of the world's tasks but the parent of those to be spawned.
    ///
    /// # Errors
    /// When the command can't be started.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(start: &Start) -> io::Result<Processes> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let address =
            format!("ipcspace-world-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let listener = wire::listen(&address)?;
        // Short waits are to be short.
        nix::sys::prctl::set_timerslack(1)?;
        let words = start.prefix.iter().cloned().chain([
            start.executable.clone().into(),
            ARGUMENT.into(),
            address.into(),
            FACTORY.to_string().into(),
            start.mode.argument().into(),
        ]);
        let words: Vec<OsString> = words.collect();
        let root = Command::new(&words[0]).args(&words[1..]).spawn()?;
        let mut world = Processes {
            listener,
            root,
            tasks: Vec::new(),
            numbers: HashMap::new(),
            stopped: HashSet::new(),
            servant: None,
            kernel: start.mode.kernel,
            patient: start.patient,
            served: start.served,
            sleeps_on: start.sleeps_on,
            mourning: false,
        };
        world.welcome(FACTORY);
        world.servant = Servant::parent_of(world.tasks[FACTORY as usize].pid);
        Ok(world)
    }

    /// Waits for the first words of a new task, or of one that has executed itself anew.
    fn welcome(&mut self, expected: TaskId) {
        let deadline = Instant::now() + LIMIT;
        while !readable(&self.listener, Duration::from_millis(100)) {
            let ended = self.root.try_wait().expect("waitpid");
            assert!(ended.is_none(), "the first worker ended ({ended:?}) instead of saying hello");
            assert!(Instant::now() < deadline, "task {expected} has not said hello");
        }
        let (stream, _) = self.listener.accept().expect("accept");
        let mut channel = Channel::accepted(stream).expect("nonblocking");
        let hello: Hello = channel.receive().expect("socket").expect("hello");
        assert_eq!(hello.task, expected);
        self.numbers.insert(hello.tid, expected);
        let task = Task {
            pid: hello.pid,
            tid: hello.tid,
            process: pidfd(hello.pid).expect("pidfd_open of a worker"),
            watch: Watch::new(hello.pid, hello.tid).expect("/proc/PID/task/TID of a worker"),
            channel,
            phase: Phase::Idle,
            sleeps: false,
            expires: false,
        };
        match self.tasks.get_mut(expected as usize) {
            Some(old) => *old = task,
            None => self.tasks.push(task),
        }
    }

    fn task(&mut self, task: TaskId) -> &mut Task {
        assert!(task != FACTORY, "task numbers begin at 1");
        self.tasks.get_mut(task as usize).expect("a task of this world")
    }

    fn send(&mut self, task: TaskId, call: &Call) {
        let child = self.tasks.len() as TaskId;
        let worker = &mut self.tasks[task as usize];
        assert!(
            matches!(worker.phase, Phase::Idle),
            "task {task} is to start {call}, but is {:?}",
            worker.phase
        );
        worker.phase = Phase::InCall { at_rest: false };
        worker.sleeps = may_sleep(call);
        worker.expires = timeout_of(call).is_some_and(is_short);
        let sent = worker.channel.send(&wire::Command { call: call.clone(), child });
        if sent.is_err() {
            assert!(worker.process_ended(), "task {task} does not listen");
        }
    }

    /// Sends a call that returns at once, or ends the task, and waits for that.
    fn send_and_wait(&mut self, task: TaskId, call: &Call) -> Option<Reply> {
        self.send(task, call);
        let deadline = Instant::now() + LIMIT;
        loop {
            self.collect();
            match std::mem::replace(&mut self.tasks[task as usize].phase, Phase::Idle) {
                Phase::Done(reply) => return Some(reply),
                Phase::Dead => {
                    self.tasks[task as usize].phase = Phase::Dead;
                    return None;
                }
                phase => self.tasks[task as usize].phase = phase,
            }
            assert!(Instant::now() < deadline, "task {task}: {call} does not return");
            self.wait(Duration::from_micros(200));
        }
    }

    fn birth(&mut self, parent: TaskId, call: &Call) -> Option<Reply> {
        let child = self.tasks.len() as TaskId;
        let reply = self.send_and_wait(parent, call)?;
        if reply.errno == 0 {
            self.welcome(child);
        }
        Some(reply)
    }

    /// Takes the replies that are there and notes who is dead.
    fn collect(&mut self) {
        for task in &mut self.tasks {
            if !task.in_call() {
                continue;
            }
            match task.channel.look() {
                Ok(Got::Frame(reply)) => task.phase = Phase::Done(reply),
                Ok(Got::NothingYet) => {}
                // The end of a task is heard here unless a child holds a copy of its socket.
                Ok(Got::Closed) | Err(_) => {
                    if gone(task) {
                        task.phase = Phase::Dead;
                    }
                }
            }
        }
    }

    /// Waits until a task in a call says something.
    fn wait(&self, time: Duration) {
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(self.tasks.len());
        for task in self.tasks.iter().filter(|task| task.in_call()) {
            fds.push(PollFd::new(task.channel.as_fd(), PollFlags::POLLIN));
        }
        // An interrupted wait is a look too early, which does no harm.
        let _ = ppoll(&mut fds, Some(TimeSpec::from_duration(time)), None);
    }

    /// Is every task that has not replied asleep, for good? Nothing can wake them then but the next call: each
    /// was asleep at the first look and had not run at the second, so there was a moment when all slept.
    fn at_rest(&mut self) -> bool {
        // Whoever makes a call must find a death that it knows of done with, broker or not; only sleepers may
        // hear of it a little later.
        let mourns = self.mourning && (self.patient || self.tasks.iter().any(Task::in_call));
        if !mourns && !self.served {
            return self.tasks_at_rest();
        }
        let Some(servant) = &self.servant else { return self.tasks_at_rest() };
        let Some(first) = servant.look() else { return false };
        let at_rest = self.tasks_at_rest();
        let done = self.servant.as_ref().and_then(Servant::look).is_some_and(|second| second == first);
        self.mourning = !(at_rest && done);
        !self.mourning
    }

    fn tasks_at_rest(&mut self) -> bool {
        let mut first = Vec::new();
        for task in self.tasks.iter_mut().filter(|task| task.in_call() && !self.stopped.contains(&task.pid)) {
            match task.watch.look() {
                // Other calls sleep too, in passing: glibc's setuid waits for the other threads.
                Look::Asleep { .. } if task.expires || !task.sleeps => return false,
                Look::Busy => return false,
                // Who makes its call has not seen it yet.
                Look::Asleep { .. } if self.served && task.watch.has_signals() => return false,
                Look::Gone if gone(task) => task.phase = Phase::Dead,
                Look::Gone => return false,
                asleep => first.push(asleep),
            }
        }
        let sleepers = self.tasks.iter().filter(|task| task.in_call() && !self.stopped.contains(&task.pid));
        sleepers.zip(&first).all(|(task, first)| task.watch.still(*first))
    }

    fn mark(&mut self, resting: bool) {
        for task in &mut self.tasks {
            if let Phase::InCall { at_rest } = &mut task.phase {
                *at_rest = resting;
            }
        }
    }

    /// Notes the end of a whole process.
    fn bury(&mut self, pid: i32) {
        for task in self.tasks.iter_mut().filter(|task| task.pid == pid) {
            task.phase = Phase::Dead;
        }
        self.mourning = true;
        self.stopped.remove(&pid);
    }

    fn wait_for_states(&self, pid: i32, reached: impl Fn(char) -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !states(pid).into_iter().all(&reached) {
            assert!(Instant::now() < deadline, "process {pid} neither stops nor continues");
            thread::sleep(Duration::from_micros(50));
        }
    }
}

impl World for Processes {
    fn spawn(&mut self) -> TaskId {
        let reply = self.birth(FACTORY, &Call::Fork).expect("the first worker is alive");
        reply.ok() as TaskId
    }

    fn start(&mut self, task: TaskId, call: &Call) {
        // The rule of `task`: the factory is no task.
        let pid = self.task(task).pid;
        match call {
            Call::Fork | Call::SpawnThread => {
                if let Some(reply) = self.birth(task, call) {
                    self.task(task).phase = Phase::Done(reply);
                }
            }
            Call::Exec => {
                self.send(task, call);
                self.welcome(task);
                for (number, other) in self.tasks.iter_mut().enumerate() {
                    if other.pid == pid && number != task as usize {
                        other.phase = Phase::Dead;
                    }
                }
                let reply = Reply { ret: 0, errno: 0, data: crate::Data::None };
                self.task(task).phase = Phase::Done(reply);
            }
            Call::Exit => {
                self.send(task, call);
                wait_for_end(self.task(task));
                self.bury(pid);
            }
            Call::ExitThread => {
                self.send(task, call);
                let deadline = Instant::now() + LIMIT;
                while self.task(task).watch.look() != Look::Gone {
                    assert!(Instant::now() < deadline, "thread {task} does not end");
                    thread::yield_now();
                }
                self.task(task).phase = Phase::Dead;
                self.mourning = true;
            }
            _ => self.send(task, call),
        }
    }

    fn settle(&mut self) {
        let began = Instant::now();
        let mut patience = Duration::from_micros(40);
        loop {
            self.collect();
            let fresh = self.tasks.iter().any(|task| matches!(task.phase, Phase::InCall { at_rest: false }));
            // The usual case, a call that returns, is worth a wait before the dearer look at everybody.
            let early = fresh && patience == Duration::from_micros(40);
            if !early && self.at_rest() {
                return self.mark(true);
            }
            if began.elapsed() > LIMIT {
                return self.mark(false);
            }
            self.wait(patience);
            patience = (patience * 2).min(Duration::from_millis(1));
        }
    }

    fn poll(&mut self, task: TaskId) -> State {
        let task = task as usize;
        assert!(task != FACTORY as usize, "task numbers begin at 1");
        if matches!(self.tasks[task].phase, Phase::Done(_)) {
            let Phase::Done(reply) = std::mem::replace(&mut self.tasks[task].phase, Phase::Idle) else {
                unreachable!()
            };
            return State::Done(reply);
        }
        match self.tasks[task].phase {
            Phase::Dead => State::Dead,
            _ if self.stopped.contains(&self.tasks[task].pid) => State::Stopped,
            Phase::Idle | Phase::Done(_) => State::Idle,
            Phase::InCall { at_rest: true } => State::Blocked,
            Phase::InCall { at_rest: false } => State::Running,
        }
    }

    fn kill(&mut self, task: TaskId) {
        let victim = self.task(task);
        let pid = victim.pid;
        if matches!(victim.phase, Phase::Dead) && victim.process_ended() {
            return;
        }
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill");
        wait_for_end(self.task(task));
        self.bury(pid);
        self.mark(false);
    }

    fn signal(&mut self, task: TaskId, signal: i32) {
        let Task { pid, tid, .. } = *self.task(task);
        // SAFETY: no pointers.
        let sent = unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, signal) };
        assert!(sent == 0, "tgkill: {}", io::Error::last_os_error());
        match signal {
            libc::SIGSTOP => {
                self.wait_for_states(pid, |state| state == 'T');
                self.stopped.insert(pid);
            }
            libc::SIGCONT => {
                self.wait_for_states(pid, |state| state != 'T');
                self.stopped.remove(&pid);
            }
            _ => {}
        }
        self.mark(false);
    }

    fn stops_sleepers(&self) -> bool {
        // A preloaded library's sleep, a futex(2), does not notice a stop.
        self.kernel || self.served && !self.sleeps_on
    }

    fn task_of(&self, pid: i32) -> Option<TaskId> {
        self.numbers.get(&pid).copied()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        // The factory hears the end of its channel and kills its whole group.
        self.tasks.clear();
        let deadline = Instant::now() + LIMIT;
        while matches!(self.root.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                eprintln!("world: the first worker's command does not end; killed. Left are");
                descendants(self.root.id()).iter().for_each(|line| eprintln!("world:   {line}"));
                let _ = self.root.kill();
                let _ = self.root.wait();
                return;
            }
            thread::sleep(Duration::from_micros(200));
        }
    }
}

fn may_sleep(call: &Call) -> bool {
    let untimed = matches!(call, Call::Msgsnd { .. } | Call::Msgrcv { .. } | Call::Semop { .. });
    untimed || timeout_of(call).is_some()
}

fn timeout_of(call: &Call) -> Option<&Timeout> {
    match call {
        Call::Semtimedop { timeout, .. }
        | Call::MqTimedsend { timeout, .. }
        | Call::MqTimedreceive { timeout, .. } => Some(timeout),
        _ => None,
    }
}

fn is_short(timeout: &Timeout) -> bool {
    let Timeout { ptr, sec, nsec } = *timeout;
    ptr == crate::Ptr::Valid && sec == 0 && (0..SHORT.as_nanos() as i64).contains(&nsec)
}

fn gone(task: &Task) -> bool {
    task.process_ended() || task.watch.look() == Look::Gone
}

fn wait_for_end(task: &Task) {
    let mut fds = [PollFd::new(task.process.as_fd(), PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(LIMIT).expect("a few seconds");
    let ended = poll(&mut fds, limit).expect("poll of a pidfd");
    assert!(ended > 0, "process {} does not end", task.pid);
}

fn readable(listener: &UnixListener, time: Duration) -> bool {
    let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(time).expect("a short time");
    poll(&mut fds, limit).is_ok_and(|ready| ready > 0)
}

fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// A process and all below it, each with its state and the system call it is in.
fn descendants(pid: u32) -> Vec<String> {
    let of = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let mut lines =
        vec![format!("{} | {} | {}", of("stat").trim_end(), of("wchan"), of("syscall").trim_end())];
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    for thread in threads {
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        lines.extend(children.split_whitespace().filter_map(|pid| pid.parse().ok()).flat_map(descendants));
    }
    lines
}

/// The state letter of each thread of a process.
fn states(pid: i32) -> Vec<char> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let state = |thread: io::Result<fs::DirEntry>| {
        let stat = fs::read_to_string(thread.ok()?.path().join("stat")).ok()?;
        Some(fields_of_stat(&stat)?.0)
    };
    threads.filter_map(state).collect()
}
