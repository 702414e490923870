//! Admission of writes: when they come faster than the shards take them, each is delayed a little, in place of all of
//! them stopping at once (the idea of RocksDB's delayed write rate).
//!
//! Invariants: below the soft limit nobody waits; at the hard limit everybody waits until a flush has made room, or gets
//! the error that keeps flushes from doing so. That error they also get as soon as the journal has so much that is to be flushed, though
//! memory may hold little of it, as where the same keys are written over and over.

use crate::error::{Error, Result};
use crate::sync::Instant;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex};
use std::sync::Arc;
use std::time::Duration;

/// No single delay is longer, so that the slowest write stays far from a second.
const LONGEST_DELAY: Duration = Duration::from_millis(4);
/// Shorter delays are saved up: sleeping costs more than they are worth.
const SHORTEST_DELAY: Duration = Duration::from_micros(300);
/// The guess before the first flush has been measured, in bytes a second.
const FIRST_RATE: u64 = 64 << 20;

/// Decides how long a write waits.
#[derive(Debug)]
pub struct Pace {
    /// Bytes that the memtables may hold.
    hard: u64,
    start: Instant,
    // Bytes of the table being flushed that are in the shards already.
    drained: Arc<AtomicU64>,
    // Bytes a second that flushes take.
    rate: AtomicU64,
    // Whether somebody waits for a flush: writes are delayed, or it was asked for.
    haste: Arc<AtomicBool>,
    // How many have asked for a flush and wait for it.
    asked: AtomicU64,
    // Nanoseconds since `start` at which the next paced write may go.
    next: AtomicU64,
    delayed: AtomicU64,
    stuck: Mutex<Option<Error>>,
    room: Condvar,
}

/// A wait for flushes, see [`Pace::ask`].
#[derive(Debug)]
pub struct Asked<'a>(&'a Pace);

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.asked.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pace {
    pub fn new(hard: u64) -> Pace {
        Pace {
            hard,
            start: Instant::now(),
            drained: Arc::new(AtomicU64::new(0)),
            rate: AtomicU64::new(FIRST_RATE),
            haste: Arc::default(),
            asked: AtomicU64::new(0),
            next: AtomicU64::new(0),
            delayed: AtomicU64::new(0),
            stuck: Mutex::new(None),
            room: Condvar::new(),
        }
    }

    /// Lets a write of `bytes` through, after its delay. `held` reads what the memtables hold, and `unflushed` is what of the journal is to
    /// be flushed.
    pub fn admit(&self, bytes: u64, unflushed: u64, held: impl Fn() -> u64) -> Result<()> {
        if unflushed >= self.hard
            && let Some(error) = self.cause()
        {
            return Err(error);
        }
        let soft = self.hard / 2;
        let now_held = held();
        if now_held < soft {
            return Ok(());
        }
        if now_held >= self.hard {
            self.wait_for_room(&held)?;
        }
        let held = held();
        let pressure = held.saturating_sub(self.drained.load(Ordering::Relaxed));
        let part = |of: u64, from: u64, to: u64| {
            of.saturating_sub(from) as f64 / to.saturating_sub(from).max(1) as f64
        };
        // What is in the shards already is not given back before its table's last record is, so memory counts as well.
        let over =
            part(pressure, soft, self.hard / 5 * 4).max(part(held, self.hard / 4 * 3, self.hard / 20 * 19));
        if over <= 0.0 {
            return Ok(());
        }
        self.hurry();
        // The pace falls from twice the speed of the flushes to a trickle, so it settles where writes come as fast as
        // they go.
        let rate = self.rate.load(Ordering::Relaxed).max(1 << 16) as f64 * (2.0 - 1.95 * over.min(1.0));
        self.delay(Duration::from_secs_f64(bytes as f64 / rate));
        Ok(())
    }

    fn delay(&self, delay: Duration) {
        let now = self.start.elapsed().as_nanos() as u64;
        let cost = delay.as_nanos() as u64;
        let turn =
            |next: u64| Some(next.max(now).saturating_add(cost).min(now + LONGEST_DELAY.as_nanos() as u64));
        // The closure never declines, so both arms hold the value before.
        let (Ok(before) | Err(before)) = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, turn);
        let wait = Duration::from_nanos(before.saturating_sub(now));
        if wait >= SHORTEST_DELAY {
            self.delayed.fetch_add(1, Ordering::Relaxed);
            crate::sync::thread::sleep(wait.min(LONGEST_DELAY));
        }
    }

    fn wait_for_room(&self, held: &impl Fn() -> u64) -> Result<()> {
        let mut stuck = self.stuck.lock();
        while held() >= self.hard {
            if let Some(error) = &*stuck {
                return Err(error.clone());
            }
            self.delayed.fetch_add(1, Ordering::Relaxed);
            // A signal can fall between the look and the wait, hence the limit.
            self.room.wait_for(&mut stuck, Duration::from_millis(20));
        }
        Ok(())
    }

    /// Takes note that the caller waits for flushes, until it drops what it gets: they may take all processors.
    pub fn ask(&self) -> Asked<'_> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.hurry();
        Asked(self)
    }

    fn hurry(&self) {
        // Read first: a line that nobody writes is not fetched by all that look.
        if !self.haste.load(Ordering::Relaxed) {
            self.haste.store(true, Ordering::Relaxed);
        }
    }

    /// Whether somebody waits for a flush.
    pub fn haste(&self) -> Arc<AtomicBool> {
        self.haste.clone()
    }

    /// What one of `shares` workers calls as its part of the table being flushed reaches its shard.
    pub fn share(&self, shares: u64) -> impl Fn(u64) + Send + 'static {
        let drained = self.drained.clone();
        move |bytes| {
            drained.fetch_add(bytes / shares.max(1), Ordering::Relaxed);
        }
    }

    /// A flush of a table of `bytes` has ended after `took`.
    pub fn flushed(&self, bytes: u64, took: Duration) {
        self.drained.store(0, Ordering::Relaxed);
        self.haste.store(self.asked.load(Ordering::Relaxed) > 0, Ordering::Relaxed);
        let seen = (bytes as f64 / took.as_secs_f64().max(1e-3)) as u64;
        // A small one says how long a sync takes, and not how fast records go.
        if bytes.saturating_mul(32) >= self.hard {
            let before = self.rate.load(Ordering::Relaxed);
            self.rate.store(before / 2 + seen / 2, Ordering::Relaxed);
        }
        *self.stuck.lock() = None;
        self.room.notify_all();
    }

    /// Flushes cannot go on; writes that find no room get this error until one succeeds.
    pub fn stuck(&self, error: &Error) {
        self.drained.store(0, Ordering::Relaxed);
        *self.stuck.lock() = Some(error.clone());
        self.room.notify_all();
    }

    /// Why flushes cannot go on, if they cannot.
    pub fn cause(&self) -> Option<Error> {
        self.stuck.lock().clone()
    }

    /// How often a write was delayed.
    pub fn delayed(&self) -> u64 {
        self.delayed.load(Ordering::Relaxed)
    }
}
