//! Verifying and repairing beside readers and writers, and cut off at every write.

use super::*;

/// Verifying beside a writer that replaces everything over and over, and commits, so that space is used again.
#[test]
fn what_is_replaced_meanwhile_is_not_damage() {
    let dir = scratch();
    let (_, engine) = created(dir.path(), 512);
    apply(&engine, &numbers(0..2000, 1, 40), &[]).unwrap();
    engine.sync(Seq(1)).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let verifier = scope.spawn(|| {
            let mut passes = 0;
            while !over.load(Ordering::Acquire) {
                let bad = verify(&engine, 3000).unwrap();
                assert!(bad.is_empty(), "{bad:?}");
                passes += 1;
            }
            passes
        });
        for round in 2..150u64 {
            let len = 20 + (round * 7 % 40) as usize;
            apply(&engine, &numbers(round * 13 % 1000..2000, round, len), &[]).unwrap();
            engine.sync(Seq(round)).unwrap();
            if verifier.is_finished() {
                break;
            }
        }
        over.store(true, Ordering::Release);
        assert!(verifier.join().unwrap() > 0);
    });
}

/// A reader beside a repair has the error or the new records; beside a replacement of what is whole, one state or the other.
#[test]
fn readers_see_what_was_there_or_what_took_its_place() {
    let before = numbers(0..600, 1, 40);
    let dir = scratch();
    let (_, engine) = created(dir.path(), 512);
    apply(&engine, &before, &[]).unwrap();
    engine.sync(Seq(1)).unwrap();
    engine.set_cache(0, 0);
    let held = core(&engine);
    let (over, round_now) = (AtomicBool::new(false), AtomicU64::new(1));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut n = 0;
            let mut seen = 0u64;
            while !over.load(Ordering::Acquire) {
                n = (n + 7) % 600;
                let low = round_now.load(Ordering::Acquire) - 1;
                match engine.get(&key(n), Seq::MAX) {
                    Ok(found) => assert!(found.is_some_and(|found| found.seq.0 >= low.max(1)), "{n}"),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Corruption),
                }
                // What a run of pages shows at one time is of one round: they are replaced in one step.
                let range = KeyRange { lo: key(n), hi: Some(key(n + 3)) };
                let _ = scan(&engine, &range, Seq::MAX, n % 2 == 0).map(|found| {
                    assert_eq!(found.len() as u64, 3.min(600 - n), "{n}");
                    seen += 1;
                });
            }
            seen
        });
        for round in 2..120u64 {
            let listed = pages(&held);
            let first = (round as usize * 5) % (listed.len() - 8);
            listed[first..first + 4].iter().for_each(|listed| zero(&held, listed));
            for index in first..first + 4 {
                let range = range_of(&listed, index);
                replace(&engine, &range, &within(&numbers(0..600, round, 40), &range)).unwrap();
            }
            let all = numbers(0..600, round, 40 + round as usize % 9);
            replace(&engine, &ALL, &all).unwrap();
            round_now.store(round, Ordering::Release);
            engine.sync(Seq(round)).unwrap();
            if reader.is_finished() {
                break;
            }
        }
        over.store(true, Ordering::Release);
        assert!(reader.join().unwrap() > 0);
    });
    assert_eq!(recount(&engine).unwrap(), counted(&held));
}

/// A repair of a damaged page together with a run that splits the nodes around it, cut off at every write: the page's keys
/// are all errors or all there.
#[test]
fn a_crash_leaves_a_repair_undone_or_done() {
    let before = numbers(0..1200, 1, 60);
    let grown: Run =
        (0..1200).filter(|n| !(600..700).contains(n)).map(|n| (key(n), Seq(2), Some(vec![2; 150]))).collect();
    let mut done = [0, 0];
    for stop_after in 0.. {
        let dir = scratch();
        let (spec, engine) = created(dir.path(), 256);
        apply(&engine, &before, &[]).unwrap();
        engine.sync(Seq(1)).unwrap();
        let held = core(&engine);
        let listed = pages(&held);
        let index = listed.partition_point(|listed| listed.lower <= key(650)) - 1;
        zero(&held, &listed[index]);
        let range = range_of(&listed, index);
        let mut model = Model::default();
        model.apply(&before);
        model.apply(&grown);
        // Many versions: what takes the page's place is many pages.
        let new: Run = (0..600u64)
            .map(|n| {
                ([&range.lo[..], &[0, (n >> 8) as u8, n as u8]].concat(), Seq(2), Some(vec![n as u8; 100]))
            })
            .collect();
        assert!(new.iter().all(|(key, ..)| range.contains(key)));
        model.replace(&range, &new);
        held.stops.left.store(stop_after, Ordering::Relaxed);
        drop(held);
        let change = |engine: &SledEngine| {
            replace(engine, &range, &new)
                .and_then(|()| apply(engine, &grown, &[]))
                .and_then(|()| engine.sync(Seq(2)))
        };
        if change(&engine).is_ok() {
            break;
        }
        engine.close().unwrap();
        let engine = open(&spec);
        let states: Vec<bool> = (new.iter().map(|(key, ..)| engine.get(key, Seq::MAX)))
            .map(|found| match found {
                Ok(found) => {
                    assert_eq!(found.unwrap().seq, Seq(2));
                    true
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Corruption);
                    false
                }
            })
            .collect();
        assert!(states.iter().all(|state| *state == states[0]), "stopped after {stop_after}: {states:?}");
        done[usize::from(states[0])] += 1;
        assert_eq!(ranges(&engine, 5000).len(), usize::from(!states[0]), "stopped after {stop_after}");
        change(&engine).unwrap();
        assert!(scan(&engine, &ALL, Seq::MAX, false).unwrap() == all(&model), "stopped after {stop_after}");
        assert_eq!(recount(&engine).unwrap(), counted(&core(&engine)));
        assert_eq!(core(&engine).meta.len(), 1, "what was announced is gone");
    }
    assert!(done[0] > 5 && done[1] > 5, "{done:?}");
}

#[derive(Debug, Clone)]
enum Op {
    Apply(std::collections::BTreeMap<u64, (usize, bool)>),
    Replace(u64, u64, std::collections::BTreeMap<u64, usize>),
    /// Zeroes the page that holds the key, and brings all its records again.
    Repair(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let len = || prop_oneof![6 => 0usize..120, 1 => 3000usize..9000];
    prop_oneof![
        3 => proptest::collection::btree_map(0u64..900, (len(), any::<bool>()), 1..200).prop_map(Op::Apply),
        2 => (0u64..900, 1u64..500, proptest::collection::btree_map(0u64..900, len(), 0..300))
            .prop_map(|(lo, len, run)| Op::Replace(lo, lo + len, run)),
        2 => (0u64..900).prop_map(Op::Repair),
    ]
}

/// Does all of a round; what it comes to is in the model.
fn perform(engine: &SledEngine, model: &mut Model, ops: &[Op], seq: &mut u64) -> crate::Result<()> {
    for op in ops {
        *seq += 1;
        match op {
            Op::Apply(changes) => {
                let value = |n: &u64, len: &usize, kept: &bool| kept.then(|| vec![*n as u8; *len]);
                let run: Run = changes
                    .iter()
                    .map(|(n, (len, kept))| (key(*n), Seq(*seq), value(n, len, kept)))
                    .collect();
                model.apply(&run);
                apply(engine, &run, &[])?;
            }
            Op::Replace(lo, hi, run) => {
                let range = KeyRange { lo: key(*lo), hi: (*hi < 900).then(|| key(*hi)) };
                let run =
                    run.iter().map(|(n, len)| (key(*n), Seq(*seq), Some(vec![*n as u8; *len]))).collect();
                let run = within(&run, &range);
                model.replace(&range, &run);
                replace(engine, &range, &run)?;
            }
            Op::Repair(n) => {
                let held = core(engine);
                let listed = pages(&held);
                let index = listed.partition_point(|listed| listed.lower <= key(*n)) - 1;
                let range = range_of(&listed, index);
                let run: Run =
                    model.scan(&range, Seq::MAX).into_iter().map(|(k, s, v)| (k, s, Some(v))).collect();
                // Only one that no crash brings back is harmed: what it held is asked for afterwards.
                if listed[index].page.id >= held.writer.lock().uncommitted {
                    zero(&held, &listed[index]);
                    assert_eq!(engine.damaged(&key(*n))?, Some(range.clone()));
                }
                model.replace(&range, &run);
                replace(engine, &range, &run)?;
            }
        }
    }
    engine.sync(Seq(*seq))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Rounds of runs, replacements and repairs, each cut off at a random write: a round with a replacement in it is there
    /// whole or not at all.
    #[test]
    fn replacements_are_whole_after_crashes_anywhere(
        page in prop_oneof![Just(256usize), Just(600)],
        rounds in proptest::collection::vec((proptest::collection::vec(op(), 1..4), 0i64..14), 1..10),
    ) {
        let dir = scratch();
        let (spec, mut engine) = created(dir.path(), page);
        let (mut model, mut seq) = (Model::default(), 0);
        for (ops, stop_after) in rounds {
            let old = model.clone();
            core(&engine).stops.left.store(stop_after, Ordering::Relaxed);
            let whole = perform(&engine, &mut model, &ops, &mut seq).is_ok();
            core(&engine).stops.left.store(i64::MAX, Ordering::Relaxed);
            if !whole {
                engine.close().unwrap();
                engine = open(&spec);
                prop_assert!(ranges(&engine, 9000).is_empty());
                let found = scan(&engine, &ALL, Seq::MAX, false).unwrap();
                if ops.iter().all(|op| matches!(op, Op::Apply(_))) {
                    // Each key for itself.
                    for key in model.records.keys() {
                        let found = engine.get(key, Seq::MAX).unwrap().map(|found| found.seq);
                        let of = |model: &Model| model.get(key, Seq::MAX).map(|(seq, _)| seq);
                        prop_assert!(found == of(&old) || found == of(&model));
                    }
                } else {
                    // The part of the round that the engine was asked for is what the model has; a failure ends it.
                    prop_assert!(found == all(&old) || found == all(&model), "{} found", found.len());
                }
                model = old;
                perform(&engine, &mut model, &ops, &mut seq).unwrap();
            }
            prop_assert!(scan(&engine, &ALL, Seq::MAX, true).unwrap() == all(&model));
            prop_assert!(ranges(&engine, 9000).is_empty());
            if whole {
                prop_assert_eq!(engine.figures(), engine.figures().map(|_| counted(&core(&engine))));
            }
        }
        check(&engine, &model, &[], &ALL);
        prop_assert_eq!(recount(&engine).unwrap(), counted(&core(&engine)));
    }
}
