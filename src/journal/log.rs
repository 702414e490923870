//! The end of the log as it grows in memory: the current segment, and what waits to be written.
//!
//! Invariants:
//! - Frames get their places in the order of their sequences; nothing here touches a file's bytes, so the lock on it
//!   is never held over one that works.
//! - Once a write has failed nothing is appended any more.

use super::chunk::Chunk;
use super::segment::{BODY, TRAILER_BYTES};
use super::supply::Ready;
use super::{Journal, Retained};
use crate::error::{Error, Result};
use crate::frame::{self, Header, Payload};
use crate::ids::Seq;
use crate::sync::MutexGuard;
use crate::sync::atomic::Ordering;
use std::sync::Arc;

/// Beyond so many bytes that wait, whoever appended hands them over.
pub const BUFFER_BYTES: usize = 64 << 10;

/// How far an append gets before it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handoff {
    /// Into a buffer of the process: lost with it.
    Buffered,
    /// To the operating system, with everything before it: survives the process, not a power cut.
    Os,
}

/// Frames of one segment that are to be written at once.
#[derive(Debug)]
pub struct Piece {
    pub segment: Arc<Ready>,
    pub chunk: Chunk,
    /// The sequence that its markers carry: the one after its last frame.
    pub next: Seq,
    /// The segment that the log goes on in, if this one is full.
    pub followed: Option<Retained>,
}

/// All that waited.
#[derive(Debug)]
pub struct Taken {
    /// What full segments lack, oldest first.
    pub full: Vec<Piece>,
    pub last: Piece,
}

impl Taken {
    /// Whether there are frames in it.
    pub fn is_empty(&self) -> bool {
        self.full.is_empty() && self.last.chunk.pending() == 0
    }

    pub fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.full.iter().chain([&self.last])
    }

    /// The last sequence that it covers.
    pub fn target(&self) -> Seq {
        Seq(self.last.next.0.saturating_sub(1))
    }
}

/// What the appender's lock protects.
#[derive(Debug)]
pub struct Log {
    segment: Arc<Ready>,
    chunk: Chunk,
    full: Vec<Piece>,
    /// The sequence that the next frame gets.
    next: Seq,
}

impl Log {
    pub fn new(segment: Ready, next: Seq) -> Self {
        Log { segment: Arc::new(segment), chunk: Chunk::new(BODY), full: Vec::new(), next }
    }

    fn fits(&self, bytes: usize) -> bool {
        self.chunk.end() + (bytes + TRAILER_BYTES) as u64 <= self.segment.header.len
    }

    /// Takes out what waits; `spare` is the buffer that the next frames go to.
    pub fn take(&mut self, spare: &mut Chunk) -> Taken {
        let last = Piece {
            segment: self.segment.clone(),
            chunk: self.chunk.split(spare),
            next: self.next,
            followed: None,
        };
        Taken { full: std::mem::take(&mut self.full), last }
    }

    /// Whether a write has something to say beyond its markers.
    pub fn waits(&self) -> bool {
        !self.full.is_empty() || self.chunk.pending() > 0
    }

    /// Ends the current segment and begins the next one, with room for a frame of `bytes`.
    fn rotate(&mut self, journal: &Journal, bytes: usize) -> Result<()> {
        let _turn = journal.enter()?;
        // The only step that may fail comes first: until there is a segment, nothing has changed.
        let ready = Arc::new(journal.supply.take(BODY + (bytes + TRAILER_BYTES) as u64)?);
        let (generation, len) = (ready.header.generation, ready.header.len);
        let followed = Some(Retained { generation, first: self.next, len, start: false });
        let segment = std::mem::replace(&mut self.segment, ready);
        let chunk = std::mem::replace(&mut self.chunk, Chunk::new(BODY));
        self.full.push(Piece { segment, chunk, next: self.next, followed });
        Ok(())
    }
}

/// The right to append, held over the memtable's insert so that both keep one order. Nothing that waits for a file may
/// be called by its holder.
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

    /// Whether so much waits that it should be handed over, see [`Journal::hand_to`].
    pub fn crowded(&self) -> bool {
        !self.log.full.is_empty() || self.log.chunk.pending() >= BUFFER_BYTES
    }

    /// Appends one frame, into a buffer of the process. Let the appender go, then call [`Journal::hand_to`] or
    /// [`Journal::sync_to`] with the sequence.
    ///
    /// # Errors
    /// `InvalidInput`: the payload is too long. `Full`: there is no room for another segment. `Io`: none could be made. In
    /// both nothing was appended, no sequence was taken, and a later append may succeed. `Poisoned`: an earlier write or sync failed. `Closed`.
    pub fn append(&mut self, payload: &Payload<'_>) -> Result<Seq> {
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
            self.log.rotate(journal, bytes)?;
        }
        let log = &mut *self.log;
        let header = &log.segment.header;
        let seq = log.next;
        let frame = Header::commit(header.generation, seq, journal.durable(), payload)
            .ok_or_else(|| Error::invalid("the frame is too long"))?;
        frame::encode(log.chunk.room(bytes), &frame, log.segment.salt, payload.bytes());
        log.next = seq.next();
        journal.counters.last.store(seq.0, Ordering::Release);
        journal.counters.frames.fetch_add(1, Ordering::Relaxed);
        Ok(seq)
    }
}
