//! Whole stores on the simulated disk, engines in memory: commits, reads, flushes, moves between shards and a close, in
//! two or three threads.
//!
//! One thread writes, commit `n` as a batch that sets the same keys to `n`; so whatever anybody reads can be judged by what was
//! acknowledged before it was asked for, and by what the same thread read before.

use super::explore;
use annulus::testing::{self, Background, MemoryFactory, PowerCut, Seams, SimDisk};
use annulus::{Durability, ErrorKind, Options, ShardOptions, Store, WriteBatch};
use shuttle::rand::Rng;
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::thread;
use std::path::Path;
use std::sync::Arc;

const DIR: &str = "/store";
const KEYS: [&str; 3] = ["a/1", "b/2", "c/3"];

#[derive(Clone)]
struct World {
    disk: SimDisk,
    factory: MemoryFactory,
    /// The newest commit that was acknowledged, and the newest that was begun.
    acknowledged: Arc<AtomicU64>,
    synced: Arc<AtomicU64>,
}

impl World {
    fn new() -> World {
        World {
            disk: SimDisk::new(1),
            factory: MemoryFactory::new(),
            acknowledged: Arc::new(AtomicU64::new(0)),
            synced: Arc::new(AtomicU64::new(0)),
        }
    }

    fn open(&self, background: Background) -> Store {
        self.open_with(Options::new().shards(2).replication_factor(1).virtual_nodes(16), background)
    }

    fn open_with(&self, options: Options, background: Background) -> Store {
        let options = options.memory_budget(8 << 20).journal_segment_bytes(64 << 10);
        let seams =
            Seams { disk: Arc::new(self.disk.clone()), factory: Arc::new(self.factory.clone()), background };
        testing::open(Path::new(DIR), &options, seams).unwrap()
    }

    /// Commits 1 to `count`, as far as the store is open.
    fn write(&self, store: &Store, count: u64) {
        for n in 1..=count {
            let durability = [Durability::Memory, Durability::Process, Durability::Sync][below(3) as usize];
            let mut batch = WriteBatch::new();
            for key in KEYS {
                batch.insert(key, n.to_le_bytes());
            }
            match store.commit_with(batch, durability) {
                Ok(_) => {
                    self.acknowledged.store(n, Ordering::SeqCst);
                    if durability == Durability::Sync {
                        self.synced.store(n, Ordering::SeqCst);
                    }
                }
                Err(error) => {
                    assert!(matches!(error.kind(), ErrorKind::Closed), "{error}");
                    return;
                }
            }
        }
    }

    /// Reads in all ways; nothing is torn, or older than what was acknowledged or read before.
    fn read(&self, store: &Store, times: usize) {
        let mut newest = 0;
        for turn in 0..times {
            let floor = newest.max(self.acknowledged.load(Ordering::SeqCst));
            let found = match turn % 3 {
                0 => {
                    let last = store.stats().unwrap().last_seq.0;
                    let found = number(store.get(KEYS[below(3) as usize]).unwrap().as_deref());
                    assert!(found >= last, "{last} commits are there, a get shows {found}");
                    found
                }
                1 => whole(store.get_many(KEYS).unwrap().iter().map(|value| number(value.as_deref()))),
                _ => {
                    let all: Vec<_> = store.iter().map(|record| record.unwrap().1).collect();
                    assert!(all.is_empty() || all.len() == KEYS.len(), "{} records", all.len());
                    whole(all.iter().map(|value| number(Some(value))))
                }
            };
            assert!(found >= floor, "{floor} was there before, {found} is read");
            newest = found;
        }
    }
}

fn below(end: u64) -> u64 {
    shuttle::rand::thread_rng().gen_range(0..end)
}

fn number(value: Option<&[u8]>) -> u64 {
    value.map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
}

fn whole(numbers: impl Iterator<Item = u64>) -> u64 {
    let numbers: Vec<u64> = numbers.collect();
    assert!(numbers.windows(2).all(|pair| pair[0] == pair[1]), "a batch by halves: {numbers:?}");
    numbers.first().copied().unwrap_or(0)
}

fn begin(work: impl FnOnce() + Send + 'static) -> thread::JoinHandle<()> {
    thread::spawn(work)
}

fn writing(world: &World, store: &Store, count: u64) -> thread::JoinHandle<()> {
    let (world, store) = (world.clone(), store.clone());
    begin(move || world.write(&store, count))
}

fn reading(world: &World, store: &Store, times: usize) -> thread::JoinHandle<()> {
    let (world, store) = (world.clone(), store.clone());
    begin(move || world.read(&store, times))
}

/// After everything a power cut: what was synced is there, batches whole.
fn check_recovery(world: &World, newest: u64) {
    let synced = world.synced.load(Ordering::SeqCst);
    let seed = below(8);
    let after = World { disk: world.disk.crash(PowerCut { seed }), ..world.clone() };
    after.factory.crash(seed);
    // The topology is the store's own by now.
    let store = after.open_with(Options::new(), Background::Off);
    let found = whole(store.get_many(KEYS).unwrap().iter().map(|value| number(value.as_deref())));
    assert!((synced..=newest).contains(&found), "{synced} were synced, {found} came back");
}

fn visibility() {
    let world = World::new();
    let store = world.open(Background::Off);
    let threads = [writing(&world, &store, 3), reading(&world, &store, 4), {
        let store = store.clone();
        begin(move || {
            for _ in 0..2 {
                testing::freeze(&store);
                testing::flush_oldest(&store).unwrap();
            }
        })
    }];
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    world.read(&store, 3);
    check_recovery(&world, 3);
}

#[test]
fn what_is_acknowledged_is_seen_whatever_is_flushed() {
    explore("commits, reads, memtable rotation and flush", visibility);
}

/// Little but what touches the lists of memtables, many times in one store.
fn rotation() {
    let world = World::new();
    let store = world.open(Background::Off);
    let writer = {
        let (world, store) = (world.clone(), store.clone());
        begin(move || {
            for n in 1..=16u64 {
                let mut batch = WriteBatch::new();
                batch.insert(KEYS[0], n.to_le_bytes());
                store.commit_with(batch, Durability::Memory).unwrap();
                world.acknowledged.store(n, Ordering::SeqCst);
                let found = number(store.get(KEYS[0]).unwrap().as_deref());
                assert_eq!(found, n, "its own write is not seen");
            }
        })
    };
    let reader = {
        let (world, store) = (world.clone(), store.clone());
        begin(move || {
            for _ in 0..24 {
                let floor = world.acknowledged.load(Ordering::SeqCst);
                let found = number(store.get(KEYS[0]).unwrap().as_deref());
                assert!(found >= floor, "{floor} was there before, {found} is read");
            }
        })
    };
    let flusher = {
        let store = store.clone();
        begin(move || {
            for _ in 0..6 {
                testing::freeze(&store);
                testing::flush_oldest(&store).unwrap();
            }
        })
    };
    [writer, reader, flusher].into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_record_is_seen_while_its_table_goes_from_list_to_list() {
    explore("reads of one key, memtable rotation", rotation);
}

fn closing() {
    let world = World::new();
    let store = world.open(Background::Off);
    let writer = writing(&world, &store, 3);
    let closer = {
        let store = store.clone();
        begin(move || store.close().unwrap())
    };
    let flusher = {
        let store = store.clone();
        begin(move || {
            if let Err(error) = store.flush() {
                assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
            }
        })
    };
    [writer, closer, flusher].into_iter().for_each(|thread| thread.join().unwrap());
    drop(store);
    let acknowledged = world.acknowledged.load(Ordering::SeqCst);
    world.synced.store(acknowledged, Ordering::SeqCst);
    check_recovery(&world, 3);
}

#[test]
fn a_close_beside_writers_and_a_flush_loses_nothing() {
    explore("close beside a writer and a flush", closing);
}

fn moving() {
    let world = World::new();
    let store = world.open(Background::Off);
    world.write(&store, 1);
    store.flush().unwrap();
    let plan = store.plan().add_shard(ShardOptions::new("/store/more")).preview().unwrap();
    let threads = [reading(&world, &store, 3), {
        let (world, store) = (world.clone(), store.clone());
        begin(move || {
            let mut batch = WriteBatch::new();
            for key in KEYS {
                batch.insert(key, 2u64.to_le_bytes());
            }
            store.commit_with(batch, Durability::Sync).unwrap();
            world.acknowledged.store(2, Ordering::SeqCst);
            world.synced.store(2, Ordering::SeqCst);
        })
    }];
    store.apply(plan).unwrap();
    let mut steps = 0;
    while testing::change_step(&store).unwrap() {
        thread::yield_now();
        steps += 1;
        assert!(steps < 500, "the change does not get on");
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    world.read(&store, 3);
    check_recovery(&world, 2);
}

#[test]
fn the_epoch_flips_under_readers_and_a_writer() {
    explore("a shard joins: copies, epoch flip, grace, sweep", moving);
}

fn background() {
    let world = World::new();
    let store = world.open(Background::On);
    let threads = [writing(&world, &store, 2), reading(&world, &store, 2)];
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    store.flush().unwrap();
    world.read(&store, 3);
    store.close().unwrap();
    drop(store);
    world.synced.store(2, Ordering::SeqCst);
    check_recovery(&world, 2);
}

#[test]
fn a_store_with_all_its_threads_serves_and_closes() {
    explore("a store with its background threads and workers", background);
}
