//! What a shard in memory holds, and what of it a crash may take back.

use crate::digest::hash128;
use crate::engine::Figures;
use crate::error::{Error, Result};
use crate::ids::{Seq, ShardId};
use crate::record::{KeyRange, RunRecord, is_needed};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;

/// One version of a key: newest first in a key's list.
pub(super) type Version = (Seq, Option<Bytes>);
pub(super) type Records = BTreeMap<Vec<u8>, Vec<Version>>;

/// What outlives an engine: the disk, so to speak.
#[derive(Debug, Default, Clone)]
pub(super) struct Shard {
    pub records: Records,
    /// What each key changed since the last sync held then (nothing: it did not exist).
    pub undo: BTreeMap<Vec<u8>, Vec<Version>>,
    /// Ranges that were replaced since the last sync, none of which meets another, and the damage that was put right so.
    pub replaced: Vec<Replaced>,
    /// What each key that ever changed held before the last change.
    pub before: BTreeMap<Vec<u8>, Vec<Version>>,
    pub id: ShardId,
    pub applied: Seq,
    pub figures: Option<Figures>,
    pub failed: Option<Error>,
    /// Counts openings and crashes: an engine of an earlier one is dead.
    pub life: u64,
    pub open: bool,
}

/// A range that a crash takes back as a whole.
#[derive(Debug, Clone)]
pub(super) struct Replaced {
    pub range: KeyRange,
    pub damage: Vec<KeyRange>,
}

/// Whether some key lies in both.
pub(super) fn meet(a: &KeyRange, b: &KeyRange) -> bool {
    let below = |lo: &[u8], hi: &Option<Vec<u8>>| hi.as_deref().is_none_or(|hi| lo < hi);
    !a.is_empty() && !b.is_empty() && below(&a.lo, &b.hi) && below(&b.lo, &a.hi)
}

/// Whether every key of `b` lies in `a`.
pub(super) fn covers(a: &KeyRange, b: &KeyRange) -> bool {
    let ends = match (&a.hi, &b.hi) {
        (None, _) => true,
        (Some(a), Some(b)) => b <= a,
        (Some(_), None) => false,
    };
    a.lo <= b.lo && ends
}

/// What a key adds to the figures: in memory, every key is a page.
pub(super) fn figures_of(key: &[u8], versions: &[Version]) -> Figures {
    if versions.is_empty() {
        return Figures::default();
    }
    let mut parts = vec![key.to_vec()];
    for (seq, value) in versions {
        parts.push(seq.0.to_le_bytes().to_vec());
        parts.push(value.as_ref().map_or_else(Vec::new, |value| [&[1], &value[..]].concat()));
    }
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    Figures { pages: 1, records: versions.len() as u64, set_hash: hash128(&parts) }
}

pub(super) fn put(records: &mut Records, key: &[u8], versions: Vec<Version>) {
    if versions.is_empty() {
        records.remove(key);
    } else {
        records.insert(key.to_vec(), versions);
    }
}

impl Shard {
    /// Replaces the versions of a key, keeping the figures and what a crash may go back to.
    pub fn change(&mut self, key: &[u8], versions: Vec<Version>) {
        let old = self.records.get(key).cloned().unwrap_or_default();
        if let Some(figures) = &mut self.figures {
            let (minus, plus) = (figures_of(key, &old), figures_of(key, &versions));
            figures.pages = figures.pages.wrapping_add(plus.pages).wrapping_sub(minus.pages);
            figures.records = figures.records.wrapping_add(plus.records).wrapping_sub(minus.records);
            figures.set_hash = figures.set_hash.wrapping_add(plus.set_hash).wrapping_sub(minus.set_hash);
        }
        if old != versions {
            self.before.insert(key.to_vec(), old.clone());
        }
        self.undo.entry(key.to_vec()).or_insert(old);
        put(&mut self.records, key, versions);
    }

    /// Replaces the versions of a key as damage would: nothing takes note of it, and no crash undoes it.
    pub fn forge(&mut self, key: &[u8], versions: Vec<Version>) {
        self.undo.remove(key);
        put(&mut self.records, key, versions);
    }

    /// Puts `run` in the place of what is in `range`.
    pub fn replace(&mut self, range: &KeyRange, run: &[RunRecord<'_>], mut damage: Vec<KeyRange>) {
        let keys: Vec<Vec<u8>> = self.keys_in(range);
        let mut new: BTreeMap<Vec<u8>, Vec<Version>> =
            keys.into_iter().map(|key| (key, Vec::new())).collect();
        for record in run {
            let version = (record.seq, record.value.map(Bytes::copy_from_slice));
            new.entry(record.key.to_vec()).or_default().push(version);
        }
        for (key, versions) in new {
            self.change(&key, versions);
        }
        let mut whole = range.clone();
        for met in self.replaced.extract_if(.., |replaced| meet(&replaced.range, range)) {
            whole.lo = whole.lo.min(met.range.lo);
            whole.hi = whole.hi.zip(met.range.hi).map(|(a, b)| a.max(b));
            damage.extend(met.damage);
        }
        self.replaced.push(Replaced { range: whole, damage });
    }

    /// Whoever has it open finds his engine dead.
    pub fn die(&mut self) {
        self.life += 1;
        self.open = false;
    }

    /// Takes note of a failure in writing, which is final.
    pub fn stop_at(&mut self, fault: Result<()>) -> Result<()> {
        if let Err(error) = &fault {
            self.failed = Some(error.clone());
        }
        fault
    }

    pub fn keys_in(&self, range: &KeyRange) -> Vec<Vec<u8>> {
        if range.is_empty() {
            return Vec::new();
        }
        let below = range.hi.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let bounds = (Bound::Included(range.lo.as_slice()), below);
        self.records.range::<[u8], _>(bounds).map(|(key, _)| key.clone()).collect()
    }

    pub fn merge(&mut self, key: &[u8], run: &[RunRecord<'_>], live: &[Seq]) {
        let mut all: BTreeMap<std::cmp::Reverse<Seq>, Option<Bytes>> = BTreeMap::new();
        for (seq, value) in self.records.get(key).into_iter().flatten() {
            all.insert(std::cmp::Reverse(*seq), value.clone());
        }
        for record in run {
            all.insert(std::cmp::Reverse(record.seq), record.value.map(Bytes::copy_from_slice));
        }
        // A removal above every version takes all of them away, whatever snapshots see.
        if run.first().is_some_and(|newest| newest.seq == Seq::MAX && newest.value.is_none()) {
            return self.change(key, Vec::new());
        }
        let mut kept: Vec<Version> = Vec::new();
        let mut newer: Option<Seq> = None;
        for (std::cmp::Reverse(seq), value) in all {
            if newer.is_none_or(|newer| is_needed(live, seq, newer)) {
                kept.push((seq, value));
            }
            newer = Some(seq);
        }
        while kept.last().is_some_and(|(_, value)| value.is_none()) {
            kept.pop();
        }
        self.change(key, kept);
    }
}

pub(super) fn visible(versions: &[Version], at: Seq) -> Option<(Seq, &Bytes)> {
    let (seq, value) = versions.iter().find(|(seq, _)| *seq <= at)?;
    value.as_ref().map(|value| (*seq, value))
}
