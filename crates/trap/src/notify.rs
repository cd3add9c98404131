//! The listener: the calls that are asked about, and the answers.
//!
//! # Safety
//! The structures are locals of the types that the kernel's calls take.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use client::behalf::PLACES;

use libc::{c_ulong, seccomp_notif, seccomp_notif_addfd, seccomp_notif_resp};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use sys::net::Fd;

use crate::{routes, trace, without};

/// Where calls are asked about.
#[derive(Debug)]
pub(crate) struct Listener {
    fd: OwnedFd,
    /// Where questions come from, if not from there.
    link: Option<OwnedFd>,
    /// The calls that sleep, by their places; 0: none. Changed by who has the room.
    asleep: Box<[AtomicU64]>,
    /// How many there are.
    sleepers: AtomicU32,
}

/// Where more sleep, none is asked about at once: the kernel finds one by a walk along all.
const FEW: u32 = 64;

/// A call that waits for its answer.
pub(crate) type Notification = seccomp_notif;

impl Listener {
    pub(crate) fn new(fd: OwnedFd, link: Option<OwnedFd>) -> Listener {
        const SYNC_WAKE_UP: c_ulong = 1;
        if !without("sync_wake") {
            // Who asks and who answers then run by turns on one CPU. From Linux 6.6 on; a matter of speed only.
            // SAFETY: an integer.
            unsafe { libc::ioctl(fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP) };
        }
        Listener {
            fd,
            link,
            asleep: (0..PLACES).map(|_| AtomicU64::new(0)).collect(),
            sleepers: AtomicU32::new(0),
        }
    }

    /// The next call; none when nobody is left who could make one.
    pub(crate) fn receive(&self) -> Option<Notification> {
        if let Some(link) = &self.link {
            trace::see_to_late_until(link.as_fd());
            return routes::receive(link);
        }
        loop {
            trace::see_to_late_until(self.fd.as_fd());
            // SAFETY: a structure of integers; the kernel wants zeros in it.
            let mut notification: Notification = unsafe { std::mem::zeroed() };
            match self.control(libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut notification) {
                Ok(_) => return Some(notification),
                // ENOENT: who asked has ended meanwhile, or there is nobody any more.
                Err(_) if self.is_deserted() => return None,
                Err(Errno::EINTR | Errno::ENOENT) => {}
                Err(_) => return None,
            }
        }
    }

    /// Says, where questions come from, that a process has left.
    pub(crate) fn acknowledge(&self, asked: &Notification) {
        if let Some(link) = &self.link {
            routes::acknowledge(link, asked);
        }
    }

    /// Lets go of it: nothing comes any more from the trap that has it, which may have been killed, and who asks is to be told so by the kernel.
    pub(crate) fn let_go(&self) {
        let Some(link) = &self.link else { return };
        // Whoever of us still answers there finds something else. To open a file could itself be asked about there.
        // SAFETY: two descriptors of ours.
        unsafe { libc::dup3(link.as_raw_fd(), self.fd.as_raw_fd(), libc::O_CLOEXEC) };
    }

    /// Its descriptor.
    pub(crate) fn raw(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    fn is_deserted(&self) -> bool {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        let polled = poll(&mut fds, PollTimeout::ZERO);
        polled.is_err() || fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
    }

    /// Whether whoever made the call still waits.
    pub(crate) fn is_valid(&self, id: u64) -> bool {
        let mut id = id;
        loop {
            match self.control(libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw mut id) {
                Err(Errno::EINTR) => {}
                Ok(_) => return true,
                Err(Errno::ENOENT) => return false,
                // Where the listener was let go of, this is the link, and nobody waits.
                Err(_) => return self.link.is_none(),
            }
        }
    }

    /// Notes which call sleeps at a place; 0: none.
    pub(crate) fn note_asleep(&self, place: u32, id: u64) {
        let before = self.asleep[place as usize].swap(id, Relaxed);
        self.sleepers.fetch_sub((before != 0).into(), Relaxed);
        self.sleepers.fetch_add((id != 0).into(), Relaxed);
    }

    /// Whether a call sleeps at that place that nobody waits for any more, where not too many sleep to say so at once.
    pub(crate) fn is_gone(&self, place: u32) -> bool {
        let id = self.asleep.get(place as usize).map_or(0, |id| id.load(Relaxed));
        id != 0 && self.sleepers.load(Relaxed) <= FEW && !self.is_valid(id)
    }

    /// Ends the call with a value or an error number, which may be one of the kernel's own. False if nobody waits any more.
    pub(crate) fn answer(&self, id: u64, result: Result<i64, i32>) -> bool {
        let (val, error) = result.map_or_else(|error| (0, -error), |value| (value, 0));
        let mut response = seccomp_notif_resp { id, val, error, flags: 0 };
        self.control(libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut response).is_ok()
    }

    /// Lets the kernel make the call.
    pub(crate) fn pass(&self, id: u64) {
        let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
        let mut response = seccomp_notif_resp { id, val: 0, error: 0, flags };
        // If it has ended, there is nobody to tell.
        let _ = self.control(libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut response);
    }

    /// As [`Listener::answer_giving`], for whom the number is nothing.
    pub(crate) fn answer_with(&self, id: u64, fd: &Fd, cloexec: bool) {
        self.answer_giving(id, fd, cloexec);
    }

    /// Ends the call with a descriptor of ours, which becomes one of the process that made it; returns its number there.
    pub(crate) fn answer_giving(&self, id: u64, fd: &Fd, cloexec: bool) -> Option<i32> {
        let added = self.add(id, fd.raw(), libc::SECCOMP_ADDFD_FLAG_SEND as u32, cloexec);
        if let Err(error) = added {
            // It has no number left, or has ended.
            self.answer(id, Err(error as i32));
        }
        added.ok()
    }

    /// Puts a descriptor of ours into the process that made the call; returns its number there.
    pub(crate) fn give(&self, id: u64, fd: i32) -> nix::Result<i32> {
        self.add(id, fd, 0, true)
    }

    /// The same in the place of another one.
    pub(crate) fn give_for(&self, id: u64, fd: i32, theirs: i32, cloexec: bool) -> nix::Result<()> {
        self.add_as(id, fd, (libc::SECCOMP_ADDFD_FLAG_SETFD as u32, theirs.cast_unsigned()), cloexec)
            .map(drop)
    }

    fn add(&self, id: u64, fd: i32, flags: u32, cloexec: bool) -> nix::Result<i32> {
        self.add_as(id, fd, (flags, 0), cloexec)
    }

    fn add_as(&self, id: u64, fd: i32, (flags, newfd): (u32, u32), cloexec: bool) -> nix::Result<i32> {
        let newfd_flags = if cloexec { libc::O_CLOEXEC.cast_unsigned() } else { 0 };
        let mut add = seccomp_notif_addfd { id, flags, srcfd: fd.cast_unsigned(), newfd, newfd_flags };
        self.control(libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw mut add)
    }

    fn control<T>(&self, request: libc::Ioctl, structure: *mut T) -> nix::Result<i32> {
        // SAFETY: each caller passes the structure of its request.
        Errno::result(unsafe { libc::ioctl(self.fd.as_raw_fd(), request, structure) })
    }
}
