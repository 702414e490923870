//! Finding one record.
//!
//! A page in memory is searched where it lies. One that is not is read into a buffer of the thread's own and searched there,
//! since most pages that are read once are not asked for again soon; only one that the cache wants gets memory.

use super::core::Core;
use super::frame::{self, Page};
use super::node::PageRef;
use super::root::Located;
use crate::error::Result;
use crate::ids::Seq;
use crate::page::{Content, PageView};
use crate::record::Found;
use bytes::Bytes;
use std::cell::Cell;
use std::hash::BuildHasher;

/// A value of at least this share of its page is handed out as a part of the page instead of a copy.
const SHARE: usize = 4;
/// Below this a copy is cheaper anyway.
const MIN_SHARED: usize = 1024;
/// The longest frame that is read into the thread's buffer.
const MAX_BUFFER: usize = 16 << 10;
/// After so many keys more that were not there than were, filters are asked before pages in memory, too.
const DOUBTFUL: u8 = 8;
const MOST_DOUBT: u8 = 32;

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static DOUBT: Cell<u8> = const { Cell::new(0) };
}

impl Core {
    /// A page's space may be used again while a reader is on its way to it. What it reads then is not the page it wanted,
    /// and the index has another by that time; where the index has not, the damage is on the disk.
    pub fn get(&self, key: &[u8], at: Seq) -> Result<Option<Found>> {
        self.check_readable()?;
        let doubt = DOUBT.get();
        let mut located = self.locate(key, doubt >= DOUBTFUL)?;
        loop {
            if located.lacks {
                DOUBT.set(MOST_DOUBT.min(doubt + 1));
                return Ok(None);
            }
            let answer = match self.cache.with(located.slot, located.page.id, |page| self.find(page, key, at))
            {
                Some(answer) => answer,
                None => self.get_elsewhere(&located.page, key, at),
            };
            let error = match answer {
                Ok(Some(found)) => {
                    if doubt > 0 {
                        DOUBT.set(doubt - 1);
                    }
                    return Ok(Some(found));
                }
                Ok(None) => {
                    DOUBT.set(MOST_DOUBT.min(doubt + 1));
                    if doubt >= DOUBTFUL {
                        self.note_kept(&located, key)?;
                    }
                    return Ok(None);
                }
                Err(error) => error,
            };
            let newest = self.locate(key, false)?;
            if newest.page == located.page {
                return Err(error);
            }
            located = newest;
        }
    }

    /// The record, if it is in a page that lies not where it was expected, if it is in memory at all.
    #[inline(never)]
    fn get_elsewhere(&self, wanted: &PageRef, key: &[u8], at: Seq) -> Result<Option<Found>> {
        if let Some(slot) = self.cache.find(wanted.id) {
            self.root.note_slot(key, wanted.id, slot);
            if let Some(answer) = self.cache.with(slot, wanted.id, |page| self.find(page, key, at)) {
                return answer;
            }
        }
        let admitted = self.cache.admits(wanted.id, wanted.bytes);
        if !admitted && wanted.bytes as usize <= MAX_BUFFER {
            return self.get_once(wanted, key, at);
        }
        let page = self.verify(wanted, self.read_frame_soon(wanted)?)?;
        if admitted && let Some(slot) = self.cache.insert(wanted.id, &page) {
            self.root.note_slot(key, wanted.id, slot);
        }
        let found = self.find(&page, key, at)?;
        if found.is_none() {
            self.note_keys(wanted, &page.view()?, key)?;
        }
        Ok(found)
    }

    /// The record, from a page that is not kept.
    fn get_once(&self, wanted: &PageRef, key: &[u8], at: Seq) -> Result<Option<Found>> {
        // A thread that is ending may have none any more.
        let mut buffer = BUFFER.try_with(Cell::take).unwrap_or_default();
        let len = wanted.bytes as usize;
        if buffer.len() < len {
            buffer.resize(len.next_multiple_of(4096), 0);
        }
        let answer = self.get_in(wanted, &mut buffer[..len], key, at);
        let _ = BUFFER.try_with(|kept| kept.set(buffer));
        answer
    }

    fn get_in(&self, wanted: &PageRef, frame: &mut [u8], key: &[u8], at: Seq) -> Result<Option<Found>> {
        self.read_into_soon(wanted, frame)?;
        let start = frame::verify(wanted, frame).map_err(|error| self.damaged(error))?;
        let view = PageView::verified(&frame[start..])?;
        let found = self.find_in(&view, key, at, Bytes::copy_from_slice)?;
        if found.is_none() {
            self.note_keys(wanted, &view, key)?;
        }
        Ok(found)
    }

    /// The record in a page that is in memory.
    #[inline]
    fn find(&self, page: &Page, key: &[u8], at: Seq) -> Result<Option<Found>> {
        let shared = (page.len() / SHARE).max(MIN_SHARED);
        self.find_in(&page.view()?, key, at, |value| {
            if value.len() >= shared { page.share().slice_ref(value) } else { Bytes::copy_from_slice(value) }
        })
    }

    #[inline]
    fn find_in(
        &self,
        view: &PageView<'_>,
        key: &[u8],
        at: Seq,
        out: impl FnOnce(&[u8]) -> Bytes,
    ) -> Result<Option<Found>> {
        let Some(entry) = view.find(key, at).map_err(|error| self.place.locate(error))? else {
            return Ok(None);
        };
        Ok(match entry.content {
            Content::Tombstone => None,
            Content::Value(value) => Some(Found { seq: entry.seq, value: out(value) }),
        })
    }

    /// The same for a page in memory.
    #[cold]
    fn note_kept(&self, located: &Located, key: &[u8]) -> Result<()> {
        match self.cache.with(located.slot, located.page.id, Page::clone) {
            Some(page) => self.note_keys(&located.page, &page.view()?, key),
            None => Ok(()),
        }
    }

    /// A key was missed: takes note of those that the page has, so that the next one need not read it.
    #[cold]
    fn note_keys(&self, page: &PageRef, view: &PageView<'_>, key: &[u8]) -> Result<()> {
        let mut hashes = Vec::with_capacity(view.len());
        let mut whole = Vec::new();
        for index in 0..view.len() {
            let entry = view.entry(index).map_err(|error| self.place.locate(error))?;
            whole.clear();
            entry.push_key(0, &mut whole);
            hashes.push(self.hasher.hash_one(whole.as_slice()));
        }
        if self.root.note_keys(key, page.id, &hashes) {
            self.balance();
        }
        Ok(())
    }
}
