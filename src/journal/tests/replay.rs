//! Reading a journal that is open.

use super::*;
use crate::disk::sim::Rng;

/// All up to `until` in steps of `limit` bytes; fails on a gap or a wrong payload. Returns how many steps it took.
fn read_on(journal: &Journal, cursor: &mut Cursor, until: Seq, limit: usize) -> Result<u64> {
    let mut steps = 0;
    let end = until.min(journal.last());
    while cursor.next() <= end {
        let (mut next, mut bytes, mut longest) = (cursor.next(), 0, 0);
        let at = journal.replay(cursor, until, limit, &mut |seq, payload| {
            assert_eq!(seq, next, "a gap");
            assert!(payload == self::payload(seq.0), "a wrong payload for {seq}");
            (next, bytes, longest) = (seq.next(), bytes + payload.len(), payload.len());
            Ok(())
        })?;
        assert_eq!((at, cursor.next()), (next, next));
        assert!(bytes <= limit.saturating_add(longest), "{bytes} bytes of {limit}");
        steps += 1;
    }
    assert_eq!(cursor.next(), end.next().max(cursor.next()));
    Ok(steps)
}

#[test]
fn everything_is_read_in_steps_from_anywhere_to_anywhere_before_it_is_durable() {
    let disk = new_disk();
    let journal = create(&disk).unwrap();
    for _ in 0..300 {
        append(&journal, Handoff::Buffered).unwrap();
    }
    assert_eq!(journal.durable(), Seq(0));
    assert!(read_on(&journal, &mut Cursor::at(Seq(1)), Seq::MAX, 0).unwrap() == 300);
    assert!(read_on(&journal, &mut Cursor::at(Seq(1)), Seq::MAX, 10_000).unwrap() > 20);
    assert_eq!(read_on(&journal, &mut Cursor::at(Seq(1)), Seq::MAX, usize::MAX).unwrap(), 1);
    for from in (1..=301_u64).step_by(7) {
        for until in (from.saturating_sub(2)..=301).step_by(31) {
            let mut cursor = Cursor::at(Seq(from));
            read_on(&journal, &mut cursor, Seq(until), 5_000).unwrap();
            assert_eq!(cursor.next(), Seq((until + 1).min(301).max(from)), "from {from} to {until}");
        }
    }
    // A cursor that has come to the end of the last segment goes on in the next one.
    let mut cursor = Cursor::at(Seq(1));
    for _ in 0..200 {
        let seq = append(&journal, Handoff::Buffered).unwrap();
        read_on(&journal, &mut cursor, seq, 50_000).unwrap();
        assert_eq!(cursor.next(), seq.next());
    }
}

#[test]
fn what_was_cut_at_an_opening_is_passed_by_and_what_came_later_is_read() {
    for seed in 0..30 {
        let mut disk = new_disk();
        let mut journal = create(&disk).unwrap();
        for round in 0..4 {
            for _ in 0..30 {
                append(&journal, Handoff::Os).unwrap();
            }
            journal.sync_to(Seq(journal.last().0 - 15)).unwrap();
            for _ in 0..10 {
                append(&journal, Handoff::Os).unwrap();
            }
            disk = disk.crash(PowerCut { seed: seed * 4 + round });
            journal = reopen(&disk).unwrap().0;
        }
        read_on(&journal, &mut Cursor::at(Seq(1)), Seq::MAX, 9_000).unwrap();
    }
}

#[test]
fn what_was_trimmed_is_an_error_by_name() {
    let disk = new_disk();
    let journal = create(&disk).unwrap();
    for _ in 0..100 {
        append(&journal, Handoff::Os).unwrap();
    }
    let mut behind = Cursor::at(Seq(1));
    read_on(&journal, &mut behind, Seq(3), usize::MAX).unwrap();
    assert!(journal.trim(Seq(60)).unwrap() > 1);
    for mut cursor in [behind, Cursor::at(Seq(1)), Cursor::at(Seq::ZERO)] {
        let mut visits = 0;
        let outcome = journal.replay(&mut cursor, Seq(90), usize::MAX, &mut |_, _| {
            visits += 1;
            Ok(())
        });
        let error = outcome.unwrap_err();
        assert_eq!((error.kind(), visits), (ErrorKind::NotFound, 0), "{error}");
        assert!(error.to_string().contains("begins with"), "{error}");
    }
    let first = journal.first();
    assert!(first > Seq(40));
    read_on(&journal, &mut Cursor::at(first), Seq::MAX, usize::MAX).unwrap();
}

#[test]
fn a_segment_that_is_used_again_under_the_reader_is_noticed() {
    let disk = new_disk();
    let config = JournalConfig { segment_bytes: 1 << 20, ..CONFIG };
    let journal = Journal::create(Arc::new(disk.clone()), dir(), config, Seq(1)).unwrap();
    let fill = || (0..1500).for_each(|_| assert!(append(&journal, Handoff::Os).is_ok()));
    fill();
    let until = journal.last();
    let mut next = Seq(1);
    let outcome = journal.replay(&mut Cursor::at(next), until, usize::MAX, &mut |seq, bytes| {
        assert_eq!(seq, next);
        assert!(bytes == payload(seq.0));
        next = seq.next();
        if seq == Seq(5) {
            // The oldest segment becomes a spare, and then the one that is written to.
            fill();
            assert!(journal.trim(until).unwrap() > 0);
            fill();
            fill();
        }
        Ok(())
    });
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(next > Seq(5) && next < until, "{next}");
    assert!(journal.first() > next);
}

#[test]
fn readers_beside_appends_and_trims_never_see_a_gap() {
    let disk = new_disk();
    let journal = create(&disk).unwrap();
    let last = Seq(6_000);
    let reader = |seed: u64| {
        let mut rng = Rng(seed);
        let (mut lost, mut cursor) = (0u32, Cursor::at(Seq(1)));
        while cursor.next() <= last {
            match read_on(&journal, &mut cursor, journal.last(), rng.below(40_000) as usize) {
                Ok(_) => std::thread::yield_now(),
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
                    assert!(journal.first() > cursor.next(), "{e}");
                    lost += 1;
                    cursor = Cursor::at(journal.first());
                }
            }
        }
        lost
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (1..=3).map(|seed| scope.spawn(move || reader(seed))).collect();
        while journal.last() < last {
            let seq = append(&journal, Handoff::Buffered).unwrap();
            if seq.0.is_multiple_of(40) {
                journal.trim(Seq(seq.0.saturating_sub(60))).unwrap();
                journal.provision().unwrap();
            }
        }
        let lost: Vec<u32> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        println!("readers were overtaken {lost:?} times");
    });
}

#[test]
fn damage_in_the_middle_is_an_error_with_its_place() {
    let disk = new_disk();
    let journal = create(&disk).unwrap();
    for _ in 0..60 {
        append(&journal, Handoff::Os).unwrap();
    }
    let (damaged, _) = journal.segment_of(Seq(30)).unwrap();
    let path = dir().join(segment::name(damaged.generation));
    let mut at = segment::BODY;
    for seq in damaged.first.0..30 {
        at += crate::frame::frame_bytes(payload(seq).len()) as u64;
    }
    for (offset, what) in [(at + 41, "its payload"), (at + 3, "its header")] {
        let flip = |bytes: &mut Vec<u8>| bytes[offset as usize] ^= 1;
        disk.damage(&path, flip).unwrap();
        let mut cursor = Cursor::at(Seq(1));
        let error = read_on(&journal, &mut cursor, Seq::MAX, 3_000).unwrap_err();
        assert_eq!((error.kind(), cursor.next()), (ErrorKind::Corruption, Seq(30)), "{what}: {error}");
        assert_eq!((error.path(), error.byte_offset()), (Some(&*path), Some(at)), "{what}");
        // What lies behind it can be read by whoever does not ask for it, and is found.
        for from in 31..50 {
            read_on(&journal, &mut Cursor::at(Seq(from)), Seq::MAX, 3_000).unwrap();
        }
        let mut behind = journal.behind(&cursor, Seq::MAX).unwrap().unwrap();
        assert_eq!(behind.next(), Seq(31), "{what}");
        read_on(&journal, &mut behind, Seq::MAX, 3_000).unwrap();
        assert!(journal.behind(&cursor, Seq(30)).unwrap().is_none(), "{what}");
        disk.damage(&path, flip).unwrap();
    }
    read_on(&journal, &mut Cursor::at(Seq(1)), Seq::MAX, 3_000).unwrap();
    // Once more it may be read.
    disk.inject(Fault::on(Operation::Read).times(1));
    read_on(&journal, &mut Cursor::at(Seq(1)), Seq::MAX, 3_000).unwrap();
    disk.inject(Fault::on(Operation::Read).times(2));
    let error = read_on(&journal, &mut Cursor::at(Seq(1)), Seq::MAX, 3_000).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
}

#[test]
fn a_frame_that_the_visitor_refuses_is_visited_again() {
    let disk = new_disk();
    let journal = create(&disk).unwrap();
    for _ in 0..20 {
        append(&journal, Handoff::Os).unwrap();
    }
    let mut cursor = Cursor::at(Seq(1));
    let refuse = |seq: Seq| if seq == Seq(7) { Err(Error::invalid("no")) } else { Ok(()) };
    let outcome = journal.replay(&mut cursor, Seq::MAX, usize::MAX, &mut |seq, _| refuse(seq));
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(cursor.next(), Seq(7));
    read_on(&journal, &mut cursor, Seq::MAX, usize::MAX).unwrap();
}

#[test]
fn after_a_failed_write_what_was_handed_over_is_still_read() {
    let disk = new_disk();
    let journal = create(&disk).unwrap();
    for _ in 0..20 {
        append(&journal, Handoff::Os).unwrap();
    }
    append(&journal, Handoff::Buffered).unwrap();
    disk.inject(Fault::on(Operation::Write).times(1));
    let error = read_on(&journal, &mut Cursor::at(Seq(1)), Seq::MAX, usize::MAX).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}");
    read_on(&journal, &mut Cursor::at(Seq(1)), Seq(20), usize::MAX).unwrap();
}

/// A write that went to the wrong place has left a whole frame where another belongs.
#[test]
fn a_frame_in_the_place_of_another_is_damage() {
    let disk = new_disk();
    let journal = Journal::create(Arc::new(disk.clone()), dir(), CONFIG, Seq(1)).unwrap();
    for n in 0..20 {
        journal.append(&Payload::new(&[n; 100]), Handoff::Os).unwrap();
    }
    let frame = crate::frame::frame_bytes(100);
    let at = |n: usize| segment::BODY as usize + n * frame;
    let path = dir().join(segment::name(journal.segment_of(Seq(1)).unwrap().0.generation));
    disk.damage(&path, |bytes| bytes.copy_within(at(4)..at(5), at(9))).unwrap();
    let mut seen = Vec::new();
    let mut cursor = Cursor::at(Seq(1));
    let outcome = journal.replay(&mut cursor, Seq(20), usize::MAX, &mut |seq, payload| {
        seen.push((seq.0, payload[0]));
        Ok(())
    });
    let error = outcome.unwrap_err();
    assert_eq!((error.kind(), error.byte_offset()), (ErrorKind::Corruption, Some(at(9) as u64)), "{error}");
    assert_eq!(seen, (1..10).map(|n| (n, n as u8 - 1)).collect::<Vec<_>>());
    // It is the fifth, and no reason to pass over the eleventh; nor is a later one in its place.
    for from in [4, 15] {
        disk.damage(&path, |bytes| bytes.copy_within(at(from)..at(from + 1), at(9))).unwrap();
        let behind = journal.behind(&cursor, Seq(20)).unwrap().unwrap();
        assert_eq!(behind.next(), Seq(11));
        let mut seen = Vec::new();
        for mut cursor in [behind, Cursor::at(Seq(11)), Cursor::at(Seq(13))] {
            let visit = &mut |seq: Seq, payload: &[u8]| {
                seen.push((seq.0, payload[0]));
                Ok(())
            };
            journal.replay(&mut cursor, Seq(20), usize::MAX, visit).unwrap();
        }
        let expected = [11, 11, 13].into_iter().flat_map(|from| from..21).map(|n| (n, n as u8 - 1));
        assert_eq!(seen, expected.collect::<Vec<_>>());
    }
}

/// What lies between is the rest of a segment, and more than one where that is so.
#[test]
fn behind_damage_to_the_end_of_a_segment_the_log_goes_on_in_the_next() {
    let disk = new_disk();
    let journal = create(&disk).unwrap();
    for _ in 0..120 {
        append(&journal, Handoff::Os).unwrap();
    }
    let (held, below) = journal.segment_of(Seq(30)).unwrap();
    let (_, further) = journal.segment_of(below).unwrap();
    let mut at = segment::BODY as usize;
    for seq in held.first.0..30 {
        at += crate::frame::frame_bytes(payload(seq).len());
    }
    for (generation, from, next) in [(held.generation, at, below), (held.generation + 1, 0, further)] {
        let path = dir().join(segment::name(generation));
        disk.damage(&path, |bytes| bytes[from..].fill(0)).unwrap();
        let mut cursor = Cursor::at(Seq(1));
        let error = read_on(&journal, &mut cursor, Seq::MAX, usize::MAX).unwrap_err();
        assert_eq!((error.kind(), cursor.next()), (ErrorKind::Corruption, Seq(30)), "{error}");
        let mut behind = journal.behind(&cursor, Seq::MAX).unwrap().unwrap();
        assert_eq!(behind.next(), next);
        read_on(&journal, &mut behind, Seq::MAX, usize::MAX).unwrap();
        assert!(journal.behind(&cursor, Seq(next.0 - 1)).unwrap().is_none());
    }
    // Where nothing can be read, it may be there.
    disk.inject(Fault::on(Operation::Read));
    assert_eq!(journal.behind(&Cursor::at(Seq(30)), Seq::MAX).unwrap_err().kind(), ErrorKind::Io);
}

/// It is told from the segment before it by what else can be read of it.
#[test]
fn a_segment_whose_first_frame_is_damaged_is_read_behind_that_after_an_opening() {
    let disk = new_disk();
    let journal = create(&disk).unwrap();
    for _ in 0..120 {
        append(&journal, Handoff::Os).unwrap();
    }
    let (held, below) = journal.segment_of(Seq(30)).unwrap();
    journal.sync_to(Seq::MAX).unwrap();
    drop(journal);
    let disk = disk.kill();
    let path = dir().join(segment::name(held.generation));
    let begin = segment::BODY as usize;
    disk.damage(&path, |bytes| bytes[begin..begin + 8].fill(0xff)).unwrap();
    let last = Seq(120);
    let journal =
        Journal::open(Arc::new(disk.clone()), dir(), CONFIG, last, last, &mut |_, _| Ok(())).unwrap().0;
    let mut cursor = Cursor::at(Seq(1));
    let error = read_on(&journal, &mut cursor, last, usize::MAX).unwrap_err();
    assert_eq!((error.kind(), cursor.next()), (ErrorKind::Corruption, held.first), "{error}");
    let mut behind = journal.behind(&cursor, Seq::MAX).unwrap().unwrap();
    assert_eq!(behind.next(), held.first.next());
    read_on(&journal, &mut behind, last, usize::MAX).unwrap();
    // Of one in which nothing can be read the next takes the place.
    drop(journal);
    let disk = disk.kill();
    disk.damage(&path, |bytes| bytes[begin..].fill(0)).unwrap();
    let journal =
        Journal::open(Arc::new(disk.clone()), dir(), CONFIG, last, last, &mut |_, _| Ok(())).unwrap().0;
    assert_eq!(journal.behind(&cursor, Seq::MAX).unwrap().unwrap().next(), below);
}
