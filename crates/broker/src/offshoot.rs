//! Namespaces that are made within another: by `unshare` and `clone` with `CLONE_NEWIPC`.
//!
//! What users see: such a namespace has the kernel's default limits and no name, and ends with the last process that is in it.
//! What is missing: a process that has neither made an IPC call nor been started by exec in it is unknown there.
//!
//! Each has a broker of its own, which is the same program started anew, by the broker of the namespace that it was made in.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, io};

use abi::Errno;
use client::wire;
use engine::options::IPC_NS;
use nix::poll::{PollFd, PollFlags, poll};

use crate::place;
use crate::service::{Error, Service, ask};
use crate::supervise::os;

/// The command by which this program is started as the broker of one.
pub const COMMAND: &str = "offshoot";
/// Most namespaces of a user, and most of them one in the other, as with the kernel's user namespaces.
const NAMESPACES_MAX: usize = 256;
pub(crate) const DEPTH_MAX: u32 = 32;
/// How long it may be empty before its first process comes, and how often it is looked whether somebody is left that has not come yet.
const FIRST: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(500);
/// How long it is kept when nobody is seen any more: exec closes what kept it a moment before the program's new environment can be read.
const LAST: Duration = Duration::from_millis(50);

/// Makes one, and returns a connection that keeps it.
pub(crate) fn make(depth: u32, root: Option<u32>) -> Result<OwnedFd, Errno> {
    if !IPC_NS {
        return Err(Errno::EINVAL);
    }
    let others = place::all().map_err(|_| Errno::ENOMEM)?.len();
    if depth > DEPTH_MAX || others >= NAMESPACES_MAX {
        return Err(Errno::ENOSPC);
    }
    let mut command = Command::new("/proc/self/exe");
    command
        .args([COMMAND, &depth.to_string()])
        .args(root.map(|root| root.to_string()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command.env_remove("LD_PRELOAD").env_remove(wire::SOCKET_ENV);
    let mut broker = command.spawn().map_err(|_| Errno::ENOMEM)?;
    let mut socket = String::new();
    let read = broker.stdout.take().map(|said| BufReader::new(said).read_line(&mut socket));
    // Whoever waits for our children may be faster.
    let reap = || std::thread::Builder::new().stack_size(64 << 10).spawn(move || broker.wait());
    if !matches!(read, Some(Ok(1..))) {
        let _ = reap();
        return Err(Errno::ENOMEM);
    }
    let kept = lease(Path::new(socket.trim_end())).ok_or(Errno::ENOMEM);
    let _ = reap();
    kept
}

/// The namespace of this user's that a process is in: a connection that keeps it.
pub(crate) fn find(pid: i32) -> Result<OwnedFd, Errno> {
    if !IPC_NS {
        return Err(Errno::EINVAL);
    }
    let all = place::all().map_err(|_| Errno::ESRCH)?;
    let has = |socket: &&PathBuf| {
        let mut answer = [0; wire::ANSWER];
        matches!(ask(socket, wire::ASK_HAS, [pid.cast_unsigned(), 0], &mut answer), Ok(Some(_)))
    };
    let sockets: Vec<PathBuf> = all.into_iter().map(|(_, socket)| socket).collect();
    // One that has made no call yet is where its program was started.
    let named = || sockets.iter().find(|socket| is_named_by(pid, socket));
    let socket = sockets.iter().find(has).or_else(named).ok_or(Errno::ESRCH)?;
    lease(socket).ok_or(Errno::ESRCH)
}

fn lease(socket: &Path) -> Option<OwnedFd> {
    ask(socket, wire::ASK_LEASE, [0; 2], &mut [0; wire::ANSWER]).ok()?
}

/// Whether the environment that the process's program was started with leads to that socket.
fn is_named_by(pid: i32, socket: &Path) -> bool {
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    let wanted = [wire::SOCKET_ENV.as_bytes(), b"=", socket.as_os_str().as_bytes()].concat();
    environment.split(|byte| *byte == 0).any(|variable| variable == wanted)
}

/// Whether any process's program was started to be there.
fn is_named(socket: &Path) -> bool {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.any(|pid| is_named_by(pid, socket))
}

/// Serves one to its end, in this process, and says on standard output where. Strangers are let in as in the namespace that it is made in, if that admits
/// only descendants of `root`.
///
/// # Errors
/// See [`Error`].
pub fn serve(depth: u32, root: Option<u32>) -> Result<(), Error> {
    // What is meant for the one that it was made in, by the terminal or by `kill 0`, is not meant for this.
    let _ = nix::unistd::setsid();
    nix::sys::prctl::set_name(c"ipcspace-broker")?;
    let mut service = Service::create(None, &[])?;
    if let Some(root) = root {
        service.admit_only_kin(root);
    }
    attend(service, depth, LAST, report)
}

/// Serves a namespace that was made within so many others until nobody has been in it for so long, and says where it is when it can be joined.
pub(crate) fn attend(
    mut service: Service,
    depth: u32,
    last: Duration,
    report: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<(), Error> {
    service.set_depth(depth);
    let socket = service.socket();
    service.start()?;
    let mut wanted = service.dispatch();
    report(&socket).map_err(|error| Error::File("where it is told of".into(), error))?;
    let begun = Instant::now();
    let mut is_used = false;
    let mut empty_since = None;
    loop {
        // Of those that come by the trap we are not told when they go.
        let has_no_clients = service.clients() == 0;
        let is_empty = has_no_clients && trap::processes().is_empty();
        is_used |= !is_empty;
        empty_since = is_empty.then(|| *empty_since.get_or_insert_with(Instant::now));
        let is_over = empty_since.is_some_and(|since: Instant| since.elapsed() >= last);
        if is_over && (is_used || begun.elapsed() > FIRST) && !is_named(&socket) {
            return Ok(());
        }
        let again = has_no_clients.then_some(if is_over || !is_empty { AGAIN } else { last });
        let timeout = os::timeout(wanted.into_iter().chain(again).min());
        match poll(&mut [PollFd::new(service.fd(), PollFlags::POLLIN)], timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        wanted = service.dispatch();
    }
}

/// Says where it is, and lets go of standard output, whose end the other one waits for no longer than of that line.
fn report(socket: &Path) -> io::Result<()> {
    let mut out = io::stdout();
    out.write_all(&[socket.as_os_str().as_bytes(), b"\n"].concat())?;
    out.flush()?;
    let null = fs::File::options().write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(&null)?;
    Ok(())
}
