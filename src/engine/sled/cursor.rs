//! Walking over records, a page a block.
//!
//! Invariants: each block takes up where the one before ended, so nothing is skipped and nothing comes twice, whatever
//! the writer does meanwhile. Pages that are not in memory are read several at once, more with each reading, and leave no
//! trace in the cache: a scan of everything must not push out what is asked for often. A cursor that rests holds the page
//! at hand and those read ahead, and does not keep the shard open.

use super::core::Core;
use super::frame::Page;
use super::node::{Node, PageRef};
use super::pool::Frame;
use super::root::Which;
use super::space::{UNIT, units};
use crate::engine::{Block, Cursor, Walk};
use crate::error::Result;
use crate::ids::ShardId;
use crate::page::{PageView, Wanted};
use std::collections::VecDeque;
use std::sync::{Arc, Weak};

/// How much is read at once, at most, in pages and in bytes: what a scan does not come to is read in vain.
const MAX_AHEAD: usize = 16;
const MAX_READ: u64 = 256 << 10;
/// A scan's first pages on a shard, which are read one by one.
const KEPT_PAGES: usize = 2;
/// A larger value is left out of a scan's records and fetched when it is asked for, so that a block stays small.
const LARGE_VALUE: usize = 64 << 10;

pub(super) struct PageCursor {
    core: Weak<Core>,
    shard: ShardId,
    walk: Arc<Walk>,
    done: bool,
    /// Forward: all below this key has been given out. Reverse: all at or above it, if there is one.
    edge: Option<Vec<u8>>,
    /// The node that the cursor is in, as it was then, and the page to be given out next.
    here: Option<(Arc<Node>, usize)>,
    /// The page that was given out last, whose buffer is used again.
    given: Option<Frame>,
    ahead: Ahead,
    /// How many of the first pages have been read.
    kept: usize,
    /// How many pages to read at once.
    pages: usize,
}

/// Frames read ahead.
#[derive(Default)]
struct Ahead {
    /// Read in one piece, and used again once no block refers to it.
    buffer: Option<Arc<[u8]>>,
    /// The pages in it and where each begins, in the order in which they are wanted.
    pages: VecDeque<(u64, usize)>,
}

/// A verified page: where it lies in the bytes that hold it.
struct Piece {
    bytes: Arc<[u8]>,
    start: usize,
    end: usize,
}

impl Ahead {
    /// A buffer of at least `len` bytes that nobody else sees.
    fn buffer(&mut self, len: usize) -> Arc<[u8]> {
        self.pages.clear();
        // One that was made for a large value is let go.
        let usual = len.max(2 * MAX_READ as usize);
        let fits =
            |buffer: &mut Arc<[u8]>| (len..=usual).contains(&buffer.len()) && Arc::get_mut(buffer).is_some();
        self.buffer
            .take()
            .and_then(|mut buffer| fits(&mut buffer).then_some(buffer))
            .unwrap_or_else(|| std::iter::repeat_n(0, len).collect())
    }
}

impl PageCursor {
    pub fn new(core: &Arc<Core>, walk: &Arc<Walk>) -> PageCursor {
        let range = &walk.range;
        PageCursor {
            core: Arc::downgrade(core),
            shard: core.place.shard,
            edge: if walk.reverse { range.hi.clone() } else { Some(range.lo.clone()) },
            done: range.is_empty(),
            walk: Arc::clone(walk),
            here: None,
            given: None,
            ahead: Ahead::default(),
            kept: 0,
            pages: 2,
        }
    }

    /// The node and the page in it that come next, from the newest index.
    fn seek(&self, core: &Core) -> Result<(Arc<Node>, usize)> {
        let edge = self.edge.as_deref();
        let which =
            if self.walk.reverse { Which::Below(edge) } else { Which::Holds(edge.unwrap_or_default()) };
        let node = core.node(which)?.ok_or_else(|| core.hole(edge.unwrap_or_default()))?;
        let index = match (self.walk.reverse, edge) {
            (false, edge) => node.find(edge.unwrap_or_default()),
            (true, Some(edge)) => node.find_below(edge),
            (true, None) => node.len() - 1,
        };
        Ok((node, index))
    }

    /// The page that comes next. A node at hand may be of before a change, and its pages overwritten since: then the newest
    /// index is asked, and only what is wrong there too is damage.
    fn next_page(&mut self, core: &Core) -> Result<(Arc<Node>, usize, Piece)> {
        let (node, index) = match self.here.take() {
            Some(here) => here,
            None => self.seek(core)?,
        };
        let mut at = (node, index);
        let mut tried = None;
        loop {
            let (node, index) = at;
            let wanted =
                node.page(index).ok_or_else(|| core.hole(self.edge.as_deref().unwrap_or_default()))?;
            match self.load(core, &node, index, &wanted) {
                Ok(piece) => return Ok((node, index, piece)),
                Err(error) => {
                    self.ahead.pages.clear();
                    at = self.seek(core)?;
                    let newest = at.0.page(at.1);
                    if newest == Some(wanted) && tried == Some(wanted) {
                        return Err(error);
                    }
                    tried = newest;
                }
            }
        }
    }

    fn load(&mut self, core: &Core, node: &Node, index: usize, wanted: &PageRef) -> Result<Piece> {
        if let Some(page) = core.cache.peek(wanted.id) {
            return Ok(self.keep(page));
        }
        while let Some((id, start)) = self.ahead.pages.pop_front() {
            if id == wanted.id {
                return self.verify_ahead(core, wanted, start);
            }
        }
        if self.kept < KEPT_PAGES {
            // Where a scan begins, others begin again: its first pages are kept as one that a get reads is.
            self.kept += 1;
            let page = core.load(wanted)?;
            return Ok(self.keep(page));
        }
        self.read_ahead(core, node, index)?;
        match self.ahead.pages.pop_front() {
            Some((_, start)) => self.verify_ahead(core, wanted, start),
            None => Err(core.hole(self.edge.as_deref().unwrap_or_default())),
        }
    }

    fn keep(&mut self, page: Page) -> Piece {
        let len = page.len();
        let frame = page.into_frame();
        let piece = Piece { bytes: Arc::clone(frame.whole()), start: frame.len() - len, end: frame.len() };
        self.given = Some(frame);
        piece
    }

    fn verify_ahead(&self, core: &Core, wanted: &PageRef, start: usize) -> Result<Piece> {
        let bytes = self.ahead.buffer.clone().unwrap_or_else(|| Arc::new([]));
        let end = start.saturating_add(wanted.bytes as usize);
        let page = core.verified(wanted, bytes.get(start..end).unwrap_or_default())?;
        Ok(Piece { bytes, start: start + page, end })
    }

    /// Reads the page at `index` and those that are wanted after it, as far as they lie together.
    fn read_ahead(&mut self, core: &Core, node: &Node, index: usize) -> Result<()> {
        let reverse = self.walk.reverse;
        let count = self.pages;
        // Pages that the range does not reach are not read.
        let last = match &self.walk.range.hi {
            Some(hi) if !reverse => node.find_below(hi),
            _ => node.len() - 1,
        };
        let first = if reverse { node.find(&self.walk.range.lo) } else { 0 };
        let wanted = |step: usize| -> Option<&PageRef> {
            let at = if reverse { index.checked_sub(step)? } else { index + step };
            node.pages().get(at).filter(|_| step < count && (step == 0 || (first..=last).contains(&at)))
        };
        self.pages = (self.pages * 2).min(MAX_AHEAD);
        let Some(first) = wanted(0) else { return Ok(()) };
        let (mut from, mut to) = (first.unit, first.unit + units(first.bytes));
        let mut joined = 1;
        while let Some(page) = wanted(joined) {
            let end = page.unit.saturating_add(units(page.bytes));
            let meets = if reverse { end == from } else { page.unit == to };
            if !meets || (to - from + units(page.bytes)) * UNIT > MAX_READ {
                break;
            }
            (from, to) = (from.min(page.unit), to.max(end));
            joined += 1;
        }
        let len = ((to - from) * UNIT) as usize;
        let mut buffer = self.ahead.buffer(len);
        if let Some(bytes) = Arc::get_mut(&mut buffer) {
            // The last frame's unit need not be there whole.
            core.read_soon("read pages", from * UNIT, &mut bytes[..len])?;
        }
        self.ahead.buffer = Some(buffer);
        for page in (0..joined).filter_map(wanted) {
            self.ahead.pages.push_back((page.id, ((page.unit - from) * UNIT) as usize));
        }
        Ok(())
    }

    fn step(&mut self, core: &Core, block: &mut Block) -> Result<()> {
        let (node, index, piece) = self.next_page(core)?;
        let walk = &*self.walk;
        let view = PageView::verified(&piece.bytes[piece.start..piece.end])?;
        let (lower, upper) = (node.lower(index), node.upper(index));
        let edge = self.edge.as_deref();
        // Where the bounds of the page's own records are not those that count: at the range's ends, and where another
        // state of the index was at hand before.
        let (lo, hi) = (walk.range.lo.as_slice(), walk.range.hi.as_deref());
        let from = if walk.reverse { lo } else { edge.unwrap_or_default() };
        let to = if walk.reverse { edge } else { hi };
        let until = match (upper, to) {
            (Some(upper), Some(to)) => Some(upper.min(to)),
            (upper, to) => upper.or(to),
        };
        let place = |bound: &[u8]| view.lower_bound(bound).map_err(|error| core.place.locate(error));
        let first = if from > lower { place(from)? } else { 0 };
        let last = match until {
            Some(until) if view.upper() != Some(until) => place(until)?,
            _ => view.len(),
        };
        let wanted =
            Wanted { at: walk.at, reverse: walk.reverse, stem_from: walk.stem_from, carried: LARGE_VALUE };
        let filled = view.walk(first, last, &wanted, &mut block.rows);
        filled.map_err(|error| core.place.locate(error))?;
        block.prefix.clear();
        block.prefix.extend_from_slice(view.prefix());
        block.base = piece.end - view.records().len();
        block.bytes = Some(piece.bytes);
        if walk.reverse {
            self.done = lower <= lo;
            replace(&mut self.edge, lower);
            self.here = index.checked_sub(1).map(|index| (node, index));
        } else {
            match upper {
                Some(upper) if hi.is_none_or(|hi| upper < hi) => replace(&mut self.edge, upper),
                _ => self.done = true,
            }
            self.here = (index + 1 < node.len()).then_some((node, index + 1));
        }
        Ok(())
    }

    /// Gives the page at hand back; only a block may still refer to it.
    fn let_go(&mut self, core: &Core) {
        if let Some(frame) = self.given.take() {
            core.pool.give_back(frame);
        }
    }
}

fn replace(edge: &mut Option<Vec<u8>>, with: &[u8]) {
    let edge = edge.get_or_insert_default();
    edge.clear();
    edge.extend_from_slice(with);
}

impl Cursor for PageCursor {
    fn next_block(&mut self, block: &mut Block) -> Result<bool> {
        block.clear();
        let core = self.core.upgrade().ok_or_else(|| super::closed(self.shard))?;
        while !self.done && block.is_empty() {
            core.check_readable()?;
            block.clear();
            self.let_go(&core);
            self.step(&core, block)?;
        }
        if block.is_empty() {
            block.clear();
        }
        Ok(!block.is_empty())
    }

    fn next_key(&self) -> Result<Option<Vec<u8>>> {
        if self.done {
            return Ok(None);
        }
        if !self.walk.reverse {
            return Ok(self.edge.clone());
        }
        let core = self.core.upgrade().ok_or_else(|| super::closed(self.shard))?;
        let (node, index) = self.seek(&core)?;
        Ok(Some(node.lower(index).to_vec()))
    }
}

impl Drop for PageCursor {
    fn drop(&mut self) {
        if self.given.is_some()
            && let Some(core) = self.core.upgrade()
        {
            self.let_go(&core);
        }
    }
}
