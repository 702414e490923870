//! The whole store against a `BTreeMap`: random operations, batches, scans, flushes, reopenings, kills, power cuts, shard
//! losses and changes of the topology, on a simulated disk and in-memory engines that lose what was not synced. Every step is driven by hand,
//! so a failure replays from its seed.
//!
//! `PROPTEST_CASES` sets the number of cases.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod topology;

use annulus::testing::{self, Background, MemoryFactory, PowerCut, Seams, SimDisk};
use annulus::{Bytes, Durability, Keyspace, Options, Partitioner, Range, Seq, Store, WriteBatch};
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use topology::Wish;

const DIR: &str = "/store";

/// A keyspace, a key, and the seed and length of a value.
type Op = (u8, u8, Option<(u8, u8)>);
type Expected = VecDeque<(Vec<u8>, Vec<u8>)>;

#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<Op>, u8),
    Get(u8),
    GetMany(Vec<u8>),
    Scan {
        lo: u8,
        hi: u8,
        ends: u8,
    },
    Prefix(u8, bool),
    OpenIter {
        lo: u8,
        hi: u8,
    },
    AdvanceIter {
        which: u8,
        steps: u8,
        back: bool,
    },
    CloseIter(u8),
    Freeze,
    FlushOldest,
    Flush,
    Sync,
    Tick,
    Close,
    Drop,
    Kill,
    PowerCut(u64),
    LoseShard(u8),
    DropKeyspace,
    Recount,
    /// Topology: begins a change; takes so many steps of it; gives it up; drops what has left.
    Change(Vec<Wish>),
    ChangeSteps(u8),
    CancelChange,
    DropRetired,
}

/// The steps with changes of the topology among them.
fn elastic_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => step(),
        1 => prop::collection::vec(topology::wish(), 1..4).prop_map(Step::Change),
        3 => prop_oneof![3 => 1..5u8, 1 => Just(100)].prop_map(Step::ChangeSteps),
        1 => Just(Step::CancelChange),
        1 => Just(Step::DropRetired),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let op = (0..3u8, any::<u8>(), prop::option::weighted(0.75, (any::<u8>(), any::<u8>())));
    prop_oneof![
        12 => (prop::collection::vec(op.clone(), 1..2), 0..3u8).prop_map(|(ops, d)| Step::Commit(ops, d)),
        6 => (prop::collection::vec(op, 2..12), 0..3u8).prop_map(|(ops, d)| Step::Commit(ops, d)),
        4 => any::<u8>().prop_map(Step::Get),
        1 => prop::collection::vec(any::<u8>(), 0..80).prop_map(Step::GetMany),
        3 => (any::<u8>(), any::<u8>(), any::<u8>()).prop_map(|(lo, hi, ends)| Step::Scan { lo, hi, ends }),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(p, r)| Step::Prefix(p, r)),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(lo, hi)| Step::OpenIter { lo, hi }),
        4 => (any::<u8>(), any::<u8>(), any::<bool>())
            .prop_map(|(which, steps, back)| Step::AdvanceIter { which, steps, back }),
        1 => any::<u8>().prop_map(Step::CloseIter),
        3 => Just(Step::Freeze),
        4 => Just(Step::FlushOldest),
        2 => Just(Step::Flush),
        1 => Just(Step::Sync),
        1 => Just(Step::Tick),
        1 => Just(Step::Close),
        1 => Just(Step::Drop),
        2 => Just(Step::Kill),
        3 => any::<u64>().prop_map(Step::PowerCut),
        1 => any::<u8>().prop_map(Step::LoseShard),
        1 => Just(Step::DropKeyspace),
        1 => Just(Step::Recount),
    ]
}

#[derive(Debug, Clone)]
struct Shape {
    shards: usize,
    replicas: usize,
    partitioner: Partitioner,
}

fn shape() -> impl Strategy<Value = Shape> {
    let partitioner = prop_oneof![
        Just(Partitioner::Whole),
        Just(Partitioner::Prefix(2)),
        Just(Partitioner::Delimiter(b'/')),
        Just(Partitioner::HashTag),
    ];
    (1..=8usize, 1..=3usize, partitioner).prop_map(|(shards, replicas, partitioner)| Shape {
        shards,
        replicas: replicas.min(shards),
        partitioner,
    })
}

/// Keys that exercise every partitioner, and share prefixes.
fn key(n: u8) -> Vec<u8> {
    match n % 4 {
        0 => format!("{}/{}", n % 7, n).into_bytes(),
        1 => format!("{{{}}}x{}", n % 5, n).into_bytes(),
        2 => vec![0xff; usize::from(n % 5) + 1],
        _ => vec![n, 0, n / 3],
    }
}

fn value(n: u8, length: u8) -> Vec<u8> {
    let length = match length {
        250.. => 30_000,
        230.. => 2_500,
        l => usize::from(l) / 4,
    };
    (0..length).map(|i| n.wrapping_add(i as u8)).collect()
}

type Commit = Vec<(usize, Vec<u8>, Option<Vec<u8>>)>;
type Content = BTreeMap<Vec<u8>, (Vec<u8>, Seq)>;

struct World {
    disk: SimDisk,
    factory: MemoryFactory,
    options: Options,
    store: Option<Store>,
    /// The keyspaces that have been, by number of creation; the last is alive. The default one has number 0.
    named: Option<Keyspace>,
    instance: usize,
    /// Everything committed, in order: commit `i` has version `i + 1`.
    log: Vec<Commit>,
    process: usize,
    synced: usize,
    content: BTreeMap<usize, Content>,
    iters: Vec<(Range, Expected)>,
    lost: usize,
    /// Directories that shards have been added in.
    added: usize,
}

impl World {
    fn new(shape: &Shape, seed: u64) -> World {
        let options = Options::new()
            .shards(shape.shards)
            .replication_factor(shape.replicas)
            .partitioner(shape.partitioner)
            .virtual_nodes(64)
            .memory_budget(8 << 20)
            .journal_segment_bytes(64 << 10);
        let mut world = World {
            disk: SimDisk::new(seed),
            factory: MemoryFactory::new(),
            options,
            store: None,
            named: None,
            instance: 1,
            log: Vec::new(),
            process: 0,
            synced: 0,
            content: BTreeMap::new(),
            iters: Vec::new(),
            lost: 0,
            added: 0,
        };
        world.open();
        // What the topology is from here on is not for the options to say.
        world.options = Options::new().memory_budget(8 << 20).journal_segment_bytes(64 << 10);
        world
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn open(&mut self) {
        let seams = Seams {
            disk: Arc::new(self.disk.clone()),
            factory: Arc::new(self.factory.clone()),
            background: Background::Off,
        };
        let store = testing::open(Path::new(DIR), &self.options, seams).unwrap();
        self.named = Some(store.keyspace("named").unwrap());
        self.store = Some(store);
        self.lost = 0;
        self.check_recovered();
    }

    /// What is there after an opening is a prefix of what was committed, and all that was promised.
    fn check_recovered(&mut self) {
        let last = self.store().stats().unwrap().last_seq.0 as usize;
        assert!(last <= self.log.len(), "{last} commits are there, {} were made", self.log.len());
        assert!(last >= self.process, "{last} commits are there, {} were acknowledged", self.process);
        self.log.truncate(last);
        (self.process, self.synced) = (last, self.synced.min(last));
        self.content.clear();
        for (i, commit) in self.log.clone().iter().enumerate() {
            self.enter(commit, Seq(i as u64 + 1));
        }
        self.check_all();
    }

    fn enter(&mut self, commit: &Commit, seq: Seq) {
        for (keyspace, key, value) in commit {
            let content = self.content.entry(*keyspace).or_default();
            match value {
                Some(value) => content.insert(key.clone(), (value.clone(), seq)),
                None => content.remove(key),
            };
        }
    }

    fn content(&self, keyspace: usize) -> Content {
        self.content.get(&keyspace).cloned().unwrap_or_default()
    }

    fn check_all(&self) {
        for (keyspace, number) in [(&**self.store(), 0), (self.named.as_ref().unwrap(), self.instance)] {
            let found: Vec<(Vec<u8>, Vec<u8>)> = collect(keyspace.iter());
            let expected: Vec<_> = self.content(number).into_iter().map(|(k, (v, _))| (k, v)).collect();
            assert_eq!(found, expected, "keyspace {number}");
        }
    }

    /// The process is gone, or the power: what the simulations keep is all there is.
    fn crash(&mut self, power_cut: Option<u64>) {
        match power_cut {
            Some(seed) => {
                self.disk = self.disk.crash(PowerCut { seed });
                self.factory.crash(seed);
                self.process = self.synced;
            }
            None => self.disk = self.disk.kill(),
        }
        self.iters.clear();
        self.named = None;
        self.store = None;
        self.open();
    }

    fn commit(&mut self, ops: &[Op], durability: u8) {
        let mut batch = WriteBatch::new();
        let mut commit = Commit::new();
        let named = self.named.clone().unwrap();
        for (keyspace, k, v) in ops {
            let (k, v) = (key(*k), v.map(|(n, length)| value(n, length)));
            match (keyspace % 2, &v) {
                (0, Some(v)) => batch.insert(&k, v),
                (0, None) => batch.remove(&k),
                (_, Some(v)) => batch.insert_in(&named, &k, v),
                (_, None) => batch.remove_in(&named, &k),
            };
            commit.push((if keyspace % 2 == 0 { 0 } else { self.instance }, k, v));
        }
        let durability = [Durability::Memory, Durability::Process, Durability::Sync][usize::from(durability)];
        let seq = self.store().commit_with(batch, durability).unwrap();
        assert_eq!(seq.0 as usize, self.log.len() + 1);
        self.enter(&commit, seq);
        self.log.push(commit);
        match durability {
            Durability::Memory => {}
            Durability::Process => self.process = self.log.len(),
            Durability::Sync => (self.process, self.synced) = (self.log.len(), self.log.len()),
        }
    }

    fn range(&self, lo: u8, hi: u8) -> (Vec<u8>, Vec<u8>, Expected) {
        let (a, b) = (key(lo), key(hi));
        let (lo, hi) = if a <= b { (a, b) } else { (b, a) };
        let content = self.content(0);
        let expected =
            content.range(lo.clone()..hi.clone()).map(|(k, (v, _))| (k.clone(), v.clone())).collect();
        (lo, hi, expected)
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Commit(ops, durability) => self.commit(ops, *durability),
            Step::Get(n) => {
                let found = self.store().get_versioned(key(*n)).unwrap().map(|(v, seq)| (v.to_vec(), seq));
                assert_eq!(found, self.content(0).get(&key(*n)).cloned());
            }
            Step::GetMany(keys) => {
                let keys: Vec<Vec<u8>> = keys.iter().map(|n| key(*n)).collect();
                let content = self.content(0);
                let expected: Vec<_> = keys.iter().map(|k| content.get(k).map(|(v, _)| v.clone())).collect();
                let found = self.store().get_many(&keys).unwrap();
                assert_eq!(found.into_iter().map(|v| v.map(|v| v.to_vec())).collect::<Vec<_>>(), expected);
            }
            Step::Scan { lo, hi, ends } => {
                let (lo, hi, expected) = self.range(*lo, *hi);
                both_ends(self.store().range(lo..hi), expected, *ends);
            }
            Step::Prefix(n, reverse) => {
                let prefix = key(*n)[..key(*n).len().min(2)].to_vec();
                let matching = |(k, _): &(&Vec<u8>, _)| k.starts_with(&prefix);
                let content = self.content(0);
                let mut expected: Vec<_> =
                    content.iter().filter(matching).map(|(k, (v, _))| (k.clone(), v.clone())).collect();
                let range = self.store().scan_prefix(&prefix);
                let found = if *reverse {
                    expected.reverse();
                    collect(range.rev())
                } else {
                    collect(range)
                };
                assert_eq!(found, expected);
            }
            Step::OpenIter { lo, hi } => {
                if self.iters.len() < 4 {
                    let (lo, hi, expected) = self.range(*lo, *hi);
                    self.iters.push((self.store().range(lo..hi), expected));
                }
            }
            Step::AdvanceIter { which, steps, back } => {
                let count = self.iters.len().max(1);
                if let Some((iter, expected)) = self.iters.get_mut(usize::from(*which) % count) {
                    for _ in 0..*steps / 4 {
                        let wanted = if *back { expected.pop_back() } else { expected.pop_front() };
                        let found = match (steps % 4, *back) {
                            (0, true) => iter.next_back_ref().map(|f| lent(f.unwrap())),
                            (0, false) => iter.next_ref().map(|f| lent(f.unwrap())),
                            (_, true) => iter.next_back().map(|f| owned(f.unwrap())),
                            (_, false) => iter.next().map(|f| owned(f.unwrap())),
                        };
                        assert_eq!(found, wanted);
                    }
                }
            }
            Step::CloseIter(which) => {
                if !self.iters.is_empty() {
                    let which = usize::from(*which) % self.iters.len();
                    let (iter, expected) = self.iters.swap_remove(which);
                    assert_eq!(collect(iter), Vec::from(expected));
                }
            }
            _ => self.take_quiet(step),
        }
    }

    /// The steps that change nothing a reader could see.
    fn take_quiet(&mut self, step: &Step) {
        match step {
            Step::Freeze => testing::freeze(self.store()),
            Step::FlushOldest => {
                testing::flush_oldest(self.store()).unwrap();
            }
            Step::Flush => {
                self.store().flush().unwrap();
                (self.process, self.synced) = (self.log.len(), self.log.len());
            }
            Step::Sync => {
                self.store().sync().unwrap();
                (self.process, self.synced) = (self.log.len(), self.log.len());
            }
            Step::Tick => {
                testing::tick(self.store()).unwrap();
                self.process = self.log.len();
            }
            Step::Recount => {
                testing::recount(self.store()).unwrap();
            }
            Step::Close | Step::Drop => {
                self.iters.clear();
                self.named = None;
                let store = self.store.take().unwrap();
                if matches!(step, Step::Close) {
                    store.close().unwrap();
                }
                drop(store);
                self.process = self.log.len();
                self.synced = self.log.len();
                self.open();
            }
            Step::Kill => self.crash(None),
            Step::PowerCut(seed) => self.crash(Some(*seed)),
            Step::LoseShard(which) => {
                // Any R - 1 shards may go; the store heals when it is reopened, since they fail only while it is open.
                if self.lost + 1 < self.store().topology().replication_factor {
                    let shards = self.store().stats().unwrap().shards;
                    let shard = &shards[usize::from(*which) % shards.len()];
                    if shard.health == annulus::Health::Online {
                        testing::fail_shard(self.store(), shard.id);
                        self.lost += 1;
                    }
                }
            }
            Step::DropKeyspace => {
                self.store().drop_keyspace("named").unwrap();
                self.content.remove(&self.instance);
                let dropped = self.instance;
                self.log.iter_mut().for_each(|commit| commit.retain(|(keyspace, ..)| *keyspace != dropped));
                self.instance += 1;
                self.named = Some(self.store().keyspace("named").unwrap());
                testing::purge(self.store()).unwrap();
            }
            Step::Change(wishes) => self.change(wishes),
            Step::ChangeSteps(count) => self.change_steps(*count),
            Step::CancelChange => self.cancel_change(),
            Step::DropRetired => self.drop_retired(),
            other => unreachable!("{other:?}"),
        }
    }
}

fn owned((key, value): (Bytes, Bytes)) -> (Vec<u8>, Vec<u8>) {
    (key.to_vec(), value.to_vec())
}

fn lent((key, value): (&[u8], &[u8])) -> (Vec<u8>, Vec<u8>) {
    (key.to_vec(), value.to_vec())
}

fn collect(items: impl Iterator<Item = annulus::Result<(Bytes, Bytes)>>) -> Vec<(Vec<u8>, Vec<u8>)> {
    items.map(|item| owned(item.unwrap())).collect()
}

/// Reads a range from both ends by turns, as the bits of `ends` say.
fn both_ends(mut range: Range, mut expected: Expected, ends: u8) {
    for turn in 0.. {
        let (found, wanted) = if ends >> (turn % 8) & 1 == 1 {
            (range.next_back().map(|f| owned(f.unwrap())), expected.pop_back())
        } else {
            (range.next_ref().map(|f| lent(f.unwrap())), expected.pop_front())
        };
        assert_eq!(found, wanted);
        if found.is_none() {
            return;
        }
    }
}

fn run(shape: &Shape, seed: u64, steps: &[Step]) {
    let mut world = World::new(shape, seed);
    for step in steps {
        world.take(step);
    }
    world.check_all();
    world.crash(Some(seed));
    world.settle_change();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(2500), max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_a_map(shape in shape(), seed in any::<u64>(), steps in prop::collection::vec(step(), 1..120)) {
        run(&shape, seed, &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(1500), max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_a_map_while_its_topology_changes(
        shape in shape(), seed in any::<u64>(), steps in prop::collection::vec(elastic_step(), 1..120)
    ) {
        run(&shape, seed, &steps);
    }
}

fn cases(default: u32) -> u32 {
    std::env::var("PROPTEST_CASES").map_or(default, |v| v.parse().unwrap())
}
