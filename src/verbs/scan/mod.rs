//! Scans: a consistent view of a range, from both ends, in bounded memory.
//!
//! Invariants:
//! - A scan shows exactly what was committed at its creation: its snapshot keeps the versions it needs alive.
//! - It holds no lock and no memtable between two chunks, and does not keep a shard open: only its position, and of each
//!   shard a page or a few, so that a slow reader costs little memory.
//! - Each chunk takes the memtables before the shards, so a record moving from one to the other is seen.
//!
//! | room | what it is for |
//! |---|---|
//! | [`chunk`] | what has been merged, and handing it out |
//! | [`sources`] | what is read, and from which shards |
//! | [`merge`] | one order of it |
//! | [`pour`] | whole keyspaces straight into a checkpoint's chunks |
//! | [`ahead`] | the next chunk of a long scan, on another thread |

mod ahead;
mod chunk;
mod merge;
mod pour;
mod sources;
#[cfg(test)]
mod tests;

use crate::backup::Versions;
use crate::batch;
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::record::{KeyRange, RunRecord};
use crate::state::State;
use ahead::{Ahead, Done, Job};
use bytes::Bytes;
use chunk::Chunk;
use merge::Limit;
use sources::Sources;
use std::collections::VecDeque;
use std::sync::Arc;

pub use pour::Pouring;

/// How much is fetched at first, and at most: a short scan should not merge much that nobody asks for.
const FIRST: Limit = Limit { records: 32, bytes: 8 << 10, versions: false };
const MOST: Limit = Limit { records: 4096, bytes: 256 << 10, versions: false };

/// After so many chunks from one end a scan is long, and reads ahead: by then they are large.
const LONG: u32 = 9;

/// A double-ended scan over internal keys.
pub struct Scan {
    state: Arc<State>,
    at: Seq,
    /// What has not been fetched from either end yet.
    rest: Option<KeyRange>,
    front: End,
    back: End,
    limit: Limit,
    /// How many chunks have been fetched from the same end, one after another.
    streak: u32,
    last_end: bool,
    /// What reads ahead. While a chunk is under way, what is left is known only when it comes.
    ahead: Option<Ahead>,
    /// The value of the record at hand, where it was too large to be carried along.
    large: Option<Bytes>,
}

/// One end of a scan.
struct End {
    sources: Sources,
    /// Fetched from this end and not shown yet; each in the direction away from it.
    chunks: VecDeque<Chunk>,
    /// A chunk to be used again.
    spare: Option<Chunk>,
}

/// A record in a chunk.
#[derive(Clone, Copy)]
struct Spot {
    /// It is in the chunk that the other end fetched last.
    far: bool,
    index: usize,
}

impl End {
    fn new(reverse: bool) -> End {
        End { sources: Sources::new(reverse), chunks: VecDeque::new(), spare: None }
    }

    fn clear(&mut self) {
        self.sources.close();
        self.chunks.clear();
        self.spare = None;
    }
}

impl Scan {
    /// A scan of `range` as of now.
    pub fn new(state: Arc<State>, range: KeyRange) -> Result<Scan> {
        state.check_open()?;
        let at = state.memory.open_snapshot();
        Ok(Self::begin(state, range, at, FIRST))
    }

    /// A scan of `range`, with the sequences of records, as of `at`: a snapshot that somebody holds.
    pub fn versions(state: Arc<State>, range: KeyRange, at: Seq) -> Result<Scan> {
        state.check_open()?;
        state.memory.hold_snapshot(at);
        Ok(Self::begin(state, range, at, Limit { versions: true, ..MOST }))
    }

    fn begin(state: Arc<State>, range: KeyRange, at: Seq, limit: Limit) -> Scan {
        let rest = (!range.is_empty()).then_some(range);
        let (front, back) = (End::new(false), End::new(true));
        Scan { state, at, rest, front, back, limit, streak: 0, last_end: false, ahead: None, large: None }
    }

    /// The next record, from the front or (`reverse`) the back, until the next call.
    #[inline]
    pub fn step(&mut self, reverse: bool) -> Option<Result<(&[u8], &[u8])>> {
        let spot = match self.next_spot(reverse)? {
            Ok(spot) => spot,
            Err(error) => return Some(Err(error)),
        };
        if self.chunk(reverse, spot)?.is_left_out(spot.index) {
            return self.step_large(reverse, spot);
        }
        Some(Ok(self.chunk(reverse, spot)?.record(spot.index)))
    }

    /// The same, to be kept.
    #[inline]
    pub fn take(&mut self, reverse: bool) -> Option<Result<(Bytes, Bytes)>> {
        let spot = match self.next_spot(reverse)? {
            Ok(spot) => spot,
            Err(error) => return Some(Err(error)),
        };
        let chunk = self.chunk_mut(reverse, spot)?;
        if chunk.is_left_out(spot.index) {
            let (key, _) = chunk.take(spot.index, spot.far);
            return Some(self.fetch_value(reverse, spot).map(|value| (key, value)));
        }
        Some(Ok(chunk.take(spot.index, spot.far)))
    }

    /// Passes the next record by, whatever its value.
    pub fn pass(&mut self, reverse: bool) -> Option<Result<()>> {
        self.next_spot(reverse).map(|spot| spot.map(drop))
    }

    fn chunk(&self, reverse: bool, spot: Spot) -> Option<&Chunk> {
        match (reverse, spot.far) {
            (false, false) => self.front.chunks.front(),
            (false, true) => self.back.chunks.back(),
            (true, false) => self.back.chunks.front(),
            (true, true) => self.front.chunks.back(),
        }
    }

    fn chunk_mut(&mut self, reverse: bool, spot: Spot) -> Option<&mut Chunk> {
        match (reverse, spot.far) {
            (false, false) => self.front.chunks.front_mut(),
            (false, true) => self.back.chunks.back_mut(),
            (true, false) => self.back.chunks.front_mut(),
            (true, true) => self.front.chunks.back_mut(),
        }
    }

    #[inline]
    fn next_spot(&mut self, reverse: bool) -> Option<Result<Spot>> {
        let near = if reverse { &mut self.back } else { &mut self.front };
        if let Some(index) = near.chunks.front_mut().and_then(|chunk| chunk.step(false)) {
            return Some(Ok(Spot { far: false, index }));
        }
        self.fetch_spot(reverse)
    }

    #[cold]
    fn fetch_spot(&mut self, reverse: bool) -> Option<Result<Spot>> {
        loop {
            let more = self.rest.is_some() || self.ahead.as_ref().is_some_and(|ahead| ahead.busy);
            let (near, far) =
                if reverse { (&mut self.back, &mut self.front) } else { (&mut self.front, &mut self.back) };
            while let Some(chunk) = near.chunks.front_mut() {
                if let Some(index) = chunk.step(false) {
                    return Some(Ok(Spot { far: false, index }));
                }
                near.spare = near.chunks.pop_front();
            }
            if more {
                if let Err(error) = self.fetch(reverse) {
                    self.stop();
                    return Some(Err(error));
                }
                continue;
            }
            // Both ends have met: what the other end fetched last is next.
            while let Some(chunk) = far.chunks.back_mut() {
                if let Some(index) = chunk.step(true) {
                    return Some(Ok(Spot { far: true, index }));
                }
                far.chunks.pop_back();
            }
            return None;
        }
    }

    /// Fetches a chunk from one end, or takes the one that is under way.
    fn fetch(&mut self, reverse: bool) -> Result<()> {
        (self.streak, self.last_end) = (if self.last_end == reverse { self.streak + 1 } else { 1 }, reverse);
        let landed = self.land()?;
        if landed != Some(reverse) {
            self.fetch_here(reverse)?;
        }
        if self.streak >= LONG {
            self.send_ahead(reverse);
        }
        Ok(())
    }

    fn end(&mut self, reverse: bool) -> &mut End {
        if reverse { &mut self.back } else { &mut self.front }
    }

    fn fetch_here(&mut self, reverse: bool) -> Result<()> {
        let Some(range) = self.rest.take() else { return Ok(()) };
        // It would go on into what this end fetches.
        self.end(!reverse).sources.close();
        let near = if reverse { &mut self.back } else { &mut self.front };
        let mut chunk = near.spare.take().unwrap_or_default();
        let rest = near.sources.fill(&self.state, &range, self.at, self.limit, &mut chunk)?;
        self.rest = rest.filter(|range| !range.is_empty());
        near.chunks.push_back(chunk);
        self.limit = Limit {
            records: (self.limit.records * 2).min(MOST.records),
            bytes: (self.limit.bytes * 2).min(MOST.bytes),
            versions: self.limit.versions,
        };
        Ok(())
    }

    /// Takes the chunk that is under way to its end; which that is, if there was one.
    fn land(&mut self) -> Result<Option<bool>> {
        let Some(ahead) = self.ahead.as_mut().filter(|ahead| ahead.busy) else { return Ok(None) };
        let Done { reverse, sources, chunk, rest } = ahead.wait()?;
        self.rest = rest?.filter(|range| !range.is_empty());
        let end = self.end(reverse);
        end.sources = sources;
        end.chunks.push_back(chunk);
        Ok(Some(reverse))
    }

    /// Sends the next chunk from this end off to be fetched.
    fn send_ahead(&mut self, reverse: bool) {
        if self.streak == LONG && self.ahead.is_none() {
            self.ahead = Ahead::start(&self.state, self.at);
        }
        if self.ahead.is_none() || self.rest.is_none() {
            return;
        }
        let Some(range) = self.rest.take() else { return };
        self.end(!reverse).sources.close();
        let limit = self.limit;
        let end = self.end(reverse);
        let sources = std::mem::replace(&mut end.sources, Sources::new(reverse));
        let chunk = end.spare.take().unwrap_or_default();
        let job = Job { reverse, sources, range, limit, chunk };
        if let Some(ahead) = &mut self.ahead
            && let Err(job) = ahead.send(job)
        {
            // Its thread is gone: this one goes on alone.
            self.ahead = None;
            self.rest = Some(job.range);
            self.end(reverse).sources = job.sources;
        }
    }

    #[cold]
    fn step_large(&mut self, reverse: bool, spot: Spot) -> Option<Result<(&[u8], &[u8])>> {
        match self.fetch_value(reverse, spot) {
            Ok(value) => self.large = Some(value),
            Err(error) => return Some(Err(error)),
        }
        let (key, _) = self.chunk(reverse, spot)?.record(spot.index);
        Some(Ok((key, self.large.as_deref().unwrap_or_default())))
    }

    /// Fetches a value that was too large to be carried along.
    #[cold]
    fn fetch_value(&mut self, reverse: bool, spot: Spot) -> Result<Bytes> {
        let key = self.chunk(reverse, spot).map(|chunk| chunk.internal_key(spot.index)).unwrap_or_default();
        let error = match large(&self.state, key, self.at) {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        self.stop();
        Err(error)
    }

    // After an error a scan is over: going on would leave records out without a word.
    fn stop(&mut self) {
        self.ahead = None;
        self.rest = None;
        self.front.clear();
        self.back.clear();
    }
}

/// The value of a record that a scan as of `at` saw, where it was too large to be carried along.
fn large(state: &State, key: &[u8], at: Seq) -> Result<Bytes> {
    match state.get_at(key, at)? {
        Some(found) => Ok(found.value),
        // A snapshot's version goes away only with its keyspace; else saying nothing would be a lie.
        None => {
            let gone = || Error::corruption("a value that a scan saw is gone");
            Err(state.check_keyspace(batch::keyspace_of(key)).err().unwrap_or_else(gone))
        }
    }
}

impl Versions for Scan {
    #[inline]
    fn next(&mut self) -> Option<Result<RunRecord<'_>>> {
        let spot = match self.next_spot(false)? {
            Ok(spot) => spot,
            Err(error) => return Some(Err(error)),
        };
        if self.chunk(false, spot)?.is_left_out(spot.index) {
            match self.fetch_value(false, spot) {
                Ok(value) => self.large = Some(value),
                Err(error) => return Some(Err(error)),
            }
            let chunk = self.chunk(false, spot)?;
            let (key, value) = (chunk.internal_key(spot.index), self.large.as_deref());
            return Some(Ok(RunRecord { key, seq: chunk.seq(spot.index), value }));
        }
        let chunk = self.chunk(false, spot)?;
        let (_, value) = chunk.record(spot.index);
        let (key, seq) = (chunk.internal_key(spot.index), chunk.seq(spot.index));
        Some(Ok(RunRecord { key, seq, value: Some(value) }))
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        // It reads as of the snapshot until its thread has ended.
        self.ahead = None;
        self.state.memory.close_snapshot(self.at);
    }
}
