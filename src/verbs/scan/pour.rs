//! Whole keyspaces straight into chunks: what a checkpoint reads is merged out of the pages into the bytes that it writes.
//!
//! Reading ahead would bring nothing here: those who hash and write have the other cores, and each hand-over of a batch from one
//! thread to another costs more than it spreads (docs/BENCHMARKS.md, checkpoints).
//!
//! Invariant: a batch that has to be merged anew leaves nothing of the first time.

use super::large;
use super::merge::{Limit, Sink};
use super::sources::Sources;
use crate::backup::Pour;
use crate::backup::filling::Filling;
use crate::engine::Record;
use crate::error::Result;
use crate::ids::Seq;
use crate::record::KeyRange;
use crate::state::Said;
use crate::state::State;
use std::sync::Arc;

/// How much a batch has. Between two of them nothing is held.
const BATCH: Limit = Limit { records: 4096, bytes: 256 << 10, versions: true };

/// Records of one keyspace on their way into chunks.
pub struct Pouring {
    state: Arc<State>,
    at: Seq,
    rest: Option<KeyRange>,
    sources: Sources,
}

impl Pouring {
    /// The records of `range` as of `at`: a snapshot that somebody holds.
    pub fn new(state: Arc<State>, range: KeyRange, at: Seq) -> Result<Pouring> {
        state.check_open()?;
        state.memory.hold_snapshot(at);
        Ok(Pouring { state, at, rest: Some(range), sources: Sources::new(false) })
    }

    fn batch(&mut self, range: &KeyRange, into: &mut Filling) -> Result<Option<KeyRange>> {
        let rest = self.sources.fill(&self.state, range, self.at, BATCH, into)?;
        if let Some(key) = into.wanted() {
            into.bring(&large(&self.state, &key, self.at)?);
        }
        Ok(rest)
    }
}

impl Pour for Pouring {
    fn pour(&mut self, into: &mut Filling) -> Result<bool> {
        let Some(range) = self.rest.take() else { return Ok(false) };
        into.begin(&range.lo);
        let rest = self.batch(&range, into).inspect_err(|_| into.take_back());
        self.rest = rest?.filter(|range| !range.is_empty());
        Ok(self.rest.is_some())
    }
}

impl Drop for Pouring {
    fn drop(&mut self) {
        self.state.memory.close_snapshot(self.at);
    }
}

impl Sink for Filling {
    fn prepare(&mut self, _: Limit) {
        self.take_back();
    }

    #[inline]
    fn is_full(&self, limit: Limit) -> bool {
        let (records, bytes) = self.added();
        records >= limit.records || bytes >= limit.bytes || self.waits()
    }

    fn last_key(&self) -> Option<(&[u8], &[u8])> {
        Filling::last_key(self)
    }

    #[inline]
    fn push(&mut self, prefix: &[u8], record: Record<'_>, seq: Seq) {
        let (suffix, value) = record.parts();
        self.add(prefix, suffix, seq, value);
    }

    fn push_whole(&mut self, key: &[u8], said: Said<'_>, seq: Seq) {
        self.add(key, &[], seq, if let Said::Value(value) = said { Some(value) } else { None });
    }
}
