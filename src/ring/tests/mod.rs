mod assignment;
mod golden;
mod movement;
mod oracle;
mod partitioner;
mod placement;
mod replanning;
mod shares;
mod tolerance;
mod topology;

use super::{Member, Move, Next, Partitioner, Ring, least_copies};
use crate::ids::{ShardId, VirtualNode};
use proptest::prelude::*;

/// `count` members of weight 1 in one zone.
fn equal(count: u32) -> Vec<Member> {
    (0..count).map(|id| Member::new(ShardId(id))).collect()
}

/// `count` members of weight 1, dealt to `zones` zones in turn.
fn zoned(count: u32, zones: u32) -> Vec<Member> {
    (0..count).map(|id| Member::new(ShardId(id)).zone(format!("zone{}", id % zones))).collect()
}

fn weighted(weights: &[f64]) -> Vec<Member> {
    weights.iter().zip(0..).map(|(weight, id)| Member::new(ShardId(id)).weight(*weight)).collect()
}

fn plan(members: Vec<Member>, replicas: usize, virtual_nodes: u32) -> Ring {
    Ring::plan(members, replicas, virtual_nodes, Partitioner::Whole).unwrap()
}

fn loads(ring: &Ring) -> Vec<u32> {
    ring.balance().shards.iter().map(|shard| shard.load).collect()
}

fn primaries(ring: &Ring) -> Vec<u32> {
    ring.balance().shards.iter().map(|shard| shard.primaries).collect()
}

fn copies(moves: &[Move]) -> u64 {
    moves.iter().map(|step| step.gained.len() as u64).sum()
}

/// No placement with the next ring's loads and zones makes fewer copies.
fn lower_bound(before: &Ring, after: &Ring) -> u64 {
    least_copies(before, after).unwrap()
}

/// Every rule, verified without the planner's own check.
fn assert_sound(ring: &Ring) {
    let members = ring.members();
    let mut zones: Vec<&str> = members.iter().map(|m| m.zone.as_str()).collect();
    zones.sort_unstable();
    zones.dedup();
    let enough = zones.len().min(ring.replication_factor());
    for virtual_node in (0..ring.virtual_nodes()).map(VirtualNode) {
        let owners = ring.owners(virtual_node);
        assert_eq!(owners.len(), ring.replication_factor());
        let mut distinct = owners.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), owners.len(), "{owners:?}");
        let mut seen: Vec<&str> = owners
            .iter()
            .map(|id| members.iter().find(|m| m.id == *id).expect("an owner is a member").zone.as_str())
            .collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), enough, "virtual node {virtual_node} has the zones {seen:?}");
        let indexes = ring.owner_indexes(virtual_node);
        assert!(indexes.iter().map(|at| members[usize::from(*at)].id).eq(owners.iter().copied()));
    }
    let balance = ring.balance();
    for shard in &balance.shards {
        let tolerated = shard.share * (ring.tolerance() + 1e-9);
        assert!((f64::from(shard.load) - shard.share).abs() < 1.0 + tolerated, "{shard:?}");
        if shard.limit.is_none() {
            assert!((shard.share - shard.proportional).abs() < 1e-6, "{shard:?}");
        }
    }
    if ring.tolerance() == 0.0 && balance.limited().next().is_none() {
        let total: f64 = members.iter().map(|m| m.weight).sum();
        for (shard, member) in balance.shards.iter().zip(members) {
            let share = f64::from(ring.virtual_nodes()) * member.weight / total;
            assert!((f64::from(shard.primaries) - share).abs() < 1.0, "{shard:?}, share {share}");
        }
    }
    ring.check().unwrap();
    assert!(ring.zone_violations().is_empty());
}

/// Weights as users give them: mostly alike, sometimes far apart.
fn any_weight() -> impl Strategy<Value = f64> {
    prop_oneof![4 => Just(1.0), 3 => 0.25..4.0, 1 => 0.01..100.0, 1 => Just(1e-9)]
}

fn any_members(most: usize, zones: u32) -> impl Strategy<Value = Vec<Member>> {
    prop::collection::vec((any_weight(), 0..zones), 1..=most).prop_map(|list| {
        let member = |(id, (weight, zone)): (usize, (f64, u32))| {
            Member::new(ShardId(id as u32 * 3)).weight(weight).zone(format!("z{zone}"))
        };
        list.into_iter().enumerate().map(member).collect()
    })
}
