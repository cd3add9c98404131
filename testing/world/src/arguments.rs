//! From a call to the system call that it is, and from what that has done to a reply.
//!
//! # Safety
//! The structures that are read from bytes and turned into bytes consist of integers.

use std::ffi::c_long;
use std::ptr;
use std::time::Duration;

use crate::name::{MSG_STAT_ANY, SEM_STAT_ANY, SHM_INFO, SHM_STAT, SHM_STAT_ANY};
use crate::{Arg, Call, Data, MsgInfo, MsgStat, Perm, Ptr, Reply, SemBuf, SemInfo, SemStat, Timeout};
use crate::{Event, QueueAttr, QueueSize, ShmInfo, ShmLimits, ShmStat};

/// Bytes that a valid pointer points to; behind them nothing can be accessed.
pub(crate) const CAPACITY: usize = 1 << 20;
/// Not a canonical address of user space.
pub(crate) const WILD: u64 = 0xdead_0000_0000_0000;

/// A task's memory behind the pointers of its calls.
pub(crate) trait Buffers {
    /// Puts `bytes` to where `ptr` points, as many as can be there, and gives the address.
    fn place(&mut self, ptr: Ptr, bytes: &[u8]) -> u64;
    /// The same, for the second pointer of a call.
    fn place_second(&mut self, ptr: Ptr, bytes: &[u8]) -> u64;
    /// Fills the first bytes of the valid area.
    fn fill(&mut self, byte: u8, length: usize);
    /// The first bytes of the valid area.
    fn read(&self, length: usize) -> Vec<u8>;
    /// The first bytes of the second pointer's.
    fn read_second(&self, length: usize) -> Vec<u8>;
    /// The time of day, since 1970.
    fn time(&self) -> Duration;
}

/// A system call: its number and its registers.
pub(crate) type SystemCall = (c_long, [u64; 6]);

/// Prepares the memory for a call; its descriptor is the real one. None for what is no call of System V or of POSIX queues.
pub(crate) fn encode(buffers: &mut impl Buffers, call: &Call) -> Option<SystemCall> {
    let int = |value: i32| i64::from(value).cast_unsigned();
    Some(match call {
        Call::Msgget { key, flags } => (libc::SYS_msgget, [int(*key), int(*flags), 0, 0, 0, 0]),
        Call::Msgsnd { id, ptr, mtype, text, size, flags } => {
            let at = place_message(buffers, *ptr, *mtype, &text.bytes(), *size);
            (libc::SYS_msgsnd, [int(*id), at, size.cast_unsigned(), int(*flags), 0, 0])
        }
        Call::Msgrcv { id, ptr, size, mtype, flags } => {
            buffers.fill(UNTOUCHED, room(*size) + BEHIND);
            let at = buffers.place(*ptr, &[]);
            let (size, mtype) = (size.cast_unsigned(), mtype.cast_unsigned());
            (libc::SYS_msgrcv, [int(*id), at, size, mtype, int(*flags), 0])
        }
        Call::Msgctl { id, cmd, arg } => {
            buffers.fill(0, size_of::<libc::msqid_ds>());
            let at = argument(buffers, arg, msg_set);
            (libc::SYS_msgctl, [int(*id), int(*cmd), at, 0, 0, 0])
        }
        Call::Semget { key, nsems, flags } => {
            (libc::SYS_semget, [int(*key), int(*nsems), int(*flags), 0, 0, 0])
        }
        Call::Semop { id, ptr, ops, count } => {
            let at = place_operations(buffers, *ptr, ops);
            (libc::SYS_semop, [int(*id), at, *count, 0, 0, 0])
        }
        Call::Semtimedop { id, ptr, ops, count, timeout } => {
            let at = place_operations(buffers, *ptr, ops);
            let Timeout { ptr, sec, nsec } = timeout;
            let time = buffers.place_second(*ptr, &[sec.to_ne_bytes(), nsec.to_ne_bytes()].concat());
            (libc::SYS_semtimedop, [int(*id), at, *count, time, 0, 0])
        }
        Call::Semctl { id, num, cmd, arg } => {
            match *cmd {
                libc::GETALL => buffers.fill(NO_VALUE, VALUES),
                _ => buffers.fill(0, size_of::<libc::semid_ds>()),
            }
            let at = argument(buffers, arg, sem_set);
            (libc::SYS_semctl, [int(*id), int(*num), int(*cmd), at, 0, 0])
        }
        Call::Shmget { key, size, flags } => (libc::SYS_shmget, [int(*key), *size, int(*flags), 0, 0, 0]),
        Call::Shmat { id, addr, flags } => (libc::SYS_shmat, [int(*id), *addr, int(*flags), 0, 0, 0]),
        Call::Shmdt { addr } => (libc::SYS_shmdt, [*addr, 0, 0, 0, 0, 0]),
        Call::Shmctl { id, cmd, arg } => {
            buffers.fill(0, size_of::<libc::shmid_ds>());
            let at = argument(buffers, arg, shm_set);
            (libc::SYS_shmctl, [int(*id), int(*cmd), at, 0, 0, 0])
        }
        Call::MqOpen { ptr, name, oflag, mode, attr } => {
            let at = place_name(buffers, *ptr, name);
            let attr = attr.map_or(0, |QueueSize { ptr, maxmsg, msgsize }| {
                buffers.place_second(ptr, &attributes(0, maxmsg, msgsize))
            });
            (libc::SYS_mq_open, [at, int(*oflag), (*mode).into(), attr, 0, 0])
        }
        Call::MqUnlink { ptr, name } => {
            (libc::SYS_mq_unlink, [place_name(buffers, *ptr, name), 0, 0, 0, 0, 0])
        }
        Call::MqTimedsend { fd, ptr, text, len, prio, timeout } => {
            buffers.fill(0, usize::try_from(*len).unwrap_or(0).min(CAPACITY));
            let text = text.bytes();
            let at = buffers.place(*ptr, &text[..text.len().min(CAPACITY)]);
            let (_, until) = place_time(buffers, timeout);
            (libc::SYS_mq_timedsend, [int(*fd), at, *len, (*prio).into(), until, 0])
        }
        Call::MqTimedreceive { fd, ptr, len, prio, timeout } => {
            buffers.fill(UNTOUCHED, text_room(*len) + BEHIND);
            let at = buffers.place(*ptr, &[]);
            let (behind, until) = place_time(buffers, timeout);
            let prio = if *prio == Ptr::Valid { behind } else { buffers.place_second(*prio, &[]) };
            (libc::SYS_mq_timedreceive, [int(*fd), at, *len, prio, until, 0])
        }
        Call::MqNotify { fd, event } => {
            let at = event.map_or(0, |Event { ptr, notify, signo, value }| {
                let words = [signo, notify].map(i32::to_ne_bytes).concat();
                buffers.place(ptr, &[&value.to_ne_bytes(), &words[..], &[0; 48]].concat())
            });
            (libc::SYS_mq_notify, [int(*fd), at, 0, 0, 0, 0])
        }
        Call::MqGetsetattr { fd, flags, old } => {
            let new = flags.map_or(0, |(ptr, flags)| buffers.place(ptr, &attributes(flags, 1, 1)));
            let old = buffers.place_second(*old, &attributes(0, 0, 0));
            (libc::SYS_mq_getsetattr, [int(*fd), new, old, 0, 0, 0])
        }
        _ => return None,
    })
}

/// The reply of a call that [`encode`] has prepared and that has returned this, or this errno.
pub(crate) fn decode(buffers: &impl Buffers, call: &Call, result: Result<i64, i32>) -> Reply {
    let mut reply = match result {
        Ok(ret) => returned(ret),
        Err(errno) => failed(errno),
    };
    if let Call::Msgrcv { ptr: Ptr::Valid, size, .. } = call {
        let bytes = buffers.read(room(*size) + BEHIND);
        let written = result.map_or(0, |length| 8 + length as usize);
        reply.data = match bytes.get(written..) {
            Some(rest) if rest.iter().all(|&byte| byte == UNTOUCHED) => received(&bytes[..written]),
            _ => Data::Scribbled,
        };
    } else if let Call::MqTimedreceive { ptr: Ptr::Valid, len, prio, .. } = call {
        let bytes = buffers.read(text_room(*len) + BEHIND);
        let written = result.map_or(0, |length| length as usize);
        reply.data = match bytes.get(written..) {
            Some(rest) if !rest.iter().all(|&byte| byte == UNTOUCHED) => Data::Scribbled,
            Some(_) if result.is_ok() => {
                let mtype = if *prio == Ptr::Valid { told_prio(buffers) } else { NO_PRIO };
                Data::Message { mtype, text: bytes[..written].to_vec() }
            }
            Some(_) => Data::None,
            None => Data::Scribbled,
        };
    } else if result.is_ok() {
        reply.data = written(buffers, call);
    }
    reply
}

/// What a call that fills a structure has filled it with.
fn written(buffers: &impl Buffers, call: &Call) -> Data {
    match call {
        Call::Msgctl { cmd, arg: Arg::Buf(Ptr::Valid), .. } => match *cmd {
            libc::IPC_STAT | libc::MSG_STAT | MSG_STAT_ANY => Data::MsgStat(msg_stat(&structure(buffers))),
            libc::IPC_INFO | libc::MSG_INFO => Data::MsgInfo(msg_info(&structure(buffers))),
            _ => Data::None,
        },
        Call::Semctl { cmd, arg: Arg::Buf(Ptr::Valid), .. } => match *cmd {
            libc::IPC_STAT | libc::SEM_STAT | SEM_STAT_ANY => Data::SemStat(sem_stat(&structure(buffers))),
            libc::IPC_INFO | libc::SEM_INFO => Data::SemInfo(sem_info(&structure(buffers))),
            libc::GETALL => Data::Values(values(&buffers.read(VALUES))),
            _ => Data::None,
        },
        Call::Shmctl { cmd, arg: Arg::Buf(Ptr::Valid), .. } => match *cmd {
            libc::IPC_STAT | SHM_STAT | SHM_STAT_ANY => Data::ShmStat(shm_stat(&structure(buffers))),
            libc::IPC_INFO => Data::ShmLimits(structure(buffers)),
            SHM_INFO => Data::ShmInfo(structure(buffers)),
            _ => Data::None,
        },
        Call::MqGetsetattr { old: Ptr::Valid, .. } => {
            let bytes = buffers.read_second(32);
            let (words, _) = bytes.as_chunks::<8>();
            let word = |at: usize| i64::from_ne_bytes(words[at]);
            Data::QueueAttr(QueueAttr { flags: word(0), maxmsg: word(1), msgsize: word(2), curmsgs: word(3) })
        }
        _ => Data::None,
    }
}

/// What an untouched byte of a receiver's buffer is.
const UNTOUCHED: u8 = 0xa5;
/// Bytes behind a receiver's buffer that are watched.
const BEHIND: usize = 16;
/// No semaphore has a value of these bytes, so they tell how far GETALL wrote.
const NO_VALUE: u8 = 0xff;
/// Bytes of the largest set's values, and two more.
const VALUES: usize = 2 * 32000 + 4;

/// Bytes of a receiver's buffer.
fn room(size: i64) -> usize {
    8 + usize::try_from(size).unwrap_or(0).min(CAPACITY - 8 - BEHIND)
}

fn place_message(buffers: &mut impl Buffers, ptr: Ptr, mtype: i64, text: &[u8], size: i64) -> u64 {
    // What the call reads behind a text shorter than its size must not depend on earlier calls.
    buffers.fill(0, usize::try_from(size).unwrap_or(0).min(CAPACITY - 8) + 8);
    let message = [&mtype.to_ne_bytes(), text].concat();
    buffers.place(ptr, &message[..message.len().min(CAPACITY)])
}

/// The name of a POSIX queue as the system call takes it; the slash that libc wants is before it.
fn place_name(buffers: &mut impl Buffers, ptr: Ptr, name: &str) -> u64 {
    match buffers.place(ptr, &[b"/", name.as_bytes(), b"\0"].concat()) {
        0 => 0,
        at => at + 1,
    }
}

/// `struct mq_attr`.
fn attributes(flags: i64, maxmsg: i64, msgsize: i64) -> Vec<u8> {
    [flags, maxmsg, msgsize, 0, 0, 0, 0, 0].map(i64::to_ne_bytes).concat()
}

/// Places the time that a timeout ends at, and gives the address of an int behind it, and its own.
fn place_time(buffers: &mut impl Buffers, timeout: &Timeout) -> (u64, u64) {
    const NO_PRIO_BYTES: [u8; 4] = [0xff; 4];
    let Timeout { ptr, mut sec, mut nsec } = *timeout;
    if sec >= 0 && (0..1_000_000_000).contains(&nsec) {
        let now = buffers.time();
        nsec += i64::from(now.subsec_nanos());
        sec = sec.saturating_add(now.as_secs() as i64).saturating_add(nsec / 1_000_000_000);
        nsec %= 1_000_000_000;
    }
    let time = [sec.to_ne_bytes(), nsec.to_ne_bytes()].concat();
    let behind = buffers.place_second(Ptr::Valid, &[&[0; 16], &NO_PRIO_BYTES[..]].concat()) + 16;
    (behind, buffers.place_second(ptr, &time))
}

/// What a receiver is told that asks for no priority.
const NO_PRIO: i64 = -1;

/// The priority that a receiver was told.
fn told_prio(buffers: &impl Buffers) -> i64 {
    let bytes = buffers.read_second(20);
    bytes.last_chunk().map_or(NO_PRIO, |prio| u32::from_ne_bytes(*prio).into())
}

/// Bytes of the buffer of a POSIX queue's receiver.
fn text_room(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX).min(CAPACITY - BEHIND)
}

fn place_operations(buffers: &mut impl Buffers, ptr: Ptr, ops: &[SemBuf]) -> u64 {
    let bytes: Vec<u8> = ops.iter().flat_map(sembuf).collect();
    buffers.place(ptr, &bytes)
}

/// What the last argument of a `*ctl` call stands for.
fn argument(buffers: &mut impl Buffers, arg: &Arg, set: impl FnOnce(&crate::Set) -> Vec<u8>) -> u64 {
    match arg {
        Arg::Int(value) => value.cast_unsigned(),
        Arg::Buf(ptr) => buffers.place(*ptr, &[]),
        Arg::Set(ptr, values) => buffers.place(*ptr, &set(values)),
        Arg::Values(ptr, values) => {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
            buffers.place(*ptr, &bytes)
        }
    }
}

fn values(bytes: &[u8]) -> Vec<u16> {
    let (pairs, _) = bytes.as_chunks::<2>();
    pairs.iter().map(|pair| u16::from_ne_bytes(*pair)).take_while(|&value| value != u16::MAX).collect()
}

/// What a call wrote to the valid area, as the structure that it is.
fn structure<T: Plain>(buffers: &impl Buffers) -> T {
    let bytes = buffers.read(size_of::<T>());
    // SAFETY: T is made of integers, and there are as many bytes as it has.
    unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
}

/// Structures of nothing but integers, without padding that matters.
///
/// # Safety
/// Every pattern of bits is a value.
unsafe trait Plain {}
// SAFETY: integers only.
unsafe impl Plain for libc::msqid_ds {}
// SAFETY: integers only.
unsafe impl Plain for libc::msginfo {}
// SAFETY: integers only.
unsafe impl Plain for libc::shmid_ds {}
// SAFETY: integers only.
unsafe impl Plain for ShmInfo {}
// SAFETY: integers only.
unsafe impl Plain for ShmLimits {}
// SAFETY: integers only.
unsafe impl Plain for libc::semid_ds {}
// SAFETY: integers only.
unsafe impl Plain for libc::seminfo {}

/// Success.
pub(crate) fn returned(ret: i64) -> Reply {
    Reply { ret, errno: 0, data: Data::None }
}

/// Failure.
pub(crate) fn failed(errno: i32) -> Reply {
    Reply { ret: -1, errno, data: Data::None }
}

fn received(bytes: &[u8]) -> Data {
    match bytes.split_first_chunk() {
        Some((mtype, text)) => Data::Message { mtype: i64::from_ne_bytes(*mtype), text: text.to_vec() },
        None => Data::None,
    }
}

fn sembuf(op: &SemBuf) -> [u8; 6] {
    let [[a, b], [c, d], [e, f]] = [op.num.to_ne_bytes(), op.op.to_ne_bytes(), op.flags.to_ne_bytes()];
    [a, b, c, d, e, f]
}

/// The bytes of a structure of integers.
fn bytes_of<T: Plain>(value: &T) -> Vec<u8> {
    let mut bytes = vec![0; size_of::<T>()];
    // SAFETY: as many bytes as the structure has; its padding, if any, came from zeroed memory.
    unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(ptr::from_ref(value).cast(), size_of::<T>()) };
    bytes
}

fn zeroed<T: Plain>() -> T {
    // SAFETY: T is made of integers.
    unsafe { std::mem::zeroed() }
}

fn msg_set(set: &crate::Set) -> Vec<u8> {
    let mut value: libc::msqid_ds = zeroed();
    (value.msg_perm.uid, value.msg_perm.gid) = (set.uid, set.gid);
    value.msg_perm.mode = set.mode as _;
    value.msg_qbytes = set.qbytes;
    bytes_of(&value)
}

fn sem_set(set: &crate::Set) -> Vec<u8> {
    let mut value: libc::semid_ds = zeroed();
    (value.sem_perm.uid, value.sem_perm.gid) = (set.uid, set.gid);
    value.sem_perm.mode = set.mode as _;
    bytes_of(&value)
}

fn shm_set(set: &crate::Set) -> Vec<u8> {
    let mut value: libc::shmid_ds = zeroed();
    (value.shm_perm.uid, value.shm_perm.gid) = (set.uid, set.gid);
    value.shm_perm.mode = set.mode as _;
    bytes_of(&value)
}

fn shm_stat(stat: &libc::shmid_ds) -> ShmStat {
    ShmStat {
        perm: perm(&stat.shm_perm),
        segsz: stat.shm_segsz as u64,
        atime: stat.shm_atime,
        dtime: stat.shm_dtime,
        ctime: stat.shm_ctime,
        cpid: stat.shm_cpid,
        lpid: stat.shm_lpid,
        nattch: stat.shm_nattch,
    }
}

fn perm(perm: &libc::ipc_perm) -> Perm {
    Perm {
        key: perm.__key,
        uid: perm.uid,
        gid: perm.gid,
        cuid: perm.cuid,
        cgid: perm.cgid,
        mode: u32::from(perm.mode),
        seq: u32::from(perm.__seq),
    }
}

fn msg_stat(stat: &libc::msqid_ds) -> MsgStat {
    MsgStat {
        perm: perm(&stat.msg_perm),
        stime: stat.msg_stime,
        rtime: stat.msg_rtime,
        ctime: stat.msg_ctime,
        cbytes: stat.__msg_cbytes,
        qnum: stat.msg_qnum,
        qbytes: stat.msg_qbytes,
        lspid: stat.msg_lspid,
        lrpid: stat.msg_lrpid,
    }
}

fn msg_info(info: &libc::msginfo) -> MsgInfo {
    MsgInfo {
        msgpool: info.msgpool,
        msgmap: info.msgmap,
        msgmax: info.msgmax,
        msgmnb: info.msgmnb,
        msgmni: info.msgmni,
        msgssz: info.msgssz,
        msgtql: info.msgtql,
        msgseg: info.msgseg,
    }
}

fn sem_stat(stat: &libc::semid_ds) -> SemStat {
    SemStat {
        perm: perm(&stat.sem_perm),
        otime: stat.sem_otime,
        ctime: stat.sem_ctime,
        nsems: stat.sem_nsems,
    }
}

fn sem_info(info: &libc::seminfo) -> SemInfo {
    SemInfo {
        semmap: info.semmap,
        semmni: info.semmni,
        semmns: info.semmns,
        semmnu: info.semmnu,
        semmsl: info.semmsl,
        semopm: info.semopm,
        semume: info.semume,
        semusz: info.semusz,
        semvmx: info.semvmx,
        semaem: info.semaem,
    }
}

const _: () = assert!(size_of::<libc::sembuf>() == 6);
