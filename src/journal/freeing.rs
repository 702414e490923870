//! Freeing what nobody needs any more, and how much is kept for those who do.

use super::{Journal, Retained};
use crate::error::Result;
use crate::ids::Seq;
use std::collections::VecDeque;

/// What is still to be done for segments that were freed.
#[derive(Debug, Default)]
pub struct Freed {
    /// Names have changed since the last sync of them that went well.
    unsynced: bool,
    /// Spares among them, which may be used when it has.
    spares: Vec<u64>,
}

impl Journal {
    /// Frees the segments whose frames are all below `below`; says how many. The current one stays. Durably: what an earlier call could
    /// not make so is made so as well.
    ///
    /// # Errors
    /// `Io`: some were not freed, or not durably; call again. `Poisoned`, `Closed`: nor are any from here on.
    pub fn trim(&self, below: Seq) -> Result<usize> {
        let _turn = self.enter()?;
        // The oldest goes first, so one trim after the other. Held over its I/O: nobody else waits for it.
        let mut freed = self.freed.lock();
        // The segment that becomes the oldest one must say durably where it begins, which its first frame does, or the
        // header of one that begins a session.
        let last = self.last();
        let freeable = |segments: &VecDeque<Retained>| {
            segments.get(1).is_some_and(|next| next.first <= below && (next.start || next.first <= last))
        };
        let take = || {
            let mut segments = self.retained.lock();
            if freeable(&segments) { segments.pop_front() } else { None }
        };
        let (mut count, mut outcome) = (0, Ok(()));
        if freeable(&self.retained.lock()) {
            self.sync_to(last)?;
        }
        // Out of the list before a byte of it is changed, for whoever reads; and not under the list's lock, which writers want.
        while let Some(oldest) = take() {
            // Each takes as long as the disk does, and the journal may have been closed meanwhile.
            let free = || self.supply.free(oldest.generation, oldest.len, freed.spares.len());
            match self.health.check().and_then(|()| free()) {
                Ok(spare) => freed.spares.extend(spare),
                Err(e) => {
                    self.retained.lock().push_front(oldest);
                    outcome = Err(e);
                    break;
                }
            }
            freed.unsynced = true;
            count += 1;
        }
        if freed.unsynced {
            self.supply.restock(freed.spares.clone())?;
            *freed = Freed::default();
        }
        outcome.map(|()| count)
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
