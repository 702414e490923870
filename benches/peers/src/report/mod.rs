//! What comes out of a run: all rounds of all cells, the median and spread of each, and where and on what it was measured.

pub mod chart;
pub mod json;
pub mod table;

use crate::args::Config;
use crate::engines::Kind;
use crate::outcome::{Outcome, Unit};
use serde::Serialize;
use std::path::Path;

pub struct Run {
    pub config: Config,
    pub machine: Machine,
    pub cells: Vec<Cell>,
    pub failures: Vec<String>,
    pub seconds: f64,
}

/// All rounds of one workload on one engine.
pub struct Cell {
    pub engine: Kind,
    pub outcomes: Vec<Outcome>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    pub processor: String,
    pub cores: usize,
    pub memory_mib: u64,
    pub kernel: String,
    pub commit: String,
}

/// A row of the report: a workload with its number of threads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub workload: String,
    pub threads: u64,
}

impl Row {
    pub fn label(&self) -> String {
        match self.threads {
            1 => self.workload.clone(),
            n => format!("{}, {n} threads", self.workload),
        }
    }
}

impl Run {
    pub fn new(config: &Config) -> Run {
        Run {
            config: config.clone(),
            machine: Machine::here(),
            cells: Vec::new(),
            failures: Vec::new(),
            seconds: 0.0,
        }
    }

    pub fn add(&mut self, engine: Kind, outcome: Outcome) {
        let same = |cell: &Cell| {
            let first = &cell.outcomes[0];
            cell.engine == engine && first.workload == outcome.workload && first.threads == outcome.threads
        };
        match self.cells.iter_mut().find(|cell| same(cell)) {
            Some(cell) => cell.outcomes.push(outcome),
            None => self.cells.push(Cell { engine, outcomes: vec![outcome] }),
        }
    }

    /// The rows in the order in which they were measured.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for cell in &self.cells {
            let row = cell.row();
            if !rows.contains(&row) {
                rows.push(row);
            }
        }
        let place = |row: &Row| crate::workloads::names().position(|w| w == row.workload);
        rows.sort_by_key(|row| (place(row), row.threads));
        rows
    }

    pub fn cell(&self, row: &Row, engine: Kind) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.engine == engine && cell.row() == *row)
    }
}

impl Cell {
    pub fn row(&self) -> Row {
        let first = &self.outcomes[0];
        Row { workload: first.workload.clone(), threads: first.threads }
    }

    pub fn unit(&self) -> Unit {
        self.outcomes[0].unit
    }

    pub fn median(&self, of: impl Fn(&Outcome) -> f64) -> f64 {
        median(self.outcomes.iter().map(of).collect())
    }

    /// Of those rounds that have the figure.
    pub fn median_of(&self, of: impl Fn(&Outcome) -> Option<f64>) -> Option<f64> {
        let values: Vec<f64> = self.outcomes.iter().filter_map(of).collect();
        (!values.is_empty()).then(|| median(values))
    }

    pub fn spread(&self) -> (f64, f64) {
        let values = self.outcomes.iter().map(|o| o.value);
        values.fold((f64::INFINITY, 0.0), |(least, most), v| (least.min(v), f64::max(most, v)))
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

/// Writes the table, the JSON and the charts into a directory.
pub fn write(run: &Run, out: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(out)?;
    std::fs::write(out.join("table.md"), table::render(run))?;
    std::fs::write(out.join("results.json"), json::render(run))?;
    for (name, svg) in chart::render(run) {
        std::fs::write(out.join(name), svg)?;
    }
    Ok(())
}

impl Machine {
    fn here() -> Machine {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|l| l.starts_with(name)).unwrap_or_default();
            line.split_once(':').map_or("?".to_owned(), |(_, value)| value.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let git = std::process::Command::new("git")
            .args(["-C", env!("CARGO_MANIFEST_DIR"), "rev-parse", "--short", "HEAD"])
            .output();
        let commit =
            git.ok().filter(|o| o.status.success()).map(|o| String::from_utf8_lossy(&o.stdout).into());
        Machine {
            processor: field(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: memory.trim_end_matches(" kB").parse::<u64>().unwrap_or(0) >> 10,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            commit: commit.map_or("?".to_owned(), |c: String| c.trim().to_owned()),
        }
    }
}

#[cfg(test)]
pub mod tests;
