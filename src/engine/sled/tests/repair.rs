//! Damage in one page: found, named, and put right, beside readers and over crashes.

mod beside;

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
