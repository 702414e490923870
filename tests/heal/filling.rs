//! Shards while they are filled: beside writes, other shards, failures and crashes.

use super::*;

#[test]
fn a_rebuild_goes_on_after_a_crash_and_while_the_store_is_written_to() {
    for steps in 0..12 {
        let mut world = World::new(options(4, 2));
        world.write(3000);
        world.store.flush().unwrap();
        world.rebuild(ShardId(3));
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

/// How far the filling before had got says nothing of the new engine.
#[test]
fn a_shard_that_is_begun_anew_while_it_is_filled_is_filled_from_the_beginning() {
    let mut world = World::new(options(3, 2));
    world.write_large(0..1500, 4000);
    world.store.flush().unwrap();
    for steps in [2, 3, 4, 5, 6, 7] {
        world.rebuild(ShardId(1));
        world.steps(steps);
        assert_eq!(world.health(1), Health::Rebuilding, "it is not being filled after {steps} steps");
        world.rebuild(ShardId(1));
        world.heal();
        world.check_copies();
    }
    world.check();
}

/// What an engine is given at once ends between keys, wherever that falls: given a removal alone it forgets it, and would take the
/// older version that comes next for the newest.
#[test]
fn a_removal_is_not_parted_from_what_it_removes() {
    for more in 0..2 {
        let mut world = World::new(options(2, 2));
        for n in 0..3000u32 {
            world.store.insert((n + 1).to_be_bytes(), b"removed").unwrap();
        }
        for n in 0..more {
            world.store.insert([0, 0, 0, 0, n], b"stays").unwrap();
            world.model.insert(vec![0, 0, 0, 0, n], b"stays".to_vec());
        }
        world.store.flush().unwrap();
        let before = world.store.iter();
        for n in 0..3000u32 {
            world.store.remove((n + 1).to_be_bytes()).unwrap();
        }
        // The pages keep both versions of each until they are written again.
        world.store.flush().unwrap();
        assert_eq!(before.count(), 3000 + usize::from(more));
        world.rebuild(ShardId(1));
        world.heal();
        world.check();
        world.check_copies();
    }
}

/// It may rest for long, and its seal would say all that time, and at the next opening, that somebody is in the midst of changing it.
#[test]
fn a_filling_that_cannot_go_on_leaves_a_seal_that_says_what_is_there() {
    let mut world = World::new(options(2, 2));
    world.write_large(0..1500, 4000);
    world.store.flush().unwrap();
    world.rebuild(ShardId(1));
    for _ in 0..1000 {
        if world.is_applying(1) {
            break;
        }
        world.steps(1);
    }
    assert!(world.is_applying(1) && world.health(1) == Health::Rebuilding);
    world.factory.fail(ShardId(0), EngineOperation::Versions);
    world.heal_a_while();
    assert!(!world.is_applying(1));
    world.factory.heal(ShardId(0));
    world.heal();
    world.check();
    world.check_copies();
}

/// One that is being filled has every write, and not yet what was there before: it is no reason to go on without another.
#[test]
fn a_shard_that_is_being_filled_does_not_stand_in_for_one_that_is_full() {
    let mut world = World::new(options(3, 2));
    world.write_large(0..1500, 4000);
    world.store.flush().unwrap();
    world.rebuild(ShardId(1));
    world.steps(4);
    assert_eq!(world.health(1), Health::Rebuilding);
    world.fill_disks(&[0]);
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
    world.rebuild(ShardId(1));
    // It gets all in one chunk.
    world.steps(1);
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

/// What has been copied of a large shard counts after a crash, and is not copied again.
#[test]
fn a_rebuild_of_a_large_shard_goes_on_where_it_was() {
    let mut world = World::new(options(2, 2));
    for first in (0..340).step_by(20) {
        world.write_large(first..first + 20, 256 << 10);
        world.store.flush().unwrap();
    }
    world.store.flush().unwrap();
    world.rebuild(ShardId(1));
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
    world.rebuild(ShardId(0));
    world.steps(3);
    assert_eq!(world.health(0), Health::Rebuilding);
    world.factory.fail(ShardId(3), EngineOperation::Sync);
    world.store.insert(b"more", b"to flush").unwrap();
    world.model.insert(b"more".to_vec(), b"to flush".to_vec());
    world.store.flush().unwrap();
    world.factory.heal(ShardId(3));
    assert!(matches!(world.health(3), Health::Offline(_)), "{:?}", world.health(3));
    for steps in 1.. {
        world.steps(1);
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
    world.rebuild(ShardId(2));
    world.steps(1);
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
        world.rebuild(ShardId(0));
        world.steps(6);
        between(&world);
        let mut steps = 0;
        while world.health(0) != Health::Online {
            world.steps(1);
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
    world.rebuild(ShardId(1));
    world.heal();
    assert!(world.store.health().unwrap().is_good());
    assert_eq!(world.store.health().unwrap().shards[0].applied, applied);
    world.check();
    world.check_copies();
}

/// A shard whose filling waits is sealed meanwhile, and one that is done says so: else a crash would find them half changed.
#[test]
fn a_seal_says_that_a_shard_is_being_filled_as_long_as_it_is() {
    let mut world = World::new(options(5, 3));
    world.write_large(0..300, 64 << 10);
    world.store.flush().unwrap();
    world.rebuild(ShardId(3));
    world.steps(4);
    assert!(world.is_applying(3));
    // It comes first, and takes the place of the other.
    world.rebuild(ShardId(0));
    world.steps(3);
    assert!(world.is_applying(0) && !world.is_applying(3));
    world.heal();
    assert!((0..5).all(|shard| !world.is_applying(shard)));
    world.check();
    world.check_copies();
}

/// What is found different is written only after the seal says that the shard is being changed.
#[test]
fn a_shard_that_is_compared_is_sealed_as_being_changed_before_it_is() {
    let mut world = World::new(options(3, 2));
    world.write(2000);
    world.store.flush().unwrap();
    world.rebuild(ShardId(1));
    world.steps(1);
    let held = testing::held_by(&world.store, annulus::KeyspaceId(0), ShardId(0)).unwrap();
    let ring = world.store.ring();
    let shared = |(key, _): &&(Vec<u8>, annulus::Seq)| ring.preference_list(key).contains(&ShardId(1));
    let (key, _) = held.iter().find(shared).unwrap();
    world.factory.forge(ShardId(1), &internal(key), &[]);
    assert!(!world.is_applying(1));
    let gate = world.factory.hang(ShardId(1), EngineOperation::Apply);
    std::thread::scope(|scope| {
        let healing = scope.spawn(|| world.heal());
        assert!(gate.wait_for(1));
        assert!(world.is_applying(1));
        world.factory.heal(ShardId(1));
        healing.join().unwrap();
    });
    assert!(!world.is_applying(1));
    world.check();
    world.check_copies();
}

/// One that fails in the middle is offline, and what was asked for it is still to be done.
#[test]
fn a_rebuild_that_fails_in_the_middle_is_taken_up_again() {
    let mut world = World::new(options(3, 2));
    world.write_large(0..100, 64 << 10);
    world.store.flush().unwrap();
    world.rebuild(ShardId(1));
    world.steps(3);
    assert_eq!(world.health(1), Health::Rebuilding);
    world.factory.fail_times(ShardId(1), EngineOperation::Apply, 1);
    while world.health(1) == Health::Rebuilding {
        world.steps(1);
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

/// Several shards gain records, and one of them cannot be synced: the others' seals do not say for ever that they are changed.
#[test]
fn a_target_that_cannot_be_sealed_leaves_the_others_sealed() {
    let mut world = World::new(options(4, 2));
    world.write(900);
    world.store.flush().unwrap();
    let plan = world.store.plan().set_replication_factor(3).preview().unwrap();
    world.store.apply(plan).unwrap();
    world.factory.fail_times(ShardId(1), EngineOperation::Sync, 1);
    let mut failed = 0;
    for _ in 0..1000 {
        let stepped = testing::change_step(&world.store);
        failed += u32::from(stepped.is_err());
        world.heal();
        if matches!(stepped, Ok(false)) {
            break;
        }
    }
    assert!(failed > 0 && world.store.change().is_none());
    world.store.flush().unwrap();
    assert!((0..4).all(|shard| !world.is_applying(shard)));
    world.check();
    world.check_copies();
}

/// The new engine of a compaction is given what a change brings: neither begins while the other is under way.
#[test]
fn no_change_begins_while_a_shard_is_compacted() {
    let mut world = World::new(options(3, 2));
    world.write_large(0..100, 64 << 10);
    world.store.flush().unwrap();
    let plan = world.store.plan().set_replication_factor(3).preview().unwrap();
    world.store.compact(ShardId(1)).unwrap();
    world.steps(3);
    let error = world.store.apply(plan.clone()).unwrap_err();
    assert_eq!((error.kind(), error.shard()), (annulus::ErrorKind::Busy, Some(ShardId(1))), "{error}");
    world.heal();
    world.store.apply(plan).unwrap();
    assert_eq!(world.store.compact(ShardId(1)).unwrap_err().kind(), annulus::ErrorKind::Busy);
    while testing::change_step(&world.store).unwrap() {}
    world.check();
    world.check_copies();
}

/// A compaction that was asked for, and has not begun, does not begin beside a change that has.
#[test]
fn no_shard_is_compacted_beside_a_change_that_began_first() {
    let mut world = World::new(options(3, 2));
    world.write_large(0..100, 64 << 10);
    world.store.flush().unwrap();
    world.store.compact(ShardId(1)).unwrap();
    let plan = world.store.plan().set_replication_factor(3).preview().unwrap();
    let change = world.store.apply(plan).unwrap();
    while change.progress().phase != annulus::Phase::Verifying {
        testing::heal_step(&world.store).unwrap();
        testing::change_step(&world.store).unwrap();
    }
    world.heal();
    assert!(!world.saw(|e| matches!(e, EventKind::Compacted { .. })));
    while testing::change_step(&world.store).unwrap() {}
    world.check();
    world.check_copies();
}

/// A shard that is being rid of what it does not own is compacted meanwhile: its new seal, too, says that it is being changed.
#[test]
fn what_is_removed_after_a_compaction_is_removed_under_a_seal_that_says_so() {
    let mut world = World::new(options(3, 2));
    world.write_large(0..400, 64 << 10);
    world.store.flush().unwrap();
    let plan = world.store.plan().add_shard(annulus::ShardOptions::new("/added")).preview().unwrap();
    let change = world.store.apply(plan).unwrap();
    while change.progress().phase != annulus::Phase::Cleaning {
        testing::change_step(&world.store).unwrap();
    }
    let begun = |world: &World| (0..3).find(|shard| world.is_applying(*shard));
    while begun(&world).is_none() {
        assert!(testing::change_step(&world.store).unwrap());
    }
    let shard = begun(&world).unwrap();
    world.store.compact(ShardId(shard)).unwrap();
    world.heal();
    assert!(world.saw(|e| matches!(e, EventKind::Compacted { .. })));
    assert!(!world.is_applying(shard));
    assert!(testing::change_step(&world.store).unwrap());
    assert!(world.is_applying(shard));
    while testing::change_step(&world.store).unwrap() {}
    assert!(!world.is_applying(shard));
    world.check();
    world.check_copies();
}

/// A shard that was away when a keyspace was written to last, and was brought up to date when that had been dropped, keeps what it had of it: who
/// is filled beside it got the rest, and the purge waits for both.
#[test]
fn what_is_left_of_a_dropped_keyspace_keeps_no_shard_from_being_filled() {
    for away in [0, 1] {
        for removed in [false, true] {
            let mut world = World::new(options(3, 3));
            world.write(200);
            let dropped = world.store.keyspace("dropped").unwrap();
            dropped.insert("early", "on all").unwrap();
            world.store.flush().unwrap();
            world.rebuild(ShardId(2));
            testing::fail_shard(&world.store, ShardId(away));
            match removed {
                false => dropped.insert("early", "newer").unwrap(),
                true => dropped.remove("early").unwrap(),
            };
            dropped.insert("late", "on two of them").unwrap();
            world.store.flush().unwrap();
            world.store.drop_keyspace("dropped").unwrap();
            world.heal();
            assert!(world.store.health().unwrap().is_good(), "{:?}", world.health(2));
            assert!(!world.saw(|kind| matches!(kind, EventKind::NotHealed { .. })));
            assert!(testing::purge(&world.store).unwrap());
            world.check();
            world.check_copies();
        }
    }
}
