//! Times that archive and checkpoints know too little of.

use super::point;
use crate::At;
use crate::backup::BackupRepository;
use crate::backup::checkpoint::{Body, CheckpointId, KIND, KeyspaceLayers, Source};
use crate::backup::piece::{Head, Listed, Mark, Named, Piece, put};
use crate::backup::progress::Watch;
use crate::backup::storage::{Object, Storage};
use crate::disk::SimDisk;
use crate::envelope;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{KeyspaceId, Seq};
use crate::ring::Partitioner;
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
