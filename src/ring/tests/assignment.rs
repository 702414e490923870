//! What is no placement is refused before anybody goes by it.

use crate::ids::ShardId;
use crate::limits::{MAX_REPLICATION_FACTOR, MAX_SHARDS, MIN_VIRTUAL_NODES};
use crate::ring::assignment::Assignment;

/// As a manifest would bring it.
fn read(replicas: usize, shards: &[u32], owners: &[u16]) -> Assignment {
    serde_json::from_value(serde_json::json!({
        "replication_factor": replicas,
        "shards": shards.iter().map(|id| ShardId(*id)).collect::<Vec<_>>(),
        "owners": owners,
    }))
    .unwrap()
}

#[test]
fn a_placement_is_one_up_to_its_limits_and_no_further() {
    let nodes = MIN_VIRTUAL_NODES as usize;
    let of = |replicas: usize| -> Vec<u16> { (0..replicas as u16).cycle().take(replicas * nodes).collect() };
    let ids = |count: usize| -> Vec<u32> { (0..count as u32).collect() };
    for (replicas, shards) in [(1, 1), (2, 3), (MAX_REPLICATION_FACTOR, MAX_SHARDS), (1, MAX_SHARDS)] {
        read(replicas, &ids(shards), &of(replicas)).validate().unwrap();
    }
    let refused = |replicas, shards: &[u32], owners: &[u16]| {
        assert!(read(replicas, shards, owners).validate().is_err(), "{replicas} of {} shards", shards.len());
    };
    refused(0, &ids(1), &of(1));
    refused(0, &ids(1), &[]);
    let many = MAX_REPLICATION_FACTOR + 1;
    refused(many, &ids(many), &of(many));
    refused(2, &ids(2), &of(2)[1..]);
    refused(1, &ids(1), &of(1)[1..]);
    refused(1, &ids(1), &[of(1), of(1), of(1)].concat());
    refused(1, &ids(1), &of(1)[..nodes / 2]);
    refused(1, &ids(MAX_SHARDS + 1), &of(1));
    refused(1, &[1, 0], &of(1));
    refused(1, &[1, 1], &of(1));
    refused(2, &ids(1), &of(2));
    refused(2, &ids(2), &[&of(2)[2..], &[1, 1]].concat());
}
