//! The table of system calls: from a number and six registers to the engine's functions, for every door.
//!
//! A call is a value. [`Call::begin`] makes it, and [`Call::resume`] goes on with it when it slept, so a door keeps no
//! more of a sleeping call than this value and its deadline. A door that knows which call it makes uses that call's own
//! type; one that has registers uses [`Syscall`].
//!
//! Those of 32-bit programs come by [`crate::compat`].

use abi::{
    Errno, Result,
    ipc::{IPC_INFO, IPC_RMID, IPC_SET, IPC_STAT},
    msg::{MSG_INFO, MSG_STAT, MSG_STAT_ANY},
    sem::{GETALL, SEM_INFO, SEM_STAT, SEM_STAT_ANY, SETALL, SETVAL},
    shm::{SHM_INFO, SHM_LOCK, SHM_STAT, SHM_STAT_ANY, SHM_UNLOCK},
    syscall as nr,
    time::Clock,
};
use arena::Ctx;

pub use crate::mqueue::{MqTimedreceive, MqTimedsend};
pub use crate::msg::Msgrcv;
use crate::{
    compat::{self, Layout},
    mqueue,
    msg::{self, MsgQueue},
    options::{POSIX_MQUEUE, SYSVIPC, require},
    sem::{self, SemArray},
    shm,
    task::{Cause, Deadline, Outcome, Task},
    util::{heed, outward},
};

/// A system call with its arguments.
pub trait Call {
    /// Makes the call, up to its end or to its first sleep.
    ///
    /// # Errors
    /// The call's.
    fn begin<T: Task>(&self, ctx: &Ctx<'_, T>) -> Result<Begun>;

    /// Its number and registers, to be decoded by [`Syscall::decode`] elsewhere.
    fn registers(&self) -> (i64, [u64; 6]);

    /// Goes on after a sleep, on the same thread slot.
    ///
    /// # Errors
    /// The call's. `EINVAL` for a call that never sleeps.
    fn resume<T: Task>(&self, _ctx: &Ctx<'_, T>, _cause: Cause) -> Result<Outcome> {
        Err(Errno::EINVAL)
    }
}

/// What the beginning of a call came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Over, or asleep.
    pub outcome: Outcome,
    /// When its sleep ends with [`Cause::Timeout`].
    pub deadline: Option<Deadline>,
}

impl From<Outcome> for Begun {
    #[inline(always)]
    fn from(outcome: Outcome) -> Begun {
        Begun { outcome, deadline: None }
    }
}

/// An int as a register.
fn int(value: i32) -> u64 {
    value.cast_unsigned().into()
}

#[inline(always)]
fn done(value: impl Into<i64>) -> Result<Begun> {
    Ok(Outcome::Done(value.into()).into())
}

/// Any of the calls: for doors that have registers.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "each is the call of its name")]
pub enum Syscall {
    Msgget(Msgget),
    Msgsnd(Msgsnd),
    Msgrcv(Msgrcv),
    Msgctl(Msgctl),
    Semget(Semget),
    Semtimedop(Semtimedop),
    Semctl(Semctl),
    Shmget(Shmget),
    Shmat(Shmat),
    Shmdt(Shmdt),
    Shmctl(Shmctl),
    MqOpen(MqOpen),
    MqUnlink(MqUnlink),
    MqTimedsend(MqTimedsend),
    MqTimedreceive(MqTimedreceive),
    MqNotify(MqNotify),
    MqGetsetattr(MqGetsetattr),
}

impl Syscall {
    /// The call of a number and six registers; none if it is not one of the engine's.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "the kernel takes ints of these registers"
    )]
    pub fn decode(number: i64, args: [u64; 6]) -> Option<Syscall> {
        let [a, b, c, d, e, _] = args;
        let int = |register: u64| register as i32;
        let semop = |timeout| {
            Syscall::Semtimedop(Semtimedop { id: int(a), sops: b, nsops: c, timeout, time32: false })
        };
        Some(match number {
            nr::MSGGET => Syscall::Msgget(Msgget { key: int(a), flags: int(b) }),
            nr::MSGSND => {
                Syscall::Msgsnd(Msgsnd { id: int(a), msgp: b, size: c, flags: int(d), mtype: None })
            }
            nr::MSGRCV => Syscall::Msgrcv(Msgrcv {
                id: int(a),
                msgp: b,
                size: c,
                msgtyp: d as i64,
                flags: int(e),
                text: None,
            }),
            nr::MSGCTL => Syscall::Msgctl(Msgctl { id: int(a), cmd: int(b), buf: c }),
            nr::SEMGET => Syscall::Semget(Semget { key: int(a), nsems: int(b), flags: int(c) }),
            nr::SEMOP => semop(0),
            nr::SEMTIMEDOP => semop(d),
            nr::SEMCTL => Syscall::Semctl(Semctl { id: int(a), num: int(b), cmd: int(c), arg: d }),
            nr::SHMGET => Syscall::Shmget(Shmget { key: int(a), size: b, flags: int(c) }),
            nr::SHMAT => Syscall::Shmat(Shmat { id: int(a), addr: b, flags: int(c), raddr: None }),
            nr::SHMDT => Syscall::Shmdt(Shmdt { addr: a }),
            nr::SHMCTL => Syscall::Shmctl(Shmctl { id: int(a), cmd: int(b), buf: c }),
            nr::MQ_OPEN => {
                Syscall::MqOpen(MqOpen { name: a, oflag: int(b), mode: int(c).cast_unsigned(), attr: d })
            }
            nr::MQ_UNLINK => Syscall::MqUnlink(MqUnlink { name: a }),
            nr::MQ_TIMEDSEND => Syscall::MqTimedsend(MqTimedsend {
                fd: int(a),
                msg: b,
                len: c,
                prio: int(d).cast_unsigned(),
                timeout: e,
                time32: false,
            }),
            nr::MQ_TIMEDRECEIVE => Syscall::MqTimedreceive(MqTimedreceive {
                fd: int(a),
                msg: b,
                len: c,
                prio: d,
                timeout: e,
                time32: false,
            }),
            nr::MQ_NOTIFY => Syscall::MqNotify(MqNotify { fd: int(a), sevp: b }),
            nr::MQ_GETSETATTR => Syscall::MqGetsetattr(MqGetsetattr { fd: int(a), new: b, old: c }),
            _ => return None,
        })
    }
}

/// Does the same with whichever call it is.
macro_rules! with_call {
    ($syscall:expr, $call:ident => $result:expr) => {
        match $syscall {
            Syscall::Msgget($call) => $result,
            Syscall::Msgsnd($call) => $result,
            Syscall::Msgrcv($call) => $result,
            Syscall::Msgctl($call) => $result,
            Syscall::Semget($call) => $result,
            Syscall::Semtimedop($call) => $result,
            Syscall::Semctl($call) => $result,
            Syscall::Shmget($call) => $result,
            Syscall::Shmat($call) => $result,
            Syscall::Shmdt($call) => $result,
            Syscall::Shmctl($call) => $result,
            Syscall::MqOpen($call) => $result,
            Syscall::MqUnlink($call) => $result,
            Syscall::MqTimedsend($call) => $result,
            Syscall::MqTimedreceive($call) => $result,
            Syscall::MqNotify($call) => $result,
            Syscall::MqGetsetattr($call) => $result,
        }
    };
}

impl Call for Syscall {
    fn begin<T: Task>(&self, ctx: &Ctx<'_, T>) -> Result<Begun> {
        with_call!(self, call => call.begin(ctx))
    }

    fn registers(&self) -> (i64, [u64; 6]) {
        with_call!(self, call => call.registers())
    }

    fn resume<T: Task>(&self, ctx: &Ctx<'_, T>, cause: Cause) -> Result<Outcome> {
        with_call!(self, call => call.resume(ctx, cause))
    }
}

// ---- message queues

/// The arguments of a `msgget(2)`.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "named as in the manual")]
pub struct Msgget {
    pub key: i32,
    pub flags: i32,
}

impl Call for Msgget {
    fn registers(&self) -> (i64, [u64; 6]) {
        (nr::MSGGET, [int(self.key), int(self.flags), 0, 0, 0, 0])
    }

    #[inline(always)]
    fn begin<T: Task>(&self, ctx: &Ctx<'_, T>) -> Result<Begun> {
        require(SYSVIPC)?;
        done(outward(msg::do_msgget(ctx, self.key, self.flags))?)
    }
}

/// The arguments of a `msgsnd(2)`.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "named as in the manual")]
pub struct Msgsnd {
    pub id: i32,
    pub msgp: u64,
    pub size: u64,
    pub flags: i32,
    /// The type, if only the text is at `msgp`: for callers that are no registers.
    pub mtype: Option<i64>,
}

impl Call for Msgsnd {
    fn registers(&self) -> (i64, [u64; 6]) {
        (nr::MSGSND, [int(self.id), self.msgp, self.size, int(self.flags), 0, 0])
    }

    #[inline(always)]
    fn begin<T: Task>(&self, ctx: &Ctx<'_, T>) -> Result<Begun> {
        require(SYSVIPC)?;
        let sent = msg::do_msgsnd(ctx, self);
        heed::<MsgQueue, T, _>(ctx, self.id, sent).map(Begun::from)
    }

    #[inline(always)]
    fn resume<T: Task>(&self, ctx: &Ctx<'_, T>, cause: Cause) -> Result<Outcome> {
        require(SYSVIPC)?;
        heed::<MsgQueue, T, _>(ctx, self.id, msg::resume_msgsnd(ctx, self.id, self.flags, cause))
    }
}

impl Call for Msgrcv {
    fn registers(&self) -> (i64, [u64; 6]) {
        let Msgrcv { id, msgp, size, msgtyp, flags, .. } = *self;
        (nr::MSGRCV, [int(id), msgp, size, msgtyp.cast_unsigned(), int(flags), 0])
    }

    #[inline(always)]
    fn begin<T: Task>(&self, ctx: &Ctx<'_, T>) -> Result<Begun> {
        require(SYSVIPC)?;
        heed::<MsgQueue, T, _>(ctx, self.id, msg::do_msgrcv(ctx, self)).map(Begun::from)
    }

    #[inline(always)]
    fn resume<T: Task>(&self, ctx: &Ctx<'_, T>, cause: Cause) -> Result<Outcome> {
        require(SYSVIPC)?;
        heed::<MsgQueue, T, _>(ctx, self.id, msg::resume_msgrcv(ctx, self, cause))
    }
}

/// The arguments of a `msgctl(2)`.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "named as in the manual")]
pub struct Msgctl {
    pub id: i32,
    pub cmd: i32,
    pub buf: u64,
}

impl Call for Msgctl {
    fn registers(&self) -> (i64, [u64; 6]) {
        (nr::MSGCTL, [int(self.id), int(self.cmd), self.buf, 0, 0, 0])
    }

    fn begin<T: Task>(&self, ctx: &Ctx<'_, T>) -> Result<Begun> {
        require(SYSVIPC)?;
        heed::<MsgQueue, T, _>(ctx, self.id, self.control(ctx))
    }
}

impl Msgctl {
    fn control<T: Task>(&self, ctx: &Ctx<'_, T>) -> Result<Begun> {
        let Msgctl { id, cmd, buf } = *self;
        let (layout, cmd) = Layout::of(ctx.host, cmd);
        msg::check_msgctl(id, cmd)?;
        match cmd {
            IPC_STAT | MSG_STAT | MSG_STAT_ANY => {
                let (result, stat) = msg::msgctl_stat(ctx, id, cmd)?;
                layout.put(ctx.host, buf, &stat)?;
                done(result)
            }
            IPC_INFO | MSG_INFO => {
                let (highest, info) = msg::msgctl_info(ctx, cmd)?;
                layout.put(ctx.host, buf, &info)?;
                done(highest)
            }
            IPC_SET => msg::msgctl_set(ctx, id, &layout.get(ctx.host, buf)?).and_then(|()| done(0)),
            IPC_RMID => msg::msgctl_rmid(ctx, id).and_then(|()| done(0)),
            _ => Err(Errno::EINVAL),
        }
    }
}

// ---- semaphores

/// The arguments of a `semget(2)`.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "named as in the manual")]
pub struct Semget {
    pub key: i32,
    pub nsems: i32,
    pub flags: i32,
}

impl Call for Semget {
    fn registers(&self) -> (i64, [u64; 6]) {
        (nr::SEMGET, [int(self.key), int(self.nsems), int(self.flags), 0, 0, 0])
    }

    #[inline(always)]
    fn begin<T: Task>(&self, ctx: &Ctx<'_, T>) -> Result<Begun> {
        require(SYSVIPC)?;
        done(outward(sem::do_semget(ctx, self.key, self.nsems, self.flags))?)
    }
}

/// The arguments of a `semtimedop(2)`; without a timeout (0) it is `semop(2)`.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "named as in the manual")]
pub struct Semtimedop {
    pub id: i32,
    pub sops: u64,
    pub nsops: u64,
    pub timeout: u64,
    /// The timeout has 32 bits.
    pub time32: bool,
}

impl Call for Semtimedop {
    fn registers(&self) -> (i64, [u64; 6]) {
        (nr::SEMTIMEDOP, [int(self.id), self.sops, self.nsops, self.timeout, 0, 0])
    }

    #[inline(always)]
    fn begin<T: Task>(&self, ctx: &Ctx<'_, T>) -> Result<Begun> {
        require(SYSVIPC)?;
        let timeout = match self.timeout {
            0 => None,
            at => Some(compat::get_timespec(ctx.host, at, self.time32)?.duration_ns()),
        };
        let outcome = sem::do_semtimedop(ctx, self.id, self.sops, self.nsops, timeout != Some(None));
        let outcome = heed::<SemArray, T, _>(ctx, self.id, outcome)?;
        // Only a sleeper needs to know the time.
        let deadline = match (outcome, timeout) {
            (Outcome::Blocked, Some(Some(ns))) => {
                let clock = Clock::Monotonic;
                Some(Deadline { clock, ns: ctx.host.clock_ns(clock).saturating_add(ns) })
            }
            _ => None,
        };
        Ok(Begun { outcome, deadline })
    }

    #[inline(always)]
    fn resume<T: Task>(&self, ctx: &Ctx<'_, T>, cause: Cause) -> Result<Outcome> {
        require(SYSVIPC)?;
        heed::<SemArray, T, _>(ctx, self.id, sem::resume_semtimedop(ctx, cause))
    }
}

/// The arguments of a `semctl(2)`.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "named as in the manual")]
pub struct Semctl {
    pub id: i32,
    pub num: i32,
    pub cmd: i32,
    /// `union semun`, as a register.
    pub arg: u64,
}

impl Call for Semctl {
    fn registers(&self) -> (i64, [u64; 6]) {
        (nr::SEMCTL, [int(self.id), int(self.num), int(self.cmd), self.arg, 0, 0])
    }

    fn begin<T: Task>(&self, ctx: &Ctx<'_, T>) -> Result<Begun> {
        require(SYSVIPC)?;
        let done = heed::<SemArray, T, _>(ctx, self.id, self.control(ctx));
        ctx.trim_log();
        done
    }
}

impl Semctl {
    fn control<T: Task>(&self, ctx: &Ctx<'_, T>) -> Result<Begun> {
        let Semctl { id, num, cmd, arg } = *self;
        let (layout, cmd) = Layout::of(ctx.host, cmd);
        sem::check_semctl(id, cmd)?;
        match cmd {
            IPC_STAT | SEM_STAT | SEM_STAT_ANY => {
                let (result, stat) = sem::semctl_stat(ctx, id, cmd)?;
                layout.put(ctx.host, arg, &stat)?;
                done(result)
            }
            IPC_INFO | SEM_INFO => {
                let (highest, info) = sem::semctl_info(ctx, cmd)?;
                layout.put(ctx.host, arg, &info)?;
                done(highest)
            }
            IPC_SET => sem::semctl_set(ctx, id, &layout.get(ctx.host, arg)?).and_then(|()| done(0)),
            IPC_RMID => sem::semctl_rmid(ctx, id).and_then(|()| done(0)),
            // The union's int is the low half of the argument.
            #[expect(clippy::cast_possible_truncation, reason = "the union's int")]
            SETVAL => sem::semctl_setval(ctx, id, num, arg as i32).and_then(|()| done(0)),
            SETALL => sem::semctl_setall(ctx, id, arg).and_then(|()| done(0)),
            GETALL => sem::semctl_getall(ctx, id, arg).and_then(|()| done(0)),
            _ => done(sem::semctl_get(ctx, id, num, cmd)?),
        }
    }
}

// ---- shared memory

/// The arguments of a `shmget(2)`.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "named as in the manual")]
pub struct Shmget {
    pub key: i32,
    pub size: u64,
    pub flags: i32,
}

impl Call for Shmget {
    fn registers(&self) -> (i64, [u64; 6]) {
        (nr::SHMGET, [int(self.key), self.size, int(self.flags), 0, 0, 0])
    }

    fn begin<T: Task>(&self, ctx: &Ctx<'_, T>) -> Result<Begun> {
        require(SYSVIPC)?;
        done(outward(shm::do_shmget(ctx, self.key, self.size, self.flags))?)
    }
}

/// The arguments of a `shmat(2)`.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "named as in the manual")]
pub struct Shmat {
    pub id: i32,
    pub addr: u64,
    pub flags: i32,
    /// Where the address goes, if it is not what the call returns: in `ipc(2)`.
    pub raddr: Option<u64>,
}

impl Call for Shmat {
    fn registers(&self) -> (i64, [u64; 6]) {
        (nr::SHMAT, [int(self.id), self.addr, int(self.flags), 0, 0, 0])
    }

    fn begin<T: Task>(&self, ctx: &Ctx<'_, T>) -> Result<Begun> {
        require(SYSVIPC)?;
        let at = outward(shm::do_shmat(ctx, self.id, self.addr, self.flags))?.cast_signed();
        match self.raddr {
            None => done(at),
            Some(place) => compat::put_long(ctx.host, place, at).and_then(|()| done(0)),
        }
    }
}

/// The argument of a `shmdt(2)`.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "named as in the manual")]
pub struct Shmdt {
    pub addr: u64,
}

impl Call for Shmdt {
    fn registers(&self) -> (i64, [u64; 6]) {
        (nr::SHMDT, [self.addr, 0, 0, 0, 0, 0])
    }

    fn begin<T: Task>(&self, ctx: &Ctx<'_, T>) -> Result<Begun> {
        require(SYSVIPC)?;
        outward(shm::do_shmdt(ctx, self.addr)).and_then(|()| done(0))
    }
}

/// The arguments of a `shmctl(2)`.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "named as in the manual")]
pub struct Shmctl {
    pub id: i32,
    pub cmd: i32,
    pub buf: u64,
}

impl Call for Shmctl {
    fn registers(&self) -> (i64, [u64; 6]) {
        (nr::SHMCTL, [int(self.id), int(self.cmd), self.buf, 0, 0, 0])
    }

    fn begin<T: Task>(&self, ctx: &Ctx<'_, T>) -> Result<Begun> {
        require(SYSVIPC)?;
        outward(self.control(ctx))
    }
}

impl Shmctl {
    fn control<T: Task>(&self, ctx: &Ctx<'_, T>) -> Result<Begun> {
        let Shmctl { id, cmd, buf } = *self;
        let (layout, cmd) = Layout::of(ctx.host, cmd);
        shm::check_shmctl(id, cmd)?;
        match cmd {
            IPC_STAT | SHM_STAT | SHM_STAT_ANY => {
                let (result, stat) = shm::shmctl_stat(ctx, id, cmd)?;
                layout.put(ctx.host, buf, &stat)?;
                done(result)
            }
            IPC_INFO => {
                let (highest, info) = shm::shmctl_ipc_info(ctx)?;
                layout.put(ctx.host, buf, &info)?;
                done(highest)
            }
            SHM_INFO => {
                let (highest, info) = shm::shmctl_shm_info(ctx)?;
                layout.put(ctx.host, buf, &info)?;
                done(highest)
            }
            IPC_SET => shm::shmctl_set(ctx, id, &layout.get(ctx.host, buf)?).and_then(|()| done(0)),
            IPC_RMID => shm::shmctl_rmid(ctx, id).and_then(|()| done(0)),
            SHM_LOCK | SHM_UNLOCK => shm::shmctl_lock(ctx, id, cmd == SHM_LOCK).and_then(|()| done(0)),
            _ => Err(Errno::EINVAL),
        }
    }
}

// ---- POSIX message queues

/// The arguments of a `mq_open(2)`.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "named as in the manual")]
pub struct MqOpen {
    pub name: u64,
    pub oflag: i32,
    pub mode: u32,
    pub attr: u64,
}

impl Call for MqOpen {
    fn registers(&self) -> (i64, [u64; 6]) {
        (nr::MQ_OPEN, [self.name, int(self.oflag), self.mode.into(), self.attr, 0, 0])
    }

    fn begin<T: Task>(&self, ctx: &Ctx<'_, T>) -> Result<Begun> {
        require(POSIX_MQUEUE)?;
        done(outward(mqueue::do_mq_open(ctx, self.name, self.oflag, self.mode, self.attr))?)
    }
}

/// The argument of a `mq_unlink(2)`.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "named as in the manual")]
pub struct MqUnlink {
    pub name: u64,
}

impl Call for MqUnlink {
    fn registers(&self) -> (i64, [u64; 6]) {
        (nr::MQ_UNLINK, [self.name, 0, 0, 0, 0, 0])
    }

    fn begin<T: Task>(&self, ctx: &Ctx<'_, T>) -> Result<Begun> {
        require(POSIX_MQUEUE)?;
        outward(mqueue::do_mq_unlink(ctx, self.name)).and_then(|()| done(0))
    }
}

impl Call for MqTimedsend {
    fn registers(&self) -> (i64, [u64; 6]) {
        let MqTimedsend { fd, msg, len, prio, timeout, .. } = *self;
        (nr::MQ_TIMEDSEND, [int(fd), msg, len, prio.into(), timeout, 0])
    }

    #[inline(always)]
    fn begin<T: Task>(&self, ctx: &Ctx<'_, T>) -> Result<Begun> {
        require(POSIX_MQUEUE)?;
        outward(mqueue::do_mq_timedsend(ctx, self))
    }

    #[inline(always)]
    fn resume<T: Task>(&self, ctx: &Ctx<'_, T>, cause: Cause) -> Result<Outcome> {
        require(POSIX_MQUEUE)?;
        outward(mqueue::resume_mq_timedsend(ctx, cause))
    }
}

impl Call for MqTimedreceive {
    fn registers(&self) -> (i64, [u64; 6]) {
        let MqTimedreceive { fd, msg, len, prio, timeout, .. } = *self;
        (nr::MQ_TIMEDRECEIVE, [int(fd), msg, len, prio, timeout, 0])
    }

    #[inline(always)]
    fn begin<T: Task>(&self, ctx: &Ctx<'_, T>) -> Result<Begun> {
        require(POSIX_MQUEUE)?;
        outward(mqueue::do_mq_timedreceive(ctx, self))
    }

    #[inline(always)]
    fn resume<T: Task>(&self, ctx: &Ctx<'_, T>, cause: Cause) -> Result<Outcome> {
        require(POSIX_MQUEUE)?;
        outward(mqueue::resume_mq_timedreceive(ctx, self, cause))
    }
}

/// The arguments of a `mq_notify(2)`.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "named as in the manual")]
pub struct MqNotify {
    pub fd: i32,
    pub sevp: u64,
}

impl Call for MqNotify {
    fn registers(&self) -> (i64, [u64; 6]) {
        (nr::MQ_NOTIFY, [int(self.fd), self.sevp, 0, 0, 0, 0])
    }

    fn begin<T: Task>(&self, ctx: &Ctx<'_, T>) -> Result<Begun> {
        require(POSIX_MQUEUE)?;
        outward(mqueue::do_mq_notify(ctx, self.fd, self.sevp)).map(Begun::from)
    }

    fn resume<T: Task>(&self, ctx: &Ctx<'_, T>, cause: Cause) -> Result<Outcome> {
        require(POSIX_MQUEUE)?;
        outward(mqueue::resume_mq_notify_thread(ctx, cause))
    }
}

/// The arguments of a `mq_getsetattr(2)`.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "named as in the manual")]
pub struct MqGetsetattr {
    pub fd: i32,
    pub new: u64,
    pub old: u64,
}

impl Call for MqGetsetattr {
    fn registers(&self) -> (i64, [u64; 6]) {
        (nr::MQ_GETSETATTR, [int(self.fd), self.new, self.old, 0, 0, 0])
    }

    fn begin<T: Task>(&self, ctx: &Ctx<'_, T>) -> Result<Begun> {
        require(POSIX_MQUEUE)?;
        outward(mqueue::do_mq_getsetattr(ctx, self.fd, self.new, self.old)).and_then(|()| done(0))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::format;

    use super::*;

    #[test]
    fn an_int_is_the_low_half_of_a_register() {
        let high = 7 << 32;
        let call = Syscall::decode(nr::MSGGET, [high | 5, high | 0o600, 0, 0, 0, 0]);
        assert!(matches!(call, Some(Syscall::Msgget(Msgget { key: 5, flags: 0o600 }))));
        let call = Syscall::decode(nr::SEMCTL, [u64::MAX, 0, 16, high | 3, 0, 0]);
        let Some(Syscall::Semctl(Semctl { id: -1, num: 0, cmd: SETVAL, arg })) = call else {
            panic!("{call:?}")
        };
        assert_eq!(arg, high | 3, "the union is passed on whole");
    }

    #[test]
    fn semop_has_no_timeout_whatever_the_fourth_register_holds() {
        let args = [1, 2, 3, 4, 0, 0];
        let timeout = |number| match Syscall::decode(number, args) {
            Some(Syscall::Semtimedop(Semtimedop { id: 1, sops: 2, nsops: 3, timeout, .. })) => timeout,
            other => panic!("{other:?}"),
        };
        assert_eq!((timeout(nr::SEMOP), timeout(nr::SEMTIMEDOP)), (0, 4));
    }

    #[test]
    fn registers_are_decoded_to_the_same_call() {
        for number in [29, 30, 31, 64, 66, 67, 68, 69, 70, 71, 220, 240, 241, 242, 243, 244, 245] {
            let args = [u64::MAX, 0x1_0000_0002, 3, 0xffff_ffff_0000_0004, 5, 6];
            let call = Syscall::decode(number, args).unwrap();
            let (again, registers) = call.registers();
            let decoded = Syscall::decode(again, registers).unwrap();
            assert_eq!((again, format!("{decoded:?}")), (number, format!("{call:?}")));
        }
    }

    #[test]
    fn other_numbers_are_the_kernels() {
        assert!(Syscall::decode(0, [0; 6]).is_none());
        assert!(Syscall::decode(-1, [0; 6]).is_none());
    }
}
