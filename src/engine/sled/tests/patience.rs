//! The disk does not answer who reads: he is told so in time, and nobody else waits for it; when it answers it is read again.

use super::*;
use crate::disk::DiskFile;
use crate::engine::{Block, Walk};
use parking_lot::Mutex;
use std::io;
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_millis(50);
/// Longer than anything takes here that does not hang.
const LONG: Duration = Duration::from_secs(20);

/// A page file of which the system has nothing in memory, whose disk answers while nobody holds its lock.
#[derive(Debug)]
struct Cold {
    file: Arc<dyn DiskFile>,
    hangs: Arc<Mutex<()>>,
    asked: Arc<AtomicU64>,
}

impl DiskFile for Cold {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        drop(self.hangs.lock());
        self.file.read_at(offset, buf)
    }

    fn read_ready(&self, _: u64, _: &mut [u8]) -> io::Result<Option<usize>> {
        Ok(None)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}

struct World {
    engine: Arc<SledEngine>,
    hangs: Arc<Mutex<()>>,
    asked: Arc<AtomicU64>,
    _dir: tempfile::TempDir,
}

impl World {
    /// 400 records, some of whose pages have room in memory.
    fn new() -> World {
        let dir = scratch();
        let mut spec = spec(dir.path(), 512);
        (spec.create, spec.patience, spec.cache_bytes) = (true, SHORT, 16 << 10);
        let engine = open(&spec);
        apply(&engine, &numbers(0..400, 1, 100), &[]).unwrap();
        engine.sync(Seq(1)).unwrap();
        let (hangs, asked) = (Arc::<Mutex<()>>::default(), Arc::<AtomicU64>::default());
        {
            let mut core = engine.core.write();
            let core = Arc::get_mut(core.as_mut().unwrap()).unwrap();
            core.file =
                Arc::new(Cold { file: core.file.clone(), hangs: hangs.clone(), asked: asked.clone() });
        }
        let world = World { engine: Arc::new(engine), hangs, asked, _dir: dir };
        // Its page is kept.
        (0..3).for_each(|_| drop(world.engine.get(&key(0), Seq::MAX).unwrap()));
        assert!(world.is_kept(&key(0)));
        world
    }

    /// Whether the page that holds a key is in memory.
    fn is_kept(&self, key: &[u8]) -> bool {
        let core = core(&self.engine);
        core.cache.peek(core.locate(key, false).unwrap().page.id).is_some()
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    /// A key whose page is not in memory.
    fn cold_key(&self) -> Vec<u8> {
        (0..400).map(key).find(|key| !self.is_kept(key)).unwrap()
    }

    fn walk(reverse: bool) -> Arc<Walk> {
        Arc::new(Walk { range: ALL, at: Seq::MAX, reverse, stem_from: 0 })
    }
}

fn assert_silent<T: std::fmt::Debug>(answer: crate::Result<T>, begun: Instant) {
    let error = answer.unwrap_err();
    assert!(error.kind() == ErrorKind::Io && error.to_string().contains("has not answered"), "{error}");
    assert!(begun.elapsed() < LONG, "{:?}", begun.elapsed());
}

/// What it comes to, on a thread of its own; fails where that takes too long.
fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, outcome) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    outcome.recv_timeout(LONG).expect("it waits for the disk")
}

fn get(engine: &Arc<SledEngine>, key: &[u8]) -> crate::Result<bool> {
    let (engine, key) = (engine.clone(), key.to_vec());
    in_time(move || engine.get(&key, Seq::MAX).map(|found| found.is_some()))
}

fn until(what: impl Fn() -> bool) {
    let begun = Instant::now();
    while !what() {
        assert!(begun.elapsed() < LONG);
        std::thread::yield_now();
    }
}

#[test]
fn a_get_is_told_that_the_disk_does_not_answer_and_the_next_one_at_once() {
    let world = World::new();
    let (cold, engine, warm) = (world.cold_key(), &world.engine, key(0));
    let hangs = world.hangs.lock();
    let begun = Instant::now();
    assert_silent(get(engine, &cold), begun);
    assert!(begun.elapsed() >= SHORT);
    let before = world.asked();
    assert_silent(get(engine, &cold), Instant::now());
    assert_eq!(world.asked(), before, "the disk is not asked again while it is silent");
    assert!(get(engine, &warm).unwrap(), "what is in memory needs no disk");
    drop(hangs);
    until(|| get(engine, &cold).is_ok_and(|found| found));
}

#[test]
fn a_walk_is_told_that_the_disk_does_not_answer_and_goes_on_when_it_does() {
    for reverse in [false, true] {
        let world = World::new();
        let mut cursor = world.engine.cursor(&World::walk(reverse)).unwrap();
        let (mut block, mut found) = (Block::default(), 0);
        // Past what is read a page at a time, and into what is read ahead.
        for hangs_at in 0..6 {
            let hangs = world.hangs.lock();
            let begun = Instant::now();
            let failed;
            (cursor, block, found, failed) = in_time(move || {
                let failed = loop {
                    match cursor.next_block(&mut block) {
                        Ok(true) => found += block.len(),
                        other => break other,
                    }
                };
                (cursor, block, found, failed)
            });
            assert_silent(failed, begun);
            drop(hangs);
            until(|| !core(&world.engine).readers.hands.is_silent());
            assert!(cursor.next_block(&mut block).unwrap(), "{reverse} {hangs_at}");
            found += block.len();
        }
        while cursor.next_block(&mut block).unwrap() {
            found += block.len();
        }
        assert_eq!(found, 400, "{reverse}");
    }
}

/// What pages are found by has no place in memory, so sled is asked for it.
#[test]
fn who_needs_a_node_is_told_that_the_disk_does_not_answer() {
    let dir = scratch();
    let (mut spec, engine) = created(dir.path(), 512);
    apply(&engine, &numbers(0..4000, 1, 100), &[]).unwrap();
    engine.sync(Seq(1)).unwrap();
    engine.close().unwrap();
    (spec.patience, spec.cache_bytes) = (SHORT, 1);
    let engine = Arc::new(open(&spec));
    let absent = |n: &u64| {
        let core = core(&engine);
        let found = core.root.page(&key(*n), false, || 0);
        matches!(found, Some(Search::Load(_)))
    };
    let wanted = key((0..4000).find(absent).expect("a node that is not in memory"));
    let nodes = core(&engine).stops.nodes.clone();
    let hangs = nodes.lock();
    let begun = Instant::now();
    assert_silent(get(&engine, &wanted), begun);
    let walk =
        Walk { range: KeyRange { lo: wanted.clone(), hi: None }, ..Arc::unwrap_or_clone(World::walk(false)) };
    let mut cursor = engine.cursor(&Arc::new(walk)).unwrap();
    assert_silent(in_time(move || cursor.next_block(&mut Block::default())), Instant::now());
    drop(hangs);
    until(|| get(&engine, &wanted).is_ok_and(|found| found));
}

/// Who was given up keeps nobody from closing the engine, which he reads no more from.
#[test]
fn an_engine_is_closed_while_its_disk_does_not_answer_who_reads() {
    let world = World::new();
    let cold = world.cold_key();
    let hangs = world.hangs.lock();
    assert_silent(get(&world.engine, &cold), Instant::now());
    world.engine.close().unwrap();
    assert_eq!(world.engine.get(&cold, Seq::MAX).unwrap_err().kind(), ErrorKind::Closed);
    drop(hangs);
}
