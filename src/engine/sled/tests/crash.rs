//! What stops in the middle of a write leaves.

use super::*;

/// Stops after every possible number of writes; what is there then is the old or the new state of each key, and
/// applying the run again gives the new state whole.
fn stop_everywhere(
    page_bytes: usize,
    before: &Run,
    change: impl Fn(&SledEngine) -> crate::Result<()>,
    model: (&Model, &Model),
) -> u64 {
    for stop_after in 0.. {
        let dir = scratch();
        let (spec, engine) = created(dir.path(), page_bytes);
        apply(&engine, before, &[]).unwrap();
        engine.sync(Seq(1)).unwrap();
        core(&engine).stops.left.store(stop_after, Ordering::Relaxed);
        let stopped = change(&engine).and_then(|()| engine.sync(Seq(2)));
        if stopped.is_ok() {
            assert_eq!(scan(&engine, &ALL, Seq::MAX, false).unwrap(), model.1.scan(&ALL, Seq::MAX));
            return stop_after as u64;
        }
        assert_eq!(engine.get(b"k", Seq::MAX).unwrap_err().kind(), ErrorKind::Io, "a failed write is final");
        assert_eq!(engine.sync(Seq(9)).unwrap_err().kind(), ErrorKind::Io);
        engine.close().unwrap();

        let engine = open(&spec);
        let keys = || model.0.records.keys().chain(model.1.records.keys());
        for key in keys() {
            let found = engine.get(key, Seq::MAX).unwrap().map(|found| (found.seq, found.value.to_vec()));
            let states = [model.0, model.1]
                .map(|model| model.get(key, Seq::MAX).map(|(seq, value)| (seq, value.to_vec())));
            assert!(states.contains(&found), "stopped after {stop_after}: {key:02x?} is {found:?}");
        }
        let forward = scan(&engine, &ALL, Seq::MAX, false).unwrap();
        assert!(forward == scan(&engine, &ALL, Seq::MAX, true).unwrap(), "stopped after {stop_after}");
        for (key, seq, _) in &forward {
            assert_eq!(engine.get(key, Seq::MAX).unwrap().unwrap().seq, *seq);
        }
        // Counting repairs overlaps; so does writing. Both orders must do.
        if stop_after % 2 == 0 {
            assert_eq!(recount(&engine).unwrap(), tally(&core(&engine)).0);
            assert!(scan(&engine, &ALL, Seq::MAX, false).unwrap() == forward);
        }
        change(&engine).unwrap();
        assert_eq!(
            scan(&engine, &ALL, Seq::MAX, false).unwrap(),
            model.1.scan(&ALL, Seq::MAX),
            "stopped after {stop_after}"
        );
        assert_eq!(recount(&engine).unwrap(), tally(&core(&engine)).0);
        engine.close().unwrap();
    }
    0
}

#[test]
fn a_crash_between_any_two_writes_loses_nothing() {
    let before = numbers(0..60, 1, 20);
    let mut after: Run = (0..60).step_by(3).map(|n| (key(n), Seq(2), Some(vec![9; 60]))).collect();
    after.extend((20..36).filter(|n| n % 3 != 0).map(|n| (key(n), Seq(2), None)));
    after.push((key(1), Seq(2), Some(vec![3; 20_000])));
    let (mut old, mut new) = (Model::default(), Model::default());
    old.apply(&before);
    new.apply(&before);
    new.apply(&after);
    let writes = stop_everywhere(256, &before, |engine| apply(engine, &after, &[]), (&old, &new));
    assert!(writes > 5, "{writes} writes");
}

/// One node of the index becomes several, cut off anywhere in the commit that follows: of two halves the right one is there
/// first.
#[test]
fn a_crash_while_a_node_is_split_leaves_no_hole() {
    let before: Run = (0..600).map(|n| (key(2 * n), Seq(1), Some(vec![1; 20]))).collect();
    let after: Run = (0..600).map(|n| (key(2 * n + 1), Seq(2), Some(vec![2; 20]))).collect();
    let (mut old, mut new) = (Model::default(), Model::default());
    old.apply(&before);
    new.apply(&before);
    new.apply(&after);
    let dir = scratch();
    let (_, engine) = created(dir.path(), 256);
    apply(&engine, &before, &[]).unwrap();
    engine.sync(Seq(1)).unwrap();
    let few = nodes(&core(&engine));
    apply(&engine, &after, &[]).unwrap();
    engine.sync(Seq(2)).unwrap();
    assert!(nodes(&core(&engine)) > few, "{few} nodes became {}", nodes(&core(&engine)));
    assert!(stop_everywhere(256, &before, |engine| apply(engine, &after, &[]), (&old, &new)) > 4);
}

#[test]
fn a_crash_while_a_large_value_is_replaced_leaks_nothing() {
    let mut before = numbers(0..30, 1, 20);
    before.push((b"big".to_vec(), Seq(1), Some(vec![1; 30_000])));
    let after: Run = vec![(b"big".to_vec(), Seq(2), Some(vec![2; 25_000])), (key(3), Seq(2), None)];
    let (mut old, mut new) = (Model::default(), Model::default());
    old.apply(&before);
    new.apply(&before);
    new.apply(&after);
    assert!(stop_everywhere(256, &before, |engine| apply(engine, &after, &[]), (&old, &new)) > 4);
}

#[test]
fn a_crash_while_a_range_is_removed_leaves_whole_records() {
    let mut before = numbers(0..120, 1, 20);
    before.push((b"key-00000050-large".to_vec(), Seq(1), Some(vec![1; 20_000])));
    let range = KeyRange { lo: key(10), hi: Some(key(100)) };
    let (mut old, mut new) = (Model::default(), Model::default());
    old.apply(&before);
    new.apply(&before);
    new.records.retain(|key, _| !range.contains(key));
    assert!(
        stop_everywhere(
            256,
            &before,
            |engine| engine.remove_range(&range, u64::MAX).map(|end| assert_eq!(end, None)),
            (&old, &new)
        ) > 4
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Stops at a random write of random runs, again and again, in one shard.
    #[test]
    fn crashes_anywhere_keep_every_record(
        page in prop_oneof![Just(256usize), Just(1000)],
        rounds in proptest::collection::vec((proptest::collection::btree_map(0u64..150, (0usize..150, 0u8..5), 1..80), 0i64..30), 1..12),
    ) {
        let dir = scratch();
        let (spec, mut engine) = created(dir.path(), page);
        let mut model = Model::default();
        for (seq, (changes, stop_after)) in rounds.into_iter().enumerate() {
            let seq = Seq(seq as u64 + 1);
            let run: Run = changes.iter().map(|(n, (len, kind))| {
                let value = match kind { 0 | 1 => None, 2 => Some(vec![*n as u8; len * 90]), _ => Some(vec![*n as u8; *len]) };
                (key(*n), seq, value)
            }).collect();
            core(&engine).stops.left.store(stop_after, Ordering::Relaxed);
            let whole = apply(&engine, &run, &[]).and_then(|()| engine.sync(seq)).is_ok();
            core(&engine).stops.left.store(i64::MAX, Ordering::Relaxed);
            if !whole {
                engine.close().unwrap();
                engine = open(&spec);
                // The journal's turn.
                apply(&engine, &run, &[]).unwrap();
                engine.sync(seq).unwrap();
            }
            model.apply(&run);
            check(&engine, &model, &[], &ALL);
        }
        prop_assert_eq!(recount(&engine).unwrap(), counted(&core(&engine)));
    }
}

fn few_left(range: std::ops::Range<u64>, every: u64) -> Run {
    range.filter(|n| n % every != 0).map(|n| (key(n), Seq(2), None)).collect()
}

/// Runs that make many nodes of the index into few, cut off anywhere in the commit that follows.
fn nodes_go(applies: &[Run]) {
    let before = numbers(0..3000, 1, 100);
    let dir = scratch();
    let (_, engine) = created(dir.path(), 256);
    apply(&engine, &before, &[]).unwrap();
    engine.sync(Seq(1)).unwrap();
    let many = nodes(&core(&engine));
    applies.iter().for_each(|run| apply(&engine, run, &[]).unwrap());
    engine.sync(Seq(2)).unwrap();
    assert!(nodes(&core(&engine)) + 2 < many, "{many} nodes became {}", nodes(&core(&engine)));
    let (mut old, mut new) = (Model::default(), Model::default());
    old.apply(&before);
    new.apply(&before);
    applies.iter().for_each(|run| new.apply(run));
    let change = |engine: &SledEngine| applies.iter().try_for_each(|run| apply(engine, run, &[]));
    stop_everywhere(256, &before, change, (&old, &new));
}

#[test]
fn a_crash_while_nodes_are_removed_leaves_no_hole() {
    nodes_go(&[few_left(200..2600, 40)]);
    // The right ones first, then their left neighbours, into one node in the end.
    nodes_go(&[few_left(1000..1300, 100), few_left(500..1000, 100)]);
    nodes_go(&[few_left(1100..1360, 100), few_left(600..1100, 100)]);
}

/// Whoever looks for the index in the page file goes by page ids: of the frames that hold a key, the one with the greatest
/// is never older than the one that the index has, also after a crash.
#[test]
fn page_ids_are_never_given_out_again() {
    let dir = scratch();
    let (spec, engine) = created(dir.path(), 1024);
    apply(&engine, &numbers(0..2000, 1, 50), &[]).unwrap();
    engine.sync(Seq(1)).unwrap();
    apply(&engine, &numbers(0..2000, 2, 50), &[]).unwrap();
    let given_out = core(&engine).writer.lock().next_page;
    core(&engine).stops.left.store(0, Ordering::Relaxed);
    engine.sync(Seq(2)).unwrap_err();
    engine.close().unwrap();
    for _ in 0..2 {
        let engine = open(&spec);
        let next = core(&engine).writer.lock().next_page;
        assert!(next > given_out, "{next} after {given_out}");
        engine.close().unwrap();
    }
}

/// sled took a snapshot that a kill had cut short for its newest one, and did not open again.
#[test]
fn a_snapshot_of_sleds_that_a_kill_cut_short_is_no_obstacle() {
    let dir = scratch();
    let (spec, engine) = created(dir.path(), 1024);
    let run = numbers(0..500, 1, 50);
    apply(&engine, &run, &[]).unwrap();
    engine.sync(Seq(1)).unwrap();
    engine.close().unwrap();
    open(&spec).close().unwrap();
    let index = index_dir(&spec);
    let whole = snapshots(&index);
    assert!(!whole.is_empty());
    let bytes = std::fs::read(&whole[0]).unwrap();
    for cut in [0, 1, bytes.len() / 2, bytes.len() - 5, bytes.len()] {
        std::fs::write(index.join("snap.00000000000FFFFF.generating"), &bytes[..cut]).unwrap();
        let engine = open(&spec);
        assert_eq!(scan(&engine, &ALL, Seq::MAX, false).unwrap().len(), run.len(), "cut at {cut}");
        engine.close().unwrap();
        assert!(snapshots(&index).iter().all(|path| path.extension().unwrap() != "generating"));
    }
}

fn index_dir(spec: &EngineSpec) -> std::path::PathBuf {
    spec.dir.join("index")
}

fn snapshots(index: &Path) -> Vec<std::path::PathBuf> {
    let paths = std::fs::read_dir(index).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("snap.")).collect()
}
