//! Archives that lack something: their beginning, their place, or the end of what was written.

use crate::common::copy;
use crate::{Place, content, options, walk};
use annulus::{At, ErrorKind, Retention, Seq};
use std::path::PathBuf;

/// Writes so much, and flushes so often, that the journal no longer begins with the first write.
fn trim(place: &mut Place) {
    for _ in 0..3 {
        place.write(3_000);
        place.store.flush().unwrap();
    }
}

fn holds(place: &Place) -> Vec<(u128, Seq)> {
    place.store.archives().unwrap().iter().map(|hold| (hold.repository, hold.upto)).collect()
}

#[test]
fn an_archive_that_begins_after_the_checkpoint_lacks_what_lies_between_until_there_is_a_newer_one() {
    let mut place = Place::new();
    place.write(100);
    place.store.checkpoint(&place.repo).unwrap();
    trim(&mut place);
    for reopened in [false, false, true] {
        if reopened {
            place.store.close().unwrap();
            place.store = options().open(place.path("live")).unwrap();
        }
        place.write(10);
        let error = place.store.archive(&place.repo).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Gap, "{error}");
        assert!(error.to_string().contains("sequences 1 to "), "{error}");
        assert!(error.advice().is_some_and(|advice| advice.contains("checkpoint")), "{error}");
    }
    place.store.checkpoint(&place.repo).unwrap();
    place.write(10);
    place.moment();
    assert_eq!(place.store.archive(&place.repo).unwrap(), place.moments[0].0);
    place.check_moments("");
}

#[test]
fn into_a_place_that_is_not_the_repository_any_more_nothing_is_archived() {
    let mut place = Place::new();
    place.write(20);
    place.store.checkpoint(&place.repo).unwrap();
    place.store.archive(&place.repo).unwrap();
    let archiver = place.store.archive_continuously(&place.repo).unwrap();
    let before = holds(&place);
    assert_eq!(before, [(place.repo.id(), Seq(20))]);
    // As where its disk is unmounted: the directory may be there, and is empty.
    let (dir, away) = (place.path("backup"), place.path("away"));
    std::fs::rename(&dir, &away).unwrap();
    for mount_point in [false, true] {
        if mount_point {
            std::fs::create_dir_all(&dir).unwrap();
        }
        place.write(3_000);
        let error = place.store.archive(&place.repo).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
        assert!(error.advice().is_some(), "{error}");
        place.store.flush().unwrap();
        assert_eq!(holds(&place), before);
        assert!(!dir.join("archive").exists(), "something was written");
    }
    assert_eq!(archiver.stop().unwrap_err().kind(), ErrorKind::Foreign);
    place.moment();
    std::fs::remove_dir_all(&dir).unwrap();
    std::fs::rename(&away, &dir).unwrap();
    assert_eq!(place.store.archive(&place.repo).unwrap(), place.moments[0].0);
    place.check_moments("");
}

/// A checkpoint and two pieces, of which the newest is damaged: where that one lies.
fn damaged(place: &mut Place) -> PathBuf {
    place.write(60);
    place.store.checkpoint(&place.repo).unwrap();
    place.store.archive(&place.repo).unwrap();
    place.write(60);
    place.store.archive(&place.repo).unwrap();
    let newest = walk(place.path("backup/archive")).pop().unwrap();
    std::fs::write(&newest, b"rubbish").unwrap();
    newest
}

#[test]
fn archiving_goes_on_behind_a_damaged_piece_which_is_told_until_a_checkpoint_lies_behind_it() {
    for reopened in [false, true] {
        let mut place = Place::new();
        let newest = damaged(&mut place);
        if reopened {
            place.store.close().unwrap();
            place.store = options().open(place.path("live")).unwrap();
        }
        for _ in 0..2 {
            place.write(10);
            let error = place.store.archive(&place.repo).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Gap, "{error}");
            assert!(error.to_string().contains("sequences 61 to 120"), "{error}");
            assert!(error.advice().is_some_and(|advice| advice.contains("checkpoint")), "{error}");
        }
        assert_eq!(holds(&place), [(place.repo.id(), Seq(140))]);
        assert_eq!(walk(place.path("backup/archive")).len(), 4);
        let archiver = place.store.archive_continuously(&place.repo).unwrap();
        assert_eq!(archiver.stop().unwrap_err().kind(), ErrorKind::Gap);
        place.store.checkpoint(&place.repo).unwrap();
        place.write(10);
        place.moment();
        assert_eq!(place.store.archive(&place.repo).unwrap(), place.moments[0].0);
        place.check_moments("behind the damaged piece");
        assert_eq!(std::fs::read(&newest).unwrap(), b"rubbish");
    }
}

fn reopen(place: &mut Place) {
    place.store.close().unwrap();
    place.store = options().open(place.path("live")).unwrap();
}

/// The names of the pieces say that there is no gap.
#[test]
fn a_damaged_piece_that_others_lie_behind_is_told_after_an_opening_until_it_is_whole_or_pruned() {
    for mended in [false, true] {
        let mut place = Place::new();
        place.write(60);
        place.store.checkpoint(&place.repo).unwrap();
        place.store.archive(&place.repo).unwrap();
        place.write(60);
        place.moment();
        place.store.archive(&place.repo).unwrap();
        let newest = walk(place.path("backup/archive")).pop().unwrap();
        let whole = std::fs::read(&newest).unwrap();
        std::fs::write(&newest, b"rubbish").unwrap();
        for _ in 0..3 {
            place.write(10);
            let error = place.store.archive(&place.repo).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Gap, "{error}");
            assert!(error.to_string().contains("sequences 61 to 120"), "{error}");
            reopen(&mut place);
        }
        let list = place.path("live/ARCHIVES");
        let version = || std::fs::read(&list).unwrap()[8];
        assert_eq!(version(), 2);
        if mended {
            std::fs::write(&newest, whole).unwrap();
        } else {
            place.moments.clear();
            place.store.checkpoint(&place.repo).unwrap();
            assert_eq!(place.repo.prune(Retention::keep_last(1)).unwrap().checkpoints.len(), 1);
            assert!(!newest.exists());
        }
        place.write(10);
        place.moment();
        for _ in 0..2 {
            assert_eq!(place.store.archive(&place.repo).unwrap(), place.moments.last().unwrap().0);
        }
        place.check_moments(&format!("mended: {mended}"));
        // What it is written with again is that of old.
        place.write(1);
        place.store.archive(&place.repo).unwrap();
        assert_eq!(version(), 1);
    }
}

#[test]
fn a_gap_is_told_again_once_the_checkpoint_behind_it_has_been_deleted() {
    for in_the_names in [false, true] {
        let mut place = Place::new();
        let newest = damaged(&mut place);
        place.write(10);
        assert_eq!(place.store.archive(&place.repo).unwrap_err().kind(), ErrorKind::Gap);
        if in_the_names {
            std::fs::remove_file(newest).unwrap();
        }
        let behind = place.store.checkpoint(&place.repo).unwrap();
        place.store.archive(&place.repo).unwrap();
        place.repo.delete(behind).unwrap();
        place.write(10);
        assert_eq!(place.store.archive(&place.repo).unwrap_err().kind(), ErrorKind::Gap, "{in_the_names}");
        place.store.checkpoint(&place.repo).unwrap();
        place.store.archive(&place.repo).unwrap();
    }
}

#[test]
fn behind_a_damaged_piece_that_does_not_tell_where_it_ends_nothing_is_archived_until_it_is_taken_away() {
    let named = |first: u64, last: &str| format!("{first:016x}{last}");
    let beyond = format!("-{:016x}", 10_000);
    for name in [
        named(121, ""),
        named(121, &beyond),
        named(121, "-ffffffffffffffff"),
        named(130, "-0000000000000080"),
    ] {
        let mut place = Place::new();
        let newest = damaged(&mut place);
        let wrong = newest.with_file_name(&name);
        std::fs::rename(&newest, &wrong).unwrap();
        place.write(20);
        let (before, pieces) = (holds(&place), walk(place.path("backup/archive")));
        let error = place.store.archive(&place.repo).unwrap_err();
        assert!(error.kind() == ErrorKind::Corruption && error.path() == Some(&wrong), "{name}: {error}");
        assert!(error.advice().is_some_and(|advice| advice.contains("take this file")), "{name}: {error}");
        assert_eq!((holds(&place), walk(place.path("backup/archive"))), (before, pieces), "{name}");
        std::fs::remove_file(&wrong).unwrap();
        place.moment();
        // The journal still has what was in it.
        assert_eq!(place.store.archive(&place.repo).unwrap(), place.moments[0].0, "{name}");
        place.check_moments(&name);
    }
}

/// Of whose history an archive is that ends with damage, the piece before may tell.
#[test]
fn an_older_copy_of_the_store_is_not_archived_behind_a_damaged_piece_of_the_newer_one() {
    let mut place = Place::new();
    place.write(20);
    place.store.checkpoint(&place.repo).unwrap();
    place.store.close().unwrap();
    copy(&place.path("live"), &place.path("old"));
    place.store = options().open(place.path("live")).unwrap();
    damaged(&mut place);
    let old = options().open(place.path("old")).unwrap();
    (0..500u32).for_each(|n| _ = old.insert(n.to_be_bytes(), "another history").unwrap());
    assert_eq!(old.archive(&place.repo).unwrap_err().kind(), ErrorKind::Mismatch);
    assert_eq!(old.archives().unwrap(), []);
}

#[test]
fn a_time_is_restored_to_where_a_later_one_is_known_before_a_damaged_piece() {
    let mut place = Place::new();
    place.write(20);
    place.store.checkpoint(&place.repo).unwrap();
    for _ in 0..3 {
        place.write(20);
        place.store.archive(&place.repo).unwrap();
        place.moment();
    }
    let newest = walk(place.path("backup/archive")).pop().unwrap();
    std::fs::write(&newest, b"rubbish").unwrap();
    let time = |place: &Place, at: usize, name: &str| place.restored(At::Time(place.moments[at].1), name);
    assert_eq!(content(&time(&place, 0, "before").unwrap()), place.moments[0].2);
    // The last mark that can be read is earlier than these: the damaged piece may have one that is not later than they are.
    for at in [1, 2] {
        let error = time(&place, at, "within").unwrap_err();
        assert!(error.kind() == ErrorKind::Corruption && error.path() == Some(&newest), "{error}");
    }
    place.store.checkpoint(&place.repo).unwrap();
    place.moment();
    place.write(20);
    place.store.archive(&place.repo).unwrap();
    place.moment();
    for at in [0, 3, 4] {
        let restored = time(&place, at, &format!("after-{at}")).unwrap();
        assert_eq!(content(&restored), place.moments[at].2, "moment {at}");
    }
    assert_eq!(time(&place, 1, "still").unwrap_err().kind(), ErrorKind::Corruption);
}

/// Which of the writes that are missing were there by then nobody knows.
#[test]
fn a_time_within_a_gap_of_the_archive_is_refused_and_not_taken_for_one_before_it() {
    let mut place = Place::new();
    place.write(20);
    place.store.checkpoint(&place.repo).unwrap();
    for _ in 0..4 {
        place.write(20);
        place.store.archive(&place.repo).unwrap();
        place.moment();
    }
    std::fs::remove_file(&walk(place.path("backup/archive"))[2]).unwrap();
    let time = |place: &Place, at: usize, name: &str| place.restored(At::Time(place.moments[at].1), name);
    assert_eq!(content(&time(&place, 0, "before").unwrap()), place.moments[0].2);
    for at in [1, 2] {
        let error = time(&place, at, "within").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(error.to_string().contains("sequences 61 to 80"), "{error}");
        assert!(error.advice().is_some(), "{error}");
    }
    place.store.checkpoint(&place.repo).unwrap();
    place.moment();
    for at in [0, 4] {
        let restored = time(&place, at, &format!("after-{at}")).unwrap();
        assert_eq!(content(&restored), place.moments[at].2, "moment {at}");
    }
    for at in [1, 2] {
        assert_eq!(time(&place, at, "still").unwrap_err().kind(), ErrorKind::NotFound);
    }
}

/// Before it begins nothing was archived, and a time is what the last checkpoint by then has.
#[test]
fn a_time_before_an_archive_begins_is_that_of_the_checkpoint_before() {
    let mut place = Place::new();
    place.write(100);
    place.store.checkpoint(&place.repo).unwrap();
    place.moment();
    trim(&mut place);
    place.store.archive(&place.repo).unwrap_err();
    let restored = place.restored(At::Time(place.moments[0].1), "new").unwrap();
    assert_eq!(content(&restored), place.moments[0].2);
}

/// What is archived for the first time long after a store was opened goes back to before that, and nobody noted the time.
#[test]
fn a_time_between_an_opening_and_the_first_write_is_that_of_the_opening() {
    let mut place = Place::new();
    place.write(20);
    place.store.checkpoint(&place.repo).unwrap();
    place.write(20);
    place.store.close().unwrap();
    place.store = options().open(place.path("live")).unwrap();
    place.moment();
    place.write(20);
    place.store.archive(&place.repo).unwrap();
    let restored = place.restored(At::Time(place.moments[0].1), "new").unwrap();
    assert_eq!(content(&restored), place.moments[0].2);
}
