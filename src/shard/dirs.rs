//! A shard's directory: whose it is, what lies in it, and what may be done to it.
//!
//! ```text
//!   IDENTITY   SEAL   engine/ or engine-<generation>/   quarantine-<generation>/ ...
//! ```
//! Invariants: nothing is written into a directory that is not this shard's; what a damaged engine has left is moved aside
//! and not deleted; the seal says which engine counts, and what lies there of others, above or below it, is of no use.

use super::identity::{self, Identity};
use super::seal::{self, Seal};
use super::{Shard, ShardSpec};
use crate::disk::Disk;
use crate::engine::{EngineFactory, EngineSpec, Figures, Guarded};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Seq, ShardId};
use crate::manifest::Manifest;
use crate::sync::atomic::Ordering;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The first engine's directory inside the shard's; later ones have their generation behind it.
const ENGINE_DIR: &str = "engine";
/// What the directories of engines that were set aside begin with.
const QUARANTINE_DIR: &str = "quarantine-";

/// Room that must be there before a shard that was full is opened again, or one is begun anew: an engine writes at its opening,
/// and one that fails in the middle of that can be read no longer, or passes for damaged.
const ROOM: u64 = 4 << 20;

/// The files of a damaged engine, which were set aside when the shard was rebuilt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Quarantined {
    /// The shard whose files they are.
    pub shard: ShardId,
    /// The directory that they lie in.
    pub path: PathBuf,
    /// Bytes on disk.
    pub bytes: u64,
}

impl Shard {
    /// Errors, and changes nothing, if the directory cannot become a shard of the store: it is another store's, or holds
    /// files that are not a shard's.
    pub fn check_vacant(disk: &dyn Disk, spec: &ShardSpec) -> Result<()> {
        let dir = &spec.dir;
        if !disk.exists(dir).map_err(|e| Error::io("look for the shard's directory", dir, e))? {
            return Ok(());
        }
        if let Some(found) = Identity::load(disk, dir)? {
            // An interrupted creation of this very store may have numbered its shards otherwise.
            return found.expect(dir, spec.store, found.shard);
        }
        match names(disk, dir)?.iter().find(|n| !is_empty_name(n)) {
            Some(name) => {
                let text = format!("the directory for shard {} is not empty: it holds {name}", spec.id);
                Err(Error::new(ErrorKind::Foreign, text).at(dir).remedy("name an empty directory"))
            }
            None => Ok(()),
        }
    }

    /// Errors, and changes nothing, if the directory cannot become this very shard of a store that exists: unlike in
    /// [`check_vacant`](Self::check_vacant), another shard of the store is another shard.
    pub fn check_joinable(disk: &dyn Disk, spec: &ShardSpec) -> Result<()> {
        match Identity::load(disk, &spec.dir)? {
            Some(found) if found.store == spec.store && found.shard != spec.id => {
                let text = format!("the directory holds shard {} of this store", found.shard);
                Err(Error::new(ErrorKind::Foreign, text).at(&spec.dir).remedy(
                    "name another directory; one of a retired shard is free when that shard has been dropped",
                ))
            }
            _ => Self::check_vacant(disk, spec),
        }
    }

    /// Makes the shard's directory, its identity and an empty engine that is complete up to `applied`. Only for a shard
    /// that no ring names yet: what an interrupted creation has left is made anew.
    pub fn create(
        disk: &Arc<dyn Disk>,
        factory: &dyn EngineFactory,
        spec: &ShardSpec,
        applied: Seq,
    ) -> Result<()> {
        let dir = &spec.dir;
        Self::check_vacant(disk.as_ref(), spec)?;
        disk.create_dir_durably(dir).map_err(|e| Error::io("create the shard's directory", dir, e))?;
        Identity { store: spec.store, shard: spec.id, manifest: None }.store(disk.as_ref(), dir)?;
        remove(disk.as_ref(), &dir.join(ENGINE_DIR))?;
        let engine = Guarded::open(spec.id, || factory.open(&engine_spec(spec, 0, true, None)))?;
        engine.sync(applied)?;
        let figures = engine.figures().map(Into::into);
        engine.close()?;
        let (generation, filled) = (0, None);
        let seal =
            Seal { store: spec.store, shard: spec.id, applied, applying: false, figures, generation, filled };
        seal.store(disk.as_ref(), dir)
    }

    /// Clears the directory of a shard that is not open and belongs to no ring. The directory itself stays: a disk may be
    /// mounted there. Its identity goes last, so that what an interrupted call leaves is still known for what it is.
    pub fn clear(disk: &dyn Disk, spec: &ShardSpec) -> Result<()> {
        let dir = &spec.dir;
        let Some(found) = Identity::load(disk, dir)? else { return Ok(()) };
        found.expect(dir, spec.store, spec.id)?;
        // An engine may keep its files elsewhere than where this disk looks.
        remove(disk, &dir.join(ENGINE_DIR))?;
        for name in names(disk, dir)?.iter().filter(|name| is_engine(name) || is_quarantine(name)) {
            remove(disk, &dir.join(name))?;
        }
        let temporary = |file: &str| format!("{file}.tmp");
        for file in [&temporary(seal::FILE), seal::FILE, &temporary(identity::FILE), identity::FILE] {
            let path = dir.join(file);
            match disk.remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("remove the file", path, e));
                }
                _ => disk.sync_dir(dir).map_err(|e| Error::io("sync the shard's directory", dir, e))?,
            }
        }
        Ok(())
    }

    /// Makes sure that the directory is this shard's, makes it where it is missing, and errs where it is another's. `empty`
    /// says that one without anything in it may be taken for this shard's.
    pub(super) fn claim(&self, empty: bool) -> Result<()> {
        let (disk, dir) = (self.disk.as_ref(), self.dir.as_path());
        match Identity::load(disk, dir) {
            Ok(Some(found)) => return found.expect(dir, self.store, self.id),
            Ok(None) => {}
            Err(error) if error.kind() == ErrorKind::Corruption => {}
            Err(error) => return Err(error),
        }
        if !self.is_sealed_here() {
            let exists = disk.exists(dir).map_err(|e| Error::io("look for the shard's directory", dir, e))?;
            let found = if exists { names(disk, dir)? } else { Vec::new() };
            // Of two damaged small files alone nothing can be lost.
            let is_small = |name: &str| matches!(name, identity::FILE | seal::FILE);
            if let Some(name) = found.iter().find(|name| !is_empty_name(name) && !is_small(name)) {
                let text = format!("the directory says not whose it is, and is not empty: it holds {name}");
                return Err(Error::new(ErrorKind::Foreign, text).at(dir).on(self.id).remedy(
                    "see whether the right disk is mounted; clear the directory, then repair the shard",
                ));
            }
            // A disk that is not mounted has left none.
            if !empty && !found.iter().any(|name| is_small(name)) {
                return Err(self.missing("is empty or does not exist, and may be another disk's"));
            }
            disk.create_dir_durably(dir).map_err(|e| Error::io("create the shard's directory", dir, e))?;
        }
        Identity { store: self.store, shard: self.id, manifest: None }.store(disk, dir)?;
        self.copied.store(0, Ordering::Release);
        Ok(())
    }

    /// Whether the directory has a seal of this shard: then it is this shard's, whatever became of its identity.
    pub(super) fn is_sealed_here(&self) -> bool {
        let seal = Seal::load(self.disk.as_ref(), &self.dir);
        matches!(seal, Ok(Some(seal)) if (seal.store, seal.shard) == (self.store, self.id))
    }

    /// Errors if the directory has become another's since it was opened, as when two are swapped or one is replaced by an empty
    /// one: files that are open go on being those that they were, and those that are replaced by name do not. Of a seal and an
    /// identity that are both damaged one cannot tell; they are written anew.
    pub fn check_ours(&self) -> Result<()> {
        let disk = self.disk.as_ref();
        let sealed = match Seal::load(disk, &self.dir) {
            Ok(Some(seal)) if (seal.store, seal.shard) == (self.store, self.id) => return Ok(()),
            sealed => sealed,
        };
        match Identity::load(disk, &self.dir) {
            Ok(Some(found)) => found.expect(&self.dir, self.store, self.id),
            Ok(None) if matches!(sealed, Ok(None)) => {
                Err(self.missing("has neither an identity file nor a seal"))
            }
            Err(error) if error.kind() != ErrorKind::Corruption => Err(error),
            _ => Ok(()),
        }
    }

    /// Writes the seal and the identity anew where they cannot be read, of a shard that serves.
    pub fn renew(&self, manifest: &Manifest) -> Result<()> {
        let disk = self.disk.as_ref();
        if !matches!(Seal::load(disk, &self.dir), Ok(Some(_))) {
            log::warn!("shard {}: its seal is lost or damaged, and is written anew", self.id);
            let session = self.begin_apply()?;
            self.seal(self.applied()).inspect_err(|_| session.leave())?;
        }
        match Identity::load(disk, &self.dir) {
            Ok(Some(_)) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Unsupported => return Err(error),
            _ => {}
        }
        log::warn!("shard {}: its identity file is lost or damaged, and is written anew", self.id);
        self.write_identity(manifest)
    }

    pub(super) fn missing(&self, what: &str) -> Error {
        let text = format!("the shard is missing: its directory {what}");
        Error::new(ErrorKind::NotFound, text).at(&self.dir).on(self.id).remedy("is its disk mounted?")
    }

    /// Errors unless the directory can be written to, and there is room enough for an engine to be opened.
    pub fn probe(&self) -> Result<()> {
        self.check_room()?;
        let (disk, path) = (self.disk.as_ref(), self.dir.join("PROBE"));
        // More than metadata alone, which may find room where nothing else does.
        let written = disk.replace(&path, &[0; 64 << 10]);
        let removed = disk.remove_file(&path);
        written.and(removed).map_err(|e| Error::io("write to the shard's directory", &path, e).on(self.id))
    }

    /// Errors where too little is free for an engine to be opened in safety; writes nothing.
    pub fn check_room(&self) -> Result<()> {
        let disk = self.disk.as_ref();
        let space = disk.space(&self.dir).map_err(|e| Error::io("ask for the room left at", &self.dir, e))?;
        if let Some(space) = space.filter(|space| space.free < ROOM) {
            let text = format!("{} bytes are free, {ROOM} are needed to go on", space.free);
            let full = std::io::Error::new(std::io::ErrorKind::StorageFull, text);
            return Err(Error::io("write to the shard's directory", &self.dir, full).on(self.id));
        }
        Ok(())
    }

    /// Moves the engine of that generation aside, or deletes one that was never whole.
    pub(super) fn quarantine(&self, generation: u32, whole: bool) -> Result<()> {
        let (disk, dir) = (self.disk.as_ref(), self.dir.as_path());
        let from = dir.join(engine_name(generation));
        if !whole {
            return remove(disk, &from);
        }
        if !disk.exists(&from).map_err(|e| Error::io("look for the engine's directory", &from, e))? {
            return Ok(());
        }
        let to = dir.join(format!("{QUARANTINE_DIR}{generation}"));
        disk.rename(&from, &to).map_err(|e| Error::io("move the damaged engine aside", &from, e))?;
        disk.sync_dir(dir).map_err(|e| Error::io("sync the shard's directory", dir, e))?;
        log::warn!("shard {}: the files of its engine are kept in {}", self.id, to.display());
        Ok(())
    }

    /// A generation that no engine here has had.
    pub(super) fn next_generation(&self) -> u32 {
        let found = names(self.disk.as_ref(), &self.dir).unwrap_or_default();
        let found = found.iter().filter_map(|name| generation_of(name)).max().unwrap_or(0);
        let sealed = Seal::load(self.disk.as_ref(), &self.dir).ok().flatten().map_or(0, |s| s.generation);
        found.max(sealed).max(self.engines.read().generation).saturating_add(1)
    }

    /// The newest engine that lies here.
    pub(super) fn newest_engine(&self) -> u32 {
        let found = names(self.disk.as_ref(), &self.dir).unwrap_or_default();
        let engines = found.iter().filter(|name| is_engine(name)).filter_map(|name| generation_of(name));
        engines.max().unwrap_or_else(|| self.engines.read().generation)
    }

    /// Engines that do not count: what interrupted rebuilds and compactions have left.
    pub(super) fn others(&self, counts: u32) -> Result<Vec<String>> {
        let left = |name: &String| is_engine(name) && generation_of(name) != Some(counts);
        Ok(names(self.disk.as_ref(), &self.dir)?.into_iter().filter(left).collect())
    }

    /// Deletes them. The seal must say, durably, which one counts.
    pub(super) fn tidy(&self, counts: u32) -> Result<()> {
        let others = self.others(counts)?;
        others.iter().try_for_each(|name| remove(self.disk.as_ref(), &self.dir.join(name)))
    }

    /// What has been set aside here.
    pub fn quarantined(&self) -> Result<Vec<Quarantined>> {
        let (disk, dir) = (self.disk.as_ref(), self.dir.as_path());
        if !disk.exists(dir).map_err(|e| Error::io("look for the shard's directory", dir, e))? {
            return Ok(Vec::new());
        }
        let kept = names(disk, dir)?.into_iter().filter(|name| is_quarantine(name));
        kept.map(|name| {
            let path = dir.join(name);
            let bytes = disk.bytes_below(&path).map_err(|e| Error::io("read the size of", &path, e))?;
            Ok(Quarantined { shard: self.id, path, bytes })
        })
        .collect()
    }

    /// Deletes what has been set aside here, but for the newest of it up to `keep` bytes.
    pub fn drop_quarantined(&self, keep: u64) -> Result<()> {
        self.check_ours()?;
        let mut found = self.quarantined()?;
        found.sort_by_key(|q| {
            std::cmp::Reverse(q.path.file_name().and_then(|name| generation_of(&name.to_string_lossy())))
        });
        let mut kept = 0_u64;
        for quarantined in found {
            kept = kept.saturating_add(quarantined.bytes);
            if keep == 0 || kept > keep {
                remove(self.disk.as_ref(), &quarantined.path)?;
            }
        }
        Ok(())
    }
}

/// What the engine of that generation is opened with.
pub(super) fn engine_spec(
    spec: &ShardSpec,
    generation: u32,
    create: bool,
    resume: Option<Figures>,
) -> EngineSpec {
    EngineSpec {
        dir: spec.dir.join(engine_name(generation)),
        shard: spec.id,
        cache_bytes: spec.cache_bytes,
        page_bytes: spec.page_bytes,
        create,
        resume,
        patience: spec.patience,
    }
}

/// The identity of the directory `dir`, if it is a shard's.
pub fn identify(disk: &dyn Disk, dir: &Path) -> Result<Option<(u128, ShardId)>> {
    Ok(Identity::load(disk, dir)?.map(|i| (i.store, i.shard)))
}

/// The name of the directory of the engine of that generation, inside the shard's.
pub fn engine_name(generation: u32) -> String {
    if generation == 0 { ENGINE_DIR.to_owned() } else { format!("{ENGINE_DIR}-{generation}") }
}

fn is_engine(name: &str) -> bool {
    name == ENGINE_DIR || name.strip_prefix("engine-").is_some_and(|rest| rest.parse::<u32>().is_ok())
}

/// Whether a name in a shard's directory is that of an engine that was set aside.
pub fn is_quarantine(name: &str) -> bool {
    name.strip_prefix(QUARANTINE_DIR).is_some_and(|rest| rest.parse::<u32>().is_ok())
}

fn generation_of(name: &str) -> Option<u32> {
    match name {
        ENGINE_DIR => Some(0),
        _ => name.strip_prefix("engine-").or(name.strip_prefix(QUARANTINE_DIR))?.parse().ok(),
    }
}

/// What an interrupted creation can have left before the identity, and what a power cut brings back of a directory that was
/// emptied: temporary files, which hold nothing.
fn is_empty_name(name: &str) -> bool {
    matches!(name, "IDENTITY.tmp" | "SEAL.tmp" | "PROBE" | "PROBE.tmp" | "lost+found")
}

fn names(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>> {
    disk.list(dir).map_err(|e| Error::io("list the shard's directory", dir, e))
}

fn remove(disk: &dyn Disk, dir: &Path) -> Result<()> {
    if disk.exists(dir).map_err(|e| Error::io("look for the directory", dir, e))? {
        disk.remove_dir_all(dir).map_err(|e| Error::io("clear the directory", dir, e))?;
    }
    Ok(())
}
