//! Long work with backups: somebody is told of it, and may end it; then it has left what any error leaves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use annulus::{
    At, BackupProgress, BackupRepository, CheckpointOptions, CheckpointProgress, ErrorKind, Options,
    Retention, Store,
};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

struct Place {
    dir: tempfile::TempDir,
    store: Store,
    repo: BackupRepository,
}

impl Place {
    /// A store of some megabytes, in several objects, with two checkpoints that share nothing.
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let store = Options::new().memory_budget(8 << 20).open(dir.path().join("live")).unwrap();
        let repo = BackupRepository::open(dir.path().join("backup")).unwrap();
        for round in 0..2u32 {
            for n in 0..6_000u32 {
                store.insert(n.to_be_bytes(), vec![(n + round) as u8; 1_000]).unwrap();
            }
            store.checkpoint_with(&repo, CheckpointOptions::new().full(true)).unwrap();
        }
        Place { dir, store, repo }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

type Told = Arc<Mutex<Vec<BackupProgress>>>;

/// A callback that notes what it is told, and ends the work when it has been called `calls` times.
fn noting(calls: usize) -> (Told, impl Fn(BackupProgress) -> ControlFlow<()> + Send + Sync + 'static) {
    let told = Told::default();
    let notes = told.clone();
    let callback = move |at| {
        let mut notes = notes.lock().unwrap();
        notes.push(at);
        if notes.len() >= calls { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    (told, callback)
}

/// What was told, which only grew.
fn told(told: &Told) -> Vec<BackupProgress> {
    let told = std::mem::take(&mut *told.lock().unwrap());
    assert!(told.windows(2).all(|pair| pair[0].bytes <= pair[1].bytes && pair[0].objects <= pair[1].objects));
    told
}

fn objects(repo: &Path) -> usize {
    let under = |dir: PathBuf| std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    under(repo.join("objects")).flat_map(under).count()
}

#[test]
fn a_verification_tells_of_every_byte_and_may_be_ended() {
    let place = Place::new();
    let ids: Vec<_> = place.repo.list().unwrap().iter().map(|checkpoint| checkpoint.id).collect();
    let (notes, callback) = noting(usize::MAX);
    let found = place.repo.verify_with(ids[0], callback).unwrap();
    let notes = told(&notes);
    let last = *notes.last().unwrap();
    assert!(notes.len() > 3 && found.is_whole());
    assert_eq!((last.objects, last.bytes, last.bytes_total), (found.objects, found.bytes, Some(found.bytes)));

    let (notes, callback) = noting(usize::MAX);
    let all = place.repo.verify_all_with(callback).unwrap();
    let last = *told(&notes).last().unwrap();
    assert_eq!((last.objects, last.bytes, last.bytes_total), (all.objects, all.bytes, Some(all.bytes)));
    assert!(all.bytes > found.bytes);

    for calls in [1, 3] {
        let (notes, callback) = noting(calls);
        assert_eq!(place.repo.verify_with(ids[0], callback).unwrap_err().kind(), ErrorKind::Cancelled);
        assert_eq!(told(&notes).len(), calls);
        let (notes, callback) = noting(calls);
        assert_eq!(place.repo.verify_all_with(callback).unwrap_err().kind(), ErrorKind::Cancelled);
        assert_eq!(told(&notes).len(), calls);
    }
}

#[test]
fn a_restore_that_was_ended_leaves_room_for_another() {
    let place = Place::new();
    let new = place.path("new");
    let (notes, callback) = noting(3);
    let error = place.repo.restore_latest().unwrap().progress(callback).open(&new).unwrap_err();
    assert_eq!((error.kind(), told(&notes).len()), (ErrorKind::Cancelled, 3));
    let (notes, callback) = noting(usize::MAX);
    let store = place.repo.restore_latest().unwrap().progress(callback).open(&new).unwrap();
    assert_eq!(store.len().unwrap(), 6_000);
    let last = *told(&notes).last().unwrap();
    assert!(last.objects > 3);
    assert_eq!(last.bytes_total, Some(last.bytes));
}

/// What the archive has to be asked first is a part of it.
#[test]
fn a_restore_to_a_time_tells_of_what_it_reads_to_find_the_moment_and_may_be_ended_there() {
    let place = Place::new();
    for round in 0..4u8 {
        (0..50u32).for_each(|n| _ = place.store.insert(n.to_be_bytes(), vec![round; 1_000]).unwrap());
        place.store.archive(&place.repo).unwrap();
    }
    let now = || At::Time(std::time::SystemTime::now());
    let until = || place.repo.restore_latest().unwrap().until(now());
    let new = place.path("new");
    for calls in [1, 3] {
        let (notes, callback) = noting(calls);
        let error = until().progress(callback).open(&new).unwrap_err();
        let notes = told(&notes);
        assert_eq!((error.kind(), notes.len()), (ErrorKind::Cancelled, calls));
        assert!(notes.iter().all(|at| at.bytes > 0 && at.bytes_total.is_none()), "{notes:?}");
        assert!(!new.exists() || std::fs::read_dir(&new).unwrap().next().is_none());
    }
    let (notes, callback) = noting(usize::MAX);
    let store = until().progress(callback).open(&new).unwrap();
    assert_eq!(store.get(0u32.to_be_bytes()).unwrap().unwrap()[0], 3);
    let notes = told(&notes);
    let last = *notes.last().unwrap();
    let pieces = notes.iter().take_while(|at| at.bytes_total.is_none()).count();
    assert!(pieces >= 4 && notes.len() > pieces, "{notes:?}");
    assert!(notes[pieces..].iter().all(|at| at.bytes_total == Some(last.bytes)), "{notes:?}");
}

#[test]
fn a_prune_that_was_ended_is_finished_by_the_next_writer() {
    let place = Place::new();
    let before = objects(&place.path("backup"));
    // Before anything has gone.
    let (notes, callback) = noting(1);
    let error = place.repo.prune_with(Retention::keep_last(1), callback).unwrap_err();
    assert_eq!((error.kind(), told(&notes).len()), (ErrorKind::Cancelled, 1));
    assert_eq!((place.repo.list().unwrap().len(), objects(&place.path("backup"))), (2, before));
    // In the middle.
    let (_, callback) = noting(3);
    let error = place.repo.prune_with(Retention::keep_last(1), callback).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!((place.repo.list().unwrap().len(), objects(&place.path("backup"))), (1, before - 2));
    assert!(place.repo.verify_all().unwrap().is_whole());
    let (notes, callback) = noting(usize::MAX);
    place.repo.prune_with(Retention::keep_last(1), callback).unwrap();
    assert!(objects(&place.path("backup")) < before - 2);
    assert_eq!(told(&notes).len(), 1, "the rest was swept before it began");
    assert!(place.repo.verify_all().unwrap().is_whole());
}

#[test]
fn streams_are_told_of_and_may_be_ended() {
    let place = Place::new();
    let (notes, callback) = noting(usize::MAX);
    let mut stream = Vec::new();
    place.store.export_with(&mut stream, callback).unwrap();
    let notes = told(&notes);
    assert!(notes.len() > 3);
    assert_eq!(notes.last().unwrap().bytes, stream.len() as u64);
    let (_, callback) = noting(2);
    let error = place.store.export_with(std::io::sink(), callback).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);

    let new = place.path("new");
    let (_, callback) = noting(2);
    let error = Options::new().import_with(&stream[..], &new, callback).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    let (notes, callback) = noting(usize::MAX);
    let store = Options::new().import_with(&stream[..], &new, callback).unwrap();
    assert_eq!(store.len().unwrap(), 6_000);
    assert_eq!(told(&notes).last().unwrap().bytes, stream.len() as u64);
}

/// As many callbacks as there are keyspaces, of which none fills a chunk.
#[test]
fn a_checkpoint_of_many_small_keyspaces_tells_of_each_and_may_be_ended() {
    const KEYSPACES: u32 = 200;
    let dir = tempfile::tempdir().unwrap();
    let store = Options::new().shards(2).memory_budget(8 << 20).open(dir.path().join("live")).unwrap();
    let repo = BackupRepository::open(dir.path().join("backup")).unwrap();
    let put = |n: u32, round: u8| {
        let keyspace = store.keyspace(&format!("{n:03}")).unwrap();
        (0..8u32).for_each(|key| {
            _ = keyspace.insert([n, key].map(u32::to_be_bytes).concat(), [round; 100]).unwrap()
        });
    };
    (0..KEYSPACES).for_each(|n| put(n, 0));
    let ended = |calls: usize, full: bool| {
        let left = Mutex::new(calls);
        let options = CheckpointOptions::new().full(full).progress(move |_| {
            let mut left = left.lock().unwrap();
            *left -= 1;
            if *left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        store.checkpoint_with(&repo, options)
    };
    let told = |full: bool| {
        let told = Arc::new(Mutex::new(Vec::<CheckpointProgress>::new()));
        let notes = told.clone();
        let options = CheckpointOptions::new().full(full).progress(move |at| {
            notes.lock().unwrap().push(at);
            ControlFlow::Continue(())
        });
        let id = store.checkpoint_with(&repo, options).unwrap();
        (repo.get(id).unwrap(), std::mem::take(&mut *told.lock().unwrap()))
    };
    assert_eq!(ended(3, true).unwrap_err().kind(), ErrorKind::Cancelled);
    // A chunk and an index of each of those that came first.
    let left = objects(&dir.path().join("backup"));
    assert!(left <= 2 * 3, "{left} objects have been written");
    let (info, notes) = told(true);
    assert!((200..=202).contains(&notes.len()), "{}", notes.len());
    let (first, last) = (notes[5], *notes.last().unwrap());
    assert!(first.records > 0 && first.records < last.records && first.bytes_written < last.bytes_written);
    assert_eq!((last.records, last.bytes_written), (info.records, info.bytes));
    // The same on top of another.
    (0..KEYSPACES).step_by(7).for_each(|n| put(n, 1));
    assert_eq!(ended(3, false).unwrap_err().kind(), ErrorKind::Cancelled);
    let (info, notes) = told(false);
    assert_eq!(info.layers, 2);
    assert!((200..=202).contains(&notes.len()), "{}", notes.len());
    assert!(notes[100].records > 0 && notes[100].records < notes.last().unwrap().records);
}

#[test]
fn the_end_of_a_checkpoint_is_heard_while_its_keyspace_is_dropped() {
    for full in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let store = Options::new().memory_budget(8 << 20).open(dir.path().join("live")).unwrap();
        let repo = BackupRepository::open(dir.path().join("backup")).unwrap();
        let large = store.keyspace("large").unwrap();
        let put = |keys: u32, bytes: usize| {
            (0..keys).for_each(|n| _ = large.insert(n.to_be_bytes(), vec![n as u8; bytes]).unwrap());
        };
        put(10_000, 10);
        let before = store.checkpoint(&repo).unwrap();
        put(2_000, 2_000);
        let (asked, dropping) = (Mutex::new(0), store.clone());
        let options = CheckpointOptions::new().full(full).progress(move |at| {
            let mut asked = asked.lock().unwrap();
            // Before all of it has been read.
            if *asked > 0 || at.bytes == 0 {
                return ControlFlow::Continue(());
            }
            assert!(at.bytes < 4_000_000, "{at:?}");
            *asked += 1;
            dropping.drop_keyspace("large").unwrap();
            ControlFlow::Break(())
        });
        let ended = store.checkpoint_with(&repo, options);
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::Cancelled, "full: {full}");
        let left: Vec<_> = repo.list().unwrap().iter().map(|checkpoint| checkpoint.id).collect();
        assert_eq!(left, [before]);
    }
}
