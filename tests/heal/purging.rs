//! Dropped keyspaces leave the shards part by part, and everything else goes on in between.

use super::*;
use annulus::{KeyspaceId, ShardOptions};

const DROPPED: KeyspaceId = KeyspaceId(1);

impl World {
    /// A store with a keyspace that has been dropped, and is yet to be purged.
    fn with_a_dropped_keyspace(options: Options) -> World {
        let mut world = World::new(options);
        world.write(300);
        let dropped = world.store.keyspace("dropped").unwrap();
        for n in 0..200_u32 {
            dropped.insert(n.to_be_bytes(), b"to be dropped").unwrap();
        }
        world.store.flush().unwrap();
        assert!(world.left() >= 200);
        world.store.drop_keyspace("dropped").unwrap();
        world
    }

    /// Records of the dropped keyspace, over all shards.
    fn left(&self) -> usize {
        let shards = self.store.health().unwrap().shards;
        shards.iter().map(|shard| testing::held_by(&self.store, DROPPED, shard.id).unwrap().len()).sum()
    }

    /// Purges so many parts, after each of which something is left.
    fn purge_parts(&self, count: u32) {
        for _ in 0..count {
            let before = self.left();
            assert!(testing::purge_part(&self.store).unwrap());
            assert!(0 < self.left() && self.left() < before, "{} of {before} are left", self.left());
        }
    }

    /// Nothing is left to be purged, nor to be kept for it.
    fn check_purged(&self) {
        assert!(!testing::purge_part(&self.store).unwrap());
        assert_eq!(self.left(), 0);
        self.check();
        self.check_copies();
    }
}

#[test]
fn a_keyspace_leaves_part_by_part_and_writes_are_flushed_in_between() {
    let mut world = World::with_a_dropped_keyspace(options(3, 2));
    for _ in 0..10 {
        world.purge_parts(3);
        world.write(20);
        world.store.flush().unwrap();
        world.check();
    }
    assert!(testing::purge(&world.store).unwrap());
    world.check_purged();
    world.reopen();
    world.check_purged();
}

/// What has been removed from all shards is not brought back by who copies, nor what is yet to be removed left behind.
#[test]
fn a_keyspace_that_is_purged_during_a_move_leaves_the_new_shard_too() {
    let mut world = World::with_a_dropped_keyspace(options(3, 2));
    world.purge_parts(20);
    let plan = world.store.plan().add_shard(ShardOptions::new("/added")).preview().unwrap();
    world.store.apply(plan).unwrap();
    let mut more = true;
    while more {
        more = testing::change_step(&world.store).unwrap();
        testing::purge_part(&world.store).unwrap();
        world.write(5);
    }
    testing::purge(&world.store).unwrap();
    world.check_purged();
}

#[test]
fn a_shard_that_is_away_or_rebuilt_in_the_middle_of_a_purge_is_purged_as_well() {
    let world = World::with_a_dropped_keyspace(options(3, 2));
    world.purge_parts(20);
    testing::fail_shard(&world.store, ShardId(1));
    let count = || testing::held_by(&world.store, DROPPED, ShardId(0)).unwrap().len();
    let left = count();
    assert!(!testing::purge_part(&world.store).unwrap(), "it would bring its records back");
    assert_eq!(count(), left);
    world.heal();
    world.purge_parts(1);
    world.store.rebuild(ShardId(2)).unwrap();
    world.heal();
    world.purge_parts(1);
    world.store.compact(ShardId(0)).unwrap();
    world.steps(1);
    world.purge_parts(1);
    world.heal();
    world.purge_parts(1);
    testing::purge(&world.store).unwrap();
    world.check_purged();
}

#[test]
fn a_purge_that_a_kill_interrupts_is_ended_by_the_next_opening() {
    let mut world = World::with_a_dropped_keyspace(options(3, 2));
    world.purge_parts(20);
    world.kill();
    world.purge_parts(1);
    testing::purge(&world.store).unwrap();
    world.check_purged();
}

/// What a compaction's new engine has been given is synced piece by piece, and flushes and purges need not wait for that.
#[test]
fn a_disk_that_is_slow_to_sync_what_is_compacted_holds_up_no_turn() {
    let world = World::with_a_dropped_keyspace(options(3, 2));
    world.store.compact(ShardId(1)).unwrap();
    world.steps(1);
    let syncing = world.factory.hang(ShardId(1), EngineOperation::Sync);
    std::thread::scope(|scope| {
        let healing = scope.spawn(|| world.heal());
        assert!(syncing.wait_for(1), "nothing was synced");
        let removing = world.factory.hang(ShardId(0), EngineOperation::Apply);
        let purging = scope.spawn(|| testing::purge(&world.store).unwrap());
        assert!(removing.wait_for(1), "the sync has the turn to flush");
        removing.release();
        syncing.release();
        healing.join().unwrap();
        assert!(purging.join().unwrap());
    });
    assert!(world.saw(|kind| matches!(kind, EventKind::Compacted { .. })));
    world.check_purged();
}

/// A read that is slow meets a shard from which the keyspace has been removed meanwhile: that is no answer about the key.
#[test]
fn a_read_of_a_keyspace_that_is_dropped_meanwhile_does_not_find_it_empty() {
    let world = World::new(options(2, 2));
    let dropped = world.store.keyspace("dropped").unwrap();
    dropped.insert("key", b"value").unwrap();
    world.store.flush().unwrap();
    let gates = [ShardId(0), ShardId(1)].map(|shard| world.factory.hang(shard, EngineOperation::Get));
    std::thread::scope(|scope| {
        let read = scope.spawn(|| dropped.get("key"));
        while gates.iter().all(|gate| gate.waiting() == 0) {
            std::thread::yield_now();
        }
        world.store.drop_keyspace("dropped").unwrap();
        assert!(testing::purge(&world.store).unwrap());
        gates.iter().for_each(|gate| gate.release());
        assert_eq!(read.join().unwrap().unwrap_err().kind(), annulus::ErrorKind::NotFound);
    });
}

/// A shard that was away when it was written to last, and was brought up to date when it had been dropped, keeps what it had of it; who gains
/// copies by a change got the rest, and the purge waits for the change.
#[test]
fn what_is_left_of_a_dropped_keyspace_holds_up_no_change() {
    for away in [0, 1] {
        let mut world = World::new(options(2, 2));
        world.write(300);
        let dropped = world.store.keyspace("dropped").unwrap();
        for n in 0..50_u32 {
            dropped.insert(n.to_be_bytes(), b"on all").unwrap();
        }
        world.store.flush().unwrap();
        let plan = world.store.plan().add_shard(ShardOptions::new("/added")).preview().unwrap();
        let change = world.store.apply(plan).unwrap();
        while change.progress().phase != annulus::Phase::Copying || change.progress().bytes_copied == 0 {
            assert!(testing::change_step(&world.store).unwrap());
        }
        testing::fail_shard(&world.store, ShardId(away));
        for n in 0..100_u32 {
            dropped.insert(n.to_be_bytes(), b"newer").unwrap();
        }
        world.store.flush().unwrap();
        world.store.drop_keyspace("dropped").unwrap();
        world.heal();
        while testing::change_step(&world.store).unwrap() {}
        assert_eq!(change.progress().phase, annulus::Phase::Completed);
        assert!(testing::purge(&world.store).unwrap());
        world.check_purged();
    }
}
