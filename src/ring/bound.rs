//! How little any placement could move, computed without one: what the planner is measured by.
//!
//! Bounds, none of them above the truth, of which the largest counts:
//! - *what must come*: a shard gains what its least load exceeds what it had, a zone what its least load exceeds what
//!   it could keep, and where it has fewer owners than it must or, its load being high, than it may;
//! - *what can stay*: of each shard no more than its most load, of each zone no more than its bounds admit or, its load
//!   being low, ask for; all the rest is copied;
//! - both again for some zones apart, and all others together, which share what each virtual node has left for them.

use super::cluster::{Cluster, Zone};
use super::share::{Share, shares, tolerated};
use super::table::Ring;
use crate::error::Result;
use crate::ids::VirtualNode;

/// With more zones than this not all divisions are tried.
const MANY_ZONES: usize = 6;

/// No placement with the members, replicas, virtual nodes and tolerance of `after` makes fewer copies of `before`.
pub fn least_copies(before: &Ring, after: &Ring) -> Result<u64> {
    let cluster = Cluster::new(after.members(), after.replication_factor(), after.virtual_nodes())?;
    let bounds = tolerated(&shares(&cluster), cluster.virtual_nodes, after.tolerance());
    let left = Left::new(&cluster, before);
    let zones: Vec<Sums> =
        cluster.zones.iter().enumerate().map(|at| left.sums(&cluster, &bounds, at)).collect();
    let sets = |sets: u32| (0..sets).map(|set| (0..zones.len()).map(|at| set >> at & 1 == 1).collect());
    let singles = (0..zones.len()).map(|at| (0..zones.len()).map(|other| other == at).collect());
    let divisions: Vec<Vec<bool>> = match zones.len() {
        few @ ..=MANY_ZONES => sets(1 << few).collect(),
        _ => sets(1).chain(singles).collect(),
    };
    Ok(divisions.iter().filter_map(|apart| left.copies(&cluster, &zones, apart)).max().unwrap_or(0))
}

/// The owners of before that are still members.
struct Left {
    held: Vec<u64>,
    /// For each virtual node the number of those in each zone.
    at: Vec<Vec<usize>>,
}

/// One zone, added up over all virtual nodes.
struct Sums {
    /// What it must gain.
    coming: u64,
    /// What it can keep.
    staying: u64,
    /// How many virtual nodes may have an owner less here than the most.
    fewer: u64,
}

impl Left {
    fn new(cluster: &Cluster, before: &Ring) -> Left {
        let children = (cluster.virtual_nodes / before.virtual_nodes()).trailing_zeros();
        let mut left = Left { held: vec![0; cluster.len()], at: Vec::new() };
        let member = |id| cluster.ids.iter().position(|other| *other == id);
        let number: Vec<Option<usize>> = before.members().iter().map(|old| member(old.id)).collect();
        for virtual_node in 0..cluster.virtual_nodes {
            let mut here = vec![0; cluster.zones.len()];
            let owners = before.owner_indexes(VirtualNode(virtual_node >> children));
            for member in owners.iter().filter_map(|owner| number[usize::from(*owner)]) {
                left.held[member] += 1;
                here[cluster.zone_of[member]] += 1;
            }
            left.at.push(here);
        }
        left
    }

    fn sums(&self, cluster: &Cluster, bounds: &[Share], (number, zone): (usize, &Zone)) -> Sums {
        let members = zone.members.clone().map(|member| (self.held[member], bounds[member]));
        let sum = |of: &dyn Fn(u64, u64, u64) -> u64| -> u64 {
            members.clone().map(|(held, share)| of(held, share.least.into(), share.most.into())).sum()
        };
        let nodes = u64::from(cluster.virtual_nodes);
        let at_each = |owners: usize| owners as u64 * nodes;
        let (most, all) =
            (sum(&|_, _, most| most), bounds.iter().map(|share| u64::from(share.most)).sum::<u64>());
        // What the others cannot take, it must.
        let forced = at_each(cluster.replicas).saturating_sub(all - most);
        let least = sum(&|_, least, _| least).max(at_each(zone.least)).max(forced);
        let most = most.min(at_each(zone.most));
        let fewer = at_each(zone.most).saturating_sub(least);
        let more = most.saturating_sub(at_each(zone.least));

        let here = || self.at.iter().map(|zones| zones[number]);
        let kept = |bound: usize| here().map(|owners| owners.min(bound) as u64).sum::<u64>();
        let missing = |bound: usize| here().map(|owners| bound.saturating_sub(owners) as u64).sum::<u64>();
        let kept = kept(zone.most).min(kept(zone.least) + more);
        let missing = missing(zone.least).max(missing(zone.most).saturating_sub(fewer));
        let gains = sum(&|held, least, _| least.saturating_sub(held));
        Sums {
            coming: gains.max(least.saturating_sub(kept)).max(missing),
            staying: sum(&|held, _, most| held.min(most)).min(kept),
            fewer,
        }
    }

    /// The copies that are needed if some zones are looked at one by one and the others together; none if these may have
    /// no room.
    fn copies(&self, cluster: &Cluster, zones: &[Sums], apart: &[bool]) -> Option<u64> {
        let of = |is: bool, what: &dyn Fn(usize) -> u64| -> u64 {
            (0..zones.len()).filter(|at| apart[*at] == is).map(what).sum()
        };
        let taken = of(true, &|at| cluster.zones[at].most as u64);
        let room = (cluster.replicas as u64).checked_sub(taken)?;
        let together = |here: &Vec<usize>| of(false, &|at| here[at] as u64).min(room);
        // Where a zone apart has an owner less than the most, the others have room for one more.
        let kept = self.at.iter().map(together).sum::<u64>() + of(true, &|at| zones[at].fewer);
        let nodes = u64::from(cluster.virtual_nodes);
        let coming = of(false, &|at| zones[at].coming).max((room * nodes).saturating_sub(kept));
        let staying = of(false, &|at| zones[at].staying).min(kept);
        let total = cluster.replicas as u64 * nodes;
        Some(
            (coming + of(true, &|at| zones[at].coming))
                .max(total.saturating_sub(staying + of(true, &|at| zones[at].staying))),
        )
    }
}
