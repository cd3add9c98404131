//! A whole machine in one thread: processes and threads that are nothing but data, with the engine as their kernel.
//!
//! It shows that the engine needs no system: no thread, no futex, no shared mapping, no signal. A [`Machine`] has an
//! arena in ordinary memory, a clock that moves when it is told to, and address spaces of the owner's making. A call is
//! begun with [`Machine::call`]; where the engine answers that it sleeps, the task's state says so, and the machine goes
//! on with it when somebody wakes it, a signal comes, or its time is over. So everything that happens, happens in the
//! order in which the machine's owner asks for it, every time.
//!
//! What users see: [`Machine`], whose arena can be looked at and overwritten, what it asks of a process's [`Memory`], and [`AddressSpace`], a simulated one.
//!
//! What is missing: nobody dies or is stopped between two instructions of a call; shared memory; descriptors are for calls on POSIX queues only.
//!
//! # Safety
//! The unsafe code is in `cpu`: memory for the arena, and copies into and out of it.

mod address_space;
mod cpu;
mod machine;
mod run;
mod schedule;
mod signal;

pub use address_space::{Access, AddressSpace, PAGE};
pub use cpu::{Credentials, FIRST_FILE};
pub use machine::{Machine, Memory, State, Tid};
pub use schedule::Schedule;
pub use signal::{SIGCONT, SIGKILL, SIGSTOP};
