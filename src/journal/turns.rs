//! Who is at the journal's files: to write, to sync, to make a segment or free some, to mend one, to note a failure.
//!
//! Invariant: once a journal takes nothing any more, since it is closed or a write or sync has failed, and nobody has a turn, no file of it is
//! touched: they are the next opening's. Whoever must not be followed by one before that leaves its lock here.

use super::Journal;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Condvar, Mutex};
use std::fmt::Debug;
use std::time::Duration;

/// How many are at the files. Not their locks: those are waited for as long as a disk hangs.
#[derive(Debug, Default)]
pub struct Turns {
    inner: Mutex<Inner>,
    over: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    at_it: usize,
    /// What is dropped when none is any more.
    left: Option<Box<dyn Debug + Send + Sync>>,
}

/// One who is at them, as long as that lasts.
#[derive(Debug)]
pub struct Turn<'a>(&'a Turns);

impl Turns {
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
    /// A close waits for whoever has it, or leaves its lock. Who takes one looks after that whether the journal may still be touched: see
    /// [`enter`](Self::enter).
    pub fn turn(&self) -> Turn<'_> {
        self.turns.begin()
    }

    /// A turn of a journal whose files are this opening's to the end of it.
    ///
    /// # Errors
    /// `Poisoned`, `Closed`: the files may be the next opening's.
    pub(super) fn enter(&self) -> Result<Turn<'_>> {
        // Before it, too: who is refused again and again would keep a close waiting.
        self.health.check()?;
        let turn = self.turn();
        self.health.check()?;
        Ok(turn)
    }

    /// Does something to the journal's files that a reader has found to be necessary. A close waits for it, or leaves its lock.
    ///
    /// # Errors
    /// `Poisoned`, `Closed`: nothing was done; the files may be the next opening's.
    pub(super) fn in_turn<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        let _turn = self.enter()?;
        Ok(work())
    }

    /// Waits until nobody is at the files of a journal that takes nothing any more, for `limit`.
    ///
    /// # Errors
    /// `Unavailable`: somebody still does: the disk has not answered.
    pub fn rest(&self, limit: Duration) -> Result<()> {
        let mut inner = self.turns.inner.lock();
        let waited = self.turns.over.wait_while_for(&mut inner, |inner| inner.at_it > 0, limit);
        if !waited.timed_out() {
            return Ok(());
        }
        let text = format!("the journal's disk has not answered for {} s", limit.as_secs_f32());
        Err(Error::new(ErrorKind::Unavailable, text)
            .at(&self.supply.dir)
            .remedy("look at it and the kernel log; the store can be opened again when it has answered"))
    }

    /// Drops a lock on the journal's files when nobody is at any of them.
    pub fn leave(&self, lock: Box<dyn Debug + Send + Sync>) {
        let mut inner = self.turns.inner.lock();
        if inner.at_it > 0 {
            inner.left = Some(lock);
        }
    }
}
