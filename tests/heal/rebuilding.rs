//! Shards that are begun anew and filled, in the place of what is gone or beside what serves.

use super::*;
use annulus::CheckpointOptions;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

/// The sector under a small file of a shard cannot be read at an opening, and never again, on a disk that is there otherwise.
#[test]
fn a_shard_with_a_file_that_cannot_be_read_is_begun_anew() {
    let mut world = World::new(options(3, 2));
    world.write(800);
    world.store.flush().unwrap();
    let seal = world.dir(1).join("SEAL");
    let blank = open(&SimDisk::new(1), &MemoryFactory::new(), &world.options);
    std::mem::replace(&mut world.store, blank).close().unwrap();
    let unreadable = seal.clone();
    world.disk.inject(Fault::on(Operation::Read).at(move |path| path == unreadable));
    world.store = open(&world.disk, &world.factory, &world.options);
    assert!(matches!(world.health(1), Health::Offline(_)));
    for _ in 0..200 {
        testing::heal_step(&world.store).unwrap();
        if world.saw_rebuilding() {
            // What is written anew lies in another place.
            world.disk.heal();
        }
    }
    assert!(world.saw_rebuilding());
    world.check();
    world.check_copies();
}

/// The other copy has a damaged page, of which somebody knows or nobody does: it is put right before this one is set aside.
#[test]
fn a_shard_is_not_given_up_while_it_has_what_the_others_lack() {
    for (known, rebuilt, damaged) in [(false, 0, 1), (true, 0, 1), (false, 1, 0), (true, 1, 0)] {
        let mut world = World::new(options(2, 2));
        world.write_large(0..100, 64 << 10);
        world.store.flush().unwrap();
        let key = 77u32.to_be_bytes();
        world.factory.corrupt(ShardId(damaged), &internal(&key));
        if known {
            for item in world.store.iter() {
                item.unwrap();
            }
            world.check();
        }
        world.store.rebuild(ShardId(rebuilt)).unwrap();
        world.heal();
        assert!(world.store.health().unwrap().is_good() && world.saw_rebuilding());
        world.check();
        world.check_copies();
    }
}

/// The shard that it is to be filled from goes offline when it has been verified in part: of the other one nothing has been.
#[test]
fn what_is_known_of_one_source_is_not_taken_for_known_of_another() {
    let mut world = World::new(options(3, 3));
    world.write_large(0..200, 64 << 10);
    world.store.flush().unwrap();
    let early = 3u32.to_be_bytes();
    for (away, damaged) in [(1, 2), (2, 1)] {
        world.factory.corrupt(ShardId(damaged), &internal(&early));
        world.store.rebuild(ShardId(0)).unwrap();
        world.steps(3);
        world.factory.fail(ShardId(away), EngineOperation::Open);
        testing::fail_shard(&world.store, ShardId(away));
        for _ in 0..300 {
            testing::heal_step(&world.store).unwrap();
        }
        world.check();
        assert!(world.saw_rebuilding());
        world.factory.heal(ShardId(away));
        world.heal();
        world.check();
        world.check_copies();
    }
}

/// A shard that serves is to be rebuilt, for which the others are read through: another one that is back is not kept waiting.
#[test]
fn a_shard_that_is_back_is_not_kept_waiting_by_one_that_is_to_be_rebuilt() {
    let mut world = World::new(options(4, 2));
    world.write_large(0..400, 64 << 10);
    world.store.flush().unwrap();
    testing::fail_shard(&world.store, ShardId(3));
    world.write(20);
    world.store.rebuild(ShardId(0)).unwrap();
    world.steps(4);
    assert_eq!(world.health(3), Health::Online);
    assert!(!world.saw_rebuilding());
    world.heal();
    assert!(world.saw_rebuilding());
    world.check();
    world.check_copies();
}

/// Both copies have damage, in different places or in the same: what the shard has that is good is not given up for that.
#[test]
fn a_shard_is_not_rebuilt_from_one_that_cannot_be_put_right() {
    let mut world = World::new(options(2, 2));
    world.write_large(0..100, 64 << 10);
    world.store.flush().unwrap();
    let (first, both) = (11u32.to_be_bytes(), 77u32.to_be_bytes());
    world.factory.corrupt(ShardId(0), &internal(&first));
    world.factory.corrupt(ShardId(0), &internal(&both));
    world.factory.corrupt(ShardId(1), &internal(&both));
    world.store.rebuild(ShardId(0)).unwrap();
    for _ in 0..300 {
        testing::heal_step(&world.store).unwrap();
    }
    assert!(!world.saw_rebuilding());
    let told = |kind: &EventKind| matches!(kind, EventKind::NotHealed { .. });
    assert!(world.saw(told));
    world.model.remove(&both[..]);
    for (key, value) in &world.model {
        assert_eq!(world.store.get(key).unwrap().as_deref(), Some(&value[..]));
    }
    assert!(world.store.get(both).is_err());
}

/// A shard went back in time without a word, and what it gave out until it was rebuilt is not given out any longer.
#[test]
fn what_a_wrong_shard_has_given_out_is_forgotten_with_it() {
    let mut world = World::new(options(2, 2));
    let key = b"k".to_vec();
    for value in ["old", "new"] {
        world.store.insert(&key, value).unwrap();
        world.model.insert(key.clone(), value.as_bytes().to_vec());
        world.store.flush().unwrap();
    }
    let first = world.store.ring().preference_list(&key)[0];
    assert!(world.factory.turn_back(first, &internal(&key)));
    for _ in 0..3 {
        assert_eq!(world.store.get(&key).unwrap().as_deref(), Some(&b"old"[..]));
    }
    world.store.rebuild(first).unwrap();
    world.heal();
    world.check();
    world.check_copies();
}

/// What it gave to a checkpoint neither.
#[test]
fn what_a_rebuild_puts_right_is_in_the_next_checkpoint() {
    right_in_the_next_checkpoint(|world, shard| {
        world.store.rebuild(shard).unwrap();
        world.heal();
    });
}

/// Nor what it gave to one before it failed: from then on the others answer, whether or not it is ever healed.
#[test]
fn what_a_wrong_shard_gave_out_before_it_failed_is_right_in_the_next_checkpoint() {
    right_in_the_next_checkpoint(|world, shard| testing::fail_shard(&world.store, shard));
}

/// Nor what it gave to one while the others were away: from the moment on that they are back they answer.
#[test]
fn what_a_wrong_shard_gave_out_while_another_was_away_is_right_in_the_next_checkpoint() {
    let mut tried = 0;
    for wrong in 0..2 {
        for rebuilt in [false, true] {
            let mut world = World::new(options(2, 2));
            world.write(300);
            world.make_wrong(wrong);
            if world.checkpointed() != world.model {
                // It is the one that checkpoints read.
                continue;
            }
            tried += 1;
            let other = ShardId(1 - wrong);
            testing::fail_shard(&world.store, other);
            assert_ne!(world.checkpointed(), world.model);
            world.heal();
            assert_eq!(world.health(other.0), Health::Online);
            if rebuilt {
                world.store.rebuild(ShardId(wrong)).unwrap();
                world.heal();
            }
            assert_eq!(world.checkpointed(), world.model, "shard {wrong} was wrong");
        }
    }
    assert!(tried > 0);
}

/// Nor while another was being filled: when it is whole it is asked again, for everything.
#[test]
fn a_checkpoint_after_a_rebuild_builds_upon_none_that_was_taken_during_it() {
    let mut world = World::new(options(3, 2));
    world.write(300);
    world.store.flush().unwrap();
    world.store.rebuild(ShardId(0)).unwrap();
    while world.health(0) == Health::Online {
        assert!(testing::heal_step(&world.store).unwrap());
    }
    let read = || {
        let (count, told) = (Arc::new(AtomicU64::new(0)), CheckpointOptions::new());
        let seen = count.clone();
        let told = told.progress(move |progress| {
            seen.store(progress.records, Ordering::SeqCst);
            ControlFlow::Continue(())
        });
        world.store.checkpoint_with(&world.repository(), told).unwrap();
        count.load(Ordering::SeqCst)
    };
    let all = world.model.len() as u64;
    assert_eq!([read(), read()], [all, 0]);
    world.heal();
    assert_eq!(world.health(0), Health::Online);
    assert_eq!([read(), read()], [all, 0]);
}

/// After a change of the topology others answer for a record: a checkpoint has what they say, as the store does.
#[test]
fn what_a_wrong_shard_does_not_own_any_more_is_right_in_the_next_checkpoint() {
    let mut wrong = 0;
    for shard in 0..2 {
        let mut world = World::new(options(2, 2));
        world.write(1000);
        world.store.flush().unwrap();
        for key in world.model.keys() {
            world.factory.forge(ShardId(shard), &internal(key), &[]);
        }
        let before = world.checkpointed();
        let plan = world.store.plan().set_replication_factor(1).preview().unwrap();
        world.store.apply(plan).unwrap();
        while testing::change_step(&world.store).unwrap() {}
        let after = content(&world.store);
        assert!(!after.is_empty() && after.len() < world.model.len());
        wrong += u32::from(before != after);
        assert_eq!(world.checkpointed(), after, "shard {shard} was wrong");
    }
    assert!(wrong > 0, "the same shards answer as before");
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
    assert!(world.saw_rebuilding());
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
fn a_shard_is_rewritten_beside_itself() {
    let mut world = World::new(options(3, 2));
    world.write(2000);
    world.store.flush().unwrap();
    world.store.compact(ShardId(1)).unwrap();
    for step in 0.. {
        let told = world.told();
        let sizes = told.iter().find_map(|(_, kind)| match kind {
            EventKind::Compacted { before, after } => Some((*before, *after)),
            _ => None,
        });
        if let Some((before, after)) = sizes {
            assert!(before > 0 && after > 0, "{before} bytes, then {after}");
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
    assert!(world.saw_rebuilding());
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
    assert!(!world.saw_rebuilding());
    assert!(world.saw(|e| matches!(e, EventKind::Repaired { .. })));
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
        assert!(world.saw_rebuilding());
        world.check();
        world.check_copies();
    }
}

/// What was there is kept, and how much that is is told.
#[test]
fn what_is_set_aside_is_told() {
    let mut world = World::new(options(3, 2));
    world.write(500);
    world.store.flush().unwrap();
    let told = |world: &World| {
        let all = world.told().into_iter().map(|(_, kind)| kind);
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
    while !world.saw_rebuilding() {
        world.steps(1);
    }
    let opened = world.told().iter().filter(|(_, kind)| matches!(kind, EventKind::CatchingUp { .. })).count();
    assert_eq!(opened, 5);
    world.factory.heal(ShardId(1));
    world.heal();
    world.check();
    world.check_copies();
}

/// Nobody else has what cannot be read: whoever asked is told, and nothing is copied in vain from then on, by nobody.
#[test]
fn a_compaction_that_cannot_come_to_its_end_is_given_up() {
    let mut world = World::new(options(1, 1));
    world.write(300);
    world.store.flush().unwrap();
    let key = world.model.keys().nth(50).unwrap().clone();
    world.factory.corrupt(ShardId(0), &internal(&key));
    world.store.compact(ShardId(0)).unwrap();
    world.heal_a_while();
    let calls = |operation| world.factory.calls(ShardId(0), operation);
    let before = (calls(EngineOperation::Versions), calls(EngineOperation::Apply));
    world.heal_a_while();
    world.store.insert("another", "record").unwrap();
    world.store.flush().unwrap();
    let after = (calls(EngineOperation::Versions), calls(EngineOperation::Apply));
    assert_eq!(after, (before.0, before.1 + 1), "the new engine is still there");
    assert!(!world.saw(|e| matches!(e, EventKind::Compacted { .. })));
    // Something else may be asked for, and the same once more.
    world.model.insert(b"another".to_vec(), b"record".to_vec());
    world.factory.heal(ShardId(0));
    world.store.repair(ShardId(0)).unwrap();
    world.heal();
    world.store.compact(ShardId(0)).unwrap();
    world.heal();
    assert!(world.saw(|e| matches!(e, EventKind::Compacted { .. })));
    world.check();
    world.check_copies();
}

/// What cannot be written is what was to take its place, and no more.
#[test]
fn a_shard_whose_new_engine_cannot_be_written_goes_on_with_the_one_it_has() {
    let mut world = World::new(options(1, 1));
    world.write(300);
    world.store.flush().unwrap();
    world.store.compact(ShardId(0)).unwrap();
    world.factory.fail_times(ShardId(0), EngineOperation::Apply, 1);
    world.heal_a_while();
    assert_eq!(world.health(0), Health::Online);
    let lost = |e: &EventKind| matches!(e, EventKind::Offline { .. } | EventKind::Degraded { .. });
    assert!(!world.saw(|e| lost(e) || matches!(e, EventKind::Compacted { .. })));
    world.check();
    world.store.compact(ShardId(0)).unwrap();
    world.heal();
    assert!(world.saw(|e| matches!(e, EventKind::Compacted { .. })));
    world.check();
    world.check_copies();
}

/// It fails again and again, and is whole: what the only other one has lost, as nobody knows yet, is in its files alone.
#[test]
fn a_shard_that_fails_again_and_again_is_not_given_up_while_it_has_what_the_others_lack() {
    let mut world = World::new(options(2, 2));
    world.write(500);
    world.store.flush().unwrap();
    let key = world.model.keys().nth(70).unwrap().clone();
    world.factory.corrupt(ShardId(0), &internal(&key));
    world.factory.fail(ShardId(1), EngineOperation::Apply);
    world.write(100);
    // What is damaged is not met meanwhile.
    assert!(world.model.contains_key(&key));
    world.store.flush().unwrap();
    for _ in 0..100 {
        testing::heal_step(&world.store).unwrap();
    }
    assert_ne!(world.health(1), Health::Online);
    world.factory.heal(ShardId(1));
    world.heal();
    assert!(!world.saw_rebuilding());
    world.check();
    world.check_copies();
}

/// It failed as one does that is damaged, and no damage is found in it: nor is it given up then.
#[test]
fn a_shard_in_which_no_damage_is_found_is_not_given_up_while_it_has_what_the_others_lack() {
    let mut world = World::new(options(2, 2));
    world.write(500);
    world.store.flush().unwrap();
    let keys: Vec<Vec<u8>> = world.model.keys().cloned().collect();
    world.factory.corrupt(ShardId(0), &internal(&keys[70]));
    world.factory.fail_times(ShardId(1), EngineOperation::Apply, 1);
    world.store.insert(&keys[30], b"newer").unwrap();
    world.model.insert(keys[30].clone(), b"newer".to_vec());
    world.store.flush().unwrap();
    world.factory.corrupt(ShardId(1), &internal(&keys[30]));
    while !world.saw(|e| matches!(e, EventKind::CatchingUp { .. })) || world.health(1) == Health::Rebuilding {
        world.steps(1);
    }
    world.factory.heal(ShardId(1));
    world.heal();
    assert!(!world.saw_rebuilding());
    assert!(world.store.health().unwrap().is_good());
    world.check();
    world.check_copies();
}
