//! A frame: the unit that the journal writes, and the bytes it has on a disk. Pure: no I/O, no clocks.
//!
//! ```text
//!  0        4        8                16               24               32       36   37    40
//!  +--------+--------+----------------+----------------+----------------+--------+----+-----+- - - - -+- - - -+
//!  | crc    | length | generation     | seq            | durable        | payload| kind| 0  | payload | 0..7  |
//!  |        |        |                |                |                | crc    |    |     |         | zeros |
//!  +--------+--------+----------------+----------------+----------------+--------+----+-----+- - - - -+- - - -+
//! ```
//!
//! Invariants:
//! - Everything is little endian; a frame starts at a multiple of 8 bytes.
//! - `crc` is the CRC-32 of bytes 4 to 40, begun from a salt of the store's id and the generation: a frame of another
//!   store, of the segment's life before it was recycled, or inside a user's value never passes for a frame here.
//! - The payload's CRC-32 is under `crc`, so that it can be computed before the journal's lock is taken.
//! - `durable` is below `seq`: when the frame was written, all frames up to `durable` were known to be synced.

use crate::ids::Seq;
use crate::limits::MAX_BATCH_BYTES;

/// The length of a frame's header, in bytes.
pub const HEADER_BYTES: usize = 40;
/// Frames start at multiples of this, so that a search for them need not try every byte.
pub const ALIGN: usize = 8;
/// The longest payload: a batch at its limit, and room for what the floors above add to it.
pub const MAX_PAYLOAD_BYTES: usize = MAX_BATCH_BYTES + (1 << 20);

/// Whole words, so that none lies across two of these.
const BLANK: [u8; 64 * ALIGN] = [0; 64 * ALIGN];

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A commit; its payload is the caller's.
    Commit,
    /// No commit, no payload: every frame below `seq` has been handed to the operating system.
    Tail,
    /// As `Tail`, and the log goes on in the segment of the next generation, whose name is already durable.
    End,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Kind::Commit => 1,
            Kind::Tail => 2,
            Kind::End => 3,
        }
    }

    fn of(code: u8) -> Option<Kind> {
        [Kind::Commit, Kind::Tail, Kind::End].into_iter().find(|kind| kind.code() == code)
    }
}

/// Bytes to append, with their checksum.
#[derive(Debug, Clone, Copy)]
pub struct Payload<'a> {
    bytes: &'a [u8],
    crc: u32,
}

impl<'a> Payload<'a> {
    /// Computes the checksum; do it before taking any lock.
    pub fn new(bytes: &'a [u8]) -> Self {
        Payload { bytes, crc: crc32fast::hash(bytes) }
    }

    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// A frame's header, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub length: u32,
    pub generation: u64,
    pub seq: Seq,
    pub durable: Seq,
    pub payload_crc: u32,
    pub kind: Kind,
}

/// What the checksums of one segment's frames begin from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Salt(u32);

impl Salt {
    pub fn new(store_id: u128, generation: u64) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&store_id.to_le_bytes());
        hasher.update(&generation.to_le_bytes());
        Salt(hasher.finalize())
    }

    fn crc(self, bytes: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.0);
        hasher.update(bytes);
        hasher.finalize()
    }
}

impl Header {
    pub fn commit(generation: u64, seq: Seq, durable: Seq, payload: &Payload<'_>) -> Option<Self> {
        let length = u32::try_from(payload.bytes.len()).ok()?;
        Some(Header { length, generation, seq, durable, payload_crc: payload.crc, kind: Kind::Commit })
    }

    pub fn encode(&self, salt: Salt) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        let fields: [&[u8]; 6] = [
            &self.length.to_le_bytes(),
            &self.generation.to_le_bytes(),
            &self.seq.0.to_le_bytes(),
            &self.durable.0.to_le_bytes(),
            &self.payload_crc.to_le_bytes(),
            &[self.kind.code()],
        ];
        for (to, from) in out.iter_mut().skip(4).zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        let [_, _, _, _, rest @ ..] = &out;
        let crc = salt.crc(rest).to_le_bytes();
        for (to, from) in out.iter_mut().zip(crc) {
            *to = from;
        }
        out
    }

    /// The header at the start of `bytes`, if there is a valid one of this generation.
    pub fn decode(bytes: &[u8], salt: Salt, generation: u64) -> Option<Self> {
        let bytes = bytes.first_chunk::<HEADER_BYTES>()?;
        // Cheap and telling: what was never written, or written in an earlier life, ends here.
        if u64_at(bytes, 8)? != generation || salt.crc(bytes.get(4..)?) != u32_at(bytes, 0)? {
            return None;
        }
        let header = Header {
            length: u32_at(bytes, 4)?,
            generation,
            seq: Seq(u64_at(bytes, 16)?),
            durable: Seq(u64_at(bytes, 24)?),
            payload_crc: u32_at(bytes, 32)?,
            kind: Kind::of(*bytes.get(36)?)?,
        };
        let length_fits = match header.kind {
            Kind::Commit => header.length as usize <= MAX_PAYLOAD_BYTES,
            Kind::Tail | Kind::End => header.length == 0,
        };
        let zeros = bytes.get(37..)?.iter().all(|b| *b == 0);
        (length_fits && zeros && header.durable < header.seq).then_some(header)
    }

    /// Whether `payload` is the one that this header was written for.
    pub fn matches(&self, payload: &[u8]) -> bool {
        payload.len() == self.length as usize
            && (crc32fast::hash(payload) == self.payload_crc
                || crate::plants::is("journal-payload-not-checked"))
    }

    /// The bytes that the whole frame takes, padding included.
    pub fn frame_bytes(&self) -> usize {
        frame_bytes(self.length as usize)
    }
}

/// The bytes that a frame with a payload of `length` bytes takes, padding included.
pub fn frame_bytes(length: usize) -> usize {
    (HEADER_BYTES + length).next_multiple_of(ALIGN)
}

/// Appends a whole frame to `out`.
pub fn encode(out: &mut Vec<u8>, header: &Header, salt: Salt, payload: &[u8]) {
    let end = out.len() + header.frame_bytes();
    out.extend_from_slice(&header.encode(salt));
    out.extend_from_slice(payload);
    out.resize(end, 0);
}

/// A frame of a kind that has no payload.
pub fn marker(kind: Kind, generation: u64, seq: Seq, durable: Seq) -> Header {
    Header { length: 0, generation, seq, durable, payload_crc: 0, kind }
}

/// The first valid header at or after byte `from` of `bytes` (a multiple of 8 from a place where frames may start),
/// and where it is. Its payload is not looked at.
pub fn find(bytes: &[u8], from: usize, salt: Salt, generation: u64) -> Option<(usize, Header)> {
    let wanted = generation.to_le_bytes();
    let mut at = from;
    for block in bytes.get(from.checked_add(8)?..)?.chunks(BLANK.len()) {
        // Most of a segment is what was never written, which is passed over as a whole.
        if generation != 0 && BLANK.get(..block.len()) == Some(block) {
            at += block.len();
            continue;
        }
        // The generation sits in an aligned word of its own, so the search compares one word in eight bytes.
        for word in block.chunks_exact(ALIGN) {
            if word == wanted
                && let Some(header) = bytes.get(at..).and_then(|b| Header::decode(b, salt, generation))
            {
                return Some((at, header));
            }
            at += ALIGN;
        }
    }
    None
}

fn u32_at(bytes: &[u8; HEADER_BYTES], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8; HEADER_BYTES], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STORE: u128 = 0x1234_5678_9abc_def0_1122_3344_5566_7788;

    fn sample(payload: &[u8]) -> (Header, Vec<u8>) {
        let header = Header::commit(7, Seq(42), Seq(40), &Payload::new(payload)).unwrap();
        let mut bytes = Vec::new();
        encode(&mut bytes, &header, Salt::new(STORE, 7), payload);
        (header, bytes)
    }

    #[test]
    fn the_bytes_of_a_frame_are_fixed() {
        let (_, bytes) = sample(b"abc");
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "41f7e81303000000\
             07000000000000002a000000000000002800000000000000c2412435010000006162630000000000"
        );
    }

    #[test]
    fn every_flipped_bit_of_a_header_or_payload_is_seen() {
        let (header, bytes) = sample(b"some payload");
        let salt = Salt::new(STORE, 7);
        for bit in 0..(HEADER_BYTES + 12) * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let passes = Header::decode(&bad, salt, 7)
                .is_some_and(|h| h.matches(&bad[HEADER_BYTES..HEADER_BYTES + 12]));
            assert!(!passes, "bit {bit}");
        }
        assert_eq!(Header::decode(&bytes, salt, 7), Some(header));
    }

    #[test]
    fn a_frame_of_another_store_or_generation_is_none() {
        let (_, bytes) = sample(b"x");
        assert_eq!(Header::decode(&bytes, Salt::new(STORE, 7), 8), None);
        assert_eq!(Header::decode(&bytes, Salt::new(STORE + 1, 7), 7), None);
        assert_eq!(Header::decode(&bytes, Salt::new(STORE, 8), 7), None);
        assert_eq!(Header::decode(&bytes[..39], Salt::new(STORE, 7), 7), None);
    }

    #[test]
    fn a_header_that_contradicts_itself_is_none() {
        let salt = Salt::new(STORE, 7);
        let good = Header::commit(7, Seq(42), Seq(41), &Payload::new(b"")).unwrap();
        assert!(Header::decode(&good.encode(salt), salt, 7).is_some());
        for bad in [
            Header { durable: Seq(42), ..good },
            Header { length: MAX_PAYLOAD_BYTES as u32 + 1, ..good },
            Header { kind: Kind::Tail, length: 1, ..good },
            Header { kind: Kind::End, length: 8, ..good },
        ] {
            assert_eq!(Header::decode(&bad.encode(salt), salt, 7), None, "{bad:?}");
        }
    }

    #[test]
    fn a_frame_is_found_behind_whatever_was_never_written() {
        let (header, frame) = sample(b"abc");
        for words in (0..200).chain([511, 512, 513]) {
            let bytes = [&vec![0; words * ALIGN], &frame[..], &[0; 1000]].concat();
            let look = |from| find(&bytes, from, Salt::new(STORE, 7), 7);
            for from in [0, words / 2 * ALIGN, words * ALIGN] {
                assert_eq!(look(from), Some((words * ALIGN, header)), "{words} words, from {from}");
            }
            assert_eq!(look((words + 1) * ALIGN), None);
        }
    }

    proptest! {
        #[test]
        fn a_frame_is_found_wherever_it_starts(
            before in 0usize..40, payload in proptest::collection::vec(any::<u8>(), 0..100), noise in any::<u8>(),
        ) {
            let mut bytes = vec![noise; before * ALIGN];
            let (header, frame) = sample(&payload);
            bytes.extend_from_slice(&frame);
            let (at, found) = find(&bytes, 0, Salt::new(STORE, 7), 7).unwrap();
            prop_assert_eq!((at, found), (before * ALIGN, header));
            prop_assert!(found.matches(&bytes[at + HEADER_BYTES..at + HEADER_BYTES + payload.len()]));
            prop_assert_eq!(find(&bytes, at + ALIGN, Salt::new(STORE, 7), 7), None);
            prop_assert_eq!(bytes.len() % ALIGN, 0);
        }

        #[test]
        fn arbitrary_bytes_are_no_frame(bytes in proptest::collection::vec(any::<u8>(), 0..200), generation in 0u64..3) {
            prop_assert_eq!(find(&bytes, 0, Salt::new(STORE, generation), generation), None);
        }
    }
}
