//! Comparing: what the new owners hold against what their sources hold, by a digest for each virtual node, before anybody
//! relies on it.
//!
//! Invariant: a range that has been found equal stays equal, since both sides get every flush from there on.

use super::chunk::{Chunk, Extent, Versions, gather, newest_in, targets};
use super::copy::{CHUNK, apply, begin_targets, seal_targets, with_sources, write};
use crate::digest::hash128;
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::memtable::Table;
use crate::record::RunRecord;
use crate::ring::Position;
use crate::shard::Layout;
use crate::state::State;
use crate::state::change::Mover;
use std::collections::{BTreeMap, HashSet};

/// The sum of the digests of a virtual node's live records, on each shard that gains it.
type Digests = BTreeMap<(usize, u32), u128>;

/// Compares one chunk. Returns whether there is more, and the bytes that were compared.
pub fn compare(state: &State, mover: &mut Mover) -> Result<(bool, u64)> {
    let layout = state.layout();
    let chunk = state.moving.lock();
    let flushed = state.memory.oldest_frozen();
    let (source, target) = read(state, &layout, &mover.position)?;
    if digests(&layout, &source, flushed.as_deref()) != digests_held(&layout, &target, flushed.as_deref()) {
        let place = format!("{:02x?}", mover.position);
        log::warn!("copies differ from their sources in the keys from {place} on: they are copied again");
        begin_targets(state, &layout, mover)?;
        correct(state, &layout, &source, &target, flushed.as_deref())?;
        let (source, target) = read(state, &layout, &mover.position)?;
        if digests(&layout, &source, flushed.as_deref()) != digests_held(&layout, &target, flushed.as_deref())
        {
            return Err(Error::corruption(format!(
                "copies differ from their sources in the keys from {place} on, also after they were copied again"
            ))
            .remedy("cancel the change; then look for what changes the shards' files"));
        }
    }
    drop(chunk);
    let bytes = target.parts.iter().map(|part| part.copied.bytes() as u64).sum();
    state.change.compared_more(bytes);
    match source.end {
        Some(end) => {
            mover.position = end;
            Ok((true, bytes))
        }
        None => {
            seal_targets(state, &layout, mover)?;
            mover.position = Vec::new();
            Ok((false, bytes))
        }
    }
}

/// A range of keys as its sources have it, and as those that gain it do.
fn read(state: &State, layout: &Layout, from: &[u8]) -> Result<(Chunk, Chunk)> {
    let source = with_sources(state, layout, |sources| {
        let wanted = |shard, position| sources.is(layout, shard, position);
        gather(layout, from, Extent::Bytes(CHUNK), &sources.shards, &wanted)
    })?;
    let wanted = |shard, position| layout.gains(shard, position);
    let extent = Extent::Key(source.end.as_deref());
    let target = gather(layout, from, extent, &targets(layout), &wanted).map_err(|(shard, error)| {
        state.read_failed(&layout.shards[shard], &error);
        error
    })?;
    Ok((source, target))
}

/// What the shards that gain should have.
fn digests(layout: &Layout, chunk: &Chunk, flushed: Option<&Table>) -> Digests {
    let mut sums = Digests::new();
    for versions in chunk.keys() {
        if let Some(digest) = digest(versions.records.first(), flushed) {
            for target in layout.next_owners_at(versions.position) {
                if !layout.owns(target, versions.position) {
                    add(&mut sums, layout, target, versions.position, digest);
                }
            }
        }
    }
    sums
}

/// What they have.
fn digests_held(layout: &Layout, chunk: &Chunk, flushed: Option<&Table>) -> Digests {
    let mut sums = Digests::new();
    for part in &chunk.parts {
        for versions in part.keys() {
            if let Some(digest) = digest(versions.records.first(), flushed) {
                add(&mut sums, layout, part.shard, versions.position, digest);
            }
        }
    }
    sums
}

fn add(sums: &mut Digests, layout: &Layout, target: usize, position: Position, digest: u128) {
    let node = layout.next.as_ref().map_or(0, |next| next.ring.virtual_node_at(position).0);
    let sum = sums.entry((target, node)).or_default();
    *sum = sum.wrapping_add(digest);
}

/// Of a key's newest version, if that is a value. Keys of the memtable that is being flushed do not count: they may
/// have reached one side and not yet the other.
fn digest(newest: Option<&RunRecord<'_>>, flushed: Option<&Table>) -> Option<u128> {
    let RunRecord { key, seq, value: Some(value) } = newest? else { return None };
    newest_in(flushed, key).is_none().then(|| hash128(&[key, &seq.0.to_le_bytes(), value]))
}

/// Copies a range again, and removes what the sources do not have.
fn correct(
    state: &State,
    layout: &Layout,
    source: &Chunk,
    target: &Chunk,
    flushed: Option<&Table>,
) -> Result<()> {
    let live = state.memory.live();
    let there: HashSet<&[u8]> =
        source.parts.iter().flat_map(|part| part.copied.records().map(|record| record.key)).collect();
    for part in &target.parts {
        // The key goes as a whole; its neighbours keep what snapshots want of them. What is in the table that is being flushed may have come here by a flush that is yet to reach the source.
        let is_gone = |v: &Versions<'_>| !there.contains(v.key) && newest_in(flushed, v.key).is_none();
        let gone = part.keys().into_iter().filter(is_gone);
        let run: Vec<RunRecord<'_>> =
            gone.map(|versions| RunRecord { key: versions.key, seq: Seq::MAX, value: None }).collect();
        write(state, layout, part.shard, &run, &live)?;
    }
    apply(state, layout, source, flushed).map(|_| ())
}
