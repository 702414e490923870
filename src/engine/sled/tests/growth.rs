//! Pages and nodes that come, grow, shrink and go, and readers beside the writer.

use super::*;
use crate::engine::sled::space::{UNIT, units};
use crate::page::{Content, Entry};

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
    engine.remove_range(&ALL, u64::MAX).unwrap();
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
                    let items = scan(engine, &range, Seq::MAX, reverse).unwrap();
                    let high = begun.load(Ordering::Acquire);
                    assert!(items.windows(2).all(|pair| pair[0].0 < pair[1].0));
                    for n in number / 2..number / 2 + 250 {
                        let found = items.binary_search_by(|item| item.0.cmp(&key(n)));
                        match found {
                            Ok(index) => assert!((low..=high).contains(&items[index].1.0)),
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
    engine.remove_range(&rest, u64::MAX).unwrap();
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
    assert_eq!(try_open(&spec).unwrap_err().kind(), ErrorKind::Locked);
    assert!(engine.get(b"k", Seq::MAX).unwrap().is_none(), "the refused opening changed nothing");
    for _ in 0..20 {
        engine.close().unwrap();
        drop(open(&spec));
        open(&spec).close().unwrap();
    }
    let mut elsewhere = spec.clone();
    elsewhere.dir = dir.path().join("nowhere");
    assert_eq!(try_open(&elsewhere).unwrap_err().kind(), ErrorKind::Corruption);
    std::fs::create_dir(&elsewhere.dir).unwrap();
    assert_eq!(try_open(&elsewhere).unwrap_err().kind(), ErrorKind::Corruption, "empty is not new");
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

/// Whether a node is kept when it is loaded follows what the shard has now, not what it was opened with.
#[test]
fn memory_for_the_index_grows_and_shrinks_with_the_shards_share() {
    let dir = scratch();
    let mut spec = spec(dir.path(), 256);
    (spec.create, spec.cache_bytes) = (true, 64 << 10);
    let engine = open(&spec);
    apply(&engine, &numbers(0..20_000, 1, 100), &[]).unwrap();
    engine.sync(Seq(1)).unwrap();
    let held = core(&engine);
    let bounds: Vec<Vec<u8>> = pages(&held).into_iter().map(|listed| listed.lower).collect();
    // Of so many pages, those whose place is known without asking sled.
    let known = || {
        let is_known =
            |lower: &&Vec<u8>| matches!(held.root.node(Which::Holds(lower)), Some(Search::Found(_)));
        bounds.iter().filter(is_known).count()
    };
    assert!(known() < bounds.len() / 2, "{} of {}", known(), bounds.len());
    engine.set_cache(64 << 20, 32 << 20);
    (0..20_000).for_each(|n| assert!(engine.get(&key(n), Seq::MAX).unwrap().is_some()));
    assert_eq!(known(), bounds.len(), "a node was let go though there is room");
    engine.set_cache(64 << 10, 64 << 10);
    engine.sync(Seq(2)).unwrap();
    assert!(known() < bounds.len() / 2, "{} of {}", known(), bounds.len());
}

#[test]
fn the_rest_of_a_block_is_written_only_where_nobody_has_it() {
    let dir = scratch();
    let (_, engine) = created(dir.path(), 4096);
    let core = core(&engine);
    let mut writer = core.writer.lock();
    assert!(writer.space.occupy(15, 1) && writer.space.occupy(127, 1));
    core.file.write_at(15 * UNIT, &[0xab; UNIT as usize]).unwrap();
    let value = vec![1; 3300];
    let entry = Entry { head: &[], tail: b"k", seq: Seq(1), content: Content::Value(&value) };
    let mut put = || core.put(&mut writer, &[], None, &[entry], false).unwrap().page;
    let pages = [put(), put(), put()];
    assert_eq!(pages.map(|page| (page.unit, units(page.bytes))), [(8, 7), (16, 7), (24, 7)]);
    core.drain(&mut writer).unwrap();
    let mut neighbour = [0; UNIT as usize];
    core.file.read_at(15 * UNIT, &mut neighbour).unwrap();
    assert_eq!(neighbour, [0xab; UNIT as usize]);
    assert!(core.file.len().unwrap() >= 32 * UNIT, "blocks are written whole");
    for page in pages {
        core.verify(&page, core.read_frame(&page).unwrap()).unwrap();
    }
}

/// A page of a large value is many bytes: who waits for a slice, and the writer with him, does not wait for hundreds of those.
#[test]
fn a_slice_of_a_recount_is_bounded_in_bytes_as_well() {
    let dir = scratch();
    let (_, engine) = created(dir.path(), 4096);
    let run: Run = (0..8).map(|n| (key(n), Seq(1), Some(vec![n as u8; 4 << 20]))).collect();
    apply(&engine, &run, &[]).unwrap();
    engine.sync(Seq(1)).unwrap();
    let figures = engine.figures();
    let mut slices = 1;
    while let Recounted::Further = engine.recount(256).unwrap() {
        slices += 1;
    }
    assert!((2..=8).contains(&slices), "{slices} for 32 MiB");
    assert_eq!((engine.figures(), Some(counted(&core(&engine)))), (figures, figures));
}
