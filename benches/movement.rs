//! What changes of a cluster move, beside the least that any placement could: `cargo bench --bench movement`, with
//! `-- --all` for every number of shards.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// A benchmark of an invalid cluster has nothing to report.

use annulus::testing::ring::{Next, least_copies, next, replan};
use annulus::{Member, Partitioner, Ring, ShardId};
use std::time::{Duration, Instant};

const SHOWN: [u32; 4] = [3, 8, 16, 32];

const CHANGES: [&str; 9] = [
    "one shard more",
    "two shards more",
    "one shard drained",
    "one shard replaced",
    "one weight doubled",
    "one replica more",
    "one replica less",
    "all of these at once",
    "one more, tolerance 0.1",
];

fn member(id: u32, zones: u32) -> Member {
    let zone = if zones == 0 { String::new() } else { format!("zone{}", id % zones) };
    Member::new(ShardId(id)).zone(zone)
}

/// None if the change is impossible: a replica more than there are shards.
fn asked(change: usize, ring: &Ring, zones: u32) -> Option<Next> {
    let mut asked = next(ring);
    let shards = asked.members.len() as u32;
    match change {
        0 => asked.members.push(member(shards, zones)),
        1 => asked.members.extend([member(shards, zones), member(shards + 1, zones)]),
        2 => drop(asked.members.remove(1)),
        3 => replace(&mut asked, 1),
        4 => asked.members[0].weight = 2.0,
        5 => asked.replication_factor += 1,
        6 => asked.replication_factor -= 1,
        7 => {
            replace(&mut asked, 2);
            asked.members[0].weight = 2.0;
            asked.members.remove(1);
            asked.members.extend([member(shards, zones), member(shards + 1, zones)]);
            asked.virtual_nodes *= 2;
        }
        _ => {
            asked.members.push(member(shards, zones));
            asked.tolerance = 0.1;
        }
    }
    (1..=asked.members.len()).contains(&asked.replication_factor).then_some(asked)
}

fn replace(asked: &mut Next, at: usize) {
    let member = &mut asked.members[at];
    asked.replacements.push((member.id, ShardId(1000)));
    member.id = ShardId(1000);
}

struct Row {
    copies: u64,
    least: u64,
    of_all: f64,
    before: f64,
    after: f64,
    took: Duration,
}

impl Row {
    fn ratio(&self) -> f64 {
        if self.copies == self.least { 1.0 } else { self.copies as f64 / self.least as f64 }
    }
}

fn row(change: usize, shards: u32, replicas: usize, zones: u32) -> Option<Row> {
    let members = (0..shards).map(|id| member(id, zones));
    let nodes = Ring::recommended_virtual_nodes(shards as usize);
    let ring = Ring::plan(members, replicas, nodes, Partitioner::Whole).expect("a valid cluster");
    let asked = asked(change, &ring, zones)?;
    let start = Instant::now();
    let after = replan(&ring, asked).expect("a valid change");
    let took = start.elapsed();
    let moves = ring.moves_to(&after).expect("as many virtual nodes, or more");
    let copies = moves.iter().map(|step| step.gained.len() as u64).sum();
    Some(Row {
        copies,
        least: least_copies(&ring, &after).expect("a valid cluster"),
        of_all: copies as f64 / (after.replication_factor() as f64 * f64::from(after.virtual_nodes())),
        before: ring.balance().max_over_mean,
        after: after.balance().max_over_mean,
        took,
    })
}

fn main() {
    let all = std::env::args().any(|arg| arg == "--all");
    let mut worst = Vec::new();
    for zones in [0, 3] {
        for replicas in 1..=3 {
            println!(
                "\n{replicas} replica(s), {}",
                if zones == 0 { "no zones".into() } else { format!("{zones} zones") }
            );
            println!(
                "| change | shards | copies | of all | least possible | ratio | max/mean before | after | planned in, ms |"
            );
            println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|");
            for (change, name) in CHANGES.iter().enumerate() {
                let mut highest: Option<(f64, u32)> = None;
                for shards in 3..=32 {
                    let Some(row) = row(change, shards, replicas, zones) else {
                        continue;
                    };
                    if highest.is_none_or(|(ratio, _)| row.ratio() > ratio) {
                        highest = Some((row.ratio(), shards));
                    }
                    if all || SHOWN.contains(&shards) {
                        let Row { copies, least, of_all, before, after, took } = row;
                        let (ratio, ms) = (row.ratio(), took.as_secs_f64() * 1e3);
                        println!(
                            "| {name} | {shards} | {copies} | {of_all:.4} | {least} | {ratio:.4} | {before:.4} | {after:.4} | {ms:.2} |"
                        );
                    }
                }
                worst.extend(highest.map(|highest| (highest, replicas, zones, name)));
            }
        }
    }
    println!("\nThe highest ratio of each change, of 3 to 32 shards:");
    worst.sort_by(|a, b| b.0.0.total_cmp(&a.0.0));
    for ((ratio, shards), replicas, zones, name) in worst {
        println!("{ratio:.4}  {name}, {replicas} replica(s), {zones} zones, {shards} shards");
    }
}
