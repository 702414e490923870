//! Comparing: what those that got records hold against what their sources hold, record by record, before anybody relies on
//! it.
//!
//! Invariant: a range that has been found equal stays equal, since both sides get every flush from there on.

use super::Purpose;
use super::chunk::{Chunk, Extent, Versions, Wanted, flushing, gather, newest_in};
use super::copy::{apply, chunks_at_once, panicked, read_sources, write};
use crate::batch;
use crate::error::{Error, Result};
use crate::ids::{KeyspaceId, Seq};
use crate::memtable::Table;
use crate::record::RunRecord;
use crate::shard::Layout;
use crate::state::State;
use std::collections::HashSet;
use std::sync::Arc;

/// What comparing a chunk came to.
#[derive(Debug)]
pub struct Compared {
    pub bytes: u64,
    /// Where to go on; none at the end.
    pub end: Option<Vec<u8>>,
}

/// Compares the chunk from `from` on, and copies it again where it differs; then `begin` is called first, since targets are
/// about to be changed. Under the lock that keeps flushes from beginning.
pub fn compare_chunk(
    state: &State,
    layout: &Arc<Layout>,
    purpose: Purpose,
    from: &[u8],
    begin: &mut dyn FnMut() -> Result<()>,
) -> Result<Compared> {
    let tables = flushing(state);
    let mut source = read_sources(state, layout, purpose, from)?;
    let (mut from, mut bytes) = (from.to_vec(), 0);
    let mut left = chunks_at_once(state);
    loop {
        left -= 1;
        let (target, next) = read_targets_and_next(state, layout, purpose, &from, &source, left > 0)?;
        bytes += target.parts.iter().map(|part| part.copied.bytes() as u64).sum::<u64>();
        if !are_equal(state, layout, purpose, &source, &target, &tables) {
            let place = format!("{from:02x?}");
            log::warn!("copies differ from their sources in the keys from {place} on: they are copied again");
            begin()?;
            correct(state, layout, purpose, &source, &target, &tables)?;
            source = read_sources(state, layout, purpose, &from)?;
            let target = read_targets(state, layout, purpose, &from, &source)?;
            if !are_equal(state, layout, purpose, &source, &target, &tables) {
                return Err(Error::corruption(format!(
                    "copies differ from their sources in the keys from {place} on, also after they were copied again"
                ))
                .remedy("cancel the change; then look for what changes the shards' files"));
            }
            return Ok(Compared { bytes, end: source.end });
        }
        match (next, source.end.take()) {
            (Some(next), Some(end)) => (source, from) = (next, end),
            (_, end) => return Ok(Compared { bytes, end }),
        }
    }
}

/// The range of a chunk as those that gain it have it; and beside that, if there is to be one, the chunk that comes next.
fn read_targets_and_next(
    state: &State,
    layout: &Arc<Layout>,
    purpose: Purpose,
    from: &[u8],
    source: &Chunk,
    next: bool,
) -> Result<(Chunk, Option<Chunk>)> {
    let Some(end) = source.end.as_deref().filter(|_| next) else {
        return Ok((read_targets(state, layout, purpose, from, source)?, None));
    };
    let read = |end: &[u8]| read_sources(state, layout, purpose, end);
    let own = || read_targets(state, layout, purpose, from, source);
    let (target, next) = crate::sync::with_another(end, read, own);
    Ok((target?, Some(next.unwrap_or_else(|| Err(panicked()))?)))
}

fn read_targets(
    state: &State,
    layout: &Arc<Layout>,
    purpose: Purpose,
    from: &[u8],
    source: &Chunk,
) -> Result<Chunk> {
    let wanted = Wanted::For(purpose);
    let engine = |shard: usize| purpose.engine(&layout.shards[shard]);
    let extent = Extent::Key(source.end.as_deref());
    let targets = purpose.targets(layout);
    gather(state, layout, from, extent, &targets, &engine, &wanted).map_err(|(shard, error)| {
        // What was just written cannot be read: of a shard that serves it is one page, of one that is being filled all is begun
        // anew.
        match purpose {
            Purpose::Change | Purpose::Mending(_) => state.read_failed(&layout.shards[shard], &error),
            Purpose::Filling(_) => purpose.failed(state, &layout.shards[shard], &error),
        }
        error
    })
}

/// Whether each shard that gains has what it should.
fn are_equal(
    state: &State,
    layout: &Layout,
    purpose: Purpose,
    source: &Chunk,
    target: &Chunk,
    tables: &[Arc<Table>],
) -> bool {
    let (due, live) = (source.keys(), state.live_keyspaces());
    target.parts.iter().all(|part| {
        let due = due.iter().filter(|versions| purpose.wants(layout, part.shard, versions.position));
        let held = part.keys();
        due.filter_map(|v| counts(v, tables, &live)).eq(held.iter().filter_map(|v| counts(v, tables, &live)))
    })
}

/// A key's newest version, if that is a value. Keys of the memtable that is being flushed do not count: they may have
/// reached one side and not yet the other. Nor do those of a keyspace that was dropped: who has been away is given nothing of it any more, and
/// what is left of it is yet to leave both sides.
fn counts<'a>(
    versions: &Versions<'a>,
    tables: &[Arc<Table>],
    live: &HashSet<KeyspaceId>,
) -> Option<RunRecord<'a>> {
    let newest = versions.newest;
    let exists = live.contains(&batch::keyspace_of(newest.key));
    (exists && newest.value.is_some() && newest_in(tables, newest.key).is_none()).then_some(newest)
}

/// Copies a range again, and removes what the sources do not have.
fn correct(
    state: &State,
    layout: &Arc<Layout>,
    purpose: Purpose,
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
        write(state, layout, purpose, part.shard, &run, &state.memory.live())?;
    }
    apply(state, layout, purpose, source, tables).map(|_| ())
}
