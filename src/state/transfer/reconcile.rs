//! Anti-entropy: replicas are compared with each other, record by record, and what differs is made equal.
//!
//! All replicas lie in this process, so nothing is saved by comparing digests first, as stores that are spread over machines do
//! with hash trees (Dynamo, Cassandra): every page must be read to be digested, and digesting costs as much as comparing.
//!
//! **What is right.** Of two versions the one with the greater sequence, whoever has it. Of a record that one replica has and another has
//! not: a removal leaves nothing behind, so either may be right. A shard that holds other pages than its figures say has lost them or
//! gone back in time: it is not believed. Nobody is believed rather than it before he was counted as well. Else most of them decide; and
//! where that is not enough either, the record stays.

use super::chunk::{Extent, Versions, Wanted, flushing, gather, newest_in};
use super::copy::CHUNK;
use crate::batch;
use crate::error::{ErrorKind, Result};
use crate::ids::{KeyspaceId, ShardId};
use crate::record::{KeyRange, RunBuffer, RunRecord};
use crate::shard::Layout;
use crate::state::State;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What comparing a chunk came to.
#[derive(Debug, Default)]
pub struct Reconciled {
    pub bytes: u64,
    pub records: u64,
    pub reconciled: u64,
    pub unsettled: u64,
    /// These are to be counted first, and then the chunk is compared again: nothing else tells which of them is right.
    pub count: Vec<ShardId>,
    /// Where to go on; none at the end.
    pub end: Option<Vec<u8>>,
}

/// What is known of shards from counting their pages.
#[derive(Debug, Default)]
pub struct Counted {
    /// Those that are yet to be, before anything is compared again: none of them is believed rather than another before all are.
    pub due: BTreeSet<ShardId>,
    /// All that were counted in this scrub.
    pub all: BTreeSet<ShardId>,
    /// Those that were found, by this one or by one before it that did not come to its end, to hold other pages than they
    /// should.
    pub wrong: BTreeSet<ShardId>,
    /// Those that were counted in vain, since some page could not be read: whether others are lost is not known.
    pub unread: BTreeSet<ShardId>,
}

impl Counted {
    /// A shard begins anew, and has what others hold: what was known of it was of other pages.
    pub fn forget(&mut self, shard: ShardId) {
        for of in [&mut self.all, &mut self.wrong, &mut self.unread] {
            of.remove(&shard);
        }
    }
}

/// One key as one of its owners has it.
struct Held<'a> {
    shard: usize,
    versions: Versions<'a>,
}

/// What a shard is to hold of some keys.
type Corrections<'a> = BTreeMap<usize, Vec<(&'a [u8], Vec<RunRecord<'a>>)>>;

/// Compares the replicas of a chunk of records. Under the lock that keeps flushes from beginning, and with none under way.
pub fn reconcile_chunk(
    state: &State,
    layout: &Arc<Layout>,
    from: &[u8],
    counted: &Counted,
) -> Result<Reconciled> {
    let tables = flushing(state);
    let members = layout.ring.members().len();
    let shards: Vec<usize> = (0..members).filter(|index| layout.shards[*index].is_complete()).collect();
    let engine = |shard: usize| layout.shards[shard].engine();
    let chunk = gather(state, layout, from, Extent::Bytes(CHUNK), &shards, &engine, &Wanted::Own).map_err(
        |(shard, error)| {
            match error.kind() {
                // Nobody else puts another engine in its place meanwhile.
                ErrorKind::Closed => state.shard_failed(&layout.shards[shard], &error),
                _ => state.read_failed(&layout.shards[shard], &error),
            }
            error
        },
    )?;
    let mut held: Vec<Held<'_>> = Vec::new();
    for part in &chunk.parts {
        let of = |versions| Held { shard: part.shard, versions };
        held.extend(part.keys().into_iter().map(of));
    }
    held.sort_by(|a, b| a.versions.newest.key.cmp(b.versions.newest.key));
    let bytes = chunk.parts.iter().map(|part| part.copied.bytes() as u64).sum();
    let mut found = Reconciled { bytes, ..Reconciled::default() };
    let mut corrections: Corrections<'_> = BTreeMap::new();
    let live = state.live_keyspaces();
    for group in held.chunk_by(|a, b| a.versions.newest.key == b.versions.newest.key) {
        let Some(first) = group.first() else { continue };
        // What is on its way has reached some of them and not others.
        if newest_in(&tables, first.versions.newest.key).is_some() {
            continue;
        }
        // What was dropped is given to nobody any more who has been away, and is yet to leave the others.
        let keyspace = batch::keyspace_of(first.versions.newest.key);
        if keyspace != KeyspaceId(0) && !live.contains(&keyspace) {
            continue;
        }
        found.records += 1;
        let owners = layout.owners_at(first.versions.position).iter().map(|owner| usize::from(*owner));
        let owners: Vec<usize> = owners.filter(|owner| shards.contains(owner)).collect();
        if !differs(group, &owners) {
            continue;
        }
        settle(layout, group, &owners, counted, &mut found, &mut corrections);
    }
    if found.count.is_empty() {
        write(state, layout, corrections)?;
        found.end = chunk.end;
    }
    Ok(found)
}

/// What an owner holds of a key last, a removal included, which is there as long as a snapshot sees what it removed.
fn newest_of<'a>(group: &[Held<'a>], owner: usize) -> Option<RunRecord<'a>> {
    Some(group.iter().find(|held| held.shard == owner)?.versions.newest)
}

/// The same, if it is a value.
fn value_of<'a>(group: &[Held<'a>], owner: usize) -> Option<RunRecord<'a>> {
    newest_of(group, owner).filter(|newest| newest.value.is_some())
}

fn differs(group: &[Held<'_>], owners: &[usize]) -> bool {
    let mut all = owners.iter().map(|owner| value_of(group, *owner));
    let Some(first) = all.next() else { return false };
    all.any(|other| other != first)
}

/// Decides what is right, and what that means for each owner.
fn settle<'a>(
    layout: &Layout,
    group: &[Held<'a>],
    owners: &[usize],
    counted: &Counted,
    found: &mut Reconciled,
    corrections: &mut Corrections<'a>,
) {
    let id = |owner: usize| layout.shards[owner].id;
    let believed: Vec<usize> =
        owners.iter().copied().filter(|owner| !counted.wrong.contains(&id(*owner))).collect();
    // Nor is a record gone only since those lack it who may have lost it for all that is known.
    let known = |owner: &usize| newest_of(group, *owner).is_some() || !counted.unread.contains(&id(*owner));
    let judges = if believed.iter().any(known) { &believed } else { owners };
    // The newest; of two with the same sequence, the one that more of them have. Whoever has it: no shard makes up a version, nor a number.
    let votes =
        |found: &RunRecord<'a>| owners.iter().filter(|o| newest_of(group, **o) == Some(*found)).count();
    let newest = owners.iter().filter_map(|owner| newest_of(group, *owner));
    let newest = match crate::plants::is("scrub-prefers-the-older") {
        false => newest.max_by_key(|found| (found.seq, votes(found))),
        true => newest.min_by_key(|found| (found.seq, votes(found))),
    };
    let removed = newest.is_some_and(|newest| newest.value.is_none());
    // Of the others: who has an older version, a removal too, lacks the newer one, and says nothing against it.
    let is_without = |owner: &&usize| newest_of(group, **owner).is_none();
    let open = !removed && owners.iter().any(|owner| is_without(&owner));
    // A removal leaves nothing behind: one of them is not what it should be, and counting may tell which. That goes as well for the one that
    // is believed only since nobody has counted it.
    if open && owners.iter().any(|owner| !counted.all.contains(&id(*owner))) {
        let unknown = owners.iter().map(|owner| id(*owner)).filter(|id| !counted.all.contains(id));
        found.count.extend(unknown);
        return;
    }
    let without = judges.iter().filter(is_without).count();
    let with = judges.len() - without;
    let tie = open && with == without;
    found.unsettled += u64::from(tie);
    found.reconciled += 1;
    let right = newest.filter(|newest| newest.value.is_some() && with >= without);
    let Some(key) = group.first().map(|held| held.versions.newest.key) else { return };
    for owner in owners.iter().filter(|owner| value_of(group, **owner) != right) {
        // Of a removal, too, what snapshots still see of the versions before it.
        let source = newest.filter(|_| right.is_some() || removed);
        let source = source.and_then(|newest| group.iter().find(|held| held.versions.newest == newest));
        let versions = source.iter().flat_map(|held| held.versions.records()).collect();
        corrections.entry(*owner).or_default().push((key, versions));
    }
}

fn write(state: &State, layout: &Arc<Layout>, corrections: Corrections<'_>) -> Result<()> {
    for (index, keys) in corrections {
        let range = |key: &[u8]| KeyRange { lo: key.to_vec(), hi: Some([key, &[0][..]].concat()) };
        let right: Vec<_> =
            keys.iter().map(|(key, versions)| (range(key), RunBuffer::of(versions))).collect();
        let written = state.beside(layout, index, move |shard| {
            let session = shard.begin_apply()?;
            // In one step for readers: a key is never seen without its value on the way.
            let replace = |(range, versions): &(KeyRange, RunBuffer)| {
                shard.engine()?.replace_range(range, &versions.run())
            };
            let written = right.iter().try_for_each(replace).and_then(|()| shard.seal(shard.applied()));
            written.inspect_err(|_| session.leave())
        });
        // What a reader or a checkpoint was given before that is not given to another. Some of it may be right now also where the rest
        // has failed.
        state.records.forget(keys.iter().map(|(key, _)| *key));
        state.changed.corrected();
        written?;
    }
    Ok(())
}
