//! Where the descriptors of a served namespace lie, so that it outlives a broker that is killed.
//!
//! What users see: a `serve` that is begun again within a minute goes on where the killed one stopped; who asks meanwhile waits for it.
//! Until the minute is over, the name is taken.
//!
//! The store is a process, this program started anew. It listens in the namespace's directory, and gives all that it has
//! to the next broker of the same user, whose connection takes the place of the dead one's. If it ends, its broker begins another one. What is
//! said to it is what sd_notify(3) says to a supervisor, which is told as well: one that keeps descriptors may end the store with the broker, and
//! passes them on itself.
//!
//! # Safety
//! A descriptor that was just received belongs to nobody else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::SigSet;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, connect,
    getsockopt, listen, sendmsg, setsockopt, socket, socketpair, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use sd_notify::NotifyState::{self, Custom, FdName, FdStore, FdStoreRemove, Ready, Stopping};

use client::wire;

use crate::quota::locked;
use crate::service::Error;
use crate::supervise::open_descriptors;

/// The command by which this program is started as the store of a namespace.
pub const COMMAND: &str = "store";
/// How long the store waits for the next broker.
const WAITS: Duration = Duration::from_secs(60);
/// How long either end waits for the other one to take or to give something.
const PATIENCE: i64 = 5;
/// How long a broker that was just killed may take to be gone, and how often that is looked at.
const ENDING: Duration = Duration::from_millis(500);
const AGAIN: Duration = Duration::from_millis(5);
/// Bytes of the longest message.
const LONGEST: usize = 256;

/// A broker's end of it.
#[derive(Debug)]
pub(crate) struct Store {
    link: OwnedFd,
    /// What it has.
    names: Mutex<BTreeSet<String>>,
}

/// Descriptors with their names.
pub(crate) type Files = BTreeMap<String, OwnedFd>;

impl Store {
    /// Begins one that is asked at `path`.
    ///
    /// # Errors
    /// Those of sockets and of starting a process.
    pub(crate) fn begin(path: &Path) -> Result<Store, Error> {
        let (store, listener, other) = Store::made(path)?;
        let mut command = Command::new("/proc/self/exe");
        // The path is for people who look at the list of processes.
        command.arg0("ipcspace").arg(COMMAND).arg(path);
        command.stdin(listener).stdout(other).stderr(Stdio::null());
        command.env_remove("LD_PRELOAD").env_remove(wire::SOCKET_ENV);
        let mut process = command.spawn().map_err(|error| Error::File(path.into(), error))?;
        // Where there can't be a thread, it is reaped with this process.
        let _ = std::thread::Builder::new().stack_size(64 << 10).spawn(move || process.wait());
        Ok(store)
    }

    /// A broker's end of one, and what is the store's: where it is asked, and its end.
    fn made(path: &Path) -> Result<(Store, OwnedFd, OwnedFd), Error> {
        let failed = |error| Error::File(path.into(), error);
        match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        bind(listener.as_raw_fd(), &UnixAddr::new(path)?)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        listen(&listener, Backlog::MAXCONN)?;
        let (link, other) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Store::at(link)?, listener, other))
    }

    /// Readable when the process has ended.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }

    /// The store at that path with all that it has, if its broker is dead.
    ///
    /// # Errors
    /// Those of sockets.
    pub(crate) fn of_dead(path: &Path) -> Result<Option<(Store, Files)>, Error> {
        let begun = Instant::now();
        while begun.elapsed() < ENDING {
            let link = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
            match connect(link.as_raw_fd(), &UnixAddr::new(path)?) {
                Ok(()) => {}
                Err(nix::Error::ECONNREFUSED | nix::Error::ENOENT) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            let store = Store::at(link)?;
            let mut files = Files::new();
            while let Some((said, file)) = receive(&store.link) {
                match (said.strip_prefix("FDNAME="), file) {
                    (Some(name), Ok(Some(file))) => drop(files.insert(name.to_owned(), file)),
                    // It came, but there was no descriptor free: the store still has it.
                    (Some(_), _) => return Err(nix::Error::EMFILE.into()),
                    (None, _) => {
                        *locked(&store.names) = files.keys().cloned().collect();
                        return Ok(Some((store, files)));
                    }
                }
            }
            // Its broker lives, or is about to be gone.
            std::thread::sleep(AGAIN);
        }
        Ok(None)
    }

    /// As [`Store::end`], of one that has these, or whose supervisor has; waits until it has let go of all.
    pub(crate) fn end_now(self, files: Files) {
        locked(&self.names).extend(files.into_keys());
        self.end();
        while receive(&self.link).is_some() {}
    }

    fn at(link: OwnedFd) -> Result<Store, Error> {
        setsockopt(&link, sockopt::SendTimeout, &TimeVal::seconds(PATIENCE))?;
        setsockopt(&link, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE))?;
        Ok(Store { link, names: Mutex::default() })
    }

    /// Keeps a descriptor until it is forgotten.
    pub(crate) fn keep(&self, name: &str, file: &impl AsFd) {
        locked(&self.names).insert(name.to_owned());
        let said = [FdStore, Custom("FDPOLL=0"), FdName(name)];
        // Without it, all is as before, but that the next broker won't have this one.
        let _ = send(&self.link, &said, Some(file.as_fd().as_raw_fd()));
        let _ = sd_notify::notify_with_fds(&said, &[file.as_fd()]);
    }

    /// Lets a descriptor go.
    pub(crate) fn forget(&self, name: &str) {
        if locked(&self.names).remove(name) {
            let said = [FdStoreRemove, FdName(name)];
            let _ = send(&self.link, &said, None);
            let _ = sd_notify::notify(&said);
        }
    }

    /// Nobody is to go on with the namespace.
    pub(crate) fn end(&self) {
        let _ = send(&self.link, &[Stopping], None);
        for name in std::mem::take(&mut *locked(&self.names)) {
            let _ = sd_notify::notify(&[FdStoreRemove, FdName(&name)]);
        }
    }
}

fn send(link: &OwnedFd, said: &[NotifyState<'_>], file: Option<RawFd>) -> nix::Result<()> {
    let text: String = said.iter().map(|state| format!("{state}\n")).collect();
    let iov = [IoSlice::new(text.as_bytes())];
    let files = file.map(|file| [file]);
    let rights = files.as_ref().map(|files| [ControlMessage::ScmRights(files)]);
    let control = rights.as_ref().map_or(&[][..], |rights| &rights[..]);
    loop {
        match sendmsg::<UnixAddr>(link.as_raw_fd(), &iov, control, MsgFlags::MSG_NOSIGNAL, None) {
            Err(nix::Error::EINTR) => {}
            // As many are on their way as this user may have: the other end takes them.
            Err(nix::Error::ETOOMANYREFS) => std::thread::sleep(AGAIN),
            sent => return sent.map(drop),
        }
    }
}

/// What came with a message has no room here.
#[derive(Debug)]
struct Refused;

/// The last line of the next message, and what came with it; none at the connection's end.
fn receive(link: &OwnedFd) -> Option<(String, Result<Option<OwnedFd>, Refused>)> {
    let mut bytes = [0; LONGEST];
    let received = sys::net::receive_message(link.as_raw_fd(), [&mut bytes, &mut []], 0).ok()?;
    if received.bytes == 0 {
        return None;
    }
    // SAFETY: just received, nobody else has it.
    let file = received.file.map(|file| unsafe { OwnedFd::from_raw_fd(file.leak()) });
    let text = std::str::from_utf8(&bytes[..received.bytes]).ok()?;
    Some((text.lines().next_back()?.to_owned(), if received.is_truncated { Err(Refused) } else { Ok(file) }))
}

// ---- the process

struct Keeping {
    listener: OwnedFd,
    /// The connection to the broker, as long as that lives.
    broker: Option<OwnedFd>,
    /// When it had one last.
    since: Instant,
    files: Files,
}

/// Keeps what it is given, in this process, until nobody wants it. Standard input is where it is asked, standard output the connection to the broker.
///
/// # Errors
/// These are not what they should be.
pub fn keep() -> Result<(), Error> {
    let listener = std::io::stdin().as_fd().try_clone_to_owned();
    let broker = std::io::stdout().as_fd().try_clone_to_owned();
    let (Ok(listener), Ok(broker)) = (listener, broker) else { return Err(nix::Error::EBADF.into()) };
    if !getsockopt(&listener, sockopt::AcceptConn)? {
        return Err(nix::Error::EINVAL.into());
    }
    // What is meant for the broker, by the terminal or by `kill 0`, is not meant for this; what ends it is what ends any process.
    let _ = nix::unistd::setsid();
    let _ = nix::sys::prctl::set_name(c"ipcspace-store");
    let _ = std::env::set_current_dir("/");
    let _ = SigSet::all().thread_unblock();
    let keeping = Keeping { listener, broker: Some(broker), since: Instant::now(), files: Files::new() };
    keeping.let_go_of_others();
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
    keeping.keep();
    Ok(())
}

impl Keeping {
    fn keep(mut self) {
        while self.attend() {}
    }

    /// Closes all that is not its own: whoever waits for the end of a pipe, or for a lock, waits for others.
    fn let_go_of_others(&self) {
        let own = [Some(&self.listener), self.broker.as_ref()];
        let is_own = |fd: &i32| own.iter().flatten().any(|own| own.as_raw_fd() == *fd);
        for fd in open_descriptors().unwrap_or_default().into_iter().filter(|fd| *fd > 2 && !is_own(fd)) {
            let _ = nix::unistd::close(fd);
        }
        let Ok(null) = File::options().read(true).write(true).open("/dev/null") else { return };
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
        let _ = nix::unistd::dup2_stderr(&null);
    }

    /// Takes what comes next. False when there is nothing more to keep.
    fn attend(&mut self) -> bool {
        let left = match &self.broker {
            Some(_) => PollTimeout::NONE,
            None => {
                let left = WAITS.saturating_sub(self.since.elapsed());
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
        };
        let fds = [Some(&self.listener), self.broker.as_ref()];
        let mut fds: Vec<PollFd<'_>> =
            fds.into_iter().flatten().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
        match poll(&mut fds, left) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(nix::Error::EINTR) => return true,
            Err(_) => return false,
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        // The broker first: it may have died, and another one ask.
        if let Some(broker) = self.broker.as_ref().filter(|_| ready.get(1) == Some(&true)) {
            match receive(broker) {
                Some((said, file)) => return self.hear(&said, file),
                None => {
                    self.broker = None;
                    self.since = Instant::now();
                    return !self.files.is_empty();
                }
            }
        }
        if ready[0] {
            self.let_in();
        }
        true
    }

    fn hear(&mut self, said: &str, file: Result<Option<OwnedFd>, Refused>) -> bool {
        match (said.strip_prefix("FDNAME="), file) {
            (Some(name), Ok(Some(file))) => drop(self.files.insert(name.to_owned(), file)),
            (Some(name), Ok(None)) => drop(self.files.remove(name)),
            // The next broker won't have this one.
            (Some(_), Err(Refused)) => {}
            _ => return false,
        }
        true
    }

    /// Somebody wants to go on with the namespace.
    fn let_in(&mut self) {
        let Ok(fd) = accept4(self.listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) else { return };
        // SAFETY: just accepted, nobody else has it.
        let link = unsafe { OwnedFd::from_raw_fd(fd) };
        let peer = getsockopt(&link, sockopt::PeerCredentials);
        let is_own = peer.is_ok_and(|peer| peer.uid() == nix::unistd::geteuid().as_raw());
        if self.broker.is_some() || !is_own {
            return;
        }
        let _ = setsockopt(&link, sockopt::SendTimeout, &TimeVal::seconds(PATIENCE));
        let mut given =
            self.files.iter().map(|(name, file)| send(&link, &[FdName(name)], Some(file.as_raw_fd())));
        if given.all(|sent| sent.is_ok()) && send(&link, &[Ready], None).is_ok() {
            self.broker = Some(link);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};

    #[test]
    fn what_a_broker_has_stored_is_the_next_ones() {
        let path = std::env::temp_dir().join(format!("ipcspace-store-{}", std::process::id()));
        let (first, listener, other) = Store::made(&path).unwrap();
        let broker = Some(other);
        let keeping = Keeping { listener, broker, since: Instant::now(), files: Files::new() };
        std::thread::spawn(|| keeping.keep());
        let file = |text: &str| {
            let memory = nix::sys::memfd::memfd_create("stored", nix::sys::memfd::MFdFlags::empty()).unwrap();
            let mut file = File::from(memory);
            file.write_all(text.as_bytes()).unwrap();
            file
        };
        for name in ["a", "b", "c"] {
            first.keep(name, &file(name));
        }
        first.forget("b");
        // More than there is room for: what is refused takes nothing away, and is not taken for the broker's end.
        let refused = file("refused");
        let many = [refused.as_raw_fd(); 32];
        let (said, rights) = ([IoSlice::new(b"FDNAME=a")], [ControlMessage::ScmRights(&many)]);
        sendmsg::<UnixAddr>(first.link.as_raw_fd(), &said, &rights, MsgFlags::empty(), None).unwrap();
        assert!(Store::of_dead(&path).unwrap().is_none(), "the first one lives");
        drop(first);
        let (second, files) = Store::of_dead(&path).unwrap().unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), ["a", "c"]);
        for (name, file) in files {
            let (mut file, mut text) = (File::from(file), String::new());
            file.rewind().unwrap();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, name);
        }
        second.forget("a");
        drop(second);
        let (third, files) = Store::of_dead(&path).unwrap().unwrap();
        assert_eq!(files.into_keys().collect::<Vec<_>>(), ["c"]);
        third.end();
        drop(third);
        assert!(Store::of_dead(&path).unwrap().is_none());
        fs::remove_file(path).unwrap();
    }
}
