//! Damage, and places that cannot be read, in what nobody replays: the copy that has it takes nothing from another.

use super::hooked::Hooked;
use super::*;
use crate::journal::segment;

const OLDEST: &str = "0000000000000001.seg";

/// A journal of which the last frames alone are replayed.
fn kept(seed: u64) -> (Model, SimDisk) {
    let (mut model, disk) = (Model::default(), dirs_disk(seed));
    let (_, journal) = model.create(&disk);
    (0..60).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
    model.sync(&journal).unwrap();
    model.applied = 50;
    (model, disk.kill())
}

fn path(copy: usize, name: &str) -> PathBuf {
    Path::new(DIRS[copy]).join(name)
}

fn spoiled(disk: &SimDisk, places: &[(usize, &str, u64)]) -> Hooked {
    let hooked = Hooked::new(disk, |_, _| Ok(()));
    places.iter().for_each(|(copy, name, at)| hooked.spoil(&path(*copy, name), *at));
    hooked
}

/// Everything comes back, in order and as it was written.
fn read_all(model: &Model, journal: &Journal) -> Result<()> {
    let (mut cursor, last) = (Cursor::at(Seq(1)), journal.last());
    let mut next = Seq(1);
    while cursor.next() <= last {
        journal.replay(&mut cursor, last, usize::MAX, &mut |seq, bytes| {
            assert_eq!(seq, next);
            assert!(bytes == model.payload(seq.0), "{seq} is not what was written");
            next = seq.next();
            Ok(())
        })?;
    }
    assert_eq!(next, last.next());
    Ok(())
}

/// Frames for an archive, or for a shard that is away.
#[test]
fn damage_to_a_frame_that_is_not_replayed_is_not_copied_over_the_whole_one() {
    for (damaged, at) in [0, 1].into_iter().flat_map(|copy| [4100, 4140, 6000, 15_000].map(|at| (copy, at))) {
        // With damage to the header as well, so that the files are not let alone for that.
        for header in [None, Some(70), Some(2048 + 70)] {
            let when = format!("copy {damaged}, byte {at}, and {header:?}");
            let (mut model, disk) = kept(60);
            disk.damage(&path(damaged, OLDEST), |bytes| {
                [Some(at), header].into_iter().flatten().for_each(|at| bytes[at] ^= 1);
            })
            .unwrap();
            let (mirrors, journal, _) = model.open(&disk, None).unwrap_or_else(|e| panic!("{when}: {e}"));
            assert_eq!(good(&mirrors), [true; 2], "{when}");
            read_all(&model, &journal).unwrap_or_else(|e| panic!("{when}: {e}"));
            drop(journal);
            // What an opening goes by is whole in both, durably.
            let disk = disk.crash(PowerCut { seed: 1 });
            for lost in [0, 1] {
                let disk = disk.fork();
                absent(&disk, lost);
                model.clone().open(&disk, None).unwrap_or_else(|e| panic!("{when}, without {lost}: {e}"));
            }
        }
    }
}

#[test]
fn a_place_that_cannot_be_read_in_the_copy_that_serves_is_no_reason_to_leave_the_other_out() {
    let newest = "0000000000000006.seg";
    for (copy, name, at) in
        [(0, OLDEST, 6000), (1, OLDEST, 6000), (0, OLDEST, 4100), (0, newest, 16_383), (1, newest, 16_383)]
    {
        let when = format!("copy {copy}, {name} at {at}");
        let (mut model, disk) = kept(61);
        assert!(disk.exists(&path(0, name)).unwrap(), "{:?}", disk.list(Path::new(DIRS[0])));
        let hooked = spoiled(&disk, &[(copy, name, at)]);
        let (mirrors, journal, _) =
            model.open_on(Arc::new(hooked), None).unwrap_or_else(|e| panic!("{when}: {e}"));
        assert_eq!(good(&mirrors), [true; 2], "{when}: {:?}", mirrors.copies());
        assert_eq!(mirrors.mend(), 0, "{when}");
        read_all(&model, &journal).unwrap_or_else(|e| panic!("{when}: {e}"));
    }
}

/// Neither can be read where the other is to be compared with it.
#[test]
fn copies_that_cannot_be_compared_stay_believed() {
    let (mut model, disk) = kept(62);
    let newest = "0000000000000006.seg";
    let hooked = spoiled(&disk, &[(0, newest, 16_383), (1, newest, 16_383)]);
    let (mirrors, journal, _) = model.open_on(Arc::new(hooked), None).unwrap();
    assert_eq!(good(&mirrors), [true; 2], "{:?}", mirrors.copies());
    read_all(&model, &journal).unwrap();
}

/// One copy has a write more, of which nobody was told that it is kept, and lacks a segment of which nothing is replayed.
#[test]
fn a_segment_that_only_the_copy_with_fewer_writes_has_goes_to_the_one_with_more() {
    for (ahead, lost) in [0, 1].into_iter().flat_map(|copy| [1, 2].map(|lost| (copy, lost))) {
        let when = format!("copy {ahead}, without segment {lost}");
        let (mut model, disk) = (Model::default(), dirs_disk(65));
        let (_, journal) = model.create(&disk);
        (0..60).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
        model.sync(&journal).unwrap();
        model.applied = 50;
        let names = disk.list(Path::new(DIRS[1 - ahead])).unwrap();
        let paths = names.iter().filter(|name| name.ends_with(".seg")).map(|name| path(1 - ahead, name));
        let before: Vec<_> = paths.map(|path| (disk.read(&path).unwrap().unwrap(), path)).collect();
        model.append(&journal, Handoff::Os).unwrap();
        let disk = disk.kill();
        for (bytes, path) in before {
            disk.damage(&path, |now| now.clone_from(&bytes)).unwrap();
        }
        disk.remove_file(&path(ahead, &segment::name(lost))).unwrap();
        let (mirrors, journal, report) = model.open(&disk, None).unwrap_or_else(|e| panic!("{when}: {e}"));
        assert_eq!((report.last, good(&mirrors)), (Seq(61), [true; 2]), "{when}: {:?}", mirrors.copies());
        read_all(&model, &journal).unwrap_or_else(|e| panic!("{when}: {e}"));
        drop(journal);
        let disk = disk.crash(PowerCut { seed: 1 });
        for lost in [0, 1] {
            let (mut model, disk) = (model.clone(), disk.fork());
            absent(&disk, lost);
            let (_, journal, _) =
                model.open(&disk, None).unwrap_or_else(|e| panic!("{when}, without {lost}: {e}"));
            read_all(&model, &journal).unwrap_or_else(|e| panic!("{when}, without {lost}: {e}"));
        }
    }
}

/// A file of another length is made as long as the other, and what both have of it is not copied.
#[test]
fn an_older_segment_that_is_cut_short_is_filled_up() {
    for (short, damaged) in [(0, 1), (1, 0)] {
        let (mut model, disk) = kept(63);
        disk.damage(&path(short, OLDEST), |bytes| bytes.truncate(9000)).unwrap();
        disk.damage(&path(damaged, OLDEST), |bytes| bytes[6000] ^= 1).unwrap();
        let (mirrors, journal, _) = model.open(&disk, None).unwrap();
        assert_eq!(good(&mirrors), [true; 2]);
        read_all(&model, &journal).unwrap();
    }
}

/// Of a file of which the bytes mean nothing, too.
#[test]
fn a_spare_that_is_cut_short_in_one_copy_is_as_long_as_in_the_other_afterwards() {
    for short in [0, 1] {
        let (mut model, disk) = (Model::default(), dirs_disk(66));
        let (_, journal) = model.create(&disk);
        (0..60).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
        model.sync(&journal).unwrap();
        assert!(journal.trim(Seq(55)).unwrap() > 1);
        model.applied = 55;
        let disk = disk.kill();
        let spares = |copy: usize| -> Vec<(String, usize)> {
            let mut names = disk.list(Path::new(DIRS[copy])).unwrap();
            names.retain(|name| name.ends_with(".spare"));
            names.sort();
            names
                .into_iter()
                .map(|name| (name.clone(), disk.read(&path(copy, &name)).unwrap().unwrap().len()))
                .collect()
        };
        // The opening uses one of them.
        assert!(spares(0).len() > 1 && spares(0) == spares(1), "{:?}", spares(0));
        for (name, _) in spares(0) {
            disk.damage(&path(short, &name), |bytes| bytes.truncate(100)).unwrap();
        }
        let (mirrors, ..) = model.open(&disk, None).unwrap();
        assert_eq!(good(&mirrors), [true; 2]);
        assert!(!spares(0).is_empty() && spares(0) == spares(1), "{short}: {:?}, {:?}", spares(0), spares(1));
    }
}

pub fn third() -> Vec<Place> {
    let mut places = places();
    places.push(Place { id: 2, dir: "/store/c".into(), ..places[0].clone() });
    places
}

/// A journal in three copies.
pub fn of_three(disk: &SimDisk) -> (Arc<Mirrors>, Journal) {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let mirrors =
        Mirrors::create(shared, Path::new(HOME), CONFIG.store_id, third(), None, Arc::default()).unwrap();
    let journal = Journal::create(mirrors.clone(), &third()[0].dir, CONFIG, Seq(1)).unwrap();
    mirrors.vouch().unwrap();
    (mirrors, journal)
}

/// One copy is left out, and the one that is asked first cannot be read somewhere: in a segment, or in a file of which the bytes mean
/// nothing.
#[test]
fn a_copy_is_made_from_one_that_can_be_read_and_is_not_emptied_for_one_that_cannot() {
    let segments = |disk: &SimDisk| {
        let mut names = disk.list(Path::new(DIRS[1])).unwrap();
        names.retain(|name| name.ends_with(".seg"));
        names
    };
    for (three, spare) in [(false, false), (false, true), (true, false), (true, true)] {
        let disk = dirs_disk(64);
        let hooked = Hooked::new(&disk, |_, _| Ok(()));
        let places = if three { third() } else { places() };
        let shared = Arc::new(hooked.clone());
        let mirrors =
            Mirrors::create(shared, Path::new(HOME), CONFIG.store_id, places, None, Arc::default()).unwrap();
        let journal = Journal::create(mirrors.clone(), Path::new(DIRS[0]), CONFIG, Seq(1)).unwrap();
        mirrors.vouch().unwrap();
        let mut model = Model::default();
        (0..60).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
        model.sync(&journal).unwrap();
        assert!(journal.trim(Seq(30)).unwrap() > 0);
        fault(&disk, Operation::Write, 1, 1);
        model.append(&journal, Handoff::Os).unwrap();
        model.sync(&journal).unwrap();
        assert!(!mirrors.copies()[1].good);
        let before = segments(&disk);
        let names = disk.list(Path::new(DIRS[0])).unwrap();
        let kind = if spare { ".spare" } else { ".seg" };
        let name = names.iter().find(|name| name.ends_with(kind)).unwrap();
        hooked.spoil(&path(0, name), 6000);
        let can = three || spare;
        assert_eq!(mirrors.mend(), usize::from(can), "{three} {spare}: {:?}", mirrors.copies());
        assert_eq!(mirrors.copies()[1].good, can);
        if !can {
            let cause = mirrors.copies()[1].cause.clone().unwrap().to_string();
            assert!(cause.contains(DIRS[0]), "{cause}");
            assert_eq!(segments(&disk), before);
            continue;
        }
        model.append(&journal, Handoff::Os).unwrap();
        model.sync(&journal).unwrap();
        let mut cursor = Cursor::at(journal.first());
        let last = journal.last();
        while journal.replay(&mut cursor, last, usize::MAX, &mut |_, _| Ok(())).unwrap() <= last {}
        assert_eq!(last, Seq(62));
        let bytes = |copy: usize| {
            segments(&disk).iter().map(|n| disk.read(&path(copy, n)).unwrap()).collect::<Vec<_>>()
        };
        assert!(bytes(0) == bytes(1));
    }
}

/// A trim that was interrupted has left it in one of them; or the other has lost it.
#[test]
fn a_segment_that_only_one_copy_has_is_not_given_up() {
    for (lost, which) in [0, 1].into_iter().flat_map(|copy| [0, 2].map(|which| (copy, which))) {
        let (mut model, disk) = kept(66);
        let mut names = disk.list(Path::new(DIRS[lost])).unwrap();
        names.retain(|name| name.ends_with(".seg"));
        names.sort();
        disk.remove_file(&path(lost, &names[which])).unwrap();
        let (mirrors, journal, _) = model.open(&disk, None).unwrap();
        assert_eq!(good(&mirrors), [true; 2]);
        read_all(&model, &journal).unwrap_or_else(|e| panic!("{which} of copy {lost}: {e}"));
        super::mending::alike(&disk);
    }
}

fn each_alone_has_all(model: &Model, disk: &SimDisk, when: &str) {
    for away in [0, 1] {
        let (mut model, disk) = (model.clone(), disk.fork());
        absent(&disk, away);
        let (_, journal, _) = model.open(&disk, None).unwrap_or_else(|e| panic!("{when}: {e}"));
        read_all(&model, &journal).unwrap_or_else(|e| panic!("{when}, without {away}: {e}"));
    }
}

/// A check of the file system has moved it away. What begins behind the gap would pass for what an interrupted trim has left.
#[test]
fn a_segment_that_one_copy_has_lost_is_not_removed_from_the_other() {
    for (copy, lost) in [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)] {
        let when = format!("copy {copy}, segment {lost}");
        let (mut model, disk) = kept(65);
        disk.remove_file(&path(copy, &segment::name(lost))).unwrap();
        let (mirrors, journal, _) = model.open(&disk, None).unwrap_or_else(|e| panic!("{when}: {e}"));
        assert_eq!(good(&mirrors), [true; 2], "{when}");
        read_all(&model, &journal).unwrap_or_else(|e| panic!("{when}: {e}"));
        drop(journal);
        each_alone_has_all(&model, &disk.crash(PowerCut { seed: 1 }), &when);
    }
}

/// The same while the store serves, of the copy that another one is made from.
#[test]
fn a_segment_that_the_copy_which_serves_has_lost_comes_back_from_one_that_is_made_anew() {
    for lost in [2, 3, 4, 5] {
        let when = format!("segment {lost}");
        let (mut model, disk) = (Model::default(), dirs_disk(66));
        let (mirrors, journal) = model.create(&disk);
        (0..50).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
        model.sync(&journal).unwrap();
        fault(&disk, Operation::Sync, 1, 1);
        (0..30).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
        model.sync(&journal).unwrap();
        assert_eq!(good(&mirrors), [true, false]);
        // The last that is whole in both, and what it goes on with.
        let theirs = disk.list(Path::new(DIRS[1])).unwrap();
        let behind = theirs.iter().filter(|name| name.ends_with(".seg")).max().unwrap().clone();
        let is_followed = segment::name(lost + 1) < behind;
        disk.remove_file(&path(0, &segment::name(lost))).unwrap();
        let there = path(1, &segment::name(lost));
        let before = disk.read(&there).unwrap().unwrap();
        if !is_followed {
            assert_eq!(mirrors.mend(), 0, "{when}");
            let cause = mirrors.copies()[1].cause.clone().unwrap().to_string();
            assert!(cause.contains("it is kept"), "{when}: {cause}");
            assert!(disk.read(&there).unwrap() == Some(before), "{when}");
            continue;
        }
        assert_eq!(mirrors.mend(), 1, "{when}: {:?}", mirrors.copies());
        read_all(&model, &journal).unwrap_or_else(|e| panic!("{when}: {e}"));
        model.append(&journal, Handoff::Os).unwrap();
        model.sync(&journal).unwrap();
        drop(journal);
        each_alone_has_all(&model, &disk.crash(PowerCut { seed: 1 }), &when);
    }
}

/// A power cut in the middle of a trim: two copies have lost a segment and have a write of which nobody was told, the third has neither.
#[test]
fn what_is_put_back_into_the_copy_that_serves_is_in_every_copy_that_counts() {
    for lost in [1, 2] {
        let (disk, dirs) = (dirs_disk(67), third().into_iter().map(|place| place.dir).collect::<Vec<_>>());
        let (mirrors, journal) = of_three(&disk);
        let mut model = Model::default();
        (0..60).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
        model.sync(&journal).unwrap();
        let names = disk.list(&dirs[1]).unwrap();
        let paths = names.iter().filter(|name| name.ends_with(".seg")).map(|name| dirs[1].join(name));
        let before: Vec<_> = paths.map(|path| (disk.read(&path).unwrap().unwrap(), path)).collect();
        model.append(&journal, Handoff::Os).unwrap();
        drop((journal, mirrors));
        let disk = disk.kill();
        before
            .into_iter()
            .for_each(|(bytes, path)| disk.damage(&path, |now| now.clone_from(&bytes)).unwrap());
        for dir in [&dirs[0], &dirs[2]] {
            (1..=lost).for_each(|lost| disk.remove_file(&dir.join(segment::name(lost))).unwrap());
        }
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let locks = Found::lock(shared.as_ref(), CONFIG.store_id, &third()).unwrap();
        let (home, from) = (Path::new(HOME), Seq(50));
        let found = Found::look(shared, home, CONFIG.store_id, third(), None, false, locks).unwrap();
        let mirrors = found.serve(from, from, None).unwrap();
        let (journal, _) =
            Journal::open(mirrors.clone(), &dirs[0], CONFIG, from, from, &mut |_, _| Ok(())).unwrap();
        assert!(mirrors.copies().iter().all(|copy| copy.good), "{:?}", mirrors.copies());
        read_all(&model, &journal).unwrap();
        assert!(journal.trim(Seq(50)).unwrap() as u64 >= lost);
        assert!(mirrors.copies().iter().all(|copy| copy.good), "{lost}: {:?}", mirrors.copies());
    }
}

/// A journal of which the second copy was left out while it had the oldest segments, and the first has lost some of them since it was closed.
fn without_the_oldest(lost: u64) -> (Model, SimDisk) {
    let (mut model, disk) = (Model::default(), dirs_disk(68));
    let (mirrors, journal) = model.create(&disk);
    (0..50).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
    model.sync(&journal).unwrap();
    fault(&disk, Operation::Sync, 1, 1);
    (0..30).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
    model.sync(&journal).unwrap();
    assert_eq!(good(&mirrors), [true, false]);
    drop((journal, mirrors));
    let disk = disk.kill();
    (1..=lost).for_each(|lost| disk.remove_file(&path(0, &segment::name(lost))).unwrap());
    model.applied = 70;
    (model, disk)
}

/// Nobody replays it; an archive that is behind asks for it.
#[test]
fn the_oldest_segments_come_back_from_a_copy_that_is_left_out_before_it_is_made_anew() {
    for lost in [1, 2, 3] {
        let when = format!("up to segment {lost}");
        let (mut model, disk) = without_the_oldest(lost);
        let (mirrors, journal, _) = model.open(&disk, None).unwrap_or_else(|e| panic!("{when}: {e}"));
        assert_eq!(good(&mirrors), [true, false], "{when}");
        assert_eq!(mirrors.mend(), 1, "{when}: {:?}", mirrors.copies());
        read_all(&model, &journal).unwrap_or_else(|e| panic!("{when}: {e}"));
        model.append(&journal, Handoff::Os).unwrap();
        model.sync(&journal).unwrap();
        drop(journal);
        each_alone_has_all(&model, &disk.crash(PowerCut { seed: 1 }), &when);
    }
}

/// What a trim has freed while a copy was away is in that copy still.
#[test]
fn what_nobody_needs_any_more_does_not_come_back_from_a_copy_that_is_left_out() {
    let (_, whole) = without_the_oldest(0);
    let begins = |number: u64| {
        let path = path(1, &segment::name(number));
        super::spreading::frames(&whole, &path).first().unwrap().1
    };
    // With what the third segment ends with, or begins with, it is needed as a whole.
    for (needed, oldest) in
        [(begins(4), 4), (Seq(begins(4).0 - 1), 3), (begins(3), 3), (Seq(begins(3).0 - 1), 2)]
    {
        let (_, disk) = without_the_oldest(3);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let locks = Found::lock(shared.as_ref(), CONFIG.store_id, &places()).unwrap();
        let found =
            Found::look(shared, Path::new(HOME), CONFIG.store_id, places(), None, false, locks).unwrap();
        found.needed_from(needed).serve(Seq(70), Seq(70), None).unwrap();
        let mut names = disk.list(Path::new(DIRS[0])).unwrap();
        names.retain(|name| name.ends_with(".seg"));
        assert_eq!(names.iter().min(), Some(&segment::name(oldest)), "{needed}");
    }
}

/// Somebody else may be writing there.
#[test]
fn nothing_comes_back_from_a_copy_that_is_left_out_and_not_locked() {
    for locked in [false, true] {
        let (_, disk) = without_the_oldest(1);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let file = |path: &Path| path == Path::new(DIRS[1]).join("LOCK");
        if !locked {
            disk.inject(Fault::on(Operation::Look).at(file).error(std::io::ErrorKind::PermissionDenied));
        }
        let locks = Found::lock(shared.as_ref(), CONFIG.store_id, &places()).unwrap();
        let found =
            Found::look(shared, Path::new(HOME), CONFIG.store_id, places(), None, false, locks).unwrap();
        found.serve(Seq(70), Seq(70), None).unwrap();
        assert_eq!(disk.exists(&path(0, OLDEST)).unwrap(), locked);
    }
}

/// An opening writes a segment of its own, and takes no room from it.
#[test]
fn old_segments_come_back_only_where_there_is_room_to_spare() {
    for (spare, comes) in [(2, true), (1, false)] {
        let (mut model, disk) = without_the_oldest(1);
        let len = disk.read(&path(1, OLDEST)).unwrap().unwrap().len() as u64;
        let used = disk.files().iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
        disk.set_capacity(Some(used + len * spare + len / 2));
        model.open(&disk, None).unwrap_or_else(|e| panic!("{spare}: {e}"));
        assert_eq!(disk.exists(&path(0, OLDEST)).unwrap(), comes, "{spare}");
    }
}

/// The first frame of a segment of which nothing is replayed is put back, and the sync of that fails.
#[test]
fn what_is_put_back_into_a_copy_that_serves_is_durable_or_another_one_serves() {
    for (damaged, times) in [0, 1].into_iter().flat_map(|copy| [1, 2, 3].map(|times| (copy, times))) {
        let when = format!("copy {damaged}, {times} syncs fail");
        let (mut model, disk) = kept(69);
        // Not the oldest, which would have the other copy serve.
        let here = path(damaged, &segment::name(2));
        disk.damage(&here, |bytes| bytes[4100] ^= 1).unwrap();
        disk.inject(
            Fault::on(Operation::Sync)
                .at(move |path| path.to_string_lossy().starts_with(&*here.to_string_lossy()))
                .times(times),
        );
        let (mirrors, journal, _) = model.open(&disk, None).unwrap_or_else(|e| panic!("{when}: {e}"));
        assert!(good(&mirrors)[1 - damaged], "{when}");
        disk.heal();
        mirrors.mend();
        assert_eq!(good(&mirrors), [true; 2], "{when}: {:?}", mirrors.copies());
        read_all(&model, &journal).unwrap_or_else(|e| panic!("{when}: {e}"));
        drop(journal);
        let disk = disk.crash(PowerCut { seed: times });
        each_alone_has_all(&model, &disk, &when);
    }
}

/// Else what one alone gets has it differ from the other, which counts no more.
#[test]
fn old_segments_come_back_into_all_copies_that_count_or_into_none() {
    for (spare, comes) in [(5, true), (2, false)] {
        let (disk, dirs) = (dirs_disk(72), third().into_iter().map(|place| place.dir).collect::<Vec<_>>());
        let (mirrors, journal) = of_three(&disk);
        let mut model = Model::default();
        (0..50).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
        model.sync(&journal).unwrap();
        fault(&disk, Operation::Sync, 1, 1);
        (0..30).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
        model.sync(&journal).unwrap();
        drop((journal, mirrors));
        let disk = disk.kill();
        for dir in [&dirs[0], &dirs[2]] {
            disk.remove_file(&dir.join(OLDEST)).unwrap();
        }
        let len = disk.read(&path(1, OLDEST)).unwrap().unwrap().len() as u64;
        let used = disk.files().iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
        disk.set_capacity(Some(used + len * spare + len / 2));
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let locks = Found::lock(shared.as_ref(), CONFIG.store_id, &third()).unwrap();
        let found =
            Found::look(shared, Path::new(HOME), CONFIG.store_id, third(), None, false, locks).unwrap();
        let mirrors = found.serve(Seq(70), Seq(70), None).unwrap();
        let good: Vec<bool> = mirrors.copies().iter().map(|copy| copy.good).collect();
        assert_eq!(good, [true, false, true], "{spare}: {:?}", mirrors.copies());
        for dir in [&dirs[0], &dirs[2]] {
            assert_eq!(disk.exists(&dir.join(OLDEST)).unwrap(), comes, "{spare}");
        }
    }
}
