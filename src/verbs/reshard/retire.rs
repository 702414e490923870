//! Shards that have left: their directories are kept until the user drops them; those of a change that was given up are
//! cleared.

use crate::error::{Error, ErrorKind, Result};
use crate::ids::ShardId;
use crate::manifest::{Manifest, ShardEntry, ShardState};
use crate::shard::{Shard, ShardSpec, Worker};
use crate::state::State;
use crate::state::change::Mover;
use crate::sync::atomic::AtomicU64;
use std::sync::Arc;

/// How many times as long as for a step of a flush a shard may take to be closed.
const CLOSING: u32 = 10;

/// Clears the directory of a shard that has left, and forgets it.
pub fn drop_shard(state: &State, id: ShardId) -> Result<()> {
    state.check_open()?;
    let mut mover = state.change.mover.lock();
    if mover.grace.iter().any(|grace| grace.leaving.iter().any(|(shard, _)| shard.id == id)) {
        return Err(Error::new(ErrorKind::Busy, "the shard has just left, and is still being read")
            .on(id)
            .remedy("wait until the change is over"));
    }
    let mut manifest = state.manifest.lock();
    let entry = manifest.entry(id).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "there is no such shard")
            .on(id)
            .remedy("see topology() for the shards")
    })?;
    if entry.state != ShardState::Retired {
        return Err(Error::invalid("only a shard that has left the ring can be dropped")
            .on(id)
            .remedy("plan to drain it, or to replace it, first"));
    }
    let spec = ShardSpec::of(&state.dir, &manifest, entry, 0);
    clear(state, &mut mover, &spec)?;
    let mut next = manifest.clone();
    next.shards.retain(|entry| entry.id != id);
    state.replace_manifest(&mut manifest, next)
}

/// Closes a shard that has left, on its worker: its disk may hang, and is most likely to where the shard was replaced for that.
pub fn close(state: &State, shard: &Arc<Shard>, worker: &Worker) -> Result<()> {
    if worker.is_stuck() {
        return Err(Error::new(ErrorKind::Unavailable, "it hangs, and lets its files go when it answers")
            .at(&shard.dir)
            .on(shard.id));
    }
    let of = shard.clone();
    let ticket = worker.run(move || of.close());
    worker.wait(&ticket, state.settings.shard_timeout * CLOSING, &AtomicU64::new(0))
}

/// Does something to a shard that is in no layout on a worker, and waits for it as long as for a step of a flush: who waits may
/// hold up others.
pub fn wait<T: Send + 'static>(
    state: &State,
    worker: &Worker,
    job: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    worker.wait(&worker.run(job), state.settings.shard_timeout, &AtomicU64::new(0))
}

/// Clears the directory of a shard that is in no layout. One that hangs is left alone until it answers.
fn clear(state: &State, mover: &mut Mover, spec: &ShardSpec) -> Result<()> {
    let worker = mover.worker_beside(spec.id, state.seams.background.has_workers())?;
    if worker.is_stuck() {
        return Err(Error::new(ErrorKind::Unavailable, "the shard's directory does not answer")
            .at(&spec.dir)
            .on(spec.id)
            .remedy("look at its disk and the kernel log"));
    }
    let (disk, of) = (state.seams.disk.clone(), spec.clone());
    wait(state, &worker, move || Shard::clear(disk.as_ref(), &of))?;
    mover.beside.retain(|(id, _)| *id != spec.id);
    Ok(())
}

/// Clears what is left of shards that were to join when their change was cancelled, and forgets them.
pub fn settle(state: &State, mover: &mut Mover) -> Result<()> {
    let mut manifest = state.manifest.lock();
    let abandoned = |manifest: &Manifest| -> Vec<ShardSpec> {
        let entries = manifest.shards.iter().filter(|entry| entry.state == ShardState::Abandoned);
        entries.map(|entry| ShardSpec::of(&state.dir, manifest, entry, 0)).collect()
    };
    let specs = abandoned(&manifest);
    if specs.is_empty() {
        return Ok(());
    }
    for spec in &specs {
        clear(state, mover, spec)?;
    }
    let mut next = manifest.clone();
    next.shards.retain(|entry| entry.state != ShardState::Abandoned);
    state.replace_manifest(&mut manifest, next)
}

/// Goes back to the manifest of before a change that could not begin.
pub fn roll_back(
    state: &State,
    mover: &mut Mover,
    manifest: &mut Manifest,
    mut before: Manifest,
    specs: &[ShardSpec],
) {
    for spec in specs {
        if let Err(error) = clear(state, mover, spec) {
            log::warn!("the directory of a shard that did not join could not be cleared: {error}");
            let entry = manifest.entry(spec.id).cloned();
            before.shards.extend(entry.map(|entry| ShardEntry { state: ShardState::Abandoned, ..entry }));
        }
    }
    if let Err(error) = state.replace_manifest(manifest, before) {
        log::warn!("a change that did not begin is rolled back in the background: {error}");
    }
    // For what is left to be done, if anything is.
    state.signals.want_change();
}

/// Rolls back a change that did not begin, where that failed at first.
pub fn undo(state: &State) -> Result<()> {
    let mut manifest = state.manifest.lock();
    let mut next = manifest.clone();
    next.change = None;
    let joining = next.shards.iter_mut().filter(|entry| entry.state == ShardState::Joining);
    joining.for_each(|entry| entry.state = ShardState::Abandoned);
    state.replace_manifest(&mut manifest, next)
}
