//! One record of a page, as the page's bytes show it.

use crate::ids::Seq;
use std::cmp::Ordering;

/// A version of a key. The key is `head` followed by `tail`, so that a record of a page (shared prefix, own suffix) and
/// one of a run (nothing, whole key) are the same thing without copying either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    pub head: &'a [u8],
    pub tail: &'a [u8],
    pub seq: Seq,
    pub content: Content<'a>,
}

/// What a version says about its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content<'a> {
    Value(&'a [u8]),
    /// The key was removed.
    Tombstone,
}

impl<'a> Entry<'a> {
    pub fn key_len(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    pub fn key(&self) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.key_len());
        self.push_key(0, &mut key);
        key
    }

    /// Appends the key from its byte `skip` on.
    pub fn push_key(&self, skip: usize, out: &mut Vec<u8>) {
        match self.head.get(skip..) {
            Some(rest) => {
                out.extend_from_slice(rest);
                out.extend_from_slice(self.tail);
            }
            None => out.extend_from_slice(self.tail.get(skip - self.head.len()..).unwrap_or(&[])),
        }
    }

    pub fn cmp_key(&self, key: &[u8]) -> Ordering {
        match key.split_at_checked(self.head.len()) {
            Some((head, tail)) => self.head.cmp(head).then_with(|| self.tail.cmp(tail)),
            // A key shorter than the head: they differ inside it, or the key is a prefix of it and so comes first.
            None => self.head.cmp(key),
        }
    }

    pub fn same_key(&self, other: &Entry<'_>) -> bool {
        if self.head.len() == other.head.len() {
            return same_bytes(self.tail, other.tail) && self.head == other.head;
        }
        self.key_len() == other.key_len() && self.common_prefix(other) == self.key_len()
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.head.get(at).or_else(|| self.tail.get(at.wrapping_sub(self.head.len()))).copied()
    }

    /// The first two bytes of the key from its byte `skip` on, as a number that orders as they do.
    pub(super) fn stem(&self, skip: usize) -> u16 {
        let byte = |at| self.byte(at).unwrap_or_default();
        u16::from_be_bytes([byte(skip), byte(skip + 1)])
    }

    /// How many leading bytes two keys share.
    pub fn common_prefix(&self, other: &Entry<'_>) -> usize {
        let skip = if std::ptr::eq(self.head, other.head) { self.head.len() } else { 0 };
        (skip..)
            .take_while(|at| self.byte(*at).is_some_and(|byte| other.byte(*at) == Some(byte)))
            .last()
            .map_or(skip, |at| at + 1)
    }
}

/// Equality, told by the last byte first: neighbouring keys mostly differ there.
#[inline]
pub(crate) fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.last() == b.last() && a == b
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(key: &[u8], at: usize) -> Entry<'_> {
        let (head, tail) = key.split_at(at.min(key.len()));
        Entry { head, tail, seq: Seq(1), content: Content::Tombstone }
    }

    proptest! {
        #[test]
        fn a_split_key_behaves_like_the_whole(
            a in proptest::collection::vec(0u8..3, 0..6), b in proptest::collection::vec(0u8..3, 0..6),
            x in 0usize..7, y in 0usize..7, skip in 0usize..7,
        ) {
            let (ea, eb) = (split(&a, x), split(&b, y));
            prop_assert_eq!(ea.cmp_key(&b), a.cmp(&b));
            prop_assert_eq!(ea.same_key(&eb), a == b);
            prop_assert_eq!(ea.common_prefix(&eb), a.iter().zip(&b).take_while(|(p, q)| p == q).count());
            let mut out = Vec::new();
            ea.push_key(skip, &mut out);
            prop_assert_eq!(&out[..], a.get(skip..).unwrap_or(&[]));
            prop_assert_eq!(ea.key(), a);
        }
    }
}
