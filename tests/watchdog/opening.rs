//! The store's own disk hangs while the store is opened: who opens it is told so, and it can be opened when the disk answers.

use super::asking::HangingDisk;
use super::writing::{Own, has, unavailable, write};
use super::*;
use annulus::{Durability, ErrorKind};

type Hang = fn(&HangingDisk);

fn hang_all(disk: &HangingDisk) {
    disk.hang(Path::new("/store"));
}

fn hang_manifest(disk: &HangingDisk) {
    disk.hang_files(Path::new("/store/MANIFEST"));
}

fn hang_new_manifest(disk: &HangingDisk) {
    disk.hang_renames(Path::new("/store/MANIFEST.tmp"));
}

fn hang_journal(disk: &HangingDisk) {
    disk.hang_with_files(Path::new("/store/journal"));
}

fn hang_syncs(disk: &HangingDisk) {
    disk.hang_files(Path::new("/store/journal"));
}

#[test]
fn who_opens_a_store_is_told_in_time_that_its_disk_hangs() {
    let hangs: [(Hang, bool); 4] =
        [(hang_all, false), (hang_manifest, false), (hang_journal, true), (hang_syncs, true)];
    for (hang, at_journal) in hangs {
        let world = Own::new();
        let store = world.open();
        write(&store, "key", Durability::Sync).unwrap();
        drop(store);
        hang(&world.disk);
        let begun = Instant::now();
        let error = world.try_open().map(drop).unwrap_err();
        let text = error.to_string();
        // What is asked of the journal's directory has a limit of its own.
        if error.kind() == ErrorKind::Unavailable {
            assert!(text.contains("cannot open the store: the disk has not answered for 3s"), "{text}");
            assert!(begun.elapsed() >= Duration::from_secs(3), "{text}");
        } else {
            assert!(error.kind() == ErrorKind::Io && at_journal, "{text}");
            assert!(text.contains("the disk does not answer"), "{text}");
        }
        assert!(text.contains("/store"), "{text}");
        // The first is in the middle of it, and so is the disk.
        let kind = world.try_open().map(drop).unwrap_err().kind();
        assert!(matches!(kind, ErrorKind::Locked | ErrorKind::Unavailable | ErrorKind::Io), "{kind:?}");
        world.disk.release();
        let store = world.again();
        assert!(has(&store, "key"));
        write(&store, "again", Durability::Sync).unwrap();
        store.close().unwrap();
        let store = world.again();
        assert!(has(&store, "key") && has(&store, "again"));
        store.close().unwrap();
    }
}

/// What was made of it by who gave up is a store, or nothing.
#[test]
fn who_makes_a_store_is_told_in_time_that_its_disk_hangs() {
    for hang in [hang_all, hang_new_manifest] {
        let world = Own::new();
        hang(&world.disk);
        unavailable(world.try_open().map(drop));
        world.disk.release();
        let store = world.again();
        write(&store, "key", Durability::Sync).unwrap();
        store.close().unwrap();
        let store = world.again();
        assert!(has(&store, "key"));
        store.close().unwrap();
    }
}

/// An opening takes longer in all than the disk is waited for once.
#[test]
fn a_disk_that_is_slow_in_everything_is_waited_for() {
    let world = Own::new();
    let options = world.options.clone().shard_timeout(Duration::from_millis(100));
    let store = world.open();
    write(&store, "key", Durability::Sync).unwrap();
    drop(store);
    world.disk.slow_down(Duration::from_millis(20));
    let begun = Instant::now();
    let store = world.open_with(options).unwrap();
    assert!(begun.elapsed() > Duration::from_secs(1), "it took no longer than one answer may");
    assert!(has(&store, "key"));
}

/// Also where nobody can tell one copy of the journal by the others, since all hang, and where that begins between two things that are done to them.
#[test]
fn an_opening_ends_wherever_all_copies_of_the_journal_begin_to_hang() {
    const SIDE_BY_SIDE: usize = 8;
    let places = std::thread::scope(|scope| {
        let through = |first: usize| {
            let mut places = 0;
            while copies_hang(first + places * SIDE_BY_SIDE) {
                places += 1;
            }
            places
        };
        let threads: Vec<_> = (0..SIDE_BY_SIDE).map(|first| scope.spawn(move || through(first))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
    });
    assert!(places > 40, "{places}");
}

/// With copies that begin to hang when so much has been done to them by an opening; tells whether that is so much before its end.
fn copies_hang(left: usize) -> bool {
    const COPIES: [&str; 2] = ["/a", "/b"];
    let mut world = Own::new();
    world.options = world.options.journal_dirs(COPIES).shard_timeout(Duration::from_millis(60));
    let store = world.again();
    write(&store, "key", Durability::Sync).unwrap();
    drop(store);
    world.disk.hang_later(&COPIES, left);
    let opened = world.try_open();
    let hung = world.disk.has_begun_to_hang();
    if let Err(error) = &opened {
        // Without a disk that hangs, too: a busy machine may be as slow.
        assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Io), "{left}: {error}");
    }
    world.disk.release();
    drop(opened);
    let store = world.again();
    assert!(has(&store, "key"), "{left}");
    store.close().unwrap();
    hung
}
