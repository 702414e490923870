//! What happens beside an archiving: others that archive, pieces that arrive late, keyspaces that come and go.

use crate::hooked::{Call, Hooked, out_of_order};
use crate::{content, options};
use annulus::{At, BackupRepository, ErrorKind, Seq};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// A name, and what was to be written there.
type Sent = (String, Vec<u8>);

#[test]
fn a_piece_that_arrives_late_takes_nothing_out_of_the_archive() {
    let (mut place, storage) = Hooked::place();
    place.write(60);
    place.store.checkpoint(&place.repo).unwrap();
    let sent: Arc<Mutex<Vec<Sent>>> = Arc::default();
    let keep = sent.clone();
    storage.on(move |call| match call {
        Call::Write(name, bytes) if name.starts_with("archive/") => {
            // Sent, and nobody hears what becomes of it.
            keep.lock().unwrap().push((name.to_owned(), bytes.to_vec()));
            Err(out_of_order())
        }
        _ => Ok(()),
    });
    place.write(50);
    place.store.archive(&place.repo).unwrap_err();
    storage.off();
    for _ in 0..2 {
        place.write(50);
        place.moment();
        place.store.archive(&place.repo).unwrap();
    }
    let [(name, bytes)] = &sent.lock().unwrap()[..] else { panic!("one piece was sent") };
    annulus::Storage::write(storage.inner.as_ref(), name, bytes).unwrap();
    place.write(50);
    place.moment();
    place.store.archive(&place.repo).unwrap();
    place.check_moments("");
}

#[test]
fn those_who_archive_at_once_take_turns() {
    let (mut place, storage) = Hooked::place();
    place.write(60);
    place.store.checkpoint(&place.repo).unwrap();
    let (inside, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (within, top) = (inside.clone(), most.clone());
    storage.on(move |call| {
        if let Call::Write(name, _) = call
            && name.starts_with("archive/")
        {
            within.fetch_add(1, Ordering::SeqCst);
            // Long enough for somebody who does not wait.
            for _ in 0..2_000 {
                top.fetch_max(within.load(Ordering::SeqCst), Ordering::SeqCst);
                std::thread::yield_now();
            }
            within.fetch_sub(1, Ordering::SeqCst);
        }
        Ok(())
    });
    std::thread::scope(|scope| {
        for thread in 0..3u8 {
            let (store, repo) = (place.store.clone(), place.repo.clone());
            scope.spawn(move || {
                for n in 0..20u8 {
                    store.insert([thread, n], [n]).unwrap();
                    store.archive(&repo).unwrap();
                }
            });
        }
    });
    assert_eq!(most.load(Ordering::SeqCst), 1, "two wrote at once");
    storage.off();
    place.moment();
    let (seq, _, expected) = &place.moments[0];
    assert_eq!(&content(&place.restored(At::Seq(*seq), "new").unwrap()), expected);
}

#[test]
fn a_keyspace_made_while_the_log_is_archived_comes_back() {
    let (mut place, storage) = Hooked::place();
    place.write(60);
    place.store.checkpoint(&place.repo).unwrap();
    place.store.archive(&place.repo).unwrap();
    let (store, once) = (place.store.clone(), AtomicBool::new(true));
    storage.on(move |call| {
        if let Call::List(prefix) = call
            && prefix.starts_with("archive/")
            && once.swap(false, Ordering::SeqCst)
        {
            store.keyspace("meanwhile").unwrap().insert("made", "while the archive was listed").unwrap();
        }
        Ok(())
    });
    let upto = place.store.archive(&place.repo).unwrap();
    storage.off();
    let restored = place.restored(At::Seq(upto), "new").unwrap();
    assert_eq!(content(&restored), content(&place.store));
}

/// What was caught up after an outage is told with the keyspaces that there were, not with those that are left.
#[test]
fn a_keyspace_dropped_while_the_archive_was_behind_comes_back_at_the_moments_before() {
    for reopened in [false, true] {
        let (mut place, storage) = Hooked::place();
        place.write(60);
        place.store.checkpoint(&place.repo).unwrap();
        place.store.archive(&place.repo).unwrap();
        storage.fail_pieces();
        for _ in 0..3 {
            (0..1_000u32).for_each(|n| _ = place.store.insert(n.to_be_bytes(), vec![7; 5_000]).unwrap());
            place.write(10);
            place.moment();
            place.store.archive(&place.repo).unwrap_err();
        }
        place.store.drop_keyspace("notes").unwrap();
        if reopened {
            place.store.close().unwrap();
            place.store = options().open(place.path("live")).unwrap();
        }
        place.store.insert("after", "the drop").unwrap();
        place.moment();
        storage.off();
        place.store.archive(&place.repo).unwrap();
        place.write(10);
        place.moment();
        place.store.archive(&place.repo).unwrap();
        place.check_moments(&format!("reopened: {reopened}"));
    }
}

/// The machine is lost before all of a backlog has been archived, and the newest that there is is asked for.
#[test]
fn a_part_of_a_backlog_that_was_archived_comes_back_where_the_time_now_is_asked_for() {
    let (mut place, storage) = Hooked::place();
    place.write(60);
    place.store.checkpoint(&place.repo).unwrap();
    place.store.archive(&place.repo).unwrap();
    (0..2_400u32).for_each(|n| _ = place.store.insert(n.to_be_bytes(), vec![7; 5_000]).unwrap());
    storage.fail_pieces_after(1);
    let error = place.store.archive(&place.repo).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    let archived = place.store.archives().unwrap()[0].upto;
    assert!(archived > Seq(60) && archived < Seq(2_460), "{archived}");
    let restored = place.restored(At::Time(SystemTime::now()), "new").unwrap();
    assert_eq!(restored.stats().unwrap().last_seq, archived);
}

#[test]
fn what_another_process_has_left_in_the_archive_is_made_durable_before_it_counts() {
    let (mut place, storage) = Hooked::place();
    place.write(60);
    place.store.archive(&place.repo).unwrap();
    let calls: Arc<Mutex<Vec<&str>>> = Arc::default();
    let noted = calls.clone();
    storage.on(move |call| {
        noted.lock().unwrap().push(match call {
            Call::List(prefix) if prefix.starts_with("archive/") => "list",
            Call::Settle => "settle",
            _ => "other",
        });
        Ok(())
    });
    // There is nothing new; what is listed may be another's, who ended before it was durable.
    place.store.archive(&place.repo).unwrap();
    let calls = calls.lock().unwrap();
    let listed = calls.iter().position(|call| *call == "list").unwrap();
    assert!(calls[listed..].contains(&"settle"), "{calls:?}");
}

/// Who ends it for good need not wait until that disk answers, if it ever does.
#[test]
fn an_archive_whose_disk_hangs_is_forgotten_at_once() {
    let (mut place, storage) = Hooked::place();
    place.write(60);
    place.store.checkpoint(&place.repo).unwrap();
    place.store.archive(&place.repo).unwrap();
    let (hangs, hung) = channel();
    let (answer, answered) = channel::<()>();
    let (hangs, answered) = (Mutex::new(hangs), Mutex::new(answered));
    storage.on(move |call| {
        if let Call::Write(name, _) = call
            && name.starts_with("archive/")
        {
            hangs.lock().unwrap().send(()).unwrap();
            let _ = answered.lock().unwrap().recv();
        }
        Ok(())
    });
    place.write(10);
    place.moment();
    let archiving = std::thread::spawn({
        let (store, repo) = (place.store.clone(), place.repo.clone());
        move || store.archive(&repo)
    });
    hung.recv_timeout(Duration::from_secs(20)).unwrap();
    let (tell, told) = channel();
    let forgetting = std::thread::spawn({
        let (store, id) = (place.store.clone(), place.repo.id());
        move || tell.send((store.forget_archive(id), store.forget_archive(id), store.archives()))
    });
    let found = told.recv_timeout(Duration::from_secs(20));
    drop(answer);
    forgetting.join().unwrap().unwrap();
    let archived = archiving.join().unwrap();
    let (first, second, held) = found.unwrap();
    assert_eq!((first.unwrap(), second.unwrap(), held.unwrap()), (true, false, vec![]));
    // What it was at it has come to, and nothing is kept for it all the same.
    assert_eq!(archived.unwrap(), place.moments[0].0);
    assert_eq!(place.store.archives().unwrap(), []);
    storage.off();
    place.write(10);
    place.moment();
    place.store.archive(&place.repo).unwrap();
    place.check_moments("");
}

/// What it is at goes on, and it ends by itself.
#[test]
fn an_archiver_whose_disk_hangs_is_ended_in_time() {
    let (mut place, storage) = Hooked::place();
    place.write(60);
    place.store.checkpoint(&place.repo).unwrap();
    let archiver = place.store.archive_continuously(&place.repo).unwrap();
    let (hangs, hung) = channel();
    let (answer, answered) = channel::<()>();
    let (hangs, answered) = (Mutex::new(hangs), Mutex::new(answered));
    storage.on(move |call| {
        if let Call::Write(name, _) = call
            && name.starts_with("archive/")
        {
            hangs.lock().unwrap().send(()).unwrap();
            let _ = answered.lock().unwrap().recv();
        }
        Ok(())
    });
    place.write(10);
    place.moment();
    let (tell, told) = channel();
    std::thread::spawn(move || tell.send(archiver.stop_within(Duration::from_millis(100))));
    hung.recv_timeout(Duration::from_secs(20)).unwrap();
    let error = told.recv_timeout(Duration::from_secs(20)).expect("it is waited for").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    drop(answer);
    storage.off();
    // Behind what it was at.
    let archiver = place.store.archive_continuously(&place.repo).unwrap();
    assert_eq!(archiver.stop_within(Duration::from_secs(60)).unwrap(), place.moments[0].0);
    place.check_moments("");
}

/// A repository beside the place's own.
pub fn other(place: &crate::Place) -> (BackupRepository, Hooked) {
    let storage = Hooked::new(&place.path("other"));
    (storage.repository(), storage)
}
