//! What a change of the topology would do: members, placement, bytes, and what stands in the way.

use super::explore::{Explored, explore};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{ShardId, VirtualNode};
use crate::limits::MAX_REPLICATION_FACTOR;
use crate::manifest::Manifest;
use crate::options::ShardOptions;
use crate::plan::{Plan, PlannedShard, Problem, Request, Role};
use crate::ring::{Member, Move, Next, Ring};
use crate::shard::Layout;
use crate::state::State;
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

/// A plan with what only carrying it out needs.
pub struct Worked {
    pub plan: Plan,
    pub ring: Ring,
    /// The shards that join, with the paths that the user gave.
    pub joining: Vec<(ShardId, PathBuf)>,
}

/// Works a plan out, and the ring that it leads to; nothing is changed.
pub fn preview(state: &State, requests: &[Request]) -> Result<(Plan, Ring)> {
    state.check_open()?;
    // Whoever begins it looks again, under the lock.
    let manifest = state.written();
    if let Some(change) = &manifest.change {
        return Err(busy(change.next.epoch.0));
    }
    let worked = work_out(state, &manifest, requests, &explore(state, requests)?)?;
    Ok((worked.plan, worked.ring))
}

pub fn busy(epoch: u64) -> Error {
    Error::new(ErrorKind::Busy, format!("a change of the topology is under way, to epoch {epoch}"))
        .remedy("wait for it or cancel it, then plan again")
}

/// The members, numbers and options that the requests come to.
struct Wanted {
    members: Vec<Member>,
    replicas: usize,
    virtual_nodes: u32,
    tolerance: f64,
    joining: Vec<(ShardId, PathBuf)>,
    replaced: Vec<(ShardId, ShardId)>,
}

pub fn work_out(
    state: &State,
    manifest: &Manifest,
    requests: &[Request],
    explored: &Explored,
) -> Result<Worked> {
    let layout = state.layout();
    let ring = &layout.ring;
    let mut wanted = Wanted {
        members: ring.members().to_vec(),
        replicas: ring.replication_factor(),
        virtual_nodes: ring.virtual_nodes(),
        tolerance: manifest.topology.tolerance,
        joining: Vec::new(),
        replaced: Vec::new(),
    };
    let mut next_shard = manifest.next_shard;
    for request in requests {
        wanted.take(request, &mut next_shard)?;
    }
    let asked = wanted.replicas;
    if asked > MAX_REPLICATION_FACTOR {
        return Err(Error::invalid(format!(
            "the replication factor is {asked}, but must be 1 to {MAX_REPLICATION_FACTOR}"
        )));
    }
    wanted.replicas = asked.min(wanted.members.len());
    let next = ring.replan_with(Next {
        members: wanted.members.clone(),
        replication_factor: wanted.replicas,
        virtual_nodes: wanted.virtual_nodes,
        replacements: wanted.replaced.clone(),
        tolerance: wanted.tolerance,
    })?;
    let moves = ring.moves_to(&next)?;
    let shards = planned_shards(state, manifest, &layout, &next, &moves, &wanted.joining, explored);
    let mut problems = Vec::new();
    if asked > wanted.replicas {
        problems.push(Problem::TooFewShards { replicas: asked, shards: wanted.members.len() });
    }
    problems.extend(too_few_zones(ring, &next));
    problems.extend(unbalanced(ring, &next));
    problems.extend(in_the_way(&layout, &next)?.into_iter().map(|shard| Problem::Offline { shard }));
    problems.extend(too_small(explored, &shards));
    let plan = Plan {
        store: manifest.store,
        epoch: ring.epoch(),
        next_epoch: next.epoch(),
        requests: requests.to_vec(),
        replication_factor: (ring.replication_factor(), next.replication_factor()),
        virtual_nodes: (ring.virtual_nodes(), next.virtual_nodes()),
        bytes: shards.iter().map(|shard| shard.bytes_gained).sum(),
        shards,
        moves,
        balance: (ring.balance(), next.balance()),
        zone_violations: next.zone_violations(),
        problems,
        accepted: false,
    };
    Ok(Worked { plan, ring: next, joining: wanted.joining })
}

fn no_member(id: ShardId) -> Error {
    let text = "the plan names a shard that is no member of the ring, or leaves by it";
    Error::new(ErrorKind::NotFound, text).on(id).remedy("see stats() for the members")
}

impl Wanted {
    fn take(&mut self, request: &Request, next_shard: &mut u32) -> Result<()> {
        match request {
            Request::AddShard(options) => {
                self.join(options, next_shard)?;
            }
            Request::SetWeight(id, weight) => self.member(*id)?.weight = *weight,
            Request::SetZone(id, zone) => self.member(*id)?.zone.clone_from(zone),
            Request::DrainShard(id) => {
                self.leaving(*id)?;
                self.members.retain(|member| member.id != *id);
            }
            Request::ReplaceShard(id, options) => {
                let old = self.leaving(*id)?.clone();
                let new = self.join(options, next_shard)?;
                self.members.retain(|member| member.id != *id);
                self.replaced.push((*id, new));
                if options.zone.is_empty() && options.weight == 1.0 {
                    let member = self.member(new)?;
                    (member.zone, member.weight) = (old.zone, old.weight);
                }
            }
            Request::SetReplicationFactor(replicas) => self.replicas = *replicas,
            Request::SetVirtualNodes(count) => self.virtual_nodes = *count,
            Request::SetTolerance(tolerance) => self.tolerance = *tolerance,
        }
        Ok(())
    }

    fn join(&mut self, options: &ShardOptions, next_shard: &mut u32) -> Result<ShardId> {
        let id = ShardId(*next_shard);
        *next_shard = next_shard
            .checked_add(1)
            .ok_or_else(|| Error::invalid("every number for a shard has been used in this store"))?;
        self.members.push(Member { id, zone: options.zone.clone(), weight: options.weight });
        self.joining.push((id, options.path.clone()));
        Ok(id)
    }

    /// A member that there is already: one that joins by the same plan has nothing to leave, and must not stay behind in `joining`.
    fn leaving(&mut self, id: ShardId) -> Result<&mut Member> {
        match self.joining.iter().any(|(joins, _)| *joins == id) {
            true => Err(no_member(id)),
            false => self.member(id),
        }
    }

    fn member(&mut self, id: ShardId) -> Result<&mut Member> {
        self.members.iter_mut().find(|member| member.id == id).ok_or_else(|| no_member(id))
    }
}

fn planned_shards(
    state: &State,
    manifest: &Manifest,
    layout: &Layout,
    next: &Ring,
    moves: &[Move],
    joining: &[(ShardId, PathBuf)],
    explored: &Explored,
) -> Vec<PlannedShard> {
    let ring = &layout.ring;
    let (before, after) = (ring.balance(), next.balance());
    let load = |balance: &crate::ring::Balance, id: ShardId| {
        balance.shards.iter().find(|shard| shard.shard == id).map_or(0, |shard| shard.load)
    };
    let children = (next.virtual_nodes() / ring.virtual_nodes().max(1)).max(1);
    // Bytes of one virtual node of the next ring on each shard as it is.
    let each: BTreeMap<ShardId, u64> = (layout.shards.iter())
        .map(|shard| {
            let bytes = shard.engine().and_then(|engine| engine.live_bytes()).unwrap_or(0);
            (shard.id, bytes / u64::from(load(&before, shard.id).max(1) * children))
        })
        .collect();
    let size_of = |node: VirtualNode| {
        let owners = ring.owners(VirtualNode(node.0 / children));
        let known: Vec<u64> =
            owners.iter().filter_map(|id| each.get(id)).copied().filter(|b| *b > 0).collect();
        known.iter().sum::<u64>() / known.len().max(1) as u64
    };
    let mut ids: Vec<ShardId> = ring.members().iter().chain(next.members()).map(|m| m.id).collect();
    ids.sort_unstable();
    ids.dedup();
    let of = |id: ShardId| {
        let member = next.members().iter().chain(ring.members()).find(|m| m.id == id);
        let path = match joining.iter().find(|(new, _)| *new == id) {
            Some((_, path)) => path.clone(),
            None => manifest.entry(id).map(|entry| state.dir.join(&entry.path)).unwrap_or_default(),
        };
        let is_in = |ring: &Ring| ring.members().iter().any(|m| m.id == id);
        let role = match (is_in(ring), is_in(next)) {
            (true, false) => Role::Leaves,
            (false, _) => Role::Joins,
            _ => Role::Stays,
        };
        let gained = moves.iter().filter(|m| m.gained.contains(&id));
        let lost = moves.iter().filter(|m| m.lost.contains(&id));
        PlannedShard {
            id,
            zone: member.map(|m| m.zone.clone()).unwrap_or_default(),
            weight: member.map_or(0.0, |m| m.weight),
            role,
            virtual_nodes: (load(&before, id), load(&after, id)),
            gained: gained.clone().count() as u32,
            lost: lost.clone().count() as u32,
            bytes_gained: gained.map(|m| size_of(m.virtual_node)).sum(),
            bytes_lost: lost.map(|m| size_of(m.virtual_node)).sum(),
            free: explored.space(&path).map(|space| space.free),
            path,
        }
    };
    ids.into_iter().map(of).collect()
}

fn zones(ring: &Ring) -> usize {
    ring.members().iter().map(|member| member.zone.as_str()).collect::<HashSet<_>>().len()
}

/// Fewer zones than copies, unless zones are not used at all, or it is no worse than it was.
fn too_few_zones(ring: &Ring, next: &Ring) -> Option<Problem> {
    let ((before, after), replicas) = ((zones(ring), zones(next)), next.replication_factor());
    let used = before > 1 || after > 1;
    let no_worse =
        before < ring.replication_factor() && after >= before && replicas <= ring.replication_factor();
    (used && after < replicas && !no_worse).then_some(Problem::TooFewZones { replicas, zones: after })
}

fn unbalanced(ring: &Ring, next: &Ring) -> Vec<Problem> {
    let before: HashSet<ShardId> = ring.balance().limited().map(|shard| shard.shard).collect();
    let balance = next.balance();
    let newly = balance.limited().filter(|shard| !before.contains(&shard.shard));
    newly
        .map(|s| Problem::Unbalanced { shard: s.shard, load: s.load, proportional: s.proportional })
        .collect()
}

/// The offline shards that stand in the way: some virtual node would have fewer complete copies than now, and than asked
/// for, since one of its owners to be has missed writes. One that is to lose everything may well be gone.
pub fn in_the_way(layout: &Layout, next: &Ring) -> Result<Vec<ShardId>> {
    let serves = |id: &ShardId| {
        // One that is yet to be made will serve.
        layout.index_of(*id).is_none_or(|index| layout.shards[index].is_complete())
    };
    let count = |owners: &[ShardId]| owners.iter().filter(|id| serves(id)).count();
    let children = (next.virtual_nodes() / layout.ring.virtual_nodes().max(1)).max(1);
    let mut found: Vec<ShardId> = Vec::new();
    for change in layout.ring.moves_to(next)? {
        let before = layout.ring.owners(VirtualNode(change.virtual_node.0 / children));
        let after = next.owners(change.virtual_node);
        let gains_offline = change.gained.iter().any(|id| !serves(id));
        if gains_offline || count(after) < count(before).min(after.len()) {
            found.extend(after.iter().filter(|id| !serves(id)));
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The error of a change that offline shards stand in the way of.
pub fn check_ready(layout: &Layout, next: &Ring) -> Result<()> {
    match in_the_way(layout, next)?.first() {
        None => Ok(()),
        Some(shard) => Err(Error::new(
            ErrorKind::Unavailable,
            "the shard is offline, and some keys would have fewer complete copies than now while it is",
        )
        .on(*shard)
        .remedy("bring it back and reopen the store, or plan to replace it")),
    }
}

/// File systems with less space than what would land on them, and a quarter of it for what writing needs meanwhile.
fn too_small(explored: &Explored, shards: &[PlannedShard]) -> Vec<Problem> {
    let mut by_system: BTreeMap<u64, (u64, u64, Vec<ShardId>)> = BTreeMap::new();
    for shard in shards.iter().filter(|shard| shard.gained > 0) {
        if let Some(space) = explored.space(&shard.path) {
            let (free, needed, ids) = by_system.entry(space.device).or_default();
            *free = space.free;
            *needed += shard.bytes_gained + shard.bytes_gained / 4;
            ids.push(shard.id);
        }
    }
    let small = by_system.into_values().filter(|(free, needed, _)| needed > free);
    small.map(|(free, needed, shards)| Problem::TooSmall { shards, needed, free }).collect()
}
