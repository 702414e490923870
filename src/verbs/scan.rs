//! Scans: a consistent view of a range, from both ends, in bounded memory.
//!
//! Invariants:
//! - A scan shows exactly what was committed at its creation: its snapshot keeps the versions it needs alive.
//! - It holds no lock, page or memtable between two chunks, only its position, so that a slow reader costs no memory.
//! - Each chunk takes the memtables before the shards, so a record moving from one to the other is seen.

use crate::batch;
use crate::engine::Cursor;
use crate::error::Result;
use crate::ids::Seq;
use crate::record::{Item, KeyRange};
use crate::shard::Layout;
use crate::state::State;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;

const FIRST_CHUNK: usize = 128;
const LARGEST_CHUNK: usize = 8192;
const CHUNK_BYTES: usize = 1 << 20;

/// A double-ended scan over internal keys.
pub struct Scan {
    state: Arc<State>,
    at: Seq,
    /// What has not been fetched from either end yet.
    rest: Option<KeyRange>,
    /// Fetched from the front, ascending.
    front: VecDeque<Item>,
    /// Fetched from the back, descending.
    back: VecDeque<Item>,
    chunk: usize,
}

impl Scan {
    /// A scan of `range` as of now.
    pub fn new(state: Arc<State>, range: KeyRange) -> Result<Scan> {
        state.check_open()?;
        let at = state.memory.open_snapshot();
        let rest = (!range.is_empty()).then_some(range);
        Ok(Scan { state, at, rest, front: VecDeque::new(), back: VecDeque::new(), chunk: FIRST_CHUNK })
    }

    /// The next record, from the front or (`reverse`) the back; its value only where `values` asks for large ones.
    pub fn step(&mut self, reverse: bool, values: bool) -> Option<Result<Item>> {
        loop {
            let (near, far) =
                if reverse { (&mut self.back, &mut self.front) } else { (&mut self.front, &mut self.back) };
            let item = match near.pop_front() {
                Some(item) => Some(item),
                // Both ends have met: what the other end fetched last is next.
                None if self.rest.is_none() => far.pop_back(),
                None => {
                    if let Err(error) = self.fetch(reverse) {
                        self.stop();
                        return Some(Err(error));
                    }
                    continue;
                }
            }?;
            if item.value.is_some() || !values {
                return Some(Ok(item));
            }
            return match self.state.get_at(&item.key, self.at) {
                Ok(Some(found)) => Some(Ok(Item { value: Some(found.value), ..item })),
                // A snapshot's version goes away only with its keyspace; else saying nothing would be a lie.
                Ok(None) => {
                    self.stop();
                    let gone = || crate::error::Error::corruption("a value that a scan saw is gone");
                    let dropped = self.state.check_keyspace(batch::keyspace_of(&item.key));
                    Some(Err(dropped.err().unwrap_or_else(gone)))
                }
                Err(error) => {
                    self.stop();
                    Some(Err(error))
                }
            };
        }
    }

    // After an error a scan is over: going on would leave records out without a word.
    fn stop(&mut self) {
        self.rest = None;
        self.front.clear();
        self.back.clear();
    }

    fn fetch(&mut self, reverse: bool) -> Result<()> {
        let Some(range) = self.rest.take() else { return Ok(()) };
        let items = if reverse { &mut self.back } else { &mut self.front };
        let rest = chunk(&self.state, &range, self.at, reverse, self.chunk, items)?;
        self.chunk = (self.chunk * 4).min(LARGEST_CHUNK);
        self.rest = rest.filter(|range| !range.is_empty());
        Ok(())
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        self.state.memory.close_snapshot(self.at);
    }
}

/// Fetches up to `limit` records from one end of `range` into `items`, which are empty; returns what is left of it.
fn chunk(
    state: &State,
    range: &KeyRange,
    at: Seq,
    reverse: bool,
    limit: usize,
    items: &mut VecDeque<Item>,
) -> Result<Option<KeyRange>> {
    let mut layout = state.layout();
    let mut except = Vec::new();
    loop {
        state.check_open()?;
        let shards = sources(state, &layout, range, &except)?;
        items.clear();
        let merged = merge(state, &layout, range, at, reverse, limit, &shards, items);
        // The memtables were looked into after the layout was taken: what left them meanwhile may have gone to the owners
        // of another one.
        let newest = state.layout();
        if !Arc::ptr_eq(&layout, &newest) {
            layout = newest;
            except.clear();
            continue;
        }
        match merged {
            Ok(rest) => {
                // Looked at after reading: a keyspace that still exists had not lost a record by then.
                state.check_keyspace(batch::keyspace_of(&range.lo))?;
                return Ok(rest);
            }
            Err((index, error)) => {
                state.read_failed(&layout.shards[index], &error);
                except.push(index);
                // Without a replica to turn to, the cause is the answer.
                if sources(state, &layout, range, &except).is_err() {
                    state.check_open()?;
                    return Err(error);
                }
            }
        }
    }
}

/// The shards that hold every key of `range` between them.
fn sources(state: &State, layout: &Arc<Layout>, range: &KeyRange, except: &[usize]) -> Result<Arc<[usize]>> {
    let lo = batch::user_key(&range.lo);
    let same_keyspace = |hi: &Vec<u8>| batch::keyspace_of(hi) == batch::keyspace_of(&range.lo);
    if let Some(hi) = range.hi.as_ref().filter(|hi| same_keyspace(hi))
        && let Some(node) = layout.ring.single_virtual_node(lo, Some(batch::user_key(hi)))
    {
        return Ok(Arc::new([state.owner_of(layout, node, except)?]));
    }
    state.cover(layout, except)
}

/// A record at the front of a source. No value: removed; Some(None): too large to carry.
struct Head {
    key: Bytes,
    seq: Seq,
    value: Option<Option<Bytes>>,
}

type Recent<'a> = Box<dyn Iterator<Item = (Bytes, Seq, Option<Bytes>)> + 'a>;

enum Source<'a> {
    Memory(Recent<'a>),
    Shard {
        index: usize,
        cursor: Box<dyn Cursor + 'a>,
        block: std::vec::IntoIter<Item>,
        /// Set where the shard may hold records that it does not own, and that nobody keeps up.
        stale: Option<&'a Layout>,
    },
}

impl Source<'_> {
    fn next(&mut self) -> Result<Option<Head>, (usize, crate::error::Error)> {
        match self {
            Source::Memory(records) => {
                Ok(records.next().map(|(key, seq, value)| Head { key, seq, value: value.map(Some) }))
            }
            Source::Shard { index, cursor, block, stale } => loop {
                if let Some(Item { key, seq, value }) = block.next() {
                    let owned =
                        |layout: &Layout| layout.owns(*index, layout.ring.position(batch::user_key(&key)));
                    if stale.is_some_and(|layout| !owned(layout)) {
                        continue;
                    }
                    return Ok(Some(Head { key, seq, value: Some(value) }));
                }
                let mut items = Vec::new();
                if !cursor.next_block(&mut items).map_err(|e| (*index, e))? && items.is_empty() {
                    return Ok(None);
                }
                *block = items.into_iter();
            },
        }
    }
}

/// What the sources come to next, in the scan's direction. There are few of them, so each step looks at all: at eight
/// bytes of each, which lie together, and at whole keys only where these are the same.
struct Front<'a> {
    reverse: bool,
    /// The bytes after the keyspace, as a number; the least is next.
    stems: Vec<u64>,
    heads: Vec<Head>,
    sources: Vec<Source<'a>>,
}

impl<'a> Front<'a> {
    fn new(sources: Vec<Source<'a>>, reverse: bool) -> Result<Front<'a>, (usize, crate::error::Error)> {
        let mut front = Front { reverse, stems: Vec::new(), heads: Vec::new(), sources: Vec::new() };
        for mut source in sources {
            if let Some(head) = source.next()? {
                front.stems.push(front.stem(&head.key));
                front.heads.push(head);
                front.sources.push(source);
            }
        }
        Ok(front)
    }

    fn stem(&self, key: &[u8]) -> u64 {
        let rest = batch::user_key(key);
        let stem = match rest.first_chunk() {
            Some(whole) => u64::from_be_bytes(*whole),
            None => rest.iter().chain(&[0; 8]).take(8).fold(0, |stem, byte| stem << 8 | u64::from(*byte)),
        };
        if self.reverse { !stem } else { stem }
    }

    /// The place of the next record: of one key, the newest version.
    #[inline]
    fn next(&self) -> Option<usize> {
        let mut best = 0;
        for place in 1..self.stems.len() {
            if self.stems[place] < self.stems[best]
                || (self.stems[place] == self.stems[best] && self.comes_before(place, best))
            {
                best = place;
            }
        }
        (!self.stems.is_empty()).then_some(best)
    }

    fn comes_before(&self, place: usize, other: usize) -> bool {
        let (a, b) = (&self.heads[place], &self.heads[other]);
        let keys = if self.reverse { b.key.cmp(&a.key) } else { a.key.cmp(&b.key) };
        keys.then(b.seq.cmp(&a.seq)).is_lt()
    }

    /// Takes the record at `place`; the source's next one takes its place.
    fn take(&mut self, place: usize) -> Result<Head, (usize, crate::error::Error)> {
        match self.sources[place].next()? {
            Some(next) => {
                self.stems[place] = self.stem(&next.key);
                Ok(std::mem::replace(&mut self.heads[place], next))
            }
            None => {
                self.stems.swap_remove(place);
                self.sources.swap_remove(place);
                Ok(self.heads.swap_remove(place))
            }
        }
    }
}

#[allow(clippy::too_many_arguments)]
fn merge(
    state: &State,
    layout: &Layout,
    range: &KeyRange,
    at: Seq,
    reverse: bool,
    limit: usize,
    shards: &[usize],
    items: &mut VecDeque<Item>,
) -> Result<Option<KeyRange>, (usize, crate::error::Error)> {
    let view = state.memory.view(range, at, reverse, limit, CHUNK_BYTES);
    let frozen = view.frozen;
    let mut engines = Vec::with_capacity(shards.len());
    for index in shards {
        engines.push((*index, layout.shards[*index].engine().map_err(|e| (*index, e))?));
    }
    let mut sources = Vec::with_capacity(1 + frozen.len() + shards.len());
    let bound = if view.truncated { view.active.last().map(|(key, ..)| key.clone()) } else { None };
    sources.push(Source::Memory(Box::new(view.active.into_iter())));
    for table in frozen.iter() {
        let copied = table
            .iter_at(range, at, reverse)
            .map(|r| (Bytes::copy_from_slice(r.key), r.seq, r.value.map(Bytes::copy_from_slice)));
        sources.push(Source::Memory(Box::new(copied)));
    }
    for (index, engine) in &engines {
        let cursor = engine.cursor(range, at, reverse).map_err(|e| (*index, e))?;
        let stale = layout.stale.get(*index).copied().unwrap_or_default().then_some(layout);
        sources.push(Source::Shard { index: *index, cursor, block: Vec::new().into_iter(), stale });
    }
    let mut front = Front::new(sources, reverse)?;

    let mut bytes = 0;
    // The last key, where it was a removed one: it is no item.
    let mut removed: Option<Bytes> = None;
    let passed = |key: &Bytes| bound.as_ref().is_some_and(|b| if reverse { key < b } else { key > b });
    let mut ended = bound.is_none();
    while let Some(place) = front.next() {
        if items.len() >= limit || bytes >= CHUNK_BYTES || passed(&front.heads[place].key) {
            ended = false;
            break;
        }
        let head = front.take(place)?;
        let last = removed.as_ref().or_else(|| items.back().map(|item| &item.key));
        if last == Some(&head.key) {
            continue;
        }
        match head.value {
            Some(value) => {
                bytes += head.key.len() + value.as_ref().map_or(0, Bytes::len);
                removed = None;
                items.push_back(Item { key: head.key, seq: head.seq, value });
            }
            None => removed = Some(head.key),
        }
    }
    let last = removed.as_ref().or_else(|| items.back().map(|item| &item.key));
    let rest = match last {
        _ if ended => None,
        Some(last) if reverse => Some(KeyRange { lo: range.lo.clone(), hi: Some(last.to_vec()) }),
        Some(last) => Some(KeyRange { lo: after(last), hi: range.hi.clone() }),
        None => Some(range.clone()),
    };
    Ok(rest)
}

/// The least key above `key`.
fn after(key: &[u8]) -> Vec<u8> {
    let mut after = Vec::with_capacity(key.len() + 1);
    after.extend_from_slice(key);
    after.push(0);
    after
}
