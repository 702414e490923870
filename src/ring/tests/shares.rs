//! Shares against an independent water-filling: nested bisection in floating point.

use super::*;
use crate::ring::cluster::Cluster;
use crate::ring::share::{rounded, shares};

fn bisect(target: f64, load: impl Fn(f64) -> f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    while load(high) < target && high < 1e30 {
        high *= 2.0;
    }
    for _ in 0..300 {
        let middle = f64::midpoint(low, high);
        if load(middle) < target { low = middle } else { high = middle }
    }
    high
}

fn expected(cluster: &Cluster) -> Vec<f64> {
    let cap = f64::from(cluster.virtual_nodes);
    let weights: Vec<f64> = cluster.weights.iter().map(|w| *w as f64 / (1_u64 << 40) as f64).collect();
    let natural = |zone: usize, level: f64| -> f64 {
        cluster.zones[zone].members.clone().map(|member| (weights[member] * level).min(cap)).sum()
    };
    let clamped = |zone: usize, level: f64| {
        let bounds = &cluster.zones[zone];
        natural(zone, level).clamp(bounds.least as f64 * cap, bounds.most as f64 * cap)
    };
    let all = |level: f64| (0..cluster.zones.len()).map(|zone| clamped(zone, level)).sum::<f64>();
    let common = bisect(cluster.total() as f64 * (1.0 - 1e-12), all);
    let mut shares = Vec::new();
    for zone in 0..cluster.zones.len() {
        let own = bisect(clamped(zone, common) * (1.0 - 1e-12), |level| natural(zone, level));
        shares.extend(cluster.zones[zone].members.clone().map(|member| (weights[member] * own).min(cap)));
    }
    shares
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn shares_agree_with_bisection(members in any_members(24, 6), replicas in 1_usize..=6, bits in 4_u32..=14) {
        prop_assume!(replicas <= members.len());
        let cluster = Cluster::new(&members, replicas, 1 << bits).unwrap();
        let shares = shares(&cluster);
        for (share, expected) in shares.iter().zip(expected(&cluster)) {
            prop_assert!((share.exact.as_f64() - expected).abs() < 1e-3 + expected * 1e-6, "{} {}", share.exact.as_f64(), expected);
        }
        let loads = rounded(&cluster, &shares);
        prop_assert_eq!(loads.iter().map(|load| u128::from(*load)).sum::<u128>(), cluster.total());
        for (load, share) in loads.iter().zip(&shares) {
            prop_assert!((share.least..=share.most).contains(load));
            prop_assert!(share.most - share.least <= 1 && share.most <= cluster.virtual_nodes);
        }
        for zone in &cluster.zones {
            let load = loads[zone.members.clone()].iter().sum::<u32>() as usize;
            let unit = cluster.virtual_nodes as usize;
            prop_assert!((zone.least * unit..=zone.most * unit).contains(&load));
        }
    }
}

/// The largest numbers that limits allow must not overflow (the test profile checks arithmetic).
#[test]
fn shares_of_the_largest_ring() {
    let members: Vec<Member> = (0..1024)
        .map(|id| Member::new(ShardId(id)).weight(1.0 + f64::from(id % 7) * 0.37).zone(format!("{}", id % 5)))
        .collect();
    let cluster = Cluster::new(&members, 16, 1 << 20).unwrap();
    let shares = shares(&cluster);
    assert_eq!(rounded(&cluster, &shares).iter().map(|load| u64::from(*load)).sum::<u64>(), 16 << 20);
}

#[test]
fn more_shards_get_more_virtual_nodes() {
    let recommended = [1, 8, 9, 16, 100, 1000].map(Ring::recommended_virtual_nodes);
    assert_eq!(recommended, [1024, 1024, 2048, 2048, 16_384, 131_072]);
}
