//! What there is of a journal in a directory where one is to be begun in the place of one that is lost.
//!
//! Invariant: nothing is changed here.

use super::Journal;
use super::open::blank;
use super::recovery::Survey;
use super::segment::{self, Name, Origin};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::ids::Seq;
use std::io::ErrorKind;
use std::path::Path;

/// What lies in a directory of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// No segment; perhaps no directory.
    Nothing,
    /// A journal that was begun with the write that was asked for, and has none.
    Begun,
    /// Whatever else has the name of a segment.
    Segments,
}

impl Journal {
    /// What there is in `dir`. `next`: the first write of a journal that an interrupted opening may have begun there.
    ///
    /// # Errors
    /// `Io`.
    pub fn left(disk: &dyn Disk, dir: &Path, store_id: u128, next: Option<Seq>) -> Result<Left> {
        let names = match disk.list(dir) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Left::Nothing),
            names => names.map_err(|e| Error::io("look for the journal", dir, e))?,
        };
        let mut left = Left::Nothing;
        for name in names {
            let begun = match segment::parse_name(&name) {
                Name::Segment(_) => blank(disk, &dir.join(name))?,
                Name::Misnamed => None,
                _ => continue,
            };
            let origin = next.map(|first| Origin::Start { first });
            match begun {
                Some(header) if header.store_id == store_id && Some(header.origin) == origin => {
                    left = Left::Begun;
                }
                _ => return Ok(Left::Segments),
            }
        }
        Ok(left)
    }

    /// Whether a session begins with this write in `dir`.
    ///
    /// # Errors
    /// As [`open`](Self::open), where that does not come to read the frames: it is not known.
    pub fn begins_with(disk: &dyn Disk, dir: &Path, store_id: u128, next: Seq) -> Result<bool> {
        let survey = Survey::read(disk, dir, store_id, Seq(next.0.saturating_sub(1)))?;
        Ok(survey.segments.iter().any(|segment| segment.header.origin == Origin::Start { first: next }))
    }
}
