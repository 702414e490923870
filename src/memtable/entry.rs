//! Entries: a key and the chain of its versions, as bytes in an [`Arena`].
//!
//! ```text
//! entry    newest: u32 | key length: 17 bits | version count: 14 bits | inline block vacant: 1 bit | key, padded | version
//! version  seq: u64 | older: u32 | value length: u16 | capacity in units: 14 bits, removed, large | value, to capacity
//! ```
//!
//! The first version lies behind the key, in one piece with it; later ones overwrite it where they fit, or get a block
//! of their own from free lists by size class (four to a doubling, as in jemalloc), or from the arena. A *large* value
//! lies in a slot of the arena, and its block holds the slot's number.
//!
//! Invariants: an entry never moves; its chain is newest first, with no sequence twice; a block is in exactly one of a
//! chain, a free list, or (behind its key) vacant. So overwriting one key for ever takes a bounded number of blocks.

use super::arena::{Arena, CHUNK_BYTES, Place, UNIT};
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::limits::{MAX_INTERNAL_KEY_BYTES, MAX_VALUE_BYTES};
use crate::record::is_needed;

/// Values above this many bytes get an allocation of their own: few enough that their number does not matter to the
/// allocator, and a sixteenth of a chunk, so that little of a chunk's end is left unused.
pub(super) const LARGE_FROM: usize = 16 << 10;
/// The bytes of a cache line, and the most lines that are worth reading ahead of a scan: beyond them the processor has
/// seen where it goes.
const LINE: usize = 64;
const MOST_LINES: usize = 8;
const ENTRY_HEAD: usize = 8;
const VERSION_HEAD: usize = 16;
const _: () = assert!(ENTRY_HEAD + MAX_INTERNAL_KEY_BYTES + UNIT + VERSION_HEAD + LARGE_FROM <= CHUNK_BYTES);
/// The free lists: one for each size class up to [`LARGE_FROM`].
const CLASSES: usize = class_of((LARGE_FROM / UNIT) as u16).0 + 1;

const VACANT: u16 = 1 << 15;
/// The highest bit of a key's length, and the bits of a count.
const LONG: u16 = 1 << 14;
const COUNT: u16 = LONG - 1;
const REMOVED: u16 = 1 << 14;
const LARGE: u16 = 1 << 15;
const CAPACITY: u16 = REMOVED - 1;

/// The size class that holds `units`, and the units that its blocks hold.
const fn class_of(units: u16) -> (usize, u16) {
    let last = if units == 0 { 0 } else { units - 1 };
    let shift = if last < 8 { 0 } else { last.ilog2() - 2 };
    (4 * shift as usize + (last >> shift) as usize, ((last >> shift) + 1) << shift)
}

/// The head of a version, as it lies in the arena.
#[derive(Debug, Clone, Copy)]
struct Head {
    seq: Seq,
    older: Place,
    length: u16,
    flags: u16,
}

impl Head {
    fn capacity(self) -> usize {
        (self.flags & CAPACITY) as usize * UNIT
    }
}

/// What a block needs to hold a value: the bytes, or the number of a slot.
fn need(value: Option<&[u8]>) -> usize {
    match value {
        None => 0,
        Some(value) if value.len() > LARGE_FROM => size_of::<u32>(),
        Some(value) => value.len(),
    }
}

/// One version of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version<'a> {
    pub seq: Seq,
    /// None: the key was removed.
    pub value: Option<&'a [u8]>,
}

#[derive(Debug)]
pub(super) struct Entries {
    arena: Arena,
    free: [Place; CLASSES],
    keys: usize,
    versions: usize,
    payload: usize,
}

impl Default for Entries {
    fn default() -> Self {
        Entries { arena: Arena::default(), free: [Place::NONE; CLASSES], keys: 0, versions: 0, payload: 0 }
    }
}

impl Entries {
    pub fn keys(&self) -> usize {
        self.keys
    }

    pub fn versions(&self) -> usize {
        self.versions
    }

    /// Key bytes and value bytes of all versions in chains.
    pub fn payload(&self) -> usize {
        self.payload
    }

    pub fn bytes(&self) -> usize {
        self.arena.bytes()
    }

    pub fn is_full(&self) -> bool {
        self.arena.is_full()
    }

    #[inline]
    pub fn key(&self, entry: Place) -> &[u8] {
        let bytes = self.arena.at(entry);
        let length = u16::from_le_bytes([bytes[4], bytes[5]]) as usize | (usize::from(bytes[7] & 0x40) << 10);
        &bytes[ENTRY_HEAD..ENTRY_HEAD + length]
    }

    /// How many cache lines an entry of average size lies on, up to a few.
    pub fn lines(&self) -> usize {
        let average = self.arena.used() / self.keys.max(1);
        average.saturating_sub(LINE / 2).div_ceil(LINE).min(MOST_LINES - 1) + 1
    }

    /// Reads a byte on each of the first `lines` cache lines of some entries, all at once, so that they are near when
    /// they are wanted. (Safe Rust has no prefetch instruction.)
    #[inline]
    pub fn touch<'p>(&self, entries: impl Iterator<Item = &'p Place>, lines: usize) {
        let mut sum = 0u8;
        for entry in entries {
            let bytes = self.arena.at(*entry);
            for line in 0..lines {
                sum ^= bytes.get(line * LINE).copied().unwrap_or_default();
            }
        }
        std::hint::black_box(sum);
    }

    /// The newest version's place; [`older`](Self::older) goes on from there.
    #[inline]
    pub fn newest(&self, entry: Place) -> Place {
        Place(read_u32(self.arena.at(entry), 0))
    }

    pub fn older(&self, version: Place) -> Place {
        self.head(version).older
    }

    pub fn version(&self, version: Place) -> Version<'_> {
        let bytes = self.arena.at(version);
        self.decode(bytes, head_of(bytes))
    }

    #[inline]
    fn decode<'e>(&'e self, bytes: &'e [u8], head: Head) -> Version<'e> {
        let value = &bytes[VERSION_HEAD..VERSION_HEAD + head.length as usize];
        let value = match head.flags & (REMOVED | LARGE) {
            0 => Some(value),
            LARGE => Some(self.arena.slot(read_u32(value, 0))),
            _ => None,
        };
        Version { seq: head.seq, value }
    }

    /// The newest version at or below `at`, and its place.
    #[inline]
    pub fn version_at(&self, entry: Place, at: Seq) -> Option<(Place, Version<'_>)> {
        let mut place = self.newest(entry);
        while place != Place::NONE {
            let bytes = self.arena.at(place);
            let head = head_of(bytes);
            if head.seq <= at {
                return Some((place, self.decode(bytes, head)));
            }
            place = head.older;
        }
        None
    }

    /// Whether key and value are inside the limits.
    pub fn check(key: &[u8], value: Option<&[u8]>) -> Result<()> {
        if key.len() > MAX_INTERNAL_KEY_BYTES {
            return Err(Error::invalid(format!(
                "a key of {} bytes is longer than {MAX_INTERNAL_KEY_BYTES}",
                key.len()
            )));
        }
        match value {
            Some(value) if value.len() > MAX_VALUE_BYTES => Err(Error::invalid(format!(
                "a value of {} bytes is longer than {MAX_VALUE_BYTES}",
                value.len()
            ))),
            _ => Ok(()),
        }
    }

    /// A new entry with its first version. Not found by anyone until an index holds its place.
    pub fn add(&mut self, key: &[u8], seq: Seq, value: Option<&[u8]>) -> Result<Place> {
        let inline = ENTRY_HEAD + key.len().next_multiple_of(UNIT);
        let capacity = need(value).next_multiple_of(UNIT);
        let entry = self.arena.allocate(inline + VERSION_HEAD + capacity).ok_or_else(full)?;
        let version = entry.plus(inline);
        let bytes = self.arena.at_mut(entry);
        bytes[0..4].copy_from_slice(&version.0.to_le_bytes());
        bytes[4..6].copy_from_slice(&(key.len() as u16).to_le_bytes());
        let long = if key.len() > usize::from(u16::MAX) { LONG } else { 0 };
        bytes[6..8].copy_from_slice(&(1 | long).to_le_bytes());
        bytes[ENTRY_HEAD..ENTRY_HEAD + key.len()].copy_from_slice(key);
        self.fill(version, Place::NONE, (capacity / UNIT) as u16, seq, value);
        self.keys += 1;
        self.payload += key.len();
        Ok(entry)
    }

    /// Puts a version on top of the chain. The one that was newest is replaced, unless a snapshot in `live` sees it.
    pub fn put(&mut self, entry: Place, seq: Seq, value: Option<&[u8]>, live: &[Seq]) -> Result<()> {
        let newest = self.newest(entry);
        let head = self.head(newest);
        if seq < head.seq {
            return Err(Error::invalid(format!(
                "write {seq} reached the memtable after write {} of the same key",
                head.seq
            )));
        }
        if seq > head.seq && is_needed(live, head.seq, seq) {
            let (place, units) = self.block(entry, need(value))?;
            self.fill(place, newest, units, seq, value);
            self.set_newest(entry, place);
            let count = (self.count(entry) + 1).min(COUNT);
            self.set_count(entry, count);
            // Each older version that is needed has a snapshot of its own; looking only when half of them cannot be
            // needed makes the walk cost a few steps for each write, however many snapshots there are.
            if count as usize > 2 * (live.len() + 1) || count == COUNT {
                self.prune(entry, live);
            }
            return Ok(());
        }
        if need(value) <= head.capacity() {
            self.refill(newest, head, seq, value);
            return Ok(());
        }
        let (place, units) = self.block(entry, need(value))?;
        self.fill(place, head.older, units, seq, value);
        self.set_newest(entry, place);
        self.release(entry, newest);
        Ok(())
    }

    /// Drops the versions that no snapshot in `live` sees.
    fn prune(&mut self, entry: Place, live: &[Seq]) {
        let mut kept = self.newest(entry);
        let mut count = 1u16;
        let mut newer = self.head(kept).seq;
        let mut place = self.head(kept).older;
        while place != Place::NONE {
            let head = self.head(place);
            if is_needed(live, head.seq, newer) {
                self.set_older(kept, place);
                kept = place;
                count = (count + 1).min(COUNT);
            } else {
                self.release(entry, place);
            }
            newer = head.seq;
            place = head.older;
        }
        self.set_older(kept, Place::NONE);
        self.set_count(entry, count);
    }

    fn head(&self, version: Place) -> Head {
        head_of(self.arena.at(version))
    }

    /// The block behind the key.
    fn inline(&self, entry: Place) -> Place {
        entry.plus(ENTRY_HEAD + self.key(entry).len().next_multiple_of(UNIT))
    }

    /// A free block for `need` bytes, and its units.
    fn block(&mut self, entry: Place, need: usize) -> Result<(Place, u16)> {
        let inline = self.inline(entry);
        if self.is_vacant(entry) && need <= self.head(inline).capacity() {
            self.set_vacant(entry, false);
            return Ok((inline, self.head(inline).flags & CAPACITY));
        }
        let (class, units) = class_of(need.div_ceil(UNIT) as u16);
        let place = self.free[class];
        if place != Place::NONE {
            self.free[class] = self.head(place).older;
            return Ok((place, units));
        }
        let place = self.arena.allocate(VERSION_HEAD + units as usize * UNIT).ok_or_else(full)?;
        Ok((place, units))
    }

    /// Writes a version into a free block.
    fn fill(&mut self, place: Place, older: Place, units: u16, seq: Seq, value: Option<&[u8]>) {
        self.versions += 1;
        self.payload += value.map_or(0, <[u8]>::len);
        let slot = value.filter(|value| value.len() > LARGE_FROM).map(|value| self.arena.store(value));
        self.write(place, older, units, seq, value, slot);
    }

    /// Writes a version over the one that is there, which nobody needs.
    fn refill(&mut self, place: Place, head: Head, seq: Seq, value: Option<&[u8]>) {
        self.payload -= self.version(place).value.map_or(0, <[u8]>::len);
        self.payload += value.map_or(0, <[u8]>::len);
        let held = (head.flags & LARGE != 0).then(|| read_u32(self.arena.at(place), VERSION_HEAD));
        let slot = match (held, value.filter(|value| value.len() > LARGE_FROM)) {
            (Some(slot), Some(value)) => {
                self.arena.store_again(slot, value);
                Some(slot)
            }
            (None, Some(value)) => Some(self.arena.store(value)),
            (Some(slot), None) => {
                self.arena.release(slot);
                None
            }
            (None, None) => None,
        };
        self.write(place, head.older, head.flags & CAPACITY, seq, value, slot);
    }

    fn write(
        &mut self,
        place: Place,
        older: Place,
        units: u16,
        seq: Seq,
        value: Option<&[u8]>,
        slot: Option<u32>,
    ) {
        let number = slot.unwrap_or_default().to_le_bytes();
        let (body, flags) = match (value, slot) {
            (None, _) => (&[][..], REMOVED),
            (Some(_), Some(_)) => (&number[..], LARGE),
            (Some(value), None) => (value, 0),
        };
        let bytes = self.arena.at_mut(place);
        bytes[0..8].copy_from_slice(&seq.0.to_le_bytes());
        bytes[8..12].copy_from_slice(&older.0.to_le_bytes());
        bytes[12..14].copy_from_slice(&(body.len() as u16).to_le_bytes());
        bytes[14..16].copy_from_slice(&(units | flags).to_le_bytes());
        bytes[VERSION_HEAD..VERSION_HEAD + body.len()].copy_from_slice(body);
    }

    /// Takes a version's block out of use.
    fn release(&mut self, entry: Place, version: Place) {
        self.versions -= 1;
        self.payload -= self.version(version).value.map_or(0, <[u8]>::len);
        let head = self.head(version);
        if head.flags & LARGE != 0 {
            self.arena.release(read_u32(self.arena.at(version), VERSION_HEAD));
        }
        if version == self.inline(entry) {
            self.set_vacant(entry, true);
            return;
        }
        let (class, _) = class_of(head.flags & CAPACITY);
        self.set_older(version, self.free[class]);
        self.free[class] = version;
    }

    fn set_newest(&mut self, entry: Place, version: Place) {
        self.arena.at_mut(entry)[0..4].copy_from_slice(&version.0.to_le_bytes());
    }

    fn set_older(&mut self, version: Place, older: Place) {
        self.arena.at_mut(version)[8..12].copy_from_slice(&older.0.to_le_bytes());
    }

    fn count_and_vacant(&self, entry: Place) -> u16 {
        let bytes = self.arena.at(entry);
        u16::from_le_bytes([bytes[6], bytes[7]])
    }

    fn count(&self, entry: Place) -> u16 {
        self.count_and_vacant(entry) & COUNT
    }

    fn is_vacant(&self, entry: Place) -> bool {
        self.count_and_vacant(entry) & VACANT != 0
    }

    fn set_count(&mut self, entry: Place, count: u16) {
        let both = count | self.count_and_vacant(entry) & !COUNT;
        self.arena.at_mut(entry)[6..8].copy_from_slice(&both.to_le_bytes());
    }

    fn set_vacant(&mut self, entry: Place, vacant: bool) {
        let both = self.count_and_vacant(entry) & !VACANT | if vacant { VACANT } else { 0 };
        self.arena.at_mut(entry)[6..8].copy_from_slice(&both.to_le_bytes());
    }
}

#[inline]
fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[inline]
fn head_of(bytes: &[u8]) -> Head {
    let bytes = &bytes[..VERSION_HEAD];
    let low = u64::from(read_u32(bytes, 0));
    let high = u64::from(read_u32(bytes, 4));
    Head {
        seq: Seq(high << 32 | low),
        older: Place(read_u32(bytes, 8)),
        length: u16::from_le_bytes([bytes[12], bytes[13]]),
        flags: u16::from_le_bytes([bytes[14], bytes[15]]),
    }
}

fn full() -> Error {
    Error::invalid("the memtable holds as many records as it can number (16 GiB of them)")
        .remedy("freeze it and go on with a new one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_classes_hold_what_they_are_asked_for_and_waste_a_fifth_at_most() {
        let mut before = (0, 0);
        for units in 1..=(LARGE_FROM / UNIT) as u16 {
            let (class, held) = class_of(units);
            assert!(held >= units && class < CLASSES);
            assert!(held - units <= units / 4, "{units} in {held}");
            assert_eq!(class_of(held), (class, held));
            assert!(class == before.0 && held == before.1 || class >= before.0 && held > before.1);
            before = (class, held);
        }
        assert_eq!(before.0, CLASSES - 1);
    }

    #[test]
    fn a_chain_keeps_what_snapshots_see_and_uses_blocks_again() {
        let mut entries = Entries::default();
        let entry = entries.add(b"key", Seq(1), Some(b"one")).unwrap();
        entries.put(entry, Seq(2), Some(b"two, which is longer"), &[Seq(1)]).unwrap();
        entries.put(entry, Seq(3), None, &[Seq(1)]).unwrap();
        let seen = |entries: &Entries, at| {
            entries.version_at(entry, at).map(|(_, v)| (v.seq, v.value.map(<[u8]>::to_vec)))
        };
        assert_eq!(seen(&entries, Seq(0)), None);
        assert_eq!(seen(&entries, Seq(1)), Some((Seq(1), Some(b"one".to_vec()))));
        assert_eq!(seen(&entries, Seq(9)), Some((Seq(3), None)));
        assert_eq!(entries.versions(), 2);
        assert_eq!(entries.payload(), 3 + 3);
        // The snapshot has gone: its version goes when the chain is next looked through, and its block is used again.
        for seq in 4..10 {
            entries.put(entry, Seq(seq), Some(b"x"), &[Seq(seq - 1)]).unwrap();
        }
        assert!(entries.versions() <= 4, "{}", entries.versions());
        assert!(entries.put(entry, Seq(2), None, &[]).is_err());
    }
}
