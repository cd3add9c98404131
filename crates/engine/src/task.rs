//! What the engine needs to know of the caller.

use abi::{Plain, Result};
use arena::{Handle, Host, SharedBytes};

/// Who asks: the credentials of the moment of the call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cred {
    /// Effective user.
    pub euid: u32,
    /// Effective group: the group of what is created.
    pub egid: u32,
    /// File system group: the one that permissions are tested by.
    pub fsgid: u32,
    /// Whether `CAP_IPC_OWNER` in the namespace is held.
    pub ipc_owner: bool,
    /// Whether `CAP_SYS_ADMIN` in the namespace is held.
    pub sys_admin: bool,
    /// Whether `CAP_CHECKPOINT_RESTORE` or `CAP_SYS_ADMIN` in the namespace is held.
    pub checkpoint_restore: bool,
    /// Whether `CAP_SYS_RESOURCE` in the initial user namespace is held.
    pub sys_resource: bool,
}

/// A thread that makes a call, on a [`Host`].
pub trait Task: Host {
    /// The process's id.
    fn tgid(&self) -> u32;
    /// The process's slot.
    fn process(&self) -> Handle;
    /// Credentials now.
    fn cred(&self) -> Cred;
    /// Whether `gid` is a supplementary group.
    fn in_group(&self, gid: u32) -> bool;
    /// Wall-clock seconds.
    fn now(&self) -> i64;
    /// The clock that timeouts are counted by, nanoseconds.
    fn monotonic_ns(&self) -> u64;
    /// Copies from the caller's memory.
    ///
    /// # Errors
    /// `EFAULT`.
    fn copy_from_user(&self, to: SharedBytes<'_>, from: u64) -> Result<()>;
    /// Copies to the caller's memory.
    ///
    /// # Errors
    /// `EFAULT`.
    fn copy_to_user(&self, to: u64, from: SharedBytes<'_>) -> Result<()>;
    /// Writes a structure to the caller's memory.
    ///
    /// # Errors
    /// `EFAULT`.
    fn put_user<P: Plain>(&self, to: u64, value: &P) -> Result<()>;
    /// Reads a structure of the caller's memory.
    ///
    /// # Errors
    /// `EFAULT`.
    fn get_user<P: Plain>(&self, from: u64) -> Result<P>;
}

/// What a call came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is over, with this value.
    Done(i64),
    /// It sleeps on the thread's waiter: park, then resume.
    Blocked,
}

/// Why a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The waiter was completed, or should be tried again.
    Woken,
    /// A signal.
    Signal,
    /// The time is over.
    Timeout,
}
