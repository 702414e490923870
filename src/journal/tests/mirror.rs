//! A journal in several copies: faults in one, losses of one, and what must never be believed.

use super::*;
use crate::disk::sim::Rng;
use crate::journal::mirror::{Found, Mirrors, Place};
use std::collections::BTreeMap;
use std::path::PathBuf;

const HOME: &str = "/store";
const DIRS: [&str; 2] = ["/a/journal", "/b/journal"];

fn dirs_disk(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    for dir in ["/store", "/a", "/b"] {
        disk.create_dir_all(Path::new(dir)).unwrap();
    }
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

fn places() -> Vec<Place> {
    let place = |(id, dir): (u32, &&str)| Place {
        id,
        dir: PathBuf::from(dir),
        known: true,
        listed: true,
        implicit: false,
    };
    (0..).zip(&DIRS).map(place).collect()
}

/// Loses whatever touches a copy's directory, until healed.
fn absent(disk: &SimDisk, copy: usize) {
    let here = move |path: &Path| path.starts_with(DIRS[copy]);
    disk.inject(Fault::on(Operation::Look).at(here).error(std::io::ErrorKind::NotFound));
    disk.inject(Fault::on(Operation::Read).at(here));
    disk.inject(Fault::on_any_change().at(here));
}

fn fault(disk: &SimDisk, operation: Operation, copy: usize, times: u64) {
    disk.inject(Fault::on(operation).at(move |path| path.starts_with(DIRS[copy])).times(times));
}

/// What was written, as far as it matters: sequence to the life that wrote it.
#[derive(Debug, Clone, Default)]
struct Model {
    written: BTreeMap<u64, u64>,
    life: u64,
    /// Acknowledged as durable.
    synced: u64,
    /// Acknowledged as handed over.
    handed: u64,
    /// What the shards would have applied: what is below may be trimmed.
    applied: u64,
}

impl Model {
    fn payload(&self, seq: u64) -> Vec<u8> {
        let mut bytes = self.written[&seq].to_le_bytes().to_vec();
        bytes.extend(payload(seq));
        bytes
    }

    fn append(&mut self, journal: &Journal, handoff: Handoff) -> Result<()> {
        let seq = journal.lock().next_seq();
        let before = self.written.insert(seq.0, self.life);
        let outcome = journal.append(&Payload::new(&self.payload(seq.0)), handoff);
        if journal.last() < seq {
            // It got no place: what an earlier life wrote there may still be found.
            match before {
                Some(life) => self.written.insert(seq.0, life),
                None => self.written.remove(&seq.0),
            };
        }
        outcome?;
        if handoff == Handoff::Os {
            self.handed = seq.0;
        }
        Ok(())
    }

    fn sync(&mut self, journal: &Journal) -> Result<()> {
        let last = journal.last();
        journal.sync_to(last)?;
        (self.synced, self.handed) = (last.0, last.0);
        Ok(())
    }

    /// Opens; whatever comes back must be what was written last under its number, and all that was acknowledged.
    fn open(
        &mut self,
        disk: &SimDisk,
        accept: Option<&str>,
    ) -> Result<(Arc<Mirrors>, Journal, ReplayReport)> {
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let (home, store) = (Path::new(HOME), CONFIG.store_id);
        let found = Found::look(shared, home, store, places(), accept.map(Path::new))?;
        let from = Seq(self.applied.max(found.first_retained()?.0.saturating_sub(1)));
        let mirrors = found.serve(from, from, false)?;
        let at = mirrors.dir().to_path_buf();
        let mut next = from.next();
        let (journal, report) =
            Journal::open(mirrors.clone(), &at, CONFIG, from, from, &mut |seq, bytes| {
                assert_eq!(seq, next);
                let life = bytes.first_chunk().map(|b| u64::from_le_bytes(*b));
                assert_eq!(life, self.written.get(&seq.0).copied(), "{seq} is of another life");
                assert!(bytes == self.payload(seq.0), "{seq}");
                next = seq.next();
                Ok(())
            })?;
        self.life += 1;
        self.written.split_off(&next.0);
        Ok((mirrors, journal, report))
    }

    fn create(&self, disk: &SimDisk) -> (Arc<Mirrors>, Journal) {
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let mirrors = Mirrors::create(shared, Path::new(HOME), CONFIG.store_id, places(), false).unwrap();
        let at = mirrors.dir().to_path_buf();
        let journal = Journal::create(mirrors.clone(), &at, CONFIG, Seq(1)).unwrap();
        mirrors.vouch().unwrap();
        (mirrors, journal)
    }
}

fn good(mirrors: &Mirrors) -> [bool; 2] {
    [0, 1].map(|index| mirrors.copies()[index].good)
}

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

/// A copy fails, the other goes on, segments come and go, it is made anew, both go on.
fn script(
    model: &mut Model,
    disk: &SimDisk,
    mirrors: &Mirrors,
    journal: &Journal,
    fails: usize,
) -> Result<()> {
    for round in 0..4 {
        for n in 0..12 {
            model.append(journal, if n % 3 == 0 { Handoff::Os } else { Handoff::Buffered })?;
            if n % 4 == 3 {
                model.sync(journal)?;
            }
        }
        match round {
            0 => fault(disk, Operation::Sync, fails, 1),
            2 => {
                mirrors.mend();
                model.applied = model.synced - 5;
                journal.trim(Seq(model.applied + 1))?;
                journal.provision()?;
            }
            _ => {}
        }
    }
    journal.close()
}

#[test]
fn a_crash_at_any_operation_leaves_no_copy_that_is_wrongly_believed() {
    for fails in [0, 1] {
        let mut stop = 0;
        loop {
            let (mut model, disk) = (Model::default(), dirs_disk(8));
            let (mirrors, journal) = model.create(&disk);
            disk.stop_after(stop);
            let outcome = script(&mut model, &disk, &mirrors, &journal, fails);
            let ended = outcome.is_ok();
            assert!(ended || disk.stopped(), "{outcome:?}");
            let disks = [disk.fork().kill(), disk.crash(PowerCut { seed: stop })];
            for (index, disk) in disks.iter().enumerate() {
                let least = if index == 0 { model.handed } else { model.synced };
                for lost in [None, Some(0), Some(1)] {
                    let disk = disk.fork();
                    if let Some(lost) = lost {
                        absent(&disk, lost);
                    }
                    match model.clone().open(&disk, None) {
                        Ok((.., report)) => assert!(
                            report.last.0 >= least,
                            "fails {fails}, stop {stop}, lost {lost:?}: {report:?}, {least}"
                        ),
                        Err(e) if lost.is_some() => assert_eq!(e.kind(), ErrorKind::Refused, "{e}"),
                        Err(e) => panic!("fails {fails}, stop {stop}: {e}"),
                    }
                }
            }
            if ended {
                break;
            }
            stop += 1;
        }
        assert!(stop > 200, "{stop}");
    }
}

/// Appends, syncs, faults, mending, trims, crashes, losses, damage, from a seed.
fn wander(seed: u64) {
    let mut rng = Rng(seed);
    let (mut model, mut disk) = (Model::default(), dirs_disk(seed));
    let (mut mirrors, mut journal) = model.create(&disk);
    let (mut opened, mut refused) = (0, 0);
    for _ in 0..400 {
        let copy = rng.below(2) as usize;
        let mut crash = false;
        match rng.below(100) {
            0..50 => {
                drop(model.append(&journal, if rng.below(2) == 0 { Handoff::Os } else { Handoff::Buffered }))
            }
            50..75 => drop(model.sync(&journal)),
            75..78 => {
                let kinds = [Operation::Sync, Operation::Write, Operation::Create, Operation::Rename];
                fault(&disk, kinds[rng.below(4) as usize], copy, 1 + rng.below(3));
            }
            78 => absent(&disk, copy),
            79..82 => disk.heal(),
            82..87 => drop(mirrors.mend()),
            87..92 => {
                model.applied = model.applied.max(model.synced.saturating_sub(rng.below(30)));
                let _ = journal.trim(Seq(model.applied + 1));
                let _ = journal.provision();
            }
            _ => crash = true,
        }
        if !crash && journal.poisoned().is_none() {
            continue;
        }
        let was_good = good(&mirrors);
        let kill = rng.below(3) == 0;
        disk = if kill { disk.kill() } else { disk.crash(PowerCut { seed: rng.next() }) };
        let noted = |dir: &&str| disk.exists(&Path::new(dir).join("poisoned")).unwrap();
        if journal.poisoned().is_some() && !DIRS.iter().any(noted) {
            // The note of a failed sync failed as well: what is readable may not be on the disk, and nobody can know.
            return;
        }
        let least = if kill { model.handed } else { model.synced };
        if !kill {
            model.handed = model.synced;
        }
        let lost = (rng.below(3) == 0).then_some(copy);
        match (lost, rng.below(3)) {
            (Some(lost), 0) => disk.rearrange(Path::new(DIRS[lost]), &[]).unwrap(),
            (Some(lost), _) => absent(&disk, lost),
            _ => {}
        }
        let outcome = model.open(&disk, None);
        let complete = (0..2).any(|index| was_good[index] && Some(index) != lost);
        let outcome = match outcome {
            Err(e) => {
                assert!(!complete, "seed {seed}, {was_good:?} without {lost:?}, kill {kill}: {e}");
                assert_eq!(e.kind(), ErrorKind::Refused, "seed {seed}: {e}");
                refused += 1;
                disk.heal();
                // If it was wiped, what was acknowledged is gone with it, and the other copy does not pass for it.
                model.open(&disk, None)
            }
            outcome => outcome,
        };
        let Ok((next_mirrors, next_journal, report)) = outcome else { return };
        assert!(report.last.0 >= least, "seed {seed}: {report:?}, acknowledged {least}");
        opened += 1;
        (mirrors, journal) = (next_mirrors, next_journal);
        (model.synced, model.handed) = (report.last.0, report.last.0);
    }
    assert!(opened > 5, "seed {seed}: {opened}, {refused}");
}

#[test]
fn no_walk_loses_what_was_acknowledged_or_believes_what_lacks_it() {
    for seed in 0..300 {
        wander(seed);
    }
}

#[test]
fn a_copy_is_made_anew_beside_writers() {
    let (mut model, disk) = (Model::default(), dirs_disk(9));
    let (mirrors, journal) = model.create(&disk);
    for n in 1..=20_000 {
        model.written.insert(n, 0);
    }
    let shared = &model;
    let write = |count: u64| {
        for _ in 0..count {
            let mut appender = journal.lock();
            let seq = appender.next_seq();
            appender.append(&Payload::new(&shared.payload(seq.0))).unwrap();
            drop(appender);
            journal.sync_to(seq).unwrap();
        }
    };
    for round in 0..3 {
        fault(&disk, Operation::Sync, round % 2, 1);
        write(50);
        assert!(!good(&mirrors)[round % 2]);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| write(150));
            }
            scope.spawn(|| {
                for _ in 0..20 {
                    journal.trim(Seq(journal.durable().0.saturating_sub(150))).unwrap();
                    journal.provision().unwrap();
                }
            });
            assert_eq!(mirrors.mend(), 1, "{:?}", mirrors.copies());
        });
        assert_eq!(good(&mirrors), [true; 2], "{:?}", mirrors.copies());
    }
    let last = journal.last();
    for lost in [0, 1] {
        let disk = disk.fork().crash(PowerCut { seed: 3 });
        absent(&disk, lost);
        let mut model = model.clone();
        model.applied = journal.first().0 - 1;
        assert_eq!(model.open(&disk, None).unwrap().2.last, last, "without {lost}");
    }
}
