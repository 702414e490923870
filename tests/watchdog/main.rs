//! Shards whose disks hang: with a limit to their patience the others go on without them, closing the store is not held up, and
//! they are taken back when they answer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod asking;
mod changing;
mod closing;
mod creating;
mod opening;
mod reading;
mod writing;

use annulus::testing::{self, Background, Disk, EngineOperation as Op, MemoryFactory, Seams, SimDisk};
use annulus::{EventKind, Events, Health, KeyspaceId, Options, ShardId, Store};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

const SHARD: ShardId = ShardId(1);
/// Longer than anything here takes that does not hang.
const LONG: Duration = Duration::from_secs(60);
/// Longer than a busy machine keeps a shard waiting that does not hang.
const PATIENCE: Duration = Duration::from_secs(1);

struct World {
    disk: SimDisk,
    factory: MemoryFactory,
    model: BTreeMap<Vec<u8>, Vec<u8>>,
    store: Store,
    replicas: usize,
    written: u32,
}

fn open(disk: &SimDisk, factory: &MemoryFactory, replicas: usize) -> Store {
    open_on(Arc::new(disk.clone()), factory, replicas)
}

fn open_on(disk: Arc<dyn Disk>, factory: &MemoryFactory, replicas: usize) -> Store {
    let options = Options::new()
        .shards(3)
        .replication_factor(replicas)
        .virtual_nodes(64)
        .memory_budget(8 << 20)
        .journal_segment_bytes(64 << 10)
        .shard_timeout(PATIENCE);
    let seams = Seams { disk, factory: Arc::new(factory.clone()), background: Background::On };
    testing::open(Path::new("/store"), &options, seams).unwrap()
}

/// Does something on a thread of its own; fails where that takes too long.
fn in_time<T: Send + 'static>(what: &str, f: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, outcome) = channel();
    std::thread::spawn(move || done.send(f()));
    outcome.recv_timeout(LONG).unwrap_or_else(|_| panic!("{what} hangs"))
}

impl World {
    fn new() -> World {
        World::of(2)
    }

    fn of(replicas: usize) -> World {
        let (disk, factory) = (SimDisk::new(5), MemoryFactory::new());
        let store = open(&disk, &factory, replicas);
        let mut world = World { disk, factory, model: BTreeMap::new(), store, replicas, written: 0 };
        world.write();
        world.flush();
        world
    }

    fn write(&mut self) {
        for _ in 0..300 {
            self.written += 1;
            let n = self.written;
            let key = (n.wrapping_mul(2_654_435_761) % 1000).to_be_bytes().to_vec();
            if n % 7 == 3 {
                self.store.remove(&key).unwrap();
                self.model.remove(&key);
            } else {
                let value = format!("value {n}").into_bytes();
                self.store.insert(&key, &value).unwrap();
                self.model.insert(key, value);
            }
        }
    }

    fn flush(&self) {
        let store = self.store.clone();
        in_time("a flush", move || store.flush()).unwrap();
    }

    fn check(&self) {
        let (store, model) = (self.store.clone(), self.model.clone());
        in_time("reading", move || {
            for (key, value) in &model {
                assert_eq!(store.get(key).unwrap().as_deref(), Some(&value[..]), "{key:?}");
            }
            let scanned = store.iter().map(|r| r.unwrap()).map(|(k, v)| (k.to_vec(), v.to_vec()));
            assert!(scanned.eq(model));
        });
    }

    /// Writes, flushes and reads while the shard hangs.
    fn go_on(&mut self) {
        for _ in 0..3 {
            self.write();
            self.flush();
            self.check();
        }
    }

    /// The same when the shard is no longer one of the store's.
    fn go_on_without_it(&mut self) {
        for _ in 0..3 {
            self.write();
            self.flush();
            self.check();
        }
        let health = self.store.health().unwrap();
        assert!(health.is_good() && health.shards.iter().all(|shard| shard.id != SHARD), "{health:?}");
    }

    fn health(&self) -> Health {
        self.store.health().unwrap().shards[SHARD.0 as usize].health.clone()
    }

    fn assert_left_behind(&self) {
        match self.health() {
            Health::Offline(cause) => assert!(cause.contains("has not answered"), "{cause}"),
            other => panic!("{other}"),
        }
    }

    /// Waits until the shard serves again, and looks at what it holds.
    fn wait_until_back(&mut self, events: &mut Events) {
        wait_for(events, |kind| matches!(kind, EventKind::Online));
        self.check();
        self.write();
        self.flush();
        assert!(self.store.health().unwrap().is_good(), "{:?}", self.store.health());
        let ring = self.store.ring();
        for shard in self.store.health().unwrap().shards {
            let held = testing::held_by(&self.store, KeyspaceId(0), shard.id).unwrap();
            let due = self.model.keys().filter(|key| ring.preference_list(key).contains(&shard.id));
            assert!(held.iter().map(|(key, _)| key).eq(due), "shard {}", shard.id);
        }
        self.check();
    }

    fn close(&self) -> annulus::Result<()> {
        let store = self.store.clone();
        in_time("closing", move || store.close())
    }

    fn reopen(&mut self) {
        let (disk, factory, replicas) = (self.disk.clone(), self.factory.clone(), self.replicas);
        self.store = in_time("opening", move || open(&disk, &factory, replicas));
    }
}

/// Waits for an event of the shard.
fn wait_for(events: &mut Events, wanted: impl Fn(&EventKind) -> bool) -> EventKind {
    loop {
        let event = events.next_within(LONG).expect("nothing happens");
        if event.shard == Some(SHARD) && wanted(&event.kind) {
            return event.kind;
        }
    }
}

#[test]
fn a_flush_goes_on_without_a_shard_that_hangs_in_it() {
    for operation in [Op::Apply, Op::Sync] {
        let mut world = World::new();
        let gate = world.factory.hang(SHARD, operation);
        world.write();
        world.flush();
        assert_eq!(gate.waiting(), 1);
        world.assert_left_behind();
        world.go_on();
        assert_eq!(gate.waiting(), 1, "it is not called again while it hangs");
        let mut events = world.store.events();
        while events.try_next().is_some() {}
        gate.release();
        world.wait_until_back(&mut events);
    }
}

/// Nobody waits for that flush, so that workers take turns: those that come after the one that hangs get theirs all the same.
#[test]
fn a_flush_in_the_background_is_not_held_up_by_the_turn_of_a_shard_that_hangs() {
    let mut world = World::new();
    let mut events = world.store.events();
    let gate = world.factory.hang(SHARD, Op::Apply);
    for n in 0..40_u32 {
        let (key, value) = (n.to_be_bytes().to_vec(), vec![n as u8; 64 << 10]);
        world.store.insert(&key, &value).unwrap();
        world.model.insert(key, value);
    }
    wait_for(&mut events, |kind| matches!(kind, EventKind::Offline { .. }));
    world.assert_left_behind();
    let begun = Instant::now();
    loop {
        let health = world.store.health().unwrap();
        let mut others = health.shards.iter().filter(|shard| shard.id != SHARD);
        assert!(others.clone().all(|shard| shard.health == Health::Online), "{health:?}");
        let all_went_on = others.all(|shard| shard.applied > health.shards[SHARD.0 as usize].applied);
        // Longer than it takes to give up those that wait.
        if all_went_on && begun.elapsed() > PATIENCE * 3 {
            break;
        }
        assert!(begun.elapsed() < LONG, "{health:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    world.check();
    gate.release();
    world.wait_until_back(&mut events);
}

#[test]
fn a_store_is_closed_while_a_shard_hangs_in_a_flush() {
    for operation in [Op::Apply, Op::Sync] {
        let mut world = World::new();
        let gate = world.factory.hang(SHARD, operation);
        world.write();
        world.flush();
        world.go_on();
        // It says that not all could be released.
        assert_eq!(world.close().unwrap_err().kind(), annulus::ErrorKind::Unavailable);
        assert_eq!(gate.waiting(), 1);
        world.reopen();
        world.check();
        let mut events = world.store.events();
        gate.release();
        world.go_on();
        world.wait_until_back(&mut events);
    }
}

#[test]
fn a_shard_that_hangs_while_it_is_opened_again_is_waited_for_by_nobody() {
    let mut world = World::new();
    let mut events = world.store.events();
    let gate = world.factory.hang(SHARD, Op::Open);
    world.factory.fail_times(SHARD, Op::Apply, 1);
    world.write();
    world.flush();
    assert!(gate.wait_for(1));
    world.go_on();
    let cause = wait_for(&mut events, |kind| matches!(kind, EventKind::NotHealed { .. }));
    assert!(
        matches!(&cause, EventKind::NotHealed { cause } if cause.contains("has not answered")),
        "{cause:?}"
    );
    assert_eq!(gate.waiting(), 1);
    let _ = world.close();
    world.reopen();
    world.check();
    let mut events = world.store.events();
    world.go_on();
    gate.release();
    world.wait_until_back(&mut events);
}

#[test]
fn a_store_opens_without_a_shard_that_hangs() {
    let mut world = World::new();
    world.close().unwrap();
    let gate = world.factory.hang(SHARD, Op::Open);
    world.reopen();
    assert_eq!(gate.waiting(), 1);
    world.assert_left_behind();
    world.go_on();
    let mut events = world.store.events();
    gate.release();
    world.wait_until_back(&mut events);
}

#[test]
fn a_shard_that_hangs_while_it_is_begun_anew_holds_up_nobody() {
    let mut world = World::new();
    let mut events = world.store.events();
    let gate = world.factory.hang(SHARD, Op::Open);
    let store = world.store.clone();
    let asked = std::thread::spawn(move || store.rebuild(SHARD));
    assert!(gate.wait_for(1));
    world.go_on();
    let refused = in_time("what was asked for", move || asked.join().unwrap()).unwrap_err();
    assert!(refused.to_string().contains("has not answered"), "{refused}");
    world.assert_left_behind();
    world.go_on();
    gate.release();
    world.wait_until_back(&mut events);
}

#[test]
fn a_shard_that_hangs_while_it_is_closed_holds_up_nobody() {
    // In the middle of being healed.
    let mut world = World::new();
    let mut events = world.store.events();
    let gate = world.factory.hang(SHARD, Op::Close);
    world.factory.fail_times(SHARD, Op::Apply, 1);
    world.write();
    world.flush();
    assert!(gate.wait_for(1));
    world.go_on();
    gate.release();
    world.wait_until_back(&mut events);
    // And with the store, twice.
    for _ in 0..2 {
        let gate = world.factory.hang(SHARD, Op::Close);
        let closed = world.close().unwrap_err();
        assert!(closed.to_string().contains("has not answered"), "{closed}");
        assert!(gate.wait_for(1));
        world.reopen();
        world.check();
        let mut events = world.store.events();
        gate.release();
        world.go_on();
        world.wait_until_back(&mut events);
    }
}

/// What a shard holds of the model, as shards have it.
fn held(world: &World, shard: ShardId) -> Vec<Vec<u8>> {
    let ring = world.store.ring();
    let owned = world.model.keys().filter(|key| ring.preference_list(key).contains(&shard));
    owned.map(|key| [&[0; 4][..], key].concat()).collect()
}

#[test]
fn a_shard_that_hangs_while_it_is_filled_holds_up_nobody() {
    let mut world = World::new();
    let mut events = world.store.events();
    let gate = world.factory.hang(SHARD, Op::Apply);
    let store = world.store.clone();
    let asked = std::thread::spawn(move || store.rebuild(SHARD));
    assert!(gate.wait_for(1), "nothing was copied");
    world.go_on();
    let refused = in_time("what was asked for", move || asked.join().unwrap()).unwrap_err();
    assert!(refused.to_string().contains("has not answered"), "{refused}");
    world.assert_left_behind();
    world.go_on();
    assert_eq!(gate.waiting(), 1, "it is not called again while it hangs");
    gate.release();
    world.wait_until_back(&mut events);
}

#[test]
fn another_shard_is_filled_without_one_that_hangs_while_it_is_copied_from() {
    let mut world = World::of(3);
    let mut events = world.store.events();
    // Whichever is copied from: of these two one is.
    let gate = world.factory.hang(SHARD, Op::Versions);
    let store = world.store.clone();
    let asked = std::thread::spawn(move || store.rebuild(ShardId(2)));
    assert!(gate.wait_for(1), "nothing was copied");
    world.go_on();
    in_time("what was asked for", move || asked.join().unwrap()).unwrap();
    world.assert_left_behind();
    world.go_on();
    gate.release();
    world.wait_until_back(&mut events);
}

#[test]
fn a_shard_that_hangs_beside_itself_is_left_behind_with_its_new_engine() {
    let mut world = World::new();
    let mut events = world.store.events();
    let gate = world.factory.hang(SHARD, Op::Apply);
    let store = world.store.clone();
    let asked = std::thread::spawn(move || store.compact(SHARD));
    assert!(gate.wait_for(1), "nothing was copied");
    world.go_on();
    in_time("what was asked for", move || asked.join().unwrap()).unwrap_err();
    world.assert_left_behind();
    world.go_on();
    gate.release();
    world.wait_until_back(&mut events);
}

#[test]
fn a_shard_that_hangs_while_it_is_mended_holds_up_nobody() {
    for operation in [Op::Verify, Op::Damaged, Op::Replace] {
        let mut world = World::new();
        let mut events = world.store.events();
        let gate = world.factory.hang(SHARD, operation);
        world.factory.corrupt(SHARD, &held(&world, SHARD)[3]);
        let store = world.store.clone();
        let asked = std::thread::spawn(move || store.repair(SHARD));
        assert!(gate.wait_for(1), "{operation:?} was not called");
        world.go_on();
        in_time("what was asked for", move || asked.join().unwrap()).unwrap_err();
        // Or a flush has met the same damage before.
        assert!(matches!(world.health(), Health::Offline(_)), "{}", world.health());
        world.go_on();
        gate.release();
        world.wait_until_back(&mut events);
    }
}

#[test]
fn a_shard_that_hangs_in_a_scrub_holds_up_nobody() {
    for operation in [Op::Verify, Op::Versions, Op::Recount, Op::Replace] {
        let mut world = World::new();
        let mut events = world.store.events();
        let gate = world.factory.hang(SHARD, operation);
        // A difference, so that it is counted, and put right.
        world.factory.forge(SHARD, &held(&world, SHARD)[3], &[]);
        let _scrub = world.store.scrub().unwrap();
        assert!(gate.wait_for(1), "{operation:?} was not called");
        // The record that it lacks is read from the other one meanwhile.
        wait_for(&mut events, |kind| matches!(kind, EventKind::Offline { .. }));
        world.go_on();
        world.assert_left_behind();
        gate.release();
        wait_for(&mut events, |kind| matches!(kind, EventKind::Online));
        world.store.rebuild(SHARD).unwrap();
        world.go_on();
    }
}

#[test]
fn a_shard_that_hangs_while_a_keyspace_is_purged_holds_up_nobody() {
    let mut world = World::new();
    let mut events = world.store.events();
    let keyspace = world.store.keyspace("dropped").unwrap();
    for n in 0..100u32 {
        keyspace.insert(n.to_be_bytes(), b"gone soon").unwrap();
    }
    world.flush();
    let gate = world.factory.hang(SHARD, Op::Apply);
    world.store.drop_keyspace("dropped").unwrap();
    assert!(gate.wait_for(1), "nothing was purged");
    world.go_on();
    world.assert_left_behind();
    gate.release();
    world.wait_until_back(&mut events);
}

#[test]
fn a_shard_that_hangs_while_it_joins_holds_up_nobody() {
    let mut world = World::new();
    let gate = world.factory.hang(ShardId(3), Op::Apply);
    let plan = world.store.plan().add_shard(annulus::ShardOptions::new("/added")).preview().unwrap();
    let _change = world.store.apply(plan).unwrap();
    assert!(gate.wait_for(1), "nothing was copied");
    world.go_on();
    let joining = world.store.health().unwrap().shards[3].health.clone();
    assert!(matches!(&joining, Health::Offline(cause) if cause.contains("has not answered")), "{joining}");
    gate.release();
    let ended = || {
        let store = world.store.clone();
        in_time("the change", move || store.change().map_or(Ok(()), |change| change.wait().map(drop)))
    };
    // It says why it could not go on for a while.
    while ended().is_err() {
        std::thread::yield_now();
    }
    world.go_on();
    assert!(world.store.health().unwrap().is_good(), "{:?}", world.store.health());
}

/// A shard whose disk hangs is replaced by one on another: the change ends while the old one still hangs, and so does what comes
/// after it.
#[test]
fn a_shard_that_hangs_is_replaced() {
    let mut world = World::new();
    let gate = world.factory.hang(SHARD, Op::Apply);
    world.write();
    world.flush();
    world.assert_left_behind();
    let new = annulus::ShardOptions::new("/mnt/new");
    let store = world.store.clone();
    let change = in_time("beginning", move || {
        store.apply(store.plan().replace_shard(SHARD, new).preview().unwrap()).unwrap()
    });
    assert_eq!(change.wait_for(LONG).unwrap(), Some(annulus::Phase::Completed));
    assert_eq!(gate.waiting(), 1, "it hangs no more");
    world.go_on_without_it();
    let plan = world.store.plan().set_replication_factor(3).preview().unwrap();
    let change = world.store.apply(plan).unwrap();
    assert_eq!(change.wait_for(LONG).unwrap(), Some(annulus::Phase::Completed));
    world.go_on_without_it();
    let _ = world.close();
    gate.release();
}

/// A disk that hangs while a shard is made on it costs the change, and nobody else anything.
#[test]
fn a_shard_that_hangs_while_it_is_made_holds_up_nobody_for_long() {
    let mut world = World::new();
    let new = ShardId(3);
    let gate = world.factory.hang(new, Op::Open);
    let plan = world.store.plan().add_shard(annulus::ShardOptions::new("/mnt/new")).preview().unwrap();
    let store = world.store.clone();
    let error = in_time("beginning", move || store.apply(plan).unwrap_err());
    assert!(error.to_string().contains("has not answered"), "{error}");
    assert_eq!(gate.waiting(), 1);
    world.go_on();
    let store = world.store.clone();
    in_time("making a keyspace", move || drop(store.keyspace("another").unwrap()));
    // What is left of it is in the way of who wants to make a shard there until it answers, and of nobody else.
    let again = || world.store.plan().add_shard(annulus::ShardOptions::new("/mnt/new")).preview().unwrap();
    assert_eq!(world.store.apply(again()).unwrap_err().kind(), annulus::ErrorKind::Busy);
    let plan = world.store.plan().set_replication_factor(3).preview().unwrap();
    let change = world.store.apply(plan).unwrap();
    assert_eq!(change.wait_for(LONG).unwrap(), Some(annulus::Phase::Completed));
    gate.release();
    world.factory.heal(new);
    let change = (0..600).find_map(|_| {
        std::thread::sleep(Duration::from_millis(100));
        world.store.apply(again()).ok()
    });
    assert_eq!(change.unwrap().wait_for(LONG).unwrap(), Some(annulus::Phase::Completed));
    world.check();
    world.close().unwrap();
}

/// A shard that has left is closed in the background, and its disk may hang in that.
#[test]
fn a_shard_that_hangs_while_it_leaves_holds_up_nobody() {
    let mut world = World::new();
    let gate = world.factory.hang(SHARD, Op::Close);
    let plan = world.store.plan().drain_shard(SHARD).preview().unwrap();
    let change = world.store.apply(plan).unwrap();
    while gate.waiting() == 0 {
        std::thread::sleep(Duration::from_millis(10));
    }
    world.go_on_without_it();
    assert_eq!(change.wait_for(LONG).unwrap(), Some(annulus::Phase::Completed));
    let _ = world.close();
    gate.release();
}

/// A disk that takes long to make a segment of the journal keeps nothing in memory that is to be handed over soon.
#[test]
fn what_waits_in_memory_is_handed_over_while_a_segment_is_made() {
    let (disk, factory) = (SimDisk::new(5), MemoryFactory::new());
    let (hold, held) = channel::<()>();
    let (held, holds) = (std::sync::Mutex::new(held), std::sync::atomic::AtomicBool::new(false));
    disk.watch(move |_| {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        let makes = ["annulus-segment", "annulus-journal"].contains(&name.as_str());
        // Whichever comes first: there is nothing to be handed over yet.
        if makes && !holds.swap(true, std::sync::atomic::Ordering::SeqCst) {
            let _ = held.lock().unwrap().recv();
        }
    });
    let store = open(&disk, &factory, 2);
    // Let go before the store is, whose threads it would hold.
    let hold = hold;
    store.insert_with("key", b"a value that is looked for", annulus::Durability::Memory).unwrap();
    let looked = disk.clone();
    in_time("handing over", move || {
        let is_there = |bytes: &[u8]| bytes.windows(26).any(|part| part == b"a value that is looked for");
        while !looked.files().iter().any(|(_, bytes)| is_there(bytes)) {
            std::thread::yield_now();
        }
    });
    drop(hold);
    store.close().unwrap();
}
