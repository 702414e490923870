//! A node's keys: the sorted part that leaves and inner nodes have in common.
//!
//! A key is held as the place of an entry and a *head*: eight of its bytes, from behind what all keys of the node have
//! in common, as a number (poor man's normalized keys, after Graefe's survey of B-tree techniques). Nearly every search
//! is decided by heads, in a few cache lines; keys themselves are read only where heads are equal.
//!
//! Invariants: keys ascend and differ; all of them share their first `skip` bytes; every key that a search brings here
//! shares `known` bytes with them, since it lies between the same two separators. `heads[i]` belongs to `places[i]`.

use super::arena::Place;
use super::entry::Entries;
use std::cmp::Ordering;

/// A head must be moved by at least this many bytes to make up for reading all keys of a node again.
const WORTH: usize = 4;

#[derive(Debug)]
pub(super) struct Keys<const N: usize> {
    heads: [u64; N],
    places: [Place; N],
    len: u16,
    known: u16,
    skip: u16,
}

/// How many first bytes `a` and `b` share.
pub(super) fn shared(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The eight bytes of `key` from `skip` on, as a number; a shorter rest is filled up with zeros.
#[inline]
fn head(key: &[u8], skip: usize) -> u64 {
    let rest = key.get(skip..).unwrap_or_default();
    match rest.first_chunk::<8>() {
        Some(bytes) => u64::from_be_bytes(*bytes),
        None => rest.iter().enumerate().fold(0, |head, (i, byte)| head | u64::from(*byte) << (56 - 8 * i)),
    }
}

impl<const N: usize> Keys<N> {
    pub fn new() -> Self {
        Keys { heads: [0; N], places: [Place::NONE; N], len: 0, known: 0, skip: 0 }
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    pub fn is_full(&self) -> bool {
        self.len() == N
    }

    #[inline]
    pub fn place(&self, at: usize) -> Place {
        self.places[at]
    }

    #[inline]
    pub fn places(&self) -> &[Place] {
        &self.places[..self.len as usize]
    }

    /// The first position whose key is not below `key`, and whether it is `key`.
    #[inline]
    pub fn search(&self, entries: &Entries, key: &[u8]) -> (usize, bool) {
        let skip = self.skip as usize;
        if self.skip > self.known {
            match self.compare_skipped(entries, key) {
                Ordering::Less => return (0, false),
                Ordering::Greater => return (self.len(), false),
                Ordering::Equal => {}
            }
        }
        let wanted = head(key, skip);
        let heads = &self.heads[..self.len as usize];
        let first = heads.partition_point(|head| *head < wanted);
        let ties = heads[first..].iter().take_while(|head| **head == wanted).count();
        let rest = key.get(skip..).unwrap_or_default();
        let (mut low, mut high) = (first, first + ties);
        while low < high {
            let middle = (low + high) / 2;
            let other = entries.key(self.places[middle]);
            match other.get(skip..).unwrap_or_default().cmp(rest) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return (middle, true),
                Ordering::Greater => high = middle,
            }
        }
        (low, false)
    }

    /// Where `key` lies relative to all keys that share this node's first `skip` bytes.
    #[cold]
    fn compare_skipped(&self, entries: &Entries, key: &[u8]) -> Ordering {
        let (known, skip) = (self.known as usize, self.skip as usize);
        let common = &entries.key(self.places[0])[known..skip];
        key[known..key.len().min(skip)].cmp(common)
    }

    /// Puts a key, whose place is `place`, at `at`. The node is not full.
    pub fn insert(&mut self, entries: &Entries, at: usize, key: &[u8], place: Place) {
        let len = self.len();
        if self.skip > self.known && self.compare_skipped(entries, key) != Ordering::Equal {
            self.set_skip(entries, self.known as usize);
        }
        self.heads.copy_within(at..len, at + 1);
        self.places.copy_within(at..len, at + 1);
        self.heads[at] = head(key, self.skip as usize);
        self.places[at] = place;
        self.len += 1;
        if self.len.is_power_of_two() && self.len > 2 {
            self.fit(entries);
        }
    }

    /// Moves the keys from `at` on into a new node, leaving out the first `without` of them.
    pub fn split_off(&mut self, at: usize, without: usize) -> Self {
        let mut right = Self::new();
        let from = at + without;
        let count = self.len() - from;
        right.heads[..count].copy_from_slice(&self.heads[from..from + count]);
        right.places[..count].copy_from_slice(&self.places[from..from + count]);
        right.len = count as u16;
        right.skip = if count == 0 { 0 } else { self.skip };
        right.known = self.known;
        self.len = at as u16;
        right
    }

    /// Says between which separators the node's keys lie, after a split.
    pub fn set_fences(&mut self, entries: &Entries, low: Option<&[u8]>, high: Option<&[u8]>) {
        self.known = match (low, high) {
            (Some(low), Some(high)) => shared(low, high) as u16,
            _ => 0,
        };
        self.fit(entries);
    }

    /// Moves the heads behind what all keys share, where that is worth it.
    fn fit(&mut self, entries: &Entries) {
        if self.len < 2 {
            return;
        }
        let first = entries.key(self.places[0]);
        let common = shared(first, entries.key(self.places[self.len() - 1]));
        if common >= self.skip as usize + WORTH {
            self.set_skip(entries, common);
        }
    }

    fn set_skip(&mut self, entries: &Entries, skip: usize) {
        self.skip = skip as u16;
        for i in 0..self.len() {
            self.heads[i] = head(entries.key(self.places[i]), skip);
        }
    }

    /// Panics where an invariant does not hold.
    #[cfg(test)]
    pub fn check(&self, entries: &Entries, low: Option<&[u8]>, high: Option<&[u8]>) {
        let keys: Vec<&[u8]> = self.places().iter().map(|place| entries.key(*place)).collect();
        assert!(keys.windows(2).all(|pair| pair[0] < pair[1]), "keys ascend");
        for (i, key) in keys.iter().enumerate() {
            assert!(
                low.is_none_or(|low| low <= *key) && high.is_none_or(|high| *key < high),
                "inside the fences"
            );
            assert_eq!(key[..self.skip as usize], keys[0][..self.skip as usize]);
            assert_eq!(self.heads[i], head(key, self.skip as usize));
        }
        if self.known > 0 {
            assert!(shared(low.unwrap(), high.unwrap()) >= self.known as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_orders_as_the_bytes_do() {
        let keys: [&[u8]; 8] = [
            b"",
            b"\0",
            b"\0\0",
            b"a",
            b"a\0",
            b"abcdefgh",
            b"abcdefgh\0",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ];
        for a in keys {
            for b in keys {
                let heads = head(a, 0).cmp(&head(b, 0));
                assert!(heads == Ordering::Equal || heads == a.cmp(b), "{a:?} {b:?}");
            }
        }
        assert_eq!(head(b"abc", 1), u64::from_be_bytes(*b"bc\0\0\0\0\0\0"));
        assert_eq!(head(b"abc", 7), 0);
    }

    #[test]
    fn keys_that_share_much_are_told_apart_by_their_heads() {
        let mut entries = Entries::default();
        let mut keys = Keys::<64>::new();
        for i in 0..40u32 {
            let key = format!("user/{:012}", i * 7);
            let place = entries.add(key.as_bytes(), crate::ids::Seq(1), None).unwrap();
            let (at, found) = keys.search(&entries, key.as_bytes());
            assert!(!found && at == i as usize);
            keys.insert(&entries, at, key.as_bytes(), place);
        }
        assert!(keys.skip >= 13, "{}", keys.skip);
        assert!(keys.heads[..40].windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(keys.search(&entries, b"user/000000000000"), (0, true));
        assert_eq!(keys.search(&entries, b"user/"), (0, false));
        assert_eq!(keys.search(&entries, b"user0"), (40, false));
        assert_eq!(keys.search(&entries, b"user/000000000001"), (1, false));
        // A key that does not share what the others do moves the heads back.
        let other = entries.add(b"zebra", crate::ids::Seq(1), None).unwrap();
        keys.insert(&entries, 40, b"zebra", other);
        keys.check(&entries, None, None);
        assert_eq!(keys.search(&entries, b"zebra"), (40, true));
    }
}
