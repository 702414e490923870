//! Places for pages in memory, reached by number.
//!
//! Invariants: a place never moves and is never given back, so a number that was once handed out can be asked for without a
//! lock on the whole; what lies in a place says itself which page it is.

use super::frame::Page;
use parking_lot::RwLock;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU8;

/// The number of no slot.
pub(super) const NO_SLOT: u32 = u32::MAX;
/// Slots of the first pieces; every `STEPS` pieces they double, so that at most a quarter of all lie unused.
const FIRST: u64 = 1024;
const STEPS: u64 = 4;
/// Enough for all numbers below [`NO_SLOT`].
const PIECES: usize = 84;

/// Where one page may lie. A line of memory each: a reader that knows the number waits for one line before the page.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Slot {
    /// Locked for a search in the page or a swap, never over I/O.
    pub held: RwLock<Option<Held>>,
    /// How often it was asked for lately.
    pub used: AtomicU8,
}

/// A page and its id.
#[derive(Debug)]
pub(super) struct Held {
    pub id: u64,
    pub page: Page,
}

#[derive(Debug)]
pub(super) struct Slots {
    pieces: [OnceLock<Box<[Slot]>>; PIECES],
}

impl Default for Slots {
    fn default() -> Self {
        Slots { pieces: [const { OnceLock::new() }; PIECES] }
    }
}

/// The piece of a slot, how many the piece has, and which of them it is.
#[inline]
fn locate(number: u32) -> (usize, usize, usize) {
    let at = u64::from(number) + FIRST * STEPS;
    let doubled = (at / (FIRST * STEPS)).ilog2();
    let len = FIRST << doubled;
    let piece = (at >> (FIRST.ilog2() + doubled)) - STEPS;
    ((STEPS * u64::from(doubled) + piece) as usize, len as usize, (at & (len - 1)) as usize)
}

impl Slots {
    /// The slot with a number that was handed out.
    #[inline]
    pub fn get(&self, number: u32) -> Option<&Slot> {
        let (piece, _, index) = locate(number);
        self.pieces.get(piece)?.get()?.get(index)
    }

    /// The slot, which is made if it is a new one.
    pub fn make(&self, number: u32) -> Option<&Slot> {
        let (piece, len, index) = locate(number);
        let piece =
            self.pieces.get(piece)?.get_or_init(|| std::iter::repeat_with(Slot::default).take(len).collect());
        piece.get(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_slot_of_its_own() {
        let mut next = (0, 0);
        for number in 0..200_000 {
            let (piece, len, index) = locate(number);
            assert_eq!((piece, index), next);
            next = if index + 1 == len { (piece + 1, 0) } else { (piece, index + 1) };
        }
        assert!(locate(NO_SLOT).0 < PIECES);
        assert_eq!(size_of::<Slot>(), 64);
    }

    #[test]
    fn a_slot_that_was_not_made_is_none() {
        let slots = Slots::default();
        assert!(slots.get(3).is_none());
        assert!(slots.get(NO_SLOT).is_none());
        let made: *const Slot = slots.make(5000).unwrap();
        assert!(std::ptr::eq(slots.get(5000).unwrap(), made));
    }
}
