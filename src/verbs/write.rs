//! Committing: limits, journal, memtable, and the wait for the durability asked for.
//!
//! Invariant: a commit is acknowledged only when its bytes are where its durability says; it may be seen before.

use crate::batch;
use crate::error::Result;
use crate::frame::Payload;
use crate::ids::Seq;
use crate::options::Durability;
use crate::plants;
use crate::state::foreground::Operation;
use crate::state::{State, Tables};

/// Commits encoded operations as one, and returns their version. No operations: nothing is written, and the newest
/// version is returned.
pub fn commit(state: &State, ops: &[u8], durability: Durability) -> Result<Seq> {
    state.check_open()?;
    if ops.is_empty() {
        if durability == Durability::Sync {
            sync(state)?;
        }
        return Ok(state.memory.last());
    }
    let begun = state.change.foreground.begin();
    for op in batch::decode(ops) {
        state.check_writable(op?.key)?;
    }
    // Driven by hand nobody would make room while a writer waits.
    if state.seams.background {
        state.pace.admit(ops.len() as u64, || {
            let (active, frozen) = state.memory.bytes();
            active + frozen
        })?;
    }
    let payload = Payload::new(ops);

    let mut appender = state.journal.lock();
    let seq = appender.append(&payload)?;
    let crowded = appender.crowded();
    // Hand over hand: the next commit may be appended while this one enters the memtable, but not overtake it.
    let mut tables = state.memory.lock();
    drop(appender);
    if plants::is("sequence-seen-before-its-records") {
        tables.last = seq;
        drop(tables);
        tables = state.memory.lock();
    }
    enter(&mut tables, seq, ops).map_err(|error| state.journal.poison(error))?;
    tables.last = seq;
    let flush = state.memory.settle(&mut tables, ops.len());
    drop(tables);

    if flush {
        state.signals.want_flush();
    }
    match durability {
        Durability::Sync => state.journal.sync_to(seq)?,
        Durability::Process if crate::plants::is("acknowledged-before-the-system-has-it") => {}
        Durability::Process => state.journal.hand_to(seq)?,
        Durability::Memory if crowded => state.journal.hand_to(seq)?,
        Durability::Memory => {}
    }
    // After a sync the next tick leaves word of it in the journal, so that damage is told from a write that was never
    // synced.
    let word = durability != Durability::Process;
    if word || state.journal.wants_provision() || state.memory_moved() {
        state.signals.want_tick();
    }
    state.change.foreground.end(Operation::Write, begun);
    Ok(seq)
}

/// Makes every commit so far durable on the disk.
pub fn sync(state: &State) -> Result<()> {
    state.check_open()?;
    let last = state.memory.last();
    state.journal.sync_to(last)
}

/// Enters a commit into the memtable. An error here is one that the limits should have kept away: the commit is in the
/// journal and only partly visible, so nothing more may be acknowledged.
fn enter(tables: &mut Tables, seq: Seq, ops: &[u8]) -> Result<()> {
    for op in batch::decode(ops) {
        let op = op?;
        tables.insert(op.key, seq, op.value)?;
    }
    Ok(())
}
