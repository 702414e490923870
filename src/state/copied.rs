//! Records copied out of a memtable, so that it need not be held while they are read.
//!
//! Invariant: rows are in the order in which they were copied; a sequence that was committed is never given again, so
//! what was copied as of a sequence stays right for as long as that is asked for.

use crate::ids::Seq;
use crate::record::RunRecord;

/// A larger value is not copied: it is fetched when it is asked for.
pub const LARGE_VALUE: usize = 64 << 10;

/// What a record says about its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said<'a> {
    Value(&'a [u8]),
    /// A value too large to be carried along.
    Large,
    Removed,
}

/// A record as a memtable has it.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    pub key: &'a [u8],
    pub seq: Seq,
    pub said: Said<'a>,
}

#[derive(Debug)]
struct Row {
    start: usize,
    key: u32,
    seq: Seq,
    /// The value's length; none: removed, or large.
    value: Option<u32>,
    large: bool,
}

/// Copied records.
#[derive(Debug, Default)]
pub struct Copied {
    bytes: Vec<u8>,
    rows: Vec<Row>,
}

impl<'a> From<RunRecord<'a>> for Seen<'a> {
    fn from(RunRecord { key, seq, value }: RunRecord<'a>) -> Seen<'a> {
        let said = match value {
            None => Said::Removed,
            Some(value) if value.len() > LARGE_VALUE => Said::Large,
            Some(value) => Said::Value(value),
        };
        Seen { key, seq, said }
    }
}

impl Copied {
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.rows.clear();
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub fn push(&mut self, record: Seen<'_>) {
        let (value, large) = match record.said {
            Said::Value(value) => (Some(value), false),
            said => (None, said == Said::Large),
        };
        let start = self.bytes.len();
        self.bytes.extend_from_slice(record.key);
        self.bytes.extend_from_slice(value.unwrap_or_default());
        let value = value.map(|value| value.len() as u32);
        self.rows.push(Row { start, key: record.key.len() as u32, seq: record.seq, value, large });
    }

    pub fn get(&self, index: usize) -> Option<Seen<'_>> {
        let row = self.rows.get(index)?;
        let (key, rest) = self.bytes.get(row.start..)?.split_at_checked(row.key as usize)?;
        let said = match row.value {
            Some(len) => Said::Value(rest.get(..len as usize)?),
            None if row.large => Said::Large,
            None => Said::Removed,
        };
        Some(Seen { key, seq: row.seq, said })
    }
}
