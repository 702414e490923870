//! What is done to the store's own disk, the journal's above all, for somebody who waits no longer than `write_timeout`, or closes the store.
//!
//! Nobody can be called back from a system call, so a thread is in it in his place. That takes longer than a write into the system's memory:
//! where no limit was set, who writes waits for the disk himself.
//!
//! Invariant: what was given up goes on when the disk answers, and may still come about; nothing else is begun before, so what waits in
//! memory does not grow, and whoever writes afterwards comes after it.

use super::State;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Seq;
use crate::journal::Journal;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// So many of the threads that write for others are kept for a while when they have nothing to do.
pub const WRITERS: usize = 16;
/// How many times as long as for a step of a flush who closes the store waits for a shard, or for the store's own disk where nothing else was set.
pub const CLOSING: u32 = 10;

impl State {
    /// Does `work`, as part of `what`, and waits for it no longer than was set.
    ///
    /// # Errors
    /// `Unavailable`: the disk has not answered. Beside that those of the work.
    pub fn limited<T: Send + 'static>(
        self: &Arc<Self>,
        what: &str,
        work: impl FnOnce(&State) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let Some(limit) = self.limit() else { return work(self) };
        let state = self.clone();
        self.run_limited(what, limit, move || work(&state))
    }

    /// The same for what the journal alone is asked for.
    pub fn limited_journal<T: Send + 'static>(
        &self,
        what: &str,
        work: impl FnOnce(&Journal) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let Some(limit) = self.limit() else { return work(&self.journal) };
        let journal = self.journal.clone();
        self.run_limited(what, limit, move || work(&journal))
    }

    /// Returns when every commit up to `seq` is durable. The next tick leaves word of that in the journal, so that damage is told from a write
    /// that was never synced.
    ///
    /// # Errors
    /// `Unavailable` where `write_timeout` is set and the disk has not answered; `Poisoned`, `Closed`.
    pub fn sync_to(&self, seq: Seq) -> Result<()> {
        self.limited_journal("sync the journal", move |journal| journal.sync_to(seq))?;
        self.signals.want_tick();
        Ok(())
    }

    /// Does something that needs nothing of the store's.
    pub fn limited_here<T: Send + 'static>(
        &self,
        what: &str,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        match self.limit() {
            Some(limit) => self.run_limited(what, limit, work),
            None => work(),
        }
    }

    /// Who closes the store always has a limit, but where every step is driven by hand; and a longer one, since it is the last chance to flush.
    fn limit(&self) -> Option<Duration> {
        let closing = || self.seams.background.schedules().then(|| self.settings.shard_timeout * CLOSING);
        let writing = || self.settings.write_timeout.filter(|_| !crate::plants::is("writes-wait-for-ever"));
        if self.check_open().is_ok() { writing() } else { closing() }
    }

    fn run_limited<T: Send + 'static>(
        &self,
        what: &str,
        limit: Duration,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let silent = |text: String, remedy: &str| {
            Error::new(ErrorKind::Unavailable, text).at(&self.dir).remedy(format!(
                "{remedy}; look at the disks of the store's directory and of its journal, and at the kernel log"
            ))
        };
        if self.writers.is_silent() {
            let text = format!("cannot {what}: the disk has not answered what it was asked before");
            return Err(silent(text, "nothing was done; try again when it has"));
        }
        match self.writers.run(limit, move || Ok(work())) {
            Ok(outcome) => outcome,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                let text = format!("cannot {what}: the disk has not answered for {limit:?}");
                Err(silent(text, "it comes about when the disk answers, or is lost with the process"))
            }
            Err(error) => Err(self.journal.poison(Error::io(what, &self.dir, error))),
        }
    }
}
