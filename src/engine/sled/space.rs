//! Which units of the page file are in use: one bit a unit, in memory, found again from the index at every open.
//!
//! Invariants: a unit is given out only while it is free; releasing is the caller's word that nothing that could be read
//! after a crash refers to it. Space is sought from where the last was found (next fit), since what one flush replaced
//! is one long stretch for the next, and the search never takes longer than one pass.

/// The bytes of a unit: what every disk writes whole.
pub(super) const UNIT: u64 = 512;

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
            self.tail()
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
        // The second half overlaps the first by what a run may need, so that one astride the start is found.
        self.search_in(from, self.end, count)
            .or_else(|| self.search_in(0, (from + count).min(self.end), count))
    }

    fn search_in(&self, from: u64, to: u64, count: u64) -> Option<u64> {
        let (mut start, mut at) = (from, from);
        while at < to {
            let word = self.words.get((at / 64) as usize).copied().unwrap_or(0) >> (at % 64);
            let left = 64 - at % 64;
            if word == 0 {
                at += left;
            } else {
                let free = u64::from(word.trailing_zeros());
                if at + free - start < count {
                    let taken = u64::from((word >> free).trailing_ones());
                    at += free + taken;
                    start = at;
                    continue;
                }
                at += free;
            }
            if at.min(to) - start >= count {
                return Some(start);
            }
        }
        None
    }

    /// Notes that `count` units from `start` on are in use; false if one of them was.
    pub fn occupy(&mut self, start: u64, count: u64) -> bool {
        let Some(end) = start.checked_add(count) else { return false };
        let free = (start..end.min(self.end)).all(|unit| !self.is_used(unit));
        if free {
            self.mark(start, count, true);
        }
        free
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
