//! What one workload came to on one engine in one round: what a child reports to its parent, a line of JSON each.

use crate::engines::Latencies;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    pub workload: String,
    pub threads: u64,
    /// Operations a second, or milliseconds.
    pub value: f64,
    pub unit: Unit,
    /// Operations a second with the time included that it took to settle afterwards.
    pub settled: Option<f64>,
    pub latency: Option<Latency>,
    pub memory: Memory,
    /// Blocks that the files hold after it, in MiB.
    pub disk_mib: f64,
    /// What was sent towards the disk meanwhile, settling included, in MiB.
    pub written_mib: f64,
    /// What the disk could do just before, without any engine.
    pub bare_sync: Option<BareSync>,
    /// What else is to be said of it.
    pub note: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    #[serde(rename = "ops/s")]
    PerSecond,
    #[serde(rename = "ms")]
    Milliseconds,
}

/// Microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// What one fdatasync of 4 KiB took, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BareSync {
    /// Of a file that was written before.
    pub written: f64,
    /// Of a file that grows.
    pub growing: f64,
}

/// MiB.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Memory {
    /// Resident at most during the workload, mapped files included.
    pub peak: f64,
    /// Resident at its end: the process's own, and pages of mapped files.
    pub anon: f64,
    pub file: f64,
}

impl Latency {
    pub fn of(latencies: &Latencies) -> Option<Latency> {
        let us = |nanos: u64| nanos as f64 / 1e3;
        (!latencies.is_empty()).then(|| Latency {
            p50: us(latencies.value_at_quantile(0.5)),
            p99: us(latencies.value_at_quantile(0.99)),
            p999: us(latencies.value_at_quantile(0.999)),
            max: us(latencies.max()),
        })
    }
}

pub fn new_latencies() -> Latencies {
    Latencies::new_with_bounds(1, 600_000_000_000, 3).expect("valid bounds")
}

/// What a child says on its standard output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    Outcome(Outcome),
    /// It kills itself now: the records below `settled` are safe, and those up to `acknowledged` were acknowledged.
    Killing {
        settled: u64,
        acknowledged: u64,
    },
}

impl Line {
    pub fn say(&self) {
        use std::io::Write;
        let mut out = std::io::stdout().lock();
        let json = serde_json::to_string(self).expect("plain data");
        writeln!(out, "{json}").and_then(|()| out.flush()).expect("the parent listens");
    }
}
