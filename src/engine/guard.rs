//! The seam's own guard: a panic in an engine, whichever it is, ends here and becomes an error.
//!
//! Invariant: an engine that panicked while it was changed is not changed again before it has been opened anew, since
//! nobody knows what it had got to.

use super::{Block, Cursor, Damage, Engine, Figures, PowerLoss, Recounted, Walk};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Seq, ShardId};
use crate::record::{Found, KeyRange, RunBuffer, RunRecord};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

/// An engine whose panics are errors.
#[derive(Debug)]
pub struct Guarded {
    engine: Arc<dyn Engine>,
    shard: ShardId,
    broken: OnceLock<Error>,
}

impl Guarded {
    /// Calls `open`, and guards the engine that it opens.
    pub fn open(shard: ShardId, open: impl FnOnce() -> Result<Arc<dyn Engine>>) -> Result<Arc<dyn Engine>> {
        let engine = guard(shard, open)?;
        Ok(Arc::new(Guarded { engine, shard, broken: OnceLock::new() }))
    }

    fn change<T>(&self, f: impl FnOnce(&dyn Engine) -> Result<T>) -> Result<T> {
        if let Some(error) = self.broken.get() {
            return Err(error.clone());
        }
        match catch_unwind(AssertUnwindSafe(|| f(self.engine.as_ref()))) {
            Ok(result) => result,
            Err(panic) => {
                // Of another kind than damage: that is put right in place, and this only by opening the engine anew.
                let error = Error::new(ErrorKind::Io, "the shard's engine stopped in the middle of a change")
                    .on(self.shard)
                    .caused_by(panicked(self.shard, &*panic));
                Err(self.broken.get_or_init(|| error).clone())
            }
        }
    }
}

#[inline]
fn guard<T>(shard: ShardId, f: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| Err(panicked(shard, &*panic)))
}

#[cold]
fn panicked(shard: ShardId, panic: &(dyn std::any::Any + Send)) -> Error {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no text");
    Error::corruption(format!("the shard's engine panicked: {text}"))
        .on(shard)
        .remedy("repair the shard from its replicas or a checkpoint")
}

impl Engine for Guarded {
    fn get(&self, key: &[u8], at: Seq) -> Result<Option<Found>> {
        guard(self.shard, || self.engine.get(key, at))
    }

    fn cursor(&self, walk: &Arc<Walk>) -> Result<Box<dyn Cursor>> {
        let cursor = guard(self.shard, || self.engine.cursor(walk))?;
        Ok(Box::new(GuardedCursor { cursor, shard: self.shard }))
    }

    fn versions(
        &self,
        from: &[u8],
        bytes: usize,
        wanted: &mut dyn FnMut(&[u8]) -> bool,
        out: &mut RunBuffer,
    ) -> Result<Option<Vec<u8>>> {
        guard(self.shard, || self.engine.versions(from, bytes, wanted, out))
    }

    fn apply(&self, run: &[RunRecord<'_>], live: &[Seq]) -> Result<()> {
        self.change(|engine| engine.apply(run, live))
    }

    fn remove_range(&self, range: &KeyRange, bytes: u64) -> Result<Option<Vec<u8>>> {
        self.change(|engine| engine.remove_range(range, bytes))
    }

    fn verify(&self, from: &[u8], bytes: usize, bad: &mut Vec<Damage>) -> Result<Option<Vec<u8>>> {
        guard(self.shard, || self.engine.verify(from, bytes, bad))
    }

    fn damaged(&self, key: &[u8]) -> Result<Option<KeyRange>> {
        guard(self.shard, || self.engine.damaged(key))
    }

    fn replace_range(&self, range: &KeyRange, run: &[RunRecord<'_>]) -> Result<()> {
        self.change(|engine| engine.replace_range(range, run))
    }

    fn sync(&self, applied: Seq) -> Result<()> {
        self.change(|engine| engine.sync(applied))
    }

    fn applied(&self) -> Seq {
        self.engine.applied()
    }

    fn figures(&self) -> Option<Figures> {
        self.engine.figures()
    }

    fn recount(&self, pages: usize) -> Result<Recounted> {
        guard(self.shard, || self.engine.recount(pages))
    }

    fn set_cache(&self, bytes: u64, least: u64) {
        self.engine.set_cache(bytes, least);
    }

    fn live_bytes(&self) -> Result<u64> {
        guard(self.shard, || self.engine.live_bytes())
    }

    fn disk_bytes(&self) -> Result<u64> {
        guard(self.shard, || self.engine.disk_bytes())
    }

    fn power_loss(&self) -> PowerLoss {
        self.engine.power_loss()
    }

    fn close(&self) -> Result<()> {
        guard(self.shard, || self.engine.close())
    }
}

struct GuardedCursor {
    cursor: Box<dyn Cursor>,
    shard: ShardId,
}

impl Cursor for GuardedCursor {
    fn next_block(&mut self, block: &mut Block) -> Result<bool> {
        guard(self.shard, || self.cursor.next_block(block))
    }

    fn next_key(&self) -> Result<Option<Vec<u8>>> {
        guard(self.shard, || self.cursor.next_key())
    }
}
