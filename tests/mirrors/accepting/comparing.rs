//! Once something was given up nothing tells the shards any more what they lack of it: their replicas are compared, whatever comes between.

use super::*;

/// What was flushed last is in shard 0 alone, and the copy of the journal that is left does not have it. A scrub that was `under_way` has
/// compared those keys before.
fn differing(under_way: bool) -> World {
    let (mut world, mut store) = World::new(2);
    world.fill(&store, 0..50, "before");
    (0..100).for_each(|n| _ = world.insert(&store, &format!("z{n}"), &"behind them".repeat(3000)));
    store.flush().unwrap();
    if under_way {
        let scrub = store.scrub().unwrap();
        while scrub.progress().stage != "comparing replicas" {
            assert!(testing::scrub_step(&store).unwrap());
        }
        assert!(testing::scrub_step(&store).unwrap());
        assert!(scrub.progress().running && scrub.progress().report.records_compared > 50);
        store.close().unwrap();
        world.disk = world.disk.kill();
        store = world.open(&world.options).unwrap();
    }
    world.leave_b_behind();
    world.fill(&store, 50..54, "flushed to one");
    world.fail_seals(&[1], 0);
    let _ = store.flush();
    world.kill(store);
    world.take_a_away();
    world
}

#[test]
fn replicas_are_compared_after_an_acceptance_also_when_the_process_ends_before_that() {
    for killed in [false, true] {
        let mut world = differing(false);
        let mut store = world.open(&world.accepted()).unwrap();
        let held = |shard| testing::held_by(&store, KeyspaceId(0), ShardId(shard)).unwrap().len();
        assert!(held(0) > held(1));
        if killed {
            world.kill(store);
            store = world.open(&world.options).unwrap();
        }
        world.check(&store, &format!("killed: {killed}"));
        world.goes_on(store, &format!("killed: {killed}"));
    }
}

#[test]
fn a_scrub_that_is_under_way_when_a_copy_is_accepted_begins_again() {
    let mut world = differing(true);
    let store = world.open(&world.accepted()).unwrap();
    world.check(&store, "begun again");
    world.goes_on(store, "begun again");
}

/// Wherever the acceptance stops, and whether or not it has to be accepted once more.
#[test]
fn replicas_are_compared_wherever_an_acceptance_stops() {
    let lost = differing(false);
    let undisturbed = lost.fork();
    let before = undisturbed.disk.operations();
    drop(undisturbed.open(&undisturbed.accepted()).unwrap());
    let all = undisturbed.disk.operations() - before;
    let mut alone = 0;
    for stop in 0..all {
        let mut world = lost.fork();
        world.disk.stop_after(stop);
        let opened = world.open(&world.accepted());
        world.kill(opened);
        let store = match world.open(&world.options) {
            Ok(store) => {
                alone += 1;
                store
            }
            Err(_) => world.open(&world.accepted()).unwrap(),
        };
        world.check(&store, &format!("stopped at {stop} of {all}"));
    }
    assert!(alone > 0 && alone < all, "{alone} of {all}");
}

/// The journal is read to its end, and the shards have more than that.
#[test]
fn replicas_are_compared_wherever_the_acceptance_of_a_journal_that_ends_short_stops() {
    let (mut world, _) = World::new(2);
    (world.disk, world.factory) = (SimDisk::new(2), MemoryFactory::new());
    world.options = world.options.clone().journal_dirs([PathBuf::from("/a")]);
    let store = world.open(&world.options).unwrap();
    world.fill(&store, 0..50, "before");
    store.flush().unwrap();
    let older: Vec<_> = world.disk.files().into_iter().filter(|(path, _)| path.starts_with("/a")).collect();
    world.fill(&store, 50..54, "flushed to one");
    world.fail_seals(&[1], 0);
    let _ = store.flush();
    world.kill(store);
    // The directory is out of a backup.
    world.disk.remove_dir_all(Path::new("/a")).unwrap();
    put_back(&world.disk, &older);
    world.disk = world.disk.kill();
    let accepted = world.options.clone().accept_journal("/a");
    let undisturbed = world.fork();
    let before = undisturbed.disk.operations();
    drop(undisturbed.open(&accepted).unwrap());
    let all = undisturbed.disk.operations() - before;
    let mut alone = 0;
    for stop in 0..all {
        let mut world = world.fork();
        world.disk.stop_after(stop);
        let opened = world.open(&accepted);
        world.kill(opened);
        let store = match world.open(&world.options) {
            Ok(store) => {
                alone += 1;
                store
            }
            Err(_) => world.open(&accepted).unwrap(),
        };
        world.check(&store, &format!("stopped at {stop} of {all}"));
    }
    assert!(alone > 0 && alone < all, "{alone} of {all}");
}
