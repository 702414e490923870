//! Which mutants a test comes across: only those can it notice.
//!
//! Every test is run once by itself, without a mutant, and notes each that would have made a difference where it stands, as far as
//! that can be seen there: a comparison that would have come out otherwise, else that the place was come by. What is random
//! may come by more another time; so a mutant may pass for unnoticed that is noticed now and then, and never the other way round.

use super::ask::Question;
use super::build::Built;
use crate::Result;
use std::collections::HashSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The programs of tests that are asked besides the library's own.
pub const PROGRAMS: [&str; 22] = [
    "api",
    "checkpoint",
    "checkpoint_archive",
    "checkpoint_faults",
    "checkpoint_model",
    "checkpoint_salvage",
    "concurrency",
    "damage_table",
    "elastic",
    "faults",
    "full_disk",
    "golden",
    "heal",
    "heal_live",
    "heal_model",
    "inspect",
    "linearizability",
    "mirrors",
    "model",
    "regressions",
    "retention",
    "watchdog",
];
/// Their random tests are asked with as many cases as everybody runs, too.
const FULL: [&str; 4] = ["heal_model", "model", "checkpoint_model", "checkpoint"];
/// No test takes longer without a mutant.
const LONGEST: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub struct Test {
    pub program: String,
    pub name: String,
    pub full: bool,
    pub took: Duration,
    pub reaches: HashSet<u32>,
}

impl Test {
    fn line(&self) -> String {
        let mut line =
            format!("{}\t{}\t{}\t{}\t", self.program, self.name, self.full, self.took.as_secs_f64());
        for number in &self.reaches {
            let _ = write!(line, "{number} ");
        }
        line
    }

    fn read(line: &str) -> Option<Test> {
        let mut fields = line.split('\t');
        let mut next = || fields.next();
        Some(Test {
            program: next()?.to_owned(),
            name: next()?.to_owned(),
            full: next()?.parse().ok()?,
            took: Duration::from_secs_f64(next()?.parse().ok()?),
            reaches: next()?.split_whitespace().filter_map(|n| n.parse().ok()).collect(),
        })
    }
}

fn names(exe: &Path, arguments: &[&str]) -> Result<Vec<String>> {
    let out = Command::new(exe).arg("--list").args(arguments).output()?;
    let text = String::from_utf8(out.stdout)?;
    Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

/// What was noted of a program is used again while it stays as it is.
fn cache(built: &Built, program: &str) -> PathBuf {
    built.home.join(format!("reached-{program}"))
}

fn cached(built: &Built, program: &str, exe: &Path) -> Option<Vec<Test>> {
    let path = cache(built, program);
    let time = |path: &Path| std::fs::metadata(path).and_then(|about| about.modified()).ok();
    let newer = time(&path)? > time(exe)?;
    newer.then(|| std::fs::read_to_string(&path).ok()?.lines().map(Test::read).collect()).flatten()
}

/// All tests, with what they come across.
pub fn tests(built: &Built, jobs: usize) -> Result<Vec<Test>> {
    let (mut known, mut wanted) = (Vec::new(), Vec::new());
    for (program, exe) in &built.tests {
        if let Some(tests) = cached(built, program, exe) {
            known.extend(tests);
            continue;
        }
        let ignored: HashSet<String> = names(exe, &["--ignored"])?.into_iter().collect();
        for name in names(exe, &[])?.into_iter().filter(|name| !ignored.contains(name)) {
            if FULL.contains(&program.as_str()) {
                wanted.push((program.as_str(), name.clone(), true));
            }
            wanted.push((program.as_str(), name, false));
        }
    }
    eprintln!("{} tests are asked what they come across", wanted.len());
    let (next, found) = (AtomicUsize::new(0), Mutex::new((Vec::new(), Vec::new())));
    let work = || {
        while let Some((program, name, full)) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
            let outcome = one(built, program, name, *full);
            let Ok(mut found) = found.lock() else { return };
            match outcome {
                Ok(test) => found.0.push(test),
                Err(error) => found.1.push(error.to_string()),
            }
        }
    };
    std::thread::scope(|scope| (0..jobs.max(1)).for_each(|_| drop(scope.spawn(work))));
    let (found, errors) = found.into_inner().map_err(|_| "a thread panicked")?;
    if !errors.is_empty() {
        return Err(errors.join("\n").into());
    }
    let programs: HashSet<&str> = found.iter().map(|test: &Test| test.program.as_str()).collect();
    for program in programs {
        let lines: Vec<String> =
            found.iter().filter(|test| test.program == program).map(Test::line).collect();
        std::fs::write(cache(built, program), lines.join("\n"))?;
    }
    known.extend(found);
    Ok(known)
}

fn one(built: &Built, program: &str, name: &str, full: bool) -> Result<Test> {
    static TURNS: AtomicUsize = AtomicUsize::new(0);
    let notes = built.home.join(format!("notes-{}", TURNS.fetch_add(1, Ordering::Relaxed)));
    let _ = std::fs::remove_file(&notes);
    let begun = Instant::now();
    let question = Question { program, tests: vec![name], full };
    if let Some(test) = question.ask(built, 0, LONGEST, Some(&notes))? {
        return Err(format!("{test} fails without a mutant").into());
    }
    let took = begun.elapsed();
    // Processes that a test has killed may have written half a number.
    let text = std::fs::read_to_string(&notes).unwrap_or_default();
    let _ = std::fs::remove_file(&notes);
    let reaches = text.lines().filter_map(|line| line.parse().ok()).collect();
    Ok(Test { program: program.to_owned(), name: name.to_owned(), full, took, reaches })
}
