//! The engine over a shard in memory.

use super::shard::{Shard, Version, figures_of, visible};
use super::{MemoryFactory, Operation};
use crate::engine::{Block, Cursor, Engine, Figures, PowerLoss, Walk};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Seq, ShardId};
use crate::page::{self, LEFT_OUT, Row};
use crate::record::{Found, KeyRange, RunBuffer, RunRecord};
use bytes::Bytes;
use parking_lot::Mutex;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;

/// Keys in one block of a cursor.
const BLOCK: usize = 32;

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
}

impl std::ops::Deref for MemoryEngine {
    type Target = Seat;

    fn deref(&self) -> &Seat {
        &self.0
    }
}

impl Seat {
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

    fn cursor(&self, walk: &Arc<Walk>) -> Result<Box<dyn Cursor>> {
        self.with(|_| self.world.fault(self.id, Operation::Cursor))?;
        Ok(Box::new(MemoryCursor {
            seat: self.0.clone(),
            from: Bound::Included(walk.range.lo.clone()),
            below: walk.range.hi.clone().map_or(Bound::Unbounded, Bound::Excluded),
            done: walk.range.is_empty(),
            walk: Arc::clone(walk),
        }))
    }

    fn versions(
        &self,
        from: &[u8],
        bytes: usize,
        wanted: &mut dyn FnMut(&[u8]) -> bool,
        out: &mut RunBuffer,
    ) -> Result<Option<Vec<u8>>> {
        self.with(|shard| {
            self.world.fault(self.id, Operation::Cursor)?;
            let mut read = 0;
            for (key, versions) in shard.records.range::<[u8], _>((Bound::Included(from), Bound::Unbounded)) {
                if read >= bytes {
                    return Ok(Some(key.clone()));
                }
                self.world.check_range(self.id, key, Bound::Included(key))?;
                let is_wanted = wanted(key);
                for (seq, value) in versions {
                    read += key.len() + value.as_ref().map_or(0, Bytes::len);
                    if is_wanted {
                        out.push(&[], key, *seq, value.as_deref());
                    }
                }
            }
            Ok(None)
        })
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

    fn set_cache(&self, _: u64, _: u64) {}

    fn live_bytes(&self) -> Result<u64> {
        self.disk_bytes()
    }

    fn disk_bytes(&self) -> Result<u64> {
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

struct MemoryCursor {
    seat: Seat,
    walk: Arc<Walk>,
    from: Bound<Vec<u8>>,
    below: Bound<Vec<u8>>,
    done: bool,
}

impl MemoryCursor {
    /// Moves the bound that the walk goes away from past `key`.
    fn move_past(&mut self, key: &[u8]) {
        let past = Bound::Excluded(key.to_vec());
        if self.walk.reverse {
            self.below = past;
        } else {
            self.from = past;
        }
    }
}

impl Cursor for MemoryCursor {
    fn next_block(&mut self, block: &mut Block) -> Result<bool> {
        block.clear();
        if self.done {
            return Ok(false);
        }
        let (seat, walk) = (&self.seat, &*self.walk);
        let mut bytes = Vec::new();
        let (last, ended) = seat.with(|shard| {
            seat.world.fault(seat.id, Operation::Cursor)?;
            let mut steps = shard.records.range::<Vec<u8>, _>((self.from.as_ref(), self.below.as_ref()));
            let mut last: Option<Vec<u8>> = None;
            while block.len() < BLOCK {
                let Some((key, versions)) = (if walk.reverse { steps.next_back() } else { steps.next() })
                else {
                    return Ok((last, true));
                };
                seat.world.check_range(seat.id, key, Bound::Included(key))?;
                if let Some((seq, value)) = visible(versions, walk.at) {
                    let (suffix, suffix_len) = (bytes.len() as u32, key.len() as u32);
                    bytes.extend_from_slice(key);
                    let carried = value.len() <= seat.carried;
                    let value_len = if carried { value.len() as u32 } else { LEFT_OUT };
                    bytes.extend_from_slice(if carried { value } else { &[] });
                    let row = Row { suffix, suffix_len, value: suffix + suffix_len, value_len, seq };
                    block.rows.rows.push(row);
                    block.rows.stems.push(page::stem(key, walk.stem_from, walk.reverse));
                }
                last = Some(key.clone());
            }
            Ok((last, false))
        })?;
        block.prefix.clear();
        block.base = 0;
        block.bytes = Some(bytes.into());
        if let Some(last) = last {
            self.move_past(&last);
        }
        self.done = ended;
        Ok(!block.is_empty())
    }
}
