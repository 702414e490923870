//! The JSON: every figure of every round, and what was asked.

use super::{Machine, Run};
use crate::args::Config;
use crate::outcome::Outcome;
use serde::Serialize;

#[derive(Serialize)]
struct Report<'a> {
    config: &'a Config,
    machine: &'a Machine,
    seconds: f64,
    failures: &'a [String],
    results: Vec<Result<'a>>,
}

#[derive(Serialize)]
struct Result<'a> {
    workload: String,
    threads: u64,
    engine: String,
    version: &'static str,
    process_level: &'static str,
    sync_level: &'static str,
    /// Of the rounds' values, in their unit.
    median: f64,
    least: f64,
    most: f64,
    rounds: &'a [Outcome],
}

pub fn render(run: &Run) -> String {
    let results = run.cells.iter().map(|cell| {
        let (least, most) = cell.spread();
        let row = cell.row();
        Result {
            workload: row.workload,
            threads: row.threads,
            engine: cell.engine.label(),
            version: cell.engine.version(),
            process_level: cell.engine.process_level(),
            sync_level: cell.engine.sync_level(),
            median: cell.median(|o| o.value),
            least,
            most,
            rounds: &cell.outcomes,
        }
    });
    let report = Report {
        config: &run.config,
        machine: &run.machine,
        seconds: run.seconds,
        failures: &run.failures,
        results: results.collect(),
    };
    serde_json::to_string_pretty(&report).expect("plain data") + "\n"
}
