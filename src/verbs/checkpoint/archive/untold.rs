//! Keyspaces that were dropped though nothing says when: the list that did is lost.
//!
//! Invariant: each counts as there for as long as it may have been, so that it comes back at those moments rather than be lost; no longer than
//! up to the first write to another one of its name, which else were lost with all that followed it.

use crate::backup::piece::{Head, Named};
use crate::batch::{decode, keyspace_of};
use crate::ids::{KeyspaceId, Seq};
use crate::state::State;
use std::collections::HashMap;

/// The first of the commits of a piece in each keyspace.
pub type Begun = HashMap<KeyspaceId, Seq>;

/// The keyspaces that there were when the last piece was written, or were made since, and that are gone though nothing says when. As far as
/// anybody knows they were there at every moment up to `until`.
pub fn untold(state: &State, before: &Head, until: Seq) -> Vec<Named> {
    let manifest = state.manifest.lock();
    let told = state.archives.dropped_since(Seq::ZERO);
    let is_known = |id: KeyspaceId| {
        manifest.keyspaces.iter().any(|keyspace| keyspace.id == id && !keyspace.dropped)
            || told.iter().any(|gone| gone.id == id)
    };
    let there = before.keyspaces.iter().filter(|named| named.dropped.is_none_or(|at| at >= before.last));
    let there = there.map(|named| (named.id, &named.name, named.dropped.unwrap_or(until)));
    let made = manifest.keyspaces.iter().filter(|keyspace| keyspace.id.0 >= before.next_keyspace);
    let made = made.map(|keyspace| (keyspace.id, &keyspace.name, until));
    let gone = there.chain(made).filter(|(id, ..)| !is_known(*id));
    gone.map(|(id, name, at)| {
        log::warn!(
            "nothing says when keyspace {name:?} was dropped: to the archive it was there up to {at}, or the first write to another one of that name"
        );
        Named { id, name: name.clone(), dropped: Some(at) }
    })
    .collect()
}

/// Looks at a commit of the piece.
pub fn look(begun: &mut Begun, seq: Seq, ops: &[u8]) {
    for op in decode(ops).map_while(Result::ok) {
        begun.entry(keyspace_of(op.key)).or_insert(seq);
    }
}

/// Ends those that another one of their name was written to after, by the commits of a piece and all the `others` that it tells. A name is one
/// keyspace's at a time, and a later one has a higher number.
pub fn end(untold: &mut [Named], others: &[Named], begun: &Begun) {
    let all: Vec<(KeyspaceId, String)> =
        untold.iter().chain(others).map(|named| (named.id, named.name.clone())).collect();
    for gone in untold {
        let later = all.iter().filter(|(id, name)| *id > gone.id && *name == gone.name);
        let first = later.filter_map(|(id, _)| begun.get(id)).min();
        if let Some(before) = first.map(|first| Seq(first.0.saturating_sub(1))) {
            gone.dropped = Some(gone.dropped.map_or(before, |dropped| dropped.min(before)));
        }
    }
}
