//! Finding one record.

use super::core::Core;
use crate::error::Result;
use crate::ids::Seq;
use crate::page::Content;
use crate::record::Found;
use bytes::Bytes;

/// A value of at least this share of its page is handed out as a part of the page instead of a copy.
const SHARE: usize = 4;
/// Below this a copy is cheaper anyway.
const MIN_SHARED: usize = 1024;

impl Core {
    pub fn get(&self, key: &[u8], at: Seq) -> Result<Option<Found>> {
        self.check()?;
        let page = self.page_of(key)?;
        let view = page.view()?;
        let Some(entry) = view.find(key, at).map_err(|error| self.place.locate(error))? else {
            return Ok(None);
        };
        let value = match entry.content {
            Content::Tombstone => return Ok(None),
            Content::Value(value) if value.len() >= page.len() / SHARE && value.len() >= MIN_SHARED => {
                page.share().slice_ref(value)
            }
            Content::Value(value) => Bytes::copy_from_slice(value),
        };
        Ok(Some(Found { seq: entry.seq, value }))
    }
}
