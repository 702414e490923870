//! The end of a change: the new ring answers, or the old one goes on alone.
//!
//! Invariant: the manifest says so durably before anybody acts on it, and a crash in between comes to the same.

use super::copy::seal_targets;
use super::preview::check_ready;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, ShardId};
use crate::manifest::{Manifest, ShardState};
use crate::shard::Layout;
use crate::state::State;
use crate::state::change::{Mover, Phase};
use crate::state::transfer::{Purpose, level};
use std::collections::HashSet;

/// Makes the next ring the one that answers. Returns whether it was done; if not, a flush must come first.
pub fn flip(state: &State, mover: &mut Mover) -> Result<bool> {
    // Held while the turn to flush is waited for, so that what is read from it still holds then.
    let mut manifest = state.manifest.lock();
    let _turn = state.flushing.lock();
    let _chunk = state.moving.lock();
    let layout = state.layout();
    let Some(change) = manifest.change.clone() else { return Ok(true) };
    if level(state)?.is_none() {
        return Ok(false);
    }
    if let Some(next) = &layout.next {
        check_ready(&layout, &next.ring)?;
    }
    seal_targets(state, &layout, mover)?;
    let losing: HashSet<ShardId> = match &layout.next {
        Some(next) => layout.ring.moves_to(&next.ring)?.into_iter().flat_map(|m| m.lost).collect(),
        None => HashSet::new(),
    };
    let mut next = Manifest { topology: change.next, change: None, ..manifest.clone() };
    let members: HashSet<ShardId> = next.topology.members.iter().map(|m| m.id).collect();
    for entry in &mut next.shards {
        match entry.state {
            ShardState::Joining => entry.state = ShardState::Member,
            ShardState::Member if !members.contains(&entry.id) => entry.state = ShardState::Retired,
            _ => {}
        }
        entry.stale = members.contains(&entry.id) && (entry.stale || losing.contains(&entry.id));
    }
    state.replace_manifest(&mut manifest, next)?;
    install(state, &manifest, mover)?;
    // Who answered for a record until now need not have had what those have who answer from here on.
    state.changed.corrected();
    state.change.clean(0.0);
    Ok(true)
}

/// Goes back to the placement that answers, while the next one does not yet.
pub fn cancel(state: &State, epoch: Epoch) -> Result<()> {
    state.check_open()?;
    let mut mover = state.change.mover.lock();
    let mut manifest = state.manifest.lock();
    let _turn = state.flushing.lock();
    let _chunk = state.moving.lock();
    state.change.check_current(epoch)?;
    let Some(change) = manifest.change.clone() else {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            "the new placement serves already; what is left is to remove old copies",
        )
        .remedy("plan the way back, once this change is over"));
    };
    let layout = state.layout();
    let gaining: HashSet<ShardId> =
        Purpose::Change.targets(&layout).into_iter().map(|index| layout.shards[index].id).collect();
    // What they have been given is taken away again; that it is durable no longer matters, but their seals must say what is.
    if let Err(error) = seal_targets(state, &layout, &mut mover) {
        log::warn!("a shard that was to gain records could not be sealed: {error}");
    }
    let mut next = manifest.clone();
    next.change = None;
    // Later than the change that was given up, so that no plan and no handle of before it fits.
    next.topology.epoch = Epoch(change.next.epoch.0.saturating_add(1));
    for entry in &mut next.shards {
        match entry.state {
            ShardState::Joining => entry.state = ShardState::Abandoned,
            ShardState::Member => entry.stale |= gaining.contains(&entry.id),
            _ => {}
        }
    }
    state.replace_manifest(&mut manifest, next)?;
    install(state, &manifest, &mut mover)?;
    state.change.end(Phase::Cancelled);
    Ok(())
}

/// Puts the layout that the manifest says in place. Shards that it does not name are closed when nobody reads by the old one.
fn install(state: &State, manifest: &Manifest, mover: &mut Mover) -> Result<()> {
    let layout = state.layout();
    let find = |id: ShardId| {
        layout.index_of(id).map(|index| (layout.shards[index].clone(), layout.workers[index].clone()))
    };
    let next = Layout::of(manifest, |entry| find(entry.id).ok_or_else(|| not_open(entry.id)))?;
    let all = layout.shards.iter().cloned().zip(layout.workers.iter().cloned());
    let leaving = all.filter(|(shard, _)| next.index_of(shard.id).is_none()).collect();
    drop(layout);
    mover.replaced(&state.replace_layout(next), leaving);
    mover.position = Vec::new();
    // The shards that are being cleaned may have lost more, also where they have been gone through.
    mover.swept.clear();
    mover.sweeps.iter_mut().for_each(|sweep| sweep.position.clear());
    Ok(())
}

pub fn not_open(id: ShardId) -> Error {
    Error::new(ErrorKind::NotFound, "a shard that the topology names is not open").on(id)
}
