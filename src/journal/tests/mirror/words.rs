//! Which words are heard, and when one is given.

use super::*;
use crate::journal::mirror::Locks;
use crate::journal::segment;

fn look(disk: &SimDisk, places: Vec<Place>, adopted: bool) -> Result<Found> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    Found::look(shared, Path::new(HOME), CONFIG.store_id, places, None, adopted, Arc::default())
}

fn word_in(disk: &SimDisk, dir: &str) -> Vec<u8> {
    disk.read(&Path::new(dir).join("MIRRORS")).unwrap().unwrap()
}

fn put(disk: &SimDisk, dir: &str, word: &[u8]) {
    disk.damage(&Path::new(dir).join("MIRRORS"), |bytes| *bytes = word.to_vec()).unwrap();
}

/// Both copies complete, and the words of some epochs before.
fn of_two_epochs() -> (Model, SimDisk, [Vec<u8>; 3]) {
    let (mut model, disk) = (Model::default(), dirs_disk(51));
    let (_, journal) = model.create(&disk);
    (0..40).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
    model.sync(&journal).unwrap();
    let before = [DIRS[0], DIRS[1], HOME].map(|dir| word_in(&disk, dir));
    let mut disk = disk.kill();
    for _ in 0..3 {
        disk.remove_file(&Path::new(HOME).join("MIRRORS")).unwrap();
        model.open(&disk, None).unwrap();
        disk = disk.kill();
    }
    (model, disk, before)
}

/// Every word that is given is a chance to be interrupted.
#[test]
fn an_opening_that_finds_all_in_order_gives_no_word() {
    let (mut model, disk, before) = of_two_epochs();
    let words = |disk: &SimDisk| [DIRS[0], DIRS[1], HOME].map(|dir| word_in(disk, dir));
    let now = words(&disk);
    assert!((0..3).all(|n| now[n] != before[n]), "one was missing, and a new one given");
    for _ in 0..2 {
        disk.inject(Fault::on_any_change().at(|path| path.ends_with("MIRRORS.tmp")));
        let (mirrors, ..) = model.open(&disk, None).unwrap();
        assert_eq!(good(&mirrors), [true; 2]);
    }
    let mut turned = places();
    turned.reverse();
    look(&disk, turned, false).unwrap().serve(Seq::ZERO, Seq::ZERO, None).unwrap();
    assert_eq!(words(&disk), now);
    // With one left behind, a directory that is new, or one fewer, there is something to be said.
    disk.heal();
    let mut last = words(&disk);
    for case in 0..3 {
        let disk = disk.fork();
        let mut places = places();
        match case {
            0 => put(&disk, DIRS[1], &before[1]),
            1 => places.push(Place {
                id: 7,
                dir: "/c/journal".into(),
                known: false,
                listed: true,
                implicit: false,
                mounts: 0,
            }),
            _ => places[1].listed = false,
        }
        look(&disk, places, false).unwrap().serve(Seq::ZERO, Seq::ZERO, None).unwrap();
        assert_ne!(word_in(&disk, HOME), last[2], "case {case}");
        assert_ne!(word_in(&disk, DIRS[0]), last[0], "case {case}");
    }
    last.reverse();
    assert_eq!(words(&disk)[0], last[2]);
}

/// What an interrupted move has left counts only where nobody knows what the manifest lists, and what the store's directory said.
#[test]
fn what_lies_in_a_directory_that_the_manifest_does_not_list_is_not_heard() {
    let (_, disk, before) = of_two_epochs();
    // The second one has the newest word, and is not listed.
    put(&disk, DIRS[0], &before[0]);
    put(&disk, HOME, &before[2]);
    let mut unlisted = places();
    unlisted[1].known = false;
    for adopted in [false, true] {
        let disk = disk.fork();
        let mirrors =
            look(&disk, unlisted.clone(), adopted).unwrap().serve(Seq::ZERO, Seq::ZERO, None).unwrap();
        assert_eq!(good(&mirrors), [true, false]);
        drop(mirrors);
        // And from now on what it says is old, though the manifest lists it.
        let mirrors = look(&disk, places(), adopted).unwrap().serve(Seq::ZERO, Seq::ZERO, None).unwrap();
        assert_eq!(good(&mirrors), [true, false]);
    }
    disk.remove_file(&Path::new(HOME).join("MIRRORS")).unwrap();
    let error = look(&disk, unlisted.clone(), true).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    let mirrors = look(&disk, unlisted, false).unwrap().serve(Seq::ZERO, Seq::ZERO, None).unwrap();
    assert_eq!(good(&mirrors), [true, false]);
}

#[test]
fn a_directory_says_which_copy_it_is_unless_a_move_that_was_given_up_may_have_begun_it() {
    let (_, disk, before) = of_two_epochs();
    let identify = |disk: &SimDisk| {
        Mirrors::identify(disk, Path::new(HOME), Path::new(DIRS[1]), CONFIG.store_id).unwrap()
    };
    assert_eq!(identify(&disk), Some(1));
    let older = disk.fork();
    put(&older, DIRS[1], &before[1]);
    assert_eq!(identify(&older), Some(1));
    let newer = disk.fork();
    put(&newer, HOME, &before[2]);
    assert_eq!(identify(&newer), None);
    newer.remove_file(&Path::new(HOME).join("MIRRORS")).unwrap();
    assert_eq!(identify(&newer), Some(1));
}

/// Of segments that are not replayed the header is compared, since with both of its copies damaged the journal does not open.
#[test]
fn the_header_of_a_segment_that_is_not_replayed_is_made_the_same() {
    for damaged in [0, 1] {
        let (mut model, disk) = (Model::default(), dirs_disk(52));
        let (_, journal) = model.create(&disk);
        (0..60).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
        model.sync(&journal).unwrap();
        let disk = disk.kill();
        model.applied = 50;
        let path = Path::new(DIRS[damaged]).join("0000000000000001.seg");
        // The copy of the header, and a frame that nobody asks for.
        disk.damage(&path, |bytes| {
            bytes[2048 + 70] ^= 1;
            bytes[6000] ^= 1;
        })
        .unwrap();
        let (mirrors, ..) = model.open(&disk, None).unwrap();
        assert_eq!(good(&mirrors), [true; 2]);
        let [a, b] =
            DIRS.map(|dir| disk.read(&Path::new(dir).join("0000000000000001.seg")).unwrap().unwrap());
        assert_eq!(a[..4096], b[..4096], "copy {damaged} was damaged");
    }
}

/// The copy that reaches furthest is left, and its disk takes no word: one that is kept, and is shorter, is made like it.
#[test]
fn a_copy_that_is_half_mended_has_no_word_though_none_can_be_given_of_that() {
    let segments = |disk: &SimDisk, dir: &str| -> BTreeMap<String, Vec<u8>> {
        let names = disk.list(Path::new(dir)).unwrap().into_iter().filter(|name| name.ends_with(".seg"));
        names.map(|name| (name.clone(), disk.read(&Path::new(dir).join(name)).unwrap().unwrap())).collect()
    };
    let (mut model, disk) = (Model::default(), dirs_disk(53));
    let (_, journal) = model.create(&disk);
    (0..30).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
    model.sync(&journal).unwrap();
    let shorter = segments(&disk, DIRS[1]);
    (0..30).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
    model.sync(&journal).unwrap();
    let disk = disk.kill();
    let longer = segments(&disk, DIRS[0]);
    for name in longer.keys() {
        let path = Path::new(DIRS[1]).join(name);
        match shorter.get(name) {
            Some(bytes) => disk.damage(&path, |now| now.clone_from(bytes)).unwrap(),
            None => disk.remove_file(&path).unwrap(),
        }
    }
    let mut moved = places();
    moved[0].listed = false;
    moved.rotate_left(1);
    moved.insert(
        1,
        Place { id: 7, dir: "/store/e".into(), known: false, listed: true, implicit: false, mounts: 0 },
    );
    let mut between = 0;
    for stop in 0.. {
        let disk = disk.fork();
        disk.inject(Fault::on_any_change().at(|path| path.starts_with(DIRS[0])));
        disk.stop_after(stop);
        let moved =
            look(&disk, moved.clone(), false).and_then(|found| found.serve(Seq::ZERO, Seq::ZERO, None));
        let ended = moved.is_ok();
        let disk = disk.kill();
        let now = segments(&disk, DIRS[1]);
        if now != shorter && now != longer {
            between += 1;
            assert!(!disk.exists(&Path::new(DIRS[1]).join("MIRRORS")).unwrap(), "stopped at {stop}");
        }
        if ended {
            assert_eq!(now, longer);
            break;
        }
    }
    assert!(between > 3, "{between}");
}

/// Its segments may have been moved away, or be made there a moment later.
#[test]
fn a_directory_with_the_word_of_another_store_alone_is_not_vacant() {
    let (model, disk) = (Model::default(), dirs_disk(52));
    model.create(&disk);
    let dir = Path::new(DIRS[1]);
    for name in disk.list(dir).unwrap().iter().filter(|name| *name != "MIRRORS") {
        disk.remove_file(&dir.join(name)).unwrap();
    }
    let vacant = |store| Mirrors::check_vacant(&disk, dir, store);
    vacant(CONFIG.store_id).unwrap();
    assert_eq!(vacant(CONFIG.store_id + 1).unwrap_err().kind(), ErrorKind::Foreign);
    // Of this one it says whose the directory is, whatever else lies there.
    disk.replace(&dir.join("notes"), b"mine").unwrap();
    vacant(CONFIG.store_id).unwrap();
    disk.remove_file(&dir.join("notes")).unwrap();
    // One that is damaged says nothing.
    put(&disk, DIRS[1], b"no word");
    vacant(CONFIG.store_id).unwrap();
}

/// It keeps the header of the segment that it was.
#[test]
fn a_directory_with_a_spare_of_another_store_is_not_vacant() {
    let (model, disk) = (Model::default(), dirs_disk(57));
    model.create(&disk);
    let dir = Path::new(DIRS[1]);
    for name in disk.list(dir).unwrap() {
        match name.ends_with(".seg") {
            true => disk.rename(&dir.join(name), &dir.join(segment::spare_name(3))).unwrap(),
            false => disk.remove_file(&dir.join(name)).unwrap(),
        }
    }
    let vacant = |store| Mirrors::check_vacant(&disk, dir, store);
    vacant(CONFIG.store_id).unwrap();
    assert_eq!(vacant(CONFIG.store_id + 1).unwrap_err().kind(), ErrorKind::Foreign);
}

#[test]
fn a_directory_that_cannot_be_looked_into_is_not_vacant() {
    let disk = dirs_disk(56);
    let vacant = || Mirrors::check_vacant(&disk, Path::new("/b"), CONFIG.store_id);
    vacant().unwrap();
    disk.inject(Fault::on(Operation::Look).at(|path| path == Path::new("/b")));
    assert_eq!(vacant().unwrap_err().kind(), ErrorKind::Io);
}

#[test]
fn a_copy_is_away_where_neither_its_word_nor_a_segment_of_it_is() {
    let dir = Path::new(DIRS[1]);
    for (word, segments) in [(true, true), (true, false), (false, true), (false, false)] {
        let (mut model, disk) = (Model::default(), dirs_disk(53));
        let (_, journal) = model.create(&disk);
        model.append(&journal, Handoff::Os).unwrap();
        for name in disk.list(dir).unwrap() {
            let stays = if name == "MIRRORS" { word } else { segments };
            if !stays {
                disk.remove_file(&dir.join(name)).unwrap();
            }
        }
        assert_eq!(Mirrors::is_away(&disk, dir), !word && !segments, "{word} {segments}");
    }
    assert!(Mirrors::is_away(&dirs_disk(53), dir));
}

/// A trim that was interrupted has left a gap in the copy that is moved, and the directory that it is moved to was a copy once: it has what is
/// missing there, and not what comes next.
#[test]
fn a_gap_that_an_interrupted_trim_has_left_keeps_no_journal_from_being_moved() {
    let (mut model, disk) = (Model::default(), dirs_disk(54));
    let (_, journal) = model.create(&disk);
    (0..60).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
    model.sync(&journal).unwrap();
    drop(journal);
    let disk = disk.kill();
    let [ours, theirs] =
        DIRS.map(|dir| move |number| Path::new(dir).join(crate::journal::segment::name(number)));
    disk.remove_file(&ours(2)).unwrap();
    for name in disk.list(Path::new(DIRS[1])).unwrap() {
        let path = Path::new(DIRS[1]).join(name);
        if path != theirs(2) && !path.ends_with("LOCK") {
            disk.remove_file(&path).unwrap();
        }
    }
    let mut places = places();
    places[0].listed = false;
    places[1] = Place { id: 7, known: false, ..places[1].clone() };
    places.reverse();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let locks = Found::lock(shared.as_ref(), CONFIG.store_id, &places).unwrap();
    let found = Found::look(shared, Path::new(HOME), CONFIG.store_id, places, None, false, locks).unwrap();
    let from = Seq(50);
    let mirrors = found.serve(from, from, None).unwrap();
    mirrors.let_go().unwrap();
    assert!(mirrors.copies()[0].good, "{:?}", mirrors.copies());
    let mut last = from;
    let mut visit = |seq: Seq, bytes: &[u8]| {
        assert!(seq == last.next() && bytes == model.payload(seq.0));
        last = seq;
        Ok(())
    };
    Journal::open(mirrors.clone(), Path::new(DIRS[1]), CONFIG, from, from, &mut visit).unwrap();
    assert_eq!(last, Seq(60));
    assert!(!disk.exists(&theirs(2)).unwrap());
}

/// It would be said of what is begun.
#[test]
fn a_journal_is_not_begun_anew_beside_a_word_that_cannot_be_taken_back() {
    let disk = dirs_disk(82);
    drop(Model::default().create(&disk));
    let (disk, dir) = (disk.kill(), Path::new(DIRS[1]));
    for name in disk.list(dir).unwrap().iter().filter(|name| name.ends_with(".seg")) {
        disk.remove_file(&dir.join(name)).unwrap();
    }
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let begin = || Mirrors::begin_afresh(&shared, dir, &Locks::new(CONFIG.store_id), CONFIG, Seq(1 << 33));
    let word = dir.join("MIRRORS");
    disk.inject(Fault::on(Operation::Remove).at(|path| path.ends_with("MIRRORS")));
    assert_eq!(begin().unwrap_err().kind(), ErrorKind::Io);
    assert!(disk.exists(&word).unwrap());
    disk.heal();
    begin().unwrap();
    assert!(!disk.exists(&word).unwrap());
    // Nor is one missed that was never given.
    for name in disk.list(dir).unwrap().iter().filter(|name| name.ends_with(".seg")) {
        disk.remove_file(&dir.join(name)).unwrap();
    }
    begin().unwrap();
}
