//! The numbers of new records: each thread claims the next one, and knows up to which all have been acknowledged.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

pub struct Claims {
    next: AtomicU64,
    /// By thread: a bound below which it has nothing under way.
    under_way: Vec<AtomicU64>,
}

impl Claims {
    pub fn new(first: u64, threads: u64) -> Claims {
        let under_way = (0..threads).map(|_| AtomicU64::new(u64::MAX)).collect();
        Claims { next: AtomicU64::new(first), under_way }
    }

    /// Claims `count` numbers, writes them with `write`, and counts them as acknowledged. The bound is published before the
    /// claim, so that `acknowledged` never runs past one that is about to be made.
    pub fn with<T>(&self, thread: u64, count: u64, write: impl FnOnce(u64) -> T) -> T {
        let slot = &self.under_way[thread as usize];
        slot.store(self.next.load(SeqCst), SeqCst);
        let first = self.next.fetch_add(count, SeqCst);
        let result = write(first);
        slot.store(u64::MAX, SeqCst);
        result
    }

    /// All numbers below it are acknowledged.
    pub fn acknowledged(&self) -> u64 {
        let next = self.next.load(SeqCst);
        self.under_way.iter().fold(next, |least, slot| least.min(slot.load(SeqCst)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn what_is_under_way_is_not_acknowledged() {
        let claims = Claims::new(10, 2);
        claims.with(0, 1, |n| {
            assert_eq!((n, claims.acknowledged()), (10, 10));
            claims.with(1, 5, |n| assert_eq!((n, claims.acknowledged()), (11, 10)));
            assert_eq!(claims.acknowledged(), 10);
        });
        assert_eq!(claims.acknowledged(), 16);
    }

    #[test]
    fn numbers_below_the_acknowledged_one_are_written() {
        let claims = Claims::new(0, 2);
        let written: Vec<AtomicBool> = (0..20_000).map(|_| AtomicBool::new(false)).collect();
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let (claims, written) = (&claims, &written);
                scope.spawn(move || {
                    for _ in 0..10_000 {
                        claims.with(thread, 1, |n| written[n as usize].store(true, SeqCst));
                        let below = claims.acknowledged();
                        assert!(below == 0 || written[below as usize - 1].load(SeqCst));
                    }
                });
            }
        });
        assert_eq!(claims.acknowledged(), 20_000);
    }
}
