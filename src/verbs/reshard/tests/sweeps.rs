//! Old copies removed beside flushes and snapshots; chunks and shards worked on side by side.

use super::*;

/// Shards that are being rid of what they lost begin anew with it when they lose more, also those that have been gone through
/// and are not yet said to be clean.
#[test]
fn a_shard_that_loses_more_while_it_is_cleaned_is_cleaned_from_the_beginning() {
    more_is_lost_when(|mover| mover.sweeps.iter().any(|sweep| sweep.position.len() > 8));
    more_is_lost_when(|mover| mover.swept.len() == 2);
}

/// While nobody is there several chunks are under way at once, and several shards.
#[test]
fn a_change_that_disturbs_nobody_goes_through_several_chunks_and_shards_at_once() {
    for differs in [false, true] {
        let world = World::new();
        let (store, mut content) = world.filled(2);
        enlarge(&store, &mut content);
        let plan = store.plan().add_shard(ShardOptions::new("/mnt/new")).drain_shard(LAST).preview().unwrap();
        store.apply(plan).unwrap();
        let (mut steps, mut harmed) = (BTreeMap::<&str, u32>::new(), false);
        while let Some(change) = store.change() {
            let phase = change.progress().phase;
            let name = match phase {
                Phase::Copying => "copying",
                Phase::Verifying => "verifying",
                _ => "cleaning",
            };
            *steps.entry(name).or_default() += 1;
            let step = state(&store).manifest.lock().change.as_ref().map(|change| change.step);
            if differs && step == Some(ChangeStep::Verifying) && !harmed {
                // What comparing must find in each of its chunks.
                harmed = true;
                let new = ShardId(4);
                for (key, _) in held(&store, new).iter().step_by(7) {
                    let key = [&[0; 4][..], key].concat();
                    world.factory.forge(new, &key, &[(Seq(1), Some(b"forged"))]);
                }
            }
            state(&store).change.foreground.leave_alone();
            testing::change_step(&store).unwrap();
        }
        assert!(!differs || harmed);
        // 75 of 300 records of 64 KiB go to the new shard, four chunks of 1 MiB a step.
        assert!(differs || steps["copying"] < 9 && steps["verifying"] < 9, "{steps:?}");
        check_reads(&store, &content);
        check_placed(&store, &content);
    }
}

fn more_is_lost_when(is_time: fn(&Mover) -> bool) {
    let world = World::new();
    let (store, mut content) = world.filled(1);
    enlarge(&store, &mut content);
    let change = store.apply(store.plan().set_replication_factor(2).preview().unwrap()).unwrap();
    step_to(&store, Phase::Verifying);
    change.cancel().unwrap();
    let mut cut = false;
    for _ in 0..100 {
        testing::change_step(&store).unwrap();
        if is_time(&state(&store).change.mover.lock()) {
            cut = true;
            break;
        }
    }
    assert!(cut, "that did not happen");
    // Nobody but the new shard gains.
    let plan = store.plan().add_shard(ShardOptions::new("/mnt/new")).preview().unwrap();
    store.apply(plan).unwrap();
    settle(&store);
    (0..KEYS).step_by(2).for_each(|n| remove(&store, &mut content, n));
    store.flush().unwrap();
    check_reads(&store, &content);
    check_placed(&store, &content);
}

/// Pages hold many keys: what is removed from one leaves its neighbours what snapshots see of them.
#[test]
fn snapshots_keep_their_versions_beside_what_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().shards(3).replication_factor(2).virtual_nodes(64).memory_budget(8 << 20);
    let seams = Seams {
        disk: Arc::new(RealDisk),
        factory: Arc::new(SledFactory::default()),
        background: Background::Off,
    };
    let store = testing::open(&dir.path().join("store"), &options, seams).unwrap();
    let mut content = Content::new();
    (0..KEYS).for_each(|n| put(&store, &mut content, n, "first"));
    store.flush().unwrap();
    let mut scan = store.iter();
    let mut found = vec![scan.next().unwrap().unwrap()];
    stir(&store, &mut content, "second");
    store.flush().unwrap();
    let plan = store.plan().add_shard(ShardOptions::new(dir.path().join("new"))).preview().unwrap();
    store.apply(plan).unwrap();
    settle(&store);
    let mut again = store.iter();
    let first = again.next().unwrap().unwrap();
    found.extend(scan.map(|item| item.unwrap()));
    assert_eq!(found.len(), KEYS as usize);
    assert!(found.iter().all(|(_, value)| value == "first"));
    // Copies that differ are made again, and what they have too much is removed.
    let old = content.clone();
    stir(&store, &mut content, "third");
    store.flush().unwrap();
    store.apply(store.plan().set_replication_factor(3).preview().unwrap()).unwrap();
    copy_all(&store);
    let layout = state(&store).layout();
    let alien = (KEYS..).map(key).find(|k| layout.gains(0, layout.ring.position(k))).unwrap();
    let internal = [&[0; 4][..], &alien].concat();
    let run = [RunRecord { key: &internal, seq: Seq(1), value: Some(b"alien") }];
    layout.shards[0].engine().unwrap().apply(&run, &state(&store).memory.live()).unwrap();
    drop(layout);
    settle(&store);
    let found: Vec<_> = std::iter::once(first).chain(again.map(|item| item.unwrap())).collect();
    assert_eq!(found.len(), old.len());
    assert!(found.iter().all(|(key, value)| old[&key.to_vec()].0 == *value));
    check_reads(&store, &content);
    check_placed(&store, &content);
}

/// What a flush brings while a shard is cleaned is not weighed by snapshots of before it.
#[test]
fn a_flush_begins_after_the_chunk_that_is_cleaned() {
    let world = World::new();
    let (store, mut content) = world.filled(1);
    store.apply(store.plan().add_shard(ShardOptions::new("/mnt/new")).preview().unwrap()).unwrap();
    step_to(&store, Phase::Cleaning);
    stir(&store, &mut content, "second");
    world.gates.shut(ShardId(0), At::Read);
    std::thread::scope(|scope| {
        scope.spawn(|| settle(&store));
        world.gates.arrived(ShardId(0), At::Read);
        let (done, is_done) = channel();
        let store = &store;
        scope.spawn(move || {
            store.flush().unwrap();
            done.send(()).unwrap();
        });
        let early = is_done.recv_timeout(NEVER);
        world.gates.open(ShardId(0), At::Read);
        assert_eq!(early, Err(RecvTimeoutError::Timeout), "the flush went past a chunk");
        is_done.recv().unwrap();
    });
    check_reads(&store, &content);
    check_placed(&store, &content);
}

/// A change rests when it is told to, also while old copies are removed.
#[test]
fn nothing_is_removed_while_a_change_is_paused() {
    let world = World::new();
    let (store, content) = world.filled(2);
    let change =
        store.apply(store.plan().add_shard(ShardOptions::new("/mnt/new")).preview().unwrap()).unwrap();
    step_to(&store, Phase::Cleaning);
    let all = || -> usize { state(&store).layout().shards.iter().map(|s| held(&store, s.id).len()).sum() };
    change.pause().unwrap();
    let before = all();
    assert!(before > 2 * content.len(), "old copies are there");
    for _ in 0..20 {
        assert_eq!(step(state(&store)).unwrap(), Step::Idle);
    }
    let progress = change.progress();
    assert_eq!((progress.phase, progress.paused, all()), (Phase::Cleaning, true, before));
    change.resume().unwrap();
    settle(&store);
    assert_eq!((change.progress().phase, change.progress().paused), (Phase::Completed, false));
    check_placed(&store, &content);
}

/// A page of a shard cannot be read, and the other shard that holds the same cannot be opened: what that shard lost by the change stays until
/// both are well, and nothing else waits for it.
#[test]
fn damage_that_nobody_can_put_right_keeps_no_change_from_its_end_nor_other_shards_from_being_cleaned() {
    // Known before the shard is gone through; found there; found by a reader when a part of it has been gone through.
    for found in ["before", "there", "within"] {
        let world = World::new();
        let (store, mut content) = world.filled(2);
        enlarge(&store, &mut content);
        let new = ShardOptions::new("/mnt/new").weight(2.0);
        let change = store.apply(store.plan().add_shard(new).preview().unwrap()).unwrap();
        step_to(&store, Phase::Cleaning);
        let ring = store.ring();
        let n = (KEYS / 2..KEYS).find(|n| !ring.preference_list(key(*n)).contains(&ShardId(4))).unwrap();
        let [damaged, away] = [0, 1].map(|place| ring.preference_list(key(n))[place]);
        let is_stale = |shard: ShardId| {
            let layout = state(&store).layout();
            layout.stale[layout.index_of(shard).unwrap()]
        };
        assert!(is_stale(damaged) && is_stale(away));
        if found == "within" {
            state(&store).change.foreground.leave_alone();
            let is_within = || {
                state(&store).change.mover.lock().sweep_of(damaged).is_some_and(|s| !s.position.is_empty())
            };
            while !is_within() {
                assert!(testing::change_step(&store).unwrap());
            }
        }
        world.factory.fail(away, MemoryOperation::Open);
        testing::fail_shard(&store, away);
        world.factory.corrupt(damaged, &[&[0; 4][..], &key(n)].concat());
        if found != "there" {
            store.get(key(n)).unwrap_err();
        }
        let mut failed = 0;
        for _ in 0..1000 {
            testing::heal_step(&store).unwrap();
            match testing::change_step(&store) {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) => failed += 1,
            }
        }
        assert!(failed <= 1, "it comes to the damage again and again");
        assert_eq!(change.progress().phase, Phase::Completed);
        assert!(store.change().is_none());
        let rest = ring.members().iter().map(|member| member.id).filter(|id| ![damaged, away].contains(id));
        for shard in rest {
            assert!(!is_stale(shard));
            assert!(held(&store, shard).iter().all(|(key, _)| ring.preference_list(key).contains(&shard)));
        }
        assert!(is_stale(damaged) && is_stale(away));
        let seal = Seal::load(&world.disk, &state(&store).layout().shards[damaged.0 as usize].dir).unwrap();
        assert!(!seal.unwrap().applying, "{found}: it is not being changed");
        let scrub = store.scrub().unwrap();
        (0..20).for_each(|_| drop(testing::scrub_step(&store)));
        assert!(scrub.progress().report.shards_verified > 0, "{:?}", scrub.progress());
        world.factory.heal(damaged);
        world.factory.heal(away);
        while testing::heal_step(&store).unwrap() {}
        settle(&store);
        assert!(![damaged, away].into_iter().any(is_stale));
        check_reads(&store, &content);
        check_placed(&store, &content);
    }
}
