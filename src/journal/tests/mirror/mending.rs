//! Making a copy whole again while files come and go.

use super::hooked::Hooked;
use super::*;
use crate::journal::segment;
use std::sync::Weak;
use std::sync::atomic::{AtomicUsize, Ordering};

fn behind(seed: u64) -> (Model, SimDisk, Arc<Mirrors>, Journal) {
    let (mut model, disk) = (Model::default(), dirs_disk(seed));
    let (mirrors, journal) = model.create(&disk);
    (0..40).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
    fault(&disk, Operation::Sync, 1, 1);
    model.sync(&journal).unwrap();
    assert_eq!(good(&mirrors), [true, false]);
    (model, disk, mirrors, journal)
}

/// A file is listed, and is freed before it is copied; one that cannot be read is another matter.
#[test]
fn a_file_that_goes_while_a_copy_is_made_is_no_failure() {
    for (error, mended) in [(std::io::ErrorKind::NotFound, 1), (std::io::ErrorKind::Other, 0)] {
        let (mut model, disk, mirrors, journal) = behind(22);
        let newest = |path: &Path| path == Path::new(DIRS[0]).join("0000000000000002.seg");
        disk.inject(Fault::on(Operation::Look).at(newest).times(1).error(error));
        assert_eq!(mirrors.mend(), mended, "{error}: {:?}", mirrors.copies());
        assert_eq!(mirrors.mend(), 1 - mended);
        assert_eq!(good(&mirrors), [true; 2]);
        model.append(&journal, Handoff::Os).unwrap();
        model.sync(&journal).unwrap();
        let disk = disk.kill();
        absent(&disk, 0);
        assert_eq!(model.open(&disk, None).unwrap().2.last, Seq(41));
    }
}

/// Whoever has a file open that was removed writes to it no more; that it is not in the copy is no reason to refuse it.
#[test]
fn a_file_that_was_removed_while_it_was_open_is_not_missed() {
    let (_, disk, mirrors, _journal) = behind(23);
    let path = Path::new(DIRS[0]).join("0000000000000009.tmp");
    let file = mirrors.open(&path, OpenMode::CreateNew).unwrap();
    let there = Path::new(DIRS[1]).join("0000000000000009.tmp");
    // While it is there it is opened in the copy, or there is no copy.
    disk.inject(Fault::on(Operation::Look).at(move |path| path == there));
    assert_eq!(mirrors.mend(), 0, "{:?}", mirrors.copies());
    disk.heal();
    mirrors.remove_file(&path).unwrap();
    assert_eq!(mirrors.mend(), 1, "{:?}", mirrors.copies());
    assert_eq!(good(&mirrors), [true; 2]);
    drop(file);
}

/// That is what a copy may be left behind for; whose the others are shows that the directory is no other store's.
#[test]
fn a_header_that_cannot_be_read_keeps_no_copy_from_being_made_anew() {
    let disk = dirs_disk(30);
    let hooked = Hooked::new(&disk, |_, _| Ok(()));
    let mut model = Model::default();
    let (mirrors, journal) = model.create_on(Arc::new(hooked.clone()));
    (0..40).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
    fault(&disk, Operation::Sync, 1, 1);
    model.sync(&journal).unwrap();
    assert_eq!(good(&mirrors), [true, false]);
    let names = disk.list(Path::new(DIRS[1])).unwrap();
    let oldest = names.iter().filter(|name| name.ends_with(".seg")).min().unwrap();
    hooked.spoil(&Path::new(DIRS[1]).join(oldest), 100);
    assert_eq!(mirrors.mend(), 1, "{:?}", mirrors.copies());
    model.append(&journal, Handoff::Os).unwrap();
    model.sync(&journal).unwrap();
    assert_eq!(good(&mirrors), [true; 2]);
    alike(&disk);
}

/// Segments that are larger than what is copied or compared at a time.
const LARGE: JournalConfig = JournalConfig { segment_bytes: 1 << 20, ..CONFIG };

pub fn alike(disk: &SimDisk) -> usize {
    let mut names = disk.list(Path::new(DIRS[0])).unwrap();
    names.retain(|name| name.ends_with(".seg"));
    for name in &names {
        let [a, b] = DIRS.map(|dir| disk.read(&Path::new(dir).join(name)).unwrap());
        assert!(a.is_some() && a == b, "{name} differs");
    }
    names.len()
}

#[test]
fn large_segments_are_copied_and_compared_to_their_ends() {
    let disk = dirs_disk(24);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let mirrors =
        Mirrors::create(shared, Path::new(HOME), LARGE.store_id, places(), None, Arc::default()).unwrap();
    let journal = Journal::create(mirrors.clone(), Path::new(DIRS[0]), LARGE, Seq(1)).unwrap();
    mirrors.vouch().unwrap();
    let write = |count: u64| {
        for _ in 0..count {
            let seq = journal.last().0 + 1;
            journal.append(&Payload::new(&vec![seq as u8; 20_000]), Handoff::Os).unwrap();
        }
        journal.sync_to(journal.last()).unwrap();
    };
    write(120);
    fault(&disk, Operation::Sync, 1, 1);
    write(30);
    assert_eq!(good(&mirrors), [true, false]);
    assert_eq!(mirrors.mend(), 1);
    write(10);
    assert!(alike(&disk) > 3);
    let disk = disk.kill();
    let open = |disk: &SimDisk| {
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let found =
            Found::look(shared, Path::new(HOME), LARGE.store_id, places(), None, false, Arc::default())
                .unwrap();
        let mirrors = found.serve(Seq::ZERO, Seq::ZERO, None).unwrap();
        assert_eq!(good(&mirrors), [true; 2]);
        let mut count = 0;
        let visit = &mut |seq: Seq, bytes: &[u8]| {
            assert!(bytes.len() == 20_000 && bytes.iter().all(|byte| *byte == seq.0 as u8));
            count += 1;
            Ok(())
        };
        let first = mirrors.dir().to_path_buf();
        Journal::open(mirrors.clone(), &first, LARGE, Seq::ZERO, Seq::ZERO, visit).unwrap();
        assert_eq!(count, 160);
    };
    // Damage anywhere in one copy is found before it is counted complete, at the end of a large file as well.
    for (damaged, at) in [(0, 300_000), (1, 300_000), (0, 1_000_000), (1, 1_000_000), (1, 600_000)] {
        let disk = disk.fork();
        let path = Path::new(DIRS[damaged]).join("0000000000000002.seg");
        disk.damage(&path, |bytes| bytes[at..at + 9].fill(0x77)).unwrap();
        open(&disk);
        alike(&disk);
    }
    // After a failed sync all of it is written anew, which a power cut shows.
    let fork = disk.fork();
    for dir in DIRS {
        fork.replace(&Path::new(dir).join("poisoned"), b"").unwrap();
    }
    open(&fork);
    open(&fork.crash(PowerCut { seed: 3 }));
}

#[test]
fn what_cannot_be_removed_from_a_copy_keeps_it_from_being_mended() {
    let (_, disk, mirrors, _journal) = behind(25);
    fault(&disk, Operation::Remove, 1, 1);
    assert_eq!(mirrors.mend(), 0);
    assert_eq!(mirrors.mend(), 1);
}

/// The directories that hold the copies are synced each for its own, and the machine's start is the disk's.
#[test]
fn what_lies_above_the_copies_is_synced_in_each() {
    let disk = dirs_disk(26);
    let (mirrors, _journal) = Model::default().create(&disk);
    assert_eq!(mirrors.boot_id(), Disk::boot_id(&disk));
    disk.inject(Fault::on(Operation::SyncDir).at(|path| path == Path::new("/b")).times(1));
    mirrors.sync_dir(Path::new("/a")).unwrap();
    assert_eq!(good(&mirrors), [true, false]);
    assert_eq!(mirrors.mend(), 1);
    disk.inject(Fault::on(Operation::SyncDir).at(|path| path == Path::new("/a")).times(1));
    mirrors.sync_dir(Path::new("/a")).unwrap();
    assert_eq!(good(&mirrors), [false, true]);
}

/// What changes while a copy is made is copied again, whichever round it falls into: a file that is written to, and one that is
/// put in the place of another of the same name and length, which is there already.
#[test]
fn what_changes_while_a_copy_is_made_is_copied_again() {
    const NAMES: [&str; 3] = ["0000000000000007.spare", "0000000000000008.spare", "0000000000000009.spare"];
    let path = |name: &str| Path::new(DIRS[0]).join(name);
    for (round, renamed) in (0..4).flat_map(|round| [(round, false), (round, true)]) {
        let disk = dirs_disk(27);
        // Rounds end with a sync of the copy's directory, and the only segment is followed by one; none is counted before the copy has
        // been cleared.
        let rounds = Arc::new(AtomicUsize::new(usize::MAX));
        let changes = Arc::new(Mutex::new(None::<(Weak<Mirrors>, Arc<dyn crate::disk::DiskFile>)>));
        let (count, change) = (rounds.clone(), changes.clone());
        let hooked = Hooked::new(&disk, move |operation, at| {
            if operation == Operation::SyncDir
                && at == Path::new(DIRS[1])
                && count.load(Ordering::SeqCst) != usize::MAX
                && count.fetch_add(1, Ordering::SeqCst) == round + 1
                && let Some((mirrors, file)) = change.lock().take()
            {
                match renamed {
                    true => mirrors.upgrade().unwrap().rename(&path(NAMES[0]), &path(NAMES[1]))?,
                    false => file.write_at(1, b"since")?,
                }
            }
            Ok(())
        });
        let mirrors = Mirrors::create(
            Arc::new(hooked),
            Path::new(HOME),
            CONFIG.store_id,
            places(),
            None,
            Arc::default(),
        )
        .unwrap();
        let _journal = Journal::create(mirrors.clone(), Path::new(DIRS[0]), CONFIG, Seq(1)).unwrap();
        mirrors.vouch().unwrap();
        let made = NAMES.map(|name| {
            let file = mirrors.open(&path(name), OpenMode::CreateNew).unwrap();
            file.write_at(0, name.as_bytes()).unwrap();
            file
        });
        fault(&disk, Operation::SyncDir, 1, 1);
        mirrors.sync_dir(Path::new(DIRS[0])).unwrap();
        assert_eq!(good(&mirrors), [true, false]);
        *changes.lock() = Some((Arc::downgrade(&mirrors), made[2].clone()));
        rounds.store(0, Ordering::SeqCst);
        assert_eq!(mirrors.mend(), 1, "{:?}", mirrors.copies());
        assert!(changes.lock().is_none(), "nothing changed in round {round}");
        let [a, b] = DIRS.map(|dir| {
            let mut names = disk.list(Path::new(dir)).unwrap();
            names.retain(|name| name != "MIRRORS" && name != "LOCK");
            let read = |name: &String| disk.read(&Path::new(dir).join(name)).unwrap().unwrap();
            names.iter().map(|name| (name.clone(), read(name))).collect::<BTreeMap<_, _>>()
        });
        assert_eq!(a.contains_key(NAMES[0]), !renamed);
        assert!(a == b, "round {round}, renamed: {renamed}: {:?} {:?}", a.keys(), b.keys());
    }
}

/// What has changed cannot be written there again: it is not in the copy, which does not count.
#[test]
fn what_cannot_be_copied_again_keeps_a_copy_from_counting() {
    let (disk, name) = (dirs_disk(29), segment::spare_name(7));
    let [path, there] = DIRS.map(|dir| Path::new(dir).join(&name));
    let rounds = Arc::new(AtomicUsize::new(usize::MAX));
    let change = Arc::new(Mutex::new(None::<Arc<dyn crate::disk::DiskFile>>));
    let (count, changed, below, fails) = (rounds.clone(), change.clone(), disk.clone(), there.clone());
    let hooked = Hooked::new(&disk, move |operation, at| {
        // The copy was cleared, a segment is in it, and the first round is at its end.
        if operation == Operation::SyncDir
            && at == Path::new(DIRS[1])
            && count.load(Ordering::SeqCst) != usize::MAX
            && count.fetch_add(1, Ordering::SeqCst) == 2
            && let Some(file) = changed.lock().take()
        {
            file.write_at(1, b"since")?;
            let fails = fails.clone();
            below.inject(Fault::on(Operation::Write).at(move |path| path == fails).times(1));
        }
        Ok(())
    });
    let (mirrors, _journal) = Model::default().create_on(Arc::new(hooked));
    let file = mirrors.open(&path, OpenMode::CreateNew).unwrap();
    file.write_at(0, b"before").unwrap();
    fault(&disk, Operation::SyncDir, 1, 1);
    mirrors.sync_dir(Path::new(DIRS[0])).unwrap();
    assert_eq!(good(&mirrors), [true, false]);
    *change.lock() = Some(file.clone());
    rounds.store(0, Ordering::SeqCst);
    assert_eq!(mirrors.mend(), 0);
    assert!(change.lock().is_none() && good(&mirrors) == [true, false], "{:?}", mirrors.copies());
    assert_eq!(mirrors.mend(), 1, "{:?}", mirrors.copies());
    assert_eq!(disk.read(&there).unwrap(), disk.read(&path).unwrap());
}

/// A copy that was left behind for want of room takes none of those who write beside it: not where it cannot fit, and not where somebody
/// else takes meanwhile what it would need.
#[test]
fn a_copy_that_has_no_room_leaves_what_is_free_to_others() {
    let disk = dirs_disk(28);
    let (written, made) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let taken = Arc::new(Mutex::new(None::<u64>));
    let (writes, files, takes, below) = (written.clone(), made.clone(), taken.clone(), disk.clone());
    let hooked = Hooked::new(&disk, move |operation, at| {
        if at.starts_with(DIRS[1]) {
            writes.fetch_add(usize::from(operation == Operation::Write), Ordering::SeqCst);
            // Somebody fills the disk when half of the copy is there.
            if operation == Operation::Create
                && files.fetch_add(1, Ordering::SeqCst) == 4
                && let Some(capacity) = takes.lock().take()
            {
                below.set_capacity(Some(capacity));
            }
        }
        Ok(())
    });
    let shared: Arc<dyn Disk> = Arc::new(hooked);
    let mirrors =
        Mirrors::create(shared, Path::new(HOME), CONFIG.store_id, places(), None, Arc::default()).unwrap();
    let journal = Journal::create(mirrors.clone(), Path::new(DIRS[0]), CONFIG, Seq(1)).unwrap();
    mirrors.vouch().unwrap();
    let mut model = Model::default();
    (0..20).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
    fault(&disk, Operation::Sync, 1, 1);
    model.sync(&journal).unwrap();
    (0..100).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
    model.sync(&journal).unwrap();
    assert_eq!(good(&mirrors), [true, false]);
    let held = |dir: &str| -> BTreeMap<PathBuf, usize> {
        let files = disk.files().into_iter().map(|(path, bytes)| (path, bytes.len()));
        files.filter(|(path, _)| path.starts_with(dir)).collect()
    };
    let used = || held("/").values().sum::<usize>() as u64;
    let all = held(DIRS[0]).values().sum::<usize>() as u64;
    let before = held(DIRS[1]);
    assert!(before.values().sum::<usize>() as u64 * 2 < all && before.len() > 2, "{before:?}");
    let why = || mirrors.copies()[1].cause.as_ref().unwrap().to_string();

    disk.set_capacity(Some(used() + all / 2));
    written.store(0, Ordering::SeqCst);
    for _ in 0..2 {
        assert_eq!(mirrors.mend(), 0);
        let cause = mirrors.copies()[1].cause.clone().unwrap();
        assert_eq!((cause.kind(), cause.path()), (ErrorKind::Full, Some(Path::new(DIRS[1]))), "{cause}");
        assert_eq!((held(DIRS[1]), written.load(Ordering::SeqCst)), (before.clone(), 0), "{cause}");
    }

    let free = || disk.space(Path::new(DIRS[1])).unwrap().unwrap().free;
    for round in 0..2 {
        *taken.lock() = Some(used() + all / 3);
        made.store(0, Ordering::SeqCst);
        disk.set_capacity(Some(used() + all * 2));
        assert_eq!(mirrors.mend(), 0);
        assert!(taken.lock().is_none() && written.load(Ordering::SeqCst) > 0, "{round}: {}", why());
        assert_eq!(held(DIRS[1]), before, "{round}: {}", why());
        assert_eq!(free(), all / 3, "{round}: {}", why());
    }

    disk.set_capacity(Some(used() + all * 2));
    assert_eq!(mirrors.mend(), 1, "{:?}", mirrors.copies());
    model.append(&journal, Handoff::Os).unwrap();
    model.sync(&journal).unwrap();
    alike(&disk);
}

/// Its disk was full to the last byte with a segment that was being made, which nobody finishes there.
#[test]
fn what_was_being_made_in_a_copy_that_had_no_room_for_it_goes_though_there_is_none_to_make_the_copy() {
    let disk = dirs_disk(29);
    let full = Arc::new(AtomicUsize::new(0));
    let writes = full.clone();
    let hooked = Hooked::new(&disk, move |operation, at| {
        let made = at.starts_with(DIRS[1]) && at.extension().is_some_and(|end| end == "tmp");
        match operation == Operation::Write && made && writes.fetch_add(1, Ordering::SeqCst) == 1 {
            true => Err(std::io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    });
    let shared: Arc<dyn Disk> = Arc::new(hooked);
    let mirrors =
        Mirrors::create(shared, Path::new(HOME), CONFIG.store_id, places(), None, Arc::default()).unwrap();
    full.store(usize::MAX / 2, Ordering::SeqCst);
    let journal = Journal::create(mirrors.clone(), Path::new(DIRS[0]), CONFIG, Seq(1)).unwrap();
    mirrors.vouch().unwrap();
    let mut model = Model::default();
    (0..4).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
    model.sync(&journal).unwrap();
    let names = || disk.list(Path::new(DIRS[1])).unwrap();
    let before = names();
    full.store(0, Ordering::SeqCst);
    assert!(journal.provision().unwrap());
    assert_eq!(good(&mirrors), [true, false]);
    assert!(names().iter().any(|name| name.ends_with(".tmp")), "{:?}", names());
    disk.set_capacity(Some(disk.files().iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>()));
    for _ in 0..2 {
        assert_eq!(mirrors.mend(), 0);
        let cause = mirrors.copies()[1].cause.clone().unwrap();
        assert_eq!((cause.kind(), names()), (ErrorKind::Full, before.clone()), "{cause}");
    }
    disk.set_capacity(None);
    assert_eq!(mirrors.mend(), 1, "{:?}", mirrors.copies());
    (0..20).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
    model.sync(&journal).unwrap();
    assert_eq!(good(&mirrors), [true; 2]);
    alike(&disk);
}

/// A segment is freed while the copy is about to get it, and its file is the next one by the time that it is read; then the source is lost.
#[test]
fn a_segment_whose_file_is_used_again_while_it_is_copied_takes_no_place_in_the_copy() {
    let disk = dirs_disk(31);
    let open = Arc::new(Mutex::new(None::<Arc<Journal>>));
    let lost = Arc::new(AtomicUsize::new(0));
    let (journal, unread) = (open.clone(), lost.clone());
    let first = segment::name(1);
    let hooked = Hooked::new(&disk, move |operation, at| {
        let named = |name: &str| at.file_name().is_some_and(|file| file == name);
        if operation == Operation::Create && at.starts_with(DIRS[1]) && named(&format!("{first}.copy")) {
            let journal = journal.lock().take();
            if let Some(journal) = journal {
                let _ = journal.trim(journal.last().next());
                for _ in 0..60 {
                    let seq = journal.last().0 + 1;
                    let _ = journal.append(&Payload::new(&payload(seq)), Handoff::Os);
                }
                unread.store(1, Ordering::SeqCst);
            }
        }
        let gone = unread.load(Ordering::SeqCst) == 1 && operation == Operation::Read;
        match gone && at.starts_with(DIRS[0]) && !named(&first) {
            true => Err(std::io::Error::other("it cannot be read any more")),
            false => Ok(()),
        }
    });
    let mut model = Model::default();
    let (mirrors, journal) = model.create_on(Arc::new(hooked));
    let journal = Arc::new(journal);
    (0..40).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
    model.sync(&journal).unwrap();
    fault(&disk, Operation::Sync, 1, 1);
    (0..20).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
    model.sync(&journal).unwrap();
    assert_eq!(good(&mirrors), [true, false]);
    *open.lock() = Some(journal.clone());
    assert_eq!(mirrors.mend(), 0);
    assert_eq!(lost.load(Ordering::SeqCst), 1, "nothing was freed");
    assert!(!disk.exists(&Path::new(DIRS[0]).join(segment::name(1))).unwrap());
    drop(journal);
    let disk = disk.crash(PowerCut { seed: 1 });
    absent(&disk, 0);
    let (.., report) = model.open(&disk, Some(DIRS[1])).unwrap();
    assert!(report.last >= Seq(40), "{}", report.last);
}

/// Longer than what is written at a time, and not a whole number of those.
#[test]
fn a_blank_file_is_as_long_in_the_copy_that_is_made_anew() {
    let (_, disk, mirrors, _journal) = behind(24);
    let (name, len) = (segment::spare_name(77), 300 << 10);
    disk.replace(&Path::new(DIRS[0]).join(&name), &vec![7; len]).unwrap();
    assert_eq!(mirrors.mend(), 1);
    assert!(disk.read(&Path::new(DIRS[1]).join(&name)).unwrap() == Some(vec![0; len]));
}

/// Nor does a word that cannot be told: whose the segments are does.
#[test]
fn a_damaged_word_keeps_no_copy_from_being_made_anew() {
    let (_, disk, mirrors, _journal) = behind(25);
    disk.damage(&Path::new(DIRS[1]).join("MIRRORS"), |bytes| bytes[30] ^= 1).unwrap();
    assert_eq!(mirrors.mend(), 1, "{:?}", mirrors.copies());
    assert_eq!(good(&mirrors), [true; 2]);
}
