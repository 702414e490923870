//! What wakes the background threads.
//!
//! Invariant: a wish is remembered until a thread has taken it, so none is lost between a look and a wait.

use crate::sync::Instant;
use crate::sync::{Condvar, Mutex};
use std::time::Duration;

/// Wishes for background work.
#[derive(Debug, Default)]
pub struct Signals {
    wishes: Mutex<Wishes>,
    flush: Condvar,
    tick: Condvar,
    segment: Condvar,
    change: Condvar,
    mend: Condvar,
}

#[derive(Debug, Default)]
struct Wishes {
    flush: bool,
    tick: bool,
    segment: bool,
    change: bool,
    stop: bool,
}

impl Signals {
    /// A table waits to be flushed, or something to be purged.
    pub fn want_flush(&self) {
        let mut wishes = self.wishes.lock();
        if !wishes.flush {
            wishes.flush = true;
            self.flush.notify_one();
        }
    }

    /// The journal has something to write, or to prepare, soon.
    pub fn want_tick(&self) {
        let mut wishes = self.wishes.lock();
        if !wishes.tick {
            wishes.tick = true;
            self.tick.notify_one();
        }
    }

    /// A segment of the journal may be wanting soon.
    pub fn want_segment(&self) {
        let mut wishes = self.wishes.lock();
        if !wishes.segment {
            wishes.segment = true;
            self.segment.notify_one();
        }
    }

    /// There is something to do for a change of the topology, or it is to be done otherwise.
    pub fn want_change(&self) {
        let mut wishes = self.wishes.lock();
        if !wishes.change {
            wishes.change = true;
            self.change.notify_one();
        }
    }

    /// All background threads are to end.
    pub fn stop(&self) {
        self.wishes.lock().stop = true;
        self.flush.notify_all();
        self.tick.notify_all();
        self.segment.notify_all();
        self.change.notify_all();
        self.mend.notify_all();
    }

    /// Waits for a wish to flush, or for `limit`; false once the threads are to end.
    pub fn next_flush(&self, limit: Option<Duration>) -> bool {
        self.next(&self.flush, |wishes| &mut wishes.flush, limit).is_some()
    }

    /// Waits for a wish that concerns a change of the topology, or for `limit`; whether there was one, and none once the threads are
    /// to end.
    pub fn next_change(&self, limit: Option<Duration>) -> Option<bool> {
        self.next(&self.change, |wishes| &mut wishes.change, limit)
    }

    /// Waits for a wish for a segment of the journal; false once the threads are to end.
    pub fn next_segment(&self) -> bool {
        self.next(&self.segment, |wishes| &mut wishes.segment, None).is_some()
    }

    /// Whether there was a wish; none once the threads are to end.
    fn next(
        &self,
        waker: &Condvar,
        wish: fn(&mut Wishes) -> &mut bool,
        limit: Option<Duration>,
    ) -> Option<bool> {
        let mut wishes = self.wishes.lock();
        while !*wish(&mut wishes) && !wishes.stop {
            match limit {
                Some(limit) => {
                    if waker.wait_for(&mut wishes, limit).timed_out() {
                        break;
                    }
                }
                None => waker.wait(&mut wishes),
            }
        }
        let wished = std::mem::take(wish(&mut wishes));
        (!wishes.stop).then_some(wished)
    }

    /// Waits for a wish to tick; false once the threads are to end.
    pub fn next_tick(&self) -> bool {
        let mut wishes = self.wishes.lock();
        while !wishes.tick && !wishes.stop {
            self.tick.wait(&mut wishes);
        }
        wishes.tick = false;
        !wishes.stop
    }

    /// Waits for `length` before the journal's copies are looked after again; false once the threads are to end.
    pub fn next_mend(&self, length: Duration) -> bool {
        let end = Instant::now() + length;
        let mut wishes = self.wishes.lock();
        while !wishes.stop && !self.mend.wait_until(&mut wishes, end).timed_out() {}
        !wishes.stop
    }

    /// Waits for `length`, or until the threads are to end.
    pub fn pause(&self, length: Duration) {
        let end = Instant::now() + length;
        let mut wishes = self.wishes.lock();
        // Wishes that come meanwhile are remembered, and wake it early: it goes back to its rest.
        while !wishes.stop && !self.tick.wait_until(&mut wishes, end).timed_out() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_does_not_cut_a_pause_short_and_is_kept() {
        let signals = Signals::default();
        let length = Duration::from_millis(60);
        std::thread::scope(|scope| {
            let pause = scope.spawn(|| {
                let begun = Instant::now();
                signals.pause(length);
                begun.elapsed()
            });
            while !pause.is_finished() {
                signals.want_tick();
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(pause.join().unwrap() >= length);
        });
        assert!(signals.next_tick());
    }
}
