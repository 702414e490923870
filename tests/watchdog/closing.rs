//! A store is closed while its journal's disk hangs.

use super::asking::HangingDisk;
use super::*;
use annulus::testing::{Fault, Operation};
use annulus::{Durability, ErrorKind};
use std::path::PathBuf;

const JOURNAL: &str = "/store/journal";

/// A store that is driven by hand, with its journal in segments of 64 KiB.
struct ByHand {
    disk: HangingDisk,
    factory: MemoryFactory,
    options: Options,
}

impl ByHand {
    fn new(patience: Duration) -> ByHand {
        let options = Options::new()
            .shards(2)
            .replication_factor(2)
            .memory_budget(8 << 20)
            .journal_segment_bytes(64 << 10)
            .shard_timeout(patience);
        ByHand { disk: HangingDisk::new(), factory: MemoryFactory::new(), options }
    }

    fn open(&self) -> annulus::Result<Store> {
        let (disk, factory) = (Arc::new(self.disk.clone()), Arc::new(self.factory.clone()));
        testing::open(
            Path::new("/store"),
            &self.options,
            Seams { disk, factory, background: Background::Off },
        )
    }

    /// The names of the journal's segments, in order.
    fn segments(&self) -> Vec<String> {
        let mut names = Disk::list(&self.disk.disk, Path::new(JOURNAL)).unwrap();
        names.retain(|name| name.ends_with(".seg"));
        names
    }

    /// Writes several segments full, of which the first hangs when it is to be freed.
    fn write_and_hang(&self, store: &Store) {
        write(store);
        assert!(self.segments().len() > 5);
        self.disk.hang_renames(&Path::new(JOURNAL).join(&self.segments()[0]));
    }
}

fn write(store: &Store) {
    (0..400_u32).for_each(|n| drop(store.insert(n.to_be_bytes(), [7; 1000])));
}

/// A trim that hangs in the middle of it, and goes on when the store has been closed, has the files of the next opening before it.
#[test]
fn a_trim_that_outlives_a_close_touches_no_other_openings_files() {
    let world = ByHand::new(Duration::from_millis(50));
    let store = world.open().unwrap();
    world.write_and_hang(&store);
    let flushing = std::thread::spawn({
        let store = store.clone();
        move || store.flush()
    });
    world.disk.wait_until_it_hangs();
    let closed = in_time("closing", {
        let store = store.clone();
        move || store.close()
    });
    let again = world.open();
    world.disk.release();
    flushing.join().unwrap().unwrap();
    // What was left behind lets the store go as soon as the disk has answered.
    let again = match again {
        Ok(again) => again,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
            world.open().unwrap()
        }
    };
    write(&again);
    again.flush().unwrap();
    let (figures, found) = (again.stats().unwrap().journal, world.segments());
    assert_eq!(figures.segments, found.len() as u64, "{figures:?} {found:?}");
    assert!(found.len() < 4, "it is not trimmed any more: {found:?}");
    let error = closed.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains(JOURNAL), "{error}");
    assert!((0..400_u32).all(|n| again.get(n.to_be_bytes()).unwrap().is_some()));
    again.close().unwrap();
}

/// Where it answers in time a close waits for it, and is told nothing.
#[test]
fn a_close_waits_for_a_trim_that_answers() {
    let world = ByHand::new(LONG);
    let store = world.open().unwrap();
    world.write_and_hang(&store);
    std::thread::scope(|scope| {
        let flushing = scope.spawn(|| store.flush());
        world.disk.wait_until_it_hangs();
        let closing = scope.spawn(|| store.close());
        std::thread::sleep(Duration::from_millis(200));
        let waits = !closing.is_finished();
        world.disk.release();
        closing.join().unwrap().unwrap();
        flushing.join().unwrap().unwrap();
        assert!(waits);
    });
    world.open().unwrap().close().unwrap();
}

/// A store with two copies of its journal, the second of which is being made by the thread that does so, and hangs in that.
fn being_mended(patience: Duration) -> (HangingDisk, MemoryFactory, Options, Store) {
    let world = InTwoCopies::waiting(patience);
    let store = world.open();
    let InTwoCopies { disk, factory, options } = world;
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
            let seams = Seams {
                disk: Arc::new(disk.clone()),
                factory: Arc::new(factory.clone()),
                background: Background::Off,
            };
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

/// A store with two copies of its journal, whose disks are waited for for a moment.
struct InTwoCopies {
    disk: HangingDisk,
    factory: MemoryFactory,
    options: Options,
}

impl InTwoCopies {
    fn new() -> InTwoCopies {
        InTwoCopies::waiting(Duration::from_millis(300))
    }

    fn waiting(patience: Duration) -> InTwoCopies {
        let options = Options::new()
            .shards(2)
            .replication_factor(2)
            .memory_budget(8 << 20)
            .journal_segment_bytes(64 << 10)
            .journal_dirs([PathBuf::from("/a"), PathBuf::from("/b")])
            .shard_timeout(patience);
        InTwoCopies { disk: HangingDisk::new(), factory: MemoryFactory::new(), options }
    }

    fn open(&self) -> Store {
        let (disk, factory) = (Arc::new(self.disk.clone()), Arc::new(self.factory.clone()));
        let options = self.options.clone();
        in_time("opening", move || {
            testing::open(Path::new("/store"), &options, Seams { disk, factory, background: Background::On })
        })
        .unwrap()
    }
}

fn write_synced(store: &Store) {
    let store = store.clone();
    let write = move || {
        (0..200_u32).for_each(|n| {
            store.insert_with(n.to_be_bytes(), [7; 1000], Durability::Sync).unwrap();
        });
        store.flush().unwrap();
        store.insert_with("last", "one", Durability::Sync).unwrap();
    };
    in_time("writing", write);
}

fn good(store: &Store) -> Vec<bool> {
    store.stats().unwrap().journal.mirrors.iter().map(|copy| copy.good).collect()
}

fn until_all_are_good(store: &Store) {
    let begun = Instant::now();
    while good(store) != [true, true] {
        assert!(begun.elapsed() < LONG, "{:?}", store.stats().unwrap().journal);
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn all_are_there(store: &Store) {
    assert!((0..200_u32).all(|n| store.get(n.to_be_bytes()).unwrap().is_some()));
    assert!(store.get("last").unwrap().is_some());
}

/// Nothing but what is in the middle of something waits for it: writes go on, the store is closed, and opens without that copy. What the
/// disk does when it answers it does before the copy is made anew.
#[test]
fn a_store_goes_on_and_is_closed_while_the_disk_of_a_copy_of_its_journal_hangs() {
    for hangs in ["/a", "/b"] {
        let world = InTwoCopies::new();
        let store = world.open();
        store.insert_with("first", "one", Durability::Sync).unwrap();
        world.disk.hang_with_files(Path::new(hangs));
        write_synced(&store);
        let left_out = [hangs != "/a", hangs != "/b"];
        assert_eq!(good(&store), left_out);
        let error = in_time("closing", move || store.close()).unwrap_err();
        assert_eq!((error.kind(), error.path()), (ErrorKind::Unavailable, Some(Path::new(hangs))), "{error}");
        let again = world.open();
        assert_eq!(good(&again), left_out);
        all_are_there(&again);
        write_synced(&again);
        world.disk.release();
        until_all_are_good(&again);
        again.close().unwrap();
        let last = world.open();
        assert_eq!(good(&last), [true, true]);
        all_are_there(&last);
        last.close().unwrap();
    }
}

/// The lock of that copy is held until its disk has answered, and whoever asks for it is told so at once. Nobody has the store open.
#[test]
fn a_store_opens_without_a_copy_whose_lock_was_left_to_a_disk_that_hangs() {
    for hangs in ["/a", "/b"] {
        let world = InTwoCopies::new();
        let store = world.open();
        store.insert_with("first", "one", Durability::Sync).unwrap();
        world.disk.hang_files(Path::new(hangs));
        write_synced(&store);
        let error = in_time("closing", move || store.close()).unwrap_err();
        assert_eq!((error.kind(), error.path()), (ErrorKind::Unavailable, Some(Path::new(hangs))), "{error}");
        assert!(world.disk.disk.lock(&Path::new(hangs).join("LOCK")).is_err(), "it was not left");
        let again = world.open();
        assert_eq!(good(&again), [hangs != "/a", hangs != "/b"]);
        all_are_there(&again);
        write_synced(&again);
        // Another opening is refused as ever.
        let seams = Seams {
            disk: Arc::new(world.disk.clone()),
            factory: Arc::new(world.factory.clone()),
            background: Background::On,
        };
        let twice = testing::open(Path::new("/store"), &world.options, seams).map(drop).unwrap_err();
        assert_eq!(twice.kind(), ErrorKind::Locked, "{twice}");
        world.disk.release();
        until_all_are_good(&again);
        again.close().unwrap();
        let last = world.open();
        assert_eq!(good(&last), [true, true]);
        all_are_there(&last);
        last.close().unwrap();
    }
}

/// An opening that came to nothing has left the locks: whoever comes next has only to wait, and is not asked to accept a loss.
#[test]
fn a_store_whose_copies_hang_all_at_once_is_locked_until_one_answers() {
    let world = InTwoCopies::new();
    let store = world.open();
    write_synced(&store);
    store.close().unwrap();
    let open = || {
        let (disk, factory) = (Arc::new(world.disk.clone()), Arc::new(world.factory.clone()));
        let options = world.options.clone();
        in_time("opening", move || {
            testing::open(Path::new("/store"), &options, Seams { disk, factory, background: Background::On })
        })
    };
    ["/a", "/b"].iter().for_each(|dir| world.disk.hang_files(Path::new(dir)));
    assert_eq!(open().map(drop).unwrap_err().kind(), ErrorKind::Unavailable);
    let error = open().map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
    assert!(error.to_string().contains("was closed in this process"), "{error}");
    world.disk.release();
    let begun = Instant::now();
    let store = loop {
        match open() {
            Err(e) if e.kind() == ErrorKind::Locked && begun.elapsed() < LONG => std::thread::yield_now(),
            opened => break opened.unwrap(),
        }
    };
    all_are_there(&store);
    until_all_are_good(&store);
    store.close().unwrap();
}

/// It is left out as one that is not there is, and made anew when it answers.
#[test]
fn a_store_opens_while_the_disk_of_a_copy_of_its_journal_hangs() {
    for hangs in ["/a", "/b"] {
        let mut world = InTwoCopies::new();
        let store = world.open();
        write_synced(&store);
        store.close().unwrap();
        world.disk.hang_with_files(Path::new(hangs));
        // What the user has accepted, should the journal be lost, makes no difference.
        world.options = world.options.clone().accept_journal_loss(hangs == "/a");
        let store = world.open();
        assert_eq!(good(&store), [hangs != "/a", hangs != "/b"]);
        all_are_there(&store);
        write_synced(&store);
        world.disk.release();
        until_all_are_good(&store);
        store.close().unwrap();
    }
}
