//! Segments: made, given out, used to their ends, larger than others.

use super::*;

#[test]
fn frames_larger_than_a_segment_get_one_of_their_own_which_is_not_recycled() {
    let disk = new_disk();
    let journal = create(&disk).unwrap();
    let sizes = [10, 100_000, 10, 16 << 10, 12 << 10, 300_000, 0];
    for provision in [false, true] {
        for size in sizes {
            if provision {
                journal.provision().unwrap();
            }
            journal.append(&Payload::new(&vec![7; size]), Handoff::Os).unwrap();
        }
    }
    let mut seen = Vec::new();
    let disk = disk.kill();
    let visit = &mut |_, bytes: &[u8]| {
        seen.push(bytes.len());
        Ok(())
    };
    let (journal, _) = Journal::open(Arc::new(disk), dir(), CONFIG, Seq(0), Seq(0), visit).unwrap();
    assert_eq!(seen, [sizes, sizes].concat());
    journal.trim(Seq::MAX).unwrap();
    let stats = journal.stats();
    assert!(stats.bytes <= (stats.segments + stats.spares) * CONFIG.segment_bytes, "{stats:?}");
}

#[test]
fn the_longest_frame_comes_back_and_a_longer_one_is_refused() {
    let disk = new_disk();
    let journal = create(&disk).unwrap();
    let longest = vec![7; crate::frame::MAX_PAYLOAD_BYTES];
    let longer = [&longest[..], &[7]].concat();
    let error = journal.append(&Payload::new(&longer), Handoff::Os).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    journal.append(&Payload::new(&longest), Handoff::Os).unwrap();
    let mut seen = Vec::new();
    let visit = &mut |_, bytes: &[u8]| {
        seen.extend_from_slice(bytes);
        Ok(())
    };
    Journal::open(Arc::new(disk.kill()), dir(), CONFIG, Seq(0), Seq(0), visit).unwrap();
    assert!(seen == longest, "{} bytes of {}", seen.len(), longest.len());
}

#[test]
fn an_error_of_the_visitor_is_returned_and_changes_nothing() {
    let disk = new_disk();
    let journal = create(&disk).unwrap();
    append(&journal, Handoff::Os).unwrap();
    drop(journal);
    let names = disk.list(dir()).unwrap();
    let visit = &mut |_, _: &[u8]| Err(Error::invalid("no"));
    let error = Journal::open(Arc::new(disk.clone()), dir(), CONFIG, Seq(0), Seq(0), visit).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(disk.list(dir()).unwrap(), names);
    assert_eq!(reopen(&disk).unwrap().1.last, Seq(1));
}

#[test]
fn a_segment_that_lost_its_name_to_a_larger_one_is_not_written_to() {
    for operation in
        [Operation::Create, Operation::Write, Operation::Sync, Operation::Rename, Operation::SyncDir]
    {
        let disk = new_disk();
        let journal = create(&disk).unwrap();
        append(&journal, Handoff::Os).unwrap();
        journal.provision().unwrap();
        disk.inject(Fault::on(operation).times(1));
        let error = journal.append(&Payload::new(&[0; 50_000]), Handoff::Os).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{operation:?}: {error}");
        let mut last = Seq(1);
        while journal.stats().segments < 4 {
            last = append(&journal, Handoff::Os).unwrap();
        }
        assert_eq!(reopen(&disk.kill()).unwrap().1.last, last, "{operation:?}");
    }
}

#[test]
fn a_journal_is_made_beside_files_that_are_none_of_its_own() {
    let disk = new_disk();
    disk.create_dir_all(dir()).unwrap();
    let (ours, theirs) = (dir().join("0000000000000007.spare"), dir().join("lost+found"));
    disk.replace(&ours, b"left by a creation that was interrupted").unwrap();
    disk.replace(&theirs, b"not ours").unwrap();
    let journal = create(&disk).unwrap();
    append(&journal, Handoff::Os).unwrap();
    assert_eq!(disk.read(&theirs).unwrap().as_deref(), Some(&b"not ours"[..]));
    assert!(!disk.exists(&ours).unwrap());
    assert_eq!(journal.stats().spares, 0);
}

/// Just as much is free as the first segment takes.
#[test]
fn a_segment_may_take_the_last_of_the_room() {
    for (room, fits) in [(CONFIG.segment_bytes, true), (CONFIG.segment_bytes - 1, false)] {
        let disk = new_disk();
        disk.set_capacity(Some(room));
        let made = create(&disk);
        assert_eq!(made.map(|_| ()).map_err(|e| e.kind()), if fits { Ok(()) } else { Err(ErrorKind::Full) });
    }
}

/// A segment is made of several writes, the last of them past the cache: none of them may fail unnoticed.
#[test]
fn a_segment_of_which_any_write_fails_is_not_used() {
    for after in 0.. {
        let disk = new_disk();
        let journal = create(&disk).unwrap();
        let made = |path: &Path| path.extension().is_some_and(|extension| extension == "tmp");
        disk.inject(Fault::on(Operation::Write).at(made).after(after).times(1));
        let first = journal.provision();
        let left = disk.list(dir()).unwrap().into_iter().filter(|name| name.ends_with(".tmp")).count();
        assert_eq!(left, 0);
        if first.is_ok() {
            // 16 KiB are filled up at once, then comes the head, then what tries writes past the cache.
            assert_eq!(after, 3);
            break;
        }
        assert_eq!(first.unwrap_err().kind(), ErrorKind::Io);
        assert!(journal.provision().unwrap());
        (0..40).for_each(|_| assert!(append(&journal, Handoff::Os).is_ok()));
        assert_eq!(reopen(&disk.kill()).unwrap().1.last, Seq(40));
    }
}

/// What is there already does not cost a reader who asks for what came later.
#[test]
fn an_opening_reads_the_segments_that_it_needs_and_no_others() {
    let disk = new_disk();
    let journal = create(&disk).unwrap();
    for _ in 0..100 {
        append(&journal, Handoff::Os).unwrap();
    }
    let all = journal.stats().segments;
    journal.close().unwrap();
    let (_, report) = reopen_from(&disk.fork(), Seq(99), Seq::ZERO).unwrap();
    assert!(all > 6 && report.segments <= 2, "{} of {all} segments", report.segments);
    assert_eq!(reopen(&disk).unwrap().1.segments, all);
}

#[test]
fn a_segment_is_made_when_one_is_wanted() {
    let disk = new_disk();
    let journal = create(&disk).unwrap();
    assert!(journal.provision().unwrap());
    assert!(!journal.wants_provision() && !journal.provision().unwrap());
    while journal.stats().segments < 2 {
        append(&journal, Handoff::Os).unwrap();
    }
    assert!(journal.wants_provision());
    assert!(journal.provision().unwrap());
    assert!(!journal.wants_provision());
}

#[test]
fn a_segment_has_a_whole_number_of_blocks() {
    let disk = new_disk();
    let config = JournalConfig { segment_bytes: (20 << 10) + 1, ..CONFIG };
    let journal = Journal::create(Arc::new(disk.clone()), dir(), config, Seq(1)).unwrap();
    append(&journal, Handoff::Os).unwrap();
    let path = dir().join(segment::name(1));
    assert_eq!(disk.read(&path).unwrap().unwrap().len(), 24 << 10);
    drop(journal);
    let visit = &mut |_, _: &[u8]| Ok(());
    Journal::open(Arc::new(disk.clone()), dir(), config, Seq(1), Seq(1), visit).unwrap();
    assert_eq!(disk.read(&dir().join(segment::name(2))).unwrap().unwrap().len(), 24 << 10);
    for bytes in [(16 << 10) - 1, (1 << 40) + 1] {
        let config = JournalConfig { segment_bytes: bytes, ..CONFIG };
        let made = Journal::create(Arc::new(new_disk()), dir(), config, Seq(1));
        assert_eq!(made.map(|_| ()).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}

/// A disk that does not answer has not said that there is no journal.
#[test]
fn a_directory_that_cannot_be_listed_is_not_taken_for_one_without_a_journal() {
    let disk = new_disk();
    assert!(!Journal::is_in(&disk, dir()).unwrap());
    create(&disk).unwrap().close().unwrap();
    assert!(Journal::is_in(&disk, dir()).unwrap());
    disk.inject(Fault::on(Operation::Look));
    assert_eq!(Journal::is_in(&disk, dir()).unwrap_err().kind(), ErrorKind::Io);
}

/// The old segments go one by one, the last of them without a frame yet: whatever is left of them, the new one is found.
#[test]
fn a_journal_that_is_begun_anew_in_part_opens_at_the_old_end_or_at_the_new_beginning() {
    let before = new_disk();
    let journal = create(&before).unwrap();
    (0..20).for_each(|_| _ = append(&journal, Handoff::Os).unwrap());
    journal.sync_to(Seq(20)).unwrap();
    journal.provision().unwrap();
    let next = Seq(1 << 32);
    let opens = |disk: &SimDisk, at: Seq| {
        let disk = Arc::new(disk.fork().kill());
        Journal::open(disk, dir(), CONFIG, at, at, &mut |_, _| Ok(())).is_ok_and(|(j, _)| j.last() == at)
    };
    for stop in 0.. {
        let disk = before.fork().kill();
        disk.stop_after(stop);
        let begun = Journal::begin_anew(Arc::new(disk.clone()), dir(), CONFIG, next);
        let (old, new) = (opens(&disk, Seq(20)), opens(&disk, Seq(next.0 - 1)));
        assert!(old || new, "stopped after {stop}");
        if begun.is_ok() {
            assert!(new && stop > 6);
            break;
        }
    }
}

/// What cannot be seen is not lost.
#[test]
fn what_is_left_in_a_directory_that_cannot_be_listed_is_not_known() {
    let disk = new_disk();
    drop(create(&disk).unwrap());
    let left = |dir: &Path| Journal::left(&disk, dir, CONFIG.store_id, None);
    assert_eq!(left(dir()).unwrap(), Left::Segments);
    assert_eq!(left(Path::new("/nowhere")).unwrap(), Left::Nothing);
    disk.inject(Fault::on(Operation::Look).at(|path| path == dir()));
    assert_eq!(left(dir()).unwrap_err().kind(), ErrorKind::Io);
}
