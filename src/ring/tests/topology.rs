//! What a topology refuses, and how it is stored.

use super::*;
use crate::error::ErrorKind;
use crate::limits::{MAX_REPLICATION_FACTOR, MAX_SHARDS, MAX_VIRTUAL_NODES};
use crate::ring::Topology;

fn refused(members: Vec<Member>, replicas: usize, virtual_nodes: u32, words: &str) {
    let error = Ring::plan(members, replicas, virtual_nodes, Partitioner::Whole).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains(words), "{error}");
}

#[test]
fn nonsense_is_refused() {
    refused(vec![], 1, 1024, "0 shards");
    refused(equal(MAX_SHARDS as u32 + 1), 1, 1024, "1025 shards");
    refused(equal(3), 0, 1024, "replication factor is 0");
    refused(equal(3), 4, 1024, "only 3 shards");
    refused(equal(40), MAX_REPLICATION_FACTOR + 1, 1024, "must be 1 to 16");
    for virtual_nodes in [0, 1, 8, 1000, 1023, MAX_VIRTUAL_NODES * 2, u32::MAX] {
        refused(equal(3), 2, virtual_nodes, "a power of two from 16 to 1048576");
    }
    for weight in [0.0, -0.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        refused(weighted(&[1.0, weight, 1.0]), 2, 1024, "must be finite and greater than 0");
    }
    refused(vec![Member::new(ShardId(1)), Member::new(ShardId(1))], 1, 16, "the same shard (shard 1)");
    refused(vec![Member::new(ShardId(1)).zone("x".repeat(256))], 1, 16, "256 bytes");
    let error = Ring::plan(equal(3), 2, 16, Partitioner::Prefix(0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    // What is just inside the limits is not.
    plan(equal(16), 16, 16);
    plan(weighted(&[f64::MAX, f64::MIN_POSITIVE, 5e-324]), 2, 16);
    plan(vec![Member::new(ShardId(u32::MAX)).zone("x".repeat(255))], 1, 16);
}

#[test]
fn what_is_stored_reads_back() {
    for partitioner in
        [Partitioner::Whole, Partitioner::Prefix(4), Partitioner::Delimiter(0), Partitioner::HashTag]
    {
        let ring = Ring::plan(zoned(5, 2), 3, 64, partitioner).unwrap().replan(zoned(7, 2), 2).unwrap();
        let stored = serde_json::to_vec(ring.topology()).unwrap();
        let read: Topology = serde_json::from_slice(&stored).unwrap();
        assert_eq!(&read, ring.topology());
        assert_eq!(read.epoch.0, 2);
        let again = Ring::new(read).unwrap();
        assert_eq!(again.preference_list(b"a key"), ring.preference_list(b"a key"));
        assert_eq!(again.balance(), ring.balance());
    }
}

#[test]
fn a_topology_that_contradicts_itself_is_not_read() {
    let stored = serde_json::to_string(plan(equal(3), 2, 16).topology()).unwrap();
    serde_json::from_str::<Topology>(&stored).unwrap();
    let owners = stored.find("\"owners\":[").unwrap() + 10;
    let (head, tail) = stored.split_at(owners);
    let second = tail.find(',').unwrap();
    let broken = [
        ("an owner that is no member", format!("{head}9{}", &tail[second..])),
        ("an owner twice", format!("{head}{},{}{}", &tail[..second], &tail[..second], &tail[second + 2..])),
        ("an owner less", format!("{head}{}", &tail[second + 1..])),
        ("a virtual node less", format!("{head}{}", &tail[second + 3..])),
        ("a replica more", stored.replacen("\"replication_factor\":2", "\"replication_factor\":3", 1)),
        ("no replicas", stored.replace("\"replication_factor\":2", "\"replication_factor\":0")),
        ("more virtual nodes", stored.replace("\"virtual_nodes\":16", "\"virtual_nodes\":32")),
        ("a stranger", stored.replace("\"shards\":[0,1,2]", "\"shards\":[0,1,5]")),
        ("shards out of order", stored.replace("\"shards\":[0,1,2]", "\"shards\":[0,2,1]")),
        ("a weight of zero", stored.replacen("\"weight\":1.0", "\"weight\":0.0", 1)),
        ("the same member twice", stored.replacen("\"id\":1", "\"id\":0", 1)),
        ("a bad partitioner", stored.replace("\"whole\"", "{\"prefix\":0}")),
    ];
    for (what, text) in broken {
        assert_ne!(text, stored, "{what}");
        assert!(serde_json::from_str::<Topology>(&text).is_err(), "{what} was read: {text}");
    }
}

/// The check that runs after every computation must see what a broken planner could do.
#[test]
fn the_check_finds_broken_placements() {
    let members = zoned(6, 3);
    let ring = plan(members.clone(), 2, 64);
    let stored = serde_json::to_value(ring.topology()).unwrap();
    let owner = |at: usize| stored["assignment"]["owners"][at].as_u64().unwrap();
    let with = |changes: &[(usize, u64)]| {
        let mut broken = stored.clone();
        changes.iter().for_each(|(at, owner)| broken["assignment"]["owners"][*at] = (*owner).into());
        Ring::new(serde_json::from_value(broken).unwrap()).unwrap()
    };
    with(&[]).check().unwrap();

    // Two owners in one zone (the zone of a member is its number modulo 3).
    let same_zone = with(&[(1, (owner(0) + 3) % 6)]);
    assert!(same_zone.check().unwrap_err().to_string().contains("spread"));
    assert_eq!(same_zone.zone_violations(), [VirtualNode(0)]);

    // Zones in order, loads not: a few virtual nodes of one member given to its neighbour in the zone.
    let moved: Vec<(usize, u64)> = (0..128).filter(|at| owner(*at) == 0).take(3).map(|at| (at, 3)).collect();
    assert!(with(&moved).check().unwrap_err().to_string().contains("should hold"));

    // Loads in order, primaries not.
    let swapped: Vec<(usize, u64)> = (0..64)
        .filter(|node| owner(node * 2) == 0)
        .take(3)
        .flat_map(|node| [(node * 2, owner(node * 2 + 1)), (node * 2 + 1, 0)])
        .collect();
    assert!(with(&swapped).check().unwrap_err().to_string().contains("primary"));
}
