//! Which copy is read when they differ, and what is mended.

use super::mending::alike;
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
    let identify = |store| Mirrors::identify(&disk, Path::new(HOME), Path::new(DIRS[1]), store);
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
        let found =
            Found::look(shared, Path::new(HOME), CONFIG.store_id, places(), None, false, Arc::default())
                .unwrap();
        let first = found.first_retained().unwrap();
        assert_eq!(first > Seq(1), trimmed == [true, true], "{trimmed:?}: {first}");
    }
}

#[test]
fn a_damaged_word_in_the_store_counts_as_none_and_one_of_another_store_is_refused() {
    let (mut model, disk) = (Model::default(), dirs_disk(16));
    let (_, journal) = model.create(&disk);
    model.append(&journal, Handoff::Os).unwrap();
    model.sync(&journal).unwrap();
    let disk = disk.kill();
    let home = Path::new(HOME).join("MIRRORS");
    let kept = disk.read(&home).unwrap().unwrap();
    disk.damage(&home, |bytes| bytes[30] ^= 1).unwrap();
    let (mirrors, ..) = model.clone().open(&disk.fork(), None).unwrap();
    assert_eq!(good(&mirrors), [true; 2]);
    // With a copy absent nobody knows that it did not go on alone.
    let alone = disk.fork();
    absent(&alone, 1);
    assert_eq!(model.clone().open(&alone, None).map(|_| ()).unwrap_err().kind(), ErrorKind::Refused);
    disk.damage(&home, |bytes| *bytes = kept).unwrap();
    // The second directory has become another store's; the first would do.
    let other = dirs_disk(17);
    let shared: Arc<dyn Disk> = Arc::new(other.clone());
    let mirrors =
        Mirrors::create(shared, Path::new(HOME), CONFIG.store_id + 1, places(), None, Arc::default())
            .unwrap();
    mirrors.vouch().unwrap();
    let word = other.read(&Path::new(DIRS[1]).join("MIRRORS")).unwrap().unwrap();
    disk.damage(&Path::new(DIRS[1]).join("MIRRORS"), |bytes| *bytes = word).unwrap();
    let error = model.open(&disk, None).map(|_| ()).unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::Foreign, Some(Path::new(DIRS[1]))), "{error}");
}

/// What cannot be read is no word that there is none: a copy that is absent may have gone on alone.
#[test]
fn a_word_in_the_store_that_cannot_be_read_is_taken_for_a_damaged_one() {
    for operation in [Operation::Look, Operation::Read] {
        let (mut model, disk) = (Model::default(), dirs_disk(19));
        let (_, journal) = model.create(&disk);
        model.append(&journal, Handoff::Os).unwrap();
        model.sync(&journal).unwrap();
        let disk = disk.kill();
        disk.inject(Fault::on(operation).at(|path| path == Path::new("/store/MIRRORS")));
        let alone = disk.fork();
        absent(&alone, 1);
        assert_eq!(model.clone().open(&alone, None).map(|_| ()).unwrap_err().kind(), ErrorKind::Refused);
        let before = word_of_both(&disk);
        let (mirrors, _, report) = model.open(&disk, None).unwrap();
        assert_eq!((report.last, good(&mirrors)), (Seq(1), [true; 2]), "{operation:?}");
        disk.heal();
        assert_ne!(word_of_both(&disk), before, "it was not written again");
    }
}

fn word_of_both(disk: &SimDisk) -> [Option<Vec<u8>>; 2] {
    DIRS.map(|dir| disk.read(&Path::new(dir).join("MIRRORS")).unwrap())
}

/// A copy is mended, and at the last moment refuses the word that it is complete: the other goes on without it.
#[test]
fn a_copy_that_does_not_take_its_word_is_left_out() {
    for refuses in [0, 1] {
        let (mut model, disk) = (Model::default(), dirs_disk(18));
        let (mirrors, journal) = model.create(&disk);
        let here = move |path: &Path| path == Path::new(DIRS[refuses]).join("MIRRORS.tmp");
        for _ in 0..2 {
            fault(&disk, Operation::Sync, refuses, 1);
            model.append(&journal, Handoff::Os).unwrap();
            model.sync(&journal).unwrap();
            disk.inject(Fault::on(Operation::Write).at(here).times(1));
            assert_eq!(mirrors.mend(), 0);
            let copy = &mirrors.copies()[refuses];
            assert!(!copy.good && copy.cause.as_ref().unwrap().to_string().contains("MIRRORS"), "{copy:?}");
            assert!(good(&mirrors)[1 - refuses]);
            assert_eq!(mirrors.mend(), 1, "{:?}", mirrors.copies());
            assert_eq!(good(&mirrors), [true; 2]);
        }
        // The same while the journal is opened, of one that has to be mended and of one that has not.
        let disk = disk.kill();
        for damaged in [Some(refuses), Some(1 - refuses), None] {
            let disk = disk.fork();
            if let Some(damaged) = damaged {
                let mut names = disk.list(Path::new(DIRS[damaged])).unwrap();
                names.retain(|name| name.ends_with(".seg"));
                let newest = Path::new(DIRS[damaged]).join(names.iter().max().unwrap());
                disk.damage(&newest, |bytes| bytes[5000] ^= 1).unwrap();
            } else {
                disk.remove_file(&Path::new(HOME).join("MIRRORS")).unwrap();
            }
            disk.inject(Fault::on(Operation::Write).at(here).times(1));
            let mut model = model.clone();
            if damaged == Some(1 - refuses) {
                // Nobody else can vouch for what it holds.
                let error = model.open(&disk, None).map(|_| ()).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Io, "{error}");
                assert_eq!(good(&model.open(&disk, None).unwrap().0), [true; 2]);
                continue;
            }
            let (mirrors, journal, report) = model.open(&disk, None).unwrap();
            assert_eq!(report.last.0, model.synced);
            let mut expected = [true; 2];
            expected[refuses] = false;
            assert_eq!(good(&mirrors), expected, "{refuses} refuses, {damaged:?} was damaged");
            model.append(&journal, Handoff::Os).unwrap();
            model.sync(&journal).unwrap();
            assert_eq!(mirrors.mend(), 1);
            let disk = disk.kill();
            absent(&disk, 1 - refuses);
            assert_eq!(model.clone().open(&disk, None).unwrap().2.last.0, model.synced);
        }
    }
}

/// The journal asks for none of this; who wraps it may.
#[test]
fn several_directories_are_one_to_those_who_look() {
    let disk = dirs_disk(19);
    let (mirrors, _journal) = Model::default().create(&disk);
    let (here, there) = (Path::new(DIRS[0]), Path::new(DIRS[1]));
    let both = || [here, there].map(|dir| disk.exists(&dir.join("more/file")).unwrap());
    mirrors.create_dir_all(&here.join("more")).unwrap();
    assert!(!mirrors.exists(&here.join("more/file")).unwrap());
    let file = mirrors.open(&here.join("more/file"), OpenMode::CreateNew).unwrap();
    assert!(mirrors.exists(&here.join("more/file")).unwrap());
    assert_eq!(both(), [true; 2]);
    file.set_len(7).unwrap();
    assert_eq!(file.len().unwrap(), 7);
    for dir in [here, there] {
        assert_eq!(disk.read(&dir.join("more/file")).unwrap().unwrap().len(), 7);
    }
    assert_eq!(mirrors.canonicalize(&here.join("more/file")).unwrap(), here.join("more/file"));
    assert!(mirrors.open(&here.join("more/file"), OpenMode::Through).is_err());
    mirrors.remove_dir_all(&here.join("more")).unwrap();
    assert_eq!(both(), [false; 2]);
    assert_eq!(
        mirrors.remove_file(&here.join("more/file")).unwrap_err().kind(),
        std::io::ErrorKind::NotFound
    );
    assert_eq!(good(&mirrors), [true; 2]);
}

#[test]
fn a_directory_is_believed_for_the_copy_that_it_is_known_to_be() {
    let (mut model, disk) = (Model::default(), dirs_disk(20));
    let (_, journal) = model.create(&disk);
    model.append(&journal, Handoff::Os).unwrap();
    model.sync(&journal).unwrap();
    let disk = disk.kill();
    let look = |disk: &SimDisk, places| {
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        Found::look(shared, Path::new(HOME), CONFIG.store_id, places, None, false, Arc::default())
    };
    // What the manifest did not know of is made anew, whatever it says of itself.
    let mut news = places();
    news[1].known = false;
    let mirrors = look(&disk.fork(), news).unwrap().serve(Seq::ZERO, Seq::ZERO, None).unwrap();
    assert_eq!(good(&mirrors), [true, false]);
    let cause = mirrors.copies()[1].cause.clone().unwrap().to_string();
    assert!(cause.contains("is new"), "{cause}");
    // Two disks are mounted in each other's place.
    let words = DIRS.map(|dir| disk.read(&Path::new(dir).join("MIRRORS")).unwrap().unwrap());
    for (dir, word) in DIRS.iter().zip(words.iter().rev()) {
        disk.damage(&Path::new(dir).join("MIRRORS"), |bytes| bytes.clone_from(word)).unwrap();
    }
    let error = look(&disk, places()).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("another copy of the journal"), "{error}");
}

/// After a failed sync the other copies are made anew, of which one has lost files, and the disk has no room for them: it waits, and takes
/// none from the journal.
#[test]
fn a_copy_that_an_opening_has_no_room_to_make_anew_is_left_out() {
    let (mut model, disk) = (Model::default(), dirs_disk(31));
    let (_, journal) = model.create(&disk);
    (0..100).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
    model.sync(&journal).unwrap();
    drop(journal);
    let disk = disk.kill();
    disk.open(&Path::new(DIRS[0]).join(segment::POISONED), OpenMode::CreateNew).unwrap();
    let files = |dir: &str| -> BTreeMap<PathBuf, Vec<u8>> {
        let ours =
            |path: &Path| path.starts_with(dir) && !path.ends_with("LOCK") && !path.ends_with("MIRRORS");
        disk.files().into_iter().filter(|(path, _)| ours(path)).collect()
    };
    let names = files(DIRS[1]).into_keys().filter(|path| path.extension().is_some_and(|e| e == "seg"));
    names.take(8).for_each(|path| disk.remove_file(&path).unwrap());
    let before = files(DIRS[1]);
    let used: usize = disk.files().iter().map(|(_, bytes)| bytes.len()).sum();
    disk.set_capacity(Some(used as u64 + (60 << 10)));
    let (mirrors, journal, report) = model.open(&disk, None).unwrap();
    assert_eq!((report.last, good(&mirrors)), (Seq(100), [true, false]));
    let cause = mirrors.copies()[1].cause.clone().unwrap();
    assert_eq!((cause.kind(), cause.path()), (ErrorKind::Full, Some(Path::new(DIRS[1]))), "{cause}");
    assert!(files(DIRS[1]) == before, "something was changed");
    assert_eq!(mirrors.mend(), 0);
    disk.set_capacity(None);
    assert_eq!(mirrors.mend(), 1);
    model.append(&journal, Handoff::Os).unwrap();
    model.sync(&journal).unwrap();
    alike(&disk);
}

/// It has room, since what it has goes when what takes its place is there.
#[test]
fn a_copy_is_made_anew_by_an_opening_in_the_room_that_it_has() {
    let (mut model, disk) = (Model::default(), dirs_disk(32));
    let (_, journal) = model.create(&disk);
    (0..100).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
    model.sync(&journal).unwrap();
    drop(journal);
    let disk = disk.kill();
    disk.open(&Path::new(DIRS[0]).join(segment::POISONED), OpenMode::CreateNew).unwrap();
    let used: usize = disk.files().iter().map(|(_, bytes)| bytes.len()).sum();
    disk.set_capacity(Some(used as u64 + (60 << 10)));
    let (mirrors, _, _) = model.open(&disk, None).unwrap();
    assert_eq!(good(&mirrors), [true; 2], "{:?}", mirrors.copies());
}

/// As with a single directory: nothing in there is asked for but the end marker.
#[test]
fn damage_in_every_copy_to_what_nothing_is_replayed_of_refuses_no_opening() {
    for places in [[8300, 8300], [4200, 9000], [9000, 4200]] {
        let (mut model, disk) = (Model::default(), dirs_disk(33));
        let (_, journal) = model.create(&disk);
        (0..60).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
        model.sync(&journal).unwrap();
        drop(journal);
        let disk = disk.kill();
        let survey = recovery::Survey::read(&disk, Path::new(DIRS[0]), CONFIG.store_id, Seq(60)).unwrap();
        let [before, asked] = [6, 7].map(|at: usize| &survey.segments[at]);
        model.applied = asked.first.unwrap().0 - 1;
        let name = before.path.file_name().unwrap();
        let held = |dir: &str| disk.read(&Path::new(dir).join(name)).unwrap().unwrap();
        let whole = held(DIRS[0]);
        for (dir, at) in DIRS.iter().zip(places) {
            disk.damage(&Path::new(dir).join(name), |bytes| bytes[at..at + 8].fill(0x55)).unwrap();
        }
        // What a single one does.
        let alone = disk.fork();
        let from = Seq(model.applied);
        let single =
            Journal::open(Arc::new(alone), Path::new(DIRS[0]), CONFIG, from, from, &mut |_, _| Ok(()));
        assert_eq!(single.map(|(_, report)| report.last).unwrap(), Seq(60), "{places:?}");
        assert_eq!(found(&disk.fork()).last().unwrap(), Seq(60), "{places:?}");
        let (mirrors, journal, report) =
            model.open(&disk, None).unwrap_or_else(|e| panic!("{places:?}: {e}"));
        assert_eq!((report.last, good(&mirrors)), (Seq(60), [true; 2]), "{places:?}");
        for (dir, at) in DIRS.iter().zip(places) {
            let mut now = held(dir);
            now[at..at + 8].copy_from_slice(&whole[at..at + 8]);
            assert!(now == whole, "{places:?}: the damage of one was put into the other");
        }
        model.append(&journal, Handoff::Os).unwrap();
        model.sync(&journal).unwrap();
        for lost in [0, 1] {
            let disk = disk.fork().kill();
            absent(&disk, lost);
            assert_eq!(model.clone().open(&disk, None).unwrap().2.last, Seq(61), "{places:?}");
        }
    }
}

fn found(disk: &SimDisk) -> Found {
    let (home, shared) = (Path::new(HOME), Arc::new(disk.clone()));
    Found::look(shared, home, CONFIG.store_id, super::places(), None, false, Arc::default()).unwrap()
}

/// Whichever of the directories comes first.
#[test]
fn a_name_that_is_no_segments_refuses_no_opening_where_another_copy_has_none() {
    for (copy, name) in
        [0, 1].into_iter().flat_map(|copy| ["copy of 1.seg", "1.seg"].map(|name| (copy, name)))
    {
        let when = format!("{name} in copy {copy}");
        let (mut model, disk) = (Model::default(), dirs_disk(34));
        let (_, journal) = model.create(&disk);
        (0..40).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
        model.sync(&journal).unwrap();
        drop(journal);
        let disk = disk.kill();
        let stray = |copy: usize| Path::new(DIRS[copy]).join(name);
        disk.replace(&stray(copy), b"a segment by its name alone").unwrap();
        // Where each of them has one, the user is asked, and it stays.
        let both = disk.fork();
        both.replace(&stray(1 - copy), b"another").unwrap();
        let error = model.clone().open(&both, None).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption, "{when}: {error}");
        assert!([0, 1].iter().all(|copy| both.exists(&stray(*copy)).unwrap()), "{when}");

        let (mirrors, journal, report) = model.open(&disk, None).unwrap_or_else(|e| panic!("{when}: {e}"));
        assert_eq!((report.last, good(&mirrors)), (Seq(40), [true; 2]), "{when}");
        model.append(&journal, Handoff::Os).unwrap();
        model.sync(&journal).unwrap();
        alike(&disk);
        drop(journal);
        for lost in [0, 1] {
            let disk = disk.fork().crash(PowerCut { seed: 1 });
            absent(&disk, lost);
            let opened = model.clone().open(&disk, None);
            let last = opened.unwrap_or_else(|e| panic!("{when}, without {lost}: {e}")).2.last;
            assert_eq!(last, Seq(41), "{when}, without {lost}");
        }
    }
}
