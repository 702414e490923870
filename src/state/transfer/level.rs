//! Seeing to it that all shards are complete up to one sequence.

use crate::error::{Error, ErrorKind, Result};
use crate::ids::Seq;
use crate::shard::Shard;
use crate::state::State;

/// Returns the sequence that every shard that is read or flushed to is complete up to; none if a flush must come first. Under the turn to
/// flush.
///
/// Shards differ only between an opening after a crash and the first flush. What one of them lacks is in the memtables then,
/// and a copy taken from it would lack it for good on a shard that is past it.
pub fn level(state: &State) -> Result<Option<Seq>> {
    let layout = state.layout();
    let serving = || {
        let all = layout.shards.iter().enumerate();
        all.filter(|(_, shard)| shard.is_flushed() || shard.serves())
    };
    let most = serving().map(|(_, shard)| shard.applied()).max().unwrap_or_default();
    if serving().all(|(_, shard)| shard.applied() == most) {
        return Ok(Some(most));
    }
    if !state.memory.is_empty() {
        return Ok(None);
    }
    // Nothing waits in memory: what lies between was nobody's, as the records of a dropped keyspace are.
    for (index, shard) in serving().filter(|(_, shard)| shard.applied() < most) {
        let seal = move |shard: &Shard| shard.begin_apply().and_then(|_| shard.seal(most));
        state.beside(&layout, index, seal).inspect_err(|error| state.write_failed(shard, error))?;
    }
    Ok(Some(most))
}

/// The error of one who cannot wait for a flush.
pub fn uneven() -> Error {
    Error::new(ErrorKind::Unavailable, "the shards are not level: some have applied more than others")
        .remedy("flush, then try again")
}

/// The error of one who waits for a flush that failed for this.
pub fn not_flushed(cause: &Error) -> Error {
    Error::new(cause.kind(), "what has been written must be flushed first, and cannot be")
        .caused_by(cause.clone())
        .remedy("bring the shards back, or make room on those, that cannot be flushed to")
}
