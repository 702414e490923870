//! A store behaves like a map, whatever the order of its operations, and is there again after its process or the power
//! has gone: with all that was promised, and nothing but a beginning of what was written.
//!
//! The first two bytes of the input shape the store and seed the power cuts; the rest is a list of steps. The same is
//! tried with random steps in `tests/model.rs`; here the fuzzer looks for steps that reach new code. What is looked for is wrong
//! answers, in code that is safe: without the address sanitizer (`cargo +nightly fuzz run -s none store`) several times as
//! many inputs are tried.
#![no_main]

use annulus::testing::{self, Background, MemoryFactory, PowerCut, Seams, SimDisk};
use annulus::{Durability, Health, Keyspace, Options, Partitioner, Seq, Store, WriteBatch};
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

type Content = BTreeMap<Vec<u8>, (Vec<u8>, Seq)>;
/// What one batch did: the keyspace, the key, and the value unless it was removed.
type Commit = Vec<(usize, Vec<u8>, Option<Vec<u8>>)>;

/// The bytes of the input, and zeros after them.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().map_or((0, self.0), |(first, rest)| (*first, rest));
        self.0 = rest;
        first
    }

    fn key(&mut self) -> Vec<u8> {
        let n = self.byte();
        match n % 3 {
            0 => format!("{{{}}}/{n}", n % 5).into_bytes(),
            1 => vec![0xff; usize::from(n % 7) + 1],
            _ => vec![n, 0, n / 3],
        }
    }

    fn value(&mut self) -> Vec<u8> {
        let n = self.byte();
        vec![n; [usize::from(n) / 8, 700, 5000][usize::from(n) % 16 / 7]]
    }
}

struct World {
    disk: SimDisk,
    factory: MemoryFactory,
    options: Options,
    open: Option<(Store, Keyspace)>,
    log: Vec<Commit>,
    /// How many commits survive the death of the process, and how many a power cut.
    safe: [usize; 2],
    content: [Content; 2],
    spare: usize,
}

impl World {
    fn store(&self) -> &Store {
        &self.open.as_ref().unwrap().0
    }

    fn open(&mut self) {
        let (disk, factory) = (Arc::new(self.disk.clone()), Arc::new(self.factory.clone()));
        let seams = Seams { disk, factory, background: Background::Off };
        let store = testing::open(Path::new("/store"), &self.options, seams).unwrap();
        let named = store.keyspace("named").unwrap();
        let last = store.stats().unwrap().last_seq.0 as usize;
        self.open = Some((store, named));
        assert!((self.safe[0]..=self.log.len()).contains(&last), "{last} commits of {}", self.log.len());
        self.log.truncate(last);
        self.safe = [last, self.safe[1].min(last)];
        self.content = Default::default();
        for (commit, seq) in self.log.iter().zip(1..) {
            enter(&mut self.content, commit, Seq(seq));
        }
        self.compare();
    }

    fn compare(&self) {
        let (store, named) = self.open.as_ref().unwrap();
        for (keyspace, content) in [&**store, named].into_iter().zip(&self.content) {
            let mut expected = content.iter();
            for item in keyspace.iter() {
                let (key, value) = item.unwrap();
                assert_eq!(expected.next().map(|(k, (v, _))| (&k[..], &v[..])), Some((&key[..], &value[..])));
            }
            assert_eq!(expected.next(), None);
        }
    }

    fn commit(&mut self, input: &mut Input, operations: u8) {
        let (mut batch, mut commit) = (WriteBatch::new(), Commit::new());
        let named = &self.open.as_ref().unwrap().1;
        let durability =
            [Durability::Memory, Durability::Process, Durability::Sync][usize::from(input.byte()) % 3];
        for _ in 0..operations {
            let (kind, key) = (input.byte(), input.key());
            let value = (kind % 4 != 0).then(|| input.value());
            match (kind & 128, &value) {
                (0, Some(value)) => batch.insert(&key, value),
                (0, None) => batch.remove(&key),
                (_, Some(value)) => batch.insert_in(named, &key, value),
                (_, None) => batch.remove_in(named, &key),
            };
            commit.push((usize::from(kind >> 7), key, value));
        }
        let seq = self.store().commit_with(batch, durability).unwrap();
        enter(&mut self.content, &commit, seq);
        self.log.push(commit);
        assert_eq!(seq.0 as usize, self.log.len());
        self.safe[..durability as usize].fill(self.log.len());
    }

    fn read(&self, input: &mut Input) {
        let (a, b, ends) = (input.key(), input.key(), input.byte());
        let (store, named) = self.open.as_ref().unwrap();
        for (keyspace, content) in [&**store, named].into_iter().zip(&self.content) {
            let found = keyspace.get_versioned(&a).unwrap().map(|(value, seq)| (value.to_vec(), seq));
            assert_eq!(found.as_ref(), content.get(&a));
            let (lo, hi) = if a <= b { (&a, &b) } else { (&b, &a) };
            let (mut range, mut expected) =
                (keyspace.range(lo.clone()..hi.clone()), content.range(lo.clone()..hi.clone()));
            for turn in 0.. {
                let back = ends >> (turn % 8) & 1 == 1;
                let found = if back { range.next_back() } else { range.next() }.map(Result::unwrap);
                let wanted = if back { expected.next_back() } else { expected.next() };
                assert_eq!(
                    found.as_ref().map(|(k, v)| (&k[..], &v[..])),
                    wanted.map(|(k, (v, _))| (&k[..], &v[..]))
                );
                if found.is_none() {
                    break;
                }
            }
        }
    }

    fn reopen(&mut self, how: u8, seed: u64) {
        let (store, named) = self.open.take().unwrap();
        match how % 4 {
            0 => {
                self.disk = self.disk.crash(PowerCut { seed });
                self.factory.crash(seed);
                self.safe[0] = self.safe[1];
            }
            1 => self.disk = self.disk.kill(),
            2 => store.close().unwrap(),
            _ => {}
        }
        drop((store, named));
        if how % 4 > 1 {
            self.safe = [self.log.len(); 2];
        }
        self.open();
    }

    /// Takes a shard offline, if there are replicas of all that it holds.
    fn lose(&mut self, which: u8) {
        let shards = self.store().stats().unwrap().shards;
        let lost = shards.iter().filter(|shard| shard.health != Health::Online).count();
        if lost < self.spare {
            testing::fail_shard(self.store(), shards[usize::from(which) % shards.len()].id);
        }
    }
}

fn enter(content: &mut [Content; 2], commit: &Commit, seq: Seq) {
    for (keyspace, key, value) in commit {
        match value {
            Some(value) => content[*keyspace].insert(key.clone(), (value.clone(), seq)),
            None => content[*keyspace].remove(key),
        };
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let (shape, seed) = (input.byte(), u64::from(input.byte()));
    let (shards, replicas) = [(1, 1), (3, 1), (3, 2), (4, 3)][usize::from(shape) % 4];
    let partitioner =
        [Partitioner::Whole, Partitioner::Prefix(2), Partitioner::Delimiter(b'/'), Partitioner::HashTag];
    let options = Options::new()
        .shards(shards)
        .replication_factor(replicas)
        .partitioner(partitioner[usize::from(shape >> 2) % 4])
        .virtual_nodes(16)
        .memory_budget(8 << 20)
        .journal_segment_bytes(64 << 10);
    let (disk, factory) = (SimDisk::new(seed), MemoryFactory::new());
    let (log, safe, content, spare) = (Vec::new(), [0; 2], Default::default(), replicas - 1);
    let mut world = World { disk, factory, options, open: None, log, safe, content, spare };
    world.open();
    for _ in 0..64 {
        if input.0.is_empty() {
            break;
        }
        match input.byte() % 16 {
            0..=2 => world.commit(&mut input, 1),
            3..=5 => {
                let operations = 2 + input.byte() % 14;
                world.commit(&mut input, operations);
            }
            6 | 7 => world.read(&mut input),
            8 | 9 => testing::freeze(world.store()),
            10 => drop(testing::flush_oldest(world.store()).unwrap()),
            11 => {
                world.store().flush().unwrap();
                world.safe = [world.log.len(); 2];
            }
            12 => {
                testing::tick(world.store()).unwrap();
                world.safe[0] = world.log.len();
            }
            13 => world.lose(input.byte()),
            _ => {
                let how = input.byte();
                world.reopen(how, seed ^ u64::from(how >> 2));
            }
        }
    }
    world.compare();
    world.reopen(0, seed);
});
