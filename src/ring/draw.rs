//! Placement from scratch: owners drawn at random, loads met exactly.
//!
//! Systematic sampling (Madow 1949) without replacement, one virtual node after another. Let n virtual nodes be left
//! and each member still want a number of them, at most n. The members are put in random order, those of a zone side by
//! side, and their wants laid end to end on a line, which is then replicas * n long. Points at equal distances of n,
//! beginning at random, pick as many distinct members as there are replicas, since nobody's stretch is longer than n.
//! A member that wants every virtual node left is always hit; a zone is hit as often as its stretch is long in units
//! of n, rounded down or up. So what holds for n holds for n - 1: when none is left, nobody wants any more, and every
//! virtual node kept the bounds of every zone. (Without randomness this is McNaughton's wrap-around rule; it would make
//! neighbours on the line own nearly all their virtual nodes together.)
//!
//! Invariant: every load is exactly the one asked for.

use super::cluster::Cluster;
use super::pairs::Pairs;
use super::random::Random;

/// Of so many draws for a virtual node, the one whose owners share the least so far is taken.
const DRAWS: usize = 4;
/// With more members than this, one draw spreads pairs well enough, and planning stays quick.
const MANY_MEMBERS: usize = 128;

/// Owners for every virtual node, so that each member has the load given, which must add up.
pub(super) fn draw(cluster: &Cluster, loads: &[u32]) -> Vec<u16> {
    let draws = if cluster.len() > MANY_MEMBERS { 1 } else { DRAWS };
    let mut random = Random::new(u64::from(cluster.virtual_nodes));
    let mut pairs = Pairs::new(loads);
    let mut wanted = loads.to_vec();
    let mut zones: Vec<Vec<u16>> =
        cluster.zones.iter().map(|zone| zone.members.clone().map(|member| member as u16).collect()).collect();
    let mut owners = Vec::with_capacity(cluster.replicas * cluster.virtual_nodes as usize);
    let (mut drawn, mut best) = (Vec::new(), Vec::new());
    for left in (1..=cluster.virtual_nodes).rev() {
        let mut least = u64::MAX;
        for _ in 0..draws {
            random.shuffle(&mut zones);
            zones.iter_mut().for_each(|zone| random.shuffle(zone));
            sample(&zones, &wanted, left, random.below(left as usize) as u64, &mut drawn);
            let shared = familiarity(&pairs, &drawn);
            if shared < least {
                least = shared;
                std::mem::swap(&mut drawn, &mut best);
            }
        }
        for (at, owner) in best.iter().enumerate() {
            pairs.join(usize::from(*owner), &best[..at]);
            wanted[usize::from(*owner)] -= 1;
        }
        owners.extend_from_slice(&best);
    }
    owners
}

fn sample(zones: &[Vec<u16>], wanted: &[u32], distance: u32, start: u64, drawn: &mut Vec<u16>) {
    drawn.clear();
    let (mut end, mut point) = (0, start);
    for member in zones.iter().flatten() {
        end += u64::from(wanted[usize::from(*member)]);
        if point < end {
            drawn.push(*member);
            point += u64::from(distance);
        }
    }
}

fn familiarity(pairs: &Pairs, owners: &[u16]) -> u64 {
    owners.iter().enumerate().map(|(at, owner)| pairs.familiarity(usize::from(*owner), &owners[..at])).sum()
}
