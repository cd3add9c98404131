//! The broker: who is there, who has died, and what they left.

pub mod service;
mod stopped;
pub mod supervise;
pub mod sysv;
