//! What is built in, as the features of the crate say: the kernel's build options.
//!
//! A call that is left out fails with `ENOSYS`, as the kernel's. What only it would use is not in the program: the engine's functions are
//! generic, and made where they are called.

use abi::{Errno, Result};

/// System V message queues, semaphores and shared memory, their limits by name, and `/proc/sysvipc`: `CONFIG_SYSVIPC`.
pub const SYSVIPC: bool = cfg!(feature = "sysvipc");
/// POSIX message queues, and their limits by name: `CONFIG_POSIX_MQUEUE`.
pub const POSIX_MQUEUE: bool = cfg!(feature = "posix-mqueue");
/// Making and entering other namespaces: `CONFIG_IPC_NS`.
pub const IPC_NS: bool = cfg!(feature = "ipc-ns");
/// The limits by name: `CONFIG_SYSVIPC_SYSCTL` and `CONFIG_POSIX_MQUEUE_SYSCTL`.
pub const SYSCTL: bool = cfg!(feature = "sysctl");
/// Calls of 32-bit programs: `CONFIG_SYSVIPC_COMPAT`.
pub const COMPAT: bool = cfg!(feature = "compat");

/// `ENOSYS` for what is left out.
#[inline(always)]
pub(crate) fn require(built: bool) -> Result<()> {
    if built { Ok(()) } else { Err(Errno::ENOSYS) }
}
