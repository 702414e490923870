//! Repositories on object storage that fails, loses answers, carries requests out late; and writers that are taken for dead.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code)] // The cases are for storages that work.
#[path = "../../common/repositories.rs"]
mod repositories;
mod unreliable;

use annulus::{
    BackupRepository, CheckpointId, CheckpointOptions, ErrorKind, ObjectStorage, Retention, Storage,
};
use repositories::{Content, Source, content, objects};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use unreliable::{Fault, Unreliable};

const FAULTS: [Fault; 4] = [Fault::Refused, Fault::AnswerLost, Fault::Late, Fault::Cut];

fn storage(store: &Arc<Unreliable>) -> ObjectStorage {
    ObjectStorage::new(store.clone(), "orders").unwrap()
}

fn repository(store: &Arc<Unreliable>) -> BackupRepository {
    BackupRepository::open_with(Arc::new(storage(store))).unwrap()
}

/// Nothing is wrong with what is there: every checkpoint is whole, and what is expected; after the next prune nothing else is left.
fn check(store: &Arc<Unreliable>, source: &Source, expected: &BTreeMap<u64, Content>, now: &Content) {
    let repo = repository(store);
    let found = repo.verify_all().unwrap();
    assert!(found.is_whole(), "{:?}", found.damage);
    // That all others are whole says what a restore would; the newest is looked at closely.
    if let Some((id, expected)) = expected.iter().next_back() {
        assert_eq!(&source.restored(&repo, CheckpointId(*id)), expected, "checkpoint {id}");
    }
    for checkpoint in repo.list().unwrap() {
        // One of which its taker was told that it failed, and which is there all the same.
        if !expected.contains_key(&checkpoint.id.0) {
            assert_eq!(&source.restored(&repo, checkpoint.id), now);
        }
    }
}

#[test]
fn a_checkpoint_exists_whole_or_not_at_all_whatever_request_fails() {
    let source = Source::new(200);
    for fault in FAULTS {
        let mut is_over = false;
        for at in 0.. {
            let store = Unreliable::new();
            let before = content(&source.store);
            let first = source.store.checkpoint(&repository(&store)).unwrap();
            source.fill(at % 90..at % 90 + 9, at);
            let now = content(&source.store);
            store.fail_after(at, fault);
            let outcome = BackupRepository::open_with(Arc::new(storage(&store)))
                .and_then(|repo| source.store.checkpoint_with(&repo, CheckpointOptions::new().full(true)));
            is_over |= store.works_again() == 0;
            // Whoever comes before what is late is kept out, or does it no harm.
            drop(repository(&store).prune(Retention::keep_last(2)));
            store.deliver();
            let mut expected = BTreeMap::from([(first.0, before)]);
            expected.extend(outcome.as_ref().ok().map(|id| (id.0, now.clone())));
            check(&store, &source, &expected, &now);
            // Whoever comes when the lock has run out finds the place in order.
            store.advance(Duration::from_secs(100));
            let repo = repository(&store);
            source.store.checkpoint(&repo).unwrap();
            repo.prune(Retention::keep_last(1)).unwrap();
            let found = repo.verify_all().unwrap();
            assert!(found.is_whole() && found.checkpoints == 1, "{fault:?} at {at}: {outcome:?}, {found:?}");
            assert_eq!(objects(&storage(&store)).len() as u64, found.objects, "{fault:?} at {at}");
            if is_over {
                assert!(at > 15, "only {at} requests");
                break;
            }
        }
    }
}

#[test]
fn what_a_prune_leaves_is_whole_whatever_request_fails() {
    let source = Source::new(200);
    for fault in FAULTS {
        for at in 0.. {
            let store = Unreliable::new();
            let repo = repository(&store);
            source.store.checkpoint(&repo).unwrap();
            source.fill(0..200, at + 1);
            let kept = source.store.checkpoint_with(&repo, CheckpointOptions::new().full(true)).unwrap();
            let now = content(&source.store);
            store.fail_after(at, fault);
            let outcome = repo.prune(Retention::keep_last(1));
            let is_over = store.works_again() == 0;
            // Whoever comes before what is late is kept out, or does it no harm.
            let early =
                source.store.checkpoint_with(&repository(&store), CheckpointOptions::new().full(true));
            store.deliver();
            store.advance(Duration::from_secs(100));
            let repo = repository(&store);
            let found = repo.verify_all().unwrap();
            assert!(found.is_whole(), "{fault:?} at {at}: {outcome:?}, {found:?}");
            for id in [Some(kept), early.ok()].into_iter().flatten() {
                assert_eq!(source.restored(&repo, id), now);
            }
            repo.prune(Retention::keep_last(1)).unwrap();
            assert_eq!(objects(&storage(&store)).len() as u64, repo.verify_all().unwrap().objects);
            if is_over {
                break;
            }
        }
    }
}

#[test]
fn whatever_fails_no_checkpoint_is_lost() {
    let seed = std::env::var("SEED").map_or(20_261_126, |seed| seed.parse().unwrap());
    eprintln!("SEED={seed}");
    let mut state: u64 = seed;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let source = Source::new(300);
    let store = Unreliable::new();
    let mut expected = BTreeMap::new();
    let (mut done, mut failed) = (0, 0);
    for round in 0..60 {
        let from = random(200) as u32;
        source.fill(from..from + random(100) as u32, round);
        let now = content(&source.store);
        let fault = FAULTS[random(4) as usize];
        store.fail_often(random(1 << 30) | 1, 2 + random(30), fault);
        let outcome =
            BackupRepository::open_with(Arc::new(storage(&store))).and_then(|repo| match random(3) {
                0 => repo.prune(Retention::keep_last(2)).map(|_| None),
                1 => source.store.checkpoint_with(&repo, CheckpointOptions::new().full(true)).map(Some),
                _ => source.store.checkpoint(&repo).map(Some),
            });
        store.works_again();
        store.deliver();
        match &outcome {
            Ok(_) => done += 1,
            Err(_) => failed += 1,
        }
        // Without a marker there is no repository yet.
        if storage(&store).read("REPOSITORY").unwrap().is_some() {
            let listed = repository(&store).list().unwrap();
            expected.retain(|id, _| listed.iter().any(|checkpoint| checkpoint.id.0 == *id));
            for checkpoint in listed {
                expected.entry(checkpoint.id.0).or_insert_with(|| now.clone());
            }
            if let Ok(Some(id)) = outcome {
                assert!(expected.contains_key(&id.0), "checkpoint {id} was promised, and is not there");
            }
            check(&store, &source, &expected, &now);
        }
        if random(3) > 0 {
            store.advance(Duration::from_secs(100));
        }
    }
    assert!(done > 5 && failed > 5, "{done} done, {failed} failed");
}

#[test]
fn a_checkpoint_that_lost_its_lock_is_none() {
    let store = Unreliable::new();
    let source = Source::new(1_500);
    let repo = repository(&store);
    let first = source.store.checkpoint(&repo).unwrap();
    let expected = content(&source.store);
    source.fill(0..1_500, 1);
    let (clock, taken) = (store.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = taken.clone();
    let options = CheckpointOptions::new().full(true).progress(move |_| {
        if counted.fetch_add(1, Ordering::Relaxed) == 0 {
            // Nothing is heard of it for so long that somebody else takes over, and sweeps.
            clock.advance(Duration::from_secs(100));
            repository(&clock).prune(Retention::keep_last(1)).unwrap();
        }
        ControlFlow::Continue(())
    });
    let error = source.store.checkpoint_with(&repo, options).unwrap_err();
    assert!(taken.load(Ordering::Relaxed) > 0, "it was over before it lost the lock");
    assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
    assert!(error.to_string().contains("lost"), "{error}");
    assert_eq!(repo.list().unwrap().len(), 1);
    assert!(repo.verify_all().unwrap().is_whole());
    assert_eq!(source.restored(&repo, first), expected);
    // What it left goes in the end.
    repo.prune(Retention::keep_last(1)).unwrap();
    assert_eq!(objects(&storage(&store)).len() as u64, repo.verify_all().unwrap().objects);
}

#[test]
fn a_prune_that_lost_its_lock_deletes_no_more() {
    let store = Unreliable::new();
    let source = Source::new(200);
    let repo = repository(&store);
    source.store.checkpoint(&repo).unwrap();
    for n in 0..100 {
        storage(&store).write(&format!("objects/a/a{n:063x}"), b"nobody names it").unwrap();
    }
    let other = storage(&store);
    let (clock, lock) = (store.clone(), Arc::new(std::sync::Mutex::new(None)));
    let taken = lock.clone();
    store.on_delete(move |place| {
        if place.contains("objects/") && taken.lock().unwrap().is_none() {
            clock.advance(Duration::from_secs(100));
            *taken.lock().unwrap() = Some(other.lock().unwrap());
        }
    });
    let error = repo.prune(Retention::keep_last(1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
    let left = storage(&store).list("objects/a/").unwrap().len();
    assert!(left >= 60, "{left} are left");
    assert!(lock.lock().unwrap().is_some());
}

#[test]
fn a_request_of_one_that_lost_its_lock_goes_no_further() {
    let store = Unreliable::new();
    let first = storage(&store).lease(Duration::from_secs(6)).unwrap();
    let second = storage(&store);
    let lock = first.lock().unwrap();
    first.write("TOP", b"before").unwrap();
    store.hold_put("orders/TOP");
    std::thread::scope(|scope| {
        let written = scope.spawn(|| first.write("TOP", b"after"));
        store.wait_for_held();
        store.advance(Duration::from_secs(100));
        let taken = second.lock().unwrap();
        // It hears of that when it renews.
        let error = written.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
        drop(taken);
    });
    assert_eq!(second.read("TOP").unwrap().as_deref(), Some(&b"before"[..]));
    // Giving back what is not one's own any more changes nothing.
    let taken = second.lock().unwrap();
    drop(lock);
    assert_eq!(first.lock().err().unwrap().kind(), ErrorKind::Locked);
    drop(taken);
    drop(first.lock().unwrap());
}

#[test]
fn a_lock_is_renewed_while_it_is_held() {
    let store = Unreliable::new();
    let first = storage(&store).lease(Duration::from_secs(6)).unwrap();
    let lock = first.lock().unwrap();
    store.wait_for_puts("orders/lock/0000000000000001", 3);
    store.advance(Duration::from_secs(8));
    // By the storage's clock it was written now.
    store.wait_for_puts("orders/lock/0000000000000001", 4);
    assert_eq!(storage(&store).lock().err().unwrap().kind(), ErrorKind::Locked);
    drop(lock);
    drop(storage(&store).lock().unwrap());
}

/// What the contender knows of the holder is old by the time it asks what time it is.
#[test]
fn a_lock_that_is_renewed_is_kept_from_one_whose_requests_are_slow() {
    const LOCK: &str = "orders/lock/0000000000000001";
    let store = Unreliable::new();
    let first = storage(&store).lease(Duration::from_secs(6)).unwrap();
    let lock = first.lock().unwrap();
    let slow = store.clone();
    store.on_get(move |place| {
        if place == LOCK {
            // The holder goes on renewing for as long as this request takes.
            slow.advance(Duration::from_secs(100));
            slow.wait_for_puts(LOCK, slow.puts(LOCK) + 1);
        }
    });
    assert_eq!(storage(&store).lock().err().map(|error| error.kind()), Some(ErrorKind::Locked));
    store.on_get(|_| {});
    first.write("TOP", b"still ours").unwrap();
    drop(lock);
    drop(storage(&store).lock().unwrap());
}

#[test]
fn a_lock_runs_out_after_one_and_a_half_of_its_lease() {
    let store = Unreliable::new();
    let dead = storage(&store);
    std::mem::forget(dead.lock().unwrap());
    let error = storage(&store).lock().err().unwrap();
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    store.advance(Duration::from_secs(89));
    assert_eq!(storage(&store).lock().err().unwrap().kind(), ErrorKind::Locked);
    store.advance(Duration::from_secs(3));
    let lock = storage(&store).lock().unwrap();
    assert_eq!(dead.write("TOP", b"x").unwrap_err().kind(), ErrorKind::Locked);
    assert_eq!(dead.delete("TOP").unwrap_err().kind(), ErrorKind::Locked);
    dead.write("objects/a/1", b"harmless").unwrap();
    drop(lock);
}

#[test]
fn a_request_without_an_answer_leaves_the_lock_to_run_out() {
    for fault in [Fault::Late, Fault::Refused, Fault::Cut] {
        let store = Unreliable::new();
        let first = storage(&store);
        let lock = first.lock().unwrap();
        store.fail_place("orders/TOP", fault);
        first.write("TOP", b"late").unwrap_err();
        store.works_again();
        drop(lock);
        assert_eq!(storage(&store).lock().err().unwrap().kind(), ErrorKind::Locked, "{fault:?}");
        store.advance(Duration::from_secs(100));
        let lock = first.lock().unwrap();
        first.write("TOP", b"there").unwrap();
        store.fail_place("orders/TOP", fault);
        first.delete("TOP").unwrap_err();
        store.works_again();
        drop(lock);
        assert_eq!(storage(&store).lock().err().unwrap().kind(), ErrorKind::Locked, "{fault:?}");
        store.advance(Duration::from_secs(100));
        drop(storage(&store).lock().unwrap());
    }
    // A put that was carried out, whose answer was lost: it is looked up.
    let store = Unreliable::new();
    let first = storage(&store);
    let lock = first.lock().unwrap();
    store.fail_place("orders/TOP", Fault::AnswerLost);
    first.write("TOP", b"there").unwrap();
    store.works_again();
    drop(lock);
    drop(storage(&store).lock().unwrap());
}

#[test]
fn of_many_that_want_the_lock_one_has_it() {
    let store = Unreliable::new();
    let (holders, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let (store, holders, taken) = (&store, &holders, &taken);
            scope.spawn(move || {
                let storage = storage(store);
                while taken.load(Ordering::Relaxed) < 300 {
                    match storage.lock() {
                        Ok(lock) => {
                            assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                            storage.write("TOP", &[thread]).unwrap();
                            taken.fetch_add(1, Ordering::Relaxed);
                            holders.fetch_sub(1, Ordering::SeqCst);
                            drop(lock);
                        }
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Locked, "{error}"),
                    }
                }
            });
        }
    });
    // One number is left, whoever had it.
    let locks = storage(&store).list("lock/").unwrap();
    assert!(locks.iter().filter(|lock| lock.name != "lock/now").count() <= 2, "{locks:?}");
}
