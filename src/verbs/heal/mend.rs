//! Mending a shard of which some page is known to be damaged: all of it is verified, and what is damaged is replaced from
//! its replicas, in place.

use super::step::{Step, healed};
use super::{fill, prove, revive};
use crate::error::{Error, ErrorKind, Result};
use crate::shard::Layout;
use crate::state::State;
use crate::state::change::{Mender, Mover};
use crate::state::events::EventKind;
use crate::state::transfer::{Purpose, Sources, level, verify_and_mend};
use crate::sync::Instant;
use std::sync::Arc;
use std::time::Duration;

/// How many times as long as it took a shard is left alone that was looked through in vain: what others want has its turn, and damage that comes
/// to it meanwhile is found all the same.
const IN_VAIN: u32 = 9;

/// Verifies and mends a piece of the shard; at the end it is whole, or what is left of its damage is told.
pub fn piece(state: &State, mover: &mut Mover, layout: &Arc<Layout>, index: usize) -> Result<Step> {
    let shard = &layout.shards[index];
    // It is mended from nobody who lacks what it has: after an opening a flush comes first.
    if !mover.is_mending(shard.id) && shard.serves() {
        let _turn = state.flushing.lock();
        let _chunk = state.moving.lock();
        if level(state)?.is_none() && !shard.is_stalled() {
            return Ok(Step::NeedsFlush);
        }
    }
    let begun = Instant::now();
    let mending = mover.mender_of(shard.id, state.health_version());
    let mended = match verify_and_mend(state, layout, index, &mending.position) {
        Ok(mended) => mended,
        // What its pages are found by is damaged: there are no parts to be put right.
        Err(error) if matches!(error.kind(), ErrorKind::Corruption | ErrorKind::Unsupported) => {
            mover.end_mending(shard.id);
            let replaceable = Sources::choose(layout, Purpose::Filling(index), &[index]).is_ok();
            // What is wrong may be no more than what its engine remembers, after a panic: it is opened again first. Where others do not have
            // all that it has, what it still has is worth more.
            if error.kind() == ErrorKind::Corruption && shard.is_open() && !shard.is_suspect() && replaceable
            {
                state.shard_failed(shard, &error);
                return Ok(Step::Worked(0));
            }
            return fill::begin_anew(state, mover, layout, index, false, &error.to_string());
        }
        Err(error) => {
            mover.end_mending(shard.id);
            if error.kind() == ErrorKind::Unavailable {
                return Err(error);
            }
            // It cannot even be looked through: it is opened again, and begun anew where that fails.
            state.shard_failed(shard, &error);
            return Ok(Step::Worked(0));
        }
    };
    if !shard.is_open() {
        mover.end_mending(shard.id);
        shard.suspect();
        // It failed while it was mended: it is opened again; the second time it is begun anew.
        let cause = mended.cause.unwrap_or_else(|| shard.not_serving());
        if shard.strike() > 1 {
            return fill::begin_anew(state, mover, layout, index, false, &cause.to_string());
        }
        return Ok(Step::Worked(0));
    }
    (mending.repaired, mending.left) = (mending.repaired + mended.repaired, mending.left + mended.left);
    mending.lacking += mended.lacking;
    mending.cause = mended.cause.or(mending.cause.take());
    mending.worked += begun.elapsed();
    if let Some(end) = mended.end {
        mending.position = end;
        return Ok(Step::Worked(1));
    }
    let Some(Mender { repaired, left, lacking, cause, health, worked, .. }) = mover.end_mending(shard.id)
    else {
        return Ok(Step::Idle);
    };
    if repaired > 0 {
        state.events.tell(Some(shard.id), EventKind::Repaired { pages: repaired });
    }
    if left > 0 {
        let text = format!("{left} damaged pages could not be replaced from replicas");
        let error = Error::new(ErrorKind::Unavailable, text)
            .on(shard.id)
            .remedy("bring the shards back that hold their replicas, or restore a checkpoint");
        let error = cause.into_iter().fold(error, |error, cause| error.caused_by(cause));
        if !shard.is_catching_up() {
            // What nobody has is found by nobody who looks again, before another shard serves.
            let rest = if lacking == left { worked * IN_VAIN } else { Duration::ZERO };
            state.healing.in_vain(shard.id, rest, health);
            return Err(error);
        }
        // The rest of it is as good as it was, and serves meanwhile.
        shard.cleared();
        mover.left.push((shard.id, Error::corruption("damage is left").on(shard.id).caused_by(error)));
        return Ok(Step::Worked(1));
    }
    // A change of it failed as damage does, and nothing is damaged: it is opened again; the second time it is begun anew, if nothing is lost
    // with it.
    let replaceable = || Sources::choose(layout, Purpose::Filling(index), &[index]).is_ok();
    let fails = repaired == 0 && (shard.is_stalled() || shard.is_suspect());
    // One at a time: each may be what the other would be filled from.
    if fails && shard.strike() > 1 && mover.anew.is_none() && replaceable() {
        mover.anew = Some(shard.id);
        return Ok(Step::Worked(1));
    }
    if repaired == 0 && shard.is_stalled() {
        return revive::restart(state, mover, layout, index);
    }
    // What was put right before a failure may not have been made durable.
    if shard.is_suspect()
        && let Err(error) =
            state.beside(layout, index, |shard| shard.begin_apply().and_then(|_| shard.seal(shard.applied())))
    {
        state.shard_failed(shard, &error);
        return Ok(Step::Worked(0));
    }
    shard.cleared();
    if shard.serves() {
        // A flush that is under way goes without it, or fails on it, and may take it offline for what it lacks then.
        let _turn = state.flushing.lock();
        if !shard.serves() {
            return Ok(Step::Worked(0));
        }
        shard.resume();
        shard.recovered();
        healed(state, shard);
    }
    Ok(Step::Worked(1))
}

/// Begins a shard anew that fails, and in which no damage was found, when those have been verified that it is to be filled from. Where one of
/// them lacks something it may be in this one alone, which goes on as it is.
pub fn anew(state: &State, mover: &mut Mover, layout: &Arc<Layout>, index: usize) -> Result<Step> {
    let shard = &layout.shards[index];
    match prove::piece(state, mover, layout, index) {
        Ok(Some(step)) => Ok(step),
        Ok(None) => {
            let why = "it fails, and no damage is found in it";
            fill::begin_anew(state, mover, layout, index, false, why)
        }
        Err(error) => {
            log::warn!("shard {} is not begun anew: {error}", shard.id);
            mover.anew = None;
            if shard.is_stalled() {
                return revive::restart(state, mover, layout, index);
            }
            shard.cleared();
            Ok(Step::Worked(0))
        }
    }
}
