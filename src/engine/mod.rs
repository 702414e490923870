//! The engine seam: what one shard's storage must do, whatever keeps the bytes.
//!
//! Invariants every engine keeps, and the floors above rely on:
//! - It has one writer at a time (`apply`, `remove_range`, `sync`), and readers never wait for it.
//! - What a reader gets has passed a checksum. A record that should be there and is not is `Corruption`, not `None`.
//! - What is damaged is damaged by ranges of keys: an engine can name the range, and puts it right as a whole, so that a bad
//!   page costs its own records alone, and those only until somebody brings them again.
//! - `apply` never replaces a newer version by an older one, so a run can be applied again after a crash.
//! - No call panics: a panic below is caught and returned as an error.

mod block;
mod guard;
mod memory;
mod sled;
#[cfg(test)]
mod tests;

pub use block::{Block, Record};
pub use guard::Guarded;
pub use memory::{Gate, MemoryFactory, Operation as MemoryOperation};
pub use sled::{Listed, Node, PageRef, SledFactory};

use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Seq, ShardId};
use crate::record::{Found, KeyRange, RunBuffer, RunRecord};
use serde::{Deserialize, Serialize};
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

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
    /// How long who reads a record waits for the disk: [`Engine::get`], and a [`Cursor`] for one block.
    pub patience: Duration,
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
    /// Nothing orders the engine's writes: the store's shards commit one after another, so that of the owners of a virtual node all
    /// but one always rest, synced. With one replica a power cut is not survived.
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
    /// The newest version of `key` at or below `at`, if that is a value. Waits for the disk no longer than the engine's
    /// [patience](EngineSpec::patience) for each thing that it is asked for, and then fails (`Io`).
    fn get(&self, key: &[u8], at: Seq) -> Result<Option<Found>>;

    /// Begins a walk over live records. The cursor does not keep the engine open: once that is closed, it fails.
    fn cursor(&self, walk: &Arc<Walk>) -> Result<Box<dyn Cursor>>;

    /// Copies out every version, tombstones included, of the records from `from` on whose key is `wanted`, until about
    /// `bytes` have been read. Returns the key where to go on; none at the end. Leaves no trace in caches.
    ///
    /// It stops before what it cannot read, too, so an error is about what holds `from` itself, which
    /// [`damaged`](Self::damaged) then names, and nothing has been added to `out`.
    fn versions(
        &self,
        from: &[u8],
        bytes: usize,
        wanted: &mut dyn FnMut(&[u8]) -> bool,
        out: &mut RunBuffer,
    ) -> Result<Option<Vec<u8>>>;

    /// Merges a sorted run (key ascending, sequence descending). Of each key the newest version is kept, and the older
    /// ones that a snapshot in `live` (ascending) still sees; a removal at [`Seq::MAX`] takes all of its key's versions
    /// away. Not durable before [`sync`](Self::sync). After an error a part may have been applied; after one in
    /// writing, every later change fails until the shard is opened again, and every read as well unless the writing was refused for
    /// want of space or of the right.
    fn apply(&self, run: &[RunRecord<'_>], live: &[Seq]) -> Result<()>;

    /// Removes every version of every key in `range`, from its beginning on, until about `bytes` of records are gone. Returns the key
    /// where to go on; none at the end. Not durable before [`sync`](Self::sync).
    fn remove_range(&self, range: &KeyRange, bytes: u64) -> Result<Option<Vec<u8>>>;

    /// Reads what lies from the key `from` on, about `bytes` of it and at least a page, from where it is kept and not from
    /// what is remembered of it, and verifies it: checksums, bounds, order, counts. What cannot be read or is not what it
    /// should be is added to `bad`, with exactly the keys that it answers for, and the walk goes on behind it. Returns the
    /// key where to go on; none at the end.
    ///
    /// Runs beside readers and the writer: what is replaced meanwhile is not damage. What lies in the operating system's
    /// cache is read from there, which is what readers get, too.
    ///
    /// # Errors
    /// What the pages are found by is damaged itself (`Corruption`): the shard can only be rebuilt as a whole. Or the
    /// engine has failed, is closed, or cannot do this (`Unsupported`).
    fn verify(&self, from: &[u8], bytes: usize, bad: &mut Vec<Damage>) -> Result<Option<Vec<u8>>> {
        let _ = (from, bytes, bad);
        Err(whole_only())
    }

    /// The keys that lie with `key` in something that is damaged; none if what holds `key` is whole, be it again. Looks
    /// where [`verify`](Self::verify) does, so it may name what a reader gets from memory still.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    fn damaged(&self, key: &[u8]) -> Result<Option<KeyRange>> {
        let _ = key;
        Err(whole_only())
    }

    /// Puts `run` (key ascending, sequence descending, every version as it is given) in the place of all that the shard
    /// holds in `range`, without reading what lies wholly in it. For readers it is one step. Not durable before
    /// [`sync`](Self::sync); after a crash before that the range is what it was, or what it became, as a whole.
    ///
    /// # Errors
    /// `InvalidInput`: the run is out of order or reaches out of the range. `Corruption` or `Io`: a page that lies only
    /// partly in the range cannot be read, whose other records would be lost. In these cases nothing was changed. After
    /// an error in writing every later change fails until the shard is opened again.
    fn replace_range(&self, range: &KeyRange, run: &[RunRecord<'_>]) -> Result<()> {
        let _ = (range, run);
        Err(whole_only())
    }

    /// Makes all that was applied durable and records `applied` as the sequence it is complete up to.
    fn sync(&self, applied: Seq) -> Result<()>;

    /// The sequence that the last successful [`sync`](Self::sync) recorded, as the engine itself remembers it.
    fn applied(&self) -> Seq;

    /// What the shard holds now; none while a recount is needed.
    fn figures(&self) -> Option<Figures>;

    /// One slice (about `pages` pages) of a full pass that reads and verifies everything; the call after its end begins another. Runs
    /// beside readers; excludes the writer for the length of a slice. A pass that ends makes the figures known.
    ///
    /// # Errors
    /// `Corruption` or `Io`: a page cannot be read, which says nothing of all the others. The pass is over.
    fn recount(&self, pages: usize) -> Result<Recounted>;

    /// Sets the memory for caches anew, see [`EngineSpec::cache_bytes`]. It will not become less than `least` while there are
    /// as many shards as now: what is dear to bring back may take a part of that for good.
    fn set_cache(&self, bytes: u64, least: u64);

    /// Bytes on disk that records take, without free space. Waits for no disk.
    fn live_bytes(&self) -> Result<u64>;

    /// Bytes on disk. Asks the disk, and keeps the engine from nothing meanwhile, not even from being closed.
    fn disk_bytes(&self) -> Result<u64>;

    fn power_loss(&self) -> PowerLoss;

    /// Releases files and locks; returns when they are free. Later calls are errors.
    fn close(&self) -> Result<()>;
}

fn whole_only() -> Error {
    Error::new(ErrorKind::Unsupported, "this engine does not tell its parts from each other")
        .remedy("rebuild the shard as a whole")
}

/// What a slice of a recount came to.
#[derive(Debug)]
pub enum Recounted {
    /// There is more to count.
    Further,
    /// All was counted, and is what was known before, if anything was.
    Whole,
    /// All was counted, and is not what was known: pages were lost, or went back in time unseen. The figures are what was counted.
    Differs(Error),
}

/// Keys that a shard cannot give out.
#[derive(Debug, Clone)]
pub struct Damage {
    /// All keys that what is damaged answers for, whether there are records of them or not.
    pub range: KeyRange,
    /// What was expected and what was found.
    pub error: Error,
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
    /// Puts the next few records in the place of what `block` holds; false, and an empty block, when there are no more. Waits for
    /// the disk as [`Engine::get`] does.
    fn next_block(&mut self, block: &mut Block) -> Result<bool>;

    /// A key of what comes next: after a failure the one to ask [`Engine::damaged`] about. The walk goes on there when it
    /// has been put right. None at the end, and where the engine cannot say.
    fn next_key(&self) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
}
