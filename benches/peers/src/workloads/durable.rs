//! Writes that are on the disk when they return: new records, one by one or in batches of 100.

use super::bench::{Bench, Job};
use super::claims::Claims;
use crate::engines::{Reads, Write};
use crate::keys::Rng;
use crate::measure::bare_sync;
use crate::values;

const BATCH: u64 = 100;

impl Bench {
    pub fn durable(&mut self, threads: u64) {
        if !self.wants("durable") {
            return;
        }
        let claims = Claims::new(self.total, threads);
        let bare = bare_sync(&self.plan.dir);
        let (mut outcome, _) = self.drive(
            &self.durable_job("durable", threads, self.plan.durable_ops),
            || (),
            |w, ()| {
                claims.with(w.thread, 1, |n| {
                    w.fill(n, 0);
                    w.session.insert_sync(&self.key(n), &w.value);
                });
            },
        );
        outcome.bare_sync = Some(bare);
        self.report(outcome);
        self.accept(&claims);
    }

    /// Batches of 100; the rate counts records, the latency is a batch's.
    pub fn durable_batch(&mut self) {
        if !self.wants("durable-batch") {
            return;
        }
        let claims = Claims::new(self.total, 1);
        let bare = bare_sync(&self.plan.dir);
        let (mut outcome, _) = self.drive(
            &self.durable_job("durable-batch", 1, (self.plan.durable_ops / 4).max(1)),
            || -> Vec<Write> {
                (0..BATCH).map(|_| Write { key: self.key(0), value: Some(vec![0; self.value_len]) }).collect()
            },
            |w, batch| {
                claims.with(0, BATCH, |first| {
                    for (n, write) in (first..).zip(batch.iter_mut()) {
                        write.key = self.key(n);
                        values::fill(write.value.as_mut().expect("no removal"), n, 0);
                    }
                    w.session.batch_sync(batch);
                });
            },
        );
        outcome.value *= BATCH as f64;
        outcome.bare_sync = Some(bare);
        outcome.note = Some(format!("batches of {BATCH}: records a second, latency of a batch"));
        self.report(outcome);
        self.accept(&claims);
    }

    fn durable_job<'a>(&self, workload: &'a str, threads: u64, ops: u64) -> Job<'a> {
        Job { workload, threads, ops, reads: Reads::AmongWrites, sample: 1 }
    }

    /// Counts new records in, and sees that they are there.
    pub fn accept(&mut self, claims: &Claims) {
        let first = std::mem::replace(&mut self.total, claims.acknowledged());
        let new = self.total - first;
        let mut rng = Rng::new(first);
        let sample = (0..new.min(1_000)).map(|_| first + rng.below(new));
        self.verify(sample, 0);
    }
}
