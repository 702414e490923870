//! A store whose shards fail in every way there is, up to R - 1 of them at a time, beside a `BTreeMap`: random writes, scans,
//! flushes, reopenings, kills, power cuts, changes of the topology, checkpoints, restores, compactions and rebuilds, with healing
//! and scrubs driven by hand among them, on a simulated disk and in-memory engines.
//!
//! What must hold after every step: reads, scans, writes, flushes and openings do not fail, and answer what was written last.
//! What is only done for the store (a scrub, a change of the topology, what is asked for one shard) may fail as long as a shard
//! is faulty, and goes on afterwards. Shards that nobody touched stay online. Every checkpoint comes back as what it was when it
//! was taken, over another number of shards, and a store that was restored goes on in the place of the other. When faults are taken back and healing has come to
//! its end, every shard holds what it owns and nothing else, and a scrub finds nothing to be reconciled.
//!
//! Of an in-memory engine that loses records without a word, or goes back in time, wrong answers are due until a scrub has
//! gone through it; of those keys alone, and no others than what they were once.
//!
//! `PROPTEST_CASES` sets the number of cases, and so does `ANNULUS_HEAL_MODEL_CASES`, for this test alone; a quarter as many are those in which
//! shards hang, of which `ANNULUS_HEAL_MODEL_SEED`, with the same number of cases, runs one again that has failed, by the seed that it told;
//! `ANNULUS_HEAL_MODEL_HARM` names what alone is to go wrong (see `Harm::name`), which helps to tell one finding from another.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod backups;
mod cases;
mod checks;
mod faults;
mod hanging;
mod recovery;
mod world;

use faults::{Harm, harm};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::time::{Duration, Instant};
use world::World;

/// How long a shard is waited for where none hangs: nothing is to come of a machine that stands still for a while.
const PATIENCE: Duration = Duration::from_secs(60);
/// And where they do.
const SHORT: Duration = Duration::from_millis(300);
/// What no step may take where shards hang: a few calls, of which those that wait longest, for an opening and for a close, wait ten times as long.
const LONG: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
enum Wish {
    Add(u8, u8),
    Weight(u8, u8),
    Drain(u8),
    Replace(u8),
    Double,
}

#[derive(Debug, Clone)]
enum Step {
    /// Keys, each with a value or none; whether it is synced.
    Commit(Vec<(u8, Option<(u8, u8)>)>, bool),
    OpenIter(u8, u8),
    AdvanceIter(u8, u8, bool),
    CloseIter(u8),
    Check,
    Freeze,
    FlushOldest,
    Flush,
    Tick,
    Recount,
    /// Something goes wrong with a shard.
    Fault(u8, Harm),
    /// Without a word, so that only a scrub finds it.
    Silent(u8, Vec<(u8, u8)>),
    /// What fails does so no longer; what that has led to stays.
    TakeBack,
    Heal(u8),
    Scrub(u8),
    Repair(u8),
    Rebuild(u8),
    Compact(u8),
    Change(Vec<Wish>),
    ChangeSteps(u8),
    CancelChange,
    Reopen,
    Kill,
    PowerCut(u64),
    /// Faults are taken back, and everything is healed.
    Recover,
    Checkpoint(bool),
    Prune(u8),
    /// A checkpoint becomes a store of that shape beside this one, or in its place.
    Restore {
        which: u8,
        shards: u8,
        replicas: u8,
        move_in: bool,
    },
}

#[derive(Debug, Clone)]
struct Shape {
    shards: usize,
    replicas: usize,
    /// Whether the journal keeps what shards that are offline lack.
    patient: bool,
    /// Whether shards may hang, which takes as long as they are waited for.
    may_hang: bool,
    seed: u64,
}

fn shape(may_hang: bool) -> impl Strategy<Value = Shape> {
    (3..=8usize, 2..=3usize, any::<bool>(), any::<u64>()).prop_map(
        move |(shards, replicas, patient, seed)| Shape { shards, replicas, patient, may_hang, seed },
    )
}

fn wish() -> impl Strategy<Value = Wish> {
    prop_oneof![
        4 => (0..3u8, 1..4u8).prop_map(|(zone, weight)| Wish::Add(zone, weight)),
        2 => (any::<u8>(), 1..5u8).prop_map(|(shard, weight)| Wish::Weight(shard, weight)),
        2 => any::<u8>().prop_map(Wish::Drain),
        2 => any::<u8>().prop_map(Wish::Replace),
        1 => Just(Wish::Double),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let op = (any::<u8>(), prop::option::weighted(0.75, (any::<u8>(), any::<u8>())));
    let data = prop_oneof![
        10 => (prop::collection::vec(op.clone(), 1..3), any::<bool>()).prop_map(|(ops, s)| Step::Commit(ops, s)),
        8 => (prop::collection::vec(op, 4..24), any::<bool>()).prop_map(|(ops, s)| Step::Commit(ops, s)),
        3 => (any::<u8>(), any::<u8>()).prop_map(|(lo, hi)| Step::OpenIter(lo, hi)),
        3 => (any::<u8>(), any::<u8>(), any::<bool>()).prop_map(|(w, n, back)| Step::AdvanceIter(w, n, back)),
        1 => any::<u8>().prop_map(Step::CloseIter),
        3 => Just(Step::Check),
        3 => Just(Step::Freeze),
        5 => Just(Step::FlushOldest),
        4 => Just(Step::Flush),
        1 => Just(Step::Tick),
        1 => Just(Step::Recount),
    ];
    let some = || prop_oneof![4 => 1..4u8, 1 => 4..20u8];
    let healing = prop_oneof![
        8 => (any::<u8>(), harm()).prop_map(|(shard, harm)| Step::Fault(shard, harm)),
        2 => (any::<u8>(), prop::collection::vec((any::<u8>(), any::<u8>()), 1..12))
            .prop_map(|(shard, what)| Step::Silent(shard, what)),
        4 => Just(Step::TakeBack),
        14 => some().prop_map(Step::Heal),
        5 => some().prop_map(Step::Scrub),
        1 => any::<u8>().prop_map(Step::Repair),
        1 => any::<u8>().prop_map(Step::Rebuild),
        2 => any::<u8>().prop_map(Step::Compact),
        2 => Just(Step::Recover),
    ];
    let change = prop_oneof![
        2 => prop::collection::vec(wish(), 1..3).prop_map(Step::Change),
        5 => some().prop_map(Step::ChangeSteps),
        1 => Just(Step::CancelChange),
    ];
    let backups = prop_oneof![
        5 => any::<bool>().prop_map(Step::Checkpoint),
        1 => (1..3u8).prop_map(Step::Prune),
        3 => (any::<u8>(), 3..7u8, 2..4u8, any::<bool>())
            .prop_map(|(which, shards, replicas, move_in)| Step::Restore { which, shards, replicas, move_in }),
    ];
    let ends = prop_oneof![2 => Just(Step::Reopen), 2 => Just(Step::Kill), 3 => any::<u64>().prop_map(Step::PowerCut)];
    prop_oneof![46 => data, 38 => healing, 10 => change, 6 => ends, 6 => backups]
}

fn run(shape: &Shape, steps: &[Step]) {
    run_telling(shape, steps, &mut |_| ());
}

/// The same for who wants to know which step begins.
fn run_telling(shape: &Shape, steps: &[Step], reached: &mut dyn FnMut(usize)) {
    let mut world = World::new(shape);
    for (number, step) in steps.iter().enumerate() {
        reached(number);
        let begun = Instant::now();
        world.take(step);
        world.look(number);
        let took = begun.elapsed();
        assert!(!world.may_hang || took < LONG, "{step:?} took {took:?}");
    }
    world.recover();
    world.check_backups();
}

fn cases(default: u32) -> u32 {
    let set = |name| std::env::var(name).ok().map(|v| v.parse().unwrap());
    set("ANNULUS_HEAL_MODEL_CASES").or(set("PROPTEST_CASES")).unwrap_or(default)
}

/// The same cases in every run, unless more are asked for: those are others each time.
fn config() -> ProptestConfig {
    let default = 400;
    let cases = cases(default);
    let rng_seed = if cases == default { RngSeed::Fixed(20_261_125) } else { RngSeed::Random };
    ProptestConfig { cases, max_shrink_iters: 3000, rng_seed, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_store_is_a_map_while_its_shards_fail_and_heal(
        shape in shape(false), steps in prop::collection::vec(step(), 1..100)
    ) {
        run(&shape, &steps);
    }
}
