//! Whether some virtual node has no shard that serves, for those who write and have no time to look.
//!
//! Invariant: once all who reported a change of shards' health have returned, it says what the last of these changes came to.

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug, Default)]
pub struct Gaps {
    turn: Mutex<()>,
    any: AtomicBool,
}

impl Gaps {
    /// Notes what `look` finds. One at a time: it takes a while, and what was found first must not be noted last.
    pub fn note(&self, look: impl FnOnce() -> bool) {
        let _turn = self.turn.lock();
        self.any.store(look(), Ordering::Release);
    }

    /// What was found last. It may be older than what one would find.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimDisk;
    use crate::engine::{MemoryFactory, MemoryOperation};
    use crate::ids::ShardId;
    use crate::options::Options;
    use crate::state::{Background, Seams};
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    /// Two shards fail at once. Who looked before the second of them failed, and was held up, does not have the last word.
    #[test]
    fn who_looked_earlier_does_not_have_the_last_word() {
        let (gaps, uncovered) = (Gaps::default(), AtomicBool::new(false));
        let (looked, is_looked) = channel();
        let (noted, is_noted) = channel::<()>();
        let (gaps, uncovered) = (&gaps, &uncovered);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                gaps.note(|| {
                    let found = uncovered.load(Ordering::SeqCst);
                    looked.send(()).unwrap();
                    // Held up for as long as it can be.
                    let _ = is_noted.recv_timeout(Duration::from_millis(300));
                    found
                });
            });
            is_looked.recv().unwrap();
            uncovered.store(true, Ordering::SeqCst);
            gaps.note(|| uncovered.load(Ordering::SeqCst));
            let _ = noted.send(());
        });
        assert!(gaps.any());
    }

    /// The journal is trimmed by what is so, whatever is noted: what nobody serves is nowhere else.
    #[test]
    fn the_journal_keeps_what_nobody_serves_whatever_is_noted() {
        let (disk, factory) = (SimDisk::new(1), MemoryFactory::new());
        let seams = |disk: &SimDisk| Seams {
            disk: Arc::new(disk.clone()),
            factory: Arc::new(factory.clone()),
            background: Background::Off,
        };
        let options = Options::new()
            .shards(2)
            .replication_factor(1)
            .memory_budget(8 << 20)
            .journal_segment_bytes(64 << 10)
            .journal_retention(64 << 10);
        let open = |disk: &SimDisk| crate::testing::open(Path::new("/store"), &options, seams(disk)).unwrap();
        let store = open(&disk);
        store.insert("first", b"1").unwrap();
        store.flush().unwrap();
        factory.fail(ShardId(1), MemoryOperation::Open);
        crate::testing::fail_shard(&store, ShardId(1));
        store.handle.state.gaps.note(|| false);
        for n in 0..500_u32 {
            store.insert(n.to_be_bytes(), [3; 1000]).unwrap();
        }
        // It may be refused, for that the journal's bound is reached.
        let _ = store.flush();
        factory.heal(ShardId(1));
        drop(store);
        let store = open(&disk);
        assert!((0..500_u32).all(|n| store.get(n.to_be_bytes()).unwrap().is_some()));
    }
}
