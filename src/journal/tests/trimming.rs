//! Trimming: what is freed, what stays, and what is told of it.

use super::mirror::hooked::Hooked;
use super::*;
use std::sync::atomic::{AtomicU64, Ordering};

fn append_all(journal: &Journal, count: u64) {
    for _ in 0..count {
        append(journal, Handoff::Os).unwrap();
    }
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

/// Whoever asks how the journal is does not wait for its disk: at any moment at which it waits for the disk itself it says what
/// it was, and afterwards what it is.
#[test]
fn figures_are_told_while_the_disk_is_waited_for() {
    let disk = new_disk();
    let journal = Arc::new(create(&disk).unwrap());
    let asked = Arc::new(AtomicU64::new(0));
    let (asks, of) = (asked.clone(), Arc::downgrade(&journal));
    disk.watch(move |_| {
        let Some(journal) = of.upgrade() else { return };
        let (told, answer) = std::sync::mpsc::channel();
        std::thread::spawn(move || told.send(journal.stats()));
        answer.recv_timeout(std::time::Duration::from_secs(20)).expect("it waits for the disk");
        asks.fetch_add(1, Ordering::Relaxed);
    });
    let on_disk = || {
        let names = disk.list(dir()).unwrap();
        let count = |end: &str| names.iter().filter(|name| name.ends_with(end)).count() as u64;
        let len = |name: &String| disk.read(&dir().join(name)).unwrap().unwrap().len() as u64;
        (count(".seg"), count(".spare"), names.iter().map(len).sum::<u64>())
    };
    for round in 1..4 {
        for _ in 0..30 {
            append(&journal, Handoff::Os).unwrap();
        }
        let figures = journal.stats();
        assert_eq!((figures.segments, figures.spares, figures.bytes), on_disk(), "round {round}");
        assert!(journal.trim(journal.last()).unwrap() > 1);
        let figures = journal.stats();
        assert_eq!((figures.segments, figures.spares, figures.bytes), on_disk(), "round {round}, trimmed");
        assert_eq!(figures.first, journal.first());
        assert!(journal.provision().unwrap());
        let figures = journal.stats();
        // The next one has its name already, and is no segment in use.
        assert_eq!(
            (figures.segments + 1, figures.spares, figures.bytes),
            on_disk(),
            "round {round}, provided"
        );
    }
    assert!(asked.load(Ordering::Relaxed) > 50);
}

/// What is kept for somebody is what a trim without regard to him would free, and a trim with regard to him would not; no more of it
/// than was asked for, and no less.
#[test]
fn it_reaches_back_as_far_as_so_many_bytes_allow() {
    let disk = new_disk();
    let journal = create(&disk).unwrap();
    for _ in 0..100 {
        append(&journal, Handoff::Os).unwrap();
    }
    let segments: Vec<(u64, u64)> = journal.retained.lock().iter().map(|s| (s.first.0, s.len)).collect();
    assert!(segments.iter().any(|(_, len)| *len != CONFIG.segment_bytes));
    let kept = |from: u64, below: u64| -> u64 {
        let pairs = segments.iter().zip(&segments[1..]);
        pairs.filter(|(_, (next, _))| *next <= below && *next > from).map(|((_, len), _)| len).sum()
    };
    for below in 0..103 {
        for most in (0..12).map(|n| n * (CONFIG.segment_bytes / 2)).chain([u64::MAX]) {
            let from = journal.reach(Seq(below), most).0;
            assert!(kept(from, below) <= most, "{from} for {most} bytes up to {below}");
            assert!(from == 0 || kept(from - 1, below) > most, "{from} for {most} bytes up to {below}");
        }
    }
}

/// Who rests until nobody touches a closed journal's files waits for whoever mends one, and nobody begins to when it is closed.
#[test]
fn a_journal_that_is_closed_is_not_mended_and_is_at_rest_when_nobody_mends_it() {
    let journal = create(&new_disk()).unwrap();
    let rest = || journal.rest(std::time::Duration::ZERO);
    let error = journal
        .in_turn(|| {
            journal.close().unwrap();
            rest().unwrap_err()
        })
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    rest().unwrap();
    let refused = journal.in_turn::<()>(|| panic!("it is closed")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Closed, "{refused}");
}

/// Where the names of what was freed could not be synced, the next trim sees to it, though it frees nothing itself: who is told that all went
/// well relies on where the journal begins.
#[test]
fn names_that_a_trim_could_not_sync_are_synced_by_the_next_one() {
    for seed in 0..20 {
        let disk = new_disk();
        let journal = create(&disk).unwrap();
        append_all(&journal, 100);
        journal.sync_to(Seq(100)).unwrap();
        disk.inject(Fault::on(Operation::SyncDir).times(2));
        for _ in 0..2 {
            assert_eq!(journal.trim(Seq(80)).unwrap_err().kind(), ErrorKind::Io);
            assert_eq!(journal.stats().spares, 0, "a spare under a name that is not durable");
        }
        assert_eq!(journal.trim(Seq(80)).unwrap(), 0);
        assert_eq!(journal.stats().spares, CONFIG.max_spares as u64);
        let first = journal.first();
        assert!(first > Seq(1));
        let cut = disk.fork().crash(PowerCut { seed });
        assert_eq!(Journal::first_retained(&cut, dir(), CONFIG.store_id).unwrap(), first);
        let before = disk.operations();
        assert_eq!(journal.trim(Seq(80)).unwrap(), 0);
        assert_eq!(disk.operations(), before, "there is nothing left to do");
    }
}

/// A disk may take long to free a segment, the more so with several copies: writers do not wait for it, not even one whose segment is full.
#[test]
fn writers_go_on_while_a_segment_is_being_freed() {
    let disk = new_disk();
    let (hangs, hung) = std::sync::mpsc::channel();
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    let once = parking_lot::Mutex::new(Some((hangs, wait)));
    let hooked = Hooked::new(&disk, move |operation, path| {
        let here = operation == Operation::Rename && path.ends_with(segment::name(1));
        let once = if here { once.lock().take() } else { None };
        if let Some((hangs, wait)) = once {
            hangs.send(()).unwrap();
            let _ = wait.recv();
        }
        Ok(())
    });
    let journal = Arc::new(Journal::create(Arc::new(hooked), dir(), CONFIG, Seq(1)).unwrap());
    append_all(&journal, 100);
    let of = journal.clone();
    let trimming = std::thread::spawn(move || of.trim(Seq(80)));
    hung.recv().unwrap();
    let (done, written) = std::sync::mpsc::channel();
    let of = journal.clone();
    std::thread::spawn(move || {
        append_all(&of, 50);
        done.send(of.sync_to(Seq(150))).unwrap();
    });
    let outcome = written.recv_timeout(std::time::Duration::from_secs(20));
    go_on.send(()).unwrap();
    outcome.expect("a writer waits for what is being freed").unwrap();
    assert!(trimming.join().unwrap().unwrap() > 4);
    let from = Seq(journal.first().0 - 1);
    assert_eq!(reopen_from(&disk.kill(), from, Seq(150)).unwrap().1.last, Seq(150));
}

/// What could not be freed is still there for whoever reads, and is freed by the next trim.
#[test]
fn a_segment_that_could_not_be_freed_stays_in_the_journal() {
    let disk = new_disk();
    let journal = create(&disk).unwrap();
    append_all(&journal, 100);
    let before = journal.stats();
    disk.inject(Fault::on(Operation::Rename).after(1).times(1));
    assert_eq!(journal.trim(Seq(80)).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(journal.stats().segments, before.segments - 1);
    let first = journal.first();
    let mut seen = Vec::new();
    let mut visit = |seq: Seq, _: &[u8]| {
        seen.push(seq.0);
        Ok(())
    };
    journal.replay(&mut Cursor::at(first), Seq(100), usize::MAX, &mut visit).unwrap();
    assert_eq!(seen, (first.0..=100).collect::<Vec<_>>());
    assert!(journal.trim(Seq(80)).unwrap() > 3);
    assert_eq!(reopen_from(&disk.kill(), Seq(journal.first().0 - 1), Seq(100)).unwrap().1.last, Seq(100));
}
