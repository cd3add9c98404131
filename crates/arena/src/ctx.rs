//! What an operation works with: the arena, the host, and the thread's slot.

use crate::{
    Arena, ArenaError, Class, Handle, Host, Lock, ProcSlot, Ref, Result, Shared, ThreadSlot, Tx,
    slab::thread_slots,
    slots::{MAGAZINE, MAGAZINES, PROC_SLOT_SIZE, SLOT_LIVE},
    sync::{AtomicU32, Ordering::*, ordered},
};

/// How many threads a newcomer asks about before it has looked for a free slot.
const FEW: usize = 2;

/// The slot of the first thread.
#[expect(clippy::cast_possible_truncation, reason = "a small constant")]
pub(crate) const FOUNDER: Handle = Handle(((crate::map::HEADERS - 4096) / Handle::GRAIN) as u32);

/// Most blocks of a chain: a message of 2 GiB in blocks of 64 KiB has about half as many.
const CHAIN_MAX: u32 = 1 << 16;

/// A thread at work on an arena.
pub struct Ctx<'a, H: Host> {
    /// The process's view of the arena.
    pub arena: &'a Arena,
    /// The system under it.
    pub host: &'a H,
    /// The thread's slot.
    pub slot: Ref<'a, ThreadSlot>,
}

impl<H: Host> Clone for Ctx<'_, H> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<H: Host> Copy for Ctx<'_, H> {}

impl<'a, H: Host> Ctx<'a, H> {
    /// The context of a thread that has a slot.
    ///
    /// # Errors
    /// `Corrupt` if the handle is not in the arena.
    #[inline(always)]
    pub fn new(arena: &'a Arena, host: &'a H, slot: Handle) -> Result<Self> {
        Ok(Ctx { arena, host, slot: arena.at(host, slot)? })
    }

    /// Makes an arena out of a zeroed file, and returns the context of a first thread, which belongs to no process
    /// slot.
    ///
    /// # Errors
    /// `NoMemory`.
    pub fn format(arena: &'a Arena, host: &'a H) -> Result<Self> {
        // The first thread needs a slot before the allocator can be used: it lies in the last page of the root area.
        host.back(arena.address(host, 0, crate::map::HEADERS)?, crate::map::HEADERS as usize)?;
        let ctx = Ctx::new(arena, host, FOUNDER)?;
        ctx.slot.claim(Handle::NULL, host.tid());
        ctx.format_slabs()?;
        ctx.add_thread_span()?;
        Ok(ctx)
    }

    /// The context of a thread that takes the place of the first one, which has ended: its id comes with it, and what it had begun must be
    /// settled. For a broker in the place of one that was killed.
    ///
    /// # Errors
    /// `Corrupt` if this is no arena.
    pub fn succeed(arena: &'a Arena, host: &'a H) -> Result<(Self, u32)> {
        let ctx = Ctx::new(arena, host, FOUNDER)?;
        let (process, dead) = ctx.slot.owner().ok_or(ArenaError::Corrupt)?;
        if !process.is_null() || !ctx.slot.take_over(process, dead, host.tid()) {
            return Err(ArenaError::Corrupt);
        }
        Ok((ctx, dead))
    }

    /// Claims a thread slot for the calling thread. It may be one that a dead thread left (of this process, or with this
    /// thread's own id, unless it is `nested`: at work already): `process` must be the caller's. Such a slot comes with
    /// the dead thread's id, and must be settled before it is used.
    ///
    /// # Errors
    /// `Full` if all slots are in use: the broker adds more.
    pub fn claim(
        arena: &'a Arena,
        host: &'a H,
        process: Handle,
        nested: bool,
    ) -> Result<(Self, Option<u32>)> {
        let tid = host.tid();
        // To find out whether a thread lives costs a system call: a free slot is looked for before many are asked about.
        // The broker's threads that work for others give theirs up, and are not asked about.
        let doubts: &[usize] = if process == Handle::NULL && nested { &[0] } else { &[FEW, usize::MAX] };
        for &doubts in doubts {
            let mut doubts = doubts;
            for slot in thread_slots(arena, host)? {
                // The table of slots may make no sense: what is no slot is passed over.
                let Ok(ctx) = Ctx::new(arena, host, slot) else { continue };
                match ctx.slot.owner() {
                    None => {
                        if ctx.is_slot() && ctx.slot.claim(process, tid) {
                            ctx.slot.waiter.bell.store(0, Relaxed);
                            return Ok((ctx, None));
                        }
                    }
                    Some((p, t)) if p == process && (t == tid || doubts > 0) => {
                        let left = if t == tid {
                            !nested
                        } else {
                            doubts -= 1;
                            host.thread_dead(t)
                        };
                        // Only threads of this process come here, and two of them may meet: the winner of the change
                        // of owner does the work.
                        if left && ctx.slot.take_over(process, t, tid) {
                            ctx.slot.waiter.bell.store(0, Relaxed);
                            return Ok((ctx, Some(t)));
                        }
                    }
                    Some(_) => {}
                }
            }
        }
        Err(ArenaError::Full)
    }

    /// Gives the thread's slot up. What it has in its magazines goes back.
    pub fn quit(self) {
        self.flush_magazines();
        self.slot.release();
    }

    /// Takes a lock. The transaction undoes what its last holder left unfinished, first.
    ///
    /// # Errors
    /// None today; the type leaves room.
    #[inline(always)]
    pub fn lock(&self, lock: Ref<'a, Lock>) -> Result<Tx<'_, 'a, H>> {
        Tx::begin(self, lock)
    }

    /// The structure at a block's start. See [`Arena::at`].
    ///
    /// # Errors
    /// `Corrupt`, `NoMemory`.
    #[inline(always)]
    pub fn at<T: Shared>(&self, block: Handle) -> Result<Ref<'a, T>> {
        self.arena.at(self.host, block)
    }

    /// Atomics in a block. See [`Arena::array`].
    ///
    /// # Errors
    /// `Corrupt`, `NoMemory`.
    #[inline(always)]
    pub fn array<T: Shared>(&self, block: Handle, byte: u64, count: usize) -> Result<Ref<'a, [T]>> {
        self.arena.array(self.host, block, byte, count)
    }

    /// Element `index` of the array that begins `byte` bytes into a block.
    ///
    /// # Errors
    /// `Corrupt`, `NoMemory`.
    #[inline(always)]
    pub fn element<T: Shared>(&self, block: Handle, byte: u64, index: usize) -> Result<Ref<'a, T>> {
        if block.is_null() || index > crate::SPAN as usize {
            return Err(ArenaError::Corrupt);
        }
        self.arena.at_offset(self.host, block.offset() + byte + (index * size_of::<T>()) as u64)
    }

    /// Adds a block that was just taken to the front of the in-flight chain.
    ///
    /// # Errors
    /// `Corrupt`.
    #[inline(always)]
    pub fn chain(&self, block: Handle) -> Result<()> {
        let link: Ref<'_, AtomicU32> = self.at(block)?;
        link.store(self.slot.in_flight.chain.load(Relaxed), Relaxed);
        ordered(self.host);
        self.slot.in_flight.chain.store(block.0, Relaxed);
        self.taken();
        Ok(())
    }

    /// Frees the in-flight chain. Call with no lock held. Whether it made sense: who frees many gives up at the first that made none.
    #[inline(always)]
    pub fn free_chain(&self) -> bool {
        // No message has more blocks: a longer chain goes round in a circle.
        for _ in 0..CHAIN_MAX {
            let Some(block) = Handle(self.slot.in_flight.chain.load(Relaxed)).some() else { return true };
            let Ok(link) = self.at::<AtomicU32>(block) else { break };
            let next = link.load(Relaxed);
            self.hold(block);
            self.slot.in_flight.chain.store(next, Relaxed);
            ordered(self.host);
            self.free(block);
        }
        self.slot.in_flight.chain.store(0, Relaxed);
        false
    }

    fn flush_magazines(&self) {
        for class in 0..MAGAZINES {
            self.flush_all(class);
        }
    }

    /// Puts the lock right that a dead thread held, and wakes whom it owed a wake-up: the first step of settling its slot. If it was an
    /// object's lock, `finish` is called, without it, for what was left to do there.
    /// Then the layer above ends its sleep, and [`Ctx::adopt`] frees its blocks. `self` may be the slot's new owner.
    pub fn recover(&self, slot: &Ref<'a, ThreadSlot>, tid: u32, finish: impl FnOnce(Class, Handle)) {
        let offset = slot.locked.load(Relaxed);
        if offset != 0
            && tid != self.host.tid()
            && self.host.thread_dead(tid)
            && let Ok(lock) = self.arena.at_offset::<Lock, H>(self.host, offset)
        {
            // Threads without a robust list die unseen by the kernel.
            lock.declare_dead(self.host, tid);
        }
        self.recover_slot(slot, finish);
    }

    /// Frees the blocks that a dead thread had in its hands. The slot keeps its in-flight `doomed` object for the layer
    /// above.
    pub fn adopt(&self, slot: &Ref<'a, ThreadSlot>) {
        let own = slot.handle() == self.slot.handle();
        let taking = Handle(slot.in_flight.taking.load(Relaxed));
        let chain = Handle(slot.in_flight.chain.load(Relaxed));
        // The dead thread may have been between two stores that move a block from one place to the other.
        let twice = taking == chain
            || slot.magazines.iter().any(|m| m.holds(taking))
            || slot.log_ext.iter().any(|place| place.load(Relaxed) == taking.0);
        if own {
            // Its mention ends with the freeing: the new owner may die here too.
            match taking.some() {
                Some(block) if !twice => self.free(block),
                _ => slot.in_flight.taking.store(0, Relaxed),
            }
            self.free_chain();
        } else {
            // Another's slot is put right by the broker only. If that dies here, a block may be named by neither slot: it is
            // lost. None is ever named by both, as both are looked at by the next broker.
            slot.in_flight.taking.store(0, Relaxed);
            ordered(self.host);
            if let Some(block) = taking.some().filter(|_| !twice) {
                self.hold(block);
                self.free(block);
            }
            self.move_chain(slot, chain);
            for magazine in &slot.magazines {
                let count = (magazine.count.load(Relaxed) as usize).min(MAGAZINE);
                for item in magazine.items.iter().take(count).rev() {
                    let block = Handle(item.load(Relaxed));
                    let left = magazine.count.load(Relaxed).saturating_sub(1);
                    magazine.count.store(left, Relaxed);
                    ordered(self.host);
                    self.hold(block);
                    self.free(block);
                }
            }
            for ext in &slot.log_ext {
                if let Some(block) = Handle(ext.load(Relaxed)).some() {
                    ext.store(0, Relaxed);
                    ordered(self.host);
                    self.hold(block);
                    self.free(block);
                }
            }
        }
        if let Some(span) = Some(slot.in_flight.span.load(Relaxed)).filter(|&s| s != 0) {
            if !own {
                slot.in_flight.span.store(0, Relaxed);
                ordered(self.host);
            }
            self.slot.in_flight.span.store(span, Relaxed);
            let _ = self.give_span();
        }
    }

    fn move_chain(&self, slot: &ThreadSlot, mut block: Handle) {
        for _ in 0..CHAIN_MAX {
            if block.is_null() {
                break;
            }
            let Ok(link) = self.at::<AtomicU32>(block) else { break };
            let next = Handle(link.load(Relaxed));
            slot.in_flight.chain.store(next.0, Relaxed);
            ordered(self.host);
            self.hold(block);
            self.free(block);
            block = next;
        }
        slot.in_flight.chain.store(0, Relaxed);
    }

    /// A slot for a process that began at `start`.
    ///
    /// # Errors
    /// `NoMemory`, `Full`.
    pub fn add_process(&self, pid: u32, start: u64) -> Result<Handle> {
        let process = self.alloc_class(Class::PROCESS)?;
        self.arena.zero(self.host, process, 0, PROC_SLOT_SIZE)?;
        let slot = self.at::<ProcSlot>(process)?;
        slot.pid.store(pid, Relaxed);
        slot.start.store(start, Relaxed);
        // Whoever dies in between loses a page; a slot that is freed is never taken for a process's.
        self.taken();
        ordered(self.host);
        slot.state.store(SLOT_LIVE, Release);
        Ok(process)
    }

    /// All thread slots with their owners: process slot and thread id. For the broker and for diagnosis.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn threads(&self) -> Result<impl Iterator<Item = (Ref<'a, ThreadSlot>, Handle, u32)> + use<'a, H>> {
        let (arena, host) = (self.arena, self.host);
        Ok(thread_slots(arena, host)?.filter_map(move |slot| {
            let slot: Ref<'a, ThreadSlot> = arena.at(host, slot).ok()?;
            let (process, tid) = slot.owner()?;
            Some((slot, process, tid))
        }))
    }

    /// The thread that holds the lock which `slot` took last, or waits for; 0 if nobody does.
    pub fn lock_owner(&self, slot: &ThreadSlot) -> u32 {
        let offset = slot.locked.load(Relaxed);
        let lock = self.arena.at_offset::<Lock, H>(self.host, offset);
        if offset == 0 { 0 } else { lock.map_or(0, |l| l.owner()) }
    }

    /// Whether the lock that `waiting` waits for names an owner that doesn't have it: then its word was overwritten, as every thread's
    /// slot names the lock that it takes, before it does.
    pub fn is_nobodys_lock(&self, waiting: &ThreadSlot, owner: u32) -> bool {
        // An owner that releases it, does something else, and takes it again, may be met in between; but not each time.
        const OFTEN: u32 = 50;
        let lock = waiting.locked.load(Relaxed);
        let has_it = || {
            self.threads().is_ok_and(|mut threads| {
                threads.any(|(slot, _, tid)| tid == owner && slot.locked.load(Relaxed) == lock)
            })
        };
        (0..OFTEN).all(|_| self.lock_owner(waiting) == owner && !has_it())
    }

    /// Marks the lock that `slot` took last, or waits for, as that of a dead thread `tid`, where the kernel did not.
    pub fn declare_dead(&self, slot: &ThreadSlot, tid: u32) {
        let offset = slot.locked.load(Relaxed);
        if offset != 0
            && let Ok(lock) = self.arena.at_offset::<Lock, H>(self.host, offset)
        {
            lock.declare_dead(self.host, tid);
        }
    }

    /// How many thread slots there are, in use or not.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn thread_capacity(&self) -> Result<usize> {
        Ok(thread_slots(self.arena, self.host)?.len())
    }

    /// Gives a dead thread's slot, which is settled, back.
    pub fn release_slot(&self, slot: &ThreadSlot) {
        slot.release();
    }
}
