//! The link to the broker: a unix socket for the length of one question.

use abi::{Errno, Result};

use crate::{check, syscall6};

const AF_UNIX: u16 = 1;
const SOCK_SEQPACKET_CLOEXEC: usize = 5 | 0o2_000_000;
const MSG_DONTWAIT: usize = 0x40;
const MSG_NOSIGNAL: usize = 0x4000;
const MSG_CMSG_CLOEXEC: usize = 0x4000_0000;
const SCM_RIGHTS: i32 = 1;
const SCM_CREDENTIALS: i32 = 2;
const SOL_SOCKET: i32 = 1;

#[repr(C)]
struct SockaddrUn {
    family: u16,
    path: [u8; 108],
}

#[repr(C)]
struct Iovec {
    base: usize,
    len: usize,
}

#[repr(C)]
struct Msghdr {
    name: usize,
    namelen: usize,
    iov: usize,
    iovlen: usize,
    control: usize,
    controllen: usize,
    flags: usize,
}

#[repr(C)]
struct Control {
    len: usize,
    level: i32,
    kind: i32,
    fd: i32,
    pad: i32,
}

/// A descriptor that is closed when it goes out of scope.
pub struct Fd(i32);

impl Fd {
    pub(crate) fn own(fd: i32) -> Fd {
        Fd(fd)
    }

    /// The number, which is no longer closed.
    pub fn leak(self) -> i32 {
        let fd = self.0;
        core::mem::forget(self);
        fd
    }

    /// Takes a descriptor over.
    pub fn new(fd: i32) -> Fd {
        Fd(fd)
    }

    /// Its number.
    pub fn raw(&self) -> i32 {
        self.0
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: ours, and closed once.
        unsafe { syscall6(3, self.0 as usize, 0, 0, 0, 0, 0) };
    }
}

fn retry(mut call: impl FnMut() -> isize) -> Result<usize> {
    loop {
        match check(call()) {
            Err(Errno::EINTR) => {}
            done => return done,
        }
    }
}

fn address(path: &[u8]) -> Result<SockaddrUn> {
    let mut address = SockaddrUn { family: AF_UNIX, path: [0; 108] };
    address.path.get_mut(..path.len()).filter(|p| p.len() < 108).ok_or(Errno::EINVAL)?.copy_from_slice(path);
    Ok(address)
}

/// Connects to the broker at `path`.
///
/// # Errors
/// The socket's.
pub fn connect(path: &[u8]) -> Result<Fd> {
    let address = address(path)?;
    // SAFETY: no memory involved.
    let socket =
        Fd(check(unsafe { syscall6(41, AF_UNIX as usize, SOCK_SEQPACKET_CLOEXEC, 0, 0, 0, 0) })? as i32);
    let at = core::ptr::from_ref(&address) as usize;
    // SAFETY: a valid address of that length.
    retry(|| unsafe { syscall6(42, socket.0 as usize, at, 3 + path.len(), 0, 0, 0) })?;
    Ok(socket)
}

/// Sends a message.
///
/// # Errors
/// The socket's.
pub fn send(socket: &Fd, message: &[u8]) -> Result<()> {
    // SAFETY: `message` is valid for its length.
    retry(|| unsafe {
        syscall6(44, socket.0 as usize, message.as_ptr() as usize, message.len(), MSG_NOSIGNAL, 0, 0)
    })
    .map(|_| ())
}

/// Sends a message to somebody who wants to know whether we are its user: one who has put that user's rights aside shows that it has them.
///
/// # Errors
/// The socket's.
pub fn send_as_user(socket: &Fd, message: &[u8]) -> Result<()> {
    let [real, effective, saved] = crate::getresuid();
    if real == effective && saved == effective {
        return send(socket, message);
    }
    match peer_user(socket) {
        Some(user) if user != effective && (user == real || user == saved) => {
            // SAFETY: no memory involved.
            let (pid, gid) = unsafe { (syscall6(39, 0, 0, 0, 0, 0, 0), syscall6(108, 0, 0, 0, 0, 0, 0)) };
            let who = Credentials { pid: pid as u32, uid: user, gid: gid as u32 };
            let bytes = (message.as_ptr() as usize, message.len());
            send_parts(socket.0, &[], [bytes, (0, 0)], Some(who), None)
        }
        _ => send(socket, message),
    }
}

/// The user at the other end of a connection: who listens there.
fn peer_user(socket: &Fd) -> Option<u32> {
    const SO_PEERCRED: usize = 17;
    let mut who = Credentials { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<Credentials>() as u32;
    let (at, len_at) = (&raw mut who as usize, &raw mut len as usize);
    // SAFETY: valid places.
    let done = unsafe { syscall6(55, socket.0 as usize, SOL_SOCKET as usize, SO_PEERCRED, at, len_at, 0) };
    check(done).ok().map(|_| who.uid)
}

/// Sends a message with a descriptor, without waiting.
///
/// # Errors
/// The socket's: `EAGAIN` or `ETOOMANYREFS` if it is full.
pub fn send_file(socket: i32, message: &[u8], file: &Fd) -> Result<()> {
    let mut iov = Iovec { base: message.as_ptr() as usize, len: message.len() };
    let mut control = Control { len: 20, level: SOL_SOCKET, kind: SCM_RIGHTS, fd: file.0, pad: 0 };
    let header = Msghdr {
        name: 0,
        namelen: 0,
        iov: core::ptr::from_mut(&mut iov) as usize,
        iovlen: 1,
        control: core::ptr::from_mut(&mut control) as usize,
        controllen: size_of::<Control>(),
        flags: 0,
    };
    let at = core::ptr::from_ref(&header) as usize;
    // SAFETY: all places that the header names are valid for their lengths.
    retry(|| unsafe { syscall6(46, socket as usize, at, MSG_NOSIGNAL | MSG_DONTWAIT, 0, 0, 0) }).map(|_| ())
}

/// Asks the broker at `path`: sends `request`, receives `reply` and, if one comes, a descriptor. The connection comes first.
///
/// # Errors
/// The socket's; `EPROTO` for a reply of another size.
pub fn ask(path: &[u8], request: &[u8], reply: &mut [u8]) -> Result<(Fd, Option<Fd>)> {
    let socket = connect(path)?;
    send_as_user(&socket, request)?;
    let file = receive(&socket, reply)?;
    Ok((socket, file))
}

/// Where the other end of a connection is bound, if `fd` is one of the kind that brokers listen for.
pub fn peer_path(fd: i32, room: &mut [u8; 108]) -> Option<&[u8]> {
    const SO_TYPE: usize = 3;
    let (mut kind, mut len) = (0i32, 4u32);
    let (at, len_at) = (&raw mut kind as usize, &raw mut len as usize);
    // SAFETY: valid places.
    let done = unsafe { syscall6(55, fd as usize, SOL_SOCKET as usize, SO_TYPE, at, len_at, 0) };
    if check(done).is_err() || kind != 5 {
        return None;
    }
    let mut address = SockaddrUn { family: 0, path: [0; 108] };
    let mut len = size_of::<SockaddrUn>() as u32;
    let (at, len_at) = (&raw mut address as usize, &raw mut len as usize);
    // SAFETY: valid places.
    check(unsafe { syscall6(52, fd as usize, at, len_at, 0, 0, 0) }).ok()?;
    *room = address.path;
    let path = room.get(..(len as usize).checked_sub(2)?)?;
    let path = path.split(|byte| *byte == 0).next()?;
    (address.family == AF_UNIX && path.first() == Some(&b'/')).then_some(path)
}

/// Who sends a message.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Credentials {
    /// Process.
    pub pid: u32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
}

#[repr(C)]
struct SentCredentials {
    len: usize,
    level: i32,
    kind: i32,
    who: Credentials,
    pad: u32,
}

/// What comes with a message besides bytes.
#[repr(C)]
struct SentWith {
    who: SentCredentials,
    file: Control,
}

/// Sends a message of `words`, and of bytes at two places of the program's memory: the kernel checks these; and with a descriptor, if
/// there is one.
///
/// # Errors
/// The socket's, and `EFAULT`.
pub fn send_parts(
    socket: i32,
    words: &[u64],
    parts: [(usize, usize); 2],
    who: Option<Credentials>,
    file: Option<i32>,
) -> Result<()> {
    let iov = [
        Iovec { base: words.as_ptr() as usize, len: size_of_val(words) },
        Iovec { base: parts[0].0, len: parts[0].1 },
        Iovec { base: parts[1].0, len: parts[1].1 },
    ];
    let none = Credentials { pid: 0, uid: 0, gid: 0 };
    let control = SentWith {
        who: SentCredentials {
            len: 28,
            level: SOL_SOCKET,
            kind: SCM_CREDENTIALS,
            who: who.unwrap_or(none),
            pad: 0,
        },
        file: Control { len: 20, level: SOL_SOCKET, kind: SCM_RIGHTS, fd: file.unwrap_or(-1), pad: 0 },
    };
    let all = core::ptr::from_ref(&control) as usize;
    let (control, controllen) = match (who, file) {
        (None, None) => (0, 0),
        (Some(_), None) => (all, size_of::<SentCredentials>()),
        (Some(_), Some(_)) => (all, size_of::<SentWith>()),
        (None, Some(_)) => (all + size_of::<SentCredentials>(), size_of::<Control>()),
    };
    let header = Msghdr {
        name: 0,
        namelen: 0,
        iov: iov.as_ptr() as usize,
        iovlen: iov.len(),
        control,
        controllen,
        flags: 0,
    };
    let at = core::ptr::from_ref(&header) as usize;
    // SAFETY: what is ours is valid; what is the program's, the kernel only reads.
    retry(|| unsafe { syscall6(46, socket as usize, at, MSG_NOSIGNAL, 0, 0, 0) }).map(|_| ())
}

/// Looks at the words at the beginning of the next message, which stays and is waited for if need be; false if it is shorter, or at the connection's end.
///
/// # Errors
/// The socket's.
pub fn peek_words(socket: i32, words: &mut [u64], wait: bool) -> Result<bool> {
    const MSG_PEEK: usize = 2;
    let flags = MSG_PEEK | unless(wait);
    let (at, len) = (words.as_mut_ptr() as usize, size_of_val(words));
    // SAFETY: valid for its length.
    retry(|| unsafe { syscall6(45, socket as usize, at, len, flags, 0, 0) }).map(|got| got == len)
}

/// What was received besides words.
#[derive(Default)]
pub struct Taken {
    /// How many bytes behind the words there was room for.
    pub bytes: usize,
    /// The descriptor that came with them.
    pub file: Option<Fd>,
}

/// Has whoever waits to receive give up after a time, with `EAGAIN`.
///
/// # Errors
/// The socket's.
pub fn set_patience(socket: i32, us: u64) -> Result<()> {
    const SO_RCVTIMEO: usize = 20;
    let time = [us / 1_000_000, us % 1_000_000];
    let (at, len) = (time.as_ptr() as usize, size_of_val(&time));
    // SAFETY: a `timeval`.
    check(unsafe { syscall6(54, socket as usize, SOL_SOCKET as usize, SO_RCVTIMEO, at, len, 0) }).map(|_| ())
}

fn unless(wait: bool) -> usize {
    if wait { 0 } else { MSG_DONTWAIT }
}

/// Takes the next message, and waits for it if need be: its words, and what follows them to a place in the program's memory, which the kernel checks; and the descriptor that
/// comes with it.
///
/// # Errors
/// The socket's, `EPROTO` for one that is shorter, `EPIPE` at the connection's end, and `EFAULT`: the message is gone then too, if
/// its words have come.
///
/// # Safety
/// The program wants to have the bytes there.
pub unsafe fn take_parts(
    socket: i32,
    words: &mut [u64],
    (at, len): (usize, usize),
    wait: bool,
) -> Result<Taken> {
    let iov = [Iovec { base: words.as_mut_ptr() as usize, len: size_of_val(words) }, Iovec { base: at, len }];
    // SAFETY: what is ours is valid; the rest is the caller's promise.
    let Message { bytes, file, .. } = unsafe { receive_at(socket, &iov, unless(wait)) }?;
    match bytes.checked_sub(size_of_val(words)) {
        None if bytes == 0 => Err(Errno::EPIPE),
        None => Err(Errno::EPROTO),
        Some(bytes) => Ok(Taken { bytes, file }),
    }
}

/// A message that was received.
#[derive(Default)]
pub struct Message {
    /// How many bytes there was room for.
    pub bytes: usize,
    /// Whether there was more: bytes, or descriptors than could be opened.
    pub is_truncated: bool,
    /// Who has sent it, where the socket is to say so.
    pub sender: Option<Credentials>,
    /// The descriptor that came with it. Of several, the first: the others are closed.
    pub file: Option<Fd>,
}

/// Receives a message, with flags of recvmsg(2): the bytes go to the one place, and on to the other.
///
/// # Errors
/// The socket's.
pub fn receive_message(socket: i32, parts: [&mut [u8]; 2], flags: i32) -> Result<Message> {
    let iov = parts.map(|part| Iovec { base: part.as_mut_ptr() as usize, len: part.len() });
    // SAFETY: places that are lent to us.
    unsafe { receive_at(socket, &iov, flags as usize) }
}

/// All that receives descriptors comes by here, so that none stays open that nobody knows.
///
/// # Safety
/// Bytes may be stored at these places.
unsafe fn receive_at(socket: i32, iov: &[Iovec], flags: usize) -> Result<Message> {
    const MSG_CTRUNC: usize = 8;
    const MSG_TRUNC: usize = 0x20;
    /// Words of what comes before the data of each kind: its length, a level, and which kind.
    const HEAD: usize = 4;
    // Room for credentials and a few descriptors: those that find none are not opened.
    let mut control = [0u32; 16];
    let mut header = Msghdr {
        name: 0,
        namelen: 0,
        iov: iov.as_ptr() as usize,
        iovlen: iov.len(),
        control: control.as_mut_ptr() as usize,
        controllen: size_of_val(&control),
        flags: 0,
    };
    let at = core::ptr::from_mut(&mut header) as usize;
    // SAFETY: what is ours is valid; the rest is the caller's promise.
    let bytes = retry(|| unsafe { syscall6(47, socket as usize, at, flags | MSG_CMSG_CLOEXEC, 0, 0, 0) })?;
    let is_truncated = header.flags & (MSG_TRUNC | MSG_CTRUNC) != 0;
    let mut message = Message { bytes, is_truncated, ..Message::default() };
    let mut rest = control.get(..header.controllen / 4).unwrap_or_default();
    while let Some(([length, _, level, kind], data)) = rest.split_first_chunk::<HEAD>() {
        let Some(data) = (*length as usize / 4).checked_sub(HEAD).and_then(|words| data.get(..words)) else {
            break;
        };
        match (level.cast_signed(), kind.cast_signed(), data) {
            (SOL_SOCKET, SCM_RIGHTS, files) => {
                for fd in files.iter().map(|fd| Fd(fd.cast_signed())) {
                    message.file.get_or_insert(fd);
                }
            }
            (SOL_SOCKET, SCM_CREDENTIALS, [pid, uid, gid]) => {
                message.sender = Some(Credentials { pid: *pid, uid: *uid, gid: *gid });
            }
            _ => {}
        }
        // Each kind begins at a whole word of the machine's.
        rest = rest.get((HEAD + data.len()).next_multiple_of(2)..).unwrap_or_default();
    }
    Ok(message)
}

/// Whether there is something to receive.
pub fn has_message(socket: i32) -> bool {
    const MSG_PEEK: usize = 2;
    let mut byte = 0u8;
    let at = core::ptr::from_mut(&mut byte) as usize;
    // SAFETY: room for a byte.
    check(unsafe { syscall6(45, socket as usize, at, 1, MSG_PEEK | MSG_DONTWAIT, 0, 0) }).is_ok()
}

#[repr(C)]
struct Poll {
    fd: i32,
    events: i16,
    revents: i16,
}

pub(crate) const POLLIN: i16 = 1;

/// Which of these events, and of `POLLERR POLLHUP POLLNVAL`, there are now.
pub(crate) fn poll_now(fd: i32, events: i16) -> i16 {
    let mut poll = Poll { fd, events, revents: 0 };
    // SAFETY: a valid place, and no wait.
    unsafe { syscall6(7, core::ptr::from_mut(&mut poll) as usize, 1, 0, 0, 0, 0) };
    poll.revents
}

/// Waits until there is something to receive. With a mask of signals, which is in force meanwhile, their handlers end the wait.
///
/// # Errors
/// `EINTR`.
pub fn wait_readable(socket: i32, mask: Option<u64>) -> Result<()> {
    let mut poll = Poll { fd: socket, events: POLLIN, revents: 0 };
    let mask_at = mask.as_ref().map_or(0, |mask| core::ptr::from_ref(mask) as usize);
    let at = core::ptr::from_mut(&mut poll) as usize;
    // SAFETY: valid places.
    check(unsafe { syscall6(271, at, 1, 0, mask_at, 8, 0) }).map(|_| ())
}

/// Receives `reply` and, if one comes, a descriptor.
///
/// # Errors
/// The socket's; `EPROTO` for a reply of another size.
pub fn receive(socket: &Fd, reply: &mut [u8]) -> Result<Option<Fd>> {
    let length = reply.len();
    let Message { bytes, file, .. } = receive_message(socket.0, [reply, &mut []], 0)?;
    if bytes == length { Ok(file) } else { Err(Errno::EPROTO) }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::fs;
    use std::os::fd::{AsRawFd, RawFd};
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[repr(C)]
    struct Many {
        len: usize,
        level: i32,
        kind: i32,
        files: [i32; 20],
    }

    fn send_many(socket: RawFd, file: RawFd) {
        let control = Many { len: 16 + 80, level: SOL_SOCKET, kind: SCM_RIGHTS, files: [file; 20] };
        let iov = Iovec { base: b"hello".as_ptr() as usize, len: 5 };
        let header = Msghdr {
            name: 0,
            namelen: 0,
            iov: core::ptr::from_ref(&iov) as usize,
            iovlen: 1,
            control: core::ptr::from_ref(&control) as usize,
            controllen: size_of::<Many>(),
            flags: 0,
        };
        // SAFETY: all places that the header names are valid for their lengths.
        let sent =
            unsafe { syscall6(46, socket as usize, core::ptr::from_ref(&header) as usize, 0, 0, 0, 0) };
        assert_eq!(sent, 5);
    }

    #[test]
    fn of_many_descriptors_one_stays_open() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let (file, _other) = UnixDatagram::pair().unwrap();
        let link = |fd: RawFd| fs::read_link(std::format!("/proc/self/fd/{fd}")).ok();
        let is_open = || {
            let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
            open.filter(|fd| fs::read_link(fd.path()).ok() == link(file.as_raw_fd())).count()
        };
        send_many(theirs.as_raw_fd(), file.as_raw_fd());
        let (mut first, mut second) = ([0; 3], [0; 8]);
        let got = receive_message(ours.as_raw_fd(), [&mut first, &mut second], 0).unwrap();
        assert_eq!((got.bytes, &first, &second[..2]), (5, b"hel", &b"lo"[..]));
        assert!(got.is_truncated && got.sender.is_none());
        assert_eq!(link(got.file.as_ref().unwrap().raw()), link(file.as_raw_fd()));
        assert_eq!(is_open(), 2);
        drop(got);
        assert_eq!(is_open(), 1);
    }
}
