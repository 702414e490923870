//! A repository and a stream as the first version of every format wrote them, and repositories with archives of versions 2 and 3 (that with manifests of version 2), committed as
//! fixtures: they restore, for ever, to what was put in. `ANNULUS_WRITE_GOLDEN=1 cargo test --test checkpoint_golden` writes the last one anew,
//! which only a new version of a format may do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use annulus::{At, BackupRepository, CheckpointId, Options, Seq, Store};
use common::copy;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn options() -> Options {
    Options::new().shards(2).virtual_nodes(32).memory_budget(8 << 20).journal_segment_bytes(64 << 10)
}

fn value(n: u32) -> Vec<u8> {
    let length = if n == 77 { 9_000 } else { n % 60 };
    (0..length).map(|i| (i * 7 + n) as u8).collect()
}

/// A checkpoint of 300 records in two keyspaces, one with a layer more, and writes in the archive: four that all versions have, and since version
/// 2 one more in a keyspace that was dropped before it was archived, and one after that.
fn write() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path().join("live")).unwrap();
    let place = fixture("backup-v3");
    let _ = std::fs::remove_dir_all(&place);
    let repo = BackupRepository::open(&place).unwrap();
    let notes = store.keyspace("notes").unwrap();
    for n in 0..200u32 {
        store.insert(format!("key/{n:04}"), value(n)).unwrap();
        if n % 2 == 0 {
            notes.insert(n.to_be_bytes(), value(n + 1)).unwrap();
        }
    }
    store.checkpoint(&repo).unwrap();
    store.archive(&repo).unwrap();
    store.insert("key/0001", b"overwritten").unwrap();
    store.remove("key/0002").unwrap();
    store.checkpoint(&repo).unwrap();
    notes.remove(4u32.to_be_bytes()).unwrap();
    store.insert("late", b"in the archive").unwrap();
    store.keyspace("gone").unwrap().insert("in", b"a keyspace that was dropped").unwrap();
    store.drop_keyspace("gone").unwrap();
    store.insert("after", b"the drop").unwrap();
    store.archive(&repo).unwrap();
    let _ = std::fs::remove_file(place.join("LOCK"));
}

fn check(store: &Store, layer: bool, late: bool) {
    let notes = store.keyspace("notes").unwrap();
    for n in 0..200u32 {
        let expected = match n {
            1 if layer => Some((b"overwritten".to_vec(), Seq(301))),
            2 if layer => None,
            n => Some((value(n), Seq(u64::from(n) + u64::from(n.div_ceil(2)) + 1))),
        };
        let found = store.get_versioned(format!("key/{n:04}")).unwrap();
        assert_eq!(found.map(|(value, seq)| (value.to_vec(), seq)), expected, "record {n}");
        let expected = (n % 2 == 0 && !(late && n == 4)).then(|| value(n + 1));
        assert_eq!(notes.get(n.to_be_bytes()).unwrap().map(|v| v.to_vec()), expected, "note {n}");
    }
    assert_eq!(store.get("late").unwrap().is_some(), late);
}

fn backup(version: u32, name: &str) -> (tempfile::TempDir, BackupRepository) {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join(name);
    copy(&fixture(&format!("backup-v{version}")), &place);
    let repo = BackupRepository::open(&place).unwrap();
    (dir, repo)
}

#[test]
fn backups_of_every_version_are_restored() {
    if std::env::var("ANNULUS_WRITE_GOLDEN").is_ok() {
        write();
    }
    for version in [1, 2, 3] {
        let (dir, repo) = backup(version, "backup");
        let found = repo.verify_all().unwrap();
        assert!(found.is_whole() && found.checkpoints == 2, "{:?}", found.damage);
        let restore = |id| repo.restore(CheckpointId(id)).unwrap().options(options());
        check(&restore(1).open(dir.path().join("1")).unwrap(), false, false);
        check(&restore(2).open(dir.path().join("2")).unwrap(), true, false);
        assert_eq!(repo.get(CheckpointId(2)).unwrap().layers, 2);
        let last = restore(2).until(At::Seq(Seq(304))).open(dir.path().join("3")).unwrap();
        check(&last, true, true);
    }
}

/// Which openings wrote them.
#[test]
fn manifests_since_version_2_and_pieces_since_version_3_tell_their_history() {
    for version in [1, 2, 3] {
        let told = version == 3;
        let (dir, _) = backup(version, "backup");
        let archive = std::fs::read_dir(dir.path().join("backup/archive")).unwrap().next().unwrap().unwrap();
        for (place, of) in [(dir.path().join("backup/checkpoints"), 2), (archive.path(), 3)] {
            let files: Vec<_> =
                std::fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert_eq!(files.len(), 2);
            for file in files {
                let bytes = std::fs::read(file).unwrap();
                assert_eq!(
                    u32::from(bytes[8]),
                    if told {
                        of
                    } else if of == 2 {
                        1
                    } else {
                        version
                    }
                );
                let text = String::from_utf8_lossy(&bytes);
                assert_eq!(text.contains(r#""history":[{"id":""#), told);
            }
        }
    }
}

#[test]
fn a_stream_of_the_first_version_is_imported() {
    let dir = tempfile::tempdir().unwrap();
    let stream = std::fs::File::open(fixture("export-v1")).unwrap();
    check(&options().import(stream, dir.path().join("4")).unwrap(), true, true);
}

#[test]
fn archives_since_version_2_tell_which_keyspaces_there_were() {
    for (version, (seq, gone, after)) in [2, 3]
        .into_iter()
        .flat_map(|version| [(305, true, false), (306, false, true)].map(|told| (version, told)))
    {
        let (dir, repo) = backup(version, "backup");
        let restore = repo.restore_latest().unwrap().options(options()).until(At::Seq(Seq(seq)));
        let store = restore.open(dir.path().join(seq.to_string())).unwrap();
        check(&store, true, true);
        assert_eq!(store.list_keyspaces().unwrap().contains(&"gone".to_owned()), gone);
        assert_eq!(store.contains_key("after").unwrap(), after);
        if gone {
            assert!(store.keyspace("gone").unwrap().contains_key("in").unwrap());
        }
    }
}
