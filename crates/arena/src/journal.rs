//! Changes that happen wholly or not at all.
//!
//! A [`Tx`] holds one lock. Each change first records where it is made and what was there; one store commits. If the
//! task dies before, the next owner of the lock finds the log through the lock's holder word and rolls back.
//! A commit can name one waiter to be completed: that completion then happens too, by the task itself or by
//! whoever recovers.

use core::mem::ManuallyDrop;

use crate::{
    ArenaError, Class, Ctx, Handle, Host, Lock, Phase, Ref, Result, Shared, ThreadSlot, Waiter,
    slab::SPAN,
    slots::{LOG_EXTENTS, LOG_INLINE, WAKES},
    sync::{AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering::*, ordered},
};

const NARROW: u64 = 1 << 63;
/// Entries of one extension block.
const PER_EXTENT: usize = SPAN as usize / 16;

/// An atomic that a transaction can change.
pub trait Word: Shared {
    /// What it holds.
    type Value: Copy;
    #[doc(hidden)]
    const FLAG: u64;
    #[doc(hidden)]
    fn raw(&self) -> u64;
    #[doc(hidden)]
    fn holds(&self, value: Self::Value) -> bool;
    #[doc(hidden)]
    fn put(&self, value: Self::Value);
}

macro_rules! word {
    ($atomic:ty, $value:ty, $bits:ty, $flag:expr) => {
        impl Word for $atomic {
            type Value = $value;
            const FLAG: u64 = $flag;
            #[inline(always)]
            fn raw(&self) -> u64 {
                self.load(Relaxed) as $bits as u64
            }
            #[inline(always)]
            fn holds(&self, value: $value) -> bool {
                self.load(Relaxed) == value
            }
            #[inline(always)]
            fn put(&self, value: $value) {
                self.store(value, Relaxed);
            }
        }
    };
}
word!(AtomicU32, u32, u32, NARROW);
word!(AtomicI32, i32, u32, NARROW);
word!(AtomicU64, u64, u64, 0);
word!(AtomicI64, i64, u64, 0);

/// A lock that is held, and the changes made under it. Dropped without [`Tx::commit`], it takes them back.
#[must_use = "dropping it at once releases the lock"]
pub struct Tx<'c, 'a, H: Host> {
    ctx: &'c Ctx<'a, H>,
    lock: Ref<'a, Lock>,
    entries: usize,
}

impl<'c, 'a, H: Host> Tx<'c, 'a, H> {
    #[inline(always)]
    pub(crate) fn begin(ctx: &'c Ctx<'a, H>, lock: Ref<'a, Lock>) -> Result<Self> {
        ctx.slot.locked.store(lock.offset(), Relaxed);
        ordered(ctx.host);
        if let Some(dead) = lock.acquire(ctx.host, lock.offset()) {
            recover(ctx, dead);
        }
        lock.set_holder(ctx.host, ctx.slot.handle());
        Ok(Tx { ctx, lock, entries: 0 })
    }

    /// The context it was begun in.
    #[inline(always)]
    pub fn ctx(&self) -> &'c Ctx<'a, H> {
        self.ctx
    }

    /// Changes one atomic of a structure.
    #[inline(always)]
    pub fn set<T, W>(&mut self, of: &Ref<'a, T>, field: impl FnOnce(&'a T) -> &'a W, value: W::Value)
    where
        T: ?Sized + 'a,
        W: Word + 'a,
    {
        let field = of.part(field);
        self.record(field.offset() | W::FLAG, field.raw());
        field.put(value);
        ordered(self.ctx.host);
    }

    /// As [`Tx::set`], of what mostly is so already: then nothing is recorded.
    #[inline(always)]
    pub fn renew<T, W>(&mut self, of: &Ref<'a, T>, field: impl FnOnce(&'a T) -> &'a W, value: W::Value)
    where
        T: ?Sized + 'a,
        W: Word + 'a,
    {
        let field = of.part(field);
        if !field.holds(value) {
            self.set(&field, |f| f, value);
        }
    }

    #[inline(always)]
    fn record(&mut self, place: u64, old: u64) {
        let slot = self.ctx.slot.get();
        let at = self.entries;
        if at < LOG_INLINE {
            slot.log[2 * at].store(place, Relaxed);
            slot.log[2 * at + 1].store(old, Relaxed);
        } else {
            record_far(self.ctx, at, place, old);
        }
        self.entries = at + 1;
        ordered(self.ctx.host);
        slot.log_head.store(self.entries as u64, Relaxed);
        ordered(self.ctx.host);
    }

    /// Commits what was changed so far; the lock stays held.
    #[inline(always)]
    pub fn commit(&mut self) {
        ordered(self.ctx.host);
        self.ctx.slot.log_head.store(0, Relaxed);
        ordered(self.ctx.host);
        self.entries = 0;
    }

    /// Commits what was changed so far, and with it completes `waiter`. It is woken after the lock is released.
    pub fn commit_completing(&mut self, waiter: &Ref<'a, Waiter>, phase: Phase) {
        let slot = self.ctx.slot.get();
        let mut at = slot.wake_count.load(Relaxed) as usize;
        if at >= WAKES {
            self.ctx.flush_wakes();
            at = 0;
        }
        waiter.name_waker(self.ctx.host.cpu());
        let owed = Owed { waiter: waiter.handle(), state: waiter.state(), phase };
        slot.wakes[at].store(owed.pack(), Relaxed);
        ordered(self.ctx.host);
        slot.log_head.store((at as u64 + 1) << 32, Relaxed);
        ordered(self.ctx.host);
        let asleep = waiter.complete(owed.state, phase);
        ordered(self.ctx.host);
        if asleep {
            #[expect(clippy::cast_possible_truncation, reason = "below WAKES")]
            slot.wake_count.store(at as u32 + 1, Relaxed);
        }
        self.commit();
    }

    /// Takes back what was changed since the last commit; the lock stays held.
    pub fn roll_back(&mut self) {
        take_back(self.ctx, self.entries);
        self.entries = 0;
    }

    /// Releases the lock, as dropping does: that is a call, for which the transaction would have to be in memory.
    #[inline(always)]
    pub fn release(self) {
        ManuallyDrop::new(self).end();
    }

    #[inline(always)]
    fn end(&mut self) {
        if self.entries != 0 {
            self.roll_back();
        }
        self.lock.release(self.ctx.host);
    }

    /// How many changes are not committed yet.
    pub fn pending(&self) -> usize {
        self.entries
    }
}

impl<H: Host> Drop for Tx<'_, '_, H> {
    #[inline(always)]
    fn drop(&mut self) {
        self.end();
    }
}

/// A wake-up that is owed: packed into one word of the slot.
struct Owed {
    waiter: Handle,
    state: u32,
    phase: Phase,
}

impl Owed {
    // The waiter's state has the phase `Waiting` in its low bits: they make room for the new phase.
    fn pack(&self) -> u64 {
        (u64::from(self.waiter.0) << 32) | u64::from(self.state & !0b11) | self.phase as u64
    }
    #[expect(clippy::cast_possible_truncation, reason = "the halves")]
    fn unpack(word: u64) -> Owed {
        let phase = if word & 0b11 == Phase::Retry as u64 { Phase::Retry } else { Phase::Done };
        Owed {
            waiter: Handle((word >> 32) as u32),
            state: (word as u32 & !0b11) | Phase::Waiting as u32,
            phase,
        }
    }
}

/// As `record_far`.
#[cold]
#[inline(never)]
fn take_back<H: Host>(ctx: &Ctx<'_, H>, entries: usize) {
    roll_back(ctx, &ctx.slot, entries);
    ordered(ctx.host);
    ctx.slot.log_head.store(0, Relaxed);
    ordered(ctx.host);
}

/// Takes the context and not the transaction: what is passed on by reference can't stay in registers.
#[cold]
#[inline(never)]
fn record_far<H: Host>(ctx: &Ctx<'_, H>, at: usize, place: u64, old: u64) {
    // `reserve` has allocated the blocks; without it the operation is larger than its author thought, which is
    // a mistake of the program and not of shared memory.
    match far_entry(ctx, &ctx.slot, at) {
        Some(entry) => {
            entry[0].store(place, Relaxed);
            entry[1].store(old, Relaxed);
        }
        None => debug_assert!(false, "the undo log is full"),
    }
}

fn far_entry<'a, H: Host>(
    ctx: &Ctx<'a, H>,
    slot: &Ref<'a, ThreadSlot>,
    at: usize,
) -> Option<Ref<'a, [AtomicU64]>> {
    let far = at.checked_sub(LOG_INLINE)?;
    let block = Handle(slot.log_ext.get(far / PER_EXTENT)?.load(Relaxed)).some()?;
    ctx.arena.array(ctx.host, block, (far % PER_EXTENT) as u64 * 16, 2).ok()
}

fn roll_back<'a, H: Host>(ctx: &Ctx<'a, H>, slot: &Ref<'a, ThreadSlot>, entries: usize) {
    for at in (0..entries.min(LOG_INLINE + LOG_EXTENTS * PER_EXTENT)).rev() {
        let (place, old) = if at < LOG_INLINE {
            (slot.log[2 * at].load(Relaxed), slot.log[2 * at + 1].load(Relaxed))
        } else {
            match far_entry(ctx, slot, at) {
                Some(entry) => (entry[0].load(Relaxed), entry[1].load(Relaxed)),
                None => continue,
            }
        };
        // An offset outside the arena can only come from corruption: skipped, the rest is still put right.
        if place & NARROW == 0 {
            if let Ok(word) = ctx.arena.at_offset::<AtomicU64, H>(ctx.host, place) {
                word.store(old, Relaxed);
            }
        } else if let Ok(word) = ctx.arena.at_offset::<AtomicU32, H>(ctx.host, place & !NARROW) {
            #[expect(clippy::cast_possible_truncation, reason = "recorded from 32 bits")]
            word.store(old as u32, Relaxed);
        }
        ordered(ctx.host);
    }
}

/// Ends what a dead holder began, under the lock it held: rolls back what was not committed, completes what was.
#[cold]
#[inline(never)]
fn recover<H: Host>(ctx: &Ctx<'_, H>, holder: Handle) {
    let Ok(slot) = ctx.arena.at::<ThreadSlot, H>(ctx.host, holder) else { return };
    let head = slot.log_head.load(Relaxed);
    #[expect(clippy::cast_possible_truncation, reason = "the halves")]
    let (entries, publish) = (head as u32 as usize, (head >> 32) as usize);
    roll_back(ctx, &slot, entries);
    if let Some(at) = publish.checked_sub(1).filter(|&at| at < WAKES) {
        let owed = Owed::unpack(slot.wakes[at].load(Relaxed));
        if let Ok(waiter) = ctx.arena.at::<Waiter, H>(ctx.host, owed.waiter) {
            waiter.complete(owed.state, owed.phase);
            wake(ctx, &waiter);
        }
    }
    ordered(ctx.host);
    slot.log_head.store(0, Relaxed);
    ordered(ctx.host);
}

impl<'a, H: Host> Ctx<'a, H> {
    /// Makes room in the undo log for `entries` changes, before a lock is taken. [`Ctx::trim_log`] gives it back.
    ///
    /// # Errors
    /// `NoMemory`; `Full` for more than about 65 000.
    pub fn reserve_log(&self, entries: usize) -> Result<()> {
        for at in 0..entries.saturating_sub(LOG_INLINE).div_ceil(PER_EXTENT) {
            let place = self.slot.log_ext.get(at).ok_or(ArenaError::Full)?;
            if place.load(Relaxed) == 0 {
                let block = self.alloc(SPAN)?;
                place.store(block.0, Relaxed);
                ordered(self.host);
                self.taken();
            }
        }
        Ok(())
    }

    /// Frees what [`Ctx::reserve_log`] took.
    #[inline(always)]
    pub fn trim_log(&self) {
        // The first is the last to go, wherever this is interrupted.
        if self.slot.log_ext[0].load(Relaxed) != 0 {
            self.free_log();
        }
    }

    #[cold]
    #[inline(never)]
    fn free_log(&self) {
        for place in self.slot.log_ext.iter().rev() {
            if let Some(block) = Handle(place.load(Relaxed)).some() {
                self.hold(block);
                place.store(0, Relaxed);
                self.free(block);
            }
        }
    }

    /// Wakes those whom this thread has completed since the last time.
    #[inline(always)]
    pub fn flush_wakes(&self) {
        if self.slot.wake_count.load(Relaxed) != 0 {
            flush_wakes_of(self, &self.slot);
        }
    }

    /// Puts the lock right that `slot` held when its thread died, and wakes whom it owed a wake-up. In between, `finish` is called with
    /// the object whose lock that was.
    pub(crate) fn recover_slot(&self, slot: &Ref<'a, ThreadSlot>, finish: impl FnOnce(Class, Handle)) {
        let offset = slot.locked.load(Relaxed);
        if offset != 0
            && let Ok(lock) = self.arena.at_offset::<Lock, H>(self.host, offset)
        {
            // Taking it is the recovery.
            drop(Tx::begin(self, lock));
            if let Some((class, object)) = self.object_locked_at(offset) {
                finish(class, object);
            }
            slot.locked.store(0, Relaxed);
        }
        flush_wakes_of(self, slot);
    }
}

#[cold]
#[inline(never)]
fn flush_wakes_of<'a, H: Host>(ctx: &Ctx<'a, H>, slot: &Ref<'a, ThreadSlot>) {
    for owed in slot.wakes.iter().take(slot.wake_count.load(Relaxed) as usize) {
        let owed = Owed::unpack(owed.load(Relaxed));
        if let Ok(waiter) = ctx.arena.at::<Waiter, H>(ctx.host, owed.waiter) {
            wake(ctx, &waiter);
        }
    }
    ordered(ctx.host);
    slot.wake_count.store(0, Relaxed);
}

/// Wakes a sleeper where it sleeps.
fn wake<H: Host>(ctx: &Ctx<'_, H>, waiter: &Waiter) {
    match Handle(waiter.bell.load(Relaxed)).some() {
        None => waiter.wake(ctx.host),
        Some(slot) => {
            if let Ok(slot) = ctx.arena.at::<ThreadSlot, H>(ctx.host, slot) {
                slot.bell.ring(ctx.host, waiter.place.load(Relaxed));
            }
        }
    }
}
