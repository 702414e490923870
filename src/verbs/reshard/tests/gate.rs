//! Engines whose operations wait at gates.

use crate::engine::{
    Block, Cursor, Damage, Engine, EngineFactory, EngineSpec, Figures, PowerLoss, Recounted, Walk,
};
use crate::error::{Error, Result};
use crate::ids::{Seq, ShardId};
use crate::record::{Found, KeyRange, RunBuffer, RunRecord};
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How long anybody waits before the test is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where an operation waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum At {
    /// Before a run is applied.
    Apply,
    /// After versions have been read, before anything is done with them.
    Read,
    /// Before a record is read.
    Get,
    /// Before a block of a scan is read.
    Scan,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    Shut,
    /// The first who came waits, and lets the others pass.
    Waiting,
    /// The one who waits goes on with an error.
    Failing,
}

/// Gates that a test shuts and opens; each holds the first who comes. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Gates(Arc<(Mutex<Inner>, Condvar)>);

#[derive(Debug, Default)]
struct Inner {
    gates: HashMap<(ShardId, At), Gate>,
    passed: Vec<(ShardId, At)>,
    opened: HashMap<ShardId, u64>,
    given: HashMap<ShardId, (u64, u64)>,
}

impl Gates {
    pub fn shut(&self, shard: ShardId, at: At) {
        self.0.0.lock().gates.insert((shard, at), Gate::Shut);
    }

    pub fn open(&self, shard: ShardId, at: At) {
        self.0.0.lock().gates.remove(&(shard, at));
        self.0.1.notify_all();
    }

    /// Opens it, and has the operation that waits there report corruption.
    pub fn open_failing(&self, shard: ShardId, at: At) {
        self.0.0.lock().gates.insert((shard, at), Gate::Failing);
        self.0.1.notify_all();
    }

    /// Waits until an operation waits.
    pub fn arrived(&self, shard: ShardId, at: At) {
        let mut inner = self.0.0.lock();
        while inner.gates.get(&(shard, at)) != Some(&Gate::Waiting) {
            assert!(!self.0.1.wait_for(&mut inner, PATIENCE).timed_out(), "nobody came to {at:?} of {shard}");
        }
    }

    /// Forgets what has passed.
    pub fn forget(&self) {
        self.0.0.lock().passed.clear();
    }

    /// The shards whose gates of that kind have been passed since.
    pub fn seen(&self, at: At) -> Vec<ShardId> {
        self.0.0.lock().passed.iter().filter(|(_, passed)| *passed == at).map(|(shard, _)| *shard).collect()
    }

    /// The memory that a shard was opened with.
    pub fn opened(&self, shard: ShardId) -> u64 {
        self.0.0.lock().opened[&shard]
    }

    /// The memory that a shard was given last, and the least that it was told to expect.
    pub fn given(&self, shard: ShardId) -> (u64, u64) {
        self.0.0.lock().given[&shard]
    }

    fn pass(&self, shard: ShardId, at: At) -> Result<()> {
        let mut inner = self.0.0.lock();
        if inner.gates.get(&(shard, at)) == Some(&Gate::Shut) {
            inner.gates.insert((shard, at), Gate::Waiting);
            self.0.1.notify_all();
            while inner.gates.get(&(shard, at)) == Some(&Gate::Waiting) {
                assert!(
                    !self.0.1.wait_for(&mut inner, PATIENCE).timed_out(),
                    "nobody opens {at:?} of {shard}"
                );
            }
            if inner.gates.remove(&(shard, at)) == Some(Gate::Failing) {
                return Err(Error::corruption("a test damaged it").on(shard));
            }
        }
        inner.passed.push((shard, at));
        Ok(())
    }
}

/// Makes gated engines of another factory's.
#[derive(Debug)]
pub struct Gated {
    pub inner: Arc<dyn EngineFactory>,
    pub gates: Gates,
}

impl EngineFactory for Gated {
    fn open(&self, spec: &EngineSpec) -> Result<Arc<dyn Engine>> {
        let engine = self.inner.open(spec)?;
        self.gates.0.0.lock().opened.insert(spec.shard, spec.cache_bytes);
        Ok(Arc::new(GatedEngine { engine, shard: spec.shard, gates: self.gates.clone() }))
    }
}

#[derive(Debug)]
struct GatedEngine {
    engine: Arc<dyn Engine>,
    shard: ShardId,
    gates: Gates,
}

impl Engine for GatedEngine {
    fn get(&self, key: &[u8], at: Seq) -> Result<Option<Found>> {
        self.gates.pass(self.shard, At::Get)?;
        self.engine.get(key, at)
    }

    fn cursor(&self, walk: &Arc<Walk>) -> Result<Box<dyn Cursor>> {
        let cursor = self.engine.cursor(walk)?;
        Ok(Box::new(GatedCursor { cursor, shard: self.shard, gates: self.gates.clone() }))
    }

    fn versions(
        &self,
        from: &[u8],
        bytes: usize,
        wanted: &mut dyn FnMut(&[u8]) -> bool,
        out: &mut RunBuffer,
    ) -> Result<Option<Vec<u8>>> {
        let next = self.engine.versions(from, bytes, wanted, out)?;
        self.gates.pass(self.shard, At::Read)?;
        Ok(next)
    }

    fn apply(&self, run: &[RunRecord<'_>], live: &[Seq]) -> Result<()> {
        self.gates.pass(self.shard, At::Apply)?;
        self.engine.apply(run, live)
    }

    fn remove_range(&self, range: &KeyRange, bytes: u64) -> Result<Option<Vec<u8>>> {
        self.engine.remove_range(range, bytes)
    }

    fn verify(&self, from: &[u8], bytes: usize, bad: &mut Vec<Damage>) -> Result<Option<Vec<u8>>> {
        self.engine.verify(from, bytes, bad)
    }

    fn damaged(&self, key: &[u8]) -> Result<Option<KeyRange>> {
        self.engine.damaged(key)
    }

    fn replace_range(&self, range: &KeyRange, run: &[RunRecord<'_>]) -> Result<()> {
        self.engine.replace_range(range, run)
    }

    fn sync(&self, applied: Seq) -> Result<()> {
        self.engine.sync(applied)
    }

    fn applied(&self) -> Seq {
        self.engine.applied()
    }

    fn figures(&self) -> Option<Figures> {
        self.engine.figures()
    }

    fn recount(&self, pages: usize) -> Result<Recounted> {
        self.engine.recount(pages)
    }

    fn set_cache(&self, bytes: u64, least: u64) {
        self.gates.0.0.lock().given.insert(self.shard, (bytes, least));
        self.engine.set_cache(bytes, least);
    }

    fn live_bytes(&self) -> Result<u64> {
        self.engine.live_bytes()
    }

    fn disk_bytes(&self) -> Result<u64> {
        self.engine.disk_bytes()
    }

    fn power_loss(&self) -> PowerLoss {
        self.engine.power_loss()
    }

    fn close(&self) -> Result<()> {
        self.engine.close()
    }
}

struct GatedCursor {
    cursor: Box<dyn Cursor>,
    shard: ShardId,
    gates: Gates,
}

impl Cursor for GatedCursor {
    fn next_block(&mut self, block: &mut Block) -> Result<bool> {
        self.gates.pass(self.shard, At::Scan)?;
        self.cursor.next_block(block)
    }
}
