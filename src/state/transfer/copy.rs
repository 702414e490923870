//! Copying: a chunk of records goes from its owners to those that lack it.

use super::Purpose;
use super::chunk::{Chunk, Extent, Wanted, flushing, gather, newest_in};
use super::sources::{Sources, no_source};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Seq;
use crate::memtable::Table;
use crate::record::{RunBuffer, RunRecord};
use crate::shard::{Layout, Shard};
use crate::state::State;
use std::sync::Arc;

/// What a chunk carries, in bytes: some tens of milliseconds of work.
pub const CHUNK: usize = 1 << 20;
/// How many are gone through at once while nobody is there to be disturbed.
const CHUNKS: usize = 4;
/// Records handed to an engine at once.
const RUN_RECORDS: usize = 4096;
/// How much is copied before the targets are sealed and the position saved, in bytes.
pub const SEAL_EVERY: u64 = 64 << 20;

/// What a chunk came to.
#[derive(Debug)]
pub struct Copied {
    pub bytes: u64,
    pub records: u64,
    /// Where to go on; none at the end.
    pub end: Option<Vec<u8>>,
}

/// Copies the chunk from `from` on. Under the lock that keeps flushes from beginning. While nobody is there to be disturbed, a few
/// of them: the next is read while one is written.
pub fn copy_chunk(state: &State, layout: &Arc<Layout>, purpose: Purpose, from: &[u8]) -> Result<Copied> {
    let tables = flushing(state);
    let mut chunk = read_sources(state, layout, purpose, from)?;
    let mut copied = (0, 0);
    for _ in 1..chunks_at_once(state) {
        let Some(end) = chunk.end.clone() else { break };
        let write = || apply(state, layout, purpose, &chunk, &tables);
        let read = |end: &[u8]| read_sources(state, layout, purpose, end);
        let (written, next) = crate::sync::with_another(end.as_slice(), read, write);
        let (bytes, records) = written?;
        copied = (copied.0 + bytes, copied.1 + records);
        chunk = next.unwrap_or_else(|| Err(panicked()))?;
    }
    let (bytes, records) = apply(state, layout, purpose, &chunk, &tables)?;
    Ok(Copied { bytes: copied.0 + bytes, records: copied.1 + records, end: chunk.end })
}

/// How many chunks are gone through under one hold of the lock.
pub fn chunks_at_once(state: &State) -> usize {
    if state.abreast() > 1 { CHUNKS } else { 1 }
}

pub fn panicked() -> Error {
    Error::new(ErrorKind::Io, "reading a chunk panicked").remedy("see the log for the panic's text")
}

/// A chunk as its sources have it.
pub fn read_sources(state: &State, layout: &Arc<Layout>, purpose: Purpose, from: &[u8]) -> Result<Chunk> {
    with_sources(state, layout, purpose, |sources| {
        let engine = |shard: usize| layout.shards[shard].engine();
        let wanted = Wanted::From(sources.clone());
        gather(state, layout, from, Extent::Bytes(CHUNK), &sources.shards, &engine, &wanted)
    })
}

/// Reads by a choice of sources; a shard that fails is left out and its part read from others.
pub fn with_sources<T>(
    state: &State,
    layout: &Arc<Layout>,
    purpose: Purpose,
    read: impl Fn(&Arc<Sources>) -> Result<T, (usize, Error)>,
) -> Result<T> {
    let mut except = Vec::new();
    let mut cause = None;
    loop {
        let sources = match (Sources::choose(layout, purpose, &except), cause.take()) {
            (Ok(sources), _) => Arc::new(sources),
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

/// Writes a chunk to the shards that get its records; returns bytes and versions written.
pub fn apply(
    state: &State,
    layout: &Arc<Layout>,
    purpose: Purpose,
    chunk: &Chunk,
    tables: &[Arc<Table>],
) -> Result<(u64, u64)> {
    let live = state.memory.live();
    let mut keys = chunk.keys();
    if crate::plants::is("copy-skips-a-record") {
        keys.pop();
    }
    let mut runs: Vec<Vec<RunRecord<'_>>> = vec![Vec::new(); layout.shards.len()];
    let mut brought = None;
    for versions in &keys {
        // What a flush that is under way says of the key comes along: applied before the flush or after it, it comes to the
        // same, and a removal is not undone by the older record that it removes.
        let newer = newest_in(tables, versions.newest.key).filter(|r| r.seq > versions.newest.seq);
        let newer = newer.filter(|_| !crate::plants::is("copy-without-the-flush-under-way"));
        brought = brought.max(newer.map(|record| record.seq));
        let mut give = |target: usize| {
            if purpose.wants(layout, target, versions.position) {
                runs[target].extend(newer.into_iter().chain(versions.records()));
            }
        };
        match purpose {
            Purpose::Change => layout.next_owners_at(versions.position).for_each(give),
            Purpose::Filling(index) | Purpose::Mending(index) => give(index),
        }
    }
    // The flush of a table that waits has not seen to it yet: no shard is ever ahead of what recovery can replay.
    if let Some(seq) = brought
        && !crate::plants::is("copy-ahead-of-the-journal")
    {
        state.sync_to(seq)?;
    }
    let mut written = (0, 0);
    for (target, run) in runs.iter().enumerate().filter(|(_, run)| !run.is_empty()) {
        write(state, layout, purpose, target, run, &live)?;
        let size = |r: &RunRecord<'_>| (r.key.len() + r.value.map_or(0, <[u8]>::len)) as u64;
        written = (written.0 + run.iter().map(size).sum::<u64>(), written.1 + run.len() as u64);
    }
    Ok(written)
}

/// Applies a run to one shard in parts that keep the versions of a key together: a removal that comes alone is forgotten by the
/// engine, and the older version after it would be the key's newest.
pub fn write(
    state: &State,
    layout: &Arc<Layout>,
    purpose: Purpose,
    target: usize,
    mut run: &[RunRecord<'_>],
    live: &[Seq],
) -> Result<()> {
    let shard = &layout.shards[target];
    while !run.is_empty() {
        let mut end = run.len().min(RUN_RECORDS);
        while end < run.len() && run[end].key == run[end - 1].key {
            end += 1;
        }
        let (part, rest) = run.split_at(end);
        let (part, live) = (RunBuffer::of(part), live.to_vec());
        let apply = move |shard: &Shard| purpose.apply(shard, &part.run(), &live);
        state.beside(layout, target, apply).inspect_err(|error| purpose.failed(state, shard, error))?;
        run = rest;
    }
    Ok(())
}
