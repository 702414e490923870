//! What happens to a store, told to whoever listens: for the alarms of the program that it is part of.
//!
//! Invariants: an event is told in the order in which it happened; who listens too slowly loses the oldest ones and is told
//! how many; telling never waits for a listener.

use crate::ids::ShardId;
use crate::sync::Instant;
use crate::sync::{Condvar, Mutex};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How many events are kept for those who have not asked yet.
const KEPT: usize = 1024;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
#[non_exhaustive]
pub enum EventKind {
    /// A shard no longer answers; its replicas do.
    Offline { cause: String },
    /// Some bytes of a shard failed a check, or it cannot be written to; it serves what it can.
    Degraded { cause: String },
    /// A shard is brought up to date from the journal, from this sequence on.
    CatchingUp { from: u64 },
    /// A shard is being filled anew from its replicas.
    Rebuilding { cause: String },
    /// A shard could not be healed, and is tried again.
    NotHealed { cause: String },
    /// A shard serves again, and holds everything.
    Online,
    /// Damaged pages of a shard were replaced from its replicas.
    Repaired { pages: u64 },
    /// Replicas of a record differed, and the newest version was given to all of them.
    Reconciled { records: u64 },
    /// The files of a damaged engine were set aside.
    Quarantined { bytes: u64 },
    /// A shard was rewritten to give space back.
    Compacted { before: u64, after: u64 },
    /// A scrub has gone through everything.
    Scrubbed { pages_repaired: u64, records_reconciled: u64, unrepaired: u64 },
    /// A copy of the journal, of several, counts no more, or is complete again: the text says which, and why.
    Journal { text: String },
    /// So many events before this one were lost, since they were not asked for in time.
    Lost { events: u64 },
}

/// Something that happened to a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Event {
    pub at: SystemTime,
    /// The shard that it happened to, if it was one.
    pub shard: Option<ShardId>,
    #[serde(flatten)]
    pub kind: EventKind,
}

/// Where events are told.
#[derive(Debug, Default)]
pub struct Hub {
    kept: Mutex<Kept>,
    told: Condvar,
}

#[derive(Debug, Default)]
struct Kept {
    events: VecDeque<Event>,
    /// How many there were before those that are kept.
    gone: u64,
    closed: bool,
}

impl Hub {
    pub fn tell(&self, shard: Option<ShardId>, kind: EventKind) {
        let mut kept = self.kept.lock();
        if kept.events.len() >= KEPT {
            kept.events.pop_front();
            kept.gone += 1;
        }
        kept.events.push_back(Event { at: SystemTime::now(), shard, kind });
        self.told.notify_all();
    }

    /// Nothing more will be told.
    pub fn close(&self) {
        self.kept.lock().closed = true;
        self.told.notify_all();
    }

    /// The event with that number, or the first one after it that is kept; waits for it until `end` (none: for ever).
    fn next(&self, number: &mut u64, end: Option<Instant>) -> Option<Event> {
        let mut kept = self.kept.lock();
        loop {
            if *number < kept.gone {
                let events = kept.gone - std::mem::replace(number, kept.gone);
                return Some(Event { at: SystemTime::now(), shard: None, kind: EventKind::Lost { events } });
            }
            let index = usize::try_from(*number - kept.gone).unwrap_or(usize::MAX);
            if let Some(event) = kept.events.get(index) {
                *number += 1;
                return Some(event.clone());
            }
            if kept.closed {
                return None;
            }
            match end {
                None => self.told.wait(&mut kept),
                Some(end) if self.told.wait_until(&mut kept, end).timed_out() => return None,
                Some(_) => {}
            }
        }
    }
}

/// A stream of what happens to a store, from its opening on: the last 1,024 events are kept for it. As an iterator it waits
/// for the next event, and ends when the store is closed.
#[derive(Debug, Clone)]
pub struct Events {
    hub: Arc<Hub>,
    next: u64,
}

impl Events {
    pub(crate) fn new(hub: Arc<Hub>) -> Events {
        Events { hub, next: 0 }
    }

    /// The next event, if there is one already.
    pub fn try_next(&mut self) -> Option<Event> {
        self.next_within(Duration::ZERO)
    }

    /// The next event, waiting for it for `limit` at the most.
    pub fn next_within(&mut self, limit: Duration) -> Option<Event> {
        // One beyond all time is none.
        self.hub.next(&mut self.next, Instant::now().checked_add(limit))
    }
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.hub.next(&mut self.next, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_gets_all_in_order_and_is_told_what_it_missed() {
        let hub = Arc::new(Hub::default());
        let mut events = Events::new(hub.clone());
        assert_eq!(events.try_next(), None);
        for from in 0..KEPT as u64 + 3 {
            hub.tell(Some(ShardId(1)), EventKind::CatchingUp { from });
        }
        assert_eq!(events.try_next().unwrap().kind, EventKind::Lost { events: 3 });
        for from in 3..KEPT as u64 + 3 {
            assert_eq!(events.try_next().unwrap().kind, EventKind::CatchingUp { from });
        }
        assert_eq!(events.try_next(), None);
        let waiting = std::thread::spawn(move || events.next());
        hub.tell(None, EventKind::Online);
        assert_eq!(waiting.join().unwrap().unwrap().kind, EventKind::Online);
        let mut late = Events::new(hub.clone());
        hub.close();
        assert_eq!(late.by_ref().count(), KEPT + 1);
        assert_eq!(late.next(), None);
    }
}
