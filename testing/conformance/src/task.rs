//! What a case does besides its calls: child tasks that make a call and report what it answered, while the case
//! watches them sleep; other identities, threads, time. Each of it in processes, or on the simulated machine.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Serialize, de::DeserializeOwned};

use crate::Door;
use crate::check::{Failure, Outcome};
use crate::process::Process;
use crate::simulated::{Child, simulation};

/// A child process that runs one closure and reports its value. It dies with the case.
pub(crate) enum Task<T> {
    Process(Process<T>),
    Simulated(Child<T>),
}

impl<T: Serialize + DeserializeOwned + 'static> Task<T> {
    /// Forks a child that reports what `work` answers and then exits.
    pub(crate) fn start(work: impl FnOnce() -> T + 'static) -> Outcome<Self> {
        match simulation() {
            Some(simulation) => Ok(Task::Simulated(simulation.fork(work))),
            None => Process::start(work).map(Task::Process),
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        match self {
            Task::Process(process) => process.pid(),
            Task::Simulated(child) => child.tid().cast_signed(),
        }
    }

    /// Waits until the task sleeps in the call.
    pub(crate) fn asleep(&self) -> Outcome {
        match self {
            Task::Process(process) => process.asleep(),
            Task::Simulated(child) if child.is_asleep() => Ok(()),
            Task::Simulated(child) => {
                Err(Failure(format!("the task does not come to sleep: {}", child.whereabouts())))
            }
        }
    }

    /// Gives the task time to do the wrong thing, then answers whether it sleeps.
    pub(crate) fn sleeps_on(&self) -> bool {
        match self {
            Task::Process(process) => process.sleeps_on(),
            Task::Simulated(child) => child.is_asleep(),
        }
    }

    pub(crate) fn signal(&self, signal: i32) {
        match self {
            Task::Process(process) => process.signal(signal),
            Task::Simulated(child) => child.signal(signal),
        }
    }

    /// Stops the task and waits until it is stopped.
    pub(crate) fn stop(&self) -> Outcome {
        match self {
            Task::Process(process) => process.stop(),
            Task::Simulated(child) => {
                child.signal(libc::SIGSTOP);
                Ok(())
            }
        }
    }

    /// Waits until the task has become [`execute_sleep`]'s program.
    pub(crate) fn executes_sleep(&self) -> Outcome {
        match self {
            Task::Process(process) => process.executes("sleep"),
            Task::Simulated(_) => {
                let_others_run();
                Ok(())
            }
        }
    }

    /// Kills the task and waits for its death.
    pub(crate) fn kill(self) {
        match self {
            Task::Process(process) => process.kill(),
            Task::Simulated(child) => child.signal(libc::SIGKILL),
        }
    }

    /// Waits for the report and then for the task's death.
    pub(crate) fn report(self) -> Outcome<T> {
        match self {
            Task::Process(process) => process.report(),
            Task::Simulated(child) => Ok(child.join()),
        }
    }
}

/// A thread of this process that runs one closure.
pub(crate) enum Thread<T> {
    System(thread::JoinHandle<T>),
    Simulated(Child<T>),
}

impl<T: Send + 'static> Thread<T> {
    pub(crate) fn start(work: impl FnOnce() -> T + Send + 'static) -> Self {
        match simulation() {
            Some(simulation) => Thread::Simulated(simulation.thread(work)),
            None => Thread::System(thread::spawn(work)),
        }
    }

    /// Waits for its end, and what it answers.
    pub(crate) fn join(self) -> Option<T> {
        match self {
            Thread::System(thread) => thread.join().ok(),
            Thread::Simulated(child) => Some(child.join()),
        }
    }
}

/// The running process's id.
pub(crate) fn own_pid() -> i32 {
    simulation().map_or_else(std::process::id, |simulation| simulation.pid()).cast_signed()
}

/// The running thread's id.
pub(crate) fn own_tid() -> i32 {
    match simulation() {
        Some(simulation) => simulation.tid().cast_signed(),
        // SAFETY: asks for a number.
        None => unsafe { libc::gettid() },
    }
}

/// Gives the others time to come as far as they can.
pub(crate) fn let_others_run() {
    match simulation() {
        Some(simulation) => simulation.rest(),
        None => thread::sleep(Duration::from_millis(100)),
    }
}

/// A moment on the clock that timeouts are counted by.
pub(crate) enum Moment {
    System(Instant),
    Simulated(u64),
}

impl Moment {
    pub(crate) fn now() -> Self {
        match simulation() {
            Some(simulation) => Moment::Simulated(simulation.machine(|machine| machine.now_ns())),
            None => Moment::System(Instant::now()),
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        match (self, Moment::now()) {
            (Moment::System(then), _) => then.elapsed(),
            (Moment::Simulated(then), Moment::Simulated(now)) => Duration::from_nanos(now - then),
            (Moment::Simulated(_), Moment::System(_)) => Duration::ZERO,
        }
    }
}

/// Seconds, by the coarse clock from which the stamps come.
pub(crate) fn now() -> i64 {
    if let Some(simulation) = simulation() {
        return simulation.machine(|machine| machine.now());
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the timespec lives through the call.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME_COARSE, &raw mut time) };
    time.tv_sec
}

/// Becomes another program, which sleeps.
pub(crate) fn execute_sleep() -> ! {
    if let Some(simulation) = simulation() {
        simulation.execute_sleep();
    }
    let error = Command::new("/bin/sleep").arg("1000").exec();
    panic!("/bin/sleep: {error}");
}

/// The doors whose tasks are processes, of which any thread can execute a program; but for strangers, whose connections are closed a moment later.
pub(crate) const PROCESSES: &[Door] =
    &[Door::Kernel, Door::Preload, Door::Trap, Door::Kernel32, Door::Trap32, Door::Api];

/// A child whose first thread was asleep in `call` when another one, which had done `before`, became [`execute_sleep`]'s program.
pub(crate) fn executed_while_asleep<B, C>(
    before: impl FnOnce() -> B + Send + 'static,
    call: impl FnOnce() -> C + 'static,
) -> Outcome<Task<()>> {
    const GO: i32 = libc::SIGUSR1;
    let task = Task::start(move || {
        block(GO);
        let (done, is_done) = mpsc::channel();
        thread::spawn(move || {
            before();
            let _ = done.send(());
            // SAFETY: the set is initialised by libc before it is used, and there is room for a number.
            unsafe {
                let (mut set, mut signal) = (std::mem::zeroed(), 0);
                libc::sigemptyset(&raw mut set);
                libc::sigaddset(&raw mut set, GO);
                libc::sigwait(&raw const set, &raw mut signal);
            }
            execute_sleep()
        });
        let _ = is_done.recv();
        call();
    })?;
    task.asleep()?;
    task.signal(GO);
    task.executes_sleep()?;
    Ok(task)
}

/// Sleeps until a signal ends the process.
pub(crate) fn sleep_for_ever() -> ! {
    if let Some(simulation) = simulation() {
        simulation.sleep_for_ever();
    }
    loop {
        thread::park();
    }
}

/// Installs a handler that does nothing.
pub(crate) fn handle(signal: i32, flags: i32) {
    extern "C" fn nothing(_: i32) {}
    if let Some(simulation) = simulation() {
        simulation.machine(|machine| machine.handle(simulation.tid(), signal, flags & libc::SA_RESTART != 0));
        return;
    }
    // SAFETY: all zeroes is a valid sigaction, and the handler touches nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(i32) as usize;
        action.sa_flags = flags;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut());
    }
}

/// Sets the bits that new files are not to have.
pub(crate) fn umask(mask: u32) {
    if let Some(simulation) = simulation() {
        simulation.machine(|machine| machine.umask(simulation.tid(), mask));
        return;
    }
    // SAFETY: passes a number.
    unsafe { libc::umask(mask) };
}

/// Blocks a signal, so that [`take_notice`] finds it.
pub(crate) fn block(signal: i32) {
    if simulation().is_none() {
        // SAFETY: the set is initialised by libc before it is used.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, signal);
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        }
    }
}

/// The signal of a notification that has come while it was blocked: its code, value, and the sender's process and user.
pub(crate) fn take_notice(signal: i32) -> Option<(i32, usize, i32, u32)> {
    if let Some(simulation) = simulation() {
        let notice = simulation.machine(|machine| machine.take_notice(simulation.tid()))?;
        return (notice.signo == signal).then_some((
            abi::mqueue::SI_MESGQ,
            notice.value as usize,
            notice.from_pid.cast_signed(),
            notice.from_uid,
        ));
    }
    // SAFETY: the set is initialised by libc before it is used, and the kernel fills the siginfo if it answers a signal.
    unsafe {
        let (mut set, mut info): (libc::sigset_t, libc::siginfo_t) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        let soon = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let came = libc::sigtimedwait(&raw const set, &raw mut info, &raw const soon);
        (came == signal).then(|| {
            (info.si_code, info.si_value().sival_ptr.expose_provenance(), info.si_pid(), info.si_uid())
        })
    }
}

/// The effective identity from now on, with exactly these supplementary groups.
pub(crate) fn become_user(uid: u32, gid: u32, groups: &[u32]) {
    if let Some(simulation) = simulation() {
        return simulation.become_user(uid, gid, Some(groups));
    }
    // SAFETY: the slice lives through the call; the rest passes numbers only.
    let done =
        unsafe { [libc::setgroups(groups.len(), groups.as_ptr()), libc::setegid(gid), libc::seteuid(uid)] };
    assert_eq!(done, [0, 0, 0], "root can take another identity");
}

/// Another user for good, whose queues are nobody else's: what a user has is counted by the real one.
pub(crate) fn become_for_good(uid: u32) {
    if let Some(simulation) = simulation() {
        return simulation.become_for_good(uid);
    }
    // SAFETY: passes numbers only.
    assert_eq!(unsafe { libc::setresuid(uid, uid, uid) }, 0, "root can become another user");
}

/// Another user, really and in effect; the saved one stays root.
pub(crate) fn become_really(uid: u32) {
    if let Some(simulation) = simulation() {
        return simulation.become_for_good(uid);
    }
    // SAFETY: passes numbers only.
    assert_eq!(unsafe { libc::setresuid(uid, uid, 0) }, 0, "root can become another user");
}

/// Sets `RLIMIT_MEMLOCK`.
pub(crate) fn limit_locked_memory(bytes: u64) {
    if let Some(simulation) = simulation() {
        simulation.machine(|machine| machine.limit_locked_memory(simulation.tid(), bytes));
        return;
    }
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: a limit that lives through the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) }, 0, "setrlimit");
}

/// Root again.
pub(crate) fn become_root() {
    if let Some(simulation) = simulation() {
        return simulation.become_user(0, 0, None);
    }
    // SAFETY: passes numbers only.
    let done = unsafe { [libc::seteuid(0), libc::setegid(0)] };
    assert_eq!(done, [0, 0], "the saved identity is root's");
}

/// A right that root has, by its number.
#[derive(Clone, Copy)]
pub(crate) enum Capability {
    DacOverride = 1,
    DacReadSearch = 2,
    IpcLock = 14,
    IpcOwner = 15,
    SysAdmin = 21,
}

/// The effective capabilities from now on, whoever it is: this one of them, or none.
pub(crate) fn have_only(capability: Option<Capability>) {
    const VERSION_3: u32 = 0x2008_0522;
    let wanted = capability.map_or(0, |capability| 1 << capability as u32);
    if let Some(simulation) = simulation() {
        return simulation.have_only(wanted.into());
    }
    unsafe extern "C" {
        fn capget(header: *mut [u32; 2], sets: *mut [[u32; 3]; 2]) -> libc::c_int;
        fn capset(header: *mut [u32; 2], sets: *const [[u32; 3]; 2]) -> libc::c_int;
    }
    let (mut header, mut sets) = ([VERSION_3, 0], [[0; 3]; 2]);
    // SAFETY: a header and room for the two halves of version 3.
    let got = unsafe { capget(&raw mut header, &raw mut sets) };
    // The effective ones of both halves; what is permitted stays.
    (sets[0][0], sets[1][0]) = (wanted, 0);
    // SAFETY: as above.
    let set = unsafe { capset(&raw mut header, &raw const sets) };
    assert_eq!((got, set), (0, 0), "what is permitted can be made effective");
}

/// Waits for something that comes by itself, for seconds at most.
pub(crate) fn wait_until(mut done: impl FnMut() -> Outcome<bool>) -> Outcome {
    for _ in 0..5000 {
        if done()? {
            return Ok(());
        }
        match simulation() {
            Some(simulation) => simulation.rest(),
            None => thread::sleep(Duration::from_millis(1)),
        }
    }
    Err(Failure("it does not come to that".into()))
}
