//! What `run` found when it was started, so that the command finds the same.
//!
//! Rust's runtime ignores SIGPIPE and opens `/dev/null` in the place of closed standard descriptors before `main`.
//! Both are noted here before that, and undone in the command.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::{fs, io, ptr};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

static SIGPIPE_IGNORED: AtomicBool = AtomicBool::new(false);
static CLOSED: [AtomicBool; 3] = [const { AtomicBool::new(false) }; 3];

#[used]
// SAFETY: `.init_array` holds pointers to functions that libc calls once before `main`; arguments it passes are ignored.
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = note;

extern "C" fn note() {
    // SAFETY: both calls only read the state of this process, into a local.
    unsafe {
        let mut pipe: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGPIPE, ptr::null(), &mut pipe);
        SIGPIPE_IGNORED.store(pipe.sa_sigaction == libc::SIG_IGN, Relaxed);
        for (fd, closed) in (0..).zip(&CLOSED) {
            closed.store(libc::fcntl(fd, libc::F_GETFD) == -1, Relaxed);
        }
    }
}

/// How `run` was started, where it differs from how it goes on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    mask: SigSet,
    child: libc::sighandler_t,
}

impl Start {
    /// Blocks every signal: what arrives is read from a signalfd, and nothing is lost between the forks.
    pub(super) fn block_signals() -> nix::Result<Start> {
        let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        // Where the parent ignores SIGCHLD, the kernel would reap our children before we see how they ended.
        // SAFETY: this program has no handler for it.
        let child = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
        Ok(Start { mask, child })
    }

    /// Whether such a signal of the user's ends a command which does nothing against it.
    pub(super) fn is_ended_by(&self, signal: i32) -> bool {
        let ends = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM].contains(&signal);
        // SAFETY: only reads the state of this process, into a local.
        let is_default = unsafe {
            let mut found: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, ptr::null(), &mut found) == 0 && found.sa_sigaction == libc::SIG_DFL
        };
        let is_blocked = Signal::try_from(signal).is_ok_and(|signal| self.mask.contains(signal));
        ends && is_default && !is_blocked
    }

    /// Gives this process, about to become the command, what `run` had been given.
    pub(super) fn restore(&self) -> nix::Result<()> {
        let pipe = if SIGPIPE_IGNORED.load(Relaxed) { libc::SIG_IGN } else { libc::SIG_DFL };
        // SAFETY: no handler of this program is replaced; Rust's runtime has set SIGPIPE to be ignored and never looks again.
        unsafe {
            libc::signal(libc::SIGPIPE, pipe);
            libc::signal(libc::SIGCHLD, self.child);
        }
        for (fd, closed) in (0..).zip(&CLOSED) {
            if closed.load(Relaxed) {
                // SAFETY: the descriptor is the runtime's `/dev/null`, which nobody owns; this process only execs after this.
                drop(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
        self.mask.thread_set_mask()
    }
}

/// Fails where the broker could not do [`let_go_of_inherited`] later, when the command has been started.
pub(super) fn can_let_go() -> io::Result<()> {
    for path in ["/dev/null", "/proc/self/fd"] {
        fs::metadata(path).map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
    }
    Ok(())
}

/// Closes every descriptor that was inherited, so that whoever waits for the end of a pipe waits for the command alone.
///
/// Inherited are those without close-on-exec: our own all have it. Standard descriptors become `/dev/null`, but for those to keep.
pub(super) fn let_go_of_inherited(kept: &[i32]) -> io::Result<()> {
    let null = fs::File::options().read(true).write(true).open("/dev/null")?;
    for standard in (0..=2).filter(|fd| !kept.contains(fd)) {
        // SAFETY: dup2 onto the standard descriptors, whose users here only print.
        unsafe { libc::dup2(null.as_raw_fd(), standard) };
    }
    for fd in open_descriptors()? {
        if fd > 2 && is_inherited(fd) {
            // SAFETY: nothing in this program owns a descriptor without close-on-exec.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
    Ok(())
}

/// The numbers of all descriptors of this process.
pub(crate) fn open_descriptors() -> io::Result<Vec<i32>> {
    let names = fs::read_dir("/proc/self/fd")?.map(|entry| entry.map(|entry| entry.file_name()));
    names.map(|name| name?.to_string_lossy().parse().map_err(io::Error::other)).collect()
}

fn is_inherited(fd: i32) -> bool {
    // SAFETY: F_GETFD takes any number; the descriptor of the listing itself is closed by now and gives EBADF.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    flags != -1 && flags & libc::FD_CLOEXEC == 0
}
