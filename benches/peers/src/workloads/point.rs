//! Single reads and overwrites.

use super::bench::{Bench, Job, Worker};
use crate::engines::Reads;
use crate::keys::{Permutation, Rng};
use crate::measure::Meter;
use crate::outcome::{Outcome, Unit};
use crate::zipf::Zipf;
use std::time::Instant;

/// Reads that are measured: one in so many.
pub const SAMPLE: u64 = 8;

/// The least that every engine can be opened with, in bytes.
pub const LEAST_BUDGET: u64 = 8 << 20;

impl Bench {
    fn reading<'a>(&self, workload: &'a str, threads: u64) -> Job<'a> {
        Job { workload, threads, ops: self.plan.ops, reads: Reads::Alone, sample: SAMPLE }
    }

    fn read(&self, worker: &mut Worker<'_>, n: u64) {
        worker.session.get(&self.key(n), &mut |value| {
            self.check(n, value);
        });
    }

    /// Closes and opens, and reports how long opening took.
    pub fn reopen(&mut self) {
        self.close();
        let meter = Meter::start();
        let took = self.open_engine(self.plan.budget);
        if self.wants("reopen") {
            self.report(self.outcome("reopen", took.as_secs_f64() * 1e3, Unit::Milliseconds, &meter));
        }
    }

    /// Reads of records that are there, uniformly.
    pub fn get(&self, threads: u64) {
        if self.wants("get") {
            self.report(self.uniform("get", threads, self.plan.ops));
        }
    }

    /// Reads without measuring, so that caches hold what they can.
    pub fn warm(&self) {
        if ["get", "miss", "zipf"].iter().any(|w| self.wants(w)) {
            self.uniform("warming", 1, self.plan.ops);
        }
    }

    fn uniform(&self, workload: &str, threads: u64, ops: u64) -> Outcome {
        let step = |w: &mut Worker<'_>, _: &mut ()| {
            let n = w.rng.below(self.total);
            self.read(w, n);
        };
        self.drive(&Job { ops, ..self.reading(workload, threads) }, || (), step).0
    }

    /// Reads of keys that are not there, between those that are.
    pub fn miss(&self, threads: u64) {
        if !self.wants("miss") {
            return;
        }
        let step = |w: &mut Worker<'_>, _: &mut ()| {
            let n = (1 << 40) + w.rng.next() % (1 << 40);
            w.session.get(&self.key(n), &mut |value| {
                assert!(value.is_none(), "{}: a value for a key never written", self.plan.engine.label());
            });
        };
        self.report(self.drive(&self.reading("miss", threads), || (), step).0);
    }

    /// Reads of which a few records get most.
    pub fn zipf(&self) {
        if !self.wants("zipf") {
            return;
        }
        let zipf = Zipf::new(self.total);
        let step = |w: &mut Worker<'_>, _: &mut ()| {
            let n = zipf.scrambled(&mut w.rng);
            self.read(w, n);
        };
        self.report(self.drive(&self.reading("zipf", 1), || (), step).0);
    }

    /// Uniform reads with a memory budget of a quarter of the data. What the operating system caches it caches for all.
    pub fn get_cold(&mut self) {
        let budget = (self.data_bytes() / 4).clamp(LEAST_BUDGET, self.plan.budget.max(LEAST_BUDGET));
        self.open_engine(budget);
        self.uniform("warming", 1, self.plan.ops / 4);
        let mut outcome = self.uniform("get-cold", 1, self.plan.ops);
        let (data, budget) = (self.data_bytes() >> 20, budget >> 20);
        outcome.note = Some(format!("{data} MiB of keys and values, a budget of {budget} MiB"));
        self.report(outcome);
    }

    /// Overwrites in random order, each record at most once, each thread its own; then sees that they are there.
    pub fn overwrite(&mut self, threads: u64) {
        if !self.wants("overwrite") {
            return;
        }
        self.unchanged = false;
        let version = threads as u32;
        let order = Permutation::new(self.total, threads);
        let job = Job {
            workload: "overwrite",
            threads,
            ops: self.plan.ops.min(self.total),
            reads: Reads::AmongWrites,
            sample: 1,
        };
        let started = Instant::now();
        let meter = Meter::start();
        let (mut outcome, done) = self.drive(
            &job,
            || (),
            |w, ()| {
                let n = order.get(w.done * threads + w.thread);
                w.fill(n, version);
                w.session.insert(&self.key(n), &w.value);
            },
        );
        self.engine().settle();
        let ops: u64 = done.iter().sum();
        outcome.settled = Some(ops as f64 / started.elapsed().as_secs_f64());
        let after = self.outcome("overwrite", 0.0, Unit::PerSecond, &meter);
        (outcome.written_mib, outcome.disk_mib) = (after.written_mib, after.disk_mib);
        outcome.memory.peak = outcome.memory.peak.max(after.memory.peak);
        self.report(outcome);
        let mut rng = Rng::new(u64::from(version));
        let sample = (0..2_000).map(|_| {
            let thread = rng.below(threads);
            order.get(rng.below(done[thread as usize]) * threads + thread)
        });
        self.verify(sample, version);
    }
}
