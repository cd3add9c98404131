//! The trap of a `run`: the command's process sets it before it executes the command, and hands the listener to the broker.
//!
//! # Safety
//! What is received by a message belongs to nobody else.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, recvmsg,
    sendmsg, socketpair,
};
use trap::filter;

use super::{Door, Failure, Namespace};

/// The broker's end.
pub(super) struct Listener {
    link: Option<OwnedFd>,
    door: Door,
}

/// The end of the command's process.
pub(super) struct Snare {
    link: Option<OwnedFd>,
    door: Door,
}

/// Both ends, without anything between where no trap is wanted.
pub(super) fn pair(door: Door) -> nix::Result<(Listener, Snare)> {
    if door == Door::Preload {
        return Ok((Listener { link: None, door }, Snare { link: None, door }));
    }
    let (one, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    Ok((Listener { link: Some(one), door }, Snare { link: Some(other), door }))
}

impl Snare {
    /// Sets the trap, and tells the broker. Where it must be, and can't, the process ends.
    pub(super) fn spring(self) -> nix::Result<()> {
        let Some(link) = self.link else { return Ok(()) };
        let set = filter::install();
        let text = set.as_ref().map_or_else(ToString::to_string, |_| String::new());
        let files = set.as_ref().map(|fd| [fd.as_raw_fd()]);
        let rights = files.as_ref().map(|files| [ControlMessage::ScmRights(files)]);
        let control = rights.as_ref().map_or(&[][..], |rights| &rights[..]);
        // At least a byte, which tells it from the end of the connection.
        let parts = [IoSlice::new(b"."), IoSlice::new(text.as_bytes())];
        sendmsg::<UnixAddr>(link.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None)?;
        if set.is_err() && self.door == Door::Trap { Err(Errno::ENOSYS) } else { Ok(()) }
    }
}

impl Listener {
    /// Waits until the trap is set, and begins to serve it. Returns why there is none, where that is a pity only.
    pub(super) fn serve(self, namespace: &Namespace) -> Result<Option<String>, Failure> {
        let Some(link) = &self.link else { return Ok(None) };
        let served = match receive(link) {
            Ok(Ok(listener)) => begin(listener, namespace).map_err(|error| error.to_string()),
            Ok(Err(refusal)) => Err(refusal),
            Err(error) => Err(error.to_string()),
        };
        match served {
            Ok(()) => Ok(None),
            Err(why) if self.door == Door::Trap => Err(Failure::NoTrap(why)),
            Err(why) => Ok(Some(format!(
                "programs that are not dynamically linked 64-bit ones use the kernel's IPC: {why}"
            ))),
        }
    }
}

fn begin(listener: OwnedFd, namespace: &Namespace) -> io::Result<()> {
    if let Some(socket) = namespace.socket() {
        client::use_socket(socket.as_os_str().as_bytes())
            .map_err(|error| io::Error::from_raw_os_error(error.raw()))?;
    }
    trap::serve(listener)
}

/// The listener, or why there is none.
fn receive(link: &OwnedFd) -> nix::Result<Result<OwnedFd, String>> {
    let mut bytes = [0; 512];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let mut space = nix::cmsg_space!(RawFd);
    let message = recvmsg::<()>(link.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let length = message.bytes;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(files) = control
            && let Some(fd) = files.first()
        {
            // SAFETY: just received, nobody else has it.
            return Ok(Ok(unsafe { OwnedFd::from_raw_fd(*fd) }));
        }
    }
    let text = bytes.get(1..length).ok_or(Errno::ECONNRESET)?;
    Ok(Err(String::from_utf8_lossy(text).into_owned()))
}
