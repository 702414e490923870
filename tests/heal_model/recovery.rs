//! Everything is put right, and looked at.

use super::world::World;
use annulus::{ErrorKind, ScrubReport, testing};
use std::time::{Duration, Instant};

const MANY: usize = 3000;
/// How long what hung is waited for when it has been let go on.
const LET_GO: Duration = Duration::from_secs(60);

impl World {
    /// Faults are taken back; healing, the change that is under way and a scrub run to their ends.
    pub fn recover(&mut self) {
        self.take_back();
        let silent = !self.doubts.is_empty();
        self.wait_for_what_hung();
        self.heal();
        self.end_change();
        self.heal();
        if silent {
            self.close_iters();
        }
        let report = self.scrub_all();
        self.heal();
        // A shard that was offline while the others were rid of old copies is rid of them when it is back.
        self.end_change();
        let health = self.store().health().unwrap();
        assert!(health.is_good(), "{health:?}");
        assert_eq!((report.pages_left, report.records_unsettled), (0, 0), "{report:?}");
        if !silent {
            assert_eq!(report.records_reconciled, 0, "replicas differed: {report:?}");
        }
        self.touched.clear();
        self.doubts.clear();
        self.check_copies();
        self.check();
    }

    fn heal(&self) {
        for _ in 0..MANY {
            if !testing::heal_step(self.store()).unwrap() {
                return;
            }
        }
        let mut events = self.store().events();
        let events: Vec<_> = std::iter::from_fn(|| events.try_next()).map(|e| (e.shard, e.kind)).collect();
        let last = &events[events.len().saturating_sub(8)..];
        panic!("healing does not end: {:?}, {last:#?}", self.store().health().unwrap());
    }

    /// What has been let go on ends when it does: only then is its shard taken back.
    fn wait_for_what_hung(&self) {
        let begun = Instant::now();
        while testing::hangs(self.store()) {
            assert!(begun.elapsed() < LET_GO, "what was let go on does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn end_change(&mut self) {
        let mut failures = 0;
        for step in 0..MANY {
            match testing::change_step(self.store()) {
                Ok(true) => {}
                Ok(false) => {
                    assert!(self.store().change().is_none());
                    self.forget_those_that_left();
                    return;
                }
                // It came upon damage that nobody had met yet.
                Err(error) => {
                    failures += 1;
                    assert!(
                        failures < 20
                            && matches!(error.kind(), ErrorKind::Corruption | ErrorKind::Unavailable),
                        "a step of the change: {error}"
                    );
                    self.heal();
                }
            }
            // Old copies stay as long as somebody reads by the placement before.
            if step == 40 {
                self.close_iters();
            }
        }
        panic!("the change does not end: {:?}", self.store().change().map(|c| c.progress()));
    }

    fn scrub_all(&mut self) -> ScrubReport {
        let scrub = self.store().scrub().unwrap();
        scrub.cancel().unwrap();
        let scrub = self.store().scrub().unwrap();
        for _ in 0..MANY {
            if !scrub.progress().running {
                return scrub.progress().report;
            }
            testing::scrub_step(self.store()).unwrap();
            testing::heal_step(self.store()).unwrap();
        }
        panic!("the scrub does not end: {:?}", scrub.progress());
    }
}
