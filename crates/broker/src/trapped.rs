//! Programs of the namespace that are below somebody else's trap, which hands their calls on.

use std::io;
use std::os::fd::OwnedFd;

use abi::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::caller::Link;
use crate::door::reply;
use crate::service::spawn;
use crate::view::unseen;

/// How long the listener may take.
const PATIENCE_SECONDS: i64 = 5;

/// Serves what is asked about at the listener that comes over a connection, and then over that, by threads; says when they have begun.
pub(crate) fn answer(link: Link) {
    let serve = move || {
        let link = link.into_fd();
        let begun = begin(&link).map_err(|error| error.raw_os_error().map_or(Errno::EPROTO, Errno::from_raw));
        reply(&link, begun.map(|()| [0; 2]), None);
    };
    // Where there can't be a thread, the connection just ends.
    let _ = spawn("trap-begins", serve);
}

fn begin(link: &OwnedFd) -> io::Result<()> {
    setsockopt(link, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE_SECONDS))?;
    let listener = views::receive(link)?;
    // Questions may be long in coming.
    setsockopt(link, sockopt::ReceiveTimeout, &TimeVal::seconds(0))?;
    trap::serve_for(listener, link.try_clone()?, unseen())
}
