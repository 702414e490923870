//! What the writer is asked to do to the pages: which of them it touches, which it leaves nothing of, and what of it is left
//! to be done beyond one.

use super::node::{Listed, Node};
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::record::{KeyRange, RunRecord};

/// What is to be changed.
#[derive(Clone, Copy)]
pub(super) enum Edit<'e> {
    Run {
        run: &'e [RunRecord<'e>],
        live: &'e [Seq],
    },
    Remove(&'e KeyRange),
    /// The run, which lies in the range, takes the place of what is there.
    Replace {
        range: &'e KeyRange,
        run: &'e [RunRecord<'e>],
    },
}

/// A page with the bound up to which its records count.
pub(super) struct Source {
    pub listed: Listed,
    pub upper: Option<Vec<u8>>,
    /// Where its part of the run ends.
    pub run_end: usize,
}

impl<'e> Edit<'e> {
    /// Whether it may be there to put damage right, which is never alone for long.
    pub fn is_repair(self) -> bool {
        matches!(self, Edit::Replace { .. })
    }

    fn range(self) -> Option<&'e KeyRange> {
        match self {
            Edit::Run { .. } => None,
            Edit::Remove(range) | Edit::Replace { range, .. } => Some(range),
        }
    }

    /// Whether it changes page `index` of the node.
    pub fn touches(self, node: &Node, index: usize) -> bool {
        let upper = node.upper(index);
        match self {
            Edit::Run { run, .. } => {
                run.first().is_some_and(|first| upper.is_none_or(|upper| first.key < upper))
            }
            Edit::Remove(range) | Edit::Replace { range, .. } => {
                upper.is_none_or(|upper| range.lo.as_slice() < upper)
                    && range.hi.as_deref().is_none_or(|hi| node.lower(index) < hi)
            }
        }
    }

    /// Whether its range, if it has one, goes on at or above `key`.
    pub fn goes_on(self, key: &[u8]) -> bool {
        self.range().is_some_and(|range| range.hi.as_deref().is_none_or(|hi| key < hi))
    }

    /// Whether it leaves nothing of the records between these bounds.
    pub fn takes_all(self, lower: &[u8], upper: Option<&[u8]>) -> bool {
        self.range().is_some_and(|range| {
            range.lo.as_slice() <= lower
                && match (range.hi.as_deref(), upper) {
                    (None, _) => true,
                    (Some(hi), Some(upper)) => upper <= hi,
                    (Some(_), None) => false,
                }
        })
    }

    /// The edit without the first `count` records of its run.
    fn without(self, count: usize) -> Edit<'e> {
        match self {
            Edit::Run { run, live } => Edit::Run { run: &run[count..], live },
            Edit::Replace { range, run } => Edit::Replace { range, run: &run[count..] },
            Edit::Remove(range) => Edit::Remove(range),
        }
    }

    /// The edit without the part of the run that lies below page `index` of the node.
    pub fn after(self, node: &Node, index: usize) -> Edit<'e> {
        let (Edit::Run { run, .. } | Edit::Replace { run, .. }) = self else { return self };
        let bound = index.checked_sub(1).and_then(|last| node.upper(last));
        self.without(bound.map_or(run.len(), |bound| run_below(run, bound)))
    }
}

/// The edit without the part of the run that the sources have.
pub(super) fn after_sources<'e>(edit: Edit<'e>, sources: &[Source]) -> Edit<'e> {
    edit.without(sources.last().map_or(0, |source| source.run_end))
}

/// How many records of `run` have a key below `key`: galloping, since it is few of many.
pub(super) fn run_below(run: &[RunRecord<'_>], key: &[u8]) -> usize {
    let mut high = 1;
    while high < run.len() && run[high].key < key {
        high *= 2;
    }
    let low = high / 2;
    let high = run.len().min(high + 1);
    low + run[low..high].partition_point(|record| record.key < key)
}

/// Whether a run may take the place of what is in `range`.
pub(in crate::engine) fn check_replacement(range: &KeyRange, run: &[RunRecord<'_>]) -> Result<()> {
    let mut before: Option<&RunRecord<'_>> = None;
    for record in run {
        let sorted = before.is_none_or(|before| (before.key, record.seq) < (record.key, before.seq));
        if !sorted || !range.contains(record.key) {
            return Err(Error::invalid(format!(
                "expected records of the range from {:02x?} to {:02x?}, in order, found {:02x?} at {}",
                range.lo, range.hi, record.key, record.seq
            )));
        }
        before = Some(record);
    }
    Ok(())
}
