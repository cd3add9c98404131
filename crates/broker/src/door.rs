//! The socket at which clients ask.
//!
//! What users see: an answer soon, whoever else asks how often. Who connects and says nothing, or only a part, keeps nobody waiting: nobody is waited for.
//! Users take turns, and each has so many callers who are not yet answered; of one that has more, the longest silent is sent away, and asks again.
//!
//! A thread of its own, which takes no lock of the arena: by itself it answers who asks for the arena's file, which somebody may do who holds a lock.
//! That is why it is open before a broker puts right what the one before it has left; other questions wait until it has.
//! The other questions go to the service's first thread, by turns as well.
//!
//! # Safety
//! Accepted connections are nobody else's yet.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Acquire};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use abi::Errno;
use arena::Handle;
use client::wire;
use engine::{Descriptors, mqueue};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    ControlMessage, MsgFlags, SockFlag, UnixAddr, accept4, getsockopt, sendmsg, setsockopt, sockopt,
};

use crate::caller::{Link, brings_something};
use crate::quota::{self, Connection, locked};
use crate::segments;
use crate::serve::set_blocking;
use crate::service::{STRANGER_HAS_FORKED, is_elsewhere, namespaces, shows_rights};
use crate::turns::Turns;
use crate::{trapped, view};

/// How long a caller may be silent.
const PATIENCE: Duration = Duration::from_secs(1);
/// A user's callers who are not yet answered.
const CALLERS_MAX: usize = 128;
/// How long early questions wait at a time, milliseconds.
const EARLY: u8 = 5;
/// Callers who are let in before others are answered.
const AT_ONCE: usize = 64;
const LISTENER: u64 = 0;

/// A question that the service's first thread answers.
pub(crate) struct Question {
    /// Who is to be answered, of those who ask.
    pub(crate) link: Option<Link>,
    pub(crate) which: u32,
    pub(crate) args: [u32; 2],
    /// What follows the arguments.
    pub(crate) rest: Vec<i32>,
    pub(crate) pid: i32,
    pub(crate) uid: u32,
    /// Of a stranger, for whom a thread is to do something.
    pub(crate) connection: Option<Connection>,
}

/// Questions that wait for the first thread.
pub(crate) type Questions = Arc<Mutex<Turns<Question>>>;

/// Somebody who has connected.
struct Caller {
    link: Link,
    pid: i32,
    uid: u32,
    /// Whether it has the owner's rights, as far as is known.
    is_owners: bool,
    since: Instant,
}

/// Somebody who has asked.
struct Asked {
    caller: Caller,
    message: [u8; wire::LONGEST],
    length: usize,
}

impl Asked {
    fn wants_file(&self) -> bool {
        let question = self.message[..self.length].first_chunk();
        question.is_some_and(|question| wire::decode(question)[1] == wire::ASK_FILE)
    }
}

/// Where clients ask.
pub(crate) struct Door {
    listener: OwnedFd,
    file: OwnedFd,
    owner: u32,
    /// Ours: clients must be in the same ones.
    namespaces: [u64; 2],
    /// Whether more is answered than who asks for the arena's file.
    begun: Arc<AtomicBool>,
    questions: Questions,
    epoll: Epoll,
    /// Who has not asked yet: by a number that grows, so the longest there come first.
    silent: BTreeMap<u64, Caller>,
    number: u64,
    asked: Turns<Asked>,
    /// Whose questions wait until the service has begun.
    early: Vec<Asked>,
    /// Of each user, how many are in either.
    counts: HashMap<u32, usize>,
}

impl Door {
    /// # Errors
    /// Those of epoll and of /proc.
    pub(crate) fn new(
        listener: OwnedFd,
        file: OwnedFd,
        owner: u32,
        begun: Arc<AtomicBool>,
        questions: Questions,
    ) -> io::Result<Door> {
        set_blocking(&listener, false)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        Ok(Door {
            listener,
            file,
            owner,
            namespaces: namespaces("self")?,
            begun,
            questions,
            epoll,
            silent: BTreeMap::new(),
            number: LISTENER,
            asked: Turns::default(),
            early: Vec::new(),
            counts: HashMap::new(),
        })
    }

    /// Takes questions for ever, and calls `ring` when there is something for the first thread.
    pub(crate) fn run(mut self, ring: impl Fn()) {
        let mut events = [EpollEvent::empty(); AT_ONCE];
        loop {
            let ready = self.epoll.wait(&mut events, self.patience()).unwrap_or(0);
            for event in &events[..ready] {
                match event.data() {
                    LISTENER => self.let_in(),
                    number => self.hear(number),
                }
            }
            let has_begun = self.begun.load(Acquire);
            if has_begun {
                self.early.drain(..).for_each(|asked| self.asked.push(asked.caller.uid, asked));
            }
            let mut has_news = false;
            for _ in 0..self.asked.users() {
                if let Some(asked) = self.asked.pop() {
                    if !has_begun && !asked.wants_file() {
                        self.early.push(asked);
                        continue;
                    }
                    self.uncount(asked.caller.uid);
                    has_news |= self.answer(asked);
                }
            }
            if has_news {
                ring();
            }
            while let Some(longest) = self.silent.first_entry()
                && longest.get().since.elapsed() >= PATIENCE
            {
                let number = *longest.key();
                self.send_away(number);
            }
        }
    }

    fn patience(&self) -> EpollTimeout {
        if self.asked.users() > 0 {
            return EpollTimeout::ZERO;
        }
        if !self.early.is_empty() {
            return EpollTimeout::from(EARLY);
        }
        let Some((_, longest)) = self.silent.first_key_value() else { return EpollTimeout::NONE };
        let left = PATIENCE.saturating_sub(longest.since.elapsed()).as_millis() + 1;
        EpollTimeout::try_from(left).unwrap_or(EpollTimeout::ZERO)
    }

    fn let_in(&mut self) {
        for _ in 0..AT_ONCE {
            let fd = match accept4(self.listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
                Ok(fd) => fd,
                Err(nix::Error::EMFILE | nix::Error::ENFILE | nix::Error::ENOMEM) => {
                    // The descriptor of one who says nothing serves one who may.
                    match self.silent.first_key_value().map(|(number, _)| *number) {
                        Some(number) => self.send_away(number),
                        None => std::thread::sleep(Duration::from_millis(1)),
                    }
                    return;
                }
                Err(_) => return,
            };
            // SAFETY: just accepted, nobody else has it.
            let link = unsafe { OwnedFd::from_raw_fd(fd) };
            let Ok(peer) = getsockopt(&link, sockopt::PeerCredentials) else { continue };
            let link = Link::new(link, peer.uid());
            let (pid, uid) = (peer.pid(), peer.uid());
            let caller = Caller { link, pid, uid, is_owners: uid == self.owner, since: Instant::now() };
            if self.makes_room(caller.uid) {
                self.number += 1;
                let event = EpollEvent::new(EpollFlags::EPOLLIN, self.number);
                if self.epoll.add(&*caller.link, event).is_ok() {
                    *self.counts.entry(caller.uid).or_default() += 1;
                    self.silent.insert(self.number, caller);
                }
            }
        }
    }

    /// Whether one more of the user can be let in, for which another one may have to go.
    fn makes_room(&mut self, uid: u32) -> bool {
        // The owner can do worse to its own namespace.
        if uid == self.owner || self.counts.get(&uid).is_none_or(|count| *count < CALLERS_MAX) {
            return true;
        }
        let longest = self.silent.iter().find(|(_, caller)| caller.uid == uid).map(|(number, _)| *number);
        longest.is_some_and(|number| {
            self.send_away(number);
            true
        })
    }

    fn uncount(&mut self, uid: u32) {
        if let Some(count) = self.counts.get_mut(&uid) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&uid);
            }
        }
    }

    fn send_away(&mut self, number: u64) {
        if let Some(caller) = self.silent.remove(&number) {
            let _ = self.epoll.delete(&*caller.link);
            self.uncount(caller.uid);
        }
    }

    /// Takes what a caller has said.
    fn hear(&mut self, number: u64) {
        // It may just have been sent away.
        let Some(mut caller) = self.silent.remove(&number) else { return };
        let _ = self.epoll.delete(&*caller.link);
        if !caller.is_owners {
            let _ = setsockopt(&*caller.link, sockopt::PassCred, &true);
        }
        if brings_something(&caller.link) {
            // Nothing of that kind is asked for here.
            self.uncount(caller.uid);
            return;
        }
        let mut message = [0; wire::LONGEST];
        let flags = MsgFlags::MSG_DONTWAIT.bits();
        match sys::net::receive_message(caller.link.as_raw_fd(), [&mut message, &mut []], flags) {
            Ok(received) if received.bytes >= wire::QUESTION => {
                caller.is_owners |= shows_rights(self.owner, caller.pid, received.sender);
                self.asked.push(caller.uid, Asked { caller, message, length: received.bytes });
            }
            _ => self.uncount(caller.uid),
        }
    }

    /// Answers one question. Whether it is for the first thread instead.
    fn answer(&self, asked: Asked) -> bool {
        let Asked { caller: Caller { link, pid, uid, is_owners, .. }, message, length } = asked;
        let Some((question, rest)) = message[..length].split_first_chunk() else { return false };
        let [magic, which, arg, high] = wire::decode(question);
        let memory = u64::from(high) << 32 | u64::from(arg);
        // Who is not the owner's, or elsewhere, may not map the arena, and has its calls made for it.
        let is_stranger = || !is_owners || is_elsewhere(pid, self.namespaces);
        if magic != wire::MAGIC {
            reply(&link, Err(Errno::EPROTO), None);
        } else if which == wire::ASK_CALLS {
            let Some(connection) = Connection::new(uid) else {
                reply(&link, Err(Errno::EAGAIN), None);
                quota::refused(pid, uid);
                return true;
            };
            self.pass_on(Question {
                link: Some(link),
                which,
                args: [arg, is_stranger().into()],
                rest: Vec::new(),
                pid,
                uid,
                connection: Some(connection),
            });
            return true;
        } else if which != wire::TELL_FORKED && is_stranger() {
            reply(&link, Err(Errno::EACCES), None);
        } else if which == wire::ASK_FILE {
            reply(&link, Ok([0; 2]), Some(&self.file));
        } else if which == wire::ASK_TAKE {
            segments::take();
            reply(&link, Ok([0; 2]), None);
        } else if which == wire::ASK_GIVE {
            let end = segments::end_to_give();
            reply(&link, end.as_ref().map(|_| [0; 2]).map_err(|e| *e), end.as_ref().ok());
        } else if which == wire::ASK_HAS {
            let has = segments::has(arg.cast_signed()) || trap::has(arg);
            reply(&link, if has { Ok([0; 2]) } else { Err(Errno::ESRCH) }, None);
        } else if which == wire::ASK_VIEW {
            reply(&link, Ok([0; 2]), None);
            view::answer(link);
        } else if which == wire::ASK_TRAP {
            reply(&link, Ok([0; 2]), None);
            trapped::answer(link);
        } else if which == wire::ASK_QUEUE {
            // SAFETY: just opened, nobody else has it.
            let file = client::mqd::open_for(arg, high).map(|fd| unsafe { OwnedFd::from_raw_fd(fd.leak()) });
            reply(&link, file.as_ref().map(|_| [0; 2]).map_err(|e| *e), file.as_ref().ok());
        } else if which == wire::ASK_QUEUE_HELD {
            let held = client::mqd::is_held(Handle(arg));
            reply(&link, held.map(|held| [held.into(), 0]), None);
        } else if which == wire::ASK_NOTIFY {
            let sent = client::with(|ctx| {
                mqueue::notice_of(ctx, Handle(arg)).map(|notice| ctx.host.notify(&notice))
            });
            reply(&link, sent.map(|()| [0; 2]), None);
        } else if which == wire::ASK_MEMORY_USAGE {
            reply(&link, segments::memory_usage(memory).map(small), None);
        } else if which == wire::ASK_MEMORY || which == wire::ASK_MEMORY_TO_READ {
            let file = segments::file(memory, which == wire::ASK_MEMORY_TO_READ);
            reply(&link, file.as_ref().map(|_| [0; 2]).map_err(|e| *e), file.as_ref().ok());
        } else {
            let has_forked = which == wire::TELL_FORKED && is_stranger();
            let connection = has_forked.then(|| Connection::new(uid)).flatten();
            // It is told by what it does, then.
            if has_forked && connection.is_none() {
                return false;
            }
            let which = if has_forked { STRANGER_HAS_FORKED } else { which };
            let rest = rest.as_chunks().0.iter().map(|word| i32::from_ne_bytes(*word)).collect();
            // To a stranger that has been forked nothing is said.
            let link = (!has_forked).then_some(link);
            self.pass_on(Question { link, which, args: [arg, high], rest, pid, uid, connection });
            return true;
        }
        false
    }

    fn pass_on(&self, question: Question) {
        locked(&self.questions).push(question.uid, question);
    }
}

/// Two counts as the words of an answer.
pub(crate) fn small((a, b): (u64, u64)) -> [u32; 2] {
    [a, b].map(|n| u32::try_from(n).unwrap_or(u32::MAX))
}

/// Answers a question, with a file if there is one to give.
pub(crate) fn reply(link: &OwnedFd, answer: Result<[u32; 2], Errno>, file: Option<&OwnedFd>) {
    let error = answer.map_or_else(|e| e.raw().cast_unsigned(), |_| 0);
    let [first, second] = answer.unwrap_or([0; 2]);
    let bytes = wire::encode([wire::MAGIC, error, first, second]);
    let iov = [io::IoSlice::new(&bytes)];
    let files = file.filter(|_| error == 0).map(|f| [f.as_raw_fd()]);
    let rights = files.as_ref().map(|f| [ControlMessage::ScmRights(f)]);
    let control = rights.as_ref().map_or(&[][..], |r| &r[..]);
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    let _ = sendmsg::<UnixAddr>(link.as_raw_fd(), &iov, control, flags, None);
}
