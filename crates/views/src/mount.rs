//! Mounting and unmounting.
//!
//! What users see: as root, or in a user namespace of one's own, mount(2); for others fusermount3, by which only the user itself sees the
//! files. Every view is a mount of type `fuse.ipcspace`, by which it is found again, whether or not anybody serves it still.

use std::ffi::{CStr, OsStr};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid, getgid, getuid};

use crate::tree;

/// What every view is a mount of, and, for one of a name, before its colon.
pub const SOURCE: &str = "ipcspace";
const TYPE: &str = "fuse.ipcspace";
const DEVICE: &str = "/dev/fuse";
const HELPER: &str = "fusermount3";
/// Where the lists are of the kernel's objects.
const SYSVIPC: &str = "/proc/sysvipc";
const MQUEUE: &str = "/dev/mqueue";

/// Why there is no view, or why it can't be unmounted.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is nothing to mount on.
    #[error("{p} is not there: make the directory first, as by 'mkdir -p {p}'", p = .0.display())]
    NotThere(PathBuf),
    /// There is something else.
    #[error("{p} is no directory: a namespace is mounted on one", p = .0.display())]
    NoDirectory(PathBuf),
    /// A view is there already.
    #[error("{p} shows a namespace already ({1}): 'ipcspace umount {p}' ends that", p = .0.display())]
    Busy(PathBuf, String),
    /// The machine has no FUSE.
    #[error(
        "there is no /dev/fuse: the kernel has no FUSE, its module is not loaded ('modprobe fuse'), or this container was not given the device"
    )]
    NoDevice,
    /// It has, but not for this user.
    #[error("/dev/fuse can't be opened ({0}): root can let users have it, by 'chmod 666 /dev/fuse'")]
    DeviceRefused(io::Error),
    /// What mounts for ordinary users is not installed.
    #[error(
        "who is not root mounts by fusermount3, and that is not there: install it (Debian: 'apt install fuse3'), or use 'run --mount', which needs none"
    )]
    NoHelper,
    /// It is, and can do no more than its caller.
    #[error(
        "programs gain no rights here (no_new_privs, which 'run' sets for its trap), and so fusermount3 can't mount: do it from outside, by the namespace's name, or under 'run --door preload', or use 'run --mount'"
    )]
    NoRights,
    /// It is, and refuses.
    #[error("{0}")]
    Helper(String),
    /// The kernel refuses.
    #[error("{p} can't be mounted on: {1}", p = .0.display())]
    Mount(PathBuf, Errno),
    /// Something else is mounted there, or nothing.
    #[error("{p} is not where ipcspace has mounted a namespace", p = .0.display())]
    NoView(PathBuf),
    /// It is used.
    #[error("{p} is in use: somebody has a file of it open, or is in a directory of it; 'fuser -m {p}' says who", p = .0.display())]
    InUse(PathBuf),
    /// The kernel refuses.
    #[error("{p} can't be unmounted: {1}", p = .0.display())]
    Unmount(PathBuf, Errno),
    /// Who has no right to mount can't be given a place where it has.
    #[error("an ordinary user mounts in a user namespace of its own, and can't make one: {0}")]
    NoUserNamespace(Errno),
    /// The system refused something basic.
    #[error("{0}")]
    System(#[from] io::Error),
}

/// A view that is mounted.
#[derive(Debug, Clone)]
pub struct Mounted {
    /// Where.
    pub on: PathBuf,
    /// What of: [`SOURCE`], and the namespace's name if it has one.
    pub source: String,
}

/// The path without symbolic links, of a place whose file system may be dead.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        _ => path.canonicalize(),
    }
}

/// The view that is mounted there, on top of all else.
pub fn mounted(path: &Path) -> io::Result<Option<Mounted>> {
    let on = resolve(path)?;
    let mounts =
        procfs::process::Process::myself().and_then(|own| own.mountinfo()).map_err(io::Error::other)?;
    let top = mounts.0.into_iter().rev().find(|mount| mount.mount_point == on);
    let view = top.filter(|mount| mount.fs_type == TYPE);
    Ok(view.map(|mount| Mounted { on, source: mount.mount_source.unwrap_or_default() }))
}

/// Mounts a view of the namespace that `source` names, and returns the descriptor by which it is to be served.
///
/// # Errors
/// See [`Failure`]; nothing is mounted then.
pub fn mount(on: &Path, source: &str) -> Result<OwnedFd, Failure> {
    // Before it is looked at: one that is dead can't be.
    if let Ok(Some(view)) = mounted(on) {
        return Err(Failure::Busy(on.into(), view.source));
    }
    match on.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Failure::NotThere(on.into())),
        Err(error) => {
            return Err(Failure::System(io::Error::new(error.kind(), format!("{}: {error}", on.display()))));
        }
        Ok(meta) if !meta.is_dir() => return Err(Failure::NoDirectory(on.into())),
        Ok(_) => {}
    }
    match mount_here(on, source) {
        Err(Failure::Mount(_, Errno::EPERM)) => by_helper(on, source),
        done => done,
    }
}

fn open_device() -> Result<File, Failure> {
    let mut device = OpenOptions::new();
    device.read(true).write(true).custom_flags(nix::libc::O_CLOEXEC);
    device.open(DEVICE).map_err(|error| match error.raw_os_error() {
        Some(nix::libc::ENOENT | nix::libc::ENODEV | nix::libc::ENXIO) => Failure::NoDevice,
        _ => Failure::DeviceRefused(error),
    })
}

/// How the calling process can mount.
#[derive(Debug, Clone, Copy)]
pub struct Ways {
    /// It has the right.
    pub by_itself: bool,
    /// What mounts for others is there.
    pub helper: bool,
}

/// How the calling process can mount, as far as that can be seen.
///
/// # Errors
/// `NoDevice`, `DeviceRefused`: not at all.
pub fn ways() -> Result<Ways, Failure> {
    open_device()?;
    let helper = Command::new(HELPER).arg("--version").stdin(Stdio::null()).output().is_ok();
    Ok(Ways { by_itself: may_mount()?, helper })
}

/// Whether the calling process has the right to mount.
fn may_mount() -> Result<bool, Failure> {
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    let status = procfs::process::Process::myself().and_then(|own| own.status()).map_err(io::Error::other)?;
    Ok(status.capeff & CAP_SYS_ADMIN != 0)
}

/// As [`mount`], of who has the right to do so by itself.
///
/// # Errors
/// See [`Failure`].
pub(crate) fn mount_here(on: &Path, source: &str) -> Result<OwnedFd, Failure> {
    let device = open_device()?;
    let (fd, uid, gid) = (device.as_raw_fd(), getuid(), getgid());
    let options =
        format!("fd={fd},rootmode=40000,user_id={uid},group_id={gid},default_permissions,allow_other");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    nix::mount::mount(Some(source), on, Some(TYPE), flags, Some(options.as_str()))
        .map_err(|error| Failure::Mount(on.into(), error))?;
    Ok(device.into())
}

/// Runs fusermount3, which is set to root.
fn helper(arguments: &[&OsStr], socket: Option<&OwnedFd>) -> Result<Output, Failure> {
    let mut command = Command::new(HELPER);
    command.args(arguments).stdin(Stdio::null());
    if let Some(socket) = socket {
        // Not closed by exec.
        command.env("_FUSE_COMMFD", socket.as_raw_fd().to_string());
    }
    let output = command.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::NoHelper,
        _ => Failure::Helper(format!("{HELPER}: {error}")),
    })?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said =
        if said.trim().is_empty() { format!("{HELPER}: {}", output.status) } else { said.trim().to_owned() };
    Err(Failure::Helper(said))
}

fn by_helper(on: &Path, source: &str) -> Result<OwnedFd, Failure> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    if nix::sys::prctl::get_no_new_privs().unwrap_or(false) {
        return Err(Failure::NoRights);
    }
    let pair = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty());
    let (ours, theirs) = pair.map_err(io::Error::from)?;
    let options = format!("rw,nosuid,nodev,noexec,default_permissions,fsname={source},subtype={SOURCE}");
    helper(&[OsStr::new("-o"), OsStr::new(&options), OsStr::new("--"), on.as_os_str()], Some(&theirs))?;
    drop(theirs);
    receive(&ours).map_err(|_| Failure::Helper(format!("{HELPER} has mounted, and given no descriptor")))
}

/// The descriptor that comes over a socket.
///
/// # Errors
/// If none does.
#[expect(unsafe_code, reason = "a descriptor that was received")]
pub fn receive(socket: &OwnedFd) -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    let message = sys::net::receive_message(socket.as_raw_fd(), [&mut [0], &mut []], 0)
        .map_err(|error| io::Error::from_raw_os_error(error.raw()))?;
    let file = message.file.ok_or(io::ErrorKind::UnexpectedEof)?;
    // SAFETY: just received, nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(file.leak()) })
}

/// Unmounts a view.
///
/// # Errors
/// See [`Failure`]; it is mounted still.
pub fn unmount(path: &Path) -> Result<(), Failure> {
    let view = mounted(path).ok().flatten().ok_or_else(|| Failure::NoView(path.into()))?;
    match umount2(&view.on, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::EBUSY) => Err(Failure::InUse(path.into())),
        Err(Errno::EPERM) => {
            helper(&[OsStr::new("-u"), OsStr::new("--"), view.on.as_os_str()], None).map(drop)
        }
        Err(error) => Err(Failure::Unmount(path.into(), error)),
    }
}

/// Sees that the calling process, which has one thread, may mount, if need be in a user namespace of its own, where it has its own user and
/// group, and no others are known. Whether it is in a new one.
///
/// # Errors
/// If the kernel gives ordinary users none.
pub fn be_able_to_mount() -> Result<bool, Failure> {
    if may_mount()? {
        return Ok(false);
    }
    OwnIds::new().enter(CloneFlags::empty())?;
    Ok(true)
}

/// The calling process's user and group, as they are made known in a user namespace of its own: files of `/proc/self`, and what is written to them.
pub(crate) struct OwnIds([(&'static CStr, String); 3]);

impl OwnIds {
    pub(crate) fn new() -> OwnIds {
        let (uid, gid) = (geteuid(), getegid());
        OwnIds([
            (c"/proc/self/setgroups", "deny".to_owned()),
            (c"/proc/self/uid_map", format!("{uid} {uid} 1")),
            (c"/proc/self/gid_map", format!("{gid} {gid} 1")),
        ])
    }

    /// Takes the calling process, which has one thread, into a user namespace, and into other new ones. Nothing is allocated.
    ///
    /// # Errors
    /// `NoUserNamespace`.
    pub(crate) fn enter(&self, others: CloneFlags) -> Result<(), Failure> {
        unshare(CloneFlags::CLONE_NEWUSER | others).map_err(Failure::NoUserNamespace)?;
        self.0.iter().try_for_each(|(path, text)| {
            sys::file::open(sys::file::AT_FDCWD, path, nix::libc::O_WRONLY | sys::file::O_CLOEXEC)
                .and_then(|file| sys::file::write_all(&file, text.as_bytes()))
                .map_err(|error| Failure::NoUserNamespace(Errno::from_raw(error.raw())))
        })
    }
}

/// Gives the calling process, which has one thread, mounts of its own, and mounts a view in a place for [`overmount`].
///
/// # Errors
/// See [`Failure`].
pub fn begin_overmount() -> Result<OwnedFd, Failure> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(io::Error::from)?;
    // What others mount is to be seen here still.
    let flags = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    nix::mount::mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).map_err(io::Error::from)?;
    mount_here(Path::new(SYSVIPC), SOURCE)
}

/// Puts the namespace's files in the place of the kernel's, which the calling process, and all that it starts, see no more. The view that
/// [`begin_overmount`] has mounted is served by now. Where the kernel has no such file, there is none.
///
/// # Errors
/// See [`Failure`].
pub fn overmount() -> Result<(), Failure> {
    let base = Path::new(SYSVIPC);
    let sysctls = tree::sysctl_paths().map(|path| (base.join(&path), Path::new("/").join(path)));
    let queues = (base.join("mqueue"), PathBuf::from(MQUEUE));
    // Last, as that hides where all come from.
    let lists = (base.join("proc/sysvipc"), base.to_owned());
    for (from, to) in sysctls.chain([queues, lists]) {
        match nix::mount::mount(Some(&from), &to, None::<&str>, MsFlags::MS_BIND, None::<&str>) {
            Ok(()) => {}
            Err(Errno::ENOENT) if !to.exists() => {}
            Err(error) => return Err(Failure::Mount(to, error)),
        }
    }
    Ok(())
}
