//! What a change of the cluster moves.

use super::oracle::assert_least_movement;
use super::*;
use std::collections::BTreeSet;

/// Replans, checks every rule, and returns the next ring with what moved.
fn changed(before: &Ring, members: Vec<Member>, replicas: usize) -> (Ring, Vec<Move>) {
    let after = before.replan(members, replicas).unwrap();
    assert_sound(&after);
    assert_least_movement(before, &after);
    assert_eq!(after.epoch().0, before.epoch().0 + 1);
    let moves = before.moves_to(&after).unwrap();
    (after, moves)
}

fn gained(moves: &[Move]) -> BTreeSet<ShardId> {
    moves.iter().flat_map(|step| step.gained.iter().copied()).collect()
}

fn lost(moves: &[Move]) -> BTreeSet<ShardId> {
    moves.iter().flat_map(|step| step.lost.iter().copied()).collect()
}

#[test]
fn nothing_moves_when_nothing_changes() {
    for (members, replicas) in [(equal(7), 3), (zoned(10, 3), 2), (weighted(&[1.0, 5.0, 2.0, 2.5]), 2)] {
        let ring = plan(members.clone(), replicas, 1024);
        let (after, moves) = changed(&ring, members, replicas);
        assert!(moves.is_empty());
        assert_eq!(after.topology().assignment, ring.topology().assignment, "not even a primary");
    }
}

#[test]
fn a_new_shard_gets_its_share_and_nothing_else_moves() {
    for zones in [1, 3, 64] {
        for shards in 3..=20 {
            let ring = plan(zoned(shards, zones), 3, 1024);
            let (after, moves) = changed(&ring, zoned(shards + 1, zones), 3);
            let newcomer = ShardId(shards);
            if zones == 1 || zones == 64 {
                assert_eq!(gained(&moves), BTreeSet::from([newcomer]), "{shards} shards");
            }
            let moved = copies(&moves);
            assert_eq!(moved, lower_bound(&ring, &after), "{shards} shards, {zones} zones");
            if zones == 1 || zones == 64 {
                assert!(moved <= u64::from((3 * 1024_u32).div_ceil(shards + 1)));
            }
        }
    }
}

#[test]
fn a_shard_that_goes_moves_only_what_it_held() {
    for shards in 5..=20 {
        for gone in [0, shards / 2, shards - 1] {
            let ring = plan(equal(shards), 3, 1024);
            let held = loads(&ring)[gone as usize];
            let members = equal(shards).into_iter().filter(|member| member.id.0 != gone).collect();
            let (_, moves) = changed(&ring, members, 3);
            assert_eq!(lost(&moves), BTreeSet::from([ShardId(gone)]));
            assert_eq!(copies(&moves), u64::from(held));
        }
    }
}

#[test]
fn a_replaced_shard_hands_over_everything_to_its_successor() {
    let ring = plan(zoned(9, 3), 3, 1024);
    let held = loads(&ring)[4];
    let mut members = zoned(9, 3);
    members[4].id = ShardId(77);
    let (_, moves) = changed(&ring, members, 3);
    assert_eq!((lost(&moves), gained(&moves)), (BTreeSet::from([ShardId(4)]), BTreeSet::from([ShardId(77)])));
    assert_eq!(copies(&moves), u64::from(held));
}

#[test]
fn weights_move_the_difference_and_no_more() {
    for weights in [
        [1.0, 1.0, 1.0, 1.0, 1.0, 2.0],
        [1.0, 1.0, 1.0, 1.0, 1.0, 0.5],
        [3.0, 1.0, 2.0, 1.0, 0.7, 1.3],
        [0.01, 1.0, 1.0, 1.0, 1.0, 1.0],
        [9.0, 1.0, 1.0, 1.0, 1.0, 1.0],
    ] {
        for replicas in 1..=3 {
            let ring = plan(equal(6), replicas, 1024);
            let (after, moves) = changed(&ring, weighted(&weights), replicas);
            assert_eq!(copies(&moves), lower_bound(&ring, &after), "{weights:?}");
            let (back, moves) = changed(&after, equal(6), replicas);
            assert_eq!(copies(&moves), lower_bound(&after, &back), "{weights:?} and back");
        }
    }
}

#[test]
fn more_replicas_leave_the_owners_where_they_are() {
    for members in [equal(8), zoned(8, 4), weighted(&[1.0, 2.0, 1.0, 3.0, 2.0, 1.0, 2.0, 2.0])] {
        let mut ring = plan(members.clone(), 1, 1024);
        for replicas in 2..=4 {
            let (after, moves) = changed(&ring, members.clone(), replicas);
            assert!(lost(&moves).is_empty());
            assert_eq!(copies(&moves), 1024);
            ring = after;
        }
        for replicas in (1..=3).rev() {
            let (after, moves) = changed(&ring, members.clone(), replicas);
            assert!(gained(&moves).is_empty(), "fewer replicas copy nothing");
            ring = after;
        }
    }
}

#[test]
fn zones_that_appear_move_the_least_that_spreads_the_owners() {
    // All in one zone, then in three: about a ninth of all sets of owners happens to lie in three zones already.
    let ring = plan(equal(9), 3, 1024);
    let (_, moves) = changed(&ring, zoned(9, 3), 3);
    let in_three = (0..1024)
        .filter(|node| {
            let zones: BTreeSet<u32> =
                ring.owners(VirtualNode(*node)).iter().map(|owner| owner.0 % 3).collect();
            zones.len() == 3
        })
        .count();
    // One copy for each zone that is missing is a bound, whatever the loads.
    let missing: u64 = (0..1024)
        .map(|node| {
            let zones: BTreeSet<u32> =
                ring.owners(VirtualNode(node)).iter().map(|owner| owner.0 % 3).collect();
            3 - zones.len() as u64
        })
        .sum();
    assert!(in_three < 1024 && missing > 0);
    assert!(copies(&moves) <= missing + missing / 100 + 4, "{} copies, {missing} missing", copies(&moves));
}

#[test]
fn doubling_moves_nothing() {
    let ring = plan(zoned(7, 3), 3, 64);
    let doubled = ring.doubled().unwrap().doubled().unwrap();
    assert_eq!((doubled.virtual_nodes(), doubled.epoch().0), (256, 3));
    assert!(ring.moves_to(&doubled).unwrap().is_empty());
    for node in 0..256 {
        assert_eq!(doubled.owners(VirtualNode(node)), ring.owners(VirtualNode(node / 4)));
    }
    for key in 0..1000_u32 {
        let key = key.to_le_bytes();
        assert_eq!(doubled.virtual_node(key).0 / 4, ring.virtual_node(key).0);
        assert_eq!(doubled.preference_list(key), ring.preference_list(key));
    }
    doubled.check().unwrap();
    // Also where the loads of fewer virtual nodes are no share of more.
    plan(equal(3), 1, 64).doubled().unwrap().check().unwrap();
    assert!(doubled.moves_to(&ring).is_err());
    // From then on loads are as fine as the new number allows, for a few copies.
    let (after, moves) = changed(&doubled, zoned(7, 3), 3);
    assert_eq!(copies(&moves), lower_bound(&doubled, &after));
    assert!(copies(&moves) <= 3 * 7);
    let mut largest = plan(equal(2), 1, crate::limits::MAX_VIRTUAL_NODES / 2).doubled().unwrap();
    assert!(largest.doubled().is_err());
    largest = largest.replan(equal(3), 1).unwrap();
    assert_sound(&largest);
}

#[test]
fn a_primary_stays_if_it_is_still_an_owner_and_not_overloaded() {
    let ring = plan(equal(10), 3, 1024);
    let after = ring.replan(equal(11), 3).unwrap();
    let kept =
        (0..1024).filter(|n| ring.owners(VirtualNode(*n))[0] == after.owners(VirtualNode(*n))[0]).count();
    // The newcomer is to be the primary of a part in 11.
    assert!(kept >= 1024 - 1024 / 11 - 20, "{kept}");
}

/// One step in the life of a cluster.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Add(f64, u32),
    Remove(prop::sample::Index),
    Reweigh(prop::sample::Index, f64),
    Replace(prop::sample::Index),
    Rezone(prop::sample::Index, u32),
    Replicas(usize),
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        3 => (any_weight(), 0_u32..8).prop_map(|(weight, zone)| Step::Add(weight, zone)),
        3 => at().prop_map(Step::Remove),
        2 => (at(), any_weight()).prop_map(|(index, weight)| Step::Reweigh(index, weight)),
        1 => at().prop_map(Step::Replace),
        1 => (at(), 0_u32..8).prop_map(|(index, zone)| Step::Rezone(index, zone)),
        1 => (1_usize..=5).prop_map(Step::Replicas),
    ]
}

pub(super) fn take(step: &Step, members: &mut Vec<Member>, replicas: &mut usize, next: &mut u32, zones: u32) {
    let mut fresh = || {
        *next += 1;
        ShardId(*next)
    };
    let zone = |number: &u32| format!("z{}", number % zones);
    match step {
        Step::Add(weight, number) if members.len() < 40 => {
            members.push(Member::new(fresh()).weight(*weight).zone(zone(number)));
        }
        Step::Remove(index) if members.len() > *replicas => {
            members.remove(index.index(members.len()));
        }
        Step::Reweigh(index, weight) => {
            let at = index.index(members.len());
            members[at].weight = *weight;
        }
        Step::Replace(index) => {
            let at = index.index(members.len());
            members[at].id = fresh();
        }
        Step::Rezone(index, number) => {
            let at = index.index(members.len());
            members[at].zone = zone(number);
        }
        Step::Replicas(count) => *replicas = (*count).min(members.len()),
        Step::Add(..) | Step::Remove(_) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn without_zones_the_life_of_a_cluster_moves_what_loads_ask_for_and_no_more(
        members in any_members(40, 1),
        replicas in 1_usize..=5,
        steps in prop::collection::vec(step(), 1..10),
    ) {
        let (mut members, mut replicas) = (members, replicas);
        replicas = replicas.min(members.len());
        let mut next = 1000;
        let mut ring = plan(members.clone(), replicas, 256);
        for step in steps {
            take(&step, &mut members, &mut replicas, &mut next, 1);
            let (after, moves) = changed(&ring, members.clone(), replicas);
            let (moved, bound) = (copies(&moves), lower_bound(&ring, &after));
            prop_assert!(moved >= bound);
            // Only few heavy shards, which must join where they are not yet, force more than loads alone ask for.
            let heavy = after.balance().shards.iter().any(|shard| shard.share > 64.0);
            prop_assert!(moved == bound || heavy, "{:?} moved {} where {} are enough", step, moved, bound);
            ring = after;
        }
    }

    #[test]
    fn with_zones_every_placement_in_the_life_of_a_cluster_is_sound(
        members in any_members(24, 8),
        zones in 2_u32..=8,
        replicas in 1_usize..=5,
        steps in prop::collection::vec(step(), 1..10),
    ) {
        let (mut members, mut replicas) = (members, replicas);
        replicas = replicas.min(members.len());
        let mut next = 1000;
        let mut ring = plan(members.clone(), replicas, 128);
        for step in steps {
            take(&step, &mut members, &mut replicas, &mut next, zones);
            let (after, moves) = changed(&ring, members.clone(), replicas);
            prop_assert!(copies(&moves) >= lower_bound(&ring, &after));
            ring = after;
        }
    }
}

/// The cases of benches/movement.rs, smaller.
#[test]
fn common_changes_move_no_more_than_a_hundredth_above_what_any_placement_must() {
    for (replicas, zones) in (1..=3).flat_map(|replicas| [1, 3, 4, 64].map(|zones| (replicas, zones))) {
        for shards in 3..=12 {
            let ring = plan(zoned(shards, zones), replicas, 1024);
            let mut nexts = vec![(ring.next(), "nothing")];
            let mut ask = |what: &'static str, change: &dyn Fn(&mut Next)| {
                let mut next = ring.next();
                change(&mut next);
                nexts.push((next, what));
            };
            ask("one more", &|next| next.members = zoned(shards + 1, zones));
            ask("two more", &|next| next.members = zoned(shards + 2, zones));
            ask("one drained", &|next| drop(next.members.remove(1)));
            ask("one replaced", &|next| {
                next.members[1].id = ShardId(99);
                next.replacements.push((ShardId(1), ShardId(99)));
            });
            ask("one twice as heavy", &|next| next.members[0].weight = 2.0);
            ask("a replica more", &|next| next.replication_factor += 1);
            ask("a replica less", &|next| next.replication_factor -= 1);
            for (next, what) in nexts {
                if !(1..=next.members.len()).contains(&next.replication_factor) {
                    continue;
                }
                let after = ring.replan_with(next).unwrap();
                let (moved, bound) = (copies(&ring.moves_to(&after).unwrap()), lower_bound(&ring, &after));
                assert!(
                    moved >= bound && moved * 100 <= bound * 101,
                    "{what}: {moved} copies, {bound} are needed ({shards} shards, {replicas} replicas, {zones} zones)"
                );
            }
        }
    }
}
