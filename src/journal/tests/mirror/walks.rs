//! Scripts stopped at every operation, walks from a seed, and a copy made anew beside writers.

use super::*;

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
