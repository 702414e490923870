//! One copy fails or is lost while the journal serves, or all of them do.

use super::hooked::Hooked;
use super::*;
use crate::disk::Limited;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

#[test]
fn either_copy_alone_holds_what_was_acknowledged() {
    for lost in [0, 1] {
        let (mut model, disk) = (Model::default(), dirs_disk(1));
        let (_, journal) = model.create(&disk);
        for _ in 0..100 {
            model.append(&journal, Handoff::Buffered).unwrap();
        }
        model.sync(&journal).unwrap();
        let disk = disk.crash(PowerCut { seed: 5 });
        absent(&disk, lost);
        let (mirrors, journal, report) = model.open(&disk, None).unwrap();
        assert_eq!(report.last, Seq(100));
        assert_eq!(good(&mirrors), [lost == 1, lost == 0]);
        // It goes on alone, and the other is made anew when it is back.
        model.append(&journal, Handoff::Os).unwrap();
        model.sync(&journal).unwrap();
        assert_eq!(mirrors.mend(), 0);
        assert!(mirrors.copies()[lost].cause.is_some());
        disk.heal();
        assert_eq!(mirrors.mend(), 1);
        assert_eq!(good(&mirrors), [true; 2]);
        model.append(&journal, Handoff::Os).unwrap();
        model.sync(&journal).unwrap();
        let disk = disk.crash(PowerCut { seed: 6 });
        absent(&disk, 1 - lost);
        assert_eq!(model.open(&disk, None).unwrap().2.last, Seq(102));
    }
}

#[test]
fn a_copy_that_was_left_behind_is_refused_by_name_until_it_is_accepted() {
    for operation in [Operation::Sync, Operation::Write] {
        let (mut model, disk) = (Model::default(), dirs_disk(2));
        let (mirrors, journal) = model.create(&disk);
        for n in 0..20 {
            model.append(&journal, Handoff::Os).unwrap();
            model.sync(&journal).unwrap();
            if n == 9 {
                // Once only: the copy is readable again, and whole up to here.
                fault(&disk, operation, 1, 1);
            }
        }
        assert_eq!(good(&mirrors), [true, false]);
        assert!(mirrors.copies()[1].cause.as_ref().unwrap().to_string().contains("/b/journal"));
        let disk = disk.kill();
        absent(&disk, 0);
        for accept in [None, Some("/elsewhere")] {
            let error = model.open(&disk, accept).map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
            assert!(error.to_string().contains("/b/journal"), "{error}");
        }
        let (_, _, report) = model.clone().open(&disk.fork(), Some(DIRS[1])).unwrap();
        assert!((9..=11).contains(&report.last.0), "{report:?}");
        disk.heal();
        let (mirrors, _, report) = model.open(&disk, Some(DIRS[1])).unwrap();
        assert_eq!((report.last, good(&mirrors)), (Seq(20), [true, false]), "accepting matters only in need");
        assert_eq!(mirrors.mend(), 1);
    }
}

#[test]
fn without_word_in_the_store_an_absent_copy_may_have_gone_on_alone() {
    let (mut model, disk) = (Model::default(), dirs_disk(3));
    let (_, journal) = model.create(&disk);
    model.append(&journal, Handoff::Os).unwrap();
    model.sync(&journal).unwrap();
    let disk = disk.kill();
    disk.remove_file(Path::new("/store/MIRRORS")).unwrap();
    absent(&disk, 0);
    assert_eq!(model.open(&disk, None).map(|_| ()).unwrap_err().kind(), ErrorKind::Refused);
    disk.heal();
    // With all copies there, they are enough, and the word is given again.
    let (mirrors, ..) = model.open(&disk, None).unwrap();
    assert_eq!(good(&mirrors), [true; 2]);
    assert!(disk.exists(Path::new("/store/MIRRORS")).unwrap());
}

#[test]
fn where_word_of_a_lost_copy_cannot_be_kept_nothing_more_is_acknowledged() {
    let (mut model, disk) = (Model::default(), dirs_disk(4));
    let (mirrors, journal) = model.create(&disk);
    model.append(&journal, Handoff::Os).unwrap();
    model.sync(&journal).unwrap();
    disk.inject(Fault::on_any_change().at(|path| path.starts_with(HOME)));
    fault(&disk, Operation::Sync, 1, 1);
    model.append(&journal, Handoff::Os).unwrap();
    assert_eq!(model.sync(&journal).unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(model.append(&journal, Handoff::Os).unwrap_err().kind(), ErrorKind::Poisoned);
    drop(mirrors);
    let disk = disk.kill();
    for lost in [0, 1] {
        let disk = disk.fork();
        absent(&disk, lost);
        if let Ok((_, _, report)) = model.clone().open(&disk, None) {
            assert!(report.last.0 >= model.synced);
        }
    }
    model.open(&disk, None).unwrap();
}

#[test]
fn a_failure_of_all_copies_is_the_journals() {
    let (mut model, disk) = (Model::default(), dirs_disk(5));
    let (mirrors, journal) = model.create(&disk);
    model.append(&journal, Handoff::Os).unwrap();
    disk.inject(Fault::on(Operation::Sync).times(2));
    assert_eq!(model.sync(&journal).unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(good(&mirrors), [true; 2]);
    assert!(disk.exists(&Path::new(DIRS[1]).join("poisoned")).unwrap());
    let (_, _, report) = model.open(&disk.kill(), None).unwrap();
    assert_eq!(report.last, Seq(1));
}

/// Whatever kind of operation fails in one copy, from whichever time on, and whether it goes on failing: that copy is left
/// out, and nobody who writes hears of it.
#[test]
fn no_fault_of_one_copy_refuses_anything() {
    const KINDS: [Operation; 9] = [
        Operation::Look,
        Operation::Read,
        Operation::Create,
        Operation::Write,
        Operation::Sync,
        Operation::SetLen,
        Operation::Rename,
        Operation::Remove,
        Operation::SyncDir,
    ];
    let (mut met, mut dropped) = (0, 0);
    for (kind, fails, times) in KINDS.into_iter().flat_map(|kind| {
        [0, 1].into_iter().flat_map(move |fails| [(kind, fails, 1), (kind, fails, u64::MAX)])
    }) {
        for after in (0..).map(|n| n * n / 3) {
            let (mut model, disk) = (Model::default(), dirs_disk(15));
            let (mirrors, journal) = model.create(&disk);
            let struck = Arc::new(std::sync::atomic::AtomicU64::new(0));
            let count = struck.clone();
            let here = move |path: &Path| {
                let ours = path.starts_with(DIRS[fails]);
                count.fetch_add(u64::from(ours), std::sync::atomic::Ordering::Relaxed);
                ours
            };
            disk.inject(Fault::on(kind).at(here).after(after).times(times));
            for round in 0..5 {
                let told = |e: Error| panic!("{kind:?} after {after}, {times} times, in copy {fails}: {e}");
                for _ in 0..8 {
                    model.append(&journal, Handoff::Os).unwrap_or_else(told);
                }
                model.sync(&journal).unwrap_or_else(told);
                model.applied = model.synced - 3;
                journal.trim(Seq(model.applied + 1)).map(drop).unwrap_or_else(told);
                journal.provision().map(drop).unwrap_or_else(told);
                if round == 2 {
                    mirrors.mend();
                }
            }
            let hit = struck.load(std::sync::atomic::Ordering::Relaxed) > after;
            met += u64::from(hit);
            dropped += u64::from(good(&mirrors) != [true; 2]);
            assert!(good(&mirrors)[1 - fails]);
            // What cannot be changed any more is no copy.
            let lasting = hit && kind.changes() && times > 1;
            assert!(!lasting || !good(&mirrors)[fails], "{kind:?} after {after} fails in copy {fails}");
            if !hit {
                break;
            }
        }
    }
    assert!(met > 100 && dropped > 40, "{met} met, {dropped} left out");
}

/// The caller is told that space is wanting, and not only that something failed.
#[test]
fn a_full_copy_of_which_no_word_can_be_kept_is_told_as_full() {
    for (kind, told) in [
        (std::io::ErrorKind::StorageFull, ErrorKind::Full),
        (std::io::ErrorKind::QuotaExceeded, ErrorKind::Full),
        (std::io::ErrorKind::Other, ErrorKind::Io),
    ] {
        let (model, disk) = (Model::default(), dirs_disk(21));
        let (mirrors, journal) = model.create(&disk);
        disk.inject(Fault::on_any_change().at(|path| path.starts_with(HOME)));
        disk.inject(Fault::on(Operation::Write).at(|path| path.starts_with(DIRS[1])).error(kind));
        let error = journal.provision().unwrap_err();
        assert_eq!(error.kind(), told, "{error}");
        assert_eq!(good(&mirrors), [true; 2]);
        disk.heal();
        assert!(journal.provision().unwrap());
    }
}

/// What is gone is gone, but what cannot be removed is an error of the copy that has it, and of the journal if all have.
#[test]
fn a_file_that_cannot_be_removed_is_not_taken_for_one_that_is_gone() {
    let disk = dirs_disk(31);
    let (mirrors, _journal) = Model::default().create(&disk);
    let path = Path::new(DIRS[0]).join("0000000000000009.spare");
    mirrors.open(&path, OpenMode::CreateNew).unwrap();
    fault(&disk, Operation::Remove, 0, 1);
    fault(&disk, Operation::Remove, 1, 1);
    assert_eq!(mirrors.remove_file(&path).unwrap_err().kind(), std::io::ErrorKind::Other);
    fault(&disk, Operation::Remove, 1, 1);
    mirrors.remove_file(&path).unwrap();
    assert_eq!(good(&mirrors), [true, false]);
    assert!(!disk.exists(&path).unwrap());
}

/// A file system that has just been made has a directory of its own in it.
#[test]
fn a_copy_may_lie_at_the_top_of_a_file_system() {
    for (name, fits) in [("lost+found", true), ("MIRRORS", true), ("orders.db", false)] {
        let disk = dirs_disk(32);
        let dir = Path::new(DIRS[1]);
        disk.create_dir_all(dir).unwrap();
        if name != "MIRRORS" {
            disk.replace(&dir.join(name), b"").unwrap();
        }
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let made = Mirrors::create(shared, Path::new(HOME), CONFIG.store_id, places(), None, Arc::default());
        assert_eq!(
            made.map(|_| ()).map_err(|e| e.kind()),
            if fits { Ok(()) } else { Err(ErrorKind::Foreign) }
        );
    }
}

/// One copy's part of a sync takes long and fails; meanwhile the other, which has done its part, fails at something else.
#[test]
fn the_last_copy_is_not_left_out_for_one_that_was_left_out_meanwhile() {
    for parallel in [false, true] {
        let (mut model, disk) = (Model::default(), dirs_disk(35));
        let ((begun, has_begun), (go_on, told)) = (sync_channel(1), sync_channel(1));
        let slow = Arc::new(AtomicBool::new(false));
        let (armed, told) = (slow.clone(), Mutex::new(told));
        // The next sync of a segment of the first copy says that it has begun, waits to be told, and fails.
        let shared: Arc<dyn Disk> = Arc::new(Hooked::new(&disk, move |operation, path| {
            let ours = path.starts_with(DIRS[0]) && !path.ends_with("MIRRORS.tmp");
            if operation == Operation::Sync && ours && armed.swap(false, Ordering::SeqCst) {
                begun.send(()).unwrap();
                told.lock().recv().unwrap();
                return Err(io::Error::other("the disk is gone"));
            }
            Ok(())
        }));
        let limited = parallel.then(|| Arc::new(Limited::new(shared.clone(), Duration::from_secs(600))));
        let home = Path::new(HOME);
        let mirrors =
            Mirrors::create(shared, home, CONFIG.store_id, places(), limited, Arc::default()).unwrap();
        let at = mirrors.dir().to_path_buf();
        let journal = Journal::create(mirrors.clone(), &at, CONFIG, Seq(1)).unwrap();
        mirrors.vouch().unwrap();
        model.append(&journal, Handoff::Os).unwrap();
        model.sync(&journal).unwrap();
        model.append(&journal, Handoff::Os).unwrap();
        slow.store(true, Ordering::SeqCst);
        let outcome = std::thread::scope(|scope| {
            let syncing = scope.spawn(|| journal.sync_to(journal.last()));
            has_begun.recv().unwrap();
            fault(&disk, Operation::Write, 1, 1);
            assert!(journal.provision().unwrap());
            assert_eq!(good(&mirrors), [true, false]);
            go_on.send(()).unwrap();
            syncing.join().unwrap()
        });
        assert_eq!(outcome.map_err(|e| e.kind()), Err(ErrorKind::Poisoned));
        assert_eq!(good(&mirrors), [true, false]);
        let (_, _, report) = model.open(&disk.kill(), None).unwrap();
        assert!(report.last.0 >= model.handed, "{report:?}");
    }
}

/// Its last mend was not synced, and it counts on.
#[test]
fn a_note_that_one_copy_has_already_leaves_it_behind_no_other_when_all_fail() {
    for noted in [0, 1] {
        let (mut model, disk) = (Model::default(), dirs_disk(35));
        let (mirrors, journal) = model.create(&disk);
        model.append(&journal, Handoff::Os).unwrap();
        model.sync(&journal).unwrap();
        let note = |copy: usize| Path::new(DIRS[copy]).join("poisoned");
        disk.open(&note(noted), OpenMode::CreateNew).unwrap();
        [0, 1].into_iter().for_each(|copy| fault(&disk, Operation::Sync, copy, 1));
        model.append(&journal, Handoff::Os).unwrap();
        model.sync(&journal).unwrap_err();
        assert_eq!(good(&mirrors), [true; 2], "{noted}: {:?}", mirrors.copies());
        assert!([0, 1].into_iter().all(|copy| disk.exists(&note(copy)).unwrap()));
    }
}

/// Whatever else there is says whose the directory is.
#[test]
fn a_note_that_cannot_be_read_keeps_no_copy_from_being_made_anew() {
    let (mut model, disk) = (Model::default(), dirs_disk(36));
    let (mirrors, journal) = model.create(&disk);
    model.append(&journal, Handoff::Os).unwrap();
    fault(&disk, Operation::Sync, 1, 1);
    model.sync(&journal).unwrap();
    assert_eq!(good(&mirrors), [true, false]);
    let note = Path::new(DIRS[1]).join("poisoned");
    disk.open(&note, OpenMode::CreateNew).unwrap();
    disk.inject(Fault::on(Operation::Look).at(move |path| path == note));
    assert_eq!(mirrors.mend(), 1, "{:?}", mirrors.copies());
}

/// The others say for themselves that they have none; where the one that serves does not say it, it may be all that is right.
#[test]
fn a_note_that_cannot_be_looked_for_has_no_copy_made_anew_but_the_one_that_may_have_it() {
    use super::older::{of_three, third};
    use std::io::ErrorKind::{Other, TimedOut};
    for (copy, error) in [0, 1, 2].into_iter().flat_map(|copy| [Other, TimedOut].map(|error| (copy, error))) {
        let when = format!("copy {copy}, {error}");
        let (mut model, disk) = (Model::default(), dirs_disk(37));
        let (mirrors, journal) = of_three(&disk);
        (0..40).for_each(|_| model.append(&journal, Handoff::Os).unwrap());
        model.sync(&journal).unwrap();
        drop((journal, mirrors));
        let disk = disk.kill();
        let notes: Vec<PathBuf> = third().iter().map(|place| place.dir.join("poisoned")).collect();
        let here = notes[copy].clone();
        disk.inject(Fault::on(Operation::Look).at(move |path| path == here).error(error));
        let made = Arc::new(Mutex::new(Vec::<PathBuf>::new()));
        let files = made.clone();
        let hooked = super::hooked::Hooked::new(&disk, move |operation, at| {
            if operation == Operation::Create && at.extension().is_some_and(|end| end == "copy") {
                files.lock().push(at.to_path_buf());
            }
            Ok(())
        });
        let (home, shared) = (Path::new(HOME), Arc::new(hooked));
        let found = Found::look(shared, home, CONFIG.store_id, third(), None, false, Arc::default()).unwrap();
        let mirrors = found.serve(Seq::ZERO, Seq::ZERO, None).unwrap_or_else(|e| panic!("{when}: {e}"));
        assert!(mirrors.copies().iter().all(|copy| copy.good), "{when}: {:?}", mirrors.copies());
        let is_anew = |place: Place| made.lock().iter().any(|path| path.starts_with(&place.dir));
        let anew: Vec<bool> = third().into_iter().map(is_anew).collect();
        assert_eq!(anew, [false, copy != 2, copy != 1], "{when}");
        disk.heal();
        assert!(notes.iter().all(|note| !disk.exists(note).unwrap()), "{when}: a note was left");
    }
}
