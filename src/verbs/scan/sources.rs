//! Where one end of a scan reads: a cursor on each shard of a cover, and a copy of what the active memtable has.
//!
//! Invariants:
//! - Memtables are looked at before shards, so a record that moves from one to the other meanwhile is seen in at least one.
//!   What is kept from one chunk to the next stays right only as long as no memtable has been forgotten, no shard's
//!   health has changed, and the layout is the same: else everything is opened anew.
//! - A chunk holds the layout that it reads by, so nothing is removed from a shard while it is read; between chunks it does not,
//!   so a resting scan holds up nobody.
//! - A shard that fails is replaced within the call, as long as others hold what it held.

use super::merge::{Failed, Frozen, Limit, Merge, Sink};
use crate::batch::{self, KEYSPACE_BYTES};
use crate::engine::{Block, Cursor, Walk};
use crate::error::{ErrorKind, Result};
use crate::ids::Seq;
use crate::options::Heal;
use crate::record::KeyRange;
use crate::shard::Layout;
use crate::state::transfer::verify_and_mend;
use crate::state::{ATTEMPTS, Copied, State};
use std::sync::{Arc, Weak};

/// How often a chunk is begun again since an engine was put in another's place.
const SWAPS: usize = 4;

/// A shard's cursor, and what it gave out last.
pub struct Source {
    pub index: usize,
    pub block: Block,
    /// The record of the block that comes next.
    pub at: usize,
    cursor: Box<dyn Cursor>,
    done: bool,
}

impl Source {
    #[inline]
    pub fn stem(&self) -> u64 {
        self.block.stem(self.at)
    }

    /// Goes on to the next block, if this one is used up.
    pub fn refill(&mut self) -> Result<(), Failed> {
        if self.at >= self.block.len() && !self.done {
            self.at = 0;
            self.done = !self.cursor.next_block(&mut self.block).map_err(|error| (self.index, error))?;
        }
        Ok(())
    }
}

impl Source {
    /// Goes past what lies before the range: another source's version of the key that was taken last.
    fn skip_to(&mut self, range: &KeyRange, reverse: bool) -> Result<(), Failed> {
        loop {
            self.refill()?;
            let passed = match &range.hi {
                _ if self.block.is_empty() => false,
                Some(hi) if reverse => self.block.cmp_key(self.at, hi).is_ge(),
                None if reverse => false,
                _ => self.block.cmp_key(self.at, &range.lo).is_lt(),
            };
            if !passed {
                return Ok(());
            }
            self.at += 1;
        }
    }
}

/// What one end of a scan reads from.
pub struct Sources {
    reverse: bool,
    shards: Vec<Source>,
    /// What was copied of the active table, the record that comes next, and whether it has no others in the range.
    copied: Copied,
    copied_at: usize,
    copied_all: bool,
    /// What the above depends on; none: nothing is open.
    stamp: Option<Stamp>,
    layout: Weak<Layout>,
    stem_from: usize,
    stems: Vec<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    forgotten: u64,
    health: u64,
}

impl Sources {
    pub fn new(reverse: bool) -> Sources {
        Sources {
            reverse,
            shards: Vec::new(),
            copied: Copied::default(),
            copied_at: 0,
            copied_all: true,
            stamp: None,
            layout: Weak::new(),
            stem_from: 0,
            stems: Vec::new(),
        }
    }

    /// Lets everything go.
    pub fn close(&mut self) {
        self.stamp = None;
        self.shards.clear();
        self.copied.clear();
    }

    /// Fetches as much as `limit` says from this end of `range` into `chunk`; returns what is left of the range. Between two
    /// calls the range loses what the first one fetched and nothing else, or this was [closed](Self::close).
    pub fn fill<S: Sink>(
        &mut self,
        state: &State,
        range: &KeyRange,
        at: Seq,
        limit: Limit,
        chunk: &mut S,
    ) -> Result<Option<KeyRange>> {
        let mut layout = state.layout();
        let mut except = Vec::new();
        // Where the shards in `except` failed, as far as they can say.
        let mut met: Vec<(usize, Vec<u8>)> = Vec::new();
        let (mut swapped, mut attempts) = (0, 0);
        // Why a shard failed says more than that there is none any more.
        let mut cause = None;
        loop {
            state.check_open()?;
            chunk.prepare(limit);
            let health = state.health_version();
            // One shard may have been healed, and another have failed, between the looks at the one and at the other.
            let mut is_news = || {
                attempts += 1;
                attempts < ATTEMPTS && state.health_version() != health
            };
            let filled = match self.try_fill(state, &layout, range, at, limit, &except, chunk) {
                Err(error) if error.kind() == ErrorKind::Unavailable && is_news() => {
                    self.close();
                    except.clear();
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Unavailable => return Err(cause.unwrap_or(error)),
                filled => filled?,
            };
            // The memtables were looked into after the layout was taken: what left them meanwhile may have gone to the
            // owners of another one.
            let newest = state.layout();
            if !Arc::ptr_eq(&layout, &newest) {
                self.close();
                layout = newest;
                except.clear();
                continue;
            }
            match filled {
                Ok(rest) => {
                    // Looked at after reading: a keyspace that still exists had not lost a record by then.
                    state.check_keyspace(batch::keyspace_of(&range.lo))?;
                    return Ok(rest);
                }
                // Its engine has been put in another's place, which is asked instead.
                Err((index, error)) if error.kind() == ErrorKind::Closed && swapped < SWAPS => {
                    self.close();
                    swapped += 1;
                    state.check_open()?;
                    log::debug!("shard {}: {error}", layout.shards[index].id);
                }
                Err((index, error)) => {
                    met.extend(self.next_of(index).map(|key| (index, key)));
                    self.close();
                    state.read_failed(&layout.shards[index], &error);
                    except.push(index);
                    // Where several shards are damaged in different places, each has a replica all the same.
                    if cover(state, &layout, range, &except).is_err() {
                        state.check_open()?;
                        let is_mendable =
                            error.kind() == ErrorKind::Corruption && state.settings.heal == Heal::Automatic;
                        if is_mendable && mend(state, &layout, &met) || is_news() {
                            except.clear();
                            met.clear();
                            cause.get_or_insert(error);
                        } else {
                            return Err(cause.unwrap_or(error));
                        }
                    }
                }
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn try_fill<S: Sink>(
        &mut self,
        state: &State,
        layout: &Arc<Layout>,
        range: &KeyRange,
        at: Seq,
        limit: Limit,
        except: &[usize],
        chunk: &mut S,
    ) -> Result<Result<Option<KeyRange>, Failed>> {
        if self.layout.as_ptr() != Arc::as_ptr(layout) {
            self.close();
        }
        let health = state.health_version();
        let copy = |sources: &mut Sources| {
            sources.copied_at = 0;
            let (all, frozen) =
                state.memory.copy_active(range, at, sources.reverse, limit.records, &mut sources.copied);
            sources.copied_all = all;
            frozen
        };
        let used_up = self.copied_at >= self.copied.len() && !self.copied_all;
        let mut frozen =
            if self.stamp.is_none() || used_up { copy(self) } else { state.memory.frozen_tables() };
        let stamp = Stamp { forgotten: frozen.forgotten, health };
        if self.stamp.is_some_and(|before| before != stamp) && !crate::plants::is("scan-not-opened-anew") {
            self.close();
            frozen = copy(self);
        }
        let stamp = Stamp { forgotten: frozen.forgotten, health };
        if self.stamp.is_none() {
            let shards = cover(state, layout, range, except)?;
            self.stem_from = stem_from(range);
            if let Err(failed) = self.open(layout, range, at, &shards) {
                return Ok(Err(failed));
            }
            self.stamp = Some(stamp);
            self.layout = Arc::downgrade(layout);
        }
        for source in &mut self.shards {
            if let Err(failed) = source.skip_to(range, self.reverse) {
                return Ok(Err(failed));
            }
        }
        while self.copied.get(self.copied_at).is_some_and(|seen| !range.contains(seen.key)) {
            self.copied_at += 1;
        }
        if self.copied_at >= self.copied.len() && !self.copied_all {
            // That was the last one: what the table has after it is copied by the next call.
            return Ok(Ok(Some(range.clone())));
        }
        let tables = frozen.tables;
        let frozen = tables.iter().map(|table| Frozen::new(table.iter_at(range, at, self.reverse)));
        let mut merge = Merge {
            reverse: self.reverse,
            stem_from: self.stem_from,
            limit,
            layout,
            shards: &mut self.shards,
            copied: &self.copied,
            copied_at: &mut self.copied_at,
            copied_all: self.copied_all,
            frozen: frozen.collect(),
            stems: &mut self.stems,
            removed: None,
        };
        Ok(merge.run(chunk).map(|ended| {
            let last = merge.removed.as_deref().map(|key| (key, &[][..])).or_else(|| chunk.last_key());
            match last {
                _ if ended => None,
                Some((head, tail)) if self.reverse => {
                    Some(KeyRange { lo: range.lo.clone(), hi: Some([head, tail].concat()) })
                }
                Some((head, tail)) => Some(KeyRange { lo: after(head, tail), hi: range.hi.clone() }),
                None => Some(range.clone()),
            }
        }))
    }

    /// A key of what comes next on a shard, which failed there.
    fn next_of(&self, index: usize) -> Option<Vec<u8>> {
        self.shards.iter().find(|source| source.index == index)?.cursor.next_key().ok().flatten()
    }

    /// Opens a cursor on each of the shards.
    fn open(&mut self, layout: &Layout, range: &KeyRange, at: Seq, shards: &[usize]) -> Result<(), Failed> {
        let walk =
            Arc::new(Walk { range: range.clone(), at, reverse: self.reverse, stem_from: self.stem_from });
        self.shards.clear();
        for index in shards {
            let failed = |error| (*index, error);
            let engine = layout.shards[*index].engine().map_err(failed)?;
            let cursor = engine.cursor(&walk).map_err(failed)?;
            self.shards.push(Source { index: *index, block: Block::default(), at: 0, cursor, done: false });
        }
        Ok(())
    }
}

/// Puts right what is damaged where shards failed; whether there was anything. The rest of them is left to who heals them: looking
/// through it takes long.
fn mend(state: &State, layout: &Arc<Layout>, met: &[(usize, Vec<u8>)]) -> bool {
    let mut repaired = 0;
    for (index, key) in met {
        match verify_and_mend(state, layout, *index, key) {
            Ok(mended) => repaired += mended.repaired,
            // What is wrong with the shard as a whole is not put right from here.
            Err(error) => log::warn!("shard {}: {error}", layout.shards[*index].id),
        }
    }
    repaired > 0
}

/// The shards that hold every key of `range` between them.
fn cover(state: &State, layout: &Arc<Layout>, range: &KeyRange, except: &[usize]) -> Result<Arc<[usize]>> {
    let lo = batch::user_key(&range.lo);
    if let Some(hi) = bound(range)
        && let Some(node) = layout.ring.single_virtual_node(lo, Some(batch::user_key(hi)))
    {
        return Ok(Arc::new([state.owner_of(layout, node, except)?]));
    }
    state.cover(layout, except)
}

/// The upper bound, if it lies in the keyspace.
fn bound(range: &KeyRange) -> Option<&[u8]> {
    range.hi.as_deref().filter(|hi| batch::keyspace_of(hi) == batch::keyspace_of(&range.lo))
}

/// How many leading bytes all keys of the range share.
fn stem_from(range: &KeyRange) -> usize {
    let shared = |hi: &[u8]| hi.iter().zip(&range.lo).take_while(|(a, b)| a == b).count();
    bound(range).map_or(KEYSPACE_BYTES, shared)
}

/// The least key above the one that `head` and `tail` make together.
fn after(head: &[u8], tail: &[u8]) -> Vec<u8> {
    [head, tail, &[0]].concat()
}
