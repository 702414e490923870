//! Tries mutants: of the tests that come across one the quickest come first, and the first failure ends it.

use super::ask::{HANGS, Question};
use super::build::Built;
use super::reach::{self, Test};
use super::{Config, Mutant};
use crate::{Random, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Tests are asked together that take so long without a mutant, and twice as long each time.
const FIRST: Duration = Duration::from_millis(300);
/// So long tests of one mutant go on: what is not noticed by then counts as unnoticed.
const BUDGET: Duration = Duration::from_secs(90);
/// After so many batches that hung the others are not waited for.
const HUNG: usize = 2;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Caught(String),
    /// It made no difference that could be seen where it stands, in any test.
    Unmet,
    Missed,
}

impl Verdict {
    fn text(&self) -> &str {
        match self {
            Verdict::Caught(by) => by,
            Verdict::Unmet => "unmet",
            Verdict::Missed => "missed",
        }
    }

    fn read(text: &str) -> Verdict {
        match text {
            "unmet" => Verdict::Unmet,
            "missed" => Verdict::Missed,
            by => Verdict::Caught(by.to_owned()),
        }
    }
}

/// Some tests, as questions, and how long they take without a mutant.
type Batch<'a> = (Vec<Question<'a>>, Duration);

fn batches<'a>(mutant: &Mutant, tests: &'a [Test]) -> Vec<Batch<'a>> {
    let mut those: Vec<&Test> = tests.iter().filter(|test| test.reaches.contains(&mutant.number)).collect();
    those.sort_by_key(|test| test.took);
    let (mut batches, mut spent, mut size) = (Vec::<Batch>::new(), Duration::ZERO, FIRST);
    for test in those {
        if spent + test.took > BUDGET {
            break;
        }
        spent += test.took;
        if batches.last().is_none_or(|(_, took)| *took + test.took > size) {
            size = if batches.is_empty() { FIRST } else { size * 2 };
            batches.push((Vec::new(), Duration::ZERO));
        }
        let Some((questions, took)) = batches.last_mut() else { continue };
        *took += test.took;
        let (program, full) = (test.program.as_str(), test.full);
        match questions.iter_mut().find(|q| q.program == program && q.full == full) {
            Some(question) => question.tests.push(&test.name),
            None => questions.push(Question { program, tests: vec![&test.name], full }),
        }
    }
    batches
}

fn judge(built: &Built, mutant: &Mutant, tests: &[Test]) -> Result<Verdict> {
    let mut hung = Vec::new();
    let batches = batches(mutant, tests);
    if batches.is_empty() {
        return Ok(Verdict::Unmet);
    }
    'all: for (questions, took) in &batches {
        let limit = *took * 3 + Duration::from_secs(5);
        for question in questions {
            match question.ask(built, mutant.number, limit, None)?.as_deref() {
                Some(HANGS) => hung.push((question, limit)),
                Some(test) => return Ok(Verdict::Caught(test.to_owned())),
                None => {}
            }
            if hung.len() >= HUNG {
                break 'all;
            }
        }
    }
    // It may have been the machine that was slow.
    for (question, limit) in hung {
        if let Some(test) = question.ask(built, mutant.number, limit * 3, None)? {
            return Ok(Verdict::Caught(test));
        }
    }
    Ok(Verdict::Missed)
}

/// The floor and room that a file belongs to, for the table.
fn room(file: &str) -> &str {
    let rest = file.trim_start_matches("src/");
    let depth = if rest.starts_with("verbs/") || rest.starts_with("state/") { 2 } else { 1 };
    let end = rest.match_indices('/').nth(depth - 1).map_or(rest.len(), |(at, _)| at);
    &rest[..end]
}

fn draw<'a>(
    config: &Config,
    mutants: &'a [Mutant],
    built: &Built,
    known: &HashMap<&str, &str>,
) -> Vec<&'a Mutant> {
    let wanted = |m: &&Mutant| {
        let only = config.only.as_ref();
        let passed = |verdict: &&str| {
            Verdict::read(verdict) == Verdict::Unmet || Verdict::read(verdict) == Verdict::Missed
        };
        built.numbers.contains(&m.number)
            && only.is_none_or(|only| only.iter().any(|o| m.name.contains(o)))
            && (!config.again || known.get(m.name.as_str()).is_some_and(passed))
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
    let tests = reach::tests(built, config.jobs)?;
    let path = built.home.join("verdicts");
    // What was found before is not tried again: a run that was stopped goes on. Deleting the file begins anew.
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    let known: HashMap<&str, &str> = known.lines().filter_map(|line| line.split_once('\t')).collect();
    let drawn = draw(config, mutants, built, &known);
    let file = Mutex::new(std::fs::OpenOptions::new().append(true).create(true).open(&path)?);
    let verdicts = Mutex::new(BTreeMap::<u32, Verdict>::new());
    let errors = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    let begun = Instant::now();
    let over = || config.minutes.is_some_and(|minutes| begun.elapsed() > Duration::from_secs(60 * minutes));
    let work = || {
        while let Some(mutant) = drawn.get(next.fetch_add(1, Ordering::Relaxed)) {
            let known = known.get(mutant.name.as_str()).filter(|_| !config.again);
            let verdict = match known {
                Some(text) => Ok(Verdict::read(text)),
                None if over() => break,
                None => judge(built, mutant, &tests).inspect(|verdict| {
                    let _ = file.lock().map(|mut file| writeln!(file, "{}\t{}", mutant.name, verdict.text()));
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
        unmet: usize,
    }
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    for mutant in all {
        for name in [room(&mutant.file), "~ all"] {
            let row = rows.entry(name).or_default();
            row.known += 1;
            row.built += usize::from(built.numbers.contains(&mutant.number));
            if let Some(verdict) = verdicts.get(&mutant.number) {
                row.tried += 1;
                row.caught += usize::from(matches!(verdict, Verdict::Caught(_)));
                row.hang += usize::from(matches!(verdict, Verdict::Caught(by) if by == HANGS));
                row.unmet += usize::from(*verdict == Verdict::Unmet);
            }
        }
    }
    println!(
        "\n| where | mutants | compile | tried | caught | of these by hanging | no test comes across it | share |\n|---|---:|---:|---:|---:|---:|---:|---:|"
    );
    for (name, row) in &rows {
        let share = 100.0 * row.caught as f64 / row.tried.max(1) as f64;
        let (name, Row { known, built, tried, caught, hang, unmet }) = (name.trim_start_matches("~ "), row);
        println!("| {name} | {known} | {built} | {tried} | {caught} | {hang} | {unmet} | {share:.1}% |");
    }
    for verdict in [Verdict::Unmet, Verdict::Missed] {
        let those = drawn.iter().filter(|mutant| verdicts.get(&mutant.number) == Some(&verdict));
        let names: BTreeSet<&str> = those.map(|mutant| mutant.name.as_str()).collect();
        println!("\n{}: {}", verdict.text(), names.len());
        names.iter().for_each(|name| println!("  {name}"));
    }
    let caught = verdicts.values().filter(|verdict| matches!(verdict, Verdict::Caught(_))).count();
    Ok(caught * 10 >= verdicts.len() * 9)
}
