//! Times that archive and checkpoints know too little of.

mod clock;
mod earlier;
mod given_up;
mod unread;

use super::point;
use crate::At;
use crate::backup::checkpoint::{Body, CheckpointId, KIND, KeyspaceLayers, Source};
use crate::backup::lineage::Lineage;
use crate::backup::piece::{Head, Listed, Mark, Named, Piece, as_version, put};
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
            history: Lineage::default(),
        };
        self.repo.storage.write(&body.id.name(), &envelope::encode(KIND, &body).unwrap()).unwrap();
    }

    fn checkpoint(&self, number: u64, time: u64, seq: u64) {
        self.checkpoint_at(number, self.millis(time), seq);
    }

    fn piece_at(&self, ends: (u64, u64), marks: &[(u64, u64)]) {
        self.piece_of(3, ends, marks);
    }

    /// As the releases wrote it that wrote this version.
    fn piece_of(&self, version: u32, (first, last): (u64, u64), marks: &[(u64, u64)]) {
        let mut commits = Vec::new();
        (first..=last).for_each(|_| put(&mut commits, b""));
        let head = Head {
            store: STORE,
            first: Seq(first),
            last: Seq(last),
            marks: marks.iter().map(|(time, seq)| Mark { time: *time, seq: Seq(*seq) }).collect(),
            keyspaces: vec![Named { id: KeyspaceId(0), name: "default".to_owned(), dropped: None }],
            next_keyspace: 1,
            history: Lineage::default(),
        };
        let name = Listed::new(head.first, head.last).name(STORE);
        let bytes = as_version(version, Piece::encode(&head, &commits).unwrap());
        self.repo.storage.write(&name, &bytes).unwrap();
    }

    fn piece(&self, ends: (u64, u64), marks: &[(u64, u64)]) {
        let marks: Vec<_> = marks.iter().map(|(time, seq)| (self.millis(*time), *seq)).collect();
        self.piece_at(ends, &marks);
    }

    /// One of version 2.
    fn old_piece(&self, ends: (u64, u64), marks: &[(u64, u64)]) {
        let marks: Vec<_> = marks.iter().map(|(time, seq)| (self.millis(*time), *seq)).collect();
        self.piece_of(2, ends, &marks);
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
