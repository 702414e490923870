//! An index: a list of chunks with the keys that they cover. See docs/FORMAT.md.
//!
//! Invariant: a checkpoint of any size is written and read a few indexes at a time.

use super::chunk::{RawChunk, get_u32};
use super::hash::{ObjectId, unsupported};
use crate::error::{Error, Result};
use crate::limits::MAX_KEY_BYTES;
use crate::page::varint;

pub const MAGIC: &[u8; 8] = b"ANNULUSN";
const VERSION: u32 = 1;
const HEADER: usize = 20;
/// How many chunks an index lists, and after how many bytes it ends.
const CHUNKS: usize = 4096;
const BYTES: usize = 1 << 20;

/// A chunk that an index names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkRef {
    pub id: ObjectId,
    /// Length of the object.
    pub bytes: u32,
    pub records: u32,
    /// The user's keys of its first and its last record.
    pub first: Vec<u8>,
    pub last: Vec<u8>,
}

/// What is known of a chunk before it has been hashed.
#[derive(Debug)]
pub struct Outline {
    pub records: u32,
    pub first: Vec<u8>,
    pub last: Vec<u8>,
}

impl Outline {
    pub fn of(chunk: &RawChunk) -> Outline {
        Outline { records: chunk.records, first: chunk.first.clone(), last: chunk.last.clone() }
    }
}

/// Puts chunks into an index.
#[derive(Debug, Default)]
pub struct IndexBuilder {
    bytes: Vec<u8>,
    count: u32,
}

impl IndexBuilder {
    /// Adds a chunk. Whether the index is full.
    pub fn push(&mut self, chunk: &ChunkRef) -> bool {
        if self.count == 0 {
            self.bytes.resize(HEADER, 0);
        }
        self.bytes.extend_from_slice(&chunk.id.0);
        self.bytes.extend_from_slice(&chunk.bytes.to_le_bytes());
        self.bytes.extend_from_slice(&chunk.records.to_le_bytes());
        for key in [&chunk.first, &chunk.last] {
            varint::put(&mut self.bytes, key.len() as u64);
            self.bytes.extend_from_slice(key);
        }
        self.count += 1;
        self.count as usize >= CHUNKS || self.bytes.len() >= BYTES
    }

    /// Takes the index out; none if it has no chunk.
    pub fn finish(&mut self) -> Option<Vec<u8>> {
        let IndexBuilder { mut bytes, count } = std::mem::take(self);
        if count == 0 {
            return None;
        }
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..20].copy_from_slice(&count.to_le_bytes());
        let crc = checksum(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        Some(bytes)
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(bytes.get(8..12).unwrap_or_default());
    crc.update(bytes.get(16..).unwrap_or_default());
    crc.finalize()
}

/// The chunks that an index lists.
pub fn decode(bytes: &[u8]) -> Result<Vec<ChunkRef>> {
    let damaged = |what: &str| Error::corruption(format!("the index {what}"));
    if !bytes.starts_with(MAGIC) {
        return Err(damaged("does not begin with its magic bytes"));
    }
    if get_u32(bytes, 12) != Some(checksum(bytes)) {
        return Err(damaged("does not have its checksum"));
    }
    let version = get_u32(bytes, 8).unwrap_or_default();
    if version != VERSION {
        return Err(unsupported("index", version));
    }
    let count = get_u32(bytes, 16).unwrap_or_default();
    let mut at = HEADER;
    let mut chunks = Vec::with_capacity((count as usize).min(CHUNKS));
    for _ in 0..count {
        chunks.push(take(bytes, &mut at).ok_or_else(|| damaged("has an entry that is none"))?);
    }
    let ordered = chunks.windows(2).all(|pair| pair[0].last < pair[1].first);
    if at != bytes.len() || count == 0 || !ordered || chunks.iter().any(|c| c.first > c.last) {
        return Err(damaged("contradicts itself"));
    }
    Ok(chunks)
}

fn take(bytes: &[u8], at: &mut usize) -> Option<ChunkRef> {
    let id = ObjectId(*bytes.get(*at..)?.first_chunk()?);
    let (length, records) = (get_u32(bytes, *at + 32)?, get_u32(bytes, *at + 36)?);
    *at += 40;
    let mut key = || {
        let length = usize::try_from(varint::take(bytes, at)?).ok()?;
        let key = bytes.get(*at..)?.get(..length)?;
        *at += length;
        (1..=MAX_KEY_BYTES).contains(&length).then(|| key.to_vec())
    };
    let (first, last) = (key()?, key()?);
    Some(ChunkRef { id, bytes: length, records, first, last })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(n: u32) -> ChunkRef {
        let key = |m: u32| [&m.to_be_bytes()[..], &vec![b'k'; m as usize % 200]].concat();
        let id = ObjectId::of(&n.to_le_bytes());
        ChunkRef { id, bytes: n, records: n + 1, first: key(2 * n), last: key(2 * n + 1) }
    }

    #[test]
    fn chunks_come_back_and_every_flip_is_found() {
        let mut builder = IndexBuilder::default();
        assert_eq!(builder.finish(), None);
        let chunks: Vec<ChunkRef> = (0..30).map(chunk).collect();
        chunks.iter().for_each(|chunk| assert!(!builder.push(chunk)));
        let bytes = builder.finish().unwrap();
        assert_eq!(decode(&bytes).unwrap(), chunks);
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            assert!(decode(&bad).is_err(), "byte {at}");
            assert!(decode(&bytes[..at]).is_err(), "cut at {at}");
        }
        assert!((0..5000).map(chunk).any(|chunk| builder.push(&chunk)), "it is full at some time");
    }

    #[test]
    fn one_that_contradicts_itself_is_refused() {
        let mut builder = IndexBuilder::default();
        builder.push(&chunk(1));
        builder.push(&chunk(0));
        assert!(decode(&builder.finish().unwrap()).is_err());
    }
}
