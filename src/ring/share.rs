//! How much of the data each member should hold: water-filling under caps, in exact arithmetic.
//!
//! A member's share is `level * weight`, with one level for all, except that
//! - a member holds a virtual node at most once, so its share ends at the number of virtual nodes (*saturated*);
//! - a zone holds of each virtual node at least and at most what the spread over zones asks for, so the shares of its
//!   members add up to no less and no more than that, at a level of the zone's own (*zone floor*, *zone full*).
//!
//! The level is the one at which the shares add up to all replicas. This is the lexicographic minimum of the loads
//! relative to weights: nobody's can be lowered without raising one that is already as high.
//!
//! Invariants: every share lies within its caps, and they add up exactly. So giving each virtual node to each member
//! in the fraction share / virtual nodes meets every rule of a placement, and a placement with each load rounded down
//! or up exists (flows are integral): planning cannot fail.

use super::cluster::{Cluster, Zone};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// Why a shard's load is not in proportion to its weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LoadLimit {
    /// It holds every virtual node once, and cannot hold one twice: it is too heavy for the others.
    Saturated,
    /// Its zone holds of every virtual node as many replicas as the spread over zones admits: the zone is too heavy.
    ZoneFull,
    /// Its zone holds of every virtual node as few replicas as the spread over zones needs: the zone is too light.
    ZoneFloor,
    /// It takes what the shards limited otherwise cannot take, or is spared what a light zone must take.
    Others,
}

/// A fraction, exact.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ratio {
    pub num: u128,
    pub den: u128,
}

impl Ratio {
    pub fn new(num: u128, den: u128) -> Ratio {
        Ratio { num, den }
    }

    pub fn compare(&self, other: &Ratio) -> Ordering {
        (self.num * other.den).cmp(&(other.num * self.den))
    }

    /// What a member of this weight holds at this level.
    fn times(self, weight: u128) -> Ratio {
        Ratio::new(self.num * weight, self.den)
    }

    fn min(self, other: Ratio) -> Ratio {
        match self.compare(&other) {
            Ordering::Greater => other,
            _ => self,
        }
    }

    fn floor(&self) -> u128 {
        self.num / self.den
    }

    fn ceil(&self) -> u128 {
        self.num.div_ceil(self.den)
    }

    fn fraction(&self) -> Ratio {
        Ratio::new(self.num % self.den, self.den)
    }

    pub fn as_f64(&self) -> f64 {
        self.num as f64 / self.den as f64
    }
}

/// What one member should hold, in virtual nodes, and the bounds of what it may.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    pub exact: Ratio,
    /// The share rounded down, or what is tolerated below it.
    pub least: u32,
    /// The share rounded up, or what is tolerated above it.
    pub most: u32,
    pub limit: Option<LoadLimit>,
}

/// The share of every member.
pub(super) fn shares(cluster: &Cluster) -> Vec<Share> {
    let cap = Ratio::new(u128::from(cluster.virtual_nodes), 1);
    let filling = Filling::new(cluster);
    let common = filling.common_level();
    let everyone = zone_level(&heaviest_first(&cluster.weights), cap.num, cluster.total());
    let evenly = Ratio::new(cluster.total(), cluster.weights.iter().sum());
    let mut shares = Vec::with_capacity(cluster.len());
    for (member, weight) in cluster.weights.iter().enumerate() {
        let at = |level: Ratio| level.times(*weight).min(cap);
        let fixed = common.zones[cluster.zone_of[member]];
        let exact = at(fixed.unwrap_or(common.level));
        let limit = if exact.compare(&evenly.times(*weight)) == Ordering::Equal {
            None
        } else {
            Some(match (exact.compare(&at(everyone)), fixed) {
                (Ordering::Less, Some(_)) => LoadLimit::ZoneFull,
                (Ordering::Greater, Some(_)) => LoadLimit::ZoneFloor,
                _ if exact.compare(&cap) == Ordering::Equal => LoadLimit::Saturated,
                _ => LoadLimit::Others,
            })
        };
        // Both are at most the number of virtual nodes.
        shares.push(Share { exact, least: exact.floor() as u32, most: exact.ceil() as u32, limit });
    }
    shares
}

/// A tolerance in units of this part is exact enough, and its products are.
const TOLERANCE_UNIT: u128 = 1_000_000_000;

/// The bounds of the loads if each may lie so far from its share, as a part of it. A member with a share of a virtual
/// node or more is never left empty, unless the tolerance is the whole share.
pub(super) fn tolerated(shares: &[Share], virtual_nodes: u32, tolerance: f64) -> Vec<Share> {
    // Between 0 and 1 it fits; anything else was refused before.
    let part = ((tolerance * TOLERANCE_UNIT as f64).round() as u128).min(TOLERANCE_UNIT);
    let widened = |share: &Share| {
        let times = |factor: u128| Ratio::new(share.exact.num * factor, share.exact.den * TOLERANCE_UNIT);
        let least = times(TOLERANCE_UNIT - part).floor() as u32;
        let most = times(TOLERANCE_UNIT + part).ceil().min(u128::from(virtual_nodes)) as u32;
        let occupied = u32::from(part < TOLERANCE_UNIT).min(share.least);
        Share { least: least.max(occupied), most, ..*share }
    };
    shares.iter().map(widened).collect()
}

fn heaviest_first(weights: &[u128]) -> Vec<u128> {
    let mut weights = weights.to_vec();
    weights.sort_unstable_by(|a, b| b.cmp(a));
    weights
}

/// Whole loads that add up, each its member's share rounded down or up, the largest remainders up; the load of each
/// zone is rounded first, so that no zone leaves its bounds.
pub(super) fn rounded(cluster: &Cluster, shares: &[Share]) -> Vec<u32> {
    let zone_shares: Vec<Ratio> =
        cluster.zones.iter().map(|zone| sum(&shares[zone.members.clone()])).collect();
    let zone_loads = round(&zone_shares, cluster.total());
    let mut loads = Vec::with_capacity(shares.len());
    for (zone, load) in cluster.zones.iter().zip(zone_loads) {
        let exact: Vec<Ratio> = shares[zone.members.clone()].iter().map(|share| share.exact).collect();
        loads.extend(round(&exact, load).into_iter().map(|load| load as u32));
    }
    loads
}

fn sum(shares: &[Share]) -> Ratio {
    // In one zone all shares that are not whole have the zone's level as their common denominator.
    let den = shares.iter().map(|share| share.exact.den).max().unwrap_or(1);
    let num = shares.iter().map(|share| share.exact.num * (den / share.exact.den)).sum();
    Ratio::new(num, den)
}

fn round(exact: &[Ratio], total: u128) -> Vec<u128> {
    let mut rounded: Vec<u128> = exact.iter().map(Ratio::floor).collect();
    let missing = total.saturating_sub(rounded.iter().sum()) as usize;
    let mut order: Vec<usize> = (0..exact.len()).collect();
    order.sort_by(|a, b| exact[*b].fraction().compare(&exact[*a].fraction()).then(a.cmp(b)));
    for index in order.into_iter().take(missing) {
        rounded[index] += 1;
    }
    rounded
}

struct Common {
    level: Ratio,
    /// For each zone that holds its least or its most, the level of its own.
    zones: Vec<Option<Ratio>>,
}

struct Filling<'a> {
    cluster: &'a Cluster,
    /// What one member can hold at most.
    cap: u128,
    /// For each zone, the levels at which it reaches its least and its most load.
    bounds: Vec<(Ratio, Ratio)>,
}

impl<'a> Filling<'a> {
    fn new(cluster: &'a Cluster) -> Filling<'a> {
        let cap = u128::from(cluster.virtual_nodes);
        let bounds = cluster.zones.iter().map(|zone| {
            let weights = heaviest_first(&cluster.weights[zone.members.clone()]);
            (
                zone_level(&weights, cap, zone.least as u128 * cap),
                zone_level(&weights, cap, zone.most as u128 * cap),
            )
        });
        Filling { cluster, cap, bounds: bounds.collect() }
    }

    /// The level at which all zones together hold everything.
    fn common_level(&self) -> Common {
        let mut breaks: Vec<Ratio> = vec![Ratio::new(0, 1)];
        breaks.extend(self.cluster.weights.iter().map(|weight| Ratio::new(self.cap, *weight)));
        breaks.extend(self.bounds.iter().flat_map(|(floor, full)| [*floor, *full]));
        breaks.sort_by(Ratio::compare);
        // Between two neighbouring breaks the load is linear in the level: find the last that does not hold too much.
        let above = breaks.partition_point(|level| self.load_at(level) <= self.cluster.total() * level.den);
        let start = breaks[above.saturating_sub(1)];

        let mut zones = Vec::with_capacity(self.cluster.zones.len());
        let (mut fixed, mut free_weight) = (0, 0);
        for (zone, (floor, full)) in self.cluster.zones.iter().zip(&self.bounds) {
            if full.compare(&start) != Ordering::Greater {
                fixed += zone.most as u128 * self.cap;
                zones.push(Some(*full));
            } else if floor.compare(&start) == Ordering::Greater {
                fixed += zone.least as u128 * self.cap;
                zones.push(Some(*floor));
            } else {
                for weight in &self.cluster.weights[zone.members.clone()] {
                    match self.cap * start.den <= weight * start.num {
                        true => fixed += self.cap,
                        false => free_weight += weight,
                    }
                }
                zones.push(None);
            }
        }
        let level = match free_weight {
            // Nobody's share depends on the level any more.
            0 => start,
            _ => Ratio::new(self.cluster.total().saturating_sub(fixed), free_weight),
        };
        Common { level, zones }
    }

    /// What all zones hold at `level`, times its denominator.
    fn load_at(&self, level: &Ratio) -> u128 {
        let of_zone = |zone: &Zone| {
            let members = self.cluster.weights[zone.members.clone()].iter();
            let load: u128 = members.map(|weight| (weight * level.num).min(self.cap * level.den)).sum();
            let unit = self.cap * level.den;
            load.clamp(zone.least as u128 * unit, zone.most as u128 * unit)
        };
        self.cluster.zones.iter().map(of_zone).sum()
    }
}

/// The level at which members with these weights (heaviest first) hold `total`, each at most `cap`.
fn zone_level(weights: &[u128], cap: u128, total: u128) -> Ratio {
    let mut rest_weight: u128 = weights.iter().sum();
    let mut rest = total;
    for weight in weights {
        let level = Ratio::new(rest, rest_weight);
        if weight * level.num <= cap * level.den {
            return level;
        }
        rest -= cap;
        rest_weight -= weight;
    }
    Ratio::new(cap, 1)
}
