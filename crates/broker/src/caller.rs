//! Connections of those who ask, closed so that nobody waits for that.
//!
//! With a connection goes what nobody has received from it, and to close that may take as long as its sender likes: a TCP socket that is to linger. So no
//! descriptor is received where others wait, and a connection at which one is left is closed by a thread of its user's, or, with many such users, by one that the others of them share. Until then it counts for the sender, who may have
//! only so many on their way (its RLIMIT_NOFILE).
//!
//! # Safety
//! What is dropped is not used any more.

use std::collections::{HashMap, VecDeque};
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Mutex;

use nix::sys::socket::{MsgFlags, Shutdown, UnixCredentials, recv, recvmsg, setsockopt, shutdown, sockopt};

use crate::quota::locked;
use crate::service::spawn;

/// A connection of a user's.
#[derive(Debug)]
pub(crate) struct Link {
    fd: ManuallyDrop<OwnedFd>,
    uid: u32,
}

impl Link {
    pub(crate) fn new(fd: OwnedFd, uid: u32) -> Link {
        Link { fd: ManuallyDrop::new(fd), uid }
    }

    /// The connection alone: for who may be kept waiting by its end.
    pub(crate) fn into_fd(self) -> OwnedFd {
        let mut link = ManuallyDrop::new(self);
        // SAFETY: the link itself is not dropped any more.
        unsafe { ManuallyDrop::take(&mut link.fd) }
    }
}

impl Deref for Link {
    type Target = OwnedFd;

    fn deref(&self) -> &OwnedFd {
        &self.fd
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Nothing more can come.
        let _ = shutdown(self.as_raw_fd(), Shutdown::Read);
        let is_harmless = leaves_nothing(self);
        // SAFETY: the link is dropped, and this is done once.
        let fd = unsafe { ManuallyDrop::take(&mut self.fd) };
        if is_harmless { drop(fd) } else { close_later(fd, self.uid) }
    }
}

/// Takes what is left of bytes, where nothing more can come. Whether nothing else is.
fn leaves_nothing(link: &OwnedFd) -> bool {
    // From here on every message comes with who has sent it: so an empty one is told from the end.
    let _ = setsockopt(link, sockopt::PassCred, &true);
    loop {
        match peek(link, nix::cmsg_space!(UnixCredentials)) {
            Some(Brings::More) => return false,
            Some(Brings::Sender) => drop(recv(link.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT)),
            Some(Brings::Bytes) | None => return true,
        }
    }
}

/// Whether more than bytes, and who has sent them, comes with the next message, which stays where it is.
pub(crate) fn brings_something(link: &OwnedFd) -> bool {
    peek(link, nix::cmsg_space!(UnixCredentials)) == Some(Brings::More)
}

/// What a message has with it.
#[derive(PartialEq)]
enum Brings {
    /// Nothing, as the connection's end.
    Bytes,
    Sender,
    /// What there is no room for.
    More,
}

/// The next message, if there is one. What there is no room for is not opened here.
fn peek(link: &OwnedFd, mut room: Vec<u8>) -> Option<Brings> {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    loop {
        match recvmsg::<()>(link.as_raw_fd(), &mut [], Some(&mut room), flags) {
            // It is told once that the other end has not read all; what that has sent comes after it.
            Err(nix::Error::ECONNRESET | nix::Error::EINTR) => {}
            Err(_) => return None,
            Ok(message) if message.flags.contains(MsgFlags::MSG_CTRUNC) => return Some(Brings::More),
            Ok(message) => {
                let is_sent_by = message.cmsgs().is_ok_and(|mut with| with.next().is_some());
                return Some(if is_sent_by { Brings::Sender } else { Brings::Bytes });
            }
        }
    }
}

/// What is left to be closed of a user's.
#[derive(Default)]
struct Left {
    links: VecDeque<OwnedFd>,
    /// Whether a thread is at it.
    is_attended: bool,
}

/// Users who may have a thread of their own at a time.
const USERS_MAX: usize = 32;
/// Stands for all others. It is no user's.
const OTHERS: u32 = u32::MAX;

static LEFT: Mutex<Option<HashMap<u32, Left>>> = Mutex::new(None);

/// With whose connections one of this user's is closed.
fn in_line_of(all: &HashMap<u32, Left>, uid: u32) -> u32 {
    let attended = all.values().filter(|left| left.is_attended).count();
    if all.contains_key(&uid) || attended < USERS_MAX { uid } else { OTHERS }
}

fn close_later(link: OwnedFd, uid: u32) {
    let mut all = locked(&LEFT);
    let all = all.get_or_insert_default();
    let uid = in_line_of(all, uid);
    let left = all.entry(uid).or_default();
    left.links.push_back(link);
    if !left.is_attended {
        // Where there can't be a thread now, the user's next one closes them all.
        left.is_attended = spawn("close", move || {
            while let Some(link) = next(uid) {
                drop(link)
            }
        })
        .is_ok();
    }
}

fn next(uid: u32) -> Option<OwnedFd> {
    let mut all = locked(&LEFT);
    let next = all.as_mut()?.get_mut(&uid)?.links.pop_front();
    if next.is_none() {
        all.as_mut()?.remove(&uid);
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_users_share_a_thread_that_closes() {
        let mut all: HashMap<u32, Left> = HashMap::new();
        for uid in 0..1000 {
            let whose = in_line_of(&all, uid);
            all.entry(whose).or_default().is_attended = true;
        }
        assert_eq!(all.len(), USERS_MAX + 1);
        assert_eq!(in_line_of(&all, 0), 0, "who has one keeps it");
        all.remove(&0);
        all.remove(&1);
        assert_eq!(in_line_of(&all, 1000), 1000, "there is room again");
    }
}
