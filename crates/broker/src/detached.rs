//! A namespace that a program makes for itself and its children, with no command running: its broker is forked off.
//!
//! What users see: one process more, `ipcspace-broker`, which is no child of the program's, holds no descriptor of its, and ends when nobody is in the
//! namespace any more. It is a process and no thread, so that it sees to what the dead leave whoever dies, the program itself among them.
//! What is missing: such a namespace has none made within it.
//!
//! The program may have threads. Between fork and end, the broker uses of what it inherited the allocator only, which libc makes fit for that.
//!
//! # Safety
//! The forked process closes descriptors that objects of the program's own: none of these is used there, nor dropped.
#![expect(unsafe_code, reason = "fork, and what a forked process inherits")]

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};

use crate::offshoot;
use crate::service::{Error, Lease, Service};

/// Why there is none.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Refused {
    /// The error as a number.
    pub errno: abi::Errno,
    /// For people.
    pub text: String,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        Refused { errno: error.errno(), text: error.to_string() }
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Refused {
        Refused { errno: abi::Errno::from_raw(error.raw_os_error().unwrap_or(0)), text: error.to_string() }
    }
}

/// Makes a namespace, named or not, with these limits, and a broker for it. It lives as long as the lease, or somebody in it.
///
/// This process must not be in one yet.
///
/// # Errors
/// What [`Service::create`] refuses.
pub fn make(name: Option<&str>, sysctls: &[(String, String)]) -> Result<Lease, Refused> {
    let (mut said, mut say) = io::pipe()?;
    // The program's handlers are not for the broker.
    let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK).map_err(io::Error::from)?;
    // SAFETY: the child does nothing but to fork again, or what is said above.
    let forked = unsafe { fork() };
    if !matches!(forked, Ok(ForkResult::Child)) {
        mask.thread_set_mask().map_err(io::Error::from)?;
    }
    match forked.map_err(io::Error::from)? {
        ForkResult::Child => {
            drop(said);
            // A grandchild, so that the program never waits for it unawares.
            // SAFETY: as above.
            if let Ok(ForkResult::Child) = unsafe { fork() } {
                let served = catch_unwind(AssertUnwindSafe(|| serve(name, sysctls, &mut say)));
                if let Ok(Err(refused)) = served {
                    let _ = write!(say, "{} {refused}", refused.errno.raw());
                }
            }
            // SAFETY: ends the process, with nothing of the program's run or dropped.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            drop(say);
            // Where the program ignores the end of children, there is nothing to wait for.
            let _ = waitpid(child, None);
        }
    }
    let mut answer = String::new();
    said.read_to_string(&mut answer)?;
    match answer.split_once(' ') {
        Some(("0", socket)) => Ok(Service::lease(Path::new(socket))?.ok_or(io::Error::from(Errno::ENOENT))?),
        Some((errno, text)) => {
            Err(Refused { errno: abi::Errno::from_raw(errno.parse().unwrap_or(0)), text: text.into() })
        }
        None => {
            Err(Refused { errno: abi::Errno::ENOMEM, text: "the namespace's broker ended at once".into() })
        }
    }
}

/// Serves it to its end, in this process.
fn serve(name: Option<&str>, sysctls: &[(String, String)], say: &mut io::PipeWriter) -> Result<(), Refused> {
    let _ = nix::unistd::setsid();
    let _ = nix::sys::prctl::set_name(c"ipcspace-broker");
    forget_program(say.as_raw_fd())?;
    let service = Service::create(name, sysctls)?;
    offshoot::attend(service, offshoot::DEPTH_MAX, Duration::ZERO, |socket| {
        say.write_all(b"0 ")?;
        say.write_all(socket.as_os_str().as_encoded_bytes())?;
        // The other end reads until nobody has this one.
        let null = fs::File::open("/dev/null")?;
        // SAFETY: one of our own takes the place of one of our own.
        if unsafe { libc::dup2(null.as_raw_fd(), say.as_raw_fd()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    })?;
    Ok(())
}

/// Gives up what the program had: its handlers, its mask, its directory, and all descriptors but one.
fn forget_program(kept: i32) -> io::Result<()> {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: the default; for some there is no other.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    SigSet::empty().thread_set_mask()?;
    std::env::set_current_dir("/")?;
    let null = fs::File::options().read(true).write(true).open("/dev/null")?;
    for standard in 0..=2 {
        // SAFETY: onto the standard descriptors, which only print.
        unsafe { libc::dup2(null.as_raw_fd(), standard) };
    }
    let names = fs::read_dir("/proc/self/fd")?.map(|entry| entry.map(|entry| entry.file_name()));
    let open: Vec<i32> = names
        .map(|name| name?.to_string_lossy().parse().map_err(io::Error::other))
        .collect::<io::Result<_>>()?;
    for fd in open.into_iter().filter(|fd| *fd > 2 && *fd != kept && *fd != null.as_raw_fd()) {
        // SAFETY: see the head. That of the listing itself is closed already.
        unsafe { libc::close(fd) };
    }
    Ok(())
}
