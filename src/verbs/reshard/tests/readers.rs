//! Who reads by an older placement, while what it names is to go.

use super::*;

/// A reader that took its bearings before the new placement came, and asks an old owner after it: what it asks for is still
/// there, and its shard open, whenever it began.
#[test]
fn nothing_is_removed_while_somebody_reads_by_an_older_placement() {
    for (begun, replicas) in [(false, 1), (true, 1), (false, 2), (true, 2)] {
        for drained in [true, false] {
            let world = World::new();
            let (store, content) = world.filled(replicas);
            let plan = match drained {
                true => store.plan().drain_shard(LAST),
                false => store.plan().add_shard(ShardOptions::new("/mnt/new").weight(20.0)),
            };
            let plan = plan.preview().unwrap().accept_problems();
            // A key that leaves the shard.
            let moved = |node| plan.moves().iter().any(|m| m.virtual_node == node && m.lost.contains(&LAST));
            let is_it = |key: &Vec<u8>| {
                store.ring().preference_list(key)[0] == LAST && moved(store.ring().virtual_node(key))
            };
            let key = content.keys().find(|key| is_it(key)).unwrap().clone();
            if begun {
                store.apply(plan.clone()).unwrap();
            }
            world.gates.shut(LAST, At::Get);
            std::thread::scope(|scope| {
                let reader = scope.spawn(|| store.get(&key).unwrap());
                world.gates.arrived(LAST, At::Get);
                if !begun {
                    store.apply(plan).unwrap();
                }
                step_to(&store, Phase::Cleaning);
                for _ in 0..100 {
                    assert_eq!(step(state(&store)).unwrap(), Step::Waiting);
                }
                world.gates.open(LAST, At::Get);
                assert_eq!(reader.join().unwrap().as_deref(), Some(&b"first"[..]));
            });
            settle(&store);
            check_reads(&store, &content);
            check_placed(&store, &content);
        }
    }
}

/// The same for one who began while the change before was being cleaned up after.
#[test]
fn a_reader_of_the_change_before_the_last_is_waited_for() {
    let world = World::new();
    let (store, content) = world.filled(1);
    store.apply(store.plan().add_shard(ShardOptions::new("/mnt/new")).preview().unwrap()).unwrap();
    step_to(&store, Phase::Cleaning);
    let key = key_of(&store, LAST);
    world.gates.shut(LAST, At::Get);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| store.get(&key).unwrap());
        world.gates.arrived(LAST, At::Get);
        // It reads by the placement that serves: the change comes to its end, or waits for it.
        for _ in 0..100 {
            testing::change_step(&store).unwrap();
        }
        if store.change().is_none() {
            drain(&store, LAST);
            step_to(&store, Phase::Cleaning);
            for _ in 0..100 {
                testing::change_step(&store).unwrap();
            }
        }
        world.gates.open(LAST, At::Get);
        assert_eq!(reader.join().unwrap().as_deref(), Some(&b"first"[..]));
    });
    settle(&store);
    check_reads(&store, &content);
}

/// A scan looks into the memtables, and the placement changes before it has read the shards; what it comes back to lies by
/// the new one.
#[test]
fn a_scan_begins_its_chunk_again_when_the_placement_has_changed() {
    let world = World::new();
    let (store, mut content) = world.filled(2);
    store
        .apply(store.plan().add_shard(ShardOptions::new("/mnt/new")).drain_shard(LAST).preview().unwrap())
        .unwrap();
    while state(&store).manifest.lock().change.is_some() && !state(&store).change.mover.lock().compared {
        testing::change_step(&store).unwrap();
    }
    // In memory when the scan looks, and on its way to the new owners alone when it looks again.
    stir(&store, &mut content, "second");
    (KEYS..KEYS + 50).for_each(|n| put(&store, &mut content, n, "new"));
    for reverse in [false, true] {
        let cover = {
            let layout = state(&store).layout();
            let cover = state(&store).cover(&layout, &[]).unwrap();
            layout.shards[cover[0]].id
        };
        world.gates.shut(cover, At::Scan);
        let found: Vec<_> = std::thread::scope(|scope| {
            let scan = || -> Vec<_> {
                let items = store.iter();
                let items: Vec<_> = if reverse { items.rev().collect() } else { items.collect() };
                items.into_iter().map(|item| item.unwrap()).map(|(k, v)| (k.to_vec(), v.to_vec())).collect()
            };
            let scan = scope.spawn(scan);
            world.gates.arrived(cover, At::Scan);
            if reverse {
                // The second time it is a shard that is clean now.
                testing::change_step(&store).unwrap();
            } else {
                step_to(&store, Phase::Cleaning);
                store.flush().unwrap();
            }
            world.gates.open_failing(cover, At::Scan);
            scan.join().unwrap()
        });
        let mut expected: Vec<_> = content.iter().map(|(k, (v, _))| (k.clone(), v.clone())).collect();
        if reverse {
            expected.reverse();
        }
        assert_eq!(found.len(), expected.len());
        assert!(found == expected);
    }
    settle(&store);
    check_reads(&store, &content);
    check_placed(&store, &content);
}

/// A shard that has left and is still waited for is released with the store.
#[test]
fn a_shard_that_has_left_is_closed_with_the_store() {
    let world = World::new();
    let (store, content) = world.filled(1);
    drain(&store, LAST);
    let place = store.topology().shards.into_iter().find(|shard| shard.id == LAST).unwrap().path;
    step_to(&store, Phase::Cleaning);
    store.close().unwrap();
    let again = world.open(Options::new());
    again.drop_shard(LAST).unwrap();
    again.apply(again.plan().add_shard(ShardOptions::new(place)).preview().unwrap()).unwrap();
    settle(&again);
    check_reads(&again, &content);
    check_placed(&again, &content);
    drop(store);
}

/// A shard is given so many records at once, and so the versions of one key in two parts now and then.
#[test]
fn a_scan_finds_its_versions_where_records_are_handed_over_in_several_runs() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new();
    let sled = Seams {
        disk: Arc::new(RealDisk),
        factory: Arc::new(SledFactory::default()),
        background: Background::Off,
    };
    let options = Options::new().shards(1).replication_factor(1).virtual_nodes(16);
    let on_sled = testing::open(&dir.path().join("store"), &options, sled).unwrap();
    for (store, new) in [(world.open(options), "/mnt/new".into()), (on_sled, dir.path().join("new"))] {
        let count = 12_000;
        let (mut old, mut content) = (Content::new(), Content::new());
        (0..count).for_each(|n| put(&store, &mut old, n, "first"));
        store.flush().unwrap();
        content.clone_from(&old);
        let mut scan = store.iter();
        let first = scan.next().unwrap().unwrap();
        // Now and then a key has one version, so that runs begin at either of two.
        (0..count).filter(|n| n % 5 != 0).for_each(|n| put(&store, &mut content, n, "second"));
        store.flush().unwrap();
        let plan = store.plan().add_shard(ShardOptions::new(new)).drain_shard(ShardId(0));
        store.apply(plan.preview().unwrap()).unwrap();
        settle(&store);
        let found: Vec<_> = std::iter::once(first).chain(scan.map(|item| item.unwrap())).collect();
        assert_eq!(found.len(), old.len());
        assert!(found.iter().all(|(_, value)| value == "first"));
        check_reads(&store, &content);
        check_placed(&store, &content);
    }
}
