//! The root of a namespace: its limits, as data, and its four classes of identifiers.

use abi::{Result, mqueue as mq, msg, sem, shm};
use arena::{
    Arena, Ctx, Host, Ref,
    sync::{AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering::*},
};

use crate::{
    mqueue::{MqueueInodeInfo, mq_evict},
    msg::{MsgQueue, msgctl_rmid},
    sem::{SemArray, semctl_rmid},
    shm::{ShmidKernel, shmctl_rmid},
    task::Task,
    util::{IpcIds, Object, arena_errno, id_at, settle_ids},
};

/// A limit of a namespace, by its sysctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Limit {
    /// `kernel.msgmax`: largest message, bytes.
    MsgMax,
    /// `kernel.msgmnb`: bytes of a new queue.
    MsgMnb,
    /// `kernel.msgmni`: most queues.
    MsgMni,
    /// `kernel.sem`, first: most semaphores of a set.
    SemMsl,
    /// `kernel.sem`, second: most semaphores.
    SemMns,
    /// `kernel.sem`, third: most operations of a call.
    SemOpm,
    /// `kernel.sem`, fourth: most sets.
    SemMni,
    /// `kernel.shmmni`: most segments.
    ShmMni,
    /// `kernel.shm_rmid_forced`: 1 if a segment goes with its last attachment, whether removed or not.
    ShmRmidForced,
    /// `fs.mqueue.queues_max`: most POSIX queues.
    MqQueuesMax,
    /// `fs.mqueue.msg_max`: most messages of a POSIX queue.
    MqMsgMax,
    /// `fs.mqueue.msgsize_max`: its longest message, bytes.
    MqMsgsizeMax,
    /// `fs.mqueue.msg_default`: most messages of one that doesn't say.
    MqMsgDefault,
    /// `fs.mqueue.msgsize_default`: the longest of one that doesn't say.
    MqMsgsizeDefault,
    /// `ipcspace.sem_barging`: 1 if a semaphore that becomes free is nobody's until somebody takes it.
    SemBarging,
    /// `ipcspace.stranger_objects`: most objects that a stranger's user may have made.
    StrangerObjects,
    /// `ipcspace.stranger_waiters`: most calls of a stranger's user that may sleep.
    StrangerWaiters,
    /// `ipcspace.stranger_connections`: most threads, and most processes, of a stranger's user.
    StrangerConnections,
}

const LIMITS: usize = 18;
/// What a stranger's user may have, unless it is said otherwise.
const STRANGER_OBJECTS: i32 = 1024;
const STRANGER_BYTES: u64 = 1 << 30;
const STRANGER_WAITERS: i32 = 256;
const STRANGER_CONNECTIONS: i32 = 256;

arena::shared! {
    /// A namespace, at the root of its arena.
    pub struct IpcNamespace {
        /// Whoever has this uid is root in the namespace.
        pub owner_uid: AtomicU32,
        /// Whether the namespace lives in the initial user namespace.
        pub initial_userns: AtomicU32,
        /// The broker sleeps here; see `ring`.
        pub doorbell: AtomicU32,
        /// What the broker is asked for: bits of `ASK_*`.
        pub asks: AtomicU32,
        limits: [AtomicI32; LIMITS],
        /// The broker's process id.
        pub broker_pid: AtomicU32,
        /// `kernel.shmmax`: largest segment, bytes.
        pub shm_ctlmax: AtomicU64,
        /// `kernel.shmall`: most pages of all segments.
        pub shm_ctlall: AtomicU64,
        /// `ipcspace.msgqueue`: `RLIMIT_MSGQUEUE` in the namespace; 0: each process has its own.
        pub(crate) msgqueue_limit: AtomicU64,
        /// What each user has of POSIX queues: see `mqueue`.
        pub(crate) mq_users: AtomicU32,
        /// How many POSIX queues have a name.
        pub(crate) mq_names: AtomicU32,
        /// `ipcspace.stranger_bytes`: most bytes that what a stranger's user has made may hold.
        pub stranger_bytes: AtomicU64,
        /// When one was last given or taken away, seconds since 1970.
        pub mq_dir_time: AtomicI64,
        unused: AtomicU64,
        /// Message queues.
        pub msg_ids: IpcIds,
        /// Semaphore sets.
        pub sem_ids: IpcIds,
        /// Segments of shared memory.
        pub shm_ids: IpcIds,
        /// POSIX message queues.
        pub mq_ids: IpcIds,
    }
}

/// Memory may be given back.
pub const ASK_TRIM: u32 = 1;
/// Somebody waits for a lock for too long.
pub const ASK_STALLED: u32 = 2;
/// A segment of shared memory may be over.
pub const ASK_SEGMENTS: u32 = 4;

impl IpcNamespace {
    /// The namespace of an arena.
    ///
    /// # Errors
    /// `EIDRM` if the arena is not one.
    #[inline(always)]
    pub fn of<'a, H: Host>(arena: &'a Arena, host: &H) -> Result<Ref<'a, IpcNamespace>> {
        arena.root(host).map_err(arena_errno)
    }

    /// Sets the defaults of a new namespace.
    pub fn init(&self, owner_uid: u32, initial_userns: bool) {
        self.owner_uid.store(owner_uid, Relaxed);
        self.initial_userns.store(u32::from(initial_userns), Relaxed);
        for (limit, value) in [
            (Limit::MsgMax, msg::MSGMAX),
            (Limit::MsgMnb, msg::MSGMNB),
            (Limit::MsgMni, msg::MSGMNI),
            (Limit::SemMsl, sem::SEMMSL),
            (Limit::SemMns, sem::SEMMNS),
            (Limit::SemOpm, sem::SEMOPM),
            (Limit::SemMni, sem::SEMMNI),
            (Limit::ShmMni, shm::SHMMNI),
            (Limit::ShmRmidForced, 0),
            (Limit::MqQueuesMax, mq::DFLT_QUEUESMAX),
            (Limit::MqMsgMax, mq::DFLT_MSG),
            (Limit::MqMsgsizeMax, mq::DFLT_MSGSIZE),
            (Limit::MqMsgDefault, mq::DFLT_MSG),
            (Limit::MqMsgsizeDefault, mq::DFLT_MSGSIZE),
            (Limit::SemBarging, 0),
            (Limit::StrangerObjects, STRANGER_OBJECTS),
            (Limit::StrangerWaiters, STRANGER_WAITERS),
            (Limit::StrangerConnections, STRANGER_CONNECTIONS),
        ] {
            self.limits[limit as usize].store(value, Relaxed);
        }
        self.shm_ctlmax.store(shm::SHMMAX, Relaxed);
        self.shm_ctlall.store(shm::SHMALL, Relaxed);
        self.stranger_bytes.store(STRANGER_BYTES, Relaxed);
        for ids in [&self.msg_ids, &self.sem_ids, &self.shm_ids, &self.mq_ids] {
            ids.init();
        }
    }

    pub(crate) fn set_limit(&self, limit: Limit, value: i32) {
        self.limits[limit as usize].store(value, Relaxed);
    }

    /// A limit's value. The kernel's type is `int`.
    #[inline(always)]
    pub fn limit(&self, limit: Limit) -> i32 {
        self.limits[limit as usize].load(Relaxed)
    }

    /// How many POSIX queues there are, with and without a name.
    pub fn posix_queues(&self) -> u32 {
        self.mq_ids.in_use()
    }

    /// Asks the broker for something. Returns whether it must be woken by a futex wake on `doorbell`.
    pub fn ring(&self, ask: u32) -> bool {
        let news = self.asks.fetch_or(ask, AcqRel) & ask == 0;
        if news {
            self.doorbell.fetch_add(1, Release);
        }
        news
    }
}

/// `free_ipc_ns`: the namespace is over. Nothing can be made in it any more (`ENOSPC`), and what there is goes: sleepers get `EIDRM`,
/// a segment that is mapped goes with its last mapping.
///
/// # Errors
/// `EIDRM` if the namespace makes no sense.
pub fn free_ipc_ns<T: Task>(ctx: &Ctx<'_, T>) -> Result<()> {
    let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
    for limit in [Limit::MsgMni, Limit::SemMni, Limit::ShmMni, Limit::MqQueuesMax] {
        ns.set_limit(limit, 0);
    }
    free_ipcs::<MsgQueue, T>(ctx, &ns, msgctl_rmid)?;
    free_ipcs::<SemArray, T>(ctx, &ns, semctl_rmid)?;
    free_ipcs::<ShmidKernel, T>(ctx, &ns, shmctl_rmid)?;
    free_ipcs::<MqueueInodeInfo, T>(ctx, &ns, mq_evict)
}

/// `free_ipcs`: removes all objects of a class, of which no more can be made.
fn free_ipcs<O: Object, T: Task>(
    ctx: &Ctx<'_, T>,
    ns: &IpcNamespace,
    free: impl Fn(&Ctx<'_, T>, i32) -> Result<()>,
) -> Result<()> {
    // Whoever saw the limit of before is through.
    settle_ids::<O, T>(ctx)?;
    let mut idx = 0;
    while let Some(used) = O::ids(ns).next_used(idx) {
        idx = used + 1;
        // Somebody else may be removing it.
        let _ = id_at::<O, T>(ctx, used).and_then(|id| free(ctx, id));
    }
    Ok(())
}
