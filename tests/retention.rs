//! What the journal is kept for, and how much of it: shards that are offline and archives that are behind, up to a bound that counts what is
//! kept for them alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use annulus::testing::{self, Background, EngineOperation, Fault, MemoryFactory, Operation, Seams, SimDisk};
use annulus::{BackupRepository, ErrorKind, Options, ShardId, Store};
use std::path::Path;
use std::sync::Arc;

const KIB: u64 = 1 << 10;

struct World {
    disk: SimDisk,
    factory: MemoryFactory,
    store: Store,
    written: u32,
}

impl World {
    fn new(retention: u64, replicas: usize) -> World {
        let (disk, factory) = (SimDisk::new(3), MemoryFactory::new());
        let store = open(&disk, &factory, retention, replicas);
        World { disk, factory, store, written: 0 }
    }

    fn reopen(&mut self, retention: u64, replicas: usize) {
        self.store.close().unwrap();
        self.store = open(&self.disk, &self.factory, retention, replicas);
    }

    /// So much more in the journal, a little over a KiB for a record, without a flush.
    fn write(&mut self, kib: u64) {
        for _ in 0..kib {
            self.store.insert(self.written.to_be_bytes(), [7; 980]).unwrap();
            self.written += 1;
        }
    }

    fn write_and_flush(&mut self, kib: u64) {
        self.write(kib);
        self.store.flush().unwrap();
    }

    fn repository(&self, dir: &str) -> BackupRepository {
        testing::repository(Arc::new(self.disk.clone()), Path::new(dir)).unwrap()
    }

    fn first(&self) -> u64 {
        self.store.stats().unwrap().journal.first_seq.0
    }
}

fn open(disk: &SimDisk, factory: &MemoryFactory, retention: u64, replicas: usize) -> Store {
    let options = Options::new()
        .shards(2)
        .replication_factor(replicas)
        .memory_budget(8 << 20)
        .journal_segment_bytes(64 * KIB)
        .journal_retention(retention);
    let seams = Seams {
        disk: Arc::new(disk.clone()),
        factory: Arc::new(factory.clone()),
        background: Background::Off,
    };
    testing::open(Path::new("/store"), &options, seams).unwrap()
}

/// As with memory for more than the bound: what a flush is about to free counts for nothing.
#[test]
fn what_is_not_flushed_yet_takes_nothing_from_an_archive_that_is_a_little_behind() {
    let mut world = World::new(1024 * KIB, 2);
    let repo = world.repository("/backup");
    world.store.archive(&repo).unwrap();
    for _ in 0..3 {
        world.write(1200);
        world.store.archive(&repo).unwrap();
        world.write_and_flush(150);
        world.store.archive(&repo).unwrap();
    }
}

/// As with segments that are an eighth of the bound or more: those that are kept to be used again are kept for nobody.
#[test]
fn spares_count_for_nothing() {
    let mut world = World::new(256 * KIB, 1);
    let repo = world.repository("/backup");
    world.store.archive(&repo).unwrap();
    world.write(1000);
    world.store.archive(&repo).unwrap();
    world.store.flush().unwrap();
    let figures = world.store.stats().unwrap().journal;
    assert!(figures.spares * 64 * KIB > 256 * KIB, "{figures:?}");
    world.write_and_flush(150);
    world.store.archive(&repo).unwrap();
    // Nor are writes refused for them.
    world.factory.fail(ShardId(1), EngineOperation::Open);
    testing::fail_shard(&world.store, ShardId(1));
    let ring = world.store.ring();
    let here = |n: &u32| ring.preference_list(n.to_be_bytes())[0] == ShardId(0);
    let put = |from: u32, kib: usize| {
        (from..).filter(here).take(kib).for_each(|n| drop(world.store.insert(n.to_be_bytes(), [1; 980])));
        world.store.flush()
    };
    put(1 << 20, 150).unwrap();
    // What the shard lacks does count.
    let mut filled = (2..12).map(|n| put(n << 20, 100));
    assert_eq!(filled.find_map(Result::err).unwrap().kind(), ErrorKind::Unavailable);
    world.factory.heal(ShardId(1));
    while testing::heal_step(&world.store).unwrap() {}
    world.store.flush().unwrap();
    assert!((0..world.written).all(|n| world.store.get(n.to_be_bytes()).unwrap().is_some()));
}

/// One who is too far behind to be waited for costs nobody else what he lacks.
#[test]
fn an_archive_that_is_given_up_takes_nothing_from_the_others_or_from_a_shard() {
    let mut world = World::new(512 * KIB, 2);
    let (far, near) = (world.repository("/far"), world.repository("/near"));
    world.write(10);
    world.store.archive(&far).unwrap();
    world.store.archive(&near).unwrap();
    for _ in 0..8 {
        world.write(150);
        world.store.archive(&near).unwrap();
        world.write_and_flush(100);
        world.store.archive(&near).unwrap();
    }
    assert_eq!(world.store.archive(&far).unwrap_err().kind(), ErrorKind::Gap);
    // The same for a shard that is away, beside one that has been forgotten.
    world.store.flush().unwrap();
    let since = world.written;
    world.factory.fail(ShardId(1), EngineOperation::Open);
    testing::fail_shard(&world.store, ShardId(1));
    world.write_and_flush(300);
    assert!(world.first() <= u64::from(since) + 1, "{since}");
    world.write_and_flush(600);
    assert!(world.first() > u64::from(since) + 1, "more is kept than was asked for");
}

/// As tools open a store: whatever it is opened with otherwise, nothing is given up that somebody lacks.
#[test]
fn a_retention_without_end_keeps_all_that_is_lacked() {
    let mut world = World::new(u64::MAX, 2);
    let repo = world.repository("/backup");
    world.write_and_flush(20);
    world.store.archive(&repo).unwrap();
    world.factory.fail(ShardId(1), EngineOperation::Open);
    testing::fail_shard(&world.store, ShardId(1));
    for _ in 0..4 {
        world.write_and_flush(1500);
    }
    world.factory.heal(ShardId(1));
    world.reopen(u64::MAX, 2);
    world.write_and_flush(100);
    assert!(world.first() <= 21);
    world.store.archive(&repo).unwrap();
    while testing::heal_step(&world.store).unwrap() {}
    assert!(world.store.health().unwrap().is_good());
    world.write_and_flush(100);
    assert!(world.first() > 1000, "it is kept for nobody any more");
    // The bound is that of each opening.
    world.write_and_flush(1000);
    world.reopen(64 * KIB, 2);
    world.write_and_flush(100);
    assert_eq!(world.store.archive(&repo).unwrap_err().kind(), ErrorKind::Gap);
}

/// No shard can be written to, and a few keys are written over and over, which takes no more memory: what waits in the journal to be flushed has a
/// bound all the same.
#[test]
fn the_journal_has_a_bound_where_nothing_can_be_flushed() {
    let (disk, factory) = (SimDisk::new(3), MemoryFactory::new());
    let seams =
        Seams { disk: Arc::new(disk.clone()), factory: Arc::new(factory), background: Background::On };
    let options =
        Options::new().shards(2).replication_factor(2).memory_budget(8 << 20).journal_segment_bytes(64 * KIB);
    let store = testing::open(Path::new("/store"), &options, seams).unwrap();
    let full = Fault::on(Operation::Write).at(|path| path.starts_with("/store/shards"));
    disk.inject(full.error(std::io::ErrorKind::StorageFull));
    let write = |n: u32| store.insert((n % 7).to_be_bytes(), [n as u8; 1000]);
    // Writes go on until a flush has been tried in vain, however quick they are.
    write(0).unwrap();
    store.flush().unwrap_err();
    let refused = (0..64_000).find_map(|n| write(n).err().map(|error| (n, error)));
    let (refused, error) = refused.expect("64 MB wait in the journal");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(refused > 3000, "{refused}");
    let bytes = store.stats().unwrap().journal.bytes;
    assert!(bytes < 32 << 20, "{bytes} in the journal, write {refused} was refused: {error}");
    assert!((0..7_u32).all(|n| store.get(n.to_be_bytes()).unwrap().is_some()));
    disk.heal();
    let begun = std::time::Instant::now();
    while let Err(error) = write(7) {
        assert!(begun.elapsed().as_secs() < 60, "{error}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    store.close().unwrap();
}
