//! Making lost shards anew from a checkpoint and the archive, where no replica is left to make them of.
//!
//! Invariants: the store is not open meanwhile; only shards that cannot be opened, or lack what the journal no longer has, and that own
//! something nobody else has, are touched, and only after all has been read that takes the place of what is left of them. One is sealed as
//! complete up to where the journal takes over only when it is, so what an interrupted repair leaves lacks something still: it counts as
//! lost, at an opening and for the next repair.

use super::{Tail, close, fill_shards, live, replay};
use crate::backup::archive::Reached;
use crate::backup::checkpoint::Body;
use crate::backup::layer::Reading;
use crate::backup::lineage::Kin;
use crate::backup::progress::Watch;
use crate::backup::reader::CheckpointReader;
use crate::backup::{BackupRepository, Versions};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{KeyspaceId, Seq, ShardId, VirtualNode};
use crate::journal::Journal;
use crate::journal::mirror::{Found, Place};
use crate::manifest::Manifest;
use crate::shard::paths::{self, JOURNAL_DIR};
use crate::shard::{Layout, Shard, ShardSpec, Worker};
use crate::state::Seams;
use crate::state::archives::Archives;
use std::path::Path;
use std::sync::Arc;

/// What a repair has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repaired {
    /// The shards that were made anew.
    pub shards: Vec<ShardId>,
    /// What they are complete up to; the journal has what comes after.
    pub upto: Seq,
}

/// Repairs the store in `dir`, whose lock the caller holds.
pub fn repair(
    dir: &Path,
    manifest: &Manifest,
    seams: &Seams,
    budget: u64,
    repository: &BackupRepository,
) -> Result<Repaired> {
    if manifest.change.is_some() {
        let text = "a change of the topology is under way, and what it has moved is in no checkpoint";
        return Err(Error::new(ErrorKind::Refused, text).at(dir).remedy("restore into a new directory"));
    }
    if manifest.given_up.is_some() {
        let text = "a part of the journal is being given up, which decides what the shards lack";
        return Err(Error::new(ErrorKind::Refused, text).at(dir).remedy(
            "open the store first; where that fails for the shards that are lost, restore into a new directory",
        ));
    }
    let first = journal_begins(dir, manifest, seams)?;
    let cache = budget / 2 / manifest.shards.len().max(1) as u64;
    let open = |entry: &crate::manifest::ShardEntry| {
        let spec = ShardSpec::of(dir, manifest, entry, cache);
        Arc::new(Shard::open(&seams.disk, seams.factory.as_ref(), &spec))
    };
    let worker = |id| Worker::start(id, seams.background.has_workers()).map(Arc::new);
    let layout = Layout::of(manifest, |entry| Ok((open(entry), worker(entry.id)?)))?;
    let lost = lost(&layout, first);
    // Whole shards stay as they are.
    close(&layout);
    if lost.is_empty() {
        return Ok(Repaired::default());
    }
    let (body, upto) = covered(dir, manifest, first, seams, repository)?;
    for entry in manifest.shards.iter().filter(|entry| lost.contains(&entry.id)) {
        let spec = ShardSpec::of(dir, manifest, entry, cache);
        Shard::clear(seams.disk.as_ref(), &spec)?;
        Shard::create(&seams.disk, seams.factory.as_ref(), &spec, Seq::ZERO)?;
    }
    let layout = Arc::new(Layout::of(manifest, |entry| {
        let shard = open(entry);
        if !lost.contains(&entry.id) {
            shard.close()?;
        }
        Ok((shard, worker(entry.id)?))
    })?);
    // What fills shards passes over those that do not serve; one that was made anew must.
    let anew = || layout.shards.iter().filter(|shard| lost.contains(&shard.id));
    let filled = anew()
        .try_for_each(|shard| shard.engine().map(drop))
        .and_then(|()| fill(&layout, manifest, &body, upto, repository));
    if filled.is_ok() {
        for shard in anew() {
            shard.write_identity(manifest)?;
        }
    }
    close(&layout);
    filled.map(|()| Repaired { shards: lost, upto })
}

fn fill(
    layout: &Arc<Layout>,
    manifest: &Manifest,
    body: &Body,
    upto: Seq,
    repository: &BackupRepository,
) -> Result<()> {
    fill_shards(layout, manifest, body.seq, &mut records(body, manifest, repository))?;
    if upto > body.seq {
        let (store, owner, keyspaces) = (body.store, body.owner(), &live(manifest));
        let tail = Tail { repository, store, owner, until: upto, keyspaces, watch: Watch::default() };
        replay(layout, body.seq, &tail)?;
    }
    Ok(())
}

/// The records of a checkpoint, but for those of keyspaces that were dropped since: the store has nowhere to put them.
fn records(body: &Body, manifest: &Manifest, repository: &BackupRepository) -> CheckpointReader {
    let reading = Reading::new(repository.storage.clone(), body.id, false);
    CheckpointReader::new(reading, body, &live(manifest))
}

/// How far checkpoint and archive can be read, up to `upto`. An error where they are damaged, or cannot be read, before the journal takes over,
/// which begins with `first`, or are of another history than the store, which has `own`.
fn read_through(
    body: &Body,
    manifest: &Manifest,
    (first, upto): (Seq, Seq),
    repository: &BackupRepository,
    (dir, own): (&Path, &Archives),
) -> Result<Seq> {
    let mut records = records(body, manifest, repository);
    while let Some(record) = records.next() {
        record?;
    }
    if upto == body.seq {
        return Ok(upto);
    }
    let mut had = Reached::by(body);
    match repository.replay(body.store, &mut had, upto, &Watch::default(), &mut |_, _| Ok(())) {
        Ok(()) => {}
        Err(error) if had.seq.next() >= first => {
            log::warn!("of the archive all after {} is left out, which the journal has: {error}", had.seq);
        }
        Err(error) => return Err(error),
    }
    match own.kin(had.seq, had.owner) {
        Kin::Other => Err(other_history(dir, &has_other_writes("the archive", had.seq))),
        Kin::Same | Kin::Unknown => Ok(had.seq),
    }
}

fn has_other_writes(what: &str, seq: Seq) -> String {
    format!(
        "{what} goes up to {seq}, and what it ends with was written by another copy of the store, or has been given up since"
    )
}

fn other_history(dir: &Path, what: &str) -> Error {
    Error::new(ErrorKind::Mismatch, format!("the backup is of another history of the store: {what}"))
        .at(dir)
        .remedy("use another repository, or restore into a new directory")
}

/// The shards that own a virtual node of which no owner can be opened and brought up to date by a journal that begins with `first`.
fn lost(layout: &Layout, first: Seq) -> Vec<ShardId> {
    let serves: Vec<bool> =
        layout.shards.iter().map(|shard| shard.serves() && shard.applied().next() >= first).collect();
    let mut lost = Vec::new();
    for node in (0..layout.ring.virtual_nodes()).map(VirtualNode) {
        let owners = layout.ring.owner_indexes(node);
        if owners.iter().all(|owner| !serves[usize::from(*owner)]) {
            lost.extend(owners.iter().map(|owner| layout.shards[usize::from(*owner)].id));
        }
    }
    lost.sort_unstable();
    lost.dedup();
    lost
}

/// The newest checkpoint of the store that can be read, and what it and the archive are complete up to; an error unless it is of the same
/// history and the journal goes on from there.
fn covered(
    dir: &Path,
    manifest: &Manifest,
    first: Seq,
    seams: &Seams,
    repository: &BackupRepository,
) -> Result<(Body, Seq)> {
    let own = Archives::load(&seams.disk, dir, manifest.store, &live(manifest))?;
    let mut failed = None;
    for body in repository.of_history(manifest.store)? {
        let body = body?;
        check_same_history(dir, manifest, &own, &body, repository)?;
        let upto = reached(dir, &body, first, repository)
            .and_then(|upto| read_through(&body, manifest, (first, upto), repository, (dir, &own)));
        match upto {
            Ok(upto) => return Ok((body, upto)),
            // From an earlier one the archive may lead past what is damaged.
            Err(error) => {
                log::error!("checkpoint {} cannot be used: {error}", body.id);
                failed.get_or_insert(error);
            }
        }
    }
    Err(failed.unwrap_or_else(|| {
        Error::new(ErrorKind::NotFound, "the repository has no checkpoint of the store").at(dir)
    }))
}

/// What a checkpoint and the archive from there on are complete up to, by the names of its pieces; an error unless the journal goes on from there.
fn reached(dir: &Path, body: &Body, first: Seq, repository: &BackupRepository) -> Result<Seq> {
    let upto = repository.reaches(body.store, body.seq)?;
    if upto.next() < first {
        let text = format!(
            "checkpoint and archive are complete up to {upto}, the journal begins with {first}: what was written between cannot be had"
        );
        return Err(Error::new(ErrorKind::Refused, text)
            .at(dir)
            .remedy("restore into a new directory; the shards that are left have what others owned of it"));
    }
    Ok(upto)
}

/// Errors if the backup is known to be of another history of the store: lost shards would get what the others have otherwise.
fn check_same_history(
    dir: &Path,
    manifest: &Manifest,
    own: &Archives,
    body: &Body,
    repository: &BackupRepository,
) -> Result<()> {
    let live = live(manifest);
    // A drop is for ever, so what is left out of a checkpoint is in no later manifest of the same history.
    let left_out =
        |id: &&KeyspaceId| id.0 < body.next_keyspace && body.keyspaces.iter().all(|k| k.id != **id);
    let what = if own.get(repository.id).is_some_and(|hold| hold.given_up) {
        "the archive has writes that this store has given up with a part of its journal".to_owned()
    } else if let Some(id) = live.iter().find(left_out) {
        format!(
            "checkpoint {} was taken after keyspace {} had been dropped, which this store has",
            body.id, id.0
        )
    } else if own.kin(body.seq, body.owner()) == Kin::Other {
        has_other_writes(&format!("checkpoint {}", body.id), body.seq)
    } else {
        return Ok(());
    };
    Err(other_history(dir, &what))
}

/// The first sequence that the journal has; of several copies those say so that an opening would believe.
fn journal_begins(dir: &Path, manifest: &Manifest, seams: &Seams) -> Result<Seq> {
    let disk = seams.disk.as_ref();
    if manifest.journals.is_empty() {
        return Journal::first_retained(disk, &dir.join(JOURNAL_DIR), manifest.store);
    }
    let mut places = Vec::new();
    for entry in &manifest.journals {
        let path = paths::resolve(disk, &dir.join(&entry.path))?;
        places.push(Place {
            id: entry.id,
            dir: path,
            known: true,
            listed: true,
            implicit: false,
            mounts: entry.mounts,
        });
    }
    let locks = Found::lock(disk, manifest.store, &places)?;
    let found = Found::look(seams.disk.clone(), dir, manifest.store, places, None, false, locks.clone());
    let first = found.and_then(|found| found.first_retained());
    locks.release();
    first
}
