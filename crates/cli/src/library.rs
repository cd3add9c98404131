//! Where the preload library lies: written once per version, to a place that every program can load it from.
//!
//! A place is taken if it is ours, nobody else may write to it, it is not mounted noexec (as `/run` often is), and its path has
//! no character that separates the entries of LD_PRELOAD. The file stays: the next `run` finds it there.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::{env, fs, process};

use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::geteuid;

const CONTENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libipcspace_preload.so"));
const HASH: &str = env!("IPCSPACE_PRELOAD_HASH");
const NAME: &str = "libipcspace_preload.so";

/// Nowhere could the library be put; each place with its reason.
#[derive(Debug, thiserror::Error)]
#[error(
    "found no place for the preload library ({}); set XDG_RUNTIME_DIR to a directory of yours, without space or colon and not mounted noexec",
    .0.iter().map(|(place, why)| format!("{}: {why}", place.display())).collect::<Vec<_>>().join("; ")
)]
pub(crate) struct NoPlace(Vec<(PathBuf, io::Error)>);

/// The value of LD_PRELOAD for programs in a namespace: the library, before what is there.
pub(crate) fn ld_preload() -> Result<OsString, NoPlace> {
    let library = install()?;
    let existing = env::var_os("LD_PRELOAD").unwrap_or_default();
    let is_separator = |byte: &u8| matches!(byte, b' ' | b':');
    if existing.is_empty() || existing.as_bytes().split(is_separator).eq([library.as_os_str().as_bytes()]) {
        return Ok(library.into());
    }
    let mut value = library.into_os_string();
    value.push(":");
    value.push(existing);
    Ok(value)
}

fn install() -> Result<PathBuf, NoPlace> {
    let mut refused = Vec::new();
    for base in places() {
        match install_below(&base) {
            Ok(path) => return Ok(path),
            Err(why) => refused.push((base, why)),
        }
    }
    Err(NoPlace(refused))
}

/// Directories that may be ours, the best first.
fn places() -> Vec<PathBuf> {
    let uid = geteuid();
    let best = match env::var_os("XDG_RUNTIME_DIR") {
        _ if uid.is_root() => Some("/run/ipcspace".into()),
        Some(dir) if Path::new(&dir).is_absolute() => Some(PathBuf::from(dir).join("ipcspace")),
        _ => None,
    };
    let shared = ["/tmp", "/var/tmp", "/dev/shm"].map(|dir| Path::new(dir).join(format!("ipcspace-{uid}")));
    best.into_iter().chain(shared).collect()
}

fn install_below(base: &Path) -> io::Result<PathBuf> {
    if base.as_os_str().as_bytes().iter().any(|byte| matches!(byte, b' ' | b':')) {
        return Err(io::Error::other("its path has a space or a colon"));
    }
    let mut dir = base.to_owned();
    own_directory(&dir)?;
    if statvfs(&dir)?.flags().contains(FsFlags::ST_NOEXEC) {
        return Err(io::Error::other("mounted noexec"));
    }
    for part in ["lib", HASH] {
        dir.push(part);
        own_directory(&dir)?;
    }
    let path = dir.join(NAME);
    if !is_installed(&path)? {
        write_whole(&dir, &path)?;
    }
    Ok(path)
}

/// Makes the directory, or sees that the one there is ours alone to write to.
fn own_directory(dir: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o755).create(dir) {
        // A strict umask would keep it from programs that change their user.
        Ok(()) => fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let found = fs::symlink_metadata(dir)?;
    if !found.is_dir() || found.uid() != geteuid().as_raw() {
        return Err(io::Error::other(format!("{} belongs to somebody else", dir.display())));
    }
    if found.mode() & 0o022 != 0 {
        return Err(io::Error::other(format!("others may write to {}", dir.display())));
    }
    Ok(())
}

fn is_installed(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(found.is_file()
            && found.uid() == geteuid().as_raw()
            && found.mode() & 0o7777 == 0o644
            && fs::read(path)? == CONTENT),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes under another name and renames, so that nobody ever loads a part.
fn write_whole(dir: &Path, path: &Path) -> io::Result<()> {
    let temporary = dir.join(format!("{NAME}.{}", process::id()));
    let mut file = fs::File::create(&temporary)?;
    let written = file
        .write_all(CONTENT)
        .and_then(|()| file.set_permissions(fs::Permissions::from_mode(0o644)))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    written
}
