//! One step of healing: of one shard, as much as some ten milliseconds' work.

use super::{catch_up, fill, mend, prove, revive};
use crate::error::{Error, ErrorKind, Result};
use crate::options::Heal;
use crate::shard::{Health, Layout, Shard};
use crate::state::State;
use crate::state::change::Mover;
use crate::state::events::EventKind;
use crate::state::healing::Wish;
use crate::state::transfer;
use crate::sync::atomic::AtomicU64;
use std::sync::Arc;
use std::time::Duration;

/// How soon a shard is looked at again that a worker is still in.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How many times as long as for a step of a flush a shard may take to be opened or closed.
pub(super) const OPENING: u32 = 10;

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There is nothing to heal.
    Idle,
    /// So many bytes were copied, compared or replayed.
    Worked(u64),
    /// A flush must come first: some shards lack what others have.
    NeedsFlush,
    /// Nothing can be done before so long.
    Later(Duration),
}

/// Takes one step, of the first shard that anything can be done for.
pub fn step(state: &State) -> Result<Step> {
    state.check_open()?;
    let mut mover = state.change.mover.lock();
    let layout = state.layout();
    state.healing.refuse_others(|shard| layout.index_of(shard).is_some());
    mover.forget_others(|shard| layout.index_of(shard).is_some());
    // A flush, or a scan, may have put a shard right in the middle of its being looked through: the next time that begins at the beginning.
    for shard in layout.shards.iter().filter(|shard| is_well(state, shard)) {
        mover.end_mending(shard.id);
    }
    let mut later: Option<Duration> = None;
    mover.unflushed.clear();
    // A shard that takes long comes after those that are back soon, and one that has failed after those that have not, the one that failed last
    // at the end: else it would have its turn each time it has rested, and the others only meanwhile.
    let turn = |index: &usize| {
        let shard = &layout.shards[*index];
        (takes(state, &mover, shard), state.healing.failed(shard.id))
    };
    let mut order: Vec<usize> = (0..layout.shards.len()).collect();
    order.sort_by_cached_key(turn);
    for index in order {
        match attend(state, &mut mover, &layout, index) {
            Step::Idle => {}
            Step::Later(rest) => later = Some(later.map_or(rest, |before| before.min(rest))),
            // The flush may have to wait for another one of them.
            Step::NeedsFlush => mover.unflushed.push(layout.shards[index].id),
            step => return Ok(step),
        }
    }
    if !mover.unflushed.is_empty() {
        return Ok(Step::NeedsFlush);
    }
    Ok(later.map_or(Step::Idle, Step::Later))
}

/// Whether nothing of a shard needs to be looked through, as far as anybody knows or asks.
fn is_well(state: &State, shard: &Shard) -> bool {
    let is_asked = state.healing.wished(shard.id).is_some_and(|wish| wish.what == Wish::Repair);
    !is_asked
        && shard.serves()
        && !shard.is_stalled()
        && !shard.is_suspect()
        && shard.health() == Health::Online
}

/// How long what a shard is in want of takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Takes {
    Little,
    /// It is looked through from end to end.
    Long,
    /// It is filled, or what it is to be filled from is verified first; or it was looked through in vain.
    Longest,
}

fn takes(state: &State, mover: &Mover, shard: &Shard) -> Takes {
    // One that is to be filled anew, and that serves, or may be whole.
    if is_asked_anew(state, shard) {
        return if shard.serves() { Takes::Longest } else { Takes::Little };
    }
    let is_proven = mover.proofs.iter().any(|proof| proof.of == shard.id);
    // What was looked through in vain may be so again: a shard that is filled does not wait for that. One that is offline is opened first.
    let was_in_vain = shard.is_open() && state.healing.was_in_vain(shard.id);
    if shard.is_filling() || is_proven || was_in_vain {
        return Takes::Longest;
    }
    if shard.is_open() && mover.is_mending(shard.id) { Takes::Long } else { Takes::Little }
}

fn is_asked_anew(state: &State, shard: &Shard) -> bool {
    state.healing.wished(shard.id).is_some_and(|wish| !wish.begun && wish.what == Wish::Rebuild)
}

/// The same for one shard: what fails there does not keep others from being healed.
fn attend(state: &State, mover: &mut Mover, layout: &Arc<Layout>, index: usize) -> Step {
    let shard = &layout.shards[index];
    if let Some(rest) = state.healing.resting(shard.id, state.health_version()) {
        return Step::Later(rest);
    }
    let was_open = shard.is_open();
    match heal(state, mover, layout, index) {
        Ok(step) => step,
        // It failed in the middle, as may be by a flush: from here on it is one that is offline.
        Err(error) if was_open && !shard.is_open() && !layout.workers[index].is_stuck() => {
            log::debug!("shard {} went offline while it was healed: {error}", shard.id);
            shard.strike();
            state.healing.rest(shard.id);
            Step::Later(state.healing.resting(shard.id, state.health_version()).unwrap_or(LOOK_AGAIN))
        }
        Err(error) => {
            failed(state, shard, &error);
            Step::Later(state.healing.resting(shard.id, state.health_version()).unwrap_or(LOOK_AGAIN))
        }
    }
}

/// A flush that must come first failed, and with it what waits for it: whoever asked for that would wait for as long as a disk is full.
pub fn not_flushed(state: &State, error: &Error) {
    // Of a close everyone has been told.
    if state.check_open().is_err() {
        return;
    }
    let mut mover = state.change.mover.lock();
    let layout = state.layout();
    for id in std::mem::take(&mut mover.unflushed) {
        let Some(index) = layout.index_of(id) else { continue };
        let shard = &layout.shards[index];
        let failure = transfer::not_flushed(error).on(id);
        if shard.is_filling() && shard.serves() {
            fill::give_up(state, &mut mover, shard, failure);
        } else {
            failed(state, shard, &failure);
        }
    }
}

fn failed(state: &State, shard: &Shard, error: &Error) {
    if state.healing.wished(shard.id).is_some() {
        state.healing.granted(shard.id, Err(error.clone()));
    }
    if state.healing.rest(shard.id) {
        log::error!("shard {} could not be healed, and is tried again: {error}", shard.id);
        state.events.tell(Some(shard.id), EventKind::NotHealed { cause: error.to_string() });
    }
}

fn heal(state: &State, mover: &mut Mover, layout: &Arc<Layout>, index: usize) -> Result<Step> {
    let shard = &layout.shards[index];
    // What was given up may wake up, and must not find another engine than the one that it began with.
    let wish = state.healing.wished(shard.id);
    if layout.workers[index].is_stuck() && !crate::plants::is("opened-while-it-hangs") {
        // What has been verified by now says nothing of when it answers.
        mover.end_proof(shard.id);
        return match (shard.is_open(), wish) {
            (true, _) => Ok(Step::Idle),
            (false, None) => Ok(Step::Later(LOOK_AGAIN)),
            // Whoever asked is told, and does not wait as long as it hangs.
            (false, Some(_)) => Err(shard.fault().unwrap_or_else(|| shard.not_serving())),
        };
    }
    let asked = wish.is_some() || state.settings.heal == Heal::Automatic;
    if let Some(wish) = wish.filter(|wish| !wish.begun) {
        match wish.what {
            Wish::Rebuild => {
                if shard.serves()
                    && let Some(step) = prove::piece(state, mover, layout, index)?
                {
                    return Ok(step);
                }
                return fill::begin_anew(state, mover, layout, index, true, "it was asked for");
            }
            Wish::Compact if shard.serves() && !shard.is_filling() => {
                return fill::begin_beside(state, mover, layout, index);
            }
            Wish::Compact if !shard.serves() => return Err(shard.not_serving()),
            _ => {}
        }
    }
    // Its new engine failed: the one that serves goes on.
    if wish.is_some_and(|wish| wish.begun && wish.what == Wish::Compact) && !shard.is_filling() {
        return Err(Error::new(ErrorKind::Io, "the new engine could not be written").on(shard.id));
    }
    if mover.anew == Some(shard.id) {
        if asked && shard.is_open() && (shard.is_stalled() || shard.is_suspect()) {
            return mend::anew(state, mover, layout, index);
        }
        // It is well again, or what is wrong is another thing.
        mover.anew = None;
        mover.end_proof(shard.id);
    }
    if asked && shard.is_open() && shard.is_suspect() {
        return mend::piece(state, mover, layout, index);
    }
    if shard.is_catching_up() {
        return catch_up::piece(state, mover, layout, index);
    }
    if shard.is_filling() {
        return fill::piece(state, mover, layout, index);
    }
    if !shard.is_open() {
        return if asked { revive::revive(state, mover, layout, index) } else { Ok(Step::Idle) };
    }
    let damaged = !shard.is_stalled() || shard.fault().is_some_and(|e| e.kind() == ErrorKind::Corruption);
    if shard.is_stalled() && !damaged {
        return if asked { revive::restart(state, mover, layout, index) } else { Ok(Step::Idle) };
    }
    let repair = wish.is_some_and(|wish| wish.what == Wish::Repair);
    if asked && (repair || shard.health() != Health::Online) {
        return mend::piece(state, mover, layout, index);
    }
    let_go(state, layout, index)?;
    if has_gone(state, layout, index) {
        return Ok(Step::Worked(0));
    }
    if shard.is_untidy() {
        state.beside(layout, index, Shard::clear_up)?;
    }
    // Of what was tried in vain before others put it right nothing is left.
    if is_well(state, shard) {
        state.healing.rested(shard.id);
    }
    Ok(Step::Idle)
}

/// Whether a shard's directory is gone, or another's: then it is offline from here on. Files that are open go on answering
/// where their directory is gone: that is noticed here, and not at the next opening.
pub(super) fn has_gone(state: &State, layout: &Layout, index: usize) -> bool {
    let shard = &layout.shards[index];
    let gone = state.beside(layout, index, Shard::check_ours).err();
    let gone = gone.filter(|error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Foreign));
    if let Some(error) = &gone {
        state.shard_failed(shard, error);
    }
    gone.is_some()
}

/// Closes engines of a shard that have been taken out of use, on its worker, so that a disk that hangs holds up nobody else
/// for long.
pub(super) fn let_go(state: &State, layout: &Layout, index: usize) -> Result<()> {
    let (shard, worker) = (layout.shards[index].clone(), &layout.workers[index]);
    if !shard.has_leaving() {
        return Ok(());
    }
    let ticket = worker.run(move || shard.close_leaving());
    worker.wait(&ticket, state.settings.shard_timeout * OPENING, &AtomicU64::new(0))
}

/// A shard is well again: it holds all that it should, and is read.
pub(super) fn healed(state: &State, shard: &Shard) {
    state.health_changed();
    state.healing.rested(shard.id);
    if state.healing.wished(shard.id).is_some() {
        state.healing.granted(shard.id, Ok(()));
    }
    state.events.tell(Some(shard.id), EventKind::Online);
    log::info!("shard {} serves again", shard.id);
    // What waited for it: purges, old copies to be removed, a change that could not go on.
    state.signals.want_flush();
    state.signals.want_change();
}
