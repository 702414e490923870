//! Bugs planted in Annulus on purpose that this harness must catch.

use super::Config;
use crate::Result;
use crate::mount::run;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// Plants of other harnesses that this one must catch as well.
const OTHERS: [&str; 7] = [
    "journal-acks-before-sync",
    "journal-name-not-synced",
    "journal-hole-taken-for-the-end",
    "journal-payload-not-checked",
    "journal-poison-forgotten",
    "journal-not-written-again",
    "replay-half-a-batch",
];

/// Builds Annulus with its plants, and lets each of them run until it is caught; whether all were.
pub fn run_all(config: &Config, only: Option<&[String]>) -> Result<bool> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = manifest.join("target/plants");
    run(Command::new(env!("CARGO"))
        .args(["build", "--release", "--manifest-path"])
        .arg(manifest.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTFLAGS", "--cfg annulus_plants"))?;
    let exe = target.join("release/annulus-lab");
    let (states, seed) = (config.states.to_string(), config.seed.to_string());
    println!("\n| planted | what it does | caught by | s |\n|---|---|---|---:|");
    let mut all = true;
    for plant in annulus::testing::PLANTS {
        let ours = plant.harness == "states" || OTHERS.contains(&plant.name);
        if !ours || only.is_some_and(|only| only.iter().all(|name| name != plant.name)) {
            continue;
        }
        let begin = Instant::now();
        let out = Command::new(&exe)
            .args(["states", "--states", &states, "--seed", &seed])
            .env("ANNULUS_PLANT", plant.name)
            .env_remove("ANNULUS_CRASH_STATES")
            .output()?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let how = text
            .lines()
            .find(|line| super::SUBJECTS.iter().any(|s| line.starts_with(&format!("{}: ", s.name))));
        let how: String = how.unwrap_or_default().chars().take(120).collect();
        let verdict = match out.status.code() {
            Some(1) => how,
            Some(0) => "**missed**".to_owned(),
            _ => format!("did not run: {}", String::from_utf8_lossy(&out.stderr)),
        };
        all &= out.status.code() == Some(1);
        println!("| `{}` | {} | {verdict} | {:.1} |", plant.name, plant.what, begin.elapsed().as_secs_f64());
    }
    Ok(all)
}
