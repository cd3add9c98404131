//! A namespace as files, by FUSE: `mqueue/` as `mount -t mqueue` shows it, `proc/sysvipc/` and the sysctls in `proc/sys/`.
//!
//! What users see: `ipcspace mount`, and `run --mount`, which puts these in the kernel's places. The broker serves them, so a mount keeps no
//! namespace alive; when the broker has ended, all that is asked of the files is `ENOTCONN`.
//! What is missing: see LIMITATIONS.md.
//!
//! Whether somebody may do something the kernel decides, by owners and modes (`default_permissions`). Nothing is kept in its caches, as
//! programs change the namespace without coming by here.

#![deny(unsafe_code)]

mod files;
mod mount;
#[expect(unsafe_code, reason = "descriptors of other crates")]
mod queue;
mod tree;
#[expect(unsafe_code, reason = "descriptors of other crates, and a process that is forked off")]
mod unseen;

use std::io;
use std::os::fd::OwnedFd;

use client::Operation;
use fuser::{Config, Session, SessionACL};

pub use mount::{
    Failure, Mounted, SOURCE, Ways, be_able_to_mount, begin_overmount, mount, mounted, overmount, receive,
    unmount, ways,
};
pub use unseen::Unseen;

/// Serves a mount, by threads of this process, which has attached to the namespace; `fuse` is the descriptor that it was mounted with. Returns
/// when it can be used.
///
/// # Errors
/// If it is no mount, or one that is over already.
pub fn serve(fuse: OwnedFd) -> io::Result<()> {
    give_large_blocks_back();
    // The kernel has been told who may use it.
    let session = Session::from_fd(files::Files::default(), fuse, SessionACL::All, Config::default())?;
    // A thread that lives as long as the mount: the session is over when it is unmounted.
    let run = || drop(session.run());
    std::thread::Builder::new().name("view".into()).stack_size(128 << 10).spawn(run).map(drop)
}

/// A session reads into 16 MiB, which glibc would keep for the next one, for each thread there was: unless such blocks are never more than mapped.
fn give_large_blocks_back() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "a function of glibc's alone")]
    // SAFETY: integers.
    unsafe {
        nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, 1 << 20);
    }
}

/// The thread's slot in the namespace, given up when the thread ends.
struct Slot;

impl Drop for Slot {
    fn drop(&mut self) {
        client::end_thread();
    }
}

thread_local! {
    static SLOT: Slot = const { Slot };
}

/// Does an operation in the namespace.
fn in_namespace<R>(operation: impl FnOnce(&Operation<'_>) -> abi::Result<R>) -> abi::Result<R> {
    SLOT.with(|_| ());
    client::with(operation)
}
