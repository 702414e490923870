//! Flushes beside chunks that are copied and compared.

use super::*;

/// A flush has reached those that gain and not yet the source when a chunk is copied from it.
#[test]
fn a_removal_that_is_half_way_is_not_undone_by_a_chunk() {
    let world = World::new();
    let (store, mut content) = world.filled(1);
    drain(&store, LAST);
    stir(&store, &mut content, "second");
    world.gates.shut(LAST, At::Apply);
    std::thread::scope(|scope| {
        scope.spawn(|| store.flush().unwrap());
        world.gates.arrived(LAST, At::Apply);
        step_to(&store, Phase::Verifying);
        world.gates.open(LAST, At::Apply);
    });
    check_nothing_old(&store, &content);
    check_reads(&store, &content);
    settle(&store);
    check_reads(&store, &content);
    check_placed(&store, &content);
}

/// The same while the chunk is compared: what is half way does not pass for a difference.
#[test]
fn a_flush_that_is_half_way_is_no_difference() {
    let world = World::new();
    let (store, mut content) = world.filled(1);
    drain(&store, LAST);
    copy_all(&store);
    stir(&store, &mut content, "second");
    (KEYS..KEYS + 50).for_each(|n| put(&store, &mut content, n, "new"));
    let copied = store.change().unwrap().progress().records_copied;
    world.gates.shut(LAST, At::Apply);
    std::thread::scope(|scope| {
        scope.spawn(|| store.flush().unwrap());
        world.gates.arrived(LAST, At::Apply);
        world.gates.forget();
        assert!(matches!(step(state(&store)), Ok(Step::Worked(_))));
        assert!(world.gates.seen(At::Apply).is_empty(), "copies were made again");
        world.gates.open(LAST, At::Apply);
    });
    assert_eq!(store.change().unwrap().progress().records_copied, copied);
    settle(&store);
    check_reads(&store, &content);
    check_placed(&store, &content);
}

/// A record that a flush brings to those that gain, and not yet to the source, is not taken for one too many when the range
/// is copied again for another reason.
#[test]
fn what_a_flush_brings_is_kept_when_a_range_is_copied_again() {
    let world = World::new();
    let (store, mut content) = world.filled(1);
    let from: Vec<Vec<u8>> =
        content.keys().filter(|k| store.ring().preference_list(k)[0] == LAST).cloned().collect();
    drain(&store, LAST);
    copy_all(&store);
    // Something got lost on every shard that gains.
    let layout = state(&store).layout();
    let internal = [&[0; 4][..], &from[0]].concat();
    for shard in layout.shards.iter().filter(|shard| shard.id != LAST) {
        let run = [RunRecord { key: &internal, seq: Seq::MAX, value: None }];
        shard.engine().unwrap().apply(&run, &[]).unwrap();
    }
    drop(layout);
    (KEYS..KEYS + 50).for_each(|n| put(&store, &mut content, n, "new"));
    world.gates.shut(LAST, At::Apply);
    std::thread::scope(|scope| {
        scope.spawn(|| store.flush().unwrap());
        world.gates.arrived(LAST, At::Apply);
        assert!(matches!(step(state(&store)), Ok(Step::Worked(_))));
        world.gates.open(LAST, At::Apply);
    });
    settle(&store);
    check_reads(&store, &content);
    check_placed(&store, &content);
}

/// A flush that wants to begin while a chunk is between its shards waits for it.
#[test]
fn a_flush_begins_after_the_chunk_that_is_on_its_way() {
    for phase in [Phase::Copying, Phase::Verifying] {
        let world = World::new();
        let (store, mut content) = world.filled(1);
        drain(&store, LAST);
        if phase == Phase::Verifying {
            testing::change_step(&store).unwrap();
        }
        stir(&store, &mut content, "second");
        world.gates.shut(LAST, At::Read);
        std::thread::scope(|scope| {
            let copying = scope.spawn(|| testing::change_step(&store).unwrap());
            world.gates.arrived(LAST, At::Read);
            let (done, is_done) = channel();
            let store = &store;
            scope.spawn(move || {
                store.flush().unwrap();
                done.send(()).unwrap();
            });
            let early = is_done.recv_timeout(NEVER);
            world.gates.open(LAST, At::Read);
            assert_eq!(early, Err(RecvTimeoutError::Timeout), "the flush went past a chunk");
            assert!(copying.join().unwrap());
            is_done.recv().unwrap();
        });
        check_nothing_old(&store, &content);
        settle(&store);
        check_reads(&store, &content);
        check_placed(&store, &content);
    }
}

/// A table that was frozen before the change began is flushed at any moment of it.
#[test]
fn a_table_frozen_before_the_change_reaches_whoever_is_owner_then() {
    for phase in [Some(Phase::Copying), Some(Phase::Verifying), Some(Phase::Cleaning), None] {
        let world = World::new();
        let (store, mut content) = world.filled(1);
        let plan = store.plan().drain_shard(LAST).add_shard(ShardOptions::new("/mnt/new")).preview().unwrap();
        stir(&store, &mut content, "second");
        testing::freeze(&store);
        begin(state(&store), &plan).unwrap();
        match phase {
            Some(phase) => step_to(&store, phase),
            None => settle(&store),
        }
        check_reads(&store, &content);
        assert!(testing::flush_oldest(&store).unwrap());
        if phase != Some(Phase::Cleaning) && phase.is_some() {
            // Old owners and new ones have it.
            let layout = state(&store).layout();
            for (key, (_, seq)) in content.iter().filter(|(_, (value, _))| value == b"second") {
                let position = layout.ring.position(key);
                for (index, shard) in layout.shards.iter().enumerate() {
                    let there = held(&store, shard.id).contains(&(key.clone(), *seq));
                    assert_eq!(there, layout.is_written(index, position), "shard {}", shard.id);
                }
            }
        }
        check_reads(&store, &content);
        settle(&store);
        check_reads(&store, &content);
        check_placed(&store, &content);
    }
}

/// What no journal has yet must not be on any shard: after a crash it would be there alone, with a number that is given out
/// again.
#[test]
fn a_chunk_brings_no_write_to_a_shard_that_the_journal_lacks() {
    let mut world = World::new();
    let (store, content) = world.filled(1);
    drain(&store, LAST);
    (0..KEYS).for_each(|n| {
        store.insert_with(key(n), "in memory alone", Durability::Memory).unwrap();
    });
    testing::freeze(&store);
    step_to(&store, Phase::Verifying);
    // The process dies before anybody was promised anything, and what the engines have written stays.
    world.disk = world.disk.kill();
    world.factory.crash(1);
    drop(store);
    let store = world.open(Options::new());
    for shard in &state(&store).layout().shards {
        for (key, seq) in held(&store, shard.id) {
            let newest = store.get_versioned(&key).unwrap().map(|(_, seq)| seq);
            assert!(newest >= Some(seq), "{newest:?} is the newest, {seq} is on shard {}", shard.id);
        }
    }
    // What was replayed is on the shards that gain already, and in memory alone for the others: that is no difference.
    settle(&store);
    let content: Content = (content.into_keys())
        .map(|key| {
            let (value, seq) = store.get_versioned(&key).unwrap().unwrap();
            (key, (value.to_vec(), seq))
        })
        .collect();
    check_reads(&store, &content);
    check_placed(&store, &content);
}

/// A snapshot that was opened while a table was on its way to the shards keeps what it sees of it, though newer writes wait
/// behind that table when a chunk is copied.
#[test]
fn what_waits_behind_a_flush_does_not_come_before_it() {
    let world = World::new();
    let (store, mut content) = world.filled(1);
    drain(&store, LAST);
    (0..KEYS).for_each(|n| put(&store, &mut content, n, "second"));
    world.gates.shut(ShardId(0), At::Apply);
    let old = content.clone();
    let scan = std::thread::scope(|scope| {
        testing::freeze(&store);
        scope.spawn(|| assert!(testing::flush_oldest(&store).unwrap()));
        world.gates.arrived(ShardId(0), At::Apply);
        let scan = store.iter();
        stir(&store, &mut content, "third");
        testing::freeze(&store);
        step_to(&store, Phase::Verifying);
        world.gates.open(ShardId(0), At::Apply);
        scan
    });
    settle(&store);
    store.flush().unwrap();
    let found: Vec<_> = scan.map(|item| item.unwrap()).collect();
    assert_eq!(found.len(), old.len());
    assert!(found.iter().all(|(_, value)| value == "second"));
    check_reads(&store, &content);
    check_placed(&store, &content);
}

/// A shard that a flush leaves out, since it could not be written to, is not taken back in the middle of that flush.
#[test]
fn a_shard_is_not_resumed_while_a_flush_goes_without_it() {
    let world = World::new();
    let (store, mut content) = world.filled(2);
    let one = ShardId(1);
    state(&store).layout().shards[1].stall(&Error::corruption("a test damaged it"));
    world.gates.shut(ShardId(0), At::Apply);
    stir(&store, &mut content, "second");
    std::thread::scope(|scope| {
        let flush = scope.spawn(|| store.flush());
        world.gates.arrived(ShardId(0), At::Apply);
        let (done, healed) = channel();
        let store = &store;
        scope.spawn(move || {
            while testing::heal_step(store).unwrap() {}
            done.send(()).unwrap();
        });
        assert_eq!(
            healed.recv_timeout(NEVER),
            Err(RecvTimeoutError::Timeout),
            "it was resumed during the flush"
        );
        world.gates.open(ShardId(0), At::Apply);
        flush.join().unwrap().unwrap();
        healed.recv().unwrap();
    });
    assert_eq!(state(&store).layout().shards[1].id, one);
    store.flush().unwrap();
    while testing::heal_step(&store).unwrap() {}
    assert!(store.health().unwrap().is_good(), "{:?}", store.health());
    check_reads(&store, &content);
    check_placed(&store, &content);
}

/// It was looked through to its end while a flush was at it, and lacks that flush: whoever asked is not told that it is whole.
#[test]
fn a_shard_that_a_flush_takes_offline_at_the_end_of_its_repair_is_not_said_to_be_whole() {
    let world = World::new();
    let (store, mut content) = world.filled(2);
    enlarge(&store, &mut content);
    let healing = &state(&store).healing;
    let outcome = healing.wish(LAST, Wish::Repair).unwrap();
    assert!(testing::heal_step(&store).unwrap());
    assert!(state(&store).change.mover.lock().is_mending(LAST) && outcome.get().is_none());
    world.gates.shut(LAST, At::Apply);
    stir(&store, &mut content, "second");
    let layout = state(&store).layout();
    let shard = &layout.shards[layout.index_of(LAST).unwrap()];
    std::thread::scope(|scope| {
        let flush = scope.spawn(|| store.flush());
        world.gates.arrived(LAST, At::Apply);
        let (done, healed) = channel();
        let (store, outcome) = (&store, &outcome);
        scope.spawn(move || {
            while outcome.get().is_none() {
                testing::heal_step(store).unwrap();
            }
            done.send(shard.serves()).unwrap();
        });
        // Then it waits for the flush.
        assert_eq!(healed.recv_timeout(NEVER), Err(RecvTimeoutError::Timeout));
        world.gates.open_failing(LAST, At::Apply);
        flush.join().unwrap().unwrap();
        assert!(healed.recv().unwrap(), "it is offline");
    });
    assert!(outcome.get().unwrap().is_ok());
    while testing::heal_step(&store).unwrap() {}
    assert!(store.health().unwrap().is_good(), "{:?}", store.health());
    check_reads(&store, &content);
    check_placed(&store, &content);
}
