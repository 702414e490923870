//! What a change of the topology costs: `cargo bench --bench elastic`.
//!
//! Three parts, chosen by `ANNULUS_PARTS` (all, separated by commas):
//! - `speed`: a shard is added, and one replaced, with nobody else at work, beside a plain scan of a store of as many records
//!   that is inserted into another new store and flushed. `ANNULUS_KINDS` chooses among `add` and `replace`.
//! - `bytes`: one shard is added to 4, 8 and 16 shards of one total size.
//! - `latency`: reads and writes by one thread each, before, during and after a shard is added. `ANNULUS_LOADS` chooses
//!   among `paced` (half of what the store can do) and `flat-out`; `ANNULUS_REPLICAS` among 1 and 2; `ANNULUS_RATE` bounds the
//!   change, in bytes a second, in place of its own throttle.
//!
//! `ANNULUS_RECORDS` sets the number of records (1,000,000 unless set), `ANNULUS_ROUNDS` the rounds (3). Records have 20 + 100 bytes; every read is checked.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use annulus::{Options, Phase, ShardId, ShardOptions, Store, TopologyChange};
use common::key;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |v| v.parse().expect("a number"))
}

fn chosen(name: &str, all: &str) -> Vec<String> {
    std::env::var(name).unwrap_or_else(|_| all.to_owned()).split(',').map(str::to_owned).collect()
}

fn value(n: u64, round: u64) -> [u8; 100] {
    let mut value = [7; 100];
    value[..8].copy_from_slice(&n.to_le_bytes());
    value[8..16].copy_from_slice(&round.to_le_bytes());
    value
}

fn filled(dir: &Path, shards: usize, replicas: usize, records: u64) -> Store {
    let store = Options::new().shards(shards).replication_factor(replicas).open(dir).unwrap();
    (0..records).for_each(|n| {
        store.insert(key(n), value(n, 0)).unwrap();
    });
    store.flush().unwrap();
    store
}

fn check(store: &Store, records: u64) {
    let mut seen = 0;
    for item in store.iter() {
        let (key_, value) = item.unwrap();
        let n = u64::from_be_bytes(*key_[8..].first_chunk().unwrap());
        assert!(key_ == key(n)[..] && value[..8] == n.to_le_bytes());
        seen += 1;
    }
    assert_eq!(seen, records, "records");
}

/// When a change reached each of its steps: the new placement verified, serving, and the old copies gone.
struct Times {
    copied: Duration,
    served: Duration,
    all: Duration,
    processor: f64,
    records: u64,
    bytes: u64,
}

/// Carries a change out and watches it.
fn carry_out(store: &Store, plan: annulus::Plan) -> Times {
    let processor = processor_seconds();
    let begun = Instant::now();
    let change = store.apply(plan).unwrap();
    let reached = |least: fn(Phase) -> bool| {
        while !least(change.progress().phase) {
            std::thread::sleep(Duration::from_micros(500));
        }
        begun.elapsed()
    };
    let copied = reached(|phase| phase != Phase::Copying);
    let served = reached(|phase| phase != Phase::Copying && phase != Phase::Verifying);
    assert_eq!(change.wait().unwrap(), Phase::Completed);
    let all = begun.elapsed();
    let progress = change.progress();
    let (records, bytes) = (progress.records_copied, progress.bytes_copied);
    Times { copied, served, all, processor: processor_seconds() - processor, records, bytes }
}

/// User and system time of this process so far.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks: f64 = after.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<f64>().ok()).sum();
    ticks / 100.0
}

/// Scans a store of so many records into another new one; how long that takes. Both have one shard, as the one that gains.
fn scan_and_load(records: u64) -> Duration {
    let dir = tempfile::tempdir().unwrap();
    let from = filled(&dir.path().join("from"), 1, 1, records);
    let begun = Instant::now();
    let to = Options::new().shards(1).open(dir.path().join("to")).unwrap();
    for item in from.iter() {
        let (key, value) = item.unwrap();
        to.insert(&key, &value).unwrap();
    }
    to.flush().unwrap();
    let took = begun.elapsed();
    check(&to, records);
    took
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Rows of figures, gathered over rounds.
#[derive(Default)]
struct Table(Vec<(String, Vec<Vec<f64>>)>);

impl Table {
    fn add(&mut self, name: &str, figures: &[f64]) {
        eprintln!("{name}: {figures:.3?}");
        if !self.0.iter().any(|(n, _)| n == name) {
            self.0.push((name.to_owned(), vec![Vec::new(); figures.len()]));
        }
        let (_, row) = self.0.iter_mut().find(|(n, _)| n == name).unwrap();
        row.iter_mut().zip(figures).for_each(|(cells, figure)| cells.push(*figure));
    }

    fn print(self, head: &str) {
        println!("\n| {head} |\n|---{}|", "|---:".repeat(head.matches('|').count()));
        for (name, row) in self.0 {
            let cells: Vec<String> = row.into_iter().map(median).map(|m| format!("{m:.2}")).collect();
            println!("| {name} | {} |", cells.join(" | "));
        }
    }
}

const MIB: f64 = (1 << 20) as f64;

fn speed(records: u64, rounds: u64) {
    let mut table = Table::default();
    for _ in 0..rounds {
        for replicas in chosen("ANNULUS_REPLICAS", "1,2") {
            let replicas = replicas.parse().expect("a number");
            for kind in chosen("ANNULUS_KINDS", "add,replace") {
                let dir = tempfile::tempdir().unwrap();
                let store = filled(dir.path(), 4, replicas, records);
                let new = ShardOptions::new(dir.path().join("new"));
                let plan = match kind.as_str() {
                    "add" => store.plan().add_shard(new),
                    _ => store.plan().replace_shard(ShardId(1), new),
                };
                let times = carry_out(&store, plan.preview().unwrap());
                check(&store, records);
                drop(store);
                let plain = scan_and_load(times.records).as_secs_f64();
                let all = times.all.as_secs_f64();
                table.add(
                    &format!("{kind} a shard, R = {replicas}"),
                    &[
                        times.records as f64 / 1e3,
                        times.copied.as_secs_f64(),
                        times.served.as_secs_f64(),
                        all,
                        times.bytes as f64 / MIB / all,
                        times.records as f64 / all / 1e3,
                        times.records as f64 / plain / 1e3,
                        plain / all,
                        plain / times.served.as_secs_f64(),
                    ],
                );
            }
        }
    }
    table.print(
        "change | thousand records | copied, s | serves, s | all, s | MiB/s | thousand/s | scan and load, thousand/s \
         | ratio | until it serves",
    );
}

fn bytes(records: u64, rounds: u64) {
    let mut table = Table::default();
    for _ in 0..rounds {
        for shards in [4, 8, 16] {
            let dir = tempfile::tempdir().unwrap();
            let store = filled(dir.path(), shards, 1, records);
            let plan = store.plan().add_shard(ShardOptions::new(dir.path().join("new"))).preview().unwrap();
            let times = carry_out(&store, plan);
            check(&store, records);
            let mib = times.bytes as f64 / MIB;
            let all = times.all.as_secs_f64();
            table.add(
                &format!("{shards} + 1 shards"),
                &[
                    mib,
                    all,
                    times.copied.as_secs_f64(),
                    times.processor,
                    all / mib * 1e3,
                    times.processor / mib * 1e3,
                ],
            );
        }
    }
    table.print("topology | moved, MiB | s | copied, s | processor, s | ms a MiB | processor ms a MiB");
}

/// Latencies of one thread, apart for each moment: before, copying, comparing, removing, after.
type Samples = [Vec<u32>; 5];

/// Calls `work` until told to end, at `rate` calls a second if there is one.
fn drive(moment: &AtomicUsize, rate: Option<f64>, mut work: impl FnMut(u64)) -> Samples {
    let mut samples: Samples = Default::default();
    let begun = Instant::now();
    for n in 0.. {
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64(n as f64 / rate);
            // In bursts of about a millisecond: a sleep for each call would measure the clock.
            if due > begun.elapsed() + Duration::from_millis(1) {
                std::thread::sleep(due.saturating_sub(begun.elapsed()));
            }
        }
        let now = moment.load(Ordering::Relaxed);
        if now >= samples.len() {
            break;
        }
        let started = Instant::now();
        work(n);
        samples[now].push(started.elapsed().as_nanos().min(u128::from(u32::MAX)) as u32);
    }
    samples
}

/// One reader and one writer at work while `meanwhile` moves the moment on. Returns their latencies.
fn both(
    store: &Store,
    records: u64,
    rates: Option<(f64, f64)>,
    seed: u64,
    meanwhile: impl FnOnce(&AtomicUsize),
) -> (Samples, Samples) {
    let moment = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            drive(&moment, rates.map(|r| r.0), |n| {
                let n = (n + seed).wrapping_mul(104_729) % records;
                let found = store.get(key(n)).unwrap().expect("a record is missing");
                assert!(found.len() == 100 && found[..8] == n.to_le_bytes(), "a wrong value");
            })
        });
        let writer = scope.spawn(|| {
            drive(&moment, rates.map(|r| r.1), |n| {
                let at = (n + seed).wrapping_mul(7_919) % records;
                store.insert(key(at), value(at, n)).unwrap();
            })
        });
        meanwhile(&moment);
        moment.store(usize::MAX, Ordering::Relaxed);
        (reader.join().unwrap(), writer.join().unwrap())
    })
}

/// Moves the moment on with the phases of a change. Whether it ended in time.
fn follow(change: &TopologyChange, moment: &AtomicUsize, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    loop {
        match change.progress().phase {
            Phase::Copying => moment.store(1, Ordering::Relaxed),
            Phase::Verifying => moment.store(2, Ordering::Relaxed),
            Phase::Cleaning => moment.store(3, Ordering::Relaxed),
            _ => return true,
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn percentile(samples: &[&[u32]], part: f64) -> f64 {
    let mut all: Vec<u32> = samples.iter().flat_map(|s| s.iter().copied()).collect();
    if all.is_empty() {
        return f64::NAN;
    }
    let at = ((all.len() as f64 * part) as usize).min(all.len() - 1);
    f64::from(*all.select_nth_unstable(at).1) / 1e3
}

fn latency(table: &mut Table, records: u64, replicas: usize, load: &str, rate: Option<u64>) {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path(), 4, replicas, records);
    let settle = Duration::from_secs(number("ANNULUS_SECONDS", 4));
    let limit = Duration::from_secs(number("ANNULUS_LIMIT", 60));
    let (reads, writes) = both(&store, records, None, 0, |_| std::thread::sleep(settle));
    let flat = |s: &Samples| s[0].len() as f64 / settle.as_secs_f64();
    let most = (flat(&reads), flat(&writes));
    let rates = (load == "paced").then_some((most.0 / 2.0, most.1 / 2.0));
    let in_time = AtomicBool::new(true);
    let mut took = Duration::ZERO;
    let mut moved = (0, 0);
    let (reads, writes) = both(&store, records, rates, 1_000_003, |moment| {
        std::thread::sleep(settle);
        let plan = store.plan().add_shard(ShardOptions::new(dir.path().join("new"))).preview().unwrap();
        moment.store(1, Ordering::Relaxed);
        let begun = Instant::now();
        let change = store.apply(plan).unwrap();
        if let Some(rate) = rate {
            change.set_rate(rate).unwrap();
        }
        in_time.store(follow(&change, moment, limit), Ordering::Relaxed);
        took = begun.elapsed();
        let progress = change.progress();
        moved = (progress.records_copied, progress.bytes_copied);
        if in_time.load(Ordering::Relaxed) {
            moment.store(4, Ordering::Relaxed);
            std::thread::sleep(settle);
        }
    });
    let seconds = took.as_secs_f64();
    eprintln!(
        "R = {replicas}, {load}: {:.0} thousand reads/s and {:.0} thousand inserts/s flat out; {}{} records, {:.0} MiB moved in {seconds:.1} s",
        most.0 / 1e3,
        most.1 / 1e3,
        if in_time.load(Ordering::Relaxed) { "" } else { "NOT OVER: " },
        moved.0,
        moved.1 as f64 / MIB,
    );
    for (name, samples) in [("get", &reads), ("insert", &writes)] {
        for (percent, part) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
            let one = |at: usize| percentile(&[&samples[at]], part);
            let during = percentile(&[&samples[1], &samples[2], &samples[3]], part);
            table.add(
                &format!("{name} {percent}"),
                &[one(0), during, during / one(0), one(1), one(2), one(3), one(4)],
            );
        }
    }
    table.add("seconds that the change took", &[f64::NAN, seconds]);
}

/// Medians over the rounds, of the ratios as well: each is of one store, before and during.
fn latencies(records: u64, rounds: u64, rate: Option<u64>) {
    let how = rate.map_or("adaptive".to_owned(), |r| format!("{:.0} MiB/s", r as f64 / MIB));
    for load in chosen("ANNULUS_LOADS", "paced,flat-out") {
        for replicas in chosen("ANNULUS_REPLICAS", "1,2") {
            let mut table = Table::default();
            (0..rounds).for_each(|_| {
                latency(&mut table, records, replicas.parse().expect("a number"), &load, rate);
            });
            println!("\nR = {replicas}, {load}, {how}");
            table.print("us | before | during | ratio | copying | comparing | removing | after");
        }
    }
}

fn main() {
    // `cargo test --benches` only asks whether it starts.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    let (records, rounds) = (number("ANNULUS_RECORDS", 1_000_000), number("ANNULUS_ROUNDS", 3));
    for part in chosen("ANNULUS_PARTS", "speed,bytes,latency") {
        match part.as_str() {
            "speed" => speed(records, rounds),
            "bytes" => bytes(records, rounds),
            _ => {
                let rate = std::env::var("ANNULUS_RATE").ok().map(|r| r.parse().expect("a number"));
                latencies(records, rounds, rate);
            }
        }
    }
}
