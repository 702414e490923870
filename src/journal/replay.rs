//! Reading the log back while it is written to: for whoever follows it, or has fallen behind.
//!
//! Invariants:
//! - What is visited was verified against its checksums, and is consecutive: a cursor never passes over a sequence.
//! - Damage to what nobody asks for, or a sector of it that cannot be read, is passed by, up to what is asked for.
//! - Where one copy of the journal does not have what it should, another is asked at the same place; so what is visited is visited
//!   once, whichever copies it comes from. A copy that lacks something gets it again, or counts no more, unless the journal
//!   has been closed under the reader.
//! - What was freed, or used again, under the reader is told from damage: a segment leaves the list of those that are
//!   retained before a byte of it is changed, and the list is looked at again after every read that came to nothing.

use super::behind::least_commit;
use super::scan::{Item, Reader};
use super::segment::{self, BODY, Origin, SegmentHeader};
use super::{Journal, Retained};
use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result};
use crate::frame::{self, Kind};
use crate::ids::Seq;
use std::path::Path;

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

    /// Before the frame with the sequence `next`, which lies in the segment of that generation, at that place.
    pub(super) fn in_place(next: Seq, place: (u64, u64)) -> Self {
        Cursor { next, place: Some(place), buf: Vec::new() }
    }

    /// The sequence that is visited next.
    pub fn next(&self) -> Seq {
        self.next
    }

    pub(super) fn place(&self) -> Option<(u64, u64)> {
        self.place
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

    /// Frames are bound to the store and the generation; what else a header says is not needed to read them.
    pub(super) fn header_of(&self, segment: &Retained) -> SegmentHeader {
        let Retained { generation, len, .. } = *segment;
        let store_id = self.supply.config.store_id;
        SegmentHeader { store_id, generation, boot_id: 0, len, origin: Origin::Continuation }
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
        let Retained { generation, first, .. } = segment;
        let header = self.header_of(&segment);
        let path = self.supply.path(&segment::name(generation));
        let mut copies = Copies::open(self, &path, header, std::mem::take(&mut cursor.buf));
        let (mut at, mut expected) = match cursor.place {
            Some((held, at)) if held == generation => (at, cursor.next),
            _ => (BODY, first),
        };
        while cursor.next <= until && *left > 0 {
            let error = match copies.item(at) {
                Ok(Item::Frame(frame, payload)) if frame.kind == Kind::Commit && frame.seq == expected => {
                    at += frame.frame_bytes() as u64;
                    expected = expected.next();
                    if frame.seq < cursor.next {
                        continue;
                    }
                    visit(frame.seq, payload)?;
                    *left = left.saturating_sub(payload.len().max(1));
                    (cursor.next, cursor.place) = (expected, Some((generation, at)));
                    continue;
                }
                // Damage to what nobody asks for is no obstacle while its header says how long it is.
                Ok(Item::Torn(frame)) if frame.seq == expected && frame.seq < cursor.next => {
                    at += frame.frame_bytes() as u64;
                    expected = expected.next();
                    continue;
                }
                Ok(_) => {
                    let what = format!("the journal's frame with sequence {expected} is damaged");
                    let damage = Error::corruption(what).at(&path).offset(at);
                    damage.remedy("close the store and put the segment back from a copy")
                }
                Err(e) => e,
            };
            // If the segment has been freed meanwhile, that is why.
            self.segment_of(cursor.next)?;
            if !copies.find(at, expected) {
                // Or while another copy was looked for.
                self.segment_of(cursor.next)?;
                let wanted = expected.next()..cursor.next.next();
                match least_commit(copies.disk, &path, header, at, wanted) {
                    // Nor is what cannot be read.
                    Ok(Some(behind)) if matches!(error.kind(), ErrorKind::Corruption | ErrorKind::Io) => {
                        (at, expected) = behind
                    }
                    _ => return Err(error),
                }
            }
        }
        cursor.buf = copies.into_buffer();
        Ok(())
    }
}

/// A segment as it is read: in one copy of the journal after the other, where the one before does not have what it should.
struct Copies<'a> {
    journal: &'a Journal,
    disk: &'a dyn Disk,
    path: &'a Path,
    header: SegmentHeader,
    /// Which copies may be asked; the first one is read.
    numbers: Vec<usize>,
    reader: Result<Reader>,
}

impl<'a> Copies<'a> {
    fn open(journal: &'a Journal, path: &'a Path, header: SegmentHeader, buf: Vec<u8>) -> Copies<'a> {
        let disk = journal.supply.disk.as_ref();
        let numbers = disk.copies();
        let first = numbers.first().copied().unwrap_or_default();
        Copies { journal, disk, path, header, numbers, reader: reader(disk, path, header, first, buf) }
    }

    fn item(&mut self, at: u64) -> Result<Item<'_>> {
        self.reader.as_mut().map_err(|e| e.clone())?.item(at)
    }

    /// Sees to it that the frame with the sequence `expected`, which the copy that is read does not have at `at`, is read next; false
    /// if no copy has it.
    fn find(&mut self, at: u64, expected: Seq) -> bool {
        let [this, others @ ..] = self.numbers.as_slice() else { return false };
        // What cannot be read may lie behind it.
        if self.reader.as_mut().is_ok_and(|reader| frame_at(reader, at, expected).is_some()) {
            return true;
        }
        let has_it = others.iter().find_map(|other| {
            let mut reader = reader(self.disk, self.path, self.header, *other, Vec::new()).ok()?;
            let bytes = frame_at(&mut reader, at, expected)?;
            Some((*other, reader, bytes))
        });
        let Some((other, reader, bytes)) = has_it else { return false };
        // Reading takes as long as the disk does, and the journal may have been closed meanwhile.
        let mend = || self.disk.mend_copy(self.path, *this, other, at, &bytes);
        if self.journal.in_turn(mend).unwrap_or(false)
            && self.reader.as_mut().is_ok_and(|reader| frame_at(reader, at, expected).is_some())
        {
            return true;
        }
        self.numbers.retain(|number| number != &other);
        if let Some(first) = self.numbers.first_mut() {
            *first = other;
        }
        self.reader = Ok(reader);
        true
    }

    fn into_buffer(self) -> Vec<u8> {
        self.reader.map(Reader::into_buffer).unwrap_or_default()
    }
}

pub(super) fn reader(
    disk: &dyn Disk,
    path: &Path,
    header: SegmentHeader,
    copy: usize,
    buf: Vec<u8>,
) -> Result<Reader> {
    let file = disk.open_copy(path, copy).map_err(|e| Error::io("open the journal", path, e))?;
    Ok(Reader::new(file, path, header, buf))
}

/// The bytes of the frame with a sequence, if it is there: not as it was read before, nor with what lies behind it.
fn frame_at(reader: &mut Reader, at: u64, expected: Seq) -> Option<Vec<u8>> {
    reader.narrow();
    let salt = reader.salt();
    match reader.item(at) {
        Ok(Item::Frame(frame, payload)) if frame.kind == Kind::Commit && frame.seq == expected => {
            let mut bytes = Vec::new();
            frame::encode(&mut bytes, &frame, salt, payload);
            Some(bytes)
        }
        _ => None,
    }
}
