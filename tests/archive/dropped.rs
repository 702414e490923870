//! What a restore begins with, and which keyspaces it has.

use crate::common::copy;
use crate::hooked::Hooked;
use crate::{Content, Place, content, options, walk};
use annulus::{At, CheckpointId, CheckpointOptions, ErrorKind, Seq};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

#[test]
fn a_keyspace_dropped_since_the_checkpoint_is_passed_over() {
    for again in [false, true] {
        let mut place = Place::new();
        place.write(60);
        place.store.checkpoint(&place.repo).unwrap();
        place.store.archive(&place.repo).unwrap();
        place.moment();
        place.store.drop_keyspace("notes").unwrap();
        if again {
            place.store.keyspace("notes").unwrap().insert("of the same name", "another").unwrap();
        }
        for n in 0..3u8 {
            place.store.insert([n], [n]).unwrap();
            place.moment();
            place.store.archive(&place.repo).unwrap();
        }
        place.check_moments(&format!("made again: {again}"));
    }
}

#[test]
fn a_repair_passes_over_keyspaces_dropped_since_the_checkpoint() {
    let mut place = Place::new();
    place.write(300);
    place.store.checkpoint(&place.repo).unwrap();
    place.store.archive(&place.repo).unwrap();
    place.store.drop_keyspace("notes").unwrap();
    place.store.insert("after", "the drop").unwrap();
    place.store.archive(&place.repo).unwrap();
    let (expected, live) = (content(&place.store), place.path("live"));
    place.store.close().unwrap();
    for lost in ["shards/0000", "shards/0002"] {
        std::fs::remove_dir_all(live.join(lost)).unwrap();
    }
    let repaired = options().repair_from(&place.repo, &live).unwrap();
    assert_eq!(repaired.shards.len(), 2);
    assert_eq!(content(&options().existing_only(true).open(&live).unwrap()), expected);
}

/// What a piece had that is gone lies in the journal still, or else the repair says that it cannot be had.
#[test]
fn a_repair_without_one_of_the_archives_pieces_is_whole_or_refused() {
    let mut place = Place::new();
    place.write(60);
    place.store.checkpoint(&place.repo).unwrap();
    for _ in 0..4 {
        place.store.archive(&place.repo).unwrap();
        place.write(3_000);
        place.store.flush().unwrap();
    }
    place.store.archive(&place.repo).unwrap();
    place.write(20);
    let (expected, live, bad) = (content(&place.store), place.path("live"), place.path("bad"));
    place.store.close().unwrap();
    let list = |dir: PathBuf| -> Vec<PathBuf> {
        let mut list: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
        list.sort();
        list
    };
    let pieces = list(list(place.path("backup/archive")).remove(0));
    assert!(pieces.len() > 4);
    let (mut whole, mut refused) = (0, 0);
    for piece in pieces {
        copy(&live, &bad);
        for lost in ["shards/0000", "shards/0002"] {
            std::fs::remove_dir_all(bad.join(lost)).unwrap();
        }
        let aside = place.path("aside");
        std::fs::rename(&piece, &aside).unwrap();
        match options().repair_from(&place.repo, &bad) {
            Ok(_) => {
                assert_eq!(content(&options().existing_only(true).open(&bad).unwrap()), expected);
                whole += 1;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
                refused += 1;
            }
        }
        std::fs::rename(&aside, &piece).unwrap();
    }
    assert!(whole > 0 && refused > 2, "{whole} whole, {refused} refused");
}

/// What the journal has need not be read of the archive, and what it need not have may be damaged.
#[test]
fn a_repair_does_without_damaged_pieces_of_what_the_journal_has() {
    let mut place = Place::new();
    place.write(60);
    place.store.checkpoint(&place.repo).unwrap();
    place.store.archive(&place.repo).unwrap();
    for _ in 0..2 {
        place.write(60);
        place.store.archive(&place.repo).unwrap();
    }
    let (expected, live) = (content(&place.store), place.path("live"));
    place.store.close().unwrap();
    for piece in &walk(place.path("backup/archive"))[1..] {
        std::fs::write(piece, b"rubbish").unwrap();
    }
    for lost in ["shards/0000", "shards/0002"] {
        std::fs::remove_dir_all(live.join(lost)).unwrap();
    }
    let repaired = options().repair_from(&place.repo, &live).unwrap();
    assert_eq!((repaired.shards.len(), repaired.upto), (2, Seq(60)));
    assert_eq!(content(&options().existing_only(true).open(&live).unwrap()), expected);
}

#[test]
fn a_repair_goes_back_to_an_earlier_checkpoint_where_the_newest_is_damaged() {
    let mut place = Place::new();
    place.write(60);
    place.store.checkpoint(&place.repo).unwrap();
    let before = objects(&place.path("backup"));
    for _ in 0..2 {
        place.write(60);
        place.store.archive(&place.repo).unwrap();
    }
    place.store.checkpoint(&place.repo).unwrap();
    let (expected, live) = (content(&place.store), place.path("live"));
    place.store.close().unwrap();
    for object in objects(&place.path("backup")).difference(&before) {
        std::fs::write(object, b"rubbish").unwrap();
    }
    for lost in ["shards/0000", "shards/0002"] {
        std::fs::remove_dir_all(live.join(lost)).unwrap();
    }
    let repaired = options().repair_from(&place.repo, &live).unwrap();
    assert_eq!((repaired.shards.len(), repaired.upto), (2, Seq(180)));
    assert_eq!(content(&options().existing_only(true).open(&live).unwrap()), expected);
}

fn objects(backup: &Path) -> BTreeSet<PathBuf> {
    let list = |dir: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    list(&backup.join("objects")).iter().flat_map(|dir| list(dir)).collect()
}

#[test]
fn a_restore_goes_on_from_the_checkpoint_that_was_named() {
    let mut place = Place::new();
    place.write(60);
    let first = place.store.checkpoint(&place.repo).unwrap();
    place.store.archive(&place.repo).unwrap();
    let before = objects(&place.path("backup"));
    place.write(100);
    let second = place.store.checkpoint(&place.repo).unwrap();
    place.write(10);
    place.moment();
    place.store.archive(&place.repo).unwrap();
    for object in objects(&place.path("backup")).difference(&before) {
        std::fs::write(object, b"rubbish").unwrap();
    }
    let (seq, _, expected) = place.moments[0].clone();
    let time = SystemTime::now();
    for (name, at) in [("seq", At::Seq(seq)), ("time", At::Time(time))] {
        let restore = |id| place.repo.restore(id).unwrap().options(options()).until(at);
        let error = restore(second).open(place.path("second")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
        assert_eq!(content(&restore(first).open(place.path(name)).unwrap()), expected);
    }
}

/// Where the archive does not lead from the one that was named to the moment asked for, a later one may.
#[test]
fn a_restore_begins_with_a_later_checkpoint_where_the_archive_has_nothing_after_the_named_one() {
    let mut place = Place::new();
    place.write(60);
    let first = place.store.checkpoint(&place.repo).unwrap();
    place.write(100);
    place.store.checkpoint(&place.repo).unwrap();
    place.moment();
    let (seq, _, expected) = place.moments[0].clone();
    let restore = place.repo.restore(first).unwrap().options(options()).until(At::Seq(seq));
    assert_eq!(content(&restore.open(place.path("new")).unwrap()), expected);
}

/// Takes a checkpoint; while it runs "notes" gets one more record, all is archived if `archived`, and "notes" is dropped. Returns also what
/// there was right before that.
fn dropped_meanwhile(place: &Place, archived: bool) -> (CheckpointId, (Seq, SystemTime, Content)) {
    let seen = Arc::new(Mutex::new(None));
    let (store, repo, noted) = (place.store.clone(), place.repo.clone(), seen.clone());
    let progress = move |_| {
        let mut noted = noted.lock().unwrap();
        if noted.is_none() {
            let seq = store.keyspace("notes").unwrap().insert("written", "meanwhile").unwrap();
            if archived {
                store.archive(&repo).unwrap();
            }
            let now = SystemTime::now();
            *noted = Some((seq, now, content(&store)));
            while now.elapsed().unwrap().as_millis() < 2 {
                std::thread::yield_now();
            }
            store.drop_keyspace("notes").unwrap();
        }
        ControlFlow::Continue(())
    };
    let options = CheckpointOptions::new().full(true).progress(progress);
    let id = place.store.checkpoint_with(&place.repo, options).unwrap();
    assert_eq!(place.repo.get(id).unwrap().keyspaces, ["default"]);
    let seen = seen.lock().unwrap().take();
    (id, seen.unwrap())
}

/// Such a checkpoint does not have it, though it was there, and full, at the moment of the checkpoint and after.
#[test]
fn a_keyspace_dropped_while_a_checkpoint_ran_comes_back_whole_or_not_at_all() {
    for (earlier, archived) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut place = Place::new();
        place.write(20);
        if earlier {
            place.store.checkpoint(&place.repo).unwrap();
        }
        place.store.archive(&place.repo).unwrap();
        for n in 0..3_000u32 {
            place.store.insert(n.to_be_bytes(), vec![n as u8; 1_000]).unwrap();
        }
        place.moment();
        place.store.archive(&place.repo).unwrap();
        let (id, during) = dropped_meanwhile(&place, archived);
        place.store.insert("after", "the drop").unwrap();
        place.moment();
        place.store.archive(&place.repo).unwrap();
        let restore = |at| place.repo.restore(id).unwrap().options(options()).until(at);
        let (before, after) = (&place.moments[0], &place.moments[1]);
        let mut wanted = vec![(At::Seq(before.0), before), (At::Seq(during.0), &during)];
        if archived {
            wanted.push((At::Time(during.1), &during));
        }
        for (number, (at, (_, _, expected))) in wanted.into_iter().enumerate() {
            let case = format!("{at:?}, earlier: {earlier}, archived: {archived}");
            match restore(at).open(place.path(&format!("{number}"))) {
                Ok(store) => assert!(earlier && &content(&store) == expected, "{case}"),
                Err(error) => {
                    assert!(!earlier && error.kind() == ErrorKind::NotFound, "{case}: {error}");
                    assert!(error.to_string().contains("notes") && error.advice().is_some(), "{error}");
                }
            }
            // What the checkpoint has, it has.
            let alone = restore(at).keyspace("default").open(place.path(&format!("{number}-alone"))).unwrap();
            let mut expected = expected.clone();
            expected.retain(|(keyspace, _), _| keyspace == "default");
            assert!(content(&alone) == expected, "{case}");
        }
        assert!(content(&restore(At::Seq(after.0)).open(place.path("after")).unwrap()) == after.2);
        let itself = place.repo.restore(id).unwrap().options(options()).open(place.path("itself")).unwrap();
        assert_eq!(itself.list_keyspaces().unwrap(), ["default"]);
    }
}

fn reopen(place: &mut Place) {
    place.store.close().unwrap();
    place.store = options().open(place.path("live")).unwrap();
}

/// The first archive begins as far back as the journal reaches.
#[test]
fn a_keyspace_dropped_before_anything_was_archived_comes_back_at_the_moments_before() {
    for reopened in [false, true] {
        let mut place = Place::new();
        place.write(20);
        place.store.checkpoint(&place.repo).unwrap();
        place.write(1);
        place.moment();
        place.store.drop_keyspace("notes").unwrap();
        place.store.keyspace("notes").unwrap().insert("of the same name", "another").unwrap();
        place.moment();
        if reopened {
            reopen(&mut place);
        }
        place.store.archive(&place.repo).unwrap();
        place.check_moments(&format!("reopened: {reopened}"));
    }
}

#[test]
fn a_keyspace_dropped_while_the_archive_was_forgotten_comes_back_at_the_moments_before() {
    for reopened in [false, true] {
        let mut place = Place::new();
        place.write(20);
        place.store.checkpoint(&place.repo).unwrap();
        place.write(20);
        place.store.archive(&place.repo).unwrap();
        place.store.forget_archive(place.repo.id()).unwrap();
        place.write(1);
        place.moment();
        place.store.drop_keyspace("notes").unwrap();
        if reopened {
            reopen(&mut place);
        }
        place.store.archive(&place.repo).unwrap();
        place.write(1);
        place.moment();
        place.store.archive(&place.repo).unwrap();
        place.check_moments(&format!("reopened: {reopened}"));
    }
}

/// Archives, writes two pieces' worth of moments, and drops "notes".
fn dropped_behind(place: &mut Place) {
    place.write(20);
    place.store.checkpoint(&place.repo).unwrap();
    place.write(20);
    place.store.archive(&place.repo).unwrap();
    for _ in 0..2 {
        // More than a piece has.
        (0..5u8).for_each(|n| _ = place.store.insert([n], vec![n; 1 << 20]).unwrap());
        place.write(1);
        place.moment();
    }
    place.store.drop_keyspace("notes").unwrap();
}

/// Opens the store again without the list of what was dropped.
fn reopen_without_list(place: &mut Place, damaged: bool) {
    place.store.close().unwrap();
    let list = place.path("live/ARCHIVES");
    if damaged {
        std::fs::write(&list, b"rubbish").unwrap();
    } else {
        std::fs::remove_file(&list).unwrap();
    }
    place.store = options().open(place.path("live")).unwrap();
}

/// Of the keyspaces that were dropped since the last piece nobody knows up to which write they were there, and each was there at some of them.
#[test]
fn a_keyspace_comes_back_at_the_moments_before_a_drop_of_which_the_list_is_lost() {
    for damaged in [false, true] {
        let mut place = Place::new();
        dropped_behind(&mut place);
        reopen_without_list(&mut place, damaged);
        place.store.archive(&place.repo).unwrap();
        assert!(walk(place.path("backup/archive")).len() > 2);
        for _ in 0..2 {
            place.store.insert("after", "the drop").unwrap();
            place.moment();
            place.store.archive(&place.repo).unwrap();
        }
        place.check_moments(&format!("damaged: {damaged}"));
    }
}

/// It had come to its end at the latest before the first write to the other one, which else were lost to a restore with all that followed it.
#[test]
fn a_keyspace_made_again_comes_back_with_all_its_writes_where_the_list_of_drops_is_lost() {
    for (damaged, pieces) in [(false, 0), (true, 2), (false, 3)] {
        let (mut place, storage) = Hooked::place();
        dropped_behind(&mut place);
        let again = place.store.keyspace("notes").unwrap();
        again.insert("of the same name", "another").unwrap();
        place.moment();
        // It is in the midst of a piece, and begins one.
        (0..6u8).for_each(|n| _ = again.insert([n], vec![n; 1 << 20]).unwrap());
        place.moment();
        reopen_without_list(&mut place, damaged);
        if pieces > 0 {
            // A process that ends when so many pieces of the backlog have been written.
            storage.fail_pieces_after(pieces);
            place.store.archive(&place.repo).unwrap_err();
            storage.off();
            reopen_without_list(&mut place, damaged);
        }
        place.store.archive(&place.repo).unwrap();
        for n in 0..2u8 {
            place.store.keyspace("notes").unwrap().insert([n], "after").unwrap();
            place.moment();
            place.store.archive(&place.repo).unwrap();
        }
        place.check_moments(&format!("damaged: {damaged}, ended after: {pieces}"));
    }
}

/// A store that is never archived keeps no drops that no archive could tell of any more.
#[test]
fn drops_are_written_down_for_as_long_as_the_journal_reaches_back_to_them() {
    let mut place = Place::new();
    for name in ["first", "second", "third"] {
        place.store.keyspace(name).unwrap().insert("one", "record").unwrap();
        place.store.drop_keyspace(name).unwrap();
        let written = std::fs::read(place.path("live/ARCHIVES")).unwrap();
        let written = String::from_utf8_lossy(&written);
        assert_eq!(written.matches(r#""at":"#).count(), 1, "{written}");
        assert!(written.contains(name), "{written}");
        place.write(3_000);
        place.store.flush().unwrap();
        place.write(3_000);
        place.store.flush().unwrap();
    }
}
