//! What must never change: where a key lives, and what a plan comes to.

use super::*;
use crate::ring::Topology;
use sha1::{Digest, Sha1};
use std::fmt::Write as _;

fn fixture(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ring").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// The file was computed by another program (Python's hashlib), from the documented rules.
#[test]
fn keys_stay_at_their_virtual_nodes() {
    let text = fixture("keys.tsv");
    let mut rings = std::collections::BTreeMap::new();
    let mut lines = 0;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let [partitioner, key, small, large] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("four columns: {line:?}");
        };
        for (virtual_nodes, expected) in [(1024, small), (16384, large)] {
            let ring = rings.entry((partitioner, virtual_nodes)).or_insert_with(|| {
                let partitioner = serde_json::from_str(partitioner).unwrap();
                Ring::plan(equal(1), 1, virtual_nodes, partitioner).unwrap()
            });
            let found = ring.virtual_node(bytes(key));
            assert_eq!(found, VirtualNode(expected.parse().unwrap()), "{line}");
        }
        lines += 1;
    }
    assert!(lines >= 200, "{lines}");
}

/// The owners of a few clusters and of a change of each, as digests: planning is the same on every platform. A planner
/// may get better; then this file changes, and stores keep the placements they have until they are next replanned.
#[test]
fn plans_stay_the_same() {
    let uneven = weighted(&[1.0, 2.5, 0.3, 4.0, 1.0, 1.7]);
    let lopsided: Vec<Member> = (0..9)
        .map(|id| Member::new(ShardId(id)).zone(["a", "b", "b", "c", "c", "c", "c", "c", "c"][id as usize]))
        .collect();
    let mut found = String::new();
    for (name, members, replicas, virtual_nodes) in [
        ("equal-3", equal(3), 2, 1024),
        ("equal-8", equal(8), 2, 1024),
        ("equal-32", equal(32), 3, 4096),
        ("zones-12-3", zoned(12, 3), 3, 1024),
        ("zones-7-2", zoned(7, 2), 3, 1024),
        ("uneven", uneven, 2, 1024),
        ("lopsided", lopsided, 3, 1024),
        ("large", zoned(200, 7), 3, 16384),
    ] {
        let ring = plan(members.clone(), replicas, virtual_nodes);
        let mut wider = members.clone();
        wider.push(Member::new(ShardId(1000)).weight(1.5));
        let grown = ring.replan(wider, replicas).unwrap();
        let shrunk = grown.replan(members[1..].to_vec(), replicas).unwrap();
        for (step, ring) in [("first", &ring), ("grown", &grown), ("shrunk", &shrunk)] {
            let mut digest = Sha1::new();
            for node in 0..ring.virtual_nodes() {
                ring.owners(VirtualNode(node)).iter().for_each(|owner| digest.update(owner.0.to_le_bytes()));
            }
            let hex: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(found, "{name}\t{step}\t{hex}").unwrap();
        }
    }
    assert_eq!(fixture("plans.tsv"), found, "the plans are now:\n{found}");
}

/// The form in which a manifest stores a topology.
#[test]
fn a_stored_topology_stays_readable() {
    let text = fixture("topology.json");
    let members = vec![
        Member::new(ShardId(1)).zone("nvme0"),
        Member::new(ShardId(2)).zone("nvme1").weight(1.5),
        Member::new(ShardId(7)).zone("nvme2"),
    ];
    let planned = Ring::plan(members, 2, 16, Partitioner::Delimiter(b'/')).unwrap();
    assert_eq!(serde_json::to_string(planned.topology()).unwrap(), text.trim_end());
    assert_eq!(&serde_json::from_str::<Topology>(&text).unwrap(), planned.topology());
}
