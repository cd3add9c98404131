//! `cargo xtask library PREFIX`: builds libipcspace, and installs it below a prefix: shared and static library, headers, what pkg-config asks for, manual page.
//!
//! As with make, `DESTDIR` is put before the prefix for where files are written, and not for where they say they are. The packages have it installed too ([`crate::dist`]).

use std::error::Error;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::{cargo, target_directory};

/// The name that a program finds the library by when it starts, as in crates/libipcspace/build.rs.
const SONAME: &str = "libipcspace.so.0";

/// Installs it; always true, or why not.
pub(crate) fn run(root: &Path, prefix: &str) -> Result<bool, Box<dyn Error>> {
    if !prefix.starts_with('/') {
        return Err(format!("the prefix {prefix} is not an absolute path").into());
    }
    install(root, &std::env::var("DESTDIR").unwrap_or_default(), prefix, prefix)?;
    Ok(true)
}

/// Builds it, and puts it below a prefix in what stands for the root directory; pkg-config is told that it is below another one, if need be.
pub(crate) fn install(
    root: &Path,
    destination: &str,
    prefix: &str,
    told: &str,
) -> Result<(), Box<dyn Error>> {
    let build = ["build", "--profile", "library", "--quiet", "--package", "libipcspace", "--locked"];
    if !cargo(root, &build).status()?.success() {
        return Err("the library does not build".into());
    }
    let to = PathBuf::from(destination.to_owned() + prefix);
    let (built, source) = (target_directory(root).join("library"), root.join("crates/libipcspace"));
    for directory in ["include/ipcspace", "lib/pkgconfig", "share/man/man3"] {
        fs::create_dir_all(to.join(directory))?;
    }
    fs::copy(built.join("libipcspace.so"), to.join("lib").join(SONAME))?;
    fs::copy(built.join("libipcspace.a"), to.join("lib/libipcspace.a"))?;
    let link = to.join("lib/libipcspace.so");
    // From last time.
    let _ = fs::remove_file(&link);
    symlink(SONAME, link)?;
    for header in ["include/ipcspace.h", "include/ipcspace/names.h"] {
        fs::copy(source.join(header), to.join(header))?;
    }
    fs::copy(source.join("man/libipcspace.3"), to.join("share/man/man3/libipcspace.3"))?;
    for package in ["ipcspace.pc", "ipcspace-names.pc"] {
        let template = fs::read_to_string(source.join(format!("{package}.in")))?;
        let text = template.replace("@prefix@", told).replace("@version@", env!("CARGO_PKG_VERSION"));
        fs::write(to.join("lib/pkgconfig").join(package), text)?;
    }
    Ok(())
}
