//! Going to another namespace: what `unshare`, `clone` and `setns` with `CLONE_NEWIPC` come to.
//!
//! What users see: the process leaves its namespace as at its end (`SEM_UNDO` is applied), keeps what it has attached, and is in the other one from
//! then on, with all that it starts. A namespace that another process is in can be had as a descriptor: a connection to its broker, which keeps the
//! namespace as long as it is open anywhere.
//! What is missing: a process of several threads can't go (`EINVAL`), as a thread has no namespace of its own here; nor can a vfork child.

use core::sync::atomic::{AtomicBool, AtomicI32, Ordering::*};

use abi::{Errno, Result};
use engine::{Task as _, options::IPC_NS};
use sys::net::{self, Fd};

use crate::{IDLE, attach, attachments, holders, tls, vfork, wire};

/// The flag of `unshare`, `clone` and `setns`.
pub const CLONE_NEWIPC: u64 = 0x0800_0000;

/// A namespace to go to, which is kept meanwhile.
pub struct Target {
    link: Fd,
}

/// Whether this process is in a namespace of ours: if not, its calls are the kernel's affair.
pub fn is_within() -> bool {
    attach::is_named()
}

/// `EPERM` for who may not leave, `EINVAL` for who can't.
fn check() -> Result<()> {
    if !IPC_NS || vfork::is_child(tls::get()) || tls::get().busy.load(Relaxed) != IDLE {
        return Err(Errno::EINVAL);
    }
    match crate::with(|ctx| Ok(ctx.host.cred().sys_admin)) {
        Ok(true) => {}
        // A stranger has no rights over the namespace.
        Ok(false) | Err(Errno::EACCES) => return Err(Errno::EPERM),
        Err(error) => return Err(error),
    }
    if sys::thread::is_only() { Ok(()) } else { Err(Errno::EINVAL) }
}

impl Target {
    /// A new namespace.
    ///
    /// # Errors
    /// `EPERM EINVAL`; `ENOSPC` if there are too many; `ENOMEM`.
    pub fn new() -> Result<Target> {
        check()?;
        Target::ask(wire::ASK_NEW_NAMESPACE, 0)
    }

    /// The one that a process is in.
    ///
    /// # Errors
    /// `ESRCH` if it is in none of ours.
    pub fn of_process(pid: u32) -> Result<Target> {
        Target::ask(wire::ASK_NAMESPACE_OF, pid)
    }

    /// Whether a descriptor stands for one.
    pub fn is_descriptor(fd: i32) -> bool {
        net::peer_path(fd, &mut [0; 108]).is_some()
    }

    /// The one that a descriptor stands for, if it is such a descriptor.
    pub fn of_descriptor(fd: i32) -> Option<Target> {
        if !Target::is_descriptor(fd) {
            return None;
        }
        Some(Target { link: sys::file::duplicate(fd, 0).ok()? })
    }

    /// The descriptor that stands for it.
    pub fn into_descriptor(self) -> Fd {
        self.link
    }

    fn ask(which: u32, arg: u32) -> Result<Target> {
        let (_, link) = attach::ask(which, [arg, 0])?;
        Ok(Target { link: link.ok_or(Errno::EMFILE)? })
    }

    /// Takes this process there.
    ///
    /// # Errors
    /// `EPERM EINVAL`: it is where it was.
    pub fn enter(&self) -> Result<()> {
        check()?;
        self.enter_unchecked()
    }

    /// [`Target::enter`] for a child of clone, whose parent was allowed to.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn enter_unchecked(&self) -> Result<()> {
        let mut room = [0; 108];
        let path = net::peer_path(self.link.raw(), &mut room).ok_or(Errno::EINVAL)?;
        attach::move_to(path)?;
        watch_forks();
        // Known from now on: it is this process that keeps the namespace. One that is a stranger there is told so by its calls, and keeps it by the
        // connection until it executes a program, which is known by its environment, or ends.
        if crate::with(|_| Ok(())).is_err() {
            let _ = sys::file::duplicate(self.link.raw(), holders::LOWEST).map(Fd::leak);
        }
        Ok(())
    }
}

// ---- fork
//
// Such a namespace ends with its last process, so its broker has to know of each child before the parent can have ended: a connection keeps the
// namespace over the fork, and the child closes it when it is known.

/// Whether forks are watched.
static WATCHING: AtomicBool = AtomicBool::new(false);
/// The connection, -1 if there is none.
static KEPT: AtomicI32 = AtomicI32::new(-1);

fn watch_forks() {
    if !WATCHING.swap(true, Relaxed) {
        attachments::at_fork(before_fork, Some(after_fork), in_child);
    }
}

extern "C" fn before_fork() {
    // Without one, the child is told of all the same, if a little late.
    KEPT.store(attach::lease().map_or(-1, Fd::leak), Relaxed);
}

extern "C" fn after_fork() {
    let kept = KEPT.swap(-1, Relaxed);
    if kept >= 0 {
        drop(Fd::new(kept));
    }
}

extern "C" fn in_child() {
    attach::be_known();
    after_fork();
}
