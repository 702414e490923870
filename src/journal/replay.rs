//! Reading the log back while it is written to: for whoever follows it, or has fallen behind.
//!
//! Invariants:
//! - What is visited was verified against its checksums, and is consecutive: a cursor never passes over a sequence.
//! - What was freed, or used again, under the reader is told from damage: a segment leaves the list of those that are
//!   retained before a byte of it is changed, and the list is looked at again after every read that came to nothing.

use super::scan::{Item, Reader};
use super::segment::{self, BODY, Origin, SegmentHeader};
use super::{Journal, Retained};
use crate::disk::OpenMode;
use crate::error::{Error, ErrorKind, Result};
use crate::frame::Kind;
use crate::ids::Seq;

/// A place in the log of one opened journal. It keeps where the next frame lies, so that to go on costs no search.
#[derive(Debug)]
pub struct Cursor {
    next: Seq,
    /// The generation of the segment that `next` follows the frames of, and where they end.
    place: Option<(u64, u64)>,
    buf: Vec<u8>,
}

impl Cursor {
    /// Before the frame with the sequence `next`.
    pub fn at(next: Seq) -> Self {
        Cursor { next, place: None, buf: Vec::new() }
    }

    /// The sequence that is visited next.
    pub fn next(&self) -> Seq {
        self.next
    }
}

impl Journal {
    /// Hands the frames from the cursor up to `until` (at most the last appended one) to `visit`, in order, and moves
    /// the cursor behind each that was visited. Stops once `limit_bytes` of payloads or more have been visited, one
    /// frame at the least. Returns what the cursor is at then: above `until` if that was reached.
    ///
    /// Runs beside appends, syncs and trims, and holds none of their locks while it reads or visits. What it visits has been
    /// handed to the operating system; whether it is durable, [`durable`](Self::durable) says.
    ///
    /// # Errors
    /// `NotFound`: the journal no longer holds what the cursor is at; it may have been freed a moment ago. `Corruption`:
    /// a frame is damaged, with path and offset; those before it were visited. `Poisoned`, `Closed`: frames up to
    /// `until` could not be handed over; none was visited. `Io`, and whatever `visit` returns: the cursor stays at that frame.
    pub fn replay(
        &self,
        cursor: &mut Cursor,
        until: Seq,
        limit_bytes: usize,
        visit: &mut dyn FnMut(Seq, &[u8]) -> Result<()>,
    ) -> Result<Seq> {
        let until = until.min(self.last());
        if cursor.next > until {
            return Ok(cursor.next);
        }
        self.hand_to(until)?;
        let mut left = limit_bytes.max(1);
        while cursor.next <= until && left > 0 {
            let (segment, below) = self.segment_of(cursor.next)?;
            let until = until.min(Seq(below.0.saturating_sub(1)));
            self.replay_segment(cursor, segment, until, &mut left, visit)?;
        }
        Ok(cursor.next)
    }

    /// The segment that a sequence lies in, and the first sequence of the one after it.
    pub(super) fn segment_of(&self, seq: Seq) -> Result<(Retained, Seq)> {
        let segments = self.retained.lock();
        let index = segments.iter().rposition(|segment| segment.first <= seq);
        let found = index.and_then(|index| {
            let below = segments.get(index + 1).map_or(Seq::MAX, |next| next.first);
            Some((*segments.get(index)?, below))
        });
        let first = segments.front().map_or(Seq::ZERO, |segment| segment.first);
        drop(segments);
        found.ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("the journal no longer holds sequence {seq}; it begins with {first}"),
            )
            .at(&self.supply.dir)
            .remedy("read what is missing from the store itself, or keep more of the journal")
        })
    }

    /// Visits frames of one segment, which holds all up to `until`.
    fn replay_segment(
        &self,
        cursor: &mut Cursor,
        segment: Retained,
        until: Seq,
        left: &mut usize,
        visit: &mut dyn FnMut(Seq, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let Retained { generation, first, len, .. } = segment;
        // Frames are bound to the store and the generation; what else a header says is not needed to read them.
        let store_id = self.supply.config.store_id;
        let header = SegmentHeader { store_id, generation, boot_id: 0, len, origin: Origin::Continuation };
        let path = self.supply.path(&segment::name(generation));
        let file = match self.supply.disk.open(&path, OpenMode::Read) {
            Ok(file) => file,
            Err(e) => return Err(self.unless_freed(cursor.next, Error::io("open the journal", &path, e))),
        };
        let (mut at, mut expected) = match cursor.place {
            Some((held, at)) if held == generation => (at, cursor.next),
            _ => (BODY, first),
        };
        let mut reader = Reader::new(file, &path, header, std::mem::take(&mut cursor.buf));
        while cursor.next <= until && *left > 0 {
            match reader.item(at) {
                Ok(Item::Frame(frame, payload)) if frame.kind == Kind::Commit && frame.seq == expected => {
                    at += frame.frame_bytes() as u64;
                    expected = expected.next();
                    if frame.seq < cursor.next {
                        continue;
                    }
                    visit(frame.seq, payload)?;
                    *left = left.saturating_sub(payload.len().max(1));
                    (cursor.next, cursor.place) = (expected, Some((generation, at)));
                }
                // Damage to what nobody asks for is no obstacle while its header says how long it is.
                Ok(Item::Torn(frame)) if frame.seq == expected && frame.seq < cursor.next => {
                    at += frame.frame_bytes() as u64;
                    expected = expected.next();
                }
                Ok(_) => {
                    let what = format!("the journal's frame with sequence {expected} is damaged");
                    let damage = Error::corruption(what).at(&path).offset(at);
                    let damage = damage.remedy("close the store and put the segment back from a copy");
                    return Err(self.unless_freed(cursor.next, damage));
                }
                Err(e) => return Err(self.unless_freed(cursor.next, e)),
            }
        }
        cursor.buf = reader.into_buffer();
        Ok(())
    }

    /// The error of a read at `seq`, or, if the segment has been freed meanwhile, that.
    fn unless_freed(&self, seq: Seq, error: Error) -> Error {
        self.segment_of(seq).err().unwrap_or(error)
    }
}
