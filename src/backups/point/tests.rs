//! Times that archive and checkpoints know too little of.

use super::point;
use crate::At;
use crate::backup::checkpoint::{Body, CheckpointId, KIND, KeyspaceLayers, Source};
use crate::backup::piece::{Head, Listed, Mark, Named, Piece, put};
use crate::backup::progress::Watch;
use crate::backup::storage::{Object, Storage};
use crate::backup::{BackupRepository, Loss, Retention};
use crate::disk::SimDisk;
use crate::envelope;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{KeyspaceId, Seq};
use crate::ring::Partitioner;
use crate::verbs::checkpoint::archive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

const STORE: u128 = 7;
/// In seconds since 1970, some time in 2026.
const MIDNIGHT: u64 = 1_772_323_200;
const HOUR: u64 = 3600;

/// A repository of what was taken and archived when: times are seconds since midnight.
struct Told {
    repo: BackupRepository,
    midnight: u64,
}

impl Told {
    fn new() -> Told {
        Told::since(MIDNIGHT)
    }

    fn since(midnight: u64) -> Told {
        let repo = BackupRepository::on_disk(Arc::new(SimDisk::new(1)), Path::new("/backup")).unwrap();
        Told { repo, midnight }
    }

    fn millis(&self, time: u64) -> u64 {
        (self.midnight + time) * 1000
    }

    /// A checkpoint of nothing, by a clock that says so many milliseconds since 1970.
    fn checkpoint_at(&self, number: u64, taken: u64, seq: u64) {
        let keyspace = KeyspaceLayers { id: KeyspaceId(0), name: "default".to_owned(), layers: Vec::new() };
        let partitioner = Partitioner::default();
        let body = Body {
            repository: self.repo.id,
            id: CheckpointId(number),
            store: STORE,
            seq: Seq(seq),
            taken,
            label: String::new(),
            next_keyspace: 1,
            keyspaces: vec![keyspace],
            source: Source {
                shards: 1,
                replication_factor: 1,
                virtual_nodes: 8,
                partitioner,
                page_bytes: 4096,
            },
            written: 0,
        };
        self.repo.storage.write(&body.id.name(), &envelope::encode(KIND, &body).unwrap()).unwrap();
    }

    fn checkpoint(&self, number: u64, time: u64, seq: u64) {
        self.checkpoint_at(number, self.millis(time), seq);
    }

    fn piece_at(&self, (first, last): (u64, u64), marks: &[(u64, u64)]) {
        let mut commits = Vec::new();
        (first..=last).for_each(|_| put(&mut commits, b""));
        let head = Head {
            store: STORE,
            first: Seq(first),
            last: Seq(last),
            marks: marks.iter().map(|(time, seq)| Mark { time: *time, seq: Seq(*seq) }).collect(),
            keyspaces: vec![Named { id: KeyspaceId(0), name: "default".to_owned(), dropped: None }],
            next_keyspace: 1,
        };
        let name = Listed::new(head.first, head.last).name(STORE);
        self.repo.storage.write(&name, &Piece::encode(&head, &commits).unwrap()).unwrap();
    }

    fn piece(&self, ends: (u64, u64), marks: &[(u64, u64)]) {
        let marks: Vec<_> = marks.iter().map(|(time, seq)| (self.millis(*time), *seq)).collect();
        self.piece_at(ends, &marks);
    }

    /// What a restore of the newest checkpoint to a time comes to.
    fn at(&self, time: u64) -> Result<u64> {
        let newest = *self.repo.ids()?.last().unwrap();
        let time = UNIX_EPOCH + Duration::from_secs(self.midnight + time);
        let point = point(&self.repo, self.repo.load(newest)?, At::Time(time), None, &Watch::default())?;
        Ok(point.until.unwrap_or(point.body.seq).0)
    }

    /// The restore is refused, and these are what it names.
    fn refused(&self, time: u64, named: &[&str]) {
        let error = self.at(time).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(named.iter().all(|name| error.to_string().contains(name)), "{error}");
        assert!(error.advice().is_some_and(|advice| advice.contains("At::Seq")), "{error}");
    }
}

#[test]
fn a_time_between_two_that_the_archive_knows_hours_apart_is_refused() {
    let told = Told::new();
    told.checkpoint(1, HOUR, 100);
    told.piece((90, 500), &[(2 * HOUR, 100), (13 * HOUR, 500)]);
    // The archiver came to nothing until its program had been started again, and what it had noted went with that.
    told.piece((501, 900), &[(19 * HOUR, 900)]);
    told.refused(18 * HOUR - 60, &["sequence 500", "2026-03-01T13:00:00", "900", "2026-03-01T19:00:00"]);
    for (time, seq) in [(13 * HOUR, 500), (13 * HOUR + 5, 500), (19 * HOUR, 900), (23 * HOUR, 900)] {
        assert_eq!(told.at(time).unwrap(), seq, "{time}");
    }
}

#[test]
fn a_time_between_the_end_of_an_archive_and_a_checkpoint_hours_later_is_refused() {
    let told = Told::new();
    told.piece((1, 500), &[(HOUR, 100), (10 * HOUR, 500)]);
    told.checkpoint(1, HOUR, 100);
    told.checkpoint(2, 18 * HOUR, 900);
    told.refused(14 * HOUR, &["sequence 500", "900"]);
    assert_eq!(told.at(10 * HOUR).unwrap(), 500);
    assert_eq!(told.at(20 * HOUR).unwrap(), 900);
}

/// A prune leaves what the oldest checkpoint goes on with.
#[test]
fn a_time_hours_behind_the_checkpoint_that_an_archive_goes_on_from_is_refused() {
    let told = Told::new();
    told.checkpoint(1, 13 * HOUR, 500);
    told.piece((501, 900), &[(19 * HOUR, 900)]);
    told.refused(18 * HOUR, &["sequence 500", "900"]);
}

#[test]
fn a_time_at_which_a_store_is_known_to_have_rested_is_that_of_the_write_before() {
    let told = Told::new();
    told.checkpoint(1, HOUR, 100);
    told.piece((90, 500), &[(2 * HOUR, 100), (13 * HOUR, 500)]);
    told.piece((501, 900), &[(19 * HOUR - 1, 500), (19 * HOUR, 900)]);
    assert_eq!(told.at(18 * HOUR).unwrap(), 500);
    told.checkpoint(2, 22 * HOUR, 900);
    assert_eq!(told.at(21 * HOUR).unwrap(), 900);
}

/// As of the first pieces of a backlog, whose end alone was noted before what they were written with was.
#[test]
fn a_time_behind_all_that_is_known_is_refused_where_more_is_archived_than_anybody_noted() {
    for marks in [&[][..], &[(10 * HOUR + 1, 600)]] {
        let told = Told::new();
        told.checkpoint(1, HOUR, 100);
        told.piece((90, 500), &[(2 * HOUR, 100), (10 * HOUR, 500)]);
        assert_eq!(told.at(18 * HOUR).unwrap(), 500);
        told.piece((501, 900), marks);
        let known = if marks.is_empty() { "sequence 500 " } else { "sequence 600 " };
        told.refused(18 * HOUR, &[known, "900"]);
        let advice = told.at(18 * HOUR).unwrap_err().advice().unwrap_or_default().to_owned();
        assert!(advice.contains("900"), "{advice}");
        assert_eq!(told.at(10 * HOUR).unwrap(), 500);
        told.piece((901, 950), &[(11 * HOUR, 950)]);
        assert_eq!(told.at(18 * HOUR).unwrap(), 950);
    }
}

/// The process that had noted the time ended before it had archived all that was there by then, and the next one archived the rest.
#[test]
fn a_time_by_which_more_was_there_than_its_piece_has_is_refused_where_others_went_on_with_the_archive() {
    for (rest, pieces) in [(true, 1), (false, 1), (true, 2)] {
        let told = Told::new();
        told.checkpoint(1, HOUR, 100);
        told.piece((90, 500), &[(2 * HOUR, 100), (13 * HOUR, 2_000)]);
        if pieces > 1 {
            told.piece((501, 900), &[(13 * HOUR, 2_000)]);
        }
        let (first, upto) = if pieces > 1 { (901, 900) } else { (501, 500) };
        // As far as it goes that is all that there is, as where the machine is lost.
        for time in [13 * HOUR, 13 * HOUR + 5, 23 * HOUR] {
            assert_eq!(told.at(time).unwrap(), upto, "{time}");
        }
        told.refused(12 * HOUR, &["sequence 100", "sequence 2000"]);
        let last = if rest { 2_000 } else { 3_000 };
        told.piece((first, last), &[(19 * HOUR, last)]);
        for time in [13 * HOUR, 13 * HOUR + 5, 18 * HOUR] {
            told.refused(time, &["sequence 2000", "2026-03-01T13:00:00"]);
        }
        assert_eq!(told.at(19 * HOUR).unwrap(), last);
        assert_eq!(told.at(2 * HOUR + 5).unwrap(), 100);
        told.refused(12 * HOUR, &["sequence 100", "sequence 2000"]);
    }
}

/// What was noted a moment before is near enough, and what its piece has beyond that was there as well.
#[test]
fn a_time_a_moment_behind_what_is_known_for_sure_is_found_however_the_piece_ended() {
    let told = Told::new();
    told.checkpoint(1, HOUR, 100);
    told.piece((90, 500), &[(2 * HOUR, 100), (2 * HOUR + 1, 400), (2 * HOUR + 2, 2_000)]);
    told.piece((501, 2_100), &[(19 * HOUR, 2_100)]);
    assert_eq!(told.at(2 * HOUR + 1).unwrap(), 400);
    assert_eq!(told.at(2 * HOUR + 2).unwrap(), 500);
    assert_eq!(told.at(2 * HOUR + 61).unwrap(), 500);
    told.refused(2 * HOUR + 62, &["sequence 2000"]);
}

/// It was taken meanwhile, and the pieces that tell of the time after it seem to end before it.
#[test]
fn a_time_of_a_checkpoint_in_the_midst_of_a_backlog_is_that_checkpoints() {
    let told = Told::new();
    told.checkpoint(1, HOUR, 100);
    told.checkpoint(2, 5 * HOUR, 700);
    told.piece((90, 500), &[(2 * HOUR, 100), (13 * HOUR, 2_000)]);
    assert_eq!(told.at(5 * HOUR + 5).unwrap(), 700);
    // More than the archive has of it, which is of no use then.
    assert_eq!(told.at(14 * HOUR).unwrap(), 700);
    told.piece((501, 2_000), &[(13 * HOUR, 2_000)]);
    assert_eq!(told.at(5 * HOUR + 5).unwrap(), 700);
    assert_eq!(told.at(14 * HOUR).unwrap(), 2_000);
    told.refused(6 * HOUR, &["sequence 700", "sequence 2000"]);
}

/// Nothing was archived then, so a checkpoint is all that there is.
#[test]
fn a_time_hours_before_an_archive_begins_is_that_of_the_checkpoint_before() {
    let told = Told::new();
    told.checkpoint(1, HOUR, 100);
    told.checkpoint(2, 10 * HOUR, 500);
    assert_eq!(told.at(9 * HOUR).unwrap(), 100);
    told.piece((700, 900), &[(19 * HOUR, 900)]);
    assert_eq!(told.at(9 * HOUR).unwrap(), 100);
    assert_eq!(told.at(18 * HOUR).unwrap(), 500);
}

#[test]
fn a_time_that_the_clock_has_shown_before_it_went_back_is_refused() {
    for midnight in [0, MIDNIGHT] {
        let told = Told::since(midnight);
        told.checkpoint(1, 20, 10);
        told.piece((11, 30), &[(100, 20), (200, 30)]);
        told.piece((31, 40), &[(50, 40)]);
        told.refused(150, &["sequence 30", "00:03:20", "sequence 40", "00:00:50", "went back"]);
        assert_eq!(told.at(30).unwrap(), 10);
        // Of the clock alone, neither is later.
        told.refused(60, &["sequence 40"]);
        told.refused(300, &["sequence 30", "sequence 40"]);
        told.piece((41, 50), &[(201, 50)]);
        assert_eq!(told.at(300).unwrap(), 50);
    }
}

/// It is not forgotten where nothing was written from before it went back to after.
#[test]
fn a_time_that_the_clock_has_shown_before_it_went_back_in_a_rest_is_refused() {
    let told = Told::new();
    told.checkpoint(1, 20, 4);
    let mut marks = Vec::new();
    for (time, seq) in [(100, 5), (200, 5), (50, 5), (60, 6), (120, 7)] {
        archive::note(&mut marks, Mark { time: told.millis(time), seq: Seq(seq) });
    }
    let marks: Vec<(u64, u64)> = marks.iter().map(|mark| (mark.time, mark.seq.0)).collect();
    told.piece_at((5, 7), &marks);
    told.refused(130, &["sequence 5", "00:03:20", "sequence 7", "went back"]);
    told.refused(55, &["sequence 5", "went back"]);
    assert_eq!(told.at(30).unwrap(), 4);
}

#[test]
fn a_time_before_a_checkpoint_that_the_clock_shows_too_early_is_refused() {
    let told = Told::new();
    told.checkpoint(1, HOUR, 100);
    told.checkpoint(2, 5 * HOUR, 200);
    told.checkpoint(3, 2 * HOUR, 300);
    assert_eq!(told.at(HOUR + 60).unwrap(), 100);
    told.refused(4 * HOUR, &["sequence 200", "sequence 300", "went back"]);
    told.refused(6 * HOUR, &["sequence 200", "sequence 300", "went back"]);
    told.checkpoint(4, 5 * HOUR + 1, 400);
    assert_eq!(told.at(6 * HOUR).unwrap(), 400);
}

#[test]
fn a_clock_that_is_put_right_by_a_second_makes_no_time_unknown() {
    let told = Told::new();
    told.checkpoint_at(1, told.millis(1), 10);
    let marks = [(2_000, 20), (3_000, 30), (1_900, 40), (4_000, 50)];
    let marks = marks.map(|(time, seq)| (told.millis(0) + time, seq));
    told.piece_at((11, 50), &marks);
    // Not what was written later than at any moment at which the clock showed it.
    assert_eq!([1, 2, 3, 4, 5].map(|time| told.at(time).unwrap()), [10, 20, 40, 50, 50]);
}

/// A machine without a clock that goes on while it is off, until it has asked another.
#[test]
fn times_in_1970_say_nothing_of_those_in_between_and_spoil_none_before() {
    let told = Told::new();
    told.checkpoint(1, HOUR, 100);
    told.piece((90, 500), &[(2 * HOUR, 100), (2 * HOUR + 1, 300), (3 * HOUR, 300), (3 * HOUR + 1, 500)]);
    told.piece_at((501, 700), &[(70_000, 500), (80_000, 600), (told.millis(9 * HOUR), 700)]);
    assert_eq!(told.at(2 * HOUR + 30).unwrap(), 300);
    assert_eq!(told.at(3 * HOUR + 30).unwrap(), 500);
    told.refused(8 * HOUR, &["sequence 500", "sequence 600", "1970"]);
    assert_eq!(told.at(9 * HOUR).unwrap(), 700);
    told.checkpoint_at(2, 60_000, 800);
    assert_eq!(told.at(9 * HOUR + 30).unwrap(), 700);
    told.refused(10 * HOUR, &["sequence 700", "sequence 800", "1970"]);
}

/// Nor does it say that the clock went back.
#[test]
fn a_time_in_1970_in_the_middle_of_a_rest_leaves_the_times_before_as_they_were() {
    let told = Told::new();
    told.checkpoint(1, HOUR, 100);
    told.piece_at((90, 200), &[(told.millis(3 * HOUR), 100), (70_000, 100), (told.millis(4 * HOUR), 200)]);
    assert_eq!(told.at(2 * HOUR).unwrap(), 100);
}

/// Where nothing was archived, and a checkpoint by a wrong clock may be the one that is asked for.
#[test]
fn a_checkpoint_whose_time_is_unknown_is_not_passed_over_for_one_that_is_older() {
    let told = Told::new();
    told.checkpoint_at(1, 60_000, 100);
    told.refused(HOUR, &["sequence 100", "1970"]);
    told.checkpoint(2, 2 * HOUR, 200);
    told.refused(HOUR, &["sequence 100", "1970"]);
    told.checkpoint_at(3, 60_000, 300);
    told.refused(9 * HOUR, &["sequence 200", "sequence 300", "1970"]);
    told.checkpoint(4, 10 * HOUR, 400);
    told.refused(9 * HOUR, &["sequence 200", "sequence 300", "1970"]);
    assert_eq!(told.at(11 * HOUR).unwrap(), 400);
}

/// Old pieces are many, and each is read whole.
#[test]
fn pieces_behind_a_checkpoint_of_days_before_are_not_read_for_a_time() {
    let told = Told::new();
    let days = |days: u64| days * 24 * HOUR;
    told.checkpoint(1, 0, 100);
    told.checkpoint(2, days(1), 200);
    told.piece((201, 300), &[(days(3), 300)]);
    // The clock had gone ahead, and nobody who asks for a time of now is to be bothered for ever.
    told.piece((101, 200), &[(days(900), 150), (days(1), 200)]);
    assert_eq!(told.at(days(3)).unwrap(), 300);
    told.refused(days(1) + 5, &["went back"]);
}

/// An older copy of the store was put back after the second one, and went on; the third is of that.
fn put_back() -> Told {
    let told = Told::new();
    told.checkpoint(1, HOUR, 100);
    told.checkpoint(2, 2 * HOUR, 200);
    told.checkpoint(3, 5 * HOUR, 150);
    told
}

#[test]
fn a_checkpoint_of_what_was_given_up_for_an_older_copy_is_in_no_later_moment() {
    let told = put_back();
    assert_eq!(told.at(6 * HOUR).unwrap(), 150);
    assert_eq!(told.at(HOUR + 60).unwrap(), 100);
    // What came after is not laid over it, either.
    told.piece((101, 300), &[(8 * HOUR, 300)]);
    let at = |number, seq| {
        let named = told.repo.load(CheckpointId(number))?;
        let point = point(&told.repo, named, At::Seq(Seq(seq)), None, &Watch::default())?;
        Ok::<_, crate::Error>((point.body.id.0, point.until))
    };
    assert_eq!(at(3, 300).unwrap(), (3, Some(Seq(300))));
    assert_eq!(at(3, 200).unwrap(), (3, Some(Seq(200))));
    assert_eq!(at(1, 300).unwrap(), (1, Some(Seq(300))));
    for seq in [200, 300] {
        let error = at(2, seq).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
        assert!(error.advice().is_some_and(|advice| advice.contains("itself")), "{error}");
    }
}

/// It is of that time, and of no moment that anything else leads to.
#[test]
fn a_time_at_which_a_checkpoint_was_taken_that_was_given_up_names_that_checkpoint() {
    let told = put_back();
    for time in [2 * HOUR, 4 * HOUR] {
        let error = told.at(time).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
        assert!(error.to_string().contains("checkpoint 2"), "{error}");
    }
}

/// No restore to a moment begins with it.
#[test]
fn a_checkpoint_of_what_was_given_up_closes_no_gap_for_a_verification() {
    let told = put_back();
    told.piece((101, 160), &[(6 * HOUR, 160)]);
    told.piece((181, 220), &[(8 * HOUR, 220)]);
    let found = told.repo.verify_all().unwrap();
    let gaps: Vec<_> = found.damage.iter().map(|damage| (&damage.loss, damage.error.kind())).collect();
    let missing = Loss::Archived { from: Seq(161), to: Some(Seq(180)) };
    assert_eq!(gaps, [(&missing, ErrorKind::Gap)]);
    assert_eq!((found.checkpoints, found.damage[0].checkpoint), (3, CheckpointId(3)));
    told.checkpoint(4, 9 * HOUR, 200);
    assert!(told.repo.verify_all().unwrap().is_whole());
}

impl Told {
    fn numbers(&self) -> Vec<u64> {
        self.repo.ids().unwrap().iter().map(|id| id.0).collect()
    }

    /// This checkpoint is not deleted for want of these to have gone before.
    fn keeps(&self, number: u64, shown: &[&str]) {
        let before = self.numbers();
        let error = self.repo.delete(CheckpointId(number)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        let advice = error.advice().unwrap_or_default();
        assert!(shown.iter().all(|shown| advice.contains(shown)), "{error}: {advice}");
        assert_eq!(self.numbers(), before);
    }
}

/// Without it the other would count again, and what came later would be laid over it.
#[test]
fn a_checkpoint_that_shows_another_to_be_of_what_was_given_up_is_deleted_after_that_one_alone() {
    let told = put_back();
    told.keeps(3, &["checkpoint 2"]);
    told.checkpoint(4, 6 * HOUR, 190);
    told.checkpoint(5, 7 * HOUR, 300);
    // Either of the two shows it, and the first one, which has less, goes with all that lies before.
    for number in [1, 3] {
        assert_eq!(told.repo.delete(CheckpointId(number)).unwrap().checkpoints, [CheckpointId(number)]);
    }
    told.keeps(4, &["checkpoint 2"]);
    assert_eq!(told.at(6 * HOUR).unwrap(), 190);
    for number in [2, 4, 5] {
        told.repo.delete(CheckpointId(number)).unwrap();
    }
    assert!(told.numbers().is_empty());
}

/// What cannot be read shows nothing, and is what is to be got rid of.
#[test]
fn a_checkpoint_that_cannot_be_read_is_deleted_whatever_it_showed() {
    let mut told = put_back();
    told.lose(3, ErrorKind::Corruption);
    told.repo.delete(CheckpointId(3)).unwrap();
    assert_eq!(told.numbers(), [1, 2]);
}

#[test]
fn a_prune_that_keeps_a_checkpoint_of_what_was_given_up_keeps_the_one_that_shows_that_it_is() {
    let told = put_back();
    told.checkpoint(4, 5 * HOUR + 60, 300);
    let pruned =
        |rule| told.repo.prune(rule).unwrap().checkpoints.iter().map(|id| id.0).collect::<Vec<u64>>();
    assert_eq!(pruned(Retention::keep_last(0).hourly(2)), [1]);
    assert_eq!(told.numbers(), [2, 3, 4]);
    let error = told.at(4 * HOUR).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    // With the last that it shows it goes.
    assert_eq!(pruned(Retention::keep_last(0).hourly(1)), [2, 3]);
}

/// Gives out all but what is named so.
#[derive(Debug)]
struct Holding {
    inner: Arc<dyn Storage>,
    back: String,
}

impl Storage for Holding {
    fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        self.inner.list(prefix)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match name == self.back {
            true => Err(Error::new(ErrorKind::Io, "a bad sector")),
            false => self.inner.read(name),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.inner.write(name, bytes)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name)
    }

    fn settle(&self) -> Result<()> {
        self.inner.settle()
    }

    fn lock(&self) -> Result<Box<dyn Send + Sync>> {
        self.inner.lock()
    }

    fn describe(&self, name: &str) -> PathBuf {
        self.inner.describe(name)
    }
}

impl Told {
    /// The manifest of this checkpoint cannot be read any more.
    fn lose(&mut self, number: u64, kind: ErrorKind) {
        let name = CheckpointId(number).name();
        match kind {
            ErrorKind::Io => {
                let inner = self.repo.storage.clone();
                self.repo.storage = Arc::new(Holding { inner, back: name });
            }
            _ => self.repo.storage.write(&name, b"rubbish").unwrap(),
        }
    }

    /// The restore is refused for want of that checkpoint.
    fn wants(&self, time: u64, number: u64, kind: ErrorKind) {
        let error = self.at(time).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(&format!("checkpoint {number} ")), "{error}");
        assert!(error.advice().is_some_and(|advice| advice.contains("by its number")), "{error}");
    }
}

/// Where nothing was archived, it may be the one that is asked for.
#[test]
fn a_checkpoint_that_cannot_be_read_is_not_passed_over_for_one_that_is_older() {
    for kind in [ErrorKind::Io, ErrorKind::Corruption] {
        let mut told = Told::new();
        for number in 1..=4 {
            told.checkpoint(number, number * HOUR, number * 100);
        }
        assert_eq!(told.at(2 * HOUR + 60).unwrap(), 200);
        told.lose(2, kind);
        told.wants(2 * HOUR + 60, 2, kind);
        for (time, seq) in [(HOUR + 60, 100), (3 * HOUR, 300), (3 * HOUR + 90, 300), (9 * HOUR, 400)] {
            assert_eq!(told.at(time).unwrap(), seq, "{time}");
        }
        let lost = Told { repo: told.repo.clone(), midnight: told.midnight };
        lost.repo.storage.delete(&CheckpointId(1).name()).unwrap();
        lost.wants(2 * HOUR + 60, 2, kind);
    }
}

/// It is not known for the last one, either, where it has the highest number.
#[test]
fn no_older_checkpoint_is_taken_for_the_newest_where_that_cannot_be_read() {
    let at = |told: &Told, time| {
        let time = UNIX_EPOCH + Duration::from_secs(told.midnight + time);
        let point =
            point(&told.repo, told.repo.load(CheckpointId(1))?, At::Time(time), None, &Watch::default())?;
        Ok::<_, Error>(point.until.unwrap_or(point.body.seq).0)
    };
    let mut told = Told::new();
    told.checkpoint(1, HOUR, 100);
    told.checkpoint(2, 2 * HOUR, 200);
    told.lose(2, ErrorKind::Corruption);
    assert_eq!(at(&told, HOUR + 5).unwrap(), 100);
    let error = at(&told, 3 * HOUR).unwrap_err();
    assert!(error.kind() == ErrorKind::Corruption && error.to_string().contains("checkpoint 2 "), "{error}");
    // What was archived tells what it would have told.
    told.piece((50, 300), &[(HOUR, 100), (HOUR + 1, 150), (4 * HOUR - 1, 150), (4 * HOUR, 300)]);
    assert_eq!(at(&told, 3 * HOUR).unwrap(), 150);
    assert_eq!(at(&told, 5 * HOUR).unwrap(), 300);
}
