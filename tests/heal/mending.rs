//! Damaged pages that are replaced one by one.

use super::*;

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
fn a_flush_mends_nothing_where_the_user_wants_to_decide() {
    for heal in [Heal::Manual, Heal::Automatic] {
        let mut world = World::new(options(2, 2).heal(heal));
        world.write(500);
        world.store.flush().unwrap();
        let keys: Vec<Vec<u8>> = world.model.keys().take(2).cloned().collect();
        for (shard, key) in [ShardId(0), ShardId(1)].into_iter().zip(&keys) {
            world.factory.corrupt(shard, &internal(key));
            world.store.insert(key, b"again").unwrap();
        }
        assert_eq!(world.store.flush().is_ok(), heal == Heal::Automatic);
    }
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

/// A shard is gone through piece by piece, and damage may lie in any of them.
#[test]
fn damage_far_from_the_beginning_of_a_shard_is_mended() {
    let mut world = World::new(options(2, 2));
    world.write_large(0..120, 64 << 10);
    world.store.flush().unwrap();
    for n in [0_u32, 30, 60, 90, 119] {
        world.factory.corrupt(ShardId(1), &internal(&n.to_be_bytes()));
    }
    world.store.repair(ShardId(1)).unwrap();
    world.heal();
    assert!(world.saw(|e| matches!(e, EventKind::Repaired { pages: 5 })));
    world.check();
    world.check_copies();
}

/// Strikes are for what fails again and again, and not for what is asked again and again, or was put right.
#[test]
fn a_shard_that_is_mended_often_is_not_begun_anew() {
    for damaged in [false, true] {
        let mut world = World::new(options(2, 2));
        world.write(600);
        world.store.flush().unwrap();
        let keys: Vec<Vec<u8>> = world.model.keys().take(5).cloned().collect();
        for key in keys {
            if damaged {
                // Whichever shard is asked first, a scan of them all meets it.
                world.factory.corrupt(ShardId(1), &internal(&key));
                scrub(&world.store);
            } else {
                world.store.repair(ShardId(1)).unwrap();
            }
            world.heal();
            assert!(world.store.health().unwrap().is_good());
        }
        let kinds: Vec<EventKind> = world.told().into_iter().map(|(_, kind)| kind).collect();
        assert!(!kinds.iter().any(|kind| matches!(kind, EventKind::Rebuilding { .. })), "{kinds:?}");
        let repaired = kinds.iter().filter(|kind| matches!(kind, EventKind::Repaired { pages: 1 })).count();
        assert_eq!(repaired, if damaged { 5 } else { 0 }, "{kinds:?}");
        assert!(!kinds.iter().any(|kind| matches!(kind, EventKind::Repaired { pages: 0 })), "{kinds:?}");
        world.check();
        world.check_copies();
    }
}

/// Damage that a flush met is gone when it is looked for: the shard is opened again, and only if that was of no use begun anew.
#[test]
fn damage_that_nobody_finds_has_the_shard_opened_again() {
    let mut world = World::new(options(2, 2));
    world.write(600);
    world.store.flush().unwrap();
    let key = world.model.keys().next().unwrap().clone();
    for times in 1..=3 {
        world.factory.corrupt(ShardId(1), &internal(&key));
        world.store.insert(&key, format!("newer {times}")).unwrap();
        world.model.insert(key.clone(), format!("newer {times}").into_bytes());
        world.store.flush().unwrap();
        assert!(matches!(world.health(1), Health::Offline(_)), "{:?}", world.health(1));
        world.factory.heal(ShardId(1));
        world.heal();
        assert!(world.store.health().unwrap().is_good());
        // Each time it was flushed to in between, so it has not failed twice in a row.
        assert!(!world.saw(|e| matches!(e, EventKind::Rebuilding { .. } | EventKind::Repaired { .. })));
        world.check();
        world.check_copies();
    }
}

/// Damage that no replica can make up for is told, piece by piece of the shard, and stays known.
#[test]
fn what_no_replica_has_whole_stays_damaged() {
    for both in [false, true] {
        let mut world = World::new(options(2, 2));
        world.write_large(0..120, 64 << 10);
        world.store.flush().unwrap();
        let internal = |n: u32| internal(&n.to_be_bytes());
        world.factory.corrupt(ShardId(1), &internal(100));
        // Close to the beginning, and followed by much that is whole.
        world.factory.corrupt(ShardId(1), &internal(3));
        if both {
            world.factory.corrupt(ShardId(0), &internal(3));
        }
        world.store.repair(ShardId(1)).unwrap();
        world.heal_a_while();
        assert_eq!(world.saw(|e| matches!(e, EventKind::NotHealed { .. })), both);
        if both {
            let error = world.store.get(3_u32.to_be_bytes()).unwrap_err();
            assert!(matches!(error.kind(), annulus::ErrorKind::Corruption), "{error}");
            assert!(matches!(world.health(1), Health::Degraded(_)), "{}", world.health(1));
            assert_eq!(world.store.get(100_u32.to_be_bytes()).unwrap().unwrap().len(), 64 << 10);
            world.factory.heal(ShardId(0));
        }
        world.heal();
        assert!(world.store.health().unwrap().is_good());
        world.check();
        world.check_copies();
    }
}

/// What fails while it is mended is opened again once, and then begun anew.
#[test]
fn a_shard_that_fails_twice_while_it_is_mended_is_begun_anew() {
    for times in [1, 2] {
        let mut world = World::new(options(3, 2));
        world.write(1200);
        world.store.flush().unwrap();
        world.factory.fail_times(ShardId(1), EngineOperation::Replace, times);
        let key =
            world.model.keys().find(|key| world.store.ring().preference_list(key)[0] == ShardId(1)).unwrap();
        world.factory.corrupt(ShardId(1), &internal(key));
        world.check();
        world.heal();
        assert_eq!(world.saw_rebuilding(), times == 2, "{times}");
        world.check();
        world.check_copies();
    }
}

/// A flush that met damage on every owner goes on when all of a shard's damage has been put right, and not before.
#[test]
fn a_flush_does_not_go_on_with_a_shard_that_is_mended_in_part() {
    let mut world = World::new(options(2, 2));
    world.write(600);
    world.store.flush().unwrap();
    let keys: Vec<Vec<u8>> = world.model.keys().take(2).cloned().collect();
    world.factory.corrupt(ShardId(0), &internal(&keys[0]));
    world.factory.corrupt(ShardId(0), &internal(&keys[1]));
    world.factory.corrupt(ShardId(1), &internal(&keys[1]));
    for key in &keys {
        world.store.insert(key, b"over the damage").unwrap();
        world.model.insert(key.clone(), b"over the damage".to_vec());
    }
    let error = world.store.flush().unwrap_err();
    assert_eq!(error.kind(), annulus::ErrorKind::Unavailable, "{error}");
    assert!(!world.saw(|e| matches!(e, EventKind::Repaired { .. })));
    for shard in [0, 1] {
        assert!(matches!(world.health(shard), Health::Degraded(_)), "{}", world.health(shard));
    }
    for (key, value) in &world.model {
        assert_eq!(world.store.get(key).unwrap().as_deref(), Some(&value[..]));
    }
    world.factory.heal(ShardId(1));
    world.heal();
    world.store.flush().unwrap();
    world.heal();
    world.check();
    world.check_copies();
}

/// Where every owner met damage that nobody finds any more, one is opened again, and begun anew if it fails so once more.
#[test]
fn a_shard_that_fails_for_no_reason_is_opened_again_once_and_then_begun_anew() {
    let mut world = World::new(options(2, 2));
    world.write(600);
    world.store.flush().unwrap();
    let key = world.model.keys().next().unwrap().clone();
    for again in [false, true] {
        for shard in [0, 1] {
            world.factory.corrupt(ShardId(shard), &internal(&key));
        }
        world.store.insert(&key, format!("newer, {again}")).unwrap();
        world.model.insert(key.clone(), format!("newer, {again}").into_bytes());
        world.store.flush().unwrap_err();
        for shard in [0, 1] {
            assert!(matches!(world.health(shard), Health::Degraded(_)), "{}", world.health(shard));
            world.factory.heal(ShardId(shard));
        }
        // Nothing has been flushed to them since.
        world.heal_until_good();
        assert_eq!(world.saw_rebuilding(), again);
        assert!(world.saw(|e| matches!(e, EventKind::CatchingUp { .. })));
    }
    world.heal();
    world.store.flush().unwrap();
    world.check();
    world.check_copies();
}

/// What lies between two shards may have been nobody's: then they are level without a flush, and say so.
#[test]
fn shards_between_which_nothing_is_lacking_are_level() {
    let mut world = World::new(options(2, 2));
    world.write(600);
    let dropped = world.store.keyspace("dropped").unwrap();
    world.store.flush().unwrap();
    world.factory.fail(ShardId(1), EngineOperation::Apply);
    for n in 0..50_u32 {
        dropped.insert(n.to_be_bytes(), b"to be dropped").unwrap();
    }
    world.store.flush().unwrap();
    drop(dropped);
    world.store.drop_keyspace("dropped").unwrap();
    world.factory.heal(ShardId(1));
    world.kill();
    let applied =
        |world: &World| world.store.health().unwrap().shards.iter().map(|s| s.applied).collect::<Vec<_>>();
    let before = applied(&world);
    assert!(before[1] < before[0], "{before:?}");
    world.store.repair(ShardId(0)).unwrap();
    world.heal();
    assert_eq!(applied(&world), [before[0]; 2]);
    world.check();
    world.check_copies();
}

/// A page that the disk cannot read is not told from a disk that is away, at first; when it comes again the pages are looked
/// through.
#[test]
fn a_page_that_cannot_be_read_again_and_again_is_mended() {
    for replicas in [2, 1] {
        let mut world = World::new(options(3, replicas));
        world.write(900);
        world.store.flush().unwrap();
        let ring = world.store.ring();
        let key = world.model.keys().find(|key| ring.preference_list(key)[0] == ShardId(1)).unwrap().clone();
        world.factory.mute(ShardId(1));
        world.factory.corrupt(ShardId(1), &internal(&key));
        for _ in 0..4 {
            match world.store.get(&key) {
                Ok(value) => assert_eq!(value.as_deref(), Some(&world.model[&key][..])),
                Err(error) => assert!(replicas == 1, "{error}"),
            }
            if replicas == 2 {
                world.heal();
            } else {
                world.heal_a_while();
            }
            // A flush in between says nothing of what cannot be read.
            if replicas == 2 {
                world.write(1);
                world.store.flush().unwrap();
            }
        }
        let told = world.told();
        let count = |is: &dyn Fn(&EventKind) -> bool| told.iter().filter(|(_, kind)| is(kind)).count();
        if replicas == 2 {
            assert_eq!(count(&|kind| matches!(kind, EventKind::Offline { .. })), 2, "{told:?}");
            assert_eq!(count(&|kind| matches!(kind, EventKind::Repaired { pages: 1 })), 1, "{told:?}");
            assert!(!world.saw_rebuilding());
            world.check();
            world.check_copies();
        } else {
            // Nobody has it: the rest goes on.
            world.factory.heal(ShardId(1));
            world.heal();
            world.check();
        }
    }
}

/// Where it was the way to the disk that failed, no damage is found, and there is no replica: the shard is taken as it is.
#[test]
fn a_shard_without_replicas_that_fails_for_no_reason_comes_back() {
    let mut world = World::new(options(2, 1));
    world.write(600);
    world.store.flush().unwrap();
    for _ in 0..6 {
        world.factory.fail_times(ShardId(1), EngineOperation::Cursor, 1);
        world.store.iter().collect::<Result<Vec<_>, _>>().unwrap_err();
        assert!(matches!(world.health(1), Health::Offline(_)), "{}", world.health(1));
        world.heal();
        assert!(world.store.health().unwrap().is_good());
        world.check();
    }
}

/// A page that nobody can put right costs its own records, whatever meets it.
#[test]
fn damage_without_replicas_that_a_purge_meets_costs_no_other_record() {
    for away in [false, true] {
        let replicas = 1 + usize::from(away);
        let mut world = World::new(options(replicas, replicas));
        world.write(300);
        let dropped = world.store.keyspace("dropped").unwrap();
        for n in 0..200_u32 {
            dropped.insert(n.to_be_bytes(), b"to be dropped").unwrap();
        }
        world.store.flush().unwrap();
        let inside = [&1u32.to_be_bytes()[..], &77u32.to_be_bytes()].concat();
        world.factory.corrupt(ShardId(0), &inside);
        if away {
            world.factory.fail(ShardId(1), EngineOperation::Open);
            testing::fail_shard(&world.store, ShardId(1));
        }
        drop(dropped);
        world.store.drop_keyspace("dropped").unwrap();
        let state = |world: &World| {
            let _ = testing::purge(&world.store);
            world.heal_a_while();
            world.check();
            assert!(!matches!(world.health(0), Health::Offline(_)), "{}", world.health(0));
        };
        state(&world);
        world.reopen();
        state(&world);
        // When it can be put right, it is, and the rest of the purge is done.
        world.factory.heal(ShardId(1));
        if !away {
            world.factory.heal(ShardId(0));
        }
        world.reopen();
        let met = testing::purge(&world.store).is_err();
        assert_eq!(met, away);
        world.heal();
        assert_eq!(testing::purge(&world.store).unwrap(), away);
        world.check();
        world.check_copies();
    }
}

/// A shard that is opened again because it could not be read, and has damage that nobody can put right, serves the rest.
#[test]
fn a_shard_with_damage_that_nobody_can_put_right_comes_back() {
    let mut world = World::new(options(1, 1));
    world.write(900);
    world.store.flush().unwrap();
    let key = world.model.keys().nth(40).unwrap().clone();
    world.factory.corrupt(ShardId(0), &internal(&key));
    let other = world.model.keys().nth(200).unwrap().clone();
    for _ in 0..2 {
        world.factory.fail_times(ShardId(0), EngineOperation::Get, 1);
        world.store.get(&other).unwrap_err();
        for _ in 0..20 {
            let _ = testing::heal_step(&world.store);
        }
    }
    assert!(matches!(world.health(0), Health::Degraded(_)), "{}", world.health(0));
    assert_eq!(world.store.get(&key).unwrap_err().kind(), annulus::ErrorKind::Corruption);
    for (other, value) in world.model.iter().filter(|(other, _)| **other != key) {
        assert_eq!(world.store.get(other).unwrap().as_deref(), Some(&value[..]));
    }
    world.write(100);
    world.model.remove(&key);
    world.store.remove(&key).unwrap();
    world.factory.heal(ShardId(0));
    world.heal_until_good();
    world.check();
    world.check_copies();
}

/// An engine that panics once is opened again, and not taken for one that has to be begun anew.
#[test]
fn a_shard_that_cannot_be_looked_through_for_a_panic_is_opened_again() {
    let mut world = World::new(options(2, 2));
    world.write(900);
    world.store.flush().unwrap();
    world.factory.panic_times(ShardId(0), EngineOperation::Verify, 1);
    world.store.repair(ShardId(0)).unwrap();
    world.heal();
    assert!(world.saw(|kind| matches!(kind, EventKind::CatchingUp { .. })));
    assert!(!world.saw_rebuilding() && !world.saw(|kind| matches!(kind, EventKind::NotHealed { .. })));
    assert!(world.store.health().unwrap().is_good());
    world.check();
    world.check_copies();
}

/// Where nobody has what it has, it goes on serving what it can.
#[test]
fn a_shard_that_cannot_be_looked_through_and_has_no_replica_goes_on_serving() {
    let mut world = World::new(options(1, 1));
    world.write(900);
    world.store.flush().unwrap();
    world.factory.panic_times(ShardId(0), EngineOperation::Verify, 1);
    world.store.repair(ShardId(0)).unwrap();
    world.heal_a_while();
    assert!(!world.saw(|kind| matches!(kind, EventKind::Offline { .. })), "{}", world.health(0));
    world.check();
}

/// Its disk is full by the time that what was put right is to be made durable: that comes later.
#[test]
fn a_shard_whose_disk_is_full_when_a_page_has_been_put_right_goes_on_serving() {
    let mut world = World::new(options(2, 2));
    world.write(600);
    world.store.flush().unwrap();
    let key = world.model.keys().nth(50).unwrap().clone();
    world.factory.corrupt(ShardId(0), &internal(&key));
    let dir = world.dir(0);
    let seal = move |path: &Path| path.starts_with(&dir) && path.to_string_lossy().contains("SEAL");
    // The first says that it is being changed.
    let full = Fault::on(Operation::Rename).at(seal).after(1);
    world.disk.inject(full.error(std::io::ErrorKind::StorageFull));
    world.store.repair(ShardId(0)).unwrap();
    world.heal_a_while();
    assert!(!world.saw(|e| matches!(e, EventKind::Offline { .. })), "{}", world.health(0));
    world.check();
    world.disk.heal();
    world.heal();
    assert!(world.store.health().unwrap().is_good());
    world.check();
    world.check_copies();
}

/// Who meets damage looks no further than there: all of a shard takes hours to verify.
#[test]
fn readers_and_flushes_do_not_look_through_a_shard_that_nobody_can_put_right() {
    let mut world = World::new(options(1, 1));
    world.write_large(0..200, 64 << 10);
    world.store.flush().unwrap();
    let calls = |world: &World| world.factory.calls(ShardId(0), EngineOperation::Verify);
    let first = world.model.keys().next().unwrap().clone();
    world.factory.corrupt(ShardId(0), &internal(&first));
    for scan in [|store: &Store| store.first(), |store: &Store| store.iter().next().transpose()] {
        let before = calls(&world);
        assert_eq!(scan(&world.store).unwrap_err().kind(), annulus::ErrorKind::Corruption);
        assert!(calls(&world) <= before + 1, "{} calls", calls(&world) - before);
    }
    let last = world.model.keys().next_back().unwrap().clone();
    world.factory.heal(ShardId(0));
    world.factory.corrupt(ShardId(0), &internal(&last));
    let before = calls(&world);
    world.store.last().unwrap_err();
    world.store.insert(&last, b"over the damage").unwrap();
    world.store.flush().unwrap_err();
    assert!(calls(&world) <= before + 1, "{} calls", calls(&world) - before);
}
