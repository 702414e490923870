//! Looking at the shards' disks, for those who ask how the store is.
//!
//! Invariant: nobody who asks waits for a disk longer than [`PATIENCE`], or `shard_timeout` where that is shorter, all shards
//! together; what a look that comes too late finds is there for the next who asks.

use super::State;
use crate::error::Result;
use crate::shard::{Layout, Shard};
use crate::sync::Instant;
use std::time::Duration;

/// How long who asks how the store is waits for the disks.
const PATIENCE: Duration = Duration::from_secs(1);

impl State {
    /// How long who only asks waits for the disks.
    pub fn patience(&self) -> Duration {
        PATIENCE.min(self.settings.shard_timeout)
    }

    /// Looks at all shards at once; of each in turn, whether it has answered.
    pub fn look(&self, layout: &Layout, look: fn(&Shard) -> Result<()>) -> Vec<bool> {
        let end = Instant::now() + self.patience();
        let begin = |index: usize| {
            let shard = layout.shards[index].clone();
            layout.workers[index].look(move || look(&shard))
        };
        let tickets: Vec<_> = (0..layout.shards.len()).map(begin).collect();
        let ended = |(index, ticket): (usize, Option<_>)| {
            let left = end.checked_duration_since(Instant::now()).unwrap_or_default();
            let answer = ticket.and_then(|ticket| layout.workers[index].wait_look(&ticket, left));
            if let Some(Err(error)) = &answer {
                log::debug!("shard {} cannot be looked at: {error}", layout.shards[index].id);
            }
            answer.is_some()
        };
        tickets.into_iter().enumerate().map(ended).collect()
    }
}
