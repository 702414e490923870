//! The manifest is taken from a shard, whose copy may be of before the journal was moved: what it names is not all that counts.

use super::openings::{World, moves, with};
use super::*;
use annulus::testing::{Fault, Operation};

/// What the store's directory says is lost, but for the shards in it.
fn lose(world: &World) {
    for name in ["MANIFEST", "MIRRORS"] {
        let path = Path::new("/store").join(name);
        if world.disk.exists(&path).unwrap() {
            world.disk.remove_file(&path).unwrap();
        }
    }
}

fn files(world: &World, dir: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let files = world.disk.files().into_iter();
    files.filter(|(path, _)| path.starts_with(dir) && !path.ends_with("LOCK")).collect()
}

/// The shards know of the journal where it was, up to 20; it has 25 at "/e".
fn moved() -> World {
    let world = moved_from(&with(&["/a"]));
    lose(&world);
    world
}

/// And nothing is lost yet.
fn moved_from(before: &Options) -> World {
    let world = World::filled(before);
    let identity = |path: &Path| path.ends_with("IDENTITY.tmp");
    world.disk.inject(Fault::on_any_change().at(identity));
    let store = world.open(&with(&["/e"])).unwrap();
    write(&store, 20..25);
    world.killed(store)
}

#[test]
fn a_journal_that_was_moved_is_not_cleared_by_the_second_opening_with_an_older_manifest() {
    let world = moved();
    let before = files(&world, "/e");
    for attempt in 0..3 {
        let error = world.open(&with(&["/e"])).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{attempt}: {error}");
        assert!(files(&world, "/e") == before, "{attempt}");
    }
    let world = world.killed(());
    let store = world.open(&with(&["/e"]).accept_journal("/e")).unwrap();
    check(&store, 25);
    write(&store, 25..30);
    let world = world.killed(store);
    check(&world.open(&options()).unwrap(), 30);
}

#[test]
fn a_journal_that_was_moved_is_accepted_by_an_opening_that_stops_anywhere_and_not_cleared() {
    let lost = moved();
    for stop in 0.. {
        let world = lost.fork();
        world.disk.stop_after(stop);
        let opened = world.open(&with(&["/e"]).accept_journal("/e"));
        let ended = opened.is_ok();
        let world = if stop % 2 == 0 { world.killed(opened) } else { world.cut(opened, stop) };
        let opened = world.open(&with(&["/e"]));
        match opened {
            Ok(store) => {
                check(&store, 25);
                let world = world.killed(store);
                world.opens(&options(), 25, &format!("stopped at {stop}"));
            }
            Err(error) => {
                assert!(!ended && error.kind() == ErrorKind::Refused, "stopped at {stop}: {error}");
                world.opens(&with(&["/e"]).accept_journal("/e"), 25, &format!("stopped at {stop}"));
            }
        }
        if ended {
            assert!(stop > 20, "{stop}");
            break;
        }
    }
}

/// What lies in one directory is moved to another, as where its disk is mounted elsewhere.
fn remount(world: &World, from: &str, to: &str) {
    let (from, to) = (Path::new(from), Path::new(to));
    world.disk.create_dir_all(to).unwrap();
    for name in world.disk.list(from).unwrap() {
        world.disk.rename(&from.join(&name), &to.join(&name)).unwrap();
    }
}

/// It is not cleared, be the words of it lost, nor is what was left behind believed; and the user can go on with either.
fn is_refused(world: &World, when: &str) {
    let before = files(world, "/e");
    for attempt in 0..2 {
        for options in [with(&["/e"]), options()] {
            let error = world.open(&options).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused, "{when}, {attempt}: {error}");
            assert!(files(world, "/e") == before, "{when}, {attempt}");
        }
    }
    let there = world.fork().killed(());
    let store = there.open(&with(&["/e"]).accept_journal("/e")).unwrap();
    check(&store, 25);
    write(&store, 25..30);
    let there = there.killed(store);
    check(&there.open(&options()).unwrap(), 30);
    let here = world.fork().killed(());
    check(&here.open(&options().accept_journal("/a")).unwrap(), 20);
    assert!(files(&here, "/e") == before, "{when}");
}

#[test]
fn a_journal_that_was_moved_and_is_mounted_late_is_not_cleared_by_the_opening_that_is_gone_on_with() {
    for attempts in [1, 4] {
        let world = moved();
        remount(&world, "/e", "/elsewhere");
        for _ in 0..attempts {
            let bare = |path: &Path| path.starts_with("/e");
            let read_only = std::io::ErrorKind::ReadOnlyFilesystem;
            world.disk.inject(Fault::on_any_change().at(bare).error(read_only));
            let error = world.open(&with(&["/e"])).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
            world.disk.heal();
        }
        let world = world.killed(());
        assert!(world.disk.exists(Path::new("/store/ADOPTING")).unwrap());
        remount(&world, "/elsewhere", "/e");
        is_refused(&world, &format!("after {attempts} attempts"));
    }
}

#[test]
fn a_journal_that_was_moved_and_is_named_late_is_not_cleared_wherever_the_first_opening_stopped() {
    let lost = moved();
    for stop in 0.. {
        let world = lost.fork();
        world.disk.stop_after(stop);
        let opened = world.open(&options());
        let ended = opened.as_ref().is_err_and(|error| error.kind() == ErrorKind::Refused);
        let world = world.killed(opened);
        is_refused(&world, &format!("stopped at {stop}"));
        if ended {
            assert!(stop > 5, "{stop}");
            break;
        }
    }
}

#[test]
fn a_journal_that_was_moved_and_whose_word_is_damaged_is_not_cleared() {
    let world = moved();
    world.disk.damage(Path::new("/e/MIRRORS"), |bytes| bytes[30] ^= 1).unwrap();
    is_refused(&world, "damaged");
}

/// It was left in the store's own directory, which no manifest lists.
#[test]
fn a_journal_that_was_left_in_the_stores_directory_is_not_gone_on_with_for_the_one_that_was_moved() {
    let world = moved_from(&options());
    world.disk.remove_file(Path::new("/store/MANIFEST")).unwrap();
    let journals = |world: &World| [files(world, "/store/journal"), files(world, "/e")];
    let before = journals(&world);
    for attempt in 0..2 {
        for options in [options(), options().accept_journal_loss(true), with(&["/e"])] {
            let error = world.open(&options).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused, "{attempt}: {error}");
            assert!(journals(&world) == before, "{attempt}");
        }
    }
    for (options, count) in
        [(with(&["/e"]).accept_journal("/e"), 25), (options().accept_journal("/store/journal"), 20)]
    {
        let world = world.fork().killed(());
        let store = world.open(&options).unwrap();
        check(&store, count);
        write(&store, count..count + 5);
        let world = world.killed(store);
        check(&world.open(&super::options()).unwrap(), count + 5);
    }
}

/// The word in the store's directory is lost as well, and nobody names where the journal is: what was left behind says itself that it was left.
#[test]
fn a_journal_that_was_left_is_not_gone_on_with_where_no_word_is_left_in_the_stores_directory() {
    for (old, left) in [(options(), "/store/journal"), (with(&["/a"]), "/a")] {
        let world = moved_from(&old);
        lose(&world);
        let journals = |world: &World| [files(world, left), files(world, "/e")];
        let before = journals(&world);
        for attempt in 0..2 {
            for options in [old.clone(), options(), options().accept_journal_loss(true)] {
                let error = world.open(&options).map(drop).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Refused, "{left}, {attempt}: {error}");
                assert!(journals(&world) == before, "{left}, {attempt}");
            }
        }
        for (options, count) in
            [(with(&["/e"]).accept_journal("/e"), 25), (old.clone().accept_journal(left), 20)]
        {
            let world = world.fork().killed(());
            let store = world.open(&options).unwrap_or_else(|e| panic!("{left}: {e}"));
            check(&store, count);
            write(&store, count..count + 5);
            let world = world.killed(store);
            check(&world.open(&super::options()).unwrap(), count + 5);
        }
    }
}

/// The word of it that was accepted is given before the manifest lists it.
#[test]
fn a_journal_that_was_moved_and_is_being_accepted_is_not_passed_over_for_what_was_left_behind() {
    let lost = moved_from(&options());
    lose(&lost);
    let before = files(&lost, "/store/journal");
    let mut refused = 0;
    for stop in 0.. {
        let world = lost.fork();
        world.disk.stop_after(stop);
        let opened = world.open(&with(&["/e"]).accept_journal("/e"));
        let ended = opened.is_ok();
        let world = world.killed(opened);
        let mirrors = Path::new("/store/MIRRORS");
        if world.disk.exists(mirrors).unwrap() {
            match world.fork().killed(()).open(&options()) {
                Ok(store) => check(&store, 25),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Refused, "stopped at {stop}: {error}");
                    refused += 1;
                }
            }
        }
        assert!(files(&world, "/store/journal") == before, "stopped at {stop}");
        world.opens(&with(&["/e"]).accept_journal("/e"), 25, &format!("stopped at {stop}"));
        if ended {
            break;
        }
    }
    assert!(refused > 0);
}

/// It says nothing, so not that the journal has left either: who never moved it opens as ever.
#[test]
fn a_damaged_word_in_the_stores_directory_keeps_no_journal_from_being_opened_that_was_never_moved() {
    let word = Path::new("/store/MIRRORS");
    let mut bytes = World::filled(&with(&["/a"])).disk.read(word).unwrap().unwrap();
    bytes[30] ^= 1;
    let world = World::filled(&options());
    assert!(!world.disk.exists(word).unwrap());
    world.disk.replace(word, &bytes).unwrap();
    let store = world.open(&options()).unwrap();
    check(&store, 20);
    write(&store, 20..25);
    let world = world.killed(store);
    check(&world.open(&options()).unwrap(), 25);
}

/// With the store's directory what had been left there is lost as well.
#[test]
fn a_journal_that_was_moved_and_is_named_is_not_given_up_as_lost() {
    let world = moved_from(&options());
    lose(&world);
    world.disk.remove_dir_all(Path::new("/store/journal")).unwrap();
    let there = |world: &World| [files(world, "/store/shards"), files(world, "/e")];
    let before = there(&world);
    for attempt in 0..2 {
        let error = world.open(&with(&["/e"]).accept_journal_loss(true)).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{attempt}: {error}");
        assert!(error.advice().is_some_and(|advice| advice.contains("accept_journal")), "{error}");
        assert!(there(&world) == before, "{attempt}");
    }
    let accepted = with(&["/e"]).accept_journal("/e");
    for options in [accepted.clone(), accepted.accept_journal_loss(true)] {
        let world = world.fork().killed(());
        let store = world.open(&options).unwrap();
        check(&store, 25);
        write(&store, 25..30);
        let world = world.killed(store);
        check(&world.open(&super::options()).unwrap(), 30);
    }
}

/// Where it was moved to is not known, and nothing is left where it was.
#[test]
fn a_journal_that_was_moved_and_is_not_named_is_not_given_up_as_lost() {
    for was in [options(), with(&["/a"])] {
        let world = moved_from(&was);
        world.disk.remove_file(Path::new("/store/MANIFEST")).unwrap();
        for dir in ["/store/journal", "/a"].map(Path::new) {
            if world.disk.exists(dir).unwrap() {
                world.disk.remove_dir_all(dir).unwrap();
            }
        }
        let there = |world: &World| [files(world, "/store/shards"), files(world, "/e")];
        let before = there(&world);
        for options in [options(), with(&["/f"])] {
            let error = world.open(&options.accept_journal_loss(true)).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
            assert!(error.to_string().contains("was moved"), "{error}");
            assert!(there(&world) == before);
        }
        let found = world.fork().killed(());
        let store = found.open(&with(&["/e"]).accept_journal("/e")).unwrap();
        check(&store, 25);
        // It is lost there, too.
        world.disk.remove_dir_all(Path::new("/e")).unwrap();
        world.disk.remove_file(Path::new("/store/MIRRORS")).unwrap();
        let store = world.open(&options().accept_journal_loss(true)).unwrap();
        write(&store, 0..5);
        let world = world.killed(store);
        check(&world.open(&options()).unwrap(), 5);
    }
}

/// The word in the store's directory is lost with the manifest: that of the user is all that tells where the journal is.
#[test]
fn a_journal_that_is_accepted_and_not_named_is_neither_given_up_nor_passed_over() {
    for left in [true, false] {
        let world = moved_from(&options());
        lose(&world);
        if !left {
            world.disk.remove_dir_all(Path::new("/store/journal")).unwrap();
        }
        let there = |world: &World| ["/store/shards", "/store/journal", "/e"].map(|dir| files(world, dir));
        let before = there(&world);
        let accepted = options().accept_journal("/e");
        let other = with(&["/f"]).accept_journal("/e").accept_journal_loss(true);
        for options in [accepted.clone().accept_journal_loss(true), accepted.clone()] {
            let error = world.open(&options).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused, "{left}: {error}");
            assert!(error.advice().is_some_and(|advice| advice.contains("journal_dir")), "{error}");
        }
        if !left {
            let error = world.open(&other).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        }
        assert!(there(&world) == before, "{left}");
        let world = world.killed(());
        check(&world.open(&accepted.journal_dir("/e")).unwrap(), 25);
    }
}

/// And another shard was away then, with a copy that says more than the one that was taken.
#[test]
fn a_manifest_that_is_taken_at_the_second_attempt_counts_more_than_what_was_away() {
    let world = World::filled(&with(&["/a"]));
    let store = world.open(&options()).unwrap();
    let stale = |path: &Path| path.starts_with("/store/shards/0000") && path.ends_with("IDENTITY.tmp");
    world.disk.inject(Fault::on_any_change().at(stale));
    for name in ["one", "two", "three"] {
        store.keyspace(name).unwrap();
    }
    let world = world.killed(store);
    lose(&world);
    let away = |world: &World| {
        let away = |path: &Path| path.starts_with("/store/shards/0001");
        world.disk.inject(Fault::on(Operation::Look).at(away));
        world.disk.inject(Fault::on(Operation::Read).at(away));
        world.disk.inject(Fault::on_any_change().at(away));
    };
    away(&world);
    let unread = |path: &Path| path.starts_with("/a");
    world.disk.inject(Fault::on(Operation::Read).at(unread));
    world.open(&options()).map(drop).unwrap_err();
    let world = world.killed(());
    away(&world);
    let store = world.open(&options()).unwrap();
    write(&store, 20..25);
    let world = world.killed(store);
    check(&world.open(&options()).unwrap(), 25);
}

#[test]
fn an_opening_that_takes_the_manifest_from_a_shard_and_stops_anywhere_is_gone_on_with() {
    for (number, (old, new)) in moves().iter().enumerate() {
        let lost = World::filled(old);
        lose(&lost);
        for stop in 0.. {
            let world = lost.fork();
            world.disk.stop_after(stop);
            let opened = world.open(new);
            let ended = opened.is_ok();
            let world = if stop % 2 == 0 { world.killed(opened) } else { world.cut(opened, stop) };
            for (name, options) in [("old", old), ("new", new), ("no", &options())] {
                let when = format!("move {number}, stopped at {stop}, with the {name} options");
                world.fork().check(options, &when);
            }
            let again = stop * 7 % 120;
            let second = world.fork();
            second.disk.stop_after(again);
            let opened = second.open(new);
            let second = second.killed(opened);
            for third in [old, new] {
                second.fork().opens(third, 20, &format!("move {number}, stopped at {stop} and at {again}"));
            }
            if ended {
                assert!(stop > 20, "{stop}");
                assert!(!world.disk.exists(Path::new("/store/ADOPTING")).unwrap());
                break;
            }
        }
    }
}

/// A manifest was taken from a shard, by an opening that came to nothing since the journal could not be read.
fn refused() -> World {
    let world = World::filled(&options());
    lose(&world);
    let unread = |path: &Path| path.extension().is_some_and(|e| e == "seg");
    world.disk.inject(Fault::on(Operation::Read).at(unread));
    world.open(&options()).map(drop).unwrap_err();
    world.killed(())
}

/// Between two attempts: the first one had it, or it had been accepted then.
#[test]
fn a_journal_that_is_lost_after_a_manifest_was_taken_is_not_begun_anew_unasked() {
    let world = refused();
    assert!(world.disk.exists(Path::new("/store/ADOPTING")).unwrap());
    world.disk.remove_dir_all(Path::new("/store/journal")).unwrap();
    for _ in 0..2 {
        let error = world.open(&options()).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
        assert!(files(&world, "/store/journal").is_empty());
    }
    let store = world.open(&options().accept_journal_loss(true)).unwrap();
    write(&store, 0..5);
    let world = world.killed(store);
    check(&world.open(&options()).unwrap(), 5);
}

/// And what attempts have written has as great a number as what it is older than.
#[test]
fn a_copy_of_a_shard_that_was_away_stays_newer_than_what_was_taken_however_often_that_was_tried() {
    let world = World::filled(&with(&["/a"]));
    let store = world.open(&options()).unwrap();
    let stale = |path: &Path| path.starts_with("/store/shards/0000") && path.ends_with("IDENTITY.tmp");
    world.disk.inject(Fault::on_any_change().at(stale));
    store.keyspace("one").unwrap();
    let mut world = world.killed(store);
    lose(&world);
    for dir in ["/e", "/f", "/g", "/h"] {
        let away = |path: &Path| path.starts_with("/store/shards/0001");
        world.disk.inject(Fault::on(Operation::Look).at(away));
        world.disk.inject(Fault::on(Operation::Read).at(away));
        world.disk.inject(Fault::on_any_change().at(away));
        let word = |path: &Path| path == Path::new("/store/MIRRORS.tmp");
        world.disk.inject(Fault::on(Operation::Write).at(word).after(2));
        world.open(&with(&[dir])).map(drop).unwrap_err();
        world = world.killed(());
    }
    assert!(world.disk.exists(Path::new("/store/ADOPTING")).unwrap());
    let before = files(&world, "/store/shards");
    for _ in 0..2 {
        let error = world.open(&options()).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert!(error.to_string().contains("older than a shard's copy"), "{error}");
        assert!(files(&world, "/store/shards") == before);
    }
}

/// Nor is what the copies of the shards say newer than that, however little its number lies above that of what was taken.
#[test]
fn the_manifest_itself_that_is_put_back_before_the_one_that_was_taken_has_been_opened_is_not_refused() {
    let world = World::filled(&with(&["/a"]));
    let store = world.open(&options()).unwrap();
    let stale = |path: &Path| path.starts_with("/store/shards/0000") && path.ends_with("IDENTITY.tmp");
    world.disk.inject(Fault::on_any_change().at(stale));
    store.keyspace("one").unwrap();
    let world = world.killed(store);
    let manifest = world.disk.read(Path::new("/store/MANIFEST")).unwrap().unwrap();
    lose(&world);
    let away = |path: &Path| path.starts_with("/store/shards/0001") || path.starts_with("/a");
    world.disk.inject(Fault::on(Operation::Read).at(away));
    world.disk.inject(Fault::on_any_change().at(away));
    world.open(&options()).map(drop).unwrap_err();
    let world = world.killed(());
    assert!(world.disk.exists(Path::new("/store/ADOPTING")).unwrap());
    let is_refused = |world: &World| {
        let error = world.open(&options()).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert!(error.to_string().contains("older than a shard's copy"), "{error}");
    };
    is_refused(&world);
    let world = world.killed(());
    world.disk.damage(Path::new("/store/MANIFEST"), |bytes| *bytes = manifest).unwrap();
    // Where the copy that shows it cannot be read when it is asked for, it may be an attempt's.
    let copy = |path: &Path| path == Path::new("/store/shards/0001/IDENTITY");
    world.disk.inject(Fault::on(Operation::Read).at(copy).times(1));
    is_refused(&world);
    let world = world.killed(());
    let store = world.open(&options()).unwrap();
    check(&store, 20);
    assert_eq!(store.list_keyspaces().unwrap(), ["default", "one"]);
    write(&store, 20..25);
    let world = world.killed(store);
    check(&world.open(&options()).unwrap(), 25);
}

/// What decides which shards are lost, and are cleared, may be of long ago.
#[test]
fn no_shard_is_made_anew_by_a_manifest_that_was_taken_from_one_and_has_not_been_opened() {
    let world = refused();
    let repository = testing::repository(Arc::new(world.disk.clone()), Path::new("/backup")).unwrap();
    let before = files(&world, "/store");
    let repair =
        |world: &World| testing::repair_from(&options(), &repository, Path::new("/store"), &world.seams());
    let error = repair(&world).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.to_string().contains("open the store first"), "{error}");
    assert!(files(&world, "/store") == before);
    let store = world.open(&options()).unwrap();
    check(&store, 20);
    store.close().unwrap();
    drop(store);
    assert!(repair(&world).unwrap().shards.is_empty());
}
