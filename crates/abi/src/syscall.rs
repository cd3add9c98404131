//! System call numbers of x86-64 that the doors serve.

/// `shmget`.
pub const SHMGET: i64 = 29;
/// `shmat`.
pub const SHMAT: i64 = 30;
/// `shmctl`.
pub const SHMCTL: i64 = 31;
/// `semget`.
pub const SEMGET: i64 = 64;
/// `semop`.
pub const SEMOP: i64 = 65;
/// `semctl`.
pub const SEMCTL: i64 = 66;
/// `shmdt`.
pub const SHMDT: i64 = 67;
/// `msgget`.
pub const MSGGET: i64 = 68;
/// `msgsnd`.
pub const MSGSND: i64 = 69;
/// `msgrcv`.
pub const MSGRCV: i64 = 70;
/// `msgctl`.
pub const MSGCTL: i64 = 71;
/// Whether it is a call of POSIX queues.
pub const fn is_mq(number: i64) -> bool {
    matches!(number, MQ_OPEN..=MQ_GETSETATTR)
}

/// `mq_open`.
pub const MQ_OPEN: i64 = 240;
/// `mq_unlink`.
pub const MQ_UNLINK: i64 = 241;
/// `mq_timedsend`.
pub const MQ_TIMEDSEND: i64 = 242;
/// `mq_timedreceive`.
pub const MQ_TIMEDRECEIVE: i64 = 243;
/// `mq_notify`.
pub const MQ_NOTIFY: i64 = 244;
/// `mq_getsetattr`.
pub const MQ_GETSETATTR: i64 = 245;
/// `semtimedop`.
pub const SEMTIMEDOP: i64 = 220;
/// `rt_sigaction(2)`.
pub const RT_SIGACTION: i64 = 13;
/// `rt_sigprocmask(2)`.
pub const RT_SIGPROCMASK: i64 = 14;
/// `munmap`.
pub const MUNMAP: i64 = 11;
/// `mmap`.
pub const MMAP: i64 = 9;
/// `mremap`.
pub const MREMAP: i64 = 25;
