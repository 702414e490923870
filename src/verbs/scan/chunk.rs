//! Records that a scan has merged: keys and values one after another in one buffer, and where each lies.
//!
//! Invariants: a chunk is read from both of its ends and never shows a record twice; what is handed out for keeps is a
//! copy of a few records' bytes, so whoever keeps one record does not keep a whole chunk.

use super::merge::{Limit, Sink};
use crate::batch::KEYSPACE_BYTES;
use crate::engine::Record;
use crate::ids::Seq;
use crate::state::Said;
use bytes::Bytes;

/// About how many bytes are copied together for those who keep records: each then costs a count and no allocation.
const SLAB: usize = 8 << 10;

/// In place of a value's length: it is too large to be carried along.
const LEFT_OUT: u32 = u32::MAX;

/// Where a record lies. Keys are internal ones.
#[derive(Debug, Clone, Copy)]
struct Row {
    key: u32,
    key_len: u32,
    value: u32,
    value_len: u32,
}

/// Merged records.
#[derive(Debug, Default)]
pub struct Chunk {
    bytes: Vec<u8>,
    rows: Vec<Row>,
    /// Of each row, where they are asked for.
    seqs: Vec<Seq>,
    versions: bool,
    /// The rows that have not been shown yet.
    next: usize,
    end: usize,
    /// A copy of a part of the bytes, and where that begins.
    slab: Bytes,
    slab_at: usize,
}

impl Sink for Chunk {
    fn prepare(&mut self, limit: Limit) {
        self.bytes.clear();
        self.rows.clear();
        self.seqs.clear();
        self.bytes.reserve(limit.bytes);
        self.rows.reserve(limit.records);
        self.versions = limit.versions;
        (self.next, self.end) = (0, 0);
        self.slab = Bytes::new();
    }

    #[inline]
    fn is_full(&self, limit: Limit) -> bool {
        self.rows.len() >= limit.records || self.bytes.len() >= limit.bytes
    }

    fn last_key(&self) -> Option<(&[u8], &[u8])> {
        self.rows.last().map(|row| (self.part(row.key, row.key_len), &[][..]))
    }

    #[inline]
    fn push(&mut self, prefix: &[u8], record: Record<'_>, seq: Seq) {
        let key = self.bytes.len() as u32;
        self.bytes.extend_from_slice(prefix);
        let rest = self.bytes.len() as u32;
        self.bytes.extend_from_slice(record.bytes);
        let key_len = prefix.len() as u32 + record.suffix_len;
        let (value, value_len) = record.value.map_or((key + key_len, LEFT_OUT), |(at, len)| (rest + at, len));
        self.add(Row { key, key_len, value, value_len }, seq);
    }

    fn push_whole(&mut self, key: &[u8], said: Said<'_>, seq: Seq) {
        let value = if let Said::Value(value) = said { Some(value) } else { None };
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value.unwrap_or_default());
        let value_len = value.map_or(LEFT_OUT, |value| value.len() as u32);
        let key_len = key.len() as u32;
        self.add(Row { key: start, key_len, value: start + key_len, value_len }, seq);
    }
}

impl Chunk {
    #[inline]
    fn add(&mut self, row: Row, seq: Seq) {
        self.rows.push(row);
        if self.versions {
            self.seqs.push(seq);
        }
        self.end += 1;
    }

    /// The sequence of a record, where they were asked for.
    pub fn seq(&self, index: usize) -> Seq {
        self.seqs.get(index).copied().unwrap_or_default()
    }

    /// The next record, from the end that was merged first or (`far`) the other.
    #[inline]
    pub fn step(&mut self, far: bool) -> Option<usize> {
        if self.next == self.end {
            return None;
        }
        if far {
            self.end -= 1;
            Some(self.end)
        } else {
            self.next += 1;
            Some(self.next - 1)
        }
    }

    #[inline]
    fn part(&self, from: u32, len: u32) -> &[u8] {
        self.bytes.get(from as usize..from as usize + len as usize).unwrap_or_default()
    }

    /// A record's internal key.
    pub fn internal_key(&self, index: usize) -> &[u8] {
        self.rows.get(index).map_or(&[], |row| self.part(row.key, row.key_len))
    }

    /// Whether the record's value has been left out.
    #[inline]
    pub fn is_left_out(&self, index: usize) -> bool {
        self.rows.get(index).is_some_and(|row| row.value_len == LEFT_OUT)
    }

    /// A record's key, without the keyspace, and its value.
    #[inline]
    pub fn record(&self, index: usize) -> (&[u8], &[u8]) {
        let Some(row) = self.rows.get(index) else { return (&[], &[]) };
        let keyspace = (KEYSPACE_BYTES as u32).min(row.key_len);
        let value_len = if row.value_len == LEFT_OUT { 0 } else { row.value_len };
        (self.part(row.key + keyspace, row.key_len - keyspace), self.part(row.value, value_len))
    }

    /// The same to be kept. Records are asked for one after another from one end.
    #[inline]
    pub fn take(&mut self, index: usize, far: bool) -> (Bytes, Bytes) {
        let Some(row) = self.rows.get(index).copied() else { return Default::default() };
        let keyspace = (KEYSPACE_BYTES as u32).min(row.key_len);
        let value_len = if row.value_len == LEFT_OUT { 0 } else { row.value_len };
        let (start, end) = (row.key as usize, (row.key + row.key_len).max(row.value + value_len) as usize);
        if start < self.slab_at || end > self.slab_at + self.slab.len() {
            self.copy(start, end, far);
        }
        let part = |from: u32, len: u32| {
            let from = from as usize - self.slab_at;
            self.slab.slice(from..from + len as usize)
        };
        (part(row.key + keyspace, row.key_len - keyspace), part(row.value, value_len))
    }

    /// Copies the record at `start..end` and what is asked for after it.
    #[cold]
    fn copy(&mut self, start: usize, end: usize, far: bool) {
        let (from, to) = if far {
            (end.saturating_sub(SLAB).min(start), end)
        } else {
            (start, (start + SLAB).min(self.bytes.len()).max(end))
        };
        self.slab = Bytes::copy_from_slice(self.bytes.get(from..to).unwrap_or_default());
        self.slab_at = from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(count: u32, len: usize) -> Chunk {
        let mut chunk = Chunk::default();
        chunk.prepare(Limit { records: 4, bytes: 100, versions: false });
        for n in 0..count {
            let suffix = n.to_be_bytes();
            if n % 10 == 7 {
                chunk.push(b"\0\0\0\0k", Record { bytes: &suffix, suffix_len: 4, value: None }, Seq(1));
            } else if n % 2 == 0 {
                let bytes = [&suffix[..], &[9; 3], &vec![n as u8; len]].concat();
                let value = Some((7, len as u32));
                chunk.push(b"\0\0\0\0k", Record { bytes: &bytes, suffix_len: 4, value }, Seq(1));
            } else {
                chunk.push_whole(
                    &[&b"\0\0\0\0k"[..], &suffix].concat(),
                    Said::Value(&vec![n as u8; len]),
                    Seq(1),
                );
            }
        }
        chunk
    }

    #[test]
    fn every_record_comes_out_once_from_either_end_lent_and_kept() {
        for len in [0, 100, 20_000] {
            let mut chunk = chunk(300, len);
            let (mut low, mut high) = (0u32, 300u32);
            let mut kept = Vec::new();
            for turn in 0.. {
                let far = turn % 3 == 0;
                let Some(index) = chunk.step(far) else { break };
                let n = if far { high - 1 } else { low };
                if far {
                    high -= 1
                } else {
                    low += 1
                }
                let value = if n % 10 == 7 { Vec::new() } else { vec![n as u8; len] };
                let key = [&b"k"[..], &n.to_be_bytes()].concat();
                assert_eq!(chunk.is_left_out(index), n % 10 == 7);
                assert_eq!(chunk.record(index), (&key[..], &value[..]));
                assert_eq!(chunk.internal_key(index), [&[0; 4], &key[..]].concat());
                kept.push((chunk.take(index, far), key, value));
            }
            assert_eq!(low, high);
            chunk.prepare(Limit { records: 4, bytes: 100, versions: false });
            assert!(kept.iter().all(|((k, v), key, value)| k == key && v == value));
        }
    }

    #[test]
    fn a_record_that_is_kept_keeps_little_else() {
        let mut chunk = chunk(300, 100);
        for far in [false, true] {
            let index = chunk.step(far).unwrap();
            chunk.take(index, far);
            assert!(chunk.slab.len() <= SLAB && chunk.slab.len() > SLAB / 2);
        }
    }
}
