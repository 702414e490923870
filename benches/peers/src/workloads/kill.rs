//! Opening after SIGKILL. One child writes and kills itself; another opens what it left.

use super::bench::{Bench, Job};
use super::claims::Claims;
use crate::engines::Reads;
use crate::keys::Rng;
use crate::measure::Meter;
use crate::outcome::{Line, Unit};
use rustix::process::{Signal, getpid, kill_process};

impl Bench {
    /// Writes a tenth more records at the level `process`, says how many were acknowledged, and dies.
    pub fn kill(&mut self) -> ! {
        self.engine().settle();
        let claims = Claims::new(self.total, 1);
        let job = Job {
            workload: "reopen-killed",
            threads: 1,
            // No multiple of a period after which an engine syncs by itself: then nothing could ever be lost.
            ops: self.plan.ops / 10 + 499,
            reads: Reads::AmongWrites,
            sample: 1,
        };
        self.drive(
            &job,
            || (),
            |w, ()| {
                claims.with(0, 1, |n| {
                    w.fill(n, 0);
                    w.session.insert(&self.key(n), &w.value);
                });
            },
        );
        Line::Killing { settled: self.total, acknowledged: claims.acknowledged() }.say();
        kill_process(getpid(), Signal::KILL).expect("SIGKILL to itself");
        unreachable!("killed")
    }

    /// Opens, counts what is missing, and goes on to the last workload.
    pub fn after_kill(&mut self, settled: u64, acknowledged: u64) {
        let meter = Meter::start();
        let took = self.open_engine(self.plan.budget);
        let mut outcome = self.outcome("reopen-killed", took.as_secs_f64() * 1e3, Unit::Milliseconds, &meter);
        (self.total, self.unchanged) = (acknowledged, false);
        let mut session = self.engine().session(Reads::Alone);
        let mut rng = Rng::new(settled);
        for _ in 0..10_000 {
            let n = rng.below(settled);
            session.get(&self.key(n), &mut |value| {
                self.check(n, value);
            });
        }
        let mut lost = 0;
        for n in settled..acknowledged {
            session.get(&self.key(n), &mut |value| match value {
                Some(_) => {
                    self.check(n, value);
                }
                None => lost += 1,
            });
        }
        drop(session);
        let (engine, written) = (self.plan.engine, acknowledged - settled);
        assert!(
            lost == 0 || !engine.survives_kill(),
            "{}: {lost} of {written} writes acknowledged before the kill are lost",
            engine.label()
        );
        outcome.note = Some(format!("{lost} of {written} unflushed writes lost"));
        self.report(outcome);
        self.delete_all();
    }
}
