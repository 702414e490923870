//! Power cuts of the simulated disk, counted: cut before every operation, with every choice for what was not synced.
//!
//! Rooms: `image` (one disk that a cut left), `explore` (all disks that it may leave), and what is cut: `journal`, `small`
//! (manifest, identity, seal), `store` (whole stores, with and without several copies of the journal).

mod explore;
mod image;
mod journal;
mod plants;
mod small;
mod store;

use crate::{Random, Result};
use explore::{Bounds, Counts};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use plants::run_all as run_plants;

/// What a script went through, and what was wrong.
type Part = (Counts, std::result::Result<(), String>);

/// How far a script goes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    cut: Bounds,
    /// Whether some of the disks are opened, and cut once more meanwhile.
    deep: bool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Clone)]
pub struct Config {
    /// How many states of the journal.
    pub states: u64,
    pub seed: u64,
    pub threads: usize,
    /// Only this script of this part.
    pub script: Option<(String, u64)>,
    /// Stop at the first failure of any part, and run none of the others.
    pub parts: Option<Vec<String>>,
}

/// What is cut.
struct Subject {
    name: &'static str,
    /// Of the states that are asked for, how many per million are to be of this.
    share: u64,
    /// States of an operation, sets of names.
    bounds: Bounds,
    script: fn(u64, Limits) -> Part,
}

const SUBJECTS: [Subject; 3] = [
    Subject {
        name: "small",
        share: 2_000,
        bounds: Bounds { states: 4096, names: 64 },
        script: small::script,
    },
    Subject {
        name: "journal",
        share: 1_000_000,
        bounds: Bounds { states: 4096, names: 32 },
        script: journal::script,
    },
    Subject { name: "store", share: 1_000, bounds: Bounds { states: 6, names: 6 }, script: store::script },
];

/// Runs the harness; whether all promises were kept.
pub fn run(config: &Config) -> Result<bool> {
    println!("seed {}, {} states, {} threads", config.seed, config.states, config.threads);
    if let Some((name, script)) = &config.script {
        let subject = SUBJECTS.iter().find(|subject| subject.name == name).ok_or("no such part")?;
        let (counts, outcome) = one(subject, config.seed, *script);
        println!("{counts:?}\n{outcome:?}");
        return Ok(outcome.is_ok());
    }
    let (mut rows, mut sound) = (Vec::new(), true);
    for subject in &SUBJECTS {
        if config.parts.as_ref().is_some_and(|parts| parts.iter().all(|part| part != subject.name)) {
            continue;
        }
        let row = all(subject, config);
        sound &= row.failures.is_empty();
        rows.push(row);
    }
    print(&rows);
    Ok(sound)
}

fn one(subject: &Subject, seed: u64, script: u64) -> Part {
    let mut random = Random::new(seed ^ script.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let limits = Limits { cut: subject.bounds, deep: true };
    let run = || (subject.script)(random.draw(), limits);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    outcome.unwrap_or_else(|_| (Counts::default(), Err("a panic".into())))
}

struct Row {
    name: &'static str,
    counts: Counts,
    scripts: u64,
    failures: Vec<String>,
    took: Duration,
}

/// Scripts on all threads up to the number of states, or the first failure.
fn all(subject: &Subject, config: &Config) -> Row {
    let wanted = (config.states / 1_000_000 * subject.share)
        .max(config.states.min(1_000_000) * subject.share / 1_000_000);
    let begin = Instant::now();
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let sum = Mutex::new(Row {
        name: subject.name,
        counts: Counts::default(),
        scripts: 0,
        failures: Vec::new(),
        took: Duration::ZERO,
    });
    std::thread::scope(|scope| {
        for _ in 0..config.threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let script = next.fetch_add(1, Ordering::Relaxed);
                    let (counts, outcome) = one(subject, config.seed, script);
                    let mut sum = locked(&sum);
                    sum.counts.add(&counts);
                    sum.scripts += 1;
                    if let Err(what) = outcome {
                        println!(
                            "{}: {what}\n  again: states --seed {} --script {}:{script}",
                            subject.name, config.seed, subject.name
                        );
                        sum.failures.push(what);
                    }
                    if sum.counts.states >= wanted || !sum.failures.is_empty() {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let mut row = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    row.took = begin.elapsed();
    row
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn print(rows: &[Row]) {
    println!(
        "\n| what | scripts | operations cut at | of these with all states | crash states | distinct disks recovered | while recovering | process only | most choices open | failed writes and syncs | damaged disks / refused | s | broken |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    let mut total = Counts::default();
    for Row { name, counts, scripts, failures, took } in rows {
        total.add(counts);
        let Counts {
            operations,
            whole,
            states,
            recovered,
            second,
            killed,
            damaged,
            refused,
            failed,
            open,
            ..
        } = counts;
        let [operations, whole, states, recovered, second, killed, damaged, refused, failed] =
            [*operations, *whole, *states, *recovered, *second, *killed, *damaged, *refused, *failed]
                .map(grouped);
        println!(
            "| {name} | {} | {operations} | {whole} | {states} | {recovered} | {second} | {killed} | {open} | {failed} | {damaged} / {refused} | {:.0} | {} |",
            grouped(*scripts),
            took.as_secs_f64(),
            failures.len()
        );
    }
    let broken: usize = rows.iter().map(|row| row.failures.len()).sum();
    if broken == 0 && total.states > 0 {
        println!(
            "\n{} states, {} distinct disks, none broke a promise: of such disks less than one in {} does, with 95% confidence (3/N)",
            grouped(total.states),
            grouped(total.recovered),
            grouped(total.recovered / 3)
        );
    } else {
        println!("\n{broken} broke a promise");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn scripts_go_through_many_states_and_the_same_ones_again() {
        for subject in &SUBJECTS[..2] {
            let mut sum = Counts::default();
            for script in 0..6 {
                let (counts, outcome) = one(subject, 7, script);
                outcome.unwrap();
                let (again, _) = one(subject, 7, script);
                assert_eq!((counts.states, counts.recovered), (again.states, again.recovered));
                sum.add(&counts);
            }
            assert!(sum.states > 400 && sum.recovered > 60 && sum.whole > 100, "{sum:?}");
        }
    }

    #[test]
    fn whole_stores_are_cut() {
        let (counts, outcome) = one(&SUBJECTS[2], 3, 1);
        outcome.unwrap();
        assert!(counts.states > 200 && counts.second > 50, "{counts:?}");
    }

    #[test]
    fn sectors_have_fingerprints_of_their_own() {
        let mut seen = HashSet::new();
        for place in 0..64u64 {
            for byte in 0..=255u8 {
                assert!(seen.insert(image::fingerprint(place, &[byte; 512])));
                let mut one = [0; 512];
                one[usize::from(byte) * 2] = 1;
                assert!(seen.insert(image::fingerprint(place, &one)));
            }
        }
    }
}
