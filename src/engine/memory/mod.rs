//! An engine that keeps its records in memory, for tests and simulation: deterministic, with crashes and faults on
//! demand. A crash keeps any part of what was not synced, key by key: stronger than what a disk does to sled.
//!
//! Invariant: beside its faults it cannot be told from the sled engine through the trait; one property test runs over
//! both.

mod engine;
mod shard;
#[cfg(test)]
mod tests;

use self::engine::{MemoryEngine, Seat};
use self::shard::Shard;
use super::{Engine, EngineFactory, EngineSpec, Figures};
use crate::digest::hash128;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::ShardId;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a test can make fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    Open,
    Get,
    Cursor,
    /// Half of the run is applied first. The engine then stays failed until it is opened again, as sled's does.
    Apply,
    /// The engine then stays failed until it is opened again, as sled's does.
    Sync,
}

/// Opens shards kept in memory. Clones share the shards and the faults.
#[derive(Debug, Clone, Default)]
pub struct MemoryFactory(Arc<Mutex<World>>);

#[derive(Debug, Default)]
struct World {
    shards: HashMap<PathBuf, Arc<Mutex<Shard>>>,
    faults: HashSet<(ShardId, Operation)>,
    corrupt: BTreeSet<(ShardId, Vec<u8>)>,
}

impl MemoryFactory {
    pub fn new() -> MemoryFactory {
        MemoryFactory::default()
    }

    /// From now on, `operation` fails on `shard` with an I/O error.
    pub fn fail(&self, shard: ShardId, operation: Operation) {
        self.0.lock().faults.insert((shard, operation));
    }

    /// From now on, whatever meets `key` on `shard` reports corruption.
    pub fn corrupt(&self, shard: ShardId, key: &[u8]) {
        self.0.lock().corrupt.insert((shard, key.to_vec()));
    }

    /// Takes back all faults and all corruption of `shard`. One that has failed must be opened again.
    pub fn heal(&self, shard: ShardId) {
        let mut world = self.0.lock();
        world.faults.retain(|(failing, _)| *failing != shard);
        world.corrupt.retain(|(corrupt, _)| *corrupt != shard);
    }

    /// Forgets all that is in `dir` and below it, as if the disk had been emptied. Engines there are dead.
    pub fn erase(&self, dir: &Path) {
        for (held, shard) in self.shards() {
            if held.starts_with(dir) {
                self.0.lock().shards.remove(&held);
                shard.lock().life += 1;
            }
        }
    }

    /// The process dies, or the power fails: every engine is dead, and of what was not synced a part stays, chosen key
    /// by key from `seed`.
    pub fn crash(&self, seed: u64) {
        for (dir, shard) in self.shards() {
            let dir = dir.to_string_lossy().into_owned();
            let shard = &mut *shard.lock();
            for (key, versions) in std::mem::take(&mut shard.undo) {
                let coin = hash128(&[&seed.to_le_bytes(), dir.as_bytes(), &key]);
                if coin.is_multiple_of(2) {
                    shard::put(&mut shard.records, &key, versions);
                }
            }
            shard.life += 1;
            shard.open = false;
        }
    }

    /// All shards. Their own locks are taken without the world's: an engine takes the two in the other order.
    fn shards(&self) -> Vec<(PathBuf, Arc<Mutex<Shard>>)> {
        self.0.lock().shards.iter().map(|(dir, shard)| (dir.clone(), Arc::clone(shard))).collect()
    }

    fn fault(&self, shard: ShardId, operation: Operation) -> Result<()> {
        if !self.0.lock().faults.contains(&(shard, operation)) {
            return Ok(());
        }
        let injected = std::io::Error::other("a fault injected by a test");
        Err(Error::new(ErrorKind::Io, format!("cannot {operation:?}")).on(shard).caused_by(injected))
    }

    /// An error if a corrupt key lies in `range`.
    fn check_range(&self, shard: ShardId, from: &[u8], below: Bound<&[u8]>) -> Result<()> {
        let world = self.0.lock();
        let met = world.corrupt.iter().find(|(on, key)| {
            *on == shard
                && key.as_slice() >= from
                && match below {
                    Bound::Included(to) => key.as_slice() <= to,
                    Bound::Excluded(to) => key.as_slice() < to,
                    Bound::Unbounded => true,
                }
        });
        match met {
            None => Ok(()),
            Some(_) => {
                Err(Error::corruption("expected a record, found corruption injected by a test").on(shard))
            }
        }
    }
}

impl EngineFactory for MemoryFactory {
    fn open(&self, spec: &EngineSpec) -> Result<Arc<dyn Engine>> {
        self.fault(spec.shard, Operation::Open).map_err(|error| error.at(&spec.dir))?;
        let shard = {
            let mut world = self.0.lock();
            if spec.create {
                let shard = world.shards.entry(spec.dir.clone()).or_default();
                // What was there has been cleared away, as the files of another engine would have been.
                if !shard.lock().open {
                    *shard = Arc::default();
                }
                Arc::clone(shard)
            } else {
                let missing = || Error::corruption("expected the files of a shard, found none").at(&spec.dir);
                Arc::clone(world.shards.get(&spec.dir).ok_or_else(|| missing().on(spec.shard))?)
            }
        };
        let mut state = shard.lock();
        if state.open {
            return Err(Error::new(ErrorKind::Locked, "the shard is open elsewhere")
                .at(&spec.dir)
                .on(spec.shard));
        }
        let new = state.life == 0;
        state.life += 1;
        state.open = true;
        state.failed = None;
        state.figures = if new { Some(Figures::default()) } else { spec.resume };
        let life = state.life;
        drop(state);
        Ok(Arc::new(MemoryEngine(Seat {
            world: self.clone(),
            shard,
            life,
            id: spec.shard,
            dir: spec.dir.clone(),
            carried: spec.page_bytes.min(6 << 10),
        })))
    }
}
