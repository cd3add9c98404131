//! Tasks (processes and threads) that make calls of System V and of POSIX queues in a controlled order, so that the same story
//! can be told on the kernel and on every door of ours and its replies compared.
//!
//! A [`Call`] is plain data; a [`World`] carries it out in one of its tasks and gives a [`Reply`]. Between
//! two calls [`World::settle`] waits until every task is done or asleep inside its call, which makes stories
//! with blocking calls deterministic. [`Processes`] is the world of real processes: below the kernel in a
//! private IPC namespace, or below a prefix command such as `ipcspace run --`. [`Simulated`] is the world of a
//! [machine](host) that consists of nothing but data.
//!
//! An executable that uses [`Processes`] calls [`run_worker_if_asked`] first thing in `main`: the workers
//! are the same executable, started again.
//!
//! Missing: a POSIX queue's notification by a thread, and what its descriptor is besides; mprotect(2) and mremap(2) of attachments.

mod arguments;
mod call;
mod memory;
mod name;
mod processes;
mod reply;
mod sample;
mod simulated;
mod wire;
mod worker;

pub use call::{Arg, Call, Event, Ptr, QueueSize, SemBuf, Set, Text, Timeout};
pub use processes::{Processes, Start};
pub use reply::{
    Data, MsgInfo, MsgStat, Notice, Perm, QueueAttr, Reply, SemInfo, SemStat, ShmInfo, ShmLimits, ShmStat,
};
pub use simulated::Simulated;
pub use worker::run_worker_if_asked;

/// Addresses at which nothing is mapped but what calls of tasks map there: so they mean the same in every world. 32-bit programs have
/// them too.
pub const ARENA: std::ops::Range<u64> = 0x2000_0000..0x2010_0000;

/// The signal of POSIX queues that all tasks block, to take it when they like.
pub const NOTICE: i32 = 40;

/// A task of a world: a process, or a thread of one. Numbers are given in order of birth and never again.
pub type TaskId = u32;

/// What a task is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It waits for its next call.
    Idle,
    /// Its call has ended; the reply is handed out once, then the task is [`State::Idle`].
    Done(Reply),
    /// It sleeps inside its call.
    Blocked,
    /// It is stopped by SIGSTOP.
    Stopped,
    /// It is on its way through its call; after [`World::settle`] this means that it never came to rest.
    Running,
    /// It has ended.
    Dead,
}

/// Somewhere that tasks live and make calls.
pub trait World {
    /// A new process, child of no other task.
    fn spawn(&mut self) -> TaskId;

    /// Starts `call` in an idle task. The new task of [`Call::Fork`] and [`Call::SpawnThread`] is the `ret`
    /// of the reply.
    fn start(&mut self, task: TaskId, call: &Call);

    /// Waits until every task is idle, asleep inside its call, stopped, or dead. A task that sleeps with a
    /// timeout of less than [`SHORT`] is waited for.
    fn settle(&mut self);

    /// What the task is doing.
    fn poll(&mut self, task: TaskId) -> State;

    /// Kills the task's process with SIGKILL and returns when it is gone.
    fn kill(&mut self, task: TaskId);

    /// Sends a signal to the task itself (as tgkill(2)). SIGSTOP and SIGCONT return when they have taken
    /// effect on the whole process.
    fn signal(&mut self, task: TaskId, signal: i32);

    /// Does a task that is stopped in its sleep leave the line, as in the kernel? It queues up again when it goes on, or
    /// its call ends with `EINTR`.
    fn stops_sleepers(&self) -> bool;

    /// The task whose pid or tid this is, or was.
    fn task_of(&self, pid: i32) -> Option<TaskId>;

    /// `start`, `settle`, and the reply.
    ///
    /// # Panics
    /// Says which call of which task did not come back.
    fn call(&mut self, task: TaskId, call: &Call) -> Reply {
        self.start(task, call);
        self.settle();
        match self.poll(task) {
            State::Done(reply) => reply,
            state => panic!("task {task}: {call} is expected to return, but the task is {state:?}"),
        }
    }

    /// `start` and `settle` of a call that is expected to sleep.
    ///
    /// # Panics
    /// Says which call of which task came back at once.
    fn block(&mut self, task: TaskId, call: &Call) {
        self.start(task, call);
        self.settle();
        match self.poll(task) {
            State::Blocked => {}
            state => panic!("task {task}: {call} is expected to sleep, but the task is {state:?}"),
        }
    }

    /// The reply of a call that was asleep and is expected to be done now.
    ///
    /// # Panics
    /// Says which task is not.
    fn finish(&mut self, task: TaskId) -> Reply {
        self.settle();
        match self.poll(task) {
            State::Done(reply) => reply,
            state => panic!("task {task} is expected to be done, but is {state:?}"),
        }
    }
}

/// A timeout below this is waited for by [`World::settle`], a longer one never expires in a story.
pub const SHORT: std::time::Duration = std::time::Duration::from_millis(500);
