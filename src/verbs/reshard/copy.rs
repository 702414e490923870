//! Copying: chunk after chunk of records goes from its owners to those that gain it.

use crate::error::Result;
use crate::manifest::ChangeStep;
use crate::shard::Layout;
use crate::state::State;
use crate::state::change::Mover;
use crate::state::transfer::{Purpose, SEAL_EVERY, copy_chunk};
use std::sync::Arc;

/// Copies one chunk; returns the bytes that were copied. The last one ends the phase.
pub fn copy(state: &State, mover: &mut Mover) -> Result<u64> {
    let layout = state.layout();
    begin_targets(state, &layout, mover)?;
    let chunk = state.moving.lock();
    let copied = copy_chunk(state, &layout, Purpose::Change, &mover.position)?;
    drop(chunk);
    mover.unsealed += copied.bytes;
    state.change.copied_more(copied.records, copied.bytes);
    match copied.end {
        Some(end) => {
            mover.position = end;
            if mover.unsealed >= SEAL_EVERY {
                save(state, &layout, mover, ChangeStep::Copying)?;
            }
        }
        None => {
            mover.position = Vec::new();
            save(state, &layout, mover, ChangeStep::Verifying)?;
        }
    }
    Ok(copied.bytes)
}

/// Marks the seals of the shards that gain: they are being changed.
pub fn begin_targets(state: &State, layout: &Arc<Layout>, mover: &mut Mover) -> Result<()> {
    if !mover.begun {
        Purpose::Change.begin(state, layout)?;
        mover.begun = true;
    }
    Ok(())
}

/// Makes what the targets have been given durable.
pub fn seal_targets(state: &State, layout: &Arc<Layout>, mover: &mut Mover) -> Result<()> {
    if std::mem::take(&mut mover.begun) {
        mover.unsealed = 0;
        Purpose::Change.seal(state, layout)?;
    }
    Ok(())
}

/// Makes the copies durable, and then the word of how far they have got.
fn save(state: &State, layout: &Arc<Layout>, mover: &mut Mover, step: ChangeStep) -> Result<()> {
    seal_targets(state, layout, mover)?;
    let (records, bytes) = state.change.copied();
    let mut manifest = state.manifest.lock();
    let mut next = manifest.clone();
    if let Some(change) = &mut next.change {
        change.step = step;
        change.position.clone_from(&mover.position);
        (change.records, change.bytes) = (records, bytes);
    }
    state.save_progress(&mut manifest, next)
}
