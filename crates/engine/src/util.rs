//! What the mechanisms share: identifiers, keys, permissions, and tables larger than a block.
//!
//! `ids.lock` guards everything of [`IpcIds`]. An identifier is found without it: the table's entry names an object
//! in stable memory, whose own lock and `id` tell whether it is still the one.

use abi::{
    Errno, Result,
    ipc::{
        IPC_CREAT, IPC_EXCL, IPC_MIN_CYCLE, IPC_PRIVATE, IPCID_SEQ_MAX, IPCMNI, IPCMNI_IDX_MASK,
        IPCMNI_SHIFT, Ipc64Perm,
    },
};
use arena::{
    ArenaError, CALL_DONE, CALL_FAILED, CALL_RECEIVES, Class, Ctx, Handle, Lock, Phase, ProcSlot, Ref, SPAN,
    Shared, Tx, Waiter,
    sync::{AtomicI32, AtomicU32, AtomicU64, Ordering::*},
};

use crate::{
    namespace::{IpcNamespace, Limit},
    task::Task,
};

/// The one table from the arena's errors to the caller's.
pub fn arena_errno(error: ArenaError) -> Errno {
    match error {
        ArenaError::NoMemory | ArenaError::Full => Errno::ENOMEM,
        ArenaError::Corrupt => Errno::EIDRM,
    }
}

/// What is read from shared memory makes no sense. No call ends with it: [`heed`] and [`outward`] make
/// `EIDRM` of it.
pub(crate) const CORRUPT: Errno = Errno::from_raw(4095);

/// Turns the arena's results into the engine's.
pub(crate) trait OrErrno<T> {
    fn or_errno(self) -> Result<T>;
}
impl<T> OrErrno<T> for arena::Result<T> {
    #[inline(always)]
    fn or_errno(self) -> Result<T> {
        self.map_err(|error| match error {
            ArenaError::Corrupt => CORRUPT,
            other => arena_errno(other),
        })
    }
}

/// Free block of a stable class; what a zeroed page says too.
pub(crate) const STATE_FREE: u32 = 0;
/// In use.
pub(crate) const STATE_LIVE: u32 = 1;
/// Being removed: nobody finds it, its sleepers are told, its contents are being freed.
pub(crate) const STATE_DYING: u32 = 2;

/// Found to make no sense: every call but its removal gets `EIDRM`. What it held is given up.
pub(crate) const STATE_POISONED: u32 = 3;
/// It has an identifier, which may yet be taken back: nobody finds it until [`publish`].
pub(crate) const STATE_NEW: u32 = 4;

/// `pending`: the object was gutted; its sleepers are on no list any more, and to be told that it is gone.
pub(crate) const GUTTED: u32 = 1 << 31;

const BITMAP: usize = IPCMNI as usize / 64;
/// Entries of one block of the table of identifiers.
const PER_TABLE: usize = SPAN as usize / 4;
const BUCKETS: usize = SPAN as usize / 4;

arena::shared! {
    /// `kern_ipc_perm`: the head of every object.
    pub struct KernIpcPerm {
        pub(crate) uid: AtomicU32,
        pub(crate) gid: AtomicU32,
        /// Used by the allocator while the object is free.
        link: AtomicU32,
        key_next: AtomicU32,
        pub(crate) id: AtomicI32,
        pub(crate) state: AtomicU32,
        pub(crate) key: AtomicI32,
        pub(crate) cuid: AtomicU32,
        pub(crate) cgid: AtomicU32,
        pub(crate) mode: AtomicU32,
    }

    /// What objects of all classes begin with: a cache line of what mostly stays as it is, and with the lock begins one of what is changed
    /// under it. So who takes the lock gets both, and CPUs that take turns have one line less to hand over.
    pub(crate) struct Head {
        perm: KernIpcPerm,
        own: [AtomicU64; 3],
        pub(crate) lock: Lock,
    }

    /// `ipc_ids`: the identifiers of one class.
    pub struct IpcIds {
        pub(crate) lock: Lock,
        in_use: AtomicU32,
        seq: AtomicU32,
        last_idx: AtomicI32,
        max_idx: AtomicI32,
        /// `*_next_id`, -1 if unset.
        pub next_id: AtomicI32,
        pub(crate) keys: AtomicU32,
        table: [AtomicU32; 2],
        /// Of all objects: semaphores of the sets, pages of the segments.
        pub(crate) used: AtomicU64,
        bitmap: [AtomicU64; BITMAP],
    }
}

#[cfg(not(any(loom, shuttle)))]
const _: () = assert!(core::mem::offset_of!(Head, lock) as u64 == arena::OBJECT_LOCK);

/// Objects that have an identifier.
pub(crate) trait Object: Shared {
    const CLASS: Class;
    const LIMIT: Limit;
    fn perm(&self) -> &KernIpcPerm;
    fn lock(&self) -> &Lock;
    fn ids(ns: &IpcNamespace) -> &IpcIds;
    /// How many changes one step under the object's lock may need, where that can be more than the undo log has room for
    /// by itself; else 0.
    #[inline(always)]
    fn changes_max(&self) -> usize {
        0
    }
    /// Bytes of memory that it holds, about: what quotas count.
    fn holds(&self) -> u64;
    /// Whether it can be found by its key.
    fn has_key(&self) -> bool {
        true
    }
    /// Ends what a dead holder of the lock left unfinished beyond its transaction.
    fn finish_pending<T: Task>(tx: &mut Tx<'_, '_, T>, object: &Ref<'_, Self>) -> Result<()>;
}

/// Objects that name other blocks, which may turn out to make no sense.
pub(crate) trait Holder: Object {
    /// What it holds: all is 0 in an empty one.
    fn contents(&self) -> impl Iterator<Item = &AtomicU32>;
    /// What is to be done before it is used.
    fn pending(&self) -> &AtomicU32;
}

impl IpcIds {
    pub(crate) fn init(&self) {
        self.last_idx.store(-1, Relaxed);
        self.max_idx.store(-1, Relaxed);
        self.next_id.store(-1, Relaxed);
    }

    /// The two halves of the identifiers' table, and the keys'.
    fn tables(&self, which: usize) -> &AtomicU32 {
        self.table.get(which).unwrap_or(&self.keys)
    }

    /// Objects in use.
    pub fn in_use(&self) -> u32 {
        self.in_use.load(Relaxed)
    }

    /// Highest index in use; 0 if there is none.
    pub fn max_idx(&self) -> i32 {
        self.max_idx.load(Relaxed).max(0)
    }

    /// The first index in use from `from` on. Without a lock: a hint for listings.
    pub fn next_used(&self, from: u32) -> Option<u32> {
        self.next_bit(from, IPCMNI, |word| word)
    }

    fn next_free(&self, from: u32, below: u32) -> Option<u32> {
        self.next_bit(from, below, |word| !word)
    }

    fn next_bit(&self, from: u32, below: u32, map: impl Fn(u64) -> u64) -> Option<u32> {
        let mut at = from;
        while at < below {
            let word = map(self.bitmap[at as usize / 64].load(Relaxed)) >> (at % 64);
            if word != 0 {
                return Some(at + word.trailing_zeros()).filter(|&i| i < below);
            }
            at = (at / 64 + 1) * 64;
        }
        None
    }

    /// The highest index in use, of which none is above `most`.
    fn highest_used(&self, most: u32) -> i32 {
        let words = &self.bitmap[..=(most as usize / 64).min(self.bitmap.len() - 1)];
        let highest = words.iter().enumerate().rev().find_map(|(i, word)| {
            let word = word.load(Relaxed);
            (word != 0).then(|| i * 64 + 63 - word.leading_zeros() as usize)
        });
        highest.and_then(|i| i32::try_from(i).ok()).unwrap_or(-1)
    }
}

#[inline(always)]
pub(crate) fn ids_ref<'a, O: Object, T: Task>(
    ctx: &Ctx<'a, T>,
) -> Result<(Ref<'a, IpcNamespace>, Ref<'a, IpcIds>)> {
    let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
    Ok((ns, ns.part(|n| O::ids(n))))
}

/// Waits until nobody is in the middle of a change of a class's identifiers, and takes back what a dead one began: what is
/// read without the lock afterwards was committed.
pub(crate) fn settle_ids<O: Object, T: Task>(ctx: &Ctx<'_, T>) -> Result<()> {
    let (_, ids) = ids_ref::<O, T>(ctx)?;
    drop(ctx.lock(ids.part(|i| &i.lock)).or_errno()?);
    Ok(())
}

/// Ends the making of an object: its identifier is committed, and the class's lock still held.
pub(crate) fn publish<O: Object>(object: &O) {
    object.perm().state.store(STATE_LIVE, Release);
}

/// As [`settle_ids`]; and who made this object may have died just before it was published.
fn settle_new<O: Object, T: Task>(ctx: &Ctx<'_, T>, object: &O) -> Result<()> {
    let (_, ids) = ids_ref::<O, T>(ctx)?;
    let _held = ctx.lock(ids.part(|i| &i.lock)).or_errno()?;
    if object.perm().state.load(Relaxed) == STATE_NEW {
        publish(object);
    }
    Ok(())
}

/// The table's entry of an index.
#[inline(always)]
fn entry<'a, T: Task>(ctx: &Ctx<'a, T>, ids: &IpcIds, idx: u32) -> Result<Ref<'a, AtomicU32>> {
    let block = ids.table.get(idx as usize / PER_TABLE).ok_or(Errno::EINVAL)?.load(Acquire);
    let block = Handle(block).some().ok_or(Errno::EINVAL)?;
    ctx.element(block, 0, idx as usize % PER_TABLE).or_errno()
}

fn bucket<'a, T: Task>(ctx: &Ctx<'a, T>, ids: &IpcIds, key: i32) -> Result<Ref<'a, AtomicU32>> {
    let keys = Handle(ids.keys.load(Relaxed));
    #[expect(clippy::cast_sign_loss, reason = "the bits")]
    let hash = (key as u32).wrapping_mul(0x9e37_79b1) as usize >> 18;
    Ok(ctx.array::<AtomicU32>(keys, 0, BUCKETS).or_errno()?.part(|b| &b[hash % BUCKETS]))
}

/// Allocates the tables of a class that are not there yet.
pub(crate) fn ensure_tables<'a, T: Task>(ctx: &Ctx<'a, T>, ids: &Ref<'a, IpcIds>) -> Result<()> {
    while let Some(which) = missing_table(ids) {
        ensure_span(ctx, ids, ids.part(|ids| ids.tables(which)))?;
    }
    Ok(())
}

/// Puts a span of zeros where a class's lock guards the place for one, unless there is one by then.
pub(crate) fn ensure_span<'a, T: Task>(
    ctx: &Ctx<'a, T>,
    ids: &Ref<'a, IpcIds>,
    place: Ref<'a, AtomicU32>,
) -> Result<()> {
    let block = ctx.alloc(SPAN).or_errno()?;
    ctx.arena.zero(ctx.host, block, 0, SPAN as usize).or_errno()?;
    let mut tx = ctx.lock(ids.part(|i| &i.lock)).or_errno()?;
    if place.load(Relaxed) == 0 {
        tx.set(&place, |p| p, block.0);
        taken(&mut tx);
        tx.commit();
    } else {
        drop(tx);
        ctx.free(block);
    }
    Ok(())
}

/// The first of the tables that is needed and not there. The second half of the identifiers' is for indices above 16384 only.
pub(crate) fn missing_table(ids: &IpcIds) -> Option<usize> {
    let half = ids.in_use.load(Relaxed) > 8000 || ids.next_id.load(Relaxed) >= 0;
    (0..3).find(|&which| (which != 1 || half) && ids.tables(which).load(Acquire) == 0)
}

/// The block last allocated is linked by this transaction.
pub(crate) fn taken<T: Task>(tx: &mut Tx<'_, '_, T>) {
    let slot = tx.ctx().slot;
    tx.set(&slot, |s| &s.in_flight.taking, 0);
}

/// Sets the chain of blocks that the thread holds, by this transaction.
pub(crate) fn set_chain<T: Task>(tx: &mut Tx<'_, '_, T>, head: Handle) {
    let slot = tx.ctx().slot;
    tx.set(&slot, |s| &s.in_flight.chain, head.0);
}

/// The folded permission bits of a flag or mode.
pub(crate) const fn fold(flag: u32) -> u32 {
    ((flag >> 6) | (flag >> 3) | flag) & 7
}

/// `ipcperms`: whether the caller may do what the folded bits of `flag` ask for.
#[inline(always)]
pub(crate) fn ipcperms<T: Task>(task: &T, perm: &KernIpcPerm, flag: u32) -> Result<()> {
    // What is asked most often, by whom it is asked most often.
    let euid = task.cred().euid;
    if euid == perm.uid.load(Relaxed) && fold(flag) & !(perm.mode.load(Relaxed) >> 6) & 7 == 0 {
        return Ok(());
    }
    ipcperms_of_all(task, perm, flag)
}

#[inline(never)]
fn ipcperms_of_all<T: Task>(task: &T, perm: &KernIpcPerm, flag: u32) -> Result<()> {
    let requested = fold(flag);
    if requested == 0 {
        return Ok(());
    }
    let cred = task.cred();
    let mode = perm.mode.load(Relaxed);
    let (uid, cuid) = (perm.uid.load(Relaxed), perm.cuid.load(Relaxed));
    let in_group = |gid| cred.fsgid == gid || task.in_group(gid);
    let granted = if cred.euid == cuid || cred.euid == uid {
        mode >> 6
    } else if mode >> 3 & 7 != mode & 7
        && (in_group(perm.cgid.load(Relaxed)) || in_group(perm.gid.load(Relaxed)))
    {
        mode >> 3
    } else {
        mode
    };
    if requested & !granted & 7 == 0 || cred.ipc_owner { Ok(()) } else { Err(Errno::EACCES) }
}

/// Whether the caller may change or remove the object.
pub(crate) fn check_owner<T: Task>(task: &T, perm: &KernIpcPerm) -> Result<()> {
    let cred = task.cred();
    let owner = cred.euid == perm.uid.load(Relaxed) || cred.euid == perm.cuid.load(Relaxed);
    if owner || cred.sys_admin { Ok(()) } else { Err(Errno::EPERM) }
}

/// What `IPC_STAT` shows of an object's head.
pub(crate) fn kernel_to_ipc64_perm(perm: &KernIpcPerm) -> Ipc64Perm {
    #[expect(
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        reason = "15 bits of sequence in an id"
    )]
    let seq = (perm.id.load(Relaxed) as u32 >> IPCMNI_SHIFT) as u16;
    Ipc64Perm {
        key: perm.key.load(Relaxed),
        uid: perm.uid.load(Relaxed),
        gid: perm.gid.load(Relaxed),
        cuid: perm.cuid.load(Relaxed),
        cgid: perm.cgid.load(Relaxed),
        mode: perm.mode.load(Relaxed),
        seq,
        ..Ipc64Perm::default()
    }
}

/// `IPC_SET`'s change of owner and mode.
pub(crate) fn ipc_update_perm<'a, O: Object + 'a, T: Task>(
    tx: &mut Tx<'_, 'a, T>,
    object: &Ref<'a, O>,
    uid: u32,
    gid: u32,
    mode: u32,
) -> Result<()> {
    if uid == u32::MAX || gid == u32::MAX {
        return Err(Errno::EINVAL);
    }
    let perm = object.part(O::perm);
    tx.set(&perm, |p| &p.uid, uid);
    tx.set(&perm, |p| &p.gid, gid);
    tx.set(&perm, |p| &p.mode, perm.mode.load(Relaxed) & !0o777 | mode & 0o777);
    Ok(())
}

/// More changes than the undo log can be made long for.
const CHANGES_MAX: usize = 1 << 16;

/// An object under its lock.
pub(crate) struct Locked<'c, 'a, O: Object + 'a, T: Task> {
    pub(crate) object: Ref<'a, O>,
    pub(crate) tx: Tx<'c, 'a, T>,
}

/// Locks an object by handle, and ends what a dead holder left.
#[inline(always)]
pub(crate) fn lock_object<'c, 'a, O: Object + 'a, T: Task>(
    ctx: &'c Ctx<'a, T>,
    object: Ref<'a, O>,
) -> Result<Locked<'c, 'a, O, T>> {
    loop {
        let changes = object.changes_max();
        if changes > CHANGES_MAX {
            return Err(CORRUPT);
        }
        if changes > 0 {
            ctx.reserve_log(changes).or_errno()?;
        }
        let mut tx = ctx.lock(object.part(|o| o.lock())).or_errno()?;
        if object.changes_max() > changes {
            continue;
        }
        O::finish_pending(&mut tx, &object)?;
        return Ok(Locked { object, tx });
    }
}

/// `ipc_obtain_object_check`: the object of an identifier, locked. `EINVAL` if there is none.
#[inline(always)]
pub(crate) fn obtain_object_check<'c, 'a, O: Object + 'a, T: Task>(
    ctx: &'c Ctx<'a, T>,
    id: i32,
) -> Result<Locked<'c, 'a, O, T>> {
    let object = find_object::<O, T>(ctx, id)?;
    let locked = lock_object(ctx, object)?;
    if is_object(locked.object.get(), id) {
        return Ok(locked);
    }
    drop(locked);
    obtain_unusual(ctx, object, id)
}

#[cold]
#[inline(never)]
fn obtain_unusual<'c, 'a, O: Object + 'a, T: Task>(
    ctx: &'c Ctx<'a, T>,
    object: Ref<'a, O>,
    id: i32,
) -> Result<Locked<'c, 'a, O, T>> {
    let locked = lock_made(ctx, object)?;
    let perm = locked.object.perm();
    match perm.state.load(Relaxed) {
        STATE_LIVE if perm.id.load(Relaxed) == id => Ok(locked),
        STATE_POISONED if perm.id.load(Relaxed) == id => Err(Errno::EIDRM),
        _ => Err(Errno::EINVAL),
    }
}

/// Locks an object; first, whoever is making it comes to an end.
fn lock_made<'c, 'a, O: Object + 'a, T: Task>(
    ctx: &'c Ctx<'a, T>,
    object: Ref<'a, O>,
) -> Result<Locked<'c, 'a, O, T>> {
    let locked = lock_object(ctx, object)?;
    if locked.object.perm().state.load(Relaxed) != STATE_NEW {
        return Ok(locked);
    }
    drop(locked);
    settle_new(ctx, object.get())?;
    lock_object(ctx, object)
}

/// The object of an identifier, locked, to remove it: it may be poisoned.
pub(crate) fn obtain_to_remove<'c, 'a, O: Object + 'a, T: Task>(
    ctx: &'c Ctx<'a, T>,
    id: i32,
) -> Result<Locked<'c, 'a, O, T>> {
    let locked = lock_made(ctx, find_object::<O, T>(ctx, id)?)?;
    let perm = locked.object.perm();
    let removable = matches!(perm.state.load(Relaxed), STATE_LIVE | STATE_POISONED);
    if removable && perm.id.load(Relaxed) == id { Ok(locked) } else { Err(Errno::EINVAL) }
}

/// Ends a call that is on no object, or on none in particular.
#[inline(always)]
pub(crate) fn outward<R>(result: Result<R>) -> Result<R> {
    result.map_err(|error| if error == CORRUPT { Errno::EIDRM } else { error })
}

/// Ends a call on an object: if it met what makes no sense, the object is poisoned.
#[inline(always)]
pub(crate) fn heed<O: Holder, T: Task, R>(ctx: &Ctx<'_, T>, id: i32, result: Result<R>) -> Result<R> {
    result.map_err(|error| if error == CORRUPT { poison::<O, T>(ctx, id) } else { error })
}

#[cold]
#[inline(never)]
fn poison<O: Holder, T: Task>(ctx: &Ctx<'_, T>, id: i32) -> Errno {
    // Where this fails too, no object can be told to be the culprit.
    let _ = find_object::<O, T>(ctx, id).and_then(|object| {
        let mut tx = ctx.lock(object.part(|o| o.lock())).or_errno()?;
        if is_object(object.get(), id) {
            let perm = object.part(O::perm);
            tx.set(&perm, |p| &p.state, STATE_POISONED);
            gut(&mut tx, &object)?;
        }
        Ok(())
    });
    ctx.flush_wakes();
    Errno::EIDRM
}

/// Makes an object that makes no sense an empty one, whose sleepers get `EIDRM`. The memory that it held can't be told from
/// others' any more, and is given up.
pub(crate) fn gut<'a, O: Holder + 'a, T: Task>(tx: &mut Tx<'_, 'a, T>, object: &Ref<'a, O>) -> Result<()> {
    let whole = object.get();
    for place in whole.contents() {
        tx.set(object, |_| place, 0);
    }
    tx.set(object, |o| o.pending(), GUTTED);
    tx.commit();
    O::finish_pending(tx, object)
}

/// Takes a step of a removal whatever the object holds: where that makes no sense, it is given up.
pub(crate) fn insist<'a, O: Holder + 'a, T: Task>(
    ctx: &Ctx<'a, T>,
    object: &Ref<'a, O>,
    step: impl Fn() -> Result<()>,
) -> Result<()> {
    match step() {
        Err(CORRUPT) => {}
        taken => return taken,
    }
    let mut tx = ctx.lock(object.part(|o| o.lock())).or_errno()?;
    gut(&mut tx, object)?;
    drop(tx);
    ctx.flush_wakes();
    step()
}

/// Tells every sleeper of an object, found without the object's lists, that it is gone.
pub(crate) fn release_sleepers<T: Task>(tx: &mut Tx<'_, '_, T>, object: Handle) -> Result<()> {
    for (slot, _, _) in tx.ctx().threads().or_errno()? {
        let who = slot.part(|s| &s.waiter);
        // The kind comes last when a sleep begins, so it is read first; then nobody but this lock's holder ends it.
        if who.kind.load(Acquire) == 0
            || who.object.load(Relaxed) != object.0
            || !matches!(who.phase(), Phase::Waiting | Phase::Retry)
        {
            continue;
        }
        tx.set(&who, |w| &w.kind, 0);
        tx.set(&who, |w| &w.result, -i64::from(Errno::EIDRM.raw()));
        tx.commit_completing(&who, Phase::Done);
    }
    Ok(())
}

/// The object that may be an identifier's, found without a lock: see [`is_object`].
#[inline(always)]
pub(crate) fn find_object<'a, O: Object + 'a, T: Task>(ctx: &Ctx<'a, T>, id: i32) -> Result<Ref<'a, O>> {
    let (_, ids) = ids_ref::<O, T>(ctx)?;
    #[expect(clippy::cast_sign_loss, reason = "callers have refused negative ones")]
    let block = Handle(entry(ctx, &ids, id as u32 & IPCMNI_IDX_MASK)?.load(Acquire));
    ctx.at(block.some().ok_or(Errno::EINVAL)?).or_errno()
}

/// Whether an object whose lock is held is the identifier's.
#[inline(always)]
pub(crate) fn is_object<O: Object>(object: &O, id: i32) -> bool {
    object.perm().id.load(Relaxed) == id && object.perm().state.load(Relaxed) == STATE_LIVE
}

/// The object at an index, whatever its sequence number, and its identifier: for `*_STAT`.
pub(crate) fn obtain_object_idx<'c, 'a, O: Object + 'a, T: Task>(
    ctx: &'c Ctx<'a, T>,
    id: i32,
) -> Result<(i32, Locked<'c, 'a, O, T>)> {
    let (_, ids) = ids_ref::<O, T>(ctx)?;
    #[expect(clippy::cast_sign_loss, reason = "masked")]
    let block = Handle(entry(ctx, &ids, id as u32 & IPCMNI_IDX_MASK)?.load(Acquire));
    let object: Ref<'a, O> = ctx.at(block.some().ok_or(Errno::EINVAL)?).or_errno()?;
    let locked = lock_made(ctx, object)?;
    match locked.object.perm().state.load(Relaxed) {
        STATE_LIVE => {}
        STATE_POISONED => return Err(Errno::EIDRM),
        _ => return Err(Errno::EINVAL),
    }
    let found = locked.object.perm().id.load(Relaxed);
    if (found ^ id).cast_unsigned() & IPCMNI_IDX_MASK != 0 {
        return Err(CORRUPT);
    }
    Ok((found, locked))
}

/// The identifier of what is at an index, also if it is poisoned.
pub(crate) fn id_at<O: Object, T: Task>(ctx: &Ctx<'_, T>, idx: u32) -> Result<i32> {
    Ok(object_at::<O, T>(ctx, idx)?.perm().id.load(Relaxed))
}

/// What is at an index, found without a lock.
pub(crate) fn object_at<'a, O: Object + 'a, T: Task>(ctx: &Ctx<'a, T>, idx: u32) -> Result<Ref<'a, O>> {
    let (_, ids) = ids_ref::<O, T>(ctx)?;
    let block = Handle(entry(ctx, &ids, idx)?.load(Acquire));
    ctx.at(block.some().ok_or(Errno::EINVAL)?).or_errno()
}

/// What a `*get` call wants.
pub(crate) struct IpcParams {
    pub(crate) key: i32,
    pub(crate) flags: i32,
}

/// `ipcget`: finds or makes. `more_checks` sees an existing object before its permissions are looked at; `getnew`
/// makes an object outside of everything; `charge` counts it, under the class's lock.
pub(crate) fn ipcget<'a, O: Object + 'a, T: Task>(
    ctx: &Ctx<'a, T>,
    params: &IpcParams,
    more_checks: impl Fn(&O) -> Result<()>,
    getnew: impl Fn() -> Result<Ref<'a, O>>,
    discard: impl Fn(&Ref<'a, O>),
    charge: impl Fn(&mut Tx<'_, 'a, T>, &Ref<'a, IpcIds>) -> Result<()>,
) -> Result<i32> {
    let (ns, ids) = ids_ref::<O, T>(ctx)?;
    if params.key != IPC_PRIVATE {
        // Without tables there is no object yet; what was seen without the lock may be undone.
        if ids.keys.load(Acquire) != 0 {
            let tx = ctx.lock(ids.part(|i| &i.lock)).or_errno()?;
            if ids.keys.load(Relaxed) != 0
                && let Some(found) = find_key::<O, T>(ctx, &ids, params.key, |_| Ok(true))?
            {
                return existing(tx, &found, params, more_checks);
            }
        }
        if params.flags & IPC_CREAT == 0 {
            return Err(Errno::ENOENT);
        }
    }
    // What is seen of the tables without the lock may be undone, when who made them has died.
    const TRIES: u32 = 8;
    for _ in 0..TRIES {
        ensure_tables(ctx, &ids)?;
        // A new object is made outside of the lock; by then somebody else may have made one.
        let new = getnew()?;
        let made = (|| {
            let mut tx = ctx.lock(ids.part(|i| &i.lock)).or_errno()?;
            if missing_table(&ids).is_some() {
                return Ok(None);
            }
            if params.key != IPC_PRIVATE
                && let Some(found) = find_key::<O, T>(ctx, &ids, params.key, |_| Ok(true))?
            {
                return existing(tx, &found, params, &more_checks).map(|id| Some((id, false)));
            }
            let id = add_id(&mut tx, &ids, &new, params.key, ns.limit(O::LIMIT))?;
            charge(&mut tx, &ids)?;
            taken(&mut tx);
            set_chain(&mut tx, Handle::NULL);
            tx.commit();
            publish(new.get());
            Ok(Some((id, true)))
        })();
        if !matches!(made, Ok(Some((_, true)))) {
            discard(&new);
        }
        if let Some((id, _)) = made? {
            return Ok(id);
        }
    }
    Err(CORRUPT)
}

fn existing<O: Object, T: Task>(
    tx: Tx<'_, '_, T>,
    found: &Ref<'_, O>,
    params: &IpcParams,
    more_checks: impl Fn(&O) -> Result<()>,
) -> Result<i32> {
    if params.flags & IPC_CREAT != 0 && params.flags & IPC_EXCL != 0 {
        return Err(Errno::EEXIST);
    }
    more_checks(found)?;
    #[expect(clippy::cast_sign_loss, reason = "the bits")]
    ipcperms(tx.ctx().host, found.perm(), params.flags as u32)?;
    // A negative one would be taken for an error.
    let id = found.perm().id.load(Relaxed);
    if id < 0 { Err(CORRUPT) } else { Ok(id) }
}

/// The live object of a key, and of more than that where a key is not all. One that is being removed counts as none.
pub(crate) fn find_key<'a, O: Object + 'a, T: Task>(
    ctx: &Ctx<'a, T>,
    ids: &IpcIds,
    key: i32,
    is_it: impl Fn(&Ref<'a, O>) -> Result<bool>,
) -> Result<Option<Ref<'a, O>>> {
    let mut at = Handle(bucket(ctx, ids, key)?.load(Relaxed));
    for _ in 0..IPCMNI {
        let Some(block) = at.some() else { return Ok(None) };
        let object: Ref<'a, O> = ctx.at(block).or_errno()?;
        let state = object.perm().state.load(Relaxed);
        if object.perm().key.load(Relaxed) == key
            && matches!(state, STATE_LIVE | STATE_NEW)
            && object.has_key()
            && is_it(&object)?
        {
            if state == STATE_NEW {
                // Its maker has died: the lock is ours.
                publish(object.get());
            }
            return Ok(Some(object));
        }
        at = Handle(object.perm().key_next.load(Relaxed));
    }
    Err(CORRUPT)
}

/// `ipc_addid`: gives a new object its identifier, in Linux's order. After the commit, it is to be [`publish`]ed.
pub(crate) fn add_id<'a, O: Object + 'a, T: Task>(
    tx: &mut Tx<'_, 'a, T>,
    ids: &Ref<'a, IpcIds>,
    object: &Ref<'a, O>,
    key: i32,
    limit: i32,
) -> Result<i32> {
    let ctx = tx.ctx();
    let in_use = ids.in_use.load(Relaxed);
    let most = u32::try_from(limit).unwrap_or(0).min(IPCMNI);
    if in_use >= most {
        return Err(Errno::ENOSPC);
    }
    let next = ids.next_id.load(Relaxed);
    let (seq, idx) = if let Ok(next) = u32::try_from(next) {
        tx.set(ids, |i| &i.next_id, -1);
        let Some(idx) = ids.next_free(next & IPCMNI_IDX_MASK, IPCMNI) else {
            // It is used up all the same.
            tx.commit();
            return Err(Errno::ENOSPC);
        };
        (next >> IPCMNI_SHIFT, idx)
    } else {
        let below = (in_use * 3 / 2).clamp(IPC_MIN_CYCLE, IPCMNI);
        let last = ids.last_idx.load(Relaxed);
        #[expect(clippy::cast_sign_loss, reason = "last is at least -1")]
        let cursor = (last + 1) as u32;
        let idx = ids.next_free(cursor, below).or_else(|| ids.next_free(0, below)).ok_or(Errno::ENOSPC)?;
        let mut seq = ids.seq.load(Relaxed);
        #[expect(clippy::cast_possible_wrap, reason = "below IPCMNI")]
        let signed = idx as i32;
        if signed <= last {
            seq = if seq >= IPCID_SEQ_MAX { 0 } else { seq + 1 };
            tx.set(ids, |i| &i.seq, seq);
        }
        tx.set(ids, |i| &i.last_idx, signed);
        (seq, idx)
    };
    let entry = entry(ctx, ids, idx)?;
    #[expect(clippy::cast_possible_wrap, reason = "31 bits")]
    let id = ((seq.min(IPCID_SEQ_MAX) << IPCMNI_SHIFT) | idx) as i32;
    let perm = object.part(O::perm);
    perm.id.store(id, Relaxed);
    perm.key.store(key, Relaxed);
    perm.key_next.store(0, Relaxed);
    if key != IPC_PRIVATE {
        let bucket = bucket(ctx, ids, key)?;
        perm.key_next.store(bucket.load(Relaxed), Relaxed);
        tx.set(&bucket, |b| b, object.handle().0);
    }
    let word = ids.bitmap[idx as usize / 64].load(Relaxed);
    tx.set(ids, |i| &i.bitmap[idx as usize / 64], word | 1 << (idx % 64));
    tx.set(ids, |i| &i.in_use, in_use + 1);
    #[expect(clippy::cast_possible_wrap, reason = "below IPCMNI")]
    if idx as i32 > ids.max_idx.load(Relaxed) {
        tx.set(ids, |i| &i.max_idx, idx as i32);
    }
    tx.set(&perm, |p| &p.state, STATE_NEW);
    tx.set(&entry, |e| e, object.handle().0);
    Ok(id)
}

/// `ipc_rmid`: takes a dying object's identifier and key away. Does nothing if they are gone already.
pub(crate) fn rm_id<'a, O: Object + 'a, T: Task>(
    ctx: &Ctx<'a, T>,
    object: &Ref<'a, O>,
    discharge: impl FnOnce(&mut Tx<'_, 'a, T>, &Ref<'a, IpcIds>),
) -> Result<()> {
    let (_, ids) = ids_ref::<O, T>(ctx)?;
    let mut tx = ctx.lock(ids.part(|i| &i.lock)).or_errno()?;
    let id = object.perm().id.load(Relaxed);
    #[expect(clippy::cast_sign_loss, reason = "masked")]
    let idx = id as u32 & IPCMNI_IDX_MASK;
    let entry = entry(ctx, &ids, idx)?;
    if entry.load(Relaxed) != object.handle().0 {
        return Ok(());
    }
    tx.set(&entry, |e| e, 0);
    let key = object.perm().key.load(Relaxed);
    if key != IPC_PRIVATE {
        unlink_key(&mut tx, &ids, object, key)?;
    }
    let word = ids.bitmap[idx as usize / 64].load(Relaxed);
    tx.set(&ids, |i| &i.bitmap[idx as usize / 64], word & !(1 << (idx % 64)));
    tx.set(&ids, |i| &i.in_use, ids.in_use.load(Relaxed).wrapping_sub(1));
    #[expect(clippy::cast_possible_wrap, reason = "below IPCMNI")]
    if idx as i32 == ids.max_idx.load(Relaxed) {
        tx.set(&ids, |i| &i.max_idx, ids.highest_used(idx));
    }
    discharge(&mut tx, &ids);
    tx.commit();
    Ok(())
}

pub(crate) fn unlink_key<'a, O: Object + 'a, T: Task>(
    tx: &mut Tx<'_, 'a, T>,
    ids: &IpcIds,
    object: &Ref<'a, O>,
    key: i32,
) -> Result<()> {
    let mut place = bucket(tx.ctx(), ids, key)?;
    for _ in 0..IPCMNI {
        let at = Handle(place.load(Relaxed));
        if at == object.handle() {
            tx.set(&place, |p| p, object.perm().key_next.load(Relaxed));
            return Ok(());
        }
        let Some(block) = at.some() else { return Ok(()) };
        place = tx.ctx().at::<O>(block).or_errno()?.part(|o| &o.perm().key_next);
    }
    Err(CORRUPT)
}

/// Takes a block for a new object and writes its head; the caller fills the rest and publishes it.
pub(crate) fn new_object<'a, O: Object + 'a, T: Task>(ctx: &Ctx<'a, T>, flags: i32) -> Result<Ref<'a, O>> {
    let object: Ref<'a, O> = ctx.at(ctx.alloc_class(O::CLASS).or_errno()?).or_errno()?;
    let cred = ctx.host.cred();
    let perm = object.perm();
    perm.state.store(STATE_FREE, Relaxed);
    perm.id.store(-1, Relaxed);
    for (place, value) in
        [(&perm.uid, cred.euid), (&perm.cuid, cred.euid), (&perm.gid, cred.egid), (&perm.cgid, cred.egid)]
    {
        place.store(value, Relaxed);
    }
    #[expect(clippy::cast_sign_loss, reason = "masked")]
    perm.mode.store((flags & 0o777) as u32, Relaxed);
    Ok(object)
}

/// Begins a removal: from now on nobody finds the object, and the thread's slot says who must end it.
pub(crate) fn set_dying<'a, O: Object + 'a, T: Task>(
    tx: &mut Tx<'_, 'a, T>,
    object: &Ref<'a, O>,
    class: u32,
) {
    let perm = object.part(O::perm);
    tx.set(&perm, |p| &p.state, STATE_DYING);
    let slot = tx.ctx().slot;
    tx.set(&slot, |s| &s.in_flight.doomed, object.handle().0);
    tx.set(&slot, |s| &s.in_flight.doomed_class, class);
    tx.commit();
}

/// Ends a removal: the empty object's block is free again.
pub(crate) fn free_object<'a, O: Object + 'a, T: Task>(ctx: &Ctx<'a, T>, object: &Ref<'a, O>) {
    // In flight before it is no longer dying: else a death in between would leave it to nobody.
    ctx.hold(object.handle());
    object.perm().id.store(-1, Relaxed);
    object.perm().state.store(STATE_FREE, Release);
    ctx.slot.in_flight.doomed.store(0, Relaxed);
    ctx.free(object.handle());
}

/// Most sleepers there can be: a longer list goes round in a circle.
pub(crate) const SLEEPERS: u32 = 1 << 16;

/// A sleeper that a list of an object names; the object's lock is held.
///
/// # Errors
/// `CORRUPT` if it is none of the object's.
#[inline(always)]
pub(crate) fn sleeper<'a, T: Task>(ctx: &Ctx<'a, T>, link: u32, object: Handle) -> Result<Ref<'a, Waiter>> {
    let who: Ref<'a, Waiter> = ctx.at(Handle(link)).or_errno()?;
    let listed = who.object.load(Relaxed) == object.0 && who.kind.load(Relaxed) != 0;
    if listed { Ok(who) } else { Err(CORRUPT) }
}

/// The head and the tail of a list of an object's sleepers.
pub(crate) type Ends<'a> = [Ref<'a, AtomicU32>; 2];

/// Puts the thread's waiter on a list of an object, behind another sleeper or (0) at its front. The sleep begins with the commit.
pub(crate) fn begin_sleep<'a, O: Object + 'a, T: Task>(
    tx: &mut Tx<'_, 'a, T>,
    object: &Ref<'a, O>,
    kind: u32,
    [head, tail]: Ends<'a>,
    behind: u32,
) -> Result<()> {
    let ctx = tx.ctx();
    let me = ctx.slot.part(|s| &s.waiter);
    let before = if behind == 0 { None } else { Some(sleeper(ctx, behind, object.handle())?) };
    let next = before.map_or_else(|| head.load(Relaxed), |before| before.next.load(Relaxed));
    prepare_sleep(ctx, object);
    me.next.store(next, Relaxed);
    me.prev.store(behind, Relaxed);
    me.begin();
    tx.set(&me, |w| &w.kind, kind);
    match &before {
        None => tx.set(&head, |h| h, me.handle().0),
        Some(before) => tx.set(before, |w| &w.next, me.handle().0),
    }
    match next {
        0 => tx.set(&tail, |t| t, me.handle().0),
        _ => tx.set(&sleeper(ctx, next, object.handle())?, |w| &w.prev, me.handle().0),
    }
    Ok(())
}

/// Writes who sleeps, and on which object.
pub(crate) fn prepare_sleep<'a, O: Object + 'a, T: Task>(ctx: &Ctx<'a, T>, object: &Ref<'a, O>) {
    let me = ctx.slot.part(|s| &s.waiter);
    me.tid.store(ctx.host.caller(), Relaxed);
    me.pid.store(ctx.host.tgid(), Relaxed);
    me.object.store(object.handle().0, Relaxed);
    me.id.store(object.perm().id.load(Relaxed), Relaxed);
    me.result.store(0, Relaxed);
    me.args[WAITER_PROCESS].store(u64::from(ctx.host.process().0), Relaxed);
}

/// Takes a sleeper off its list.
pub(crate) fn end_listing<'a, T: Task>(
    tx: &mut Tx<'_, 'a, T>,
    object: Handle,
    [head, tail]: Ends<'a>,
    who: &Ref<'a, Waiter>,
) -> Result<()> {
    let ctx = tx.ctx();
    let (next, prev) = (who.next.load(Relaxed), who.prev.load(Relaxed));
    match next {
        0 => tx.set(&tail, |t| t, prev),
        _ => tx.set(&sleeper(ctx, next, object)?, |w| &w.prev, prev),
    }
    match prev {
        0 => tx.set(&head, |h| h, next),
        _ => tx.set(&sleeper(ctx, prev, object)?, |w| &w.next, next),
    }
    tx.set(who, |w| &w.kind, 0);
    Ok(())
}

/// Ends the sleep of one that is on no list any more, as one change with what was done before.
#[inline(always)]
pub(crate) fn complete_sleep<'a, T: Task>(
    tx: &mut Tx<'_, 'a, T>,
    who: &Ref<'a, Waiter>,
    phase: Phase,
    result: Result<()>,
) {
    tx.set(who, |w| &w.result, result.map_or_else(|e| -i64::from(e.raw()), |()| 0));
    tx.commit_completing(who, phase);
}

/// What whoever completed a sleep has written.
pub(crate) fn outcome_of(who: &Waiter) -> Result<i64> {
    match who.result.load(Relaxed) {
        value @ 0.. => Ok(value),
        #[expect(clippy::cast_possible_truncation, reason = "an error number")]
        error => Err(Errno::from_raw(-error as i32)),
    }
}

/// Ends a sleep of this thread that nobody has completed: takes it off the list with these ends. Returns false if somebody has.
pub(crate) fn leave<'a, O: Object + 'a, T: Task>(
    ctx: &Ctx<'a, T>,
    ends: impl FnOnce(&Ref<'a, O>) -> Ends<'a>,
) -> Result<bool> {
    let me = ctx.slot.part(|s| &s.waiter);
    let object: Ref<'a, O> = ctx.at(Handle(me.object.load(Relaxed))).or_errno()?;
    let Locked { object, mut tx } = lock_object(ctx, object)?;
    if me.phase() != Phase::Waiting {
        return Ok(false);
    }
    end_listing(&mut tx, object.handle(), ends(&object), &me)?;
    tx.commit();
    me.end();
    Ok(true)
}

/// The call has done what it was to do, as one change with that.
#[inline(always)]
pub(crate) fn note_done<T: Task>(tx: &mut Tx<'_, '_, T>) {
    if T::ASKS_LATER {
        let slot = tx.ctx().slot;
        tx.set(&slot, |s| &s.came, CALL_DONE);
    }
}

/// What a sleep has come to by somebody else, or the call since: before the sleep is forgotten that tells so, too.
pub(crate) fn note_outcome<R, T: Task>(ctx: &Ctx<'_, T>, outcome: &Result<R>) {
    if T::ASKS_LATER {
        ctx.slot.came.store(
            match *outcome {
                Ok(_) => CALL_DONE,
                // It is another one that the caller hears of.
                Err(CORRUPT) => return,
                Err(error) => u64::from(error.raw().cast_unsigned()) << 32 | CALL_FAILED,
            },
            Relaxed,
        );
        arena::sync::ordered(ctx.host);
    }
}

/// The error of a call that has slept: an identifier that is gone now was there when it began.
pub(crate) fn since_then<T: Task>(ctx: &Ctx<'_, T>, error: Errno) -> Errno {
    if error != Errno::EINVAL {
        return error;
    }
    note_outcome::<(), T>(ctx, &Err(Errno::EIDRM));
    Errno::EIDRM
}

/// The call has taken this message, as one change with that: there may be other blocks in front of it in the thread's hands.
#[inline(always)]
pub(crate) fn note_taken<T: Task>(tx: &mut Tx<'_, '_, T>, message: Handle) {
    if T::ASKS_LATER {
        let slot = tx.ctx().slot;
        tx.set(&slot, |s| &s.came, u64::from(message.0) << 32 | CALL_RECEIVES);
    }
}

/// As [`note_taken`], where somebody else has given it to a sleep, or an error: before that is forgotten, too.
pub(crate) fn note_was_given<T: Task>(ctx: &Ctx<'_, T>, who: &Waiter) {
    let outcome = outcome_of(who);
    if outcome.is_err() {
        note_outcome(ctx, &outcome);
    } else if T::ASKS_LATER {
        ctx.slot.came.store(u64::from(who.block.load(Relaxed)) << 32 | CALL_RECEIVES, Relaxed);
        arena::sync::ordered(ctx.host);
    }
}

/// The block that belonged to a sleep is the thread's: whoever settles its slot after a death in between finds it in both places, and
/// takes one.
pub(crate) fn own_block<T: Task>(ctx: &Ctx<'_, T>, who: &Waiter) -> Handle {
    let block = Handle(who.block.load(Relaxed));
    ctx.slot.in_flight.chain.store(block.0, Relaxed);
    arena::sync::ordered(ctx.host);
    who.block.store(0, Relaxed);
    block
}

/// Where a waiter's arguments name its process.
pub(crate) const WAITER_PROCESS: usize = 5;

/// Whether the sleeper's process or thread is known to have ended: then it is as if it were not there. What it had in its hands
/// is the reaper's business.
pub(crate) fn has_ended<T: Task>(ctx: &Ctx<'_, T>, who: &Waiter) -> bool {
    #[expect(clippy::cast_possible_truncation, reason = "a handle")]
    let process = Handle(who.args[WAITER_PROCESS].load(Relaxed) as u32);
    ctx.at::<ProcSlot>(process).is_ok_and(|p| p.marked() && marked_ended(ctx, &p, who))
}

#[cold]
#[inline(never)]
fn marked_ended<T: Task>(ctx: &Ctx<'_, T>, p: &ProcSlot, who: &Waiter) -> bool {
    let (start, tid) = (p.start.load(Relaxed), who.tid.load(Relaxed));
    if ctx.host.process_dead(p.pid.load(Relaxed), start) {
        return true;
    }
    // An exec ends the other threads of a process that lives on. The first one's id is then that of the thread which executes.
    if tid == who.pid.load(Relaxed) {
        p.first_ended() || ctx.host.sleeper_gone(who)
    } else {
        ctx.host.process_dead(tid, start)
    }
}

const TABLE_HEAD: u64 = 64;

/// An array of equal elements, in one block or, if it is too large, in several that a first one names. The blocks
/// are linked as a chain by their first word, so that it is freed as one.
#[derive(Clone, Copy)]
pub(crate) struct Table {
    pub(crate) root: Handle,
    count: usize,
}

impl Table {
    pub(crate) const fn per_block<E>() -> usize {
        (SPAN - TABLE_HEAD) as usize / size_of::<E>()
    }

    /// A table of `count` zeroed elements, which becomes the head of the thread's in-flight chain.
    pub(crate) fn alloc<E: Shared, T: Task>(ctx: &Ctx<'_, T>, count: usize) -> Result<Table> {
        let per = Self::per_block::<E>();
        let bytes = |n: usize| TABLE_HEAD + (n * size_of::<E>()) as u64;
        if count <= per {
            return Ok(Table { root: Self::block(ctx, bytes(count))?, count });
        }
        let blocks = count.div_ceil(per);
        if blocks > Self::per_block::<AtomicU32>() {
            return Err(Errno::ENOMEM);
        }
        // The root comes last, so that it is the chain's head; the others are found from it along the chain.
        for at in 0..blocks {
            Self::block(ctx, bytes(per.min(count - at * per)))?;
        }
        let first = Handle(ctx.slot.in_flight.chain.load(Relaxed));
        let root = Self::block(ctx, TABLE_HEAD + blocks as u64 * 4)?;
        let names = ctx.array::<AtomicU32>(root, TABLE_HEAD, blocks).or_errno()?;
        let mut block = first;
        for name in names.iter().rev() {
            name.store(block.0, Relaxed);
            block = Handle(ctx.at::<AtomicU32>(block).or_errno()?.load(Relaxed));
        }
        Ok(Table { root, count })
    }

    fn block<T: Task>(ctx: &Ctx<'_, T>, bytes: u64) -> Result<Handle> {
        let block = ctx.alloc(bytes).or_errno()?;
        #[expect(clippy::cast_possible_truncation, reason = "at most 64 KiB")]
        ctx.arena.zero(ctx.host, block, 0, bytes as usize).or_errno()?;
        ctx.chain(block).or_errno()?;
        Ok(block)
    }

    pub(crate) const fn new(root: Handle, count: usize) -> Table {
        Table { root, count }
    }

    /// Element `at`.
    #[inline(always)]
    pub(crate) fn get<'a, E: Shared, T: Task>(&self, ctx: &Ctx<'a, T>, at: usize) -> Result<Ref<'a, E>> {
        if at >= self.count {
            return Err(CORRUPT);
        }
        if self.count > Self::per_block::<E>() {
            return self.get_far(ctx, at);
        }
        ctx.element(self.root, TABLE_HEAD, at).or_errno()
    }

    /// All elements, if they are in one block.
    #[inline(always)]
    pub(crate) fn all<'a, E: Shared, T: Task>(&self, ctx: &Ctx<'a, T>) -> Option<Ref<'a, [E]>> {
        let whole = self.count <= Self::per_block::<E>();
        whole.then(|| ctx.array(self.root, TABLE_HEAD, self.count).ok())?
    }

    #[cold]
    #[inline(never)]
    fn get_far<'a, E: Shared, T: Task>(&self, ctx: &Ctx<'a, T>, at: usize) -> Result<Ref<'a, E>> {
        let per = Self::per_block::<E>();
        let names = ctx.array::<AtomicU32>(self.root, TABLE_HEAD, self.count.div_ceil(per)).or_errno()?;
        ctx.element(Handle(names[at / per].load(Relaxed)), TABLE_HEAD, at % per).or_errno()
    }
}
