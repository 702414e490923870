//! A chunk: the records of a range of keys, gathered from several shards up to where all of them have been read.
//!
//! Invariant: a chunk is complete up to its end: of every shard read, all wanted records from its beginning up to, and
//! without, its end are in it.

use crate::batch;
use crate::error::Error;
use crate::ids::{Seq, VirtualNode};
use crate::memtable::Table;
use crate::record::{RunBuffer, RunRecord};
use crate::ring::Position;
use crate::shard::Layout;
use crate::state::State;
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

/// Reads `shards` from the key `from` on, as far as `extent` says, and keeps what is `wanted` of each. An error names the
/// shard that it came from.
pub fn gather(
    layout: &Layout,
    from: &[u8],
    extent: Extent<'_>,
    shards: &[usize],
    wanted: &dyn Fn(usize, Position) -> bool,
) -> Result<Chunk, (usize, Error)> {
    let new = |shard: &usize| Part { shard: *shard, copied: RunBuffer::default(), positions: Vec::new() };
    let mut parts: Vec<Part> = shards.iter().map(new).collect();
    let mut fronts: Vec<Option<Vec<u8>>> = vec![Some(from.to_vec()); parts.len()];
    let step = match extent {
        Extent::Bytes(most) => (most / 4 / parts.len().max(1)).clamp(STEP.0, STEP.1),
        Extent::Key(_) => STEP.1,
    };
    let mut read = 0;
    loop {
        // The one that has got least far: the chunk ends where it does.
        let behind =
            (0..parts.len()).filter(|i| fronts[*i].is_some()).min_by(|a, b| fronts[*a].cmp(&fronts[*b]));
        let Some(behind) = behind else { break };
        let enough = match extent {
            Extent::Bytes(most) => {
                let kept: usize = parts.iter().map(|part| part.copied.bytes()).sum();
                // Up to where it began nothing has been read of all of them: one value may be larger than a chunk.
                let begun = fronts[behind].as_deref().is_some_and(|front| front > from);
                begun && (kept >= most || read >= 4 * most)
            }
            Extent::Key(end) => end.is_some_and(|end| fronts[behind].as_deref().is_some_and(|f| f >= end)),
        };
        if enough {
            break;
        }
        let Some(front) = fronts[behind].take() else { break };
        let next = parts[behind].read(layout, &front, step, wanted);
        fronts[behind] = next.map_err(|e| (parts[behind].shard, e))?;
        read += step;
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
    fn read(
        &mut self,
        layout: &Layout,
        from: &[u8],
        step: usize,
        wanted: &dyn Fn(usize, Position) -> bool,
    ) -> Result<Option<Vec<u8>>, Error> {
        let (shard, positions) = (self.shard, &mut self.positions);
        let mut wants = |key: &[u8]| {
            let position = layout.ring.position(batch::user_key(key));
            let wants = wanted(shard, position);
            if wants {
                positions.push(position);
            }
            wants
        };
        layout.shards[shard].engine()?.versions(from, step, &mut wants, &mut self.copied)
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

/// From which shard each virtual node of the next ring is copied.
#[derive(Debug)]
pub struct Sources {
    of: Vec<u16>,
    pub shards: Vec<usize>,
}

const NOBODY: u16 = u16::MAX;

impl Sources {
    /// An owner for each virtual node that somebody gains; none of those in `except`. An error names a virtual node that has
    /// none.
    ///
    /// The one that loses it, since a shard that is emptied is best read alone, and whole; where nobody does, each as often
    /// as another.
    pub fn choose(layout: &Layout, except: &[usize]) -> Result<Sources, VirtualNode> {
        let Some(next) = &layout.next else { return Ok(Sources { of: Vec::new(), shards: Vec::new() }) };
        let children = (next.ring.virtual_nodes() / layout.ring.virtual_nodes().max(1)).max(1);
        let mut loads = vec![0_u32; layout.shards.len()];
        let usable: Vec<bool> = (layout.shards.iter().enumerate())
            .map(|(index, shard)| shard.serves() && !except.contains(&index))
            .collect();
        let mut of = vec![NOBODY; next.ring.virtual_nodes() as usize];
        for (node, source) in of.iter_mut().enumerate() {
            let owners = layout.ring.owner_indexes(VirtualNode(node as u32 / children));
            let gains = |owner: &u16| !owners.contains(&next.places[usize::from(*owner)]);
            let next_owners = next.ring.owner_indexes(VirtualNode(node as u32));
            if !next_owners.iter().any(gains) {
                continue;
            }
            let stays = |owner: u16| {
                next_owners.iter().any(|next_owner| next.places[usize::from(*next_owner)] == owner)
            };
            let usable = owners.iter().filter(|owner| usable[usize::from(**owner)]);
            let least = usable.min_by_key(|owner| (stays(**owner), loads[usize::from(**owner)]));
            let least = least.ok_or(VirtualNode(node as u32 / children))?;
            loads[usize::from(*least)] += 1;
            *source = *least;
        }
        let shards = (0..loads.len()).filter(|index| loads[*index] > 0).collect();
        Ok(Sources { of, shards })
    }

    /// Whether a shard is the one that a position is copied from.
    pub fn is(&self, layout: &Layout, shard: usize, position: Position) -> bool {
        let node = layout.next.as_ref().map(|next| next.ring.virtual_node_at(position));
        node.and_then(|node| self.of.get(node.0 as usize)).is_some_and(|source| usize::from(*source) == shard)
    }
}

/// The shards that gain something by the change under way.
pub fn targets(layout: &Layout) -> Vec<usize> {
    let Some(next) = &layout.next else { return Vec::new() };
    let children = (next.ring.virtual_nodes() / layout.ring.virtual_nodes().max(1)).max(1);
    let mut gains = vec![false; layout.shards.len()];
    for node in 0..next.ring.virtual_nodes() {
        let owners = layout.ring.owner_indexes(VirtualNode(node / children));
        for owner in next.ring.owner_indexes(VirtualNode(node)) {
            let place = next.places[usize::from(*owner)];
            gains[usize::from(place)] |= !owners.contains(&place);
        }
    }
    (0..gains.len()).filter(|index| gains[*index]).collect()
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
