//! What is done to a shard beside its flushes: copies, comparisons, repairs, seals.
//!
//! Invariant: whoever holds a lock, and above all the turn to flush or to move records, waits for a shard's disk no longer than
//! `shard_timeout`. A shard that has not answered by then is offline, and the others go on.

use super::State;
use crate::error::Result;
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

    /// How many shards may be at it at once: more than one only where nobody else wants the processors.
    pub fn abreast(&self) -> usize {
        match self.change.foreground.is_alone() {
            true => crate::sync::thread::available_parallelism().map_or(1, usize::from).min(MOST),
            false => 1,
        }
    }
}
