//! Walking over records, a page a block.
//!
//! Invariants: the bounds of each block meet those of the block before, so nothing is skipped and nothing comes twice,
//! whatever the writer does meanwhile; a gap that is no race is corruption.

use super::bound;
use super::core::{Core, Image, reaches_over};
use super::lookup::Look;
use crate::engine::Cursor;
use crate::error::Result;
use crate::ids::Seq;
use crate::page::{self, Content, Entry, PageView};
use crate::record::{Item, KeyRange};
use bytes::Bytes;
use std::ops::Bound;
use std::sync::Arc;

pub(super) struct PageCursor {
    core: Arc<Core>,
    /// The bounds of the range.
    lo: Vec<u8>,
    hi: Option<Vec<u8>>,
    at: Seq,
    reverse: bool,
    done: bool,
    /// Forward: all below this bound has been given out. Reverse: all at or above it, if there is one.
    edge: Option<Vec<u8>>,
    /// sled's own position, if it is at the edge.
    pages: Option<sled::Iter>,
    /// Forward: the page after the last one given out.
    ahead: Option<Image>,
}

/// The bounds between which a page's records are given out, where they are not the page's own.
#[derive(Default)]
struct Clamp<'a> {
    lower: Option<&'a [u8]>,
    upper: Option<&'a [u8]>,
}

impl PageCursor {
    pub fn new(core: Arc<Core>, range: &KeyRange, at: Seq, reverse: bool) -> PageCursor {
        let lo = bound::encode(&range.lo).into_owned();
        let hi = range.hi.as_deref().map(|hi| bound::encode(hi).into_owned());
        PageCursor {
            core,
            edge: if reverse { hi.clone() } else { Some(lo.clone()) },
            done: range.is_empty(),
            lo,
            hi,
            at,
            reverse,
            pages: None,
            ahead: None,
        }
    }

    /// Forgets sled's position, so that the next look starts afresh.
    #[cold]
    fn suspect(&mut self) -> Look<()> {
        self.pages = None;
        self.ahead = None;
        Look::Suspect(self.core.hole(self.edge.as_deref().unwrap_or(&[])))
    }

    /// The next page to the right: the one after the last, or, if that does not start at the edge, a fresh look.
    fn right_page(&mut self) -> Result<Option<Image>> {
        let edge = self.edge.as_deref().unwrap_or(&[]);
        if let Some(image) = self.ahead.take().filter(|image| *image.key == *edge) {
            return Ok(Some(image));
        }
        let Some(image) = self.core.floor(edge)? else { return Ok(None) };
        let after = (Bound::Excluded(&*image.key), Bound::Unbounded);
        self.pages = Some(self.core.pages.range::<&[u8], _>(after));
        Ok(Some(image))
    }

    fn forward(&mut self, out: &mut Vec<Item>) -> Result<Look<()>> {
        let Some(image) = self.right_page()? else { return Ok(self.suspect()) };
        let page = Bytes::from_owner(image.bytes);
        let view = self.core.view(&image.key, &page)?;
        let edge = self.edge.as_deref().unwrap_or(&[]);
        if !reaches_over(view.upper(), edge) {
            return Ok(self.suspect());
        }
        if let Some(pages) = &mut self.pages {
            self.ahead = self.core.page(|| pages.next())?;
        }
        // After a crash a page may reach over the next one's lower bound; the next one's records count then.
        let overlap =
            self.ahead.as_ref().map(|ahead| &*ahead.key).filter(|next| reaches_over(view.upper(), next));
        let limit = overlap.or(view.upper());
        let beyond = limit.is_none_or(|limit| self.hi.as_deref().is_some_and(|hi| limit >= hi));
        // The page may have been merged into its left neighbour, whose records have been given out.
        let lower = (*image.key < *edge).then_some(edge);
        let upper = if beyond {
            self.hi.as_deref().filter(|hi| reaches_over(limit, hi)).or(overlap)
        } else {
            overlap
        };
        self.give_out(&page, &view, Clamp { lower, upper }, out)?;
        match limit {
            Some(limit) if !beyond => replace(&mut self.edge, limit),
            _ => self.done = true,
        }
        Ok(Look::Done(()))
    }

    fn backward(&mut self, out: &mut Vec<Item>) -> Result<Look<()>> {
        let pages = self.pages.get_or_insert_with(|| match &self.edge {
            Some(edge) => self.core.pages.range::<&[u8], _>(..edge.as_slice()),
            None => self.core.pages.iter(),
        });
        let Some(Image { key, bytes }) = self.core.page(|| pages.next_back())? else {
            return Ok(self.suspect());
        };
        let page = Bytes::from_owner(bytes);
        let view = self.core.view(&key, &page)?;
        let edge = self.edge.as_deref();
        let meets = match (view.upper(), edge) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(fence), Some(edge)) => fence >= edge,
        };
        if !meets {
            return Ok(self.suspect());
        }
        let lower = (*self.lo > *key).then_some(self.lo.as_slice());
        self.give_out(&page, &view, Clamp { lower, upper: edge.filter(|_| view.upper() != edge) }, out)?;
        self.done = *key <= *self.lo;
        replace(&mut self.edge, &key);
        Ok(Look::Done(()))
    }

    /// Appends the live records of a page.
    fn give_out(
        &self,
        page: &Bytes,
        view: &PageView<'_>,
        clamp: Clamp<'_>,
        out: &mut Vec<Item>,
    ) -> Result<()> {
        let index = |bound: &[u8]| view.lower_bound(&bound::decode(bound)?);
        let clamped = || {
            let from = clamp.lower.map_or(Ok(0), index)?;
            let to = clamp.upper.map_or(Ok(view.len()), index)?;
            visible(view, from, to, self.at)
        };
        let live = clamped().map_err(|error| self.core.place.locate(error))?;
        let mut keys = Vec::with_capacity(live.iter().map(Entry::key_len).sum());
        for entry in &live {
            entry.push_key(0, &mut keys);
        }
        let keys = Bytes::from(keys);
        out.reserve(live.len());
        let give = |entry: &Entry<'_>, start: usize| {
            let value = match entry.content {
                Content::Value(value) => Some(page.slice_ref(value)),
                _ => None,
            };
            out.push(Item { key: keys.slice(start..start + entry.key_len()), seq: entry.seq, value });
        };
        in_order(&live, self.reverse, give);
        Ok(())
    }
}

/// Calls `f` for each entry with where its key starts among all of them.
fn in_order(live: &[Entry<'_>], reverse: bool, mut f: impl FnMut(&Entry<'_>, usize)) {
    let mut at = 0;
    if reverse {
        at = live.iter().map(Entry::key_len).sum();
        for entry in live.iter().rev() {
            at -= entry.key_len();
            f(entry, at);
        }
    } else {
        for entry in live {
            f(entry, at);
            at += entry.key_len();
        }
    }
}

fn replace(edge: &mut Option<Vec<u8>>, with: &[u8]) {
    let edge = edge.get_or_insert_default();
    edge.clear();
    edge.extend_from_slice(with);
}

/// The newest version at or below `at` of each key among records `from..to`, unless it is a tombstone.
fn visible<'a>(view: &PageView<'a>, from: usize, to: usize, at: Seq) -> Result<Vec<Entry<'a>>> {
    let mut live: Vec<Entry<'a>> = Vec::with_capacity(to.saturating_sub(from));
    let mut decided: Option<&[u8]> = None;
    for index in from..to {
        let entry = view.entry(index)?;
        if entry.seq > at || decided.is_some_and(|tail| page::same_bytes(tail, entry.tail)) {
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
        let core = Arc::clone(&self.core);
        while !self.done {
            core.check()?;
            core.look(|| if self.reverse { self.backward(out) } else { self.forward(out) })?;
            if out.len() > before {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
