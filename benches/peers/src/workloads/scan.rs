//! Scans, long and short. Every record's key, value and place in the order are checked.

use super::bench::{Bench, Job};
use crate::engines::{Reads, Session, Span};
use crate::keys::{Key, Layout};
use crate::measure::Meter;
use crate::outcome::Unit;
use crate::values;
use std::cmp::Ordering;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

impl Bench {
    /// All records, from one end to the other.
    pub fn scan(&self, workload: &str, reverse: bool) {
        if !self.wants(workload) {
            return;
        }
        let progress = self.progress(workload, self.total);
        let meter = Meter::start();
        let started = Instant::now();
        let mut session = self.engine().session(Reads::Alone);
        let mut count = 0;
        let span = Span { from: None, to: None, reverse, limit: usize::MAX };
        self.checked_scan(&mut *session, span, |_| {
            count += 1;
            if count % 4_096 == 0 {
                progress.add(4_096);
            }
        });
        let rate = count as f64 / started.elapsed().as_secs_f64();
        let engine = self.plan.engine.label();
        assert_eq!(
            count, self.total,
            "{engine}: a {workload} shows another number of records than were written"
        );
        drop(progress);
        self.report(self.outcome(workload, rate, Unit::PerSecond, &meter));
    }

    /// 1 to 100 records from a random one on.
    pub fn scan_short(&self) {
        if !self.wants("scan-short") {
            return;
        }
        let records = AtomicU64::new(0);
        let job = Job {
            workload: "scan-short",
            threads: 1,
            ops: (self.plan.ops / 4).max(1),
            reads: Reads::Alone,
            sample: 1,
        };
        let (mut outcome, done) = self.drive(
            &job,
            || (),
            |w, ()| {
                let (n, len) = (w.rng.below(self.total), 1 + w.rng.below(100) as usize);
                records.fetch_add(self.short_scan(&mut *w.session, n, None, len), Relaxed);
            },
        );
        let mean = records.load(Relaxed) as f64 / done[0] as f64;
        outcome.note = Some(format!("scans of {mean:.1} records on average"));
        self.report(outcome);
    }

    /// Scans up to `len` records from record `n` on, which must be the first; tells how many there were.
    pub fn short_scan(&self, session: &mut dyn Session, n: u64, to: Option<&[u8]>, len: usize) -> u64 {
        let from = self.key(n);
        let mut count = 0;
        let span = Span { from: Some(&from), to, reverse: false, limit: len };
        self.checked_scan(session, span, |key| {
            let engine = self.plan.engine.label();
            assert!(count > 0 || *key == *from, "{engine}: a scan does not begin with record {n}");
            count += 1;
        });
        assert!(count > 0, "{}: a scan from record {n} on shows nothing", self.plan.engine.label());
        count
    }

    fn checked_scan(&self, session: &mut dyn Session, span: Span<'_>, mut each: impl FnMut(&[u8])) {
        let expected = if span.reverse { Ordering::Greater } else { Ordering::Less };
        let mut last: Option<Key> = None;
        session.scan(span, &mut |key, value| {
            let engine = self.plan.engine;
            let n = match values::check(value, self.value_len) {
                Ok((n, version)) if !self.unchanged || version == 0 => n,
                Ok((n, version)) => panic!("{engine:?}: scan: record {n} has version {version}, not 0"),
                Err(why) => panic!("{engine:?}: scan: {why}"),
            };
            let own = Layout::key(self.layout, n);
            assert!(*own == *key, "{engine:?}: scan: the value of record {n} under another key");
            let in_order = last.is_none_or(|last| (*last).cmp(key) == expected);
            assert!(in_order, "{engine:?}: scan: record {n} is out of order");
            last = Some(own);
            each(key);
        });
    }
}
