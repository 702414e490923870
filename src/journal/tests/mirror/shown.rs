//! What a damaged copy shows, and what is done because of a damaged one alone.

use super::*;
use crate::frame::Kind;

fn segments(disk: &SimDisk, copy: usize) -> Vec<PathBuf> {
    let mut names = disk.list(Path::new(DIRS[copy])).unwrap();
    names.retain(|name| name.ends_with(".seg"));
    names.sort();
    names.iter().map(|name| Path::new(DIRS[copy]).join(name)).collect()
}

/// All files with what is in them, but for locks, which say who holds them.
fn held(disk: &SimDisk) -> Vec<(PathBuf, Vec<u8>)> {
    disk.files().into_iter().filter(|(path, _)| !path.ends_with("LOCK")).collect()
}

/// Whoever gives the word that one copy alone is complete has read it: where it is damaged, the other one is not left behind.
#[test]
fn a_copy_that_is_alone_gets_no_word_before_it_was_read() {
    for (copy, operation) in
        [0, 1].into_iter().flat_map(|copy| [Some(Operation::Read), None].map(|o| (copy, o)))
    {
        let (mut model, disk) = (Model::default(), dirs_disk(80));
        let (_, journal) = model.create(&disk);
        (0..60).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
        model.sync(&journal).unwrap();
        drop(journal);
        let disk = disk.kill();
        let path = segments(&disk, copy)[4].clone();
        let whole = disk.read(&path).unwrap().unwrap();
        let before = held(&disk);
        absent(&disk, 1 - copy);
        let kind = match operation {
            None => {
                disk.damage(&path, |bytes| bytes[6000] ^= 1).unwrap();
                ErrorKind::Corruption
            }
            Some(operation) => {
                let at = path.clone();
                // Twice a header and a first frame are read, before there is a word in any case.
                disk.inject(Fault::on(operation).at(move |path| path == at).after(4));
                ErrorKind::Io
            }
        };
        let error = model.open(&disk, None).map(drop).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        disk.heal();
        let mut after = held(&disk);
        after.iter_mut().filter(|(at, _)| *at == path).for_each(|(_, bytes)| bytes.clone_from(&whole));
        assert!(after == before, "{operation:?}: something was changed");
        let (mirrors, _, report) = model.open(&disk, None).unwrap();
        assert_eq!((report.last, good(&mirrors)), (Seq(60), [true; 2]), "{operation:?}");
    }
}

/// A journal of 100 synced writes in two copies, of which one has lost what came after the first 60, though its disk said that it was synced.
fn one_is_shorter(shorter: usize) -> (Model, SimDisk) {
    let (mut model, disk) = (Model::default(), dirs_disk(81));
    let (_, journal) = model.create(&disk);
    (0..60).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
    model.sync(&journal).unwrap();
    let before: Vec<_> =
        segments(&disk, shorter).into_iter().map(|path| (disk.read(&path).unwrap().unwrap(), path)).collect();
    (0..40).for_each(|_| {
        model.append(&journal, Handoff::Os).unwrap();
        model.sync(&journal).unwrap();
    });
    drop(journal);
    let disk = disk.kill();
    for path in segments(&disk, shorter) {
        match before.iter().find(|(_, known)| *known == path) {
            Some((bytes, _)) => disk.damage(&path, |now| now.clone_from(bytes)).unwrap(),
            None => disk.remove_file(&path).unwrap(),
        }
    }
    disk.sync_dir(Path::new(DIRS[shorter])).unwrap();
    (model, disk)
}

/// Where a frame lies in a copy.
fn place_of(disk: &SimDisk, copy: usize, wanted: u64) -> (PathBuf, usize) {
    let found = segments(disk, copy).into_iter().find_map(|path| {
        let frames = super::spreading::frames(disk, &path);
        frames
            .iter()
            .find(|(kind, seq, _)| *kind == Kind::Commit && seq.0 == wanted)
            .map(|(.., at)| (path, *at as usize))
    });
    found.unwrap()
}

/// The longer one cannot be read, the shorter one can. What is damaged of the longer one comes from the shorter.
#[test]
fn what_a_damaged_copy_alone_has_outlives_a_whole_one_that_is_shorter() {
    for (shorter, damaged, at_start) in
        [0, 1].into_iter().flat_map(|s| [2, 30, 59].map(|d| [(s, d, false), (s, d, true)])).flatten()
    {
        let (mut model, disk) = one_is_shorter(shorter);
        // A power cut, or none: what is known to have been synced is so either way.
        let disk = if at_start { disk.crash(PowerCut { seed: 1 }) } else { disk };
        for harm in [20, 44] {
            let (mut model, disk) = (model.clone(), disk.fork());
            let (path, at) = place_of(&disk, 1 - shorter, damaged);
            disk.damage(&path, |bytes| bytes[at + harm] ^= 1).unwrap();
            let case = format!("{shorter} is shorter, {damaged} is damaged at {harm}");
            let (mirrors, _, report) = model.open(&disk, None).unwrap_or_else(|e| panic!("{case}: {e}"));
            assert_eq!((report.last, good(&mirrors)), (Seq(100), [true; 2]), "{case}");
        }
        // Nobody has it any more.
        let (path, at) = place_of(&disk, 1 - shorter, 80);
        disk.damage(&path, |bytes| bytes[at + 44] ^= 1).unwrap();
        let before = held(&disk);
        let error = model.open(&disk, None).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
        assert!(DIRS.iter().all(|dir| error.to_string().contains(dir)), "{error}");
        assert!(held(&disk) == before, "something was changed");
        // What its advice comes to: the one that is whole goes on alone.
        absent(&disk, 1 - shorter);
        assert_eq!(model.open(&disk, None).unwrap().2.last, Seq(60));
    }
}

/// Whatever keeps it from being read: what can be read of it is looked through all the same.
#[test]
fn a_copy_that_is_damaged_in_its_headers_or_cannot_be_read_is_heard_all_the_same() {
    for (shorter, how) in [0, 1].into_iter().flat_map(|s| (0..5).map(move |how| (s, how))) {
        let (mut model, disk) = one_is_shorter(shorter);
        let longer = 1 - shorter;
        let all = segments(&disk, longer);
        let (path, _) = place_of(&disk, longer, if how < 2 { 30 } else { 80 });
        let hooked = super::hooked::Hooked::new(&disk, |_, _| Ok(()));
        let headers = |bytes: &mut Vec<u8>| [100, 2048 + 100].into_iter().for_each(|at| bytes[at] ^= 1);
        match how {
            // Both headers; the last bytes, which are nothing.
            0 => disk.damage(&path, headers).unwrap(),
            1 => disk.damage(&path, |bytes| bytes.truncate(bytes.len() - 8)).unwrap(),
            2 => disk.damage(&path, headers).unwrap(),
            3 => disk.remove_file(&path).unwrap(),
            _ => hooked.spoil(&all[all.len() - 2], 4200),
        }
        let comes_back = how < 2;
        let before = held(&disk);
        let shared: Arc<dyn Disk> = Arc::new(hooked);
        match model.open_on(shared, None) {
            Ok((mirrors, _, report)) => {
                assert_eq!((comes_back, report.last, good(&mirrors)), (true, Seq(100), [true; 2]), "{how}");
            }
            Err(error) => {
                assert_eq!((comes_back, error.kind()), (false, ErrorKind::Corruption), "{how}: {error}");
                assert!(held(&disk) == before, "{how}: something was changed");
            }
        }
    }
}

/// The user takes what can be read.
#[test]
fn what_a_damaged_copy_shows_is_given_up_where_that_is_accepted() {
    let (_, disk) = one_is_shorter(1);
    let (path, at) = place_of(&disk, 0, 80);
    disk.damage(&path, |bytes| bytes[at + 44] ^= 1).unwrap();
    let shared: Arc<dyn Disk> = Arc::new(disk);
    let found =
        Found::look(shared, Path::new(HOME), CONFIG.store_id, places(), None, false, Arc::default()).unwrap();
    let mirrors = found.without_the_rest().serve(Seq::ZERO, Seq::ZERO, None).unwrap();
    assert_eq!(good(&mirrors), [true; 2]);
}

/// Each of them has what the other lacks.
#[test]
fn two_copies_that_are_damaged_in_different_places_come_to_a_whole_one() {
    for places in [[10, 40], [40, 10], [30, 31]] {
        let (mut model, disk) = (Model::default(), dirs_disk(82));
        let (_, journal) = model.create(&disk);
        (0..60).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
        model.sync(&journal).unwrap();
        drop(journal);
        let disk = disk.kill();
        for (copy, damaged) in places.into_iter().enumerate() {
            let (path, at) = place_of(&disk, copy, damaged);
            disk.damage(&path, |bytes| bytes[at + 44] ^= 1).unwrap();
        }
        let (mirrors, _, report) =
            model.open(&disk, None).unwrap_or_else(|e| panic!("{places:?} are damaged: {e}"));
        assert_eq!((report.last, good(&mirrors)), (Seq(60), [true; 2]), "{places:?}");
        for lost in [0, 1] {
            let disk = disk.fork().kill();
            absent(&disk, lost);
            assert_eq!(model.clone().open(&disk, None).unwrap().2.last, Seq(60), "{places:?}");
        }
    }
}

/// The system holds in memory what it was given and does not mean to write any more, and calls the next sync a success.
#[test]
fn a_damaged_copy_that_could_not_be_synced_when_it_was_mended_is_not_called_complete_for_what_is_in_memory() {
    for (shorter, wanted) in [0, 1].into_iter().flat_map(|s| [30, 59].map(|wanted| (s, wanted))) {
        let longer = 1 - shorter;
        for times in 1..5 {
            let when = format!("{shorter} is shorter, {wanted} is damaged, {times} syncs fail");
            let (mut model, disk) = one_is_shorter(shorter);
            let (path, at) = place_of(&disk, longer, wanted);
            disk.damage(&path, |bytes| bytes[at + 44] ^= 1).unwrap();
            let here = path.clone();
            disk.inject(
                Fault::on(Operation::Sync)
                    .at(move |path| path.to_string_lossy().starts_with(&*here.to_string_lossy()))
                    .times(times),
            );
            let (mirrors, _, report) = model.open(&disk, None).unwrap_or_else(|e| panic!("{when}: {e}"));
            assert_eq!(report.last, Seq(100), "{when}");
            let complete = good(&mirrors);
            assert!(complete != [false; 2], "{when}");
            disk.heal();
            let disk = disk.crash(PowerCut { seed: times });
            for lost in [0, 1].into_iter().filter(|lost| complete[1 - lost]) {
                let (mut model, disk) = (model.clone(), disk.fork());
                absent(&disk, lost);
                let (_, _, report) =
                    model.open(&disk, None).unwrap_or_else(|e| panic!("{when}, without {lost}: {e}"));
                assert_eq!(report.last, Seq(100), "{when}, without {lost}");
            }
        }
    }
}

/// What keeps the longer one from being read lies where nothing is replayed, or whole files of it are missing; the shorter one has that.
#[test]
fn a_longer_copy_gets_headers_ends_and_whole_segments_of_the_shorter_one_before_it_is_left_behind() {
    let headers = |bytes: &mut Vec<u8>| [100, 2048 + 100].into_iter().for_each(|at| bytes[at] ^= 1);
    for (shorter, applied) in [0, 1].into_iter().flat_map(|s| [0, 50].map(|applied| (s, applied))) {
        let (mut model, disk) = one_is_shorter(shorter);
        model.applied = applied;
        let longer = segments(&disk, 1 - shorter);
        let (lacking, at) = place_of(&disk, 1 - shorter, 80);
        // The last of the shorter one's ends before that of the longer one.
        let shared = segments(&disk, shorter).len() - 1;
        let mut cases: Vec<(String, Vec<usize>, usize)> = Vec::new();
        for at in 0..shared {
            (0..3).for_each(|how| cases.push((format!("segment {}, {how}", at + 1), vec![at], how)));
        }
        cases.push(("two in a row".to_owned(), vec![shared - 2, shared - 1], 2));
        cases.push(("one here and one there".to_owned(), vec![1, shared - 1], 2));
        cases.push(("all".to_owned(), (0..shared).collect(), 2));
        cases.push(("all headers".to_owned(), (0..shared).collect(), 0));
        for (what, places, how) in cases {
            let when = format!("{shorter} is shorter, {applied} are applied, {what}");
            let disk = disk.fork();
            for path in places.iter().map(|at| &longer[*at]) {
                match how {
                    0 => disk.damage(path, headers).unwrap(),
                    // One frame is left to know it by.
                    1 => {
                        let (.., second) = super::spreading::frames(&disk, path)[1];
                        disk.damage(path, |bytes| bytes.truncate(second as usize + 20)).unwrap();
                    }
                    _ => disk.remove_file(path).unwrap(),
                }
            }
            // Nobody has all of what comes later: it is refused as before, and nothing is changed.
            let torn = disk.fork();
            torn.damage(&lacking, |bytes| bytes[at + 44] ^= 1).unwrap();
            let before = held(&torn);
            let error = model.clone().open(&torn, None).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corruption, "{when}: {error}");
            assert!(held(&torn) == before, "{when}: something was changed");

            let mut model = model.clone();
            let (mirrors, journal, report) =
                model.open(&disk, None).unwrap_or_else(|e| panic!("{when}: {e}"));
            assert_eq!((report.last, good(&mirrors)), (Seq(100), [true; 2]), "{when}");
            drop(journal);
            let disk = disk.crash(PowerCut { seed: 1 });
            for lost in [0, 1] {
                let (mut model, disk) = (model.clone(), disk.fork());
                absent(&disk, lost);
                let opened = model.open(&disk, None);
                let last = opened.unwrap_or_else(|e| panic!("{when}, without {lost}: {e}")).2.last;
                assert_eq!(last, Seq(100), "{when}, without {lost}");
            }
        }
    }
}

/// Somebody has given it another name: it goes only where nothing is in there that was synced and that no copy has.
#[test]
fn a_segment_of_another_name_is_not_removed_for_a_copy_that_lacks_what_is_in_it() {
    for shorter in [0, 1] {
        let (mut model, disk) = one_is_shorter(shorter);
        let others = segments(&disk, shorter).len() - 1;
        // All that the other one lacks something of.
        let newest = segments(&disk, 1 - shorter).split_off(others);
        let renamed = |path: &Path| path.with_extension("old.seg");
        let rename = |disk: &SimDisk, back: bool| {
            for path in &newest {
                let (from, to) = (path.clone(), renamed(path));
                let (from, to) = if back { (to, from) } else { (from, to) };
                disk.rename(&from, &to).unwrap();
            }
        };
        rename(&disk, false);
        let before = held(&disk);
        let error = model.clone().open(&disk, None).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
        assert!(error.to_string().contains(".old.seg"), "{error}");
        assert!(held(&disk) == before, "something was changed");
        rename(&disk, true);
        let (mirrors, journal, report) = model.open(&disk, None).unwrap();
        assert_eq!((report.last, good(&mirrors)), (Seq(100), [true; 2]));
        drop(journal);
        // Now the other one has all of it.
        let disk = disk.kill();
        rename(&disk, false);
        let (mirrors, _, report) = model.open(&disk, None).unwrap();
        assert_eq!((report.last, good(&mirrors)), (Seq(100), [true; 2]));
        assert!(newest.iter().all(|path| !disk.exists(&renamed(path)).unwrap()));
    }
}
