//! Limits of a namespace.

use std::fmt;

/// A limit of a namespace, by its sysctl.
///
/// ```
/// use ipcspace::{Limit, Namespace};
///
/// # fn main() -> Result<(), ipcspace::Error> {
/// let ns = Namespace::builder("").limit(Limit::MsgMax, 65536).create()?;
/// assert_eq!(ns.limit(Limit::MsgMax)?, 65536);
/// assert_eq!(Limit::MsgMax.to_string(), "kernel.msgmax");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Limit {
    /// `kernel.msgmax`: the largest message, bytes.
    MsgMax,
    /// `kernel.msgmnb`: bytes of a new queue.
    MsgMnb,
    /// `kernel.msgmni`: most queues.
    MsgMni,
    /// `kernel.sem`, the first: most semaphores of a set.
    SemMsl,
    /// `kernel.sem`, the second: most semaphores.
    SemMns,
    /// `kernel.sem`, the third: most operations of a call.
    SemOpm,
    /// `kernel.sem`, the fourth: most sets.
    SemMni,
    /// `SEMVMX`: the largest value of a semaphore, which nobody can change.
    SemVmx,
    /// `kernel.shmmax`: the largest segment, bytes.
    ShmMax,
    /// `kernel.shmall`: most pages of all segments.
    ShmAll,
    /// `kernel.shmmni`: most segments.
    ShmMni,
    /// `fs.mqueue.queues_max`: most POSIX queues.
    MqQueuesMax,
    /// `fs.mqueue.msg_max`: most messages of a POSIX queue.
    MqMsgMax,
    /// `fs.mqueue.msgsize_max`: the longest message of a POSIX queue, bytes.
    MqMsgsizeMax,
}

/// How many values `kernel.sem` has.
pub(crate) const SEM_VALUES: usize = 4;

impl Limit {
    /// The name that sysctl(8) knows it by.
    pub const fn name(self) -> &'static str {
        match self {
            Limit::MsgMax => "kernel.msgmax",
            Limit::MsgMnb => "kernel.msgmnb",
            Limit::MsgMni => "kernel.msgmni",
            Limit::SemMsl | Limit::SemMns | Limit::SemOpm | Limit::SemMni => "kernel.sem",
            Limit::SemVmx => "SEMVMX",
            Limit::ShmMax => "kernel.shmmax",
            Limit::ShmAll => "kernel.shmall",
            Limit::ShmMni => "kernel.shmmni",
            Limit::MqQueuesMax => "fs.mqueue.queues_max",
            Limit::MqMsgMax => "fs.mqueue.msg_max",
            Limit::MqMsgsizeMax => "fs.mqueue.msgsize_max",
        }
    }

    /// Which of the values of `kernel.sem` it is.
    pub(crate) const fn place(self) -> Option<usize> {
        match self {
            Limit::SemMsl => Some(0),
            Limit::SemMns => Some(1),
            Limit::SemOpm => Some(2),
            Limit::SemMni => Some(3),
            _ => None,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self.place() {
            Some(place) => write!(f, "[{place}]"),
            None => Ok(()),
        }
    }
}
