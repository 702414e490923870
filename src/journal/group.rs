//! Group commit: one caller syncs for all that wait.
//!
//! Invariants:
//! - What is called durable is always a prefix: full segments are synced before the current one.
//! - A waiter is woken when its own frames are durable, or to lead the next sync; not for other groups' ends.
//! - The appender's lock is not held over a sync. A failed sync is never tried again.

use super::Journal;
use crate::error::{Error, Result};
use crate::ids::Seq;
use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub struct Group {
    state: Mutex<State>,
    /// Waiters for the sync that runs, and for the one after it, by the parity of its number.
    lanes: [Condvar; 2],
    durable: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    leading: bool,
    /// The number of the sync that runs or runs next.
    number: usize,
    /// What the sync that runs will have made durable.
    target: Seq,
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

    fn lane(&self, number: usize) -> &Condvar {
        let [even, odd] = &self.lanes;
        if number.is_multiple_of(2) { even } else { odd }
    }
}

impl Journal {
    /// Returns when every frame up to `seq` (at most the last appended one) is durable.
    ///
    /// # Errors
    /// `Poisoned`: this sync, or an earlier write or sync, failed; reopen. `Closed`.
    pub fn sync_to(&self, seq: Seq) -> Result<()> {
        let group = &self.group;
        let seq = seq.min(self.last());
        if group.durable() >= seq {
            return Ok(());
        }
        let mut state = group.state.lock();
        let mut waited = None;
        let outcome = loop {
            if group.durable() >= seq {
                break Ok(());
            }
            if let Err(e) = self.health.check() {
                break Err(e);
            }
            if !state.leading {
                state.leading = true;
                drop(state);
                let synced = self.sync_now();
                state = group.state.lock();
                if let Ok(durable) = &synced {
                    group.raise(*durable);
                }
                state.leading = false;
                group.lane(state.number).notify_all();
                state.number = state.number.wrapping_add(1);
                if synced.is_err() {
                    group.lane(state.number).notify_all();
                } else {
                    group.lane(state.number).notify_one();
                }
                break synced.map(drop);
            }
            let number = if seq <= state.target { state.number } else { state.number.wrapping_add(1) };
            waited = Some(number);
            group.lane(number).wait(&mut state);
        };
        // One that was woken to lead and found nothing to do passes the call on to the next in its lane.
        if let Some(number) = waited
            && !state.leading
        {
            group.lane(number).notify_one();
        }
        outcome
    }

    /// Hands over all that waits and syncs it; the appender's lock is free again while the disk works.
    fn sync_now(&self) -> Result<Seq> {
        let (files, target) = {
            let mut appender = self.lock();
            appender.hand_over()?;
            let log = &mut *appender.log;
            let mut files = std::mem::take(&mut log.unsynced);
            files.push((log.segment.file.clone(), log.segment.path.clone()));
            (files, Seq(log.next.0.saturating_sub(1)))
        };
        self.group.state.lock().target = target;
        for (file, path) in files {
            self.health.check()?;
            self.counters.syncs.fetch_add(1, Ordering::Relaxed);
            if let Err(e) = file.sync_data() {
                return Err(self.poison(Error::io("sync the journal", path, e)));
            }
        }
        Ok(target)
    }
}
