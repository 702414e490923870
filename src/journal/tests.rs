use super::health::UNNOTED;
use super::*;
use crate::ErrorKind;
use crate::disk::{Disk, Fault, OpenMode, Operation, PowerCut, SimDisk};
use crate::frame::Payload;
use std::path::Path;
use std::sync::{Arc, LazyLock};

mod crash;
mod damage;
mod first;
mod full;
mod markers;
mod mirror;
mod poisoned;
mod replay;
mod searching;
mod segments;
mod syncs;
mod told;
mod trimming;

const DIR: &str = "/store/journal";
const CONFIG: JournalConfig = JournalConfig { store_id: 0xfeed_beef, segment_bytes: 16 << 10, max_spares: 2 };

fn dir() -> &'static Path {
    Path::new(DIR)
}

fn new_disk() -> SimDisk {
    let disk = SimDisk::new(7);
    disk.create_dir_all(Path::new("/store")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

fn create(disk: &SimDisk) -> Result<Journal> {
    Journal::create(Arc::new(disk.clone()), dir(), CONFIG, Seq(1))
}

/// With segments that are not full before a test ends.
fn create_long(disk: &SimDisk) -> Result<Arc<Journal>> {
    let config = JournalConfig { segment_bytes: 4 << 20, ..CONFIG };
    Journal::create(Arc::new(disk.clone()), dir(), config, Seq(1)).map(Arc::new)
}

/// A payload that only this sequence has, of a length that varies.
fn payload(seq: u64) -> Vec<u8> {
    let len = if is_large(seq) { 20_000 } else { (seq * 7919 % 2311) as usize };
    static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut rng = crate::disk::sim::Rng(5);
        (0..64 << 10).map(|_| rng.next() as u8).collect()
    });
    let start = (seq * 613 % 40_000) as usize;
    NOISE[start..start + len].to_vec()
}

/// Longer than a segment.
fn is_large(seq: u64) -> bool {
    seq % 29 == 23
}

fn append(journal: &Journal, handoff: Handoff) -> Result<Seq> {
    let mut appender = journal.lock();
    let seq = appender.next_seq();
    let bytes = payload(seq.0);
    assert_eq!(appender.append(&Payload::new(&bytes))?, seq);
    let crowded = appender.crowded();
    drop(appender);
    if crowded || handoff == Handoff::Os {
        journal.hand_to(seq)?;
    }
    Ok(seq)
}

/// Opens, checks that what comes back is the right bytes without a gap, and returns what was the last of it.
fn reopen_from(disk: &SimDisk, from: Seq, at_least: Seq) -> Result<(Journal, ReplayReport)> {
    let mut next = from.next();
    let (journal, report) =
        Journal::open(Arc::new(disk.clone()), dir(), CONFIG, from, at_least, &mut |seq, bytes| {
            assert_eq!(seq, next, "a gap in the replay");
            assert!(bytes == payload(seq.0), "a wrong payload for {seq}");
            next = seq.next();
            Ok(())
        })?;
    assert_eq!(report.last.next(), next.max(report.last.next()));
    assert_eq!(journal.last(), report.last);
    assert_eq!(journal.durable(), report.last);
    assert!(report.last < from || report.last.next() == next);
    Ok((journal, report))
}

fn reopen(disk: &SimDisk) -> Result<(Journal, ReplayReport)> {
    reopen_from(disk, Seq::ZERO, Seq::ZERO)
}

#[test]
fn what_is_appended_comes_back_after_closing() {
    let disk = new_disk();
    let journal = create(&disk).unwrap();
    for _ in 0..100 {
        append(&journal, Handoff::Buffered).unwrap();
    }
    journal.close().unwrap();
    assert_eq!(append(&journal, Handoff::Os).unwrap_err().kind(), ErrorKind::Closed);
    let disk = disk.crash(PowerCut { seed: 1 });
    let (journal, report) = reopen(&disk).unwrap();
    assert_eq!((report.last, report.frames, report.lost, report.case), (Seq(100), 100, 0, 'E'));
    assert_eq!(append(&journal, Handoff::Os).unwrap(), Seq(101));
    let (journal, report) = reopen(&disk.kill()).unwrap();
    assert_eq!(report.last, Seq(101));
    assert!(journal.stats().segments > 5);
}

#[test]
fn a_full_disk_fails_appends_cleanly_until_there_is_room() {
    let disk = new_disk();
    let journal = create(&disk).unwrap();
    disk.set_capacity(Some(40 << 10));
    let mut appended = 0;
    let error = loop {
        match append(&journal, Handoff::Os) {
            Ok(_) => appended += 1,
            Err(e) => break e,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
    assert!(
        error.to_string().contains("free space there") && error.path().unwrap().starts_with(DIR),
        "{error}"
    );
    assert!(appended > 5);
    // It fails as often as it is tried, takes no sequence, leaves nothing behind, and says so.
    let names = disk.list(dir()).unwrap();
    for _ in 0..3 {
        assert_eq!(append(&journal, Handoff::Os).unwrap_err().kind(), ErrorKind::Full);
        assert_eq!(journal.provision().unwrap_err().kind(), ErrorKind::Full);
    }
    assert_eq!((journal.last(), disk.list(dir()).unwrap()), (Seq(appended), names));
    assert_eq!(journal.shortage().unwrap().kind(), ErrorKind::Full);
    assert!(journal.poisoned().is_none());
    journal.sync_to(Seq::MAX).unwrap();
    assert_eq!(journal.durable(), Seq(appended));
    let (_, report) = reopen_with_room(&disk.fork());
    assert_eq!(report.last, Seq(appended), "nothing of what failed is replayed");
    disk.set_capacity(None);
    assert_eq!(append(&journal, Handoff::Os).unwrap(), Seq(appended + 1));
    assert!(journal.shortage().is_none());
    let (_, report) = reopen(&disk.kill()).unwrap();
    assert_eq!(report.last, Seq(appended + 1));
}

fn reopen_with_room(disk: &SimDisk) -> (Journal, ReplayReport) {
    let disk = disk.kill();
    disk.set_capacity(None);
    reopen(&disk).unwrap()
}

/// Wherever in the making of a segment the disk, or a quota, turns out to be full.
#[test]
fn a_disk_that_is_full_at_any_step_of_a_segment_poisons_nothing() {
    for kind in [std::io::ErrorKind::StorageFull, std::io::ErrorKind::QuotaExceeded] {
        for operation in [Operation::Create, Operation::Write, Operation::Sync, Operation::Rename] {
            let disk = new_disk();
            let journal = create(&disk).unwrap();
            let making = |path: &Path| path.ends_with(segment::temporary_name(2));
            disk.inject(Fault::on(operation).at(making).error(kind).short());
            let mut appended = 0;
            let error = loop {
                match append(&journal, Handoff::Os) {
                    Ok(_) => appended += 1,
                    Err(e) => break e,
                }
            };
            assert_eq!(error.kind(), ErrorKind::Full, "{operation:?}: {error}");
            assert!(disk.list(dir()).unwrap().iter().all(|name| !name.ends_with(".tmp")));
            let last = journal.last();
            assert_eq!(last, Seq(appended));
            disk.heal();
            assert_eq!(append(&journal, Handoff::Os).unwrap(), last.next(), "{operation:?}");
            let (_, report) = reopen(&disk.kill()).unwrap();
            assert_eq!(report.last, last.next(), "{operation:?}");
        }
    }
}

#[test]
fn a_failed_sync_poisons_for_good_and_the_next_opening_writes_again() {
    for seed in 0..40 {
        let disk = new_disk();
        let journal = create(&disk).unwrap();
        for _ in 0..20 {
            append(&journal, Handoff::Os).unwrap();
        }
        disk.inject(Fault::on(Operation::Sync).times(1));
        for _ in 0..2 {
            let error = journal.sync_to(Seq(20)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Poisoned);
            assert!(error.to_string().contains("a fault of the simulated disk"), "{error}");
        }
        assert_eq!(append(&journal, Handoff::Buffered).unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(journal.write_buffered().unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(journal.close().unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(journal.durable(), Seq(0));
        let disk = disk.kill();
        let (_, report) = reopen(&disk).unwrap();
        assert_eq!(report.last, Seq(20));
        let (_, report) = reopen(&disk.crash(PowerCut { seed })).unwrap();
        assert_eq!(report.last, Seq(20), "what an opening replayed was lost afterwards");
    }
}

/// The system has given up the bytes by the next opening, and its cache still has them.
#[test]
fn a_sync_that_fails_in_an_opening_is_made_good_by_the_next_one() {
    for seed in 0..40 {
        let disk = new_disk();
        let journal = create(&disk).unwrap();
        (0..20).for_each(|_| assert!(append(&journal, Handoff::Os).is_ok()));
        let disk = disk.kill();
        disk.inject(Fault::on(Operation::Sync).times(1));
        assert_eq!(reopen(&disk).map(drop).unwrap_err().kind(), ErrorKind::Io);
        disk.heal();
        let (journal, report) = reopen(&disk).unwrap();
        assert_eq!(report.last, Seq(20));
        journal.sync_to(Seq(20)).unwrap();
        let (_, report) = reopen(&disk.crash(PowerCut { seed })).unwrap();
        assert_eq!(report.last, Seq(20), "what was called durable was lost");
    }
}
