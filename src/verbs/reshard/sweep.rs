//! Sweeping: what a shard no longer owns is removed from it, once nobody reads by the layout under which it did; shards that
//! left are closed. That shards are clean is said of all of them at once, since a manifest is written to every shard's directory
//! and that takes as long as a shard's sweep.
//!
//! Invariant: a shard is taken for clean only when all of it has been gone through since it lost something, durably.

use super::retire;
use crate::batch;
use crate::error::Result;
use crate::ids::{Seq, ShardId};
use crate::record::{RunBuffer, RunRecord};
use crate::shard::{Layout, Shard};
use crate::state::State;
use crate::state::change::{Mover, Phase, Sweep};
use std::sync::Arc;

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
        if mover.grace.iter().any(|grace| grace.layout.strong_count() > 0) {
            return Ok(Swept::Waiting);
        }
        for shard in mover.grace.drain(..).flat_map(|grace| grace.leaving) {
            if let Err(error) = shard.close() {
                log::warn!("shard {}, which has left, did not close in order: {error}", shard.id);
            }
        }
        retire::settle(state)?;
        return Ok(Swept::Some(0));
    }
    let layout = state.layout();
    let stale = (0..layout.shards.len()).filter(|index| layout.stale[*index]);
    // The one that was begun comes first: its seal says so until it is done.
    let begun = mover.sweep.as_ref().map(|sweep| sweep.shard);
    let is_left = |index: &usize| !mover.swept.contains(&layout.shards[*index].id);
    let serving = stale.clone().filter(|index| layout.shards[*index].serves() && is_left(index));
    let Some(index) = serving.min_by_key(|index| begun != Some(layout.shards[*index].id)) else {
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
        // Where that failed before.
        retire::settle(state)?;
        return Ok(Swept::Nothing);
    };
    let left = stale.filter(is_left).count();
    let done = 1.0 - left as f64 / layout.shards.len().max(1) as f64;
    state.change.clean(done);
    let shard = layout.shards[index].clone();
    let read = sweep_chunk(state, &layout, index, &shard, mover).inspect_err(|error| {
        if let Some(sweep) = &mut mover.sweep {
            sweep.position = Some(Vec::new());
        }
        state.read_failed(&shard, error);
    })?;
    if mover.sweep.take_if(|sweep| sweep.position.is_none()).is_some() {
        mover.swept.push(shard.id);
    }
    Ok(Swept::Some(read))
}

fn sweep_chunk(
    state: &State,
    layout: &Arc<Layout>,
    index: usize,
    shard: &Arc<Shard>,
    mover: &mut Mover,
) -> Result<u64> {
    let engine = shard.engine()?;
    if mover.sweep.as_ref().is_none_or(|sweep| sweep.shard != shard.id) {
        state.beside(layout, index, Shard::begin_apply)?;
        mover.sweep = Some(Sweep { shard: shard.id, position: Some(Vec::new()) });
    }
    let Some(sweep) = &mut mover.sweep else { return Ok(0) };
    let from = sweep.position.take().unwrap_or_default();
    // No flush begins meanwhile: it would bring what a snapshot of after this list wants kept.
    let _chunk = state.moving.lock();
    let live = state.memory.live();
    let of = layout.clone();
    let (next, bytes) = state.beside(layout, index, move |shard| {
        let mut foreign = |key: &[u8]| !of.is_written(index, of.ring.position(batch::user_key(key)));
        let mut copied = RunBuffer::default();
        let next = engine.versions(&from, CHUNK, &mut foreign, &mut copied)?;
        // Above every version, so the key goes as a whole; its neighbours in a page keep what snapshots see of them.
        let mut run: Vec<RunRecord<'_>> =
            copied.records().map(|r| RunRecord { key: r.key, seq: Seq::MAX, value: None }).collect();
        run.dedup_by(|a, b| a.key == b.key);
        if !run.is_empty() {
            shard.apply(&run, &live)?;
        }
        if next.is_none() {
            shard.seal(shard.applied())?;
        }
        Ok((next, copied.bytes()))
    })?;
    // How much of the last piece was read is not known.
    let read = if next.is_some() { CHUNK } else { bytes };
    sweep.position = next;
    Ok(read as u64)
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
