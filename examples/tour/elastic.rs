//! The topology changes while a thread goes on writing: a shard joins, another one is emptied and leaves.

use crate::Outcome;
use crate::show::{count, per_second, size};
use annulus::{Keyspace, Phase, Planner, ShardOptions, Store};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What the writer is at: before the change, during it, or told to end.
const BEFORE: usize = 0;
const DURING: usize = 1;
const END: usize = 2;

pub fn grow_and_drain(store: &Store, place: &Path) -> Outcome<()> {
    let new = place.with_extension(format!("disk-{}", store.topology().epoch));
    let old = store.ring().members().first().ok_or("the ring has no member")?.id;
    change(store, "Grow", store.plan().add_shard(ShardOptions::new(new)))?;
    change(store, "Drain", store.plan().drain_shard(old))?;
    // Its directory is kept until somebody says that it may go.
    store.drop_shard(old)?;
    Ok(())
}

/// Plans a change, shows the plan, and carries it out beside a writer.
fn change(store: &Store, name: &str, planner: Planner) -> Outcome<()> {
    let plan = planner.preview()?;
    for (at, line) in plan.to_string().lines().enumerate() {
        println!("{:<8} {line}", if at == 0 { name } else { "" });
    }
    let written = store.keyspace("written-meanwhile")?;
    let moment = AtomicUsize::new(BEFORE);
    let (took, progress, latencies) = std::thread::scope(|scope| -> Outcome<_> {
        let writer = scope.spawn(|| write(&written, &moment));
        std::thread::sleep(Duration::from_millis(500));
        moment.store(DURING, Ordering::Relaxed);
        let started = Instant::now();
        let outcome = store.apply(plan).and_then(|change| Ok((change.wait()?, change.progress())));
        let took = started.elapsed();
        moment.store(END, Ordering::Relaxed);
        let latencies = writer.join().map_err(|_| "the writer panicked")??;
        match outcome? {
            (Phase::Completed, progress) => Ok((took, progress, latencies)),
            (phase, _) => Err(format!("the change ended as {phase:?}").into()),
        }
    })?;
    let all: u64 = latencies.iter().map(|l| l.len() as u64).sum();
    for n in 0..all {
        if written.get(n.to_be_bytes())?.as_deref() != Some(&value(n)[..]) {
            return Err(format!("record {n} that was written meanwhile is missing").into());
        }
    }
    println!(
        "         {} records, {} moved in {took:.2?}: {}/s; fullest over mean {:.4}",
        count(progress.records_copied),
        size(progress.bytes_copied),
        size(per_second(progress.bytes_copied, took)),
        store.ring().balance().max_over_mean,
    );
    let [before, during] = latencies.map(slowest_hundredth);
    println!(
        "         {} inserts meanwhile, all there; p99 {before:.1?} before, {during:.1?} during",
        count(all)
    );
    Ok(())
}

fn value(n: u64) -> [u8; 100] {
    let mut value = [7; 100];
    value[..8].copy_from_slice(&n.to_be_bytes());
    value
}

/// Inserts at about a hundred thousand a second until told to end; how long each took, before and during the change.
fn write(to: &Keyspace, moment: &AtomicUsize) -> annulus::Result<[Vec<Duration>; 2]> {
    let mut latencies = [Vec::new(), Vec::new()];
    for n in 0u64.. {
        let now = moment.load(Ordering::Relaxed);
        if now == END {
            break;
        }
        let started = Instant::now();
        to.insert(n.to_be_bytes(), value(n))?;
        latencies[now].push(started.elapsed());
        if n % 100 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(latencies)
}

fn slowest_hundredth(mut latencies: Vec<Duration>) -> Duration {
    latencies.sort_unstable();
    latencies.get(latencies.len() * 99 / 100).copied().unwrap_or_default()
}
