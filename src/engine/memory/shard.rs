//! What a shard in memory holds, and what of it a crash may take back.

use crate::digest::hash128;
use crate::engine::Figures;
use crate::error::Error;
use crate::ids::Seq;
use crate::record::{RunRecord, is_needed};
use bytes::Bytes;
use std::collections::BTreeMap;

/// One version of a key: newest first in a key's list.
pub(super) type Version = (Seq, Option<Bytes>);
pub(super) type Records = BTreeMap<Vec<u8>, Vec<Version>>;

/// What outlives an engine: the disk, so to speak.
#[derive(Debug, Default)]
pub(super) struct Shard {
    pub records: Records,
    /// What each key changed since the last sync held then (nothing: it did not exist).
    pub undo: BTreeMap<Vec<u8>, Vec<Version>>,
    pub applied: Seq,
    pub figures: Option<Figures>,
    pub failed: Option<Error>,
    /// Counts openings and crashes: an engine of an earlier one is dead.
    pub life: u64,
    pub open: bool,
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
        self.undo.entry(key.to_vec()).or_insert(old);
        put(&mut self.records, key, versions);
    }

    pub fn merge(&mut self, key: &[u8], run: &[RunRecord<'_>], live: &[Seq]) {
        let mut all: BTreeMap<std::cmp::Reverse<Seq>, Option<Bytes>> = BTreeMap::new();
        for (seq, value) in self.records.get(key).into_iter().flatten() {
            all.insert(std::cmp::Reverse(*seq), value.clone());
        }
        for record in run {
            all.insert(std::cmp::Reverse(record.seq), record.value.map(Bytes::copy_from_slice));
        }
        let mut kept: Vec<Version> = Vec::new();
        let mut newer: Option<Seq> = None;
        let taken_away = run.first().is_some_and(|r| r.seq == Seq::MAX && r.value.is_none());
        for (std::cmp::Reverse(seq), value) in all.into_iter().filter(|_| !taken_away) {
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
