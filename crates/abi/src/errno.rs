//! Error numbers.

use core::fmt;
use core::num::NonZeroU16;

/// An error number of Linux, 1 to 4095.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(NonZeroU16);

macro_rules! errnos {
    ($($name:ident = $value:literal, $text:literal;)*) => {
        impl Errno {
            $(#[doc = $text] pub const $name: Errno = match NonZeroU16::new($value) {
                Some(v) => Errno(v),
                None => panic!("zero is not an error"),
            };)*

            /// The constant's name, where it is one that IPC calls give.
            pub const fn name(self) -> Option<&'static str> {
                match self.0.get() { $($value => Some(stringify!($name)),)* _ => None }
            }

            /// What the manual page says of it.
            pub const fn text(self) -> Option<&'static str> {
                match self.0.get() { $($value => Some($text),)* _ => None }
            }
        }
    };
}

errnos! {
    EPERM = 1, "Operation not permitted";
    ENOENT = 2, "No such file or directory";
    ESRCH = 3, "No such process";
    EINTR = 4, "Interrupted system call";
    ENXIO = 6, "No such device or address";
    E2BIG = 7, "Argument list too long";
    EBADF = 9, "Bad file descriptor";
    EAGAIN = 11, "Resource temporarily unavailable";
    ENOMEM = 12, "Cannot allocate memory";
    EACCES = 13, "Permission denied";
    EFAULT = 14, "Bad address";
    EBUSY = 16, "Device or resource busy";
    EEXIST = 17, "File exists";
    ENOTDIR = 20, "Not a directory";
    EISDIR = 21, "Is a directory";
    EINVAL = 22, "Invalid argument";
    ENFILE = 23, "Too many open files in system";
    EMFILE = 24, "Too many open files";
    EFBIG = 27, "File too large";
    ENOSPC = 28, "No space left on device";
    EROFS = 30, "Read-only file system";
    EPIPE = 32, "Broken pipe";
    ERANGE = 34, "Numerical result out of range";
    ENAMETOOLONG = 36, "File name too long";
    ENOSYS = 38, "Function not implemented";
    ENOMSG = 42, "No message of desired type";
    EIDRM = 43, "Identifier removed";
    EPROTO = 71, "Protocol error";
    EOVERFLOW = 75, "Value too large for defined data type";
    ENOTSOCK = 88, "Socket operation on non-socket";
    EMSGSIZE = 90, "Message too long";
    EOPNOTSUPP = 95, "Operation not supported";
    ECONNRESET = 104, "Connection reset by peer";
    ETOOMANYREFS = 109, "Too many references: cannot splice";
    ETIMEDOUT = 110, "Connection timed out";
}

impl Errno {
    /// The error of a raw number; what is not 1 to 4095 becomes `EINVAL`.
    pub const fn from_raw(raw: i32) -> Errno {
        if raw < 1 || raw > 4095 {
            return Errno::EINVAL;
        }
        #[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "1 to 4095 fits")]
        match NonZeroU16::new(raw as u16) {
            Some(v) => Errno(v),
            None => Errno::EINVAL,
        }
    }

    /// The number, as `errno` holds it.
    pub const fn raw(self) -> i32 {
        self.0.get() as i32
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text() {
            Some(text) => f.write_str(text),
            None => write!(f, "error {}", self.0),
        }
    }
}

impl core::error::Error for Errno {}
