//! What a call gives back.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::name;

/// The outcome of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// What the call returned.
    pub ret: i64,
    /// `errno` if it returned -1, else 0.
    pub errno: i32,
    /// What it wrote.
    pub data: Data,
}

impl Reply {
    /// The return value of a call that is expected to succeed.
    ///
    /// # Panics
    /// Says the errno if it failed.
    #[track_caller]
    pub fn ok(&self) -> i64 {
        assert!(self.errno == 0, "expected success, got {self}");
        self.ret
    }

    /// As [`Reply::ok`], an object's id.
    #[track_caller]
    pub fn id(&self) -> i32 {
        i32::try_from(self.ok()).expect("ids are ints")
    }
}

/// What a call wrote to the caller's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the variants are the structures that the man pages name")]
pub enum Data {
    None,
    Message {
        mtype: i64,
        text: Vec<u8>,
    },
    MsgStat(MsgStat),
    MsgInfo(MsgInfo),
    SemStat(SemStat),
    SemInfo(SemInfo),
    ShmStat(ShmStat),
    ShmInfo(ShmInfo),
    ShmLimits(ShmLimits),
    Values(Vec<u16>),
    QueueAttr(QueueAttr),
    Notice(Notice),
    Text(String),
    /// The call wrote where it should not have: behind the message, or although it failed.
    Scribbled,
}

/// `struct ipc_perm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named by the man pages")]
pub struct Perm {
    pub key: i32,
    pub uid: u32,
    pub gid: u32,
    pub cuid: u32,
    pub cgid: u32,
    pub mode: u32,
    pub seq: u32,
}

/// `struct msqid_ds`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named by the man pages")]
pub struct MsgStat {
    pub perm: Perm,
    pub stime: i64,
    pub rtime: i64,
    pub ctime: i64,
    pub cbytes: u64,
    pub qnum: u64,
    pub qbytes: u64,
    pub lspid: i32,
    pub lrpid: i32,
}

/// `struct semid_ds`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named by the man pages")]
pub struct SemStat {
    pub perm: Perm,
    pub otime: i64,
    pub ctime: i64,
    pub nsems: u64,
}

/// `struct shmid_ds`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named by the man pages")]
pub struct ShmStat {
    pub perm: Perm,
    pub segsz: u64,
    pub atime: i64,
    pub dtime: i64,
    pub ctime: i64,
    pub cpid: i32,
    pub lpid: i32,
    pub nattch: u64,
}

/// `struct shm_info`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named by the man pages")]
pub struct ShmInfo {
    pub used_ids: i32,
    pub pad: i32,
    pub shm_tot: u64,
    pub shm_rss: u64,
    pub shm_swp: u64,
    pub swap_attempts: u64,
    pub swap_successes: u64,
}

/// `struct shminfo`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named by the man pages")]
pub struct ShmLimits {
    pub shmmax: u64,
    pub shmmin: u64,
    pub shmmni: u64,
    pub shmseg: u64,
    pub shmall: u64,
    pub unused: [u64; 4],
}

/// `struct msginfo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named by the man pages")]
pub struct MsgInfo {
    pub msgpool: i32,
    pub msgmap: i32,
    pub msgmax: i32,
    pub msgmnb: i32,
    pub msgmni: i32,
    pub msgssz: i32,
    pub msgtql: i32,
    pub msgseg: u16,
}

/// `struct seminfo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named by the man pages")]
pub struct SemInfo {
    pub semmap: i32,
    pub semmni: i32,
    pub semmns: i32,
    pub semmnu: i32,
    pub semmsl: i32,
    pub semopm: i32,
    pub semume: i32,
    pub semusz: i32,
    pub semvmx: i32,
    pub semaem: i32,
}

/// `struct mq_attr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named by the man pages")]
pub struct QueueAttr {
    pub flags: i64,
    pub maxmsg: i64,
    pub msgsize: i64,
    pub curmsgs: i64,
}

/// What a signal of a POSIX queue brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named by the man pages")]
pub struct Notice {
    pub code: i32,
    pub pid: i32,
    pub uid: u32,
    pub value: u64,
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.errno == 0 {
            write!(f, "{}", self.ret)?;
        } else {
            write!(f, "{} {}", self.ret, name::errno(self.errno))?;
        }
        match &self.data {
            Data::None => Ok(()),
            Data::Text(text) => write!(f, "\n{text}"),
            Data::Message { mtype, text } if text.len() > 24 => {
                write!(f, " {{{mtype}, {} bytes \"{}\"...}}", text.len(), text[..16].escape_ascii())
            }
            Data::Message { mtype, text } => write!(f, " {{{mtype}, \"{}\"}}", text.escape_ascii()),
            other => write!(f, " {other:?}"),
        }
    }
}
