//! The end of the log that is being written: the current segment and what waits to be handed to the operating system.
//!
//! Invariants:
//! - Frames are handed over in the order of their sequences, each write ending with markers, so that after the death
//!   of the process what is readable is a prefix.
//! - Once a write has failed nothing is written any more.

use super::Journal;
use super::segment::{self, BODY, TRAILER_BYTES};
use super::supply::Ready;
use crate::disk::DiskFile;
use crate::error::{Error, Result};
use crate::frame::{self, Header, Kind, Payload};
use crate::ids::Seq;
use parking_lot::MutexGuard;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Buffered bytes beyond this are handed over at once.
pub const BUFFER_BYTES: usize = 64 << 10;
/// A buffer that one large frame has stretched beyond this is given back.
const KEPT_BUFFER_BYTES: usize = 1 << 20;

/// How far an append gets before it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handoff {
    /// Into a buffer of the process: lost with it.
    Buffered,
    /// To the operating system, with everything before it: survives the process, not a power cut.
    Os,
}

/// What the appender's lock protects.
#[derive(Debug)]
pub struct Log {
    pub segment: Ready,
    /// Where the next write goes: where the last handed frame ends.
    pub offset: u64,
    /// Frames that were not handed over yet.
    pub pending: Vec<u8>,
    /// The sequence that the next frame gets.
    pub next: Seq,
    /// Full segments that no sync has covered yet, oldest first.
    pub unsynced: Vec<(Arc<dyn DiskFile>, PathBuf)>,
    /// What the last markers said is durable.
    pub marked: Seq,
}

impl Log {
    pub fn new(segment: Ready, next: Seq) -> Self {
        let marked = Seq(next.0.saturating_sub(1));
        Log { segment, offset: BODY, pending: Vec::new(), next, unsynced: Vec::new(), marked }
    }

    fn fits(&self, bytes: usize) -> bool {
        let end = self.offset + (self.pending.len() + bytes + TRAILER_BYTES) as u64;
        end <= self.segment.header.len
    }
}

/// The right to append, held over the memtable's insert so that both keep one order.
#[derive(Debug)]
pub struct Appender<'a> {
    pub(super) journal: &'a Journal,
    pub(super) log: MutexGuard<'a, Log>,
}

impl Appender<'_> {
    /// The sequence that the next frame will get.
    pub fn next_seq(&self) -> Seq {
        self.log.next
    }

    /// Appends one frame.
    ///
    /// # Errors
    /// `InvalidInput`: the payload is too long. `Io`: there was no room for another segment; nothing was appended, and
    /// a later append may succeed. `Poisoned`: an earlier write or sync failed, or this one did. `Closed`.
    pub fn append(&mut self, payload: &Payload<'_>, handoff: Handoff) -> Result<Seq> {
        let journal = self.journal;
        journal.health.check()?;
        let length = payload.bytes().len();
        if length > frame::MAX_PAYLOAD_BYTES {
            return Err(Error::invalid(format!(
                "a frame of the journal holds at most {} bytes, not {length}",
                frame::MAX_PAYLOAD_BYTES
            )));
        }
        if self.log.next == Seq::MAX {
            return Err(Error::invalid("all sequences are used up"));
        }
        let bytes = frame::frame_bytes(length);
        if !self.log.fits(bytes) {
            self.rotate(bytes)?;
        }
        let log = &mut *self.log;
        let header = &log.segment.header;
        let seq = log.next;
        let frame = Header::commit(header.generation, seq, journal.durable(), payload)
            .ok_or_else(|| Error::invalid("the frame is too long"))?;
        frame::encode(&mut log.pending, &frame, header.salt(), payload.bytes());
        log.next = seq.next();
        journal.counters.last.store(seq.0, Ordering::Release);
        journal.counters.frames.fetch_add(1, Ordering::Relaxed);
        if handoff == Handoff::Os || log.pending.len() >= BUFFER_BYTES {
            self.hand_over()?;
        }
        Ok(seq)
    }

    /// Hands everything that waits to the operating system.
    pub(super) fn hand_over(&mut self) -> Result<()> {
        if self.log.pending.is_empty() {
            return Ok(());
        }
        self.write(Kind::Tail)
    }

    /// Writes what waits, if anything does, and the markers that end the log as it is now.
    pub(super) fn write(&mut self, kind: Kind) -> Result<()> {
        let journal = self.journal;
        journal.health.check()?;
        let log = &mut *self.log;
        let header = log.segment.header;
        let durable = journal.durable();
        let frames = log.pending.len();
        segment::push_trailer(&mut log.pending, header.salt(), header.generation, kind, log.next, durable);
        if let Err(e) = log.segment.file.write_at(log.offset, &log.pending) {
            let cause = Error::io("write the journal", &log.segment.path, e).offset(log.offset);
            return Err(journal.poison(cause));
        }
        journal.counters.bytes_written.fetch_add(log.pending.len() as u64, Ordering::Relaxed);
        log.offset += frames as u64;
        log.marked = durable;
        log.pending.clear();
        if log.pending.capacity() > KEPT_BUFFER_BYTES {
            log.pending = Vec::new();
        }
        Ok(())
    }

    /// Ends the current segment and begins the next one, with room for a frame of `bytes`.
    fn rotate(&mut self, bytes: usize) -> Result<()> {
        let journal = self.journal;
        // The only step that may fail cleanly comes first: until there is a segment, nothing has been written.
        let ready = journal.supply.take(BODY + (bytes + TRAILER_BYTES) as u64)?;
        self.write(Kind::End)?;
        let log = &mut *self.log;
        let (generation, len) = (ready.header.generation, ready.header.len);
        let full = std::mem::replace(&mut log.segment, ready);
        log.unsynced.push((full.file, full.path));
        log.offset = BODY;
        journal.retained.lock().push_back(super::Retained { generation, first: log.next, len });
        Ok(())
    }
}
