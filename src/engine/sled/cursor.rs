//! Walking over records, a page a block.
//!
//! Invariants: what is given out lies between two bounds that meet those of the block before, so nothing is skipped and
//! nothing comes twice, whatever the writer does meanwhile; a gap that is no race is corruption.

use super::bound;
use super::core::{Core, Image, reaches_over};
use super::lookup::Look;
use crate::engine::Cursor;
use crate::error::Result;
use crate::ids::Seq;
use crate::page::{Content, Entry, PageView};
use crate::record::{Item, KeyRange};
use bytes::Bytes;
use std::ops::Bound;
use std::sync::Arc;

pub(super) struct PageCursor {
    core: Arc<Core>,
    range: KeyRange,
    lo: Vec<u8>,
    hi: Option<Vec<u8>>,
    at: Seq,
    reverse: bool,
    done: bool,
    /// Forward: the bound that the next page must hold. Reverse: the bound that it must reach up to, none for the end.
    edge: Option<Vec<u8>>,
    /// sled's own position, if it is where the edge is.
    pages: Option<sled::Iter>,
    /// Forward: the page after the last one given out.
    ahead: Option<Image>,
}

/// A page, and the bound below which its records count, where that is not its fence.
struct Piece {
    image: Image,
    upper: Option<Vec<u8>>,
}

impl PageCursor {
    pub fn new(core: Arc<Core>, range: &KeyRange, at: Seq, reverse: bool) -> PageCursor {
        let lo = bound::encode(&range.lo).into_owned();
        let hi = range.hi.as_deref().map(|hi| bound::encode(hi).into_owned());
        PageCursor {
            core,
            edge: if reverse { hi.clone() } else { Some(lo.clone()) },
            done: range.is_empty(),
            range: range.clone(),
            lo,
            hi,
            at,
            reverse,
            pages: None,
            ahead: None,
        }
    }

    fn next_page(&mut self) -> Result<Piece> {
        let core = Arc::clone(&self.core);
        core.look(|| if self.reverse { self.backward() } else { self.forward() })
    }

    /// Forgets sled's position, so that the next look starts afresh.
    fn suspect<T>(&mut self) -> Look<T> {
        self.pages = None;
        self.ahead = None;
        Look::Suspect(self.core.hole(self.edge.as_deref().unwrap_or(&[])))
    }

    fn forward(&mut self) -> Result<Look<Piece>> {
        let edge = self.edge.clone().unwrap_or_default();
        let image = match self.ahead.take() {
            Some(image) if *image.key == *edge => image,
            _ => match self.core.floor(&edge)? {
                Some(image) => {
                    let after = (Bound::Excluded(&*image.key), Bound::Unbounded);
                    self.pages = Some(self.core.pages.range::<&[u8], _>(after));
                    image
                }
                None => return Ok(self.suspect()),
            },
        };
        let fence = self.core.view(&image.key, &image.bytes)?.upper().map(<[u8]>::to_vec);
        if !reaches_over(fence.as_deref(), &edge) {
            return Ok(self.suspect());
        }
        if let Some(pages) = &mut self.pages {
            self.ahead = self.core.place.call("read a page", || pages.next().transpose())?.map(Image::new);
        }
        // After a crash a page may reach over the next one's lower bound; the next one's records count then.
        let clamp = self.ahead.as_ref().filter(|ahead| reaches_over(fence.as_deref(), &ahead.key));
        let limit = clamp.map(|ahead| ahead.key.to_vec()).or_else(|| fence.clone());
        let last = !reaches_over(self.hi.as_deref(), limit.as_deref().unwrap_or(&[])) || limit.is_none();
        let clamped = limit != fence;
        self.done = last;
        self.edge.clone_from(&limit);
        Ok(Look::Done(Piece { image, upper: limit.filter(|_| clamped) }))
    }

    fn backward(&mut self) -> Result<Look<Piece>> {
        let pages = self.pages.get_or_insert_with(|| match &self.edge {
            Some(edge) => self.core.pages.range::<&[u8], _>(..edge.as_slice()),
            None => self.core.pages.iter(),
        });
        let found = self.core.place.call("read a page", || pages.next_back().transpose())?;
        let Some(image) = found.map(Image::new) else { return Ok(self.suspect()) };
        let fence = self.core.view(&image.key, &image.bytes)?.upper().map(<[u8]>::to_vec);
        let met = match (&fence, &self.edge) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(fence), Some(edge)) => fence >= edge,
        };
        if !met {
            return Ok(self.suspect());
        }
        let upper = self.edge.take().filter(|edge| Some(edge) != fence.as_ref());
        self.done = *image.key <= *self.lo;
        self.edge = Some(image.key.to_vec());
        Ok(Look::Done(Piece { image, upper }))
    }

    /// Appends the live records of a page.
    fn give_out(&self, piece: Piece, out: &mut Vec<Item>) -> Result<()> {
        let Piece { image, upper } = piece;
        let page = Bytes::from_owner(image.bytes);
        let view = PageView::reopen(&page)?;
        let from = if *self.lo > *image.key { view.lower_bound(&self.range.lo)? } else { 0 };
        let mut to = view.len();
        if let Some(upper) = &upper {
            to = view.lower_bound(&bound::decode(upper)?)?;
        }
        if let (Some(hi), Some(key)) = (&self.hi, &self.range.hi)
            && reaches_over(view.upper(), hi)
        {
            to = to.min(view.lower_bound(key)?);
        }
        let live = visible(&view, from, to, self.at)?;
        let mut keys = Vec::with_capacity(live.iter().map(Entry::key_len).sum());
        for entry in &live {
            entry.push_key(0, &mut keys);
        }
        let keys = Bytes::from(keys);
        out.reserve(live.len());
        let mut end = if self.reverse { keys.len() } else { 0 };
        let mut give = |entry: &Entry<'_>| {
            let start = if self.reverse { end - entry.key_len() } else { end };
            let key = keys.slice(start..start + entry.key_len());
            end = if self.reverse { start } else { start + entry.key_len() };
            let value = match entry.content {
                Content::Value(value) => Some(page.slice_ref(value)),
                _ => None,
            };
            out.push(Item { key, seq: entry.seq, value });
        };
        if self.reverse {
            live.iter().rev().for_each(&mut give)
        } else {
            live.iter().for_each(&mut give)
        }
        Ok(())
    }
}

/// The newest version at or below `at` of each key among records `from..to`, unless it is a tombstone.
fn visible<'a>(view: &PageView<'a>, from: usize, to: usize, at: Seq) -> Result<Vec<Entry<'a>>> {
    let mut live: Vec<Entry<'a>> = Vec::with_capacity(to.saturating_sub(from));
    let mut decided: Option<&[u8]> = None;
    for index in from..to {
        let entry = view.entry(index)?;
        if entry.seq > at || decided == Some(entry.tail) {
            continue;
        }
        decided = Some(entry.tail);
        if entry.content != Content::Tombstone {
            live.push(entry);
        }
    }
    Ok(live)
}

impl Cursor for PageCursor {
    fn next_block(&mut self, out: &mut Vec<Item>) -> Result<bool> {
        let before = out.len();
        while !self.done {
            self.core.check()?;
            let piece = self.next_page()?;
            self.give_out(piece, out).map_err(|error| self.core.place.locate(error))?;
            if out.len() > before {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
