//! What reads and writes feel of the work in the background: their latency is sampled while a change of the topology is
//! under way, and says how long it is to rest between two pieces of work (admission control, as Dynamo has it for its
//! background tasks).
//!
//! Invariant: while nothing is watched a read or write pays for one look at a flag.

use crate::sync::Instant;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::cell::Cell;
use std::time::Duration;

/// One operation of so many is measured.
const SAMPLE: u32 = 16;
/// Buckets of the histograms: four for each doubling of nanoseconds.
const BUCKETS: usize = 160;
/// With fewer samples nothing is concluded: they are kept until there are more.
const ENOUGH: u64 = 40;
/// How much longer the slowest hundredth may take than while the background rests, before it rests more.
const TOLERATED: f64 = 1.5;
/// The least and the most rest, in relation to the time worked.
const REST: (f64, f64) = (0.05, 24.0);

/// Samples of latencies, apart for the times of work and of rest.
#[derive(Debug)]
pub struct Foreground {
    watched: AtomicBool,
    working: AtomicBool,
    /// Reads and writes while the background works, the same while it rests.
    samples: [Histogram; 4],
    /// How many samples were kept for later by the last look.
    kept: AtomicU64,
    /// Whether the last look saw nobody.
    alone: AtomicBool,
}

#[derive(Debug)]
struct Histogram([AtomicU32; BUCKETS]);

impl Default for Histogram {
    fn default() -> Self {
        Histogram(std::array::from_fn(|_| AtomicU32::new(0)))
    }
}

impl Default for Foreground {
    fn default() -> Self {
        Foreground {
            watched: AtomicBool::new(false),
            working: AtomicBool::new(false),
            samples: std::array::from_fn(|_| Histogram::default()),
            kept: AtomicU64::new(0),
            alone: AtomicBool::new(false),
        }
    }
}

/// What kind of operation is measured.
#[derive(Debug, Clone, Copy)]
pub enum Operation {
    Read = 0,
    Write = 1,
}

thread_local! {
    static TURN: Cell<u32> = const { Cell::new(0) };
}

impl Foreground {
    /// Begins or ends sampling. Where it is under way what it has shown stays.
    pub fn watch(&self, watched: bool) {
        if self.watched.load(Ordering::Relaxed) != watched {
            self.alone.store(false, Ordering::Relaxed);
            self.watched.store(watched, Ordering::Relaxed);
        }
    }

    /// Says whether the background works from here on.
    pub fn set_working(&self, working: bool) {
        self.working.store(working, Ordering::Relaxed);
    }

    /// The beginning of an operation that is to be measured; mostly none.
    #[inline]
    pub fn begin(&self) -> Option<Instant> {
        if !self.watched.load(Ordering::Relaxed) {
            return None;
        }
        let turn = TURN.get().wrapping_add(1);
        TURN.set(turn);
        turn.is_multiple_of(SAMPLE).then(Instant::now)
    }

    /// The end of one.
    #[inline]
    pub fn end(&self, operation: Operation, begun: Option<Instant>) {
        if let Some(begun) = begun {
            let rest = if self.working.load(Ordering::Relaxed) { 0 } else { 2 };
            self.samples[operation as usize + rest].add(begun.elapsed());
        }
    }

    /// Whether nobody was reading or writing when that was looked at last.
    pub fn is_alone(&self) -> bool {
        self.alone.load(Ordering::Relaxed)
    }

    /// Says that nobody is there, as the look of somebody who does not rest would.
    #[cfg(test)]
    pub fn leave_alone(&self) {
        self.alone.store(true, Ordering::Relaxed);
    }

    /// How long to rest in relation to the time worked, after `before`, from what was sampled since the last call.
    pub fn rest(&self, before: f64) -> f64 {
        let count = || self.samples.iter().map(Histogram::count).sum::<u64>();
        let alone = count() == self.kept.swap(0, Ordering::Relaxed);
        self.alone.store(alone, Ordering::Relaxed);
        if alone {
            // Nobody is there to be disturbed, and what was said of others long ago tells nothing of who comes next.
            self.samples.iter().for_each(|samples| drop(samples.take()));
            return REST.0;
        }
        let mut slower: f64 = 0.0;
        for operation in [Operation::Read as usize, Operation::Write as usize] {
            let (work, rest) = (&self.samples[operation], &self.samples[operation + 2]);
            if rest.count() >= ENOUGH && work.count() >= ENOUGH {
                let (work, rest) = (work.take(), rest.take());
                let all: Vec<u64> = work.iter().zip(&rest).map(|(a, b)| a + b).collect();
                slower = slower.max(slowest(&all) / slowest(&rest).max(1.0));
            }
        }
        self.kept.store(count(), Ordering::Relaxed);
        let next = match slower {
            0.0 => before,
            slower if slower > TOLERATED => before * 1.5,
            _ => before * 0.85,
        };
        next.clamp(REST.0, REST.1)
    }
}

impl Histogram {
    fn add(&self, took: Duration) {
        let nanos = took.as_nanos().clamp(1, u128::from(u64::MAX)) as u64;
        let doublings = nanos.ilog2() as usize;
        let quarter = if doublings >= 2 { (nanos >> (doublings - 2)) as usize & 3 } else { 0 };
        let bucket = (doublings * 4 + quarter).min(BUCKETS - 1);
        self.0[bucket].fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|bucket| u64::from(bucket.load(Ordering::Relaxed))).sum()
    }

    fn take(&self) -> Vec<u64> {
        self.0.iter().map(|bucket| u64::from(bucket.swap(0, Ordering::Relaxed))).collect()
    }
}

/// The latency that all but the slowest hundredth stay below, in nanoseconds.
fn slowest(buckets: &[u64]) -> f64 {
    let beyond = buckets.iter().sum::<u64>() / 100;
    let mut seen = 0;
    for (bucket, count) in buckets.iter().enumerate().rev() {
        seen += count;
        if seen > beyond {
            return ((4 + bucket % 4) as f64 + 1.0) * 2f64.powi(bucket as i32 / 4 - 2);
        }
    }
    0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(foreground: &Foreground, working: bool, nanos: u64, count: usize) {
        let rest = if working { 0 } else { 2 };
        (0..count).for_each(|_| foreground.samples[rest].add(Duration::from_nanos(nanos)));
    }

    #[test]
    fn the_background_rests_more_while_it_slows_others_down_and_less_when_nobody_is_there() {
        let foreground = Foreground::default();
        sample(&foreground, true, 40_000, 1000);
        sample(&foreground, false, 2_000, 1000);
        let more = foreground.rest(1.0);
        assert!(more > 1.0);
        sample(&foreground, true, 2_100, 1000);
        sample(&foreground, false, 2_000, 1000);
        assert!(foreground.rest(more) < more);
        assert!(!foreground.is_alone());
        assert_eq!(foreground.rest(more), REST.0, "nobody is there");
        assert!(foreground.is_alone());
        for _ in 0..3 {
            sample(&foreground, true, 40_000, 20);
            sample(&foreground, false, 2_000, 20);
        }
        assert!(foreground.rest(1.0) > 1.0);
        sample(&foreground, true, 40_000, 1000);
        sample(&foreground, false, 2_000, 20);
        assert_eq!(foreground.rest(1.0), 1.0, "too few to tell");
        sample(&foreground, false, 2_000, 20);
        assert!(foreground.rest(1.0) > 1.0, "the ones before count as well");
        assert_eq!(foreground.rest(0.0), REST.0);
        sample(&foreground, true, 9_000_000, 1000);
        sample(&foreground, false, 2_000, 1000);
        assert_eq!(foreground.rest(REST.1), REST.1);
    }

    #[test]
    fn a_slow_hundredth_is_what_counts() {
        let histogram = Histogram::default();
        (0..985).for_each(|_| histogram.add(Duration::from_nanos(1_000)));
        (0..15).for_each(|_| histogram.add(Duration::from_micros(100)));
        assert!(slowest(&histogram.take()) > 90_000.0);
        (0..995).for_each(|_| histogram.add(Duration::from_nanos(1_000)));
        (0..5).for_each(|_| histogram.add(Duration::from_micros(100)));
        assert!(slowest(&histogram.take()) < 1_500.0);
    }

    #[test]
    fn nothing_is_measured_unless_it_is_watched() {
        let foreground = Foreground::default();
        assert!((0..100).all(|_| foreground.begin().is_none()));
        foreground.watch(true);
        assert!((0..100).any(|_| foreground.begin().is_some()));
    }
}
