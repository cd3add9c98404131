//! What kind of program a command is, as far as it decides whether the preload library can serve it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::{env, io};

use nix::unistd::{AccessFlags, access, getgid, getuid};

/// Why the dynamic loader won't load the library into a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unserved {
    Static,
    OtherWordSize,
    SetId,
}

impl Unserved {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Unserved::Static => "is statically linked",
            Unserved::OtherWordSize => "is not a 64-bit program",
            Unserved::SetId => "gains rights when it starts (setuid, setgid or file capabilities)",
        }
    }
}

/// The file that execvp(3) would execute, and why it can't be served, if it can't. What is unreadable or
/// missing is left to exec itself to tell.
pub(crate) fn unserved(command: &OsStr) -> Option<(PathBuf, Unserved)> {
    let path = find(command)?;
    if is_itself(&path) {
        // Its calls need no libc.
        return None;
    }
    let why = inspect(&path, 0).ok()??;
    Some((path, why))
}

/// Whether a file is this very program.
fn is_itself(path: &Path) -> bool {
    let identity = |found: fs::Metadata| (found.dev(), found.ino());
    let itself = fs::metadata("/proc/self/exe").ok();
    itself.is_some_and(|itself| fs::metadata(path).is_ok_and(|found| identity(found) == identity(itself)))
}

fn find(command: &OsStr) -> Option<PathBuf> {
    if command.as_bytes().contains(&b'/') {
        return Some(command.into());
    }
    let directories = env::var_os("PATH")?;
    env::split_paths(&directories)
        .map(|directory| directory.join(command))
        .find(|path| path.is_file() && access(path, AccessFlags::X_OK).is_ok())
}

fn inspect(path: &Path, depth: u32) -> io::Result<Option<Unserved>> {
    let file = File::open(path)?;
    let mut head = [0; 256];
    let length = file.read_at(&mut head, 0)?;
    let head = &head[..length];
    if let Some(interpreter) = interpreter(head) {
        // The kernel follows a few levels of scripts; so do we, and end.
        return if depth < 4 { inspect(interpreter, depth + 1) } else { Ok(None) };
    }
    if !head.starts_with(b"\x7fELF") {
        return Ok(None);
    }
    if gains_rights(path)? {
        return Ok(Some(Unserved::SetId));
    }
    const ELFCLASS64: u8 = 2;
    if head.get(4) != Some(&ELFCLASS64) {
        return Ok(Some(Unserved::OtherWordSize));
    }
    Ok((!has_loader(&file, head)?).then_some(Unserved::Static))
}

/// The program that a script names in its first line.
fn interpreter(head: &[u8]) -> Option<&Path> {
    let line = head.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    let name = line.split(|&byte| matches!(byte, b' ' | b'\t')).find(|word| !word.is_empty())?;
    Some(Path::new(OsStr::from_bytes(name)))
}

/// Whether the dynamic loader will run in secure mode, and ignore a library from elsewhere.
fn gains_rights(path: &Path) -> io::Result<bool> {
    let found = fs::metadata(path)?;
    let (mode, is_root) = (found.mode(), getuid().is_root());
    let setuid = mode & libc::S_ISUID != 0 && found.uid() != getuid().as_raw();
    let setgid = mode & (libc::S_ISGID | libc::S_IXGRP) == libc::S_ISGID | libc::S_IXGRP
        && found.gid() != getgid().as_raw();
    Ok(setuid || setgid || (!is_root && has_capabilities(path)))
}

fn has_capabilities(path: &Path) -> bool {
    // Without a buffer the size alone is asked for.
    let nowhere: &mut [u8; 0] = &mut [];
    rustix::fs::getxattr(path, c"security.capability", nowhere).is_ok_and(|size| size > 0)
}

/// Whether a 64-bit program has a PT_INTERP: without, no dynamic loader runs.
fn has_loader(file: &File, head: &[u8]) -> io::Result<bool> {
    const PT_INTERP: u32 = 3;
    let field = |at: usize, size: usize| -> Option<u64> {
        let bytes = head.get(at..at + size)?;
        Some(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    };
    // e_phoff, e_phentsize and e_phnum of Elf64_Ehdr.
    let (Some(offset), Some(size), Some(count)) = (field(32, 8), field(54, 2), field(56, 2)) else {
        return Ok(false);
    };
    for index in 0..count {
        let mut kind = [0; 4];
        file.read_exact_at(&mut kind, offset.saturating_add(index * size))?;
        if u32::from_le_bytes(kind) == PT_INTERP {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dynamic_programs_and_scripts_are_served() {
        assert_eq!(unserved(OsStr::new("sh")), None);
        assert_eq!(unserved(OsStr::new("/bin/true")), None);
        let script = env::temp_dir().join(format!("ipcspace-script-{}", std::process::id()));
        fs::write(&script, "#! /bin/sh -e\n").unwrap();
        assert_eq!(unserved(script.as_os_str()), None);
        fs::remove_file(script).unwrap();
    }

    #[test]
    fn other_programs_are_named() {
        let dir = env::temp_dir().join(format!("ipcspace-programs-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let program = |name: &str, class: u8| {
            let mut elf = vec![0; 64];
            elf[..5].copy_from_slice(&[0x7f, b'E', b'L', b'F', class]);
            let path = dir.join(name);
            fs::write(&path, elf).unwrap();
            path
        };
        let (fixed, small) = (program("fixed", 2), program("small", 1));
        assert_eq!(unserved(fixed.as_os_str()), Some((fixed, Unserved::Static)));
        assert_eq!(unserved(small.as_os_str()), Some((small, Unserved::OtherWordSize)));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn missing_programs_are_left_to_exec() {
        assert_eq!(unserved(OsStr::new("/nonexistent")), None);
        assert_eq!(unserved(OsStr::new("no-such-program-anywhere")), None);
    }
}
