//! Values that are too large for a page, cut into chunks.
//!
//! ```text
//! chunk key:  sequence u64 BE | hash128 of the record's key BE | index u32 BE
//! chunk:      CRC-32 over the chunk key and the rest u32 LE | in chunk 0: length of the record's key u32 LE, that key | data
//! ```
//! A chunk's key follows from the record alone, so applying a run again rewrites the same chunks instead of leaking new
//! ones. Chunk 0 names the record, so that a sweep can tell whether a page still refers to it.
//!
//! Invariant: chunks are written, first to last, before the page that refers to them, and removed, last to first, after
//! the page that no longer does; so a value that nothing refers to always still has its chunk 0.

use super::core::Core;
use crate::digest::hash128;
use crate::error::Result;
use crate::ids::Seq;
use crate::page::Overflow;

/// Data bytes in a chunk. sled reads a leaf of up to 17 entries whole, and writes one of more than 128 KiB to a file of
/// its own, which is slow: 17 chunks stay below that.
pub(super) const CHUNK_BYTES: usize = 7 << 10;
const ID_BYTES: usize = 24;

/// All chunks of one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ValueId([u8; ID_BYTES]);

/// A value that no page will refer to once the page under construction is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dropped {
    pub id: ValueId,
    pub len: u32,
}

impl ValueId {
    pub fn new(key: &[u8], seq: Seq) -> ValueId {
        let mut id = [0; ID_BYTES];
        id[..8].copy_from_slice(&seq.0.to_be_bytes());
        id[8..].copy_from_slice(&hash128(&[key]).to_be_bytes());
        ValueId(id)
    }

    pub fn chunk(self, index: u32) -> [u8; ID_BYTES + 4] {
        let mut key = [0; ID_BYTES + 4];
        key[..ID_BYTES].copy_from_slice(&self.0);
        key[ID_BYTES..].copy_from_slice(&index.to_be_bytes());
        key
    }

    /// The value and the index that a chunk key names.
    pub fn parse(key: &[u8]) -> Option<(ValueId, u32)> {
        let (id, index) = key.split_first_chunk()?;
        Some((ValueId(*id), u32::from_be_bytes(index.try_into().ok()?)))
    }

    pub fn seq(self) -> Seq {
        Seq(self.0.first_chunk().map_or(0, |seq| u64::from_be_bytes(*seq)))
    }
}

fn chunks(len: usize) -> u32 {
    len.div_ceil(CHUNK_BYTES) as u32
}

fn checksum(chunk_key: &[u8], body: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(chunk_key);
    hasher.update(body);
    hasher.finalize().to_le_bytes()
}

/// What follows the checksum of a chunk that has the right one.
fn verified<'a>(chunk_key: &[u8], chunk: &'a [u8]) -> Option<&'a [u8]> {
    let (crc, body) = chunk.split_first_chunk::<4>()?;
    (*crc == checksum(chunk_key, body)).then_some(body)
}

/// The key that chunk 0 names, and its data.
fn named(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = body.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)
}

impl Core {
    /// Writes the chunks of a value.
    pub fn write_value(&self, key: &[u8], seq: Seq, value: &[u8]) -> Result<Overflow> {
        let id = ValueId::new(key, seq);
        let mut chunk = Vec::with_capacity(8 + key.len() + CHUNK_BYTES);
        for (index, data) in value.chunks(CHUNK_BYTES).enumerate() {
            let chunk_key = id.chunk(index as u32);
            chunk.clear();
            chunk.extend_from_slice(&[0; 4]);
            if index == 0 {
                chunk.extend_from_slice(&(key.len() as u32).to_le_bytes());
                chunk.extend_from_slice(key);
            }
            chunk.extend_from_slice(data);
            let crc = checksum(&chunk_key, &chunk[4..]);
            chunk[..4].copy_from_slice(&crc);
            self.put_chunk(&chunk_key, &chunk)?;
        }
        Ok(Overflow { len: value.len() as u32, crc: crc32fast::hash(value) })
    }

    /// Reads a value; none if a chunk is gone, which is right only when the record has been replaced meanwhile.
    pub fn read_value(&self, key: &[u8], seq: Seq, wanted: Overflow) -> Result<Option<Vec<u8>>> {
        let id = ValueId::new(key, seq);
        let mut value = Vec::with_capacity(wanted.len as usize);
        for index in 0..chunks(wanted.len as usize) {
            let chunk_key = id.chunk(index);
            let Some(chunk) = self.chunk(&chunk_key)? else { return Ok(None) };
            let body = verified(&chunk_key, &chunk);
            let data = if index == 0 { body.and_then(named).map(|(_, data)| data) } else { body };
            let Some(data) = data else {
                return Err(self.place.corruption(format!(
                    "expected chunk {index} of a value of {} bytes, found a chunk with a wrong checksum",
                    wanted.len
                )));
            };
            value.extend_from_slice(data);
        }
        if value.len() != wanted.len as usize || crc32fast::hash(&value) != wanted.crc {
            return Err(self.place.corruption(format!(
                "expected a value of {} bytes with checksum {:08x}, found {} bytes with another",
                wanted.len,
                wanted.crc,
                value.len()
            )));
        }
        Ok(Some(value))
    }

    pub fn remove_value(&self, dropped: Dropped) -> Result<()> {
        for index in (0..chunks(dropped.len as usize)).rev() {
            self.write("remove a large value", || self.values.remove(dropped.id.chunk(index)))?;
        }
        Ok(())
    }

    /// The record that chunk 0 of a value names.
    pub fn owner_of(&self, chunk_key: &[u8], chunk: &[u8]) -> Result<Vec<u8>> {
        verified(chunk_key, chunk).and_then(named).map(|(key, _)| key.to_vec()).ok_or_else(|| {
            self.place
                .corruption("expected the first chunk of a large value, found a chunk with a wrong checksum")
        })
    }
}
