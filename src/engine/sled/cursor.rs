//! Walking over records, a page a block.
//!
//! Invariants: each block takes up where the one before ended, so nothing is skipped and nothing comes twice, whatever
//! the writer does meanwhile. Pages that are not in memory are read several at once, more with each reading, and leave no
//! trace in the cache: a scan of everything must not push out what is asked for often.

use super::core::Core;
use super::frame::Page;
use super::node::{Node, PageRef};
use super::pool::Frame;
use super::root::Which;
use super::space::{UNIT, units};
use crate::engine::Cursor;
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::page::{self, Content, Entry, PageView};
use crate::record::{Item, KeyRange};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;

/// How much is read at once, at most, in pages and in bytes: what a scan does not come to is read in vain.
const MAX_AHEAD: usize = 16;
const MAX_READ: u64 = 256 << 10;
/// A smaller value is copied beside its key: with a page's buffer free for the next one, that is cheaper than to share it.
const SHARED_VALUE: usize = 1024;
/// A larger value is left out of a scan's items and fetched when it is asked for, so that a block stays small.
const LARGE_VALUE: usize = 64 << 10;

pub(super) struct PageCursor {
    core: Arc<Core>,
    /// The bounds of the range.
    lo: Vec<u8>,
    hi: Option<Vec<u8>>,
    at: Seq,
    reverse: bool,
    done: bool,
    /// Forward: all below this key has been given out. Reverse: all at or above it, if there is one.
    edge: Option<Vec<u8>>,
    /// The node that the cursor is in, as it was then, and the page to be given out next.
    here: Option<(Arc<Node>, usize)>,
    /// Frames read ahead, in the order in which they are wanted.
    ahead: VecDeque<(u64, Frame)>,
    /// How many pages to read at once.
    pages: usize,
}

/// The bounds between which a page's records are given out, where they are not the page's own.
#[derive(Default)]
struct Clamp<'a> {
    lower: Option<&'a [u8]>,
    upper: Option<&'a [u8]>,
}

impl PageCursor {
    pub fn new(core: Arc<Core>, range: &KeyRange, at: Seq, reverse: bool) -> PageCursor {
        let (lo, hi) = (range.lo.clone(), range.hi.clone());
        PageCursor {
            core,
            edge: if reverse { hi.clone() } else { Some(lo.clone()) },
            done: range.is_empty(),
            lo,
            hi,
            at,
            reverse,
            here: None,
            ahead: VecDeque::new(),
            pages: 1,
        }
    }

    /// The node and the page in it that come next, from the newest index.
    fn seek(&self) -> Result<(Arc<Node>, usize)> {
        let edge = self.edge.as_deref();
        let which = if self.reverse { Which::Below(edge) } else { Which::Holds(edge.unwrap_or_default()) };
        let node = self.core.node(which)?.ok_or_else(|| self.core.hole(edge.unwrap_or_default()))?;
        let index = match (self.reverse, edge) {
            (false, edge) => node.find(edge.unwrap_or_default()),
            (true, Some(edge)) => node.find_below(edge),
            (true, None) => node.len() - 1,
        };
        Ok((node, index))
    }

    /// The page that comes next. A node at hand may be of before a change, and its pages overwritten since: then the newest
    /// index is asked, and only what is wrong there too is damage.
    fn next_page(&mut self) -> Result<(Arc<Node>, usize, Page)> {
        let (node, index) = match self.here.take() {
            Some(here) => here,
            None => self.seek()?,
        };
        let mut at = (node, index);
        let mut tried = None;
        loop {
            let (node, index) = at;
            let wanted =
                node.page(index).ok_or_else(|| self.core.hole(self.edge.as_deref().unwrap_or_default()))?;
            match self.load(&node, index, &wanted) {
                Ok(page) => return Ok((node, index, page)),
                Err(error) => {
                    self.ahead.clear();
                    at = self.seek()?;
                    let newest = at.0.page(at.1);
                    if newest == Some(wanted) && tried == Some(wanted) {
                        return Err(error);
                    }
                    tried = newest;
                }
            }
        }
    }

    fn load(&mut self, node: &Node, index: usize, wanted: &PageRef) -> Result<Page> {
        if let Some(page) = self.core.cache.peek(wanted.id) {
            return Ok(page);
        }
        while let Some((id, frame)) = self.ahead.pop_front() {
            if id == wanted.id {
                return self.core.verify(wanted, frame);
            }
        }
        if self.pages == 1 {
            // Where a scan begins, others begin again: the first page is kept as one that a get reads is.
            self.pages = 2;
            return self.core.load(wanted);
        }
        self.read_ahead(node, index)?;
        match self.ahead.pop_front() {
            Some((_, frame)) => self.core.verify(wanted, frame),
            None => Err(self.core.hole(self.edge.as_deref().unwrap_or_default())),
        }
    }

    /// Reads the page at `index` and those that are wanted after it, as far as they lie together.
    fn read_ahead(&mut self, node: &Node, index: usize) -> Result<()> {
        let wanted: Vec<PageRef> = if self.reverse {
            node.pages()[..=index].iter().rev().take(self.pages).copied().collect()
        } else {
            node.pages()[index..].iter().take(self.pages).copied().collect()
        };
        self.pages = (self.pages * 2).min(MAX_AHEAD);
        let (mut from, mut to) = (wanted[0].unit, wanted[0].unit + units(wanted[0].bytes));
        let mut count = 1;
        for page in &wanted[1..] {
            let end = page.unit.saturating_add(units(page.bytes));
            let joined = if self.reverse { end == from } else { page.unit == to };
            if !joined || (to - from + units(page.bytes)) * UNIT > MAX_READ {
                break;
            }
            (from, to) = (from.min(page.unit), to.max(end));
            count += 1;
        }
        if count == 1 {
            self.ahead.push_back((wanted[0].id, self.core.read_frame(&wanted[0])?));
            return Ok(());
        }
        let mut bytes = vec![0; ((to - from) * UNIT) as usize];
        let read = self.core.file.read_at(from * UNIT, &mut bytes);
        let read = read.map_err(|e| Error::io("read pages", &self.core.path, e).on(self.core.place.shard))?;
        bytes.truncate(read);
        for page in &wanted[..count] {
            let start = ((page.unit - from) * UNIT) as usize;
            // Copied apart, so that a value that is kept holds on to its page alone.
            let copy = |frame: &mut [u8]| {
                let found = bytes.get(start..start + frame.len()).unwrap_or(&[]);
                let (there, rest) = frame.split_at_mut(found.len());
                there.copy_from_slice(found);
                rest.fill(0);
                Ok::<(), Error>(())
            };
            self.ahead.push_back((page.id, self.core.pool.frame(page.bytes as usize, copy)?));
        }
        Ok(())
    }

    fn step(&mut self, out: &mut Vec<Item>) -> Result<()> {
        let (node, index, page) = self.next_page()?;
        let view = page.view()?;
        let (lower, upper) = (node.lower(index), node.upper(index));
        let edge = self.edge.as_deref();
        // Where the bounds of the page's own records are not those that count: at the range's ends, and where another
        // state of the index was at hand before.
        let from = if self.reverse { self.lo.as_slice() } else { edge.unwrap_or_default() };
        let to = if self.reverse { edge } else { self.hi.as_deref() };
        let until = match (upper, to) {
            (Some(upper), Some(to)) => Some(upper.min(to)),
            (upper, to) => upper.or(to),
        };
        let clamp = Clamp {
            lower: (from > lower).then_some(from),
            upper: until.filter(|until| view.upper() != Some(until)),
        };
        self.give_out(&page, &view, clamp, out)?;
        self.core.pool.give_back(page.into_frame());
        if self.reverse {
            self.done = lower <= self.lo.as_slice();
            replace(&mut self.edge, lower);
            self.here = index.checked_sub(1).map(|index| (Arc::clone(&node), index));
        } else {
            match upper {
                Some(upper) if self.hi.as_deref().is_none_or(|hi| upper < hi) => {
                    replace(&mut self.edge, upper)
                }
                _ => self.done = true,
            }
            self.here = (index + 1 < node.len()).then(|| (Arc::clone(&node), index + 1));
        }
        Ok(())
    }

    /// Appends the live records of a page.
    fn give_out(
        &self,
        page: &Page,
        view: &PageView<'_>,
        clamp: Clamp<'_>,
        out: &mut Vec<Item>,
    ) -> Result<()> {
        let index = |bound: &[u8]| view.lower_bound(bound);
        let clamped = || {
            let from = clamp.lower.map_or(Ok(0), index)?;
            let to = clamp.upper.map_or(Ok(view.len()), index)?;
            visible(view, from, to, self.at)
        };
        let mut live = clamped().map_err(|error| self.core.place.locate(error))?;
        if self.reverse {
            live.reverse();
        }
        let copied = |entry: &Entry<'_>| match entry.content {
            Content::Value(value) if value.len() < SHARED_VALUE => value.len(),
            _ => 0,
        };
        let mut bytes = Vec::with_capacity(live.iter().map(|entry| entry.key_len() + copied(entry)).sum());
        for entry in &live {
            entry.push_key(0, &mut bytes);
            if let Content::Value(value) = entry.content
                && value.len() < SHARED_VALUE
            {
                bytes.extend_from_slice(value);
            }
        }
        let mut bytes = Bytes::from(bytes);
        out.reserve(live.len());
        for entry in &live {
            let key = bytes.split_to(entry.key_len());
            let value = match entry.content {
                Content::Value(value) if value.len() < SHARED_VALUE => Some(bytes.split_to(value.len())),
                Content::Value(value) if value.len() <= LARGE_VALUE => Some(page.share().slice_ref(value)),
                _ => None,
            };
            out.push(Item { key, seq: entry.seq, value });
        }
        Ok(())
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
        while !self.done {
            self.core.check()?;
            self.step(out)?;
            if out.len() > before {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
