//! Bugs planted in Annulus on purpose, one at a time: each must be caught, or the harness is worth nothing.

use crate::Result;
use crate::mount::run;
use crate::powercut::Config;
use std::path::Path;
use std::process::Command;

/// Builds Annulus with its plants, and lets each of them run until it is caught.
pub fn run_all(config: &Config) -> Result<bool> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = manifest.join("target/plants");
    run(Command::new(env!("CARGO"))
        .args(["build", "--release", "--manifest-path"])
        .arg(manifest.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTFLAGS", "--cfg annulus_plants"))?;
    let exe = target.join("release/annulus-lab");
    println!("\n| planted | what it is | caught after |\n|---|---|---|");
    let mut all = true;
    for plant in annulus::testing::PLANTS.iter().filter(|plant| plant.harness == "powercut") {
        if config.only.as_ref().is_some_and(|only| !only.iter().any(|name| name == plant.name)) {
            continue;
        }
        let kinds: Vec<&str> = config.kinds.iter().map(|kind| kind.name()).collect();
        let replicas: Vec<String> = config.replicas.iter().map(usize::to_string).collect();
        let out = Command::new(&exe)
            .args(["powercut", "--until-caught", "--require"])
            .args(["--cuts", &config.cuts.to_string(), "--seed", &config.seed.to_string()])
            .args([
                "--fs",
                &kinds.join(","),
                "--modes",
                &config.modes.join(","),
                "--replicas",
                &replicas.join(","),
            ])
            .env("ANNULUS_PLANT", plant.name)
            .output()?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let last = text.lines().last().unwrap_or_default();
        let cuts = last.split(' ').next().unwrap_or_default();
        let how = text.lines().find(|line| line.contains("(round seed ")).unwrap_or_default();
        let how: String = how.chars().take(160).collect();
        let verdict = match out.status.code() {
            Some(1) => format!("{cuts} cuts: {how}"),
            Some(0) => format!("**missed** in {cuts} cuts"),
            _ => format!("did not run: {}", String::from_utf8_lossy(&out.stderr)),
        };
        all &= out.status.code() == Some(1);
        println!("| {} | {} | {verdict} |", plant.name, plant.what);
    }
    Ok(all)
}
