//! Openings that change where the journal lies, on a simulated disk: stopped at any operation, once and again, by the death of the
//! process and by power cuts, on disks that take no writes. What was acknowledged comes back, and nothing has to be accepted.
//!
//! `ANNULUS_OPENINGS` is how many times as many as usual are tried, `ANNULUS_SEED` which of the random ones.

use super::*;
use annulus::testing::{Fault, MemoryFactory, Operation, PowerCut, SimDisk};

/// A store on a simulated disk, whose records are in its journal alone.
pub struct World {
    pub disk: SimDisk,
    factory: MemoryFactory,
}

impl World {
    pub fn filled(options: &Options) -> World {
        let world = World { disk: SimDisk::new(1), factory: MemoryFactory::new() };
        let store = world.open(options).unwrap();
        write(&store, 0..20);
        world.killed(store)
    }

    pub fn open(&self, options: &Options) -> annulus::Result<Store> {
        testing::open(Path::new("/store"), options, self.seams())
    }

    pub fn seams(&self) -> Seams {
        let (disk, factory) = (Arc::new(self.disk.clone()), Arc::new(self.factory.clone()));
        Seams { disk, factory, background: Background::Off }
    }

    pub fn killed(&self, store: impl Sized) -> World {
        let disk = self.disk.kill();
        drop(store);
        World { disk, factory: self.factory.clone() }
    }

    /// The machine goes down with it.
    pub fn cut(&self, store: impl Sized, seed: u64) -> World {
        let disk = self.disk.crash(PowerCut { seed });
        drop(store);
        self.factory.crash(seed);
        World { disk, factory: self.factory.clone() }
    }

    pub fn fork(&self) -> World {
        World { disk: self.disk.fork(), factory: self.factory.fork() }
    }

    /// It opens, with everything.
    pub fn opens(&self, options: &Options, count: u32, when: &str) {
        let store = self.open(options).unwrap_or_else(|e| panic!("{when}: {e}"));
        for n in 0..count {
            assert!(store.get(n.to_be_bytes()).unwrap().is_some(), "{when}: {n} is lost");
        }
    }

    /// It opens, with everything, and goes on.
    pub fn check(&self, options: &Options, when: &str) {
        let store = self.open(options).unwrap_or_else(|e| panic!("{when}: {e}"));
        check(&store, 20);
        write(&store, 20..25);
        testing::mend(&store);
        assert!(good(&store.stats().unwrap()).iter().all(|good| *good), "{when}");
        let world = self.killed(store);
        let store = world.open(options).unwrap_or_else(|e| panic!("{when}, again: {e}"));
        check(&store, 25);
    }
}

/// From where the journal may be moved to "/e", with the options for it.
pub fn moves() -> [(Options, Options); 3] {
    let with = |dirs: &[&str]| options().journal_dirs(dirs.iter().map(PathBuf::from));
    [
        (with(&["/a", "/b"]), with(&["/e"])),
        (options(), with(&["/e"])),
        (with(&["/a", "/b"]), with(&["/b", "/e"])),
    ]
}

#[test]
fn a_move_of_the_journal_that_stops_anywhere_leaves_a_store_that_opens_here_and_there() {
    for (number, (old, new)) in moves().iter().enumerate() {
        for stop in 0.. {
            let world = World::filled(old);
            world.disk.stop_after(stop);
            let moved = world.open(new);
            let ended = moved.is_ok();
            let world = world.killed(moved);
            for (name, options) in [("old", old), ("new", new), ("no", &options())] {
                let when = format!("move {number}, stopped at {stop}, with the {name} options");
                world.fork().check(options, &when);
            }
            if ended {
                assert!(stop > 10, "{stop}");
                break;
            }
        }
    }
}

#[test]
fn a_move_of_the_journal_that_fails_leaves_a_store_that_opens_here_and_there() {
    for (old, new) in &moves() {
        for name in ["/store/MANIFEST.tmp", "/store/MIRRORS.tmp", "/e/MIRRORS.tmp"] {
            for after in 0..2 {
                let world = World::filled(old);
                let here = move |path: &Path| path == Path::new(name);
                world.disk.inject(Fault::on(Operation::Write).at(here).after(after).times(1));
                drop(world.open(new));
                world.disk.heal();
                for options in [old, new] {
                    let world = World { disk: world.disk.fork().kill(), factory: world.factory.fork() };
                    world.check(options, &format!("a fault in {name} after {after}"));
                }
            }
        }
    }
}

#[test]
fn a_move_of_the_journal_to_where_it_has_no_room_says_so_and_moves_nothing() {
    let (old, new) = &moves()[0];
    let world = World::filled(old);
    let used: usize = world.disk.files().iter().map(|(_, bytes)| bytes.len()).sum();
    world.disk.set_capacity(Some(used as u64 + (100 << 10)));
    let error = world.open(new).map(drop).unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::Full, Some(Path::new("/e"))), "{error}");
    assert!(world.disk.list(Path::new("/e")).unwrap().iter().all(|name| !name.contains(".seg")));
    let world = world.killed(());
    world.fork().opens(old, 20, "where it was");
    world.disk.set_capacity(None);
    world.fork().check(old, "where it was, with room");
    world.check(new, "with room");
}

/// That it is full, or takes no more writes, is why the journal is moved away.
#[test]
fn the_journal_moves_away_from_a_disk_that_takes_no_writes() {
    for (old, new) in &moves() {
        let world = World::filled(old);
        let here = |path: &Path| path.starts_with("/a") || path.starts_with("/store/journal");
        world.disk.inject(Fault::on_any_change().at(here).error(std::io::ErrorKind::StorageFull));
        let store = world.open(new).unwrap();
        check(&store, 20);
        world.killed(store).check(new, "moved away");
    }
}

pub fn with(dirs: &[&str]) -> Options {
    options().journal_dirs(dirs.iter().map(PathBuf::from))
}

/// How many times as many cases as usual.
pub fn more() -> u64 {
    std::env::var("ANNULUS_OPENINGS").map_or(1, |n| n.parse().unwrap())
}

/// The disk that the journal is moved away from takes no writes, then or ever.
#[test]
fn a_move_away_from_a_disk_that_takes_no_writes_stops_anywhere_and_nothing_has_to_be_accepted() {
    let fails = |world: &World| {
        let here = |path: &Path| path.starts_with("/a") || path.starts_with("/store/journal");
        world.disk.inject(Fault::on_any_change().at(here).error(std::io::ErrorKind::ReadOnlyFilesystem));
    };
    let both = (with(&["/a/one", "/a/two"]), with(&["/e", "/f"]));
    for (number, (old, new)) in moves().iter().chain([&both]).enumerate() {
        for stop in 0.. {
            let world = World::filled(old);
            fails(&world);
            world.disk.stop_after(stop);
            let moved = world.open(new);
            let ended = moved.is_ok();
            let world = if stop % 2 == 0 { world.killed(moved) } else { world.cut(moved, stop) };
            let when = format!("move {number}, stopped at {stop}");
            for (name, options) in [("old", old), ("new", new), ("no", &options())] {
                world.fork().check(options, &format!("{when}, the disk is well, with the {name} options"));
            }
            fails(&world);
            world.opens(new, 20, &format!("{when}, and moved once more"));
            if ended {
                assert!(stop > 10, "{stop}");
                break;
            }
        }
    }
}

/// What was put down by a move that was given up is in nobody's way later.
#[test]
fn a_directory_that_a_move_was_given_up_for_is_taken_in_later() {
    for stop in 0.. {
        let (old, new) = (with(&["/a", "/b"]), with(&["/e"]));
        let world = World::filled(&old);
        world.disk.inject(Fault::on_any_change().at(|path| path.starts_with("/a")));
        world.disk.stop_after(stop);
        let moved = world.open(&new);
        let ended = moved.is_ok();
        let mut world = world.killed(moved);
        let mut count = 20;
        // The store goes on where it was, and later has the directory as one more.
        for options in [&old, &with(&["/a", "/b", "/e"]), &options(), &old, &with(&["/b", "/e"]), &options()]
        {
            let store = world.open(options).unwrap_or_else(|e| panic!("stopped at {stop}: {e}"));
            check(&store, count);
            write(&store, count..count + 3);
            count += 3;
            world = world.killed(store);
        }
        if ended {
            break;
        }
    }
}

/// The ways in which an opening may change where the journal lies.
fn changes() -> [(Options, Options); 6] {
    let [a, b, c] = moves();
    let added = (options(), with(&["/store/journal", "/b"]));
    let dropped = (with(&["/a", "/b"]), with(&["/b"]));
    let grown = (with(&["/a"]), with(&["/a", "/b", "/e"]));
    [a, b, c, added, dropped, grown]
}

#[test]
fn a_power_cut_at_any_operation_of_an_opening_leaves_a_store_that_opens() {
    for (number, (old, new)) in changes().iter().enumerate() {
        let filled = World::filled(old);
        for stop in 0.. {
            let world = filled.fork();
            world.disk.stop_after(stop);
            let opened = world.open(new);
            let ended = opened.is_ok();
            for seed in 0..2 * more() {
                let world = world.fork().cut((), stop * 1000 + seed);
                for options in [old, new, &options()] {
                    world.fork().opens(options, 20, &format!("change {number}, cut at {stop}, seed {seed}"));
                }
            }
            if ended {
                break;
            }
        }
    }
}

#[test]
fn an_opening_that_is_interrupted_twice_is_taken_up_again() {
    let step = 17u64.checked_div(more()).unwrap_or(1).max(1);
    for (number, (old, new)) in changes().iter().enumerate() {
        let filled = World::filled(old);
        for stop in 0.. {
            let world = filled.fork();
            world.disk.stop_after(stop);
            let first = world.open(new);
            let ended = first.is_ok();
            let world = if stop % 2 == 0 { world.killed(first) } else { world.cut(first, stop) };
            for (name, second) in [("new", new), ("old", old)] {
                for again in (stop % step..).step_by(step as usize) {
                    let world = world.fork();
                    world.disk.stop_after(again);
                    let second = world.open(second);
                    let over = second.is_ok();
                    let when = format!(
                        "change {number}, stopped at {stop} and, with the {name} options, at {again}"
                    );
                    let world = match again / step % 2 {
                        0 => world.killed(second),
                        _ => world.cut(second, again),
                    };
                    for third in [new, old, &options()] {
                        world.fork().opens(third, 20, &when);
                    }
                    if over {
                        break;
                    }
                }
            }
            if ended {
                break;
            }
        }
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn chance(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }
}

const LAYOUTS: [&[&str]; 8] = [
    &[],
    &["/e"],
    &["/a", "/b"],
    &["/b", "/a"],
    &["/b", "/e"],
    &["/store/journal", "/b"],
    &["/a", "/b", "/e"],
    &["/deep/er/e", "/a"],
];

/// What one walk has come to.
#[derive(Debug, Default)]
struct Met {
    openings: u64,
    interrupted: u64,
    cuts: u64,
    failed: u64,
    replaced: u64,
}

/// Openings in one place after the other, each of them perhaps interrupted by a death of the process or a power cut, or on disks
/// that take no writes; in between writes, whole copies that are lost, and copies that are made anew.
fn wander(seed: u64, met: &mut Met) {
    let mut rng = Rng(seed);
    let mut last = with(LAYOUTS[rng.below(8) as usize]);
    let mut world = World::filled(&last);
    let mut count = 20u32;
    for step in 0..7 {
        let asked = match rng.below(3) {
            0 => last.clone(),
            _ => with(LAYOUTS[rng.below(8) as usize]),
        };
        let when = format!("ANNULUS_SEED={seed}, step {step}");
        let interrupted = !rng.chance(4);
        if interrupted {
            world.disk.stop_after(rng.below(260));
        }
        let fails = rng.chance(4).then(|| ["/a", "/b", "/e", "/store/journal"][rng.below(4) as usize]);
        if let Some(dir) = fails {
            let after = rng.below(12);
            let fault = Fault::on_any_change().at(move |path| path.starts_with(dir)).after(after);
            world.disk.inject(if rng.chance(2) { fault } else { fault.times(1 + rng.below(3)) });
        }
        let opened = world.open(&asked);
        met.openings += 1;
        let mut whole = false;
        match &opened {
            Ok(store) => {
                for n in 0..count {
                    assert!(store.get(n.to_be_bytes()).unwrap().is_some(), "{when}: {n} is lost");
                }
                for _ in 0..rng.below(12) {
                    let value = vec![count as u8; 700];
                    if store.insert_with(count.to_be_bytes(), value, Durability::Sync).is_err() {
                        break;
                    }
                    count += 1;
                }
                if rng.chance(2) {
                    testing::mend(store);
                }
                let copies = good(&store.stats().unwrap());
                whole = copies.len() > 1 && copies.iter().all(|good| *good);
            }
            Err(e) => {
                assert_ne!(e.kind(), ErrorKind::Refused, "{when}: {e}");
                assert!(world.disk.stopped() || fails.is_some(), "{when}: {e}");
                met.failed += 1;
            }
        }
        met.interrupted += u64::from(world.disk.stopped());
        let stopped = world.disk.stopped();
        let cut = rng.chance(2);
        met.cuts += u64::from(cut);
        world = if cut { world.cut(opened, rng.below(u64::MAX)) } else { world.killed(opened) };
        for options in [&asked, &last, &options()] {
            world.fork().opens(options, count, &when);
        }
        // One of several complete copies is lost with its disk.
        if whole && !stopped && fails.is_none() && rng.chance(2) {
            let store = world.open(&options()).unwrap();
            let mirrors = store.stats().unwrap().journal.mirrors;
            world = world.killed(store);
            let lost = rng.below(mirrors.len() as u64) as usize;
            if mirrors.iter().all(|mirror| mirror.good) && mirrors.len() > 1 {
                world.disk.rearrange(&mirrors[lost].path, &[]).unwrap();
                met.replaced += 1;
            }
            world.fork().opens(&options(), count, &format!("{when}, without copy {lost}"));
        }
        last = asked;
    }
}

#[test]
fn openings_that_are_interrupted_anyhow_lose_nothing_that_was_acknowledged() {
    let mut met = Met::default();
    match std::env::var("ANNULUS_SEED") {
        Ok(seed) => wander(seed.parse().unwrap(), &mut met),
        Err(_) => (0..120 * more()).for_each(|seed| wander(seed, &mut met)),
    }
    println!("{met:?}");
}

/// A check of the file system takes the oldest segment from the copy that serves, while another one that has it is away.
#[test]
fn an_archive_that_is_behind_misses_nothing_that_a_copy_which_is_left_out_has() {
    let place = Place::new();
    let two = options().journal_dirs([place.at("a/journal"), place.at("b/journal")]);
    let store = open(&place.at("store"), &two).unwrap();
    let repo = BackupRepository::open(place.at("backup")).unwrap();
    store.archive(&repo).unwrap();
    write(&store, 0..300);
    store.flush().unwrap();
    drop(store);
    std::fs::rename(place.at("b"), place.at("away")).unwrap();
    let store = open(&place.at("store"), &two).unwrap();
    write(&store, 300..350);
    store.flush().unwrap();
    assert_eq!(good(&store.stats().unwrap()), [true, false]);
    drop(store);
    std::fs::remove_dir_all(place.at("b")).unwrap_or_default();
    std::fs::rename(place.at("away"), place.at("b")).unwrap();
    let oldest = || {
        let names = std::fs::read_dir(place.at("a/journal")).unwrap().map(|entry| entry.unwrap().path());
        names.filter(|path| path.extension().is_some_and(|end| end == "seg")).min().unwrap()
    };
    let lost = oldest();
    std::fs::remove_file(&lost).unwrap();
    let store = open(&place.at("store"), &two).unwrap();
    assert_eq!(testing::mend(&store), 1);
    assert_eq!(oldest(), lost);
    let last = store.insert_with(b"last", b"value", Durability::Sync).unwrap();
    assert_eq!(store.archive(&repo).unwrap(), last);
}

/// The same of what a shard without a replica lacks, whose disk was full when the other one's was not: it alone goes by where the journal begins.
#[test]
fn a_shard_that_is_behind_serves_again_by_what_a_copy_which_is_left_out_has() {
    for away in [false, true] {
        let two = with(&["/a", "/b"]).replication_factor(1);
        let mut world = World { disk: SimDisk::new(2), factory: MemoryFactory::new() };
        let store = world.open(&two).unwrap();
        let full = Fault::on(Operation::Write).at(|path| path.to_string_lossy().contains("shards/0001"));
        world.disk.inject(full.error(std::io::ErrorKind::StorageFull));
        write(&store, 0..300);
        store.flush().unwrap_err();
        world.disk.inject(Fault::on(Operation::Sync).at(|path| path.starts_with("/b")).times(1));
        write(&store, 300..310);
        let stats = store.stats().unwrap();
        assert_eq!(good(&stats), [true, false]);
        let applied: Vec<u64> = stats.shards.iter().map(|shard| shard.applied.0).collect();
        assert!(applied[0] >= 300 && applied[1] == 0, "{applied:?}");
        world = world.killed(store);
        world.disk.heal();
        let mut names = world.disk.list(Path::new("/a")).unwrap();
        names.retain(|name| name.ends_with(".seg"));
        let oldest = Path::new("/a").join(names.iter().min().unwrap());
        world.disk.remove_file(&oldest).unwrap();
        if away {
            // Then nobody has it, and nothing is given up for that.
            let here = |path: &Path| path.starts_with("/b");
            world.disk.inject(Fault::on(Operation::Look).at(here).error(std::io::ErrorKind::NotFound));
            let error = world.open(&two).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            world.disk.heal();
            world = world.killed(());
        }
        let store = world.open(&two).unwrap_or_else(|e| panic!("{away}: {e}"));
        assert!(world.disk.exists(&oldest).unwrap());
        check(&store, 310);
        store.flush().unwrap();
        assert_eq!(testing::mend(&store), 1);
        write(&store, 310..320);
        world.killed(store).opens(&two, 320, "later");
    }
}

/// For what comes back into the copy at "/a".
fn no_room(world: &World) {
    let full = |path: &Path| path.starts_with("/a") && path.to_string_lossy().ends_with(".copy");
    world.disk.inject(Fault::on(Operation::Write).at(full).error(std::io::ErrorKind::StorageFull));
}

/// A store whose copy at "/a" has lost its oldest segment, for which it has no room either: the one at "/b" has it, which is left out, and the archive lacks
/// it.
fn without_room_for_the_oldest(place: &Place) -> (World, Store, BackupRepository, PathBuf) {
    let two = with(&["/a", "/b"]);
    let world = World { disk: SimDisk::new(2), factory: MemoryFactory::new() };
    let store = world.open(&two).unwrap();
    let repo = BackupRepository::open(place.at("backup")).unwrap();
    write(&store, 0..5);
    store.archive(&repo).unwrap();
    write(&store, 5..300);
    store.flush().unwrap();
    let world = world.killed(store);
    let away = |path: &Path| path.starts_with("/b");
    world.disk.inject(Fault::on(Operation::Look).at(away).error(std::io::ErrorKind::NotFound));
    let store = world.open(&two).unwrap();
    write(&store, 300..350);
    store.flush().unwrap();
    assert_eq!(good(&store.stats().unwrap()), [true, false]);
    let world = world.killed(store);
    world.disk.heal();
    let names = world.disk.list(Path::new("/a")).unwrap().into_iter().filter(|name| name.ends_with(".seg"));
    let oldest = Path::new("/a").join(names.min().unwrap());
    world.disk.remove_file(&oldest).unwrap();
    no_room(&world);
    let store = world.open(&two).unwrap();
    assert_eq!(good(&store.stats().unwrap()), [true, false]);
    assert!(!world.disk.exists(&oldest).unwrap());
    (world, store, repo, oldest)
}

/// It comes back when there is room, without an opening; until then who lacks it is told where it is.
#[test]
fn an_archive_waits_for_what_a_copy_has_that_is_left_out() {
    let place = Place::new();
    let (world, store, repo, oldest) = without_room_for_the_oldest(&place);
    let mut events = store.events();
    for _ in 0..2 {
        let error = store.archive(&repo).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert_eq!(testing::mend(&store), 0);
        assert!(world.disk.exists(&Path::new("/b").join(oldest.file_name().unwrap())).unwrap());
    }
    let stats = store.stats().unwrap();
    assert!(stats.warnings.iter().any(|warning| warning.contains("a shard or an archive lacks")));
    let told =
        std::iter::from_fn(|| events.try_next()).filter(|event| format!("{event:?}").contains("lacks"));
    assert_eq!(told.count(), 1);
    world.disk.heal();
    let last = store.insert_with(b"last", b"value", Durability::Sync).unwrap();
    assert_eq!(store.archive(&repo).unwrap(), last);
    assert!(world.disk.exists(&oldest).unwrap());
    assert_eq!(testing::mend(&store), 1);
    check(&store, 350);
}

/// Nobody lacks it any more: the copy is made anew at once.
#[test]
fn a_copy_is_made_anew_when_nobody_lacks_any_more_what_it_alone_has() {
    let place = Place::new();
    let (world, store, repo, oldest) = without_room_for_the_oldest(&place);
    assert_eq!(testing::mend(&store), 0);
    store.forget_archive(repo.id()).unwrap();
    assert_eq!(testing::mend(&store), 1);
    assert!(!world.disk.exists(&Path::new("/b").join(oldest.file_name().unwrap())).unwrap());
    check(&store, 350);
}

/// Writes go on, and what the journal is kept for who is behind comes to an end: nobody is waited for beyond that, nor a second copy gone without.
#[test]
fn a_copy_is_held_up_no_longer_than_the_journal_is_kept() {
    let place = Place::new();
    let (world, store, _, _) = without_room_for_the_oldest(&place);
    assert_eq!(testing::mend(&store), 0);
    let world = world.killed(store);
    no_room(&world);
    let store = world.open(&with(&["/a", "/b"]).journal_retention(1 << 20)).unwrap();
    assert_eq!(testing::mend(&store), 0);
    for round in 0..40_u32 {
        store.insert(round.to_be_bytes(), vec![7; 64 << 10]).unwrap();
    }
    store.flush().unwrap();
    assert_eq!(testing::mend(&store), 1);
}
