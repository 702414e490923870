//! What a store tells about itself, as plain data.

use crate::engine::PowerLoss;
use crate::error::Result;
use crate::ids::{Epoch, Seq, ShardId};
use crate::shard::{Health, Shard};
use crate::state::State;
use crate::state::change::Progress;
use crate::sync::atomic::Ordering;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A store's state at one moment. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Stats {
    /// The newest commit.
    pub last_seq: Seq,
    /// The newest commit that survives a power cut.
    pub durable_seq: Seq,
    /// The version of the topology.
    pub epoch: Epoch,
    /// Copies kept of every key.
    pub replication_factor: usize,
    /// The number of virtual nodes.
    pub virtual_nodes: u32,
    /// What the user allows for memtables and caches.
    pub memory_budget: u64,
    /// Resident in the active memtable.
    pub memtable_bytes: u64,
    /// Resident in memtables that are being flushed.
    pub frozen_bytes: u64,
    /// Memtables flushed since the store was opened.
    pub flushes: u64,
    /// How often a write was held back since the store was opened.
    pub delayed_writes: u64,
    /// Snapshots (scans, and reads of many keys) that are open.
    pub snapshots: usize,
    /// The journal.
    pub journal: JournalFigures,
    /// The shards, in the order of the ring's members, and then those that are joining.
    pub shards: Vec<ShardStats>,
    /// The change of the topology that is under way, if one is.
    pub change: Option<Progress>,
    /// What the last opening took.
    pub opening: OpeningFigures,
    /// What a user should know and may not: offline shards, file systems that do not survive a power cut, flushes that
    /// cannot go on, disks that do not answer. Empty in a healthy store.
    pub warnings: Vec<String>,
}

/// The journal's part of [`Stats`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JournalFigures {
    /// The oldest commit that it still holds.
    pub first_seq: Seq,
    /// Segment files in use.
    pub segments: u64,
    /// Segment files kept ready.
    pub spares: u64,
    /// On disk, of both.
    pub bytes: u64,
    /// Times it was synced since the store was opened.
    pub syncs: u64,
    /// Why nothing more can be written, if so.
    pub poisoned: Option<String>,
    /// The copies, where there are several.
    #[serde(default)]
    pub mirrors: Vec<MirrorFigures>,
}

/// One copy's part of [`JournalFigures`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MirrorFigures {
    /// Its directory.
    pub path: PathBuf,
    /// Whether it is complete, and gets every write before it is acknowledged.
    pub good: bool,
    /// Whether it is being made anew.
    pub rebuilding: bool,
    /// Why it is not complete.
    pub cause: Option<String>,
}

/// The last opening's part of [`Stats`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OpeningFigures {
    /// Commits read back from the journal.
    pub replayed_commits: u64,
    /// Their size.
    pub replayed_bytes: u64,
    /// Microseconds that it took.
    pub micros: u64,
}

/// One shard's part of [`Stats`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ShardStats {
    /// Its number.
    pub id: ShardId,
    /// Its directory.
    pub path: PathBuf,
    /// Its failure domain.
    pub zone: String,
    /// Its share of the data, relative to the others.
    pub weight: f64,
    /// Its state, with the cause.
    pub health: Health,
    /// Every commit up to this one is in it, durably.
    pub applied: Seq,
    /// Virtual nodes of which it holds a copy.
    pub virtual_nodes: u64,
    /// Virtual nodes of which it is the first owner.
    pub primaries: u64,
    /// Pages in it; none while they are being counted after a crash.
    pub pages: Option<u64>,
    /// Records in it; none while they are being counted after a crash.
    pub records: Option<u64>,
    /// Its size on disk; 0 while it is offline. Where its disk does not answer in time, as it was last known, and a
    /// [warning](Stats::warnings) says so; 0 if it never was.
    pub disk_bytes: u64,
    /// What of that its pages of records take; the rest is free space within its files, and the index.
    pub live_bytes: u64,
    /// How it survives a power cut; none while it is offline.
    pub power_loss: Option<PowerLoss>,
}

/// Collects the figures.
pub fn stats(state: &State) -> Result<Stats> {
    state.check_open()?;
    let layout = state.layout();
    let ring = &layout.ring;
    let (memtable_bytes, frozen_bytes) = state.memory.bytes();
    let journal = state.journal.stats();
    let loads = ring.balance();
    let answered = state.look(&layout, Shard::look_at_size);
    let shards: Vec<ShardStats> = layout
        .shards
        .iter()
        .enumerate()
        .map(|(index, shard)| {
            let engine = shard.engine().ok();
            let joining = index >= ring.members().len();
            let figures = engine.as_ref().and_then(|e| e.figures());
            // One that is joining is found among the members to be.
            let next = layout.next.iter().flat_map(|next| next.ring.members());
            let member = ring.members().iter().chain(next).find(|member| member.id == shard.id);
            let load = loads.shards.get(index);
            ShardStats {
                id: shard.id,
                path: shard.dir.clone(),
                zone: member.map(|m| m.zone.clone()).unwrap_or_default(),
                weight: member.map_or(1.0, |m| m.weight),
                health: match shard.health() {
                    Health::Online if joining => Health::Joining,
                    health => health,
                },
                applied: shard.applied(),
                virtual_nodes: load.map_or(0, |l| u64::from(l.load)),
                primaries: load.map_or(0, |l| u64::from(l.primaries)),
                pages: figures.map(|f| f.pages),
                records: figures.map(|f| f.records),
                live_bytes: engine.as_ref().and_then(|e| e.live_bytes().ok()).unwrap_or(0),
                disk_bytes: engine.as_ref().map_or(0, |_| shard.size_seen()),
                power_loss: engine.as_ref().map(|e| e.power_loss()),
            }
        })
        .collect();
    Ok(Stats {
        last_seq: state.memory.last(),
        durable_seq: state.journal.durable(),
        epoch: ring.epoch(),
        replication_factor: ring.replication_factor(),
        virtual_nodes: ring.virtual_nodes(),
        memory_budget: state.settings.memory_budget,
        memtable_bytes,
        frozen_bytes,
        flushes: state.flushes.load(Ordering::Relaxed),
        delayed_writes: state.pace.delayed(),
        snapshots: state.memory.live().len(),
        journal: JournalFigures {
            first_seq: journal.first,
            segments: journal.segments,
            spares: journal.spares,
            bytes: journal.bytes,
            syncs: journal.syncs,
            poisoned: state.journal.poisoned().map(|e| e.to_string()),
            mirrors: mirrors(state),
        },
        warnings: warnings(state, &shards, &answered, ring.replication_factor()),
        change: state.change.current().map(|epoch| state.change.progress(epoch)),
        shards,
        opening: OpeningFigures {
            replayed_commits: state.opening.replayed_frames,
            replayed_bytes: state.opening.replayed_bytes,
            micros: state.opening.took.as_micros() as u64,
        },
    })
}

fn mirrors(state: &State) -> Vec<MirrorFigures> {
    let copies = state.mirrors.as_ref().map(|mirrors| mirrors.copies()).unwrap_or_default();
    let figures = copies.into_iter().map(|copy| MirrorFigures {
        path: copy.dir,
        good: copy.good,
        rebuilding: copy.rebuilding,
        cause: copy.cause.map(|cause| cause.to_string()),
    });
    figures.collect()
}

fn warnings(state: &State, shards: &[ShardStats], answered: &[bool], replicas: usize) -> Vec<String> {
    let mut warnings = Vec::new();
    for (shard, answered) in shards.iter().zip(answered) {
        if !answered {
            let (id, path) = (shard.id, shard.path.display());
            warnings
                .push(format!("shard {id}: the disk at {path} does not answer: its size is that of before"));
        }
        match &shard.health {
            Health::Online | Health::Joining => {}
            Health::Degraded(cause) => warnings.push(format!("shard {} is degraded: {cause}", shard.id)),
            Health::Offline(cause) => warnings.push(format!("shard {} is offline: {cause}", shard.id)),
            other => warnings.push(format!("shard {} is {other:?}", shard.id)),
        }
        // Free space in the middle of a file is used again; this much of it is worth a rewrite.
        if shard.disk_bytes > (256 << 20).max(shard.live_bytes.saturating_mul(4)) {
            warnings.push(format!(
                "shard {} takes {} bytes on disk, of which {} are in use: compact() gives the rest back",
                shard.id, shard.disk_bytes, shard.live_bytes
            ));
        }
        if shard.power_loss == Some(PowerLoss::OneOwnerAtRest) && replicas == 1 {
            warnings.push(format!(
                "shard {}: its file system does not keep writes in order, and there is no replica: a power cut is not \
                 survived there",
                shard.id
            ));
        }
    }
    if let Some(error) = state.journal.shortage() {
        warnings.push(format!(
            "the journal cannot grow, and writes fail when its current segment is full: {error}"
        ));
    }
    for MirrorFigures { path, good, cause, .. } in mirrors(state) {
        if !good {
            let (path, cause) = (path.display(), cause.unwrap_or_default());
            warnings.push(format!("the copy of the journal at {path} is behind: {cause}"));
        }
    }
    if let Some(error) = state.change.current().and_then(|epoch| state.change.progress(epoch).error) {
        warnings.push(format!("the change of the topology cannot go on: {error}"));
    }
    if let Some(cause) = state.pace.cause() {
        warnings.push(format!("memtables cannot be flushed: {cause}"));
    }
    warnings
}
