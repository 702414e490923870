//! Builds Annulus's tests so that a scheduler chooses which thread goes on, and runs those of `tests/schedules`; and with bugs
//! planted on purpose, which they must catch.

use crate::Result;
use annulus::testing::PLANTS;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

#[derive(Debug, Clone)]
pub struct Config {
    /// Of each test.
    pub seconds: u64,
    pub seed: Option<u64>,
    pub plants: bool,
    pub only: Option<Vec<String>>,
    /// Whether it ends when the tests are built.
    pub no_run: bool,
}

/// Plants of other harnesses that this one must catch as well.
const OTHERS: [&str; 2] = ["table-forgotten-before-the-shards-have-it", "journal-poison-forgotten"];

/// The tests' binary. What Annulus depends on is what its own tests have: with them among the packages it has the same features, and is compiled once for
/// both.
fn build() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let packages = ["annulus", "annulus-lab", "annulus-schedules"];
    let output = Command::new(env!("CARGO"))
        .current_dir(&root)
        .args(["test", "--no-run", "--test", "schedules", "--message-format", "json"])
        .args(packages.iter().flat_map(|package| ["--package", package]))
        .env("RUSTC_WORKSPACE_WRAPPER", root.canonicalize()?.join("tests/schedules/rustc"))
        .stderr(std::process::Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err("the tests could not be built".into());
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let named = text.lines().filter(|line| line.contains("\"name\":\"schedules\""));
    let path = named.filter_map(|line| line.split("\"executable\":\"").nth(1)?.split('"').next()).next();
    Ok(root.join(path.ok_or("cargo names no binary of the tests")?))
}

/// What the tests printed, and whether all passed.
struct Ran {
    passed: bool,
    stdout: String,
    stderr: String,
}

/// Each test in a process of its own, two at a time: what one of them does must not depend on what another left in a static.
fn run_tests(binary: &Path, config: &Config, plant: Option<&str>) -> Result<Ran> {
    let listed = Command::new(binary).args(["--list", "--format", "terse"]).output()?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let names: Vec<&str> = listed.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    if names.is_empty() {
        return Err("the tests' binary has no tests".into());
    }
    let run = |name: &str| -> std::io::Result<Output> {
        let mut command = Command::new(binary);
        command.args(["--exact", name, "--nocapture", "--test-threads", "1"]);
        command.env("ANNULUS_SCHEDULES_SECONDS", config.seconds.to_string()).env("RUST_BACKTRACE", "0");
        if let Some(seed) = config.seed {
            command.env("ANNULUS_SEED", seed.to_string());
        }
        if let Some(plant) = plant {
            command.env("ANNULUS_PLANT", plant);
        }
        command.output()
    };
    let next = AtomicUsize::new(0);
    let lane = || -> std::io::Result<Vec<Output>> {
        let mut outputs = Vec::new();
        while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
            outputs.push(run(name)?);
        }
        Ok(outputs)
    };
    let mut ran = Ran { passed: true, stdout: String::new(), stderr: String::new() };
    let lanes = std::thread::scope(|scope| {
        let other = scope.spawn(lane);
        [lane(), other.join().unwrap_or_else(|_| Err(std::io::Error::other("a lane of tests panicked")))]
    });
    for outputs in lanes {
        for output in outputs? {
            ran.passed &= output.status.success();
            ran.stdout += &String::from_utf8_lossy(&output.stdout);
            if !output.status.success() {
                ran.stderr += &String::from_utf8_lossy(&output.stderr);
            }
        }
    }
    Ok(ran)
}

/// Runs the tests; whether all passed, and all plants were caught.
pub fn run(config: &Config) -> Result<bool> {
    let binary = build()?;
    if config.no_run {
        return Ok(true);
    }
    if config.plants {
        return run_plants(&binary, config);
    }
    println!("| what | random schedules | of PCT | s |\n|---|---:|---:|---:|");
    let ran = run_tests(&binary, config, None)?;
    // A row may follow the name of its test on one line.
    for line in ran.stdout.lines() {
        match line.find("| ") {
            Some(at) => println!("{}", &line[at..]),
            None if line.contains("broken; again") => println!("{line}"),
            None => {}
        }
    }
    if !ran.passed {
        println!("{}", ran.stderr);
    }
    Ok(ran.passed)
}

fn run_plants(binary: &Path, config: &Config) -> Result<bool> {
    println!("| planted | what it does | caught first by | s |\n|---|---|---|---:|");
    let mut all = true;
    for plant in PLANTS {
        let ours = plant.harness == "schedules" || OTHERS.contains(&plant.name);
        if !ours || config.only.as_ref().is_some_and(|only| only.iter().all(|name| name != plant.name)) {
            continue;
        }
        let begin = Instant::now();
        let ran = run_tests(binary, config, Some(plant.name))?;
        let failed: Vec<&str> = ran
            .stdout
            .lines()
            .filter_map(|line| Some(&line[..line.find(": broken; again")?]))
            .map(|name| name.rsplit("... ").next().unwrap_or(name))
            .collect();
        let verdict = if ran.passed { "**missed**".to_owned() } else { failed.join("; ") };
        all &= !ran.passed;
        println!("| `{}` | {} | {verdict} | {:.1} |", plant.name, plant.what, begin.elapsed().as_secs_f64());
    }
    Ok(all)
}
