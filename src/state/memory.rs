//! The memtables: the active one, the frozen ones on their way to the shards, and the snapshots that still read old
//! versions.
//!
//! Invariants:
//! - A commit enters the active table under one write lock, so a reader sees all of it or nothing.
//! - Commits enter in sequence order: `last` is the newest, and everything up to it is here or in the shards.
//! - A frozen table stays listed until every serving owner has its records, so a key that is in no listed table is in
//!   the shards in its newest version.
//! - A snapshot is registered while commits are kept out, so no version it needs is dropped.

use super::copied::Copied;
use crate::error::Result;
use crate::ids::Seq;
use crate::memtable::{Table, Version};
use crate::plants;
use crate::record::{Found, KeyRange};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, RwLock, RwLockWriteGuard};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;

/// What a commit takes in the journal beside its operations, in bytes; about.
const FRAME: u64 = 64;

/// The bytes that are copied from the active table at once, under its lock.
const COPY_BYTES: usize = 256 << 10;

/// All memtables of a store.
#[derive(Debug)]
pub struct Memory {
    tables: RwLock<Tables>,
    // Copies for those who only measure, so that pacing takes no lock.
    active_bytes: AtomicU64,
    frozen_bytes: AtomicU64,
    // What the commits of all tables take in the journal, which keeps them until they have been flushed.
    unflushed: AtomicU64,
    freeze_at: u64,
    /// The active one is frozen as well when its commits take so much of the journal: where the same keys are written over and over it
    /// hardly grows, and an opening would have to replay all that.
    journal_at: u64,
    // Whether any table may hold a record: set before one enters, cleared under the lock when all are empty. While nothing is
    // written reads take no lock here.
    holds: AtomicBool,
}

/// What the lock guards.
#[derive(Debug)]
pub struct Tables {
    pub active: Table,
    /// What its commits take in the journal, in bytes.
    written: u64,
    /// Oldest first.
    pub frozen: Arc<[Arc<Table>]>,
    /// The same of each of these.
    waiting: VecDeque<u64>,
    /// The newest commit.
    pub last: Seq,
    forgotten: u64,
    // A lock of its own, so that snapshots come and go beside readers; a commit has the tables to itself.
    live: Mutex<Live>,
}

/// The sequences of the live snapshots, ascending, and how many snapshots each has.
#[derive(Debug, Default)]
struct Live {
    seqs: Vec<Seq>,
    counts: Vec<usize>,
}

/// What the memtables know of a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Recent {
    Value(Found),
    Removed,
    /// Nothing: the shards have it, if anything does.
    Unknown,
}

/// The frozen tables at one moment.
#[derive(Debug)]
pub struct Frozen {
    /// Oldest first.
    pub tables: Arc<[Arc<Table>]>,
    /// How many tables have been forgotten so far. As long as that does not change, no record has gone from here to where
    /// only a shard has it.
    pub forgotten: u64,
}

impl Memory {
    /// Empty memtables, of which the active one is frozen at `freeze_at` bytes.
    pub fn new(last: Seq, freeze_at: u64) -> Memory {
        let tables = Tables {
            active: Table::new(),
            written: 0,
            frozen: Arc::new([]),
            waiting: VecDeque::new(),
            last,
            forgotten: 0,
            live: Mutex::default(),
        };
        Memory {
            tables: RwLock::new(tables),
            active_bytes: AtomicU64::new(0),
            frozen_bytes: AtomicU64::new(0),
            unflushed: AtomicU64::new(0),
            freeze_at,
            journal_at: freeze_at.saturating_mul(5) / 4,
            holds: AtomicBool::new(false),
        }
    }

    /// Locks the tables for a commit. Lock order: after the journal's appender.
    pub fn lock(&self) -> RwLockWriteGuard<'_, Tables> {
        let tables = self.tables.write();
        self.holds.store(true, Ordering::Release);
        tables
    }

    /// Says that everything up to `last` is in the tables or in the shards: what a recovery ends with.
    pub fn resume_after(&self, last: Seq) {
        self.tables.write().last = last;
    }

    /// Ends a commit of so many bytes: freezes the active table if it is due, and publishes the sizes. Returns whether a table waits to
    /// be flushed.
    pub fn settle(&self, tables: &mut Tables, bytes: usize) -> bool {
        tables.written += bytes as u64 + FRAME;
        // While another table is being flushed the active one grows on: a longer run touches each page once.
        if self.is_due(tables) && tables.frozen.is_empty() || tables.active.is_full() {
            self.freeze_locked(tables);
        } else {
            self.active_bytes.store(tables.active.bytes() as u64, Ordering::Relaxed);
            self.unflushed.store(tables.unflushed(), Ordering::Relaxed);
        }
        !tables.frozen.is_empty()
    }

    fn is_due(&self, tables: &Tables) -> bool {
        tables.active.bytes() as u64 >= self.freeze_at || tables.written >= self.journal_at
    }

    /// Freezes the active table if it holds anything. Returns whether a table waits to be flushed.
    pub fn freeze(&self) -> bool {
        let mut tables = self.tables.write();
        if plants::is("table-changed-in-two-steps") && !tables.active.is_empty() {
            let table = Arc::new(std::mem::take(&mut tables.active));
            tables.waiting.push_back(0);
            drop(tables);
            tables = self.tables.write();
            tables.frozen = tables.frozen.iter().cloned().chain([table]).collect();
        }
        self.freeze_locked(&mut tables);
        !tables.frozen.is_empty()
    }

    fn freeze_locked(&self, tables: &mut Tables) {
        if !tables.active.is_empty() {
            let table = Arc::new(std::mem::take(&mut tables.active));
            let written = std::mem::take(&mut tables.written);
            tables.waiting.push_back(written);
            tables.frozen = tables.frozen.iter().cloned().chain([table]).collect();
        }
        self.publish(tables);
    }

    fn publish(&self, tables: &Tables) {
        self.active_bytes.store(tables.active.bytes() as u64, Ordering::Relaxed);
        self.frozen_bytes.store(tables.frozen.iter().map(|t| t.bytes() as u64).sum(), Ordering::Relaxed);
        self.unflushed.store(tables.unflushed(), Ordering::Relaxed);
    }

    /// Whether no table holds anything.
    pub fn is_empty(&self) -> bool {
        let tables = self.tables.read();
        tables.active.is_empty() && tables.frozen.is_empty()
    }

    /// The table to be flushed next.
    pub fn oldest_frozen(&self) -> Option<Arc<Table>> {
        self.tables.read().frozen.first().cloned()
    }

    /// Forgets the oldest frozen table, whose records are in the shards now, and freezes the active one if it is due.
    pub fn pop_frozen(&self) {
        let mut tables = self.tables.write();
        let oldest = tables.frozen.first().cloned();
        tables.frozen = tables.frozen.iter().skip(1).cloned().collect();
        tables.waiting.pop_front();
        tables.forgotten += 1;
        if tables.frozen.is_empty() && self.is_due(&tables) {
            self.freeze_locked(&mut tables);
        }
        self.publish(&tables);
        let holds = !tables.active.is_empty() || !tables.frozen.is_empty();
        if plants::is("emptiness-told-outside-the-lock") {
            drop(tables);
            self.holds.store(holds, Ordering::Release);
            return;
        }
        self.holds.store(holds, Ordering::Release);
        drop(tables);
        // Freed outside the lock, since giving many chunks back takes a while.
        drop(oldest);
    }

    /// The newest version of a key at or below `at`, if a memtable has one.
    pub fn get(&self, key: &[u8], at: Seq) -> Recent {
        // A commit that was acknowledged before has set it; what was there when it was cleared is in the shards.
        if !self.holds.load(Ordering::Acquire) {
            return Recent::Unknown;
        }
        let frozen = {
            let tables = self.tables.read();
            if let Some(version) = tables.active.get(key, at) {
                return Recent::new(version);
            }
            if tables.frozen.is_empty() {
                return Recent::Unknown;
            }
            tables.frozen.clone()
        };
        let newest = match plants::is("older-table-first") {
            false => frozen.iter().rev().find_map(|table| table.get(key, at)),
            true => frozen.iter().find_map(|table| table.get(key, at)),
        };
        newest.map_or(Recent::Unknown, Recent::new)
    }

    /// The frozen tables.
    pub fn frozen_tables(&self) -> Frozen {
        self.tables.read().frozen_tables()
    }

    /// Copies what the active table has of `range` as of `at`, up to `limit` records, and tells whether that is all; with
    /// the frozen tables of the same moment.
    pub fn copy_active(
        &self,
        range: &KeyRange,
        at: Seq,
        reverse: bool,
        limit: usize,
        copied: &mut Copied,
    ) -> (bool, Frozen) {
        copied.clear();
        let tables = self.tables.read();
        // Nothing in it is of that time: it need not be walked through, which would hold up writers.
        if tables.active.min_seq().is_none_or(|first| first > at) {
            return (true, tables.frozen_tables());
        }
        for record in tables.active.iter_at(range, at, reverse) {
            if copied.len() >= limit || copied.bytes() >= COPY_BYTES {
                return (false, tables.frozen_tables());
            }
            copied.push(record.into());
        }
        (true, tables.frozen_tables())
    }

    /// The newest commit.
    pub fn last(&self) -> Seq {
        self.tables.read().last
    }

    /// Registers a snapshot of everything committed so far.
    pub fn open_snapshot(&self) -> Seq {
        // No commit comes between the two: it would need the lock to itself.
        let tables = self.tables.read();
        tables.live.lock().add(tables.last);
        tables.last
    }

    /// The same, closed when it is dropped.
    pub fn snapshot(&self) -> Snapshot<'_> {
        Snapshot { memory: self, at: self.open_snapshot() }
    }

    /// Registers a snapshot once more, for somebody who reads as of it as well.
    pub fn hold_snapshot(&self, at: Seq) {
        self.tables.read().live.lock().add(at);
    }

    pub fn close_snapshot(&self, at: Seq) {
        self.tables.read().live.lock().remove(at);
    }

    /// The sequences of the live snapshots, ascending.
    pub fn live(&self) -> Vec<Seq> {
        self.tables.read().live.lock().seqs.clone()
    }

    /// (active, frozen) bytes resident.
    pub fn bytes(&self) -> (u64, u64) {
        (self.active_bytes.load(Ordering::Relaxed), self.frozen_bytes.load(Ordering::Relaxed))
    }

    /// What all that is yet to be flushed takes in the journal, in bytes: where the same keys are written over and over, much more than here.
    pub fn unflushed(&self) -> u64 {
        self.unflushed.load(Ordering::Relaxed)
    }

    /// The number of frozen tables.
    pub fn frozen(&self) -> usize {
        self.tables.read().frozen.len()
    }

    /// Every write up to this one has left the memtables.
    pub fn forgotten(&self) -> Seq {
        let tables = self.tables.read();
        let oldest = tables.frozen.iter().map(|table| table.min_seq()).chain([tables.active.min_seq()]);
        oldest.flatten().min().map_or(tables.last, |first| Seq(first.0.saturating_sub(1)))
    }
}

impl Tables {
    /// Enters one operation of the commit `seq`.
    pub fn insert(&mut self, key: &[u8], seq: Seq, value: Option<&[u8]>) -> Result<()> {
        self.active.insert(key, seq, value, &self.live.get_mut().seqs)
    }

    fn unflushed(&self) -> u64 {
        self.written + self.waiting.iter().sum::<u64>()
    }

    fn frozen_tables(&self) -> Frozen {
        Frozen { tables: self.frozen.clone(), forgotten: self.forgotten }
    }
}

impl Recent {
    fn new(version: Version<'_>) -> Recent {
        match version.value {
            Some(value) => Recent::Value(Found { seq: version.seq, value: Bytes::copy_from_slice(value) }),
            None => Recent::Removed,
        }
    }
}

impl Live {
    fn add(&mut self, at: Seq) {
        match self.seqs.binary_search(&at) {
            Ok(place) => self.counts[place] += 1,
            Err(place) => {
                self.seqs.insert(place, at);
                self.counts.insert(place, 1);
            }
        }
    }

    fn remove(&mut self, at: Seq) {
        if let Ok(place) = self.seqs.binary_search(&at) {
            self.counts[place] -= 1;
            if self.counts[place] == 0 {
                self.seqs.remove(place);
                self.counts.remove(place);
            }
        }
    }
}

/// A snapshot that is held.
#[derive(Debug)]
pub struct Snapshot<'a> {
    memory: &'a Memory,
    pub at: Seq,
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        self.memory.close_snapshot(self.at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_tables_are_passed_by_and_full_ones_never() {
        let memory = Memory::new(Seq::ZERO, 1 << 20);
        let write = |seq| {
            let mut tables = memory.lock();
            tables.insert(b"k", Seq(seq), Some(b"v")).unwrap();
            memory.settle(&mut tables, 0);
        };
        let knows = || memory.get(b"k", Seq::MAX) != Recent::Unknown;
        assert!(!memory.holds.load(Ordering::Relaxed) && !knows());
        write(1);
        assert!(knows());
        memory.freeze();
        assert!(knows());
        write(2);
        memory.pop_frozen();
        assert!(knows(), "the active table is left");
        memory.freeze();
        memory.pop_frozen();
        assert!(!memory.holds.load(Ordering::Relaxed) && !knows());
        write(3);
        assert!(knows());
        memory.resume_after(Seq(3));
        assert_eq!(memory.last(), Seq(3));
    }
}
