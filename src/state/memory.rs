//! The memtables: the active one, the frozen ones on their way to the shards, and the snapshots that still read old
//! versions.
//!
//! Invariants:
//! - A commit enters the active table under one write lock, so a reader sees all of it or nothing.
//! - Commits enter in sequence order: `last` is the newest, and everything up to it is here or in the shards.
//! - A frozen table stays listed until every serving owner has its records, so a key that is in no listed table is in
//!   the shards in its newest version.
//! - A snapshot is registered under the same lock that fixes its sequence, so no version it needs is dropped.

use crate::error::Result;
use crate::ids::Seq;
use crate::memtable::{Table, Version};
use crate::record::{Found, KeyRange, RunRecord};
use bytes::Bytes;
use parking_lot::{RwLock, RwLockWriteGuard};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// All memtables of a store.
#[derive(Debug)]
pub struct Memory {
    tables: RwLock<Tables>,
    // Copies for those who only measure, so that pacing takes no lock.
    active_bytes: AtomicU64,
    frozen_bytes: AtomicU64,
    freeze_at: u64,
}

/// What the lock guards.
#[derive(Debug)]
pub struct Tables {
    pub active: Table,
    /// Oldest first.
    pub frozen: Arc<[Arc<Table>]>,
    /// The newest commit.
    pub last: Seq,
    live: Live,
}

/// The sequences of the live snapshots, and how many snapshots each.
#[derive(Debug, Default)]
struct Live {
    counts: BTreeMap<Seq, usize>,
    // Kept beside the counts, since every insert reads it and few snapshots come and go.
    seqs: Vec<Seq>,
}

/// What the memtables know of a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Recent {
    Value(Found),
    Removed,
    /// Nothing: the shards have it, if anything does.
    Unknown,
}

/// One source of a scan's chunk.
#[derive(Debug)]
pub struct MemoryView {
    /// Copied from the active table: (key, version, value).
    pub active: Vec<(Bytes, Seq, Option<Bytes>)>,
    /// Whether the active table has more in the range than was copied.
    pub truncated: bool,
    pub frozen: Arc<[Arc<Table>]>,
}

impl Memory {
    /// Empty memtables, of which the active one is frozen at `freeze_at` bytes.
    pub fn new(last: Seq, freeze_at: u64) -> Memory {
        let tables = Tables { active: Table::new(), frozen: Arc::new([]), last, live: Live::default() };
        Memory {
            tables: RwLock::new(tables),
            active_bytes: AtomicU64::new(0),
            frozen_bytes: AtomicU64::new(0),
            freeze_at,
        }
    }

    /// Locks the tables for a commit. Lock order: after the journal's appender.
    pub fn lock(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write()
    }

    /// Ends a commit: freezes the active table if it is due, and publishes the sizes. Returns whether a table waits to
    /// be flushed.
    pub fn settle(&self, tables: &mut Tables) -> bool {
        let size = tables.active.bytes() as u64;
        // While another table is being flushed the active one grows on: a longer run touches each page once.
        if size >= self.freeze_at && tables.frozen.is_empty() || tables.active.is_full() {
            self.freeze_locked(tables);
        } else {
            self.active_bytes.store(size, Ordering::Relaxed);
        }
        !tables.frozen.is_empty()
    }

    /// Freezes the active table if it holds anything. Returns whether a table waits to be flushed.
    pub fn freeze(&self) -> bool {
        let mut tables = self.tables.write();
        self.freeze_locked(&mut tables);
        !tables.frozen.is_empty()
    }

    fn freeze_locked(&self, tables: &mut Tables) {
        if !tables.active.is_empty() {
            let table = Arc::new(std::mem::take(&mut tables.active));
            tables.frozen = tables.frozen.iter().cloned().chain([table]).collect();
        }
        self.publish(tables);
    }

    fn publish(&self, tables: &Tables) {
        self.active_bytes.store(tables.active.bytes() as u64, Ordering::Relaxed);
        self.frozen_bytes.store(tables.frozen.iter().map(|t| t.bytes() as u64).sum(), Ordering::Relaxed);
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
        if tables.frozen.is_empty() && tables.active.bytes() as u64 >= self.freeze_at {
            self.freeze_locked(&mut tables);
        }
        self.publish(&tables);
        drop(tables);
        // Freed outside the lock, since giving many chunks back takes a while.
        drop(oldest);
    }

    /// The newest version of a key at or below `at`, if a memtable has one.
    pub fn get(&self, key: &[u8], at: Seq) -> Recent {
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
        let newest = frozen.iter().rev().find_map(|table| table.get(key, at));
        newest.map_or(Recent::Unknown, Recent::new)
    }

    /// What a chunk of a scan needs: up to `limit` records of the active table, and the frozen tables.
    pub fn view(
        &self,
        range: &KeyRange,
        at: Seq,
        reverse: bool,
        limit: usize,
        byte_limit: usize,
    ) -> MemoryView {
        let tables = self.tables.read();
        let mut view = MemoryView { active: Vec::new(), truncated: false, frozen: tables.frozen.clone() };
        let mut bytes = 0;
        for RunRecord { key, seq, value } in tables.active.iter_at(range, at, reverse) {
            if view.active.len() >= limit || bytes >= byte_limit {
                view.truncated = true;
                break;
            }
            bytes += key.len() + value.map_or(0, <[u8]>::len);
            view.active.push((Bytes::copy_from_slice(key), seq, value.map(Bytes::copy_from_slice)));
        }
        view
    }

    /// The newest commit.
    pub fn last(&self) -> Seq {
        self.tables.read().last
    }

    /// Registers a snapshot of everything committed so far.
    pub fn open_snapshot(&self) -> Seq {
        let mut tables = self.tables.write();
        let at = tables.last;
        tables.live.add(at);
        at
    }

    pub fn close_snapshot(&self, at: Seq) {
        self.tables.write().live.remove(at);
    }

    /// The sequences of the live snapshots, ascending.
    pub fn live(&self) -> Vec<Seq> {
        self.tables.read().live.seqs.clone()
    }

    /// (active, frozen) bytes resident.
    pub fn bytes(&self) -> (u64, u64) {
        (self.active_bytes.load(Ordering::Relaxed), self.frozen_bytes.load(Ordering::Relaxed))
    }

    /// The number of frozen tables.
    pub fn frozen(&self) -> usize {
        self.tables.read().frozen.len()
    }
}

impl Tables {
    /// Enters one operation of the commit `seq`.
    pub fn insert(&mut self, key: &[u8], seq: Seq, value: Option<&[u8]>) -> Result<()> {
        self.active.insert(key, seq, value, &self.live.seqs)
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
        *self.counts.entry(at).or_default() += 1;
        self.seqs = self.counts.keys().copied().collect();
    }

    fn remove(&mut self, at: Seq) {
        if let Some(count) = self.counts.get_mut(&at) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&at);
            }
        }
        self.seqs = self.counts.keys().copied().collect();
    }
}
