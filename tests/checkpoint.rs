//! Checkpoints as a user takes them: what comes back, onto which shape, what is shared, what damage does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use annulus::{
    BackupRepository, CheckpointId, CheckpointOptions, ErrorKind, Keyspace, Loss, Options, Partitioner,
    Retention, Seq, ShardOptions, Store, WriteBatch,
};
use common::copy;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

type Content = Vec<(Vec<u8>, Vec<u8>, Seq)>;

fn options() -> Options {
    Options::new().memory_budget(8 << 20).journal_segment_bytes(256 << 10)
}

fn key(n: u32) -> String {
    format!("{}/item/{n:06}", n % 7)
}

fn value(n: u32, round: u32) -> Vec<u8> {
    let length = if n % 1000 == 77 { 90_000 } else { 20 + n % 90 };
    (0..length).map(|i| (i * 7 + n + round * 13) as u8).collect()
}

fn fill(store: &Store, records: u32, round: u32) {
    let notes = store.keyspace("notes").unwrap();
    for n in 0..records {
        store.insert(key(n), value(n, round)).unwrap();
        if n % 3 == 0 {
            notes.insert(n.to_be_bytes(), value(n, round + 1)).unwrap();
        }
    }
}

fn content(keyspace: &Keyspace) -> Content {
    let read = |item: annulus::Result<(annulus::Bytes, annulus::Bytes)>| {
        let (key, value) = item.unwrap();
        let (found, seq) = keyspace.get_versioned(&key).unwrap().unwrap();
        assert_eq!(found, value);
        (key.to_vec(), value.to_vec(), seq)
    };
    keyspace.iter().map(read).collect()
}

fn everything(store: &Store) -> Vec<(String, Content)> {
    let names = store.list_keyspaces().unwrap();
    names.into_iter().map(|name| (name.clone(), content(&store.keyspace(&name).unwrap()))).collect()
}

struct Place {
    dir: tempfile::TempDir,
    store: Store,
    repo: BackupRepository,
}

impl Place {
    fn new(records: u32) -> Place {
        let dir = tempfile::tempdir().unwrap();
        let store = options().shards(3).virtual_nodes(64).open(dir.path().join("live")).unwrap();
        let repo = BackupRepository::open(dir.path().join("backup")).unwrap();
        fill(&store, records, 0);
        Place { dir, store, repo }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn restored(&self, id: CheckpointId) -> Store {
        let dir = tempfile::tempdir_in(self.dir.path()).unwrap().keep();
        self.repo.restore(id).unwrap().options(options()).open(dir).unwrap()
    }
}

/// Every file of a repository that a checkpoint is made of.
fn files(repo: &Path) -> Vec<PathBuf> {
    let (mut open, mut files) = (vec![repo.to_path_buf()], Vec::new());
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { open.push(path) } else { files.push(path) }
        }
    }
    files.retain(|path| path.file_name().unwrap() != "LOCK");
    files.sort();
    files
}

fn objects(repo: &Path) -> Vec<PathBuf> {
    files(&repo.join("objects"))
}

#[test]
fn a_checkpoint_comes_back_with_its_versions_onto_any_shape() {
    let place = Place::new(4_000);
    place.store.flush().unwrap();
    fill(&place.store, 500, 5);
    place.store.remove(key(3)).unwrap();
    let expected = everything(&place.store);
    let last = place.store.stats().unwrap().last_seq;
    let id = place.store.checkpoint_with(&place.repo, CheckpointOptions::new().label("first")).unwrap();
    // What comes later is not in it.
    fill(&place.store, 900, 9);
    place.store.flush().unwrap();
    let info = place.repo.get(id).unwrap();
    assert_eq!((info.seq, info.label.as_str(), info.layers), (last, "first", 1));
    assert_eq!(info.keyspaces, ["default", "notes"]);
    assert_eq!(info.records as usize, expected.iter().map(|(_, content)| content.len()).sum::<usize>());
    assert_eq!(place.repo.list().unwrap(), std::slice::from_ref(&info));
    let verified = place.repo.verify(id).unwrap();
    assert!(verified.is_whole() && verified.records == info.records && verified.bytes == info.bytes);

    let shapes: [fn(annulus::Restore, &Path) -> annulus::Restore; 5] = [
        |restore, _| restore,
        |restore, _| restore.shards(1),
        |restore, _| restore.shards(8).replication_factor(3).partitioner(Partitioner::Delimiter(b'/')),
        |restore, _| restore.shards(2).replication_factor(2).virtual_nodes(256),
        |restore, dir| {
            let shard = |n: usize| ShardOptions::new(dir.join(format!("disk-{n}"))).zone(format!("z{n}"));
            restore.shard(shard(0).weight(2.0)).shard(shard(1)).shard(shard(2)).replication_factor(2)
        },
    ];
    for (number, shape) in shapes.iter().enumerate() {
        let dir = place.path(&format!("new-{number}"));
        let restore = place.repo.restore(id).unwrap().options(options());
        let store = shape(restore, &place.path(&format!("shards-{number}"))).open(&dir).unwrap();
        assert_eq!(everything(&store), expected, "shape {number}");
        // It is a store like any other: it goes on from where the checkpoint was, and opens again.
        let next = store.insert("after", "restore").unwrap();
        assert_eq!(next, last.next());
        // Where the directory for temporary files is in memory, a store of one replica says what that means.
        assert!(store.stats().unwrap().warnings.iter().all(|warning| warning.contains("power cut")));
        store.close().unwrap();
        let store = options().existing_only(true).open(&dir).unwrap();
        assert_eq!(store.get("after").unwrap().as_deref(), Some(&b"restore"[..]));
        store.remove("after").unwrap();
        assert_eq!(everything(&store), expected, "shape {number}, opened again");
        store.insert(key(1), b"new").unwrap();
        let again = store.checkpoint(&place.repo).unwrap();
        assert!(place.repo.get(again).unwrap().bytes_written < info.bytes * 9 / 10, "chunks are shared");
    }
    let default = place.repo.restore(id).unwrap().options(options()).open(place.path("same")).unwrap();
    assert_eq!(default.ring().members().len(), 3);
    assert_eq!(default.ring().virtual_nodes(), 64);
}

#[test]
fn one_keyspace_can_be_restored_alone() {
    let place = Place::new(300);
    let id = place.store.checkpoint(&place.repo).unwrap();
    let restore = || place.repo.restore(id).unwrap().options(options());
    let store = restore().keyspace("notes").open(place.path("notes")).unwrap();
    assert_eq!(store.len().unwrap(), 0);
    let notes = place.store.keyspace("notes").unwrap();
    assert_eq!(content(&store.keyspace("notes").unwrap()), content(&notes));
    let store = restore().keyspace("default").open(place.path("default")).unwrap();
    assert_eq!(store.list_keyspaces().unwrap(), ["default"]);
    assert_eq!(content(&store), content(&place.store));
    let error = restore().keyspace("none").open(place.path("none")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(!place.path("none").exists());
}

#[test]
fn later_checkpoints_share_what_did_not_change() {
    let place = Place::new(12_000);
    let notes = place.store.keyspace("notes").unwrap();
    let first = place.store.checkpoint(&place.repo).unwrap();
    let full = place.repo.get(first).unwrap();
    let before = everything(&place.store);
    // Spread all over, with removals and what is new, some of it flushed.
    for n in (0..12_000).step_by(100) {
        place.store.insert(key(n), value(n, 2)).unwrap();
        notes.remove((n / 3 * 3).to_be_bytes()).unwrap();
    }
    place.store.flush().unwrap();
    place.store.insert("new", "record").unwrap();
    place.store.remove(key(11)).unwrap();
    let middle = everything(&place.store);
    let second = place.store.checkpoint(&place.repo).unwrap();
    let delta = place.repo.get(second).unwrap();
    assert_eq!(delta.layers, 2);
    assert!(delta.bytes_written * 30 < full.bytes, "{} of {}", delta.bytes_written, full.bytes);
    // Nothing at all.
    let third = place.store.checkpoint(&place.repo).unwrap();
    assert_eq!(place.repo.get(third).unwrap().bytes_written, 0);
    // The same by an opening that knows nothing: it reads everything, and shares chunks.
    place.store.close().unwrap();
    let store = options().open(place.path("live")).unwrap();
    let fourth = store.checkpoint(&place.repo).unwrap();
    assert_eq!(place.repo.get(fourth).unwrap().layers, 1);
    let written = store.checkpoint_with(&place.repo, CheckpointOptions::new().full(true)).unwrap();
    let written = place.repo.get(written).unwrap();
    assert_eq!(written.bytes_written, written.bytes);
    assert_eq!(everything(&place.restored(first)), before);
    for id in [second, third, fourth, written.id] {
        assert_eq!(everything(&place.restored(id)), middle, "checkpoint {id}");
    }
    assert!(place.repo.verify_all().unwrap().is_whole());
}

#[test]
fn keyspaces_come_and_go_between_checkpoints() {
    let place = Place::new(600);
    place.store.checkpoint(&place.repo).unwrap();
    place.store.drop_keyspace("notes").unwrap();
    place.store.keyspace("more").unwrap().insert("a", "b").unwrap();
    place.store.keyspace("empty").unwrap();
    let again = place.store.keyspace("notes").unwrap();
    again.insert("only", "this").unwrap();
    let expected = everything(&place.store);
    let id = place.store.checkpoint(&place.repo).unwrap();
    let restored = place.restored(id);
    assert_eq!(everything(&restored), expected);
    assert_eq!(place.repo.get(id).unwrap().keyspaces, ["default", "more", "empty", "notes"]);
    // Numbers of keyspaces that were dropped are not given out again.
    let ids = |store: &Store| store.keyspace("fresh").unwrap().id();
    assert_eq!(ids(&restored), ids(&place.store));
}

#[test]
fn prune_keeps_what_its_rules_keep_whole() {
    let place = Place::new(3_000);
    let mut expected = Vec::new();
    for round in 0..6 {
        fill(&place.store, 40, round + 1);
        place.store.remove(key(500 + round)).unwrap();
        // The last one is built upon none of the others, which must keep what it does not name.
        let options = CheckpointOptions::new().full(round == 5);
        expected.push((place.store.checkpoint_with(&place.repo, options).unwrap(), everything(&place.store)));
    }
    assert_eq!(place.repo.prune(Retention::keep_last(0)).unwrap_err().kind(), ErrorKind::InvalidInput);
    let gone = place.repo.delete(expected[2].0).unwrap();
    assert_eq!(gone.checkpoints, [expected[2].0]);
    expected.remove(2);
    let pruned = place.repo.prune(Retention::keep_last(3)).unwrap();
    assert_eq!(pruned.checkpoints, [expected[0].0, expected[1].0]);
    expected.drain(..2);
    let left: Vec<CheckpointId> = place.repo.list().unwrap().iter().map(|c| c.id).collect();
    assert_eq!(left, expected.iter().map(|(id, _)| *id).collect::<Vec<_>>());
    for (id, content) in &expected {
        assert!(place.repo.verify(*id).unwrap().is_whole());
        assert_eq!(&everything(&place.restored(*id)), content);
    }
    // With the last of them all objects go, and its number is not given out again.
    let newest = expected.last().unwrap().0;
    expected.iter().for_each(|(id, _)| drop(place.repo.delete(*id).unwrap()));
    assert!(objects(&place.path("backup")).is_empty());
    assert_eq!(place.repo.restore_latest().unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(place.repo.delete(newest).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(place.store.checkpoint(&place.repo).unwrap() > newest);
}

/// The newest of all may be of the wrong one: of the store that was restored from another, for one.
#[test]
fn of_several_stores_checkpoints_none_is_taken_for_the_latest() {
    let place = Place::new(50);
    let repo = &place.repo;
    let first = place.store.checkpoint(repo).unwrap();
    let other = repo.restore_latest().unwrap().options(options()).open(place.path("other")).unwrap();
    fill(&other, 20, 3);
    let second = place.store.checkpoint(repo).unwrap();
    let third = other.checkpoint(repo).unwrap();
    let error = repo.restore_latest().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    for id in [second, third] {
        let named = format!("{id} of store {:032x}", repo.get(id).unwrap().store);
        assert!(error.to_string().contains(&named), "{error}");
    }
    assert!(error.advice().is_some_and(|advice| advice.contains("restore(id)")), "{error}");
    for (id, store) in [(second, &place.store), (third, &other)] {
        let restore = repo.restore(id).unwrap();
        assert_eq!(restore.checkpoint(), repo.get(id).unwrap());
        assert_eq!(everything(&place.restored(id)), everything(store));
    }
    repo.delete(first).unwrap();
    repo.delete(second).unwrap();
    assert_eq!(repo.restore_latest().unwrap().checkpoint().id, third);
}

#[test]
fn a_callback_is_told_and_may_cancel_and_leaves_nothing() {
    let place = Place::new(20_000);
    let seen = std::sync::Arc::new(Mutex::new(Vec::new()));
    let told = seen.clone();
    let options = CheckpointOptions::new().progress(move |progress| {
        told.lock().unwrap().push(progress);
        ControlFlow::Continue(())
    });
    let id = place.store.checkpoint_with(&place.repo, options).unwrap();
    let last = *seen.lock().unwrap().last().unwrap();
    let info = place.repo.get(id).unwrap();
    assert_eq!((last.records, last.bytes_written), (info.records, info.bytes));
    assert!(seen.lock().unwrap().len() > 1);
    let before = files(&place.path("backup"));
    let cancel = || CheckpointOptions::new().full(true).progress(|_| ControlFlow::Break(()));
    fill(&place.store, 20_000, 3);
    assert_eq!(place.store.checkpoint_with(&place.repo, cancel()).unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(place.repo.list().unwrap().len(), 1);
    assert!(files(&place.path("backup")).len() > before.len(), "something was written");
    place.repo.prune(Retention::keep_last(1)).unwrap();
    let strip = |files: Vec<PathBuf>| -> Vec<PathBuf> {
        files.into_iter().filter(|f| f.file_name().unwrap() != "WORKING").collect()
    };
    assert_eq!(strip(files(&place.path("backup"))), before, "and swept");
}

#[test]
fn one_writes_at_a_time_and_others_read() {
    let place = Place::new(20_000);
    let first = place.store.checkpoint(&place.repo).unwrap();
    let other = BackupRepository::open(place.path("backup")).unwrap();
    let inside = AtomicBool::new(false);
    let (repo, inside) = (other.clone(), std::sync::Arc::new(inside));
    let seen = inside.clone();
    let options = CheckpointOptions::new().full(true).progress(move |_| {
        assert_eq!(repo.prune(Retention::keep_last(1)).unwrap_err().kind(), ErrorKind::Locked);
        assert_eq!(repo.list().unwrap().len(), 1);
        assert!(repo.verify(first).unwrap().is_whole());
        seen.store(true, Ordering::SeqCst);
        ControlFlow::Continue(())
    });
    place.store.checkpoint_with(&place.repo, options).unwrap();
    assert!(inside.load(Ordering::SeqCst));
    other.prune(Retention::keep_last(1)).unwrap();
}

#[test]
fn a_stream_is_whole_or_refused() {
    let place = Place::new(700);
    let mut stream = Vec::new();
    let seq = place.store.export(&mut stream).unwrap();
    assert_eq!(seq, place.store.stats().unwrap().last_seq);
    let import = |bytes: &[u8], name: &str| options().shards(2).import(bytes, place.path(name));
    let store = import(&stream, "copy").unwrap();
    assert_eq!(everything(&store), everything(&place.store));
    stream.extend_from_slice(b"what follows is not read");
    drop(import(&stream, "again").unwrap());
    stream.truncate(stream.len() - 24);
    let cuts = (0..stream.len()).step_by(stream.len() / 40).chain(stream.len() - 3..stream.len());
    for (number, cut) in cuts.enumerate() {
        let error = import(&stream[..cut], "cut").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption, "cut at {cut}: {error}");
        let mut flipped = stream.clone();
        flipped[cut] ^= 1 << (number % 8);
        let error = import(&flipped, "flipped").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption, "flip at {cut}: {error}");
    }
    for name in ["cut", "flipped"] {
        let error = options().existing_only(true).open(place.path(name)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
}

#[test]
fn every_flipped_byte_of_a_small_checkpoint_is_detected() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().shards(1).virtual_nodes(16).open(dir.path().join("live")).unwrap();
    let place = dir.path().join("backup");
    let repo = BackupRepository::open(&place).unwrap();
    for n in 0..12 {
        store.insert(key(n), [n as u8; 9]).unwrap();
    }
    store.checkpoint(&repo).unwrap();
    store.insert("one", "more").unwrap();
    let id = store.checkpoint(&repo).unwrap();
    repo.delete(CheckpointId(id.0 - 1)).unwrap();
    let mut count = 0;
    for file in files(&place) {
        let bytes = std::fs::read(&file).unwrap();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << (at % 8);
            std::fs::write(&file, &bad).unwrap();
            let opened = BackupRepository::open(&place);
            let whole = opened.and_then(|repo| repo.verify_all());
            let detected = whole.as_ref().map_or(true, |found| !found.is_whole());
            assert!(detected, "{} byte {at}", file.display());
            if at % 37 == 0 {
                let new = dir.path().join("new");
                let restored = BackupRepository::open(&place)
                    .and_then(|repo| repo.restore(id)?.options(options()).open(&new));
                assert_eq!(restored.unwrap_err().kind(), ErrorKind::Corruption);
                assert!(options().existing_only(true).open(&new).is_err());
            }
            count += 1;
        }
        std::fs::write(&file, &bytes).unwrap();
    }
    assert!(count > 900, "{count} bytes");
    assert!(repo.verify_all().unwrap().is_whole());
}

#[test]
fn truncated_missing_foreign_and_future_files_each_have_their_error() {
    let place = Place::new(50);
    let id = place.store.checkpoint(&place.repo).unwrap();
    let kept = place.path("kept");
    copy(&place.path("backup"), &kept);
    let manifest = place.path("backup").join(format!("checkpoints/{:016x}", id.0));
    let chunk = objects(&place.path("backup"))[0].clone();
    let back = || {
        std::fs::remove_dir_all(place.path("backup")).unwrap();
        copy(&kept, &place.path("backup"));
    };
    let fails = |what: &str, kind: ErrorKind, word: &str| {
        let opened = BackupRepository::open(place.path("backup"));
        let error = opened.and_then(|repo| repo.restore(id)?.options(options()).open(place.path("new")));
        let error = error.unwrap_err();
        assert!(error.kind() == kind && error.to_string().contains(word), "{what}: {error:?}");
        back();
    };
    let cut = |path: &Path| {
        let bytes = std::fs::read(path).unwrap();
        std::fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
    };
    cut(&manifest);
    fails("truncated manifest", ErrorKind::Corruption, "checksum");
    cut(&chunk);
    fails("truncated object", ErrorKind::Corruption, "hash");
    std::fs::remove_file(&chunk).unwrap();
    fails("missing object", ErrorKind::Corruption, "missing");
    std::fs::remove_file(&manifest).unwrap();
    fails("missing manifest", ErrorKind::NotFound, "no checkpoint");
    std::fs::remove_file(place.path("backup/REPOSITORY")).unwrap();
    fails("missing marker", ErrorKind::Foreign, "not a backup repository");
    let other = BackupRepository::open(place.path("other")).unwrap();
    let foreign = place.store.checkpoint(&other).unwrap();
    assert_eq!(foreign, id);
    std::fs::copy(place.path("other").join(format!("checkpoints/{:016x}", id.0)), &manifest).unwrap();
    fails("another repository's manifest", ErrorKind::Foreign, "belongs to repository");
    let wrong = manifest.with_file_name(format!("{:016x}", id.0 + 1));
    std::fs::copy(&manifest, &wrong).unwrap();
    assert_eq!(place.repo.get(CheckpointId(id.0 + 1)).unwrap_err().kind(), ErrorKind::Foreign);
    // While one cannot be read nothing is removed, until it is deleted by its number.
    assert_eq!(place.repo.prune(Retention::keep_last(1)).unwrap_err().kind(), ErrorKind::Foreign);
    assert_eq!(place.repo.list().unwrap().len(), 1);
    place.repo.delete(CheckpointId(id.0 + 1)).unwrap();
    place.repo.prune(Retention::keep_last(1)).unwrap();
    back();
    for (path, name) in [(manifest.clone(), "manifest"), (place.path("backup/REPOSITORY"), "marker")] {
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[8] = 9;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&bytes[8..16]);
        crc.update(&bytes[20..]);
        bytes[16..20].copy_from_slice(&crc.finalize().to_le_bytes());
        std::fs::write(&path, &bytes).unwrap();
        fails(name, ErrorKind::Unsupported, "version 9");
    }
    let error = BackupRepository::open(place.path("live")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
}

#[test]
fn a_damaged_checkpoint_is_salvaged_to_the_record() {
    let place = Place::new(60_000);
    let id = place.store.checkpoint(&place.repo).unwrap();
    let chunks: Vec<PathBuf> = objects(&place.path("backup"))
        .into_iter()
        .filter(|file| std::fs::metadata(file).unwrap().len() > 300_000)
        .collect();
    assert!(chunks.len() >= 3);
    // One is gone, in another a bit has turned.
    std::fs::remove_file(&chunks[0]).unwrap();
    let mut bytes = std::fs::read(&chunks[1]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&chunks[1], &bytes).unwrap();
    let new = place.path("new");
    let restore = || place.repo.restore(id).unwrap().options(options());
    assert_eq!(restore().open(&new).unwrap_err().kind(), ErrorKind::Corruption);
    assert!(!new.join("MANIFEST").exists() && !new.join("shards").exists());
    let found = place.repo.verify(id).unwrap();
    assert_eq!(found.damage.len(), 2, "{:?}", found.damage);
    let named: Vec<&Path> = found.damage.iter().map(|damage| damage.file.as_path()).collect();
    assert!(named.contains(&chunks[0].as_path()) && named.contains(&chunks[1].as_path()));
    let (store, damage) = restore().salvage(&new).unwrap();
    assert_eq!(damage.len(), 2);
    let mut lost = 0;
    for name in ["default", "notes"] {
        let (there, here) = (place.store.keyspace(name).unwrap(), store.keyspace(name).unwrap());
        let hit = |key: &[u8]| {
            damage.iter().any(|damage| {
                damage.keyspace.as_deref() == Some(name)
                    && damage.loss == Loss::Missing
                    && key >= &damage.from[..]
                    && damage.to.as_ref().is_none_or(|to| key < &to[..])
            })
        };
        let expected: Content = content(&there).into_iter().filter(|(key, _, _)| !hit(key)).collect();
        lost += there.len().unwrap() as usize - expected.len();
        assert_eq!(content(&here), expected, "exactly what is said to be missing is missing");
    }
    assert!(lost > 1000 && lost < 40_000, "{lost} records");
    // A full checkpoint writes every object anew, and so heals the repository.
    place.store.checkpoint_with(&place.repo, CheckpointOptions::new().full(true)).unwrap();
    assert!(place.repo.verify_all().unwrap().is_whole());
}

#[test]
fn a_directory_in_use_is_refused_and_left_alone() {
    let place = Place::new(20);
    let id = place.store.checkpoint(&place.repo).unwrap();
    let restore = |dir: PathBuf| place.repo.restore(id).unwrap().options(options()).open(dir).map(drop);
    assert_eq!(restore(place.path("live")).unwrap_err().kind(), ErrorKind::Foreign);
    std::fs::create_dir(place.path("busy")).unwrap();
    std::fs::write(place.path("busy/letter"), b"dear").unwrap();
    assert_eq!(restore(place.path("busy")).unwrap_err().kind(), ErrorKind::Foreign);
    assert_eq!(std::fs::read_dir(place.path("busy")).unwrap().count(), 1);
    std::fs::create_dir(place.path("empty")).unwrap();
    restore(place.path("empty")).unwrap();
}

#[test]
fn a_bank_keeps_its_total_in_every_checkpoint() {
    const ACCOUNTS: u64 = 200;
    let dir = tempfile::tempdir().unwrap();
    let store = options().shards(4).replication_factor(2).open(dir.path().join("live")).unwrap();
    let repo = BackupRepository::open(dir.path().join("backup")).unwrap();
    let audit = store.keyspace("audit").unwrap();
    let account = |n: u64| format!("account/{n}");
    let mut batch = WriteBatch::new();
    for n in 0..ACCOUNTS {
        batch.insert(account(n), 1000u64.to_le_bytes());
    }
    store.commit(batch).unwrap();
    let read = |store: &Keyspace, key: &str| {
        u64::from_le_bytes(store.get(key).unwrap().unwrap().as_ref().try_into().unwrap())
    };
    let done = AtomicBool::new(false);
    let locks: Vec<Mutex<()>> = (0..ACCOUNTS).map(|_| Mutex::new(())).collect();
    let ids = std::thread::scope(|scope| {
        for writer in 0..3u64 {
            let (store, audit, done, locks) = (&store, &audit, &done, &locks);
            scope.spawn(move || {
                let mut random = writer.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                let mut moves = 0u64;
                while !done.load(Ordering::Relaxed) {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let (a, b) = ((random >> 33) % ACCOUNTS, (random >> 43) % ACCOUNTS);
                    if a == b {
                        continue;
                    }
                    let _first = locks[a.min(b) as usize].lock().unwrap();
                    let _second = locks[a.max(b) as usize].lock().unwrap();
                    let (from, to) = (read(store, &account(a)), read(store, &account(b)));
                    let amount = from.min(random >> 58);
                    moves += 1;
                    let mut batch = WriteBatch::new();
                    batch.insert(account(a), (from - amount).to_le_bytes());
                    batch.insert(account(b), (to + amount).to_le_bytes());
                    batch.insert_in(audit, format!("moves/{writer}"), moves.to_le_bytes());
                    batch.insert(format!("moves/{writer}"), moves.to_le_bytes());
                    store.commit(batch).unwrap();
                }
            });
        }
        let ids: Vec<CheckpointId> = (0..6)
            .map(|round| {
                let moved = store.stats().unwrap().last_seq;
                while store.stats().unwrap().last_seq.0 < moved.0 + 500 {
                    std::thread::yield_now();
                }
                if round % 2 == 0 {
                    store.flush().unwrap();
                }
                store.checkpoint(&repo).unwrap()
            })
            .collect();
        done.store(true, Ordering::Relaxed);
        ids
    });
    let mut before = Seq(0);
    for id in ids {
        let restored = repo.restore(id).unwrap().options(options()).open(dir.path().join(id.to_string()));
        let restored = restored.unwrap();
        let total: u64 = (0..ACCOUNTS).map(|n| read(&restored, &account(n))).sum();
        assert_eq!(total, ACCOUNTS * 1000, "checkpoint {id}");
        let audit = restored.keyspace("audit").unwrap();
        for writer in 0..3 {
            let key = format!("moves/{writer}");
            assert_eq!(restored.get(&key).unwrap(), audit.get(&key).unwrap(), "both or neither");
        }
        let seq = repo.get(id).unwrap().seq;
        assert!(seq > before);
        before = seq;
    }
}
