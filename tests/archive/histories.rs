//! An archive, and the checkpoints beside it, are of one history of a store.

use crate::common::copy;
use crate::hooked::{Call, Hooked, out_of_order};
use crate::late::other;
use crate::{Place, content, options};
use annulus::{At, ErrorKind, Options, Seq, Store};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Every file in a directory, with what it holds.
pub fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.append(&mut files(&path));
        } else {
            let bytes = std::fs::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}

/// Archives a store, then an older copy of it writes something else, which is returned, open.
fn copied(place: &mut Place) -> Store {
    place.write(20);
    place.store.checkpoint(&place.repo).unwrap();
    place.store.archive(&place.repo).unwrap();
    place.store.close().unwrap();
    copy(&place.path("live"), &place.path("old"));
    place.store = options().open(place.path("live")).unwrap();
    place.write(10);
    place.moment();
    place.store.archive(&place.repo).unwrap();
    place.store.close().unwrap();
    let old = options().open(place.path("old")).unwrap();
    for n in 0..50u8 {
        old.insert([n], "another history").unwrap();
    }
    old
}

/// The store goes on, and what it has archived comes back.
fn goes_on(place: &mut Place) {
    place.store = options().open(place.path("live")).unwrap();
    place.write(10);
    place.moment();
    place.store.archive(&place.repo).unwrap();
    place.check_moments("");
}

#[test]
fn an_older_copy_of_the_store_is_not_archived_behind_the_newer_one() {
    let (mut place, _) = Hooked::place();
    let old = copied(&mut place);
    assert_eq!(old.archive(&place.repo).unwrap_err().kind(), ErrorKind::Mismatch);
    old.close().unwrap();
    goes_on(&mut place);
}

#[test]
fn a_checkpoint_of_an_older_copy_is_not_put_beside_the_archive_of_the_newer_one() {
    let mut place = Place::new();
    let old = copied(&mut place);
    let before = files(&place.path("backup"));
    let error = old.checkpoint(&place.repo).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    assert!(error.advice().is_some_and(|advice| advice.contains("another repository")), "{error}");
    assert!(files(&place.path("backup")) == before, "something was written");
    let (repo, _) = other(&place);
    old.checkpoint(&repo).unwrap();
    old.close().unwrap();
    place.store = options().open(place.path("live")).unwrap();
    place.store.checkpoint(&place.repo).unwrap();
    place.store.close().unwrap();
    goes_on(&mut place);
}

/// What its last piece does not tell, the one before it may; and a store that it is of is saved all the same.
#[test]
fn a_damaged_end_of_the_archive_keeps_the_copy_from_a_checkpoint_and_not_the_store() {
    let mut place = Place::new();
    let old = copied(&mut place);
    place.store = options().open(place.path("live")).unwrap();
    place.write(1);
    place.store.archive(&place.repo).unwrap();
    let pieces = files(&place.path("backup/archive"));
    std::fs::write(pieces.keys().next_back().unwrap(), b"rubbish").unwrap();
    assert_eq!(old.checkpoint(&place.repo).unwrap_err().kind(), ErrorKind::Mismatch);
    let last = place.repo.list().unwrap().last().unwrap().seq;
    for again in [false, true] {
        if again {
            place.store.close().unwrap();
            place.store = options().open(place.path("live")).unwrap();
        }
        let id = place.store.checkpoint(&place.repo).unwrap();
        assert!(place.repo.get(id).unwrap().seq > last);
    }
}

#[test]
fn a_checkpoint_is_put_beside_no_archive_that_cannot_be_read_for_the_time_being() {
    let (mut place, storage) = Hooked::place();
    place.write(20);
    place.store.archive(&place.repo).unwrap();
    storage.on(|call| match call {
        Call::List(prefix) if prefix.starts_with("archive/") => Err(out_of_order()),
        _ => Ok(()),
    });
    let before = files(&place.path("backup"));
    assert_eq!(place.store.checkpoint(&place.repo).unwrap_err().kind(), ErrorKind::Io);
    assert!(files(&place.path("backup")) == before, "something was written");
    storage.off();
    place.store.checkpoint(&place.repo).unwrap();
}

/// Nothing is left of the journal to compare, and nothing is kept for the archive.
#[test]
fn a_checkpoint_is_put_beside_an_archive_that_the_journal_does_not_reach_back_to() {
    let mut place = Place::new();
    place.write(20);
    place.store.checkpoint(&place.repo).unwrap();
    place.store.archive(&place.repo).unwrap();
    place.store.forget_archive(place.repo.id()).unwrap();
    for _ in 0..2 {
        place.write(3_000);
        place.store.flush().unwrap();
    }
    place.store.checkpoint(&place.repo).unwrap();
    place.moment();
    place.store.archive(&place.repo).unwrap();
    let (seq, _, expected) = &place.moments[0];
    assert_eq!(&content(&place.restored(At::Seq(*seq), "new").unwrap()), expected);
    assert_eq!(place.restored(At::Seq(Seq(21)), "gap").unwrap_err().kind(), ErrorKind::NotFound);
}

/// A store of which 40 writes have been archived, and 20 of them given up with a copy of the journal: what opens it as it is now.
fn given_up(place: &Place) -> (Store, Options) {
    let (a, b) = (place.path("a"), place.path("b"));
    let two = Options::new().shards(2).memory_budget(8 << 20).journal_segment_bytes(64 << 10);
    let two = two.journal_dirs([a.clone(), b.clone()]);
    let open = |options: &Options| options.open(place.path("store")).unwrap();
    let store = open(&two);
    write(&store, 0..20);
    store.checkpoint(&place.repo).unwrap();
    store.archive(&place.repo).unwrap();
    drop(store);
    copy(&b, &place.path("old"));
    std::fs::remove_dir_all(&b).unwrap();
    let store = open(&two);
    write(&store, 20..40);
    assert_eq!(store.archive(&place.repo).unwrap(), Seq(40));
    drop(store);
    copy(&place.path("old"), &b);
    std::fs::remove_dir_all(&a).unwrap();
    let store = open(&two.clone().accept_journal(&b));
    let last = store.stats().unwrap().last_seq;
    assert!(last >= Seq(40 + (1 << 32)), "{last}");
    (store, two)
}

fn write(store: &Store, numbers: std::ops::Range<u32>) {
    numbers.for_each(|n| _ = store.insert(n.to_be_bytes(), "the same every time").unwrap());
}

/// Writes that were archived and then given up with a copy of the journal: neither their numbers nor the archive are used again.
#[test]
fn what_is_written_after_a_shorter_journal_was_accepted_is_not_archived_behind_what_was_given_up() {
    let place = Place::new();
    let (store, two) = given_up(&place);
    let last = store.stats().unwrap().last_seq;
    // The very same writes: nothing but the acceptance tells the one history from the other.
    write(&store, 20..60);
    assert_eq!(store.archive(&place.repo).unwrap_err().kind(), ErrorKind::Mismatch);
    drop(store);
    let store = two.open(place.path("store")).unwrap();
    assert_eq!(store.archive(&place.repo).unwrap_err().kind(), ErrorKind::Mismatch);
    // Another repository takes it, behind a checkpoint of what the journal does not have any more.
    let (repo, _) = other(&place);
    store.checkpoint(&repo).unwrap();
    assert_eq!(store.archive(&repo).unwrap(), Seq(last.0 + 40));
}

#[test]
fn what_is_written_after_a_shorter_journal_was_accepted_gets_no_checkpoint_beside_what_was_given_up() {
    for further in [10, 40] {
        let place = Place::new();
        let (store, two) = given_up(&place);
        write(&store, 20..20 + further);
        let before = files(&place.path("backup"));
        assert_eq!(store.checkpoint(&place.repo).unwrap_err().kind(), ErrorKind::Mismatch);
        drop(store);
        let store = two.open(place.path("store")).unwrap();
        assert_eq!(store.checkpoint(&place.repo).unwrap_err().kind(), ErrorKind::Mismatch);
        assert!(files(&place.path("backup")) == before, "something was written");
        let (repo, _) = other(&place);
        store.checkpoint(&repo).unwrap();
    }
}

/// Of the archive the lost shards would get writes that the others have otherwise.
#[test]
fn a_repair_takes_nothing_of_a_backup_that_has_what_was_given_up() {
    let place = Place::new();
    let (store, two) = given_up(&place);
    write(&store, 20..60);
    store.close().unwrap();
    let dir = place.path("store");
    for shard in ["shards/0000", "shards/0001"] {
        std::fs::remove_dir_all(dir.join(shard)).unwrap();
    }
    let error = two.repair_from(&place.repo, &dir).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    assert!(error.advice().is_some() && !dir.join("shards/0000").exists(), "{error}");
}

/// The newer store has dropped what the older copy still has.
#[test]
fn a_repair_takes_no_checkpoint_that_lacks_a_keyspace_of_the_store() {
    let mut place = Place::new();
    let old = copied(&mut place);
    old.close().unwrap();
    place.store = options().open(place.path("live")).unwrap();
    place.store.drop_keyspace("notes").unwrap();
    place.store.checkpoint(&place.repo).unwrap();
    place.store.close().unwrap();
    let dir = place.path("old");
    for shard in ["shards/0000", "shards/0002"] {
        std::fs::remove_dir_all(dir.join(shard)).unwrap();
    }
    let error = options().repair_from(&place.repo, &dir).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    assert!(error.advice().is_some() && !dir.join("shards/0000").exists(), "{error}");
}
