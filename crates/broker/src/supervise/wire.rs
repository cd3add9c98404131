//! What the front and the broker of one `run` say to each other, one packet a message.
//!
//! Both ends are the same executable, so the format has no version; a packet that doesn't decode is a bug and ends the link.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

/// Longer messages of failure are cut; nothing else comes near.
const PACKET_MAX: usize = 4096;

/// From the broker to the front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// The namespace could not be made; nothing was started.
    Failed(String),
    /// execve(2) of the command gave this errno.
    CannotExec(i32),
    /// There is a process, of this id, that becomes the command.
    Forked(i32),
    /// It has.
    Started,
    /// A signal stopped the command, for the `serial`th time.
    Stopped { signal: i32, serial: i32 },
    /// The user shall know this.
    Warning(String),
    /// The command ended with this wait status; `last` if the broker ends too.
    Ended { status: i32, last: bool },
}

/// From the front to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// Send this signal to the command, with its value if it came by sigqueue(3). The front knew of `serial` stops then.
    Signal { signal: i32, value: Option<u64>, serial: i32 },
    /// The front has been continued: end the command's stop of this serial, if it is still in it.
    Continue { serial: i32 },
}

/// A message that fits into one packet.
pub(super) trait Message: Sized {
    fn encode(&self) -> Vec<u8>;
    fn decode(packet: &[u8]) -> Option<Self>;
}

fn packet(kind: u8, words: &[i32]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
    bytes
}

fn text(kind: u8, text: &str) -> Vec<u8> {
    std::iter::once(kind).chain(text.bytes().take(PACKET_MAX - 1)).collect()
}

fn word(bytes: &[u8], index: usize) -> Option<i32> {
    let at = index * size_of::<i32>();
    Some(i32::from_ne_bytes(bytes.get(at..at + size_of::<i32>())?.try_into().ok()?))
}

impl Message for Event {
    fn encode(&self) -> Vec<u8> {
        match self {
            Event::Failed(why) => text(0, why),
            Event::Warning(what) => text(6, what),
            Event::CannotExec(errno) => packet(1, &[*errno]),
            Event::Forked(pid) => packet(2, &[*pid]),
            Event::Started => packet(5, &[]),
            Event::Stopped { signal, serial } => packet(3, &[*signal, *serial]),
            Event::Ended { status, last } => packet(4, &[*status, i32::from(*last)]),
        }
    }

    fn decode(packet: &[u8]) -> Option<Event> {
        let (kind, rest) = packet.split_first()?;
        Some(match kind {
            0 => Event::Failed(String::from_utf8_lossy(rest).into_owned()),
            6 => Event::Warning(String::from_utf8_lossy(rest).into_owned()),
            1 => Event::CannotExec(word(rest, 0)?),
            2 => Event::Forked(word(rest, 0)?),
            5 => Event::Started,
            3 => Event::Stopped { signal: word(rest, 0)?, serial: word(rest, 1)? },
            4 => Event::Ended { status: word(rest, 0)?, last: word(rest, 1)? != 0 },
            _ => return None,
        })
    }
}

impl Message for Request {
    fn encode(&self) -> Vec<u8> {
        match self {
            Request::Continue { serial } => packet(0, &[*serial]),
            Request::Signal { signal, value: None, serial } => packet(1, &[*signal, *serial]),
            Request::Signal { signal, value: Some(value), serial } => {
                let mut bytes = packet(2, &[*signal, *serial]);
                bytes.extend(value.to_ne_bytes());
                bytes
            }
        }
    }

    fn decode(packet: &[u8]) -> Option<Request> {
        let (kind, rest) = packet.split_first()?;
        Some(match kind {
            0 => Request::Continue { serial: word(rest, 0)? },
            1 => Request::Signal { signal: word(rest, 0)?, value: None, serial: word(rest, 1)? },
            2 => {
                let value = u64::from_ne_bytes(rest.get(8..16)?.try_into().ok()?);
                Request::Signal { signal: word(rest, 0)?, value: Some(value), serial: word(rest, 1)? }
            }
            _ => return None,
        })
    }
}

/// One end of the link.
#[derive(Debug)]
pub(super) struct Link(OwnedFd);

impl Link {
    /// Both ends; neither survives an exec.
    pub(super) fn pair() -> nix::Result<(Link, Link)> {
        let (front, broker) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Link(front), Link(broker)))
    }

    /// An error means that the other end is gone, which its reader sees by itself.
    pub(super) fn send(&self, message: &impl Message) {
        let bytes = message.encode();
        while send(self.0.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL) == Err(Errno::EINTR) {}
    }

    /// Whether the other end is gone.
    pub(super) fn is_over(&self) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::empty())];
        poll(&mut fds, PollTimeout::ZERO).is_ok()
            && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
    }

    /// Waits for a message; `None` when the other end is gone.
    pub(super) fn receive<M: Message>(&self) -> io::Result<Option<M>> {
        let mut bytes = [0; PACKET_MAX];
        let length = loop {
            match recv(self.0.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
                // The second: the other end closed with messages of ours unread. What it had sent before can still be received.
                Err(Errno::EINTR | Errno::ECONNRESET) => {}
                result => break result?,
            }
        };
        if length == 0 {
            return Ok(None);
        }
        M::decode(&bytes[..length]).map(Some).ok_or_else(|| io::Error::other("a garbled message"))
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_arrive_as_sent() {
        let (front, broker) = Link::pair().unwrap();
        let events = [
            Event::Failed("no space".into()),
            Event::CannotExec(2),
            Event::Forked(77),
            Event::Started,
            Event::Warning("a stranger".into()),
            Event::Stopped { signal: 20, serial: 3 },
            Event::Ended { status: 0x8b, last: true },
        ];
        for event in &events {
            broker.send(event);
        }
        drop(broker);
        for event in events {
            assert_eq!(front.receive().unwrap(), Some(event));
        }
        assert_eq!(front.receive::<Event>().unwrap(), None);
    }

    #[test]
    fn requests_arrive_as_sent() {
        let (front, broker) = Link::pair().unwrap();
        let requests = [
            Request::Continue { serial: 3 },
            Request::Signal { signal: 15, value: None, serial: 2 },
            Request::Signal { signal: 34, value: Some(u64::MAX - 1), serial: 7 },
        ];
        for request in &requests {
            front.send(request);
        }
        for request in requests {
            assert_eq!(broker.receive().unwrap(), Some(request));
        }
    }

    #[test]
    fn last_words_arrive_though_the_other_end_left_ours_unread() {
        let (front, broker) = Link::pair().unwrap();
        front.send(&Request::Continue { serial: 1 });
        broker.send(&Event::Forked(5));
        drop(broker);
        assert_eq!(front.receive().unwrap(), Some(Event::Forked(5)));
        assert_eq!(front.receive::<Event>().unwrap(), None);
    }

    #[test]
    fn garbage_is_an_error() {
        let (front, broker) = Link::pair().unwrap();
        send(front.as_fd().as_raw_fd(), &[9, 9], MsgFlags::empty()).unwrap();
        send(front.as_fd().as_raw_fd(), &[1, 9], MsgFlags::empty()).unwrap();
        assert!(broker.receive::<Request>().is_err());
        assert!(broker.receive::<Request>().is_err());
    }
}
