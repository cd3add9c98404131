//! The kernel's `ipc/`, in user space: System V message queues, semaphores and shared memory, and POSIX message queues.
//!
//! What users see: the behaviour of Linux's calls, to the error number and to the order in which errors are checked.
//! Every door calls the same `do_*` function, by way of one table ([`syscall`]). None of them blocks: it returns
//! [`Outcome::Blocked`], the host parks on the thread's waiter and resumes the call with the cause.
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
    Backing, Cause, Cred, Descriptors, MapPlace, MapRequest, Mqd, NewMemory, Notice, Outcome, Readiness, Task,
};
pub use usage::Usage;
