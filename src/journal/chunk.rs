//! What waits to be written at the end of a segment, together with the part of its block that is in the file already.
//!
//! Invariants: a chunk's first byte belongs at a multiple of [`BLOCK`] in the file, and lies at one in memory, so that
//! it can be written past the system's cache; what it says of bytes that were written before is what was written.

use crate::disk::BLOCK;
use crate::journal::segment::TRAILER_BYTES;

/// A buffer that one large frame has stretched beyond this is given back.
const KEPT_BYTES: usize = 1 << 20;
/// The least that is reserved.
const FIRST_BYTES: usize = 32 << 10;

#[derive(Debug, Default)]
pub struct Chunk {
    bytes: Vec<u8>,
    /// Where in `bytes` the chunk begins.
    start: usize,
    /// Where in the file the chunk begins.
    base: u64,
    /// How many of its bytes have been written before.
    written: usize,
}

impl Chunk {
    /// An empty one; `base` is a multiple of a block.
    pub fn new(base: u64) -> Self {
        Chunk { base, ..Chunk::default() }
    }

    fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// The bytes that wait.
    pub fn pending(&self) -> usize {
        self.len() - self.written
    }

    /// Where in the file its bytes end.
    pub fn end(&self) -> u64 {
        self.base + self.len() as u64
    }

    /// To append `more` bytes, markers and padding without a reallocation, which would take the bytes off their place.
    pub fn room(&mut self, more: usize) -> &mut Vec<u8> {
        let more = more + TRAILER_BYTES + BLOCK;
        if self.bytes.capacity() - self.bytes.len() < more {
            let bytes = Vec::with_capacity(BLOCK + (self.len() + more).max(self.len() * 2).max(FIRST_BYTES));
            let old = std::mem::replace(&mut self.bytes, bytes);
            let from = std::mem::replace(&mut self.start, self.bytes.as_ptr().align_offset(BLOCK));
            self.bytes.resize(self.start, 0);
            self.bytes.extend_from_slice(old.get(from..).unwrap_or_default());
        }
        &mut self.bytes
    }

    /// Hands the chunk out, and goes on in `spare` with the block in which it ends.
    pub fn split(&mut self, spare: &mut Chunk) -> Chunk {
        let block = BLOCK as u64;
        let base = self.end() / block * block;
        // A chunk starts with a block, so the last one that it begins is inside.
        let tail = self.bytes.len() - usize::try_from(self.end() - base).unwrap_or(0);
        spare.clear(base);
        let rest = self.bytes.get(tail..).unwrap_or_default();
        spare.room(rest.len()).extend_from_slice(rest);
        spare.written = rest.len();
        std::mem::replace(self, std::mem::take(spare))
    }

    /// Empties it, to be used at another place.
    pub fn clear(&mut self, base: u64) {
        if self.bytes.capacity() > KEPT_BYTES {
            *self = Chunk::default();
        }
        self.bytes.truncate(self.start);
        (self.base, self.written) = (base, 0);
    }

    /// What waits, and where it goes.
    pub fn tail(&self) -> (u64, &[u8]) {
        let tail = self.bytes.get(self.start + self.written..).unwrap_or_default();
        (self.base + self.written as u64, tail)
    }

    /// All of it as whole blocks, the last one filled up with zeros, and where they go.
    pub fn blocks(&mut self) -> (u64, &[u8]) {
        let end = self.start + self.len().next_multiple_of(BLOCK);
        self.bytes.resize(end, 0);
        (self.base, self.bytes.get(self.start..).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn blocks_and_tails_put_the_same_bytes_into_a_file(
            steps in prop::collection::vec((prop::collection::vec(1usize..9000, 0..4), any::<bool>()), 1..30),
        ) {
            let (mut chunk, mut spare) = (Chunk::new(4096), Chunk::default());
            let (mut file, mut expected) = (vec![0; 4096], vec![0; 4096]);
            for (number, (lengths, whole)) in steps.into_iter().enumerate() {
                for length in lengths {
                    let more = vec![number as u8 + 1; length];
                    chunk.room(length).extend_from_slice(&more);
                    expected.extend_from_slice(&more);
                }
                prop_assert_eq!(chunk.end(), expected.len() as u64);
                let mut out = chunk.split(&mut spare);
                prop_assert_eq!((chunk.pending(), chunk.end()), (0, expected.len() as u64));
                let (at, bytes) = if whole { out.blocks() } else { out.tail() };
                if whole {
                    prop_assert!(bytes.is_empty() || bytes.as_ptr().align_offset(BLOCK) == 0);
                    prop_assert_eq!((at as usize % BLOCK, bytes.len() % BLOCK), (0, 0));
                }
                let end = at as usize + bytes.len();
                file.resize(file.len().max(end), 0);
                file[at as usize..end].copy_from_slice(bytes);
                prop_assert_eq!(&file[..expected.len()], &expected[..]);
                spare = out;
            }
        }
    }
}
