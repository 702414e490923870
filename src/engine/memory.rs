//! An engine that keeps its records in memory, for tests and simulation: deterministic, with crashes and faults on
//! demand. A crash keeps any part of what was not synced, key by key: stronger than what a disk does to sled.
//!
//! Invariant: beside its faults it cannot be told from the sled engine through the trait; one property test runs over
//! both.

use super::{Cursor, Engine, EngineFactory, EngineSpec, Figures, PowerLoss};
use crate::digest::hash128;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Seq, ShardId};
use crate::record::{Found, Item, KeyRange, RunRecord, is_needed};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Keys in one block of a cursor.
const BLOCK: usize = 32;

/// One version of a key: newest first in a key's list.
type Version = (Seq, Option<Bytes>);
type Records = BTreeMap<Vec<u8>, Vec<Version>>;

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

/// What outlives an engine: the disk, so to speak.
#[derive(Debug, Default)]
struct Shard {
    records: Records,
    /// What each key changed since the last sync held then (nothing: it did not exist).
    undo: BTreeMap<Vec<u8>, Vec<Version>>,
    applied: Seq,
    figures: Option<Figures>,
    failed: Option<Error>,
    /// Counts openings and crashes: an engine of an earlier one is dead.
    life: u64,
    open: bool,
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

    /// Forgets all that is in `dir` and below it, as if the disk had been emptied.
    pub fn erase(&self, dir: &Path) {
        self.0.lock().shards.retain(|held, shard| {
            let inside = held.starts_with(dir);
            if inside {
                shard.lock().life += 1;
            }
            !inside
        });
    }

    /// The process dies, or the power fails: every engine is dead, and of what was not synced a part stays, chosen key
    /// by key from `seed`.
    pub fn crash(&self, seed: u64) {
        let world = self.0.lock();
        let mut dirs: Vec<_> = world.shards.iter().collect();
        dirs.sort_by_key(|(dir, _)| dir.as_path());
        for (number, (_, shard)) in dirs.into_iter().enumerate() {
            let shard = &mut *shard.lock();
            for (key, versions) in std::mem::take(&mut shard.undo) {
                let coin = hash128(&[&seed.to_le_bytes(), &number.to_le_bytes(), &key]);
                if coin % 2 == 0 {
                    put(&mut shard.records, &key, versions);
                }
            }
            shard.life += 1;
            shard.open = false;
        }
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
                Arc::clone(world.shards.entry(spec.dir.clone()).or_default())
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
        Ok(Arc::new(MemoryEngine {
            world: self.clone(),
            shard,
            life,
            id: spec.shard,
            dir: spec.dir.clone(),
            carried: spec.page_bytes.min(6 << 10),
        }))
    }
}

/// A shard kept in memory.
#[derive(Debug)]
struct MemoryEngine {
    world: MemoryFactory,
    shard: Arc<Mutex<Shard>>,
    life: u64,
    id: ShardId,
    dir: PathBuf,
    /// The longest value that a scan carries along.
    carried: usize,
}

/// What a key adds to the figures: in memory, every key is a page.
fn figures_of(key: &[u8], versions: &[Version]) -> Figures {
    if versions.is_empty() {
        return Figures::default();
    }
    let mut parts = vec![key.to_vec()];
    for (seq, value) in versions {
        parts.push(seq.0.to_le_bytes().to_vec());
        parts.push(value.as_ref().map_or_else(Vec::new, |value| [&[1], &value[..]].concat()));
    }
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    Figures { pages: 1, records: versions.len() as u64, set_hash: hash128(&parts) }
}

fn put(records: &mut Records, key: &[u8], versions: Vec<Version>) {
    if versions.is_empty() {
        records.remove(key);
    } else {
        records.insert(key.to_vec(), versions);
    }
}

impl Shard {
    /// Replaces the versions of a key, keeping the figures and what a crash may go back to.
    fn change(&mut self, key: &[u8], versions: Vec<Version>) {
        let old = self.records.get(key).cloned().unwrap_or_default();
        if let Some(figures) = &mut self.figures {
            let (minus, plus) = (figures_of(key, &old), figures_of(key, &versions));
            figures.pages = figures.pages.wrapping_add(plus.pages).wrapping_sub(minus.pages);
            figures.records = figures.records.wrapping_add(plus.records).wrapping_sub(minus.records);
            figures.set_hash = figures.set_hash.wrapping_add(plus.set_hash).wrapping_sub(minus.set_hash);
        }
        self.undo.entry(key.to_vec()).or_insert(old);
        put(&mut self.records, key, versions);
    }

    fn merge(&mut self, key: &[u8], run: &[RunRecord<'_>], live: &[Seq]) {
        let mut all: BTreeMap<std::cmp::Reverse<Seq>, Option<Bytes>> = BTreeMap::new();
        for (seq, value) in self.records.get(key).into_iter().flatten() {
            all.insert(std::cmp::Reverse(*seq), value.clone());
        }
        for record in run {
            all.insert(std::cmp::Reverse(record.seq), record.value.map(Bytes::copy_from_slice));
        }
        let mut kept: Vec<Version> = Vec::new();
        let mut newer: Option<Seq> = None;
        for (std::cmp::Reverse(seq), value) in all {
            if newer.is_none_or(|newer| is_needed(live, seq, newer)) {
                kept.push((seq, value));
            }
            newer = Some(seq);
        }
        while kept.last().is_some_and(|(_, value)| value.is_none()) {
            kept.pop();
        }
        self.change(key, kept);
    }
}

fn visible(versions: &[Version], at: Seq) -> Option<(Seq, &Bytes)> {
    let (seq, value) = versions.iter().find(|(seq, _)| *seq <= at)?;
    value.as_ref().map(|value| (*seq, value))
}

impl MemoryEngine {
    fn with<T>(&self, f: impl FnOnce(&mut Shard) -> Result<T>) -> Result<T> {
        let mut shard = self.shard.lock();
        if shard.life != self.life || !shard.open {
            return Err(Error::new(ErrorKind::Closed, "the shard's engine has been closed")
                .at(&self.dir)
                .on(self.id));
        }
        match &shard.failed {
            Some(error) => Err(error.clone()),
            None => f(&mut shard),
        }
    }

    /// Fails for good if `operation` is to fail.
    fn last_fault(&self, shard: &mut Shard, operation: Operation) -> Result<()> {
        self.world.fault(self.id, operation).map_err(|error| {
            let error = error.at(&self.dir);
            shard.failed = Some(error.clone());
            error
        })
    }
}

impl Engine for MemoryEngine {
    fn get(&self, key: &[u8], at: Seq) -> Result<Option<Found>> {
        self.with(|shard| {
            self.world.fault(self.id, Operation::Get)?;
            self.world.check_range(self.id, key, Bound::Included(key))?;
            let found = shard.records.get(key).and_then(|versions| visible(versions, at));
            Ok(found.map(|(seq, value)| Found { seq, value: value.clone() }))
        })
    }

    fn cursor<'a>(&'a self, range: &KeyRange, at: Seq, reverse: bool) -> Result<Box<dyn Cursor + 'a>> {
        self.with(|_| self.world.fault(self.id, Operation::Cursor))?;
        let below = range.hi.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let done = range.is_empty();
        Ok(Box::new(MemoryCursor {
            engine: self,
            from: Bound::Included(range.lo.clone()),
            below,
            at,
            reverse,
            done,
        }))
    }

    fn apply(&self, run: &[RunRecord<'_>], live: &[Seq]) -> Result<()> {
        self.with(|shard| {
            let fault = self.last_fault(shard, Operation::Apply);
            let run = if fault.is_err() { &run[..run.len() / 2] } else { run };
            for versions in run.chunk_by(|a, b| a.key == b.key) {
                let key = versions[0].key;
                self.world.check_range(self.id, key, Bound::Included(key))?;
                shard.merge(key, versions, live);
            }
            fault
        })
    }

    fn remove_range(&self, range: &KeyRange) -> Result<()> {
        self.with(|shard| {
            self.last_fault(shard, Operation::Apply)?;
            if range.is_empty() {
                return Ok(());
            }
            let below = range.hi.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            self.world.check_range(self.id, &range.lo, below)?;
            let bounds = (Bound::Included(range.lo.as_slice()), below);
            let keys: Vec<_> = shard.records.range::<[u8], _>(bounds).map(|(key, _)| key.clone()).collect();
            keys.iter().for_each(|key| shard.change(key, Vec::new()));
            Ok(())
        })
    }

    fn sync(&self, applied: Seq) -> Result<()> {
        self.with(|shard| {
            self.last_fault(shard, Operation::Sync)?;
            shard.undo.clear();
            shard.applied = applied;
            Ok(())
        })
    }

    fn applied(&self) -> Seq {
        self.with(|shard| Ok(shard.applied)).unwrap_or_default()
    }

    fn figures(&self) -> Option<Figures> {
        self.with(|shard| Ok(shard.figures)).ok().flatten()
    }

    fn recount(&self, _pages: usize) -> Result<bool> {
        self.with(|shard| {
            self.world.check_range(self.id, &[], Bound::Unbounded)?;
            let mut sum = Figures::default();
            for (key, versions) in &shard.records {
                let figures = figures_of(key, versions);
                sum.pages += figures.pages;
                sum.records += figures.records;
                sum.set_hash = sum.set_hash.wrapping_add(figures.set_hash);
            }
            match shard.figures.replace(sum) {
                Some(kept_up) if kept_up != sum => {
                    Err(Error::corruption(format!("expected {kept_up:?}, counted {sum:?}"))
                        .at(&self.dir)
                        .on(self.id))
                }
                _ => Ok(true),
            }
        })
    }

    fn disk_bytes(&self) -> Result<u64> {
        self.with(|shard| {
            let size =
                |(seq, value): &Version| 8 + value.as_ref().map_or(0, Bytes::len) + usize::from(seq.0 > 0);
            let bytes: usize = shard
                .records
                .iter()
                .map(|(key, list)| key.len() + list.iter().map(size).sum::<usize>())
                .sum();
            Ok(bytes as u64)
        })
    }

    fn power_loss(&self) -> PowerLoss {
        PowerLoss::Simulated
    }

    fn close(&self) -> Result<()> {
        let mut shard = self.shard.lock();
        if shard.life == self.life {
            shard.open = false;
        }
        Ok(())
    }
}

impl Drop for MemoryEngine {
    fn drop(&mut self) {
        let _ = self.close();
    }
}

struct MemoryCursor<'a> {
    engine: &'a MemoryEngine,
    from: Bound<Vec<u8>>,
    below: Bound<Vec<u8>>,
    at: Seq,
    reverse: bool,
    done: bool,
}

impl MemoryCursor<'_> {
    /// Moves the bound that the walk goes away from past `key`.
    fn move_past(&mut self, key: &[u8]) {
        let past = Bound::Excluded(key.to_vec());
        if self.reverse {
            self.below = past;
        } else {
            self.from = past;
        }
    }
}

impl Cursor for MemoryCursor<'_> {
    fn next_block(&mut self, out: &mut Vec<Item>) -> Result<bool> {
        if self.done {
            return Ok(false);
        }
        let before = out.len();
        let engine = self.engine;
        let (last, ended) = engine.with(|shard| {
            engine.world.fault(engine.id, Operation::Cursor)?;
            let mut walk = shard.records.range::<Vec<u8>, _>((self.from.as_ref(), self.below.as_ref()));
            let mut last: Option<Vec<u8>> = None;
            while out.len() - before < BLOCK {
                let Some((key, versions)) = (if self.reverse { walk.next_back() } else { walk.next() })
                else {
                    return Ok((last, true));
                };
                engine.world.check_range(engine.id, key, Bound::Included(key))?;
                if let Some((seq, value)) = visible(versions, self.at) {
                    let value = (value.len() <= engine.carried).then(|| value.clone());
                    out.push(Item { key: Bytes::copy_from_slice(key), seq, value });
                }
                last = Some(key.clone());
            }
            Ok((last, false))
        })?;
        if let Some(last) = last {
            self.move_past(&last);
        }
        self.done = ended;
        Ok(out.len() > before)
    }
}
