//! The trap of a `run`: the command's process sets it before it executes the command, and hands the listener to the broker.
//!
//! # Safety
//! What is received by a message belongs to nobody else.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, recv, send, sendmsg, socketpair,
};
use trap::{
    filter::{self, Files},
    routes,
};

use super::{Door, Failure, Namespace};
use crate::view::unseen;

/// What the broker says where it has joined another trap.
const JOINED: u8 = 1;

/// The broker's end.
pub(super) struct Listener {
    link: OwnedFd,
    door: Door,
    /// It is another one's trap.
    joined: bool,
}

/// The end of the command's process.
pub(super) struct Snare {
    link: OwnedFd,
    door: Door,
}

/// Both ends.
pub(super) fn pair(door: Door) -> nix::Result<(Listener, Snare)> {
    let (one, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    Ok((Listener { link: one, door, joined: false }, Snare { link: other, door }))
}

/// Whose trap the command is below.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Below {
    Nothing,
    /// That of its own `run`.
    Own,
    /// That of the outermost one.
    Outer,
}

impl Snare {
    /// Sets the trap, where one is wanted, and tells the broker. Which one there is then, once the broker lets the process go on; where it
    /// must be, and can't, or the broker has failed, the process ends.
    pub(super) fn spring(self) -> nix::Result<Below> {
        if self.door == Door::Preload {
            return self.released().map(|_| Below::Nothing);
        }
        // Where the library is loaded, it sees to the files of those that it serves.
        let files = if self.door == Door::Trap { Files::OfAll } else { Files::OfLowCode };
        let set = filter::install(files);
        let text = set.as_ref().map_or_else(ToString::to_string, |_| String::new());
        let files = set.as_ref().map(|fd| [fd.as_raw_fd()]);
        let rights = files.as_ref().map(|files| [ControlMessage::ScmRights(files)]);
        let control = rights.as_ref().map_or(&[][..], |rights| &rights[..]);
        // At least a byte, which tells it from the end of the connection.
        let parts = [IoSlice::new(b"."), IoSlice::new(text.as_bytes())];
        sendmsg::<UnixAddr>(self.link.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None)?;
        // Perhaps the broker has joined another one's: no call may be made before that is known.
        let joined = self.released()?;
        match set {
            Ok(_) => Ok(Below::Own),
            Err(_) if joined => Ok(Below::Outer),
            Err(_) if self.door == Door::Trap => Err(Errno::ENOSYS),
            Err(_) => Ok(Below::Nothing),
        }
    }

    /// Waits until the broker lets the process go on, as it is to know of it before anything can happen to either; whether it has joined another
    /// one's trap.
    fn released(&self) -> nix::Result<bool> {
        let mut joined = [0];
        match recv(self.link.as_raw_fd(), &mut joined, MsgFlags::empty())? {
            0 => Err(Errno::ECONNRESET),
            _ => Ok(joined == [JOINED]),
        }
    }
}

impl Listener {
    /// Lets the command's process go on.
    pub(super) fn release(self) {
        // Who has ended meanwhile does not mind.
        let joined = if self.joined { JOINED } else { 0 };
        let _ = send(self.link.as_raw_fd(), &[joined], MsgFlags::MSG_NOSIGNAL);
    }

    /// Waits until the trap is set, and begins to serve it. Returns why there is none, where that is a pity only.
    pub(super) fn serve(&mut self, namespace: &Namespace) -> Result<Option<String>, Failure> {
        if self.door == Door::Preload {
            return Ok(None);
        }
        let served = match receive(&self.link) {
            Ok(Ok(listener)) => begin(listener, namespace).map_err(|error| error.to_string()),
            // Perhaps that is the trap of a `run` that this one is inside of.
            Ok(Err(refusal)) => {
                // Of one that was sent, and that there was no room for, nothing is said.
                let why = if refusal.is_empty() { Errno::EMFILE.to_string() } else { refusal };
                let joined = join(namespace).map_err(|_| why);
                self.joined = joined.is_ok();
                joined
            }
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

fn join(namespace: &Namespace) -> io::Result<()> {
    let socket = namespace.socket().ok_or(io::ErrorKind::NotFound)?;
    let (listener, link) = routes::join(&socket)?;
    enter(&socket)?;
    trap::serve_for(listener, link, unseen())
}

fn begin(listener: OwnedFd, namespace: &Namespace) -> io::Result<()> {
    let socket = namespace.socket().ok_or(io::ErrorKind::NotFound)?;
    enter(&socket)?;
    trap::serve(listener, socket, unseen())
}

fn enter(socket: &Path) -> io::Result<()> {
    client::use_socket(socket.as_os_str().as_bytes())
        .map_err(|error| io::Error::from_raw_os_error(error.raw()))
}

/// The listener, or why there is none.
pub(super) fn receive(link: &OwnedFd) -> nix::Result<Result<OwnedFd, String>> {
    let mut bytes = [0; 512];
    let message = sys::net::receive_message(link.as_raw_fd(), [&mut bytes, &mut []], 0)
        .map_err(|error| Errno::from_raw(error.raw()))?;
    if let Some(file) = message.file {
        // SAFETY: just received, nobody else has it.
        return Ok(Ok(unsafe { OwnedFd::from_raw_fd(file.leak()) }));
    }
    let text = bytes.get(1..message.bytes).ok_or(Errno::ECONNRESET)?;
    Ok(Err(String::from_utf8_lossy(text).into_owned()))
}
