//! The beginning of a change: shards that join are made, and from then on writes go to old and new owners.

use super::explore::{Explored, explore};
use super::finish::not_open;
use super::preview::{busy, check_ready, work_out};
use super::retire;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, Seq};
use crate::manifest::{ChangeEntry, ChangeStep, Manifest, ShardEntry, ShardState};
use crate::plan::{Plan, Problem, refused};
use crate::shard::{Layout, Shard, ShardSpec, Worker};
use crate::state::State;
use crate::state::change::Mover;
use crate::state::transfer::{level, uneven};
use std::sync::Arc;

/// Begins the change that a plan shows; returns the epoch that it leads to. Nothing has been changed after an error.
pub fn begin(state: &State, plan: &Plan) -> Result<Epoch> {
    state.check_open()?;
    let explored = explore(state, &plan.requests)?;
    let mut mover = state.change.mover.lock();
    let left = explored.left_behind(state, &state.manifest.lock()).is_some();
    // While somebody reads by a layout that names it the shard is open.
    if left && mover.grace.is_empty() {
        let cleared = retire::settle(state, &mut mover);
        cleared.unwrap_or_else(|e| log::warn!("a shard that did not join cannot be cleared yet: {e}"));
    }
    // Held while the turn to flush is waited for: keyspaces are made or dropped before the change or after.
    let mut manifest = state.manifest.lock();
    let worked = recheck(state, &manifest, plan, &explored)?;
    check_ready(&state.layout(), &worked.ring)?;
    let _turn = state.flushing.lock();
    let _chunk = state.moving.lock();
    let applied = level(state)?.ok_or_else(uneven)?;

    let mut next = manifest.clone();
    let taken = next.shards.iter().map(|entry| explored.real(&state.dir.join(&entry.path), &entry.path));
    let placed = explored.place(taken.collect(), &worked.joining)?;
    for ((id, _), (path, own_disk)) in worked.joining.iter().zip(placed) {
        next.shards.push(ShardEntry { state: ShardState::Joining, own_disk, ..ShardEntry::new(*id, path) });
        next.next_shard = next.next_shard.max(id.0.saturating_add(1));
    }
    let specs = specs(state, &next);
    for spec in &specs {
        let (disk, of) = (state.seams.disk.clone(), spec.clone());
        let worker = mover.worker_beside(spec.id, state.seams.background.has_workers())?;
        if let Err(error) = retire::wait(state, &worker, move || Shard::check_joinable(disk.as_ref(), &of)) {
            // It may hang, and the number is another's next time.
            mover.beside.retain(|(id, _)| *id != spec.id);
            return Err(error);
        }
    }
    let topology = worked.ring.topology().clone();
    let planned = worked.plan.bytes;
    let entry = |step| {
        Some(ChangeEntry {
            next: topology.clone(),
            step,
            position: Vec::new(),
            records: 0,
            bytes: 0,
            planned,
        })
    };
    next.change = entry(ChangeStep::Preparing);
    let before = manifest.clone();
    state.replace_manifest(&mut manifest, next.clone())?;
    let installed = join(state, &mut mover, &specs, applied).and_then(|joined| {
        next.change = entry(ChangeStep::Copying);
        let layout = Layout::of(&next, |entry| found(state, &joined, entry))?;
        next.generation = manifest.generation;
        state.replace_manifest(&mut manifest, next)?;
        Ok(layout)
    });
    let layout = match installed {
        Ok(layout) => layout,
        Err(error) => {
            // The numbers of these shards are not given out again: what is left of them is told from other shards by that.
            let undone =
                Manifest { next_shard: manifest.next_shard, generation: manifest.generation, ..before };
            retire::roll_back(state, &mut mover, &mut manifest, undone, &specs);
            return Err(error);
        }
    };
    mover.replaced(&state.replace_layout(layout), Vec::new());
    (mover.position, mover.level, mover.compared) = (Vec::new(), true, false);
    state.change.begin(worked.ring.epoch(), (0, 0), planned);
    Ok(worked.ring.epoch())
}

/// The plan worked out again, unless what it was made for has changed or stands in its way.
fn recheck(
    state: &State,
    manifest: &Manifest,
    plan: &Plan,
    explored: &Explored,
) -> Result<super::preview::Worked> {
    if let Some(epoch) = manifest.change.as_ref().map(|c| c.next.epoch).or(state.change.current()) {
        return Err(busy(epoch.0));
    }
    if plan.store != manifest.store {
        return Err(Error::new(ErrorKind::Mismatch, "the plan was made for another store"));
    }
    let stale =
        |why: &str| Error::new(ErrorKind::Stale, format!("the plan is stale: {why}")).remedy("plan again");
    if plan.epoch != manifest.topology.epoch {
        return Err(stale(&format!(
            "it was made for epoch {}, the store is at {}",
            plan.epoch, manifest.topology.epoch
        )));
    }
    let worked = work_out(state, manifest, &plan.requests, explored)?;
    if (&worked.plan.moves, worked.plan.next_epoch) != (&plan.moves, plan.next_epoch) {
        return Err(stale("it now comes to other moves"));
    }
    let new = |problem: &&Problem| !plan.accepted || !plan.problems.iter().any(|p| same_kind(p, problem));
    if let Some(problem) = worked.plan.problems.iter().find(new) {
        return Err(refused(problem));
    }
    if let Some(entry) = explored.left_behind(state, manifest) {
        let text = "a shard is to be made where one was to join by a change that was given up, which is not cleared yet";
        return Err(Error::new(ErrorKind::Busy, text)
            .at(state.dir.join(&entry.path))
            .on(entry.id)
            .remedy("name another directory, or try again when its disk answers, lets files be removed, or is unmounted"));
    }
    // Its new engine is given what the change brings, and would keep it if the change were given up.
    let compacts = |shard: &&Arc<Shard>| shard.is_filling() && shard.serves();
    if let Some(shard) = state.layout().shards.iter().find(compacts) {
        return Err(Error::new(ErrorKind::Busy, "the shard is being compacted")
            .on(shard.id)
            .remedy("try again when that is over"));
    }
    // Copies that nobody keeps up would pass for records where they are gained again.
    let gains = |entry: &&ShardEntry| worked.plan.moves.iter().any(|m| m.gained.contains(&entry.id));
    if let Some(entry) = manifest.shards.iter().find(|e| e.stale && gains(e)) {
        return Err(Error::new(
            ErrorKind::Busy,
            "the shard still holds records of an earlier change, which are being removed",
        )
        .on(entry.id)
        .remedy("try again when that is over; bring the shard back if it is offline"));
    }
    Ok(worked)
}

/// Figures within a problem change from one moment to the next; what was accepted is the problem.
fn same_kind(a: &Problem, b: &Problem) -> bool {
    match (a, b) {
        (Problem::Unbalanced { shard: a, .. }, Problem::Unbalanced { shard: b, .. })
        | (Problem::Offline { shard: a }, Problem::Offline { shard: b }) => a == b,
        (Problem::TooSmall { shards: a, .. }, Problem::TooSmall { shards: b, .. }) => a == b,
        _ => std::mem::discriminant(a) == std::mem::discriminant(b),
    }
}

fn specs(state: &State, manifest: &Manifest) -> Vec<ShardSpec> {
    let joining = manifest.shards.iter().filter(|entry| entry.state == ShardState::Joining);
    // What they would have if the store were opened now: empty they take none of it, and all memory is shared out when the
    // layout that names them is in place.
    let open = |entry: &&ShardEntry| matches!(entry.state, ShardState::Member | ShardState::Joining);
    let cache = state.settings.opening_cache(manifest.shards.iter().filter(open).count());
    let patience = state.settings.shard_timeout;
    joining.map(|entry| ShardSpec::of(&state.dir, manifest, entry, cache).within(patience)).collect()
}

type Joined = Vec<(Arc<Shard>, Arc<Worker>)>;

/// Makes and opens the shards that join, each on its worker: a disk that hangs holds up the caller for so long and no longer.
fn join(state: &State, mover: &mut Mover, specs: &[ShardSpec], applied: Seq) -> Result<Joined> {
    let mut joined = Joined::new();
    for spec in specs {
        let worker = mover.worker_beside(spec.id, state.seams.background.has_workers())?;
        let (disk, factory, of) = (state.seams.disk.clone(), state.seams.factory.clone(), spec.clone());
        let shard = retire::wait(state, &worker, move || {
            Shard::create(&disk, factory.as_ref(), &of, applied)?;
            let shard = Shard::open(&disk, factory.as_ref(), &of);
            shard.engine()?;
            Ok(Arc::new(shard))
        })?;
        joined.push((shard, worker));
    }
    mover.beside.retain(|(id, _)| joined.iter().all(|(shard, _)| shard.id != *id));
    Ok(joined)
}

fn found(state: &State, joined: &Joined, entry: &ShardEntry) -> Result<(Arc<Shard>, Arc<Worker>)> {
    let layout = state.layout();
    let known = layout.shards.iter().zip(&layout.workers).map(|(s, w)| (s.clone(), w.clone()));
    let mut all = known.chain(joined.iter().cloned());
    all.find(|(shard, _)| shard.id == entry.id).ok_or_else(|| not_open(entry.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ShardId;

    /// What was accepted of one shard is not accepted of another; figures may change.
    #[test]
    fn problems_are_the_same_whatever_their_figures_are() {
        let unbalanced = |shard, load| Problem::Unbalanced { shard: ShardId(shard), load, proportional: 3.5 };
        let offline = |shard| Problem::Offline { shard: ShardId(shard) };
        let small = |shards: &[u32], free| Problem::TooSmall {
            shards: shards.iter().copied().map(ShardId).collect(),
            needed: 100,
            free,
        };
        let zones = |zones| Problem::TooFewZones { replicas: 3, zones };
        let kinds = [
            [unbalanced(1, 4), unbalanced(1, 9)],
            [unbalanced(2, 4), unbalanced(2, 5)],
            [offline(1), offline(1)],
            [offline(2), offline(2)],
            [small(&[1, 2], 10), small(&[1, 2], 20)],
            [small(&[1], 10), small(&[1], 20)],
            [zones(1), zones(2)],
            [
                Problem::TooFewShards { replicas: 3, shards: 1 },
                Problem::TooFewShards { replicas: 3, shards: 2 },
            ],
        ];
        for (one, problems) in kinds.iter().enumerate() {
            for (other, others) in kinds.iter().enumerate() {
                let same = problems.iter().all(|a| others.iter().all(|b| same_kind(a, b)));
                let any = problems.iter().any(|a| others.iter().any(|b| same_kind(a, b)));
                assert_eq!((same, any), (one == other, one == other), "{problems:?} {others:?}");
            }
        }
    }
}
