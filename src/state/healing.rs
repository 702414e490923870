//! What is asked for, and remembered, of the healing of shards.
//!
//! Invariants: a wish stays until it has been fulfilled or refused, and everyone who waits for it is told which; a shard that
//! could not be healed is tried again after a rest that grows with each attempt. One that was looked through in vain rests longer, as long as
//! nobody else serves than did then.

use crate::error::{Error, ErrorKind, Result};
use crate::ids::ShardId;
use crate::sync::Instant;
use crate::sync::{Condvar, Mutex};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};
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

/// What comes of a wish, once it is known.
pub type Outcome = Arc<OnceLock<Result<()>>>;

/// Wishes, and what came of them.
#[derive(Debug, Default)]
pub struct Healing {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    wishes: BTreeMap<ShardId, (Wished, Outcome)>,
    /// Why nothing can be asked for any more.
    closed: Option<Error>,
    rests: HashMap<ShardId, Rest>,
    vain: HashMap<ShardId, Vain>,
    failures: u64,
}

#[derive(Debug)]
struct Rest {
    until: Instant,
    length: Duration,
    /// Its number among all failures.
    failure: u64,
}

/// A shard was looked through, and damage was left.
#[derive(Debug)]
struct Vain {
    since: Instant,
    rest: Duration,
    /// The [health of the shards](super::State::health_version) as of then.
    health: u64,
}

impl Healing {
    /// Asks for something; none if something else is being done for the shard already.
    pub fn wish(&self, shard: ShardId, wish: Wish) -> Option<Outcome> {
        let mut inner = self.inner.lock();
        if let Some(error) = &inner.closed {
            return Some(Arc::new(Err(error.clone()).into()));
        }
        inner.rests.remove(&shard);
        inner.vain.remove(&shard);
        if let Some((there, outcome)) = inner.wishes.get(&shard) {
            return (there.what == wish).then(|| outcome.clone());
        }
        let outcome = Outcome::default();
        inner.wishes.insert(shard, (Wished { what: wish, begun: false }, outcome.clone()));
        Some(outcome)
    }

    /// What is asked for a shard.
    pub fn wished(&self, shard: ShardId) -> Option<Wished> {
        self.inner.lock().wishes.get(&shard).map(|(wish, _)| *wish)
    }

    /// What was asked for a shard has been begun.
    pub fn begun(&self, shard: ShardId) {
        if let Some((wish, _)) = self.inner.lock().wishes.get_mut(&shard) {
            wish.begun = true;
        }
    }

    /// A wish has been fulfilled, or cannot be.
    pub fn granted(&self, shard: ShardId, outcome: Result<()>) {
        if let Some((_, wish)) = self.inner.lock().wishes.remove(&shard) {
            // Nobody else sets what is no longer among the wishes.
            let _ = wish.set(outcome);
        }
        self.changed.notify_all();
    }

    /// Refuses what is asked for shards that are none of the store's any more.
    pub fn refuse_others(&self, is_there: impl Fn(ShardId) -> bool) {
        let asked: Vec<ShardId> = self.inner.lock().wishes.keys().copied().collect();
        for shard in asked.into_iter().filter(|shard| !is_there(*shard)) {
            let error = Error::new(ErrorKind::NotFound, "the shard has left the ring").on(shard);
            self.granted(shard, Err(error.remedy("see health() for the shards")));
        }
    }

    /// Waits until what was asked for has been done, or has failed; none once `limit` has passed.
    pub fn wait(&self, wish: &Outcome, limit: Option<Duration>) -> Option<Result<()>> {
        let end = limit.map(|limit| Instant::now() + limit);
        let mut inner = self.inner.lock();
        loop {
            if let Some(outcome) = wish.get() {
                return Some(outcome.clone());
            }
            match end {
                None => self.changed.wait(&mut inner),
                Some(end) if self.changed.wait_until(&mut inner, end).timed_out() => return None,
                Some(_) => {}
            }
        }
    }

    /// Nobody is to wait any longer: the store is being closed.
    pub fn close(&self, why: &Error) {
        let mut inner = self.inner.lock();
        inner.closed = Some(why.clone());
        for (_, wish) in std::mem::take(&mut inner.wishes).into_values() {
            let _ = wish.set(Err(why.clone()));
        }
        self.changed.notify_all();
    }

    /// How long a shard is to be left alone, or until it is to be looked at again whether it is; none if it may be tried now. With the
    /// [health of the shards](super::State::health_version).
    pub fn resting(&self, shard: ShardId, health: u64) -> Option<Duration> {
        let inner = self.inner.lock();
        let now = Instant::now();
        let rest = inner.rests.get(&shard).and_then(|rest| rest.until.checked_duration_since(now));
        let vain = inner.vain.get(&shard).filter(|vain| vain.health == health);
        let vain = vain.and_then(|vain| vain.rest.checked_sub(now - vain.since));
        rest.max(vain.map(|left| left.min(LONGEST_REST))).filter(|left| !left.is_zero())
    }

    /// An attempt failed: the next one comes later than the one before. Returns whether it was the first.
    pub fn rest(&self, shard: ShardId) -> bool {
        let mut inner = self.inner.lock();
        inner.failures += 1;
        let failure = inner.failures;
        let before = inner.rests.get(&shard).map(|rest| rest.length);
        let length = before.map_or(FIRST_REST, |length| (length * 2).min(LONGEST_REST));
        inner.rests.insert(shard, Rest { until: Instant::now() + length, length, failure });
        before.is_none()
    }

    /// A shard was looked through, and damage was left that nobody can put right as the shards are, of which that is the health: it may rest so
    /// much longer.
    pub fn in_vain(&self, shard: ShardId, rest: Duration, health: u64) {
        self.inner.lock().vain.insert(shard, Vain { since: Instant::now(), rest, health });
    }

    /// Whether that was so when it was looked through last.
    pub fn was_in_vain(&self, shard: ShardId) -> bool {
        self.inner.lock().vain.contains_key(&shard)
    }

    /// A number that is higher the later an attempt has failed last; 0: none has since the shard was well.
    pub fn failed(&self, shard: ShardId) -> u64 {
        self.inner.lock().rests.get(&shard).map_or(0, |rest| rest.failure)
    }

    /// Everything may be tried again at once.
    pub fn forget_rests(&self) {
        let now = Instant::now();
        let mut inner = self.inner.lock();
        inner.rests.values_mut().for_each(|rest| rest.until = now);
        inner.vain.values_mut().for_each(|vain| vain.rest = Duration::ZERO);
    }

    /// A shard is well again.
    pub fn rested(&self, shard: ShardId) {
        let mut inner = self.inner.lock();
        inner.rests.remove(&shard);
        inner.vain.remove(&shard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(3);

    #[test]
    fn everyone_who_waits_for_a_wish_is_told_what_came_of_it() {
        let healing = Healing::default();
        let wishes = [(); 2].map(|()| healing.wish(SHARD, Wish::Repair).unwrap());
        assert!(healing.wish(SHARD, Wish::Rebuild).is_none());
        assert!(healing.wait(&wishes[0], Some(Duration::ZERO)).is_none());
        healing.granted(SHARD, Err(Error::new(ErrorKind::Unavailable, "no replica is left")));
        for wish in &wishes {
            assert_eq!(healing.wait(wish, None).unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
        }
        // What comes of the next one is another thing.
        let next = healing.wish(SHARD, Wish::Rebuild).unwrap();
        healing.granted(SHARD, Ok(()));
        assert!(healing.wait(&next, None).unwrap().is_ok());
        assert!(healing.wait(&wishes[1], None).unwrap().is_err());
    }

    #[test]
    fn nobody_waits_for_a_store_that_is_closed_or_a_shard_that_has_left() {
        let healing = Healing::default();
        let (stays, leaves) =
            (healing.wish(SHARD, Wish::Repair).unwrap(), healing.wish(ShardId(4), Wish::Repair).unwrap());
        healing.refuse_others(|shard| shard == SHARD);
        assert_eq!(healing.wait(&leaves, None).unwrap().unwrap_err().kind(), ErrorKind::NotFound);
        assert!(healing.wait(&stays, Some(Duration::ZERO)).is_none());
        healing.close(&Error::new(ErrorKind::Closed, "the store has been closed"));
        let late = healing.wish(SHARD, Wish::Compact).unwrap();
        for wish in [stays, late] {
            assert_eq!(healing.wait(&wish, None).unwrap().unwrap_err().kind(), ErrorKind::Closed);
        }
    }

    #[test]
    fn a_shard_that_was_looked_through_in_vain_rests_until_others_serve() {
        let healing = Healing::default();
        let health = 7;
        assert!(healing.resting(SHARD, health).is_none() && !healing.was_in_vain(SHARD));
        healing.in_vain(SHARD, Duration::from_secs(1 << 20), health);
        assert!(healing.was_in_vain(SHARD));
        assert_eq!(
            healing.resting(SHARD, health),
            Some(LONGEST_REST),
            "whether it is so is looked at meanwhile"
        );
        assert!(healing.resting(SHARD, health + 1).is_none());
        // Whoever asks for it is not to wait.
        drop(healing.wish(SHARD, Wish::Repair));
        assert!(healing.resting(SHARD, health).is_none());
    }

    #[test]
    fn who_failed_last_is_known() {
        let healing = Healing::default();
        assert_eq!(healing.failed(SHARD), 0);
        assert!(healing.rest(SHARD) && healing.rest(ShardId(4)));
        assert!(healing.failed(SHARD) < healing.failed(ShardId(4)));
        assert!(!healing.rest(SHARD));
        assert!(healing.failed(SHARD) > healing.failed(ShardId(4)));
        healing.rested(SHARD);
        assert_eq!(healing.failed(SHARD), 0);
    }
}
