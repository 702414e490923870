//! Writing to a shard: every change of its engines lies between two seals.

use super::identity::Identity;
use super::seal::{Filled, Seal};
use super::{Role, Shard};
use crate::engine::Figures;
use crate::error::Result;
use crate::ids::Seq;
use crate::manifest::Manifest;
use crate::plants;
use crate::record::{KeyRange, RunRecord};
use crate::sync::Mutex;
use crate::sync::atomic::Ordering;
use std::sync::Arc;

/// A change of an engine that has been begun.
#[derive(Debug)]
pub struct Session(Arc<Mutex<u32>>);

impl Session {
    /// Ends without a seal: the one on the disk goes on saying that the engine is being changed, until the next one. On the shard's worker, since it
    /// waits for who seals, whose disk may hang.
    pub fn leave(&self) {
        let mut count = self.0.lock();
        *count = count.saturating_sub(1);
    }
}

impl Shard {
    /// Says in the seal that the engine is about to change. Several may be at it at once, a flush and a move of records: the
    /// seal says so until the last of them has called [`seal`](Self::seal).
    pub fn begin_apply(&self) -> Result<Session> {
        // A shard that is not open has a seal that says what lies there, and keeps it.
        self.written()?;
        let sessions = self.sessions();
        let mut count = sessions.lock();
        if *count == 0 {
            self.write_seal(self.applied(), true)?;
        }
        *count += 1;
        drop(count);
        Ok(Session(sessions))
    }

    /// The count of this engine's sessions: another engine has another count, so that nobody waits for what hangs in the one
    /// before.
    fn sessions(&self) -> Arc<Mutex<u32>> {
        self.engines.read().sessions.clone()
    }

    /// Applies a part of a run; [`begin_apply`](Self::begin_apply) came before, [`seal`](Self::seal) comes after.
    pub fn apply(&self, run: &[RunRecord<'_>], live: &[Seq]) -> Result<()> {
        self.written()?.apply(run, live)?;
        let aside = self.engines.read().aside.clone();
        if let Some(aside) = aside
            && let Err(error) = aside.engine.apply(run, live)
        {
            self.drop_aside(&error);
        }
        Ok(())
    }

    /// Applies records that it lacks to the engine that is being filled.
    pub fn fill(&self, run: &[RunRecord<'_>], live: &[Seq]) -> Result<()> {
        self.filling()?.apply(run, live)
    }

    /// Makes durable what the engine beside the one that serves has been given, so that little of it is left for the end.
    pub fn sync_aside(&self) -> Result<()> {
        let engine = self.filling()?;
        engine.sync(engine.applied())
    }

    /// Removes a range of keys from its beginning on, about so many bytes of records, durably; returns where to go on.
    pub fn remove_range(&self, range: &KeyRange, bytes: u64) -> Result<Option<Vec<u8>>> {
        let engine = self.written()?;
        let session = self.begin_apply()?;
        let end = engine.remove_range(range, bytes).inspect_err(|_| session.leave())?;
        let aside = self.engines.read().aside.clone();
        if let Some(aside) = aside {
            let gone = KeyRange { lo: range.lo.clone(), hi: end.clone().or_else(|| range.hi.clone()) };
            if let Err(error) = aside.engine.remove_range(&gone, u64::MAX) {
                self.drop_aside(&error);
            }
        }
        self.seal(self.applied()).inspect_err(|_| session.leave())?;
        Ok(end)
    }

    /// Makes everything applied durable and says so in the seal: the shard is complete up to `applied` at least.
    pub fn seal(&self, applied: Seq) -> Result<()> {
        let sessions = self.sessions();
        let mut count = sessions.lock();
        let applied = applied.max(self.applied());
        let failures = self.failures();
        if plants::is("seal-before-sync") {
            self.write_seal(applied, false)?;
        }
        self.written()?.sync(applied)?;
        // The shard may have been given up meanwhile, and its directory be another engine's.
        if self.failures() != failures {
            return Err(self.unavailable());
        }
        let others = count.saturating_sub(1);
        self.write_seal(applied, others > 0)?;
        *count = others;
        self.applied.store(applied.0, Ordering::Release);
        Ok(())
    }

    pub(super) fn write_seal(&self, applied: Seq, applying: bool) -> Result<()> {
        let engines = self.engines.read();
        let (engine, generation) = (engines.engine.clone(), engines.generation);
        let filled = match &engines.role {
            Role::Filling(position) | Role::CatchingUp(Some(position)) => Some(position.clone()),
            _ => None,
        };
        drop(engines);
        let figures = engine.and_then(|engine| engine.figures());
        self.replace_seal(applied, applying, figures, generation, filled)
    }

    pub(super) fn replace_seal(
        &self,
        applied: Seq,
        applying: bool,
        figures: Option<Figures>,
        generation: u32,
        filled: Option<Vec<u8>>,
    ) -> Result<()> {
        self.check_ours()?;
        let (figures, filled) = (figures.map(Into::into), filled.map(Filled));
        let vague = applying || figures.is_none();
        let seal = Seal { store: self.store, shard: self.id, applied, applying, figures, generation, filled };
        // Until it is known to have been replaced it may be either.
        self.vague.store(true, Ordering::Release);
        seal.store(self.disk.as_ref(), &self.dir)?;
        self.vague.store(vague, Ordering::Release);
        Ok(())
    }

    /// Says in the seal what a shard that serves holds, where the one on the disk says less: after a crash it says that the
    /// engine is being changed, up to the next flush. The next opening would count anew what is there, and take for right
    /// what has been lost since. Nobody changes the engine any more: what was begun and not ended ends here.
    pub(super) fn settle(&self) {
        let counted = || self.written().is_ok_and(|engine| engine.figures().is_some());
        if !self.vague.load(Ordering::Acquire) || !self.is_complete() || !counted() {
            return;
        }
        *self.sessions().lock() = 0;
        if let Err(error) = self.seal(self.applied()) {
            log::warn!("shard {} is counted again at its next opening: {error}", self.id);
        }
    }

    /// Writes the identity file anew, with the manifest as it is now. Errors where the directory has become another's.
    pub fn write_identity(&self, manifest: &Manifest) -> Result<()> {
        self.check_ours()?;
        let identity = Identity { store: self.store, shard: self.id, manifest: Some(manifest.clone()) };
        identity.store(self.disk.as_ref(), &self.dir)?;
        self.copied.store(manifest.generation, Ordering::Release);
        Ok(())
    }
}
