//! Walking over a shard in memory, a few keys a block. Like sled's, a walk gives out what lies before damage, then fails at
//! it, and goes on there when it has been put right.

use super::Operation;
use super::engine::Seat;
use super::faults::unreadable;
use super::shard::visible;
use crate::engine::{Block, Cursor, Walk};
use crate::error::Result;
use crate::page::{self, LEFT_OUT, Row};
use crate::record::KeyRange;
use std::ops::Bound;
use std::sync::Arc;

/// Keys in one block of a cursor.
const BLOCK: usize = 32;

pub(super) struct MemoryCursor {
    seat: Seat,
    walk: Arc<Walk>,
    /// What has not been given out yet.
    rest: KeyRange,
    done: bool,
    /// A key of the damage that the last step failed at.
    stuck: Option<Vec<u8>>,
}

impl MemoryCursor {
    pub fn new(seat: Seat, walk: &Arc<Walk>) -> MemoryCursor {
        let (rest, done) = (walk.range.clone(), walk.range.is_empty());
        MemoryCursor { seat, rest, done, walk: Arc::clone(walk), stuck: None }
    }

    /// Takes `key`, and what was given out before it, off the rest.
    fn move_past(&mut self, key: &[u8]) {
        if self.walk.reverse {
            self.rest.hi = Some(key.to_vec());
        } else {
            self.rest.lo = [key, &[0]].concat();
        }
    }

    /// The rest up to the damage that comes first in it.
    fn up_to(&self, damage: &KeyRange) -> KeyRange {
        let mut whole = self.rest.clone();
        if !self.walk.reverse {
            whole.hi = Some(damage.lo.clone());
        } else {
            match &damage.hi {
                Some(hi) => whole.lo = whole.lo.max(hi.clone()),
                None => whole.hi = Some(whole.lo.clone()),
            }
        }
        whole
    }
}

impl Cursor for MemoryCursor {
    fn next_block(&mut self, block: &mut Block) -> Result<bool> {
        block.clear();
        self.stuck = None;
        if self.done {
            return Ok(false);
        }
        self.seat.pass_reading(Operation::Cursor)?;
        let (seat, walk) = (&self.seat, &*self.walk);
        let damage = seat.world.damage(seat.id, &self.rest, walk.reverse);
        let whole = damage.as_ref().map_or_else(|| self.rest.clone(), |damage| self.up_to(damage));
        let mut bytes = Vec::new();
        let (last, ended) = seat.with(|shard| {
            let below = whole.hi.clone().map_or(Bound::Unbounded, Bound::Excluded);
            if whole.is_empty() {
                return Ok((None, true));
            }
            let mut steps = shard.records.range((Bound::Included(whole.lo.clone()), below));
            let mut last: Option<Vec<u8>> = None;
            while block.len() < BLOCK {
                let Some((key, versions)) = (if walk.reverse { steps.next_back() } else { steps.next() })
                else {
                    return Ok((last, true));
                };
                if let Some((seq, value)) = visible(versions, walk.at) {
                    let (suffix, suffix_len) = (bytes.len() as u32, key.len() as u32);
                    bytes.extend_from_slice(key);
                    let carried = value.len() <= seat.carried;
                    let value_len = if carried { value.len() as u32 } else { LEFT_OUT };
                    bytes.extend_from_slice(if carried { value } else { &[] });
                    let row = Row { suffix, suffix_len, value: suffix + suffix_len, value_len, seq };
                    block.rows.rows.push(row);
                    block.rows.stems.push(page::stem(key, walk.stem_from, walk.reverse));
                }
                last = Some(key.clone());
            }
            Ok((last, false))
        })?;
        block.prefix.clear();
        block.base = 0;
        block.bytes = Some(bytes.into());
        if let Some(last) = last {
            self.move_past(&last);
        }
        match damage {
            Some(damage) if ended && block.is_empty() => {
                block.clear();
                self.stuck = Some(damage.lo.clone());
                return Err(unreadable(self.seat.id, &damage));
            }
            Some(_) => {}
            None => self.done = ended,
        }
        Ok(!block.is_empty())
    }

    fn next_key(&self) -> Result<Option<Vec<u8>>> {
        if self.done || self.stuck.is_some() {
            return Ok(self.stuck.clone());
        }
        if !self.walk.reverse {
            return Ok(Some(self.rest.lo.clone()));
        }
        self.seat.with(|shard| Ok(shard.keys_in(&self.rest).pop().or_else(|| Some(self.rest.lo.clone()))))
    }
}
