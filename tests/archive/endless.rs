//! Archives that end with a piece of version 1, which cannot be read: its name does not tell where it ends.

use crate::common::copy;
use crate::{Place, content, options, walk};
use annulus::{At, ErrorKind, Options, Seq};
use std::path::{Path, PathBuf};

/// Makes the newest piece one of version 1: where it lies then.
fn as_first_version(place: &Place) -> PathBuf {
    let newest = walk(place.path("backup/archive")).pop().unwrap();
    let mut bytes = std::fs::read(&newest).unwrap();
    bytes[8..12].copy_from_slice(&1u32.to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[8..12]);
    crc.update(&bytes[16..]);
    bytes[12..16].copy_from_slice(&crc.finalize().to_le_bytes());
    let name = newest.file_name().unwrap().to_str().unwrap();
    let old = newest.with_file_name(name.split_once('-').unwrap().0);
    std::fs::write(&old, bytes).unwrap();
    std::fs::remove_file(newest).unwrap();
    old
}

/// Makes it one that cannot be read, and says what it was.
fn spoil(piece: &Path) -> Vec<u8> {
    let whole = std::fs::read(piece).unwrap();
    std::fs::write(piece, b"rubbish").unwrap();
    whole
}

fn reopen(place: &mut Place) {
    place.store.close().unwrap();
    place.store = options().open(place.path("live")).unwrap();
}

#[test]
fn archiving_goes_on_from_where_a_piece_begins_that_does_not_tell_where_it_ends() {
    for (reopened, put_back) in [(false, false), (true, false), (true, true)] {
        let mut place = Place::new();
        place.write(60);
        place.moment();
        place.store.checkpoint(&place.repo).unwrap();
        place.store.archive(&place.repo).unwrap();
        place.write(60);
        place.moment();
        place.store.archive(&place.repo).unwrap();
        let old = as_first_version(&place);
        if reopened {
            reopen(&mut place);
        }
        let whole = spoil(&old);
        // The journal has all that was in it.
        for _ in 0..2 {
            place.write(10);
            place.moment();
            assert_eq!(place.store.archive(&place.repo).unwrap(), place.moments.last().unwrap().0);
        }
        let first: Vec<u64> = walk(place.path("backup/archive"))
            .iter()
            .map(|piece| piece.file_name().unwrap().to_str().unwrap()[..16].to_owned())
            .map(|digits| u64::from_str_radix(&digits, 16).unwrap())
            .collect();
        assert_eq!(first, [1, 61, 61, 131]);
        assert!(std::fs::read(&old).unwrap() == b"rubbish");
        if put_back {
            std::fs::write(&old, whole).unwrap();
        }
        assert!(place.repo.verify_all().unwrap().is_whole());
        place.check_moments("behind it and in it");
        reopen(&mut place);
        place.write(10);
        assert_eq!(place.store.archive(&place.repo).unwrap(), Seq(150));
    }
}

/// Writes so much, and flushes so often, that the journal no longer has anything of before.
fn trim(place: &mut Place) {
    for _ in 0..3 {
        place.write(3_000);
        place.store.flush().unwrap();
    }
}

#[test]
fn what_the_journal_lacks_of_a_piece_that_does_not_tell_where_it_ends_is_told_until_a_checkpoint_lies_behind_it()
 {
    for put_back in [false, true] {
        let mut place = Place::new();
        place.write(60);
        place.moment();
        place.store.checkpoint(&place.repo).unwrap();
        place.store.archive(&place.repo).unwrap();
        place.write(60);
        place.moment();
        place.store.archive(&place.repo).unwrap();
        let old = as_first_version(&place);
        place.store.forget_archive(place.repo.id()).unwrap();
        trim(&mut place);
        let whole = spoil(&old);
        let mut upto = Seq(0);
        for _ in 0..2 {
            place.write(10);
            let error = place.store.archive(&place.repo).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Gap, "{error}");
            assert!(error.to_string().contains("sequences 61 to "), "{error}");
            assert!(error.advice().is_some_and(|advice| advice.contains("checkpoint")), "{error}");
            upto = place.store.archives().unwrap()[0].upto;
            assert_eq!(upto, place.store.stats().unwrap().last_seq);
            reopen(&mut place);
        }
        let error = place.restored(At::Seq(upto), "over-the-gap").unwrap_err();
        assert!(error.kind() == ErrorKind::Corruption && error.path() == Some(&old), "{error}");
        let error = place.restored(At::Seq(Seq(120)), "within").unwrap_err();
        assert!(error.kind() == ErrorKind::Corruption && error.path() == Some(&old), "{error}");
        if put_back {
            std::fs::write(&old, &whole).unwrap();
            // It does not reach up to where the journal began.
            let error = place.restored(At::Seq(upto), "behind-the-gap").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
            place.check_moments("put back");
            assert_eq!(place.store.archive(&place.repo).unwrap_err().kind(), ErrorKind::Gap);
        }
        place.moments.truncate(1);
        place.store.checkpoint(&place.repo).unwrap();
        place.write(10);
        place.moment();
        assert_eq!(place.store.archive(&place.repo).unwrap(), place.moments[1].0);
        for (number, (seq, _, expected)) in place.moments.iter().enumerate() {
            let store = place.restored(At::Seq(*seq), &format!("after-{number}")).unwrap();
            assert_eq!(&content(&store), expected, "{seq}");
        }
    }
}

/// The piece is of what the store was before an older copy of it was put back, and comes back when that has been archived behind it.
#[test]
fn a_piece_of_another_history_that_comes_back_is_not_mixed_with_what_was_archived_behind_it() {
    let large = |place: &Place, numbers: std::ops::RangeInclusive<u64>, fill: u8| {
        numbers.for_each(|n| _ = place.store.insert(n.to_be_bytes(), vec![fill; 30 << 10]).unwrap());
    };
    let few: Options = options().memory_budget(8 << 20);
    let mut place = Place::with(&few);
    large(&place, 1..=20, 1);
    place.store.checkpoint(&place.repo).unwrap();
    place.store.archive(&place.repo).unwrap();
    place.store.close().unwrap();
    copy(&place.path("live"), &place.path("old"));
    place.store = few.open(place.path("live")).unwrap();
    large(&place, 21..=60, 2);
    place.store.archive(&place.repo).unwrap();
    let piece = as_first_version(&place);
    let whole = spoil(&piece);
    place.store.close().unwrap();
    place.store = few.open(place.path("old")).unwrap();
    // Nothing is kept, so that the two have but a part in common.
    let _ = place.store.forget_archive(place.repo.id());
    large(&place, 21..=50, 3);
    place.store.flush().unwrap();
    large(&place, 51..=52, 3);
    let error = place.store.archive(&place.repo).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Gap, "{error}");
    let newest = walk(place.path("backup/archive")).pop().unwrap();
    let first = &newest.file_name().unwrap().to_str().unwrap()[..16];
    let first = u64::from_str_radix(first, 16).unwrap();
    assert!((22..=52).contains(&first), "{first}");
    std::fs::write(&piece, whole).unwrap();
    for seq in [first, 52] {
        let error = place.restored(At::Seq(Seq(seq)), &seq.to_string()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
        assert!(error.advice().is_some(), "{error}");
    }
    // Nor does it pass for what was missing.
    let error = place.store.archive(&place.repo).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Gap, "{error}");
}
