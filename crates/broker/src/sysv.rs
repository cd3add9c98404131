//! The System V calls, typed: what `ipcspace ls` and `ipcspace rm` are made of.

use std::io;
use std::mem::MaybeUninit;

use engine::Call;
use engine::syscall::{Msgctl, Msgget, Semctl, Semget, Shmctl, Shmget};

/// MSG_STAT_ANY of `linux/msg.h`, which libc doesn't name.
const MSG_STAT_ANY: libc::c_int = 13;
/// Those of `linux/shm.h`, likewise.
const SHM_INFO: libc::c_int = 14;
const SHM_STAT_ANY: libc::c_int = 15;

/// What every object has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Perm {
    /// The key, 0 if private.
    pub key: i32,
    /// The identifier.
    pub id: i32,
    /// The low nine bits of the mode.
    pub mode: u32,
    /// The owner's user.
    pub uid: u32,
    /// The owner's group.
    pub gid: u32,
    /// The creator's user.
    pub cuid: u32,
    /// The creator's group.
    pub cgid: u32,
}

impl Perm {
    fn new(id: i32, perm: &libc::ipc_perm) -> Perm {
        let libc::ipc_perm { uid, gid, cuid, cgid, .. } = *perm;
        Perm { key: perm.__key, id, mode: u32::from(perm.mode) & 0o777, uid, gid, cuid, cgid }
    }
}

/// A message queue, as msgctl(2) describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of struct msqid_ds")]
pub struct Queue {
    pub perm: Perm,
    pub cbytes: u64,
    pub qnum: u64,
    pub lspid: i32,
    pub lrpid: i32,
    pub stime: i64,
    pub rtime: i64,
    pub ctime: i64,
}

/// A semaphore set, as semctl(2) describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of struct semid_ds")]
pub struct Set {
    pub perm: Perm,
    pub nsems: u64,
    pub otime: i64,
    pub ctime: i64,
}

/// A segment of shared memory, as shmctl(2) describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of struct shmid_ds")]
pub struct Segment {
    pub perm: Perm,
    pub segsz: u64,
    pub nattch: u64,
    pub atime: i64,
    pub dtime: i64,
    pub ctime: i64,
    pub cpid: i32,
    pub lpid: i32,
    /// Removed, and still attached.
    pub dest: bool,
    /// Locked in memory.
    pub locked: bool,
}

/// One semaphore of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Semaphore {
    /// GETVAL.
    pub value: i32,
    /// GETNCNT.
    pub ncount: i32,
    /// GETZCNT.
    pub zcount: i32,
    /// GETPID.
    pub pid: i32,
}

/// The limits of a namespace, and how much of them is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the names of the limits")]
pub struct Limits {
    pub msgmni: i64,
    pub msgmax: i64,
    pub msgmnb: i64,
    pub queues: i64,
    pub semmni: i64,
    pub semmns: i64,
    pub semmsl: i64,
    pub semopm: i64,
    pub semvmx: i64,
    pub sets: i64,
    pub semaphores: i64,
    pub shmmni: u64,
    pub shmall: u64,
    pub shmmax: u64,
    pub shmmin: u64,
    pub segments: i64,
    pub pages: u64,
}

/// Where a command writes nothing.
const NOTHING: *mut libc::c_void = std::ptr::null_mut();

/// `struct shminfo`, which libc doesn't have.
#[repr(C)]
#[derive(Default)]
struct ShmLimits {
    shmmax: u64,
    shmmin: u64,
    shmmni: u64,
    shmseg: u64,
    shmall: u64,
    unused: [u64; 4],
}

/// `struct shm_info`, likewise.
#[repr(C)]
#[derive(Default)]
struct ShmInfo {
    used_ids: libc::c_int,
    shm_tot: u64,
    shm_rss: u64,
    shm_swp: u64,
    swap_attempts: u64,
    swap_successes: u64,
}

/// What there is at the indexes up to the highest.
fn existing<T>(highest: i32, at: impl Fn(i32) -> io::Result<T>) -> io::Result<Vec<T>> {
    let is_gap = |error: &io::Error| matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EIDRM));
    (0..=highest).map(at).filter(|found| !found.as_ref().is_err_and(is_gap)).collect()
}

/// Whose objects are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objects {
    /// Those of the namespace that this process is in, or joins by [`client::use_socket`].
    OfNamespace,
    /// The kernel's, by libc.
    OfKernel,
}

fn in_namespace(call: &impl Call) -> io::Result<i32> {
    let done = client::call(call).map_err(|error| io::Error::from_raw_os_error(error.raw()))?;
    i32::try_from(done).map_err(io::Error::other)
}

fn checked(result: libc::c_int) -> io::Result<i32> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

impl Objects {
    /// # Safety
    /// There is room for what the command writes, if it writes anything.
    unsafe fn msgctl<T>(self, id: i32, cmd: i32, to: *mut T) -> io::Result<i32> {
        match self {
            Objects::OfNamespace => in_namespace(&Msgctl { id, cmd, buf: to as u64 }),
            // SAFETY: the caller's promise.
            Objects::OfKernel => checked(unsafe { libc::msgctl(id, cmd, to.cast()) }),
        }
    }

    /// # Safety
    /// As [`Objects::msgctl`].
    unsafe fn semctl<T>(self, id: i32, num: i32, cmd: i32, to: *mut T) -> io::Result<i32> {
        match self {
            Objects::OfNamespace => in_namespace(&Semctl { id, num, cmd, arg: to as u64 }),
            // SAFETY: the caller's promise.
            Objects::OfKernel => checked(unsafe { libc::semctl(id, num, cmd, to) }),
        }
    }

    /// # Safety
    /// As [`Objects::msgctl`].
    unsafe fn shmctl<T>(self, id: i32, cmd: i32, to: *mut T) -> io::Result<i32> {
        match self {
            Objects::OfNamespace => in_namespace(&Shmctl { id, cmd, buf: to as u64 }),
            // SAFETY: the caller's promise.
            Objects::OfKernel => checked(unsafe { libc::shmctl(id, cmd, to.cast()) }),
        }
    }

    fn msg_info(self, command: libc::c_int) -> io::Result<(i32, libc::msginfo)> {
        let mut info = MaybeUninit::<libc::msginfo>::zeroed();
        // SAFETY: both commands write a struct msginfo.
        let highest = unsafe { self.msgctl(0, command, info.as_mut_ptr()) }?;
        // SAFETY: zeroes are a valid value, and the call has written one.
        Ok((highest, unsafe { info.assume_init() }))
    }

    fn sem_info(self, command: libc::c_int) -> io::Result<(i32, libc::seminfo)> {
        let mut info = MaybeUninit::<libc::seminfo>::zeroed();
        // SAFETY: both commands write a struct seminfo.
        let highest = unsafe { self.semctl(0, 0, command, info.as_mut_ptr()) }?;
        // SAFETY: zeroes are a valid value, and the call has written one.
        Ok((highest, unsafe { info.assume_init() }))
    }

    fn shm_limits(self) -> io::Result<ShmLimits> {
        let mut info = ShmLimits::default();
        // SAFETY: the command writes a struct shminfo.
        unsafe { self.shmctl(0, libc::IPC_INFO, &raw mut info) }?;
        Ok(info)
    }

    fn shm_info(self) -> io::Result<(i32, ShmInfo)> {
        let mut info = ShmInfo::default();
        // SAFETY: the command writes a struct shm_info.
        let highest = unsafe { self.shmctl(0, SHM_INFO, &raw mut info) }?;
        Ok((highest, info))
    }

    /// Whether the calls reach a namespace: what is asked for needs no right there.
    pub fn reach(self) -> io::Result<()> {
        self.msg_info(libc::IPC_INFO).map(drop)
    }

    /// What IPC_INFO, MSG_INFO, SEM_INFO and SHM_INFO tell.
    pub fn limits(self) -> io::Result<Limits> {
        let (_, msg) = self.msg_info(libc::IPC_INFO)?;
        let (_, msg_used) = self.msg_info(libc::MSG_INFO)?;
        let (_, sem) = self.sem_info(libc::IPC_INFO)?;
        let (_, sem_used) = self.sem_info(libc::SEM_INFO)?;
        let (shm, (_, shm_used)) = (self.shm_limits()?, self.shm_info()?);
        Ok(Limits {
            msgmni: msg.msgmni.into(),
            msgmax: msg.msgmax.into(),
            msgmnb: msg.msgmnb.into(),
            queues: msg_used.msgpool.into(),
            semmni: sem.semmni.into(),
            semmns: sem.semmns.into(),
            semmsl: sem.semmsl.into(),
            semopm: sem.semopm.into(),
            semvmx: sem.semvmx.into(),
            sets: sem_used.semusz.into(),
            semaphores: sem_used.semaem.into(),
            shmmni: shm.shmmni,
            shmall: shm.shmall,
            shmmax: shm.shmmax,
            shmmin: shm.shmmin,
            segments: shm_used.used_ids.into(),
            pages: shm_used.shm_tot,
        })
    }

    /// All queues, by ascending index. Nobody needs a right to see them.
    pub fn queues(self) -> io::Result<Vec<Queue>> {
        let (highest, _) = self.msg_info(libc::MSG_INFO)?;
        existing(highest, |index| self.queue_at(index))
    }

    /// All semaphore sets, by ascending index. Nobody needs a right to see them.
    pub fn sets(self) -> io::Result<Vec<Set>> {
        let (highest, _) = self.sem_info(libc::SEM_INFO)?;
        existing(highest, |index| self.set_at(index))
    }

    /// All segments, by ascending index. Nobody needs a right to see them.
    pub fn segments(self) -> io::Result<Vec<Segment>> {
        let (highest, _) = self.shm_info()?;
        existing(highest, |index| self.segment_at(index))
    }

    fn queue_at(self, index: i32) -> io::Result<Queue> {
        let mut found = MaybeUninit::<libc::msqid_ds>::zeroed();
        // SAFETY: the command writes a struct msqid_ds.
        let id = unsafe { self.msgctl(index, MSG_STAT_ANY, found.as_mut_ptr()) }?;
        // SAFETY: zeroes are a valid value, and the call has written one.
        let found = unsafe { found.assume_init() };
        Ok(Queue {
            perm: Perm::new(id, &found.msg_perm),
            cbytes: found.__msg_cbytes,
            qnum: found.msg_qnum,
            lspid: found.msg_lspid,
            lrpid: found.msg_lrpid,
            stime: found.msg_stime,
            rtime: found.msg_rtime,
            ctime: found.msg_ctime,
        })
    }

    fn set_at(self, index: i32) -> io::Result<Set> {
        let mut found = MaybeUninit::<libc::semid_ds>::zeroed();
        // SAFETY: the command writes a struct semid_ds.
        let id = unsafe { self.semctl(index, 0, libc::SEM_STAT_ANY, found.as_mut_ptr()) }?;
        // SAFETY: zeroes are a valid value, and the call has written one.
        let found = unsafe { found.assume_init() };
        Ok(Set {
            perm: Perm::new(id, &found.sem_perm),
            nsems: found.sem_nsems,
            otime: found.sem_otime,
            ctime: found.sem_ctime,
        })
    }

    fn segment_at(self, index: i32) -> io::Result<Segment> {
        let mut found = MaybeUninit::<libc::shmid_ds>::zeroed();
        // SAFETY: the command writes a struct shmid_ds.
        let id = unsafe { self.shmctl(index, SHM_STAT_ANY, found.as_mut_ptr()) }?;
        // SAFETY: zeroes are a valid value, and the call has written one.
        let found = unsafe { found.assume_init() };
        let mode = u32::from(found.shm_perm.mode);
        Ok(Segment {
            perm: Perm::new(id, &found.shm_perm),
            segsz: found.shm_segsz as u64,
            nattch: found.shm_nattch,
            atime: found.shm_atime,
            dtime: found.shm_dtime,
            ctime: found.shm_ctime,
            cpid: found.shm_cpid,
            lpid: found.shm_lpid,
            dest: mode & abi::shm::SHM_DEST != 0,
            locked: mode & abi::shm::SHM_LOCKED != 0,
        })
    }

    /// The semaphores of a set; needs the right to read it.
    pub fn semaphores(self, set: &Set) -> io::Result<Vec<Semaphore>> {
        let count = i32::try_from(set.nsems).map_err(io::Error::other)?;
        (0..count).map(|number| self.semaphore(set.perm.id, number)).collect()
    }

    fn semaphore(self, id: i32, number: i32) -> io::Result<Semaphore> {
        // SAFETY: these commands take no argument.
        let get = |command| unsafe { self.semctl(id, number, command, NOTHING) };
        Ok(Semaphore {
            value: get(libc::GETVAL)?,
            ncount: get(libc::GETNCNT)?,
            zcount: get(libc::GETZCNT)?,
            pid: get(libc::GETPID)?,
        })
    }

    /// The queue of a key.
    pub fn queue_of(self, key: i32) -> io::Result<i32> {
        match self {
            Objects::OfNamespace => in_namespace(&Msgget { key, flags: 0 }),
            // SAFETY: no memory is passed.
            Objects::OfKernel => checked(unsafe { libc::msgget(key, 0) }),
        }
    }

    /// The semaphore set of a key.
    pub fn set_of(self, key: i32) -> io::Result<i32> {
        match self {
            Objects::OfNamespace => in_namespace(&Semget { key, nsems: 0, flags: 0 }),
            // SAFETY: no memory is passed.
            Objects::OfKernel => checked(unsafe { libc::semget(key, 0, 0) }),
        }
    }

    /// The segment of a key.
    pub fn segment_of(self, key: i32) -> io::Result<i32> {
        match self {
            Objects::OfNamespace => in_namespace(&Shmget { key, size: 0, flags: 0 }),
            // SAFETY: no memory is passed.
            Objects::OfKernel => checked(unsafe { libc::shmget(key, 0, 0) }),
        }
    }

    /// Removes a segment.
    pub fn remove_segment(self, id: i32) -> io::Result<()> {
        // SAFETY: the command takes no argument.
        unsafe { self.shmctl(id, libc::IPC_RMID, NOTHING) }.map(drop)
    }

    /// Removes a queue.
    pub fn remove_queue(self, id: i32) -> io::Result<()> {
        // SAFETY: the command takes no argument.
        unsafe { self.msgctl(id, libc::IPC_RMID, NOTHING) }.map(drop)
    }

    /// Removes a semaphore set.
    pub fn remove_set(self, id: i32) -> io::Result<()> {
        // SAFETY: the command takes no argument.
        unsafe { self.semctl(id, 0, libc::IPC_RMID, NOTHING) }.map(drop)
    }
}
