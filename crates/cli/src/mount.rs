//! `ipcspace mount` and `ipcspace umount`: a namespace as files.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use broker::service::{Error, Lease, Service};
use broker::view;
use clap::Args;

use crate::source::{self, Unreachable};

#[derive(Debug, Args)]
pub(crate) struct Mount {
    /// The namespace, if it is not the one that this program runs in, and the directory to show it in
    #[arg(required = true, num_args = 1..=2, value_name = "[NAME] DIR")]
    place: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Umount {
    /// The directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Why there is no view.
#[derive(Debug, thiserror::Error)]
enum NoView {
    #[error(transparent)]
    Namespace(#[from] Unreachable),
    #[error(transparent)]
    Mount(#[from] views::Failure),
}

impl From<Error> for NoView {
    fn from(error: Error) -> NoView {
        NoView::Namespace(match error {
            Error::System(nix::errno::Errno::EACCES) => Unreachable::Stranger,
            error => error.into(),
        })
    }
}

pub(crate) fn mount(mount: &Mount) -> ExitCode {
    let [first, rest @ ..] = mount.place.as_slice() else { return ExitCode::from(2) };
    let done = match rest.first() {
        Some(directory) => named(&first.to_string_lossy(), Path::new(directory)),
        None => own(Path::new(first)),
    };
    end(done)
}

pub(crate) fn umount(umount: &Umount) -> ExitCode {
    end(views::unmount(&umount.directory).map_err(NoView::from))
}

fn end(done: Result<(), NoView>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ipcspace: {error}");
            ExitCode::FAILURE
        }
    }
}

fn named(name: &str, directory: &Path) -> Result<(), NoView> {
    let name = source::name(name)?;
    // Held until the view is served.
    let lease: Lease = Service::join(&name)?.ok_or_else(|| Unreachable::Unknown(name.clone()))?;
    show(lease.socket(), directory, &format!("{}:{name}", views::SOURCE))
}

fn own(directory: &Path) -> Result<(), NoView> {
    let socket = env::var_os(client::wire::SOCKET_ENV).ok_or(Unreachable::NoNamespace)?;
    show(Path::new(&socket), directory, views::SOURCE)
}

fn show(socket: &Path, directory: &Path, source: &str) -> Result<(), NoView> {
    let fuse = views::mount(directory, source)?;
    view::hand_over(socket, &fuse).inspect_err(|_| {
        // Dead from here on, and of no use.
        drop(fuse);
        let _ = views::unmount(directory);
    })?;
    Ok(())
}
