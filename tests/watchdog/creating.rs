//! What is found before a directory is locked need not be so any more when it is.

use super::asking::HangingDisk;
use super::*;
use annulus::{BackupRepository, ErrorKind, Restore, ShardOptions};

const LOCK: &str = "/store/LOCK";

fn options(shard: &str) -> Options {
    let options = Options::new().replication_factor(1).memory_budget(8 << 20);
    options.journal_segment_bytes(64 << 10).shard(ShardOptions::new(shard))
}

/// While `late` waits for the lock of an empty directory a store is made there, of which `lost` is gone then. Nothing of that
/// may be made over.
fn made_meanwhile(
    lost: &[&str],
    late: impl FnOnce(Seams) -> annulus::Result<Store> + Send + 'static,
) -> ErrorKind {
    let (disk, factory) = (HangingDisk::new(), MemoryFactory::new());
    let seams =
        |disk: Arc<dyn Disk>| Seams { disk, factory: Arc::new(factory.clone()), background: Background::Off };
    disk.disk.create_dir_all(Path::new("/store")).unwrap();
    disk.hang(Path::new(LOCK));
    let (waiting, done) = (seams(Arc::new(disk.clone())), channel());
    std::thread::spawn(move || done.0.send(late(waiting).map(drop)));
    disk.wait_until_it_hangs();
    let open = || testing::open(Path::new("/store"), &options("/data"), seams(Arc::new(disk.disk.clone())));
    let store = open().unwrap();
    store.insert("key", "value").unwrap();
    drop(store);
    let files: Vec<_> =
        disk.disk.files().into_iter().filter(|(path, _)| lost.iter().any(|l| path == Path::new(l))).collect();
    for (path, _) in &files {
        disk.disk.remove_file(path).unwrap();
    }
    assert_eq!(files.len(), lost.len());
    disk.release();
    let error = done.1.recv_timeout(LONG).unwrap().unwrap_err();
    for (path, bytes) in files {
        disk.disk.replace(&path, &bytes).unwrap();
    }
    assert_eq!(open().unwrap().get("key").unwrap().as_deref(), Some(&b"value"[..]));
    error.kind()
}

#[test]
fn a_store_is_not_made_over_one_that_was_made_while_the_lock_was_waited_for() {
    let late = |seams| testing::open(Path::new("/store"), &options("/other"), seams);
    assert_eq!(made_meanwhile(&["/store/MANIFEST"], late), ErrorKind::Corruption);
}

#[test]
fn a_store_is_not_restored_over_one_that_was_made_while_the_lock_was_waited_for() {
    let backup = tempfile::tempdir().unwrap();
    let repository = BackupRepository::open(backup.path()).unwrap();
    let saved = open(&SimDisk::new(1), &MemoryFactory::new(), 2);
    let id = saved.checkpoint(&repository).unwrap();
    let restore: Restore = repository.restore(id).unwrap().options(options("/other"));
    let late = move |seams| testing::restore(restore, Path::new("/store"), seams);
    assert_eq!(made_meanwhile(&[], late), ErrorKind::Foreign);
}
