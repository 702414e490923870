//! Sweeping: what a shard no longer owns is removed from it, once nobody reads by the layout under which it did; shards that
//! left are closed. That shards are clean is said of all of them at once, since a manifest is written to every shard's directory
//! and that takes as long as a shard's sweep.
//!
//! Where nobody is there to be disturbed several shards are gone through at once.
//!
//! Invariant: a shard is taken for clean only when all of it has been gone through since it lost something, durably.

use super::retire;
use crate::batch;
use crate::error::{Error, Result};
use crate::ids::{Seq, ShardId};
use crate::record::{RunBuffer, RunRecord};
use crate::shard::{Health, Layout, Shard};
use crate::state::change::{Grace, Mover, Phase, Sweep};
use crate::state::{Asked, State};
use crate::sync::Instant;
use std::sync::Arc;
use std::time::Duration;

/// How soon a directory that could not be cleared is tried again: the steps of a scrub follow each other faster.
const UNSETTLED: Duration = Duration::from_secs(10);

/// How much is read at once, in bytes of pages.
const CHUNK: usize = 2 << 20;

/// What a call came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swept {
    /// Nothing is left to be done.
    Nothing,
    /// Readers of before the last change are still at it.
    Waiting,
    /// So many bytes were gone through.
    Some(u64),
}

/// Takes one step.
pub fn sweep(state: &State, mover: &mut Mover) -> Result<Swept> {
    if !mover.grace.is_empty() {
        let read =
            |grace: &Grace| grace.layout.strong_count() > 0 && !crate::plants::is("grace-not-waited-for");
        if mover.grace.iter().any(read) {
            return Ok(Swept::Waiting);
        }
        for (shard, worker) in mover.grace.drain(..).flat_map(|grace| grace.leaving) {
            if let Err(error) = retire::close(state, &shard, &worker) {
                log::warn!("shard {}, which has left, did not close in order: {error}", shard.id);
            }
        }
        settle(state, mover);
        return Ok(Swept::Some(0));
    }
    let layout = state.layout();
    let stale = (0..layout.shards.len()).filter(|index| layout.stale[*index]);
    // One that cannot be written to is gone through when it can be, and one of which a page cannot be read when it has been mended: that may
    // never be, and nothing else waits for it.
    let is_ready = |index: &usize| is_ready(&layout.shards[*index]);
    stale.clone().filter(|index| !is_ready(index)).for_each(|index| put_off(state, &layout, index, mover));
    let is_left = |index: &usize| !mover.swept.contains(&layout.shards[*index].id);
    let mut serving: Vec<usize> = stale.clone().filter(|index| is_ready(index) && is_left(index)).collect();
    if serving.is_empty() {
        if !mover.swept.is_empty() {
            // The layout is about to be replaced, and whoever holds one keeps what it names.
            drop(layout);
            let before = clean(state, &mover.swept)?;
            mover.swept.clear();
            mover.replaced(&before, Vec::new());
            return Ok(Swept::Some(0));
        }
        if state.change.current().is_some() {
            state.change.end(Phase::Completed);
        }
        // Where that failed before; what cannot be cleared for now keeps nothing else from its turn.
        let rests = mover.unsettled.is_some_and(|since| since.elapsed() < UNSETTLED);
        if !(rests && state.seams.background.schedules()) {
            settle(state, mover);
        }
        return Ok(Swept::Nothing);
    }
    let left = stale.filter(is_left).count();
    let done = 1.0 - left as f64 / layout.shards.len().max(1) as f64;
    state.change.clean(done);
    // Those that were begun come first: their seals say so until they are done.
    serving.sort_by_key(|index| mover.sweep_of(layout.shards[*index].id).is_none());
    serving.truncate(state.abreast());
    sweep_chunks(state, &layout, &serving, mover).map(Swept::Some)
}

fn is_ready(shard: &Shard) -> bool {
    shard.serves() && !shard.is_stalled() && shard.health() == Health::Online
}

/// A shard that has been begun with has to be mended first, which may take for ever: its seal does not say as long that it is being changed.
fn put_off(state: &State, layout: &Arc<Layout>, index: usize, mover: &mut Mover) {
    let shard = &layout.shards[index];
    if !shard.is_complete() || mover.sweep_of(shard.id).is_none() {
        return;
    }
    match state.beside(layout, index, |shard| shard.seal(shard.applied())) {
        Ok(()) => mover.sweeps.retain(|sweep| sweep.shard != shard.id),
        Err(error) => failed(state, shard, &error),
    }
}

/// Clears what was given up. Nothing else waits for what cannot be.
fn settle(state: &State, mover: &mut Mover) {
    mover.unsettled = retire::settle(state, mover).err().map(|error| {
        log::warn!("what a change of the topology has left behind cannot be cleared yet: {error}");
        Instant::now()
    });
}

/// Where a sweep goes on, if it does, and what was gone through.
type Gone = (Option<Vec<u8>>, u64);

/// Goes through a chunk of each of some shards, side by side.
fn sweep_chunks(state: &State, layout: &Arc<Layout>, chosen: &[usize], mover: &mut Mover) -> Result<u64> {
    let mut from = Vec::with_capacity(chosen.len());
    for index in chosen {
        let shard = &layout.shards[*index];
        let position = match mover.sweep_of(shard.id) {
            // Until this chunk is done, the word is that the shard is to be gone through from the beginning.
            Some(sweep) => std::mem::take(&mut sweep.position),
            None => {
                let begun = state.beside(layout, *index, Shard::begin_apply);
                begun.inspect_err(|error| failed(state, shard, error))?;
                mover.sweeps.push(Sweep { shard: shard.id, position: Vec::new() });
                Vec::new()
            }
        };
        from.push((*index, position));
    }
    // No flush begins meanwhile: it would bring what a snapshot of after this list wants kept.
    let chunk = state.moving.lock();
    let (live, apart): (Arc<[Seq]>, _) = (state.memory.live().into(), layout.apart());
    let ask = |(index, from): (usize, Vec<u8>)| {
        let (of, live) = (apart.clone(), live.clone());
        state.ask(layout, index, move |shard| sweep_chunk(&of, index, shard, &from, &live))
    };
    let asked: Vec<Asked<Gone>> = from.into_iter().map(ask).collect();
    let outcomes: Vec<Result<Gone>> = asked.into_iter().map(|asked| state.answer(asked)).collect();
    drop(chunk);
    let mut read = 0;
    let mut first = None;
    for (index, outcome) in chosen.iter().zip(outcomes) {
        let shard = &layout.shards[*index];
        match outcome {
            Ok((Some(next), bytes)) => {
                read += bytes;
                mover.sweep_of(shard.id).into_iter().for_each(|sweep| sweep.position.clone_from(&next));
            }
            Ok((None, bytes)) => {
                read += bytes;
                mover.sweeps.retain(|sweep| sweep.shard != shard.id);
                mover.swept.push(shard.id);
            }
            Err(error) => {
                failed(state, shard, &error);
                first.get_or_insert(error);
            }
        }
    }
    first.map_or(Ok(read), Err)
}

/// Removing needs room before it makes any: a shard on a full disk can still be read.
fn failed(state: &State, shard: &Shard, error: &Error) {
    match error.is_refusal_to_write() {
        true => state.write_failed(shard, error),
        false => state.read_failed(shard, error),
    }
}

/// Removes what a shard does not own from a part of it; at the end makes that durable.
fn sweep_chunk(layout: &Layout, index: usize, shard: &Shard, from: &[u8], live: &[Seq]) -> Result<Gone> {
    let mut foreign = |key: &[u8]| {
        let position = layout.ring.position(batch::user_key(key));
        if crate::plants::is("sweep-spares-first-owners-alone") {
            return layout.owners_at(position).first().map(|first| usize::from(*first)) != Some(index);
        }
        !layout.is_written(index, position)
    };
    let mut copied = RunBuffer::default();
    let next = shard.engine()?.versions(from, CHUNK, &mut foreign, &mut copied)?;
    // Above every version, so the key goes as a whole; its neighbours in a page keep what snapshots see of them.
    let mut run: Vec<RunRecord<'_>> =
        copied.records().map(|r| RunRecord { key: r.key, seq: Seq::MAX, value: None }).collect();
    run.dedup_by(|a, b| a.key == b.key);
    if !run.is_empty() {
        shard.apply(&run, live)?;
    }
    if next.is_none() {
        shard.seal(shard.applied())?;
    }
    // How much of the last piece was read is not known.
    let read = if next.is_some() { CHUNK } else { copied.bytes() };
    Ok((next, read as u64))
}

/// Says, durably, that these shards hold nothing any more that they do not own.
fn clean(state: &State, swept: &[ShardId]) -> Result<Arc<Layout>> {
    let mut manifest = state.manifest.lock();
    let _turn = state.flushing.lock();
    let mut next = manifest.clone();
    next.shards.iter_mut().filter(|entry| swept.contains(&entry.id)).for_each(|entry| entry.stale = false);
    state.replace_manifest(&mut manifest, next)?;
    let layout = state.layout();
    let stale =
        layout.shards.iter().zip(&layout.stale).map(|(s, stale)| *stale && !swept.contains(&s.id)).collect();
    let next = layout.with_stale(stale);
    drop(layout);
    Ok(state.replace_layout(next))
}
