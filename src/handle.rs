//! What all handles of one open store share: its state and its background threads.
//!
//! Invariant: the threads end before the state's files are closed, but for those that a disk which hangs keeps in a call of the system's; when the last handle goes without a close, what was
//! acknowledged is in the journal.

use crate::background::{self, Threads};
use crate::error::Result;
use crate::options::Options;
use crate::state::{Seams, State};
use crate::sync::Mutex;
use crate::verbs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug)]
pub struct Handle {
    pub state: Arc<State>,
    /// What it was opened with.
    pub options: Options,
    threads: Mutex<Threads>,
}

impl Handle {
    pub fn open(dir: &Path, options: &Options, seams: Seams) -> Result<Handle> {
        let state = Arc::new(verbs::open::open(dir, options, seams)?);
        let handle = Handle { state: state.clone(), options: options.clone(), threads: Mutex::default() };
        *handle.threads.lock() = background::start(&state)?;
        Ok(handle)
    }

    /// Flushes, ends the threads and releases files and locks. Later calls do nothing.
    pub fn close(&self) -> Result<()> {
        self.end(|state| {
            // First: where the journal's disk hangs nothing can be flushed, and whoever tries to may have the turn for ever.
            state.sync_to(state.memory.last())?;
            verbs::flush::flush_all(state)
        })
    }

    fn end(&self, flush: impl FnOnce(&State) -> Result<()>) -> Result<()> {
        // Held to the end, so that a second caller returns only when everything has been released.
        let mut threads = self.threads.lock();
        if !self.state.begin_close() {
            return Ok(());
        }
        self.state.signals.stop();
        let ended = verbs::close::join(&self.state, std::mem::take(&mut threads.prompt));
        let outcome = verbs::close::close(&self.state, |state| ended.and_then(|()| flush(state)));
        // Without a turn of the journal it begins nothing any more, and ends at once. With one its disk hangs.
        if let (Some(thread), Ok(())) = (threads.mender.take(), self.state.journal.rest(Duration::ZERO)) {
            let _ = thread.join();
        }
        outcome
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Without a close nothing is flushed: the journal holds it, and the next opening replays it.
        if let Err(error) = self.end(|_| Ok(())) {
            log::error!("the store was dropped and could not be closed in order: {error}");
        }
    }
}
