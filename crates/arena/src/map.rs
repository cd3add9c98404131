//! From offsets to addresses: extents, and checked references into them.
//!
//! The offset space is divided into extents of 4 MiB. The first one is mapped to 1 MiB only, so that a small
//! namespace costs a small mapping. Extents are mapped when first needed and never unmapped while attached.
//!
//! # Safety
//! This file turns offsets into references. All of them pass [`Arena::at`], [`Arena::words`] or [`Arena::bytes`],
//! which check extent, alignment and end.

use core::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::NonNull;

use crate::{
    ArenaError, Handle, Host, Result,
    sync::{AtomicI32, AtomicI64, AtomicPtr, AtomicU16, AtomicU32, AtomicU64, Ordering::*},
};

/// Bits of an offset that lie inside an extent.
pub const EXTENT_SHIFT: u32 = 22;
/// Bytes of an extent of the offset space.
pub(crate) const EXTENT: u64 = 1 << EXTENT_SHIFT;
/// Bytes of the first extent that are mapped and used.
pub const FIRST_EXTENT: u64 = 1 << 20;
/// Most extents: 64 GiB.
pub const MAX_EXTENTS: usize = 1 << 14;
/// Where the root structure of the layer above lies.
pub(crate) const ROOT_OFFSET: u64 = 24576;
/// Bytes at the arena's start that the headers take.
pub(crate) const HEADERS: u64 = 65536;
/// Most bytes of the root structure; the last page is the founder's thread slot.
pub const ROOT_MAX: usize = (HEADERS - ROOT_OFFSET) as usize - 4096;

/// Types that may lie in shared memory.
///
/// # Safety
/// The type is `repr(C)`, consists of atomics (or arrays and structures of them) only, is valid for any bytes, and
/// is aligned to at most 64.
pub unsafe trait Shared {}
// SAFETY: plain atomics.
unsafe impl Shared for AtomicU16 {}
// SAFETY: plain atomics.
unsafe impl Shared for AtomicU32 {}
// SAFETY: plain atomics.
unsafe impl Shared for AtomicU64 {}
// SAFETY: plain atomics.
unsafe impl Shared for AtomicI32 {}
// SAFETY: plain atomics.
unsafe impl Shared for AtomicI64 {}
// SAFETY: an array of what may be shared.
unsafe impl<T: Shared, const N: usize> Shared for [T; N] {}

/// Declares structures that lie in shared memory. Only atomics and other declared structures can be fields, so the
/// layer above needs no `unsafe` of its own.
#[macro_export]
macro_rules! shared {
    ($($(#[$meta:meta])* $vis:vis struct $name:ident { $($(#[$fmeta:meta])* $fvis:vis $field:ident : $ty:ty,)* })*) => {
        $(
            $(#[$meta])*
            #[repr(C)]
            $vis struct $name { $($(#[$fmeta])* $fvis $field: $ty,)* }
            // SAFETY: `repr(C)`, and each field is `Shared`, as the bounds below demand.
            unsafe impl $crate::Shared for $name where $($ty: $crate::Shared,)* {}
            const _: () = assert!(core::mem::align_of::<$name>() <= 64);
        )*
    };
}

/// A checked reference into the arena, which knows where it points.
pub struct Ref<'a, T: ?Sized> {
    offset: u64,
    target: &'a T,
}

impl<T: ?Sized> Clone for Ref<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T: ?Sized> Copy for Ref<'_, T> {}

impl<T: ?Sized> Deref for Ref<'_, T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        self.target
    }
}

impl<'a, T: ?Sized> Ref<'a, T> {
    /// The block's name; of a part of a block, the name of the unit it begins in.
    #[inline(always)]
    pub fn handle(&self) -> Handle {
        #[expect(clippy::cast_possible_truncation, reason = "an offset is below MAX_EXTENTS << EXTENT_SHIFT")]
        Handle((self.offset / Handle::GRAIN) as u32)
    }

    /// Distance from the arena's start, bytes.
    #[inline(always)]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// A part of what is referred to.
    #[inline(always)]
    pub fn part<F: ?Sized>(&self, field: impl FnOnce(&'a T) -> &'a F) -> Ref<'a, F> {
        let part = field(self.target);
        let start = core::ptr::from_ref(self.target).cast::<u8>().addr();
        let at = core::ptr::from_ref(part).cast::<u8>().addr();
        debug_assert!(at >= start && at - start < size_of_val(self.target));
        Ref { offset: self.offset + (at.wrapping_sub(start)) as u64, target: part }
    }

    /// Its bytes, or the first `len` of them, for copying.
    #[inline(always)]
    pub fn bytes(&self, len: usize) -> SharedBytes<'a> {
        let len = len.min(size_of_val(self.target));
        SharedBytes { start: NonNull::from(self.target).cast(), len, arena: PhantomData }
    }

    /// The reference itself, for its whole life.
    #[inline(always)]
    pub fn get(&self) -> &'a T {
        self.target
    }
}

/// Bytes in the arena, for copying only: others may change them at any time.
#[derive(Clone, Copy)]
pub struct SharedBytes<'a> {
    start: NonNull<u8>,
    len: usize,
    arena: PhantomData<&'a Arena>,
}

impl SharedBytes<'_> {
    /// First byte; valid for `len` bytes.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }
    /// How many.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Copies as many bytes as both have.
    pub fn copy_from(&self, other: SharedBytes<'_>) {
        // SAFETY: both ranges are mapped and at least that long; `copy` allows them to overlap. Other processes may
        // change them meanwhile, which mixes bytes and nothing else.
        unsafe { self.start.copy_from(other.start, self.len.min(other.len)) };
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// A process's view of an arena: where each extent is mapped.
pub struct Arena {
    extents: [AtomicPtr<u8>; MAX_EXTENTS],
}

impl Default for Arena {
    fn default() -> Self {
        Self::new()
    }
}

impl Arena {
    /// An arena of which nothing is mapped.
    #[cfg(not(any(loom, shuttle)))]
    pub const fn new() -> Arena {
        Arena { extents: [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_EXTENTS] }
    }

    /// An arena of which nothing is mapped.
    #[cfg(any(loom, shuttle))]
    pub fn new() -> Arena {
        Arena { extents: [(); MAX_EXTENTS].map(|()| AtomicPtr::new(core::ptr::null_mut())) }
    }

    /// Forgets all mappings. The caller unmaps them, and nobody may use references from before.
    pub fn forget(&self) -> impl Iterator<Item = (u32, NonNull<u8>)> + '_ {
        (0u32..)
            .zip(&self.extents)
            .filter_map(|(i, e)| NonNull::new(e.swap(core::ptr::null_mut(), AcqRel)).map(|start| (i, start)))
    }

    /// Bytes of the extent that are mapped and used.
    pub const fn extent_len(index: u32) -> u64 {
        if index == 0 { FIRST_EXTENT } else { EXTENT }
    }

    #[cold]
    #[inline(never)]
    fn map<H: Host>(&self, host: &H, index: u32) -> Result<NonNull<u8>> {
        let slot = self.extents.get(index as usize).ok_or(ArenaError::Corrupt)?;
        let start = host.map_extent(index)?;
        // Two threads may both map it: the first one's address stays, the other's mapping is a spare one.
        match slot.compare_exchange(core::ptr::null_mut(), start.as_ptr(), AcqRel, Acquire) {
            Ok(_) => Ok(start),
            Err(first) => {
                host.unmap_spare(index, start);
                NonNull::new(first).ok_or(ArenaError::Corrupt)
            }
        }
    }

    /// Address of `len` bytes at `offset`, which must lie in one extent.
    #[inline(always)]
    pub(crate) fn address<H: Host>(&self, host: &H, offset: u64, len: u64) -> Result<NonNull<u8>> {
        let index = offset >> EXTENT_SHIFT;
        let within = offset & (EXTENT - 1);
        if index >= MAX_EXTENTS as u64 || within + len > EXTENT || (index == 0 && offset + len > FIRST_EXTENT)
        {
            return Err(ArenaError::Corrupt);
        }
        let start = match NonNull::new(self.extents[index as usize].load(Relaxed)) {
            Some(start) => start,
            #[expect(clippy::cast_possible_truncation, reason = "below MAX_EXTENTS")]
            None => self.map(host, index as u32)?,
        };
        // SAFETY: the extent is mapped as a whole (Host's promise) and `within + len` does not pass its end.
        Ok(unsafe { start.add(within as usize) })
    }

    /// The structure at a block's start.
    ///
    /// # Errors
    /// `Corrupt` for the null handle and for one outside the arena; `NoMemory` if the extent can't be mapped.
    #[inline(always)]
    pub fn at<T: Shared, H: Host>(&self, host: &H, block: Handle) -> Result<Ref<'_, T>> {
        const { assert!(align_of::<T>() <= 64) };
        if block.is_null() {
            return Err(ArenaError::Corrupt);
        }
        self.at_offset(host, block.offset())
    }

    /// The structure at an offset; used for the undo log and the arena's own header.
    #[inline(always)]
    pub(crate) fn at_offset<T: Shared, H: Host>(&self, host: &H, offset: u64) -> Result<Ref<'_, T>> {
        if !offset.is_multiple_of(align_of::<T>() as u64) {
            return Err(ArenaError::Corrupt);
        }
        let start = self.address(host, offset, size_of::<T>() as u64)?;
        // SAFETY: mapped for the arena's life, aligned as just checked (extents are page aligned), and `T: Shared`
        // is valid for any bytes and made of atomics, so that others may change it under the reference.
        Ok(Ref { offset, target: unsafe { start.cast::<T>().as_ref() } })
    }

    /// `count` atomics from `byte` bytes into a block.
    #[inline(always)]
    pub fn array<T: Shared, H: Host>(
        &self,
        host: &H,
        block: Handle,
        byte: u64,
        count: usize,
    ) -> Result<Ref<'_, [T]>> {
        let offset = block.offset().checked_add(byte).ok_or(ArenaError::Corrupt)?;
        if block.is_null() || offset % align_of::<T>() as u64 != 0 || count > EXTENT as usize {
            return Err(ArenaError::Corrupt);
        }
        let start = self.address(host, offset, (count * size_of::<T>()) as u64)?;
        let slice = NonNull::slice_from_raw_parts(start.cast::<T>(), count);
        // SAFETY: as in `at_offset`, for `count` elements, which `address` has checked to fit.
        Ok(Ref { offset, target: unsafe { slice.as_ref() } })
    }

    /// `len` bytes from `byte` bytes into a block.
    #[inline(always)]
    pub fn bytes<H: Host>(&self, host: &H, block: Handle, byte: u64, len: usize) -> Result<SharedBytes<'_>> {
        let offset = block.offset().checked_add(byte).ok_or(ArenaError::Corrupt)?;
        if block.is_null() {
            return Err(ArenaError::Corrupt);
        }
        Ok(SharedBytes { start: self.address(host, offset, len as u64)?, len, arena: PhantomData })
    }

    /// Fills part of a block with zeros.
    ///
    /// # Errors
    /// As [`Arena::bytes`].
    pub fn zero<H: Host>(&self, host: &H, block: Handle, byte: u64, len: usize) -> Result<()> {
        let bytes = self.bytes(host, block, byte, len)?;
        // SAFETY: mapped and `len` long, as `bytes` has checked. A block that is being zeroed is the caller's alone;
        // should another process write it all the same, bytes get mixed, which readers check for.
        unsafe { bytes.start.write_bytes(0, bytes.len) };
        Ok(())
    }

    /// Has a block's first two cache lines fetched, which are to be written soon. Only a hint, whatever the handle is.
    #[inline(always)]
    pub(crate) fn fetch(&self, block: Handle) {
        const LINE: usize = 64;
        let Some(extent) = self.extents.get((block.offset() >> EXTENT_SHIFT) as usize) else { return };
        let start = extent.load(Relaxed).wrapping_add((block.offset() & (EXTENT - 1)) as usize);
        for line in [start, start.wrapping_add(LINE)] {
            // SAFETY: whatever is there, it is neither read nor written, and nothing comes of an address without memory.
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(line.cast()) };
        }
    }

    /// The root structure of the layer above, at a fixed place.
    #[inline(always)]
    pub fn root<T: Shared, H: Host>(&self, host: &H) -> Result<Ref<'_, T>> {
        const { assert!(size_of::<T>() <= ROOT_MAX) };
        self.at_offset(host, ROOT_OFFSET)
    }
}
