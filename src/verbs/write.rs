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
/// version is returned. `drops`: [`State::drops`] from before it was seen that their keyspaces are there.
pub fn commit(state: &State, ops: &[u8], drops: u64, durability: Durability) -> Result<Seq> {
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
        state.pace.admit(ops.len() as u64, state.memory.unflushed(), || {
            let (active, frozen) = state.memory.bytes();
            active + frozen
        })?;
    }
    let payload = Payload::new(ops);

    let mut appender = state.journal.lock();
    // No drop comes in between from here on: the log had come to where a drop says, and nothing behind that is of what it dropped.
    if state.drops() != drops {
        for op in batch::decode(ops) {
            state.check_keyspace(batch::keyspace_of(op?.key))?;
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimDisk;
    use crate::engine::MemoryFactory;
    use crate::error::ErrorKind;
    use crate::options::Options;
    use crate::state::Seams;
    use std::path::Path;
    use std::sync::Arc;

    /// Whoever waited for room, or for the appender, while the keyspace was being dropped comes too late: the drop has said up to which write
    /// it was there.
    #[test]
    fn nothing_is_committed_to_a_keyspace_that_was_dropped_since_it_was_looked_for() {
        let factory = Arc::new(MemoryFactory::new());
        let seams = Seams { disk: Arc::new(SimDisk::new(1)), factory, background: false };
        let options = Options::new().shards(1).memory_budget(8 << 20);
        let store = crate::testing::open(Path::new("/store"), &options, seams).unwrap();
        let state = &store.handle.state;
        let notes = store.keyspace("notes").unwrap();
        let (others, mut ops) = (store.keyspace("others").unwrap(), Vec::new());
        batch::encode(&mut ops, notes.id(), b"key", Some(b"value")).unwrap();
        let drops = state.drops();
        commit(state, &ops, drops, Durability::Process).unwrap();
        store.drop_keyspace("others").unwrap();
        let last = commit(state, &ops, drops, Durability::Process).unwrap();
        store.drop_keyspace("notes").unwrap();
        let error = commit(state, &ops, drops, Durability::Process).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        let dropped: Vec<_> =
            state.archives.dropped_since(Seq::ZERO).iter().map(|gone| (gone.id, gone.at)).collect();
        assert_eq!(dropped, [(others.id(), Seq(1)), (notes.id(), last)]);
        store.insert("another", "keyspace").unwrap();
    }
}
