//! A chunk: neighbouring records of one keyspace in a file that is named by its hash. See docs/FORMAT.md.
//!
//! Invariants: equal records come to equal bytes; where a chunk is cut follows from the records near the cut alone; a
//! reader of arbitrary bytes comes to an end, an error or records in order.

use super::buffers::Buffers;
use super::hash::unsupported;
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::limits::{MAX_KEY_BYTES, MAX_VALUE_BYTES};
use crate::page::varint;
use std::borrow::Cow;

pub const MAGIC: &[u8; 8] = b"ANNULUSK";
pub(super) const VERSION: u32 = 1;
pub(super) const HEADER: usize = 32;
pub(super) const BLOCK_HEADER: usize = 16;
/// Bytes of records after which a block ends.
pub(super) const BLOCK: usize = 64 << 10;
/// What a record takes at the most beside the value.
const MOST_RECORD: usize = MAX_VALUE_BYTES + MAX_KEY_BYTES + 32;

/// How the bytes of blocks are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    Plain,
    #[cfg(feature = "lz4")]
    Lz4,
}

/// A record of a chunk. No value: a tombstone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRecord<'a> {
    pub key: &'a [u8],
    pub seq: Seq,
    pub value: Option<&'a [u8]>,
}

/// A chunk without its checksums.
#[derive(Debug)]
pub struct RawChunk {
    pub(super) bytes: Vec<u8>,
    pub records: u32,
    pub first: Vec<u8>,
    pub last: Vec<u8>,
}

impl RawChunk {
    /// How many bytes are in memory for it.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The chunk's file. `buffers` lends and gets what that takes.
    pub fn encode(self, coding: Coding, buffers: &Buffers) -> Vec<u8> {
        let mut bytes = match coding {
            Coding::Plain => self.bytes,
            #[cfg(feature = "lz4")]
            Coding::Lz4 => {
                let mut bytes = buffers.take();
                compress(&self.bytes, &mut bytes);
                buffers.give(self.bytes);
                bytes
            }
        };
        #[cfg(not(feature = "lz4"))]
        let _ = buffers;
        let mut at = HEADER;
        while let Some(block) = BlockHeader::at(&bytes, at) {
            let end = at + BLOCK_HEADER + block.stored as usize;
            let crc = crc32fast::hash(&bytes[at + 4..end]);
            put_u32(&mut bytes, at, crc);
            at = end;
        }
        let crc = header_crc(&bytes);
        put_u32(&mut bytes, 12, crc);
        bytes
    }
}

#[cfg(feature = "lz4")]
fn compress(plain: &[u8], bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&plain[..HEADER]);
    put_u32(bytes, 24, 1);
    let mut at = HEADER;
    while let Some(block) = BlockHeader::at(plain, at) {
        let end = at + BLOCK_HEADER + block.stored as usize;
        let stored = lz4_flex::block::compress(&plain[at + BLOCK_HEADER..end]);
        let header = bytes.len();
        bytes.extend_from_slice(&plain[at..at + BLOCK_HEADER]);
        put_u32(bytes, header + 8, stored.len() as u32);
        bytes.extend_from_slice(&stored);
        at = end;
    }
}

/// The bytes with magic, version and checksums put right, as far as they go: for what looks for errors behind them.
pub fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().max(HEADER), 0);
    bytes[..8].copy_from_slice(MAGIC);
    put_u32(&mut bytes, 8, VERSION);
    let mut at = HEADER;
    while let Some(block) = BlockHeader::at(&bytes, at) {
        let end = at + BLOCK_HEADER + block.stored as usize;
        let Some(checked) = bytes.get(at + 4..end) else { break };
        let crc = crc32fast::hash(checked);
        put_u32(&mut bytes, at, crc);
        at = end;
    }
    let crc = header_crc(&bytes);
    put_u32(&mut bytes, 12, crc);
    bytes
}

pub(super) fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&value.to_le_bytes());
    }
}

pub(super) fn get_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

fn header_crc(bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(bytes.get(8..12).unwrap_or_default());
    crc.update(bytes.get(16..HEADER).unwrap_or_default());
    crc.finalize()
}

#[derive(Debug, Clone, Copy)]
struct BlockHeader {
    crc: u32,
    records: u32,
    stored: u32,
    plain: u32,
}

impl BlockHeader {
    fn at(bytes: &[u8], at: usize) -> Option<BlockHeader> {
        Some(BlockHeader {
            crc: get_u32(bytes, at)?,
            records: get_u32(bytes, at + 4)?,
            stored: get_u32(bytes, at + 8)?,
            plain: get_u32(bytes, at + 12)?,
        })
    }
}

/// The bytes of a chunk, whose header has been checked.
#[derive(Debug, Clone, Copy)]
pub struct ChunkView<'a> {
    bytes: &'a [u8],
    pub records: u32,
    coding: Coding,
}

/// A block of a chunk: where it lies, and what it has or why that cannot be had.
pub type Block<'a> = (usize, Result<PlainBlock<'a>>);

/// A block's records as they were before they were coded.
#[derive(Debug)]
pub struct PlainBlock<'a> {
    bytes: Cow<'a, [u8]>,
    records: u32,
}

fn damaged(what: impl Into<String>, at: usize) -> Error {
    Error::corruption(what).offset(at as u64)
}

impl<'a> ChunkView<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<ChunkView<'a>> {
        if !bytes.starts_with(MAGIC) {
            return Err(damaged("the chunk does not begin with its magic bytes", 0));
        }
        let word = |at| get_u32(bytes, at).unwrap_or_default();
        if bytes.len() < HEADER || word(12) != header_crc(bytes) {
            return Err(damaged("the chunk's header does not have its checksum", 12));
        }
        if word(8) != VERSION {
            return Err(unsupported("chunk", word(8)));
        }
        let coding = match word(24) {
            0 => Coding::Plain,
            #[cfg(feature = "lz4")]
            1 => Coding::Lz4,
            #[cfg(not(feature = "lz4"))]
            1 => {
                let text = "the chunk is compressed, and this build cannot read that";
                return Err(Error::new(crate::error::ErrorKind::Unsupported, text)
                    .remedy("build annulus with the feature lz4"));
            }
            coding => return Err(damaged(format!("the chunk's coding is {coding}"), 24)),
        };
        Ok(ChunkView { bytes, records: word(16), coding })
    }

    /// How many blocks it says that it has.
    pub fn blocks(&self) -> u32 {
        get_u32(self.bytes, 20).unwrap_or_default()
    }

    /// A position before the first block.
    pub fn start(&self) -> BlockCursor {
        BlockCursor { at: HEADER, left: self.blocks() }
    }

    /// The next block. It ends with an error where that cannot be found.
    pub fn next_block(&self, cursor: &mut BlockCursor) -> Option<Block<'a>> {
        let here = cursor.at;
        if cursor.left == 0 {
            cursor.at = self.bytes.len();
            let rest = here < self.bytes.len();
            return rest.then(|| (here, Err(damaged("there are bytes behind the chunk's last block", here))));
        }
        let Some((header, stored)) = self.block_at(here) else {
            *cursor = BlockCursor { at: self.bytes.len(), left: 0 };
            return Some((here, Err(damaged("the chunk is cut short in a block", here))));
        };
        cursor.at += BLOCK_HEADER + stored.len();
        cursor.left -= 1;
        Some((here, self.decode(here, header, stored)))
    }

    fn block_at(&self, at: usize) -> Option<(BlockHeader, &'a [u8])> {
        let header = BlockHeader::at(self.bytes, at)?;
        let stored = self.bytes.get(at + BLOCK_HEADER..)?.get(..header.stored as usize)?;
        Some((header, stored))
    }

    fn decode(&self, at: usize, header: BlockHeader, stored: &'a [u8]) -> Result<PlainBlock<'a>> {
        let checked = self.bytes.get(at + 4..at + BLOCK_HEADER + stored.len()).unwrap_or_default();
        if crc32fast::hash(checked) != header.crc {
            return Err(damaged("a block of the chunk does not have its checksum", at));
        }
        if header.plain as usize > BLOCK + MOST_RECORD {
            return Err(damaged("a block of the chunk is over its limit", at));
        }
        let bytes = match self.coding {
            Coding::Plain if header.plain == header.stored => Cow::Borrowed(stored),
            Coding::Plain => return Err(damaged("a block of the chunk has two lengths", at)),
            #[cfg(feature = "lz4")]
            Coding::Lz4 => {
                let plain = lz4_flex::block::decompress(stored, header.plain as usize);
                let plain = plain.map_err(|e| damaged("a block cannot be uncompressed", at).caused_by(e))?;
                if plain.len() != header.plain as usize {
                    return Err(damaged("a block of the chunk has two lengths", at));
                }
                Cow::Owned(plain)
            }
        };
        Ok(PlainBlock { bytes, records: header.records })
    }
}

impl PlainBlock<'_> {
    /// A position before its first record.
    pub fn start(&self) -> RecordCursor {
        RecordCursor { left: self.records, ..RecordCursor::default() }
    }

    pub fn into_owned(self) -> PlainBlock<'static> {
        PlainBlock { bytes: Cow::Owned(self.bytes.into_owned()), records: self.records }
    }
}

/// A position among the blocks of a chunk.
#[derive(Debug, Default, Clone, Copy)]
pub struct BlockCursor {
    at: usize,
    left: u32,
}

/// A record of a block, and the position behind it.
#[derive(Debug, Default)]
pub struct RecordCursor {
    at: usize,
    left: u32,
    key: Vec<u8>,
    seq: Seq,
    value: Option<(usize, usize)>,
}

impl RecordCursor {
    /// Goes on to the next record of the block; false at the end, which an error is as well.
    pub fn advance(&mut self, block: &PlainBlock<'_>) -> Result<bool> {
        let bytes = block.bytes.as_ref();
        if self.left == 0 {
            let rest = self.at < bytes.len();
            self.at = bytes.len();
            let behind = || Error::corruption("a block has bytes behind its last record");
            return if rest { Err(behind()) } else { Ok(false) };
        }
        self.left -= 1;
        match take(bytes, &mut self.at, &mut self.key) {
            Some((seq, value)) => {
                (self.seq, self.value) = (seq, value);
                Ok(true)
            }
            None => {
                (self.left, self.at) = (0, bytes.len());
                Err(Error::corruption("a block has bytes that are no record"))
            }
        }
    }

    /// The record that was gone on to last.
    pub fn record<'a>(&'a self, block: &'a PlainBlock<'_>) -> ChunkRecord<'a> {
        let value = self.value.map(|(at, length)| block.bytes.get(at..at + length).unwrap_or_default());
        ChunkRecord { key: &self.key, seq: self.seq, value }
    }
}

/// Reads a record: its key, its sequence, and where its value lies.
#[inline]
fn take(bytes: &[u8], at: &mut usize, key: &mut Vec<u8>) -> Option<(Seq, Option<(usize, usize)>)> {
    let shared = usize::try_from(varint::take(bytes, at)?).ok()?;
    let rest = usize::try_from(varint::take(bytes, at)?).ok()?;
    let seq = Seq(varint::take(bytes, at)?);
    let value = usize::try_from(varint::take(bytes, at)?).ok()?;
    if shared > key.len() || rest > MAX_KEY_BYTES || value > MAX_VALUE_BYTES + 1 {
        return None;
    }
    let rest = bytes.get(*at..)?.get(..rest)?;
    *at += rest.len();
    // Above the key before: longer than what they share, or greater where they part.
    if rest.is_empty() || key.get(shared).is_some_and(|before| *before >= rest[0]) {
        return None;
    }
    key.truncate(shared);
    key.extend_from_slice(rest);
    if key.len() > MAX_KEY_BYTES {
        return None;
    }
    let value = match value.checked_sub(1) {
        None => None,
        Some(length) => {
            let start = *at;
            bytes.get(start..)?.get(..length)?;
            *at += length;
            Some((start, length))
        }
    };
    Some((seq, value))
}

#[cfg(test)]
mod tests {
    use super::super::builder::ChunkBuilder;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type Records = BTreeMap<Vec<u8>, (u64, Option<Vec<u8>>)>;

    fn codings() -> Vec<Coding> {
        vec![
            Coding::Plain,
            #[cfg(feature = "lz4")]
            Coding::Lz4,
        ]
    }

    fn cut(records: &Records) -> Vec<RawChunk> {
        let (mut builder, mut chunks) = (ChunkBuilder::default(), Vec::new());
        for (key, (seq, value)) in records {
            let bytes = key.len() + value.as_ref().map_or(0, Vec::len);
            if builder.is_full_for(bytes) {
                chunks.extend(builder.finish());
            }
            if builder.push(ChunkRecord { key, seq: Seq(*seq), value: value.as_deref() }) {
                chunks.extend(builder.finish());
            }
        }
        chunks.extend(builder.finish());
        chunks
    }

    fn read(bytes: &[u8]) -> Result<Records> {
        let view = ChunkView::parse(bytes)?;
        let mut records = Records::new();
        let mut cursor = view.start();
        while let Some((_, block)) = view.next_block(&mut cursor) {
            let block = block?;
            let mut at = block.start();
            while at.advance(&block)? {
                let record = at.record(&block);
                records.insert(record.key.to_vec(), (record.seq.0, record.value.map(<[u8]>::to_vec)));
            }
        }
        Ok(records)
    }

    fn many(count: u32, seed: u32) -> Records {
        let value = |n: u32| (!n.is_multiple_of(13)).then(|| vec![(n ^ seed) as u8; n as usize % 300]);
        (0..count).map(|n| (n.to_be_bytes().to_vec(), (u64::from(n), value(n)))).collect()
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(records in prop::collection::btree_map(
            prop::collection::vec(0u8..4, 1..9), (any::<u64>(), prop::option::of(prop::collection::vec(any::<u8>(), 0..3000))), 1..200)
        ) {
            for coding in codings() {
                let mut found = Records::new();
                for chunk in cut(&records) {
                    let (first, last, count) = (chunk.first.clone(), chunk.last.clone(), chunk.records);
                    let read = read(&chunk.encode(coding, &Buffers::default())).unwrap();
                    prop_assert_eq!(read.first_key_value().unwrap().0, &first);
                    prop_assert_eq!(read.last_key_value().unwrap().0, &last);
                    prop_assert_eq!(read.len(), count as usize);
                    found.extend(read);
                }
                prop_assert_eq!(&found, &records);
            }
        }

        #[test]
        fn arbitrary_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..400), blocks in 0u32..4) {
            let mut file = vec![0; HEADER];
            file[..8].copy_from_slice(MAGIC);
            put_u32(&mut file, 8, VERSION);
            put_u32(&mut file, 20, blocks);
            file.extend(&bytes);
            let crc = header_crc(&file);
            put_u32(&mut file, 12, crc);
            let _ = read(&file);
            let block = PlainBlock { bytes: Cow::Borrowed(&bytes), records: blocks * 20 };
            let mut at = block.start();
            while at.advance(&block).is_ok_and(|more| more) {}
        }
    }

    #[test]
    fn chunks_are_cut_by_what_is_near_the_cut() {
        let records = many(60_000, 0);
        let ids = |records: &Records| -> Vec<Vec<u8>> {
            cut(records).into_iter().map(|chunk| chunk.encode(Coding::Plain, &Buffers::default())).collect()
        };
        let before = ids(&records);
        let size: usize = before.iter().map(Vec::len).sum();
        assert!((3..=15).contains(&before.len()), "{} chunks of {size} bytes", before.len());
        let mut changed = records.clone();
        changed.insert(vec![0, 0, 0x10], (1, Some(vec![1; 700])));
        changed.remove(30_000u32.to_be_bytes().as_slice());
        let after = ids(&changed);
        let new = after.iter().filter(|chunk| !before.contains(chunk)).count();
        assert!((1..=4).contains(&new), "{new} of {} are new", after.len());
    }

    #[test]
    fn large_values_have_chunks_of_their_own() {
        let mut records = many(100, 1);
        records.insert(50u32.to_be_bytes().to_vec(), (9, Some(vec![7; 9 << 20])));
        let chunks = cut(&records);
        assert_eq!(chunks.len(), 3);
        assert_eq!(chunks[1].records, 1);
        let found: Records = chunks
            .into_iter()
            .flat_map(|chunk| read(&chunk.encode(Coding::Plain, &Buffers::default())).unwrap())
            .collect();
        assert_eq!(found, records);
    }

    #[test]
    fn a_damaged_block_leaves_the_others_readable() {
        let chunk = cut(&many(2_000, 3)).remove(0);
        let mut bytes = chunk.encode(Coding::Plain, &Buffers::default());
        let view = ChunkView::parse(&bytes).unwrap();
        let all = |view: ChunkView<'_>| -> Vec<(usize, bool)> {
            let mut cursor = view.start();
            let next = || view.next_block(&mut cursor).map(|(at, block)| (at, block.is_ok()));
            std::iter::from_fn(next).collect()
        };
        let places: Vec<usize> = all(view).iter().map(|(at, _)| *at).collect();
        assert!(places.len() > 3);
        bytes[places[1] + 40] ^= 1;
        let view = ChunkView::parse(&bytes).unwrap();
        let whole: Vec<bool> = all(view).iter().map(|(_, whole)| *whole).collect();
        assert_eq!(whole.iter().filter(|whole| !**whole).count(), 1);
        assert!(!whole[1]);
    }

    #[test]
    fn another_version_is_refused_by_name() {
        let mut bytes = cut(&many(3, 0)).remove(0).encode(Coding::Plain, &Buffers::default());
        put_u32(&mut bytes, 8, 2);
        let crc = header_crc(&bytes);
        put_u32(&mut bytes, 12, crc);
        assert_eq!(ChunkView::parse(&bytes).unwrap_err().kind(), crate::ErrorKind::Unsupported);
    }
}
