//! An older copy of a store is put back in its place: its checkpoints are of two histories.

use crate::common::copy;
use crate::late::other;
use crate::{Place, content, options};
use annulus::{At, ErrorKind};

/// A store whose directory was put back as it was before the last `lost` writes, of which there is a checkpoint.
fn put_back(place: &mut Place, lost: u32) {
    place.write(100);
    place.store.checkpoint(&place.repo).unwrap();
    place.moment();
    place.store.close().unwrap();
    copy(&place.path("live"), &place.path("older"));
    place.store = options().open(place.path("live")).unwrap();
    place.write(lost);
    place.store.checkpoint(&place.repo).unwrap();
    place.moment();
    place.store.close().unwrap();
    copy(&place.path("older"), &place.path("live"));
    place.store = options().open(place.path("live")).unwrap();
}

#[test]
fn nothing_of_an_older_copy_is_put_beside_a_checkpoint_of_what_it_does_not_have() {
    for archived in [true, false] {
        let mut place = Place::new();
        put_back(&mut place, 100);
        place.write(50);
        for _ in 0..2 {
            let error = match archived {
                true => place.store.archive(&place.repo).unwrap_err(),
                false => place.store.checkpoint(&place.repo).unwrap_err(),
            };
            assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
            assert!(error.to_string().contains("checkpoint 2"), "{error}");
            assert!(error.advice().is_some_and(|advice| advice.contains("another repository")), "{error}");
        }
        // Nothing is kept for what nothing can be added to.
        assert_eq!(place.store.archives().unwrap(), []);
        assert_eq!((place.repo.list().unwrap().len(), place.path("backup/archive").exists()), (2, false));
        let (repo, _) = other(&place);
        place.store.checkpoint(&repo).unwrap();
        place.store.archive(&repo).unwrap();
        // Whoever gives up what is in it goes on here.
        let given_up = place.repo.list().unwrap()[1].id;
        place.repo.delete(given_up).unwrap();
        place.store.archive(&place.repo).unwrap();
        place.store.checkpoint(&place.repo).unwrap();
        place.write(100);
        place.moment();
        place.store.archive(&place.repo).unwrap();
        let (seq, _, expected) = place.moments.last().unwrap();
        assert_eq!(&content(&place.restored(At::Seq(*seq), "new").unwrap()), expected);
    }
}

/// With the newest gone alone the one before would pass for the copy's.
#[test]
fn whoever_gives_up_what_an_older_copy_does_not_have_is_told_of_every_checkpoint_that_may_be_of_it() {
    for known in [true, false] {
        let mut place = Place::new();
        place.write(100);
        place.store.checkpoint(&place.repo).unwrap();
        place.store.close().unwrap();
        copy(&place.path("live"), &place.path("older"));
        place.store = options().open(place.path("live")).unwrap();
        for _ in 0..3 {
            place.write(40);
            place.store.checkpoint(&place.repo).unwrap();
        }
        place.store.close().unwrap();
        copy(&place.path("older"), &place.path("live"));
        place.store = options().open(place.path("live")).unwrap();
        place.write(65);
        // As of checkpoints of earlier releases.
        if !known {
            place.store.close().unwrap();
            std::fs::remove_file(place.path("live/HISTORY")).unwrap();
            place.store = options().open(place.path("live")).unwrap();
        }
        for archived in [true, false] {
            let error = match archived {
                true => place.store.archive(&place.repo).unwrap_err(),
                false => place.store.checkpoint(&place.repo).unwrap_err(),
            };
            assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
            let advice = error.advice().unwrap_or_default();
            assert!(advice.contains("delete all checkpoints that were taken since"), "{advice}");
            let (certain, possible) = advice.split_once("before").unwrap_or((advice, ""));
            let second = if known { certain } else { possible };
            for (part, id, seq) in [(certain, 4, 220), (certain, 3, 180), (second, 2, 140)] {
                let told = format!("{id} (sequence {seq} at 20");
                assert!(part.contains(&told), "{told}: {advice}");
            }
            // The copy was made of it.
            assert_eq!(possible.contains("1 (sequence 100 at 20"), !known, "{advice}");
            assert!(!certain.contains("1 (sequence 100"), "{advice}");
        }
    }
}
