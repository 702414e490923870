//! Changes of the topology that are brought to an end while several shards hang.

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
