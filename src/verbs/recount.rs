//! Counting a shard's pages again after it was closed in the middle of a flush, slice by slice.

use crate::engine::Recounted;
use crate::error::Result;
use crate::state::State;

/// One slice for each shard that needs it. Returns whether any is left to do.
pub fn recount(state: &State, pages: usize) -> Result<bool> {
    let mut left = false;
    let layout = state.layout();
    for (index, shard) in layout.shards.iter().enumerate() {
        let Ok(engine) = shard.engine() else { continue };
        if engine.figures().is_some() {
            continue;
        }
        match state.beside(&layout, index, move |_| engine.recount(pages)) {
            Ok(Recounted::Further) => left = true,
            Ok(Recounted::Whole) => {}
            Ok(Recounted::Differs(error)) | Err(error) => state.read_failed(shard, &error),
        }
    }
    Ok(left)
}
