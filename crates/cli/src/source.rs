//! Where `ls` and `rm` find the objects: in the namespace of their environment, or in a named one.
//!
//! They are programs like any other: they have the preload library loaded and call libc. Started without it, they set it up and
//! execute themselves again.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::{env, fs, io};

use broker::service::{Error, Service, check_name};
use broker::sysv;
use clap::Args;

use crate::library::{self, NoPlace};

/// Which objects are meant.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The namespace of this name, instead of the one that this program runs in
    #[arg(short = 'N', long, value_name = "NAME", value_parser = name)]
    namespace: Option<String>,
    /// The kernel's objects, to compare with
    #[arg(long, hide = true, conflicts_with = "namespace")]
    kernel: bool,
}

/// The name of a namespace.
pub(crate) fn name(text: &str) -> Result<String, Error> {
    check_name(text).map(|()| text.to_owned())
}

/// Why the objects can't be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreachable {
    #[error(
        "this is no namespace of ipcspace: name one with --namespace, or start this within 'ipcspace run'"
    )]
    NoNamespace,
    #[error("there is no namespace '{0}': 'ipcspace run -n {0} -- CMD' makes it")]
    Unknown(String),
    #[error(
        "the preload library was not loaded into this program; is it static, or has it more rights than you?"
    )]
    NotLoaded,
    #[error(
        "this namespace is not yours: only its owner's processes, in its own user and PID namespaces, reach its objects"
    )]
    Stranger,
    #[error("nobody serves this namespace any more: its broker was killed")]
    Unserved,
    #[error(transparent)]
    Namespace(#[from] Error),
    #[error(transparent)]
    Library(#[from] NoPlace),
    #[error("cannot ask for the objects: {0}")]
    Asked(io::Error),
    #[error("cannot start this program again: {0}")]
    Restart(io::Error),
}

/// Returns once libc's calls reach those objects.
pub(crate) fn enter(place: &Place) -> Result<(), Unreachable> {
    if place.kernel {
        return if is_loaded() { Err(Unreachable::NoNamespace) } else { Ok(()) };
    }
    let wanted = match &place.namespace {
        Some(name) => Service::join(name)?.ok_or_else(|| Unreachable::Unknown(name.clone()))?.env(),
        None => Vec::new(),
    };
    if wanted.is_empty() && env::var_os("IPCSPACE_SOCKET").is_none() {
        return Err(Unreachable::NoNamespace);
    }
    let is_set = |(key, value): &(String, String)| env::var(key).is_ok_and(|found| found == *value);
    if is_loaded() && wanted.iter().all(is_set) {
        return sysv::reach().map_err(|error| match error.raw_os_error() {
            Some(libc::EACCES) => Unreachable::Stranger,
            Some(libc::ENOSYS) => Unreachable::Unserved,
            _ => Unreachable::Asked(error),
        });
    }
    let preload = library::ld_preload()?;
    if env::var_os("LD_PRELOAD").is_some_and(|set| set == preload) && !is_loaded() {
        return Err(Unreachable::NotLoaded);
    }
    let itself = env::current_exe().map_err(Unreachable::Restart)?;
    let mut again = Command::new(itself);
    again.args(env::args_os().skip(1)).envs(wanted).env("LD_PRELOAD", preload);
    Err(Unreachable::Restart(again.exec()))
}

/// Whether the preload library is in this process.
fn is_loaded() -> bool {
    fs::read_to_string("/proc/self/maps").is_ok_and(|maps| maps.contains("/libipcspace_preload.so"))
}
