//! The scrub: every page of every shard is read and verified, and replicas are compared with each other; what is found is put
//! right from the other replicas.
//!
//! Invariant: it takes a step only while nothing is being healed or moved; what lies behind its place has been verified, or
//! was written since.

use crate::engine::Recounted;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::ShardId;
use crate::shard::Layout;
use crate::state::State;
use crate::state::events::EventKind;
use crate::state::scrub::{ScrubReport, Stage};
use crate::state::transfer::{self, Counted, level, reconcile_chunk, verify_and_mend};
use std::sync::Arc;
use std::time::Duration;

/// Pages that are counted at once, while the writer waits, and how often in a step.
const COUNTED: usize = 256;
const SLICES: u64 = 4;
/// About what that is, in bytes.
const SLICE_BYTES: u64 = COUNTED as u64 * 4096;

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There is none under way, or it is paused, or has to wait.
    Idle,
    /// So many bytes were gone through.
    Worked(u64),
    /// A flush must come first: some shards lack what others have.
    NeedsFlush,
    /// The next one is due in so long.
    Later(Duration),
}

/// Begins a scrub, or finds the one that is under way; returns its number.
pub fn begin(state: &State) -> Result<u64> {
    state.check_open()?;
    let layout = state.layout();
    let first = layout.shards.first().map_or(ShardId(0), |shard| shard.id);
    let number = state.scrub.begin(first);
    state.signals.want_change();
    Ok(number)
}

/// Ends a scrub before it is through.
pub fn cancel(state: &State, number: u64) -> Result<()> {
    let cancelled = state.scrub.cancel(state.seams.disk.as_ref(), &state.dir, number);
    // What else there is to do need not wait for the rest that its rate asked for.
    state.signals.want_change();
    cancelled
}

/// Takes one step.
pub fn step(state: &State) -> Result<Step> {
    state.check_open()?;
    let Some((number, stage)) = state.scrub.stage() else {
        let Some(period) = state.settings.scrub_every else { return Ok(Step::Idle) };
        let left = state.scrub.due_in(period);
        if state.scrub.current().is_some() || !left.is_zero() {
            return Ok(Step::Later(left.max(Duration::from_secs(1))));
        }
        begin(state)?;
        return Ok(Step::Worked(0));
    };
    step_of(state, number, stage)
}

/// One step of the scrub of that number, which may be cancelled, and be followed by another, at any time.
fn step_of(state: &State, number: u64, stage: Stage) -> Result<Step> {
    // What is on its way between shards would pass for a difference.
    let mut mover = state.change.mover.lock();
    if state.manifest.lock().change.is_some() {
        return Ok(Step::Idle);
    }
    // After an opening some may have what others are yet to be given: it would pass for a difference.
    let is_level = {
        let _turn = state.flushing.lock();
        let _chunk = state.moving.lock();
        level(state)?.is_some_and(|applied| applied >= mover.replayed || state.memory.is_empty())
    };
    if !is_level && !crate::plants::is("scrub-of-shards-that-are-not-level") {
        return Ok(Step::NeedsFlush);
    }
    let layout = state.layout();
    let stepped = match stage {
        Stage::Verify { shard, position } => {
            // What an earlier scrub counted is of then.
            mover.counted = Counted::default();
            verify(state, &layout, number, (shard, &position))
        }
        Stage::Compare { position } => {
            // A shard that was found to hold too little counts as what it holds since, and what it lacks has not been given to
            // it where the scrub that found it was cancelled, or has come up to here before an opening.
            mover.counted.wrong = state.scrub.disbelieved();
            mover.counted.all.extend(state.scrub.disbelieved());
            compare(state, &layout, number, &position, &mut mover.counted)
        }
    };
    if let Err(error) = &stepped {
        state.scrub.failed(number, error);
    }
    stepped
}

/// A flush that must come first failed: whoever waits for the scrub is told, and does not wait for as long as a disk is full.
pub fn not_flushed(state: &State, error: &Error) {
    // Of a close everyone has been told.
    if let (Ok(()), Some((number, _))) = (state.check_open(), state.scrub.stage()) {
        state.scrub.failed(number, &transfer::not_flushed(error));
    }
}

fn verify(
    state: &State,
    layout: &Arc<Layout>,
    number: u64,
    (id, position): (ShardId, &[u8]),
) -> Result<Step> {
    let next = |after: ShardId| {
        let later = layout.shards.iter().map(|shard| shard.id).filter(|id| *id > after).min();
        later.map_or(Stage::Compare { position: Vec::new() }, |shard| Stage::Verify {
            shard,
            position: Vec::new(),
        })
    };
    let Some(index) = layout.index_of(id).filter(|index| layout.shards[*index].is_complete()) else {
        // One that is being healed is verified by that.
        advance(state, number, Some(next(id)), |_| ());
        return Ok(Step::Worked(0));
    };
    let shard = &layout.shards[index];
    if position.is_empty() {
        // The small files as well: of a directory that has lost both nobody can say any more whose it is.
        let manifest = state.manifest_copy();
        state
            .beside(layout, index, move |shard| shard.renew(&manifest))
            .inspect_err(|error| state.flush_failed(shard, error))?;
    }
    let mended = match verify_and_mend(state, layout, index, position) {
        Ok(mended) => mended,
        // What its pages are found by is damaged: it is offline until it has been rebuilt.
        // So is one whose engine has gone: nobody else puts another in its place meanwhile.
        Err(error) if matches!(error.kind(), ErrorKind::Corruption | ErrorKind::Closed) => {
            state.check_open()?;
            state.shard_failed(shard, &error);
            return Ok(Step::Worked(0));
        }
        Err(error) => {
            state.read_failed(shard, &error);
            return Err(error);
        }
    };
    if mended.repaired > 0 {
        state.events.tell(Some(id), EventKind::Repaired { pages: mended.repaired });
    }
    if let Some(cause) = &mended.cause {
        // It is known to be damaged from here on, and mended when that can be.
        let text = format!("{} damaged pages could not be replaced", mended.left);
        state.read_failed(shard, &Error::corruption(text).on(id).caused_by(cause.clone()));
    }
    let through = mended.end.is_none();
    let stage = match mended.end {
        Some(position) => Stage::Verify { shard: id, position },
        None => next(id),
    };
    advance(state, number, Some(stage), |report| {
        report.pages_repaired += mended.repaired;
        report.pages_left += mended.left;
        report.shards_verified += u64::from(through);
    });
    Ok(Step::Worked(mended.bytes))
}

fn compare(
    state: &State,
    layout: &Arc<Layout>,
    number: u64,
    position: &[u8],
    counted: &mut Counted,
) -> Result<Step> {
    // A part of one of them, which is all that whoever waits for the mover waits for: to heal another shard, or to close the store.
    if let Some(id) = counted.due.first().copied() {
        let part = count(state, layout, id, counted);
        return part.inspect_err(|_| counted.due.clear()).map(Step::Worked);
    }
    let compared = {
        // Nothing is half flushed, and nothing begins to be.
        let _turn = state.flushing.lock();
        let _chunk = state.moving.lock();
        reconcile_chunk(state, layout, position, counted)?
    };
    if !compared.count.is_empty() {
        counted.due.extend(compared.count);
        return Ok(Step::Worked(compared.bytes));
    }
    if compared.reconciled > 0 {
        state.events.tell(None, EventKind::Reconciled { records: compared.reconciled });
    }
    let stage = compared.end.map(|position| Stage::Compare { position });
    let ended = advance(state, number, stage, |report| {
        report.records_compared += compared.records;
        report.records_reconciled += compared.reconciled;
        report.records_unsettled += compared.unsettled;
    });
    if let Some(report) = ended {
        *counted = Counted::default();
        state.events.tell(
            None,
            EventKind::Scrubbed {
                pages_repaired: report.pages_repaired,
                records_reconciled: report.records_reconciled,
                unrepaired: report.pages_left + report.records_unsettled,
            },
        );
    }
    Ok(Step::Worked(compared.bytes))
}

fn advance(
    state: &State,
    number: u64,
    stage: Option<Stage>,
    found: impl FnOnce(&mut ScrubReport),
) -> Option<ScrubReport> {
    state.scrub.advance(state.seams.disk.as_ref(), &state.dir, number, stage, found)
}

/// Counts on what a shard holds; at the end that is compared with what it should hold. Returns about how much was read.
fn count(state: &State, layout: &Arc<Layout>, id: ShardId, counted: &mut Counted) -> Result<u64> {
    let gone = || Error::new(ErrorKind::NotFound, "a shard has left while it was compared").on(id);
    let index = layout.index_of(id).ok_or_else(gone)?;
    let engine = layout.shards[index].engine()?;
    let mut read = 0;
    let mut ended = false;
    while !ended && read < SLICES * SLICE_BYTES {
        read += SLICE_BYTES;
        ended = true;
        let engine = engine.clone();
        match state.beside(layout, index, move |_| engine.recount(COUNTED)) {
            Ok(Recounted::Further) => ended = false,
            Ok(Recounted::Whole) => {}
            Ok(Recounted::Differs(error)) => {
                log::error!("shard {id} is not believed where its replicas differ: {error}");
                state.scrub.disbelieve(state.seams.disk.as_ref(), &state.dir, id);
                counted.wrong.insert(id);
            }
            // A page that cannot be read says nothing of what is in the others, and neither for nor against what they hold.
            Err(error) if error.kind() == ErrorKind::Corruption => {
                state.read_failed(&layout.shards[index], &error);
                counted.unread.insert(id);
            }
            Err(error) => return Err(error),
        }
    }
    if ended {
        counted.due.remove(&id);
        counted.all.insert(id);
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{RealDisk, SimDisk};
    use crate::engine::{MemoryFactory, SledFactory};
    use crate::ids::Seq;
    use crate::options::Options;
    use crate::record::RunRecord;
    use crate::state::{Background, Seams};
    use std::path::Path;

    /// Whoever cancels it does so while a step is taken, and may begin another one before that step is over.
    #[test]
    fn a_scrub_that_is_cancelled_in_a_step_stays_so_and_the_next_one_reads_everything() {
        for again in [false, true] {
            // In the step of each shard, and of what comes after them.
            for steps in 0..3 {
                let (disk, factory) = (SimDisk::new(1), MemoryFactory::new());
                let seams =
                    Seams { disk: Arc::new(disk), factory: Arc::new(factory), background: Background::Off };
                let options = Options::new().shards(2).replication_factor(2).memory_budget(8 << 20);
                let store = crate::testing::open(Path::new("/store"), &options, seams).unwrap();
                for n in 0..100_u32 {
                    store.insert(n.to_be_bytes(), [7; 100]).unwrap();
                }
                store.flush().unwrap();
                let state = &store.handle.state;
                let first = store.scrub().unwrap();
                for _ in 0..steps {
                    step(state).unwrap();
                }
                let (number, stage) = state.scrub.stage().unwrap();
                first.cancel().unwrap();
                let next = again.then(|| store.scrub().unwrap());
                assert!(matches!(step_of(state, number, stage).unwrap(), Step::Worked(1..)));
                let current = next.is_some().then_some(number + 1);
                assert_eq!(state.scrub.current(), current, "the first one is back");
                assert_eq!(first.wait().unwrap(), None);
                let Some(next) = next else {
                    assert_eq!(step(state).unwrap(), Step::Idle);
                    continue;
                };
                while next.progress().running {
                    step(state).unwrap();
                }
                let report = next.wait().unwrap().unwrap();
                assert_eq!((report.shards_verified, report.records_compared), (2, 100), "{steps}");
            }
        }
    }

    /// To count what a shard holds is to read all of it: whoever waits for the mover, to heal another shard or to close the store, waits for
    /// a part of that.
    #[test]
    fn a_shard_is_counted_part_by_part() {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let seams = Seams {
            disk: Arc::new(RealDisk),
            factory: Arc::new(SledFactory::default()),
            background: Background::Off,
        };
        let options = Options::new().shards(2).replication_factor(2).page_bytes(512).memory_budget(8 << 20);
        let store = crate::testing::open(&dir.path().join("store"), &options, seams).unwrap();
        for n in 0..6000_u32 {
            store.insert(n.to_be_bytes(), [7; 100]).unwrap();
        }
        store.flush().unwrap();
        let state = &store.handle.state;
        let layout = state.layout();
        // One of them lacks a record, and its figures say so as well.
        let key = [&[0; 4][..], &3000_u32.to_be_bytes()].concat();
        let gone = RunRecord { key: &key, seq: Seq::MAX, value: None };
        layout.shards[1].engine().unwrap().apply(&[gone], &[]).unwrap();
        let pages = |shard: usize| layout.shards[shard].engine().unwrap().figures().unwrap().pages;
        assert!(pages(0) > 1200 && pages(1) > 1200, "{}", pages(0));
        let scrub = store.scrub().unwrap();
        let (mut steps, mut counted) = (0, 0);
        while scrub.progress().running {
            step(state).unwrap();
            let now = state.change.mover.lock().counted.all.len();
            assert!(now <= counted + 1, "two shards are counted in one step");
            steps += u32::from(counted < 2 && scrub.progress().stage == "comparing replicas");
            counted = counted.max(now);
        }
        assert!(steps > 3, "all was counted in {steps} steps");
        let report = scrub.wait().unwrap().unwrap();
        assert_eq!(
            (report.records_compared, report.records_reconciled, report.records_unsettled),
            (6000, 1, 1)
        );
        drop(layout);
        store.close().unwrap();
    }
}
