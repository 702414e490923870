//! Deleting checkpoints, one by one or by a rule, and the objects that only they named.

use super::checkpoint::{Checkpoint, CheckpointId};
use super::progress::{BackupProgress, Watch};
use super::repository::BackupRepository;
use super::sweep::Swept;
use crate::error::{Error, ErrorKind, Result};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::UNIX_EPOCH;

/// Which checkpoints [`prune`](BackupRepository::prune) keeps: those that any of its rules keeps. All rules count for each store
/// by itself where a repository has checkpoints of several.
///
/// Days, weeks and months are those of UTC, a month having 30 days from 1970 on; of each the last checkpoint is kept, and only days
/// with a checkpoint count.
///
/// ```
/// use annulus::Retention;
/// let rule = Retention::keep_last(7).daily(30).monthly(12);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    last: usize,
    /// So many of these many seconds.
    periods: [(u64, usize); 4],
}

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

impl Retention {
    /// Keeps the last `count` checkpoints.
    pub fn keep_last(count: usize) -> Retention {
        Retention { last: count, periods: [(HOUR, 0), (DAY, 0), (7 * DAY, 0), (30 * DAY, 0)] }
    }

    /// Keeps one for each of the last `count` hours that have one as well.
    pub fn hourly(mut self, count: usize) -> Retention {
        self.periods[0].1 = count;
        self
    }

    /// Keeps one for each of the last `count` days that have one as well.
    pub fn daily(mut self, count: usize) -> Retention {
        self.periods[1].1 = count;
        self
    }

    /// Keeps one for each of the last `count` weeks that have one as well.
    pub fn weekly(mut self, count: usize) -> Retention {
        self.periods[2].1 = count;
        self
    }

    /// Keeps one for each of the last `count` months (of 30 days) that have one as well.
    pub fn monthly(mut self, count: usize) -> Retention {
        self.periods[3].1 = count;
        self
    }

    /// The checkpoints to be kept, of all there are.
    fn kept(&self, all: &[Checkpoint]) -> BTreeSet<CheckpointId> {
        let mut kept = BTreeSet::new();
        let stores: BTreeSet<u128> = all.iter().map(|checkpoint| checkpoint.store).collect();
        for store in stores {
            let newest_first = || all.iter().rev().filter(|checkpoint| checkpoint.store == store);
            kept.extend(newest_first().take(self.last).map(|checkpoint| checkpoint.id));
            for (seconds, count) in self.periods {
                let mut seen = BTreeSet::new();
                for checkpoint in newest_first() {
                    let taken = checkpoint.taken.duration_since(UNIX_EPOCH).unwrap_or_default();
                    if seen.len() < count && seen.insert(taken.as_secs() / seconds.max(1)) {
                        kept.insert(checkpoint.id);
                    }
                }
            }
        }
        kept
    }
}

/// What a prune has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pruned {
    /// The checkpoints that are gone.
    pub checkpoints: Vec<CheckpointId>,
    /// How many objects went with them, or had been left by an interrupted writer, also of an archive.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl BackupRepository {
    /// Deletes the checkpoints that `retention` does not keep, every object that only they named, and what is archived of the time before
    /// the oldest that is left. Reads the manifests and
    /// indexes of all checkpoints, and memory is about 50 bytes for each object there is.
    ///
    /// # Errors
    /// `InvalidInput` for a rule that keeps nothing. `Locked` while somebody else writes to the repository. `Corruption`, `Foreign` or
    /// `Unsupported` if a manifest, or an index of a checkpoint that is kept, cannot be read, since then nobody knows which objects it needs: nothing was
    /// deleted. `Io`: some of the checkpoints may be gone, the others are whole.
    pub fn prune(&self, retention: Retention) -> Result<Pruned> {
        self.prune_watched(retention, &Watch::default())
    }

    /// The same, with somebody who is told before anything is deleted and after every object, on the calling thread. When the callback
    /// answers `Break`, it ends: then all that it was to delete is there still, or the checkpoints are gone and the next one that writes
    /// to the repository sweeps the rest.
    ///
    /// # Errors
    /// As [`prune`](Self::prune), and `Cancelled`.
    pub fn prune_with(
        &self,
        retention: Retention,
        progress: impl Fn(BackupProgress) -> ControlFlow<()> + Send + Sync + 'static,
    ) -> Result<Pruned> {
        self.prune_watched(retention, &Watch::new(progress))
    }

    fn prune_watched(&self, retention: Retention, watch: &Watch) -> Result<Pruned> {
        if retention.last == 0 && retention.periods.iter().all(|(_, count)| *count == 0) {
            return Err(Error::invalid("a retention that keeps nothing would delete every checkpoint")
                .remedy("keep one at least; delete() deletes single ones"));
        }
        let chosen = |all: &[Checkpoint]| {
            let kept = retention.kept(all);
            all.iter().map(|checkpoint| checkpoint.id).filter(|id| !kept.contains(id)).collect()
        };
        self.delete_where(chosen, watch)
    }

    /// Deletes one checkpoint, and every object that only it named. Its manifest may be damaged: this is how to get rid of it.
    ///
    /// # Errors
    /// `NotFound` if there is none of that number, `Locked`, `Io`. Where the manifest of another one cannot be read
    /// this checkpoint is gone, and its objects stay until that is deleted too.
    pub fn delete(&self, id: CheckpointId) -> Result<Pruned> {
        let session = self.begin()?;
        if !self.ids()?.contains(&id) {
            session.end()?;
            return Err(Error::new(ErrorKind::NotFound, format!("there is no checkpoint {id}")));
        }
        session.keep_numbers()?;
        self.storage.delete(&id.name())?;
        match session.sweep(&Watch::default()) {
            Ok(swept) => session.end().map(|()| pruned(vec![id], swept)),
            Err(error) if error.kind() == ErrorKind::Io => Err(error),
            Err(error) => {
                // The mark of work stays, so that they are swept once that can be done.
                log::warn!("the objects of checkpoint {id} cannot be removed yet: {error}");
                self.storage.settle().map(|()| pruned(vec![id], Swept::default()))
            }
        }
    }

    fn delete_where(
        &self,
        choose: impl Fn(&[Checkpoint]) -> Vec<CheckpointId>,
        watch: &Watch,
    ) -> Result<Pruned> {
        let session = self.begin()?;
        let mut bodies = self.load_all()?;
        let all: Vec<Checkpoint> = bodies.iter().map(|body| body.outline()).collect();
        let chosen = choose(&all);
        bodies.retain(|body| !chosen.contains(&body.id));
        // Before anything is deleted: where an index cannot be read, nothing may be.
        let needed = session.needed(bodies)?;
        watch.more(0, 0)?;
        session.keep_numbers()?;
        for id in &chosen {
            self.storage.delete(&id.name())?;
        }
        // Settles the deletions before the first object goes.
        let mut swept = session.sweep_but(&needed, watch)?;
        let stores: BTreeSet<u128> = all.iter().map(|checkpoint| checkpoint.store).collect();
        for store in stores {
            let left = all.iter().filter(|c| c.store == store && !chosen.contains(&c.id));
            let of_archive = self.prune_archive(store, left.map(|checkpoint| checkpoint.seq).min(), watch)?;
            swept.objects += of_archive.objects;
            swept.bytes += of_archive.bytes;
        }
        session.end()?;
        Ok(pruned(chosen, swept))
    }
}

fn pruned(checkpoints: Vec<CheckpointId>, Swept { objects, bytes }: Swept) -> Pruned {
    Pruned { checkpoints, objects, bytes }
}
