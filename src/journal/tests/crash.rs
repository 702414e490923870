//! The process or the machine stops after every single operation of the disk.

use super::*;
use crate::disk::sim::Rng;

/// What the journal has promised so far.
#[derive(Debug, Clone, Copy, Default)]
struct Promises {
    /// Appended, or being appended: nothing above may come back.
    appended: u64,
    /// Survives the death of the process.
    handed: u64,
    /// Survives a power cut.
    synced: u64,
    /// Nothing up to this needs to be there.
    from: u64,
    /// Not a promise: how many writes went past the cache.
    through: u64,
}

impl Promises {
    /// Opens the journal after the process died (or after nothing happened), and checks what it promised.
    fn check(&mut self, disk: &SimDisk, power_cut: bool, context: &str) -> Option<Journal> {
        let at_least = if power_cut { self.synced } else { self.handed };
        match reopen_from(disk, Seq(self.from), Seq(self.synced)) {
            Ok((journal, report)) => {
                let last = report.last.0;
                assert!(last >= at_least, "{context}: {at_least} was promised, {last} came back, {self:?}");
                assert!(last <= self.appended, "{context}: {last} came back, {self:?}");
                (self.appended, self.handed, self.synced) = (last, last, last);
                Some(journal)
            }
            Err(e) => {
                assert!(disk.stopped(), "{context}: {e}, {self:?}");
                None
            }
        }
    }
}

/// Works with the journal until the disk stops, or `sessions` are over.
fn work(disk: &SimDisk, promises: &mut Promises, seed: u64, sessions: usize) -> Option<()> {
    let mut rng = Rng(seed);
    for _ in 0..sessions {
        let journal = promises.check(disk, false, "between sessions")?;
        for _ in 0..rng.below(40) {
            step(&journal, promises, &mut rng, seed % 2 == 1)
                .inspect_err(|e| assert!(disk.stopped(), "{e}"))
                .ok()?;
        }
        promises.through += journal.stats().through;
        if rng.below(2) == 0 {
            journal.close().inspect_err(|e| assert!(disk.stopped(), "{e}")).ok()?;
            (promises.handed, promises.synced) = (promises.appended, promises.appended);
        }
    }
    Some(())
}

fn step(journal: &Journal, promises: &mut Promises, rng: &mut Rng, calm: bool) -> Result<()> {
    // Odd scripts are mostly appends and syncs of one writer, so that these go past the cache.
    let draw = if calm && rng.below(16) > 0 { 11 * rng.below(2) } else { rng.below(16) };
    match draw {
        0..5 => {
            promises.appended += 1;
            append(journal, Handoff::Buffered)?;
        }
        5..10 => {
            promises.appended += 1;
            append(journal, Handoff::Os)?;
            promises.handed = promises.appended;
        }
        10 => {
            journal.write_buffered()?;
            promises.handed = promises.appended;
        }
        11 | 12 => {
            let seq = promises.appended - rng.below(3).min(promises.appended);
            journal.sync_to(Seq(seq))?;
            assert!(journal.durable() >= Seq(seq));
            promises.synced = promises.synced.max(seq);
            promises.handed = promises.handed.max(seq);
        }
        13 => {
            journal.provision()?;
        }
        14 => {
            promises.from = promises.from.max(promises.synced.saturating_sub(1 + rng.below(15)));
            journal.trim(Seq(promises.from + 1))?;
        }
        _ => {
            // One that needs a segment of its own.
            let seq = journal.lock().next_seq().0;
            if is_large(seq) {
                promises.appended += 1;
                journal.append(&Payload::new(&payload(seq)), Handoff::Os)?;
                promises.handed = promises.appended;
            }
        }
    }
    Ok(())
}

fn base() -> SimDisk {
    let disk = new_disk();
    drop(create(&disk).unwrap());
    disk.kill()
}

fn stop_after_every_operation(scripts: std::ops::Range<u64>, cuts: u64) -> (u64, u64) {
    let (mut points, mut lost, mut through) = (0, 0, 0);
    for script in scripts {
        let whole = base();
        let before = whole.operations();
        let mut promises = Promises::default();
        work(&whole, &mut promises, script, 3).unwrap();
        through += promises.through;
        for stop in 0..whole.operations() - before {
            let disk = base();
            disk.stop_after(stop);
            let mut promises = Promises::default();
            assert_eq!(work(&disk, &mut promises, script, 3), None);
            points += 1;
            let context = format!("script {script}, stopped at {stop}");
            let killed = disk.fork().kill();
            promises.clone().check(&killed, false, &format!("{context}, killed")).unwrap();
            for seed in 0..cuts {
                let context = format!("{context}, cut {seed}");
                let mut rng = Rng(seed ^ stop << 8 ^ script << 32);
                // A second stop, of the process or the machine, while a first is being recovered from.
                let first_cut = rng.below(2) == 0;
                let second = if first_cut {
                    disk.fork().crash(PowerCut { seed: rng.next() })
                } else {
                    disk.fork().kill()
                };
                second.stop_after(rng.below(14));
                let opened = promises.clone().check(&second, first_cut, &context);
                let second_cut = rng.below(4) != 0;
                let again =
                    if second_cut { second.crash(PowerCut { seed: rng.next() }) } else { second.kill() };
                drop(opened);
                let both = format!("{context}, stopped again");
                promises.clone().check(&again, first_cut || second_cut, &both).unwrap();
                let disk = disk.fork().crash(PowerCut { seed: rng.next() });
                let mut promises = promises;
                let appended = promises.appended;
                // And once without: what that opening found must never go away again.
                let journal = promises.check(&disk, true, &context).unwrap();
                lost += u64::from(promises.appended < appended);
                promises.appended += 2;
                append(&journal, Handoff::Os).unwrap();
                append(&journal, Handoff::Os).unwrap();
                let disk = disk.crash(PowerCut { seed: rng.next() });
                promises.check(&disk, true, &format!("{context}, cut again")).unwrap();
            }
        }
    }
    assert!(through >= 4, "only {through} writes past the cache");
    (points, lost)
}

#[test]
fn a_stop_after_any_operation_loses_nothing_that_was_promised() {
    let (points, lost) = stop_after_every_operation(0..4, 4);
    assert!(points > 150, "only {points} stops");
    assert!(lost > 50, "only {lost} power cuts took an unsynced frame: the simulation is too kind");
}

#[test]
#[ignore = "minutes; run it after a change of the journal"]
fn a_stop_after_any_operation_loses_nothing_in_many_scripts() {
    let (points, lost) = stop_after_every_operation(6..150, 20);
    println!("{points} stops, {lost} power cuts that took an unsynced frame");
}

#[test]
fn a_creation_that_stops_anywhere_can_be_done_again() {
    for cut in 0..20 {
        for stop in 0.. {
            let disk = new_disk();
            disk.stop_after(stop);
            let created = create(&disk).is_ok();
            let disk = disk.crash(PowerCut { seed: cut });
            if created {
                reopen(&disk).unwrap();
                break;
            }
            let journal = create(&disk).unwrap();
            append(&journal, Handoff::Os).unwrap();
            journal.sync_to(Seq(1)).unwrap();
            let disk = disk.crash(PowerCut { seed: cut });
            assert_eq!(reopen(&disk).unwrap().1.last, Seq(1));
            assert_eq!(create(&disk).unwrap_err().kind(), ErrorKind::Foreign);
        }
    }
}

#[test]
fn opening_again_and_again_does_not_pile_up_segments() {
    let disk = base();
    let (journal, _) = reopen(&disk).unwrap();
    for _ in 0..30 {
        append(&journal, Handoff::Os).unwrap();
    }
    let mut counts = std::collections::BTreeSet::new();
    let mut disk = disk.kill();
    for seed in 0..10 {
        let (journal, report) = reopen(&disk).unwrap();
        assert_eq!(report.last, Seq(30));
        counts.insert(journal.stats().segments);
        journal.provision().unwrap();
        disk = if seed % 2 == 0 { disk.kill() } else { disk.crash(PowerCut { seed }) };
    }
    assert_eq!(counts.len(), 1, "{counts:?}");
    assert!(disk.list(dir()).unwrap().len() < 10);
}

#[test]
fn what_was_copied_from_another_machine_and_opened_at_once_is_durable() {
    for seed in 0..20 {
        let disk = base();
        let (journal, _) = reopen(&disk).unwrap();
        for _ in 0..9 {
            append(&journal, Handoff::Os).unwrap();
        }
        journal.close().unwrap();
        // Another start of the machine than the one in the headers, and bytes that no sync has covered.
        let disk = disk.crash(PowerCut { seed });
        for name in disk.list(dir()).unwrap() {
            let path = dir().join(name);
            let bytes = disk.read(&path).unwrap().unwrap();
            disk.remove_file(&path).unwrap();
            disk.open(&path, OpenMode::CreateNew).unwrap().write_at(0, &bytes).unwrap();
        }
        assert_eq!(reopen(&disk).unwrap().1.last, Seq(9));
        assert_eq!(reopen(&disk.crash(PowerCut { seed })).unwrap().1.last, Seq(9));
    }
}

/// A replay that begins where a segment does has not read the end marker before it, which the power cut may have taken.
#[test]
fn what_one_opening_takes_for_the_log_every_later_one_does_wherever_it_begins() {
    let mut ends = std::collections::BTreeSet::new();
    for seed in 0..300 {
        let (disk, journal) = before_a_segment();
        drop(journal);
        let disk = disk.crash(PowerCut { seed });
        let (journal, report) = reopen_from(&disk, Seq(22), Seq(22)).unwrap();
        ends.insert(report.last);
        append(&journal, Handoff::Os).unwrap();
        journal.sync_to(Seq::MAX).unwrap();
        drop(journal);
        let (_, again) = reopen(&disk.kill()).unwrap();
        assert_eq!(again.last, report.last.next(), "seed {seed}");
    }
    assert_eq!(ends.len(), 2, "{ends:?}");
}

/// A journal of which the newest segment begins with sequence 23, which is large and was handed over; all before is synced.
fn before_a_segment() -> (SimDisk, Arc<Journal>) {
    let disk = base();
    let (journal, _) = reopen(&disk).unwrap();
    for _ in 0..22 {
        append(&journal, Handoff::Os).unwrap();
    }
    journal.sync_to(Seq(22)).unwrap();
    assert!(is_large(23), "it gets a segment of its own");
    append(&journal, Handoff::Os).unwrap();
    (disk, Arc::new(journal))
}

/// The segment that ends with sequence 22, and where its frames and markers lie, by kind.
fn segment_before(disk: &SimDisk) -> (std::path::PathBuf, Vec<(usize, crate::frame::Kind)>) {
    let survey = recovery::Survey::read(disk, dir(), CONFIG.store_id, Seq(22)).unwrap();
    let at = survey.segments.iter().position(|s| s.first == Some(Seq(23))).unwrap();
    let segment = survey.segments[at - 1].clone();
    let bytes = disk.read(&segment.path).unwrap().unwrap();
    let (mut found, mut from) = (Vec::new(), segment::BODY as usize);
    while let Some((at, frame)) =
        crate::frame::find(&bytes, from, segment.header.salt(), segment.header.generation)
    {
        found.push((at, frame.kind));
        from = at + crate::frame::ALIGN;
    }
    (segment.path, found)
}

#[test]
fn damage_to_a_segment_that_is_read_for_its_end_marker_alone_refuses_no_opening() {
    type Life = fn(SimDisk, Arc<Journal>) -> SimDisk;
    let lives: [(Life, char); 4] = [
        (|disk, _| disk.kill(), 'F'),
        (
            |disk, journal| {
                journal.sync_to(Seq(23)).unwrap();
                disk.crash(PowerCut { seed: 1 })
            },
            'G',
        ),
        (
            |disk, journal| {
                append(&journal, Handoff::Os).unwrap();
                journal.sync_to(Seq(24)).unwrap();
                drop(journal);
                let disk = disk.crash(PowerCut { seed: 2 });
                append(&reopen(&disk).unwrap().0, Handoff::Os).unwrap();
                disk.kill()
            },
            'B',
        ),
        // The sole word of what the shards have applied is theirs.
        (
            |disk, journal| {
                journal.sync_to(Seq(23)).unwrap();
                let disk = disk.crash(PowerCut { seed: 3 });
                let names = disk.list(dir()).unwrap().into_iter().filter(|name| name.ends_with(".seg"));
                let path = dir().join(names.max().unwrap());
                disk.damage(&path, |bytes| bytes[segment::BODY as usize + 60..].fill(0)).unwrap();
                disk
            },
            'I',
        ),
    ];
    for (live, case) in lives {
        let (disk, journal) = before_a_segment();
        let disk = live(disk, journal);
        let whole = reopen_from(&disk.fork(), Seq(22), Seq(22)).unwrap().1.last;
        let (path, frames) = segment_before(&disk);
        let commits: Vec<usize> = frames
            .iter()
            .filter(|(_, kind)| *kind == crate::frame::Kind::Commit)
            .map(|(at, _)| *at)
            .collect();
        assert!(commits.len() > 1, "{commits:?}");
        for at in [commits[0] + 16, commits[0] + 44, commits[1] + 16, commits[commits.len() - 1] + 44] {
            let disk = disk.fork();
            let what = format!("case {case}, a flip at {at}");
            disk.damage(&path, |bytes| bytes[at] ^= 1).unwrap();
            let damaged = disk.read(&path).unwrap();
            // One that could serve in the place of a copy without the damage is not to be taken for as good.
            let survey = recovery::Survey::read(&disk, dir(), CONFIG.store_id, Seq(22)).unwrap();
            let mut strict = recovery::Walker {
                disk: &disk,
                segments: &survey.segments,
                boot_id: disk.boot_id(),
                poisoned: false,
                from: Seq(22),
                at_least: Seq(22).into(),
                visit: &mut |_, _| Ok(()),
                visited: (0, 0),
                buf: Vec::new(),
            };
            let error = strict.walk().unwrap_err();
            assert!(!error.to_string().contains("sequence 0 "), "{what}: {error}");
            assert_eq!(error.path(), Some(path.as_path()), "{what}: {error}");

            let (journal, report) = reopen_from(&disk, Seq(22), Seq(22)).expect(&what);
            assert_eq!(report.last, whole, "{what}");
            assert!(disk.read(&path).unwrap() == damaged, "{what}: what is damaged may yet be mended");
            append(&journal, Handoff::Os).unwrap();
            journal.sync_to(Seq::MAX).unwrap();
            drop(journal);
            let disk = disk.crash(PowerCut { seed: 4 });
            let (_, report) = reopen_from(&disk.fork(), Seq(22), Seq(22)).expect(&what);
            assert_eq!(report.last, whole.next(), "{what}");
            // Whoever asks for what is damaged is told.
            let error = reopen(&disk).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corruption, "{what}: {error}");
            assert!(!error.to_string().contains("sequence 0 "), "{what}: {error}");
        }
    }
}

/// What `visit` returns ends the opening, and is not taken for damage that could be passed over.
#[test]
fn an_error_of_the_visitor_is_not_followed_by_a_second_visit() {
    let (disk, journal) = before_a_segment();
    drop(journal);
    let disk = disk.kill();
    let (path, frames) = segment_before(&disk);
    for flip in [false, true] {
        let disk = disk.fork();
        if flip {
            disk.damage(&path, |bytes| bytes[frames[0].0 + 16] ^= 1).unwrap();
        }
        let mut visits = 0;
        let error = Journal::open(Arc::new(disk), dir(), CONFIG, Seq(22), Seq(22), &mut |_, _| {
            visits += 1;
            Err(Error::corruption("the visitor's"))
        });
        assert!(error.map(drop).unwrap_err().to_string().contains("the visitor's"));
        assert_eq!(visits, 1);
    }
}

/// Without its end marker a segment ends the log, unless something says that the first frame of the next one belongs to it.
#[test]
fn a_lost_end_marker_cuts_the_log_where_nothing_says_that_it_went_on() {
    let (disk, journal) = before_a_segment();
    let synced = disk.fork();
    drop(journal);
    // The machine stops, and the unsynced frame is whole nevertheless.
    let survived = (0..)
        .map(|seed| disk.fork().crash(PowerCut { seed }))
        .find(|disk| reopen_from(&disk.fork(), Seq(22), Seq(22)).unwrap().1.last == Seq(23))
        .unwrap();
    let unmarked = |disk: SimDisk| {
        let (path, frames) = segment_before(&disk);
        for (at, _) in frames.iter().filter(|(_, kind)| *kind == crate::frame::Kind::End) {
            disk.damage(&path, |bytes| bytes[*at..*at + 40].fill(0)).unwrap();
        }
        disk
    };
    let disk = unmarked(survived.fork());
    let (journal, report) = reopen_from(&disk, Seq(22), Seq(22)).unwrap();
    assert_eq!((report.last, report.case, report.lost), (Seq(22), 'H', 1));
    append(&journal, Handoff::Os).unwrap();
    journal.sync_to(Seq::MAX).unwrap();
    assert_eq!(reopen(&disk.kill()).unwrap().1.last, Seq(23));
    // The shards have applied it, or the machine never stopped.
    for (disk, applied) in [(survived, 23), (synced.kill(), 22)] {
        let disk = unmarked(disk);
        let (journal, report) = reopen_from(&disk, Seq(22), Seq(applied)).unwrap();
        assert_eq!(report.last, Seq(23));
        append(&journal, Handoff::Os).unwrap();
        journal.sync_to(Seq::MAX).unwrap();
        let disk = disk.crash(PowerCut { seed: 5 });
        assert_eq!(reopen_from(&disk.fork(), Seq(22), Seq(22)).unwrap().1.last, Seq(24));
        let error = reopen(&disk).map(drop).unwrap_err();
        assert!(error.to_string().contains("case B"), "{error}");
    }
}

/// An opening ends before the end marker is durable that it has written. The next one does not read that segment, and finds the marker in the
/// system's memory: should it be lost from there, nothing would show that the segments behind it are missing.
#[test]
fn an_end_marker_that_an_opening_finds_is_durable_when_it_returns() {
    for fails in [true, false] {
        let disk = base();
        let (journal, _) = reopen(&disk).unwrap();
        for _ in 0..9 {
            append(&journal, Handoff::Os).unwrap();
        }
        journal.close().unwrap();
        drop(journal);
        let disk = disk.kill();
        let newest = |disk: &SimDisk| {
            let names = disk.list(dir()).unwrap().into_iter().filter(|name| name.ends_with(".seg"));
            dir().join(names.max().unwrap())
        };
        let before = newest(&disk);
        if fails {
            let of = before.clone();
            disk.inject(Fault::on(Operation::Sync).at(move |path| path == of).after(1).times(1));
        } else {
            let whole = disk.fork();
            reopen_from(&whole, Seq(9), Seq(9)).unwrap();
            // The last two are the sync of the marker, and that of the names.
            disk.stop_after(whole.operations() - disk.operations() - 2);
        }
        assert!(reopen_from(&disk, Seq(9), Seq(9)).is_err());
        let disk = disk.kill();
        let after = newest(&disk);
        assert!(after > before);
        let (journal, report) = reopen_from(&disk, Seq(9), Seq(9)).unwrap();
        assert_eq!(report.last, Seq(9));
        append(&journal, Handoff::Os).unwrap();
        journal.sync_to(Seq(10)).unwrap();
        drop(journal);
        for seed in 0..20 {
            let disk = disk.fork().crash(PowerCut { seed });
            assert_eq!(reopen_from(&disk.fork(), Seq(9), Seq(9)).unwrap().1.last, Seq(10));
            disk.remove_file(&after).unwrap();
            let error = reopen_from(&disk, Seq(9), Seq(9)).map(drop).expect_err("a synced write is gone");
            assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
        }
    }
}
