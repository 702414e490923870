//! Taking a shard back whose files may be good: it is opened again, or begun anew where they are not.

use super::step::{LOOK_AGAIN, OPENING, Step, has_gone, let_go};
use super::{fill, prove};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::ShardId;
use crate::options::Heal;
use crate::shard::{Layout, Opened, Shard, ShardSpec};
use crate::state::State;
use crate::state::change::Mover;
use crate::state::events::EventKind;
use crate::state::healing::Wish;
use crate::state::transfer::{Purpose, Sources};
use crate::sync::atomic::AtomicU64;
use std::sync::Arc;

/// How often a shard may fail while it is healed before it is begun anew.
const MOST_STRIKES: u32 = 4;

/// Opens a shard that is offline, to be brought up to date; or begins it anew.
pub fn revive(state: &State, mover: &mut Mover, layout: &Arc<Layout>, index: usize) -> Result<Step> {
    let shard = &layout.shards[index];
    let_go(state, layout, index)?;
    let spec = spec_of(state, shard.id)?;
    let replaceable = || Sources::choose(layout, Purpose::Filling(index), &[index]).is_ok();
    // Where nothing is any more it has failed for the last time: whether it may be made anew is decided below.
    let is_there = || !state.beside(layout, index, Shard::check_ours).is_err_and(|error| is_missing(&error));
    if shard.strikes() > MOST_STRIKES && is_there() && replaceable() {
        match prove::piece(state, mover, layout, index) {
            Ok(Some(step)) => return Ok(step),
            Ok(None) => {
                return fill::begin_anew(state, mover, layout, index, false, "it fails again and again");
            }
            // Its files may be the only ones that have what another has lost: they are tried again.
            Err(error) => log::warn!("shard {} is not begun anew: {error}", shard.id),
        }
    } else {
        mover.end_proof(shard.id);
    }
    let error = match open_again(state, layout, index, &spec) {
        Ok(opened) => match take(state, mover, layout, index, opened) {
            None => return Ok(Step::Worked(0)),
            Some(error) => error,
        },
        Err(error) => error,
    };
    let asked = state.healing.wished(shard.id).is_some_and(|wish| wish.what != Wish::Compact);
    let (damaged, missing) = (error.kind() == ErrorKind::Corruption, is_missing(&error));
    // The directory of a disk that is not mounted looks as one does that has been emptied.
    if damaged || missing && (asked || !is_on_its_own_disk(state, shard.id)) {
        return fill::begin_anew(state, mover, layout, index, missing, &error.to_string());
    }
    // One file of it cannot be read, of a disk that is there and can be written to: that does not pass by waiting.
    let is_usable = |shard: &Shard| shard.check_ours().and_then(|()| shard.probe());
    if error.kind() == ErrorKind::Io
        && !error.is_refusal_to_write()
        && state.beside(layout, index, is_usable).is_ok()
    {
        shard.strike();
    }
    Err(error)
}

/// Opens a shard again that could not be written to, once it can be.
pub fn restart(state: &State, mover: &mut Mover, layout: &Arc<Layout>, index: usize) -> Result<Step> {
    let shard = &layout.shards[index];
    // Nothing can be written where nothing is, and never will be.
    if has_gone(state, layout, index) {
        return Ok(Step::Worked(0));
    }
    state.beside(layout, index, Shard::probe)?;
    // Meanwhile its replicas answer; those that are about to, or can be, are waited for.
    if Sources::choose(layout, Purpose::Mending(index), &[]).is_err() {
        if layout.shards.iter().any(|other| other.is_catching_up()) {
            return Ok(Step::Later(LOOK_AGAIN));
        }
        if reopen_one(state, mover, layout) {
            return Ok(Step::Worked(0));
        }
    }
    let spec = spec_of(state, shard.id)?;
    {
        // No flush is in it. What is forgotten while it is being opened is in the journal.
        let _turn = state.flushing.lock();
        shard.shut();
    }
    state.health_changed();
    state.changed.corrected();
    let opened = let_go(state, layout, index).and_then(|()| open_again(state, layout, index, &spec));
    let opened = match opened {
        Ok(opened) => opened,
        Err(error) => {
            // From here on it is one that is offline.
            state.shard_failed(shard, &error);
            return Ok(Step::Worked(0));
        }
    };
    match take(state, mover, layout, index, opened) {
        None => Ok(Step::Worked(0)),
        Some(error) => Err(error),
    }
}

/// Opens one of the shards again that are offline; whether there was one that could be. What they failed for may be over, too.
fn reopen_one(state: &State, mover: &mut Mover, layout: &Arc<Layout>) -> bool {
    let asked =
        |shard: &Shard| state.settings.heal == Heal::Automatic || state.healing.wished(shard.id).is_some();
    (0..layout.shards.len()).any(|index| {
        let shard = &layout.shards[index];
        if shard.is_open() || layout.workers[index].is_stuck() || !asked(shard) {
            return false;
        }
        let opened = let_go(state, layout, index)
            .and_then(|()| spec_of(state, shard.id))
            .and_then(|spec| open_again(state, layout, index, &spec));
        match opened {
            Ok(opened) => take(state, mover, layout, index, opened).is_none(),
            Err(error) => {
                log::debug!("shard {} cannot take over: {error}", shard.id);
                false
            }
        }
    })
}

/// Takes an engine into use if the journal still has what it lacks; otherwise says so.
fn take(state: &State, mover: &mut Mover, layout: &Layout, index: usize, opened: Opened) -> Option<Error> {
    let shard = &layout.shards[index];
    release(state, mover, layout, index);
    let (applied, next) = (opened.applied, opened.applied.next());
    let text = {
        // Nothing is trimmed meanwhile.
        let _turn = state.flushing.lock();
        let (first, last) = (state.journal.first(), state.journal.last());
        if applied > last {
            // The store is out of a backup, and the shard is not: the numbers have been, or will be, given to other writes.
            format!("the shard holds writes up to {applied}, the journal none after {last}")
        } else if next < first && next <= state.forgotten_up_to() {
            format!("the shard holds writes up to {applied}, the journal only those from {first} on")
        } else {
            state.events.tell(Some(shard.id), EventKind::CatchingUp { from: next.0 });
            shard.take(opened);
            state.health_changed();
            return None;
        }
    };
    if let Err(error) = state.beside(layout, index, move |_| opened.close()) {
        log::warn!("shard {} did not close in order: {error}", shard.id);
    }
    Some(Error::corruption(text).at(&shard.dir).on(shard.id))
}

/// What a change of the topology has given to the shard, and not sealed, may be lost: it goes back to where that was not so.
pub(super) fn release(state: &State, mover: &mut Mover, layout: &Layout, index: usize) {
    if mover.begun {
        let others: Vec<usize> =
            Purpose::Change.targets(layout).into_iter().filter(|target| *target != index).collect();
        for (target, sealed) in state.beside_all(layout, &others, |shard| shard.seal(shard.applied())) {
            if let Err(error) = sealed {
                state.write_failed(&layout.shards[target], &error);
            }
        }
    }
    let change = state.manifest.lock().change.clone();
    mover.reopened(layout.shards[index].id, change.as_ref());
}

/// Opens the shard's engine on its worker, so that a disk that hangs holds up nobody else for long.
fn open(state: &State, layout: &Layout, index: usize, spec: &ShardSpec) -> Result<Opened> {
    let (shard, worker) = (layout.shards[index].clone(), &layout.workers[index]);
    let (factory, spec) = (state.seams.factory.clone(), spec.clone());
    let ticket = worker.run(move || shard.try_open(factory.as_ref(), &spec));
    worker.wait(&ticket, state.settings.shard_timeout * OPENING, &AtomicU64::new(0))
}

/// The same for a shard that may have been full: sled fails to open while it is, and once more
/// after that; where it is tried again and again what it has is damaged in the end.
fn open_again(state: &State, layout: &Layout, index: usize, spec: &ShardSpec) -> Result<Opened> {
    let shard = &layout.shards[index];
    let was_full = shard.fault().is_some_and(|fault| fault.is_refusal_to_write());
    if was_full {
        state.beside(layout, index, Shard::check_room)?;
    }
    open(state, layout, index, spec).or_else(|error| match was_full {
        true => open(state, layout, index, spec),
        false => Err(error),
    })
}

fn is_missing(error: &Error) -> bool {
    error.kind() == ErrorKind::NotFound
}

/// What is needed to open a shard of the store.
pub(super) fn spec_of(state: &State, id: ShardId) -> Result<ShardSpec> {
    let manifest = state.manifest.lock();
    let entry = manifest.entry(id).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "there is no such shard").on(id).remedy("see health() for the shards")
    })?;
    let cache = state.settings.opening_cache(manifest.shards.len().max(1));
    let spec = ShardSpec::of(&state.dir, &manifest, entry, cache);
    Ok(match crate::plants::is("healed-shard-waited-for-as-usual") {
        true => spec,
        false => spec.within(state.settings.shard_timeout),
    })
}

fn is_on_its_own_disk(state: &State, id: ShardId) -> bool {
    state.manifest.lock().entry(id).is_some_and(|entry| entry.own_disk)
}

impl Opened {
    /// Lets the engine go.
    fn close(self) -> Result<()> {
        self.engine().close()
    }
}

impl Shard {
    pub(super) fn not_serving(&self) -> Error {
        Error::new(ErrorKind::Unavailable, format!("the shard is {}", self.health()))
            .on(self.id)
            .remedy("repair it first")
    }
}
