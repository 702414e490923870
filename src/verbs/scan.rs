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
use crate::state::State;
use bytes::Bytes;
use std::cmp::Ordering;
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

const FIRST_CHUNK: usize = 16;
const LARGEST_CHUNK: usize = 2048;
const CHUNK_BYTES: usize = 512 << 10;

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
        let (items, rest) = chunk(&self.state, &range, self.at, reverse, self.chunk)?;
        self.chunk = (self.chunk * 4).min(LARGEST_CHUNK);
        if reverse { &mut self.back } else { &mut self.front }.extend(items);
        self.rest = rest.filter(|range| !range.is_empty());
        Ok(())
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        self.state.memory.close_snapshot(self.at);
    }
}

type Chunk = (Vec<Item>, Option<KeyRange>);

/// Up to `limit` records from one end of `range`, and what is left of it.
fn chunk(state: &State, range: &KeyRange, at: Seq, reverse: bool, limit: usize) -> Result<Chunk> {
    let mut except = Vec::new();
    loop {
        state.check_open()?;
        let shards = sources(state, range, &except)?;
        match merge(state, range, at, reverse, limit, &shards) {
            Ok(chunk) => {
                // Looked at after reading: a keyspace that still exists had not lost a record by then.
                state.check_keyspace(batch::keyspace_of(&range.lo))?;
                return Ok(chunk);
            }
            Err((index, error)) => {
                state.read_failed(index, &error);
                except.push(index);
                // Without a replica to turn to, the cause is the answer.
                if sources(state, range, &except).is_err() {
                    state.check_open()?;
                    return Err(error);
                }
            }
        }
    }
}

/// The shards that hold every key of `range` between them.
fn sources(state: &State, range: &KeyRange, except: &[usize]) -> Result<Arc<[usize]>> {
    let lo = batch::user_key(&range.lo);
    let same_keyspace = |hi: &Vec<u8>| batch::keyspace_of(hi) == batch::keyspace_of(&range.lo);
    if let Some(hi) = range.hi.as_ref().filter(|hi| same_keyspace(hi))
        && let Some(node) = state.ring().single_virtual_node(lo, Some(batch::user_key(hi)))
    {
        return Ok(Arc::new([state.owner_of(node, except)?]));
    }
    state.cover(except)
}

/// A record at the front of a source.
struct Head {
    key: Bytes,
    seq: Seq,
    /// None: removed. Some(None): too large to carry.
    value: Option<Option<Bytes>>,
    source: usize,
    reverse: bool,
}

impl Ord for Head {
    // The heap gives its greatest first: the next key in the scan's direction, and of one key the newest version.
    fn cmp(&self, other: &Self) -> Ordering {
        let keys = self.key.cmp(&other.key);
        let keys = if self.reverse { keys } else { keys.reverse() };
        keys.then(self.seq.cmp(&other.seq))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head {}

type Recent<'a> = Box<dyn Iterator<Item = (Bytes, Seq, Option<Bytes>)> + 'a>;

enum Source<'a> {
    Memory(Recent<'a>),
    Shard { index: usize, cursor: Box<dyn Cursor + 'a>, block: VecDeque<Item>, spare: Vec<Item> },
}

impl Source<'_> {
    fn next(&mut self, source: usize, reverse: bool) -> Result<Option<Head>, (usize, crate::error::Error)> {
        match self {
            Source::Memory(records) => Ok(records.next().map(|(key, seq, value)| Head {
                key,
                seq,
                value: value.map(Some),
                source,
                reverse,
            })),
            Source::Shard { index, cursor, block, spare } => {
                while block.is_empty() {
                    let more = cursor.next_block(spare).map_err(|e| (*index, e))?;
                    block.extend(spare.drain(..));
                    if !more {
                        break;
                    }
                }
                Ok(block.pop_front().map(|item| Head {
                    key: item.key,
                    seq: item.seq,
                    value: Some(item.value),
                    source,
                    reverse,
                }))
            }
        }
    }
}

fn merge(
    state: &State,
    range: &KeyRange,
    at: Seq,
    reverse: bool,
    limit: usize,
    shards: &[usize],
) -> Result<Chunk, (usize, crate::error::Error)> {
    let view = state.memory.view(range, at, reverse, limit, CHUNK_BYTES);
    let frozen = view.frozen;
    let mut engines = Vec::with_capacity(shards.len());
    for index in shards {
        engines.push((*index, state.shards[*index].engine().map_err(|e| (*index, e))?));
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
        sources.push(Source::Shard { index: *index, cursor, block: VecDeque::new(), spare: Vec::new() });
    }
    let mut heap = BinaryHeap::with_capacity(sources.len());
    for (i, source) in sources.iter_mut().enumerate() {
        heap.extend(source.next(i, reverse)?);
    }

    let mut items: Vec<Item> = Vec::with_capacity(limit.min(256));
    let mut bytes = 0;
    let mut last: Option<Bytes> = None;
    let passed = |key: &Bytes| bound.as_ref().is_some_and(|b| if reverse { key < b } else { key > b });
    let mut ended = bound.is_none();
    while let Some(mut top) = heap.peek_mut() {
        if items.len() >= limit || bytes >= CHUNK_BYTES || passed(&top.key) {
            ended = false;
            break;
        }
        let head = match sources[top.source].next(top.source, reverse)? {
            Some(next) => std::mem::replace(&mut *top, next),
            None => PeekMut::pop(top),
        };
        if last.as_ref() == Some(&head.key) {
            continue;
        }
        last = Some(head.key.clone());
        if let Some(value) = head.value {
            bytes += head.key.len() + value.as_ref().map_or(0, Bytes::len);
            items.push(Item { key: head.key, seq: head.seq, value });
        }
    }
    let rest = match last {
        _ if ended => None,
        Some(last) if reverse => Some(KeyRange { lo: range.lo.clone(), hi: Some(last.to_vec()) }),
        Some(last) => Some(KeyRange { lo: after(&last), hi: range.hi.clone() }),
        None => Some(range.clone()),
    };
    Ok((items, rest))
}

/// The least key above `key`.
fn after(key: &[u8]) -> Vec<u8> {
    let mut after = Vec::with_capacity(key.len() + 1);
    after.extend_from_slice(key);
    after.push(0);
    after
}
