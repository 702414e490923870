//! Copying: a chunk of records goes from its owners to those that gain it.

use super::chunk::{Chunk, Extent, Sources, flushing, gather, newest_in, targets};
use crate::error::{Error, Result};
use crate::ids::{Seq, VirtualNode};
use crate::manifest::ChangeStep;
use crate::memtable::Table;
use crate::record::RunRecord;
use crate::shard::Layout;
use crate::state::State;
use crate::state::change::Mover;
use std::sync::Arc;

/// What a chunk carries, in bytes: some tens of milliseconds of work.
pub const CHUNK: usize = 1 << 20;
/// Records handed to an engine at once.
const RUN_RECORDS: usize = 4096;
/// How much is copied before the targets are sealed and the position saved, in bytes.
const SEAL_EVERY: u64 = 64 << 20;

/// Copies one chunk; returns the bytes that were copied. The last one ends the phase.
pub fn copy(state: &State, mover: &mut Mover) -> Result<u64> {
    let layout = state.layout();
    begin_targets(state, &layout, mover)?;
    let chunk = state.moving.lock();
    let (copied, records, end) = copy_chunk(state, &layout, &mover.position)?;
    drop(chunk);
    mover.unsealed += copied;
    state.change.copied_more(records, copied);
    match end {
        Some(end) => {
            mover.position = end;
            if mover.unsealed >= SEAL_EVERY {
                save(state, &layout, mover, ChangeStep::Copying)?;
            }
        }
        None => {
            mover.position = Vec::new();
            save(state, &layout, mover, ChangeStep::Verifying)?;
        }
    }
    Ok(copied)
}

/// Copies the chunk from `from` on. Under the lock that keeps flushes from beginning. Returns bytes, versions and the end.
fn copy_chunk(state: &State, layout: &Layout, from: &[u8]) -> Result<(u64, u64, Option<Vec<u8>>)> {
    let tables = flushing(state);
    let chunk = with_sources(state, layout, |sources| {
        let wanted = |shard, position| sources.is(layout, shard, position);
        gather(layout, from, Extent::Bytes(CHUNK), &sources.shards, &wanted)
    })?;
    let (bytes, records) = apply(state, layout, &chunk, &tables)?;
    Ok((bytes, records, chunk.end))
}

/// Reads by a choice of sources; a shard that fails is left out and its part read from others.
pub fn with_sources<T>(
    state: &State,
    layout: &Layout,
    read: impl Fn(&Sources) -> Result<T, (usize, Error)>,
) -> Result<T> {
    let mut except = Vec::new();
    let mut cause = None;
    loop {
        let sources = match (Sources::choose(layout, &except), cause.take()) {
            (Ok(sources), _) => sources,
            (Err(_), Some(error)) => return Err(error),
            (Err(node), None) => return Err(no_source(layout, node)),
        };
        match read(&sources) {
            Ok(read) => return Ok(read),
            Err((shard, error)) => {
                state.read_failed(&layout.shards[shard], &error);
                except.push(shard);
                cause = Some(error);
            }
        }
    }
}

fn no_source(layout: &Layout, node: VirtualNode) -> Error {
    let owners: Vec<String> = layout.ring.owners(node).iter().map(ToString::to_string).collect();
    let text = format!(
        "virtual node {node} has no owner that serves to be copied from: shards {}",
        owners.join(", ")
    );
    Error::new(crate::error::ErrorKind::Unavailable, text)
        .remedy("bring one of them back and reopen the store, or cancel the change")
}

/// Writes a chunk to the shards that gain its records; returns bytes and versions written.
pub fn apply(state: &State, layout: &Layout, chunk: &Chunk, tables: &[Arc<Table>]) -> Result<(u64, u64)> {
    let live = state.memory.live();
    let keys = chunk.keys();
    let mut runs: Vec<Vec<RunRecord<'_>>> = vec![Vec::new(); layout.shards.len()];
    let mut brought = None;
    for versions in &keys {
        // What a flush that is under way says of the key comes along: applied before the flush or after it, it comes to the
        // same, and a removal is not undone by the older record that it removes.
        let newer = newest_in(tables, versions.newest.key).filter(|r| r.seq > versions.newest.seq);
        brought = brought.max(newer.map(|record| record.seq));
        for target in layout.next_owners_at(versions.position) {
            if !layout.owns(target, versions.position) {
                runs[target].extend(newer.into_iter().chain(versions.records()));
            }
        }
    }
    // The flush of a table that waits has not seen to it yet: no shard is ever ahead of what recovery can replay.
    if let Some(seq) = brought {
        state.journal.sync_to(seq)?;
    }
    let mut written = (0, 0);
    for (target, run) in runs.iter().enumerate().filter(|(_, run)| !run.is_empty()) {
        write(state, layout, target, run, &live)?;
        let size = |r: &RunRecord<'_>| (r.key.len() + r.value.map_or(0, <[u8]>::len)) as u64;
        written = (written.0 + run.iter().map(size).sum::<u64>(), written.1 + run.len() as u64);
    }
    Ok(written)
}

/// Applies a run to one shard in parts that keep the versions of a key together.
pub fn write(
    state: &State,
    layout: &Layout,
    target: usize,
    mut run: &[RunRecord<'_>],
    live: &[Seq],
) -> Result<()> {
    let shard = &layout.shards[target];
    let engine = shard.engine()?;
    while !run.is_empty() {
        let mut end = run.len().min(RUN_RECORDS);
        while end < run.len() && run[end].key == run[end - 1].key {
            end += 1;
        }
        shard
            .apply(engine.as_ref(), &run[..end], live)
            .inspect_err(|error| state.shard_failed(shard, error))?;
        run = &run[end..];
    }
    Ok(())
}

/// Marks the seals of the shards that gain: they are being changed.
pub fn begin_targets(state: &State, layout: &Layout, mover: &mut Mover) -> Result<()> {
    if mover.begun {
        return Ok(());
    }
    for target in targets(layout) {
        let shard = &layout.shards[target];
        let engine = shard.engine()?;
        shard.begin_apply(engine.as_ref()).inspect_err(|error| state.shard_failed(shard, error))?;
    }
    mover.begun = true;
    Ok(())
}

/// Makes what the targets have been given durable.
pub fn seal_targets(state: &State, layout: &Layout, mover: &mut Mover) -> Result<()> {
    if !std::mem::take(&mut mover.begun) {
        return Ok(());
    }
    mover.unsealed = 0;
    for target in targets(layout) {
        let shard = &layout.shards[target];
        let engine = shard.engine()?;
        shard.seal(engine.as_ref(), shard.applied()).inspect_err(|error| state.shard_failed(shard, error))?;
    }
    Ok(())
}

/// Makes the copies durable, and then the word of how far they have got.
fn save(state: &State, layout: &Layout, mover: &mut Mover, step: ChangeStep) -> Result<()> {
    seal_targets(state, layout, mover)?;
    let (records, bytes) = state.change.copied();
    let mut manifest = state.manifest.lock();
    let mut next = manifest.clone();
    if let Some(change) = &mut next.change {
        change.step = step;
        change.position.clone_from(&mover.position);
        (change.records, change.bytes) = (records, bytes);
    }
    state.save_progress(&mut manifest, next)
}
