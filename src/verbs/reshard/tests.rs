//! Changes of the topology at moments that no test driving whole steps can reach: a gate holds one operation of one shard
//! while everything else goes on.

mod gate;

use self::gate::{At, Gated, Gates};
use super::{Step, begin, step};
use crate::disk::{Fault, RealDisk, SimDisk};
use crate::engine::{MemoryFactory, SledFactory};
use crate::error::{Error, ErrorKind};
use crate::ids::{KeyspaceId, Seq, ShardId};
use crate::manifest::ChangeStep;
use crate::options::{Durability, Options, ShardOptions};
use crate::record::RunRecord;
use crate::shard::seal::Seal;
use crate::state::change::{Mover, Phase};
use crate::state::{Seams, State};
use crate::store::Store;
use crate::testing;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

const KEYS: u32 = 300;
/// The shard that most tests drain: flushes come to it last, since without background threads they go by index.
const LAST: ShardId = ShardId(3);
/// How long something is watched that must not happen.
const NEVER: Duration = Duration::from_millis(150);

type Content = BTreeMap<Vec<u8>, (Vec<u8>, Seq)>;

struct World {
    disk: SimDisk,
    factory: MemoryFactory,
    gates: Gates,
}

impl World {
    fn new() -> World {
        World { disk: SimDisk::new(1), factory: MemoryFactory::new(), gates: Gates::default() }
    }

    fn open(&self, options: Options) -> Store {
        let factory = Gated { inner: Arc::new(self.factory.clone()), gates: self.gates.clone() };
        let seams =
            Seams { disk: Arc::new(self.disk.clone()), factory: Arc::new(factory), background: false };
        let options = options.memory_budget(8 << 20).journal_segment_bytes(256 << 10);
        testing::open(Path::new("/store"), &options, seams).unwrap()
    }

    /// Four shards with everything in them and nothing in memory.
    fn filled(&self, replicas: usize) -> (Store, Content) {
        let store = self.open(Options::new().shards(4).replication_factor(replicas).virtual_nodes(64));
        let mut content = Content::new();
        (0..KEYS).for_each(|n| put(&store, &mut content, n, "first"));
        store.flush().unwrap();
        (store, content)
    }
}

fn state(store: &Store) -> &State {
    &store.handle.state
}

fn key(n: u32) -> Vec<u8> {
    format!("key/{n:05}").into_bytes()
}

fn put(store: &Store, content: &mut Content, n: u32, value: &str) {
    let seq = store.insert(key(n), value).unwrap();
    content.insert(key(n), (value.as_bytes().to_vec(), seq));
}

fn remove(store: &Store, content: &mut Content, n: u32) {
    store.remove(key(n)).unwrap();
    content.remove(&key(n));
}

/// Removes a third of the keys and writes another third anew.
fn stir(store: &Store, content: &mut Content, value: &str) {
    for n in 0..KEYS {
        match n % 3 {
            0 => remove(store, content, n),
            1 => put(store, content, n, value),
            _ => {}
        }
    }
}

fn drain(store: &Store, shard: ShardId) {
    store.apply(store.plan().drain_shard(shard).preview().unwrap()).unwrap();
}

/// A key that a shard is the first to be asked for.
fn key_of(store: &Store, shard: ShardId) -> Vec<u8> {
    (0..KEYS).map(key).find(|key| store.ring().preference_list(key)[0] == shard).unwrap()
}

fn held(store: &Store, shard: ShardId) -> Vec<(Vec<u8>, Seq)> {
    testing::held_by(store, KeyspaceId(0), shard).unwrap()
}

fn check_reads(store: &Store, content: &Content) {
    let found: Vec<_> =
        store.iter().map(|item| item.unwrap()).map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
    let expected: Vec<_> = content.iter().map(|(k, (v, _))| (k.clone(), v.clone())).collect();
    assert_eq!(found.len(), expected.len());
    assert!(found == expected);
    for n in 0..KEYS {
        let found = store.get_versioned(key(n)).unwrap().map(|(v, seq)| (v.to_vec(), seq));
        assert_eq!(found.as_ref(), content.get(&key(n)), "key {n}");
    }
}

fn check_placed(store: &Store, content: &Content) {
    store.flush().unwrap();
    let ring = store.ring();
    for shard in ring.members() {
        let owned = content.iter().filter(|(key, _)| ring.preference_list(key).contains(&shard.id));
        let owned: Vec<_> = owned.map(|(key, (_, seq))| (key.clone(), *seq)).collect();
        let held = held(store, shard.id);
        assert_eq!(held.len(), owned.len(), "shard {}", shard.id);
        assert!(held == owned, "shard {}", shard.id);
    }
}

/// No shard holds what has been removed, or an old version: also those whose copies nobody asks for yet.
fn check_nothing_old(store: &Store, content: &Content) {
    for shard in &state(store).layout().shards {
        for (key, seq) in held(store, shard.id) {
            let newest = content.get(&key).map(|(_, seq)| *seq);
            assert_eq!(newest, Some(seq), "{} on shard {}", String::from_utf8_lossy(&key), shard.id);
        }
    }
}

fn settle(store: &Store) {
    for _ in 0..10_000 {
        if !testing::change_step(store).unwrap() {
            assert!(store.change().is_none());
            return;
        }
    }
    panic!("it does not come to an end");
}

fn step_to(store: &Store, phase: Phase) {
    let change = store.change().unwrap();
    while change.progress().phase != phase {
        assert!(testing::change_step(store).unwrap());
    }
}

/// Copies all, and compares nothing yet.
fn copy_all(store: &Store) {
    let step = || state(store).manifest.lock().change.as_ref().map(|change| change.step);
    while step() != Some(ChangeStep::Verifying) {
        assert!(testing::change_step(store).unwrap());
    }
}

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
        let large = "x".repeat(64 << 10);
        for n in 0..KEYS {
            put(&store, &mut content, n, &large);
            if n % 20 == 0 {
                store.flush().unwrap();
            }
        }
        store.flush().unwrap();
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
    // Several chunks of a sweep on each shard.
    let large = "x".repeat(64 << 10);
    for n in 0..KEYS {
        put(&store, &mut content, n, &large);
        if n % 20 == 0 {
            store.flush().unwrap();
        }
    }
    store.flush().unwrap();
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

/// The directory of a shard that was given up cannot be cleared at first.
#[test]
fn a_directory_that_could_not_be_cleared_is_tried_again() {
    let world = World::new();
    let (store, content) = world.filled(1);
    let plan = || store.plan().add_shard(ShardOptions::new("/mnt/new")).preview().unwrap();
    let change = store.apply(plan()).unwrap();
    change.cancel().unwrap();
    world.disk.inject(Fault::on_any_change().at(|path| path.starts_with("/mnt/new")).times(3));
    let failures = (0..10).filter(|_| testing::change_step(&store).is_err()).count();
    assert!(failures > 0);
    assert_eq!(store.topology().shards.len(), 4);
    settle(&store);
    store.apply(plan()).unwrap();
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
    // Several chunks.
    let large = "x".repeat(64 << 10);
    for n in 0..KEYS {
        put(&store, &mut content, n, &large);
        if n % 20 == 0 {
            store.flush().unwrap();
        }
    }
    store.flush().unwrap();
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

/// Pages hold many keys: what is removed from one leaves its neighbours what snapshots see of them.
#[test]
fn snapshots_keep_their_versions_beside_what_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().shards(3).replication_factor(2).virtual_nodes(64).memory_budget(8 << 20);
    let seams = Seams { disk: Arc::new(RealDisk), factory: Arc::new(SledFactory), background: false };
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
