//! Records that are asked for often, in front of the shards: a hit needs neither the ring nor a page.
//!
//! Invariants:
//! - What is kept of a key is its newest version in the shards. The memtables are asked first, so only a flush can make it
//!   old: before a table is forgotten, its keys are forgotten here ([`Records::retire`]).
//! - A reader that began before that must not bring an older version in afterwards: it took note of the turn before it asked
//!   the memtables, and a record is taken in only in the turn that it was read in.
//! - What was read from a shard is not kept any longer than that shard serves: it may have been wrong, and why it went.
//! - A record is taken in when it is asked for a second time within a while (a doorkeeper, as in TinyLFU), so that reads all
//!   over the store cost little and push nothing out.
//! - How much memory they may take follows from what they are good for ([`Climb`]): where few records get most of the reads it
//!   grows, where none do pages have it.

use crate::ids::Seq;
use crate::memtable::Table;
use crate::record::Found;
use crate::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, RwLock};
use bytes::Bytes;
use foldhash::fast::RandomState;
use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use std::cell::Cell;
use std::hash::BuildHasher;
use std::sync::Arc;

/// A larger value is left to the page that holds it.
const MAX_VALUE: usize = 2048;
/// What a record takes beside its bytes: its allocation and a place in the table.
const OVERHEAD: u64 = 96;
/// The doorkeeper remembers a key for so many bytes of the budget.
const BYTES_A_MARK: u64 = 2048;
const LEAST_MARKS: u64 = 1 << 12;
/// They are there from the beginning, 32 MiB of them, however large a budget somebody names who means none.
const MOST_MARKS: u64 = 1 << 24;
/// Sequence and length of the key before a kept record's key and value.
const HEADER: usize = 12;

/// One read in so many is counted, and after so many counted ones their memory is thought over.
const SAMPLE: u32 = 8;
const WINDOW: u32 = 8192;

thread_local! {
    static READS: Cell<u32> = const { Cell::new(0) };
}

/// By the hash of the key; the record lies in one piece with its key, so that a hit waits for memory as seldom as may be.
type Kept = Cache<u64, Arc<[u8]>, Weigh, RandomState, DefaultLifecycle<u64, Arc<[u8]>>>;

/// The records that are kept.
pub struct Records {
    kept: Kept,
    hasher: RandomState,
    seen: Box<[AtomicU16]>,
    turn: AtomicU64,
    counts: Counts,
    climb: Mutex<Climb>,
    // Read while a record is taken in, written while a turn ends. Never held over I/O.
    gate: RwLock<()>,
}

/// Reads and hits of a window. By themselves on lines of memory, since all that is around them is only read.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Counts {
    reads: AtomicU32,
    hits: AtomicU32,
}

/// One looking for a key: what it found out, for the one who reads it elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    hash: u64,
    turn: u64,
}

impl Records {
    /// For a store with this memory budget.
    pub fn new(budget: u64) -> Records {
        let climb = Climb::default();
        let bytes = climb.bytes(budget);
        let items = (bytes / (OVERHEAD + 128)).max(16) as usize;
        let hasher = RandomState::default();
        Records {
            kept: Cache::with(items, bytes, Weigh, hasher.clone(), DefaultLifecycle::default()),
            hasher,
            seen: (0..(budget / BYTES_A_MARK).clamp(LEAST_MARKS, MOST_MARKS))
                .map(|_| AtomicU16::new(0))
                .collect(),
            turn: AtomicU64::new(0),
            counts: Counts::default(),
            climb: Mutex::new(climb),
            gate: RwLock::new(()),
        }
    }

    /// To be called before the memtables are asked.
    #[inline]
    pub fn ask(&self, key: &[u8]) -> Asked {
        Asked { turn: self.turn.load(Ordering::Acquire), hash: self.hasher.hash_one(key) }
    }

    /// The newest version of a key that no memtable has, if it is kept.
    #[inline]
    pub fn get(&self, key: &[u8], asked: Asked) -> Option<Found> {
        let record = self.kept.get(&asked.hash)?;
        let (seq, rest) = record.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let (found, value) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        // Two keys may have one hash.
        (found == key)
            .then(|| Found { seq: Seq(u64::from_le_bytes(*seq)), value: Bytes::copy_from_slice(value) })
    }

    /// Takes note that a record was read from a shard, and perhaps keeps it.
    pub fn offer(&self, key: &[u8], found: &Found, asked: Asked) {
        if found.value.len() > MAX_VALUE {
            return;
        }
        // The upper half tells keys apart that share a place.
        let (place, mark) = (asked.hash as u32 as usize % self.seen.len(), (asked.hash >> 48) as u16 | 1);
        if self.seen[place].swap(mark, Ordering::Relaxed) != mark {
            return;
        }
        let mut record = Vec::with_capacity(HEADER + key.len() + found.value.len());
        record.extend_from_slice(&found.seq.0.to_le_bytes());
        record.extend_from_slice(&(key.len() as u32).to_le_bytes());
        record.extend_from_slice(key);
        record.extend_from_slice(&found.value);
        let _gate = self.gate.read();
        if self.turn.load(Ordering::Acquire) == asked.turn {
            self.kept.insert(asked.hash, record.into());
        }
    }

    /// Takes note of a read that no memtable answered; true if the memory should be shared out anew.
    #[inline]
    pub fn count(&self, hit: bool) -> bool {
        let reads = READS.get().wrapping_add(1);
        READS.set(reads);
        reads.is_multiple_of(SAMPLE) && self.count_one(hit)
    }

    fn count_one(&self, hit: bool) -> bool {
        if hit {
            self.counts.hits.fetch_add(1, Ordering::Relaxed);
        }
        if self.counts.reads.fetch_add(1, Ordering::Relaxed) + 1 != WINDOW {
            return false;
        }
        let hits = self.counts.hits.swap(0, Ordering::Relaxed);
        self.counts.reads.store(0, Ordering::Relaxed);
        self.climb.lock().step(hits.min(WINDOW))
    }

    /// The bytes that records may take of the budget now.
    pub fn share(&self, budget: u64) -> u64 {
        self.climb.lock().bytes(budget)
    }

    pub fn set_capacity(&self, bytes: u64) {
        self.kept.set_capacity(bytes);
    }

    /// Forgets everything: what one shard has given out another may not hold that takes its place.
    pub fn clear(&self) {
        {
            let _gate = self.gate.write();
            self.turn.fetch_add(1, Ordering::AcqRel);
        }
        self.kept.clear();
    }

    /// Forgets what a table that is in the shards now made old; the table is still listed.
    pub fn retire(&self, table: &Table) {
        if crate::plants::is("record-cache-not-told") {
            return;
        }
        self.forget(table.records().map(|record| record.key));
    }

    /// Forgets records that the shards hold in another form from here on.
    pub fn forget<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) {
        {
            let _gate = self.gate.write();
            self.turn.fetch_add(1, Ordering::AcqRel);
        }
        if self.kept.is_empty() {
            return;
        }
        for key in keys {
            self.kept.remove(&self.hasher.hash_one(key));
        }
    }
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records").field("kept", &self.kept.len()).finish_non_exhaustive()
    }
}

/// The search for the share that single records are worth: as long as they answer many of the reads it is doubled, and halved
/// again, for a while, where that did not let them answer more. Where they answer few, pages make more of the memory.
#[derive(Debug)]
struct Climb {
    /// The share is the budget divided by two to this power.
    halvings: u32,
    /// Hits of a window before the share was doubled, and how many windows ago.
    before: Option<(u32, u32)>,
    /// Windows until it may be doubled again.
    rest: u32,
}

const MOST_HALVINGS: u32 = 6;
const LEAST_HALVINGS: u32 = 2;
const MANY: u32 = WINDOW / 5 * 2;
const FEW: u32 = WINDOW / 5;
/// Hits that a doubled share must bring.
const GAIN: u32 = WINDOW / 100;
/// Windows after which a doubled share is judged: it must fill first.
const FILLING: u32 = 4;
const REST: u32 = 64;

impl Default for Climb {
    fn default() -> Climb {
        Climb { halvings: 4, before: None, rest: 0 }
    }
}

impl Climb {
    fn bytes(&self, budget: u64) -> u64 {
        budget >> self.halvings
    }

    /// Takes the hits of a window; whether the share is another now.
    fn step(&mut self, hits: u32) -> bool {
        let halvings = self.halvings;
        self.rest = self.rest.saturating_sub(1);
        if hits < FEW {
            self.halvings = MOST_HALVINGS.min(halvings + 1);
            self.before = None;
        } else if let Some((before, windows)) = self.before {
            self.before = (windows + 1 < FILLING).then_some((before, windows + 1));
            if self.before.is_none() && hits < before + GAIN {
                self.halvings = halvings + 1;
                self.rest = REST;
            }
        } else if hits >= MANY && self.rest == 0 && halvings > LEAST_HALVINGS {
            self.halvings = halvings - 1;
            self.before = Some((hits, 0));
        }
        self.halvings != halvings
    }
}

#[derive(Debug, Clone)]
struct Weigh;

impl Weighter<u64, Arc<[u8]>> for Weigh {
    fn weight(&self, _: &u64, record: &Arc<[u8]>) -> u64 {
        OVERHEAD + record.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(seq: u64) -> Found {
        Found { seq: Seq(seq), value: Bytes::from(seq.to_string()) }
    }

    fn get(records: &Records, key: &[u8]) -> Option<Found> {
        records.get(key, records.ask(key))
    }

    #[test]
    fn the_second_reading_keeps_a_record_and_a_flush_forgets_it() {
        let records = Records::new(16 << 20);
        let asked = records.ask(b"k");
        records.offer(b"k", &found(1), asked);
        assert_eq!(get(&records, b"k"), None);
        records.offer(b"k", &found(1), asked);
        assert_eq!(get(&records, b"k"), Some(found(1)));
        assert_eq!(records.get(b"other", asked), None, "a key with the same hash");
        let mut table = Table::new();
        table.insert(b"k", Seq(2), Some(b"2"), &[]).unwrap();
        records.retire(&table);
        assert_eq!(get(&records, b"k"), None);
    }

    #[test]
    fn a_reader_of_an_earlier_turn_brings_nothing_back() {
        let records = Records::new(16 << 20);
        let asked = records.ask(b"k");
        records.offer(b"k", &found(1), asked);
        records.retire(&Table::new());
        records.offer(b"k", &found(1), asked);
        assert_eq!(get(&records, b"k"), None);
        records.offer(b"k", &found(2), records.ask(b"k"));
        assert_eq!(get(&records, b"k"), Some(found(2)));
    }

    #[test]
    fn the_share_follows_what_records_are_good_for() {
        let share = |climb: &mut Climb, windows: u32, hits: &dyn Fn(u32) -> u32| {
            (0..windows).for_each(|_| {
                let hits = hits(climb.halvings);
                climb.step(hits);
            });
            climb.bytes(64)
        };
        // Nobody reads a record twice.
        assert_eq!(share(&mut Climb::default(), 10, &|_| WINDOW / 100), 1);
        // By Zipf's law each doubling brings about a twentieth of all reads.
        let mut climb = Climb::default();
        assert_eq!(share(&mut climb, 20, &|halvings| WINDOW * 9 / 10 - halvings * WINDOW / 20), 16);
        assert_eq!(share(&mut climb, 10, &|_| 0), 1);
        // A few records get half of all reads, and nothing is gained by room for more.
        let mut climb = Climb::default();
        assert_eq!(share(&mut climb, 20, &|_| WINDOW / 2), 4);
        assert_eq!(share(&mut climb, REST + 10, &|_| WINDOW / 2), 4);
    }

    #[test]
    fn one_read_in_some_is_counted_and_a_window_moves_the_share() {
        let records = Records::new(64 << 20);
        let moved = (0..SAMPLE * WINDOW).filter(|_| records.count(false)).count();
        assert_eq!(moved, 1);
        assert_eq!(records.share(64 << 20), 2 << 20);
    }

    #[test]
    fn what_is_read_once_or_is_large_is_not_kept() {
        let records = Records::new(16 << 20);
        for n in 0..1000u32 {
            let key = n.to_le_bytes();
            records.offer(&key, &found(1), records.ask(&key));
        }
        assert!(records.kept.len() < 5, "{} kept", records.kept.len());
        let large = Found { seq: Seq(1), value: Bytes::from(vec![0; MAX_VALUE + 1]) };
        for _ in 0..3 {
            records.offer(b"large", &large, records.ask(b"large"));
        }
        assert_eq!(get(&records, b"large"), None);
    }
}
