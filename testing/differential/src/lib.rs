//! Random sequences of calls of System V and of POSIX queues, on the kernel and on ours in lockstep.
//!
//! A [`Generator`] makes up [`Step`]s; a [`Lockstep`] takes each in two worlds and waits until every task is
//! done or asleep; what the tasks then show must be equal, but for what [`tolerated`] lists. A difference ends
//! its sequence, and is [shrunk](shrink()) by playing parts of the sequence again in fresh worlds.

mod generate;
mod lockstep;
mod sequence;
mod shrink;
mod step;
pub mod tolerated;

pub use generate::{Abilities, Generator, Kind};
pub use lockstep::{Limits, Lockstep, Make, Observation, Outcome, Seen, Task};
pub use sequence::{Difference, Run, explore, replay};
pub use shrink::shrink;
pub use step::{Action, Id, Name, Step};
