//! Where the preload library lies: written once per version, to a place that every program can load it from.
//!
//! A place is taken if it is ours, nobody else may write to it, it is not mounted noexec (as `/run` often is), and its path has
//! no character that separates the entries of LD_PRELOAD. The file stays: the next `run` finds it there.
//!
//! The loader of 32-bit programs would complain of it at each start. Below a trap it is given a library of theirs that does nothing. Without one, where there are
//! 32-bit programs, LD_PRELOAD names ours with `$LIB`, for which glibc's loader puts its directory of libraries: that of 32-bit programs is another one, and there
//! lies the other library. musl's loader knows no `$LIB`: it
//! looks into a directory of that very name. Which directories there are depends on the distribution; this is the tree:
//!
//! ```text
//! HASH/libipcspace_preload.so
//! HASH/$LIB, HASH/lib64, HASH/lib/x86_64-linux-gnu      lead there
//! HASH/lib32/libipcspace_preload.so                     the stub
//! HASH/lib/i386-linux-gnu                               leads there
//! HASH/lib/libipcspace_preload.so                       leads to the one or the other, see `lib_is_of_32_bit`
//! ```

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::{env, fs, process};

use broker::service::places;
use broker::supervise::Preload;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::geteuid;
use trap::stub;

const CONTENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libipcspace_preload.so"));
const HASH: &str = env!("IPCSPACE_PRELOAD_HASH");
const NAME: &str = stub::PRELOAD;
/// The loader of 32-bit programs, which their files name.
const LOADER_32: &str = "/lib/ld-linux.so.2";

/// Nowhere could the library be put; each place with its reason.
#[derive(Debug, thiserror::Error)]
#[error(
    "found no place for the preload library ({}); set XDG_RUNTIME_DIR to a directory of yours, without space or colon and not mounted noexec",
    .0.iter().map(|(place, why)| format!("{}: {why}", place.display())).collect::<Vec<_>>().join("; ")
)]
pub(crate) struct NoPlace(Vec<(PathBuf, io::Error)>);

/// The value of LD_PRELOAD for programs in a namespace: the library, before what is there.
pub(crate) fn ld_preload() -> Result<Preload, NoPlace> {
    let plain = install()?;
    // glibc takes some 20 µs to put something for it at each start: where there are no 32-bit programs, there is nothing to tell apart.
    let by_lib = if Path::new(LOADER_32).exists() { by_lib(&plain) } else { plain.clone() };
    Ok(Preload { trapped: before_existing(&plain), alone: before_existing(&by_lib) })
}

/// The path by which each loader finds its own.
fn by_lib(plain: &Path) -> PathBuf {
    plain.with_file_name("$LIB").join(NAME)
}

fn before_existing(library: &Path) -> OsString {
    let existing = env::var_os("LD_PRELOAD").unwrap_or_default();
    let mut value = library.as_os_str().to_owned();
    let is_separator = |byte: &u8| matches!(byte, b' ' | b':');
    // A `run` inside one of the same version finds its own.
    let is_other = |entry: &[u8]| !entry.is_empty() && !entry.ends_with(NAME.as_bytes());
    if existing.as_bytes().split(is_separator).any(is_other) {
        value.push(":");
        value.push(existing);
    }
    value
}

/// Puts the library where it can be loaded from; its path.
pub(crate) fn install() -> Result<PathBuf, NoPlace> {
    let mut refused = Vec::new();
    for base in places() {
        match install_below(&base) {
            Ok(path) => return Ok(path),
            Err(why) => refused.push((base, why)),
        }
    }
    Err(NoPlace(refused))
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
    let lib_is_32 = lib_is_of_32_bit();
    let version = if lib_is_32 { format!("{HASH}-32") } else { HASH.to_owned() };
    for part in ["lib", &version] {
        dir.push(part);
        own_directory(&dir)?;
    }
    for part in ["lib", "lib32"] {
        own_directory(&dir.join(part))?;
    }
    own_file(&dir, CONTENT)?;
    own_file(&dir.join("lib32"), &stub::library())?;
    let of_lib = Path::new(if lib_is_32 { "../lib32" } else { ".." }).join(NAME);
    for (link, target) in [
        ("$LIB", Path::new(".")),
        ("lib64", Path::new(".")),
        ("lib/x86_64-linux-gnu", Path::new("..")),
        ("lib/i386-linux-gnu", Path::new("../lib32")),
        ("lib/libipcspace_preload.so", &of_lib),
    ] {
        own_link(&dir.join(link), target)?;
    }
    Ok(dir.join(NAME))
}

/// Whether `lib` is the directory of this machine's 32-bit libraries, as with Fedora and SUSE, and not that of 64-bit ones, as with Arch
/// Linux and whatever is built elsewhere. The loaders lie where the libraries do.
fn lib_is_of_32_bit() -> bool {
    let is_in_lib = |loader: &str| {
        let path = fs::canonicalize(loader).ok();
        path.is_some_and(|path| path.parent().and_then(Path::file_name) == Some(OsStr::new("lib")))
    };
    is_in_lib(LOADER_32) && !is_in_lib("/lib64/ld-linux-x86-64.so.2")
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

/// Sees that the library there is ours and what it has to be, or puts it there.
fn own_file(dir: &Path, content: &[u8]) -> io::Result<()> {
    let path = dir.join(NAME);
    let is_ours = match fs::symlink_metadata(&path) {
        Ok(found) => {
            found.is_file()
                && found.uid() == geteuid().as_raw()
                && found.mode() & 0o7777 == 0o644
                && fs::read(&path)? == content
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    if is_ours {
        return Ok(());
    }
    replace(&path, |temporary| {
        let mut file = fs::File::create(temporary)?;
        file.write_all(content)?;
        file.set_permissions(fs::Permissions::from_mode(0o644))
    })
}

fn own_link(path: &Path, target: &Path) -> io::Result<()> {
    if fs::read_link(path).is_ok_and(|found| found == target) {
        return Ok(());
    }
    replace(path, |temporary| symlink(target, temporary))
}

/// Makes it under another name and renames, so that nobody ever loads a part.
fn replace(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", process::id()));
    // One of an earlier process with this id that was killed.
    let _ = fs::remove_file(&temporary);
    let made = make(Path::new(&temporary)).and_then(|()| fs::rename(&temporary, path));
    if made.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    made
}
