//! Before a shard is given up to be filled anew that serves, or fails again and again and may be whole all the same: those that it is to be
//! filled from are verified, and mended from it as long as it serves.
//!
//! Invariant: what one of them alone has lost is never the reason that both are without it. So one in which damage is met after it was
//! verified, or while it is, is verified once more.

use super::step::Step;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::ShardId;
use crate::shard::Layout;
use crate::state::State;
use crate::state::change::Mover;
use crate::state::events::EventKind;
use crate::state::transfer::{Purpose, Sources, level, verify_and_mend};
use std::sync::Arc;

/// Verifies a piece of those that a shard would be filled from; none when they are whole.
pub fn piece(state: &State, mover: &mut Mover, layout: &Arc<Layout>, index: usize) -> Result<Option<Step>> {
    let shard = &layout.shards[index];
    // Whoever begins it anew says what is missing.
    let Ok(sources) = Sources::choose(layout, Purpose::Filling(index), &[index]) else {
        mover.end_proof(shard.id);
        return Ok(None);
    };
    {
        // Nobody is mended from one who lacks what it has.
        let _turn = state.flushing.lock();
        let _chunk = state.moving.lock();
        if level(state).inspect_err(|_| mover.end_proof(shard.id))?.is_none() {
            return Ok(Some(Step::NeedsFlush));
        }
    }
    let proof = mover.proof_of(shard.id);
    let met = |id: ShardId| layout.index_of(id).map(|index| layout.shards[index].damage_met());
    proof.whole.retain(|id, before| met(*id) == Some(*before));
    let next = sources.shards.iter().find(|source| !proof.whole.contains_key(&layout.shards[**source].id));
    let Some(source) = next.copied() else {
        mover.end_proof(shard.id);
        return Ok(None);
    };
    let (from, id) = (&layout.shards[source], layout.shards[source].id);
    // Of another one that was begun, and does not serve any more, nothing is known.
    if proof.at.replace(id) != Some(id) {
        proof.position.clear();
        proof.met = from.damage_met();
    }
    let mended = match verify_and_mend(state, layout, source, &proof.position) {
        Ok(mended) => mended,
        Err(error) => {
            mover.end_proof(shard.id);
            state.read_failed(from, &error);
            return Err(error);
        }
    };
    if mended.repaired > 0 {
        state.events.tell(Some(id), EventKind::Repaired { pages: mended.repaired });
    }
    if let Some(cause) = mended.cause {
        let error = Error::corruption("damage is left").on(id).caused_by(cause);
        state.read_failed(from, &error);
        mover.end_proof(shard.id);
        let text =
            format!("the shard cannot be rebuilt: shard {id}, which it is to be filled from, is damaged");
        return Err(Error::new(ErrorKind::Unavailable, text).on(shard.id).caused_by(error).remedy(
            "bring the shards back that hold the same, or repair this one, which keeps what is good in it",
        ));
    }
    match mended.end {
        Some(end) => proof.position = end,
        None => {
            proof.whole.insert(id, proof.met);
            proof.at = None;
        }
    }
    Ok(Some(Step::Worked(mended.bytes)))
}
