//! Loading and deleting everything, by one thread: independent writes, or bulks of 1000 where the engine's unit is a
//! transaction.

use super::bench::Bench;
use crate::engines::{BULK, Reads, Span, Write};
use crate::keys::Permutation;
use crate::measure::{Meter, disk_mib};
use crate::outcome::{Latency, Outcome, Unit, new_latencies};
use crate::values;
use std::time::Instant;

impl Bench {
    /// Loads the records, settles, and reports it as `workload` if that is wanted.
    pub fn load(&mut self, workload: &str) {
        let outcome = self.load_records(workload);
        if self.wants(workload) {
            self.report(outcome);
        }
    }

    pub fn load_quietly(&mut self) {
        self.load_records("load");
    }

    fn load_records(&mut self, workload: &str) -> Outcome {
        let records = self.plan.records;
        let value_len = self.value_len;
        let outcome = self.bulks(workload, records, |n, value| {
            let value = value.get_or_insert_default();
            value.resize(value_len, 0);
            values::fill(value, n, 0);
            n
        });
        self.total = records;
        outcome
    }

    /// Removes every record, in an order of its own, and sees that nothing is left.
    pub fn delete_all(&mut self) {
        if !self.wants("delete-all") {
            return;
        }
        let order = Permutation::new(self.total, 99);
        let outcome = self.bulks("delete-all", self.total, |at, value| {
            *value = None;
            order.get(at)
        });
        let span = Span { from: None, to: None, reverse: false, limit: usize::MAX };
        let mut left = 0;
        self.engine().session(Reads::AmongWrites).scan(span, &mut |_, _| left += 1);
        assert_eq!(left, 0, "{}: records are there after all were deleted", self.plan.engine.label());
        self.total = 0;
        self.report(outcome);
    }

    /// Writes `count` times what `make` makes of a place: a number and its value, if it is no removal.
    fn bulks(&self, workload: &str, count: u64, make: impl Fn(u64, &mut Option<Vec<u8>>) -> u64) -> Outcome {
        let progress = self.progress(workload, count);
        let mut writes: Vec<Write> = (0..BULK).map(|_| Write { key: self.key(0), value: None }).collect();
        let mut latencies = new_latencies();
        let meter = Meter::start();
        let started = Instant::now();
        let mut session = self.engine().session(Reads::AmongWrites);
        let mut at = 0;
        while at < count {
            let part = BULK.min((count - at) as usize);
            for (place, write) in (at..).zip(&mut writes[..part]) {
                write.key = self.key(make(place, &mut write.value));
            }
            session.bulk(&writes[..part], &mut latencies);
            at += part as u64;
            progress.add(part as u64);
        }
        drop(session);
        let rate = count as f64 / started.elapsed().as_secs_f64();
        self.engine().settle();
        let settled = count as f64 / started.elapsed().as_secs_f64();
        let mut outcome = self.outcome(workload, rate, Unit::PerSecond, &meter);
        (outcome.settled, outcome.latency) = (Some(settled), Latency::of(&latencies));
        outcome.disk_mib = disk_mib(&self.plan.dir);
        outcome
    }
}
