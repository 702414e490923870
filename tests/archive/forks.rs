//! Two copies of a store that both go on: what one has put into a repository is told from what the other has, with no archive to compare, and
//! though the other has come to more.

use crate::common::copy;
use crate::histories::files;
use crate::{Place, content, options};
use annulus::{At, BackupRepository, ErrorKind, Options, Seq, Store};
use std::path::Path;

fn open(dir: &Path) -> Store {
    options().open(dir).unwrap()
}

fn write(store: &Store, numbers: std::ops::RangeInclusive<u64>, by: &str) {
    numbers.for_each(|n| _ = store.insert(n.to_be_bytes(), by).unwrap());
}

/// A store of 40 writes with checkpoints at 20 and at 40, closed, and a copy of it as it was between these, which has come to 80, open.
fn parted(place: &Place) -> Store {
    write(&place.store, 1..=20, "both");
    place.store.checkpoint(&place.repo).unwrap();
    place.store.close().unwrap();
    copy(&place.path("live"), &place.path("old"));
    let live = open(&place.path("live"));
    write(&live, 21..=40, "one");
    live.checkpoint(&place.repo).unwrap();
    live.close().unwrap();
    let old = open(&place.path("old"));
    write(&old, 21..=80, "the other");
    old
}

#[test]
fn a_copy_that_has_come_to_more_puts_nothing_beside_the_checkpoint_of_the_other() {
    for reopened in [false, true] {
        let place = Place::new();
        let mut old = parted(&place);
        if reopened {
            old.close().unwrap();
            old = open(&place.path("old"));
        }
        let before = files(&place.path("backup"));
        for error in [
            old.checkpoint(&place.repo).map(drop).unwrap_err(),
            old.archive(&place.repo).map(drop).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
            assert!(
                error.to_string().contains("checkpoint 2 ") && error.to_string().contains("another copy"),
                "{error}"
            );
            let advice = error.advice().unwrap_or_default();
            assert!(advice.contains("another repository") && advice.contains("2 (sequence 40"), "{advice}");
            // What both have is of no other history.
            assert!(!advice.contains("1 (sequence 20"), "{advice}");
        }
        assert!(files(&place.path("backup")) == before, "something was written");
        // The store itself goes on, however often it is opened and whatever it writes meanwhile.
        for round in 0..3u64 {
            let live = open(&place.path("live"));
            if round > 0 {
                write(&live, 41 + round..=41 + round, "one");
            }
            live.checkpoint(&place.repo).unwrap();
            live.archive(&place.repo).unwrap();
            live.close().unwrap();
        }
        // And so does the copy, once what it does not have has been deleted, or in another repository.
        let (repo, _) = crate::late::other(&place);
        old.checkpoint(&repo).unwrap();
        old.archive(&repo).unwrap();
    }
}

/// Of what the archive ends with the journal has nothing any more.
#[test]
fn a_copy_with_nothing_left_to_compare_archives_nothing_behind_what_the_other_has_archived() {
    let place = Place::new();
    let old = parted(&place);
    let live = open(&place.path("live"));
    live.archive(&place.repo).unwrap();
    live.close().unwrap();
    place.repo.delete(annulus::CheckpointId(2)).unwrap();
    for _ in 0..3 {
        (0..300u32).for_each(|n| _ = old.insert(n.to_be_bytes(), vec![7; 1 << 10]).unwrap());
        old.flush().unwrap();
    }
    let before = files(&place.path("backup"));
    for error in [old.archive(&place.repo).map(drop), old.checkpoint(&place.repo).map(drop)] {
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
        assert!(error.to_string().contains("sequence 40 "), "{error}");
    }
    assert!(files(&place.path("backup")) == before, "something was written");
}

/// What two copies have written into copies of a repository is put together.
fn joined(place: &Place, what: &str) -> Store {
    let store = parted(place);
    let copied = place.path("backup-of-old");
    copy(&place.path("backup"), &copied);
    std::fs::remove_file(copied.join("checkpoints/0000000000000002")).unwrap();
    let repo = BackupRepository::open(&copied).unwrap();
    // Its numbers are others.
    for _ in 0..2 {
        store.checkpoint(&repo).unwrap();
    }
    store.archive(&repo).unwrap();
    for from in files(&copied).into_keys() {
        let name = from.strip_prefix(&copied).unwrap();
        let to = place.path("backup").join(name);
        let wanted = ["objects", what].iter().any(|wanted| name.starts_with(wanted));
        if wanted && !to.exists() {
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(from, to).unwrap();
        }
    }
    store
}

#[test]
fn no_restore_goes_on_from_a_checkpoint_with_the_archive_of_another_copy() {
    let place = Place::new();
    drop(joined(&place, "archive"));
    for seq in [41, 60, 80] {
        let error = place.restored(At::Seq(Seq(seq)), &seq.to_string()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
        assert!(error.advice().is_some() && error.path().is_some(), "{error}");
    }
    // From what both have the archive leads on.
    let first = place.repo.list().unwrap()[0].id;
    let restore = place.repo.restore(first).unwrap().options(options()).until(At::Seq(Seq(60)));
    let store = restore.open(place.path("from-the-first")).unwrap();
    let expected: Vec<bool> = (1..=60u64).map(|n| n > 20).collect();
    let found = (1..=60u64).map(|n| store.get(n.to_be_bytes()).unwrap().unwrap()[..] == *b"the other");
    assert_eq!(found.collect::<Vec<_>>(), expected);
    // As it is, either is whole.
    let store = place.repo.restore_latest().unwrap().options(options()).open(place.path("latest")).unwrap();
    assert_eq!(store.stats().unwrap().last_seq, Seq(40));
}

#[test]
fn a_checkpoint_of_what_a_later_one_does_not_have_is_of_no_later_moment_though_it_has_less() {
    let place = Place::new();
    drop(joined(&place, "checkpoints"));
    let ids: Vec<u64> = place.repo.list().unwrap().iter().map(|checkpoint| checkpoint.id.0).collect();
    assert_eq!(ids, [1, 2, 3]);
    let error =
        place.repo.restore(annulus::CheckpointId(2)).unwrap().until(At::Seq(Seq(40))).open(place.path("two"));
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Mismatch);
    let restored = |seq, name: &str| {
        place.restored(At::Seq(Seq(seq)), name).map(|store| store.stats().unwrap().last_seq)
    };
    assert_eq!(restored(80, "80").unwrap(), Seq(80));
    // Not what the other copy had then.
    assert_eq!(restored(40, "40").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_repair_takes_nothing_of_a_checkpoint_that_another_copy_has_taken() {
    for archived in [false, true] {
        let place = Place::new();
        let (store, repo) = match archived {
            false => (parted(&place), place.repo.clone()),
            true => {
                // The checkpoint is one that both have, and what goes on from it is the other's.
                let store = parted(&place);
                let live = open(&place.path("live"));
                live.archive(&place.repo).unwrap();
                live.close().unwrap();
                place.repo.delete(annulus::CheckpointId(2)).unwrap();
                (store, place.repo.clone())
            }
        };
        store.flush().unwrap();
        store.close().unwrap();
        let dir = place.path("old");
        for shard in ["shards/0000", "shards/0001", "shards/0002"] {
            std::fs::remove_dir_all(dir.join(shard)).unwrap();
        }
        let error = options().repair_from(&repo, &dir).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
        assert!(error.advice().is_some() && !dir.join("shards/0000").exists(), "{error}");
    }
}

/// A checkpoint syncs the journal: one that has more than the log that was accepted has what was given up with the other.
#[test]
fn a_checkpoint_of_what_was_given_up_with_a_copy_of_the_journal_is_told_without_an_archive() {
    let place = Place::new();
    let (a, b) = (place.path("a"), place.path("b"));
    let two = Options::new().shards(2).memory_budget(8 << 20).journal_segment_bytes(64 << 10);
    let two = two.journal_dirs([a.clone(), b.clone()]);
    let dir = place.path("store");
    let store = two.open(&dir).unwrap();
    write(&store, 1..=20, "kept");
    store.checkpoint(&place.repo).unwrap();
    drop(store);
    copy(&b, &place.path("copy-of-b"));
    std::fs::remove_dir_all(&b).unwrap();
    let store = two.open(&dir).unwrap();
    write(&store, 21..=40, "given up");
    store.checkpoint(&place.repo).unwrap();
    drop(store);
    copy(&place.path("copy-of-b"), &b);
    std::fs::remove_dir_all(&a).unwrap();
    // Where that cannot be written down nothing is given up: it would pass for the store's own.
    std::fs::create_dir(dir.join("HISTORY.tmp")).unwrap();
    assert_eq!(two.clone().accept_journal(&b).open(&dir).unwrap_err().kind(), ErrorKind::Io);
    std::fs::remove_dir(dir.join("HISTORY.tmp")).unwrap();
    let mut store = two.clone().accept_journal(&b).open(&dir).unwrap();
    for reopened in [false, true] {
        if reopened {
            store.close().unwrap();
            store = two.open(&dir).unwrap();
        }
        write(&store, 21..=60, "afterwards");
        let error = store.checkpoint(&place.repo).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
        assert!(error.to_string().contains("checkpoint 2 "), "{error}");
    }
    place.repo.delete(annulus::CheckpointId(2)).unwrap();
    store.checkpoint(&place.repo).unwrap();
}

/// Neither a store nor its checkpoints depend on it.
#[test]
fn a_list_of_openings_that_cannot_be_written_keeps_nobody_from_opening_the_store_or_saving_it() {
    let mut place = Place::new();
    place.write(20);
    place.store.checkpoint(&place.repo).unwrap();
    place.store.close().unwrap();
    let blocked = place.path("live/HISTORY.tmp");
    std::fs::create_dir(&blocked).unwrap();
    place.store = open(&place.path("live"));
    place.write(20);
    place.moment();
    place.store.archive(&place.repo).unwrap();
    let id = place.store.checkpoint(&place.repo).unwrap();
    let manifest = |id: annulus::CheckpointId| {
        let bytes = std::fs::read(place.path(&format!("backup/checkpoints/{:016x}", id.0))).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    assert!(!manifest(id).contains("\"history\""));
    std::fs::remove_dir(&blocked).unwrap();
    let id = place.store.checkpoint(&place.repo).unwrap();
    // What this opening has written has the number that was drawn for it.
    assert_eq!(manifest(id).matches("\"from\":").count(), 2);
    place.check_moments("");
}

/// Without the list nothing is known of before, and nobody is refused for that.
#[test]
fn a_store_whose_list_of_openings_is_lost_or_damaged_goes_on_with_its_repository() {
    for damage in [None, Some(&b"rubbish"[..])] {
        let mut place = Place::new();
        place.write(20);
        place.store.checkpoint(&place.repo).unwrap();
        place.store.archive(&place.repo).unwrap();
        place.write(20);
        place.moment();
        place.store.checkpoint(&place.repo).unwrap();
        place.store.close().unwrap();
        let list = place.path("live/HISTORY");
        match damage {
            None => std::fs::remove_file(&list).unwrap(),
            Some(bytes) => std::fs::write(&list, bytes).unwrap(),
        }
        for _ in 0..2 {
            place.store = open(&place.path("live"));
            place.store.archive(&place.repo).unwrap();
            place.store.checkpoint(&place.repo).unwrap();
            place.write(20);
            place.moment();
            place.store.archive(&place.repo).unwrap();
            place.store.checkpoint(&place.repo).unwrap();
            place.write(1);
            place.store.close().unwrap();
        }
        for (number, (seq, _, expected)) in place.moments.iter().enumerate() {
            let store = place.restored(At::Seq(*seq), &number.to_string()).unwrap();
            assert_eq!(&content(&store), expected, "{seq}");
        }
        assert!(place.repo.verify_all().unwrap().is_whole());
    }
}
