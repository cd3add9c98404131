//! Where a user's namespaces are found: a directory for each, in one that is the user's own.
//!
//! What users see: a name that is taken is found to be so, and what a killed broker left is gone with the next `run` or `ls -N`.
//!
//! A namespace's directory is locked (flock) by its broker as long as that lives, so one that can be locked is left over. The directory of
//! all is locked while one is made or swept: nobody takes one that is in the making for left over.
//!
//! Sockets that a supervisor listens at lie in a directory of their own, which is never swept: nobody need serve there yet.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use client::wire;
use nix::unistd::{AccessFlags, access};

use crate::service::Error;

/// How long others may be at work in the directory of all.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the namespaces are that the user's brokers make.
fn base() -> Result<PathBuf, Error> {
    let base = ours()?.join("ns");
    make_own(&base)?;
    Ok(base)
}

/// Where those are at whose sockets a supervisor listens.
fn of_supervisors() -> Result<PathBuf, Error> {
    Ok(ours()?.join("listening"))
}

/// The user's own directory, which is made if need be.
fn ours() -> Result<PathBuf, Error> {
    let mut refused = None;
    for place in places() {
        // Its file system may be read-only.
        let writable = || access(&place, AccessFlags::W_OK).map_err(|e| Error::File(place.clone(), e.into()));
        match make_own(&place).and_then(|()| writable()) {
            Ok(()) => return Ok(place),
            // Who can see to it is to.
            Err(error @ Error::ForeignDirectory(_)) if place.parent().is_some_and(is_ours) => {
                return Err(error);
            }
            Err(error) => _ = refused.get_or_insert(error),
        }
    }
    Err(refused.unwrap_or(Error::Taken))
}

fn is_ours(directory: &Path) -> bool {
    fs::metadata(directory).is_ok_and(|meta| meta.uid() == nix::unistd::geteuid().as_raw())
}

/// Directories that may be the user's own, the best first. Those in directories of everybody's are for where there is nothing better, as with a root file
/// system that can't be written, or whose root is another user outside.
pub fn places() -> Vec<PathBuf> {
    let uid = nix::unistd::geteuid();
    let shared = ["/tmp", "/var/tmp", "/dev/shm"].map(|dir| Path::new(dir).join(format!("ipcspace-{uid}")));
    runtime_directory().into_iter().chain(shared).collect()
}

/// Where a user's files of a session are to lie, if there is such a place and nobody else's.
fn runtime_directory() -> Option<PathBuf> {
    let uid = nix::unistd::geteuid();
    if uid.is_root() {
        return Some(PathBuf::from("/run/ipcspace"));
    }
    let runtime = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?);
    (runtime.is_absolute() && runtime.is_dir() && is_ours(&runtime)).then(|| runtime.join("ipcspace"))
}

/// Makes a directory, or sees that the one there is ours alone to write to.
fn make_own(directory: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(directory)
        .map_err(|e| Error::File(directory.into(), e))?;
    check_own(directory)
}

/// Has others reach what is in a directory that they know the name of, and no more: who may read a directory may lock it.
fn keep_from_locking(directory: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(directory)?;
    if !meta.is_dir() || meta.mode() & 0o044 == 0 {
        return Ok(());
    }
    fs::set_permissions(directory, fs::Permissions::from_mode(0o711))
}

fn check_own(directory: &Path) -> Result<(), Error> {
    let meta = fs::symlink_metadata(directory).map_err(|e| Error::File(directory.into(), e))?;
    if !meta.is_dir() || meta.uid() != nix::unistd::geteuid().as_raw() || meta.mode() & 0o022 != 0 {
        return Err(Error::ForeignDirectory(directory.into()));
    }
    Ok(())
}

/// Whether a namespace can have that name.
///
/// # Errors
/// `BadName`, which says how names are.
pub fn check_name(name: &str) -> Result<(), Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > 32 || name.starts_with('.') || !name.chars().all(plain) {
        return Err(Error::BadName(name.into()));
    }
    Ok(())
}

/// The socket of the namespace of that name, if there is one.
pub(crate) fn find(name: &str) -> Result<Option<PathBuf>, Error> {
    check_name(name)?;
    for base in [base()?, of_supervisors()?] {
        let directory = base.join(name);
        let socket = directory.join("socket");
        if socket.exists() {
            check_own(&directory)?;
            return Ok(Some(socket));
        }
    }
    Ok(None)
}

/// Whether a supervisor listens at a socket, or somebody in its place. One that has been stopped leaves its socket's directory, and may leave the
/// socket.
fn is_listened_at(socket: &Path) -> bool {
    socket.exists() && !crate::service::is_refused(socket)
}

/// The sockets of all of the user's namespaces, with the name of each that has one, in the order of names.
pub(crate) fn all() -> Result<Vec<(Option<String>, PathBuf)>, Error> {
    let mut all = Vec::new();
    for base in [base()?, of_supervisors()?] {
        let Ok(entries) = fs::read_dir(&base) else { continue };
        for directory in entries.flatten().map(|entry| entry.path()) {
            let name = directory.file_name().and_then(|name| name.to_str()).map(str::to_owned);
            let socket = directory.join("socket");
            if socket.exists() && check_own(&directory).is_ok() {
                all.push((name.filter(|name| check_name(name).is_ok()), socket));
            }
        }
    }
    all.sort();
    Ok(all)
}

/// Removes what brokers that were killed have left, unless somebody is making or sweeping.
pub(crate) fn sweep() -> Result<(), Error> {
    let base = base()?;
    if let Ok(Some(_making)) = lock(&base) {
        sweep_locked(&base);
    }
    Ok(())
}

/// Names for one without a name. All are as long, so that there is room for one in the place of another's: see the trap's `namespaces`. Who has the same process id, in
/// another PID namespace, may have the first.
fn unnamed() -> impl Iterator<Item = String> {
    const TRIES: u32 = 1000;
    (0..TRIES).map(|n| format!(".run-{:07}", (std::process::id() + n) % 10_000_000))
}

/// The directory of a namespace that this process serves: removed in the end, with what is known to be in it, unless a supervisor
/// made it.
pub(crate) struct Place {
    directory: PathBuf,
    is_ours: bool,
    lock: File,
}

impl Place {
    /// Makes the directory of a new namespace.
    ///
    /// # Errors
    /// `Taken` if there is one of that name; see [`Error`].
    pub(crate) fn make(name: Option<&str>) -> Result<Place, Error> {
        name.map_or(Ok(()), check_name)?;
        if let Some(name) = name
            && is_listened_at(&of_supervisors()?.join(name).join("socket"))
        {
            return Err(Error::Taken);
        }
        let base = base()?;
        let _making = lock_all(&base)?;
        sweep_locked(&base);
        let make = |name: &str| {
            let directory = base.join(name);
            match DirBuilder::new().mode(0o711).create(&directory) {
                Ok(()) => Ok(directory),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Error::Taken),
                Err(error) => Err(Error::File(directory, error)),
            }
        };
        let directory = match name {
            Some(name) => make(name)?,
            None => unnamed()
                .map(|own| make(&own))
                .find(|made| !matches!(made, Err(Error::Taken)))
                .unwrap_or(Err(Error::Taken))?,
        };
        match lock(&directory) {
            Ok(Some(lock)) => Ok(Place { directory, is_ours: true, lock }),
            refused => {
                let _ = fs::remove_dir(&directory);
                let error = refused.err().unwrap_or_else(|| io::ErrorKind::ResourceBusy.into());
                Err(Error::File(directory, error))
            }
        }
    }

    /// The directory of a socket at which a supervisor has listened for us.
    ///
    /// # Errors
    /// `Taken` if somebody serves there; see [`Error`].
    pub(crate) fn of_socket(socket: &Path) -> Result<Place, Error> {
        let directory = socket.parent().unwrap_or(socket).to_owned();
        check_own(&directory)?;
        match lock(&directory) {
            Ok(Some(lock)) => {
                remove_queues(&directory);
                Ok(Place { directory, is_ours: false, lock })
            }
            Ok(None) => Err(Error::Taken),
            Err(error) => Err(Error::File(directory, error)),
        }
    }

    /// The directory at `socket`, whose lock is that of a broker which was killed.
    ///
    /// # Errors
    /// See [`Error`].
    pub(crate) fn again(socket: &Path, is_ours: bool, lock: File) -> Result<Place, Error> {
        let directory = socket.parent().unwrap_or(socket).to_owned();
        check_own(&directory)?;
        Ok(Place { directory, is_ours, lock })
    }

    /// Whether its sockets are ours, too.
    pub(crate) fn is_ours(&self) -> bool {
        self.is_ours
    }

    /// What keeps the directory locked.
    pub(crate) fn lock(&self) -> &File {
        &self.lock
    }

    /// Where the namespace's broker is asked.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join("socket")
    }

    /// Where it is given files.
    pub(crate) fn given(&self) -> PathBuf {
        given_beside(&self.socket())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // It may have been removed, and the name be another's by now.
        let inode = |meta: io::Result<fs::Metadata>| meta.map(|meta| (meta.dev(), meta.ino())).ok();
        if inode(self.lock.metadata()) != inode(fs::symlink_metadata(&self.directory)) {
            return;
        }
        if self.is_ours {
            remove(&self.directory);
        } else {
            let _ = fs::remove_file(store_beside(&self.socket()));
            remove_queues(&self.directory);
        }
    }
}

/// Where a namespace of that name that is served is asked.
///
/// # Errors
/// `BadName`; see [`Error`].
pub(crate) fn socket_of(name: &str) -> Result<PathBuf, Error> {
    check_name(name)?;
    Ok(base()?.join(name).join("socket"))
}

/// The socket of the process that keeps descriptors of the namespace that is asked at that one.
pub(crate) fn store_beside(socket: &Path) -> PathBuf {
    socket.with_file_name("store")
}

/// The socket at which files are given to who is asked at that one.
pub(crate) fn given_beside(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(wire::GIVEN);
    path.into()
}

fn remove(directory: &Path) {
    let socket = directory.join("socket");
    // What is missing was not made yet, or is gone already.
    let _ = fs::remove_file(given_beside(&socket));
    let _ = fs::remove_file(store_beside(&socket));
    remove_queues(directory);
    let _ = fs::remove_file(socket);
    let _ = fs::remove_dir(directory);
}

/// Removes what descriptors of POSIX queues are of.
fn remove_queues(directory: &Path) {
    let prefix = format!("socket{}", wire::QUEUE);
    let is_queue = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        name.to_str().is_some_and(|name| name.starts_with(&prefix))
            && entry.file_type().is_ok_and(|kind| kind.is_fifo())
    };
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten().filter(is_queue) {
        let _ = fs::remove_file(entry.path());
    }
}

/// Locks a directory of this user's, unless somebody has it locked.
fn lock(directory: &Path) -> io::Result<Option<File>> {
    keep_from_locking(directory)?;
    let file =
        File::options().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(directory)?;
    if file.metadata()?.uid() != nix::unistd::geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn lock_all(base: &Path) -> Result<File, Error> {
    let started = Instant::now();
    loop {
        match lock(base) {
            Ok(Some(lock)) => return Ok(lock),
            // Its owner may have been stopped.
            Ok(None) if started.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(1)),
            Ok(None) => return Err(Error::Busy(base.into())),
            Err(error) => return Err(Error::File(base.into(), error)),
        }
    }
}

/// See [`sweep`]. Nobody makes a namespace meanwhile.
fn sweep_locked(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for directory in entries.flatten().map(|entry| entry.path()) {
        if let Ok(Some(_left_over)) = lock(&directory) {
            remove(&directory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let base = std::env::temp_dir().join(format!("ipcspace-place-{name}-{}", std::process::id()));
        fs::create_dir(&base).unwrap();
        base
    }

    #[test]
    fn what_nobody_has_locked_is_swept_and_nothing_else() {
        let base = scratch("sweep");
        let make = |name: &str| {
            let directory = base.join(name);
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("socket"), "").unwrap();
            fs::write(directory.join("socket.given"), "").unwrap();
            let fifo = directory.join("socket.queue.00000040");
            nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
            directory
        };
        let (served, left, foreign) = (make("served"), make(".run-1"), make("foreign"));
        fs::write(foreign.join("a file of somebody's"), "").unwrap();
        fs::write(base.join("file"), "").unwrap();
        std::os::unix::fs::symlink(&served, base.join("link")).unwrap();
        let broker = lock(&served).unwrap().unwrap();
        sweep_locked(&base);
        assert!(served.join("socket").exists() && served.join("socket.given").exists());
        assert!(!left.exists());
        assert!(foreign.join("a file of somebody's").exists());
        assert!(base.join("file").exists() && base.join("link").exists());
        drop(broker);
        sweep_locked(&base);
        assert!(!served.exists());
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn the_lock_of_all_is_for_one() {
        let base = scratch("lock");
        let first = lock_all(&base).unwrap();
        assert!(lock(&base).unwrap().is_none());
        drop(first);
        assert!(lock(&base).unwrap().is_some());
        fs::remove_dir_all(base).unwrap();
    }
}
