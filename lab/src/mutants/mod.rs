//! Mutants: small changes of the code that some test must notice. Which ones there are is what cargo-mutants says; here they
//! are built all at once and tried one after another, since a build of each would take days.

mod ask;
mod build;
mod place;
mod reach;
mod run;

use crate::Result;
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub struct Config {
    /// How many are drawn; none: all.
    pub sample: Option<usize>,
    pub seed: u64,
    pub jobs: usize,
    /// Only files whose paths contain one of these.
    pub only: Option<Vec<String>>,
    pub minutes: Option<u64>,
    /// Those that nothing noticed before, and no others.
    pub again: bool,
}

/// What is tried: the journal, recovery, placement and moves. Of those what draws pictures is left out.
const FILES: [&str; 9] = [
    "src/journal/**",
    "src/ring/**",
    "src/shard/**",
    "src/verbs/open/**",
    "src/verbs/reshard/**",
    "src/verbs/heal/**",
    "src/state/transfer/**",
    "src/state/change.rs",
    "src/verbs/flush.rs",
];
const NOT: [&str; 2] = ["src/ring/svg/**", "src/ring/svg.rs"];

/// A change that cargo-mutants would make.
#[derive(Debug, Clone)]
pub struct Mutant {
    pub number: u32,
    pub name: String,
    pub file: String,
    pub genre: String,
    pub replacement: String,
    /// Line and column, from 1.
    pub start: (usize, usize),
}

#[derive(Deserialize)]
struct Listed {
    name: String,
    file: String,
    genre: String,
    replacement: String,
    span: Span,
}

#[derive(Deserialize)]
struct Span {
    start: Place,
}

#[derive(Deserialize)]
struct Place {
    line: usize,
    column: usize,
}

/// A function that only a build with plants calls: no test is to notice what becomes of it.
const PLANTED: &str = "open_half_restored";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All that cargo-mutants knows of, numbered.
fn list() -> Result<Vec<Mutant>> {
    let mut command = std::process::Command::new("cargo");
    command.current_dir(root()).args(["mutants", "--list", "--json"]);
    command.args(FILES.iter().flat_map(|file| ["-f", file]));
    command.args(NOT.iter().flat_map(|file| ["-e", file]));
    let out = command.output()?;
    if !out.status.success() {
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        return Err(format!("cargo-mutants must be installed (cargo install cargo-mutants): {text}").into());
    }
    let listed: Vec<Listed> = serde_json::from_slice(&out.stdout)?;
    let number = |(n, listed): (usize, Listed)| Mutant {
        number: n as u32 + 1,
        name: listed.name,
        file: listed.file,
        genre: listed.genre,
        replacement: listed.replacement,
        start: (listed.span.start.line, listed.span.start.column),
    };
    let ours = |listed: &Listed| !listed.name.contains(PLANTED);
    Ok(listed.into_iter().filter(ours).enumerate().map(number).collect())
}

/// Whether nine in ten of those that were tried were caught.
pub fn run(config: &Config) -> Result<bool> {
    let mutants = list()?;
    let built = build::build(&mutants)?;
    println!(
        "{} mutants, of which {} compile and are built into one program (seed {})",
        mutants.len(),
        built.numbers.len(),
        config.seed
    );
    run::run(config, &mutants, &built)
}
