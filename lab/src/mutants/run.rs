//! Tries mutants: the tests that are nearest to each come first, and the first failure ends it.

use super::build::Built;
use super::{Config, Mutant};
use crate::{Random, Result};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A program of tests, which of its tests, and whether random ones have all the cases that everybody runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Harness {
    program: &'static str,
    tests: &'static [&'static str],
    full: bool,
}

const fn some(program: &'static str, tests: &'static [&'static str]) -> Harness {
    Harness { program, tests, full: false }
}

/// How many cases random tests have, but for those that are asked in full.
const CASES: &str = "16";
/// Nothing that is well takes longer, and what hangs need not be watched longer.
const LONGEST: Duration = Duration::from_secs(150);
const HANGS: &str = "hangs";

/// What is asked last, of every file.
const REST: [&str; 8] =
    ["api", "model", "heal", "elastic", "faults", "checkpoint_archive", "concurrency", "inspect"];
/// What is asked after that, of every file, with as many cases as everybody runs.
const FULL: [&str; 4] = ["heal_model", "model", "checkpoint_model", "checkpoint"];
/// What is asked of some files only.
const SOME: [&str; 4] = ["mirrors", "regressions", "golden", "watchdog"];

/// The programs of tests that are needed besides the library's own.
pub fn programs() -> impl Iterator<Item = &'static str> {
    let full = FULL.into_iter().filter(|name| !REST.contains(name));
    REST.into_iter().chain(full).chain(SOME)
}

/// What must catch a mutant of a file.
fn harnesses(file: &str) -> Vec<Harness> {
    let (lib, more): (&[&str], &[&str]) = if file.starts_with("src/journal/") {
        (&["journal::"], &["mirrors", "regressions", "faults"])
    } else if file.starts_with("src/ring/") {
        (&["ring::"], &["elastic"])
    } else if file.starts_with("src/verbs/open/") {
        (&[], &["faults", "regressions", "mirrors", "heal", "golden"])
    } else if file.starts_with("src/verbs/heal/") || file.starts_with("src/shard/") {
        (&[], &["heal", "faults", "watchdog"])
    } else {
        (&[], &["elastic", "heal"])
    };
    let near = (!lib.is_empty()).then_some(some("annulus", lib));
    let rest = REST.iter().filter(|name| !more.contains(name));
    let all = near.into_iter().chain(more.iter().chain(rest).map(|name| some(name, &[])));
    // Slow, and so the last.
    let verbs = some("annulus", &["verbs::", "shard::", "state::"]);
    all.chain([verbs]).chain(FULL.map(|program| Harness { program, tests: &[], full: true })).collect()
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Caught(String),
    Missed,
}

struct Runner<'a> {
    built: &'a Built,
    /// How long each takes without a mutant.
    usual: Mutex<HashMap<Harness, Duration>>,
    turns: AtomicUsize,
}

impl Runner<'_> {
    fn start(&self, Harness { program, tests, full }: Harness, mutant: u32, scratch: &Path) -> Result<Child> {
        let exe =
            self.built.tests.get(program).ok_or_else(|| format!("there are no tests called {program}"))?;
        let mut command = Command::new(exe);
        // These wait for time to pass.
        let threads = if program == "watchdog" { "16" } else { "1" };
        command.args(tests).args(["--test-threads", threads]).env("TMPDIR", scratch);
        command.current_dir(&self.built.tree).env("ANNULUS_MUTANT", mutant.to_string());
        // The lab's own threads of work go on beside: what cannot be mounted here need not be.
        command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1");
        if !full {
            command.env("PROPTEST_CASES", CASES);
        }
        command.env("CARGO_MANIFEST_DIR", &self.built.tree);
        Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?)
    }

    /// The first test that fails; none if all pass.
    fn run(&self, harness: Harness, mutant: u32, limit: Duration) -> Result<Option<String>> {
        // In memory: a busy disk is not to be taken for a test that hangs.
        let place = crate::trials::in_memory().unwrap_or_else(std::env::temp_dir);
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        let name = format!("annulus-mutants-{}-{turn}", std::process::id());
        let scratch = crate::powercut::Scratch(place.join(name));
        std::fs::create_dir_all(&scratch.0)?;
        let mut child = self.start(harness, mutant, &scratch.0)?;
        let output = child.stdout.take().ok_or("no output")?;
        let ended = AtomicBool::new(false);
        let child = Mutex::new(child);
        let begun = Instant::now();
        let failed = std::thread::scope(|scope| {
            // Whatever hangs is killed, and its output ends.
            scope.spawn(|| {
                while !ended.load(Ordering::Acquire) {
                    if begun.elapsed() > limit {
                        let _ = child.lock().map(|mut child| child.kill());
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
            let is_failure = |line: &String| line.starts_with("test ") && line.ends_with("FAILED");
            let failed = BufReader::new(output).lines().map_while(std::result::Result::ok).find(is_failure);
            if failed.is_some() {
                let _ = child.lock().map(|mut child| child.kill());
            }
            ended.store(true, Ordering::Release);
            failed
        });
        let status = child.into_inner().map_err(|_| "a thread panicked")?.wait()?;
        let name = |line: String| line.trim_start_matches("test ").trim_end_matches(" ... FAILED").to_owned();
        Ok(match failed {
            Some(line) => Some(name(line)),
            None if begun.elapsed() > limit => Some(HANGS.to_owned()),
            None if !status.success() => Some("aborts".to_owned()),
            None => None,
        })
    }

    fn usual(&self, harness: Harness) -> Result<Duration> {
        if let Some(known) = self.usual.lock().map_err(|_| "a thread panicked")?.get(&harness) {
            return Ok(*known);
        }
        let begun = Instant::now();
        if let Some(test) = self.run(harness, 0, Duration::from_secs(600))? {
            return Err(format!("{test} of {} fails without a mutant", harness.program).into());
        }
        let took = begun.elapsed();
        eprintln!("{} {}: {:.1} s", harness.program, harness.tests.join(" "), took.as_secs_f64());
        self.usual.lock().map_err(|_| "a thread panicked")?.insert(harness, took);
        Ok(took)
    }

    fn judge(&self, mutant: &Mutant) -> Result<Verdict> {
        let mut hung = Vec::new();
        for harness in harnesses(&mutant.file) {
            let limit = (self.usual(harness)? * 2 + Duration::from_secs(4)).min(LONGEST);
            match self.run(harness, mutant.number, limit)?.as_deref() {
                Some(HANGS) => hung.push((harness, limit)),
                Some(test) => return Ok(Verdict::Caught(format!("{} {test}", harness.program))),
                None => {}
            }
        }
        // It may have been the machine that was slow.
        for (harness, limit) in hung {
            if let Some(test) = self.run(harness, mutant.number, limit * 3)? {
                return Ok(Verdict::Caught(format!("{} {test}", harness.program)));
            }
        }
        Ok(Verdict::Missed)
    }
}

/// The floor and room that a file belongs to, for the table.
fn room(file: &str) -> &str {
    let rest = file.trim_start_matches("src/");
    let depth = if rest.starts_with("verbs/") || rest.starts_with("state/") { 2 } else { 1 };
    let end = rest.match_indices('/').nth(depth - 1).map_or(rest.len(), |(at, _)| at);
    &rest[..end]
}

fn draw<'a>(config: &Config, mutants: &'a [Mutant], built: &Built) -> Vec<&'a Mutant> {
    let wanted = |m: &&Mutant| {
        let only = config.only.as_ref();
        built.numbers.contains(&m.number) && only.is_none_or(|only| only.iter().any(|o| m.name.contains(o)))
    };
    let mut drawn: Vec<&Mutant> = mutants.iter().filter(wanted).collect();
    let mut random = Random::new(config.seed);
    for at in (1..drawn.len()).rev() {
        drawn.swap(at, random.below(at as u64 + 1) as usize);
    }
    drawn.truncate(config.sample.unwrap_or(usize::MAX));
    drawn
}

pub fn run(config: &Config, mutants: &[Mutant], built: &Built) -> Result<bool> {
    let drawn = draw(config, mutants, built);
    let runner = Runner { built, usual: Mutex::default(), turns: AtomicUsize::new(0) };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/mutants/verdicts");
    // What was found before is not tried again: a run that was stopped goes on. Deleting the file begins anew.
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    let known: HashMap<&str, &str> = known.lines().filter_map(|line| line.split_once('\t')).collect();
    let file = Mutex::new(std::fs::OpenOptions::new().append(true).create(true).open(&path)?);
    let verdicts = Mutex::new(BTreeMap::<u32, Verdict>::new());
    let errors = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    let begun = Instant::now();
    let over = || config.minutes.is_some_and(|minutes| begun.elapsed() > Duration::from_secs(60 * minutes));
    let work = || {
        while let Some(mutant) = drawn.get(next.fetch_add(1, Ordering::Relaxed)) {
            let verdict = match known.get(mutant.name.as_str()) {
                Some(&"missed") => Ok(Verdict::Missed),
                Some(caught) => Ok(Verdict::Caught((*caught).to_owned())),
                None if over() => break,
                None => runner.judge(mutant).inspect(|verdict| {
                    let text = match verdict {
                        Verdict::Caught(by) => by,
                        Verdict::Missed => "missed",
                    };
                    let _ = file.lock().map(|mut file| writeln!(file, "{}\t{text}", mutant.name));
                }),
            };
            match verdict {
                Ok(verdict) => drop(verdicts.lock().map(|mut all| all.insert(mutant.number, verdict))),
                Err(error) => return drop(errors.lock().map(|mut all| all.push(error.to_string()))),
            }
        }
    };
    std::thread::scope(|scope| (0..config.jobs.max(1)).for_each(|_| drop(scope.spawn(work))));
    if let Some(error) = errors.into_inner().map_err(|_| "a thread panicked")?.pop() {
        return Err(error.into());
    }
    report(&drawn, mutants, built, &verdicts.into_inner().map_err(|_| "a thread panicked")?)
}

fn report(
    drawn: &[&Mutant],
    all: &[Mutant],
    built: &Built,
    verdicts: &BTreeMap<u32, Verdict>,
) -> Result<bool> {
    #[derive(Default)]
    struct Row {
        known: usize,
        built: usize,
        tried: usize,
        caught: usize,
        hang: usize,
    }
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    for mutant in all {
        for name in [room(&mutant.file), "~ all"] {
            let row = rows.entry(name).or_default();
            row.known += 1;
            row.built += usize::from(built.numbers.contains(&mutant.number));
            if let Some(verdict) = verdicts.get(&mutant.number) {
                row.tried += 1;
                row.caught += usize::from(*verdict != Verdict::Missed);
                row.hang += usize::from(matches!(verdict, Verdict::Caught(by) if by.ends_with(HANGS)));
            }
        }
    }
    println!(
        "\n| where | mutants | compile | tried | caught | of these by hanging | share |\n|---|---:|---:|---:|---:|---:|---:|"
    );
    for (name, row) in &rows {
        let share = 100.0 * row.caught as f64 / row.tried.max(1) as f64;
        let (name, Row { known, built, tried, caught, hang }) = (name.trim_start_matches("~ "), row);
        println!("| {name} | {known} | {built} | {tried} | {caught} | {hang} | {share:.1}% |");
    }
    let missed: Vec<&str> = drawn
        .iter()
        .filter(|mutant| verdicts.get(&mutant.number) == Some(&Verdict::Missed))
        .map(|mutant| mutant.name.as_str())
        .collect::<HashSet<_>>()
        .into_iter()
        .collect();
    println!("\nmissed: {}", missed.len());
    let mut missed = missed;
    missed.sort_unstable();
    missed.iter().for_each(|name| println!("  {name}"));
    let caught = verdicts.values().filter(|verdict| **verdict != Verdict::Missed).count();
    Ok(caught * 10 >= verdicts.len() * 9)
}
