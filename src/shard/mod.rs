//! The shard supervisor: one shard's directory, engine, seal and state.
//!
//! Invariants:
//! - A shard is read only while its engine's [`Role`] is to serve: then it holds every write up to the oldest memtable. One
//!   that missed a run is not read until it has caught up.
//! - A seal is written only after the engine has synced, and marked `applying` before the engine is changed again.
//! - After an error that leaves the engine behind, nothing more is applied to it.
//! - An engine that is put in the place of another lies in a directory of its own, with a higher *generation*; the seal
//!   says which one counts. So the shard changes from one to the other in one step, at a replacement of the seal.

mod dirs;
mod health;
pub mod identity;
pub mod layout;
mod opening;
pub mod paths;
mod places;
mod run;
pub mod seal;
mod sealing;
mod seen;
#[cfg(test)]
mod tests;
mod turns;
mod worker;

pub use dirs::{Quarantined, engine_name, identify, is_quarantine};
pub use health::Health;
pub use layout::Layout;
pub use opening::Opened;
pub use places::{Place, Places};
pub use run::{Run, apply_to_all, stays_readable};
pub use sealing::Session;
pub use turns::Turns;
pub use worker::{Ticket, Worker, beat};

use crate::disk::Disk;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Seq, ShardId};
use crate::manifest::{Manifest, ShardEntry};
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, RwLock};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long who reads a record waits for the disk where nothing else was said.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is needed to open one shard.
#[derive(Debug, Clone)]
pub struct ShardSpec {
    pub id: ShardId,
    pub dir: PathBuf,
    pub store: u128,
    pub cache_bytes: u64,
    pub page_bytes: usize,
    /// How long who reads a record waits for the disk.
    pub patience: Duration,
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
            patience: PATIENCE,
        }
    }

    /// The same with another patience than the usual one.
    pub fn within(self, patience: Duration) -> ShardSpec {
        ShardSpec { patience, ..self }
    }
}

/// What a shard's engine is there for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// It answers reads and gets every flush.
    Serving,
    /// It answers reads; it could not be written to at the last flush, of which no memtable has been forgotten since.
    Stalled,
    /// It gets every flush; of what lies below that it has the records below the position, durably.
    Filling(Vec<u8>),
    /// It is being brought up to date from the journal; it was being filled up to the position, or serves afterwards.
    CatchingUp(Option<Vec<u8>>),
}

impl Role {
    /// How far an engine that is not whole has been filled.
    fn filled(&self) -> Option<&Vec<u8>> {
        match self {
            Role::Filling(position) => Some(position),
            Role::CatchingUp(position) => position.as_ref(),
            Role::Serving | Role::Stalled => None,
        }
    }
}

/// The engines of a shard.
#[derive(Debug)]
struct Engines {
    engine: Option<Arc<dyn Engine>>,
    role: Role,
    /// Of the engine, or of the one that was there last.
    generation: u32,
    /// How many are changing the engine at the moment. Held over the writing of a seal, which must say what holds then.
    sessions: Arc<Mutex<u32>>,
    /// One that will take the engine's place: it gets every flush, and is filled meanwhile.
    aside: Option<Aside>,
    /// Engines that are to be closed when nobody is in them any more.
    leaving: Vec<Arc<dyn Engine>>,
    /// How often the shard has failed: what was begun before, and ends after it, comes too late.
    failures: u64,
}

#[derive(Debug, Clone)]
struct Aside {
    engine: Arc<dyn Engine>,
    generation: u32,
}

/// One shard.
#[derive(Debug)]
pub struct Shard {
    pub id: ShardId,
    pub dir: PathBuf,
    store: u128,
    disk: Arc<dyn Disk>,
    applied: AtomicU64,
    // Locked for the length of a clone or a swap, never over I/O.
    engines: RwLock<Engines>,
    health: Mutex<Health>,
    // Why it went offline, or cannot be written to.
    fault: Mutex<Option<Error>>,
    // Some of its pages may be damaged: it is to be verified before it serves again.
    suspect: AtomicBool,
    // Whether engines that do not count lie in its directory.
    untidy: AtomicBool,
    // How often it failed as if it were damaged, and was not, since it was last flushed to.
    strikes: AtomicU32,
    // How often a reader has met damage in it.
    met: AtomicU64,
    /// How often it could not be read since its pages were verified last.
    unreadable: AtomicU32,
    // The seal on the disk says less than is known: that the engine is being changed, or no figures.
    vague: AtomicBool,
    // The generation of the manifest whose copy lies in the directory, as it was read or written last; 0: none does; UNREAD.
    copied: AtomicU64,
    seen: Mutex<seen::Seen>,
}

/// For the generation of a copy of the manifest that could not be read. It may be newer than all that can.
pub const UNREAD: u64 = u64::MAX;

impl Shard {
    /// The engine, if the shard answers reads.
    pub fn engine(&self) -> Result<Arc<dyn Engine>> {
        let engines = self.engines.read();
        match (&engines.engine, &engines.role) {
            (Some(engine), Role::Serving | Role::Stalled) => Ok(engine.clone()),
            _ => {
                drop(engines);
                Err(self.unavailable())
            }
        }
    }

    /// The engine that flushes and copies are written to.
    fn written(&self) -> Result<Arc<dyn Engine>> {
        self.engines.read().engine.clone().ok_or_else(|| self.unavailable())
    }

    /// The engine, whatever it is there for.
    pub fn whatever_for(&self) -> Result<Arc<dyn Engine>> {
        self.written()
    }

    /// The engine that is being filled: the shard's own, or the one that will take its place.
    pub fn filling(&self) -> Result<Arc<dyn Engine>> {
        let engines = self.engines.read();
        let found = match (&engines.aside, &engines.engine, &engines.role) {
            (Some(aside), ..) => Some(aside.engine.clone()),
            (None, Some(engine), Role::Filling(_)) => Some(engine.clone()),
            _ => None,
        };
        drop(engines);
        found.ok_or_else(|| self.unavailable())
    }

    #[cold]
    fn unavailable(&self) -> Error {
        let text = match &*self.health.lock() {
            Health::Offline(cause) => format!("the shard is offline: {cause}"),
            Health::Rebuilding => "the shard is being rebuilt".to_owned(),
            _ => "the shard is closed".to_owned(),
        };
        Error::new(ErrorKind::Unavailable, text).at(&self.dir).on(self.id)
    }

    /// Every write up to this one is in the shard, durably.
    pub fn applied(&self) -> Seq {
        Seq(self.applied.load(Ordering::Acquire))
    }

    /// The generation of the manifest of which the directory has a copy; 0: it has none, or was not looked at. [`UNREAD`]: nobody knows.
    pub fn copied(&self) -> u64 {
        self.copied.load(Ordering::Acquire)
    }

    pub fn health(&self) -> Health {
        self.health.lock().clone()
    }

    /// Why the shard went offline last.
    pub fn fault(&self) -> Option<Error> {
        self.fault.lock().clone()
    }

    /// Whether it answers reads.
    pub fn serves(&self) -> bool {
        let engines = self.engines.read();
        engines.engine.is_some() && matches!(engines.role, Role::Serving | Role::Stalled)
    }

    /// Whether flushes go to it.
    pub fn is_flushed(&self) -> bool {
        let engines = self.engines.read();
        engines.engine.is_some() && matches!(engines.role, Role::Serving | Role::Filling(_))
    }

    /// Whether it will hold everything that is flushed to its replicas: it is read, or will be.
    pub fn is_complete(&self) -> bool {
        let engines = self.engines.read();
        engines.engine.is_some() && engines.role == Role::Serving
    }

    /// Whether it has an engine, whatever for.
    pub fn is_open(&self) -> bool {
        self.engines.read().engine.is_some()
    }

    /// Whether an engine of it is being filled.
    pub fn is_filling(&self) -> bool {
        let engines = self.engines.read();
        engines.aside.is_some() || engines.engine.is_some() && matches!(engines.role, Role::Filling(_))
    }

    /// Whether it could not be written to at the last flush, and serves all the same.
    pub fn is_stalled(&self) -> bool {
        let engines = self.engines.read();
        engines.engine.is_some() && engines.role == Role::Stalled
    }

    /// Whether it is being brought up to date from the journal.
    pub fn is_catching_up(&self) -> bool {
        let engines = self.engines.read();
        engines.engine.is_some() && matches!(engines.role, Role::CatchingUp(_))
    }

    /// Sets the memory for caches of all its engines, and what it is never less than.
    pub fn set_cache(&self, bytes: u64, least: u64) {
        let engines = self.engines.read();
        let all = engines.engine.iter().chain(engines.aside.iter().map(|aside| &aside.engine));
        let all: Vec<_> = all.cloned().collect();
        drop(engines);
        let engines = all.len().max(1) as u64;
        all.iter().for_each(|engine| engine.set_cache(bytes / engines, least / engines));
    }

    /// Some bytes failed a check; the shard goes on serving the others. Returns whether that is news.
    pub fn degrade(&self, error: &Error) -> bool {
        self.met.fetch_add(1, Ordering::AcqRel);
        let mut health = self.health.lock();
        let news = *health == Health::Online;
        if news {
            log::error!("shard {} is degraded: {error}", self.id);
            *health = Health::Degraded(error.to_string());
        }
        news
    }

    /// How often that was: as long as it stays the same, nothing is known against what was verified before.
    pub fn damage_met(&self) -> u64 {
        self.met.load(Ordering::Acquire)
    }

    /// What failed a check has been made good.
    pub fn recovered(&self) -> bool {
        let mut health = self.health.lock();
        let news = matches!(*health, Health::Degraded(_));
        if news {
            log::info!("shard {} is whole again", self.id);
            *health = Health::Online;
        }
        news
    }

    /// Takes the shard offline: it can no longer be flushed to, or be trusted at all. Returns whether that is news. Its engine
    /// is closed later, by [`close_leaving`](Self::close_leaving): who calls this may be in it.
    pub fn fail(&self, error: &Error) -> bool {
        {
            let mut engines = self.engines.write();
            let engine = engines.engine.take();
            let aside = engines.aside.take().map(|aside| aside.engine);
            engines.leaving.extend(engine.into_iter().chain(aside));
            // Not waited for: who holds it may hang.
            engines.sessions = Arc::default();
            engines.failures += 1;
        }
        let mut health = self.health.lock();
        let news = !matches!(*health, Health::Offline(_));
        if news {
            log::error!("shard {} is offline: {error}", self.id);
            *health = Health::Offline(error.to_string());
            *self.fault.lock() = Some(error.clone());
            if error.kind() == ErrorKind::Corruption {
                self.suspect.store(true, Ordering::Release);
            }
        }
        news
    }

    /// Whether its pages are to be verified before it serves again.
    pub fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Acquire)
    }

    /// Its pages are to be verified before it serves again, whatever it failed with: damage is known to be left.
    pub fn suspect(&self) {
        self.suspect.store(true, Ordering::Release);
    }

    /// It failed as if it were damaged, and was not. Returns how often that was in a row.
    pub fn strike(&self) -> u32 {
        self.strikes.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// How often it failed so since it was last flushed to.
    pub fn strikes(&self) -> u32 {
        self.strikes.load(Ordering::Acquire)
    }

    /// It could not be read, and did not say that it is damaged. Returns how often since its pages were verified last.
    pub fn unreadable(&self) -> u32 {
        self.unreadable.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// It was flushed to.
    pub fn forgive(&self) {
        self.strikes.store(0, Ordering::Release);
    }

    /// Its pages have been verified.
    pub fn cleared(&self) {
        self.suspect.store(false, Ordering::Release);
        self.unreadable.store(0, Ordering::Release);
    }

    /// It can be written to again, and lacks nothing that has left the memtables.
    pub fn resume(&self) {
        let mut engines = self.engines.write();
        if engines.role == Role::Stalled {
            engines.role = Role::Serving;
        }
    }

    /// The shard could not be written to, for want of space or of the right, or since what is there already is damaged; it goes on answering reads as long as no
    /// memtable is forgotten that it lacks. Returns whether that is news.
    pub fn stall(&self, error: &Error) -> bool {
        let mut engines = self.engines.write();
        if engines.engine.is_none() || !matches!(engines.role, Role::Serving | Role::Stalled) {
            drop(engines);
            return self.fail(error);
        }
        engines.role = Role::Stalled;
        if let Some(aside) = engines.aside.take() {
            engines.leaving.push(aside.engine);
            self.untidy.store(true, Ordering::Release);
        }
        drop(engines);
        *self.fault.lock() = Some(error.clone());
        let mut health = self.health.lock();
        let news = !matches!(*health, Health::Degraded(_));
        if news {
            log::error!("shard {} cannot be written to: {error}", self.id);
        }
        *health = Health::Degraded(error.to_string());
        news
    }

    /// How often it has failed, for [`begin_filling`](Self::begin_filling).
    pub fn failures(&self) -> u64 {
        self.engines.read().failures
    }

    /// Whether something is to be [cleared up](Self::clear_up).
    pub fn is_untidy(&self) -> bool {
        self.untidy.load(Ordering::Acquire) || self.has_leaving()
    }

    /// Whether engines of it that have been taken out of use are yet to be closed.
    pub fn has_leaving(&self) -> bool {
        !self.engines.read().leaving.is_empty()
    }

    /// Releases the files and locks of engines that have been taken out of use. An error says that one is still held.
    pub fn close_leaving(&self) -> Result<()> {
        let leaving = std::mem::take(&mut self.engines.write().leaving);
        let mut outcome = Ok(());
        for engine in leaving {
            if let Err(error) = engine.close() {
                log::warn!("shard {} did not close in order: {error}", self.id);
                outcome = Err(error);
            }
        }
        outcome
    }

    /// Releases the engine's files and locks.
    pub fn close(&self) -> Result<()> {
        self.settle();
        let engine = {
            let mut engines = self.engines.write();
            let aside = engines.aside.take().map(|aside| aside.engine);
            engines.leaving.extend(aside);
            engines.engine.take()
        };
        let closed = engine.map_or(Ok(()), |engine| engine.close());
        // What was left behind after a failure has been reported already.
        let _ = self.close_leaving();
        closed
    }
}
