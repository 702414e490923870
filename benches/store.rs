//! Microbenchmarks of the whole store: inserts at each durability and number of threads, gets, scans, opening after a
//! kill. `cargo bench --bench store [FILTER]`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use annulus::{Durability, Options, Store};
use common::key;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const RECORDS: u64 = 400_000;

fn options() -> Options {
    Options::new().shards(4).replication_factor(2)
}

/// `iterations` inserts, spread over the threads.
fn insert(
    store: &Store,
    next: &AtomicU64,
    iterations: u64,
    threads: u64,
    durability: Durability,
) -> Duration {
    let started = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let share = iterations / threads + u64::from(thread < iterations % threads);
            scope.spawn(move || {
                for _ in 0..share {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    store.insert_with(key(n), [n as u8; 100], durability).unwrap();
                }
            });
        }
    });
    started.elapsed()
}

fn inserts(c: &mut Criterion) {
    let mut group = c.benchmark_group("insert");
    group.throughput(Throughput::Elements(1)).sample_size(20).measurement_time(Duration::from_secs(3));
    for durability in [Durability::Memory, Durability::Process, Durability::Sync] {
        let dir = tempfile::tempdir().unwrap();
        let store = options().open(dir.path()).unwrap();
        let next = AtomicU64::new(0);
        for threads in [1, 2, 8] {
            group.bench_function(format!("{durability:?}/{threads} threads"), |b| {
                b.iter_custom(|iterations| insert(&store, &next, iterations, threads, durability));
            });
        }
    }
}

fn loaded(dir: &Path) -> Store {
    let store = options().open(dir).unwrap();
    for n in 0..RECORDS {
        store.insert(key(n), [n as u8; 100]).unwrap();
    }
    store.flush().unwrap();
    store
}

fn reads(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let store = loaded(dir.path());
    let mut n = 0u64;
    let mut next = move || {
        n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
        n % RECORDS
    };
    let mut group = c.benchmark_group("get");
    group.throughput(Throughput::Elements(1));
    group.bench_function("hit", |b| b.iter(|| black_box(store.get(key(next())).unwrap().unwrap())));
    group.bench_function("miss", |b| b.iter(|| assert!(store.get(key(RECORDS + next())).unwrap().is_none())));
    group.throughput(Throughput::Elements(1000));
    group.bench_function("get_many of 1000", |b| {
        b.iter_batched(
            || (0..1000).map(|_| key(next())).collect::<Vec<_>>(),
            |keys| store.get_many(&keys).unwrap(),
            BatchSize::LargeInput,
        );
    });
    group.finish();
    let mut group = c.benchmark_group("scan");
    group.sample_size(10).throughput(Throughput::Elements(RECORDS));
    group.bench_function("all, forward", |b| {
        b.iter(|| store.iter().map(|r| r.unwrap().1.len()).sum::<usize>())
    });
    group.bench_function("all, reverse", |b| {
        b.iter(|| store.iter().rev().map(|r| r.unwrap().1.len()).sum::<usize>());
    });
    group.throughput(Throughput::Elements(50));
    group.bench_function("50 records", |b| {
        b.iter(|| store.range(&key(next())[..]..).take(50).map(|r| r.unwrap().1.len()).sum::<usize>());
    });
}

/// A store of 3 million records whose process was killed: a child writes and ends without a word to the store.
fn opening(c: &mut Criterion) {
    const CHILD: &str = "ANNULUS_BENCH_CHILD";
    let records = 3_000_000;
    if let Ok(dir) = std::env::var(CHILD) {
        let store = options().open(dir).unwrap();
        for n in 0..records {
            store.insert(key(n), [n as u8; 100]).unwrap();
        }
        // As SIGKILL would: no destructor, no flush, no close.
        std::process::abort();
    }
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("store");
    let copy = dir.path().join("copy");
    let exe = std::env::current_exe().unwrap();
    let arguments = ["--bench", "open after a kill"];
    let mut group = c.benchmark_group("open after a kill");
    group.sample_size(10);
    let mut made = false;
    group.bench_function("3 million records", |b| {
        if !made {
            let status =
                std::process::Command::new(&exe).args(arguments).env(CHILD, &place).status().unwrap();
            assert!(!status.success());
            made = true;
        }
        b.iter_custom(|iterations| {
            (0..iterations)
                .map(|_| {
                    // Each opening of the same state: an opening flushes, and so changes what the next one finds.
                    let _ = std::fs::remove_dir_all(&copy);
                    assert!(
                        std::process::Command::new("cp")
                            .arg("-r")
                            .args([&place, &copy])
                            .status()
                            .unwrap()
                            .success()
                    );
                    let started = Instant::now();
                    let store = options().open(&copy).unwrap();
                    let took = started.elapsed();
                    assert_eq!(store.stats().unwrap().last_seq.0, records);
                    took
                })
                .sum()
        });
    });
}

criterion_group!(benches, inserts, reads, opening);
criterion_main!(benches);
