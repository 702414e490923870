//! Engines that arrive too late: what was begun before a shard failed must not come into use after it. And what a seal says
//! while several change the engine at once.

use super::seal::Seal;
use super::{Health, Role, Shard, ShardSpec};
use crate::disk::{Disk, SimDisk};
use crate::engine::{MemoryFactory, MemoryOperation as EngineOperation};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Seq, ShardId};
use std::path::PathBuf;
use std::sync::Arc;

const ID: ShardId = ShardId(3);
const APPLIED: Seq = Seq(7);

struct World {
    disk: Arc<dyn Disk>,
    factory: MemoryFactory,
    spec: ShardSpec,
    shard: Shard,
}

impl World {
    fn new() -> World {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
        let factory = MemoryFactory::new();
        let dir = PathBuf::from("/store/shards/0003");
        let spec = ShardSpec { id: ID, dir, store: 5, cache_bytes: 1 << 20, page_bytes: 4096 };
        Shard::create(&disk, &factory, &spec, Seq::ZERO).unwrap();
        let shard = Shard::open(&disk, &factory, &spec);
        assert_eq!(shard.health(), Health::Online);
        World { disk, factory, spec, shard }
    }

    /// Does something of which `operation` hangs until the shard has failed.
    fn fails_while<T: Send>(&self, operation: EngineOperation, work: impl FnOnce(&Self) -> T + Send) -> T {
        let gate = self.factory.hang(ID, operation);
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| work(self));
            assert!(gate.wait_for(1));
            self.shard.fail(&Error::new(ErrorKind::Io, "its disk is gone"));
            gate.release();
            worker.join().unwrap()
        })
    }

    fn begin_filling(&self) -> Result<()> {
        let failures = self.shard.failures();
        self.shard.begin_filling(&self.factory, &self.spec, APPLIED, false, failures)
    }

    fn assert_offline(&self, outcome: Result<()>) {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Unavailable);
        assert!(matches!(self.shard.health(), Health::Offline(_)), "{}", self.shard.health());
        let engines = self.shard.engines.read();
        assert!(engines.engine.is_none() && engines.aside.is_none());
        drop(engines);
        assert!(!self.shard.serves() && !self.shard.is_open());
    }
}

#[test]
fn an_engine_that_is_begun_anew_comes_too_late_after_a_failure() {
    for operation in [EngineOperation::Open, EngineOperation::Sync] {
        let world = World::new();
        let outcome = world.fails_while(operation, World::begin_filling);
        world.assert_offline(outcome);
        // It is not in the way of the next one.
        world.shard.close_leaving().unwrap();
        world.begin_filling().unwrap();
        assert_eq!(world.shard.health(), Health::Rebuilding);
    }
}

#[test]
fn nothing_is_begun_anew_for_one_that_asked_before_the_failure() {
    let world = World::new();
    let failures = world.shard.failures();
    world.shard.fail(&Error::new(ErrorKind::Io, "its disk is gone"));
    let outcome = world.shard.begin_filling(&world.factory, &world.spec, APPLIED, false, failures);
    world.assert_offline(outcome);
}

#[test]
fn an_engine_beside_the_one_that_serves_comes_too_late_after_a_failure() {
    for operation in [EngineOperation::Open, EngineOperation::Sync] {
        let world = World::new();
        let outcome =
            world.fails_while(operation, |world| world.shard.begin_aside(&world.factory, &world.spec));
        world.assert_offline(outcome);
    }
}

#[test]
fn an_engine_that_was_filled_does_not_serve_after_a_failure() {
    let world = World::new();
    world.begin_filling().unwrap();
    let outcome = world.fails_while(EngineOperation::Sync, |world| world.shard.end_filling());
    world.assert_offline(outcome);
}

#[test]
fn an_engine_that_was_filled_beside_another_does_not_take_its_place_after_a_failure() {
    let world = World::new();
    world.shard.begin_aside(&world.factory, &world.spec).unwrap();
    let outcome = world.fails_while(EngineOperation::Sync, |world| world.shard.end_filling());
    world.assert_offline(outcome);
}

#[test]
fn an_engine_that_was_given_up_does_not_take_the_place_of_the_one_that_serves() {
    let world = World::new();
    world.shard.begin_aside(&world.factory, &world.spec).unwrap();
    let gate = world.factory.hang(ID, EngineOperation::Sync);
    let before = world.shard.engines.read().generation;
    let outcome = std::thread::scope(|scope| {
        let worker = scope.spawn(|| world.shard.end_filling());
        assert!(gate.wait_for(1));
        world.shard.drop_aside(&Error::new(ErrorKind::Io, "it could not be written to"));
        gate.release();
        worker.join().unwrap()
    });
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Unavailable);
    let engines = world.shard.engines.read();
    assert_eq!((engines.generation, &engines.role), (before, &Role::Serving));
}

#[test]
fn what_a_damaged_engine_has_left_is_set_aside() {
    let world = World::new();
    let engine = world.spec.dir.join("engine");
    // The simulated disk renames files alone.
    world.disk.replace(&engine, b"what is left").unwrap();
    world.shard.fail(&Error::corruption("a page is damaged"));
    world.begin_filling().unwrap();
    let kept = world.spec.dir.join("quarantine-0");
    assert_eq!(world.disk.read(&kept).unwrap().as_deref(), Some(&b"what is left"[..]));
    assert!(!world.disk.exists(&engine).unwrap());
}

/// A seal that says that all is done while somebody is still changing the engine would be believed after a crash.
#[test]
fn a_seal_says_that_the_engine_is_being_changed_until_the_last_one_is_done() {
    let world = World::new();
    let applying = || {
        let seal = Seal::load(world.disk.as_ref(), &world.spec.dir).unwrap().unwrap();
        (seal.applied, seal.applying)
    };
    assert_eq!(applying(), (Seq::ZERO, false));
    let first = world.shard.begin_apply().unwrap();
    let second = world.shard.begin_apply().unwrap();
    assert_eq!(applying(), (Seq::ZERO, true));
    world.shard.seal(Seq(4)).unwrap();
    assert_eq!(applying(), (Seq(4), true));
    let third = world.shard.begin_apply().unwrap();
    world.shard.seal(Seq(5)).unwrap();
    assert_eq!(applying(), (Seq(5), true));
    world.shard.seal(Seq(9)).unwrap();
    assert_eq!(applying(), (Seq(9), false));
    drop((first, second, third));
    // One that gives up leaves it to the next to say so.
    let left = world.shard.begin_apply().unwrap();
    left.leave();
    world.shard.begin_apply().unwrap();
    world.shard.seal(Seq(10)).unwrap();
    assert_eq!(applying(), (Seq(10), false));
}
