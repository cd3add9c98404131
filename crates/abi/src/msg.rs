//! Message queues (`<linux/msg.h>`).

use crate::ipc::Ipc64Perm;

/// Truncate a message that is too long instead of failing.
pub const MSG_NOERROR: i32 = 0o10000;
/// Receive any message but those of the type.
pub const MSG_EXCEPT: i32 = 0o20000;
/// Copy the message at a position instead of taking one.
pub const MSG_COPY: i32 = 0o40000;

/// `IPC_STAT` by index.
pub const MSG_STAT: i32 = 11;
/// Use of the namespace's resources.
pub const MSG_INFO: i32 = 12;
/// `MSG_STAT` without permission check.
pub const MSG_STAT_ANY: i32 = 13;

/// Default most queues.
pub const MSGMNI: i32 = 32000;
/// Default largest message, bytes.
pub const MSGMAX: i32 = 8192;
/// Default bytes of a new queue.
pub const MSGMNB: i32 = 16384;
/// Constant of `IPC_INFO`.
pub const MSGPOOL: i32 = 512_000;
/// Constant of `IPC_INFO`.
pub const MSGTQL: i32 = MSGMNB;
/// Constant of `IPC_INFO`.
pub const MSGMAP: i32 = MSGMNB;
/// Constant of `IPC_INFO`.
pub const MSGSSZ: i32 = 16;
/// Constant of `IPC_INFO`.
pub const MSGSEG: u16 = 0xffff;

crate::plain::plain! {
    /// `struct msqid64_ds`.
    pub struct Msqid64Ds {
        /// Owner, mode and key.
        pub msg_perm: Ipc64Perm,
        /// Seconds of the last `msgsnd`, 0 if none.
        pub msg_stime: i64,
        /// Seconds of the last `msgrcv`, 0 if none.
        pub msg_rtime: i64,
        /// Seconds of creation or the last `IPC_SET`.
        pub msg_ctime: i64,
        /// Bytes queued.
        pub msg_cbytes: u64,
        /// Messages queued.
        pub msg_qnum: u64,
        /// Most bytes, and most messages.
        pub msg_qbytes: u64,
        /// Process of the last `msgsnd`.
        pub msg_lspid: i32,
        /// Process of the last `msgrcv`.
        pub msg_lrpid: i32,
        #[doc(hidden)]
        pub unused: [u64; 2],
    }
}
const _: () = assert!(size_of::<Msqid64Ds>() == 120);

crate::plain::plain! {
    /// `struct msginfo`.
    pub struct MsgInfo {
        /// `IPC_INFO`: a constant; `MSG_INFO`: queues in use.
        pub msgpool: i32,
        /// `IPC_INFO`: a constant; `MSG_INFO`: messages queued in the namespace.
        pub msgmap: i32,
        /// Largest message, bytes.
        pub msgmax: i32,
        /// Bytes of a new queue.
        pub msgmnb: i32,
        /// Most queues.
        pub msgmni: i32,
        /// A constant.
        pub msgssz: i32,
        /// `IPC_INFO`: a constant; `MSG_INFO`: bytes queued in the namespace.
        pub msgtql: i32,
        /// A constant.
        pub msgseg: u16,
        #[doc(hidden)]
        pub pad: u16,
    }
}
const _: () = assert!(size_of::<MsgInfo>() == 32);
