//! Changing pages: the writer's walk over the pages that a run or a removal touches, each read and written once.
//!
//! Invariants, which readers beside the writer and recovery after a crash rely on, after every single write:
//! - every bound has a page at or below it whose fence is above it (no hole), and
//! - where a page reaches over its neighbour's lower bound, the neighbour's records are the ones that count.
//!
//! Hence the order: pieces are written right to left, then the pages they replace are removed. The page at the empty
//! bound is never removed. A page left with little is not written but carried on into its right neighbour.

use super::accounts::Writer;
use super::bound;
use super::core::{Core, Image, reaches_over};
use super::merge::Merge;
use super::split::{Growth, cut};
use super::values::Dropped;
use crate::error::Result;
use crate::ids::Seq;
use crate::page::{self, Entry};
use crate::record::{KeyRange, RunRecord};
use sled::IVec;

/// A page with less than this share of its size is merged with its neighbours, until it has the other share.
const UNDERFULL: usize = 4;
const MERGED: usize = 2;
/// How many pages, and how many large values, wait for removal before a carried page is written out.
const MAX_REPLACED: usize = 128;
const MAX_DROPPED: usize = 1024;
/// How much of a run is merged at once, in pages' worth, and at least in bytes.
const CHUNK_PAGES: usize = 32;
const MIN_CHUNK_BYTES: usize = 64 << 10;

/// A page to change, with its true upper bound.
struct Loaded {
    image: Image,
    upper: Option<Vec<u8>>,
}

/// An underfull page that has not been written yet.
struct Carry {
    lower: IVec,
    upper: Vec<u8>,
    bytes: Vec<u8>,
    /// Pages whose records are in `bytes`, to be removed once that is written.
    replaced: Vec<IVec>,
    dropped: Vec<Dropped>,
}

/// The bounds between which records are being settled.
struct Span {
    lower: IVec,
    upper: Option<Vec<u8>>,
    replaced: Vec<IVec>,
}

impl Core {
    /// Merges a sorted run.
    pub fn apply(&self, run: &[RunRecord<'_>], live: &[Seq]) -> Result<()> {
        self.check()?;
        let mut writer = self.writer.lock();
        let result = self.apply_locked(&mut writer, run, live);
        *self.figures.lock() = writer.figures;
        result
    }

    fn apply_locked(&self, writer: &mut Writer, run: &[RunRecord<'_>], live: &[Seq]) -> Result<()> {
        let mut rest = run;
        let mut carry: Option<Carry> = None;
        while carry.is_some() || !rest.is_empty() {
            let loaded = match (&carry, rest.first()) {
                (Some(carry), _) => self.load(writer, &carry.upper, true)?,
                (None, Some(next)) => self.load(writer, &bound::encode(next.key), false)?,
                (None, None) => break,
            };
            let below = match &loaded.upper {
                Some(upper) => run_below(rest, &bound::decode(upper).map_err(|e| self.place.locate(e))?),
                None => rest.len(),
            };
            let taken = self.batch(&rest[..below]);
            let (now, later) = rest.split_at(taken);
            carry = self.merge_run(writer, loaded, carry, now, live, taken == below)?;
            rest = later;
        }
        Ok(())
    }

    /// How many records of `run` to merge at once.
    fn batch(&self, run: &[RunRecord<'_>]) -> usize {
        let limit = (CHUNK_PAGES * self.page_bytes).max(MIN_CHUNK_BYTES);
        let mut bytes = 0;
        for (index, record) in run.iter().enumerate() {
            let new_key = index == 0 || run[index - 1].key != record.key;
            // All versions of a key are decided on together.
            if bytes > limit && new_key {
                return index;
            }
            bytes +=
                record.key.len() + record.value.map_or(0, |value| value.len().min(self.inline_limit)) + 8;
        }
        run.len()
    }

    fn merge_run(
        &self,
        writer: &mut Writer,
        loaded: Loaded,
        carry: Option<Carry>,
        run: &[RunRecord<'_>],
        live: &[Seq],
        absorb: bool,
    ) -> Result<Option<Carry>> {
        let Loaded { image, upper } = loaded;
        let view = self.view(&image.key, &image.bytes)?;
        let carried = carry.as_ref().map(|carry| self.view(&carry.lower, &carry.bytes)).transpose()?;
        let mut spill = |key: &[u8], seq, value: &[u8]| self.write_value(key, seq, value);
        let capacity = view.len() + run.len() + carried.map_or(0, |view| view.len());
        let mut merge = Merge::new(capacity, live, self.inline_limit, &mut spill);
        if let Some(carried) = &carried {
            merge.page(carried, carried.len())?;
        }
        let count = self.kept_count(&view, upper.as_deref())?;
        let before = merge.entries.len();
        merge.page_and_run(&view, count, run)?;
        let growth = match (count.checked_sub(1), run.first()) {
            (Some(last), Some(first)) if before == 0 && view.entry(last)?.cmp_key(first.key).is_lt() => {
                Growth::AtEnd
            }
            (None, Some(_)) if before == 0 => Growth::AtEnd,
            _ => Growth::Inside,
        };
        let (entries, mut dropped) = (merge.entries, merge.dropped);
        let (span, earlier) = span(image.key.clone(), upper, carry.as_ref());
        dropped.extend(earlier);
        self.settle(writer, span, &entries, dropped, growth, absorb)
    }

    /// Removes every version of every key in `range`.
    pub fn remove_range(&self, range: &KeyRange) -> Result<()> {
        self.check()?;
        let mut writer = self.writer.lock();
        let result = self.remove_locked(&mut writer, range);
        *self.figures.lock() = writer.figures;
        result
    }

    fn remove_locked(&self, writer: &mut Writer, range: &KeyRange) -> Result<()> {
        let mut at = bound::encode(&range.lo).into_owned();
        let end = range.hi.as_deref().map(bound::encode);
        let mut carry: Option<Carry> = None;
        while carry.is_some() || end.as_deref().is_none_or(|end| at.as_slice() < end) {
            let exact = carry.is_some();
            let Loaded { image, upper } =
                self.load(writer, carry.as_ref().map_or(&at, |carry| &carry.upper), exact)?;
            let view = self.view(&image.key, &image.bytes)?;
            let carried = carry.as_ref().map(|carry| self.view(&carry.lower, &carry.bytes)).transpose()?;
            let mut spill = |key: &[u8], seq, value: &[u8]| self.write_value(key, seq, value);
            let mut merge = Merge::new(view.len(), &[], self.inline_limit, &mut spill);
            if let Some(carried) = &carried {
                merge.page(carried, carried.len())?;
            }
            let count = self.kept_count(&view, upper.as_deref())?;
            let removed = merge.page_without(&view, count, range)?;
            let next = upper.clone();
            if removed || exact {
                let (entries, mut dropped) = (merge.entries, merge.dropped);
                let (span, earlier) = span(image.key.clone(), upper, carry.as_ref());
                dropped.extend(earlier);
                carry = self.settle(writer, span, &entries, dropped, Growth::Inside, true)?;
            }
            match next {
                Some(next) => at = next,
                None => break,
            }
        }
        Ok(())
    }

    /// The page that holds `bound`, and starts there if `exact`.
    fn load(&self, writer: &Writer, bound: &[u8], exact: bool) -> Result<Loaded> {
        let image = self.floor(bound)?.ok_or_else(|| self.hole(bound))?;
        let view = self.view(&image.key, &image.bytes)?;
        if (exact && *image.key != *bound) || !reaches_over(view.upper(), bound) {
            return Err(self.hole(bound));
        }
        let mut upper = view.upper().map(<[u8]>::to_vec);
        if writer.overlaps
            && let Some(next) = self.after(&image.key)?
            && reaches_over(upper.as_deref(), &next.key)
        {
            upper = Some(next.key.to_vec());
        }
        Ok(Loaded { image, upper })
    }

    /// How many of a page's records lie below `upper`, which is its fence or, after a crash, something lower.
    fn kept_count(&self, view: &page::PageView<'_>, upper: Option<&[u8]>) -> Result<usize> {
        match upper {
            Some(upper) if view.upper() != Some(upper) => {
                view.lower_bound(&bound::decode(upper)?).map_err(|error| self.place.locate(error))
            }
            _ => Ok(view.len()),
        }
    }

    /// Cuts records into pages and writes them, or hands them back to be carried into the next page.
    fn settle(
        &self,
        writer: &mut Writer,
        span: Span,
        entries: &[Entry<'_>],
        dropped: Vec<Dropped>,
        growth: Growth,
        absorb: bool,
    ) -> Result<Option<Carry>> {
        let shared = page::shared(entries);
        let costs: Vec<u32> = entries.iter().map(|entry| page::cost(entry, shared) as u32).collect();
        let overhead = page::FIXED_BYTES + 4 + shared.prefix + span.upper.as_ref().map_or(0, Vec::len);
        let total: usize = overhead + costs.iter().map(|cost| *cost as usize).sum::<usize>();
        if let Some(upper) = &span.upper
            && absorb
            && total < self.page_bytes / if span.replaced.is_empty() { UNDERFULL } else { MERGED }
        {
            let mut bytes = Vec::with_capacity(total);
            page::encode(&span.lower, Some(upper), entries, &mut bytes);
            let upper = upper.clone();
            let carry = Carry { lower: span.lower, upper, bytes, replaced: span.replaced, dropped };
            return self.bounded(writer, carry).map(Some);
        }
        let mut starts = Vec::new();
        let cuttable = |index: usize| !entries[index].same_key(&entries[index - 1]);
        cut(&costs, overhead, self.page_bytes, growth, cuttable, &mut starts);
        self.write_pieces(writer, &span, entries, &starts)?;
        for value in dropped {
            self.remove_value(value)?;
        }
        Ok(None)
    }

    /// Writes a carried page out if much waits for it.
    fn bounded(&self, writer: &mut Writer, mut carry: Carry) -> Result<Carry> {
        if carry.replaced.len() >= MAX_REPLACED || carry.dropped.len() >= MAX_DROPPED {
            self.put(writer, &carry.lower, &carry.bytes)?;
            for key in carry.replaced.drain(..) {
                self.delete(writer, &key)?;
            }
            for value in carry.dropped.drain(..) {
                self.remove_value(value)?;
            }
        }
        Ok(carry)
    }

    fn write_pieces(
        &self,
        writer: &mut Writer,
        span: &Span,
        entries: &[Entry<'_>],
        starts: &[usize],
    ) -> Result<()> {
        let mut lowers: Vec<Vec<u8>> = Vec::with_capacity(starts.len());
        for start in &starts[1..] {
            lowers.push(bound::encode(&separator(&entries[start - 1], &entries[*start])).into_owned());
        }
        let mut page = std::mem::take(&mut writer.scratch);
        let mut end = entries.len();
        for (piece, start) in starts.iter().enumerate().rev() {
            let lower = piece.checked_sub(1).map_or(&*span.lower, |before| &lowers[before]);
            let upper = lowers.get(piece).map(Vec::as_slice).or(span.upper.as_deref());
            page::encode(lower, upper, &entries[*start..end], &mut page);
            self.put(writer, lower, &page)?;
            end = *start;
        }
        writer.scratch = page;
        for key in &span.replaced {
            if lowers.binary_search_by(|lower| lower.as_slice().cmp(key)).is_err() {
                self.delete(writer, key)?;
            }
        }
        Ok(())
    }
}

/// The bounds of a page together with what is carried into it, and the values that were dropped on the way.
fn span(key: IVec, upper: Option<Vec<u8>>, carry: Option<&Carry>) -> (Span, Vec<Dropped>) {
    match carry {
        None => (Span { lower: key, upper, replaced: Vec::new() }, Vec::new()),
        Some(carry) => {
            let mut replaced = carry.replaced.clone();
            replaced.push(key);
            (Span { lower: carry.lower.clone(), upper, replaced }, carry.dropped.clone())
        }
    }
}

/// The shortest key that is above `left` and not above `right`.
fn separator(left: &Entry<'_>, right: &Entry<'_>) -> Vec<u8> {
    let mut key = right.key();
    key.truncate(left.common_prefix(right) + 1);
    key
}

/// How many records of `run` have a key below `key`: galloping, since it is few of many.
fn run_below(run: &[RunRecord<'_>], key: &[u8]) -> usize {
    let mut high = 1;
    while high < run.len() && run[high].key < key {
        high *= 2;
    }
    let low = high / 2;
    let high = run.len().min(high + 1);
    low + run[low..high].partition_point(|record| record.key < key)
}
