//! Stores whose own directory, or manifest, is lost: opened from their shards, some of which are behind, ahead or away.

use super::*;
use annulus::{ErrorKind, KeyspaceId, Seq, ShardOptions};

const MANIFEST: &str = "/store/MANIFEST";
const JOURNAL: &str = "/store/journal";

fn shard_dir(shard: u32) -> PathBuf {
    PathBuf::from(format!("/store/shards/{shard:04}"))
}

impl World {
    /// The process ends, and with it goes what the store's own directory held beside the shards.
    fn lose(&mut self, paths: &[&str]) {
        let blank = open(&SimDisk::new(1), &MemoryFactory::new(), &self.options);
        drop(std::mem::replace(&mut self.store, blank));
        self.disk = self.disk.kill();
        for path in paths {
            let path = Path::new(path);
            if path == Path::new(MANIFEST) {
                self.disk.remove_file(path).unwrap();
            } else {
                self.disk.remove_dir_all(path).unwrap();
            }
        }
    }

    fn try_accepted(&self) -> annulus::Result<Store> {
        let (disk, factory) = (Arc::new(self.disk.clone()), Arc::new(self.factory.clone()));
        let options = self.options.clone().accept_journal_loss(true);
        testing::open(Path::new("/store"), &options, Seams { disk, factory, background: Background::Off })
    }

    fn insert(&mut self, key: &str, value: &str) -> Seq {
        self.model.insert(key.into(), value.into());
        self.store.insert(key, value).unwrap()
    }

    /// From here on a seal of these shards can be replaced so often, and no more.
    fn fail_seals(&self, shards: &[u32], after: u64) {
        for shard in shards {
            let dir = shard_dir(*shard);
            let seal = move |path: &Path| path.starts_with(&dir) && path.to_string_lossy().contains("SEAL");
            self.disk.inject(Fault::on(Operation::Rename).at(seal).after(after));
        }
    }

    fn is_there(&self, path: &str) -> bool {
        self.disk.exists(Path::new(path)).unwrap()
    }

    fn held(&self, shard: u32, key: &str) -> Option<Seq> {
        let held = testing::held_by(&self.store, KeyspaceId(0), ShardId(shard)).unwrap();
        held.into_iter().find(|(held, _)| held == key.as_bytes()).map(|(_, seq)| seq)
    }
}

fn compared(store: &Store) {
    while testing::scrub_step(store).unwrap() || testing::heal_step(store).unwrap() {}
}

/// Two of four disks are not mounted: the others do not become a store that those can never come back to.
#[test]
fn without_enough_shards_nothing_takes_the_place_of_a_lost_journal() {
    let mut world = World::new(options(4, 2));
    (0..300).for_each(|n| _ = world.insert(&format!("{n}"), "before"));
    world.store.flush().unwrap();
    world.fail_seals(&[0], 0);
    (300..400).for_each(|n| _ = world.insert(&format!("{n}"), "later"));
    world.store.flush().unwrap();
    world.lose(&[JOURNAL, MANIFEST]);
    let seals = |world: &World| {
        (0..4).map(|shard| world.disk.read(&shard_dir(shard).join("SEAL")).unwrap()).collect::<Vec<_>>()
    };
    let before = seals(&world);
    world.factory.fail(ShardId(2), EngineOperation::Open);
    world.factory.fail(ShardId(3), EngineOperation::Open);
    for _ in 0..2 {
        let error = world.try_accepted().map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(!world.is_there(MANIFEST) && !world.is_there(JOURNAL));
        assert!(seals(&world) == before, "a seal has been changed");
    }
    world.factory.heal(ShardId(2));
    world.factory.heal(ShardId(3));
    world.store = world.try_accepted().unwrap();
    compared(&world.store);
    world.check();
    world.insert("after", "the loss");
    world.check_copies();
}

/// Where no directory was ever named there is no other copy to be told from.
#[test]
fn a_journal_that_is_begun_anew_in_the_stores_own_directory_has_no_word() {
    let mut world = World::new(options(2, 2));
    (0..50).for_each(|n| _ = world.insert(&format!("{n}"), "flushed"));
    world.store.flush().unwrap();
    world.lose(&[JOURNAL]);
    world.store = world.try_accepted().unwrap();
    world.insert("after", "the loss");
    world.check();
    assert!(world.is_there(JOURNAL) && !world.is_there("/store/journal/MIRRORS"));
    assert!(!world.is_there("/store/MIRRORS"));
}

/// The engines had what was flushed last when the process ended, and their seals did not say so: the numbers of those writes are not
/// given to others, which the engines would take for what they have.
#[test]
fn writes_after_an_accepted_loss_count_more_than_what_the_seals_do_not_speak_of() {
    let mut world = World::new(options(2, 2));
    (1..=50).for_each(|n| _ = world.insert(&format!("{n}"), "sealed"));
    world.store.flush().unwrap();
    (51..=54).for_each(|n| _ = world.insert(&format!("{n}"), "not sealed"));
    assert_eq!(world.insert("k", "given up"), Seq(55));
    world.fail_seals(&[0, 1], 1);
    let _ = world.store.flush();
    world.lose(&[JOURNAL, MANIFEST]);
    world.store = world.try_accepted().unwrap();
    let seq = world.insert("k", "new");
    world.store.flush().unwrap();
    for shard in 0..2 {
        assert_eq!(world.held(shard, "k"), Some(seq), "shard {shard}");
    }
    compared(&world.store);
    world.check();
    world.check_copies();
    world.reopen();
    world.check();
    world.check_copies();
}

/// Nobody else has what it holds: it counts as it is, though another one has got further.
#[test]
fn a_shard_without_replicas_that_is_behind_is_kept_when_a_loss_is_accepted() {
    for lost in [&[JOURNAL][..], &[JOURNAL, MANIFEST]] {
        for behind in 0..2 {
            let mut world = World::new(options(2, 1));
            (0..100).for_each(|n| _ = world.insert(&format!("{n}"), "before"));
            world.store.flush().unwrap();
            let model = world.model.clone();
            world.fail_seals(&[behind], 0);
            (100..200).for_each(|n| _ = world.insert(&format!("{n}"), "later"));
            let _ = world.store.flush();
            world.lose(lost);
            world.store = world.try_accepted().unwrap_or_else(|e| panic!("{lost:?}, {behind}: {e}"));
            for (key, value) in model {
                assert_eq!(world.store.get(&key).unwrap().as_deref(), Some(&value[..]), "{lost:?}, {behind}");
            }
            world.store.insert("after", "the loss").unwrap();
            world.store.flush().unwrap();
        }
    }
}

/// A shard that was away when the loss was accepted has writes whose numbers would be others' by now.
#[test]
fn a_shard_that_was_away_when_a_loss_was_accepted_is_made_anew() {
    for at_an_opening in [false, true] {
        for later in [0, 10, 300] {
            let mut world = World::new(options(3, 2));
            (0..100).for_each(|n| _ = world.insert(&format!("{n}"), "before"));
            world.store.flush().unwrap();
            let model = world.model.clone();
            (100..120).for_each(|n| _ = world.insert(&format!("given up {n}"), "on one alone"));
            world.fail_seals(&[0, 1], 0);
            let _ = world.store.flush();
            world.lose(&[JOURNAL, MANIFEST]);
            world.model = model;
            world.factory.fail(ShardId(2), EngineOperation::Open);
            world.store = world.try_accepted().unwrap();
            (0..later).for_each(|n| _ = world.insert(&format!("after {n}"), "the loss"));
            world.store.flush().unwrap();
            world.factory.heal(ShardId(2));
            if at_an_opening {
                world.reopen();
            }
            world.heal();
            compared(&world.store);
            world.check();
            world.check_copies();
        }
    }
}

/// An acceptance is interrupted when one shard has been sealed for it, and begun again without that one: it comes back with the seal of
/// the first, and lacks nothing of what was written since.
#[test]
fn an_acceptance_that_is_begun_again_from_other_shards_gives_out_no_number_of_the_first() {
    let mut world = World::new(options(3, 2));
    (0..90).for_each(|n| _ = world.insert(&format!("{n}"), "before"));
    world.store.flush().unwrap();
    world.fail_seals(&[1, 2], 0);
    (0..10).for_each(|n| _ = world.insert(&format!("k{n}"), "on one alone"));
    let _ = world.store.flush();
    world.lose(&[JOURNAL, MANIFEST]);
    world.fail_seals(&[1, 2], 0);
    let error = world.try_accepted().map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(!world.is_there(MANIFEST) && !world.is_there(JOURNAL));
    world.disk = world.disk.kill();
    world.factory.fail(ShardId(0), EngineOperation::Open);
    world.store = world.try_accepted().unwrap();
    (0..10).for_each(|n| _ = world.insert(&format!("k{n}"), "new"));
    (0..90).for_each(|n| _ = world.insert(&format!("{n}"), "new"));
    world.store.flush().unwrap();
    world.factory.heal(ShardId(0));
    world.heal();
    world.check();
    world.check_copies();
}

/// The manifest is lost while shards are being made that are to join, and the copies of it speak of them: none is opened, since
/// all of them are cleared.
#[test]
fn a_change_that_is_rolled_back_with_a_copy_of_the_manifest_leaves_no_shard_of_it_in_use() {
    let mut world = World::new(options(3, 2));
    world.write(500);
    let dropped = world.store.keyspace("dropped").unwrap();
    (0..100u32).for_each(|n| _ = dropped.insert(n.to_be_bytes(), b"gone soon").unwrap());
    world.store.flush().unwrap();
    drop(dropped);
    let blank = open(&SimDisk::new(1), &MemoryFactory::new(), &world.options);
    std::mem::replace(&mut world.store, blank).close().unwrap();
    let (disk, factory, model) = (world.disk.clone(), world.factory.clone(), world.model.clone());
    let mut met = 0;
    for stop in 0.. {
        world.disk = disk.fork().kill();
        world.factory = factory.fork();
        world.store = open(&world.disk, &world.factory, &world.options);
        let plan = world.store.plan().add_shard(ShardOptions::new("/new")).preview().unwrap();
        world.disk.stop_after(stop);
        let applied = world.store.apply(plan).is_ok();
        world.lose(&[]);
        let of_copy = world.disk.read(&shard_dir(0).join("IDENTITY")).unwrap().unwrap();
        if String::from_utf8_lossy(&of_copy).contains("\"step\":\"preparing\"") {
            met += 1;
            world.disk.remove_file(Path::new(MANIFEST)).unwrap();
            world.options = world.options.clone().shards(3);
            world.store = open(&world.disk, &world.factory, &world.options);
            let shards = world.store.stats().unwrap().shards;
            assert_eq!(shards.len(), 3, "stopped at {stop}");
            world.model.clone_from(&model);
            world.insert("more", "of it");
            world.store.drop_keyspace("dropped").unwrap();
            world.store.flush().unwrap();
            while testing::purge(&world.store).unwrap() {}
            world.heal();
            assert!(world.store.health().unwrap().is_good(), "stopped at {stop}");
            world.check();
            world.check_copies();
        }
        if applied {
            break;
        }
    }
    assert!(met > 3, "{met}");
}
