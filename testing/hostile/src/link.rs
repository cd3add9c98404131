//! The broker's protocol, spoken without the library: as a client's that obeys no rule.
//!
//! # Safety
//! A descriptor that was just received belongs to nobody else.

use std::ffi::OsString;
use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, io};

use client::wire::{self, calls};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, accept4, connect, sendmsg, socket,
};

/// Where the broker is asked.
pub(crate) fn socket_path() -> PathBuf {
    env::var_os(wire::SOCKET_ENV).unwrap_or_default().into()
}

/// Where it is given files.
pub(crate) fn given_path() -> PathBuf {
    let mut path: OsString = socket_path().into();
    path.push(wire::GIVEN);
    path.into()
}

/// A connection.
pub(crate) struct Link(OwnedFd);

impl Link {
    /// # Errors
    /// The system's: `EAGAIN` where others wait at the door, and it is not to be waited.
    pub(crate) fn connect(path: &Path, wait: bool) -> nix::Result<Link> {
        let flags =
            if wait { SockFlag::SOCK_CLOEXEC } else { SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK };
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Link(fd))
    }

    /// Waits for the next one that somebody makes.
    pub(crate) fn accept(listener: &OwnedFd) -> nix::Result<Link> {
        let fd = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
        // SAFETY: just accepted, nobody else has it.
        Ok(Link(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sends bytes, and a file, as often as is said; never waits.
    pub(crate) fn send(&self, bytes: &[u8], file: Option<(BorrowedFd<'_>, usize)>) -> nix::Result<usize> {
        let files = file.map(|(file, count)| vec![file.as_raw_fd(); count]);
        let rights = files.as_ref().map(|files| [ControlMessage::ScmRights(files)]);
        let control = rights.as_ref().map_or(&[][..], |rights| &rights[..]);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        sendmsg::<UnixAddr>(self.0.as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None)
    }

    pub(crate) fn ask(&self, which: u32, args: [u32; 2]) -> nix::Result<usize> {
        self.send(&wire::encode([wire::MAGIC, which, args[0], args[1]]), None)
    }

    /// A call, with which no memory is sent.
    pub(crate) fn call(&self, number: i64, registers: &[u64]) -> nix::Result<usize> {
        self.call_with(number, registers, (0, &[]))
    }

    /// A call, and what is said to be in this process's memory at an address.
    pub(crate) fn call_with(
        &self,
        number: i64,
        registers: &[u64],
        (at, memory): (u64, &[u8]),
    ) -> nix::Result<usize> {
        let mut head = [0; calls::HEAD];
        head[0] = calls::CALL;
        head[1] = number.cast_unsigned();
        head[2..2 + registers.len()].copy_from_slice(registers);
        head[8..10].copy_from_slice(&[at, memory.len() as u64]);
        let mut bytes = bytes_of(&head);
        bytes.extend_from_slice(memory);
        self.send(&bytes, None)
    }

    /// What has come, if anything has.
    pub(crate) fn receive<'a>(&self, room: &'a mut [u8]) -> nix::Result<&'a [u8]> {
        self.receive_with(room).map(|(bytes, _)| bytes)
    }

    /// What has come, if anything has, and the file that came with it.
    pub(crate) fn receive_with<'a>(&self, room: &'a mut [u8]) -> nix::Result<(&'a [u8], Option<File>)> {
        let flags = MsgFlags::MSG_DONTWAIT.bits();
        let received = sys::net::receive_message(self.0.as_raw_fd(), [&mut *room, &mut []], flags)
            .map_err(|error| nix::Error::from_raw(error.raw()))?;
        // SAFETY: just received, nobody else has it.
        let file = received.file.map(|file| unsafe { File::from_raw_fd(file.leak()) });
        Ok((&room[..received.bytes], file))
    }

    /// Waits until something has come, or the other side is gone.
    ///
    /// # Errors
    /// It takes longer.
    pub(crate) fn wait(&self, most: Duration) -> io::Result<()> {
        let most = PollTimeout::try_from(most.as_millis()).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], most)? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }
}

pub(crate) fn bytes_of(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

pub(crate) fn words_of(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word)).collect()
}
