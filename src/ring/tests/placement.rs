//! Placements from scratch: what they must be, case by case.

use super::*;
use crate::ring::LoadLimit;

/// The figure that says how even a ring is, worked out another way.
#[test]
fn the_most_loaded_shard_is_compared_with_its_share_by_weight() {
    for weights in [&[1.0, 2.0, 3.5, 0.25][..], &[40.0, 10.0, 30.0], &[1e300, 3e300, 2e300]] {
        let ring = plan(weighted(weights), 1, 256);
        let balance = ring.balance();
        let heaviest = weights.iter().copied().fold(0.0, f64::max);
        let sum: f64 = weights.iter().map(|weight| weight / heaviest).sum();
        let due = |weight: &f64| 256.0 * (weight / heaviest) / sum;
        let relative =
            loads(&ring).into_iter().zip(weights).map(|(load, weight)| f64::from(load) / due(weight));
        let most = relative.fold(0.0, f64::max);
        assert!((balance.max_over_mean - most).abs() < 1e-9, "{weights:?}: {} {most}", balance.max_over_mean);
        // Of one copy each is the primary.
        assert!((balance.primaries_max_over_mean - most).abs() < 1e-9);
    }
}

/// With replicas a shard of next to no weight holds more than its share: how much more is a number however light it is, since a plan is
/// written as text.
#[test]
fn how_uneven_a_ring_is_has_a_number_for_any_weights() {
    for light in [1e-300, f64::MIN_POSITIVE, f64::from_bits(1)] {
        let balance = plan(weighted(&[1e300, f64::MAX, light]), 3, 64).balance();
        assert!(balance.max_over_mean.is_finite() && balance.max_over_mean > 1e300, "{light}: {balance:?}");
        let text = serde_json::to_string(&balance).unwrap();
        assert_eq!(serde_json::from_str::<crate::ring::Balance>(&text).unwrap(), balance);
    }
}

#[test]
fn equal_shards_differ_by_at_most_one_virtual_node() {
    for shards in 3..=32 {
        for replicas in 1..=3 {
            let ring = plan(equal(shards), replicas, 1024);
            assert_sound(&ring);
            for counts in [loads(&ring), primaries(&ring)] {
                let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
                assert!(most - least <= 1, "{shards} shards, {replicas} replicas: {counts:?}");
            }
            // With 32 shards and one replica a virtual node is 3% of a load; none of these rounds, though.
            let fits = (1024 * replicas as u32).is_multiple_of(shards);
            if fits || replicas as u32 * 1024 / shards >= 100 {
                assert!(ring.balance().max_over_mean <= 1.01, "{shards} {replicas} {:?}", ring.balance());
            }
        }
    }
}

#[test]
fn loads_and_primaries_follow_weights() {
    for (weights, replicas) in [
        (&[1.0, 2.0, 3.0, 4.0][..], 2),
        (&[1.0, 1.0, 1.0, 1.5], 3),
        (&[0.1, 0.2, 0.3, 0.15, 0.25], 1),
        (&[5.0, 4.0, 4.0, 4.0, 3.0, 7.0, 1.0, 1.0, 1.0], 3),
        (&[1e300, 2e300, 1.5e300], 1),
        (&[1e-300, 2e-300, 1.5e-300], 1),
    ] {
        let ring = plan(weighted(weights), replicas, 1024);
        assert_sound(&ring);
        assert_eq!(ring.balance().limited().count(), 0, "{weights:?}");
    }
}

#[test]
fn a_shard_too_heavy_holds_everything_and_the_others_share_the_rest() {
    let ring = plan(weighted(&[10.0, 1.0, 1.0, 2.0]), 2, 1024);
    assert_sound(&ring);
    assert_eq!(loads(&ring), [1024, 256, 256, 512]);
    let limits: Vec<_> = ring.balance().shards.iter().map(|shard| shard.limit).collect();
    let others = Some(LoadLimit::Others);
    assert_eq!(limits, [Some(LoadLimit::Saturated), others, others, others]);
    // It cannot hold more, but as a primary it can still serve in proportion: 10 of 14.
    assert!((731..=732).contains(&primaries(&ring)[0]), "{:?}", primaries(&ring));
}

#[test]
fn zones_win_over_weights_and_it_is_reported() {
    // A zone of one shard among three, with as many replicas as zones: each zone holds everything once.
    let mut members = zoned(7, 3);
    for member in &mut members {
        member.zone = if member.id.0 == 0 {
            "a"
        } else if member.id.0 < 3 {
            "b"
        } else {
            "c"
        }
        .to_string();
    }
    let ring = plan(members.clone(), 3, 1024);
    assert_sound(&ring);
    assert_eq!(loads(&ring), [1024, 512, 512, 256, 256, 256, 256]);
    assert_eq!(ring.balance().limited().count(), 7);
    assert_eq!(ring.balance().shards[0].limit, Some(LoadLimit::ZoneFloor));
    assert_eq!(ring.balance().shards[3].limit, Some(LoadLimit::ZoneFull));
    // Primaries can be even, and are: each shard's share is 1024 / 7.
    let primaries = primaries(&ring);
    assert!(primaries.iter().all(|count| (146..=147).contains(count)), "{primaries:?}");

    // With two replicas only the largest zone is full: it holds everything once, and the others share the rest evenly.
    let ring = plan(members, 2, 1024);
    assert_sound(&ring);
    assert_eq!(loads(&ring)[3..], [256; 4]);
    assert!(loads(&ring)[..3].iter().all(|load| (341..=342).contains(load)));
}

#[test]
fn with_fewer_zones_than_replicas_each_zone_holds_its_part() {
    let ring = plan(zoned(8, 2), 3, 1024);
    assert_sound(&ring);
    for virtual_node in (0..1024).map(VirtualNode) {
        let in_first = ring.owners(virtual_node).iter().filter(|owner| owner.0 % 2 == 0).count();
        assert!((1..=2).contains(&in_first));
    }
    let ring = plan(zoned(8, 2), 4, 1024);
    for virtual_node in (0..1024).map(VirtualNode) {
        assert_eq!(ring.owners(virtual_node).iter().filter(|owner| owner.0 % 2 == 0).count(), 2);
    }
}

#[test]
fn the_smallest_and_the_fullest_clusters() {
    for (shards, replicas) in [(1, 1), (2, 1), (2, 2), (3, 3), (5, 5), (16, 16)] {
        let ring = plan(equal(shards), replicas, 16);
        assert_sound(&ring);
        let counts = primaries(&ring);
        assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
    }
    // More shards than virtual nodes: some hold nothing.
    assert_sound(&plan(equal(100), 2, 16));
}

#[test]
fn every_pair_of_shards_shares_virtual_nodes() {
    let together = |ring: &Ring, shards: usize| {
        let mut counts = vec![vec![0_u32; shards]; shards];
        for virtual_node in (0..ring.virtual_nodes()).map(VirtualNode) {
            let owners = ring.owner_indexes(virtual_node);
            for a in owners {
                owners.iter().filter(|b| *b != a).for_each(|b| counts[usize::from(*a)][usize::from(*b)] += 1);
            }
        }
        let pairs = |a: usize| (0..shards).filter(move |b| *b != a).map(move |b| (a, b));
        let all: Vec<u32> = (0..shards).flat_map(pairs).map(|(a, b)| counts[a][b]).collect();
        (*all.iter().min().unwrap(), *all.iter().max().unwrap())
    };
    // 1024 virtual nodes over 28 pairs: 36.6 each.
    let ring = plan(equal(8), 2, 1024);
    let (least, most) = together(&ring, 8);
    assert!(least >= 32 && most <= 42, "{least}..{most}");
    // One shard after another up to 16, and back to 8: 8.5 each for 120 pairs, then 36.6 again.
    let life = |ring: &Ring, counts: &mut dyn Iterator<Item = u32>| {
        counts.fold(ring.clone(), |ring, count| ring.replan(equal(count), 2).unwrap())
    };
    let wide = life(&ring, &mut (9..=16));
    let (least, most) = together(&wide, 16);
    assert!(least >= 7 && most <= 11, "{least}..{most}");
    let narrow = life(&wide, &mut (8..16).rev());
    let (least, most) = together(&narrow, 8);
    assert!(least >= 34 && most <= 40, "{least}..{most}");
    // 3 * 4096 over 120 pairs: 102.4 each.
    let (least, most) = together(&plan(equal(16), 3, 4096), 16);
    assert!(least >= 92 && most <= 113, "{least}..{most}");
}

#[test]
fn the_order_of_members_does_not_matter() {
    let members: Vec<Member> =
        zoned(11, 4).into_iter().map(|m| Member { weight: f64::from(m.id.0 + 1), ..m }).collect();
    let mut reversed = members.clone();
    reversed.reverse();
    let (a, b) = (plan(members.clone(), 3, 256), plan(reversed.clone(), 3, 256));
    assert_eq!(a.topology(), b.topology());
    let grown = a.replan(members[..9].to_vec(), 3).unwrap();
    assert_eq!(grown.topology(), b.replan(reversed[2..].to_vec(), 3).unwrap().topology());
}

#[test]
fn a_virtual_node_that_is_not_there_has_no_owners() {
    let ring = plan(equal(3), 2, 16);
    assert!(ring.owners(VirtualNode(16)).is_empty());
    assert!(ring.owners(VirtualNode(u32::MAX)).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_cluster_is_placed_by_the_rules(
        members in any_members(40, 8),
        replicas in 1_usize..=5,
        bits in 4_u32..=9,
    ) {
        prop_assume!(replicas <= members.len());
        assert_sound(&plan(members, replicas, 1 << bits));
    }
}
