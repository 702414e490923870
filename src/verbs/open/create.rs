//! Creating a store.
//!
//! Invariants: nothing but locks is written before every directory has been found fit, those of the journal as well; a marker file stands from the first write
//! to the last, so that an interrupted creation is taken up again and never mistaken for a damaged store; the manifest
//! comes last but for the marker's removal.

use super::adopt;
use super::journals::{self, Below};
use crate::disk::Disk;
use crate::envelope::{self, Kind, hex128};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{KeyspaceId, Seq, ShardId};
use crate::journal::{Journal, JournalConfig};
use crate::manifest::{DEFAULT_KEYSPACE, FILE as MANIFEST, KeyspaceEntry, Manifest, ShardEntry};
use crate::options::{Options, ShardOptions};
use crate::ring::{Member, Ring};
use crate::shard::paths::{self, JOURNAL_DIR};
use crate::shard::{Shard, ShardSpec, identity::Identity};
use crate::state::Seams;
use serde::{Deserialize, Serialize};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;

pub const LOCK: &str = "LOCK";
pub const SHARDS_DIR: &str = "shards";
pub const MARKER: &str = "CREATING";
/// Stands in its place while the store is filled from a checkpoint: no other opening takes that up.
pub const RESTORING: &str = "RESTORING";
const DEFAULT_SHARDS: usize = 4;
const DEFAULT_REPLICATION_FACTOR: usize = 2;
/// Segments of the journal that are kept to be used again, and what they may come to.
const MAX_SPARES: u64 = 8;
const SPARE_BYTES: u64 = 128 << 20;
/// Chosen by measurement: see docs/BENCHMARKS.md.
const DEFAULT_PAGE_BYTES: usize = 4096;

const KIND: Kind = Kind {
    magic: b"ANNULUSC",
    version: 1,
    oldest: 1,
    name: "creation marker",
    remedy: "no store was completed here: remove the directory and create it anew",
};

const RESTORING_KIND: Kind = Kind { magic: b"ANNULUSW", name: "restore marker", ..KIND };

/// What a store has from its creation on.
pub struct Contents<'a> {
    pub keyspaces: Vec<KeyspaceEntry>,
    pub next_keyspace: u32,
    /// Puts the records into the shards, durably, and says up to which sequence they are complete.
    pub fill: &'a mut dyn FnMut(&Manifest) -> Result<Seq>,
}

/// What a marker says: whose it is.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Marker {
    #[serde(with = "hex128")]
    pub store: u128,
}

/// Errors unless a store can be created in `dir`: it is empty or absent, or an interrupted creation of ours, or if it is to be
/// restored there, an interrupted restore.
pub fn check_vacant(disk: &dyn Disk, dir: &Path, restoring: bool) -> Result<()> {
    if !disk.exists(dir).map_err(|e| Error::io("look for the store's directory", dir, e))? {
        return Ok(());
    }
    let names = disk.list(dir).map_err(|e| Error::io("list the store's directory", dir, e))?;
    if !restoring && names.iter().any(|n| n == RESTORING) {
        let text = "a restore into the directory was interrupted, or is under way: it is no store yet";
        return Err(Error::new(ErrorKind::Refused, text)
            .at(dir)
            .remedy("restore there again, which begins anew, or remove the directory"));
    }
    if names.iter().any(|n| n == if restoring { RESTORING } else { MARKER }) {
        return Ok(());
    }
    if names.iter().any(|n| n == JOURNAL_DIR || n == SHARDS_DIR) {
        return Err(Error::corruption("the store's manifest is gone").at(dir.join(MANIFEST)).remedy(
            "restore it from a copy: every shard's IDENTITY file carries the manifest as it was last written",
        ));
    }
    let marks = |n: &str| n == MARKER || n == RESTORING || n == adopt::MARKER;
    let temporary = |n: &str| n.strip_suffix(".tmp").is_some_and(marks);
    let ours = |n: &str| n == LOCK || n == "lost+found" || temporary(n);
    match names.iter().find(|n| !ours(n)) {
        Some(name) => {
            let text = format!("the directory is not a store and not empty: it holds {name}");
            Err(Error::new(ErrorKind::Foreign, text).at(dir).remedy("name an empty or new directory"))
        }
        None => Ok(()),
    }
}

/// Creates the store, with contents if it has any; the caller holds its lock.
pub fn create(
    dir: &Path,
    options: &Options,
    seams: &Seams,
    contents: Option<Contents<'_>>,
) -> Result<Manifest> {
    let disk = seams.disk.as_ref();
    let (marker, kind) = match &contents {
        Some(_) => (dir.join(RESTORING), RESTORING_KIND),
        None => (dir.join(MARKER), KIND),
    };
    let store = match disk.read(&marker).map_err(|e| Error::io("read the creation marker", &marker, e))? {
        // A marker cut short says only that nothing else was written yet.
        Some(bytes) => {
            envelope::decode::<Marker>(kind, &marker, &bytes).map_or_else(|_| random(), |m| m.store)
        }
        None => random(),
    };
    let mut manifest = plan(disk, dir, options, store)?;
    if let Some(contents) = &contents {
        (manifest.keyspaces, manifest.next_keyspace) = (contents.keyspaces.clone(), contents.next_keyspace);
    }
    let specs: Vec<ShardSpec> =
        manifest.shards.iter().map(|entry| ShardSpec::of(dir, &manifest, entry, 0)).collect();
    for spec in &specs {
        Shard::check_vacant(disk, spec)?;
    }
    let below = Below::new(dir, seams, options);
    let reserved = journals::reserve(dir, &manifest, &below)?;
    let bytes = envelope::encode(kind, &Marker { store })?;
    disk.replace(&marker, &bytes).map_err(|e| Error::io("write the creation marker", &marker, e))?;
    let journal = dir.join(JOURNAL_DIR);
    let config = journal_config(&manifest, options);
    if disk.exists(&journal).map_err(|e| Error::io("look for the journal", &journal, e))? {
        // Its file goes with it: where one copy is to lie there it is locked when it is made.
        reserved.let_go(&journal);
        disk.remove_dir_all(&journal).map_err(|e| Error::io("clear the journal", &journal, e))?;
    }
    let early = crate::plants::is("half-restored-opens");
    let restored = contents.is_some();
    let made = match contents {
        None => create_shards(seams, &specs).map(|()| Seq::ZERO),
        Some(contents) => clear_shards(disk, dir)
            .and_then(|()| create_shards(seams, &specs))
            .and_then(|()| match early {
                true => open_half_restored(seams, dir, config, &manifest),
                false => Ok(()),
            })
            .and_then(|()| (contents.fill)(&manifest)),
    };
    let finish = |last: Seq| -> Result<()> {
        for spec in &specs {
            let identity = Identity { store, shard: spec.id, manifest: Some(manifest.clone()) };
            identity.store(disk, &spec.dir)?;
        }
        if early && disk.exists(&journal).unwrap_or(false) {
            disk.remove_dir_all(&journal).map_err(|e| Error::io("clear the journal", &journal, e))?;
        }
        if manifest.journals.is_empty() {
            Journal::create(seams.disk.clone(), &journal, config, last.next())?.close()?;
        } else {
            journals::create(dir, reserved, config, &below, last.next())?;
        }
        disk.sync_dir(dir).map_err(|e| Error::io("sync the store's directory", dir, e))
    };
    let give_up = |_: &Error| {
        if restored {
            give_up(disk, dir, &specs);
        }
    };
    let last = made.inspect_err(give_up)?;
    // Up to here nothing of it counts; a manifest that could not be written may nevertheless be there. Where the journal lies elsewhere the
    // marker stays: by it the next restore knows that what lies there is its own.
    finish(last).inspect_err(|error| {
        if manifest.journals.is_empty() {
            give_up(error);
        }
    })?;
    manifest.store(disk, dir)?;
    end_creation(disk, dir)?;
    Ok(manifest)
}

/// A bug that is planted: the store has all that it opens with before its records are there.
fn open_half_restored(seams: &Seams, dir: &Path, config: JournalConfig, manifest: &Manifest) -> Result<()> {
    Journal::create(seams.disk.clone(), &dir.join(JOURNAL_DIR), config, Seq::ZERO.next())?.close()?;
    manifest.store(seams.disk.as_ref(), dir)
}

/// Removes what an interrupted restore with other options left of shards inside the store's directory.
fn clear_shards(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let shards = dir.join(SHARDS_DIR);
    if disk.exists(&shards).map_err(|e| Error::io("look for the shards", &shards, e))? {
        disk.remove_dir_all(&shards).map_err(|e| Error::io("clear the shards", &shards, e))?;
    }
    Ok(())
}

/// Removes what a restore that failed has made, the marker last. What cannot be removed is left with the marker beside it.
fn give_up(disk: &dyn Disk, dir: &Path, specs: &[ShardSpec]) {
    let clear = || {
        specs.iter().try_for_each(|spec| Shard::clear(disk, spec))?;
        clear_shards(disk, dir)?;
        let journal = dir.join(JOURNAL_DIR);
        if disk.exists(&journal).map_err(|e| Error::io("look for the journal", &journal, e))? {
            disk.remove_dir_all(&journal).map_err(|e| Error::io("clear the journal", &journal, e))?;
        }
        disk.sync_dir(dir).map_err(|e| Error::io("sync the store's directory", dir, e))?;
        end_creation(disk, dir)
    };
    if let Err(error) = clear() {
        log::warn!("what a failed restore left at {} could not be removed: {error}", dir.display());
    }
}

/// Removes the marker of a creation that has got as far as the manifest. One left behind would let the store be made
/// anew, over all its data, on the day its manifest is lost.
pub fn end_creation(disk: &dyn Disk, dir: &Path) -> Result<()> {
    for marker in [dir.join(MARKER), dir.join(RESTORING)] {
        if disk.exists(&marker).map_err(|e| Error::io("look for the creation marker", &marker, e))? {
            disk.remove_file(&marker).map_err(|e| Error::io("remove the creation marker", &marker, e))?;
            disk.sync_dir(dir).map_err(|e| Error::io("sync the store's directory", dir, e))?;
        }
    }
    Ok(())
}

/// Enough for what one flush lets go, and no more of a disk than that is worth; one at the least, however large.
fn max_spares(segment_bytes: u64) -> usize {
    (SPARE_BYTES / segment_bytes.max(1)).clamp(1, MAX_SPARES) as usize
}

pub fn journal_config(manifest: &Manifest, options: &Options) -> JournalConfig {
    JournalConfig {
        store_id: manifest.store,
        segment_bytes: options.segment_bytes_or_default(),
        max_spares: max_spares(options.segment_bytes_or_default()),
    }
}

// Each new engine waits for its disk a few times; side by side they wait together.
fn create_shards(seams: &Seams, specs: &[ShardSpec]) -> Result<()> {
    let create = |spec: &ShardSpec| Shard::create(&seams.disk, seams.factory.as_ref(), spec, Seq::ZERO);
    if !seams.background.schedules() {
        return specs.iter().try_for_each(create);
    }
    let ((), results) = crate::sync::side_by_side(specs, create, || ());
    results.into_iter().try_for_each(|created| created.unwrap_or_else(|| Err(panicked())))
}

fn panicked() -> Error {
    Error::new(ErrorKind::Io, "creating a shard panicked").remedy("see the log for the panic's text")
}

/// The manifest that the options come to.
fn plan(disk: &dyn Disk, dir: &Path, options: &Options, store: u128) -> Result<Manifest> {
    let count = options.shards.unwrap_or(DEFAULT_SHARDS);
    let shards: Vec<ShardOptions> = if options.shard.is_empty() {
        (0..count).map(|i| ShardOptions::new(dir.join(SHARDS_DIR).join(format!("{i:04}")))).collect()
    } else {
        options.shard.clone()
    };
    let paths = paths::resolve_all(disk, dir, shards.iter().map(|s| s.path.as_path()))?;
    let journals = journals::of_new(disk, dir, options, &paths)?;
    let factor = options.replication_factor.unwrap_or(DEFAULT_REPLICATION_FACTOR.min(shards.len()));
    if factor > shards.len() {
        let most = shards.len();
        return Err(Error::invalid(format!(
            "the replication factor {factor} is over the number of shards, {most}"
        )));
    }
    let nodes = options.virtual_nodes.unwrap_or_else(|| Ring::recommended_virtual_nodes(shards.len()));
    let members: Vec<Member> = (0..)
        .zip(&shards)
        .map(|(i, s)| Member { id: ShardId(i), zone: s.zone.clone(), weight: s.weight })
        .collect();
    let ring = Ring::plan(members, factor, nodes, options.partitioner.unwrap_or_default())?;
    Ok(Manifest {
        store,
        generation: 1,
        engine: "sled-0.34".to_owned(),
        page_bytes: options.page_bytes.unwrap_or(DEFAULT_PAGE_BYTES),
        next_shard: shards.len() as u32,
        shards: (0..).zip(paths).map(|(i, path)| entry(disk, dir, ShardId(i), path)).collect(),
        keyspaces: vec![KeyspaceEntry {
            id: KeyspaceId(0),
            name: DEFAULT_KEYSPACE.to_owned(),
            dropped: false,
        }],
        next_keyspace: 1,
        topology: ring.topology().clone(),
        change: None,
        journals,
        given_up: None,
    })
}

fn entry(disk: &dyn Disk, dir: &Path, id: ShardId, path: std::path::PathBuf) -> ShardEntry {
    let own_disk = paths::is_on_another_disk(disk, dir, &dir.join(&path));
    ShardEntry { own_disk, ..ShardEntry::new(id, path) }
}

/// 128 bits from the operating system's random numbers, by way of the standard library's hash keys.
fn random() -> u128 {
    let half = || u128::from(RandomState::new().build_hasher().finish());
    half() << 64 | half()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spares_are_few_where_segments_are_large() {
        let of = |bytes: u64| max_spares(bytes);
        assert_eq!([of(64 << 10), of(16 << 20), of(32 << 20), of(128 << 20), of(1 << 30)], [8, 8, 4, 1, 1]);
    }
}
