//! The members as a planner sees them: numbered densely, grouped by zone, weights as integers.
//!
//! Invariants: the numbering depends on the members alone, not on the order they were given in; the members of a zone
//! are neighbours. Every zone has a least and a most number of owners that a virtual node has in it; sets of owners
//! within these bounds are what "spread over zones" means everywhere in the ring.

use super::topology::{Member, validate};
use crate::error::Result;
use crate::ids::ShardId;
use std::collections::BTreeMap;
use std::ops::Range;

/// Weights are scaled to this maximum, so that all sums and products of the planner are exact.
const WEIGHT_SCALE: f64 = (1_u64 << 40) as f64;

/// The members of one failure domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Zone {
    pub members: Range<usize>,
    /// The fewest owners that a virtual node has here.
    pub least: usize,
    /// The most owners that a virtual node has here.
    pub most: usize,
}

/// A validated set of members, and what is to be placed on them.
#[derive(Debug, Clone)]
pub(super) struct Cluster {
    pub ids: Vec<ShardId>,
    pub weights: Vec<u128>,
    pub zone_of: Vec<usize>,
    pub zones: Vec<Zone>,
    pub replicas: usize,
    pub virtual_nodes: u32,
}

impl Cluster {
    pub fn new(members: &[Member], replicas: usize, virtual_nodes: u32) -> Result<Cluster> {
        validate(members, replicas, virtual_nodes)?;
        let heaviest = members.iter().map(|m| m.weight).fold(0.0, f64::max);
        let mut by_zone: BTreeMap<&str, Vec<&Member>> = BTreeMap::new();
        for member in members {
            by_zone.entry(&member.zone).or_default().push(member);
        }
        let sizes: Vec<usize> = by_zone.values().map(Vec::len).collect();
        let bounds = zone_bounds(&sizes, replicas);
        let mut cluster = Cluster {
            ids: Vec::with_capacity(members.len()),
            weights: Vec::with_capacity(members.len()),
            zone_of: Vec::with_capacity(members.len()),
            zones: Vec::with_capacity(sizes.len()),
            replicas,
            virtual_nodes,
        };
        for (zone, (mut group, (least, most))) in by_zone.into_values().zip(bounds).enumerate() {
            group.sort_by_key(|m| m.id);
            let start = cluster.ids.len();
            for member in group {
                cluster.ids.push(member.id);
                // A weight that rounds to nothing still counts: it is positive.
                let scaled = (member.weight / heaviest * WEIGHT_SCALE).round().max(1.0);
                cluster.weights.push(scaled as u128);
                cluster.zone_of.push(zone);
            }
            cluster.zones.push(Zone { members: start..cluster.ids.len(), least, most });
        }
        Ok(cluster)
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// All replicas of all virtual nodes.
    pub fn total(&self) -> u128 {
        self.replicas as u128 * u128::from(self.virtual_nodes)
    }

    /// Whether a set of distinct owners of full size is spread over the zones as it should be.
    pub fn is_spread(&self, owners: &[usize]) -> bool {
        let mut counts = vec![0; self.zones.len()];
        for owner in owners {
            counts[self.zone_of[*owner]] += 1;
        }
        self.zones.iter().zip(counts).all(|(zone, count)| (zone.least..=zone.most).contains(&count))
    }
}

/// The least and the most owners of a virtual node in each zone: as even as the sizes of the zones allow. With as many
/// zones as replicas or more, at most one; with fewer, the quotient rounded down or up, a zone with fewer members than
/// that being used whole.
fn zone_bounds(sizes: &[usize], replicas: usize) -> Vec<(usize, usize)> {
    let room = |level: usize| sizes.iter().map(|size| level.min(*size)).sum::<usize>();
    let level = (1..=replicas).find(|level| room(*level) >= replicas).unwrap_or(replicas);
    // Where no zone can take more than it must, each takes exactly that.
    let spare = if room(level) == replicas { 0 } else { 1 };
    sizes.iter().map(|size| ((level - spare).min(*size), level.min(*size))).collect()
}

#[cfg(test)]
mod tests {
    use super::zone_bounds;

    #[test]
    fn zones_take_as_even_a_number_of_owners_as_their_sizes_allow() {
        assert_eq!(zone_bounds(&[4, 4, 4], 2), [(0, 1); 3]);
        assert_eq!(zone_bounds(&[4, 1, 9], 3), [(1, 1); 3]);
        assert_eq!(zone_bounds(&[5, 5], 3), [(1, 2); 2]);
        assert_eq!(zone_bounds(&[1, 5], 3), [(1, 1), (2, 2)]);
        assert_eq!(zone_bounds(&[1, 5], 4), [(1, 1), (3, 3)]);
        assert_eq!(zone_bounds(&[8], 3), [(3, 3)]);
        assert_eq!(zone_bounds(&[2, 2, 1], 5), [(2, 2), (2, 2), (1, 1)]);
    }
}
