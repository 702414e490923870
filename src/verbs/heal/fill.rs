//! Filling: a shard gets all that it should hold from its replicas, or from itself, while it gets every flush.

use super::requests::change_under_way;
use super::revive::{release, spec_of};
use super::step::{LOOK_AGAIN, Step, healed, let_go};
use crate::error::{Error, ErrorKind, Result};
use crate::shard::{Layout, Shard};
use crate::state::State;
use crate::state::change::{Fill, Mover};
use crate::state::events::EventKind;
use crate::state::transfer::{Purpose, SEAL_EVERY, Sources, compare_chunk, copy_chunk, level, no_source};
use crate::sync::atomic::AtomicU64;
use std::sync::Arc;

/// Begins a shard anew, empty, to be filled from its replicas. Its directory is made if it is `missing`.
pub fn begin_anew(
    state: &State,
    mover: &mut Mover,
    layout: &Arc<Layout>,
    index: usize,
    missing: bool,
    why: &str,
) -> Result<Step> {
    let (shard, worker) = (&layout.shards[index], &layout.workers[index]);
    if worker.is_stuck() {
        return Ok(Step::Later(LOOK_AGAIN));
    }
    let spec = spec_of(state, shard.id)?;
    release(state, mover, layout, index);
    let manifest = state.manifest.lock();
    let _turn = state.flushing.lock();
    let _chunk = state.moving.lock();
    // Nothing that is left of it is touched before others are known to have it.
    Sources::choose(layout, Purpose::Filling(index), &[index]).map_err(|node| {
        let error = no_source(layout, node);
        Error::new(ErrorKind::Unavailable, format!("the shard cannot be rebuilt: {why}"))
            .on(shard.id)
            .caused_by(error)
    })?;
    let Some(applied) = level(state)? else { return Ok(Step::NeedsFlush) };
    let begun = {
        // On its worker, since its disk may hang: then the others go on without it.
        let (factory, failures, shard) = (state.seams.factory.clone(), shard.failures(), shard.clone());
        let begin = move || {
            let before = shard.quarantined_bytes();
            shard.begin_filling(factory.as_ref(), &spec, applied, missing, failures)?;
            Ok(shard.quarantined_bytes().saturating_sub(before))
        };
        worker.wait(&worker.run(begin), state.settings.shard_timeout, &AtomicU64::new(0))
    };
    state.health_changed();
    let kept = begun.inspect_err(|error| state.shard_failed(shard, error))?;
    // What it had need not be what the others have.
    state.changed.corrected();
    // Not what is in memory: after a failed replacement that has a number which no file may have.
    let copy = state.manifest_copy();
    if let Err(error) = state.beside(layout, index, move |shard| shard.write_identity(&copy)) {
        log::warn!("the manifest could not be copied to shard {}: {error}", shard.id);
    }
    drop(manifest);
    log::warn!("shard {} is rebuilt from its replicas: {why}", shard.id);
    if kept > 0 {
        state.events.tell(Some(shard.id), EventKind::Quarantined { bytes: kept });
    }
    state.events.tell(Some(shard.id), EventKind::Rebuilding { cause: why.to_owned() });
    state.healing.begun(shard.id);
    Ok(Step::Worked(0))
}

/// Begins an engine beside the one that serves, which is to take its place.
pub fn begin_beside(state: &State, mover: &mut Mover, layout: &Arc<Layout>, index: usize) -> Result<Step> {
    let shard = &layout.shards[index];
    let spec = spec_of(state, shard.id)?;
    mover.end_fill(shard.id);
    // It may have begun since this was asked for.
    if state.manifest.lock().change.is_some() {
        return Err(change_under_way());
    }
    let _turn = state.flushing.lock();
    let _chunk = state.moving.lock();
    if level(state)?.is_none() {
        return Ok(Step::NeedsFlush);
    }
    let factory = state.seams.factory.clone();
    state.beside(layout, index, move |shard| shard.begin_aside(factory.as_ref(), &spec))?;
    state.healing.begun(shard.id);
    Ok(Step::Worked(0))
}

/// Copies or compares one chunk; at the end the shard serves from what has been filled. An engine that was only to take the place of the
/// one that serves is given up where it cannot go on: each flush writes to it, and whoever asked for it may ask again.
pub fn piece(state: &State, mover: &mut Mover, layout: &Arc<Layout>, index: usize) -> Result<Step> {
    let shard = &layout.shards[index];
    match go_on(state, mover, layout, index) {
        Err(error) if shard.serves() => {
            give_up(state, mover, shard, error);
            Ok(Step::Worked(0))
        }
        outcome => outcome,
    }
}

/// Gives up the engine beside the one that serves.
pub fn give_up(state: &State, mover: &mut Mover, shard: &Shard, why: Error) {
    mover.end_fill(shard.id);
    shard.drop_aside(&why);
    state.healing.granted(shard.id, Err(why));
}

fn go_on(state: &State, mover: &mut Mover, layout: &Arc<Layout>, index: usize) -> Result<Step> {
    let shard = &layout.shards[index];
    settle_others(state, mover, layout, shard);
    let replayed = mover.replayed;
    let fill = mover.fill_of(shard.id, || shard.filled_to());
    if !fill.level {
        let _turn = state.flushing.lock();
        let _chunk = state.moving.lock();
        // What was replayed may have reached some shards before the crash, or with a chunk: it would pass for a difference.
        let settled = |applied| applied >= replayed || state.memory.is_empty();
        if !level(state)?.is_some_and(settled) {
            return Ok(Step::NeedsFlush);
        }
        fill.level = true;
    }
    state.change.foreground.watch(true);
    let worked = work(state, layout, index, fill);
    match worked {
        Ok(Some(bytes)) => Ok(Step::Worked(bytes)),
        Ok(None) => {
            let is_anew = !shard.serves();
            let ended = end(state, layout, index, fill);
            state.change.foreground.watch(state.change.current().is_some());
            mover.end_fill(shard.id);
            // What is being removed from it may be in the new engine where it has been gone through already; and that it is being
            // changed its seal no longer says.
            if ended.is_ok() {
                mover.sweeps.retain(|sweep| sweep.shard != shard.id);
            } else if let Some(sweep) = mover.sweep_of(shard.id) {
                sweep.position.clear();
            }
            if ended.is_ok() && is_anew {
                mover.counted.forget(shard.id);
                state.scrub.believe(state.seams.disk.as_ref(), &state.dir, shard.id);
            }
            ended.map(|()| Step::Worked(0))
        }
        Err(error) => {
            abandon(state, layout, mover.end_fill(shard.id));
            Err(error)
        }
    }
}

/// Makes durable what other shards have been given whose filling waits for this one's: it may wait for long.
fn settle_others(state: &State, mover: &mut Mover, layout: &Arc<Layout>, shard: &Shard) {
    for fill in mover.fills.iter_mut().filter(|fill| fill.begun && fill.shard != shard.id) {
        let found = layout.index_of(fill.shard).filter(|index| layout.shards[*index].is_filling());
        if let Some(index) = found {
            if !fill.comparing {
                layout.shards[index].set_filled(&fill.position);
            }
            if let Err(error) = Purpose::Filling(index).seal(state, layout) {
                log::warn!("shard {} could not be sealed: {error}", fill.shard);
            }
        }
        (fill.begun, fill.unsealed) = (false, 0);
    }
}

/// Seals a shard whose filling does not go on for now: its seal would say for ever that it is being changed.
fn abandon(state: &State, layout: &Arc<Layout>, fill: Option<Fill>) {
    let Some(fill) = fill.filter(|fill| fill.begun) else { return };
    let Some(index) = layout.index_of(fill.shard).filter(|index| layout.shards[*index].is_filling()) else {
        return;
    };
    if let Err(error) = Purpose::Filling(index).seal(state, layout) {
        log::warn!("shard {} could not be sealed: {error}", fill.shard);
    }
}

/// One chunk; none when all has been copied and compared.
fn work(state: &State, layout: &Arc<Layout>, index: usize, fill: &mut Fill) -> Result<Option<u64>> {
    let (purpose, shard) = (Purpose::Filling(index), &layout.shards[index]);
    if !fill.comparing && !fill.begun {
        purpose.begin(state, layout)?;
        fill.begun = true;
    }
    let chunk = state.moving.lock();
    let (bytes, end) = if fill.comparing {
        let from = fill.position.clone();
        let mut begin = || -> Result<()> {
            if !std::mem::replace(&mut fill.begun, true) {
                purpose.begin(state, layout)?;
            }
            Ok(())
        };
        let compared = compare_chunk(state, layout, purpose, &from, &mut begin)?;
        // An engine beside the one that serves is given what is flushed meanwhile, and nobody else makes that durable.
        fill.unsealed += compared.bytes;
        (compared.bytes, compared.end)
    } else {
        let copied = copy_chunk(state, layout, purpose, &fill.position)?;
        (fill.unsealed, fill.bytes) = (fill.unsealed + copied.bytes, fill.bytes + copied.bytes);
        (copied.bytes, copied.end)
    };
    drop(chunk);
    let ended = end.is_none();
    fill.position = end.unwrap_or_default();
    if (fill.begun || shard.serves()) && (ended || fill.unsealed >= SEAL_EVERY) {
        // Where all has been copied the position stays what it was: comparing begins again at every opening.
        if !ended && !fill.comparing {
            shard.set_filled(&fill.position);
        }
        purpose.seal(state, layout)?;
        (fill.begun, fill.unsealed) = (false, 0);
    }
    if ended && (fill.comparing || crate::plants::is("rebuilt-shard-not-compared")) {
        return Ok(None);
    }
    fill.comparing |= ended;
    Ok(Some(bytes.max(1)))
}

/// The shard serves from what has been filled.
fn end(state: &State, layout: &Arc<Layout>, index: usize, fill: &Fill) -> Result<()> {
    let shard = &layout.shards[index];
    let compacted = shard.serves();
    let before = if compacted { bytes_of(state, layout, index) } else { 0 };
    {
        let _turn = state.flushing.lock();
        let _chunk = state.moving.lock();
        state
            .beside(layout, index, Shard::end_filling)
            .inspect_err(|error| Purpose::Filling(index).failed(state, shard, error))?;
        state.health_changed();
    }
    let took = fill.since.elapsed().as_secs_f64();
    log::info!("shard {}: {} bytes were copied in {took:.1} s", shard.id, fill.bytes);
    if compacted {
        // What is left of the old one is cleared away when nobody is in it any more.
        let cleared =
            let_go(state, layout, index).and_then(|()| state.beside(layout, index, Shard::clear_up));
        if let Err(error) = cleared {
            log::warn!("shard {}: its old engine could not be removed yet: {error}", shard.id);
        }
        state
            .events
            .tell(Some(shard.id), EventKind::Compacted { before, after: bytes_of(state, layout, index) });
        state.healing.granted(shard.id, Ok(()));
        return Ok(());
    }
    state.changed.corrected();
    let limit = state.settings.quarantine_limit;
    if let Err(error) = state.beside(layout, index, move |shard| shard.drop_quarantined(limit)) {
        log::warn!("what was set aside of shard {} could not be removed: {error}", shard.id);
    }
    healed(state, shard);
    Ok(())
}

fn bytes_of(state: &State, layout: &Layout, index: usize) -> u64 {
    state.beside(layout, index, |shard| shard.engine()?.disk_bytes()).unwrap_or(0)
}

impl Shard {
    fn quarantined_bytes(&self) -> u64 {
        self.quarantined().map_or(0, |found| found.iter().map(|q| q.bytes).sum())
    }
}
