//! Freeing what nobody needs any more, and how much is kept for those who do.

use super::{Journal, Retained, Shown};
use crate::error::Result;
use crate::ids::Seq;
use std::collections::VecDeque;

impl Journal {
    /// Frees the segments whose frames are all below `below`; says how many. The current one stays.
    ///
    /// # Errors
    /// `Io`: some were not freed; call again. `Poisoned`, `Closed`: nor are any from here on.
    pub fn trim(&self, below: Seq) -> Result<usize> {
        let _turn = self.enter()?;
        // The segment that becomes the oldest one must say durably where it begins, which its first frame does, or the
        // header of one that begins a session.
        let last = self.last();
        let freeable = |segments: &VecDeque<Retained>| {
            segments.get(1).is_some_and(|next| next.first <= below && (next.start || next.first <= last))
        };
        if !freeable(&self.retained.lock()) {
            return Ok(0);
        }
        self.sync_to(last)?;
        let mut segments = self.retained.lock();
        let mut freed = 0;
        let mut spares = Vec::new();
        let mut outcome = Ok(());
        while freeable(&segments)
            && let Some(oldest) = segments.front().copied()
        {
            // Each takes as long as the disk does, and the journal may have been closed meanwhile.
            let free = || self.supply.free(oldest.generation, oldest.len, spares.len());
            match self.health.check().and_then(|()| free()) {
                Ok(spare) => spares.extend(spare),
                Err(e) => {
                    outcome = Err(e);
                    break;
                }
            }
            segments.pop_front();
            freed += 1;
        }
        *self.shown.lock() = Shown::of(&segments);
        drop(segments);
        self.supply.restock(spares)?;
        outcome.map(|()| freed)
    }

    /// From where on the journal can be kept for somebody, so that no more than `most` bytes are which `trim(below)` would free: for
    /// who needs an older sequence it cannot.
    pub fn reach(&self, below: Seq, most: u64) -> Seq {
        let segments = self.retained.lock();
        let mut left = most;
        let mut next: Option<Retained> = None;
        for segment in segments.iter().rev() {
            if let Some(next) = next.filter(|next| next.first <= below) {
                match left.checked_sub(segment.len) {
                    Some(rest) => left = rest,
                    None => return next.first,
                }
            }
            next = Some(*segment);
        }
        Seq::ZERO
    }
}
