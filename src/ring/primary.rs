//! Which owner of each virtual node comes first: the primary, which reads ask before the others.
//!
//! Primaries are in proportion to the weights, as far as the owners allow. It moves no data to choose them, so they are
//! chosen when the owners are settled, and a primary that is still an owner stays if that does no harm.
//!
//! Every member has a price for one more primary, which never falls as it gets more: first those below its share, then
//! the one that rounds it up, then those above it, each by what the member then has in relation to its weight. The
//! sum of prices is least when no chain of virtual nodes (each handing its primary to the next one's) leads from a
//! member to one that is cheaper (exchange in a convex flow). So wherever shares rounded down or up are possible for
//! all, which they are unless weights conflict with zones or with the number of replicas, that is what comes out.
//!
//! Invariant: the owners of a virtual node stay the same; only their order changes.

use super::assignment::Previous;
use super::cluster::Cluster;
use super::share::Ratio;
use std::cmp::Ordering;
use std::collections::VecDeque;

/// Puts the primary first among the owners of every virtual node.
pub(super) fn elect(cluster: &Cluster, owners: &mut [u16], previous: Option<&Previous>) {
    let mut election = Election::new(cluster, owners);
    let mut open = Vec::new();
    for virtual_node in 0..cluster.virtual_nodes as usize {
        let before = previous.map(|previous| previous.owners(virtual_node)[0]);
        let at = before.and_then(|primary| election.owners(virtual_node).iter().position(|o| *o == primary));
        match at {
            Some(at) => election.appoint(virtual_node, at),
            None => open.push(virtual_node),
        }
    }
    for virtual_node in open {
        let cheapest = (0..cluster.replicas).min_by(|a, b| {
            let list = election.owners(virtual_node);
            election.price(usize::from(list[*a]), 1).compare(&election.price(usize::from(list[*b]), 1))
        });
        election.appoint(virtual_node, cheapest.unwrap_or(0));
    }
    while election.improve() {}
}

/// What one more primary costs a member.
struct Price {
    class: u8,
    within: Ratio,
}

impl Price {
    fn compare(&self, other: &Price) -> Ordering {
        self.class.cmp(&other.class).then_with(|| self.within.compare(&other.within))
    }
}

struct Election<'a> {
    cluster: &'a Cluster,
    owners: &'a mut [u16],
    /// For each member, its share of all primaries, rounded down and up.
    shares: Vec<(usize, usize)>,
    /// The virtual nodes that each member is primary of.
    held: Vec<Vec<u32>>,
    /// How many virtual nodes have i for their primary and j as another owner, at i * members + j.
    together: Vec<u32>,
}

impl Election<'_> {
    fn new<'a>(cluster: &'a Cluster, owners: &'a mut [u16]) -> Election<'a> {
        let total_weight: u128 = cluster.weights.iter().sum();
        let share = |weight: &u128| {
            let share = u128::from(cluster.virtual_nodes) * weight;
            ((share / total_weight) as usize, share.div_ceil(total_weight) as usize)
        };
        Election {
            cluster,
            owners,
            shares: cluster.weights.iter().map(share).collect(),
            held: vec![Vec::new(); cluster.len()],
            together: vec![0; cluster.len() * cluster.len()],
        }
    }

    fn owners(&self, virtual_node: usize) -> &[u16] {
        &self.owners[virtual_node * self.cluster.replicas..][..self.cluster.replicas]
    }

    /// Makes the owner at this place the primary; the others keep their order.
    fn appoint(&mut self, virtual_node: usize, at: usize) {
        let list = &mut self.owners[virtual_node * self.cluster.replicas..][..self.cluster.replicas];
        list[..=at].rotate_right(1);
        let primary = usize::from(list[0]);
        for other in &list[1..] {
            self.together[primary * self.cluster.len() + usize::from(*other)] += 1;
        }
        self.held[primary].push(virtual_node as u32);
    }

    /// Takes a virtual node from a member, if there is one that `to` owns too, and makes that its primary.
    fn hand_over(&mut self, from: usize, to: usize) {
        let number = to as u16;
        let shared = |virtual_node: &u32| self.owners(*virtual_node as usize).contains(&number);
        let Some(index) = self.held[from].iter().rposition(shared) else {
            return;
        };
        let virtual_node = self.held[from].swap_remove(index) as usize;
        for slot in 1..self.cluster.replicas {
            let other = usize::from(self.owners(virtual_node)[slot]);
            self.together[from * self.cluster.len() + other] -= 1;
        }
        if let Some(at) = self.owners(virtual_node).iter().position(|owner| *owner == number) {
            self.appoint(virtual_node, at);
        }
    }

    /// The price of a member's next primary (`more` = 1), or of the last one that it has (`more` = 0).
    fn price(&self, member: usize, more: usize) -> Price {
        let primaries = self.held[member].len() + more;
        let (least, most) = self.shares[member];
        let relative = Ratio::new(primaries as u128, self.cluster.weights[member]);
        if primaries <= least {
            Price { class: 0, within: relative }
        } else if primaries <= most {
            // Whose share is rounded up makes no difference, so nobody's primary changes for it.
            Price { class: 1, within: Ratio::new(0, 1) }
        } else {
            Price { class: 2, within: relative }
        }
    }

    /// Hands primaries from dear members to cheap ones; whether there were any.
    fn improve(&mut self) -> bool {
        let members = self.cluster.len();
        let givers = (0..members).filter(|member| !self.held[*member].is_empty());
        let mut givers: Vec<(Price, usize)> = givers.map(|member| (self.price(member, 0), member)).collect();
        givers.sort_by(|(a, i), (b, j)| b.compare(a).then(i.cmp(j)));
        let mut improved = false;
        for (_, giver) in givers {
            while let Some(path) = self.cheaper(giver) {
                improved = true;
                for step in path.windows(2).rev() {
                    self.hand_over(step[0], step[1]);
                }
            }
        }
        improved
    }

    /// A chain from a member to a cheaper one, straight to the cheapest if it can be; none if there is none.
    fn cheaper(&self, giver: usize) -> Option<Vec<usize>> {
        if self.held[giver].is_empty() {
            return None;
        }
        let price = self.price(giver, 0);
        let below = |member: &usize| self.price(*member, 1).compare(&price) == Ordering::Less;
        let cheapest = |a: &usize, b: &usize| self.price(*a, 1).compare(&self.price(*b, 1));
        if let Some(direct) = self.takers(giver).filter(below).min_by(cheapest) {
            return Some(vec![giver, direct]);
        }
        if !(0..self.cluster.len()).any(|member| below(&member)) {
            return None;
        }
        let mut before = vec![usize::MAX; self.cluster.len()];
        before[giver] = giver;
        let mut queue = VecDeque::from([giver]);
        while let Some(from) = queue.pop_front() {
            for to in self.takers(from) {
                if before[to] != usize::MAX {
                    continue;
                }
                before[to] = from;
                if below(&to) {
                    let mut path = vec![to];
                    while let Some(last) = path.last().copied().filter(|last| *last != giver) {
                        path.push(before[last]);
                    }
                    path.reverse();
                    return Some(path);
                }
                queue.push_back(to);
            }
        }
        None
    }

    /// Who could become the primary in a member's place somewhere.
    fn takers(&self, from: usize) -> impl Iterator<Item = usize> + '_ {
        let row = &self.together[from * self.cluster.len()..][..self.cluster.len()];
        row.iter().enumerate().filter(|(_, count)| **count > 0).map(|(to, _)| to)
    }
}
