//! For whom the journal is kept, and which history an archive is of.

use crate::common::copy;
use crate::hooked::Hooked;
use crate::late::other;
use crate::{Place, content, options};
use annulus::{At, ErrorKind, Options, Seq, Store};

/// Writes more than a flush leaves in the journal.
fn more(place: &mut Place) {
    place.write(3_000);
    place.store.flush().unwrap();
    place.moment();
}

fn reopen(place: &mut Place) {
    place.store.close().unwrap();
    place.store = options().open(place.path("live")).unwrap();
}

#[test]
fn the_journal_waits_for_the_archive_after_an_opening_as_before() {
    let mut place = Place::new();
    place.write(20);
    place.store.checkpoint(&place.repo).unwrap();
    place.store.archive(&place.repo).unwrap();
    more(&mut place);
    reopen(&mut place);
    more(&mut place);
    place.store.archive(&place.repo).unwrap();
    // The end of an archiver is no reason either: the next one goes on from there.
    let archiver = place.store.archive_continuously(&place.repo).unwrap();
    archiver.stop().unwrap();
    more(&mut place);
    reopen(&mut place);
    more(&mut place);
    place.store.archive(&place.repo).unwrap();
    for (number, (seq, _, expected)) in place.moments.iter().enumerate() {
        let store = place.restored(At::Seq(*seq), &number.to_string()).unwrap();
        assert_eq!(&content(&store), expected, "moment {number}");
    }
}

#[test]
fn of_two_archives_the_journal_waits_for_the_one_that_is_behind() {
    let mut place = Place::new();
    let (repo, storage) = other(&place);
    place.write(20);
    place.store.checkpoint(&repo).unwrap();
    place.store.archive(&repo).unwrap();
    place.store.archive(&place.repo).unwrap();
    storage.fail_pieces();
    for round in 0..3 {
        more(&mut place);
        place.store.archive(&repo).unwrap_err();
        if round == 1 {
            place.store.archive_continuously(&place.repo).unwrap().stop().unwrap();
        }
        place.store.archive(&place.repo).unwrap();
    }
    storage.off();
    more(&mut place);
    place.store.archive(&repo).unwrap();
    for (number, (seq, _, expected)) in place.moments.iter().enumerate() {
        let restore = repo.restore_latest().unwrap().options(options()).until(At::Seq(*seq));
        assert_eq!(&content(&restore.open(place.path(&number.to_string())).unwrap()), expected);
    }
}

/// An archive that lacks writes after the newest checkpoint is not complete, and whoever adds to it is told until there is a newer one.
#[test]
fn a_gap_in_the_archive_is_told_until_a_checkpoint_lies_behind_it() {
    let mut place = Place::new();
    place.store.close().unwrap();
    place.store = options().journal_retention(64 << 10).open(place.path("live")).unwrap();
    place.write(20);
    place.store.checkpoint(&place.repo).unwrap();
    place.store.archive(&place.repo).unwrap();
    for _ in 0..3 {
        more(&mut place);
    }
    place.moments.clear();
    for _ in 0..2 {
        place.write(10);
        let error = place.store.archive(&place.repo).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Gap, "{error}");
        assert!(error.advice().is_some(), "{error}");
    }
    // It goes on behind the gap all the same.
    let archiver = place.store.archive_continuously(&place.repo).unwrap();
    assert_eq!(archiver.stop().unwrap_err().kind(), ErrorKind::Gap);
    place.store.checkpoint(&place.repo).unwrap();
    place.write(10);
    place.moment();
    assert_eq!(place.store.archive(&place.repo).unwrap(), place.moments[0].0);
    let (seq, _, expected) = &place.moments[0];
    assert_eq!(&content(&place.restored(At::Seq(*seq), "new").unwrap()), expected);
}

#[test]
fn an_older_copy_of_the_store_is_not_archived_behind_the_newer_one() {
    let (mut place, _) = Hooked::place();
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
    assert_eq!(old.archive(&place.repo).unwrap_err().kind(), ErrorKind::Mismatch);
    old.close().unwrap();
    // The newer one goes on.
    place.store = options().open(place.path("live")).unwrap();
    place.write(10);
    place.moment();
    place.store.archive(&place.repo).unwrap();
    for (number, (seq, _, expected)) in place.moments.iter().enumerate() {
        let store = place.restored(At::Seq(*seq), &number.to_string()).unwrap();
        assert_eq!(&content(&store), expected, "moment {number}");
    }
}

/// Writes that were archived and then given up with a copy of the journal: neither their numbers nor the archive are used again.
#[test]
fn what_is_written_after_a_shorter_journal_was_accepted_is_not_archived_behind_what_was_given_up() {
    let place = Place::new();
    let (a, b) = (place.path("a"), place.path("b"));
    let two = Options::new().shards(2).memory_budget(8 << 20).journal_segment_bytes(64 << 10);
    let two = two.journal_dirs([a.clone(), b.clone()]);
    let open = |options: &Options| options.open(place.path("store")).unwrap();
    let write = |store: &Store, numbers: std::ops::Range<u32>| {
        numbers.for_each(|n| _ = store.insert(n.to_be_bytes(), "the same every time").unwrap());
    };
    let store = open(&two);
    write(&store, 0..20);
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
    // The very same writes: nothing but the acceptance tells the one history from the other.
    write(&store, 20..60);
    assert_eq!(store.archive(&place.repo).unwrap_err().kind(), ErrorKind::Mismatch);
    drop(store);
    let store = open(&two);
    assert_eq!(store.archive(&place.repo).unwrap_err().kind(), ErrorKind::Mismatch);
    // Another repository takes it.
    let (repo, _) = other(&place);
    assert_eq!(store.archive(&repo).unwrap(), Seq(last.0 + 40));
}

#[test]
fn for_an_archive_that_is_forgotten_nothing_is_kept() {
    let mut place = Place::new();
    place.write(20);
    place.store.archive(&place.repo).unwrap();
    let id = place.repo.id();
    let holds = |place: &Place| -> Vec<(u128, Seq)> {
        place.store.archives().unwrap().iter().map(|hold| (hold.repository, hold.upto)).collect()
    };
    assert_eq!(holds(&place), [(id, Seq(20))]);
    more(&mut place);
    let kept = place.store.stats().unwrap().journal.bytes;
    reopen(&mut place);
    assert_eq!(holds(&place), [(id, Seq(20))]);
    assert!(place.store.forget_archive(id).unwrap());
    assert!(!place.store.forget_archive(id).unwrap());
    more(&mut place);
    let now = place.store.stats().unwrap().journal.bytes;
    assert!(now < kept, "{now} of {kept}");
    reopen(&mut place);
    assert_eq!(holds(&place), []);
    // Archived again there is a gap, and whoever archives hears of it.
    assert_eq!(place.store.archive(&place.repo).unwrap_err().kind(), ErrorKind::Gap);
}

/// Nobody knows what it said, so nothing is let go.
#[test]
fn with_a_damaged_list_of_archives_the_store_opens_and_keeps_its_journal() {
    let mut place = Place::new();
    place.write(20);
    place.store.checkpoint(&place.repo).unwrap();
    place.store.archive(&place.repo).unwrap();
    place.store.close().unwrap();
    std::fs::write(place.path("live/ARCHIVES"), b"rubbish").unwrap();
    place.store = options().open(place.path("live")).unwrap();
    more(&mut place);
    more(&mut place);
    place.store.archive(&place.repo).unwrap();
    reopen(&mut place);
    assert_eq!(place.store.archives().unwrap().len(), 1);
    for (number, (seq, _, expected)) in place.moments.iter().enumerate() {
        let store = place.restored(At::Seq(*seq), &number.to_string()).unwrap();
        assert_eq!(&content(&store), expected, "moment {number}");
    }
}
