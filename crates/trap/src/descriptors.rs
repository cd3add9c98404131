//! What the descriptors of POSIX queues are that a thread names in its calls.
//!
//! What users see: whatever a program does with its numbers meanwhile, a call is for what the number is when the call is made.
//!
//! A copy of the description tells by its inode which queue it is of, and by its flags what it was opened for. The inode is known from the first look on, as long as
//! it is kept, by a descriptor that does not count as one of the queue's (`O_PATH`): no other file can have its number then. A copy is kept as long as the
//! call lasts, at most until it sleeps: to be told whether it may block, and to show what the queue has to who polls.
//!
//! Where no copy can be had, as of a process that only may be looked at, /proc tells by the descriptor's name. So it is from then on with a process that
//! has named something that is no FIFO: to close a copy may take long, and the last one even longer.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use abi::{Errno, Result};
use arena::Handle;
use client::mqd;
use engine::Mqd;
use sys::{file, net::Fd};

use crate::process::{descriptor_of, fifo, has_ended, thread_pidfd};
use crate::{room, without};

/// Queues of a process that are known at a time.
const KNOWN_MAX: usize = 16;

/// Those of a process.
pub(crate) struct Descriptors {
    pidfd: OwnedFd,
    tgid: u32,
    /// Whether copies can be had, and closed at once.
    copies: AtomicBool,
    /// The queues of inodes, by their devices and numbers, and what keeps these.
    known: Mutex<HashMap<(u64, u64), (Handle, Fd)>>,
}

/// One that a call names.
pub(crate) struct Named {
    number: i32,
    pub(crate) mqd: Mqd,
    pub(crate) flags: i32,
    /// A copy, if one can be had.
    copy: Option<OwnedFd>,
}

impl Named {
    /// Whether it is that number's.
    pub(crate) fn is(&self, number: i32) -> bool {
        self.number == number
    }

    /// A descriptor of ours of that queue.
    pub(crate) fn of_queue(&self, queue: Handle) -> Option<i32> {
        self.copy.as_ref().filter(|_| self.mqd.queue == queue).map(AsRawFd::as_raw_fd)
    }
}

impl Descriptors {
    pub(crate) fn new(tgid: u32, pidfd: OwnedFd) -> Descriptors {
        Descriptors { pidfd, tgid, copies: (!without("pidfd_getfd")).into(), known: Mutex::default() }
    }

    /// Whether the process has ended.
    pub(crate) fn has_ended(&self) -> bool {
        has_ended(&self.pidfd)
    }

    /// What a number of that thread's is.
    ///
    /// # Errors
    /// `EBADF`.
    pub(crate) fn named(&self, tid: u32, number: i32) -> Result<Named> {
        // A thread may have a table of its own.
        let copy = if !self.copies.load(Relaxed) {
            Err(Errno::ENOSYS)
        } else if tid == self.tgid {
            descriptor_of(&self.pidfd, number)
        } else {
            thread_pidfd(tid).and_then(|pidfd| descriptor_of(&pidfd, number))
        };
        match copy {
            Ok(copy) => self.of_copy(number, copy),
            Err(Errno::EBADF) => Err(Errno::EBADF),
            Err(_) => by_name(tid, number),
        }
    }

    fn of_copy(&self, number: i32, copy: OwnedFd) -> Result<Named> {
        let Some(inode) = fifo(&copy) else {
            self.copies.store(false, Relaxed);
            // If there can be no thread, it is closed by who has tried.
            let _ = room::spawn("trap-close", move || drop(copy));
            return Err(Errno::EBADF);
        };
        let flags = file::flags(copy.as_raw_fd())?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = match known.get(&inode) {
            Some((queue, _)) => *queue,
            None => {
                let queue = mqd::of_given(copy.as_raw_fd())?.queue;
                if known.len() >= KNOWN_MAX {
                    known.clear();
                }
                // Where there is no descriptor left for it, it is looked for in each call.
                if let Ok(kept) = file::reopen(copy.as_raw_fd(), file::O_PATH | file::O_CLOEXEC) {
                    known.insert(inode, (queue, kept));
                }
                queue
            }
        };
        Ok(Named { number, mqd: mqd::opened_as(queue, flags)?, flags, copy: Some(copy) })
    }
}

/// What a number is by the descriptor's name, where there is the same file for us.
fn by_name(tid: u32, number: i32) -> Result<Named> {
    let link = format!("/proc/{tid}/fd/{number}");
    let path = fs::read_link(&link).map_err(|_| Errno::EBADF)?;
    // In one read; the flags stand in the second line.
    let mut info = [0; 128];
    let read = File::open(format!("/proc/{tid}/fdinfo/{number}")).and_then(|mut file| file.read(&mut info));
    let info = str::from_utf8(&info[..read.map_err(|_| Errno::EBADF)?]).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|octal| i32::from_str_radix(octal.trim(), 8).ok()).ok_or(Errno::EBADF)?;
    let queue = mqd::queue_of(path.as_os_str().as_bytes()).ok_or(Errno::EBADF)?;
    let inode = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    let (its, ours) = (inode(Path::new(&link)), inode(&path));
    if its.is_none() || its != ours {
        return Err(Errno::EBADF);
    }
    Ok(Named { number, mqd: mqd::opened_as(queue, flags)?, flags, copy: None })
}
