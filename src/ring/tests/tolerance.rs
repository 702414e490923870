//! The trade between balance and movement.

use super::oracle::assert_least_movement;
use super::*;
use crate::ring::Topology;

fn tolerant(before: &Ring, members: Vec<Member>, replicas: usize, tolerance: f64) -> (Ring, u64) {
    let next = Next { members, replication_factor: replicas, tolerance, ..before.next() };
    let after = before.replan_with(next).unwrap();
    assert_sound(&after);
    assert_least_movement(before, &after);
    let moved = copies(&before.moves_to(&after).unwrap());
    (after, moved)
}

#[test]
fn a_new_shard_gets_its_share_less_the_tolerance() {
    let ring = plan(equal(7), 2, 1024);
    // A share of 256; what is tolerated above it, the others hold already.
    for (tolerance, expected) in [(0.0, 256), (0.1, 230), (0.15, 217), (0.5, 128), (0.999, 1), (1.0, 0)] {
        let (after, moved) = tolerant(&ring, equal(8), 2, tolerance);
        assert_eq!(moved, expected, "{tolerance}");
        assert_eq!(u64::from(loads(&after)[7]), expected);
        let others = &loads(&after)[..7];
        let spread = others.iter().max().unwrap() - others.iter().min().unwrap();
        assert!(f64::from(spread) <= 2.0 + tolerance * 256.0 / 32.0, "{tolerance}: {others:?}");
    }
}

#[test]
fn what_is_tolerated_is_evened_out_where_that_copies_nothing() {
    // Of three owners two stay, and which ones is free.
    let ring = plan(equal(9), 3, 1024);
    let (after, moved) = tolerant(&ring, equal(9), 2, 0.5);
    assert_eq!(moved, 0);
    let (least, most) = (*loads(&after).iter().min().unwrap(), *loads(&after).iter().max().unwrap());
    assert!(most - least <= 1, "{:?}", loads(&after));
}

#[test]
fn a_ring_remembers_its_tolerance() {
    let ring = plan(equal(4), 2, 64);
    assert!(
        !serde_json::to_string(ring.topology()).unwrap().contains("tolerance"),
        "as before there was one"
    );
    let (after, _) = tolerant(&ring, equal(5), 2, 0.25);
    assert_eq!(after.tolerance(), 0.25);
    let stored = serde_json::to_string(after.topology()).unwrap();
    let read = Ring::new(serde_json::from_str::<Topology>(&stored).unwrap()).unwrap();
    assert_eq!((read.topology(), read.tolerance()), (after.topology(), 0.25));
    read.check().unwrap();
    // By the rules of balance alone the same placement would not pass.
    let strict = stored.replace("\"tolerance\":0.25", "\"tolerance\":0.0");
    assert_ne!(strict, stored);
    let strict = Ring::new(serde_json::from_str::<Topology>(&strict).unwrap()).unwrap();
    assert!(strict.check().unwrap_err().to_string().contains("should hold"));
    for nonsense in ["-0.1", "1.01", "1e300"] {
        let text = stored.replace("\"tolerance\":0.25", &format!("\"tolerance\":{nonsense}"));
        assert!(serde_json::from_str::<Topology>(&text).is_err(), "{nonsense}");
    }
    // It stays until it is changed, also by whoever does not name it.
    assert_eq!(after.doubled().unwrap().tolerance(), 0.25);
    after.doubled().unwrap().check().unwrap();
    assert_eq!(after.replan(equal(6), 2).unwrap().tolerance(), 0.25);
    let (balanced, _) = tolerant(&after, equal(5), 2, 0.0);
    assert!(balanced.balance().max_over_mean < 1.05);
}

#[test]
fn nonsense_is_refused() {
    let ring = plan(equal(4), 2, 64);
    for tolerance in [-0.1, 1.000001, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let error = ring.replan_with(Next { tolerance, ..ring.next() }).unwrap_err();
        assert!(error.to_string().contains("must be from 0 to 1"), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn movement_never_grows_with_tolerance(
        before in any_members(16, 4),
        after in any_members(16, 4),
        replicas in (1_usize..=4, 1_usize..=4),
        some in (0.0..0.3, 0.3..1.0),
    ) {
        let ring = plan(before.clone(), replicas.0.min(before.len()), 128);
        let mut least = u64::MAX;
        for tolerance in [0.0, some.0, some.1, 1.0] {
            let (next, moved) = tolerant(&ring, after.clone(), replicas.1.min(after.len()), tolerance);
            prop_assert!(moved <= least, "{moved} copies at {tolerance}, {least} at less");
            least = moved;
            for shard in next.balance().shards {
                let (load, slack) = (f64::from(shard.load), 1e-6);
                prop_assert!(load >= (shard.share * (1.0 - tolerance) - slack).floor(), "{:?}", shard);
                prop_assert!(load <= (shard.share * (1.0 + tolerance) + slack).ceil(), "{:?}", shard);
                prop_assert!(shard.load > 0 || shard.share < 1.0 || tolerance == 1.0, "{:?} is empty", shard);
            }
        }
    }
}
