//! Regressions found by reading: each of these lost data, or said nothing where it should have spoken.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use annulus::testing::{
    self, Background, EngineOperation, Fault, MemoryFactory, Operation, PowerCut, Seams, SimDisk,
};
use annulus::{Durability, ErrorKind, Health, Options};
use std::path::Path;
use std::sync::Arc;

fn seams(disk: &SimDisk, factory: &MemoryFactory) -> Seams {
    Seams { disk: Arc::new(disk.clone()), factory: Arc::new(factory.clone()), background: Background::Off }
}

fn options() -> Options {
    Options::new().shards(3).memory_budget(8 << 20).journal_segment_bytes(64 << 10)
}

#[test]
fn a_marker_that_outlived_its_creation_does_not_let_a_store_be_made_anew() {
    let (disk, factory) = (SimDisk::new(7), MemoryFactory::new());
    let dir = Path::new("/store");
    disk.inject(Fault::on(Operation::Remove).at(|p| p.ends_with("CREATING")).times(1));
    assert!(testing::open(dir, &options(), seams(&disk, &factory)).is_err());
    let store = testing::open(dir, &options(), seams(&disk, &factory)).unwrap();
    store.insert("k", b"v").unwrap();
    store.close().unwrap();
    drop(store);
    testing::Disk::remove_file(&disk, &dir.join("MANIFEST")).unwrap();
    let store = testing::open(dir, &options(), seams(&disk, &factory)).unwrap();
    assert_eq!(store.get("k").unwrap().as_deref(), Some(&b"v"[..]));
}

#[test]
fn a_drop_that_failed_half_way_takes_no_later_write_with_it() {
    // First what archives are told of it is made durable, then the new manifest; each has its name already when the directory cannot be synced.
    for step in 0..2 {
        let (disk, factory) = (SimDisk::new(7), MemoryFactory::new());
        let dir = Path::new("/store");
        let store = testing::open(dir, &options(), seams(&disk, &factory)).unwrap();
        let orders = store.keyspace("orders").unwrap();
        disk.inject(Fault::on(Operation::SyncDir).at(|p| p == Path::new("/store")).after(step).times(1));
        assert_eq!(store.drop_keyspace("orders").unwrap_err().kind(), ErrorKind::Io);
        orders.insert("k", b"v").unwrap();
        store.close().unwrap();
        drop((orders, store));
        let store = testing::open(dir, &options(), seams(&disk, &factory)).unwrap();
        assert_eq!(store.keyspace("orders").unwrap().get("k").unwrap().as_deref(), Some(&b"v"[..]));
    }
}

/// Where neither the new manifest nor the old one can be made durable, a power cut chooses between them: what was written
/// after that might belong to a keyspace that is gone, so nothing more is acknowledged, though the disk is well again.
#[test]
fn a_drop_that_cannot_be_taken_back_stops_all_writes() {
    for seed in 0..16 {
        let (disk, factory) = (SimDisk::new(7), MemoryFactory::new());
        let dir = Path::new("/store");
        let store = testing::open(dir, &options(), seams(&disk, &factory)).unwrap();
        let orders = store.keyspace("orders").unwrap();
        orders.insert_with("before", b"v", Durability::Sync).unwrap();
        // The first is of what archives are told of the drop.
        disk.inject(Fault::on(Operation::SyncDir).at(|p| p == Path::new("/store")).after(1).times(2));
        let error = store.drop_keyspace("orders").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}");
        for durability in [Durability::Memory, Durability::Process, Durability::Sync] {
            for keyspace in [&*store, &orders] {
                let written = keyspace.insert_with("after", b"v", durability);
                assert_eq!(written.map_err(|e| e.kind()), Err(ErrorKind::Poisoned), "{durability:?}");
            }
        }
        assert_eq!(orders.get("before").unwrap().as_deref(), Some(&b"v"[..]));
        assert_eq!((orders.get("after").unwrap(), store.get("after").unwrap()), (None, None));
        let disk = disk.crash(PowerCut { seed });
        factory.crash(seed);
        drop((orders, store));
        let store = testing::open(dir, &options(), seams(&disk, &factory)).unwrap();
        let dropped = !store.list_keyspaces().unwrap().contains(&"orders".to_owned());
        let found = store.keyspace("orders").unwrap().get("before").unwrap();
        assert_eq!(found.is_none(), dropped, "a power cut took half of a keyspace");
        store.insert_with("again", b"v", Durability::Sync).unwrap();
    }
}

/// Replaying for a shard that is behind gives the others only what they lack: they need not even be able to read what
/// they have. And a record that was removed meanwhile comes back in none of them.
#[test]
fn a_shard_is_not_given_again_what_it_has() {
    let (disk, factory) = (SimDisk::new(7), MemoryFactory::new());
    let dir = Path::new("/store");
    let options = options().shards(2).replication_factor(2);
    let store = testing::open(dir, &options, seams(&disk, &factory)).unwrap();
    store.insert("first", b"1").unwrap();
    store.flush().unwrap();
    let [behind, ahead] = [0, 1].map(|n| store.stats().unwrap().shards[n].id);
    factory.fail(behind, EngineOperation::Apply);
    for key in ["kept", "removed", "replaced"] {
        store.insert(key, b"old").unwrap();
    }
    store.flush().unwrap();
    store.remove("removed").unwrap();
    store.insert("replaced", b"new").unwrap();
    store.flush().unwrap();
    store.insert("last", b"in the journal").unwrap();
    let disk = disk.kill();
    drop(store);
    factory.heal(behind);

    let store = testing::open(dir, &options, seams(&disk, &factory)).unwrap();
    // The internal key: the number of the keyspace, then the user's key.
    factory.corrupt(ahead, b"\0\0\0\0kept");
    store.flush().unwrap();
    let stats = store.stats().unwrap();
    assert!(stats.shards.iter().all(|shard| shard.health == Health::Online), "{:?}", stats.warnings);
    factory.heal(ahead);
    let (mut disk, mut store) = (disk, Some(store));
    for lost in [behind, ahead] {
        drop(store.take());
        disk = disk.kill();
        factory.fail(lost, EngineOperation::Open);
        let opened = store.insert(testing::open(dir, &options, seams(&disk, &factory)).unwrap());
        for (key, value) in [("kept", "old"), ("replaced", "new"), ("last", "in the journal")] {
            assert_eq!(opened.get(key).unwrap().as_deref(), Some(value.as_bytes()), "{key} without {lost}");
        }
        assert_eq!(opened.get("removed").unwrap(), None, "a removed record came back without {lost}");
        assert_eq!(opened.len().unwrap(), 4);
        factory.heal(lost);
    }
}

#[test]
fn a_scan_of_a_keyspace_that_is_dropped_ends_with_an_error() {
    let (disk, factory) = (SimDisk::new(7), MemoryFactory::new());
    let store = testing::open(Path::new("/store"), &options(), seams(&disk, &factory)).unwrap();
    let orders = store.keyspace("orders").unwrap();
    for n in 0..500 {
        orders.insert(format!("{n:04}"), b"v").unwrap();
    }
    store.flush().unwrap();
    let mut scan = orders.iter();
    scan.next().unwrap().unwrap();
    store.drop_keyspace("orders").unwrap();
    testing::purge(&store).unwrap();
    let (mut seen, mut error) = (1, None);
    for item in scan {
        match item {
            Ok(_) => seen += 1,
            Err(e) => error = Some(e.kind()),
        }
    }
    assert_eq!(error, Some(ErrorKind::NotFound), "{seen} of 500 records, and no word of the others");
}

#[test]
fn figures_are_counted_again_after_a_flush_that_was_cut_off() {
    let (disk, factory) = (SimDisk::new(7), MemoryFactory::new());
    let dir = Path::new("/store");
    let store = testing::open(dir, &options(), seams(&disk, &factory)).unwrap();
    for n in 0..100u8 {
        store.insert([n], [n; 40]).unwrap();
    }
    store.flush().unwrap();
    let shard = store.stats().unwrap().shards[0].clone();
    assert!(shard.records.is_some());
    store.insert("more", b"1").unwrap();
    factory.fail(shard.id, EngineOperation::Apply);
    testing::freeze(&store);
    testing::flush_oldest(&store).unwrap();
    assert!(matches!(store.stats().unwrap().shards[0].health, Health::Offline(_)));
    let disk = disk.kill();
    drop(store);
    factory.heal(shard.id);
    let store = testing::open(dir, &options(), seams(&disk, &factory)).unwrap();
    assert_eq!(store.stats().unwrap().shards[0].records, None, "half a run was taken for the whole");
    while testing::recount(&store).unwrap() {}
    assert!(store.stats().unwrap().shards[0].records.is_some());
    assert_eq!(store.len().unwrap(), 101);
}

/// A failed sync may take what it was for from the disk, while other writers have written behind it before they were told: the store
/// said that the disk had failed, so what was never synced may be gone, and must not keep the rest from being opened. (It was refused
/// as damage, since the machine had not been started anew.)
#[test]
fn a_hole_that_a_failed_sync_left_does_not_keep_the_store_from_opening() {
    let (disk, factory) = (SimDisk::new(7), MemoryFactory::new());
    let dir = Path::new("/store");
    let store = testing::open(dir, &options(), seams(&disk, &factory)).unwrap();
    let marked = |n: u8| [&[n; 40][..], b"a value to be found by"].concat();
    store.insert_with("synced", marked(1), Durability::Sync).unwrap();
    store.insert_with("lost", marked(2), Durability::Process).unwrap();
    store.insert_with("behind", marked(3), Durability::Process).unwrap();
    let in_journal = |p: &Path| p.starts_with("/store/journal");
    disk.inject(Fault::on(Operation::Sync).at(in_journal).times(1));
    assert_eq!(store.sync().unwrap_err().kind(), ErrorKind::Poisoned);
    assert!(store.insert_with("refused", b"v", Durability::Process).is_err());
    let disk = disk.kill();
    drop(store);
    let names = testing::Disk::list(&disk, Path::new("/store/journal")).unwrap();
    assert!(names.iter().any(|name| name == "poisoned"), "{names:?}");
    let lose = |disk: &SimDisk| {
        let segments = names.iter().filter(|name| name.ends_with(".seg"));
        let lost = segments.map(|name| {
            let mut found = 0;
            let lost = marked(2);
            let path = Path::new("/store/journal").join(name);
            disk.damage(&path, |bytes| {
                let at = bytes.windows(lost.len()).position(|window| window == lost);
                found = usize::from(at.is_some());
                at.into_iter().for_each(|at| bytes[at - 16..at + 16].fill(0));
            })
            .unwrap();
            found
        });
        assert_eq!(lost.sum::<usize>(), 1);
    };
    // Without the note of it the same is damage: nothing else could have made it.
    let damaged = disk.fork();
    lose(&damaged);
    testing::Disk::remove_file(&damaged, Path::new("/store/journal/poisoned")).unwrap();
    let refused = testing::open(dir, &options(), seams(&damaged, &factory)).map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corruption, "{refused}");
    lose(&disk);
    let store = testing::open(dir, &options(), seams(&disk, &factory)).unwrap();
    assert_eq!(store.get("synced").unwrap().as_deref(), Some(&marked(1)[..]));
    assert_eq!(store.get("lost").unwrap(), None);
    assert_eq!(store.get("behind").unwrap(), None);
    store.insert_with("again", b"v", Durability::Sync).unwrap();
    drop(store);
    let store = testing::open(dir, &options(), seams(&disk.kill(), &factory)).unwrap();
    assert_eq!(store.get("again").unwrap().as_deref(), Some(&b"v"[..]));
    assert_eq!(store.get("behind").unwrap(), None);
}

/// As above, but not even the note could be left: it looks like damage until the machine is started anew, and the error says so.
#[test]
fn a_hole_that_a_failed_sync_left_without_a_note_is_the_end_of_the_log_once_the_machine_was_started_anew() {
    let dir = Path::new("/store");
    for seed in 0..20 {
        let (disk, factory) = (SimDisk::new(7), MemoryFactory::new());
        let store = testing::open(dir, &options(), seams(&disk, &factory)).unwrap();
        let marked = |n: u8| [&[n; 40][..], b"a value to be found by"].concat();
        store.insert_with("synced", marked(1), Durability::Sync).unwrap();
        store.insert_with("lost", marked(2), Durability::Process).unwrap();
        store.insert_with("behind", marked(3), Durability::Process).unwrap();
        disk.inject(Fault::on(Operation::Create).at(|p| p.ends_with("poisoned")));
        disk.inject(Fault::on(Operation::Sync).at(|p| p.starts_with("/store/journal")).times(1));
        assert_eq!(store.sync().unwrap_err().kind(), ErrorKind::Poisoned);
        drop(store);
        let disk = disk.kill();
        disk.heal();
        let names = testing::Disk::list(&disk, Path::new("/store/journal")).unwrap();
        assert!(!names.iter().any(|name| name == "poisoned"), "{names:?}");
        let lost = marked(2);
        for name in names.iter().filter(|name| name.ends_with(".seg")) {
            disk.damage(&Path::new("/store/journal").join(name), |bytes| {
                let at = bytes.windows(lost.len()).position(|window| window == lost);
                at.into_iter().for_each(|at| bytes[at - 16..at + 16].fill(0));
            })
            .unwrap();
        }
        let refused = testing::open(dir, &options(), seams(&disk, &factory)).map(drop).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Corruption, "{refused}");
        let advice = refused.advice().unwrap();
        for text in
            ["nothing shows that a synced write is missing", "start the machine anew", "from a checkpoint"]
        {
            assert!(advice.contains(text), "{refused}");
        }
        let disk = disk.crash(PowerCut { seed });
        let store = testing::open(dir, &options(), seams(&disk, &factory)).unwrap();
        assert_eq!(store.get("synced").unwrap().as_deref(), Some(&marked(1)[..]));
        assert_eq!(store.get("behind").unwrap(), None);
    }
}

/// "Never" is a time that some give.
#[test]
fn the_longest_durations_there_are_are_no_surprise() {
    use std::time::Duration;
    let (disk, factory) = (SimDisk::new(3), MemoryFactory::new());
    for bad in [options().shard_timeout(Duration::MAX), options().scrub_every(Duration::MAX)] {
        let error = testing::open(Path::new("/store"), &bad, seams(&disk, &factory)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
    let longest = options()
        .shard_timeout(annulus::limits::MAX_SHARD_TIMEOUT)
        .scrub_every(annulus::limits::MAX_SCRUB_PERIOD);
    let store = testing::open(Path::new("/store"), &longest, seams(&disk, &factory)).unwrap();
    let scrub = store.scrub().unwrap();
    while scrub.progress().running {
        testing::scrub_step(&store).unwrap();
        testing::heal_step(&store).unwrap();
    }
    testing::fail_shard(&store, annulus::ShardId(0));
    assert!(store.events().next_within(Duration::MAX).is_some());
    while !store.health().unwrap().is_good() {
        testing::heal_step(&store).unwrap();
    }
    let plan = store.plan().set_replication_factor(1).preview().unwrap();
    let change = store.apply(plan).unwrap();
    while testing::change_step(&store).unwrap() {}
    assert!(change.wait_for(Duration::MAX).unwrap().is_some());
    store.close().unwrap();
}

/// A few keys that are written over and over hardly fill a memtable: the journal is bounded all the same, and what an opening replays.
#[test]
fn the_journal_does_not_grow_without_end_where_a_few_keys_are_written_over_and_over() {
    let (disk, factory) = (SimDisk::new(3), MemoryFactory::new());
    let open = || testing::open(Path::new("/store"), &options(), seams(&disk, &factory)).unwrap();
    let store = open();
    let mut most = 0;
    for n in 0..40_000_u32 {
        store.insert((n % 7).to_be_bytes(), [n as u8; 1000]).unwrap();
        // What the background does when it is asked to, which is so when a table waits.
        if n % 16 == 0 {
            testing::flush_oldest(&store).unwrap();
            testing::tick(&store).unwrap();
            most = most.max(store.stats().unwrap().journal.bytes);
        }
    }
    assert!(most < (8 << 20) / 2 + 8 * (64 << 10), "the journal had {most} bytes");
    drop(store);
    let store = open();
    assert!(store.stats().unwrap().opening.replayed_bytes <= (8 << 20) / 2);
    assert!((0..7_u32).all(|n| store.get(n.to_be_bytes()).unwrap().is_some()));
}

/// A restore that fails when all records are there already leaves the directory as empty as it was.
#[test]
fn a_restore_that_fails_late_leaves_nothing_behind() {
    let (disk, factory) = (SimDisk::new(3), MemoryFactory::new());
    let store = testing::open(Path::new("/store"), &options(), seams(&disk, &factory)).unwrap();
    store.insert("key", b"value").unwrap();
    let repository = testing::repository(Arc::new(disk.clone()), Path::new("/backup")).unwrap();
    store.checkpoint(&repository).unwrap();
    let restore = || {
        let restore = repository.restore_latest().unwrap();
        testing::restore(restore, Path::new("/copy"), seams(&disk, &factory))
    };
    let late: [fn(&Path) -> bool; 2] =
        [|path| path.ends_with("0001/IDENTITY.tmp"), |path| path.starts_with("/copy/journal")];
    for at in late {
        disk.inject(Fault::on_any_change().at(at).times(1));
        restore().unwrap_err();
        let left: Vec<_> = disk.files().into_iter().filter(|(path, _)| path.starts_with("/copy")).collect();
        assert!(left.iter().all(|(path, _)| path.ends_with("LOCK")), "{left:?}");
        disk.heal();
    }
    assert_eq!(restore().unwrap().get("key").unwrap().as_deref(), Some(&b"value"[..]));
}

/// The journal is kept for an archive that is behind, and for a shard that is away. Its bound is for both; where it is reached the archive
/// is waited for no longer, before writes are refused for the shard.
#[test]
fn an_archive_that_is_behind_refuses_no_writes_while_a_shard_is_away() {
    let (disk, factory) = (SimDisk::new(3), MemoryFactory::new());
    let options = Options::new()
        .shards(2)
        .replication_factor(1)
        .memory_budget(8 << 20)
        .journal_segment_bytes(64 << 10)
        .journal_retention(2 << 20);
    let store = testing::open(Path::new("/store"), &options, seams(&disk, &factory)).unwrap();
    let repository = testing::repository(Arc::new(disk.clone()), Path::new("/backup")).unwrap();
    store.archive(&repository).unwrap();
    for n in 0..1600_u32 {
        store.insert(n.to_be_bytes(), [1; 1000]).unwrap();
    }
    store.flush().unwrap();
    assert!(store.stats().unwrap().journal.bytes > 3 << 19, "nothing is kept for the archive");
    factory.fail(annulus::ShardId(1), EngineOperation::Open);
    testing::fail_shard(&store, annulus::ShardId(1));
    let ring = store.ring();
    let here = |n: &u32| ring.preference_list(n.to_be_bytes())[0] == annulus::ShardId(0);
    for n in (2000_u32..).filter(here).take(600) {
        store.insert(n.to_be_bytes(), [2; 1000]).unwrap();
    }
    store.flush().unwrap();
    assert!(store.stats().unwrap().journal.bytes <= 2 << 20);
    // What the shard lacks is there still.
    factory.heal(annulus::ShardId(1));
    for _ in 0..1000 {
        testing::heal_step(&store).unwrap();
    }
    assert!(store.health().unwrap().is_good());
    assert!((0..1600_u32).all(|n| store.get(n.to_be_bytes()).unwrap().is_some()));
}
