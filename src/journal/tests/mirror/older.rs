//! Damage, and places that cannot be read, in what nobody replays: the copy that has it takes nothing from another.

use super::hooked::Hooked;
use super::*;
use crate::journal::segment;

pub const OLDEST: &str = "0000000000000001.seg";

/// A journal of which the last frames alone are replayed.
pub fn kept(seed: u64) -> (Model, SimDisk) {
    let (mut model, disk) = (Model::default(), dirs_disk(seed));
    let (_, journal) = model.create(&disk);
    (0..60).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
    model.sync(&journal).unwrap();
    model.applied = 50;
    (model, disk.kill())
}

pub fn path(copy: usize, name: &str) -> PathBuf {
    Path::new(DIRS[copy]).join(name)
}

fn spoiled(disk: &SimDisk, places: &[(usize, &str, u64)]) -> Hooked {
    let hooked = Hooked::new(disk, |_, _| Ok(()));
    places.iter().for_each(|(copy, name, at)| hooked.spoil(&path(*copy, name), *at));
    hooked
}

/// Everything comes back, in order and as it was written.
pub fn read_all(model: &Model, journal: &Journal) -> Result<()> {
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
