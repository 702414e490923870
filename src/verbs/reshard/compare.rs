//! Comparing what the new owners hold with what their sources hold, before anybody relies on it.

use super::copy::{begin_targets, seal_targets};
use crate::error::Result;
use crate::state::State;
use crate::state::change::Mover;
use crate::state::transfer::{Purpose, compare_chunk};

/// Compares one chunk. Returns whether there is more, and the bytes that were compared.
pub fn compare(state: &State, mover: &mut Mover) -> Result<(bool, u64)> {
    let layout = state.layout();
    let chunk = state.moving.lock();
    let from = mover.position.clone();
    let mut begin = || begin_targets(state, &layout, mover);
    let compared = compare_chunk(state, &layout, Purpose::Change, &from, &mut begin)?;
    drop(chunk);
    state.change.compared_more(compared.bytes);
    match compared.end {
        Some(end) => {
            mover.position = end;
            Ok((true, compared.bytes))
        }
        None => {
            seal_targets(state, &layout, mover)?;
            mover.position = Vec::new();
            Ok((false, compared.bytes))
        }
    }
}
