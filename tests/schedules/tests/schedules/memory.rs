//! The lists of memtables by themselves: so few steps that every place of a switch comes up.

use super::explore;
use annulus::Seq;
use annulus::testing::memtable::{Memory, Recent};
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::thread;
use std::sync::Arc;

const KEY: &[u8] = b"key";

#[derive(Clone)]
struct World {
    memory: Arc<Memory>,
    /// What the shards have: the number of the newest commit.
    shards: Arc<AtomicU64>,
    acknowledged: Arc<AtomicU64>,
}

impl World {
    fn commit(&self, seq: u64) {
        let mut tables = self.memory.lock();
        tables.insert(KEY, Seq(seq), Some(b"value")).unwrap();
        tables.last = Seq(seq);
        self.memory.settle(&mut tables, 0);
        drop(tables);
        self.acknowledged.store(seq, Ordering::SeqCst);
    }

    /// As every read does: the memtables first, and then the shards.
    fn read(&self) {
        let floor = self.acknowledged.load(Ordering::SeqCst);
        let found = match self.memory.get(KEY, Seq::MAX) {
            Recent::Value(found) => found.seq.0,
            Recent::Removed => panic!("nobody has removed it"),
            Recent::Unknown => self.shards.load(Ordering::SeqCst),
        };
        assert!(found >= floor, "{floor} was there before, {found} is read");
    }

    fn flush(&self) {
        self.memory.freeze();
        if let Some(table) = self.memory.oldest_frozen() {
            self.shards.store(table.max_seq().unwrap().0, Ordering::SeqCst);
            self.memory.pop_frozen();
        }
    }
}

fn lists() {
    let world = World {
        memory: Arc::new(Memory::new(Seq::ZERO, 1 << 20)),
        shards: Arc::new(AtomicU64::new(0)),
        acknowledged: Arc::new(AtomicU64::new(0)),
    };
    let begin = |work: fn(&World)| {
        let world = world.clone();
        thread::spawn(move || work(&world))
    };
    let threads = [
        begin(|world| {
            for seq in 1..=3 {
                world.commit(seq);
                world.read();
            }
        }),
        begin(|world| (0..3).for_each(|_| world.flush())),
        begin(|world| (0..3).for_each(|_| world.read())),
    ];
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    world.flush();
    world.read();
    assert!(world.memory.is_empty());
}

#[test]
fn a_record_is_in_a_table_or_in_the_shards() {
    explore("the lists of memtables alone", lists);
}
