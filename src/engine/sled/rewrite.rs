//! Changing pages: the writer's walk over the nodes and pages that a run or a removal touches, each read and written
//! once.
//!
//! Neighbouring pages that are touched are merged with the run as one stretch and cut into pages anew, so that pages stay
//! full. What replaces the pages of a node is written to new space first, then the node is swapped in one step, then the
//! space of the old pages is given up: a reader always finds the records of one state of the node or the other.
//!
//! Invariant: a range of keys always has a page, even if it is empty. So a page left with little is joined with a
//! neighbour, never dropped.

use super::core::Core;
use super::edit::{self, Edit, Source, after_sources, run_below};
use super::frame::Page;
use super::merge::Merge;
use super::node::{Listed, Node};
use super::root::Which;
use super::split::{Growth, cut};
use super::window::{MIN_PAGES, Window};
use super::writer::Writer;
use crate::error::Result;
use crate::ids::Seq;
use crate::page::{self, Entry, PageView};
use crate::record::{KeyRange, RunRecord};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A page with less than this share of its size is joined with a neighbour.
const UNDERFULL: usize = 4;
/// How much is merged at once, in bytes of pages: what a processor's own cache holds together with the records and the new
/// pages, and what the allocator does not map and unmap by itself each time.
const MAX_STRETCH: u64 = 192 << 10;
/// How much space may wait for a commit, in units, before one is made in the middle of a run.
const MAX_FREED_UNITS: u64 = (64 << 20) / super::space::UNIT;
/// How much of dirty nodes may wait for a commit in any case, in bytes.
const MIN_DIRTY: usize = 4 << 20;

impl Core {
    /// Merges a sorted run.
    pub fn apply(&self, run: &[RunRecord<'_>], live: &[Seq]) -> Result<()> {
        self.change(|writer| {
            let mut rest = run;
            while let Some(first) = rest.first() {
                rest = self.change_nodes(writer, first.key, Edit::Run { run: rest, live })?;
            }
            Ok(())
        })
    }

    /// Makes the one page of a new shard.
    pub fn first_page(&self, writer: &mut Writer) -> Result<()> {
        let mut window = Window::new(writer);
        window.pages.push(self.put(writer, &[], None, &[], false)?);
        self.swap(writer, window)
    }

    /// Removes every version of every key in `range`, of which pages of about `bytes` are gone through; returns where to go on.
    pub fn remove_range(&self, range: &KeyRange, bytes: u64) -> Result<Option<Vec<u8>>> {
        if range.is_empty() {
            return Ok(None);
        }
        self.change(|writer| {
            let end = self.end_of_part(range, bytes)?;
            let part = KeyRange { lo: range.lo.clone(), hi: end.clone().or_else(|| range.hi.clone()) };
            self.change_nodes(writer, &part.lo, Edit::Remove(&part))?;
            Ok(end)
        })
    }

    /// Where the first part of `range` ends, with pages of about `bytes`; none where the range does.
    fn end_of_part(&self, range: &KeyRange, bytes: u64) -> Result<Option<Vec<u8>>> {
        let (mut next, mut taken) = (range.lo.clone(), 0);
        loop {
            let node = self.node(Which::Holds(&next))?.ok_or_else(|| self.hole(&next))?;
            for index in node.find(&next)..node.len() {
                let within = |upper: &&[u8]| range.hi.as_deref().is_none_or(|hi| *upper < hi);
                let Some(upper) = node.upper(index).filter(within) else { return Ok(None) };
                taken += node.page(index).map_or(0, |page| u64::from(page.bytes));
                if taken >= bytes {
                    return Ok(Some(upper.to_vec()));
                }
                next = upper.to_vec();
            }
        }
    }

    /// Puts `run` in the place of all that is in `range`. Pages that lie wholly in it are not read, and what a commit
    /// makes of it, it makes in one step.
    pub fn replace_range(&self, range: &KeyRange, run: &[RunRecord<'_>]) -> Result<()> {
        edit::check_replacement(range, run)?;
        if range.is_empty() {
            return Ok(());
        }
        self.change(|writer| {
            writer.atomic = true;
            self.change_nodes(writer, &range.lo, Edit::Replace { range, run }).map(|_| ())
        })
    }

    fn change<T>(&self, f: impl FnOnce(&mut Writer) -> Result<T>) -> Result<T> {
        self.check()?;
        let mut writer = self.writer.lock();
        let result = f(&mut writer);
        *self.figures.lock() = writer.known();
        result
    }

    /// Changes the node that holds `key` and, while too little is left of it or the range goes on, the ones after it.
    /// Returns the part of the run that lies beyond.
    fn change_nodes<'e>(
        &self,
        writer: &mut Writer,
        key: &[u8],
        edit: Edit<'e>,
    ) -> Result<&'e [RunRecord<'e>]> {
        let mut window = Window::new(writer);
        let rest = match self.fill(writer, &mut window, key, edit) {
            Ok(rest) => rest,
            Err(error) => {
                self.abandon(writer, window);
                return Err(error);
            }
        };
        self.swap(writer, window)?;
        if writer.freed_units > MAX_FREED_UNITS
            || writer.dirty_bytes > MIN_DIRTY
                && writer.dirty_bytes as u64 > self.cache_bytes.load(Ordering::Relaxed) / 8
        {
            self.commit(writer, None)?;
        }
        match rest {
            Edit::Run { run, .. } => Ok(run),
            Edit::Remove(_) | Edit::Replace { .. } => Ok(&[]),
        }
    }

    /// Fills a window; returns what is left to be done beyond it.
    fn fill<'e>(
        &self,
        writer: &mut Writer,
        window: &mut Window,
        key: &[u8],
        mut edit: Edit<'e>,
    ) -> Result<Edit<'e>> {
        let mut next = key.to_vec();
        loop {
            let node = self.node(Which::Holds(&next))?.ok_or_else(|| self.hole(&next))?;
            let lower: Box<[u8]> = node.lower(0).into();
            let number =
                self.root.slot(&lower).map(|(number, ..)| number).ok_or_else(|| self.hole(&lower))?;
            window.old.push((lower, number));
            window.upper = node.end().map(<[u8]>::to_vec);
            edit = self.change_pages(writer, window, &node, edit)?;
            match &window.upper {
                Some(upper) if edit.goes_on(upper) => next.clone_from(upper),
                Some(upper) if window.pages.len() < MIN_PAGES && self.may_join_node(edit, upper) => {
                    next.clone_from(upper);
                }
                _ => return Ok(edit),
            }
        }
    }

    /// Whether the node that begins at `lower` is taken in only because little is left of those before. What puts damage
    /// right does not fail because of more damage beside it.
    fn may_join_node(&self, edit: Edit<'_>, lower: &[u8]) -> bool {
        !edit.is_repair() || self.node(Which::Holds(lower)).is_ok()
    }

    /// Whether a page is taken in only because little is left of those before it.
    fn may_join(&self, writer: &mut Writer, edit: Edit<'_>, node: &Node, index: usize) -> bool {
        if index >= node.len() {
            return false;
        }
        let mut sources = Vec::new();
        self.gather(&mut sources, edit, node, index);
        !edit.is_repair() || sources.iter().all(|source| self.load_source(writer, source, edit).is_ok())
    }

    /// Adds the pages of a node to a window, changed where they are touched. Returns what is left to be done.
    fn change_pages<'e>(
        &self,
        writer: &mut Writer,
        window: &mut Window,
        node: &Arc<Node>,
        mut edit: Edit<'e>,
    ) -> Result<Edit<'e>> {
        let mut index = 0;
        // The last page of the node before may have been left with little.
        let mut join = !edit.is_repair() && window.pages.last().is_some_and(|last| self.is_underfull(last));
        while index < node.len() {
            if !join && !edit.touches(node, index) {
                window.pages.extend(self.listed(node, index));
                index += 1;
                continue;
            }
            let mut sources = Vec::new();
            if join && let Some(listed) = window.pages.pop() {
                let upper = node.lower(index).to_vec();
                sources.push(Source { listed, upper: Some(upper), run_end: 0 });
            }
            join = false;
            let mut bytes = 0;
            while index < node.len()
                && bytes < MAX_STRETCH
                && (sources.is_empty() || bytes == 0 || after_sources(edit, &sources).touches(node, index))
            {
                bytes += self.gather(&mut sources, edit, node, index);
                index += 1;
            }
            let joined = sources.first().map(|source| source.listed.clone());
            let changed = self.change_stretch(writer, window, sources, edit, node, index);
            if changed.is_err() {
                // It may be one that was written for this window, whose space is given back with the window's.
                window.gone.extend(joined);
            }
            index = changed?.max(index);
            edit = edit.after(node, index);
        }
        Ok(edit)
    }

    fn listed(&self, node: &Node, index: usize) -> Option<Listed> {
        node.page(index).map(|page| Listed { lower: node.lower(index).to_vec(), page })
    }

    /// Adds a page and its part of the run to a stretch; returns its bytes.
    fn gather(&self, sources: &mut Vec<Source>, edit: Edit<'_>, node: &Node, index: usize) -> u64 {
        let Some(listed) = self.listed(node, index) else { return 0 };
        let bytes = u64::from(listed.page.bytes);
        let upper = node.upper(index).map(<[u8]>::to_vec);
        let before = sources.last().map_or(0, |source| source.run_end);
        let run_end = match (edit, &upper) {
            (Edit::Run { run, .. } | Edit::Replace { run, .. }, Some(upper)) => {
                before + run_below(&run[before..], upper)
            }
            (Edit::Run { run, .. } | Edit::Replace { run, .. }, None) => run.len(),
            (Edit::Remove(_), _) => 0,
        };
        sources.push(Source { listed, upper, run_end });
        bytes.max(1)
    }

    /// Merges a stretch and cuts it into pages anew. If little is left, the next page is taken in too; returns the index
    /// of the first page of the node that was not.
    fn change_stretch(
        &self,
        writer: &mut Writer,
        window: &mut Window,
        mut sources: Vec<Source>,
        edit: Edit<'_>,
        node: &Node,
        mut index: usize,
    ) -> Result<usize> {
        let mut loaded: Vec<Option<Page>> = Vec::new();
        loop {
            for source in &sources[loaded.len()..] {
                loaded.push(self.load_source(writer, source, edit)?);
            }
            let views: Vec<Option<PageView<'_>>> =
                loaded.iter().map(|page| page.as_ref().map(Page::view).transpose()).collect::<Result<_>>()?;
            let (entries, growth) = self.merge(&sources, &views, edit)?;
            let (Some(first), Some(last)) = (sources.first(), sources.last()) else { return Ok(index) };
            let lower = first.listed.lower.clone();
            let upper = last.upper.clone();
            let shared = page::shared(&entries);
            let costs: Vec<u32> = entries.iter().map(|entry| page::cost(entry, shared) as u32).collect();
            let overhead = super::frame::HEADER
                + lower.len()
                + page::FIXED_BYTES
                + 4
                + shared.prefix
                + upper.as_ref().map_or(0, Vec::len);
            let total: usize = overhead + costs.iter().map(|cost| *cost as usize).sum::<usize>();
            if total < self.page_bytes / UNDERFULL && self.may_join(writer, edit, node, index) {
                self.gather(&mut sources, edit, node, index);
                index += 1;
                continue;
            }
            let mut starts = Vec::new();
            let cuttable = |index: usize| !entries[index].same_key(&entries[index - 1]);
            cut(&costs, overhead, self.page_bytes, growth, cuttable, &mut starts);
            // Pages that are in memory stay there in their new form.
            let warm = sources.iter().any(|source| self.cache.peek(source.listed.page.id).is_some());
            self.write_pieces(writer, window, (&lower, upper.as_deref()), &entries, &starts, warm)?;
            window.gone.extend(sources.into_iter().map(|source| source.listed));
            for page in loaded.into_iter().flatten() {
                self.pool.give_back(page.into_frame());
            }
            return Ok(index);
        }
    }

    /// A page of a stretch; none if nothing of it will be left.
    fn load_source(&self, writer: &mut Writer, source: &Source, edit: Edit<'_>) -> Result<Option<Page>> {
        if edit.takes_all(&source.listed.lower, source.upper.as_deref()) {
            return Ok(None);
        }
        if source.listed.page.id >= writer.uncommitted {
            self.drain(writer)?;
        }
        // Not through the cache: a run that touches every page would leave nothing else in it.
        match self.cache.peek(source.listed.page.id) {
            Some(page) => Ok(Some(page)),
            None => self.verify(&source.listed.page, self.read_frame(&source.listed.page)?).map(Some),
        }
    }

    fn merge<'a>(
        &self,
        sources: &[Source],
        views: &[Option<PageView<'a>>],
        edit: Edit<'a>,
    ) -> Result<(Vec<Entry<'a>>, Growth)> {
        let live = match edit {
            Edit::Run { live, .. } => live,
            Edit::Remove(_) | Edit::Replace { .. } => &[],
        };
        let records: usize = views.iter().flatten().map(PageView::len).sum();
        let mut merge = Merge::new(records, live);
        let mut from = 0;
        let mut growth = Growth::Inside;
        for (source, view) in sources.iter().zip(views) {
            let count = view.as_ref().map_or(Ok(0), |view| self.kept_count(view, source.upper.as_deref()))?;
            let to = source.run_end.max(from);
            match (edit, view) {
                (Edit::Run { run, .. }, Some(view)) => {
                    let part = &run[from..to];
                    growth = match (count.checked_sub(1), part.first()) {
                        _ if sources.len() > 1 => Growth::Inside,
                        (Some(last), Some(first)) if view.entry(last)?.cmp_key(first.key).is_lt() => {
                            Growth::AtEnd
                        }
                        (None, Some(_)) => Growth::AtEnd,
                        _ => Growth::Inside,
                    };
                    merge.page_and_run(view, count, part)?;
                }
                (Edit::Remove(range), Some(view)) => merge.page_replaced(view, count, range, &[])?,
                (Edit::Replace { range, run }, Some(view)) => {
                    merge.page_replaced(view, count, range, &run[from..to])?;
                }
                (Edit::Replace { run, .. }, None) => merge.as_given(&run[from..to]),
                (Edit::Run { .. } | Edit::Remove(_), None) => {}
            }
            from = to;
        }
        Ok((merge.entries, growth))
    }

    /// How many of a page's records lie below `upper`, which is its fence or, after a crash, something lower.
    pub fn kept_count(&self, view: &PageView<'_>, upper: Option<&[u8]>) -> Result<usize> {
        match upper {
            Some(upper) if view.upper() != Some(upper) => {
                view.lower_bound(upper).map_err(|error| self.place.locate(error))
            }
            _ => Ok(view.len()),
        }
    }

    fn write_pieces(
        &self,
        writer: &mut Writer,
        window: &mut Window,
        (lower, upper): (&[u8], Option<&[u8]>),
        entries: &[Entry<'_>],
        starts: &[usize],
        warm: bool,
    ) -> Result<()> {
        let mut lower = lower.to_vec();
        for (piece, start) in starts.iter().enumerate() {
            let end = starts.get(piece + 1).copied().unwrap_or(entries.len());
            let between = (end < entries.len()).then(|| separator(&entries[end - 1], &entries[end]));
            let listed =
                self.put(writer, &lower, between.as_deref().or(upper), &entries[*start..end], warm)?;
            window.pages.push(listed);
            if let Some(next) = between {
                lower = next;
            }
        }
        Ok(())
    }

    fn is_underfull(&self, listed: &Listed) -> bool {
        (listed.page.bytes as usize) < self.page_bytes / UNDERFULL
    }
}

/// The shortest key that is above `left` and not above `right`.
fn separator(left: &Entry<'_>, right: &Entry<'_>) -> Vec<u8> {
    let mut key = right.key();
    key.truncate(left.common_prefix(right) + 1);
    key
}
