//! The first frames of segments, which say where they begin.

use super::damage::{contents, segments};
use super::*;

/// Of segments that nothing is replayed of, only the header is asked for: where the oldest begins the next one says, from there on.
#[test]
fn a_first_frame_that_nobody_asks_for_refuses_no_opening() {
    let disk = new_disk();
    let journal = create(&disk).unwrap();
    while journal.stats().segments < 10 {
        append(&journal, Handoff::Os).unwrap();
    }
    journal.sync_to(Seq::MAX).unwrap();
    drop(journal);
    // The oldest is to be one that only follows another.
    let disk = disk.kill();
    disk.remove_file(&dir().join(&segments(&disk)[0])).unwrap();
    let names = segments(&disk);
    let firsts: Vec<Seq> = recovery::Survey::read(&disk, dir(), CONFIG.store_id, Seq::MAX)
        .unwrap()
        .segments
        .iter()
        .map(|segment| segment.first.unwrap())
        .collect();
    let last = *firsts.last().unwrap();
    for (damaged, how) in
        [vec![0], vec![4], vec![0, 1]].iter().flat_map(|d| ["lost", "unreadable"].map(|how| (d, how)))
    {
        let disk = disk.fork();
        let hooked = super::mirror::hooked::Hooked::new(&disk, |_, _| Ok(()));
        for path in damaged.iter().map(|index| dir().join(&names[*index])) {
            match how {
                "lost" => disk.damage(&path, |bytes| bytes[4096..4160].fill(0x55)).unwrap(),
                _ => hooked.spoil(&path, 4100),
            }
        }
        let shared: Arc<dyn Disk> = Arc::new(hooked);
        let case = format!("{damaged:?} {how}");
        let above = if damaged.contains(&0) { firsts[damaged.len()] } else { firsts[0] };
        let first = Journal::first_retained(shared.as_ref(), dir(), CONFIG.store_id);
        assert_eq!(first.unwrap_or_else(|e| panic!("{case}: {e}")), above, "{case}");
        let open = |from: Seq| Journal::open(shared.clone(), dir(), CONFIG, from, from, &mut |_, _| Ok(()));
        // What is asked for is missed.
        let before = contents(&disk);
        for from in firsts.iter().filter(|first| damaged.contains(&0) && **first < above) {
            let error = open(Seq(from.0 - 1)).map(drop).unwrap_err();
            let kind = if how == "lost" { ErrorKind::Corruption } else { ErrorKind::Io };
            assert_eq!(error.kind(), kind, "{case}: {error}");
            assert!(contents(&disk) == before, "{case}: something was changed");
        }
        let (journal, report) = open(last).unwrap_or_else(|e| panic!("{case}: {e}"));
        assert_eq!((journal.first(), report.first), (above, above), "{case}");
        let now = segments(&disk);
        assert!(names.iter().all(|name| now.contains(name)), "{case}: {now:?}");
        // It goes with the rest of what is not needed.
        assert!(journal.trim(last).unwrap() > 0, "{case}");
        assert!(!segments(&disk).contains(&names[0]), "{case}");
    }
}

/// A fault that has passed by the time of the next read costs nothing; one that lasts, what is in the segment.
#[test]
fn a_segment_whose_first_frame_can_be_read_the_second_time_is_known_from_its_first_on() {
    let disk = new_disk();
    let journal = create(&disk).unwrap();
    while journal.last() < Seq(60) {
        append(&journal, Handoff::Os).unwrap();
    }
    journal.sync_to(journal.last()).unwrap();
    journal.trim(Seq(20)).unwrap();
    let (first, last) = (journal.first(), journal.last());
    assert!(first > Seq(1) && first < Seq(20), "{first}");
    drop(journal);
    let disk = disk.kill();
    let oldest = dir().join(segments(&disk).remove(0));
    for (times, known) in [(1, true), (2, true), (u64::MAX, false)] {
        let (disk, path) = (disk.fork(), oldest.clone());
        // Its header is read before.
        disk.inject(Fault::on(Operation::Read).at(move |read| read == path).after(1).times(times));
        let (journal, _) = reopen_from(&disk, last, last).unwrap();
        match known {
            true => assert_eq!(journal.first(), first, "failed {times} times"),
            false => assert!(journal.first() > first),
        }
    }
}

#[test]
fn a_journal_begins_with_a_number_that_something_lies_before_and_behind() {
    let create = |first| Journal::create(Arc::new(new_disk()), dir(), CONFIG, first).map(drop);
    for first in [Seq(1), Seq(u64::MAX - 1)] {
        create(first).unwrap();
    }
    for first in [Seq::ZERO, Seq::MAX] {
        assert_eq!(create(first).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
