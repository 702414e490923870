//! The state of a search for the least movement: who owns what now, and which replacements of one owner by another
//! the rules allow.
//!
//! A *swap* (i, j) at a virtual node makes j an owner in the place of i, or fills a vacancy with j. It costs 1 if j
//! did not own the virtual node in the previous placement, less 1 if i did not either: so costs add up to the number of
//! copies to be made. For all pairs and each cost, the number of virtual nodes with such a swap is kept up, which is the
//! residual graph of the flow with all virtual nodes contracted; the virtual nodes themselves are looked up only to
//! carry out a swap.
//!
//! Invariant: at every virtual node the owners are distinct, and can be completed to a set within the bounds of all
//! zones by filling the vacancies.

use super::assignment::{Previous, VACANT};
use super::cluster::Cluster;
use super::pairs::Pairs;
use super::random::Random;
use super::share::Share;
use crate::limits::MAX_REPLICATION_FACTOR;

/// So many virtual nodes that allow a swap are compared for how well they spread pairs.
const CANDIDATES: usize = 8;

/// Costs of swaps, as indexes: -1, 0 and 1.
pub(super) const COSTS: [i64; 3] = [-1, 0, 1];

/// A swap that was carried out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Done {
    virtual_node: u32,
    leaving: usize,
    joining: usize,
}

pub(super) struct Swaps<'a> {
    cluster: &'a Cluster,
    previous: &'a Previous,
    /// The sum over the zones of the least owners in each.
    least_total: usize,
    pub owners: Vec<u16>,
    /// The virtual nodes of each member, then those with vacancies, one entry for each.
    pub held: Vec<Vec<u32>>,
    /// For each cost, how many virtual nodes allow the swap (i, j), at i * members + j; i = members fills a vacancy.
    counts: [Vec<u32>; 3],
    pairs: Pairs,
    random: Random,
}

impl<'a> Swaps<'a> {
    /// Begins with the previous owners that can stay, and vacancies for the rest.
    pub fn new(cluster: &'a Cluster, shares: &[Share], previous: &'a Previous) -> Swaps<'a> {
        let members = cluster.len();
        let loads: Vec<u32> = shares.iter().map(|share| share.most).collect();
        let cells = (members + 1) * members;
        let mut swaps = Swaps {
            cluster,
            previous,
            least_total: cluster.zones.iter().map(|zone| zone.least).sum(),
            owners: Vec::with_capacity(cluster.replicas * cluster.virtual_nodes as usize),
            held: vec![Vec::new(); members + 1],
            counts: [vec![0; cells], vec![0; cells], vec![0; cells]],
            pairs: Pairs::new(&loads),
            random: Random::new(u64::from(cluster.virtual_nodes)),
        };
        for virtual_node in 0..cluster.virtual_nodes {
            swaps.begin(virtual_node);
        }
        swaps
    }

    fn begin(&mut self, virtual_node: u32) {
        let start = self.owners.len();
        self.owners.resize(start + self.cluster.replicas, VACANT);
        let mut taken = 0;
        for owner in self.previous.owners(virtual_node as usize).iter().filter(|owner| **owner != VACANT) {
            let owners = &self.owners[start..];
            let stays = taken < owners.len()
                && self.census(owners, taken).admits(self.cluster, self.cluster.zone_of[usize::from(*owner)]);
            if stays {
                self.pairs.join(usize::from(*owner), &self.owners[start..start + taken]);
                self.owners[start + taken] = *owner;
                taken += 1;
            }
        }
        for slot in start..self.owners.len() {
            let row = self.row(self.owners[slot]);
            self.held[row].push(virtual_node);
        }
        self.count(virtual_node, 1);
    }

    pub fn load(&self, member: usize) -> u32 {
        self.held[member].len() as u32
    }

    /// How many virtual nodes allow the swap at this cost (an index into [`COSTS`]).
    #[inline]
    pub fn count_of(&self, cost: usize, leaving: usize, joining: usize) -> u32 {
        self.counts[cost][leaving * self.cluster.len() + joining]
    }

    /// Carries out a swap at this cost where it spreads pairs well; none if no virtual node allows it.
    pub fn swap(&mut self, cost: usize, leaving: usize, joining: usize) -> Option<Done> {
        let at = self.find(cost, leaving, joining)?;
        let virtual_node = self.held[leaving].swap_remove(at);
        self.replace(virtual_node, leaving, joining);
        Some(Done { virtual_node, leaving, joining })
    }

    /// Takes back a swap that was carried out, if no later one built on it.
    pub fn undo(&mut self, done: Done) {
        let held = &mut self.held[done.joining];
        if let Some(at) = held.iter().rposition(|virtual_node| *virtual_node == done.virtual_node) {
            held.swap_remove(at);
        }
        self.replace(done.virtual_node, done.joining, done.leaving);
    }

    fn replace(&mut self, virtual_node: u32, leaving: usize, joining: usize) {
        self.count(virtual_node, u32::MAX);
        let slots = self.slots(virtual_node);
        let (old, new) = (self.number(leaving), self.number(joining));
        if let Some(slot) = self.owners[slots.clone()].iter_mut().find(|owner| **owner == old) {
            *slot = VACANT;
        }
        if old != VACANT {
            self.pairs.part(leaving, &self.owners[slots.clone()]);
        }
        if new != VACANT {
            self.pairs.join(joining, &self.owners[slots.clone()]);
        }
        if let Some(slot) = self.owners[slots].iter_mut().find(|owner| **owner == VACANT) {
            *slot = new;
        }
        self.held[joining].push(virtual_node);
        self.count(virtual_node, 1);
    }

    /// Where in its list `leaving` holds the best of a few virtual nodes that allow the swap.
    fn find(&mut self, cost: usize, leaving: usize, joining: usize) -> Option<usize> {
        let count = self.held[leaving].len();
        let start = self.random.below(count);
        let mut best = None;
        let mut left = CANDIDATES.min(self.count_of(cost, leaving, joining) as usize);
        if left == 0 {
            return None;
        }
        for at in (start..count).chain(0..start) {
            let virtual_node = self.held[leaving][at];
            if !self.allows(virtual_node, cost, leaving, joining) {
                continue;
            }
            let owners = &self.owners[self.slots(virtual_node)];
            let shared = self.pairs.gained(leaving, joining, owners);
            if best.is_none_or(|(least, _)| shared < least) {
                best = Some((shared, at));
            }
            left -= 1;
            if left == 0 {
                break;
            }
        }
        best.map(|(_, at)| at)
    }

    fn allows(&self, virtual_node: u32, cost: usize, leaving: usize, joining: usize) -> bool {
        let owners = &self.owners[self.slots(virtual_node)];
        let previous = self.previous.owners(virtual_node as usize);
        let copied = !previous.contains(&(joining as u16));
        if cost != self.base_cost(previous, leaving) - usize::from(!copied)
            || owners.contains(&(joining as u16))
        {
            return false;
        }
        let Some(slot) = owners.iter().position(|owner| *owner == self.number(leaving)) else {
            return false;
        };
        self.census(owners, slot).admits(self.cluster, self.cluster.zone_of[joining])
    }

    /// The cost of a swap with a member that did not own the virtual node before.
    fn base_cost(&self, previous: &[u16], leaving: usize) -> usize {
        match leaving == self.cluster.len() || previous.contains(&(leaving as u16)) {
            true => 2,
            false => 1,
        }
    }

    /// Adds `change` to the counts of all swaps at a virtual node.
    fn count(&mut self, virtual_node: u32, change: u32) {
        let cluster = self.cluster;
        let members = cluster.len();
        let previous = self.previous.owners(virtual_node as usize);
        let slots = self.slots(virtual_node);
        for slot in 0..slots.len() {
            let owners = &self.owners[slots.clone()];
            let leaving = self.row(owners[slot]);
            let base = self.base_cost(previous, leaving);
            let census = self.census(owners, slot);
            let row = leaving * members..(leaving + 1) * members;
            let (cheaper, usual) = self.counts.split_at_mut(base);
            let (cheaper, usual) = (&mut cheaper[base - 1][row.clone()], &mut usual[0][row]);
            for (number, zone) in cluster.zones.iter().enumerate() {
                if census.admits(cluster, number) {
                    for cell in &mut usual[zone.members.clone()] {
                        *cell = cell.wrapping_add(change);
                    }
                }
            }
            let admitted = |member: &&u16| {
                **member != VACANT && census.admits(cluster, cluster.zone_of[usize::from(**member)])
            };
            for owner in owners.iter().filter(admitted) {
                let cell = &mut usual[usize::from(*owner)];
                *cell = cell.wrapping_sub(change);
            }
            for back in previous.iter().filter(admitted).filter(|member| !owners.contains(member)) {
                let back = usize::from(*back);
                usual[back] = usual[back].wrapping_sub(change);
                cheaper[back] = cheaper[back].wrapping_add(change);
            }
        }
    }

    fn slots(&self, virtual_node: u32) -> std::ops::Range<usize> {
        let start = virtual_node as usize * self.cluster.replicas;
        start..start + self.cluster.replicas
    }

    fn row(&self, owner: u16) -> usize {
        match owner {
            VACANT => self.cluster.len(),
            member => usize::from(member),
        }
    }

    fn number(&self, row: usize) -> u16 {
        match row == self.cluster.len() {
            true => VACANT,
            false => row as u16,
        }
    }

    fn census(&self, owners: &[u16], leaving_slot: usize) -> Census {
        Census::new(self.cluster, self.least_total, owners, leaving_slot)
    }
}

/// How the owners of a virtual node, without one of them, lie in the zones.
struct Census {
    zones: [(usize, usize); MAX_REPLICATION_FACTOR],
    touched: usize,
    vacant: usize,
    /// How many owners the zones still need to have their least.
    needed: usize,
}

impl Census {
    fn new(cluster: &Cluster, least_total: usize, owners: &[u16], leaving_slot: usize) -> Census {
        let mut census =
            Census { zones: [(0, 0); MAX_REPLICATION_FACTOR], touched: 0, vacant: 0, needed: least_total };
        for (slot, owner) in owners.iter().enumerate() {
            if slot == leaving_slot || *owner == VACANT {
                census.vacant += 1;
                continue;
            }
            let zone = cluster.zone_of[usize::from(*owner)];
            let entry = match census.zones[..census.touched].iter().position(|(other, _)| *other == zone) {
                Some(entry) => entry,
                None => {
                    census.zones[census.touched] = (zone, 0);
                    census.touched += 1;
                    census.touched - 1
                }
            };
            if census.zones[entry].1 < cluster.zones[zone].least {
                census.needed -= 1;
            }
            census.zones[entry].1 += 1;
        }
        census
    }

    /// Whether one more owner in `zone` leaves enough vacancies for what the other zones need.
    #[inline]
    fn admits(&self, cluster: &Cluster, zone: usize) -> bool {
        let owners = self.zones[..self.touched]
            .iter()
            .find(|(other, _)| *other == zone)
            .map_or(0, |(_, owners)| *owners);
        let bounds = &cluster.zones[zone];
        owners < bounds.most && self.needed + usize::from(owners >= bounds.least) <= self.vacant
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ShardId;
    use crate::ring::{Member, share};

    /// What a search goes by.
    #[derive(Debug, PartialEq)]
    struct Known {
        owners: Vec<Vec<u16>>,
        held: Vec<Vec<u32>>,
        possible: [Vec<u32>; 3],
        /// How much more pairs share with each who could join.
        gained: Vec<i64>,
    }

    fn known(swaps: &Swaps<'_>) -> Known {
        let replicas = swaps.cluster.replicas;
        let mut owners: Vec<Vec<u16>> = swaps.owners.chunks(replicas).map(<[u16]>::to_vec).collect();
        owners.iter_mut().for_each(|owners| owners.sort_unstable());
        let mut held = swaps.held.clone();
        held.iter_mut().for_each(|held| held.sort_unstable());
        let members = swaps.cluster.len();
        let gained = |joining: usize| (0..owners.len()).map(move |at| (joining, at));
        let all =
            (0..members).flat_map(gained).filter(|(joining, at)| !owners[*at].contains(&(*joining as u16)));
        let gained = all.map(|(joining, at)| {
            let leaving = usize::from(owners[at][0]);
            if leaving < members { swaps.pairs.gained(leaving, joining, &owners[at]) } else { 0 }
        });
        let gained = gained.collect();
        Known { owners, held, possible: swaps.counts.clone(), gained }
    }

    /// A path that turns out not to go on is given up, and nothing of it is left.
    #[test]
    fn a_swap_that_is_taken_back_leaves_nothing_behind() {
        let members: Vec<Member> =
            (0..6).map(|id| Member::new(ShardId(id)).zone(format!("zone{}", id % 3))).collect();
        let cluster = Cluster::new(&members, 2, 32).unwrap();
        let shares = share::shares(&cluster);
        // Neighbours own together, and a member that has left has left gaps.
        let owner = |at: u32| if at.is_multiple_of(7) { VACANT } else { (at / 2 + at % 2) as u16 % 5 };
        let previous = Previous { replicas: 2, owners: (0..64).map(owner).collect() };
        let mut swaps = Swaps::new(&cluster, &shares, &previous);
        let mut kinds = [0; 2];
        for (cost, leaving, joining) in
            (0..COSTS.len()).flat_map(|cost| (0..=6).flat_map(move |i| (0..6).map(move |j| (cost, i, j))))
        {
            let before = known(&swaps);
            let Some(done) = swaps.swap(cost, leaving, joining) else {
                assert_eq!(swaps.count_of(cost, leaving, joining), 0);
                continue;
            };
            let after = known(&swaps);
            assert_ne!(after, before);
            // Several are taken back in the order opposite to that in which they were done.
            let next = (0..6).find_map(|to| swaps.swap(2, joining, to));
            kinds[usize::from(next.is_some())] += 1;
            next.into_iter().for_each(|next| swaps.undo(next));
            assert_eq!(known(&swaps), after);
            swaps.undo(done);
            assert_eq!(known(&swaps), before);
        }
        assert!(kinds[1] > 5, "{kinds:?}");
    }
}
