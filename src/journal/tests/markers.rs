//! End markers: what leads from one segment to the next, where it is lost, damaged, or not durable.

use super::crash::base;
use super::*;

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
                unfinished: false,
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
