//! Segments that one copy has and another lacks.

use super::older::{OLDEST, kept, of_three, path, read_all, third};
use super::*;
use crate::journal::segment;

/// The second copy is left out after 50 writes, and the first one has 30 more.
fn left_out(seed: u64) -> (Model, SimDisk, Arc<Mirrors>, Journal) {
    let (mut model, disk) = (Model::default(), dirs_disk(seed));
    let (mirrors, journal) = model.create(&disk);
    (0..50).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
    model.sync(&journal).unwrap();
    fault(&disk, Operation::Sync, 1, 1);
    (0..30).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
    model.sync(&journal).unwrap();
    assert_eq!(good(&mirrors), [true, false]);
    (model, disk, mirrors, journal)
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

/// The other copy is made anew; after another write and a power cut each of the two has all.
fn made_anew_has_all(model: &mut Model, disk: SimDisk, mirrors: &Mirrors, journal: Journal, when: &str) {
    assert_eq!(mirrors.mend(), 1, "{when}: {:?}", mirrors.copies());
    read_all(model, &journal).unwrap_or_else(|e| panic!("{when}: {e}"));
    model.append(&journal, Handoff::Os).unwrap();
    model.sync(&journal).unwrap();
    drop(journal);
    each_alone_has_all(model, &disk.crash(PowerCut { seed: 1 }), when);
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
        let (mut model, disk, mirrors, journal) = left_out(66);
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
        made_anew_has_all(&mut model, disk, &mirrors, journal, &when);
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
pub fn without_the_oldest(lost: u64) -> (Model, SimDisk) {
    let (mut model, disk, mirrors, journal) = left_out(68);
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
        made_anew_has_all(&mut model, disk, &mirrors, journal, &when);
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

/// Nor from one that is not to be kept, nor where one is accepted: what the others have need not be of the same history then.
#[test]
fn nothing_comes_back_from_a_copy_that_is_left_alone_or_passed_over_for_another() {
    for (listed, accepts, comes) in [(true, false, true), (false, false, false), (true, true, false)] {
        let (_, disk) = without_the_oldest(1);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let mut places = places();
        places[1].listed = listed;
        if accepts {
            for dir in [HOME, DIRS[0], DIRS[1]] {
                disk.remove_file(&Path::new(dir).join("MIRRORS")).unwrap();
            }
        }
        let accept = accepts.then(|| Path::new(DIRS[0]));
        let locks = Found::lock(shared.as_ref(), CONFIG.store_id, &places).unwrap();
        let found =
            Found::look(shared, Path::new(HOME), CONFIG.store_id, places, accept, false, locks).unwrap();
        found.serve(Seq(70), Seq(70), None).unwrap();
        assert_eq!(disk.exists(&path(0, OLDEST)).unwrap(), comes, "listed: {listed}, accepts: {accepts}");
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
