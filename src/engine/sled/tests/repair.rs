//! Damage in one page: found, named, and put right, beside readers and over crashes.

use super::*;
use crate::engine::sled::cursor::PageCursor;
use crate::engine::sled::space::UNIT;
use crate::engine::tests::{Live, check_versions, replace, verify};
use crate::engine::{Block, Cursor, Walk};
use crate::record::RunBuffer;

fn range_of(all: &[Listed], index: usize) -> KeyRange {
    KeyRange { lo: all[index].lower.clone(), hi: all.get(index + 1).map(|next| next.lower.clone()) }
}

fn within(run: &Run, range: &KeyRange) -> Run {
    run.iter().filter(|(key, ..)| range.contains(key)).cloned().collect()
}

fn ranges(engine: &SledEngine, bytes: usize) -> Vec<KeyRange> {
    verify(engine, bytes).unwrap().into_iter().map(|damage| damage.range).collect()
}

/// Every record up to `key`, as a model has them.
fn all(model: &Model) -> Live {
    model.scan(&ALL, Seq::MAX)
}

fn zero(core: &Core, listed: &Listed) {
    core.file.write_at(listed.page.unit * UNIT, &vec![0; listed.page.bytes as usize]).unwrap();
    core.cache.remove(listed.page.id);
}

/// What a walk over everything, or the copying out of everything, comes to before damage, and what it then names.
fn walked(engine: &SledEngine, reverse: bool) -> (usize, Option<KeyRange>) {
    let walk = Arc::new(Walk { range: ALL, at: Seq::MAX, reverse, stem_from: 0 });
    let mut cursor = PageCursor::new(&core(engine), &walk);
    let (mut block, mut count) = (Block::default(), 0);
    loop {
        match cursor.next_block(&mut block) {
            Ok(true) => count += block.len(),
            Ok(false) => {
                assert_eq!(cursor.next_key().unwrap(), None);
                return (count, None);
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corruption);
                let key = cursor.next_key().unwrap().unwrap();
                return (count, Some(engine.damaged(&key).unwrap().unwrap()));
            }
        }
    }
}

fn copied(engine: &SledEngine) -> (usize, Option<KeyRange>) {
    let (mut out, mut from) = (RunBuffer::default(), Some(Vec::new()));
    while let Some(key) = from {
        let before = out.records().len();
        match engine.versions(&key, 3000, &mut |_| true, &mut out) {
            Ok(next) => from = next,
            Err(error) => {
                assert_eq!((error.kind(), out.records().len()), (ErrorKind::Corruption, before));
                return (before, Some(engine.damaged(&key).unwrap().unwrap()));
            }
        }
    }
    (out.records().len(), None)
}

#[derive(Debug, Clone, Copy)]
enum Harm {
    Flip(usize),
    HeaderSum,
    Zero,
    Foreign,
    Cut,
}

/// Harms a page behind the engine's back; returns the bytes that were there, and the file's length.
fn harm(core: &Core, spec: &EngineSpec, listed: &Listed, other: &Listed, harm: Harm) -> bool {
    let frame = core.read_frame(&listed.page).unwrap().to_vec();
    let at = listed.page.unit * UNIT;
    let mut bytes = frame.clone();
    match harm {
        Harm::Flip(at) => bytes[at % frame.len()] ^= 0x10,
        Harm::HeaderSum => bytes[5] ^= 1,
        Harm::Zero => bytes.fill(0),
        Harm::Foreign => {
            bytes = core.read_frame(&other.page).unwrap().to_vec();
            bytes.resize(frame.len(), 0);
        }
        Harm::Cut => {
            let file = std::fs::OpenOptions::new().write(true).open(spec.dir.join("pages")).unwrap();
            file.set_len(at + frame.len() as u64 / 2).unwrap();
            return true;
        }
    }
    core.file.write_at(at, &bytes).unwrap();
    core.cache.remove(listed.page.id);
    // Readers need not know of the header's own checksum.
    !matches!(harm, Harm::HeaderSum)
        && !matches!(harm, Harm::Flip(at) if (4..8).contains(&(at % frame.len())))
}

#[test]
fn any_damage_to_any_page_is_found_named_and_put_right() {
    let before: Run = (0..300).map(|n| (key(n), Seq(1), Some(vec![n as u8; 30 + n as usize % 50]))).collect();
    let mut model = Model::default();
    model.apply(&before);
    let harms = [Harm::Flip(0), Harm::Flip(13), Harm::Flip(301), Harm::HeaderSum, Harm::Zero, Harm::Foreign];
    for how in harms {
        let dir = scratch();
        let (spec, engine) = created(dir.path(), 512);
        apply(&engine, &before, &[]).unwrap();
        engine.sync(Seq(1)).unwrap();
        let held = core(&engine);
        let count = pages(&held).len();
        assert!(count > 30, "{count}");
        for index in 0..count {
            let listed = pages(&held);
            let seen = harm(&held, &spec, &listed[index], &listed[(index + 1) % count], how);
            let range = range_of(&listed, index);
            for bytes in [1, 1700, usize::MAX] {
                assert_eq!(ranges(&engine, bytes), std::slice::from_ref(&range), "{how:?} of page {index}");
            }
            for n in 0..300 {
                let named = engine.damaged(&key(n)).unwrap();
                assert_eq!(named, range.contains(&key(n)).then(|| range.clone()), "{n}");
                assert_eq!(engine.get(&key(n), Seq::MAX).is_err(), seen && range.contains(&key(n)));
            }
            if seen {
                let below = before.iter().filter(|(key, ..)| *key < range.lo).count();
                let inside = within(&before, &range).len();
                assert_eq!(walked(&engine, false), (below, Some(range.clone())));
                assert_eq!(walked(&engine, true), (300 - below - inside, Some(range.clone())));
                assert_eq!(copied(&engine), (below, Some(range.clone())));
            }
            let figures = engine.figures();
            replace(&engine, &range, &within(&before, &range)).unwrap();
            assert_eq!(engine.damaged(&range.lo).unwrap(), None);
            assert!(ranges(&engine, 4000).is_empty());
            assert_eq!(figures.map(|f| f.records), engine.figures().map(|f| f.records));
            assert_eq!(engine.figures(), Some(counted(&held)));
            assert_eq!((walked(&engine, true), copied(&engine)), ((300, None), (300, None)));
        }
        check(&engine, &model, &[], &ALL);
        engine.sync(Seq(2)).unwrap();
        let mut again = spec.clone();
        again.resume = engine.figures();
        drop(held);
        engine.close().unwrap();
        let engine = open(&again);
        check(&engine, &model, &[], &ALL);
        assert_eq!(recount(&engine).unwrap(), counted(&core(&engine)));
    }
}

/// What was cut off takes every page behind it; they are put right one by one, or all at once, with none of the others read.
#[test]
fn a_page_file_that_lost_its_end_is_put_right() {
    let before = numbers(0..300, 1, 40);
    let mut model = Model::default();
    model.apply(&before);
    for at_once in [false, true] {
        let dir = scratch();
        let (spec, engine) = created(dir.path(), 512);
        apply(&engine, &before, &[]).unwrap();
        engine.sync(Seq(1)).unwrap();
        let held = core(&engine);
        engine.set_cache(0, 0);
        let listed = pages(&held);
        assert!(listed.is_sorted_by_key(|listed| listed.page.unit), "they lie in order");
        let index = listed.len() / 2;
        harm(&held, &spec, &listed[index], &listed[0], Harm::Cut);
        let lost: Vec<KeyRange> = (index..listed.len()).map(|index| range_of(&listed, index)).collect();
        assert_eq!(ranges(&engine, 2000), lost);
        if at_once {
            let range = KeyRange { lo: lost[0].lo.clone(), hi: None };
            replace(&engine, &range, &within(&before, &range)).unwrap();
        }
        for range in lost.iter().filter(|_| !at_once) {
            replace(&engine, range, &within(&before, range)).unwrap();
        }
        assert!(ranges(&engine, 2000).is_empty());
        check(&engine, &model, &[], &ALL);
        assert_eq!(recount(&engine).unwrap(), counted(&held));
    }
}

/// A page that is left with little takes in no neighbour that cannot be read, in this node or the next.
#[test]
fn little_in_the_place_of_damage_beside_damage_is_enough() {
    let before = numbers(0..2000, 1, 40);
    for backwards in [false, true] {
        let dir = scratch();
        let (_, engine) = created(dir.path(), 1024);
        apply(&engine, &before, &[]).unwrap();
        engine.sync(Seq(1)).unwrap();
        let held = core(&engine);
        let listed = pages(&held);
        listed.iter().for_each(|listed| zero(&held, listed));
        let mut model = Model::default();
        for step in 0..listed.len() {
            let index = if backwards { listed.len() - 1 - step } else { step };
            let range = range_of(&listed, index);
            let some: Run = within(&before, &range).into_iter().take(index % 2).collect();
            replace(&engine, &range, &some).unwrap();
            model.apply(&some);
            assert_eq!(ranges(&engine, usize::MAX).len(), listed.len() - step - 1);
        }
        check(&engine, &model, &[], &ALL);
        assert_eq!(engine.figures(), Some(counted(&held)));
        assert_eq!(pages(&held).len() < listed.len() / 2, backwards, "one that can be read is taken in");
    }
}

#[test]
fn a_range_may_cut_through_what_can_be_read_and_through_nothing_else() {
    let before = numbers(0..400, 1, 40);
    let dir = scratch();
    let (_, engine) = created(dir.path(), 512);
    apply(&engine, &before, &[]).unwrap();
    engine.sync(Seq(1)).unwrap();
    let held = core(&engine);
    let mut model = Model::default();
    model.apply(&before);
    let listed = pages(&held);
    let bad = listed.len() / 2;
    let range = range_of(&listed, bad);
    zero(&held, &listed[bad]);
    let (space, figures) = (held.writer.lock().space.used(), engine.figures());
    let inside = within(&before, &range);
    assert!(inside.len() > 3);
    let middle = inside[1].0.clone();
    let cuts = [
        KeyRange { lo: key(20), hi: Some(middle.clone()) },
        KeyRange { lo: middle.clone(), hi: Some(key(399)) },
        KeyRange { lo: middle.clone(), hi: Some(inside[2].0.clone()) },
    ];
    for cut in cuts {
        let new: Run = within(&before, &cut).into_iter().map(|(key, ..)| (key, Seq(5), None)).collect();
        assert_eq!(replace(&engine, &cut, &new).unwrap_err().kind(), ErrorKind::Corruption);
        assert_eq!((held.writer.lock().space.used(), engine.figures()), (space, figures), "{cut:?}");
        assert_eq!(pages(&held), listed, "{cut:?}");
    }
    // Readable ones may be cut, with the damaged one wholly inside.
    let wide = KeyRange { lo: key(21), hi: Some(key(377)) };
    let new: Run = (21..377).step_by(2).map(|n| (key(n), Seq(3), Some(vec![1; n as usize]))).collect();
    replace(&engine, &wide, &new).unwrap();
    model.replace(&wide, &new);
    check(&engine, &model, &[], &ALL);
    check_versions(&engine, &wide, &new);
    assert_eq!(engine.figures(), Some(counted(&held)));
    engine.sync(Seq(3)).unwrap();
    assert_eq!(recount(&engine).unwrap(), counted(&held));
}

/// A copy in memory has passed its checksum, so it may answer; what replaces the page takes it out.
#[test]
fn what_is_in_memory_answers_until_it_is_replaced() {
    let dir = scratch();
    let (_, engine) = created(dir.path(), 512);
    apply(&engine, &numbers(0..200, 1, 40), &[]).unwrap();
    engine.sync(Seq(1)).unwrap();
    let held = core(&engine);
    assert!((0..200).all(|n| engine.get(&key(n), Seq::MAX).unwrap().is_some()));
    let listed = pages(&held);
    let range = range_of(&listed, 3);
    held.file.write_at(listed[3].page.unit * UNIT, &[0; 100]).unwrap();
    assert_eq!(ranges(&engine, 4000), std::slice::from_ref(&range));
    assert!((0..200).all(|n| engine.get(&key(n), Seq::MAX).unwrap().is_some()));
    replace(&engine, &range, &vec![(range.lo.clone(), Seq(2), Some(vec![7]))]).unwrap();
    for n in 0..200 {
        let found = engine.get(&key(n), Seq::MAX).unwrap();
        assert_eq!(found.is_none(), range.contains(&key(n)) && key(n) != range.lo, "{n}");
    }
    assert_eq!(engine.get(&range.lo, Seq::MAX).unwrap().unwrap().seq, Seq(2));
}

/// Nor where a whole node is left with little, before one whose first page cannot be read.
#[test]
fn little_in_the_place_of_a_node_beside_damage_is_enough() {
    let before = numbers(0..3000, 1, 40);
    let dir = scratch();
    let (_, engine) = created(dir.path(), 1024);
    apply(&engine, &before, &[]).unwrap();
    let held = core(&engine);
    let end = held.node(Which::Holds(&[])).unwrap().unwrap().end().unwrap().to_vec();
    let listed = pages(&held);
    let next = listed.iter().position(|listed| listed.lower == end).unwrap();
    zero(&held, &listed[next]);
    let range = KeyRange { lo: Vec::new(), hi: Some(end) };
    replace(&engine, &range, &Vec::new()).unwrap();
    assert_eq!(ranges(&engine, 9000), [range_of(&listed, next)]);
    assert!(scan(&engine, &range, Seq::MAX, false).unwrap().is_empty());
    let damaged = range_of(&listed, next);
    replace(&engine, &damaged, &within(&before, &damaged)).unwrap();
    let mut model = Model::default();
    model.apply(&before);
    model.replace(&range, &Vec::new());
    check(&engine, &model, &[], &ALL);
    assert_eq!(engine.figures(), Some(counted(&held)));
}

/// An opening after a crash may have to cut through a page; it fails no more for one page than a reader does.
#[test]
fn a_node_is_cut_through_a_page_that_cannot_be_read() {
    let dir = scratch();
    let (_, engine) = created(dir.path(), 512);
    apply(&engine, &numbers(0..200, 1, 40), &[]).unwrap();
    let held = core(&engine);
    let node = held.node(Which::Holds(&[])).unwrap().unwrap();
    let bound = [node.lower(5), &[0][..]].concat();
    let records = |page: usize| node.page(page).unwrap().records;
    let cut = held.trimmed(&node, &bound).unwrap();
    assert_eq!((cut.len(), cut.page(5).unwrap().records), (6, 0));
    zero(&held, &node.listed()[5]);
    let cut = held.trimmed(&node, &bound).unwrap();
    assert_eq!((cut.len(), cut.page(5).unwrap().records, cut.end()), (6, records(5), Some(&bound[..])));
    assert_eq!(held.trimmed(&node, node.lower(6)).unwrap().page(5), node.page(5));
}

#[test]
fn a_damaged_node_fails_the_whole_walk() {
    let dir = scratch();
    let (_, engine) = created(dir.path(), 256);
    apply(&engine, &numbers(0..3000, 1, 40), &[]).unwrap();
    engine.sync(Seq(1)).unwrap();
    let held = core(&engine);
    let (number, node) = held.index.iter().nth(2).unwrap().unwrap();
    let mut flipped = node.to_vec();
    flipped[30] ^= 1;
    for damage in [Some(flipped), None] {
        match damage {
            Some(bytes) => drop(held.index.insert(&number, bytes).unwrap()),
            None => drop(held.index.remove(&number).unwrap()),
        }
        assert_eq!(verify(&engine, 9000).unwrap_err().kind(), ErrorKind::Corruption);
        held.index.insert(&number, node.clone()).unwrap();
        assert!(ranges(&engine, 9000).is_empty());
    }
}

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
