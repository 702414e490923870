//! How figures are shown.

use crate::Outcome;
use annulus::Store;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A line for each shard: what it owns and holds.
pub fn show_ring(store: &Store) -> Outcome<()> {
    let stats = store.stats()?;
    println!(
        "Ring     shard   virtual nodes   first owner of   records     pages       on disk     power cut"
    );
    for shard in &stats.shards {
        println!(
            "         {:<7} {:<15} {:<16} {:<11} {:<11} {:<11} {}",
            shard.id.to_string(),
            shard.virtual_nodes,
            shard.primaries,
            shard.records.map_or("counting".into(), count),
            shard.pages.map_or("counting".into(), count),
            size(shard.disk_bytes),
            shard.power_loss.map_or("offline".into(), |p| format!("{p:?}")),
        );
    }
    let loads: Vec<u64> = stats.shards.iter().map(|s| s.virtual_nodes).collect();
    let mean = loads.iter().sum::<u64>() as f64 / loads.len() as f64;
    let most = loads.iter().max().copied().unwrap_or(0) as f64;
    println!("         the fullest shard holds {:.4} times the mean", most / mean);
    for warning in &stats.warnings {
        println!("         warning: {warning}");
    }
    Ok(())
}

/// A line that counts up, where there is a terminal to show it.
pub struct Progress {
    name: &'static str,
    all: usize,
    done: usize,
    shown: Instant,
}

impl Progress {
    pub fn new(name: &'static str, all: usize) -> Progress {
        Progress { name, all, done: 0, shown: Instant::now() }
    }

    pub fn step(&mut self) {
        self.done += 1;
        if std::io::stderr().is_terminal() && self.shown.elapsed() > Duration::from_millis(100) {
            self.shown = Instant::now();
            let filled = self.done * 30 / self.all.max(1);
            eprint!("\r{:<8} [{:<30}] {}/{}", self.name, "#".repeat(filled), self.done, self.all);
        }
    }

    pub fn end(&self, outcome: &str) {
        if std::io::stderr().is_terminal() {
            eprint!("\r{:<70}\r", "");
        }
        println!("{:<8} {outcome}", self.name);
    }
}

pub fn per_second(count: u64, took: Duration) -> u64 {
    (count as f64 / took.as_secs_f64().max(1e-9)) as u64
}

pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|g| std::str::from_utf8(g).unwrap_or_default()).collect();
    groups.join(",")
}

pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

pub fn roots(input: &[PathBuf]) -> String {
    match input {
        [one] => one.display().to_string(),
        many => format!("the {} packages this project is built from", many.len()),
    }
}

/// The most memory this process had resident, where the system tells.
pub fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or_default();
    match line.trim().trim_end_matches(" kB").parse::<u64>() {
        Ok(kilobytes) => size(kilobytes * 1024),
        Err(_) => "unknown".into(),
    }
}
