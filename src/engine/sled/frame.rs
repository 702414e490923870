//! Frames: pages as they lie in the page file, each beginning at a unit and saying by itself what it is.
//!
//! ```text
//!  0       4       8         16          20           24
//!  +-------+-------+---------+-----------+------------+-------------+------+
//!  | magic | CRC32 | page id | page      | bound      | lower bound | page |
//!  | u32   | u32   | u64     | bytes u32 | bytes u32  |             |      |
//!  +-------+-------+---------+-----------+------------+-------------+------+
//! ```
//! Little-endian. The CRC covers the header after it and the bound; the page has its own, over the bound and itself.
//!
//! Invariants: what a [`Page`] holds has passed the page's checksum and is the page that its reference names. The index
//! alone says which frames count; but of the frames that hold a key, the one with the greatest page id is the one that
//! counts, so a lost index can be found again from the page file.

use super::node::PageRef;
use super::pool::Frame;
use crate::error::{Error, Result};
use crate::page::{self, PageView};
use bytes::Bytes;
use std::sync::Arc;

const MAGIC: u32 = u32::from_le_bytes(*b"APGF");
pub(super) const HEADER: usize = 24;
/// What a page in memory takes beside its buffer: counts, the allocation, a slot, an entry in the cache's map.
const OVERHEAD: usize = 144;

/// Verifies the frame that was read where `wanted` lies; returns where its page starts.
pub(super) fn verify(wanted: &PageRef, frame: &[u8]) -> Result<usize> {
    let bad = |what: &str| {
        Error::corruption(format!(
            "expected page {} of {} bytes with checksum {:08x} at unit {} of the page file, found {what}",
            wanted.id, wanted.bytes, wanted.crc, wanted.unit
        ))
    };
    if frame.len() != wanted.bytes as usize || frame.len() < HEADER {
        return Err(bad(&format!("{} bytes", frame.len())));
    }
    let word = |at: usize| frame[at..].first_chunk().map_or(0, |b| u32::from_le_bytes(*b));
    let id = frame[8..].first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
    if word(0) != MAGIC || id != wanted.id {
        return Err(bad("another"));
    }
    let start = HEADER.saturating_add(word(20) as usize);
    if start.saturating_add(word(16) as usize) != frame.len() {
        return Err(bad("other lengths"));
    }
    let (lower, bytes) = (&frame[HEADER..start], &frame[start..]);
    if page::stamp(bytes).map(|stamp| stamp.crc) != Some(wanted.crc) {
        return Err(bad("another checksum"));
    }
    PageView::open(lower, bytes)?;
    Ok(start)
}

/// Verifies also what only those go by who search the file without an index: the header's own checksum.
pub(super) fn verify_whole(wanted: &PageRef, frame: &[u8]) -> Result<usize> {
    let start = verify(wanted, frame)?;
    let stored = frame[4..].first_chunk().map_or(0, |b| u32::from_le_bytes(*b));
    let found = crc32fast::hash(&frame[8..start]);
    if stored != found {
        return Err(Error::corruption(format!(
            "expected page {} at unit {} of the page file with a header of checksum {stored:08x}, found {found:08x}",
            wanted.id, wanted.unit
        )));
    }
    Ok(start)
}

/// A verified page. Its bytes lie beside the count of those who hold it, which a lookup touches anyway.
#[derive(Debug, Clone)]
pub(super) struct Page {
    frame: Frame,
    start: u32,
}

impl Page {
    /// Verifies the frame that was read where `wanted` lies.
    pub fn verify(wanted: &PageRef, frame: Frame) -> Result<Page> {
        let start = verify(wanted, &frame)?;
        Ok(Page { start: start as u32, frame })
    }

    /// A page that was encoded a moment ago; it starts at `start` of its frame.
    pub fn fresh(frame: Frame, start: usize) -> Page {
        Page { frame, start: start as u32 }
    }

    /// Bytes in memory.
    pub fn resident(&self) -> usize {
        self.frame.resident() + OVERHEAD
    }

    pub fn into_frame(self) -> Frame {
        self.frame
    }

    #[cfg(test)]
    pub fn lower(&self) -> &[u8] {
        &self.frame[HEADER..self.start as usize]
    }

    pub fn len(&self) -> usize {
        self.frame.len() - self.start as usize
    }

    #[inline]
    pub fn view(&self) -> Result<PageView<'_>> {
        PageView::verified(&self.frame[self.start as usize..])
    }

    /// The page's bytes, of which parts can be handed out without a copy: as long as one lives, so does the page.
    pub fn share(&self) -> Bytes {
        Bytes::from_owner(Arc::clone(self.frame.whole()))
    }
}

/// Appends the frame of `page`, with its header still to be filled in, so that the page can be encoded in its place.
pub(super) fn begin(lower: &[u8], out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER]);
    out.extend_from_slice(lower);
    start
}

/// Fills in the header of the frame that began at `start`, whose page has been appended since.
pub(super) fn finish(id: u64, lower: &[u8], start: usize, out: &mut [u8]) {
    let page = (out.len() - start - HEADER - lower.len()) as u32;
    let header = &mut out[start..start + HEADER];
    header[..4].copy_from_slice(&MAGIC.to_le_bytes());
    header[8..16].copy_from_slice(&id.to_le_bytes());
    header[16..20].copy_from_slice(&page.to_le_bytes());
    header[20..24].copy_from_slice(&(lower.len() as u32).to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[8..]);
    hasher.update(lower);
    header[4..8].copy_from_slice(&hasher.finalize().to_le_bytes());
}
