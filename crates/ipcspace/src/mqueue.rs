//! POSIX message queues.
//!
//! What users see: a timeout is a time of day to the kernel, and so it is here. A clock that is set meanwhile moves it.

use std::ffi::CString;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use abi::{
    Errno,
    mqueue::{MQ_PRIO_MAX, MqAttr, O_CREAT, O_EXCL, O_RDWR, O_WRONLY},
    time::Timespec,
};
use engine::syscall::{MqGetsetattr, MqOpen, MqTimedreceive, MqTimedsend, MqUnlink};

use crate::backend::{Backend, address_of, address_to_read};
use crate::queue::flags;
use crate::time::{Wait, time_of_day};
use crate::{Error, Limit, Namespace, Result};

/// What a queue is opened for.
///
/// ```
/// use ipcspace::{Access, Namespace};
///
/// # fn main() -> Result<(), ipcspace::Error> {
/// let ns = Namespace::private()?;
/// let all = ns.mqueue("/jobs").create(true).open()?;
/// let sender = ns.mqueue("/jobs").access(Access::Send).open()?;
/// assert_eq!(sender.recv(&mut [0; 8192]).unwrap_err().errno(), 9); // EBADF: not for that
/// # drop(all);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    /// To receive.
    Receive,
    /// To send.
    Send,
    /// Both.
    Both,
}

/// What a queue is like, as mq_getattr(3) tells.
///
/// ```
/// use ipcspace::Namespace;
///
/// # fn main() -> Result<(), ipcspace::Error> {
/// let queue = Namespace::private()?.mqueue("/q").create(true).size(4, 64).open()?;
/// queue.send(b"hello", 0)?;
/// let attributes = queue.attributes()?;
/// assert_eq!((attributes.messages_max, attributes.size_max, attributes.messages), (4, 64, 1));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Attributes {
    /// Most messages.
    pub messages_max: usize,
    /// Longest message, bytes.
    pub size_max: usize,
    /// Messages there are.
    pub messages: usize,
}

/// To open, make or remove a queue: by [`crate::Namespace::mqueue`].
///
/// ```
/// use ipcspace::{Limit, Namespace};
///
/// # fn main() -> Result<(), ipcspace::Error> {
/// let ns = Namespace::builder("").limit(Limit::MqMsgMax, 20).create()?;
/// let queue = ns.mqueue("/jobs").create_new(true).size(20, 128).mode(0o620).open()?;
/// # drop(queue);
/// ns.mqueue("/jobs").remove()?;
/// assert_eq!(ns.mqueue("jobs").open().unwrap_err().errno(), 22); // no slash
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct MqueueOptions {
    backend: Backend,
    name: String,
    access: Access,
    create: bool,
    create_new: bool,
    mode: u32,
    size: Option<(usize, usize)>,
}

impl MqueueOptions {
    pub(crate) fn new(backend: Backend, name: &str) -> MqueueOptions {
        MqueueOptions {
            backend,
            name: name.to_owned(),
            access: Access::Both,
            create: false,
            create_new: false,
            mode: 0o600,
            size: None,
        }
    }

    /// What for: both at first.
    pub fn access(mut self, access: Access) -> MqueueOptions {
        self.access = access;
        self
    }

    /// Whether it is made if there is none.
    pub fn create(mut self, create: bool) -> MqueueOptions {
        self.create = create;
        self
    }

    /// Whether it must be made: one that is there is `EEXIST`.
    pub fn create_new(mut self, create_new: bool) -> MqueueOptions {
        self.create_new = create_new;
        self
    }

    /// Who may use a new one: nine bits, 0o600 at first, without those of the umask.
    pub fn mode(mut self, mode: u32) -> MqueueOptions {
        self.mode = mode;
        self
    }

    /// How many messages a new one may have, and how many bytes each.
    pub fn size(mut self, messages_max: usize, size_max: usize) -> MqueueOptions {
        self.size = Some((messages_max, size_max));
        self
    }

    /// The name as the system call takes it: without the slash.
    fn plain_name(&self, call: &'static str) -> Result<CString> {
        let plain = self.name.strip_prefix('/').and_then(|plain| CString::new(plain).ok());
        plain.ok_or_else(|| {
            let text = format!("{:?} can't name a queue: it begins with a slash and has no zero", self.name);
            Error::with_text(call, Errno::EINVAL, text)
        })
    }

    /// Opens it.
    ///
    /// # Errors
    /// Those of mq_open(3).
    pub fn open(&self) -> Result<Mqueue> {
        // The flags of a new one have other numbers here.
        let mode = flags("mq_open", false, false, self.mode)?.cast_unsigned();
        let name = self.plain_name("mq_open")?;
        let access = match self.access {
            Access::Receive => 0,
            Access::Send => O_WRONLY,
            Access::Both => O_RDWR,
        };
        let create = match (self.create, self.create_new) {
            (_, true) => O_CREAT | O_EXCL,
            (true, false) => O_CREAT,
            (false, false) => 0,
        };
        let number = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        let attr = self.size.map(|(messages, size)| MqAttr {
            mq_maxmsg: number(messages),
            mq_msgsize: number(size),
            ..MqAttr::default()
        });
        let opened = self.backend.raw(&MqOpen {
            name: address_to_read(name.as_bytes_with_nul()),
            oflag: access | create,
            mode,
            attr: attr.as_ref().map_or(0, address_to_read),
        });
        let fd = opened.map_err(|errno| {
            let (messages, size) = self.size.unwrap_or_default();
            let wanted = [
                (Errno::EINVAL, Limit::MqMsgMax, messages as u64),
                (Errno::EINVAL, Limit::MqMsgsizeMax, size as u64),
                // What there is of queues is as many as there may be.
                (Errno::ENOSPC, Limit::MqQueuesMax, u64::MAX),
            ];
            self.backend.explain("mq_open", errno, &wanted)
        })?;
        // A descriptor is an int.
        Ok(Mqueue { backend: self.backend, fd: ManuallyDrop::new(crate::backend::own_descriptor(fd as i32)) })
    }

    /// Takes the queue's name away: the queue goes with its last descriptor.
    ///
    /// # Errors
    /// Those of mq_unlink(3).
    pub fn remove(&self) -> Result<()> {
        let name = self.plain_name("mq_unlink")?;
        let removed = self.backend.raw(&MqUnlink { name: address_to_read(name.as_bytes_with_nul()) });
        removed.map(|_| ()).map_err(|errno| {
            // As POSIX names it.
            Error::new("mq_unlink", if errno == Errno::EPERM { Errno::EACCES } else { errno })
        })
    }
}

/// A POSIX message queue.
///
/// It is a descriptor: readable when there is a message, writable when there is room.
///
/// ```
/// use std::time::Duration;
/// use ipcspace::Namespace;
///
/// # fn main() -> Result<(), ipcspace::Error> {
/// let ns = Namespace::private()?;
/// let jobs = ns.mqueue("/jobs").create(true).size(8, 64).open()?;
/// jobs.send(b"tidy up", 1)?;
/// jobs.send(b"put out fire", 9)?;
/// let mut text = [0; 64];
/// let (len, priority) = jobs.recv(&mut text)?; // the highest priority first
/// assert_eq!((&text[..len], priority), (&b"put out fire"[..], 9));
/// jobs.recv_timeout(&mut text, Duration::from_secs(1))?;
/// assert!(jobs.try_recv(&mut text).unwrap_err().is_not_now());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Mqueue {
    backend: Backend,
    fd: ManuallyDrop<OwnedFd>,
}

impl Mqueue {
    /// Sends a message; waits for room.
    ///
    /// # Errors
    /// `EMSGSIZE` if it is longer than the queue's messages may be; those of mq_send(3).
    pub fn send(&self, text: &[u8], priority: u32) -> Result<()> {
        self.send_by(Wait::ForEver, text, priority)
    }

    /// Sends a message if there is room.
    ///
    /// # Errors
    /// `EAGAIN` if there is none; as [`Mqueue::send`].
    pub fn try_send(&self, text: &[u8], priority: u32) -> Result<()> {
        self.send_by(Wait::Not, text, priority)
    }

    /// Sends a message; waits for room for so long.
    ///
    /// # Errors
    /// `ETIMEDOUT` if there was none; as [`Mqueue::send`].
    pub fn send_timeout(&self, text: &[u8], priority: u32, timeout: Duration) -> Result<()> {
        self.send_by(Wait::during(timeout), text, priority)
    }

    /// Sends a message; waits for room until then.
    ///
    /// # Errors
    /// `ETIMEDOUT` if there was none; as [`Mqueue::send`].
    pub fn send_deadline(&self, text: &[u8], priority: u32, deadline: Instant) -> Result<()> {
        self.send_by(Wait::Until(deadline), text, priority)
    }

    fn send_by(&self, wait: Wait, text: &[u8], priority: u32) -> Result<()> {
        let until = until(wait);
        let sent = self.backend.again(&MqTimedsend {
            fd: self.fd.as_raw_fd(),
            msg: address_to_read(text),
            len: text.len() as u64,
            prio: priority,
            timeout: until.as_ref().map_or(0, address_to_read),
            time32: false,
        });
        sent.map(|_| ()).map_err(|errno| match errno {
            Errno::EINVAL if priority >= MQ_PRIO_MAX => {
                let text = format!("the priority {priority} is not below {MQ_PRIO_MAX}");
                Error::with_text("mq_send", errno, text)
            }
            errno => refused("mq_send", errno, wait),
        })
    }

    /// Receives the oldest message of the highest priority: how many bytes of the buffer it has filled, and its priority. Waits for one.
    ///
    /// # Errors
    /// `EMSGSIZE` if the buffer is shorter than the queue's messages may be ([`Attributes::size_max`]); those of mq_receive(3).
    pub fn recv(&self, text: &mut [u8]) -> Result<(usize, u32)> {
        self.recv_by(Wait::ForEver, text)
    }

    /// As [`Mqueue::recv`], if there is one.
    ///
    /// # Errors
    /// `EAGAIN` if there is none; as [`Mqueue::recv`].
    pub fn try_recv(&self, text: &mut [u8]) -> Result<(usize, u32)> {
        self.recv_by(Wait::Not, text)
    }

    /// As [`Mqueue::recv`]; waits for so long.
    ///
    /// # Errors
    /// `ETIMEDOUT` if none came; as [`Mqueue::recv`].
    pub fn recv_timeout(&self, text: &mut [u8], timeout: Duration) -> Result<(usize, u32)> {
        self.recv_by(Wait::during(timeout), text)
    }

    /// As [`Mqueue::recv`]; waits until then.
    ///
    /// # Errors
    /// `ETIMEDOUT` if none came; as [`Mqueue::recv`].
    pub fn recv_deadline(&self, text: &mut [u8], deadline: Instant) -> Result<(usize, u32)> {
        self.recv_by(Wait::Until(deadline), text)
    }

    fn recv_by(&self, wait: Wait, text: &mut [u8]) -> Result<(usize, u32)> {
        let until = until(wait);
        let mut priority = 0u32;
        let got = self.backend.again(&MqTimedreceive {
            fd: self.fd.as_raw_fd(),
            msg: address_of(text),
            len: text.len() as u64,
            prio: address_of(&mut priority),
            timeout: until.as_ref().map_or(0, address_to_read),
            time32: false,
        });
        let len = got.map_err(|errno| refused("mq_receive", errno, wait))?;
        Ok((usize::try_from(len).unwrap_or(0).min(text.len()), priority))
    }

    /// What it is like.
    ///
    /// # Errors
    /// Those of mq_getattr(3).
    pub fn attributes(&self) -> Result<Attributes> {
        let fd = self.fd.as_raw_fd();
        let attr: MqAttr = self.backend.info("mq_getattr", |old| MqGetsetattr { fd, new: 0, old })?;
        let number = |value: i64| usize::try_from(value).unwrap_or(0);
        Ok(Attributes {
            messages_max: number(attr.mq_maxmsg),
            size_max: number(attr.mq_msgsize),
            messages: number(attr.mq_curmsgs),
        })
    }
}

/// A call that doesn't wait is one whose time was over before it began.
fn until(wait: Wait) -> Option<Timespec> {
    match wait {
        Wait::ForEver => None,
        Wait::Not => Some(Timespec { tv_sec: 0, tv_nsec: 0 }),
        Wait::Until(deadline) => Some(time_of_day(deadline)),
    }
}

fn refused(call: &'static str, errno: Errno, wait: Wait) -> Error {
    match (errno, wait) {
        (Errno::ETIMEDOUT, Wait::Not) => Error::new(call, Errno::EAGAIN),
        (errno, _) => Error::new(call, errno),
    }
}

impl AsFd for Mqueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.be_watched();
        self.fd.as_fd()
    }
}

impl AsRawFd for Mqueue {
    fn as_raw_fd(&self) -> RawFd {
        self.be_watched();
        self.fd.as_raw_fd()
    }
}

impl Mqueue {
    /// Who asks for the descriptor may poll it: from now on it shows what the queue has.
    fn be_watched(&self) {
        if self.backend == Backend::Own {
            client::mqd::watch(self.fd.as_raw_fd());
        }
    }
}

impl Drop for Mqueue {
    fn drop(&mut self) {
        let (ns, fd) = (Namespace { backend: self.backend }, self.fd.as_raw_fd());
        crate::raw::close_queue(ns, fd, || crate::backend::close(&mut self.fd));
    }
}

#[cfg(feature = "tokio")]
pub(crate) mod asynchronous {
    use std::io;

    use tokio::io::unix::AsyncFd;
    use tokio::runtime::Handle;

    use super::*;

    /// A POSIX message queue in tasks of tokio: with the feature `tokio`.
    ///
    /// ```
    /// use ipcspace::{AsyncMqueue, Namespace};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let ns = Namespace::private()?;
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    /// # runtime.block_on(async {
    /// let jobs = AsyncMqueue::new(ns.mqueue("/jobs").create(true).size(8, 64).open()?)?;
    /// jobs.send(b"hello", 0).await?;
    /// let mut text = [0; 64];
    /// let (len, _) = jobs.recv(&mut text).await?;
    /// assert_eq!(&text[..len], b"hello");
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    #[derive(Debug)]
    pub struct AsyncMqueue {
        fd: AsyncFd<Mqueue>,
    }

    fn of_epoll(error: io::Error) -> Error {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
        Error::with_text("epoll_ctl", errno, error.to_string())
    }

    impl AsyncMqueue {
        /// A queue, in a task.
        ///
        /// # Errors
        /// `EINVAL` outside of a runtime; those of epoll_ctl(2).
        ///
        /// # Panics
        /// tokio does, in a runtime without I/O.
        pub fn new(queue: Mqueue) -> Result<AsyncMqueue> {
            if Handle::try_current().is_err() {
                return Err(Error::with_text("epoll_ctl", Errno::EINVAL, "this is no task of a runtime's"));
            }
            Ok(AsyncMqueue { fd: crate::backend::register(queue).map_err(of_epoll)? })
        }

        /// The queue.
        pub fn get(&self) -> &Mqueue {
            self.fd.get_ref()
        }

        /// Sends a message; waits for room. A call that is dropped has sent nothing.
        ///
        /// # Errors
        /// As [`Mqueue::send`].
        pub async fn send(&self, text: &[u8], priority: u32) -> Result<()> {
            loop {
                let mut ready = self.fd.writable().await.map_err(of_epoll)?;
                match self.get().try_send(text, priority) {
                    Err(error) if error.is(Errno::EAGAIN) => ready.clear_ready(),
                    done => return done,
                }
            }
        }

        /// Receives a message, as [`Mqueue::recv`]; waits for one. A call that is dropped has received nothing.
        ///
        /// # Errors
        /// As [`Mqueue::recv`].
        pub async fn recv(&self, text: &mut [u8]) -> Result<(usize, u32)> {
            loop {
                let mut ready = self.fd.readable().await.map_err(of_epoll)?;
                match self.get().try_recv(text) {
                    Err(error) if error.is(Errno::EAGAIN) => ready.clear_ready(),
                    done => return done,
                }
            }
        }
    }
}
