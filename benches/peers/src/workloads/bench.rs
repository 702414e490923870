//! What every workload runs on: the store, the records in it, and a way to drive threads over it and measure them.

use super::Session;
use crate::engines::{Engine, Kind, Opening, Reads, Session as Handle, note};
use crate::keys::{Key, Layout, Rng};
use crate::measure::{Meter, disk_mib};
use crate::outcome::{Latency, Line, Outcome, Unit, new_latencies};
use crate::progress::Progress;
use crate::values;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// What a child is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    pub engine: Kind,
    pub session: Session,
    pub workloads: Vec<String>,
    pub dir: PathBuf,
    pub records: u64,
    pub ops: u64,
    pub durable_ops: u64,
    pub max_seconds: u64,
    pub budget: u64,
    pub round: u64,
    pub phase: Phase,
}

/// A session's part that has a process of its own, so that what one leaves in the heap is not counted for the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Loads a new store and reads it; in sessions other than the first also all the rest.
    Load,
    /// Reads with a small budget.
    Cold,
    /// Writes; its last act may be to kill itself.
    Write,
    /// Opens what was left.
    Killed { settled: u64, acknowledged: u64 },
}

pub struct Bench {
    pub plan: Plan,
    pub layout: Layout,
    pub value_len: usize,
    /// The records with numbers below this are in the store.
    pub total: u64,
    /// Whether every record still has the value it was loaded with.
    pub unchanged: bool,
    engine: Option<Box<dyn Engine>>,
}

/// What is driven: how many threads do how much.
pub struct Job<'a> {
    pub workload: &'a str,
    pub threads: u64,
    pub ops: u64,
    pub reads: Reads,
    /// The latency of one in so many is measured.
    pub sample: u64,
}

/// One thread of a job.
pub struct Worker<'a> {
    pub session: Box<dyn Handle + 'a>,
    pub rng: Rng,
    pub thread: u64,
    /// The operations it has done.
    pub done: u64,
    /// Room for a value.
    pub value: Vec<u8>,
}

impl Bench {
    pub fn open(plan: Plan) -> Bench {
        let (layout, value_len) = (plan.session.layout(), plan.session.value_len());
        let total = if plan.phase == Phase::Load { 0 } else { plan.records };
        let mut bench = Bench { plan, layout, value_len, total, unchanged: true, engine: None };
        if matches!(bench.plan.phase, Phase::Load | Phase::Write) {
            bench.open_engine(bench.plan.budget);
        }
        bench
    }

    pub fn wants(&self, workload: &str) -> bool {
        self.plan.workloads.iter().any(|w| w == workload)
    }

    pub fn engine(&self) -> &dyn Engine {
        self.engine.as_deref().expect("the store is open")
    }

    pub fn open_engine(&mut self, budget: u64) -> Duration {
        let opening = Opening { budget, grouped: self.plan.session == Session::Grouped };
        let started = Instant::now();
        self.engine = Some(self.plan.engine.open(&self.plan.dir, opening));
        started.elapsed()
    }

    pub fn close(&mut self) {
        if let Some(engine) = self.engine.take() {
            engine.close();
        }
    }

    pub fn key(&self, n: u64) -> Key {
        self.layout.key(n)
    }

    /// The bytes of all keys and values.
    pub fn data_bytes(&self) -> u64 {
        self.total * (self.plan.session.key_len() + self.value_len) as u64
    }

    /// Stops the run unless `found` is a value of record `n`, whole; tells its version.
    pub fn check(&self, n: u64, found: Option<&[u8]>) -> u32 {
        let engine = self.plan.engine.label();
        let Some(value) = found else { panic!("{engine}: record {n} of {} is missing", self.total) };
        match values::check(value, self.value_len) {
            Ok((found, version)) if found == n => {
                assert!(!self.unchanged || version == 0, "{engine}: record {n} has version {version}, not 0");
                version
            }
            Ok((found, _)) => panic!("{engine}: record {n} has the value of record {found}"),
            Err(why) => panic!("{engine}: record {n}: {why}"),
        }
    }

    /// Checks that records are at the version they must have.
    pub fn verify(&self, numbers: impl Iterator<Item = u64>, version: u32) {
        let mut session = self.engine().session(Reads::AmongWrites);
        for n in numbers {
            session.get(&self.key(n), &mut |value| {
                let found = self.check(n, value);
                let engine = self.plan.engine.label();
                assert_eq!(found, version, "{engine}: record {n} has another version than was acknowledged");
            });
        }
    }

    pub fn progress(&self, workload: &str, len: u64) -> Progress {
        Progress::start(format!("{:16} {workload}", self.plan.engine.label()), len)
    }

    /// Lets threads do `step` over and over, for as many operations, or as many seconds, as the plan has. Tells what it
    /// came to and what each thread did.
    pub fn drive<T>(
        &self,
        job: &Job<'_>,
        prepare: impl Fn() -> T + Sync,
        step: impl Fn(&mut Worker<'_>, &mut T) + Sync,
    ) -> (Outcome, Vec<u64>) {
        let progress = self.progress(job.workload, job.ops);
        let start = Barrier::new(job.threads as usize + 1);
        let limit = Duration::from_secs(self.plan.max_seconds);
        let meter = Meter::start();
        let (mut latencies, mut done, mut seconds) = (new_latencies(), Vec::new(), 0.0);
        let one = |thread: u64| {
            let mut own = prepare();
            let mut worker = self.worker(job, thread);
            let mut latencies = new_latencies();
            let share = job.ops / job.threads + u64::from(thread < job.ops % job.threads);
            start.wait();
            let deadline = Instant::now() + limit;
            while worker.done < share {
                let before = Instant::now();
                step(&mut worker, &mut own);
                note(&mut latencies, before);
                worker.done += 1;
                // The others of the sample go without a look at the clock.
                let until = share.min(worker.done - 1 + job.sample);
                while worker.done < until {
                    step(&mut worker, &mut own);
                    worker.done += 1;
                }
                if before > deadline {
                    break;
                }
                if job.sample > 1 || worker.done.is_multiple_of(16) {
                    progress.add(job.sample.max(16));
                }
            }
            (latencies, worker.done)
        };
        std::thread::scope(|scope| {
            let one = &one;
            let threads: Vec<_> = (0..job.threads).map(|t| scope.spawn(move || one(t))).collect();
            start.wait();
            let started = Instant::now();
            for thread in threads {
                // Its message is on the standard error already.
                let Ok((part, count)) = thread.join() else { std::process::exit(101) };
                latencies.add(part).expect("the same bounds");
                done.push(count);
            }
            seconds = started.elapsed().as_secs_f64();
        });
        drop(progress);
        let ops: u64 = done.iter().sum();
        let mut outcome = self.outcome(job.workload, ops as f64 / seconds, Unit::PerSecond, &meter);
        (outcome.threads, outcome.latency) = (job.threads, Latency::of(&latencies));
        (outcome, done)
    }

    fn worker(&self, job: &Job<'_>, thread: u64) -> Worker<'_> {
        let seed = job.workload.bytes().fold(self.plan.round, |s, b| s.wrapping_mul(31) + u64::from(b));
        Worker {
            session: self.engine().session(job.reads),
            rng: Rng::new(seed.wrapping_mul(1_000) + job.threads * 100 + thread),
            thread,
            done: 0,
            value: vec![0; self.value_len],
        }
    }

    pub fn outcome(&self, workload: &str, value: f64, unit: Unit, meter: &Meter) -> Outcome {
        Outcome {
            workload: workload.into(),
            threads: 1,
            value,
            unit,
            settled: None,
            latency: None,
            memory: meter.memory(),
            disk_mib: disk_mib(&self.plan.dir),
            written_mib: meter.written_mib(),
            bare_sync: None,
            note: None,
        }
    }

    pub fn report(&self, outcome: Outcome) {
        Line::Outcome(outcome).say();
    }
}

impl Worker<'_> {
    /// Fills the value of record `n` at `version` in.
    pub fn fill(&mut self, n: u64, version: u32) {
        values::fill(&mut self.value, n, version);
    }
}
