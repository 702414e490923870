//! Which checkpoints of a store are of its history, and which are of one that was given up when an older copy of it was put back.
//!
//! Invariant: within a history later checkpoints, which have higher numbers, never have less. So one that has more than a later one is of
//! another: nothing that came after the later one goes on from it.

use super::checkpoint::Body;
use super::repository::BackupRepository;
use crate::error::{ErrorKind, Result};
use crate::ids::Seq;

impl BackupRepository {
    /// The checkpoints of a store that can be read, the newest first, and of each whether it is of a history that was given up.
    pub(crate) fn newest_first(
        &self,
        store: u128,
    ) -> Result<impl Iterator<Item = Result<(Body, bool)>> + '_> {
        let mut least = Seq::MAX;
        Ok(self.ids()?.into_iter().rev().filter_map(move |id| match self.load(id) {
            Ok(body) if body.store == store => {
                let is_given_up = body.seq > least;
                least = least.min(body.seq);
                Some(Ok((body, is_given_up)))
            }
            Err(error) if error.kind() == ErrorKind::Io => Some(Err(error)),
            Err(error) => {
                log::error!("checkpoint {id} cannot be used: {error}");
                None
            }
            Ok(_) => None,
        }))
    }

    /// Those of its history, the newest first.
    pub(crate) fn of_history(&self, store: u128) -> Result<impl Iterator<Item = Result<Body>> + '_> {
        let all = self.newest_first(store)?;
        Ok(all.filter_map(|found| match found {
            Ok((body, is_given_up)) => (!is_given_up).then_some(Ok(body)),
            Err(error) => Some(Err(error)),
        }))
    }
}
