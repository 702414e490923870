//! Which checkpoints of a store are of its history, and which are of one that was given up when an older copy of it was put back.
//!
//! Invariant: within a history later checkpoints, which have higher numbers, never have less, and the openings that wrote what an earlier one has wrote that
//! of the later ones as well. So one that has more than a later one, or something of another opening, is of another: nothing that came after the later one
//! goes on from it. Where one that has more stays, so does one that shows this.

use super::checkpoint::{Body, Checkpoint, CheckpointId};
use super::lineage::{Kin, Lineage};
use super::repository::BackupRepository;
use super::unread::Unread;
use crate::error::{Error, Result};
use crate::ids::Seq;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// What a number of a checkpoint comes to in the history of a store.
pub enum Told {
    /// It is of the history.
    Body(Body),
    GivenUp(Body),
    /// It cannot be used, and nobody knows of which store it is.
    Unread(CheckpointId, Error),
}

/// What the checkpoints of each store had that were looked at, the newest first.
#[derive(Debug, Default)]
pub struct History {
    stores: BTreeMap<u128, Seen>,
}

/// What is known of the history of a store.
#[derive(Debug)]
struct Seen {
    /// What the oldest that was looked at has.
    least: Seq,
    /// Who wrote it, as far as that goes back.
    lineage: Lineage,
}

impl History {
    /// Whether the next older checkpoint of a store is of the history of those before.
    pub fn has(&mut self, store: u128, seq: Seq, lineage: &Lineage) -> bool {
        let begin = || Seen { least: seq, lineage: lineage.clone() };
        let seen = self.stores.entry(store).or_insert_with(begin);
        let kin = seen.lineage.kin(seq, lineage.owner(seq));
        if seq > seen.least || kin == Kin::Other {
            return false;
        }
        seen.least = seq;
        // The older one's goes back further.
        if kin == Kin::Same || seen.lineage.is_empty() {
            seen.lineage = lineage.clone();
        }
        true
    }
}

/// Of all checkpoints, in the order of their numbers, those of a history that was given up that are among the `kept` ones, where none of these
/// shows that they are; with each one that does.
pub fn shown_by_others(
    all: &[Checkpoint],
    kept: &BTreeSet<CheckpointId>,
) -> Vec<(CheckpointId, CheckpointId)> {
    let mut found = Vec::new();
    for (at, checkpoint) in all.iter().enumerate().filter(|(_, checkpoint)| kept.contains(&checkpoint.id)) {
        let has_less = |later: &&Checkpoint| later.store == checkpoint.store && later.seq < checkpoint.seq;
        let show = || all[at + 1..].iter().filter(has_less);
        if show().all(|later| !kept.contains(&later.id)) {
            // That one is not of what was given up itself.
            let last = show().min_by_key(|later| (later.seq, Reverse(later.id)));
            found.extend(last.map(|last| (checkpoint.id, last.id)));
        }
    }
    found
}

impl BackupRepository {
    /// The checkpoints of a store, and those that cannot be read, the newest first.
    pub(crate) fn newest_first(&self, store: u128) -> Result<impl Iterator<Item = Result<Told>> + '_> {
        let mut history = History::default();
        Ok(self.ids()?.into_iter().rev().filter_map(move |id| match self.usable_or_why(id) {
            Ok(Some(body)) if body.store == store => {
                Some(Ok(if history.has(store, body.seq, &body.history) {
                    Told::Body(body)
                } else {
                    Told::GivenUp(body)
                }))
            }
            Ok(_) => None,
            Err(Unread { error, of_all: true }) => Some(Err(error)),
            Err(Unread { error, .. }) => Some(Ok(Told::Unread(id, error))),
        }))
    }

    /// Those of its history that can be read, the newest first.
    pub(crate) fn of_history(&self, store: u128) -> Result<impl Iterator<Item = Result<Body>> + '_> {
        let all = self.newest_first(store)?;
        Ok(all.filter_map(|told| match told {
            Ok(Told::Body(body)) => Some(Ok(body)),
            Ok(Told::GivenUp(_) | Told::Unread(..)) => None,
            Err(error) => Some(Err(error)),
        }))
    }
}
