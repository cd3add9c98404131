//! The machine: its processes and threads, and what they do.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::BTreeMap;
use std::rc::Rc;

use abi::{Errno, Result, time::Clock};
use arena::{
    ArenaError, Ctx, Handle, Usage,
    sync::{AtomicU32, Ordering::*},
};
use engine::{
    Begun, Call, Cause, Deadline, Descriptors as _, IpcNamespace, Notice, Outcome, Syscall,
    ipc_sysctl::Sysctl,
    mqueue,
    options::SYSVIPC,
    proc::{Line, Sysvipc},
    reap, shm,
    util::arena_errno,
};

use crate::address_space::{AddressSpace, Gone};
use crate::cpu::{Cpu, Credentials, Files, Hardware, free_number};
use crate::schedule::Schedule;

/// A thread's number; the first thread of a process has the process's.
pub type Tid = u32;

/// The memory of a process. A fork clones it.
pub trait Memory: Clone + 'static {
    /// Copies from an address.
    ///
    /// # Errors
    /// `EFAULT`, maybe after part of it.
    fn read(&self, from: u64, to: &mut [u8]) -> Result<()>;
    /// Copies to an address.
    ///
    /// # Errors
    /// `EFAULT`, maybe after part of it.
    fn write(&mut self, to: u64, bytes: &[u8]) -> Result<()>;
    /// Where segments are attached. What is there is read and written as all else.
    fn space(&mut self) -> &mut AddressSpace;
}

/// What a thread is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is in no call.
    Idle,
    /// It is in the middle of its call, and waits for its turn: [`Machine::turn`].
    Running,
    /// Its call has returned this; [`Machine::take`] makes it idle again.
    Returned(Result<i64>),
    /// It sleeps inside its call.
    Asleep,
    /// Its process is stopped.
    Stopped,
    /// It has ended.
    Dead,
}

/// What a signal's handler is, and how often it has run.
#[derive(Clone, Copy, Default)]
pub(crate) struct Handler {
    pub(crate) runs: u64,
    pub(crate) restarts: bool,
}

pub(crate) struct Process<M> {
    pub(crate) slot: Handle,
    pub(crate) memory: RefCell<M>,
    pub(crate) credentials: RefCell<Credentials>,
    pub(crate) stopped: Cell<bool>,
    /// For each signal that has a handler.
    pub(crate) handlers: RefCell<BTreeMap<i32, Handler>>,
    pub(crate) files: RefCell<Files>,
    pub(crate) umask: Cell<u32>,
    /// `RLIMIT_MEMLOCK`, bytes.
    pub(crate) memlock: Cell<u64>,
    /// Pieces of segments that were unmapped, and that the engine has not been told of.
    pub(crate) gone: RefCell<Vec<Gone>>,
    /// Notifications that came by a signal without a handler, which waits to be taken.
    notices: RefCell<Vec<Notice>>,
    /// Signals that wait for the process to go on: to which thread, and which.
    pub(crate) pending: RefCell<Vec<(Tid, i32)>>,
}

impl<M> Process<M> {
    fn new(slot: Handle, memory: M) -> Process<M> {
        Process {
            slot,
            memory: RefCell::new(memory),
            credentials: RefCell::default(),
            stopped: Cell::new(false),
            handlers: RefCell::default(),
            files: RefCell::default(),
            umask: Cell::new(DEFAULT_UMASK),
            memlock: Cell::new(u64::MAX),
            gone: RefCell::default(),
            notices: RefCell::default(),
            pending: RefCell::default(),
        }
    }
}

struct Thread {
    pid: u32,
    slot: Handle,
    doing: Doing,
}

/// What a thread does, and what its calls come to.
#[derive(Clone, Copy)]
pub(crate) enum Doing {
    Nothing,
    /// In the middle of a call.
    Running,
    /// A sleep, the word it is woken on, and when it ends.
    Sleeping {
        call: Syscall,
        word: usize,
        deadline: Option<Deadline>,
    },
    /// A stop has interrupted it, and it begins anew when the process goes on.
    Suspended(Syscall),
    Returned(Result<i64>),
}

/// What ends a sleep before its time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interruption {
    /// The process is stopped.
    Stop,
    /// A handler ran.
    Handler,
    /// A handler ran that was installed with `SA_RESTART`.
    RestartingHandler,
}

/// Whether a call begins anew after an interruption.
fn restarts(call: &Syscall, by: Interruption) -> bool {
    match call {
        Syscall::Msgsnd(_) | Syscall::Msgrcv(_) => by == Interruption::Stop,
        Syscall::MqTimedsend(_) | Syscall::MqTimedreceive(_) => by != Interruption::Handler,
        // Operations on semaphores end with EINTR whatever the signal does.
        _ => false,
    }
}

/// A machine with one namespace.
pub struct Machine<M> {
    pub(crate) hardware: Rc<Hardware>,
    /// The machine itself, which reaps the dead: its thread slot.
    own_slot: Handle,
    /// Has no memory.
    init: Process<AddressSpace>,
    pub(crate) processes: BTreeMap<u32, Rc<Process<M>>>,
    threads: BTreeMap<Tid, Thread>,
    next: u32,
}

/// The machine's own number.
const INIT: u32 = 1;
/// What every process's mask is at first.
const DEFAULT_UMASK: u32 = 0o022;
/// How long a call takes.
const CALL_NS: u64 = 1000;

impl<M: Memory> Machine<M> {
    /// A machine with an empty namespace, on which nothing is left to chance. Its owner is root, who has all capabilities but maybe `CAP_SYS_RESOURCE`.
    ///
    /// # Panics
    /// If there is no memory for it.
    pub fn new(sys_resource: bool) -> Machine<M> {
        Machine::with_schedule(sys_resource, Schedule::in_order())
    }

    /// The same, with a schedule.
    ///
    /// # Panics
    /// If there is no memory for it.
    pub fn with_schedule(sys_resource: bool, schedule: Schedule) -> Machine<M> {
        let mut machine = Machine {
            hardware: Rc::new(Hardware::new(sys_resource, schedule)),
            own_slot: Handle::NULL,
            init: Process::new(Handle::NULL, AddressSpace::default()),
            processes: BTreeMap::new(),
            threads: BTreeMap::new(),
            next: INIT + 1,
        };
        machine.hardware.alive.borrow_mut().insert(INIT);
        let cpu = machine.init_cpu();
        let founded = Ctx::format(&machine.hardware.arena, &cpu).map_err(arena_errno).and_then(|ctx| {
            IpcNamespace::of(ctx.arena, ctx.host)?.init(0, true);
            Ok(ctx.slot.handle())
        });
        machine.own_slot = founded.expect("memory for a namespace");
        machine
    }

    /// A process of root, child of no other.
    ///
    /// # Panics
    /// If there is no memory for it.
    pub fn spawn(&mut self, memory: M) -> Tid {
        self.begin_process(|slot| Process::new(slot, memory))
    }

    /// A child of the thread's process, with one thread.
    ///
    /// # Panics
    /// If the thread is dead, or there is no memory.
    pub fn fork(&mut self, parent: Tid) -> Tid {
        let begun = self.on(parent, |ctx| {
            shm::fork_begin(ctx);
            Ok(())
        });
        begun.expect("a namespace that makes sense");
        let parent = Rc::clone(self.process(parent));
        let child = self.begin_process(|slot| Process {
            credentials: parent.credentials.clone(),
            handlers: parent.handlers.clone(),
            files: parent.files.clone(),
            umask: parent.umask.clone(),
            memlock: parent.memlock.clone(),
            ..Process::new(slot, parent.memory.borrow().clone())
        });
        let attached = self.memory(child).space().attached();
        let slot = self.process(child).slot;
        let _: Result<()> = self.as_init(|ctx| {
            shm::inherit(ctx, slot, &attached, false);
            Ok(())
        });
        child
    }

    fn begin_process(&mut self, process: impl FnOnce(Handle) -> Process<M>) -> Tid {
        let pid = self.number();
        let slot =
            self.as_init(|ctx| ctx.add_process(pid, 0).map_err(arena_errno)).expect("memory for a process");
        self.processes.insert(pid, Rc::new(process(slot)));
        self.begin_thread(pid, pid);
        pid
    }

    /// One more thread of the thread's process.
    ///
    /// # Panics
    /// If the thread is dead, or there is no memory.
    pub fn clone_thread(&mut self, of: Tid) -> Tid {
        let (pid, tid) = (self.pid(of), self.number());
        self.begin_thread(pid, tid);
        tid
    }

    fn number(&mut self) -> u32 {
        let number = self.next;
        self.next += 1;
        self.hardware.alive.borrow_mut().insert(number);
        number
    }

    fn begin_thread(&mut self, pid: u32, tid: Tid) {
        self.threads.insert(tid, Thread { pid, slot: Handle::NULL, doing: Doing::Nothing });
        let slot = self.claim(tid).expect("memory for a thread");
        self.thread(tid).slot = slot;
    }

    fn claim(&self, tid: Tid) -> Result<Handle> {
        let cpu = self.cpu(tid);
        loop {
            match Ctx::claim(&self.hardware.arena, &cpu, cpu.process.slot, false) {
                Ok((ctx, dead)) => {
                    if let Some(dead) = dead {
                        reap::settle_slot(&ctx, &ctx.slot, dead);
                    }
                    return Ok(ctx.slot.handle());
                }
                Err(ArenaError::Full) => self.as_init(|ctx| ctx.add_thread_span().map_err(arena_errno))?,
                Err(error) => return Err(arena_errno(error)),
            }
        }
    }

    /// The process executes another program: its other threads end, its handlers are forgotten, its adjustments stay.
    ///
    /// # Panics
    /// If the thread is not the first of its process, or dead.
    pub fn exec(&mut self, tid: Tid, memory: M) {
        let pid = self.pid(tid);
        assert_eq!(tid, pid, "only a first thread executes");
        let others: Vec<Tid> = self.threads_of(pid).filter(|other| *other != tid).collect();
        for other in others {
            self.end_thread(other);
        }
        self.reap_thread(tid);
        let slot = self.claim(tid).expect("memory for a thread");
        *self.thread(tid) = Thread { pid, slot, doing: Doing::Nothing };
        let process = self.process(tid);
        process.memory.replace(memory);
        process.handlers.take();
        process.files.take();
        let slot = process.slot;
        let _: Result<()> = self.as_init(|ctx| {
            shm::detach_all(ctx, slot);
            mqueue::exit_process(ctx, slot)
        });
        self.clear_segments();
        self.run_woken();
    }

    /// The thread ends; the last one ends the process.
    ///
    /// # Panics
    /// If the thread is dead.
    pub fn exit_thread(&mut self, tid: Tid) {
        let pid = self.pid(tid);
        if self.threads_of(pid).count() == 1 {
            return self.exit(tid);
        }
        self.end_thread(tid);
        self.run_woken();
    }

    /// The process ends, by its own will or not, wherever its threads are.
    ///
    /// # Panics
    /// If it has ended.
    pub fn exit(&mut self, tid: Tid) {
        self.bury(self.pid(tid));
        self.run_woken();
    }

    fn bury(&mut self, pid: u32) {
        let process = self.processes.remove(&pid).expect("the process of a thread");
        let threads: Vec<Tid> = self.threads_of(pid).chain([pid]).collect();
        for tid in threads {
            self.hardware.end(tid);
            self.threads.remove(&tid);
        }
        process.files.take();
        process.memory.borrow_mut().space().detach_all();
        let _: Result<()> = self.as_init(|ctx| {
            reap::reap_process(ctx, process.slot);
            Ok(())
        });
        self.clear_segments();
        let _: Result<()> = self.as_init(|ctx| {
            if self.hardware.trim_wanted.take() { ctx.trim().map_err(arena_errno) } else { Ok(()) }
        });
    }

    /// Lets memory go that the dead have made for nobody, and segments that have lost their last mapping with them.
    fn clear_segments(&self) {
        let segments = &self.hardware.segments;
        let made: Vec<_> =
            segments.borrow().iter().map(|(memory, made)| (*memory, Rc::clone(made))).collect();
        if made.is_empty() {
            return;
        }
        let _: Result<()> = self.as_init(|ctx| {
            for (memory, made) in made {
                let maker_lives = || self.hardware.alive.borrow().contains(&made.maker);
                if !shm::needs_memory(ctx, made.object, memory, maker_lives) {
                    segments.borrow_mut().remove(&memory);
                }
            }
            shm::sweep(ctx).map(drop)
        });
    }

    fn end_thread(&mut self, tid: Tid) {
        self.hardware.end(tid);
        self.reap_thread(tid);
        self.threads.remove(&tid);
    }

    /// Ends what the thread has begun.
    fn reap_thread(&mut self, tid: Tid) {
        let wanted = self.thread(tid).slot;
        let _: Result<()> = self.as_init(|ctx| {
            let mut threads = ctx.threads().map_err(arena_errno)?;
            if let Some((slot, _, owner)) = threads.find(|(slot, ..)| slot.handle() == wanted) {
                reap::reap_thread(ctx, &slot, owner);
            }
            Ok(())
        });
    }

    // ---- what a thread does

    /// Begins a call.
    ///
    /// # Panics
    /// If the thread is dead, stopped, or in a call.
    pub fn call(&mut self, tid: Tid, call: Syscall) {
        assert_eq!(self.state(tid), State::Idle, "thread {tid} makes a call");
        self.pass(CALL_NS);
        self.begin(tid, call);
        self.run_woken();
    }

    /// Begins the call of this number with these registers. One that the engine does not have fails with `ENOSYS`.
    ///
    /// # Panics
    /// As [`Machine::call`].
    pub fn call_by_number(&mut self, tid: Tid, number: i64, registers: [u64; 6]) {
        match Syscall::decode(number, registers) {
            Some(call) => self.call(tid, call),
            None => self.thread(tid).doing = Doing::Returned(Err(Errno::ENOSYS)),
        }
    }

    fn begin(&mut self, tid: Tid, call: Syscall) {
        self.run(tid, call, Act::Begin);
        self.hardware.slice(tid);
        self.see_over();
    }

    /// Goes on with a call that slept.
    fn resume(&mut self, tid: Tid, cause: Cause) {
        let Some(&Thread { doing: Doing::Sleeping { call, deadline, .. }, .. }) = self.threads.get(&tid)
        else {
            return;
        };
        let act = if cause == Cause::Woken { Act::Wake { deadline } } else { Act::End { cause, deadline } };
        self.run(tid, call, act);
        // If turns are drawn, this one has to wait for its own.
        if !self.hardware.schedule.preempts() {
            self.hardware.slice(tid);
            self.see_over();
        }
    }

    fn run(&mut self, tid: Tid, call: Syscall, act: Act) {
        let caller = self.cpu(tid).caller();
        self.hardware.runs.begin(tid, move |turn| make(&caller.cpu(turn), call, act));
        self.thread(tid).doing = Doing::Running;
    }

    /// Notes what calls have come to.
    fn see_over(&mut self) {
        for (tid, doing) in self.hardware.over.take() {
            if let Some(thread) = self.threads.get_mut(&tid) {
                thread.doing = doing;
            }
        }
    }

    /// Lets the thread's call go on until it is over or sleeps, and others as it comes.
    fn finish(&mut self, tid: Tid) {
        while self.hardware.runs.is_running(tid) {
            self.hardware.slice_of_any();
        }
        self.see_over();
    }

    /// Gives one of the threads that are in the middle of a call a turn; false if there is none.
    pub fn turn(&mut self) -> bool {
        let had_one = self.hardware.slice_of_any();
        self.see_over();
        self.run_woken();
        had_one
    }

    /// What this machine leaves to chance is drawn from it.
    pub fn schedule(&self) -> &Schedule {
        &self.hardware.schedule
    }

    /// A signal ends the sleep. A call that is to begin anew does so when the process goes on.
    pub(crate) fn interrupt(&mut self, tid: Tid, by: Interruption) {
        // Who is not asleep sees a signal when its call is over, or comes to sleep.
        self.finish(tid);
        let Some(&Thread { doing: Doing::Sleeping { call, .. }, .. }) = self.threads.get(&tid) else {
            return;
        };
        self.resume(tid, Cause::Signal);
        self.finish(tid);
        let thread = self.thread(tid);
        if let Doing::Returned(Err(Errno::EINTR)) = thread.doing
            && restarts(&call, by)
        {
            thread.doing = Doing::Suspended(call);
            if by != Interruption::Stop {
                self.begin(tid, call);
            }
        }
    }

    /// Begins the call anew that a stop has interrupted, or ends it because a handler has run.
    pub(crate) fn go_on(&mut self, tid: Tid, handled: Option<Interruption>) {
        let Some(thread) = self.threads.get(&tid) else { return };
        match thread.doing {
            Doing::Suspended(call) if handled.is_some_and(|by| !restarts(&call, by)) => {
                self.thread(tid).doing = Doing::Returned(Err(Errno::EINTR))
            }
            Doing::Suspended(call) => self.begin(tid, call),
            _ => {}
        }
    }

    /// Buries who was killed at a step, delivers notifications, and lets those go on who were woken, in the order in which they were.
    pub(crate) fn run_woken(&mut self) {
        loop {
            if self.hardware.unlinked_watched.take() {
                let left =
                    self.as_init(|ctx| Ok(mqueue::settle_unlinked(ctx).unwrap_or(false))).unwrap_or(false);
                self.hardware.unlinked_watched.set(left);
            }
            self.see_over();
            let killed = self.hardware.killed.take();
            let woken = self.hardware.woken.take();
            let notices = self.hardware.notices.take();
            if killed.is_empty() && woken.is_empty() && notices.is_empty() {
                return;
            }
            for tid in killed {
                if let Some(&Thread { pid, .. }) = self.threads.get(&tid) {
                    self.bury(pid);
                }
            }
            for notice in notices {
                self.deliver_notice(notice);
            }
            for word in woken {
                let sleeps = |thread: &Thread| matches!(thread.doing, Doing::Sleeping { word: own, .. } if own == word);
                if let Some(tid) = self.threads.iter().find(|(_, thread)| sleeps(thread)).map(|(tid, _)| *tid)
                {
                    self.resume(tid, Cause::Woken);
                }
            }
        }
    }

    /// What the thread is doing.
    pub fn state(&self, tid: Tid) -> State {
        let Some(thread) = self.threads.get(&tid) else { return State::Dead };
        match thread.doing {
            _ if self.processes[&thread.pid].stopped.get() => State::Stopped,
            Doing::Nothing => State::Idle,
            Doing::Running => State::Running,
            Doing::Sleeping { .. } | Doing::Suspended(_) => State::Asleep,
            Doing::Returned(result) => State::Returned(result),
        }
    }

    /// What the thread's call has returned, once.
    pub fn take(&mut self, tid: Tid) -> Option<Result<i64>> {
        let State::Returned(result) = self.state(tid) else { return None };
        self.thread(tid).doing = Doing::Nothing;
        Some(result)
    }

    // ---- memory

    /// Unmaps whole pages, as munmap(2).
    ///
    /// # Panics
    /// If the thread is dead.
    pub fn munmap(&mut self, tid: Tid, start: u64, bytes: u64) {
        self.pass(CALL_NS);
        let process = self.process(tid);
        process.memory.borrow_mut().space().unmap(start, bytes, &mut process.gone.borrow_mut());
        let _: Result<()> = self.on(tid, |ctx| {
            ctx.host.tell_gone(|id, whole| shm::unmapped(ctx, id, whole));
            Ok(())
        });
        self.run_woken();
    }

    /// How many segments there is memory of.
    pub fn segments(&self) -> usize {
        self.hardware.segments.borrow().len()
    }

    /// Sets `RLIMIT_MEMLOCK`, bytes.
    ///
    /// # Panics
    /// If the thread is dead.
    pub fn limit_locked_memory(&mut self, tid: Tid, bytes: u64) {
        self.process(tid).memlock.set(bytes);
    }

    // ---- descriptors

    /// Closes a descriptor, as close(2).
    ///
    /// # Errors
    /// `EBADF`.
    pub fn close(&mut self, tid: Tid, fd: i32) -> Result<()> {
        self.pass(CALL_NS);
        let closed = self.on(tid, |ctx| {
            let queue = ctx.host.mqd(fd)?.queue;
            ctx.host.drop_mqd(fd);
            mqueue::do_close(ctx, queue)
        });
        self.run_woken();
        closed
    }

    /// Another descriptor of the same open queue, as dup(2).
    ///
    /// # Errors
    /// `EBADF EMFILE`.
    pub fn dup(&mut self, tid: Tid, fd: i32) -> Result<i32> {
        let mut files = self.process(tid).files.borrow_mut();
        let file = files.get(&fd).cloned().ok_or(Errno::EBADF)?;
        let number = free_number(&files, 0)?;
        files.insert(number, file);
        Ok(number)
    }

    /// Sets the bits that new queues are not to have, as umask(2).
    ///
    /// # Panics
    /// If the thread is dead.
    pub fn umask(&mut self, tid: Tid, mask: u32) -> u32 {
        self.process(tid).umask.replace(mask & 0o777)
    }

    /// The oldest notification by a signal without a handler that has come to the process: in the simulation such signals are blocked.
    ///
    /// # Panics
    /// If the thread is dead.
    pub fn take_notice(&mut self, tid: Tid) -> Option<Notice> {
        let mut notices = self.process(tid).notices.borrow_mut();
        if notices.is_empty() { None } else { Some(notices.remove(0)) }
    }

    fn deliver_notice(&mut self, notice: Notice) {
        let Some(process) = self.processes.get(&notice.pid) else { return };
        if !process.handlers.borrow().contains_key(&notice.signo) {
            process.notices.borrow_mut().push(notice);
            return;
        }
        let first = self.threads_of(notice.pid).next();
        if let Some(tid) = first {
            self.signal(tid, notice.signo);
        }
    }

    // ---- the arena

    /// What of the arena is in use.
    ///
    /// # Panics
    /// If its descriptions of spans make no sense.
    pub fn usage(&self) -> Usage {
        self.as_init(|ctx| ctx.usage().map_err(arena_errno)).expect("an arena that makes sense")
    }

    /// A word of the arena, which anybody may read and overwrite who has it mapped: what is there is passed to `change`, and replaced by
    /// what that returns.
    ///
    /// # Panics
    /// If there is no such word.
    pub fn overwrite(&self, offset: u64, change: impl FnOnce(u32) -> u32) -> u32 {
        self.as_init(|ctx| {
            let block = Handle::from_offset(offset & !(Handle::GRAIN - 1)).unwrap_or_default();
            let word = ctx.array::<AtomicU32>(block, offset % Handle::GRAIN, 1).map_err(arena_errno)?;
            let before = word[0].load(Relaxed);
            word[0].store(change(before), Relaxed);
            Ok(before)
        })
        .expect("a word of the arena")
    }

    // ---- time

    /// The clock, nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.hardware.clock.get()
    }

    /// Wall-clock seconds, as objects are stamped with.
    pub fn now(&self) -> i64 {
        self.as_init(|ctx| Ok(engine::Task::now(ctx.host))).unwrap_or(0)
    }

    /// Nanoseconds since 1970.
    pub fn realtime_ns(&self) -> u64 {
        self.hardware.clock_ns(Clock::Realtime)
    }

    fn pass(&self, ns: u64) {
        let clock = &self.hardware.clock;
        clock.set(clock.get().saturating_add(ns));
    }

    /// When the next sleep is over, if time alone can end one and no clock is set.
    pub fn next_deadline(&self) -> Option<u64> {
        let left = |end: Deadline| end.ns.saturating_sub(self.hardware.clock_ns(end.clock));
        let next = self.threads.values().filter_map(Thread::deadline).map(left).min()?;
        Some(self.now_ns().saturating_add(next))
    }

    /// Sets the clock of the day, nanoseconds since 1970, and ends the sleeps whose time is over.
    pub fn set_realtime(&mut self, ns: u64) {
        let set_by = &self.hardware.set_by;
        set_by.set(set_by.get().saturating_add_unsigned(ns).saturating_sub_unsigned(self.realtime_ns()));
        self.advance_to(self.now_ns());
    }

    /// Moves the clock, and ends the sleeps whose time is over.
    pub fn advance_to(&mut self, ns: u64) {
        self.pass(ns.saturating_sub(self.now_ns()));
        let clock_ns = |clock| self.hardware.clock_ns(clock);
        let over = |thread: &Thread| thread.deadline().is_some_and(|end| end.ns <= clock_ns(end.clock));
        let over: Vec<Tid> =
            self.threads.iter().filter(|(_, thread)| over(thread)).map(|(tid, _)| *tid).collect();
        for tid in over {
            self.resume(tid, Cause::Timeout);
        }
        self.run_woken();
    }

    // ---- what a process is

    /// The process's number.
    ///
    /// # Panics
    /// If the thread is dead.
    pub fn pid(&self, tid: Tid) -> u32 {
        self.threads.get(&tid).unwrap_or_else(|| panic!("thread {tid} is dead")).pid
    }

    /// The thread's process's memory.
    ///
    /// # Panics
    /// If the thread is dead.
    pub fn memory(&mut self, tid: Tid) -> RefMut<'_, M> {
        self.process(tid).memory.borrow_mut()
    }

    /// Who the process is.
    ///
    /// # Panics
    /// If the thread is dead.
    pub fn credentials(&self, tid: Tid) -> Credentials {
        self.process(tid).credentials.borrow().clone()
    }

    /// Who the process is from now on.
    ///
    /// # Panics
    /// If the thread is dead.
    pub fn set_credentials(&mut self, tid: Tid, credentials: Credentials) {
        self.process(tid).credentials.replace(credentials);
    }

    /// Writes a limit of the namespace.
    ///
    /// # Errors
    /// `ENOENT`, `EACCES`, and those of [`Sysctl::write`].
    pub fn write_sysctl(&mut self, tid: Tid, name: &str, value: &str) -> Result<()> {
        self.write_sysctl_at(tid, name, value.as_bytes(), 0).map(drop)
    }

    /// Writes bytes to a sysctl's file at an offset, as pwrite(2): how many were taken.
    ///
    /// # Errors
    /// As [`Machine::write_sysctl`].
    pub fn write_sysctl_at(&mut self, tid: Tid, name: &str, bytes: &[u8], offset: u64) -> Result<usize> {
        let sysctl = Sysctl::all().find(|sysctl| sysctl.name() == name).ok_or(Errno::ENOENT)?;
        self.on(tid, |ctx| {
            let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
            if !sysctl.may_write(ctx.host, ns.get()) {
                return Err(Errno::EACCES);
            }
            sysctl.write(ctx, bytes, offset)
        })
    }

    /// Reads a file of the namespace.
    ///
    /// # Errors
    /// `ENOENT`, and those of a namespace that makes no sense.
    pub fn read_file(&mut self, tid: Tid, path: &str) -> Result<String> {
        let mut line = Line::default();
        let mut text = Vec::new();
        let list = path.strip_prefix("/proc/sysvipc/").and_then(|name| Sysvipc::named(name.as_bytes()));
        if let Some(list) = list.filter(|_| SYSVIPC) {
            text.extend(list.header().as_bytes());
            let mut from = 0;
            while let Some(next) = self.on(tid, |ctx| list.row(ctx, from, &mut line))? {
                text.extend(line.text());
                from = next;
            }
        } else {
            let name = path.strip_prefix("/proc/sys/").unwrap_or_default().replace('/', ".");
            let sysctl = Sysctl::all().find(|sysctl| sysctl.name() == name).ok_or(Errno::ENOENT)?;
            self.on(tid, |ctx| sysctl.show(ctx, &mut line))?;
            text.extend(line.text());
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    pub(crate) fn process(&self, tid: Tid) -> &Rc<Process<M>> {
        &self.processes[&self.pid(tid)]
    }

    fn thread(&mut self, tid: Tid) -> &mut Thread {
        self.threads.get_mut(&tid).expect("a living thread")
    }

    pub(crate) fn threads_of(&self, pid: u32) -> impl Iterator<Item = Tid> {
        self.threads.iter().filter(move |(_, thread)| thread.pid == pid).map(|(tid, _)| *tid)
    }

    // ---- the engine

    fn cpu(&self, tid: Tid) -> Cpu<'_, M> {
        let Thread { pid, slot, .. } = self.threads[&tid];
        Cpu { hardware: &self.hardware, tid, pid, slot, process: &self.processes[&pid], turn: None }
    }

    fn init_cpu(&self) -> Cpu<'_, AddressSpace> {
        let slot = self.own_slot;
        Cpu { hardware: &self.hardware, tid: INIT, pid: INIT, slot, process: &self.init, turn: None }
    }

    /// Runs an operation as the thread, which is in no call.
    fn on<R>(&self, tid: Tid, operation: impl FnOnce(&Ctx<'_, Cpu<'_, M>>) -> Result<R>) -> Result<R> {
        self.cpu(tid).run(operation)
    }

    /// Runs an operation as the machine itself.
    fn as_init<R>(&self, operation: impl FnOnce(&Ctx<'_, Cpu<'_, AddressSpace>>) -> Result<R>) -> Result<R> {
        self.init_cpu().run(operation)
    }
}

/// How a run begins.
enum Act {
    Begin,
    /// Somebody has woken it; `deadline` is when the sleep would have ended.
    Wake {
        deadline: Option<Deadline>,
    },
    /// Its sleep ends before that.
    End {
        cause: Cause,
        deadline: Option<Deadline>,
    },
}

/// Makes a call until it is over or sleeps. This is all that a kernel has to do for one.
fn make<M: Memory>(cpu: &Cpu<'_, M>, call: Syscall, act: Act) -> Doing {
    let (mut outcome, deadline) = match act {
        Act::Begin => match cpu.run(|ctx| call.begin(ctx)) {
            Ok(Begun { outcome, deadline }) => (Ok(outcome), deadline),
            Err(error) => (Err(error), None),
        },
        // Whether the sleep is over is for the waiter to say: this may be a late wake of the last one.
        Act::Wake { deadline } => (Ok(Outcome::Blocked), deadline),
        Act::End { cause, deadline } => (cpu.run(|ctx| call.resume(ctx, cause)), deadline),
    };
    loop {
        match outcome {
            Ok(Outcome::Done(value)) => return Doing::Returned(Ok(value)),
            Err(error) => return Doing::Returned(Err(error)),
            Ok(Outcome::Blocked) => {}
        }
        let sleep = |word: &AtomicU32, _| Err(Some(std::ptr::from_ref(word).addr()));
        match cpu.run(|ctx| Ok(ctx.slot.waiter.park(None, sleep))) {
            Ok(Err(Some(word))) => return Doing::Sleeping { call, word, deadline },
            _ => outcome = cpu.run(|ctx| call.resume(ctx, Cause::Woken)),
        }
    }
}

impl Thread {
    fn deadline(&self) -> Option<Deadline> {
        if let Doing::Sleeping { deadline, .. } = self.doing { deadline } else { None }
    }
}
