//! The memtable's table beside the standard library's B-tree and crossbeam's skip list.
//!
//! `cargo bench --bench memtable` runs criterion over the table alone, to compare one state of the code with another.
//! `cargo bench --bench memtable -- --figures [records...]` compares the three: the structures take turns, each figure is
//! the median of several turns, memory is what a process of its own shows resident.

#![allow(clippy::unwrap_used)]

use annulus::Seq;
use annulus::testing::memtable::{Table, range_from};
use criterion::{BatchSize, Criterion, Throughput};
use crossbeam_skiplist::SkipMap;
use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::process::Command;

const VALUE: usize = 100;
const TURNS: usize = 5;

/// A small generator (splitmix64), so that every run sees the same keys.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, (self.next() % (i as u64 + 1)) as usize);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    /// Random bytes.
    Random,
    /// `user/%012d` and three more bytes, in random order.
    User,
    /// The same, ascending.
    Sorted,
    /// A long group name of 36 bytes shared by 20 keys each, in random order.
    Grouped,
}

const SHAPES: [Shape; 4] = [Shape::Random, Shape::User, Shape::Sorted, Shape::Grouped];

/// Keys one behind the other, so that walking over them costs no cache misses that would be taken for the map's.
struct Keys {
    bytes: Vec<u8>,
    each: usize,
}

impl Keys {
    fn of(keys: &[Vec<u8>]) -> Keys {
        Keys { bytes: keys.concat(), each: keys[0].len() }
    }

    fn len(&self) -> usize {
        self.bytes.len() / self.each
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.chunks_exact(self.each)
    }
}

/// The keys in order of insertion, the same in another order, and as many that are not among them.
struct Work {
    fill: Keys,
    hits: Keys,
    misses: Keys,
}

fn key(shape: Shape, i: u64, random: &mut Random) -> Vec<u8> {
    match shape {
        Shape::Random => (0..3).flat_map(|_| random.next().to_be_bytes()).take(20).collect(),
        Shape::User | Shape::Sorted => format!("user/{i:012}/ab").into_bytes(),
        Shape::Grouped => {
            format!("tenant/{:08x}-9f4e-11ee-be56-{:012x}/field/{:04}", i / 40, i / 40, i % 40).into_bytes()
        }
    }
}

fn keys(shape: Shape, n: usize) -> Work {
    let mut random = Random(7);
    let mut all: Vec<Vec<u8>> = (0..2 * n as u64).map(|i| key(shape, i, &mut random)).collect();
    // Every second key misses, so that misses fall between hits.
    let mut at = 0;
    let (mut hits, mut misses): (Vec<_>, Vec<_>) = all.drain(..).partition(|_| {
        at += 1;
        at % 2 == 0
    });
    if shape != Shape::Sorted {
        random.shuffle(&mut hits);
    }
    random.shuffle(&mut misses);
    let fill = Keys::of(&hits);
    random.shuffle(&mut hits);
    Work { fill, hits: Keys::of(&hits), misses: Keys::of(&misses) }
}

trait Map {
    const NAME: &str;
    fn new() -> Self;
    fn insert(&mut self, key: &[u8], seq: u64, value: &[u8]);
    fn get(&self, key: &[u8]) -> usize;
    /// Reads the first and last byte of every key and value; returns the number of records.
    fn scan(&self) -> usize;
    /// The first ten records from a key on.
    fn scan_ten(&self, from: &[u8]) -> usize;
    fn says(&self) -> usize;
}

fn touch(key: &[u8], value: &[u8]) {
    black_box((key[0], key[key.len() - 1], value[0], value[value.len() - 1]));
}

impl Map for Table {
    const NAME: &str = "table";
    fn new() -> Self {
        Table::new()
    }
    fn insert(&mut self, key: &[u8], seq: u64, value: &[u8]) {
        Table::insert(self, key, Seq(seq), Some(value), &[]).unwrap();
    }
    fn get(&self, key: &[u8]) -> usize {
        Table::get(self, key, Seq::MAX)
            .map_or(0, |found| found.value.map_or(0, |v| v[v.len() - 1] as usize + 1))
    }
    fn scan(&self) -> usize {
        self.iter_at(&range_from(b""), Seq::MAX, false)
            .map(|r| touch(r.key, r.value.unwrap_or_default()))
            .count()
    }
    fn scan_ten(&self, from: &[u8]) -> usize {
        self.iter_at(&range_from(from), Seq::MAX, false)
            .take(10)
            .map(|r| touch(r.key, r.value.unwrap_or_default()))
            .count()
    }
    fn says(&self) -> usize {
        self.bytes()
    }
}

type Boxed = BTreeMap<Box<[u8]>, (u64, Box<[u8]>)>;

impl Map for Boxed {
    const NAME: &str = "BTreeMap";
    fn new() -> Self {
        BTreeMap::new()
    }
    fn insert(&mut self, key: &[u8], seq: u64, value: &[u8]) {
        match self.get_mut(key) {
            Some(held) => *held = (seq, value.into()),
            None => drop(BTreeMap::insert(self, key.into(), (seq, value.into()))),
        }
    }
    fn get(&self, key: &[u8]) -> usize {
        BTreeMap::get(self, key).map_or(0, |(_, v)| v[v.len() - 1] as usize + 1)
    }
    fn scan(&self) -> usize {
        self.iter().map(|(k, (_, v))| touch(k, v)).count()
    }
    fn scan_ten(&self, from: &[u8]) -> usize {
        let from: Box<[u8]> = from.into();
        self.range(from..).take(10).map(|(k, (_, v))| touch(k, v)).count()
    }
    fn says(&self) -> usize {
        0
    }
}

type Skips = SkipMap<Box<[u8]>, (u64, Box<[u8]>)>;

impl Map for Skips {
    const NAME: &str = "skip list";
    fn new() -> Self {
        SkipMap::new()
    }
    fn insert(&mut self, key: &[u8], seq: u64, value: &[u8]) {
        SkipMap::insert(self, key.into(), (seq, value.into()));
    }
    fn get(&self, key: &[u8]) -> usize {
        SkipMap::get(self, key).map_or(0, |e| e.value().1[e.value().1.len() - 1] as usize + 1)
    }
    fn scan(&self) -> usize {
        self.iter().map(|e| touch(e.key(), &e.value().1)).count()
    }
    fn scan_ten(&self, from: &[u8]) -> usize {
        let from: Box<[u8]> = from.into();
        self.range(from..).take(10).map(|e| touch(e.key(), &e.value().1)).count()
    }
    fn says(&self) -> usize {
        0
    }
}

const COLUMNS: [&str; 8] =
    ["insert", "overwrite", "get hit", "get miss", "seek + 10", "scan", "drop", "memory"];

/// Nanoseconds a record for each of the columns but the last.
fn turn<M: Map>(work: &Work) -> [f64; 7] {
    let n = work.fill.len();
    let value = [42u8; VALUE];
    let mut map = M::new();
    let timed = |f: &mut dyn FnMut() -> usize, count: usize| {
        let start = on_cpu();
        black_box(f());
        (on_cpu() - start) / count as f64
    };
    let insert =
        timed(&mut || work.fill.iter().zip(1..).map(|(key, seq)| map.insert(key, seq, &value)).count(), n);
    let overwrite = timed(
        &mut || work.hits.iter().zip(n as u64 + 1..).map(|(key, seq)| map.insert(key, seq, &value)).count(),
        n,
    );
    let hit = timed(&mut || work.hits.iter().map(|key| map.get(key)).sum(), n);
    let miss = timed(&mut || work.misses.iter().map(|key| map.get(key)).sum(), n);
    let ten = timed(&mut || work.misses.iter().take(n / 10).map(|key| map.scan_ten(key)).sum(), n / 10);
    let scan = timed(&mut || map.scan(), n);
    assert_eq!(map.scan(), n);
    let start = on_cpu();
    drop(map);
    [insert, overwrite, hit, miss, ten, scan, (on_cpu() - start) / n as f64]
}

/// What this thread has had of a processor, in nanoseconds: what others do beside it does not count.
fn on_cpu() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 * 1e9 + now.tv_nsec as f64
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or_default() * 4096
}

/// In a process of its own: what a filled map adds to the resident memory, and what it says itself. The keys are made
/// one at a time, since memory that they had taken and freed would be used again and not be seen.
fn weigh<M: Map>(shape: Shape, n: u64) {
    let mut random = Random(7);
    // Spreads the numbers over twice the range, in another order unless they are to be sorted.
    let spread = |i: u64| if shape == Shape::Sorted { 2 * i } else { i * 1_000_003 % (2 * n + 1) };
    let before = resident();
    let mut map = M::new();
    for i in 0..n {
        map.insert(&key(shape, spread(i), &mut random), i + 1, &[42u8; VALUE]);
    }
    println!("{} {}", resident() - before, map.says());
    black_box(map);
}

fn weighed(name: &str, shape: Shape, n: usize) -> (f64, f64) {
    let me = std::env::current_exe().unwrap();
    let shape = SHAPES.iter().position(|s| *s == shape).unwrap();
    let out = Command::new(me).args(["--weigh", name, &shape.to_string(), &n.to_string()]).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let mut numbers = text.split_whitespace().map(|number| number.parse::<f64>().unwrap() / n as f64);
    (numbers.next().unwrap(), numbers.next().unwrap())
}

fn figures(sizes: &[usize]) {
    for n in sizes {
        for shape in SHAPES {
            let work = keys(shape, *n);
            let mut turns: [Vec<[f64; 7]>; 3] = Default::default();
            for _ in 0..TURNS {
                turns[0].push(turn::<Table>(&work));
                turns[1].push(turn::<Boxed>(&work));
                turns[2].push(turn::<Skips>(&work));
            }
            println!(
                "\n{n} records, {shape:?} keys (ns a record; bytes a record, in brackets what it says itself)"
            );
            println!("{:10} {}", "", COLUMNS.map(|c| format!("{c:>10}")).join(" "));
            for (name, turns) in [Table::NAME, Boxed::NAME, Skips::NAME].into_iter().zip(&turns) {
                let medians: Vec<String> = (0..7)
                    .map(|column| {
                        let mut all: Vec<f64> = turns.iter().map(|turn| turn[column]).collect();
                        all.sort_by(f64::total_cmp);
                        format!("{:>10.1}", all[TURNS / 2])
                    })
                    .collect();
                let (bytes, says) = weighed(name, shape, *n);
                println!("{name:10} {} {bytes:>10.1} ({says:.1})", medians.join(" "));
            }
        }
    }
}

fn criterion() {
    let mut criterion = Criterion::default().configure_from_args().sample_size(10);
    let n = 100_000;
    for shape in SHAPES {
        let Work { fill: inserts, hits, misses } = keys(shape, n);
        let value = [42u8; VALUE];
        let fill = || {
            let mut table = Table::new();
            for (key, seq) in inserts.iter().zip(1..) {
                Map::insert(&mut table, key, seq, &value);
            }
            table
        };
        let table = fill();
        let mut group = criterion.benchmark_group(format!("memtable/{shape:?}"));
        group.throughput(Throughput::Elements(n as u64));
        group.bench_function("insert", |b| b.iter_batched(|| (), |()| fill(), BatchSize::PerIteration));
        group.bench_function("get hit", |b| {
            b.iter(|| hits.iter().map(|key| Map::get(&table, key)).sum::<usize>())
        });
        group.bench_function("get miss", |b| {
            b.iter(|| misses.iter().map(|key| Map::get(&table, key)).sum::<usize>())
        });
        group.bench_function("scan", |b| b.iter(|| table.scan()));
        group.finish();
    }
    criterion.final_summary();
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("--weigh") => {
            let (shape, n) = (SHAPES[args[3].parse::<usize>().unwrap()], args[4].parse().unwrap());
            match args[2].as_str() {
                Table::NAME => weigh::<Table>(shape, n),
                Boxed::NAME => weigh::<Boxed>(shape, n),
                _ => weigh::<Skips>(shape, n),
            }
        }
        Some("--figures") => {
            let sizes: Vec<usize> = args[2..].iter().filter_map(|arg| arg.parse().ok()).collect();
            figures(if sizes.is_empty() { &[10_000, 100_000, 400_000, 1_000_000] } else { &sizes });
        }
        _ => criterion(),
    }
}
