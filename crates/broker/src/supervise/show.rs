//! The namespace's files in the place of the kernel's, for a command that is to see them so: its process mounts them before it executes the
//! command, and hands the mount to the broker, which serves it.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, recv, send, sendmsg, socketpair,
};

use super::trap::receive;
use super::{Failure, Namespace};
use crate::view;

/// The broker's end.
pub(super) struct Server(Option<OwnedFd>);

/// The end of the command's process.
pub(super) struct Show(Option<OwnedFd>);

/// Both ends, without anything between where nothing is to be shown.
pub(super) fn pair(wanted: bool) -> nix::Result<(Server, Show)> {
    if !wanted {
        return Ok((Server(None), Show(None)));
    }
    let (one, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    Ok((Server(Some(one)), Show(Some(other))))
}

impl Show {
    /// Mounts the files. Where that can't be, the broker is told, and the process ends.
    pub(super) fn begin(self) -> nix::Result<()> {
        let Some(link) = self.0 else { return Ok(()) };
        let fuse = tell(&link, views::begin_overmount())?;
        let rights = [fuse.as_raw_fd()];
        let control = [ControlMessage::ScmRights(&rights)];
        sendmsg::<UnixAddr>(link.as_raw_fd(), &[IoSlice::new(b".")], &control, MsgFlags::MSG_NOSIGNAL, None)?;
        // Nothing can be looked up in it before it is served.
        if recv(link.as_raw_fd(), &mut [0], MsgFlags::empty())? == 0 {
            return Err(Errno::ECONNRESET);
        }
        tell(&link, views::overmount())?;
        send(link.as_raw_fd(), b".", MsgFlags::MSG_NOSIGNAL).map(drop)
    }
}

/// Tells the broker why something failed.
fn tell<T>(link: &OwnedFd, done: Result<T, views::Failure>) -> nix::Result<T> {
    done.map_err(|failure| {
        // A byte before it, as the broker expects; if it is gone, nobody needs to know.
        let _ = send(link.as_raw_fd(), format!(".{failure}").as_bytes(), MsgFlags::MSG_NOSIGNAL);
        Errno::ECANCELED
    })
}

impl Server {
    /// Serves what the command's process mounts, until all is in its place.
    pub(super) fn serve(self, namespace: &Namespace) -> Result<(), Failure> {
        let Some(link) = self.0 else { return Ok(()) };
        let fuse = receive(&link)?.map_err(Failure::NoViews)?;
        match namespace {
            Namespace::Own(_) => views::serve(fuse).map_err(|error| Failure::NoViews(error.to_string()))?,
            Namespace::Joined(lease) => {
                view::hand_over(lease.socket(), &fuse)
                    .map_err(|error| Failure::NoViews(error.to_string()))?;
            }
            Namespace::Gone => return Err(io::Error::from(io::ErrorKind::NotFound).into()),
        }
        send(link.as_raw_fd(), b".", MsgFlags::MSG_NOSIGNAL)?;
        match receive(&link)? {
            Err(why) if !why.is_empty() => Err(Failure::NoViews(why)),
            _ => Ok(()),
        }
    }
}
