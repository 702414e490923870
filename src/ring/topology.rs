//! What a store's manifest remembers of its ring: who the members are and which virtual nodes they own.
//!
//! Invariants: members are in ascending order of their ids, and the assignment names exactly them; a topology that
//! was read back has been validated (deserializing an inconsistent one fails).

use super::assignment::{self, Assignment};
use super::next::Next;
use super::partitioner::Partitioner;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, ShardId};
use crate::limits::{MAX_REPLICATION_FACTOR, MAX_SHARDS, MAX_VIRTUAL_NODES, MIN_VIRTUAL_NODES};
use serde::{Deserialize, Serialize};

/// The longest name of a zone, in bytes.
const MAX_ZONE_BYTES: usize = 255;

/// A shard's place in the topology.
///
/// ```
/// use annulus::{Member, ShardId};
///
/// let member = Member::new(ShardId(3)).zone("nvme1").weight(2.0);
/// assert_eq!((member.zone.as_str(), member.weight), ("nvme1", 2.0));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// The shard.
    pub id: ShardId,
    /// Its failure domain (a disk, a controller, a mount): replicas are spread over as many zones as there are. At
    /// most 255 bytes. All members of one zone may fail together.
    pub zone: String,
    /// How much it should hold, in relation to the others. Finite and greater than 0.
    pub weight: f64,
}

impl Member {
    /// A member of weight 1 in the zone with the empty name.
    pub fn new(id: ShardId) -> Member {
        Member { id, zone: String::new(), weight: 1.0 }
    }

    /// The same in another failure domain.
    pub fn zone(mut self, zone: impl Into<String>) -> Member {
        self.zone = zone.into();
        self
    }

    /// The same with another weight.
    pub fn weight(mut self, weight: f64) -> Member {
        self.weight = weight;
        self
    }
}

/// One version of the ring, as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub(crate) struct Topology {
    pub epoch: Epoch,
    pub replication_factor: usize,
    pub virtual_nodes: u32,
    pub partitioner: Partitioner,
    pub members: Vec<Member>,
    /// How far loads may lie from their shares; topologies written before there was one had none.
    #[serde(skip_serializing_if = "is_none")]
    pub tolerance: f64,
    pub assignment: Assignment,
}

#[expect(clippy::trivially_copy_pass_by_ref)] // It is called so.
fn is_none(tolerance: &f64) -> bool {
    *tolerance == 0.0
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    epoch: Epoch,
    replication_factor: usize,
    virtual_nodes: u32,
    partitioner: Partitioner,
    members: Vec<Member>,
    #[serde(default)]
    tolerance: f64,
    assignment: Assignment,
}

impl TryFrom<Unchecked> for Topology {
    type Error = Error;

    fn try_from(raw: Unchecked) -> Result<Topology> {
        let topology = Topology {
            epoch: raw.epoch,
            replication_factor: raw.replication_factor,
            virtual_nodes: raw.virtual_nodes,
            partitioner: raw.partitioner,
            members: raw.members,
            tolerance: raw.tolerance,
            assignment: raw.assignment,
        };
        topology.validate()?;
        Ok(topology)
    }
}

impl Topology {
    /// The first topology of a store: epoch 1, placed from scratch.
    pub fn first(
        members: Vec<Member>,
        replication_factor: usize,
        virtual_nodes: u32,
        partitioner: Partitioner,
    ) -> Result<Topology> {
        partitioner.validate()?;
        let replacements = Vec::new();
        let next = Next { members, replication_factor, virtual_nodes, replacements, tolerance: 0.0 };
        let assignment = assignment::assign(None, &next)?;
        Ok(Self::assemble(Epoch(1), next, assignment, partitioner))
    }

    /// The next topology, placed with the least movement of data.
    pub fn next(&self, next: Next) -> Result<Topology> {
        next.validate(&self.members)?;
        let assignment = assignment::assign(Some(&self.assignment), &next)?;
        Ok(Self::assemble(self.next_epoch(), next, assignment, self.partitioner))
    }

    /// The next topology: twice the virtual nodes, and no data moved.
    pub fn doubled(&self) -> Result<Topology> {
        let assignment = assignment::double(&self.assignment)?;
        Ok(Self::assemble(self.next_epoch(), Next::like(self), assignment, self.partitioner))
    }

    fn assemble(epoch: Epoch, next: Next, assignment: Assignment, partitioner: Partitioner) -> Topology {
        let Next { mut members, tolerance, .. } = next;
        members.sort_by_key(|member| member.id);
        Topology {
            epoch,
            replication_factor: assignment.replication_factor(),
            virtual_nodes: assignment.virtual_nodes(),
            partitioner,
            members,
            tolerance,
            assignment,
        }
    }

    fn next_epoch(&self) -> Epoch {
        Epoch(self.epoch.0.saturating_add(1))
    }

    /// An error if anything is outside its limits or contradicts the rest. Whether the placement is a good one is for
    /// [`check`](super::check::check) to say.
    pub fn validate(&self) -> Result<()> {
        validate(&self.members, self.replication_factor, self.virtual_nodes)?;
        validate_tolerance(self.tolerance)?;
        self.partitioner.validate()?;
        self.assignment.validate()?;
        let placed = (self.assignment.replication_factor(), self.assignment.virtual_nodes());
        if placed != (self.replication_factor, self.virtual_nodes) {
            return Err(inconsistent(format!(
                "its assignment has {} owners for each of {} virtual nodes, but {} and {} were expected",
                placed.0, placed.1, self.replication_factor, self.virtual_nodes
            )));
        }
        if !self.members.iter().map(|member| member.id).eq(self.assignment.shards().iter().copied()) {
            return Err(inconsistent("its assignment does not name its members in order of their ids"));
        }
        Ok(())
    }
}

/// A topology, or a part of one, that contradicts itself: it was not written by this code, or not read as written.
pub(super) fn inconsistent(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corruption, format!("the ring's topology is inconsistent: {what}"))
        .remedy("restore the manifest from one of its copies")
}

/// An error if members, replication factor or number of virtual nodes are outside their limits.
pub(super) fn validate(members: &[Member], replication_factor: usize, virtual_nodes: u32) -> Result<()> {
    if members.is_empty() || members.len() > MAX_SHARDS {
        return Err(Error::invalid(format!("{} shards, but a ring has 1 to {MAX_SHARDS}", members.len()))
            .remedy("give at least one shard, and merge small ones if there are too many"));
    }
    if replication_factor == 0 || replication_factor > MAX_REPLICATION_FACTOR {
        return Err(Error::invalid(format!(
            "the replication factor is {replication_factor}, but must be 1 to {MAX_REPLICATION_FACTOR}"
        )));
    }
    if replication_factor > members.len() {
        return Err(Error::invalid(format!(
            "the replication factor is {replication_factor}, but there are only {} shards",
            members.len()
        ))
        .remedy("add shards or lower the replication factor"));
    }
    if !virtual_nodes.is_power_of_two() || !(MIN_VIRTUAL_NODES..=MAX_VIRTUAL_NODES).contains(&virtual_nodes) {
        return Err(Error::invalid(format!(
            "{virtual_nodes} virtual nodes, but a ring has a power of two from {MIN_VIRTUAL_NODES} to {MAX_VIRTUAL_NODES}"
        )));
    }
    let mut ids: Vec<ShardId> = members.iter().map(|member| member.id).collect();
    ids.sort_unstable();
    if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::invalid("two members are the same shard")
            .on(twice[0])
            .remedy("give every member an id of its own"));
    }
    members.iter().try_for_each(validate_member)
}

/// An error if the tolerance is no part of a whole.
pub(super) fn validate_tolerance(tolerance: f64) -> Result<()> {
    match (0.0..=1.0).contains(&tolerance) {
        true => Ok(()),
        false => Err(Error::invalid(format!("the tolerance is {tolerance}, but must be from 0 to 1"))
            .remedy(
                "give the part of its share by which a load may lie above or below it, 0.05 for example",
            )),
    }
}

fn validate_member(member: &Member) -> Result<()> {
    if !member.weight.is_finite() || member.weight <= 0.0 {
        return Err(Error::invalid(format!(
            "the weight is {}, but must be finite and greater than 0",
            member.weight
        ))
        .on(member.id)
        .remedy("give a weight in relation to the other shards, or drain the shard to empty it"));
    }
    if member.zone.len() > MAX_ZONE_BYTES {
        return Err(Error::invalid(format!(
            "the name of the zone has {} bytes, but may have {MAX_ZONE_BYTES}",
            member.zone.len()
        ))
        .on(member.id));
    }
    Ok(())
}
