//! Flushing: a frozen memtable's records go to every owner, and only then is the table forgotten and the journal
//! trimmed.
//!
//! Invariants:
//! - The journal is durable up to a table's newest record before any of them reaches a shard: no shard is ever ahead of
//!   what recovery can replay to its replicas.
//! - The table goes only when every virtual node has an owner that holds it durably and sealed, or no owner at all: then the
//!   journal holds it until one is back.

use crate::error::{Error, ErrorKind, Result};
use crate::ids::VirtualNode;
use crate::memtable::Table;
use crate::options::Heal;
use crate::plants;
use crate::shard::{Layout, Run, Shard, Turns, apply_to_all};
use crate::state::State;
use crate::state::events::EventKind;
use crate::state::transfer::{Purpose, Sources, verify_and_mend};

/// How often a flush is tried again after damage has been put right.
const ATTEMPTS: usize = 3;
use crate::sync::Instant;
use crate::sync::atomic::Ordering;
use std::sync::Arc;

/// Freezes the active memtable and flushes everything.
pub fn flush(state: &State) -> Result<()> {
    state.check_open()?;
    // A close that came in between is the reason then, whatever the shards it took away led to.
    flush_all(state).or_else(|error| state.check_open().and(Err(error)))
}

/// The same for a store that is being closed.
pub fn flush_all(state: &State) -> Result<()> {
    let _asked = state.pace.ask();
    // Where they fail what waits already goes first: whoever tries again and again would cut off a table each time, which takes memory, however
    // little is in it, and is searched by every read.
    if state.pace.cause().is_some() {
        flush_frozen(state)?;
    }
    state.memory.freeze();
    flush_frozen(state)
}

fn flush_frozen(state: &State) -> Result<()> {
    // As many as there are now: what is written meanwhile is not this flush's.
    for _ in 0..state.memory.frozen() {
        let mut flushed = flush_oldest(state);
        // Where every owner met a damaged page, each at another place, they put each other right.
        for _ in 0..ATTEMPTS {
            if flushed.is_ok() || state.settings.heal != Heal::Automatic || !mend(state) {
                break;
            }
            flushed = flush_oldest(state);
        }
        flushed?;
    }
    Ok(())
}

/// Replaces the damaged pages of shards that could not be flushed to for them; whether any can be flushed to again.
fn mend(state: &State) -> bool {
    let layout = state.layout();
    let damaged = |shard: &Shard| {
        shard.is_stalled() && shard.fault().is_some_and(|error| error.kind() == ErrorKind::Corruption)
    };
    let mut any = false;
    for index in (0..layout.shards.len()).filter(|index| damaged(&layout.shards[*index])) {
        let shard = &layout.shards[index];
        // Looking through all of it takes long, and is for nothing where nobody has what it lacks.
        if Sources::choose(&layout, Purpose::Mending(index), &[]).is_err() {
            continue;
        }
        let (mut from, mut repaired, mut left) = (Some(Vec::new()), 0, 0);
        while let Some(lo) = from.take().filter(|_| left == 0) {
            match verify_and_mend(state, &layout, index, &lo) {
                Ok(mended) => {
                    (from, repaired, left) = (mended.end, repaired + mended.repaired, left + mended.left);
                }
                // What is wrong with the shard as a whole is left to who heals it.
                Err(_) => left += 1,
            }
        }
        if repaired > 0 && left == 0 {
            // A flush that is under way goes without it, and counts it among those that lack the table.
            let _turn = state.flushing.lock();
            shard.resume();
            shard.recovered();
            state.events.tell(Some(shard.id), EventKind::Repaired { pages: repaired });
            state.health_changed();
            any = true;
        }
    }
    any
}

/// Flushes the oldest frozen memtable. Returns whether there was one.
pub fn flush_oldest(state: &State) -> Result<bool> {
    let _turn = state.flushing.lock();
    let Some(table) = state.memory.oldest_frozen() else { return Ok(false) };
    let started = Instant::now();
    state.sync_to(table.max_seq().unwrap_or_default()).inspect_err(|e| state.pace.stuck(e))?;
    if plants::is("journal-trimmed-ahead") {
        let _ = state.journal.trim(table.max_seq().unwrap_or_default().next());
    }
    // A chunk of records that is on its way between shards was chosen without regard to this table.
    if !plants::is("flush-overtakes-a-chunk") {
        drop(state.moving.lock());
    }
    let layout = state.layout();
    let live = if plants::is("flush-forgets-snapshots") { Vec::new() } else { state.memory.live() };
    let job = Run::new(table.clone(), layout.apart(), live, state.live_keyspaces());
    let early = plants::is("table-forgotten-before-the-shards-have-it");
    if early {
        state.memory.pop_frozen();
    }
    let progress = |shares: u64| state.pace.share(shares);
    let limit = state.settings.shard_timeout;
    let turns = Arc::new(Turns::here(state.pace.haste(), limit));
    let failed = apply_to_all(&Arc::new(job), &turns, limit, progress);
    for (index, error) in &failed {
        state.flush_failed(&layout.shards[*index], error);
    }
    if let Err(error) = check_forgettable(state, &layout, &table, &failed) {
        state.pace.stuck(&error);
        return Err(error);
    }
    layout.shards.iter().filter(|shard| shard.is_complete()).for_each(|shard| shard.forgive());
    drop(layout);
    state.records.retire(&table);
    if !plants::is("changed-keys-not-noted") {
        state.changed.note(&table);
    }
    if !early {
        state.memory.pop_frozen();
    }
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

/// Errors as long as the memtable at hand must be kept, for a shard that could not be written to and has it not. Where all
/// owners of a virtual node are gone the journal keeps it for them, up to its bound, so that the rest of the store goes on.
fn check_forgettable(state: &State, layout: &Layout, table: &Table, failed: &[(usize, Error)]) -> Result<()> {
    // One that came back meanwhile serves, and may lack it.
    let last = table.max_seq().unwrap_or_default();
    let holds = |shard: &Shard| shard.is_complete() && shard.applied() >= last;
    if layout.shards.iter().all(|shard| holds(shard)) {
        return Ok(());
    }
    let stuck = |node: VirtualNode| {
        let text = format!("no shard that holds virtual node {node} can be flushed to");
        let error = Error::new(ErrorKind::Unavailable, text)
            .remedy("bring one of its shards back; the journal holds what was not flushed");
        failed.iter().take(1).fold(error, |error, (_, cause)| error.caused_by(cause.clone()))
    };
    let mut lost = None;
    for node in (0..layout.ring.virtual_nodes()).map(VirtualNode) {
        let owners =
            || layout.ring.owner_indexes(node).iter().filter_map(|i| layout.shards.get(usize::from(*i)));
        if owners().any(|shard| holds(shard)) {
            continue;
        }
        // One that is full holds everything together with the memtables.
        if owners().any(|shard| shard.serves()) {
            return Err(stuck(node));
        }
        lost.get_or_insert(node);
    }
    // What would be kept for who lacks it if the table were forgotten; archives are not waited for before writes are refused.
    let lacked = layout.shards.iter().map(|shard| shard.applied()).min().unwrap_or_default().next();
    if let Some(node) = lost
        && state.journal.reach(last.next(), state.settings.journal_retention) > lacked
    {
        return Err(stuck(node));
    }
    // Their replicas have it all, and they do not: they are no longer to be read.
    let serves = |shard: &Shard| shard.serves() && !plants::is("failed-shard-goes-on-serving");
    for shard in layout.shards.iter().filter(|shard| serves(shard) && !holds(shard)) {
        let behind = Error::new(ErrorKind::Io, "the shard cannot be written to, and its replicas went on");
        let cause = shard.fault();
        state.shard_failed(shard, &cause.into_iter().fold(behind, |error, cause| error.caused_by(cause)));
    }
    Ok(())
}

/// Frees the part of the journal that nobody needs.
fn trim(state: &State) -> Result<()> {
    let Some(upto) = state.free_up_to() else { return Ok(()) };
    state.limited_journal("free a part of the journal", move |journal| journal.trim(upto.next()))?;
    // It may have synced more than the flush did.
    state.signals.want_tick();
    state.archives.log_begins(state.journal.first());
    Ok(())
}
