//! Shards that cannot be written to at an opening: what was readable before it is readable after it.

use super::*;
use annulus::ErrorKind;

const BUDGET: u64 = 16 << 20;

/// Writes to the store until it would take no more; nothing of it can be flushed.
fn fill(world: &mut World, first: &[u8]) {
    let limit: u64 = BUDGET / 2;
    for n in 0.. {
        let key = if n % 50 == 0 { first.to_vec() } else { format!("key/{:05}", n % 4000).into_bytes() };
        let value = format!("{n:>4000}").into_bytes();
        world.store.insert(&key, &value).unwrap();
        world.model.insert(key, value);
        let stats = world.store.stats().unwrap();
        if stats.memtable_bytes + stats.frozen_bytes >= limit {
            break;
        }
    }
    let error = world.store.flush().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

/// The process ends, and the store is opened again.
fn reopened(world: World, options: &Options, heal: impl Fn(&SimDisk)) -> World {
    let World { disk, factory, model, store, written, .. } = world;
    let disk = disk.kill();
    drop(store);
    heal(&disk);
    let store = open(&disk, &factory, options);
    World { disk, factory, options: options.clone(), model, store, written }
}

/// Every record is read, but for those that `lost` says.
fn check_but(world: &World, lost: impl Fn(&[u8]) -> bool) {
    for (key, value) in &world.model {
        match world.store.get(key) {
            Ok(found) => assert_eq!(found.as_deref(), Some(&value[..]), "{key:?}"),
            Err(error) => assert!(lost(key), "{key:?}: {error}"),
        }
    }
}

/// The one copy of a page is damaged, and what is written over it and others is as much as the memory takes.
#[test]
fn a_store_with_a_damaged_page_and_full_memory_opens_again() {
    let mut world = World::new(options(1, 1).memory_budget(BUDGET));
    for n in 0..100 {
        let key = format!("damaged/{n:03}").into_bytes();
        world.store.insert(&key, "before").unwrap();
        world.model.insert(key, b"before".to_vec());
    }
    world.store.flush().unwrap();
    let over = b"damaged/050";
    let page = world.factory.corrupt_page(ShardId(0), &[&[0; 4], &over[..]].concat(), 2);
    let lost = |key: &[u8]| key != over && page.contains(&[&[0; 4], key].concat());
    assert_eq!(world.model.keys().filter(|key| lost(key)).count(), 4);
    fill(&mut world, over);
    check_but(&world, lost);
    for _ in 0..2 {
        let options = world.options.clone();
        world = reopened(world, &options, |_| ());
        check_but(&world, lost);
        assert!(matches!(world.health(0), Health::Degraded(_)), "{:?}", world.health(0));
        world.store.flush().unwrap_err();
    }
    world.factory.heal(ShardId(0));
    world.heal();
    world.store.flush().unwrap();
    check_but(&world, |_| false);
}

/// The disk of every copy is full.
#[test]
fn a_store_whose_shards_are_full_and_whose_memory_is_opens_again() {
    for (shards, replicas) in [(1, 1), (2, 2)] {
        let mut world = World::new(options(shards, replicas).memory_budget(BUDGET));
        let full = |disk: &SimDisk| {
            let seal = |path: &Path| path.to_string_lossy().contains("SEAL");
            let fault = Fault::on(Operation::Write).at(seal).error(std::io::ErrorKind::StorageFull);
            disk.inject(fault);
        };
        full(&world.disk);
        fill(&mut world, b"first");
        for _ in 0..2 {
            let options = world.options.clone();
            world = reopened(world, &options, full);
            check_but(&world, |_| false);
            assert!(matches!(world.health(0), Health::Degraded(_)), "{:?}", world.health(0));
        }
        // With less memory as well: what is there has to be somewhere.
        let less = options(shards, replicas).memory_budget(BUDGET / 2);
        world = reopened(world, &less, full);
        check_but(&world, |_| false);
        world.disk.heal();
        world.heal();
        world.store.flush().unwrap();
        check_but(&world, |_| false);
        world.check_copies();
    }
}
