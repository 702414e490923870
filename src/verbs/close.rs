//! Closing a store.
//!
//! Invariant: when it returns, with or without an error, files and locks are released and nothing acknowledged is lost:
//! what could not be flushed is in the journal.

use crate::error::Result;
use crate::state::State;

/// Flushes (if `flush`) and releases everything; the background threads have ended. The first error is returned.
pub fn close(state: &State, flush_all: impl FnOnce(&State) -> Result<()>) -> Result<()> {
    let mut outcome = flush_all(state);
    let mut note = |result: Result<()>| {
        if outcome.is_ok() {
            outcome = result;
        }
    };
    note(state.journal.close());
    for shard in &state.layout().shards {
        note(shard.close());
    }
    // Shards that have left, and were still to be waited for.
    for shard in state.change.mover.lock().grace.drain(..).flat_map(|grace| grace.leaving) {
        note(shard.close());
    }
    state.release_lock();
    outcome
}
