//! sled does not answer, or panics: calls end, say so, and leave closing possible.

use super::*;
use crate::engine::sled::calls::Stops;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// Shortens the engine's patience.
fn impatient(engine: &SledEngine) {
    let mut core = engine.core.write();
    Arc::get_mut(core.as_mut().unwrap()).unwrap().patience = Duration::from_millis(20);
}

/// The next write of sled's hangs until what is returned is dropped, whatever becomes of the engine.
pub(super) fn hold(engine: &SledEngine) -> (Sender<()>, Arc<Stops>) {
    let stops = Arc::clone(&core(engine).stops);
    let (holder, held) = channel();
    *stops.held.lock() = Some(held);
    (holder, stops)
}

#[test]
fn a_flush_that_never_ends_is_given_up_and_closing_with_it() {
    let dir = scratch();
    let (spec, engine) = created(dir.path(), 1024);
    apply(&engine, &numbers(0..100, 1, 40), &[]).unwrap();
    engine.sync(Seq(1)).unwrap();
    impatient(&engine);
    apply(&engine, &numbers(0..100, 2, 40), &[]).unwrap();
    let (holder, _) = hold(&engine);
    let error = engine.sync(Seq(2)).unwrap_err();
    assert!(error.kind() == ErrorKind::Io && error.to_string().contains("not answered"), "{error}");
    assert_eq!(engine.applied(), Seq(1));
    // All later calls end at once, readers' too.
    assert_eq!(engine.sync(Seq(2)).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(engine.get(&key(1), Seq::MAX).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(apply(&engine, &numbers(0..1, 3, 40), &[]).unwrap_err().kind(), ErrorKind::Io);
    // Whoever still hangs holds the files.
    assert_eq!(engine.close().unwrap_err().kind(), ErrorKind::Locked);
    assert_eq!(try_open(&spec).unwrap_err().kind(), ErrorKind::Locked);
    drop(holder);
    let engine = loop {
        match try_open(&spec) {
            Ok(engine) => break engine,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Locked),
        }
    };
    assert!((0..100).all(|n| engine.get(&key(n), Seq::MAX).unwrap().is_some()));
}

#[test]
fn a_panic_of_sleds_is_final_for_writers_and_closing_is_possible() {
    let dir = scratch();
    let (spec, engine) = created(dir.path(), 1024);
    apply(&engine, &numbers(0..100, 1, 40), &[]).unwrap();
    engine.sync(Seq(1)).unwrap();
    apply(&engine, &numbers(0..100, 2, 40), &[]).unwrap();
    core(&engine).stops.panics.store(true, Ordering::Relaxed);
    let error = engine.sync(Seq(2)).unwrap_err();
    assert!(error.kind() == ErrorKind::Io && error.to_string().contains("panicked"), "{error}");
    assert!(engine.get(&key(1), Seq::MAX).is_err());
    engine.close().unwrap();
    // One in a read: what is known is still answered, but nothing more is written.
    let engine = open(&spec);
    let held = core(&engine);
    let panicked = held.place.call("read the index", || -> sled::Result<()> { panic!("a test's") });
    assert_eq!(panicked.unwrap_err().kind(), ErrorKind::Corruption);
    assert!(engine.get(&key(1), Seq::MAX).unwrap().is_some());
    apply(&engine, &numbers(0..100, 3, 40), &[]).unwrap();
    assert_eq!(engine.sync(Seq(3)).unwrap_err().kind(), ErrorKind::Io, "no damage that could be mended");
    assert_eq!(engine.get(&key(1), Seq::MAX).unwrap_err().kind(), ErrorKind::Io);
    drop(held);
    engine.close().unwrap();
    assert_eq!(open(&spec).applied(), Seq(1));
}
