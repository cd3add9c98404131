//! Who answers the calls: the system, or a namespace of user space.
//!
//! What users see: the same types for both. The system's calls are made by libc's `syscall`, so under a preloaded library of `ipcspace run` they are
//! that namespace's, as those of any program.
//! What is missing: the kernel has no timeouts for `msgsnd` and `msgrcv`; there, it is looked again and again, at most every 5 ms.
//!
//! # Safety
//! Addresses in a call are those of a value that the caller has borrowed for it, with its length.
#![expect(unsafe_code, reason = "system calls")]

use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use abi::{
    Errno, Plain,
    ipc::IPC_INFO,
    mqueue::Sigevent,
    msg::{MSG_INFO, MsgInfo},
    sem::{SEM_INFO, SEMVMX, SemInfo},
    shm::{SHM_INFO, ShmInfo, Shminfo64},
};
use engine::Call;
use engine::syscall::{Msgctl, Semctl, Shmctl};

use crate::time::{Wait, left, monotonic};
use crate::{Error, Limit, Namespace, Result};

/// Longest pause between two looks.
const PAUSE_MAX: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Backend {
    /// Whoever answers this process's system calls.
    System,
    /// The namespace that this process is in.
    Own,
}

pub(crate) type Raw = std::result::Result<i64, Errno>;

impl Backend {
    #[inline]
    pub(crate) fn raw<C: Call>(self, call: &C) -> Raw {
        match self {
            Backend::Own => client::call(call),
            Backend::System => by_system(call),
        }
    }

    /// A call that goes on after a handler with `SA_RESTART`.
    #[inline]
    pub(crate) fn again<C: Call>(self, call: &C) -> Raw {
        match self {
            Backend::Own => client::call_again(call),
            Backend::System => by_system(call),
        }
    }

    #[inline]
    pub(crate) fn call<C: Call>(self, name: &'static str, call: &C) -> Result<i64> {
        self.raw(call).map_err(|errno| Error::new(name, errno))
    }

    /// Whether a call that waits so can be made here at once, without a look at who else could make it.
    #[inline]
    pub(crate) fn is_here(self, wait: Wait) -> bool {
        self == Backend::Own && !matches!(wait, Wait::Until(_))
    }

    /// As [`Backend::wait`], for a call that can't be said by registers: none where it would have to be.
    #[inline]
    pub(crate) fn here<C: Call>(self, wait: Wait, make: impl Fn(bool) -> C) -> Option<Raw> {
        if self != Backend::Own {
            return None;
        }
        let done = match wait {
            Wait::ForEver | Wait::Not => client::call_here(&make(matches!(wait, Wait::ForEver))),
            Wait::Until(deadline) => client::call_until(&make(true), monotonic(deadline)),
        };
        // It may be that others make this process's calls.
        (done != Err(Errno::EACCES)).then_some(done)
    }

    /// A call that has no timeout, but a form that doesn't wait.
    #[inline]
    pub(crate) fn wait<C: Call>(self, wait: Wait, make: impl Fn(bool) -> C) -> Raw {
        match wait {
            Wait::ForEver | Wait::Not => self.raw(&make(matches!(wait, Wait::ForEver))),
            Wait::Until(deadline) => self.look_again(deadline, make),
        }
    }

    fn look_again<C: Call>(self, deadline: Instant, make: impl Fn(bool) -> C) -> Raw {
        let mut pause = Duration::from_micros(50);
        loop {
            match self.raw(&make(false)) {
                Err(Errno::EAGAIN | Errno::ENOMSG) => {}
                done => return done,
            }
            let left = left(deadline);
            if left.is_zero() {
                return Err(Errno::ETIMEDOUT);
            }
            thread::sleep(pause.min(left));
            pause = (2 * pause).min(PAUSE_MAX);
        }
    }

    /// `shmdt`.
    pub(crate) fn detach(self, addr: u64) -> Raw {
        match self {
            Backend::Own => client::shmdt(addr),
            Backend::System => by_system(&engine::syscall::Shmdt { addr }),
        }
    }

    /// What a limit is.
    pub(crate) fn limit(self, limit: Limit) -> Result<u64> {
        let number = |value: i32| u64::try_from(value).unwrap_or(0);
        let of_mqueue = |limit, file| match self {
            Backend::Own => client::limit(limit).map(number).map_err(|errno| Error::new("sysctl", errno)),
            Backend::System => read(file),
        };
        Ok(match limit {
            Limit::MsgMax | Limit::MsgMnb | Limit::MsgMni => {
                let info = self.info::<MsgInfo, _>("msgctl", |buf| Msgctl { id: 0, cmd: IPC_INFO, buf })?;
                number(match limit {
                    Limit::MsgMax => info.msgmax,
                    Limit::MsgMnb => info.msgmnb,
                    _ => info.msgmni,
                })
            }
            Limit::SemMsl | Limit::SemMns | Limit::SemOpm | Limit::SemMni => {
                let info =
                    self.info::<SemInfo, _>("semctl", |arg| Semctl { id: 0, num: 0, cmd: IPC_INFO, arg })?;
                number(match limit {
                    Limit::SemMsl => info.semmsl,
                    Limit::SemMns => info.semmns,
                    Limit::SemOpm => info.semopm,
                    _ => info.semmni,
                })
            }
            Limit::SemVmx => number(SEMVMX),
            Limit::ShmMax | Limit::ShmAll | Limit::ShmMni => {
                let info = self.info::<Shminfo64, _>("shmctl", |buf| Shmctl { id: 0, cmd: IPC_INFO, buf })?;
                match limit {
                    Limit::ShmMax => info.shmmax,
                    Limit::ShmAll => info.shmall,
                    _ => info.shmmni,
                }
            }
            Limit::MqQueuesMax => of_mqueue(engine::Limit::MqQueuesMax, "queues_max")?,
            Limit::MqMsgMax => of_mqueue(engine::Limit::MqMsgMax, "msg_max")?,
            Limit::MqMsgsizeMax => of_mqueue(engine::Limit::MqMsgsizeMax, "msgsize_max")?,
        })
    }

    /// What a call writes at an address.
    pub(crate) fn info<P: Plain, C: Call>(self, name: &'static str, call: impl Fn(u64) -> C) -> Result<P> {
        let mut value = P::default();
        self.call(name, &call(address_of(&mut value)))?;
        Ok(value)
    }

    /// How much of what a limit bounds is in use; 0 where the limit is of single objects, or it is not known.
    fn used(self, limit: Limit) -> Result<u64> {
        let number = |value: i32| u64::try_from(value).unwrap_or(0);
        Ok(match limit {
            Limit::MsgMni => {
                let info = self.info::<MsgInfo, _>("msgctl", |buf| Msgctl { id: 0, cmd: MSG_INFO, buf })?;
                number(info.msgpool)
            }
            Limit::SemMns | Limit::SemMni => {
                let info =
                    self.info::<SemInfo, _>("semctl", |arg| Semctl { id: 0, num: 0, cmd: SEM_INFO, arg })?;
                number(if limit == Limit::SemMni { info.semusz } else { info.semaem })
            }
            Limit::ShmAll | Limit::ShmMni => {
                let info = self.info::<ShmInfo, _>("shmctl", |buf| Shmctl { id: 0, cmd: SHM_INFO, buf })?;
                if limit == Limit::ShmMni { number(info.used_ids) } else { info.shm_tot }
            }
            _ => 0,
        })
    }

    /// The error, and the limit that it is about: of these, the first that has less left than was wanted of it.
    #[cold]
    pub(crate) fn explain(self, name: &'static str, errno: Errno, wanted: &[(Errno, Limit, u64)]) -> Error {
        let error = Error::new(name, errno);
        for (_, limit, wanted) in wanted.iter().filter(|(of, ..)| *of == errno) {
            if let (Ok(value), Ok(used)) = (self.limit(*limit), self.used(*limit))
                && used.saturating_add(*wanted) > value
            {
                return error.with_limit(*limit, Some(value));
            }
        }
        error
    }
}

fn read(file: &str) -> Result<u64> {
    let path = format!("/proc/sys/fs/mqueue/{file}");
    let text = std::fs::read_to_string(&path).map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
        Error::with_text("sysctl", errno, format!("{path}: {error}"))
    })?;
    text.trim().parse().map_err(|_| Error::with_text("sysctl", Errno::EINVAL, format!("{path}: {text}")))
}

/// The address of what a call writes.
pub(crate) fn address_of<T: ?Sized>(value: &mut T) -> u64 {
    (&raw mut *value).cast::<u8>().expose_provenance() as u64
}

/// The address of what a call reads.
pub(crate) fn address_to_read<T: ?Sized>(value: &T) -> u64 {
    (&raw const *value).cast::<u8>().expose_provenance() as u64
}

#[inline(never)]
fn by_system<C: Call>(call: &C) -> Raw {
    let (number, [a, b, c, d, e, f]) = call.registers();
    // SAFETY: see the head.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result != -1 {
        return Ok(result);
    }
    Err(last_error())
}

/// `mq_notify` with `SIGEV_THREAD`, which libc makes where the system answers.
///
/// # Errors
/// The call's.
///
/// # Safety
/// As libc's.
pub unsafe fn notify_by_thread(ns: Namespace, fd: i32, event: &Sigevent) -> std::result::Result<i64, i32> {
    let done = match ns.backend {
        // SAFETY: the caller's promise.
        Backend::Own => unsafe { client::notify_by_thread(fd, event) },
        // SAFETY: the caller's promise; the structure is libc's `sigevent`.
        Backend::System => match unsafe { libc::mq_notify(fd, (&raw const *event).cast()) } {
            -1 => Err(last_error()),
            done => Ok(done.into()),
        },
    };
    done.map_err(Errno::raw)
}

fn last_error() -> Errno {
    Errno::from_raw(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
}

/// Whether libc's calls of this process are those of a library that `ipcspace run` has preloaded.
pub(crate) fn is_preloaded() -> bool {
    // SAFETY: only asks where a symbol is, and in which file; the answer's strings live as long as the file is loaded.
    unsafe {
        let symbol = libc::dlsym(libc::RTLD_DEFAULT, c"msgsnd".as_ptr());
        let mut found: libc::Dl_info = std::mem::zeroed();
        if symbol.is_null() || libc::dladdr(symbol, &raw mut found) == 0 || found.dli_fname.is_null() {
            return false;
        }
        std::ffi::CStr::from_ptr(found.dli_fname).to_bytes().ends_with(b"libipcspace_preload.so")
    }
}

/// A descriptor that a call has opened.
pub(crate) fn own_descriptor(fd: i32) -> OwnedFd {
    // SAFETY: it was just opened, and nobody else knows of it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Closes a descriptor, in the middle of what has to be done around that.
pub(crate) fn close(fd: &mut ManuallyDrop<OwnedFd>) {
    // SAFETY: called once, when its owner is dropped.
    unsafe { ManuallyDrop::drop(fd) };
}

/// Has the runtime watch a queue.
#[cfg(feature = "tokio")]
pub(crate) fn register(queue: crate::Mqueue) -> std::io::Result<tokio::io::unix::AsyncFd<crate::Mqueue>> {
    // SAFETY: a queue has the same descriptor as long as it lives.
    Ok(unsafe { tokio::io::unix::AsyncFd::register(queue) }?)
}
