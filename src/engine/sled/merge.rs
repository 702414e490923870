//! Merging a sorted run into the records of a page.
//!
//! Invariants: the newest version of a key stays; an older one stays while a snapshot sees it; a tombstone stays only
//! on top of something older that stays. The same run merged twice gives the same records.

use crate::error::Result;
use crate::ids::Seq;
use crate::page::{Content, Entry, PageView};
use crate::record::{KeyRange, RunRecord, is_needed};
use std::cmp::Ordering;

/// Records gathered for a page.
pub(super) struct Merge<'a, 's> {
    pub entries: Vec<Entry<'a>>,
    live: &'s [Seq],
    /// The versions of one key while they are sorted out.
    group: Vec<Entry<'a>>,
}

fn of_run<'a>(record: &RunRecord<'a>) -> Entry<'a> {
    let content = record.value.map_or(Content::Tombstone, Content::Value);
    Entry { head: &[], tail: record.key, seq: record.seq, content }
}

/// Whether a version takes all of its key's away, whatever snapshots see.
fn is_purge(entry: &Entry<'_>) -> bool {
    entry.seq == Seq::MAX && entry.content == Content::Tombstone
}

impl<'a, 's> Merge<'a, 's> {
    pub fn new(capacity: usize, live: &'s [Seq]) -> Self {
        Merge { entries: Vec::with_capacity(capacity), live, group: Vec::new() }
    }

    /// Adds the first `count` records of a page with `run`, which lies in `range`, in the place of what is there.
    pub fn page_replaced(
        &mut self,
        view: &PageView<'a>,
        count: usize,
        range: &KeyRange,
        run: &[RunRecord<'a>],
    ) -> Result<()> {
        let from = view.lower_bound(&range.lo)?.min(count);
        let to = range.hi.as_ref().map_or(Ok(count), |hi| view.lower_bound(hi))?.min(count).max(from);
        for index in 0..from {
            self.entries.push(view.entry(index)?);
        }
        self.as_given(run);
        for index in to..count {
            self.entries.push(view.entry(index)?);
        }
        Ok(())
    }

    /// Adds records as they are.
    pub fn as_given(&mut self, run: &[RunRecord<'a>]) {
        self.entries.extend(run.iter().map(of_run));
    }

    /// Adds the first `count` records of a page merged with `run`.
    pub fn page_and_run(
        &mut self,
        view: &PageView<'a>,
        count: usize,
        mut run: &[RunRecord<'a>],
    ) -> Result<()> {
        let mut index = 0;
        let mut old = (count > 0).then(|| view.entry(0)).transpose()?;
        loop {
            let order = match (&old, run.first()) {
                (Some(entry), Some(record)) => entry.cmp_key(record.key),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return Ok(()),
            };
            self.group.clear();
            if let Some(first) = old.filter(|_| order.is_le()) {
                self.group.push(first);
                loop {
                    index += 1;
                    old = (index < count).then(|| view.entry(index)).transpose()?;
                    match old {
                        Some(next) if next.same_key(&first) => self.group.push(next),
                        _ => break,
                    }
                }
            }
            let olds = self.group.len();
            if order.is_ge() {
                let key = run[0].key;
                let versions = run.iter().take_while(|record| record.key == key).count();
                self.group.extend(run[..versions].iter().map(of_run));
                run = &run[versions..];
            }
            self.close_group(olds);
        }
    }

    /// Decides on the versions of one key: the first `olds` of the group come from the page, the rest from the run.
    fn close_group(&mut self, olds: usize) {
        if let [only] = self.group[..] {
            if only.content != Content::Tombstone {
                self.entries.push(only);
            }
            return;
        }
        if olds > 0 && olds < self.group.len() && !crate::plants::is("merge-keeps-the-older") {
            // Stable, and the run's first: of two versions with one sequence, which are the same write, the run's is
            // taken.
            self.group.rotate_left(olds);
            self.group.sort_by_key(|entry| std::cmp::Reverse(entry.seq));
        }
        if is_purge(&self.group[0]) {
            return;
        }
        let start = self.entries.len();
        let mut newer: Option<Seq> = None;
        for entry in &self.group {
            if newer.is_none_or(|newer| newer != entry.seq && is_needed(self.live, entry.seq, newer)) {
                self.entries.push(*entry);
            }
            newer = Some(entry.seq);
        }
        while self.entries.len() > start
            && self.entries.last().is_some_and(|e| e.content == Content::Tombstone)
        {
            self.entries.pop();
        }
    }
}
