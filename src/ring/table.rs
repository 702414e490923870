//! The ring that lookups use: an immutable flat table, shared by all who read.
//!
//! Invariants: a ring never changes; a lookup is a shift and an index, and takes no lock. What it was built from has
//! been validated, so a lookup cannot fail.

use super::balance::{Balance, ShardBalance};
use super::check::check;
use super::cluster::Cluster;
use super::next::Next;
use super::partitioner::Partitioner;
use super::position::Position;
use super::share::{Share, shares};
use super::svg;
use super::topology::{Member, Topology};
use crate::error::{Error, Result};
use crate::ids::{Epoch, ShardId, VirtualNode};
use crate::limits::{MAX_SHARDS, MAX_VIRTUAL_NODES};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Which shards own which keys.
///
/// The ring is cut into equal arcs, the virtual nodes. A key's routing part is hashed to one of them; each is owned by
/// as many distinct shards as the replication factor says, in an order of preference, the primary first. Owners lie
/// in as many zones as possible, loads are in proportion to weights, and a change of members moves the least data that
/// any placement could. Cloning is cheap.
///
/// ```
/// # fn main() -> annulus::Result<()> {
/// use annulus::{Member, Partitioner, Ring, ShardId};
///
/// let disks = ["nvme0", "nvme1", "nvme2"];
/// let members = (0..6).map(|id| Member::new(ShardId(id)).zone(disks[id as usize % 3]));
/// let ring = Ring::plan(members, 2, 1024, Partitioner::Whole)?;
///
/// let owners = ring.preference_list(b"order:4711");
/// assert_eq!(owners.len(), 2);
/// assert_eq!(ring.owners(ring.virtual_node(b"order:4711")), owners);
///
/// let balance = ring.balance();
/// assert!(balance.max_over_mean < 1.01);
/// assert!(ring.zone_violations().is_empty());
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Ring(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    topology: Topology,
    owners: Vec<ShardId>,
    /// What leaves the leading bits of a position, which name the virtual node.
    shift: u32,
    /// For each member, in the topology's order.
    shares: Vec<Share>,
    zones: Vec<usize>,
    zone_count: usize,
}

/// What the next ring changes at one virtual node. Who is the primary may change without this: it moves no data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Move {
    /// A virtual node of the next ring.
    pub virtual_node: VirtualNode,
    /// The shards that must get a copy.
    pub gained: Vec<ShardId>,
    /// The shards whose copy is to be removed afterwards.
    pub lost: Vec<ShardId>,
}

impl Ring {
    /// Plans a ring from scratch, at epoch 1.
    ///
    /// `virtual_nodes` is a power of two from [`MIN_VIRTUAL_NODES`](crate::limits::MIN_VIRTUAL_NODES) to
    /// [`MAX_VIRTUAL_NODES`]; see [`recommended_virtual_nodes`](Self::recommended_virtual_nodes).
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if anything is outside its limits: no members or too many, two
    /// with the same id, more replicas than members, a weight that is not finite and greater than 0. What weights
    /// and zones make impossible together is no error: zones come first, and [`balance`](Self::balance) reports it.
    pub fn plan(
        members: impl IntoIterator<Item = Member>,
        replication_factor: usize,
        virtual_nodes: u32,
        partitioner: Partitioner,
    ) -> Result<Ring> {
        let members = members.into_iter().collect();
        Ring::new(Topology::first(members, replication_factor, virtual_nodes, partitioner)?)
    }

    /// Plans the next ring, for other members, zones, weights or another replication factor, with the least movement
    /// of data from this one.
    ///
    /// ```
    /// # fn main() -> annulus::Result<()> {
    /// # use annulus::{Member, Partitioner, Ring, ShardId};
    /// let ring = Ring::plan((0..3).map(|id| Member::new(ShardId(id))), 2, 1024, Partitioner::Whole)?;
    /// let wider = ring.replan((0..4).map(|id| Member::new(ShardId(id))), 2)?;
    ///
    /// // The fourth shard gets a quarter of the 2 * 1024 replicas, and nothing moves between the others.
    /// let gained: Vec<ShardId> = ring.moves_to(&wider)?.into_iter().flat_map(|step| step.gained).collect();
    /// assert_eq!(gained, vec![ShardId(3); 512]);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn replan(
        &self,
        members: impl IntoIterator<Item = Member>,
        replication_factor: usize,
    ) -> Result<Ring> {
        self.replan_with(Next { members: members.into_iter().collect(), replication_factor, ..self.next() })
    }

    /// What a next ring that is to be like this one is asked to be.
    pub(crate) fn next(&self) -> Next {
        Next::like(&self.0.topology)
    }

    /// Plans the next ring for everything that is asked of it at once, with the least movement of data from this one.
    ///
    /// # Errors
    /// As [`plan`](Self::plan); and if there are to be fewer virtual nodes, if the tolerance is no part of a whole, or if
    /// a replacement does not lead from a member that goes to one that comes.
    pub(crate) fn replan_with(&self, next: Next) -> Result<Ring> {
        Ring::new(self.0.topology.next(next)?)
    }

    /// The next ring with twice the virtual nodes: each child has the owners of its parent, so no data moves.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) at [`MAX_VIRTUAL_NODES`].
    pub fn doubled(&self) -> Result<Ring> {
        Ring::new(self.0.topology.doubled()?)
    }

    /// Enough virtual nodes for so many shards: loads can be tuned to about a hundredth, and lookups stay in the cache.
    pub fn recommended_virtual_nodes(shards: usize) -> u32 {
        let shards = shards.clamp(1, MAX_SHARDS) as u32;
        (shards.next_power_of_two() * 128).clamp(1024, MAX_VIRTUAL_NODES)
    }

    pub(crate) fn new(topology: Topology) -> Result<Ring> {
        topology.validate()?;
        let shards = topology.assignment.shards();
        let owners = topology.assignment.owners().iter().map(|owner| shards[usize::from(*owner)]).collect();
        let cluster = Cluster::new(&topology.members, topology.replication_factor, topology.virtual_nodes)?;
        let mut by_id: Vec<usize> = (0..cluster.len()).collect();
        by_id.sort_unstable_by_key(|member| cluster.ids[*member]);
        let shares = shares(&cluster);
        Ok(Ring(Arc::new(Inner {
            owners,
            shift: u64::BITS - topology.virtual_nodes.trailing_zeros(),
            shares: by_id.iter().map(|member| shares[*member]).collect(),
            zones: by_id.iter().map(|member| cluster.zone_of[*member]).collect(),
            zone_count: cluster.zones.len(),
            topology,
        })))
    }

    /// What the manifest remembers of this ring.
    pub(crate) fn topology(&self) -> &Topology {
        &self.0.topology
    }

    /// The version of the topology.
    pub fn epoch(&self) -> Epoch {
        self.0.topology.epoch
    }

    /// How many shards own each virtual node.
    pub fn replication_factor(&self) -> usize {
        self.0.topology.replication_factor
    }

    /// How many virtual nodes there are.
    pub fn virtual_nodes(&self) -> u32 {
        self.0.topology.virtual_nodes
    }

    /// How far a load may lie from its share, as a part of it, where that saved movement.
    pub fn tolerance(&self) -> f64 {
        self.0.topology.tolerance
    }

    /// Which part of a key is hashed.
    pub fn partitioner(&self) -> Partitioner {
        self.0.topology.partitioner
    }

    /// The members, in ascending order of their ids.
    pub fn members(&self) -> &[Member] {
        &self.0.topology.members
    }

    /// The virtual node that a key belongs to.
    #[inline]
    pub fn virtual_node(&self, key: impl AsRef<[u8]>) -> VirtualNode {
        self.virtual_node_at(self.position(key))
    }

    /// Where a key lies. All rings of a store share its partitioner, so that one position asks several of them.
    #[inline]
    pub(crate) fn position(&self, key: impl AsRef<[u8]>) -> Position {
        Position::of(self.0.topology.partitioner.routing_part(key.as_ref()))
    }

    /// The virtual node that a position belongs to.
    #[inline]
    pub(crate) fn virtual_node_at(&self, position: Position) -> VirtualNode {
        // The shift leaves as many bits as there are in the number of virtual nodes: at most 20.
        VirtualNode((position.0 >> self.0.shift) as u32)
    }

    /// The shards that own a position, as indexes into [`members`](Self::members).
    #[inline]
    pub(crate) fn owner_indexes_at(&self, position: Position) -> &[u16] {
        self.owner_indexes(self.virtual_node_at(position))
    }

    /// Whether the member at this index owns a position.
    #[inline]
    pub(crate) fn owns(&self, index: usize, position: Position) -> bool {
        self.owner_indexes_at(position).iter().any(|owner| usize::from(*owner) == index)
    }

    /// The one virtual node that all keys from `lo` up to, and without, `hi` (none: to the end) belong to; none if they
    /// may belong to several.
    pub(crate) fn single_virtual_node(&self, lo: &[u8], hi: Option<&[u8]>) -> Option<VirtualNode> {
        self.0
            .topology
            .partitioner
            .single_route(lo, hi)
            .map(|route| self.virtual_node_at(Position::of(route)))
    }

    /// The shards that own a virtual node, in order of preference: the first is the primary. Empty if there is no
    /// such virtual node.
    #[inline]
    pub fn owners(&self, virtual_node: VirtualNode) -> &[ShardId] {
        row(&self.0.owners, virtual_node, self.0.topology.replication_factor)
    }

    /// The same as indexes into [`members`](Self::members).
    #[inline]
    pub(crate) fn owner_indexes(&self, virtual_node: VirtualNode) -> &[u16] {
        row(self.0.topology.assignment.owners(), virtual_node, self.0.topology.replication_factor)
    }

    /// The shards that own a key, in order of preference.
    #[inline]
    pub fn preference_list(&self, key: impl AsRef<[u8]>) -> &[ShardId] {
        self.owners(self.virtual_node(key))
    }

    /// What must be copied and removed to get to the `next` ring, which has as many virtual nodes, or more by doubling.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if it has fewer.
    pub fn moves_to(&self, next: &Ring) -> Result<Vec<Move>> {
        if next.virtual_nodes() < self.virtual_nodes() {
            return Err(Error::invalid(format!(
                "the next ring has {} virtual nodes, but this one has {} already",
                next.virtual_nodes(),
                self.virtual_nodes()
            ))
            .remedy("compare the older ring with the newer one"));
        }
        let children = (next.virtual_nodes() / self.virtual_nodes()).trailing_zeros();
        let mut moves = Vec::new();
        for virtual_node in (0..next.virtual_nodes()).map(VirtualNode) {
            let (before, after) =
                (self.owners(VirtualNode(virtual_node.0 >> children)), next.owners(virtual_node));
            let gained: Vec<ShardId> =
                after.iter().filter(|owner| !before.contains(owner)).copied().collect();
            let lost: Vec<ShardId> = before.iter().filter(|owner| !after.contains(owner)).copied().collect();
            if !gained.is_empty() || !lost.is_empty() {
                moves.push(Move { virtual_node, gained, lost });
            }
        }
        Ok(moves)
    }

    /// How evenly the shards are loaded, and what keeps loads from the proportion of the weights.
    pub fn balance(&self) -> Balance {
        let inner = &*self.0;
        let mut loads = vec![0; self.members().len()];
        let mut primaries = loads.clone();
        for owners in inner.topology.assignment.lists() {
            owners.iter().for_each(|owner| loads[usize::from(*owner)] += 1);
            primaries[usize::from(owners[0])] += 1;
        }
        let heaviest = self.members().iter().map(|member| member.weight).fold(0.0, f64::max);
        let total_weight: f64 = self.members().iter().map(|member| member.weight / heaviest).sum();
        let shards = self.members().iter().enumerate().map(|(index, member)| ShardBalance {
            shard: member.id,
            weight: member.weight,
            load: loads[index],
            primaries: primaries[index],
            share: inner.shares[index].exact.as_f64(),
            proportional: inner.owners.len() as f64 * (member.weight / heaviest) / total_weight,
            limit: inner.shares[index].limit,
        });
        Balance::new(shards.collect())
    }

    /// The virtual nodes whose owners lie in fewer zones than they could: less than there are zones, and replicas.
    pub fn zone_violations(&self) -> Vec<VirtualNode> {
        let inner = &*self.0;
        let enough = inner.zone_count.min(self.replication_factor());
        let in_fewer = |virtual_node: &VirtualNode| {
            let mut zones: Vec<usize> = self
                .owner_indexes(*virtual_node)
                .iter()
                .map(|owner| inner.zones[usize::from(*owner)])
                .collect();
            zones.sort_unstable();
            zones.dedup();
            zones.len() < enough
        };
        (0..self.virtual_nodes()).map(VirtualNode).filter(in_fewer).collect()
    }

    /// A picture of the ring in SVG: a circle of primaries and one for each further replica, and how much each shard
    /// holds. It needs nothing but itself, and is at most a few hundred kilobytes long.
    ///
    /// ```
    /// # fn main() -> annulus::Result<()> {
    /// # use annulus::{Member, Partitioner, Ring, ShardId};
    /// let ring = Ring::plan((0..3).map(|id| Member::new(ShardId(id))), 2, 1024, Partitioner::Whole)?;
    /// assert!(ring.to_svg().starts_with("<svg"));
    /// # Ok(()) }
    /// ```
    pub fn to_svg(&self) -> String {
        svg::ring_picture(self)
    }

    /// A picture of what must move to get to the `next` ring: where, from whom, to whom, and the loads before and after.
    ///
    /// # Errors
    /// As [`moves_to`](Self::moves_to).
    pub fn to_svg_of_moves(&self, next: &Ring) -> Result<String> {
        svg::moves_picture(self, next)
    }

    /// Verifies every rule of the placement again: distinct owners, spread over the zones, each load its share rounded
    /// down or up, or as far from it as the [tolerance](Self::tolerance) says.
    ///
    /// # Errors
    /// [`Corruption`](crate::ErrorKind::Corruption), with the rule and where it is broken.
    pub fn check(&self) -> Result<()> {
        check(&self.0.topology.assignment, self.members(), self.tolerance())
    }
}

#[inline]
fn row<T>(table: &[T], virtual_node: VirtualNode, replicas: usize) -> &[T] {
    let start = (virtual_node.0 as usize).saturating_mul(replicas);
    table.get(start..start.saturating_add(replicas)).unwrap_or(&[])
}
