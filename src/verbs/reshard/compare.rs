//! Comparing: what the new owners hold against what their sources hold, record by record, before anybody relies on it.
//!
//! Invariant: a range that has been found equal stays equal, since both sides get every flush from there on.

use super::chunk::{Chunk, Extent, Versions, flushing, gather, newest_in, targets};
use super::copy::{CHUNK, apply, begin_targets, seal_targets, with_sources, write};
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::memtable::Table;
use crate::record::RunRecord;
use crate::shard::Layout;
use crate::state::State;
use crate::state::change::Mover;
use std::collections::HashSet;
use std::sync::Arc;

/// Compares one chunk. Returns whether there is more, and the bytes that were compared.
pub fn compare(state: &State, mover: &mut Mover) -> Result<(bool, u64)> {
    let layout = state.layout();
    let chunk = state.moving.lock();
    let tables = flushing(state);
    let (source, target) = read(state, &layout, &mover.position)?;
    if !are_equal(&layout, &source, &target, &tables) {
        let place = format!("{:02x?}", mover.position);
        log::warn!("copies differ from their sources in the keys from {place} on: they are copied again");
        begin_targets(state, &layout, mover)?;
        correct(state, &layout, &source, &target, &tables)?;
        let (source, target) = read(state, &layout, &mover.position)?;
        if !are_equal(&layout, &source, &target, &tables) {
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

/// Whether each shard that gains has what it should.
fn are_equal(layout: &Layout, source: &Chunk, target: &Chunk, tables: &[Arc<Table>]) -> bool {
    let due = source.keys();
    target.parts.iter().all(|part| {
        let due = due.iter().filter(|versions| layout.gains(part.shard, versions.position));
        let held = part.keys();
        due.filter_map(|v| counts(v, tables)).eq(held.iter().filter_map(|v| counts(v, tables)))
    })
}

/// A key's newest version, if that is a value. Keys of the memtable that is being flushed do not count: they may have
/// reached one side and not yet the other.
fn counts<'a>(versions: &Versions<'a>, tables: &[Arc<Table>]) -> Option<RunRecord<'a>> {
    let newest = versions.newest;
    (newest.value.is_some() && newest_in(tables, newest.key).is_none()).then_some(newest)
}

/// Copies a range again, and removes what the sources do not have.
fn correct(
    state: &State,
    layout: &Layout,
    source: &Chunk,
    target: &Chunk,
    tables: &[Arc<Table>],
) -> Result<()> {
    let there: HashSet<&[u8]> =
        source.parts.iter().flat_map(|part| part.copied.records().map(|record| record.key)).collect();
    for part in &target.parts {
        // Above every version, so the key goes as a whole; its neighbours in a page keep what snapshots see of them.
        // What is in a memtable may have come here by a flush that is yet to reach the source.
        let is_gone =
            |v: &Versions<'_>| !there.contains(v.newest.key) && newest_in(tables, v.newest.key).is_none();
        let gone = part.keys().into_iter().filter(is_gone);
        let run: Vec<RunRecord<'_>> =
            gone.map(|versions| RunRecord { key: versions.newest.key, seq: Seq::MAX, value: None }).collect();
        write(state, layout, part.shard, &run, &state.memory.live())?;
    }
    apply(state, layout, source, tables).map(|_| ())
}
