//! Where `ls` and `rm` find the objects: in the namespace of their environment, or in a named one.

use std::{env, io};

use broker::service::{Error, Service, check_name};
use broker::sysv::Objects;
use clap::Args;

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

impl Place {
    /// The name of the namespace, if one is named.
    pub(crate) fn name(&self) -> Option<&str> {
        self.namespace.as_deref()
    }
}

/// Why the objects can't be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreachable {
    #[error(
        "this is no namespace of ipcspace: name one with --namespace, or start this within 'ipcspace run'"
    )]
    NoNamespace,
    #[error("within a namespace of ipcspace, libc does not lead to the kernel's objects")]
    NotKernel,
    #[error("there is no namespace '{0}': 'ipcspace run -n {0} -- CMD' makes it")]
    Unknown(String),
    #[error(
        "this namespace is not yours: only its owner's processes, in its own user and PID namespaces, reach its objects"
    )]
    Stranger,
    #[error("nobody serves this namespace any more: its broker was killed")]
    Unserved,
    #[error(transparent)]
    Namespace(#[from] Error),
    #[error("cannot ask for the objects: {0}")]
    Asked(io::Error),
}

/// Those objects. The namespace lives as long as this process, which has joined it.
pub(crate) fn enter(place: &Place) -> Result<Objects, Unreachable> {
    let is_within = env::var_os("IPCSPACE_SOCKET").is_some();
    if place.kernel {
        return if is_within { Err(Unreachable::NotKernel) } else { Ok(Objects::OfKernel) };
    }
    if let Some(name) = &place.namespace {
        let lease = Service::join(name)?.ok_or_else(|| Unreachable::Unknown(name.clone()))?;
        lease.enter().map_err(Unreachable::Asked)?;
    } else if !is_within {
        return Err(Unreachable::NoNamespace);
    }
    Objects::OfNamespace.reach().map_err(|error| match error.raw_os_error() {
        Some(libc::EACCES) => Unreachable::Stranger,
        Some(libc::ENOSYS) => Unreachable::Unserved,
        _ => Unreachable::Asked(error),
    })?;
    Ok(Objects::OfNamespace)
}
