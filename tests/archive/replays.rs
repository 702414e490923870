//! What a restore takes of the archived log, and who is told of it.

use crate::{Place, content, options};
use annulus::{At, BackupProgress, ErrorKind, Seq};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

#[test]
fn a_keyspace_that_is_restored_alone_gets_nothing_of_others_out_of_the_log() {
    let mut place = Place::new();
    place.write(60);
    let orders = place.store.keyspace("orders").unwrap();
    orders.insert("before", "the checkpoint").unwrap();
    place.store.checkpoint(&place.repo).unwrap();
    place.write(60);
    orders.insert("after", "it").unwrap();
    let later = place.store.keyspace("later").unwrap();
    later.insert("made", "after it").unwrap();
    place.moment();
    place.write(20);
    orders.remove("before").unwrap();
    place.store.archive(&place.repo).unwrap();
    let (seq, _, expected) = place.moments[0].clone();
    for name in ["orders", "later", "notes", "default"] {
        let restore = place.repo.restore_latest().unwrap().options(options().shards(2)).until(At::Seq(seq));
        let store = restore.keyspace(name).open(place.path(name)).unwrap();
        let mut only = expected.clone();
        only.retain(|(keyspace, _), _| keyspace == name);
        assert!(!only.is_empty(), "{name}");
        assert_eq!(content(&store), only, "{name}");
        assert_eq!(store.insert("next", "write").unwrap(), Seq(seq.0 + 1), "{name}");
    }
}

#[test]
fn a_replay_that_overwrites_one_key_is_told_of_and_may_be_ended() {
    const PIECES: usize = 5;
    let place = Place::new();
    place.store.insert("key", "of the checkpoint").unwrap();
    place.store.checkpoint(&place.repo).unwrap();
    let mut last = Seq::ZERO;
    for piece in 0..PIECES {
        for n in 0..200u32 {
            last = place
                .store
                .insert("key", [vec![piece as u8; 100], n.to_be_bytes().to_vec()].concat())
                .unwrap();
        }
        place.store.archive(&place.repo).unwrap();
    }
    let restore = |calls: usize, name: &str| {
        let told = Arc::new(Mutex::new(Vec::<BackupProgress>::new()));
        let notes = told.clone();
        let restore = place.repo.restore_latest().unwrap().options(options()).until(At::Seq(last));
        let restore = restore.progress(move |at| {
            let mut notes = notes.lock().unwrap();
            notes.push(at);
            if notes.len() == calls { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let store = restore.open(place.path(name));
        (store, std::mem::take(&mut *told.lock().unwrap()))
    };
    let (store, told) = restore(usize::MAX, "whole");
    assert_eq!(content(&store.unwrap()), content(&place.store));
    // The checkpoint is an index and a chunk.
    assert_eq!(told.len(), 2 + PIECES);
    assert!(told.windows(2).all(|pair| pair[0].objects < pair[1].objects && pair[0].bytes < pair[1].bytes));
    let end = told.last().unwrap();
    assert_eq!(end.bytes_total, Some(end.bytes));
    for calls in 3..=2 + PIECES {
        let (store, told) = restore(calls, "ended");
        assert_eq!((store.unwrap_err().kind(), told.len()), (ErrorKind::Cancelled, calls));
        assert!(!place.path("ended/MANIFEST").exists());
    }
}

/// What comes after the moment that is asked for, and before the checkpoint, is not counted.
#[test]
fn what_is_expected_of_an_archive_is_what_is_read_of_it() {
    let mut place = Place::new();
    for round in 0..4 {
        place.write(50);
        place.moment();
        if round != 2 {
            place.store.archive(&place.repo).unwrap();
        }
        if round == 0 {
            place.store.checkpoint(&place.repo).unwrap();
        }
    }
    for (number, (seq, _, expected)) in place.moments.iter().enumerate() {
        let end = Arc::new(Mutex::new(BackupProgress::default()));
        let told = end.clone();
        let restore = place.repo.restore_latest().unwrap().options(options()).until(At::Seq(*seq));
        let restore = restore.progress(move |at| {
            *told.lock().unwrap() = at;
            ControlFlow::Continue(())
        });
        let store = restore.open(place.path(&number.to_string())).unwrap();
        assert_eq!(&content(&store), expected);
        let end = *end.lock().unwrap();
        assert_eq!(end.bytes_total, Some(end.bytes), "moment {number}");
    }
}
