use super::*;
use crate::engine::tests::{Model, Run, apply, check, check_versions, replace, scan, spec, verify};
use crate::engine::{Block, Recounted, Walk};
use crate::ids::Seq;
use crate::record::RunBuffer;

const ALL: KeyRange = KeyRange { lo: Vec::new(), hi: None };

fn created(factory: &MemoryFactory) -> (EngineSpec, Arc<dyn Engine>) {
    let mut spec = spec(Path::new("/nowhere"), 1024);
    spec.create = true;
    let engine = factory.open(&spec).unwrap();
    spec.create = false;
    (spec, engine)
}

fn run(seq: u64) -> Run {
    (0..200u8).map(|n| (vec![n], Seq(seq), Some(vec![seq as u8; 3]))).collect()
}

#[test]
fn a_crash_keeps_what_was_synced_and_any_part_of_the_rest() {
    let outcome = |seed| {
        let factory = MemoryFactory::new();
        let (spec, engine) = created(&factory);
        apply(&*engine, &run(1), &[]).unwrap();
        engine.sync(Seq(1)).unwrap();
        apply(&*engine, &run(2), &[]).unwrap();
        apply(&*engine, &run(3), &[]).unwrap();
        factory.crash(seed);
        assert_eq!(engine.get(b"k", Seq::MAX).unwrap_err().kind(), ErrorKind::Closed);
        let engine = factory.open(&spec).unwrap();
        assert_eq!((engine.applied(), engine.figures()), (Seq(1), None));
        let seqs: Vec<u64> =
            scan(&*engine, &ALL, Seq::MAX, false).unwrap().iter().map(|(_, seq, _)| seq.0).collect();
        assert_eq!(seqs.len(), 200);
        assert!(seqs.iter().all(|seq| [1, 3].contains(seq)), "{seqs:?}");
        assert!(seqs.contains(&1) && seqs.contains(&3), "a part, not all or nothing");
        // The journal's turn.
        apply(&*engine, &run(2), &[]).unwrap();
        apply(&*engine, &run(3), &[]).unwrap();
        let mut model = Model::default();
        model.apply(&run(3));
        check(&*engine, &model, &[], &ALL);
        seqs
    };
    assert_eq!(outcome(1), outcome(1));
    assert_ne!(outcome(1), outcome(2));
}

#[test]
fn faults_come_and_go_and_failed_writes_stay() {
    let factory = MemoryFactory::new();
    let (spec, engine) = created(&factory);
    apply(&*engine, &run(1), &[]).unwrap();
    factory.fail(spec.shard, Operation::Get);
    assert_eq!(engine.get(&[1], Seq::MAX).unwrap_err().kind(), ErrorKind::Io);
    factory.heal(spec.shard);
    assert!(engine.get(&[1], Seq::MAX).unwrap().is_some());
    factory.fail(spec.shard, Operation::Cursor);
    assert_eq!(scan(&*engine, &ALL, Seq::MAX, true).unwrap_err().kind(), ErrorKind::Io);
    factory.heal(spec.shard);

    for operation in [Operation::Apply, Operation::Sync] {
        let engine = {
            engine.close().unwrap();
            factory.open(&spec).unwrap()
        };
        factory.fail(spec.shard, operation);
        let failed = match operation {
            Operation::Apply => apply(&*engine, &run(2), &[]),
            _ => engine.sync(Seq(2)),
        };
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::Io);
        factory.heal(spec.shard);
        assert_eq!(engine.get(&[1], Seq::MAX).unwrap_err().kind(), ErrorKind::Io, "final until opened again");
        engine.close().unwrap();
        let again = factory.open(&spec).unwrap();
        assert_eq!(again.get(&[0], Seq::MAX).unwrap().unwrap().seq, Seq(2), "the first half was applied");
        assert_eq!(again.get(&[199], Seq::MAX).unwrap().unwrap().seq, Seq(1), "the second was not");
        again.close().unwrap();
    }
    factory.fail(spec.shard, Operation::Open);
    assert_eq!(factory.open(&spec).unwrap_err().kind(), ErrorKind::Io);
}

#[test]
fn a_corrupt_key_is_reported_by_whatever_meets_it() {
    let factory = MemoryFactory::new();
    let (spec, engine) = created(&factory);
    apply(&*engine, &run(1), &[]).unwrap();
    factory.corrupt(spec.shard, &[100]);
    let kind = |error: Error| assert_eq!(error.kind(), ErrorKind::Corruption);
    kind(engine.get(&[100], Seq::MAX).unwrap_err());
    kind(scan(&*engine, &ALL, Seq::MAX, false).unwrap_err());
    kind(engine.recount(1).unwrap_err());
    kind(engine.remove_range(&ALL, u64::MAX).unwrap_err());
    kind(apply(&*engine, &run(2), &[]).unwrap_err());
    assert!(engine.get(&[101], Seq::MAX).unwrap().is_some());
    let before = KeyRange { lo: Vec::new(), hi: Some(vec![100]) };
    assert_eq!(scan(&*engine, &before, Seq::MAX, true).unwrap().len(), 100);
}

#[test]
fn a_shard_is_locked_while_open_and_missing_when_erased() {
    let factory = MemoryFactory::new();
    let (spec, engine) = created(&factory);
    assert_eq!(factory.open(&spec).unwrap_err().kind(), ErrorKind::Locked);
    drop(engine);
    drop(factory.open(&spec).unwrap());
    factory.erase(Path::new("/nowhere"));
    assert_eq!(factory.open(&spec).unwrap_err().kind(), ErrorKind::Corruption);
}

fn page(lo: u8, hi: u8) -> KeyRange {
    KeyRange { lo: vec![lo], hi: Some(vec![hi]) }
}

fn seq_of(engine: &dyn Engine, key: u8) -> Option<u64> {
    engine.get(&[key], Seq::MAX).unwrap().map(|found| found.seq.0)
}

#[test]
fn a_corrupt_page_is_found_named_and_put_right_as_a_whole() {
    let factory = MemoryFactory::new();
    let (spec, engine) = created(&factory);
    apply(&*engine, &run(1), &[]).unwrap();
    engine.sync(Seq(1)).unwrap();
    let bad = factory.corrupt_page(spec.shard, &[100], 3);
    assert_eq!(bad, page(97, 104));
    for n in 0..200u8 {
        let hit = bad.contains(&[n]);
        assert_eq!(engine.get(&[n], Seq::MAX).is_err(), hit);
        assert_eq!(engine.damaged(&[n]).unwrap(), hit.then(|| bad.clone()));
    }
    assert!(engine.get(&[98, 7], Seq::MAX).is_err(), "a key that is not there has no other answer");
    for bytes in [0, 40, usize::MAX] {
        let found = verify(&*engine, bytes).unwrap();
        assert_eq!(found.iter().map(|damage| &damage.range).collect::<Vec<_>>(), [&bad]);
    }
    let mut out = RunBuffer::default();
    assert_eq!(engine.versions(&[], usize::MAX, &mut |_| true, &mut out).unwrap(), Some(vec![97]));
    assert_eq!(out.records().len(), 97);
    assert!(engine.versions(&[97], 1, &mut |_| true, &mut out).is_err());
    for (reverse, before) in [(false, 97), (true, 96)] {
        let walk = Arc::new(Walk { range: ALL, at: Seq::MAX, reverse, stem_from: 0 });
        let (mut cursor, mut block, mut count) = (engine.cursor(&walk).unwrap(), Block::default(), 0);
        while cursor.next_block(&mut block).unwrap_or(false) {
            count += block.len();
        }
        assert_eq!(count, before);
        let key = cursor.next_key().unwrap().unwrap();
        assert_eq!(engine.damaged(&key).unwrap(), Some(bad.clone()));
        factory.heal(spec.shard);
        while cursor.next_block(&mut block).unwrap() {
            count += block.len();
        }
        assert_eq!((count, cursor.next_key().unwrap()), (200, None), "it goes on where it was");
        factory.corrupt_page(spec.shard, &[100], 3);
    }
    let new: Run = vec![(vec![99], Seq(2), None), (vec![99], Seq(1), Some(vec![5]))];
    let cut = replace(&*engine, &page(90, 99), &Vec::new()).unwrap_err();
    assert_eq!((cut.kind(), seq_of(&*engine, 95)), (ErrorKind::Corruption, Some(1)));
    replace(&*engine, &page(95, 105), &new).unwrap();
    check_versions(&*engine, &page(95, 105), &new);
    assert!(engine.damaged(&[100]).unwrap().is_none() && verify(&*engine, 9).unwrap().is_empty());
    assert!(matches!(engine.recount(1).unwrap(), Recounted::Whole));
    let ends = factory.corrupt_page(spec.shard, &[1], 5);
    assert_eq!(ends, KeyRange { lo: Vec::new(), hi: Some(vec![7]) });
    factory.corrupt_range(spec.shard, KeyRange { lo: vec![190], hi: None });
    assert_eq!(verify(&*engine, 30).unwrap().len(), 2);
}

#[test]
fn a_crash_takes_a_replacement_back_as_a_whole_or_not_at_all() {
    let mut taken = [0, 0];
    for seed in 0..40 {
        let factory = MemoryFactory::new();
        let (spec, engine) = created(&factory);
        apply(&*engine, &run(1), &[]).unwrap();
        engine.sync(Seq(1)).unwrap();
        let bad = factory.corrupt_page(spec.shard, &[100], 10);
        replace(&*engine, &bad, &run(2).into_iter().filter(|(key, ..)| bad.contains(key)).collect()).unwrap();
        apply(&*engine, &run(3), &[]).unwrap();
        factory.crash(seed);
        let engine = factory.open(&spec).unwrap();
        let back = engine.damaged(&[100]).unwrap();
        taken[usize::from(back.is_some())] += 1;
        assert!(back.as_ref().is_none_or(|range| *range == bad));
        factory.heal(spec.shard);
        let inside = (90..111).filter(|n| bad.contains(&[*n]));
        assert!(inside.clone().count() == 21);
        for n in inside {
            assert_eq!(seq_of(&*engine, n), Some(if back.is_some() { 1 } else { 3 }), "{n}");
        }
    }
    assert!(taken[0] > 5 && taken[1] > 5, "{taken:?}");
}

#[test]
fn what_is_lost_or_old_is_silent_until_it_is_counted() {
    let factory = MemoryFactory::new();
    let (spec, engine) = created(&factory);
    apply(&*engine, &run(1), &[]).unwrap();
    apply(&*engine, &run(2), &[]).unwrap();
    apply(&*engine, &run(2), &[]).unwrap();
    assert_eq!(factory.lose(spec.shard, &page(10, 13)), 3);
    assert!(factory.turn_back(spec.shard, &[20]));
    assert!(!factory.turn_back(spec.shard, b"never"));
    factory.forge(spec.shard, &[30], &[(Seq(9), Some(b"x")), (Seq(8), None)]);
    assert_eq!([11, 20, 21, 30].map(|n| seq_of(&*engine, n)), [None, Some(1), Some(2), Some(9)]);
    assert!(verify(&*engine, 100).unwrap().is_empty());
    assert!(matches!(engine.recount(1).unwrap(), Recounted::Differs(e) if e.kind() == ErrorKind::Corruption));
    engine.close().unwrap();
    assert_eq!(factory.lose(spec.shard, &page(0, 10)), 10, "also while it is closed");
    factory.crash(1);
    let engine = factory.open(&spec).unwrap();
    assert_eq!((seq_of(&*engine, 5), seq_of(&*engine, 11)), (None, None), "a crash brings nothing back");
}

#[test]
fn faults_are_counted() {
    let factory = MemoryFactory::new();
    let (spec, engine) = created(&factory);
    apply(&*engine, &run(1), &[]).unwrap();
    let io = |result: crate::Result<()>| assert_eq!(result.unwrap_err().kind(), ErrorKind::Io);
    type Call<'a> = &'a dyn Fn(&dyn Engine) -> crate::Result<()>;
    let calls: [(Operation, Call<'_>); 5] = [
        (Operation::Get, &|engine| engine.get(&[1], Seq::MAX).map(|_| ())),
        (Operation::Versions, &|engine| {
            engine.versions(&[], 1, &mut |_| false, &mut RunBuffer::default()).map(|_| ())
        }),
        (Operation::Verify, &|engine| engine.verify(&[], 1, &mut Vec::new()).map(|_| ())),
        (Operation::Damaged, &|engine| engine.damaged(&[1]).map(|_| ())),
        (Operation::Recount, &|engine| engine.recount(1).map(|_| ())),
    ];
    for (operation, call) in calls {
        factory.fail_times(spec.shard, operation, 2);
        io(call(&*engine));
        io(call(&*engine));
        call(&*engine).unwrap();
        factory.panic_times(spec.shard, operation, 1);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| call(&*engine)));
        assert!(caught.is_err(), "{operation:?}");
        call(&*engine).unwrap();
    }
    factory.fail_times(spec.shard, Operation::Replace, 1);
    io(replace(&*engine, &page(0, 9), &Vec::new()));
    io(engine.get(&[1], Seq::MAX).map(|_| ()));
    factory.fail_times(spec.shard, Operation::Close, 1);
    io(engine.close());
    engine.close().unwrap();
    factory.fail_times(spec.shard, Operation::Open, 2);
    io(factory.open(&spec).map(|_| ()));
    io(factory.open(&spec).map(|_| ()));
    assert_eq!(
        seq_of(&*factory.open(&spec).unwrap(), 1),
        Some(1),
        "a replacement that failed changed nothing"
    );
}

#[test]
fn a_call_that_hangs_holds_nobody_up() {
    let factory = MemoryFactory::new();
    let (spec, engine) = created(&factory);
    apply(&*engine, &run(1), &[]).unwrap();
    std::thread::scope(|scope| {
        let gate = factory.hang(spec.shard, Operation::Get);
        let hanging = [1u8, 2].map(|n| {
            let engine = &engine;
            scope.spawn(move || engine.get(&[n], Seq::MAX).map(|found| found.map(|found| found.seq)))
        });
        assert!(gate.wait_for(2));
        apply(&*engine, &run(2), &[]).unwrap();
        engine.sync(Seq(2)).unwrap();
        assert_eq!(gate.waiting(), 2);
        gate.release();
        for thread in hanging {
            assert_eq!(thread.join().unwrap().unwrap(), Some(Seq(2)));
        }
        assert_eq!(seq_of(&*engine, 3), Some(2), "an open gate holds nobody");
        // Closed meanwhile; and let go on by healing.
        let gate = factory.hang(spec.shard, Operation::Apply);
        let hanging = scope.spawn(|| apply(&*engine, &run(3), &[]));
        assert!(gate.wait_for(1));
        engine.close().unwrap();
        factory.heal(spec.shard);
        assert_eq!(hanging.join().unwrap().unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(gate.waiting(), 0);
    });
    assert_eq!(seq_of(&*factory.open(&spec).unwrap(), 3), Some(2));
}
