//! Archiving by itself.

use crate::backup::BackupRepository;
use crate::disk::Hands;
use crate::error::{Error, ErrorKind, Result};
use crate::handle::Handle;
use crate::ids::Seq;
use crate::verbs::checkpoint::archive;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the time is noted.
const MARK: Duration = Duration::from_secs(1);
/// After how long, or how many bytes of journal, a piece is written.
const PIECE: Duration = Duration::from_secs(60);
const BYTES: u64 = 4 << 20;

/// How long who drops an archiver waits for it to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// When a piece is to be written next.
#[derive(Debug)]
struct Due {
    /// When the archive was brought up to the store last.
    looked: Instant,
    /// When anything was archived by that; never since the archiver was started.
    archived: Option<Instant>,
    /// What the archive has.
    upto: Seq,
    /// What had been written to the journal by then.
    bytes: u64,
}

impl Due {
    fn is(&self, now: Instant, last: Seq, bytes: u64) -> bool {
        // That the store rested until then nobody else knows: a process that is killed soon after its first write takes it along.
        let ends_rest = last > self.upto
            && self.archived.is_none_or(|archived| now.saturating_duration_since(archived) >= PIECE);
        ends_rest
            || now.saturating_duration_since(self.looked) >= PIECE
            || bytes.saturating_sub(self.bytes) >= BYTES
    }

    /// Everything up to a sequence has been archived.
    fn done(&mut self, now: Instant, upto: Seq, bytes: u64) {
        if upto > self.upto {
            self.archived = Some(now);
        }
        (self.looked, self.upto, self.bytes) = (now, upto.max(self.upto), bytes);
    }
}

/// Archives a store continuously, as long as it lives. Made by [`Store::archive_continuously`](crate::Store::archive_continuously).
#[derive(Debug)]
pub struct Archiver {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<Result<Seq>>>,
}

impl Archiver {
    pub(super) fn start(handle: Arc<Handle>, repository: BackupRepository) -> Result<Archiver> {
        // What is written while a piece is being written counts for the next one: not all of it may be in this one.
        let bytes = handle.state.journal.stats().bytes_written;
        let there = handle.state.memory.last();
        let upto = match archive::archive(&handle.state, &repository) {
            // What is missing is missing for good; what comes now is archived all the same.
            Err(error) if error.kind() == ErrorKind::Gap => there,
            outcome => outcome?,
        };
        let marks = archive::marks_of(&handle.state, repository.id());
        let mut due = Due { looked: Instant::now(), archived: None, upto, bytes };
        let (stop, stopped) = channel();
        let work = move || {
            let state = &handle.state;
            loop {
                let waited = stopped.recv_timeout(MARK);
                archive::note(&mut marks.lock(), archive::mark(state));
                let last = waited != Err(RecvTimeoutError::Timeout);
                let bytes = state.journal.stats().bytes_written;
                let there = state.memory.last();
                if !last && !due.is(Instant::now(), there, bytes) {
                    continue;
                }
                let outcome = archive::archive(state, &repository);
                if last {
                    return outcome;
                }
                match outcome {
                    Ok(upto) => due.done(Instant::now(), upto, bytes),
                    // The log has said so; nothing is left to be tried again.
                    Err(error) if error.kind() == ErrorKind::Gap => due.done(Instant::now(), there, bytes),
                    Err(error) if error.kind() == ErrorKind::Closed => return Err(error),
                    // It is tried again in a second, since nothing was noted of it.
                    Err(error) => {
                        log::error!("the journal could not be archived, and is tried again: {error}")
                    }
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("annulus-archive".to_owned())
            .spawn(work)
            .map_err(|e| Error::new(ErrorKind::Io, "cannot start the archiver's thread").caused_by(e))?;
        Ok(Archiver { stop: Some(stop), thread: Some(thread) })
    }

    /// Archives what there is up to now, and ends. Returns what the archive is complete up to. The journal is kept for it all the same, until
    /// [`Store::forget_archive`](crate::Store::forget_archive): the next one goes on from there.
    ///
    /// Waits for what it is at: while the repository's disk hangs it does not return before that answers, unlike
    /// [`stop_within`](Self::stop_within).
    ///
    /// # Errors
    /// As [`Store::archive`](crate::Store::archive).
    pub fn stop(mut self) -> Result<Seq> {
        self.stop = None;
        self.thread.take().map_or_else(panicked, joined)
    }

    /// The same, but waits no longer than `limit`. What it is at then goes on, and it ends by itself after that; the store can be closed meanwhile. Whoever
    /// drops it waits for a minute.
    ///
    /// # Errors
    /// As [`stop`](Self::stop); `Unavailable`: it has not ended.
    ///
    /// ```
    /// # fn main() -> annulus::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = annulus::Store::open(dir.path().join("data"))?;
    /// # let repo = annulus::BackupRepository::open(dir.path().join("backup"))?;
    /// use std::time::Duration;
    /// let archiver = store.archive_continuously(&repo)?;
    /// let upto = store.insert("order/17", b"paid")?;
    /// assert_eq!(archiver.stop_within(Duration::from_secs(60))?, upto);
    /// # store.close()
    /// # }
    /// ```
    pub fn stop_within(mut self, limit: Duration) -> Result<Seq> {
        self.end(limit)
    }

    fn end(&mut self, limit: Duration) -> Result<Seq> {
        self.stop = None;
        let Some(thread) = self.thread.take() else { return panicked() };
        let ended = Hands::default().run(limit, move || Ok(joined(thread)));
        ended.unwrap_or_else(|error| {
            let text = format!("the archiver has not ended within {limit:?}");
            Err(Error::new(ErrorKind::Unavailable, text)
                .remedy("it ends by itself; look at the disk of its repository, or at the network")
                .caused_by(error))
        })
    }
}

fn joined(thread: JoinHandle<Result<Seq>>) -> Result<Seq> {
    thread.join().unwrap_or_else(|_| panicked())
}

fn panicked() -> Result<Seq> {
    Err(Error::new(ErrorKind::Io, "the archiver's thread panicked")
        .remedy("see the log for the panic's text"))
}

impl Drop for Archiver {
    fn drop(&mut self) {
        if self.thread.is_some()
            && let Err(error) = self.end(PATIENCE)
            && error.kind() != ErrorKind::Closed
        {
            log::error!("the last part of the journal could not be archived: {error}");
        }
    }
}

#[cfg(test)]
mod tests;
