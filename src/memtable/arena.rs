//! Bytes in big pieces: the room where a table keeps its keys and values.
//!
//! Small blocks are cut one after another from chunks of [`CHUNK_BYTES`], so that a million records are a few hundred
//! allocations: the process shows resident what [`Arena::bytes`] says, and dropping a table returns it at once.
//! A value too large to share a chunk has an allocation of its own, a *slot*.
//!
//! Invariants: a block lies in one chunk and never moves; a chunk's bytes are never given back before the arena goes;
//! a slot's number is valid from `store` to `release`.

/// The size of a chunk, in bytes: large enough that the allocator maps it by itself, small enough that the unused rest
/// of the last one does not matter.
pub(super) const CHUNK_BYTES: usize = 256 << 10;
/// Blocks begin at multiples of this many bytes, so that a `u32` reaches 16 GiB.
pub(super) const UNIT: usize = 4;
const CHUNK_BITS: u32 = (CHUNK_BYTES / UNIT).trailing_zeros();
/// The most chunks that a [`Place`] can tell apart: 16 GiB, less one chunk for [`Place::NONE`].
const MAX_CHUNKS: usize = (1 << (32 - CHUNK_BITS)) - 1;
/// Above this many chunks (12 GiB) the arena calls itself full; what is left takes any batch, whatever its records.
const FULL_CHUNKS: usize = MAX_CHUNKS / 4 * 3;
/// What an allocation of its own costs beside its bytes: the allocator's header and rounding, and the slot.
const SLOT_BYTES: usize = 16 + size_of::<Vec<u8>>();

/// Where a block begins: its chunk and the unit in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(pub u32);

impl Place {
    /// No block.
    pub const NONE: Place = Place(u32::MAX);

    fn chunk(self) -> usize {
        (self.0 >> CHUNK_BITS) as usize
    }

    fn offset(self) -> usize {
        (self.0 as usize & ((1 << CHUNK_BITS) - 1)) * UNIT
    }

    /// The place `bytes` (a multiple of [`UNIT`]) further in the same block.
    pub fn plus(self, bytes: usize) -> Place {
        Place(self.0 + (bytes / UNIT) as u32)
    }
}

#[derive(Debug, Default)]
pub(super) struct Arena {
    chunks: Vec<Vec<u8>>,
    slots: Vec<Vec<u8>>,
    vacant: Vec<u32>,
    slot_bytes: usize,
}

impl Arena {
    /// A block of `bytes` zero bytes (at most [`CHUNK_BYTES`]); none when all the places are taken.
    pub fn allocate(&mut self, bytes: usize) -> Option<Place> {
        let bytes = bytes.next_multiple_of(UNIT);
        debug_assert!(bytes <= CHUNK_BYTES);
        let room = self.chunks.last().is_some_and(|chunk| chunk.len() + bytes <= CHUNK_BYTES);
        if !room {
            if self.chunks.len() == MAX_CHUNKS {
                return None;
            }
            self.chunks.push(Vec::with_capacity(CHUNK_BYTES));
        }
        let index = self.chunks.len() - 1;
        let chunk = &mut self.chunks[index];
        let place = Place((index << CHUNK_BITS) as u32 + (chunk.len() / UNIT) as u32);
        chunk.resize(chunk.len() + bytes, 0);
        Some(place)
    }

    /// The bytes from `place` to the end of what its chunk holds.
    #[inline]
    pub fn at(&self, place: Place) -> &[u8] {
        &self.chunks[place.chunk()][place.offset()..]
    }

    #[inline]
    pub fn at_mut(&mut self, place: Place) -> &mut [u8] {
        &mut self.chunks[place.chunk()][place.offset()..]
    }

    /// Puts `bytes` into a slot of its own.
    pub fn store(&mut self, bytes: &[u8]) -> u32 {
        self.slot_bytes += bytes.len() + SLOT_BYTES;
        match self.vacant.pop() {
            Some(slot) => {
                self.slots[slot as usize] = bytes.to_vec();
                slot
            }
            None => {
                self.slots.push(bytes.to_vec());
                (self.slots.len() - 1) as u32
            }
        }
    }

    /// Replaces the bytes of a slot, in its allocation where they nearly fill it.
    pub fn store_again(&mut self, slot: u32, bytes: &[u8]) {
        let held = &mut self.slots[slot as usize];
        self.slot_bytes -= held.capacity();
        // An allocation that is much too large would make the table hold more than it says it needs.
        if bytes.len() <= held.capacity() && bytes.len() >= held.capacity() / 8 * 7 {
            held.clear();
            held.extend_from_slice(bytes);
        } else {
            // First freed, so that two large values are never held at once.
            *held = Vec::new();
            *held = bytes.to_vec();
        }
        self.slot_bytes += self.slots[slot as usize].capacity();
    }

    pub fn slot(&self, slot: u32) -> &[u8] {
        &self.slots[slot as usize]
    }

    pub fn release(&mut self, slot: u32) {
        let held = std::mem::take(&mut self.slots[slot as usize]);
        self.slot_bytes -= held.capacity() + SLOT_BYTES;
        self.vacant.push(slot);
    }

    /// Whether few places are left (a quarter of 16 GiB).
    pub fn is_full(&self) -> bool {
        self.chunks.len() >= FULL_CHUNKS
    }

    /// The bytes of the blocks that were cut.
    pub fn used(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK_BYTES + last.len())
    }

    /// What the arena holds of the process's memory, in bytes, the unused rest of the last chunk included.
    pub fn bytes(&self) -> usize {
        self.chunks.len() * CHUNK_BYTES
            + self.chunks.capacity() * size_of::<Vec<u8>>()
            + self.slot_bytes
            + self.vacant.capacity() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_lie_in_one_chunk_and_do_not_overlap() {
        let mut arena = Arena::default();
        let sizes = [1, 4, 5, 70_000, 100_000, 90_000, 3, CHUNK_BYTES, 8];
        let places: Vec<Place> = sizes.iter().map(|size| arena.allocate(*size).unwrap()).collect();
        for (i, (place, size)) in places.iter().zip(sizes).enumerate() {
            arena.at_mut(*place)[..size].fill(i as u8 + 1);
        }
        for (i, (place, size)) in places.iter().zip(sizes).enumerate() {
            assert!(arena.at(*place)[..size].iter().all(|b| *b == i as u8 + 1));
        }
        assert_eq!(arena.chunks.len(), 3);
        assert!(arena.chunks.iter().all(|c| c.capacity() == CHUNK_BYTES));
    }

    #[test]
    fn slots_are_counted_and_used_again() {
        let mut arena = Arena::default();
        let empty = arena.bytes();
        let a = arena.store(&[1; 100_000]);
        let b = arena.store(&[2; 50_000]);
        assert!(arena.bytes() >= empty + 150_000);
        arena.store_again(a, &[3; 99_000]);
        assert_eq!(arena.slot(a), &[3; 99_000][..]);
        assert!(arena.bytes() >= empty + 150_000, "the allocation was kept");
        arena.store_again(a, &[4; 10]);
        assert!(arena.bytes() < empty + 51_000, "the allocation was given back");
        arena.release(b);
        assert_eq!(arena.store(&[5; 7]), b);
        assert_eq!((arena.slot(a), arena.slot(b)), (&[4; 10][..], &[5; 7][..]));
    }
}
