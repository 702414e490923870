//! A run: one frozen memtable on its way to its owners.
//!
//! Invariants:
//! - A shard is given no table that it has applied whole, so that replaying an old one after a crash takes nothing back; of
//!   one that it has in part, only what it lacks.
//! - Records of keyspaces that have been dropped go nowhere.

use super::turns::Turns;
use super::worker::{Ticket, beat};
use super::{Layout, Shard};
use crate::batch;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{KeyspaceId, Seq};
use crate::memtable::Table;
use crate::record::RunRecord;
use crate::ring::Position;
use crate::sync::Instant;
use crate::sync::atomic::AtomicU64;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// How much is handed to an engine at once, in records and in their bytes: between two of these it is heard of.
const RUN_RECORDS: usize = 4096;
const RUN_BYTES: usize = 8 << 20;

/// One memtable on its way to the shards.
pub struct Run {
    table: Arc<Table>,
    layout: Arc<Layout>,
    live: Vec<Seq>,
    keyspaces: HashSet<KeyspaceId>,
    // Of each record of the table, in its order: hashed once, though every shard looks.
    positions: Vec<Position>,
}

impl Run {
    pub fn new(
        table: Arc<Table>,
        layout: Arc<Layout>,
        live: Vec<Seq>,
        keyspaces: HashSet<KeyspaceId>,
    ) -> Run {
        let positions = table.records().map(|r| layout.ring.position(batch::user_key(r.key))).collect();
        Run { table, layout, live, keyspaces, positions }
    }

    /// Applies to one shard what it owns of the table and has not applied before, and seals it.
    pub fn apply(&self, index: usize, shard: &Shard, turns: &Turns, progress: &dyn Fn(u64)) -> Result<()> {
        let Some(target) = self.table.max_seq() else { return Ok(()) };
        let applied = shard.applied();
        if applied >= target {
            return Ok(());
        }
        let turn = turns.take();
        let session = shard.begin_apply()?;
        self.write(index, shard, applied, progress).inspect_err(|_| session.leave())?;
        // Waiting for the disk takes no processor.
        drop(turn);
        progress(0);
        shard.seal(target).inspect_err(|_| session.leave())
    }

    /// Applies what a shard that has all up to `applied` owns of the table.
    fn write(&self, index: usize, shard: &Shard, applied: Seq, progress: &dyn Fn(u64)) -> Result<()> {
        if crate::plants::is("flush-leaves-out-an-owner") && index + 1 == self.layout.shards.len() {
            return Ok(());
        }
        let mut run: Vec<RunRecord<'_>> = Vec::with_capacity(RUN_RECORDS);
        let (mut bytes, mut held) = (0, 0);
        for (record, position) in self.table.records().zip(&self.positions) {
            let size = record.key.len() + record.value.map_or(0, <[u8]>::len);
            bytes += size as u64;
            // What the shard has is, in a table that reaches beyond it, still its key's newest version up to there:
            // applying it again would change nothing, but read and write pages that nobody has to touch.
            if record.seq <= applied || !self.layout.is_written(index, *position) || !self.exists(record.key)
            {
                continue;
            }
            if record.value.is_none() && crate::plants::is("flush-drops-tombstones") {
                continue;
            }
            // Versions of one key stay in one run, since an engine weighs them against each other.
            let is_full = run.len() >= RUN_RECORDS || held >= RUN_BYTES;
            if is_full && run.last().is_some_and(|last| last.key != record.key) {
                shard.apply(&run, &self.live)?;
                run.clear();
                progress(bytes);
                (bytes, held) = (0, 0);
            }
            run.push(record);
            held += size;
        }
        if !run.is_empty() {
            shard.apply(&run, &self.live)?;
        }
        Ok(())
    }

    fn exists(&self, key: &[u8]) -> bool {
        self.keyspaces.contains(&batch::keyspace_of(key))
    }
}

/// Applies a run to every shard of its layout that is flushed to; returns the indexes of those that failed, with the cause.
/// `progress` makes, of the number of shards, what each worker calls with the bytes it has got through. A worker that does
/// not get any further for `limit` is left alone: its shard has failed.
pub fn apply_to_all<P: Fn(u64) + Send + 'static>(
    run: &Arc<Run>,
    turns: &Arc<Turns>,
    limit: Duration,
    progress: impl Fn(u64) -> P,
) -> Vec<(usize, Error)> {
    let Layout { shards, workers, .. } = &*run.layout;
    let start = |index: usize| -> Option<Job> {
        let (shard, worker) = (shards.get(index)?.clone(), workers.get(index)?);
        let run = run.clone();
        let progress = progress(shards.len() as u64);
        let turns = turns.clone();
        let beats = Arc::new(AtomicU64::new(0));
        let (beating, begun) = (beats.clone(), Instant::now());
        let ticket = worker.run(move || {
            run.apply(index, &shard, &turns, &|bytes| {
                beat(&beating, begun);
                progress(bytes);
            })
        });
        Some(Job { index, ticket, beats })
    };
    let finish = |job: Job| {
        let Job { index, ticket, beats } = job;
        let answer = workers[index].wait(&ticket, limit, &beats);
        answer.err().map(|error| (index, error))
    };
    let running: Vec<_> = (0..shards.len()).filter(|i| shards[*i].is_flushed()).filter_map(start).collect();
    running.into_iter().filter_map(finish).collect()
}

/// Whether a shard that met this when it was flushed to goes on being read: it was refused the writing alone, or met a damaged page, which keeps the rest
/// of it neither from being read nor from being put right.
pub fn stays_readable(error: &Error) -> bool {
    error.is_refusal_to_write() || error.kind() == ErrorKind::Corruption
}

/// A run on its way to one shard.
struct Job {
    index: usize,
    ticket: Ticket<()>,
    /// When it got further last.
    beats: Arc<AtomicU64>,
}
