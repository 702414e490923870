//! Flushing: a frozen memtable's records go to every owner, and only then is the table forgotten and the journal
//! trimmed.
//!
//! Invariants:
//! - The journal is durable up to a table's newest record before any of them reaches a shard: no shard is ever ahead of
//!   what recovery can replay to its replicas.
//! - The table goes only when every virtual node has an owner that holds it durably and sealed.

use crate::error::{Error, ErrorKind, Result};
use crate::shard::{Run, Turns, apply_to_all};
use crate::state::State;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Freezes the active memtable and flushes everything.
pub fn flush(state: &State) -> Result<()> {
    state.check_open()?;
    // A close that came in between is the reason then, whatever the shards it took away led to.
    flush_all(state).or_else(|error| state.check_open().and(Err(error)))
}

/// The same for a store that is being closed.
pub fn flush_all(state: &State) -> Result<()> {
    let _asked = state.pace.ask();
    state.memory.freeze();
    // As many as there are now: what is written meanwhile is not this flush's.
    for _ in 0..state.memory.frozen() {
        flush_oldest(state)?;
    }
    Ok(())
}

/// Flushes the oldest frozen memtable. Returns whether there was one.
pub fn flush_oldest(state: &State) -> Result<bool> {
    let _turn = state.flushing.lock();
    let Some(table) = state.memory.oldest_frozen() else { return Ok(false) };
    let started = Instant::now();
    state.journal.sync_to(table.max_seq().unwrap_or_default()).inspect_err(|e| state.pace.stuck(e))?;
    // A chunk of records that is on its way between shards was chosen without regard to this table.
    drop(state.moving.lock());
    let layout = state.layout();
    let job = Run::new(table.clone(), layout.clone(), state.memory.live(), state.live_keyspaces());
    let progress = |shares: u64| state.pace.share(shares);
    let turns = Arc::new(Turns::here(state.pace.haste()));
    for (index, error) in apply_to_all(&Arc::new(job), &turns, progress) {
        state.shard_failed(&layout.shards[index], &error);
    }
    drop(layout);
    if let Some(node) = state.first_uncovered() {
        let text = format!("no shard that serves virtual node {node} is left to flush to");
        let error = Error::new(ErrorKind::Unavailable, text).remedy(
            "bring one of its shards back and reopen the store; the journal holds what was not flushed",
        );
        state.pace.stuck(&error);
        return Err(error);
    }
    state.records.retire(&table);
    state.changed.note(&table);
    state.memory.pop_frozen();
    state.share_memory();
    state.pace.flushed(table.bytes() as u64, started.elapsed());
    state.flushes.fetch_add(1, Ordering::Relaxed);
    state.log_slow("flushing a memtable", started);
    if let Err(error) = trim(state) {
        // The flush is done; what could not be freed is freed after the next one.
        log::warn!("the journal could not be trimmed: {error}");
    }
    Ok(true)
}

/// Frees the part of the journal that every shard has applied. Shards that are offline hold it back, up to a bound.
fn trim(state: &State) -> Result<()> {
    let layout = state.layout();
    let oldest = |all: bool| layout.shards.iter().filter(|s| all || s.serves()).map(|s| s.applied()).min();
    let within = state.journal.stats().bytes <= state.settings.journal_retention;
    match oldest(within) {
        // An archive that is behind holds it back as an offline shard does.
        Some(applied) if within => state.journal.trim(applied.min(state.archived()).next()).map(|_| ()),
        Some(applied) => state.journal.trim(applied.next()).map(|_| ()),
        None => Ok(()),
    }
}
