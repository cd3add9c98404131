//! What can go wrong, and what stood in the way.

use std::{fmt, io};

use abi::Errno;

use crate::Limit;

/// The result of a call of this crate.
///
/// ```
/// use ipcspace::{Key, MsgType, Namespace, Queue, Result};
///
/// fn first(queue: &Queue) -> Result<()> {
///     queue.send(MsgType::FIRST, b"begin")
/// }
///
/// assert_eq!(first(&Namespace::private()?.queue(Key::PRIVATE).open()?), Ok(()));
/// # Ok::<(), ipcspace::Error>(())
/// ```
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed: an error number, the call that gave it, and the limit that stood in the way, if one did.
///
/// ```
/// use ipcspace::{Key, Limit, MsgType, Namespace};
///
/// # fn main() -> Result<(), ipcspace::Error> {
/// let ns = Namespace::private()?;
/// let queue = ns.queue(Key::PRIVATE).open()?;
/// let error = queue.send(MsgType::new(1)?, &[0; 10_000]).unwrap_err();
/// assert_eq!((error.call(), error.errno(), error.limit()), ("msgsnd", 22, Some(Limit::MsgMax)));
/// assert_eq!(error.to_string(), "msgsnd: Invalid argument (kernel.msgmax is 8192)");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Error {
    call: &'static str,
    errno: Errno,
    limit: Option<(Limit, Option<u64>)>,
    text: Option<Box<str>>,
}

impl Error {
    pub(crate) const fn new(call: &'static str, errno: Errno) -> Error {
        Error { call, errno, limit: None, text: None }
    }

    pub(crate) fn with_text(call: &'static str, errno: Errno, text: impl Into<Box<str>>) -> Error {
        Error { text: Some(text.into()), ..Error::new(call, errno) }
    }

    pub(crate) fn with_limit(self, limit: Limit, value: Option<u64>) -> Error {
        Error { limit: Some((limit, value)), ..self }
    }

    pub(crate) fn is(&self, errno: Errno) -> bool {
        self.errno == errno
    }

    /// The error number, as `errno` has it.
    pub fn errno(&self) -> i32 {
        self.errno.raw()
    }

    /// The call that failed, by the name of its manual page.
    pub fn call(&self) -> &'static str {
        self.call
    }

    /// The limit that stood in the way.
    pub fn limit(&self) -> Option<Limit> {
        self.limit.map(|(limit, _)| limit)
    }

    /// What that limit was, where it was asked for.
    pub fn limit_value(&self) -> Option<u64> {
        self.limit.and_then(|(_, value)| value)
    }

    /// Whether a call would have had to wait, or has waited long enough.
    pub fn is_not_now(&self) -> bool {
        matches!(self.errno, Errno::EAGAIN | Errno::ENOMSG | Errno::ETIMEDOUT)
    }

    /// Whether the object has been removed.
    pub fn is_removed(&self) -> bool {
        self.errno == Errno::EIDRM
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.call)?;
        match &self.text {
            Some(text) => f.write_str(text)?,
            None => write!(f, "{}", self.errno)?,
        }
        match self.limit {
            Some((limit, Some(value))) => write!(f, " ({limit} is {value})"),
            Some((limit, None)) => write!(f, " ({limit})"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({:?}: {self})", self.errno)
    }
}

impl std::error::Error for Error {}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        io::Error::new(io::Error::from_raw_os_error(error.errno()).kind(), error)
    }
}
