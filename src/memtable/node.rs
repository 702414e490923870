//! A node's keys: the sorted part that leaves and inner nodes have in common.
//!
//! A key is held as the place of an entry and a *head*: eight of its bytes as a number (poor man's normalized keys, after
//! Graefe's survey of B-tree techniques). Nearly every search is decided by heads, in a few cache lines; keys themselves
//! are read only where heads are equal. A head is two windows of four bytes:
//!
//! ```text
//! tenant/0000001a/invoice/total        shared by all | A | shared by those with equal A | B
//! |------------||--|           |--|    The first begins at `skip`, the second at `second`. Where the second follows
//!           skip  A      second  B     the first directly, a head is eight bytes in one piece.
//! ```
//!
//! Invariants: keys ascend and differ; `heads[i]` belongs to `places[i]`; all keys share their first `skip` bytes; every
//! key that a search brings here shares `known` bytes with them, since it lies between the same two separators; keys whose
//! first windows are equal share their first `second` bytes, or `second` is `skip + 4`.

use super::arena::Place;
use super::entry::Entries;
use std::cmp::Ordering;

/// A head must be moved by at least this many bytes to make up for reading all keys of a node again.
const WORTH: usize = 4;
const WINDOW: usize = 4;

#[derive(Debug)]
pub(super) struct Keys<const N: usize> {
    heads: [u64; N],
    places: [Place; N],
    len: u16,
    known: u32,
    skip: u32,
    second: u32,
}

/// How many first bytes `a` and `b` share.
pub(super) fn shared(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The four bytes of `key` from `at` on, as a number; a shorter rest is filled up with zeros.
#[inline]
fn window(key: &[u8], at: usize) -> u32 {
    let rest = key.get(at..).unwrap_or_default();
    match rest.first_chunk::<WINDOW>() {
        Some(bytes) => u32::from_be_bytes(*bytes),
        None => rest.iter().enumerate().fold(0, |word, (i, byte)| word | u32::from(*byte) << (24 - 8 * i)),
    }
}

/// Both windows of `key`.
#[inline]
fn head(key: &[u8], skip: usize, second: usize) -> u64 {
    u64::from(window(key, skip)) << 32 | u64::from(window(key, second))
}

/// The first window of a head.
fn first(head: u64) -> u32 {
    (head >> 32) as u32
}

impl<const N: usize> Keys<N> {
    pub fn new() -> Self {
        Keys { heads: [0; N], places: [Place::NONE; N], len: 0, known: 0, skip: 0, second: WINDOW as u32 }
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
        let wanted = head(key, skip, self.second as usize);
        let heads = &self.heads[..self.len as usize];
        let begin = heads.partition_point(|head| *head < wanted);
        if self.is_apart() {
            match self.compare_between(entries, begin, wanted, key) {
                Ordering::Less => {
                    return (heads.partition_point(|head| first(*head) < first(wanted)), false);
                }
                Ordering::Greater => {
                    return (heads.partition_point(|head| first(*head) <= first(wanted)), false);
                }
                Ordering::Equal => {}
            }
        }
        let ties = heads[begin..].iter().take_while(|head| **head == wanted).count();
        let rest = key.get(skip..).unwrap_or_default();
        let (mut low, mut high) = (begin, begin + ties);
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

    /// Whether the windows are apart, so that what lies between them must be compared.
    fn is_apart(&self) -> bool {
        self.second as usize > self.skip as usize + WINDOW
    }

    /// A key beside position `at` whose first window is that of `head`.
    fn neighbour<'e>(&self, entries: &'e Entries, at: usize, head: u64) -> Option<&'e [u8]> {
        let group = |at: &usize| *at < self.len() && first(self.heads[*at]) == first(head);
        let found = Some(at).filter(group).or_else(|| at.checked_sub(1).filter(group))?;
        Some(entries.key(self.places[found]))
    }

    /// Where `key`, whose head belongs at `at`, lies relative to all keys with its first window.
    fn compare_between(&self, entries: &Entries, at: usize, head: u64, key: &[u8]) -> Ordering {
        let (skip, second) = (self.skip as usize, self.second as usize);
        let part = |key: &[u8]| skip.min(key.len())..second.min(key.len());
        match self.neighbour(entries, at, head) {
            Some(other) => key[part(key)].cmp(&other[part(other)]),
            None => Ordering::Equal,
        }
    }

    /// Puts a key, whose place is `place`, at `at`. The node is not full.
    pub fn insert(&mut self, entries: &Entries, at: usize, key: &[u8], place: Place) {
        let len = self.len();
        if self.skip > self.known && self.compare_skipped(entries, key) != Ordering::Equal {
            self.set_heads(entries, self.known as usize);
        }
        if self.is_apart() {
            let other = self.neighbour(entries, at, head(key, self.skip as usize, self.second as usize));
            let common = other.map_or(usize::MAX, |other| shared(key, other));
            if common < self.second as usize {
                self.second = (self.skip as usize + WINDOW).max(common) as u32;
                self.write_heads(entries);
            }
        }
        self.heads.copy_within(at..len, at + 1);
        self.places.copy_within(at..len, at + 1);
        self.heads[at] = head(key, self.skip as usize, self.second as usize);
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
        if count > 0 {
            (right.skip, right.second) = (self.skip, self.second);
        }
        right.known = self.known;
        self.len = at as u16;
        right
    }

    /// Says between which separators the node's keys lie, after a split.
    pub fn set_fences(&mut self, entries: &Entries, low: Option<&[u8]>, high: Option<&[u8]>) {
        self.known = match (low, high) {
            (Some(low), Some(high)) => shared(low, high) as u32,
            _ => 0,
        };
        self.fit(entries);
    }

    /// Moves the windows to where the keys differ, where that is worth it.
    fn fit(&mut self, entries: &Entries) {
        if self.len < 2 {
            return;
        }
        let least = entries.key(self.places[0]);
        let common = shared(least, entries.key(self.places[self.len() - 1]));
        if common >= self.skip as usize + WORTH || self.many_ties() {
            self.set_heads(entries, common);
        }
    }

    /// Whether more than one of eight heads does not tell its key from the next one.
    fn many_ties(&self) -> bool {
        let heads = &self.heads[..self.len as usize];
        8 * heads.windows(2).filter(|pair| pair[0] == pair[1]).count() > heads.len()
    }

    /// Puts the first window behind `skip` bytes, and the second where it tells the keys apart.
    fn set_heads(&mut self, entries: &Entries, skip: usize) {
        // Behind the longest of keys there is nothing to look at, and the second window must be countable.
        let skip = skip.min(usize::from(u16::MAX) - WINDOW);
        self.skip = skip as u32;
        let behind = skip + WINDOW;
        self.second = behind as u32;
        self.write_heads(entries);
        // One piece is better where it does: a search then has nothing to compare between the windows.
        if !self.many_ties() {
            return;
        }
        let tied = (1..self.len()).filter(|i| first(self.heads[i - 1]) == first(self.heads[*i]));
        let common = tied.map(|i| shared(entries.key(self.places[i - 1]), entries.key(self.places[i]))).min();
        if let Some(second) = common.filter(|common| *common > behind) {
            self.second = second as u32;
            self.write_heads(entries);
        }
    }

    fn write_heads(&mut self, entries: &Entries) {
        for i in 0..self.len() {
            self.heads[i] = head(entries.key(self.places[i]), self.skip as usize, self.second as usize);
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
            assert_eq!(self.heads[i], head(key, self.skip as usize, self.second as usize));
        }
        assert!(self.heads[..keys.len()].is_sorted(), "heads ascend with the keys");
        for (heads, keys) in self.heads.windows(2).zip(keys.windows(2)) {
            let group = first(heads[0]) == first(heads[1]);
            assert!(!self.is_apart() || !group || shared(keys[0], keys[1]) >= self.second as usize);
        }
        let known = low.zip(high).map_or(0, |(low, high)| shared(low, high));
        assert_eq!(self.known as usize, known, "a node knows what its fences share");
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
                let heads = head(a, 0, 4).cmp(&head(b, 0, 4));
                assert!(heads == Ordering::Equal || heads == a.cmp(b), "{a:?} {b:?}");
            }
        }
        assert_eq!(head(b"abc", 1, 5), u64::from_be_bytes(*b"bc\0\0\0\0\0\0"));
        assert_eq!(head(b"abc", 7, 11), 0);
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

    #[test]
    fn groups_of_keys_are_told_apart_by_a_second_window() {
        let mut entries = Entries::default();
        let mut keys = Keys::<64>::new();
        let mut add = |keys: &mut Keys<64>, key: String| {
            let place = entries.add(key.as_bytes(), crate::ids::Seq(1), None).unwrap();
            let (at, found) = keys.search(&entries, key.as_bytes());
            assert!(!found);
            keys.insert(&entries, at, key.as_bytes(), place);
            keys.check(&entries, None, None);
        };
        for i in 0..32u32 {
            add(&mut keys, format!("tenant/{:08x}/of a long name/invoice/{:04}", i % 4, i * 7 % 32));
        }
        assert!(keys.is_apart() && !keys.many_ties(), "{} {}", keys.skip, keys.second);
        assert!(keys.heads[..32].windows(2).all(|pair| pair[0] < pair[1]));
        // A shorter key, one below, one inside and one above what a group shares; then what the group shares itself.
        for name in ["", "/", "/of a", "/of a long name/invoicf", "/zzz", "/of a long name/invoice/", "\0"] {
            add(&mut keys, format!("tenant/{:08x}{name}", 2));
        }
        assert_eq!(keys.len(), 39);
    }
}
