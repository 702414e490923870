//! The journal: one log of commits for the whole store, in segment files, with group commit.
//!
//! Rooms: `segment` (a file's bytes), `supply` (files before and after their use), `log` and `chunk` (appending),
//! `writer` (writing), `group` (syncing for many), `health` (failures), `freeing` (what nobody needs), `turns` (who is at the files), `scan` and `recovery` (reading back), `cases` (what to do with
//! damage), `known` (how far the log reaches at least), `open` (creating and opening), `anew` (in the place of another), `left` (what there is of one), `replay` (reading while it is written to), `regain` (what was lost of its beginning), `behind` (where that goes on behind damage), `mirror`
//! (several copies, on a disk below all this).
//!
//! Invariants:
//! - Sequences are consecutive. What is durable, and what is readable after a crash, is a prefix.
//! - A frame that was synced, or handed over with no start of the machine since, is replayed, or `open` fails.
//! - After a failed write or sync nothing is acknowledged any more until the journal is opened again; and nobody is told of it before the
//!   note that the next opening needs is there.
//!
//! # Recovery
//! The log is a chain of *sessions* (from one opening to the next), each a chain of segments. The first segment of a
//! session says below which sequence the log before it ends; every other segment is announced by an end marker in the
//! one before it, written when its own name was already durable. Where a segment's frames stop at the sequence `e`:
//!
//! | case | later session | at the stop | further on | then |
//! |---|---|---|---|---|
//! | A | begins at `e` | anything | | go on with it |
//! | B | begins above `e` | no frame `e` | | damage |
//! | C | not at `e` | end marker | the next segment | go on with it |
//! | D | not at `e` | end marker | no next segment | damage |
//! | E | none | no frame `e` | nothing says that `e` was written | the end: cut |
//! | F | none | no frame `e` | a later write, same start of the machine | damage |
//! | G | none | no frame `e` | word that `e` was synced | damage |
//! | H | none | no frame `e` | later writes, machine started since, none says `e` was synced | a hole: cut |
//! | I | none | no frame `e` | no word of `e`, but the shards have applied it, or an archive has it | damage |
//!
//! A copy that was accepted may have been about to get its next segments: where it has none after an end marker, that is row E.
//! Damage to a segment that is entered for its end marker alone, since the next one begins with what is asked for, is passed over.
//!
//! The files themselves: no segment at all, a gap above what is asked for, both headers damaged, a name that does not
//! fit, a file shorter than its header says: damage. One header damaged: the copy. Another store: `Foreign`. Another
//! version: `Unsupported`. A gap wholly below what is asked for: an interrupted trim, cleared away. A temporary:
//! removed. A spare: kept, up to the limit. Any other file: left alone. docs/FORMAT.md has the bytes.

mod anew;
mod behind;
mod cases;
mod chunk;
mod freeing;
mod group;
mod health;
mod known;
mod left;
mod log;
pub(crate) mod mirror;
mod open;
mod recovery;
mod regain;
mod replay;
mod scan;
pub(crate) mod segment;
mod supply;
mod turns;
mod writer;

pub use known::Known;
pub use left::Left;
pub use log::{Appender, Handoff};
pub use regain::Regained;
pub use replay::Cursor;

use crate::error::{Error, Result};
use crate::frame::Payload;
use crate::ids::Seq;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};
use health::Health;
use std::collections::VecDeque;

/// How a journal is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalConfig {
    /// The store that the journal belongs to; files of another one are refused.
    pub store_id: u128,
    /// The length of a segment in bytes, at least 16 KiB; rounded up to a multiple of 4 KiB.
    pub segment_bytes: u64,
    /// How many freed segments are kept to be used again.
    pub max_spares: usize,
}

impl JournalConfig {
    fn checked(self) -> Result<Self> {
        let (min, max) = (segment::MIN_SEGMENT_BYTES, 1 << 40);
        if !(min..=max).contains(&self.segment_bytes) {
            return Err(Error::invalid(format!(
                "a journal segment has {min} to {max} bytes, not {}",
                self.segment_bytes
            )));
        }
        Ok(JournalConfig { segment_bytes: self.segment_bytes.next_multiple_of(4096), ..self })
    }
}

/// What opening a journal found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayReport {
    /// The oldest sequence that is still there.
    pub first: Seq,
    /// The last sequence of the log; one below `first` if it is empty.
    pub last: Seq,
    /// How many frames were visited.
    pub frames: u64,
    /// The bytes of their payloads.
    pub bytes: u64,
    /// How many segments were read.
    pub segments: u64,
    /// How many frames were cut off that had been written, but never synced, before the machine stopped. Writes that
    /// were torn beyond recognition do not count.
    pub lost: u64,
    /// The row of the recovery table at which the log ended: E or H.
    pub case: char,
    /// Segments of which only the header's copy was valid.
    pub repaired_headers: u64,
}

/// Figures of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalStats {
    /// Retained segments, the current one included.
    pub segments: u64,
    /// Bytes on disk: retained segments, spares, and the next segment if it is ready.
    pub bytes: u64,
    pub spares: u64,
    pub first: Seq,
    pub last: Seq,
    pub durable: Seq,
    /// Calls of the disk's sync since the journal was opened, and writes that were one.
    pub syncs: u64,
    /// Of these, the writes past the system's cache.
    pub through: u64,
    /// Frames appended since the journal was opened.
    pub frames: u64,
    /// Bytes handed to the operating system since the journal was opened, markers and what was written again included.
    pub bytes_written: u64,
}

/// The journal. Lock order: `freed`, `writer`, `log` (the appender's), then `retained` or the supply's stock; each may be skipped. The
/// group's own are taken alone, or under `freed`; `retained`, which is never held over I/O, and that of `turns` are leaves.
#[derive(Debug)]
pub struct Journal {
    writer: Mutex<writer::Writer>,
    log: Mutex<log::Log>,
    supply: supply::Supply,
    /// Oldest first; the last is the one that is written to.
    retained: Mutex<VecDeque<Retained>>,
    /// Held by one who trims.
    freed: Mutex<freeing::Freed>,
    group: group::Group,
    turns: turns::Turns,
    health: Health,
    counters: Counters,
}

#[derive(Debug, Clone, Copy)]
struct Retained {
    generation: u64,
    /// No frame in it is below this.
    first: Seq,
    len: u64,
    /// It begins a session, so its header says where.
    start: bool,
}

#[derive(Debug)]
struct Counters {
    last: AtomicU64,
    /// Every frame up to this has been handed to the operating system.
    handed: AtomicU64,
    syncs: AtomicU64,
    through: AtomicU64,
    frames: AtomicU64,
    bytes_written: AtomicU64,
}

impl Counters {
    fn new(last: Seq) -> Self {
        let [last, handed] = [AtomicU64::new(last.0), AtomicU64::new(last.0)];
        let zero = || AtomicU64::new(0);
        Counters { last, handed, syncs: zero(), through: zero(), frames: zero(), bytes_written: zero() }
    }
}

impl Journal {
    /// Takes the right to append. Hold it while the memtable's lock is taken, so that both keep one order.
    pub fn lock(&self) -> Appender<'_> {
        Appender { journal: self, log: self.log.lock() }
    }

    /// Appends one frame, for a caller that has nothing to keep in order beside the journal.
    ///
    /// # Errors
    /// As [`Appender::append`] and [`hand_to`](Self::hand_to).
    pub fn append(&self, payload: &Payload<'_>, handoff: Handoff) -> Result<Seq> {
        let mut appender = self.lock();
        let seq = appender.append(payload)?;
        let crowded = appender.crowded();
        drop(appender);
        if crowded || handoff == Handoff::Os {
            self.hand_to(seq)?;
        }
        Ok(seq)
    }

    /// Every frame up to this is durable.
    pub fn durable(&self) -> Seq {
        self.group.durable()
    }

    /// The last appended frame; one below the first sequence if there is none.
    pub fn last(&self) -> Seq {
        Seq(self.counters.last.load(Ordering::Acquire))
    }

    /// The oldest sequence that is retained, or would be if there were a frame.
    pub fn first(&self) -> Seq {
        self.retained.lock().front().map_or(Seq::ZERO, |segment| segment.first)
    }

    /// Makes the next segment ready, so that no append has to; says whether there was something to do. Waits for the
    /// disk; runs beside appends.
    ///
    /// # Errors
    /// `Full`: the disk has no room for a segment. `Io`: no segment could be made. Nothing is lost; try again later.
    pub fn provision(&self) -> Result<bool> {
        let _turn = self.enter()?;
        self.supply.provision()
    }

    /// Figures. Waits for no disk: what is being made, or freed, shows when that is done.
    pub fn stats(&self) -> JournalStats {
        let held = self.supply.held();
        let retained = self.retained.lock();
        let (segments, first) =
            (retained.len() as u64, retained.front().map_or(Seq::ZERO, |oldest| oldest.first));
        let bytes = held.bytes + retained.iter().map(|segment| segment.len).sum::<u64>();
        drop(retained);
        JournalStats {
            segments,
            bytes,
            spares: held.spares as u64,
            first,
            last: self.last(),
            durable: self.durable(),
            syncs: self.counters.syncs.load(Ordering::Relaxed),
            through: self.counters.through.load(Ordering::Relaxed),
            frames: self.counters.frames.load(Ordering::Relaxed),
            bytes_written: self.counters.bytes_written.load(Ordering::Relaxed),
        }
    }

    /// Whether [`provision`](Self::provision) has something to do.
    pub fn wants_provision(&self) -> bool {
        self.supply.wants_provision()
    }

    /// Why the next segment could not be made, if the last try failed: appends fail when the current one is full.
    pub fn shortage(&self) -> Option<Error> {
        self.supply.shortage()
    }
}

#[cfg(test)]
mod tests;
