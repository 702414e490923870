//! The core workloads of YCSB (Cooper et al., SoCC 2010), with two threads: records of 1000 bytes (10 fields of 100), popularity
//! by Zipf's law with 0.99, scrambled; the latest first in D; in E scans of 1 to 100 records.
//!
//! An update writes the whole record, since that is what a key-value store can do; F reads it first. E starts its scans at
//! popular records; "E by prefix" does so in groups of 128 records whose keys share 8 bytes, and stays within the group,
//! as the paper's example does (the posts of one conversation).

use super::bench::{Bench, Job, Worker};
use super::claims::Claims;
use crate::engines::Reads;
use crate::zipf::Zipf;

const THREADS: u64 = 2;

impl Bench {
    fn ycsb_job<'a>(&self, workload: &'a str, reads: Reads) -> Job<'a> {
        let ops = if workload.starts_with("ycsb-e") { self.plan.ops / 4 } else { self.plan.ops };
        Job { workload, threads: THREADS, ops: ops.max(THREADS), reads, sample: 1 }
    }

    /// `reads` of a hundred are reads, `modifies` are reads and then writes, the rest writes.
    pub fn ycsb_a_b_c_f(&mut self, workload: &str, reads: u64, modifies: u64) {
        if !self.wants(workload) {
            return;
        }
        self.unchanged &= reads == 100;
        let zipf = Zipf::new(self.total);
        let kind = if reads == 100 { Reads::Alone } else { Reads::AmongWrites };
        let step = |w: &mut Worker<'_>, _: &mut ()| {
            let (n, dice) = (zipf.scrambled(&mut w.rng), w.rng.below(100));
            let mut version = w.rng.next() as u32;
            if dice < reads + modifies {
                w.session.get(&self.key(n), &mut |value| version = self.check(n, value).wrapping_add(1));
            }
            if dice >= reads {
                w.fill(n, version);
                w.session.insert(&self.key(n), &w.value);
            }
        };
        self.report(self.drive(&self.ycsb_job(workload, kind), || (), step).0);
    }

    /// 95% reads, mostly of the newest records; 5% inserts.
    pub fn ycsb_d(&mut self) {
        if !self.wants("ycsb-d") {
            return;
        }
        let claims = Claims::new(self.total, THREADS);
        let zipf = Zipf::new(self.total);
        let (outcome, _) = self.drive(
            &self.ycsb_job("ycsb-d", Reads::AmongWrites),
            || zipf.clone(),
            |w, zipf| {
                if w.rng.below(100) < 5 {
                    return self.insert_new(w, &claims);
                }
                zipf.grow(claims.acknowledged());
                let n = zipf.latest(&mut w.rng);
                w.session.get(&self.key(n), &mut |value| {
                    self.check(n, value);
                });
            },
        );
        self.report(outcome);
        self.accept(&claims);
    }

    /// 95% scans of 1 to 100 records, 5% inserts; within a group if `grouped`.
    pub fn ycsb_e(&mut self, grouped: bool) {
        let workload = if grouped { "ycsb-e-prefix" } else { "ycsb-e" };
        if !self.wants(workload) {
            return;
        }
        let claims = Claims::new(self.total, THREADS);
        let zipf = Zipf::new(self.total);
        let (outcome, _) = self.drive(
            &self.ycsb_job(workload, Reads::AmongWrites),
            || zipf.clone(),
            |w, zipf| {
                if w.rng.below(100) < 5 {
                    return self.insert_new(w, &claims);
                }
                zipf.grow(claims.acknowledged());
                let (n, len) = (zipf.scrambled(&mut w.rng), 1 + w.rng.below(100) as usize);
                let end = grouped.then(|| self.group_end(n)).flatten();
                self.short_scan(&mut *w.session, n, end.as_ref().map(|e| &e[..]), len);
            },
        );
        self.report(outcome);
        self.accept(&claims);
    }

    fn insert_new(&self, w: &mut Worker<'_>, claims: &Claims) {
        claims.with(w.thread, 1, |n| {
            w.fill(n, 0);
            w.session.insert(&self.key(n), &w.value);
        });
    }

    /// The least key above those of the group that record `n` is in.
    fn group_end(&self, n: u64) -> Option<[u8; 8]> {
        let prefix = u64::from_be_bytes(self.key(n)[..8].try_into().expect("8 bytes"));
        prefix.checked_add(1).map(u64::to_be_bytes)
    }
}
