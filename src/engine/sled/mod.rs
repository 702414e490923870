//! The default engine: records in pages, pages in a file of ours, and the index of the pages in sled 0.34. The only module
//! that names sled.
//!
//! ```text
//!   engine/pages     frames, one page each, never changed in place
//!   engine/index/    sled: node number -> (lower bound, place, checksum) of some hundred neighbouring pages
//! ```
//! sled keeps what is small and must change atomically; what is large is written once, in order, beside it (the
//! separation of keys and values of WiscKey, with pages for values).
//!
//! Invariants, beside the trait's:
//! - Never `apply_batch`, `transaction` or `checksum`: they take a lock that is global to the process, over all open
//!   databases. Atomicity is the journal's job.
//! - Every call into sled is guarded: its panics and errors become values ([`place`]), and no flush, opening or closing waits
//!   for it for ever ([`calls`]).
//! - What sled returns is believed only after a node's checksum and the tiling agree; what the file returns, only after a
//!   page's checksum and id do.
//!
//! | room | what it is for |
//! |---|---|
//! | [`open`], [`index`], [`commit`], [`intent`] | files: opening and closing, reading the index, making all durable, and some of it in one step |
//! | [`calls`], [`rest`] | sled's calls that may never come back; which shard may write where writes are not kept in order |
//! | [`core`] | the open engine, and the only ways to touch its files |
//! | [`node`], [`root`], [`fences`] | a hundred pages of the index; all of it, as far as it fits in memory; their bounds |
//! | [`frame`], [`space`] | pages in the file, and the file's free space |
//! | [`cache`], [`slots`], [`pool`] | pages in memory, the places and the buffers that they lie in |
//! | [`absent`] | which keys a page does not have, without reading it |
//! | [`lookup`], [`cursor`], [`versions`] | reading one record, reading many, copying all versions out |
//! | [`writer`] | what only the writer sees |
//! | [`edit`], [`rewrite`], [`merge`], [`split`] | the writer: what to do, which pages, which records, where to cut |
//! | [`verify`], [`recount`], [`relocate`] | finding what is damaged; verifying all and finding the figures again; giving space back |

mod absent;
mod cache;
mod calls;
mod commit;
mod core;
mod cursor;
mod edit;
mod fences;
mod frame;
mod index;
mod intent;
mod lookup;
#[cfg(test)]
mod measure;
mod merge;
mod node;
mod open;
mod patient;
mod place;
mod pool;
mod recount;
mod relocate;
mod rest;
mod rewrite;
mod root;
mod slots;
mod space;
mod split;
#[cfg(test)]
mod tests;
mod verify;
mod versions;
mod window;
mod writer;

pub(in crate::engine) use self::edit::check_replacement;
pub use self::node::{Listed, Node, PageRef};

use self::core::Core;
use self::rest::Rest;
use super::{Cursor, Damage, Engine, EngineFactory, EngineSpec, Figures, PowerLoss, Recounted, Walk};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Seq, ShardId};
use crate::record::{Found, KeyRange, RunBuffer, RunRecord};
use parking_lot::{RwLock, RwLockReadGuard};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Opens shards kept by sled: those of one store, since they take care of each other.
#[derive(Debug, Clone, Default)]
pub struct SledFactory {
    rest: Arc<Rest>,
}

impl SledFactory {
    /// For a store whose shards may take so long for a step.
    pub fn within(shard_timeout: Duration) -> SledFactory {
        // An eighth, as for other turns: who waits for one that hangs must not be taken to hang.
        SledFactory { rest: Arc::new(Rest::new(shard_timeout / 8)) }
    }
}

impl EngineFactory for SledFactory {
    fn open(&self, spec: &EngineSpec) -> Result<Arc<dyn Engine>> {
        Ok(Arc::new(SledEngine::open(spec, &self.rest)?))
    }
}

/// A shard kept by sled. None once it is closed.
struct SledEngine {
    shard: ShardId,
    dir: PathBuf,
    power_loss: PowerLoss,
    core: RwLock<Option<Arc<Core>>>,
}

impl SledEngine {
    fn open(spec: &EngineSpec, rest: &Arc<Rest>) -> Result<SledEngine> {
        let core = open::open(spec, rest)?;
        Ok(SledEngine {
            shard: spec.shard,
            dir: spec.dir.clone(),
            power_loss: core.power_loss,
            core: RwLock::new(Some(Arc::new(core))),
        })
    }

    fn with<T>(&self, f: impl FnOnce(&Arc<Core>) -> Result<T>) -> Result<T> {
        // Recursive, since a reader that already reads must not queue behind a closer that waits for it.
        let guard: RwLockReadGuard<'_, _> = self.core.read_recursive();
        match &*guard {
            Some(core) => f(core),
            None => Err(closed(self.shard).at(&self.dir)),
        }
    }
}

fn closed(shard: ShardId) -> Error {
    Error::new(ErrorKind::Closed, "the shard's engine has been closed").on(shard).remedy("open it again")
}

impl Engine for SledEngine {
    fn get(&self, key: &[u8], at: Seq) -> Result<Option<Found>> {
        self.with(|core| core.get(key, at))
    }

    fn cursor(&self, walk: &Arc<Walk>) -> Result<Box<dyn Cursor>> {
        self.with(|core| {
            core.check_readable()?;
            Ok(Box::new(cursor::PageCursor::new(core, walk)) as Box<dyn Cursor>)
        })
    }

    fn versions(
        &self,
        from: &[u8],
        bytes: usize,
        wanted: &mut dyn FnMut(&[u8]) -> bool,
        out: &mut RunBuffer,
    ) -> Result<Option<Vec<u8>>> {
        self.with(|core| core.versions(from, bytes, wanted, out))
    }

    fn apply(&self, run: &[RunRecord<'_>], live: &[Seq]) -> Result<()> {
        self.with(|core| core.apply(run, live))
    }

    fn remove_range(&self, range: &KeyRange, bytes: u64) -> Result<Option<Vec<u8>>> {
        self.with(|core| core.remove_range(range, bytes))
    }

    fn verify(&self, from: &[u8], bytes: usize, bad: &mut Vec<Damage>) -> Result<Option<Vec<u8>>> {
        self.with(|core| core.verify_from(from, bytes, bad))
    }

    fn damaged(&self, key: &[u8]) -> Result<Option<KeyRange>> {
        self.with(|core| Ok(core.damage_at(key)?.map(|damage| damage.range)))
    }

    fn replace_range(&self, range: &KeyRange, run: &[RunRecord<'_>]) -> Result<()> {
        self.with(|core| core.replace_range(range, run))
    }

    fn sync(&self, applied: Seq) -> Result<()> {
        self.with(|core| core.sync(applied))
    }

    fn applied(&self) -> Seq {
        self.core
            .read_recursive()
            .as_ref()
            .map_or(Seq::ZERO, |core| Seq(core.applied.load(Ordering::Acquire)))
    }

    fn figures(&self) -> Option<Figures> {
        self.core.read_recursive().as_ref().and_then(|core| *core.figures.lock())
    }

    fn recount(&self, pages: usize) -> Result<Recounted> {
        self.with(|core| core.recount(pages))
    }

    fn set_cache(&self, bytes: u64, least: u64) {
        if let Some(core) = self.core.read_recursive().as_ref() {
            core.cache_bytes.store(bytes, Ordering::Relaxed);
            core.root.set_limit(least / open::NODES_OF_LEAST);
            core.balance();
        }
    }

    fn live_bytes(&self) -> Result<u64> {
        self.with(|core| core.live_bytes())
    }

    fn disk_bytes(&self) -> Result<u64> {
        // Who closes the engine waits for those who are in it, and the disk may hang.
        let place = self.with(|core| Ok(core.place.clone()))?;
        open::disk_bytes(&place)
    }

    fn power_loss(&self) -> PowerLoss {
        self.power_loss
    }

    fn close(&self) -> Result<()> {
        // Whoever is inside may be held up by a disk or by sled, and must not hold up who closes because of that.
        let Some(mut held) = self.core.try_write_for(open::RELEASE_WAIT) else {
            return Err(open::still_held(self.shard, &self.dir));
        };
        let core = held.take();
        drop(held);
        core.map_or(Ok(()), open::close)
    }
}

impl Drop for SledEngine {
    fn drop(&mut self) {
        if let Some(core) = self.core.get_mut().take()
            && let Err(error) = open::close(core)
        {
            log::warn!("shard {} was dropped, and is not free yet: {error}", self.shard);
        }
    }
}

impl std::fmt::Debug for SledEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SledEngine")
            .field("shard", &self.shard)
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}
