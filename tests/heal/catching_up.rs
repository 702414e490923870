//! Shards that lack what the journal still has.

use super::*;

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
    assert!(!world.saw_rebuilding());
    world.check();
    world.check_copies();
    world.reopen();
    world.check();
    world.check_copies();
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
    assert!(!world.saw_rebuilding());
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
    assert!(!world.saw_rebuilding());
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

/// A shard that was full is opened again; while it is, and as long as it catches up, others must answer for it.
#[test]
fn of_shards_that_were_full_those_come_back_first_without_which_nothing_is_lost() {
    let mut world = World::new(options(3, 2));
    world.write(600);
    world.store.flush().unwrap();
    world.fill_disks(&[1]);
    world.write(100);
    world.store.flush().unwrap();
    assert!(matches!(world.health(1), Health::Offline(_)), "the others have gone on without it");
    world.fill_disks(&[0, 2]);
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
    let told = world.told().into_iter();
    let opened = told.filter(|(_, kind)| matches!(kind, EventKind::CatchingUp { .. }));
    let mut opened: Vec<u32> = opened.map(|(shard, _)| shard.unwrap().0).collect();
    opened.sort_unstable();
    assert_eq!(opened, [0, 1, 2], "each is opened again once");
    world.check_copies();
}

/// A shard that lacks a part of the journal, and the segment where that begins.
fn lacking(retention: u64) -> (World, PathBuf) {
    let mut world = World::new(options(3, 2).journal_retention(retention));
    world.write(300);
    world.store.flush().unwrap();
    world.factory.fail(ShardId(1), EngineOperation::Apply);
    world.write(500);
    world.store.flush().unwrap();
    assert!(matches!(world.health(1), Health::Offline(_)));
    let journal = Path::new("/store/journal");
    let names = world.disk.list(journal).unwrap().into_iter().filter(|name| name.ends_with(".seg"));
    let oldest = journal.join(names.min().unwrap());
    (world, oldest)
}

/// What a shard lacks is damaged in the journal: its replicas have it.
#[test]
fn a_shard_whose_part_of_the_journal_is_damaged_is_filled_from_its_replicas() {
    let (world, oldest) = lacking(1 << 30);
    // Frames in the middle of what it lacks.
    world.disk.damage(&oldest, |bytes| bytes[20_000..28_000].fill(7)).unwrap();
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
    assert!(world.saw_rebuilding());
    world.check();
    world.check_copies();
}

/// The journal lies on a disk of which a part cannot be read any more: what a shard lacks of it its replicas have.
#[test]
fn a_shard_whose_part_of_the_journal_cannot_be_read_is_filled_from_its_replicas() {
    let (world, oldest) = lacking(1 << 20);
    world.disk.inject(Fault::on(Operation::Read).at(move |path| path == oldest));
    world.factory.heal(ShardId(1));
    for _ in 0..200 {
        testing::heal_step(&world.store).unwrap();
    }
    assert_eq!(world.health(1), Health::Online);
    assert!(world.saw_rebuilding());
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
    assert!(!world.saw_rebuilding());
    let applied: Vec<_> = world.store.stats().unwrap().shards.iter().map(|shard| shard.applied).collect();
    assert!(applied.iter().all(|seq| *seq == applied[0]), "{applied:?}");
    world.check();
    world.check_copies();
    world.reopen();
    world.check_copies();
}

/// More waits in the journal than the memory that the store is opened with holds: it goes to the shards on the way, and a shard
/// that fails meanwhile is left behind.
#[test]
fn a_journal_that_is_larger_than_the_memory_is_replayed_through_it() {
    let written = |replicas: usize| {
        let mut world = World::new(options(3, replicas).memory_budget(256 << 20));
        world.write_large(0..600, 64 << 10);
        world.store.sync().unwrap();
        world.disk = world.disk.kill();
        world.options = options(3, replicas);
        world.factory.crash(1);
        world
    };
    let reopen = |world: &World| {
        let (disk, factory) = (Arc::new(world.disk.clone()), Arc::new(world.factory.clone()));
        testing::open(
            Path::new("/store"),
            &world.options,
            Seams { disk, factory, background: Background::Off },
        )
    };
    for fails in [false, true] {
        let mut world = written(2);
        if fails {
            world.factory.fail(ShardId(1), EngineOperation::Apply);
        }
        world.store = reopen(&world).unwrap();
        let stats = world.store.stats().unwrap();
        assert!(stats.memtable_bytes <= 8 << 20, "{stats:?}");
        assert_eq!(matches!(world.health(1), Health::Offline(_)), fails);
        let on_shards = testing::held_by(&world.store, annulus::KeyspaceId(0), ShardId(0)).unwrap().len();
        assert!(on_shards > 200, "{on_shards}");
        world.check();
        world.factory.heal(ShardId(1));
        world.heal();
        world.check();
        world.check_copies();
    }
    // Where nobody else has it the store is not opened without it.
    let world = written(1);
    world.factory.fail(ShardId(1), EngineOperation::Apply);
    let error = reopen(&world).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("shard 1"), "{error}");
    world.factory.heal(ShardId(1));
    let mut world = world;
    world.store = reopen(&world).unwrap();
    world.check();
}

/// The journal begins with the very write that comes after the shard's last: nothing is lacking.
#[test]
fn a_shard_that_the_journal_just_reaches_catches_up() {
    let mut world = World::new(options(3, 2).journal_retention(1 << 30));
    // Every commit has a segment of its own.
    world.write_large(0..12, 60 << 10);
    world.store.flush().unwrap();
    world.factory.fail(ShardId(1), EngineOperation::Apply);
    world.write_large(12..24, 60 << 10);
    world.store.flush().unwrap();
    let applied = world.store.health().unwrap().shards[1].applied;
    let first = world.store.stats().unwrap().journal.first_seq;
    assert_eq!(first, annulus::Seq(applied.0 + 1));
    world.factory.heal(ShardId(1));
    world.heal();
    assert!(world.saw(|e| matches!(e, EventKind::CatchingUp { from } if *from == first.0)));
    assert!(!world.saw_rebuilding());
    world.check();
    world.check_copies();
}

/// A disk that was full is no reason to copy a shard anew, however often it was.
#[test]
fn a_shard_that_was_full_several_times_is_opened_again_each_time() {
    let mut world = World::new(options(2, 2));
    world.write(600);
    world.store.flush().unwrap();
    for _ in 0..4 {
        world.fill_disks(&[0, 1]);
        world.write(100);
        world.store.flush().unwrap_err();
        for shard in [0, 1] {
            assert!(matches!(world.health(shard), Health::Degraded(_)), "{}", world.health(shard));
        }
        world.disk.heal();
        world.heal_until_good();
    }
    let given_up = |e: &EventKind| {
        matches!(e, EventKind::Rebuilding { .. } | EventKind::NotHealed { .. } | EventKind::Offline { .. })
    };
    assert!(!world.saw(given_up));
    world.heal();
    world.check();
    world.check_copies();
}

/// One that could not be written to is opened again when another one, which is offline, has taken over: that alone is opened for it.
#[test]
fn a_shard_that_serves_is_not_opened_again_for_another_one() {
    let mut world = World::new(options(3, 2));
    world.write(600);
    world.store.flush().unwrap();
    world.factory.fail(ShardId(2), EngineOperation::Apply);
    world.write(100);
    world.store.flush().unwrap();
    // From its first try on it rests.
    world.factory.fail(ShardId(2), EngineOperation::Open);
    world.steps(5);
    world.fill_disks(&[1]);
    world.write(100);
    let _ = world.store.flush();
    assert!(matches!(world.health(1), Health::Degraded(_)), "{}", world.health(1));
    world.disk.heal();
    world.factory.heal(ShardId(2));
    let opened = world.factory.calls(ShardId(0), EngineOperation::Open);
    world.heal();
    assert_eq!(world.factory.calls(ShardId(0), EngineOperation::Open), opened);
    world.check();
    world.check_copies();
}

/// What fitted into memory before a crash fits after it, and an opening waits for no flush of it.
#[test]
fn what_fits_into_memory_is_not_flushed_by_an_opening() {
    let mut world = World::new(options(3, 2));
    // Half of the memory is for tables: of that three quarters, more than one table's share.
    world.write_large(0..48, 64 << 10);
    world.store.sync().unwrap();
    world.disk = world.disk.kill();
    world.factory.crash(1);
    world.store = open(&world.disk, &world.factory, &world.options);
    for shard in 0..3 {
        let held = testing::held_by(&world.store, annulus::KeyspaceId(0), ShardId(shard)).unwrap();
        assert!(held.is_empty(), "shard {shard} has {} records", held.len());
    }
    world.check();
    world.check_copies();
}

/// Removing needs room before it makes any, and a disk that is full is no reason not to read what is on it.
#[test]
fn shards_on_full_disks_are_read_while_records_are_to_be_removed_from_them() {
    let mut world = World::new(options(3, 2));
    world.write(900);
    let plan = world.store.plan().add_shard(annulus::ShardOptions::new("/mnt/new")).preview().unwrap();
    let change = world.store.apply(plan).unwrap();
    while change.progress().phase != annulus::Phase::Cleaning {
        assert!(testing::change_step(&world.store).unwrap());
    }
    world.fill_disks(&[0, 1, 2]);
    let failed = (0..12).filter(|_| testing::change_step(&world.store).is_err()).count();
    assert!(failed > 0);
    world.check();
    let health = world.store.health().unwrap();
    assert_eq!(health.unavailable, 0, "{health:?}");
    assert!((0..3).any(|shard| matches!(world.health(shard), Health::Degraded(_))), "{health:?}");
    world.disk.heal();
    world.heal();
    while testing::change_step(&world.store).unwrap() {}
    world.check();
    world.check_copies();
}

/// The same for a keyspace that is dropped, which people do to make room.
#[test]
fn a_shard_on_a_full_disk_is_read_while_a_keyspace_is_to_be_removed_from_it() {
    let mut world = World::new(options(2, 1));
    world.write(600);
    let dropped = world.store.keyspace("dropped").unwrap();
    for n in 0..200_u32 {
        dropped.insert(n.to_be_bytes(), b"to be dropped").unwrap();
    }
    world.store.flush().unwrap();
    drop(dropped);
    world.store.drop_keyspace("dropped").unwrap();
    world.fill_disks(&[0, 1]);
    testing::purge(&world.store).unwrap_err();
    assert!(matches!(world.health(0), Health::Degraded(_)), "{}", world.health(0));
    world.check();
    world.disk.heal();
    world.heal();
    assert!(testing::purge(&world.store).unwrap());
    world.check();
    world.check_copies();
}

/// Beside one who writes more than is replayed at once a shard is given more, and is level in the end.
#[test]
fn a_shard_catches_up_with_one_who_writes_as_fast() {
    let mut world = World::new(options(3, 2).journal_retention(1 << 30));
    let mut round = 0;
    let mut write = |world: &mut World, mib: u32| {
        for _ in 0..mib {
            round += 1;
            let keys = (round % 7 * 16)..(round % 7 * 16 + 16);
            world.write_large(keys, 64 << 10);
            world.store.flush().unwrap();
        }
    };
    write(&mut world, 2);
    world.factory.fail(ShardId(1), EngineOperation::Apply);
    write(&mut world, 12);
    world.factory.heal(ShardId(1));
    let mut steps = 0;
    while world.health(1) != Health::Online {
        world.steps(1);
        steps += 1;
        assert!(steps < 8, "it is not level after {steps} steps");
        write(&mut world, 10);
    }
    assert!(!world.saw_rebuilding() && steps > 2, "{steps}");
    world.check();
    world.check_copies();
}

/// After a copy of the journal was accepted that ends before what a shard has, its numbers are those of other writes: what it
/// has by them is not what the store has.
#[test]
fn a_shard_that_is_ahead_of_the_journal_is_begun_anew() {
    let mut world = World::new(options(3, 2));
    world.write(500);
    world.store.flush().unwrap();
    let before = world.disk.fork();
    world.write(200);
    world.store.flush().unwrap();
    let seal = world.dir(1).join("SEAL");
    let ahead = world.disk.read(&seal).unwrap().unwrap();
    let blank = open(&SimDisk::new(1), &MemoryFactory::new(), &world.options);
    drop(std::mem::replace(&mut world.store, blank));
    world.disk = before.kill();
    world.disk.replace(&seal, &ahead).unwrap();
    // It is away when the store is opened.
    world.factory.fail(ShardId(1), EngineOperation::Open);
    world.store = open(&world.disk, &world.factory, &world.options);
    world.factory.heal(ShardId(1));
    world.heal();
    assert!(
        world.saw(
            |e| matches!(e, EventKind::Rebuilding { cause } if cause.contains("the journal none after"))
        )
    );
    assert!(world.store.health().unwrap().is_good());
}
