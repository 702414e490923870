//! A segment file: its name, its header, and where things are in it.
//!
//! ```text
//!  0            2048          4096                                                          len
//!  +------------+-------------+------------------------------------------------+------------+
//!  | header     | its copy    | frames ...            | Tail | zeros | Tail    | (reserve)  |
//!  +------------+-------------+------------------------------------------------+------------+
//!  header: magic 8 | version 4 | crc 4 | store id 16 | generation 8 | boot id 16 | len 8 | origin 8 | first 8 | 0...
//! ```
//!
//! Invariants:
//! - A file has the name of a segment only when its header, with that generation, is durable in it; and the log goes
//!   into a segment only when its name is durable. So a bad header or a missing segment is damage, never bad timing.
//! - Every write of frames ends with two markers that lie in different blocks of 4 KiB, so that the loss of no one
//!   block takes the last frame and all word of it. The room for them at the end of a file is never given to frames.

use crate::frame::{self, HEADER_BYTES, Kind, Salt};
use crate::ids::Seq;

/// The format that this release writes and reads.
pub const FORMAT_VERSION: u32 = 1;
/// Where frames begin, in bytes.
pub const BODY: u64 = 4096;
/// Where the header's copy is.
pub const COPY_AT: usize = 2048;
/// The length of a header, in bytes.
pub const HEADER_BLOCK: usize = 512;
/// From the first marker of a trailer to the second: further than one block of 4 KiB reaches.
pub const MARKER_DISTANCE: usize = 4096 + HEADER_BYTES;
/// The markers that end every write, in bytes.
pub const TRAILER_BYTES: usize = MARKER_DISTANCE + HEADER_BYTES;
/// Generations lie between 1 and this.
const LAST_GENERATION: u64 = 1 << 62;
/// The smallest segment, in bytes.
pub const MIN_SEGMENT_BYTES: u64 = 16 << 10;

const MAGIC: [u8; 8] = *b"ANNULUSJ";

/// How a segment came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Made when the journal was created or opened: the log before it ends, durably, just below `first`.
    Start { first: Seq },
    /// Made to follow the segment before it, whenever that is full.
    Continuation,
}

/// What a segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    pub store_id: u128,
    pub generation: u64,
    /// The machine's start in which it was written; 0 where that is not known.
    pub boot_id: u128,
    /// The file's length in bytes.
    pub len: u64,
    pub origin: Origin,
}

/// Why a block is no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderDefect {
    Damaged,
    Version(u32),
}

impl SegmentHeader {
    pub fn salt(&self) -> Salt {
        Salt::new(self.store_id, self.generation)
    }

    /// The first page of the file: the header and its copy.
    pub fn encode_page(&self) -> Vec<u8> {
        let (origin, first) = match self.origin {
            Origin::Start { first } => (1u64, first.0),
            Origin::Continuation => (2, 0),
        };
        let mut block = Vec::with_capacity(HEADER_BLOCK);
        block.extend_from_slice(&MAGIC);
        block.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        block.extend_from_slice(&[0; 4]);
        block.extend_from_slice(&self.store_id.to_le_bytes());
        block.extend_from_slice(&self.generation.to_le_bytes());
        block.extend_from_slice(&self.boot_id.to_le_bytes());
        for word in [self.len, origin, first] {
            block.extend_from_slice(&word.to_le_bytes());
        }
        block.resize(HEADER_BLOCK, 0);
        let crc = block_crc(&block).to_le_bytes();
        block.splice(12..16, crc);
        let mut page = block.clone();
        page.resize(COPY_AT, 0);
        page.extend_from_slice(&block);
        page.resize(BODY as usize, 0);
        page
    }

    /// Reads one copy.
    pub fn decode(block: &[u8]) -> Result<Self, HeaderDefect> {
        let field = Fields(block.get(..HEADER_BLOCK).ok_or(HeaderDefect::Damaged)?);
        if field.0.get(..8) != Some(&MAGIC[..]) || field.number::<4>(12)? != u128::from(block_crc(field.0)) {
            return Err(HeaderDefect::Damaged);
        }
        // Magic, version and checksum stay where they are in every version, so that this can be told from damage.
        let version = field.number::<4>(8)? as u32;
        if version != FORMAT_VERSION {
            return Err(HeaderDefect::Version(version));
        }
        let origin = match field.number::<8>(64)? {
            1 => Origin::Start { first: Seq(field.number::<8>(72)? as u64) },
            2 => Origin::Continuation,
            _ => return Err(HeaderDefect::Damaged),
        };
        Ok(SegmentHeader {
            store_id: field.number::<16>(16)?,
            generation: field.number::<8>(32)? as u64,
            boot_id: field.number::<16>(40)?,
            len: field.number::<8>(56)? as u64,
            origin,
        })
    }

    /// Reads the header from a file's first page, or else its copy; says whether the copy was needed.
    pub fn decode_page(page: &[u8]) -> Result<(Self, bool), HeaderDefect> {
        match Self::decode(page) {
            Err(HeaderDefect::Damaged) => {
                Self::decode(page.get(COPY_AT..).unwrap_or_default()).map(|header| (header, true))
            }
            other => other.map(|header| (header, false)),
        }
    }
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn number<const N: usize>(&self, at: usize) -> Result<u128, HeaderDefect> {
        let bytes = self.0.get(at..at + N).ok_or(HeaderDefect::Damaged)?;
        Ok(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u128::from(*byte)))
    }
}

fn block_crc(block: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(block.get(..12).unwrap_or_default());
    hasher.update(block.get(16..).unwrap_or_default());
    hasher.finalize()
}

/// Appends the two markers that end a write whose last frame is the one below `seq`.
pub fn push_trailer(out: &mut Vec<u8>, salt: Salt, generation: u64, kind: Kind, seq: Seq, durable: Seq) {
    let marker = frame::marker(kind, generation, seq, durable).encode(salt);
    let start = out.len();
    out.extend_from_slice(&marker);
    out.resize(start + MARKER_DISTANCE, 0);
    out.extend_from_slice(&marker);
}

/// The name of the segment of a generation.
pub fn name(generation: u64) -> String {
    format!("{generation:016x}.seg")
}

/// What a name in a journal's directory stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    Segment(u64),
    /// An empty segment, kept to be used again; its bytes mean nothing.
    Spare(u64),
    /// A segment that was being made.
    Temporary,
    /// The note that a sync or write of the journal failed.
    Poisoned,
    /// It ends as a segment's name does, but is not the name of any.
    Misnamed,
    /// No file of ours.
    Other,
}

/// The name of the note that a sync or write of the journal failed.
pub const POISONED: &str = "poisoned";

/// The name of a spare.
pub fn spare_name(number: u64) -> String {
    format!("{number:016x}.spare")
}

/// The name of the segment of a generation while it is being made.
pub fn temporary_name(generation: u64) -> String {
    format!("{generation:016x}.tmp")
}

/// Reads a name.
pub fn parse_name(text: &str) -> Name {
    let Some((stem, extension)) = text.rsplit_once('.') else {
        return if text == POISONED { Name::Poisoned } else { Name::Other };
    };
    let number = u64::from_str_radix(stem, 16).ok().filter(|number| format!("{number:016x}") == stem);
    match (extension, number) {
        // No journal lives that long, and the arithmetic of those that do stays clear of the end.
        ("seg", Some(0 | LAST_GENERATION..)) => Name::Misnamed,
        ("seg", Some(generation)) => Name::Segment(generation),
        ("seg", None) => Name::Misnamed,
        ("spare", Some(number)) => Name::Spare(number),
        ("tmp", Some(_)) => Name::Temporary,
        _ => Name::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> SegmentHeader {
        SegmentHeader {
            store_id: u128::MAX / 3,
            generation: 0x1234_5678_9abc,
            boot_id: u128::MAX / 5,
            len: 16 << 20,
            origin: Origin::Start { first: Seq(77) },
        }
    }

    #[test]
    fn a_header_comes_back_from_either_copy() {
        for header in [sample(), SegmentHeader { origin: Origin::Continuation, ..sample() }] {
            let page = header.encode_page();
            assert_eq!(page.len() as u64, BODY);
            assert_eq!(SegmentHeader::decode_page(&page), Ok((header, false)));
            for at in 0..HEADER_BLOCK {
                let mut bad = page.clone();
                bad[at] ^= 0x40;
                assert_eq!(SegmentHeader::decode_page(&bad), Ok((header, true)), "byte {at}");
                bad[COPY_AT + at] ^= 0x40;
                assert_eq!(SegmentHeader::decode_page(&bad), Err(HeaderDefect::Damaged), "byte {at}");
            }
        }
        for len in 0..COPY_AT + HEADER_BLOCK {
            let page = sample().encode_page();
            let got = SegmentHeader::decode_page(&page[..len]);
            assert_eq!(got.is_ok(), len >= HEADER_BLOCK, "length {len}");
        }
    }

    #[test]
    fn another_version_is_told_from_damage() {
        let mut page = sample().encode_page();
        page[8] = 2;
        let crc = block_crc(&page[..HEADER_BLOCK]).to_le_bytes();
        page[12..16].copy_from_slice(&crc);
        assert_eq!(SegmentHeader::decode_page(&page), Err(HeaderDefect::Version(2)));
    }

    #[test]
    fn names_are_read_back_and_no_other_spelling_passes() {
        for number in [1, 0xabc, LAST_GENERATION - 1] {
            assert_eq!(parse_name(&name(number)), Name::Segment(number));
            assert_eq!(parse_name(&spare_name(number)), Name::Spare(number));
            assert_eq!(parse_name(&temporary_name(number)), Name::Temporary);
        }
        for misnamed in ["1.seg", "000000000000000A.seg", "+00000000000000a.seg", "copy of 1.seg"] {
            assert_eq!(parse_name(misnamed), Name::Misnamed, "{misnamed}");
        }
        for generation in [0, LAST_GENERATION, u64::MAX] {
            assert_eq!(parse_name(&name(generation)), Name::Misnamed);
        }
        for other in ["", "seg", "README", "x.tmp", "1.spare", "0000000000000001.seg.bak"] {
            assert_eq!(parse_name(other), Name::Other, "{other}");
        }
    }

    #[test]
    fn no_block_of_4_kib_holds_parts_of_both_markers() {
        for start in (0..8192).step_by(8) {
            let first = (start / 4096, (start + HEADER_BYTES - 1) / 4096);
            let second = (start + MARKER_DISTANCE) / 4096;
            assert!(second > first.1, "markers at {start}");
        }
    }
}
