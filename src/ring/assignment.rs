//! Which shards own which virtual node, and how that is computed.
//!
//! A placement is planned in four steps:
//! 1. [`share`](super::share): how much each member should hold (exact water-filling of weights under caps);
//! 2. who owns what: without a previous placement [`draw`](super::draw) draws owners at random, and yet exactly as
//!    much as each share says; with one, [`flow`](super::flow) finds the placement that moves the least data;
//! 3. [`primary`](super::primary): which of the owners comes first;
//! 4. [`check`](super::check): all the rules are verified again, from the result alone.
//!
//! Invariants: an assignment is a function of its inputs, on every platform; the order in which members are given does
//! not matter; every virtual node has as many distinct owners as the replication factor says.

use super::check::check;
use super::cluster::Cluster;
use super::next::Next;
use super::topology::inconsistent;
use super::{draw, flow, primary, share};
use crate::error::{Error, Result};
use crate::ids::ShardId;
use crate::limits::{MAX_REPLICATION_FACTOR, MAX_SHARDS, MAX_VIRTUAL_NODES, MIN_VIRTUAL_NODES};
use serde::{Deserialize, Serialize};

/// In a planner's table: nobody.
pub(super) const VACANT: u16 = u16::MAX;

/// The owners of every virtual node, the primary first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Assignment {
    replication_factor: usize,
    /// In ascending order; `owners` holds indexes into it.
    shards: Vec<ShardId>,
    owners: Vec<u16>,
}

impl Assignment {
    pub fn replication_factor(&self) -> usize {
        self.replication_factor
    }

    pub fn virtual_nodes(&self) -> u32 {
        // A table longer than any ring fails validation, whatever this says.
        u32::try_from(self.owners.len() / self.replication_factor.max(1)).unwrap_or(u32::MAX)
    }

    /// The shards that own virtual nodes, in ascending order.
    pub fn shards(&self) -> &[ShardId] {
        &self.shards
    }

    /// The owners of all virtual nodes in their order, each as an index into [`shards`](Self::shards).
    pub fn owners(&self) -> &[u16] {
        &self.owners
    }

    /// The owners of each virtual node, as indexes.
    pub fn lists(&self) -> std::slice::ChunksExact<'_, u16> {
        self.owners.chunks_exact(self.replication_factor)
    }

    /// An error if this is no assignment at all: after it, every accessor keeps its word.
    pub fn validate(&self) -> Result<()> {
        let replicas = self.replication_factor;
        if replicas == 0 || replicas > MAX_REPLICATION_FACTOR || !self.owners.len().is_multiple_of(replicas) {
            return Err(inconsistent(format!("{} owners for {replicas} replicas", self.owners.len())));
        }
        let virtual_nodes = self.virtual_nodes();
        if !virtual_nodes.is_power_of_two()
            || !(MIN_VIRTUAL_NODES..=MAX_VIRTUAL_NODES).contains(&virtual_nodes)
        {
            return Err(inconsistent(format!("owners for {virtual_nodes} virtual nodes")));
        }
        if self.shards.len() > MAX_SHARDS || !self.shards.is_sorted_by(|a, b| a < b) {
            return Err(inconsistent("its shards are too many, or not in ascending order"));
        }
        for (virtual_node, owners) in self.lists().enumerate() {
            let known = owners.iter().all(|owner| usize::from(*owner) < self.shards.len());
            let distinct = (1..owners.len()).all(|at| !owners[..at].contains(&owners[at]));
            if !known || !distinct {
                return Err(inconsistent(format!(
                    "virtual node {virtual_node} has the owners {owners:?}, but they must be distinct and below {}",
                    self.shards.len()
                )));
            }
        }
        Ok(())
    }
}

/// Plans the placement that is asked for.
///
/// With a previous placement, the data that moves is the least that any placement within the rules could move. It
/// must have as many virtual nodes, or fewer by a power of two; then it is doubled first.
///
/// A successor begins with the virtual nodes of the member that it replaces, so that with the same weight and zone nothing
/// else moves. Where these are in the way, in another zone for example, it begins with nothing if that moves less.
pub(super) fn assign(previous: Option<&Assignment>, next: &Next) -> Result<Assignment> {
    let cluster = Cluster::new(&next.members, next.replication_factor, next.virtual_nodes)?;
    let shares = share::shares(&cluster);
    let place = |kept: &Previous| flow::least_movement(&cluster, &shares, next.tolerance, kept);
    let previous = match previous {
        Some(previous) => Some(grown(previous, next.virtual_nodes)?),
        None => None,
    };
    let survivors =
        |replacements| previous.as_ref().and_then(|previous| survivors(previous, &cluster, replacements));
    let (mut kept, plain) = (survivors(&next.replacements), survivors(&[]));
    let mut owners = match &kept {
        Some(kept) => place(kept),
        None => draw::draw(&cluster, &share::rounded(&cluster, &shares)),
    };
    if let Some(plain) = plain.filter(|_| !next.replacements.is_empty()) {
        let other = place(&plain);
        if plain.copies(&cluster, &other) < plain.copies(&cluster, &owners) {
            (owners, kept) = (other, Some(plain));
        }
    }
    primary::elect(&cluster, &mut owners, kept.as_ref());
    let assignment = numbered(&cluster, &owners);
    check(&assignment, &next.members, next.tolerance)?;
    Ok(assignment)
}

/// Twice the virtual nodes, each child with the owners of its parent: no data moves, since a shard keeps its keys in key
/// order, not by virtual node.
pub(crate) fn double(assignment: &Assignment) -> Result<Assignment> {
    if assignment.virtual_nodes() >= MAX_VIRTUAL_NODES {
        return Err(Error::invalid(format!(
            "the ring has {MAX_VIRTUAL_NODES} virtual nodes, the most there can be"
        )));
    }
    // The leading bits of a position name the virtual node, so the children of one follow one another.
    let owners = assignment.lists().flat_map(|owners| owners.iter().chain(owners)).copied().collect();
    Ok(Assignment { owners, shards: assignment.shards.clone(), ..*assignment })
}

fn grown(previous: &Assignment, virtual_nodes: u32) -> Result<Assignment> {
    let mut grown = previous.clone();
    while grown.virtual_nodes() < virtual_nodes {
        grown = double(&grown)?;
    }
    if grown.virtual_nodes() != virtual_nodes {
        return Err(Error::invalid(format!(
            "{virtual_nodes} virtual nodes, but the ring has {} already",
            previous.virtual_nodes()
        ))
        .remedy("keep their number, or double it: it cannot shrink"));
    }
    Ok(grown)
}

/// A previous placement in a planner's numbering.
#[derive(Debug)]
pub(super) struct Previous {
    pub replicas: usize,
    /// As in an assignment; `VACANT` for those that are no longer members.
    pub owners: Vec<u16>,
}

impl Previous {
    pub fn owners(&self, virtual_node: usize) -> &[u16] {
        &self.owners[virtual_node * self.replicas..][..self.replicas]
    }

    /// How many owners there are that were none before.
    fn copies(&self, cluster: &Cluster, owners: &[u16]) -> usize {
        let lists = owners.chunks_exact(cluster.replicas).zip(self.owners.chunks_exact(self.replicas));
        lists.map(|(now, before)| now.iter().filter(|owner| !before.contains(owner)).count()).sum()
    }
}

/// What is left of a placement, successors in the place of those that they replace; none if nothing is.
fn survivors(
    previous: &Assignment,
    cluster: &Cluster,
    replacements: &[(ShardId, ShardId)],
) -> Option<Previous> {
    let mut number = vec![VACANT; previous.shards.len()];
    for (member, id) in cluster.ids.iter().enumerate() {
        let replaced = replacements.iter().find(|(_, successor)| successor == id).map(|(old, _)| old);
        if let Ok(old) = previous.shards.binary_search(replaced.unwrap_or(id)) {
            number[old] = member as u16;
        }
    }
    let owners: Vec<u16> = previous.owners.iter().map(|owner| number[usize::from(*owner)]).collect();
    owners
        .iter()
        .any(|owner| *owner != VACANT)
        .then_some(Previous { replicas: previous.replication_factor, owners })
}

/// A planner's table as an assignment.
fn numbered(cluster: &Cluster, owners: &[u16]) -> Assignment {
    let mut shards = cluster.ids.clone();
    shards.sort_unstable();
    let number: Vec<u16> =
        cluster.ids.iter().map(|id| shards.partition_point(|other| other < id) as u16).collect();
    // A vacancy that a planner left is kept as what it is, so that the check finds it.
    let owners =
        owners.iter().map(|owner| number.get(usize::from(*owner)).copied().unwrap_or(VACANT)).collect();
    Assignment { replication_factor: cluster.replicas, shards, owners }
}
