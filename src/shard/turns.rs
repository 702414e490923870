//! Turns: how many flush workers may use a processor at once.
//!
//! Invariants: a worker that waits for its disk's syncs holds no turn, so another one merges meanwhile; one processor is left
//! to those who write as long as the flushes keep up with them, and none when they do not, or when somebody waits for the
//! flush itself; there is always one turn at the least. A turn is a courtesy: whoever has waited for long goes on without one, since
//! those that have them may hang.

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Instant, Mutex};
use std::sync::Arc;
use std::time::Duration;

/// How often those that wait for a turn look whether haste has begun.
const LOOK: Duration = Duration::from_millis(5);

/// The turns of all workers.
#[derive(Debug)]
pub struct Turns {
    processors: usize,
    taken: Mutex<usize>,
    given_back: Condvar,
    haste: Arc<AtomicBool>,
    patience: Duration,
}

/// A turn, until it is dropped; none: it was waited for in vain.
#[derive(Debug)]
pub struct Turn<'a>(Option<&'a Turns>);

impl Turns {
    /// For the processors of this machine. `haste`: whether somebody waits for the flush. `limit`: how long a shard may take for
    /// what it has a turn for; nobody waits for a turn as long as that.
    pub fn here(haste: Arc<AtomicBool>, limit: Duration) -> Turns {
        let processors = crate::sync::thread::available_parallelism().map_or(2, usize::from).max(2);
        Turns::new(processors, haste, limit / 8)
    }

    fn new(processors: usize, haste: Arc<AtomicBool>, patience: Duration) -> Turns {
        Turns { processors, taken: Mutex::new(0), given_back: Condvar::new(), haste, patience }
    }

    fn count(&self) -> usize {
        let left = usize::from(!self.haste.load(Ordering::Relaxed));
        self.processors.saturating_sub(left).max(1)
    }

    /// Waits for a turn.
    pub fn take(&self) -> Turn<'_> {
        let begin = Instant::now();
        let mut taken = self.taken.lock();
        while *taken >= self.count() {
            if begin.elapsed() >= self.patience {
                return Turn(None);
            }
            self.given_back.wait_for(&mut taken, LOOK);
        }
        *taken += 1;
        Turn(Some(self))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let Some(turns) = self.0 else { return };
        *turns.taken.lock() -= 1;
        turns.given_back.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn one_processor_is_left_free_unless_there_is_haste() {
        let haste = Arc::new(AtomicBool::new(false));
        let turns = Turns::new(2, haste.clone(), LONG);
        let first = turns.take();
        assert_eq!((turns.count(), *turns.taken.lock()), (1, 1));
        haste.store(true, Ordering::Relaxed);
        let second = turns.take();
        assert_eq!((turns.count(), *turns.taken.lock()), (2, 2));
        drop((first, second));
        assert_eq!(*turns.taken.lock(), 0);
        assert_eq!(Turns::new(0, Arc::default(), LONG).count(), 1);
    }

    #[test]
    fn a_turn_that_is_given_back_is_had_by_one_that_waits() {
        let turns = Turns::new(1, Arc::default(), LONG);
        let most = Mutex::new((0, 0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let _turn = turns.take();
                        let now = {
                            let mut most = most.lock();
                            most.0 += 1;
                            most.1 = most.1.max(most.0);
                            most.0
                        };
                        assert_eq!(now, 1);
                        most.lock().0 -= 1;
                    }
                });
            }
        });
        assert_eq!(*most.lock(), (0, 1));
    }

    #[test]
    fn who_waits_for_one_that_hangs_goes_on_without_a_turn() {
        let turns = Turns::new(1, Arc::default(), Duration::from_millis(20));
        let hangs = turns.take();
        let others = [turns.take(), turns.take()];
        assert!(others.iter().all(|turn| turn.0.is_none()));
        drop(others);
        assert_eq!(*turns.taken.lock(), 1);
        drop(hangs);
        assert!(turns.take().0.is_some());
        assert_eq!(*turns.taken.lock(), 0);
    }
}
