//! Where a key's entry is, by hash: a lookup takes one step instead of the way down the tree, and a key that is not
//! there is mostly known by one slot.
//!
//! Open addressing with linear probing, in segments that grow by themselves, so that growing never holds up a write
//! for long. A slot is 32 bits of the key's hash beside its entry's place; positions follow the order of hashes, so
//! growing is one pass from front to back. SipHash with a seed: who chooses the keys cannot choose their slots.
//!
//! Invariants: from a key's home slot up to its own there is no empty one; at most three quarters of a segment are used.

use super::arena::Place;
use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;

const SEGMENTS: usize = 512;
const FIRST_SLOTS: usize = 32;
const EMPTY: u64 = u64::MAX;

#[derive(Debug)]
pub(super) struct Index {
    segments: Vec<Segment>,
    /// Slots of all segments.
    slots: usize,
    seed: u64,
}

#[derive(Debug, Default, Clone)]
struct Segment {
    /// Hash above, place below.
    slots: Vec<u64>,
    used: usize,
}

/// A key's hash: which segment, and what stands in its slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hash(u64);

impl Hash {
    fn segment(self) -> usize {
        (self.0 % SEGMENTS as u64) as usize
    }

    fn tag(self) -> u64 {
        self.0 >> 32
    }
}

/// Where a search for `tag` begins among `count` slots.
#[inline]
fn home(tag: u64, count: usize) -> usize {
    ((tag * count as u64) >> 32) as usize
}

impl Index {
    pub fn new(seed: u64) -> Self {
        Index { segments: vec![Segment::default(); SEGMENTS], slots: 0, seed }
    }

    #[inline]
    pub fn hash(&self, key: &[u8]) -> Hash {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.seed);
        hasher.write(key);
        Hash(hasher.finish())
    }

    /// The entry with this hash for which `is_it` holds.
    #[inline]
    pub fn find(&self, hash: Hash, is_it: impl Fn(Place) -> bool) -> Option<Place> {
        let slots = self.segments[hash.segment()].slots.as_slice();
        if slots.is_empty() {
            return None;
        }
        let mut at = home(hash.tag(), slots.len());
        loop {
            let slot = slots[at];
            if slot == EMPTY {
                return None;
            }
            if slot >> 32 == hash.tag() && is_it(Place(slot as u32)) {
                return Some(Place(slot as u32));
            }
            at += 1;
            if at == slots.len() {
                at = 0;
            }
        }
    }

    /// Adds an entry that is not there.
    pub fn add(&mut self, hash: Hash, place: Place) {
        let segment = &mut self.segments[hash.segment()];
        if 4 * (segment.used + 1) > 3 * segment.slots.len() {
            self.slots += segment.grow();
        }
        segment.put(hash.tag() << 32 | u64::from(place.0));
        segment.used += 1;
    }

    pub fn bytes(&self) -> usize {
        self.slots * size_of::<u64>() + SEGMENTS * size_of::<Segment>()
    }
}

impl Segment {
    /// Returns by how many slots.
    fn grow(&mut self) -> usize {
        let count = (self.slots.len() / 2 * 3).max(FIRST_SLOTS);
        let old = std::mem::replace(&mut self.slots, vec![EMPTY; count]);
        let before = old.len();
        for slot in old {
            if slot != EMPTY {
                self.put(slot);
            }
        }
        count - before
    }

    fn put(&mut self, slot: u64) {
        let count = self.slots.len();
        let mut at = home(slot >> 32, count);
        while self.slots[at] != EMPTY {
            at += 1;
            if at == count {
                at = 0;
            }
        }
        self.slots[at] = slot;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_added_and_nothing_else() {
        let mut index = Index::new(5);
        for i in 0..50_000u32 {
            let hash = index.hash(&i.to_le_bytes());
            assert_eq!(index.find(hash, |place| place == Place(i)), None);
            index.add(hash, Place(i));
        }
        for i in 0..50_000u32 {
            let hash = index.hash(&i.to_le_bytes());
            assert_eq!(index.find(hash, |place| place == Place(i)), Some(Place(i)));
        }
        for i in 50_000..100_000u32 {
            let hash = index.hash(&i.to_le_bytes());
            assert_eq!(index.find(hash, |place| place == Place(i)), None);
        }
        assert!(index.bytes() < 50_000 * 17, "{}", index.bytes());
    }

    #[test]
    fn equal_hashes_are_told_apart_and_wrap_around() {
        let mut index = Index::new(0);
        let last = Hash(u64::MAX);
        for i in 0..1_000 {
            index.add(last, Place(i));
        }
        for i in 0..1_000 {
            assert_eq!(index.find(last, |place| place == Place(i)), Some(Place(i)));
        }
        assert_eq!(index.find(last, |_| false), None);
        assert_eq!(index.find(Hash(SEGMENTS as u64 - 1), |_| true), None);
    }

    #[test]
    fn another_seed_gives_other_slots() {
        let (a, b) = (Index::new(1), Index::new(2));
        assert_ne!(a.hash(b"key").0, b.hash(b"key").0);
        assert_eq!(a.hash(b"key").0, Index::new(1).hash(b"key").0);
    }
}
