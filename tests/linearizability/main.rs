//! Histories of threads that read and write the same few keys at once, while shards die and are healed and the topology changes
//! beside them: every one can be explained as if one operation had come after another, reads of several keys show one moment,
//! and nothing is refused.
//!
//! `ANNULUS_HISTORIES` sets how many (10,000 unless set), `ANNULUS_SEED` what each thread does; how they meet is the machine's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod checker;
mod random;
mod trouble;

use annulus::testing::{self, Background, MemoryFactory, Seams, SimDisk};
use annulus::{Durability, Options, Store, WriteBatch};
use checker::{Op, Value, View, What, is_linearizable, is_of_one_moment, versions_fit};
use random::Random;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;
use trouble::{Trouble, Troubles};

/// Keys that histories take turns with; a record that nobody writes for a while is on the shards alone.
const POOL: u64 = 600;
/// Keys of one history, operations of a thread in it, and threads.
const KEYS: usize = 3;
const STEPS: usize = 8;
const THREADS: usize = 4;

fn key(n: usize) -> String {
    format!("key/{n:04}")
}

fn value(n: u64) -> Vec<u8> {
    let mut value = n.to_le_bytes().to_vec();
    value.resize(8 + (n % 700) as usize, n as u8);
    value
}

fn number(value: &[u8]) -> u64 {
    let n = u64::from_le_bytes(*value.first_chunk().unwrap());
    assert!(value == self::value(n), "the value of {n} is torn");
    n
}

/// What the threads of a history gather.
#[derive(Default)]
struct History {
    ops: Vec<Op>,
    views: Vec<View>,
}

struct Run {
    store: Store,
    clock: AtomicU64,
    values: AtomicU64,
    /// The first key of the history at hand.
    first: AtomicUsize,
    history: Mutex<History>,
    barrier: Barrier,
    over: AtomicBool,
}

impl Run {
    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn fresh(&self) -> u64 {
        self.values.fetch_add(1, Ordering::Relaxed)
    }

    fn worker(&self, mut random: Random) {
        loop {
            self.barrier.wait();
            if self.over.load(Ordering::SeqCst) {
                return;
            }
            let (first, mut mine) = (self.first.load(Ordering::SeqCst), History::default());
            for _ in 0..STEPS {
                self.step(first, &mut random, &mut mine);
            }
            let mut history = self.history.lock().unwrap();
            history.ops.append(&mut mine.ops);
            history.views.append(&mut mine.views);
            drop(history);
            self.barrier.wait();
        }
    }

    fn step(&self, first: usize, random: &mut Random, mine: &mut History) {
        let at = random.below(KEYS as u64) as usize;
        let name = key(first + at);
        let durability = if random.below(40) == 0 { Durability::Sync } else { Durability::Memory };
        match random.below(20) {
            0..6 => {
                let n = self.fresh();
                let called = self.tick();
                let seq = self.store.insert_with(name, value(n), durability).unwrap();
                let returned = self.tick();
                mine.ops.push(Op { key: at, called, returned, what: What::Write(Some(n), seq.0) });
            }
            6..8 => {
                let called = self.tick();
                let seq = self.store.remove_with(name, durability).unwrap();
                let returned = self.tick();
                mine.ops.push(Op { key: at, called, returned, what: What::Write(None, seq.0) });
            }
            8..10 => {
                let other = (at + 1) % KEYS;
                let (n, m) = (self.fresh(), (random.below(3) > 0).then(|| self.fresh()));
                let mut batch = WriteBatch::new();
                batch.insert(name, value(n));
                match m {
                    Some(m) => batch.insert(key(first + other), value(m)),
                    None => batch.remove(key(first + other)),
                };
                let called = self.tick();
                let seq = self.store.commit_with(batch, durability).unwrap().0;
                let returned = self.tick();
                mine.ops.push(Op { key: at, called, returned, what: What::Write(Some(n), seq) });
                mine.ops.push(Op { key: other, called, returned, what: What::Write(m, seq) });
            }
            10..16 => {
                let called = self.tick();
                let found = self.store.get(name).unwrap();
                let returned = self.tick();
                let what = What::Read(found.map(|value| number(&value)));
                mine.ops.push(Op { key: at, called, returned, what });
            }
            16..18 => {
                let names: Vec<String> = (0..KEYS).map(|at| key(first + at)).collect();
                let called = self.tick();
                let found = self.store.get_many(&names).unwrap();
                let returned = self.tick();
                let values = found.into_iter().map(|value| value.map(|value| number(&value))).collect();
                mine.views.push(View { called, returned, values });
            }
            _ => {
                let mut values = vec![None; KEYS];
                let called = self.tick();
                let range = self.store.range(key(first)..key(first + KEYS));
                let items: Vec<_> =
                    if random.below(2) == 0 { range.collect() } else { range.rev().collect() };
                let returned = self.tick();
                for item in items {
                    let (name, value) = item.unwrap();
                    let n: usize = std::str::from_utf8(&name[4..]).unwrap().parse().unwrap();
                    values[n - first] = Some(number(&value));
                }
                mine.views.push(View { called, returned, values });
            }
        }
    }

    /// Lets the threads make one history and checks it. `before`: the values of all keys, which it brings up to date.
    fn history(&self, first: usize, before: &mut [Value]) {
        self.first.store(first, Ordering::SeqCst);
        self.barrier.wait();
        self.barrier.wait();
        let mut history = std::mem::take(&mut *self.history.lock().unwrap());
        // What is there in the end is read like anything else.
        for at in 0..KEYS {
            let called = self.tick();
            let found = self.store.get(key(first + at)).unwrap().map(|value| number(&value));
            history.ops.push(Op { key: at, called, returned: self.tick(), what: What::Read(found) });
        }
        let initial = before[first..first + KEYS].to_vec();
        for view in &history.views {
            assert!(
                is_of_one_moment(&initial, &history.ops, view),
                "{view:?} from {initial:?}: {:#?}",
                history.ops
            );
        }
        let (called, returned) = (|v: &View| v.called, |v: &View| v.returned);
        for at in 0..KEYS {
            let of_key = history.ops.iter().filter(|op| op.key == at).copied();
            let seen = history.views.iter().map(|view| Op {
                key: at,
                called: called(view),
                returned: returned(view),
                what: What::Read(view.values[at]),
            });
            let ops: Vec<Op> = of_key.chain(seen).collect();
            assert!(versions_fit(&ops), "versions do not fit: {ops:#?}");
            // More than the search takes come together once in many thousand histories.
            assert!(
                ops.len() > 64 || is_linearizable(initial[at], &ops),
                "not linearizable from {:?} on: {ops:#?}",
                initial[at]
            );
            let last = history.ops.iter().rev().find(|op| op.key == at);
            before[first + at] =
                last.and_then(|op| if let What::Read(value) = op.what { value } else { None });
        }
    }
}

/// Writes beside the histories, so that memtables fill and are flushed all the time.
fn filler(store: &Store, over: &AtomicBool) {
    for n in 0_u64.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        store.insert(format!("fill/{:04}", n % 3000), vec![n as u8; 900]).unwrap();
        if n % 16 == 0 {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

#[test]
fn histories_are_linearizable_while_shards_die_and_move() {
    let wanted: u64 = std::env::var("ANNULUS_HISTORIES").map_or(10_000, |v| v.parse().unwrap());
    let seed = std::env::var("ANNULUS_SEED").map_or_else(
        |_| {
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64
                >> 10
        },
        |v| v.parse().unwrap(),
    );
    println!("ANNULUS_SEED={seed}");
    let (disk, factory) = (SimDisk::new(seed), MemoryFactory::new());
    let options = Options::new()
        .shards(4)
        .replication_factor(2)
        .virtual_nodes(64)
        .memory_budget(8 << 20)
        .journal_segment_bytes(256 << 10)
        .shard_timeout(Duration::from_secs(5));
    let seams = Seams {
        disk: Arc::new(disk.clone()),
        factory: Arc::new(factory.clone()),
        background: Background::On,
    };
    let store = testing::open(Path::new("/store"), &options, seams).unwrap();
    let run = Run {
        store,
        clock: AtomicU64::new(1),
        values: AtomicU64::new(1),
        first: AtomicUsize::new(0),
        history: Mutex::default(),
        barrier: Barrier::new(THREADS + 1),
        over: AtomicBool::new(false),
    };
    let (mut made, mut random) = (0, Random::new(seed));
    let mut troubles = Troubles::default();
    std::thread::scope(|scope| {
        for worker in 0..THREADS as u64 {
            let (run, random) = (&run, Random::new(seed ^ (worker + 2) << 32));
            scope.spawn(move || or_abort(|| run.worker(random)));
        }
        scope.spawn(|| or_abort(|| filler(&run.store, &run.over)));
        let trouble = scope.spawn(|| {
            let mut trouble = Trouble::new(&run.store, disk, factory, Random::new(!seed));
            or_abort(|| {
                while !run.over.load(Ordering::Relaxed) {
                    trouble.step();
                }
            });
            trouble.done
        });
        let mut before = vec![None; POOL as usize];
        or_abort(|| {
            while made < wanted {
                run.history(random.below(POOL - KEYS as u64) as usize, &mut before);
                made += 1;
            }
        });
        run.over.store(true, Ordering::SeqCst);
        run.barrier.wait();
        troubles = trouble.join().unwrap();
    });
    println!("{made} histories, {} operations; {troubles:?}", run.clock.load(Ordering::Relaxed) / 2);
    if wanted >= 10_000 {
        assert!(
            troubles.moves > 2 && troubles.erased + troubles.failed + troubles.panicked > 5,
            "{troubles:?}"
        );
    }
}

/// The other threads would wait for one that panicked for ever.
fn or_abort(work: impl FnOnce()) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err() {
        eprintln!("a thread failed, see above");
        std::process::exit(101);
    }
}
