//! Deleting checkpoints, one by one or by a rule, and the objects that only they named.

use super::checkpoint::{Body, Checkpoint, CheckpointId};
use super::history::shown_by_others;
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
/// with a checkpoint count. The default has no rule yet, as `keep_last(0)`: a prune refuses it, until a rule is added.
///
/// ```
/// use annulus::Retention;
/// let rule = Retention::keep_last(7).daily(30).monthly(12);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    last: usize,
    /// Of each of the [`PERIODS`] so many.
    counts: [usize; PERIODS.len()],
}

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
/// In seconds. They are no part of a rule, so that there is none in which a day is anything else.
const PERIODS: [u64; 4] = [HOUR, DAY, 7 * DAY, 30 * DAY];

impl Retention {
    /// Keeps the last `count` checkpoints.
    pub fn keep_last(count: usize) -> Retention {
        Retention { last: count, ..Retention::default() }
    }

    /// Keeps one for each of the last `count` hours that have one as well.
    pub fn hourly(mut self, count: usize) -> Retention {
        self.counts[0] = count;
        self
    }

    /// Keeps one for each of the last `count` days that have one as well.
    pub fn daily(mut self, count: usize) -> Retention {
        self.counts[1] = count;
        self
    }

    /// Keeps one for each of the last `count` weeks that have one as well.
    pub fn weekly(mut self, count: usize) -> Retention {
        self.counts[2] = count;
        self
    }

    /// Keeps one for each of the last `count` months (of 30 days) that have one as well.
    pub fn monthly(mut self, count: usize) -> Retention {
        self.counts[3] = count;
        self
    }

    /// The checkpoints to be kept, of all there are.
    fn kept(&self, all: &[Checkpoint]) -> BTreeSet<CheckpointId> {
        let mut kept = BTreeSet::new();
        let stores: BTreeSet<u128> = all.iter().map(|checkpoint| checkpoint.store).collect();
        for store in stores {
            let newest_first = || all.iter().rev().filter(|checkpoint| checkpoint.store == store);
            kept.extend(newest_first().take(self.last).map(|checkpoint| checkpoint.id));
            for (seconds, count) in PERIODS.into_iter().zip(self.counts) {
                let mut seen = BTreeSet::new();
                for checkpoint in newest_first() {
                    let taken = checkpoint.taken.duration_since(UNIX_EPOCH).unwrap_or_default();
                    if seen.len() < count && seen.insert(taken.as_secs() / seconds) {
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
    /// How many objects went with them, pieces of archives among them, or had been left by an interrupted writer.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl BackupRepository {
    /// Deletes the checkpoints that `retention` does not keep, every object that only they named, and what is archived of the time before
    /// the oldest that is left. With one that is kept, of a history that was given up when an older copy of the store was put back, one that shows
    /// this stays as well. Reads the manifests and
    /// indexes of all checkpoints, and memory is about 50 bytes for each object there is.
    ///
    /// # Errors
    /// `InvalidInput` for a rule that keeps nothing. `Locked` while somebody else writes to the repository. `Corruption`, `Foreign`,
    /// `Unsupported` or `Io` if a manifest, or an index of a checkpoint that is kept, cannot be read, since then nobody knows which objects it needs: nothing was
    /// deleted, and the error says which checkpoint it is. `Io` from another cause: some of the checkpoints may be gone, the others are whole. A
    /// disk without room is none.
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
        if retention.last == 0 && retention.counts == [0; PERIODS.len()] {
            return Err(Error::invalid("a retention that keeps nothing would delete every checkpoint")
                .remedy("keep one at least; delete() deletes single ones"));
        }
        let chosen = |all: &[Checkpoint]| {
            let mut kept = retention.kept(all);
            let shown = shown_by_others(all, &kept);
            kept.extend(shown.into_iter().map(|(_, shows)| shows));
            all.iter().map(|checkpoint| checkpoint.id).filter(|id| !kept.contains(id)).collect()
        };
        self.delete_where(chosen, watch)
    }

    /// Deletes one checkpoint, and every object that only it named. Its manifest may be damaged: this is how to get rid of it.
    ///
    /// # Errors
    /// `NotFound` if there is none of that number, `Refused` if nothing else shows that another is of a history that was given up when an older copy
    /// of the store was put back: delete that one first. `Locked`, `Io`; a disk without room is no cause of that, but for the checkpoint with the
    /// highest number, which is noted before it goes. Where the manifest of another one cannot be read
    /// this checkpoint is gone, and its objects stay until that is deleted too.
    pub fn delete(&self, id: CheckpointId) -> Result<Pruned> {
        let session = self.begin_to_delete()?;
        let ids = self.ids()?;
        if !ids.contains(&id) {
            session.end()?;
            return Err(Error::new(ErrorKind::NotFound, format!("there is no checkpoint {id}")));
        }
        let mut bodies: Vec<(CheckpointId, Result<Body>)> =
            ids.into_iter().map(|id| (id, self.load_needed(id))).collect();
        // Those that cannot be read show nothing.
        let all: Vec<Checkpoint> =
            bodies.iter().filter_map(|(_, body)| body.as_ref().ok()).map(Body::outline).collect();
        let others = all.iter().map(|checkpoint| checkpoint.id).filter(|other| *other != id).collect();
        let shown = shown_by_others(&all, &others);
        if !shown.is_empty() {
            session.end()?;
            return Err(shows(id, &shown).at(self.storage.describe(&id.name())));
        }
        bodies.retain(|(other, _)| *other != id);
        session.keep_numbers(&[id])?;
        self.storage.delete(&id.name())?;
        let bodies: Result<Vec<Body>> = bodies.into_iter().map(|(_, body)| body).collect();
        match bodies.and_then(|bodies| session.needed(bodies)) {
            Ok(needed) => {
                let swept = session.sweep_but(&needed, &Watch::default())?;
                session.end().map(|()| pruned(vec![id], swept))
            }
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
        let session = self.begin_to_delete()?;
        let mut bodies = self.load_all()?;
        let all: Vec<Checkpoint> = bodies.iter().map(|body| body.outline()).collect();
        let chosen = choose(&all);
        bodies.retain(|body| !chosen.contains(&body.id));
        // Before anything is deleted: where an index cannot be read, nothing may be.
        let needed = session.needed(bodies)?;
        watch.more(0, 0)?;
        session.keep_numbers(&chosen)?;
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

/// A checkpoint that stays until those have gone that it shows to be of what was given up.
fn shows(id: CheckpointId, shown: &[(CheckpointId, CheckpointId)]) -> Error {
    let shown: Vec<String> = shown.iter().map(|(shown, _)| format!("checkpoint {shown}")).collect();
    let shown = shown.join(", ");
    let text = format!(
        "nothing but checkpoint {id} shows that these are of a history of the store that was given up, and they would pass for its own: {shown}"
    );
    Error::new(ErrorKind::Refused, text).remedy(format!("delete these first: {shown}"))
}

fn pruned(checkpoints: Vec<CheckpointId>, Swept { objects, bytes }: Swept) -> Pruned {
    Pruned { checkpoints, objects, bytes }
}

#[cfg(test)]
mod tests {
    use super::super::checkpoint::{KIND, KeyspaceLayers, Source};
    use super::*;
    use crate::backup::lineage::Lineage;
    use crate::disk::SimDisk;
    use crate::envelope;
    use crate::ids::{KeyspaceId, Seq};
    use crate::ring::Partitioner;
    use std::path::Path;
    use std::sync::Arc;

    /// A repository with a checkpoint of nothing for each of these moments, in seconds since 1970.
    fn taken_at(moments: &[u64]) -> BackupRepository {
        let repo = BackupRepository::on_disk(Arc::new(SimDisk::new(1)), Path::new("/backup")).unwrap();
        for (number, seconds) in (1..).zip(moments) {
            let keyspace =
                KeyspaceLayers { id: KeyspaceId(0), name: "default".to_owned(), layers: Vec::new() };
            let partitioner = Partitioner::default();
            let body = Body {
                repository: repo.id,
                id: CheckpointId(number),
                store: 7,
                seq: Seq(number),
                taken: seconds * 1000,
                label: String::new(),
                next_keyspace: 1,
                keyspaces: vec![keyspace],
                source: Source {
                    shards: 1,
                    replication_factor: 1,
                    virtual_nodes: 8,
                    partitioner,
                    page_bytes: 4096,
                },
                written: 0,
                history: Lineage::default(),
            };
            repo.storage.write(&body.id.name(), &envelope::encode(KIND, &body).unwrap()).unwrap();
        }
        repo
    }

    fn left(rule: Retention, moments: &[u64]) -> Vec<u64> {
        let repo = taken_at(moments);
        repo.prune(rule).unwrap();
        repo.list().unwrap().iter().map(|checkpoint| checkpoint.id.0).collect()
    }

    #[test]
    fn a_rule_that_begins_with_the_default_keeps_whole_periods() {
        // Five days, with three in each: in its first hour two, and one in the next.
        let moments: Vec<u64> =
            (0..5).flat_map(|day| [0, 60, HOUR].map(|second| (20_000 + day) * DAY + second)).collect();
        let last_of_days = vec![9, 12, 15];
        assert_eq!(left(Retention::keep_last(0).daily(3), &moments), last_of_days);
        assert_eq!(left(Retention::default().daily(3), &moments), last_of_days);
        let every: [fn(Retention) -> Retention; 4] =
            [|rule| rule.hourly(3), |rule| rule.daily(2), |rule| rule.weekly(2), |rule| rule.monthly(1)];
        for set in every {
            let (default, begun) = (set(Retention::default()), set(Retention::keep_last(0)));
            assert_eq!(left(default, &moments), left(begun, &moments), "{default:?}");
        }
        assert_eq!(Retention::default(), Retention::keep_last(0));
    }
}
