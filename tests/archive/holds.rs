//! For whom the journal is kept.

use crate::late::other;
use crate::{Place, content, options};
use annulus::{At, ErrorKind, Seq};

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
    place.check_moments("");
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
    place.check_moments("");
}
