//! Checkpoints where files fail to open, directories are not synced yet, work is interrupted and taken up again, and repositories are
//! copied: nothing that was acknowledged is lost, and nothing is taken for what it is not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "repository/full.rs"]
mod full;
#[path = "repository/unread.rs"]
mod unread;

use annulus::testing::{
    self, Background, Disk, DiskFile, Fault, MemoryFactory, OpenMode, Operation, PowerCut, Seams, SimDisk,
};
use annulus::{
    At, BackupRepository, CheckpointId, CheckpointOptions, DirStorage, Durability, ErrorKind, Options,
    Retention, Seq, Storage, Store,
};
use common::copy;
use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

type Content = BTreeMap<Vec<u8>, (Vec<u8>, Seq)>;

const BACKUP: &str = "/backup";

fn options() -> Options {
    Options::new().memory_budget(8 << 20).journal_segment_bytes(64 << 10)
}

fn content(store: &Store) -> Content {
    let read = |item: annulus::Result<(annulus::Bytes, annulus::Bytes)>| {
        let (key, value) = item.unwrap();
        let (_, seq) = store.get_versioned(&key).unwrap().unwrap();
        (key.to_vec(), (value.to_vec(), seq))
    };
    store.iter().map(read).collect()
}

/// A store in memory whose checkpoints lie on a simulated disk.
struct World {
    disk: SimDisk,
    store: Store,
    taken: Vec<(CheckpointId, Content)>,
}

impl World {
    /// With so many checkpoints that share nothing.
    fn new(checkpoints: u8) -> World {
        let store = testing::open(Path::new("/live"), &options().shards(2), seams(1)).unwrap();
        let mut world = World { disk: SimDisk::new(7), store, taken: Vec::new() };
        for round in 0..checkpoints {
            for n in 0..60u8 {
                world.store.insert([n], vec![n ^ (round + 1); 40]).unwrap();
            }
            let repo = repository(&world.disk);
            let id =
                world.store.checkpoint_with(&repo, CheckpointOptions::new().full(true).label("x")).unwrap();
            world.taken.push((id, content(&world.store)));
        }
        world
    }

    /// Whether every checkpoint of `ids` is there and comes back as it was.
    fn check(&self, disk: &SimDisk, ids: &[u64], what: &str) {
        let repo = repository(disk);
        let found = repo.verify_all().unwrap();
        assert!(found.is_whole(), "{what}: {:?}", found.damage);
        for id in ids {
            let (id, expected) = &self.taken[*id as usize - 1];
            let restore = repo.restore(*id).unwrap_or_else(|error| panic!("{what}: {error}"));
            let restored = testing::restore(restore.options(options()), Path::new("/new"), seams(2)).unwrap();
            assert_eq!(&content(&restored), expected, "{what}: checkpoint {id}");
        }
    }
}

/// Parts in memory, of their own.
fn seams(seed: u64) -> Seams {
    Seams {
        disk: Arc::new(SimDisk::new(seed)),
        factory: Arc::new(MemoryFactory::new()),
        background: Background::Off,
    }
}

fn repository(disk: &SimDisk) -> BackupRepository {
    testing::repository(Arc::new(disk.clone()), Path::new(BACKUP)).unwrap()
}

/// As when a process has too many files open for a moment.
#[test]
fn a_manifest_that_cannot_be_opened_once_keeps_its_objects_and_its_number() {
    let world = World::new(3);
    let last = PathBuf::from(BACKUP).join("checkpoints").join(format!("{:016x}", 3));
    let mut failed = [0, 0];
    for prune in [false, true] {
        for after in 0..40 {
            let disk = world.disk.fork();
            let repo = repository(&disk);
            let place = last.clone();
            disk.inject(Fault::on(Operation::Look).at(move |path| path == place).after(after).times(1));
            let done = match prune {
                true => repo.prune(Retention::keep_last(2)).map(|_| ()),
                false => world.store.checkpoint_with(&repo, CheckpointOptions::new().full(true)).map(|id| {
                    assert_eq!(id, CheckpointId(4), "its number is given out again, after {after}");
                }),
            };
            disk.heal();
            if let Err(error) = done {
                assert_eq!(error.kind(), ErrorKind::Io, "{error}");
                failed[usize::from(prune)] += 1;
            }
            world.check(&disk, &[2, 3], &format!("prune {prune}, after {after}"));
        }
    }
    assert!(failed.iter().all(|failed| *failed > 0), "{failed:?} failed");
}

#[test]
fn a_prune_that_cannot_read_an_index_deletes_nothing() {
    let world = World::new(2);
    let objects = |disk: &SimDisk| -> Vec<PathBuf> {
        let under = |digit| {
            let dir = PathBuf::from(BACKUP).join("objects").join(format!("{digit:x}"));
            let names = disk.list(&dir).unwrap_or_default();
            names.into_iter().map(move |name| dir.join(name)).collect::<Vec<_>>()
        };
        (0..16).flat_map(under).collect()
    };
    let first = objects(&World::new(1).disk);
    let mut refused = 0;
    for object in objects(&world.disk) {
        if first.contains(&object) {
            continue;
        }
        let disk = world.disk.fork();
        disk.remove_file(&object).unwrap();
        let repo = repository(&disk);
        // What is lost of chunks is no matter here: they are not read.
        if let Err(error) = repo.prune(Retention::keep_last(1)) {
            assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
            refused += 1;
            let left: Vec<u64> = repo.list().unwrap().iter().map(|checkpoint| checkpoint.id.0).collect();
            assert_eq!(left, [1, 2], "nothing was to be deleted");
            assert!(repo.verify(CheckpointId(1)).unwrap().is_whole());
        }
    }
    assert!(refused > 0, "it has no index");
}

/// A disk that does something before it syncs directories the next time.
#[derive(Debug)]
struct Hooked {
    disk: SimDisk,
    hook: Mutex<Option<Hook>>,
}

struct Hook(Box<dyn FnOnce() + Send>);

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hook")
    }
}

impl Disk for Hooked {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk.exists(path)
    }
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        self.disk.canonicalize(path)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(path, mode)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(path)
    }
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.remove_dir_all(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
    fn sync_dirs(&self, dirs: &[PathBuf]) -> Result<(), (PathBuf, io::Error)> {
        let hook = self.hook.lock().unwrap().take();
        if let Some(Hook(hook)) = hook {
            hook();
        }
        dirs.iter().try_for_each(|dir| self.disk.sync_dir(dir).map_err(|e| (dir.clone(), e)))
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock(path)
    }
    fn boot_id(&self) -> u128 {
        self.disk.boot_id()
    }
}

/// An archiver and a checkpoint settle one after the other: what the one has begun to sync the other waits for.
#[test]
fn nobody_is_told_that_names_are_durable_which_another_is_still_syncing() {
    let disk = Arc::new(Hooked { disk: SimDisk::new(7), hook: Mutex::default() });
    let storage = Arc::new(DirStorage::new(disk.clone(), BACKUP));
    storage.write("objects/a/1", b"a chunk").unwrap();
    let overtaken = Arc::new(AtomicBool::new(false));
    let (noted, other) = (overtaken.clone(), storage.clone());
    let second = Arc::new(Mutex::new(None));
    let thread = second.clone();
    let hook = move || {
        let (begun, begins) = sync_channel(1);
        let settled = Arc::new(AtomicBool::new(false));
        let set = settled.clone();
        *thread.lock().unwrap() = Some(std::thread::spawn(move || {
            begun.send(()).unwrap();
            other.settle().unwrap();
            set.store(true, Ordering::SeqCst);
        }));
        begins.recv().unwrap();
        // The time that one needs who does not wait; who waits has not returned whenever this ends.
        for _ in 0..100_000 {
            if settled.load(Ordering::SeqCst) {
                noted.store(true, Ordering::SeqCst);
                break;
            }
            std::thread::yield_now();
        }
    };
    *disk.hook.lock().unwrap() = Some(Hook(Box::new(hook)));
    storage.settle().unwrap();
    second.lock().unwrap().take().unwrap().join().unwrap();
    assert!(!overtaken.load(Ordering::SeqCst), "it returned before anything was synced");
}

#[test]
fn names_that_one_could_not_make_durable_are_left_to_the_next() {
    for seed in 0..8 {
        let disk = SimDisk::new(seed);
        let storage = DirStorage::new(Arc::new(disk.clone()), BACKUP);
        storage.write("objects/a/1", b"a chunk").unwrap();
        disk.inject(Fault::on(Operation::SyncDir).times(1));
        assert_eq!(storage.settle().unwrap_err().kind(), ErrorKind::Io);
        // The checkpoint that wrote it, beside the archiver that was told.
        storage.settle().unwrap();
        let disk = disk.crash(PowerCut { seed });
        let storage = DirStorage::new(Arc::new(disk), BACKUP);
        assert_eq!(storage.read("objects/a/1").unwrap().as_deref(), Some(&b"a chunk"[..]), "seed {seed}");
    }
}

/// The first one makes directories and dies before their names are durable; the second finds them there.
#[test]
fn a_checkpoint_after_one_that_was_killed_survives_a_power_cut() {
    let world = World::new(0);
    for n in 0..60u8 {
        world.store.insert([n], vec![n; 40]).unwrap();
    }
    let mut stops = 0;
    for after in 0.. {
        let mut stopped = false;
        for seed in 0..8 {
            let disk = SimDisk::new(seed);
            disk.stop_after(after);
            let first = testing::repository(Arc::new(disk.clone()), Path::new(BACKUP))
                .and_then(|repo| world.store.checkpoint(&repo));
            stopped |= disk.stopped();
            assert!(stopped || first.is_ok());
            let disk = disk.kill();
            let id = world.store.checkpoint(&repository(&disk)).unwrap();
            let disk = disk.crash(PowerCut { seed });
            let found = repository(&disk);
            assert!(found.get(id).is_ok(), "stopped after {after}, seed {seed}: it was acknowledged");
            let verified = found.verify_all().unwrap();
            assert!(verified.is_whole(), "stopped after {after}, seed {seed}: {:?}", verified.damage);
        }
        if !stopped {
            break;
        }
        stops += 1;
    }
    assert!(stops > 20, "{stops} places to stop at");
}

#[test]
fn a_store_whose_creation_was_killed_and_taken_up_again_survives_a_power_cut() {
    let dir = Path::new("/disks/first/live");
    let open = |disk: &SimDisk, factory: &MemoryFactory| {
        let seams = Seams {
            disk: Arc::new(disk.clone()),
            factory: Arc::new(factory.clone()),
            background: Background::Off,
        };
        testing::open(dir, &options().shards(2).durability(Durability::Sync), seams)
    };
    let mut stops = 0;
    for after in 0.. {
        let mut stopped = false;
        for seed in 0..8 {
            let (disk, factory) = (SimDisk::new(seed), MemoryFactory::new());
            disk.stop_after(after);
            drop(open(&disk, &factory));
            stopped |= disk.stopped();
            let disk = disk.kill();
            let store = open(&disk, &factory).unwrap();
            store.insert("k", b"v").unwrap();
            drop(store);
            factory.crash(seed);
            let disk = disk.crash(PowerCut { seed });
            let found = open(&disk, &factory).and_then(|store| store.get("k"));
            assert_eq!(found.unwrap().as_deref(), Some(&b"v"[..]), "stopped after {after}, seed {seed}");
        }
        if !stopped {
            break;
        }
        stops += 1;
    }
    assert!(stops > 20, "{stops} places to stop at");
}

/// A store with its backup on a simulated disk; its journal does not reach back to its beginning.
struct Damaged {
    dir: tempfile::TempDir,
    backup: SimDisk,
    expected: Content,
    /// The objects that a second checkpoint alone has, the newest, if there is one.
    newer: Vec<PathBuf>,
}

impl Damaged {
    fn new() -> Damaged {
        Damaged::made(false)
    }

    /// The same with a second checkpoint.
    fn with_newer() -> Damaged {
        Damaged::made(true)
    }

    fn made(newer: bool) -> Damaged {
        let dir = tempfile::tempdir().unwrap();
        let store = Self::options().shards(3).open(dir.path().join("live")).unwrap();
        let backup = SimDisk::new(7);
        let repo = repository(&backup);
        let write = |count: u32, round: u32| {
            for n in 0..count {
                store.insert(n.to_be_bytes(), vec![(n + round) as u8; 100]).unwrap();
            }
        };
        write(500, 0);
        store.checkpoint(&repo).unwrap();
        store.archive(&repo).unwrap();
        for round in 1..4 {
            write(1_000, round);
            store.archive(&repo).unwrap();
            store.flush().unwrap();
        }
        let objects = || -> Vec<PathBuf> {
            let files = backup.files().into_iter().map(|(path, _)| path);
            files.filter(|path| path.starts_with("/backup/objects")).collect()
        };
        let before = objects();
        if newer {
            store.checkpoint_with(&repo, CheckpointOptions::new().full(true)).unwrap();
        }
        let newer = objects().into_iter().filter(|path| !before.contains(path)).collect();
        write(50, 9);
        store.sync().unwrap();
        let expected = content(&store);
        store.close().unwrap();
        let damaged = Damaged { dir, backup, expected, newer };
        // Of three shards with two copies each, two are gone: one without a trace, one is damaged.
        std::fs::remove_dir_all(damaged.live().join("shards/0000")).unwrap();
        std::fs::write(damaged.live().join("shards/0002/SEAL"), b"rubbish").unwrap();
        damaged
    }

    fn options() -> Options {
        options().replication_factor(2)
    }

    fn live(&self) -> PathBuf {
        self.dir.path().join("live")
    }
}

#[test]
fn a_repair_that_failed_anywhere_is_repeated() {
    let damaged = Damaged::new();
    let copied = damaged.dir.path().join("copy");
    let mut failures = 0;
    // It reads less than so often.
    for after in 0..20 {
        copy(&damaged.live(), &copied);
        let backup = damaged.backup.fork();
        let repo = repository(&backup);
        let of_data =
            |path: &Path| path.starts_with("/backup/objects") || path.starts_with("/backup/archive");
        backup.inject(Fault::on(Operation::Read).at(of_data).after(after).times(1));
        let error = match Damaged::options().repair_from(&repo, &copied) {
            Ok(repaired) => {
                assert_eq!(repaired.shards.len(), 2);
                continue;
            }
            Err(error) => error,
        };
        failures += 1;
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        let repaired = Damaged::options().repair_from(&repo, &copied).unwrap();
        let shards: Vec<u32> = repaired.shards.iter().map(|shard| shard.0).collect();
        assert_eq!(shards, [0, 2], "after {after}");
        let store = Damaged::options().existing_only(true).open(&copied).unwrap();
        assert_eq!(content(&store), damaged.expected, "after {after}");
        store.close().unwrap();
    }
    assert!(failures > 8 && failures < 20, "{failures} places to fail at");
}

/// Killed, or by a power cut: whatever it leaves, the next one makes the store whole.
#[test]
fn a_repair_that_was_killed_anywhere_is_repeated() {
    let live = Path::new("/live");
    let backup = SimDisk::new(7);
    let seams = |disk: &SimDisk, factory: &MemoryFactory| Seams {
        disk: Arc::new(disk.clone()),
        factory: Arc::new(factory.clone()),
        background: Background::Off,
    };
    let options = || Damaged::options().virtual_nodes(16);
    // A store without two of its shards; of the same backup each time, since it is the same store.
    let damaged = |disk: &SimDisk, factory: &MemoryFactory, repo: &BackupRepository| {
        let store = testing::open(live, &options().shards(3), seams(disk, factory)).unwrap();
        let write = |count: u8, round: u8| {
            for n in 0..count {
                store.insert([n], vec![n ^ round; 400]).unwrap();
            }
        };
        write(60, 0);
        store.checkpoint(repo).unwrap();
        store.archive(repo).unwrap();
        for round in 1..4 {
            write(250, round);
            store.archive(repo).unwrap();
            store.flush().unwrap();
        }
        write(9, 9);
        store.sync().unwrap();
        let expected = content(&store);
        store.close().unwrap();
        for shard in ["/live/shards/0000", "/live/shards/0002"] {
            factory.erase(Path::new(shard));
            disk.remove_file(&Path::new(shard).join("SEAL")).unwrap();
            disk.sync_dir(Path::new(shard)).unwrap();
        }
        expected
    };
    let (mut stops, mut again) = (0, 0);
    for cut in [false, true] {
        for after in 0.. {
            let backup = backup.fork();
            let repo = repository(&backup);
            let (disk, factory) = (SimDisk::new(after), MemoryFactory::new());
            let expected = damaged(&disk, &factory, &repo);
            disk.stop_after(after);
            let first = testing::repair_from(&options(), &repo, live, &seams(&disk, &factory));
            let stopped = disk.stopped();
            assert!(stopped || first.unwrap().shards.len() == 2);
            let disk = if cut {
                factory.crash(after);
                disk.crash(PowerCut { seed: after })
            } else {
                disk.kill()
            };
            let seams = || seams(&disk, &factory);
            let repaired = testing::repair_from(&options(), &repo, live, &seams());
            let repaired = repaired.unwrap_or_else(|error| panic!("after {after}, cut {cut}: {error}"));
            again += usize::from(!repaired.shards.is_empty());
            let store = testing::open(live, &options().existing_only(true), seams());
            let store = store.unwrap_or_else(|error| panic!("after {after}, cut {cut}: {error}"));
            assert_eq!(content(&store), expected, "after {after}, cut {cut}");
            if !stopped {
                break;
            }
            stops += 1;
        }
    }
    println!("{stops} stops, {again} repaired again");
    assert!(stops > 60 && again > 30, "{stops} stops, {again} repaired again");
}

/// As when a process has too many files open for a moment: a shard that was made anew does not open, or it is filled.
#[test]
fn a_repair_whose_new_shard_does_not_open_names_it() {
    let live = Path::new("/live");
    let options = || options().virtual_nodes(16).replication_factor(1);
    let (disk, factory, backup) = (SimDisk::new(7), MemoryFactory::new(), SimDisk::new(8));
    let seams = |disk: &SimDisk, factory: &MemoryFactory| Seams {
        disk: Arc::new(disk.clone()),
        factory: Arc::new(factory.clone()),
        background: Background::Off,
    };
    let repo = repository(&backup);
    let store = testing::open(live, &options().shards(2), seams(&disk, &factory)).unwrap();
    // So much that the journal does not reach back to its beginning.
    for round in 0..4 {
        for n in 0..250u8 {
            store.insert([n], vec![n ^ round; 400]).unwrap();
        }
        store.checkpoint(&repo).unwrap();
        store.flush().unwrap();
    }
    let expected = content(&store);
    store.close().unwrap();
    factory.erase(Path::new("/live/shards/0000"));
    disk.remove_file(Path::new("/live/shards/0000/SEAL")).unwrap();
    disk.sync_dir(Path::new("/live/shards/0000")).unwrap();
    let mut named = 0;
    for operation in [Operation::Read, Operation::Look] {
        for after in 0..60 {
            let (disk, factory) = (disk.fork(), factory.fork());
            let of_shard = |path: &Path| path.starts_with("/live/shards/0000");
            disk.inject(Fault::on(operation).at(of_shard).after(after).times(1));
            let what = format!("{operation:?} after {after}");
            match testing::repair_from(&options(), &repo, live, &seams(&disk, &factory)) {
                Ok(repaired) => assert_eq!(repaired.shards.len(), 1, "{what}"),
                Err(error) => {
                    named += usize::from(error.shard().is_some_and(|shard| shard.0 == 0));
                    disk.heal();
                    testing::repair_from(&options(), &repo, live, &seams(&disk, &factory)).unwrap();
                }
            }
            disk.heal();
            let store = testing::open(live, &options().existing_only(true), seams(&disk, &factory));
            let store = store.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(content(&store), expected, "{what}");
        }
    }
    assert!(named > 0, "it opened each time");
}

/// A prune sweeps what others have left, and cannot tell it from what an archiver is writing.
#[test]
fn a_file_that_is_swept_while_it_is_written_is_written_again() {
    let disk = SimDisk::new(7);
    let storage = DirStorage::new(Arc::new(disk.clone()), BACKUP);
    storage.write("archive/a/1", b"a piece").unwrap();
    disk.inject(Fault::on(Operation::Rename).error(io::ErrorKind::NotFound).times(1));
    storage.write("archive/a/2", b"another").unwrap();
    assert_eq!(storage.read("archive/a/2").unwrap().as_deref(), Some(&b"another"[..]));
    disk.inject(Fault::on(Operation::Rename).error(io::ErrorKind::NotFound));
    assert_eq!(storage.write("archive/a/3", b"third").unwrap_err().kind(), ErrorKind::Io);
}

/// Another try is of more writes, and so under another name: on a disk that is full each would leave its part, up to the next prune.
#[test]
fn a_file_that_could_not_be_written_takes_no_room() {
    for operation in [Operation::Write, Operation::Sync, Operation::Rename] {
        let disk = SimDisk::new(7);
        let storage = DirStorage::new(Arc::new(disk.clone()), BACKUP);
        storage.write("archive/a/1", b"a piece").unwrap();
        disk.inject(Fault::on(operation).error(io::ErrorKind::StorageFull));
        assert_eq!(storage.write("archive/a/2", b"another").unwrap_err().kind(), ErrorKind::Io);
        disk.heal();
        let names = storage.list("archive/a/").unwrap();
        assert_eq!(names.iter().map(|object| object.name.as_str()).collect::<Vec<_>>(), ["archive/a/1"]);
    }
}

#[test]
fn a_repair_from_a_damaged_backup_leaves_what_there_is_of_the_shards() {
    let damaged = Damaged::new();
    let files: Vec<PathBuf> = damaged.backup.files().into_iter().map(|(path, _)| path).collect();
    let copied = damaged.dir.path().join("copy");
    let (mut refused, mut whole) = (0, 0);
    for file in files {
        if !file.starts_with("/backup/objects") && !file.starts_with("/backup/archive") {
            continue;
        }
        let backup = damaged.backup.fork();
        backup.damage(&file, |bytes| *bytes.last_mut().unwrap() ^= 1).unwrap();
        copy(&damaged.live(), &copied);
        let Err(error) = Damaged::options().repair_from(&repository(&backup), &copied) else {
            // A piece that lies before the checkpoint.
            whole += 1;
            continue;
        };
        assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
        let seal = std::fs::read(copied.join("shards/0002/SEAL")).unwrap();
        assert_eq!(seal, b"rubbish", "{} is damaged, and shard 2 was cleared", file.display());
        refused += 1;
    }
    assert!(refused > 3 && whole <= 1, "{refused} refused, {whole} whole");
    Damaged::options().repair_from(&repository(&damaged.backup), damaged.live()).unwrap();
    let store = Damaged::options().existing_only(true).open(damaged.live()).unwrap();
    assert_eq!(content(&store), damaged.expected);
}

#[test]
fn a_shard_that_is_too_old_for_the_journal_comes_back_from_the_backup() {
    let dir = tempfile::tempdir().unwrap();
    let (live, aside) = (dir.path().join("live"), dir.path().join("aside"));
    let options = options().replication_factor(1);
    let repo = BackupRepository::open(dir.path().join("backup")).unwrap();
    let write = |store: &Store, round: u32| {
        for n in 0..2_000u32 {
            store.insert(n.to_be_bytes(), vec![(n + round) as u8; 100]).unwrap();
        }
    };
    let store = options.clone().shards(2).open(&live).unwrap();
    write(&store, 0);
    store.checkpoint(&repo).unwrap();
    store.close().unwrap();
    copy(&live.join("shards/0001"), &aside);
    let store = options.open(&live).unwrap();
    for round in 1..4 {
        write(&store, round);
        store.archive(&repo).unwrap();
        store.flush().unwrap();
    }
    let expected = content(&store);
    store.close().unwrap();
    copy(&aside, &live.join("shards/0001"));
    assert_eq!(options.open(&live).unwrap_err().kind(), ErrorKind::Unavailable);
    let repaired = options.repair_from(&repo, &live).unwrap();
    assert_eq!(repaired.shards.iter().map(|shard| shard.0).collect::<Vec<_>>(), [1]);
    assert_eq!(content(&options.open(&live).unwrap()), expected);
}

/// In a copy of its repository another store has put another checkpoint under the number of its last one.
#[test]
fn a_checkpoint_is_laid_over_none_but_the_one_that_its_store_took() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let ours = options().shards(2).open(path("ours")).unwrap();
    let others = options().shards(2).open(path("others")).unwrap();
    let repo = BackupRepository::open(path("backup")).unwrap();
    for n in 0..150u32 {
        others.insert(format!("others/{n:03}"), n.to_be_bytes()).unwrap();
        ours.insert(format!("ours/{:03}", n.min(99)), n.to_be_bytes()).unwrap();
    }
    ours.checkpoint(&repo).unwrap();
    copy(&path("backup"), &path("copy"));
    let copied = BackupRepository::open(path("copy")).unwrap();
    let rewrite = || {
        for n in 0..100u32 {
            ours.insert("ours/000", n.to_be_bytes()).unwrap();
        }
    };
    rewrite();
    assert_eq!(ours.checkpoint(&repo).unwrap(), others.checkpoint(&copied).unwrap());
    rewrite();
    let id = ours.checkpoint(&copied).unwrap();
    let restored = copied.restore(id).unwrap().options(options()).open(path("new")).unwrap();
    assert_eq!(content(&restored), content(&ours));
    // Where it is the one, it is built upon.
    let id = ours.checkpoint(&copied).unwrap();
    assert_eq!(copied.get(id).unwrap().layers, 1, "nothing has changed");
    assert_eq!(copied.get(id).unwrap().bytes_written, 0);
}

#[test]
fn a_checkpoint_is_of_the_time_at_which_its_moment_was() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path().join("live")).unwrap();
    let repo = BackupRepository::open(dir.path().join("backup")).unwrap();
    for n in 0..4_000u32 {
        store.insert(n.to_be_bytes(), vec![n as u8; 1_000]).unwrap();
    }
    let last = store.stats().unwrap().last_seq;
    let after = |time: SystemTime| {
        while SystemTime::now() < time + Duration::from_millis(3) {
            std::thread::yield_now();
        }
    };
    let first = Arc::new(Mutex::new(None));
    let noted = first.clone();
    let options_ = CheckpointOptions::new().progress(move |_| {
        // What comes after the first object is some milliseconds later.
        let now = *noted.lock().unwrap().get_or_insert_with(SystemTime::now);
        after(now);
        ControlFlow::Continue(())
    });
    let begun = SystemTime::now();
    after(begun);
    let id = store.checkpoint_with(&repo, options_).unwrap();
    let (taken, first) = (repo.get(id).unwrap().taken, first.lock().unwrap().unwrap());
    assert!(begun < taken && taken <= first, "begun {begun:?}, first object {first:?}, taken {taken:?}");
    // So a moment before it was done comes to it.
    let restore = repo.restore(id).unwrap().options(options()).until(At::Time(first));
    let restored = restore.open(dir.path().join("new")).unwrap();
    assert_eq!(restored.stats().unwrap().last_seq, last);
}

#[test]
fn a_layer_with_another_number_of_records_than_its_manifest_says_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path().join("live")).unwrap();
    let repo = BackupRepository::open(dir.path().join("backup")).unwrap();
    for n in 0..50u32 {
        store.insert(n.to_be_bytes(), b"v").unwrap();
    }
    let id = store.checkpoint(&repo).unwrap();
    let manifest = dir.path().join(format!("backup/checkpoints/{:016x}", id.0));
    let bytes = std::fs::read(&manifest).unwrap();
    // Its checksum may have a brace in it.
    let body = String::from_utf8_lossy(&bytes[20..]);
    for (says, lost) in [(51, Some(1)), (49, None)] {
        let changed = body.replace("\"records\":50", &format!("\"records\":{says}"));
        assert_ne!(changed, body);
        std::fs::write(&manifest, testing::backup::wrap_manifest(changed.as_bytes())).unwrap();
        for found in [repo.verify(id).unwrap(), repo.verify_all().unwrap()] {
            let [damage] = &found.damage[..] else { panic!("{:?}", found.damage) };
            assert_eq!((&damage.file, damage.records), (&manifest, lost), "{damage}");
            assert_eq!((damage.keyspace.as_deref(), found.records), (Some("default"), 50));
        }
        let restore = || repo.restore(id).unwrap().options(options());
        let error = restore().open(dir.path().join("new")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
        let (salvaged, damage) = restore().salvage(dir.path().join(format!("salvaged-{says}"))).unwrap();
        assert_eq!((content(&salvaged), damage.len()), (content(&store), 1));
    }
}

/// Layers that checkpoints share are read once, but each manifest says for itself what they have.
#[test]
fn what_a_manifest_says_of_a_layer_that_another_has_as_well_is_looked_at_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path().join("live")).unwrap();
    let repo = BackupRepository::open(dir.path().join("backup")).unwrap();
    for n in 0..50u32 {
        store.insert(n.to_be_bytes(), b"v").unwrap();
    }
    let ids = [store.checkpoint(&repo).unwrap(), store.checkpoint(&repo).unwrap()];
    assert_eq!(repo.verify_all().unwrap().records, 100);
    let manifest = dir.path().join(format!("backup/checkpoints/{:016x}", ids[1].0));
    let bytes = std::fs::read(&manifest).unwrap();
    // Its checksum may have a brace in it.
    let body = String::from_utf8_lossy(&bytes[20..]);
    for (of, says) in [("\"records\":50", "\"records\":51"), ("\"upto\":50", "\"upto\":49")] {
        let changed = body.replace(of, says);
        assert_ne!(changed, body);
        std::fs::write(&manifest, testing::backup::wrap_manifest(changed.as_bytes())).unwrap();
        let error =
            repo.restore(ids[1]).unwrap().options(options()).open(dir.path().join("new")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
        let found = repo.verify_all().unwrap();
        let damaged: Vec<_> = found.damage.iter().map(|damage| damage.checkpoint).collect();
        assert_eq!(damaged, [ids[1]], "{says}: {:?}", found.damage);
    }
}

#[test]
fn numbers_in_a_manifest_that_come_to_more_than_there_can_be_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path().join("live")).unwrap();
    let repo = BackupRepository::open(dir.path().join("backup")).unwrap();
    store.keyspace("notes").unwrap().insert("one", b"v").unwrap();
    store.insert("one", b"v").unwrap();
    let id = store.checkpoint(&repo).unwrap();
    let manifest = dir.path().join(format!("backup/checkpoints/{:016x}", id.0));
    let bytes = std::fs::read(&manifest).unwrap();
    let with = |field: &str, numbers: [u64; 2]| {
        let mut body: serde_json::Value = serde_json::from_slice(&bytes[20..]).unwrap();
        for (keyspace, number) in numbers.into_iter().enumerate() {
            body["keyspaces"][keyspace]["layers"][0][field] = number.into();
        }
        let body = serde_json::to_vec(&body).unwrap();
        std::fs::write(&manifest, testing::backup::wrap_manifest(&body)).unwrap();
    };
    for field in ["records", "bytes"] {
        with(field, [u64::MAX, 1]);
        assert_eq!(repo.get(id).unwrap_err().kind(), ErrorKind::Corruption);
        assert_eq!(repo.list().unwrap(), []);
    }
    // Together with the archive's.
    with("bytes", [u64::MAX, 0]);
    store.insert("two", b"v").unwrap();
    store.archive(&repo).unwrap();
    let go_on = |_| ControlFlow::Continue(());
    assert!(repo.verify_all_with(go_on).unwrap().is_whole());
    let restore = repo.restore(id).unwrap().options(options()).progress(go_on).until(At::Seq(Seq(3)));
    assert_eq!(restore.open(dir.path().join("new")).unwrap().get("two").unwrap().as_deref(), Some(&b"v"[..]));
}
