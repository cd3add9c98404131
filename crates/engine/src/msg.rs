//! System V message queues.
//!
//! What users see: behaviour as in Linux, but selection by type does not get slower with the messages it passes.
//! What is missing: nothing of System V.
//!
//! The queue's lock guards all of [`MsgQueue`], its messages' links, and the waiters on its two lists. `pending`
//! names work that a holder began and did not finish; whoever takes the lock next ends it first.
//!
//! Messages are on three structures: all of them in order of arrival; those of one type in order of arrival, the
//! types in a crit-bit tree (insertion and removal change one link each, which suits the undo log); and runs of
//! neighbours of one type, so that `MSG_EXCEPT` jumps over a run at once. Runs are kept from the second type on, until the queue is
//! empty: with one type, sender and receiver would only take the first message and the last one from each other.

use core::mem::offset_of;

use abi::{
    Errno, Result,
    ipc::{IPC_INFO, IPC_NOWAIT, IPC_RMID, IPC_SET, IPC_STAT},
    msg::{
        MSG_COPY, MSG_EXCEPT, MSG_INFO, MSG_NOERROR, MSG_STAT, MSG_STAT_ANY, MSGMAP, MSGPOOL, MSGSEG, MSGSSZ,
        MSGTQL, MsgInfo, Msqid64Ds,
    },
};
use arena::{
    Class, Ctx, Handle, Lock, Phase, Ref, Tx, Waiter,
    sync::{AtomicI64, AtomicU32, AtomicU64, Ordering::*},
};

use crate::{
    compat,
    msgutil::{MsgMsg, copy_msg, load_msg, message, store_msg},
    namespace::{IpcNamespace, Limit},
    reap::give_up,
    syscall::Msgsnd,
    task::{Cause, Outcome, Task},
    types::{
        Sought, TypeNode, TypeTree, append_to_type, find_type, insert_type, keep_idle, obtain_type,
        outermost, take_idle, unlink_from_type,
    },
    usage::{charge_more, charge_new},
    util::{
        CORRUPT, GUTTED, Head, Holder, IpcIds, IpcParams, KernIpcPerm, Locked, Object, OrErrno, STATE_DYING,
        STATE_LIVE, check_owner, complete_sleep, find_object, free_object, gut, insist, ipc_update_perm,
        ipcget, ipcperms, is_object, kernel_to_ipc64_perm, leave, lock_object, new_object, note_done,
        note_outcome, note_taken, note_was_given, obtain_object_check, obtain_object_idx, obtain_to_remove,
        outcome_of, own_block, release_sleepers, rm_id, set_chain, set_dying, settle_ids, since_then, taken,
    },
    util::{Ends, SLEEPERS, begin_sleep, end_listing, has_ended, sleeper},
};

const R: u32 = 0o444;
const W: u32 = 0o222;
/// `pending`: receivers are to look again.
const RECHECK: u32 = 1;
/// `pending`: senders may have room.
const ROOM: u32 = 2;
/// A waiter's kind.
pub(crate) const KIND_RECV: u32 = 1;
/// A waiter's kind.
pub(crate) const KIND_SEND: u32 = 2;
/// What a message holds beside its text: its head, its type's, and what its blocks have too much.
pub(crate) const MESSAGE_BYTES: u64 = 128;
/// More messages than the arena has room for.
const MESSAGES: u64 = 1 << 30;

arena::shared! {
    /// `msg_queue`.
    pub(crate) struct MsgQueue {
        perm: KernIpcPerm,
        stime: AtomicI64,
        rtime: AtomicI64,
        lspid: AtomicU32,
        lrpid: AtomicU32,
        // From here on a cache line of what the usual send and receive change.
        lock: Lock,
        cbytes: AtomicU64,
        qnum: AtomicU64,
        qbytes: AtomicU64,
        first: AtomicU32,
        last: AtomicU32,
        recv_head: AtomicU32,
        send_head: AtomicU32,
        /// Whether there may be messages of more than one type, so that runs are kept.
        mixed: AtomicU32,
        pending: AtomicU32,
        /// All of it on this line but the root, which is on the next one with the rest.
        types: TypeTree,
        recv_tail: AtomicU32,
        ctime: AtomicI64,
        send_tail: AtomicU32,
        pad: AtomicU32,
    }
}
const _: () = assert!(size_of::<MsgQueue>() <= 256);
#[cfg(not(any(loom, shuttle)))]
const _: () =
    assert!(offset_of!(MsgQueue, lock) == offset_of!(Head, lock) && offset_of!(MsgQueue, recv_tail) == 132);

impl Object for MsgQueue {
    const CLASS: Class = Class::QUEUE;
    const LIMIT: Limit = Limit::MsgMni;
    fn perm(&self) -> &KernIpcPerm {
        &self.perm
    }
    fn lock(&self) -> &Lock {
        &self.lock
    }
    fn ids(ns: &IpcNamespace) -> &IpcIds {
        &ns.msg_ids
    }
    fn holds(&self) -> u64 {
        let heads = self.qnum.load(Relaxed).saturating_mul(MESSAGE_BYTES);
        (size_of::<MsgQueue>() as u64).saturating_add(self.cbytes.load(Relaxed)).saturating_add(heads)
    }
    #[inline(always)]
    fn finish_pending<T: Task>(tx: &mut Tx<'_, '_, T>, q: &Ref<'_, Self>) -> Result<()> {
        if q.pending.load(Relaxed) == 0 {
            return Ok(());
        }
        // The reference's life is the arena's; the trait's signature does not know.
        let q = tx.ctx().at::<MsgQueue>(q.handle()).or_errno()?;
        finish(tx, &q)
    }
}

impl Holder for MsgQueue {
    fn contents(&self) -> impl Iterator<Item = &AtomicU32> {
        let messages = [&self.first, &self.last, &self.mixed];
        let sleepers = [&self.recv_head, &self.recv_tail, &self.send_head, &self.send_tail];
        messages.into_iter().chain(self.types.words()).chain(sleepers)
    }
    fn pending(&self) -> &AtomicU32 {
        &self.pending
    }
}

type Q<'a> = Ref<'a, MsgQueue>;

// ---- msgget

/// `msgget(2)`.
///
/// # Errors
/// `ENOENT EEXIST EACCES ENOSPC ENOMEM`.
pub fn do_msgget<T: Task>(ctx: &Ctx<'_, T>, key: i32, flags: i32) -> Result<i32> {
    let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
    ipcget::<MsgQueue, T>(
        ctx,
        &IpcParams { key, flags },
        |_| Ok(()),
        || newque(ctx, &ns, flags),
        |q| ctx.free(q.handle()),
        |_, _| Ok(()),
    )
}

fn newque<'a, T: Task>(ctx: &Ctx<'a, T>, ns: &IpcNamespace, flags: i32) -> Result<Q<'a>> {
    charge_new(ctx, size_of::<MsgQueue>() as u64)?;
    let q: Q<'a> = new_object(ctx, flags)?;
    q.stime.store(0, Relaxed);
    q.rtime.store(0, Relaxed);
    q.ctime.store(ctx.host.now(), Relaxed);
    for place in [&q.cbytes, &q.qnum] {
        place.store(0, Relaxed);
    }
    #[expect(clippy::cast_sign_loss, reason = "the limit's range excludes negative ones")]
    q.qbytes.store(ns.limit(Limit::MsgMnb) as u64, Relaxed);
    for place in [
        &q.lspid,
        &q.lrpid,
        &q.first,
        &q.last,
        &q.recv_head,
        &q.recv_tail,
        &q.send_head,
        &q.send_tail,
        &q.mixed,
        &q.pending,
    ] {
        place.store(0, Relaxed);
    }
    for place in q.types.words() {
        place.store(0, Relaxed);
    }
    Ok(q)
}

// ---- the queue's messages

/// Appends a message to the queue and to its type.
#[inline(always)]
fn append<'a, T: Task>(
    tx: &mut Tx<'_, 'a, T>,
    q: &Q<'a>,
    msg: &Ref<'a, MsgMsg>,
    of: &Ref<'a, TypeNode>,
) -> Result<()> {
    let ctx = tx.ctx();
    let me = msg.handle().0;
    let last = q.last.load(Relaxed);
    msg.next.store(0, Relaxed);
    msg.prev.store(last, Relaxed);
    msg.run.store(me, Relaxed);
    if last == 0 {
        tx.set(q, |q| &q.first, me);
    } else {
        let last = message(ctx, last)?;
        tx.set(&last, |m| &m.next, me);
        let mixed = q.mixed.load(Relaxed) != 0;
        if last.mtype.load(Relaxed) != msg.mtype.load(Relaxed) {
            if !mixed {
                begin_runs(tx, q, &last)?;
            }
        } else if mixed {
            let start = message(ctx, last.run.load(Relaxed))?;
            msg.run.store(start.handle().0, Relaxed);
            tx.set(&start, |m| &m.run, me);
        }
    }
    tx.set(q, |q| &q.last, me);
    append_to_type(tx, &q.part(|q| &q.types), msg, of)?;
    tx.set(q, |q| &q.cbytes, q.cbytes.load(Relaxed) + u64::from(msg.size.load(Relaxed)));
    tx.set(q, |q| &q.qnum, q.qnum.load(Relaxed) + 1);
    Ok(())
}

/// All messages are of one type up to `last`, and the next one is not: they are the first run.
#[inline(always)]
fn begin_runs<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, q: &Q<'a>, last: &Ref<'a, MsgMsg>) -> Result<()> {
    let first = message(tx.ctx(), q.first.load(Relaxed))?;
    tx.set(&first, |m| &m.run, last.handle().0);
    tx.set(last, |m| &m.run, first.handle().0);
    tx.set(q, |q| &q.mixed, 1);
    Ok(())
}

/// Takes a message out of the queue, into the thread's in-flight chain.
fn take<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, q: &Q<'a>, msg: &Ref<'a, MsgMsg>) -> Result<()> {
    let of = unlink(tx, q, msg)?;
    let chain = keep_idle(tx, &q.part(|q| &q.types), &of, msg.handle())?;
    set_chain(tx, chain);
    Ok(())
}

/// Takes a message off the lists that it is on, and returns its type.
#[inline(always)]
fn unlink<'a, T: Task>(
    tx: &mut Tx<'_, 'a, T>,
    q: &Q<'a>,
    msg: &Ref<'a, MsgMsg>,
) -> Result<Ref<'a, TypeNode>> {
    let ctx = tx.ctx();
    let (next, prev) = (msg.next.load(Relaxed), msg.prev.load(Relaxed));
    if q.mixed.load(Relaxed) != 0 {
        if next | prev == 0 {
            tx.set(q, |q| &q.mixed, 0);
        } else {
            leave_run(tx, msg)?;
        }
    }
    match next {
        0 => tx.set(q, |q| &q.last, prev),
        _ => tx.set(&message(ctx, next)?, |m| &m.prev, prev),
    }
    match prev {
        0 => tx.set(q, |q| &q.first, next),
        _ => tx.set(&message(ctx, prev)?, |m| &m.next, next),
    }
    let of = unlink_from_type(tx, msg)?;
    let size = u64::from(msg.size.load(Relaxed));
    tx.set(q, |q| &q.cbytes, q.cbytes.load(Relaxed).wrapping_sub(size));
    tx.set(q, |q| &q.qnum, q.qnum.load(Relaxed).wrapping_sub(1));
    Ok(of)
}

/// Takes a message out of its run; runs that meet because of it become one.
#[inline(always)]
fn leave_run<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, msg: &Ref<'a, MsgMsg>) -> Result<()> {
    let ctx = tx.ctx();
    let mtype = msg.mtype.load(Relaxed);
    let neighbour = |link: u32| if link == 0 { Ok(None) } else { message(ctx, link).map(Some) };
    let next = neighbour(msg.next.load(Relaxed))?;
    let prev = neighbour(msg.prev.load(Relaxed))?;
    let same = |m: &Option<Ref<'a, MsgMsg>>| m.is_some_and(|m| m.mtype.load(Relaxed) == mtype);
    match (same(&prev), same(&next), prev, next) {
        // In the middle of its run: the ends don't change.
        (true, true, ..) => {}
        // The run's last: the one before becomes it.
        (true, false, Some(prev), _) => {
            let start = message(ctx, msg.run.load(Relaxed))?;
            tx.set(&prev, |m| &m.run, start.handle().0);
            tx.set(&start, |m| &m.run, prev.handle().0);
        }
        // The run's first.
        (false, true, _, Some(next)) => {
            let end = message(ctx, msg.run.load(Relaxed))?;
            tx.set(&next, |m| &m.run, end.handle().0);
            tx.set(&end, |m| &m.run, next.handle().0);
        }
        // Alone: its neighbours may be of one type.
        (_, _, Some(prev), Some(next)) if prev.mtype.load(Relaxed) == next.mtype.load(Relaxed) => {
            let start = message(ctx, prev.run.load(Relaxed))?;
            let end = message(ctx, next.run.load(Relaxed))?;
            tx.set(&start, |m| &m.run, end.handle().0);
            tx.set(&end, |m| &m.run, start.handle().0);
        }
        _ => {}
    }
    Ok(())
}

/// What a receiver wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Select {
    Any,
    Equal(i64),
    NotEqual(i64),
    AtMost(i64),
    /// `MSG_COPY`: by position.
    Position(i64),
}

impl Select {
    /// `convert_mode`.
    fn new(msgtyp: i64, flags: i32) -> Select {
        if flags & MSG_COPY != 0 {
            return Select::Position(msgtyp);
        }
        match msgtyp {
            0 => Select::Any,
            i64::MIN => Select::AtMost(i64::MAX),
            t if t < 0 => Select::AtMost(-t),
            t if flags & MSG_EXCEPT != 0 => Select::NotEqual(t),
            t => Select::Equal(t),
        }
    }

    fn matches(self, mtype: i64) -> bool {
        match self {
            Select::Any => true,
            Select::Equal(t) => mtype == t,
            Select::NotEqual(t) => mtype != t,
            Select::AtMost(t) => mtype <= t,
            Select::Position(_) => false,
        }
    }

    #[expect(clippy::cast_sign_loss, reason = "the bits")]
    fn pack(self) -> [u64; 2] {
        match self {
            Select::Any => [0, 0],
            Select::Equal(t) => [1, t as u64],
            Select::NotEqual(t) => [2, t as u64],
            Select::AtMost(t) => [3, t as u64],
            Select::Position(p) => [4, p as u64],
        }
    }

    #[expect(clippy::cast_possible_wrap, reason = "the bits")]
    fn unpack(kind: u64, t: u64) -> Select {
        match kind {
            0 => Select::Any,
            1 => Select::Equal(t as i64),
            2 => Select::NotEqual(t as i64),
            3 => Select::AtMost(t as i64),
            _ => Select::Position(t as i64),
        }
    }
}

/// `find_msg`.
fn find_msg<'a, T: Task>(ctx: &Ctx<'a, T>, q: &Q<'a>, select: Select) -> Result<Option<Ref<'a, MsgMsg>>> {
    let first = q.first.load(Relaxed);
    if first == 0 {
        return Ok(None);
    }
    let of = |n: Option<Ref<'a, TypeNode>>| n.map_or(0, |n| n.head.load(Relaxed));
    let link = match select {
        Select::Any => first,
        Select::Equal(t) => of(find_type(ctx, &q.part(|q| &q.types), t)?),
        Select::AtMost(t) => of(outermost(ctx, &q.types, 0)?.filter(|n| n.mtype.load(Relaxed) <= t)),
        Select::NotEqual(t) => {
            let first = message(ctx, first)?;
            if first.mtype.load(Relaxed) != t {
                first.handle().0
            } else if q.mixed.load(Relaxed) != 0 {
                message(ctx, first.run.load(Relaxed))?.next.load(Relaxed)
            } else {
                0
            }
        }
        Select::Position(p) => {
            // The list may go round in a circle: it is not followed further than the queue says that it goes.
            let last = q.qnum.load(Relaxed).min(MESSAGES);
            let Some(p) = u64::try_from(p).ok().filter(|p| *p < last) else { return Ok(None) };
            let mut at = first;
            for _ in 0..p {
                at = message(ctx, at)?.next.load(Relaxed);
            }
            at
        }
    };
    if link == 0 { Ok(None) } else { message(ctx, link).map(Some) }
}

// ---- sleepers

/// Which of the queue's lists.
#[derive(Clone, Copy)]
enum List {
    Receivers,
    Senders,
}

impl List {
    fn head(self, q: &MsgQueue) -> &AtomicU32 {
        match self {
            List::Receivers => &q.recv_head,
            List::Senders => &q.send_head,
        }
    }
    fn tail(self, q: &MsgQueue) -> &AtomicU32 {
        match self {
            List::Receivers => &q.recv_tail,
            List::Senders => &q.send_tail,
        }
    }
    fn ends<'a>(self, q: &Q<'a>) -> Ends<'a> {
        [q.part(|q| self.head(q)), q.part(|q| self.tail(q))]
    }
    fn kind(self) -> u32 {
        match self {
            List::Receivers => KIND_RECV,
            List::Senders => KIND_SEND,
        }
    }
}

/// Puts the thread's waiter at a list's end. The sleep begins with the commit.
fn enqueue<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, q: &Q<'a>, list: List) -> Result<()> {
    let last = list.tail(q).load(Relaxed);
    begin_sleep(tx, q, list.kind(), list.ends(q), last)
}

fn dequeue<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, q: &Q<'a>, list: List, who: &Ref<'a, Waiter>) -> Result<()> {
    end_listing(tx, q.handle(), list.ends(q), who)
}

/// Takes a sleeper off its list and ends its sleep, as one change with what was done before.
fn complete<'a, T: Task>(
    tx: &mut Tx<'_, 'a, T>,
    q: &Q<'a>,
    list: List,
    who: &Ref<'a, Waiter>,
    phase: Phase,
    result: Result<()>,
) -> Result<()> {
    dequeue(tx, q, list, who)?;
    complete_sleep(tx, who, phase, result);
    Ok(())
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
    if pending & RECHECK != 0 {
        complete_all(tx, q, List::Receivers, dying)?;
    }
    if dying {
        complete_all(tx, q, List::Senders, dying)?;
    } else if pending & ROOM != 0 {
        ss_wakeup(tx, q)?;
    }
    tx.set(q, |q| &q.pending, 0);
    tx.commit();
    Ok(())
}

fn complete_all<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, q: &Q<'a>, list: List, dying: bool) -> Result<()> {
    // A sleeper that looks again goes to the end, but only after this lock is released.
    for _ in 0..=tx.ctx().thread_capacity().or_errno()? {
        let Some(first) = Handle(list.head(q).load(Relaxed)).some() else { return Ok(()) };
        let who = sleeper(tx.ctx(), first.0, q.handle())?;
        if dying {
            complete(tx, q, list, &who, Phase::Done, Err(Errno::EIDRM))?;
        } else {
            complete(tx, q, list, &who, Phase::Retry, Ok(()))?;
        }
    }
    Err(CORRUPT)
}

/// `ss_wakeup`: lets those senders try again whose messages would fit now.
fn ss_wakeup<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, q: &Q<'a>) -> Result<()> {
    let mut at = q.send_head.load(Relaxed);
    for _ in 0..=SLEEPERS {
        if at == 0 {
            return Ok(());
        }
        let who = sleeper(tx.ctx(), at, q.handle())?;
        at = who.next.load(Relaxed);
        if fits(q, who.args[0].load(Relaxed)) {
            complete(tx, q, List::Senders, &who, Phase::Retry, Ok(()))?;
        }
    }
    Err(CORRUPT)
}

fn fits(q: &MsgQueue, size: u64) -> bool {
    let qbytes = q.qbytes.load(Relaxed);
    size + q.cbytes.load(Relaxed) <= qbytes && q.qnum.load(Relaxed) < qbytes
}

// ---- msgsnd

/// `msgsnd(2)`.
///
/// # Errors
/// `EFAULT EINVAL ENOMEM EACCES EAGAIN EIDRM`.
pub fn do_msgsnd<T: Task>(ctx: &Ctx<'_, T>, call: &Msgsnd) -> Result<Outcome> {
    let Msgsnd { id, msgp, size, flags, mtype } = *call;
    let (mtype, text) = match mtype {
        Some(mtype) => (mtype, msgp),
        None => (compat::get_long(ctx.host, msgp)?, msgp.wrapping_add(compat::size_of_long(ctx.host))),
    };
    let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
    #[expect(clippy::cast_sign_loss, reason = "the limit's range excludes negative ones")]
    if size > ns.limit(Limit::MsgMax) as u64 || id < 0 || mtype < 1 {
        return Err(Errno::EINVAL);
    }
    if T::HAS_QUOTAS
        && let Ok(q) = find_object::<MsgQueue, T>(ctx, id)
    {
        charge_more(ctx, q.get(), MESSAGE_BYTES + size)?;
    }
    if let Err(e) = load_msg(ctx, text, size, mtype) {
        ctx.free_chain();
        return Err(e);
    }
    let sent = try_send(ctx, id, flags);
    ctx.flush_wakes();
    if sent.is_err() {
        ctx.free_chain();
    }
    sent
}

/// Goes on with a `msgsnd` that slept.
///
/// # Errors
/// As [`do_msgsnd`], and `EINTR`.
pub fn resume_msgsnd<T: Task>(ctx: &Ctx<'_, T>, id: i32, flags: i32, cause: Cause) -> Result<Outcome> {
    let me = ctx.slot.part(|s| &s.waiter);
    let left =
        cause != Cause::Woken && leave(ctx, |q| List::Senders.ends(q)).inspect_err(|_| give_up(ctx))?;
    // The message is the thread's again.
    own_block(ctx, &me);
    let failed = match me.phase() {
        _ if left => Err(Errno::EINTR),
        Phase::Done => Err(Errno::EIDRM),
        _ => Ok(()),
    };
    if failed.is_err() {
        note_outcome(ctx, &failed);
    }
    me.end();
    let sent = failed.and_then(|()| try_send(ctx, id, flags).map_err(|e| since_then(ctx, e)));
    ctx.flush_wakes();
    if sent.is_err() {
        ctx.free_chain();
    }
    sent
}

/// One try to send the message in the in-flight chain.
#[inline(always)]
fn try_send<'a, T: Task>(ctx: &Ctx<'a, T>, id: i32, flags: i32) -> Result<Outcome> {
    let msg: Ref<'a, MsgMsg> = ctx.at(Handle(ctx.slot.in_flight.chain.load(Relaxed))).or_errno()?;
    if send_undisturbed(ctx, id, &msg) {
        return Ok(Outcome::Done(0));
    }
    let mut spare = None;
    let sent = send_in_full(ctx, id, flags, &msg, &mut spare);
    if let Some(unused) = spare {
        ctx.free(unused.handle());
    }
    sent
}

/// The try that can be made at once and has nothing else to see to: there is room, nobody sleeps, the type has been
/// there before. False if there is something; then nothing was changed.
///
/// The transaction is not passed on by reference, so that it stays in registers.
#[inline(never)]
fn send_undisturbed<'a, T: Task>(ctx: &Ctx<'a, T>, id: i32, msg: &Ref<'a, MsgMsg>) -> bool {
    let (size, mtype) = (u64::from(msg.size.load(Relaxed)), msg.mtype.load(Relaxed));
    let Ok(q) = find_object::<MsgQueue, T>(ctx, id) else { return false };
    let Ok(mut tx) = ctx.lock(q.part(|q| &q.lock)) else { return false };
    let done = 'done: {
        if q.pending.load(Relaxed) | q.recv_head.load(Relaxed) != 0
            || !is_object(q.get(), id)
            || ipcperms(ctx.host, &q.perm, W).is_err()
            || !fits(&q, size)
        {
            break 'done false;
        }
        let Ok(Some(of)) = find_type(ctx, &q.part(|q| &q.types), mtype) else { break 'done false };
        if append(&mut tx, &q, msg, &of).is_err() {
            break 'done false;
        }
        tx.renew(&q, |q| &q.lspid, ctx.host.tgid());
        tx.renew(&q, |q| &q.stime, ctx.host.now());
        tx.set(&ctx.slot, |s| &s.in_flight.chain, 0);
        note_done(&mut tx);
        tx.commit();
        q.types.recent.store(of.handle().0, Relaxed);
        true
    };
    tx.release();
    done
}

/// As [`try_send`]; `spare` is what was allocated for a new type and is not needed after all.
#[inline(never)]
fn send_in_full<'a, T: Task>(
    ctx: &Ctx<'a, T>,
    id: i32,
    flags: i32,
    msg: &Ref<'a, MsgMsg>,
    spare: &mut Option<Ref<'a, TypeNode>>,
) -> Result<Outcome> {
    let (size, mtype) = (u64::from(msg.size.load(Relaxed)), msg.mtype.load(Relaxed));
    loop {
        let Locked { object: q, mut tx } = obtain_object_check::<MsgQueue, T>(ctx, id)?;
        ipcperms(ctx.host, &q.perm, W)?;
        if !fits(&q, size) {
            if flags & IPC_NOWAIT != 0 {
                return Err(Errno::EAGAIN);
            }
            let me = ctx.slot.part(|s| &s.waiter);
            me.args[0].store(size, Relaxed);
            enqueue(&mut tx, &q, List::Senders)?;
            tx.set(&me, |w| &w.block, msg.handle().0);
            set_chain(&mut tx, Handle::NULL);
            tx.commit();
            return Ok(Outcome::Blocked);
        }
        if q.recv_head.load(Relaxed) != 0 && pipelined_send(&mut tx, &q, msg)? {
            return Ok(Outcome::Done(0));
        }
        let of = match obtain_type(&mut tx, &q.part(|q| &q.types), mtype)? {
            Sought::There(of) => of,
            Sought::Missing(gap) => match spare.take() {
                Some(new) => {
                    insert_type(&mut tx, gap, &new, mtype);
                    taken(&mut tx);
                    new
                }
                None => {
                    drop(tx);
                    *spare = Some(ctx.at(ctx.alloc(size_of::<TypeNode>() as u64).or_errno()?).or_errno()?);
                    continue;
                }
            },
        };
        append(&mut tx, &q, msg, &of)?;
        tx.renew(&q, |q| &q.lspid, ctx.host.tgid());
        tx.renew(&q, |q| &q.stime, ctx.host.now());
        set_chain(&mut tx, Handle::NULL);
        note_done(&mut tx);
        tx.commit();
        return Ok(Outcome::Done(0));
    }
}

/// Hands the message to the first sleeping receiver that it suits. Those whose buffer is too small are told so.
fn pipelined_send<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, q: &Q<'a>, msg: &Ref<'a, MsgMsg>) -> Result<bool> {
    let ctx = tx.ctx();
    let size = u64::from(msg.size.load(Relaxed));
    let mut at = q.recv_head.load(Relaxed);
    for _ in 0..=SLEEPERS {
        if at == 0 {
            return Ok(false);
        }
        let who = sleeper(ctx, at, q.handle())?;
        at = who.next.load(Relaxed);
        let select = Select::unpack(who.args[0].load(Relaxed), who.args[1].load(Relaxed));
        if !select.matches(msg.mtype.load(Relaxed)) {
            continue;
        }
        if has_ended(ctx, &who) {
            dequeue(tx, q, List::Receivers, &who)?;
            tx.commit();
            continue;
        }
        if who.args[2].load(Relaxed) < size {
            complete(tx, q, List::Receivers, &who, Phase::Done, Err(Errno::E2BIG))?;
            continue;
        }
        let now = ctx.host.now();
        tx.set(q, |q| &q.lspid, ctx.host.tgid());
        tx.set(q, |q| &q.stime, now);
        // The kernel records the receiving thread here, not the process.
        tx.set(q, |q| &q.lrpid, who.tid.load(Relaxed));
        tx.set(q, |q| &q.rtime, now);
        tx.set(&who, |w| &w.block, msg.handle().0);
        set_chain(tx, Handle::NULL);
        note_done(tx);
        complete(tx, q, List::Receivers, &who, Phase::Done, Ok(()))?;
        return Ok(true);
    }
    Err(CORRUPT)
}

// ---- msgrcv

/// The arguments of a `msgrcv(2)`.
#[derive(Clone, Copy, Debug)]
pub struct Msgrcv {
    /// The queue.
    pub id: i32,
    /// Where the type goes, followed by the text.
    pub msgp: u64,
    /// Room for text, bytes.
    pub size: u64,
    /// Which message.
    pub msgtyp: i64,
    /// `IPC_NOWAIT`, `MSG_NOERROR`, `MSG_EXCEPT`, `MSG_COPY`.
    pub flags: i32,
    /// Where the text goes, if not behind the type: for callers that are no registers.
    pub text: Option<u64>,
}

impl Msgrcv {
    #[inline(always)]
    fn text<T: Task>(&self, ctx: &Ctx<'_, T>) -> u64 {
        match self.text {
            Some(text) => text,
            None => self.msgp.wrapping_add(compat::size_of_long(ctx.host)),
        }
    }
}

/// `msgrcv(2)`.
///
/// # Errors
/// `EINVAL EFAULT EACCES E2BIG ENOMSG EIDRM ENOMEM`.
pub fn do_msgrcv<T: Task>(ctx: &Ctx<'_, T>, call: &Msgrcv) -> Result<Outcome> {
    if call.id < 0 || i64::try_from(call.size).is_err() {
        return Err(Errno::EINVAL);
    }
    if call.flags & MSG_COPY != 0 {
        return receive_copy(ctx, call);
    }
    let received = try_receive(ctx, call);
    ctx.flush_wakes();
    received
}

/// Goes on with a `msgrcv` that slept.
///
/// # Errors
/// As [`do_msgrcv`], and `EINTR`.
pub fn resume_msgrcv<T: Task>(ctx: &Ctx<'_, T>, call: &Msgrcv, cause: Cause) -> Result<Outcome> {
    if cause != Cause::Woken && leave(ctx, |q| List::Receivers.ends(q)).inspect_err(|_| give_up(ctx))? {
        return Err(Errno::EINTR);
    }
    let me = ctx.slot.part(|s| &s.waiter);
    if me.phase() == Phase::Retry {
        me.end();
        let again = try_receive(ctx, call).map_err(|e| since_then(ctx, e));
        ctx.flush_wakes();
        return again;
    }
    note_was_given(ctx, &me);
    me.end();
    outcome_of(&me)?;
    deliver(ctx, &ctx.at(own_block(ctx, &me)).or_errno()?, call)
}

#[inline(always)]
fn try_receive<T: Task>(ctx: &Ctx<'_, T>, call: &Msgrcv) -> Result<Outcome> {
    match receive_undisturbed(ctx, call) {
        Some(msg) => deliver(ctx, &msg, call),
        None => receive_in_full(ctx, call),
    }
}

/// As [`send_undisturbed`]: takes the message, if it is there and nobody waits for its room.
#[inline(never)]
fn receive_undisturbed<'a, T: Task>(ctx: &Ctx<'a, T>, call: &Msgrcv) -> Option<Ref<'a, MsgMsg>> {
    let q = find_object::<MsgQueue, T>(ctx, call.id).ok()?;
    let mut tx = ctx.lock(q.part(|q| &q.lock)).ok()?;
    let taken = 'taken: {
        if q.pending.load(Relaxed) | q.send_head.load(Relaxed) != 0
            || !is_object(q.get(), call.id)
            || ipcperms(ctx.host, &q.perm, R).is_err()
        {
            break 'taken None;
        }
        let select = Select::new(call.msgtyp, call.flags);
        let Ok(Some(msg)) = find_msg(ctx, &q, select) else { break 'taken None };
        if call.size < u64::from(msg.size.load(Relaxed)) && call.flags & MSG_NOERROR == 0 {
            break 'taken None;
        }
        let Ok(of) = unlink(&mut tx, &q, &msg) else { break 'taken None };
        if of.head.load(Relaxed) == 0 {
            if q.types.idle.load(Relaxed) != 0 {
                break 'taken None;
            }
            tx.set(&q, |q| &q.types.idle, of.handle().0);
        }
        tx.renew(&q, |q| &q.lrpid, ctx.host.tgid());
        tx.renew(&q, |q| &q.rtime, ctx.host.now());
        tx.set(&ctx.slot, |s| &s.in_flight.chain, msg.handle().0);
        note_taken(&mut tx, msg.handle());
        tx.commit();
        q.types.recent.store(of.handle().0, Relaxed);
        Some(msg)
    };
    tx.release();
    taken
}

#[inline(never)]
fn receive_in_full<T: Task>(ctx: &Ctx<'_, T>, call: &Msgrcv) -> Result<Outcome> {
    let select = Select::new(call.msgtyp, call.flags);
    let Locked { object: q, mut tx } = obtain_object_check::<MsgQueue, T>(ctx, call.id)?;
    ipcperms(ctx.host, &q.perm, R)?;
    let Some(msg) = find_msg(ctx, &q, select)? else {
        if call.flags & IPC_NOWAIT != 0 {
            return Err(Errno::ENOMSG);
        }
        let me = ctx.slot.part(|s| &s.waiter);
        let [kind, t] = select.pack();
        me.args[0].store(kind, Relaxed);
        me.args[1].store(t, Relaxed);
        me.args[2]
            .store(if call.flags & MSG_NOERROR != 0 { u64::from(u32::MAX) } else { call.size }, Relaxed);
        me.block.store(0, Relaxed);
        enqueue(&mut tx, &q, List::Receivers)?;
        tx.commit();
        return Ok(Outcome::Blocked);
    };
    if call.size < u64::from(msg.size.load(Relaxed)) && call.flags & MSG_NOERROR == 0 {
        return Err(Errno::E2BIG);
    }
    take(&mut tx, &q, &msg)?;
    note_taken(&mut tx, msg.handle());
    tx.renew(&q, |q| &q.lrpid, ctx.host.tgid());
    tx.renew(&q, |q| &q.rtime, ctx.host.now());
    let senders = q.send_head.load(Relaxed) != 0;
    if senders {
        tx.set(&q, |q| &q.pending, ROOM);
    }
    tx.commit();
    if senders {
        finish(&mut tx, &q)?;
    }
    drop(tx);
    ctx.flush_wakes();
    deliver(ctx, &msg, call)
}

/// Copies a message that was taken to the caller, and frees it. A bad address loses it, as in the kernel.
fn deliver<T: Task>(ctx: &Ctx<'_, T>, msg: &Ref<'_, MsgMsg>, call: &Msgrcv) -> Result<Outcome> {
    let len = u64::from(msg.size.load(Relaxed)).min(call.size);
    let text = call.text(ctx);
    let copied = compat::put_long(ctx.host, call.msgp, msg.mtype.load(Relaxed))
        .and_then(|()| store_msg(ctx, msg, text, len));
    if !T::ASKS_LATER {
        ctx.free_chain();
    }
    copied?;
    #[expect(clippy::cast_possible_wrap, reason = "at most an int")]
    Ok(Outcome::Done(len as i64))
}

/// `MSG_COPY`: nothing of the queue changes.
fn receive_copy<T: Task>(ctx: &Ctx<'_, T>, call: &Msgrcv) -> Result<Outcome> {
    if call.flags & MSG_EXCEPT != 0 || call.flags & IPC_NOWAIT == 0 {
        return Err(Errno::EINVAL);
    }
    let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
    #[expect(clippy::cast_sign_loss, reason = "the limit's range excludes negative ones")]
    let room = call.size.min(ns.limit(Limit::MsgMax) as u64);
    let copied = load_msg(ctx, call.msgp, room, 1).and_then(|copy| {
        let Locked { object: q, tx } = obtain_object_check::<MsgQueue, T>(ctx, call.id)?;
        ipcperms(ctx.host, &q.perm, R)?;
        let msg = find_msg(ctx, &q, Select::Position(call.msgtyp))?.ok_or(Errno::ENOMSG)?;
        let len = u64::from(msg.size.load(Relaxed));
        if call.size < len && call.flags & MSG_NOERROR == 0 {
            return Err(Errno::E2BIG);
        }
        copy_msg(ctx, &msg, &copy)?;
        let mtype = msg.mtype.load(Relaxed);
        drop(tx);
        compat::put_long(ctx.host, call.msgp, mtype)?;
        store_msg(ctx, &copy, call.text(ctx), len)?;
        #[expect(clippy::cast_possible_wrap, reason = "at most an int")]
        Ok(Outcome::Done(len as i64))
    });
    ctx.free_chain();
    copied
}

// ---- msgctl

/// Checks that every `msgctl` makes first.
///
/// # Errors
/// `EINVAL` for a negative identifier or command, or an unknown command.
pub fn check_msgctl(id: i32, cmd: i32) -> Result<()> {
    let known = matches!(cmd, IPC_RMID | IPC_SET | IPC_STAT | IPC_INFO | MSG_STAT | MSG_INFO | MSG_STAT_ANY);
    if id < 0 || !known { Err(Errno::EINVAL) } else { Ok(()) }
}

/// `msgctl(IPC_STAT)`, `MSG_STAT`, `MSG_STAT_ANY`: the structure, and what the call returns.
///
/// # Errors
/// `EINVAL EACCES`.
pub fn msgctl_stat<T: Task>(ctx: &Ctx<'_, T>, id: i32, cmd: i32) -> Result<(i32, Msqid64Ds)> {
    let (result, locked) = if cmd == IPC_STAT {
        (0, obtain_object_check::<MsgQueue, T>(ctx, id)?)
    } else {
        obtain_object_idx::<MsgQueue, T>(ctx, id)?
    };
    let q = locked.object;
    if cmd != MSG_STAT_ANY {
        ipcperms(ctx.host, &q.perm, R)?;
    }
    #[expect(clippy::cast_possible_wrap, reason = "process ids")]
    let stat = Msqid64Ds {
        msg_perm: kernel_to_ipc64_perm(&q.perm),
        msg_stime: q.stime.load(Relaxed),
        msg_rtime: q.rtime.load(Relaxed),
        msg_ctime: q.ctime.load(Relaxed),
        msg_cbytes: q.cbytes.load(Relaxed),
        msg_qnum: q.qnum.load(Relaxed),
        msg_qbytes: q.qbytes.load(Relaxed),
        msg_lspid: q.lspid.load(Relaxed) as i32,
        msg_lrpid: q.lrpid.load(Relaxed) as i32,
        ..Msqid64Ds::default()
    };
    Ok((result, stat))
}

/// `msgctl(IPC_INFO)` and `MSG_INFO`: the structure, and the highest index in use.
///
/// # Errors
/// `EIDRM` if the namespace makes no sense.
pub fn msgctl_info<T: Task>(ctx: &Ctx<'_, T>, cmd: i32) -> Result<(i32, MsgInfo)> {
    let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
    settle_ids::<MsgQueue, T>(ctx)?;
    let mut info = MsgInfo {
        msgpool: MSGPOOL,
        msgmap: MSGMAP,
        msgmax: ns.limit(Limit::MsgMax),
        msgmnb: ns.limit(Limit::MsgMnb),
        msgmni: ns.limit(Limit::MsgMni),
        msgssz: MSGSSZ,
        msgtql: MSGTQL,
        msgseg: MSGSEG,
        pad: 0,
    };
    if cmd == MSG_INFO {
        let (mut messages, mut bytes) = (0u64, 0u64);
        let mut idx = 0;
        while let Some(used) = ns.msg_ids.next_used(idx) {
            idx = used + 1;
            #[expect(clippy::cast_possible_wrap, reason = "below IPCMNI")]
            if let Ok((_, locked)) = obtain_object_idx::<MsgQueue, T>(ctx, used as i32) {
                messages += locked.object.qnum.load(Relaxed);
                bytes += locked.object.cbytes.load(Relaxed);
            }
        }
        info.msgpool = ns.msg_ids.in_use().cast_signed();
        info.msgmap = i32::try_from(messages).unwrap_or(i32::MAX);
        info.msgtql = i32::try_from(bytes).unwrap_or(i32::MAX);
    }
    Ok((ns.msg_ids.max_idx(), info))
}

/// `msgctl(IPC_SET)`.
///
/// # Errors
/// `EINVAL EPERM`.
pub fn msgctl_set<T: Task>(ctx: &Ctx<'_, T>, id: i32, set: &Msqid64Ds) -> Result<()> {
    let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
    let Locked { object: q, mut tx } = obtain_object_check::<MsgQueue, T>(ctx, id)?;
    check_owner(ctx.host, &q.perm)?;
    // The kernel passes the value through an int.
    #[expect(clippy::cast_possible_truncation, reason = "as the kernel does")]
    let qbytes = set.msg_qbytes as u32;
    if qbytes > ns.limit(Limit::MsgMnb).cast_unsigned() && !ctx.host.cred().sys_resource {
        return Err(Errno::EPERM);
    }
    ipc_update_perm(&mut tx, &q, set.msg_perm.uid, set.msg_perm.gid, set.msg_perm.mode)?;
    tx.set(&q, |q| &q.qbytes, u64::from(qbytes));
    tx.set(&q, |q| &q.ctime, ctx.host.now());
    tx.set(&q, |q| &q.pending, RECHECK | ROOM);
    tx.commit();
    finish(&mut tx, &q)?;
    drop(tx);
    ctx.flush_wakes();
    Ok(())
}

/// `msgctl(IPC_RMID)`.
///
/// # Errors
/// `EINVAL EPERM`.
pub fn msgctl_rmid<T: Task>(ctx: &Ctx<'_, T>, id: i32) -> Result<()> {
    let Locked { object: q, mut tx } = obtain_to_remove::<MsgQueue, T>(ctx, id)?;
    check_owner(ctx.host, &q.perm)?;
    tx.set(&q, |q| &q.pending, RECHECK | ROOM);
    set_dying(&mut tx, &q, KIND_RECV);
    if finish(&mut tx, &q).is_err() {
        tx.roll_back();
        gut(&mut tx, &q)?;
    }
    drop(tx);
    freeque(ctx, &q)
}

/// Ends the removal of a dying queue, from wherever it stands.
pub(crate) fn freeque<'a, T: Task>(ctx: &Ctx<'a, T>, q: &Q<'a>) -> Result<()> {
    insist(ctx, q, || empty_and_free(ctx, q))
}

fn empty_and_free<'a, T: Task>(ctx: &Ctx<'a, T>, q: &Q<'a>) -> Result<()> {
    if q.perm.state.load(Relaxed) != STATE_DYING {
        return Ok(());
    }
    ctx.flush_wakes();
    rm_id(ctx, q, |_, _| ())?;
    loop {
        let Locked { object: q, mut tx } = lock_object(ctx, *q)?;
        if let Some(first) = Handle(q.first.load(Relaxed)).some() {
            let msg: Ref<'a, MsgMsg> = ctx.at(first).or_errno()?;
            // In a circle this comes to what was taken already; it would have no end.
            let next = msg.next.load(Relaxed);
            if msg.prev.load(Relaxed) != 0 || next != 0 && message(ctx, next)?.prev.load(Relaxed) != first.0 {
                return Err(CORRUPT);
            }
            take(&mut tx, &q, &msg)?;
        } else if !take_idle(&mut tx, &q.part(|q| &q.types))? {
            drop(tx);
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

/// The queue of a handle, for whoever puts right what the dead left.
pub(crate) fn queue<'a, T: Task>(ctx: &Ctx<'a, T>, handle: Handle) -> Result<Q<'a>> {
    ctx.at(handle).or_errno()
}

/// Ends the sleep of a dead thread.
pub(crate) fn abandon<'a, T: Task>(ctx: &Ctx<'a, T>, who: &Ref<'a, Waiter>, kind: u32) -> Result<()> {
    let q = queue(ctx, Handle(who.object.load(Relaxed)))?;
    let Locked { object: q, mut tx } = lock_object(ctx, q)?;
    if who.kind.load(Relaxed) == kind && who.phase() == Phase::Waiting {
        dequeue(&mut tx, &q, if kind == KIND_RECV { List::Receivers } else { List::Senders }, who)?;
        tx.commit();
        who.end();
    }
    Ok(())
}
