//! System V shared memory.
//!
//! What users see: behaviour as in Linux, to the count of mappings and the moment at which a removed segment goes.
//! What is missing: what `SHM_LOCK` may lock is counted per namespace, not per user.
//!
//! The engine knows a segment's memory by a number only; making it, mapping it and counting who has it mapped is the
//! host's ([`Backing`](crate::Backing)). What is kept here of attachments are times, process ids, and a table per process (in its
//! slot) of what it has attached, so that its end can be noted. `nattch` is what was last known: mappings come and go
//! without us (fork, munmap, death). The host counts them when somebody asks.
//!
//! Whether a segment may go is never decided by a count: the host makes sure that the memory is not mapped, and from
//! then on can't be ([`Backing::retire_memory`](crate::Backing::retire_memory)). Whoever comes after a death in the middle finds that out again, so
//! a segment that is marked [`SHM_DEST`] can be ended by anybody.
//!
//! The segment's lock guards the segment. The tables of processes are changed by single compare-and-swaps.

use core::mem::offset_of;

use abi::{
    Errno, Result,
    ipc::{IPC_INFO, IPC_PRIVATE, IPC_RMID, IPC_SET, IPC_STAT},
    shm::{
        SHM_DEST, SHM_EXEC, SHM_HUGETLB, SHM_INFO, SHM_LOCK, SHM_LOCKED, SHM_RDONLY, SHM_REMAP, SHM_RND,
        SHM_STAT, SHM_STAT_ANY, SHM_UNLOCK, SHMLBA, SHMMIN, ShmInfo, Shmid64Ds, Shminfo64,
    },
};
use arena::{
    Class, Ctx, Handle, Lock, ProcSlot, Ref, Tx,
    sync::{AtomicI64, AtomicU32, AtomicU64, Ordering::*},
};

use crate::{
    namespace::{IpcNamespace, Limit},
    task::{MapPlace, MapRequest, NewMemory, Task},
    usage::charge_new,
    util::{
        Head, IpcIds, IpcParams, KernIpcPerm, Locked, Object, OrErrno, STATE_DYING, STATE_LIVE, STATE_NEW,
        check_owner, free_object, ipc_update_perm, ipcget, ipcperms, kernel_to_ipc64_perm, lock_object,
        new_object, obtain_object_check, obtain_object_idx, rm_id, set_dying,
    },
};

const R: u32 = 0o444;
const W: u32 = 0o222;
const X: u32 = 0o111;
/// `flags`: somebody has set about to attach it since it was last found without a mapping.
const USED: u32 = 1;
/// `flags`: it was attached for reading only at some time.
const READ_ONLY: u32 = 2;
/// `flags`: made of huge pages.
const HUGE: u32 = 4;
/// `flags`: it was mapped at some time since it was last found without a mapping.
const MAPPED: u32 = 8;
/// What a dying object is, for whoever ends its removal.
pub(crate) const KIND_SHM: u32 = 4;
const PAGE_SHIFT: u32 = 12;

arena::shared! {
    /// `shmid_kernel`.
    pub struct ShmidKernel {
        perm: KernIpcPerm,
        /// The number of the memory, 0 while there is none.
        memory: AtomicU64,
        segsz: AtomicU64,
        ctime: AtomicI64,
        lock: Lock,
        nattch: AtomicU64,
        atime: AtomicI64,
        dtime: AtomicI64,
        cpid: AtomicU32,
        lpid: AtomicU32,
        /// The thread that made it, 0 if that is known to have ended.
        creator: AtomicU32,
        /// The slot of that thread's process.
        creator_process: AtomicU32,
        flags: AtomicU32,
        /// How often somebody has set about to attach it, or has done so.
        begun: AtomicU32,
    }
}
const _: () = assert!(size_of::<ShmidKernel>() <= 256);
#[cfg(not(any(loom, shuttle)))]
const _: () = assert!(offset_of!(ShmidKernel, lock) == offset_of!(Head, lock));

type Shp<'a> = Ref<'a, ShmidKernel>;

impl Object for ShmidKernel {
    const CLASS: Class = Class::SEGMENT;
    const LIMIT: Limit = Limit::ShmMni;
    fn perm(&self) -> &KernIpcPerm {
        &self.perm
    }
    fn lock(&self) -> &Lock {
        &self.lock
    }
    fn ids(ns: &IpcNamespace) -> &IpcIds {
        &ns.shm_ids
    }
    fn holds(&self) -> u64 {
        segment_bytes(self.segsz.load(Relaxed))
    }
    /// A removed segment that is still attached has no key any more.
    fn has_key(&self) -> bool {
        !self.is_removed()
    }
    fn finish_pending<T: Task>(_: &mut Tx<'_, '_, T>, _: &Ref<'_, Self>) -> Result<()> {
        Ok(())
    }
}

impl ShmidKernel {
    fn is_removed(&self) -> bool {
        self.perm.mode.load(Relaxed) & SHM_DEST != 0
    }

    fn pages(&self) -> u64 {
        pages(self.segsz.load(Relaxed))
    }

    fn is(&self, flag: u32) -> bool {
        self.flags.load(Relaxed) & flag != 0
    }
}

/// Bytes that a segment of that size holds.
const fn segment_bytes(size: u64) -> u64 {
    size.saturating_add(size_of::<ShmidKernel>() as u64)
}

fn pages(size: u64) -> u64 {
    size.div_ceil(1 << PAGE_SHIFT)
}

// ---- shmget

/// `shmget(2)`.
///
/// # Errors
/// `EINVAL ENOENT EEXIST EACCES ENOSPC ENOMEM EPERM`, and those of making memory.
pub fn do_shmget<T: Task>(ctx: &Ctx<'_, T>, key: i32, size: u64, flags: i32) -> Result<i32> {
    match try_shmget(ctx, key, size, flags) {
        // What the dead have left may be all that stands in the way.
        Err(Errno::ENOSPC) if ctx.host.settle(None).is_ok() => try_shmget(ctx, key, size, flags),
        done => done,
    }
}

fn try_shmget<T: Task>(ctx: &Ctx<'_, T>, key: i32, size: u64, flags: i32) -> Result<i32> {
    let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
    ipcget::<ShmidKernel, T>(
        ctx,
        &IpcParams { key, flags },
        |shp| if size > shp.segsz.load(Relaxed) { Err(Errno::EINVAL) } else { Ok(()) },
        || newseg(ctx, &ns, key, size, flags),
        |shp| {
            let memory = shp.memory.swap(0, Relaxed);
            ctx.host.drop_memory(memory);
            ctx.free(shp.handle());
        },
        |tx, ids| {
            let used = room_for(&ns, ids, size)?;
            tx.set(ids, |i| &i.used, used);
            Ok(())
        },
    )
}

/// The pages in use with a segment of `size` more; `ENOSPC` if that is too many.
fn room_for(ns: &IpcNamespace, ids: &IpcIds, size: u64) -> Result<u64> {
    let most = ns.shm_ctlall.load(Relaxed);
    ids.used.load(Relaxed).checked_add(pages(size)).filter(|used| *used <= most).ok_or(Errno::ENOSPC)
}

fn newseg<'a, T: Task>(
    ctx: &Ctx<'a, T>,
    ns: &IpcNamespace,
    key: i32,
    size: u64,
    flags: i32,
) -> Result<Shp<'a>> {
    if size < SHMMIN || size > ns.shm_ctlmax.load(Relaxed) {
        return Err(Errno::EINVAL);
    }
    if pages(size) << PAGE_SHIFT < size {
        return Err(Errno::ENOSPC);
    }
    room_for(ns, &ns.shm_ids, size)?;
    charge_new(ctx, segment_bytes(size))?;
    let shp: Shp<'a> = new_object(ctx, flags)?;
    for place in [&shp.memory, &shp.nattch] {
        place.store(0, Relaxed);
    }
    for place in [&shp.atime, &shp.dtime] {
        place.store(0, Relaxed);
    }
    shp.segsz.store(size, Relaxed);
    shp.ctime.store(ctx.host.now(), Relaxed);
    shp.cpid.store(ctx.host.tgid(), Relaxed);
    shp.lpid.store(0, Relaxed);
    shp.creator.store(ctx.host.caller(), Relaxed);
    shp.creator_process.store(ctx.host.process().0, Relaxed);
    shp.flags.store(if flags & SHM_HUGETLB == 0 { 0 } else { HUGE }, Relaxed);
    shp.begun.store(0, Relaxed);
    if let Ok(process) = ctx.at::<ProcSlot>(ctx.host.process()) {
        process.made_segments.store(1, Relaxed);
    }
    // The keeper holds the memory as long as the segment names it: so it is named first, and handed over then.
    let made = ctx.host.make_memory(NewMemory { key, size, flags }, |memory| {
        shp.memory.store(memory, Release);
        shp.handle()
    });
    match made {
        Ok(()) => Ok(shp),
        Err(error) => {
            shp.memory.store(0, Relaxed);
            ctx.free(shp.handle());
            Err(error)
        }
    }
}

// ---- looking up

/// The segment of an identifier, locked. One that is removed and has lost its last mapping unseen is destroyed first.
fn obtain<'c, 'a, T: Task>(ctx: &'c Ctx<'a, T>, id: i32) -> Result<Locked<'c, 'a, ShmidKernel, T>> {
    let locked = obtain_object_check::<ShmidKernel, T>(ctx, id)?;
    if !locked.object.is_removed() {
        return Ok(locked);
    }
    let shp = locked.object;
    drop(locked);
    destroy_unmapped(ctx, &shp, id)?;
    obtain_object_check::<ShmidKernel, T>(ctx, id)
}

/// Whether a segment with this mode goes with its last mapping.
fn may_destroy(ns: &IpcNamespace, shp: &ShmidKernel) -> bool {
    shp.is_removed() || ns.limit(Limit::ShmRmidForced) != 0
}

// ---- shmat, shmdt

/// Where `shmat` is to map.
fn place(addr: u64, flags: i32) -> Result<MapPlace> {
    let remap = flags & SHM_REMAP != 0;
    if addr == 0 {
        return if remap { Err(Errno::EINVAL) } else { Ok(MapPlace::Anywhere) };
    }
    let rounded = addr & !(SHMLBA - 1);
    if rounded != addr && (flags & SHM_RND == 0 || rounded == 0 && remap) {
        return Err(Errno::EINVAL);
    }
    // Rounded down to nothing, it is a fixed place all the same.
    Ok(if remap || rounded == 0 { MapPlace::Over(rounded) } else { MapPlace::Free(rounded) })
}

/// `shmat(2)`: returns where it is attached.
///
/// # Errors
/// `EINVAL EACCES EIDRM ENOMEM`, and those of mapping.
pub fn do_shmat<T: Task>(ctx: &Ctx<'_, T>, id: i32, addr: u64, flags: i32) -> Result<u64> {
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    let place = place(addr, flags)?;
    let write = flags & SHM_RDONLY == 0;
    let execute = flags & SHM_EXEC != 0;
    let (memory, size) = shmat_begin(ctx, id, write, execute)?;
    let mapped = match place {
        // The kernel adds up what was asked for, not whole pages.
        MapPlace::Free(at) if at.checked_add(size).is_none() => Err(Errno::EINVAL),
        _ => {
            let wanted = MapRequest { id, memory, place, write, execute };
            ctx.host.map_memory(&wanted, |id, whole| unmapped(ctx, id, whole))
        }
    };
    match mapped {
        Ok(at) => shmat_done(ctx, id, write).map(|()| at).inspect_err(|_| {
            let _ = ctx.host.unmap_memory(at, |_| Some((id, 0)));
        }),
        Err(error) => {
            let lives = obtain_object_check::<ShmidKernel, T>(ctx, id).is_ok();
            // With `shm_rmid_forced`, one that nobody has attached goes.
            let _ = destroy_if_over(ctx, id);
            Err(if lives { error } else { Errno::EIDRM })
        }
    }
}

/// The memory of a segment and its size, if the caller may attach it so.
fn shmat_begin<T: Task>(ctx: &Ctx<'_, T>, id: i32, write: bool, execute: bool) -> Result<(u64, u64)> {
    let Locked { object: shp, mut tx } = obtain(ctx, id)?;
    let wanted = R | if write { W } else { 0 } | if execute { X } else { 0 };
    ipcperms(ctx.host, &shp.perm, wanted)?;
    note_use(&mut tx, &shp, if write { 0 } else { READ_ONLY });
    tx.commit();
    Ok((shp.memory.load(Relaxed), shp.segsz.load(Relaxed)))
}

/// Notes that somebody attaches a segment: a count that was begun before does not say whether it is attached.
fn note_use<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, shp: &Shp<'a>, how: u32) {
    tx.set(shp, |s| &s.flags, shp.flags.load(Relaxed) | USED | how);
    tx.set(shp, |s| &s.begun, shp.begun.load(Relaxed).wrapping_add(1));
}

/// Counts an attachment that is mapped.
fn shmat_done<T: Task>(ctx: &Ctx<'_, T>, id: i32, write: bool) -> Result<()> {
    if let Ok(process) = ctx.at::<ProcSlot>(ctx.host.process()) {
        table_add(&process, id, 1);
    }
    let locked = obtain_object_check::<ShmidKernel, T>(ctx, id);
    let Locked { object: shp, mut tx } =
        locked.map_err(|e| if e == Errno::EINVAL { Errno::EIDRM } else { e })?;
    tx.set(&shp, |s| &s.nattch, shp.nattch.load(Relaxed) + 1);
    note_use(&mut tx, &shp, MAPPED | if write { 0 } else { READ_ONLY });
    tx.set(&shp, |s| &s.atime, ctx.host.now());
    tx.set(&shp, |s| &s.lpid, ctx.host.tgid());
    tx.commit();
    Ok(())
}

/// Stands for the identifier of what is attached and is of a namespace that the process has left.
pub const ELSEWHERE: i32 = -1;

/// `shmdt(2)`.
///
/// # Errors
/// `EINVAL`.
pub fn do_shmdt<T: Task>(ctx: &Ctx<'_, T>, addr: u64) -> Result<()> {
    if !addr.is_multiple_of(SHMLBA) {
        return Err(Errno::EINVAL);
    }
    let id = ctx.host.unmap_memory(addr, |memory| find_memory(ctx, memory).unwrap_or(None))?;
    if id == ELSEWHERE {
        return Ok(());
    }
    let process = ctx.at::<ProcSlot>(ctx.host.process());
    let is_known = process.is_ok_and(|process| table_take(&process, id, 1));
    // Which one it had is what a stranger says. Of what is not known to be its, it may say what it could bring about by attaching it as well.
    if is_known || !T::HAS_QUOTAS || may_attach(ctx, id) {
        let _ = detach(ctx, id, u64::from(is_known || !T::HAS_QUOTAS), ctx.host.tgid());
    }
    Ok(())
}

/// Whether the caller could attach a segment, at least for reading.
fn may_attach<T: Task>(ctx: &Ctx<'_, T>, id: i32) -> bool {
    let found = obtain_object_check::<ShmidKernel, T>(ctx, id);
    found.is_ok_and(|found| ipcperms(ctx.host, &found.object.perm, R).is_ok())
}

/// The calling process has unmapped an attachment by itself, wholly or in part.
pub fn unmapped<T: Task>(ctx: &Ctx<'_, T>, id: i32, whole: bool) {
    if id == ELSEWHERE {
        return;
    }
    if whole && let Ok(process) = ctx.at::<ProcSlot>(ctx.host.process()) {
        table_take(&process, id, 1);
    }
    let _ = detach(ctx, id, u64::from(whole), ctx.host.tgid());
}

/// As [`unmapped`], by the number of the memory.
pub fn unmapped_memory<T: Task>(ctx: &Ctx<'_, T>, memory: u64, whole: bool) {
    if let Ok(Some((id, _))) = find_memory(ctx, memory) {
        unmapped(ctx, id, whole);
    }
}

/// Notes that a process has lost `count` mappings of a segment, which may be the last ones.
fn detach<T: Task>(ctx: &Ctx<'_, T>, id: i32, count: u64, pid: u32) -> Result<()> {
    let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
    let Locked { object: shp, mut tx } = obtain_object_check::<ShmidKernel, T>(ctx, id)?;
    tx.set(&shp, |s| &s.nattch, shp.nattch.load(Relaxed).saturating_sub(count));
    tx.set(&shp, |s| &s.dtime, ctx.host.now());
    tx.set(&shp, |s| &s.lpid, pid);
    tx.commit();
    drop(tx);
    if may_destroy(&ns, &shp) {
        destroy_unmapped(ctx, &shp, id)?;
    }
    Ok(())
}

/// The segment whose memory this is, if one is left, and its bytes up to a whole page. For mappings that were found, not remembered.
fn find_memory<T: Task>(ctx: &Ctx<'_, T>, memory: u64) -> Result<Option<(i32, u64)>> {
    let mut found = None;
    each(ctx, |id, shp| {
        if shp.memory.load(Relaxed) == memory {
            found = Some((id, shp.pages() << PAGE_SHIFT));
        }
    })?;
    Ok(found)
}

/// Looks at every segment, each under its lock.
fn each<'a, T: Task>(ctx: &Ctx<'a, T>, mut look: impl FnMut(i32, &Shp<'a>)) -> Result<()> {
    let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
    let mut idx = 0;
    while let Some(used) = ns.shm_ids.next_used(idx) {
        idx = used + 1;
        #[expect(clippy::cast_possible_wrap, reason = "below IPCMNI")]
        if let Ok((id, locked)) = obtain_object_idx::<ShmidKernel, T>(ctx, used as i32) {
            look(id, &locked.object);
        }
    }
    Ok(())
}

// ---- what processes have attached

fn entry_id(entry: u64) -> Option<i32> {
    i32::try_from((entry >> 32).checked_sub(1)?).ok()
}

fn change(slot: &ProcSlot, id: i32, to: impl Fn(u64) -> u64) -> bool {
    slot.attached.iter().any(|place| {
        let mut seen = place.load(Relaxed);
        while entry_id(seen) == Some(id) {
            match place.compare_exchange(seen, to(seen), AcqRel, Relaxed) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    })
}

fn table_add(slot: &ProcSlot, id: i32, count: u64) {
    let new = (u64::from(id.cast_unsigned()) + 1) << 32 | count;
    let added = change(slot, id, |entry| entry + count)
        || slot.attached.iter().any(|p| p.compare_exchange(0, new, AcqRel, Relaxed).is_ok());
    if !added {
        slot.attached_more.store(1, Relaxed);
    }
}

fn table_take(slot: &ProcSlot, id: i32, count: u64) -> bool {
    change(slot, id, |entry| if entry & u64::from(u32::MAX) <= count { 0 } else { entry - count })
}

/// The identifiers that a process has attached, and how often.
fn table(slot: &ProcSlot) -> impl Iterator<Item = (i32, u64)> + '_ {
    let entry = |place: &AtomicU64| {
        let entry = place.load(Acquire);
        entry_id(entry).map(|id| (id, entry & u64::from(u32::MAX)))
    };
    slot.attached.iter().filter_map(entry)
}

/// The calling process is about to fork: the child's mappings count as attached by it, now.
pub fn fork_begin<T: Task>(ctx: &Ctx<'_, T>) {
    let Ok(process) = ctx.at::<ProcSlot>(ctx.host.process()) else { return };
    for (id, _) in table(&process) {
        if let Ok(Locked { object: shp, mut tx }) = obtain_object_check::<ShmidKernel, T>(ctx, id) {
            tx.set(&shp, |s| &s.atime, ctx.host.now());
            tx.set(&shp, |s| &s.lpid, ctx.host.tgid());
            tx.commit();
        }
    }
}

/// A forked process has what its parent had: these segments, one for each mapping, and perhaps more.
pub fn inherit<T: Task>(ctx: &Ctx<'_, T>, child: Handle, ids: &[i32], more: bool) {
    let Ok(child) = ctx.at::<ProcSlot>(child) else { return };
    child.attached_more.fetch_or(more.into(), Relaxed);
    for (place, id) in ids.iter().enumerate() {
        // What was found already is known.
        if !ids[..place].contains(id) && table(&child).all(|(known, _)| known != *id) {
            table_add(&child, *id, ids.iter().filter(|other| *other == id).count() as u64);
        }
    }
}

/// A process was found to have a segment mapped.
pub fn found_attached<T: Task>(ctx: &Ctx<'_, T>, process: Handle, id: i32) {
    if !has_attached(ctx, process, id)
        && let Ok(slot) = ctx.at::<ProcSlot>(process)
    {
        table_add(&slot, id, 1);
    }
}

/// A forked process has ended before anybody could note what it had.
pub fn inherited_and_ended<T: Task>(ctx: &Ctx<'_, T>, ids: &[i32], pid: u32) {
    for id in ids {
        let _ = detach(ctx, *id, 0, pid);
    }
}

/// A process has ended or begun another program: nothing is attached any more.
pub fn detach_all<T: Task>(ctx: &Ctx<'_, T>, process: Handle) {
    let Ok(slot) = ctx.at::<ProcSlot>(process) else { return };
    let pid = slot.pid.load(Relaxed);
    for (id, count) in table(&slot) {
        table_take(&slot, id, count);
        let _ = detach(ctx, id, count, pid);
    }
    if slot.attached_more.swap(0, Relaxed) != 0 {
        let _ = sweep(ctx);
    }
}

/// The segments that a process is known to have attached.
pub fn attached<'a, T: Task>(ctx: &Ctx<'a, T>, process: Handle) -> impl Iterator<Item = i32> + use<'a, T> {
    let slot = ctx.at::<ProcSlot>(process).ok();
    let entries = slot.map(|slot| {
        (0..slot.get().attached.len()).filter_map(move |i| entry_id(slot.attached[i].load(Acquire)))
    });
    entries.into_iter().flatten()
}

/// Whether a process may have any segment attached.
pub(crate) fn has_attachments<T: Task>(ctx: &Ctx<'_, T>, process: Handle) -> bool {
    let slot = ctx.at::<ProcSlot>(process);
    slot.is_ok_and(|slot| slot.attached_more.load(Relaxed) != 0 || table(&slot).next().is_some())
}

/// Whether a process is known to have a segment attached.
pub fn has_attached<T: Task>(ctx: &Ctx<'_, T>, process: Handle, id: i32) -> bool {
    attached(ctx, process).any(|i| i == id)
}

/// How often a process has a segment attached, for all that it has told.
pub fn attached_by<T: Task>(ctx: &Ctx<'_, T>, process: Handle, id: i32) -> u64 {
    let count = |slot: Ref<'_, ProcSlot>| table(&slot).find(|(i, _)| *i == id).map(|(_, count)| count);
    ctx.at::<ProcSlot>(process).ok().and_then(count).unwrap_or(0)
}

/// A process that had a segment attached has no mapping of it any more: it was unmapped unseen.
pub fn detached_unseen<T: Task>(ctx: &Ctx<'_, T>, process: Handle, id: i32) {
    let Ok(slot) = ctx.at::<ProcSlot>(process) else { return };
    if table_take(&slot, id, u64::from(u32::MAX)) {
        let _ = detach(ctx, id, 0, slot.pid.load(Relaxed));
    }
}

/// A count of a segment's mappings that has begun.
#[derive(Clone, Copy, Debug)]
pub struct Counting {
    /// The number of the memory.
    pub memory: u64,
    begun: u32,
}

/// Begins to count a segment's mappings, for [`set_nattch`].
///
/// # Errors
/// `EINVAL` if the segment is gone.
pub fn begin_count<T: Task>(ctx: &Ctx<'_, T>, id: i32) -> Result<Counting> {
    let shp = obtain_object_check::<ShmidKernel, T>(ctx, id)?.object;
    Ok(Counting { memory: shp.memory.load(Relaxed), begun: shp.begun.load(Relaxed) })
}

/// Records how many mappings there are, or were: who has attached it since the count began may not be counted.
///
/// # Errors
/// `EINVAL` if the segment is gone.
pub fn set_nattch<T: Task>(ctx: &Ctx<'_, T>, id: i32, counting: Counting, count: u64) -> Result<()> {
    let Locked { object: shp, mut tx } = obtain_object_check::<ShmidKernel, T>(ctx, id)?;
    tx.set(&shp, |s| &s.nattch, count);
    // One that was never attached has lost nothing.
    let is_over = shp.is_removed() || count == 0 && shp.is(MAPPED);
    if count == 0 && shp.begun.load(Relaxed) == counting.begun {
        // Who began before the count may map it for reading only now, so that is not forgotten.
        tx.set(&shp, |s| &s.flags, shp.flags.load(Relaxed) & !(USED | MAPPED));
    }
    tx.commit();
    drop(tx);
    if is_over { destroy_if_over(ctx, id) } else { Ok(()) }
}

/// The number of a segment's memory.
///
/// # Errors
/// `EINVAL` if the segment is gone.
pub fn memory_of<T: Task>(ctx: &Ctx<'_, T>, id: i32) -> Result<u64> {
    Ok(obtain_object_check::<ShmidKernel, T>(ctx, id)?.object.memory.load(Relaxed))
}

/// How many bytes of a segment's memory are resident, and how many are swapped out.
///
/// # Errors
/// `EINVAL` if the segment is gone; if it can't be found out.
pub fn memory_usage<T: Task>(ctx: &Ctx<'_, T>, id: i32) -> Result<(u64, u64)> {
    let (resident, swapped) = ctx.host.memory_usage(memory_of(ctx, id)?)?;
    Ok((resident << PAGE_SHIFT, swapped << PAGE_SHIFT))
}

/// Whether the object at `segment` is a segment with this memory, or, while `maker_lives`, becomes one. Without a lock: for the keeper of
/// memory, which asks again.
pub fn needs_memory<T: Task>(
    ctx: &Ctx<'_, T>,
    segment: Handle,
    memory: u64,
    maker_lives: impl FnOnce() -> bool,
) -> bool {
    let named = |shp: &ShmidKernel| shp.memory.load(Acquire) == memory;
    let is_made = |shp: &ShmidKernel| matches!(shp.perm.state.load(Relaxed), STATE_LIVE | STATE_NEW);
    ctx.at::<ShmidKernel>(segment).is_ok_and(|s| named(&s) && (is_made(&s) || maker_lives()))
}

/// Whether the segment there is to be kept from being swapped out. For the keeper of memory.
pub fn is_locked<T: Task>(ctx: &Ctx<'_, T>, segment: Handle) -> bool {
    ctx.at::<ShmidKernel>(segment).is_ok_and(|s| s.perm.mode.load(Relaxed) & SHM_LOCKED != 0)
}

// ---- the end of a segment

/// Destroys a segment that goes with its last mapping, if that is gone.
fn destroy_if_over<T: Task>(ctx: &Ctx<'_, T>, id: i32) -> Result<()> {
    let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
    let shp = obtain_object_check::<ShmidKernel, T>(ctx, id)?.object;
    if may_destroy(&ns, &shp) { destroy_unmapped(ctx, &shp, id) } else { Ok(()) }
}

/// Destroys a segment unless somebody has it mapped.
fn destroy_unmapped<'a, T: Task>(ctx: &Ctx<'a, T>, shp: &Shp<'a>, id: i32) -> Result<()> {
    let memory = shp.memory.load(Relaxed);
    if !ctx.host.retire_memory(memory, shp.is(READ_ONLY).then_some(id))? {
        return Ok(());
    }
    let Locked { object: shp, mut tx } = lock_object(ctx, *shp)?;
    let perm = &shp.perm;
    if perm.id.load(Relaxed) != id
        || perm.state.load(Relaxed) != STATE_LIVE
        || shp.memory.load(Relaxed) != memory
    {
        return Ok(());
    }
    set_dying(&mut tx, &shp, KIND_SHM);
    drop(tx);
    freeseg(ctx, &shp)
}

/// The segment of a handle, for whoever puts right what the dead left.
pub(crate) fn segment<'a, T: Task>(ctx: &Ctx<'a, T>, handle: Handle) -> Result<Shp<'a>> {
    ctx.at(handle).or_errno()
}

/// Ends the removal of a dying segment, from wherever it stands.
pub(crate) fn freeseg<'a, T: Task>(ctx: &Ctx<'a, T>, shp: &Shp<'a>) -> Result<()> {
    if shp.perm.state.load(Relaxed) != STATE_DYING {
        return Ok(());
    }
    let size = shp.pages();
    rm_id(ctx, shp, |tx, ids| {
        tx.set(ids, |i| &i.used, ids.used.load(Relaxed).saturating_sub(size));
    })?;
    ctx.host.drop_memory(shp.memory.swap(0, Relaxed));
    free_object(ctx, shp);
    Ok(())
}

/// Destroys what is over: removed segments that nobody maps; with `shm_rmid_forced`, also those that lost their last
/// mapping, and orphans that nobody maps. Returns whether there are some for which this must be asked again.
///
/// # Errors
/// `EIDRM` if the namespace makes no sense.
pub fn sweep<T: Task>(ctx: &Ctx<'_, T>) -> Result<bool> {
    let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
    let forced = ns.limit(Limit::ShmRmidForced) != 0;
    let mut left = forced && ns.shm_ids.in_use() != 0;
    let mut idx = 0;
    while let Some(used) = ns.shm_ids.next_used(idx) {
        idx = used + 1;
        #[expect(clippy::cast_possible_wrap, reason = "below IPCMNI")]
        let Ok((id, locked)) = obtain_object_idx::<ShmidKernel, T>(ctx, used as i32) else { continue };
        let shp = locked.object;
        drop(locked);
        if shp.is_removed() || forced && (shp.is(MAPPED) || is_orphan(ctx, &shp)) {
            let _ = destroy_unmapped(ctx, &shp, id);
            left |= shp.is_removed() && shp.perm.state.load(Relaxed) == STATE_LIVE;
        }
    }
    Ok(left)
}

/// `kernel.shm_rmid_forced` is about to get a value. What has lost its last mapping before it becomes 1 is not destroyed for that:
/// the segments that nobody maps now are found out.
pub(crate) fn will_force<T: Task>(ctx: &Ctx<'_, T>, value: i32) -> Result<()> {
    let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
    if value == 0 || ns.limit(Limit::ShmRmidForced) != 0 {
        return Ok(());
    }
    let mut idx = 0;
    while let Some(used) = ns.shm_ids.next_used(idx) {
        idx = used + 1;
        #[expect(clippy::cast_possible_wrap, reason = "below IPCMNI")]
        let Ok((id, locked)) = obtain_object_idx::<ShmidKernel, T>(ctx, used as i32) else { continue };
        let shp = locked.object;
        drop(locked);
        if shp.is(MAPPED) {
            let _ = ctx.host.settle(Some(id));
        }
    }
    Ok(())
}

/// Destroys orphans that nobody maps, if `shm_rmid_forced` says so, and has them looked at from then on.
pub(crate) fn destroy_orphans<T: Task>(ctx: &Ctx<'_, T>) -> Result<()> {
    let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
    if ns.limit(Limit::ShmRmidForced) != 0 && sweep(ctx)? {
        ctx.host.watch_removed();
    }
    Ok(())
}

/// Whether the thread that made a segment has ended.
fn is_orphan<T: Task>(ctx: &Ctx<'_, T>, shp: &ShmidKernel) -> bool {
    let creator = shp.creator.load(Relaxed);
    let start = || {
        let process = ctx.at::<ProcSlot>(Handle(shp.creator_process.load(Relaxed)));
        process.map_or(0, |p| p.start.load(Relaxed))
    };
    creator == 0 || ctx.host.process_dead(creator, start())
}

/// A process has ended: what it had attached is detached, what it made has no creator any more.
pub(crate) fn exit_process<T: Task>(ctx: &Ctx<'_, T>, process: Handle) -> Result<()> {
    detach_all(ctx, process);
    exit_shm(ctx, process)
}

/// `exit_shm`: what a process made has no creator any more.
pub(crate) fn exit_shm<T: Task>(ctx: &Ctx<'_, T>, process: Handle) -> Result<()> {
    let slot = ctx.at::<ProcSlot>(process).or_errno()?;
    if slot.made_segments.load(Relaxed) == 0 {
        return Ok(());
    }
    each(ctx, |_, shp| {
        if shp.creator_process.load(Relaxed) == process.0 {
            shp.creator.store(0, Relaxed);
            shp.creator_process.store(0, Relaxed);
        }
    })?;
    slot.made_segments.store(0, Relaxed);
    let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
    if ns.limit(Limit::ShmRmidForced) != 0 {
        sweep(ctx)?;
    }
    Ok(())
}

// ---- shmctl

/// Checks that every `shmctl` makes first.
///
/// # Errors
/// `EINVAL` for a negative identifier or command, or an unknown command.
pub fn check_shmctl(id: i32, cmd: i32) -> Result<()> {
    let known = matches!(
        cmd,
        IPC_RMID | IPC_SET | IPC_STAT | IPC_INFO | SHM_LOCK | SHM_UNLOCK | SHM_STAT | SHM_INFO | SHM_STAT_ANY
    );
    if id < 0 || !known { Err(Errno::EINVAL) } else { Ok(()) }
}

/// `shmctl(IPC_STAT)`, `SHM_STAT`, `SHM_STAT_ANY`: the structure, and what the call returns.
///
/// # Errors
/// `EINVAL EACCES`.
pub fn shmctl_stat<T: Task>(ctx: &Ctx<'_, T>, id: i32, cmd: i32) -> Result<(i32, Shmid64Ds)> {
    let find = |id| {
        if cmd == IPC_STAT {
            Ok((id, obtain_object_check::<ShmidKernel, T>(ctx, id)?))
        } else {
            obtain_object_idx::<ShmidKernel, T>(ctx, id)
        }
    };
    let (mut found, mut locked) = find(id)?;
    let mut counted = None;
    let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
    if locked.object.is(USED) || may_destroy(&ns, &locked.object) {
        // Who has it mapped is known for sure only to those who look. No lock may be held over that.
        drop(locked);
        counted = ctx.host.settle(Some(found)).ok().map(|(count, _)| count);
        (found, locked) = find(id)?;
    }
    let shp = locked.object;
    if cmd != SHM_STAT_ANY {
        ipcperms(ctx.host, &shp.perm, R)?;
    }
    let mut stat = status(&shp);
    stat.shm_nattch = counted.unwrap_or(stat.shm_nattch);
    Ok((if cmd == IPC_STAT { 0 } else { found }, stat))
}

fn status(shp: &ShmidKernel) -> Shmid64Ds {
    let mut shm_perm = kernel_to_ipc64_perm(&shp.perm);
    if shp.is_removed() {
        shm_perm.key = IPC_PRIVATE;
    }
    Shmid64Ds {
        shm_perm,
        shm_segsz: shp.segsz.load(Relaxed),
        shm_atime: shp.atime.load(Relaxed),
        shm_dtime: shp.dtime.load(Relaxed),
        shm_ctime: shp.ctime.load(Relaxed),
        shm_cpid: shp.cpid.load(Relaxed).cast_signed(),
        shm_lpid: shp.lpid.load(Relaxed).cast_signed(),
        shm_nattch: shp.nattch.load(Relaxed),
        ..Shmid64Ds::default()
    }
}

/// `shmctl(IPC_INFO)`: the structure, and the highest index in use.
///
/// # Errors
/// `EIDRM` if the namespace makes no sense.
pub fn shmctl_ipc_info<T: Task>(ctx: &Ctx<'_, T>) -> Result<(i32, Shminfo64)> {
    let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
    let shmmni = u64::try_from(ns.limit(Limit::ShmMni)).unwrap_or(0);
    let info = Shminfo64 {
        shmmax: ns.shm_ctlmax.load(Relaxed),
        shmmin: SHMMIN,
        shmmni,
        shmseg: shmmni,
        shmall: ns.shm_ctlall.load(Relaxed),
        ..Shminfo64::default()
    };
    Ok((ns.shm_ids.max_idx(), info))
}

/// `shmctl(SHM_INFO)`: the structure, and the highest index in use.
///
/// # Errors
/// `EIDRM` if the namespace makes no sense.
pub fn shmctl_shm_info<T: Task>(ctx: &Ctx<'_, T>) -> Result<(i32, ShmInfo)> {
    let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
    // What is over goes first.
    let (shm_rss, shm_swp) =
        if ns.shm_ids.in_use() == 0 { (0, 0) } else { ctx.host.settle(None).unwrap_or((0, 0)) };
    let info = ShmInfo {
        used_ids: ns.shm_ids.in_use().cast_signed(),
        shm_tot: ns.shm_ids.used.load(Relaxed),
        shm_rss,
        shm_swp,
        ..ShmInfo::default()
    };
    Ok((ns.shm_ids.max_idx(), info))
}

/// `shmctl(IPC_SET)`.
///
/// # Errors
/// `EINVAL EPERM`.
pub fn shmctl_set<T: Task>(ctx: &Ctx<'_, T>, id: i32, set: &Shmid64Ds) -> Result<()> {
    let Locked { object: shp, mut tx } = obtain(ctx, id)?;
    check_owner(ctx.host, &shp.perm)?;
    ipc_update_perm(&mut tx, &shp, set.shm_perm.uid, set.shm_perm.gid, set.shm_perm.mode)?;
    tx.set(&shp, |s| &s.ctime, ctx.host.now());
    tx.commit();
    Ok(())
}

/// `shmctl(IPC_RMID)`. The key is free at once; the segment goes when nobody has it mapped.
///
/// # Errors
/// `EINVAL EPERM`.
pub fn shmctl_rmid<T: Task>(ctx: &Ctx<'_, T>, id: i32) -> Result<()> {
    let Locked { object: shp, mut tx } = obtain(ctx, id)?;
    check_owner(ctx.host, &shp.perm)?;
    let perm = shp.part(|s| &s.perm);
    tx.set(&perm, |p| &p.mode, perm.mode.load(Relaxed) | SHM_DEST);
    tx.commit();
    drop(tx);
    // If it can't be found out now, the broker does.
    let _ = destroy_unmapped(ctx, &shp, id);
    if shp.perm.state.load(Relaxed) == STATE_LIVE && shp.perm.id.load(Relaxed) == id {
        ctx.host.watch_removed();
    }
    Ok(())
}

/// `shmctl(SHM_LOCK)` and `SHM_UNLOCK`.
///
/// # Errors
/// `EINVAL EPERM ENOMEM`.
pub fn shmctl_lock<T: Task>(ctx: &Ctx<'_, T>, id: i32, lock: bool) -> Result<()> {
    let locked_pages = || {
        let mut sum = 0u64;
        each(ctx, |_, shp| {
            if shp.perm.mode.load(Relaxed) & SHM_LOCKED != 0 {
                sum = sum.saturating_add(shp.pages());
            }
        })
        .map(|()| sum)
    };
    let cred = ctx.host.cred();
    let limit = ctx.host.memlock_limit();
    let before = if lock && !cred.ipc_lock && limit != u64::MAX { locked_pages()? } else { 0 };
    let Locked { object: shp, mut tx } = obtain(ctx, id)?;
    let perm = shp.part(|s| &s.perm);
    let mode = perm.mode.load(Relaxed);
    if !cred.ipc_lock {
        if cred.euid != perm.uid.load(Relaxed) && cred.euid != perm.cuid.load(Relaxed) {
            return Err(Errno::EPERM);
        }
        if lock && limit == 0 {
            return Err(Errno::EPERM);
        }
    }
    if shp.is(HUGE) {
        return Ok(());
    }
    if lock
        && mode & SHM_LOCKED == 0
        && !cred.ipc_lock
        && before.saturating_add(shp.pages()) > limit >> PAGE_SHIFT
    {
        return Err(Errno::ENOMEM);
    }
    if (mode & SHM_LOCKED != 0) == lock {
        return Ok(());
    }
    tx.set(&perm, |p| &p.mode, mode ^ SHM_LOCKED);
    tx.commit();
    drop(tx);
    let memory = shp.memory.load(Relaxed);
    if ctx.host.lock_memory(memory, lock).is_err() && lock {
        // It is removed meanwhile, or whoever keeps it may not lock so much.
        let Locked { object: shp, mut tx } = obtain(ctx, id)?;
        let perm = shp.part(|s| &s.perm);
        tx.set(&perm, |p| &p.mode, perm.mode.load(Relaxed) & !SHM_LOCKED);
        tx.commit();
        return Err(Errno::ENOMEM);
    }
    Ok(())
}
