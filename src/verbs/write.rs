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
use std::sync::Arc;

/// Commits encoded operations as one, and returns their version. No operations: nothing is written, and the newest
/// version is returned. `drops`: [`State::drops`] from before it was seen that their keyspaces are there.
///
/// # Errors
/// `Unavailable` where `write_timeout` is set and the disk has not answered: it may come about.
pub fn commit(state: &Arc<State>, ops: &[u8], drops: u64, durability: Durability) -> Result<Seq> {
    if state.settings.write_timeout.is_none() {
        return commit_here(state, ops, drops, durability);
    }
    let ops = ops.to_vec();
    state.limited("write", move |state| commit_here(state, &ops, drops, durability))
}

fn commit_here(state: &State, ops: &[u8], drops: u64, durability: Durability) -> Result<Seq> {
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
    if state.seams.background.schedules() {
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
    // As after any sync, see `State::sync_to`; and what waits in memory is to be written. What was handed over has brought its markers.
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
    state.sync_to(last)
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
    use crate::state::{Background, Seams};
    use std::path::Path;

    /// Whoever waited for room, or for the appender, while the keyspace was being dropped comes too late: the drop has said up to which write
    /// it was there.
    #[test]
    fn nothing_is_committed_to_a_keyspace_that_was_dropped_since_it_was_looked_for() {
        let factory = Arc::new(MemoryFactory::new());
        let seams = Seams { disk: Arc::new(SimDisk::new(1)), factory, background: Background::Off };
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

    /// A sync says nothing of itself in the journal, and nobody ticks who was not asked to: without word of it damage after a power cut looks
    /// like a write that was never synced.
    #[test]
    fn whoever_syncs_asks_for_the_tick_that_leaves_word_of_it() {
        let (disk, factory) = (Arc::new(SimDisk::new(1)), Arc::new(MemoryFactory::new()));
        let seams = Seams { disk: disk.clone(), factory, background: Background::Off };
        let options = Options::new().shards(1).memory_budget(8 << 20);
        let store = crate::testing::open(Path::new("/store"), &options, seams).unwrap();
        let repository = crate::testing::repository(disk, Path::new("/repository")).unwrap();
        let state = store.handle.state.clone();
        type Work<'a> = (&'a str, &'a dyn Fn());
        let works: [Work<'_>; 6] = [
            ("a sync", &|| store.sync().unwrap()),
            ("a commit of nothing", &|| commit(&state, &[], 0, Durability::Sync).map(drop).unwrap()),
            ("a checkpoint", &|| store.checkpoint(&repository).map(drop).unwrap()),
            ("an export", &|| store.export(Vec::new()).map(drop).unwrap()),
            ("an archive", &|| store.archive(&repository).map(drop).unwrap()),
            ("a flush", &|| store.flush().unwrap()),
        ];
        for (what, work) in works {
            store.insert_with("key", what, Durability::Process).unwrap();
            // Whatever was wished for before is taken.
            state.signals.want_tick();
            assert!(state.signals.next_tick());
            work();
            assert_eq!(state.journal.durable(), state.memory.last(), "{what}");
            let (ticks, ticked) = std::sync::mpsc::channel();
            let of = state.clone();
            std::thread::spawn(move || ticks.send(of.signals.next_tick()));
            let limit = std::time::Duration::from_secs(10);
            assert_eq!(ticked.recv_timeout(limit), Ok(true), "{what} asks for no tick");
        }
    }
}
