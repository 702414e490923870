use super::*;
use crate::engine::tests::{Model, Run, apply, check, scan, spec};
use crate::ids::Seq;
use crate::record::KeyRange;

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
    kind(engine.remove_range(&ALL).unwrap_err());
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
