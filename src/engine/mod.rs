//! The engine seam: what one shard's storage must do, whatever keeps the bytes.
//!
//! Invariants every engine keeps, and the floors above rely on:
//! - It has one writer at a time (`apply`, `remove_range`, `sync`), and readers never wait for it.
//! - What a reader gets has passed a checksum. A record that should be there and is not is `Corruption`, not `None`.
//! - `apply` never replaces a newer version by an older one, so a run can be applied again after a crash.
//! - No call panics: a panic below is caught and returned as an error.

mod block;
mod memory;
mod sled;
#[cfg(test)]
mod tests;

pub use block::{Block, Record};
pub use memory::{MemoryFactory, Operation as MemoryOperation};
pub use sled::{Listed, Node, PageRef, SledFactory};

use crate::error::Result;
use crate::ids::{Seq, ShardId};
use crate::record::{Found, KeyRange, RunBuffer, RunRecord};
use serde::{Deserialize, Serialize};
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;

/// What an engine needs to open a shard.
#[derive(Debug, Clone)]
pub struct EngineSpec {
    /// A directory of the engine's own, inside the shard's. Created when `create` is set.
    pub dir: PathBuf,
    pub shard: ShardId,
    /// Memory for caches, in bytes as the process will show them resident.
    pub cache_bytes: u64,
    /// The size that pages are packed to, in bytes.
    pub page_bytes: usize,
    /// The shard is being made: an empty directory is right. Otherwise an empty one is corruption.
    pub create: bool,
    /// The figures of the last seal, if nothing was being applied when the shard was last open. Without them the
    /// engine counts again, see [`Engine::recount`].
    pub resume: Option<Figures>,
}

/// What a shard holds, kept up by every apply and written into its seal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    pub pages: u64,
    pub records: u64,
    /// The sum over all pages of a hash of (page key, page checksum), modulo 2^128.
    pub set_hash: u128,
}

/// How a shard survives a power cut, from what its file system honours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PowerLoss {
    /// The directory is marked synchronous and the file system honours it: every write is durable in order.
    SynchronousDirectory,
    /// Nothing orders the engine's writes: the owners of a virtual node are flushed one after another, so that one
    /// of them always rests, synced. With one replica a power cut is not survived.
    OneOwnerAtRest,
    /// The engine keeps its bytes in memory (tests).
    Simulated,
}

/// Opens engines; the store is built over one factory.
pub trait EngineFactory: Send + Sync + Debug {
    fn open(&self, spec: &EngineSpec) -> Result<Arc<dyn Engine>>;
}

/// One shard's storage.
pub trait Engine: Send + Sync + Debug {
    /// The newest version of `key` at or below `at`, if that is a value.
    fn get(&self, key: &[u8], at: Seq) -> Result<Option<Found>>;

    /// Begins a walk over live records. The cursor does not keep the engine open: once that is closed, it fails.
    fn cursor(&self, walk: &Arc<Walk>) -> Result<Box<dyn Cursor>>;

    /// Copies out every version, tombstones included, of the records from `from` on whose key is `wanted`, until about
    /// `bytes` have been read. Returns the key where to go on; none at the end. Leaves no trace in caches.
    fn versions(
        &self,
        from: &[u8],
        bytes: usize,
        wanted: &mut dyn FnMut(&[u8]) -> bool,
        out: &mut RunBuffer,
    ) -> Result<Option<Vec<u8>>>;

    /// Merges a sorted run (key ascending, sequence descending). Of each key the newest version is kept, and the older
    /// ones that a snapshot in `live` (ascending) still sees; a removal at [`Seq::MAX`] takes all of its key's versions
    /// away. Not durable before [`sync`](Self::sync). After an error a part may have been applied; after one in writing, every later call fails until the shard is opened again.
    fn apply(&self, run: &[RunRecord<'_>], live: &[Seq]) -> Result<()>;

    /// Removes every version of every key in `range`. Not durable before [`sync`](Self::sync).
    fn remove_range(&self, range: &KeyRange) -> Result<()>;

    /// Makes all that was applied durable and records `applied` as the sequence it is complete up to.
    fn sync(&self, applied: Seq) -> Result<()>;

    /// The sequence that the last successful [`sync`](Self::sync) recorded, as the engine itself remembers it.
    fn applied(&self) -> Seq;

    /// What the shard holds now; none while a recount is needed.
    fn figures(&self) -> Option<Figures>;

    /// One slice (about `pages` pages) of a full pass that reads and verifies everything. Returns whether the pass is
    /// over; the next call begins another. Runs beside readers; excludes the writer for the length of a slice.
    ///
    /// A pass that ends makes the figures known. If they were known before and differ from what was counted, pages
    /// were lost or went back in time unseen: it ends with `Corruption`, and the figures are what was counted.
    fn recount(&self, pages: usize) -> Result<bool>;

    /// Sets the memory for caches anew, see [`EngineSpec::cache_bytes`]. It will not become less than `least` while there are
    /// as many shards as now: what is dear to bring back may take a part of that for good.
    fn set_cache(&self, bytes: u64, least: u64);

    /// Bytes on disk that records take, without free space.
    fn live_bytes(&self) -> Result<u64>;

    /// Bytes on disk.
    fn disk_bytes(&self) -> Result<u64>;

    fn power_loss(&self) -> PowerLoss;

    /// Releases files and locks; returns when they are free. Later calls are errors.
    fn close(&self) -> Result<()>;
}

/// What a cursor walks over: the live records of `range` as of `at`, ascending or (`reverse`) descending.
#[derive(Debug, Clone)]
pub struct Walk {
    pub range: KeyRange,
    pub at: Seq,
    pub reverse: bool,
    /// How many leading bytes all keys of the range share; what follows them makes the stems.
    pub stem_from: usize,
}

/// A position in a walk. It may rest for long: it holds a page or a few, and neither locks nor files. What it gives out
/// after a rest is what the shard holds then, as of the walk's sequence; the page at hand is of before.
pub trait Cursor: Send {
    /// Puts the next few records in the place of what `block` holds; false, and an empty block, when there are no more.
    fn next_block(&mut self, block: &mut Block) -> Result<bool>;
}
