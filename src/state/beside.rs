//! What is done to a shard beside its flushes: copies, comparisons, repairs, seals.
//!
//! Invariant: whoever holds a lock, and above all the turn to flush or to move records, waits for a shard's disk no longer than
//! `shard_timeout`. A shard that has not answered by then is offline, and the others go on.

use super::State;
use crate::error::Result;
use crate::shard::{Layout, Shard};

impl State {
    /// Does something to a shard on the second thread of its worker.
    pub fn beside<T: Send + 'static>(
        &self,
        layout: &Layout,
        index: usize,
        job: impl FnOnce(&Shard) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let shard = layout.shards[index].clone();
        let answer = {
            let shard = shard.clone();
            layout.workers[index].beside(self.settings.shard_timeout, move || job(&shard))
        };
        // One that is only to get another engine is given up as well: that lies on the same disk.
        answer.inspect_err(|silence| self.shard_failed(&shard, silence))?
    }
}
