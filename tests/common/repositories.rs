//! What a repository does, wherever it lies: each case is given a way to open storages for the same, empty place.

use annulus::{
    At, BackupRepository, Bytes, CheckpointId, CheckpointOptions, ErrorKind, Keyspace, Options, Retention,
    Seq, Storage, Store,
};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::Mutex;

/// Opens a storage; all that it opens stand for the same place.
pub type Open<'a> = &'a dyn Fn() -> Arc<dyn Storage>;

pub type Case = fn(Open<'_>);

/// Every case, with its name.
pub const CASES: &[(&str, Case)] = &[
    ("the_seam_keeps_its_promises", the_seam_keeps_its_promises),
    ("checkpoints_come_back_onto_any_shape", checkpoints_come_back_onto_any_shape),
    ("a_prune_takes_what_nobody_needs", a_prune_takes_what_nobody_needs),
    ("damage_is_found_and_mended", damage_is_found_and_mended),
    ("any_moment_comes_back", any_moment_comes_back),
    ("one_at_a_time_writes", one_at_a_time_writes),
    ("what_an_interrupted_one_left_is_swept", what_an_interrupted_one_left_is_swept),
];

pub type Content = Vec<(String, Vec<(Bytes, Bytes, Seq)>)>;

pub fn options() -> Options {
    Options::new().memory_budget(8 << 20).journal_segment_bytes(256 << 10)
}

pub fn content(store: &Store) -> Content {
    let records = |keyspace: &Keyspace| {
        let read = |item: annulus::Result<(Bytes, Bytes)>| {
            let (key, value) = item.unwrap();
            let (found, seq) = keyspace.get_versioned(&key).unwrap().unwrap();
            assert_eq!(found, value);
            (key, value, seq)
        };
        keyspace.iter().map(read).collect()
    };
    let names = store.list_keyspaces().unwrap();
    names.into_iter().map(|name| (name.clone(), records(&store.keyspace(&name).unwrap()))).collect()
}

/// A store with something in it, and a directory for others.
pub struct Source {
    pub dir: tempfile::TempDir,
    pub store: Store,
}

impl Source {
    pub fn new(records: u32) -> Source {
        let dir = tempfile::tempdir().unwrap();
        let store = options().shards(2).virtual_nodes(32).open(dir.path().join("live")).unwrap();
        let source = Source { dir, store };
        source.fill(0..records, 0);
        source
    }

    pub fn fill(&self, numbers: std::ops::Range<u32>, round: u32) {
        let notes = self.store.keyspace("notes").unwrap();
        for n in numbers {
            let length = if n % 500 == 77 { 90_000 } else { 40 + n % 90 };
            let value: Vec<u8> = (0..length).map(|i| (i * 7 + n * 31 + round * 13) as u8).collect();
            self.store.insert(format!("{}/{n:06}", n % 7), &value[..]).unwrap();
            if n % 3 == 0 {
                notes.insert(n.to_be_bytes(), &value[..20]).unwrap();
            }
        }
    }

    pub fn restored(&self, repo: &BackupRepository, id: CheckpointId) -> Content {
        let dir = tempfile::tempdir_in(self.dir.path()).unwrap();
        let restore = repo.restore(id).unwrap().options(options()).shards(3).replication_factor(2);
        let store = restore.open(dir.path().join("new")).unwrap();
        let found = content(&store);
        store.close().unwrap();
        found
    }
}

/// The names of all objects that checkpoints are made of.
pub fn objects(storage: &dyn Storage) -> Vec<String> {
    let of = |digit: u32| storage.list(&format!("objects/{digit:x}/")).unwrap();
    (0..16).flat_map(of).map(|object| object.name).collect()
}

fn the_seam_keeps_its_promises(open: Open<'_>) {
    let (storage, other) = (open(), open());
    let list = |prefix: &str| -> Vec<(String, u64)> {
        other.list(prefix).unwrap().into_iter().map(|object| (object.name, object.bytes)).collect()
    };
    assert_eq!(list(""), []);
    assert_eq!(list("objects/a/"), []);
    assert_eq!(storage.read("objects/a/none").unwrap(), None);
    storage.delete("objects/a/none").unwrap();
    let large: Vec<u8> = (0..3 << 20).map(|i: u32| (i.wrapping_mul(i) >> 7) as u8).collect();
    for name in ["objects/a/2", "objects/a/1", "objects/ab", "objects/b/3", "TOP", "top.tmp"] {
        storage.write(name, name.as_bytes()).unwrap();
    }
    storage.write("objects/a/1", &large).unwrap();
    storage.write("objects/a/empty", b"").unwrap();
    storage.settle().unwrap();
    assert_eq!(other.read("objects/a/1").unwrap(), Some(large));
    assert_eq!(other.read("objects/a/empty").unwrap(), Some(Vec::new()));
    let expected = [("objects/a/1", 3 << 20), ("objects/a/2", 11), ("objects/a/empty", 0)];
    assert_eq!(list("objects/a/"), expected.map(|(name, bytes)| (name.to_owned(), bytes)));
    assert_eq!(list("objects/"), [("objects/ab".to_owned(), 10)]);
    assert_eq!(list(""), [("TOP".to_owned(), 3), ("top.tmp".to_owned(), 7)]);
    storage.delete("objects/a/2").unwrap();
    storage.delete("objects/a/2").unwrap();
    assert_eq!(list("objects/a/").len(), 2);
    assert_eq!(other.read("objects/a/2").unwrap(), None);
    assert!(storage.describe("objects/a/1").ends_with("objects/a/1"));
    // A lock keeps others out until it is dropped; nothing else is any different meanwhile.
    let lock = storage.lock().unwrap();
    for storage in [&storage, &other] {
        let error = storage.lock().err().expect("it is locked");
        assert_eq!(error.kind(), ErrorKind::Locked);
        assert!(error.advice().is_some(), "{error}");
    }
    other.write("objects/b/4", b"4").unwrap();
    storage.write("TOP", b"again").unwrap();
    storage.delete("objects/b/3").unwrap();
    assert_eq!(list("objects/b/"), [("objects/b/4".to_owned(), 1)]);
    drop(lock);
    for _ in 0..3 {
        drop(other.lock().unwrap());
        drop(storage.lock().unwrap());
    }
}

fn checkpoints_come_back_onto_any_shape(open: Open<'_>) {
    let source = Source::new(2_500);
    let repo = BackupRepository::open_with(open()).unwrap();
    assert_eq!(repo.list().unwrap(), []);
    let first = source.store.checkpoint_with(&repo, CheckpointOptions::new().label("first")).unwrap();
    let before = content(&source.store);
    source.fill(100..140, 3);
    source.store.remove("3/000003").unwrap();
    source.store.flush().unwrap();
    let second = source.store.checkpoint(&repo).unwrap();
    let after = content(&source.store);
    // By somebody else, who knows only the place.
    let repo = BackupRepository::open_with(open()).unwrap();
    let all = repo.list().unwrap();
    assert_eq!(all.iter().map(|found| found.id).collect::<Vec<_>>(), [first, second]);
    assert_eq!((all[0].label.as_str(), all[0].layers, all[1].layers), ("first", 1, 2));
    assert!(all[1].bytes_written * 5 < all[0].bytes_written, "{all:?}");
    let verified = repo.verify_all().unwrap();
    assert!(verified.is_whole() && verified.checkpoints == 2, "{verified:?}");
    assert_eq!(source.restored(&repo, first), before);
    assert_eq!(source.restored(&repo, second), after);
    // All of it is in one place: another beside it knows nothing of it.
    assert_eq!(repo.get(CheckpointId(99)).unwrap_err().kind(), ErrorKind::NotFound);
}

fn a_prune_takes_what_nobody_needs(open: Open<'_>) {
    let source = Source::new(1_500);
    let storage = open();
    let repo = BackupRepository::open_with(storage.clone()).unwrap();
    let mut taken = Vec::new();
    for round in 0..5 {
        source.fill(round * 50..round * 50 + 30, round + 1);
        taken.push((source.store.checkpoint(&repo).unwrap(), content(&source.store)));
    }
    let gone = repo.delete(taken[2].0).unwrap();
    assert_eq!(gone.checkpoints, [taken[2].0]);
    let gone = repo.prune(Retention::keep_last(2)).unwrap();
    assert_eq!(gone.checkpoints, [taken[0].0, taken[1].0]);
    assert!(repo.verify_all().unwrap().is_whole());
    for (id, expected) in &taken[3..] {
        assert_eq!(&source.restored(&repo, *id), expected);
    }
    // Only what a full one needs is left once the others are gone.
    let last = source.store.checkpoint_with(&repo, CheckpointOptions::new().full(true)).unwrap();
    assert!(last > taken[4].0);
    let gone = repo.prune(Retention::keep_last(1)).unwrap();
    assert!(gone.objects > 0 && gone.bytes > 0, "{gone:?}");
    let verified = repo.verify_all().unwrap();
    assert!(verified.is_whole());
    assert_eq!(objects(storage.as_ref()).len() as u64, verified.objects);
    assert_eq!(source.restored(&repo, last), taken[4].1);
    // A number is not given out again, not even the highest one.
    repo.delete(last).unwrap();
    assert_eq!(objects(storage.as_ref()), Vec::<String>::new());
    assert!(source.store.checkpoint(&repo).unwrap() > last);
}

fn damage_is_found_and_mended(open: Open<'_>) {
    let source = Source::new(900);
    let storage = open();
    let repo = BackupRepository::open_with(storage.clone()).unwrap();
    let id = source.store.checkpoint(&repo).unwrap();
    let expected = content(&source.store);
    let names = objects(storage.as_ref());
    assert!(names.len() >= 3, "{names:?}");
    for (number, name) in names.iter().enumerate() {
        let whole = storage.read(name).unwrap().unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() * (number % 7 + 1) / 9] ^= 0x10;
        for bad in [Some(&flipped[..]), Some(&whole[..whole.len() - 1]), None] {
            match bad {
                Some(bytes) => storage.write(name, bytes).unwrap(),
                None => storage.delete(name).unwrap(),
            }
            let found = repo.verify(id).unwrap();
            assert!(!found.is_whole(), "{name}");
            assert!(found.damage.iter().all(|damage| damage.file.ends_with(name)), "{found:?}");
        }
        let new = source.dir.path().join("new");
        let error = repo.restore(id).unwrap().options(options()).open(&new).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
        let (store, damage) = repo.restore(id).unwrap().options(options()).salvage(&new).unwrap();
        assert!(!damage.is_empty());
        store.close().unwrap();
        std::fs::remove_dir_all(&new).unwrap();
        storage.write(name, &whole).unwrap();
    }
    assert!(repo.verify(id).unwrap().is_whole());
    // An object is gone, another changed: a full checkpoint writes both anew.
    storage.delete(&names[0]).unwrap();
    storage.write(&names[1], b"damaged").unwrap();
    let full = source.store.checkpoint_with(&repo, CheckpointOptions::new().full(true)).unwrap();
    assert!(repo.verify_all().unwrap().is_whole());
    for id in [id, full] {
        assert_eq!(source.restored(&repo, id), expected);
    }
    storage.write("checkpoints/0000000000000001", b"damaged").unwrap();
    assert_eq!(repo.get(CheckpointId(1)).unwrap_err().kind(), ErrorKind::Corruption);
    assert_eq!(repo.list().unwrap().len(), 1);
    assert_eq!(repo.prune(Retention::keep_last(1)).unwrap_err().kind(), ErrorKind::Corruption);
    repo.delete(CheckpointId(1)).unwrap();
    repo.prune(Retention::keep_last(1)).unwrap();
    assert!(repo.verify_all().unwrap().is_whole());
}

fn any_moment_comes_back(open: Open<'_>) {
    let source = Source::new(300);
    let repo = BackupRepository::open_with(open()).unwrap();
    source.store.archive(&repo).unwrap();
    source.store.checkpoint(&repo).unwrap();
    source.fill(0..40, 1);
    let good = source.store.insert("order", b"2 apples").unwrap();
    let expected = content(&source.store);
    source.store.remove("order").unwrap();
    source.fill(0..300, 2);
    source.store.archive(&repo).unwrap();
    let repo = BackupRepository::open_with(open()).unwrap();
    let restore = repo.restore_latest().unwrap().options(options()).until(At::Seq(good));
    let back = restore.open(source.dir.path().join("back")).unwrap();
    assert_eq!(content(&back), expected);
    repo.prune(Retention::keep_last(1)).unwrap();
}

fn one_at_a_time_writes(open: Open<'_>) {
    let source = Source::new(2_000);
    let repo = BackupRepository::open_with(open()).unwrap();
    let others = BackupRepository::open_with(open()).unwrap();
    source.store.checkpoint(&repo).unwrap();
    let seen = Arc::new(Mutex::new(0));
    let (counted, asking) = (seen.clone(), others.clone());
    let options = CheckpointOptions::new().full(true).progress(move |_| {
        for error in
            [asking.prune(Retention::keep_last(1)).unwrap_err(), asking.delete(CheckpointId(1)).unwrap_err()]
        {
            assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
        }
        // Readers are not kept out.
        assert_eq!(asking.list().unwrap().len(), 1);
        assert!(asking.verify_all().unwrap().is_whole());
        *counted.lock().unwrap() += 1;
        ControlFlow::Continue(())
    });
    source.store.checkpoint_with(&repo, options).unwrap();
    assert!(*seen.lock().unwrap() > 0);
    assert_eq!(others.prune(Retention::keep_last(1)).unwrap().checkpoints, [CheckpointId(1)]);
    assert!(repo.verify_all().unwrap().is_whole());
}

fn what_an_interrupted_one_left_is_swept(open: Open<'_>) {
    let source = Source::new(2_000);
    let storage = open();
    let repo = BackupRepository::open_with(storage.clone()).unwrap();
    let id = source.store.checkpoint(&repo).unwrap();
    let (before, expected) = (objects(storage.as_ref()), content(&source.store));
    source.fill(0..2_000, 9);
    let stopped = CheckpointOptions::new().full(true).progress(|_| ControlFlow::Break(()));
    let error = source.store.checkpoint_with(&repo, stopped).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(objects(storage.as_ref()).len() > before.len(), "it left nothing");
    assert_eq!(repo.list().unwrap().len(), 1);
    assert!(repo.verify_all().unwrap().is_whole());
    // Whoever comes next sweeps.
    let others = BackupRepository::open_with(open()).unwrap();
    assert_eq!(others.prune(Retention::keep_last(1)).unwrap().checkpoints, []);
    assert_eq!(objects(storage.as_ref()), before);
    assert_eq!(source.restored(&repo, id), expected);
}
