//! What a cursor gives out at a time: some neighbouring records, as they lie in a page, and eight bytes of each key beside.
//!
//! Invariants: records are in the walk's order, each key once, and their stems never descend; nothing is copied out of a
//! page that whoever reads the block does not ask for.

use crate::page::{LEFT_OUT, Row, Rows};
use std::cmp::Ordering;
use std::sync::Arc;

/// Records to be walked over. Made to be filled again and again.
#[derive(Debug, Default)]
pub struct Block {
    /// What rows refer to, and where in it their places count from.
    pub(super) bytes: Option<Arc<[u8]>>,
    pub(super) base: usize,
    /// What all keys begin with.
    pub(super) prefix: Vec<u8>,
    pub(super) rows: Rows,
}

impl Block {
    pub fn len(&self) -> usize {
        self.rows.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.rows.is_empty()
    }

    /// Empties it; what it was over is let go.
    pub fn clear(&mut self) {
        self.bytes = None;
        self.rows.rows.clear();
        self.rows.stems.clear();
    }

    /// The stem of a record; past the last one that of the end, which comes after all.
    #[inline]
    pub fn stem(&self, index: usize) -> u64 {
        self.rows.stems.get(index).copied().unwrap_or(u64::MAX)
    }

    #[inline]
    fn row(&self, index: usize) -> Option<&Row> {
        self.rows.rows.get(index)
    }

    /// The sequence of a record.
    pub fn seq(&self, index: usize) -> crate::ids::Seq {
        self.row(index).map_or_else(Default::default, |row| row.seq)
    }

    #[inline]
    fn part(&self, from: u32, to: usize) -> &[u8] {
        let bytes = self.bytes.as_deref().unwrap_or_default();
        bytes.get(self.base + from as usize..self.base + to).unwrap_or_default()
    }

    /// The key of a record, in two parts.
    #[inline]
    pub fn key(&self, index: usize) -> (&[u8], &[u8]) {
        let suffix = self.row(index).map(|row| self.part(row.suffix, (row.suffix + row.suffix_len) as usize));
        (&self.prefix, suffix.unwrap_or_default())
    }

    /// How a record's key compares with another.
    pub fn cmp_key(&self, index: usize, other: &[u8]) -> Ordering {
        let (head, tail) = self.key(index);
        match other.split_at_checked(head.len()) {
            Some((start, rest)) => head.cmp(start).then_with(|| tail.cmp(rest)),
            // Shorter than the head: they differ inside it, or the other is a prefix of it and so comes first.
            None => head.cmp(other),
        }
    }

    /// The rest of a record's key after the block's prefix, and its value, as they lie: one after the other with a few
    /// bytes between them. With where the value begins, and how long the two are; no value: too large.
    #[inline]
    pub fn record(&self, index: usize) -> Record<'_> {
        let Some(row) = self.row(index) else { return Record::default() };
        let carried = row.value_len != LEFT_OUT;
        let end = if carried { row.value + row.value_len } else { row.suffix + row.suffix_len };
        Record {
            bytes: self.part(row.suffix, end as usize),
            suffix_len: row.suffix_len,
            value: carried.then_some((row.value - row.suffix, row.value_len)),
        }
    }

    /// What all keys begin with.
    #[inline]
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }
}

/// A record as it lies in a page; see [`Block::record`].
#[derive(Debug, Default, Clone, Copy)]
pub struct Record<'a> {
    pub bytes: &'a [u8],
    pub suffix_len: u32,
    /// Where in `bytes` the value begins, and its length.
    pub value: Option<(u32, u32)>,
}

impl<'a> Record<'a> {
    /// The rest of its key, and its value; none: too large.
    #[inline]
    pub fn parts(&self) -> (&'a [u8], Option<&'a [u8]>) {
        let suffix = self.bytes.get(..self.suffix_len as usize).unwrap_or_default();
        let value = |(at, len): (u32, u32)| self.bytes.get(at as usize..at as usize + len as usize);
        (suffix, self.value.map(|value_at| value(value_at).unwrap_or_default()))
    }
}
