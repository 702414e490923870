//! The workloads, and the sessions they come in.
//!
//! A session is what one child process does with one store: it loads it and runs one workload after the other, those that
//! only read before those that write, each measured apart. Every read is checked; what is wrong or missing panics, so that
//! the child fails.

mod bench;
mod bulk;
mod claims;
mod durable;
mod kill;
mod point;
mod scan;
mod ycsb;

pub use bench::{Bench, Phase, Plan};

use crate::keys::Layout;
use serde::{Deserialize, Serialize};

/// What a store is loaded with and what is done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Session {
    /// 20 + 100 bytes in random order.
    Small,
    /// 20 + 100 bytes in order.
    Sorted,
    /// 16 + 1000 bytes in random order: YCSB.
    Large,
    /// 16 + 1000 bytes in groups of 128: YCSB E with a partitioner that keeps each together.
    Grouped,
}

const SMALL: [&str; 14] = [
    "load",
    "reopen",
    "get",
    "miss",
    "zipf",
    "scan",
    "scan-reverse",
    "scan-short",
    "get-cold",
    "durable",
    "durable-batch",
    "overwrite",
    "reopen-killed",
    "delete-all",
];
/// Those of the first session that write to what was loaded.
const WRITES: [&str; 5] = ["durable", "durable-batch", "overwrite", "reopen-killed", "delete-all"];
const LARGE: [&str; 7] = ["load-1k", "ycsb-a", "ycsb-b", "ycsb-c", "ycsb-f", "ycsb-d", "ycsb-e"];

impl Session {
    pub const ALL: [Session; 4] = [Session::Small, Session::Sorted, Session::Large, Session::Grouped];

    /// In the order in which they run.
    pub fn workloads(self) -> &'static [&'static str] {
        match self {
            Session::Small => &SMALL,
            Session::Sorted => &["load-sorted"],
            Session::Large => &LARGE,
            Session::Grouped => &["ycsb-e-prefix"],
        }
    }

    pub fn layout(self) -> Layout {
        match self {
            Session::Small => Layout::Random20,
            Session::Sorted => Layout::Sorted20,
            Session::Large => Layout::Random16,
            Session::Grouped => Layout::Grouped16,
        }
    }

    pub fn key_len(self) -> usize {
        if matches!(self, Session::Small | Session::Sorted) { 20 } else { 16 }
    }

    pub fn value_len(self) -> usize {
        if matches!(self, Session::Small | Session::Sorted) { 100 } else { 1000 }
    }

    /// The phases that the chosen workloads need, each in a process of its own.
    pub fn phases(self, chosen: &[String]) -> Vec<Phase> {
        let wanted = |names: &[&str]| names.iter().any(|name| chosen.iter().any(|c| c == name));
        let mut phases = vec![Phase::Load];
        if self == Session::Small && wanted(&["get-cold"]) {
            phases.push(Phase::Cold);
        }
        if self == Session::Small && wanted(&WRITES) {
            phases.push(Phase::Write);
        }
        phases
    }

    /// Runs the chosen workloads of the plan's phase.
    pub fn run(self, bench: &mut Bench) {
        match (self, bench.plan.phase) {
            (_, Phase::Cold) => bench.get_cold(),
            (_, Phase::Write) => bench.write_small(),
            (_, Phase::Killed { settled, acknowledged }) => bench.after_kill(settled, acknowledged),
            (Session::Small, Phase::Load) => bench.read_small(),
            (Session::Sorted, Phase::Load) => {
                bench.load("load-sorted");
            }
            (Session::Large, Phase::Load) => {
                bench.load("load-1k");
                bench.run_ycsb();
            }
            (Session::Grouped, Phase::Load) => {
                bench.load_quietly();
                bench.ycsb_e(true);
            }
        }
        bench.close();
    }
}

/// The names of all workloads.
pub fn names() -> impl Iterator<Item = &'static str> {
    Session::ALL.into_iter().flat_map(|s| s.workloads().iter().copied())
}

impl Bench {
    fn read_small(&mut self) {
        self.load("load");
        self.reopen();
        self.warm();
        for threads in [1, 2] {
            self.get(threads);
        }
        for threads in [1, 2] {
            self.miss(threads);
        }
        self.zipf();
        self.scan("scan", false);
        self.scan("scan-reverse", true);
        self.scan_short();
    }

    fn write_small(&mut self) {
        for threads in [1, 2, 8, 16] {
            self.durable(threads);
        }
        self.durable_batch();
        for threads in [1, 2] {
            self.overwrite(threads);
        }
        if self.wants("reopen-killed") {
            self.kill(); // Does not return: another child goes on with `Phase::Killed`.
        }
        self.delete_all();
    }

    fn run_ycsb(&mut self) {
        self.ycsb_a_b_c_f("ycsb-a", 50, 0);
        self.ycsb_a_b_c_f("ycsb-b", 95, 0);
        self.ycsb_a_b_c_f("ycsb-c", 100, 0);
        self.ycsb_a_b_c_f("ycsb-f", 50, 50);
        self.ycsb_d();
        self.ycsb_e(false);
    }
}
