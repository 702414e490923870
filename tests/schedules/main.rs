//! Many orders of a few threads: the journal's group commit and whole stores on the simulated disk, where a scheduler
//! (`shuttle`) chooses at every lock, condition, atomic and channel which thread goes on. A thread that nobody wakes any more, or
//! locks taken in two orders, stop the run with the schedule that led there.
//!
//! Only in a build with `--cfg annulus_schedules`, since the store's locks are others there (`src/sync.rs`); the lab makes it:
//! `cargo run --release --manifest-path lab/Cargo.toml -- schedules`. Each test takes turns between random schedules and those of PCT
//! (Burckhardt and others, 2010: few changes of priority, at random places).
//!
//! `ANNULUS_SCHEDULES_SECONDS` is how long each test runs, `ANNULUS_SEED` what it tries, `ANNULUS_SCHEDULE` the schedule of a
//! failure, to be run again alone.

#![cfg(annulus_schedules)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod journal;
mod store;

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};
use std::time::{Duration, Instant};

/// How deep the bugs are that PCT is to find: so many orderings must be just so.
const DEPTHS: [usize; 3] = [2, 3, 4];
/// Of each scheduler at a time.
const SLICE: Duration = Duration::from_millis(1500);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn config(limit: Duration) -> Config {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    config.max_steps = shuttle::MaxSteps::FailAfter(2_000_000);
    config.max_time = Some(limit);
    config.silence_warnings = true;
    config
}

/// Tries schedules of `scenario` as long as it is asked for, and prints how many.
fn explore(name: &str, scenario: fn()) {
    if let Ok(schedule) = std::env::var("ANNULUS_SCHEDULE") {
        return shuttle::replay(scenario, &schedule);
    }
    let seconds = number("ANNULUS_SCHEDULES_SECONDS").unwrap_or(8);
    let seed = number("ANNULUS_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let (begin, limit) = (Instant::now(), Duration::from_secs(seconds));
    let (mut tried, mut turn) = ([0, 0], 0u64);
    while begin.elapsed() < limit {
        let slice = config(SLICE.min(limit.saturating_sub(begin.elapsed())));
        let seed = seed.wrapping_mul(1_000_003).wrapping_add(turn);
        if turn % 2 == 0 {
            let random = RandomScheduler::new_from_seed(seed, usize::MAX);
            tried[0] += Runner::new(random, slice).run(scenario);
        } else {
            let depth = DEPTHS[turn as usize / 2 % DEPTHS.len()];
            let pct = PctScheduler::new_from_seed(seed, depth, usize::MAX);
            tried[1] += Runner::new(pct, slice).run(scenario);
        }
        turn += 1;
    }
    println!("| {name} | {} | {} | {:.0} |", tried[0], tried[1], begin.elapsed().as_secs_f64());
}
