//! The shard supervisor: one shard's directory, engine, seal and state.
//!
//! Invariants:
//! - A shard is read only while it is [`Health::Online`] or [`Health::Degraded`]: then it holds every write up to the
//!   oldest memtable. One that missed a run is offline until it has caught up.
//! - A seal is written only after the engine has synced, and marked `applying` before the engine is changed again.
//! - After an error that leaves the engine behind, nothing more is applied to it.

pub mod identity;
pub mod layout;
pub mod paths;
mod run;
pub mod seal;
mod turns;
mod worker;

pub use layout::Layout;
pub use run::{Run, apply_to_all};
pub use turns::Turns;
pub use worker::{Worker, outcome};

use crate::disk::Disk;
use crate::engine::{Engine, EngineFactory, EngineSpec, Figures};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Seq, ShardId};
use crate::manifest::{Manifest, ShardEntry};
use crate::record::{KeyRange, RunRecord};
use identity::Identity;
use parking_lot::{Mutex, RwLock};
use seal::Seal;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The engine's directory inside the shard's.
const ENGINE_DIR: &str = "engine";

/// What state a shard is in, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "cause")]
#[non_exhaustive]
pub enum Health {
    /// It serves and is flushed to.
    Online,
    /// It serves, but some of its bytes failed a check; its replicas answer for those.
    Degraded(String),
    /// It neither serves nor is flushed to; its replicas do.
    Offline(String),
    /// It is being filled by a change of the topology: it is written to, and not read yet.
    Joining,
    /// It is being filled from its replicas and does not serve yet.
    Rebuilding,
    /// It has been drained and will not be opened again.
    Retired,
}

impl Health {
    /// Whether reads and flushes go to the shard.
    pub fn serves(&self) -> bool {
        matches!(self, Health::Online | Health::Degraded(_))
    }
}

/// What is needed to open one shard.
#[derive(Debug, Clone)]
pub struct ShardSpec {
    pub id: ShardId,
    pub dir: PathBuf,
    pub store: u128,
    pub cache_bytes: u64,
    pub page_bytes: usize,
}

impl ShardSpec {
    /// What is needed to open the shard of that entry, of the store in `dir`.
    pub fn of(dir: &Path, manifest: &Manifest, entry: &ShardEntry, cache_bytes: u64) -> ShardSpec {
        ShardSpec {
            id: entry.id,
            dir: dir.join(&entry.path),
            store: manifest.store,
            cache_bytes,
            page_bytes: manifest.page_bytes,
        }
    }
}

/// One shard.
#[derive(Debug)]
pub struct Shard {
    pub id: ShardId,
    pub dir: PathBuf,
    store: u128,
    disk: Arc<dyn Disk>,
    applied: AtomicU64,
    // How many are changing the engine at the moment. Held over the writing of a seal, which must say what holds then.
    sessions: Mutex<u32>,
    // Locked for the length of a clone or a swap, never over I/O.
    engine: RwLock<Option<Arc<dyn Engine>>>,
    health: Mutex<Health>,
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
        let names = disk.list(dir).map_err(|e| Error::io("list the shard's directory", dir, e))?;
        // A temporary file is all that an interrupted creation can have left before the identity.
        match names.iter().find(|n| !matches!(n.as_str(), "IDENTITY.tmp" | "lost+found")) {
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
        let engine_dir = dir.join(ENGINE_DIR);
        if disk
            .exists(&engine_dir)
            .map_err(|e| Error::io("look for the engine's directory", &engine_dir, e))?
        {
            disk.remove_dir_all(&engine_dir).map_err(|e| Error::io("clear the directory", &engine_dir, e))?;
        }
        let engine = factory.open(&engine_spec(spec, true, None))?;
        engine.sync(applied)?;
        let figures = engine.figures().map(Into::into);
        engine.close()?;
        let seal = Seal { store: spec.store, shard: spec.id, applied, applying: false, figures };
        seal.store(disk.as_ref(), dir)
    }

    /// Clears the directory of a shard that is not open and belongs to no ring. The directory itself stays: a disk may be
    /// mounted there. Its identity goes last, so that what an interrupted call leaves is still known for what it is.
    pub fn clear(disk: &dyn Disk, spec: &ShardSpec) -> Result<()> {
        let dir = &spec.dir;
        let Some(found) = Identity::load(disk, dir)? else { return Ok(()) };
        found.expect(dir, spec.store, spec.id)?;
        let engine = dir.join(ENGINE_DIR);
        if disk.exists(&engine).map_err(|e| Error::io("look for the engine's directory", &engine, e))? {
            disk.remove_dir_all(&engine).map_err(|e| Error::io("clear the directory", &engine, e))?;
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

    /// Opens a shard that exists. One that cannot be trusted comes back offline, with the cause.
    pub fn open(disk: &Arc<dyn Disk>, factory: &dyn EngineFactory, spec: &ShardSpec) -> Shard {
        let shard = Shard {
            id: spec.id,
            dir: spec.dir.clone(),
            store: spec.store,
            disk: disk.clone(),
            applied: AtomicU64::new(0),
            sessions: Mutex::new(0),
            engine: RwLock::new(None),
            health: Mutex::new(Health::Online),
        };
        if let Err(error) = shard.open_engine(factory, spec) {
            shard.fail(&error);
        }
        shard
    }

    fn open_engine(&self, factory: &dyn EngineFactory, spec: &ShardSpec) -> Result<()> {
        let (disk, dir) = (self.disk.as_ref(), self.dir.as_path());
        let missing = |what: &str| {
            let text = format!("the shard is missing: its directory {what}");
            Error::new(ErrorKind::Unavailable, text).at(dir).on(self.id).remedy("is its disk mounted?")
        };
        if !disk.exists(dir).map_err(|e| Error::io("look for the shard's directory", dir, e))? {
            return Err(missing("does not exist"));
        }
        let identity = Identity::load(disk, dir)?.ok_or_else(|| missing("has no identity file"))?;
        identity.expect(dir, self.store, self.id)?;
        let seal = Seal::load(disk, dir)?.ok_or_else(|| {
            Error::corruption("the shard's seal is gone").at(dir.join(seal::FILE)).on(self.id)
        })?;
        if (seal.store, seal.shard) != (self.store, self.id) {
            return Err(Error::corruption("the seal is another shard's")
                .at(dir.join(seal::FILE))
                .on(self.id));
        }
        let resume = if seal.applying { None } else { seal.figures.map(Figures::from) };
        let engine = factory.open(&engine_spec(spec, false, resume))?;
        if engine.applied() < seal.applied {
            let text = format!(
                "the shard has lost its tail: it holds writes up to {}, its seal says {}",
                engine.applied(),
                seal.applied
            );
            // The engine is of no use; whether it can be closed in order does not matter.
            let _ = engine.close();
            return Err(Error::corruption(text).at(dir).on(self.id).remedy("rebuild it from its replicas"));
        }
        // The seal's word counts: the engine may have synced a later sequence and died before the seal.
        self.applied.store(seal.applied.0, Ordering::Release);
        *self.engine.write() = Some(engine);
        Ok(())
    }

    /// The engine, if the shard serves.
    pub fn engine(&self) -> Result<Arc<dyn Engine>> {
        let engine = self.engine.read().clone();
        engine.ok_or_else(|| {
            let text = match &*self.health.lock() {
                Health::Offline(cause) => format!("the shard is offline: {cause}"),
                _ => "the shard is closed".to_owned(),
            };
            Error::new(ErrorKind::Unavailable, text).at(&self.dir).on(self.id)
        })
    }

    /// Every write up to this one is in the shard, durably.
    pub fn applied(&self) -> Seq {
        Seq(self.applied.load(Ordering::Acquire))
    }

    pub fn health(&self) -> Health {
        self.health.lock().clone()
    }

    pub fn serves(&self) -> bool {
        self.engine.read().is_some()
    }

    /// Some bytes failed a check; the shard goes on serving the others.
    pub fn degrade(&self, error: &Error) {
        let mut health = self.health.lock();
        if *health == Health::Online {
            log::error!("shard {} is degraded: {error}", self.id);
            *health = Health::Degraded(error.to_string());
        }
    }

    /// Takes the shard offline: it can no longer be flushed to, or be trusted at all.
    pub fn fail(&self, error: &Error) {
        let engine = self.engine.write().take();
        {
            let mut health = self.health.lock();
            if !matches!(*health, Health::Offline(_)) {
                log::error!("shard {} is offline: {error}", self.id);
                *health = Health::Offline(error.to_string());
            }
        }
        if let Some(engine) = engine {
            // Readers that still hold the engine get errors from here on, which sends them to the next owner.
            if let Err(error) = engine.close() {
                log::warn!("shard {} did not close in order: {error}", self.id);
            }
        }
    }

    /// Says in the seal that the engine is about to change. Several may be at it at once, a flush and a move of records: the
    /// seal says so until the last of them has called [`seal`](Self::seal).
    pub fn begin_apply(&self, engine: &dyn Engine) -> Result<()> {
        let mut sessions = self.sessions.lock();
        if *sessions == 0 {
            self.write_seal(self.applied(), true, engine.figures())?;
        }
        *sessions += 1;
        Ok(())
    }

    /// Applies a part of a run; [`begin_apply`](Self::begin_apply) came before, [`seal`](Self::seal) comes after.
    pub fn apply(&self, engine: &dyn Engine, run: &[RunRecord<'_>], live: &[Seq]) -> Result<()> {
        engine.apply(run, live)
    }

    /// Removes a range of keys, as one whole step.
    pub fn remove_range(&self, range: &KeyRange) -> Result<()> {
        let engine = self.engine()?;
        self.begin_apply(engine.as_ref())?;
        engine.remove_range(range)?;
        self.seal(engine.as_ref(), self.applied())
    }

    /// Makes everything applied durable and says so in the seal: the shard is complete up to `applied` at least.
    pub fn seal(&self, engine: &dyn Engine, applied: Seq) -> Result<()> {
        let mut sessions = self.sessions.lock();
        let applied = applied.max(self.applied());
        engine.sync(applied)?;
        let others = sessions.saturating_sub(1);
        self.write_seal(applied, others > 0, engine.figures())?;
        *sessions = others;
        self.applied.store(applied.0, Ordering::Release);
        Ok(())
    }

    fn write_seal(&self, applied: Seq, applying: bool, figures: Option<Figures>) -> Result<()> {
        let figures = figures.map(Into::into);
        let seal = Seal { store: self.store, shard: self.id, applied, applying, figures };
        seal.store(self.disk.as_ref(), &self.dir)
    }

    /// Writes the identity file anew, with the manifest as it is now.
    pub fn write_identity(&self, manifest: &Manifest) -> Result<()> {
        let identity = Identity { store: self.store, shard: self.id, manifest: Some(manifest.clone()) };
        identity.store(self.disk.as_ref(), &self.dir)
    }

    /// Releases the engine's files and locks.
    pub fn close(&self) -> Result<()> {
        let engine = self.engine.write().take();
        match engine {
            Some(engine) => engine.close(),
            None => Ok(()),
        }
    }
}

fn engine_spec(spec: &ShardSpec, create: bool, resume: Option<Figures>) -> EngineSpec {
    EngineSpec {
        dir: spec.dir.join(ENGINE_DIR),
        shard: spec.id,
        cache_bytes: spec.cache_bytes,
        page_bytes: spec.page_bytes,
        create,
        resume,
    }
}

/// The identity of the directory `dir`, if it is a shard's.
pub fn identify(disk: &dyn Disk, dir: &Path) -> Result<Option<(u128, ShardId)>> {
    Ok(Identity::load(disk, dir)?.map(|i| (i.store, i.shard)))
}
