//! Closing a store.
//!
//! Invariant: when it returns, with or without an error, files and locks are released and nothing acknowledged is lost:
//! what could not be flushed is in the journal. Only what a shard is in that hangs is released later, when it answers.

use crate::error::{Error, ErrorKind, Result};
use crate::shard::{Shard, Worker};
use crate::state::State;
use crate::sync::atomic::AtomicU64;
use std::sync::Arc;

/// How many times as long as for a step of a flush a shard may take to be closed.
const CLOSING: u32 = 10;

/// Flushes (if `flush`) and releases everything; the background threads have ended. The first error is returned.
pub fn close(state: &State, flush_all: impl FnOnce(&State) -> Result<()>) -> Result<()> {
    let mut outcome = flush_all(state);
    let mut note = |result: Result<()>| {
        if outcome.is_ok() {
            outcome = result;
        }
    };
    if state.scrub.current().is_some() {
        state.scrub.save(state.seams.disk.as_ref(), &state.dir);
    }
    note(state.journal.close());
    // Each on its worker, side by side: one whose disk hangs holds up neither the others nor the caller.
    let layout = state.layout();
    // Shards that have left, and were still to be waited for, as well.
    let left: Vec<_> = state.change.mover.lock().grace.drain(..).flat_map(|grace| grace.leaving).collect();
    let all =
        layout.shards.iter().zip(&layout.workers).chain(left.iter().map(|(shard, worker)| (shard, worker)));
    let close = |(shard, worker): (&Arc<Shard>, &Arc<Worker>)| {
        let (of, stuck) = (shard.clone(), worker.is_stuck());
        (worker.run(move || of.close()), stuck, shard.clone(), worker.clone())
    };
    let closing: Vec<_> = all.map(close).collect();
    for (ticket, stuck, shard, worker) in &closing {
        note(match stuck {
            // It is closed when what it is in has ended.
            true => Err(Error::new(ErrorKind::Unavailable, "the shard hangs, and is closed when it answers")
                .at(&shard.dir)
                .on(shard.id)
                .remedy("look at its disk and the kernel log")),
            false => worker.wait(ticket, state.settings.shard_timeout * CLOSING, &AtomicU64::new(0)),
        });
    }
    drop(closing);
    state.release_lock();
    outcome
}
