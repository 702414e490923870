//! Healing, step by step and by hand: shards that fail, disappear or are damaged, beside a model of what the store must
//! hold.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use annulus::testing::{self, Disk, EngineOperation, Fault, MemoryFactory, Operation, Seams, SimDisk};
use annulus::{EventKind, Heal, Health, Options, ShardId, Store};
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
    let seams = Seams { disk: Arc::new(disk.clone()), factory: Arc::new(factory.clone()), background: false };
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

    fn saw(&self, is: impl Fn(&EventKind) -> bool) -> bool {
        let mut events = self.store.events();
        std::iter::from_fn(|| events.try_next()).any(|event| is(&event.kind))
    }
}

#[test]
fn a_shard_that_failed_in_a_flush_catches_up_from_the_journal() {
    let mut world = World::new(options(3, 2));
    world.write(500);
    world.store.flush().unwrap();
    world.factory.fail(ShardId(1), EngineOperation::Apply);
    world.write(500);
    world.store.flush().unwrap();
    assert!(matches!(world.health(1), Health::Offline(_)));
    world.check();
    world.write(500);
    world.store.flush().unwrap();
    world.write(100);
    world.factory.heal(ShardId(1));
    world.heal();
    assert_eq!(world.health(1), Health::Online);
    assert!(world.saw(|e| matches!(e, EventKind::CatchingUp { .. })));
    assert!(!world.saw(|e| matches!(e, EventKind::Rebuilding { .. })));
    world.check();
    world.check_copies();
    world.reopen();
    world.check();
    world.check_copies();
}

#[test]
fn a_shard_that_the_journal_has_outrun_is_rebuilt_from_its_replicas() {
    let mut world = World::new(options(4, 2).journal_retention(0));
    world.write(500);
    world.store.flush().unwrap();
    world.factory.fail(ShardId(2), EngineOperation::Sync);
    for _ in 0..40 {
        world.write(200);
        world.store.flush().unwrap();
    }
    world.factory.heal(ShardId(2));
    world.heal();
    assert!(world.saw(|e| matches!(e, EventKind::Rebuilding { .. })));
    world.check();
    world.check_copies();
    world.reopen();
    world.check_copies();
}

#[test]
fn a_directory_that_is_gone_is_made_anew_and_filled() {
    let mut world = World::new(options(3, 2));
    world.write(1500);
    world.store.flush().unwrap();
    let dir = world.dir(0);
    world.factory.erase(&dir);
    Disk::remove_dir_all(&world.disk, &dir).unwrap();
    world.write(10);
    world.check();
    world.store.flush().unwrap();
    assert!(matches!(world.health(0), Health::Offline(_)), "{:?}", world.health(0));
    world.check();
    world.heal();
    world.check();
    world.check_copies();
    world.reopen();
    world.check_copies();
}

#[test]
fn nothing_heals_by_itself_where_the_user_wants_to_decide() {
    let mut world = World::new(options(3, 2).heal(Heal::Manual));
    world.write(800);
    world.store.flush().unwrap();
    let dir = world.dir(0);
    world.factory.erase(&dir);
    Disk::remove_dir_all(&world.disk, &dir).unwrap();
    world.write(10);
    world.store.flush().unwrap();
    world.heal();
    assert!(matches!(world.health(0), Health::Offline(_)));
    world.store.repair(ShardId(0)).unwrap();
    world.heal();
    world.check();
    world.check_copies();
}

#[test]
fn a_rebuild_goes_on_after_a_crash_and_while_the_store_is_written_to() {
    for steps in 0..12 {
        let mut world = World::new(options(4, 2));
        world.write(3000);
        world.store.flush().unwrap();
        world.store.rebuild(ShardId(3)).unwrap();
        for _ in 0..steps {
            testing::heal_step(&world.store).unwrap();
            world.write(50);
        }
        if steps % 2 == 0 {
            world.store.flush().unwrap();
        }
        world.check();
        let disk = world.disk.crash(testing::PowerCut { seed: steps });
        world.factory.crash(steps);
        let durable = world.store.stats().unwrap().durable_seq;
        let _ = durable;
        let blank = open(&SimDisk::new(1), &MemoryFactory::new(), &world.options);
        drop(std::mem::replace(&mut world.store, blank));
        world.disk = disk;
        world.store = open(&world.disk, &world.factory, &world.options);
        // What was not durable is gone, and the model follows.
        let mut kept = BTreeMap::new();
        for record in world.store.iter() {
            let (key, value) = record.unwrap();
            kept.insert(key.to_vec(), value.to_vec());
        }
        world.model = kept;
        world.heal();
        world.check();
        world.check_copies();
    }
}

#[test]
fn a_shard_is_rewritten_beside_itself() {
    let mut world = World::new(options(3, 2));
    world.write(2000);
    world.store.flush().unwrap();
    world.store.compact(ShardId(1)).unwrap();
    for step in 0.. {
        if world.saw(|e| matches!(e, EventKind::Compacted { .. })) {
            break;
        }
        assert!(step < 1000 && world.store.health().unwrap().is_good());
        testing::heal_step(&world.store).unwrap();
        world.write(20);
        world.store.flush().unwrap();
        world.check();
    }
    world.check_copies();
    world.reopen();
    world.check_copies();
    // And where the process ends before it is done, the shard is as it was.
    world.store.compact(ShardId(1)).unwrap();
    testing::heal_step(&world.store).unwrap();
    world.write(100);
    world.reopen();
    world.check();
    world.check_copies();
}

#[test]
fn where_no_replica_is_left_nothing_is_touched_and_the_rest_goes_on() {
    let mut world = World::new(options(3, 1));
    world.write(900);
    world.store.flush().unwrap();
    world.factory.fail(ShardId(1), EngineOperation::Apply);
    world.write(300);
    world.store.flush().unwrap();
    let health = world.store.health().unwrap();
    assert!(health.unavailable > 0);
    world.heal_a_while();
    assert!(matches!(world.health(1), Health::Rebuilding | Health::Offline(_)));
    // The others are written to and read.
    let ring = world.store.ring();
    let mut served = 0;
    for n in 0..200u32 {
        let key = n.to_be_bytes();
        let lost = ring.preference_list(key).contains(&ShardId(1));
        match world.store.insert(key, b"after") {
            Ok(_) => {
                assert!(!lost);
                served += 1;
                world.model.insert(key.to_vec(), b"after".to_vec());
            }
            Err(error) => assert!(lost && error.kind() == annulus::ErrorKind::Unavailable, "{error}"),
        }
    }
    assert!(served > 50);
    world.store.flush().unwrap();
    world.factory.heal(ShardId(1));
    world.heal();
    world.check();
    world.check_copies();
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

#[test]
fn a_scrub_finds_what_nobody_has_asked_for_and_puts_it_right() {
    let mut world = World::new(options(4, 2));
    world.write(3000);
    world.store.flush().unwrap();
    let clean = scrub(&world.store);
    assert_eq!((clean.pages_repaired, clean.records_reconciled), (0, 0));
    assert_eq!((clean.shards_verified, clean.records_compared), (4, world.model.len() as u64));
    // A page that cannot be read.
    let internal = |key: &[u8]| [&0u32.to_be_bytes()[..], key].concat();
    let ring = world.store.ring();
    let key = world.model.keys().nth(100).unwrap().clone();
    let owner = ring.preference_list(&key)[1];
    world.factory.corrupt(owner, &internal(&key));
    let report = scrub(&world.store);
    assert_eq!((report.pages_repaired, report.pages_left, report.records_reconciled), (1, 0, 0));
    assert!(world.saw(|e| matches!(e, EventKind::Repaired { pages: 1 })));
    world.check();
    world.check_copies();
    // A shard that has lost records, and one that has gone back in time, both without a word.
    let of_one = world.model.keys().filter(|key| ring.preference_list(key).contains(&ShardId(2)));
    let keys: Vec<Vec<u8>> = of_one.take(20).cloned().collect();
    for key in &keys {
        world.factory.forge(ShardId(2), &internal(key), &[]);
    }
    let report = scrub(&world.store);
    assert_eq!((report.records_reconciled, report.records_unsettled), (20, 0), "{report:?}");
    world.check();
    world.check_copies();
    assert_eq!(scrub(&world.store).records_reconciled, 0);
}

#[test]
fn a_read_that_meets_damage_is_answered_by_a_replica_and_the_damage_is_repaired() {
    let mut world = World::new(options(3, 2));
    world.write(2000);
    world.store.flush().unwrap();
    let internal = |key: &[u8]| [&0u32.to_be_bytes()[..], key].concat();
    let ring = world.store.ring();
    let keys: Vec<Vec<u8>> = world.model.keys().step_by(97).cloned().collect();
    for key in &keys {
        world.factory.corrupt(ring.preference_list(key)[0], &internal(key));
    }
    world.check();
    assert!(matches!(world.health(0), Health::Degraded(_)));
    world.heal();
    world.check_copies();
    // A flush that meets damage is no loss either.
    for key in &keys {
        world.factory.corrupt(ring.preference_list(key)[1], &internal(key));
        world.store.insert(key, b"over the damage").unwrap();
        world.model.insert(key.clone(), b"over the damage".to_vec());
    }
    world.store.flush().unwrap();
    world.check();
    world.heal();
    world.check();
    world.check_copies();
}

#[test]
fn a_panic_in_an_engine_is_an_error_of_one_shard() {
    for operation in [
        EngineOperation::Get,
        EngineOperation::Cursor,
        EngineOperation::Apply,
        EngineOperation::Sync,
        EngineOperation::Versions,
        EngineOperation::Open,
    ] {
        let mut world = World::new(options(3, 2));
        world.write(1000);
        world.store.flush().unwrap();
        world.factory.panic_times(ShardId(1), operation, 1);
        if operation == EngineOperation::Open || operation == EngineOperation::Versions {
            world.store.rebuild(ShardId(1)).unwrap();
        }
        world.check();
        world.write(200);
        world.store.flush().unwrap();
        world.check();
        world.heal();
        world.check();
        world.check_copies();
    }
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

#[test]
fn a_scrub_after_a_crash_does_not_take_what_is_yet_to_be_flushed_for_a_difference() {
    let mut world = World::new(options(2, 2));
    uneven(&mut world);
    let report = scrub(&world.store);
    assert_eq!(report.records_reconciled, 0, "{report:?}");
    world.check();
    world.check_copies();
}

#[test]
fn damage_is_not_mended_from_a_replica_that_is_behind() {
    let mut world = World::new(options(2, 2));
    let (removed, replaced) = uneven(&mut world);
    world.factory.corrupt(ShardId(0), &internal(&replaced));
    world.factory.corrupt(ShardId(0), &internal(&removed));
    world.store.repair(ShardId(0)).unwrap();
    world.heal();
    assert!(world.saw(|e| matches!(e, EventKind::Repaired { pages: 2 })));
    world.check();
    world.check_copies();
    world.reopen();
    world.check();
    world.check_copies();
}

#[test]
fn most_replicas_are_not_right_when_they_have_lost_something() {
    let mut world = World::new(options(3, 3));
    world.write(1000);
    world.store.flush().unwrap();
    let keys: Vec<Vec<u8>> = world.model.keys().take(5).cloned().collect();
    for key in &keys {
        world.factory.forge(ShardId(0), &internal(key), &[]);
        world.factory.forge(ShardId(2), &internal(key), &[]);
    }
    let report = scrub(&world.store);
    assert_eq!((report.records_reconciled, report.records_unsettled), (5, 0), "{report:?}");
    world.check();
    world.check_copies();
}

#[test]
fn a_removal_that_one_replica_still_knows_of_counts() {
    let mut world = World::new(options(2, 2));
    world.write(500);
    world.store.flush().unwrap();
    let snapshot = world.store.iter();
    let keys: Vec<Vec<u8>> = world.model.keys().take(5).cloned().collect();
    for key in &keys {
        world.store.remove(key).unwrap();
        world.model.remove(key);
    }
    world.store.flush().unwrap();
    for key in &keys {
        assert!(world.factory.turn_back(ShardId(1), &internal(key)));
    }
    let report = scrub(&world.store);
    assert_eq!((report.records_reconciled, report.records_unsettled), (5, 0), "{report:?}");
    world.check();
    assert_eq!(snapshot.filter(|r| r.is_ok()).count(), world.model.len() + keys.len());
    world.check_copies();
}

#[test]
fn a_scan_mends_nothing_where_the_user_wants_to_decide() {
    for heal in [Heal::Manual, Heal::Automatic] {
        let mut world = World::new(options(2, 2).heal(heal));
        world.write(500);
        world.store.flush().unwrap();
        let keys: Vec<Vec<u8>> = world.model.keys().take(2).cloned().collect();
        world.factory.corrupt(ShardId(0), &internal(&keys[0]));
        world.factory.corrupt(ShardId(1), &internal(&keys[1]));
        let scanned = world.store.iter().collect::<Result<Vec<_>, _>>();
        assert_eq!(scanned.is_ok(), heal == Heal::Automatic);
    }
}

#[test]
fn a_directory_that_is_gone_is_missed_while_nothing_is_written() {
    let mut world = World::new(options(3, 2));
    world.write(800);
    world.store.flush().unwrap();
    let dir = world.dir(0);
    world.factory.erase(&dir);
    Disk::remove_dir_all(&world.disk, &dir).unwrap();
    world.heal();
    assert!(world.store.health().unwrap().is_good());
    assert!(world.saw(|e| matches!(e, EventKind::Rebuilding { .. })));
    world.check();
    world.check_copies();
}

#[test]
fn a_degraded_shard_that_cannot_be_looked_through_is_taken_offline_and_healed() {
    let mut world = World::new(options(3, 2));
    world.write(800);
    world.store.flush().unwrap();
    let internal = |key: &[u8]| [&0u32.to_be_bytes()[..], key].concat();
    let ring = world.store.ring();
    let key = world.model.keys().find(|key| ring.preference_list(key)[0] == ShardId(0)).unwrap().clone();
    world.factory.corrupt(ShardId(0), &internal(&key));
    world.check();
    assert!(matches!(world.health(0), Health::Degraded(_)));
    let dir = world.dir(0);
    world.factory.erase(&dir);
    Disk::remove_dir_all(&world.disk, &dir).unwrap();
    world.heal();
    assert!(world.store.health().unwrap().is_good());
    world.check();
    world.check_copies();
}

/// A shard is filled from one that has lost records without a word: two lack them then and one has them, and it is right.
#[test]
fn what_was_lost_and_copied_is_no_majority() {
    let mut world = World::new(options(4, 3));
    world.write(2000);
    world.store.flush().unwrap();
    let internal = |key: &[u8]| [&0u32.to_be_bytes()[..], key].concat();
    for key in world.model.keys().step_by(3) {
        world.factory.forge(ShardId(0), &internal(key), &[]);
    }
    world.store.rebuild(ShardId(1)).unwrap();
    world.heal();
    let report = scrub(&world.store);
    assert!(report.records_reconciled > 200, "{report:?}");
    world.check();
    world.check_copies();
    assert_eq!(scrub(&world.store).records_reconciled, 0);
}

/// Of a directory that has lost both its small files nobody can say whose it is: the loss of one is made good before.
#[test]
fn a_scrub_writes_small_files_anew_that_are_lost() {
    for names in [["IDENTITY", "SEAL"], ["SEAL", "IDENTITY"]] {
        let mut world = World::new(options(3, 2));
        world.write(800);
        world.store.flush().unwrap();
        for name in names {
            world.disk.damage(&world.dir(1).join(name), |bytes| bytes.fill(7)).unwrap();
            scrub(&world.store);
        }
        world.reopen();
        world.heal();
        assert!(world.store.health().unwrap().is_good());
        assert!(!world.saw(|e| matches!(e, EventKind::Rebuilding { .. })));
        world.check();
        world.check_copies();
    }
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

/// What one shard has removed, and another will with the next flush, would pass for lost, and be brought back for good.
#[test]
fn a_scrub_waits_until_all_shards_are_level() {
    let mut world = World::new(options(3, 2));
    world.leave_behind(1);
    let report = scrub(&world.store);
    assert_eq!((report.records_reconciled, report.records_unsettled), (0, 0), "{report:?}");
    world.check();
    world.check_copies();
}

/// What is copied from a shard that is behind would be lacking for good.
#[test]
fn a_page_is_not_mended_from_a_shard_that_is_behind() {
    let mut world = World::new(options(3, 2));
    world.leave_behind(1);
    world.factory.corrupt_range(ShardId(0), testing::memtable::range_from(&[0, 0, 0, 0, 0, 0, 4]));
    world.store.repair(ShardId(0)).unwrap();
    world.heal();
    world.check();
    world.check_copies();
}

#[test]
fn a_shard_that_fails_again_and_again_while_it_is_mended_is_begun_anew() {
    let mut world = World::new(options(3, 2));
    world.write(1200);
    world.store.flush().unwrap();
    world.factory.fail(ShardId(1), EngineOperation::Replace);
    let key =
        world.model.keys().find(|key| world.store.ring().preference_list(key)[0] == ShardId(1)).unwrap();
    world.factory.corrupt(ShardId(1), &[&0u32.to_be_bytes()[..], key].concat());
    world.check();
    world.heal();
    assert!(world.saw(|e| matches!(e, EventKind::Rebuilding { .. })));
    world.check();
    world.check_copies();
}

#[test]
fn a_scrub_rests_when_it_is_told_to_and_goes_on_after_an_opening() {
    let mut world = World::new(options(4, 2));
    world.write(3000);
    world.store.flush().unwrap();
    let first = world.store.scrub().unwrap();
    testing::scrub_step(&world.store).unwrap();
    testing::scrub_step(&world.store).unwrap();
    let before = first.progress();
    assert!(before.running && before.report.shards_verified >= 1, "{before:?}");
    first.pause().unwrap();
    assert!(!testing::scrub_step(&world.store).unwrap(), "it rests");
    assert_eq!(first.progress().report, before.report);
    world.reopen();
    let again = world.store.scrub().unwrap();
    assert_eq!(
        again.progress().report,
        before.report,
        "it goes on where it was, and does not rest any longer"
    );
    let report = scrub(&world.store);
    assert_eq!((report.shards_verified, report.records_compared), (4, world.model.len() as u64));
    assert_eq!(report.started, before.report.started);
    let cancelled = world.store.scrub().unwrap();
    cancelled.cancel().unwrap();
    assert_eq!(cancelled.wait().unwrap(), None);
    assert_eq!(cancelled.pause().unwrap_err().kind(), annulus::ErrorKind::NotFound);
}

/// A snapshot is open while a shard is offline, and while it catches up: it sees what it saw, on that shard as well.
#[test]
fn a_shard_that_catches_up_keeps_what_snapshots_see() {
    let mut world = World::new(options(3, 2));
    world.write(600);
    world.store.flush().unwrap();
    world.factory.fail(ShardId(1), EngineOperation::Apply);
    let due = world.model.clone();
    let snapshot = world.store.iter();
    for _ in 0..2 {
        for key in due.keys().cloned().collect::<Vec<_>>() {
            world.store.insert(&key, b"later").unwrap();
            world.model.insert(key, b"later".to_vec());
        }
        world.store.flush().unwrap();
    }
    world.factory.heal(ShardId(1));
    world.heal();
    assert!(!world.saw(|e| matches!(e, EventKind::Rebuilding { .. })));
    // It alone answers for what it shares with another.
    testing::fail_shard(&world.store, ShardId(0));
    let seen = snapshot.map(|item| item.unwrap()).map(|(k, v)| (k.to_vec(), v.to_vec()));
    assert!(seen.eq(due));
    world.check();
}

/// What a shard lacks that is being brought up to date stays in the journal, whatever is flushed meanwhile.
#[test]
fn the_journal_keeps_what_a_shard_that_catches_up_lacks() {
    let mut world = World::new(options(3, 2));
    world.write(600);
    world.store.flush().unwrap();
    world.factory.fail(ShardId(1), EngineOperation::Apply);
    world.write(4000);
    world.store.flush().unwrap();
    world.factory.heal(ShardId(1));
    while !world.saw(|e| matches!(e, EventKind::CatchingUp { .. })) {
        testing::heal_step(&world.store).unwrap();
    }
    assert_eq!(world.health(1), Health::Rebuilding);
    world.write(4000);
    world.store.flush().unwrap();
    world.heal();
    assert!(!world.saw(|e| matches!(e, EventKind::Rebuilding { .. })));
    world.check();
    world.check_copies();
}

#[test]
fn a_scrub_gives_the_newest_version_to_all() {
    let mut world = World::new(options(3, 2));
    world.write(2000);
    world.store.flush().unwrap();
    let ring = world.store.ring();
    let internal = |key: &[u8]| [&0u32.to_be_bytes()[..], key].concat();
    let keys: Vec<Vec<u8>> = world.model.keys().step_by(50).cloned().collect();
    for key in &keys {
        let owners = ring.preference_list(key);
        world.factory.forge(
            owners[key[3] as usize % 2],
            &internal(key),
            &[(annulus::Seq(1), Some(b"older"))],
        );
    }
    let report = scrub(&world.store);
    assert_eq!((report.records_reconciled, report.records_unsettled), (keys.len() as u64, 0), "{report:?}");
    world.check();
    world.check_copies();
}

#[test]
fn what_a_scrub_has_counted_is_not_forgotten_when_it_is_cancelled() {
    let mut world = World::new(options(3, 2));
    world.write(800);
    world.store.flush().unwrap();
    let key = world.model.keys().next().unwrap().clone();
    let owner = world.store.ring().preference_list(&key)[0];
    world.factory.forge(owner, &[&0u32.to_be_bytes()[..], &key].concat(), &[]);
    let cancelled = world.store.scrub().unwrap();
    while cancelled.progress().stage != "comparing replicas" {
        testing::scrub_step(&world.store).unwrap();
    }
    // It finds the difference, and counts.
    testing::scrub_step(&world.store).unwrap();
    cancelled.cancel().unwrap();
    let report = scrub(&world.store);
    assert_eq!((report.records_reconciled, report.records_unsettled), (1, 0), "{report:?}");
    world.check();
    world.check_copies();
}

/// A record that is read often is kept in front of the shards: what a scrub puts right is put right there as well.
#[test]
fn a_scrub_is_seen_by_those_who_read_the_record_before() {
    let mut world = World::new(options(3, 2));
    world.write(1000);
    world.store.flush().unwrap();
    let key = world.model.keys().next().unwrap().clone();
    world.store.insert(&key, b"newest").unwrap();
    world.model.insert(key.clone(), b"newest".to_vec());
    world.store.flush().unwrap();
    let first = world.store.ring().preference_list(&key)[0];
    assert!(world.factory.turn_back(first, &internal(&key)));
    for _ in 0..4 {
        assert_ne!(
            world.store.get(&key).unwrap().as_deref(),
            Some(&b"newest"[..]),
            "the shard went back unseen"
        );
    }
    scrub(&world.store);
    world.check();
    world.check_copies();
}

/// Larger than a chunk: what is flushed while one part has been compared already must reach the new engine as well.
#[test]
fn an_engine_beside_the_one_that_serves_gets_every_flush() {
    let world = World::new(options(2, 2));
    let (value, count) = ([7; 2000], 3000_u32);
    for n in 0..count {
        world.store.insert(n.to_be_bytes(), value).unwrap();
    }
    world.store.flush().unwrap();
    world.store.compact(ShardId(1)).unwrap();
    let mut steps = 0_u32;
    while !world.saw(|e| matches!(e, EventKind::Compacted { .. })) {
        testing::heal_step(&world.store).unwrap();
        world.store.insert(steps.to_be_bytes(), b"later").unwrap();
        world.store.flush().unwrap();
        steps += 1;
        assert!(steps < 1000);
    }
    assert!(steps > 4, "copying and comparing took but {steps} steps");
    testing::fail_shard(&world.store, ShardId(0));
    for n in 0..count {
        let found = world.store.get(n.to_be_bytes()).unwrap();
        let due = if n < steps { &b"later"[..] } else { &value[..] };
        assert!(found.as_deref() == Some(due), "record {n} after {steps} steps");
    }
}

/// One owner is offline when it is asked and whole again soon after; meanwhile the other hangs in the question, and is gone in the
/// end. At every moment there was one to ask.
#[test]
fn an_owner_that_is_healed_while_the_other_is_asked_answers_in_its_place() {
    for scan in [false, true] {
        let mut world = World::new(options(2, 2));
        world.write(400);
        world.store.flush().unwrap();
        let (key, value) = world.model.iter().next().map(|(k, v)| (k.clone(), v.clone())).unwrap();
        let owners = world.store.ring().preference_list(&key).to_vec();
        let (first, second) = (owners[0], owners[1]);
        testing::fail_shard(&world.store, first);
        let asked = if scan { EngineOperation::Cursor } else { EngineOperation::Get };
        let gate = world.factory.hang(second, asked);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| match scan {
                true => world.store.iter().next().unwrap().map(|(_, value)| Some(value)),
                false => world.store.get(&key),
            });
            assert!(gate.wait_for(1));
            for _ in 0..1000 {
                if world.health(first.0) == Health::Online {
                    break;
                }
                testing::heal_step(&world.store).unwrap();
            }
            assert_eq!(world.health(first.0), Health::Online);
            world.factory.erase(&world.dir(second.0));
            gate.release();
            assert_eq!(reader.join().unwrap().unwrap().as_deref(), Some(&value[..]), "scan: {scan}");
        });
    }
}

/// After a crash the figures are counted again; what is lost without a word after that is not what was there.
#[test]
fn what_is_lost_after_a_shard_was_counted_is_still_lost_at_the_next_opening() {
    let mut world = World::new(options(3, 2));
    world.write(1000);
    // In the middle of a flush: the seal says that the shard is being changed.
    world.factory.fail_times(ShardId(1), EngineOperation::Sync, 1);
    world.store.flush().unwrap();
    world.kill();
    world.heal();
    world.store.flush().unwrap();
    // It is counted after that, and nothing is written any more.
    while testing::recount(&world.store).unwrap() {}
    let ring = world.store.ring();
    let of_one = world.model.keys().filter(|key| ring.preference_list(key).contains(&ShardId(1)));
    let keys: Vec<Vec<u8>> = of_one.take(5).cloned().collect();
    for key in &keys {
        world.factory.forge(ShardId(1), &internal(key), &[]);
    }
    world.reopen();
    // By the opening, which takes a shard that is not the sealed one offline, or by the scrub.
    let report = scrub(&world.store);
    assert_eq!(report.records_unsettled, 0, "{report:?}");
    world.heal();
    world.check();
    world.check_copies();
}

#[test]
fn a_shard_that_cannot_be_written_to_and_then_is_gone_is_made_anew() {
    let mut world = World::new(options(3, 2));
    world.write(500);
    world.store.flush().unwrap();
    let dir = world.dir(0);
    let refused = Fault::on(Operation::Read)
        .at({
            let dir = dir.clone();
            move |path| path.starts_with(&dir)
        })
        .error(std::io::ErrorKind::StorageFull);
    world.disk.inject(refused);
    let scrub = world.store.scrub().unwrap();
    testing::scrub_step(&world.store).unwrap_err();
    assert!(matches!(world.health(0), Health::Degraded(_)), "{}", world.health(0));
    scrub.cancel().unwrap();
    world.factory.erase(&dir);
    Disk::remove_dir_all(&world.disk, &dir).unwrap();
    world.disk.heal();
    world.heal();
    world.check();
    world.check_copies();
}

/// What a shard was found to lack is known as well at the next opening, where its figures are those of what it holds.
#[test]
fn what_a_scrub_has_counted_is_not_forgotten_at_an_opening() {
    let mut world = World::new(options(3, 2));
    world.write(800);
    world.store.flush().unwrap();
    let key = world.model.keys().next().unwrap().clone();
    let owner = world.store.ring().preference_list(&key)[0];
    world.factory.forge(owner, &internal(&key), &[]);
    let begun = world.store.scrub().unwrap();
    while begun.progress().stage != "comparing replicas" {
        testing::scrub_step(&world.store).unwrap();
    }
    // It finds the difference, and counts; then all shards are sealed anew.
    testing::scrub_step(&world.store).unwrap();
    world.write(50);
    world.reopen();
    let report = scrub(&world.store);
    assert_eq!((report.records_reconciled, report.records_unsettled), (1, 0), "{report:?}");
    world.check();
    world.check_copies();
}

#[test]
fn a_shard_that_failed_again_and_again_and_then_is_gone_is_made_anew() {
    let mut world = World::new(options(3, 2));
    world.write(500);
    let dir = world.dir(1);
    let refused = Fault::on(Operation::Create).at({
        let dir = dir.clone();
        move |path| path.starts_with(&dir)
    });
    world.disk.inject(refused);
    world.store.flush().unwrap();
    for _ in 0..30 {
        testing::heal_step(&world.store).unwrap();
    }
    assert!(matches!(world.health(1), Health::Offline(_)), "{}", world.health(1));
    world.factory.erase(&dir);
    Disk::remove_dir_all(&world.disk, &dir).unwrap();
    world.disk.heal();
    world.heal();
    world.check();
    world.check_copies();
}

/// A shard that was full is opened again; while it is, and as long as it catches up, others must answer for it.
#[test]
fn of_shards_that_were_full_those_come_back_first_without_which_nothing_is_lost() {
    let mut world = World::new(options(3, 2));
    world.write(600);
    world.store.flush().unwrap();
    let full = |world: &World, shard: u32| {
        let dir = world.dir(shard);
        let full = Fault::on(Operation::Write).at(move |path| path.starts_with(&dir));
        world.disk.inject(full.error(std::io::ErrorKind::StorageFull));
    };
    full(&world, 1);
    world.write(100);
    world.store.flush().unwrap();
    assert!(matches!(world.health(1), Health::Offline(_)), "the others have gone on without it");
    full(&world, 0);
    full(&world, 2);
    world.write(100);
    world.store.flush().unwrap_err();
    for shard in [0, 2] {
        assert!(matches!(world.health(shard), Health::Degraded(_)), "{}", world.health(shard));
    }
    world.check();
    world.disk.heal();
    while testing::heal_step(&world.store).unwrap() {
        world.check();
    }
    world.check_copies();
}

/// How far the filling before had got says nothing of the new engine.
#[test]
fn a_shard_that_is_begun_anew_while_it_is_filled_is_filled_from_the_beginning() {
    let mut world = World::new(options(3, 2));
    for n in 0..1500u32 {
        let (key, value) = (n.to_be_bytes().to_vec(), vec![n as u8; 4000]);
        world.store.insert(&key, &value).unwrap();
        world.model.insert(key, value);
    }
    world.store.flush().unwrap();
    for steps in [3, 4, 5, 6, 7, 8] {
        world.store.rebuild(ShardId(1)).unwrap();
        for _ in 0..steps {
            assert!(testing::heal_step(&world.store).unwrap());
        }
        assert_eq!(world.health(1), Health::Rebuilding, "it is not being filled after {steps} steps");
        world.store.rebuild(ShardId(1)).unwrap();
        world.heal();
        world.check_copies();
    }
    world.check();
}

/// One that is being filled has every write, and not yet what was there before: it is no reason to go on without another.
#[test]
fn a_shard_that_is_being_filled_does_not_stand_in_for_one_that_is_full() {
    let mut world = World::new(options(3, 2));
    for n in 0..1500u32 {
        let (key, value) = (n.to_be_bytes().to_vec(), vec![n as u8; 4000]);
        world.store.insert(&key, &value).unwrap();
        world.model.insert(key, value);
    }
    world.store.flush().unwrap();
    world.store.rebuild(ShardId(1)).unwrap();
    for _ in 0..4 {
        assert!(testing::heal_step(&world.store).unwrap());
    }
    assert_eq!(world.health(1), Health::Rebuilding);
    let dir = world.dir(0);
    let full = Fault::on(Operation::Write).at(move |path| path.starts_with(&dir));
    world.disk.inject(full.error(std::io::ErrorKind::StorageFull));
    world.write(100);
    world.store.flush().unwrap_err();
    assert!(matches!(world.health(0), Health::Degraded(_)), "{}", world.health(0));
    world.check();
    world.disk.heal();
    world.heal();
    world.check();
    world.check_copies();
}

/// What gets lost between its copying and its serving is found before it serves.
#[test]
fn what_is_lost_while_a_shard_is_filled_is_found_before_it_serves() {
    let mut world = World::new(options(3, 2));
    world.write(2000);
    world.store.flush().unwrap();
    world.store.rebuild(ShardId(1)).unwrap();
    // It is begun anew, and gets all in one chunk.
    for _ in 0..2 {
        assert!(testing::heal_step(&world.store).unwrap());
    }
    assert_eq!(world.health(1), Health::Rebuilding, "it serves before it has been compared");
    let ring = world.store.ring();
    let keys: Vec<Vec<u8>> = world
        .model
        .keys()
        .filter(|key| ring.preference_list(key).contains(&ShardId(1)))
        .take(9)
        .cloned()
        .collect();
    for key in &keys {
        world.factory.forge(ShardId(1), &internal(key), &[]);
    }
    world.heal();
    world.check();
    world.check_copies();
}

/// A scan puts damaged pages right by itself where every owner has some, also before the first flush after a crash: not from
/// one that lacks what the other has had.
#[test]
fn a_scan_mends_no_page_from_a_replica_that_is_behind() {
    let mut world = World::new(options(2, 2));
    let (removed, replaced) = uneven(&mut world);
    world.factory.corrupt(ShardId(0), &internal(&replaced));
    world.factory.corrupt(ShardId(0), &internal(&removed));
    // In the same chunk of the scan.
    let other = world.model.keys().nth(5).unwrap().clone();
    world.factory.corrupt(ShardId(1), &internal(&other));
    world.check();
    assert!(matches!(world.health(0), Health::Degraded(_)), "its damage has not been met");
    world.heal();
    world.check();
    world.check_copies();
}

#[test]
fn what_is_asked_of_a_shard_that_is_not_there_is_refused_by_name() {
    let world = World::new(options(3, 2));
    let nobody = ShardId(9);
    let store = &world.store;
    let outcomes =
        [store.repair(nobody), store.rebuild(nobody), store.compact(nobody), store.drop_quarantined(nobody)];
    for error in outcomes.map(Result::unwrap_err) {
        assert_eq!((error.kind(), error.shard()), (annulus::ErrorKind::NotFound, Some(nobody)), "{error}");
    }
    store.rebuild(ShardId(1)).unwrap();
    let error = store.compact(ShardId(1)).unwrap_err();
    assert_eq!((error.kind(), error.shard()), (annulus::ErrorKind::Busy, Some(ShardId(1))), "{error}");
    world.heal();
    store.compact(ShardId(1)).unwrap();
}

/// What a shard lacks is damaged in the journal: its replicas have it.
#[test]
fn a_shard_whose_part_of_the_journal_is_damaged_is_filled_from_its_replicas() {
    let mut world = World::new(options(3, 2).journal_retention(1 << 30));
    world.write(300);
    world.store.flush().unwrap();
    world.factory.fail(ShardId(1), EngineOperation::Apply);
    world.write(500);
    world.store.flush().unwrap();
    assert!(matches!(world.health(1), Health::Offline(_)));
    // Frames in the middle of what it lacks.
    let journal = Path::new("/store/journal");
    let mut names = world.disk.list(journal).unwrap();
    names.retain(|name| name.ends_with(".seg"));
    names.sort();
    world.disk.damage(&journal.join(&names[0]), |bytes| bytes[20_000..28_000].fill(7)).unwrap();
    world.factory.heal(ShardId(1));
    // One step fails by the journal's error; the next ones begin the shard anew.
    for _ in 0..10_000 {
        match testing::heal_step(&world.store) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => assert_eq!(error.kind(), annulus::ErrorKind::Corruption, "{error}"),
        }
    }
    assert_eq!(world.health(1), Health::Online);
    assert!(world.saw(|e| matches!(e, EventKind::Rebuilding { .. })));
    world.check();
    world.check_copies();
}

/// The last that a shard missed was of a keyspace that is dropped since: nothing of it comes back, and the shard is level.
#[test]
fn a_shard_catches_up_with_what_nobody_wants_any_more() {
    let mut world = World::new(options(3, 2));
    let dropped = world.store.keyspace("dropped").unwrap();
    world.write(300);
    world.store.flush().unwrap();
    world.factory.fail(ShardId(1), EngineOperation::Apply);
    world.write(20);
    (0..200u32).for_each(|n| assert!(dropped.insert(n.to_be_bytes(), b"gone").is_ok()));
    world.store.flush().unwrap();
    assert!(matches!(world.health(1), Health::Offline(_)));
    drop(dropped);
    world.store.drop_keyspace("dropped").unwrap();
    world.store.flush().unwrap();
    world.factory.heal(ShardId(1));
    world.heal();
    assert!(!world.saw(|e| matches!(e, EventKind::Rebuilding { .. })));
    let applied: Vec<_> = world.store.stats().unwrap().shards.iter().map(|shard| shard.applied).collect();
    assert!(applied.iter().all(|seq| *seq == applied[0]), "{applied:?}");
    world.check();
    world.check_copies();
    world.reopen();
    world.check_copies();
}

/// It is opened again, not copied anew: what could not be read may be whole.
#[test]
fn a_shard_that_once_cannot_be_looked_through_is_not_begun_anew() {
    let mut world = World::new(options(3, 2));
    world.write(800);
    world.store.flush().unwrap();
    let ring = world.store.ring();
    let key = world.model.keys().find(|key| ring.preference_list(key)[0] == ShardId(0)).unwrap().clone();
    world.factory.corrupt(ShardId(0), &internal(&key));
    world.check();
    assert!(matches!(world.health(0), Health::Degraded(_)));
    world.factory.fail_times(ShardId(0), EngineOperation::Verify, 1);
    world.heal();
    assert!(world.store.health().unwrap().is_good());
    // The damage is met again by whoever reads it next, and mended then.
    world.check();
    world.heal();
    assert!(!world.saw(|e| matches!(e, EventKind::Rebuilding { .. })));
    assert!(world.saw(|e| matches!(e, EventKind::Repaired { .. })));
    world.check_copies();
}

/// Counted again from the ring: how many virtual nodes lack a copy, and how many have none.
#[test]
fn health_counts_what_lacks_copies_and_what_has_none() {
    for replicas in [1, 2, 3] {
        let mut world = World::new(options(5, replicas));
        world.write(300);
        world.store.flush().unwrap();
        let mut failed = Vec::new();
        for shard in [None, Some(1), Some(3)] {
            if let Some(shard) = shard {
                testing::fail_shard(&world.store, ShardId(shard));
                failed.push(ShardId(shard));
            }
            let (mut lacking, mut without) = (0, 0);
            let ring = world.store.ring();
            for node in 0..ring.virtual_nodes() {
                let owners = ring.owners(annulus::VirtualNode(node));
                let there = owners.iter().filter(|id| !failed.contains(id)).count();
                lacking += u32::from(there < replicas);
                without += u32::from(there == 0);
            }
            let health = world.store.health().unwrap();
            assert_eq!((health.under_replicated, health.unavailable), (lacking, without));
            assert_eq!(health.is_good(), failed.is_empty());
        }
    }
}
