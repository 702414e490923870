//! What is done to a shard beside its flushes: copies, comparisons, repairs, seals.
//!
//! Invariant: whoever holds a lock, and above all the turn to flush or to move records, waits for a shard's disk no longer than
//! `shard_timeout`. A shard that has not answered by then is offline, and the others go on. Where the same is done to several, those that hang
//! together are waited for together, and one that is known to hang is not asked.

use super::State;
use crate::error::{Error, ErrorKind, Result};
use crate::shard::{Layout, Shard, Ticket, Worker};
use std::sync::Arc;

/// Shards that are at it at once, at the most.
const MOST: usize = 4;

/// Something that has been started on a shard.
#[derive(Debug)]
pub struct Asked<T> {
    shard: Arc<Shard>,
    worker: Arc<Worker>,
    ticket: Ticket<T>,
}

impl State {
    /// Does something to a shard on the second thread of its worker.
    pub fn beside<T: Send + 'static>(
        &self,
        layout: &Layout,
        index: usize,
        job: impl FnOnce(&Shard) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.answer(self.ask(layout, index, job))
    }

    /// Starts it, so that several shards may be at it at once.
    pub fn ask<T: Send + 'static>(
        &self,
        layout: &Layout,
        index: usize,
        job: impl FnOnce(&Shard) -> Result<T> + Send + 'static,
    ) -> Asked<T> {
        let (shard, worker) = (layout.shards[index].clone(), layout.workers[index].clone());
        let of = shard.clone();
        let ticket = worker.start_beside(move || job(&of));
        Asked { shard, worker, ticket }
    }

    /// Waits for what was started.
    pub fn answer<T>(&self, asked: Asked<T>) -> Result<T> {
        let answer = asked.worker.wait_beside(&asked.ticket, self.settings.shard_timeout);
        // One that is only to get another engine is given up as well: that lies on the same disk.
        answer.inspect_err(|silence| self.shard_failed(&asked.shard, silence))?
    }

    /// Does the same to several shards at once, and waits for all of them; with what came of it.
    pub fn beside_all<T: Send + 'static>(
        &self,
        layout: &Layout,
        indexes: &[usize],
        job: impl Fn(&Shard) -> Result<T> + Clone + Send + 'static,
    ) -> Vec<(usize, Result<T>)> {
        let ask = |index: &usize| {
            (*index, self.answers(layout, *index).map(|()| self.ask(layout, *index, job.clone())))
        };
        let asked: Vec<_> = indexes.iter().map(ask).collect();
        let answer =
            |(index, asked): (usize, Result<Asked<T>>)| (index, asked.and_then(|asked| self.answer(asked)));
        asked.into_iter().map(answer).collect()
    }

    /// Errors if a shard is offline, or still at what it was given up for: that would be waited for once more.
    pub fn answers(&self, layout: &Layout, index: usize) -> Result<()> {
        let shard = &layout.shards[index];
        shard.whatever_for()?;
        if layout.workers[index].is_stuck() {
            let error =
                Error::new(ErrorKind::Unavailable, "the shard has not answered what it was asked before");
            return Err(error.on(shard.id).remedy("look at its disk and the kernel log"));
        }
        Ok(())
    }

    /// How many shards may be at it at once: more than one only where nobody else wants the processors.
    pub fn abreast(&self) -> usize {
        match self.change.foreground.is_alone() {
            true => crate::sync::thread::available_parallelism().map_or(1, usize::from).min(MOST),
            false => 1,
        }
    }
}
