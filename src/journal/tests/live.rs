//! A journal at work: group commit, rotation, trimming, large frames.

use super::*;
use std::sync::atomic::{AtomicU64, Ordering};

#[test]
fn threads_that_sync_share_their_syncs_and_none_is_left_waiting() {
    let disk = new_disk();
    let journal = create(&disk).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..200 {
                    let seq = append(&journal, Handoff::Buffered).unwrap();
                    journal.sync_to(seq).unwrap();
                    assert!(journal.durable() >= seq);
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..200 {
                journal.provision().unwrap();
                journal.write_buffered().unwrap();
                journal.trim(Seq(journal.durable().0.saturating_sub(100))).unwrap();
                std::thread::yield_now();
            }
        });
    });
    let from = journal.first().0 - 1;
    let disk = disk.crash(PowerCut { seed: 3 });
    assert_eq!(reopen_from(&disk, Seq(from), Seq(1600)).unwrap().1.last, Seq(1600));
}

/// Eight threads that append and sync until an error, which is returned with the last sequence that was acknowledged.
/// Fails if one of them hangs.
fn sync_until_it_fails(journal: &Arc<Journal>) -> (Vec<Error>, Seq) {
    let (done, ended) = std::sync::mpsc::channel();
    for _ in 0..8 {
        let (journal, done) = (journal.clone(), done.clone());
        std::thread::spawn(move || {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let mut acknowledged = Seq::ZERO;
                loop {
                    let synced = append(&journal, Handoff::Buffered)
                        .and_then(|seq| journal.sync_to(seq).map(|()| acknowledged = seq));
                    if let Err(e) = synced {
                        return (e, acknowledged);
                    }
                }
            }));
            let panicked = |_| (Error::new(ErrorKind::Io, "panicked"), Seq::ZERO);
            let _ = done.send(outcome.unwrap_or_else(panicked));
        });
    }
    let limit = std::time::Duration::from_secs(20);
    let hangs = || {
        // Ends those that do not.
        journal.poison(Error::invalid("the test is over"));
        panic!("a thread hangs: {:?}", journal.group)
    };
    let all: Vec<_> = (0..8).map(|_| ended.recv_timeout(limit).unwrap_or_else(|_| hangs())).collect();
    let acknowledged = all.iter().map(|(_, seq)| *seq).max().unwrap();
    (all.into_iter().map(|(e, _)| e).collect(), acknowledged)
}

#[test]
fn a_failed_sync_or_write_fails_every_member_of_its_group_and_nobody_hangs() {
    let mut through = [0, 0];
    for round in 0..60 {
        let disk = new_disk();
        let journal = create_long(&disk).unwrap();
        let operation = if round % 2 == 0 { Operation::Sync } else { Operation::Write };
        disk.inject(Fault::on(operation).after(round));
        let (errors, acknowledged) = sync_until_it_fails(&journal);
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}");
        }
        through[usize::from(journal.stats().through > 0)] += 1;
        assert!(acknowledged <= journal.durable());
        let (_, report) = reopen(&disk.crash(PowerCut { seed: round })).unwrap();
        assert!(report.last >= acknowledged, "{acknowledged} was acknowledged, {} came back", report.last);
    }
    assert!(through[0] > 0 && through[1] > 20, "{through:?}: both ways must be tried");
}

#[test]
fn a_leader_that_panics_strands_nobody() {
    for round in [0, 1, 7, 20] {
        let disk = new_disk();
        let journal = create_long(&disk).unwrap();
        let passes = std::sync::atomic::AtomicU64::new(round);
        disk.inject(Fault::on(Operation::Sync).at(move |_| {
            let left = passes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            assert!(left.is_ok(), "a bug in the disk");
            false
        }));
        let (errors, acknowledged) = sync_until_it_fails(&journal);
        let panicked =
            errors.iter().filter(|e| e.to_string().contains("panicked") && e.kind() == ErrorKind::Io);
        assert_eq!(panicked.count(), 1, "{errors:?}");
        assert_eq!(errors.iter().filter(|e| e.kind() == ErrorKind::Poisoned).count(), 7, "{errors:?}");
        let (_, report) = reopen(&disk.crash(PowerCut { seed: round })).unwrap();
        assert!(report.last >= acknowledged);
    }
}

#[test]
fn threads_that_hand_over_and_sync_at_once_keep_every_promise() {
    for seed in 0..8 {
        let disk = new_disk();
        let journal = create_long(&disk).unwrap();
        let synced = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..6u64 {
                let (journal, synced) = (&journal, &synced);
                scope.spawn(move || {
                    for n in 0..120 {
                        // Phases of nothing but syncs, so that both ways of writing take turns.
                        if thread < 3 || n / 30 % 2 == 0 {
                            let seq = append(journal, Handoff::Buffered).unwrap();
                            journal.sync_to(seq).unwrap();
                            synced.fetch_max(seq.0, Ordering::Relaxed);
                        } else {
                            append(journal, Handoff::Os).unwrap();
                        }
                        if n % 50 == thread {
                            journal.write_buffered().unwrap();
                        }
                    }
                });
            }
        });
        let killed = disk.fork().kill();
        assert_eq!(reopen(&killed).unwrap().1.last, Seq(720), "all was handed over");
        let cut = disk.crash(PowerCut { seed });
        assert!(reopen_from(&cut, Seq::ZERO, Seq(synced.into_inner())).is_ok());
    }
}

#[test]
fn a_file_system_without_writes_past_the_cache_gets_writes_and_syncs() {
    let disk = new_disk();
    // 64 writes of zeros, one of the header; the next to the file that is being made is the first past the cache.
    disk.inject(Fault::on(Operation::Write).after(65).times(1).error(std::io::ErrorKind::InvalidInput));
    let journal = create_long(&disk).unwrap();
    for seq in 1..8 {
        append(&journal, Handoff::Buffered).unwrap();
        journal.sync_to(Seq(seq)).unwrap();
    }
    assert_eq!((journal.stats().syncs, journal.stats().through), (7, 0));
    assert_eq!(reopen(&disk.crash(PowerCut { seed: 1 })).unwrap().1.last, Seq(7));
}

#[test]
fn frames_go_past_the_cache_only_where_all_before_them_are_durable() {
    let disk = new_disk();
    let journal = create_long(&disk).unwrap();
    let sync = |handoff| {
        let seq = append(&journal, handoff).unwrap();
        journal.sync_to(seq).unwrap();
        journal.stats().through
    };
    let ways: Vec<u64> = (0..4).map(|_| sync(Handoff::Buffered)).collect();
    assert_eq!(ways, [0, 0, 1, 2], "only when nobody hands over");
    // The tick hands a frame over: the sync of the next one must cover it.
    append(&journal, Handoff::Buffered).unwrap();
    journal.write_buffered().unwrap();
    assert_eq!(sync(Handoff::Buffered), 2);
    assert_eq!(sync(Handoff::Buffered), 3);
    assert_eq!(sync(Handoff::Os), 3);
    for seed in 0..20 {
        assert_eq!(reopen(&disk.fork().crash(PowerCut { seed })).unwrap().1.last, Seq(8));
    }
}

#[test]
fn a_sync_returns_at_once_when_there_is_nothing_to_do() {
    let disk = new_disk();
    let journal = create(&disk).unwrap();
    journal.sync_to(Seq::MAX).unwrap();
    assert_eq!(journal.stats().syncs, 0);
    append(&journal, Handoff::Os).unwrap();
    journal.sync_to(Seq(1)).unwrap();
    journal.sync_to(Seq(1)).unwrap();
    assert_eq!(journal.stats().syncs, 1);
}

#[test]
fn trimming_frees_whole_segments_below_and_recycles_some() {
    let disk = new_disk();
    let journal = create(&disk).unwrap();
    for _ in 0..100 {
        append(&journal, Handoff::Os).unwrap();
    }
    let before = journal.stats();
    assert!(before.segments > 6 && before.spares == 0 && before.first == Seq(1));
    assert_eq!(journal.trim(Seq(1)).unwrap(), 0);
    let freed = journal.trim(Seq(80)).unwrap();
    let after = journal.stats();
    assert_eq!(after.segments, before.segments - freed as u64);
    assert!(freed > 4 && after.first > Seq(1) && after.first <= Seq(80));
    assert_eq!(after.spares, CONFIG.max_spares as u64);
    let lens = |end: &str| -> Vec<u64> {
        let mut names = disk.list(dir()).unwrap();
        names.retain(|name| name.ends_with(end));
        names.iter().map(|name| disk.read(&dir().join(name)).unwrap().unwrap().len() as u64).collect()
    };
    // One that was made for a large frame is none.
    assert_eq!(lens(".spare"), vec![CONFIG.segment_bytes; CONFIG.max_spares]);
    journal.provision().unwrap();
    let held = journal.stats();
    assert_eq!(held.bytes, lens(".spare").into_iter().chain(lens(".seg")).sum::<u64>(), "{held:?}");
    journal.trim(Seq::MAX).unwrap();
    assert_eq!(journal.stats().segments, 1, "the current segment stays");
    let first = journal.first();
    for _ in 0..100 {
        append(&journal, Handoff::Os).unwrap();
    }
    assert_eq!(journal.stats().spares, 0, "spares were used again");
    assert_eq!(reopen_from(&disk.kill(), Seq(first.0 - 1), Seq::ZERO).unwrap().1.last, Seq(200));
    let error = reopen_from(&disk.kill(), Seq(first.0 - 2), Seq::ZERO).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption, "what was trimmed is asked for");
}

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
    let error = journal.append(&Payload::new(&vec![0; frame_limit() + 1]), Handoff::Os).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

fn frame_limit() -> usize {
    crate::frame::MAX_PAYLOAD_BYTES
}

#[test]
fn buffered_frames_wait_for_the_buffer_to_fill_or_to_be_written() {
    let disk = new_disk();
    let journal = Journal::create(
        Arc::new(disk.clone()),
        dir(),
        JournalConfig { segment_bytes: 1 << 20, ..CONFIG },
        Seq(1),
    )
    .unwrap();
    let before = disk.operations();
    append(&journal, Handoff::Buffered).unwrap();
    assert_eq!(disk.operations(), before);
    journal.write_buffered().unwrap();
    assert_eq!(disk.operations(), before + 1);
    journal.write_buffered().unwrap();
    assert_eq!(disk.operations(), before + 1, "nothing to say");
    journal.sync_to(Seq(1)).unwrap();
    journal.write_buffered().unwrap();
    assert_eq!(disk.operations(), before + 3, "the markers now say what is durable");
    let written = journal.stats().bytes_written;
    while journal.stats().bytes_written == written {
        append(&journal, Handoff::Buffered).unwrap();
    }
    assert!(journal.stats().bytes_written - written >= log::BUFFER_BYTES as u64);
}

#[test]
fn a_short_write_poisons_and_the_log_is_a_prefix() {
    for seed in 0..30 {
        let disk = SimDisk::new(seed);
        let journal = create(&disk).unwrap();
        disk.inject(Fault::on(Operation::Write).after(5).times(1).short());
        let mut acknowledged = 0;
        while let Ok(seq) = append(&journal, Handoff::Os) {
            acknowledged = seq.0;
        }
        assert_eq!(append(&journal, Handoff::Os).unwrap_err().kind(), ErrorKind::Poisoned);
        let (_, report) = reopen(&disk.kill()).unwrap();
        assert!(report.last.0 >= acknowledged && report.last.0 <= acknowledged + 1);
    }
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
fn waiters_that_the_running_sync_covers_unannounced_are_all_woken() {
    let disk = new_disk();
    let journal = Arc::new(create(&disk).unwrap());
    for _ in 0..4 {
        append(&journal, Handoff::Buffered).unwrap();
    }
    // The leader is held in its write, before it can say how far its sync will reach.
    let (release, gate) = std::sync::mpsc::channel::<()>();
    let gate = parking_lot::Mutex::new(gate);
    disk.inject(Fault::on(Operation::Write).at(move |_| {
        let _ = gate.lock().recv();
        false
    }));
    let (done, woken) = std::sync::mpsc::channel();
    for seq in 1..=4 {
        let (journal, done) = (journal.clone(), done.clone());
        std::thread::spawn(move || done.send(journal.sync_to(Seq(seq)).is_ok()));
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    drop(release);
    for _ in 0..4 {
        assert_eq!(woken.recv_timeout(std::time::Duration::from_secs(20)), Ok(true), "a waiter sleeps on");
    }
}

#[test]
fn trimming_beyond_what_is_durable_keeps_the_place_where_the_log_goes_on() {
    for seed in 0..60 {
        let disk = new_disk();
        let journal = create(&disk).unwrap();
        let mut last = Seq::ZERO;
        while journal.stats().segments < 3 {
            last = append(&journal, Handoff::Buffered).unwrap();
        }
        journal.trim(Seq::MAX).unwrap();
        let from = Seq(journal.first().0 - 1);
        let (_, report) = reopen_from(&disk.crash(PowerCut { seed }), from, Seq::ZERO).unwrap();
        assert_eq!(report.last, last);
    }
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
