//! Mending: what a shard cannot read is put in from its replicas, page by page, in place.
//!
//! Invariant: a page holds what its shard owns, or will, by the layout of the moment in which it is replaced, and has that from those who own it
//! then: whoever met the damage may have met it by another.

use super::Purpose;
use super::chunk::{Extent, Wanted, gather};
use super::copy::with_sources;
use crate::error::{Error, ErrorKind, Result};
use crate::record::{KeyRange, RunBuffer, RunRecord};
use crate::shard::{Layout, Shard};
use crate::state::State;
use std::sync::Arc;

/// How much is verified at once, in bytes.
const VERIFIED: usize = 2 << 20;

/// What verifying a piece of a shard came to.
#[derive(Debug, Default)]
pub struct Mended {
    /// Damaged pages that were replaced.
    pub repaired: u64,
    /// Damaged pages for which there was nothing to replace them by; the last cause.
    pub left: u64,
    /// How many of those for want of a replica that has them, and not for a failure that may pass.
    pub lacking: u64,
    pub cause: Option<Error>,
    /// About how much was read.
    pub bytes: u64,
    /// Where to go on; none at the end.
    pub end: Option<Vec<u8>>,
}

/// Verifies a piece of a shard's pages from `from` on, and replaces those that are damaged. An error is about the shard as a
/// whole.
pub fn verify_and_mend(state: &State, layout: &Arc<Layout>, index: usize, from: &[u8]) -> Result<Mended> {
    let shard = &layout.shards[index];
    let from = from.to_vec();
    let (bad, end) = state.beside(layout, index, move |shard| {
        let mut bad = Vec::new();
        let end = shard.whatever_for()?.verify(&from, VERIFIED, &mut bad)?;
        Ok((bad, end))
    })?;
    let mut mended = Mended { end, bytes: VERIFIED as u64, ..Mended::default() };
    for damage in bad {
        match mend(state, shard, &damage.range) {
            Ok(true) => {
                log::warn!("shard {}: a damaged page was replaced: {}", shard.id, damage.error);
                mended.repaired += 1;
            }
            Ok(false) => {}
            Err(error) => {
                log::error!("shard {}: a damaged page is left ({}): {error}", shard.id, damage.error);
                mended.left += 1;
                mended.lacking += u64::from(error.kind() == ErrorKind::Unavailable);
                mended.cause = Some(error);
            }
        }
    }
    Ok(mended)
}

/// Replaces what a shard holds of a damaged range by what its replicas hold; false if it is no longer damaged.
fn mend(state: &State, shard: &Arc<Shard>, range: &KeyRange) -> Result<bool> {
    // No flush is half done meanwhile: what it has brought to one side and not yet to the other would be lost.
    let _turn = state.flushing.lock();
    let _chunk = state.moving.lock();
    // Not before the turn: one that has lost what is asked of it serves on, level with the others, and lacks what was flushed since.
    let layout = &state.layout();
    let index = layout.index_of(shard.id).ok_or_else(|| {
        Error::new(ErrorKind::Unavailable, "the shard has left the ring").on(shard.id).remedy("ask again")
    })?;
    let purpose = Purpose::Mending(index);
    let engine = shard.whatever_for()?;
    let (asked, lo) = (engine.clone(), range.lo.clone());
    let Some(range) = state.beside(layout, index, move |_| asked.damaged(&lo))? else { return Ok(false) };
    let extent = Extent::Key(range.hi.as_deref());
    let chunk = with_sources(state, layout, purpose, |sources| {
        let engine = |shard: usize| layout.shards[shard].engine();
        let wanted = Wanted::From(sources.clone());
        gather(state, layout, &range.lo, extent, &sources.shards, &engine, &wanted)
    })
    .map_err(|error| {
        let text = "a damaged page has no replica that can be read";
        Error::new(ErrorKind::Unavailable, text).on(shard.id).caused_by(error)
    })?;
    let keys = chunk.keys();
    let run: Vec<RunRecord<'_>> = keys
        .iter()
        .filter(|versions| purpose.wants(layout, index, versions.position))
        .flat_map(|versions| versions.records())
        .collect();
    let run = RunBuffer::of(&run);
    // Where it is refused the shard stays as it was, and goes on being read.
    let session = state.beside(layout, index, Shard::begin_apply)?;
    let replace = move |shard: &Shard| {
        let replaced = engine.replace_range(&range, &run.run()).and_then(|()| shard.seal(shard.applied()));
        replaced.inspect_err(|_| session.leave())
    };
    let replaced = state.beside(layout, index, replace).inspect_err(|error| {
        if error.kind() != ErrorKind::InvalidInput && !error.is_refusal_to_write() {
            // What was put right is made durable after it has been opened again.
            shard.suspect();
            state.shard_failed(shard, error);
        }
    });
    // What the page gave out before it was damaged need not be what the others have. Readers may have the new one already where that could
    // not be sealed.
    state.records.clear();
    state.changed.corrected();
    replaced.map(|()| true)
}
