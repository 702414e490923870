//! A record: one version of one key, and the rule that says which versions must be kept.
//!
//! Invariants: versions of a key are ordered newest first; at most one version of a key carries a given sequence.

use crate::ids::Seq;
use bytes::Bytes;

/// One version of a key in a sorted run (key ascending, then sequence descending). No value: the key was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunRecord<'a> {
    pub key: &'a [u8],
    pub seq: Seq,
    pub value: Option<&'a [u8]>,
}

/// A live value and the write that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub seq: Seq,
    pub value: Bytes,
}

/// Whether a snapshot still needs a version at `old` although the key's next newer version is at `newer`.
/// `live` holds the sequences of the live snapshots, ascending.
pub fn is_needed(live: &[Seq], old: Seq, newer: Seq) -> bool {
    // A snapshot at s sees `old` exactly when old <= s < newer.
    let first = live.partition_point(|s| *s < old);
    live.get(first).is_some_and(|s| *s < newer)
}

/// A half-open range of keys: from `lo` up to, and without, `hi` (no `hi`: to the end).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    pub lo: Vec<u8>,
    pub hi: Option<Vec<u8>>,
}

impl KeyRange {
    pub fn is_empty(&self) -> bool {
        self.hi.as_ref().is_some_and(|hi| *hi <= self.lo)
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        key >= self.lo.as_slice() && self.hi.as_ref().is_none_or(|hi| key < hi.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_needed_only_between_itself_and_the_next() {
        let live = [Seq(5), Seq(9)];
        assert!(is_needed(&live, Seq(5), Seq(6)));
        assert!(is_needed(&live, Seq(3), Seq(6)));
        assert!(!is_needed(&live, Seq(6), Seq(9)));
        assert!(is_needed(&live, Seq(6), Seq(10)));
        assert!(!is_needed(&live, Seq(10), Seq(20)));
        assert!(!is_needed(&[], Seq(1), Seq(2)));
    }
}
