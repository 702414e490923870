//! Where the log can be read again behind what is damaged in every copy of it.
//!
//! Invariants: what is found is whole, and of those that are the one with the least sequence, wherever it lies in its segment: what a write left
//! in a wrong place makes nobody pass over what can be read. Where some copy cannot be asked, nothing is said of what it may have; of one that can,
//! a sector that cannot be read has nothing.

use super::replay::{Cursor, reader};
use super::segment::{BODY, SegmentHeader};
use super::{Journal, segment};
use crate::disk::Disk;
use crate::error::Result;
use crate::ids::Seq;
use std::ops::Range;
use std::path::Path;

impl Journal {
    /// A cursor before the first frame, from the cursor on and up to `until`, that can be read in some copy; none if none can. Meant for
    /// one whose [`replay`](Self::replay) ended with `Corruption`, or with `Io`, since that may be of a single sector.
    ///
    /// # Errors
    /// `NotFound`: the journal no longer holds what the cursor is at. `Io`: of a copy nothing can be read, or much cannot, and it may have what is asked for.
    pub fn behind(&self, cursor: &Cursor, until: Seq) -> Result<Option<Cursor>> {
        let until = until.min(self.last());
        let (mut next, mut place, mut found) = (cursor.next(), cursor.place(), None);
        while next <= until && found.is_none() {
            let (held, below) = self.segment_of(next)?;
            let begin = place.take().filter(|(generation, _)| *generation == held.generation);
            let at = begin.map_or(BODY, |(_, at)| at);
            let header = self.header_of(&held);
            let path = self.supply.path(&segment::name(held.generation));
            let seqs = next..below.min(until.next());
            let least = least_commit(self.supply.disk.as_ref(), &path, header, at, seqs)?;
            found = least.map(|(at, seq)| Cursor::in_place(seq, (held.generation, at)));
            next = below;
        }
        // If it has been freed meanwhile, that is why.
        self.segment_of(cursor.next())?;
        Ok(found)
    }
}

/// Where the whole frame with the least of these sequences lies in a segment, at `at` or behind it, in whatever copy.
pub fn least_commit(
    disk: &dyn Disk,
    path: &Path,
    header: SegmentHeader,
    at: u64,
    seqs: Range<Seq>,
) -> Result<Option<(u64, Seq)>> {
    if seqs.is_empty() {
        return Ok(None);
    }
    let (mut least, mut failed): (Option<(u64, Seq)>, _) = (None, None);
    for copy in disk.copies() {
        let found = reader(disk, path, header, copy, Vec::new())
            .and_then(|mut reader| reader.least_commit(at, seqs.clone()));
        match found {
            Ok(found) => least = [least, found].into_iter().flatten().min_by_key(|(_, seq)| *seq),
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if least.is_none_or(|(_, seq)| seq > seqs.start) => Err(error),
        _ => Ok(least),
    }
}
