//! The scrub that is under way, or was last: how far it has got, what it found, what is asked of it.
//!
//! Invariants: one scrub at a time; it goes on where it was after an opening, from a small file in the store's directory that is
//! only ever ahead of nothing: what lies behind the saved place has been gone through.

use crate::disk::Disk;
use crate::envelope::{self, Kind, hex_bytes, hex128};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::ShardId;
use crate::sync::Instant;
use crate::sync::{Condvar, Mutex};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
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
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug)]
struct Inner {
    store: u128,
    number: u64,
    stage: Option<Stage>,
    report: ScrubReport,
    /// Shards that were found to hold other pages than they should, and what they lack has not been given to all of them: since
    /// they were counted, their own figures no longer tell.
    disbelieved: BTreeSet<ShardId>,
    paused: bool,
    rate: Option<u64>,
    error: Option<Error>,
    saved: Instant,
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
        let inner = Inner {
            store,
            number: saved.number,
            stage: saved.stage,
            report: saved.report,
            disbelieved: saved.disbelieved,
            paused: false,
            rate: None,
            error: None,
            saved: Instant::now(),
            closed: false,
        };
        Scrubbing { inner: Mutex::new(inner), changed: Condvar::new() }
    }

    /// Begins one, unless one is under way; returns its number.
    pub fn begin(&self, first: ShardId) -> u64 {
        let mut inner = self.inner.lock();
        if inner.stage.is_none() {
            inner.number += 1;
            inner.stage = Some(Stage::Verify { shard: first, position: Vec::new() });
            inner.report = ScrubReport { started: now(), ..ScrubReport::default() };
            (inner.paused, inner.error, inner.rate) = (false, None, None);
        }
        inner.number
    }

    /// What is to be done next; none if there is nothing, or it is paused.
    pub fn stage(&self) -> Option<Stage> {
        let inner = self.inner.lock();
        inner.stage.clone().filter(|_| !inner.paused)
    }

    /// The number of the one that is under way.
    pub fn current(&self) -> Option<u64> {
        let inner = self.inner.lock();
        inner.stage.is_some().then_some(inner.number)
    }

    /// A step was taken: what was found, and what is next; none at the end. Saves it now and then, and at the end.
    pub fn advance(
        &self,
        disk: &dyn Disk,
        dir: &Path,
        stage: Option<Stage>,
        found: impl FnOnce(&mut ScrubReport),
    ) -> Option<ScrubReport> {
        let mut inner = self.inner.lock();
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
        drop(inner);
        if due {
            self.save(disk, dir);
        }
        self.changed.notify_all();
        report
    }

    /// Saves how far it has got, if one is under way or has ended.
    pub fn save(&self, disk: &dyn Disk, dir: &Path) {
        let saved = {
            let mut inner = self.inner.lock();
            if inner.number == 0 {
                return;
            }
            inner.save()
        };
        let stored = envelope::encode(KIND, &saved).and_then(|bytes| {
            let path = dir.join(FILE);
            disk.replace(&path, &bytes).map_err(|e| Error::io("save how far the scrub has got", path, e))
        });
        // It is then gone through again.
        if let Err(error) = stored {
            log::warn!("{error}");
        }
    }

    /// A shard holds other pages than it should. That is saved at once: nothing else tells after the next opening.
    pub fn disbelieve(&self, disk: &dyn Disk, dir: &Path, shard: ShardId) {
        self.inner.lock().disbelieved.insert(shard);
        self.save(disk, dir);
    }

    /// The shards that were found to hold other pages than they should, and are yet to be compared with the others.
    pub fn disbelieved(&self) -> BTreeSet<ShardId> {
        self.inner.lock().disbelieved.clone()
    }

    pub fn failed(&self, error: &Error) {
        self.inner.lock().error = Some(error.clone());
        self.changed.notify_all();
    }

    /// Ends one before it is through.
    pub fn cancel(&self, number: u64) -> Result<()> {
        self.with(number, |inner| inner.stage = None)
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
        if inner.number != number || inner.stage.is_none() {
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

    /// Waits until it is over; none if it was cancelled.
    pub fn wait(&self, number: u64) -> Result<Option<ScrubReport>> {
        let mut inner = self.inner.lock();
        while inner.number == number && inner.stage.is_some() {
            if inner.closed {
                return Err(Error::new(ErrorKind::Closed, "the store has been closed")
                    .remedy("open it again: the scrub goes on where it was"));
            }
            if let Some(error) = &inner.error {
                return Err(error.clone());
            }
            self.changed.wait(&mut inner);
        }
        let report = inner.report.clone();
        Ok((inner.number == number && report.finished.is_some()).then_some(report))
    }

    pub fn close(&self) {
        self.inner.lock().closed = true;
        self.changed.notify_all();
    }

    /// How long until the next one is due.
    pub fn due_in(&self, period: Duration) -> Duration {
        let inner = self.inner.lock();
        let last = inner.report.finished.unwrap_or(inner.report.started);
        Duration::from_secs(last.saturating_add(period.as_secs()).saturating_sub(now()))
    }
}

impl Inner {
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

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
