//! Finding one record.
//!
//! What looks like damage may be a race with the writer (a page merged away, a value replaced), so it is looked at
//! again, at last with the writer kept out: what is wrong then is wrong on the disk.

use super::bound;
use super::core::{Core, reaches_over};
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::page::{Content, Entry};
use crate::record::Found;
use bytes::Bytes;

/// How often to look again beside the writer before waiting for it.
pub(super) const LOOKS: usize = 3;

/// A value of at least this share of its page is handed out as a part of the page instead of a copy.
const SHARE: usize = 4;

/// The outcome of one look.
pub(super) enum Look<T> {
    Done(T),
    /// Wrong if nothing was being written.
    Suspect(Error),
}

impl Core {
    /// Looks until the outcome is certain.
    pub fn look<T>(&self, mut once: impl FnMut() -> Result<Look<T>>) -> Result<T> {
        for _ in 0..LOOKS {
            if let Look::Done(found) = once()? {
                return Ok(found);
            }
        }
        let _writer = self.writer.lock();
        match once()? {
            Look::Done(found) => Ok(found),
            Look::Suspect(error) => Err(error),
        }
    }

    pub fn get(&self, key: &[u8], at: Seq) -> Result<Option<Found>> {
        self.check()?;
        let bound = bound::encode(key);
        match self.get_once(key, &bound, at)? {
            Look::Done(found) => Ok(found),
            Look::Suspect(_) => self.look(|| self.get_once(key, &bound, at)),
        }
    }

    fn get_once(&self, key: &[u8], bound: &[u8], at: Seq) -> Result<Look<Option<Found>>> {
        let Some(image) = self.floor(bound)? else { return Ok(Look::Suspect(self.hole(bound))) };
        let view = self.view(&image.key, &image.bytes)?;
        if !reaches_over(view.upper(), bound) {
            return Ok(Look::Suspect(self.hole(bound)));
        }
        let Some(entry) = view.find(key, at).map_err(|error| self.place.locate(error))? else {
            return Ok(Look::Done(None));
        };
        let seq = entry.seq;
        let value = match entry.content {
            Content::Tombstone => return Ok(Look::Done(None)),
            Content::Value(value) if value.len() >= image.bytes.len() / SHARE && value.len() >= 1024 => {
                let start = value.as_ptr() as usize - image.bytes.as_ptr() as usize;
                let end = start + value.len();
                Bytes::from_owner(image.bytes).slice(start..end)
            }
            Content::Value(value) => Bytes::copy_from_slice(value),
            Content::Overflow(overflow) => match self.read_value(key, seq, overflow)? {
                Some(value) => Bytes::from(value),
                None => return Ok(Look::Suspect(self.value_gone(&entry))),
            },
        };
        Ok(Look::Done(Some(Found { seq, value })))
    }

    #[cold]
    pub fn value_gone(&self, entry: &Entry<'_>) -> Error {
        self.place.corruption(format!(
            "expected the chunks of a large value written at sequence {}, found some missing",
            entry.seq
        ))
    }
}
