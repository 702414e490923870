//! A journal that is lost in every directory it had: what was flushed is in the shards, and the store goes on with that where the user says so.

use super::*;

pub type Files = Vec<(PathBuf, Vec<u8>)>;

/// A store whose journal lay in these directories, or its own, with 50 records that were flushed and 10 that were not; the same with all; and what is
/// lost.
pub fn lost(dirs: &[&str], factor: usize) -> (World, World, Files) {
    let (mut world, _) = World::new(2);
    (world.disk, world.factory) = (SimDisk::new(2), MemoryFactory::new());
    world.options = named(&world, dirs).replication_factor(factor);
    let store = world.open(&world.options).unwrap();
    world.fill(&store, 0..50, "flushed");
    store.flush().unwrap();
    let flushed = world.model.clone();
    world.fill(&store, 50..60, "in the journal alone");
    world.fill(&store, 0..5, "in the journal alone");
    world.kill(store);
    let all = world.fork();
    let here = if dirs.is_empty() { vec!["/store/journal"] } else { dirs.to_vec() };
    let files = world.disk.files();
    let files = files.into_iter().filter(|(path, _)| here.iter().any(|dir| path.starts_with(dir))).collect();
    here.iter().for_each(|dir| remove(&world.disk, dir));
    world.disk = world.disk.kill();
    world.model = flushed;
    (world, all, files)
}

fn named(world: &World, dirs: &[&str]) -> Options {
    world.options.clone().journal_dirs(dirs.iter().map(PathBuf::from))
}

pub fn remove(disk: &SimDisk, dir: &str) {
    if disk.exists(Path::new(dir)).unwrap() {
        disk.remove_dir_all(Path::new(dir)).unwrap();
    }
    disk.sync_dir(Path::new(dir).parent().unwrap()).unwrap();
}

/// The disks turn up after all, as they were.
pub fn come_back(disk: &SimDisk, files: &Files) {
    for (path, _) in files {
        remove(disk, path.parent().unwrap().to_str().unwrap());
    }
    for (path, bytes) in files {
        disk.create_dir_durably(path.parent().unwrap()).unwrap();
        disk.replace(path, bytes).unwrap();
    }
}

/// But for locks.
fn files(disk: &SimDisk) -> Files {
    disk.files().into_iter().filter(|(path, _)| !path.ends_with("LOCK")).collect()
}

/// Where the journal was, and where it is to be.
const LOSSES: [(&[&str], &[&str]); 6] = [
    (&["/a", "/b"], &["/a", "/b"]),
    (&["/a"], &["/e"]),
    (&["/a", "/b"], &["/e", "/b"]),
    (&["/a", "/store/journal"], &["/store/journal"]),
    (&[], &[]),
    (&[], &["/e", "/f"]),
];

#[test]
fn what_was_flushed_is_there_where_every_copy_of_the_journal_is_lost() {
    for factor in [1, 2] {
        for (was, is) in LOSSES {
            let when = format!("{was:?} to {is:?}, {factor}");
            let (mut world, _, away) = lost(was, factor);
            for options in [world.options.clone(), named(&world, is)] {
                let before = files(&world.disk);
                let error = world.open(&options).map(drop).unwrap_err();
                let kind = if was.is_empty() { ErrorKind::Corruption } else { ErrorKind::Refused };
                assert_eq!(error.kind(), kind, "{when}: {error}");
                assert!(error.advice().is_some_and(|a| a.contains("accept_journal_loss")), "{when}: {error}");
                assert!(files(&world.disk) == before, "{when}");
            }
            world.options = named(&world, is);
            let accepted = world.options.clone().accept_journal_loss(true);
            let store = world.open(&accepted).unwrap_or_else(|e| panic!("{when}: {e}"));
            world.check(&store, &when);
            let seq = world.insert(&store, "k", "new");
            assert!(seq.0 >= 50 + (1 << 32), "{when}: {seq}");
            store.close().unwrap();
            // Said for good, it is of no effect any more.
            let store = world.open(&accepted).unwrap_or_else(|e| panic!("{when}: {e}"));
            assert_eq!(world.insert(&store, "k", "newer"), Seq(seq.0 + 1), "{when}");
            world.goes_on(store, &when);
            // What was lost comes back, where a copy is and where there is none.
            let mut old = world.fork();
            come_back(&old.disk, &away);
            match old.open(&old.options) {
                Ok(store) => old.goes_on(store, &format!("{when}: it is back")),
                Err(e) => {
                    let kinds = [ErrorKind::Refused, ErrorKind::Corruption, ErrorKind::Unavailable];
                    assert!(kinds.contains(&e.kind()), "{when}: {e}");
                    // Only where nothing of the new journal is left.
                    let replaced =
                        |dir: &&str| was.contains(dir) || was.is_empty() && *dir == "/store/journal";
                    assert!(is.is_empty() || is.iter().all(replaced), "{when}: {e}");
                }
            }
        }
    }
}

#[test]
fn a_lost_journal_that_is_begun_anew_and_stops_anywhere_is_gone_on_with_or_has_not_begun() {
    for (was, is) in LOSSES {
        let (lost, all, away) = lost(was, 2);
        stopped_at_each(&lost, &all, &away, is, &format!("{was:?} to {is:?}"));
    }
}

/// The manifest is a shard's copy.
#[test]
fn a_journal_that_is_lost_with_the_stores_directory_and_stops_anywhere_is_gone_on_with_or_has_not_begun() {
    for (was, is) in &LOSSES[..2] {
        let (lost, mut all, away) = lost(was, 2);
        for world in [&lost, &all] {
            for name in ["/store/MANIFEST", "/store/MIRRORS"] {
                world.disk.remove_file(Path::new(name)).unwrap();
            }
            world.disk.sync_dir(Path::new("/store")).unwrap();
        }
        all.disk = all.disk.kill();
        stopped_at_each(&lost, &all, &away, is, &format!("{was:?} to {is:?}, without a manifest"));
    }
}

fn stopped_at_each(lost: &World, all: &World, away: &Files, is: &[&str], what: &str) {
    let wanted = named(lost, is);
    let accepted = wanted.clone().accept_journal_loss(true);
    let undisturbed = lost.fork();
    let before = undisturbed.disk.operations();
    drop(undisturbed.open(&accepted).unwrap());
    let operations = undisturbed.disk.operations() - before;
    let (mut refused, mut not_begun) = (0, 0);
    for stop in 0..operations {
        let mut world = lost.fork();
        match stop % 3 {
            0 => world.disk.inject(Fault::on_any_change().after(stop).times(1)),
            _ => world.disk.stop_after(stop),
        }
        let opened = world.open(&accepted);
        match stop % 3 {
            1 => world.cut(opened, stop),
            _ => world.kill(opened),
        }
        let when = format!("{what}, stopped at {stop} of {operations}");
        // All ways on from there take their time: with `ANNULUS_OPENINGS` everywhere.
        if stop % 5 != 0 && openings::more() == 1 {
            let store = world.open(&accepted).unwrap_or_else(|e| panic!("{when}: {e}"));
            for (key, value) in &world.model {
                assert_eq!(store.get(key).unwrap().as_deref(), Some(value.as_bytes()), "{when}: {key}");
            }
            assert_eq!(store.get("59").unwrap(), None, "{when}");
            continue;
        }
        for again in [None, Some(stop * 7 % operations)] {
            let when = format!("{when}, and at {again:?}");
            let mut twice = world.fork();
            if let Some(again) = again {
                twice.disk.stop_after(again);
                let opened = twice.open(&accepted);
                twice.kill(opened);
            }
            twice.options = wanted.clone();
            // Not accepted again: it goes on, or says that it is lost.
            let mut alone = twice.fork();
            match alone.open(&wanted) {
                Ok(store) => {
                    alone.goes_on(store, &format!("{when}: alone"));
                }
                Err(error) => {
                    let kinds = [ErrorKind::Refused, ErrorKind::Corruption];
                    assert!(kinds.contains(&error.kind()), "{when}: alone: {error}");
                    refused += 1;
                }
            }
            // The disks are back: all is there, or what was accepted counts, or it is refused.
            let mut back = twice.fork();
            back.options = lost.options.clone();
            come_back(&back.disk, away);
            match back.open(&lost.options) {
                Ok(store) => {
                    if store.get("59").unwrap().is_some() {
                        back.model.clone_from(&all.model);
                        not_begun += 1;
                    }
                    back.goes_on(store, &format!("{when}: back"));
                }
                Err(error) => {
                    let kinds = [ErrorKind::Refused, ErrorKind::Corruption];
                    assert!(kinds.contains(&error.kind()), "{when}: back: {error}");
                }
            }
            let store = twice.open(&accepted).unwrap_or_else(|e| panic!("{when}: {e}"));
            twice.check(&store, &when);
            twice.goes_on(store, &when);
        }
    }
    assert!(refused > 0 && refused < 2 * operations, "{what}: {refused}");
    assert!(not_begun > 0 && not_begun < 2 * operations, "{what}: {not_begun}");
}

#[test]
fn a_loss_that_is_accepted_is_of_no_effect_while_a_copy_is_there() {
    for gone in ["/a", "/b"] {
        let (_, mut world, _) = lost(&["/a", "/b"], 2);
        let accepted = world.options.clone().accept_journal_loss(true);
        remove(&world.disk, gone);
        let store = world.open(&accepted).unwrap();
        world.check(&store, gone);
        assert_eq!(world.insert(&store, "k", "next"), Seq(66), "{gone}");
        world.goes_on(store, gone);
    }
    // One that is left behind is to be accepted by its name.
    let (world, store) = World::new(2);
    world.leave_b_behind();
    store.insert_with("k", "on one alone", Durability::Sync).unwrap();
    let mut world = world;
    world.kill(store);
    world.take_a_away();
    let before = files(&world.disk);
    let error = world.open(&world.options.clone().accept_journal_loss(true)).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.advice().is_some_and(|advice| advice.ends_with("accept_journal")), "{error}");
    assert!(files(&world.disk) == before);
}

/// It was used before, and what is there may be all that is left.
#[test]
fn a_lost_journal_is_not_begun_anew_where_there_is_another_of_the_store() {
    let (mut world, _, _) = lost(&["/a"], 2);
    let (_, mut all, _) = lost(&["/e"], 2);
    all.options = named(&all, &["/a"]);
    let store = all.open(&all.options).unwrap();
    all.kill(store);
    remove(&all.disk, "/a");
    (world.disk, world.factory) = (all.disk.kill(), all.factory);
    let accepted = named(&world, &["/e"]).accept_journal_loss(true);
    let before = files(&world.disk);
    let error = world.open(&accepted).map(drop).unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::Refused, Some(Path::new("/e"))), "{error}");
    assert!(files(&world.disk) == before);
    world.options = named(&world, &["/f"]);
    let store = world.open(&world.options.clone().accept_journal_loss(true)).unwrap();
    world.check(&store, "elsewhere");
    world.goes_on(store, "elsewhere");
}

/// What they lack the store would lack for good.
#[test]
fn a_lost_journal_is_not_begun_anew_without_enough_shards() {
    for was in [&["/a"][..], &[]] {
        let (mut world, _, _) = lost(was, 1);
        world.factory.fail(ShardId(1), EngineOperation::Open);
        let accepted = world.options.clone().accept_journal_loss(true);
        let before = files(&world.disk);
        let error = world.open(&accepted).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(files(&world.disk) == before);
        world.factory.heal(ShardId(1));
        let store = world.open(&accepted).unwrap();
        world.check(&store, "with all");
        world.goes_on(store, "with all");
    }
}

/// One that was away, or had not got as far as the others, would answer with what was there before.
#[test]
fn a_shard_that_lacks_what_was_flushed_when_the_journal_was_lost_is_made_anew() {
    // With the manifest, and with a shard's copy of it.
    for (was, adopted) in [(&["/a"][..], false), (&["/a"], true), (&[], false), (&[], true)] {
        for (away, later) in [(true, 0), (true, 300), (false, 0), (false, 300)] {
            let (mut world, _) = World::new(3);
            (world.disk, world.factory) = (SimDisk::new(3), MemoryFactory::new());
            world.options = named(&world, was);
            let store = world.open(&world.options).unwrap();
            world.fill(&store, 0..100, "before");
            store.flush().unwrap();
            testing::fail_shard(&store, ShardId(2));
            world.fill(&store, 0..100, "flushed to the others");
            (0..20).for_each(|n| {
                store.remove(format!("{n}")).unwrap();
                world.model.remove(&format!("{n}"));
            });
            store.flush().unwrap();
            world.kill(store);
            remove(&world.disk, was.first().unwrap_or(&"/store/journal"));
            if adopted {
                world.disk.remove_file(Path::new("/store/MANIFEST")).unwrap();
                world.disk.sync_dir(Path::new("/store")).unwrap();
            }
            if away {
                world.factory.fail(ShardId(2), EngineOperation::Open);
            }
            let when = format!("{was:?}, adopted: {adopted}, away: {away}, {later}");
            let store = world.open(&world.options.clone().accept_journal_loss(true)).unwrap();
            for (key, value) in &world.model {
                assert_eq!(store.get(key).unwrap().as_deref(), Some(value.as_bytes()), "{when}: {key}");
            }
            (0..later).for_each(|n| _ = world.insert(&store, &format!("after {n}"), "the loss"));
            store.flush().unwrap();
            world.factory.heal(ShardId(2));
            world.check(&store, &when);
            world.goes_on(store, &when);
        }
    }
}

/// An empty directory is there in its place, and it has all.
#[test]
fn a_journal_whose_disk_is_not_mounted_is_not_lost() {
    let (mut world, _) = World::new(2);
    (world.disk, world.factory) = (SimDisk::new(4), MemoryFactory::new());
    world.disk.create_dir_durably(Path::new("/mnt/a")).unwrap();
    world.disk.mount(Path::new("/mnt/a"));
    world.options = named(&world, &["/mnt/a/journal", "/b"]);
    let store = world.open(&world.options).unwrap();
    world.fill(&store, 0..50, "flushed");
    store.flush().unwrap();
    let flushed = world.model.clone();
    world.fill(&store, 50..60, "in the journal alone");
    world.kill(store);
    remove(&world.disk, "/b");
    world.disk.unmount(Path::new("/mnt/a"));
    let accepted = world.options.clone().accept_journal_loss(true);
    for options in [accepted.clone(), named(&world, &["/e"]).accept_journal_loss(true)] {
        let before = files(&world.disk);
        let error = world.open(&options).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert!(error.to_string().contains("not mounted"), "{error}");
        assert_eq!(error.path(), Some(Path::new("/mnt/a/journal")), "{error}");
        assert!(files(&world.disk) == before);
    }
    world.disk.mount(Path::new("/mnt/a"));
    let mut back = world.fork();
    let store = back.open(&accepted).unwrap();
    back.check(&store, "mounted");
    back.goes_on(store, "mounted");
    // Another disk is mounted in its place.
    remove(&world.disk, "/mnt/a/journal");
    world.model = flushed;
    let store = world.open(&accepted).unwrap();
    world.check(&store, "another disk");
    world.goes_on(store, "another disk");
}

/// What was begun in its place is asked for before anything is said of it: that it could not be read for once is no answer.
#[test]
fn a_journal_that_was_begun_in_the_place_of_a_lost_one_and_cannot_be_read_for_once_is_gone_on_with() {
    let (lost, _, _) = lost(&[], 2);
    let accepted = lost.options.clone().accept_journal_loss(true);
    let undisturbed = lost.fork();
    let before = undisturbed.disk.operations();
    drop(undisturbed.open(&accepted).unwrap());
    let (mut begun, mut failed) = (0, 0);
    for stop in 0..undisturbed.disk.operations() - before {
        let mut world = lost.fork();
        world.disk.stop_after(stop);
        let opened = world.open(&accepted);
        world.kill(opened);
        if world.fork().open(&world.options).is_err() {
            continue;
        }
        begun += 1;
        for after in 0..8 {
            let mut again = world.fork();
            let here =
                |path: &Path| path.starts_with("/store/journal") && path.to_string_lossy().ends_with(".seg");
            again.disk.inject(Fault::on(Operation::Read).at(here).after(after).times(1));
            let opened = again.open(&again.options);
            failed += u32::from(opened.is_err());
            again.kill(opened);
            let when = format!("stopped at {stop}, the read after {after} fails");
            let store = again.open(&again.options).unwrap_or_else(|e| panic!("{when}: {e}"));
            again.check(&store, &when);
            again.goes_on(store, &when);
        }
    }
    assert!(begun > 1 && failed > 1, "{begun}, {failed}");
}
