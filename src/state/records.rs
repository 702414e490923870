//! Records that are asked for often, in front of the shards: a hit needs neither the ring nor a page.
//!
//! Invariants:
//! - What is kept of a key is its newest version in the shards. The memtables are asked first, so only a flush can make it
//!   old: before a table is forgotten, its keys are forgotten here ([`Records::retire`]).
//! - A reader that began before that must not bring an older version in afterwards: it took note of the turn before it asked
//!   the memtables, and a record is taken in only in the turn that it was read in.
//! - A record is taken in when it is asked for a second time within a while (a doorkeeper, as in TinyLFU), so that reads all
//!   over the store cost little and push nothing out.

use crate::memtable::Table;
use crate::record::Found;
use foldhash::fast::RandomState;
use parking_lot::RwLock;
use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A larger value is left to the page that holds it.
const MAX_VALUE: usize = 2048;
/// What a record takes beside its key and value: two allocations and a place in the table.
const OVERHEAD: u64 = 144;
/// Keys that the doorkeeper remembers.
const SEEN: usize = 1 << 15;

type Kept = Cache<Box<[u8]>, Found, Weigh, RandomState, DefaultLifecycle<Box<[u8]>, Found>>;

/// The records that are kept.
pub struct Records {
    kept: Kept,
    hasher: RandomState,
    seen: Box<[AtomicU32]>,
    turn: AtomicU64,
    // Read while a record is taken in, written while a turn ends. Never held over I/O.
    gate: RwLock<()>,
}

impl Records {
    /// Room for about `bytes`.
    pub fn new(bytes: u64) -> Records {
        let items = (bytes / (OVERHEAD + 128)).max(16) as usize;
        let hasher = RandomState::default();
        Records {
            kept: Cache::with(items, bytes, Weigh, hasher.clone(), DefaultLifecycle::default()),
            hasher,
            seen: (0..SEEN).map(|_| AtomicU32::new(0)).collect(),
            turn: AtomicU64::new(0),
            gate: RwLock::new(()),
        }
    }

    /// The turn, to be noted before the memtables are asked.
    #[inline]
    pub fn turn(&self) -> u64 {
        self.turn.load(Ordering::Acquire)
    }

    /// The newest version of a key that no memtable has, if it is kept.
    #[inline]
    pub fn get(&self, key: &[u8]) -> Option<Found> {
        self.kept.get(key)
    }

    /// Takes note that a record was read from a shard in `turn`, and perhaps keeps it.
    pub fn offer(&self, key: &[u8], found: &Found, turn: u64) {
        if found.value.len() > MAX_VALUE {
            return;
        }
        let hash = self.hasher.hash_one(key);
        // The upper half tells keys apart that share a place.
        let (place, mark) = (hash as usize % SEEN, (hash >> 32) as u32 | 1);
        if self.seen[place].swap(mark, Ordering::Relaxed) != mark {
            return;
        }
        let _gate = self.gate.read();
        if self.turn() == turn {
            self.kept.insert(key.into(), found.clone());
        }
    }

    /// Forgets what a table that is in the shards now made old; the table is still listed.
    pub fn retire(&self, table: &Table) {
        {
            let _gate = self.gate.write();
            self.turn.fetch_add(1, Ordering::AcqRel);
        }
        if self.kept.is_empty() {
            return;
        }
        for record in table.records() {
            self.kept.remove(record.key);
        }
    }
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records").field("kept", &self.kept.len()).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone)]
struct Weigh;

impl Weighter<Box<[u8]>, Found> for Weigh {
    fn weight(&self, key: &Box<[u8]>, found: &Found) -> u64 {
        OVERHEAD + (key.len() + found.value.len()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Seq;
    use bytes::Bytes;

    fn found(seq: u64) -> Found {
        Found { seq: Seq(seq), value: Bytes::from(seq.to_string()) }
    }

    #[test]
    fn the_second_reading_keeps_a_record_and_a_flush_forgets_it() {
        let records = Records::new(1 << 20);
        let turn = records.turn();
        records.offer(b"k", &found(1), turn);
        assert_eq!(records.get(b"k"), None);
        records.offer(b"k", &found(1), turn);
        assert_eq!(records.get(b"k"), Some(found(1)));
        let mut table = Table::new();
        table.insert(b"k", Seq(2), Some(b"2"), &[]).unwrap();
        records.retire(&table);
        assert_eq!(records.get(b"k"), None);
    }

    #[test]
    fn a_reader_of_an_earlier_turn_brings_nothing_back() {
        let records = Records::new(1 << 20);
        let turn = records.turn();
        records.offer(b"k", &found(1), turn);
        records.retire(&Table::new());
        records.offer(b"k", &found(1), turn);
        assert_eq!(records.get(b"k"), None);
        records.offer(b"k", &found(2), records.turn());
        assert_eq!(records.get(b"k"), Some(found(2)));
    }

    #[test]
    fn what_is_read_once_or_is_large_is_not_kept() {
        let records = Records::new(1 << 20);
        for n in 0..1000u32 {
            records.offer(&n.to_le_bytes(), &found(1), records.turn());
        }
        assert!(records.kept.len() < 5, "{} kept", records.kept.len());
        let large = Found { seq: Seq(1), value: Bytes::from(vec![0; MAX_VALUE + 1]) };
        for _ in 0..3 {
            records.offer(b"large", &large, records.turn());
        }
        assert_eq!(records.get(b"large"), None);
    }
}
