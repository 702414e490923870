//! Changes of the topology one after another on real shards, while writers, readers and scanners are at it.
//!
//! `ANNULUS_LIVE_ROUNDS` sets how often the changes are gone through (1 unless set).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use annulus::{
    Bytes, Durability, ErrorKind, Health, KeyspaceId, Options, Phase, Planner, Seq, ShardId, ShardOptions,
    ShardRole, Store, TopologyChange, WriteBatch, testing,
};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Records that nobody touches: what most of the moving is about.
const FIXED: u32 = 12_000;
/// Keys of each writer.
const KEYS: usize = 300;
const WRITERS: usize = 2;
const BATCH: usize = 24;

fn number(value: &[u8]) -> u64 {
    value.first_chunk().map_or(0, |b| u64::from_le_bytes(*b))
}

fn value(n: u64) -> Vec<u8> {
    let mut value = n.to_le_bytes().to_vec();
    value.resize(8 + (n * 37 % 700) as usize, n as u8);
    value
}

fn fixed(n: u32) -> (String, Vec<u8>) {
    // Spread over the key space, so that every scan meets the others' keys between them.
    (format!("{:02x}/fixed/{n:05}", n % 256), value(u64::from(n)))
}

fn key(writer: usize, slot: usize) -> String {
    format!("{:02x}/slot/{writer}/{slot}", slot % 256)
}

/// Every fifth operation on a key removes it.
fn removes(n: u64) -> bool {
    n.is_multiple_of(5)
}

/// How far the operations on one key have got.
#[derive(Default)]
struct Slot {
    begun: AtomicU64,
    acknowledged: AtomicU64,
}

struct World {
    store: Store,
    root: PathBuf,
    stop: AtomicBool,
    slots: Vec<Vec<Slot>>,
    batches: AtomicU64,
    directories: AtomicU64,
}

impl World {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Looks again and again, while nothing else fails.
    fn until(&self, mut is_so: impl FnMut() -> bool) {
        while !is_so() {
            assert!(self.goes_on(), "a thread failed");
            std::thread::yield_now();
        }
    }

    fn writer(&self, writer: usize) {
        for n in 1.. {
            for (slot, state) in self.slots[writer].iter().enumerate() {
                if !self.goes_on() {
                    return;
                }
                state.begun.store(n, Ordering::SeqCst);
                if removes(n) {
                    self.store.remove(key(writer, slot)).unwrap();
                } else {
                    let durability = if slot % 50 == 0 { Durability::Sync } else { Durability::Memory };
                    self.store.insert_with(key(writer, slot), value(n), durability).unwrap();
                }
                state.acknowledged.store(n, Ordering::SeqCst);
            }
        }
    }

    fn batch_writer(&self) {
        for n in 1.. {
            if !self.goes_on() {
                return;
            }
            let mut batch = WriteBatch::new();
            (0..BATCH).for_each(|i| {
                batch.insert(format!("{:02x}/batch", i * 10), value(n));
            });
            self.store.commit(batch).unwrap();
            self.batches.store(n, Ordering::SeqCst);
        }
    }

    /// A key is never older than what was acknowledged before the reading began, never from the future, and never back
    /// after its removal.
    fn read(&self, writer: usize, slot: usize) {
        let state = &self.slots[writer][slot];
        let low = state.acknowledged.load(Ordering::SeqCst);
        let found = self.store.get(key(writer, slot)).unwrap();
        let high = state.begun.load(Ordering::SeqCst);
        match found {
            Some(found) => {
                let n = number(&found);
                assert!(n >= low && n <= high && !removes(n), "slot {slot}: {n}, not in {low} to {high}");
                assert!(*found == *value(n), "slot {slot}: the value of {n} is torn");
            }
            None => assert!(
                low == 0 || (low..=high).any(removes),
                "slot {slot}: nothing is there after {low}, before {high}"
            ),
        }
    }

    fn reader(&self, mut turn: usize) -> u64 {
        let mut reads = 0;
        while self.goes_on() {
            turn = turn.wrapping_mul(31).wrapping_add(17);
            self.read(turn % WRITERS, turn / WRITERS % KEYS);
            let (key, value) = fixed((turn % FIXED as usize) as u32);
            assert!(self.store.get(&key).unwrap().as_deref() == Some(&value[..]), "{key} is not as it was");
            reads += 2;
        }
        reads
    }

    fn scanner(&self) -> u64 {
        let (mut scans, mut newest) = (0, 0);
        while self.goes_on() {
            let low = self.batches.load(Ordering::SeqCst);
            let items = self.store.iter();
            let seen = if scans % 2 == 0 { seen(items) } else { seen(items.rev()) };
            let now = seen.check();
            assert!(now >= low && now >= newest, "a scan saw {now} after {newest}, {low} was acknowledged");
            newest = now;
            scans += 1;
        }
        scans
    }

    fn new_shard(&self) -> ShardOptions {
        let n = self.directories.fetch_add(1, Ordering::Relaxed);
        ShardOptions::new(self.root.join(format!("added-{n}")))
    }

    fn members(&self) -> Vec<ShardId> {
        self.store.ring().members().iter().map(|member| member.id).collect()
    }

    /// Begins a change, as soon as what an earlier one has left is cleared away.
    fn begin(&self, plan: impl Fn(Planner) -> Planner) -> TopologyChange {
        loop {
            let planned = plan(self.store.plan()).preview().unwrap().accept_problems();
            match self.store.apply(planned) {
                Ok(change) => return change,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Busy, "{error}"),
            }
            assert!(self.goes_on(), "a thread failed");
            std::thread::yield_now();
        }
    }

    /// Makes a change whole, with a snapshot held from before it to after it.
    fn change(&self, plan: impl Fn(Planner) -> Planner) {
        let mut scan = self.store.iter();
        let first: Vec<_> = scan.by_ref().take(5).collect();
        let change = self.begin(plan);
        assert_eq!(change.wait().unwrap(), Phase::Completed);
        seen(first.into_iter().chain(scan)).check();
        self.store.ring().check().unwrap();
    }

    fn round(&self) {
        let shards: Vec<ShardOptions> = (0..4).map(|_| self.new_shard()).collect();
        self.grow_slowly(shards);
        self.change(|plan| plan.set_replication_factor(2));
        self.change(|plan| plan.drain_shard(self.members()[0]));
        let new = self.new_shard();
        self.change(|plan| plan.replace_shard(self.members()[1], new.clone()));
        let nodes = self.store.ring().virtual_nodes() * 2;
        self.change(|plan| plan.set_virtual_nodes(nodes).set_weight(self.members()[0], 2.0));
        for _ in 0..3 {
            self.cancel_in_the_middle();
        }
        self.change(|plan| plan.set_replication_factor(3));
        let members = self.members();
        self.change(|plan| {
            let plan = plan.set_replication_factor(1);
            members[2..].iter().fold(plan, |plan, shard| plan.drain_shard(*shard))
        });
        for shard in self.store.topology().shards.iter().filter(|s| s.role == ShardRole::Retired) {
            self.store.drop_shard(shard.id).unwrap();
        }
    }

    /// From two shards to six, at a rate, with a rest in the middle.
    fn grow_slowly(&self, shards: Vec<ShardOptions>) {
        let change = self.begin(|plan| shards.iter().cloned().fold(plan, Planner::add_shard));
        // Over by the time on a fast machine, or where this thread had to wait; then there is nothing to slow down or to rest.
        let _ = change.set_rate(8 << 20);
        self.until(|| change.progress().bytes_copied > 0);
        if change.pause().is_ok() && change.progress().phase == Phase::Copying {
            let before = self.slots[0][KEYS - 1].acknowledged.load(Ordering::SeqCst);
            self.until(|| self.slots[0][KEYS - 1].acknowledged.load(Ordering::SeqCst) >= before + 2);
            self.store.flush().unwrap();
            // The step that was under way may have been the last one of copying.
            assert!(matches!(change.progress().phase, Phase::Copying | Phase::Verifying));
            change.set_rate(None).unwrap();
        }
        let _ = change.resume();
        assert_eq!(change.wait().unwrap(), Phase::Completed);
        assert_eq!(self.members().len(), 6);
    }

    fn cancel_in_the_middle(&self) {
        let ring = self.store.ring();
        let new = self.new_shard();
        let change = self.begin(|plan| plan.set_replication_factor(3).add_shard(new.clone()));
        let _ = change.set_rate(1 << 20);
        self.until(|| change.progress().records_copied > 0);
        if let Err(error) = change.cancel() {
            // It was over before, or as good as over: the way back is a change like any other.
            assert!(matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput), "{error}");
            assert_eq!(change.wait().unwrap(), Phase::Completed);
            let joined = self.members().into_iter().filter(|id| !ring.members().iter().any(|m| m.id == *id));
            let joined: Vec<ShardId> = joined.collect();
            self.change(|plan| {
                joined.iter().fold(plan.set_replication_factor(2), |plan, shard| plan.drain_shard(*shard))
            });
            return;
        }
        assert_eq!(change.wait().unwrap(), Phase::Cancelled);
        assert_eq!(self.store.ring().members(), ring.members());
        seen(self.store.iter()).check();
    }

    /// Every value is the last that was written, on all its owners and nowhere else.
    fn check(&self) {
        assert!(self.store.change().is_none());
        while testing::change_step(&self.store).unwrap() {}
        self.store.flush().unwrap();
        for writer in 0..WRITERS {
            for slot in 0..KEYS {
                let state = &self.slots[writer][slot];
                let n = state.acknowledged.load(Ordering::SeqCst);
                assert_eq!(n, state.begun.load(Ordering::SeqCst));
                let expected = (n > 0 && !removes(n)).then(|| value(n));
                let found = self.store.get(key(writer, slot)).unwrap();
                assert_eq!(found.as_deref().map(number), expected.as_deref().map(number), "slot {slot}");
            }
        }
        assert_eq!(seen(self.store.iter()).check(), self.batches.load(Ordering::SeqCst));
        let content: BTreeMap<Vec<u8>, Seq> = (self.store.iter())
            .map(|item| item.unwrap().0)
            .map(|key| (key.to_vec(), self.store.get_versioned(&key).unwrap().unwrap().1))
            .collect();
        let ring = self.store.ring();
        ring.check().unwrap();
        let stats = self.store.stats().unwrap();
        // Where the directory for temporary files is in memory, a store of one replica says what that means.
        assert!(stats.warnings.iter().all(|warning| warning.contains("power cut")), "{:?}", stats.warnings);
        assert_eq!(stats.snapshots, 0);
        assert_eq!(stats.shards.len(), ring.members().len());
        for shard in stats.shards {
            assert_eq!(shard.health, Health::Online);
            let owned = |key: &[u8]| ring.preference_list(key).contains(&shard.id);
            let owned: Vec<_> = content.clone().into_iter().filter(|(key, _)| owned(key)).collect();
            let held = testing::held_by(&self.store, KeyspaceId(0), shard.id).unwrap();
            assert!(held == owned, "shard {}: {} held, {} owned", shard.id, held.len(), owned.len());
        }
    }
}

/// What one scan saw.
#[derive(Default)]
struct Seen {
    fixed: u32,
    batch: Vec<u64>,
}

fn seen(items: impl Iterator<Item = annulus::Result<(Bytes, Bytes)>>) -> Seen {
    let mut seen = Seen::default();
    for item in items {
        let (key, value) = item.unwrap();
        match &key[3..] {
            b"batch" => seen.batch.push(number(&value)),
            key if key.starts_with(b"fixed") => seen.fixed += 1,
            _ => assert!(!removes(number(&value)) && *value == *self::value(number(&value))),
        }
    }
    seen
}

impl Seen {
    /// All that is fixed, and a batch whole. Returns the number of the batch.
    fn check(&self) -> u64 {
        assert_eq!(self.fixed, FIXED);
        assert!(self.batch.is_empty() || self.batch.len() == BATCH, "{} keys of a batch", self.batch.len());
        assert!(self.batch.windows(2).all(|w| w[0] == w[1]), "half a batch in a scan: {:?}", self.batch);
        self.batch.first().copied().unwrap_or(0)
    }
}

#[test]
fn readers_writers_and_scanners_beside_changes_of_the_topology() {
    let rounds = std::env::var("ANNULUS_LIVE_ROUNDS").map_or(1, |v| v.parse().unwrap());
    let root = tempfile::tempdir().unwrap();
    let options = Options::new()
        .shards(2)
        .replication_factor(1)
        .virtual_nodes(32)
        .memory_budget(16 << 20)
        .page_bytes(1024);
    let store = options.open(root.path().join("data")).unwrap();
    for n in 0..FIXED {
        let (key, value) = fixed(n);
        store.insert_with(key, value, Durability::Memory).unwrap();
    }
    let slots = || (0..KEYS).map(|_| Slot::default()).collect();
    let world = World {
        store,
        root: root.path().to_path_buf(),
        stop: AtomicBool::new(false),
        slots: (0..WRITERS).map(|_| slots()).collect(),
        batches: AtomicU64::new(0),
        directories: AtomicU64::new(0),
    };
    // Whatever fails first ends the others, so that the test fails rather than hangs.
    let stop = |f: &dyn Fn() -> u64| {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
        world.stop.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    };
    std::thread::scope(|scope| {
        let (world, stop) = (&world, &stop);
        for writer in 0..WRITERS {
            scope.spawn(move || stop(&|| (world.writer(writer), 1).1));
        }
        scope.spawn(move || stop(&|| (world.batch_writer(), 1).1));
        let reader = scope.spawn(move || stop(&|| world.reader(1)));
        let scanner = scope.spawn(move || stop(&|| world.scanner()));
        stop(&|| {
            for _ in 0..rounds {
                world.round();
                assert!(world.goes_on(), "a thread failed");
            }
            0
        });
        let (reads, scans) = (reader.join().unwrap(), scanner.join().unwrap());
        assert!(reads > 100 && scans > 5, "{reads} reads, {scans} scans");
    });
    world.check();
    world.store.close().unwrap();
}
