//! Shards on file systems that do not keep writes in order: one of a store's writes its index at a time.

use super::stall::hold;
use super::*;
use crate::engine::PowerLoss;
use crate::engine::sled::rest::Rest;
use std::time::Duration;

/// Longer than any test.
const LONG: Duration = Duration::from_secs(600);

/// A directory in memory, which keeps nothing in order; none where there is no such place.
fn unordered() -> Option<tempfile::TempDir> {
    let dir = tempfile::tempdir_in("/dev/shm").ok();
    if dir.is_none() {
        println!("skipped: there is no /dev/shm");
    }
    dir
}

fn made(dir: &Path, rest: &Arc<Rest>) -> (EngineSpec, SledEngine) {
    let spec = EngineSpec { create: true, ..spec(dir, 1024) };
    let engine = SledEngine::open(&spec, rest).unwrap();
    (EngineSpec { create: false, ..spec }, engine)
}

fn until_one_waits(rest: &Rest) {
    while rest.waiting() != 1 {
        std::thread::yield_now();
    }
}

#[test]
fn of_two_shards_one_writes_its_index_at_a_time() {
    let (Some(one), Some(two)) = (unordered(), unordered()) else { return };
    let rest = Arc::new(Rest::new(LONG));
    let (one, two) = (made(one.path(), &rest).1, made(two.path(), &rest).1);
    for engine in [&one, &two] {
        assert_eq!(engine.power_loss(), PowerLoss::OneOwnerAtRest);
        apply(engine, &numbers(0..100, 1, 40), &[]).unwrap();
    }
    let (holder, _) = hold(&one);
    let before = || core(&two).index.iter().map(|pair| pair.unwrap()).collect::<Vec<_>>();
    let index = before();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| one.sync(Seq(1)));
        while core(&one).stops.held.lock().is_some() {
            std::thread::yield_now();
        }
        let second = scope.spawn(|| two.sync(Seq(1)));
        until_one_waits(&rest);
        assert_eq!((two.applied(), before()), (Seq::ZERO, index), "it was written beside the other");
        drop(holder);
        first.join().unwrap().unwrap();
        second.join().unwrap().unwrap();
    });
    assert_eq!((one.applied(), two.applied()), (Seq(1), Seq(1)));
}

/// sled mends its log when it is opened after a crash, and the engine makes all durable that it finds.
#[test]
fn a_shard_that_is_opened_after_a_crash_waits_until_the_others_rest() {
    let Some(dir) = unordered() else { return };
    let rest = Arc::new(Rest::new(LONG));
    let (spec, engine) = made(dir.path(), &rest);
    apply(&engine, &numbers(0..100, 1, 40), &[]).unwrap();
    engine.sync(Seq(1)).unwrap();
    let sealed = engine.figures();
    engine.close().unwrap();
    let writing = rest.begin();
    // One that ended in order has nothing to write.
    let orderly = EngineSpec { resume: sealed, ..spec.clone() };
    SledEngine::open(&orderly, &rest).unwrap().close().unwrap();
    std::thread::scope(|scope| {
        let opening = scope.spawn(|| SledEngine::open(&spec, &rest));
        until_one_waits(&rest);
        drop(writing);
        assert_eq!(opening.join().unwrap().unwrap().applied(), Seq(1));
    });
}

#[test]
fn a_shard_whose_writes_are_kept_in_order_waits_for_nobody() {
    let dir = scratch();
    let rest = Arc::new(Rest::new(LONG));
    let (_, engine) = made(dir.path(), &rest);
    if engine.power_loss() != PowerLoss::SynchronousDirectory {
        println!("skipped: the file system does not keep writes in order");
        return;
    }
    let _writing = rest.begin();
    apply(&engine, &numbers(0..100, 1, 40), &[]).unwrap();
    engine.sync(Seq(1)).unwrap();
}
