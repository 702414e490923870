//! A small ext4 file system in a loop-mounted image that runs full: writes end in a clean error, everything acknowledged
//! stays readable, and after space has been made the store opens with all of it, or goes on without being opened again. And
//! file systems that are shut down under a store. Skipped where mounting is not possible.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/live.rs"]
mod live;

use annulus::testing::{self, Background, MemoryFactory, RealDisk, Seams, SimDisk, SledFactory};
use annulus::{ErrorKind, EventKind, Health, Options, ShardId, Store};
use live::Live;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

struct Mounted {
    dir: tempfile::TempDir,
}

impl Mounted {
    /// None, with a printed word, where a file system cannot be made and mounted.
    fn new(mebibytes: u64) -> Option<Mounted> {
        let dir = tempfile::tempdir().unwrap();
        let (image, point) = (dir.path().join("image"), dir.path().join("mnt"));
        std::fs::create_dir(&point).unwrap();
        std::fs::File::create(&image).unwrap().set_len(mebibytes << 20).unwrap();
        let run = |command: &mut Command| command.output().is_ok_and(|o| o.status.success());
        if !run(Command::new("mkfs.ext4").arg("-q").arg("-F").args(["-m", "0"]).arg(&image))
            || !run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&point))
        {
            println!("skipped: a loop device cannot be mounted here");
            return None;
        }
        Some(Mounted { dir })
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn value(n: u32) -> Vec<u8> {
    (0..1000u32).map(|i| (i.wrapping_mul(n) >> 3) as u8).collect()
}

fn check(store: &Store, acknowledged: u32) {
    for n in 0..acknowledged {
        let found =
            store.get(n.to_be_bytes()).unwrap_or_else(|e| panic!("record {n} of {acknowledged}: {e}"));
        assert!(found.as_deref() == Some(&value(n)[..]), "record {n} of {acknowledged}");
    }
}

/// Writes until an error comes, and returns how many writes were acknowledged.
fn fill(store: &Store) -> u32 {
    for n in 0..400_000u32 {
        if let Err(error) = store.insert(n.to_be_bytes(), value(n)) {
            let expected = [ErrorKind::Full, ErrorKind::Io, ErrorKind::Unavailable, ErrorKind::Poisoned];
            assert!(expected.contains(&error.kind()), "{error:?}");
            return n;
        }
    }
    panic!("the disk never ran full");
}

fn open(options: &Options, place: &Path) -> Store {
    // sled fails to open once more after its disk was full.
    let first = options.open(place);
    first.or_else(|_| options.open(place)).unwrap_or_else(|e| panic!("with space again: {e}"))
}

#[test]
fn a_full_journal_disk_is_a_clean_error() {
    let Some(mounted) = Mounted::new(48) else { return };
    let shards = tempfile::tempdir().unwrap();
    let shard = |name: &str| annulus::ShardOptions::new(shards.path().join(name));
    let options = Options::new()
        .shard(shard("a"))
        .shard(shard("b"))
        .memory_budget(64 << 20)
        .journal_segment_bytes(1 << 20);
    let place = mounted.path().join("store");
    let store = options.open(&place).unwrap();
    let ballast = mounted.path().join("ballast");
    let mut acknowledged = 0u32;
    for round in 0..3u8 {
        // All that is left, whatever the journal has taken meanwhile.
        let mut file = std::fs::File::create(&ballast).unwrap();
        while std::io::Write::write_all(&mut file, &[1; 64 << 10]).is_ok() {}
        drop(file);
        let error = loop {
            match store.insert(acknowledged.to_be_bytes(), value(acknowledged)) {
                Ok(_) => acknowledged += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::Full, "{error:?}");
        assert!(error.to_string().contains("free space"), "{error}");
        for _ in 0..20 {
            assert_eq!(store.insert("never", value(7)).unwrap_err().kind(), ErrorKind::Full);
        }
        assert!(store.stats().unwrap().warnings.iter().any(|w| w.contains("journal")), "{round}");
        check(&store, acknowledged);
        // Space again: no restart is needed.
        std::fs::remove_file(&ballast).unwrap();
        store.insert_with("again", [round], annulus::Durability::Sync).unwrap();
        // The next segment is prepared in the background.
        while !store.stats().unwrap().warnings.is_empty() {
            std::thread::yield_now();
        }
    }
    assert!(acknowledged > 100, "{acknowledged}");
    drop(store);
    let store = open(&options, &place);
    check(&store, acknowledged);
    assert_eq!(store.get("never").unwrap(), None);
    assert_eq!(store.get("again").unwrap().as_deref(), Some(&[2][..]));
}

/// The journal has filled it up, and its process ends: what is there can be read.
#[test]
fn a_store_opens_on_a_disk_that_its_journal_has_filled_up() {
    for copies in 1..3 {
        let (mut disk, factory) = (SimDisk::new(5), MemoryFactory::new());
        let mut options = Options::new().shards(2).memory_budget(8 << 20).journal_segment_bytes(64 << 10);
        if copies > 1 {
            options = options.journal_dirs(["/a", "/b"]);
        }
        let open = |disk: &SimDisk| {
            let (disk, factory) = (Arc::new(disk.clone()), Arc::new(factory.clone()));
            testing::open(Path::new("/store"), &options, Seams { disk, factory, background: Background::Off })
        };
        let store = open(&disk).unwrap();
        disk.set_capacity(Some(700 << 10));
        let acknowledged = fill(&store);
        assert!(acknowledged > 100, "{acknowledged}");
        drop(store);
        // Room for small files, and for no segment.
        let used: usize = disk.files().iter().map(|(_, bytes)| bytes.len()).sum();
        disk.set_capacity(Some(used as u64 + (40 << 10)));
        for _ in 0..3 {
            disk = disk.kill();
            let store = open(&disk).unwrap_or_else(|e| panic!("{copies}: {e}"));
            check(&store, acknowledged);
        }
        disk = disk.kill();
        let store = open(&disk).unwrap();
        disk.set_capacity(None);
        store.insert(acknowledged.to_be_bytes(), value(acknowledged)).unwrap();
        drop(store);
        disk = disk.kill();
        check(&open(&disk).unwrap(), acknowledged + 1);
    }
}

#[test]
fn a_full_disk_under_one_copy_of_the_journal_leaves_that_behind() {
    let Some(mounted) = Mounted::new(24) else { return };
    let home = tempfile::tempdir().unwrap();
    let options = Options::new()
        .shards(2)
        .memory_budget(64 << 20)
        .journal_segment_bytes(1 << 20)
        .journal_dirs([mounted.path().join("journal"), home.path().join("journal")]);
    let place = home.path().join("store");
    let store = options.open(&place).unwrap();
    let ballast = mounted.path().join("ballast");
    std::fs::write(&ballast, vec![1; 12 << 20]).unwrap();
    for n in 0..15_000u32 {
        store.insert(n.to_be_bytes(), value(n)).unwrap();
    }
    let mirrors = store.stats().unwrap().journal.mirrors;
    assert_eq!(mirrors.iter().map(|mirror| mirror.good).collect::<Vec<_>>(), [false, true]);
    assert!(mirrors[0].cause.is_some());
    check(&store, 15_000);
    drop(store);
    // Its word is older than the store's: it does not pass for a complete one.
    std::fs::rename(home.path().join("journal"), home.path().join("gone")).unwrap();
    assert_eq!(options.open(&place).map(drop).unwrap_err().kind(), ErrorKind::Refused);
    std::fs::rename(home.path().join("gone"), home.path().join("journal")).unwrap();
    check(&options.open(&place).unwrap(), 15_000);
}

#[test]
fn a_full_shard_disk_loses_nothing() {
    let Some(mounted) = Mounted::new(64) else { return };
    let home = tempfile::tempdir().unwrap();
    let shard = |name: &str| annulus::ShardOptions::new(mounted.path().join(name));
    let options = Options::new()
        .shard(shard("a"))
        .shard(shard("b"))
        .replication_factor(1)
        .memory_budget(8 << 20)
        .journal_segment_bytes(1 << 20);
    let place = home.path().join("store");
    let store = options.open(&place).unwrap();
    let ballast = mounted.path().join("ballast");
    std::fs::write(&ballast, vec![1; 40 << 20]).unwrap();
    let acknowledged = fill(&store);
    assert!(acknowledged > 100, "{acknowledged}");
    assert!(!store.stats().unwrap().warnings.is_empty());
    drop(store);
    std::fs::remove_file(&ballast).unwrap();
    check(&open(&options, &place), acknowledged);
}

#[test]
fn a_read_only_shard_is_an_error_or_made_up_for() {
    let Some(mounted) = Mounted::new(64) else { return };
    let home = tempfile::tempdir().unwrap();
    let shards = [home.path().join("a"), mounted.path().join("b")];
    let options =
        shards.iter().fold(Options::new(), |options, path| options.shard(annulus::ShardOptions::new(path)));
    let options = options.replication_factor(2).memory_budget(8 << 20);
    let place = home.path().join("store");
    let store = options.open(&place).unwrap();
    for n in 0..2000u32 {
        store.insert(n.to_be_bytes(), value(n)).unwrap();
    }
    store.close().unwrap();
    drop(store);
    let remount = Command::new("mount").args(["-o", "remount,ro"]).arg(mounted.path()).output().unwrap();
    assert!(remount.status.success(), "{}", String::from_utf8_lossy(&remount.stderr));
    let store = options.open(&place).unwrap();
    check(&store, 2000);
    store.insert("more", b"1").unwrap();
    store.flush().unwrap();
    check(&store, 2000);
    assert!(!store.stats().unwrap().warnings.is_empty());
}

impl Mounted {
    /// Fills the file system up to its last block, or but for `spare` bytes: enough for a small file, not for pages.
    fn fill_up(&self, spare: u64) -> PathBuf {
        use std::io::Write;
        let ballast = self.path().join("ballast");
        let mut file = std::fs::File::create(&ballast).unwrap();
        for length in [1 << 20, 4096, 1] {
            while file.write_all(&vec![1; length]).is_ok() {}
        }
        // What has been taken to the disk, and not only been promised.
        let _ = file.sync_all();
        file.set_len(file.metadata().unwrap().len() - spare).unwrap();
        ballast
    }

    /// Cuts the file system off from its device, as if that had died; false where that cannot be done. `how`: what is in
    /// memory is still written (0), what is in its own log is (1), nothing is (2).
    fn shut_down(&self, how: u32) -> bool {
        let script = "import fcntl,os,struct,sys; fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', int(sys.argv[2])))";
        Command::new("python3")
            .args(["-c", script])
            .arg(self.path())
            .arg(how.to_string())
            .output()
            .is_ok_and(|o| o.status.success())
    }

    fn unmount(&self) {
        succeed(Command::new("umount").arg("-l").arg(self.path()));
    }

    fn mount(&self) {
        let image = self.dir.path().join("image");
        succeed(Command::new("mount").args(["-o", "loop"]).arg(image).arg(self.path()));
    }

    fn mount_again(&self) {
        let begun = Instant::now();
        loop {
            self.unmount();
            self.mount();
            // As long as somebody has a file of the dead one open, what is mounted is that again.
            match std::fs::write(self.path().join("alive"), "") {
                Ok(()) => break std::fs::remove_file(self.path().join("alive")).unwrap(),
                Err(error) => assert!(begun.elapsed() < live::LIMIT, "it stays dead: {error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn live(shards: &[PathBuf], replicas: usize, place: PathBuf, seed: u64) -> Live {
    let shards = shards.iter().map(annulus::ShardOptions::new);
    let options = shards.fold(Options::new(), Options::shard).replication_factor(replicas);
    Live::start(place, options.virtual_nodes(64).memory_budget(8 << 20).journal_segment_bytes(1 << 20), seed)
}

/// Writes records that the workload knows nothing of until `is_enough`, since a shard may find room for the old ones in its own
/// files for ever; how many there were.
fn grow(live: &Live, is_enough: impl Fn(&Store, annulus::Result<()>) -> bool) -> u32 {
    for n in 0..200_000u32 {
        let key = [&[255; 8][..], &n.to_be_bytes()].concat();
        if live.with(|store| is_enough(store, store.insert(&key, value(n)).map(drop))) {
            return n + 1;
        }
    }
    panic!("the disk is not full: {:#?}", live.with(|store| store.health()));
}

fn shrink(live: &Live, grown: u32) {
    for n in 0..grown {
        live.with(|store| store.remove([&[255; 8][..], &n.to_be_bytes()].concat()).unwrap());
    }
}

#[test]
fn a_shard_whose_disk_is_full_comes_back_by_itself() {
    let Some(mounted) = Mounted::new(48) else { return };
    let (home, seed) = (tempfile::tempdir().unwrap(), live::seed("a full shard"));
    let shards = [home.path().join("a"), home.path().join("b"), mounted.path().join("c")];
    let mut live = live(&shards, 2, home.path().join("store"), seed);
    for spare in [0, 256 << 10] {
        live.operations(1000);
        live.with(|store| store.flush().unwrap());
        let ballast = mounted.fill_up(spare);
        live.figures.faults += 1;
        let grown = grow(&live, |store, written| {
            written.unwrap();
            !store.health().unwrap().is_good()
        });
        // The others go on, and flush, without it.
        live.operations(20_000);
        live.with(|store| store.flush().unwrap());
        let behind = live.with(|store| store.health().unwrap().shards[2].health.clone());
        assert!(matches!(behind, Health::Offline(_)), "{behind:?}");
        std::fs::remove_file(&ballast).unwrap();
        live.wait_until_good();
        shrink(&live, grown);
        live.check_copies();
    }
    assert!(
        !live.saw(ShardId(2), |e| matches!(e, EventKind::Rebuilding { .. })),
        "{:#?}",
        live.last_events()
    );
    live.reopen(|| ());
    live.finish("a full shard");
}

#[test]
fn all_shards_on_one_full_disk_are_read_and_come_back_by_themselves() {
    let Some(mounted) = Mounted::new(64) else { return };
    let (home, seed) = (tempfile::tempdir().unwrap(), live::seed("a full disk of all shards"));
    let shards = ["a", "b", "c"].map(|name| mounted.path().join(name));
    let mut live = live(&shards, 2, home.path().join("store"), seed);
    for spare in [0, 256 << 10] {
        live.operations(1000);
        live.with(|store| store.flush().unwrap());
        live.lenient(true);
        let (ballast, refused) = (mounted.fill_up(spare), live.refused());
        live.figures.faults += 1;
        // The memory takes writes until it is full; from there on they are refused, and reads go on.
        let grown = grow(&live, |_, written| written.is_err());
        live.wait_for("not refused", |_| live.refused() > refused + 10);
        live.operations(1000);
        let serving = live.with(|store| store.health().unwrap());
        assert_eq!(serving.unavailable, 0, "{serving:#?}");
        std::fs::remove_file(&ballast).unwrap();
        live.wait_until_good();
        live.with(|store| store.flush().unwrap());
        live.lenient(false);
        shrink(&live, grown);
        live.operations(5000);
        live.check_copies();
    }
    live.reopen(|| ());
    live.finish("a full disk of all shards");
}

#[test]
fn a_disk_that_dies_is_made_up_for_and_taken_back_when_it_is_mounted_again() {
    let Some(mounted) = Mounted::new(48) else { return };
    let (home, seed) = (tempfile::tempdir().unwrap(), live::seed("a dead disk"));
    let shards = [home.path().join("a"), mounted.path().join("b"), home.path().join("c")];
    let mut live = live(&shards, 2, home.path().join("store"), seed);
    live.operations(5000);
    live.with(|store| store.flush().unwrap());
    live.operations(5000);
    if !mounted.shut_down(2) {
        println!("skipped: a file system cannot be shut down here");
        return;
    }
    live.figures.faults += 1;
    live.operations(5000);
    live.with(|store| store.flush().unwrap());
    live.wait_for("not noticed", |store| {
        matches!(store.health().unwrap().shards[1].health, Health::Offline(_))
    });
    // Nothing heals there, and an error says why.
    let refused = live.with(|store| store.repair(ShardId(1))).unwrap_err();
    assert!([ErrorKind::Io, ErrorKind::Locked].contains(&refused.kind()), "{refused:?}");
    live.operations(5000);
    live.with(|store| store.flush().unwrap());
    mounted.mount_again();
    live.wait_for("not repaired", |store| store.repair(ShardId(1)).is_ok());
    live.wait_until_good();
    live.check_copies();
    live.reopen(|| ());
    live.finish("a dead disk");
}

#[test]
fn a_journal_whose_disk_dies_refuses_writes_and_has_all_that_was_synced() {
    for how in 0..3 {
        let Some(mounted) = Mounted::new(48) else { return };
        let home = tempfile::tempdir().unwrap();
        let options = Options::new()
            .shards(3)
            .memory_budget(64 << 20)
            .journal_segment_bytes(1 << 20)
            .journal_dir(mounted.path().join("journal"));
        let place = home.path().join("store");
        let store = options.open(&place).unwrap();
        let write = |n: u32| store.insert_with(n.to_be_bytes(), value(n), annulus::Durability::Sync);
        (0..300).for_each(|n| assert!(write(n).is_ok(), "{n}"));
        store.flush().unwrap();
        (300..600).for_each(|n| assert!(write(n).is_ok(), "{n}"));
        if !mounted.shut_down(how) {
            println!("skipped: a file system cannot be shut down here");
            return;
        }
        let error = write(600).unwrap_err();
        assert!([ErrorKind::Io, ErrorKind::Poisoned].contains(&error.kind()), "{how}: {error:?}");
        let journal = mounted.path().join("journal");
        assert!(error.to_string().contains(&journal.display().to_string()), "{how}: {error}");
        (601..650).for_each(|n| assert_eq!(write(n).unwrap_err().kind(), ErrorKind::Poisoned, "{how}"));
        // Reads go on, from memory and from the shards.
        check(&store, 600);
        assert!(store.iter().all(|item| item.is_ok()), "{how}");
        assert!(store.close().is_err(), "{how}: closed as if all were well");
        drop(store);
        mounted.mount_again();
        let store = options.open(&place).unwrap_or_else(|e| panic!("{how}: with the disk again: {e}"));
        check(&store, 600);
        store.close().unwrap();
    }
}

#[test]
fn a_copy_of_the_journal_on_a_disk_that_is_not_mounted_is_waited_for() {
    let Some(mounted) = Mounted::new(32) else { return };
    let home = tempfile::tempdir().unwrap();
    let options = Options::new().shards(2).memory_budget(8 << 20).journal_segment_bytes(64 << 10);
    let both = options.clone().journal_dirs([home.path().join("journal"), mounted.path().join("journal")]);
    let place = home.path().join("store");
    let by_hand = |options: &Options| {
        let (disk, factory) = (Arc::new(RealDisk), Arc::new(SledFactory::default()));
        testing::open(&place, options, Seams { disk, factory, background: Background::Off }).unwrap()
    };
    let write = |store: &Store, n: u32| {
        store.insert_with(n.to_be_bytes(), value(n), annulus::Durability::Sync).unwrap();
    };
    let store = by_hand(&both);
    write(&store, 1);
    store.close().unwrap();
    mounted.unmount();
    let store = by_hand(&options);
    write(&store, 2);
    assert_eq!(testing::mend(&store), 0);
    let state = store.stats().unwrap().journal.mirrors[1].clone();
    assert!(state.cause.as_ref().is_some_and(|cause| cause.contains("not mounted")), "{state:?}");
    assert_eq!(std::fs::read_dir(mounted.path()).unwrap().count(), 0);
    mounted.mount();
    assert_eq!(testing::mend(&store), 1);
    write(&store, 3);
    store.close().unwrap();
    std::fs::remove_dir_all(home.path().join("journal")).unwrap();
    let store = by_hand(&options);
    for n in 1..=3u32 {
        assert_eq!(store.get(n.to_be_bytes()).unwrap().as_deref(), Some(&value(n)[..]));
    }
}
