use super::SledEngine;
use super::core::Core;
use super::frame::Page;
use super::node::Listed;
use super::root::Which;
use crate::engine::tests::{Model, Run, apply, check, scan, scratch, spec};
use crate::engine::{Engine, EngineSpec, Figures};
use crate::error::ErrorKind;
use crate::ids::Seq;
use crate::record::KeyRange;
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const ALL: KeyRange = KeyRange { lo: Vec::new(), hi: None };

fn open(spec: &EngineSpec) -> SledEngine {
    SledEngine::open(spec).unwrap()
}

fn core(engine: &SledEngine) -> Arc<Core> {
    Arc::clone(engine.core.read().as_ref().unwrap())
}

fn created(dir: &Path, page_bytes: usize) -> (EngineSpec, SledEngine) {
    let mut spec = spec(dir, page_bytes);
    spec.create = true;
    let engine = open(&spec);
    spec.create = false;
    (spec, engine)
}

fn key(n: u64) -> Vec<u8> {
    format!("key-{n:08}").into_bytes()
}

fn numbers(range: std::ops::Range<u64>, seq: u64, len: usize) -> Run {
    range.map(|n| (key(n), Seq(seq), Some(vec![n as u8; len]))).collect()
}

/// The pages of a shard, as the index has them.
fn pages(core: &Core) -> Vec<Listed> {
    let mut listed: Vec<Listed> = Vec::new();
    let mut end = Some(Vec::new());
    while let Some(next) = end {
        let node = core.node(Which::Holds(&next)).unwrap().unwrap();
        assert_eq!(node.lower(0), next);
        listed.extend(node.listed());
        end = node.end().map(<[u8]>::to_vec);
    }
    listed
}

fn recount(engine: &dyn Engine) -> crate::Result<Figures> {
    while !engine.recount(4)? {}
    Ok(engine.figures().unwrap())
}

/// What a full count of the pages in the file gives, by other means than the engine's.
fn counted(core: &Core) -> Figures {
    core.drain(&mut core.writer.lock()).unwrap();
    let mut sum = Figures::default();
    let mut lower = Vec::new();
    for listed in pages(core) {
        let page = Page::verify(&listed.page, core.read_frame(&listed.page).unwrap()).unwrap();
        let view = page.view().unwrap();
        assert_eq!((page.lower(), &listed.lower[..]), (&lower[..], &lower[..]), "pages meet");
        lower = view.upper().map(<[u8]>::to_vec).unwrap_or_default();
        sum.pages += 1;
        sum.records += view.len() as u64;
        sum.set_hash = sum.set_hash.wrapping_add(crate::digest::page_digest(page.lower(), listed.page.crc));
    }
    assert!(lower.is_empty(), "the last page is unbounded");
    sum
}

fn used(core: &Core) -> u64 {
    pages(core).iter().map(|listed| u64::from(listed.page.bytes)).sum()
}

#[test]
fn pages_fill_split_and_merge_and_the_figures_keep_up() {
    let dir = scratch();
    let (_, engine) = created(dir.path(), 1024);
    let held = core(&engine);
    apply(&engine, &numbers(0..4000, 1, 30), &[]).unwrap();
    let full = engine.figures().unwrap();
    assert_eq!(full, counted(&held));
    let mean = used(&held) / full.pages;
    assert!(mean > 1024 * 85 / 100, "a sorted load leaves {mean} of 1024 bytes");

    let every_other: Run = (0..4000).step_by(2).map(|n| (key(n), Seq(2), Some(vec![7; 200]))).collect();
    apply(&engine, &every_other, &[]).unwrap();
    assert_eq!(engine.figures().unwrap(), counted(&held));
    let mean = used(&held) / engine.figures().unwrap().pages;
    assert!(mean > 1024 * 75 / 100, "a rewriting of everything leaves {mean} of 1024 bytes");
    assert!(pages(&held).iter().all(|listed| listed.page.bytes <= 1024 + 16));

    let removals: Run = (0..4000).filter(|n| n % 50 != 0).map(|n| (key(n), Seq(3), None)).collect();
    apply(&engine, &removals, &[]).unwrap();
    let left = engine.figures().unwrap();
    assert_eq!(left, counted(&held));
    assert_eq!(left.records, 80);
    assert!(left.pages < 60, "{} pages hold 80 records", left.pages);
    engine.remove_range(&ALL).unwrap();
    assert_eq!(engine.figures().unwrap(), counted(&held));
    assert_eq!((engine.figures().unwrap().pages, pages(&held).len()), (1, 1));
}

#[test]
fn one_run_may_be_larger_than_memory_for_it() {
    let dir = scratch();
    let (_, engine) = created(dir.path(), 4096);
    let mut model = Model::default();
    let run = numbers(0..60_000, 1, 20);
    apply(&engine, &run, &[]).unwrap();
    model.apply(&run);
    assert_eq!(scan(&engine, &ALL, Seq::MAX, false).unwrap(), model.scan(&ALL, Seq::MAX));
    let gone: Run = (0..60_000).map(|n| (key(n), Seq(2), None)).collect();
    apply(&engine, &gone, &[]).unwrap();
    assert_eq!(engine.figures().unwrap().records, 0);
    assert_eq!(engine.figures().unwrap(), counted(&core(&engine)));
}

/// A writer that changes all keys together to the same number, so that a reader can tell what it may see: of a key, the
/// number of the run before the last finished one at the least, and that of the run under way at the most.
#[test]
fn readers_beside_the_writer_miss_nothing() {
    const KEYS: u64 = 600;
    let dir = scratch();
    let (_, engine) = created(dir.path(), 300);
    let (done, begun, over) = (AtomicU64::new(1), AtomicU64::new(1), AtomicBool::new(false));
    let value = |round: u64, n: u64| {
        let mut value = round.to_le_bytes().to_vec();
        // Sizes change from round to round, so that pages split, merge and overflow all the time.
        value.resize(
            8 + ((round * 31 + n / 40 * 17) % 7 * 15) as usize + if n % 97 == round % 97 { 9000 } else { 0 },
            5,
        );
        value
    };
    let present = |round: u64, n: u64| n.is_multiple_of(3) || !(n / 50 + round).is_multiple_of(4);
    let run = |round: u64| -> Run {
        (0..KEYS).map(|n| (key(n), Seq(round), present(round, n).then(|| value(round, n)))).collect()
    };
    apply(&engine, &run(1), &[]).unwrap();
    let round_of = |value: &[u8]| u64::from_le_bytes(value[..8].try_into().unwrap());
    std::thread::scope(|scope| {
        let reader = |step: u64| {
            let (engine, done, begun, over) = (&engine, &done, &begun, &over);
            move || {
                let (mut looked, mut number) = (0u64, step);
                while !over.load(Ordering::Acquire) {
                    number = (number + 7 * step) % KEYS;
                    let low = done.load(Ordering::Acquire);
                    let found = engine.get(&key(number), Seq::MAX).unwrap();
                    let high = begun.load(Ordering::Acquire);
                    match found {
                        Some(found) => assert!(
                            (low..=high).contains(&round_of(&found.value))
                                && (low..=high).contains(&found.seq.0)
                        ),
                        None => {
                            assert!((low..=high).any(|round| !present(round, number)), "{number} is missing")
                        }
                    }
                    let reverse = number % 2 == 0;
                    let range = KeyRange { lo: key(number / 2), hi: Some(key(number / 2 + 250)) };
                    let low = done.load(Ordering::Acquire);
                    let mut items = Vec::new();
                    let mut cursor = engine.cursor(&range, Seq::MAX, reverse).unwrap();
                    while cursor.next_block(&mut items).unwrap() {}
                    let high = begun.load(Ordering::Acquire);
                    if reverse {
                        items.reverse();
                    }
                    assert!(items.windows(2).all(|pair| pair[0].key < pair[1].key));
                    for n in number / 2..number / 2 + 250 {
                        let found = items.binary_search_by(|item| item.key[..].cmp(&key(n)));
                        match found {
                            Ok(index) => assert!((low..=high).contains(&items[index].seq.0)),
                            Err(_) => assert!(
                                (low..=high).any(|round| n >= KEYS || !present(round, n)),
                                "{n} is missing from a scan"
                            ),
                        }
                    }
                    looked += 1;
                }
                looked
            }
        };
        let readers = [scope.spawn(reader(1)), scope.spawn(reader(13))];
        for round in 2..60 {
            begun.store(round, Ordering::Release);
            apply(&engine, &run(round), &[]).unwrap();
            done.store(round, Ordering::Release);
            if readers.iter().any(|reader| reader.is_finished()) {
                break;
            }
        }
        over.store(true, Ordering::Release);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
    assert_eq!(engine.figures().unwrap(), counted(&core(&engine)));
}

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
        core(&engine).writes_left.store(stop_after, Ordering::Relaxed);
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
            assert_eq!(recount(&engine).unwrap(), counted(&core(&engine)));
            assert!(scan(&engine, &ALL, Seq::MAX, false).unwrap() == forward);
        }
        change(&engine).unwrap();
        assert_eq!(
            scan(&engine, &ALL, Seq::MAX, false).unwrap(),
            model.1.scan(&ALL, Seq::MAX),
            "stopped after {stop_after}"
        );
        assert_eq!(recount(&engine).unwrap(), counted(&core(&engine)));
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
    assert!(stop_everywhere(256, &before, |engine| engine.remove_range(&range), (&old, &new)) > 4);
}

/// Whether every page that `lost` names fails, and every other record is still there.
fn only_fails(engine: &SledEngine, n: u64, lost: impl Fn(u64) -> bool) {
    for n in 0..n {
        match engine.get(&key(n), Seq::MAX) {
            Ok(found) => assert!(found.is_some() && !lost(n), "{n}"),
            Err(error) => {
                assert!(error.kind() == ErrorKind::Corruption && lost(n), "{n}: {error}");
                assert!(error.path().is_some() && error.shard().is_some());
            }
        }
    }
}

#[test]
fn every_damaged_page_is_corruption_and_never_absence() {
    let dir = scratch();
    let (_, engine) = created(dir.path(), 512);
    apply(&engine, &numbers(0..200, 1, 30), &[]).unwrap();
    engine.sync(Seq(1)).unwrap();
    let held = core(&engine);
    for listed in pages(&held) {
        let offset = listed.page.unit * super::space::UNIT;
        let frame = held.read_frame(&listed.page).unwrap();
        let page = Page::verify(&listed.page, frame.clone()).unwrap();
        let view = page.view().unwrap();
        let keys: Vec<Vec<u8>> = (0..view.len()).map(|index| view.entry(index).unwrap().key()).collect();
        // Emptied, and in another's place: a whole page that says that it is another.
        let other = pages(&held).into_iter().find(|other| other.page.id != listed.page.id).unwrap();
        let mut foreign = held.read_frame(&other.page).unwrap().to_vec();
        foreign.resize(frame.len(), 0);
        for damage in [vec![0; frame.len()], foreign] {
            held.file.write_at(offset, &damage).unwrap();
            held.cache.remove(listed.page.id);
            only_fails(&engine, 200, |n| keys.contains(&key(n)));
            for reverse in [false, true] {
                assert_eq!(scan(&engine, &ALL, Seq::MAX, reverse).unwrap_err().kind(), ErrorKind::Corruption);
            }
            assert_eq!(recount(&engine).unwrap_err().kind(), ErrorKind::Corruption);
            let before = engine.figures();
            let into = apply(&engine, &vec![(keys[0].clone(), Seq(2), None)], &[]);
            assert_eq!(into.unwrap_err().kind(), ErrorKind::Corruption);
            assert_eq!(engine.figures(), before, "a run that failed changed nothing");
        }
        held.file.write_at(offset, &frame).unwrap();
        assert_eq!(scan(&engine, &ALL, Seq::MAX, true).unwrap().len(), 200);
    }
    assert_eq!(recount(&engine).unwrap(), counted(&held));
}

#[test]
fn a_key_that_was_missed_in_a_page_costs_no_reading_of_it_again() {
    let dir = scratch();
    let (_, engine) = created(dir.path(), 512);
    apply(&engine, &numbers(0..200, 1, 30), &[]).unwrap();
    engine.sync(Seq(1)).unwrap();
    let held = core(&engine);
    engine.set_cache(0);
    let absent = |n: u64| [&key(n)[..], b"x"].concat();
    let missed = |engine: &SledEngine| {
        (0..200).filter(|n| matches!(engine.get(&absent(*n), Seq::MAX), Ok(None))).count()
    };
    assert_eq!(missed(&engine), 200);
    for listed in pages(&held) {
        held.file
            .write_at(listed.page.unit * super::space::UNIT, &vec![0; listed.page.bytes as usize])
            .unwrap();
    }
    let found = missed(&engine);
    assert!((180..=200).contains(&found), "{found} of 200 were known to be absent");
    only_fails(&engine, 200, |_| true);
    // A page that is written anew has other keys.
    let dir = scratch();
    let (_, engine) = created(dir.path(), 512);
    apply(&engine, &numbers(0..200, 1, 30), &[]).unwrap();
    assert_eq!(missed(&engine), 200);
    let run: Vec<_> = (0..200).map(|n| (absent(n), Seq(2), Some(vec![1]))).collect();
    apply(&engine, &run, &[]).unwrap();
    assert_eq!(missed(&engine), 0);
}

#[test]
fn a_flip_of_any_byte_of_a_page_is_found() {
    let dir = scratch();
    let (_, engine) = created(dir.path(), 512);
    apply(&engine, &numbers(0..20, 1, 30), &[]).unwrap();
    engine.sync(Seq(1)).unwrap();
    let held = core(&engine);
    let listed = pages(&held).remove(1);
    let frame = held.read_frame(&listed.page).unwrap();
    for at in 0..frame.len() {
        let mut damaged = frame.to_vec();
        damaged[at] ^= 0x10;
        // The header's own checksum is for those who search the file without an index.
        let harmless = (4..8).contains(&at);
        assert_eq!(
            held.verify(
                &listed.page,
                held.pool
                    .frame(damaged.len(), |frame| {
                        frame.copy_from_slice(&damaged);
                        Ok::<(), ()>(())
                    })
                    .unwrap()
            )
            .is_ok(),
            harmless,
            "byte {at}"
        );
    }
}

/// Changes the index behind the engine's back; returns what opening with the seal's figures, and without, comes to.
fn tampered(tamper: impl Fn(&Core)) -> [crate::Result<SledEngine>; 2] {
    [true, false].map(|resume| {
        let dir = scratch();
        let (mut spec, engine) = created(dir.path(), 300);
        apply(&engine, &numbers(0..3000, 1, 30), &[]).unwrap();
        engine.sync(Seq(1)).unwrap();
        let held = core(&engine);
        tamper(&held);
        drop(held);
        spec.resume = engine.figures().filter(|_| resume);
        engine.close().unwrap();
        SledEngine::open(&spec)
    })
}

fn kind_of(opened: &crate::Result<SledEngine>) -> Option<ErrorKind> {
    opened.as_ref().err().map(crate::Error::kind)
}

#[test]
fn every_lost_or_damaged_node_is_found_at_open() {
    let count = {
        let dir = scratch();
        let (_, engine) = created(dir.path(), 300);
        apply(&engine, &numbers(0..3000, 1, 30), &[]).unwrap();
        engine.sync(Seq(1)).unwrap();
        core(&engine).index.len()
    };
    assert!(count > 3, "{count} nodes");
    for lost in 0..count {
        let number = |core: &Core| core.index.iter().keys().nth(lost).unwrap().unwrap();
        let gone = tampered(|core| drop(core.index.remove(number(core)).unwrap()));
        assert_eq!(gone.each_ref().map(kind_of), [Some(ErrorKind::Corruption); 2], "node {lost}");
        let flipped = tampered(|core| {
            let mut node = core.index.get(number(core)).unwrap().unwrap().to_vec();
            let middle = node.len() / 2;
            node[middle] ^= 1;
            core.index.insert(number(core), node).unwrap();
        });
        assert_eq!(flipped.each_ref().map(kind_of), [Some(ErrorKind::Corruption); 2], "node {lost}");
    }
    let none = tampered(|core| drop(core.meta.remove(b"state").unwrap()));
    assert_eq!(none.each_ref().map(kind_of), [Some(ErrorKind::Corruption); 2]);
}

#[test]
fn a_node_that_went_back_in_time_is_found() {
    let dir = scratch();
    let (mut spec, engine) = created(dir.path(), 300);
    apply(&engine, &numbers(0..3000, 1, 30), &[]).unwrap();
    engine.sync(Seq(1)).unwrap();
    let held = core(&engine);
    let (number, old) = held.index.iter().nth(2).unwrap().unwrap();
    // The same sizes, so that the bounds stay and cannot show it.
    apply(&engine, &numbers(0..3000, 2, 30), &[]).unwrap();
    engine.sync(Seq(2)).unwrap();
    spec.resume = engine.figures();
    held.index.insert(number, old).unwrap();
    assert_eq!(recount(&engine).unwrap_err().kind(), ErrorKind::Corruption, "a scrub finds it");
    drop(held);
    engine.close().unwrap();
    assert_eq!(SledEngine::open(&spec).unwrap_err().kind(), ErrorKind::Corruption);
}

#[test]
fn a_shortened_or_missing_page_file_is_found_at_open() {
    let dir = scratch();
    let (spec, engine) = created(dir.path(), 512);
    apply(&engine, &numbers(0..500, 1, 30), &[]).unwrap();
    engine.sync(Seq(1)).unwrap();
    engine.close().unwrap();
    let path = spec.dir.join("pages");
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(file.metadata().unwrap().len() - 600).unwrap();
    assert_eq!(SledEngine::open(&spec).unwrap_err().kind(), ErrorKind::Corruption);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(SledEngine::open(&spec).unwrap_err().kind(), ErrorKind::Corruption);
    assert!(!path.exists(), "what is lost is not made anew");
}

/// With hardly any memory for the index, nodes come and go; with a writer beside the readers.
#[test]
fn an_index_larger_than_its_memory_is_read_as_it_is_needed() {
    let dir = scratch();
    let mut spec = spec(dir.path(), 256);
    (spec.create, spec.cache_bytes) = (true, 64 << 10);
    let engine = open(&spec);
    spec.create = false;
    let mut model = Model::default();
    for round in 1..5u64 {
        let run: Run = (0..20_000)
            .filter(|n| n % 7 != round)
            .map(|n| (key(n), Seq(round), Some(vec![n as u8; 40])))
            .collect();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut n = round;
                while !over.load(Ordering::Acquire) {
                    n = (n + 7919) % 20_000;
                    let found = engine.get(&key(n), Seq::MAX).unwrap();
                    assert!(
                        found.is_some() || round == 1 || (round == 2 && n % 7 == 1),
                        "{n} in round {round}"
                    );
                }
            });
            apply(&engine, &run, &[]).unwrap();
            over.store(true, Ordering::Release);
            reader.join().unwrap();
        });
        model.apply(&run);
        engine.sync(Seq(round)).unwrap();
        let held = core(&engine);
        assert!(held.root.resident() < 600 << 10, "{} bytes of nodes", held.root.resident());
        for n in (0..20_000).step_by(101) {
            let wanted = model.get(&key(n), Seq::MAX).map(|(seq, _)| seq);
            assert_eq!(engine.get(&key(n), Seq::MAX).unwrap().map(|found| found.seq), wanted);
        }
    }
    let sealed = engine.figures();
    assert_eq!(scan(&engine, &ALL, Seq::MAX, true).unwrap(), model.scan(&ALL, Seq::MAX));
    engine.close().unwrap();
    spec.resume = sealed;
    let engine = open(&spec);
    assert_eq!(scan(&engine, &ALL, Seq::MAX, false).unwrap(), model.scan(&ALL, Seq::MAX));
    assert_eq!(Some(recount(&engine).unwrap()), sealed);
}

/// Rewriting everything over and over needs room for two states and what lies between commits, no more.
#[test]
fn space_is_used_again_and_given_back() {
    let dir = scratch();
    let (_, engine) = created(dir.path(), 1024);
    let len = || core(&engine).file.len().unwrap();
    for round in 1..12u64 {
        apply(&engine, &numbers(0..5000, round, 100), &[]).unwrap();
        engine.sync(Seq(round)).unwrap();
    }
    let live = used(&core(&engine));
    assert!(len() < live * 5 / 2, "{} bytes for {live}", len());
    let rest = KeyRange { lo: key(100), hi: None };
    engine.remove_range(&rest).unwrap();
    for round in 20..23 {
        engine.sync(Seq(round)).unwrap();
    }
    assert!(len() < live / 10, "{} bytes for a fiftieth of {live}", len());
    assert_eq!(scan(&engine, &ALL, Seq::MAX, false).unwrap().len(), 100);
    assert_eq!(recount(&engine).unwrap(), counted(&core(&engine)));
}

#[test]
fn values_of_the_largest_size_come_back() {
    let dir = scratch();
    let (_, engine) = created(dir.path(), 4096);
    let value = vec![0xab; crate::limits::MAX_VALUE_BYTES];
    let longest = vec![0xff; crate::limits::MAX_KEY_BYTES];
    apply(&engine, &vec![(longest.clone(), Seq(1), Some(value.clone()))], &[]).unwrap();
    assert!(engine.get(&longest, Seq::MAX).unwrap().unwrap().value == value);
    let near: Run = (0..30)
        .map(|n| ([&longest[..longest.len() - 1], &[n]].concat(), Seq(2), Some(vec![n; 10])))
        .collect();
    apply(&engine, &near, &[]).unwrap();
    assert_eq!(scan(&engine, &ALL, Seq::MAX, true).unwrap().len(), 31);
    assert_eq!(recount(&engine).unwrap(), counted(&core(&engine)));
}

/// sled itself walks in circles over such keys and panics.
#[test]
fn long_runs_of_high_bytes_can_be_walked_over_backwards() {
    let dir = scratch();
    let (_, engine) = created(dir.path(), 256);
    let mut run: Run = Vec::new();
    for group in 0..60u8 {
        for n in 0..20 + group % 17 {
            run.push(([&[group][..], &[0xff; 9], &[n]].concat(), Seq(1), Some(vec![n; 200])));
        }
    }
    apply(&engine, &run, &[]).unwrap();
    assert_eq!(scan(&engine, &ALL, Seq::MAX, true).unwrap().len(), run.len());
    for (key, ..) in &run {
        assert!(engine.get(key, Seq::MAX).unwrap().is_some());
    }
}

/// A reader that finds another page where its own was looks again instead of reporting damage.
#[test]
fn large_values_are_read_while_they_are_replaced() {
    let dir = scratch();
    let (_, engine) = created(dir.path(), 256);
    let put = |round: u64| {
        apply(&engine, &vec![(key(1), Seq(round), Some(vec![round as u8; 30_000]))], &[]).unwrap();
        engine.sync(Seq(round)).unwrap();
    };
    put(1);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut last = Seq(0);
            while !over.load(Ordering::Acquire) {
                let found = engine.get(&key(1), Seq::MAX).unwrap().unwrap();
                assert!(found.seq >= last && found.value.len() == 30_000);
                assert!(found.value.iter().all(|byte| *byte == found.seq.0 as u8));
                last = found.seq;
            }
        });
        for round in 2..1500 {
            put(round);
            if reader.is_finished() {
                break;
            }
        }
        over.store(true, Ordering::Release);
        reader.join().unwrap();
    });
}

/// A run is merged in parts; one key's versions must not be parted, or a removal forgets what it removed.
#[test]
fn versions_of_one_key_are_decided_on_together() {
    let dir = scratch();
    let (_, engine) = created(dir.path(), 256);
    let mut run: Run = Vec::new();
    for n in 0..400 {
        run.push((key(n), Seq(9), None));
        run.push((key(n), Seq(8), Some(vec![1; 250])));
        run.push((key(n), Seq(7), Some(vec![1; 250])));
    }
    apply(&engine, &run, &[]).unwrap();
    assert_eq!(scan(&engine, &ALL, Seq::MAX, false).unwrap(), []);
    assert_eq!(engine.figures().unwrap().records, 0);
}

#[test]
fn an_open_shard_is_locked_and_a_closed_one_is_free() {
    let dir = scratch();
    let (spec, engine) = created(dir.path(), 1024);
    assert_eq!(SledEngine::open(&spec).unwrap_err().kind(), ErrorKind::Locked);
    assert!(engine.get(b"k", Seq::MAX).unwrap().is_none(), "the refused opening changed nothing");
    for _ in 0..20 {
        engine.close().unwrap();
        drop(open(&spec));
        open(&spec).close().unwrap();
    }
    let mut elsewhere = spec.clone();
    elsewhere.dir = dir.path().join("nowhere");
    assert_eq!(SledEngine::open(&elsewhere).unwrap_err().kind(), ErrorKind::Corruption);
    std::fs::create_dir(&elsewhere.dir).unwrap();
    assert_eq!(SledEngine::open(&elsewhere).unwrap_err().kind(), ErrorKind::Corruption, "empty is not new");
}

fn files(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let files = ["", "index"].into_iter().flat_map(|sub| std::fs::read_dir(dir.join(sub)).unwrap());
    let files = files.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    files.map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect()
}

/// Whatever happens to sled's files, the engine opens or says why not; it never panics, never holds on to the files,
/// and every key is right, an error, or, where `applied` or the figures give it away, from before.
#[test]
fn damaged_files_are_errors_that_leave_no_locks() {
    let dir = scratch();
    let (spec, engine) = created(dir.path(), 1024);
    apply(&engine, &numbers(0..3000, 1, 100), &[]).unwrap();
    engine.sync(Seq(1)).unwrap();
    apply(&engine, &numbers(0..3000, 2, 100), &[]).unwrap();
    engine.sync(Seq(2)).unwrap();
    let sealed = engine.figures();
    engine.close().unwrap();
    let whole = files(&spec.dir);
    let (mut refused, mut given_away, mut harmless) = (0, 0, 0);
    for trial in 0..40u64 {
        for (path, bytes) in files(&spec.dir) {
            std::fs::remove_file(path).unwrap();
            drop(bytes);
        }
        for (path, bytes) in &whole {
            std::fs::write(path, bytes).unwrap();
        }
        let (path, bytes) = &whole[if trial % 8 == 0 {
            trial as usize / 8 % whole.len()
        } else {
            whole
                .iter()
                .position(|(path, _)| path.ends_with(if trial % 3 == 0 { "db" } else { "pages" }))
                .unwrap()
        }];
        let coin = crate::digest::hash128(&[&trial.to_le_bytes()]);
        let at = (coin % bytes.len().max(1) as u128) as usize;
        let mut damaged = bytes.clone();
        match trial % 4 {
            0 => damaged.truncate(at),
            1 => damaged.iter_mut().skip(at).take(512).for_each(|byte| *byte ^= 0x5a),
            2 => damaged.iter_mut().skip(at).take(4096).for_each(|byte| *byte = 0),
            _ => damaged[at] ^= 1 << ((coin >> 64) as u32 % 8),
        }
        std::fs::write(path, damaged).unwrap();
        match SledEngine::open(&spec) {
            Err(error) => {
                assert!(
                    matches!(error.kind(), ErrorKind::Corruption | ErrorKind::Io | ErrorKind::Unsupported),
                    "{error:?}"
                );
                refused += 1;
            }
            Ok(engine) => {
                let behind = engine.applied() < Seq(2);
                let mut wrong = 0;
                for n in 0..3000 {
                    match engine.get(&key(n), Seq::MAX) {
                        Ok(Some(found)) if found.seq == Seq(2) && found.value == vec![n as u8; 100] => {}
                        Ok(_) => wrong += 1,
                        Err(error) => assert!(matches!(error.kind(), ErrorKind::Corruption | ErrorKind::Io)),
                    }
                }
                let figures = recount(&engine).ok();
                if figures == sealed && !behind {
                    assert_eq!(wrong, 0, "trial {trial}: nothing gave it away");
                    harmless += 1;
                } else {
                    given_away += 1;
                }
                let _ = engine.close();
            }
        }
        assert!(super::open::is_free(&spec.dir.join("index/db")).unwrap_or(true), "trial {trial}");
    }
    assert!(refused > 3 && refused + given_away + harmless == 40, "{refused} {given_away} {harmless}");
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
            core(&engine).writes_left.store(stop_after, Ordering::Relaxed);
            let whole = apply(&engine, &run, &[]).and_then(|()| engine.sync(seq)).is_ok();
            core(&engine).writes_left.store(i64::MAX, Ordering::Relaxed);
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

fn nodes(core: &Core) -> usize {
    core.index.len()
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

#[test]
fn nodes_that_were_only_written_leave_memory_too() {
    let dir = scratch();
    let mut spec = spec(dir.path(), 256);
    (spec.create, spec.cache_bytes) = (true, 64 << 10);
    let engine = open(&spec);
    for round in 0..3u64 {
        apply(&engine, &numbers(round * 10_000..(round + 1) * 10_000, 1, 100), &[]).unwrap();
        engine.sync(Seq(round + 1)).unwrap();
    }
    let (resident, nodes) = (core(&engine).root.resident(), nodes(&core(&engine)) as u64);
    assert!(resident < nodes * 200 + spec.cache_bytes, "{resident} bytes for {nodes} nodes");
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
    core(&engine).writes_left.store(0, Ordering::Relaxed);
    engine.sync(Seq(2)).unwrap_err();
    engine.close().unwrap();
    for _ in 0..2 {
        let engine = open(&spec);
        let next = core(&engine).writer.lock().next_page;
        assert!(next > given_out, "{next} after {given_out}");
        engine.close().unwrap();
    }
}
