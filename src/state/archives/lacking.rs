//! What an archive lacks in the midst of it, since pieces of it are damaged, and which checkpoint lies behind what it lacks.
//!
//! Invariant: what lies behind damaged pieces is archived only when they are written down; else nothing would say that they are damaged, but a
//! restore that needs them.

use super::Archives;
use crate::backup::CheckpointId;
use crate::envelope::hex128;
use crate::ids::Seq;
use serde::{Deserialize, Serialize};

/// What an archive lacks, since it ended with pieces that were damaged, and has gone on behind them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Damaged {
    #[serde(with = "hex128")]
    pub repository: u128,
    pub first: Seq,
    pub last: Seq,
}

impl Archives {
    /// A checkpoint that has been seen to lie behind what an archive lacks up to here.
    pub fn bridge(&self, repository: u128, to: Seq) -> Option<CheckpointId> {
        let inner = self.inner.lock();
        inner.bridged.get(&repository).filter(|(upto, _)| *upto >= to).map(|(_, by)| *by)
    }

    pub fn bridged(&self, repository: u128, to: Seq, by: CheckpointId) {
        self.inner.lock().bridged.insert(repository, (to, by));
    }

    /// The first and the last of the sequences that an archive lacks, for each time that what it ended with was damaged: with pieces behind
    /// that, nothing else says so.
    pub fn damaged(&self, repository: u128) -> Vec<(Seq, Seq)> {
        let inner = self.inner.lock();
        let own = inner.saved.damaged.iter().filter(|damaged| damaged.repository == repository);
        own.map(|damaged| (damaged.first, damaged.last)).collect()
    }

    /// An archive ends with these sequences, and the pieces with them are damaged. That is durable when [`reached`](Archives::reached) is.
    pub fn found_damaged(&self, repository: u128, first: Seq, last: Seq) {
        let mut inner = self.inner.lock();
        // It was forgotten meanwhile.
        if inner.get(repository).is_none() {
            return;
        }
        let mut found = Damaged { repository, first, last };
        let apart =
            |other: &Damaged| other.repository != repository || other.last < first || last < other.first;
        for other in inner.saved.damaged.iter().filter(|other| !apart(other)) {
            found.first = found.first.min(other.first);
            found.last = found.last.max(other.last);
        }
        if inner.saved.damaged.contains(&found) {
            return;
        }
        inner.saved.damaged.retain(apart);
        inner.saved.damaged.push(found);
        inner.unsaved = true;
    }

    /// Of what an archive has been found to lack, what ends at one of these sequences is no longer to be told: it has it again, or its own
    /// beginning lies behind.
    pub fn mended(&self, repository: u128, ends: impl Fn(Seq) -> bool) {
        let mut inner = self.inner.lock();
        let before = inner.saved.damaged.len();
        inner.saved.damaged.retain(|damaged| damaged.repository != repository || !ends(damaged.last));
        // Written down with whatever is next: until then it is looked at again.
        inner.unsaved |= inner.saved.damaged.len() < before;
    }
}
