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

/// Versions copied out of an engine, in the order of a run (key ascending, then sequence descending), tombstones included.
/// Their bytes lie one after another in one buffer.
#[derive(Debug, Default)]
pub struct RunBuffer {
    bytes: Vec<u8>,
    spans: Vec<Span>,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    start: usize,
    key: usize,
    value: Option<usize>,
    seq: Seq,
}

impl RunBuffer {
    /// Adds a version of the key that `head` and `tail` make together.
    pub fn push(&mut self, head: &[u8], tail: &[u8], seq: Seq, value: Option<&[u8]>) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(head);
        self.bytes.extend_from_slice(tail);
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.spans.push(Span { start, key: head.len() + tail.len(), value: value.map(<[u8]>::len), seq });
    }

    /// A copy of a run.
    pub fn of(run: &[RunRecord<'_>]) -> RunBuffer {
        let mut copy = RunBuffer::default();
        copy.bytes.reserve(run.iter().map(|r| r.key.len() + r.value.map_or(0, <[u8]>::len)).sum());
        run.iter().for_each(|record| copy.push(&[], record.key, record.seq, record.value));
        copy
    }

    /// The same as a run.
    pub fn run(&self) -> Vec<RunRecord<'_>> {
        self.records().collect()
    }

    pub fn records(&self) -> impl DoubleEndedIterator<Item = RunRecord<'_>> + ExactSizeIterator {
        (0..self.spans.len()).map(|index| self.record(index))
    }

    /// The version at `index`, which must be there.
    pub fn record(&self, index: usize) -> RunRecord<'_> {
        let span = &self.spans[index];
        let end = span.start + span.key;
        RunRecord {
            key: &self.bytes[span.start..end],
            seq: span.seq,
            value: span.value.map(|length| &self.bytes[end..end + length]),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Takes back what was added from `key` on.
    pub fn truncate(&mut self, key: &[u8]) {
        let keep = self.spans.partition_point(|s| &self.bytes[s.start..s.start + s.key] < key);
        if let Some(first) = self.spans.get(keep) {
            self.bytes.truncate(first.start);
            self.spans.truncate(keep);
        }
    }
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
    fn copied_versions_come_back_as_they_went_in_and_are_cut_by_key() {
        let mut copied = RunBuffer::default();
        copied.push(b"a", b"1", Seq(5), Some(b"x"));
        copied.push(b"", b"a1", Seq(3), None);
        copied.push(b"a", b"2", Seq(4), Some(b""));
        let all = [
            RunRecord { key: b"a1", seq: Seq(5), value: Some(b"x") },
            RunRecord { key: b"a1", seq: Seq(3), value: None },
            RunRecord { key: b"a2", seq: Seq(4), value: Some(b"") },
        ];
        assert!(copied.records().eq(all));
        copied.truncate(b"a3");
        assert!(copied.records().eq(all));
        copied.truncate(b"a2");
        assert!(copied.records().eq(all[..2].iter().copied()));
        copied.truncate(b"");
        assert!(copied.is_empty() && copied.bytes() == 0);
    }

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
