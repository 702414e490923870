//! Scrubs: every page is verified, and replicas are compared with each other.

use super::*;
use annulus::CheckpointOptions;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::mpsc::sync_channel;

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
fn a_scrub_compares_what_keyspaces_hold_as_well() {
    let world = World::new(options(3, 2));
    let keyspace = world.store.keyspace("carts").unwrap();
    for n in 0..200_u32 {
        keyspace.insert(n.to_be_bytes(), b"full").unwrap();
    }
    world.store.flush().unwrap();
    let held = |shard: u32| testing::held_by(&world.store, annulus::KeyspaceId(1), ShardId(shard)).unwrap();
    let before: Vec<_> = (0..3).map(held).collect();
    for (key, _) in before[1].iter().take(7) {
        world.factory.forge(ShardId(1), &[&1u32.to_be_bytes()[..], key].concat(), &[]);
    }
    assert_eq!(held(1).len() + 7, before[1].len());
    let report = scrub(&world.store);
    assert_eq!((report.records_compared, report.records_reconciled), (200, 7), "{report:?}");
    assert_eq!((0..3).map(held).collect::<Vec<_>>(), before);
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
        assert!(!world.saw_rebuilding());
        world.check();
        world.check_copies();
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

/// How far it has got lies in a file, and the next opening goes on from there.
#[test]
fn a_scrub_that_was_cancelled_does_not_go_on_at_an_opening() {
    for killed in [true, false] {
        let mut world = World::new(options(3, 2));
        world.write(800);
        world.store.flush().unwrap();
        world.store.scrub().unwrap();
        testing::scrub_step(&world.store).unwrap();
        world.reopen();
        let begun = world.store.scrub().unwrap();
        assert_eq!(begun.progress().report.shards_verified, 1, "it goes on until it is cancelled");
        begun.cancel().unwrap();
        if killed {
            world.disk = world.disk.kill();
            world.factory.crash(1);
            world.store = open(&world.disk, &world.factory, &world.options);
        } else {
            world.reopen();
            assert_eq!(begun.cancel().unwrap_err().kind(), annulus::ErrorKind::Closed);
        }
        assert!(!testing::scrub_step(&world.store).unwrap());
        assert_eq!(scrub(&world.store).shards_verified, 3);
        world.check();
    }
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

/// A page that cannot be read is no reason to disbelieve what lies in all the others.
#[test]
fn a_record_that_one_has_stays_though_another_page_of_that_one_is_damaged() {
    let mut world = World::new(options(3, 2));
    world.write_large(0..400, 8 << 10);
    world.store.flush().unwrap();
    let ring = world.store.ring();
    let owners = |key: &Vec<u8>| {
        let list = ring.preference_list(key);
        (list[0], list[1])
    };
    let mut keys = world.model.keys();
    let key = keys.next().unwrap().clone();
    let (has, lacks) = owners(&key);
    let away = (0..3).map(ShardId).find(|id| *id != has && *id != lacks).unwrap();
    let late = keys.rev().find(|late| {
        let (a, b) = owners(late);
        (a == has && b == away) || (b == has && a == away)
    });
    let late = late.unwrap().clone();
    // In the middle of a flush: after the crash what is there counts as what should be.
    world.factory.fail_times(lacks, EngineOperation::Sync, 1);
    world.write(10);
    world.store.flush().unwrap();
    world.store.sync().unwrap();
    world.disk = world.disk.kill();
    world.factory.crash(1);
    world.store = open(&world.disk, &world.factory, &world.options);
    world.factory.forge(lacks, &internal(&key), &[]);
    world.heal();
    world.store.flush().unwrap();
    while testing::recount(&world.store).unwrap() {}
    world.factory.corrupt(has, &internal(&late));
    world.factory.fail(away, EngineOperation::Open);
    testing::fail_shard(&world.store, away);
    let running = world.store.scrub().unwrap();
    // It does not get past the damaged page, which has no other copy.
    for _ in 0..100 {
        if let Err(error) = testing::scrub_step(&world.store) {
            assert_eq!(error.kind(), annulus::ErrorKind::Corruption, "{error}");
        }
    }
    let report = running.progress().report;
    assert_eq!((report.records_reconciled, report.records_unsettled), (1, 1), "{report:?}");
    world.factory.heal(away);
    world.factory.heal(has);
    world.heal();
    world.check();
    world.check_copies();
}

/// Both owners have lost something, so neither is believed, and a record that only one of them has stays.
#[test]
fn where_no_owner_is_believed_the_record_stays_and_that_is_told() {
    let mut world = World::new(options(2, 2));
    world.write(500);
    world.store.flush().unwrap();
    let keys: Vec<Vec<u8>> = world.model.keys().take(7).cloned().collect();
    for (at, key) in keys.iter().enumerate() {
        world.factory.forge(ShardId(u32::from(at % 2 == 0)), &internal(key), &[]);
    }
    let report = scrub(&world.store);
    assert_eq!((report.records_reconciled, report.records_unsettled), (7, 7), "{report:?}");
    let told = |e: &EventKind| matches!(e, EventKind::Scrubbed { unrepaired: 7, .. });
    assert!(world.saw(told));
    world.check();
    world.check_copies();
    let report = scrub(&world.store);
    assert_eq!((report.records_reconciled, report.records_unsettled), (0, 0), "{report:?}");
}

/// A checkpoint has read a shard that was wrong without a word: what a scrub puts right is in those after it.
#[test]
fn what_a_scrub_puts_right_is_in_the_next_checkpoint() {
    right_in_the_next_checkpoint(|world, _| {
        let report = scrub(&world.store);
        assert_eq!((report.records_reconciled, report.records_unsettled), (3, 0), "{report:?}");
    });
}

/// The same while the checkpoint is under way: it has read what is put right before it ends.
#[test]
fn a_checkpoint_beside_which_a_scrub_puts_something_right_is_not_built_upon() {
    let mut wrong = 0;
    for shard in 0..2 {
        let mut world = World::new(options(2, 2));
        world.write(300);
        world.make_wrong(shard);
        let (read, has_read) = sync_channel(0);
        let (go_on, goes_on) = sync_channel(0);
        let goes_on = Mutex::new(goes_on);
        // It tells when it has read everything, and waits for the scrub; later calls find nobody there.
        let beside = CheckpointOptions::new().progress(move |_| {
            if read.send(()).is_ok() {
                goes_on.lock().unwrap().recv().unwrap();
            }
            ControlFlow::Continue(())
        });
        let repository = world.repository();
        let id = std::thread::scope(|scope| {
            let taking = scope.spawn(|| world.store.checkpoint_with(&repository, beside).unwrap());
            has_read.recv().unwrap();
            drop(has_read);
            assert_eq!(scrub(&world.store).records_reconciled, 3);
            go_on.send(()).unwrap();
            taking.join().unwrap()
        });
        wrong += u32::from(world.restored(id) != world.model);
        assert_eq!(world.checkpointed(), world.model, "shard {shard} was wrong");
    }
    assert!(wrong > 0, "no checkpoint has read the shard that was wrong");
}

/// A shard has given out a wrong record, which is kept in memory since it is asked for often; then the page is damaged, and a scrub that comes
/// upon it first takes another shard's in its place.
#[test]
fn what_a_page_gave_out_before_it_was_mended_is_not_given_out_any_more() {
    let mut world = World::new(options(2, 2));
    world.write(200);
    world.store.flush().unwrap();
    let key = world.model.keys().nth(20).unwrap().clone();
    let first = world.store.ring().preference_list(&key)[0];
    world.factory.forge(first, &internal(&key), &[(annulus::Seq(1), Some(b"wrong"))]);
    for _ in 0..3 {
        assert_eq!(world.store.get(&key).unwrap().as_deref(), Some(&b"wrong"[..]));
    }
    world.factory.corrupt(first, &internal(&key));
    assert_eq!(scrub(&world.store).pages_repaired, 1);
    world.check();
    world.check_copies();
}

/// A shard that was away when the last was written to a keyspace, and was brought up to date when that had been dropped, lacks what the
/// others have yet to be rid of.
#[test]
fn what_is_left_of_a_dropped_keyspace_is_no_difference() {
    for removed in [false, true] {
        let mut world = World::new(options(2, 2));
        world.write(200);
        let dropped = world.store.keyspace("dropped").unwrap();
        dropped.insert("early", "on both").unwrap();
        world.store.flush().unwrap();
        testing::fail_shard(&world.store, ShardId(1));
        match removed {
            false => dropped.insert("late", "on one of them").unwrap(),
            true => dropped.remove("early").unwrap(),
        };
        world.store.flush().unwrap();
        world.store.drop_keyspace("dropped").unwrap();
        world.heal();
        let report = scrub(&world.store);
        assert_eq!((report.records_reconciled, report.records_unsettled), (0, 0), "{report:?}");
        assert_eq!(report.records_compared, world.model.len() as u64);
        assert!(testing::purge(&world.store).unwrap());
        world.check();
        world.check_copies();
    }
}

/// A shard is not believed since a record is missing from it. Another one, which nobody had reason to count yet, holds a later record with it, and
/// is wrong as well.
#[test]
fn a_record_does_not_leave_a_shard_that_is_not_believed_for_one_that_was_never_counted() {
    type Wrong = &'static [(annulus::Seq, Option<&'static [u8]>)];
    let older: Wrong = &[(annulus::Seq(1), Some(b"older"))];
    let removal: Wrong = &[(annulus::Seq(1), None)];
    for (held, unsettled) in [(&[][..], 1), (older, 0), (removal, 0)] {
        let mut world = World::new(options(3, 2));
        world.write_large(0..400, 8 << 10);
        world.store.flush().unwrap();
        let (early, late, [wrong, uncounted]) = early_and_late(&world);
        world.factory.forge(wrong, &internal(&early), &[]);
        world.factory.forge(uncounted, &internal(&late), held);
        let report = scrub(&world.store);
        assert_eq!((report.records_reconciled, report.records_unsettled), (2, unsettled), "{report:?}");
        world.check();
        world.check_copies();
    }
}

/// The same where the other one is right: what has come back on the shard that is not believed goes again.
#[test]
fn what_has_come_back_on_a_shard_that_is_not_believed_goes_when_the_other_one_has_been_counted() {
    let mut world = World::new(options(3, 2));
    world.write_large(0..400, 8 << 10);
    world.store.flush().unwrap();
    let (early, late, [wrong, uncounted]) = early_and_late(&world);
    world.store.remove(&late).unwrap();
    world.model.remove(&late);
    world.store.flush().unwrap();
    world.factory.forge(wrong, &internal(&early), &[]);
    assert!(world.factory.turn_back(wrong, &internal(&late)));
    let before = world.factory.calls(uncounted, EngineOperation::Recount);
    let report = scrub(&world.store);
    assert_eq!((report.records_reconciled, report.records_unsettled), (2, 0), "{report:?}");
    assert!(world.factory.calls(uncounted, EngineOperation::Recount) > before);
    world.check();
    world.check_copies();
}

/// What cannot be read keeps a shard from being counted: of what it lacks nobody knows whether that was removed.
#[test]
fn a_record_does_not_leave_a_shard_that_is_not_believed_for_one_that_could_not_be_counted() {
    let mut world = World::new(options(3, 2));
    world.write_large(0..400, 8 << 10);
    world.store.flush().unwrap();
    let (early, late, [wrong, uncounted]) = early_and_late(&world);
    world.factory.forge(wrong, &internal(&early), &[]);
    world.factory.forge(uncounted, &internal(&late), &[]);
    let running = world.store.scrub().unwrap();
    while running.progress().report.records_compared == 0 {
        testing::scrub_step(&world.store).unwrap();
    }
    // A page that has been verified, and compared: it is met by who counts, and mended after that.
    let ring = world.store.ring();
    let page = world.model.keys().find(|key| ring.preference_list(key).contains(&uncounted)).unwrap();
    world.factory.corrupt(uncounted, &internal(page));
    let report = scrub(&world.store);
    assert!(world.saw(|kind| matches!(kind, EventKind::Repaired { pages: 1 })));
    assert_eq!((report.records_reconciled, report.records_unsettled), (2, 1), "{report:?}");
    world.check();
    world.check_copies();
}

/// Two keys that are compared apart, and two shards: both hold the later one, and the first of them the earlier one with the third.
fn early_and_late(world: &World) -> (Vec<u8>, Vec<u8>, [ShardId; 2]) {
    let ring = world.store.ring();
    let mut keys = world.model.keys();
    let early = keys.next().unwrap().clone();
    let wrong = ring.preference_list(&early)[0];
    let both = |late: &&Vec<u8>| {
        let owners = ring.preference_list(late);
        owners.contains(&wrong) && !owners.contains(&ring.preference_list(&early)[1])
    };
    let late = keys.rev().find(both).unwrap().clone();
    assert!(u32::from_be_bytes(late[..].try_into().unwrap()) > 300, "the chunk is another one");
    let uncounted = *ring.preference_list(&late).iter().find(|id| **id != wrong).unwrap();
    (early, late, [wrong, uncounted])
}

/// What counted against a shard was of the pages that it had then.
#[test]
fn a_shard_that_was_filled_anew_is_believed_again() {
    for reopened in [false, true] {
        let mut world = World::new(options(3, 2));
        world.write_large(0..400, 8 << 10);
        world.store.flush().unwrap();
        let (early, late, [wrong, other]) = early_and_late(&world);
        world.factory.forge(wrong, &internal(&early), &[]);
        let running = world.store.scrub().unwrap();
        while running.progress().report.records_reconciled == 0 {
            testing::scrub_step(&world.store).unwrap();
        }
        assert!(running.progress().running, "the later record is yet to be compared");
        world.store.rebuild(wrong).unwrap();
        world.heal();
        if reopened {
            world.reopen();
        }
        // It was filled from the other one, which loses the record after that.
        world.factory.forge(other, &internal(&late), &[]);
        let report = scrub(&world.store);
        assert_eq!((report.records_reconciled, report.records_unsettled), (2, 0), "{report:?}");
        world.check();
        world.check_copies();
    }
}
