//! Group commit: one caller syncs for all that wait (the write groups of LevelDB and RocksDB, in their shape).
//!
//! Invariants:
//! - What is called durable is always a prefix.
//! - While anyone waits somebody leads. Whoever leads, even if it fails or panics, ends by passing the lead on or by
//!   waking everybody; after a failure nobody is told that its frames are durable.
//! - A waiter sleeps by itself, and is woken once: when its own frames are durable, or to lead.
//! - The appender's lock is not held over a sync. A failed sync is never tried again.

use super::Journal;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Seq;
use crate::plants;
use crate::sync::Instant;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// No leader waits longer for others to join it.
const LONGEST_GATHERING: Duration = Duration::from_micros(200);
/// After gatherings in vain, at most so many syncs go without one.
const LONGEST_REST: u64 = 64;

#[derive(Debug, Default)]
pub struct Group {
    state: Mutex<State>,
    durable: AtomicU64,
    /// How many sleep in the queue.
    waiting: AtomicUsize,
    /// How many wanted a sync at the end of the last one: those it served and those it did not.
    crew: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    leading: bool,
    queue: VecDeque<(Seq, Arc<Seat>)>,
    habit: Habit,
}

/// What the leaders have learnt.
#[derive(Debug, Default, Clone, Copy)]
struct Habit {
    /// What a sync takes, in nanoseconds.
    sync: u64,
    /// Syncs to go without gathering.
    rest: u64,
    /// The length of the last such rest.
    rested: u64,
}

impl Habit {
    /// How long to wait for the others this time; none: not at all, since they have not come lately.
    fn patience(&mut self) -> Option<Duration> {
        let rests = self.rest > 0;
        self.rest = self.rest.saturating_sub(1);
        (!rests).then(|| Duration::from_nanos(self.sync / 2).min(LONGEST_GATHERING))
    }

    /// They came, or were waited for in vain: then the next rest is twice as long.
    fn waited(&mut self, came: bool) {
        self.rested = if came { 0 } else { (self.rested * 2 + 1).min(LONGEST_REST) };
        self.rest = self.rested;
    }

    /// A moving average over some eight syncs.
    fn synced(&mut self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.sync = self.sync / 8 * 7 + took / 8;
    }
}

/// Where one waiter sleeps.
#[derive(Debug, Default)]
struct Seat {
    call: Mutex<Option<Call>>,
    woken: Condvar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    /// Its frames are durable, or nothing will be any more.
    Done,
    Lead,
}

impl Seat {
    fn wake(&self, call: Call) {
        if plants::is("woken-before-the-call-is-there") {
            self.woken.notify_one();
            *self.call.lock() = Some(call);
            return;
        }
        *self.call.lock() = Some(call);
        self.woken.notify_one();
    }

    fn wait(&self) -> Call {
        let mut call = self.call.lock();
        loop {
            match *call {
                Some(call) => return call,
                None => self.woken.wait(&mut call),
            }
        }
    }
}

impl Group {
    pub fn new(durable: Seq) -> Self {
        Group { durable: AtomicU64::new(durable.0), ..Group::default() }
    }

    pub fn durable(&self) -> Seq {
        Seq(self.durable.load(Ordering::Acquire))
    }

    /// Records that everything up to `seq` is durable.
    pub fn raise(&self, seq: Seq) {
        self.durable.fetch_max(seq.0, Ordering::AcqRel);
    }

    /// Waits until `seq` is durable, nothing will be any more, or it is the caller's turn to lead.
    fn join(&self, seq: Seq) -> Call {
        let seat = {
            let mut state = self.state.lock();
            if self.durable() >= seq {
                return Call::Done;
            }
            if !state.leading {
                state.leading = true;
                return Call::Lead;
            }
            let seat = Arc::new(Seat::default());
            state.queue.push_back((seq, seat.clone()));
            self.waiting.store(state.queue.len(), Ordering::Relaxed);
            seat
        };
        seat.wait()
    }

    /// Waits a little for those that were here a moment ago, if they are known to come back in that time: one sync for
    /// all of them instead of two for a half each (PostgreSQL's `commit_delay` is for the same). Never for a lone writer.
    fn gather(&self) {
        let crew = self.crew.load(Ordering::Relaxed);
        let missing = || self.waiting.load(Ordering::Relaxed) + 1 < crew;
        if !missing() {
            return;
        }
        let mut habit = self.state.lock().habit;
        if let Some(limit) = habit.patience() {
            let begin = Instant::now();
            while missing() && begin.elapsed() < limit {
                crate::sync::thread::yield_now();
            }
            habit.waited(!missing());
        }
        self.state.lock().habit = habit;
    }

    /// Ends the caller's lead: everything up to `durable` is; none: it failed. `took`: the sync.
    fn end(&self, durable: Option<Seq>, took: Option<Duration>) {
        let (next, done) = {
            let mut state = self.state.lock();
            let queue = std::mem::take(&mut state.queue);
            self.crew.store(queue.len() + 1, Ordering::Relaxed);
            if let Some(took) = took {
                state.habit.synced(took);
            }
            let target = durable.unwrap_or(Seq::MAX);
            if durable.is_some() {
                self.raise(target);
            }
            let is_done = |(seq, _): &(Seq, _)| *seq <= target;
            let (done, mut left): (VecDeque<_>, VecDeque<_>) = queue.into_iter().partition(is_done);
            let next = if plants::is("lead-not-passed-on") { None } else { left.pop_front() };
            state.queue = left;
            state.leading = next.is_some();
            self.waiting.store(state.queue.len(), Ordering::Relaxed);
            (next, done)
        };
        // The next sync first: the disk is to rest as little as possible.
        if let Some((_, seat)) = next {
            seat.wake(Call::Lead);
        }
        for (_, seat) in done {
            seat.wake(Call::Done);
        }
    }
}

/// The lead, while it lasts.
struct Lead<'a> {
    journal: &'a Journal,
    ended: bool,
}

impl Lead<'_> {
    fn end(mut self, durable: Option<Seq>, took: Option<Duration>) {
        self.ended = true;
        self.journal.group.end(durable, took);
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.journal.poison(Error::new(ErrorKind::Io, "a sync of the journal panicked"));
            self.journal.group.end(None, None);
        }
    }
}

impl Journal {
    /// Returns when every frame up to `seq` (at most the last appended one) is durable.
    ///
    /// # Errors
    /// `Poisoned`: this sync, or an earlier write or sync, failed; reopen. `Closed`.
    pub fn sync_to(&self, seq: Seq) -> Result<()> {
        let seq = seq.min(self.last());
        while self.durable() < seq {
            self.health.check()?;
            if self.group.join(seq) == Call::Lead {
                return self.lead(|| {
                    self.group.gather();
                    let begin = Instant::now();
                    (self.sync_now(), Some(begin.elapsed()))
                });
            }
        }
        Ok(())
    }

    /// Makes everything durable, says so in the file, and refuses whatever comes later.
    ///
    /// # Errors
    /// `Poisoned`: what was not durable before may be lost. `Closed`: it was closed before.
    pub fn close(&self) -> Result<()> {
        loop {
            self.health.check()?;
            // No sequence is as high, so this waits for the lead.
            if self.group.join(Seq::MAX) == Call::Lead {
                return self.lead(|| (self.finish(), None));
            }
        }
    }

    /// Does the work of the leader, which this caller is.
    fn lead(&self, work: impl FnOnce() -> (Result<Seq>, Option<Duration>)) -> Result<()> {
        let lead = Lead { journal: self, ended: false };
        let (outcome, took) = work();
        lead.end(outcome.as_ref().ok().copied(), took);
        outcome.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_waits_for_half_a_sync_and_no_longer_than_so_much() {
        let mut habit = Habit::default();
        assert_eq!(habit.patience(), Some(Duration::ZERO), "nothing is known yet");
        (0..200).for_each(|_| habit.synced(Duration::from_micros(100)));
        let patience = habit.patience().unwrap();
        assert!(
            patience > Duration::from_micros(49) && patience <= Duration::from_micros(50),
            "{patience:?}"
        );
        // One that takes longer counts an eighth.
        let before = habit.sync;
        habit.synced(Duration::from_micros(900));
        assert!(habit.sync.abs_diff(before + 100_000) < 100, "{before} ns, then {}", habit.sync);
        (0..200).for_each(|_| habit.synced(Duration::from_millis(10)));
        assert_eq!(habit.patience(), Some(LONGEST_GATHERING));
    }

    #[test]
    fn who_waits_in_vain_rests_twice_as_long_each_time_until_others_come() {
        let mut habit = Habit::default();
        for rest in [1, 3, 7, 15, 31, 63, LONGEST_REST, LONGEST_REST] {
            assert!(habit.patience().is_some());
            habit.waited(false);
            (0..rest).for_each(|n| assert!(habit.patience().is_none(), "{n} of {rest}"));
        }
        for _ in 0..3 {
            assert!(habit.patience().is_some());
            habit.waited(true);
        }
        assert!(habit.patience().is_some());
        habit.waited(false);
        assert!(habit.patience().is_none());
        assert!(habit.patience().is_some());
    }
}
