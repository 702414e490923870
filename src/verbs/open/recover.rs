//! Opening a store: the lock, the manifest, the shards side by side, and the journal's unflushed tail.
//!
//! Invariants: an option that contradicts the manifest changes nothing; the store opens as long as every virtual node has
//! a serving owner, and says in the log what is missing; replay starts at the oldest write that some serving shard lacks,
//! and a shard that lacks what the journal no longer has stays offline.

use super::adopt;
use super::asking::Asking;
use super::copies::Read;
use super::covered::check_covered;
use super::create::{self, Contents};
use super::given_up::{self, Carrying, Way};
use super::journals::{self, Below, Locked, Wanted};
use super::lock::lock_dir;
use super::lost;
use super::replay::Replay;
use super::take_up::{rolled_back, take_up};
use crate::allocator;
use crate::disk::Disk;
use crate::engine::PowerLoss;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{KeyspaceId, Seq};
use crate::journal::mirror::Found;
use crate::journal::{Journal, Known};
use crate::manifest::{Manifest, ShardEntry, ShardState};
use crate::options::Options;
use crate::shard::paths::{self, JOURNAL_DIR};
use crate::shard::{self, Layout, Shard, ShardSpec, Worker};
use crate::state::archives::Archives;
use crate::state::scrub::Scrubbing;
use crate::state::{Memory, Opening, Parts, Seams, Settings, State};
use crate::sync::Instant;
use crate::sync::atomic::AtomicU64;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How many times as long as for a step of a flush a shard may take to be opened, and the store's own disk to answer one thing of an opening.
pub const OPENING: u32 = 10;

/// Opens the store in `dir`, or creates it.
pub fn open(dir: &Path, options: &Options, seams: Seams) -> Result<State> {
    let started = Instant::now();
    options.validate()?;
    if !options.leave_allocator {
        allocator::hold_mapping_threshold();
    }
    let disk = seams.disk.as_ref();
    let asking = Asking::new(&seams, options);
    let lock = lock(disk, dir, options, &asking)?;
    let (found, taken) = find(disk, dir, options, &asking)?;
    let adopted = taken.is_some();
    let moved = found.as_ref().map(|found| relocated(disk, dir, found.clone(), options, &asking)).transpose();
    // Where shards lay before, those of another copy of the store may be; what contradicts an older manifest is its age's fault.
    let at = moved.as_ref().ok().and_then(Option::as_ref).or(found.as_ref());
    let read = Read::new(dir, at, taken, options, &asking)?;
    if found.is_some() && !adopted {
        // Whoever wrote it may have ended before its name was durable, and no shard may get a copy before that.
        disk.sync_dir(dir).map_err(|e| Error::io("sync the store's directory", dir, e))?;
    }
    let mut manifest = match moved? {
        // Its copies may speak of shards that were being made: those are to be cleared, not opened.
        Some(manifest) if adopted => rolled_back(manifest),
        Some(manifest) => {
            create::end_creation(disk, dir)?;
            take_up(disk, dir, &manifest, read, &asking)?
        }
        None => {
            // Once more: somebody may have made a store here while the lock was waited for.
            check_new(disk, dir, options)?;
            create::create(dir, options, &seams, None)?
        }
    };
    let keyspaces: HashSet<KeyspaceId> =
        manifest.keyspaces.iter().filter(|keyspace| !keyspace.dropped).map(|keyspace| keyspace.id).collect();
    let archives = Archives::load(&seams.disk, dir, manifest.store, &keyspaces)?;
    let copies = Below::new(dir, &seams, options);
    let wanted = journals::wanted(&copies, dir, &manifest, options, &asking)?;
    // Before the shards: what is open elsewhere is not even looked at.
    let places = wanted.as_ref().map_or(&[][..], |wanted| &wanted.places);
    let locks = Found::lock(copies.disk.as_ref(), manifest.store, places)?;
    let lock = Locked::new(lock, locks.clone(), &copies);
    let settings = settings(options);
    let layout = Arc::new(open_shards(dir, &manifest, &settings, &seams)?);
    read.check_opened(&layout, &asking)?;
    // Not before: with a greater number it would pass for one that is no older.
    if found.as_ref().is_some_and(|found| !adopted && *found != manifest) {
        manifest.store_next(disk, dir)?;
    }
    let scrub = Scrubbing::load(disk, dir, manifest.store);
    let config = create::journal_config(&manifest, options);
    let losing = lost::Losing { disk: &copies.disk, dir, options, layout: &layout, locks: &locks, config };
    if let Some(taken) = taken {
        // What is begun without the shards that are missing they could never come back to.
        check_covered(&layout)?;
        adopt::replace_journal(&losing, &manifest, wanted.as_ref(), &archives, &scrub, &seams)?;
        manifest = take_up(disk, dir, &manifest, read, &asking)?;
        adopt::begin(disk, dir, &manifest, taken)?;
    }
    let mut replay = Replay {
        memory: Memory::new(Seq::ZERO, settings.memtable_bytes * 2 / 5),
        limit: settings.memtable_bytes,
        keyspaces,
        next_keyspace: KeyspaceId(manifest.next_keyspace),
        manifest: dir.join(crate::manifest::FILE),
        layout: layout.clone(),
        timeout: settings.shard_timeout,
        stuck: None,
        told: false,
    };
    let wanted = lost::replace(losing, &mut manifest, wanted)?;
    let mut found = None;
    if let Some(Wanted { places, entries, accept }) = wanted {
        let accept = accept.as_deref();
        let look = Found::look(copies.disk.clone(), dir, manifest.store, places, accept, adopted, locks)?;
        // What a trim goes by; it frees more where somebody has been behind for too long.
        let shards = layout.shards.iter().map(|shard| shard.applied()).min().unwrap_or_default();
        let needed = shards.min(archives.least(Seq::ZERO)).next();
        found = Some((look.needed_from(needed), entries));
    }
    let begins = |next| Journal::begins_with(disk, &dir.join(JOURNAL_DIR), manifest.store, next);
    let mut way = Way::of(found.as_mut().map(|(found, _)| found), &manifest, begins)?;
    let held = layout.shards.iter().filter(|shard| shard.is_open()).map(|shard| shard.applied()).min();
    let oldest = || match &found {
        Some((found, _)) => found.first_for(held),
        None => Journal::first_retained(disk, &dir.join(JOURNAL_DIR), manifest.store),
    };
    let begin = || replay_from(oldest()?, &layout);
    let (from, at_least) = match found.as_ref().map(|(found, _)| found) {
        found if way != Way::Whole => {
            given_up::from_where(way, found, begin).map(|from| (from, from.into()))?
        }
        found => {
            let applied = layout.shards.iter().map(|s| s.applied()).max().unwrap_or_default();
            let asked = (begin()?, Known { applied, archived: archives.furthest() });
            let accepts = journals::accepts(disk, dir, options, found)?;
            let short = || given_up::ends_short(disk, dir, manifest.store, found, asked);
            match accepts.then(short).flatten() {
                None => asked,
                Some(last) => {
                    way = Way::Shorter;
                    let from = asked.0.min(last);
                    (from, from.into())
                }
            }
        }
    };
    let mirrors = journals::serve(found, way, (from, at_least), &mut manifest, dir, &seams, &copies)?;
    let (below, journal_dir) = journals::below(&seams, dir, mirrors.as_ref());
    let (journal, frames, bytes) = if way == Way::Whole {
        let mut visit = |seq: Seq, ops: &[u8]| replay.visit(seq, ops);
        let (journal, report) = Journal::open(below, &journal_dir, config, from, at_least, &mut visit)?;
        given_up::drop_mark(&mut manifest, disk, dir)?;
        archives.log_begins(journal.first());
        archives.log_ends(journal.last())?;
        (journal, report.frames, report.bytes)
    } else {
        let (layout, archives, journal_dir) = (layout.as_ref(), &archives, journal_dir.as_path());
        let at = Carrying { dir, disk, below, journal_dir, config, layout, archives, scrub: &scrub };
        given_up::carry_out(at, way, from, &mut manifest, &mut replay)?
    };
    if crate::plants::is("replayed-log-given-up") {
        journal.trim(journal.last().next())?;
    }
    let memory = replay.memory;
    memory.resume_after(journal.last());
    let opening = Opening { replayed_frames: frames, replayed_bytes: bytes, took: started.elapsed() };
    state_limits(&layout);
    if adopted {
        adopt::outrank(disk, dir, &mut manifest)?;
    }
    let parts = Parts {
        dir: dir.to_path_buf(),
        seams,
        settings,
        opening,
        manifest,
        journal,
        mirrors,
        memory,
        layout,
        scrub,
        archives,
        lock: Box::new(lock),
    };
    let state = State::new(parts);
    // What this opening has changed, where shards and journals lie for one, or what a process had no time for that ended between
    // the manifest and its copies: it is needed most when the store's directory is lost.
    state.complete_copies();
    Ok(state)
}

/// The manifest, and the number with which it was taken from the shards, if it was, since there is none, or a damaged one, where it should be, or was by an
/// opening that did not come to its end.
fn find(
    disk: &dyn Disk,
    dir: &Path,
    options: &Options,
    asking: &Asking,
) -> Result<(Option<Manifest>, Option<u64>)> {
    let damage = match Manifest::load(disk, dir) {
        Ok(Some(manifest)) => {
            let unfinished = adopt::taken_as(disk, dir, &manifest, options, asking)?;
            return Ok((Some(manifest), unfinished));
        }
        Ok(None) => None,
        Err(error) if error.kind() == ErrorKind::Corruption => Some(error),
        // It may pass, and the copies do not say how far a change has got.
        Err(error) if error.kind() == ErrorKind::Io => {
            return Err(match adopt::from_shards(disk, dir, options, asking) {
                Ok(Some(copy)) => error.remedy(format!(
                    "check the disk and the kernel log, and try again; if it stays so, move the file away: the shards' newest copy, of writing \
                     number {}, is taken then",
                    copy.generation
                )),
                _ => error,
            });
        }
        Err(error) => return Err(error),
    };
    match (adopt::from_shards(disk, dir, options, asking)?, damage) {
        (Some(manifest), _) => {
            log::warn!(
                "the manifest of {} is lost or damaged: taken from its shards, as of its writing number {}",
                dir.display(),
                manifest.generation
            );
            let taken = manifest.generation;
            Ok((Some(manifest), Some(taken)))
        }
        (None, Some(error)) => Err(error),
        (None, None) => Ok((None, None)),
    }
}

fn lock(disk: &dyn Disk, dir: &Path, options: &Options, asking: &Asking) -> Result<Box<dyn Send + Sync>> {
    let manifest = dir.join(crate::manifest::FILE);
    if disk.exists(&manifest).map_err(|e| Error::io("look for the manifest", &manifest, e))? {
        return lock_dir(disk, dir);
    }
    if adopt::from_shards(disk, dir, options, asking)?.is_none() {
        check_new(disk, dir, options)?;
    }
    disk.create_dir_durably(dir).map_err(|e| Error::io("create the store's directory", dir, e))?;
    lock_dir(disk, dir)
}

/// Errors unless a store is to be created, and can be.
fn check_new(disk: &dyn Disk, dir: &Path, options: &Options) -> Result<()> {
    create::check_vacant(disk, dir, false)?;
    if options.existing_only {
        return Err(Error::new(ErrorKind::NotFound, "there is no store").at(dir).remedy("create it first"));
    }
    Ok(())
}

/// Errors unless a store can be restored there.
fn check_restorable(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let manifest = dir.join(crate::manifest::FILE);
    if disk.exists(&manifest).map_err(|e| Error::io("look for the manifest", &manifest, e))? {
        return Err(Error::new(ErrorKind::Foreign, "there is a store in the directory already")
            .at(dir)
            .remedy("restore into an empty or new directory"));
    }
    create::check_vacant(disk, dir, true)
}

/// Creates a store with contents in a directory that is empty or absent. It is not open afterwards.
pub fn restore(dir: &Path, options: &Options, seams: &Seams, contents: Contents<'_>) -> Result<()> {
    options.validate()?;
    if !options.leave_allocator {
        allocator::hold_mapping_threshold();
    }
    let disk = seams.disk.as_ref();
    check_restorable(disk, dir)?;
    disk.create_dir_durably(dir).map_err(|e| Error::io("create the store's directory", dir, e))?;
    let _lock = lock_dir(disk, dir)?;
    // Once more, as for one that is created.
    check_restorable(disk, dir)?;
    create::create(dir, options, seams, Some(contents)).map(drop)
}

fn settings(options: &Options) -> Settings {
    let memory_budget = options.memory_budget_or_default();
    Settings {
        durability: options.durability,
        memory_budget,
        memtable_bytes: memory_budget / 2,
        journal_retention: options.journal_retention_or_default(),
        heal: options.heal,
        shard_timeout: options.shard_timeout_or_default(),
        write_timeout: options.write_timeout,
        quarantine_limit: options.quarantine_limit.unwrap_or(1 << 30),
        scrub_every: options.scrub_every,
    }
}

/// Checks the options against the manifest, and takes over where the user says the shards' directories are now.
fn relocated(
    disk: &dyn Disk,
    dir: &Path,
    mut manifest: Manifest,
    options: &Options,
    asking: &Asking,
) -> Result<Manifest> {
    let contradicts = |what: &str, asked: String, has: String| {
        Err(Error::new(
            ErrorKind::Mismatch,
            format!("the options ask for {what} {asked}, the store has {has}"),
        )
        .at(dir)
        .remedy("leave the option out to take the store's own"))
    };
    let topology = &manifest.topology;
    if let Some(asked) = options.replication_factor.filter(|r| *r != topology.replication_factor) {
        return contradicts("replication factor", asked.to_string(), topology.replication_factor.to_string());
    }
    if let Some(asked) = options.virtual_nodes.filter(|q| *q != topology.virtual_nodes) {
        return contradicts("virtual nodes:", asked.to_string(), topology.virtual_nodes.to_string());
    }
    if let Some(asked) = options.partitioner.as_ref().filter(|p| **p != topology.partitioner) {
        return contradicts("partitioner", format!("{asked:?}"), format!("{:?}", topology.partitioner));
    }
    if let Some(asked) = options.page_bytes.filter(|b| *b != manifest.page_bytes) {
        return contradicts("page_bytes", asked.to_string(), manifest.page_bytes.to_string());
    }
    let count = topology.members.len();
    if let Some(asked) = options.shards.filter(|n| *n != count) {
        return contradicts("shards:", asked.to_string(), count.to_string());
    }
    if !options.shard.is_empty() && options.shard.len() != count {
        return contradicts("shards:", options.shard.len().to_string(), count.to_string());
    }
    if options.shard.is_empty() {
        return Ok(manifest);
    }
    let base = paths::resolve(disk, dir)?;
    let known = asking.where_they_lie(dir, &base, &manifest)?;
    let named: Vec<PathBuf> = options.shard.iter().map(|asked| asked.path.clone()).collect();
    let found = asking.each(&named, paths::resolve);
    let mut taken = HashSet::new();
    for (asked, found) in options.shard.iter().zip(found) {
        // Where a link leads is not known of one that does not answer.
        let unresolved =
            || std::path::absolute(&asked.path).map_err(|e| Error::io("resolve the path", &asked.path, e));
        let path = found.unwrap_or_else(unresolved)?;
        let index = match known.iter().position(|k| *k == path) {
            Some(index) => index,
            // Not where it was: the directory itself says which shard it is.
            None => match asking.one(&path, shard::identify).unwrap_or_else(|| Err(silent(&path)))? {
                Some((store, id)) if store == manifest.store => {
                    let Some(index) = manifest.shards.iter().position(|s| s.id == id) else {
                        return contradicts("shard", path.display().to_string(), "no such shard".into());
                    };
                    let inside = path.strip_prefix(&base).map(Path::to_path_buf);
                    manifest.shards[index].path = inside.unwrap_or_else(|_| path.clone());
                    index
                }
                _ => return contradicts("a shard at", path.display().to_string(), "none there".into()),
            },
        };
        let entry = &manifest.shards[index];
        if matches!(entry.state, ShardState::Retired | ShardState::Abandoned) {
            let text = format!("shard {} has left the store, and is kept until it is dropped", entry.id);
            return Err(Error::new(ErrorKind::Mismatch, text)
                .at(&asked.path)
                .on(entry.id)
                .remedy("leave it out of the options"));
        }
        let id = entry.id;
        if !taken.insert(id) {
            let text = "the same directory is named for two shards";
            return Err(Error::invalid(text).at(&asked.path).remedy("name each shard's directory once"));
        }
        let Some(member) = manifest.topology.members.iter().find(|m| m.id == id) else { continue };
        if member.zone != asked.zone {
            return contradicts("zone", format!("{:?}", asked.zone), format!("{:?}", member.zone));
        }
        if member.weight != asked.weight {
            return contradicts("weight", asked.weight.to_string(), member.weight.to_string());
        }
    }
    Ok(manifest)
}

fn silent(dir: &Path) -> Error {
    Error::new(ErrorKind::Unavailable, "the file system of a shard's directory does not answer")
        .at(dir)
        .remedy("name the directory where the shard lay last, or leave the shards out of the options")
}

/// Opens all shards of the ring, and those that a change under way brings.
fn open_shards(dir: &Path, manifest: &Manifest, settings: &Settings, seams: &Seams) -> Result<Layout> {
    let here = |entry: &&ShardEntry| matches!(entry.state, ShardState::Member | ShardState::Joining);
    let entries: Vec<&ShardEntry> = manifest.shards.iter().filter(here).collect();
    let cache = settings.opening_cache(entries.len());
    let specs: Vec<ShardSpec> = entries
        .iter()
        .map(|entry| ShardSpec::of(dir, manifest, entry, cache).within(settings.shard_timeout))
        .collect();
    let workers: Vec<Arc<Worker>> = (specs.iter())
        .map(|spec| Worker::start(spec.id, seams.background.has_workers()).map(Arc::new))
        .collect::<Result<_>>()?;
    let shards: Vec<Arc<Shard>> = open_all(&specs, &workers, settings.shard_timeout * OPENING, seams);
    let opened: Vec<(Arc<Shard>, Arc<Worker>)> = shards.into_iter().zip(workers).collect();
    Layout::of(manifest, |entry| {
        let missing = || Error::corruption("the ring names a shard that has no directory").on(entry.id);
        opened.iter().find(|(shard, _)| shard.id == entry.id).cloned().ok_or_else(missing)
    })
}

/// Opens shards side by side, each on its worker's thread. One that takes longer than `limit` is offline, and its engine is
/// let go when it answers after all.
fn open_all(specs: &[ShardSpec], workers: &[Arc<Worker>], limit: Duration, seams: &Seams) -> Vec<Arc<Shard>> {
    let begin = |(spec, worker): (&ShardSpec, &Arc<Worker>)| {
        let (spec, disk, factory) = (spec.clone(), seams.disk.clone(), seams.factory.clone());
        worker.run(move || Ok(Shard::open(&disk, factory.as_ref(), &spec)))
    };
    let tickets: Vec<_> = specs.iter().zip(workers).map(begin).collect();
    let end = |((spec, worker), ticket): ((&ShardSpec, &Arc<Worker>), _)| {
        let opened = worker.wait(&ticket, limit, &AtomicU64::new(0)).unwrap_or_else(|error| {
            let shard = Shard::closed(&seams.disk, spec);
            shard.fail(&error);
            shard
        });
        Arc::new(opened)
    };
    specs.iter().zip(workers).zip(tickets).map(end).collect()
}

/// The newest write that every serving shard holds. Shards that lack what the journal has lost go offline.
fn replay_from(first: Seq, layout: &Layout) -> Result<Seq> {
    let shards = &layout.shards;
    let stale = |shard: &Arc<Shard>| shard.applied().next() < first;
    // Where no shard is left otherwise, it is the journal that lacks something, and opening it says what.
    if shards.iter().any(|s| s.serves() && !stale(s)) {
        for shard in shards.iter().filter(|s| s.is_open() && stale(s)) {
            let text = format!(
                "the shard holds writes up to {}, the journal only those from {first} on",
                shard.applied()
            );
            shard.fail(
                &Error::corruption(text).at(&shard.dir).on(shard.id).remedy("rebuild it from its replicas"),
            );
        }
    }
    check_covered(layout)?;
    Ok(shards.iter().filter(|s| s.is_open()).map(|s| s.applied()).min().unwrap_or_default())
}

/// Says loudly what this store does not survive.
fn state_limits(layout: &Layout) {
    for shard in &layout.shards {
        let Ok(engine) = shard.engine() else { continue };
        if engine.power_loss() == PowerLoss::OneOwnerAtRest && layout.ring.replication_factor() == 1 {
            log::warn!(
                "shard {} at {} lies on a file system that does not keep its writes in order, and there is no replica: \
                 a power cut is not survived there; use ext4 or xfs, or a replication factor of 2 or more",
                shard.id,
                shard.dir.display()
            );
        }
    }
}
