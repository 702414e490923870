//! Writers, readers and scanners beside flushes, on real shards.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use annulus::{Durability, Options, Partitioner, Store, WriteBatch};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const KEYS: u64 = 400;
const BATCH: usize = 32;

/// So much longer it may take until enough has happened.
const LONGER: Duration = Duration::from_secs(60);

fn length() -> Duration {
    let seconds = std::env::var("ANNULUS_CONCURRENCY_SECONDS").map_or(6, |s| s.parse().unwrap());
    Duration::from_secs(seconds)
}

fn number(value: &[u8]) -> u64 {
    value.first_chunk().map_or(0, |b| u64::from_le_bytes(*b))
}

fn value(n: u64) -> Vec<u8> {
    let mut value = n.to_le_bytes().to_vec();
    value.resize(8 + (n % 500) as usize, n as u8);
    value
}

/// One writer raises the numbers under the keys; batches write one number under `BATCH` keys at once.
fn writer(store: &Store, stop: &AtomicBool, newest: &AtomicU64, batches: bool) {
    for n in 1.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        if batches {
            let mut batch = WriteBatch::new();
            for i in 0..BATCH {
                // Spread over the key space, so over all shards and far apart in a scan.
                batch.insert(format!("{:02x}/batch", i * 8), value(n));
            }
            store.commit(batch).unwrap();
        } else {
            let durability = if n % 50 == 0 { Durability::Sync } else { Durability::Memory };
            store.insert_with(format!("one/{:04}", n % KEYS), value(n), durability).unwrap();
            newest.store(n, Ordering::Release);
        }
    }
}

/// A reader never sees an older value of a key after a newer one, nor one older than an acknowledged write.
fn reader(store: &Store, stop: &AtomicBool, newest: &AtomicU64, reads: &AtomicU64) {
    let mut seen: HashMap<u64, u64> = HashMap::new();
    while !stop.load(Ordering::Relaxed) {
        let acknowledged = newest.load(Ordering::Acquire);
        for back in 0..20.min(acknowledged) {
            let n = acknowledged - back;
            let key = n % KEYS;
            let found = store.get(format!("one/{key:04}")).unwrap().as_deref().map_or(0, number);
            assert!(found >= n, "key {key}: {found} was read, {n} was acknowledged before");
            let before = seen.insert(key, found).unwrap_or(0);
            assert!(found >= before, "key {key}: {found} was read after {before}");
            reads.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A scan, in either direction, sees every batch whole and at one moment.
fn scanner(store: &Store, stop: &AtomicBool, done: &AtomicU64) {
    let mut newest = 0;
    for scans in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let numbers = |items: &mut dyn Iterator<Item = annulus::Result<(annulus::Bytes, annulus::Bytes)>>| {
            let mut numbers = Vec::new();
            for item in items {
                let (key, value) = item.unwrap();
                if key.ends_with(b"/batch") {
                    numbers.push(number(&value));
                }
                // Slow at times, so that flushes happen in the middle of scans.
                if numbers.len() == BATCH / 2 && scans % 4 == 0 {
                    std::thread::sleep(Duration::from_millis(3));
                }
            }
            numbers
        };
        let found =
            if scans % 2 == 0 { numbers(&mut store.iter()) } else { numbers(&mut store.iter().rev()) };
        assert!(found.is_empty() || found.len() == BATCH, "{} of {BATCH} keys of a batch", found.len());
        assert!(found.windows(2).all(|w| w[0] == w[1]), "half a batch in a scan: {found:?}");
        let now = found.first().copied().unwrap_or(0);
        assert!(now >= newest, "a scan saw {now} after one that saw {newest}");
        newest = now;
        let keys: Vec<String> = (0..BATCH).map(|i| format!("{:02x}/batch", i * 8)).collect();
        let many: Vec<u64> =
            store.get_many(&keys).unwrap().iter().map(|v| v.as_deref().map_or(0, number)).collect();
        assert!(many.windows(2).all(|w| w[0] == w[1]), "half a batch in get_many: {many:?}");
        assert!(many[0] >= now, "get_many saw {} after a scan that saw {now}", many[0]);
        done.fetch_add(1, Ordering::Relaxed);
    }
}

fn run(options: Options) {
    let dir = tempfile::tempdir().unwrap();
    let store = options.open(dir.path().join("data")).unwrap();
    let (stop, newest) = (AtomicBool::new(false), AtomicU64::new(0));
    let (reads, scans) = (AtomicU64::new(0), AtomicU64::new(0));
    let figures =
        || (store.stats().unwrap().flushes, reads.load(Ordering::Relaxed), scans.load(Ordering::Relaxed));
    let is_enough = |(flushes, reads, scans)| flushes > 5 && reads > 100 && scans > 5;
    std::thread::scope(|scope| {
        scope.spawn(|| writer(&store, &stop, &newest, false));
        scope.spawn(|| writer(&store, &stop, &newest, true));
        let reader = scope.spawn(|| reader(&store, &stop, &newest, &reads));
        let scanner = scope.spawn(|| scanner(&store, &stop, &scans));
        let begun = Instant::now();
        // Longer where the machine is slow, so that something has been tried.
        let goes_on = || {
            let passed = begun.elapsed();
            passed < length() || passed < length() + LONGER && !is_enough(figures())
        };
        while goes_on() && !reader.is_finished() && !scanner.is_finished() {
            store.flush().unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        stop.store(true, Ordering::Relaxed);
        reader.join().unwrap();
        scanner.join().unwrap();
    });
    let stats = store.stats().unwrap();
    assert!(is_enough(figures()), "{:?} flushes, reads and scans", figures());
    assert_eq!(stats.snapshots, 0);
    // Where the directory for temporary files is in memory, a store of one replica says what that means.
    assert!(stats.warnings.iter().all(|warning| warning.contains("power cut")), "{:?}", stats.warnings);
    store.close().unwrap();
}

#[test]
fn readers_beside_flushes_with_one_replica() {
    run(Options::new().shards(3).replication_factor(1).memory_budget(8 << 20).page_bytes(512));
}

#[test]
fn readers_beside_flushes_with_two_replicas() {
    run(Options::new()
        .shards(4)
        .replication_factor(2)
        .memory_budget(8 << 20)
        .partitioner(Partitioner::Delimiter(b'/')));
}

#[test]
fn many_threads_commit_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Options::new().shards(2).memory_budget(8 << 20).open(dir.path().join("data")).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let store = &store;
            scope.spawn(move || {
                let mut before = annulus::Seq::ZERO;
                for n in 0..60u64 {
                    let durability = match n % 3 {
                        0 => Durability::Sync,
                        1 => Durability::Process,
                        _ => Durability::Memory,
                    };
                    let seq = store.insert_with(format!("{thread}/{n}"), value(n), durability).unwrap();
                    assert!(seq > before);
                    before = seq;
                    assert_eq!(store.get(format!("{thread}/{n}")).unwrap().as_deref(), Some(&value(n)[..]));
                }
            });
        }
    });
    assert_eq!(store.len().unwrap(), 8 * 60);
    let stats = store.stats().unwrap();
    assert_eq!(stats.last_seq.0, 8 * 60, "every commit has a version of its own");
}

/// Records that are read over and over are kept in memory in front of the shards: every flush must take them along.
#[test]
fn a_record_that_is_read_often_is_never_old() {
    const HOT: u64 = 16;
    let dir = tempfile::tempdir().unwrap();
    let store = Options::new().shards(2).open(dir.path()).unwrap();
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut seen = [0; HOT as usize];
                    while !stop.load(Ordering::Relaxed) {
                        for key in 0..HOT {
                            let low = done.load(Ordering::Acquire);
                            let found = store.get(key.to_be_bytes()).unwrap().as_deref().map_or(0, number);
                            let before = std::mem::replace(&mut seen[key as usize], found);
                            assert!(
                                found >= low && found >= before,
                                "key {key}: {found} after {before} and {low}"
                            );
                        }
                    }
                })
            })
            .collect();
        for round in 1..120 {
            for key in 0..HOT {
                store.insert(key.to_be_bytes(), value(round)).unwrap();
            }
            done.store(round, Ordering::Release);
            store.flush().unwrap();
            // Time for the readers to find everything in the shards.
            std::thread::sleep(Duration::from_millis(2));
            if readers.iter().any(|reader| reader.is_finished()) {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}
