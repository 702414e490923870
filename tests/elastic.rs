//! Changes of the topology, step by step on a simulated disk: what they come to, what a crash at any operation leaves, and
//! what readers see on the way.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use annulus::testing::{self, Background, EngineOperation, Fault, MemoryFactory, PowerCut, Seams, SimDisk};
use annulus::{
    Durability, ErrorKind, Health, KeyspaceId, Options, Phase, Plan, Problem, Role, Seq, ShardId,
    ShardOptions, ShardRole, Store,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

const DIR: &str = "/store";

#[derive(Clone)]
struct World {
    disk: SimDisk,
    factory: MemoryFactory,
}

impl World {
    fn new() -> World {
        World { disk: SimDisk::new(1), factory: MemoryFactory::new() }
    }

    fn seams(&self) -> Seams {
        let (disk, factory) = (Arc::new(self.disk.clone()), Arc::new(self.factory.clone()));
        Seams { disk, factory, background: Background::Off }
    }

    fn open(&self, options: Options) -> annulus::Result<Store> {
        let options = options.memory_budget(8 << 20).journal_segment_bytes(64 << 10);
        testing::open(Path::new(DIR), &options, self.seams())
    }

    /// Four shards, two copies, with some records in memory and most in the shards.
    fn filled(&self) -> (Store, Content) {
        let store = self.open(Options::new().shards(4).virtual_nodes(64)).unwrap();
        let mut content = Content::new();
        for n in 0..400 {
            put(&store, &mut content, n, b"first");
            if n == 350 {
                store.flush().unwrap();
            }
        }
        (store, content)
    }

    fn crash(&mut self, power_cut: Option<u64>) {
        match power_cut {
            Some(seed) => {
                self.disk = self.disk.crash(PowerCut { seed });
                self.factory.crash(seed);
            }
            None => self.disk = self.disk.kill(),
        }
    }
}

type Content = BTreeMap<Vec<u8>, (Vec<u8>, Seq)>;

fn key(n: u32) -> Vec<u8> {
    format!("key/{n:05}").into_bytes()
}

fn put(store: &Store, content: &mut Content, n: u32, value: &[u8]) {
    let seq = store.insert(key(n), value).unwrap();
    content.insert(key(n), (value.to_vec(), seq));
}

fn remove(store: &Store, content: &mut Content, n: u32) {
    store.remove(key(n)).unwrap();
    content.remove(&key(n));
}

fn check_reads(store: &Store, content: &Content) {
    let found: Vec<_> =
        store.iter().map(|item| item.unwrap()).map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
    let expected: Vec<_> = content.iter().map(|(k, (v, _))| (k.clone(), v.clone())).collect();
    assert_eq!(found, expected);
    for n in (0..420).step_by(7) {
        let found = store.get_versioned(key(n)).unwrap().map(|(v, seq)| (v.to_vec(), seq));
        assert_eq!(found.as_ref(), content.get(&key(n)), "key {n}");
    }
}

/// Every record is on its owners and nowhere else.
fn check_placed(store: &Store, content: &Content) {
    let ring = store.ring();
    ring.check().unwrap();
    store.flush().unwrap();
    for shard in store.stats().unwrap().shards {
        assert_eq!(shard.health, Health::Online);
        let held = testing::held_by(store, KeyspaceId(0), shard.id).unwrap();
        let owned = content.iter().filter(|(key, _)| ring.preference_list(key).contains(&shard.id));
        let owned: Vec<_> = owned.map(|(key, (_, seq))| (key.clone(), *seq)).collect();
        assert_eq!(held, owned, "shard {}", shard.id);
    }
}

fn settle(store: &Store) {
    while testing::change_step(store).unwrap() {}
    assert!(store.change().is_none());
}

/// Takes steps until the change is at `phase`.
fn step_to(store: &Store, phase: Phase) {
    let change = store.change().unwrap();
    while change.progress().phase != phase {
        assert!(testing::change_step(store).unwrap());
    }
}

fn grow_and_drain(store: &Store) -> Plan {
    let plan = store
        .plan()
        .add_shard(ShardOptions::new("/mnt/new").weight(2.0))
        .drain_shard(ShardId(1))
        .preview()
        .unwrap();
    assert_eq!(plan.problems(), []);
    plan
}

/// What has been copied of much counts after a crash, and is not copied again.
#[test]
fn a_large_change_goes_on_copying_where_it_was() {
    let mut world = World::new();
    let store = world.open(Options::new().shards(2).replication_factor(2).virtual_nodes(64)).unwrap();
    let value = |n: u32| vec![n as u8; 256 << 10];
    for n in 0..340 {
        store.insert(key(n), value(n)).unwrap();
        if n % 20 == 19 {
            store.flush().unwrap();
        }
    }
    let plan =
        store.plan().add_shard(ShardOptions::new("/mnt/new")).drain_shard(ShardId(1)).preview().unwrap();
    let change = store.apply(plan).unwrap();
    // 85 MiB, of which the first 64 are made durable together.
    while change.progress().bytes_copied < 70 << 20 {
        assert!(testing::change_step(&store).unwrap());
    }
    assert_eq!(change.progress().phase, Phase::Copying);
    drop(change);
    world.crash(None);
    drop(store);
    let store = world.open(Options::new()).unwrap();
    let change = store.change().unwrap();
    let kept = change.progress().bytes_copied;
    assert!((64 << 20..70 << 20).contains(&kept), "{kept}");
    step_to(&store, Phase::Verifying);
    let progress = change.progress();
    assert!(progress.bytes_copied < progress.bytes_planned + (1 << 20), "{kept} kept, {progress:?}");
    settle(&store);
    assert_eq!(testing::held_by(&store, KeyspaceId(0), ShardId(2)).unwrap().len(), 340);
    assert!((0..340).all(|n| store.get(key(n)).unwrap().as_deref() == Some(&value(n)[..])));
}

/// Two thirds of it are copying, a sixth is comparing, the rest cleaning up; it never goes back.
#[test]
fn progress_goes_from_nothing_to_all() {
    let world = World::new();
    let (store, _) = world.filled();
    let large = "x".repeat(64 << 10);
    for n in 0..200u32 {
        store.insert(format!("large {n}"), &large).unwrap();
        if n % 20 == 0 {
            store.flush().unwrap();
        }
    }
    store.flush().unwrap();
    let change = store.apply(grow_and_drain(&store)).unwrap();
    let (mut before, mut halves) = (0.0, BTreeMap::new());
    loop {
        let progress = change.progress();
        let (fraction, done) =
            (progress.fraction, progress.bytes_copied as f64 / progress.bytes_planned as f64);
        let due = match progress.phase {
            Phase::Copying => {
                assert!((fraction - 0.66 * done.min(1.0)).abs() < 1e-9, "{progress:?}");
                0.0..=0.66
            }
            Phase::Verifying => 0.66..=0.83,
            Phase::Cleaning => 0.83..=1.0,
            _ => 1.0..=1.0,
        };
        // Sums of them are rounded.
        let is_due = fraction >= due.start() - 1e-9 && fraction <= due.end() + 1e-9;
        assert!(is_due && fraction >= before - 1e-9, "{progress:?} after {before}");
        if fraction > *due.start() && fraction < *due.end() {
            halves.insert(format!("{:?}", progress.phase), fraction);
        }
        before = fraction;
        if !testing::change_step(&store).unwrap() {
            break;
        }
    }
    assert_eq!(change.progress().fraction, 1.0);
    assert!(halves.contains_key("Copying") && halves.contains_key("Verifying"), "{halves:?}");
}

#[test]
fn shards_come_and_go_with_their_records() {
    let world = World::new();
    let (store, content) = world.filled();
    let before = store.topology().epoch;
    let plan = grow_and_drain(&store);
    assert!(plan.bytes() > 0 && plan.copies() > 0);
    let roles: Vec<_> = plan.shards().iter().map(|shard| (shard.id.0, shard.role)).collect();
    let stays = Role::Stays;
    assert_eq!(roles, [(0, stays), (1, Role::Leaves), (2, stays), (3, stays), (4, Role::Joins)]);
    let weights: Vec<f64> = plan.shards().iter().map(|shard| shard.weight).collect();
    assert_eq!(weights, [1.0, 1.0, 1.0, 1.0, 2.0]);
    let table = plan.to_string();
    assert!(table.contains("joins") && table.contains("leaves"), "{table}");
    assert_eq!(serde_json::from_str::<Plan>(&serde_json::to_string(&plan).unwrap()).unwrap(), plan);
    assert_eq!(store.topology().epoch, before, "nothing has happened yet");

    let copies = plan.copies() as u64;
    let change = store.apply(plan).unwrap();
    let joining: Vec<_> = store.stats().unwrap().shards.iter().map(|s| s.health.clone()).collect();
    assert_eq!(joining.last(), Some(&Health::Joining));
    let health = store.health().unwrap();
    assert_eq!((health.is_good(), &health.shards.last().unwrap().health), (false, &Health::Joining));
    settle(&store);
    assert_eq!(change.wait().unwrap(), Phase::Completed);
    let progress = change.progress();
    assert_eq!(progress.fraction, 1.0);
    assert!(progress.records_copied >= copies / 2 && progress.records_copied < 2 * content.len() as u64);
    check_reads(&store, &content);
    check_placed(&store, &content);
    assert_eq!(store.topology().epoch, change.epoch());

    // The shard that left is kept until it is dropped, and is not taken for another's directory.
    let place = store.topology().shards.into_iter().find(|shard| shard.role == ShardRole::Retired).unwrap();
    assert_eq!(place.id, ShardId(1));
    store.close().unwrap();
    drop(store);
    let named = ["/store/shards/0000", "/store/shards/0001", "/store/shards/0002", "/store/shards/0003"];
    let options = named.iter().fold(Options::new(), |options, path| options.shard(ShardOptions::new(path)));
    let error = world.open(options).map(|_| ()).unwrap_err();
    assert_eq!((error.kind(), error.shard()), (ErrorKind::Mismatch, Some(ShardId(1))), "{error}");
    let other = Options::new().shard(ShardOptions::new(&place.path)).replication_factor(1);
    let error = testing::open(Path::new("/other"), &other, world.seams()).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
    let store = world.open(Options::new()).unwrap();
    let again = store.plan().add_shard(ShardOptions::new(&place.path)).preview().unwrap();
    assert_eq!(store.apply(again.clone()).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(store.drop_shard(ShardId(0)).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(store.drop_shard(ShardId(9)).unwrap_err().kind(), ErrorKind::NotFound);
    store.drop_shard(ShardId(1)).unwrap();
    assert_eq!(store.drop_shard(ShardId(1)).unwrap_err().kind(), ErrorKind::NotFound);
    store.apply(again).unwrap();
    settle(&store);
    check_reads(&store, &content);
    check_placed(&store, &content);

    store.close().unwrap();
    drop(store);
    let store = world.open(Options::new()).unwrap();
    check_reads(&store, &content);
    assert_eq!(store.ring().members().len(), 5);
}

#[test]
fn a_replaced_shard_moves_its_own_records_to_its_successor_and_nothing_else() {
    let world = World::new();
    let (store, content) = world.filled();
    // It may well be dead: its copies are made from the others.
    testing::fail_shard(&store, ShardId(2));
    let plan = store.plan().replace_shard(ShardId(2), ShardOptions::new("/mnt/new")).preview().unwrap();
    assert_eq!(plan.problems(), []);
    assert!(plan.moves().iter().all(|m| m.gained == [ShardId(4)] && m.lost == [ShardId(2)]));
    store.apply(plan).unwrap();
    settle(&store);
    check_reads(&store, &content);
    check_placed(&store, &content);
}

/// A successor for which nothing is said takes weight and zone of the one that it replaces.
#[test]
fn a_successor_has_the_weight_that_is_asked_for_or_that_of_its_predecessor() {
    let new = || ShardOptions::new("/mnt/new");
    for (options, weight, zone) in [
        (new(), 2.0, "rack"),
        (new().weight(3.0), 3.0, ""),
        (new().zone("other"), 1.0, "other"),
        (new().zone("other").weight(3.0), 3.0, "other"),
    ] {
        let world = World::new();
        let shard = |n: u32| ShardOptions::new(format!("/mnt/{n}"));
        let three = (0..3).map(shard).map(|options| options.weight(2.0).zone("rack"));
        let store =
            world.open(three.fold(Options::new().virtual_nodes(64), |all, shard| all.shard(shard))).unwrap();
        let plan = store.plan().replace_shard(ShardId(1), options).preview().unwrap();
        let planned = plan.shards().iter().find(|shard| shard.id == ShardId(3)).unwrap();
        assert_eq!((planned.weight, planned.zone.as_str()), (weight, zone));
    }
}

/// A change that cannot begin leaves nothing behind, or says until that is so why no other can.
#[test]
fn the_directory_of_a_shard_that_did_not_join_is_cleared_before_the_next_change() {
    let world = World::new();
    let (store, content) = world.filled();
    let plan = || store.plan().add_shard(ShardOptions::new("/mnt/new")).preview().unwrap();
    world.factory.fail(ShardId(4), EngineOperation::Open);
    let under = |path: &Path| path.starts_with("/mnt/new");
    let seal = |path: &Path| path == "/mnt/new/SEAL" || path == "/mnt/new/IDENTITY";
    world.disk.inject(Fault::on(annulus::testing::Operation::Remove).at(seal));
    store.apply(plan()).unwrap_err();
    assert_eq!(store.topology().shards.len(), 4);
    let error = store.apply(plan()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert!(error.path().is_some_and(under), "{error}");
    // Nothing else waits for that, nor a change that makes no shard there.
    assert!(!testing::change_step(&store).unwrap());
    for plan in
        [store.plan().set_replication_factor(3), store.plan().add_shard(ShardOptions::new("/mnt/other"))]
    {
        store.apply(plan.preview().unwrap()).unwrap();
        settle(&store);
    }
    let error = store.apply(plan()).unwrap_err();
    assert_eq!((error.kind(), error.shard()), (ErrorKind::Busy, Some(ShardId(4))), "{error}");
    world.disk.heal();
    world.factory.heal(ShardId(4));
    // It is cleared when somebody wants it, if not before.
    store.apply(plan()).unwrap();
    settle(&store);
    let ids: Vec<u32> = store.topology().shards.iter().map(|shard| shard.id.0).collect();
    assert_eq!(ids, [0, 1, 2, 3, 5, 6]);
    check_reads(&store, &content);
    check_placed(&store, &content);
}

#[test]
fn copies_and_virtual_nodes_grow_and_shrink() {
    let world = World::new();
    let (store, content) = world.filled();
    for (replicas, nodes) in [(3, 64), (1, 64), (2, 128), (4, 256), (1, 256)] {
        let plan = store.plan().set_replication_factor(replicas).set_virtual_nodes(nodes).preview().unwrap();
        store.apply(plan).unwrap();
        settle(&store);
        let ring = store.ring();
        assert_eq!((ring.replication_factor(), ring.virtual_nodes()), (replicas, nodes));
        check_reads(&store, &content);
        check_placed(&store, &content);
    }
    let error = store.plan().set_virtual_nodes(64).preview().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn what_cannot_be_had_in_full_is_said_and_refused_unless_accepted() {
    let world = World::new();
    let (store, content) = world.filled();
    // The most that there may be as well.
    for replicas in [6, 16] {
        let plan = store.plan().set_replication_factor(replicas).preview().unwrap();
        assert_eq!(plan.problems(), [Problem::TooFewShards { replicas, shards: 4 }]);
        assert_eq!(store.apply(plan).unwrap_err().kind(), ErrorKind::Refused);
    }
    let plan = store.plan().set_replication_factor(6).preview().unwrap();
    store.apply(plan.accept_problems()).unwrap();
    settle(&store);
    assert_eq!(store.ring().replication_factor(), 4);
    for factor in [0, 17, usize::MAX] {
        let error = store.plan().set_replication_factor(factor).preview().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{factor}: {error}");
    }
    check_placed(&store, &content);

    let plan = store.plan().set_replication_factor(2).preview().unwrap();
    store.apply(plan).unwrap();
    settle(&store);
    let zoned = || store.plan().set_zone(ShardId(0), "a").set_zone(ShardId(1), "b");
    assert_eq!(zoned().preview().unwrap().problems(), []);
    let plan = zoned().set_replication_factor(4).preview().unwrap();
    assert_eq!(plan.problems(), [Problem::TooFewZones { replicas: 4, zones: 3 }]);
    let plan = store.plan().set_zone(ShardId(0), "a").set_weight(ShardId(0), 100.0).preview().unwrap();
    assert!(plan.problems().iter().any(|p| matches!(p, Problem::Unbalanced { .. })), "{plan}");

    // An offline shard that is to gain records, or is to be left with the only copy, stands in the way for good.
    testing::fail_shard(&store, ShardId(3));
    for plan in [store.plan().drain_shard(ShardId(0)), store.plan().set_replication_factor(1)] {
        let plan = plan.preview().unwrap();
        assert!(plan.problems().contains(&Problem::Offline { shard: ShardId(3) }), "{plan}");
        let error = store.apply(plan.accept_problems()).unwrap_err();
        assert_eq!((error.kind(), error.shard()), (ErrorKind::Unavailable, Some(ShardId(3))));
    }
    check_reads(&store, &content);
}

#[test]
fn a_disk_that_is_too_small_for_what_would_land_on_it_is_found_before() {
    let world = World::new();
    let (store, _) = world.filled();
    let planned = || store.plan().add_shard(ShardOptions::new("/mnt/new")).preview().unwrap();
    let gained = planned().shards()[4].bytes_gained;
    world.disk.set_capacity(Some(0));
    let plan = planned();
    let shards = vec![ShardId(4)];
    assert_eq!(plan.problems(), [Problem::TooSmall { shards, needed: gained + gained / 4, free: 0 }]);
    assert_eq!(store.apply(plan).unwrap_err().kind(), ErrorKind::Refused);
    world.disk.set_capacity(Some(u64::MAX / 2));
    assert_eq!(planned().problems(), []);
}

/// The figures of a problem change from one moment to the next: accepted is the problem.
#[test]
fn room_that_just_suffices_is_enough_and_a_problem_that_was_accepted_may_have_other_figures() {
    let world = World::new();
    let store = world.open(Options::new().shards(4).virtual_nodes(64)).unwrap();
    let mut content = Content::new();
    (0..400).for_each(|n| put(&store, &mut content, n, &[b'v'; 4000]));
    store.flush().unwrap();
    let planned = || store.plan().add_shard(ShardOptions::new("/mnt/new")).preview().unwrap();
    let gained = planned().shards()[4].bytes_gained;
    let needed = gained + gained / 4;
    world.disk.set_capacity(Some(1 << 40));
    let free = testing::Disk::space(&world.disk, Path::new(DIR)).unwrap().unwrap().free;
    let leave = |bytes: u64| world.disk.set_capacity(Some((1 << 40) - free + bytes));
    leave(needed);
    let without = planned().accept_problems();
    assert_eq!(without.problems(), []);
    leave(needed - 1);
    // Nobody has accepted what nobody has seen.
    assert_eq!(store.apply(without).unwrap_err().kind(), ErrorKind::Refused);
    let shards = vec![ShardId(4)];
    assert_eq!(planned().problems(), [Problem::TooSmall { shards, needed, free: needed - 1 }]);
    let accepted = planned().accept_problems();
    leave(needed - 2);
    store.apply(accepted).unwrap();
    settle(&store);
    check_reads(&store, &content);
    check_placed(&store, &content);
}

/// What has been copied stays told when it is no longer the process that copied it.
#[test]
fn what_was_copied_before_a_crash_is_counted_after_it() {
    let mut world = World::new();
    let (store, content) = world.filled();
    store.flush().unwrap();
    store.apply(grow_and_drain(&store)).unwrap();
    step_to(&store, Phase::Verifying);
    let before = store.change().unwrap().progress();
    assert!(before.records_copied > 100 && before.bytes_copied > 1000, "{before:?}");
    world.crash(None);
    drop(store);
    let store = world.open(Options::new()).unwrap();
    let after = store.change().unwrap().progress();
    assert_eq!(
        (after.records_copied, after.bytes_copied, after.bytes_planned),
        (before.records_copied, before.bytes_copied, before.bytes_planned)
    );
    settle(&store);
    check_reads(&store, &content);
    check_placed(&store, &content);
}

/// What a plan says of the bytes that move, beside what is there: one copy, so that what is gained is what others lose.
#[test]
fn the_bytes_of_a_plan_are_those_of_the_virtual_nodes_that_move() {
    for nodes in [64, 256] {
        let world = World::new();
        let store = world.open(Options::new().shards(4).replication_factor(1).virtual_nodes(64)).unwrap();
        let mut content = Content::new();
        (0..3000).for_each(|n| put(&store, &mut content, n, &[b'v'; 200]));
        store.flush().unwrap();
        let live: u64 = store.stats().unwrap().shards.iter().map(|s| s.live_bytes).sum();
        let plan = store.plan().add_shard(ShardOptions::new("/mnt/new")).set_virtual_nodes(nodes);
        let plan = plan.preview().unwrap();
        let (gained, lost): (Vec<u64>, Vec<u64>) =
            plan.shards().iter().map(|s| (s.bytes_gained, s.bytes_lost)).unzip();
        assert_eq!(gained[4], lost.iter().sum::<u64>());
        assert!(gained[..4].iter().all(|bytes| *bytes == 0));
        // A fifth of all, as far as keys are spread evenly.
        let share = gained[4] as f64 / live as f64;
        assert!((0.17..0.23).contains(&share), "{nodes} nodes: {} of {live} bytes", gained[4]);
    }
}

/// Shards that hold different amounts, each of which leaves: it loses just what it has.
#[test]
fn a_shard_that_leaves_loses_by_the_plan_what_it_has() {
    let world = World::new();
    let of = |(n, weight)| ShardOptions::new(format!("/disk/{n}")).weight(weight);
    let shards = [1.0, 3.0, 2.0].into_iter().enumerate().map(of);
    let options = shards.fold(Options::new(), |options, shard| options.shard(shard));
    let store = world.open(options.replication_factor(1).virtual_nodes(64)).unwrap();
    let mut content = Content::new();
    (0..3000).for_each(|n| put(&store, &mut content, n, &[b'v'; 200]));
    store.flush().unwrap();
    for nodes in [64, 128] {
        for shard in store.stats().unwrap().shards {
            let plan = store.plan().drain_shard(shard.id).set_virtual_nodes(nodes).preview().unwrap();
            let lost = plan.shards().iter().find(|planned| planned.id == shard.id).unwrap().bytes_lost;
            let live = shard.live_bytes;
            // Of each virtual node whole bytes.
            assert!(live > 10_000 && lost <= live && live - lost < 200, "{lost} of {live} bytes");
        }
    }
}

/// A change stands or falls by whether a virtual node would have fewer complete copies, each looked at by itself.
#[test]
fn an_offline_shard_is_in_the_way_only_where_it_takes_something_or_is_left_alone() {
    let (mut ready, mut not) = (0, 0);
    for (offline, weight) in (0..5).flat_map(|id| [(id, 0.5), (id, 3.0)]) {
        for nodes in [64, 128] {
            for other in (0..5).filter(|id| *id != offline) {
                let world = World::new();
                let store = world.open(Options::new().shards(5).virtual_nodes(64)).unwrap();
                testing::fail_shard(&store, ShardId(offline));
                let plan = store
                    .plan()
                    .set_virtual_nodes(nodes)
                    .set_weight(ShardId(other), weight)
                    .preview()
                    .unwrap();
                let gains = plan.moves().iter().any(|m| m.gained.contains(&ShardId(offline)));
                // With two copies one that is complete is enough for a node to be no worse off, unless there were two.
                let ring = store.ring();
                let children = nodes / 64;
                let worse = plan.moves().iter().any(|m| {
                    let before = ring.owners(annulus::VirtualNode(m.virtual_node.0 / children));
                    let had = before.iter().filter(|id| **id != ShardId(offline)).count();
                    let after = before.iter().filter(|id| !m.lost.contains(id)).chain(&m.gained);
                    after.filter(|id| **id != ShardId(offline)).count() < had
                });
                let named = plan.problems().contains(&Problem::Offline { shard: ShardId(offline) });
                assert_eq!(named, gains || worse, "{offline} is offline, {other} weighs {weight}: {plan}");
                *(if named { &mut not } else { &mut ready }) += 1;
            }
        }
    }
    assert!(ready > 2 && not > 2, "{ready} ready, {not} not");
}

/// Who has had fewer zones than copies all along is not kept from other changes by that.
#[test]
fn fewer_zones_than_copies_are_no_problem_of_a_change_that_leaves_them_so() {
    let world = World::new();
    let shards = (0..4).map(|n| ShardOptions::new(format!("/disk/{n}")).zone(["a", "b"][n % 2]));
    let options = shards.fold(Options::new(), |options, shard| options.shard(shard));
    let store = world.open(options.replication_factor(3).virtual_nodes(64)).unwrap();
    let zones = |plan: &annulus::Plan| {
        plan.problems().iter().filter(|p| matches!(p, Problem::TooFewZones { .. })).count()
    };
    let plan = store.plan().set_weight(ShardId(0), 2.0).preview().unwrap();
    assert_eq!(zones(&plan), 0, "{plan}");
    let plan = store.plan().set_replication_factor(4).preview().unwrap();
    assert_eq!(zones(&plan), 1, "{plan}");
}

#[test]
fn as_many_zones_as_copies_are_enough() {
    let world = World::new();
    let shards = (0..4).map(|n| ShardOptions::new(format!("/disk/{n}")).zone(["a", "b"][n % 2]));
    let options = shards.fold(Options::new(), |options, shard| options.shard(shard));
    let store = world.open(options.replication_factor(2).virtual_nodes(64)).unwrap();
    let plan = store.plan().set_weight(ShardId(0), 2.0).preview().unwrap();
    assert!(!plan.problems().iter().any(|p| matches!(p, Problem::TooFewZones { .. })), "{plan}");
}

#[test]
fn a_plan_can_be_drawn() {
    let (store, _) = World::new().filled();
    let planner = store.plan().add_shard(ShardOptions::new("/mnt/new"));
    let (ring, plan) = (planner.preview_ring().unwrap(), planner.preview().unwrap());
    assert_eq!(store.ring().moves_to(&ring).unwrap(), plan.moves());
    assert!(store.ring().to_svg_of_moves(&ring).unwrap().starts_with("<svg"));
}

#[test]
fn one_change_at_a_time_and_no_stale_plan() {
    let world = World::new();
    let (store, content) = world.filled();
    let (first, second) = (grow_and_drain(&store), store.plan().set_replication_factor(3).preview().unwrap());
    let change = store.apply(first).unwrap();
    assert_eq!(store.apply(second.clone()).unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(store.plan().preview().unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(store.change().unwrap().epoch(), change.epoch());
    settle(&store);
    assert_eq!(store.apply(second).unwrap_err().kind(), ErrorKind::Stale);
    assert_eq!(change.cancel().unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(store.plan().drain_shard(ShardId(1)).preview().unwrap_err().kind(), ErrorKind::NotFound);
    let other = World::new();
    let (foreign, _) = other.filled();
    let plan = store.plan().set_replication_factor(3).preview().unwrap().accept_problems();
    assert_eq!(foreign.apply(plan).unwrap_err().kind(), ErrorKind::Mismatch);
    check_placed(&store, &content);
}

/// It would be a member that is not in the ring, and the manifest one that nobody can read.
#[test]
fn a_shard_that_joins_by_a_plan_does_not_leave_by_the_same_one() {
    let world = World::new();
    let (store, content) = world.filled();
    let new = || ShardOptions::new("/mnt/new");
    let plans = [
        store.plan().add_shard(new()).drain_shard(ShardId(4)),
        store.plan().add_shard(new()).replace_shard(ShardId(4), ShardOptions::new("/mnt/newer")),
        store.plan().replace_shard(ShardId(1), new()).drain_shard(ShardId(4)),
    ];
    for plan in plans {
        let error = plan.preview().unwrap_err();
        assert_eq!((error.kind(), error.shard()), (ErrorKind::NotFound, Some(ShardId(4))), "{error}");
    }
    // One that only joins may be given another weight by it.
    let plan = store.plan().add_shard(new()).set_weight(ShardId(4), 2.0).preview().unwrap();
    store.apply(plan).unwrap();
    settle(&store);
    check_placed(&store, &content);
}

#[test]
fn a_paused_change_rests_and_writes_still_go_to_both_placements() {
    let world = World::new();
    let (store, mut content) = world.filled();
    let change = store.apply(grow_and_drain(&store)).unwrap();
    change.pause().unwrap();
    assert!(!testing::change_step(&store).unwrap());
    assert!(change.progress().paused);
    (400..450).for_each(|n| put(&store, &mut content, n, b"paused"));
    store.flush().unwrap();
    let joined = testing::held_by(&store, KeyspaceId(0), ShardId(4)).unwrap();
    assert!(!joined.is_empty() && joined.len() < 50, "{} records", joined.len());
    let health = || store.health().unwrap().shards.into_iter().map(|s| s.health).collect::<Vec<_>>();
    let online = |count: usize| vec![Health::Online; count];
    assert_eq!(health(), [online(4), vec![Health::Joining]].concat());
    change.set_rate(1 << 20).unwrap();
    change.resume().unwrap();
    settle(&store);
    assert_eq!(health(), online(4));
    assert_eq!(change.pause().unwrap_err().kind(), ErrorKind::NotFound);
    check_reads(&store, &content);
    check_placed(&store, &content);
}

#[test]
fn a_cancelled_change_leaves_the_old_placement_and_no_old_copies_behind() {
    for phase in [Phase::Copying, Phase::Verifying] {
        let world = World::new();
        let (store, mut content) = world.filled();
        let before = store.ring();
        let change = store.apply(grow_and_drain(&store)).unwrap();
        let owners = |store: &Store| -> Vec<Vec<ShardId>> {
            (0..64).map(|n| store.ring().owners(annulus::VirtualNode(n)).to_vec()).collect()
        };
        step_to(&store, phase);
        change.cancel().unwrap();
        assert_eq!(change.wait().unwrap(), Phase::Cancelled);
        for late in [change.cancel(), change.pause(), change.set_rate(None)] {
            let error = late.unwrap_err();
            assert!(
                error.kind() == ErrorKind::NotFound && error.to_string().contains("was cancelled"),
                "{error}"
            );
        }
        // Copies that nobody keeps up any more are not to be seen, though they have not been removed yet.
        (0..400).step_by(2).for_each(|n| remove(&store, &mut content, n));
        store.flush().unwrap();
        check_reads(&store, &content);
        let again = grow_and_drain(&store);
        assert!(store.ring().epoch() > change.epoch());
        assert_eq!(
            owners(&store),
            (0..64).map(|n| before.owners(annulus::VirtualNode(n)).to_vec()).collect::<Vec<_>>()
        );
        // The shards that gained hold old copies still, which must go before they gain again.
        let busy = store.apply(again.clone());
        assert_eq!(busy.unwrap_err().kind(), ErrorKind::Busy);
        settle(&store);
        check_placed(&store, &content);
        let again =
            store.plan().add_shard(ShardOptions::new("/mnt/new")).drain_shard(ShardId(1)).preview().unwrap();
        store.apply(again).unwrap();
        settle(&store);
        check_reads(&store, &content);
        check_placed(&store, &content);
    }
}

/// Who waits is woken by whatever happens to the change, and goes on waiting for its end.
#[test]
fn who_waits_for_a_change_waits_for_its_end() {
    let world = World::new();
    let (store, content) = world.filled();
    let change = store.apply(grow_and_drain(&store)).unwrap();
    let short = std::time::Duration::from_millis(50);
    assert_eq!(change.wait_for(short).unwrap(), None);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| change.wait_for(std::time::Duration::from_secs(60)));
        for _ in 0..3 {
            std::thread::sleep(short);
            change.pause().unwrap();
            change.resume().unwrap();
        }
        settle(&store);
        assert_eq!(waiter.join().unwrap().unwrap(), Some(Phase::Completed));
    });
    assert_eq!(change.wait_for(short).unwrap(), Some(Phase::Completed));
    check_placed(&store, &content);
}

/// Who keeps the handle of a change hears of that one, whatever has come after it.
#[test]
fn what_became_of_a_change_is_told_while_others_go_on() {
    let world = World::new();
    let (store, content) = world.filled();
    let cancelled = store.apply(grow_and_drain(&store)).unwrap();
    cancelled.cancel().unwrap();
    settle(&store);
    let grown = store.apply(grow_and_drain(&store)).unwrap();
    grown.set_rate(Some(1 << 30)).unwrap();
    settle(&store);
    let told = grown.progress();
    assert!(told.records_copied > 100 && told.bytes_copied > 1000 && told.fraction == 1.0, "{told:?}");
    assert_eq!((told.phase, told.rate), (Phase::Completed, Some(1 << 30)));
    let mut changes = vec![];
    for n in 0..70 {
        let weight = 1.0 + f64::from(n % 2);
        let plan = store.plan().set_weight(ShardId(0), weight).preview().unwrap();
        let change = store.apply(plan).unwrap();
        change.pause().unwrap();
        assert_eq!((grown.progress(), grown.wait().unwrap()), (told.clone(), Phase::Completed));
        assert_eq!(
            (cancelled.progress().phase, cancelled.wait().unwrap()),
            (Phase::Cancelled, Phase::Cancelled)
        );
        assert!(change.progress().paused && change.progress().phase == Phase::Copying);
        change.resume().unwrap();
        settle(&store);
        changes.push(change);
    }
    assert!(changes.iter().all(|change| change.progress().phase == Phase::Completed));
    assert!(changes.iter().all(|change| change.progress().epoch == change.epoch()));
    check_reads(&store, &content);
    check_placed(&store, &content);
}

#[test]
fn a_scan_sees_its_own_moment_through_a_change() {
    let world = World::new();
    let (store, mut content) = world.filled();
    let old = content.clone();
    let mut scan = store.iter();
    let mut found: Vec<_> = scan.by_ref().take(3).map(|item| item.unwrap().0.to_vec()).collect();
    for n in 0..400 {
        match n % 3 {
            0 => put(&store, &mut content, n, b"second"),
            1 => remove(&store, &mut content, n),
            _ => {}
        }
    }
    let change = store.apply(grow_and_drain(&store)).unwrap();
    settle(&store);
    assert_eq!(change.wait().unwrap(), Phase::Completed);
    let (mut rest, mut values) = (Vec::new(), Vec::new());
    for item in scan {
        let (key, value) = item.unwrap();
        rest.push(key.to_vec());
        values.push(value.to_vec());
    }
    found.append(&mut rest);
    assert_eq!(found, old.keys().cloned().collect::<Vec<_>>());
    assert!(values.iter().all(|value| value == b"first"));
    check_reads(&store, &content);
}

#[test]
fn what_a_shard_no_longer_owns_is_not_seen_before_it_is_removed() {
    let world = World::new();
    let (store, mut content) = world.filled();
    let plan = store.plan().add_shard(ShardOptions::new("/mnt/new")).preview().unwrap();
    let change = store.apply(plan).unwrap();
    step_to(&store, Phase::Cleaning);
    assert_eq!(change.cancel().unwrap_err().kind(), ErrorKind::InvalidInput);
    (0..400).step_by(3).for_each(|n| remove(&store, &mut content, n));
    store.flush().unwrap();
    check_reads(&store, &content);
    settle(&store);
    check_reads(&store, &content);
    check_placed(&store, &content);
}

#[test]
fn a_target_that_fails_stops_the_change_and_costs_no_answer() {
    let world = World::new();
    let (store, mut content) = world.filled();
    let change = store.apply(grow_and_drain(&store)).unwrap();
    world.factory.fail(ShardId(4), EngineOperation::Apply);
    (400..410).for_each(|n| put(&store, &mut content, n, b"later"));
    store.flush().unwrap();
    let error = loop {
        if let Err(error) = testing::change_step(&store) {
            break error;
        }
    };
    assert_eq!(change.wait().unwrap_err().kind(), error.kind());
    assert!(store.stats().unwrap().warnings.iter().any(|w| w.contains("cannot go on")));
    check_reads(&store, &content);
    world.factory.heal(ShardId(4));
    store.close().unwrap();
    drop((store, change));
    // Opened again it catches up from the journal, and the change goes on.
    let store = world.open(Options::new()).unwrap();
    assert!(store.change().is_some());
    settle(&store);
    check_reads(&store, &content);
    check_placed(&store, &content);
}

#[test]
fn a_source_that_fails_is_replaced_by_another() {
    let world = World::new();
    let (store, content) = world.filled();
    store.apply(grow_and_drain(&store)).unwrap();
    world.factory.corrupt(ShardId(1), &[&[0; 4][..], &key(77)].concat());
    settle(&store);
    check_reads(&store, &content);
    world.factory.heal(ShardId(1));
    check_placed(&store, &content);
}

/// The disk dies at one operation after another of a whole change, by a kill or a power cut: whatever was reached, the store
/// opens, has everything, and comes to one of the two placements.
#[test]
fn a_crash_at_any_operation_of_the_disk_resumes_or_rolls_back() {
    let mut found = BTreeSet::new();
    for power in [false, true] {
        for at in 0.. {
            let mut world = World::new();
            let (store, content) = world.filled();
            store.flush().unwrap();
            let plan = grow_and_drain(&store);
            world.disk.inject(Fault::on_any_change().after(at));
            let died = store.apply(plan).is_err()
                || loop {
                    match testing::change_step(&store) {
                        Ok(true) => {}
                        Ok(false) => break false,
                        Err(_) => break true,
                    }
                };
            world.crash(power.then_some(at));
            drop(store);
            let store = world.open(Options::new()).unwrap_or_else(|e| panic!("operation {at}: {e}"));
            check_reads(&store, &content);
            let phase = store.change().map(|change| change.progress().phase);
            let grown = store.ring().members().len() == 4 && store.topology().epoch.0 == 2;
            found.insert((phase.map(|phase| format!("{phase:?}")), grown));
            settle(&store);
            check_reads(&store, &content);
            check_placed(&store, &content);
            let members: Vec<u32> = store.ring().members().iter().map(|m| m.id.0).collect();
            assert!(members == [0, 1, 2, 3] || members == [0, 2, 3, 4], "{members:?}");
            // What was rolled back can be had again, in the same directory.
            if members == [0, 1, 2, 3] {
                store.apply(grow_and_drain(&store)).unwrap();
                settle(&store);
                check_placed(&store, &content);
            }
            if !died {
                assert!(at > 40, "{at} operations in all");
                break;
            }
        }
    }
    let expected = [(None, false), (None, true), (Some("Copying".to_owned()), false)];
    assert!(expected.iter().all(|e| found.contains(e)), "{found:?}");
}

#[test]
fn values_larger_than_a_chunk_are_moved() {
    let world = World::new();
    let store = world.open(Options::new().shards(4).virtual_nodes(64)).unwrap();
    let mut content = Content::new();
    (0..6).for_each(|n| put(&store, &mut content, n, &vec![n as u8; 1200 << 10]));
    store.flush().unwrap();
    store.apply(grow_and_drain(&store)).unwrap();
    for _ in 0..200 {
        if !testing::change_step(&store).unwrap() {
            break;
        }
    }
    assert!(store.change().is_none(), "the change does not get on");
    check_reads(&store, &content);
    check_placed(&store, &content);
}

/// A number below `n`, from a seed that it moves on (splitmix64).
fn below(seed: &mut u64, n: u32) -> u32 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed ^ (mixed >> 31)) % u64::from(n.max(1))) as u32
}

/// What a store must hold when it has the first commits of a log, each of one key: commit `i` has version `i + 1`.
type Log = Vec<(u32, Option<Vec<u8>>)>;

fn content_of(log: &Log) -> Content {
    let mut content = Content::new();
    for (index, (n, value)) in log.iter().enumerate() {
        match value {
            Some(value) => content.insert(key(*n), (value.clone(), Seq(index as u64 + 1))),
            None => content.remove(&key(*n)),
        };
    }
    content
}

fn commit(store: &Store, log: &mut Log, n: u32, value: Option<&[u8]>, durability: Durability) {
    let seq = match value {
        Some(value) => store.insert_with(key(n), value, durability).unwrap(),
        None => store.remove_with(key(n), durability).unwrap(),
    };
    log.push((n, value.map(<[u8]>::to_vec)));
    assert_eq!(seq, Seq(log.len() as u64));
}

/// A chunk brings along what the memtable that waits to be flushed says of its keys, so after a crash a new owner may have writes
/// that its source is yet to get from the journal: that is no difference between the two, and stays none when such a key is removed.
#[test]
fn what_a_chunk_brought_before_a_crash_is_no_difference_after_it() {
    for first in 0..400_u64 {
        let mut seed = first;
        let seed = &mut seed;
        let mut world = World::new();
        let options = Options::new().shards(5).replication_factor(1).virtual_nodes(64);
        let store = world.open(options).unwrap();
        let mut log = Log::new();
        let most = [4, 40, 300][below(seed, 3) as usize];
        let records = 1 + below(seed, most);
        (0..records).for_each(|n| commit(&store, &mut log, n, Some(b"first"), Durability::Process));
        let planner = store.plan().set_replication_factor(2).add_shard(ShardOptions::new("/mnt/new"));
        let plan = planner.preview().unwrap();
        drop(planner);
        store.apply(plan).unwrap();
        // Some are copied before the writes that follow, some after.
        if below(seed, 4) == 0 {
            testing::change_step(&store).unwrap();
        }
        let durability = [Durability::Memory, Durability::Process, Durability::Sync][below(seed, 3) as usize];
        for round in 0..=below(seed, 3) {
            for _ in 0..=below(seed, records) {
                let n = below(seed, records + 3);
                let value = [Some(&b"second"[..]), Some(b"third"), None][below(seed, 3) as usize];
                commit(&store, &mut log, n, value, durability);
            }
            match below(seed, 4) {
                0 => store.flush().unwrap(),
                1 if round > 0 => drop(testing::flush_oldest(&store).unwrap()),
                _ => testing::freeze(&store),
            }
        }
        for _ in 0..[1, 1, 1, 2, 3][below(seed, 5) as usize] {
            testing::change_step(&store).unwrap();
        }
        match below(seed, 3) {
            0 => {}
            1 => world.crash(None),
            _ => world.crash(Some(first)),
        }
        drop(store);

        let store = world.open(Options::new()).unwrap_or_else(|e| panic!("seed {first}: {e}"));
        let last = store.stats().unwrap().last_seq.0 as usize;
        assert!(last >= records as usize && last <= log.len(), "seed {first}: {last} of {}", log.len());
        log.truncate(last);
        for _ in 0..=below(seed, 3) {
            // One of those that were written last, or any other.
            let recent = log[log.len() - 1 - below(seed, (log.len() as u32).min(8)) as usize].0;
            let n = if below(seed, 2) == 0 { recent } else { below(seed, records) };
            commit(&store, &mut log, n, None, durability);
            match below(seed, 6) {
                0 => store.flush().unwrap(),
                1 => testing::freeze(&store),
                2 => drop(testing::change_step(&store).unwrap_or_else(|e| panic!("seed {first}: {e}"))),
                _ => {}
            }
        }
        loop {
            match testing::change_step(&store) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => panic!("seed {first}: {error}"),
            }
        }
        assert!(store.change().is_none(), "seed {first}");
        let content = content_of(&log);
        check_reads(&store, &content);
        check_placed(&store, &content);
        assert_eq!(store.ring().replication_factor(), 2);
    }
}
