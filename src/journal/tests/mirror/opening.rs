//! Which copy is read when they differ, and what is mended.

use super::*;

#[test]
fn damage_in_one_copy_is_mended_from_the_other() {
    for (seed, damaged) in (0..40).flat_map(|seed| [(seed, 0), (seed, 1)]) {
        let (mut model, disk) = (Model::default(), dirs_disk(6));
        let (_, journal) = model.create(&disk);
        for _ in 0..60 {
            model.append(&journal, Handoff::Os).unwrap();
        }
        model.sync(&journal).unwrap();
        let disk = disk.kill();
        let mut rng = Rng(seed);
        let dir = Path::new(DIRS[damaged]);
        let names: Vec<_> = disk.list(dir).unwrap().into_iter().filter(|n| n.ends_with(".seg")).collect();
        let path = dir.join(&names[rng.below(names.len() as u64) as usize]);
        if rng.below(4) == 0 {
            disk.remove_file(&path).unwrap();
        } else {
            disk.damage(&path, |bytes| {
                let at = rng.below(bytes.len() as u64) as usize;
                let end = (at + 700).min(bytes.len());
                bytes[at..end].iter_mut().for_each(|b| *b ^= 0x55);
            })
            .unwrap();
        }
        let (mirrors, _, report) = model.open(&disk, None).unwrap();
        assert_eq!((report.last, good(&mirrors)), (Seq(60), [true; 2]), "seed {seed}");
        // Both are whole now, durably.
        for lost in [0, 1] {
            let disk = disk.fork().crash(PowerCut { seed });
            absent(&disk, lost);
            assert_eq!(
                model.clone().open(&disk, None).unwrap().2.last,
                Seq(60),
                "seed {seed}, without {lost}"
            );
        }
    }
}

/// One disk has not kept what it said it had: its copy is whole, and ends earlier.
#[test]
fn of_copies_that_end_at_different_places_the_longest_is_read() {
    for shorter in [0, 1] {
        let (mut model, disk) = (Model::default(), dirs_disk(12));
        let (_, journal) = model.create(&disk);
        (0..3).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
        model.sync(&journal).unwrap();
        let dir = Path::new(DIRS[shorter]);
        let names = disk.list(dir).unwrap().into_iter().filter(|n| n.ends_with(".seg"));
        let before: Vec<_> =
            names.map(|n| dir.join(n)).map(|path| (disk.read(&path).unwrap().unwrap(), path)).collect();
        model.append(&journal, Handoff::Os).unwrap();
        model.sync(&journal).unwrap();
        let disk = disk.kill();
        for (bytes, path) in before {
            disk.damage(&path, |now| now.copy_from_slice(&bytes)).unwrap();
        }
        let (mirrors, _, report) = model.open(&disk, None).unwrap();
        assert_eq!((report.last, good(&mirrors)), (Seq(4), [true; 2]), "copy {shorter} is the shorter one");
        // And from here on either alone has it all.
        let disk = disk.kill();
        absent(&disk, 1 - shorter);
        let (_, _, report) = model.open(&disk, Some(DIRS[shorter])).unwrap();
        assert_eq!(report.last, Seq(4), "copy {shorter} alone");
    }
}

#[test]
fn a_directory_of_another_store_is_told_from_one_that_cannot_be_read() {
    let (model, disk) = (Model::default(), dirs_disk(14));
    model.create(&disk);
    let identify = |store| Mirrors::identify(&disk, Path::new(DIRS[1]), store);
    assert_eq!(identify(CONFIG.store_id).unwrap(), Some(1));
    assert_eq!(identify(CONFIG.store_id + 1).unwrap_err().kind(), ErrorKind::Foreign);
    for name in disk.list(Path::new(DIRS[1])).unwrap().iter().filter(|name| !name.ends_with(".seg")) {
        disk.damage(&Path::new(DIRS[1]).join(name), |bytes| bytes.fill(0)).unwrap();
    }
    assert_eq!(identify(CONFIG.store_id).unwrap(), None);
}

/// One copy was trimmed further than the other when the machine stopped: what is replayed begins with the older of both.
#[test]
fn the_oldest_sequence_is_that_of_the_copy_which_holds_most() {
    for trimmed in [[false, true], [true, false], [true, true], [false, false]] {
        let (mut model, disk) = (Model::default(), dirs_disk(13));
        let (_, journal) = model.create(&disk);
        (0..60).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
        model.sync(&journal).unwrap();
        let disk = disk.kill();
        let names = |dir: &str| {
            let mut names = disk.list(Path::new(dir)).unwrap();
            names.retain(|name| name.ends_with(".seg"));
            names.sort();
            names
        };
        for dir in DIRS.iter().zip(trimmed).filter_map(|(dir, trimmed)| trimmed.then_some(dir)) {
            disk.remove_file(&Path::new(dir).join(&names(dir)[0])).unwrap();
        }
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let found = Found::look(shared, Path::new(HOME), CONFIG.store_id, places(), None).unwrap();
        let first = found.first_retained().unwrap();
        assert_eq!(first > Seq(1), trimmed == [true, true], "{trimmed:?}: {first}");
    }
}
