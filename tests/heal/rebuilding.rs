//! Shards that are begun anew and filled, in the place of what is gone or beside what serves.

use super::*;

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

/// What has been copied of a large shard counts after a crash, and is not copied again.
#[test]
fn a_rebuild_of_a_large_shard_goes_on_where_it_was() {
    let mut world = World::new(options(2, 2));
    for first in (0..340).step_by(20) {
        world.write_large(first..first + 20, 256 << 10);
        world.store.flush().unwrap();
    }
    world.store.flush().unwrap();
    world.store.rebuild(ShardId(1)).unwrap();
    // 85 MiB, of which the first 64 are made durable together.
    let seal = || world.disk.read(&world.dir(1).join("SEAL")).unwrap().unwrap();
    let filled = || String::from_utf8_lossy(&seal()).contains("\"filled\":\"00");
    let steps = |world: &World, is_over: &dyn Fn() -> bool| {
        (1..1000).find(|_| !testing::heal_step(&world.store).unwrap() || is_over()).unwrap()
    };
    let before = steps(&world, &filled);
    assert!(filled(), "{}", String::from_utf8_lossy(&seal()));
    world.disk = world.disk.kill();
    world.factory.crash(1);
    world.store = open(&world.disk, &world.factory, &world.options);
    assert_eq!(world.health(1), Health::Rebuilding);
    let after = steps(&world, &|| world.health(1) == Health::Online);
    // A MiB a step; then all of it is compared.
    assert!(before > 60 && after < 85 + 40, "{before} steps, {after} after the crash");
    world.heal();
    world.check();
    world.check_copies();
}

/// Filling a shard takes long; one that only lacks what the journal has is back before.
#[test]
fn a_shard_that_is_back_soon_is_not_kept_waiting_by_one_that_is_filled() {
    // Three copies: filling does not have to wait for the one that is offline.
    let mut world = World::new(options(4, 3));
    world.write_large(0..200, 64 << 10);
    world.store.flush().unwrap();
    world.store.rebuild(ShardId(0)).unwrap();
    (0..3).for_each(|_| assert!(testing::heal_step(&world.store).unwrap()));
    assert_eq!(world.health(0), Health::Rebuilding);
    world.factory.fail(ShardId(3), EngineOperation::Sync);
    world.store.insert(b"more", b"to flush").unwrap();
    world.model.insert(b"more".to_vec(), b"to flush".to_vec());
    world.store.flush().unwrap();
    world.factory.heal(ShardId(3));
    assert!(matches!(world.health(3), Health::Offline(_)), "{:?}", world.health(3));
    for steps in 1.. {
        assert!(testing::heal_step(&world.store).unwrap());
        assert_eq!(world.health(0), Health::Rebuilding, "after {steps} steps");
        if world.health(3) == Health::Online {
            break;
        }
    }
    world.heal();
    world.check();
    world.check_copies();
}

/// After a crash in the middle of a flush a shard that is being filled has what its source has not, removals among it: the flush
/// is made good before it is filled further, or what was removed would come back.
#[test]
fn a_shard_is_not_filled_from_one_that_is_behind_it() {
    let mut world = World::new(options(3, 2));
    world.write(2000);
    world.store.flush().unwrap();
    world.store.rebuild(ShardId(2)).unwrap();
    assert!(testing::heal_step(&world.store).unwrap());
    assert_eq!(world.health(2), Health::Rebuilding);
    world.factory.fail(ShardId(1), EngineOperation::Apply);
    let ring = world.store.ring();
    let shared = |key: &&Vec<u8>| {
        let owners = ring.preference_list(key);
        owners.contains(&ShardId(1)) && owners.contains(&ShardId(2))
    };
    let keys: Vec<Vec<u8>> = world.model.keys().filter(shared).step_by(2).cloned().collect();
    assert!(keys.len() > 100);
    for key in &keys {
        world.store.remove(key).unwrap();
        world.model.remove(key);
    }
    world.store.flush().unwrap();
    assert!(matches!(world.health(1), Health::Offline(_)));
    world.factory.heal(ShardId(1));
    world.kill();
    assert_eq!((world.health(1), world.health(2)), (Health::Online, Health::Rebuilding));
    world.heal();
    world.check();
    world.check_copies();
    world.reopen();
    world.check();
    world.check_copies();
}

/// What has been filled of a shard stays filled when another is turned to.
#[test]
fn filling_goes_on_where_it_was_when_something_is_done_for_another_shard() {
    let steps = |between: &dyn Fn(&World)| {
        let mut world = World::new(options(4, 2));
        world.write_large(0..300, 64 << 10);
        world.store.flush().unwrap();
        world.store.rebuild(ShardId(0)).unwrap();
        (0..6).for_each(|_| assert!(testing::heal_step(&world.store).unwrap()));
        between(&world);
        let mut steps = 0;
        while world.health(0) != Health::Online {
            assert!(testing::heal_step(&world.store).unwrap());
            steps += 1;
        }
        world.heal();
        world.check();
        world.check_copies();
        steps
    };
    let alone = steps(&|_| ());
    assert!(alone > 6, "it took but {alone} steps");
    let compacted = steps(&|world| world.store.compact(ShardId(3)).unwrap());
    // Opened, and found to lack nothing.
    let opened = steps(&|world| testing::fail_shard(&world.store, ShardId(3)));
    assert!(compacted <= alone + 2 && opened <= alone + 4, "{alone}, {compacted}, {opened} steps");
}

/// What is in the memtables after a shard was begun anew reaches it with a flush, and need not do so before it is filled.
#[test]
fn filling_waits_for_no_flush_where_all_are_level() {
    let mut world = World::new(options(3, 2));
    world.write(900);
    world.store.flush().unwrap();
    let applied = world.store.health().unwrap().shards[0].applied;
    world.write(100);
    world.store.rebuild(ShardId(1)).unwrap();
    world.heal();
    assert!(world.store.health().unwrap().is_good());
    assert_eq!(world.store.health().unwrap().shards[0].applied, applied);
    world.check();
    world.check_copies();
}

/// The directory of a disk that is not mounted looks as one does that has been emptied: only who is asked to makes a shard
/// anew there.
#[test]
fn a_shard_whose_disk_is_away_is_made_anew_when_that_is_asked_for() {
    for (own_disk, wish) in [(true, 0), (true, 1), (false, 1)] {
        let (disk, factory) = (SimDisk::new(3), MemoryFactory::new());
        if own_disk {
            disk.mount(Path::new("/mnt/b"));
        }
        let shard = |name: &str| annulus::ShardOptions::new(Path::new("/mnt").join(name).join("shard"));
        let base = Options::new().replication_factor(2).virtual_nodes(64).memory_budget(8 << 20);
        let options = ["a", "b", "c"].into_iter().fold(base, |options, name| options.shard(shard(name)));
        let store = open(&disk, &factory, &options);
        let mut world = World { disk, factory, options, model: BTreeMap::new(), store, written: 0 };
        world.write(900);
        world.store.flush().unwrap();
        let dir = world.dir(1);
        world.factory.erase(&dir);
        Disk::remove_dir_all(&world.disk, &dir).unwrap();
        world.heal_a_while();
        assert_eq!(matches!(world.health(1), Health::Offline(_)), own_disk, "{}", world.health(1));
        assert_eq!(world.disk.exists(&dir).unwrap(), !own_disk);
        match wish {
            0 => world.store.repair(ShardId(1)).unwrap(),
            _ => world.store.rebuild(ShardId(1)).unwrap(),
        }
        world.heal();
        assert!(world.saw(|e| matches!(e, EventKind::Rebuilding { .. })));
        world.check();
        world.check_copies();
    }
}

/// A shard whose filling waits is sealed meanwhile, and one that is done says so: else a crash would find them half changed.
#[test]
fn a_seal_says_that_a_shard_is_being_filled_as_long_as_it_is() {
    let mut world = World::new(options(5, 3));
    world.write_large(0..300, 64 << 10);
    world.store.flush().unwrap();
    let applying = |world: &World, shard: u32| {
        let seal = world.disk.read(&world.dir(shard).join("SEAL")).unwrap().unwrap();
        String::from_utf8_lossy(&seal).contains("\"applying\":true")
    };
    world.store.rebuild(ShardId(3)).unwrap();
    (0..4).for_each(|_| assert!(testing::heal_step(&world.store).unwrap()));
    assert!(applying(&world, 3));
    // It comes first, and takes the place of the other.
    world.store.rebuild(ShardId(0)).unwrap();
    (0..3).for_each(|_| assert!(testing::heal_step(&world.store).unwrap()));
    assert!(applying(&world, 0) && !applying(&world, 3));
    world.heal();
    assert!((0..5).all(|shard| !applying(&world, shard)));
    world.check();
    world.check_copies();
}

/// What is found different is written only after the seal says that the shard is being changed.
#[test]
fn a_shard_that_is_compared_is_sealed_as_being_changed_before_it_is() {
    let mut world = World::new(options(3, 2));
    world.write(2000);
    world.store.flush().unwrap();
    world.store.rebuild(ShardId(1)).unwrap();
    (0..2).for_each(|_| assert!(testing::heal_step(&world.store).unwrap()));
    let held = testing::held_by(&world.store, annulus::KeyspaceId(0), ShardId(0)).unwrap();
    let ring = world.store.ring();
    let shared = |(key, _): &&(Vec<u8>, annulus::Seq)| ring.preference_list(key).contains(&ShardId(1));
    let (key, _) = held.iter().find(shared).unwrap();
    world.factory.forge(ShardId(1), &internal(key), &[]);
    let seal = || world.disk.read(&world.dir(1).join("SEAL")).unwrap().unwrap();
    let applying = || String::from_utf8_lossy(&seal()).contains("\"applying\":true");
    assert!(!applying());
    let gate = world.factory.hang(ShardId(1), EngineOperation::Apply);
    std::thread::scope(|scope| {
        let healing = scope.spawn(|| world.heal());
        assert!(gate.wait_for(1));
        assert!(applying());
        world.factory.heal(ShardId(1));
        healing.join().unwrap();
    });
    assert!(!applying());
    world.check();
    world.check_copies();
}

/// One that fails in the middle is offline, and what was asked for it is still to be done.
#[test]
fn a_rebuild_that_fails_in_the_middle_is_taken_up_again() {
    let mut world = World::new(options(3, 2));
    world.write_large(0..100, 64 << 10);
    world.store.flush().unwrap();
    world.store.rebuild(ShardId(1)).unwrap();
    (0..3).for_each(|_| assert!(testing::heal_step(&world.store).unwrap()));
    assert_eq!(world.health(1), Health::Rebuilding);
    world.factory.fail_times(ShardId(1), EngineOperation::Apply, 1);
    while world.health(1) == Health::Rebuilding {
        assert!(testing::heal_step(&world.store).unwrap());
    }
    assert!(matches!(world.health(1), Health::Offline(_)), "{}", world.health(1));
    assert_eq!(world.store.compact(ShardId(1)).unwrap_err().kind(), annulus::ErrorKind::Busy);
    world.heal();
    assert!(!world.saw(|e| matches!(e, EventKind::NotHealed { .. })));
    world.store.compact(ShardId(1)).unwrap();
    world.heal();
    world.check();
    world.check_copies();
}

/// What was there is kept, and how much that is is told.
#[test]
fn what_is_set_aside_is_told() {
    let mut world = World::new(options(3, 2));
    world.write(500);
    world.store.flush().unwrap();
    let told = |world: &World| {
        let mut events = world.store.events();
        let all = std::iter::from_fn(|| events.try_next()).map(|event| event.kind);
        all.filter_map(|kind| if let EventKind::Quarantined { bytes } = kind { Some(bytes) } else { None })
            .collect::<Vec<u64>>()
    };
    world.store.rebuild(ShardId(1)).unwrap();
    world.heal();
    assert!(told(&world).is_empty(), "there were no files");
    for bytes in [13, 700] {
        let engines = world.disk.list(&world.dir(1)).unwrap();
        let generation = engines.iter().filter(|name| name.starts_with("quarantine")).count() + 1;
        // The simulated disk renames files alone.
        world.disk.replace(&world.dir(1).join(format!("engine-{generation}")), &vec![1; bytes]).unwrap();
        world.store.rebuild(ShardId(1)).unwrap();
        world.heal();
    }
    assert_eq!(told(&world), [13, 700]);
    let kept = world.store.health().unwrap().quarantined;
    assert_eq!(kept.iter().map(|q| q.bytes).sum::<u64>(), 713, "{kept:?}");
}

/// Five times it is opened again; then there is nothing to be hoped for from its files.
#[test]
fn a_shard_that_fails_again_and_again_is_begun_anew_after_five_times() {
    let mut world = World::new(options(3, 2));
    world.write(500);
    world.store.flush().unwrap();
    world.factory.fail(ShardId(1), EngineOperation::Apply);
    world.write(100);
    world.store.flush().unwrap();
    let kinds = |world: &World| {
        let mut events = world.store.events();
        std::iter::from_fn(|| events.try_next()).map(|event| event.kind).collect::<Vec<_>>()
    };
    let is_rebuilt = |kind: &EventKind| matches!(kind, EventKind::Rebuilding { .. });
    while !kinds(&world).iter().any(is_rebuilt) {
        assert!(testing::heal_step(&world.store).unwrap());
    }
    let opened = kinds(&world).iter().filter(|kind| matches!(kind, EventKind::CatchingUp { .. })).count();
    assert_eq!(opened, 5);
    world.factory.heal(ShardId(1));
    world.heal();
    world.check();
    world.check_copies();
}
