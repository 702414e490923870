//! The handle of a scrub: how far it has got, and what a user asks of it.

use crate::error::Result;
use crate::handle::Handle;
use crate::state::scrub::{ScrubProgress, ScrubReport};
use crate::verbs;
use std::sync::Arc;

/// A scrub that is under way, or was. Dropping it changes nothing.
#[derive(Debug, Clone)]
pub struct Scrub {
    handle: Arc<Handle>,
    number: u64,
}

impl Scrub {
    pub(crate) fn new(handle: Arc<Handle>, number: u64) -> Scrub {
        Scrub { handle, number }
    }

    /// How far the store's last scrub has got, and what it has found.
    pub fn progress(&self) -> ScrubProgress {
        self.handle.state.scrub.progress()
    }

    /// Waits until it is over, and returns what it found, also where others have begun since; none if it was cancelled, or is not one of the
    /// last 64.
    ///
    /// # Errors
    /// The cause, as soon as a step fails, or a flush that must come first; it is then tried again: wait again, or cancel it.
    /// `Closed` if the store is closed meanwhile; it goes on at the next opening.
    pub fn wait(&self) -> Result<Option<ScrubReport>> {
        self.handle.state.scrub.wait(self.number)
    }

    /// Ends it. What it has repaired stays so; what the step that is under way finds is in no report.
    ///
    /// # Errors
    /// `NotFound` if it is over; `Closed` after a close; `Io` if that cannot be saved: it has ended, and goes on at the next opening
    /// unless closing the store, or cancelling it once more, can save it.
    pub fn cancel(&self) -> Result<()> {
        verbs::scrub::cancel(&self.handle.state, self.number)
    }

    /// Makes it rest until it is [resumed](Self::resume), or the store is opened again.
    ///
    /// # Errors
    /// `NotFound` if it is over.
    pub fn pause(&self) -> Result<()> {
        self.handle.state.scrub.pause(self.number, true)
    }

    /// Ends a [pause](Self::pause).
    ///
    /// # Errors
    /// `NotFound` if it is over.
    pub fn resume(&self) -> Result<()> {
        self.handle.state.scrub.pause(self.number, false)?;
        self.handle.state.signals.want_change();
        Ok(())
    }

    /// Bounds its speed, in bytes read a second; none: it gives way to reads and writes by itself, as it does from the
    /// beginning.
    ///
    /// # Errors
    /// `NotFound` if it is over.
    pub fn set_rate(&self, bytes_per_second: impl Into<Option<u64>>) -> Result<()> {
        self.handle.state.scrub.set_rate(self.number, bytes_per_second.into())?;
        self.handle.state.signals.want_change();
        Ok(())
    }
}
