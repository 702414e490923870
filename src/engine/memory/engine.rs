//! The engine over a shard in memory.

use super::cursor::MemoryCursor;
use super::faults::unreadable;
use super::shard::{Shard, Version, figures_of, visible};
use super::{MemoryFactory, Operation};
use crate::engine::sled::check_replacement;
use crate::engine::{Cursor, Damage, Engine, Figures, PowerLoss, Recounted, Walk};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Seq, ShardId};
use crate::record::{Found, KeyRange, RunBuffer, RunRecord};
use crate::sync::Mutex;
use bytes::Bytes;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A shard kept in memory.
#[derive(Debug)]
pub(super) struct MemoryEngine(pub Seat);

/// One opening of a shard. Cursors have it too: the last engine of it closes the shard, whatever they do.
#[derive(Debug, Clone)]
pub(super) struct Seat {
    pub world: MemoryFactory,
    pub shard: Arc<Mutex<Shard>>,
    pub life: u64,
    pub id: ShardId,
    pub dir: PathBuf,
    /// The longest value that a scan carries along.
    pub carried: usize,
    pub patience: Duration,
}

impl std::ops::Deref for MemoryEngine {
    type Target = Seat;

    fn deref(&self) -> &Seat {
        &self.0
    }
}

impl Seat {
    pub fn with<T>(&self, f: impl FnOnce(&mut Shard) -> Result<T>) -> Result<T> {
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

    /// Does what has been injected into `operation`, without a lock.
    pub fn pass(&self, operation: Operation) -> Result<()> {
        self.with(|_| Ok(()))?;
        self.world.fault(self.id, operation, None)
    }

    /// The same for who reads, and waits no longer than the engine's patience.
    pub fn pass_reading(&self, operation: Operation) -> Result<()> {
        self.with(|_| Ok(()))?;
        self.world.fault(self.id, operation, Some(self.patience))
    }

    /// The same; a failure is to be final.
    fn pass_writing(&self, operation: Operation) -> Result<Result<()>> {
        self.with(|_| Ok(()))?;
        Ok(self.world.fault(self.id, operation, None).map_err(|error| error.at(&self.dir)))
    }
}

impl MemoryEngine {
    fn leave(&self) {
        let mut shard = self.shard.lock();
        if shard.life == self.life {
            shard.open = false;
        }
    }
}

/// The range of one key.
fn only(key: &[u8]) -> KeyRange {
    KeyRange { lo: key.to_vec(), hi: Some([key, &[0]].concat()) }
}

impl Engine for MemoryEngine {
    fn get(&self, key: &[u8], at: Seq) -> Result<Option<Found>> {
        self.pass_reading(Operation::Get)?;
        self.with(|shard| {
            self.world.check(self.id, &only(key))?;
            let found = shard.records.get(key).and_then(|versions| visible(versions, at));
            Ok(found.map(|(seq, value)| Found { seq, value: value.clone() }))
        })
    }

    fn cursor(&self, walk: &Arc<Walk>) -> Result<Box<dyn Cursor>> {
        self.pass_reading(Operation::Cursor)?;
        Ok(Box::new(MemoryCursor::new(self.0.clone(), walk)))
    }

    fn versions(
        &self,
        from: &[u8],
        bytes: usize,
        wanted: &mut dyn FnMut(&[u8]) -> bool,
        out: &mut RunBuffer,
    ) -> Result<Option<Vec<u8>>> {
        self.pass(Operation::Cursor)?;
        self.pass(Operation::Versions)?;
        self.with(|shard| {
            let ahead = KeyRange { lo: from.to_vec(), hi: None };
            let damage = self.world.damage(self.id, &ahead, false);
            if let Some(damage) = damage.as_ref().filter(|damage| damage.contains(from)) {
                return Err(unreadable(self.id, damage));
            }
            let end = damage.map(|damage| damage.lo);
            let below = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let mut read = 0;
            for (key, versions) in shard.records.range::<[u8], _>((Bound::Included(from), below)) {
                if read >= bytes {
                    return Ok(Some(key.clone()));
                }
                let is_wanted = wanted(key);
                for (seq, value) in versions {
                    read += key.len() + value.as_ref().map_or(0, Bytes::len);
                    if is_wanted {
                        out.push(&[], key, *seq, value.as_deref());
                    }
                }
            }
            Ok(end)
        })
    }

    fn apply(&self, run: &[RunRecord<'_>], live: &[Seq]) -> Result<()> {
        let fault = self.pass_writing(Operation::Apply)?;
        self.with(|shard| {
            let run = if fault.is_err() { &run[..run.len() / 2] } else { run };
            for versions in run.chunk_by(|a, b| a.key == b.key) {
                let key = versions[0].key;
                self.world.check(self.id, &only(key))?;
                shard.merge(key, versions, live);
            }
            shard.stop_at(fault)
        })
    }

    fn remove_range(&self, range: &KeyRange, bytes: u64) -> Result<Option<Vec<u8>>> {
        let fault = self.pass_writing(Operation::Apply)?;
        self.with(|shard| {
            shard.stop_at(fault)?;
            self.world.check(self.id, range)?;
            let mut removed = 0;
            for key in shard.keys_in(range) {
                if removed >= bytes {
                    return Ok(Some(key));
                }
                removed += shard.records.get(&key).map_or(0, |versions| size(&key, versions)) as u64;
                shard.change(&key, Vec::new());
            }
            Ok(None)
        })
    }

    fn verify(&self, from: &[u8], bytes: usize, bad: &mut Vec<Damage>) -> Result<Option<Vec<u8>>> {
        self.pass(Operation::Verify)?;
        self.with(|shard| {
            let mut read = 0;
            let mut within = KeyRange { lo: from.to_vec(), hi: None };
            for (key, versions) in shard.records.range::<[u8], _>((Bound::Included(from), Bound::Unbounded)) {
                if read >= bytes.max(1) {
                    within.hi = Some(key.clone());
                    break;
                }
                read += size(key, versions);
            }
            while let Some(range) = self.world.damage(self.id, &within, false) {
                let error = unreadable(self.id, &range);
                let Some(end) = range.hi.clone() else {
                    bad.push(Damage { range, error });
                    return Ok(None);
                };
                bad.push(Damage { range, error });
                within.hi = within.hi.map(|hi| hi.max(end.clone()));
                within.lo = end;
            }
            Ok(within.hi)
        })
    }

    fn damaged(&self, key: &[u8]) -> Result<Option<KeyRange>> {
        self.pass(Operation::Damaged)?;
        self.with(|_| Ok(self.world.damage(self.id, &only(key), false)))
    }

    fn replace_range(&self, range: &KeyRange, run: &[RunRecord<'_>]) -> Result<()> {
        check_replacement(range, run)?;
        let fault = self.pass_writing(Operation::Replace)?;
        self.with(|shard| {
            shard.stop_at(fault)?;
            let damage = self.world.put_right(self.id, range)?;
            shard.replace(range, run, damage);
            Ok(())
        })
    }

    fn sync(&self, applied: Seq) -> Result<()> {
        let fault = self.pass_writing(Operation::Sync)?;
        self.with(|shard| {
            shard.stop_at(fault)?;
            shard.undo.clear();
            shard.replaced.clear();
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

    fn recount(&self, _pages: usize) -> Result<Recounted> {
        self.pass(Operation::Recount)?;
        self.with(|shard| {
            self.world.check(self.id, &KeyRange { lo: Vec::new(), hi: None })?;
            let mut sum = Figures::default();
            for (key, versions) in &shard.records {
                let figures = figures_of(key, versions);
                sum.pages += figures.pages;
                sum.records += figures.records;
                sum.set_hash = sum.set_hash.wrapping_add(figures.set_hash);
            }
            match shard.figures.replace(sum) {
                Some(kept_up) if kept_up != sum => {
                    let error = Error::corruption(format!("expected {kept_up:?}, counted {sum:?}"));
                    Ok(Recounted::Differs(error.at(&self.dir).on(self.id)))
                }
                _ => Ok(Recounted::Whole),
            }
        })
    }

    fn set_cache(&self, _: u64, _: u64) {}

    fn disk_bytes(&self) -> Result<u64> {
        self.pass(Operation::Size)?;
        self.live_bytes()
    }

    fn live_bytes(&self) -> Result<u64> {
        self.with(|shard| {
            let size = |versions: &Vec<Version>| {
                versions.iter().map(|(_, value)| 9 + value.as_ref().map_or(0, Bytes::len)).sum::<usize>()
            };
            Ok(shard.records.iter().map(|(key, versions)| key.len() + size(versions)).sum::<usize>() as u64)
        })
    }

    fn power_loss(&self) -> PowerLoss {
        PowerLoss::Simulated
    }

    fn close(&self) -> Result<()> {
        self.world.fault(self.id, Operation::Close, None)?;
        self.leave();
        Ok(())
    }
}

impl Drop for MemoryEngine {
    fn drop(&mut self) {
        self.leave();
    }
}

/// What the versions of a key come to, in bytes.
fn size(key: &[u8], versions: &[Version]) -> usize {
    versions.iter().map(|(_, value)| key.len().max(1) + value.as_ref().map_or(0, Bytes::len)).sum()
}
