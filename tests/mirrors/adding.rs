//! Directories that are added for a copy of the journal: what lies there is not cleared away, unless it is of this store.

use super::*;
use annulus::ShardOptions;
use annulus::testing::{MemoryFactory, PowerCut, SimDisk};

/// Stores on one simulated disk.
struct World {
    disk: SimDisk,
    factories: [MemoryFactory; 2],
}

const STORES: [&str; 2] = ["/store", "/other"];

impl World {
    fn new() -> World {
        World { disk: SimDisk::new(1), factories: [MemoryFactory::new(), MemoryFactory::new()] }
    }

    fn open(&self, store: usize, options: &Options) -> annulus::Result<Store> {
        let (disk, factory) = (Arc::new(self.disk.clone()), Arc::new(self.factories[store].clone()));
        testing::open(Path::new(STORES[store]), options, Seams { disk, factory, background: Background::Off })
    }

    fn filled(&self, store: usize, count: u32) {
        write(&self.open(store, &options()).unwrap(), 0..count);
    }

    fn files(&self, dir: &str) -> Vec<(PathBuf, Vec<u8>)> {
        self.disk.files().into_iter().filter(|(path, _)| path.starts_with(dir)).collect()
    }

    /// The files there, but for locks.
    fn made(&self, dir: &str) -> Vec<PathBuf> {
        let files = self.files(dir).into_iter().map(|(path, _)| path);
        files.filter(|path| !path.ends_with("LOCK")).collect()
    }

    fn put(&self, path: &str, bytes: &[u8]) {
        self.disk.create_dir_all(Path::new(path).parent().unwrap()).unwrap();
        self.disk.replace(Path::new(path), bytes).unwrap();
    }

    /// Once opened with these directories, and stopped after so many operations.
    fn stopped(&self, dirs: &[&str], stop: u64) -> (World, bool) {
        self.disk.stop_after(stop);
        let opened = self.open(0, &with(dirs));
        let ended = opened.is_ok();
        if let Ok(store) = &opened {
            testing::mend(store);
        }
        let ended = ended && !self.disk.stopped();
        let disk =
            if stop.is_multiple_of(2) { self.disk.kill() } else { self.disk.crash(PowerCut { seed: stop }) };
        drop(opened);
        (World { disk, factories: self.factories.clone() }, ended)
    }
}

fn with(dirs: &[&str]) -> Options {
    options().journal_dirs(dirs.iter().map(PathBuf::from))
}

fn refused(world: &World, dirs: &[&str], kept: &str, what: &str) {
    let before = world.files(kept);
    let of_store = world.made("/store");
    for options in [with(dirs), with(dirs)] {
        let error = world.open(0, &options).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
        assert!(error.to_string().contains(what), "{error}");
        assert!(error.advice().is_some_and(|advice| advice.contains("directory")), "{error}");
    }
    assert!(world.files(kept) == before, "{what}");
    assert_eq!(world.made("/store"), of_store, "{what}");
}

#[test]
fn the_journal_of_another_store_is_not_cleared_away_for_a_copy() {
    for dirs in [&["/store/journal", "/other/journal"][..], &["/other/journal"]] {
        for count in [0, 50] {
            let world = World::new();
            world.filled(0, 20);
            world.filled(1, count);
            refused(&world, dirs, "/other", "journal of store");
            // Nor while it is open.
            let other = world.open(1, &options()).unwrap();
            refused(&world, dirs, "/other", "journal of store");
            write(&other, count..count + 5);
            drop(other);
            check(&world.open(1, &options()).unwrap(), count + 5);
            check(&world.open(0, &options()).unwrap(), 20);
        }
    }
}

/// It has no frame, and is all that a store which was never written to has.
#[test]
fn an_empty_journal_of_another_store_is_not_replaced_by_that_of_a_new_one() {
    let world = World::new();
    world.filled(1, 0);
    refused(&world, &["/other/journal"], "/other", "journal of store");
    let store = world.open(1, &options()).unwrap();
    write(&store, 0..3);
}

/// Somebody makes one there, or restores it, of which nothing is to be seen yet.
#[test]
fn a_new_store_is_not_begun_while_a_directory_for_its_journal_is_locked() {
    let world = World::new();
    world.disk.create_dir_all(Path::new("/b")).unwrap();
    let lock = world.disk.lock(Path::new("/b/LOCK")).unwrap();
    for _ in 0..2 {
        let error = world.open(0, &with(&["/a", "/b"])).map(drop).unwrap_err();
        assert_eq!((error.kind(), error.path()), (ErrorKind::Locked, Some(Path::new("/b"))), "{error}");
        assert_eq!(world.made("/"), Vec::<PathBuf>::new());
        assert!(!world.disk.exists(Path::new("/store/shards")).unwrap());
    }
    drop(lock);
    write(&world.open(0, &with(&["/a", "/b"])).unwrap(), 0..3);
}

/// The store's directory is lost, and the shards are forgotten when it is opened first.
#[test]
fn a_store_that_is_opened_by_its_journal_alone_is_not_begun_anew_in_its_place() {
    let world = World::new();
    let plain = Options::new().memory_budget(8 << 20).journal_segment_bytes(64 << 10);
    let [first, second] = ["/data/0", "/data/1"].map(ShardOptions::new);
    let all = plain.journal_dirs(["/a", "/b"].map(PathBuf::from)).shard(first).shard(second);
    write(&world.open(0, &all).unwrap(), 0..20);
    world.disk.remove_dir_all(Path::new("/store")).unwrap();
    for _ in 0..2 {
        let error = world.open(0, &with(&["/a", "/b"])).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
        assert_eq!(world.made("/store"), Vec::<PathBuf>::new());
    }
    check(&world.open(0, &all).unwrap(), 20);
}

/// A directory that was locked before it was cleared is locked when its copy is made.
#[test]
fn a_creation_that_stops_anywhere_is_gone_on_with_and_has_its_locks() {
    for (first, second) in [
        (&["/a", "/b"][..], &["/a", "/b"][..]),
        (&["/store/journal", "/b"], &["/store/journal", "/b"]),
        (&[], &["/b", "/store/journal"]),
    ] {
        for stop in 0.. {
            let (world, ended) = World::new().stopped(first, stop);
            if ended {
                assert!(stop > 20, "{stop}");
                break;
            }
            let store = world.open(0, &with(second)).unwrap_or_else(|e| panic!("{second:?}, {stop}: {e}"));
            // Where the store was there already the copies are made by and by.
            testing::mend(&store);
            for dir in second {
                let lock = world.disk.lock(&Path::new(dir).join("LOCK")).map(drop);
                let kind = lock.map_err(|e| e.kind());
                assert_eq!(kind, Err(std::io::ErrorKind::WouldBlock), "{second:?}, {stop}: {dir}");
            }
            write(&store, 0..3);
            let disk = world.disk.kill();
            drop(store);
            let world = World { disk, factories: world.factories };
            check(&world.open(0, &options()).unwrap(), 3);
        }
    }
}

/// Before it has been filled, which may take hours.
#[test]
fn a_restore_is_not_begun_where_another_journal_lies() {
    let world = World::new();
    world.filled(1, 20);
    let repository = testing::repository(Arc::new(world.disk.clone()), Path::new("/backup")).unwrap();
    world.open(1, &options()).unwrap().checkpoint(&repository).unwrap();
    world.disk.watch(|disk| assert!(!disk.exists(Path::new("/store/RESTORING")).unwrap()));
    for _ in 0..2 {
        let restore = repository.restore_latest().unwrap().options(with(&["/a", "/other/journal"]));
        let (disk, factory) = (Arc::new(world.disk.clone()), Arc::new(world.factories[0].clone()));
        let seams = Seams { disk, factory, background: Background::Off };
        let error = testing::restore(restore, Path::new("/store"), seams).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
        assert_eq!(world.made("/store"), Vec::<PathBuf>::new());
    }
    world.disk.watch(|_| ());
    check(&world.open(1, &options()).unwrap(), 20);
}

#[test]
fn files_of_the_user_are_not_cleared_away_for_a_copy() {
    for name in
        ["notes.copy", "notes.seg", "notes", "poisoned", "0000000000000001.seg", "LOCKS", "00.seg.copy"]
    {
        let world = World::new();
        world.filled(0, 20);
        world.put(&format!("/mine/{name}"), b"what is not to be lost");
        refused(&world, &["/store/journal", "/mine"], "/mine", name);
        refused(&world, &["/mine"], "/mine", name);
        check(&world.open(0, &options()).unwrap(), 20);
    }
}

/// Beside the files of a copy, in a directory that is the store's already.
#[test]
fn files_of_the_user_stay_beside_a_copy_that_is_made_anew() {
    let world = World::new();
    drop(world.open(0, &with(&["/store/journal", "/b"])).unwrap());
    world.put("/b/notes.copy", b"mine");
    for name in world.disk.list(Path::new("/b")).unwrap() {
        if name == "MIRRORS" || name.ends_with(".seg") {
            world.disk.remove_file(&Path::new("/b").join(name)).unwrap();
        }
    }
    let store = world.open(0, &options()).unwrap();
    assert_eq!(testing::mend(&store), 1);
    assert_eq!(world.disk.read(Path::new("/b/notes.copy")).unwrap().as_deref(), Some(&b"mine"[..]));
}

/// The disk of a copy was replaced, or another directory lies where its own was: what is there is not this store's, whatever its name.
#[test]
fn files_of_the_user_are_not_cleared_away_where_a_copy_was() {
    for name in ["notes.seg", "0000000000000001.seg", "0000000000000000.seg", "poisoned"] {
        let world = World::new();
        drop(world.open(0, &with(&["/store/journal", "/b"])).unwrap());
        world.filled(0, 20);
        world.disk.remove_dir_all(Path::new("/b")).unwrap();
        let (path, bytes) = (Path::new("/b").join(name), b"what is not to be lost");
        world.disk.create_dir_durably(Path::new("/b")).unwrap();
        world.disk.replace(&path, bytes).unwrap();
        for _ in 0..2 {
            let store = world.open(0, &options()).unwrap();
            check(&store, 20);
            assert_eq!(testing::mend(&store), 0, "{name}");
            let stats = store.stats().unwrap();
            assert_eq!(good(&stats), [true, false]);
            let told = |warning: &String| warning.contains(name) && warning.contains("/b");
            assert!(stats.warnings.iter().any(told), "{:?}", stats.warnings);
            assert_eq!(world.disk.read(&path).unwrap().as_deref(), Some(&bytes[..]), "{name}");
        }
        // When it is elsewhere the copy is made.
        world.disk.rename(&path, Path::new("/mine")).unwrap();
        let store = world.open(0, &options()).unwrap();
        assert_eq!(testing::mend(&store), 1, "{name}");
        assert_eq!(world.disk.read(Path::new("/mine")).unwrap().as_deref(), Some(&bytes[..]));
    }
}

/// Nothing was there when the directory was named.
#[test]
fn a_store_that_is_made_where_a_copy_is_missing_keeps_its_journal() {
    let world = World::new();
    world.filled(0, 20);
    let store = world.open(0, &with(&["/store/journal", "/other/journal"])).unwrap();
    world.filled(1, 50);
    let before = world.files("/other");
    assert_eq!(testing::mend(&store), 0);
    let stats = store.stats().unwrap();
    assert_eq!(good(&stats), [true, false]);
    assert!(
        stats.warnings.iter().any(|warning| warning.contains("journal of store")),
        "{:?}",
        stats.warnings
    );
    assert!(world.files("/other") == before);
    check(&world.open(1, &options()).unwrap(), 50);
}

/// Whatever it has left, with or without a word, it is the store's own.
#[test]
fn an_addition_that_stops_anywhere_is_gone_on_with() {
    for dirs in [&["/store/journal", "/b"][..], &["/e"], &["/e", "/f"]] {
        for stop in 0.. {
            let world = World::new();
            world.filled(0, 20);
            let (world, ended) = world.stopped(dirs, stop);
            for once_more in [stop * 3 % 50, stop * 7 % 90] {
                let fork = World {
                    disk: world.disk.fork(),
                    factories: [world.factories[0].fork(), MemoryFactory::new()],
                };
                let (fork, _) = fork.stopped(dirs, once_more);
                let when = format!("{dirs:?}, stopped at {stop}, and at {once_more}");
                let store = fork.open(0, &with(dirs)).unwrap_or_else(|e| panic!("{when}: {e}"));
                check(&store, 20);
                testing::mend(&store);
                assert!(good(&store.stats().unwrap()).iter().all(|good| *good), "{when}");
            }
            if ended {
                assert!(stop > 20, "{stop}");
                break;
            }
        }
    }
}

/// It was left where the store moved away from: its segments say whose it is, even where its word is gone.
#[test]
fn a_directory_that_the_journal_was_moved_away_from_is_taken_in_again() {
    for wordless in [false, true] {
        let world = World::new();
        world.filled(0, 20);
        write(&world.open(0, &with(&["/a"])).unwrap(), 20..40);
        write(&world.open(0, &with(&["/b"])).unwrap(), 40..60);
        if wordless {
            world.disk.remove_file(Path::new("/a/MIRRORS")).unwrap();
        }
        let store = world.open(0, &with(&["/store/journal", "/a"])).unwrap();
        check(&store, 60);
        testing::mend(&store);
        assert_eq!(good(&store.stats().unwrap()), [true, true]);
    }
}
