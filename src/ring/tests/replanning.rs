//! Several changes at once, replacements among them, and what they are together against one after another.

use super::movement::{Step, step, take};
use super::oracle::assert_least_movement;
use super::*;
use crate::error::ErrorKind;

/// Replaces members by others of the same weight and zone, or of what `other` makes of them.
fn replacing(ring: &Ring, pairs: &[(u32, u32)], other: impl Fn(Member) -> Member) -> Next {
    let mut next = ring.next();
    for (old, new) in pairs {
        let member = next.members.iter_mut().find(|member| member.id.0 == *old).unwrap();
        *member = other(Member { id: ShardId(*new), ..member.clone() });
        next.replacements.push((ShardId(*old), ShardId(*new)));
    }
    next
}

fn replanned(before: &Ring, next: Next) -> (Ring, Vec<Move>) {
    let after = before.replan_with(next).unwrap();
    assert_sound(&after);
    assert_least_movement(before, &after);
    assert_eq!(after.epoch().0, before.epoch().0 + 1);
    let moves = before.moves_to(&after).unwrap();
    (after, moves)
}

#[test]
fn a_replaced_shard_moves_only_its_data_and_only_to_its_successor() {
    let lopsided: Vec<Member> =
        zoned(9, 3).into_iter().map(|m| Member { weight: 1.0 + f64::from(m.id.0), ..m }).collect();
    for (members, replicas) in
        [(equal(4), 1), (equal(8), 2), (zoned(9, 3), 3), (zoned(7, 2), 3), (lopsided, 3)]
    {
        let ring = plan(members, replicas, 256);
        for pairs in [&[(1, 77)][..], &[(0, 77), (3, 70), (2, 71)]] {
            let (after, moves) = replanned(&ring, replacing(&ring, pairs, |member| member));
            for virtual_node in (0..256).map(VirtualNode) {
                let renamed = |id: &ShardId| pairs.iter().find(|p| p.0 == id.0).map_or(*id, |p| ShardId(p.1));
                let expected: Vec<ShardId> = ring.owners(virtual_node).iter().map(renamed).collect();
                assert_eq!(after.owners(virtual_node), expected, "not even a primary changes");
            }
            for step in moves {
                for (gained, lost) in pairs.iter().map(|(old, new)| (ShardId(*new), ShardId(*old))) {
                    assert_eq!(step.gained.contains(&gained), step.lost.contains(&lost));
                }
            }
        }
    }
}

#[test]
fn a_successor_of_another_weight_takes_what_it_needs_of_the_old_one() {
    let ring = plan(equal(8), 3, 1024);
    let held = |ring: &Ring, id: u32| -> Vec<VirtualNode> {
        let nodes = (0..ring.virtual_nodes()).map(VirtualNode);
        nodes.filter(|node| ring.owners(*node).contains(&ShardId(id))).collect()
    };
    let old = held(&ring, 2);
    for weight in [0.5, 0.9, 1.1, 2.0] {
        let (after, moves) = replanned(&ring, replacing(&ring, &[(2, 9)], |m| m.weight(weight)));
        assert_eq!(copies(&moves), lower_bound(&ring, &after), "weight {weight}");
        let new = held(&after, 9);
        let inherited = new.iter().filter(|node| old.contains(node)).count();
        assert_eq!(inherited, new.len().min(old.len()), "weight {weight}");
    }
}

#[test]
fn a_successor_in_another_zone_moves_no_more_than_a_shard_that_comes_while_one_goes() {
    let ring = plan(zoned(9, 3), 3, 256);
    let next = replacing(&ring, &[(4, 77)], |member| member.zone("zone0"));
    let apart = Next { replacements: Vec::new(), ..next.clone() };
    let (_, together) = replanned(&ring, next);
    let (_, apart) = replanned(&ring, apart);
    assert_eq!(copies(&together), copies(&apart));
}

#[test]
fn virtual_nodes_grow_with_the_rest() {
    let ring = plan(zoned(6, 3), 2, 64);
    let (after, moves) = replanned(&ring, Next { virtual_nodes: 1024, members: zoned(7, 3), ..ring.next() });
    assert_eq!(after.virtual_nodes(), 1024);
    assert_eq!(copies(&moves), lower_bound(&ring, &after));
    assert!(after.balance().max_over_mean < 1.01);
    for (nodes, words) in [(32, "cannot shrink"), (100, "a power of two")] {
        let error = ring.replan_with(Next { virtual_nodes: nodes, ..ring.next() }).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(format!("{error:?} {error}").contains(words), "{error:?}");
    }
}

#[test]
fn replacements_that_lead_nowhere_are_refused() {
    let ring = plan(equal(4), 2, 64);
    let mut good = replacing(&ring, &[(1, 7)], |member| member);
    ring.replan_with(good.clone()).unwrap();
    good.members.retain(|member| member.id != ShardId(3));
    good.members.push(Member { id: ShardId(9), ..good.members[0].clone() });
    let with = |pairs: &[(u32, u32)]| Next {
        replacements: pairs.iter().map(|(old, new)| (ShardId(*old), ShardId(*new))).collect(),
        ..good.clone()
    };
    for (pairs, words) in [
        (&[(8, 7)][..], "not a member (shard 8)"),
        (&[(2, 7)], "is to stay (shard 2)"),
        (&[(1, 8)], "is not a new member (shard 8)"),
        (&[(1, 2)], "is not a new member (shard 2)"),
        (&[(1, 7), (1, 7)], "named twice"),
        (&[(1, 7), (1, 9)], "named twice"),
        (&[(1, 7), (3, 7)], "named twice"),
    ] {
        let error = ring.replan_with(with(pairs)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn one_position_asks_rings_with_different_numbers_of_virtual_nodes() {
    let ring = Ring::plan(zoned(5, 5), 2, 64, Partitioner::Delimiter(b'/')).unwrap();
    let next = ring.replan_with(Next { virtual_nodes: 512, members: zoned(7, 5), ..ring.next() }).unwrap();
    for key in 0..500_u32 {
        let key = format!("{key}/a");
        let position = ring.position(&key);
        assert_eq!(position, next.position(&key));
        for ring in [&ring, &next] {
            assert_eq!(ring.virtual_node_at(position), ring.virtual_node(&key));
            assert_eq!(ring.owner_indexes_at(position), ring.owner_indexes(ring.virtual_node(&key)));
            for (index, member) in ring.members().iter().enumerate() {
                assert_eq!(ring.owns(index, position), ring.preference_list(&key).contains(&member.id));
            }
            assert!(!ring.owns(ring.members().len(), position));
        }
    }
}

/// A step in the life of a cluster, in any of the ways that can be asked for.
#[derive(Debug, Clone)]
enum Ask {
    Members(Step),
    /// By one of the same weight in a zone that may be another.
    Replace(prop::sample::Index, Option<u32>),
    Double,
    Tolerance(f64),
}

fn ask() -> impl Strategy<Value = Ask> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        6 => step().prop_map(Ask::Members),
        2 => (at(), prop::option::of(0_u32..4)).prop_map(|(index, zone)| Ask::Replace(index, zone)),
        1 => Just(Ask::Double),
        1 => (0.0..=1.0).prop_map(Ask::Tolerance),
    ]
}

fn apply(ask: &Ask, next: &mut Next, fresh: &mut u32) {
    next.replacements.clear();
    match ask {
        Ask::Members(step) => take(step, &mut next.members, &mut next.replication_factor, fresh, 4),
        Ask::Replace(index, zone) => {
            *fresh += 1;
            let at = index.index(next.members.len());
            let member = &mut next.members[at];
            next.replacements.push((member.id, ShardId(*fresh)));
            member.id = ShardId(*fresh);
            if let Some(zone) = zone {
                member.zone = format!("z{zone}");
            }
        }
        Ask::Double => next.virtual_nodes *= 2,
        Ask::Tolerance(tolerance) => next.tolerance = *tolerance,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn several_changes_together_move_no_more_than_one_after_another(
        members in any_members(12, 4),
        replicas in 1_usize..=4,
        asks in prop::collection::vec(ask(), 2..6),
    ) {
        let replicas = replicas.min(members.len());
        let first = plan(members, replicas, 64);
        let (mut ring, mut fresh) = (first.clone(), 1000);
        let mut together = first.next();
        let mut one_by_one = Vec::new();
        for ask in &asks {
            let mut next = ring.next();
            apply(ask, &mut next, &mut fresh);
            // Who replaced one that had replaced another stands for the first.
            for (old, new) in &next.replacements {
                match together.replacements.iter_mut().find(|(_, successor)| successor == old) {
                    Some(pair) => pair.1 = *new,
                    None => together.replacements.push((*old, *new)),
                }
            }
            let (after, moves) = replanned(&ring, next);
            one_by_one.push((copies(&moves), after.virtual_nodes()));
            ring = after;
        }
        let last = ring.next();
        let is_in = |members: &[Member], id: ShardId| members.iter().any(|member| member.id == id);
        together.replacements.retain(|(old, new)| is_in(first.members(), *old) && is_in(&last.members, *new));
        let together = Next { replacements: together.replacements, ..last };
        let (after, moves) = replanned(&first, together);
        // Virtual nodes that were doubled later count so much more.
        let apart: u64 = one_by_one.iter().map(|(count, nodes)| count * u64::from(after.virtual_nodes() / nodes)).sum();
        prop_assert!(copies(&moves) <= apart, "{} together, {apart} one after another", copies(&moves));
    }
}
