//! Merging a sorted run into the records of a page.
//!
//! Invariants: the newest version of a key stays; an older one stays while a snapshot sees it; a tombstone stays only
//! on top of something older that stays. The same run merged twice gives the same records.

use super::values::{Dropped, ValueId};
use crate::error::Result;
use crate::ids::Seq;
use crate::page::{Content, Entry, Overflow, PageView};
use crate::record::{KeyRange, RunRecord, is_needed};
use std::cmp::Ordering;

/// Puts a value elsewhere.
pub(super) type Spill<'s> = dyn FnMut(&[u8], Seq, &[u8]) -> Result<Overflow> + 's;

/// Records gathered for a page.
pub(super) struct Merge<'a, 's> {
    pub entries: Vec<Entry<'a>>,
    /// Values that no page will refer to any more.
    pub dropped: Vec<Dropped>,
    live: &'s [Seq],
    inline_limit: usize,
    spill: &'s mut Spill<'s>,
    /// The versions of one key while they are sorted out.
    group: Vec<Entry<'a>>,
}

fn of_run<'a>(record: &RunRecord<'a>) -> Entry<'a> {
    let content = record.value.map_or(Content::Tombstone, Content::Value);
    Entry { head: &[], tail: record.key, seq: record.seq, content }
}

impl<'a, 's> Merge<'a, 's> {
    pub fn new(capacity: usize, live: &'s [Seq], inline_limit: usize, spill: &'s mut Spill<'s>) -> Self {
        Merge {
            entries: Vec::with_capacity(capacity),
            dropped: Vec::new(),
            live,
            inline_limit,
            spill,
            group: Vec::new(),
        }
    }

    /// Adds the first `count` records of a page as they are.
    pub fn page(&mut self, view: &PageView<'a>, count: usize) -> Result<()> {
        for index in 0..count {
            self.entries.push(view.entry(index)?);
        }
        Ok(())
    }

    /// Adds the first `count` records of a page, without those in `range`. Returns whether any was left out.
    pub fn page_without(&mut self, view: &PageView<'a>, count: usize, range: &KeyRange) -> Result<bool> {
        let from = view.lower_bound(&range.lo)?.min(count);
        let to = range.hi.as_ref().map_or(Ok(count), |hi| view.lower_bound(hi))?.min(count).max(from);
        for index in (0..from).chain(to..count) {
            self.entries.push(view.entry(index)?);
        }
        for index in (from..to).filter(|_| view.has_overflow()) {
            let entry = view.entry(index)?;
            self.drop_value(&entry);
        }
        Ok(to > from)
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
            self.close_group(olds)?;
        }
    }

    /// Decides on the versions of one key: the first `olds` of the group come from the page, the rest from the run.
    fn close_group(&mut self, olds: usize) -> Result<()> {
        if let [only] = self.group[..] {
            return match only.content {
                Content::Tombstone => Ok(()),
                _ => self.keep(only),
            };
        }
        if olds > 0 && olds < self.group.len() {
            // Stable, and the run's first: of two versions with one sequence, which are the same write, the run's is
            // taken, so that applying it again heals what lies elsewhere.
            self.group.rotate_left(olds);
            self.group.sort_by_key(|entry| std::cmp::Reverse(entry.seq));
        }
        let group = std::mem::take(&mut self.group);
        let start = self.entries.len();
        let mut newer: Option<Entry<'a>> = None;
        for entry in &group {
            match newer {
                Some(same) if same.seq == entry.seq => {
                    if !self.lies_elsewhere(&same) {
                        self.drop_value(entry);
                    }
                    continue;
                }
                Some(newer) if !is_needed(self.live, entry.seq, newer.seq) => self.drop_value(entry),
                _ => self.keep(*entry)?,
            }
            newer = Some(*entry);
        }
        while self.entries.len() > start
            && self.entries.last().is_some_and(|e| e.content == Content::Tombstone)
        {
            self.entries.pop();
        }
        self.group = group;
        Ok(())
    }

    fn lies_elsewhere(&self, entry: &Entry<'_>) -> bool {
        match entry.content {
            Content::Value(value) => value.len() > self.inline_limit,
            Content::Tombstone => false,
            Content::Overflow(_) => true,
        }
    }

    fn keep(&mut self, mut entry: Entry<'a>) -> Result<()> {
        if let Content::Value(value) = entry.content
            && value.len() > self.inline_limit
        {
            let key = entry.key();
            entry.content = Content::Overflow((self.spill)(&key, entry.seq, value)?);
        }
        self.entries.push(entry);
        Ok(())
    }

    fn drop_value(&mut self, entry: &Entry<'_>) {
        if let Content::Overflow(overflow) = entry.content {
            self.dropped.push(Dropped { id: ValueId::new(&entry.key(), entry.seq), len: overflow.len });
        }
    }
}
