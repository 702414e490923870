//! Archives that lack something: their beginning, their place, or the end of what was written.

use crate::{Place, options};
use annulus::{ErrorKind, Seq};

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
