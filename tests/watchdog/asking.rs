//! Who asks how the store is hears it in time, whatever the disks do: who asks with a disk that hangs needs it most.

use super::*;
use annulus::testing::{DiskFile, FreeSpace, OpenMode};
use annulus::{ErrorKind, ShardOptions, Stats, StoreHealth};
use std::io;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex};

/// A disk on which whatever is done to a name in one directory, or below it, hangs until it is let go; or the giving of another name alone. And, if
/// that is asked for, what is done to files that are open; or that alone.
#[derive(Debug, Clone)]
pub struct HangingDisk {
    pub disk: SimDisk,
    gate: Arc<(Mutex<Gate>, Condvar)>,
}

#[derive(Debug, Default)]
struct Gate {
    dirs: Vec<PathBuf>,
    /// What begins to hang, with its files, when so many more things have been done there.
    later: Vec<PathBuf>,
    left: usize,
    files: Vec<PathBuf>,
    written: Vec<PathBuf>,
    renamed: Option<PathBuf>,
    waiting: usize,
    slow: Duration,
}

impl HangingDisk {
    pub fn new() -> HangingDisk {
        HangingDisk { disk: SimDisk::new(6), gate: Arc::default() }
    }

    pub fn hang(&self, dir: &Path) {
        self.gate.0.lock().unwrap().dirs = vec![dir.to_path_buf()];
    }

    pub fn hang_with_files(&self, dir: &Path) {
        self.hang(dir);
        self.hang_files(dir);
    }

    /// From when `left` things more have been done to any of these directories, or to what is in them.
    pub fn hang_later(&self, dirs: &[&str], left: usize) {
        let mut gate = self.gate.0.lock().unwrap();
        gate.later = dirs.iter().map(PathBuf::from).collect();
        gate.left = left;
    }

    pub fn has_begun_to_hang(&self) -> bool {
        let gate = self.gate.0.lock().unwrap();
        !gate.dirs.is_empty() || !gate.files.is_empty()
    }

    /// What is known of names goes on being answered, as from the system's memory.
    pub fn hang_files(&self, dir: &Path) {
        self.gate.0.lock().unwrap().files.push(dir.to_path_buf());
    }

    /// Also what is written, which goes into the system's memory elsewhere.
    pub fn hang_writes(&self, dir: &Path) {
        self.gate.0.lock().unwrap().written.push(dir.to_path_buf());
        self.hang_files(dir);
    }

    pub fn hang_renames(&self, path: &Path) {
        self.gate.0.lock().unwrap().renamed = Some(path.to_path_buf());
    }

    /// From now on everything takes so long.
    pub fn slow_down(&self, each: Duration) {
        self.gate.0.lock().unwrap().slow = each;
    }

    pub fn release(&self) {
        let mut gate = self.gate.0.lock().unwrap();
        *gate = Gate { waiting: gate.waiting, ..Gate::default() };
        drop(gate);
        self.gate.1.notify_all();
    }

    fn waiting(&self) -> usize {
        self.gate.0.lock().unwrap().waiting
    }

    pub fn wait_until_it_hangs(&self) {
        let gate = self.gate.0.lock().unwrap();
        let (_gate, waited) = self.gate.1.wait_timeout_while(gate, LONG, |gate| gate.waiting == 0).unwrap();
        assert!(!waited.timed_out(), "nobody asks the disk for anything");
    }

    fn at(&self, path: &Path) -> &SimDisk {
        self.count(path);
        self.while_it(|gate| gate.dirs.iter().any(|dir| path.starts_with(dir)))
    }

    fn count(&self, path: &Path) {
        let mut gate = self.gate.0.lock().unwrap();
        if !gate.later.iter().any(|dir| path.starts_with(dir)) {
            return;
        }
        match gate.left.checked_sub(1) {
            Some(left) => gate.left = left,
            None => {
                let dirs = std::mem::take(&mut gate.later);
                gate.files.extend(dirs.clone());
                gate.dirs = dirs;
            }
        }
    }

    fn while_it(&self, hangs: impl Fn(&mut Gate) -> bool) -> &SimDisk {
        let mut gate = self.gate.0.lock().unwrap();
        let slow = gate.slow;
        if slow > Duration::ZERO {
            drop(gate);
            std::thread::sleep(slow);
            gate = self.gate.0.lock().unwrap();
        }
        if hangs(&mut gate) {
            gate.waiting += 1;
            self.gate.1.notify_all();
            let mut gate = self.gate.1.wait_while(gate, &hangs).unwrap();
            gate.waiting -= 1;
        }
        &self.disk
    }
}

#[derive(Debug)]
struct HangingFile {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    disk: HangingDisk,
}

impl HangingFile {
    fn at(&self) -> &dyn DiskFile {
        self.disk.count(&self.path);
        self.disk.while_it(|gate| gate.files.iter().any(|dir| self.path.starts_with(dir)));
        self.file.as_ref()
    }
}

impl DiskFile for HangingFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.at().read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.while_it(|gate| gate.written.iter().any(|dir| self.path.starts_with(dir)));
        self.file.write_at(offset, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.at().sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.at().sync_all()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.at().set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.at().len()
    }
}

impl Disk for HangingDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.at(dir).create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.at(dir).list(dir)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.at(path).exists(path)
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        self.at(path).canonicalize(path)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.at(path).open(path, mode)?;
        Ok(Arc::new(HangingFile { file, path: path.to_path_buf(), disk: self.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.while_it(|gate| gate.renamed.as_deref() == Some(from));
        self.at(from).rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.at(path).remove_file(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.at(dir).remove_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.at(dir).sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.at(path).lock(path)
    }

    fn boot_id(&self) -> u128 {
        self.disk.boot_id()
    }

    fn space(&self, path: &Path) -> io::Result<Option<FreeSpace>> {
        self.at(path).space(path)
    }
}

fn stats(store: &Store) -> Stats {
    let store = store.clone();
    in_time("asking for figures", move || store.stats()).unwrap()
}

fn health(store: &Store) -> StoreHealth {
    let store = store.clone();
    in_time("asking for the health", move || store.health()).unwrap()
}

fn silent(stats: &Stats) -> usize {
    stats.warnings.iter().filter(|warning| warning.contains("does not answer")).count()
}

#[test]
fn sizes_are_those_last_known_while_a_disk_hangs() {
    let mut world = World::new();
    let sizes = |stats: &Stats| -> Vec<u64> { stats.shards.iter().map(|s| s.disk_bytes).collect() };
    let before = stats(&world.store);
    assert!(sizes(&before).iter().all(|size| *size > 0) && before.warnings.is_empty(), "{before:?}");
    let gate = world.factory.hang(SHARD, Op::Size);
    for _ in 0..3 {
        world.write();
        world.flush();
        let now = stats(&world.store);
        assert_eq!(silent(&now), 1, "{:?}", now.warnings);
        let grown: Vec<bool> =
            sizes(&now).iter().zip(sizes(&before)).map(|(now, then)| *now > then).collect();
        assert_eq!(grown, [true, false, true], "{before:?} {now:?}");
        assert_eq!(sizes(&now)[1], sizes(&before)[1]);
        assert_eq!(gate.waiting(), 1, "it is not asked again while it hangs");
    }
    // To be asked in vain for a figure is not to fail: it goes on serving, and being written to.
    world.go_on();
    assert!(health(&world.store).is_good());
    gate.release();
    let now = loop {
        let now = stats(&world.store);
        if silent(&now) == 0 {
            break now;
        }
    };
    assert!(sizes(&now).iter().zip(sizes(&before)).all(|(now, then)| *now > then), "{now:?}");
    // What is asked after a write tells of it.
    world.store.insert(b"large", vec![7; 100_000]).unwrap();
    world.flush();
    let (now, then) = (stats(&world.store), now);
    let grown = sizes(&now).iter().zip(sizes(&then)).filter(|(now, then)| **now >= then + 100_000).count();
    assert_eq!(grown, 2, "{then:?} {now:?}");
}

#[test]
fn a_store_is_closed_while_it_is_asked_in_vain_for_a_size() {
    let mut world = World::new();
    let gate = world.factory.hang(SHARD, Op::Size);
    assert_eq!(silent(&stats(&world.store)), 1);
    world.close().unwrap();
    world.reopen();
    world.go_on();
    assert_eq!(gate.waiting(), 1);
    gate.release();
}

#[test]
fn what_is_set_aside_is_told_as_last_known_while_a_disk_hangs() {
    let (disk, factory) = (HangingDisk::new(), MemoryFactory::new());
    let store = open_on(Arc::new(disk.clone()), &factory, 2);
    let dir = stats(&store).shards[SHARD.0 as usize].path.clone();
    let set_aside = |generation: u32, bytes: usize| {
        let at = dir.join(format!("quarantine-{generation}"));
        disk.disk.create_dir_all(&at).unwrap();
        disk.disk.replace(&at.join("pages"), &vec![1; bytes]).unwrap();
    };
    let kept =
        |health: &StoreHealth| -> Vec<u64> { health.quarantined.iter().map(|kept| kept.bytes).collect() };
    set_aside(7, 1000);
    let before = health(&store);
    assert_eq!((kept(&before), before.silent), (vec![1000], vec![]));
    disk.hang(&dir);
    set_aside(8, 500);
    for _ in 0..3 {
        let now = health(&store);
        assert_eq!((kept(&now), now.silent), (vec![1000], vec![SHARD]));
    }
    disk.release();
    loop {
        let now = health(&store);
        if now.silent.is_empty() {
            break assert_eq!(kept(&now), [1000, 500]);
        }
    }
    store.close().unwrap();
}

/// Writes wait for a journal that hangs, and what asks for figures does not.
#[test]
fn figures_are_told_while_the_journals_disk_hangs() {
    let (disk, factory) = (HangingDisk::new(), MemoryFactory::new());
    let store = open_on(Arc::new(disk.clone()), &factory, 2);
    let fill = |store: &Store| {
        (0..100_u32).for_each(|n| assert!(store.insert(n.to_be_bytes(), [5; 2000]).is_ok()));
    };
    // Enough that a flush frees segments.
    fill(&store);
    let before = stats(&store);
    assert!(before.journal.segments > 2, "{before:?}");
    disk.hang(Path::new("/store/journal"));
    let (flushes, writes) = (store.clone(), store.clone());
    let flushing = std::thread::spawn(move || flushes.flush());
    let writing = std::thread::spawn(move || fill(&writes));
    disk.wait_until_it_hangs();
    for _ in 0..10 {
        let now = stats(&store);
        // One that is being freed is none any more.
        assert!(now.journal.segments + 1 >= before.journal.segments, "{now:?}");
        assert!(health(&store).silent.is_empty());
    }
    assert!(!flushing.is_finished());
    disk.release();
    writing.join().unwrap();
    flushing.join().unwrap().unwrap();
    store.close().unwrap();
}

/// The network that a shard's directory, or that of one that is to join, is mounted over is away: a change is planned and begun all the
/// same, or refused, and flushes go on meanwhile.
#[test]
fn a_change_is_planned_and_begun_while_a_file_system_does_not_answer() {
    let (disk, factory) = (HangingDisk::new(), MemoryFactory::new());
    disk.disk.set_capacity(Some(1 << 40));
    let store = open_on(Arc::new(disk.clone()), &factory, 2);
    let plan = |path: &str| {
        let (store, new) = (store.clone(), ShardOptions::new(path));
        in_time("planning", move || store.plan().add_shard(new).preview()).unwrap()
    };
    let free = |plan: &annulus::Plan| plan.shards().iter().map(|s| s.free.is_some()).collect::<Vec<_>>();
    assert_eq!(free(&plan("/mnt/new")), [true; 4]);

    disk.hang(Path::new("/mnt"));
    let refused = plan("/mnt/new");
    assert_eq!(free(&refused), [true, true, true, false]);
    let applying = store.clone();
    let begun = std::thread::spawn(move || applying.apply(refused).map(drop));
    disk.wait_until_it_hangs();
    // Nothing is locked while it is asked.
    while !begun.is_finished() {
        store.insert(b"key", b"value").unwrap();
        let flushes = store.clone();
        in_time("a flush", move || flushes.flush()).unwrap();
    }
    let error = begun.join().unwrap().unwrap_err();
    assert_eq!(
        (error.kind(), error.path()),
        (ErrorKind::Unavailable, Some(Path::new("/mnt/new"))),
        "{error}"
    );
    assert_eq!(disk.waiting(), 1, "it is not asked again while it hangs");
    disk.release();

    let dir = stats(&store).shards[SHARD.0 as usize].path.clone();
    disk.hang(&dir);
    let plan = loop {
        let plan = plan("/mnt/new");
        if free(&plan)[3] {
            break plan;
        }
    };
    assert_eq!(free(&plan), [true, false, true, true]);
    // Its shard holds up the flush that a change begins with: what is done to it there is left behind.
    let applying = store.clone();
    let _ = in_time("beginning", move || applying.apply(plan).map(drop));
    disk.release();
    let _ = store.close();
}

/// Its manifest has it, and not every shard has its copy, since the disk of one hangs: whoever asks for it gets one that can be written to.
#[test]
fn a_keyspace_that_is_only_being_made_is_waited_for() {
    let (disk, factory) = (HangingDisk::new(), MemoryFactory::new());
    let store = open_on(Arc::new(disk.clone()), &factory, 2);
    store.keyspace("there").unwrap();
    disk.hang(&stats(&store).shards[SHARD.0 as usize].path.clone());
    let making = std::thread::spawn({
        let store = store.clone();
        move || store.keyspace("new").map(|made| made.id())
    });
    disk.wait_until_it_hangs();
    let writing = std::thread::spawn({
        let store = store.clone();
        move || {
            let found = store.keyspace("new")?;
            found.insert("key", "value").map(|_| found.id())
        }
    });
    let there = store.clone();
    in_time("one that is there", move || there.keyspace("there")).unwrap().insert("key", "value").unwrap();
    let found = in_time("writing", move || writing.join().unwrap()).unwrap();
    assert_eq!(making.join().unwrap().unwrap(), found);
    disk.release();
    let _ = store.close();
}

/// Whoever changes the manifest gives all shards their copies at once: those that lie on a disk that hangs cost him the time of one.
#[test]
fn all_shards_are_given_the_manifest_at_once() {
    let (disk, factory) = (HangingDisk::new(), MemoryFactory::new());
    let options = Options::new().shards(3).replication_factor(2).memory_budget(8 << 20).shard_timeout(LONG);
    let seams =
        Seams { disk: Arc::new(disk.clone()), factory: Arc::new(factory), background: Background::On };
    let store = testing::open(Path::new("/store"), &options, seams).unwrap();
    disk.hang(Path::new("/store/shards"));
    let making = std::thread::spawn({
        let store = store.clone();
        move || store.keyspace("new").map(drop)
    });
    let begun = Instant::now();
    while disk.waiting() < 3 && begun.elapsed() < LONG / 4 {
        std::thread::yield_now();
    }
    let waiting = disk.waiting();
    disk.release();
    making.join().unwrap().unwrap();
    assert_eq!(waiting, 3);
    assert!(store.health().unwrap().is_good());
    store.close().unwrap();
}

/// The network that one shard's directory is mounted over is away, or its disk does not answer: the store opens without that shard, wherever its
/// journal lies and whether the options name the shards' directories or not, and takes it back when it answers.
#[test]
fn a_store_opens_while_the_file_system_of_one_shard_does_not_answer() {
    for (named, journals) in [(false, false), (true, false), (false, true), (true, true)] {
        let (disk, factory) = (HangingDisk::new(), MemoryFactory::new());
        let dirs: [PathBuf; 3] = [0, 1, 2].map(|n| PathBuf::from(format!("/mnt/{n}")));
        let open = |named: bool| {
            let mut options = Options::new().memory_budget(8 << 20).shard_timeout(Duration::from_millis(200));
            if named {
                options = dirs.iter().fold(options, |o, dir| o.shard(ShardOptions::new(dir)));
            }
            if journals {
                options = options.journal_dirs([PathBuf::from("/a"), PathBuf::from("/b")]);
            }
            let (disk, factory) = (Arc::new(disk.clone()), Arc::new(factory.clone()));
            let seams = Seams { disk, factory, background: Background::On };
            in_time("opening", move || testing::open(Path::new("/store"), &options, seams)).unwrap()
        };
        let store = open(true);
        (0..100_u32).for_each(|n| assert!(store.insert(n.to_be_bytes(), [7; 100]).is_ok()));
        store.close().unwrap();
        disk.hang(&dirs[1]);
        let store = open(named);
        let away = |health: &StoreHealth| health.shards.iter().filter(|s| !s.health.serves()).count();
        assert_eq!(away(&health(&store)), 1);
        assert!((0..100_u32).all(|n| store.get(n.to_be_bytes()).unwrap().is_some()));
        store.insert("another", "record").unwrap();
        disk.release();
        let begun = Instant::now();
        while !health(&store).is_good() {
            assert!(begun.elapsed() < LONG, "{:?}", health(&store));
            std::thread::sleep(Duration::from_millis(20));
        }
        store.close().unwrap();
        // Where it lies is known as before.
        let store = open(named);
        assert!(stats(&store).shards.iter().zip(&dirs).all(|(shard, dir)| shard.path == *dir));
        store.close().unwrap();
    }
}
