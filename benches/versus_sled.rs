//! Annulus beside plain sled: one run, the sides by turns, the median of the rounds. `cargo bench --bench versus_sled`.
//!
//! `ANNULUS_RECORDS` sets the number of records (1,000,000 unless set), `ANNULUS_ROUNDS` the rounds (3), `ANNULUS_SIDES` the
//! sides (all, separated by commas), `ANNULUS_LOAD_ONLY` ends each after its load. Each side runs in
//! a process of its own, so that memory is its own; every read is checked. Both sides get 256 MiB of memory and write
//! 20 + 100 bytes in random order. Durability: sled hands nothing to the operating system before its buffer is full, so
//! its side is nearest to `Memory`; the insert rows are named by what Annulus promises.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use annulus::{Durability, Options, Store};
use common::key;
use std::process::Command;
use std::time::Instant;

const SIDE: &str = "ANNULUS_BENCH_SIDE";
const SIDES: [&str; 4] = ["sled", "annulus R=1", "annulus R=2", "annulus R=3"];

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |v| v.parse().expect("a number"))
}

fn value(n: u64, round: u8) -> [u8; 100] {
    let mut value = [round; 100];
    value[..8].copy_from_slice(&n.to_le_bytes());
    value
}

/// What both sides can do.
trait Side {
    fn insert(&self, key: &[u8], value: &[u8]);
    fn get(&self, key: &[u8]) -> Option<Vec<u8>>;
    fn scan(&self, each: &mut dyn FnMut(&[u8], &[u8]));
    fn flush(&self);
}

impl Side for Store {
    fn insert(&self, key: &[u8], value: &[u8]) {
        (**self).insert(key, value).unwrap();
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        (**self).get(key).unwrap().map(|v| v.to_vec())
    }

    fn scan(&self, each: &mut dyn FnMut(&[u8], &[u8])) {
        for item in (**self).iter() {
            let (key, value) = item.unwrap();
            each(&key, &value);
        }
    }

    fn flush(&self) {
        Store::flush(self).unwrap();
    }
}

impl Side for sled::Db {
    fn insert(&self, key: &[u8], value: &[u8]) {
        sled::Tree::insert(self, key, value).unwrap();
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        sled::Tree::get(self, key).unwrap().map(|v| v.to_vec())
    }

    fn scan(&self, each: &mut dyn FnMut(&[u8], &[u8])) {
        for item in sled::Tree::iter(self) {
            let (key, value) = item.unwrap();
            each(&key, &value);
        }
    }

    fn flush(&self) {
        sled::Tree::flush(self).unwrap();
    }
}

fn open(side: &str, dir: &std::path::Path) -> Box<dyn Side> {
    match side.strip_prefix("annulus R=") {
        Some(replicas) => {
            let replicas = replicas.parse().expect("a number");
            let options = Options::new().shards(4).replication_factor(replicas).memory_budget(256 << 20);
            Box::new(options.open(dir).unwrap())
        }
        None => Box::new(sled::Config::new().path(dir).cache_capacity(256 << 20).open().unwrap()),
    }
}

/// Runs one side and prints its figures, a line each: name, value, unit.
fn run(side: &str) {
    let records = number("ANNULUS_RECORDS", 1_000_000);
    let dir = tempfile::tempdir().unwrap();
    let store = open(side, dir.path());
    let row = |name: &str, value: f64, unit: &str| println!("row\t{name}\t{value}\t{unit}");
    let rate = |name: &str, count: u64, started: Instant| {
        row(name, count as f64 / started.elapsed().as_secs_f64() / 1e3, "thousand/s");
    };
    let mut slow: Vec<u32> = Vec::with_capacity(records as usize);
    let started = Instant::now();
    for n in 0..records {
        let before = Instant::now();
        store.insert(&key(n), &value(n, 0));
        slow.push(before.elapsed().as_nanos().min(u128::from(u32::MAX)) as u32);
    }
    rate("random load", records, started);
    store.flush();
    rate("random load, flushed", records, started);
    slow.sort_unstable();
    row("insert p50", f64::from(slow[slow.len() / 2]) / 1e3, "us");
    row("insert p99.9", f64::from(slow[slow.len() / 1000 * 999]) / 1e3, "us");
    row("insert max", f64::from(*slow.last().unwrap()) / 1e3, "us");
    if std::env::var("ANNULUS_LOAD_ONLY").is_ok() {
        row("resident, most", peak_memory_mib(), "MiB");
        return;
    }
    let started = Instant::now();
    for n in 0..records {
        let n = n.wrapping_mul(7_919) % records;
        store.insert(&key(n), &value(n, 1));
    }
    store.flush();
    rate("overwrite, flushed", records, started);
    let started = Instant::now();
    for n in 0..records {
        let n = n.wrapping_mul(104_729) % records;
        assert!(store.get(&key(n)).as_deref() == Some(&value(n, 1)), "a wrong value");
    }
    rate("get, hit", records, started);
    let started = Instant::now();
    for n in 0..records {
        assert!(store.get(&key(records + n)).is_none(), "a value from nowhere");
    }
    rate("get, miss", records, started);
    let started = Instant::now();
    let mut seen = 0;
    store.scan(&mut |_, value| {
        assert_eq!(value[99], 1);
        seen += 1;
    });
    assert_eq!(seen, records);
    rate("scan", records, started);
    row("resident, most", peak_memory_mib(), "MiB");
    drop(store);
    let bytes: u64 = walk(dir.path());
    row("on disk", bytes as f64 / f64::from(1 << 20), "MiB");
    let started = Instant::now();
    let store = open(side, dir.path());
    row("open", started.elapsed().as_secs_f64() * 1e3, "ms");
    assert!(store.get(&key(1)).is_some());
}

/// Durable inserts, where both sides promise the same: on the disk when the call returns.
fn run_durable(side: &str) {
    let inserts = number("ANNULUS_DURABLE", 500);
    let dir = tempfile::tempdir().unwrap();
    for threads in [1u64, 8] {
        let place = dir.path().join(threads.to_string());
        let annulus = side.strip_prefix("annulus R=").map(|r| {
            Options::new().shards(4).replication_factor(r.parse().expect("a number")).open(&place).unwrap()
        });
        let sled = annulus.is_none().then(|| sled::Config::new().path(&place).open().unwrap());
        let started = Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let (annulus, sled) = (&annulus, &sled);
                scope.spawn(move || {
                    for n in 0..inserts / threads {
                        let n = n * threads + thread;
                        if let Some(store) = annulus {
                            store.insert_with(key(n), value(n, 0), Durability::Sync).unwrap();
                        } else if let Some(db) = sled {
                            sled::Tree::insert(db, key(n), &value(n, 0)[..]).unwrap();
                            sled::Tree::flush(db).unwrap();
                        }
                    }
                });
            }
        });
        let rate = inserts as f64 / started.elapsed().as_secs_f64() / 1e3;
        println!("row\tdurable insert, {threads} threads\t{rate}\tthousand/s");
    }
}

fn walk(dir: &std::path::Path) -> u64 {
    std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => walk(&entry.path()),
            Ok(data) => data.len(),
            Err(_) => 0,
        })
        .sum()
}

fn peak_memory_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(f64::NAN) / 1024.0
}

fn main() {
    if let Ok(side) = std::env::var(SIDE) {
        if std::env::var("ANNULUS_LOAD_ONLY").is_err() {
            run_durable(&side);
        }
        run(&side);
        return;
    }
    // `cargo test --benches` only asks whether it starts.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    let rounds = number("ANNULUS_ROUNDS", 3);
    let chosen = std::env::var("ANNULUS_SIDES").unwrap_or_else(|_| SIDES.join(","));
    let mut rows: Vec<(String, String, [Vec<f64>; SIDES.len()])> = Vec::new();
    for round in 0..rounds {
        for (index, side) in
            SIDES.iter().enumerate().filter(|(_, side)| chosen.split(',').any(|c| c == **side))
        {
            eprintln!("round {} of {rounds}: {side}", round + 1);
            let exe = std::env::current_exe().unwrap();
            let output = Command::new(exe).env(SIDE, side).output().unwrap();
            assert!(output.status.success(), "{side}: {}", String::from_utf8_lossy(&output.stderr));
            for line in String::from_utf8_lossy(&output.stdout).lines() {
                let Some(line) = line.strip_prefix("row\t") else { continue };
                let words: Vec<&str> = line.split('\t').collect();
                let value = words[1].parse().unwrap();
                match rows.iter_mut().find(|(name, ..)| name == words[0]) {
                    Some((.., values)) => values[index].push(value),
                    None => {
                        let mut values: [Vec<f64>; SIDES.len()] = Default::default();
                        values[index].push(value);
                        rows.push((words[0].into(), words[2].into(), values));
                    }
                }
            }
        }
    }
    println!("| workload | unit | {} |\n|---|---|{}", SIDES.join(" | "), "---:|".repeat(SIDES.len()));
    for (name, unit, values) in rows {
        let medians = values.map(|mut v| {
            v.sort_by(f64::total_cmp);
            v.get(v.len() / 2)
                .map_or("-".to_owned(), |m| if *m < 10.0 { format!("{m:.2}") } else { format!("{m:.0}") })
        });
        println!("| {name} | {unit} | {} |", medians.join(" | "));
    }
}
