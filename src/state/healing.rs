//! What is asked for, and remembered, of the healing of shards.
//!
//! Invariants: a wish stays until it has been fulfilled or refused; a shard that could not be healed is tried again after a
//! rest that grows with each attempt.

use crate::error::{Error, Result};
use crate::ids::ShardId;
use crate::sync::Instant;
use crate::sync::{Condvar, Mutex};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

const FIRST_REST: Duration = Duration::from_millis(100);
const LONGEST_REST: Duration = Duration::from_secs(30);

/// What a user asks for a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// It is to be made whole again, by whatever that takes.
    Repair,
    /// It is to be filled anew from its replicas, whatever state it is in.
    Rebuild,
    /// It is to be rewritten, so that it takes no more space than its records need.
    Compact,
}

/// A wish, and whether its fulfilment has been begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wished {
    pub what: Wish,
    pub begun: bool,
}

/// Wishes, and what came of them.
#[derive(Debug, Default)]
pub struct Healing {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    wishes: BTreeMap<ShardId, Wished>,
    /// What a wish that could not be fulfilled failed with.
    refused: HashMap<ShardId, Error>,
    rests: HashMap<ShardId, Rest>,
}

#[derive(Debug)]
struct Rest {
    until: Instant,
    length: Duration,
}

impl Healing {
    /// Asks for something; false if something is being done for the shard already.
    pub fn wish(&self, shard: ShardId, wish: Wish) -> bool {
        let mut inner = self.inner.lock();
        inner.refused.remove(&shard);
        inner.rests.remove(&shard);
        match inner.wishes.get(&shard) {
            Some(there) => there.what == wish,
            None => inner.wishes.insert(shard, Wished { what: wish, begun: false }).is_none(),
        }
    }

    /// What is asked for a shard.
    pub fn wished(&self, shard: ShardId) -> Option<Wished> {
        self.inner.lock().wishes.get(&shard).copied()
    }

    /// What was asked for a shard has been begun.
    pub fn begun(&self, shard: ShardId) {
        if let Some(wish) = self.inner.lock().wishes.get_mut(&shard) {
            wish.begun = true;
        }
    }

    /// A wish has been fulfilled, or cannot be.
    pub fn granted(&self, shard: ShardId, outcome: Result<()>) {
        let mut inner = self.inner.lock();
        inner.wishes.remove(&shard);
        if let Err(error) = outcome {
            inner.refused.insert(shard, error);
        }
        self.changed.notify_all();
    }

    /// Waits until what was asked for a shard has been done, or has failed; none once `limit` has passed.
    pub fn wait(&self, shard: ShardId, limit: Option<Duration>) -> Option<Result<()>> {
        let end = limit.map(|limit| Instant::now() + limit);
        let mut inner = self.inner.lock();
        while inner.wishes.contains_key(&shard) {
            match end {
                None => self.changed.wait(&mut inner),
                Some(end) if self.changed.wait_until(&mut inner, end).timed_out() => return None,
                Some(_) => {}
            }
        }
        Some(inner.refused.remove(&shard).map_or(Ok(()), Err))
    }

    /// Nobody is to wait any longer: the store is being closed.
    pub fn close(&self, why: &Error) {
        let mut inner = self.inner.lock();
        let open: Vec<ShardId> = inner.wishes.keys().copied().collect();
        inner.wishes.clear();
        inner.refused.extend(open.into_iter().map(|shard| (shard, why.clone())));
        self.changed.notify_all();
    }

    /// How long a shard is to be left alone; none if it may be tried now.
    pub fn resting(&self, shard: ShardId) -> Option<Duration> {
        let inner = self.inner.lock();
        let left = inner.rests.get(&shard)?.until.checked_duration_since(Instant::now())?;
        (!left.is_zero()).then_some(left)
    }

    /// An attempt failed: the next one comes later than the one before. Returns whether it was the first.
    pub fn rest(&self, shard: ShardId) -> bool {
        let mut inner = self.inner.lock();
        let before = inner.rests.get(&shard).map(|rest| rest.length);
        let length = before.map_or(FIRST_REST, |length| (length * 2).min(LONGEST_REST));
        inner.rests.insert(shard, Rest { until: Instant::now() + length, length });
        before.is_none()
    }

    /// Everything may be tried again at once.
    pub fn forget_rests(&self) {
        let now = Instant::now();
        self.inner.lock().rests.values_mut().for_each(|rest| rest.until = now);
    }

    /// A shard is well again.
    pub fn rested(&self, shard: ShardId) {
        self.inner.lock().rests.remove(&shard);
    }
}
