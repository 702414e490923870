//! An engine that keeps its records in memory, for tests and simulation: deterministic, with crashes and faults on
//! demand. A crash keeps any part of what was not synced, key by key: stronger than what a disk does to sled.
//!
//! Invariant: beside its faults it cannot be told from the sled engine through the trait; one property test runs over
//! both.

mod cursor;
mod engine;
mod faults;
mod shard;
#[cfg(test)]
mod tests;

pub use self::faults::{Gate, Operation};

use self::engine::{MemoryEngine, Seat};
use self::faults::Fault;
use self::shard::Shard;
use super::{Engine, EngineFactory, EngineSpec, Figures};
use crate::digest::hash128;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::ShardId;
use crate::record::KeyRange;
use crate::sync::Mutex;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Opens shards kept in memory. Clones share the shards and the faults.
#[derive(Debug, Clone, Default)]
pub struct MemoryFactory(Arc<Mutex<World>>);

#[derive(Debug, Default)]
struct World {
    shards: HashMap<PathBuf, Arc<Mutex<Shard>>>,
    faults: HashMap<(ShardId, Operation), Fault>,
    calls: HashMap<(ShardId, Operation), u64>,
    /// Pages that cannot be read, so to speak.
    damage: Vec<(ShardId, KeyRange)>,
    /// Shards whose damage shows as an error of the disk to who reads it.
    mute: HashSet<ShardId>,
}

impl MemoryFactory {
    pub fn new() -> MemoryFactory {
        MemoryFactory::default()
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

    /// The process dies, and the machine runs on: every engine is dead, and all that was written stays.
    pub fn kill(&self) {
        for (_, shard) in self.shards() {
            shard.lock().die();
        }
    }

    /// The process dies, or the power fails: every engine is dead, and of what was not synced a part stays, chosen key
    /// by key from `seed`, and of ranges that were replaced as wholes.
    pub fn crash(&self, seed: u64) {
        for (dir, shard) in self.shards() {
            let dir = dir.to_string_lossy().into_owned();
            let goes_back =
                |what: &[u8]| hash128(&[&seed.to_le_bytes(), dir.as_bytes(), what]).is_multiple_of(2);
            let shard = &mut *shard.lock();
            let replaced = std::mem::take(&mut shard.replaced);
            for (key, versions) in std::mem::take(&mut shard.undo) {
                let whole = replaced.iter().find(|replaced| replaced.range.contains(&key));
                if goes_back(whole.map_or(&key, |whole| &whole.range.lo)) {
                    shard::put(&mut shard.records, &key, versions);
                }
            }
            let damage = replaced.into_iter().filter(|replaced| goes_back(&replaced.range.lo));
            let damage = damage.flat_map(|replaced| replaced.damage).map(|range| (shard.id, range));
            self.0.lock().damage.extend(damage);
            shard.die();
        }
    }

    /// The shard in a directory in which one is to be made.
    fn made_anew(&self, spec: &EngineSpec) -> Arc<Mutex<Shard>> {
        let others = self.shards();
        // Files that are made anew are not damaged, unless older ones of the shard are open beside them.
        let beside = others.iter().any(|(_, other)| {
            let other = other.lock();
            other.open && other.id == spec.shard
        });
        if !beside {
            self.0.lock().damage.retain(|(damaged, _)| *damaged != spec.shard);
            // Nor does a crash bring damage back to them that older ones had.
            for (_, other) in &others {
                let mut other = other.lock();
                if other.id == spec.shard {
                    other.replaced.clear();
                }
            }
        }
        let there = others.into_iter().find(|(dir, _)| *dir == spec.dir);
        match there {
            Some((_, shard)) if shard.lock().open => shard,
            // What was there has been cleared away, as the files of another engine would have been.
            _ => {
                let shard: Arc<Mutex<Shard>> = Arc::default();
                self.0.lock().shards.insert(spec.dir.clone(), Arc::clone(&shard));
                shard
            }
        }
    }

    /// A copy of all shards, open or not, with the faults and the damage that there are now.
    pub fn fork(&self) -> MemoryFactory {
        let shards = self.shards().into_iter();
        let shards = shards.map(|(dir, shard)| (dir, Arc::new(Mutex::new(shard.lock().clone())))).collect();
        let world = self.0.lock();
        let (faults, damage, mute) = (world.faults.clone(), world.damage.clone(), world.mute.clone());
        MemoryFactory(Arc::new(Mutex::new(World { shards, faults, calls: HashMap::new(), damage, mute })))
    }

    /// All shards. Their own locks are taken without the world's: an engine takes the two in the other order.
    fn shards(&self) -> Vec<(PathBuf, Arc<Mutex<Shard>>)> {
        self.0.lock().shards.iter().map(|(dir, shard)| (dir.clone(), Arc::clone(shard))).collect()
    }
}

impl EngineFactory for MemoryFactory {
    fn open(&self, spec: &EngineSpec) -> Result<Arc<dyn Engine>> {
        self.fault(spec.shard, Operation::Open, None).map_err(|error| error.at(&spec.dir))?;
        let shard = if spec.create {
            self.made_anew(spec)
        } else {
            let missing = || Error::corruption("expected the files of a shard, found none").at(&spec.dir);
            let held = self.0.lock().shards.get(&spec.dir).cloned();
            held.ok_or_else(|| missing().on(spec.shard))?
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
        state.id = spec.shard;
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
            patience: spec.patience,
        })))
    }
}
