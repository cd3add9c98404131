//! A kernel of its own around the engine, all in one thread: tasks that are nothing but data, a scheduler, a virtual clock, one address space.
//!
//! It is an example for whoever writes a kernel: what the engine asks of one is in `cpu` (the traits [`arena::Host`], [`engine::Task`],
//! [`engine::Backing`] and [`engine::Descriptors`]), how a call is made, sleeps and goes on is `make` in `machine`, and what the kernel itself does
//! when a process ends is `bury`. There is no thread, no futex, no shared mapping, no signal but the machine's own.
//!
//! It is the project's simulator too. A [`Machine`] with a [`Schedule`] draws by a seed whose turn it is; at any step of a call, where the order of stores
//! matters to others, the task may have to wait, or be killed ([`arena::Host::step`]). The same seed goes the same way again.
//!
//! What users see: [`Machine`], whose arena can be looked at and overwritten; a call is begun with [`Machine::call`], and [`Machine::state`] tells what came of it. What it asks of a
//! process's [`Memory`], and [`AddressSpace`], a simulated one.
//!
//! Shared memory is pages that the machine owns, and that processes have in their address spaces.
//!
//! What is missing: descriptors are for calls on POSIX queues only; nothing is swapped out, and there are no huge pages; code is not executed; one
//! namespace is all there is.
//!
//! ```
//! use engine::{Syscall, syscall::Msgget};
//! use kernel_host::{AddressSpace, Machine, Schedule, State};
//!
//! // At one step of ten a call is left for others, and nobody is killed.
//! let mut machine = Machine::with_schedule(true, Schedule::random(7, 10, 0));
//! let task = machine.spawn(AddressSpace::default());
//! machine.call(task, Syscall::Msgget(Msgget { key: 0x1234, flags: 0o1600 }));
//! while machine.state(task) == State::Running {
//!     machine.turn();
//! }
//! assert_eq!(machine.take(task), Some(Ok(0)));
//! ```
//!
//! # Safety
//! The unsafe code is in `cpu` and `run`: memory for the arena, copies into and out of it, and calls that are given up in their middle.

mod address_space;
mod cpu;
mod machine;
mod run;
mod schedule;
mod segment;
mod signal;

pub use address_space::{ANYWHERE, Access, AddressSpace, PAGE};
pub use cpu::{Credentials, FIRST_FILE};
pub use machine::{Machine, Memory, State, Tid};
pub use schedule::Schedule;
pub use signal::{SIGCONT, SIGKILL, SIGSTOP};
