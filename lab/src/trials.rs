//! What harnesses of many independent trials have in common: their command line, trials side by side, children that are watched,
//! and what a run proves.
//!
//! Every trial has a seed of its own, which follows from the run's and its number: `--seed S --trial N` makes it alone, again.

use crate::{Random, Result, list};
use lexopt::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What is told of a child that failed, in characters.
const TOLD: usize = 600;
/// Failures that are kept.
const KEPT: usize = 4;

pub struct Settings {
    pub trials: usize,
    pub seed: u64,
    /// Trials side by side.
    pub jobs: usize,
    /// No trial begins later.
    pub minutes: Option<u64>,
    /// One alone.
    pub trial: Option<usize>,
    /// Where the stores lie.
    pub dir: Option<PathBuf>,
    pub until_caught: bool,
    pub plants: bool,
    pub only: Option<Vec<String>>,
    pub require: bool,
}

/// A directory in memory, where there is one with room, for trials to whom a disk is nothing but slow.
pub fn in_memory() -> Option<PathBuf> {
    const ROOM: u64 = 2 << 30;
    let about = nix::sys::statvfs::statvfs("/dev/shm").ok()?;
    (about.blocks_available() * about.fragment_size() > ROOM).then(|| "/dev/shm".into())
}

impl Settings {
    /// `trials`: how many there are unless the command line says otherwise, and what they are called there.
    pub fn parse(mut parser: lexopt::Parser, trials: usize, called: &str) -> Result<Settings> {
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let mut settings = Settings {
            trials,
            seed: clock.as_nanos() as u64 >> 10 & 0xffff_ffff,
            jobs: 4,
            minutes: None,
            trial: None,
            dir: None,
            until_caught: false,
            plants: false,
            only: None,
            require: false,
        };
        while let Some(argument) = parser.next()? {
            match argument {
                Long(name) if name == called => settings.trials = parser.value()?.parse()?,
                Long("seed") => settings.seed = parser.value()?.parse()?,
                Long("jobs") => settings.jobs = parser.value()?.parse()?,
                Long("minutes") => settings.minutes = Some(parser.value()?.parse()?),
                Long("trial") => settings.trial = Some(parser.value()?.parse()?),
                Long("dir") => settings.dir = Some(parser.value()?.into()),
                Long("until-caught") => settings.until_caught = true,
                Long("plants") => settings.plants = true,
                Long("only") => settings.only = Some(list(&parser.value()?)),
                Long("require") => settings.require = true,
                _ => return Err(argument.unexpected().into()),
            }
        }
        Ok(settings)
    }

    /// Where the stores lie, unless a harness knows a better place.
    pub fn place(&self) -> PathBuf {
        self.dir.clone().unwrap_or_else(std::env::temp_dir)
    }

    /// Whether something of this name is among what was asked for.
    pub fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.iter().any(|wanted| wanted == name))
    }

    /// Makes all trials, some side by side; what they came to, by their numbers. `is_sound` says whether one kept every promise.
    pub fn run<T: Send>(
        &self,
        trial: impl Fn(usize, Random) -> Result<T> + Sync,
        is_sound: impl Fn(&T) -> bool + Sync,
    ) -> Result<BTreeMap<usize, T>> {
        let numbers = match self.trial {
            Some(number) => number..number + 1,
            None => 0..self.trials,
        };
        let deadline = self.minutes.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
        let (next, stop) = (AtomicUsize::new(numbers.start), AtomicBool::new(false));
        let (done, failed) = (Mutex::new(BTreeMap::new()), Mutex::new(None));
        let work = || {
            while !stop.load(Ordering::Relaxed) && deadline.is_none_or(|deadline| Instant::now() < deadline) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= numbers.end {
                    break;
                }
                match trial(number, Random::new(self.seed ^ (number as u64) << 32)) {
                    Ok(outcome) => {
                        stop.fetch_or(self.until_caught && !is_sound(&outcome), Ordering::Relaxed);
                        let mut done = locked(&done);
                        done.insert(number, outcome);
                        if done.len().is_multiple_of(100) {
                            eprintln!("{} of {}", done.len(), numbers.len());
                        }
                    }
                    Err(error) => {
                        stop.store(true, Ordering::Relaxed);
                        *locked(&failed) = Some(error);
                    }
                }
            }
        };
        std::thread::scope(|scope| (0..self.jobs.max(1)).for_each(|_| drop(scope.spawn(work))));
        let failed = locked(&failed).take();
        failed.map_or(Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner)), Err)
    }
}

fn locked<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a child ended.
#[derive(Debug)]
pub enum Ended {
    /// By itself, with this code; none: by a signal. With its last words.
    Exited(Option<i32>, String),
    /// Not in time.
    Hung,
}

/// A child of this program that is told something on its command line and answers in lines.
pub struct Told {
    child: Child,
    stderr: PathBuf,
}

impl Told {
    /// `scratch`: a directory for what it complains of. A child that is `sound` has no bug planted.
    pub fn start<A: AsRef<std::ffi::OsStr>>(arguments: &[A], scratch: &Path, sound: bool) -> Result<Told> {
        let stderr = scratch.join("stderr");
        let mut command = Command::new(std::env::current_exe()?);
        if sound {
            command.env_remove("ANNULUS_PLANT");
        }
        let child = command
            .args(arguments)
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&stderr)?)
            .spawn()?;
        Ok(Told { child, stderr })
    }

    /// Its lines, to be read while it runs.
    pub fn lines(&mut self) -> Result<impl Iterator<Item = String> + Send + use<>> {
        use std::io::{BufRead, BufReader};
        let mut out = BufReader::new(self.child.stdout.take().ok_or("no output")?);
        Ok(std::iter::from_fn(move || {
            let mut line = String::new();
            // A line that was cut short says nothing.
            let whole = out.read_line(&mut line).is_ok_and(|read| read > 0) && line.ends_with('\n');
            whole.then(|| line.trim_end().to_owned())
        }))
    }

    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits for its end, and returns what it said.
    pub fn finish(mut self, limit: Duration) -> Result<(Ended, Vec<String>)> {
        let lines = self.lines()?;
        let reader = std::thread::spawn(move || lines.collect::<Vec<_>>());
        let deadline = Instant::now() + limit;
        let ended = loop {
            if let Some(status) = self.child.try_wait()? {
                break Ended::Exited(status.code(), self.last_words());
            }
            if Instant::now() > deadline {
                self.kill()?;
                break Ended::Hung;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        Ok((ended, reader.join().map_err(|_| "a reader panicked")?))
    }

    pub fn last_words(&self) -> String {
        let text = std::fs::read(&self.stderr).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> =
            text.lines().filter(|line| !line.is_empty() && !line.starts_with("note:")).collect();
        lines[lines.len().saturating_sub(3)..].join(" / ").chars().take(TOLD).collect()
    }
}

/// Puts a copy of the directory `from` in the place of `to`.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let path = entry?.path();
        let target = to.join(path.file_name().ok_or("no name")?);
        match path.is_dir() {
            true => copy(&path, &target)?,
            false => drop(std::fs::copy(&path, &target)?),
        }
    }
    Ok(())
}

/// All files below a directory, with their paths, in order.
pub fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        match path.is_dir() {
            true => found.extend(files(&path)?),
            false => found.push(path),
        }
    }
    found.sort();
    Ok(found)
}

/// Keeps what a trial left that broke a promise; returns where. Not of a bug that was planted.
pub fn keep(harness: &str, settings: &Settings, number: usize, dir: &Path) -> Result<String> {
    static KEEPING: AtomicUsize = AtomicUsize::new(0);
    let planted = std::env::var_os("ANNULUS_PLANT").is_some();
    if planted || KEEPING.fetch_add(1, Ordering::Relaxed) >= KEPT {
        return Ok(String::new());
    }
    let name = format!("{harness}-{}-{number}", settings.seed);
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("failures").join(name);
    copy(dir, &kept)?;
    Ok(format!("; kept in {}", kept.display()))
}

/// What so many trials without a failure prove: the rule of three.
pub fn verdict(called: &str, trials: usize, broken: usize) -> String {
    match broken {
        0 if trials > 0 => {
            let bound = 300.0 / trials as f64;
            format!(
                "{trials} {called}, none broke a promise: the rate is below {bound:.2}% with 95% confidence (3/N)"
            )
        }
        _ => format!("{trials} {called}, {broken} broke a promise"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Once they did not: of two files that could be damaged it was the same one in every trial of a seed.
    #[test]
    fn trials_differ_in_what_they_draw_first() {
        for seed in 0..20 {
            let arguments = lexopt::Parser::from_args(["--jobs", "1", "--seed", &seed.to_string()]);
            let settings = Settings::parse(arguments, 64, "trials").unwrap();
            let drawn = settings.run(|_, mut random| Ok(random.below(4)), |_| true).unwrap();
            for choice in 0..4 {
                let times = drawn.values().filter(|drawn| **drawn == choice).count();
                assert!((4..=32).contains(&times), "seed {seed}: {choice} is drawn {times} times of 64");
            }
        }
    }
}
