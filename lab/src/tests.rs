//! Bugs planted in Annulus on purpose that its tests must catch: each harness first without any, then with one after another.
//!
//! A harness is a binary of tests and what the names of its tests begin with. It has caught a plant when a test of it fails,
//! when it dies, or when it does not come to an end though it takes but a small part of the time without.

use crate::Result;
use crate::kept::{end, kept};
use annulus::testing::{PLANTS, Plant};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a harness may take with a plant in it, and without one.
const LIMIT: Duration = Duration::from_secs(240);
const LIMIT_WITHOUT: Duration = Duration::from_secs(600);
/// A harness that takes less than such a part of its limit without a plant, and not less with one, hangs.
const PART: u32 = 4;
/// With so many seeds a plant may be missed before it counts as missed.
const SEEDS: u64 = 3;
/// Harnesses that run side by side.
const ABREAST: usize = 2;
/// What is told of a failure, in characters.
const TOLD: usize = 140;
/// What keeps random tests short, and their failures from being made small and written down.
const ENVIRONMENT: [(&str, &str); 5] = [
    ("PROPTEST_CASES", "64"),
    ("PROPTEST_MAX_SHRINK_TIME", "1"),
    ("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true"),
    ("ANNULUS_CONCURRENCY_SECONDS", "4"),
    ("RUST_BACKTRACE", "0"),
];

/// Harnesses that are no tests, and run their plants themselves.
const OTHERS: [&str; 6] = ["powercut", "states", "schedules", "damage", "kill", "files"];

/// What a run came to.
#[derive(Debug, Clone)]
enum Outcome {
    Passed(Duration),
    /// The first test that failed, and how.
    Failed(String, Duration),
    Hung,
}

/// Runs all plants, or those named; whether all were caught.
pub fn run_all(only: Option<&[String]>) -> Result<bool> {
    let chosen = |plant: &&Plant| only.is_none_or(|only| only.iter().any(|name| name == plant.name));
    let plants: Vec<&Plant> =
        PLANTS.iter().filter(|plant| !OTHERS.contains(&plant.harness)).filter(chosen).collect();
    if let Some(name) =
        only.into_iter().flatten().find(|name| plants.iter().all(|plant| plant.name != **name))
    {
        return Err(format!("no plant {name} for tests").into());
    }
    let harnesses: BTreeSet<&str> = plants.iter().map(|plant| plant.harness).collect();
    let binaries = build(&harnesses)?;
    let without = side_by_side(harnesses.into_iter().collect(), |harness| {
        let outcome = run(&binaries, harness, None, 1, LIMIT_WITHOUT);
        eprintln!("{harness}, nothing planted: {outcome:?}");
        (*harness, outcome)
    });
    let mut took = BTreeMap::new();
    for (harness, outcome) in without {
        if let Outcome::Passed(time) = outcome? {
            took.insert(harness, time);
        }
    }
    // What fails by itself has caught nothing.
    let outcomes = side_by_side(plants, |plant| {
        let without = took.get(plant.harness);
        let verdict = without.map_or(Ok(None), |without| try_plant(&binaries, plant, *without));
        eprintln!("{}: {verdict:?}", plant.name);
        (*plant, verdict)
    });
    println!("| planted | what it does | harness | caught by | s |\n|---|---|---|---|---|");
    let mut all = true;
    for (plant, verdict) in outcomes {
        let (how, seconds) = match verdict? {
            Some((how, time)) => (how, format!("{:.1}", time.as_secs_f64())),
            None => {
                all = false;
                ("**missed**".to_owned(), String::new())
            }
        };
        println!("| {} | {} | `{}` | {how} | {seconds} |", plant.name, plant.what, plant.harness);
    }
    Ok(all)
}

/// How a plant was caught and after how long, if it was.
fn try_plant(
    binaries: &BTreeMap<String, PathBuf>,
    plant: &Plant,
    without: Duration,
) -> Result<Option<(String, Duration)>> {
    let mut spent = Duration::ZERO;
    for seed in 1..=SEEDS {
        match run(binaries, plant.harness, Some(plant.name), seed, LIMIT)? {
            Outcome::Failed(how, time) => return Ok(Some((how, spent + time))),
            Outcome::Hung if without * PART < LIMIT => {
                return Ok(Some(("it does not come to an end".to_owned(), spent + LIMIT)));
            }
            Outcome::Hung => spent += LIMIT,
            Outcome::Passed(time) => spent += time,
        }
    }
    Ok(None)
}

/// Does all jobs, a few at a time; what they come to is in their order.
fn side_by_side<J: Send, T: Send>(jobs: Vec<J>, work: impl Fn(&J) -> T + Sync) -> Vec<T> {
    let queue: Mutex<VecDeque<(usize, J)>> = Mutex::new(jobs.into_iter().enumerate().collect());
    let done = Mutex::new(BTreeMap::new());
    let take = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    std::thread::scope(|scope| {
        for _ in 0..ABREAST {
            scope.spawn(|| {
                while let Some((place, job)) = take() {
                    let outcome = work(&job);
                    done.lock().unwrap_or_else(PoisonError::into_inner).insert(place, outcome);
                }
            });
        }
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
}

/// The binary that a harness is in, and what the names of its tests begin with.
fn parts(harness: &str) -> (&str, Option<&str>) {
    harness.split_once(' ').map_or((harness, None), |(binary, tests)| (binary, Some(tests)))
}

/// Builds the binaries that the harnesses are in, in a target directory of their own; their paths by their names.
fn build(harnesses: &BTreeSet<&str>) -> Result<BTreeMap<String, PathBuf>> {
    let lab = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["test", "--no-run", "--message-format=json-render-diagnostics", "--manifest-path"]);
    cargo.arg(lab.join("../Cargo.toml")).arg("--target-dir").arg(lab.join("target/tests"));
    for binary in harnesses.iter().map(|harness| parts(harness).0).collect::<BTreeSet<_>>() {
        match binary {
            "lib" => cargo.arg("--lib"),
            test => cargo.args(["--test", test]),
        };
    }
    let out = cargo.env("RUSTFLAGS", "--cfg annulus_plants").stderr(Stdio::inherit()).output()?;
    if !out.status.success() {
        return Err("the tests cannot be built with plants in them".into());
    }
    let text = String::from_utf8(out.stdout)?;
    let between = |line: &str, before: &str| -> Option<String> {
        let (_, rest) = line.split_once(before)?;
        rest.split('"').next().map(str::to_owned)
    };
    let mut binaries = BTreeMap::new();
    for line in text.lines() {
        let Some((_, target)) = line.split_once("\"target\":{") else { continue };
        let parts = (between(target, "\"kind\":[\""), between(target, "\"name\":\""));
        let Some(path) = between(line, "\"executable\":\"") else { continue };
        match parts {
            (Some(kind), _) if kind == "lib" => binaries.insert("lib".to_owned(), path.into()),
            (_, Some(name)) => binaries.insert(name, path.into()),
            _ => None,
        };
    }
    Ok(binaries)
}

/// Runs a harness up to the first test of it that fails.
fn run(
    binaries: &BTreeMap<String, PathBuf>,
    harness: &str,
    plant: Option<&str>,
    seed: u64,
    limit: Duration,
) -> Result<Outcome> {
    let (binary, tests) = parts(harness);
    let path = binaries.get(binary).ok_or_else(|| format!("cargo has built no {binary}"))?;
    let told = std::env::temp_dir().join(format!(
        "annulus-lab-{}-{}",
        std::process::id(),
        plant.unwrap_or(harness).replace([' ', ':'], "-")
    ));
    let mut command = kept(path, limit);
    command.arg("--nocapture").args(tests).envs(ENVIRONMENT).env_remove("ANNULUS_PLANT");
    command.env("PROPTEST_RNG_SEED", seed.to_string()).env("ANNULUS_SEED", seed.to_string());
    command.envs(plant.map(|plant| ("ANNULUS_PLANT", plant)));
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(std::fs::File::create(&told)?);
    let mut child = command.spawn()?;
    let outcome = watch(&mut child, limit, &told);
    // Where it has come to an end by itself there is nothing left to be ended.
    end(&child);
    child.wait()?;
    std::fs::remove_file(&told)?;
    outcome
}

/// Waits until a test fails, or all have passed.
fn watch(child: &mut Child, limit: Duration, told: &Path) -> Result<Outcome> {
    let begun = Instant::now();
    let stdout = child.stdout.take().ok_or("a test has no output")?;
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(std::io::Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let mut passed = 0;
    loop {
        let line = match lines.recv_timeout(limit.saturating_sub(begun.elapsed())) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => return Ok(Outcome::Hung),
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if line.ends_with(" ... FAILED")
            && let Some((_, name)) = line.trim_end_matches(" ... FAILED").rsplit_once("test ")
        {
            let text = String::from_utf8_lossy(&std::fs::read(told)?).into_owned();
            return Ok(Outcome::Failed(first_words(&text, name), begun.elapsed()));
        }
        passed += u32::from(line.ends_with(" ... ok"));
    }
    let status = child.wait()?;
    Ok(match (status.success(), passed) {
        (true, 0) => return Err("it has no such tests".into()),
        (true, _) => Outcome::Passed(begun.elapsed()),
        (false, _) => Outcome::Failed(format!("the tests died: {status}"), begun.elapsed()),
    })
}

/// The name of a test and the first words of its panic, fit for a table.
fn first_words(text: &str, test: &str) -> String {
    let thread = format!("thread '{test}'");
    let mut lines =
        text.lines().skip_while(|line| !(line.starts_with(&thread) && line.contains("panicked at")));
    let words = lines.nth(1).unwrap_or_default().replace('|', "/").replace('`', "'");
    let name = test.rsplit("::").next().unwrap_or(test);
    let words: String = words.chars().take(TOLD).collect();
    format!("`{name}`: {words}")
}
