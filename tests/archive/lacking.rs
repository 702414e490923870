//! Archives that lack something: their beginning, their place, or the end of what was written.

use crate::common::copy;
use crate::hooked::{Call, Hooked, out_of_order};
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

pub fn holds(place: &Place) -> Vec<(u128, Seq)> {
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
fn behind_a_damaged_piece_that_is_not_of_what_the_store_has_come_to_nothing_is_archived_until_it_is_taken_away()
 {
    let named = |first: u64, last: &str| format!("{first:016x}{last}");
    let beyond = format!("-{:016x}", 10_000);
    for name in [
        named(141, ""),
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

/// A store whose write number n sets "n" to that, and the key of that number to a value of its own.
pub fn numbered(place: &Place, numbers: std::ops::RangeInclusive<u64>) {
    for n in numbers {
        let mut batch = annulus::WriteBatch::new();
        batch.insert("n", n.to_be_bytes());
        batch.insert(n.to_be_bytes(), value(n));
        assert_eq!(place.store.commit(batch).unwrap(), Seq(n));
    }
}

fn value(n: u64) -> Vec<u8> {
    format!("the value of write number {n:06}, which is so long {}", "x".repeat(200)).into_bytes()
}

/// The files of the journal.
fn segments(place: &Place) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(place.path("live/journal")).unwrap();
    let mut segments: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    segments.sort();
    segments
}

/// What the disk does to the frame of a write in the journal.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Harm {
    Payload,
    /// And the end of the frame before.
    Header,
}

/// The segment that the frame of a write lies in, and where in it its value does.
pub fn position(place: &Place, n: u64) -> (PathBuf, u64) {
    let value = value(n);
    let found = segments(place).into_iter().find_map(|path| {
        let bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(value.len()).position(|window| window == value)?;
        Some((path, at as u64))
    });
    found.unwrap_or_else(|| panic!("write {n} is not in the journal"))
}

/// Damages the frame of a write, and says which segment of how many it lies in.
fn damage_frame(place: &Place, n: u64, harm: Harm) -> (usize, usize) {
    let (segments, (path, at)) = (segments(place), position(place, n));
    let mut bytes = std::fs::read(&path).unwrap();
    let at = at as usize;
    match harm {
        Harm::Payload => bytes[at + 9] ^= 1,
        Harm::Header => bytes[at - 110..at].fill(0),
    }
    std::fs::write(&path, bytes).unwrap();
    (segments.iter().position(|segment| *segment == path).unwrap(), segments.len())
}

/// A restore to the moment after a write has that write and all before.
pub fn check_numbered(place: &Place, n: u64, name: &str) {
    let store = place.restored(At::Seq(Seq(n)), name).unwrap();
    assert_eq!(store.get("n").unwrap().as_deref(), Some(&n.to_be_bytes()[..]), "{n}");
    for n in 1..=n {
        assert_eq!(store.get(n.to_be_bytes()).unwrap().as_deref(), Some(&value(n)[..]), "{n}");
    }
    assert_eq!(store.iter().count() as u64, n + 1);
    store.close().unwrap();
    std::fs::remove_dir_all(place.path(name)).unwrap();
}

/// They were flushed, so nothing but the archive needs them of the journal.
#[test]
fn of_a_journal_with_a_damaged_frame_all_others_are_archived() {
    for harm in [Harm::Payload, Harm::Header] {
        let mut place = Place::new();
        numbered(&place, 1..=50);
        place.store.checkpoint(&place.repo).unwrap();
        place.store.archive(&place.repo).unwrap();
        numbered(&place, 51..=700);
        place.store.flush().unwrap();
        let (number, segments) = damage_frame(&place, 350, harm);
        assert!(number > 0 && number + 1 < segments, "segment {number} of {segments}");
        let from = if harm == Harm::Payload { 350 } else { 349 };
        let gap = format!("sequences {from} to 350,");
        for reopened in [false, false, true] {
            if reopened {
                place.store.close().unwrap();
                place.store = options().open(place.path("live")).unwrap();
            }
            let error = place.store.archive(&place.repo).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Gap, "{harm:?}, reopened {reopened}: {error}");
            assert!(error.to_string().contains(&gap), "{error}");
            assert!(error.advice().is_some_and(|advice| advice.contains("checkpoint")), "{error}");
            let last = place.store.stats().unwrap().last_seq;
            assert_eq!(holds(&place), [(place.repo.id(), last)]);
            numbered(&place, last.0 + 1..=last.0 + 10);
        }
        // What lies before it can be had, and nothing within it.
        check_numbered(&place, from - 1, "before");
        for n in [from, 350, 600] {
            let error = place.restored(At::Seq(Seq(n)), "within").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        }
        place.store.checkpoint(&place.repo).unwrap();
        let last = place.store.stats().unwrap().last_seq;
        numbered(&place, last.0 + 1..=last.0 + 10);
        assert_eq!(place.store.archive(&place.repo).unwrap(), Seq(last.0 + 10));
        check_numbered(&place, last.0 + 10, "after");
        check_numbered(&place, from - 1, "still");
        assert!(place.repo.verify_all().unwrap().is_whole());
    }
}

/// Nothing says yet where the log goes on, so nothing is a gap, and all before it is archived.
#[test]
fn where_the_last_frame_is_damaged_all_before_it_is_archived() {
    for harm in [Harm::Payload, Harm::Header] {
        let place = Place::new();
        numbered(&place, 1..=50);
        place.store.checkpoint(&place.repo).unwrap();
        place.store.archive(&place.repo).unwrap();
        numbered(&place, 51..=400);
        place.store.flush().unwrap();
        damage_frame(&place, 400, harm);
        let from = if harm == Harm::Payload { 400 } else { 399 };
        for _ in 0..2 {
            let error = place.store.archive(&place.repo).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corruption, "{harm:?}: {error}");
            assert_eq!(holds(&place), [(place.repo.id(), Seq(from - 1))]);
        }
        check_numbered(&place, from - 1, "before");
        numbered(&place, 401..=420);
        let error = place.store.archive(&place.repo).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Gap, "{harm:?}: {error}");
        assert!(error.to_string().contains(&format!("sequences {from} to 400,")), "{error}");
        place.store.checkpoint(&place.repo).unwrap();
        assert_eq!(place.store.archive(&place.repo).unwrap(), Seq(420));
        check_numbered(&place, 420, "after");
    }
}

/// It is what the archive ends with, and the store compares that once after each opening.
#[test]
fn archiving_goes_on_after_an_opening_where_what_was_archived_is_damaged_in_the_journal() {
    for harm in [Harm::Payload, Harm::Header] {
        let mut place = Place::new();
        numbered(&place, 1..=50);
        place.store.checkpoint(&place.repo).unwrap();
        numbered(&place, 51..=350);
        place.store.archive(&place.repo).unwrap();
        numbered(&place, 351..=700);
        place.store.flush().unwrap();
        let (number, segments) = damage_frame(&place, 350, harm);
        assert!(number + 1 < segments, "segment {number} of {segments}");
        reopen(&mut place);
        assert_eq!(place.store.archive(&place.repo).unwrap(), Seq(700), "{harm:?}");
        check_numbered(&place, 700, "after");
        check_numbered(&place, 350, "before");
        assert!(place.repo.verify_all().unwrap().is_whole());
    }
}

/// What lies behind the damage tells as well whose history it is.
#[test]
fn what_can_be_read_of_a_damaged_journal_is_compared_with_the_archive_all_the_same() {
    let mut place = Place::new();
    numbered(&place, 1..=50);
    place.store.checkpoint(&place.repo).unwrap();
    place.store.close().unwrap();
    copy(&place.path("live"), &place.path("other"));
    place.store = options().open(place.path("live")).unwrap();
    numbered(&place, 51..=350);
    place.store.archive(&place.repo).unwrap();
    place.store.close().unwrap();
    place.store = options().open(place.path("other")).unwrap();
    // Another history, of which what is compared first is damaged.
    (51..=400u32).for_each(|n| _ = place.store.insert(n.to_be_bytes(), value(u64::from(n))).unwrap());
    place.store.sync().unwrap();
    let value = value(51);
    let segment = std::fs::read_dir(place.path("other/journal")).unwrap().map(|entry| entry.unwrap().path());
    let harmed =
        segment.filter(|path| path.extension().is_some_and(|extension| extension == "seg")).any(|path| {
            let mut bytes = std::fs::read(&path).unwrap();
            let Some(at) = bytes.windows(value.len()).position(|window| window == value) else {
                return false;
            };
            bytes[at + 9] ^= 1;
            std::fs::write(path, bytes).unwrap();
            true
        });
    assert!(harmed);
    for _ in 0..2 {
        let error = place.store.archive(&place.repo).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    }
    assert_eq!(place.store.archives().unwrap(), []);
}

/// What cannot be read for the time being may be read later.
#[test]
fn a_journal_that_cannot_be_read_for_the_time_being_leaves_no_gap() {
    let place = Place::new();
    numbered(&place, 1..=50);
    place.store.checkpoint(&place.repo).unwrap();
    place.store.archive(&place.repo).unwrap();
    numbered(&place, 51..=700);
    place.store.flush().unwrap();
    let segments = segments(&place);
    let (segment, away) = (&segments[segments.len() / 2], place.path("away"));
    std::fs::rename(segment, &away).unwrap();
    let error = place.store.archive(&place.repo).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    std::fs::rename(&away, segment).unwrap();
    assert_eq!(place.store.archive(&place.repo).unwrap(), Seq(700));
    check_numbered(&place, 700, "after");
}

/// Under the newest piece lies a bad sector; everything else is read.
#[test]
fn archiving_and_checkpoints_go_on_beside_a_newest_piece_that_cannot_be_read() {
    for reopened in [false, true] {
        let (mut place, storage) = Hooked::place();
        place.write(5);
        place.store.checkpoint(&place.repo).unwrap();
        place.moment();
        let newest = damaged(&mut place);
        place.moment();
        let (_, within, _) = place.moments.pop().unwrap();
        let newest = format!("/{}", newest.file_name().unwrap().to_str().unwrap());
        if reopened {
            place.store.close().unwrap();
            place.store = options().open(place.path("live")).unwrap();
        }
        place.write(10);
        // Where nothing is read it is not known for damaged.
        storage.on(|call| match call {
            Call::Read(name) if name != "REPOSITORY" => Err(out_of_order()),
            _ => Ok(()),
        });
        assert_eq!(place.store.archive(&place.repo).unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(place.store.checkpoint(&place.repo).unwrap_err().kind(), ErrorKind::Io);
        storage.on(move |call| match call {
            Call::Read(name) if name.ends_with(&newest) => Err(out_of_order()),
            _ => Ok(()),
        });
        for _ in 0..2 {
            place.write(10);
            let error = place.store.archive(&place.repo).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Gap, "reopened {reopened}: {error}");
            assert!(error.to_string().contains("sequences 66 to 125"), "{error}");
        }
        place.store.checkpoint(&place.repo).unwrap();
        place.write(10);
        let upto = place.store.archive(&place.repo).unwrap();
        place.moment();
        assert_eq!(upto, place.moments[1].0);
        place.check_moments("");
        // So do restores to times that the piece says nothing of.
        for (number, (_, time, expected)) in place.moments.iter().enumerate() {
            let restored = place.restored(At::Time(*time), &format!("time-{number}")).unwrap();
            assert_eq!(&content(&restored), expected, "moment {number}, reopened {reopened}");
        }
        let error = place.restored(At::Time(within), "within").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    }
}

/// The one that was seen behind a gap last; another lies there as well.
#[test]
fn archiving_goes_on_while_the_checkpoint_behind_a_gap_cannot_be_read_and_another_can() {
    let (mut place, storage) = Hooked::place();
    damaged(&mut place);
    place.write(10);
    assert_eq!(place.store.archive(&place.repo).unwrap_err().kind(), ErrorKind::Gap);
    let behind = place.store.checkpoint(&place.repo).unwrap();
    place.store.archive(&place.repo).unwrap();
    place.store.checkpoint(&place.repo).unwrap();
    let manifest = format!("checkpoints/{:016x}", behind.0);
    storage.on(move |call| match call {
        Call::Read(name) if name == manifest => Err(out_of_order()),
        _ => Ok(()),
    });
    assert_eq!(place.repo.list().unwrap().len(), 2);
    place.write(10);
    place.moment();
    assert_eq!(place.store.archive(&place.repo).unwrap(), place.moments[0].0);
    place.check_moments("");
}

/// A checkpoint needs nothing of the piece behind it.
#[test]
fn a_checkpoint_is_restored_by_its_moment_beside_a_piece_behind_it_that_cannot_be_read() {
    let (mut place, storage) = Hooked::place();
    place.write(60);
    place.store.checkpoint(&place.repo).unwrap();
    place.moment();
    place.store.archive(&place.repo).unwrap();
    place.write(60);
    place.store.archive(&place.repo).unwrap();
    let newest = walk(place.path("backup/archive")).pop().unwrap();
    let newest = format!("/{}", newest.file_name().unwrap().to_str().unwrap());
    storage.on(move |call| match call {
        Call::Read(name) if name.ends_with(&newest) => Err(out_of_order()),
        _ => Ok(()),
    });
    place.check_moments("");
    storage.on(|call| match call {
        Call::Read(name) if name.starts_with("archive/") || name.starts_with("objects/") => {
            Err(out_of_order())
        }
        _ => Ok(()),
    });
    assert_eq!(place.restored(At::Seq(Seq(60)), "away").unwrap_err().kind(), ErrorKind::Io);
}
