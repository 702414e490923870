//! Putting records into a chunk, and where it is cut. See docs/FORMAT.md.
//!
//! Invariants: equal records come to equal bytes; where a chunk is cut follows from the records near the cut alone.

use super::chunk::{BLOCK, BLOCK_HEADER, ChunkRecord, HEADER, MAGIC, RawChunk, VERSION, put_u32};
use crate::ids::Seq;

/// Bytes of keys and values that a chunk has at least, where others follow, and at most, unless it is one record.
const LEAST: usize = 512 << 10;
const MOST: usize = 4 << 20;
/// What makes it another MiB on average.
const CUT: u64 = 4096;
/// What the four numbers before a record take at the most.
const MOST_NUMBERS: usize = 40;

/// Records on their way into a chunk.
#[derive(Debug, Default)]
pub struct ChunkBuilder {
    bytes: Vec<u8>,
    block: usize,
    block_records: u32,
    blocks: u32,
    records: u32,
    size: usize,
    first: Vec<u8>,
    last: Vec<u8>,
}

/// What a builder held at a time.
#[derive(Debug, Default)]
pub struct Mark {
    len: usize,
    size: usize,
    block: usize,
    records: u32,
    blocks: u32,
    block_records: u32,
    last: Vec<u8>,
}

impl ChunkBuilder {
    /// Whether a record of so many bytes of key and value must go to the next chunk.
    pub fn is_full_for(&self, bytes: usize) -> bool {
        self.records > 0 && self.size + bytes > MOST
    }

    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// The key that was added last, to this chunk or the one before.
    pub fn last(&self) -> &[u8] {
        &self.last
    }

    /// Adds a record; its key is above the one before. Whether the chunk ends behind it.
    pub fn push(&mut self, record: ChunkRecord<'_>) -> bool {
        self.push_parts([&[], record.key], record.seq, record.value)
    }

    /// The same for a key in two parts.
    #[inline]
    pub fn push_parts(&mut self, key: [&[u8]; 2], seq: Seq, value: Option<&[u8]>) -> bool {
        if self.block_records == 0 {
            self.begin_block(key);
        }
        let [head, tail] = key;
        let mut shared = common(&self.last, head);
        if shared == head.len() {
            shared += common(&self.last[shared..], tail);
        }
        self.last.truncate(shared);
        match tail.get(shared.wrapping_sub(head.len())..).filter(|_| shared >= head.len()) {
            Some(rest) => self.last.extend_from_slice(rest),
            None => {
                self.last.extend_from_slice(&head[shared..]);
                self.last.extend_from_slice(tail);
            }
        }
        let (key, value) =
            (self.last.as_slice(), value.map_or((0, &[][..]), |value| (value.len() + 1, value)));
        let rest = &key[shared..];
        let mut numbers = Numbers::default();
        [shared as u64, rest.len() as u64, seq.0, value.0 as u64].into_iter().for_each(|n| numbers.put(n));
        self.bytes.reserve(MOST_NUMBERS + rest.len() + value.1.len());
        self.bytes.extend_from_slice(numbers.bytes());
        self.bytes.extend_from_slice(rest);
        self.bytes.extend_from_slice(value.1);
        self.records += 1;
        self.block_records += 1;
        let bytes = key.len() + value.1.len();
        self.size += bytes;
        let ends = self.size >= LEAST && u64::from(mix(crc32fast::hash(key))) < bytes as u64 * CUT;
        if self.bytes.len() - self.block - BLOCK_HEADER >= BLOCK {
            self.end_block();
        }
        ends
    }

    #[cold]
    fn begin_block(&mut self, [head, tail]: [&[u8]; 2]) {
        if self.records == 0 {
            self.bytes.resize(HEADER, 0);
            self.first.extend_from_slice(head);
            self.first.extend_from_slice(tail);
        }
        self.block = self.bytes.len();
        self.bytes.resize(self.block + BLOCK_HEADER, 0);
        self.blocks += 1;
        self.last.clear();
    }

    fn end_block(&mut self) {
        if self.block_records == 0 {
            return;
        }
        let length = (self.bytes.len() - self.block - BLOCK_HEADER) as u32;
        put_u32(&mut self.bytes, self.block + 4, self.block_records);
        put_u32(&mut self.bytes, self.block + 8, length);
        put_u32(&mut self.bytes, self.block + 12, length);
        self.block_records = 0;
    }

    /// Takes the chunk out; none if no record was added.
    pub fn finish(&mut self) -> Option<RawChunk> {
        if self.records == 0 {
            return None;
        }
        self.end_block();
        self.bytes[..8].copy_from_slice(MAGIC);
        put_u32(&mut self.bytes, 8, VERSION);
        put_u32(&mut self.bytes, 16, self.records);
        put_u32(&mut self.bytes, 20, self.blocks);
        let last = self.last.clone();
        let done = std::mem::replace(self, ChunkBuilder { last, ..ChunkBuilder::default() });
        let ChunkBuilder { bytes, records, first, last, .. } = done;
        Some(RawChunk { bytes, records, first, last })
    }

    /// Notes what the builder holds, so that it can be brought back to it.
    pub fn mark(&self, mark: &mut Mark) {
        mark.last.clear();
        mark.last.extend_from_slice(&self.last);
        (mark.len, mark.size, mark.block) = (self.bytes.len(), self.size, self.block);
        (mark.records, mark.blocks, mark.block_records) = (self.records, self.blocks, self.block_records);
    }

    /// Takes out what was added since `mark`. `ended` is the first chunk that was taken out since, if there was one; what the
    /// builder held beside it comes back, to be used again.
    pub fn go_back(&mut self, mark: &Mark, ended: Option<RawChunk>) -> Vec<u8> {
        let spare = match ended {
            Some(chunk) => {
                self.first = chunk.first;
                std::mem::replace(&mut self.bytes, chunk.bytes)
            }
            None => Vec::new(),
        };
        // What a block that is full, or a chunk that is ended, says of itself lies before the mark and is written again.
        self.bytes.truncate(mark.len);
        if mark.records == 0 {
            self.first.clear();
        }
        self.last.clone_from(&mark.last);
        (self.size, self.block) = (mark.size, mark.block);
        (self.records, self.blocks, self.block_records) = (mark.records, mark.blocks, mark.block_records);
        spare
    }

    /// Has the next chunk filled into an empty buffer. Between two chunks only.
    pub fn fill(&mut self, buffer: Vec<u8>) {
        debug_assert!(self.records == 0 && buffer.is_empty());
        self.bytes = buffer;
    }
}

/// How many leading bytes two have in common.
#[inline]
fn common(a: &[u8], b: &[u8]) -> usize {
    let mut at = 0;
    while let (Some(x), Some(y)) = (word(a, at), word(b, at)) {
        let differ = x ^ y;
        if differ != 0 {
            return at + differ.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    at + a[at..].iter().zip(&b[at..]).take_while(|(a, b)| a == b).count()
}

#[inline]
fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk))
}

/// The numbers before a record, put together where that costs least.
struct Numbers {
    bytes: [u8; MOST_NUMBERS],
    len: usize,
}

impl Default for Numbers {
    fn default() -> Numbers {
        Numbers { bytes: [0; MOST_NUMBERS], len: 0 }
    }
}

impl Numbers {
    #[inline]
    fn put(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes[self.len] = value as u8 | 0x80;
            self.len += 1;
            value >>= 7;
        }
        self.bytes[self.len] = value as u8;
        self.len += 1;
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The finaliser of MurmurHash3: a checksum's bits are not independent enough to be compared with a bound.
fn mix(mut hash: u32) -> u32 {
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85eb_ca6b);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}
