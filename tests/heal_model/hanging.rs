//! The same where shards hang as well: each of their operations, until a test lets it go on. What a store waits for there
//! it waits for in real time, so the cases run side by side.
//!
//! Every step ends, and within what a few calls may take, each of which has its limit. A case in which the machine stood
//! still, so that a shard may have been given up which did nothing wrong, is taken again a few times.

use super::faults::hanging;
use super::{SHORT, Shape, Step, cases, run_telling, shape, step};
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestCaseError, TestError, TestRunner};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// Cases at a time: nearly all of their time is waiting.
const ABREAST: u32 = 32;
/// How often a case is taken at the most.
const TRIES: u32 = 5;
/// When a step is taken to hang itself.
const FOR_EVER: Duration = Duration::from_secs(120);
/// How often the machine is asked whether it still runs.
const BEAT: Duration = Duration::from_millis(10);

/// How often the machine has stood still for long enough to be taken for a shard that hangs.
static STANDSTILLS: AtomicU64 = AtomicU64::new(0);

fn watch_the_machine() {
    loop {
        let begun = Instant::now();
        std::thread::sleep(BEAT);
        if begun.elapsed() > BEAT + SHORT / 4 {
            STANDSTILLS.fetch_add(1, Ordering::AcqRel);
        }
    }
}

fn step_or_hang() -> impl Strategy<Value = Step> {
    prop_oneof![
        19 => step(),
        1 => (any::<u8>(), hanging()).prop_map(|(shard, harm)| Step::Fault(shard, harm)),
    ]
}

/// What comes of a case while it runs.
enum Word {
    Begins(usize),
    Ends(std::thread::Result<()>),
}

/// Runs a case beside the caller; what it failed with.
fn outcome(shape: &Shape, steps: &[Step]) -> Result<(), TestCaseError> {
    let (shape, steps) = (shape.clone(), steps.to_vec());
    let (say, said) = channel();
    let case = move || {
        let mut reached = |step| drop(say.send(Word::Begins(step)));
        let outcome = catch_unwind(AssertUnwindSafe(|| run_telling(&shape, &steps, &mut reached)));
        drop(say.send(Word::Ends(outcome)));
    };
    std::thread::Builder::new().name("case".into()).spawn(case).unwrap();
    let mut step = None;
    loop {
        match said.recv_timeout(FOR_EVER) {
            Ok(Word::Begins(next)) => step = Some(next),
            Ok(Word::Ends(Ok(()))) => return Ok(()),
            Ok(Word::Ends(Err(panic))) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                return Err(TestCaseError::fail(text.unwrap_or_default()));
            }
            Err(_) => return Err(TestCaseError::fail(format!("step {step:?} does not end"))),
        }
    }
}

/// The same, taken again where it failed while the machine stood still; not for ever, since on one that always does nothing would ever fail.
pub fn outcome_if_the_machine_runs(shape: &Shape, steps: &[Step]) -> Result<(), TestCaseError> {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| drop(std::thread::spawn(watch_the_machine)));
    for _ in 1..TRIES {
        let before = STANDSTILLS.load(Ordering::Acquire);
        let outcome = outcome(shape, steps);
        if outcome.is_ok() || STANDSTILLS.load(Ordering::Acquire) == before {
            return outcome;
        }
        eprintln!("the machine stood still, the case is taken again: {outcome:?}");
    }
    outcome(shape, steps)
}

fn run_cases(cases: u32, seed: u64) {
    let config = ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 1000,
        max_shrink_time: 120_000,
        ..ProptestConfig::default()
    };
    let input = (shape(true), prop::collection::vec(step_or_hang(), 1..100));
    let judge = |(shape, steps): (Shape, Vec<Step>)| outcome_if_the_machine_runs(&shape, &steps);
    match TestRunner::new(config).run(&input, judge) {
        Ok(()) => {}
        Err(TestError::Fail(reason, (shape, steps))) => panic!("seed {seed}: {reason}\n{shape:?}\n{steps:?}"),
        Err(error) => panic!("seed {seed}: {error}"),
    }
}

#[test]
fn the_store_is_a_map_while_its_shards_hang_and_answer() {
    const DEFAULT: u32 = 400;
    let cases = cases(DEFAULT);
    let given = std::env::var("ANNULUS_HEAL_MODEL_SEED").ok().map(|seed| seed.parse().unwrap());
    let seed: u64 = match given {
        Some(seed) => seed,
        None if cases == DEFAULT => 20_261_129,
        None => std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
    };
    std::thread::scope(|scope| {
        for runner in 0..ABREAST {
            let share = (cases / 4).div_ceil(ABREAST);
            scope.spawn(move || run_cases(share, seed + u64::from(runner)));
        }
    });
}
