//! `ipcspace serve`: a namespace that lives until somebody ends it, served by this process.
//!
//! What users see: the process stays in the foreground until SIGTERM, SIGINT, SIGHUP or `rm --namespace` ends it, and all that is in its
//! namespace. A supervisor is told by sd_notify(3) when it can be joined, and may have made the sockets: it is begun by the first who joins then.
//! One that was killed leaves all to the next of its name (`store.rs`), which need not be told the limits again.
//!
//! # Safety
//! Descriptors that a supervisor passed on are taken over once, and nobody else knows of them.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{SockType, UnixAddr, getsockname, getsockopt, sockopt};
use sd_notify::NotifyState;

use crate::place;
use crate::service::{self, Error, Service};
use crate::store::{Files, Store};
use crate::supervise::os;

/// What ends a served namespace.
const ENDS: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// Serves a namespace of that name to its end. `ready` is called when it can be joined, and told whether it goes on from one that was
/// killed, `warn` with what the user shall know.
///
/// # Errors
/// See [`Error`]: there is no namespace, or no more.
pub fn serve(
    name: &str,
    sysctls: &[(String, String)],
    ready: impl FnOnce(bool),
    warn: impl Fn(&str),
) -> Result<(), Error> {
    let mask: SigSet = ENDS.into_iter().collect();
    mask.thread_block()?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let (mut service, goes_on) = open(name, sysctls)?;
    service.start()?;
    let mut wanted = service.dispatch();
    ready(goes_on);
    // There may be no supervisor, or one that is not interested.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    while signals.read_signal()?.is_none() && !service.is_told_to_end() {
        let fds = [signals.as_fd(), service.fd()];
        match poll(&mut fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)), os::timeout(wanted)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        wanted = service.dispatch();
        if let Some(refusal) = service.refusal() {
            warn(&refusal);
        }
    }
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    service.end();
    Ok(())
}

/// The namespace of that name, and whether one that was killed has left it.
fn open(name: &str, sysctls: &[(String, String)]) -> Result<(Service, bool), Error> {
    place::check_name(name)?;
    service::raise_limits();
    let (sockets, stored) = passed_on()?;
    let socket =
        sockets.as_ref().map_or_else(|| place::socket_of(name), |sockets| Ok(sockets.path.clone()))?;
    let store = place::store_beside(&socket);
    let left = match Store::of_dead(&store)? {
        None if stored.is_empty() => None,
        // The supervisor has ended it.
        None => Some((Store::begin(&store)?, stored)),
        // It may be one that was just begun in the place of another, and not have all yet.
        Some((store, files)) => Some((store, stored.into_iter().chain(files).collect())),
    };
    if let Some((store, files)) = left {
        if service::has_arena(&files) {
            return Ok((Service::succeed(&socket, sockets, store, files)?, true));
        }
        // Nobody can go on without, and what is kept by those who are asked again and again never ends.
        store.end_now(files);
    }
    Ok((Service::served(name, sockets, sysctls)?, false))
}

/// What a supervisor has passed on: sockets at which it has listened, and what it has stored.
fn passed_on() -> Result<(Option<Activation>, Files), Error> {
    let passed_on = sd_notify::listen_fds_with_names().map_err(|e| Error::File("$LISTEN_FDS".into(), e))?;
    // SAFETY: LISTEN_PID says that they are meant for this process, which has not looked before.
    let files = passed_on.map(|(fd, name)| (name, unsafe { OwnedFd::from_raw_fd(fd) }));
    let (stored, sockets): (Vec<_>, Vec<_>) = files.partition(|(name, _)| service::is_stored(name));
    let sockets = sockets.into_iter().map(|(_, socket)| socket).collect();
    Ok((Activation::at(sockets)?, stored.into_iter().collect()))
}

/// The sockets at which a supervisor has listened for us.
pub(crate) struct Activation {
    /// Where the first one is.
    pub(crate) path: PathBuf,
    /// At which we are asked.
    pub(crate) asked: OwnedFd,
    /// At which we are given files.
    pub(crate) given: OwnedFd,
}

impl Activation {
    /// `None` where nobody has passed anything on.
    fn at(sockets: Vec<OwnedFd>) -> Result<Option<Activation>, Error> {
        let mut sockets: Vec<(PathBuf, OwnedFd)> = sockets
            .into_iter()
            .map(|socket| Ok((path_of(&socket)?, socket)))
            .collect::<Result<_, Error>>()?;
        if sockets.is_empty() {
            return Ok(None);
        }
        // The one's path is the beginning of the other's.
        sockets.sort_by(|(a, _), (b, _)| a.cmp(b));
        match <[_; 2]>::try_from(sockets) {
            Ok([(path, asked), (beside, given)]) if beside == place::given_beside(&path) => {
                set_blocking(&given, false)?;
                Ok(Some(Activation { path, asked, given }))
            }
            _ => Err(Error::BadActivation),
        }
    }
}

fn path_of(socket: &OwnedFd) -> Result<PathBuf, Error> {
    let is_ours = getsockopt(socket, sockopt::SockType) == Ok(SockType::SeqPacket)
        && getsockopt(socket, sockopt::AcceptConn) == Ok(true);
    let address = getsockname::<UnixAddr>(socket.as_raw_fd()).ok();
    let path = address.as_ref().and_then(UnixAddr::path).map(Path::to_owned);
    path.filter(|_| is_ours).ok_or(Error::BadActivation)
}

pub(crate) fn set_blocking(socket: &OwnedFd, blocking: bool) -> nix::Result<()> {
    let mut flags = OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL)?);
    flags.set(OFlag::O_NONBLOCK, !blocking);
    fcntl(socket, FcntlArg::F_SETFL(flags))?;
    Ok(())
}
