//! A store whose journal lies in several directories, on real files: losses, moves, additions, and what is refused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod accepting;
mod adding;
mod adopting;
#[path = "../common/mod.rs"]
mod common;
mod mounting;
mod openings;

use annulus::testing::{self, Background, Disk, RealDisk, Seams, SledFactory};
use annulus::{
    BackupRepository, Durability, ErrorKind, EventKind, Health, Options, Seq, ShardId, Stats, Store,
};
use common::copy;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn options() -> Options {
    Options::new().shards(2).virtual_nodes(64).memory_budget(8 << 20).journal_segment_bytes(64 << 10)
}

/// Without threads: what is left behind is mended when it is asked for.
fn open(place: &Path, options: &Options) -> annulus::Result<Store> {
    let seams = Seams {
        disk: Arc::new(RealDisk),
        factory: Arc::new(SledFactory::default()),
        background: Background::Off,
    };
    testing::open(place, options, seams)
}

fn write(store: &Store, numbers: std::ops::Range<u32>) {
    for n in numbers {
        store.insert_with(n.to_be_bytes(), vec![n as u8; 700], Durability::Sync).unwrap();
    }
}

fn check(store: &Store, count: u32) {
    for n in 0..count {
        assert_eq!(store.get(n.to_be_bytes()).unwrap().as_deref(), Some(&vec![n as u8; 700][..]), "{n}");
    }
}

fn good(stats: &Stats) -> Vec<bool> {
    stats.journal.mirrors.iter().map(|mirror| mirror.good).collect()
}

struct Place {
    home: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        Place { home: tempfile::tempdir().unwrap() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn remove(&self, name: &str) {
        std::fs::remove_dir_all(self.at(name)).unwrap();
    }
}

#[test]
fn the_loss_of_either_copy_loses_nothing_and_it_is_made_anew() {
    let place = Place::new();
    let two = options().journal_dirs([place.at("a/journal"), place.at("b/journal")]);
    let store = open(&place.at("store"), &two).unwrap();
    assert!(!place.at("store/journal").exists());
    write(&store, 0..300);
    drop(store);
    for (round, lost) in ["a", "b", "a"].into_iter().enumerate() {
        let count = 300 + 50 * round as u32;
        place.remove(lost);
        // The store knows where they are: the options need not say it again.
        let store = open(&place.at("store"), &options()).unwrap();
        check(&store, count);
        let stats = store.stats().unwrap();
        assert_eq!(good(&stats), [lost == "b", lost == "a"]);
        assert!(stats.warnings.iter().any(|warning| warning.contains(lost)), "{:?}", stats.warnings);
        write(&store, count..count + 50);
        assert_eq!(testing::mend(&store), 1);
        assert_eq!(good(&store.stats().unwrap()), [true, true]);
        assert!(store.stats().unwrap().warnings.is_empty());
        check(&store, count + 50);
        let told = told(&store);
        assert!(
            matches!(&told[..], [before, after] if before.contains("left behind") && after.contains("is complete")),
            "{told:?}"
        );
        assert!(told.iter().all(|text| text.contains(lost)), "{told:?}");
    }
}

/// What has been told of the journal.
fn told(store: &Store) -> Vec<String> {
    let mut events = store.events();
    let kinds = std::iter::from_fn(|| events.try_next()).map(|event| event.kind);
    kinds
        .filter_map(|kind| match kind {
            EventKind::Journal { text } => Some(text),
            _ => None,
        })
        .collect()
}

/// A copy fails under the open store: whoever listens hears of it.
#[test]
fn a_copy_that_fails_is_told_to_who_listens() {
    use annulus::testing::{Fault, MemoryFactory, Operation, SimDisk};
    let (disk, factory) = (SimDisk::new(3), MemoryFactory::new());
    let seams =
        Seams { disk: Arc::new(disk.clone()), factory: Arc::new(factory), background: Background::Off };
    let two = options().journal_dirs([PathBuf::from("/a"), PathBuf::from("/b")]);
    let store = testing::open(Path::new("/store"), &two, seams).unwrap();
    assert_eq!(told(&store), Vec::<String>::new());
    disk.inject(Fault::on(Operation::Write).at(|path| path.starts_with("/b")));
    write(&store, 0..3);
    let heard = told(&store);
    assert!(matches!(&heard[..], [one] if one.contains("/b") && one.contains("left behind")), "{heard:?}");
}

/// The copy that is read first is damaged under the open store, in every segment.
#[test]
fn a_shard_that_catches_up_and_an_archive_read_what_one_copy_has_lost_from_the_other() {
    let place = Place::new();
    let two = options().journal_dirs([place.at("a"), place.at("b")]);
    let store = open(&place.at("store"), &two).unwrap();
    write(&store, 0..200);
    testing::fail_shard(&store, ShardId(1));
    write(&store, 200..500);
    store.flush().unwrap();
    write(&store, 500..520);
    let segments = std::fs::read_dir(place.at("a")).unwrap().map(|entry| entry.unwrap().path());
    let segments: Vec<PathBuf> =
        segments.filter(|path| path.extension().is_some_and(|e| e == "seg")).collect();
    assert!(segments.len() > 4);
    for path in &segments {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 20_000).unwrap();
        file.write_all_at(&[!byte[0]], 20_000).unwrap();
    }
    while testing::heal_step(&store).unwrap() {}
    let stats = store.stats().unwrap();
    assert!(stats.shards.iter().all(|shard| shard.health == Health::Online), "{stats:?}");
    let repository = BackupRepository::open(place.at("backup")).unwrap();
    assert_eq!(store.archive(&repository).unwrap(), Seq(520));
    assert_eq!(good(&store.stats().unwrap()), [true, true]);
    check(&store, 520);
    drop(store);
    place.remove("b");
    check(&open(&place.at("store"), &options()).unwrap(), 520);
}

#[test]
fn threads_mend_a_copy_while_the_store_serves() {
    let place = Place::new();
    let two = options().journal_dirs([place.at("a"), place.at("b")]);
    let store = two.open(place.at("store")).unwrap();
    write(&store, 0..200);
    drop(store);
    place.remove("b");
    let store = two.open(place.at("store")).unwrap();
    let mut n = 200;
    while good(&store.stats().unwrap()) != [true, true] {
        write(&store, n..n + 1);
        n += 1;
    }
    write(&store, n..n + 5);
    drop(store);
    place.remove("a");
    check(&two.open(place.at("store")).unwrap(), n + 5);
}

#[test]
fn a_copy_from_before_is_refused_alone_and_accepted_by_name() {
    let place = Place::new();
    let two = options().journal_dirs([place.at("a"), place.at("b")]);
    let store = open(&place.at("store"), &two).unwrap();
    write(&store, 0..20);
    drop(store);
    copy(&place.at("b"), &place.at("old"));
    place.remove("b");
    let store = open(&place.at("store"), &two).unwrap();
    write(&store, 20..40);
    drop(store);
    // The old copy turns up again, and the good one is gone.
    copy(&place.at("old"), &place.at("b"));
    place.remove("a");
    let error = open(&place.at("store"), &two).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.to_string().contains("accept_journal"), "{error}");
    let store = open(&place.at("store"), &two.clone().accept_journal(place.at("b"))).unwrap();
    check(&store, 20);
    assert_eq!(store.get(20u32.to_be_bytes()).unwrap(), None);
    assert_eq!(testing::mend(&store), 1);
    write(&store, 20..25);
    drop(store);
    check(&open(&place.at("store"), &two).unwrap(), 25);
}

#[test]
fn copies_are_added_left_out_and_moved_at_an_opening() {
    let place = Place::new();
    let at = place.at("store");
    let store = open(&at, &options()).unwrap();
    write(&store, 0..50);
    drop(store);
    let with = |names: &[&str]| options().journal_dirs(names.iter().map(|name| place.at(name)));
    // One more beside the store's own.
    let store = open(&at, &with(&["store/journal", "b"])).unwrap();
    check(&store, 50);
    assert_eq!(good(&store.stats().unwrap()), [true, false]);
    assert_eq!(testing::mend(&store), 1);
    write(&store, 50..60);
    drop(store);
    // Out of the store's own directory altogether, with a third.
    let store = open(&at, &with(&["b", "c"])).unwrap();
    check(&store, 60);
    assert_eq!(testing::mend(&store), 1);
    write(&store, 60..70);
    drop(store);
    // Moved; the directory says itself which it is.
    std::fs::rename(place.at("c"), place.at("d")).unwrap();
    let store = open(&at, &with(&["b", "d"])).unwrap();
    assert_eq!(good(&store.stats().unwrap()), [true, true]);
    write(&store, 70..80);
    drop(store);
    // Only one, which was not among them: filled before the store opens.
    let store = open(&at, &with(&["e"])).unwrap();
    check(&store, 80);
    write(&store, 80..90);
    drop(store);
    for name in ["b", "d", "store/journal"] {
        place.remove(name);
    }
    let store = open(&at, &options()).unwrap();
    check(&store, 90);
    assert_eq!(good(&store.stats().unwrap()), [true]);
}

/// The disk of the only copy is mounted elsewhere: what is left where it was is the mount point.
#[test]
fn the_only_copy_moves_with_its_disk_and_leaves_a_mount_point() {
    let place = Place::new();
    let at = place.at("store");
    let with = |names: &[&str]| options().journal_dirs(names.iter().map(|name| place.at(name)));
    let store = open(&at, &with(&["a"])).unwrap();
    write(&store, 0..50);
    drop(store);
    std::fs::rename(place.at("a"), place.at("b")).unwrap();
    std::fs::create_dir(place.at("a")).unwrap();
    // One that was made there when nothing was mounted is no copy.
    std::fs::write(place.at("a/LOCK"), "").unwrap();
    let store = open(&at, &with(&["b"])).unwrap();
    check(&store, 50);
    drop(store);
    let store = open(&at, &options()).unwrap();
    assert_eq!(good(&store.stats().unwrap()), [true]);
    copy(&place.at("b"), &place.at("c"));
    write(&store, 50..60);
    drop(store);
    // Where a copy is left, it is the one that counts.
    std::fs::remove_file(place.at("c/LOCK")).unwrap();
    let store = open(&at, &with(&["c"])).unwrap();
    check(&store, 60);
}

#[test]
fn a_copy_that_was_left_out_is_not_believed_when_it_comes_back() {
    let place = Place::new();
    let at = place.at("store");
    let with = |names: &[&str]| options().journal_dirs(names.iter().map(|name| place.at(name)));
    write(&open(&at, &with(&["a", "b"])).unwrap(), 0..20);
    write(&open(&at, &with(&["a"])).unwrap(), 20..40);
    let store = open(&at, &with(&["b", "a"])).unwrap();
    check(&store, 40);
    assert_eq!(good(&store.stats().unwrap()), [false, true]);
    drop(store);
    place.remove("a");
    assert_eq!(open(&at, &with(&["b"])).map(drop).unwrap_err().kind(), ErrorKind::Refused);
}

#[test]
fn a_copy_that_the_journal_was_moved_away_from_is_not_believed_when_the_other_is_lost() {
    let place = Place::new();
    let at = place.at("store");
    let with = |names: &[&str]| options().journal_dirs(names.iter().map(|name| place.at(name)));
    write(&open(&at, &with(&["a"])).unwrap(), 0..20);
    copy(&place.at("a"), &place.at("before"));
    write(&open(&at, &with(&["b"])).unwrap(), 20..40);
    place.remove("b");
    if !place.at("a").exists() {
        copy(&place.at("before"), &place.at("a"));
    }
    for names in [&["a"][..], &["a", "b"]] {
        let error = open(&at, &with(names)).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    }
    check(&open(&at, &with(&["a"]).accept_journal(place.at("a"))).unwrap(), 20);
}

#[test]
fn directories_that_get_in_each_others_way_are_refused() {
    let place = Place::new();
    let at = place.at("store");
    for (names, what) in [
        (vec!["a", "a"], "named twice"),
        (vec!["a", "a/b"], "inside another"),
        (vec!["store"], "store's own"),
        (vec![""], "store's own"),
        (vec!["a", ""], "store's own"),
        (vec!["store/shards/0000/j"], "a shard"),
    ] {
        let asked = options().journal_dirs(names.iter().map(|name| place.at(name)));
        let error = open(&at, &asked).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().contains(what), "{error}");
    }
    std::fs::create_dir(place.at("full")).unwrap();
    std::fs::write(place.at("full/notes"), "mine").unwrap();
    let error = open(&at, &options().journal_dir(place.at("full"))).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
    let first = open(&place.at("first"), &options().journal_dir(place.at("j"))).unwrap();
    let error = open(&place.at("second"), &options().journal_dir(place.at("j"))).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
    write(&first, 0..3);
    let many = options().journal_dirs((0..9).map(|n| place.at(&n.to_string())));
    assert_eq!(open(&place.at("many"), &many).map(drop).unwrap_err().kind(), ErrorKind::InvalidInput);
}

/// It does not say which copies count, and whoever put it there may have meant the rest of that store as well.
#[test]
fn the_word_of_another_store_is_not_passed_over() {
    let place = Place::new();
    let dirs = |names: [&str; 2]| options().journal_dirs(names.map(|name| place.at(name)));
    for (name, names) in [("store", ["a", "b"]), ("other", ["c", "d"])] {
        write(&open(&place.at(name), &dirs(names)).unwrap(), 0..20);
    }
    let word = place.at("store/MIRRORS");
    let own = std::fs::read(&word).unwrap();
    std::fs::copy(place.at("other/MIRRORS"), &word).unwrap();
    for options in [options(), dirs(["a", "b"])] {
        let error = open(&place.at("store"), &options).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
        assert_eq!(error.path(), Some(&*place.at("store")), "{error}");
    }
    std::fs::write(&word, own).unwrap();
    check(&open(&place.at("store"), &options()).unwrap(), 20);
}

/// The store's directory is copied while the store is open, or its image is started somewhere else.
#[test]
fn a_copied_store_does_not_open_beside_the_one_whose_journal_it_shares() {
    for names in [&["a"][..], &["a", "b"], &["b", "store/journal"]] {
        let place = Place::new();
        let with = options().journal_dirs(names.iter().map(|name| place.at(name)));
        let store = open(&place.at("store"), &with).unwrap();
        write(&store, 0..20);
        store.close().unwrap();
        copy(&place.at("store"), &place.at("copied"));
        let store = open(&place.at("store"), &options()).unwrap();
        let moved = options().journal_dir(place.at("elsewhere"));
        for options in [&options(), &with, &moved] {
            let error = open(&place.at("copied"), options).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
            assert!(error.to_string().contains("journal"), "{error}");
            let whose = format!("by another handle in this process ({})", std::process::id());
            assert!(error.to_string().contains(&whose), "{error}");
            assert!(
                error.path().is_some_and(|path| names.iter().any(|name| path == place.at(name))),
                "{error}"
            );
        }
        write(&store, 20..30);
        check(&store, 30);
        // Not flushed, so that what was written since is in the journal that they share.
        drop(store);
        let store = open(&place.at("copied"), &options()).unwrap();
        check(&store, 30);
        let error = open(&place.at("store"), &options()).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
        drop(store);
        check(&open(&place.at("store"), &options()).unwrap(), 30);
    }
}

/// A copy that is made anew where there was none, or that comes back, is the store's from then on.
#[test]
fn a_copy_that_is_made_while_the_store_serves_is_locked_as_well() {
    let place = Place::new();
    let two = options().journal_dirs([place.at("a"), place.at("b")]);
    let store = open(&place.at("store"), &two).unwrap();
    write(&store, 0..20);
    drop(store);
    place.remove("b");
    let store = open(&place.at("store"), &two).unwrap();
    assert!(!place.at("b").exists());
    assert_eq!(testing::mend(&store), 1);
    let error = RealDisk.lock(&place.at("b/LOCK")).map(drop).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    drop(store);
    RealDisk.lock(&place.at("b/LOCK")).map(drop).unwrap();
    // It is no file that keeps a new store's journal from lying there.
    std::fs::create_dir(place.at("c")).unwrap();
    std::fs::write(place.at("c/LOCK"), "").unwrap();
    let other = open(&place.at("other"), &options().journal_dir(place.at("c"))).unwrap();
    assert_eq!(
        RealDisk.lock(&place.at("c/LOCK")).map(drop).unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock
    );
    write(&other, 0..3);
}
