//! Views of the namespace, which the broker serves: whoever mounts one hands the mount's descriptor over, and may go.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use abi::Errno;
use client::wire;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, recv, sendmsg, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::caller::Link;
use crate::door::reply;
use crate::service::{Error, ask};

/// How long who has announced a view may take to hand it over, and how long its first answer may take.
const PATIENCE_SECONDS: i64 = 5;

/// Serves the view that comes over a connection, by threads of its own, and answers when it can be used.
pub(crate) fn answer(link: Link) {
    let serve = move || {
        let served = setsockopt(&*link, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE_SECONDS))
            .map_err(io::Error::from)
            .and_then(|()| views::serve(views::receive(&link)?));
        let errno = |error: io::Error| error.raw_os_error().map_or(Errno::EPROTO, Errno::from_raw);
        reply(&link, served.map(|()| [0; 2]).map_err(errno), None);
    };
    // Where there can't be a thread, the connection just ends.
    let _ = std::thread::Builder::new().name("view-begins".into()).stack_size(128 << 10).spawn(serve);
}

/// Opens sysctls for programs of the trap's to write.
pub(crate) fn unseen() -> Arc<trap::View> {
    let view = views::Unseen::default();
    Arc::new(move |sysctl, flags| view.open(sysctl, flags))
}

/// Has the namespace's broker, which is asked at that socket, serve a view. `fuse` is the descriptor that it was mounted with.
///
/// # Errors
/// `Unserved` if there is no broker; see [`Error`].
pub fn hand_over(socket: &Path, fuse: &OwnedFd) -> Result<(), Error> {
    let unserved = || Error::Unserved(socket.into());
    let mut answer = [0; wire::ANSWER];
    let link = ask(socket, wire::ASK_VIEW, [0; 2], &mut answer)?.ok_or_else(unserved)?;
    let rights = [fuse.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&rights)];
    sendmsg::<UnixAddr>(link.as_raw_fd(), &[IoSlice::new(b".")], &control, MsgFlags::MSG_NOSIGNAL, None)?;
    match recv(link.as_raw_fd(), &mut answer, MsgFlags::empty())? {
        wire::ANSWER => match wire::decode(&answer) {
            [wire::MAGIC, 0, ..] => Ok(()),
            [_, error, ..] => Err(nix::Error::from_raw(error.cast_signed()).into()),
        },
        _ => Err(unserved()),
    }
}
