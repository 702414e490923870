//! What all handles of one open store share: its state and its background threads.
//!
//! Invariant: the threads end before the state's files are closed, but for those that a disk which hangs keeps in a call of the system's; when the last handle goes without a close, what was
//! acknowledged is in the journal.

use crate::background::{self, Threads};
use crate::disk::while_it_answers;
use crate::error::{Error, ErrorKind, Result};
use crate::options::Options;
use crate::plants;
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
    /// Opens a store, or makes one; waits for its own disk no longer than for a shard's, but where every step is driven by hand.
    pub fn open(dir: &Path, options: &Options, seams: Seams) -> Result<Handle> {
        // Where a scheduler chooses which thread goes on nothing hangs.
        if !seams.background.schedules() || cfg!(annulus_schedules) || plants::is("opens-for-ever") {
            return Self::begin(dir, options, seams);
        }
        // A limit that is out of all bounds cannot be multiplied.
        options.validate()?;
        let limit = options.shard_timeout_or_default() * verbs::open::OPENING;
        let (dir, options, Seams { disk, factory, background }) = (dir.to_path_buf(), options.clone(), seams);
        // One that is opened after all when nobody waits any more is dropped, and so closed.
        let begin = move |disk| Self::begin(&dir, &options, Seams { disk, factory, background });
        while_it_answers(disk, limit, begin).unwrap_or_else(|silent| {
            Err(Error::new(
                ErrorKind::Unavailable,
                format!("cannot open the store: the disk has not answered for {:?}", silent.limit),
            )
            .at(silent.path)
            .remedy("look at that disk and at the kernel log, and try again; it stays locked until the disk answers, or the process ends"))
        })
    }

    fn begin(dir: &Path, options: &Options, seams: Seams) -> Result<Handle> {
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
