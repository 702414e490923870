//! Measurements, run by hand (release):
//! `cargo test --release --lib engine::sled::measure -- --ignored --nocapture`, with the figures below in the
//! environment. Prints one line of microseconds a record and of bytes.

use super::SledFactory;
use crate::digest::hash128;
use crate::disk::DiskFile;
use crate::engine::{Block, Engine, EngineFactory, EngineSpec, Recounted, Walk};
use crate::ids::{Seq, ShardId};
use crate::record::{KeyRange, RunBuffer, RunRecord};
use crate::ring::Position;
use std::hint::black_box;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A permutation of the 64-bit numbers (splitmix64's finalizer), so that keys come in random order, each once.
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// 20 bytes: decimal, as user keys often are, or raw.
fn key(n: u64) -> [u8; 20] {
    let mut key = [0; 20];
    key.copy_from_slice(format!("{:020}", mix(n)).as_bytes());
    key
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    status.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// Seconds on the wall, and of the processor (steady where the machine is shared).
#[derive(Clone, Copy, Default)]
struct Cost {
    wall: f64,
    cpu: f64,
}

impl Cost {
    fn now(since: Instant) -> Cost {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let ticks = stat.split(' ').skip(13).take(2).filter_map(|text| text.parse::<f64>().ok()).sum::<f64>();
        Cost { wall: since.elapsed().as_secs_f64(), cpu: ticks / 100.0 }
    }

    /// Runs `f` `count` times over, so to speak: the cost of one in microseconds.
    fn of(count: u64, f: impl FnOnce()) -> Cost {
        let start = Instant::now();
        let before = Cost::now(start);
        f();
        let after = Cost::now(start);
        let each = 1e6 / count as f64;
        Cost { wall: (after.wall - before.wall) * each, cpu: (after.cpu - before.cpu) * each }
    }
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Cost) {
        self.wall += other.wall;
        self.cpu += other.cpu;
    }
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3} (cpu {:.3})", self.wall, self.cpu)
    }
}

/// The most that was resident so far, in MB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) >> 10
}

struct Bench {
    engine: Arc<dyn Engine>,
    spec: EngineSpec,
    records: u64,
}

impl Bench {
    /// Applies all records in runs of `run`: the cost of a record, of applying and of syncing.
    fn load(&self, run: u64, seq: u64) -> (Cost, Cost) {
        let value = [b'v'; 100];
        let (mut apply, mut sync) = (Cost::default(), Cost::default());
        let mut at = 0;
        while at < self.records {
            let end = (at + run).min(self.records);
            let mut keys: Vec<_> = (at..end).map(|n| (key(n), Seq(seq + n))).collect();
            keys.sort_unstable();
            let run: Vec<_> =
                keys.iter().map(|(key, seq)| RunRecord { key, seq: *seq, value: Some(&value) }).collect();
            apply += Cost::of(self.records, || self.engine.apply(&run, &[]).unwrap());
            sync += Cost::of(self.records, || self.engine.sync(Seq(seq + end)).unwrap());
            at = end;
        }
        (apply, sync)
    }

    fn get(&self, count: u64, among: u64) -> Cost {
        let keys: Vec<_> = (0..count).map(|n| key(mix(n + 77) % among)).collect();
        Cost::of(count, || {
            for key in &keys {
                assert!(black_box(self.engine.get(key, Seq::MAX).unwrap()).is_some());
            }
        })
    }

    fn scan(&self, reverse: bool) -> Cost {
        let all = KeyRange { lo: Vec::new(), hi: None };
        Cost::of(self.records, || {
            let (mut count, mut block) = (0, Block::default());
            let walk = Arc::new(Walk { range: all.clone(), at: Seq::MAX, reverse, stem_from: 0 });
            let mut cursor = self.engine.cursor(&walk).unwrap();
            while cursor.next_block(&mut block).unwrap() {
                count += block.len() as u64;
                black_box(&block);
            }
            assert_eq!(count, self.records);
        })
    }

    fn reopen(&mut self) -> f64 {
        self.spec.resume = self.engine.figures();
        self.spec.create = false;
        self.engine.close().unwrap();
        let start = Instant::now();
        self.engine = SledFactory::default().open(&self.spec).unwrap();
        start.elapsed().as_secs_f64()
    }
}

#[test]
#[ignore = "a measurement"]
fn speed() {
    let (records, run) = (setting("RECORDS", 3_000_000), setting("RUN", 400_000));
    let page_bytes = setting("PAGE", 4096) as usize;
    let cache_bytes = setting("CACHE_MB", 2048) << 20;
    let dir = std::env::var("DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    let dir = tempfile::tempdir_in(Path::new(&dir)).unwrap();
    let spec = EngineSpec {
        dir: dir.path().join("engine"),
        shard: ShardId(0),
        cache_bytes,
        page_bytes,
        create: true,
        resume: None,
        patience: std::time::Duration::from_secs(60),
    };
    let base = resident();
    let mut bench = Bench { engine: SledFactory::default().open(&spec).unwrap(), spec, records };
    let (load, sync) = bench.load(run, 1);
    let loaded = resident() - base;
    let figures = bench.engine.figures().unwrap();
    let (again, _) = bench.load(run, records + 1);
    let overwritten = resident() - base;
    let disk = bench.engine.disk_bytes().unwrap();
    let gets = setting("GETS", 300_000);
    let (hot, all) = (bench.get(gets, 200.min(records)), bench.get(gets, records));
    let (forward, backward) = (bench.scan(false), bench.scan(true));
    for _ in 0..setting("SCANS", 0) {
        black_box((bench.scan(false), bench.scan(true)));
    }
    let read = resident() - base;
    let opening = bench.reopen();
    let cold = bench.get((records / 1000).max(1000), records);
    let (cold_forward, cold_all) = (bench.scan(false), bench.get(gets, records));
    println!(
        "page {page_bytes} cache_mb {} records {records} run {run} | apply {load} again {again} sync {sync} \n  | get hot {hot} \
         all {all} cold {cold} warm {cold_all} \n  | scan {forward} reverse {backward} cold {cold_forward} | reopen {opening:.2}s \
         \n  | resident MB {} {} {} end {} peak {} | disk MB {} pages {} fill {:.2}",
        cache_bytes >> 20,
        loaded >> 20,
        overwritten >> 20,
        read >> 20,
        (resident() - base) >> 20,
        peak(),
        disk >> 20,
        figures.pages,
        (records * 124) as f64 / (figures.pages * page_bytes as u64) as f64,
    );
}

/// How pages are asked for.
#[derive(Debug, Clone, Copy)]
enum Asked {
    /// By the caller, who waits for the disk.
    Waiting,
    /// By the caller if the system has them, else by a thread.
    Ready,
    /// By a thread.
    Thread,
}

#[derive(Debug)]
struct AskedFile(Arc<dyn DiskFile>, Asked);

impl DiskFile for AskedFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buf)
    }

    fn read_ready(&self, offset: u64, buf: &mut [u8]) -> io::Result<Option<usize>> {
        match self.1 {
            Asked::Waiting => self.0.read_at(offset, buf).map(Some),
            Asked::Ready => self.0.read_ready(offset, buf),
            Asked::Thread => Ok(None),
        }
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
}

/// What it costs that no reader waits for the disk without a limit: the same reads in the three ways, one after another, with what the system
/// has in memory (warm) and without (cold, by root). `cargo test --release --lib engine::sled::measure::reading -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn reading() {
    let records = setting("RECORDS", 2_000_000);
    let dir = std::env::var("DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    let dir = tempfile::tempdir_in(Path::new(&dir)).unwrap();
    let spec = EngineSpec {
        dir: dir.path().join("engine"),
        shard: ShardId(0),
        cache_bytes: setting("CACHE_MB", 16) << 20,
        page_bytes: 4096,
        create: true,
        resume: None,
        patience: std::time::Duration::from_secs(60),
    };
    let engine = Arc::new(super::SledEngine::open(&spec, &Arc::default()).unwrap());
    let mut bench = Bench { engine: engine.clone(), spec, records };
    bench.load(400_000, 1);
    let plain = engine.core.read().as_ref().unwrap().file.clone();
    let forget = || std::fs::write("/proc/sys/vm/drop_caches", "1").is_ok();
    let ways = [Asked::Waiting, Asked::Ready, Asked::Thread];
    let (gets, threads) = (setting("GETS", 20_000), setting("THREADS", 8));
    let names = ["get warm", "get cold", "gets of several cold", "scan warm", "scan cold"];
    let mut figures = vec![[const { Vec::<f64>::new() }; 3]; names.len()];
    for _ in 0..setting("ROUNDS", 7) {
        for (at, way) in ways.into_iter().enumerate() {
            {
                let mut core = engine.core.write();
                Arc::get_mut(core.as_mut().unwrap()).unwrap().file = Arc::new(AskedFile(plain.clone(), way));
            }
            let mut take = |figure: usize, us: f64| figures[figure][at].push(us);
            bench.scan(false);
            take(0, bench.get(gets, records).wall);
            take(3, bench.scan(false).wall);
            if !forget() {
                continue;
            }
            take(1, bench.get(gets / 10, records).wall);
            forget();
            let several = Cost::of(gets / 10 * threads, || {
                std::thread::scope(|scope| {
                    let own = &bench;
                    (0..threads).for_each(|_| drop(scope.spawn(move || own.get(gets / 10, records))));
                });
            });
            take(2, several.wall);
            forget();
            take(4, bench.scan(false).wall);
        }
    }
    bench.records = 0;
    for (name, ways) in names.iter().zip(figures) {
        let [waiting, ready, thread] = ways.map(|mut figures| {
            figures.sort_by(f64::total_cmp);
            figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
        });
        println!(
            "{name}: waiting {waiting:.3} us, ready {ready:.3} ({:.2} x), by a thread {thread:.3} ({:.2} x)",
            ready / waiting,
            thread / waiting
        );
    }
}

/// How fast everything is verified, in steps of `STEP` bytes: from the system's cache, with pages in memory or not.
#[test]
#[ignore = "a measurement"]
fn verifying() {
    let (records, step) = (setting("RECORDS", 3_000_000), setting("STEP", 1 << 20) as usize);
    let dir = std::env::var("DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    let dir = tempfile::tempdir_in(Path::new(&dir)).unwrap();
    let spec = EngineSpec {
        dir: dir.path().join("engine"),
        shard: ShardId(0),
        cache_bytes: setting("CACHE_MB", 64) << 20,
        page_bytes: setting("PAGE", 4096) as usize,
        create: true,
        resume: None,
        patience: std::time::Duration::from_secs(60),
    };
    let bench = Bench { engine: SledFactory::default().open(&spec).unwrap(), spec, records };
    bench.load(400_000, 1);
    let live = bench.engine.live_bytes().unwrap();
    for _ in 0..3 {
        let cost = Cost::of(1, || {
            let (mut bad, mut from) = (Vec::new(), Some(Vec::new()));
            while let Some(key) = from {
                from = bench.engine.verify(&key, step, &mut bad).unwrap();
            }
            assert!(bad.is_empty());
        });
        // Bytes a microsecond are megabytes a second.
        println!(
            "verify {} MB: {:.0} MB/s (cpu {:.0})",
            live >> 20,
            live as f64 / cost.wall,
            live as f64 / cost.cpu
        );
    }
    let figures = bench.engine.figures().unwrap();
    let recount = Cost::of(1, || while matches!(bench.engine.recount(256).unwrap(), Recounted::Further) {});
    println!("recount {:.0} MB/s, {} pages", live as f64 / recount.wall, figures.pages);
    let each = figures.pages.min(2000);
    let ranges: Vec<KeyRange> = {
        let (mut found, mut from) = (Vec::new(), Vec::new());
        while let Some(next) = bench.engine.verify(&from, 1, &mut Vec::new()).unwrap()
            && found.len() < each as usize
        {
            found.push(KeyRange { lo: std::mem::replace(&mut from, next.clone()), hi: Some(next) });
        }
        found
    };
    let runs: Vec<crate::record::RunBuffer> = (ranges.iter().map(|range| {
        let mut run = crate::record::RunBuffer::default();
        bench.engine.versions(&range.lo, 1, &mut |key| range.contains(key), &mut run).unwrap();
        run
    }))
    .collect();
    let replace = Cost::of(ranges.len() as u64, || {
        for (range, run) in ranges.iter().zip(&runs) {
            bench.engine.replace_range(range, &run.records().collect::<Vec<_>>()).unwrap();
        }
    });
    println!("replace_range of a page {replace} us");
}

/// What a digest of each virtual node costs: kept up with every record that is applied (the old version's share taken out, the new one's put
/// in), or computed on demand by reading the shard. `cargo test --release --lib engine::sled::measure::digests -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn digests() {
    let (records, run, nodes) = (setting("RECORDS", 1_000_000), setting("RUN", 50_000), 1024);
    let dir = tempfile::tempdir().unwrap();
    let spec = EngineSpec {
        dir: dir.path().join("engine"),
        shard: ShardId(0),
        cache_bytes: setting("CACHE_MB", 64) << 20,
        page_bytes: 4096,
        create: true,
        resume: None,
        patience: std::time::Duration::from_secs(60),
    };
    let engine = SledFactory::default().open(&spec).unwrap();
    let value = [7; 100];
    let share = |key: &[u8], seq: Seq, value: &[u8]| hash128(&[key, &seq.0.to_le_bytes(), value]);
    let mut sums = vec![0_u128; nodes];
    let node = |key: &[u8]| (Position::of(key).0 >> 54) as usize;
    let mut figures: [Vec<f64>; 3] = Default::default();
    for round in 0..3 {
        let (mut applied, mut kept) = (Cost::default(), Cost::default());
        for first in (0..records).step_by(run as usize) {
            let mut keys: Vec<[u8; 20]> = (first..first + run).map(|n| key(n % records)).collect();
            keys.sort_unstable();
            let seq = Seq(round * records + first + 1);
            let versions: Vec<RunRecord<'_>> =
                keys.iter().map(|key| RunRecord { key, seq, value: Some(&value) }).collect();
            applied += Cost::of(run, || engine.apply(&versions, &[]).unwrap());
            kept += Cost::of(run, || {
                for record in &versions {
                    let node = node(record.key);
                    let old = share(record.key, Seq(record.seq.0 / 2), &value);
                    sums[node] =
                        sums[node].wrapping_sub(old).wrapping_add(share(record.key, record.seq, &value));
                }
            });
        }
        engine.sync(Seq((round + 1) * records)).unwrap();
        let (mut computed, mut out) = (vec![0_u128; nodes], RunBuffer::default());
        let demand = Cost::of(records, || {
            let mut from = Some(Vec::new());
            while let Some(lo) = from {
                out = RunBuffer::default();
                from = engine.versions(&lo, 1 << 20, &mut |_| true, &mut out).unwrap();
                for record in out.records() {
                    let node = node(record.key);
                    let value = record.value.unwrap_or_default();
                    computed[node] = computed[node].wrapping_add(share(record.key, record.seq, value));
                }
            }
        });
        let runs = (records / run) as f64;
        let row = [applied.wall / runs, kept.wall / runs, demand.wall];
        figures.iter_mut().zip(row).for_each(|(column, figure)| column.push(figure));
        black_box((&sums, &computed));
    }
    let [applied, kept, demand] = figures.map(|mut column| {
        column.sort_by(f64::total_cmp);
        column[1]
    });
    println!(
        "us a record: applied {applied:.3}, digests kept up {kept:.3} more ({:.0} %), computed on demand {demand:.3}",
        100.0 * kept / applied
    );
}
