//! Error numbers that print their names.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The errno that a call left.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Errno(pub(crate) i32);

macro_rules! errnos {
    ($($name:ident)*) => {
        $(pub(crate) const $name: Errno = Errno(libc::$name);)*

        impl fmt::Debug for Errno {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {
                    $($name => f.write_str(stringify!($name)),)*
                    Errno(other) => write!(f, "errno {other}"),
                }
            }
        }
    };
}

errnos! {
    E2BIG EACCES EAGAIN EBADF EBUSY EEXIST EFAULT EFBIG EIDRM EINTR EINVAL EMFILE EMSGSIZE ENAMETOOLONG ENOENT ENOMEM ENOMSG ENOSPC
    ENOSYS ENOTSOCK EPERM ERANGE ETIMEDOUT
}
