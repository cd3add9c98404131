//! Blocks of fixed sizes, cut from spans of 64 KiB.
//!
//! A span belongs to the pool or to one size class. General classes give empty spans back to the pool. *Stable*
//! classes never do: a block of theirs is only ever an object of its kind, so that a task which still has the handle
//! of a removed object can lock it, see that it is another or none, and go away. The memory of both goes back to
//! the system when the broker trims. A span's memory is put under it when it is first used ([`Host::back`]).
//!
//! Locks: a class's lock guards its list of spans and their free lists, the pool's lock the pool. Between the two a
//! span is in flight, recorded in the thread's slot.

use crate::{
    ArenaError, Ctx, Handle, Host, Lock, ProcSlot, Ref, Result, ThreadSlot, Tx,
    map::{EXTENT_SHIFT, FIRST_EXTENT, MAX_EXTENTS},
    slots::{MAGAZINE, MAGAZINES, SLOT_FREE},
    sync::{AtomicU32, Ordering::*, ordered},
    walk::Walk,
};

/// Bytes of a span, and of the largest block.
pub const SPAN: u64 = 1 << SPAN_SHIFT;
const SPAN_SHIFT: u32 = 16;
const PER_EXTENT: u32 = 1 << (EXTENT_SHIFT - SPAN_SHIFT);
const IN_FIRST: u32 = (FIRST_EXTENT >> SPAN_SHIFT) as u32;
const MAX_SPANS: u32 = MAX_EXTENTS as u32 * PER_EXTENT;
/// Where an object's lock is in its block.
pub const OBJECT_LOCK: u64 = 64;
/// General classes: 64 bytes to 64 KiB in powers of two.
const GENERAL: u32 = 11;
const CLASSES: usize = 17;
/// Bytes at an extent's start that hold its span descriptors.
const DESCRIPTORS: usize = PER_EXTENT as usize * size_of::<SpanDesc>();
const HEADER_OFFSET: u64 = 4096;
const THREAD_SPANS: usize = 4096;

/// Which kind of block a span is cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class(u32);

impl Class {
    /// Message queues: 256 bytes, stable.
    pub const QUEUE: Class = Class(GENERAL);
    /// Semaphore sets: 256 bytes, stable.
    pub const SEM_SET: Class = Class(GENERAL + 1);
    /// Thread slots: 4096 bytes, stable.
    pub const THREAD: Class = Class(GENERAL + 2);
    /// Process slots: 4096 bytes, stable.
    pub const PROCESS: Class = Class(GENERAL + 3);
    /// Segments of shared memory: 256 bytes, stable.
    pub const SEGMENT: Class = Class(GENERAL + 4);
    /// POSIX message queues: 256 bytes, stable.
    pub const MQUEUE: Class = Class(GENERAL + 5);
    /// The stable classes whose blocks are objects, with a lock at [`OBJECT_LOCK`].
    const OBJECTS: [Class; 4] = [Class::QUEUE, Class::SEM_SET, Class::SEGMENT, Class::MQUEUE];

    /// The smallest general class for so many bytes.
    ///
    /// # Errors
    /// `Full` above 64 KiB.
    pub const fn for_size(bytes: u64) -> Result<Class> {
        if bytes > SPAN {
            return Err(ArenaError::Full);
        }
        let log = if bytes <= 64 { 6 } else { u64::BITS - (bytes - 1).leading_zeros() };
        Ok(Class(log - 6))
    }

    /// Bytes of a block.
    pub const fn size(self) -> u64 {
        match self.0 {
            n if n < GENERAL => 64 << n,
            n if n == Class::THREAD.0 || n == Class::PROCESS.0 => 4096,
            _ => 256,
        }
    }

    const fn stable(self) -> bool {
        self.0 >= GENERAL
    }
    const fn per_span(self) -> u32 {
        (SPAN / self.size()) as u32
    }
    /// How many blocks a magazine of the class holds; 16 KiB at most.
    const fn magazine(self) -> usize {
        match self.0 {
            0..4 => MAGAZINE,
            4..6 => 8,
            _ => 4,
        }
    }
}

crate::shared! {
    /// What a span is used for; lies at its extent's start.
    struct SpanDesc {
        class: AtomicU32,
        free: AtomicU32,
        unused: AtomicU32,
        /// Blocks in use.
        used: AtomicU32,
        /// Blocks ever cut: those above have not been touched.
        bump: AtomicU32,
        /// Whether memory is under it.
        backed: AtomicU32,
        next: AtomicU32,
        prev: AtomicU32,
        pad: [AtomicU32; 8],
    }

    struct ClassHead {
        lock: Lock,
        /// First span with a free block, as its number.
        partial: AtomicU32,
        /// Spans on the list that are wholly free.
        empties: AtomicU32,
        pad: [AtomicU32; 4],
    }

    struct Pool {
        lock: Lock,
        free: AtomicU32,
        /// First span never used.
        bump: AtomicU32,
        /// Spans in the pool's free list that have memory.
        backed: AtomicU32,
        pad: [AtomicU32; 3],
    }

    pub(crate) struct SlabHeader {
        magic: AtomicU32,
        pad: [AtomicU32; 15],
        pool: Pool,
        classes: [ClassHead; CLASSES],
        thread_span_count: AtomicU32,
        pad2: [AtomicU32; 7],
    }

    struct ThreadSpans {
        spans: [AtomicU32; THREAD_SPANS],
    }
}
#[cfg(not(any(loom, shuttle)))]
const _: () = assert!(size_of::<SpanDesc>() == 64);
const _: () = assert!(size_of::<SlabHeader>() as u64 <= HEADER_OFFSET);
const THREAD_SPANS_OFFSET: u64 = 8192;

/// "ipcs" and the layout's version.
const MAGIC: u32 = 0x6970_6300 | crate::LAYOUT_VERSION;

crate::shared! {
    /// The first words of every free block.
    struct FreeBlock {
        unused: [AtomicU32; 2],
        next: AtomicU32,
        /// Of a block that came from a magazine: one some places further down the list, or 0. A hint what to fetch, as blocks mostly come
        /// back from another CPU, and a list shows no more than the next one.
        ahead: AtomicU32,
    }
}

/// How many places that is.
const AHEAD: usize = 4;

fn desc_offset(span: u32) -> u64 {
    (u64::from(span / PER_EXTENT) << EXTENT_SHIFT) + u64::from(span % PER_EXTENT) * 64
}

impl<'a, H: Host> Ctx<'a, H> {
    #[inline(always)]
    fn desc(&self, span: u32) -> Result<Ref<'a, SpanDesc>> {
        if span == 0 || span.is_multiple_of(PER_EXTENT) || span >= MAX_SPANS {
            return Err(ArenaError::Corrupt);
        }
        self.arena.at_offset(self.host, desc_offset(span))
    }

    fn head(&self, class: Class) -> Result<Ref<'a, ClassHead>> {
        let head = self.header()?;
        Ok(head.part(|h| &h.classes[class.0 as usize]))
    }

    fn header(&self) -> Result<Ref<'a, SlabHeader>> {
        self.arena.at_offset(self.host, HEADER_OFFSET)
    }

    /// Writes the header of a new, zeroed arena whose first extent's start is backed.
    pub(crate) fn format_slabs(&self) -> Result<()> {
        let header = self.header()?;
        header.pool.bump.store(1, Relaxed);
        header.magic.store(MAGIC, Release);
        Ok(())
    }

    /// Whether the arena has the layout that this code expects.
    pub fn formatted(&self) -> bool {
        self.header().is_ok_and(|h| h.magic.load(Acquire) == MAGIC)
    }

    /// Takes a block for `bytes` bytes, uninitialised. It is in flight (see [`crate::InFlight`]) until
    /// [`Ctx::taken`]. Call with no lock held.
    ///
    /// # Errors
    /// `NoMemory`, or `Full` for more than 64 KiB.
    #[inline(always)]
    pub fn alloc(&self, bytes: u64) -> Result<Handle> {
        self.alloc_class(Class::for_size(bytes)?)
    }

    /// Takes a block of a class; otherwise as [`Ctx::alloc`].
    ///
    /// # Errors
    /// `NoMemory`.
    #[inline(always)]
    pub fn alloc_class(&self, class: Class) -> Result<Handle> {
        let Some(magazine) =
            self.slot.get().magazines.get(class.0 as usize).filter(|_| (class.0 as usize) < MAGAZINES)
        else {
            return self.alloc_direct(class);
        };
        let mut count = magazine.count.load(Relaxed) as usize;
        if count == 0 || count > MAGAZINE {
            count = self.refill(class)?;
        }
        let Some(item) = count.checked_sub(1).and_then(|at| magazine.items.get(at)) else {
            // A span on the list that has no block to give.
            return Err(ArenaError::Corrupt);
        };
        let block = item.load(Relaxed);
        self.slot.in_flight.taking.store(block, Relaxed);
        ordered(self.host);
        #[expect(clippy::cast_possible_truncation, reason = "below MAGAZINE")]
        magazine.count.store(count as u32 - 1, Relaxed);
        ordered(self.host);
        Ok(Handle(block))
    }

    /// The block last allocated is linked somewhere, and no longer in flight.
    #[inline(always)]
    pub fn taken(&self) {
        ordered(self.host);
        self.slot.in_flight.taking.store(0, Relaxed);
    }

    /// Records a block that nobody else owns: in flight until it is freed or linked.
    #[inline(always)]
    pub fn hold(&self, block: Handle) {
        self.slot.in_flight.taking.store(block.0, Relaxed);
        ordered(self.host);
    }

    /// Frees the block that is in flight as the last one taken or held. Call with no lock held.
    #[inline(always)]
    pub fn free(&self, block: Handle) {
        let Ok(class) = self.class_of(block) else { return };
        if (class.0 as usize) < MAGAZINES {
            let magazine = &self.slot.get().magazines[class.0 as usize];
            let mut count = magazine.count.load(Relaxed) as usize;
            if count >= class.magazine() {
                count = self.flush(class, class.magazine() / 2);
            }
            if count < MAGAZINE {
                magazine.items[count].store(block.0, Relaxed);
                ordered(self.host);
                #[expect(clippy::cast_possible_truncation, reason = "below MAGAZINE")]
                magazine.count.store(count as u32 + 1, Relaxed);
                self.taken();
                return;
            }
        }
        self.free_direct(class, block);
    }

    /// The object whose lock is at that offset, if it is an object's.
    pub(crate) fn object_locked_at(&self, lock: u64) -> Option<(Class, Handle)> {
        let object = Handle::from_offset(lock.checked_sub(OBJECT_LOCK)?)?;
        let class = self.class_of(object).ok()?;
        Class::OBJECTS.contains(&class).then_some((class, object))
    }

    #[inline(always)]
    fn class_of(&self, block: Handle) -> Result<Class> {
        let offset = block.offset();
        #[expect(clippy::cast_possible_truncation, reason = "32 bits of handle and 6 of grain, less 16")]
        let desc = self.desc((offset >> SPAN_SHIFT) as u32)?;
        let class = Class(desc.class.load(Relaxed));
        if class.0 as usize >= CLASSES || !offset.is_multiple_of(class.size()) {
            return Err(ArenaError::Corrupt);
        }
        Ok(class)
    }

    /// Whether the slot lies where slots do.
    pub(crate) fn is_slot(&self) -> bool {
        self.class_of(self.slot.handle()) == Ok(Class::THREAD)
    }

    #[cold]
    #[inline(never)]
    fn refill(&self, class: Class) -> Result<usize> {
        let magazine = &self.slot.get().magazines[class.0 as usize];
        let mut got = 0;
        self.pop_blocks(class, class.magazine().div_ceil(2), |tx, block| {
            magazine.items[got].store(block.0, Relaxed);
            got += 1;
            #[expect(clippy::cast_possible_truncation, reason = "below MAGAZINE")]
            let count = got as u32;
            let slot = tx.ctx().slot;
            tx.set(&slot, |s| &s.magazines[class.0 as usize].count, count);
        })?;
        Ok(got)
    }

    fn alloc_direct(&self, class: Class) -> Result<Handle> {
        let mut got = Handle::NULL;
        self.pop_blocks(class, 1, |tx, block| {
            got = block;
            let slot = tx.ctx().slot;
            tx.set(&slot, |s| &s.in_flight.taking, block.0);
        })?;
        got.some().ok_or(ArenaError::Corrupt)
    }

    /// Takes 1 to `want` blocks from one span.
    fn pop_blocks(
        &self,
        class: Class,
        want: usize,
        mut sink: impl FnMut(&mut Tx<'_, 'a, H>, Handle),
    ) -> Result<()> {
        let head = self.head(class)?;
        loop {
            let mut tx = self.lock(head.part(|h| &h.lock))?;
            let span = head.partial.load(Relaxed);
            if span == 0 {
                drop(tx);
                self.add_span(class)?;
                continue;
            }
            let desc = self.desc(span)?;
            if desc.backed.load(Relaxed) == 0 {
                self.back_span(span, &desc)?;
            }
            let mut used = desc.used.load(Relaxed);
            if used == 0 {
                tx.set(&head, |h| &h.empties, head.empties.load(Relaxed).wrapping_sub(1));
            }
            let (mut free, mut bump) = (desc.free.load(Relaxed), desc.bump.load(Relaxed));
            for _ in 0..want {
                let block = if free != 0 {
                    let block = Handle(free);
                    self.arena.fetch(block);
                    let first = self.arena.at::<FreeBlock, H>(self.host, block)?;
                    free = first.next.load(Relaxed);
                    if !class.stable() {
                        self.arena.fetch(Handle(first.ahead.load(Relaxed)));
                    }
                    block
                } else if bump < class.per_span() {
                    let offset = (u64::from(span) << SPAN_SHIFT) + u64::from(bump) * class.size();
                    bump += 1;
                    Handle::from_offset(offset).ok_or(ArenaError::Corrupt)?
                } else {
                    break;
                };
                used += 1;
                sink(&mut tx, block);
            }
            tx.set(&desc, |d| &d.free, free);
            tx.set(&desc, |d| &d.bump, bump);
            tx.set(&desc, |d| &d.used, used);
            if used >= class.per_span() {
                self.unlink(&mut tx, &head, span, &desc)?;
            }
            tx.commit();
            return Ok(());
        }
    }

    fn back_span(&self, span: u32, desc: &SpanDesc) -> Result<()> {
        let start = self.arena.address(self.host, u64::from(span) << SPAN_SHIFT, SPAN)?;
        self.host.back(start, SPAN as usize)?;
        desc.backed.store(1, Relaxed);
        Ok(())
    }

    /// Whatever a span was used for before is gone: objects of a stable class begin as zeros, with a free lock.
    fn wipe_span(&self, span: u32, desc: &SpanDesc) -> Result<()> {
        if desc.backed.load(Relaxed) != 0 {
            let block = Handle::from_offset(u64::from(span) << SPAN_SHIFT).ok_or(ArenaError::Corrupt)?;
            self.arena.zero(self.host, block, 0, SPAN as usize)?;
        }
        Ok(())
    }

    fn link(
        &self,
        tx: &mut Tx<'_, 'a, H>,
        head: &Ref<'a, ClassHead>,
        span: u32,
        desc: &Ref<'a, SpanDesc>,
    ) -> Result<()> {
        let first = head.partial.load(Relaxed);
        tx.set(desc, |d| &d.next, first);
        tx.set(desc, |d| &d.prev, 0);
        if first != 0 {
            tx.set(&self.desc(first)?, |d| &d.prev, span);
        }
        tx.set(head, |h| &h.partial, span);
        Ok(())
    }

    fn unlink(
        &self,
        tx: &mut Tx<'_, 'a, H>,
        head: &Ref<'a, ClassHead>,
        span: u32,
        desc: &Ref<'a, SpanDesc>,
    ) -> Result<()> {
        let (next, prev) = (desc.next.load(Relaxed), desc.prev.load(Relaxed));
        if prev != 0 {
            tx.set(&self.desc(prev)?, |d| &d.next, next);
        } else if head.partial.load(Relaxed) == span {
            tx.set(head, |h| &h.partial, next);
        }
        if next != 0 {
            tx.set(&self.desc(next)?, |d| &d.prev, prev);
        }
        Ok(())
    }

    /// Puts `count` blocks of the magazine back; returns how many are left in it.
    #[cold]
    #[inline(never)]
    fn flush(&self, class: Class, count: usize) -> usize {
        let magazine = &self.slot.get().magazines[class.0 as usize];
        let mut left = (magazine.count.load(Relaxed) as usize).min(MAGAZINE);
        for before in 0..count.min(left) {
            let item = |at: usize| magazine.items.get(at).map_or(0, |item| item.load(Relaxed));
            let block = Handle(item(left - 1));
            if let Ok(free) = self.arena.at::<FreeBlock, H>(self.host, block) {
                free.ahead.store(if before < AHEAD { 0 } else { item(left - 1 + AHEAD) }, Relaxed);
            }
            left -= 1;
            #[expect(clippy::cast_possible_truncation, reason = "below MAGAZINE")]
            let now = left as u32;
            let slot = self.slot;
            let pushed = self
                .push_block(class, block, |tx| tx.set(&slot, |s| &s.magazines[class.0 as usize].count, now));
            if pushed.is_err() {
                // The block is lost rather than the host process.
                magazine.count.store(now, Relaxed);
            }
        }
        left
    }

    /// Empties a magazine.
    pub(crate) fn flush_all(&self, class: usize) {
        #[expect(clippy::cast_possible_truncation, reason = "below MAGAZINES")]
        self.flush(Class(class as u32), MAGAZINE);
    }

    fn free_direct(&self, class: Class, block: Handle) {
        let slot = self.slot;
        if self.push_block(class, block, |tx| tx.set(&slot, |s| &s.in_flight.taking, 0)).is_err() {
            self.taken();
        }
    }

    /// Puts a block back into its span, and with it `owner`'s change.
    fn push_block(&self, class: Class, block: Handle, owner: impl FnOnce(&mut Tx<'_, 'a, H>)) -> Result<()> {
        #[expect(clippy::cast_possible_truncation, reason = "32 bits of handle and 6 of grain, less 16")]
        let span = (block.offset() >> SPAN_SHIFT) as u32;
        let desc = self.desc(span)?;
        let head = self.head(class)?;
        let free = self.arena.at::<FreeBlock, H>(self.host, block)?;
        let mut tx = self.lock(head.part(|h| &h.lock))?;
        if desc.class.load(Relaxed) != class.0 || desc.used.load(Relaxed) == 0 {
            return Err(ArenaError::Corrupt);
        }
        free.next.store(desc.free.load(Relaxed), Relaxed);
        tx.set(&desc, |d| &d.free, block.0);
        let used = desc.used.load(Relaxed);
        tx.set(&desc, |d| &d.used, used - 1);
        if used >= class.per_span() {
            self.link(&mut tx, &head, span, &desc)?;
        }
        let mut leaves = false;
        if used == 1 {
            // One empty span is kept, so that a block that comes and goes doesn't move a span each time.
            if class.stable() || head.empties.load(Relaxed) == 0 {
                tx.set(&head, |h| &h.empties, head.empties.load(Relaxed).wrapping_add(1));
            } else {
                self.detach(&mut tx, &head, span, &desc)?;
                leaves = true;
            }
        }
        owner(&mut tx);
        tx.commit();
        drop(tx);
        if leaves {
            self.give_span()?;
        }
        if used == 1 {
            self.host.trim_wanted();
        }
        Ok(())
    }

    /// Takes a wholly free span out of its class, into this thread's hands.
    fn detach(
        &self,
        tx: &mut Tx<'_, 'a, H>,
        head: &Ref<'a, ClassHead>,
        span: u32,
        desc: &Ref<'a, SpanDesc>,
    ) -> Result<()> {
        self.unlink(tx, head, span, desc)?;
        let slot = self.slot;
        tx.set(&slot, |s| &s.in_flight.span, span);
        Ok(())
    }

    /// The span in this thread's hands goes to the pool.
    pub(crate) fn give_span(&self) -> Result<()> {
        let span = self.slot.in_flight.span.load(Relaxed);
        let header = self.header()?;
        let pool = header.part(|h| &h.pool);
        let desc = self.desc(span)?;
        let slot = self.slot;
        let mut tx = self.lock(pool.part(|p| &p.lock))?;
        tx.set(&desc, |d| &d.next, pool.free.load(Relaxed));
        tx.set(&pool, |p| &p.free, span);
        if desc.backed.load(Relaxed) != 0 {
            tx.set(&pool, |p| &p.backed, pool.backed.load(Relaxed).wrapping_add(1));
        }
        tx.set(&slot, |s| &s.in_flight.span, 0);
        tx.commit();
        Ok(())
    }

    /// Takes a span from the pool into this thread's hands.
    fn take_span(&self) -> Result<u32> {
        let header = self.header()?;
        let pool = header.part(|h| &h.pool);
        let slot = self.slot;
        let mut tx = self.lock(pool.part(|p| &p.lock))?;
        let mut span = pool.free.load(Relaxed);
        if span != 0 {
            let desc = self.desc(span)?;
            tx.set(&pool, |p| &p.free, desc.next.load(Relaxed));
            if desc.backed.load(Relaxed) != 0 {
                tx.set(&pool, |p| &p.backed, pool.backed.load(Relaxed).wrapping_sub(1));
            }
        } else {
            span = pool.bump.load(Relaxed);
            if (IN_FIRST..PER_EXTENT).contains(&span) {
                span = PER_EXTENT;
            }
            if span % PER_EXTENT == 0 {
                if span >= MAX_SPANS {
                    return Err(ArenaError::Full);
                }
                let start =
                    self.arena.address(self.host, u64::from(span) << SPAN_SHIFT, DESCRIPTORS as u64)?;
                self.host.back(start, DESCRIPTORS)?;
                span += 1;
            }
            tx.set(&pool, |p| &p.bump, span + 1);
        }
        tx.set(&slot, |s| &s.in_flight.span, span);
        tx.commit();
        Ok(span)
    }

    #[cold]
    #[inline(never)]
    fn add_span(&self, class: Class) -> Result<()> {
        let span = self.take_span()?;
        let desc = self.desc(span)?;
        if class.stable() {
            self.wipe_span(span, &desc)?;
        }
        let head = self.head(class)?;
        let slot = self.slot;
        let mut tx = self.lock(head.part(|h| &h.lock))?;
        tx.set(&desc, |d| &d.class, class.0);
        tx.set(&desc, |d| &d.free, 0);
        tx.set(&desc, |d| &d.used, 0);
        tx.set(&desc, |d| &d.bump, 0);
        self.link(&mut tx, &head, span, &desc)?;
        tx.set(&head, |h| &h.empties, head.empties.load(Relaxed).wrapping_add(1));
        tx.set(&slot, |s| &s.in_flight.span, 0);
        tx.commit();
        Ok(())
    }

    /// Gives the memory of free spans back to the system. For the broker.
    ///
    /// # Errors
    /// `Corrupt`, if a list makes no sense.
    pub fn trim(&self) -> Result<()> {
        for class in (0..GENERAL).map(Class) {
            let mut walk = Walk::new();
            while let Some(span) = self.detach_empty(class)? {
                self.give_span()?;
                if walk.circles(span) {
                    break;
                }
            }
        }
        for class in Class::OBJECTS {
            self.trim_stable(class)?;
        }
        let header = self.header()?;
        let pool = header.part(|h| &h.pool);
        let mut tx = self.lock(pool.part(|p| &p.lock))?;
        let mut span = pool.free.load(Relaxed);
        let mut walk = Walk::new();
        while span != 0 && !walk.circles(span) {
            let desc = self.desc(span)?;
            if desc.backed.load(Relaxed) != 0 {
                let start = self.arena.address(self.host, u64::from(span) << SPAN_SHIFT, SPAN)?;
                self.host.unback(start, SPAN as usize);
                // Only now: what has no memory is taken to be zeros.
                desc.backed.store(0, Relaxed);
            }
            span = desc.next.load(Relaxed);
        }
        tx.set(&pool, |p| &p.backed, 0);
        tx.commit();
        Ok(())
    }

    /// Takes a wholly free span off a class's list, into the thread's hands.
    fn detach_empty(&self, class: Class) -> Result<Option<u32>> {
        let head = self.head(class)?;
        let mut tx = self.lock(head.part(|h| &h.lock))?;
        let Some((span, desc)) = self.find_empty(&head, 0)? else { return Ok(None) };
        self.detach(&mut tx, &head, span, &desc)?;
        tx.set(&head, |h| &h.empties, head.empties.load(Relaxed).wrapping_sub(1));
        tx.commit();
        Ok(Some(span))
    }

    /// The first wholly free span of a class's list, behind `after` if that is not 0.
    fn find_empty(&self, head: &ClassHead, after: u32) -> Result<Option<(u32, Ref<'a, SpanDesc>)>> {
        let mut span =
            if after == 0 { head.partial.load(Relaxed) } else { self.desc(after)?.next.load(Relaxed) };
        if head.empties.load(Relaxed) == 0 {
            return Ok(None);
        }
        let mut walk = Walk::new();
        while span != 0 {
            if walk.circles(span) {
                return Err(ArenaError::Corrupt);
            }
            let desc = self.desc(span)?;
            if desc.used.load(Relaxed) == 0 {
                return Ok(Some((span, desc)));
            }
            span = desc.next.load(Relaxed);
        }
        Ok(None)
    }

    /// Punches the wholly free spans of a class of objects. (Processes map the slots' pages; there are few.) Somebody may just be locking a removed object there: such a
    /// span is left alone. (A lock taken on the zeroed page afterwards sees no object and is given back.)
    fn trim_stable(&self, class: Class) -> Result<()> {
        let head = self.head(class)?;
        let mut tx = self.lock(head.part(|h| &h.lock))?;
        let mut after = 0;
        let mut walk = Walk::new();
        while let Some((span, desc)) = self.find_empty(&head, after)? {
            if walk.circles(span) {
                return Err(ArenaError::Corrupt);
            }
            after = span;
            let blocks = desc.bump.load(Relaxed).min(class.per_span());
            if desc.backed.load(Relaxed) == 0 || blocks == 0 && desc.free.load(Relaxed) == 0 {
                continue;
            }
            let quiet =
                (0..blocks).all(|i| self.object_lock(span, class, i).is_ok_and(|lock| lock.close(self.host)));
            if quiet {
                let start = self.arena.address(self.host, u64::from(span) << SPAN_SHIFT, SPAN)?;
                // Before the memory goes, and with it the list of what is free.
                tx.set(&desc, |d| &d.free, 0);
                tx.set(&desc, |d| &d.bump, 0);
                tx.commit();
                // Zeroes the locks, which opens them.
                self.host.unback(start, SPAN as usize);
                desc.backed.store(0, Relaxed);
            } else {
                self.open_locks(span, class, blocks);
            }
        }
        drop(tx);
        Ok(())
    }

    /// The lock of a block of a class of objects.
    fn object_lock(&self, span: u32, class: Class, block: u32) -> Result<Ref<'a, Lock>> {
        let block = (u64::from(span) << SPAN_SHIFT) + u64::from(block) * class.size();
        self.arena.at_offset(self.host, block + OBJECT_LOCK)
    }

    /// Opens what is closed of a span of objects.
    fn open_locks(&self, span: u32, class: Class, blocks: u32) {
        for i in 0..blocks {
            if let Ok(lock) = self.object_lock(span, class, i) {
                lock.open(self.host);
            }
        }
    }

    /// Opens all that a broker had closed when it was killed. For the one that takes its place.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn open_closed(&self) -> Result<()> {
        for (span, class, desc) in self.spans()? {
            if Class::OBJECTS.contains(&class) && desc.backed.load(Relaxed) != 0 {
                self.open_locks(span, class, class.per_span());
            }
        }
        Ok(())
    }

    /// The slots of all processes, and of those that have ended and were not put right.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn processes(&self) -> Result<impl Iterator<Item = Ref<'a, ProcSlot>> + use<'a, H>> {
        let ctx = *self;
        let slots = self.spans()?.filter(|(_, class, _)| *class == Class::PROCESS);
        let slots = slots.flat_map(move |(span, class, desc)| {
            let blocks = desc.bump.load(Relaxed).min(class.per_span());
            (0..blocks).filter_map(move |i| {
                let offset = (u64::from(span) << SPAN_SHIFT) + u64::from(i) * class.size();
                ctx.at::<ProcSlot>(Handle::from_offset(offset)?).ok()
            })
        });
        Ok(slots.filter(|slot| slot.state.load(Acquire) != SLOT_FREE))
    }

    /// All spans that were ever cut, with the class that each is of.
    fn spans(&self) -> Result<impl Iterator<Item = (u32, Class, Ref<'a, SpanDesc>)> + use<'a, H>> {
        let ctx = *self;
        let cut = self.header()?.pool.bump.load(Relaxed).min(MAX_SPANS);
        let spans = (1..cut)
            .filter(|span| !span.is_multiple_of(PER_EXTENT) && !(IN_FIRST..PER_EXTENT).contains(span));
        Ok(spans.filter_map(move |span| {
            let desc = ctx.desc(span).ok()?;
            Some((span, Class(desc.class.load(Relaxed)), desc))
        }))
    }

    /// Adds a span of thread slots. For the broker.
    ///
    /// # Errors
    /// `NoMemory`; `Full` after 65 536 slots.
    pub fn add_thread_span(&self) -> Result<()> {
        let header = self.header()?;
        let count = header.thread_span_count.load(Relaxed);
        let spans: Ref<'_, ThreadSpans> = self.arena.at_offset(self.host, THREAD_SPANS_OFFSET)?;
        let place = spans.spans.get(count as usize).ok_or(ArenaError::Full)?;
        let span = self.take_span()?;
        let desc = self.desc(span)?;
        desc.class.store(Class::THREAD.0, Relaxed);
        self.wipe_span(span, &desc)?;
        self.back_span(span, &desc)?;
        place.store(span, Relaxed);
        // Whoever dies in between loses it; nobody has it twice.
        self.slot.in_flight.span.store(0, Relaxed);
        ordered(self.host);
        header.thread_span_count.store(count + 1, Release);
        Ok(())
    }
}

/// What of an arena is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Blocks of each size class that somebody owns, by the class's number; those that threads keep free for themselves
    /// don't count, nor do thread slots.
    pub blocks: [u32; CLASSES],
    /// Spans with memory under them.
    pub spans: u32,
}

impl<H: Host> Ctx<'_, H> {
    /// Counts what is in use. Exact where nobody is at work; elsewhere a hint, for diagnosis.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn usage(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        for (_, class, desc) in self.spans()? {
            usage.spans += u32::from(desc.backed.load(Relaxed) != 0);
            if class != Class::THREAD
                && let Some(blocks) = usage.blocks.get_mut(class.0 as usize)
            {
                *blocks = blocks.saturating_add(desc.used.load(Relaxed));
            }
        }
        // The founder's slot is none of the list.
        let founder = self.arena.at::<ThreadSlot, H>(self.host, crate::ctx::FOUNDER)?;
        for slot in self.threads()?.map(|(slot, ..)| slot).chain([founder]) {
            for (blocks, magazine) in usage.blocks.iter_mut().zip(&slot.get().magazines) {
                *blocks = blocks.saturating_sub(magazine.count.load(Relaxed).min(MAGAZINE as u32));
            }
        }
        Ok(usage)
    }
}

/// All thread slots there are, in use or not, from a place on (and around).
pub(crate) fn thread_slots<'a, H: Host>(
    arena: &'a crate::Arena,
    host: &'a H,
) -> Result<impl ExactSizeIterator<Item = Handle> + 'a> {
    let header: Ref<'_, SlabHeader> = arena.at_offset(host, HEADER_OFFSET)?;
    let spans: Ref<'_, ThreadSpans> = arena.at_offset(host, THREAD_SPANS_OFFSET)?;
    let count = (header.thread_span_count.load(Acquire) as usize).min(THREAD_SPANS);
    let per_span = Class::THREAD.per_span() as usize;
    Ok((0..count * per_span).map(move |i| {
        let span = u64::from(spans.get().spans[i / per_span].load(Relaxed));
        Handle::from_offset((span << SPAN_SHIFT) + (i % per_span) as u64 * Class::THREAD.size())
            .unwrap_or_default()
    }))
}
