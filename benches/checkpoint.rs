//! What backups cost: `cargo bench --bench checkpoint`.
//!
//! Parts, chosen by `ANNULUS_PARTS` (separated by commas; all but `full`):
//! - `speed`: a store is loaded in random order, saved whole, saved again after 1% of its records changed (neighbours, and all
//!   over), and restored; beside reading the live bytes of one replica from its files and writing what came out.
//! - `full`: full checkpoints of one store, each into a new repository, and plain reading and writing in turns.
//! - `latency`: inserts by one thread before and during a full checkpoint, paced (half of what it can do) and flat out.
//! - `memory`: resident memory before, and at its highest during a checkpoint and a restore.
//!
//! `ANNULUS_RECORDS` sets the number of records (1,000,000 unless set), `ANNULUS_ROUNDS` the rounds of `speed` and `full` (3), of which the median is shown.
//! `ANNULUS_REPLICAS` is the one number of replicas that `full` is about (1 and 2, one after the other, unless set).
//! Records have 20 + 100 bytes. `ANNULUS_DIR` is where the files are (a temporary directory unless set).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use annulus::{BackupRepository, CheckpointOptions, Options, Store};
use common::key;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |v| v.parse().expect("a number"))
}

fn value(n: u64, round: u64) -> [u8; 100] {
    // Half of it is noise, so that compression finds what it would find in records.
    let mut value = [7; 100];
    let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ round;
    for part in value[..48].chunks_mut(8) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        part.copy_from_slice(&(state ^ state >> 29).to_le_bytes());
    }
    value
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let begun = Instant::now();
    let done = work();
    (begun.elapsed(), done)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let (mut open, mut found) = (vec![dir.to_path_buf()], Vec::new());
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    found
}

/// Reads the page files and writes so many bytes, in files of 1 MiB, each synced: what nobody could do without.
fn plain(store: &Path, out: &Path, bytes: u64) -> (Duration, Duration) {
    let mut buffer = vec![0; 1 << 20];
    let pages = files(store).into_iter().filter(|path| path.ends_with("engine/pages"));
    let (read, _) = timed(|| {
        for path in pages {
            let mut file = std::fs::File::open(path).unwrap();
            while std::io::Read::read(&mut file, &mut buffer).unwrap() > 0 {}
        }
    });
    std::fs::create_dir_all(out).unwrap();
    let (written, _) = timed(|| {
        for n in 0..bytes.div_ceil(1 << 20) {
            let mut file = std::fs::File::create(out.join(n.to_string())).unwrap();
            std::io::Write::write_all(&mut file, &buffer).unwrap();
            file.sync_all().unwrap();
        }
    });
    (read, written)
}

fn place() -> tempfile::TempDir {
    match std::env::var("ANNULUS_DIR") {
        Ok(dir) => tempfile::tempdir_in(dir).unwrap(),
        Err(_) => tempfile::tempdir().unwrap(),
    }
}

fn load(dir: &Path, records: u64) -> Store {
    load_with(Options::new(), dir, records)
}

fn load_with(options: Options, dir: &Path, records: u64) -> Store {
    let store = options.open(dir).unwrap();
    for n in 0..records {
        store.insert(key(n), value(n, 0)).unwrap();
    }
    store.flush().unwrap();
    store
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn speed(records: u64, rounds: u64) {
    let mut rows: Vec<(&str, Vec<f64>)> = Vec::new();
    let mut note = |name: &'static str, figure: f64| match rows.iter_mut().find(|(n, _)| *n == name) {
        Some((_, figures)) => figures.push(figure),
        None => rows.push((name, vec![figure])),
    };
    for round in 0..rounds {
        let dir = place();
        let path = |name: &str| dir.path().join(name);
        let (loaded, store) = timed(|| load(&path("live"), records));
        let repo = BackupRepository::open(path("backup")).unwrap();
        let (full, first) = timed(|| store.checkpoint(&repo).unwrap());
        let bytes = repo.get(first).unwrap().bytes;
        let (read, written) = plain(&path("live"), &path("plain"), bytes);
        // One replica of the two.
        let least = read / 2 + written;
        note("load, s", loaded.as_secs_f64());
        note("full checkpoint, s", full.as_secs_f64());
        note("  its bytes, MB", bytes as f64 / 1e6);
        note("  plain read and write, s", least.as_secs_f64());
        note("  share of the plain speed, %", 100.0 * least.as_secs_f64() / full.as_secs_f64());
        // Neighbours in order of keys.
        let mut keys: Vec<u64> = (0..records).collect();
        keys.sort_unstable_by_key(|n| key(*n));
        let one = (records / 100) as usize;
        let mut change = |name: [&'static str; 2], chosen: Vec<u64>, options: CheckpointOptions| {
            for n in &chosen {
                store.insert(key(*n), value(*n, 1 + round)).unwrap();
            }
            store.flush().unwrap();
            let (took, id) = timed(|| store.checkpoint_with(&repo, options).unwrap());
            note(name[0], 100.0 * took.as_secs_f64() / full.as_secs_f64());
            note(name[1], 100.0 * repo.get(id).unwrap().bytes_written as f64 / bytes as f64);
        };
        let middle = keys[keys.len() / 2..][..one].to_vec();
        change(["1% clustered, % of the time", "  % of the bytes"], middle, CheckpointOptions::new());
        let spread: Vec<u64> = keys.iter().copied().step_by(100).collect();
        change(["1% spread, % of the time", "  % of its bytes"], spread.clone(), CheckpointOptions::new());
        // As after a reopening: nothing is known of what changed.
        store.close().unwrap();
        let store = Options::new().open(path("live")).unwrap();
        let (again, _) = timed(|| store.checkpoint(&repo).unwrap());
        note("read whole, chunks shared, % of the time", 100.0 * again.as_secs_f64() / full.as_secs_f64());
        let (verified, found) = timed(|| repo.verify(first).unwrap());
        assert!(found.is_whole());
        note("verify, s", verified.as_secs_f64());
        let (restored, new) = timed(|| repo.restore_latest().unwrap().open(path("new")).unwrap());
        note("restore, s", restored.as_secs_f64());
        note("  times the speed of the load", loaded.as_secs_f64() / restored.as_secs_f64());
        assert_eq!(new.len().unwrap(), records);
        let (exported, _) = timed(|| store.export(std::io::sink()).unwrap());
        note("export to nowhere, s", exported.as_secs_f64());
    }
    println!("\n{records} records of 20 + 100 bytes, 4 shards, 2 replicas, median of {rounds}");
    for (name, figures) in rows {
        println!("{name:<42} {:>9.2}", median(figures));
    }
}

/// The store is loaded once; full checkpoints and plain reading and writing take turns.
fn full(records: u64, rounds: u64) {
    println!(
        "\n| full checkpoint | s | plain read and write of one replica, s | share of its speed, % | of all live bytes, s | share, % |"
    );
    println!("|---|---:|---:|---:|---:|---:|");
    let wanted = number("ANNULUS_REPLICAS", 0);
    for replicas in [1, 2].into_iter().filter(|n| wanted == 0 || wanted == *n as u64) {
        let dir = place();
        let path = |name: &str| dir.path().join(name);
        let store = load_with(Options::new().replication_factor(replicas), &path("live"), records);
        let mut figures: [Vec<f64>; 5] = Default::default();
        for round in 0..rounds {
            // Nothing is removed in between: what a file system does about that is not what is measured.
            let repo = BackupRepository::open(path(&format!("backup-{round}"))).unwrap();
            let options = CheckpointOptions::new().full(true);
            let (full, id) = timed(|| store.checkpoint_with(&repo, options).unwrap());
            let bytes = repo.get(id).unwrap().bytes;
            let (read, written) = plain(&path("live"), &path(&format!("plain-{round}")), bytes);
            let (full, one, all) = (
                full.as_secs_f64(),
                (read / replicas as u32 + written).as_secs_f64(),
                (read + written).as_secs_f64(),
            );
            let row = [full, one, 100.0 * one / full, all, 100.0 * all / full];
            figures.iter_mut().zip(row).for_each(|(column, figure)| column.push(figure));
        }
        let [full, one, share, all, of_all] = figures.map(median);
        println!("| R = {replicas} | {full:.3} | {one:.3} | {share:.0} | {all:.3} | {of_all:.0} |");
    }
}

/// Inserts for as long as `go` says, one every `every`; the latencies.
fn inserts(store: &Store, records: u64, every: Duration, go: &dyn Fn() -> bool) -> Vec<Duration> {
    let mut took = Vec::with_capacity(1 << 22);
    let mut due = Instant::now();
    let mut n = 0u64;
    while go() {
        n += 1;
        let record = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % records;
        while Instant::now() < due {
            std::hint::spin_loop();
        }
        due += every;
        took.push(timed(|| store.insert(key(record), value(record, n)).unwrap()).0);
    }
    took
}

fn percentile(latencies: &mut [Duration], part: f64) -> f64 {
    latencies.sort_unstable();
    latencies[((latencies.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e6
}

fn latency(records: u64) {
    let dir = place();
    let store = load(&dir.path().join("live"), records);
    let repo = BackupRepository::open(dir.path().join("backup")).unwrap();
    for paced in [true, false] {
        let until = |seconds: f64| {
            let end = Instant::now() + Duration::from_secs_f64(seconds);
            move || Instant::now() < end
        };
        let mut calm = inserts(&store, records, Duration::ZERO, &until(2.0));
        let every =
            if paced { Duration::from_secs_f64(2.0 * 2.0 / calm.len() as f64) } else { Duration::ZERO };
        store.flush().unwrap();
        calm = inserts(&store, records, every, &until(4.0));
        store.flush().unwrap();
        let done = AtomicBool::new(false);
        let (mut busy, rounds) = std::thread::scope(|scope| {
            let saver = scope.spawn(|| {
                let begun = Instant::now();
                let mut rounds = 0;
                while begun.elapsed().as_secs_f64() < 4.0 {
                    store.checkpoint_with(&repo, CheckpointOptions::new().full(true)).unwrap();
                    rounds += 1;
                }
                done.store(true, Ordering::Relaxed);
                rounds
            });
            let busy = inserts(&store, records, every, &|| !done.load(Ordering::Relaxed));
            (busy, saver.join().unwrap())
        });
        println!(
            "\n{} inserts, {} before, {} during {rounds} full checkpoints",
            if paced { "paced" } else { "flat-out" },
            calm.len(),
            busy.len()
        );
        for part in [0.5, 0.99, 0.999, 0.9999] {
            let (before, during) = (percentile(&mut calm, part), percentile(&mut busy, part));
            println!("p{:<8} {before:>9.1} us  {during:>9.1} us  {:>6.2} x", part * 100.0, during / before);
        }
    }
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn memory(records: u64) {
    let dir = place();
    let budget = 64 << 20;
    let store = load(&dir.path().join("live"), records);
    store.close().unwrap();
    let store = Options::new().memory_budget(budget).open(dir.path().join("live")).unwrap();
    // The caches fill.
    assert_eq!(store.len().unwrap(), records);
    (0..records / 4).for_each(|n| drop(store.get(key(n)).unwrap()));
    let repo = BackupRepository::open(dir.path().join("backup")).unwrap();
    let peak = |work: &mut dyn FnMut()| {
        let before = resident();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let mut most = 0;
                while !done.load(Ordering::Relaxed) {
                    most = most.max(resident());
                    std::thread::sleep(Duration::from_millis(1));
                }
                most
            });
            work();
            done.store(true, Ordering::Relaxed);
            (before, watch.join().unwrap())
        })
    };
    let (before, most) = peak(&mut || assert!(store.checkpoint(&repo).is_ok()));
    println!("\nmemory, MiB, budget {}: before {before}, at most during a checkpoint {most}", budget >> 20);
    store.close().unwrap();
    drop(store);
    let options = || Options::new().memory_budget(budget);
    let (before, most) = peak(&mut || {
        drop(repo.restore_latest().unwrap().options(options()).open(dir.path().join("new")).unwrap());
    });
    println!("memory, MiB: before {before}, at most during a restore {most}");
}

fn main() {
    let parts = std::env::var("ANNULUS_PARTS").unwrap_or_else(|_| "speed,latency,memory".to_owned());
    let records = number("ANNULUS_RECORDS", 1_000_000);
    for part in parts.split(',') {
        match part {
            "speed" => speed(records, number("ANNULUS_ROUNDS", 3)),
            "full" => full(records, number("ANNULUS_ROUNDS", 3)),
            "latency" => latency(records),
            "memory" => memory(records),
            other => panic!("there is no part {other}"),
        }
    }
}
