//! The disk of one copy hangs, or that of both.

use super::hooked::Hooked;
use super::*;
use crate::disk::Limited;
use crate::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(60);

/// What hangs, and how many hang.
#[derive(Default)]
struct Gate {
    hangs: Mutex<Hangs>,
    changed: Condvar,
}

#[derive(Default)]
struct Hangs {
    what: Vec<(Operation, &'static str)>,
    waiting: usize,
}

impl Gate {
    fn pass(&self, operation: Operation, path: &Path) {
        let mut hangs = self.hangs.lock();
        let is_one =
            |hangs: &Hangs| hangs.what.iter().any(|(of, dir)| *of == operation && path.starts_with(dir));
        if is_one(&hangs) {
            hangs.waiting += 1;
            self.changed.notify_all();
            while is_one(&hangs) {
                self.changed.wait(&mut hangs);
            }
            hangs.waiting -= 1;
        }
        self.changed.notify_all();
    }

    fn hang(&self, operation: Operation, dirs: &[&'static str]) {
        self.hangs.lock().what.extend(dirs.iter().map(|dir| (operation, *dir)));
    }

    fn release(&self) {
        self.hangs.lock().what.clear();
        self.changed.notify_all();
    }

    /// Until so many hang.
    fn wait(&self, count: usize) {
        let mut hangs = self.hangs.lock();
        while hangs.waiting != count {
            assert!(!self.changed.wait_for(&mut hangs, LONG).timed_out(), "{} hang", hangs.waiting);
        }
    }
}

/// A journal in two copies whose disks are waited for so long.
struct World {
    model: Model,
    disk: SimDisk,
    gate: Arc<Gate>,
    mirrors: Arc<Mirrors>,
    journal: Arc<Journal>,
}

impl World {
    fn new(seed: u64, limit: Duration) -> World {
        let (disk, gate) = (dirs_disk(seed), Arc::new(Gate::default()));
        let passes = gate.clone();
        let hooked = Hooked::new(&disk, move |operation, path| {
            passes.pass(operation, path);
            Ok(())
        });
        let limited = Arc::new(Limited::new(Arc::new(hooked), limit));
        [HOME, DIRS[0], DIRS[1]].iter().for_each(|dir| drop(limited.watch(Path::new(dir))));
        let (home, store) = (Path::new(HOME), CONFIG.store_id);
        let mirrors =
            Mirrors::create(limited.clone(), home, store, places(), Some(limited), Arc::default()).unwrap();
        let at = mirrors.dir().to_path_buf();
        let journal = Arc::new(Journal::create(mirrors.clone(), &at, CONFIG, Seq(1)).unwrap());
        mirrors.vouch().unwrap();
        World { model: Model::default(), disk, gate, mirrors, journal }
    }

    fn write(&mut self, count: usize) {
        for _ in 0..count {
            self.model.append(&self.journal, Handoff::Os).unwrap();
        }
        self.model.sync(&self.journal).unwrap();
    }
}

#[test]
fn a_copy_that_hangs_is_left_out_and_the_others_go_on() {
    for (hangs, dir) in DIRS.into_iter().enumerate() {
        let mut world = World::new(40, SHORT);
        world.write(10);
        world.gate.hang(Operation::Sync, &[dir]);
        world.write(1);
        assert_eq!(good(&world.mirrors), [hangs == 1, hangs == 0]);
        world.gate.wait(1);
        let silent = world.mirrors.silent().unwrap();
        assert_eq!(silent.path(), Some(Path::new(dir)), "{silent}");
        // Also from segment to segment, and where some are freed.
        world.write(400);
        world.journal.provision().unwrap();
        world.journal.trim(world.journal.durable()).unwrap();
        world.model.applied = world.journal.durable().0;
        world.write(10);
        // While it hangs it is not made anew, and that is told at once.
        assert_eq!(world.mirrors.mend(), 0);
        // What was acknowledged is in the other alone, and the one that hung is not believed.
        let other = world.disk.fork().kill();
        absent(&other, hangs);
        world.model.clone().open(&other, None).unwrap();
        let older = world.disk.fork().kill();
        absent(&older, 1 - hangs);
        assert_eq!(world.model.clone().open(&older, None).unwrap_err().kind(), ErrorKind::Refused);
        world.gate.release();
        world.gate.wait(0);
        let begun = Instant::now();
        while world.mirrors.mend() == 0 {
            assert!(begun.elapsed() < LONG, "{:?}", world.mirrors.copies());
        }
        assert!(world.mirrors.silent().is_none());
        world.write(10);
        let either = world.disk.fork().kill();
        absent(&either, 1 - hangs);
        world.model.open(&either, None).unwrap();
    }
}

#[test]
fn copies_that_hang_together_are_waited_for() {
    let mut world = World::new(41, SHORT);
    world.write(10);
    world.gate.hang(Operation::Sync, &DIRS);
    world.model.append(&world.journal, Handoff::Os).unwrap();
    let syncing = std::thread::spawn({
        let journal = world.journal.clone();
        move || journal.sync_to(journal.last())
    });
    world.gate.wait(2);
    std::thread::sleep(SHORT * 4);
    assert!(!syncing.is_finished());
    assert_eq!(good(&world.mirrors), [true, true]);
    world.gate.release();
    syncing.join().unwrap().unwrap();
    world.write(10);
}

/// What was given up before, since there was another copy to be asked, is no answer: neither that of a disk that is slow with all others,
/// nor one for the others.
#[test]
fn copies_that_were_given_up_by_who_read_are_waited_for_by_who_writes() {
    for silent in [&DIRS[..], &DIRS[..1], &DIRS[1..]] {
        let mut world = World::new(47, Duration::from_secs(1));
        world.write(100);
        world.gate.hang(Operation::Look, silent);
        let segment = world.mirrors.dir().join(segment::name(1));
        for (index, dir) in DIRS.iter().enumerate() {
            assert_eq!(world.mirrors.open_copy(&segment, index).is_err(), silent.contains(dir));
        }
        world.gate.wait(silent.len());
        world.gate.hang(Operation::Write, &DIRS);
        world.gate.hang(Operation::Sync, &DIRS);
        let syncing = std::thread::spawn({
            let (journal, mut model) = (world.journal.clone(), world.model.clone());
            move || {
                model.append(&journal, Handoff::Os)?;
                model.sync(&journal).map(|()| model)
            }
        });
        std::thread::sleep(Duration::from_millis(1500));
        assert!(!syncing.is_finished(), "{silent:?}");
        assert_eq!(good(&world.mirrors), [true, true], "{silent:?}");
        world.gate.release();
        world.model = syncing.join().unwrap().unwrap();
        assert_eq!(good(&world.mirrors), [true, true], "{silent:?}");
        world.write(10);
        for lost in [0, 1] {
            let either = world.disk.fork().kill();
            absent(&either, lost);
            world.model.clone().open(&either, None).unwrap();
        }
    }
}

/// Whatever it is that hangs: making, naming, freeing and clearing away segments.
#[test]
fn nothing_that_hangs_in_one_copy_holds_up_the_journal() {
    for operation in [Operation::Create, Operation::Rename, Operation::SyncDir, Operation::Remove] {
        let mut world = World::new(42, SHORT);
        world.write(300);
        world.gate.hang(operation, &[DIRS[1]]);
        world.write(300);
        world.journal.trim(world.journal.durable()).unwrap();
        world.journal.provision().unwrap();
        world.write(300);
        world.journal.close().unwrap();
        assert_eq!(good(&world.mirrors), [true, false], "{operation:?}");
        world.gate.release();
        world.gate.wait(0);
    }
}

#[test]
fn a_write_to_a_disk_that_is_slow_already_holds_up_nobody() {
    let mut world = World::new(43, Duration::from_secs(1));
    world.write(10);
    // A segment is being made there, which takes long.
    world.gate.hang(Operation::Create, &[DIRS[1]]);
    let making = std::thread::spawn({
        let journal = world.journal.clone();
        move || journal.provision()
    });
    world.gate.wait(1);
    std::thread::sleep(Duration::from_millis(200));
    world.gate.hang(Operation::Write, &[DIRS[1]]);
    world.write(10);
    assert_eq!(good(&world.mirrors), [true, false]);
    world.gate.release();
    making.join().unwrap().unwrap();
    world.write(10);
}

/// The last of it is copied while nobody writes.
#[test]
fn a_copy_that_hangs_while_it_is_made_holds_up_writes_for_no_longer_than_another() {
    for operation in
        [Operation::SyncDir, Operation::Sync, Operation::Write, Operation::Rename, Operation::Look]
    {
        let mut world = World::new(44, SHORT);
        world.write(50);
        fault(&world.disk, Operation::Sync, 1, 1);
        world.write(1);
        assert_eq!(good(&world.mirrors), [true, false]);
        world.gate.hang(operation, &[DIRS[1]]);
        assert_eq!(world.mirrors.mend(), 0);
        world.write(50);
        world.gate.release();
        world.gate.wait(0);
        let begun = Instant::now();
        while world.mirrors.mend() == 0 {
            assert!(begun.elapsed() < LONG, "{operation:?} {:?}", world.mirrors.copies());
        }
        world.write(1);
        assert_eq!(good(&world.mirrors), [true, true]);
    }
}

/// Whoever reads asks another copy.
#[test]
fn a_reader_goes_around_a_copy_that_hangs() {
    for operation in [Operation::Read, Operation::Look] {
        for hangs in DIRS {
            let mut world = World::new(45, SHORT);
            world.write(100);
            world.gate.hang(operation, &[hangs]);
            let mut seen = 0;
            let mut visit = |_: Seq, _: &[u8]| {
                seen += 1;
                Ok(())
            };
            let mut cursor = Cursor::at(Seq(1));
            world.journal.replay(&mut cursor, Seq(100), usize::MAX, &mut visit).unwrap();
            assert_eq!(seen, 100);
            world.gate.release();
            world.gate.wait(0);
        }
    }
}

/// Opening begins with the locks: where a disk hangs then and answers a moment later, nothing is believed there that is not locked.
#[test]
fn a_copy_that_hung_when_it_was_to_be_locked_is_locked_before_it_is_believed() {
    for late in [false, true] {
        let mut world = World::new(46, SHORT);
        world.write(10);
        world.journal.close().unwrap();
        let disk = world.disk.kill();
        let gate = Arc::new(Gate::default());
        let passes = gate.clone();
        let hooked = Hooked::new(&disk, move |operation, path| {
            if path.ends_with("LOCK") {
                passes.pass(operation, path);
            }
            Ok(())
        });
        let limited = Arc::new(Limited::new(Arc::new(hooked), SHORT));
        DIRS.iter().for_each(|dir| drop(limited.watch(Path::new(dir))));
        gate.hang(Operation::Look, &[DIRS[1]]);
        let locks = Found::lock(limited.as_ref(), CONFIG.store_id, &places()).unwrap();
        gate.wait(1);
        let release = || {
            gate.release();
            gate.wait(0);
            let begun = Instant::now();
            while limited.is_silent(Path::new(DIRS[1])) {
                assert!(begun.elapsed() < LONG);
                std::thread::yield_now();
            }
        };
        if !late {
            release();
        }
        let look = |locks| {
            let (home, store) = (Path::new(HOME), CONFIG.store_id);
            Found::look(limited.clone(), home, store, places(), None, false, locks)
        };
        let found = look(locks).unwrap();
        if late {
            release();
        }
        let lock = Path::new(DIRS[1]).join("LOCK");
        let mirrors = found.serve(Seq::ZERO, Seq::ZERO, None).unwrap();
        // Whatever is believed is locked, and nobody believes what another may have.
        assert_eq!(good(&mirrors), [true, !late]);
        match disk.lock(&lock) {
            Ok(_) => assert!(late, "it is not locked"),
            Err(e) => assert!(!late && e.kind() == std::io::ErrorKind::WouldBlock, "{e}"),
        }
        if late {
            let theirs = disk.lock(&lock).unwrap();
            assert_eq!(mirrors.mend(), 0, "another has it");
            drop(theirs);
            assert_eq!(mirrors.mend(), 1, "{:?}", mirrors.copies());
            assert_eq!(disk.lock(&lock).map(drop).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        }
    }
}
