//! Bugs planted in Annulus on purpose, one at a time: each must be caught, or the harness is worth nothing.

use crate::Result;
use crate::mount::run;
use crate::powercut::Config;
use crate::trials::Settings;
use annulus::testing::{PLANTS, Plant};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds the lab and Annulus with its plants; the program's path.
fn build() -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = manifest.join("target/plants");
    run(Command::new(env!("CARGO"))
        .args(["build", "--release", "--manifest-path"])
        .arg(manifest.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTFLAGS", "--cfg annulus_plants"))?;
    Ok(target.join("release/annulus-lab"))
}

/// What Annulus itself, whose commits are small, does not show in so few cuts; sled with what Annulus does for it does.
const SHOWN_BY_SLED: &str = "index-not-synchronous";

/// Lets each of the plants for power cuts run until it is caught.
pub fn run_all(config: &Config) -> Result<bool> {
    let kinds: Vec<&str> = config.kinds.iter().map(|kind| kind.name()).collect();
    let replicas: Vec<String> = config.replicas.iter().map(usize::to_string).collect();
    let (cuts, seed) = (config.cuts.to_string(), config.seed.to_string());
    let (kinds, modes, replicas) = (kinds.join(","), config.modes.join(","), replicas.join(","));
    let arguments =
        ["--cuts", &cuts, "--seed", &seed, "--fs", &kinds, "--modes", &modes, "--replicas", &replicas];
    let chosen = |plant: &Plant| {
        let named = |only: &Vec<String>| only.iter().any(|name| name == plant.name);
        plant.harness == "powercut" && config.only.as_ref().is_none_or(named)
    };
    let subject = |plant: &Plant| match plant.name == SHOWN_BY_SLED {
        true => ["--subject", crate::sled::MARKED],
        false => ["--subject", "annulus"],
    };
    catch("powercut", |plant| [&arguments[..], &subject(plant)].concat(), chosen)
}

/// A few trials show none of what takes a rare turn of events: a plant has so many times as many as a run without.
const PATIENCE: usize = 5;

/// The same for another harness; `also`: plants for others that it must catch as well.
pub fn run_each(harness: &str, also: &[&str], settings: &Settings) -> Result<bool> {
    let (trials, seed, jobs) =
        ((settings.trials * PATIENCE).to_string(), settings.seed.to_string(), settings.jobs.to_string());
    let called = format!("--{}", crate::called(harness));
    let arguments = [&called, &trials, "--seed", &seed, "--jobs", &jobs];
    let chosen = |plant: &Plant| {
        (plant.harness == harness || also.contains(&plant.name)) && settings.wants(plant.name)
    };
    catch(harness, |_| arguments.to_vec(), chosen)
}

/// Runs the chosen plants one after the other; whether all were caught.
fn catch<'a>(
    harness: &str,
    arguments: impl Fn(&Plant) -> Vec<&'a str>,
    chosen: impl Fn(&Plant) -> bool,
) -> Result<bool> {
    let exe = build()?;
    println!("\n| planted | what it is | caught after |\n|---|---|---|");
    let mut all = true;
    for plant in PLANTS.iter().filter(|plant| chosen(plant)) {
        let out = Command::new(&exe)
            .args([harness, "--until-caught", "--require"])
            .args(arguments(plant))
            .env("ANNULUS_PLANT", plant.name)
            .output()?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let last = text.lines().last().unwrap_or_default();
        let (number, _) = last.split_once(' ').unwrap_or_default();
        let how = text.lines().find(|line| line.contains("seed ") && line.contains('(')).unwrap_or_default();
        let how: String = how.chars().take(200).collect();
        let verdict = match out.status.code() {
            Some(1) => format!("{number}: {how}"),
            Some(0) => format!("**missed** in {number}"),
            _ => format!("did not run: {}", String::from_utf8_lossy(&out.stderr)),
        };
        all &= out.status.code() == Some(1);
        println!("| {} | {} | {verdict} |", plant.name, plant.what);
    }
    Ok(all)
}
