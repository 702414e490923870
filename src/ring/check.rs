//! Every rule of a placement, verified from the result alone. Garage does so after every change of its layout, and so
//! does this ring: no placement is used that has not passed.

use super::assignment::Assignment;
use super::cluster::Cluster;
use super::share::{shares, tolerated};
use super::topology::{Member, inconsistent};
use crate::error::Result;
use crate::limits::MIN_VIRTUAL_NODES;

/// An error if the placement breaks a rule: distinct owners, all of them members; spread over the zones; every load its
/// share, rounded down or up, or as far from it as the tolerance says; and if all loads are in proportion to the weights,
/// all primaries too.
///
/// A ring that was doubled passes by what it was before: each parent's children count as one virtual node.
pub(super) fn check(assignment: &Assignment, members: &[Member], tolerance: f64) -> Result<()> {
    assignment.validate()?;
    let mut lists: Vec<&[u16]> = assignment.lists().collect();
    while lists.len() > MIN_VIRTUAL_NODES as usize && lists.chunks_exact(2).all(|pair| pair[0] == pair[1]) {
        lists = lists.into_iter().step_by(2).collect();
    }
    let cluster = Cluster::new(members, assignment.replication_factor(), lists.len() as u32)?;
    let mut ids = cluster.ids.clone();
    ids.sort_unstable();
    if ids != assignment.shards() {
        return Err(inconsistent("the placement does not name its members"));
    }
    // From an index of the assignment to the cluster's numbering.
    let number: Vec<usize> =
        ids.iter().map(|id| cluster.ids.iter().position(|other| other == id).unwrap_or(usize::MAX)).collect();

    let mut loads = vec![0_u32; cluster.len()];
    let mut primaries = vec![0_u32; cluster.len()];
    for (virtual_node, list) in lists.iter().enumerate() {
        let owners: Vec<usize> = list.iter().map(|owner| number[usize::from(*owner)]).collect();
        if !cluster.is_spread(&owners) {
            return Err(inconsistent(format!(
                "the owners {list:?} of virtual node {virtual_node} are not spread over the zones"
            )));
        }
        owners.iter().for_each(|owner| loads[*owner] += 1);
        primaries[owners[0]] += 1;
    }
    let shares = shares(&cluster);
    for (member, share) in tolerated(&shares, cluster.virtual_nodes, tolerance).iter().enumerate() {
        if !(share.least..=share.most).contains(&loads[member]) {
            return Err(inconsistent(format!(
                "it holds {} virtual nodes, but should hold {:.2}, so {} to {}",
                loads[member],
                share.exact.as_f64(),
                share.least,
                share.most
            ))
            .on(cluster.ids[member]));
        }
    }
    // Loads that may differ bring primaries with them: with one replica they are the same.
    if tolerance == 0.0 && shares.iter().all(|share| share.limit.is_none()) {
        check_primaries(&cluster, &primaries)?;
    }
    Ok(())
}

fn check_primaries(cluster: &Cluster, primaries: &[u32]) -> Result<()> {
    let total_weight: u128 = cluster.weights.iter().sum();
    for (member, primaries) in primaries.iter().enumerate() {
        let share = u128::from(cluster.virtual_nodes) * cluster.weights[member];
        if !(share / total_weight..=share.div_ceil(total_weight)).contains(&u128::from(*primaries)) {
            return Err(inconsistent(format!(
                "it is the primary of {primaries} virtual nodes, but should be of {:.2}",
                share as f64 / total_weight as f64
            ))
            .on(cluster.ids[member]));
        }
    }
    Ok(())
}
