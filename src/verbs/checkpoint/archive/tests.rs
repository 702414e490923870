//! What counts for an archive.

use super::*;
use crate::backup::CheckpointId;
use crate::backup::checkpoint::KIND;
use crate::envelope;
use crate::ids::KeyspaceId;
use crate::store::Store;

/// A restore does not begin with it, so what lies before it is missing all the same.
#[test]
fn a_checkpoint_of_what_was_given_up_closes_no_gap() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("live")).unwrap();
    let repo = BackupRepository::open(dir.path().join("backup")).unwrap();
    let state = &store.handle.state;
    let id = state.manifest.lock().store;
    let mut taken = Vec::new();
    for n in 0..2u8 {
        store.insert([n], "a write").unwrap();
        taken.push(repo.load(store.checkpoint(&repo).unwrap()).unwrap());
    }
    assert!(is_bridged(state, &repo, id, Seq(2)).unwrap());
    // As of a copy that has the first write alone, in another opening.
    let third = CheckpointId(taken[1].id.0 + 1);
    let body = crate::backup::checkpoint::Body { id: third, ..taken[0].clone() };
    repo.storage.write(&third.name(), &envelope::encode(KIND, &body).unwrap()).unwrap();
    store.close().unwrap();
    let store = Store::open(dir.path().join("live")).unwrap();
    let state = &store.handle.state;
    assert!(!is_bridged(state, &repo, id, Seq(2)).unwrap());
    assert!(is_bridged(state, &repo, id, Seq(1)).unwrap());
}

/// None of them has a word of when it was dropped, and none takes another one's writes.
#[test]
fn of_keyspaces_of_one_name_each_ends_before_the_first_write_to_a_later_one() {
    let named = |id, name: &str, dropped: Option<u64>| Named {
        id: KeyspaceId(id),
        name: name.to_owned(),
        dropped: dropped.map(Seq),
    };
    let mut untold = vec![named(1, "notes", Some(50)), named(2, "notes", Some(50)), named(3, "x", Some(50))];
    let others = [named(0, "default", None), named(4, "notes", None), named(5, "x", Some(60))];
    let mut begun = Begun::new();
    let mut ends = |writes: &[(u64, u32)]| {
        for (seq, id) in writes {
            // Of a batch that is of several.
            let mut ops = Vec::new();
            for keyspace in [0, *id] {
                crate::batch::encode(&mut ops, KeyspaceId(keyspace), b"key", Some(b"value")).unwrap();
            }
            untold::look(&mut begun, Seq(*seq), &ops);
        }
        untold::end(&mut untold, &others, &begun);
        untold.iter().map(|gone| gone.dropped.unwrap().0).collect::<Vec<_>>()
    };
    assert_eq!(ends(&[(20, 0), (21, 1), (22, 3)]), [50, 50, 50]);
    assert_eq!(ends(&[(30, 2), (31, 2)]), [29, 50, 50]);
    assert_eq!(ends(&[(40, 4), (45, 5)]), [29, 39, 44]);
    // What it was known to have come to stays.
    assert_eq!(ends(&[(46, 2), (55, 4)]), [29, 39, 44]);
}
