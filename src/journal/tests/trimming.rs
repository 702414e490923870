//! Trimming: what is freed, what stays, and what is told of it.

use super::*;

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
