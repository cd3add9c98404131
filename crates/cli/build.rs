//! Builds the preload library and embeds it, so that the one executable is all there is to install.
//!
//! A Cargo of its own builds it: Cargo has no stable way to depend on another crate's cdylib, and this one has a profile of its own.
//! It sees a workspace of the library's crates alone, so it needs neither network nor lock file, whatever the outer one resolved.
//! Who packages a ready-built library names it in IPCSPACE_PRELOAD_SO.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

const LIBRARY: &str = "libipcspace_preload.so";
/// The crates that the library consists of.
const SOURCES: [&str; 6] = ["abi", "sys", "arena", "engine", "client", "preload"];
/// What the outer Cargo and its options set for this build, and the inner one must not see.
const NOT_FOR_IT: [&str; 8] = [
    "CARGO_ENCODED_RUSTFLAGS",
    "RUSTFLAGS",
    "RUSTC_WORKSPACE_WRAPPER", // clippy's
    "CLIPPY_ARGS",
    "CARGO_BUILD_TARGET",
    "CARGO_TARGET_DIR",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_UNSTABLE_BUILD_STD",
];

fn main() {
    println!("cargo::rerun-if-env-changed=IPCSPACE_PRELOAD_SO");
    let library = match env::var_os("IPCSPACE_PRELOAD_SO") {
        Some(ready) => PathBuf::from(ready),
        None => build(),
    };
    println!("cargo::rerun-if-changed={}", library.display());
    let content = fs::read(&library).unwrap_or_else(|error| panic!("{}: {error}", library.display()));
    // It only tells versions apart: whoever finds a file by it compares the content.
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    println!("cargo::rustc-env=IPCSPACE_PRELOAD_HASH={:016x}", hasher.finish());
    let embedded = path_of("OUT_DIR").join(LIBRARY);
    fs::write(&embedded, content).unwrap_or_else(|error| panic!("{}: {error}", embedded.display()));
}

fn build() -> PathBuf {
    let workspace =
        small_workspace(&path_of("CARGO_MANIFEST_DIR").join("../..")).expect("the library's workspace");
    let target_dir = path_of("OUT_DIR").join("preload");
    let (host, target) = (env::var("HOST"), env::var("TARGET"));
    let mut cargo = cargo(&workspace, &target_dir);
    let mut built = target_dir;
    if let (Ok(host), Ok(target)) = (host, target)
        && host != target
    {
        cargo.args(["--target", &target]);
        built.push(target);
    }
    let status = cargo.status().expect("cargo");
    assert!(status.success(), "the preload library does not build");
    built.join("preload").join(LIBRARY)
}

/// The workspace with the library's crates only, which are linked to, not copied.
fn small_workspace(whole: &Path) -> io::Result<PathBuf> {
    let small = path_of("OUT_DIR").join("workspace");
    let crates = small.join("crates");
    if small.exists() {
        fs::remove_dir_all(&small)?;
    }
    fs::create_dir_all(&crates)?;
    for source in SOURCES {
        let origin = fs::canonicalize(whole.join("crates").join(source))?;
        println!("cargo::rerun-if-changed={}", origin.display());
        symlink(origin, crates.join(source))?;
    }
    let manifest = whole.join("Cargo.toml");
    println!("cargo::rerun-if-changed={}", manifest.display());
    let manifest = fs::read_to_string(manifest)?;
    // What the members share, the profile among it, stays as it is.
    let shared = manifest
        .find("[workspace.package]")
        .expect("a table [workspace.package] in the workspace's manifest");
    let members = "[workspace]\nresolver = \"3\"\nmembers = [\"crates/*\"]\n\n";
    fs::write(small.join("Cargo.toml"), [members, &manifest[shared..]].concat())?;
    Ok(small)
}

fn cargo(workspace: &Path, target_dir: &Path) -> Command {
    let mut cargo = Command::new(path_of("CARGO"));
    cargo.args(["build", "--profile", "preload", "--package", "preload", "--offline"]);
    cargo.arg("--manifest-path").arg(workspace.join("Cargo.toml")).arg("--target-dir").arg(target_dir);
    // What is built of the engine.
    let options = ["sysvipc", "posix-mqueue", "ipc-ns", "sysctl", "compat"].map(|option| {
        let name = format!("CARGO_FEATURE_{}", option.to_uppercase().replace('-', "_"));
        env::var_os(name).map(|_| option)
    });
    let options: Vec<_> = options.into_iter().flatten().collect();
    cargo.args(["--no-default-features", "--features", &options.join(",")]);
    for variable in NOT_FOR_IT {
        cargo.env_remove(variable);
    }
    let of_this_package = |name: &str| name.starts_with("CARGO_FEATURE_") || name.starts_with("CARGO_PKG_");
    for (name, _) in env::vars().filter(|(name, _)| of_this_package(name)) {
        cargo.env_remove(name);
    }
    cargo
}

fn path_of(variable: &str) -> PathBuf {
    env::var_os(variable).unwrap_or_else(|| panic!("Cargo sets no {variable}")).into()
}
