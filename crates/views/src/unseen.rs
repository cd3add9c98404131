//! A view that is mounted nowhere: descriptors of its files are all that anybody has of it.
//!
//! What users see: who opens a sysctl for writing by the trap is given one, so that each write hears of its error, as from the kernel's file.
//! What is missing: where `/dev/fuse` can't be opened, or who has no right to mount can't have a user namespace, there is no such view.
//!
//! The files are opened by a thread that has descriptors of its own. A process that is killed waits in the kernel for the answer to what it has asked of a view; if
//! it served that by the same descriptors, `/dev/fuse` would stay open as long, and that wait would never end.
//!
//! # Safety
//! Who is forked off has one thread, allocates nothing, and ends without running what the process has registered for its own end.

use std::ffi::{CStr, CString};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use engine::ipc_sysctl::Sysctl;
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};
use nix::unistd::{ForkResult, fork, getgid, getuid};
use sys::mount::FileSystem;
use sys::{file, net, net::Fd};

use crate::mount::{OwnIds, receive};

/// The sysctls of the namespace that this process has attached to. They are mounted when the first of them is opened, and as long as the process lives.
#[derive(Debug, Default)]
pub struct Unseen(OnceLock<Option<Opener>>);

impl Unseen {
    /// Opens a sysctl's file, as the process itself may; none where there can be no view.
    pub fn open(&self, sysctl: &Sysctl, flags: i32) -> Option<Fd> {
        self.0.get_or_init(|| Opener::begin().ok()).as_ref()?.open(sysctl, flags).ok()
    }
}

/// What opens the files.
#[derive(Debug)]
struct Opener(Mutex<OwnedFd>);

/// The longest request: flags, and a path that ends with a zero.
const REQUEST: usize = 64;
/// The opener's descriptors.
const LINK: i32 = 0;
const ROOT: i32 = 1;

fn failed(error: abi::Errno) -> io::Error {
    io::Error::from_raw_os_error(error.raw())
}

fn pair() -> nix::Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
}

impl Opener {
    fn begin() -> io::Result<Opener> {
        let Nowhere { root, device } = mount()?;
        // SAFETY: nobody else has it.
        crate::serve(unsafe { OwnedFd::from_raw_fd(device.leak()) })?;
        let (ours, theirs) = pair()?;
        let (begun, has_begun) = channel();
        let numbers = [theirs.as_raw_fd(), root.raw()];
        let attend = move || attend(numbers, &begun);
        thread::Builder::new().name("view-open".into()).stack_size(128 << 10).spawn(attend)?;
        // From then on it has them as its own.
        has_begun.recv().map_err(io::Error::other)?;
        drop((theirs, root));
        let opener = Opener(Mutex::new(ours));
        // The first that is closed is asked about, and tells the kernel not to ask: so no process waits for us when it closes another one or ends.
        Sysctl::all().next().map_or(Ok(()), |sysctl| opener.open(sysctl, libc::O_RDONLY).map(drop))?;
        Ok(opener)
    }

    fn open(&self, sysctl: &Sysctl, flags: i32) -> io::Result<Fd> {
        let parts: [&[u8]; 5] = [
            &flags.to_ne_bytes(),
            b"proc/sys/",
            sysctl.directory(),
            sysctl.file().ok_or(io::ErrorKind::NotFound)?,
            b"\0",
        ];
        let link = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        send(link.as_raw_fd(), &parts.concat(), MsgFlags::MSG_NOSIGNAL)?;
        let answer = net::receive_message(link.as_raw_fd(), [&mut [0], &mut []], 0).map_err(failed)?;
        answer.file.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// Opens what it is told to, until nobody is left who could. `link` and `root` are the process's.
fn attend([link, root]: [i32; 2], begun: &Sender<()>) {
    let has_own = || -> abi::Result<()> {
        unshare(CloneFlags::CLONE_FILES).map_err(|error| abi::Errno::from_raw(error as i32))?;
        file::put_at(Fd::new(link), LINK, 0)?;
        file::put_at(Fd::new(root), ROOT, 0)?;
        file::close_from(ROOT + 1)
    };
    if has_own().is_err() || begun.send(()).is_err() {
        return;
    }
    let link = Fd::new(LINK);
    let mut request = [0; REQUEST];
    while let Ok(message) = net::receive_message(LINK, [&mut request, &mut []], 0) {
        let Some((flags, path)) = request[..message.bytes].split_first_chunk() else { return };
        let Ok(path) = CStr::from_bytes_with_nul(path) else { return };
        let flags = i32::from_ne_bytes(*flags) | file::O_CLOEXEC;
        let answered = match file::open(ROOT, path, flags) {
            Ok(fd) => net::send_file(LINK, b".", &fd),
            Err(_) => net::send(&link, b"."),
        };
        if answered.is_err() {
            return;
        }
    }
}

/// A mount without a place.
struct Nowhere {
    /// Its topmost directory.
    root: Fd,
    /// By which it is to be served.
    device: Fd,
}

/// Who may use the files of a mount.
struct Users {
    /// Whose files they are.
    uid: CString,
    gid: CString,
    /// Not only that user.
    all: bool,
}

/// Mounts by itself, or has a child do it, in a user namespace.
fn mount() -> io::Result<Nowhere> {
    let number = |id: u32| CString::new(id.to_string());
    let mut users = Users { uid: number(getuid().as_raw())?, gid: number(getgid().as_raw())?, all: true };
    match mount_nowhere(&users) {
        Err(abi::Errno::EPERM) => {
            // All would be those of the child's user namespace, which nobody is in.
            users.all = false;
            by_child(&users)
        }
        mounted => mounted.map_err(failed),
    }
}

fn mount_nowhere(users: &Users) -> abi::Result<Nowhere> {
    let device = file::open(file::AT_FDCWD, c"/dev/fuse", libc::O_RDWR | file::O_CLOEXEC)?;
    let fs = FileSystem::of_type(c"fuse")?;
    let mut number = [0; 12];
    // Shorter by the zero at its end.
    let _ = write!(&mut number[..11], "{}", device.raw());
    let number = CStr::from_bytes_until_nul(&number).unwrap_or_default();
    for (option, value) in [
        (c"source", c"ipcspace"),
        (c"fd", number),
        (c"rootmode", c"40000"),
        (c"user_id", &users.uid),
        (c"group_id", &users.gid),
    ] {
        fs.set(option, Some(value))?;
    }
    fs.set(c"default_permissions", None)?;
    if users.all {
        fs.set(c"allow_other", None)?;
    }
    Ok(Nowhere { root: fs.mount()?, device })
}

/// The child's end is heard of by whoever waits for all children of this process.
fn by_child(users: &Users) -> io::Result<Nowhere> {
    let ids = OwnIds::new();
    let (ours, theirs) = pair()?;
    // SAFETY: see the file's head.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let _ = ids.enter(CloneFlags::CLONE_NEWNS).is_ok_and(|()| {
                mount_nowhere(users).is_ok_and(|Nowhere { root, device }| {
                    [root, device].iter().all(|fd| net::send_file(theirs.as_raw_fd(), b".", fd).is_ok())
                })
            });
            // SAFETY: ends this process.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { .. } => {
            drop(theirs);
            let next = || receive(&ours);
            let own = |fd: OwnedFd| Fd::new(fd.into_raw_fd());
            Ok(Nowhere { root: own(next()?), device: own(next()?) })
        }
    }
}
