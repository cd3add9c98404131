//! `cargo xtask dist`: the packages, below `target/dist`.
//!
//! - `ipcspace-VERSION-x86_64-linux.tar.gz`: the command, libipcspace for C programs with its headers, manual pages, completions, units of systemd, documents and licences, as below a prefix.
//! - `ipcspace_VERSION_amd64.deb`: the same for Debian and its kin, where there is dpkg-deb.
//!
//! The command is linked with all of its C library, so it runs on any distribution; the preload library in it needs only what all C libraries have.
//! libipcspace is linked with the builder's glibc, and needs one not older.
//! The same commit gives the same packages: every time in them is the commit's.

use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::library;

type Done<T = ()> = Result<T, Box<dyn Error>>;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const TARGET: &str = "x86_64-unknown-linux-gnu";
const DOCUMENTS: [&str; 6] =
    ["README.md", "LIMITATIONS.md", "SECURITY.md", "ARCHITECTURE.md", "LICENSE-MIT", "LICENSE-APACHE"];

/// Makes them; always true, or why not.
pub(crate) fn run(root: &Path) -> Done<bool> {
    let target = crate::target_directory(root);
    let dist = target.join("dist");
    let tree = dist.join("tree");
    if dist.exists() {
        fs::remove_dir_all(&dist)?;
    }
    let command = build(root, &target)?;
    let destination = tree.to_str().ok_or("the target directory's path is not UTF-8")?;
    // A tarball is unpacked anywhere.
    library::install(root, destination, "/usr", "${pcfiledir}/../..")?;
    fill(root, &command, &tree.join("usr"))?;
    let time = said(Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(root))?;
    let files = pack(&dist, &tree, &time)?;
    fs::remove_dir_all(&tree)?;
    for file in files {
        println!("{}", file.display());
    }
    Ok(true)
}

/// The command, static and without symbols.
fn build(root: &Path, target: &Path) -> Done<PathBuf> {
    let mut cargo =
        crate::cargo(root, &["build", "--release", "--package", "cli", "--locked", "--target", TARGET]);
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static").env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    succeed(&mut cargo)?;
    Ok(target.join(TARGET).join("release/ipcspace"))
}

/// What is installed below /usr.
fn fill(root: &Path, command: &Path, usr: &Path) -> Done {
    let (bin, share) = (usr.join("bin"), usr.join("share"));
    let documents = share.join("doc/ipcspace");
    fs::create_dir_all(&bin)?;
    fs::create_dir_all(&documents)?;
    fs::copy(command, bin.join("ipcspace"))?;
    succeed(Command::new(command).arg("pages").arg(&share))?;
    for section in ["man/man1", "man/man3"] {
        for page in fs::read_dir(share.join(section))? {
            compress(&page?.path())?;
        }
    }
    for document in DOCUMENTS {
        fs::copy(root.join(document), documents.join(document))?;
    }
    for manager in ["user", "system"] {
        let units = usr.join("lib/systemd").join(manager);
        fs::create_dir_all(&units)?;
        for unit in fs::read_dir(root.join("dist/systemd").join(manager))? {
            let unit = unit?;
            fs::copy(unit.path(), units.join(unit.file_name()))?;
        }
    }
    fs::copy(root.join("CHANGELOG.md"), documents.join("changelog"))?;
    compress(&documents.join("changelog"))?;
    fs::write(documents.join("copyright"), COPYRIGHT)?;
    plain_modes(usr)
}

const COPYRIGHT: &str = "\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: ipcspace

Files: *
Copyright: the authors of ipcspace
License: MIT or Apache-2.0
 Their texts are in LICENSE-MIT and LICENSE-APACHE beside this file.
";

/// Whatever the umask was.
fn plain_modes(path: &Path) -> Done {
    // Its modes are those of what it names.
    if path.is_symlink() {
        return Ok(());
    }
    let executable = path.is_dir() || path.ends_with("bin/ipcspace");
    fs::set_permissions(path, fs::Permissions::from_mode(if executable { 0o755 } else { 0o644 }))?;
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            plain_modes(&entry?.path())?;
        }
    }
    Ok(())
}

fn compress(file: &Path) -> Done {
    succeed(Command::new("gzip").args(["-9", "-n"]).arg(file))
}

fn pack(dist: &Path, tree: &Path, time: &str) -> Done<Vec<PathBuf>> {
    let tar = dist.join(format!("ipcspace-{VERSION}-x86_64-linux.tar.gz"));
    let directory = format!("s,^usr,ipcspace-{VERSION},");
    succeed(
        Command::new("tar")
            .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", &format!("--mtime=@{time}")])
            .args(["--use-compress-program=gzip -9 -n", "--transform", &directory, "-cf"])
            .arg(&tar)
            .arg("-C")
            .arg(tree)
            .arg("usr"),
    )?;
    let mut files = vec![tar];
    if Command::new("dpkg-deb").arg("--version").output().is_err() {
        println!("no .deb: there is no dpkg-deb here");
        return Ok(files);
    }
    let control = tree.join("DEBIAN");
    fs::create_dir(&control)?;
    fs::write(control.join("control"), self::control(tree)?)?;
    plain_modes(&control)?;
    let deb = dist.join(format!("ipcspace_{VERSION}_amd64.deb"));
    let mut dpkg = Command::new("dpkg-deb");
    dpkg.args(["--root-owner-group", "--build"]).arg(tree).arg(&deb).env("SOURCE_DATE_EPOCH", time);
    said(&mut dpkg)?;
    files.push(deb);
    Ok(files)
}

fn control(tree: &Path) -> Done<String> {
    let size = said(Command::new("du").args(["-sk", "--apparent-size"]).arg(tree.join("usr")))?;
    let size = size.split_whitespace().next().ok_or("du says nothing")?;
    Ok(format!(
        "\
Package: ipcspace
Version: {VERSION}
Architecture: amd64
Maintainer: the authors of ipcspace <ipcspace@localhost>
Installed-Size: {size}
Section: utils
Priority: optional
Description: System V IPC in namespaces of your own
 Runs a command, and all it starts, in a private namespace of message queues,
 semaphores and shared memory, without privileges and with limits of its own.
 The programs are not changed.
 .
 For C programs that want to be in one by themselves, libipcspace is there too,
 as a shared and a static library, with headers and a manual page.
"
    ))
}

fn succeed(command: &mut Command) -> Done {
    let status = command.status().map_err(|error| format!("{:?}: {error}", command.get_program()))?;
    if status.success() { Ok(()) } else { Err(format!("{:?}: {status}", command.get_program()).into()) }
}

/// What a command prints.
fn said(command: &mut Command) -> Done<String> {
    let output = command.output().map_err(|error| format!("{:?}: {error}", command.get_program()))?;
    if !output.status.success() {
        return Err(
            format!("{:?}: {}", command.get_program(), String::from_utf8_lossy(&output.stderr)).into()
        );
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
