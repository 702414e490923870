//! Engines that arrive too late: what was begun before a shard failed must not come into use after it. And what a seal says
//! while several change the engine at once.

use super::seal::Seal;
use super::{Health, Role, Shard, ShardSpec};
use crate::disk::{Disk, Fault, Operation, SimDisk};
use crate::engine::{MemoryFactory, MemoryOperation as EngineOperation};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Seq, ShardId};
use crate::sync::atomic::Ordering;
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod directories;

const ID: ShardId = ShardId(3);
const APPLIED: Seq = Seq(7);

struct World {
    sim: SimDisk,
    disk: Arc<dyn Disk>,
    factory: MemoryFactory,
    spec: ShardSpec,
    shard: Shard,
}

impl World {
    fn new() -> World {
        let sim = SimDisk::new(1);
        let disk: Arc<dyn Disk> = Arc::new(sim.clone());
        let factory = MemoryFactory::new();
        let dir = PathBuf::from("/store/shards/0003");
        let spec = ShardSpec {
            id: ID,
            dir,
            store: 5,
            cache_bytes: 1 << 20,
            page_bytes: 4096,
            patience: super::PATIENCE,
        };
        Shard::create(&disk, &factory, &spec, Seq::ZERO).unwrap();
        let shard = Shard::open(&disk, &factory, &spec);
        assert_eq!(shard.health(), Health::Online);
        World { sim, disk, factory, spec, shard }
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

/// Between the last chunk and the end a flush may give it up, or be refused by the shard as a whole.
#[test]
fn a_filling_that_was_given_up_before_its_end_does_not_pass_for_done() {
    let world = World::new();
    let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
    let full = Error::io("write to", &world.spec.dir, full);
    for stalls in [false, true] {
        world.shard.begin_aside(&world.factory, &world.spec).unwrap();
        match stalls {
            false => world.shard.drop_aside(&full),
            true => assert!(world.shard.stall(&full)),
        }
        let before = (world.shard.engines.read().role.clone(), world.shard.health());
        assert_eq!(world.shard.end_filling().unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!((world.shard.engines.read().role.clone(), world.shard.health()), before);
        // What lies there of it is cleared away.
        world.shard.close_leaving().unwrap();
        assert!(world.shard.is_untidy());
        world.shard.resume();
        world.shard.clear_up().unwrap();
        assert!(!world.shard.is_untidy());
    }
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

#[test]
fn a_shard_goes_on_with_just_as_much_room_as_it_needs() {
    let world = World::new();
    let files = |dir: &str| {
        let mut bytes = 0;
        for name in world.sim.list(Path::new(dir)).unwrap() {
            let path = Path::new(dir).join(name);
            bytes += world.sim.read(&path).ok().flatten().map_or(0, |bytes| bytes.len() as u64);
        }
        bytes
    };
    let used = files("/store/shards/0003");
    world.sim.set_capacity(Some(used + (4 << 20)));
    world.shard.check_room().unwrap();
    world.sim.set_capacity(Some(used + (4 << 20) - 1));
    let error = world.shard.check_room().unwrap_err();
    assert!(error.is_refusal_to_write() && error.shard() == Some(ID), "{error}");
    world.sim.set_capacity(Some(used));
    assert!(world.shard.check_room().is_err());
    world.sim.set_capacity(None);
    world.shard.check_room().unwrap();
}

#[test]
fn of_what_was_set_aside_the_newest_is_kept_up_to_so_many_bytes() {
    let left = |keep: u64| {
        let world = World::new();
        // Ten is newer than nine.
        for (generation, bytes) in [(0, 5), (9, 30), (10, 70)] {
            let path = world.spec.dir.join(format!("quarantine-{generation}/pages"));
            world.disk.create_dir_all(path.parent().unwrap()).unwrap();
            world.disk.replace(&path, &vec![1; bytes]).unwrap();
        }
        assert_eq!(world.shard.quarantined().unwrap().len(), 3);
        world.shard.drop_quarantined(keep).unwrap();
        let mut names: Vec<String> = world
            .shard
            .quarantined()
            .unwrap()
            .into_iter()
            .map(|q| q.path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names.join(" ")
    };
    assert_eq!(left(0), "");
    assert_eq!(left(69), "");
    assert_eq!(left(70), "quarantine-10");
    assert_eq!(left(99), "quarantine-10");
    assert_eq!(left(100), "quarantine-10 quarantine-9");
    assert_eq!(left(105), "quarantine-0 quarantine-10 quarantine-9");
}

/// Without a seal nothing says which engine counted: the newest is the one that is set aside.
#[test]
fn the_newest_engine_is_set_aside_where_no_seal_names_one() {
    let world = World::new();
    for name in ["engine", "engine-2", "engine-10"] {
        world.disk.replace(&world.spec.dir.join(name), name.as_bytes()).unwrap();
    }
    world.shard.fail(&Error::corruption("the seal is lost"));
    world.disk.remove_file(&world.spec.dir.join("SEAL")).unwrap();
    world.begin_filling().unwrap();
    let read = |name: &str| world.disk.read(&world.spec.dir.join(name)).unwrap();
    assert_eq!(read("quarantine-10").as_deref(), Some(&b"engine-10"[..]));
    world.shard.end_filling().unwrap();
    let seal = Seal::load(world.disk.as_ref(), &world.spec.dir).unwrap().unwrap();
    assert_eq!((seal.generation, seal.filled), (11, None));
}

/// What every seal has is as short as it was in version 1.
#[test]
fn a_seal_says_nothing_of_a_first_engine_that_is_whole() {
    let world = World::new();
    let text = || {
        let bytes = world.disk.read(&world.spec.dir.join("SEAL")).unwrap().unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    assert!(!text().contains("generation") && !text().contains("filled"), "{}", text());
    world.begin_filling().unwrap();
    world.shard.set_filled(b"key");
    world.shard.begin_apply().unwrap();
    world.shard.seal(APPLIED).unwrap();
    assert!(text().contains("generation") && text().contains("filled"), "{}", text());
    assert_eq!(world.shard.filled_to(), b"key");
    world.shard.close().unwrap();
    let again = Shard::open(&world.disk, &world.factory, &world.spec);
    assert_eq!((again.health(), again.filled_to()), (Health::Rebuilding, b"key".to_vec()));
}

/// It is told once that a shard cannot be written to, however often that is tried.
#[test]
fn what_keeps_a_shard_from_being_written_to_is_news_once() {
    let world = World::new();
    let full = Error::new(ErrorKind::Full, "the disk is full");
    assert!(world.shard.stall(&full));
    assert!(!world.shard.stall(&full));
    assert!(world.shard.is_stalled() && world.shard.serves());
    world.shard.resume();
    world.shard.recovered();
    assert_eq!(world.shard.health(), Health::Online);
    assert!(world.shard.stall(&full));
}

/// What was written anew beside an engine takes its place; the other goes when nobody needs it any more.
#[test]
fn an_engine_whose_place_was_taken_is_deleted() {
    let world = World::new();
    let old = world.spec.dir.join("engine");
    world.disk.replace(&old, b"what the memory has elsewhere").unwrap();
    assert!(!world.shard.is_untidy());
    world.shard.clear_up().unwrap();
    assert!(world.disk.exists(&old).unwrap());
    world.shard.begin_aside(&world.factory, &world.spec).unwrap();
    world.shard.end_filling().unwrap();
    assert!(world.shard.is_untidy() && world.disk.exists(&old).unwrap());
    world.shard.clear_up().unwrap();
    assert!(!world.shard.is_untidy() && !world.disk.exists(&old).unwrap());
}

/// Nothing is looked for in the directory, nor sealed, unless something is to go; and nothing goes while an engine is made there, or none is open.
#[test]
fn a_shard_is_tidied_when_something_is_to_go_and_nobody_needs_it() {
    let world = World::new();
    let dir = world.spec.dir.as_path();
    world.disk.replace(&dir.join("engine"), b"what the memory has elsewhere").unwrap();
    world.sim.inject(Fault::on(Operation::Write));
    world.shard.clear_up().unwrap();
    world.sim.heal();
    world.shard.begin_aside(&world.factory, &world.spec).unwrap();
    world.disk.replace(&dir.join("engine-1"), b"the same").unwrap();
    world.shard.untidy.store(true, Ordering::Release);
    world.shard.clear_up().unwrap();
    assert!(world.disk.exists(&dir.join("engine-1")).unwrap() && world.shard.is_untidy());
    world.shard.fail(&Error::new(ErrorKind::Io, "its disk is gone"));
    world.shard.clear_up().unwrap();
    assert!(world.disk.exists(&dir.join("engine-1")).unwrap() && world.shard.is_untidy());
}

/// The seal may name the new engine already when its replacement fails: neither engine goes before it is known which one counts.
#[test]
fn an_engine_is_deleted_only_while_the_seal_durably_names_the_other() {
    for later in [false, true] {
        let world = World::new();
        let dir = world.spec.dir.as_path();
        let engines = || ["engine", "engine-1"].map(|name| world.disk.exists(&dir.join(name)).unwrap());
        let sealed = || Seal::load(world.disk.as_ref(), dir).unwrap().unwrap().generation;
        world.disk.replace(&dir.join("engine"), b"what the memory has elsewhere").unwrap();
        world.shard.begin_aside(&world.factory, &world.spec).unwrap();
        world.disk.replace(&dir.join("engine-1"), b"the same").unwrap();
        let here = dir.to_path_buf();
        world.sim.inject(Fault::on(Operation::SyncDir).at(move |path| path == here).times(1));
        let error = world.shard.end_filling().unwrap_err();
        world.shard.drop_aside(&error);
        assert_eq!((sealed(), engines()), (1, [true; 2]));
        if later {
            world.sim.inject(Fault::on(Operation::Write));
            world.shard.clear_up().unwrap_err();
            world.sim.heal();
            assert_eq!((sealed(), engines()), (1, [true; 2]));
            // The process ends here: it is as good.
            let opened = Shard::open(&world.disk, &world.factory, &world.spec);
            assert_eq!((opened.health(), opened.engines.read().generation), (Health::Online, 1));
            assert_eq!((sealed(), engines()), (1, [false, true]));
        } else {
            world.shard.clear_up().unwrap();
            assert_eq!((sealed(), engines()), (0, [true, false]));
            assert!(!world.shard.is_untidy());
        }
    }
    // One that does not open is no reason to delete the other.
    let world = World::new();
    let other = world.spec.dir.join("engine-7");
    world.disk.replace(&other, b"all that there is").unwrap();
    world.shard.close().unwrap();
    world.factory.fail(ID, EngineOperation::Open);
    assert!(world.shard.try_open(&world.factory, &world.spec).is_err());
    assert!(world.disk.exists(&other).unwrap());
    world.factory.heal(ID);
    // Nor is one that cannot be sealed again.
    world.sim.inject(Fault::on(Operation::Write).times(1));
    world.shard.take(world.shard.try_open(&world.factory, &world.spec).unwrap());
    assert!(world.disk.exists(&other).unwrap() && world.shard.is_untidy());
    world.shard.caught_up();
    world.shard.clear_up().unwrap();
    assert!(!world.disk.exists(&other).unwrap());
}

#[test]
fn a_shard_serves_while_it_is_whole_or_can_be_read() {
    let cause = || "why".to_owned();
    assert!(Health::Online.serves() && Health::Degraded(cause()).serves());
    let others = [Health::Offline(cause()), Health::Joining, Health::Rebuilding];
    assert!(!others.iter().any(Health::serves));
}
