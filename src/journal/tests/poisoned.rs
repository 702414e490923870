//! A write or a sync has failed: who is told when, what the next opening finds, and who still touches the files.

use super::mirror::hooked::Hooked;
use super::*;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

fn create_on(disk: Hooked) -> Arc<Journal> {
    let config = JournalConfig { segment_bytes: 4 << 20, ..CONFIG };
    Arc::new(Journal::create(Arc::new(disk), dir(), config, Seq(1)).unwrap())
}

/// A file keeps the name that it was opened under.
fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "seg" || end == "tmp")
}

/// What stands for the locks on the journal's files: whether it was dropped.
#[derive(Debug)]
struct Lock(Arc<AtomicBool>);

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Where an operation stops, once, until it is let go; and who sees that it has come there.
struct Stop {
    come: Receiver<()>,
    go_on: Sender<()>,
}

/// A hook's side of it.
struct Stopping {
    comes: parking_lot::Mutex<Option<(Sender<()>, Receiver<()>)>>,
}

impl Stop {
    fn new() -> (Stop, Stopping) {
        let ((comes, come), (go_on, goes)) = (channel(), channel());
        (Stop { come, go_on }, Stopping { comes: parking_lot::Mutex::new(Some((comes, goes))) })
    }

    fn wait(&self) {
        self.come.recv_timeout(Duration::from_secs(20)).expect("nobody comes there");
    }
}

impl Stopping {
    fn stop(&self) {
        let once = self.comes.lock().take();
        if let Some((comes, goes)) = once {
            comes.send(()).unwrap();
            let _ = goes.recv();
        }
    }
}

/// Closes and, as the store does it, gives the lock back when nobody touches the files any more: not as long as `stop` is where it is.
fn close_beside<T>(journal: &Journal, stop: &Stop, other: std::thread::ScopedJoinHandle<'_, T>) -> T {
    let gone = Arc::new(AtomicBool::new(false));
    assert_eq!(journal.close().unwrap_err().kind(), ErrorKind::Poisoned);
    let error = journal.rest(Duration::ZERO).expect_err("somebody is at the files");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    journal.leave(Box::new(Lock(gone.clone())));
    assert!(!gone.load(Ordering::Acquire), "the next opening would come beside it");
    stop.go_on.send(()).unwrap();
    let outcome = other.join().unwrap();
    journal.rest(Duration::ZERO).unwrap();
    assert!(gone.load(Ordering::Acquire));
    outcome
}

/// Who is told closes and opens again, at once. Without the note that opening would take for durable what the system has given up.
#[test]
fn nobody_is_told_of_a_failure_before_the_note_of_it_is_there() {
    let disk = new_disk();
    let journal: Arc<parking_lot::Mutex<Option<Arc<Journal>>>> = Arc::default();
    let looks = Arc::new(AtomicUsize::new(0));
    let (of, count) = (journal.clone(), looks.clone());
    let beside: Arc<parking_lot::Mutex<Option<std::thread::JoinHandle<Result<Seq>>>>> = Arc::default();
    let started = beside.clone();
    let hooked = Hooked::new(&disk, move |operation, path| {
        let of = of.lock().clone();
        let (Some(journal), Operation::Create, true) = (of, operation, path.ends_with(segment::POISONED))
        else {
            return Ok(());
        };
        count.fetch_add(1, Ordering::Relaxed);
        assert!(journal.poisoned().is_none(), "it is told before");
        // Nor is anything acknowledged any more.
        let other = std::thread::spawn(move || append(&journal, Handoff::Os));
        std::thread::sleep(Duration::from_millis(100));
        assert!(!other.is_finished(), "{:?}", other.join());
        *started.lock() = Some(other);
        Ok(())
    });
    *journal.lock() = Some(create_on(hooked));
    let journal = journal.lock().clone().unwrap();
    for _ in 0..20 {
        append(&journal, Handoff::Os).unwrap();
    }
    disk.inject(Fault::on(Operation::Sync).times(1));
    assert_eq!(journal.sync_to(Seq(20)).unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(looks.load(Ordering::Relaxed), 1);
    let other = beside.lock().take().unwrap().join().unwrap();
    assert_eq!(other.unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(append(&journal, Handoff::Os).unwrap_err().kind(), ErrorKind::Poisoned);
    let (_, report) = reopen(&disk.kill()).unwrap();
    assert_eq!(report.last, Seq(20));
    for seed in 0..10 {
        let (_, report) = reopen(&disk.fork().crash(PowerCut { seed })).unwrap();
        assert_eq!(report.last, Seq(20), "what an opening replayed was lost afterwards");
    }
}

/// A write that is under way when a sync fails ends before the next opening reads what is there, and is not acknowledged.
#[test]
fn a_poisoned_journal_is_not_left_while_it_is_written_to() {
    let disk = new_disk();
    let (stop, stopping) = Stop::new();
    let armed = Arc::new(AtomicBool::new(false));
    let at = armed.clone();
    let journal = create_on(Hooked::new(&disk, move |operation, path| {
        if operation == Operation::Write && is_segment(path) && at.load(Ordering::Acquire) {
            stopping.stop();
        }
        Ok(())
    }));
    append(&journal, Handoff::Os).unwrap();
    armed.store(true, Ordering::Release);
    std::thread::scope(|scope| {
        // Dropped before the threads are waited for, so that none hangs where something fails.
        let stop = stop;
        let writing = scope.spawn(|| append(&journal, Handoff::Os));
        stop.wait();
        // As a sync does that fails beside it.
        journal.poison(Error::invalid("a sync that failed"));
        let error = close_beside(&journal, &stop, writing).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}");
    });
    let before = disk.files();
    assert_eq!(append(&journal, Handoff::Os).unwrap_err().kind(), ErrorKind::Poisoned);
    assert!(disk.files() == before);
    assert_eq!(reopen(&disk.kill()).unwrap().1.last, Seq(2));
}

#[test]
fn a_poisoned_journal_is_not_left_while_it_is_synced() {
    for ticks in [false, true] {
        let disk = new_disk();
        let (stop, stopping) = Stop::new();
        let armed = Arc::new(AtomicBool::new(false));
        let at = armed.clone();
        let journal = create_on(Hooked::new(&disk, move |operation, path| {
            let hangs = if ticks { Operation::Write } else { Operation::Sync };
            if operation == hangs && is_segment(path) && at.load(Ordering::Acquire) {
                stopping.stop();
            }
            Ok(())
        }));
        append(&journal, Handoff::Buffered).unwrap();
        armed.store(true, Ordering::Release);
        std::thread::scope(|scope| {
            let stop = stop;
            let work = || if ticks { journal.write_buffered() } else { journal.sync_to(Seq(1)) };
            let working = scope.spawn(work);
            stop.wait();
            journal.poison(Error::invalid("what failed beside it"));
            // A sync that ends well has made durable what it says.
            assert_eq!(close_beside(&journal, &stop, working).is_err(), ticks);
        });
        assert_eq!(reopen(&disk.kill()).unwrap().1.last, Seq(1));
    }
}

/// The next opening's segment of that name must not be replaced.
#[test]
fn a_poisoned_journal_is_not_left_while_a_segment_of_it_is_made() {
    for provides in [false, true] {
        let disk = new_disk();
        let (stop, stopping) = Stop::new();
        let hooked = Hooked::new(&disk, move |operation, path| {
            if operation == Operation::Rename && path.ends_with(segment::temporary_name(2)) {
                stopping.stop();
            }
            Ok(())
        });
        let journal = Journal::create(Arc::new(hooked), dir(), CONFIG, Seq(1)).unwrap();
        std::thread::scope(|scope| {
            let stop = stop;
            let work = || match provides {
                true => journal.provision().map(drop),
                false => (0..40).try_for_each(|_| append(&journal, Handoff::Os).map(drop)),
            };
            let working = scope.spawn(work);
            stop.wait();
            journal.poison(Error::invalid("a sync that failed"));
            let outcome = close_beside(&journal, &stop, working);
            assert_eq!(outcome.is_err(), !provides, "{outcome:?}");
        });
        reopen(&disk.kill()).unwrap();
    }
}

/// Two failures at once: the second is told no sooner than the first.
#[test]
fn who_fails_beside_another_is_told_when_the_note_is_there() {
    let disk = new_disk();
    let (stop, stopping) = Stop::new();
    let journal = create_on(Hooked::new(&disk, move |operation, path| {
        if operation == Operation::Create && path.ends_with(segment::POISONED) {
            stopping.stop();
        }
        Ok(())
    }));
    std::thread::scope(|scope| {
        let stop = stop;
        let first = scope.spawn(|| journal.poison(Error::invalid("the first")));
        stop.wait();
        assert!(journal.poisoned().is_none());
        let second = scope.spawn(|| journal.poison(Error::invalid("the second")));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!second.is_finished());
        let error = journal.rest(Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        stop.go_on.send(()).unwrap();
        for told in [first, second] {
            assert_eq!(told.join().unwrap().kind(), ErrorKind::Poisoned);
        }
        assert!(disk.exists(&dir().join(segment::POISONED)).unwrap());
    });
    assert!(journal.poisoned().unwrap().to_string().contains("the first"));
}

/// What is found out by one who comes after the close says nothing of the files: they are another's.
#[test]
fn a_closed_journal_leaves_no_note() {
    let disk = new_disk();
    let journal = create(&disk).unwrap();
    journal.close().unwrap();
    let before = disk.files();
    assert_eq!(journal.poison(Error::invalid("too late")).kind(), ErrorKind::Closed);
    assert!(disk.files() == before);
}

/// The only way out is then to start the machine anew, and whoever is told of the failure is told that.
#[test]
fn a_failure_of_which_no_note_can_be_left_says_to_start_the_machine_anew() {
    for step in [Operation::Create, Operation::SyncDir] {
        let disk = new_disk();
        let journal = create_long(&disk).unwrap();
        append(&journal, Handoff::Os).unwrap();
        disk.inject(Fault::on(Operation::Sync).times(1));
        disk.inject(Fault::on(step));
        let told = [
            journal.sync_to(Seq(1)).unwrap_err(),
            append(&journal, Handoff::Os).unwrap_err(),
            journal.close().unwrap_err(),
        ];
        for error in told {
            assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}");
            assert!(error.to_string().contains(UNNOTED), "{step:?}: {error}");
        }
    }
    let disk = new_disk();
    let journal = create_long(&disk).unwrap();
    append(&journal, Handoff::Os).unwrap();
    disk.inject(Fault::on(Operation::Sync).times(1));
    let error = journal.sync_to(Seq(1)).unwrap_err();
    assert!(!error.to_string().contains(UNNOTED), "{error}");
}

/// From a sync a full disk is no refusal: the system may have given up what it had no room for.
#[test]
fn an_opening_whose_sync_fails_without_a_note_says_so_unless_nothing_can_be_written_there() {
    use std::io::ErrorKind::{Other, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    for (kind, says) in [
        (Other, true),
        (StorageFull, true),
        (QuotaExceeded, true),
        (ReadOnlyFilesystem, false),
        (PermissionDenied, false),
    ] {
        for noted in [false, true] {
            let disk = new_disk();
            let journal = create(&disk).unwrap();
            append(&journal, Handoff::Os).unwrap();
            drop(journal);
            let disk = disk.kill();
            disk.inject(Fault::on(Operation::Sync).error(kind).times(1));
            if !noted {
                disk.inject(Fault::on(Operation::Create).error(kind));
            }
            let error = reopen(&disk).map(drop).unwrap_err();
            assert_eq!(error.to_string().contains(UNNOTED), says && !noted, "{kind:?}: {error}");
        }
    }
}

/// In several copies of the journal two who make the note would be in each other's way: each finds it made in the copy of the other, which is
/// no failure of that.
#[test]
fn two_failures_at_once_leave_one_note_and_no_copy_out() {
    use super::mirror::{DIRS, Model, dirs_disk};
    let disk = dirs_disk(81);
    let (stop, stopping) = Stop::new();
    let hooked = Hooked::new(&disk, move |operation, path| {
        if operation == Operation::Create && path.ends_with(segment::POISONED) && path.starts_with(DIRS[1]) {
            stopping.stop();
        }
        Ok(())
    });
    let (mirrors, journal) = Model::default().create_on(Arc::new(hooked));
    let journal = Arc::new(journal);
    append(&journal, Handoff::Os).unwrap();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| journal.poison(Error::corruption("one")));
        stop.wait();
        let second = scope.spawn(|| journal.poison(Error::corruption("another")));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!second.is_finished());
        stop.go_on.send(()).unwrap();
        for told in [first, second] {
            let error = told.join().unwrap();
            assert_eq!(error.kind(), ErrorKind::Poisoned);
            assert!(!error.to_string().contains(UNNOTED), "{error}");
        }
    });
    assert!(mirrors.copies().iter().all(|copy| copy.good), "{:?}", mirrors.copies());
}

/// It says all that there is to say.
#[test]
fn a_note_that_is_there_already_is_one() {
    use super::health::note_failure;
    let disk = new_disk();
    drop(create(&disk).unwrap());
    assert!(note_failure(&disk, dir()) && note_failure(&disk, dir()));
    disk.inject(Fault::on(Operation::Create));
    disk.inject(Fault::on(Operation::SyncDir));
    assert!(!note_failure(&disk, dir()));
}
