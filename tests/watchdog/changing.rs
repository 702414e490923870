//! Changes of the topology that are brought to an end while several shards hang.

use super::asking::HangingDisk;
use super::*;
use annulus::ShardOptions;

/// The first of those that join hangs while it is copied to, and the others, which are about to be sealed, from then on.
#[test]
fn those_that_a_change_brings_and_that_hang_are_waited_for_together_when_it_is_cancelled() {
    const FIRST: u32 = 3;
    const NEW: u32 = 12;
    let mut world = World::new();
    let copied_to = world.factory.hang(ShardId(FIRST), Op::Apply);
    let plan = (0..NEW)
        .fold(world.store.plan(), |plan, n| plan.add_shard(ShardOptions::new(format!("/mnt/new-{n}"))));
    let plan = plan.preview().unwrap().accept_problems();
    world.store.apply(plan).unwrap();
    let change = world.store.change().unwrap();
    assert!(copied_to.wait_for(1), "nothing was copied");
    let others = FIRST + 1..FIRST + NEW;
    let gates: Vec<_> = others.map(|shard| world.factory.hang(ShardId(shard), Op::Sync)).collect();
    let cancelling = std::thread::spawn(move || change.cancel());
    assert!(gates[0].wait_for(1), "nothing was sealed");
    let begun = Instant::now();
    world.write();
    world.flush();
    let took = begun.elapsed();
    in_time("cancelling", move || cancelling.join().unwrap()).unwrap();
    assert!(took < PATIENCE * 6, "a flush took {took:?}");
    assert!(gates.iter().all(|gate| gate.waiting() == 1));
    world.go_on();
    gates.iter().chain([&copied_to]).for_each(|gate| gate.release());
    world.go_on();
    assert!(world.store.change().is_none());
    assert!(world.store.health().unwrap().is_good(), "{:?}", world.store.health());
}

/// Those that gain are begun together, or not at all. One does not answer and is given up, and another hangs in a flush by then: it was begun, and
/// is not to be waited for to take that back.
#[test]
fn a_change_is_cancelled_and_the_store_closed_while_one_that_was_begun_for_it_hangs() {
    let (disk, factory) = (HangingDisk::new(), MemoryFactory::new());
    let store = open_on(Arc::new(disk.clone()), &factory, 1);
    let write = || (0..300_u32).for_each(|n| _ = store.insert(n.to_be_bytes(), b"value").unwrap());
    write();
    store.flush().unwrap();
    let dir = store.health().unwrap().shards[SHARD.0 as usize].path.clone();
    let mut events = store.events();
    disk.hang_renames(&dir.join("SEAL.tmp"));
    let change = store.apply(store.plan().set_replication_factor(2).preview().unwrap()).unwrap();
    disk.wait_until_it_hangs();
    let gate = factory.hang(ShardId(0), Op::Sync);
    write();
    let flushes = store.clone();
    let flushing = std::thread::spawn(move || flushes.flush());
    assert!(gate.wait_for(1), "nothing is sealed");
    wait_for(&mut events, |kind| matches!(kind, EventKind::Offline { .. }));
    in_time("cancelling", move || change.cancel()).unwrap();
    let closes = store.clone();
    // Some of it is in the journal alone.
    in_time("closing", move || closes.close()).unwrap_err();
    disk.release();
    gate.release();
    // Whether it went on without both is a matter of how much the journal may keep.
    let _ = in_time("a flush", move || flushing.join().unwrap());
}
