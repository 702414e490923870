//! Several shards that are healed at once, some of which cannot be.

use crate::disk::SimDisk;
use crate::engine::{MemoryFactory, MemoryOperation};
use crate::error::Error;
use crate::ids::{KeyspaceId, ShardId};
use crate::options::{Heal, Options};
use crate::shard::seal::Seal;
use crate::shard::{Health, Shard};
use crate::state::events::EventKind;
use crate::state::{Background, Seams};
use crate::store::Store;
use crate::sync::atomic::AtomicU64;
use crate::testing;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

const KEYS: u32 = 300;

fn key(n: u32) -> [u8; 4] {
    n.to_be_bytes()
}

fn internal(n: u32) -> Vec<u8> {
    [[0; 4], key(n)].concat()
}

/// Shards with so much in them that they are looked through, or filled, in many steps.
fn filled(shards: usize, replicas: usize) -> (Store, MemoryFactory) {
    let factory = MemoryFactory::new();
    let seams = Seams {
        disk: Arc::new(SimDisk::new(7)),
        factory: Arc::new(factory.clone()),
        background: Background::Off,
    };
    let options = Options::new()
        .shards(shards)
        .replication_factor(replicas)
        .virtual_nodes(64)
        .memory_budget(8 << 20)
        .journal_segment_bytes(256 << 10);
    let store = testing::open(Path::new("/store"), &options, seams).unwrap();
    for n in 0..KEYS {
        store.insert(key(n), vec![n as u8; 64 << 10]).unwrap();
    }
    store.flush().unwrap();
    (store, factory)
}

fn health(store: &Store, shard: ShardId) -> Health {
    let health = store.health().unwrap();
    health.shards.into_iter().find(|found| found.id == shard).unwrap().health
}

/// Heals until that is so, while all that has failed is tried again every few steps.
fn heal_until(store: &Store, is_so: impl Fn() -> bool) {
    for _ in 0..500 {
        for _ in 0..4 {
            if is_so() {
                return;
            }
            if super::step(&store.handle.state).unwrap() == super::Step::NeedsFlush {
                store.flush().unwrap();
            }
        }
        store.handle.state.healing.forget_rests();
    }
    panic!("it does not come to it: {:?}", store.health().unwrap());
}

fn check(store: &Store) {
    for n in 0..KEYS {
        assert!(store.get(key(n)).unwrap().is_some_and(|value| value[..] == vec![n as u8; 64 << 10]));
    }
}

#[test]
fn a_shard_is_filled_while_another_cannot_be() {
    let (store, factory) = filled(4, 3);
    let (fails, other) = (ShardId(0), ShardId(3));
    for shard in [other, fails] {
        store.rebuild(shard).unwrap();
        heal_until(&store, || health(&store, shard) == Health::Rebuilding);
    }
    assert_eq!(health(&store, other), Health::Rebuilding);
    factory.fail(fails, MemoryOperation::Apply);
    heal_until(&store, || health(&store, other) == Health::Online);
    assert_ne!(health(&store, fails), Health::Online);
    factory.heal(fails);
    heal_until(&store, || health(&store, fails) == Health::Online);
    check(&store);
}

#[test]
fn a_shard_is_mended_while_others_have_damage_that_nobody_can_put_right() {
    let (store, factory) = filled(3, 2);
    let ring = store.ring();
    let owners = |n: &u32| ring.preference_list(key(*n)).to_vec();
    let lost =
        (0..KEYS).find(|n| owners(n).contains(&ShardId(0)) && owners(n).contains(&ShardId(1))).unwrap();
    let late = (0..KEYS).rev().find(|n| owners(n)[0] == ShardId(2)).unwrap();
    for shard in owners(&lost) {
        factory.corrupt(shard, &internal(lost));
    }
    factory.corrupt(ShardId(2), &internal(late));
    store.get(key(lost)).unwrap_err();
    store.get(key(late)).unwrap();
    assert!([0, 1, 2].iter().all(|shard| matches!(health(&store, ShardId(*shard)), Health::Degraded(_))));
    heal_until(&store, || health(&store, ShardId(2)) == Health::Online);
    assert!([0, 1].iter().all(|shard| matches!(health(&store, ShardId(*shard)), Health::Degraded(_))));
    // One of them has it after all.
    factory.heal(ShardId(0));
    heal_until(&store, || store.health().unwrap().is_good());
    check(&store);
}

#[test]
fn a_shard_that_is_back_serves_again_while_another_is_still_looked_through() {
    let (store, factory) = filled(3, 2);
    let (back, damaged) = (ShardId(0), ShardId(1));
    factory.fail_times(back, MemoryOperation::Open, 1);
    testing::fail_shard(&store, back);
    heal_until(&store, || store.handle.state.healing.failed(back) > 0);
    let ring = store.ring();
    let is_late = |owners: &[ShardId]| owners[0] == damaged && !owners.contains(&back);
    let late = (0..KEYS).rev().find(|n| is_late(ring.preference_list(key(*n)))).unwrap();
    factory.corrupt(damaged, &internal(late));
    store.get(key(late)).unwrap();
    assert!(matches!(health(&store, damaged), Health::Degraded(_)));
    heal_until(&store, || health(&store, back) == Health::Online);
    assert!(matches!(health(&store, damaged), Health::Degraded(_)), "it was looked through first");
    assert!(!store.handle.state.healing.was_in_vain(damaged), "it was looked through first");
    heal_until(&store, || store.health().unwrap().is_good());
    check(&store);
}

/// A flush that nobody can take puts the damage right itself.
#[test]
fn a_shard_that_a_flush_has_put_right_is_looked_through_from_the_beginning_the_next_time() {
    let (store, factory) = filled(2, 2);
    let (early, late) = (0, KEYS - 1);
    let damaged = store.ring().preference_list(key(early))[0];
    let other = ShardId(1 - damaged.0);
    factory.corrupt(damaged, &internal(late));
    let layout = store.handle.state.layout();
    let shard = &layout.shards[layout.index_of(damaged).unwrap()];
    shard.degrade(&Error::corruption("a page failed its check"));
    for _ in 0..2 {
        assert_eq!(super::step(&store.handle.state).unwrap(), super::Step::Worked(1));
    }
    assert!(store.handle.state.change.mover.lock().is_mending(damaged));
    factory.corrupt(other, &internal(early));
    for n in [early, late] {
        store.insert(key(n), vec![n as u8; 64 << 10]).unwrap();
    }
    store.flush().unwrap();
    assert!(store.health().unwrap().is_good());
    store.handle.state.healing.rest(damaged);
    store.handle.state.healing.forget_rests();
    super::step(&store.handle.state).unwrap();
    assert_eq!(store.handle.state.healing.failed(damaged), 0);
    factory.corrupt(damaged, &internal(early));
    store.get(key(early)).unwrap();
    assert!(matches!(health(&store, damaged), Health::Degraded(_)));
    heal_until(&store, || store.health().unwrap().is_good());
    check(&store);
    assert!(store.health().unwrap().is_good(), "it was looked through from the middle on");
}

/// Before one that serves is filled anew, and before one that fails again and again is, the others are verified: for each of the two.
#[test]
fn shards_that_are_to_be_filled_from_others_are_proven_beside_each_other() {
    let (store, _) = filled(4, 3);
    let layout = store.handle.state.layout();
    for _ in 0..5 {
        layout.shards[3].strike();
    }
    testing::fail_shard(&store, ShardId(3));
    store.rebuild(ShardId(0)).unwrap();
    heal_until(&store, || [0, 3].iter().any(|shard| health(&store, ShardId(*shard)) == Health::Rebuilding));
    heal_until(&store, || store.health().unwrap().is_good());
    check(&store);
}

/// Heals until that is so; returns the bytes that the steps have spoken of.
fn healed(store: &Store, is_so: impl Fn() -> bool) -> u64 {
    let mut bytes = 0;
    for _ in 0..500 {
        if is_so() {
            return bytes;
        }
        match super::step(&store.handle.state).unwrap() {
            super::Step::Worked(more) => bytes += more,
            super::Step::NeedsFlush => store.flush().unwrap(),
            _ => store.handle.state.healing.forget_rests(),
        }
    }
    panic!("it does not come to it: {:?}", store.health().unwrap());
}

/// By that it is paced.
#[test]
fn healing_tells_how_much_it_has_done() {
    const RECORD: u64 = 64 << 10;
    let (store, _) = filled(3, 2);
    let (ring, shard) = (store.ring(), ShardId(1));
    let owned = (0..KEYS).filter(|n| ring.preference_list(key(*n)).contains(&shard)).count() as u64;
    store.rebuild(shard).unwrap();
    let mut filled = healed(&store, || health(&store, shard) == Health::Rebuilding);
    filled += healed(&store, || health(&store, shard) == Health::Online);
    // Copied, and compared.
    assert!((2 * owned * RECORD..5 * owned * RECORD).contains(&filled), "{filled} of {}", owned * RECORD);
    testing::fail_shard(&store, shard);
    let lacks = 40;
    (0..lacks).for_each(|n| _ = store.insert(key(n), vec![n as u8; RECORD as usize]).unwrap());
    store.flush().unwrap();
    let caught_up = healed(&store, || health(&store, shard) == Health::Online);
    let lacks = u64::from(lacks) * RECORD;
    assert!((lacks..2 * lacks).contains(&caught_up), "{caught_up} of {lacks}");
    check(&store);
}

/// One that fails again long after it was whole is not begun anew at once.
#[test]
fn what_is_flushed_to_has_failed_as_if_never_before() {
    let (store, _) = filled(2, 2);
    let shard = &store.handle.state.layout().shards[0];
    shard.strike();
    assert_eq!(shard.strikes(), 1);
    store.insert(key(0), vec![0; 64 << 10]).unwrap();
    store.flush().unwrap();
    assert_eq!(shard.strikes(), 0);
}

/// So that it is looked for again when another shard serves, and not before.
#[test]
fn what_no_replica_has_is_counted() {
    let (store, factory) = filled(2, 2);
    for n in [0, KEYS - 1] {
        factory.corrupt(ShardId(0), &internal(n));
    }
    factory.corrupt(ShardId(1), &internal(0));
    let state = &store.handle.state;
    let (mut from, mut found) = (Some(Vec::new()), (0, 0, 0));
    while let Some(lo) = from {
        let mended = crate::state::transfer::verify_and_mend(state, &state.layout(), 0, &lo).unwrap();
        found = (found.0 + mended.repaired, found.1 + mended.left, found.2 + mended.lacking);
        from = mended.end;
    }
    assert_eq!(found, (1, 1, 1));
}

/// As long as it gets further it is waited for, as in a flush: else it is given up each time, and begins where it began before.
#[test]
fn a_slow_shard_catches_up_with_what_a_flush_brings_it() {
    const LIMIT: Duration = Duration::from_millis(1200);
    // Six runs.
    const RECORDS: u32 = 6 * 4096;
    let (disk, factory, slow) = (SimDisk::new(7), MemoryFactory::new(), ShardId(1));
    let seams =
        Seams { disk: Arc::new(disk), factory: Arc::new(factory.clone()), background: Background::On };
    let options = Options::new().shards(2).replication_factor(2).memory_budget(64 << 20);
    let options = options.heal(Heal::Manual).shard_timeout(LIMIT);
    let store = testing::open(Path::new("/store"), &options, seams).unwrap();
    let write = |value: u8| (0..RECORDS).for_each(|n| _ = store.insert(key(n), [value]).unwrap());
    write(1);
    factory.slow(slow, MemoryOperation::Apply, LIMIT / 3);
    store.flush().unwrap();
    assert!(store.health().unwrap().is_good());
    testing::fail_shard(&store, slow);
    write(2);
    store.flush().unwrap();
    store.repair(slow).unwrap();
    assert!(store.health().unwrap().is_good());
    assert_eq!(testing::held_by(&store, KeyspaceId(0), slow).unwrap().len(), RECORDS as usize);
    store.close().unwrap();
}

/// Its replicas are flushed to while its disk takes its time for a piece of the journal; what it came to lack meanwhile it gets as well.
#[test]
fn a_flush_does_not_wait_for_a_shard_that_catches_up() {
    let (store, factory) = filled(3, 2);
    let slow = ShardId(1);
    testing::fail_shard(&store, slow);
    let write = |n: u32| _ = store.insert(key(n), vec![n as u8; 64 << 10]).unwrap();
    (0..40).for_each(write);
    store.flush().unwrap();
    heal_until(&store, || health(&store, slow) == Health::Rebuilding);
    let gate = factory.hang(slow, MemoryOperation::Apply);
    std::thread::scope(|scope| {
        scope.spawn(|| super::step(&store.handle.state).unwrap());
        assert!(gate.wait_for(1));
        let (tell, told) = channel();
        let (others, held) = (store.clone(), gate.clone());
        scope.spawn(move || {
            for n in 40..60 {
                others.insert(key(n), vec![n as u8; 64 << 10]).unwrap();
            }
            let flushed = others.flush();
            drop(tell.send((flushed, held.waiting())));
        });
        let flushed = told.recv_timeout(Duration::from_secs(20));
        gate.release();
        let (flushed, waiting) = flushed.expect("the flush waits for it");
        flushed.unwrap();
        assert_eq!(waiting, 1);
    });
    assert_eq!(health(&store, slow), Health::Rebuilding, "it lacks what was flushed meanwhile");
    // Twice as much as that at the most: nobody gets ahead of it for ever.
    let turns = store.handle.state.change.mover.lock().caught.is_some_and(|caught| caught.is_outrun());
    assert!(!turns, "40 of 20");
    heal_until(&store, || store.health().unwrap().is_good());
    check(&store);
    assert_eq!(testing::held_by(&store, KeyspaceId(0), slow).unwrap().len(), {
        let ring = store.ring();
        (0..KEYS).filter(|n| ring.preference_list(key(*n)).contains(&slow)).count()
    });
}

/// While nobody is there several chunks are under way at once, as in a change of the topology.
#[test]
fn a_filling_that_disturbs_nobody_goes_through_several_chunks_at_once() {
    let (store, _) = filled(3, 2);
    let shard = ShardId(1);
    for compacts in [false, true] {
        if compacts { store.compact(shard) } else { store.rebuild(shard) }.unwrap();
        let state = &store.handle.state;
        heal_until(&store, || state.healing.wished(shard).is_some_and(|wish| wish.begun));
        let mut steps = 0;
        while state.healing.wished(shard).is_some() {
            state.change.foreground.leave_alone();
            assert!(testing::heal_step(&store).unwrap());
            steps += 1;
        }
        // Some 200 of 300 records of 64 KiB are copied and then compared, four chunks of 1 MiB a step.
        assert!(steps < 16, "compacts: {compacts}, {steps}");
        assert!(store.health().unwrap().is_good());
        check(&store);
    }
}

/// A shard that has failed again and again, and may be whole all the same, is offline.
fn failing(shard: ShardId) -> (Store, MemoryFactory) {
    let (store, factory) = filled(3, 2);
    let layout = store.handle.state.layout();
    (0..5).for_each(|_| _ = layout.shards[shard.0 as usize].strike());
    testing::fail_shard(&store, shard);
    (store, factory)
}

/// Heals until one of those that a shard would be filled from has been verified.
fn prove_one(store: &Store, of: ShardId, source: ShardId) {
    let mover = || store.handle.state.change.mover.lock();
    heal_until(store, || {
        mover().proofs.iter().any(|proof| proof.of == of && proof.whole.contains_key(&source))
    });
}

/// The files of a shard that fails again and again may be the only ones that have what is in a page which cannot be read any more.
#[test]
fn a_shard_is_not_given_up_for_one_in_which_damage_was_met_after_it_had_been_verified() {
    let (fails, damaged) = (ShardId(2), ShardId(0));
    let (store, factory) = failing(fails);
    prove_one(&store, fails, damaged);
    let ring = store.ring();
    let holds = |n: &u32| [fails, damaged].iter().all(|shard| ring.preference_list(key(*n)).contains(shard));
    let n = (0..KEYS).find(holds).unwrap();
    factory.corrupt(damaged, &internal(n));
    store.get(key(n)).unwrap_err();
    let mut events = store.events();
    heal_until(&store, || store.health().unwrap().is_good());
    let told = std::iter::from_fn(|| events.try_next());
    assert!(!told.into_iter().any(|event| matches!(event.kind, EventKind::Rebuilding { .. })));
    check(&store);
}

/// What was verified before it was put off, for days it may be, says nothing of when it goes on.
#[test]
fn sources_of_a_shard_are_verified_again_where_that_was_put_off() {
    let (fails, source, other) = (ShardId(2), ShardId(0), ShardId(1));
    let is_proven =
        |store: &Store| store.handle.state.change.mover.lock().proofs.iter().any(|p| p.of == fails);
    let step = |store: &Store| _ = super::step(&store.handle.state).unwrap();
    // Another one that it is to be filled from is away.
    let (store, factory) = failing(fails);
    prove_one(&store, fails, source);
    [fails, other].iter().for_each(|shard| factory.fail(*shard, MemoryOperation::Open));
    testing::fail_shard(&store, other);
    step(&store);
    assert!(!is_proven(&store));
    [fails, other].iter().for_each(|shard| factory.heal(*shard));
    heal_until(&store, || store.health().unwrap().is_good());
    check(&store);
    // The others cannot be made level.
    let (store, factory) = failing(fails);
    prove_one(&store, fails, source);
    let layout = store.handle.state.layout();
    let ahead = &layout.shards[source.0 as usize];
    _ = ahead.begin_apply().unwrap();
    ahead.seal(ahead.applied().next()).unwrap();
    factory.fail(fails, MemoryOperation::Open);
    factory.fail_times(other, MemoryOperation::Sync, 1);
    step(&store);
    assert!(!is_proven(&store));
    // It was to be begun anew since it fails, and it is well.
    let (store, _) = filled(3, 2);
    let mut mover = store.handle.state.change.mover.lock();
    mover.anew = Some(fails);
    mover.proof_of(fails).whole.insert(source, 0);
    drop(mover);
    step(&store);
    assert!(!is_proven(&store));
    assert!(store.health().unwrap().is_good());
}

/// What the others have been given is made durable, and goes on from where that was written down: the shard itself may have lost it.
#[test]
fn the_others_are_sealed_when_a_shard_that_gains_records_is_opened_again() {
    let (store, _) = filled(4, 1);
    let state = &store.handle.state;
    store.apply(store.plan().set_replication_factor(2).preview().unwrap()).unwrap();
    while !state.change.mover.lock().begun {
        assert!(testing::change_step(&store).unwrap());
    }
    let layout = state.layout();
    let applying = || -> Vec<bool> {
        let seal = |shard: &Arc<Shard>| Seal::load(state.seams.disk.as_ref(), &shard.dir).unwrap().unwrap();
        layout.shards.iter().map(|shard| seal(shard).applying).collect()
    };
    assert_eq!(applying(), [true; 4]);
    let mut mover = state.change.mover.lock();
    assert!(!mover.position.is_empty());
    super::revive::release(state, &mut mover, &layout, 1);
    assert_eq!(applying(), [false, true, false, false]);
    let saved = state.manifest.lock().change.as_ref().map(|change| change.position.clone());
    assert_eq!((mover.begun, Some(&mover.position)), (false, saved.as_ref()));
    // Nothing is sealed that nobody has begun to change.
    super::revive::release(state, &mut mover, &layout, 0);
    assert_eq!(applying(), [false, true, false, false]);
    drop((mover, layout));
    while testing::change_step(&store).unwrap() {}
    check(&store);
    assert!(store.health().unwrap().is_good());
}

/// It may hang for hours; what has been verified before says nothing of then.
#[test]
fn sources_of_a_shard_that_hangs_are_verified_again() {
    let (disk, shard) = (SimDisk::new(7), ShardId(1));
    let seams =
        Seams { disk: Arc::new(disk), factory: Arc::new(MemoryFactory::new()), background: Background::On };
    let options = Options::new().shards(2).replication_factor(2).memory_budget(8 << 20).heal(Heal::Manual);
    let store = testing::open(Path::new("/store"), &options, seams).unwrap();
    let state = &store.handle.state;
    let layout = state.layout();
    let (go_on, hangs) = channel::<()>();
    let ticket = layout.workers[1].run(move || Ok(_ = hangs.recv()));
    layout.workers[1].wait(&ticket, Duration::from_millis(1), &AtomicU64::new(0)).unwrap_err();
    assert!(layout.workers[1].is_stuck());
    let proven = || state.change.mover.lock().proofs.iter().map(|proof| proof.of).collect::<Vec<_>>();
    let mut mover = state.change.mover.lock();
    for of in [shard, ShardId(0)] {
        mover.proof_of(of).whole.insert(ShardId(7), 0);
    }
    drop(mover);
    super::step(state).unwrap();
    assert_eq!(proven(), [ShardId(0)]);
    drop((go_on, layout));
    store.close().unwrap();
}
