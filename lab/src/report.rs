//! The table of a run.

use crate::disk::Cut;
use crate::mount::Kind;
use std::collections::BTreeMap;

/// What a cut came to.
#[derive(Debug)]
pub enum Outcome {
    /// Milliseconds that the opening took, and what the store then did by itself, a scrub included; records of which replicas differed, and were made equal; how the
    /// shards were right after the opening, if not all served.
    Sound { opened: Option<u64>, whole: Option<u64>, reconciled: Option<u64>, unwell: Option<String> },
    /// The file system itself does not mount.
    NoFileSystem(String),
    /// A promise is broken: which one, a colon, and the rest.
    Broken(String),
}

impl Outcome {
    /// Where nothing else was the matter, and the file system keeps writes in order, a cut costs no shard.
    pub fn of(self, whole: bool) -> Outcome {
        match self {
            Outcome::Sound { unwell: Some(health), .. } if whole => {
                Outcome::Broken(format!("a shard was lost: {health}"))
            }
            outcome => outcome,
        }
    }
}

/// The cuts of one file system and one number of replicas.
pub struct Cell {
    pub kind: Kind,
    pub replicas: usize,
    cuts: BTreeMap<&'static str, usize>,
    modes: BTreeMap<String, usize>,
    broken: BTreeMap<String, usize>,
    unmounted: usize,
    unflushed: Vec<usize>,
    opened: Vec<u64>,
    whole: Vec<u64>,
    reconciled: usize,
    unwell: usize,
}

impl Cell {
    pub fn new(kind: Kind, replicas: usize) -> Cell {
        Cell {
            kind,
            replicas,
            cuts: BTreeMap::new(),
            modes: BTreeMap::new(),
            broken: BTreeMap::new(),
            unmounted: 0,
            unflushed: Vec::new(),
            opened: Vec::new(),
            whole: Vec::new(),
            reconciled: 0,
            unwell: 0,
        }
    }

    pub fn cuts(&self) -> usize {
        self.cuts.values().sum()
    }

    pub fn violations(&self) -> usize {
        self.broken.values().sum()
    }

    pub fn count(&mut self, mode: &str, cut: Option<Cut>, unflushed: usize, outcome: Outcome) {
        if let Some(cut) = cut {
            *self.cuts.entry(cut.name()).or_default() += 1;
            *self.modes.entry(mode.to_owned()).or_default() += 1;
            self.unflushed.push(unflushed);
        }
        match outcome {
            Outcome::Sound { opened, whole, reconciled, unwell } => {
                self.whole.extend(whole);
                self.unwell += usize::from(unwell.is_some());
                self.opened.extend(opened);
                self.reconciled += usize::from(reconciled.is_some());
            }
            Outcome::NoFileSystem(error) => {
                println!("{} does not mount: {error}", self.kind.name());
                self.unmounted += 1;
            }
            Outcome::Broken(text) => {
                let what = text.split(':').next().unwrap_or_default().to_owned();
                *self.broken.entry(what).or_default() += 1;
            }
        }
    }
}

fn listed<'a>(counts: impl IntoIterator<Item = (&'a str, usize)>) -> String {
    let parts: Vec<String> = counts.into_iter().map(|(name, count)| format!("{count} {name}")).collect();
    if parts.is_empty() { "0".to_owned() } else { parts.join(", ") }
}

pub fn middle_and_most(numbers: impl IntoIterator<Item = u64>) -> String {
    let mut numbers: Vec<u64> = numbers.into_iter().collect();
    numbers.sort_unstable();
    match numbers.last() {
        Some(most) => format!("{} / {most}", numbers[numbers.len() / 2]),
        None => "-".to_owned(),
    }
}

pub fn print(subject: &str, cells: &[Cell]) {
    println!();
    println!(
        "| {subject} on | R | cuts | spared | while | unflushed blocks, median / most | opened, ms | made whole, ms | shards were being filled | replicas made equal | does not mount | broken |"
    );
    println!("|---|---:|---:|---|---|---:|---:|---:|---:|---:|---:|---|");
    for cell in cells {
        let [kind, cuts] = [cell.kind.name().to_owned(), cell.cuts().to_string()];
        let spared = listed(cell.cuts.iter().map(|(name, count)| (*name, *count)));
        let modes = listed(cell.modes.iter().map(|(name, count)| (name.as_str(), *count)));
        let broken = listed(cell.broken.iter().map(|(name, count)| (name.as_str(), *count)));
        let unflushed = middle_and_most(cell.unflushed.iter().map(|n| *n as u64));
        let opened = middle_and_most(cell.opened.iter().copied());
        let whole = middle_and_most(cell.whole.iter().copied());
        let (r, unwell, equal, unmounted) = (cell.replicas, cell.unwell, cell.reconciled, cell.unmounted);
        println!(
            "| {kind} | {r} | {cuts} | {spared} | {modes} | {unflushed} | {opened} | {whole} | {unwell} | {equal} | {unmounted} | {broken} |"
        );
    }
    let cuts: usize = cells.iter().map(|cell| cell.cuts() - cell.unmounted).sum();
    let broken: usize = cells.iter().map(Cell::violations).sum();
    println!();
    match broken {
        0 if cuts > 0 => {
            let bound = 300.0 / cuts as f64;
            println!(
                "{cuts} cuts, none broke a promise: the rate is below {bound:.2}% with 95% confidence (3/N)"
            );
        }
        _ => println!("{cuts} cuts, {broken} broke a promise"),
    }
}
