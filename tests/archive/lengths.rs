//! Files of a repository that are longer than any of theirs, by a damaged length or a wrong copy: damage like any other.

use crate::{Place, content, options, walk};
use annulus::{At, BackupRepository, CheckpointOptions, ErrorKind, Retention};
use std::path::{Path, PathBuf};

/// Makes a file two GiB long, which take no room.
fn grow(path: &Path) {
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(2 << 30).unwrap();
}

/// The files that begin with these bytes.
fn objects(place: &Place, magic: &[u8]) -> Vec<PathBuf> {
    let under = |dir: PathBuf| std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let all = under(place.path("backup/objects")).flat_map(under);
    all.filter(|path| std::fs::read(path).unwrap().starts_with(magic)).collect()
}

#[test]
fn objects_of_a_huge_length_are_told_and_passed_over_as_damage() {
    for magic in [b"ANNULUSK", b"ANNULUSN"] {
        let mut place = Place::new();
        place.write(100);
        let id = place.store.checkpoint(&place.repo).unwrap();
        let expected = content(&place.store);
        let found = objects(&place, magic);
        grow(&found[0]);
        for verified in [place.repo.verify(id).unwrap(), place.repo.verify_all().unwrap()] {
            assert_eq!(verified.damage.len(), 1, "{verified:?}");
            let damage = &verified.damage[0];
            assert_eq!((&damage.file, damage.error.kind()), (&found[0], ErrorKind::Corruption));
        }
        let error = place.repo.restore(id).unwrap().open(place.path("refused")).unwrap_err();
        assert!(error.kind() == ErrorKind::Corruption && error.path() == Some(&found[0]), "{error}");
        assert!(error.advice().is_some(), "{error}");
        let (store, damage) = place.repo.restore(id).unwrap().salvage(place.path("salvaged")).unwrap();
        assert_eq!(damage.len(), 1);
        let hit = damage[0].keyspace.clone().unwrap();
        let mut rest = expected.clone();
        rest.retain(|(keyspace, _), _| *keyspace != hit);
        assert_eq!(content(&store), rest);
        // What it names is made anew by a full checkpoint, which takes nothing over.
        let full = CheckpointOptions::new().full(true);
        let id = place.store.checkpoint_with(&place.repo, full).unwrap();
        assert!(place.repo.verify_all().unwrap().is_whole());
        assert_eq!(content(&place.repo.restore(id).unwrap().open(place.path("new")).unwrap()), expected);
    }
}

#[test]
fn a_manifest_of_a_huge_length_leaves_the_other_checkpoints_alone() {
    let mut place = Place::new();
    place.write(60);
    let bad = place.store.checkpoint(&place.repo).unwrap();
    place.write(60);
    let good = place.store.checkpoint(&place.repo).unwrap();
    let path = place.path(&format!("backup/checkpoints/{:016x}", bad.0));
    grow(&path);
    let error = place.repo.get(bad).unwrap_err();
    assert!(error.kind() == ErrorKind::Corruption && error.path() == Some(&path), "{error}");
    let ids = || place.repo.list().unwrap().iter().map(|checkpoint| checkpoint.id).collect::<Vec<_>>();
    assert_eq!(ids(), [good]);
    assert_eq!(place.repo.verify_all().unwrap().damage.len(), 1);
    // Another opening knows no base, and asks all manifests what is there.
    place.store.close().unwrap();
    place.store = options().open(place.path("live")).unwrap();
    let next = place.store.checkpoint(&place.repo).unwrap();
    assert_eq!(ids(), [good, next]);
    assert_eq!(place.repo.prune(Retention::keep_last(1)).unwrap_err().kind(), ErrorKind::Corruption);
    place.repo.delete(bad).unwrap();
    assert_eq!(place.repo.prune(Retention::keep_last(1)).unwrap().checkpoints, [good]);
    assert!(place.repo.verify_all().unwrap().is_whole());
}

#[test]
fn a_piece_of_a_huge_length_keeps_nobody_from_a_checkpoint() {
    let mut place = Place::new();
    place.write(60);
    place.store.checkpoint(&place.repo).unwrap();
    place.store.archive(&place.repo).unwrap();
    place.write(60);
    place.moment();
    place.store.archive(&place.repo).unwrap();
    let newest = walk(place.path("backup/archive")).pop().unwrap();
    grow(&newest);
    // Another opening has to compare what it finds.
    place.store.close().unwrap();
    place.store = options().open(place.path("live")).unwrap();
    let error = place.restored(At::Seq(place.moments[0].0), "refused").unwrap_err();
    assert!(error.kind() == ErrorKind::Corruption && error.path() == Some(&newest), "{error}");
    place.store.checkpoint(&place.repo).unwrap();
    place.check_moments("after a checkpoint");
}

#[test]
fn small_files_of_a_repository_of_a_huge_length_are_damage() {
    let mut place = Place::new();
    place.write(60);
    place.store.checkpoint(&place.repo).unwrap();
    // Whatever it says, somebody was at work.
    let working = place.path("backup/WORKING");
    std::fs::write(&working, b"").unwrap();
    let left = place.path("backup/objects/0").join(format!("{:064x}", 7));
    std::fs::create_dir_all(left.parent().unwrap()).unwrap();
    std::fs::write(&left, b"left behind").unwrap();
    grow(&working);
    place.store.checkpoint(&place.repo).unwrap();
    assert!(!working.exists() && !left.exists());
    let marker = place.path("backup/REPOSITORY");
    grow(&marker);
    let failed = [
        BackupRepository::open(place.path("backup")).unwrap_err(),
        place.store.checkpoint(&place.repo).unwrap_err(),
    ];
    for error in failed {
        assert!(error.kind() == ErrorKind::Corruption && error.path() == Some(&marker), "{error}");
        assert!(error.advice().is_some_and(|advice| advice.contains("marker")), "{error}");
    }
}
