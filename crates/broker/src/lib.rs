//! The broker: who is there, who has died, and what they left.

pub mod service;
pub mod supervise;
pub mod sysv;
