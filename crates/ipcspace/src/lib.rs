//! System V message queues, semaphores and shared memory, and POSIX message queues, as types that can't be used wrongly.
//!
//! Where the objects are, one line says: in a namespace of user space that is this program's alone or has a name, in the one that
//! `ipcspace run` has started the program in, or in the kernel. All else is the same.
//!
//! ```
//! use ipcspace::{Key, MsgType, Namespace, Select};
//!
//! # fn main() -> Result<(), ipcspace::Error> {
//! let ns = Namespace::private()?; // or open("ci"), or current(), or kernel()
//! let jobs = ns.queue(Key::new(0x4a0b)).create(true).open()?;
//! jobs.send(MsgType::new(7)?, b"render page 3")?;
//! let mut text = [0; 64];
//! let got = jobs.recv(Select::Any, &mut text)?;
//! assert_eq!((got.kind, &text[..got.len]), (MsgType::new(7)?, &b"render page 3"[..]));
//! # Ok(())
//! # }
//! ```
//!
//! # What holds for all of it
//!
//! - **Handles close and never delete.** Objects live until somebody calls `remove`, or the namespace ends.
//! - **A process is in one namespace of user space**, as it is in one of the kernel's. It may use the kernel's objects besides. Children
//!   of fork are in their parent's.
//! - **Each blocking call** has a form that returns at once (`try_`), one with a duration and one with a point in time. A signal handler that runs ends it with
//!   `EINTR`, also with `SA_RESTART`, as the kernel has it for these calls.
//! - **Errors** ([`Error`]) carry the error number, the call, and the limit that stood in the way, if one did.
//! - **The dead are seen to.** Who is killed in the middle of a call leaves nothing half done; what was acquired with [`Semaphores::undo`] is given back.
//!
//! # Signals
//!
//! A process that uses a namespace of user space has the signal handlers that it had by then called through ones of this crate's, which put them off until a
//! call is over. One that is installed later may run in the middle of a call, and must not jump out of it (`siglongjmp`).
//!
//! What is missing: more than one namespace of user space in a process; targets but x86-64 Linux.
#![deny(missing_docs, unsafe_code)]

mod backend;
mod error;
mod key;
mod limit;
mod mqueue;
mod namespace;
mod queue;
mod semaphore;
mod shared;
mod time;

pub use error::{Error, Result};
pub use key::{Key, MsgType};
pub use limit::Limit;
#[cfg(feature = "tokio")]
pub use mqueue::asynchronous::AsyncMqueue;
pub use mqueue::{Access, Attributes, Mqueue, MqueueOptions};
pub use namespace::{Builder, Namespace};
pub use queue::{Queue, QueueOptions, QueueStatus, Received, Select};
pub use semaphore::{Guard, Semaphores, SemaphoresOptions};
pub use shared::{Share, Shared, SharedOptions};

/// For the C library and for tests: no part of what this crate promises.
#[doc(hidden)]
pub mod raw {
    use engine::Syscall;

    use super::{Namespace, backend::Backend};
    pub use crate::backend::notify_by_thread;
    pub use crate::namespace::with_sysctls;

    /// Makes a call in a namespace: its value, or its error number.
    ///
    /// # Errors
    /// The call's.
    #[inline]
    pub fn call<C: engine::Call>(ns: Namespace, call: &C) -> Result<i64, i32> {
        ns.backend.raw(call).map_err(abi::Errno::raw)
    }

    /// As [`call()`], for one that goes on after a handler with `SA_RESTART`.
    ///
    /// # Errors
    /// The call's.
    #[inline]
    pub fn call_again<C: engine::Call>(ns: Namespace, call: &C) -> Result<i64, i32> {
        ns.backend.again(call).map_err(abi::Errno::raw)
    }

    /// The call of a number and six registers; none if it is not one of these.
    pub fn syscall(ns: Namespace, number: i64, registers: [u64; 6]) -> Option<Result<i64, i32>> {
        Syscall::decode(number, registers).map(|made| call(ns, &made))
    }

    /// `shmdt`.
    ///
    /// # Errors
    /// The call's.
    pub fn detach(ns: Namespace, addr: u64) -> Result<i64, i32> {
        ns.backend.detach(addr).map_err(abi::Errno::raw)
    }

    /// Closes a descriptor of a POSIX queue by `close`.
    pub fn close_queue<R>(ns: Namespace, fd: i32, close: impl FnOnce() -> R) -> R {
        let queue = match ns.backend {
            Backend::Own => client::mqd::forget(fd),
            Backend::System => None,
        };
        let closed = close();
        if let Some(queue) = queue {
            client::mqd::closed(queue);
        }
        closed
    }
}
