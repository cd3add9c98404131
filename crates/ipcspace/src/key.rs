//! Names of objects, and types of messages.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use abi::Errno;

use crate::{Error, Result};

/// By which an object is found: a number that programs agree on.
///
/// ```
/// use ipcspace::Key;
///
/// # fn main() -> Result<(), ipcspace::Error> {
/// assert_eq!(Key::from_path("/", b'A')?, Key::from_path("/", b'A')?);
/// assert_ne!(Key::from_path("/", b'A')?, Key::from_path("/", b'B')?);
/// assert_eq!(Key::new(0x4a0b).to_string(), "0x00004a0b");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key(pub(crate) i32);

impl Key {
    /// `IPC_PRIVATE`: each object that is opened by it is a new one, which nobody finds by a key.
    pub const PRIVATE: Key = Key(0);

    /// The key of that number.
    pub const fn new(number: i32) -> Key {
        Key(number)
    }

    /// The number.
    pub const fn number(self) -> i32 {
        self.0
    }

    /// ftok(3): the key that all programs get that name the same file and the same id.
    ///
    /// # Errors
    /// Those of stat(2).
    pub fn from_path(path: impl AsRef<Path>, id: u8) -> Result<Key> {
        let path = path.as_ref();
        let meta = std::fs::metadata(path).map_err(|error| {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
            Error::with_text("ftok", errno, format!("{}: {error}", path.display()))
        })?;
        let of_file = (meta.ino() & 0xffff) | (meta.dev() & 0xff) << 16;
        // Both fit: 24 bits, and eight behind them.
        Ok(Key((of_file as u32 | u32::from(id) << 24).cast_signed()))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

/// A message's type: a number above 0.
///
/// ```
/// use ipcspace::MsgType;
///
/// assert_eq!(MsgType::new(7).unwrap().number(), 7);
/// assert_eq!(MsgType::new(0).unwrap_err().errno(), 22);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MsgType(i64);

impl MsgType {
    /// The least one.
    pub const FIRST: MsgType = MsgType(1);

    /// The type of that number.
    ///
    /// # Errors
    /// `EINVAL` for one that is not above 0.
    pub const fn new(number: i64) -> Result<MsgType> {
        if number < 1 { Err(Error::new("msgsnd", Errno::EINVAL)) } else { Ok(MsgType(number)) }
    }

    /// The number.
    pub const fn number(self) -> i64 {
        self.0
    }
}

impl TryFrom<i64> for MsgType {
    type Error = Error;

    fn try_from(number: i64) -> Result<MsgType> {
        MsgType::new(number)
    }
}
