//! What the driver and its workers say to each other: length, then postcard, over a stream socket.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Call, TaskId};

/// A worker's first words on its channel.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) task: TaskId,
    pub(crate) pid: i32,
    pub(crate) tid: i32,
}

/// The driver's wish.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Command {
    pub(crate) call: Call,
    /// The number of the task that the call makes, if it makes one.
    pub(crate) child: TaskId,
}

/// One end of a task's channel.
pub(crate) struct Channel {
    stream: UnixStream,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
}

/// What a non-blocking look found.
pub(crate) enum Got<T> {
    Frame(T),
    NothingYet,
    /// The other side is gone.
    Closed,
}

fn address(name: &str) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(name)
}

pub(crate) fn listen(name: &str) -> io::Result<UnixListener> {
    UnixListener::bind_addr(&address(name)?)
}

impl Channel {
    /// A worker's end.
    pub(crate) fn connect(name: &str) -> io::Result<Channel> {
        Ok(Channel::over(UnixStream::connect_addr(&address(name)?)?))
    }

    /// The driver's end.
    pub(crate) fn accepted(stream: UnixStream) -> io::Result<Channel> {
        stream.set_nonblocking(true)?;
        Ok(Channel::over(stream))
    }

    fn over(stream: UnixStream) -> Channel {
        Channel { stream, inbox: Vec::new(), outbox: Vec::new() }
    }

    pub(crate) fn send<T: Serialize>(&mut self, value: &T) -> io::Result<()> {
        self.outbox.clear();
        self.outbox.extend([0; 4]);
        self.outbox =
            postcard::to_extend(value, std::mem::take(&mut self.outbox)).map_err(io::Error::other)?;
        let length = (self.outbox.len() - 4) as u32;
        self.outbox[..4].copy_from_slice(&length.to_le_bytes());
        let mut rest = &self.outbox[..];
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    wait(self.stream.as_fd(), PollFlags::POLLOUT)
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits for the other side's next words; None if it is gone.
    pub(crate) fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        loop {
            match self.look()? {
                Got::Frame(value) => return Ok(Some(value)),
                Got::NothingYet => wait(self.stream.as_fd(), PollFlags::POLLIN),
                Got::Closed => return Ok(None),
            }
        }
    }

    /// The other side's next words if they are there; on the driver's end it never waits.
    pub(crate) fn look<T: DeserializeOwned>(&mut self) -> io::Result<Got<T>> {
        loop {
            if let Some(value) = self.take_frame()? {
                return Ok(Got::Frame(value));
            }
            let mut chunk = [0; 16384];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(Got::Closed),
                Ok(read) => self.inbox.extend(&chunk[..read]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Got::NothingYet),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(Got::Closed),
                Err(error) => return Err(error),
            }
        }
    }

    fn take_frame<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let Some((length, rest)) = self.inbox.split_first_chunk() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let value = postcard::from_bytes(body).map_err(io::Error::other)?;
        self.inbox.drain(..4 + length);
        Ok(Some(value))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn wait(fd: BorrowedFd<'_>, events: PollFlags) {
    // An interrupted wait is a look too early, which does no harm.
    let _ = poll(&mut [PollFd::new(fd, events)], PollTimeout::NONE);
}
