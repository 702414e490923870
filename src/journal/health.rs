//! Whether the journal may still be written to, and the note of a failure for whoever opens it next.
//!
//! Invariant: from a failed write or sync on nothing is acknowledged; and nobody is told of it before the note is there, unless the note's disk
//! hangs: whoever is told may open the journal again at once, and only the note keeps that opening from believing the system's memory.

use super::{Journal, segment};
use crate::disk::{Disk, OpenMode};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Mutex};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

/// Whether the journal may still be written to.
#[derive(Debug, Default)]
pub struct Health {
    pub(super) cause: OnceLock<Error>,
    /// The note of it could not be left.
    pub(super) unnoted: AtomicBool,
    pub(super) closed: AtomicBool,
    /// Something has failed, of which nobody may have been told yet.
    failing: AtomicBool,
    noting: Mutex<Noting>,
    noted: Condvar,
    /// Somebody has waited for the note as long as one does.
    overdue: AtomicBool,
}

/// How far it is with the note of a failure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Noting {
    #[default]
    NotBegun,
    /// By one alone: in several copies two would be in each other's way, and pass for failures of these.
    UnderWay,
    Over,
}

/// So long those who are to be told of a failure wait for the note of it. A close waits for whoever makes it, or leaves its lock.
const NOTE_AT_MOST: Duration = Duration::from_secs(10);

impl Health {
    /// Nobody is told that all is well from the failure on, and nobody that it is not before the note is there, unless its disk hangs.
    pub(super) fn check(&self) -> Result<()> {
        if crate::plants::is("journal-poison-forgotten") {
            return self.check_open();
        }
        self.found()?;
        if !self.failing.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut noting = self.noting.lock();
        if !self.overdue.load(Ordering::Relaxed) {
            let waited =
                self.noted.wait_while_for(&mut noting, |noting| *noting != Noting::Over, NOTE_AT_MOST);
            self.overdue.store(waited.timed_out(), Ordering::Relaxed);
        }
        drop(noting);
        self.found()?;
        Err(Error::new(ErrorKind::Poisoned, "a write or sync of the journal has failed").remedy(UNNOTED))
    }

    fn found(&self) -> Result<()> {
        let Some(cause) = self.cause.get() else { return self.check_open() };
        let remedy = match self.unnoted.load(Ordering::Acquire) {
            false => "remove the cause, then reopen the store",
            true => UNNOTED,
        };
        Err(Error::new(ErrorKind::Poisoned, "an earlier write or sync of the journal failed")
            .remedy(remedy)
            .caused_by(cause.clone()))
    }

    fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Closed, "the journal is closed").remedy("open the store again"));
        }
        Ok(())
    }
}

impl Journal {
    /// Why nothing more can be written, if so.
    pub fn poisoned(&self) -> Option<Error> {
        self.health.cause.get().cloned()
    }

    /// Takes nothing any more, though it could not be closed: its disk hangs. Whoever has a turn goes on with what he is in.
    pub fn abandon(&self) {
        self.health.closed.store(true, Ordering::Release);
    }

    /// Records the first failure for good, and leaves a note for whoever opens the journal next.
    pub fn poison(&self, cause: Error) -> Error {
        let _turn = self.turn();
        let health = &self.health;
        health.failing.store(true, Ordering::Release);
        let mut noting = health.noting.lock();
        let first = *noting == Noting::NotBegun;
        if first {
            *noting = Noting::UnderWay;
        }
        drop(noting);
        if first {
            if health.found().is_ok() {
                // First of all: whoever is told of the failure may close and open again at once, and only that note keeps the next opening
                // from taking for durable what the system has given up.
                let (disk, dir) = (self.supply.disk.as_ref(), &self.supply.dir);
                let noted = make_note(disk, dir);
                health.unnoted.fetch_or(noted.is_err(), Ordering::AcqRel);
                if health.cause.set(cause.clone()).is_ok() {
                    log_failure(&cause);
                    let noted = noted.and_then(|()| disk.sync_dir(dir)).inspect_err(log_no_note);
                    health.unnoted.fetch_or(noted.is_err(), Ordering::AcqRel);
                }
            }
            *health.noting.lock() = Noting::Over;
            health.noted.notify_all();
        }
        self.health.check().err().unwrap_or(cause)
    }
}

/// What to do after a failure of which no note could be left: with the machine's start its memory goes, and with it what the next opening
/// would take for what is on the disk.
pub const UNNOTED: &str = "no note of it could be left in the journal's directory: remove the cause, and start the machine anew before the store is opened again";

/// Leaves the note of a failed write or sync for whoever opens the journal next; false where that failed, too.
pub fn note_failure(disk: &dyn Disk, dir: &Path) -> bool {
    make_note(disk, dir).and_then(|()| disk.sync_dir(dir)).inspect_err(log_no_note).is_ok()
}

/// From here on whoever opens the journal in this run of the machine finds the note; one in another does not need it.
fn make_note(disk: &dyn Disk, dir: &Path) -> std::io::Result<()> {
    match disk.open(&dir.join(segment::POISONED), OpenMode::CreateNew) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

fn log_no_note(e: &std::io::Error) {
    ::log::error!("the note of a failure of the journal could not be left: {e}");
}

fn log_failure(cause: &Error) {
    ::log::error!("the journal takes no more writes: {cause}");
}
