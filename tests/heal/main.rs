//! Healing, step by step and by hand: shards that fail, disappear or are damaged, beside a model of what the store must
//! hold.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod accepting;
mod asking;
mod catching_up;
mod copies;
mod filling;
mod mending;
mod older;
mod purging;
mod rebuilding;
mod scrubbing;
mod stalled;

use annulus::testing::{
    self, Background, Disk, EngineOperation, Fault, MemoryFactory, Operation, Seams, SimDisk,
};
use annulus::{BackupRepository, CheckpointId, EventKind, Heal, Health, Options, ShardId, Store};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

struct World {
    disk: SimDisk,
    factory: MemoryFactory,
    options: Options,
    model: BTreeMap<Vec<u8>, Vec<u8>>,
    store: Store,
    written: u32,
}

fn options(shards: usize, replicas: usize) -> Options {
    Options::new()
        .shards(shards)
        .replication_factor(replicas)
        .virtual_nodes(64)
        .memory_budget(8 << 20)
        .journal_segment_bytes(64 << 10)
}

fn open(disk: &SimDisk, factory: &MemoryFactory, options: &Options) -> Store {
    let seams = Seams {
        disk: Arc::new(disk.clone()),
        factory: Arc::new(factory.clone()),
        background: Background::Off,
    };
    testing::open(Path::new("/store"), options, seams).unwrap()
}

impl World {
    fn new(options: Options) -> World {
        let (disk, factory) = (SimDisk::new(11), MemoryFactory::new());
        let store = open(&disk, &factory, &options);
        World { disk, factory, options, model: BTreeMap::new(), store, written: 0 }
    }

    fn write(&mut self, count: u32) {
        for _ in 0..count {
            self.written += 1;
            let n = self.written;
            let key = (n.wrapping_mul(2_654_435_761) % 4000).to_be_bytes().to_vec();
            if n % 7 == 3 {
                self.store.remove(&key).unwrap();
                self.model.remove(&key);
            } else {
                let value = format!("value {n}").into_bytes();
                self.store.insert(&key, &value).unwrap();
                self.model.insert(key, value);
            }
        }
    }

    /// Keys in order, each with so many bytes of its own.
    fn write_large(&mut self, keys: std::ops::Range<u32>, bytes: usize) {
        for n in keys {
            let (key, value) = (n.to_be_bytes().to_vec(), vec![n as u8; bytes]);
            self.store.insert(&key, &value).unwrap();
            self.model.insert(key, value);
        }
    }

    fn heal(&self) {
        for _ in 0..10_000 {
            if !testing::heal_step(&self.store).unwrap() {
                return;
            }
        }
        panic!("healing does not end: {:?}", self.store.health().unwrap());
    }

    fn health(&self, shard: u32) -> Health {
        let health = self.store.health().unwrap();
        health.shards.iter().find(|s| s.id == ShardId(shard)).unwrap().health.clone()
    }

    fn dir(&self, shard: u32) -> PathBuf {
        self.store.stats().unwrap().shards[shard as usize].path.clone()
    }

    /// Every record is where it should be, in the answers and on each of its owners.
    fn check(&self) {
        for (key, value) in &self.model {
            assert_eq!(self.store.get(key).unwrap().as_deref(), Some(&value[..]), "{key:?}");
        }
        let scanned: Vec<_> = self.store.iter().map(|r| r.unwrap()).collect();
        let scanned: Vec<(Vec<u8>, Vec<u8>)> =
            scanned.into_iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
        assert!(scanned.iter().cloned().eq(self.model.clone()), "{} {}", scanned.len(), self.model.len());
        assert!(
            !self.saw(|kind| matches!(kind, EventKind::Repaired { pages: 0 })),
            "of nothing nothing is told"
        );
    }

    fn check_copies(&self) {
        self.store.flush().unwrap();
        let ring = self.store.ring();
        let shards = self.store.health().unwrap().shards;
        assert!(shards.iter().all(|shard| shard.health == Health::Online));
        let held = |id| testing::held_by(&self.store, annulus::KeyspaceId(0), id).unwrap();
        let held: Vec<_> = shards.iter().map(|shard| (shard.id, held(shard.id))).collect();
        let mut newest = BTreeMap::new();
        for (key, seq) in held.iter().flat_map(|(_, held)| held) {
            let known = newest.entry(key).or_insert(*seq);
            *known = (*known).max(*seq);
        }
        for (id, held) in &held {
            let old: Vec<_> = held.iter().filter(|(key, seq)| *seq < newest[key]).collect();
            assert!(old.is_empty(), "shard {id} has old versions: {old:?}");
            let held: Vec<&Vec<u8>> = held.iter().map(|(key, _)| key).collect();
            let due: Vec<_> =
                self.model.keys().filter(|key| ring.preference_list(key).contains(id)).collect();
            let lacks: Vec<_> = due.iter().filter(|key| held.binary_search(key).is_err()).collect();
            let more: Vec<_> = held.iter().filter(|key| due.binary_search(key).is_err()).collect();
            assert!(lacks.is_empty() && more.is_empty(), "shard {id} lacks {lacks:?}, has {more:?}");
        }
    }

    fn reopen(&mut self) {
        let closed = open(&SimDisk::new(1), &MemoryFactory::new(), &self.options);
        std::mem::replace(&mut self.store, closed).close().unwrap();
        self.store = open(&self.disk, &self.factory, &self.options);
    }

    /// All that has been told since the store was opened.
    fn told(&self) -> Vec<(Option<ShardId>, EventKind)> {
        let mut events = self.store.events();
        std::iter::from_fn(|| events.try_next()).map(|event| (event.shard, event.kind)).collect()
    }

    fn saw(&self, is: impl Fn(&EventKind) -> bool) -> bool {
        self.told().iter().any(|(_, kind)| is(kind))
    }

    fn saw_rebuilding(&self) -> bool {
        self.saw(|kind| matches!(kind, EventKind::Rebuilding { .. }))
    }

    /// So many steps of healing, of which none finds that there is nothing to do.
    fn steps(&self, count: u32) {
        (0..count).for_each(|_| assert!(testing::heal_step(&self.store).unwrap()));
    }

    /// Until all shards serve, which does not say that what waits in memory has been flushed to them.
    fn heal_until_good(&self) {
        while !self.store.health().unwrap().is_good() {
            self.steps(1);
        }
    }

    /// Asks for a shard to be filled anew, and goes on until that has begun.
    fn rebuild(&self, shard: ShardId) {
        self.store.rebuild(shard).unwrap();
        while self.health(shard.0) != Health::Rebuilding {
            self.steps(1);
        }
    }

    /// Whether a shard's seal says that it is being changed.
    fn is_applying(&self, shard: u32) -> bool {
        let seal = self.disk.read(&self.dir(shard).join("SEAL")).unwrap().unwrap();
        String::from_utf8_lossy(&seal).contains("\"applying\":true")
    }

    /// From here on the disks of these shards are full.
    fn fill_disks(&self, shards: &[u32]) {
        for dir in shards.iter().map(|shard| self.dir(*shard)) {
            let full = Fault::on(Operation::Write).at(move |path| path.starts_with(&dir));
            self.disk.inject(full.error(std::io::ErrorKind::StorageFull));
        }
    }
}

impl World {
    fn heal_a_while(&self) {
        for _ in 0..20 {
            testing::heal_step(&self.store).unwrap();
        }
    }
}

fn scrub(store: &Store) -> annulus::ScrubReport {
    let scrub = store.scrub().unwrap();
    while scrub.progress().running {
        testing::scrub_step(store).unwrap();
        testing::heal_step(store).unwrap();
    }
    scrub.progress().report
}

fn internal(key: &[u8]) -> Vec<u8> {
    [&0u32.to_be_bytes()[..], key].concat()
}

impl World {
    /// The process ends, and nothing that was not handed to the disk outlives it.
    fn kill(&mut self) {
        let blank = open(&SimDisk::new(1), &MemoryFactory::new(), &self.options);
        drop(std::mem::replace(&mut self.store, blank));
        self.store = open(&self.disk, &self.factory, &self.options);
    }
}

/// One shard has a flush that the other has not, and the process was killed: what lies between is in the memtables, not in
/// both.
fn uneven(world: &mut World) -> (Vec<u8>, Vec<u8>) {
    world.write(2000);
    world.store.flush().unwrap();
    let ring = world.store.ring();
    let on_both = |key: &&Vec<u8>| {
        let owners = ring.preference_list(key);
        owners.contains(&ShardId(0)) && owners.contains(&ShardId(1))
    };
    let keys: Vec<Vec<u8>> = world.model.keys().filter(on_both).take(2).cloned().collect();
    let (removed, replaced) = (keys[0].clone(), keys[1].clone());
    world.factory.fail(ShardId(1), EngineOperation::Apply);
    world.store.remove(&removed).unwrap();
    world.model.remove(&removed);
    world.store.insert(&replaced, b"newer").unwrap();
    world.model.insert(replaced.clone(), b"newer".to_vec());
    world.store.flush().unwrap();
    world.factory.heal(ShardId(1));
    world.kill();
    (removed, replaced)
}

impl World {
    /// Writes what one shard is offline for, and reopens the store: the others have it, and that shard is yet to be given it.
    fn leave_behind(&mut self, shard: u32) {
        self.write(1200);
        self.store.flush().unwrap();
        self.factory.fail(ShardId(shard), EngineOperation::Apply);
        self.write(900);
        self.store.flush().unwrap();
        self.factory.heal(ShardId(shard));
        self.reopen();
    }
}

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

fn content(store: &Store) -> Content {
    let records = store.iter().map(|r| r.unwrap());
    records.map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

impl World {
    /// Where this store's checkpoints lie.
    fn repository(&self) -> BackupRepository {
        testing::repository(Arc::new(self.disk.clone()), Path::new("/backup")).unwrap()
    }

    /// What a checkpoint comes back as.
    fn restored(&self, id: CheckpointId) -> Content {
        let restore = self.repository().restore(id).unwrap().options(options(2, 1));
        let (disk, factory) = (SimDisk::new(2), MemoryFactory::new());
        let seams = Seams { disk: Arc::new(disk), factory: Arc::new(factory), background: Background::Off };
        content(&testing::restore(restore, Path::new("/restored"), seams).unwrap())
    }

    /// What a checkpoint that is taken now comes back as.
    fn checkpointed(&self) -> Content {
        self.restored(self.store.checkpoint(&self.repository()).unwrap())
    }

    /// A shard loses one record of three, goes back to an older version of another, and back to the third, which has been
    /// removed, without a word.
    fn make_wrong(&mut self, shard: u32) {
        let keys = ["lost", "old", "removed"].map(|key| key.as_bytes().to_vec());
        for value in ["older", "newer"] {
            for key in &keys {
                self.store.insert(key, value).unwrap();
                self.model.insert(key.clone(), value.as_bytes().to_vec());
            }
            self.store.flush().unwrap();
        }
        self.store.remove(&keys[2]).unwrap();
        self.model.remove(&keys[2]);
        self.store.flush().unwrap();
        self.factory.forge(ShardId(shard), &internal(&keys[0]), &[]);
        assert!(keys[1..].iter().all(|key| self.factory.turn_back(ShardId(shard), &internal(key))));
    }
}

/// A checkpoint has read a shard that was wrong without a word; it is right in the next one after `put_right`.
fn right_in_the_next_checkpoint(put_right: impl Fn(&World, ShardId)) {
    let mut wrong = 0;
    for shard in 0..2 {
        let mut world = World::new(options(2, 2));
        world.write(300);
        world.make_wrong(shard);
        wrong += u32::from(world.checkpointed() != world.model);
        put_right(&world, ShardId(shard));
        world.check();
        assert_eq!(world.checkpointed(), world.model, "shard {shard} was wrong");
        // From there on it is built upon as before, also after a scrub that finds nothing.
        if world.store.health().unwrap().is_good() {
            assert_eq!(scrub(&world.store).records_reconciled, 0);
        }
        let id = world.store.checkpoint(&world.repository()).unwrap();
        assert_eq!(world.repository().get(id).unwrap().bytes_written, 0);
        assert_eq!(world.restored(id), world.model);
    }
    assert!(wrong > 0, "no checkpoint has read the shard that was wrong");
}
