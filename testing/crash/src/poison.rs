//! Objects whose memory makes no sense: their calls get `EIDRM`, at once and for ever; their sleepers are released; they can be
//! removed; and nobody else notices.

use std::error::Error;
use std::ffi::CStr;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use crate::ipc::{self, Errno, Message, op};

const KEY: i32 = 0x5eed_f00d;
/// A POSIX queue has no key that could be told: it is found by what it has and has room for.
const NAME: &CStr = c"/poison";
const ROOM: i32 = 2;
const LENGTH: i32 = 7531;
/// From where an object is found, its key, to what it holds: a queue's messages, sleepers and tree of types, a set's semaphores; from the number of a
/// POSIX queue's messages to its tree of priorities.
const CONTENTS: [(&str, &[(u64, usize)]); 3] =
    [("queue", &[(72, 16), (96, 12)]), ("set", &[(36, 4)]), ("POSIX queue", &[(16, 12)])];
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether poisoned objects are as they should be.
pub(crate) fn run() -> Result<bool, Box<dyn Error>> {
    let arena = arena()?;
    let mut held = true;
    for (name, contents) in CONTENTS {
        let object = Object::new(name)?;
        let sleeper = ipc::fork(|| object.sleep().err().unwrap_or(0))?;
        object.await_sleeper()?;
        let key = object.find(&arena)?;
        for &(offset, length) in contents {
            arena.write_all_at(&vec![0xff; length], key + offset)?;
        }
        let mut expect = |what: &str, got: Result<(), Errno>, wanted: Result<(), Errno>| {
            if got != wanted {
                eprintln!("{name}: {what}: {got:?} instead of {wanted:?}");
                held = false;
            }
        };
        let gone = Err(libc::EIDRM);
        expect("the first call", object.take(), gone);
        expect("a sleeper's call", ended(sleeper), gone);
        expect("a later call", object.give(), gone);
        expect("IPC_STAT", object.stat(), gone);
        expect("IPC_RMID", object.remove(), Ok(()));
        expect("a call after its removal", object.give(), Err(object.unknown()));
        let new = Object::new(name)?;
        expect("a new one", new.give().and_then(|()| new.take()).and_then(|()| new.remove()), Ok(()));
    }
    println!("{}", if held { "as they should be" } else { "not as they should be" });
    Ok(held)
}

/// The arena's file, by way of the broker, our parent.
pub(crate) fn arena() -> Result<File, Box<dyn Error>> {
    for entry in fs::read_dir(format!("/proc/{}/fd", std::os::unix::process::parent_id()))? {
        let path = entry?.path();
        if fs::read_link(&path).is_ok_and(|to| to.to_string_lossy().starts_with("/memfd:ipcspace")) {
            return Ok(File::options().read(true).write(true).open(path)?);
        }
    }
    Err("the parent is no broker".into())
}

/// Where these words lie in the arena.
fn find(arena: &File, words: [i32; 3]) -> Result<u64, Box<dyn Error>> {
    let head = words.map(i32::to_ne_bytes).concat();
    let mut found = Vec::new();
    let mut page = [0; 4096];
    let mut at = 0;
    loop {
        // SAFETY: only numbers are passed.
        at = unsafe { libc::lseek(arena.as_raw_fd(), at, libc::SEEK_DATA) };
        let Ok(offset) = u64::try_from(at) else { break };
        arena.read_exact_at(&mut page, offset)?;
        let windows = page.windows(head.len()).zip(offset..);
        found.extend(windows.filter(|(there, _)| *there == head).map(|(_, at)| at));
        at += 4096;
    }
    match *found {
        [one] => Ok(one),
        _ => Err(format!("the object is at {} places of the arena", found.len()).into()),
    }
}

/// The error with which a child's call ended.
fn ended(child: libc::pid_t) -> Result<(), Errno> {
    let start = Instant::now();
    loop {
        if let Some(status) = ipc::try_wait(child) {
            let code = libc::WEXITSTATUS(status);
            return if libc::WIFEXITED(status) && code == 0 { Ok(()) } else { Err(code) };
        }
        if start.elapsed() > PATIENCE {
            ipc::kill(child, libc::SIGKILL);
            ipc::wait(child);
            return Err(libc::ETIMEDOUT);
        }
        thread::sleep(Duration::from_millis(1));
    }
}

enum Object {
    Queue(i32),
    Set(i32),
    Mq(i32),
}

impl Object {
    /// With something to take.
    fn new(name: &str) -> Result<Object, Box<dyn Error>> {
        let named = |error| {
            format!("a new {name} with something in it: {}", std::io::Error::from_raw_os_error(error))
        };
        let flags = libc::IPC_CREAT | libc::IPC_EXCL | 0o600;
        let object = match name {
            "queue" => Object::Queue(ipc::msgget(KEY, flags).map_err(named)?),
            "POSIX queue" => {
                let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR;
                Object::Mq(ipc::mq_open(NAME, flags, ROOM.into(), LENGTH.into()).map_err(named)?)
            }
            _ => Object::Set(ipc::semget(KEY, 2, flags).map_err(named)?),
        };
        object.give().map_err(named)?;
        Ok(object)
    }

    /// Where it is in the arena: its key, behind its id and its state, or what a POSIX queue has and has room for.
    fn find(&self, arena: &File) -> Result<u64, Box<dyn Error>> {
        const LIVE: i32 = 1;
        match *self {
            Object::Queue(id) | Object::Set(id) => Ok(find(arena, [id, LIVE, KEY])? + 8),
            Object::Mq(_) => find(arena, [ROOM, ROOM, LENGTH]),
        }
    }

    /// What calls say of an object that is not there.
    fn unknown(&self) -> Errno {
        match self {
            Object::Queue(_) | Object::Set(_) => libc::EINVAL,
            Object::Mq(_) => libc::EBADF,
        }
    }

    fn give(&self) -> Result<(), Errno> {
        match *self {
            Object::Queue(id) => ipc::msgsnd(id, &Message::new(), 100, libc::IPC_NOWAIT),
            Object::Set(id) => ipc::semop(id, &mut [op(0, 1, libc::IPC_NOWAIT)]),
            Object::Mq(fd) => ipc::mq_send(fd, &Message::new(), 100),
        }
    }

    fn take(&self) -> Result<(), Errno> {
        match *self {
            Object::Queue(id) => {
                ipc::msgrcv(id, &mut Message::new(), ipc::TEXT_SIZE, 0, libc::IPC_NOWAIT).map(drop)
            }
            Object::Set(id) => ipc::semop(id, &mut [op(0, -1, libc::IPC_NOWAIT)]),
            Object::Mq(fd) => ipc::mq_timedreceive(fd, &mut Message::new(), 0).map(drop),
        }
    }

    /// Sleeps for what never comes.
    fn sleep(&self) -> Result<(), Errno> {
        match *self {
            Object::Queue(id) => ipc::msgrcv(id, &mut Message::new(), ipc::TEXT_SIZE, 77, 0).map(drop),
            Object::Set(id) => ipc::semop(id, &mut [op(1, -1, 0)]),
            // What has come from `new`, and one more, fill it.
            Object::Mq(_) => self.give().and_then(|()| self.give()),
        }
    }

    /// Until a child sleeps. A queue doesn't tell: its sleeper is given time.
    fn await_sleeper(&self) -> Result<(), Box<dyn Error>> {
        let Object::Set(id) = *self else {
            thread::sleep(Duration::from_millis(200));
            return Ok(());
        };
        let start = Instant::now();
        while ipc::sem_query(id, 1, libc::GETNCNT) != Ok(1) {
            if start.elapsed() > PATIENCE {
                return Err("the child does not sleep".into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn stat(&self) -> Result<(), Errno> {
        match *self {
            Object::Queue(id) => ipc::msg_stat(id).map(drop),
            Object::Set(id) => ipc::sem_query(id, 0, libc::GETVAL).map(drop),
            Object::Mq(fd) => ipc::mq_attributes(fd).map(drop),
        }
    }

    fn remove(&self) -> Result<(), Errno> {
        match *self {
            Object::Queue(id) => ipc::msg_remove(id),
            Object::Set(id) => ipc::sem_remove(id),
            // A poisoned one has lost its name, and ends with its last descriptor.
            Object::Mq(fd) => match ipc::mq_unlink(NAME) {
                Ok(()) | Err(libc::ENOENT) => ipc::mq_close(fd),
                failed => failed,
            },
        }
    }
}
