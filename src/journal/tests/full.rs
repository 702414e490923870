//! Openings on a disk that is full.

use super::*;
use crate::journal::segment::{self, Origin, SegmentHeader};
use crate::journal::supply::{Scarce, Supply};

const LONG: JournalConfig = JournalConfig { segment_bytes: 64 << 10, ..CONFIG };

/// What the files come to.
fn used(disk: &SimDisk) -> u64 {
    disk.files().iter().map(|(_, bytes)| bytes.len() as u64).sum()
}

/// Some frames, and the segment that comes next if `provisioned`.
fn filled(provisioned: bool) -> SimDisk {
    let disk = new_disk();
    let journal = Journal::create(Arc::new(disk.clone()), dir(), LONG, Seq(1)).unwrap();
    (0..10).for_each(|_| _ = append(&journal, Handoff::Os).unwrap());
    if provisioned {
        journal.provision().unwrap();
    }
    journal.close().unwrap();
    drop(journal);
    disk.kill()
}

fn open(disk: &SimDisk) -> Result<(Journal, ReplayReport)> {
    Journal::open(Arc::new(disk.clone()), dir(), LONG, Seq::ZERO, Seq::ZERO, &mut |seq, bytes| {
        assert!(bytes == payload(seq.0), "a wrong payload for {seq}");
        Ok(())
    })
}

/// Appends until the disk is full; how many there were.
fn fill(journal: &Journal) -> u64 {
    for count in 0.. {
        match append(journal, Handoff::Os) {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::Full => return count,
            Err(e) => panic!("{e}"),
        }
    }
    unreachable!()
}

#[test]
fn a_journal_opens_on_a_full_disk_with_the_segment_that_was_ready() {
    let disk = filled(true);
    disk.set_capacity(Some(used(&disk)));
    let (journal, report) = open(&disk).unwrap();
    assert_eq!((report.last, journal.stats().spares), (Seq(10), 0));
    let more = fill(&journal);
    assert!(more > 5, "{more}");
    disk.set_capacity(None);
    append(&journal, Handoff::Os).unwrap();
    assert_eq!(open(&disk.kill()).unwrap().1.last, Seq(10 + more + 1));
}

#[test]
fn a_journal_opens_where_there_is_room_for_a_small_segment_alone() {
    let disk = filled(false);
    disk.set_capacity(Some(used(&disk) + segment::MIN_SEGMENT_BYTES));
    let (journal, report) = open(&disk).unwrap();
    assert_eq!(report.last, Seq(10));
    let more = fill(&journal);
    assert!(journal.shortage().is_some_and(|e| e.to_string().contains("write again")));
    // Once more, with room for one more.
    let disk = disk.kill();
    disk.set_capacity(Some(used(&disk) + segment::MIN_SEGMENT_BYTES));
    let (again, report) = open(&disk).unwrap();
    assert_eq!(report.last, Seq(10 + more));
    drop(again);
    let disk = disk.kill();
    disk.set_capacity(None);
    let (journal, _) = open(&disk).unwrap();
    (0..60).for_each(|_| _ = append(&journal, Handoff::Os).unwrap());
    let bytes = journal.stats().bytes;
    // The small one is not kept to be used again.
    journal.trim(Seq(10 + more + 1)).unwrap();
    assert!(journal.stats().bytes <= bytes - segment::MIN_SEGMENT_BYTES);
    let at = Seq(10 + more + 50);
    let (_, report) = Journal::open(Arc::new(disk.kill()), dir(), LONG, at, at, &mut |_, _| Ok(())).unwrap();
    assert_eq!(report.last, Seq(10 + more + 60));
}

#[test]
fn without_any_room_an_opening_says_what_it_needs_and_changes_nothing() {
    let disk = filled(false);
    disk.set_capacity(Some(used(&disk) + segment::MIN_SEGMENT_BYTES - 1));
    let before = disk.files();
    let error = open(&disk).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
    assert!(error.advice().is_some_and(|advice| advice.contains("then open")), "{error}");
    assert!(disk.files() == before);
    disk.set_capacity(None);
    assert_eq!(open(&disk.kill()).unwrap().1.last, Seq(10));
}

/// The one before has written nothing: its segment is begun anew where it is, and no crash on the way does any harm.
#[test]
fn a_journal_opens_on_a_full_disk_as_often_as_it_is_tried_and_stopped() {
    for opened_before in [0, 1, 2] {
        let before = filled(true);
        before.set_capacity(Some(used(&before)));
        for _ in 0..opened_before {
            assert_eq!(open(&before.kill()).unwrap().1.last, Seq(10));
        }
        for stop in 0.. {
            let disk = before.fork().kill();
            disk.stop_after(stop);
            let opened = open(&disk);
            let ended = opened.is_ok();
            drop(opened);
            let disk = disk.crash(PowerCut { seed: stop });
            let when = format!("opened {opened_before} times, stopped at {stop}");
            let (journal, report) = open(&disk).unwrap_or_else(|e| panic!("{when}: {e}"));
            assert_eq!(report.last, Seq(10), "{when}");
            let more = fill(&journal);
            assert!(more > 5, "{when}: {more}");
            journal.sync_to(Seq(10 + more)).unwrap();
            let disk = disk.crash(PowerCut { seed: stop });
            drop(journal);
            disk.set_capacity(None);
            assert_eq!(open(&disk).unwrap().1.last, Seq(10 + more), "{when}");
            if ended {
                assert!(stop > 3, "{when}");
                break;
            }
        }
    }
}

/// A new journal is not begun where it has no room to grow.
#[test]
fn a_journal_is_made_with_a_whole_segment_or_not_at_all() {
    let disk = new_disk();
    disk.set_capacity(Some(LONG.segment_bytes - 1));
    let made = Journal::create(Arc::new(disk.clone()), dir(), LONG, Seq(1));
    assert_eq!(made.map(drop).unwrap_err().kind(), ErrorKind::Full);
}

/// What had not been synced is behind the end, in a segment that the next session takes over.
#[test]
fn an_opening_that_uses_what_is_there_stops_anywhere_and_loses_nothing() {
    for seed in 0..12 {
        let before = new_disk();
        let journal = Journal::create(Arc::new(before.clone()), dir(), CONFIG, Seq(1)).unwrap();
        (0..15).for_each(|_| _ = append(&journal, Handoff::Os).unwrap());
        journal.sync_to(Seq(15)).unwrap();
        (0..12).for_each(|_| _ = append(&journal, Handoff::Os).unwrap());
        journal.provision().unwrap();
        let before = before.crash(PowerCut { seed });
        drop(journal);
        for stop in 0.. {
            let disk = before.fork().kill();
            disk.stop_after(stop);
            let opened = reopen_from(&disk, Seq::ZERO, Seq(15));
            let ended = opened.is_ok();
            drop(opened);
            let disk = disk.crash(PowerCut { seed: stop });
            let (journal, report) = reopen_from(&disk, Seq::ZERO, Seq(15)).unwrap();
            (0..40).for_each(|_| _ = append(&journal, Handoff::Os).unwrap());
            let last = reopen_from(&disk.kill(), Seq::ZERO, Seq(15)).unwrap().1.last;
            assert_eq!(last, Seq(report.last.0 + 40), "seed {seed}, stopped at {stop}");
            if ended {
                break;
            }
        }
    }
}

/// What has the name of the segment that is begun in may be another file than the one that was looked at, of another length.
#[test]
fn a_segment_that_is_taken_over_is_as_long_as_its_file() {
    let disk = SimDisk::new(1);
    disk.create_dir_all(dir()).unwrap();
    let header = |len| SegmentHeader {
        store_id: CONFIG.store_id,
        generation: 1,
        boot_id: 1,
        len,
        origin: Origin::Start { first: Seq(1) },
    };
    let path = dir().join(segment::name(1));
    let mut bytes = header(16 << 10).encode_page();
    bytes.resize(16 << 10, 0);
    disk.replace(&path, &bytes).unwrap();
    let full = |path: &Path| path.starts_with(dir()) && !path.to_string_lossy().ends_with(".seg");
    disk.inject(Fault::on(Operation::Write).at(full).error(std::io::ErrorKind::StorageFull));
    let supply = Supply::new(Arc::new(disk.clone()), dir().to_path_buf(), CONFIG, Vec::new());
    let ready = supply.start(header(32 << 10), Scarce::Small { there: Some(32 << 10) }).unwrap();
    assert_eq!((ready.header.len, ready.file.len().unwrap()), (16 << 10, 16 << 10));
    let written = SegmentHeader::decode_page(&disk.read(&path).unwrap().unwrap()).unwrap().0;
    assert_eq!(written, ready.header);
}
