//! A file system that is mounted nowhere: who has the descriptor of its topmost directory opens its files.
//!
//! # Safety
//! Every call is given integers and terminated strings.

use core::ffi::CStr;

use abi::Result;

use crate::{check, net::Fd, syscall6};

/// A file system that is being put together.
pub struct FileSystem(Fd);

impl FileSystem {
    /// One of that type.
    ///
    /// # Errors
    /// `EPERM` for who may not mount, `ENODEV`.
    pub fn of_type(name: &CStr) -> Result<FileSystem> {
        const FSOPEN_CLOEXEC: usize = 1;
        // SAFETY: a terminated string.
        let fd = check(unsafe { syscall6(430, name.as_ptr() as usize, FSOPEN_CLOEXEC, 0, 0, 0, 0) })?;
        Ok(FileSystem(Fd::own(fd as i32)))
    }

    /// Sets an option, which may have a value.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn set(&self, option: &CStr, value: Option<&CStr>) -> Result<()> {
        const FSCONFIG_SET_FLAG: usize = 0;
        const FSCONFIG_SET_STRING: usize = 1;
        let (what, value) = match value {
            Some(value) => (FSCONFIG_SET_STRING, value.as_ptr() as usize),
            None => (FSCONFIG_SET_FLAG, 0),
        };
        self.config(what, option.as_ptr() as usize, value)
    }

    /// Mounts it, without programs, devices and rights gained in it; its topmost directory.
    ///
    /// # Errors
    /// The file system's.
    pub fn mount(self) -> Result<Fd> {
        const FSCONFIG_CMD_CREATE: usize = 6;
        const FSMOUNT_CLOEXEC: usize = 1;
        const NOSUID_NODEV_NOEXEC: usize = 2 | 4 | 8;
        self.config(FSCONFIG_CMD_CREATE, 0, 0)?;
        let fs = self.0.raw() as usize;
        // SAFETY: integers.
        let fd = check(unsafe { syscall6(432, fs, FSMOUNT_CLOEXEC, NOSUID_NODEV_NOEXEC, 0, 0, 0) })?;
        Ok(Fd::own(fd as i32))
    }

    fn config(&self, what: usize, option: usize, value: usize) -> Result<()> {
        // SAFETY: terminated strings, or nothing.
        check(unsafe { syscall6(431, self.0.raw() as usize, what, option, value, 0, 0) }).map(|_| ())
    }
}
