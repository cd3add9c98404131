//! Calls as plain data.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::name;

/// Where a pointer argument points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Ptr {
    /// Memory that can be read and written.
    Valid,
    /// The null pointer.
    Null,
    /// A page without any access.
    Bad,
    /// An address that no program can have.
    Wild,
    /// Memory that can only be read.
    ReadOnly,
    /// The last so many bytes before a page without any access.
    Straddle(usize),
}

/// The text of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Text {
    /// These bytes.
    Bytes(Vec<u8>),
    /// So many bytes that depend on the seed.
    Pattern {
        /// Tells texts of the same length apart.
        seed: u32,
        /// Bytes.
        len: usize,
    },
}

impl Text {
    /// The bytes themselves.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Text::Bytes(bytes) => bytes.clone(),
            Text::Pattern { seed, len } => (0..*len as u32).map(|i| pattern(*seed, i)).collect(),
        }
    }

    /// Number of bytes.
    #[expect(clippy::len_without_is_empty, reason = "the length of an argument, not of a container")]
    pub fn len(&self) -> usize {
        match self {
            Text::Bytes(bytes) => bytes.len(),
            Text::Pattern { len, .. } => *len,
        }
    }
}

fn pattern(seed: u32, index: u32) -> u8 {
    (seed.wrapping_mul(0x9e37_79b9).wrapping_add(index.wrapping_mul(0x85eb_ca6b)) >> 24) as u8
}

/// `struct sembuf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SemBuf {
    /// Which semaphore of the set.
    pub num: u16,
    /// What to add, or 0 to wait for zero.
    pub op: i16,
    /// `IPC_NOWAIT`, `SEM_UNDO`.
    pub flags: i16,
}

/// The timeout of `semtimedop`, and of a POSIX queue's calls: relative. (Those take a time until when, which is made of it when the call is
/// made; what is no time of day stays as it is.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeout {
    /// Where the structure is; [`Ptr::Null`] waits for ever.
    pub ptr: Ptr,
    /// Seconds.
    pub sec: i64,
    /// Nanoseconds.
    pub nsec: i64,
}

/// The attributes that a POSIX queue is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueSize {
    /// Where the structure is.
    pub ptr: Ptr,
    /// Most messages.
    pub maxmsg: i64,
    /// Longest message, bytes.
    pub msgsize: i64,
}

/// How `mq_notify` is to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Where the structure is.
    pub ptr: Ptr,
    /// `SIGEV_*`.
    pub notify: i32,
    /// The signal: [`NOTICE`](crate::NOTICE), or none.
    pub signo: i32,
    /// What the signal brings.
    pub value: u64,
}

/// What `IPC_SET` sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Mode.
    pub mode: u32,
    /// Most bytes, of a message queue.
    pub qbytes: u64,
}

/// The last argument of `msgctl`, `semctl` and `shmctl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Arg {
    /// A number, such as SETVAL's.
    Int(i64),
    /// A buffer to be filled.
    Buf(Ptr),
    /// The structure that `IPC_SET` reads.
    Set(Ptr, Set),
    /// The array that `SETALL` reads.
    Values(Ptr, Vec<u16>),
}

/// A call of one task. `I` is how an object is named: by its id, or by a test's own symbol. A POSIX queue is named by its descriptor; those of
/// a process are counted from 0, whatever else it has open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are the arguments that the man pages name")]
pub enum Call<I = i32> {
    Msgget {
        key: i32,
        flags: i32,
    },
    Msgsnd {
        id: I,
        ptr: Ptr,
        mtype: i64,
        text: Text,
        size: i64,
        flags: i32,
    },
    Msgrcv {
        id: I,
        ptr: Ptr,
        size: i64,
        mtype: i64,
        flags: i32,
    },
    Msgctl {
        id: I,
        cmd: i32,
        arg: Arg,
    },
    Semget {
        key: i32,
        nsems: i32,
        flags: i32,
    },
    Semop {
        id: I,
        ptr: Ptr,
        ops: Vec<SemBuf>,
        count: u64,
    },
    Semtimedop {
        id: I,
        ptr: Ptr,
        ops: Vec<SemBuf>,
        count: u64,
        timeout: Timeout,
    },
    Semctl {
        id: I,
        num: i32,
        cmd: i32,
        arg: Arg,
    },
    Shmget {
        key: i32,
        size: u64,
        flags: i32,
    },
    /// At an address of the [`arena`](crate::ARENA), or at 0: then `ret` is 1, and so may the address of `Shmdt` be.
    Shmat {
        id: I,
        addr: u64,
        flags: i32,
    },
    Shmdt {
        addr: u64,
    },
    Shmctl {
        id: I,
        cmd: i32,
        arg: Arg,
    },
    /// Of a range of the [`arena`](crate::ARENA).
    Munmap {
        addr: u64,
        len: u64,
    },
    /// Reads the byte at an address, by a call that gives EFAULT where there is none.
    Peek {
        addr: u64,
    },
    /// Writes the byte at an address, likewise.
    Poke {
        addr: u64,
        value: u8,
    },
    /// The name is without its slash; where it is elsewhere than at [`Ptr::Valid`], the call is made by syscall(2), as libc looks at it.
    MqOpen {
        ptr: Ptr,
        name: String,
        oflag: i32,
        mode: u32,
        attr: Option<QueueSize>,
    },
    /// Likewise.
    MqUnlink {
        ptr: Ptr,
        name: String,
    },
    MqTimedsend {
        fd: I,
        ptr: Ptr,
        text: Text,
        len: u64,
        prio: u32,
        timeout: Timeout,
    },
    MqTimedreceive {
        fd: I,
        ptr: Ptr,
        len: u64,
        prio: Ptr,
        timeout: Timeout,
    },
    /// Where the structure is elsewhere than at [`Ptr::Valid`], by syscall(2).
    MqNotify {
        fd: I,
        event: Option<Event>,
    },
    /// `flags`: where the new attributes are, and their flags.
    MqGetsetattr {
        fd: I,
        flags: Option<(Ptr, i64)>,
        old: Ptr,
    },
    /// Of a POSIX queue's descriptor.
    Close {
        fd: I,
    },
    /// Of a POSIX queue's descriptor; the new one is closed by exec too.
    Dup {
        fd: I,
    },
    /// Asks for all events of a POSIX queue's descriptor, without waiting; `ret` is those there are.
    Poll {
        fd: I,
    },
    /// Takes a [`NOTICE`](crate::NOTICE) that has come to the process; `EAGAIN` if there is none.
    TakeNotice,
    /// `ret` is the mask before.
    Umask {
        mask: u32,
    },
    /// A child process; `ret` is its [`TaskId`](crate::TaskId).
    Fork,
    /// A thread of the same process; `ret` is its [`TaskId`](crate::TaskId).
    SpawnThread,
    /// The task's whole process ends.
    Exit,
    /// The task, a thread that is not its process's first, ends.
    ExitThread,
    /// The process executes the worker's program anew and stays the same task.
    Exec,
    /// Effective ids and supplementary groups of the process; wants a real uid of 0.
    SetIds {
        euid: u32,
        egid: u32,
        groups: Vec<u32>,
    },
    /// The process becomes another user for good; wants a uid of 0 and one thread.
    BecomeUser {
        uid: u32,
        gid: u32,
        groups: Vec<u32>,
    },
    /// Installs a handler that only counts; `ret` is how often it has run since the process began.
    Handler {
        signal: i32,
        restart: bool,
    },
    /// Writes a limit of the namespace, as sysctl(8) names it.
    WriteSysctl {
        name: String,
        value: String,
    },
    /// Reads a file, such as those of /proc that show the namespace.
    ReadFile {
        path: String,
    },
}

/// Short ways to write the usual call: valid pointers, true lengths.
impl<I> Call<I> {
    /// A message of these bytes.
    pub fn msgsnd(id: I, mtype: i64, text: &[u8], flags: i32) -> Self {
        let (size, text) = (text.len() as i64, Text::Bytes(text.to_vec()));
        Call::Msgsnd { id, ptr: Ptr::Valid, mtype, text, size, flags }
    }

    /// Into a buffer of `size` bytes.
    pub fn msgrcv(id: I, size: i64, mtype: i64, flags: i32) -> Self {
        Call::Msgrcv { id, ptr: Ptr::Valid, size, mtype, flags }
    }

    /// A command that fills a buffer, or ignores it.
    pub fn msgctl(id: I, cmd: i32) -> Self {
        Call::Msgctl { id, cmd, arg: Arg::Buf(Ptr::Valid) }
    }

    /// `(number, operation, flags)` each.
    pub fn semop(id: I, ops: &[(u16, i16, i16)]) -> Self {
        let ops: Vec<_> = ops.iter().map(|&(num, op, flags)| SemBuf { num, op, flags }).collect();
        Call::Semop { id, ptr: Ptr::Valid, count: ops.len() as u64, ops }
    }

    /// With a timeout.
    pub fn semtimedop(id: I, ops: &[(u16, i16, i16)], timeout: std::time::Duration) -> Self {
        let ops: Vec<_> = ops.iter().map(|&(num, op, flags)| SemBuf { num, op, flags }).collect();
        let (sec, nsec) = (timeout.as_secs() as i64, i64::from(timeout.subsec_nanos()));
        let timeout = Timeout { ptr: Ptr::Valid, sec, nsec };
        Call::Semtimedop { id, ptr: Ptr::Valid, count: ops.len() as u64, ops, timeout }
    }

    /// A command that fills a buffer, or ignores it.
    pub fn semctl(id: I, num: i32, cmd: i32) -> Self {
        Call::Semctl { id, num, cmd, arg: Arg::Buf(Ptr::Valid) }
    }

    /// A command that takes a number.
    pub fn semctl_int(id: I, num: i32, cmd: i32, value: i64) -> Self {
        Call::Semctl { id, num, cmd, arg: Arg::Int(value) }
    }

    /// Does it name a POSIX queue, by a descriptor?
    pub fn takes_descriptor(&self) -> bool {
        matches!(
            self,
            Call::MqTimedsend { .. }
                | Call::MqTimedreceive { .. }
                | Call::MqNotify { .. }
                | Call::MqGetsetattr { .. }
                | Call::Close { .. }
                | Call::Dup { .. }
                | Call::Poll { .. }
        )
    }

    /// The same call, its object named in another way.
    pub fn map_id<J>(self, f: impl FnOnce(I) -> J) -> Call<J> {
        match self {
            Call::Msgget { key, flags } => Call::Msgget { key, flags },
            Call::Msgsnd { id, ptr, mtype, text, size, flags } => {
                Call::Msgsnd { id: f(id), ptr, mtype, text, size, flags }
            }
            Call::Msgrcv { id, ptr, size, mtype, flags } => {
                Call::Msgrcv { id: f(id), ptr, size, mtype, flags }
            }
            Call::Msgctl { id, cmd, arg } => Call::Msgctl { id: f(id), cmd, arg },
            Call::Semget { key, nsems, flags } => Call::Semget { key, nsems, flags },
            Call::Semop { id, ptr, ops, count } => Call::Semop { id: f(id), ptr, ops, count },
            Call::Semtimedop { id, ptr, ops, count, timeout } => {
                Call::Semtimedop { id: f(id), ptr, ops, count, timeout }
            }
            Call::Semctl { id, num, cmd, arg } => Call::Semctl { id: f(id), num, cmd, arg },
            Call::Shmget { key, size, flags } => Call::Shmget { key, size, flags },
            Call::Shmat { id, addr, flags } => Call::Shmat { id: f(id), addr, flags },
            Call::Shmdt { addr } => Call::Shmdt { addr },
            Call::Shmctl { id, cmd, arg } => Call::Shmctl { id: f(id), cmd, arg },
            Call::Munmap { addr, len } => Call::Munmap { addr, len },
            Call::Peek { addr } => Call::Peek { addr },
            Call::Poke { addr, value } => Call::Poke { addr, value },
            Call::MqOpen { ptr, name, oflag, mode, attr } => Call::MqOpen { ptr, name, oflag, mode, attr },
            Call::MqUnlink { ptr, name } => Call::MqUnlink { ptr, name },
            Call::MqTimedsend { fd, ptr, text, len, prio, timeout } => {
                Call::MqTimedsend { fd: f(fd), ptr, text, len, prio, timeout }
            }
            Call::MqTimedreceive { fd, ptr, len, prio, timeout } => {
                Call::MqTimedreceive { fd: f(fd), ptr, len, prio, timeout }
            }
            Call::MqNotify { fd, event } => Call::MqNotify { fd: f(fd), event },
            Call::MqGetsetattr { fd, flags, old } => Call::MqGetsetattr { fd: f(fd), flags, old },
            Call::Close { fd } => Call::Close { fd: f(fd) },
            Call::Dup { fd } => Call::Dup { fd: f(fd) },
            Call::Poll { fd } => Call::Poll { fd: f(fd) },
            Call::TakeNotice => Call::TakeNotice,
            Call::Umask { mask } => Call::Umask { mask },
            Call::Fork => Call::Fork,
            Call::SpawnThread => Call::SpawnThread,
            Call::Exit => Call::Exit,
            Call::ExitThread => Call::ExitThread,
            Call::Exec => Call::Exec,
            Call::SetIds { euid, egid, groups } => Call::SetIds { euid, egid, groups },
            Call::BecomeUser { uid, gid, groups } => Call::BecomeUser { uid, gid, groups },
            Call::Handler { signal, restart } => Call::Handler { signal, restart },
            Call::WriteSysctl { name, value } => Call::WriteSysctl { name, value },
            Call::ReadFile { path } => Call::ReadFile { path },
        }
    }
}

impl fmt::Display for Ptr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ptr::Valid => f.write_str("buf"),
            Ptr::Null => f.write_str("NULL"),
            Ptr::Bad => f.write_str("BAD"),
            Ptr::Wild => f.write_str("WILD"),
            Ptr::ReadOnly => f.write_str("READONLY"),
            Ptr::Straddle(bytes) => write!(f, "END-{bytes}"),
        }
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Text::Bytes(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
            Text::Pattern { seed, len } => write!(f, "text {seed} of {len}"),
        }
    }
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Timeout { ptr, sec, nsec } = self;
        write!(f, "{ptr} {{{sec} s, {nsec} ns}}")
    }
}

/// A queue's name, at its place.
struct QueueName<'a>(Ptr, &'a str);

impl fmt::Display for QueueName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QueueName(Ptr::Valid, name) => write!(f, "\"/{name}\""),
            QueueName(ptr, name) => write!(f, "{ptr} \"{name}\""),
        }
    }
}

/// An array of semaphore operations, with all that is unusual about it.
struct Ops<'a>(Ptr, &'a [SemBuf], u64);

impl fmt::Display for Ops<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ops(ptr, ops, count) = self;
        f.write_str("[")?;
        for (i, SemBuf { num, op, flags }) in ops.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{{{num}, {op:+}, {}}}", name::sem_flags(*flags))?;
        }
        f.write_str("]")?;
        if *ptr != Ptr::Valid {
            write!(f, " at {ptr}")?;
        }
        if *count != ops.len() as u64 { write!(f, ", {count} of them") } else { Ok(()) }
    }
}

impl fmt::Display for Arg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Arg::Int(value) => write!(f, "{value}"),
            Arg::Buf(ptr) => write!(f, "{ptr}"),
            Arg::Set(ptr, Set { uid, gid, mode, qbytes }) => {
                write!(f, "{ptr} {{uid {uid}, gid {gid}, mode 0{mode:o}, qbytes {qbytes}}}")
            }
            Arg::Values(ptr, values) => write!(f, "{ptr} {values:?}"),
        }
    }
}

impl<I: fmt::Display> fmt::Display for Call<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Call::Msgget { key, flags } => write!(f, "msgget({key}, {})", name::get_flags(*flags)),
            Call::Msgsnd { id, ptr, mtype, text, size, flags } => {
                write!(f, "msgsnd({id}, {ptr} {{{mtype}, {text}}}, {size}, {})", name::msg_flags(*flags))
            }
            Call::Msgrcv { id, ptr, size, mtype, flags } => {
                write!(f, "msgrcv({id}, {ptr}, {size}, {mtype}, {})", name::msg_flags(*flags))
            }
            Call::Msgctl { id, cmd, arg } => write!(f, "msgctl({id}, {}, {arg})", name::msg_cmd(*cmd)),
            Call::Semget { key, nsems, flags } => {
                write!(f, "semget({key}, {nsems}, {})", name::get_flags(*flags))
            }
            Call::Semop { id, ptr, ops, count } => write!(f, "semop({id}, {})", Ops(*ptr, ops, *count)),
            Call::Semtimedop { id, ptr, ops, count, timeout } => {
                write!(f, "semtimedop({id}, {}, {timeout})", Ops(*ptr, ops, *count))
            }
            Call::Semctl { id, num, cmd, arg } => {
                write!(f, "semctl({id}, {num}, {}, {arg})", name::sem_cmd(*cmd))
            }
            Call::Shmget { key, size, flags } => {
                write!(f, "shmget({key}, {size:#x}, {})", name::get_flags(*flags))
            }
            Call::Shmat { id, addr, flags } => {
                write!(f, "shmat({id}, {addr:#x}, {})", name::shmat_flags(*flags))
            }
            Call::Shmdt { addr } => write!(f, "shmdt({addr:#x})"),
            Call::Shmctl { id, cmd, arg } => write!(f, "shmctl({id}, {}, {arg})", name::shm_cmd(*cmd)),
            Call::Munmap { addr, len } => write!(f, "munmap({addr:#x}, {len:#x})"),
            Call::Peek { addr } => write!(f, "read of {addr:#x}"),
            Call::Poke { addr, value } => write!(f, "write of {value} to {addr:#x}"),
            Call::MqOpen { ptr, name, oflag, mode, attr } => {
                write!(f, "mq_open({}, {}, {mode:#o}, ", QueueName(*ptr, name), name::open_flags(*oflag))?;
                match attr {
                    Some(QueueSize { ptr, maxmsg, msgsize }) => {
                        write!(f, "{ptr} {{{maxmsg} messages of {msgsize}}})")
                    }
                    None => f.write_str("NULL)"),
                }
            }
            Call::MqUnlink { ptr, name } => write!(f, "mq_unlink({})", QueueName(*ptr, name)),
            Call::MqTimedsend { fd, ptr, text, len, prio, timeout } => {
                write!(f, "mq_timedsend({fd}, {ptr} {{{text}}}, {len}, {prio}, now + {timeout})")
            }
            Call::MqTimedreceive { fd, ptr, len, prio, timeout } => {
                write!(f, "mq_timedreceive({fd}, {ptr}, {len}, {prio}, now + {timeout})")
            }
            Call::MqNotify { fd, event: None } => write!(f, "mq_notify({fd}, NULL)"),
            Call::MqNotify { fd, event: Some(Event { ptr, notify, signo, value }) } => {
                write!(f, "mq_notify({fd}, {ptr} {{kind {notify}, signal {signo}, value {value}}})")
            }
            Call::MqGetsetattr { fd, flags: None, old } => write!(f, "mq_getsetattr({fd}, NULL, {old})"),
            Call::MqGetsetattr { fd, flags: Some((ptr, flags)), old } => {
                write!(f, "mq_getsetattr({fd}, {ptr} {{flags {flags:#o}}}, {old})")
            }
            Call::Close { fd } => write!(f, "close({fd})"),
            Call::Dup { fd } => write!(f, "dup({fd})"),
            Call::Poll { fd } => write!(f, "poll({fd})"),
            Call::TakeNotice => f.write_str("sigtimedwait(NOTICE, 0)"),
            Call::Umask { mask } => write!(f, "umask({mask:#o})"),
            Call::Fork => f.write_str("fork()"),
            Call::SpawnThread => f.write_str("pthread_create()"),
            Call::Exit => f.write_str("_exit(0)"),
            Call::ExitThread => f.write_str("pthread_exit()"),
            Call::Exec => f.write_str("execve(itself)"),
            Call::SetIds { euid, egid, groups } => {
                write!(f, "seteuid({euid}), setegid({egid}), setgroups({groups:?})")
            }
            Call::BecomeUser { uid, gid, groups } => {
                write!(f, "setgroups({groups:?}), setresgid({gid}), setresuid({uid})")
            }
            Call::Handler { signal, restart } => {
                write!(f, "sigaction({signal}, handler{})", if *restart { ", SA_RESTART" } else { "" })
            }
            Call::WriteSysctl { name, value } => write!(f, "sysctl {name}='{value}'"),
            Call::ReadFile { path } => write!(f, "cat {path}"),
        }
    }
}
