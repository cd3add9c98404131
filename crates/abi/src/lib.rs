//! Linux's user-space interface of System V IPC and POSIX message queues as data: error numbers, flags, commands, structures, system
//! call numbers. No logic beyond what a constant needs. x86-64 only: other targets are a compile error.
//!
//! What is missing: the 32-bit structures of POSIX queues.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(not(all(target_arch = "x86_64", target_os = "linux", target_pointer_width = "64")))]
compile_error!("ipcspace runs on x86-64 Linux only");

pub mod compat;
mod errno;
pub mod ipc;
pub mod mqueue;
pub mod msg;
mod plain;
pub mod sem;
pub mod shm;
pub mod stat;
pub mod syscall;
pub mod time;

pub use errno::Errno;
pub use plain::Plain;

/// What an operation of the engine returns: a value, or the error number that the system call would give.
pub type Result<T> = core::result::Result<T, Errno>;
