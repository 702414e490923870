//! Copying every version of records out, page by page: what moving and comparing copies stands on.
//!
//! Invariants: a call takes up where the one before ended, so nothing is skipped and nothing comes twice, whatever the
//! writer does meanwhile; pages are read in one state of the index each; a call that fails fails at the page that holds the
//! key it was to begin with. Pages are left in the cache only where there is room
//! for them, so that a shard that is about to serve for the first time begins warm: a copy of everything must not push out
//! what is asked for often.

use super::core::Core;
use super::frame::Page;
use super::root::Which;
use super::space::UNIT;
use crate::error::Result;
use crate::page::{Content, Entry, PageView};
use crate::record::RunBuffer;
use std::sync::atomic::Ordering;

impl Core {
    /// See [`Engine::versions`](crate::engine::Engine::versions).
    pub fn versions(
        &self,
        from: &[u8],
        bytes: usize,
        wanted: &mut dyn FnMut(&[u8]) -> bool,
        out: &mut RunBuffer,
    ) -> Result<Option<Vec<u8>>> {
        let mut next = from.to_vec();
        let mut read = 0;
        while read < bytes {
            self.check_readable()?;
            let (page, upper) = match self.page_in_passing(&next) {
                Ok(found) => found,
                // What was read before it counts; the next call begins here, and fails.
                Err(_) if read > 0 => return Ok(Some(next)),
                Err(error) => return Err(error),
            };
            let view = page.view()?;
            if let Err(error) = copy(&view, &next, upper.as_deref(), wanted, out) {
                out.truncate(&next);
                return Err(self.place.locate(error));
            }
            read += page.len();
            self.pool.give_back(page.into_frame());
            match upper {
                Some(upper) => next = upper,
                None => return Ok(None),
            }
        }
        Ok(Some(next))
    }

    /// The page that holds `key`, and the bound up to which its records count. Where a page's space has been used again
    /// since the index named it, the index has another by now; where it has not, the damage is on the disk.
    fn page_in_passing(&self, key: &[u8]) -> Result<(Page, Option<Vec<u8>>)> {
        let mut tried = None;
        loop {
            let node = self.node(Which::Holds(key))?.ok_or_else(|| self.hole(key))?;
            let index = node.find(key);
            let wanted = node.page(index).ok_or_else(|| self.hole(key))?;
            let page = match self.cache.peek(wanted.id) {
                Some(page) => Ok(page),
                None => {
                    self.read_frame(&wanted).and_then(|frame| self.verify(&wanted, frame)).inspect(|page| {
                        if self.cache.has_room() {
                            self.cache.insert(wanted.id, page);
                        }
                    })
                }
            };
            match page {
                Ok(page) => return Ok((page, node.upper(index).map(<[u8]>::to_vec))),
                Err(error) if tried == Some(wanted) => return Err(error),
                Err(_) => tried = Some(wanted),
            }
        }
    }

    /// Bytes of the page file that are in use. While the writer works, as of when it last did not.
    pub fn live_bytes(&self) -> Result<u64> {
        self.check_readable()?;
        if let Some(writer) = self.writer.try_lock() {
            self.live_bytes.store(writer.space.used() * UNIT, Ordering::Relaxed);
        }
        Ok(self.live_bytes.load(Ordering::Relaxed))
    }
}

/// Copies the wanted records of a page from the key `from` up to, and without, `upper`.
fn copy(
    view: &PageView<'_>,
    from: &[u8],
    upper: Option<&[u8]>,
    wanted: &mut dyn FnMut(&[u8]) -> bool,
    out: &mut RunBuffer,
) -> Result<()> {
    let first = view.lower_bound(from)?;
    let last = upper.map_or(Ok(view.len()), |upper| view.lower_bound(upper))?;
    let mut key = Vec::new();
    // The entry before, and whether its key is wanted: asked once for all versions of a key.
    let mut before: Option<(Entry<'_>, bool)> = None;
    for index in first..last {
        let entry = view.entry(index)?;
        let is_wanted = match &before {
            Some((other, is_wanted)) if other.same_key(&entry) => *is_wanted,
            _ => {
                key.clear();
                entry.push_key(0, &mut key);
                wanted(&key)
            }
        };
        if is_wanted {
            let value = match entry.content {
                Content::Value(value) => Some(value),
                Content::Tombstone => None,
            };
            out.push(entry.head, entry.tail, entry.seq, value);
        }
        before = Some((entry, is_wanted));
    }
    Ok(())
}
