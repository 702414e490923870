//! Filling a store that is being created with the records of a checkpoint.
//!
//! Invariants: records go straight to the shards of their keys, in order, with the sequences that they had, and every shard is
//! sealed as complete up to the checkpoint's; the caller writes the manifest after that, so nothing opens as a store before. Memory
//! is bounded whatever the number of shards. Archived commits follow in the order of their sequences.

mod repair;

pub use repair::{Repaired, repair};

use crate::backup::archive::Reached;
use crate::backup::progress::Watch;
use crate::backup::{BackupRepository, Versions};
use crate::batch;
use crate::error::{Error, Result};
use crate::ids::{KeyspaceId, Seq};
use crate::manifest::Manifest;
use crate::memtable::Table;
use crate::record::{RunBuffer, RunRecord};
use crate::shard::{Layout, Run, Shard, ShardSpec, Ticket, Turns, Worker, apply_to_all};
use crate::state::Seams;
use crate::sync::atomic::AtomicU64;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Records on their way to shards, in bytes over all of them, and what one shard gets at once.
const BUFFERED: usize = 16 << 20;
const RUN: (usize, usize) = (8 << 10, 1 << 20);
const RUN_RECORDS: usize = 4096;
/// How long a shard may take for one run before the restore gives up.
const PATIENCE: Duration = Duration::from_secs(600);

/// A shard that is being filled.
struct Target {
    shard: Arc<Shard>,
    worker: Arc<Worker>,
    buffer: RunBuffer,
    records: usize,
    running: Option<Ticket<()>>,
}

impl Target {
    /// Hands what has been gathered to the shard, as soon as it is done with what it had before.
    fn send(&mut self) -> Result<()> {
        self.wait()?;
        self.records = 0;
        let run = std::mem::take(&mut self.buffer);
        let shard = self.shard.clone();
        self.running = Some(self.worker.run(move || {
            let run: Vec<RunRecord<'_>> = run.records().collect();
            shard.apply(&run, &[])
        }));
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        self.running.take().map_or(Ok(()), |running| wait(&self.worker, &running))
    }
}

fn wait(worker: &Worker, ticket: &Ticket<()>) -> Result<()> {
    worker.wait(ticket, PATIENCE, &AtomicU64::new(0))
}

/// Opens the shards of a manifest that has not been written yet.
fn layout(dir: &Path, manifest: &Manifest, seams: &Seams, budget: u64) -> Result<Layout> {
    let cache = budget / 2 / manifest.shards.len().max(1) as u64;
    let layout = Layout::of(manifest, |entry| {
        let spec = ShardSpec::of(dir, manifest, entry, cache);
        let shard = Shard::open(&seams.disk, seams.factory.as_ref(), &spec);
        Ok((Arc::new(shard), Arc::new(Worker::start(entry.id, seams.background.has_workers())?)))
    })?;
    // Each was created a moment ago: one that does not open says why.
    layout.shards.iter().try_for_each(|shard| shard.engine().map(drop)).inspect_err(|_| close(&layout))?;
    Ok(layout)
}

fn close(layout: &Layout) {
    for shard in &layout.shards {
        if let Err(error) = shard.close() {
            log::warn!("shard {} did not close in order: {error}", shard.id);
        }
    }
}

/// An archived log that goes on from where the records end.
pub struct Tail<'a> {
    pub repository: &'a BackupRepository,
    pub store: u128,
    /// The opening that wrote what the records end with.
    pub owner: Option<u128>,
    /// The last sequence that is wanted.
    pub until: Seq,
    /// The keyspaces that are wanted: of those that there are to be, one may be to stay empty.
    pub keyspaces: &'a HashSet<KeyspaceId>,
    /// Who is told of what is read of it.
    pub watch: Watch,
}

/// The bytes of commits that are gathered before the shards get them.
const TABLE: usize = 8 << 20;

/// Puts all records of `source` into the shards of a store that is being created in `dir`, and makes them durable. `upto`: what
/// they are complete up to. Then carries out what `tail` has after that. Returns how many records there were in the source.
pub fn fill(
    dir: &Path,
    manifest: &Manifest,
    seams: &Seams,
    budget: u64,
    upto: Seq,
    source: &mut dyn Versions,
    tail: Option<&Tail<'_>>,
) -> Result<u64> {
    let layout = Arc::new(layout(dir, manifest, seams, budget)?);
    let filled = fill_shards(&layout, manifest, upto, source)
        .and_then(|records| tail.map_or(Ok(()), |tail| replay(&layout, upto, tail)).map(|()| records));
    close(&layout);
    filled
}

/// The keyspaces that there are to be.
fn live(manifest: &Manifest) -> HashSet<KeyspaceId> {
    manifest.keyspaces.iter().filter(|keyspace| !keyspace.dropped).map(|keyspace| keyspace.id).collect()
}

/// Carries archived commits out, as a recovery does: through memtables, so that of each key the newest version reaches the shards.
fn replay(layout: &Arc<Layout>, from: Seq, tail: &Tail<'_>) -> Result<()> {
    let mut table = Table::new();
    let mut at = Reached { seq: from, owner: tail.owner };
    tail.repository.replay(tail.store, &mut at, tail.until, &tail.watch, &mut |seq, ops| {
        for op in batch::decode(ops) {
            let op = op?;
            if tail.keyspaces.contains(&batch::keyspace_of(op.key)) {
                table.insert(op.key, seq, op.value, &[])?;
            }
        }
        if table.bytes() < TABLE {
            return Ok(());
        }
        flush(layout, std::mem::take(&mut table), tail.keyspaces)
    })?;
    flush(layout, table, tail.keyspaces)?;
    for shard in layout.shards.iter().filter(|shard| shard.serves()) {
        shard.begin_apply()?;
        shard.seal(tail.until)?;
    }
    Ok(())
}

fn flush(layout: &Arc<Layout>, table: Table, keyspaces: &HashSet<KeyspaceId>) -> Result<()> {
    let run = Run::new(Arc::new(table), layout.clone(), Vec::new(), keyspaces.clone());
    let turns = Arc::new(Turns::here(Arc::new(true.into()), PATIENCE));
    let failed = apply_to_all(&Arc::new(run), &turns, PATIENCE, |_| |_: u64| ());
    failed.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
}

fn fill_shards(layout: &Layout, manifest: &Manifest, upto: Seq, source: &mut dyn Versions) -> Result<u64> {
    let keyspaces = live(manifest);
    let run = (BUFFERED / 2 / layout.shards.len().max(1)).clamp(RUN.0, RUN.1);
    // A shard that does not serve gets nothing: it is one that a repair leaves alone.
    let mut targets: Vec<Option<Target>> = Vec::with_capacity(layout.shards.len());
    for (shard, worker) in layout.shards.iter().zip(&layout.workers) {
        if !shard.serves() {
            targets.push(None);
            continue;
        }
        shard.begin_apply()?;
        let (shard, worker) = (shard.clone(), worker.clone());
        targets.push(Some(Target { shard, worker, buffer: RunBuffer::default(), records: 0, running: None }));
    }
    let mut records = 0;
    while let Some(record) = source.next() {
        let RunRecord { key, seq, value } = record?;
        let Some(value) = value else { continue };
        if !keyspaces.contains(&batch::keyspace_of(key)) || seq > upto {
            return Err(Error::corruption(
                "a record is of a keyspace or a time that the checkpoint is not of",
            ));
        }
        records += 1;
        for owner in layout.owners_at(layout.ring.position(batch::user_key(key))) {
            let Some(Some(target)) = targets.get_mut(usize::from(*owner)) else { continue };
            target.buffer.push(key, &[], seq, Some(value));
            target.records += 1;
            if target.records >= RUN_RECORDS || target.buffer.bytes() >= run {
                target.send()?;
            }
        }
    }
    let mut targets: Vec<Target> = targets.into_iter().flatten().collect();
    for target in &mut targets {
        if target.records > 0 {
            target.send()?;
        }
    }
    let mut sealing = Vec::with_capacity(targets.len());
    for target in &mut targets {
        target.wait()?;
        let shard = target.shard.clone();
        sealing.push((target.worker.clone(), target.worker.run(move || shard.seal(upto))));
    }
    sealing.iter().try_for_each(|(worker, sealed)| wait(worker, sealed))?;
    Ok(records)
}
