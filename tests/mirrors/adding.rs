//! Directories that are added for a copy of the journal: what lies there is not cleared away, unless it is of this store.

use super::*;
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
        testing::open(Path::new(STORES[store]), options, Seams { disk, factory, background: false })
    }

    fn filled(&self, store: usize, count: u32) {
        write(&self.open(store, &options()).unwrap(), 0..count);
    }

    fn files(&self, dir: &str) -> Vec<(PathBuf, Vec<u8>)> {
        self.disk.files().into_iter().filter(|(path, _)| path.starts_with(dir)).collect()
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
    for options in [with(dirs), with(dirs)] {
        let error = world.open(0, &options).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
        assert!(error.to_string().contains(what), "{error}");
        assert!(error.advice().is_some_and(|advice| advice.contains("directory")), "{error}");
    }
    assert!(world.files(kept) == before, "{what}");
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
