//! Closing a store.
//!
//! Invariant: when it returns, with or without an error, files and locks are released and nothing acknowledged is lost:
//! what could not be flushed is in the journal. Only what a shard is in that hangs is released later, when it answers, and the store's lock where
//! the store's own disk hangs, the journal's or that of a copy of it: then whoever still writes there has it, and nobody begins to any more.

use crate::error::{Error, ErrorKind, Result};
use crate::journal::Journal;
use crate::shard::{Shard, Worker};
use crate::state::{State, limited};
use crate::sync::Instant;
use crate::sync::atomic::AtomicU64;
use crate::sync::mpsc::channel;
use crate::sync::thread::JoinHandle;
use std::sync::Arc;
use std::time::Duration;

/// How soon a disk that has not answered is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Waits for the background threads, but no longer than for a shard: one may be in a call of the system's. And as long for what was given up before: the
/// disk may have been slow for a moment.
pub fn join(state: &State, threads: Vec<JoinHandle<()>>) -> Result<()> {
    let begun = Instant::now();
    while state.writers.is_silent() && begun.elapsed() < state.settings.shard_timeout * limited::CLOSING {
        crate::sync::thread::sleep(LOOK_AGAIN);
    }
    if threads.is_empty() {
        return Ok(());
    }
    let join = move || {
        // One that panicked has said so; there is nothing left to wait for.
        threads.into_iter().for_each(|thread| drop(thread.join()));
        Ok(())
    };
    state.limited_here("end a thread of the store's", join)
}

/// Flushes (if `flush`) and releases everything; the background threads have ended, but for one that mends a copy of the journal, or hangs. The first error is
/// returned.
pub fn close(state: &Arc<State>, flush_all: impl FnOnce(&State) -> Result<()>) -> Result<()> {
    let mut outcome = flush_all(state);
    // Nobody makes room any more for who waits for it.
    state.pace.stuck(
        &state
            .check_open()
            .err()
            .unwrap_or_else(|| Error::new(ErrorKind::Closed, "the store is being closed")),
    );
    let mut note = |result: Result<()>| {
        if outcome.is_ok() {
            outcome = result;
        }
    };
    note(state.limited("note how far the scrub is", |state| {
        state.scrub.save_last(state.seams.disk.as_ref(), &state.dir);
        Ok(())
    }));
    note(state.limited_journal("close the journal", Journal::close));
    // Whoever is at the small files has ended then, and nobody begins any more: what he made would be written over that of the next opening.
    note(state.limited("write the store's own files", |state| {
        drop(state.change.mover.lock());
        drop(state.manifest.lock());
        state.archives.close();
        Ok(())
    }));
    let silent = state.writers.is_silent();
    if silent {
        state.journal.abandon();
        leave(state);
    }
    // Each on its worker, side by side: one whose disk hangs holds up neither the others nor the caller.
    // A change that is being begun has ended before, or does not begin any more: what it makes would be left open.
    let mut mover = if silent { state.change.mover.try_lock() } else { Some(state.change.mover.lock()) };
    let _manifest = (!silent).then(|| state.manifest.lock());
    let layout = state.layout();
    // Shards that have left, and were still to be waited for, as well.
    let left: Vec<_> =
        mover.iter_mut().flat_map(|mover| mover.grace.drain(..)).flat_map(|grace| grace.leaving).collect();
    let all =
        layout.shards.iter().zip(&layout.workers).chain(left.iter().map(|(shard, worker)| (shard, worker)));
    let close = |(shard, worker): (&Arc<Shard>, &Arc<Worker>)| {
        let (of, stuck) = (shard.clone(), worker.is_stuck());
        (worker.run_last(move || of.close()), stuck, shard.clone(), worker.clone())
    };
    let closing: Vec<_> = all.map(close).collect();
    for (ticket, stuck, shard, worker) in &closing {
        note(match stuck {
            // It is closed when what it is in has ended.
            true => Err(Error::new(ErrorKind::Unavailable, "the shard hangs, and is closed when it answers")
                .at(&shard.dir)
                .on(shard.id)
                .remedy("look at its disk and the kernel log")),
            false => worker.wait(ticket, state.settings.shard_timeout * limited::CLOSING, &AtomicU64::new(0)),
        });
    }
    drop(closing);
    // Of what frees or mends a part of the journal, or, where it was poisoned, writes to it, in a thread that nobody waits for. What it is in the middle of it still does to these
    // files, so where it hangs the lock stays until it does not.
    let made = || state.mirrors.as_ref()?.copies().into_iter().find(|copy| copy.rebuilding);
    let limit = if silent { Duration::ZERO } else { state.settings.shard_timeout * limited::CLOSING };
    let rest = state.journal.rest(limit);
    note(rest.map_err(|e| match made() {
        Some(copy) => e.at(copy.dir),
        None => e,
    }));
    note(state.mirrors.as_ref().and_then(|mirrors| mirrors.silent()).map_or(Ok(()), Err));
    state.release_lock();
    outcome
}

/// Leaves the store's lock to those who may be in the middle of writing one of its small files, on a disk that hangs: somebody waits for them in the
/// place of the close, and has a turn meanwhile.
fn leave(state: &Arc<State>) {
    let (begun, has_begun) = channel();
    let left = state.clone();
    let wait = move || {
        let _turn = left.journal.turn();
        let _ = begun.send(());
        drop(left.change.mover.lock());
        drop(left.manifest.lock());
        left.archives.close();
        // What the close itself has given up, as the note of how far a scrub is.
        while left.writers.is_silent() {
            crate::sync::thread::sleep(LOOK_AGAIN);
        }
    };
    match crate::sync::thread::Builder::new().name("annulus-left".to_owned()).spawn(wait) {
        Ok(_) => drop(has_begun.recv()),
        Err(error) => {
            log::error!(
                "the store stays locked until this process ends, since no thread can be started: {error}"
            );
            std::mem::forget(state.journal.turn());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, SimDisk};
    use crate::engine::MemoryFactory;
    use crate::options::Options;
    use crate::state::{Background, Seams};
    use crate::store::Store;
    use std::path::Path;

    const DIR: &str = "/store";

    fn open(disk: &SimDisk) -> Store {
        let (factory, disk) = (Arc::new(MemoryFactory::new()), Arc::new(disk.clone()));
        let seams = Seams { disk, factory, background: Background::Off };
        let options = Options::new().shards(2).replication_factor(2).memory_budget(8 << 20);
        crate::testing::open(Path::new(DIR), &options, seams).unwrap()
    }

    /// Whoever waited for the lock of the manifest while the store was being closed comes too late.
    #[test]
    fn the_manifest_of_a_store_that_is_closed_is_not_written() {
        let disk = SimDisk::new(1);
        let store = open(&disk);
        let state = store.handle.state.clone();
        let file = || disk.read(&Path::new(DIR).join(crate::manifest::FILE)).unwrap();
        let before = file();
        let late = state.manifest.lock().clone();
        store.close().unwrap();
        let mut manifest = state.manifest.lock();
        for outcome in [
            state.replace_manifest(&mut manifest, late.clone()),
            state.save_progress(&mut manifest, late.clone()),
        ] {
            assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Closed);
        }
        assert_eq!(file(), before);
    }

    /// A write that finds no room waits for a flush, and nobody flushes any more.
    #[test]
    fn who_waits_for_room_is_told_that_the_store_was_closed() {
        let store = open(&SimDisk::new(1));
        let state = store.handle.state.clone();
        let waits = std::thread::spawn(move || state.pace.admit(1, 0, || u64::MAX));
        std::thread::sleep(std::time::Duration::from_millis(100));
        store.close().unwrap();
        assert_eq!(waits.join().unwrap().unwrap_err().kind(), ErrorKind::Closed);
    }
}
