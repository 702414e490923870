//! Many orders of a few threads: the journal's group commit and whole stores on the simulated disk, where a scheduler
//! (`shuttle`) chooses at every lock, condition, atomic and channel which thread goes on. A thread that nobody wakes any more, or
//! locks taken in two orders, stop the run with the schedule that led there.
//!
//! Only in a build with `--cfg annulus_schedules`, since the store's locks are others there (`src/sync.rs`); the lab makes it:
//! `cargo run --release --manifest-path lab/Cargo.toml -- schedules`. Each test takes turns between random schedules and those of PCT
//! (Burckhardt and others, 2010: few changes of priority, at random places).
//!
//! `ANNULUS_SCHEDULES_SECONDS` is how long each test runs, `ANNULUS_SEED` what it tries; `ANNULUS_SCHEDULES_TURN` runs only one turn of
//! a seed, as a failure names it.

#![cfg(annulus_schedules)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod journal;
mod memory;
mod store;

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant, SystemTime};

/// How deep the bugs are that PCT is to find: so many orderings must be just so.
const DEPTHS: [usize; 3] = [2, 3, 4];
/// Schedules of one turn.
const AT_ONCE: usize = 20;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    config.max_steps = MaxSteps::FailAfter(2_000_000);
    config.failure_persistence = FailurePersistence::None;
    config.silence_warnings = true;
    config
}

/// Some schedules of a scenario: random ones in even turns, else of PCT.
fn take_turn(scenario: fn(), seed: u64, turn: u64) -> usize {
    let seed = seed.wrapping_mul(1_000_003).wrapping_add(turn);
    match turn % 2 {
        0 => Runner::new(RandomScheduler::new_from_seed(seed, AT_ONCE), config()).run(scenario),
        _ => {
            let depth = DEPTHS[turn as usize / 2 % DEPTHS.len()];
            Runner::new(PctScheduler::new_from_seed(seed, depth, AT_ONCE), config()).run(scenario)
        }
    }
}

/// Tries schedules of `scenario` as long as it is asked for, and prints how many.
fn explore(name: &str, scenario: fn()) {
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = number("ANNULUS_SEED").unwrap_or(u64::from(clock.subsec_nanos()));
    let only = number("ANNULUS_SCHEDULES_TURN");
    let limit = Duration::from_secs(number("ANNULUS_SCHEDULES_SECONDS").unwrap_or(8));
    let (begin, mut tried, mut turn) = (Instant::now(), [0, 0], only.unwrap_or(0));
    loop {
        match catch_unwind(AssertUnwindSafe(|| take_turn(scenario, seed, turn))) {
            Ok(count) => tried[turn as usize % 2] += count,
            Err(panic) => {
                println!("{name}: broken; again: ANNULUS_SEED={seed} ANNULUS_SCHEDULES_TURN={turn}");
                resume_unwind(panic);
            }
        }
        turn += 1;
        if only.is_some() || begin.elapsed() >= limit {
            break;
        }
    }
    println!("| {name} | {} | {} | {:.0} |", tried[0], tried[1], begin.elapsed().as_secs_f64());
}
