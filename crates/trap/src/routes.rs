//! A `run` inside a `run`: one process may have one listener, so the calls of the inner one's programs are asked about at the outer
//! one's, which hands them on.
//!
//! The outer trap waits at an address that its programs' environment names ([`TRAP_ENV`]). The inner one's broker connects there, says which
//! namespace it serves, and is given the listener; from then on each question about one of its programs comes over the connection, and is
//! answered at the listener. So it goes on to any depth, hop by hop.
//!
//! What is missing: if an inner broker is killed, who sleeps in a call sleeps on, and further calls are `ENOSYS`.
//!
//! # Safety
//! What is received by a message belongs to nobody else; a question is made of integers.

use std::collections::HashMap;
use std::fs;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use client::wire::SOCKET_ENV;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, connect,
    getsockopt, listen, recv, send, sendmsg, socket, sockopt,
};
use nix::unistd::{geteuid, getpid};

use crate::notify::Notification;
use crate::target::Status;

/// The variable that names where a trap waits for those inside.
pub const TRAP_ENV: &str = "IPCSPACE_TRAP";
/// Parents that are looked at for somebody whose namespace is known.
const GENERATIONS: usize = 64;
/// Threads whose way is remembered before all are forgotten.
const REMEMBERED: usize = 4096;

/// The address of a trap that this process serves.
pub fn address() -> String {
    format!("ipcspace-trap-{}", getpid())
}

fn seqpacket() -> nix::Result<OwnedFd> {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
}

/// The listener of the trap outside this one, for a namespace with that socket; and the connection by which its questions come.
///
/// # Errors
/// Where there is none.
pub fn join(socket: &Path) -> io::Result<(OwnedFd, OwnedFd)> {
    let at = std::env::var(TRAP_ENV).map_err(|_| io::Error::from(io::ErrorKind::NotFound))?;
    let link = seqpacket()?;
    connect(link.as_raw_fd(), &UnixAddr::new_abstract(at.as_bytes())?)?;
    send(link.as_raw_fd(), socket.as_os_str().as_bytes(), MsgFlags::MSG_NOSIGNAL)?;
    let message = sys::net::receive_message(link.as_raw_fd(), [&mut [0], &mut []], 0)
        .map_err(|error| io::Error::from_raw_os_error(error.raw()))?;
    let file = message.file.ok_or(io::ErrorKind::UnexpectedEof)?;
    // SAFETY: just received, nobody else has it.
    Ok((unsafe { OwnedFd::from_raw_fd(file.leak()) }, link))
}

/// The next question that comes over a connection; none when that has ended.
pub(crate) fn receive(link: &OwnedFd) -> Option<Notification> {
    let mut bytes = [0; size_of::<Notification>()];
    loop {
        match recv(link.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
            Ok(length) if length == bytes.len() => {
                // SAFETY: as many bytes as it has, and any are a value.
                return Some(unsafe { bytes.as_ptr().cast::<Notification>().read_unaligned() });
            }
            Err(nix::Error::EINTR) => {}
            _ => return None,
        }
    }
}

/// Whose programs are whose.
#[derive(Debug)]
pub(crate) struct Routes {
    /// This namespace's socket.
    own: PathBuf,
    links: Mutex<HashMap<PathBuf, OwnedFd>>,
    /// By the inode of `/proc/TID`; `None` for our own.
    known: Mutex<HashMap<u32, (u64, Option<PathBuf>)>>,
}

impl Routes {
    /// Waits for those inside, in a thread.
    pub(crate) fn new(own: PathBuf) -> Routes {
        Routes { own, links: Mutex::default(), known: Mutex::default() }
    }

    /// Takes in those inside, for ever.
    pub(crate) fn welcome(&self, at: &OwnedFd, listener: RawFd) {
        while let Ok(fd) = accept4(at.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            // SAFETY: a new descriptor of ours.
            let link = unsafe { OwnedFd::from_raw_fd(fd) };
            let _ = self.take_in(link, listener);
        }
    }

    fn take_in(&self, link: OwnedFd, listener: RawFd) -> nix::Result<()> {
        let peer = getsockopt(&link, sockopt::PeerCredentials)?;
        if peer.uid() != geteuid().as_raw() {
            return Err(nix::Error::EACCES);
        }
        let mut path = [0; 128];
        let length = recv(link.as_raw_fd(), &mut path, MsgFlags::empty())?;
        let socket = PathBuf::from(std::ffi::OsStr::from_bytes(&path[..length]));
        let rights = [listener];
        let control = [ControlMessage::ScmRights(&rights)];
        sendmsg::<UnixAddr>(link.as_raw_fd(), &[IoSlice::new(b".")], &control, MsgFlags::MSG_NOSIGNAL, None)?;
        lock(&self.known).clear();
        lock(&self.links).insert(socket, link);
        Ok(())
    }

    /// Hands a question on where it belongs. False if that is here.
    ///
    /// # Errors
    /// If whoever should answer is no more.
    pub(crate) fn hand_on(&self, asked: &Notification) -> nix::Result<bool> {
        if lock(&self.links).is_empty() {
            return Ok(false);
        }
        let Some(socket) = self.way_of(asked.pid) else { return Ok(false) };
        let links = lock(&self.links);
        let link = links.get(&socket).ok_or(nix::Error::EPIPE)?;
        // SAFETY: integers, without padding.
        let bytes = unsafe {
            std::slice::from_raw_parts((&raw const *asked).cast::<u8>(), size_of::<Notification>())
        };
        send(link.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL).map(|_| true)
    }

    /// The namespace of a thread, if it is another one's.
    fn way_of(&self, tid: u32) -> Option<PathBuf> {
        let ino = fs::metadata(format!("/proc/{tid}")).ok()?.ino();
        let mut known = lock(&self.known);
        if let Some((seen, way)) = known.get(&tid)
            && *seen == ino
        {
            return way.clone();
        }
        let way = self.find(tid);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(tid, (ino, way.clone()));
        way
    }

    /// As its environment says, or that of the nearest parent who has one that is known here.
    fn find(&self, tid: u32) -> Option<PathBuf> {
        let links = lock(&self.links);
        let mut pid = tid;
        for _ in 0..GENERATIONS {
            match socket_of(pid) {
                Some(socket) if socket == self.own => return None,
                Some(socket) if links.contains_key(&socket) => return Some(socket),
                _ => {}
            }
            pid = Status::of(pid).ok()?.number("PPid").filter(|parent| *parent > 1)?;
        }
        None
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The socket of the namespace that a program was started in.
fn socket_of(pid: u32) -> Option<PathBuf> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mut variables = environment.split(|byte| *byte == 0);
    let value =
        variables.find_map(|variable| variable.strip_prefix(SOCKET_ENV.as_bytes())?.strip_prefix(b"="))?;
    Some(std::ffi::OsStr::from_bytes(value).into())
}

/// Where those inside are waited for.
///
/// # Errors
/// Of sockets.
pub(crate) fn wait_at(address: &str) -> nix::Result<OwnedFd> {
    let at = seqpacket()?;
    bind(at.as_raw_fd(), &UnixAddr::new_abstract(address.as_bytes())?)?;
    listen(&at, Backlog::new(16)?)?;
    Ok(at)
}
