//! What counts for an archive.

use super::*;
use crate::backup::CheckpointId;
use crate::backup::checkpoint::KIND;
use crate::envelope;
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
