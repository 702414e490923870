//! One step of the change that is under way, or of what the last one has left to be done.

use super::compare::compare;
use super::copy::copy;
use super::finish::flip;
use super::retire;
use super::sweep::{Swept, sweep};
use crate::error::{Error, Result};
use crate::manifest::ChangeStep;
use crate::state::State;
use crate::state::change::Mover;
use crate::state::transfer::{self, level};

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There is nothing to do, or it is paused.
    Idle,
    /// So many bytes were copied, compared or gone through.
    Worked(u64),
    /// Readers of before the last change are still at it: soon.
    Waiting,
    /// A flush must come first: some shards lack what others have.
    NeedsFlush,
}

/// Takes one step.
pub fn step(state: &State) -> Result<Step> {
    state.check_open()?;
    let mut mover = state.change.mover.lock();
    let taken = take(state, &mut mover);
    if let Err(error) = &taken {
        state.change.failed(error);
    }
    taken
}

/// A flush that must come first failed: whoever waits for the change is told, and does not wait for as long as a disk is full.
pub fn not_flushed(state: &State, error: &Error) {
    // Of a close everyone has been told.
    if state.check_open().is_ok() {
        state.change.failed(&transfer::not_flushed(error));
    }
}

fn take(state: &State, mover: &mut Mover) -> Result<Step> {
    let at = state.manifest.lock().change.as_ref().map(|change| (change.step, change.position.clone()));
    let begun = at.as_ref().is_none_or(|(step, _)| *step != ChangeStep::Preparing);
    if begun && state.change.is_paused() {
        return Ok(Step::Idle);
    }
    let Some((step, position)) = at else {
        return Ok(match sweep(state, mover)? {
            Swept::Nothing => Step::Idle,
            Swept::Waiting => Step::Waiting,
            Swept::Some(bytes) => Step::Worked(bytes),
        });
    };
    if step == ChangeStep::Preparing {
        // One that did not begin, and could not be taken back at once.
        retire::undo(state)?;
        return Ok(Step::Worked(0));
    }
    if !mover.level {
        let _turn = state.flushing.lock();
        let _chunk = state.moving.lock();
        // What was replayed may have reached some shards before the crash, or with a chunk: it would pass for a difference.
        let settled = |applied| applied >= mover.replayed || state.memory.is_empty();
        if !level(state)?.is_some_and(settled) {
            return Ok(Step::NeedsFlush);
        }
        mover.level = true;
        // Comparing begins again at every opening: it is what came back from the disk that is to be compared.
        mover.position = if step == ChangeStep::Copying { position } else { Vec::new() };
    }
    match step {
        ChangeStep::Verifying if mover.compared || crate::plants::is("flip-without-comparing") => {
            Ok(if flip(state, mover)? { Step::Worked(0) } else { Step::NeedsFlush })
        }
        ChangeStep::Verifying => {
            let (more, bytes) = compare(state, mover)?;
            mover.compared = !more;
            Ok(Step::Worked(bytes))
        }
        _ => Ok(Step::Worked(copy(state, mover)?)),
    }
}
