//! A store is closed while its journal's disk hangs.

use super::asking::HangingDisk;
use super::*;
use annulus::ErrorKind;

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
