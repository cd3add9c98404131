//! The POSIX queues of a namespace, for `ipcspace ls` and `ipcspace rm`.
//!
//! Of the namespace that this process is in, or joins by [`client::use_socket`]; the kernel has no calls that list them.

use std::ffi::CString;
use std::io;

use engine::syscall::MqUnlink;
use engine::{IpcNamespace, Limit, mqueue};

/// A queue, as its file describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Without a slash; bytes that are no UTF-8 are replaced.
    pub name: String,
    /// Permissions.
    pub mode: u32,
    /// The owner's user.
    pub uid: u32,
    /// The owner's group.
    pub gid: u32,
    /// Seconds since 1970.
    pub atime: i64,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Seconds since 1970.
    pub ctime: i64,
    /// Bytes of all messages.
    pub qsize: u64,
    /// Messages there are.
    pub curmsgs: u32,
    /// Most messages.
    pub maxmsg: u32,
    /// Longest message, bytes.
    pub msgsize: u32,
    /// Who is to be told of a message.
    pub notify: Option<Notify>,
}

/// A registration by `mq_notify`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notify {
    /// `SIGEV_*`.
    pub how: i32,
    /// The signal, if it is by one.
    pub signo: i32,
    /// The process.
    pub pid: u32,
}

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

/// All queues that have a name.
///
/// # Errors
/// Those of a namespace that can't be reached.
pub fn queues() -> io::Result<Vec<Queue>> {
    let mut queues = Vec::new();
    let listed = client::with(|ctx| {
        let mut from = 0;
        while let Some((next, stat)) = mqueue::next_queue(ctx, from)? {
            from = next;
            queues.push(queue(&stat));
        }
        Ok(())
    });
    listed.map(|()| queues).map_err(system)
}

fn queue(stat: &mqueue::MqStat) -> Queue {
    let name: Vec<u8> = stat.name().collect();
    let notify = stat.notify.map(|how| Notify { how, signo: stat.notify_signo, pid: stat.notify_pid });
    Queue {
        name: String::from_utf8_lossy(&name).into_owned(),
        mode: stat.mode & 0o777,
        uid: stat.uid,
        gid: stat.gid,
        atime: stat.atime,
        mtime: stat.mtime,
        ctime: stat.ctime,
        qsize: stat.qsize,
        curmsgs: stat.curmsgs,
        maxmsg: stat.maxmsg,
        msgsize: stat.msgsize,
        notify,
    }
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
    limits.map_err(system)
}

/// Takes a queue's name away; it may begin with a slash.
///
/// # Errors
/// Those of `mq_unlink(2)`.
pub fn unlink(name: &str) -> io::Result<()> {
    let name = CString::new(name.strip_prefix('/').unwrap_or(name))?;
    client::call(&MqUnlink { name: name.as_ptr() as u64 }).map(drop).map_err(|error| match error {
        // It can't be a name.
        abi::Errno::EACCES => system(abi::Errno::ENOENT),
        error => system(error),
    })
}
