//! What an archive shows was synced, and the journal has lost.

use crate::late::other;
use crate::{Place, options};
use annulus::testing::{self, Background, Disk, MemoryFactory, PowerCut, Seams, SimDisk};
use annulus::{At, Durability, ErrorKind, Options, Seq, Store};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const STORE: &str = "/store";

/// A store on a simulated disk whose writes are in its journal alone.
struct World {
    disk: SimDisk,
    factory: MemoryFactory,
    options: Options,
    /// Where its journal lies.
    journals: Vec<PathBuf>,
}

impl World {
    fn new(dirs: &[&str]) -> World {
        let mut options = options();
        for dir in dirs {
            options = options.journal_dir(dir);
        }
        let journals = if dirs.is_empty() { &["/store/journal"] } else { dirs };
        let journals = journals.iter().map(PathBuf::from).collect();
        World { disk: SimDisk::new(7), factory: MemoryFactory::new(), options, journals }
    }

    fn open_with(&self, options: &Options) -> annulus::Result<Store> {
        let (disk, factory) = (Arc::new(self.disk.clone()), Arc::new(self.factory.clone()));
        testing::open(Path::new(STORE), options, Seams { disk, factory, background: Background::Off })
    }

    fn open(&self) -> annulus::Result<Store> {
        self.open_with(&self.options)
    }

    fn accepting(&self) -> annulus::Result<Store> {
        self.open_with(&self.options.clone().accept_journal(&self.journals[0]))
    }

    /// The machine stops.
    fn cut(&mut self, store: impl Sized) {
        self.disk = self.disk.crash(PowerCut { seed: 3 });
        drop(store);
        self.factory.crash(3);
    }

    fn fork(&self) -> World {
        World {
            disk: self.disk.fork(),
            factory: self.factory.fork(),
            options: self.options.clone(),
            journals: self.journals.clone(),
        }
    }

    /// A frame, with all that lies behind it, is damaged in some of the copies.
    fn damage(&self, dirs: &[PathBuf], value: &[u8]) {
        for (path, bytes) in self.disk.files() {
            let at = bytes.windows(value.len()).position(|window| window == value);
            if let Some(at) = at.filter(|_| dirs.iter().any(|dir| path.starts_with(dir))) {
                self.disk.damage(&path, |bytes| bytes[at - 40..].fill(0)).unwrap();
            }
        }
    }

    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        self.disk.files().into_iter().filter(|(path, _)| !path.ends_with("LOCK")).collect()
    }
}

/// A write of a block of its own.
fn write(store: &Store, n: u8) -> Seq {
    store.insert_with([n], vec![n; 4096], Durability::Sync).unwrap()
}

fn has(store: &Store, n: u8) -> bool {
    store.get([n]).unwrap().is_some()
}

/// Twenty writes, archived; the power is cut, and the last of them is lost in all copies but `spared`.
fn lost(place: &Place, dirs: &[&str], spared: usize) -> World {
    let mut world = World::new(dirs);
    let store = world.open().unwrap();
    write(&store, 1);
    store.checkpoint(&place.repo).unwrap();
    (2..=20).for_each(|n| _ = write(&store, n));
    assert_eq!(store.archive(&place.repo).unwrap(), Seq(20));
    world.cut(store);
    world.damage(&world.journals[spared..], &[20; 4096]);
    world
}

fn given_up(store: &Store) -> Vec<bool> {
    store.archives().unwrap().iter().map(|hold| hold.given_up).collect()
}

const WHERE: [&[&str]; 3] = [&[], &["/a"], &["/a", "/b"]];

#[test]
fn an_opening_refuses_to_go_on_without_writes_that_an_archive_shows_were_synced() {
    for dirs in WHERE {
        let place = Place::new();
        let world = lost(&place, dirs, 0);
        let before = world.files();
        for _ in 0..2 {
            let error = world.open().map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
            let advice = error.advice().unwrap();
            let repository = format!("{:032x}", place.repo.id());
            assert!(error.to_string().contains(&repository) && advice.contains(&repository), "{error}");
            assert!(advice.contains("accept_journal"), "{error}");
        }
        assert!(world.files() == before, "{dirs:?}: something was changed");
        // As it advises: all of it is in the archive.
        let restored = place.restored(At::Seq(Seq(20)), "restored").unwrap();
        assert!((1..=20).all(|n| has(&restored, n)));
    }
}

#[test]
fn a_journal_that_lacks_what_an_archive_has_is_accepted_and_the_archive_given_up() {
    for dirs in WHERE {
        let place = Place::new();
        let mut world = lost(&place, dirs, 0);
        let store = world.accepting().unwrap();
        assert!((1..20).all(|n| has(&store, n)) && !has(&store, 20));
        assert_eq!(given_up(&store), [true]);
        // Their numbers are not used again, whoever still holds them.
        assert!(write(&store, 21).0 > 20 + (1 << 32));
        assert_eq!(store.archive(&place.repo).unwrap_err().kind(), ErrorKind::Mismatch);
        world.cut(store);
        let store = world.open().unwrap();
        assert!((1..20).chain([21]).all(|n| has(&store, n)) && !has(&store, 20));
        assert_eq!(given_up(&store), [true]);
        let (repo, _) = other(&place);
        store.checkpoint(&repo).unwrap();
        write(&store, 22);
        store.archive(&repo).unwrap();
        world.cut(store);
        assert!(has(&world.open().unwrap(), 22));
    }
}

#[test]
fn a_copy_that_has_what_an_archive_shows_was_synced_serves() {
    for accepting in [false, true] {
        let place = Place::new();
        let world = lost(&place, &["/a", "/b"], 1);
        let store = if accepting { world.accepting() } else { world.open() }.unwrap();
        assert!((1..=20).all(|n| has(&store, n)));
        assert_eq!(given_up(&store), [false]);
        assert_eq!(write(&store, 21), Seq(21));
    }
}

/// Where it is not known that an archive has more, the log ends where it can be read.
#[test]
fn without_the_word_of_an_archive_a_lost_end_is_no_damage() {
    for (name, forgotten) in [("forgotten", true), ("damaged", false), ("absent", false)] {
        let place = Place::new();
        let mut world = World::new(&[]);
        let store = world.open().unwrap();
        (1..=20).for_each(|n| _ = write(&store, n));
        store.archive(&place.repo).unwrap();
        if forgotten {
            store.forget_archive(place.repo.id()).unwrap();
        }
        world.cut(store);
        world.damage(&world.journals, &[20; 4096]);
        let archives = Path::new("/store/ARCHIVES");
        match name {
            "damaged" => world.disk.damage(archives, |bytes| bytes[30] ^= 1).unwrap(),
            "absent" => world.disk.remove_file(archives).unwrap(),
            _ => {}
        }
        let store = world.open().unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(has(&store, 19) && !has(&store, 20), "{name}");
        assert_eq!(write(&store, 21), Seq(20), "{name}");
    }
}

/// The seals say it as well as an archive.
#[test]
fn a_journal_that_ends_below_what_the_shards_have_is_accepted() {
    for dirs in WHERE {
        let mut world = World::new(dirs);
        let store = world.open().unwrap();
        (1..=20).for_each(|n| _ = write(&store, n));
        store.flush().unwrap();
        world.cut(store);
        world.damage(&world.journals, &[19; 4096]);
        let error = world.open().map(drop).unwrap_err();
        assert!(error.advice().unwrap().contains("accept_journal"), "{error}");
        let store = world.accepting().unwrap();
        // What the shards have stays.
        assert!((1..=20).all(|n| has(&store, n)));
        assert!(write(&store, 21).0 > 20 + (1 << 32));
        world.cut(store);
        assert!(has(&world.open().unwrap(), 21));
    }
}

/// Damage within stays an error, whatever is accepted.
#[test]
fn a_journal_with_damage_within_is_not_accepted() {
    let place = Place::new();
    let world = lost(&place, &[], 0);
    let (path, bytes) =
        world.files().into_iter().find(|(path, _)| path.starts_with("/store/journal")).unwrap();
    let at = bytes.windows(4096).position(|window| window == [3; 4096]).unwrap();
    world.disk.damage(&path, |bytes| bytes[at] ^= 1).unwrap();
    for opened in [world.open(), world.accepting()] {
        assert_eq!(opened.map(drop).unwrap_err().kind(), ErrorKind::Corruption);
    }
}

/// Interrupted anywhere, it is accepted again, or was over; nothing in between opens by itself as if nothing had been lost.
#[test]
fn an_acceptance_against_an_archive_that_stops_anywhere_is_begun_again_or_is_over() {
    for dirs in WHERE {
        let place = Place::new();
        let lost = lost(&place, dirs, 0);
        let undisturbed = lost.fork();
        let before = undisturbed.disk.operations();
        drop(undisturbed.accepting().unwrap());
        let (mut over, mut refused) = (0, 0);
        for stop in 0..undisturbed.disk.operations() - before {
            let mut world = lost.fork();
            world.disk.stop_after(stop);
            let opened = world.accepting();
            world.cut(opened);
            let when = format!("{dirs:?}, stopped at {stop}");
            let alone = world.fork();
            match alone.open() {
                Ok(store) => {
                    over += 1;
                    goes_on(&store, &when);
                }
                Err(error) => {
                    refused += 1;
                    assert_eq!(error.kind(), ErrorKind::Corruption, "{when}: {error}");
                }
            }
            let store = world.accepting().unwrap_or_else(|e| panic!("{when}: {e}"));
            goes_on(&store, &when);
            world.cut(store);
            let store = world.open().unwrap_or_else(|e| panic!("{when}, again: {e}"));
            assert!(has(&store, 21), "{when}");
        }
        assert!(over > 0 && refused > 0, "{over} {refused}");
    }
}

fn goes_on(store: &Store, when: &str) {
    assert!((1..20).all(|n| has(store, n)) && !has(store, 20), "{when}");
    assert_eq!(given_up(store), [true], "{when}");
    assert!(write(store, 21).0 > 20 + (1 << 32), "{when}");
}
