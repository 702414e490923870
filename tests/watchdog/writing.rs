//! The store's own disk hangs, the journal's above all: with a limit who writes is told so in time, the store is closed in any case, and
//! what the disk does when it answers it does to files that are still those of that opening.

use super::asking::HangingDisk;
use super::*;
use annulus::{Durability, ErrorKind};

const JOURNAL: &str = "/store/journal";
const WITHIN: Duration = Duration::from_secs(1);

pub struct Own {
    pub disk: HangingDisk,
    factory: MemoryFactory,
    pub options: Options,
}

impl Own {
    pub fn new() -> Own {
        let options = Options::new()
            .shards(2)
            .replication_factor(2)
            .memory_budget(8 << 20)
            .journal_segment_bytes(64 << 10)
            .shard_timeout(Duration::from_millis(300));
        Own { disk: HangingDisk::new(), factory: MemoryFactory::new(), options }
    }

    fn limited() -> Own {
        let own = Own::new();
        Own { options: own.options.write_timeout(WITHIN), ..own }
    }

    pub fn try_open(&self) -> annulus::Result<Store> {
        self.open_with(self.options.clone())
    }

    pub fn open_with(&self, options: Options) -> annulus::Result<Store> {
        let (disk, factory) = (Arc::new(self.disk.clone()), Arc::new(self.factory.clone()));
        in_time("opening", move || {
            testing::open(Path::new("/store"), &options, Seams { disk, factory, background: Background::On })
        })
    }

    pub fn open(&self) -> Store {
        self.try_open().unwrap()
    }

    /// Opens it when the last opening has let it go. Nothing hangs any more, so that a busy machine has its time.
    pub fn again(&self) -> Store {
        let begun = Instant::now();
        loop {
            match self.open_with(self.options.clone().shard_timeout(LONG)) {
                Err(error) if error.kind() == ErrorKind::Locked && begun.elapsed() < LONG => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                opened => return opened.unwrap(),
            }
        }
    }

    fn hang(&self, how: &str) {
        match how {
            "sync" => self.disk.hang_files(Path::new(JOURNAL)),
            _ => self.disk.hang_writes(Path::new(JOURNAL)),
        }
    }
}

pub fn write(store: &Store, key: &str, durability: Durability) -> annulus::Result<()> {
    let (store, key) = (store.clone(), key.to_owned());
    in_time("a write", move || store.insert_with(&key, "value", durability)).map(drop)
}

pub fn unavailable<T: std::fmt::Debug>(outcome: annulus::Result<T>) -> String {
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    error.to_string()
}

fn until_written(store: &Store, key: &str) {
    let begun = Instant::now();
    while let Err(error) = write(store, key, Durability::Sync) {
        assert!(error.kind() == ErrorKind::Unavailable && begun.elapsed() < LONG, "{error}");
    }
}

pub fn has(store: &Store, key: &str) -> bool {
    store.get(key).unwrap().is_some()
}

#[test]
fn who_writes_is_told_in_time_that_the_journals_disk_hangs() {
    for (how, durability) in
        [("sync", Durability::Sync), ("write", Durability::Process), ("write", Durability::Sync)]
    {
        let world = Own::limited();
        let store = world.open();
        write(&store, "before", Durability::Sync).unwrap();
        world.hang(how);
        let text = unavailable(write(&store, "given up", durability));
        assert!(text.contains("has not answered for 1s") && text.contains("comes about when"), "{text}");
        // Nothing else is begun, whatever it is to survive.
        for durability in [Durability::Memory, Durability::Process, Durability::Sync] {
            let text = unavailable(write(&store, "refused", durability));
            assert!(text.contains("nothing was done"), "{text}");
        }
        let (syncs, flushes) = (store.clone(), store.clone());
        unavailable(in_time("a sync", move || syncs.sync()));
        unavailable(in_time("a flush", move || flushes.flush()));
        assert!(has(&store, "before") && !has(&store, "refused"));
        world.disk.release();
        until_written(&store, "after");
        store.flush().unwrap();
        let all = |store: &Store| ["before", "given up", "after"].iter().all(|key| has(store, key));
        assert!(all(&store) && !has(&store, "refused"), "{how}");
        store.close().unwrap();
        let store = world.again();
        assert!(all(&store) && !has(&store, "refused"), "{how}");
        store.close().unwrap();
    }
}

/// One that is there already is found, whatever hangs.
#[test]
fn who_makes_or_drops_a_keyspace_is_told_in_time_that_the_disk_hangs() {
    let world = Own::limited();
    let store = world.open();
    store.keyspace("there").unwrap();
    for (name, drops) in [("made", false), ("there", true)] {
        world.disk.hang_renames(Path::new("/store/MANIFEST.tmp"));
        let (asks, name) = (store.clone(), name.to_owned());
        let asked = in_time("a keyspace", move || match drops {
            true => asks.drop_keyspace(&name),
            false => asks.keyspace(&name).map(drop),
        });
        unavailable(asked);
        let finds = store.clone();
        in_time("one that is there", move || finds.keyspace("there")).unwrap();
        unavailable(write(&store, "key", Durability::Memory));
        world.disk.release();
        until_written(&store, "key");
    }
    assert_eq!(store.list_keyspaces().unwrap(), ["default", "made"]);
    store.close().unwrap();
}

/// Whether or not there is a limit to writes: who closes a store has one.
#[test]
fn a_store_is_closed_while_the_disk_of_its_only_journal_hangs() {
    for (how, limited) in [("sync", false), ("write", false), ("sync", true), ("write", true)] {
        let world = if limited { Own::limited() } else { Own::new() };
        let store = world.open();
        write(&store, "before", Durability::Sync).unwrap();
        world.hang(how);
        let writes: Vec<_> = (0..3)
            .map(|n| {
                let store = store.clone();
                std::thread::spawn(move || store.insert_with(format!("late {n}"), "value", Durability::Sync))
            })
            .collect();
        let flushes = std::thread::spawn({
            let store = store.clone();
            move || store.flush()
        });
        world.disk.wait_until_it_hangs();
        let closes = store.clone();
        unavailable(in_time("closing", move || closes.close()));
        // What the disk is in the middle of it still does to these files.
        assert_eq!(world.try_open().map(drop).unwrap_err().kind(), ErrorKind::Locked, "{how}");
        world.disk.release();
        let told: Vec<bool> = writes
            .into_iter()
            .map(|write| in_time("a late write", move || write.join()).unwrap().is_ok())
            .collect();
        let _ = in_time("a late flush", move || flushes.join()).unwrap();
        let store = world.again();
        assert!(has(&store, "before"));
        for (n, told) in told.into_iter().enumerate() {
            assert!(!told || has(&store, &format!("late {n}")), "{how}: what was acknowledged is lost");
        }
        write(&store, "again", Durability::Sync).unwrap();
        store.close().unwrap();
        let store = world.again();
        assert!(has(&store, "before") && has(&store, "again"));
        store.close().unwrap();
    }
}

/// Then everything is flushed all the same.
#[test]
fn a_disk_that_was_slow_for_a_moment_is_waited_for_by_who_closes_the_store() {
    let world = Own::limited();
    let world = Own { options: world.options.shard_timeout(LONG / 10), ..world };
    let store = world.open();
    world.hang("sync");
    unavailable(write(&store, "given up", Durability::Sync));
    let closing = std::thread::spawn(move || store.close());
    std::thread::sleep(Duration::from_millis(100));
    assert!(!closing.is_finished());
    world.disk.release();
    in_time("closing", move || closing.join()).unwrap().unwrap();
    let store = world.again();
    assert!(has(&store, "given up"));
    assert_eq!(store.stats().unwrap().opening.replayed_commits, 0, "it was flushed");
    store.close().unwrap();
}

#[test]
fn a_store_that_is_dropped_while_the_disk_of_its_journal_hangs_is_locked_until_that_answers() {
    for how in ["sync", "write"] {
        let world = Own::new();
        let store = world.open();
        write(&store, "before", Durability::Sync).unwrap();
        store.insert_with("handed over", "value", Durability::Process).unwrap();
        world.hang(how);
        in_time("a drop", move || drop(store));
        assert_eq!(world.try_open().map(drop).unwrap_err().kind(), ErrorKind::Locked, "{how}");
        world.disk.release();
        let store = world.again();
        assert!(has(&store, "before") && has(&store, "handed over"));
        store.close().unwrap();
    }
}

/// Who writes the manifest when the store is closed has its lock until he has written it: the next opening finds what he has made of it.
#[test]
fn a_store_is_closed_while_the_disk_of_its_manifest_hangs() {
    for limited in [true, false] {
        let world = if limited { Own::limited() } else { Own::new() };
        let store = world.open();
        write(&store, "before", Durability::Sync).unwrap();
        world.disk.hang_renames(Path::new("/store/MANIFEST.tmp"));
        let makes = std::thread::spawn({
            let store = store.clone();
            move || store.keyspace("late").map(drop)
        });
        world.disk.wait_until_it_hangs();
        let closes = store.clone();
        let closed = in_time("closing", move || closes.close());
        unavailable(closed);
        assert_eq!(world.try_open().map(drop).unwrap_err().kind(), ErrorKind::Locked);
        world.disk.release();
        let _ = in_time("a late keyspace", move || makes.join()).unwrap();
        let store = world.again();
        assert!(has(&store, "before"));
        store.keyspace("late").unwrap();
        store.close().unwrap();
        let store = world.again();
        assert_eq!(store.list_keyspaces().unwrap(), ["default", "late"]);
        store.close().unwrap();
    }
}

/// The same for the list of openings, which a checkpoint may be about to write.
#[test]
fn a_store_is_closed_while_the_disk_of_its_list_of_openings_hangs() {
    let world = Own::new();
    let store = world.open();
    write(&store, "before", Durability::Sync).unwrap();
    let repository = testing::repository(Arc::new(world.disk.disk.clone()), Path::new("/backup")).unwrap();
    world.disk.hang_renames(Path::new("/store/HISTORY.tmp"));
    let saves = std::thread::spawn({
        let (store, repository) = (store.clone(), repository.clone());
        move || store.checkpoint(&repository).map(drop)
    });
    world.disk.wait_until_it_hangs();
    let closes = store.clone();
    unavailable(in_time("closing", move || closes.close()));
    assert_eq!(world.try_open().map(drop).unwrap_err().kind(), ErrorKind::Locked);
    world.disk.release();
    let _ = in_time("a late checkpoint", move || saves.join()).unwrap();
    let store = world.again();
    assert!(has(&store, "before"));
    store.checkpoint(&repository).unwrap();
    store.close().unwrap();
}

/// The same for the note of how far a scrub is, which nobody but the close may be about to write.
#[test]
fn a_store_is_closed_while_the_disk_of_the_note_of_its_scrub_hangs() {
    let world = Own::new();
    let store = world.open();
    write(&store, "before", Durability::Sync).unwrap();
    store.flush().unwrap();
    let scrub = store.scrub().unwrap();
    scrub.pause().unwrap();
    assert!(scrub.progress().running);
    world.disk.hang_renames(Path::new("/store/SCRUB.tmp"));
    let closes = store.clone();
    unavailable(in_time("closing", move || closes.close()));
    // What is being written would take the place of the next opening's.
    assert_eq!(world.try_open().map(drop).unwrap_err().kind(), ErrorKind::Locked);
    world.disk.release();
    let store = world.again();
    assert!(has(&store, "before"));
    store.close().unwrap();
}

#[test]
fn what_was_set_aside_is_dropped_in_time_or_left_to_a_disk_that_hangs() {
    let world = Own::new();
    let store = world.open();
    write(&store, "key", Durability::Sync).unwrap();
    store.flush().unwrap();
    store.rebuild(SHARD).unwrap();
    let drops = |store: &Store| {
        let store = store.clone();
        in_time("dropping what was set aside", move || store.drop_quarantined(SHARD))
    };
    world.disk.hang(Path::new("/store/shards/0001"));
    unavailable(drops(&store));
    unavailable(drops(&store));
    assert!(has(&store, "key"), "it says nothing against the shard");
    world.disk.release();
    let begun = Instant::now();
    while let Err(error) = drops(&store) {
        assert!(error.kind() == ErrorKind::Unavailable && begun.elapsed() < LONG, "{error}");
    }
    assert_eq!(store.health().unwrap().quarantined, []);
    store.close().unwrap();
}
