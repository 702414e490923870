//! A chunk: the records of a range of keys, gathered from several shards up to where all of them have been read.
//!
//! Invariant: a chunk is complete up to its end: of every shard read, all wanted records from its beginning up to, and
//! without, its end are in it.

use super::{Purpose, Sources};
use crate::batch;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::memtable::Table;
use crate::record::{RunBuffer, RunRecord};
use crate::ring::Position;
use crate::shard::Layout;
use crate::state::{Asked, State};
use std::sync::Arc;

/// What is read of a shard at once, in bytes of pages, at the least and at the most. Of what was read of the others beyond the
/// end of a chunk nothing is kept, so the more shards there are, the smaller the steps.
const STEP: (usize, usize) = (16 << 10, 128 << 10);

/// How far a chunk goes.
#[derive(Debug, Clone, Copy)]
pub enum Extent<'a> {
    /// Until so much has been kept, or four times as much read, in bytes.
    Bytes(usize),
    /// Up to this key; none: to the end.
    Key(Option<&'a [u8]>),
}

/// Records of a range of keys, by the shard that they were read from.
#[derive(Debug, Default)]
pub struct Chunk {
    pub parts: Vec<Part>,
    /// Where it ends; none: at the end of all keys.
    pub end: Option<Vec<u8>>,
}

/// What was read from one shard.
#[derive(Debug)]
pub struct Part {
    pub shard: usize,
    pub copied: RunBuffer,
    // Of each key, in order.
    positions: Vec<Position>,
}

/// What a part has come to, and where it goes on.
#[derive(Debug)]
struct Read {
    copied: RunBuffer,
    positions: Vec<Position>,
    next: Option<Vec<u8>>,
}

/// All versions that a shard has of one key.
#[derive(Debug)]
pub struct Versions<'a> {
    pub position: Position,
    pub newest: RunRecord<'a>,
    /// The others.
    older: std::ops::Range<usize>,
    of: &'a RunBuffer,
}

impl<'a> Versions<'a> {
    pub fn records(&self) -> impl Iterator<Item = RunRecord<'a>> + use<'a> {
        let of = self.of;
        std::iter::once(self.newest).chain(self.older.clone().map(move |index| of.record(index)))
    }
}

/// Which records are kept of what is read from a shard.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// Those that are copied from it.
    From(Arc<Sources>),
    /// Those that it gets.
    For(Purpose),
    /// Those that it owns.
    Own,
}

impl Wanted {
    fn is(&self, layout: &Layout, shard: usize, position: Position) -> bool {
        match self {
            Wanted::From(sources) => sources.is(layout, shard, position),
            Wanted::For(purpose) => purpose.wants(layout, shard, position),
            Wanted::Own => layout.owns(shard, position),
        }
    }
}

/// Reads `shards` from the key `from` on, as far as `extent` says, and keeps what is `wanted` of each. An error names the
/// shard that it came from.
pub fn gather(
    state: &State,
    layout: &Arc<Layout>,
    from: &[u8],
    extent: Extent<'_>,
    shards: &[usize],
    engine: &dyn Fn(usize) -> Result<Arc<dyn Engine>>,
    wanted: &Wanted,
) -> Result<Chunk, (usize, Error)> {
    let new = |shard: &usize| Part { shard: *shard, copied: RunBuffer::default(), positions: Vec::new() };
    let mut parts: Vec<Part> = shards.iter().map(new).collect();
    let mut fronts: Vec<Option<Vec<u8>>> = vec![Some(from.to_vec()); parts.len()];
    let step = match extent {
        Extent::Bytes(most) => (most / 4 / parts.len().max(1)).clamp(STEP.0, STEP.1),
        Extent::Key(_) => STEP.1,
    };
    let mut read_bytes = 0;
    let (abreast, apart) = (state.abreast(), layout.apart());
    loop {
        // The one that has got least far comes first: the chunk ends where it does.
        let mut behind: Vec<usize> = (0..parts.len()).filter(|i| fronts[*i].is_some()).collect();
        behind.sort_by(|a, b| fronts[*a].cmp(&fronts[*b]));
        let Some(least) = behind.first().copied() else { break };
        let enough = match extent {
            Extent::Bytes(most) => {
                let kept: usize = parts.iter().map(|part| part.copied.bytes()).sum();
                // Up to where it began nothing has been read of all of them: one value may be larger than a chunk.
                let begun = fronts[least].as_deref().is_some_and(|front| front > from);
                begun && (kept >= most || read_bytes >= 4 * most)
            }
            Extent::Key(end) => end.is_some_and(|end| fronts[least].as_deref().is_some_and(|f| f >= end)),
        };
        if enough {
            break;
        }
        let mut asked = Vec::with_capacity(abreast);
        let is_short = |index: &usize| match extent {
            Extent::Key(Some(end)) => fronts[*index].as_deref().is_some_and(|front| front < end),
            _ => true,
        };
        behind.retain(is_short);
        for index in behind.into_iter().take(abreast) {
            let Some(front) = fronts[index].take() else { continue };
            let part = &mut parts[index];
            let engine = engine(part.shard).map_err(|e| (part.shard, e))?;
            asked.push((index, part.ask(state, &apart, engine, front, step, wanted)));
        }
        for (index, read) in asked {
            fronts[index] = parts[index].take(state, read).map_err(|e| (parts[index].shard, e))?;
            read_bytes += step;
        }
    }
    let end = match extent {
        Extent::Bytes(_) => fronts.into_iter().flatten().min(),
        Extent::Key(end) => end.map(<[u8]>::to_vec),
    };
    if let Some(end) = &end {
        parts.iter_mut().for_each(|part| part.copied.truncate(end));
    }
    Ok(Chunk { parts, end })
}

impl Part {
    /// Begins to read on from `from`.
    fn ask(
        &mut self,
        state: &State,
        layout: &Arc<Layout>,
        engine: Arc<dyn Engine>,
        from: Vec<u8>,
        step: usize,
        wanted: &Wanted,
    ) -> Asked<Read> {
        let (mut copied, mut positions) =
            (std::mem::take(&mut self.copied), std::mem::take(&mut self.positions));
        let (shard, of, wanted) = (self.shard, layout.clone(), wanted.clone());
        state.ask(layout, shard, move |_| {
            let mut wants = |key: &[u8]| {
                let position = of.ring.position(batch::user_key(key));
                let wants = wanted.is(&of, shard, position);
                if wants {
                    positions.push(position);
                }
                wants
            };
            let next = engine.versions(&from, step, &mut wants, &mut copied)?;
            Ok(Read { copied, positions, next })
        })
    }

    /// Takes in what was read; returns where to go on.
    fn take(&mut self, state: &State, asked: Asked<Read>) -> Result<Option<Vec<u8>>> {
        let read = state.answer(asked)?;
        (self.copied, self.positions) = (read.copied, read.positions);
        Ok(read.next)
    }

    /// The keys in order, each with all its versions.
    pub fn keys(&self) -> Vec<Versions<'_>> {
        let mut keys: Vec<Versions<'_>> = Vec::with_capacity(self.positions.len());
        let mut positions = self.positions.iter();
        for (index, record) in self.copied.records().enumerate() {
            match keys.last_mut() {
                Some(versions) if versions.newest.key == record.key => versions.older.end = index + 1,
                _ => {
                    let Some(position) = positions.next() else { break };
                    let older = index + 1..index + 1;
                    keys.push(Versions { position: *position, newest: record, older, of: &self.copied });
                }
            }
        }
        keys
    }
}

impl Chunk {
    /// The keys of all parts in order. Each has one source, so none comes twice.
    pub fn keys(&self) -> Vec<Versions<'_>> {
        let mut keys: Vec<Versions<'_>> = self.parts.iter().flat_map(Part::keys).collect();
        // Sorted runs one after another, which a stable sort merges.
        keys.sort_by(|a, b| a.newest.key.cmp(b.newest.key));
        keys
    }
}

/// The memtable that is being flushed, or will be next. Those behind it have reached no shard, and must not before it: it
/// would then take away what a snapshot between the two sees of its records.
pub fn flushing(state: &State) -> Vec<Arc<Table>> {
    state.memory.oldest_frozen().into_iter().collect()
}

/// What the memtable on its way to the shards says of a key last.
pub fn newest_in<'a>(tables: &'a [Arc<Table>], key: &'a [u8]) -> Option<RunRecord<'a>> {
    let version = tables.iter().rev().find_map(|table| table.get(key, Seq::MAX))?;
    Some(RunRecord { key, seq: version.seq, value: version.value })
}
