//! Handing over and syncing: group commit, writes past the cache, what fails with a sync.

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
