//! Changes that cannot begin, and shards that are begun, given up and opened again.

use super::*;

/// The disk fails while a change begins, and again while that is taken back: the change is rolled back all the same, and
/// never goes on with shards that were not made.
#[test]
fn a_change_that_could_not_begin_is_rolled_back_though_that_fails_at_first() {
    for replicas in [false, true] {
        for after in 0..60 {
            for times in 1..4 {
                let world = World::new();
                let (store, mut content) = world.filled(1);
                let plan = match replicas {
                    true => store.plan().set_replication_factor(2),
                    false => store.plan().drain_shard(LAST).add_shard(ShardOptions::new("/mnt/new")),
                };
                let plan = plan.preview().unwrap();
                let manifests = Fault::on_any_change().at(|path| path.to_string_lossy().contains("MANIFEST"));
                world.disk.inject(manifests.after(after / 4).times(times));
                let begun = store.apply(plan.clone());
                world.disk.heal();
                if begun.is_err() && store.insert(key(0), "later").is_err() {
                    // The manifest could not be made sure of: nothing more is promised.
                    continue;
                }
                put(&store, &mut content, 0, "later");
                settle(&store);
                check_reads(&store, &content);
                check_placed(&store, &content);
                if begun.is_err() {
                    assert!(store.ring().members().iter().any(|m| m.id == LAST));
                    store.apply(store.plan().set_replication_factor(3).preview().unwrap()).unwrap();
                    settle(&store);
                    check_placed(&store, &content);
                }
            }
        }
    }
}

/// Whoever has looked at the directory of a shard that is not made is not asked when another gets its number: it may hang.
#[test]
fn a_shard_that_cannot_be_made_leaves_nobody_behind_who_is_asked_for_the_next() {
    let world = World::new();
    let (store, _) = world.filled(1);
    use crate::disk::Disk as _;
    let path = Path::new("/mnt/new");
    world.disk.create_dir_all(path).unwrap();
    world.disk.replace(&path.join("IDENTITY"), b"not one").unwrap();
    let plan = |path: &str| store.plan().add_shard(ShardOptions::new(path)).preview().unwrap();
    store.apply(plan("/mnt/new")).unwrap_err();
    assert!(store.handle.state.change.mover.lock().beside.is_empty());
    store.apply(plan("/mnt/other")).unwrap();
    settle(&store);
}

/// The directory of a shard that was given up cannot be cleared at first.
#[test]
fn a_directory_that_could_not_be_cleared_is_tried_again() {
    let world = World::new();
    let (store, content) = world.filled(1);
    let plan = || store.plan().add_shard(ShardOptions::new("/mnt/new")).preview().unwrap();
    let change = store.apply(plan()).unwrap();
    change.cancel().unwrap();
    world.disk.inject(Fault::on_any_change().at(|path| path.starts_with("/mnt/new")).times(3));
    let left = || store.handle.state.manifest.lock().shards.iter().any(|entry| entry.id == ShardId(4));
    let failures = (0..10).take_while(|_| testing::change_step(&store).is_err() || left()).count();
    assert!((1..10).contains(&failures), "{failures}");
    assert_eq!(store.topology().shards.len(), 4);
    settle(&store);
    store.apply(plan()).unwrap();
    settle(&store);
    check_reads(&store, &content);
    check_placed(&store, &content);
}

/// The seals of all shards say that nobody is changing them: what begins says so, and whoever begins must end.
fn check_at_rest(world: &World, store: &Store) {
    for shard in &state(store).layout().shards {
        let seal = Seal::load(&world.disk, &shard.dir).unwrap().unwrap();
        assert!(!seal.applying, "the seal of shard {} says that it is being changed", shard.id);
    }
}

/// Of several shards that gain, one cannot be begun: the others are not left begun.
#[test]
fn a_shard_that_cannot_be_begun_leaves_no_other_begun() {
    for failing in ["/mnt/a", "/mnt/b"] {
        let world = World::new();
        let (store, content) = world.filled(2);
        let new = |path: &str| ShardOptions::new(path);
        store
            .apply(store.plan().add_shard(new("/mnt/a")).add_shard(new("/mnt/b")).preview().unwrap())
            .unwrap();
        world.disk.inject(
            Fault::on(crate::disk::Operation::Rename)
                .at(move |path| path.starts_with(failing) && path.to_string_lossy().contains("SEAL"))
                .times(1),
        );
        assert!((0..3).any(|_| testing::change_step(&store).is_err()), "{failing}");
        while testing::heal_step(&store).unwrap() {}
        settle(&store);
        store.flush().unwrap();
        check_at_rest(&world, &store);
        check_reads(&store, &content);
        check_placed(&store, &content);
    }
}

/// One of several shards that gain is opened again while records are copied: what the others have been given is sealed.
#[test]
fn a_shard_that_is_opened_again_leaves_no_other_begun() {
    let world = World::new();
    let (store, mut content) = world.filled(2);
    enlarge(&store, &mut content);
    let new = |path: &str| ShardOptions::new(path);
    store.apply(store.plan().add_shard(new("/mnt/a")).add_shard(new("/mnt/b")).preview().unwrap()).unwrap();
    assert!(testing::change_step(&store).unwrap());
    assert!(state(&store).change.mover.lock().begun, "it was copied in one step");
    let layout = state(&store).layout();
    let one = layout.shards.iter().find(|shard| shard.dir.starts_with("/mnt/a")).unwrap();
    state(&store).shard_failed(one, &Error::new(ErrorKind::Io, "its disk was away"));
    // Whoever holds it reads by it.
    drop(layout);
    while testing::heal_step(&store).unwrap() {}
    settle(&store);
    store.flush().unwrap();
    check_at_rest(&world, &store);
    check_reads(&store, &content);
    check_placed(&store, &content);
}

/// A shard that joins has as much memory as the others, also for what is set when it is opened.
#[test]
fn memory_is_shared_out_among_the_shards_that_there_are() {
    let world = World::new();
    let (store, _) = world.filled(2);
    let budget = 8 << 20;
    let equal = |shards: &[u32]| {
        let given: Vec<_> = shards.iter().map(|id| world.gates.given(ShardId(*id))).collect();
        let least = budget / 4 / shards.len() as u64;
        assert!(given.iter().all(|share| *share == given[0] && share.1 == least), "{given:?}");
    };
    equal(&[0, 1, 2, 3]);
    let plan = store.plan().add_shard(ShardOptions::new("/mnt/new")).preview().unwrap();
    store.apply(plan).unwrap();
    assert_eq!(world.gates.opened(ShardId(4)), budget / 2 / 5);
    equal(&[0, 1, 2, 3, 4]);
    settle(&store);
    drain(&store, LAST);
    settle(&store);
    equal(&[0, 1, 2, 4]);
}

/// Shards that serve are changed, too, when they gain copies: until that is sealed their figures are of before.
#[test]
fn the_seals_of_all_that_gain_say_that_they_are_being_changed() {
    let world = World::new();
    let (store, mut content) = world.filled(1);
    enlarge(&store, &mut content);
    let applying = || -> Vec<bool> {
        let shards = &state(&store).layout().shards;
        let seal = |dir| Seal::load(&world.disk, dir).unwrap().unwrap();
        shards.iter().map(|shard| seal(&shard.dir).applying).collect()
    };
    assert_eq!(applying(), [false; 4]);
    store.apply(store.plan().set_replication_factor(2).preview().unwrap()).unwrap();
    let mut seen = Vec::new();
    while testing::change_step(&store).unwrap() {
        seen.push(applying());
    }
    assert!(seen.iter().filter(|all| all == &&[true; 4]).count() > 3, "{seen:?}");
    assert_eq!(applying(), [false; 4]);
    check_placed(&store, &content);
}

/// What is left of a shard that could not be made is told from other shards by its number, which no other gets.
#[test]
fn the_number_of_a_shard_that_could_not_be_made_is_not_given_again() {
    let world = World::new();
    let (store, content) = world.filled(1);
    let plan = || store.plan().add_shard(ShardOptions::new("/mnt/new")).preview().unwrap();
    let new = |plan: &crate::plan::Plan| plan.shards().last().unwrap().id;
    assert_eq!(new(&plan()), ShardId(4));
    world.factory.fail(ShardId(4), MemoryOperation::Open);
    let before = state(&store).manifest.lock().generation;
    store.apply(plan()).unwrap_err();
    settle(&store);
    assert!(state(&store).manifest.lock().generation > before);
    assert_eq!(new(&plan()), ShardId(5));
    store.apply(plan()).unwrap();
    settle(&store);
    check_reads(&store, &content);
    check_placed(&store, &content);
}

/// By that it is paced.
#[test]
fn a_change_tells_how_much_it_has_copied() {
    let world = World::new();
    let (store, mut content) = world.filled(2);
    enlarge(&store, &mut content);
    let before = store.ring();
    store.apply(store.plan().add_shard(ShardOptions::new("/mnt/new")).preview().unwrap()).unwrap();
    let (mut copied, change) = (0, store.change().unwrap());
    let planned = change.progress().bytes_planned;
    while change.progress().phase == Phase::Copying {
        match step(state(&store)).unwrap() {
            // The first that is compared.
            Step::Worked(_) if change.progress().phase != Phase::Copying => {}
            Step::Worked(bytes) => copied += bytes,
            Step::NeedsFlush => store.flush().unwrap(),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(copied, change.progress().bytes_copied);
    settle(&store);
    let (after, mut gained) = (store.ring(), 0);
    for (key, (value, _)) in &content {
        let had = before.preference_list(key);
        let new = after.preference_list(key).iter().filter(|shard| !had.contains(shard)).count();
        // Before the key the engines have the number of the keyspace.
        gained += new * (4 + key.len() + value.len());
    }
    assert_eq!(copied, gained as u64);
    // An estimate, by what the shards hold.
    assert!((copied / 5 * 4..copied / 4 * 5).contains(&planned), "{planned} of {copied}");
    check_reads(&store, &content);
}

/// It is tried again twice a second: what was looked through in vain rests as long as nothing has changed, and what is kept of records stays.
#[test]
fn a_change_that_cannot_go_on_says_each_time_nothing_new_of_the_shards() {
    for full in [false, true] {
        let world = World::new();
        let (store, content) = world.filled(2);
        store.apply(store.plan().add_shard(ShardOptions::new("/mnt/new")).preview().unwrap()).unwrap();
        if full {
            let fault = Fault::on_any_change().at(|path| path.starts_with("/mnt/new"));
            world.disk.inject(fault.error(std::io::ErrorKind::StorageFull));
        } else {
            testing::fail_shard(&store, ShardId(4));
        }
        step(state(&store)).unwrap_err();
        let before = state(&store).health_version();
        (0..10).for_each(|_| drop(step(state(&store)).unwrap_err()));
        assert_eq!(state(&store).health_version(), before, "full: {full}");
        world.disk.heal();
        while testing::heal_step(&store).unwrap() {}
        settle(&store);
        check_reads(&store, &content);
        check_placed(&store, &content);
    }
}
