//! Reading ahead: while a long scan's chunk is looked at, a thread of its own merges the next one.
//!
//! Invariants: one chunk at a time is under way, so memory stays bounded; what happens to it, an error or a panic too, is
//! told to whoever asks for it; the thread ends with the scan, which waits for it. There are fewer such threads than
//! cores in the process: where none is left, or the store has no background, a scan does all by itself.

use super::chunk::Chunk;
use super::merge::Limit;
use super::sources::Sources;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Seq;
use crate::record::KeyRange;
use crate::state::State;
use crate::sync::mpsc::{Receiver, SyncSender, sync_channel};
use crate::sync::thread::JoinHandle;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

static THREADS: AtomicUsize = AtomicUsize::new(0);

/// A chunk to be fetched, and what it is fetched from.
pub struct Job {
    pub reverse: bool,
    pub sources: Sources,
    pub range: KeyRange,
    pub limit: Limit,
    pub chunk: Chunk,
}

/// What became of it.
pub struct Done {
    pub reverse: bool,
    pub sources: Sources,
    pub chunk: Chunk,
    pub rest: Result<Option<KeyRange>>,
}

/// A thread that fetches chunks.
pub struct Ahead {
    // Dropped first: the thread ends when there can be no more jobs.
    jobs: Option<SyncSender<Job>>,
    done: Receiver<Done>,
    thread: Option<JoinHandle<()>>,
    /// Whether a chunk is under way.
    pub busy: bool,
}

/// A place among the threads that there may be.
struct Place;

impl Place {
    fn take() -> Option<Place> {
        let most = crate::sync::thread::available_parallelism().map_or(1, usize::from) - 1;
        let taken = THREADS.fetch_update(Ordering::AcqRel, Ordering::Acquire, |threads| {
            (threads < most).then_some(threads + 1)
        });
        taken.ok().map(|_| Place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        THREADS.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Ahead {
    /// A thread for a scan as of `at`, if there may be one.
    pub fn start(state: &Arc<State>, at: Seq) -> Option<Ahead> {
        let place = if state.seams.background.schedules() { Place::take()? } else { return None };
        let (jobs, taken) = sync_channel::<Job>(1);
        let (give, done) = sync_channel(1);
        let state = Arc::clone(state);
        let work = move || {
            let _place = place;
            while let Ok(Job { reverse, mut sources, range, limit, mut chunk }) = taken.recv() {
                let rest = sources.fill(&state, &range, at, limit, &mut chunk);
                if give.send(Done { reverse, sources, chunk, rest }).is_err() {
                    return;
                }
            }
        };
        let thread = crate::sync::thread::Builder::new().name("annulus-scan".to_owned()).spawn(work).ok()?;
        Some(Ahead { jobs: Some(jobs), done, thread: Some(thread), busy: false })
    }

    /// Sends a job off; gives it back where that cannot be done.
    pub fn send(&mut self, job: Job) -> Result<(), Box<Job>> {
        let Some(jobs) = &self.jobs else { return Err(Box::new(job)) };
        jobs.send(job).map_err(|refused| Box::new(refused.0))?;
        self.busy = true;
        Ok(())
    }

    /// Waits for the chunk under way.
    pub fn wait(&mut self) -> Result<Done> {
        self.busy = false;
        self.done.recv().map_err(|_| {
            Error::new(ErrorKind::Io, "the thread that read ahead for a scan panicked")
                .remedy("see the log for the panic's text")
        })
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.jobs = None;
        // What it was at is finished first, so that nothing of a scan is left once it is dropped.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
