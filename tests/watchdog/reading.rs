//! Who reads from a shard that hangs is answered in time: by another that has the key, or with an error where none has.

use super::*;
use annulus::ErrorKind;
use annulus::testing::Gate;

/// The shard's disk does not answer: neither who reads, nor who opens it again.
fn hang(world: &World, operation: Op) -> [Gate; 2] {
    [world.factory.hang(SHARD, operation), world.factory.hang(SHARD, Op::Open)]
}

fn let_go(world: &mut World, gates: &[Gate]) {
    let mut events = world.store.events();
    while events.try_next().is_some() {}
    gates.iter().for_each(Gate::release);
    world.wait_until_back(&mut events);
}

#[test]
fn who_reads_from_a_shard_that_hangs_is_answered_by_another() {
    for operation in [Op::Get, Op::Cursor] {
        let mut world = World::new();
        let gates = hang(&world, operation);
        world.check();
        world.assert_left_behind();
        world.go_on();
        let_go(&mut world, &gates);
    }
}

/// Several at once, each of whom waits by himself.
#[test]
fn many_keys_are_read_in_time_while_a_shard_hangs() {
    let mut world = World::new();
    let gates = hang(&world, Op::Get);
    let (store, model) = (world.store.clone(), world.model.clone());
    in_time("reading many", move || {
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let keys: Vec<&Vec<u8>> = model.keys().collect();
                    let found = store.get_many(&keys).unwrap();
                    assert!(
                        found
                            .iter()
                            .zip(model.values())
                            .all(|(found, value)| found.as_deref() == Some(value))
                    );
                });
            }
        });
    });
    let_go(&mut world, &gates);
}

#[test]
fn without_another_who_reads_is_told_that_the_shard_does_not_answer() {
    for operation in [Op::Get, Op::Cursor] {
        let mut world = World::of(1);
        let gates = hang(&world, operation);
        let (store, model, ring) = (world.store.clone(), world.model.clone(), world.store.ring());
        let lost = in_time("reading", move || {
            let mut lost = 0;
            for (key, value) in model {
                let read = match operation {
                    Op::Get => store.get(&key).map(|found| found.map(|value| value.to_vec())),
                    _ => store
                        .range(&key[..]..)
                        .next()
                        .transpose()
                        .map(|found| found.map(|(_, value)| value.to_vec())),
                };
                match read {
                    Ok(found) => assert_eq!(found, Some(value)),
                    Err(error) => {
                        let known = [ErrorKind::Unavailable, ErrorKind::Io].contains(&error.kind());
                        assert!(known && error.to_string().contains("shard 1"), "{error}");
                        assert!(operation != Op::Get || ring.preference_list(&key) == [SHARD]);
                        lost += 1;
                    }
                }
            }
            lost
        });
        assert!(lost > 0);
        world.assert_left_behind();
        let_go(&mut world, &gates);
    }
}

/// Whoever is still in it keeps nobody from closing the store, and opens it again.
#[test]
fn a_store_is_closed_while_somebody_reads_from_a_shard_that_hangs() {
    let mut world = World::new();
    let gates = hang(&world, Op::Get);
    let (store, keys) = (world.store.clone(), world.model.keys().cloned().collect::<Vec<_>>());
    let reads = std::thread::spawn(move || keys.iter().for_each(|key| drop(store.get(key))));
    assert!(gates[0].wait_for(1));
    let _ = world.close();
    in_time("a get of a store that was closed", move || reads.join()).unwrap();
    gates.iter().for_each(Gate::release);
    world.reopen();
    world.check();
}
