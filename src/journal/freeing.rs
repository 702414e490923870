//! Freeing what nobody needs any more, and how much is kept for those who do.
//!
//! Invariant: once a journal is closed, and nobody frees or mends any more, no file of it is touched: they are the next opening's. Whoever
//! must not be followed by one before that leaves its lock here.

use super::{Journal, Retained, Shown};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Seq;
use crate::sync::{Condvar, Mutex};
use std::collections::VecDeque;
use std::fmt::Debug;
use std::time::Duration;

/// Who is about to free segments, or to mend one. Not `retained`: that is waited for as long as a disk hangs.
#[derive(Debug, Default)]
pub struct Freeing {
    inner: Mutex<Inner>,
    over: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    at_it: usize,
    /// What is dropped when none is any more.
    left: Option<Box<dyn Debug + Send + Sync>>,
}

/// One who frees or mends, as long as that lasts.
#[derive(Debug)]
pub struct Turn<'a>(&'a Freeing);

impl Freeing {
    fn begin(&self) -> Turn<'_> {
        self.inner.lock().at_it += 1;
        Turn(self)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut inner = self.0.inner.lock();
        inner.at_it = inner.at_it.saturating_sub(1);
        let left = if inner.at_it == 0 { inner.left.take() } else { None };
        drop(inner);
        self.0.over.notify_all();
        drop(left);
    }
}

impl Journal {
    /// Frees the segments whose frames are all below `below`; says how many. The current one stays.
    ///
    /// # Errors
    /// `Io`: some were not freed; call again. `Poisoned`, `Closed`: nor are any from here on.
    pub fn trim(&self, below: Seq) -> Result<usize> {
        let _turn = self.turn();
        self.health.check()?;
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

    /// A close waits for whoever has it, or leaves its lock. Who takes one looks after that whether the journal may still be touched.
    pub fn turn(&self) -> Turn<'_> {
        self.freeing.begin()
    }

    /// Does something to the journal's files that a reader has found to be necessary. A close waits for it, or leaves its lock.
    ///
    /// # Errors
    /// `Poisoned`, `Closed`: nothing was done; the files may be the next opening's.
    pub(super) fn in_turn<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        let _turn = self.turn();
        self.health.check()?;
        Ok(work())
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

    /// Waits until nobody frees or mends segments of a journal that is closed, for `limit`.
    ///
    /// # Errors
    /// `Unavailable`: somebody still does: the disk has not answered.
    pub fn rest(&self, limit: Duration) -> Result<()> {
        let mut inner = self.freeing.inner.lock();
        let waited = self.freeing.over.wait_while_for(&mut inner, |inner| inner.at_it > 0, limit);
        if !waited.timed_out() {
            return Ok(());
        }
        let text = format!("the journal's disk has not answered for {} s", limit.as_secs_f32());
        Err(Error::new(ErrorKind::Unavailable, text)
            .at(&self.supply.dir)
            .remedy("look at it and the kernel log; the store can be opened again when it has answered"))
    }

    /// Drops a lock on the journal's files when nobody frees or mends any of them.
    pub fn leave(&self, lock: Box<dyn Debug + Send + Sync>) {
        let mut inner = self.freeing.inner.lock();
        if inner.at_it > 0 {
            inner.left = Some(lock);
        }
    }
}
