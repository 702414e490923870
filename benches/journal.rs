//! The journal on the disk of the machine: appends by hand-off and threads, group commit, replay; and, side by side,
//! a sync of a recycled segment against a sync of a growing file.
//!
//! `cargo bench --bench journal -- commits` measures inserts into a whole store instead, by durability and threads, each
//! measurement in a process of its own. `ANNULUS_BEFORE`: this benchmark as another version built it; both are run by
//! turns. `ANNULUS_ROUNDS`: how often (5); the table has medians.
//!
//! `cargo bench --bench journal -- timeout`: what a limit to writes costs (`Options::write_timeout`), beside a store without one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use annulus::testing::{Disk, Handoff, Journal, JournalConfig, OpenMode, Payload, RealDisk};
use annulus::{Durability, Options, Seq};
use criterion::{BenchmarkId, Criterion, Throughput};
use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

const PAYLOAD: [u8; 120] = [0x5a; 120];

fn config() -> JournalConfig {
    JournalConfig { store_id: 9, segment_bytes: 16 << 20, max_spares: 4 }
}

fn create(dir: &Path) -> Journal {
    Journal::create(Arc::new(RealDisk), &dir.join("journal"), config(), Seq(1)).expect("a new journal")
}

fn append(journal: &Journal, handoff: Handoff) -> Seq {
    let payload = Payload::new(black_box(&PAYLOAD));
    journal.append(&payload, handoff).expect("an append")
}

/// Runs `each` `count` times on every thread, beside a thread that provisions and trims, and returns how long it took.
fn run(journal: &Journal, threads: u64, count: u64, each: &(dyn Fn() + Sync)) -> Duration {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                journal.provision().expect("a segment");
                journal.trim(journal.durable()).expect("a trim");
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let begin = Instant::now();
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| (0..count).for_each(|_| each()))).collect();
        workers.into_iter().for_each(|worker| worker.join().expect("a worker"));
        let took = begin.elapsed();
        done.store(true, Ordering::Relaxed);
        took
    })
}

fn appends(c: &mut Criterion) {
    let mut group = c.benchmark_group("append");
    group.sample_size(10).throughput(Throughput::Elements(1));
    for (name, handoff) in [("buffered", Handoff::Buffered), ("os", Handoff::Os)] {
        for threads in [1, 2, 8] {
            group.bench_function(BenchmarkId::new(name, threads), |b| {
                let dir = tempfile::tempdir().expect("a directory");
                let journal = create(dir.path());
                b.iter_custom(|iters| {
                    let each = || {
                        append(&journal, handoff);
                    };
                    run(&journal, threads, iters.div_ceil(threads), &each)
                });
            });
        }
    }
    group.measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    for threads in [1, 2, 8, 16] {
        let mut per_sync = 0.0;
        group.bench_function(BenchmarkId::new("sync", threads), |b| {
            let dir = tempfile::tempdir().expect("a directory");
            let journal = create(dir.path());
            b.iter_custom(|iters| {
                let each = || journal.sync_to(append(&journal, Handoff::Buffered)).expect("a sync");
                run(&journal, threads, iters.div_ceil(threads), &each)
            });
            let stats = journal.stats();
            per_sync = stats.frames as f64 / stats.syncs as f64;
        });
        println!("{threads} threads: {per_sync:.2} frames a sync");
    }
    group.finish();
}

fn replay(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory");
    let journal = create(dir.path());
    for seq in 1..=3_000_000u64 {
        append(&journal, Handoff::Buffered);
        if seq % 50_000 == 0 {
            journal.provision().expect("a segment");
        }
    }
    journal.close().expect("a clean end");
    let bytes = journal.stats().bytes;
    let mut group = c.benchmark_group("replay");
    group.sample_size(10).throughput(Throughput::Bytes(bytes));
    group.bench_function("3 million frames of 120 bytes", |b| {
        b.iter(|| {
            let mut sum = 0;
            let visit = &mut |_, bytes: &[u8]| {
                sum += bytes.len();
                Ok(())
            };
            let path = dir.path().join("journal");
            Journal::open(Arc::new(RealDisk), &path, config(), Seq(0), Seq(0), visit).expect("an opening");
            sum
        });
    });
    group.finish();
}

/// Alternates, so that both see the same disk, and prints the medians and their ratio.
fn side_by_side() {
    let dir = tempfile::tempdir().expect("a directory");
    let written = RealDisk.open(&dir.path().join("written"), OpenMode::CreateNew).expect("a file");
    written.write_at(0, &vec![0; 16 << 20]).expect("a write");
    written.sync_all().expect("a sync");
    let growing = RealDisk.open(&dir.path().join("growing"), OpenMode::CreateNew).expect("a file");
    let mut at = 0;
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..300 {
        for (file, times) in [&written, &growing].into_iter().zip(&mut times) {
            let begin = Instant::now();
            file.write_at(at, &[1; 4096]).expect("a write");
            file.sync_data().expect("a sync");
            times.push(begin.elapsed());
        }
        at += 4096;
    }
    let [written, growing] = times.map(|mut times| {
        times.sort();
        times[times.len() / 2].as_secs_f64() * 1e6
    });
    println!(
        "write and sync: {written:.0} us into a written file, {growing:.0} us at the end of a growing one: {:.1} to 1",
        growing / written
    );
}

const CHILD: &str = "ANNULUS_BENCH_COMMITS";

/// What is measured: the durability, and how many threads insert.
const COMMITS: [(&str, u64); 10] = [
    ("sync", 1),
    ("sync", 2),
    ("sync", 4),
    ("sync", 8),
    ("sync", 16),
    ("process", 1),
    ("process", 2),
    ("process", 8),
    ("mixed", 2),
    ("mixed", 8),
];

/// Thousand commits a second; median and 99th percentile of their latency in microseconds; commits a sync.
type Figures = [f64; 4];

/// Inserts of 20 + 100 bytes, in random order, for a second and a half. Mixed: the first thread syncs, the others do not;
/// latencies are of those that do not.
fn child(arguments: &str) {
    let (name, threads) = arguments.split_once(' ').expect("a name and a number");
    let threads: usize = threads.parse().expect("a number");
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options::new().shards(4).replication_factor(1).memory_budget(1 << 30);
    let store = options.open(dir.path().join("store")).expect("a store");
    let (done, barrier) = (AtomicBool::new(false), Barrier::new(threads + 1));
    let work = |thread: usize| {
        let durability = if name == "sync" || name == "mixed" && thread == 0 {
            Durability::Sync
        } else {
            Durability::Process
        };
        let mut times = Vec::with_capacity(1 << 20);
        let mut n = thread as u64;
        barrier.wait();
        while !done.load(Ordering::Relaxed) {
            n = n.wrapping_add(threads as u64);
            let mixed = (n ^ n >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(31);
            let mut key = [0; 20];
            key[..8].copy_from_slice(&mixed.wrapping_mul(0x94d0_49bb_1331_11eb).to_be_bytes());
            key[8..16].copy_from_slice(&n.to_be_bytes());
            let begin = Instant::now();
            store.insert_with(key, [n as u8; 100], durability).expect("an insert");
            times.push(begin.elapsed().as_nanos() as u32);
        }
        times
    };
    let (mut times, count, took) = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        barrier.wait();
        let begin = Instant::now();
        std::thread::sleep(Duration::from_millis(1500));
        done.store(true, Ordering::Relaxed);
        let times: Vec<_> = workers.into_iter().map(|worker| worker.join().expect("a worker")).collect();
        let took = begin.elapsed();
        let count: usize = times.iter().map(Vec::len).sum();
        (times.into_iter().skip(usize::from(name == "mixed")).flatten().collect::<Vec<_>>(), count, took)
    });
    times.sort_unstable();
    let at = |part: f64| f64::from(times[((times.len() - 1) as f64 * part) as usize]) / 1e3;
    let syncs = store.stats().expect("figures").journal.syncs.max(1);
    let rate = count as f64 / took.as_secs_f64() / 1e3;
    println!("{rate} {} {} {}", at(0.5), at(0.99), count as f64 / syncs as f64);
}

fn commits() {
    let rounds = std::env::var("ANNULUS_ROUNDS").map_or(5, |n| n.parse().expect("a number of rounds"));
    let only = std::env::var("ANNULUS_ONLY").unwrap_or_default();
    let mut sides = vec![std::env::current_exe().expect("this program")];
    sides.extend(std::env::var_os("ANNULUS_BEFORE").map(Into::into));
    sides.reverse();
    println!(
        "| durability, threads | version | thousand/s | p50 us | p99 us | commits a sync |\n|---|---|---:|---:|---:|---:|"
    );
    for (name, threads) in COMMITS.into_iter().filter(|(name, _)| name.contains(&only)) {
        let mut found: Vec<Vec<Figures>> = vec![Vec::new(); sides.len()];
        for _ in 0..rounds {
            for (exe, found) in sides.iter().zip(&mut found) {
                let out =
                    Command::new(exe).env(CHILD, format!("{name} {threads}")).output().expect("a child");
                assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
                let text = String::from_utf8(out.stdout).expect("text");
                let figures: Vec<f64> =
                    text.split_whitespace().map(|n| n.parse().expect("a figure")).collect();
                found.push(figures.try_into().expect("four figures"));
            }
        }
        for (side, found) in found.into_iter().enumerate() {
            let version = if side + 1 == sides.len() { "now" } else { "before" };
            let [rate, p50, p99, shared] = [0, 1, 2, 3].map(|figure| {
                let mut all: Vec<f64> = found.iter().map(|figures| figures[figure]).collect();
                all.sort_by(f64::total_cmp);
                all[all.len() / 2]
            });
            let shared = if name == "process" { String::new() } else { format!("{shared:.2}") };
            println!("| {name}, {threads} | {version} | {rate:.1} | {p50:.1} | {p99:.1} | {shared} |");
        }
    }
}

/// Inserts by turns into a store whose writes wait for the disk themselves and into one whose writes have a limit.
fn timeouts() {
    let rounds = std::env::var("ANNULUS_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(15);
    println!(
        "| durability | threads | without a limit, us a write | with one | ratio |\n|---|---:|---:|---:|---:|"
    );
    for (durability, count) in [(Durability::Process, 20_000_u64), (Durability::Sync, 400)] {
        for threads in [1, 8] {
            let dirs = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
            let open = |at: usize| {
                let options = Options::new().shards(2).replication_factor(2).memory_budget(256 << 20);
                let options = if at == 0 { options } else { options.write_timeout(Duration::from_secs(60)) };
                options.open(dirs[at].path()).expect("a store")
            };
            let stores = [open(0), open(1)];
            let block = |store: &annulus::Store, round: u64| {
                let begin = Instant::now();
                std::thread::scope(|scope| {
                    for thread in 0..threads {
                        scope.spawn(move || {
                            for n in 0..count / threads {
                                let key = (round * count * threads + thread * count + n).to_be_bytes();
                                store.insert_with(key, PAYLOAD, durability).expect("a write");
                            }
                        });
                    }
                });
                begin.elapsed().as_secs_f64() * 1e6 / (count / threads * threads) as f64
            };
            let mut figures = [Vec::new(), Vec::new()];
            for round in 0..rounds {
                for at in [round as usize % 2, 1 - round as usize % 2] {
                    figures[at].push(block(&stores[at], round));
                }
            }
            let [without, with] = figures.map(|mut figures| {
                figures.sort_by(f64::total_cmp);
                figures[figures.len() / 2]
            });
            println!("| {durability:?} | {threads} | {without:.2} | {with:.2} | {:.2} |", with / without);
        }
    }
}

fn main() {
    if let Ok(arguments) = std::env::var(CHILD) {
        return child(&arguments);
    }
    if std::env::args().any(|argument| argument == "commits") {
        return commits();
    }
    if std::env::args().any(|argument| argument == "timeout") {
        return timeouts();
    }
    let mut criterion = Criterion::default().configure_from_args();
    appends(&mut criterion);
    replay(&mut criterion);
    criterion.final_summary();
    side_by_side();
}
