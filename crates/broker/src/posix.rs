//! The POSIX queues of a namespace, for `ipcspace ls` and `ipcspace rm`.
//!
//! Of the namespace that this process is in, or joins by [`client::use_socket`]; the kernel has no calls that list them.

use std::ffi::CString;
use std::io;

use engine::mqueue::{self, MqStat};
use engine::syscall::MqUnlink;
use engine::{IpcNamespace, Limit};

/// The limits of queues, and how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the limits")]
pub struct Limits {
    pub queues_max: i32,
    pub msg_max: i32,
    pub msgsize_max: i32,
    /// Those without a name too.
    pub queues: u32,
}

fn system(error: abi::Errno) -> io::Error {
    io::Error::from_raw_os_error(error.raw())
}

/// As [`system`], of what is read in the arena.
fn unread(error: abi::Errno) -> io::Error {
    match error {
        abi::Errno::EACCES => io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the POSIX queues of another user's namespace can't be listed",
        ),
        error => system(error),
    }
}

/// All queues that have a name.
///
/// # Errors
/// Those of a namespace that can't be reached.
pub fn queues() -> io::Result<Vec<MqStat>> {
    let mut queues = Vec::new();
    let listed = client::with(|ctx| {
        let mut from = 0;
        while let Some((next, stat)) = mqueue::next_queue(ctx, from)? {
            from = next;
            queues.push(stat);
        }
        Ok(())
    });
    listed.map(|()| queues).map_err(unread)
}

/// The limits.
///
/// # Errors
/// As [`queues`].
pub fn limits() -> io::Result<Limits> {
    let limits = client::with(|ctx| {
        let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
        Ok(Limits {
            queues_max: ns.limit(Limit::MqQueuesMax),
            msg_max: ns.limit(Limit::MqMsgMax),
            msgsize_max: ns.limit(Limit::MqMsgsizeMax),
            queues: ns.posix_queues(),
        })
    });
    limits.map_err(unread)
}

/// Takes a queue's name away; it may begin with a slash.
///
/// # Errors
/// Those of `mq_unlink(2)`.
pub fn unlink(name: &[u8]) -> io::Result<()> {
    let name = CString::new(name.strip_prefix(b"/").unwrap_or(name))?;
    client::call(&MqUnlink { name: name.as_ptr() as u64 }).map(drop).map_err(|error| match error {
        // It can't be a name.
        abi::Errno::EACCES => system(abi::Errno::ENOENT),
        error => system(error),
    })
}
