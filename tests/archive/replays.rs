//! What a restore takes of the archived log, and who is told of it.

use crate::{Place, content, options};
use annulus::{At, Seq};

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
