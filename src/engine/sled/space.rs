//! Which units of the page file are in use: one bit a unit, in memory, found again from the index at every open.
//!
//! Invariants: a unit is given out only while it is free; releasing is the caller's word that nothing that could be read
//! after a crash refers to it. Space is sought from where the last was found (next fit), since what one flush replaced
//! is one long stretch for the next, and the search never takes longer than one pass. A page that would take most of a
//! block of the file system begins where one begins: a page astride two of them has both written, and read before that if
//! they are not in memory; and a hole left by such a page is one that the next one fits into.

use std::ops::Range;

/// The bytes of a unit: what every disk writes whole.
pub(super) const UNIT: u64 = 512;
/// The units of a block of the file system, which it reads and writes whole.
pub(super) const BLOCK_UNITS: u64 = 8;
/// The first bit of each byte of a word: where blocks begin.
const FIRST_BITS: u64 = 0x0101_0101_0101_0101;

#[derive(Debug, Default)]
pub(super) struct Space {
    words: Vec<u64>,
    /// Units that the file has.
    end: u64,
    used: u64,
    cursor: u64,
    /// No run of this many free units was found, and none has been released since.
    scarce: Option<u64>,
}

/// How many units `bytes` take.
pub(super) fn units(bytes: u32) -> u64 {
    u64::from(bytes).div_ceil(UNIT)
}

/// Whether a page of `count` units gets a block of its own: it takes more than half of one.
fn is_block(count: u64) -> bool {
    (BLOCK_UNITS / 2 + 1..=BLOCK_UNITS).contains(&count)
}

/// Whether a page of `count` units begins where a block does: it leaves little of its last one.
pub(super) fn begins_block(count: u64) -> bool {
    is_block(count) || 5 * count >= 4 * count.next_multiple_of(BLOCK_UNITS)
}

impl Space {
    /// Units in use.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Units in the file.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Whether most of the file is free.
    pub fn is_sparse(&self) -> bool {
        self.used < self.end / 4
    }

    /// Seeks space from the beginning of the file on.
    pub fn restart(&mut self) {
        self.cursor = 0;
    }

    /// Gives out `count` neighbouring units; returns the first.
    pub fn allocate(&mut self, count: u64) -> u64 {
        let free = self.end - self.used;
        let hopeless = free < count || self.scarce.is_some_and(|scarce| count >= scarce);
        let found = if hopeless { None } else { self.search(count) };
        let start = found.unwrap_or_else(|| {
            if !hopeless {
                self.scarce = Some(count);
            }
            let tail = self.tail();
            if begins_block(count) { tail.next_multiple_of(BLOCK_UNITS) } else { tail }
        });
        self.mark(start, count, true);
        self.cursor = start + count;
        start
    }

    /// Where the free units at the end of the file begin.
    fn tail(&self) -> u64 {
        let mut word = self.words.len();
        while word > 0 && self.words[word - 1] == 0 {
            word -= 1;
        }
        word.checked_sub(1).map_or(0, |word| {
            let last = 64 - u64::from(self.words[word].leading_zeros());
            word as u64 * 64 + last
        })
    }

    fn search(&self, count: u64) -> Option<u64> {
        let from = if self.cursor >= self.end { 0 } else { self.cursor };
        if is_block(count) {
            let words = (self.end / 64) as usize;
            let from = (from / 64) as usize;
            return self
                .search_blocks(from..words, count)
                .or_else(|| self.search_blocks(0..from.min(words), count));
        }
        // The second half overlaps the first by what a run may need, so that one astride the start is found.
        self.search_in(from, self.end, count)
            .or_else(|| self.search_in(0, (from + count).min(self.end), count))
    }

    /// The first block whose first `count` units are free.
    fn search_blocks(&self, words: Range<usize>, count: u64) -> Option<u64> {
        let wanted = FIRST_BITS * (u64::MAX >> (64 - count));
        let begin = words.start;
        self.words.get(words)?.iter().enumerate().find_map(|(index, word)| {
            let taken = word & wanted;
            // The highest bit of each byte that is zero, and perhaps of bytes above the first one that is.
            let free = taken.wrapping_sub(FIRST_BITS) & !taken & (FIRST_BITS << 7);
            let bit = u64::from(free.trailing_zeros()) / BLOCK_UNITS * BLOCK_UNITS;
            (free != 0).then_some((begin + index) as u64 * 64 + bit)
        })
    }

    fn search_in(&self, from: u64, to: u64, count: u64) -> Option<u64> {
        let align = if begins_block(count) { BLOCK_UNITS } else { 1 };
        let (mut start, mut at) = (from.next_multiple_of(align), from);
        while at < to {
            let word = self.words.get((at / 64) as usize).copied().unwrap_or(0) >> (at % 64);
            let left = 64 - at % 64;
            if word == 0 {
                at += left;
            } else {
                let free = u64::from(word.trailing_zeros());
                if (at + free).saturating_sub(start) < count {
                    let taken = u64::from((word >> free).trailing_ones());
                    at += free + taken;
                    start = at.next_multiple_of(align);
                    continue;
                }
                at += free;
            }
            if at.min(to).saturating_sub(start) >= count {
                return Some(start);
            }
        }
        None
    }

    /// Notes that `count` units from `start` on are in use; false if one of them was.
    pub fn occupy(&mut self, start: u64, count: u64) -> bool {
        if start.checked_add(count).is_none() {
            return false;
        }
        let free = self.is_free(start, count);
        if free {
            self.mark(start, count, true);
        }
        free
    }

    /// Whether none of `count` units from `start` on is in use.
    pub fn is_free(&self, start: u64, count: u64) -> bool {
        (start..start.saturating_add(count).min(self.end)).all(|unit| !self.is_used(unit))
    }

    fn is_used(&self, unit: u64) -> bool {
        self.words.get((unit / 64) as usize).is_some_and(|word| word >> (unit % 64) & 1 == 1)
    }

    pub fn release(&mut self, start: u64, count: u64) {
        self.mark(start, count, false);
        self.scarce = None;
    }

    fn mark(&mut self, start: u64, count: u64, used: bool) {
        let end = start + count;
        if end > self.end {
            self.end = end;
            self.words.resize(end.div_ceil(64) as usize, 0);
        }
        let mut at = start;
        while at < end {
            let (word, bit) = ((at / 64) as usize, at % 64);
            let here = (64 - bit).min(end - at);
            let mask = (u64::MAX >> (64 - here)) << bit;
            if used {
                self.words[word] |= mask;
            } else {
                self.words[word] &= !mask;
            }
            at += here;
        }
        if used {
            self.used += count;
        } else {
            self.used -= count;
        }
    }

    /// Gives up the free units at the end of the file if they are more than half of it; returns its new length in units.
    pub fn shrink(&mut self) -> Option<u64> {
        let tail = self.tail();
        if tail >= self.end / 2 {
            return None;
        }
        self.end = tail;
        self.words.truncate(tail.div_ceil(64) as usize);
        self.cursor = 0;
        self.scarce = None;
        Some(tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn space_is_found_where_it_is_and_the_file_grows_only_without() {
        let mut space = Space::default();
        let all: Vec<u64> = (0..100).map(|_| space.allocate(9)).collect();
        assert_eq!((space.end, space.used), (900, 900));
        for start in &all[..50] {
            space.release(*start, 9);
        }
        assert_eq!(space.allocate(450), 0);
        assert_eq!(space.allocate(1), 900);
        for start in &all[50..] {
            space.release(*start, 9);
        }
        space.release(0, 450);
        assert_eq!(space.shrink(), None);
        space.release(900, 1);
        assert_eq!((space.shrink(), space.end, space.used), (Some(0), 0, 0));
        assert!(space.occupy(3, 70));
        assert!(!space.occupy(72, 1));
        assert!(!space.occupy(u64::MAX, 2));
    }

    #[test]
    fn pages_of_about_a_block_have_one_each() {
        let mut space = Space::default();
        assert_eq!(space.allocate(3), 0);
        let starts: Vec<u64> = [7, 8, 5, 8, 6].map(|count| space.allocate(count)).into();
        assert_eq!(starts, [8, 16, 24, 32, 40]);
        (0..20).for_each(|_| assert_eq!(space.allocate(8) % BLOCK_UNITS, 0));
        let end = space.end();
        // Whatever such a page leaves, another one fits into, also beside a small one.
        space.release(8, 7);
        space.release(32, 8);
        assert!(space.occupy(15, 1));
        assert_eq!([space.allocate(8), space.allocate(6)], [32, 8]);
        assert_eq!(
            (space.allocate(13) % BLOCK_UNITS, space.end() > end),
            (0, true),
            "it leaves little of its last block"
        );
        // One that would leave much lies where there is room.
        let at = space.allocate(9);
        assert_eq!(space.allocate(9), at + 9);
    }

    proptest! {
        #[test]
        fn no_unit_is_given_out_twice(steps in proptest::collection::vec((1u64..200, any::<bool>(), any::<prop::sample::Index>()), 1..300)) {
            let (mut space, mut held) = (Space::default(), Vec::<(u64, u64)>::new());
            for (count, take, which) in steps {
                if take || held.is_empty() {
                    let start = space.allocate(count);
                    prop_assert!(held.iter().all(|(s, c)| start + count <= *s || s + c <= start));
                    held.push((start, count));
                } else {
                    let (start, count) = held.swap_remove(which.index(held.len()));
                    space.release(start, count);
                }
                prop_assert_eq!(space.used, held.iter().map(|(_, count)| count).sum::<u64>());
                // Whoever holds what another space would be told of, that one agrees.
                let mut copy = Space::default();
                prop_assert!(held.iter().all(|(start, count)| copy.occupy(*start, *count)));
            }
        }
    }
}
