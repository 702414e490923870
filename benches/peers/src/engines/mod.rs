//! The engines: what each can do, in one vocabulary, and how each is opened.
//!
//! Invariant: what a method promises is the same on every side; where an engine has only something near it, its file says
//! what, and the package's README repeats it. A failure of an engine stops the process with its message: a benchmark has
//! nothing to do next.

mod annulus;
mod fjall;
mod heed;
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;
mod sled;
mod sled_by_hand;

use crate::keys::Key;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Instant;

/// An open store.
pub trait Engine: Sync {
    /// What one thread works through; it stays on that thread.
    fn session(&self, reads: Reads) -> Box<dyn Session + '_>;

    /// Moves what is in memory to where the engine keeps it for good, and onto the disk, as far as it has a verb for that.
    fn settle(&self);

    /// Closes in order. Another opening may follow at once.
    fn close(self: Box<Self>);
}

/// What the reads of a session go with; it matters to engines that read through transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// Nothing is written meanwhile: a read transaction may serve many reads (`READS_A_TRANSACTION`).
    Alone,
    /// Others write, and each read must see what was acknowledged before it.
    AmongWrites,
}

/// The reads after which a read transaction is renewed, where nothing is written meanwhile.
pub const READS_A_TRANSACTION: u32 = 1_000;

/// The writes of a bulk, which is a transaction for engines whose unit that is.
pub const BULK: usize = 1_000;

/// A write of a bulk. No value: a removal.
pub struct Write {
    pub key: Key,
    pub value: Option<Vec<u8>>,
}

/// Nanoseconds.
pub type Latencies = Histogram<u64>;

pub trait Session {
    /// Shows the value of a key to `seen`, once.
    fn get(&mut self, key: &[u8], seen: &mut dyn FnMut(Option<&[u8]>));

    /// Writes at the level `process`.
    fn insert(&mut self, key: &[u8], value: &[u8]);

    /// Writes many at the level `process`: as many independent writes, or as one transaction where the engine has no
    /// smaller unit. Notes how long each took.
    fn bulk(&mut self, writes: &[Write], latencies: &mut Latencies);

    /// Writes at the level `sync`.
    fn insert_sync(&mut self, key: &[u8], value: &[u8]);

    /// Writes all of them atomically at the level `sync`.
    fn batch_sync(&mut self, writes: &[Write]);

    /// Shows up to `limit` records at or above `from` and below `to`, in order, or from the end backwards.
    fn scan(&mut self, range: Span<'_>, each: &mut dyn FnMut(&[u8], &[u8]));
}

#[derive(Debug, Clone, Copy)]
pub struct Span<'a> {
    pub from: Option<&'a [u8]>,
    pub to: Option<&'a [u8]>,
    pub reverse: bool,
    pub limit: usize,
}

impl Span<'_> {
    pub fn bounds(&self) -> (std::ops::Bound<&[u8]>, std::ops::Bound<&[u8]>) {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        (self.from.map_or(Unbounded, Included), self.to.map_or(Unbounded, Excluded))
    }

    /// Shows the records of an iterator that can be read from both ends.
    fn show<T>(&self, iter: impl DoubleEndedIterator<Item = T>, each: impl FnMut(T)) {
        if self.reverse {
            iter.rev().take(self.limit).for_each(each);
        } else {
            iter.take(self.limit).for_each(each);
        }
    }
}

/// Times independent writes, one after the other.
fn one_by_one(writes: &[Write], latencies: &mut Latencies, mut write: impl FnMut(&[u8], Option<&[u8]>)) {
    for w in writes {
        let before = Instant::now();
        write(&w.key, w.value.as_deref());
        note(latencies, before);
    }
}

pub fn note(latencies: &mut Latencies, since: Instant) {
    latencies.saturating_record(since.elapsed().as_nanos() as u64);
}

/// Which engine, with what a column needs to know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Annulus(usize),
    Sled,
    SledByHand(usize),
    Fjall,
    Redb,
    Heed,
    Rocksdb,
}

/// What the store is opened for.
#[derive(Debug, Clone, Copy)]
pub struct Opening {
    pub budget: u64,
    /// Keys with the same first 8 bytes are read together, and may be kept together.
    pub grouped: bool,
}

impl Kind {
    /// What a name on the command line stands for.
    pub fn named(name: &str) -> Option<Vec<Kind>> {
        let (base, factor) = match name.rsplit_once('-') {
            Some((base, digit)) if digit.len() == 1 => (base, digit.parse::<usize>().ok()),
            _ => (name, None),
        };
        Some(match (base, factor) {
            ("annulus", None) => (1..=3).map(Kind::Annulus).collect(),
            ("annulus", Some(r @ 1..=4)) => vec![Kind::Annulus(r)],
            ("sled-by-hand", None) => vec![Kind::SledByHand(2), Kind::SledByHand(3)],
            ("sled-by-hand", Some(r @ 2..=4)) => vec![Kind::SledByHand(r)],
            ("sled", None) => vec![Kind::Sled],
            ("fjall", None) => vec![Kind::Fjall],
            ("redb", None) => vec![Kind::Redb],
            ("heed" | "lmdb", None) => vec![Kind::Heed],
            ("rocksdb", None) if cfg!(feature = "rocksdb") => vec![Kind::Rocksdb],
            _ => return None,
        })
    }

    pub fn all() -> Vec<Kind> {
        ["annulus", "sled", "sled-by-hand", "fjall", "redb", "heed", "rocksdb"]
            .iter()
            .filter_map(|name| Kind::named(name))
            .flatten()
            .collect()
    }

    pub fn label(self) -> String {
        match self {
            Kind::Annulus(r) => format!("annulus R={r}"),
            Kind::Sled => "sled".into(),
            Kind::SledByHand(r) => format!("{r} sleds by hand"),
            Kind::Fjall => "fjall".into(),
            Kind::Redb => "redb".into(),
            Kind::Heed => "LMDB (heed)".into(),
            Kind::Rocksdb => "RocksDB".into(),
        }
    }

    pub fn version(self) -> &'static str {
        match self {
            Kind::Annulus(_) => env!("VERSION_OF_ANNULUS"),
            Kind::Sled | Kind::SledByHand(_) => env!("VERSION_OF_SLED"),
            Kind::Fjall => env!("VERSION_OF_FJALL"),
            Kind::Redb => env!("VERSION_OF_REDB"),
            Kind::Heed => env!("VERSION_OF_HEED"),
            Kind::Rocksdb => env!("VERSION_OF_ROCKSDB"),
        }
    }

    /// What a write at the level `process` is here.
    pub fn process_level(self) -> &'static str {
        match self {
            Kind::Annulus(_) => "Durability::Process: handed to the OS",
            Kind::Sled | Kind::SledByHand(_) => {
                "in its buffers, written and synced every 500 ms (its default)"
            }
            Kind::Fjall => "handed to the OS (its default)",
            Kind::Redb => {
                "Durability::None, every 1000th write Immediate; bulks of 1000, every 100th Immediate"
            }
            Kind::Heed => "MDB_NOSYNC: handed to the OS; bulks of 1000 a transaction",
            Kind::Rocksdb => "WAL handed to the OS (its default)",
        }
    }

    /// What a write at the level `sync` is here.
    pub fn sync_level(self) -> &'static str {
        match self {
            Kind::Annulus(_) => "Durability::Sync: fdatasync",
            Kind::Sled | Kind::SledByHand(_) => {
                "flush(): sync_file_range, which leaves the disk's own cache alone"
            }
            Kind::Fjall => "PersistMode::SyncData: fdatasync",
            Kind::Redb => "Durability::Immediate: fdatasync",
            Kind::Heed => "the default commit: fdatasync",
            Kind::Rocksdb => "WriteOptions::set_sync(true): fdatasync",
        }
    }

    /// Whether a write at the level `process` is there after a kill: then one that is missing fails the run.
    pub fn survives_kill(self) -> bool {
        !matches!(self, Kind::Sled | Kind::SledByHand(_) | Kind::Redb)
    }

    pub fn open(self, dir: &Path, opening: Opening) -> Box<dyn Engine> {
        match self {
            Kind::Annulus(r) => annulus::open(dir, opening, r),
            Kind::Sled => sled::open(dir, opening),
            Kind::SledByHand(r) => sled_by_hand::open(dir, opening, r),
            Kind::Fjall => fjall::open(dir, opening),
            Kind::Redb => redb::open(dir, opening),
            Kind::Heed => heed::open(dir, opening),
            #[cfg(feature = "rocksdb")]
            Kind::Rocksdb => rocksdb::open(dir, opening),
            #[cfg(not(feature = "rocksdb"))]
            Kind::Rocksdb => panic!("built without the feature rocksdb"),
        }
    }
}

#[cfg(test)]
mod tests;
