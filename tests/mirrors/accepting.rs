//! A copy of the journal that is accepted though it lacks what was acknowledged: what it lacks is given up, and its numbers with it.

mod comparing;
mod losing;
mod passed;

use super::*;
use annulus::testing::{EngineOperation, Fault, MemoryFactory, Operation, PowerCut, SimDisk};
use annulus::{Health, KeyspaceId};
use std::collections::BTreeMap;

/// A store on a simulated disk with two copies of its journal, of which "/b" is left behind on the way.
struct World {
    disk: SimDisk,
    factory: MemoryFactory,
    options: Options,
    model: BTreeMap<String, String>,
}

fn shard_dir(shard: u32) -> PathBuf {
    PathBuf::from(format!("/store/shards/{shard:04}"))
}

impl World {
    fn new(shards: usize) -> (World, Store) {
        let options = Options::new()
            .shards(shards)
            .replication_factor(2)
            .virtual_nodes(64)
            .memory_budget(8 << 20)
            .journal_segment_bytes(64 << 10)
            .journal_dirs([PathBuf::from("/a"), PathBuf::from("/b")]);
        let world =
            World { disk: SimDisk::new(1), factory: MemoryFactory::new(), options, model: BTreeMap::new() };
        let store = world.open(&world.options).unwrap();
        (world, store)
    }

    fn open(&self, options: &Options) -> annulus::Result<Store> {
        let (disk, factory) = (Arc::new(self.disk.clone()), Arc::new(self.factory.clone()));
        testing::open(Path::new("/store"), options, Seams { disk, factory, background: Background::Off })
    }

    fn accepted(&self) -> Options {
        self.options.clone().accept_journal("/b")
    }

    fn insert(&mut self, store: &Store, key: &str, value: &str) -> Seq {
        self.model.insert(key.into(), value.into());
        store.insert_with(key, value, Durability::Sync).unwrap()
    }

    fn fill(&mut self, store: &Store, numbers: std::ops::Range<u32>, value: &str) {
        numbers.for_each(|n| _ = self.insert(store, &format!("{n}"), value));
    }

    /// From here on "/b" lacks what is written.
    fn leave_b_behind(&self) {
        self.disk.inject(Fault::on_any_change().at(|path| path.starts_with("/b")));
    }

    fn fail_seals(&self, shards: &[u32], after: u64) {
        for shard in shards {
            let dir = shard_dir(*shard);
            let seal = move |path: &Path| path.starts_with(&dir) && path.to_string_lossy().contains("SEAL");
            self.disk.inject(Fault::on(Operation::Rename).at(seal).after(after));
        }
    }

    /// The process ends.
    fn kill(&mut self, store: impl Sized) {
        self.disk = self.disk.kill();
        drop(store);
    }

    /// The machine stops.
    fn cut(&mut self, store: impl Sized, seed: u64) {
        self.disk = self.disk.crash(PowerCut { seed });
        drop(store);
        self.factory.crash(seed);
    }

    /// The good copy is away from now on; what it holds.
    fn take_a_away(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let files = self.disk.files().into_iter().filter(|(path, _)| path.starts_with("/a")).collect();
        self.disk.remove_dir_all(Path::new("/a")).unwrap();
        self.disk.sync_dir(Path::new("/")).unwrap();
        files
    }

    fn fork(&self) -> World {
        World {
            disk: self.disk.fork().kill(),
            factory: self.factory.fork(),
            options: self.options.clone(),
            model: self.model.clone(),
        }
    }

    /// All that is due is there, in the answers and in every shard, and no old version with it.
    fn check(&self, store: &Store, when: &str) {
        store.flush().unwrap();
        while testing::heal_step(store).unwrap() || testing::scrub_step(store).unwrap() {}
        let found: BTreeMap<String, String> = store
            .iter()
            .map(|item| item.unwrap())
            .map(|(k, v)| (String::from_utf8(k.to_vec()).unwrap(), String::from_utf8(v.to_vec()).unwrap()))
            .collect();
        assert!(found == self.model, "{when}: {} for {}", found.len(), self.model.len());
        let shards = store.health().unwrap().shards;
        assert!(shards.iter().all(|shard| shard.health == Health::Online), "{when}: {shards:?}");
        let mut newest = BTreeMap::new();
        let held: Vec<_> = shards
            .iter()
            .map(|shard| (shard.id, testing::held_by(store, KeyspaceId(0), shard.id).unwrap()))
            .collect();
        for (key, seq) in held.iter().flat_map(|(_, held)| held) {
            let known = newest.entry(key.clone()).or_insert(*seq);
            *known = (*known).max(*seq);
        }
        for (id, held) in &held {
            let owned = newest.iter().filter(|(key, _)| store.ring().preference_list(key).contains(id));
            let owned: Vec<_> = owned.map(|(key, seq)| (key.clone(), *seq)).collect();
            assert!(*held == owned, "{when}: shard {id} has {} of {}", held.len(), owned.len());
        }
    }

    /// It goes on: new writes win over whatever is held anywhere, now and after an opening.
    fn goes_on(&mut self, store: Store, when: &str) {
        // First those that were given up last.
        for n in (0..80).rev().chain(80..110) {
            self.insert(&store, &format!("{n}"), "new");
        }
        self.check(&store, when);
        testing::mend(&store);
        store.close().unwrap();
        self.disk = self.disk.kill();
        let store = self.open(&self.options).unwrap_or_else(|e| panic!("{when}, again: {e}"));
        self.check(&store, when);
        assert!(good(&store.stats().unwrap()).iter().all(|good| *good), "{when}");
    }
}

/// The engines had what was flushed last, and their seals did not say so; or they did.
#[test]
fn writes_after_a_copy_was_accepted_count_more_than_what_the_shards_have_beyond_it() {
    for sealed in [false, true] {
        let (mut world, store) = World::new(2);
        world.fill(&store, 0..50, "before");
        store.flush().unwrap();
        world.leave_b_behind();
        world.fill(&store, 50..54, "flushed");
        world.insert(&store, "k", "given up");
        if !sealed {
            world.fail_seals(&[0, 1], 1);
        }
        let _ = store.flush();
        world.kill(store);
        world.take_a_away();
        let error = world.open(&world.options).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        let store = world.open(&world.accepted()).unwrap_or_else(|e| panic!("sealed: {sealed}: {e}"));
        world.check(&store, "what the shards have stays");
        let seq = world.insert(&store, "k", "new");
        assert!(seq.0 >= 50 + (1 << 32), "{seq}");
        world.check(&store, "new");
        world.goes_on(store, "on");
    }
}

/// What the copy has and no shard comes back; what neither has is gone.
#[test]
fn what_an_accepted_copy_has_is_in_the_shards_before_numbers_go_on() {
    let (mut world, store) = World::new(3);
    world.fill(&store, 0..50, "before");
    store.flush().unwrap();
    world.fill(&store, 50..120, "in the journal alone");
    world.leave_b_behind();
    let model = world.model.clone();
    world.fill(&store, 0..130, "given up");
    world.kill(store);
    world.take_a_away();
    world.model = model;
    let store = world.open(&world.accepted()).unwrap();
    world.check(&store, "accepted");
    world.goes_on(store, "on");
}

/// A shard that was away is sealed between what the others have and what is written since.
#[test]
fn a_shard_that_was_away_when_a_copy_was_accepted_is_made_anew() {
    for at_an_opening in [false, true] {
        for later in [0, 10, 300] {
            let (mut world, store) = World::new(3);
            world.fill(&store, 0..100, "before");
            store.flush().unwrap();
            world.leave_b_behind();
            let model = world.model.clone();
            (100..120).for_each(|n| _ = world.insert(&store, &format!("given up {n}"), "on one alone"));
            world.fail_seals(&[0, 1], 0);
            let _ = store.flush();
            world.kill(store);
            world.take_a_away();
            world.model = model;
            world.factory.fail(ShardId(2), EngineOperation::Open);
            let mut store = world.open(&world.accepted()).unwrap();
            (0..later).for_each(|n| _ = world.insert(&store, &format!("after {n}"), "the loss"));
            store.flush().unwrap();
            world.factory.heal(ShardId(2));
            if at_an_opening {
                store.close().unwrap();
                world.disk = world.disk.kill();
                store = world.open(&world.options).unwrap();
            }
            world.check(&store, &format!("at an opening: {at_an_opening}, {later} later"));
            world.goes_on(store, "on");
        }
    }
}

/// A copy that is to be accepted is damaged: it is refused before anything is changed, so that a better one is believed that turns up.
#[test]
fn a_damaged_copy_is_refused_and_not_taken_for_the_newest() {
    let (mut world, store) = World::new(2);
    world.fill(&store, 0..100, "before");
    world.leave_b_behind();
    world.fill(&store, 100..120, "later");
    world.kill(store);
    let away = world.take_a_away();
    let segments = world.disk.list(Path::new("/b")).unwrap();
    let first = segments.iter().filter(|name| name.ends_with(".seg")).min().unwrap();
    world.disk.damage(&Path::new("/b").join(first), |bytes| bytes[8000] ^= 0xff).unwrap();
    let before = world.disk.files();
    let error = world.open(&world.accepted()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
    let changed = |files: Vec<(PathBuf, Vec<u8>)>| {
        files.into_iter().filter(|(path, _)| !path.ends_with("LOCK")).collect::<Vec<_>>()
    };
    assert!(changed(before) == changed(world.disk.files()));
    put_back(&world.disk, &away);
    world.disk = world.disk.kill();
    let store = world.open(&world.options).unwrap();
    world.check(&store, "the better one");
}

/// Of what is written to a copy whose disk fails, a part may be missing before another that is there: that is why it was left behind, and no
/// damage.
#[test]
fn a_copy_that_was_left_behind_with_a_hole_is_accepted_up_to_it() {
    let (mut world, store) = World::new(2);
    world.fill(&store, 0..50, "before");
    let value = |n: u32| format!("{n}-").repeat(1500);
    for n in 50..60 {
        store.insert_with(n.to_string(), value(n), Durability::Process).unwrap();
    }
    world.leave_b_behind();
    let model = world.model.clone();
    world.fill(&store, 60..80, "later");
    world.kill(store);
    world.take_a_away();
    let hole = value(53).into_bytes();
    let holds = |bytes: &[u8]| bytes.windows(hole.len()).position(|window| window == hole);
    let files = world.disk.files();
    let (segment, at) = files
        .iter()
        .filter(|(path, _)| path.starts_with("/b"))
        .find_map(|(path, bytes)| Some((path, holds(bytes)?)))
        .unwrap();
    world.disk.damage(segment, |bytes| bytes[at..at + 2000].fill(0)).unwrap();
    world.model = model;
    world.model.extend((50..53).map(|n| (n.to_string(), value(n))));
    let store = world.open(&world.accepted()).unwrap();
    world.check(&store, "up to the hole");
    world.goes_on(store, "on");
}

/// It was left behind since a sync of it had failed: what the system still shows of it need not be on its disk.
#[test]
fn what_an_accepted_copy_shows_is_durable_there_before_the_shards_get_it() {
    let (mut world, _) = World::new(2);
    (world.disk, world.factory) = (SimDisk::new(2), MemoryFactory::new());
    world.options = world.options.replication_factor(1);
    let store = world.open(&world.options).unwrap();
    world.fill(&store, 0..20, "before");
    store.flush().unwrap();
    let batch = |number: u32| (0..8).map(move |n| format!("batch {number}, {n}"));
    for number in 0..12 {
        let mut writes = annulus::WriteBatch::new();
        batch(number).for_each(|key| _ = writes.insert(key, "whole"));
        store.commit_with(writes, Durability::Process).unwrap();
    }
    world.disk.inject(Fault::on(Operation::Sync).at(|path| path.starts_with("/b")).times(1));
    world.fill(&store, 20..21, "on one alone");
    assert_eq!(good(&store.stats().unwrap()), [true, false]);
    world.kill(store);
    world.take_a_away();
    let undisturbed = world.fork();
    let before = undisturbed.disk.operations();
    drop(undisturbed.open(&world.accepted()).unwrap());
    let all = undisturbed.disk.operations() - before;
    let mut halves = Vec::new();
    for stop in 0..all {
        let mut world = world.fork();
        world.disk.stop_after(stop);
        let opened = world.open(&world.accepted());
        world.cut(opened, stop);
        let store = world.open(&world.accepted()).unwrap_or_else(|e| panic!("stopped at {stop}: {e}"));
        for number in 0..12 {
            let found = batch(number).filter(|key| store.get(key).unwrap().is_some()).count();
            if found != 0 && found != 8 {
                halves.push((stop, number, found));
            }
        }
    }
    assert!(halves.is_empty(), "of {all} operations: {halves:?}");
}

fn put_back(disk: &SimDisk, files: &[(PathBuf, Vec<u8>)]) {
    disk.create_dir_all(Path::new("/a")).unwrap();
    files.iter().for_each(|(path, bytes)| disk.replace(path, bytes).unwrap());
}

/// A store whose engines have something of what is given up, of which their seals say nothing; with the same before the copy that had
/// all went away, and that copy.
fn given_up() -> (World, World, Vec<(PathBuf, Vec<u8>)>) {
    let (mut world, store) = World::new(2);
    world.fill(&store, 0..20, "before");
    store.flush().unwrap();
    world.fill(&store, 20..60, "in the journal alone");
    // The next segment is ready, and has no frame yet.
    testing::tick(&store).unwrap();
    world.leave_b_behind();
    world.fill(&store, 60..80, "given up by the journal alone");
    testing::freeze(&store);
    let model = world.model.clone();
    world.fill(&store, 80..100, "given up");
    world.fail_seals(&[0, 1], 1);
    let _ = testing::flush_oldest(&store);
    world.kill(store);
    let all = world.fork();
    let away = world.take_a_away();
    world.model = model;
    (world, all, away)
}

/// The acceptance stops, or fails, at one operation of the disk after the other: then the store opens as if it had not begun, or
/// goes on with it, whether or not it is accepted once more, and whether or not the copy is back that had all.
#[test]
fn an_acceptance_that_stops_anywhere_is_gone_on_with_or_has_not_begun() {
    let (lost, all, away) = given_up();
    stopped_anywhere(&lost, &all, &away);
}

/// The same where what the store's own directory said is lost as well, and the manifest is a shard's copy.
#[test]
fn an_acceptance_with_a_shards_manifest_that_stops_anywhere_is_gone_on_with_or_has_not_begun() {
    let (lost, mut all, away) = given_up();
    for world in [&lost, &all] {
        for name in ["/store/MANIFEST", "/store/MIRRORS"] {
            world.disk.remove_file(Path::new(name)).unwrap();
        }
        world.disk.sync_dir(Path::new("/store")).unwrap();
    }
    all.disk = all.disk.kill();
    stopped_anywhere(&lost, &all, &away);
}

fn stopped_anywhere(lost: &World, all: &World, away: &[(PathBuf, Vec<u8>)]) {
    for moves in [false, true] {
        let accepting = match moves {
            false => lost.accepted(),
            true => lost.accepted().journal_dirs([PathBuf::from("/e"), PathBuf::from("/f")]),
        };
        let undisturbed = lost.fork();
        let before = undisturbed.disk.operations();
        drop(undisturbed.open(&accepting).unwrap());
        let all_operations = undisturbed.disk.operations() - before;
        // Each at one of the three ends; with `ANNULUS_OPENINGS` at all of them.
        let step = if openings::more() > 1 { 1 } else { 3 + 5 * usize::from(moves) };
        for (first, end) in (0..).zip(["fails", "is killed", "loses its power"]) {
            let mut refused = 0;
            for stop in (first % step as u64..all_operations).step_by(step) {
                let mut world = lost.fork();
                match end {
                    "fails" => world.disk.inject(Fault::on_any_change().after(stop).times(1)),
                    _ => world.disk.stop_after(stop),
                }
                let opened = world.open(&accepting);
                if end == "loses its power" {
                    world.cut(opened, stop);
                } else {
                    world.kill(opened);
                }
                let when = format!("{end} at {stop} of {all_operations}, moves: {moves}");
                let mut twice = world.fork();
                twice.disk.stop_after(stop * 7 % all_operations);
                let opened = twice.open(&accepting);
                twice.kill(opened);
                twice.options = accepting.clone();
                let store = twice.open(&accepting).unwrap_or_else(|e| panic!("{when}: twice: {e}"));
                twice.goes_on(store, &format!("{when}: twice"));
                if interrupted(&world, &accepting, all, (!moves).then_some(away), &when) {
                    refused += 1;
                }
            }
            assert!(refused > 0 && refused < all_operations);
        }
    }
}

/// The store's own directory is lost in the middle of an acceptance: it is gone on with from what the shards say, or begun again.
#[test]
fn an_acceptance_that_stops_and_loses_its_manifest_is_gone_on_with() {
    let (lost, _, _) = given_up();
    let accepting = lost.accepted();
    let undisturbed = lost.fork();
    let before = undisturbed.disk.operations();
    drop(undisturbed.open(&accepting).unwrap());
    for stop in 0..undisturbed.disk.operations() - before {
        let mut world = lost.fork();
        world.options = accepting.clone();
        world.disk.stop_after(stop);
        let opened = world.open(&accepting);
        world.cut(opened, stop);
        for name in ["/store/MANIFEST", "/store/MIRRORS"] {
            world.disk.remove_file(Path::new(name)).unwrap();
        }
        world.disk.sync_dir(Path::new("/store")).unwrap();
        let when = format!("stopped at {stop}");
        // Not accepted again: it is whole, or says that it is not.
        let alone = world.fork();
        match alone.open(&Options::new().memory_budget(8 << 20).journal_segment_bytes(64 << 10)) {
            Ok(store) => alone.check(&store, &format!("{when}: alone")),
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::Refused | ErrorKind::Corruption), "{when}: {error}")
            }
        }
        let store = world.open(&accepting).unwrap_or_else(|e| panic!("{when}: {e}"));
        world.check(&store, &when);
        world.goes_on(store, &format!("{when}: on"));
    }
}

/// Opens what an acceptance has left in all ways; returns whether it is refused unless accepted once more.
fn interrupted(
    world: &World,
    accepting: &Options,
    all: &World,
    away: Option<&[(PathBuf, Vec<u8>)]>,
    when: &str,
) -> bool {
    let mut again = world.fork();
    again.options = accepting.clone();
    let store = again.open(accepting).unwrap_or_else(|e| panic!("{when}: accepted again: {e}"));
    again.check(&store, &format!("{when}: accepted again"));
    again.goes_on(store, &format!("{when}: accepted again, on"));
    if let Some(away) = away {
        let mut back = world.fork();
        put_back(&back.disk, away);
        let store = back.open(&back.options).unwrap_or_else(|e| panic!("{when}: back: {e}"));
        if store.get("99").unwrap().is_some() {
            back.model.clone_from(&all.model);
        }
        back.check(&store, &format!("{when}: back"));
        back.goes_on(store, &format!("{when}: back, on"));
    }
    let mut alone = world.fork();
    alone.options = Options::new().memory_budget(8 << 20).journal_segment_bytes(64 << 10);
    match alone.open(&alone.options) {
        Ok(store) => {
            alone.check(&store, &format!("{when}: alone"));
            alone.goes_on(store, &format!("{when}: alone, on"));
            false
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Refused, "{when}: alone: {error}");
            true
        }
    }
}

/// The good copy is lost while another one is made from it: that has less than it is to get, and no word, and is accepted as far as it has come; also where
/// nothing of what it had is in the good one any more.
#[test]
fn a_copy_that_was_being_made_when_the_good_one_was_lost_is_accepted_as_far_as_it_has_come() {
    for trimmed in [false, true] {
        let (mut world, store) = World::new(2);
        let value = |n: u32| format!("{n}-").repeat(500);
        (0..100).for_each(|n| _ = world.insert(&store, &format!("{n}"), &value(n)));
        // The next segment is ready, and has no frame yet.
        testing::tick(&store).unwrap();
        world.leave_b_behind();
        for n in 100..350 {
            world.insert(&store, &format!("{n}"), &value(n));
            testing::tick(&store).unwrap();
        }
        if trimmed {
            store.flush().unwrap();
        }
        (350..500).for_each(|n| _ = world.insert(&store, &format!("{n}"), &value(n)));
        assert_eq!(good(&store.stats().unwrap()), [true, false]);
        world.kill(store);
        world.disk.heal();
        let mend = |world: &World| {
            let store = world.open(&world.options).unwrap();
            assert_eq!(good(&store.stats().unwrap()), [true, false]);
            let before = world.disk.operations();
            (store, before)
        };
        let undisturbed = world.fork();
        let (store, before) = mend(&undisturbed);
        testing::mend(&store);
        assert_eq!(good(&store.stats().unwrap()), [true, true]);
        let all = undisturbed.disk.operations() - before;
        let segments = undisturbed.disk.list(Path::new("/b")).unwrap();
        assert!(segments.iter().filter(|name| name.ends_with(".seg")).count() > 4, "{segments:?}");
        drop(store);
        let mut lengths = std::collections::BTreeSet::new();
        for stop in 0..all {
            let mut world = world.fork();
            let (store, _) = mend(&world);
            world.disk.stop_after(stop);
            testing::mend(&store);
            match stop % 2 {
                0 => world.kill(store),
                _ => world.cut(store, stop),
            }
            world.take_a_away();
            let when = format!("trimmed: {trimmed}, stopped at {stop} of {all}");
            let store = world.open(&world.accepted()).unwrap_or_else(|e| panic!("{when}: {e}"));
            let found = (0..500).filter(|n| store.get(n.to_string()).unwrap().is_some()).count() as u32;
            assert!(found >= if trimmed { 350 } else { 100 }, "{when}: {found}");
            world.model = (0..found).map(|n| (n.to_string(), value(n))).collect();
            world.check(&store, &when);
            lengths.insert(found);
            if stop % 16 == 0 {
                world.goes_on(store, &when);
            }
        }
        assert!(lengths.len() > 2 && lengths.last() == Some(&500), "{lengths:?}");
    }
}

/// The disk of a copy that has nothing in common any more with the good one is full before it has all of it: what was added goes again, and what
/// it had before is gone by then.
#[test]
fn a_copy_that_could_not_be_made_for_want_of_room_is_accepted_when_the_good_one_is_lost() {
    let (mut world, store) = World::new(2);
    let value = |n: u32| format!("{n}-").repeat(500);
    (0..100).for_each(|n| _ = world.insert(&store, &format!("{n}"), &value(n)));
    world.leave_b_behind();
    for n in 100..350 {
        world.insert(&store, &format!("{n}"), &value(n));
        testing::tick(&store).unwrap();
    }
    store.flush().unwrap();
    (350..500).for_each(|n| _ = world.insert(&store, &format!("{n}"), &value(n)));
    assert_eq!(good(&store.stats().unwrap()), [true, false]);
    world.kill(store);
    world.disk.heal();
    let segments = |world: &World, dir: &str| {
        let mut names = world.disk.list(Path::new(dir)).unwrap();
        names.retain(|name| name.ends_with(".seg"));
        names
    };
    let before = segments(&world, "/b");
    assert!(before.len() > 1 && before.iter().all(|name| !segments(&world, "/a").contains(name)));
    let mut failures = 0;
    for made in 0.. {
        let mut world = world.fork();
        let store = world.open(&world.options).unwrap();
        let of_b = |path: &Path| path.starts_with("/b") && path.to_string_lossy().ends_with(".copy");
        let full = Fault::on(Operation::Create).at(of_b).after(made).times(1);
        world.disk.inject(full.error(std::io::ErrorKind::StorageFull));
        testing::mend(&store);
        if good(&store.stats().unwrap()) == [true, true] {
            break;
        }
        failures += 1;
        let when = format!("file {made}: {:?}", segments(&world, "/b"));
        assert!(segments(&world, "/b").len() <= before.len(), "{when}");
        world.kill(store);
        world.take_a_away();
        let store = world.open(&world.accepted()).unwrap_or_else(|e| panic!("{when}: {e}"));
        let found = (0..500).filter(|n| store.get(n.to_string()).unwrap().is_some()).count() as u32;
        assert!(found >= 350, "{when}: {found}");
        world.model = (0..found).map(|n| (n.to_string(), value(n))).collect();
        world.check(&store, &when);
        world.goes_on(store, &when);
    }
    assert!(failures > 3, "{failures}");
}
