//! The broker: who is there, who has died, and what they left.

mod caller;
pub mod detached;
mod door;
mod left;
mod locked;
pub mod offshoot;
mod place;
pub mod posix;
mod quota;
mod segments;
pub mod serve;
pub mod service;
mod stopped;
pub mod store;
mod strangers;
pub mod supervise;
pub mod sysv;
mod trapped;
mod turns;
pub mod view;
mod workers;
