//! The namespace service. This is the smallest that `run` can be built and tested with: it makes no arena yet,
//! so programs under `run` still reach the kernel's IPC.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags};

/// Why a namespace can't be made or joined.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such limit.
    #[error("there is no sysctl '{0}'")]
    UnknownSysctl(String),
    /// The system refused something basic.
    #[error(transparent)]
    System(#[from] nix::Error),
}

/// A namespace that this process serves.
#[derive(Debug)]
pub struct Service {
    epoll: Epoll,
}

impl Service {
    /// Makes a namespace.
    pub fn create(_name: Option<&str>, sysctls: &[(String, String)]) -> Result<Service, Error> {
        if let Some((key, _)) = sysctls.first() {
            return Err(Error::UnknownSysctl(key.clone()));
        }
        Ok(Service { epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)? })
    }

    /// A lease on the namespace of that name, or `None` if there is none.
    pub fn join(_name: &str) -> Result<Option<Lease>, Error> {
        Ok(None)
    }

    /// What a program needs in its environment to be in this namespace.
    pub fn env(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Readable when `dispatch` has work.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// Handles all that is ready; returns when it wants to be called again at the latest.
    pub fn dispatch(&mut self) -> Option<Duration> {
        None
    }

    /// A descendant has been reaped.
    pub fn reaped(&mut self, _pid: i32) {}

    /// How many clients live.
    pub fn clients(&self) -> usize {
        0
    }
}

/// Keeps another's namespace alive.
#[derive(Debug)]
pub struct Lease(());

impl Lease {
    /// What a program needs in its environment to be in that namespace.
    pub fn env(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}
