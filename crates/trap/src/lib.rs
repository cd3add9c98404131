//! The trap: IPC for programs that make system calls without libc's symbols, be they static, of another libc, or with
//! instructions of their own.
//!
//! What users see: such a program takes part in the namespace of `ipcspace run` as a preloaded one does. A filter ([`filter`]), installed before
//! the command is executed, has the kernel ask us about the engine's calls; they are made on behalf of the asker
//! ([`client::behalf`]), with its rights and in its memory, and answered.
//!
//! What is missing: a program whose memory is slow to reach (of FUSE, or handled by itself by userfaultfd) holds the others up, and so does one that opens a file named like ours where names are slow to be looked up.
//! One that is frozen within a `shmat` or `shmdt` holds them up for 2 seconds; thawed, it goes on, but the call is `ESRCH`, and may be done or not.
//!
//! Three threads of the broker's process work here: one takes what is asked, one wakes sleepers and looks at their deadlines and
//! signals, one waits for the ends of processes. (Where the listener is, a fourth one takes in traps of a `run` inside this one, and who goes to another namespace is seen to by a thread for that.) They do so by turns, under one lock, which is never held over a sleep of a caller.

mod descriptors;
mod files;
pub mod filter;
mod namespaces;
mod notices;
mod notify;
pub mod process;
mod queues;
mod room;
pub mod routes;
mod signals;
pub mod stub;
mod target;
mod trace;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

pub use files::View;
pub use room::elsewhere;
pub use target::{has, processes};
pub use trace::{run_until, wait_for_child};

/// Whether `IPCSPACE_WITHOUT` names a feature of the kernel: then it is done without, as by an older one.
pub(crate) fn without(feature: &str) -> bool {
    std::env::var("IPCSPACE_WITHOUT").is_ok_and(|list| list.split(',').any(|name| name.trim() == feature))
}

/// Serves the calls that are asked about at `listener`, in threads of this process, until nobody is left who could make one: those of programs
/// that were started with this `socket` of a namespace; those of others are handed on. The process must be in that one: its broker, or told so by
/// [`client::use_socket`]. Sysctls are opened for writing by `view`.
///
/// # Errors
/// Of attaching, and of starting threads.
pub fn serve(listener: OwnedFd, socket: PathBuf, view: Arc<View>) -> io::Result<()> {
    room::serve(listener, socket, view)
}

/// Serves the calls that are handed on here by `link` from the trap that has the listener, as [`serve`] does.
///
/// # Errors
/// As there.
pub fn serve_for(listener: OwnedFd, link: OwnedFd, view: Arc<View>) -> io::Result<()> {
    room::serve_for(listener, link, view)
}
