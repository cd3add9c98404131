//! POSIX message queues.
//!
//! What users see: behaviour as in Linux. The cost of sending and receiving does not grow with what is queued.
//!
//! A notification to a netlink socket (libc's way to `SIGEV_THREAD`) is a sleep until there is one, [`do_mq_notify_thread`], on behalf of a host that tells
//! the socket.
//!
//! A queue is an object as those of System V: its identifier is for the namespace only, its key is its name's hash. A descriptor is the system's
//! ([`Descriptors`](crate::Descriptors)), which also knows whether anybody holds one. A queue ends when it has no name and nobody holds it, by a
//! descriptor or by sleeping on it: who takes the name looks, who closes a descriptor or leaves off sleeping looks, and the broker does, for those
//! who are gone.
//!
//! The lock of `mq_ids` guards names, which a queue loses once (`unlinked`), and what each user has. The queue's lock guards all else of
//! [`MqueueInodeInfo`], its messages' links, and the waiters on its two lists. `pending` names work that a holder began and did not finish.

use core::mem::offset_of;

use abi::{
    Errno, Result,
    ipc::IPC_PRIVATE,
    mqueue::{
        HARD_MSGMAX, HARD_MSGSIZEMAX, MQ_PRIO_MAX, MqAttr, NAME_MAX, NSIG, O_ACCMODE, O_CREAT, O_EXCL,
        O_NONBLOCK, O_RDWR, O_WRONLY, PATH_MAX, SIGEV_NONE, SIGEV_SIGNAL, SIGEV_THREAD,
    },
    time::Clock,
};
use arena::{
    Class, Ctx, Handle, Lock, Phase, Ref, SPAN, Tx, Waiter,
    sync::{AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering::*},
};

use crate::{
    compat,
    msg::MESSAGE_BYTES,
    msgutil::{MsgMsg, load_msg, message, store_msg},
    namespace::{IpcNamespace, Limit},
    reap::give_up,
    syscall::Begun,
    task::{Cause, Cred, Deadline, Mqd, Notice, Outcome, Readiness, Task},
    types::{
        Sought, TypeNode, TypeTree, append_to_type, insert_type, keep_idle, obtain_type, outermost,
        take_idle, unlink_from_type,
    },
    usage::{charge_more, charge_new},
    util::{
        CORRUPT, Ends, GUTTED, Head, Holder, IpcIds, KernIpcPerm, Locked, Object, OrErrno, SLEEPERS,
        STATE_DYING, STATE_LIVE, STATE_POISONED, add_id, begin_sleep, complete_sleep, end_listing,
        ensure_span, ensure_tables, find_key, free_object, gut, has_ended, heed, ids_ref, insist, leave,
        lock_object, missing_table, new_object, note_done, note_outcome, note_taken, note_was_given,
        object_at, obtain_object_idx, outcome_of, own_block, prepare_sleep, publish, release_sleepers, rm_id,
        set_chain, set_dying, sleeper, taken, unlink_key,
    },
};

/// A waiter's kind, and the class of a doomed queue.
pub(crate) const KIND_MQ_RECV: u32 = 5;
/// A waiter's kind.
pub(crate) const KIND_MQ_SEND: u32 = 6;
/// A waiter's kind: on no list, but the registration names it.
pub(crate) const KIND_MQ_NOTIFY: u32 = 7;

/// `pending`: senders may have room.
const ROOM: u32 = 1;
/// `pending`: whoever has registered is to be told.
const NOTIFY: u32 = 2;

/// Kinds of registration, 0 being none: one more than `SIGEV_*`.
const BY_SIGNAL: u32 = 1;
const BY_NOTHING: u32 = 2;
const BY_THREAD: u32 = 3;

/// What [`do_mq_notify_thread`] returns when a message has come (`NOTIFY_WOKENUP`).
pub const NOTIFY_WOKENUP: i64 = 1;
/// What it returns when the registration is gone (`NOTIFY_REMOVED`).
pub const NOTIFY_REMOVED: i64 = 2;

/// Sizes of the kernel's `msg_msg` and `posix_msg_tree_node`, by which a queue is paid for.
const SIZEOF_MSG: u64 = 48;
const SIZEOF_NODE: u64 = 48;

/// `watched`: what has become of the queue is shown at once.
const ALWAYS: u32 = 1;
/// `watched`: and that something has become of it, though it look the same.
const EDGES: u32 = 2;

/// No descriptor, for a host that has none of the queue.
pub const NO_FD: i32 = -1;

/// `open` is tried again if the queue that it found has ended meanwhile.
const TRIES: u32 = 1000;
/// How long, and how often, it is looked whether others have ended what they were about to: they may not have the CPU.
const ENDING_NS: u64 = 10_000_000;
const ENDING_TRIES: u32 = 2000;

arena::shared! {
    /// `mqueue_inode_info`.
    pub(crate) struct MqueueInodeInfo {
        pub(crate) perm: KernIpcPerm,
        pub(crate) atime: AtomicI64,
        pub(crate) mtime: AtomicI64,
        pub(crate) ctime: AtomicI64,
        lock: Lock,
        /// Bytes of all messages.
        qsize: AtomicU64,
        curmsgs: AtomicU32,
        maxmsg: AtomicU32,
        msgsize: AtomicU32,
        /// Whether its name is gone.
        pub(crate) unlinked: AtomicU32,
        /// Its messages by priority.
        types: TypeTree,
        pending: AtomicU32,
        recv: [AtomicU32; 2],
        send: [AtomicU32; 2],
        /// A block with the name; see [`Name`].
        name: AtomicU32,
        name_len: AtomicU32,
        /// Who is to be told when a message comes, `BY_*`.
        notify: AtomicU32,
        notify_signo: AtomicI32,
        notify_value: AtomicU64,
        /// Which program of its process's it is.
        notify_program: AtomicU64,
        notify_pid: AtomicU32,
        notify_process: AtomicU32,
        /// The waiter of a registration by thread.
        notify_waiter: AtomicU32,
        /// Whose message `pending` is to tell of.
        from_pid: AtomicU32,
        from_uid: AtomicU32,
        /// Whether somebody may be polling a descriptor at any time, `ALWAYS` or `EDGES`.
        watched: AtomicU32,
        /// What is shown to them: a [`Readiness`].
        shown: AtomicU32,
        /// Whether somebody has had a descriptor who may not be trusted with what it shows: see [`distrust`].
        foreign: AtomicU32,
        pad: AtomicU32,
        /// Processes some of whose threads are polling right now, and how many; see [`Poller`].
        pollers: [AtomicU64; 2],
    }

    /// What a user has of queues.
    struct MqUser {
        uid: AtomicU32,
        /// Whether it has ever been somebody's: behind an entry that has not, there is nobody who is looked for from before it.
        used: AtomicU32,
        /// 0: the entry is free.
        bytes: AtomicU64,
    }
}
const _: () = assert!(size_of::<MqueueInodeInfo>() <= 256);
#[cfg(not(any(loom, shuttle)))]
const _: () = assert!(
    offset_of!(MqueueInodeInfo, lock) == offset_of!(Head, lock) && offset_of!(MqueueInodeInfo, name) == 128
);

/// Users that can have queues at the same time.
const USERS: usize = SPAN as usize / size_of::<MqUser>();

impl Object for MqueueInodeInfo {
    const CLASS: Class = Class::MQUEUE;
    const LIMIT: Limit = Limit::MqQueuesMax;
    fn perm(&self) -> &KernIpcPerm {
        &self.perm
    }
    fn lock(&self) -> &Lock {
        &self.lock
    }
    fn ids(ns: &IpcNamespace) -> &IpcIds {
        &ns.mq_ids
    }
    fn holds(&self) -> u64 {
        let heads = u64::from(self.curmsgs.load(Relaxed)).saturating_mul(MESSAGE_BYTES);
        (size_of::<MqueueInodeInfo>() as u64).saturating_add(self.qsize.load(Relaxed)).saturating_add(heads)
    }
    #[inline(always)]
    fn finish_pending<T: Task>(tx: &mut Tx<'_, '_, T>, q: &Ref<'_, Self>) -> Result<()> {
        if q.pending.load(Relaxed) == 0 {
            return Ok(());
        }
        // The reference's life is the arena's; the trait's signature does not know.
        let q = tx.ctx().at::<MqueueInodeInfo>(q.handle()).or_errno()?;
        finish(tx, &q)
    }
}

impl Holder for MqueueInodeInfo {
    fn contents(&self) -> impl Iterator<Item = &AtomicU32> {
        let others = [&self.name, &self.name_len, &self.curmsgs, &self.notify, &self.notify_waiter];
        self.types.words().into_iter().chain(&self.recv).chain(&self.send).chain(others)
    }
    fn pending(&self) -> &AtomicU32 {
        &self.pending
    }
}

type Q<'a> = Ref<'a, MqueueInodeInfo>;

// ---- names

/// A queue's name: at most [`NAME_MAX`] bytes, as words, which is how it lies in its block too.
pub(crate) struct Name {
    words: [u64; NAME_MAX / 8 + 1],
    len: usize,
}

/// Bytes before the words of a name's block.
const NAME_AT: u64 = 8;

impl Name {
    const EMPTY: Name = Name { words: [0; NAME_MAX / 8 + 1], len: 0 };

    /// Takes a name from the caller's memory; into its place, as it is long.
    fn take_user<T: Task>(&mut self, task: &T, at: u64) -> Result<()> {
        const EACH: u64 = u64::MAX / 0xff;
        /// Has the highest bit of the first byte that is 0, and none before it.
        fn zeros(word: u64) -> u64 {
            word.wrapping_sub(EACH) & !word & EACH << 7
        }
        let mut slash = false;
        // By words that lie in one page each, so that nothing is read that the caller hasn't.
        let mut skip = u32::try_from(at % 8).unwrap_or(0);
        while self.len < PATH_MAX {
            let word = task.get_user::<u64>(at.wrapping_add(self.len as u64) & !7)? >> (8 * skip);
            let there = 8 - skip;
            let len = (zeros(word).trailing_zeros() / 8).min(there);
            let word = if len == 8 { word } else { word & ((1u64 << (8 * len)) - 1) };
            slash |= zeros(word ^ (EACH * u64::from(b'/'))) != 0;
            self.append(word, len as usize);
            if len < there && self.len < PATH_MAX {
                return self.check(slash);
            }
            skip = 0;
        }
        Err(Errno::ENAMETOOLONG)
    }

    /// The first `len` bytes of a word, whose others are 0. What is too long is counted only.
    fn append(&mut self, word: u64, len: usize) {
        let (at, bits) = (self.len / 8, self.len % 8 * 8);
        let parts = [word << bits, (word >> 1) >> (63 - bits)];
        for (place, part) in self.words.iter_mut().skip(at).zip(parts) {
            *place |= part;
        }
        self.len += len;
    }

    /// A name that a file system was asked for: without slashes, and no dots alone.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Result<Name> {
        let mut name = Name::EMPTY;
        for byte in bytes {
            name.append(u64::from(*byte), 1);
        }
        name.check(false)?;
        Ok(name)
    }

    /// Whether a queue can have it.
    fn check(&self, slash: bool) -> Result<()> {
        const DOT: u64 = b'.' as u64;
        match self.len {
            0 => Err(Errno::ENOENT),
            1 if self.words[0] == DOT => Err(Errno::EACCES),
            2 if self.words[0] == DOT << 8 | DOT => Err(Errno::EACCES),
            _ if slash => Err(Errno::EACCES),
            len if len > NAME_MAX => Err(Errno::ENAMETOOLONG),
            _ => Ok(()),
        }
    }

    fn used(&self) -> &[u64] {
        &self.words[..self.len.div_ceil(8)]
    }

    /// Its hash, as a key: never `IPC_PRIVATE`.
    #[expect(clippy::cast_possible_truncation, reason = "a hash")]
    fn key(&self) -> i32 {
        let mix = |hash: u64, word: &u64| (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        let hash = self.used().iter().fold(0xcbf2_9ce4_8422_2325, mix);
        let key = ((hash >> 32) ^ hash) as u32;
        if key == 0 { 1 } else { key.cast_signed() }
    }

    /// Whether it is the queue's; the lock of `mq_ids` is held.
    fn is_of<T: Task>(&self, ctx: &Ctx<'_, T>, q: &MqueueInodeInfo) -> Result<bool> {
        if q.name_len.load(Relaxed) as usize != self.len {
            return Ok(false);
        }
        let block = Handle(q.name.load(Relaxed));
        let words = ctx.array::<AtomicU64>(block, NAME_AT, self.used().len()).or_errno()?;
        Ok(words.iter().zip(self.used()).all(|(there, here)| there.load(Relaxed) == *here))
    }

    /// A block with it, which becomes the head of the thread's in-flight chain.
    fn store<T: Task>(&self, ctx: &Ctx<'_, T>) -> Result<Handle> {
        let block = ctx.alloc(NAME_AT + self.used().len() as u64 * 8).or_errno()?;
        ctx.chain(block).or_errno()?;
        let words = ctx.array::<AtomicU64>(block, NAME_AT, self.used().len()).or_errno()?;
        for (there, here) in words.iter().zip(self.used()) {
            there.store(*here, Relaxed);
        }
        Ok(block)
    }
}

/// The queue of a name, and its identifier.
pub(crate) fn lookup<'a, T: Task>(ctx: &Ctx<'a, T>, name: &Name) -> Result<Option<(Q<'a>, i32)>> {
    let (_, ids) = ids_ref::<MqueueInodeInfo, T>(ctx)?;
    if ids.keys.load(Acquire) == 0 {
        return Ok(None);
    }
    let _tx = ctx.lock(ids.part(|i| &i.lock)).or_errno()?;
    let found = find(ctx, &ids, name)?;
    Ok(found.map(|q| (q, q.perm.id.load(Relaxed))))
}

/// The queue of a name; the lock of `mq_ids` is held.
fn find<'a, T: Task>(ctx: &Ctx<'a, T>, ids: &IpcIds, name: &Name) -> Result<Option<Q<'a>>> {
    if ids.keys.load(Relaxed) == 0 {
        return Ok(None);
    }
    find_key(ctx, ids, name.key(), |q: &Q<'a>| name.is_of(ctx, q))
}

// ---- mq_open

/// `mq_open(2)`.
///
/// # Errors
/// `EFAULT ENAMETOOLONG ENOENT EACCES EEXIST EINVAL ENOSPC EMFILE ENFILE ENOMEM`.
pub fn do_mq_open<T: Task>(ctx: &Ctx<'_, T>, name: u64, oflag: i32, mode: u32, attr: u64) -> Result<i32> {
    // That of a 32-bit program is read only where a queue may be made.
    let unread = attr == 0 || ctx.host.in_compat_syscall() && oflag & O_CREAT == 0;
    let attr = if unread { None } else { Some(compat::get_mq_attr(ctx.host, attr)?) };
    let opened = open(ctx, name, oflag, mode, attr.as_ref());
    opened.map_err(|error| match error {
        // The kernel takes a number before it looks at what the name says.
        Errno::EFAULT | CORRUPT => error,
        _ => ctx.host.mqd_possible().err().unwrap_or(error),
    })
}

fn open<T: Task>(ctx: &Ctx<'_, T>, name: u64, oflag: i32, mode: u32, attr: Option<&MqAttr>) -> Result<i32> {
    let mut taken = Name::EMPTY;
    taken.take_user(ctx.host, name)?;
    let name = &taken;
    for _ in 0..TRIES {
        match lookup(ctx, name)? {
            Some((q, id)) => {
                prepare_open(ctx.host, &q.perm, oflag)?;
                let fd = ctx.host.new_mqd(q.handle(), oflag)?;
                if is_live(ctx, &q, id).inspect_err(|_| ctx.host.drop_mqd(fd))? {
                    return Ok(fd);
                }
                ctx.host.drop_mqd(fd);
            }
            None if oflag & O_CREAT == 0 => return Err(Errno::ENOENT),
            None => {
                let by = Creator::of(ctx.host, IpcNamespace::of(ctx.arena, ctx.host)?.get());
                let create = || mq_create(ctx, name, Some(oflag), mode, attr, &by);
                let mut made = create();
                // What the dead held counts until somebody looks, and then until that one has done.
                let is_full = |made: &Result<_>| matches!(made, Err(Errno::ENOSPC | Errno::EMFILE));
                if is_full(&made) {
                    let mut ends = some_end(ctx)?;
                    settle_unlinked(ctx)?;
                    ends |= some_end(ctx)?;
                    let until = ctx.host.clock_ns(Clock::Monotonic).saturating_add(ENDING_NS);
                    for _ in 0..ENDING_TRIES {
                        made = create();
                        if !ends || !is_full(&made) || ctx.host.clock_ns(Clock::Monotonic) >= until {
                            break;
                        }
                        ends = some_end(ctx)?;
                    }
                }
                if let Some(fd) = made? {
                    return Ok(fd);
                }
            }
        }
    }
    Err(CORRUPT)
}

/// Whether it is still the queue of an identifier; one that a descriptor names does not end.
pub(crate) fn is_live<'a, T: Task>(ctx: &Ctx<'a, T>, q: &Q<'a>, id: i32) -> Result<bool> {
    let Locked { object: q, tx: _tx } = lock_object(ctx, *q)?;
    match q.perm.state.load(Relaxed) {
        STATE_POISONED => Err(Errno::EIDRM),
        state => Ok(state == STATE_LIVE && q.perm.id.load(Relaxed) == id),
    }
}

/// `prepare_open`, of a queue that is there.
fn prepare_open<T: Task>(task: &T, perm: &KernIpcPerm, oflag: i32) -> Result<()> {
    if oflag & (O_CREAT | O_EXCL) == O_CREAT | O_EXCL {
        return Err(Errno::EEXIST);
    }
    const READ: u32 = 4;
    const WRITE: u32 = 2;
    let wanted = match oflag & O_ACCMODE {
        O_ACCMODE => return Err(Errno::EINVAL),
        O_RDWR => READ | WRITE,
        O_WRONLY => WRITE,
        _ => READ,
    };
    let cred = task.cred();
    let mode = perm.mode.load(Relaxed);
    let gid = perm.gid.load(Relaxed);
    let granted = if cred.fsuid == perm.uid.load(Relaxed) {
        mode >> 6
    } else if cred.fsgid == gid || task.in_group(gid) {
        mode >> 3
    } else {
        mode
    };
    let overridden = cred.dac_override || cred.dac_read_search && wanted == READ;
    if wanted & !granted == 0 || overridden { Ok(()) } else { Err(Errno::EACCES) }
}

/// Who a queue is made for.
#[derive(Clone, Copy, Debug)]
pub struct Creator {
    /// Who pays: the real user.
    pub uid: u32,
    /// Whose it is to be.
    pub fsuid: u32,
    /// Whose it is to be.
    pub fsgid: u32,
    /// Whether `CAP_SYS_RESOURCE` in the initial user namespace is held.
    pub sys_resource: bool,
    /// The most bytes that all queues of the user may have.
    pub limit: u64,
    /// The bits of the mode that it is not to have.
    pub umask: u32,
}

impl Creator {
    fn of<T: Task>(task: &T, ns: &IpcNamespace) -> Creator {
        let Cred { uid, fsuid, fsgid, sys_resource, .. } = task.cred();
        let limit = msgqueue_limit(ns, || task.msgqueue_limit());
        Creator { uid, fsuid, fsgid, sys_resource, limit, umask: task.umask() }
    }
}

/// The namespace's `RLIMIT_MSGQUEUE`, or else the creator's own.
pub fn msgqueue_limit(ns: &IpcNamespace, own: impl FnOnce() -> u64) -> u64 {
    match ns.msgqueue_limit.load(Relaxed) {
        0 => own(),
        limit => limit,
    }
}

/// Makes a queue, and a descriptor of it as `oflag` wants it, or [`NO_FD`]; none if somebody else has made it meanwhile.
pub(crate) fn mq_create<T: Task>(
    ctx: &Ctx<'_, T>,
    name: &Name,
    oflag: Option<i32>,
    mode: u32,
    attr: Option<&MqAttr>,
    by: &Creator,
) -> Result<Option<i32>> {
    let (ns, ids) = ids_ref::<MqueueInodeInfo, T>(ctx)?;
    let queues_max = match ns.limit(Limit::MqQueuesMax) {
        _ if by.sys_resource => i32::MAX,
        // The kernel compares without a sign.
        ..0 => i32::MAX,
        most => most,
    };
    if ids.in_use() >= queues_max.cast_unsigned() {
        return Err(Errno::ENOSPC);
    }
    let size = Size::wanted(&ns, by.sys_resource, attr)?;
    charge_new(ctx, size_of::<MqueueInodeInfo>() as u64)?;
    ensure_tables(ctx, &ids)?;
    ensure_users(ctx, &ns, &ids)?;
    let q = mqueue_get_inode(ctx, name, mode, &size, by).inspect_err(|_| _ = ctx.free_chain())?;
    let fd = oflag.map_or(Ok(NO_FD), |oflag| ctx.host.new_mqd(q.handle(), oflag)).inspect_err(|_| {
        // The block first: it is the last one taken, and whoever frees another forgets it.
        ctx.free(q.handle());
        ctx.free_chain();
    })?;
    let made = (|| {
        let mut tx = ctx.lock(ids.part(|i| &i.lock)).or_errno()?;
        // What was seen of the tables without the lock may have been undone.
        if missing_table(&ids).is_some() || ns.mq_users.load(Relaxed) == 0 || find(ctx, &ids, name)?.is_some()
        {
            return Ok(false);
        }
        add_id(&mut tx, &ids, &q, name.key(), queues_max)?;
        charge(&mut tx, &ns, by.uid, size.cost(), by.limit)?;
        dir_changed(&mut tx, &ns, 1);
        taken(&mut tx);
        set_chain(&mut tx, Handle::NULL);
        tx.commit();
        publish(q.get());
        Ok(true)
    })();
    if !matches!(made, Ok(true)) {
        if fd != NO_FD {
            ctx.host.drop_mqd(fd);
        }
        ctx.free(q.handle());
        ctx.free_chain();
    }
    Ok(made?.then_some(fd))
}

/// How large a queue is.
struct Size {
    maxmsg: u32,
    msgsize: u32,
}

impl Size {
    #[expect(
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        reason = "in the limits, which are positive"
    )]
    fn wanted(ns: &IpcNamespace, sys_resource: bool, attr: Option<&MqAttr>) -> Result<Size> {
        let (msg_max, msgsize_max) = (ns.limit(Limit::MqMsgMax), ns.limit(Limit::MqMsgsizeMax));
        let (maxmsg, msgsize) = match attr {
            None => (
                ns.limit(Limit::MqMsgDefault).min(msg_max).into(),
                ns.limit(Limit::MqMsgsizeDefault).min(msgsize_max).into(),
            ),
            Some(attr) => (attr.mq_maxmsg, attr.mq_msgsize),
        };
        let (most, longest) =
            if sys_resource { (HARD_MSGMAX, HARD_MSGSIZEMAX) } else { (msg_max, msgsize_max) };
        let fits = (1..=i64::from(most)).contains(&maxmsg) && (1..=i64::from(longest)).contains(&msgsize);
        if fits { Ok(Size { maxmsg: maxmsg as u32, msgsize: msgsize as u32 }) } else { Err(Errno::EINVAL) }
    }

    fn of(q: &MqueueInodeInfo) -> Size {
        Size { maxmsg: q.maxmsg.load(Relaxed), msgsize: q.msgsize.load(Relaxed) }
    }

    /// What it counts for `RLIMIT_MSGQUEUE`, bytes.
    fn cost(&self) -> u64 {
        let nodes = u64::from(self.maxmsg.min(MQ_PRIO_MAX));
        u64::from(self.maxmsg) * (u64::from(self.msgsize) + SIZEOF_MSG) + nodes * SIZEOF_NODE
    }
}

fn mqueue_get_inode<'a, T: Task>(
    ctx: &Ctx<'a, T>,
    name: &Name,
    mode: u32,
    size: &Size,
    by: &Creator,
) -> Result<Q<'a>> {
    let block = name.store(ctx)?;
    let q: Q<'a> = new_object(ctx, 0)?;
    q.perm.mode.store(mode & 0o7777 & !by.umask, Relaxed);
    for (place, value) in [
        (&q.perm.uid, by.fsuid),
        (&q.perm.gid, by.fsgid),
        // Who pays.
        (&q.perm.cuid, by.uid),
        (&q.maxmsg, size.maxmsg),
        (&q.msgsize, size.msgsize),
        (&q.name, block.0),
        (&q.name_len, u32::try_from(name.len).unwrap_or(0)),
    ] {
        place.store(value, Relaxed);
    }
    let now = ctx.host.now();
    for place in [&q.atime, &q.mtime, &q.ctime] {
        place.store(now, Relaxed);
    }
    q.qsize.store(0, Relaxed);
    q.notify_value.store(0, Relaxed);
    q.notify_program.store(0, Relaxed);
    q.notify_signo.store(0, Relaxed);
    let zero = [
        &q.curmsgs,
        &q.unlinked,
        &q.pending,
        &q.notify,
        &q.notify_pid,
        &q.notify_process,
        &q.notify_waiter,
        &q.from_pid,
        &q.from_uid,
        &q.watched,
        &q.shown,
        &q.foreign,
    ];
    for place in zero.into_iter().chain(q.types.words()).chain(&q.get().recv).chain(&q.get().send) {
        place.store(0, Relaxed);
    }
    for poller in &q.pollers {
        poller.store(0, Relaxed);
    }
    Ok(q)
}

// ---- what a user has

/// Allocates the table of users if it is not there yet.
fn ensure_users<'a, T: Task>(
    ctx: &Ctx<'a, T>,
    ns: &Ref<'a, IpcNamespace>,
    ids: &Ref<'a, IpcIds>,
) -> Result<()> {
    if ns.mq_users.load(Acquire) != 0 {
        return Ok(());
    }
    ensure_span(ctx, ids, ns.part(|ns| &ns.mq_users))
}

/// The bytes that a user has, or a place for them.
fn user<'a, T: Task>(ctx: &Ctx<'a, T>, ns: &IpcNamespace, uid: u32) -> Result<Ref<'a, MqUser>> {
    let users = ctx.array::<MqUser>(Handle(ns.mq_users.load(Relaxed)), 0, USERS).or_errno()?;
    let mut free = None;
    for at in (0..USERS).map(|step| (uid as usize + step) % USERS) {
        let user = &users[at];
        match user.bytes.load(Relaxed) {
            0 => _ = free.get_or_insert(at),
            _ if user.uid.load(Relaxed) == uid => return Ok(users.part(|users| &users[at])),
            _ => {}
        }
        if user.used.load(Relaxed) == 0 {
            break;
        }
    }
    let at = free.ok_or(Errno::ENOMEM)?;
    Ok(users.part(|users| &users[at]))
}

fn charge<'a, T: Task>(
    tx: &mut Tx<'_, 'a, T>,
    ns: &Ref<'a, IpcNamespace>,
    uid: u32,
    cost: u64,
    most: u64,
) -> Result<()> {
    let user = user(tx.ctx(), ns, uid)?;
    let bytes = user.bytes.load(Relaxed).checked_add(cost).filter(|bytes| *bytes <= most);
    tx.set(&user, |u| &u.uid, uid);
    tx.set(&user, |u| &u.used, 1);
    tx.set(&user, |u| &u.bytes, bytes.ok_or(Errno::EMFILE)?);
    Ok(())
}

fn discharge<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, q: &Q<'a>) {
    let Ok((ns, _)) = ids_ref::<MqueueInodeInfo, T>(tx.ctx()) else { return };
    if let Ok(user) = user(tx.ctx(), &ns, q.perm.cuid.load(Relaxed)) {
        let bytes = user.bytes.load(Relaxed).saturating_sub(Size::of(q).cost());
        tx.set(&user, |u| &u.bytes, bytes);
    }
    if q.unlinked.load(Relaxed) == 0 {
        // It was poisoned, or the namespace is over.
        dir_changed(tx, &ns, -1);
    }
}

// ---- mq_unlink, and a queue's end

/// `mq_unlink(2)`.
///
/// # Errors
/// `EFAULT ENAMETOOLONG ENOENT EACCES EPERM`.
pub fn do_mq_unlink<T: Task>(ctx: &Ctx<'_, T>, name: u64) -> Result<()> {
    let mut taken = Name::EMPTY;
    taken.take_user(ctx.host, name)?;
    mq_unlink(ctx, &taken, |ns, owner| {
        // The directory is sticky, and the namespace's root's.
        let cred = ctx.host.cred();
        [owner, ns.owner_uid.load(Relaxed)].contains(&cred.fsuid) || cred.fowner
    })
}

/// Takes a queue's name away, if `may` says so of its owner: else `EPERM`.
pub(crate) fn mq_unlink<T: Task>(
    ctx: &Ctx<'_, T>,
    name: &Name,
    may: impl FnOnce(&IpcNamespace, u32) -> bool,
) -> Result<()> {
    let (ns, ids) = ids_ref::<MqueueInodeInfo, T>(ctx)?;
    if ids.keys.load(Acquire) == 0 {
        return Err(Errno::ENOENT);
    }
    let q = {
        let mut tx = ctx.lock(ids.part(|i| &i.lock)).or_errno()?;
        let q = find(ctx, &ids, name)?.ok_or(Errno::ENOENT)?;
        if !may(&ns, q.perm.uid.load(Relaxed)) {
            return Err(Errno::EPERM);
        }
        unlink_key(&mut tx, &ids, &q, name.key())?;
        tx.set(&q, |q| &q.perm.key, IPC_PRIVATE);
        tx.set(&q, |q| &q.unlinked, 1);
        dir_changed(&mut tx, &ns, -1);
        tx.commit();
        q
    };
    if ctx.host.has_mqd(q.handle()) {
        ctx.host.watch_unlinked();
        return Ok(());
    }
    mq_put(ctx, &q)
}

/// The directory has got so many names, or lost them.
fn dir_changed<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, ns: &Ref<'a, IpcNamespace>, names: i32) {
    let now = tx.ctx().host.now();
    tx.set(ns, |ns| &ns.mq_names, ns.mq_names.load(Relaxed).saturating_add_signed(names));
    tx.set(ns, |ns| &ns.mq_dir_time, now);
}

/// Whether it is one that ends when nobody holds it any more.
fn is_nameless(q: &MqueueInodeInfo) -> bool {
    match q.perm.state.load(Relaxed) {
        STATE_LIVE => q.unlinked.load(Relaxed) != 0,
        state => state == STATE_POISONED,
    }
}

/// Ends a queue that has no name and that nobody holds. One that is poisoned has lost its name.
fn mq_put<'a, T: Task>(ctx: &Ctx<'a, T>, q: &Q<'a>) -> Result<()> {
    put_locked(ctx, lock_object(ctx, *q)?)
}

fn put_locked<'a, T: Task>(
    ctx: &Ctx<'a, T>,
    Locked { object: q, mut tx }: Locked<'_, 'a, MqueueInodeInfo, T>,
) -> Result<()> {
    // The name first: whoever takes it away looks for holders afterwards, as whoever closes looks for the name.
    if !is_nameless(&q) {
        return Ok(());
    }
    // Who sleeps in it holds it as well, though its descriptor may have been closed meanwhile.
    let mut sleeps = |list| Ok(wq_get_first_waiter(&mut tx, &q, list)?.is_some());
    if sleeps(List::Receivers)? || sleeps(List::Senders)? || ctx.host.queue_held(q.handle()) {
        drop(tx);
        ctx.host.watch_unlinked();
        return Ok(());
    }
    // What was shown is not the next queue's.
    if q.shown.load(Relaxed) > Readiness::Empty as u32 {
        ctx.host.show_readiness(q.handle(), NO_FD, Readiness::Unknown, Readiness::Empty, false);
    }
    doom(&mut tx, &q)?;
    drop(tx);
    evict_inode(ctx, &q)
}

/// Nobody finds the queue any more, and whoever sleeps on it is told that it is gone.
fn doom<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, q: &Q<'a>) -> Result<()> {
    tx.set(q, |q| &q.pending, ROOM);
    set_dying(tx, q, KIND_MQ_RECV);
    if finish(tx, q).is_err() {
        tx.roll_back();
        gut(tx, q)?;
    }
    Ok(())
}

/// Removes a queue, whoever has it: the namespace is over.
///
/// # Errors
/// `EINVAL`.
pub(crate) fn mq_evict<T: Task>(ctx: &Ctx<'_, T>, id: i32) -> Result<()> {
    let Locked { object: q, mut tx } = crate::util::obtain_to_remove::<MqueueInodeInfo, T>(ctx, id)?;
    doom(&mut tx, &q)?;
    drop(tx);
    evict_inode(ctx, &q)
}

/// `mqueue_evict_inode`: ends the end of a dying queue, from wherever it stands.
pub(crate) fn evict_inode<'a, T: Task>(ctx: &Ctx<'a, T>, q: &Q<'a>) -> Result<()> {
    insist(ctx, q, || empty_and_free(ctx, q))
}

fn empty_and_free<'a, T: Task>(ctx: &Ctx<'a, T>, q: &Q<'a>) -> Result<()> {
    if q.perm.state.load(Relaxed) != STATE_DYING {
        return Ok(());
    }
    ctx.flush_wakes();
    rm_id(ctx, q, |tx, _| discharge(tx, q))?;
    loop {
        let Locked { object: q, mut tx } = lock_object(ctx, *q)?;
        if let Some(of) = outermost(ctx, &q.types, 1)? {
            let msg = message(ctx, of.head.load(Relaxed))?;
            // In a circle this comes to what was taken already; it would have no end.
            let next = msg.tnext.load(Relaxed);
            let follows = next == 0 || message(ctx, next)?.tprev.load(Relaxed) == msg.handle().0;
            if !follows || msg.tprev.load(Relaxed) != 0 || msg.tnode.load(Relaxed) != of.handle().0 {
                return Err(CORRUPT);
            }
            take(&mut tx, &q, &msg)?;
        } else if take_idle(&mut tx, &q.part(|q| &q.types))? {
        } else {
            if let Some(name) = Handle(q.name.load(Relaxed)).some() {
                ctx.at::<AtomicU32>(name).or_errno()?.store(0, Relaxed);
                tx.set(&q, |q| &q.name, 0);
                set_chain(&mut tx, name);
                tx.commit();
            }
            drop(tx);
            ctx.free_chain();
            free_object(ctx, &q);
            return Ok(());
        }
        tx.commit();
        drop(tx);
        if !ctx.free_chain() {
            return Err(CORRUPT);
        }
    }
}

/// A descriptor of the queue was closed by this process: its registration goes, and the queue, if that was the last there was of it.
///
/// # Errors
/// Those of a queue that makes no sense.
pub fn do_close<T: Task>(ctx: &Ctx<'_, T>, queue: Handle) -> Result<()> {
    let closed = match queue_of(ctx, queue) {
        Ok(Locked { object: q, mut tx }) => {
            let removed = if q.notify.load(Relaxed) != 0 && is_own(ctx.host, &q) {
                remove_notification(&mut tx, &q).map(|()| tx.commit())
            } else {
                Ok(())
            };
            removed.and_then(|()| put_locked(ctx, Locked { object: q, tx }))
        }
        Err(Errno::EIDRM) => self::queue(ctx, queue).and_then(|q| mq_put(ctx, &q)),
        Err(error) => Err(error),
    };
    ctx.flush_wakes();
    heed_queue(ctx, queue, closed)
}

/// As [`do_close`], for somebody who may name what is no queue: then nothing is done.
///
/// # Errors
/// As there.
pub fn do_close_named<T: Task>(ctx: &Ctx<'_, T>, named: Handle) -> Result<()> {
    let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
    let mut idx = 0;
    while let Some(used) = ns.mq_ids.next_used(idx) {
        idx = used + 1;
        if object_at::<MqueueInodeInfo, T>(ctx, used).is_ok_and(|q| q.handle() == named) {
            return do_close(ctx, named);
        }
    }
    Ok(())
}

/// A process has ended, or begun another program: its registrations go, and queues that it was the last to hold.
pub fn exit_process<T: Task>(ctx: &Ctx<'_, T>, process: Handle) -> Result<()> {
    for_each(ctx, |ctx, q, mut tx| {
        if q.notify.load(Relaxed) != 0 && q.notify_process.load(Relaxed) == process.0 {
            remove_notification(&mut tx, &q)?;
            tx.commit();
        }
        for poller in q.pollers.iter().filter(|poller| Poller(poller.load(Relaxed)).process() == process) {
            poller.store(0, Relaxed);
        }
        // It may have ended between changing the queue and showing that.
        show(ctx, &q, NO_FD);
        drop(tx);
        ctx.flush_wakes();
        Ok(())
    })?;
    settle_unlinked(ctx).map(drop)
}

/// Ends the queues that have no name and that nobody holds any more. Whether others without a name are left.
///
/// # Errors
/// Those of a namespace that makes no sense.
pub fn settle_unlinked<T: Task>(ctx: &Ctx<'_, T>) -> Result<bool> {
    let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
    let (mut left, mut idx) = (false, 0);
    while let Some(used) = ns.mq_ids.next_used(idx) {
        idx = used + 1;
        // What is seen without the lock, is looked at again under it.
        if let Ok(q) = object_at::<MqueueInodeInfo, T>(ctx, used)
            && is_nameless(&q)
        {
            let put = mq_put(ctx, &q);
            let _ = heed_queue(ctx, q.handle(), put);
            left |= is_nameless(&q);
        }
    }
    Ok(left)
}

/// Whether somebody is about to end a queue.
fn some_end<T: Task>(ctx: &Ctx<'_, T>) -> Result<bool> {
    let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
    let mut idx = 0;
    while let Some(used) = ns.mq_ids.next_used(idx) {
        idx = used + 1;
        let is_dying = |q: Q<'_>| q.perm.state.load(Relaxed) == STATE_DYING;
        if object_at::<MqueueInodeInfo, T>(ctx, used).is_ok_and(is_dying) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Does something with each queue, under its lock. What goes wrong with one is that one's.
fn for_each<'a, T: Task>(
    ctx: &Ctx<'a, T>,
    does: impl Fn(&Ctx<'a, T>, Q<'a>, Tx<'_, 'a, T>) -> Result<()>,
) -> Result<()> {
    let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
    let mut idx = 0;
    while let Some(used) = ns.mq_ids.next_used(idx) {
        idx = used + 1;
        if let Ok((id, Locked { object, tx })) =
            obtain_object_idx::<MqueueInodeInfo, T>(ctx, used.cast_signed())
        {
            let done = does(ctx, object, tx);
            let _ = heed::<MqueueInodeInfo, T, _>(ctx, id, done);
        }
    }
    Ok(())
}

/// The queue of a handle, for whoever puts right what the dead left.
pub(crate) fn queue<'a, T: Task>(ctx: &Ctx<'a, T>, handle: Handle) -> Result<Q<'a>> {
    ctx.at(handle).or_errno()
}

/// The queue that a descriptor names, locked.
#[inline(always)]
fn queue_of<'c, 'a, T: Task>(
    ctx: &'c Ctx<'a, T>,
    handle: Handle,
) -> Result<Locked<'c, 'a, MqueueInodeInfo, T>> {
    let locked = lock_object(ctx, queue(ctx, handle)?)?;
    match locked.object.perm.state.load(Relaxed) {
        STATE_LIVE => Ok(locked),
        STATE_POISONED => Err(Errno::EIDRM),
        _ => Err(Errno::EBADF),
    }
}

/// Ends a call on a descriptor: if it met what makes no sense, the queue is poisoned.
#[inline(always)]
fn heed_queue<T: Task, R>(ctx: &Ctx<'_, T>, handle: Handle, result: Result<R>) -> Result<R> {
    match result {
        Err(CORRUPT) => {
            let id = queue(ctx, handle).map_or(-1, |q| q.perm.id.load(Relaxed));
            // There is no index in a negative one.
            if id < 0 { Err(Errno::EIDRM) } else { heed::<MqueueInodeInfo, T, R>(ctx, id, Err(CORRUPT)) }
        }
        result => result,
    }
}

// ---- the queue's messages

/// The class of what is shown to who polls.
fn readiness(q: &MqueueInodeInfo) -> Readiness {
    match q.curmsgs.load(Relaxed) {
        0 => Readiness::Empty,
        n if n >= q.maxmsg.load(Relaxed) => Readiness::Full,
        _ => Readiness::Between,
    }
}

/// Shows those who poll what has become of the queue, whose lock is held. `fd` is a descriptor of it.
#[inline(always)]
fn show<T: Task>(ctx: &Ctx<'_, T>, q: &Q<'_>, fd: i32) {
    let polled = q.pollers[0].load(Relaxed) | q.pollers[1].load(Relaxed) != 0;
    if polled || q.watched.load(Relaxed) != 0 {
        show_now(ctx, q, fd);
    }
}

#[cold]
#[inline(never)]
fn show_now<T: Task>(ctx: &Ctx<'_, T>, q: &Q<'_>, fd: i32) {
    let to = readiness(q);
    let from = match q.shown.load(Relaxed) {
        1 => Readiness::Empty,
        2 => Readiness::Between,
        3 => Readiness::Full,
        _ => Readiness::Unknown,
    };
    let edges = q.watched.load(Relaxed) == EDGES;
    if from != to || edges && to == Readiness::Between {
        // Whoever comes after a death in between makes it anew.
        q.shown.store(Readiness::Unknown as u32, Relaxed);
        arena::sync::ordered(ctx.host);
        // Who is not trusted may have changed it, and may do so now: nobody waits there for what is shown.
        let (fd, from) = if q.foreign.load(Relaxed) == 0 { (fd, from) } else { (NO_FD, Readiness::Unknown) };
        ctx.host.show_readiness(q.handle(), fd, from, to, edges);
        arena::sync::ordered(ctx.host);
        q.shown.store(to as u32, Relaxed);
    }
}

/// Somebody may poll the descriptor at any time from now on, or wait for what is new (`edges`).
///
/// # Errors
/// `EBADF`, and those of a queue that makes no sense.
pub fn watch<T: Task>(ctx: &Ctx<'_, T>, fd: i32, edges: bool) -> Result<()> {
    watch_queue(ctx, ctx.host.mqd(fd)?.queue, fd, edges)
}

/// As [`watch`], of a descriptor which is one of that queue.
///
/// # Errors
/// `EBADF`, and those of a queue that makes no sense.
pub fn watch_queue<T: Task>(ctx: &Ctx<'_, T>, queue: Handle, fd: i32, edges: bool) -> Result<()> {
    let watched = queue_of(ctx, queue).map(|Locked { object: q, tx }| {
        let how = if edges { EDGES } else { ALWAYS };
        q.watched.store(q.watched.load(Relaxed).max(how), Relaxed);
        // What was shown once may have gone with the last descriptor.
        q.shown.store(Readiness::Unknown as u32, Relaxed);
        show(ctx, &q, fd);
        drop(tx);
    });
    heed_queue(ctx, queue, watched)
}

/// A descriptor of the queue is about to be given to somebody who may do with it whatever the system lets him: from now on, what it shows
/// is made anew with each change.
///
/// # Errors
/// Those of a namespace that makes no sense.
pub fn distrust<T: Task>(ctx: &Ctx<'_, T>, handle: Handle) -> Result<()> {
    // With the lock: who shows something just now is over it.
    let distrusted = queue_of(ctx, handle).map(|Locked { object: q, tx: _tx }| q.foreign.store(1, Relaxed));
    heed_queue(ctx, handle, distrusted)
}

/// A process in the upper half, and how many of its threads poll in the lower.
///
/// Only who is in its place writes it, and under the queue's lock the broker, when the process has ended. Who dies there without a word
/// to anybody, or leaves by a jump, leaves it taken: then each change is shown, as to one that polls for ever.
#[derive(Clone, Copy)]
struct Poller(u64);

impl Poller {
    fn process(self) -> Handle {
        Handle((self.0 >> 32) as u32)
    }

    /// With one thread more.
    fn entered(self, process: Handle) -> Option<u64> {
        match self {
            Poller(0) => Some(u64::from(process.0) << 32 | 1),
            _ if self.process() == process => Some(self.0 + 1),
            _ => None,
        }
    }

    /// With one thread less.
    fn left(self, process: Handle) -> Option<u64> {
        #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
        match self.0 as u32 {
            _ if self.process() != process => None,
            0 | 1 => Some(0),
            _ => Some(self.0 - 1),
        }
    }
}

/// Changes the process's place among the pollers. False if it has none.
fn change_poller(
    q: &MqueueInodeInfo,
    process: Handle,
    change: impl Fn(Poller, Handle) -> Option<u64>,
) -> bool {
    let own = |poller: &&AtomicU64| Poller(poller.load(Relaxed)).process() == process;
    let place = q.pollers.iter().find(own).into_iter().chain(&q.pollers);
    place.into_iter().any(|poller| {
        let mut before = poller.load(Relaxed);
        while let Some(after) = change(Poller(before), process) {
            match poller.compare_exchange(before, after, Relaxed, Relaxed) {
                Ok(_) => return true,
                Err(now) => before = now,
            }
        }
        false
    })
}

/// The thread is about to poll the descriptor, which was not shown yet since it is open if it is `new`. The queue, for [`end_poll`];
/// none if it may be polled at any time from now on.
///
/// # Errors
/// As [`watch`].
pub fn begin_poll<T: Task>(ctx: &Ctx<'_, T>, fd: i32, new: bool) -> Result<Option<Handle>> {
    let Mqd { queue, .. } = ctx.host.mqd(fd)?;
    let begun = queue_of(ctx, queue).map(|Locked { object: q, tx }| {
        let always = q.watched.load(Relaxed) != 0;
        let entered = !always && change_poller(&q, ctx.host.process(), Poller::entered);
        if !always && !entered {
            q.watched.store(ALWAYS, Relaxed);
        }
        if new {
            q.shown.store(Readiness::Unknown as u32, Relaxed);
        }
        show(ctx, &q, fd);
        drop(tx);
        entered.then_some(queue)
    });
    heed_queue(ctx, queue, begun)
}

/// The thread polls the queue no more.
///
/// # Errors
/// Those of a namespace that makes no sense.
pub fn end_poll<T: Task>(ctx: &Ctx<'_, T>, handle: Handle) -> Result<()> {
    change_poller(&*queue(ctx, handle)?, ctx.host.process(), Poller::left);
    Ok(())
}

#[inline(always)]
fn touch<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, q: &Q<'a>) {
    let now = tx.ctx().host.now();
    tx.renew(q, |q| &q.atime, now);
    tx.renew(q, |q| &q.mtime, now);
    tx.renew(q, |q| &q.ctime, now);
}

/// `msg_insert`: adds a message to the queue; its priority is in the tree.
#[inline(always)]
fn msg_insert<'a, T: Task>(
    tx: &mut Tx<'_, 'a, T>,
    q: &Q<'a>,
    msg: &Ref<'a, MsgMsg>,
    of: &Ref<'a, TypeNode>,
) -> Result<()> {
    append_to_type(tx, &q.part(|q| &q.types), msg, of)?;
    tx.set(q, |q| &q.qsize, q.qsize.load(Relaxed) + u64::from(msg.size.load(Relaxed)));
    tx.set(q, |q| &q.curmsgs, q.curmsgs.load(Relaxed) + 1);
    Ok(())
}

/// Takes a message out of the queue, into the thread's in-flight chain.
#[inline(always)]
fn take<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, q: &Q<'a>, msg: &Ref<'a, MsgMsg>) -> Result<Ref<'a, TypeNode>> {
    let of = unlink_from_type(tx, msg)?;
    let chain = keep_idle(tx, &q.part(|q| &q.types), &of, msg.handle())?;
    set_chain(tx, chain);
    tx.set(q, |q| &q.qsize, q.qsize.load(Relaxed).wrapping_sub(u64::from(msg.size.load(Relaxed))));
    tx.set(q, |q| &q.curmsgs, q.curmsgs.load(Relaxed).wrapping_sub(1));
    Ok(of)
}

// ---- sleepers

/// Which of the queue's lists.
#[derive(Clone, Copy)]
enum List {
    Receivers,
    Senders,
}

impl List {
    fn part(self, q: &MqueueInodeInfo) -> &[AtomicU32; 2] {
        match self {
            List::Receivers => &q.recv,
            List::Senders => &q.send,
        }
    }
    fn ends<'a>(self, q: &Q<'a>) -> Ends<'a> {
        [q.part(|q| &self.part(q)[0]), q.part(|q| &self.part(q)[1])]
    }
    #[inline]
    fn first(self, q: &MqueueInodeInfo) -> u32 {
        self.part(q)[0].load(Relaxed)
    }
    fn kind(self) -> u32 {
        match self {
            List::Receivers => KIND_MQ_RECV,
            List::Senders => KIND_MQ_SEND,
        }
    }
}

/// What a call does that can't go on: asked without the lock, as it costs system calls.
#[derive(Clone, Copy)]
enum Otherwise {
    Fails,
    /// Sleeps, with this priority of its thread's.
    Sleeps(i32),
}

impl Otherwise {
    fn of<T: Task>(task: &T, fd: i32) -> Otherwise {
        if task.mqd_nonblock(fd) { Otherwise::Fails } else { Otherwise::Sleeps(task.scheduling_priority()) }
    }
}

/// Where a waiter's arguments have its thread's priority.
const PRIO: usize = 0;

/// `wq_add`: puts the thread's waiter behind those that are as urgent as it is.
#[expect(clippy::cast_possible_truncation, reason = "an int")]
fn wq_add<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, q: &Q<'a>, list: List, prio: i32) -> Result<()> {
    let ctx = tx.ctx();
    let mut behind = list.part(q)[1].load(Relaxed);
    for _ in 0..=SLEEPERS {
        if behind == 0 {
            break;
        }
        let who = sleeper(ctx, behind, q.handle())?;
        if who.args[PRIO].load(Relaxed) as u32 as i32 <= prio {
            break;
        }
        behind = who.prev.load(Relaxed);
    }
    ctx.slot.waiter.args[PRIO].store(prio.cast_unsigned().into(), Relaxed);
    begin_sleep(tx, q, list.kind(), list.ends(q), behind)
}

/// Takes a sleeper off its list and ends its sleep, as one change with what was done before.
fn complete<'a, T: Task>(
    tx: &mut Tx<'_, 'a, T>,
    q: &Q<'a>,
    list: List,
    who: &Ref<'a, Waiter>,
    result: Result<()>,
) -> Result<()> {
    end_listing(tx, q.handle(), list.ends(q), who)?;
    complete_sleep(tx, who, Phase::Done, result);
    Ok(())
}

/// The first sleeper of a list that has not ended.
#[inline(always)]
fn wq_get_first_waiter<'a, T: Task>(
    tx: &mut Tx<'_, 'a, T>,
    q: &Q<'a>,
    list: List,
) -> Result<Option<Ref<'a, Waiter>>> {
    if list.first(q) == 0 { Ok(None) } else { first_of_some(tx, q, list) }
}

fn first_of_some<'a, T: Task>(
    tx: &mut Tx<'_, 'a, T>,
    q: &Q<'a>,
    list: List,
) -> Result<Option<Ref<'a, Waiter>>> {
    for _ in 0..=SLEEPERS {
        let first = list.first(q);
        if first == 0 {
            return Ok(None);
        }
        let who = sleeper(tx.ctx(), first, q.handle())?;
        if !has_ended(tx.ctx(), &who) {
            return Ok(Some(who));
        }
        end_listing(tx, q.handle(), list.ends(q), &who)?;
    }
    Err(CORRUPT)
}

/// Ends the work that `pending` names.
#[cold]
#[inline(never)]
fn finish<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, q: &Q<'a>) -> Result<()> {
    let dying = q.perm.state.load(Relaxed) != STATE_LIVE;
    let pending = q.pending.load(Relaxed);
    if pending & GUTTED != 0 {
        if !dying {
            return Err(CORRUPT);
        }
        release_sleepers(tx, q.handle())?;
    }
    if dying {
        for list in [List::Receivers, List::Senders] {
            while let Some(first) = wq_get_first_waiter(tx, q, list)? {
                complete(tx, q, list, &first, Err(Errno::EIDRM))?;
            }
        }
        remove_notification(tx, q)?;
    } else {
        if pending & NOTIFY != 0 {
            do_notify(tx, q)?;
        }
        if pending & ROOM != 0 {
            pipelined_receive(tx, q)?;
        }
    }
    tx.set(q, |q| &q.pending, 0);
    tx.commit();
    Ok(())
}

/// `pipelined_receive`: there is room for messages of sleeping senders.
fn pipelined_receive<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, q: &Q<'a>) -> Result<()> {
    let ctx = tx.ctx();
    while q.curmsgs.load(Relaxed) < q.maxmsg.load(Relaxed) {
        let Some(who) = wq_get_first_waiter(tx, q, List::Senders)? else { return Ok(()) };
        // It has brought what its priority may need in the tree.
        let spare: Ref<'a, TypeNode> = ctx.at(Handle(who.block.load(Relaxed))).or_errno()?;
        let msg = message(ctx, spare.link.load(Relaxed))?;
        let prio = msg.mtype.load(Relaxed);
        let of = match obtain_type(tx, &q.part(|q| &q.types), prio)? {
            Sought::There(of) => {
                tx.set(&spare, |n| &n.link, 0);
                of
            }
            Sought::Missing(gap) => {
                insert_type(tx, gap, &spare, prio);
                tx.set(&who, |w| &w.block, 0);
                spare
            }
        };
        msg_insert(tx, q, &msg, &of)?;
        touch(tx, q);
        complete(tx, q, List::Senders, &who, Ok(()))?;
    }
    Ok(())
}

/// Ends the sleep of a dead thread.
pub(crate) fn abandon<'a, T: Task>(ctx: &Ctx<'a, T>, who: &Ref<'a, Waiter>, kind: u32) -> Result<()> {
    let q = queue(ctx, Handle(who.object.load(Relaxed)))?;
    let Locked { object: q, mut tx } = lock_object(ctx, q)?;
    if who.kind.load(Relaxed) != kind || who.phase() != Phase::Waiting {
        return Ok(());
    }
    match kind {
        KIND_MQ_NOTIFY => {
            if q.notify_waiter.load(Relaxed) == who.handle().0 {
                clear_notification(&mut tx, &q);
            }
            tx.set(who, |w| &w.kind, 0);
        }
        KIND_MQ_RECV => end_listing(&mut tx, q.handle(), List::Receivers.ends(&q), who)?,
        _ => end_listing(&mut tx, q.handle(), List::Senders.ends(&q), who)?,
    }
    tx.commit();
    who.end();
    Ok(())
}

/// The thread has left a list, without what it waited for; it may have been the last to hold the queue.
fn interrupted<T: Task>(ctx: &Ctx<'_, T>, handle: Handle, cause: Cause) -> Errno {
    let _ = heed_queue(ctx, handle, queue(ctx, handle).and_then(|q| mq_put(ctx, &q)));
    if cause == Cause::Timeout { Errno::ETIMEDOUT } else { Errno::EINTR }
}

/// An absolute timeout, nanoseconds since 1970; none for ever.
fn prepare_timeout<T: Task>(task: &T, at: u64, time32: bool) -> Result<Option<u64>> {
    match at {
        0 => Ok(None),
        at => compat::get_timespec(task, at, time32)?.duration_ns().ok_or(Errno::EINVAL).map(Some),
    }
}

fn begun(outcome: Outcome, timeout: Option<u64>) -> Begun {
    Begun { outcome, deadline: timeout.map(|ns| Deadline { clock: Clock::Realtime, ns }) }
}

// ---- mq_timedsend

/// The arguments of a `mq_timedsend(2)`.
#[derive(Clone, Copy, Debug)]
pub struct MqTimedsend {
    /// The descriptor.
    pub fd: i32,
    /// The text.
    pub msg: u64,
    /// Its length, bytes.
    pub len: u64,
    /// Its priority.
    pub prio: u32,
    /// Where the time is until when to wait; 0: for ever.
    pub timeout: u64,
    /// It is one of 32 bits.
    pub time32: bool,
}

/// `mq_timedsend(2)`.
///
/// # Errors
/// `EFAULT EINVAL EBADF EMSGSIZE EAGAIN ENOMEM`.
pub fn do_mq_timedsend<T: Task>(ctx: &Ctx<'_, T>, call: &MqTimedsend) -> Result<Begun> {
    let timeout = prepare_timeout(ctx.host, call.timeout, call.time32)?;
    if call.prio >= MQ_PRIO_MAX {
        return Err(Errno::EINVAL);
    }
    let mqd = ctx.host.mqd(call.fd)?;
    if !mqd.write {
        return Err(Errno::EBADF);
    }
    let sent = send(ctx, call, mqd.queue);
    ctx.flush_wakes();
    ctx.free_chain();
    heed_queue(ctx, mqd.queue, sent).map(|outcome| begun(outcome, timeout))
}

fn send<'a, T: Task>(ctx: &Ctx<'a, T>, call: &MqTimedsend, handle: Handle) -> Result<Outcome> {
    let size = queue(ctx, handle)?.msgsize.load(Relaxed);
    if call.len > u64::from(size) {
        return Err(Errno::EMSGSIZE);
    }
    if T::HAS_QUOTAS {
        charge_more(ctx, queue(ctx, handle)?.get(), MESSAGE_BYTES + call.len)?;
    }
    let prio = i64::from(call.prio);
    let msg = load_msg(ctx, call.msg, call.len, prio)?;
    let mut otherwise = None;
    // What the priority may need in the tree: in the chain, before the message.
    let mut spare: Option<Ref<'a, TypeNode>> = None;
    loop {
        let Locked { object: q, mut tx } = queue_of(ctx, handle)?;
        let full = q.curmsgs.load(Relaxed) >= q.maxmsg.load(Relaxed);
        let urgency = match otherwise {
            _ if !full => None,
            None => {
                drop(tx);
                otherwise = Some(Otherwise::of(ctx.host, call.fd));
                continue;
            }
            Some(Otherwise::Fails) => return Err(Errno::EAGAIN),
            Some(Otherwise::Sleeps(urgency)) => Some(urgency),
        };
        if !full && List::Receivers.first(&q) != 0 && pipelined_send(&mut tx, &q, &msg, spare.as_ref())? {
            return Ok(Outcome::Done(0));
        }
        // Where the priority belongs, or else how urgent the sleep is.
        let gap = match urgency {
            Some(urgency) => Err(urgency),
            None => match obtain_type(&mut tx, &q.part(|q| &q.types), prio)? {
                Sought::Missing(gap) => Ok(gap),
                Sought::There(of) => {
                    leave_chain(&mut tx, spare.as_ref());
                    insert_and_tell(&mut tx, &q, &msg, &of, call.fd)?;
                    return Ok(Outcome::Done(0));
                }
            },
        };
        let Some(new) = spare else {
            drop(tx);
            let block = ctx.alloc(size_of::<TypeNode>() as u64).or_errno()?;
            ctx.chain(block).or_errno()?;
            spare = Some(ctx.at(block).or_errno()?);
            continue;
        };
        let gap = match gap {
            Ok(gap) => gap,
            Err(urgency) => {
                wq_add(&mut tx, &q, List::Senders, urgency)?;
                let me = ctx.slot.part(|s| &s.waiter);
                tx.set(&me, |w| &w.block, new.handle().0);
                set_chain(&mut tx, Handle::NULL);
                tx.commit();
                return Ok(Outcome::Blocked);
            }
        };
        insert_type(&mut tx, gap, &new, prio);
        set_chain(&mut tx, Handle::NULL);
        insert_and_tell(&mut tx, &q, &msg, &new, call.fd)?;
        return Ok(Outcome::Done(0));
    }
}

/// The message is the thread's no more; what is left of its chain is the spare node, if there is one.
fn leave_chain<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, spare: Option<&Ref<'a, TypeNode>>) {
    if let Some(spare) = spare {
        tx.set(spare, |n| &n.link, 0);
    }
    set_chain(tx, spare.map_or(Handle::NULL, |s| s.handle()));
}

/// Adds the message, and tells whoever waits for that.
#[inline(always)]
fn insert_and_tell<'a, T: Task>(
    tx: &mut Tx<'_, 'a, T>,
    q: &Q<'a>,
    msg: &Ref<'a, MsgMsg>,
    of: &Ref<'a, TypeNode>,
    fd: i32,
) -> Result<()> {
    msg_insert(tx, q, msg, of)?;
    touch(tx, q);
    let tell = q.notify.load(Relaxed) != 0 && q.curmsgs.load(Relaxed) == 1;
    if tell {
        let host = tx.ctx().host;
        tx.set(q, |q| &q.from_pid, host.tgid());
        tx.set(q, |q| &q.from_uid, host.cred().uid);
        tx.set(q, |q| &q.pending, NOTIFY);
    }
    note_done(tx);
    tx.commit();
    q.types.recent.store(of.handle().0, Relaxed);
    if tell {
        finish(tx, q)?;
    }
    show(tx.ctx(), q, fd);
    Ok(())
}

/// `pipelined_send`: hands the message to the first receiver. False if there is none.
fn pipelined_send<'a, T: Task>(
    tx: &mut Tx<'_, 'a, T>,
    q: &Q<'a>,
    msg: &Ref<'a, MsgMsg>,
    spare: Option<&Ref<'a, TypeNode>>,
) -> Result<bool> {
    let Some(who) = wq_get_first_waiter(tx, q, List::Receivers)? else {
        tx.commit();
        return Ok(false);
    };
    touch(tx, q);
    leave_chain(tx, spare);
    note_done(tx);
    tx.set(&who, |w| &w.block, msg.handle().0);
    complete(tx, q, List::Receivers, &who, Ok(()))?;
    Ok(true)
}

/// Goes on with a `mq_timedsend` that slept.
///
/// # Errors
/// `EINTR ETIMEDOUT`.
pub fn resume_mq_timedsend<T: Task>(ctx: &Ctx<'_, T>, cause: Cause) -> Result<Outcome> {
    let me = ctx.slot.part(|s| &s.waiter);
    let queue = Handle(me.object.load(Relaxed));
    let left = if cause == Cause::Woken { Ok(false) } else { leave(ctx, |q| List::Senders.ends(q)) };
    let left = heed_queue(ctx, queue, left).inspect_err(|_| give_up(ctx))?;
    if !left {
        note_outcome(ctx, &outcome_of(&me));
    }
    // What it had brought and was not needed, or all of it.
    own_block(ctx, &me);
    ctx.free_chain();
    me.end();
    if left { Err(interrupted(ctx, queue, cause)) } else { outcome_of(&me).map(|_| Outcome::Done(0)) }
}

// ---- mq_timedreceive

/// The arguments of a `mq_timedreceive(2)`.
#[derive(Clone, Copy, Debug)]
pub struct MqTimedreceive {
    /// The descriptor.
    pub fd: i32,
    /// Where the text goes.
    pub msg: u64,
    /// Room for it, bytes.
    pub len: u64,
    /// Where the priority goes; 0: nowhere.
    pub prio: u64,
    /// Where the time is until when to wait; 0: for ever.
    pub timeout: u64,
    /// It is one of 32 bits.
    pub time32: bool,
}

/// `mq_timedreceive(2)`.
///
/// # Errors
/// `EFAULT EINVAL EBADF EMSGSIZE EAGAIN`.
pub fn do_mq_timedreceive<T: Task>(ctx: &Ctx<'_, T>, call: &MqTimedreceive) -> Result<Begun> {
    let timeout = prepare_timeout(ctx.host, call.timeout, call.time32)?;
    let mqd = ctx.host.mqd(call.fd)?;
    if !mqd.read {
        return Err(Errno::EBADF);
    }
    let received = receive(ctx, call, mqd.queue);
    ctx.flush_wakes();
    heed_queue(ctx, mqd.queue, received).map(|outcome| begun(outcome, timeout))
}

fn receive<T: Task>(ctx: &Ctx<'_, T>, call: &MqTimedreceive, handle: Handle) -> Result<Outcome> {
    if call.len < u64::from(queue(ctx, handle)?.msgsize.load(Relaxed)) {
        return Err(Errno::EMSGSIZE);
    }
    let mut otherwise = None;
    loop {
        let Locked { object: q, mut tx } = queue_of(ctx, handle)?;
        if q.curmsgs.load(Relaxed) == 0 {
            let urgency = match otherwise {
                None => {
                    drop(tx);
                    otherwise = Some(Otherwise::of(ctx.host, call.fd));
                    continue;
                }
                Some(Otherwise::Fails) => return Err(Errno::EAGAIN),
                Some(Otherwise::Sleeps(urgency)) => urgency,
            };
            ctx.slot.waiter.block.store(0, Relaxed);
            wq_add(&mut tx, &q, List::Receivers, urgency)?;
            tx.commit();
            return Ok(Outcome::Blocked);
        }
        let highest = outermost(ctx, &q.types, 1)?.ok_or(CORRUPT)?;
        let msg = message(ctx, highest.head.load(Relaxed))?;
        let of = take(&mut tx, &q, &msg)?;
        note_taken(&mut tx, msg.handle());
        touch(&mut tx, &q);
        let senders = List::Senders.first(&q) != 0;
        if senders {
            tx.set(&q, |q| &q.pending, ROOM);
        }
        tx.commit();
        q.types.recent.store(of.handle().0, Relaxed);
        if senders {
            finish(&mut tx, &q)?;
        }
        show(ctx, &q, call.fd);
        drop(tx);
        ctx.flush_wakes();
        return deliver(ctx, &msg, call);
    }
}

/// Copies a message that was taken to the caller, and frees it. A bad address loses it, as in the kernel.
fn deliver<T: Task>(ctx: &Ctx<'_, T>, msg: &Ref<'_, MsgMsg>, call: &MqTimedreceive) -> Result<Outcome> {
    let len = u64::from(msg.size.load(Relaxed)).min(call.len);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a priority")]
    let prio = msg.mtype.load(Relaxed) as u32;
    let told = if call.prio == 0 { Ok(()) } else { ctx.host.put_user(call.prio, &prio) };
    let copied = told.and_then(|()| store_msg(ctx, msg, call.msg, len));
    if !T::ASKS_LATER {
        ctx.free_chain();
    }
    copied?;
    Ok(Outcome::Done(len.cast_signed()))
}

/// Goes on with a `mq_timedreceive` that slept.
///
/// # Errors
/// `EINTR ETIMEDOUT EFAULT`.
pub fn resume_mq_timedreceive<T: Task>(
    ctx: &Ctx<'_, T>,
    call: &MqTimedreceive,
    cause: Cause,
) -> Result<Outcome> {
    let me = ctx.slot.part(|s| &s.waiter);
    let queue = Handle(me.object.load(Relaxed));
    let left = if cause == Cause::Woken { Ok(false) } else { leave(ctx, |q| List::Receivers.ends(q)) };
    if heed_queue(ctx, queue, left).inspect_err(|_| give_up(ctx))? {
        return Err(interrupted(ctx, queue, cause));
    }
    note_was_given(ctx, &me);
    me.end();
    outcome_of(&me)?;
    let block = own_block(ctx, &me);
    let delivered = ctx.at(block).or_errno().and_then(|msg| deliver(ctx, &msg, call));
    heed_queue(ctx, queue, delivered)
}

// ---- mq_notify

/// `mq_notify(2)`. One that a host tells a socket sleeps as [`do_mq_notify_thread`] does; its caller does not.
///
/// # Errors
/// `EFAULT EINVAL EBADF EBUSY ENOTSOCK`.
pub fn do_mq_notify<T: Task>(ctx: &Ctx<'_, T>, fd: i32, sevp: u64) -> Result<Outcome> {
    let event = if sevp == 0 { None } else { Some(compat::get_sigevent(ctx.host, sevp)?) };
    if let Some(event) = &event {
        match event.sigev_notify {
            SIGEV_NONE => {}
            SIGEV_SIGNAL if (0..=NSIG).contains(&event.sigev_signo) => {}
            SIGEV_THREAD => {
                let cookie = ctx.host.get_user(event.sigev_value)?;
                ctx.host.notify_socket(event.sigev_signo, cookie)?;
                return do_mq_notify_thread(ctx, fd);
            }
            _ => return Err(Errno::EINVAL),
        }
    }
    let Mqd { queue, .. } = ctx.host.mqd(fd)?;
    let noted = queue_of(ctx, queue).and_then(|Locked { object: q, mut tx }| {
        match &event {
            None if q.notify.load(Relaxed) != 0 && is_own(ctx.host, &q) => remove_notification(&mut tx, &q)?,
            None => {}
            Some(event) => {
                let how = if event.sigev_notify == SIGEV_NONE { BY_NOTHING } else { BY_SIGNAL };
                register(&mut tx, &q, how)?;
                tx.set(&q, |q| &q.notify_signo, event.sigev_signo);
                tx.set(&q, |q| &q.notify_value, event.sigev_value);
            }
        }
        tx.commit();
        Ok(())
    });
    ctx.flush_wakes();
    heed_queue(ctx, queue, noted).map(|()| Outcome::Done(0))
}

/// Registers the calling thread, which sleeps until a message comes ([`NOTIFY_WOKENUP`]) or the registration is gone
/// ([`NOTIFY_REMOVED`]).
///
/// # Errors
/// `EBADF EBUSY`.
pub fn do_mq_notify_thread<T: Task>(ctx: &Ctx<'_, T>, fd: i32) -> Result<Outcome> {
    let Mqd { queue, .. } = ctx.host.mqd(fd)?;
    let noted = queue_of(ctx, queue).and_then(|Locked { object: q, mut tx }| {
        register(&mut tx, &q, BY_THREAD)?;
        let me = ctx.slot.part(|s| &s.waiter);
        prepare_sleep(ctx, &q);
        me.block.store(0, Relaxed);
        me.begin();
        tx.set(&me, |w| &w.kind, KIND_MQ_NOTIFY);
        tx.set(&q, |q| &q.notify_waiter, me.handle().0);
        tx.commit();
        Ok(Outcome::Blocked)
    });
    ctx.flush_wakes();
    heed_queue(ctx, queue, noted)
}

/// Goes on with a [`do_mq_notify_thread`] that slept.
///
/// # Errors
/// `EINTR`.
pub fn resume_mq_notify_thread<T: Task>(ctx: &Ctx<'_, T>, cause: Cause) -> Result<Outcome> {
    let me = ctx.slot.part(|s| &s.waiter);
    if cause != Cause::Woken {
        let queue = Handle(me.object.load(Relaxed));
        heed_queue(ctx, queue, abandon(ctx, &me, KIND_MQ_NOTIFY)).inspect_err(|_| give_up(ctx))?;
        if me.phase() != Phase::Done {
            return Err(Errno::EINTR);
        }
    }
    me.end();
    outcome_of(&me).map(Outcome::Done)
}

/// Whether the registration is the calling process's.
fn is_own<T: Task>(task: &T, q: &MqueueInodeInfo) -> bool {
    q.notify_process.load(Relaxed) == task.process().0 && q.notify_pid.load(Relaxed) == task.tgid()
}

/// Whether who has registered is no more: the process, or the program that it was.
fn is_gone<T: Task>(ctx: &Ctx<'_, T>, q: &MqueueInodeInfo) -> bool {
    let pid = q.notify_pid.load(Relaxed);
    let Ok(process) = ctx.at::<arena::ProcSlot>(Handle(q.notify_process.load(Relaxed))) else { return false };
    let executed = || {
        let [then, now] = [q.notify_program.load(Relaxed), ctx.host.program(pid)];
        then != 0 && now != 0 && then != now
    };
    let marked = process.marked();
    process.pid.load(Relaxed) != pid
        || marked && (ctx.host.process_dead(pid, process.start.load(Relaxed)) || executed())
}

fn register<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, q: &Q<'a>, how: u32) -> Result<()> {
    let ctx = tx.ctx();
    if q.notify.load(Relaxed) != 0 {
        if !is_gone(ctx, q) {
            return Err(Errno::EBUSY);
        }
        remove_notification(tx, q)?;
    }
    tx.set(q, |q| &q.notify, how);
    tx.set(q, |q| &q.notify_pid, ctx.host.tgid());
    tx.set(q, |q| &q.notify_process, ctx.host.process().0);
    tx.set(q, |q| &q.notify_program, ctx.host.program(ctx.host.tgid()));
    Ok(())
}

fn clear_notification<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, q: &Q<'a>) {
    tx.set(q, |q| &q.notify, 0);
    tx.set(q, |q| &q.notify_waiter, 0);
    tx.set(q, |q| &q.notify_process, 0);
}

/// Ends a registration; a thread that sleeps for it is told why.
fn end_notification<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, q: &Q<'a>, why: i64) -> Result<()> {
    let waiter = q.notify_waiter.load(Relaxed);
    let by_thread = q.notify.load(Relaxed) == BY_THREAD && waiter != 0;
    clear_notification(tx, q);
    if by_thread {
        let who = sleeper(tx.ctx(), waiter, q.handle())?;
        tx.set(&who, |w| &w.kind, 0);
        tx.set(&who, |w| &w.result, why);
        tx.commit_completing(&who, Phase::Done);
    }
    Ok(())
}

fn remove_notification<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, q: &Q<'a>) -> Result<()> {
    end_notification(tx, q, NOTIFY_REMOVED)
}

/// `__do_notify`: a message has come into an empty queue.
fn do_notify<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, q: &Q<'a>) -> Result<()> {
    let signo = q.notify_signo.load(Relaxed);
    if q.notify.load(Relaxed) == BY_SIGNAL && signo != 0 && !is_gone(tx.ctx(), q) {
        // Who is told twice, because the teller died in between, has been told.
        tx.ctx().host.notify(&notice(q));
    }
    end_notification(tx, q, NOTIFY_WOKENUP)
}

fn notice(q: &Q<'_>) -> Notice {
    Notice {
        queue: q.handle(),
        pid: q.notify_pid.load(Relaxed),
        signo: q.notify_signo.load(Relaxed),
        value: q.notify_value.load(Relaxed),
        from_pid: q.from_pid.load(Relaxed),
        from_uid: q.from_uid.load(Relaxed),
    }
}

/// The signal that a queue's notification is, for who sends it in the place of somebody who may not, and who holds the queue's lock meanwhile.
///
/// # Errors
/// `ESRCH` if there is none to send; those of a namespace that makes no sense.
pub fn notice_of<T: Task>(ctx: &Ctx<'_, T>, handle: Handle) -> Result<Notice> {
    let q = queue(ctx, handle)?;
    if q.notify.load(Relaxed) == BY_SIGNAL { Ok(notice(&q)) } else { Err(Errno::ESRCH) }
}

// ---- mq_getsetattr

/// `mq_getsetattr(2)`.
///
/// # Errors
/// `EFAULT EINVAL EBADF`.
pub fn do_mq_getsetattr<T: Task>(ctx: &Ctx<'_, T>, fd: i32, new: u64, old: u64) -> Result<()> {
    let new = if new == 0 { None } else { Some(compat::get_mq_attr(ctx.host, new)?) };
    if new.is_some_and(|new| new.mq_flags & !i64::from(O_NONBLOCK) != 0) {
        return Err(Errno::EINVAL);
    }
    let Mqd { queue, .. } = ctx.host.mqd(fd)?;
    let nonblock = ctx.host.mqd_nonblock(fd);
    let locked = queue_of(ctx, queue).map(|Locked { object: q, tx: _tx }| MqAttr {
        mq_flags: if nonblock { O_NONBLOCK.into() } else { 0 },
        mq_maxmsg: q.maxmsg.load(Relaxed).into(),
        mq_msgsize: q.msgsize.load(Relaxed).into(),
        mq_curmsgs: q.curmsgs.load(Relaxed).into(),
        ..MqAttr::default()
    });
    let attr = heed_queue(ctx, queue, locked)?;
    if let Some(new) = new {
        ctx.host.set_mqd_nonblock(fd, new.mq_flags != 0);
    }
    if old == 0 { Ok(()) } else { compat::put_mq_attr(ctx.host, old, &attr) }
}

// ---- for listings and views

/// What is to be seen of a queue.
#[derive(Clone, Copy, Debug)]
pub struct MqStat {
    /// Its identifier.
    pub id: i32,
    name: [u64; NAME_MAX / 8 + 1],
    name_len: usize,
    /// Its permissions.
    pub mode: u32,
    /// Whose it is.
    pub uid: u32,
    /// Whose it is.
    pub gid: u32,
    /// Seconds since 1970.
    pub atime: i64,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Seconds since 1970.
    pub ctime: i64,
    /// Bytes of all messages.
    pub qsize: u64,
    /// Messages there are.
    pub curmsgs: u32,
    /// Most messages.
    pub maxmsg: u32,
    /// Longest message, bytes.
    pub msgsize: u32,
    /// How somebody is to be told of a message, `SIGEV_*`; none if nobody is.
    pub notify: Option<i32>,
    /// By which signal, if by one.
    pub notify_signo: i32,
    /// The process that is told; 0 if none.
    pub notify_pid: u32,
    /// Whether its name is gone.
    pub unlinked: bool,
}

/// Words of a name.
const NAME_WORDS: usize = NAME_MAX / 8 + 1;

impl MqStat {
    /// Words that [`MqStat::words`] are.
    pub const WORDS: usize = NAME_WORDS + 16;

    /// All of it as words, to be told to another process.
    pub fn words(&self) -> [u64; MqStat::WORDS] {
        let int = |value: i32| u64::from(value.cast_unsigned());
        let mut words = [0; MqStat::WORDS];
        let (name, rest) = words.split_at_mut(NAME_WORDS);
        name.copy_from_slice(&self.name);
        rest.copy_from_slice(&[
            self.name_len as u64,
            int(self.id),
            self.mode.into(),
            self.uid.into(),
            self.gid.into(),
            self.atime.cast_unsigned(),
            self.mtime.cast_unsigned(),
            self.ctime.cast_unsigned(),
            self.qsize,
            self.curmsgs.into(),
            self.maxmsg.into(),
            self.msgsize.into(),
            self.notify.map_or(0, |how| int(how) + 1),
            int(self.notify_signo),
            self.notify_pid.into(),
            self.unlinked.into(),
        ]);
        words
    }

    /// What these words say.
    #[expect(clippy::cast_possible_truncation, reason = "what was shorter before")]
    pub fn of_words(words: &[u64; MqStat::WORDS]) -> MqStat {
        let mut name = [0; NAME_WORDS];
        name.copy_from_slice(&words[..NAME_WORDS]);
        let word = |at: usize| words[NAME_WORDS + at];
        let int = |at: usize| (word(at) as u32).cast_signed();
        MqStat {
            name,
            name_len: (word(0) as usize).min(NAME_MAX),
            id: int(1),
            mode: word(2) as u32,
            uid: word(3) as u32,
            gid: word(4) as u32,
            atime: word(5).cast_signed(),
            mtime: word(6).cast_signed(),
            ctime: word(7).cast_signed(),
            qsize: word(8),
            curmsgs: word(9) as u32,
            maxmsg: word(10) as u32,
            msgsize: word(11) as u32,
            notify: word(12).checked_sub(1).map(|how| how as i32),
            notify_signo: int(13),
            notify_pid: word(14) as u32,
            unlinked: word(15) != 0,
        }
    }

    /// The queue's name, without a slash.
    pub fn name(&self) -> impl Iterator<Item = u8> + '_ {
        self.name.iter().flat_map(|word| word.to_le_bytes()).take(self.name_len)
    }

    /// `mqueue_read_file`: what a reader of its file sees.
    pub fn line(&self, line: &mut crate::proc::Line) {
        line.clear();
        let signo = if self.notify == Some(SIGEV_SIGNAL) { self.notify_signo } else { 0 };
        let fields: [(&[u8], u64, usize); 4] = [
            (b"QSIZE:", self.qsize, 10),
            (b" NOTIFY:", self.notify.unwrap_or(0).unsigned_abs().into(), 5),
            (b" SIGNO:", signo.unsigned_abs().into(), 5),
            (b" NOTIFY_PID:", self.notify_pid.into(), 6),
        ];
        for (label, value, width) in fields {
            for byte in label {
                line.push(*byte);
            }
            let end = line.text().len() + width;
            line.natural(value);
            while line.text().len() < end {
                line.push(b' ');
            }
        }
        line.push(b'\n');
    }
}

/// The first queue with a name at an index from `from` on, and the index behind it.
///
/// # Errors
/// Those of a namespace that makes no sense.
pub fn next_queue<T: Task>(ctx: &Ctx<'_, T>, from: u32) -> Result<Option<(u32, MqStat)>> {
    let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
    let mut idx = from;
    while let Some(used) = ns.mq_ids.next_used(idx) {
        idx = used + 1;
        let found = obtain_object_idx::<MqueueInodeInfo, T>(ctx, used.cast_signed());
        if let Ok((_, Locked { object: q, tx: _tx })) = found
            && q.unlinked.load(Relaxed) == 0
        {
            return Ok(Some((idx, stat(ctx, &q)?)));
        }
    }
    Ok(None)
}

/// What is to be seen of the queue of a descriptor.
///
/// # Errors
/// `EBADF`.
pub fn stat_mqd<T: Task>(ctx: &Ctx<'_, T>, fd: i32) -> Result<MqStat> {
    let Mqd { queue, .. } = ctx.host.mqd(fd)?;
    let seen = queue_of(ctx, queue).and_then(|Locked { object: q, tx: _tx }| stat(ctx, &q));
    heed_queue(ctx, queue, seen)
}

pub(crate) fn stat<T: Task>(ctx: &Ctx<'_, T>, q: &MqueueInodeInfo) -> Result<MqStat> {
    let mut name = [0; NAME_MAX / 8 + 1];
    let name_len = (q.name_len.load(Relaxed) as usize).min(NAME_MAX);
    let block = Handle(q.name.load(Relaxed));
    let words = ctx.array::<AtomicU64>(block, NAME_AT, name_len.div_ceil(8)).or_errno()?;
    for (to, from) in name.iter_mut().zip(words.iter()) {
        *to = from.load(Relaxed);
    }
    let notify = match q.notify.load(Relaxed) {
        0 => None,
        _ if is_gone(ctx, q) => None,
        BY_SIGNAL => Some(SIGEV_SIGNAL),
        BY_NOTHING => Some(SIGEV_NONE),
        BY_THREAD => Some(SIGEV_THREAD),
        _ => None,
    };
    Ok(MqStat {
        id: q.perm.id.load(Relaxed),
        name,
        name_len,
        mode: q.perm.mode.load(Relaxed),
        uid: q.perm.uid.load(Relaxed),
        gid: q.perm.gid.load(Relaxed),
        atime: q.atime.load(Relaxed),
        mtime: q.mtime.load(Relaxed),
        ctime: q.ctime.load(Relaxed),
        qsize: q.qsize.load(Relaxed),
        curmsgs: q.curmsgs.load(Relaxed),
        maxmsg: q.maxmsg.load(Relaxed),
        msgsize: q.msgsize.load(Relaxed),
        notify,
        notify_signo: q.notify_signo.load(Relaxed),
        notify_pid: if notify.is_some() { q.notify_pid.load(Relaxed) } else { 0 },
        unlinked: q.unlinked.load(Relaxed) != 0,
    })
}
