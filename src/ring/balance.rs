//! What a placement came to: loads and primaries of every shard against what its weight asks for.

use super::share::LoadLimit;
use crate::ids::ShardId;
use serde::{Deserialize, Serialize};

/// How evenly a [`Ring`](super::Ring) loads its shards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Balance {
    /// One entry for each member, in their order.
    pub shards: Vec<ShardBalance>,
    /// The largest load in relation to its weight, over the mean of all: 1 is perfect.
    pub max_over_mean: f64,
    /// The same of the primaries.
    pub primaries_max_over_mean: f64,
}

/// What one shard holds, in virtual nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ShardBalance {
    /// The shard.
    pub shard: ShardId,
    /// Its weight.
    pub weight: f64,
    /// The virtual nodes that it owns.
    pub load: u32,
    /// The virtual nodes that it is the primary of.
    pub primaries: u32,
    /// What it should own: in proportion to its weight, as far as zones and replicas allow.
    pub share: f64,
    /// What it would own in proportion to its weight alone.
    pub proportional: f64,
    /// Why these two differ, if they do.
    pub limit: Option<LoadLimit>,
}

impl Balance {
    pub(super) fn new(shards: Vec<ShardBalance>) -> Balance {
        let max_over_mean = spread(&shards, |shard| shard.load);
        let primaries_max_over_mean = spread(&shards, |shard| shard.primaries);
        Balance { shards, max_over_mean, primaries_max_over_mean }
    }

    /// The shards whose load is not in proportion to their weight, because of zones or because a shard cannot hold a
    /// virtual node twice.
    pub fn limited(&self) -> impl Iterator<Item = &ShardBalance> {
        self.shards.iter().filter(|shard| shard.limit.is_some())
    }
}

fn spread(shards: &[ShardBalance], load: impl Fn(&ShardBalance) -> u32) -> f64 {
    // Weights are divided first: their sum may be larger than any f64.
    let heaviest = shards.iter().map(|shard| shard.weight).fold(0.0, f64::max);
    let total: f64 = shards.iter().map(|shard| f64::from(load(shard))).sum();
    let mean = total / shards.iter().map(|shard| shard.weight / heaviest).sum::<f64>();
    let relative = |shard: &ShardBalance| f64::from(load(shard)) / (shard.weight / heaviest) / mean;
    // A load of one may be far above the share of a minute weight; it is what rounding needs, not imbalance.
    let most = shards.iter().filter(|shard| load(shard) > 1).map(relative).fold(0.0, f64::max);
    // What is written as text has no infinity.
    most.min(f64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(number: u32, weight: f64, load: u32) -> ShardBalance {
        let share = weight;
        ShardBalance {
            shard: ShardId(number),
            weight,
            load,
            primaries: load,
            share,
            proportional: share,
            limit: None,
        }
    }

    /// Two are imbalance, however little it weighs.
    #[test]
    fn a_load_of_one_is_no_imbalance_and_one_of_two_is() {
        let of = |load| Balance::new(vec![shard(0, 1.0, 500), shard(1, 1.0, 500), shard(2, 1e-6, load)]);
        for even in [of(0), of(1)] {
            assert!(even.max_over_mean < 1.01 && even.primaries_max_over_mean < 1.01, "{even:?}");
        }
        assert!(of(2).max_over_mean > 1000.0, "{:?}", of(2));
    }
}
