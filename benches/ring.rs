//! Lookups and planning of the ring. `cargo bench --bench ring`; the movement table is printed first.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// A benchmark of an invalid cluster has nothing to report.

use annulus::{Member, Partitioner, Ring, ShardId, VirtualNode};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::hint::black_box;

fn members(count: u32) -> Vec<Member> {
    (0..count).map(|id| Member::new(ShardId(id)).zone(format!("disk{}", id % 8))).collect()
}

fn plan(count: u32, replicas: usize, virtual_nodes: u32) -> Ring {
    Ring::plan(members(count), replicas, virtual_nodes, Partitioner::Whole).expect("a valid cluster")
}

fn lookups(c: &mut Criterion) {
    let ring = plan(64, 3, 16384);
    let mut group = c.benchmark_group("lookup");
    let mut at = 0_u32;
    group.bench_function("owners of a virtual node, no hash", |b| {
        b.iter(|| {
            // Strides over the table, so that it is not always the same line of the cache.
            at = at.wrapping_add(2_654_435_769);
            let owners = ring.owners(VirtualNode(at >> 18));
            owners.iter().map(|owner| owner.0).fold(0, |a, b| a ^ b)
        });
    });
    let mut key = *b"order:00000000000000";
    let mut number = 0_u64;
    group.bench_function("owners of a 20-byte key", |b| {
        b.iter(|| {
            number += 1;
            key[12..].copy_from_slice(&number.to_le_bytes());
            let owners = ring.preference_list(black_box(&key));
            owners.iter().map(|owner| owner.0).fold(0, |a, b| a ^ b)
        });
    });
    group.finish();
}

fn planning(c: &mut Criterion) {
    let mut group = c.benchmark_group("plan");
    group.sample_size(10);
    for (shards, replicas, virtual_nodes) in [(8, 2, 1024), (64, 3, 16384), (256, 3, 32768)] {
        let name = format!("{shards} shards, {replicas} replicas, {virtual_nodes} virtual nodes");
        group.bench_function(BenchmarkId::new("from scratch", &name), |b| {
            b.iter(|| plan(shards, replicas, virtual_nodes));
        });
        let ring = plan(shards, replicas, virtual_nodes);
        group.bench_function(BenchmarkId::new("one shard more", &name), |b| {
            b.iter(|| ring.replan(members(shards + 1), replicas).expect("a valid cluster"));
        });
        let mut other_weights = members(shards);
        other_weights.iter_mut().for_each(|member| member.weight = 1.0 + f64::from(member.id.0 % 5));
        group.bench_function(BenchmarkId::new("all weights changed", &name), |b| {
            b.iter(|| ring.replan(other_weights.clone(), replicas).expect("a valid cluster"));
        });
    }
    group.finish();
}

/// What a change copies, in parts of all replicas, beside the least that any placement could copy.
fn movement(_: &mut Criterion) {
    println!(
        "{:<28}{:>10}{:>10}{:>10}{:>14}",
        "change (64 shards, R 3)", "copies", "of all", "least", "max/mean after"
    );
    let (replicas, virtual_nodes) = (3, 16384);
    let ring = plan(64, replicas, virtual_nodes);
    let without =
        |gone: &[u32]| members(64).into_iter().filter(|m| !gone.contains(&m.id.0)).collect::<Vec<_>>();
    let mut heavier = members(64);
    heavier[5].weight = 2.0;
    let mut replaced = members(64);
    replaced[5].id = ShardId(99);
    for (name, next, replicas) in [
        ("nothing", members(64), 3),
        ("one shard more", members(65), 3),
        ("eight shards more", members(72), 3),
        ("one shard less", without(&[5]), 3),
        ("one disk less", without(&[5, 13, 21, 29, 37, 45, 53, 61]), 3),
        ("one shard replaced", replaced, 3),
        ("one shard twice as heavy", heavier, 3),
        ("one replica less", members(64), 2),
        ("one replica more", members(64), 4),
    ] {
        let after = ring.replan(next, replicas).expect("a valid cluster");
        let moves = ring.moves_to(&after).expect("as many virtual nodes");
        let copies: usize = moves.iter().map(|step| step.gained.len()).sum();
        let (before, balance) = (ring.balance(), after.balance());
        let all = (replicas as u32 * virtual_nodes) as f64;
        // What must come to somebody, and what cannot stay with anybody.
        let (mut gained, mut kept) = (0.0, 0.0_f64);
        for shard in &balance.shards {
            let held = before.shards.iter().find(|s| s.shard == shard.shard).map_or(0, |s| s.load);
            gained += (shard.share.floor() - f64::from(held)).max(0.0);
            kept += shard.share.ceil().min(f64::from(held));
        }
        let least = f64::max(gained, all - kept);
        let part = copies as f64 / all;
        println!("{name:<28}{copies:>10}{part:>10.4}{least:>10}{:>16.4}", balance.max_over_mean);
    }
}

criterion_group!(benches, movement, lookups, planning);
criterion_main!(benches);
