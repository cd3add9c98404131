//! System V semaphores.
//!
//! What users see: behaviour as in Linux. Whoever changes a value completes the sleepers that can now proceed, in
//! the kernel's order; so a woken sleeper owns its result already. Unless the namespace has `ipcspace.sem_barging`: then sleepers are
//! woken, in the same order, to try themselves, and whoever comes first takes what is there.
//! What is missing: sleepers of a set are on two lists for the whole set (those that alter, those that only wait for
//! zero), so a set with very many sleepers on different semaphores is scanned further than it need be.
//!
//! The set's lock guards the set, its values, its undo records and the waiters on its lists. Each completion is a
//! transaction of its own; `pending` says that sleepers are to be looked at, so that the next owner of the lock goes
//! on where a dead one stopped.
//!
//! With barging a woken sleeper stays on its list, in the phase `Retry`, until its own try has succeeded. If any sleeper could proceed, one of those who
//! could is awake: whoever changes a value, or was woken and goes away without having done anything, wakes the next.
//!
//! Undo adjustments belong to a process and a set: a record on the set's list. `SETALL` makes all of them zero by
//! a new generation. They are applied by whoever first meets a record of a process that has ended.

use core::mem::offset_of;

use abi::{
    Errno, Result,
    ipc::{IPC_INFO, IPC_NOWAIT, IPC_RMID, IPC_SET, IPC_STAT},
    sem::{
        GETPID, GETVAL, GETZCNT, SEM_INFO, SEM_STAT_ANY, SEM_UNDO, SEMAEM, SEMMAP, SEMMNU, SEMUME, SEMUSZ,
        SEMVMX, SemBuf, SemInfo, Semid64Ds,
    },
};
use arena::{
    Class, Ctx, Handle, Lock, Phase, ProcSlot, Ref, SPAN, Tx, Waiter,
    sync::{AtomicI32, AtomicI64, AtomicU16, AtomicU32, AtomicU64, Ordering::*, ordered},
};

use crate::{
    namespace::{IpcNamespace, Limit},
    task::{Cause, Outcome, Task},
    usage::{charge_more, charge_new},
    util::{
        CORRUPT, GUTTED, Head, Holder, IpcIds, IpcParams, KernIpcPerm, Locked, Object, OrErrno, STATE_DYING,
        STATE_LIVE, Table, check_owner, complete_sleep, find_object, free_object, gut, heed, insist,
        ipc_update_perm, ipcget, ipcperms, is_object, kernel_to_ipc64_perm, lock_object, new_object,
        note_done, note_outcome, obtain_object_check, obtain_object_idx, obtain_to_remove, outcome_of,
        release_sleepers, rm_id, set_chain, set_dying, settle_ids,
    },
    util::{SLEEPERS, WAITER_PROCESS, has_ended, sleeper},
};

const R: u32 = 0o444;
const W: u32 = 0o222;
/// `pending`: values have changed, sleepers may proceed.
const UPDATE: u32 = 1;
/// `pending`: a SETALL has begun.
const SET_ALL: u32 = 2;
/// A waiter's kind.
pub(crate) const KIND_SEM: u32 = 3;
/// Which of the set's lists a waiter is on.
const ALTER: u32 = 0;
const ZERO: u32 = 1;
/// Where a waiter's arguments say which operation blocked when it was last tried.
const BLOCKING: usize = 2;
/// Operations that fit into a waiter.
const INLINE_OPS: usize = 32;
/// Operations that fit into a block.
const MAX_OPS: usize = (SPAN as usize - 8) / size_of::<[AtomicU16; 3]>();
/// Changes that are made in one transaction where many are to be made.
const STEP: usize = 24;
/// Most undo records of a set; a longer list goes round in a circle.
const RECORDS: u32 = 1 << 20;

arena::shared! {
    /// `sem_array`.
    pub(crate) struct SemArray {
        perm: KernIpcPerm,
        ctime: AtomicI64,
        otime: AtomicI64,
        nsems: AtomicU32,
        /// The semaphores: a table of [`Sem`].
        sems: AtomicU32,
        lock: Lock,
        /// First undo record.
        undo: AtomicU32,
        /// Undo records to be freed.
        garbage: AtomicU32,
        undo_count: AtomicU32,
        /// Generation of the undo adjustments; older ones are zero.
        undo_gen: AtomicU32,
        pending: AtomicU32,
        /// The values of a SETALL (a table), to be freed when it is no longer pending, and how many are set.
        setall: AtomicU32,
        setall_done: AtomicU32,
        setall_pid: AtomicU32,
        /// First and last of the two lists of sleepers.
        heads: [AtomicU32; 2],
        tails: [AtomicU32; 2],
        /// Most operations of any sleeper there ever was.
        max_ops: AtomicU32,
    }

    /// `sem`: the value in the low half, the process of the last operation in the high one.
    struct Sem {
        word: AtomicU64,
    }

    /// `sem_undo`: what a process's end does to a set.
    struct SemUndo {
        link: AtomicU32,
        process: AtomicU32,
        next: AtomicU32,
        generation: AtomicU32,
        /// The adjustments: a table.
        adj: AtomicU32,
        pad: AtomicU32,
    }
}
const _: () = assert!(size_of::<SemArray>() <= 256);
#[cfg(not(any(loom, shuttle)))]
const _: () = assert!(offset_of!(SemArray, lock) == offset_of!(Head, lock));

impl Object for SemArray {
    const CLASS: Class = Class::SEM_SET;
    const LIMIT: Limit = Limit::SemMni;
    fn perm(&self) -> &KernIpcPerm {
        &self.perm
    }
    fn lock(&self) -> &Lock {
        &self.lock
    }
    fn ids(ns: &IpcNamespace) -> &IpcIds {
        &ns.sem_ids
    }
    fn holds(&self) -> u64 {
        let nsems = self.nsems.load(Relaxed).into();
        let records = u64::from(self.undo_count.load(Relaxed)).saturating_mul(undo_bytes(nsems));
        set_bytes(nsems).saturating_add(records)
    }
    #[inline(always)]
    fn changes_max(&self) -> usize {
        // Completing a sleeper with many operations needs a long log.
        let most = self.max_ops.load(Relaxed) as usize;
        if most > INLINE_OPS { 3 * most + 64 } else { 0 }
    }
    #[inline(always)]
    fn finish_pending<T: Task>(tx: &mut Tx<'_, '_, T>, set: &Ref<'_, Self>) -> Result<()> {
        if set.pending.load(Relaxed) == 0 {
            return Ok(());
        }
        // The reference's life is the arena's; the trait's signature does not know.
        let set = tx.ctx().at::<SemArray>(set.handle()).or_errno()?;
        finish(tx, &set, None)
    }
}

impl Holder for SemArray {
    fn contents(&self) -> impl Iterator<Item = &AtomicU32> {
        let blocks = [&self.sems, &self.undo, &self.undo_count, &self.garbage, &self.setall, &self.max_ops];
        blocks.into_iter().chain(&self.heads).chain(&self.tails)
    }
    fn pending(&self) -> &AtomicU32 {
        &self.pending
    }
}

/// Bytes that a set of so many semaphores holds.
const fn set_bytes(nsems: u64) -> u64 {
    size_of::<SemArray>() as u64 + nsems * size_of::<Sem>() as u64
}

/// Bytes of an undo record of such a set.
const fn undo_bytes(nsems: u64) -> u64 {
    size_of::<SemUndo>() as u64 + nsems * size_of::<AtomicI32>() as u64
}

type Set<'a> = Ref<'a, SemArray>;
type Undo<'a> = Ref<'a, SemUndo>;

#[inline(always)]
fn sem<'a, T: Task>(ctx: &Ctx<'a, T>, set: &SemArray, num: usize) -> Result<Ref<'a, Sem>> {
    semaphores(set).get(ctx, num)
}

#[inline(always)]
fn semaphores(set: &SemArray) -> Table {
    Table::new(Handle(set.sems.load(Relaxed)), set.nsems.load(Relaxed) as usize)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "the low half, at most SEMVMX"
)]
const fn semval(word: u64) -> i32 {
    word as u32 as i32
}
#[expect(clippy::cast_possible_wrap, reason = "the high half")]
const fn sempid(word: u64) -> i32 {
    (word >> 32) as u32 as i32
}
const fn pack(value: i32, pid: u32) -> u64 {
    ((pid as u64) << 32) | value.cast_unsigned() as u64
}

// ---- semget

/// `semget(2)`.
///
/// # Errors
/// `EINVAL ENOENT EEXIST EACCES ENOSPC ENOMEM`.
pub fn do_semget<T: Task>(ctx: &Ctx<'_, T>, key: i32, nsems: i32, flags: i32) -> Result<i32> {
    let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
    if nsems < 0 || nsems > ns.limit(Limit::SemMsl) {
        return Err(Errno::EINVAL);
    }
    let nsems = nsems.cast_unsigned();
    ipcget::<SemArray, T>(
        ctx,
        &IpcParams { key, flags },
        |set| if nsems > set.nsems.load(Relaxed) { Err(Errno::EINVAL) } else { Ok(()) },
        || newary(ctx, &ns, nsems, flags),
        |set| {
            ctx.free(set.handle());
            ctx.free_chain();
        },
        |tx, ids| {
            let used = room_for(&ns, nsems)?;
            tx.set(ids, |i| &i.used, used);
            Ok(())
        },
    )
}

/// How many semaphores there are with so many more.
fn room_for(ns: &IpcNamespace, nsems: u32) -> Result<u64> {
    let used = ns.sem_ids.used.load(Relaxed) + u64::from(nsems);
    let most = u64::try_from(ns.limit(Limit::SemMns)).unwrap_or(0);
    if used > most { Err(Errno::ENOSPC) } else { Ok(used) }
}

fn newary<'a, T: Task>(ctx: &Ctx<'a, T>, ns: &IpcNamespace, nsems: u32, flags: i32) -> Result<Set<'a>> {
    if nsems == 0 {
        return Err(Errno::EINVAL);
    }
    room_for(ns, nsems)?;
    charge_new(ctx, set_bytes(nsems.into()))?;
    let sems = Table::alloc::<Sem, T>(ctx, nsems as usize).inspect_err(|_| _ = ctx.free_chain())?;
    let set: Set<'a> = new_object(ctx, flags).inspect_err(|_| _ = ctx.free_chain())?;
    set.ctime.store(ctx.host.now(), Relaxed);
    set.otime.store(0, Relaxed);
    set.nsems.store(nsems, Relaxed);
    set.sems.store(sems.root.0, Relaxed);
    for place in [
        &set.undo,
        &set.garbage,
        &set.undo_count,
        &set.undo_gen,
        &set.pending,
        &set.setall,
        &set.setall_done,
        &set.setall_pid,
        &set.heads[0],
        &set.heads[1],
        &set.tails[0],
        &set.tails[1],
        &set.max_ops,
    ] {
        place.store(0, Relaxed);
    }
    Ok(set)
}

// ---- operations

/// The operations of a call, as they lie in the arena.
#[derive(Clone, Copy)]
struct Sops<'a>(Ref<'a, [[AtomicU16; 3]]>);

impl<'a> Sops<'a> {
    fn of<T: Task>(ctx: &Ctx<'a, T>, who: &Ref<'a, Waiter>) -> Result<Sops<'a>> {
        #[expect(clippy::cast_possible_truncation, reason = "a count of operations")]
        let count = who.args[0].load(Relaxed) as usize;
        if count <= INLINE_OPS {
            return Ok(Sops(who.part(|w| &w.ops[..count])));
        }
        if count > MAX_OPS {
            return Err(CORRUPT);
        }
        Ok(Sops(ctx.array(Handle(who.block.load(Relaxed)), 8, count).or_errno()?))
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, at: usize) -> Option<SemBuf> {
        self.iter().nth(at)
    }

    #[inline(always)]
    fn iter(&self) -> impl Iterator<Item = SemBuf> + use<'a> {
        self.0.get().iter().map(sembuf)
    }

    /// Whether they name one semaphore only.
    fn name_one(&self) -> bool {
        let first = self.get(0).map(|op| op.sem_num);
        self.iter().all(|op| Some(op.sem_num) == first)
    }

    /// Whether they name a semaphore that others name too.
    fn meet(&self, others: &Sops<'a>) -> bool {
        self.iter().any(|op| others.iter().any(|other| op.sem_num == other.sem_num))
    }
}

#[inline(always)]
fn sembuf([num, op, flg]: &[AtomicU16; 3]) -> SemBuf {
    SemBuf {
        sem_num: num.load(Relaxed),
        sem_op: op.load(Relaxed).cast_signed(),
        sem_flg: flg.load(Relaxed).cast_signed(),
    }
}

/// What trying operations came to.
enum Tried {
    Done,
    /// The operation that would block.
    Blocks(usize),
    Fails(Errno),
}

/// `perform_atomic_semop`: does all operations, or none. Nothing may be pending in the transaction but what is
/// to be taken back with them.
#[inline(always)]
fn perform<'a, T: Task>(
    tx: &mut Tx<'_, 'a, T>,
    set: &Set<'a>,
    sops: &Sops<'a>,
    undo: Option<&Undo<'a>>,
    pid: u32,
) -> Result<Tried> {
    let ctx = tx.ctx();
    if let Some(undo) = undo {
        renew_adjustments(tx, set, undo)?;
    }
    for (at, op) in sops.iter().enumerate() {
        let sem = sem(ctx, set, usize::from(op.sem_num))?;
        let failed = match next_value(semval(sem.word.load(Relaxed)), &op) {
            Ok(new) => {
                let undone = match undo.filter(|_| op.sem_flg & SEM_UNDO != 0) {
                    Some(undo) => {
                        let adj = adjustments(set, undo).get(ctx, usize::from(op.sem_num))?;
                        adjust(tx, &adj, &op)
                    }
                    None => true,
                };
                if undone {
                    tx.set(&sem, |s| &s.word, pack(new, pid));
                    continue;
                }
                Tried::Fails(Errno::ERANGE)
            }
            Err(None) => Tried::Blocks(at),
            Err(Some(error)) => Tried::Fails(error),
        };
        tx.roll_back();
        return Ok(failed);
    }
    Ok(Tried::Done)
}

/// The value after one operation; no error if it would block.
#[inline(always)]
fn next_value(value: i32, op: &SemBuf) -> core::result::Result<i32, Option<Errno>> {
    let new = value + i32::from(op.sem_op);
    if if op.sem_op == 0 { value != 0 } else { new < 0 } {
        return Err((i32::from(op.sem_flg) & IPC_NOWAIT != 0).then_some(Errno::EAGAIN));
    }
    if new > SEMVMX { Err(Some(Errno::ERANGE)) } else { Ok(new) }
}

fn adjustments(set: &SemArray, undo: &SemUndo) -> Table {
    Table::new(Handle(undo.adj.load(Relaxed)), set.nsems.load(Relaxed) as usize)
}

/// Makes the adjustments zero that a SETALL has made meaningless.
fn renew_adjustments<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, set: &Set<'a>, undo: &Undo<'a>) -> Result<()> {
    let current = set.undo_gen.load(Relaxed);
    if undo.generation.load(Relaxed) == current {
        return Ok(());
    }
    // Nobody reads the old adjustments any more, so they need no log.
    let table = adjustments(set, undo);
    for at in 0..set.nsems.load(Relaxed) as usize {
        table.get::<AtomicI32, T>(tx.ctx(), at)?.store(0, Relaxed);
    }
    ordered(tx.ctx().host);
    tx.set(undo, |u| &u.generation, current);
    Ok(())
}

/// Records what undoes one operation; false if that is out of range.
#[inline(always)]
fn adjust<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, adj: &Ref<'a, AtomicI32>, op: &SemBuf) -> bool {
    let new = adj.load(Relaxed) - i32::from(op.sem_op);
    let in_range = (-SEMAEM - 1..=SEMAEM).contains(&new);
    if in_range {
        tx.set(adj, |a| a, new);
    }
    in_range
}

// ---- sleepers

fn enqueue<'a, T: Task>(
    tx: &mut Tx<'_, 'a, T>,
    set: &Set<'a>,
    list: u32,
    undo: Option<&Undo<'a>>,
) -> Result<()> {
    let ctx = tx.ctx();
    let me = ctx.slot.part(|s| &s.waiter);
    let which = list as usize;
    let tail = set.tails[which].load(Relaxed);
    me.tid.store(ctx.host.caller(), Relaxed);
    me.pid.store(ctx.host.tgid(), Relaxed);
    me.object.store(set.handle().0, Relaxed);
    me.id.store(set.perm.id.load(Relaxed), Relaxed);
    me.list.store(list, Relaxed);
    me.next.store(0, Relaxed);
    me.prev.store(tail, Relaxed);
    me.result.store(0, Relaxed);
    me.args[1].store(undo.map_or(0, |u| u64::from(u.handle().0)), Relaxed);
    me.args[WAITER_PROCESS].store(u64::from(ctx.host.process().0), Relaxed);
    me.begin();
    tx.set(&me, |w| &w.kind, KIND_SEM);
    match tail {
        0 => tx.set(set, |s| &s.heads[which], me.handle().0),
        _ => tx.set(&sleeper(ctx, tail, set.handle())?, |w| &w.next, me.handle().0),
    }
    tx.set(set, |s| &s.tails[which], me.handle().0);
    Ok(())
}

fn dequeue<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, set: &Set<'a>, who: &Ref<'a, Waiter>) -> Result<()> {
    let ctx = tx.ctx();
    let which = (who.list.load(Relaxed) & 1) as usize;
    let (next, prev) = (who.next.load(Relaxed), who.prev.load(Relaxed));
    match next {
        0 => tx.set(set, |s| &s.tails[which], prev),
        _ => tx.set(&sleeper(ctx, next, set.handle())?, |w| &w.prev, prev),
    }
    match prev {
        0 => tx.set(set, |s| &s.heads[which], next),
        _ => tx.set(&sleeper(ctx, prev, set.handle())?, |w| &w.next, next),
    }
    tx.set(who, |w| &w.kind, 0);
    Ok(())
}

fn complete<'a, T: Task>(
    tx: &mut Tx<'_, 'a, T>,
    set: &Set<'a>,
    who: &Ref<'a, Waiter>,
    result: core::result::Result<(), Errno>,
) -> Result<()> {
    dequeue(tx, set, who)?;
    complete_sleep(tx, who, Phase::Done, result);
    Ok(())
}

fn has_sleepers(set: &SemArray) -> bool {
    set.heads[0].load(Relaxed) | set.heads[1].load(Relaxed) != 0
}

/// What trying a sleeper's operations again did.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Retried {
    /// It sleeps on, or there is none.
    Nothing,
    /// Its sleep is over, and no semaphore that it named is zero.
    Over,
    /// Its sleep is over, and a semaphore that it named is zero.
    OverWithZero,
}

/// Whether one of the semaphores that the operations name, or one of all, is zero.
fn any_zero<'a, T: Task>(ctx: &Ctx<'a, T>, set: &SemArray, sops: Option<&Sops<'a>>) -> Result<bool> {
    let is_zero = |num: usize| Ok(semval(sem(ctx, set, num)?.word.load(Relaxed)) == 0);
    match sops {
        Some(sops) => {
            for op in sops.iter() {
                if is_zero(usize::from(op.sem_num))? {
                    return Ok(true);
                }
            }
        }
        None => {
            for num in 0..set.nsems.load(Relaxed) as usize {
                if is_zero(num)? {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}

/// Tries a sleeper's operations again.
fn retry<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, set: &Set<'a>, who: &Ref<'a, Waiter>) -> Result<Retried> {
    let ctx = tx.ctx();
    let sops = Sops::of(ctx, who)?;
    let undo = undo_of(ctx, who)?;
    let result = match perform(tx, set, &sops, undo.as_ref(), who.pid.load(Relaxed))? {
        Tried::Blocks(at) => {
            who.args[BLOCKING].store(at as u64, Relaxed);
            return Ok(Retried::Nothing);
        }
        Tried::Fails(e) => Err(e),
        Tried::Done => {
            tx.set(set, |s| &s.otime, ctx.host.now());
            Ok(())
        }
    };
    // Looked at before the sleeper is told: then its operations are its own again.
    let zero = result.is_ok() && any_zero(ctx, set, Some(&sops))?;
    complete(tx, set, who, result)?;
    Ok(if zero { Retried::OverWithZero } else { Retried::Over })
}

fn undo_of<'a, T: Task>(ctx: &Ctx<'a, T>, who: &Waiter) -> Result<Option<Undo<'a>>> {
    #[expect(clippy::cast_possible_truncation, reason = "a handle")]
    let undo = Handle(who.args[1].load(Relaxed) as u32);
    undo.some().map(|u| ctx.at(u).or_errno()).transpose()
}

/// Whether a sleeper makes sense where it is in a list: no list of such goes round in a circle.
fn makes_sense<'a, T: Task>(ctx: &Ctx<'a, T>, set: &Set<'a>, list: u32, who: &Ref<'a, Waiter>) -> bool {
    let at = who.handle().0;
    let next = who.next.load(Relaxed);
    let is_followed =
        next == 0 || sleeper(ctx, next, set.handle()).is_ok_and(|next| next.prev.load(Relaxed) == at);
    let is_first = set.heads[list as usize].load(Relaxed) == at;
    is_followed && is_first == (who.prev.load(Relaxed) == 0)
}

/// Shows the sleepers of a list, in order, to `visit`, until it returns `Some`. It may take the one it is shown off the list.
#[inline(always)]
fn walk<'c, 'a, T: Task, R>(
    tx: &mut Tx<'c, 'a, T>,
    set: &Set<'a>,
    list: u32,
    mut visit: impl FnMut(&mut Tx<'c, 'a, T>, &Ref<'a, Waiter>) -> Result<Option<R>>,
) -> Result<Option<R>> {
    let mut at = set.heads[list as usize].load(Relaxed);
    for _ in 0..=SLEEPERS {
        if at == 0 {
            return Ok(None);
        }
        let who = sleeper(tx.ctx(), at, set.handle())?;
        at = who.next.load(Relaxed);
        let goes_on = makes_sense(tx.ctx(), set, list, &who);
        if has_ended(tx.ctx(), &who) {
            // With barging others count on who was woken: then it is for whoever puts its death right, and sees to them.
            if who.phase() != Phase::Retry {
                dequeue(tx, set, &who)?;
                tx.commit();
            }
        } else if let Some(result) = visit(tx, &who)? {
            return Ok(Some(result));
        }
        if !goes_on {
            break;
        }
    }
    Err(CORRUPT)
}

/// Tries the sleepers of a list in order: all of them, or up to the first whose sleep is over, which is returned.
/// `only` chooses by the number of operations.
fn scan<'a, T: Task>(
    tx: &mut Tx<'_, 'a, T>,
    set: &Set<'a>,
    list: u32,
    only: impl Fn(u64) -> bool,
    first_only: bool,
) -> Result<Retried> {
    let over = walk(tx, set, list, |tx, who| {
        if !only(who.args[0].load(Relaxed)) {
            return Ok(None);
        }
        let retried = retry(tx, set, who)?;
        Ok((first_only && retried != Retried::Nothing).then_some(retried))
    })?;
    Ok(over.unwrap_or(Retried::Nothing))
}

/// `do_smart_update`: completes all sleepers that can proceed: those that wait for zero first, then the others in
/// order, from the start again after each. As in the kernel, those that wait for zero are only looked at when a
/// semaphore that was just operated on (`sops`; without it, any) is zero.
fn update<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, set: &Set<'a>, sops: Option<&Sops<'a>>) -> Result<()> {
    if has_barging(tx.ctx())? {
        return rouse(tx, set, sops);
    }
    let mut zero = any_zero(tx.ctx(), set, sops)?;
    loop {
        if zero {
            scan(tx, set, ZERO, |ops| ops == 1, false)?;
            scan(tx, set, ZERO, |ops| ops != 1, false)?;
        }
        if nothing_to_take(tx.ctx(), set, sops)? {
            return Ok(());
        }
        match scan(tx, set, ALTER, |_| true, true)? {
            Retried::Nothing => return Ok(()),
            over => zero = over == Retried::OverWithZero,
        }
    }
}

/// Whether those who alter need not be looked at: each has only one operation, so it takes something, and of what was operated on nothing is
/// there. This spares a look at every sleeper where many want the same semaphore.
#[inline(always)]
fn nothing_to_take<'a, T: Task>(ctx: &Ctx<'a, T>, set: &Set<'a>, sops: Option<&Sops<'a>>) -> Result<bool> {
    let Some(sops) = sops.filter(|_| set.max_ops.load(Relaxed) <= 1) else { return Ok(false) };
    Ok(sum_of_values(ctx, set, sops)? == 0)
}

fn has_barging<T: Task>(ctx: &Ctx<'_, T>) -> Result<bool> {
    Ok(IpcNamespace::of(ctx.arena, ctx.host)?.limit(Limit::SemBarging) != 0)
}

/// With barging: wakes the sleepers that could proceed now, in order; where one semaphore was operated on, of those that want something of it no
/// more than there is to take. Those who are awake already count.
fn rouse<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, set: &Set<'a>, sops: Option<&Sops<'a>>) -> Result<()> {
    let mut left = match sops.filter(|sops| sops.name_one()) {
        Some(sops) => sum_of_values(tx.ctx(), set, sops)?.max(1),
        None => i64::MAX,
    };
    for list in [ZERO, ALTER] {
        if list == ALTER && nothing_to_take(tx.ctx(), set, sops)? {
            return Ok(());
        }
        walk(tx, set, list, |tx, who| {
            let theirs = Sops::of(tx.ctx(), who)?;
            if !could_proceed(tx, set, who, &theirs)? {
                return Ok(None);
            }
            if who.phase() == Phase::Waiting {
                tx.commit_completing(who, Phase::Retry);
            }
            left -= i64::from(list == ALTER && sops.is_none_or(|sops| sops.meet(&theirs)));
            Ok((left == 0).then_some(()))
        })?;
    }
    Ok(())
}

fn sum_of_values<'a, T: Task>(ctx: &Ctx<'a, T>, set: &Set<'a>, sops: &Sops<'a>) -> Result<i64> {
    let mut sum = 0;
    for op in sops.iter() {
        sum += i64::from(semval(sem(ctx, set, usize::from(op.sem_num))?.word.load(Relaxed)));
    }
    Ok(sum)
}

/// Whether a sleeper's operations would not block now.
fn could_proceed<'a, T: Task>(
    tx: &mut Tx<'_, 'a, T>,
    set: &Set<'a>,
    who: &Ref<'a, Waiter>,
    sops: &Sops<'a>,
) -> Result<bool> {
    let undo = undo_of(tx.ctx(), who)?;
    let tried = perform(tx, set, sops, undo.as_ref(), who.pid.load(Relaxed))?;
    tx.roll_back();
    if let Tried::Blocks(at) = tried {
        who.args[BLOCKING].store(at as u64, Relaxed);
        return Ok(false);
    }
    Ok(true)
}

/// Ends the work that `pending` names.
#[cold]
#[inline(never)]
fn finish<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, set: &Set<'a>, sops: Option<&Sops<'a>>) -> Result<()> {
    let gutted = set.pending.load(Relaxed) & GUTTED != 0;
    if set.perm.state.load(Relaxed) != STATE_LIVE {
        if gutted { release_sleepers(tx, set.handle())? } else { end_sleepers(tx, set)? }
    } else if gutted {
        return Err(CORRUPT);
    } else {
        if set.pending.load(Relaxed) & SET_ALL != 0 {
            set_all_values(tx, set)?;
        }
        update(tx, set, sops)?;
    }
    tx.set(set, |s| &s.pending, 0);
    tx.commit();
    Ok(())
}

/// Tells all sleepers of a dying set.
fn end_sleepers<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, set: &Set<'a>) -> Result<()> {
    let mut left = tx.ctx().thread_capacity().or_errno()?;
    for list in &set.heads {
        while let Some(first) = Handle(list.load(Relaxed)).some() {
            left = left.checked_sub(1).ok_or(CORRUPT)?;
            let who = sleeper(tx.ctx(), first.0, set.handle())?;
            complete(tx, set, &who, Err(Errno::EIDRM))?;
        }
    }
    Ok(())
}

/// Commits what was done and completes the sleepers that can proceed because of it.
#[inline(always)]
fn commit_and_update<'a, T: Task>(
    tx: &mut Tx<'_, 'a, T>,
    set: &Set<'a>,
    sops: Option<&Sops<'a>>,
) -> Result<()> {
    if !has_sleepers(set) {
        tx.commit();
        return Ok(());
    }
    tx.set(set, |s| &s.pending, set.pending.load(Relaxed) | UPDATE);
    tx.commit();
    finish(tx, set, sops)
}

// ---- undo

/// This process's undo record of a set.
fn find_undo<'a, T: Task>(ctx: &Ctx<'a, T>, set: &SemArray) -> Result<Option<Undo<'a>>> {
    let me = ctx.host.process().0;
    let mut at = set.undo.load(Relaxed);
    for _ in 0..=RECORDS {
        let Some(block) = Handle(at).some() else { return Ok(None) };
        let undo: Undo<'a> = ctx.at(block).or_errno()?;
        if undo.process.load(Relaxed) == me {
            return Ok(Some(undo));
        }
        at = undo.next.load(Relaxed);
    }
    Err(CORRUPT)
}

/// A new undo record for this process, as the thread's in-flight chain.
fn new_undo<'a, T: Task>(ctx: &Ctx<'a, T>, nsems: usize) -> Result<Undo<'a>> {
    let made = (|| {
        let adj = Table::alloc::<AtomicI32, T>(ctx, nsems)?;
        let undo: Undo<'a> = ctx.at(ctx.alloc(size_of::<SemUndo>() as u64).or_errno()?).or_errno()?;
        undo.adj.store(adj.root.0, Relaxed);
        undo.process.store(ctx.host.process().0, Relaxed);
        ctx.chain(undo.handle()).or_errno()?;
        Ok(undo)
    })();
    made.inspect_err(|_| _ = ctx.free_chain())
}

fn link_undo<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, set: &Set<'a>, undo: &Undo<'a>) -> Result<()> {
    undo.next.store(set.undo.load(Relaxed), Relaxed);
    undo.generation.store(set.undo_gen.load(Relaxed), Relaxed);
    tx.set(set, |s| &s.undo, undo.handle().0);
    tx.set(set, |s| &s.undo_count, set.undo_count.load(Relaxed) + 1);
    set_chain(tx, Handle::NULL);
    if let Ok(process) = tx.ctx().at::<ProcSlot>(tx.ctx().host.process()) {
        process.has_undo.store(1, Relaxed);
    }
    Ok(())
}

/// Applies the undo records of processes that have ended, or of `ended` in particular.
fn exit_sem<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, set: &Set<'a>, ended: Handle) -> Result<()> {
    let ctx = tx.ctx();
    let me = ctx.host.process();
    let mut place = set.part(|s| &s.undo);
    for _ in 0..=set.undo_count.load(Relaxed).min(RECORDS) {
        let Some(block) = Handle(place.load(Relaxed)).some() else { return Ok(()) };
        let undo: Undo<'a> = ctx.at(block).or_errno()?;
        let process = Handle(undo.process.load(Relaxed));
        let gone = process == ended
            || process != me
                && ctx.at::<ProcSlot>(process).is_ok_and(|p| {
                    p.marked() && ctx.host.process_dead(p.pid.load(Relaxed), p.start.load(Relaxed))
                });
        if gone {
            apply_undo(tx, set, &place, &undo)?;
        } else {
            place = undo.part(|u| &u.next);
        }
    }
    Err(CORRUPT)
}

fn apply_undo<'a, T: Task>(
    tx: &mut Tx<'_, 'a, T>,
    set: &Set<'a>,
    place: &Ref<'a, AtomicU32>,
    undo: &Undo<'a>,
) -> Result<()> {
    let ctx = tx.ctx();
    // A list that goes round in a circle has more than are counted.
    let left = set.undo_count.load(Relaxed).checked_sub(1).ok_or(CORRUPT)?;
    let pid = ctx.at::<ProcSlot>(Handle(undo.process.load(Relaxed))).map_or(0, |p| p.pid.load(Relaxed));
    let table = adjustments(set, undo);
    tx.set(set, |s| &s.pending, set.pending.load(Relaxed) | UPDATE);
    if undo.generation.load(Relaxed) == set.undo_gen.load(Relaxed) {
        for num in 0..set.nsems.load(Relaxed) as usize {
            let adj = table.get::<AtomicI32, T>(ctx, num)?;
            let by = adj.load(Relaxed);
            if by == 0 {
                continue;
            }
            let sem = sem(ctx, set, num)?;
            let value = (semval(sem.word.load(Relaxed)) + by).clamp(0, SEMVMX);
            tx.set(&sem, |s| &s.word, pack(value, pid));
            // What was applied is zero, so a successor does not apply it again.
            tx.set(&adj, |a| a, 0);
            if tx.pending() > STEP {
                tx.commit();
            }
        }
    }
    tx.set(set, |s| &s.otime, ctx.host.now());
    tx.set(place, |p| p, undo.next.load(Relaxed));
    tx.set(set, |s| &s.undo_count, left);
    tx.set(undo, |u| &u.next, set.garbage.load(Relaxed));
    tx.set(set, |s| &s.garbage, undo.handle().0);
    tx.commit();
    finish(tx, set, None)
}

fn has_garbage(set: &SemArray) -> bool {
    set.garbage.load(Relaxed) | set.setall.load(Relaxed) != 0
}

/// Frees the undo records that were applied, and the values that were set. Call with no lock held and an empty in-flight
/// chain.
fn free_garbage<'a, T: Task>(ctx: &Ctx<'a, T>, set: &Set<'a>) -> Result<()> {
    for _ in 0..RECORDS {
        if !has_garbage(set) {
            return Ok(());
        }
        let Locked { object: set, mut tx } = lock_object(ctx, *set)?;
        if !take_garbage(&mut tx, &set)? {
            return Ok(());
        }
        drop(tx);
        if !ctx.free_chain() {
            break;
        }
    }
    Err(CORRUPT)
}

/// Takes one piece of garbage, if there is any, into the thread's in-flight chain.
fn take_garbage<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, set: &Set<'a>) -> Result<bool> {
    let block = if let Some(block) = Handle(set.garbage.load(Relaxed)).some() {
        let undo: Undo<'a> = tx.ctx().at(block).or_errno()?;
        tx.set(set, |s| &s.garbage, undo.next.load(Relaxed));
        block
    } else if let Some(block) = Handle(set.setall.load(Relaxed)).some() {
        tx.set(set, |s| &s.setall, 0);
        block
    } else {
        return Ok(false);
    };
    set_chain(tx, block);
    tx.commit();
    Ok(true)
}

/// Looks a set up and applies the undo records of the dead.
#[inline(always)]
fn obtain<'c, 'a, T: Task>(ctx: &'c Ctx<'a, T>, id: i32) -> Result<Locked<'c, 'a, SemArray, T>> {
    let mut locked = obtain_object_check::<SemArray, T>(ctx, id)?;
    if locked.object.undo.load(Relaxed) != 0 {
        exit_sem(&mut locked.tx, &locked.object, Handle::NULL)?;
    }
    Ok(locked)
}

/// Applies the undo adjustments of a process that has ended, to all sets. For the broker.
///
/// # Errors
/// The first that occurred; all sets were visited.
pub fn exit_process<T: Task>(ctx: &Ctx<'_, T>, process: Handle) -> Result<()> {
    let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
    let mut first = Ok(());
    let mut idx = 0;
    while let Some(used) = ns.sem_ids.next_used(idx) {
        idx = used + 1;
        let done = (|| {
            let (id, Locked { object: set, mut tx }) =
                obtain_object_idx::<SemArray, T>(ctx, used.cast_signed())?;
            let done = exit_sem(&mut tx, &set, process).and_then(|()| {
                drop(tx);
                ctx.flush_wakes();
                free_garbage(ctx, &set)
            });
            heed::<SemArray, T, _>(ctx, id, done)
        })();
        first = first.and(done.or_else(|e| if e == Errno::EINVAL { Ok(()) } else { Err(e) }));
    }
    ctx.trim_log();
    first
}

// ---- semop

/// `semop(2)` and `semtimedop(2)`; `timeout_valid` is false for a timeout that makes no sense.
///
/// # Errors
/// `E2BIG EINVAL ENOMEM EFAULT EFBIG EACCES ERANGE EAGAIN EIDRM`.
pub fn do_semtimedop<T: Task>(
    ctx: &Ctx<'_, T>,
    id: i32,
    sops: u64,
    nsops: u64,
    timeout_valid: bool,
) -> Result<Outcome> {
    let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
    // The kernel passes the count through an unsigned int.
    #[expect(clippy::cast_possible_truncation, reason = "as the kernel does")]
    let nsops = nsops as u32;
    if nsops > ns.limit(Limit::SemOpm).cast_unsigned() {
        return Err(Errno::E2BIG);
    }
    if nsops < 1 {
        return Err(Errno::EINVAL);
    }
    load_sops(ctx, sops, nsops as usize).inspect_err(|_| ctx.trim_log())?;
    let done = if id < 0 || !timeout_valid { Err(Errno::EINVAL) } else { try_semop(ctx, id) };
    ctx.flush_wakes();
    if done != Ok(Outcome::Blocked) {
        free_sops(ctx);
    }
    done
}

/// Copies the operations into the waiter, or into a block that it names.
#[inline(always)]
fn load_sops<T: Task>(ctx: &Ctx<'_, T>, from: u64, count: usize) -> Result<()> {
    let me = ctx.slot.part(|s| &s.waiter);
    let bytes = count * size_of::<SemBuf>();
    me.args[0].store(count as u64, Relaxed);
    if count <= INLINE_OPS {
        return ctx.host.copy_from_user(me.part(|w| &w.ops).bytes(bytes), from);
    }
    ctx.reserve_log(3 * count + 64).or_errno()?;
    let block = ctx.alloc(8 + bytes as u64).or_errno()?;
    // A chain of one block, for whoever frees it should we die.
    ctx.at::<AtomicU32>(block).or_errno()?.store(0, Relaxed);
    me.block.store(block.0, Relaxed);
    ordered(ctx.host);
    ctx.taken();
    ctx.host
        .copy_from_user(ctx.arena.bytes(ctx.host, block, 8, bytes).or_errno()?, from)
        .inspect_err(|_| free_sops(ctx))
}

#[inline(always)]
fn free_sops<T: Task>(ctx: &Ctx<'_, T>) {
    let me = &ctx.slot.waiter;
    if let Some(block) = Handle(me.block.load(Relaxed)).some() {
        ctx.hold(block);
        me.block.store(0, Relaxed);
        ordered(ctx.host);
        ctx.free(block);
        ctx.trim_log();
    }
}

/// What the operations of a call ask for, taken together.
#[derive(Clone, Copy)]
struct Asked {
    alters: bool,
    undos: bool,
    /// Largest number of a semaphore.
    highest: u32,
}

impl Asked {
    #[inline(always)]
    fn by(sops: impl Iterator<Item = SemBuf>) -> Asked {
        sops.fold(Asked { alters: false, undos: false, highest: 0 }, |asked, op| Asked {
            alters: asked.alters | (op.sem_op != 0),
            undos: asked.undos | (op.sem_flg & SEM_UNDO != 0),
            highest: asked.highest.max(u32::from(op.sem_num)),
        })
    }
}

#[inline(always)]
fn try_semop<'a, T: Task>(ctx: &Ctx<'a, T>, id: i32) -> Result<Outcome> {
    let me = ctx.slot.part(|s| &s.waiter);
    let sops = Sops::of(ctx, &me)?;
    let done = match sops.0.first() {
        Some(only) if sops.0.len() == 1 => try_one(ctx, id, only),
        _ => try_many(ctx, id, sops.0.get()),
    };
    done.unwrap_or_else(|| try_in_full(ctx, id, &sops))
}

/// One operation is what most calls have: without a loop all of it stays in registers.
#[inline(never)]
fn try_one<T: Task>(ctx: &Ctx<'_, T>, id: i32, op: &[AtomicU16; 3]) -> Option<Result<Outcome>> {
    try_undisturbed(ctx, id, true, core::iter::once(sembuf(op)))
}

#[inline(never)]
fn try_many<T: Task>(ctx: &Ctx<'_, T>, id: i32, ops: &[[AtomicU16; 3]]) -> Option<Result<Outcome>> {
    try_undisturbed(ctx, id, false, ops.iter().map(sembuf))
}

/// The try that can be made at once and has nothing else to see to: no sleepers, no undo records to make or of the
/// dead. `None` if there is something; then nothing was changed.
///
/// The transaction is not passed on by reference, so that it stays in registers.
#[inline(always)]
fn try_undisturbed<'a, T: Task>(
    ctx: &Ctx<'a, T>,
    id: i32,
    alone: bool,
    sops: impl Iterator<Item = SemBuf>,
) -> Option<Result<Outcome>> {
    let set = find_object::<SemArray, T>(ctx, id).ok()?;
    let mut tx = ctx.lock(set.part(|s| &s.lock)).ok()?;
    let done = 'done: {
        let busy = set.pending.load(Relaxed)
            | set.garbage.load(Relaxed)
            | set.heads[0].load(Relaxed)
            | set.heads[1].load(Relaxed);
        if busy != 0
            || !is_object(set.get(), id)
            // Who has only one of the rights is for the full way.
            || ipcperms(ctx.host, &set.perm, R | W).is_err()
        {
            break 'done None;
        }
        let mut adjs = None;
        if set.undo.load(Relaxed) != 0 {
            let Ok(mine) = undisturbed_undo(ctx, &set) else { break 'done None };
            adjs = mine.and_then(|undo| adjustments(&set, &undo).all::<AtomicI32, T>(ctx));
        }
        let Some(sems) = semaphores(&set).all::<Sem, T>(ctx) else { break 'done None };
        let pid = ctx.host.tgid();
        for op in sops {
            let num = usize::from(op.sem_num);
            if num >= sems.len() {
                break 'done None;
            }
            // An operation to be undone makes a record whatever comes of it, and the end of the process shows that there was one.
            let adj = if op.sem_flg & SEM_UNDO == 0 {
                None
            } else {
                match adjs.filter(|adjs| num < adjs.len()) {
                    Some(adjs) => Some(adjs.part(|a| &a[num])),
                    None => break 'done None,
                }
            };
            let sem = sems.part(|s| &s[num]);
            let new = match next_value(semval(sem.word.load(Relaxed)), &op) {
                Ok(new) => new,
                // Where there are more, the kernel looks at all of them first for other errors.
                Err(error) => break 'done error.filter(|_| alone).map(Err),
            };
            if adj.is_some_and(|adj| !adjust(&mut tx, &adj, &op)) {
                break 'done None;
            }
            tx.set(&sem, |s| &s.word, pack(new, pid));
        }
        tx.renew(&set, |s| &s.otime, ctx.host.now());
        note_done(&mut tx);
        tx.commit();
        Some(Ok(Outcome::Done(0)))
    };
    tx.release();
    done
}

/// This process's undo record, if there is one. An error if there is anything to see to first.
#[inline(never)]
fn undisturbed_undo<'a, T: Task>(ctx: &Ctx<'a, T>, set: &SemArray) -> Result<Option<Undo<'a>>> {
    let me = ctx.host.process().0;
    let mut mine = None;
    let mut at = set.undo.load(Relaxed);
    let mut left = RECORDS;
    while let Some(block) = Handle(at).some() {
        let undo: Undo<'a> = ctx.at(block).or_errno()?;
        let process = undo.process.load(Relaxed);
        if process == me {
            mine = Some(undo);
        } else if ctx.at::<ProcSlot>(Handle(process)).or_errno()?.marked() {
            return Err(Errno::EAGAIN);
        }
        at = undo.next.load(Relaxed);
        left = left.checked_sub(1).ok_or(CORRUPT)?;
    }
    match mine {
        Some(mine) if mine.generation.load(Relaxed) != set.undo_gen.load(Relaxed) => Err(Errno::EAGAIN),
        mine => Ok(mine),
    }
}

#[inline(never)]
fn try_in_full<'a, T: Task>(ctx: &Ctx<'a, T>, id: i32, sops: &Sops<'a>) -> Result<Outcome> {
    let Asked { alters, undos, highest } = Asked::by(sops.iter());
    let mut new: Option<Undo<'a>> = None;
    let done = (|| loop {
        let Locked { object: set, mut tx } = obtain(ctx, id)?;
        // The record is there from the first try on, whatever comes of it, as in the kernel.
        let undo = match if undos { find_undo(ctx, &set) } else { Ok(None) } {
            Ok(None) if undos => {
                let Some(fresh) = new.take() else {
                    let nsems = set.nsems.load(Relaxed) as usize;
                    drop(tx);
                    if T::HAS_QUOTAS {
                        charge_more(ctx, set.get(), undo_bytes(nsems as u64))?;
                    }
                    new = Some(new_undo(ctx, nsems)?);
                    continue;
                };
                link_undo(&mut tx, &set, &fresh)?;
                tx.commit();
                Some(fresh)
            }
            Ok(undo) => undo,
            Err(e) => return Err(e),
        };
        if highest >= set.nsems.load(Relaxed) {
            return Err(Errno::EFBIG);
        }
        ipcperms(ctx.host, &set.perm, if alters { W } else { R })?;
        match perform(&mut tx, &set, sops, undo.as_ref(), ctx.host.tgid())? {
            Tried::Fails(e) => return Err(e),
            Tried::Blocks(at) => {
                ctx.slot.waiter.args[BLOCKING].store(at as u64, Relaxed);
                if sops.len() as u32 > set.max_ops.load(Relaxed) {
                    tx.set(&set, |s| &s.max_ops, sops.len() as u32);
                }
                enqueue(&mut tx, &set, if alters { ALTER } else { ZERO }, undo.as_ref())?;
                tx.commit();
                return Ok(Outcome::Blocked);
            }
            Tried::Done => {
                tx.set(&set, |s| &s.otime, ctx.host.now());
                note_done(&mut tx);
                if alters {
                    commit_and_update(&mut tx, &set, Some(sops))?;
                } else {
                    // As in the kernel: who changes nothing looks at nobody, not even at one that would fail now.
                    tx.commit();
                }
                drop(tx);
                if has_garbage(&set) && new.is_none() {
                    ctx.flush_wakes();
                    free_garbage(ctx, &set)?;
                }
                return Ok(Outcome::Done(0));
            }
        }
    })();
    if new.is_some() {
        ctx.free_chain();
    }
    ctx.trim_log();
    done
}

/// Goes on with a `semop` that slept.
///
/// # Errors
/// As [`do_semtimedop`], `EINTR`, and `EAGAIN` when the time is over.
pub fn resume_semtimedop<T: Task>(ctx: &Ctx<'_, T>, cause: Cause) -> Result<Outcome> {
    let me = ctx.slot.part(|s| &s.waiter);
    let left = if cause == Cause::Woken { Ok(false) } else { leave(ctx, &me) };
    let ended = left.and_then(|left| {
        if left {
            Err(out_of_patience(cause))
        } else if me.phase() == Phase::Retry {
            try_again(ctx, &me, cause)?.transpose()
        } else {
            outcome_of(&me).map(|_| Some(()))
        }
    });
    ctx.flush_wakes();
    ctx.trim_log();
    if ended == Ok(None) {
        return Ok(Outcome::Blocked);
    }
    note_outcome(ctx, &ended);
    me.end();
    free_sops(ctx);
    ended.map(|_| Outcome::Done(0))
}

fn out_of_patience(cause: Cause) -> Errno {
    if cause == Cause::Timeout { Errno::EAGAIN } else { Errno::EINTR }
}

/// With barging: the try of a sleeper that was woken. What came of it; `None` if it sleeps on, in its place.
fn try_again<'a, T: Task>(
    ctx: &Ctx<'a, T>,
    me: &Ref<'a, Waiter>,
    cause: Cause,
) -> Result<Option<Result<()>>> {
    let Locked { object: set, mut tx } = lock_object(ctx, set(ctx, Handle(me.object.load(Relaxed)))?)?;
    if me.kind.load(Relaxed) != KIND_SEM {
        // Taken off the list since: the set is gone.
        return Ok(Some(outcome_of(me).map(drop)));
    }
    let sops = Sops::of(ctx, me)?;
    let undo = undo_of(ctx, me)?;
    let result = match perform(&mut tx, &set, &sops, undo.as_ref(), me.pid.load(Relaxed))? {
        Tried::Done => {
            tx.set(&set, |s| &s.otime, ctx.host.now());
            note_done(&mut tx);
            Some(Ok(()))
        }
        Tried::Fails(e) => Some(Err(e)),
        Tried::Blocks(_) if cause != Cause::Woken => Some(Err(out_of_patience(cause))),
        Tried::Blocks(at) => {
            me.args[BLOCKING].store(at as u64, Relaxed);
            me.begin();
            None
        }
    };
    if result.is_some() {
        dequeue(&mut tx, &set, me)?;
    }
    // Whatever came of it: others were not woken because this one was.
    commit_and_update(&mut tx, &set, Some(&sops))?;
    Ok(result)
}

/// Ends a sleep of this thread that nobody has ended. Returns false if somebody has.
fn leave<'a, T: Task>(ctx: &Ctx<'a, T>, me: &Ref<'a, Waiter>) -> Result<bool> {
    let Locked { object: set, mut tx } = lock_object(ctx, set(ctx, Handle(me.object.load(Relaxed)))?)?;
    if me.kind.load(Relaxed) != KIND_SEM || me.phase() != Phase::Waiting {
        return Ok(false);
    }
    dequeue(&mut tx, &set, me)?;
    tx.commit();
    Ok(true)
}

/// Takes a sleeper off its list whose call nobody goes on with.
pub(crate) fn abandon<'a, T: Task>(ctx: &Ctx<'a, T>, who: &Ref<'a, Waiter>) -> Result<()> {
    let Locked { object: set, mut tx } = lock_object(ctx, set(ctx, Handle(who.object.load(Relaxed)))?)?;
    if who.kind.load(Relaxed) != KIND_SEM {
        return Ok(());
    }
    let others_count_on_it = who.phase() == Phase::Retry;
    dequeue(&mut tx, &set, who)?;
    if others_count_on_it {
        return commit_and_update(&mut tx, &set, None);
    }
    tx.commit();
    Ok(())
}

// ---- semctl

/// Checks that every `semctl` makes first.
///
/// # Errors
/// `EINVAL` for a negative identifier, or an unknown command.
pub fn check_semctl(id: i32, cmd: i32) -> Result<()> {
    let known = matches!(cmd, IPC_RMID | IPC_SET | IPC_STAT | IPC_INFO | GETPID..=SEM_STAT_ANY);
    if id < 0 || !known { Err(Errno::EINVAL) } else { Ok(()) }
}

/// `semctl(IPC_STAT)`, `SEM_STAT`, `SEM_STAT_ANY`: what the call returns, and the structure.
///
/// # Errors
/// `EINVAL EACCES`.
pub fn semctl_stat<T: Task>(ctx: &Ctx<'_, T>, id: i32, cmd: i32) -> Result<(i32, Semid64Ds)> {
    let (result, Locked { object: set, mut tx }) = if cmd == IPC_STAT {
        (0, obtain_object_check::<SemArray, T>(ctx, id)?)
    } else {
        obtain_object_idx::<SemArray, T>(ctx, id)?
    };
    exit_sem(&mut tx, &set, Handle::NULL)?;
    if cmd != SEM_STAT_ANY {
        ipcperms(ctx.host, &set.perm, R)?;
    }
    let stat = Semid64Ds {
        sem_perm: kernel_to_ipc64_perm(&set.perm),
        sem_otime: set.otime.load(Relaxed),
        sem_ctime: set.ctime.load(Relaxed),
        sem_nsems: u64::from(set.nsems.load(Relaxed)),
        ..Semid64Ds::default()
    };
    drop(tx);
    ctx.flush_wakes();
    Ok((result, stat))
}

/// `semctl(IPC_INFO)` and `SEM_INFO`: the highest index in use, and the structure.
///
/// # Errors
/// `EIDRM` if the namespace makes no sense.
pub fn semctl_info<T: Task>(ctx: &Ctx<'_, T>, cmd: i32) -> Result<(i32, SemInfo)> {
    let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
    settle_ids::<SemArray, T>(ctx)?;
    let mut info = SemInfo {
        semmap: SEMMAP,
        semmni: ns.limit(Limit::SemMni),
        semmns: ns.limit(Limit::SemMns),
        semmnu: SEMMNU,
        semmsl: ns.limit(Limit::SemMsl),
        semopm: ns.limit(Limit::SemOpm),
        semume: SEMUME,
        semusz: SEMUSZ,
        semvmx: SEMVMX,
        semaem: SEMAEM,
    };
    if cmd == SEM_INFO {
        info.semusz = ns.sem_ids.in_use().cast_signed();
        info.semaem = i32::try_from(ns.sem_ids.used.load(Relaxed)).unwrap_or(i32::MAX);
    }
    Ok((ns.sem_ids.max_idx(), info))
}

/// `semctl(GETVAL | GETPID | GETNCNT | GETZCNT)`.
///
/// # Errors
/// `EINVAL EACCES`.
pub fn semctl_get<T: Task>(ctx: &Ctx<'_, T>, id: i32, num: i32, cmd: i32) -> Result<i32> {
    let Locked { object: set, tx } = obtain(ctx, id)?;
    ipcperms(ctx.host, &set.perm, R)?;
    let num = usize::try_from(num).map_err(|_| Errno::EINVAL)?;
    if num >= set.nsems.load(Relaxed) as usize {
        return Err(Errno::EINVAL);
    }
    let word = sem(ctx, &set, num)?.word.load(Relaxed);
    let value = match cmd {
        GETVAL => semval(word),
        GETPID => sempid(word),
        _ => count_sleepers(ctx, &set, num, cmd == GETZCNT)?,
    };
    drop(tx);
    ctx.flush_wakes();
    Ok(value)
}

/// Sleepers whose operation that blocked is on `num`, waiting for zero or for an increase. It is the one of the last
/// try, as in the kernel: who waits for zero is not tried again when something grows.
fn count_sleepers<'a, T: Task>(ctx: &Ctx<'a, T>, set: &Set<'a>, num: usize, zero: bool) -> Result<i32> {
    let mut count = 0;
    for list in [ZERO, ALTER] {
        let mut at = set.heads[list as usize].load(Relaxed);
        for _ in 0..=SLEEPERS {
            if at == 0 {
                break;
            }
            let who = sleeper(ctx, at, set.handle())?;
            if !makes_sense(ctx, set, list, &who) {
                return Err(CORRUPT);
            }
            at = who.next.load(Relaxed);
            if has_ended(ctx, &who) {
                continue;
            }
            #[expect(clippy::cast_possible_truncation, reason = "checked against their number")]
            let blocking = who.args[BLOCKING].load(Relaxed) as usize;
            if let Some(op) = Sops::of(ctx, &who)?.get(blocking) {
                count += i32::from(usize::from(op.sem_num) == num && (op.sem_op == 0) == zero);
            }
        }
    }
    Ok(count)
}

/// `semctl(SETVAL)`.
///
/// # Errors
/// `ERANGE EINVAL EACCES`.
pub fn semctl_setval<T: Task>(ctx: &Ctx<'_, T>, id: i32, num: i32, value: i32) -> Result<()> {
    if !(0..=SEMVMX).contains(&value) {
        return Err(Errno::ERANGE);
    }
    loop {
        let Locked { object: set, mut tx } = obtain(ctx, id)?;
        let num = usize::try_from(num).map_err(|_| Errno::EINVAL)?;
        if num >= set.nsems.load(Relaxed) as usize {
            return Err(Errno::EINVAL);
        }
        ipcperms(ctx.host, &set.perm, W)?;
        let records = set.undo_count.load(Relaxed) as usize;
        let mut undo = Handle(set.undo.load(Relaxed));
        if records > 64 {
            drop(tx);
            ctx.reserve_log(records * 2 + 64).or_errno()?;
            let again = obtain(ctx, id)?;
            if again.object.undo_count.load(Relaxed) as usize > records * 2 {
                continue;
            }
            undo = Handle(again.object.undo.load(Relaxed));
            tx = again.tx;
        }
        let mut left = set.undo_count.load(Relaxed);
        while let Some(block) = undo.some() {
            left = left.checked_sub(1).ok_or(CORRUPT)?;
            let record: Undo<'_> = ctx.at(block).or_errno()?;
            if record.generation.load(Relaxed) == set.undo_gen.load(Relaxed) {
                let adj = adjustments(&set, &record).get::<AtomicI32, T>(ctx, num)?;
                if adj.load(Relaxed) != 0 {
                    tx.set(&adj, |a| a, 0);
                }
            }
            undo = Handle(record.next.load(Relaxed));
        }
        let sem = sem(ctx, &set, num)?;
        tx.set(&sem, |s| &s.word, pack(value, ctx.host.tgid()));
        tx.set(&set, |s| &s.ctime, ctx.host.now());
        commit_and_update(&mut tx, &set, None)?;
        drop(tx);
        ctx.flush_wakes();
        return Ok(());
    }
}

/// `semctl(GETALL)`: an array of `unsigned short` to the caller's memory.
///
/// # Errors
/// `EINVAL EACCES ENOMEM EFAULT`.
pub fn semctl_getall<T: Task>(ctx: &Ctx<'_, T>, id: i32, to: u64) -> Result<()> {
    let copied = with_array(ctx, id, R, |ctx, set, values| {
        for num in 0..set.nsems.load(Relaxed) as usize {
            let value = semval(sem(ctx, set, num)?.word.load(Relaxed));
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most SEMVMX")]
            values.get::<AtomicU16, T>(ctx, num)?.store(value as u16, Relaxed);
        }
        Ok(())
    })
    .and_then(|(set, values)| {
        each_part(ctx, values, set.nsems.load(Relaxed) as usize, |bytes, at| {
            ctx.host.copy_to_user(to.wrapping_add(at), bytes)
        })
    });
    ctx.free_chain();
    ctx.flush_wakes();
    copied
}

/// Looks a set up, checks permission, and makes an array of its size in the in-flight chain; `fill` sees both under
/// the lock.
fn with_array<'a, T: Task>(
    ctx: &Ctx<'a, T>,
    id: i32,
    flag: u32,
    fill: impl Fn(&Ctx<'a, T>, &Set<'a>, Table) -> Result<()>,
) -> Result<(Set<'a>, Table)> {
    let mut made: Option<(u32, Table)> = None;
    loop {
        let Locked { object: set, tx } = obtain(ctx, id)?;
        ipcperms(ctx.host, &set.perm, flag)?;
        let nsems = set.nsems.load(Relaxed);
        if let Some((_, values)) = made.filter(|(n, _)| *n == nsems) {
            fill(ctx, &set, values)?;
            drop(tx);
            return Ok((set, values));
        }
        drop(tx);
        made = Some((nsems, Table::alloc::<AtomicU16, T>(ctx, nsems as usize)?));
    }
}

fn each_part<T: Task>(
    ctx: &Ctx<'_, T>,
    values: Table,
    count: usize,
    mut copy: impl FnMut(arena::SharedBytes<'_>, u64) -> Result<()>,
) -> Result<()> {
    let per = Table::per_block::<AtomicU16>();
    for start in (0..count).step_by(per) {
        let first = values.get::<AtomicU16, T>(ctx, start)?;
        let within = first.offset() - first.handle().offset();
        let len = 2 * per.min(count - start);
        copy(ctx.arena.bytes(ctx.host, first.handle(), within, len).or_errno()?, 2 * start as u64)?;
    }
    Ok(())
}

/// `semctl(SETALL)`: an array of `unsigned short` from the caller's memory.
///
/// # Errors
/// `EINVAL EACCES ENOMEM EFAULT ERANGE EIDRM`.
pub fn semctl_setall<T: Task>(ctx: &Ctx<'_, T>, id: i32, from: u64) -> Result<()> {
    let done = with_array(ctx, id, W, |_, _, _| Ok(())).and_then(|(set, values)| {
        let nsems = set.nsems.load(Relaxed) as usize;
        each_part(ctx, values, nsems, |bytes, at| ctx.host.copy_from_user(bytes, from.wrapping_add(at)))?;
        for num in 0..nsems {
            if i32::from(values.get::<AtomicU16, T>(ctx, num)?.load(Relaxed)) > SEMVMX {
                return Err(Errno::ERANGE);
            }
        }
        let Locked { object: set, mut tx } =
            obtain(ctx, id).map_err(|e| if e == Errno::EINVAL { Errno::EIDRM } else { e })?;
        // What a SETALL that died has left goes with this one's end.
        let left = Handle(set.setall.load(Relaxed));
        tx.set(&set, |s| &s.setall, values.root.0);
        tx.set(&set, |s| &s.setall_done, 0);
        tx.set(&set, |s| &s.setall_pid, ctx.host.tgid());
        tx.set(&set, |s| &s.undo_gen, set.undo_gen.load(Relaxed).wrapping_add(1));
        tx.set(&set, |s| &s.ctime, ctx.host.now());
        tx.set(&set, |s| &s.pending, UPDATE | SET_ALL);
        set_chain(&mut tx, left);
        tx.commit();
        finish(&mut tx, &set, None)?;
        drop(tx);
        ctx.flush_wakes();
        ctx.free_chain();
        free_garbage(ctx, &set)
    });
    ctx.free_chain();
    ctx.flush_wakes();
    done
}

/// Sets the values of a SETALL, some at a time.
fn set_all_values<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, set: &Set<'a>) -> Result<()> {
    let ctx = tx.ctx();
    let nsems = set.nsems.load(Relaxed) as usize;
    let values = Table::new(Handle(set.setall.load(Relaxed)), nsems);
    let pid = set.setall_pid.load(Relaxed);
    for num in set.setall_done.load(Relaxed) as usize..nsems {
        let value = values.get::<AtomicU16, T>(ctx, num)?.load(Relaxed);
        let sem = sem(ctx, set, num)?;
        tx.set(&sem, |s| &s.word, pack(i32::from(value).min(SEMVMX), pid));
        if tx.pending() > STEP {
            tx.set(set, |s| &s.setall_done, num as u32 + 1);
            tx.commit();
        }
    }
    tx.set(set, |s| &s.pending, UPDATE);
    tx.commit();
    Ok(())
}

/// `semctl(IPC_SET)`.
///
/// # Errors
/// `EINVAL EPERM`.
pub fn semctl_set<T: Task>(ctx: &Ctx<'_, T>, id: i32, set: &Semid64Ds) -> Result<()> {
    let Locked { object, mut tx } = obtain_object_check::<SemArray, T>(ctx, id)?;
    check_owner(ctx.host, &object.perm)?;
    ipc_update_perm(&mut tx, &object, set.sem_perm.uid, set.sem_perm.gid, set.sem_perm.mode)?;
    tx.set(&object, |s| &s.ctime, ctx.host.now());
    tx.commit();
    Ok(())
}

/// `semctl(IPC_RMID)`.
///
/// # Errors
/// `EINVAL EPERM`.
pub fn semctl_rmid<T: Task>(ctx: &Ctx<'_, T>, id: i32) -> Result<()> {
    let Locked { object: set, mut tx } = obtain_to_remove::<SemArray, T>(ctx, id)?;
    check_owner(ctx.host, &set.perm)?;
    tx.set(&set, |s| &s.pending, UPDATE);
    set_dying(&mut tx, &set, KIND_SEM);
    if finish(&mut tx, &set, None).is_err() {
        tx.roll_back();
        gut(&mut tx, &set)?;
    }
    drop(tx);
    freeary(ctx, &set)
}

/// The set of a handle, for whoever puts right what the dead left.
pub(crate) fn set<'a, T: Task>(ctx: &Ctx<'a, T>, handle: Handle) -> Result<Set<'a>> {
    ctx.at(handle).or_errno()
}

/// Ends the removal of a dying set, from wherever it stands.
pub(crate) fn freeary<'a, T: Task>(ctx: &Ctx<'a, T>, set: &Set<'a>) -> Result<()> {
    insist(ctx, set, || empty_and_free(ctx, set))
}

fn empty_and_free<'a, T: Task>(ctx: &Ctx<'a, T>, set: &Set<'a>) -> Result<()> {
    if set.perm.state.load(Relaxed) != STATE_DYING {
        return Ok(());
    }
    ctx.flush_wakes();
    let nsems = u64::from(set.nsems.load(Relaxed));
    rm_id(ctx, set, |tx, ids| {
        tx.set(ids, |i| &i.used, ids.used.load(Relaxed).wrapping_sub(nsems));
    })?;
    for _ in 0..RECORDS {
        let Locked { object: set, mut tx } = lock_object(ctx, *set)?;
        if take_garbage(&mut tx, &set)? {
        } else if let Some(block) = Handle(set.undo.load(Relaxed)).some() {
            let undo: Undo<'a> = ctx.at(block).or_errno()?;
            tx.set(&set, |s| &s.undo, undo.next.load(Relaxed));
            set_chain(&mut tx, block);
        } else if let Some(block) = Handle(set.sems.load(Relaxed)).some() {
            tx.set(&set, |s| &s.sems, 0);
            set_chain(&mut tx, block);
        } else {
            drop(tx);
            free_object(ctx, &set);
            return Ok(());
        }
        tx.commit();
        drop(tx);
        if !ctx.free_chain() {
            break;
        }
    }
    Err(CORRUPT)
}
