//! Calls of 32-bit programs, with registers and structures of i386: `ipc(2)`, the calls of their own numbers, the time of 64 bits.
//!
//! What users see: the calls of a 64-bit kernel for 32-bit programs. Which layout a structure has, `ipc(2)` is told by a bit of the command
//! ([`IPC_64`]); the calls of their own numbers have the new one. A type of message has 32 bits; what does not fit into a field is cut
//! off, but for users (65534) and the largest segment (`INT_MAX`).
//!
//! What is missing: a command with `IPC_64` is `EINVAL` in a call of its own number, though the kernel takes some of them.

use abi::{
    Errno, Plain, Result,
    compat::{
        CompatIpc64Perm, CompatIpcPerm, CompatMqAttr, CompatMsqid64Ds, CompatMsqidDs, CompatSemid64Ds,
        CompatSemidDs, CompatShmInfo, CompatShmid64Ds, CompatShmidDs, CompatShminfo, CompatShminfo64,
        CompatSigevent, Timespec32, nr, op,
    },
    ipc::{IPC_64, Ipc64Perm},
    mqueue::{MqAttr, Sigevent},
    msg::{MsgInfo, Msqid64Ds},
    sem::{SemInfo, Semid64Ds},
    shm::{ShmInfo, Shmid64Ds, Shminfo64},
    time::Timespec,
};

use crate::mqueue::{MqTimedreceive, MqTimedsend};
use crate::options::{COMPAT, require};
use crate::syscall::{
    MqGetsetattr, MqNotify, MqOpen, MqUnlink, Msgctl, Msgget, Msgrcv, Msgsnd, Semctl, Semget, Semtimedop,
    Shmat, Shmctl, Shmdt, Shmget,
};
use crate::{Syscall, Task};

/// The numbers that [`decode`] knows.
pub const NUMBERS: [u32; 20] = [
    nr::IPC,
    nr::SEMGET,
    nr::SEMCTL,
    nr::SHMGET,
    nr::SHMCTL,
    nr::SHMAT,
    nr::SHMDT,
    nr::MSGGET,
    nr::MSGSND,
    nr::MSGRCV,
    nr::MSGCTL,
    nr::SEMTIMEDOP_TIME64,
    nr::MQ_OPEN,
    nr::MQ_UNLINK,
    nr::MQ_TIMEDSEND,
    nr::MQ_TIMEDRECEIVE,
    nr::MQ_NOTIFY,
    nr::MQ_GETSETATTR,
    nr::MQ_TIMEDSEND_TIME64,
    nr::MQ_TIMEDRECEIVE_TIME64,
];

/// The call of a number and six registers of a 32-bit program: a call of `task`'s while it is [`Task::in_compat_syscall`].
///
/// # Errors
/// `ENOSYS` if it is not one of the engine's; those of `ipc(2)`.
pub fn decode<T: Task>(task: &T, number: u32, args: [u32; 6]) -> Result<Syscall> {
    require(COMPAT)?;
    let [a, b, c, d, e, _] = args.map(u32::cast_signed);
    let at = |register: i32| u64::from(register.cast_unsigned());
    let size = |register: i32| i64::from(register).cast_unsigned();
    Ok(match number {
        nr::IPC => return ipc(task, args),
        nr::SEMGET => Syscall::Semget(Semget { key: a, nsems: b, flags: c }),
        nr::SEMCTL => Syscall::Semctl(Semctl { id: a, num: b, cmd: split(c), arg: at(d) }),
        nr::SEMTIMEDOP_TIME64 => Syscall::Semtimedop(Semtimedop {
            id: a,
            sops: at(b),
            nsops: at(c),
            timeout: at(d),
            time32: false,
        }),
        nr::MSGGET => Syscall::Msgget(Msgget { key: a, flags: b }),
        nr::MSGSND => Syscall::Msgsnd(Msgsnd { id: a, msgp: at(b), size: size(c), flags: d, mtype: None }),
        nr::MSGRCV => Syscall::Msgrcv(Msgrcv {
            id: a,
            msgp: at(b),
            size: size(c),
            msgtyp: d.into(),
            flags: e,
            text: None,
        }),
        nr::MSGCTL => Syscall::Msgctl(Msgctl { id: a, cmd: split(b), buf: at(c) }),
        nr::SHMGET => Syscall::Shmget(Shmget { key: a, size: at(b), flags: c }),
        nr::SHMAT => Syscall::Shmat(Shmat { id: a, addr: at(b), flags: c, raddr: None }),
        nr::SHMDT => Syscall::Shmdt(Shmdt { addr: at(a) }),
        nr::SHMCTL => Syscall::Shmctl(Shmctl { id: a, cmd: split(b), buf: at(c) }),
        nr::MQ_OPEN => {
            Syscall::MqOpen(MqOpen { name: at(a), oflag: b, mode: c.cast_unsigned(), attr: at(d) })
        }
        nr::MQ_UNLINK => Syscall::MqUnlink(MqUnlink { name: at(a) }),
        nr::MQ_TIMEDSEND | nr::MQ_TIMEDSEND_TIME64 => Syscall::MqTimedsend(MqTimedsend {
            fd: a,
            msg: at(b),
            len: at(c),
            prio: d.cast_unsigned(),
            timeout: at(e),
            time32: number == nr::MQ_TIMEDSEND,
        }),
        nr::MQ_TIMEDRECEIVE | nr::MQ_TIMEDRECEIVE_TIME64 => Syscall::MqTimedreceive(MqTimedreceive {
            fd: a,
            msg: at(b),
            len: at(c),
            prio: at(d),
            timeout: at(e),
            time32: number == nr::MQ_TIMEDRECEIVE,
        }),
        nr::MQ_NOTIFY => Syscall::MqNotify(MqNotify { fd: a, sevp: at(b) }),
        nr::MQ_GETSETATTR => Syscall::MqGetsetattr(MqGetsetattr { fd: a, new: at(b), old: at(c) }),
        _ => return Err(Errno::ENOSYS),
    })
}

/// The command of a call of its own number as `ipc(2)` would have it.
fn split(cmd: i32) -> i32 {
    const NONE: i32 = -1;
    if cmd & IPC_64 == 0 { cmd | IPC_64 } else { NONE }
}

/// `ipc(2)`: what to do and its version, three numbers, an address, and one more of either.
fn ipc<T: Task>(task: &T, [call, first, second, third, ptr, fifth]: [u32; 6]) -> Result<Syscall> {
    let [id, a, b] = [first, second, third].map(u32::cast_signed);
    let (version, at) = (call >> 16, u64::from(ptr));
    let semop = |timeout: u32| Semtimedop {
        id,
        sops: at,
        nsops: second.into(),
        timeout: timeout.into(),
        time32: true,
    };
    Ok(match call & 0xffff {
        op::SEMOP => Syscall::Semtimedop(semop(0)),
        op::SEMTIMEDOP => Syscall::Semtimedop(semop(fifth)),
        op::SEMGET => Syscall::Semget(Semget { key: id, nsems: a, flags: b }),
        op::SEMCTL if ptr == 0 => return Err(Errno::EINVAL),
        op::SEMCTL => {
            let union: u32 = task.get_user(at)?;
            Syscall::Semctl(Semctl { id, num: a, cmd: b, arg: union.into() })
        }
        op::MSGSND => Syscall::Msgsnd(Msgsnd {
            id,
            msgp: at,
            size: i64::from(a).cast_unsigned(),
            flags: b,
            mtype: None,
        }),
        op::MSGRCV if id < 0 || a < 0 => return Err(Errno::EINVAL),
        op::MSGRCV => {
            let (msgp, msgtyp) = match version {
                0 if ptr == 0 => return Err(Errno::EINVAL),
                0 => {
                    let [msgp, msgtyp]: [u32; 2] = task.get_user(at)?;
                    (msgp.into(), msgtyp)
                }
                _ => (at, fifth),
            };
            let msgtyp = msgtyp.cast_signed().into();
            Syscall::Msgrcv(Msgrcv { id, msgp, size: second.into(), msgtyp, flags: b, text: None })
        }
        op::MSGGET => Syscall::Msgget(Msgget { key: id, flags: a }),
        op::MSGCTL => Syscall::Msgctl(Msgctl { id, cmd: a, buf: at }),
        op::SHMAT if version == 1 => return Err(Errno::EINVAL),
        op::SHMAT => Syscall::Shmat(Shmat { id, addr: at, flags: a, raddr: Some(third.into()) }),
        op::SHMDT => Syscall::Shmdt(Shmdt { addr: at }),
        op::SHMGET => Syscall::Shmget(Shmget { key: id, size: second.into(), flags: b }),
        op::SHMCTL => Syscall::Shmctl(Shmctl { id, cmd: a, buf: at }),
        _ => return Err(Errno::ENOSYS),
    })
}

/// Whether a call makes, attaches or looks at shared memory, by its number and its first register.
pub fn is_about_segments(number: u32, first: u32) -> bool {
    const OPERATIONS: [u32; 4] = [op::SHMAT, op::SHMDT, op::SHMGET, op::SHMCTL];
    match number {
        nr::IPC => OPERATIONS.contains(&(first & 0xffff)),
        number => matches!(number, nr::SHMGET | nr::SHMAT | nr::SHMDT | nr::SHMCTL),
    }
}

/// How a command's structure lies in the caller's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// As of a 64-bit program.
    Native,
    /// As of a 32-bit program.
    Compat,
    /// As of a 32-bit program from times of 16-bit users.
    Old,
}

impl Layout {
    /// `ipc_parse_version`: the layout, and the command without the bit that tells it.
    #[inline(always)]
    pub(crate) fn of<T: Task>(task: &T, cmd: i32) -> (Layout, i32) {
        if !task.in_compat_syscall() {
            (Layout::Native, cmd)
        } else if cmd & IPC_64 == 0 {
            (Layout::Old, cmd)
        } else {
            (Layout::Compat, cmd & !IPC_64)
        }
    }

    /// Writes a structure to the caller's memory.
    #[inline(always)]
    pub(crate) fn put<T: Task, S: Structure>(self, task: &T, to: u64, value: &S) -> Result<()> {
        match self {
            Layout::Native => task.put_user(to, value),
            Layout::Compat => task.put_user(to, &value.compat()),
            Layout::Old => task.put_user(to, &value.old()),
        }
    }

    /// Reads the structure of an `IPC_SET`, of which no more than what is set.
    #[inline(always)]
    pub(crate) fn get<T: Task, S: Settable>(self, task: &T, from: u64) -> Result<S> {
        match self {
            Layout::Native => task.get_user(from),
            Layout::Compat => {
                let CompatIpc64Perm { uid, gid, mode, .. } = task.get_user(from)?;
                let perm = Ipc64Perm { uid, gid, mode: mode.into(), ..Ipc64Perm::default() };
                let qbytes = match S::QBYTES {
                    Some([at, _]) => task.get_user(from.wrapping_add(at))?,
                    None => 0,
                };
                Ok(S::new(perm, qbytes))
            }
            Layout::Old => {
                let CompatIpcPerm { uid, gid, mode, .. } = task.get_user(from)?;
                let perm =
                    Ipc64Perm { uid: uid.into(), gid: gid.into(), mode: mode.into(), ..Ipc64Perm::default() };
                let qbytes = match S::QBYTES {
                    Some([_, at]) => task.get_user::<u16>(from.wrapping_add(at))?.into(),
                    None => 0,
                };
                Ok(S::new(perm, qbytes))
            }
        }
    }
}

/// A structure that is written to callers.
pub(crate) trait Structure: Plain {
    type Compat: Plain;
    type Old: Plain;
    fn compat(&self) -> Self::Compat;
    fn old(&self) -> Self::Old;
}

/// A structure that `IPC_SET` reads.
pub(crate) trait Settable: Plain {
    /// Where a queue's size stands, in the new layout and in the old one.
    const QBYTES: Option<[u64; 2]> = None;
    fn new(perm: Ipc64Perm, qbytes: u32) -> Self;
}

impl Settable for Msqid64Ds {
    const QBYTES: Option<[u64; 2]> = Some([
        core::mem::offset_of!(CompatMsqid64Ds, msg_qbytes) as u64,
        core::mem::offset_of!(CompatMsqidDs, msg_qbytes) as u64,
    ]);

    fn new(perm: Ipc64Perm, qbytes: u32) -> Self {
        Msqid64Ds { msg_perm: perm, msg_qbytes: qbytes.into(), ..Msqid64Ds::default() }
    }
}

impl Settable for Semid64Ds {
    fn new(perm: Ipc64Perm, _: u32) -> Self {
        Semid64Ds { sem_perm: perm, ..Semid64Ds::default() }
    }
}

impl Settable for Shmid64Ds {
    fn new(perm: Ipc64Perm, _: u32) -> Self {
        Shmid64Ds { shm_perm: perm, ..Shmid64Ds::default() }
    }
}

/// The low half of a number.
#[expect(clippy::cast_possible_truncation, reason = "cut off, as in the kernel")]
fn low(value: u64) -> u32 {
    value as u32
}

/// The low half of the low half.
#[expect(clippy::cast_possible_truncation, reason = "cut off, as in the kernel")]
fn short(value: u64) -> u16 {
    value as u16
}

fn short_pid(pid: i32) -> u16 {
    short(u64::from(pid.cast_unsigned()))
}

/// Both halves of a time, and its lower one.
fn halves(time: i64) -> [u32; 2] {
    let time = time.cast_unsigned();
    [low(time), low(time >> 32)]
}

fn old_time(time: i64) -> u32 {
    low(time.cast_unsigned())
}

fn compat_perm(perm: &Ipc64Perm) -> CompatIpc64Perm {
    let Ipc64Perm { key, uid, gid, cuid, cgid, mode, seq, .. } = *perm;
    let mode = short(mode.into());
    CompatIpc64Perm { key, uid, gid, cuid, cgid, mode, seq, ..CompatIpc64Perm::default() }
}

fn old_perm(perm: &Ipc64Perm) -> CompatIpcPerm {
    const OVERFLOW: u16 = 65534;
    let id = |id: u32| u16::try_from(id).unwrap_or(OVERFLOW);
    CompatIpcPerm {
        key: perm.key,
        uid: id(perm.uid),
        gid: id(perm.gid),
        cuid: id(perm.cuid),
        cgid: id(perm.cgid),
        mode: short(perm.mode.into()),
        seq: perm.seq,
    }
}

impl Structure for Msqid64Ds {
    type Compat = CompatMsqid64Ds;
    type Old = CompatMsqidDs;

    fn compat(&self) -> CompatMsqid64Ds {
        CompatMsqid64Ds {
            msg_perm: compat_perm(&self.msg_perm),
            msg_stime: halves(self.msg_stime),
            msg_rtime: halves(self.msg_rtime),
            msg_ctime: halves(self.msg_ctime),
            msg_cbytes: low(self.msg_cbytes),
            msg_qnum: low(self.msg_qnum),
            msg_qbytes: low(self.msg_qbytes),
            msg_lspid: self.msg_lspid,
            msg_lrpid: self.msg_lrpid,
            ..CompatMsqid64Ds::default()
        }
    }

    fn old(&self) -> CompatMsqidDs {
        CompatMsqidDs {
            msg_perm: old_perm(&self.msg_perm),
            msg_stime: old_time(self.msg_stime),
            msg_rtime: old_time(self.msg_rtime),
            msg_ctime: old_time(self.msg_ctime),
            msg_cbytes: short(self.msg_cbytes),
            msg_qnum: short(self.msg_qnum),
            msg_qbytes: short(self.msg_qbytes),
            msg_lspid: short_pid(self.msg_lspid),
            msg_lrpid: short_pid(self.msg_lrpid),
            ..CompatMsqidDs::default()
        }
    }
}

impl Structure for Semid64Ds {
    type Compat = CompatSemid64Ds;
    type Old = CompatSemidDs;

    fn compat(&self) -> CompatSemid64Ds {
        CompatSemid64Ds {
            sem_perm: compat_perm(&self.sem_perm),
            sem_otime: halves(self.sem_otime),
            sem_ctime: halves(self.sem_ctime),
            sem_nsems: low(self.sem_nsems),
            ..CompatSemid64Ds::default()
        }
    }

    fn old(&self) -> CompatSemidDs {
        CompatSemidDs {
            sem_perm: old_perm(&self.sem_perm),
            sem_otime: old_time(self.sem_otime),
            sem_ctime: old_time(self.sem_ctime),
            sem_nsems: short(self.sem_nsems),
            ..CompatSemidDs::default()
        }
    }
}

impl Structure for Shmid64Ds {
    type Compat = CompatShmid64Ds;
    type Old = CompatShmidDs;

    fn compat(&self) -> CompatShmid64Ds {
        CompatShmid64Ds {
            shm_perm: compat_perm(&self.shm_perm),
            shm_segsz: low(self.shm_segsz),
            shm_atime: halves(self.shm_atime),
            shm_dtime: halves(self.shm_dtime),
            shm_ctime: halves(self.shm_ctime),
            shm_cpid: self.shm_cpid,
            shm_lpid: self.shm_lpid,
            shm_nattch: low(self.shm_nattch),
            ..CompatShmid64Ds::default()
        }
    }

    fn old(&self) -> CompatShmidDs {
        CompatShmidDs {
            shm_perm: old_perm(&self.shm_perm),
            shm_segsz: low(self.shm_segsz),
            shm_atime: old_time(self.shm_atime),
            shm_dtime: old_time(self.shm_dtime),
            shm_ctime: old_time(self.shm_ctime),
            shm_cpid: short_pid(self.shm_cpid),
            shm_lpid: short_pid(self.shm_lpid),
            shm_nattch: short(self.shm_nattch),
            ..CompatShmidDs::default()
        }
    }
}

impl Structure for Shminfo64 {
    type Compat = CompatShminfo64;
    type Old = CompatShminfo;

    fn compat(&self) -> CompatShminfo64 {
        let CompatShminfo { shmmax, shmmin, shmmni, shmseg, shmall } = self.old();
        CompatShminfo64 { shmmax, shmmin, shmmni, shmseg, shmall, unused: [0; 4] }
    }

    fn old(&self) -> CompatShminfo {
        CompatShminfo {
            shmmax: low(self.shmmax.min(u64::from(i32::MAX.cast_unsigned()))),
            shmmin: low(self.shmmin),
            shmmni: low(self.shmmni),
            shmseg: low(self.shmseg),
            shmall: low(self.shmall),
        }
    }
}

impl Structure for ShmInfo {
    type Compat = CompatShmInfo;
    type Old = CompatShmInfo;

    fn compat(&self) -> CompatShmInfo {
        CompatShmInfo {
            used_ids: self.used_ids,
            shm_tot: low(self.shm_tot),
            shm_rss: low(self.shm_rss),
            shm_swp: low(self.shm_swp),
            swap_attempts: low(self.swap_attempts),
            swap_successes: low(self.swap_successes),
        }
    }

    fn old(&self) -> CompatShmInfo {
        self.compat()
    }
}

/// The same for everybody.
macro_rules! unchanged {
    ($($structure:ty),*) => { $(
        impl Structure for $structure {
            type Compat = $structure;
            type Old = $structure;

            fn compat(&self) -> $structure {
                *self
            }

            fn old(&self) -> $structure {
                *self
            }
        }
    )* };
}
unchanged!(MsgInfo, SemInfo);

/// Bytes of a `long` of the caller's: the type before a message's text.
#[inline(always)]
pub(crate) fn size_of_long<T: Task>(task: &T) -> u64 {
    if task.in_compat_syscall() { 4 } else { 8 }
}

/// Reads a `long`.
#[inline(always)]
pub(crate) fn get_long<T: Task>(task: &T, from: u64) -> Result<i64> {
    if task.in_compat_syscall() { task.get_user::<i32>(from).map(i64::from) } else { task.get_user(from) }
}

/// Writes a `long`.
#[inline(always)]
pub(crate) fn put_long<T: Task>(task: &T, to: u64, value: i64) -> Result<()> {
    if task.in_compat_syscall() {
        task.put_user(to, &low(value.cast_unsigned()))
    } else {
        task.put_user(to, &value)
    }
}

/// Reads a time, of 32 bits if `time32`.
#[inline(always)]
pub(crate) fn get_timespec<T: Task>(task: &T, from: u64, time32: bool) -> Result<Timespec> {
    if time32 {
        let Timespec32 { tv_sec, tv_nsec } = task.get_user(from)?;
        return Ok(Timespec { tv_sec: tv_sec.into(), tv_nsec: tv_nsec.into() });
    }
    let mut time: Timespec = task.get_user(from)?;
    if task.in_compat_syscall() {
        // Their nanoseconds have 32 bits, and padding.
        time.tv_nsec &= i64::from(u32::MAX);
    }
    Ok(time)
}

/// Reads the attributes of a POSIX queue.
#[inline(always)]
pub(crate) fn get_mq_attr<T: Task>(task: &T, from: u64) -> Result<MqAttr> {
    if !task.in_compat_syscall() {
        return task.get_user(from);
    }
    let CompatMqAttr { mq_flags, mq_maxmsg, mq_msgsize, mq_curmsgs, .. } = task.get_user(from)?;
    Ok(MqAttr {
        mq_flags: mq_flags.into(),
        mq_maxmsg: mq_maxmsg.into(),
        mq_msgsize: mq_msgsize.into(),
        mq_curmsgs: mq_curmsgs.into(),
        ..MqAttr::default()
    })
}

/// Writes the attributes of a POSIX queue.
#[inline(always)]
pub(crate) fn put_mq_attr<T: Task>(task: &T, to: u64, attr: &MqAttr) -> Result<()> {
    if !task.in_compat_syscall() {
        return task.put_user(to, attr);
    }
    let int = |value: i64| low(value.cast_unsigned()).cast_signed();
    let attr = CompatMqAttr {
        mq_flags: int(attr.mq_flags),
        mq_maxmsg: int(attr.mq_maxmsg),
        mq_msgsize: int(attr.mq_msgsize),
        mq_curmsgs: int(attr.mq_curmsgs),
        ..CompatMqAttr::default()
    };
    task.put_user(to, &attr)
}

/// Reads what a notification is to be.
#[inline(always)]
pub(crate) fn get_sigevent<T: Task>(task: &T, from: u64) -> Result<Sigevent> {
    if !task.in_compat_syscall() {
        return task.get_user(from);
    }
    let CompatSigevent { sigev_value, sigev_signo, sigev_notify, .. } = task.get_user(from)?;
    Ok(Sigevent { sigev_value: sigev_value.into(), sigev_signo, sigev_notify, ..Sigevent::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit() {
        let queue = Msqid64Ds {
            msg_perm: Ipc64Perm { uid: 65535, gid: 65536, cuid: 70000, ..Ipc64Perm::default() },
            msg_stime: 0x1_2345_6789,
            msg_cbytes: 65536,
            msg_qnum: 65535,
            msg_lspid: 70000,
            ..Msqid64Ds::default()
        };
        let old = queue.old();
        assert_eq!([old.msg_perm.uid, old.msg_perm.gid, old.msg_perm.cuid], [65535, 65534, 65534]);
        // The kernel does not fill what could hold the whole.
        assert_eq!((old.msg_cbytes, old.msg_lcbytes, old.msg_qnum), (0, 0, 65535));
        assert_eq!((old.msg_stime, old.msg_lspid), (0x2345_6789, 4464));
        assert_eq!((queue.compat().msg_stime, queue.compat().msg_perm.gid), ([0x2345_6789, 1], 65536));
        let limits = Shminfo64 { shmmax: u64::MAX, shmall: u64::MAX - (1 << 24), ..Shminfo64::default() };
        assert_eq!([limits.old().shmmax, limits.compat().shmmax], [0x7fff_ffff; 2]);
        assert_eq!(limits.old().shmall, 0xfeff_ffff);
    }
}
