//! Checkpoints against a model: random operations with checkpoints between, deletions, prunes, kills and power cuts, on a simulated
//! disk and in-memory engines; every checkpoint that is left restores, onto a random topology, to what the model was at its
//! sequence. Then a disk that dies at every one of its operations within a checkpoint, a prune and a restore.
//!
//! `PROPTEST_CASES` sets the number of cases.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use annulus::testing::{self, Background, Disk, MemoryFactory, PowerCut, Seams, SimDisk};
use annulus::{
    BackupRepository, CheckpointId, CheckpointOptions, Durability, Keyspace, Options, Partitioner, Restore,
    Retention, Seq, Store, WriteBatch,
};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const LIVE: &str = "/live";
const BACKUP: &str = "/backup";

type Op = (u8, u8, Option<(u8, u8)>);
/// By keyspace and key.
type Content = BTreeMap<(String, Vec<u8>), (Vec<u8>, Seq)>;

#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<Op>),
    Freeze,
    FlushOldest,
    Flush,
    Reopen(bool),
    PowerCut(u64),
    DropKeyspace,
    Checkpoint(bool),
    Delete(u8),
    Prune(u8),
    /// The disk stops so many operations into a checkpoint or a prune; then the power is cut, or only the process ends.
    Interrupted {
        prune: bool,
        after: u8,
        cut: Option<u64>,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let op = (0..3u8, any::<u8>(), prop::option::weighted(0.7, (any::<u8>(), any::<u8>())));
    prop_oneof![
        10 => prop::collection::vec(op, 1..9).prop_map(Step::Commit),
        2 => Just(Step::Freeze),
        3 => Just(Step::FlushOldest),
        2 => Just(Step::Flush),
        1 => any::<bool>().prop_map(Step::Reopen),
        1 => any::<u64>().prop_map(Step::PowerCut),
        1 => Just(Step::DropKeyspace),
        6 => prop::bool::weighted(0.2).prop_map(Step::Checkpoint),
        1 => any::<u8>().prop_map(Step::Delete),
        1 => (1..4u8).prop_map(Step::Prune),
        2 => (prop::bool::weighted(0.3), any::<u8>(), prop::option::weighted(0.7, any::<u64>()))
            .prop_map(|(prune, after, cut)| Step::Interrupted { prune, after, cut }),
    ]
}

#[derive(Debug, Clone)]
struct Shape {
    shards: usize,
    replicas: usize,
    nodes: u32,
    partitioner: Partitioner,
}

fn shape() -> impl Strategy<Value = Shape> {
    let partitioner = prop_oneof![
        Just(Partitioner::Whole),
        Just(Partitioner::Prefix(1)),
        Just(Partitioner::Delimiter(b'/'))
    ];
    (1..=6usize, 1..=3usize, 4..8u32, partitioner).prop_map(|(shards, replicas, nodes, partitioner)| Shape {
        shards,
        replicas: replicas.min(shards),
        nodes: 1 << nodes,
        partitioner,
    })
}

fn options() -> Options {
    Options::new().memory_budget(8 << 20).journal_segment_bytes(64 << 10).durability(Durability::Sync)
}

fn key(n: u8) -> Vec<u8> {
    match n % 3 {
        0 => format!("{}/{}", n % 5, n).into_bytes(),
        1 => vec![0xff; usize::from(n % 7) + 1],
        _ => vec![n, 0, n / 3],
    }
}

fn value(n: u8, length: u8) -> Vec<u8> {
    let length = if length > 245 { 70_000 } else { usize::from(length) };
    (0..length).map(|i| n.wrapping_add(i as u8)).collect()
}

struct World {
    disk: SimDisk,
    factory: MemoryFactory,
    store: Option<Store>,
    model: Content,
    /// What each checkpoint must come back as.
    taken: BTreeMap<CheckpointId, Content>,
    /// One that is listed and that nobody was told of, since the process ended at the last moment: a power cut may take it, as long
    /// as nothing else was done in the repository.
    untold: Option<CheckpointId>,
    /// Those that a killed prune has deleted, which may come back in the same way.
    undeleted: BTreeMap<CheckpointId, Content>,
}

impl World {
    fn new(seed: u64) -> World {
        let (disk, factory) = (SimDisk::new(seed), MemoryFactory::new());
        let mut world = World {
            disk,
            factory,
            store: None,
            model: Content::new(),
            taken: BTreeMap::new(),
            untold: None,
            undeleted: BTreeMap::new(),
        };
        world.open();
        world
    }

    fn seams(&self) -> Seams {
        Seams {
            disk: Arc::new(self.disk.clone()),
            factory: Arc::new(self.factory.clone()),
            background: Background::Off,
        }
    }

    fn open(&mut self) {
        self.store = Some(
            testing::open(Path::new(LIVE), &options().shards(3).virtual_nodes(16), self.seams()).unwrap(),
        );
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn repo(&self) -> BackupRepository {
        testing::repository(Arc::new(self.disk.clone()), Path::new(BACKUP)).unwrap()
    }

    fn commit(&mut self, ops: &[Op]) {
        let names = ["default", "a", "b"];
        let store = self.store().clone();
        let mut batch = WriteBatch::new();
        let mut last = BTreeMap::new();
        for (keyspace, n, content) in ops {
            let name = names[usize::from(*keyspace)];
            let keyspace = store.keyspace(name).unwrap();
            let value = content.map(|(m, length)| value(m, length));
            match &value {
                Some(value) => batch.insert_in(&keyspace, key(*n), value),
                None => batch.remove_in(&keyspace, key(*n)),
            };
            last.insert((name.to_owned(), key(*n)), value);
        }
        let seq = store.commit(batch).unwrap();
        for (place, value) in last {
            match value {
                Some(value) => drop(self.model.insert(place, (value, seq))),
                None => drop(self.model.remove(&place)),
            }
        }
    }

    fn ended(&mut self, cut: Option<u64>) {
        self.disk = match cut {
            Some(seed) => {
                self.factory.crash(seed);
                self.disk.crash(PowerCut { seed })
            }
            None => self.disk.kill(),
        };
        self.store = None;
        self.open();
        if cut.is_some()
            && let Some(id) = self.untold.take()
            && !self.listed().contains(&id)
        {
            self.taken.remove(&id);
        }
        if cut.is_some() {
            let listed = self.listed();
            let back = std::mem::take(&mut self.undeleted).into_iter().filter(|(id, _)| listed.contains(id));
            self.taken.extend(back);
        }
    }

    /// What names there are is durable.
    fn told(&mut self) {
        self.untold = None;
        self.undeleted.clear();
    }

    fn listed(&self) -> Vec<CheckpointId> {
        self.repo().list().unwrap().iter().map(|checkpoint| checkpoint.id).collect()
    }

    fn checkpoint(&mut self, full: bool) {
        let id = self.store().checkpoint_with(&self.repo(), CheckpointOptions::new().full(full)).unwrap();
        assert!(self.taken.keys().all(|before| *before < id));
        self.taken.insert(id, self.model.clone());
        self.told();
    }

    /// Whether the disk stopped in the middle.
    fn interrupted(&mut self, prune: bool, after: u8, cut: Option<u64>) -> bool {
        let repo = self.repo();
        self.disk.stop_after(u64::from(after));
        let done = match prune {
            true => repo.prune(Retention::keep_last(1)).is_ok(),
            false => self.store().checkpoint(&repo).is_ok(),
        };
        let stopped = self.disk.stopped();
        self.ended(cut);
        let found = self.listed();
        if prune {
            // Those that were to go may have gone or not; the last is there.
            let last = self.taken.keys().next_back().copied();
            let there = |id: &CheckpointId| found.contains(id) || Some(*id) == last;
            let taken = std::mem::take(&mut self.taken).into_iter();
            let (left, gone): (_, BTreeMap<_, _>) = taken.partition(|(id, _)| there(id));
            self.taken = left;
            self.undeleted = if cut.is_none() { gone } else { BTreeMap::new() };
            assert!(!done || found.len() <= 1, "a prune that was acknowledged is done");
        } else if let Some(id) = found.iter().find(|id| !self.taken.contains_key(id)) {
            self.taken.insert(*id, self.model.clone());
            self.untold = cut.is_none().then_some(*id);
        } else {
            assert!(!done, "a checkpoint that was acknowledged is there");
        }
        stopped
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Commit(ops) => self.commit(ops),
            Step::Freeze => testing::freeze(self.store()),
            Step::FlushOldest => drop(testing::flush_oldest(self.store()).unwrap()),
            Step::Flush => self.store().flush().unwrap(),
            Step::Reopen(close) => {
                if *close {
                    self.store().close().unwrap();
                }
                self.store = None;
                self.open();
            }
            Step::PowerCut(seed) => self.ended(Some(*seed)),
            Step::DropKeyspace => {
                if self.store().drop_keyspace("a").is_ok() {
                    self.model.retain(|(keyspace, _), _| keyspace != "a");
                }
            }
            Step::Checkpoint(full) => self.checkpoint(*full),
            Step::Delete(n) => {
                let ids: Vec<CheckpointId> = self.taken.keys().copied().collect();
                if let Some(id) = ids.get(usize::from(*n) % ids.len().max(1)) {
                    self.repo().delete(*id).unwrap();
                    self.taken.remove(id);
                    self.told();
                }
            }
            Step::Prune(keep) => {
                self.repo().prune(Retention::keep_last(usize::from(*keep))).unwrap();
                self.told();
                let gone = self.taken.len().saturating_sub(usize::from(*keep));
                (0..gone).for_each(|_| drop(self.taken.pop_first()));
            }
            Step::Interrupted { prune, after, cut } => drop(self.interrupted(*prune, *after, *cut)),
        }
    }

    fn check(&self, shapes: &[Shape]) {
        let repo = self.repo();
        let found: Vec<CheckpointId> = repo.list().unwrap().iter().map(|c| c.id).collect();
        assert_eq!(found, self.taken.keys().copied().collect::<Vec<_>>());
        let verified = repo.verify_all().unwrap();
        assert!(verified.is_whole(), "{:?}", verified.damage);
        for (number, (id, expected)) in self.taken.iter().enumerate() {
            let shape = &shapes[number % shapes.len()];
            let restored = restore(&repo, *id, shape, self.seams(), &format!("/new-{id}"));
            assert_eq!(&content(&restored), expected, "checkpoint {id} as {shape:?}");
            restored.close().unwrap();
        }
        // The live store, by way of a stream.
        let mut stream = Vec::new();
        self.store().export(&mut stream).unwrap();
        let copy = testing::import(&options(), &stream[..], Path::new("/copy"), self.seams()).unwrap();
        assert_eq!(content(&copy), self.model);
    }
}

fn shaped(restore: Restore, shape: &Shape) -> Restore {
    restore
        .options(options())
        .shards(shape.shards)
        .replication_factor(shape.replicas)
        .virtual_nodes(shape.nodes)
        .partitioner(shape.partitioner)
}

fn restore(repo: &BackupRepository, id: CheckpointId, shape: &Shape, seams: Seams, dir: &str) -> Store {
    testing::restore(shaped(repo.restore(id).unwrap(), shape), Path::new(dir), seams).unwrap()
}

fn content(store: &Store) -> Content {
    let mut content = Content::new();
    for name in store.list_keyspaces().unwrap() {
        let keyspace: Keyspace = store.keyspace(&name).unwrap();
        for item in keyspace.iter() {
            let (key, value) = item.unwrap();
            let (_, seq) = keyspace.get_versioned(&key).unwrap().unwrap();
            content.insert((name.clone(), key.to_vec()), (value.to_vec(), seq));
        }
    }
    content
}

proptest! {
    #![proptest_config(ProptestConfig { cases: std::env::var("PROPTEST_CASES").ok().and_then(|c| c.parse().ok()).unwrap_or(96), ..ProptestConfig::default() })]
    #[test]
    fn every_checkpoint_is_the_model_at_its_sequence(
        seed: u64,
        before in prop::collection::vec((0..3u8, any::<u8>(), prop::option::weighted(0.9, (any::<u8>(), any::<u8>()))), 40..200),
        steps in prop::collection::vec(step(), 1..40),
        shapes in prop::collection::vec(shape(), 3),
    ) {
        let mut world = World::new(seed);
        before.chunks(8).for_each(|ops| world.commit(ops));
        steps.iter().for_each(|step| world.step(step));
        world.check(&shapes);
    }
}

fn filled() -> World {
    let mut world = World::new(7);
    for n in 0..120u8 {
        world.commit(&[(n % 3, n, Some((n, n)))]);
    }
    world.checkpoint(false);
    for n in 0..20u8 {
        world.commit(&[(n % 3, n * 5, (n % 4 > 0).then_some((n, 9)))]);
    }
    world
}

#[test]
fn a_restore_that_is_interrupted_anywhere_opens_as_nothing_or_whole() {
    let shape = Shape { shards: 3, replicas: 2, nodes: 16, partitioner: Partitioner::Whole };
    let (mut stopped, mut refused, mut whole) = (0, 0, 0);
    let new = Path::new("/new");
    'places: for after in 0.. {
        for cut in [None, Some(after), Some(after * 31 + 1)] {
            let mut world = filled();
            let (id, expected) = world.taken.first_key_value().map(|(id, c)| (*id, c.clone())).unwrap();
            let repo = world.repo();
            world.disk.stop_after(after);
            let restored = testing::restore(shaped(repo.restore(id).unwrap(), &shape), new, world.seams());
            if !world.disk.stopped() {
                assert_eq!(content(&restored.unwrap()), expected);
                break 'places;
            }
            stopped += 1;
            world.ended(cut);
            drop(restored);
            match testing::open(new, &options().existing_only(true), world.seams()) {
                Ok(store) => {
                    whole += 1;
                    assert_eq!(content(&store), expected, "stopped after {after}");
                    continue;
                }
                Err(error) => {
                    refused += 1;
                    let marked = world.disk.exists(&new.join("RESTORING")).unwrap();
                    assert_eq!(marked, error.kind() == annulus::ErrorKind::Refused, "{error}");
                    if marked {
                        let opened = testing::open(new, &options().shards(1), world.seams());
                        assert!(opened.is_err(), "it does not become a new store either");
                    }
                }
            }
            let store = restore(&world.repo(), id, &shape, world.seams(), "/new");
            assert_eq!(content(&store), expected, "again, after {after}");
        }
    }
    println!("{stopped} stops, {refused} refused, {whole} whole");
    assert!(stopped > 90 && refused > 60 && whole > 2);
}

/// The process ended when the checkpoint had its name and before anybody was told, and now others are to go for its sake: a power
/// cut may take it, or them, and never both.
#[test]
fn a_checkpoint_that_nobody_was_told_of_is_durable_before_others_go() {
    let shape = Shape { shards: 1, replicas: 1, nodes: 16, partitioner: Partitioner::Whole };
    let untold = |after| {
        let mut world = filled();
        let stopped = world.interrupted(false, after, None);
        (world, stopped)
    };
    let last =
        (0..).take_while(|after| untold(*after).1).filter(|after| untold(*after).0.untold.is_some()).last();
    let last = last.expect("the process may end between the name and the word");
    let (mut gone, mut stops) = (0, 0);
    for seed in 0..12 {
        let (mut world, _) = untold(last);
        world.ended(Some(seed));
        gone += usize::from(world.taken.len() == 1);
        for delete in [false, true] {
            for after in 0.. {
                let (mut world, _) = untold(last);
                world.disk.stop_after(after);
                let repo = world.repo();
                let _ = match delete {
                    true => repo.delete(CheckpointId(1)).is_ok(),
                    false => repo.prune(Retention::keep_last(1)).is_ok(),
                };
                let stopped = world.disk.stopped();
                let before = world.taken.clone();
                world.ended(Some(seed));
                let listed = world.listed();
                assert!(!listed.is_empty(), "nothing is left, {after} operations into it");
                world.taken = before.into_iter().filter(|(id, _)| listed.contains(id)).collect();
                world.check(std::slice::from_ref(&shape));
                if !stopped {
                    break;
                }
                stops += 1;
            }
        }
    }
    assert!(gone > 0 && stops > 50, "{gone} gone with the power, {stops} stops");
}

/// The process ended in a prune, and then the power fails: what had been deleted and not yet durably comes back, whole.
#[test]
fn what_a_killed_prune_has_deleted_is_gone_or_comes_back_whole() {
    let shape = Shape { shards: 1, replicas: 1, nodes: 16, partitioner: Partitioner::Whole };
    let mut back = 0;
    for after in 0.. {
        let mut stopped = false;
        for seed in 0..6 {
            let mut world = filled();
            (0..3).for_each(|_| world.checkpoint(false));
            stopped = world.interrupted(true, after, None);
            let left = world.taken.len();
            world.ended(Some(seed));
            back += world.taken.len() - left;
            world.check(std::slice::from_ref(&shape));
        }
        if !stopped {
            break;
        }
    }
    assert!(back > 0, "nothing came back");
}

#[test]
fn a_checkpoint_and_a_prune_that_are_interrupted_anywhere_leave_the_others_whole() {
    let shape = Shape { shards: 2, replicas: 1, nodes: 16, partitioner: Partitioner::Whole };
    for prune in [false, true] {
        let mut stops = 0;
        'places: for after in 0..=u8::MAX {
            for cut in std::iter::once(None).chain((0..6).map(|n| Some(u64::from(after) * 77 + n))) {
                let mut world = filled();
                if prune {
                    // Of its own chunks, so that there is something to remove with the first one.
                    world.checkpoint(true);
                }
                if !world.interrupted(prune, after, cut) {
                    break 'places;
                }
                stops += 1;
                world.check(std::slice::from_ref(&shape));
                // And the next one sweeps up.
                world.checkpoint(true);
                world.step(&Step::Prune(1));
                let left = objects(&world);
                world.checkpoint(true);
                world.step(&Step::Prune(1));
                assert_eq!(objects(&world), left, "nothing is left over");
            }
        }
        assert!(stops > 30, "{stops} places to stop at");
    }
}

fn objects(world: &World) -> Vec<String> {
    let list = |digit| {
        let dir = format!("{BACKUP}/objects/{digit:x}");
        world.disk.list(Path::new(&dir)).unwrap_or_default()
    };
    (0..16).flat_map(list).collect()
}
