//! Where the sleepers of one host are woken that serves many of them with few threads.
//!
//! Each thread slot has a bell. A waiter that names one, and a place of it, is not woken on its own word: its place is marked
//! and the bell rung. So the host sleeps on one word, and looks only at those who were woken.
//!
//! Marking is idempotent: whoever goes on with a dead waker's duties marks again, and a mark for nobody, left by an earlier
//! owner of the slot, is seen through as any spurious wake is.
//!
//! Ordering: a place is marked before its summary, and both before the bell is rung, all with `AcqRel`.

use crate::{
    Host,
    sync::{AtomicU32, AtomicU64, Ordering::*},
};

const WORDS: usize = 64;
/// Sleepers that one bell can have.
pub const PLACES: u32 = 64 * WORDS as u32;

crate::shared! {
    /// A bell with its places.
    pub struct Bell {
        /// Moves on with each ring; the futex word.
        word: AtomicU32,
        pad: AtomicU32,
        /// Which words of `places` may have a mark.
        summary: AtomicU64,
        places: [AtomicU64; WORDS],
    }
}

impl Bell {
    /// Marks a place and rings.
    pub fn ring<H: Host>(&self, host: &H, place: u32) {
        let (word, bit) = (place / 64, place % 64);
        let Some(marks) = self.places.get(word as usize) else { return };
        marks.fetch_or(1 << bit, AcqRel);
        self.summary.fetch_or(1 << word, AcqRel);
        self.nudge(host);
    }

    /// Rings for no place in particular.
    pub fn nudge<H: Host>(&self, host: &H) {
        self.word.fetch_add(1, AcqRel);
        host.wake(&self.word, 1);
    }

    /// The word to sleep on while nobody rings.
    pub fn word(&self) -> &AtomicU32 {
        &self.word
    }

    /// Takes the marked places.
    pub fn take(&self, mut each: impl FnMut(u32)) {
        for word in bits(self.summary.swap(0, AcqRel)) {
            for bit in bits(self.places[word as usize].swap(0, AcqRel)) {
                each(word * 64 + bit);
            }
        }
    }
}

/// The numbers of the bits that are set.
fn bits(mut word: u64) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        let bit = word.trailing_zeros();
        word &= word.wrapping_sub(1);
        (bit < 64).then_some(bit)
    })
}
