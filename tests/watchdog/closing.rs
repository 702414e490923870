//! A store is closed while its journal's disk hangs.

use super::asking::HangingDisk;
use super::*;
use annulus::testing::{Fault, Operation};
use annulus::{Durability, ErrorKind};
use std::path::PathBuf;

/// A trim that hangs in the middle of it, and goes on when the store has been closed, has the files of the next opening before it.
#[test]
fn a_trim_that_outlives_a_close_touches_no_other_openings_files() {
    let (disk, factory) = (HangingDisk::new(), MemoryFactory::new());
    let options = Options::new()
        .shards(2)
        .replication_factor(2)
        .memory_budget(8 << 20)
        .journal_segment_bytes(64 << 10)
        .shard_timeout(Duration::from_millis(50));
    let open = || {
        let seams =
            Seams { disk: Arc::new(disk.clone()), factory: Arc::new(factory.clone()), background: false };
        testing::open(Path::new("/store"), &options, seams)
    };
    let write = |store: &Store| (0..400_u32).for_each(|n| drop(store.insert(n.to_be_bytes(), [7; 1000])));
    let journal = Path::new("/store/journal");
    let segments = || {
        let mut names = Disk::list(&disk.disk, journal).unwrap();
        names.retain(|name| name.ends_with(".seg"));
        names
    };
    let store = open().unwrap();
    write(&store);
    assert!(segments().len() > 5);
    disk.hang_renames(&journal.join(&segments()[0]));
    let flushing = std::thread::spawn({
        let store = store.clone();
        move || store.flush()
    });
    disk.wait_until_it_hangs();
    let closed = in_time("closing", {
        let store = store.clone();
        move || store.close()
    });
    let again = open();
    disk.release();
    flushing.join().unwrap().unwrap();
    // What was left behind lets the store go as soon as the disk has answered.
    let again = match again {
        Ok(again) => again,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
            open().unwrap()
        }
    };
    write(&again);
    again.flush().unwrap();
    let (figures, found) = (again.stats().unwrap().journal, segments());
    assert_eq!(figures.segments, found.len() as u64, "{figures:?} {found:?}");
    assert!(found.len() < 4, "it is not trimmed any more: {found:?}");
    let error = closed.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("/store/journal"), "{error}");
    assert!((0..400_u32).all(|n| again.get(n.to_be_bytes()).unwrap().is_some()));
    again.close().unwrap();
}

/// Where it answers in time a close waits for it, and is told nothing.
#[test]
fn a_close_waits_for_a_trim_that_answers() {
    let (disk, factory) = (HangingDisk::new(), MemoryFactory::new());
    let options =
        Options::new().shards(2).memory_budget(8 << 20).journal_segment_bytes(64 << 10).shard_timeout(LONG);
    let open = || {
        let seams =
            Seams { disk: Arc::new(disk.clone()), factory: Arc::new(factory.clone()), background: false };
        testing::open(Path::new("/store"), &options, seams).unwrap()
    };
    let store = open();
    (0..400_u32).for_each(|n| drop(store.insert(n.to_be_bytes(), [7; 1000])));
    let mut names = Disk::list(&disk.disk, Path::new("/store/journal")).unwrap();
    names.retain(|name| name.ends_with(".seg"));
    disk.hang_renames(&Path::new("/store/journal").join(&names[0]));
    std::thread::scope(|scope| {
        let flushing = scope.spawn(|| store.flush());
        disk.wait_until_it_hangs();
        let closing = scope.spawn(|| store.close());
        std::thread::sleep(Duration::from_millis(200));
        let waits = !closing.is_finished();
        disk.release();
        closing.join().unwrap().unwrap();
        flushing.join().unwrap().unwrap();
        assert!(waits);
    });
    open().close().unwrap();
}

/// A store with two copies of its journal, the second of which is being made by the thread that does so, and hangs in that.
fn being_mended(patience: Duration) -> (HangingDisk, MemoryFactory, Options, Store) {
    let (disk, factory) = (HangingDisk::new(), MemoryFactory::new());
    let options = Options::new()
        .shards(2)
        .replication_factor(2)
        .memory_budget(8 << 20)
        .journal_segment_bytes(64 << 10)
        .journal_dirs([PathBuf::from("/a"), PathBuf::from("/b")])
        .shard_timeout(patience);
    let seams = Seams { disk: Arc::new(disk.clone()), factory: Arc::new(factory.clone()), background: true };
    let store = testing::open(Path::new("/store"), &options, seams).unwrap();
    (0..200_u32).for_each(|n| assert!(store.insert(n.to_be_bytes(), [7; 1000]).is_ok()));
    // Nobody else touches what is being copied.
    disk.hang(Path::new("/b/0000000000000002.seg.copy"));
    disk.disk.inject(Fault::on(Operation::Sync).at(|path| path.starts_with("/b")).times(1));
    store.insert_with("last", "one", Durability::Sync).unwrap();
    disk.wait_until_it_hangs();
    (disk, factory, options, store)
}

/// The disk of a copy that was dropped hangs while it is made anew: nobody else needs it, nor does a close.
#[test]
fn a_store_is_closed_while_a_copy_of_its_journal_hangs() {
    for dropped in [false, true] {
        let (disk, factory, options, store) = being_mended(Duration::from_millis(200));
        // Either way the store goes at the end of it.
        let closed = in_time("closing", move || if dropped { Ok(()) } else { store.close() });
        let open = || {
            let seams =
                Seams { disk: Arc::new(disk.clone()), factory: Arc::new(factory.clone()), background: false };
            testing::open(Path::new("/store"), &options, seams)
        };
        // What it is in the middle of it still does to that copy.
        assert_eq!(open().unwrap_err().kind(), ErrorKind::Locked);
        disk.release();
        let begun = Instant::now();
        let again = loop {
            match open() {
                Err(e) if e.kind() == ErrorKind::Locked && begun.elapsed() < LONG => std::thread::yield_now(),
                again => break again.unwrap(),
            }
        };
        assert!((0..200_u32).all(|n| again.get(n.to_be_bytes()).unwrap().is_some()));
        assert_eq!(testing::mend(&again), 1);
        again.close().unwrap();
        assert_eq!(testing::mend(&again), 0);
        if !dropped {
            let error = closed.unwrap_err();
            assert_eq!(
                (error.kind(), error.path()),
                (ErrorKind::Unavailable, Some(Path::new("/b"))),
                "{error}"
            );
        }
    }
}

/// A close waits for no more of a copy than its disk is in the middle of.
#[test]
fn a_copy_of_the_journal_is_not_made_to_its_end_while_the_store_is_closed() {
    let (disk, _, _, store) = being_mended(LONG);
    let there = || -> Vec<(PathBuf, Vec<u8>)> {
        disk.disk.files().into_iter().filter(|(path, _)| path.starts_with("/b")).collect()
    };
    let before = there();
    std::thread::scope(|scope| {
        let closing = scope.spawn(|| store.close());
        while store.insert("key", "value").is_ok() {
            std::thread::yield_now();
        }
        disk.release();
        closing.join().unwrap().unwrap();
    });
    assert!(there() == before);
}
