//! Structures of x86-64 as those of i386, and back.
//!
//! # Safety
//! The structures consist of integers, so any bytes are a value.

use abi::Plain;
use abi::compat::{CompatIpc64Perm, CompatMqAttr, CompatSigevent, Timespec32};
use abi::compat::{CompatMsqid64Ds, CompatSemid64Ds, CompatShmInfo, CompatShmid64Ds, CompatShminfo64};
use abi::ipc::{IPC_INFO, IPC_SET, IPC_STAT, Ipc64Perm};
use abi::mqueue::{MqAttr, Sigevent};
use abi::msg::{MSG_INFO, MSG_STAT, MSG_STAT_ANY, MsgInfo, Msqid64Ds};
use abi::sem::{GETALL, SEM_INFO, SEM_STAT, SEM_STAT_ANY, SETALL, SemInfo, Semid64Ds};
use abi::shm::{SHM_INFO, SHM_STAT, SHM_STAT_ANY, ShmInfo, Shmid64Ds, Shminfo64};
use abi::time::Timespec;

/// Bytes of the largest set's values, and two more.
pub(crate) const VALUES: usize = 2 * 32000 + 4;

/// No semaphore has a value of these bytes, so they tell how far `GETALL` wrote.
pub(crate) const NO_VALUE: u8 = 0xff;

/// What the last argument of a `*ctl` call is.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// No address, or none that matters.
    Number,
    /// Of a structure that is written.
    Into { native: usize, narrow: usize, widen: fn(&[u8]) -> Vec<u8> },
    /// Of a structure that is read.
    From { native: usize, narrow: fn(&[u8]) -> Vec<u8> },
    /// Of the values that `GETALL` writes.
    IntoValues,
    /// Of the values that `SETALL` reads.
    FromValues,
}

fn into<N: Plain, W: Plain + From32<N>>() -> Kind {
    let widen = |bytes: &[u8]| bytes_of(&W::from32(&of_bytes(bytes)));
    Kind::Into { native: size_of::<W>(), narrow: size_of::<N>(), widen }
}

fn from<W: Plain + To32<N>, N: Plain>() -> Kind {
    Kind::From { native: size_of::<W>(), narrow: |bytes| bytes_of(&of_bytes::<W>(bytes).to32()) }
}

impl Kind {
    pub(crate) fn of_msg(cmd: u32) -> Kind {
        match cmd.cast_signed() {
            IPC_STAT | MSG_STAT | MSG_STAT_ANY => into::<CompatMsqid64Ds, Msqid64Ds>(),
            IPC_INFO | MSG_INFO => into::<MsgInfo, MsgInfo>(),
            IPC_SET => from::<Msqid64Ds, CompatMsqid64Ds>(),
            _ => Kind::Number,
        }
    }

    pub(crate) fn of_sem(cmd: u32) -> Kind {
        match cmd.cast_signed() {
            IPC_STAT | SEM_STAT | SEM_STAT_ANY => into::<CompatSemid64Ds, Semid64Ds>(),
            IPC_INFO | SEM_INFO => into::<SemInfo, SemInfo>(),
            IPC_SET => from::<Semid64Ds, CompatSemid64Ds>(),
            GETALL => Kind::IntoValues,
            SETALL => Kind::FromValues,
            _ => Kind::Number,
        }
    }

    pub(crate) fn of_shm(cmd: u32) -> Kind {
        match cmd.cast_signed() {
            IPC_STAT | SHM_STAT | SHM_STAT_ANY => into::<CompatShmid64Ds, Shmid64Ds>(),
            IPC_INFO => into::<CompatShminfo64, Shminfo64>(),
            SHM_INFO => into::<CompatShmInfo, ShmInfo>(),
            IPC_SET => from::<Shmid64Ds, CompatShmid64Ds>(),
            _ => Kind::Number,
        }
    }

    /// The attributes of a POSIX queue, to be written.
    pub(crate) fn into_mq_attr() -> Kind {
        into::<CompatMqAttr, MqAttr>()
    }

    /// The attributes of a POSIX queue, to be read.
    pub(crate) fn from_mq_attr() -> Kind {
        from::<MqAttr, CompatMqAttr>()
    }

    /// What a notification is to be.
    pub(crate) fn from_sigevent() -> Kind {
        from::<Sigevent, CompatSigevent>()
    }

    /// Bytes of the structure of 32 bits.
    pub(crate) fn narrow_size(self) -> usize {
        match self {
            Kind::Into { narrow, .. } => narrow,
            _ => 0,
        }
    }
}

/// A message with a type of 32 bits, or its beginning.
pub(crate) fn narrow_message(bytes: &[u8]) -> Vec<u8> {
    match bytes.split_first_chunk::<8>() {
        Some((mtype, text)) => {
            let mtype = i64::from_ne_bytes(*mtype).clamp(i32::MIN.into(), i32::MAX.into());
            let mtype = i32::try_from(mtype).expect("just clamped");
            [&mtype.to_ne_bytes(), text].concat()
        }
        // Less than a type stays less.
        None => bytes[..bytes.len().min(3)].to_vec(),
    }
}

/// A message with a type of 64 bits.
pub(crate) fn widen_message(bytes: &[u8]) -> Vec<u8> {
    let (mtype, text) = bytes.split_first_chunk::<4>().expect("a type");
    [&i64::from(i32::from_ne_bytes(*mtype)).to_ne_bytes(), text].concat()
}

/// A time of 32 bits if `short`, else one that a 32-bit program can have.
pub(crate) fn narrow_time(bytes: &[u8], short: bool) -> Vec<u8> {
    if bytes.len() < size_of::<Timespec>() {
        return Vec::new();
    }
    let Timespec { tv_sec, tv_nsec } = of_bytes(bytes);
    let nanoseconds = i32::try_from(tv_nsec).unwrap_or(-1);
    if short {
        let seconds = tv_sec.clamp(i32::MIN.into(), i32::MAX.into());
        let tv_sec = i32::try_from(seconds).expect("just clamped");
        return bytes_of(&Timespec32 { tv_sec, tv_nsec: nanoseconds });
    }
    // The padding above the nanoseconds is nobody's business.
    const PADDING: i64 = 0x7777 << 32;
    bytes_of(&Timespec { tv_sec, tv_nsec: i64::from(nanoseconds.cast_unsigned()) | PADDING })
}

fn of_bytes<T: Plain>(bytes: &[u8]) -> T {
    assert!(bytes.len() >= size_of::<T>(), "as many bytes as the structure has");
    // SAFETY: any bytes are a value, and there are enough.
    unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
}

fn bytes_of<T: Plain>(value: &T) -> Vec<u8> {
    // SAFETY: structures without padding.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast::<u8>(), size_of::<T>()) }.to_vec()
}

trait From32<N> {
    fn from32(narrow: &N) -> Self;
}

trait To32<N> {
    fn to32(&self) -> N;
}

impl<T: Plain> From32<T> for T {
    fn from32(narrow: &T) -> T {
        *narrow
    }
}

impl From32<CompatMqAttr> for MqAttr {
    fn from32(narrow: &CompatMqAttr) -> MqAttr {
        MqAttr {
            mq_flags: narrow.mq_flags.into(),
            mq_maxmsg: narrow.mq_maxmsg.into(),
            mq_msgsize: narrow.mq_msgsize.into(),
            mq_curmsgs: narrow.mq_curmsgs.into(),
            ..MqAttr::default()
        }
    }
}

impl To32<CompatMqAttr> for MqAttr {
    fn to32(&self) -> CompatMqAttr {
        let nearest = |value: i64| crate::narrow(value.cast_unsigned()).cast_signed();
        CompatMqAttr {
            mq_flags: nearest(self.mq_flags),
            mq_maxmsg: nearest(self.mq_maxmsg),
            mq_msgsize: nearest(self.mq_msgsize),
            mq_curmsgs: nearest(self.mq_curmsgs),
            ..CompatMqAttr::default()
        }
    }
}

impl To32<CompatSigevent> for Sigevent {
    fn to32(&self) -> CompatSigevent {
        let Sigevent { sigev_value, sigev_signo, sigev_notify, .. } = *self;
        let sigev_value = crate::size(sigev_value);
        CompatSigevent { sigev_value, sigev_signo, sigev_notify, ..CompatSigevent::default() }
    }
}

fn perm(narrow: &CompatIpc64Perm) -> Ipc64Perm {
    let CompatIpc64Perm { key, uid, gid, cuid, cgid, mode, seq, .. } = *narrow;
    Ipc64Perm { key, uid, gid, cuid, cgid, mode: mode.into(), seq, ..Ipc64Perm::default() }
}

/// What `IPC_SET` looks at.
#[expect(clippy::cast_possible_truncation, reason = "a mode has 16 bits")]
fn set(wide: &Ipc64Perm) -> CompatIpc64Perm {
    CompatIpc64Perm { uid: wide.uid, gid: wide.gid, mode: wide.mode as u16, ..CompatIpc64Perm::default() }
}

fn time([low, high]: [u32; 2]) -> i64 {
    i64::from(low) | i64::from(high) << 32
}

impl From32<CompatMsqid64Ds> for Msqid64Ds {
    fn from32(narrow: &CompatMsqid64Ds) -> Msqid64Ds {
        Msqid64Ds {
            msg_perm: perm(&narrow.msg_perm),
            msg_stime: time(narrow.msg_stime),
            msg_rtime: time(narrow.msg_rtime),
            msg_ctime: time(narrow.msg_ctime),
            msg_cbytes: narrow.msg_cbytes.into(),
            msg_qnum: narrow.msg_qnum.into(),
            msg_qbytes: narrow.msg_qbytes.into(),
            msg_lspid: narrow.msg_lspid,
            msg_lrpid: narrow.msg_lrpid,
            ..Msqid64Ds::default()
        }
    }
}

impl To32<CompatMsqid64Ds> for Msqid64Ds {
    fn to32(&self) -> CompatMsqid64Ds {
        CompatMsqid64Ds {
            msg_perm: set(&self.msg_perm),
            msg_qbytes: crate::size(self.msg_qbytes),
            ..CompatMsqid64Ds::default()
        }
    }
}

impl From32<CompatSemid64Ds> for Semid64Ds {
    fn from32(narrow: &CompatSemid64Ds) -> Semid64Ds {
        Semid64Ds {
            sem_perm: perm(&narrow.sem_perm),
            sem_otime: time(narrow.sem_otime),
            sem_ctime: time(narrow.sem_ctime),
            sem_nsems: narrow.sem_nsems.into(),
            ..Semid64Ds::default()
        }
    }
}

impl To32<CompatSemid64Ds> for Semid64Ds {
    fn to32(&self) -> CompatSemid64Ds {
        CompatSemid64Ds { sem_perm: set(&self.sem_perm), ..CompatSemid64Ds::default() }
    }
}

impl From32<CompatShmid64Ds> for Shmid64Ds {
    fn from32(narrow: &CompatShmid64Ds) -> Shmid64Ds {
        Shmid64Ds {
            shm_perm: perm(&narrow.shm_perm),
            shm_segsz: narrow.shm_segsz.into(),
            shm_atime: time(narrow.shm_atime),
            shm_dtime: time(narrow.shm_dtime),
            shm_ctime: time(narrow.shm_ctime),
            shm_cpid: narrow.shm_cpid,
            shm_lpid: narrow.shm_lpid,
            shm_nattch: narrow.shm_nattch.into(),
            ..Shmid64Ds::default()
        }
    }
}

impl To32<CompatShmid64Ds> for Shmid64Ds {
    fn to32(&self) -> CompatShmid64Ds {
        CompatShmid64Ds { shm_perm: set(&self.shm_perm), ..CompatShmid64Ds::default() }
    }
}

impl From32<CompatShminfo64> for Shminfo64 {
    fn from32(narrow: &CompatShminfo64) -> Shminfo64 {
        Shminfo64 {
            shmmax: narrow.shmmax.into(),
            shmmin: narrow.shmmin.into(),
            shmmni: narrow.shmmni.into(),
            shmseg: narrow.shmseg.into(),
            shmall: narrow.shmall.into(),
            ..Shminfo64::default()
        }
    }
}

impl From32<CompatShmInfo> for ShmInfo {
    fn from32(narrow: &CompatShmInfo) -> ShmInfo {
        ShmInfo {
            used_ids: narrow.used_ids,
            shm_tot: narrow.shm_tot.into(),
            shm_rss: narrow.shm_rss.into(),
            shm_swp: narrow.shm_swp.into(),
            swap_attempts: narrow.swap_attempts.into(),
            swap_successes: narrow.swap_successes.into(),
            ..ShmInfo::default()
        }
    }
}
