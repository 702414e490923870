//! What an archive knows of times.

use super::{BYTES, Due, MARK, PIECE};
use crate::backup::BackupRepository;
use crate::backup::piece::Mark;
use crate::backups::At;
use crate::error::{Error, ErrorKind};
use crate::ids::Seq;
use crate::store::Store;
use crate::verbs::checkpoint::archive;
use std::time::{Instant, SystemTime};

fn mark(time: u64, seq: u64) -> Mark {
    Mark { time, seq: Seq(seq) }
}

#[test]
fn of_a_rest_the_first_and_the_last_moment_are_noted() {
    let mut marks = Vec::new();
    for time in 10..20 {
        archive::note(&mut marks, mark(time, 5));
    }
    archive::note(&mut marks, mark(20, 6));
    archive::note(&mut marks, mark(21, 7));
    assert_eq!(marks, [mark(10, 5), mark(19, 5), mark(20, 6), mark(21, 7)]);
}

/// Else the times in between would pass for known, which the clock has shown twice.
#[test]
fn that_the_clock_went_back_while_a_store_rested_is_noted() {
    let of_rest = |times: &[u64]| {
        let mut marks = vec![mark(1, 4)];
        times.iter().for_each(|time| archive::note(&mut marks, mark(*time, 5)));
        archive::note(&mut marks, mark(60, 6));
        marks[1..marks.len() - 1].iter().map(|mark| mark.time).collect::<Vec<u64>>()
    };
    assert_eq!(of_rest(&[100, 200, 50]), [100, 200, 50]);
    assert_eq!(of_rest(&[100, 150, 200, 50, 51, 52]), [100, 200, 50, 52]);
    assert_eq!(of_rest(&[100, 200, 50, 150, 250, 240, 260]), [100, 50, 260]);
    assert_eq!(of_rest(&[100, 90, 100, 90, 100]), [100, 90, 100]);
}

/// An archiver looks after the archive once a minute, and finds nothing to be archived.
#[test]
fn that_the_clock_went_back_while_a_store_rested_is_archived_with_the_next_write() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("live")).unwrap();
    let repo = BackupRepository::open(dir.path().join("backup")).unwrap();
    let state = &store.handle.state;
    let marks = archive::marks_of(state, repo.id());
    store.insert("one", "write").unwrap();
    archive::archive(state, &repo).unwrap();
    let now = archive::mark(state);
    let (ahead, behind) = (mark(now.time + 3_600_000, 1), mark(now.time - 3_600_000, 1));
    for noted in [now, ahead, behind, now] {
        archive::note(&mut marks.lock(), noted);
        archive::archive(state, &repo).unwrap();
    }
    store.insert("another", "write").unwrap();
    archive::archive(state, &repo).unwrap();
    let id = state.manifest.lock().store;
    let piece = repo.piece(id, repo.chain(id).unwrap().pieces.last().unwrap()).unwrap();
    let told = piece.head.marks;
    assert!(told.contains(&ahead) && told.contains(&behind), "{told:?}");
}

/// What is archived while a store rests is nothing, and that it rested belongs to what comes after.
#[test]
fn that_a_store_rested_until_a_write_is_archived_with_the_write() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("live")).unwrap();
    let repo = BackupRepository::open(dir.path().join("backup")).unwrap();
    let state = &store.handle.state;
    let marks = archive::marks_of(state, repo.id());
    store.insert("one", "write").unwrap();
    archive::archive(state, &repo).unwrap();
    let rested = archive::mark(state);
    for _ in 0..2 {
        archive::note(&mut marks.lock(), rested);
        archive::archive(state, &repo).unwrap();
    }
    store.insert("another", "write").unwrap();
    archive::archive(state, &repo).unwrap();
    let id = state.manifest.lock().store;
    let chain = repo.chain(id).unwrap();
    let piece = repo.piece(id, chain.pieces.last().unwrap()).unwrap();
    let seqs: Vec<u64> = piece.head.marks.iter().map(|mark| mark.seq.0).collect();
    // From when to when.
    assert_eq!((piece.head.first, seqs), (Seq(2), vec![1, 1, 2]));
    assert!(piece.head.marks[0].time >= rested.time);
    assert_eq!(*marks.lock(), []);
}

/// Up to then that it rested is known to the process alone, which may be killed.
#[test]
fn the_first_write_after_a_rest_is_archived_at_once_and_those_after_it_within_a_minute() {
    let start = Instant::now();
    let mut due = Due { looked: start, archived: None, upto: Seq(5), bytes: 100 };
    assert!(!due.is(start + MARK, Seq(5), 100));
    // Of the time before the start nobody knows, either.
    assert!(due.is(start + MARK, Seq(6), 120));
    due.done(start + MARK, Seq(6), 120);
    assert!(!due.is(start + MARK * 2, Seq(7), 140));
    assert!(due.is(start + MARK * 2, Seq(7), 120 + BYTES));
    assert!(due.is(start + MARK + PIECE, Seq(7), 140));
    let mut now = start + MARK + PIECE;
    due.done(now, Seq(7), 140);
    let archived = now;
    // A look once a minute, which archives nothing.
    for _ in 0..3 {
        assert!(!due.is(now + MARK, Seq(7), 140));
        now += PIECE;
        assert!(due.is(now, Seq(7), 140));
        due.done(now, Seq(7), 140);
    }
    assert!(now > archived + PIECE && due.is(now + MARK, Seq(8), 160));
    due.done(now + MARK, Seq(8), 160);
    assert!(!due.is(now + MARK * 2, Seq(9), 180));
}

/// Whoever restores to a time behind the last of them knows no other.
#[test]
fn every_piece_tells_when_the_log_had_come_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("live")).unwrap();
    let repo = BackupRepository::open(dir.path().join("backup")).unwrap();
    let state = &store.handle.state;
    let before = archive::mark(state).time - 3_600_000;
    let marks = archive::marks_of(state, repo.id());
    *marks.lock() = vec![mark(before, 0)];
    // More than a piece has between two of the moments that are noted, and behind the last of them.
    for n in 0..9u8 {
        for part in 0..20u8 {
            store.insert([n, part], vec![n; 64 << 10]).unwrap();
        }
        if n % 4 == 3 {
            archive::note(
                &mut marks.lock(),
                Mark { time: before + 60_000 * u64::from(n), seq: state.memory.last() },
            );
        }
    }
    let (noted, end) = (marks.lock().clone(), state.memory.last());
    archive::archive(state, &repo).unwrap();
    let id = state.manifest.lock().store;
    let chain = repo.chain(id).unwrap();
    let heads: Vec<_> = chain.pieces.iter().map(|listed| repo.piece(id, listed).unwrap().head).collect();
    assert!(heads.len() > 2, "{}", heads.len());
    for head in &heads {
        let (last, before) = head.marks.split_last().unwrap();
        // A moment that was noted, and not one that was made up for the end of the piece: the log may have come to that hours before.
        assert!(last.seq >= head.last && (noted.contains(last) || last.seq == end), "{last:?}");
        assert!(before.iter().all(|mark| mark.seq.next() >= head.first && mark.seq <= head.last));
    }
    assert!(heads.iter().any(|head| head.marks.last().unwrap().seq > head.last));
    let marks: Vec<Mark> = heads.into_iter().flat_map(|head| head.marks).collect();
    // A clock that had gone back would leave the times in between to nobody.
    assert!(marks.is_sorted_by_key(|mark| mark.seq) && marks.is_sorted_by_key(|mark| mark.time), "{marks:?}");
}

/// Else the later piece would tell what had been noted before the earlier one was written, and the clock seem to have gone back.
#[test]
fn what_an_archiver_has_noted_is_in_the_piece_that_is_archived_by_hand_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("live")).unwrap();
    let repo = BackupRepository::open(dir.path().join("backup")).unwrap();
    let state = &store.handle.state;
    let noted = archive::marks_of(state, repo.id());
    let now = archive::mark(state).time;
    *noted.lock() = vec![mark(now - 30_000, 0)];
    for seq in 1..=3u64 {
        store.insert(seq.to_le_bytes(), "a write").unwrap();
        archive::note(&mut noted.lock(), mark(now - 30_000 + 6_000 * seq, seq));
    }
    store.archive(&repo).unwrap();
    store.insert("one", "more").unwrap();
    archive::note(&mut noted.lock(), archive::mark(state));
    archive::archive(state, &repo).unwrap();
    let id = state.manifest.lock().store;
    let pieces = repo.chain(id).unwrap().pieces;
    let told = pieces.iter().flat_map(|listed| repo.piece(id, listed).unwrap().head.marks);
    let told: Vec<Mark> = told.collect();
    assert_eq!(pieces.len(), 2);
    assert!(told.is_sorted_by_key(|mark| mark.time), "{told:?}");
    assert!((0..=3).all(|seq| told.contains(&mark(now - 30_000 + 6_000 * seq, seq))), "{told:?}");
}

/// The process ends when a part of what was there by then has been archived, and another one archives the rest: nobody tells any more when the
/// log had come to all of it, and the time is not that of the part.
#[test]
fn a_time_whose_backlog_was_archived_in_part_is_not_that_of_the_part() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Store::open(dir.path().join("live")).unwrap();
    let store = open();
    let repo = BackupRepository::open(dir.path().join("backup")).unwrap();
    let state = &store.handle.state;
    let hours_ago = archive::mark(state).time - 7_200_000;
    store.insert("one", "write").unwrap();
    let taken = repo.load(store.checkpoint(&repo).unwrap()).unwrap();
    let early = crate::backup::checkpoint::Body { taken: hours_ago, ..taken.clone() };
    let early = crate::envelope::encode(crate::backup::checkpoint::KIND, &early).unwrap();
    repo.storage.write(&taken.id.name(), &early).unwrap();
    *archive::marks_of(state, repo.id()).lock() = vec![mark(hours_ago, 1)];
    (0..10u8).for_each(|n| _ = store.insert([n], vec![n; 1 << 20]).unwrap());
    archive::archive(state, &repo).unwrap();
    // It counts for all that comes before another process has opened the store.
    let by_then = SystemTime::now();
    let id = state.manifest.lock().store;
    let pieces = repo.chain(id).unwrap().pieces;
    assert!(pieces.len() > 2, "{pieces:?}");
    store.close().unwrap();
    pieces[1..].iter().for_each(|listed| repo.storage.delete(&listed.name(id)).unwrap());
    let restored = |name: &str| {
        let restore = repo.restore_latest()?.until(At::Time(by_then));
        Ok::<_, Error>(restore.open(dir.path().join(name))?.stats()?.last_seq)
    };
    // There is no more of it.
    assert_eq!(restored("part").unwrap(), pieces[0].last);
    let store = open();
    store.insert("one", "more").unwrap();
    assert_eq!(store.archive(&repo).unwrap(), Seq(12));
    let error = restored("whole").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("sequence 11 "), "{error}");
    // Whoever was told so gets it.
    let whole = repo.restore_latest().unwrap().until(At::Seq(Seq(11))).open(dir.path().join("by-number"));
    assert_eq!(whole.unwrap().stats().unwrap().last_seq, Seq(11));
}

/// An archiver notes the time every second, and may come to nothing for months.
#[test]
fn what_no_piece_can_tell_any_more_is_not_kept_where_nothing_can_be_archived() {
    let dir = tempfile::tempdir().unwrap();
    let options = crate::Options::new().shards(1).memory_budget(8 << 20).journal_segment_bytes(64 << 10);
    let store = options.open(dir.path().join("live")).unwrap();
    let repo = BackupRepository::open(dir.path().join("backup")).unwrap();
    let state = &store.handle.state;
    let noted = archive::marks_of(state, repo.id());
    let begin = archive::mark(state).time - 10_000_000;
    for seq in 1..=3_000u64 {
        store.insert(seq.to_le_bytes(), [7; 100]).unwrap();
        archive::note(&mut noted.lock(), mark(begin + 1_000 * seq, seq));
    }
    std::fs::rename(dir.path().join("backup"), dir.path().join("away")).unwrap();
    store.archive(&repo).unwrap_err();
    // As long as the journal has the writes they may be archived yet.
    assert!(noted.lock().len() >= 3_000);
    store.flush().unwrap();
    let first = state.journal.first();
    assert!(first > Seq(1_000), "{first}");
    store.archive(&repo).unwrap_err();
    let left = noted.lock().clone();
    let kept = (1..=3_000).filter(|seq| Seq(*seq).next() >= first).map(|seq| mark(begin + 1_000 * seq, seq));
    assert!(kept.eq(left.iter().copied().filter(|mark| mark.time < begin + 3_000_001)), "{left:?}");
    assert!(left.len() < 2_002);
}
