//! Placement from a previous one: the least movement of data, as a minimum-cost flow.
//!
//! Every virtual node sends one unit for each replica through its zones (which pass on between their least and most) to
//! distinct members, and from a member flows between its share rounded down and rounded up. A unit costs nothing where
//! the member owned the virtual node before, and 1 where it did not: the cost of a flow is the number of copies to
//! be made, so the cheapest flow is the placement with the least movement. Garage plans its layouts with flows too.
//!
//! The flow is found by successive shortest paths (Busacker and Gowen 1960), in the bulk form of Dinic: beginning with
//! the previous owners that can stay, which cost nothing, paths of swaps lead from members that hold too much (and from
//! vacancies) to members that hold too little. Each round labels all members with their cheapest distance, then uses up
//! the paths of the least cost. Since paths are taken in order of their costs, no flow with the same loads is ever
//! cheaper (no negative cycle appears), and the first flow within all bounds is the cheapest of all. Among paths of the
//! same cost those with the fewest swaps are taken: on these no swap can spoil another.
//!
//! What must change (vacancies, members above their share; members below theirs) outweighs every cost, so the rounding of
//! the shares is free to follow the previous loads.
//!
//! Where a tolerance lets loads lie farther from their shares, further searches bring them as near as swaps can that cost
//! nothing: they must not undo what the tolerance saved. They draw the bounds closer step by step, so that what is
//! left of the imbalance is spread over all, not left with a few.

use super::assignment::Previous;
use super::cluster::Cluster;
use super::share::{Share, tolerated};
use super::swaps::{COSTS, Swaps};
use std::collections::VecDeque;

/// A path of dearer swaps is longer than any of cheaper ones: there are fewer members than this.
const COST: i64 = 1 << 12;
/// Longer than any path.
const MUST: i64 = 1 << 32;
/// Longer than any path without a copy, and from both ends together no longer than one copy.
const MAY: i64 = COST / 2;
/// The steps from a tolerance to none.
const STEPS: u32 = 32;
const FAR: i64 = i64::MAX;

/// The owners of all virtual nodes, `replicas` of each, within the bounds of shares and zones, that leave the most
/// previous owners in place. A table that breaks them (which would be a defect) is left to the caller's check.
pub(super) fn least_movement(
    cluster: &Cluster,
    shares: &[Share],
    tolerance: f64,
    previous: &Previous,
) -> Vec<u16> {
    let bounds = tolerated(shares, cluster.virtual_nodes, tolerance);
    let mut flow = Flow { bounds, pull: MUST, swaps: Swaps::new(cluster, shares, previous) };
    flow.run();
    let mut swaps = flow.swaps;
    for step in (0..STEPS).rev().filter(|_| tolerance > 0.0) {
        let closer = tolerance * f64::from(step) / f64::from(STEPS);
        let bounds = tolerated(shares, cluster.virtual_nodes, closer);
        let mut flow = Flow { bounds, pull: MAY, swaps };
        flow.run();
        swaps = flow.swaps;
    }
    swaps.owners
}

struct Flow<'a> {
    bounds: Vec<Share>,
    /// What it is worth to bring a load within its bounds by one.
    pull: i64,
    swaps: Swaps<'a>,
}

/// One round's labels.
struct Round {
    /// From the nearest source to each member, and to the vacancies (last).
    distance: Vec<i64>,
    /// The length of the shortest path from a source to a sink.
    shortest: i64,
    /// For each member the next one to try, and how many have been tried in vain.
    next: Vec<usize>,
    tried: Vec<usize>,
}

impl Flow<'_> {
    fn run(&mut self) {
        while let Some(round) = self.label() {
            if self.push(round) == 0 {
                break;
            }
        }
    }

    fn members(&self) -> usize {
        self.bounds.len()
    }

    /// The distance that a path starts with; none where none may start.
    fn source(&self, from: usize) -> Option<i64> {
        let load = self.swaps.load(from);
        match self.bounds.get(from) {
            None => (load > 0).then_some(-self.pull),
            Some(share) if load > share.most => Some(-self.pull),
            Some(share) => (load > share.least).then_some(0),
        }
    }

    /// What is added to the distance where a path ends; none where none may end.
    fn sink(&self, to: usize) -> Option<i64> {
        let load = self.swaps.load(to);
        match self.bounds.get(to) {
            Some(share) if load < share.least => Some(-self.pull),
            Some(share) => (load < share.most).then_some(0),
            None => None,
        }
    }

    /// The shortest distances (Bellman and Ford's, with a queue); none if no path makes the placement better.
    fn label(&self) -> Option<Round> {
        let members = self.members();
        let mut distance: Vec<i64> = (0..=members).map(|from| self.source(from).unwrap_or(FAR)).collect();
        let mut queue: VecDeque<usize> = (0..=members).filter(|from| distance[*from] != FAR).collect();
        let mut queued: Vec<bool> = distance.iter().map(|distance| *distance != FAR).collect();
        while let Some(from) = queue.pop_front() {
            queued[from] = false;
            for to in 0..members {
                // Whatever the swap costs, it cannot bring the other nearer.
                if distance[from] - COST + 1 >= distance[to] {
                    continue;
                }
                let Some(cost) = (0..COSTS.len()).find(|cost| self.swaps.count_of(*cost, from, to) > 0)
                else {
                    continue;
                };
                let through = distance[from] + COSTS[cost] * COST + 1;
                if through < distance[to] {
                    distance[to] = through;
                    if !queued[to] {
                        queued[to] = true;
                        queue.push_back(to);
                    }
                }
            }
        }
        let reached = (0..members).filter(|to| distance[*to] != FAR);
        let shortest = reached.filter_map(|to| self.sink(to).map(|more| distance[to] + more)).min()?;
        (shortest < 0).then(|| Round {
            distance,
            shortest,
            next: (0..=members).map(|from| from % members).collect(),
            tried: vec![0; members + 1],
        })
    }

    /// Uses up the shortest paths; returns how many there were.
    fn push(&mut self, mut round: Round) -> usize {
        let mut pushed = 0;
        for source in (0..=self.members()).rev() {
            while self.source(source) == Some(round.distance[source]) {
                let Some(path) = self.path(source, &mut round) else {
                    break;
                };
                if !self.follow(source, &path) {
                    return pushed;
                }
                pushed += 1;
                // Paths from one member go to others in turn, which spreads what it gives away.
                let mut from = source;
                for (_, to) in path {
                    round.tried[from] = 0;
                    round.next[from] = (to + 1) % self.members();
                    from = to;
                }
            }
        }
        pushed
    }

    /// A shortest path from `source` to a sink, as the cost and the end of each swap.
    fn path(&self, source: usize, round: &mut Round) -> Option<Vec<(usize, usize)>> {
        let members = self.members();
        let mut path: Vec<(usize, usize)> = Vec::new();
        loop {
            let from = path.last().map_or(source, |(_, to)| *to);
            if self.sink(from).is_some_and(|more| round.distance[from].saturating_add(more) == round.shortest)
            {
                return Some(path);
            }
            let mut step = None;
            while round.tried[from] < members && step.is_none() {
                let to = round.next[from];
                step = self.step(from, to, round);
                if step.is_none() {
                    round.tried[from] += 1;
                    round.next[from] = (to + 1) % members;
                }
            }
            match step {
                Some(step) => path.push(step),
                None => {
                    path.pop()?;
                    let back = path.last().map_or(source, |(_, to)| *to);
                    round.tried[back] += 1;
                    round.next[back] = (round.next[back] + 1) % members;
                }
            }
        }
    }

    /// The swap that is on a shortest path.
    fn step(&self, from: usize, to: usize, round: &Round) -> Option<(usize, usize)> {
        if round.distance[to] == FAR {
            return None;
        }
        let length = round.distance[to] - round.distance[from] - 1;
        let cost = COSTS.iter().position(|cost| cost * COST == length)?;
        (self.swaps.count_of(cost, from, to) > 0).then_some((cost, to))
    }

    /// Carries out the swaps of a path, all or none: the paths before it may have changed what it relied on.
    fn follow(&mut self, source: usize, path: &[(usize, usize)]) -> bool {
        let mut done = Vec::with_capacity(path.len());
        let mut from = source;
        for (cost, to) in path {
            match self.swaps.swap(*cost, from, *to) {
                Some(swap) => done.push(swap),
                None => {
                    done.into_iter().rev().for_each(|swap| self.swaps.undo(swap));
                    return false;
                }
            }
            from = *to;
        }
        true
    }
}
