//! How a shard's engine is opened, put in another's place, and found to be whole.
//!
//! Invariants: an engine that has been begun anew counts, and is known to be incomplete, from the first write to it on: its
//! seal says how far it has been filled; it serves only after a seal that says that it is whole.

use super::dirs::engine_spec;
use super::identity::Identity;
use super::seal::{self, Seal};
use super::{Aside, Engines, Health, Role, Shard, ShardSpec, UNREAD};
use crate::disk::Disk;
use crate::engine::{Engine, EngineFactory, Figures, Guarded};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Seq;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, RwLock};
use std::sync::Arc;

/// An engine that has been opened, and is not in use yet.
#[derive(Debug)]
pub struct Opened {
    engine: Arc<dyn Engine>,
    pub applied: Seq,
    generation: u32,
    filled: Option<Vec<u8>>,
    vague: bool,
}

impl Opened {
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }
}

impl Shard {
    /// Opens a shard that exists. One that cannot be trusted comes back offline, with the cause.
    pub fn open(disk: &Arc<dyn Disk>, factory: &dyn EngineFactory, spec: &ShardSpec) -> Shard {
        let shard = Shard::closed(disk, spec);
        match shard.try_open(factory, spec) {
            Ok(opened) => {
                shard.take(opened);
                shard.caught_up();
            }
            Err(error) => {
                shard.fail(&error);
            }
        }
        shard
    }

    /// A shard that has not been opened.
    pub fn closed(disk: &Arc<dyn Disk>, spec: &ShardSpec) -> Shard {
        let engines = Engines {
            engine: None,
            role: Role::Serving,
            generation: 0,
            sessions: Arc::default(),
            aside: None,
            leaving: Vec::new(),
            failures: 0,
        };
        Shard {
            id: spec.id,
            dir: spec.dir.clone(),
            store: spec.store,
            disk: disk.clone(),
            applied: AtomicU64::new(0),
            engines: RwLock::new(engines),
            health: Mutex::new(Health::Online),
            fault: Mutex::new(None),
            suspect: AtomicBool::new(false),
            strikes: AtomicU32::new(0),
            met: AtomicU64::new(0),
            unreadable: AtomicU32::new(0),
            untidy: AtomicBool::new(false),
            vague: AtomicBool::new(false),
            copied: AtomicU64::new(0),
            seen: Mutex::default(),
        }
    }

    /// Opens the engine that the seal names, and changes nothing but what is left of others.
    pub fn try_open(&self, factory: &dyn EngineFactory, spec: &ShardSpec) -> Result<Opened> {
        let (disk, dir) = (self.disk.as_ref(), self.dir.as_path());
        if !disk.exists(dir).map_err(|e| Error::io("look for the shard's directory", dir, e))? {
            return Err(self.missing("does not exist"));
        }
        match Identity::load(disk, dir) {
            Ok(Some(identity)) => {
                identity.expect(dir, self.store, self.id)?;
                let copied = identity.manifest.map_or(0, |manifest| manifest.generation);
                self.copied.store(copied, Ordering::Release);
            }
            // Only what is not there, or is damaged, holds nothing that could be lost.
            Err(error) if error.kind() != ErrorKind::Corruption => {
                self.copied.store(UNREAD, Ordering::Release);
                if error.kind() == ErrorKind::Unsupported || !self.is_sealed_here() {
                    return Err(error);
                }
                log::warn!("shard {}: its identity file is left as it is: {error}", self.id);
            }
            found => {
                if !self.is_sealed_here() {
                    found?;
                    return Err(self.missing("has no identity file"));
                }
                log::warn!("shard {}: its identity file is lost or damaged, and is written anew", self.id);
                Identity { store: self.store, shard: self.id, manifest: None }.store(disk, dir)?;
                self.copied.store(0, Ordering::Release);
            }
        }
        let seal = Seal::load(disk, dir)?.ok_or_else(|| {
            Error::corruption("the shard's seal is gone").at(dir.join(seal::FILE)).on(self.id)
        })?;
        if (seal.store, seal.shard) != (self.store, self.id) {
            return Err(Error::corruption("the seal is another shard's")
                .at(dir.join(seal::FILE))
                .on(self.id));
        }
        let resume = if seal.applying { None } else { seal.figures.map(Figures::from) };
        let engine =
            Guarded::open(self.id, || factory.open(&engine_spec(spec, seal.generation, false, resume)))?;
        if engine.applied() < seal.applied && !crate::plants::is("lost-tail-believed") {
            let text = format!(
                "the shard has lost its tail: it holds writes up to {}, its seal says {}",
                engine.applied(),
                seal.applied
            );
            // The engine is of no use; whether it can be closed in order does not matter.
            let _ = engine.close();
            return Err(Error::corruption(text).at(dir).on(self.id).remedy("rebuild it from its replicas"));
        }
        // Only now: where the one that counts does not open, another may be all that there is.
        let tidied = self.others(seal.generation).and_then(|others| match others.is_empty() {
            true => Ok(()),
            // That the seal names this one may not be durable yet, after a failure in the middle of its replacement.
            false => seal.store(disk, dir).and_then(|()| self.tidy(seal.generation)),
        });
        if let Err(error) = tidied {
            log::warn!("shard {}: what other engines have left is removed later: {error}", self.id);
            self.untidy.store(true, Ordering::Release);
        }
        // The seal's word counts: the engine may have synced a later sequence and died before the seal.
        Ok(Opened {
            engine,
            applied: seal.applied,
            generation: seal.generation,
            filled: seal.filled.map(|f| f.0),
            vague: resume.is_none(),
        })
    }

    /// Takes an engine into use, to be brought up to date first.
    pub fn take(&self, opened: Opened) {
        self.applied.store(opened.applied.0, Ordering::Release);
        self.vague.store(opened.vague, Ordering::Release);
        let mut engines = self.engines.write();
        engines.sessions = Arc::default();
        // Two engines over the same files there cannot be: the one before has been closed.
        engines.engine = Some(opened.engine);
        engines.generation = opened.generation;
        engines.role = Role::CatchingUp(opened.filled);
        drop(engines);
        *self.health.lock() = Health::Rebuilding;
    }

    /// The engine holds all that was flushed: it serves, or goes on being filled. The caller has the turn to flush.
    pub fn caught_up(&self) {
        let mut engines = self.engines.write();
        if let Role::CatchingUp(filled) = &engines.role {
            (engines.role, *self.health.lock()) = match filled.clone() {
                Some(position) => (Role::Filling(position), Health::Rebuilding),
                None => (Role::Serving, Health::Online),
            };
        }
    }

    /// Begins the shard anew, with an empty engine that is level with the others at `applied` and is to be filled from its
    /// replicas; what was there is set aside. `empty`: a directory without anything in it may be taken for this shard's.
    /// Nothing comes of it where the shard has failed since `failures` was asked for.
    pub fn begin_filling(
        &self,
        factory: &dyn EngineFactory,
        spec: &ShardSpec,
        applied: Seq,
        empty: bool,
        failures: u64,
    ) -> Result<()> {
        let late =
            || Error::new(ErrorKind::Unavailable, "the shard failed while it was begun anew").on(self.id);
        if self.failures() != failures {
            return Err(late());
        }
        self.claim(empty)?;
        // What there is stays as it is where nothing could take its place.
        self.probe()?;
        let sealed = Seal::load(self.disk.as_ref(), &self.dir).ok().flatten();
        let (before, whole) = match &sealed {
            Some(seal) => (seal.generation, seal.filled.is_none()),
            // Nothing says which one counted: the newest.
            None => (self.newest_engine(), true),
        };
        let generation = self.next_generation();
        {
            let mut engines = self.engines.write();
            let engine = engines.engine.take();
            let aside = engines.aside.take().map(|aside| aside.engine);
            engines.leaving.extend(engine.into_iter().chain(aside));
        }
        self.close_leaving()?;
        self.quarantine(before, whole)?;
        let engine = Guarded::open(self.id, || factory.open(&engine_spec(spec, generation, true, None)))?;
        engine.sync(applied)?;
        let mut engines = self.engines.write();
        if engines.failures != failures {
            // The others have gone on without it.
            engines.leaving.push(engine);
            return Err(late());
        }
        engines.sessions = Arc::default();
        engines.engine = Some(engine);
        engines.generation = generation;
        engines.role = Role::Filling(Vec::new());
        drop(engines);
        self.applied.store(applied.0, Ordering::Release);
        self.cleared();
        self.forgive();
        if let Err(error) = self.write_seal(applied, false) {
            self.fail(&error);
            return Err(error);
        }
        *self.health.lock() = Health::Rebuilding;
        Ok(())
    }

    /// Begins an engine beside the one that serves, which will take its place.
    pub fn begin_aside(&self, factory: &dyn EngineFactory, spec: &ShardSpec) -> Result<()> {
        let failures = self.failures();
        let generation = self.next_generation();
        let engine = Guarded::open(self.id, || factory.open(&engine_spec(spec, generation, true, None)))?;
        engine.sync(self.applied())?;
        let mut engines = self.engines.write();
        if engines.failures != failures {
            engines.leaving.push(engine);
            drop(engines);
            return Err(self.unavailable());
        }
        engines.aside = Some(Aside { engine, generation });
        Ok(())
    }

    /// Gives up the engine beside the one that serves.
    pub fn drop_aside(&self, why: &Error) {
        let Some(aside) = self.engines.write().aside.take() else { return };
        log::warn!("shard {}: its new engine is given up: {why}", self.id);
        self.untidy.store(true, Ordering::Release);
        self.engines.write().leaving.push(aside.engine);
    }

    /// Takes the engine of a shard that serves out of use, to be [closed](Self::close_leaving) and opened again at once.
    pub fn shut(&self) {
        let mut engines = self.engines.write();
        let engine = engines.engine.take();
        engines.leaving.extend(engine);
        engines.sessions = Arc::default();
        drop(engines);
        *self.health.lock() = Health::Rebuilding;
    }

    /// How far it has been filled, durably.
    pub fn filled_to(&self) -> Vec<u8> {
        self.engines.read().role.filled().cloned().unwrap_or_default()
    }

    /// Notes how far the shard has been filled; the next seal says so.
    pub fn set_filled(&self, position: &[u8]) {
        if let Role::Filling(filled) = &mut self.engines.write().role {
            *filled = position.to_vec();
        }
    }

    /// The engine that was being filled is whole, and serves from here on. The caller has the turn to flush, and nothing is
    /// being applied.
    pub fn end_filling(&self) -> Result<()> {
        let (aside, failures, fills) = {
            let engines = self.engines.read();
            (engines.aside.clone(), engines.failures, matches!(engines.role, Role::Filling(_)))
        };
        match aside {
            // It was given up since its last chunk, by a flush.
            None if !fills => {
                let text = "what was to be put in the place of the shard's engine has been given up";
                return Err(Error::new(ErrorKind::Unavailable, text).on(self.id));
            }
            None => {
                let before = {
                    let mut engines = self.engines.write();
                    std::mem::replace(&mut engines.role, Role::Serving)
                };
                // A session of its own, since a flush or a move may have one, and goes on.
                let sealed = self
                    .begin_apply()
                    .and_then(|session| self.seal(self.applied()).inspect_err(|_| session.leave()));
                if let Err(error) = sealed {
                    self.engines.write().role = before;
                    return Err(error);
                }
                let engines = self.engines.read();
                if engines.failures != failures {
                    drop(engines);
                    return Err(self.unavailable());
                }
                *self.health.lock() = Health::Online;
            }
            Some(aside) => {
                aside.engine.sync(self.applied())?;
                let figures = aside.engine.figures();
                self.replace_seal(self.applied(), false, figures, aside.generation, None)?;
                let mut engines = self.engines.write();
                // The others have gone on without it; it may have missed a flush meanwhile.
                let current = engines.aside.as_ref().map(|now| now.generation);
                if engines.failures != failures || current != Some(aside.generation) {
                    drop(engines);
                    return Err(self.unavailable());
                }
                let before = engines.engine.replace(aside.engine);
                engines.leaving.extend(before);
                (engines.aside, engines.generation) = (None, aside.generation);
                engines.sessions = Arc::default();
                drop(engines);
                self.untidy.store(true, Ordering::Release);
            }
        }
        Ok(())
    }

    /// Closes engines that have left and deletes what they leave behind.
    pub fn clear_up(&self) -> Result<()> {
        self.close_leaving()?;
        if !self.untidy.load(Ordering::Acquire) {
            return Ok(());
        }
        self.check_ours()?;
        let engines = self.engines.read();
        let (counts, busy) = (engines.generation, engines.aside.is_some() || engines.engine.is_none());
        drop(engines);
        if !busy {
            // Which one the seal names may be open, after a failure in the middle of its replacement.
            let session = self.begin_apply()?;
            self.seal(self.applied()).inspect_err(|_| session.leave())?;
            self.tidy(counts)?;
            self.untidy.store(false, Ordering::Release);
        }
        Ok(())
    }
}
