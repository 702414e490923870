//! Builds the tests with all mutants in them; those that do not compile are taken out.

use super::place::{SWITCH, place};
use super::{Mutant, root};
use crate::Result;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What is written with something in it.
const LIB: &str = "src/lib.rs";
/// A build that has not settled after so many is given up.
const BUILDS: usize = 12;

#[derive(Debug)]
pub struct Built {
    /// Where the source lies.
    pub tree: PathBuf,
    /// Where what is known of it is kept.
    pub home: PathBuf,
    /// The mutants that are in it.
    pub numbers: BTreeSet<u32>,
    /// The programs of its tests, by name.
    pub tests: BTreeMap<String, PathBuf>,
}

pub fn build(mutants: &[Mutant]) -> Result<Built> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/mutants");
    let tree = home.join("tree");
    std::fs::create_dir_all(&tree)?;
    let files =
        Command::new("git").current_dir(root()).args(["ls-files", "-co", "--exclude-standard"]).output()?;
    let mutated: BTreeSet<&str> = mutants.iter().map(|mutant| mutant.file.as_str()).collect();
    let as_it_is = |file: &&str| *file != LIB && !mutated.contains(file);
    let files = String::from_utf8(files.stdout)?;
    remove_others(&tree, &tree, &files.lines().collect())?;
    for file in files.lines().filter(as_it_is) {
        let (from, to) = (root().join(file), tree.join(file));
        copy_if_changed(&to, &std::fs::read(from)?)?;
    }
    let lib = std::fs::read_to_string(root().join(LIB))? + SWITCH;
    copy_if_changed(&tree.join(LIB), lib.as_bytes())?;
    // What did not compile the last time will not now.
    let list = home.join("left-out");
    let known = std::fs::read_to_string(&list).unwrap_or_default();
    let known: BTreeSet<&str> = known.lines().collect();
    let is_known = |mutant: &&Mutant| known.contains(mutant.name.as_str());
    let mut left_out: BTreeSet<u32> = mutants.iter().filter(is_known).map(|mutant| mutant.number).collect();
    for _ in 0..BUILDS {
        let numbers = write(&tree, mutants, &left_out)?;
        let (tests, broken) = compile(&tree, &home.join("build"))?;
        if broken.is_empty() {
            return Ok(Built { tree, home, numbers, tests });
        }
        let before = left_out.len();
        for (file, first, last, lacks_arms) in broken {
            let can = |m: &&Mutant| !lacks_arms || m.genre == "MatchArm";
            let hit = mutants.iter().filter(|m| m.file == file && numbers.contains(&m.number)).filter(can);
            let on_it: Vec<u32> =
                hit.clone().filter(|m| (first..=last).contains(&m.start.0)).map(|m| m.number).collect();
            match on_it.is_empty() {
                false => left_out.extend(on_it),
                // What it comes from begins before: the nearest one above.
                true => left_out
                    .extend(hit.filter(|m| m.start.0 < first).max_by_key(|m| m.start.0).map(|m| m.number)),
            }
        }
        let names: Vec<&str> =
            mutants.iter().filter(|m| left_out.contains(&m.number)).map(|m| m.name.as_str()).collect();
        std::fs::write(&list, names.join("\n"))?;
        eprintln!("{} mutants left out that do not compile", left_out.len());
        if left_out.len() == before {
            return Err("the source does not compile, and no mutant is to blame".into());
        }
    }
    Err("the mutants do not come to compile".into())
}

/// What an earlier run has left that is there no more would be built as well.
fn remove_others(tree: &Path, dir: &Path, files: &BTreeSet<&str>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(tree, &path, files)?;
        } else if !path.strip_prefix(tree)?.to_str().is_some_and(|name| files.contains(name)) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn copy_if_changed(to: &Path, bytes: &[u8]) -> Result<()> {
    if std::fs::read(to).ok().as_deref() != Some(bytes) {
        std::fs::create_dir_all(to.parent().ok_or("a file without a directory")?)?;
        std::fs::write(to, bytes)?;
    }
    Ok(())
}

/// Writes the mutated files; returns the mutants in them.
fn write(tree: &Path, mutants: &[Mutant], left_out: &BTreeSet<u32>) -> Result<BTreeSet<u32>> {
    let mut by_file: BTreeMap<&str, Vec<&Mutant>> = BTreeMap::new();
    for mutant in mutants {
        let list = by_file.entry(&mutant.file).or_default();
        if !left_out.contains(&mutant.number) {
            list.push(mutant);
        }
    }
    let mut numbers = BTreeSet::new();
    for (file, mutants) in by_file {
        let source = std::fs::read_to_string(root().join(file))?;
        let (text, placed) = place(&source, &mutants).map_err(|e| format!("{file}: {e}"))?;
        copy_if_changed(&tree.join(file), text.as_bytes())?;
        numbers.extend(placed);
    }
    Ok(numbers)
}

/// File, first and last line, and whether a match lacks arms: that is told of at its head, and it may go on for so many lines.
type Errors = BTreeSet<(String, usize, usize, bool)>;

const MATCH_LINES: usize = 25;

/// The programs of the tests, or where the source is wrong.
fn compile(tree: &Path, target: &Path) -> Result<(BTreeMap<String, PathBuf>, Errors)> {
    let out = Command::new("cargo")
        .current_dir(tree)
        .args(["test", "--no-run", "--lib", "--message-format=json", "--target-dir"])
        .arg(target)
        .args(super::reach::PROGRAMS.iter().flat_map(|name| ["--test", name]))
        .env("RUSTFLAGS", "--cap-lints allow")
        .stderr(Stdio::inherit())
        .output()?;
    let (mut tests, mut errors) = (BTreeMap::new(), Errors::new());
    for line in String::from_utf8_lossy(&out.stdout).lines() {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        if let (Some(exe), true) = (message["executable"].as_str(), message["profile"]["test"] == true) {
            let name = message["target"]["name"].as_str().unwrap_or_default();
            tests.insert(name.to_owned(), PathBuf::from(exe));
        }
        if message["message"]["level"] != "error" {
            continue;
        }
        let spans = message["message"]["spans"].as_array().cloned().unwrap_or_default();
        for span in spans.iter().filter(|span| span["is_primary"] == true) {
            let line = |name: &str| span[name].as_u64().unwrap_or(0) as usize;
            let file = span["file_name"].as_str().unwrap_or_default().to_owned();
            eprintln!("{file}:{}: {}", line("line_start"), message["message"]["message"]);
            let lacks_arms =
                message["message"]["message"].as_str().is_some_and(|text| text.starts_with("non-exhaustive"));
            let more = if lacks_arms { MATCH_LINES } else { 0 };
            errors.insert((file, line("line_start"), line("line_end") + more, lacks_arms));
        }
    }
    if !out.status.success() && errors.is_empty() {
        return Err("cargo failed, and said not where".into());
    }
    Ok((tests, errors))
}
