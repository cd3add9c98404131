//! The kernel's `ipc/`, in user space: System V message queues, semaphores and shared memory, and POSIX message queues.
//!
//! What users see: the behaviour of Linux's calls, to the error number and to the order in which errors are checked.
//! Every door calls the same `do_*` function, by way of one table ([`syscall`]). None of them blocks: it returns
//! [`Outcome::Blocked`], the host parks on the thread's waiter and resumes the call with the cause.
//!
//! # In another kernel
//! The engine needs neither `std` nor an allocator: all that it keeps is in the arena that its host gives it. A host is a type with four
//! traits, and `examples/kernel_host` is a small one, whole:
//!
//! - [`arena::Host`]: memory for the arena, extent by extent; the thread's number; how to wait for a lock's word and to wake who does. Where threads can die
//!   in the middle of a call, [`arena::Host::arm`] names the word to be marked with `FUTEX_OWNER_DIED` then, as the kernel marks robust futexes. In a kernel whose
//!   calls run to their end, it does nothing.
//! - [`Task`]: who makes the call (process, thread, credentials), what time it is, and copies from and to its memory, which fail with `EFAULT` and never
//!   otherwise.
//! - [`Descriptors`] and [`Backing`]: the descriptors of POSIX queues, and the memory of segments. What a system lacks answers `ENOSYS`.
//!
//! **Beginning.** [`arena::Ctx::format`] makes an arena and [`IpcNamespace::init`] a namespace in it. A process has a slot
//! ([`arena::Ctx::add_process`]), and each thread that makes calls one of its own ([`arena::Ctx::claim`]).
//!
//! **Waiting.** [`Syscall::begin`](syscall::Call::begin) returns [`Begun`]; if its outcome is [`Outcome::Blocked`], the thread sleeps until
//! one of three things: its waiter says that the sleep is over, a signal is there, or the clock of its `deadline` has come to that. Then
//! [`Call::resume`] with the [`Cause`] goes on with the call, and may say `Blocked` again. To sleep is
//! [`arena::Waiter::park`]: it calls the host's function with the word that [`arena::Host::wake`] will be called with. The waiter is looked at after each
//! wake, as a wake of the last sleep may come late; and it may be completed before it sleeps. A thread makes no other call while one of its own sleeps. Which calls a
//! signal handler restarts is for the host: the engine answers `EINTR`.
//!
//! **Ending.** [`reap::reap_process`] ends what the threads of a process that is no more had begun, applies `SEM_UNDO`, and gives its slot back;
//! [`reap::reap_thread`] does so for one thread. [`Descriptors::watch_unlinked`] asks for [`mqueue::settle_unlinked`] once descriptors have been closed.
//!
//! What of it is built, the crate's features say ([`options`]).
//!
//! Which lock guards what: an object's lock guards the object, its messages or values, and the waiters on its lists;
//! a class's `ids` lock guards its identifiers, keys and counts. One lock at a time; an operation that needs two is
//! a chain of transactions, whose next step the object's state names, so that anybody can take it.
#![no_std]
#![forbid(unsafe_code)]

pub mod compat;
pub mod ipc_sysctl;
pub mod mqueue;
pub mod mqueuefs;
pub mod msg;
mod msgutil;
pub mod namespace;
pub mod options;
pub mod proc;
pub mod reap;
pub mod sem;
pub mod shm;
pub mod syscall;
pub mod task;
mod types;
pub mod usage;
pub mod util;

pub use namespace::{IpcNamespace, Limit};
pub use syscall::{Begun, Call, Syscall};
pub use task::{
    Backing, Cause, Cred, Deadline, Descriptors, MapPlace, MapRequest, Mqd, NewMemory, Notice, Outcome,
    Readiness, Task,
};
pub use usage::Usage;
