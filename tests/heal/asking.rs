//! Who may ask for what, and what is told of how the shards are.

use super::*;

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
    assert!(world.saw_rebuilding());
    world.check();
    world.check_copies();
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

/// What was asked for and is refused is over: something else may be asked then.
#[test]
fn a_shard_that_does_not_serve_is_not_compacted() {
    let mut world = World::new(options(3, 2).heal(Heal::Manual));
    world.write(800);
    world.store.flush().unwrap();
    testing::fail_shard(&world.store, ShardId(1));
    world.store.compact(ShardId(1)).unwrap();
    world.heal_a_while();
    assert!(matches!(world.health(1), Health::Offline(_)), "{:?}", world.health(1));
    world.store.repair(ShardId(1)).unwrap();
    world.heal();
    assert!(!world.saw(|e| matches!(e, EventKind::Compacted { .. } | EventKind::Rebuilding { .. })));
    world.check();
    world.check_copies();
}

/// While one thing is being done for a shard another is refused, up to its end and no longer.
#[test]
fn a_compaction_is_under_way_until_it_is_done() {
    let mut world = World::new(options(3, 2));
    world.write_large(0..200, 64 << 10);
    world.store.flush().unwrap();
    world.store.compact(ShardId(1)).unwrap();
    let mut refused = 0;
    while !world.saw(|e| matches!(e, EventKind::Compacted { .. })) {
        let error = world.store.rebuild(ShardId(1)).unwrap_err();
        assert_eq!(error.kind(), annulus::ErrorKind::Busy, "{error}");
        refused += 1;
        world.steps(1);
    }
    assert!(refused > 4, "it took but {refused} steps");
    world.store.rebuild(ShardId(1)).unwrap();
    world.heal();
    world.check();
    world.check_copies();
}

/// One that was full comes back when that is asked for, and takes no other with it that nobody has asked for.
#[test]
fn a_repair_that_was_asked_for_brings_no_other_shard_back() {
    let mut world = World::new(options(2, 2).heal(Heal::Manual));
    world.write(600);
    world.store.flush().unwrap();
    testing::fail_shard(&world.store, ShardId(1));
    world.fill_disks(&[0]);
    world.write(100);
    world.store.flush().unwrap_err();
    assert!(matches!(world.health(0), Health::Degraded(_)), "{}", world.health(0));
    world.disk.heal();
    world.store.repair(ShardId(0)).unwrap();
    world.heal();
    assert!(matches!(world.health(1), Health::Offline(_)), "{}", world.health(1));
    assert_eq!(world.health(0), Health::Online);
    world.check();
    world.store.repair(ShardId(1)).unwrap();
    world.heal();
    world.check();
    world.check_copies();
}

/// Who waits for a flush hears that it gets further, also where a few records are as large as many: one that is slow at it does not hang.
#[test]
fn a_flush_of_large_records_is_heard_of_on_its_way() {
    let mut world = World::new(options(1, 1));
    world.write_large(0..64, 1 << 20);
    world.store.flush().unwrap();
    let runs = world.factory.calls(ShardId(0), EngineOperation::Apply);
    assert!((4..=16).contains(&runs), "64 MiB came in {runs} parts");
    world.check();
    world.check_copies();
}
