//! Segments that come back before the oldest one, while the journal is open: they were lost from it, and found in a copy that is left out.
//!
//! Invariant: such a segment is in every copy that counts, durably, before it is in the list of those that are retained; and it leads up to the oldest
//! of them.

use super::{Journal, Retained};
use crate::ids::Seq;

/// A segment that has been put back.
#[derive(Debug, Clone, Copy)]
pub struct Regained {
    pub generation: u64,
    /// No frame in it is below this.
    pub first: Seq,
    pub len: u64,
    /// It begins a session.
    pub start: bool,
}

impl Journal {
    /// The generation of the oldest segment.
    pub fn oldest(&self) -> Option<u64> {
        self.retained.lock().front().map(|segment| segment.generation)
    }

    /// Takes in a segment that comes right before the oldest one; false if it does not any more, since that was freed meanwhile, or if the journal
    /// is closed, or takes no more writes.
    pub fn regain(&self, segment: Regained) -> bool {
        // Whoever trims has taken out of the list what is still to be freed.
        let _freed = self.freed.lock();
        let mut retained = self.retained.lock();
        let leads_on = retained
            .front()
            .is_some_and(|oldest| oldest.generation.checked_sub(1) == Some(segment.generation));
        if !leads_on || self.health.check().is_err() {
            return false;
        }
        let Regained { generation, first, len, start } = segment;
        retained.push_front(Retained { generation, first, len, start });
        true
    }
}
