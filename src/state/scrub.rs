//! The scrub that is under way, or was last: how far it has got, what it found, what is asked of it.
//!
//! Invariants: one scrub at a time; it goes on where it was after an opening, from a small file in the store's directory that is
//! only ever ahead of nothing: what lies behind the saved place has been gone through. What a step came to counts for the scrub that
//! it was taken for, and for no other: a step that was under way when that was cancelled counts for none.

use crate::disk::Disk;
use crate::envelope::{self, Kind, hex_bytes, hex128};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::ShardId;
use crate::sync::Instant;
use crate::sync::{Condvar, Mutex};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// The name of the file in the store's directory.
pub const FILE: &str = "SCRUB";

const KIND: Kind = Kind {
    magic: b"ANNULUSX",
    version: 2,
    oldest: 1,
    name: "scrub's progress",
    remedy: "it can be deleted: the scrub begins again",
};

/// Of so many scrubs it is remembered what they found; of one that ended before it is not known.
const REMEMBERED: usize = 64;

/// How often the place is saved.
const SAVE_EVERY: Duration = Duration::from_secs(5);

/// What a scrub has done and found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ScrubReport {
    /// When it began, in seconds since 1970.
    pub started: u64,
    /// When it had gone through everything, in seconds since 1970; none while it has not.
    pub finished: Option<u64>,
    /// Shards that have been verified.
    pub shards_verified: u64,
    /// Damaged pages that were replaced from replicas.
    pub pages_repaired: u64,
    /// Damaged pages for which no replica could be read.
    pub pages_left: u64,
    /// Records that were compared between their replicas.
    pub records_compared: u64,
    /// Records of which replicas differed, and which were made equal.
    pub records_reconciled: u64,
    /// Of these, those of which nothing said which replica was right: the record was kept.
    pub records_unsettled: u64,
}

/// How far a scrub has got.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ScrubProgress {
    /// Whether it is still under way.
    pub running: bool,
    pub paused: bool,
    /// What it is at: verifying a shard, or comparing replicas.
    pub stage: String,
    /// What it has done so far.
    pub report: ScrubReport,
    /// Why it cannot go on, if it cannot.
    pub error: Option<String>,
}

/// What a scrub is at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "stage", deny_unknown_fields)]
pub enum Stage {
    /// Every page of a shard is read and verified; below the position that has been done.
    Verify {
        shard: ShardId,
        #[serde(default, with = "hex_bytes")]
        position: Vec<u8>,
    },
    /// Replicas are compared, record by record.
    Compare {
        #[serde(default, with = "hex_bytes")]
        position: Vec<u8>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    #[serde(with = "hex128")]
    store: u128,
    number: u64,
    stage: Option<Stage>,
    report: ScrubReport,
    /// See [`Inner::disbelieved`]. Since version 2.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    disbelieved: BTreeSet<ShardId>,
}

/// The scrub that is under way, or was last.
#[derive(Debug)]
pub struct Scrubbing {
    /// The turn to write the file, so that the newest is written last; whether the store has been closed, and the file is another's.
    saving: Mutex<bool>,
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug)]
struct Inner {
    store: u128,
    number: u64,
    stage: Option<Stage>,
    report: ScrubReport,
    /// What those have found that came to their end, by their numbers.
    ended: BTreeMap<u64, ScrubReport>,
    /// Shards that were found to hold other pages than they should, and what they lack has not been given to all of them: since
    /// they were counted, their own figures no longer tell.
    disbelieved: BTreeSet<ShardId>,
    paused: bool,
    rate: Option<u64>,
    error: Option<Error>,
    saved: Instant,
    /// The one that was cancelled last, where the file does not say so yet.
    unsaved: Option<u64>,
    closed: bool,
}

impl Scrubbing {
    /// As an earlier opening left it.
    pub fn load(disk: &dyn Disk, dir: &Path, store: u128) -> Scrubbing {
        let path = dir.join(FILE);
        let read = disk.read(&path).ok().flatten();
        let saved: Option<Saved> = read.and_then(|bytes| {
            let decoded = envelope::decode(KIND, &path, &bytes);
            decoded.inspect_err(|error| log::warn!("{error}")).ok()
        });
        let saved = saved.filter(|saved| saved.store == store);
        let none = || Saved {
            store,
            number: 0,
            stage: None,
            report: ScrubReport::default(),
            disbelieved: BTreeSet::new(),
        };
        let saved = saved.unwrap_or_else(none);
        let has_ended = saved.stage.is_none() && saved.report.finished.is_some();
        let inner = Inner {
            store,
            number: saved.number,
            stage: saved.stage,
            ended: has_ended.then(|| (saved.number, saved.report.clone())).into_iter().collect(),
            report: saved.report,
            disbelieved: saved.disbelieved,
            paused: false,
            rate: None,
            error: None,
            saved: Instant::now(),
            unsaved: None,
            closed: false,
        };
        Scrubbing { saving: Mutex::new(false), inner: Mutex::new(inner), changed: Condvar::new() }
    }

    /// Begins one, unless one is under way; returns its number.
    pub fn begin(&self, first: ShardId) -> u64 {
        let mut inner = self.inner.lock();
        if inner.stage.is_none() {
            inner.begin(first);
        }
        inner.number
    }

    /// Begins one in the place of any that is under way: that may be beyond what is to be compared now. On return it is durable that it has begun.
    ///
    /// # Errors
    /// `Io`, `Full`.
    pub fn begin_anew(&self, disk: &dyn Disk, dir: &Path, first: ShardId) -> Result<()> {
        let over = self.saving.lock();
        if *over {
            return Err(closed());
        }
        self.inner.lock().begin(first);
        self.changed.notify_all();
        self.write(disk, dir)
    }

    /// What is to be done next, and the number of the scrub that it is done for; none if there is nothing, or it is paused.
    pub fn stage(&self) -> Option<(u64, Stage)> {
        let inner = self.inner.lock();
        inner.stage.clone().filter(|_| !inner.paused).map(|stage| (inner.number, stage))
    }

    /// The number of the one that is under way.
    pub fn current(&self) -> Option<u64> {
        let inner = self.inner.lock();
        inner.stage.is_some().then_some(inner.number)
    }

    /// A step was taken for the scrub of that number: what was found, and what is next; none at the end. Saves it now and then, and
    /// at the end.
    pub fn advance(
        &self,
        disk: &dyn Disk,
        dir: &Path,
        number: u64,
        stage: Option<Stage>,
        found: impl FnOnce(&mut ScrubReport),
    ) -> Option<ScrubReport> {
        let mut inner = self.inner.lock();
        // Cancelled meanwhile: it is not to come back, and one that has begun since has not been where this was.
        if !inner.is_at(number) {
            return None;
        }
        found(&mut inner.report);
        inner.error = None;
        let ended = stage.is_none();
        if ended {
            inner.report.finished = Some(now());
            inner.disbelieved.clear();
        }
        inner.stage = stage;
        let due = ended || inner.saved.elapsed() >= SAVE_EVERY;
        let report = ended.then(|| inner.report.clone());
        if let Some(report) = &report {
            inner.ended.insert(number, report.clone());
            while inner.ended.len() > REMEMBERED {
                inner.ended.pop_first();
            }
        }
        drop(inner);
        if due {
            self.save(disk, dir);
        }
        self.changed.notify_all();
        report
    }

    /// Saves how far it has got, if one is under way or has ended.
    pub fn save(&self, disk: &dyn Disk, dir: &Path) {
        let over = self.saving.lock();
        if !*over {
            self.write_or_warn(disk, dir);
        }
    }

    /// The same for the last time, where there is something to be saved: whoever comes later must not write the file any more.
    pub fn save_last(&self, disk: &dyn Disk, dir: &Path) {
        let mut over = self.saving.lock();
        let due = {
            let inner = self.inner.lock();
            inner.stage.is_some() || inner.unsaved.is_some()
        };
        if due && !*over {
            self.write_or_warn(disk, dir);
        }
        *over = true;
    }

    fn write_or_warn(&self, disk: &dyn Disk, dir: &Path) {
        // It is then gone through again.
        if let Err(error) = self.write(disk, dir) {
            log::warn!("{error}");
        }
    }

    /// Under the lock of those who write.
    fn write(&self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        let saved = {
            let mut inner = self.inner.lock();
            if inner.number == 0 {
                return Ok(());
            }
            inner.save()
        };
        let bytes = envelope::encode(KIND, &saved)?;
        let path = dir.join(FILE);
        disk.replace(&path, &bytes).map_err(|e| Error::io("save how far the scrub has got", path, e))?;
        self.inner.lock().unsaved = None;
        Ok(())
    }

    /// A shard holds other pages than it should. That is saved at once: nothing else tells after the next opening.
    pub fn disbelieve(&self, disk: &dyn Disk, dir: &Path, shard: ShardId) {
        self.inner.lock().disbelieved.insert(shard);
        self.save(disk, dir);
    }

    /// A shard has been filled anew, and compared with the others record by record: what counted against it was of what it held before.
    pub fn believe(&self, disk: &dyn Disk, dir: &Path, shard: ShardId) {
        if self.inner.lock().disbelieved.remove(&shard) {
            self.save(disk, dir);
        }
    }

    /// The shards that were found to hold other pages than they should, and are yet to be compared with the others.
    pub fn disbelieved(&self) -> BTreeSet<ShardId> {
        self.inner.lock().disbelieved.clone()
    }

    /// A step that was taken for the scrub of that number failed.
    pub fn failed(&self, number: u64, error: &Error) {
        // Whoever waits for another one has nothing to do with it.
        let _ = self.with(number, |inner| inner.error = Some(error.clone()));
    }

    /// Ends one before it is through. That is saved at once: the next opening would go on with it. Where it could not be, that is done by
    /// asking once more.
    pub fn cancel(&self, disk: &dyn Disk, dir: &Path, number: u64) -> Result<()> {
        let over = self.saving.lock();
        if *over {
            return Err(closed());
        }
        if self.inner.lock().unsaved != Some(number) {
            self.with(number, |inner| (inner.stage, inner.unsaved) = (None, Some(number)))?;
        }
        let remedy = "it has ended, and goes on at the next opening unless closing the store can save that";
        self.write(disk, dir).map_err(|error| error.remedy(remedy))
    }

    pub fn pause(&self, number: u64, paused: bool) -> Result<()> {
        self.with(number, |inner| inner.paused = paused)
    }

    pub fn set_rate(&self, number: u64, rate: Option<u64>) -> Result<()> {
        self.with(number, |inner| inner.rate = rate)
    }

    /// The rate of the one that is under way, if it has one.
    pub fn rate(&self) -> Option<u64> {
        let inner = self.inner.lock();
        inner.rate.filter(|_| inner.stage.is_some())
    }

    fn with(&self, number: u64, f: impl FnOnce(&mut Inner)) -> Result<()> {
        let mut inner = self.inner.lock();
        if !inner.is_at(number) {
            return Err(Error::new(ErrorKind::NotFound, "the scrub is over"));
        }
        f(&mut inner);
        self.changed.notify_all();
        Ok(())
    }

    pub fn progress(&self) -> ScrubProgress {
        let inner = self.inner.lock();
        let stage = match &inner.stage {
            Some(Stage::Verify { shard, .. }) => format!("verifying shard {shard}"),
            Some(Stage::Compare { .. }) => "comparing replicas".to_owned(),
            None => "over".to_owned(),
        };
        ScrubProgress {
            running: inner.stage.is_some(),
            paused: inner.paused,
            stage,
            report: inner.report.clone(),
            error: inner.error.as_ref().map(ToString::to_string),
        }
    }

    /// Waits until it is over; none if it was cancelled. What it found is told also to who hears of it when others have begun since.
    pub fn wait(&self, number: u64) -> Result<Option<ScrubReport>> {
        let mut inner = self.inner.lock();
        while inner.number == number && inner.stage.is_some() {
            if inner.closed {
                return Err(closed());
            }
            if let Some(error) = &inner.error {
                return Err(error.clone());
            }
            self.changed.wait(&mut inner);
        }
        Ok(inner.ended.get(&number).cloned())
    }

    pub fn close(&self) {
        self.inner.lock().closed = true;
        self.changed.notify_all();
    }

    /// How long until the next one is due.
    pub fn due_in(&self, period: Duration) -> Duration {
        let inner = self.inner.lock();
        let last = inner.report.finished.unwrap_or(inner.report.started);
        // The clock may have been ahead when it was noted.
        let left = last.saturating_add(period.as_secs()).saturating_sub(now());
        Duration::from_secs(left.min(period.as_secs()))
    }
}

impl Inner {
    /// Whether the scrub of that number is under way.
    fn is_at(&self, number: u64) -> bool {
        self.number == number && self.stage.is_some()
    }

    fn begin(&mut self, first: ShardId) {
        self.number += 1;
        self.stage = Some(Stage::Verify { shard: first, position: Vec::new() });
        self.report = ScrubReport { started: now(), ..ScrubReport::default() };
        (self.paused, self.error, self.rate) = (false, None, None);
    }

    fn save(&mut self) -> Saved {
        self.saved = Instant::now();
        Saved {
            store: self.store,
            number: self.number,
            stage: self.stage.clone(),
            report: self.report.clone(),
            disbelieved: self.disbelieved.clone(),
        }
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the store has been closed")
        .remedy("open it again: the scrub goes on where it was")
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Fault, Operation, SimDisk};

    const DIR: &str = "/store";

    fn new(disk: &SimDisk) -> Scrubbing {
        disk.create_dir_all(Path::new(DIR)).unwrap();
        Scrubbing::load(disk, Path::new(DIR), 1)
    }

    fn end(scrub: &Scrubbing, disk: &SimDisk, number: u64) -> Option<ScrubReport> {
        scrub.advance(disk, Path::new(DIR), number, None, |report| report.pages_left += 1)
    }

    #[test]
    fn a_step_of_a_scrub_that_was_cancelled_brings_it_neither_back_nor_another_to_its_end() {
        let (disk, dir) = (SimDisk::new(1), Path::new(DIR));
        let scrub = new(&disk);
        let first = scrub.begin(ShardId(0));
        let (number, stage) = scrub.stage().unwrap();
        assert_eq!(number, first);
        scrub.disbelieve(&disk, dir, ShardId(2));
        scrub.cancel(&disk, dir, first).unwrap();
        let error = Error::new(ErrorKind::Io, "a page");
        for again in [false, true] {
            let begun = again.then(|| scrub.begin(ShardId(0)));
            let before = scrub.progress();
            assert_eq!(scrub.advance(&disk, dir, number, Some(stage.clone()), |r| r.pages_left += 1), None);
            assert_eq!(end(&scrub, &disk, number), None);
            scrub.failed(number, &error);
            assert_eq!(scrub.current(), begun);
            assert_eq!(scrub.progress(), before);
            assert_eq!(scrub.wait(number).unwrap(), None);
            assert_eq!(scrub.disbelieved().len(), 1);
        }
        let (second, _) = scrub.stage().unwrap();
        scrub.failed(second, &error);
        assert_eq!(scrub.wait(second).unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(end(&scrub, &disk, second).map(|report| report.pages_left), Some(1));
        assert!(scrub.disbelieved().is_empty());
    }

    #[test]
    fn what_was_cancelled_is_saved_when_it_can_be_and_not_after_the_last_time() {
        let (disk, dir) = (SimDisk::new(1), Path::new(DIR));
        let scrub = new(&disk);
        let first = scrub.begin(ShardId(0));
        scrub.save(&disk, dir);
        assert_eq!(new(&disk).current(), Some(first));
        scrub.cancel(&disk, dir, first).unwrap();
        assert_eq!(new(&disk).current(), None);
        // It cannot be at first: that is told, and made good by closing.
        let second = scrub.begin(ShardId(0));
        scrub.save(&disk, dir);
        disk.inject(Fault::on(Operation::Write).error(std::io::ErrorKind::StorageFull));
        assert!(scrub.cancel(&disk, dir, second).is_err());
        assert_eq!((scrub.current(), new(&disk).current()), (None, Some(second)));
        disk.heal();
        scrub.save_last(&disk, dir);
        assert_eq!(new(&disk).current(), None);
        // The file is that of the next opening from here on.
        let third = scrub.begin(ShardId(0));
        scrub.save(&disk, dir);
        assert_eq!(scrub.cancel(&disk, dir, third).unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(new(&disk).inner.lock().number, second);
    }

    /// Whoever waited for it may come to hear of it when the next one has begun, or was cancelled.
    #[test]
    fn what_a_scrub_found_is_told_to_who_waits_for_it_whatever_has_begun_since() {
        let (disk, dir) = (SimDisk::new(1), Path::new(DIR));
        let scrub = new(&disk);
        let first = scrub.begin(ShardId(0));
        let report = end(&scrub, &disk, first);
        assert!(report.is_some());
        let second = scrub.begin(ShardId(0));
        assert_eq!(scrub.wait(first).unwrap(), report);
        scrub.cancel(&disk, dir, second).unwrap();
        let third = scrub.begin(ShardId(0));
        assert_eq!([scrub.wait(first).unwrap(), scrub.wait(second).unwrap()], [report.clone(), None]);
        let newest = end(&scrub, &disk, third);
        assert_eq!([scrub.wait(first).unwrap(), scrub.wait(third).unwrap()], [report, newest.clone()]);
        assert_eq!(new(&disk).wait(third).unwrap(), newest, "after an opening as well");
        // Not without end.
        for _ in 0..REMEMBERED {
            let next = scrub.begin(ShardId(0));
            end(&scrub, &disk, next);
        }
        assert_eq!(scrub.wait(first).unwrap(), None);
        assert!(scrub.inner.lock().ended.len() <= REMEMBERED);
    }

    /// It has ended, and the file does not say so yet: to ask once more is to have that written.
    #[test]
    fn a_scrub_whose_end_could_not_be_saved_may_be_cancelled_again() {
        for begun in [false, true] {
            let (disk, dir) = (SimDisk::new(1), Path::new(DIR));
            let scrub = new(&disk);
            let first = scrub.begin(ShardId(0));
            scrub.save(&disk, dir);
            disk.inject(Fault::on(Operation::Write).error(std::io::ErrorKind::StorageFull));
            assert_eq!(scrub.cancel(&disk, dir, first).unwrap_err().kind(), ErrorKind::Io);
            let next = begun.then(|| scrub.begin(ShardId(0)));
            assert_eq!(scrub.cancel(&disk, dir, first).unwrap_err().kind(), ErrorKind::Io);
            disk.heal();
            assert_eq!(new(&disk).current(), Some(first));
            scrub.cancel(&disk, dir, first).unwrap();
            assert_eq!(new(&disk).current(), next);
            assert_eq!(scrub.cancel(&disk, dir, first).unwrap_err().kind(), ErrorKind::NotFound);
        }
    }

    /// A clock that was years ahead for a while is no reason to leave the pages alone for years.
    #[test]
    fn the_next_scrub_is_due_within_the_period_whatever_the_clock_said_before() {
        let disk = SimDisk::new(1);
        let scrub = new(&disk);
        let period = Duration::from_secs(3600);
        assert_eq!(scrub.due_in(period), Duration::ZERO);
        let number = scrub.begin(ShardId(0));
        end(&scrub, &disk, number);
        let due = scrub.due_in(period);
        assert!(due > period / 2 && due <= period, "{due:?}");
        scrub.inner.lock().report.finished = Some(now() + 1_000_000_000);
        assert_eq!(scrub.due_in(period), period);
    }
}
