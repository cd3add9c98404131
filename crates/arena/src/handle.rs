//! Names of blocks.

use core::fmt;

/// Names a block of the arena by its distance from the start in units of 64 bytes. Zero names none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(transparent)]
pub struct Handle(pub u32);

impl Handle {
    /// Bytes of a unit.
    pub const GRAIN: u64 = 64;
    /// No block.
    pub const NULL: Handle = Handle(0);

    /// Whether it names none.
    #[inline(always)]
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }

    /// Distance from the arena's start, bytes.
    #[inline(always)]
    pub const fn offset(self) -> u64 {
        self.0 as u64 * Self::GRAIN
    }

    /// The block at a distance, if that is a multiple of the unit and in range.
    pub fn from_offset(offset: u64) -> Option<Handle> {
        offset.is_multiple_of(Self::GRAIN).then(|| u32::try_from(offset / Self::GRAIN).ok().map(Handle))?
    }

    /// None for the null handle.
    #[inline(always)]
    pub const fn some(self) -> Option<Handle> {
        if self.is_null() { None } else { Some(self) }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{:#x}", self.offset())
    }
}
