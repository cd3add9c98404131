//! System V message queues.

use std::cell::RefCell;
use std::time::{Duration, Instant, SystemTime};

use abi::{
    Errno,
    ipc::{IPC_CREAT, IPC_EXCL, IPC_NOWAIT, IPC_RMID, IPC_SET, IPC_STAT},
    msg::{MSG_COPY, MSG_EXCEPT, MSG_NOERROR, Msqid64Ds},
};
use engine::syscall::{Msgctl, Msgget, Msgrcv, Msgsnd};

use crate::backend::{Backend, Raw, address_of, address_to_read};
use crate::time::Wait;
use crate::{Error, Key, Limit, MsgType, Result};

/// Bytes of a message's type, before its text.
const HEAD: usize = size_of::<i64>();
/// What a thread keeps to lay out messages, bytes.
const KEPT: usize = 256 << 10;

/// The flags of a `*get` call.
pub(crate) fn flags(call: &'static str, create: bool, create_new: bool, mode: u32) -> Result<i32> {
    let create = if create_new {
        IPC_CREAT | IPC_EXCL
    } else if create {
        IPC_CREAT
    } else {
        0
    };
    match i32::try_from(mode) {
        Ok(mode @ 0..=0o777) => Ok(create | mode),
        _ => {
            Err(Error::with_text(call, Errno::EINVAL, format!("the mode {mode:#o} has more than nine bits")))
        }
    }
}

/// A time of an object's, which is 0 for never.
pub(crate) fn time(seconds: i64) -> Option<SystemTime> {
    let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds != 0)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// To open or make a queue: by [`crate::Namespace::queue`].
///
/// ```
/// use ipcspace::{Key, Namespace};
///
/// # fn main() -> Result<(), ipcspace::Error> {
/// let ns = Namespace::private()?;
/// assert_eq!(ns.queue(Key::new(5)).open().unwrap_err().errno(), 2); // there is none yet
/// ns.queue(Key::new(5)).create(true).mode(0o660).open()?;
/// assert_eq!(ns.queue(Key::new(5)).create_new(true).open().unwrap_err().errno(), 17); // there is one now
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct QueueOptions {
    backend: Backend,
    key: Key,
    create: bool,
    create_new: bool,
    mode: u32,
}

impl QueueOptions {
    pub(crate) fn new(backend: Backend, key: Key) -> QueueOptions {
        QueueOptions { backend, key, create: false, create_new: false, mode: 0o600 }
    }

    /// Whether it is made if there is none.
    pub fn create(mut self, create: bool) -> QueueOptions {
        self.create = create;
        self
    }

    /// Whether it must be made: one that is there is `EEXIST`.
    pub fn create_new(mut self, create_new: bool) -> QueueOptions {
        self.create_new = create_new;
        self
    }

    /// Who may use a new one, and what of it is asked for of one that is there: nine bits, 0o600 at first.
    pub fn mode(mut self, mode: u32) -> QueueOptions {
        self.mode = mode;
        self
    }

    /// Opens it.
    ///
    /// # Errors
    /// Those of msgget(2).
    pub fn open(&self) -> Result<Queue> {
        let flags = flags("msgget", self.create, self.create_new, self.mode)?;
        let got = self.backend.raw(&Msgget { key: self.key.0, flags });
        let id =
            got.map_err(|errno| self.backend.explain("msgget", errno, &[(Errno::ENOSPC, Limit::MsgMni, 1)]))?;
        // An identifier is an int.
        Ok(Queue { backend: self.backend, id: id as i32 })
    }
}

/// Which message is received: the first of those that suit.
///
/// ```
/// use ipcspace::{Key, MsgType, Namespace, Select};
///
/// # fn main() -> Result<(), ipcspace::Error> {
/// let queue = Namespace::private()?.queue(Key::PRIVATE).open()?;
/// let kinds = [5, 3, 9].map(|number| MsgType::new(number).unwrap());
/// for kind in kinds {
///     queue.send(kind, b"")?;
/// }
/// let mut next = |select| queue.recv(select, &mut []).map(|got| got.kind.number());
/// assert_eq!(next(Select::AtMost(kinds[0]))?, 3); // the least type first
/// assert_eq!(next(Select::Not(kinds[0]))?, 9);
/// assert_eq!(next(Select::Any)?, 5);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Select {
    /// The first message.
    Any,
    /// The first of that type.
    Exactly(MsgType),
    /// The first of the least type that is not above this one: so types are priorities.
    AtMost(MsgType),
    /// The first of another type.
    Not(MsgType),
}

impl Select {
    #[inline]
    fn arguments(self) -> (i64, i32) {
        match self {
            Select::Any => (0, 0),
            Select::Exactly(kind) => (kind.number(), 0),
            Select::AtMost(kind) => (-kind.number(), 0),
            Select::Not(kind) => (kind.number(), MSG_EXCEPT),
        }
    }
}

/// What came.
///
/// ```
/// use ipcspace::{Key, MsgType, Namespace, Received, Select};
///
/// # fn main() -> Result<(), ipcspace::Error> {
/// let queue = Namespace::private()?.queue(Key::PRIVATE).open()?;
/// queue.send(MsgType::FIRST, b"four")?;
/// assert_eq!(queue.recv(Select::Any, &mut [0; 16])?, Received { kind: MsgType::FIRST, len: 4 });
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// The message's type.
    pub kind: MsgType,
    /// How many bytes of the buffer its text has filled.
    pub len: usize,
}

/// What a queue has, as msgctl(2) tells.
///
/// ```
/// use ipcspace::{Key, MsgType, Namespace};
///
/// # fn main() -> Result<(), ipcspace::Error> {
/// let queue = Namespace::private()?.queue(Key::PRIVATE).mode(0o640).open()?;
/// queue.send(MsgType::FIRST, b"four")?;
/// let status = queue.status()?;
/// assert_eq!((status.messages, status.bytes, status.capacity, status.mode), (1, 4, 16384, 0o640));
/// assert_eq!(status.last_sender, std::process::id());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct QueueStatus {
    /// How many messages.
    pub messages: u64,
    /// How many bytes they have.
    pub bytes: u64,
    /// How many bytes there may be, and how many messages.
    pub capacity: u64,
    /// Who may use it: nine bits.
    pub mode: u32,
    /// The owner's user and group.
    pub owner: (u32, u32),
    /// The process of the last message sent; 0 if there was none.
    pub last_sender: u32,
    /// The process of the last message received; 0 if there was none.
    pub last_receiver: u32,
    /// When a message was sent last.
    pub sent: Option<SystemTime>,
    /// When a message was received last.
    pub received: Option<SystemTime>,
}

/// A System V message queue.
///
/// ```
/// use std::time::Duration;
/// use ipcspace::{Key, MsgType, Namespace, Select};
///
/// # fn main() -> Result<(), ipcspace::Error> {
/// let ns = Namespace::private()?;
/// let queue = ns.queue(Key::PRIVATE).open()?;
/// queue.send(MsgType::new(2)?, b"hello")?;
/// let mut text = [0; 16];
/// let got = queue.recv_timeout(Select::Any, &mut text, Duration::from_secs(1))?;
/// assert_eq!(&text[..got.len], b"hello");
/// assert!(queue.try_recv(Select::Any, &mut text).unwrap_err().is_not_now());
/// queue.remove()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Queue {
    backend: Backend,
    id: i32,
}

thread_local! {
    static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Lends a thread's room for a type and a text behind it, as the calls want them.
fn with_room<R>(text: usize, lend: impl FnOnce(&mut [u8]) -> R) -> R {
    let size = text.saturating_add(HEAD);
    let mut lend = Some(lend);
    let lent = ROOM.try_with(|room| {
        // Taken if this is a signal handler's call in the middle of another.
        let mut room = room.try_borrow_mut().ok()?;
        if room.len() < size {
            room.resize(size, 0);
        }
        let done = lend.take().map(|lend| lend(&mut room[..size]));
        if room.len() > KEPT {
            room.truncate(KEPT);
            room.shrink_to_fit();
        }
        done
    });
    match (lent, lend) {
        (Ok(Some(done)), _) => done,
        (_, Some(lend)) => lend(&mut vec![0; size]),
        // It was called and gave nothing, which can't be.
        (_, None) => unreachable!("what was called has answered"),
    }
}

/// `msgsnd` in the namespace that this process is in, where its text lies.
#[inline(never)]
fn send_here(id: i32, number: i64, text: &[u8], flags: i32) -> Raw {
    let (msgp, size) = (address_to_read(text), text.len() as u64);
    client::call_here(&Msgsnd { id, msgp, size, flags, mtype: Some(number) })
}

/// `msgrcv` in the namespace that this process is in, to where its text shall lie.
#[inline(never)]
fn receive_here(id: i32, msgtyp: i64, text: &mut [u8], kind: &mut i64, flags: i32) -> Raw {
    let (size, msgp, text) = (text.len() as u64, address_of(kind), Some(address_of(text)));
    client::call_here(&Msgrcv { id, msgp, size, msgtyp, flags, text })
}

#[inline]
fn wait_flag(wait: Wait) -> i32 {
    if matches!(wait, Wait::ForEver) { 0 } else { IPC_NOWAIT }
}

#[inline]
fn received(got: i64, kind: i64, size: usize) -> Result<Received> {
    let len = usize::try_from(got).unwrap_or(0).min(size);
    Ok(Received { kind: MsgType::new(kind)?, len })
}

impl Queue {
    /// Its identifier, for msgop(2) and ipcs(1).
    pub fn id(&self) -> i32 {
        self.id
    }

    /// Sends a message; waits for room.
    ///
    /// # Errors
    /// Those of msgsnd(2).
    #[inline]
    pub fn send(&self, kind: MsgType, text: &[u8]) -> Result<()> {
        self.send_by(Wait::ForEver, kind, text)
    }

    /// Sends a message if there is room.
    ///
    /// # Errors
    /// `EAGAIN` if there is none; those of msgsnd(2).
    #[inline]
    pub fn try_send(&self, kind: MsgType, text: &[u8]) -> Result<()> {
        self.send_by(Wait::Not, kind, text)
    }

    /// Sends a message; waits for room for so long.
    ///
    /// # Errors
    /// `ETIMEDOUT` if there was none; those of msgsnd(2).
    pub fn send_timeout(&self, kind: MsgType, text: &[u8], timeout: Duration) -> Result<()> {
        self.send_by(Wait::during(timeout), kind, text)
    }

    /// Sends a message; waits for room until then.
    ///
    /// # Errors
    /// `ETIMEDOUT` if there was none; those of msgsnd(2).
    pub fn send_deadline(&self, kind: MsgType, text: &[u8], deadline: Instant) -> Result<()> {
        self.send_by(Wait::Until(deadline), kind, text)
    }

    /// The way of nearly every call; what else there is, is not the caller's code.
    #[inline]
    fn send_by(&self, wait: Wait, kind: MsgType, text: &[u8]) -> Result<()> {
        let mut first = Err(Errno::EACCES);
        if self.backend.is_here(wait) {
            first = send_here(self.id, kind.number(), text, wait_flag(wait));
        }
        match first {
            Ok(_) => Ok(()),
            Err(errno) => self.send_further(wait, kind, text, errno),
        }
    }

    /// `EACCES` may be no answer: see [`Backend::here`].
    #[inline(never)]
    fn send_further(&self, wait: Wait, kind: MsgType, text: &[u8], first: Errno) -> Result<()> {
        let make = |waits, msgp, mtype| {
            let flags = if waits { 0 } else { IPC_NOWAIT };
            Msgsnd { id: self.id, msgp, size: text.len() as u64, flags, mtype }
        };
        let (at, number) = (address_to_read(text), kind.number());
        let sent = match first {
            Errno::EACCES => self.backend.here(wait, |waits| make(waits, at, Some(number))),
            errno => Some(Err(errno)),
        };
        let sent = sent.unwrap_or_else(|| {
            with_room(text.len(), |message| {
                message[..HEAD].copy_from_slice(&number.to_ne_bytes());
                message[HEAD..].copy_from_slice(text);
                let at = address_to_read(message);
                self.backend.wait(wait, |waits| make(waits, at, None))
            })
        });
        match sent {
            Ok(_) => Ok(()),
            Err(errno @ Errno::EAGAIN) => Err(Error::new("msgsnd", errno).with_limit(Limit::MsgMnb, None)),
            Err(errno) => {
                let size = text.len() as u64;
                Err(self.backend.explain("msgsnd", errno, &[(Errno::EINVAL, Limit::MsgMax, size)]))
            }
        }
    }

    /// Receives a message into a buffer; waits for one.
    ///
    /// # Errors
    /// `E2BIG` if it is larger than the buffer: it stays in the queue. Those of msgrcv(2).
    #[inline]
    pub fn recv(&self, select: Select, text: &mut [u8]) -> Result<Received> {
        self.recv_by(Wait::ForEver, select, text, 0)
    }

    /// Receives a message into a buffer if there is one.
    ///
    /// # Errors
    /// `ENOMSG` if there is none; as [`Queue::recv`].
    #[inline]
    pub fn try_recv(&self, select: Select, text: &mut [u8]) -> Result<Received> {
        self.recv_by(Wait::Not, select, text, 0)
    }

    /// Receives a message into a buffer; waits for one for so long.
    ///
    /// # Errors
    /// `ETIMEDOUT` if none came; as [`Queue::recv`].
    pub fn recv_timeout(&self, select: Select, text: &mut [u8], timeout: Duration) -> Result<Received> {
        self.recv_by(Wait::during(timeout), select, text, 0)
    }

    /// Receives a message into a buffer; waits for one until then.
    ///
    /// # Errors
    /// `ETIMEDOUT` if none came; as [`Queue::recv`].
    pub fn recv_deadline(&self, select: Select, text: &mut [u8], deadline: Instant) -> Result<Received> {
        self.recv_by(Wait::Until(deadline), select, text, 0)
    }

    /// As [`Queue::recv`]; of a message that is too large, the rest is lost.
    ///
    /// # Errors
    /// Those of msgrcv(2).
    pub fn recv_truncated(&self, select: Select, text: &mut [u8]) -> Result<Received> {
        self.recv_by(Wait::ForEver, select, text, MSG_NOERROR)
    }

    /// Copies the message at a place of the queue, the first being 0, and leaves it there.
    ///
    /// # Errors
    /// `ENOMSG` if there is none; `ENOSYS` with a kernel that was built without this.
    pub fn peek(&self, place: usize, text: &mut [u8]) -> Result<Received> {
        let place = i64::try_from(place).unwrap_or(i64::MAX);
        self.receive(Wait::Not, (place, MSG_COPY), text)
    }

    #[inline]
    fn recv_by(&self, wait: Wait, select: Select, text: &mut [u8], flags: i32) -> Result<Received> {
        let (msgtyp, of_select) = select.arguments();
        self.receive(wait, (msgtyp, of_select | flags), text)
    }

    #[inline]
    fn receive(&self, wait: Wait, (msgtyp, flags): (i64, i32), text: &mut [u8]) -> Result<Received> {
        // A copy is made by way of the caller's memory, as the kernel makes it.
        if self.backend.is_here(wait) && flags & MSG_COPY == 0 {
            let mut kind = 0i64;
            match receive_here(self.id, msgtyp, text, &mut kind, flags | wait_flag(wait)) {
                Ok(got) => return received(got, kind, text.len()),
                // Which may be no answer: see `Backend::here`.
                Err(Errno::EACCES) => {}
                Err(errno) => return Err(Error::new("msgrcv", errno)),
            }
        }
        self.receive_further(wait, (msgtyp, flags), text)
    }

    #[inline(never)]
    fn receive_further(&self, wait: Wait, (msgtyp, flags): (i64, i32), text: &mut [u8]) -> Result<Received> {
        let size = text.len();
        let make = |waits, msgp, text| {
            let flags = if waits { flags } else { flags | IPC_NOWAIT };
            Msgrcv { id: self.id, msgp, size: size as u64, msgtyp, flags, text }
        };
        let refused = |errno| Error::new("msgrcv", errno);
        if flags & MSG_COPY == 0 {
            let mut kind = 0i64;
            let (msgp, at) = (address_of(&mut kind), address_of(text));
            if let Some(got) = self.backend.here(wait, |waits| make(waits, msgp, Some(at))) {
                return received(got.map_err(refused)?, kind, size);
            }
        }
        with_room(size, |message| {
            let at = address_of(message);
            let got = self.backend.wait(wait, |waits| make(waits, at, None)).map_err(refused)?;
            let (head, came) = message.split_at(HEAD);
            let received = received(got, head.try_into().map_or(0, i64::from_ne_bytes), size)?;
            text[..received.len].copy_from_slice(&came[..received.len]);
            Ok(received)
        })
    }

    /// What it has.
    ///
    /// # Errors
    /// Those of msgctl(2).
    pub fn status(&self) -> Result<QueueStatus> {
        let ds = self.stat()?;
        Ok(QueueStatus {
            messages: ds.msg_qnum,
            bytes: ds.msg_cbytes,
            capacity: ds.msg_qbytes,
            mode: ds.msg_perm.mode & 0o777,
            owner: (ds.msg_perm.uid, ds.msg_perm.gid),
            last_sender: ds.msg_lspid.cast_unsigned(),
            last_receiver: ds.msg_lrpid.cast_unsigned(),
            sent: time(ds.msg_stime),
            received: time(ds.msg_rtime),
        })
    }

    fn stat(&self) -> Result<Msqid64Ds> {
        self.backend.info("msgctl", |buf| Msgctl { id: self.id, cmd: IPC_STAT, buf })
    }

    /// Changes how many bytes there may be.
    ///
    /// # Errors
    /// `EPERM` for more than [`Limit::MsgMnb`], unless one may; those of msgctl(2).
    pub fn set_capacity(&self, bytes: u64) -> Result<()> {
        let ds = Msqid64Ds { msg_qbytes: bytes, ..self.stat()? };
        let set = self.backend.raw(&Msgctl { id: self.id, cmd: IPC_SET, buf: address_to_read(&ds) });
        let explain = |errno| self.backend.explain("msgctl", errno, &[(Errno::EPERM, Limit::MsgMnb, bytes)]);
        set.map(|_| ()).map_err(explain)
    }

    /// Removes the queue and what is in it. Whoever waits for it gets `EIDRM`.
    ///
    /// # Errors
    /// Those of msgctl(2).
    pub fn remove(self) -> Result<()> {
        self.backend.call("msgctl", &Msgctl { id: self.id, cmd: IPC_RMID, buf: 0 }).map(|_| ())
    }
}

#[cfg(feature = "serde")]
mod values {
    use serde::{Serialize, de::DeserializeOwned};

    use super::*;

    /// A message that is larger is not looked at.
    const LARGEST: usize = 64 << 20;

    impl Queue {
        /// Sends a value as a message, in postcard's format; waits for room.
        ///
        /// # Errors
        /// `EINVAL` for what has no such form; as [`Queue::send`].
        pub fn send_value<T: Serialize + ?Sized>(&self, kind: MsgType, value: &T) -> Result<()> {
            let text = postcard::to_allocvec(value)
                .map_err(|error| Error::with_text("msgsnd", Errno::EINVAL, error.to_string()))?;
            self.send(kind, &text)
        }

        /// Receives a value; waits for one.
        ///
        /// # Errors
        /// `EPROTO` if the message is no such value: it is gone then. As [`Queue::recv`].
        pub fn recv_value<T: DeserializeOwned>(&self, select: Select) -> Result<(MsgType, T)> {
            let mut text = vec![0; 8192];
            let got = loop {
                match self.recv(select, &mut text) {
                    Err(error) if error.is(Errno::E2BIG) && text.len() < LARGEST => {
                        text.resize(2 * text.len(), 0);
                    }
                    got => break got?,
                }
            };
            let value = postcard::from_bytes(&text[..got.len])
                .map_err(|error| Error::with_text("msgrcv", Errno::EPROTO, error.to_string()))?;
            Ok((got.kind, value))
        }
    }
}
