//! What healing costs: `cargo bench --bench heal`.
//!
//! Of a store of three shards with two replicas: the seconds a GiB to rebuild one of its shards from the others, with nobody
//! else at work and beside readers (and what a get then takes), to bring one up to date from the journal, to verify one, to scrub all,
//! and to compact one.
//!
//! `ANNULUS_MIB` sets the size of all records together (256 unless set): they have 20 + 1,000 bytes. Every read is checked.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use annulus::{Options, ShardId, Store};
use common::key;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const VALUE: usize = 1000;
const COMMITS: u64 = 2000;
const GIB: f64 = (1_u64 << 30) as f64;

fn value(n: u64, round: u8) -> Vec<u8> {
    let mut value = vec![round; VALUE];
    value[..8].copy_from_slice(&n.to_le_bytes());
    value
}

fn write(store: &Store, records: std::ops::Range<u64>, round: u8) {
    for n in records {
        store.insert(key(n), value(n, round)).unwrap();
    }
}

fn wait_until_good(store: &Store) {
    let mut events = store.events();
    while !store.health().unwrap().is_good() {
        events.next_within(Duration::from_millis(10));
    }
}

/// Bytes of the records that a shard holds.
fn held(store: &Store, shard: ShardId) -> f64 {
    let records = annulus::testing::held_by(store, annulus::KeyspaceId(0), shard).unwrap().len();
    (records * (20 + VALUE)) as f64
}

fn timed(f: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    f();
    begun.elapsed().as_secs_f64()
}

/// Gets of random records until told to stop; how long each took, in microseconds, sorted.
fn gets(store: &Store, records: u64, stop: &AtomicBool) -> Vec<f64> {
    let (mut taken, mut n) = (Vec::new(), 1_u64);
    while !stop.load(Ordering::Relaxed) {
        n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let wanted = (n >> 20) % records;
        let begun = Instant::now();
        let found = store.get(key(wanted)).unwrap().unwrap();
        taken.push(begun.elapsed().as_secs_f64() * 1e6);
        assert_eq!(found[..8], wanted.to_le_bytes());
    }
    taken.sort_by(f64::total_cmp);
    taken
}

fn beside(store: &Store, records: u64, f: impl FnOnce()) -> Vec<f64> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| gets(store, records, &stop));
        f();
        stop.store(true, Ordering::Relaxed);
        reader.join().unwrap()
    })
}

fn percentiles(taken: &[f64]) -> String {
    let at = |part: f64| taken.get((taken.len() as f64 * part) as usize).copied().unwrap_or(f64::NAN);
    format!("p50 {:.1} us, p99 {:.0} us, p99.9 {:.0} us", at(0.5), at(0.99), at(0.999))
}

/// Commits at `Sync` of one thread into journals of one, two and three directories on one disk, in turns: medians.
fn mirrors() {
    let dir = tempfile::tempdir().unwrap();
    let open = |count: usize| {
        let at = dir.path().join(count.to_string());
        let journals: Vec<_> = (0..count).map(|n| at.join(format!("journal-{n}"))).collect();
        let options = Options::new().shards(2).memory_budget(64 << 20);
        match count {
            1 => options.open(at.join("store")).unwrap(),
            _ => options.journal_dirs(journals).open(at.join("store")).unwrap(),
        }
    };
    let stores: Vec<Store> = (1..=3).map(open).collect();
    // One after another, so that what else goes to the device (whose stalls of milliseconds would make up most of a mean) hits
    // all alike; a median of single commits, for the same reason.
    let mut took: [Vec<f64>; 3] = Default::default();
    for n in 0..COMMITS {
        for (store, took) in stores.iter().zip(&mut took) {
            let sync = annulus::Durability::Sync;
            took.push(timed(|| {
                store.insert_with(key(n), value(n, 1), sync).unwrap();
            }));
        }
    }
    let [one, two, three] = took.map(|mut took| {
        took.sort_by(f64::total_cmp);
        let at = |share: f64| took[(took.len() as f64 * share) as usize] * 1e6;
        (at(0.5), at(0.95))
    });
    for (what, (median, most)) in [("one journal", one), ("two copies", two), ("three", three)] {
        println!(
            "a commit at Sync, {what}: median {median:.0} us ({:.2} x), p95 {most:.0} us ({:.2} x)",
            median / one.0,
            most / one.1
        );
    }
}

fn main() {
    mirrors();
    let mib: u64 = std::env::var("ANNULUS_MIB").map_or(256, |v| v.parse().expect("a number"));
    let records = (mib << 20) / (20 + VALUE as u64);
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().shards(3).replication_factor(2).memory_budget(128 << 20);
    let store = options.open(dir.path().join("store")).unwrap();
    let one = ShardId(1);
    write(&store, 0..records, 1);
    store.flush().unwrap();
    let bytes = held(&store, one);
    println!(
        "{records} records, {:.0} MiB, of which shard {one} holds {:.0} MiB",
        mib,
        bytes / (1 << 20) as f64
    );
    let rate = |what: &str, seconds: f64, bytes: f64| {
        println!(
            "{what}: {seconds:.2} s, {:.1} s a GiB, {:.0} MiB/s",
            seconds * GIB / bytes,
            bytes / seconds / (1 << 20) as f64
        );
    };
    let rebuilt = timed(|| store.rebuild(one).unwrap());
    rate("rebuilt, nobody else at work", rebuilt, bytes);
    let idle = beside(&store, records, || std::thread::sleep(Duration::from_secs(5)));
    println!("gets of one thread, nothing to heal: {}", percentiles(&idle));
    let mut busy = 0.0;
    let during = beside(&store, records, || busy = timed(|| store.rebuild(one).unwrap()));
    rate("rebuilt beside a thread of gets", busy, bytes);
    println!("gets of one thread meanwhile: {}", percentiles(&during));
    let verified = timed(|| store.repair(one).unwrap());
    rate("verified whole (repair)", verified, bytes);
    let copies = records as f64 * 2.0 * (20 + VALUE) as f64;
    let scrubbed = timed(|| {
        let report = store.scrub().unwrap().wait().unwrap().unwrap();
        assert_eq!((report.records_reconciled, report.pages_repaired), (0, 0));
    });
    rate("scrubbed: all shards verified, all replicas compared (of all copies)", scrubbed, copies);
    let compacted = timed(|| store.compact(one).unwrap());
    rate("compacted", compacted, bytes);
    // The shard lies elsewhere while a quarter of all is overwritten.
    store.close().unwrap();
    drop(store);
    let (place, aside) = (dir.path().join("store/shards/0001"), dir.path().join("aside"));
    std::fs::rename(&place, &aside).unwrap();
    let store = options.clone().heal(annulus::Heal::Manual).open(dir.path().join("store")).unwrap();
    write(&store, 0..records / 4, 2);
    store.flush().unwrap();
    std::fs::rename(&aside, &place).unwrap();
    let caught_up = timed(|| {
        store.repair(one).unwrap();
        wait_until_good(&store);
    });
    rate(
        "caught up from the journal (of all that was written)",
        caught_up,
        (records / 4 * (20 + VALUE as u64)) as f64,
    );
    for n in 0..records {
        let round = if n < records / 4 { 2 } else { 1 };
        assert_eq!(store.get(key(n)).unwrap().unwrap(), value(n, round));
    }
}
