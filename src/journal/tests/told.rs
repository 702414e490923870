//! What errors say of damage, and what they advise.

use super::damage::{sample, segments, third_frame};
use super::*;

/// Which sequences are lost is said, one or several.
#[test]
fn the_error_of_a_hole_names_what_was_there() {
    let disk = new_disk();
    let journal = create_long(&disk).unwrap();
    (1..=20).for_each(|seq| assert_eq!(append(&journal, Handoff::Buffered).unwrap(), Seq(seq)));
    journal.sync_to(Seq(20)).unwrap();
    let disk = disk.kill();
    let name = segments(&disk)[0].clone();
    // Where the frames begin, by their lengths.
    let at = |seq: u64| {
        let before: usize = (1..seq).map(|seq| crate::frame::frame_bytes(payload(seq).len())).sum();
        segment::BODY as usize + before
    };
    for (lost, text) in
        [(5..6, "sequence 5 to 20 was"), (19..20, "19 to 20 was"), (20..21, "where sequence 20 was")]
    {
        let disk = disk.fork();
        disk.damage(&dir().join(&name), |bytes| bytes[at(lost.start)..at(lost.end)].fill(0)).unwrap();
        let error = reopen(&disk).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(text), "{lost:?}: {error}");
    }
}

/// A start of the machine may give up writes, so it is named only where nothing says that one of them was synced.
#[test]
fn a_new_start_of_the_machine_is_advised_only_where_no_synced_write_may_be_missing() {
    let disk = new_disk();
    let journal = create(&disk).unwrap();
    (0..6).for_each(|_| assert!(append(&journal, Handoff::Os).is_ok()));
    let unsynced = disk.fork().kill();
    journal.sync_to(Seq(6)).unwrap();
    append(&journal, Handoff::Os).unwrap();
    let proven = disk.kill();
    let place = third_frame();
    for (disk, applied, named) in
        [(&unsynced, 0, true), (&unsynced, 2, true), (&unsynced, 3, false), (&proven, 0, false)]
    {
        let disk = disk.fork();
        let path = dir().join(&segments(&disk)[0]);
        disk.damage(&path, |bytes| bytes[place + 16] ^= 1).unwrap();
        let error = reopen_from(&disk, Seq(0), Seq(applied)).map(drop).unwrap_err();
        assert!(error.to_string().contains("case F"), "{error}");
        let advice = error.advice().unwrap();
        assert_eq!(advice.contains("start the machine anew"), named, "{applied}: {error}");
        assert_eq!(advice.contains("gives up the writes from sequence 3 on"), named, "{applied}: {error}");
        assert!(advice.contains("put the journal's files back from a copy"), "{error}");
    }
}

/// The next session says where this one ended: what is missing below that was acknowledged.
#[test]
fn the_error_of_a_lost_end_says_up_to_where_it_was_acknowledged() {
    for (frames, text) in [(3, "sequence 18 to 20 was acknowledged"), (1, "sequence 20 was acknowledged")] {
        let disk = sample(true);
        let names = segments(&disk);
        let mut missing = frames;
        // From the last segment of the first session backwards, as many of its frames as are to be lost.
        let first = |name: &str| {
            let bytes = disk.read(&dir().join(name)).unwrap().unwrap();
            segment::SegmentHeader::decode_page(&bytes).unwrap().0
        };
        let session =
            names.iter().skip(1).position(|name| first(name).origin != segment::Origin::Continuation);
        for name in names[..=session.unwrap()].iter().rev() {
            let header = first(name);
            let bytes = disk.read(&dir().join(name)).unwrap().unwrap();
            let mut found = Vec::new();
            let mut from = segment::BODY as usize;
            while let Some((at, frame)) = crate::frame::find(&bytes, from, header.salt(), header.generation) {
                if frame.kind == crate::frame::Kind::Commit {
                    found.push(at);
                }
                from = at + crate::frame::ALIGN;
            }
            let lost: Vec<usize> = found.into_iter().rev().take(missing).collect();
            missing -= lost.len();
            for at in lost {
                disk.damage(&dir().join(name), |bytes| bytes[at..at + 8].fill(0)).unwrap();
            }
        }
        assert_eq!(missing, 0);
        let error = reopen(&disk).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
    }
}
