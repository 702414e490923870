//! The journal on the disk of the machine: appends by hand-off and threads, group commit, replay; and, side by side,
//! a sync of a recycled segment against a sync of a growing file.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use annulus::Seq;
use annulus::testing::{Disk, Handoff, Journal, JournalConfig, OpenMode, Payload, RealDisk};
use criterion::{BenchmarkId, Criterion, Throughput};
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
    journal.lock().append(&payload, handoff).expect("an append")
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

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    appends(&mut criterion);
    replay(&mut criterion);
    criterion.final_summary();
    side_by_side();
}
