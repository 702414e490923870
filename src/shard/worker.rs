//! A flush worker: one thread a shard, so that a slow disk holds up no other.
//!
//! Invariants: jobs run one at a time, in order; a job that panics answers with an error and the thread goes on; without
//! a thread (when every step is driven by hand) a job runs in the caller. A job that does not get any further is left
//! behind: nobody waits for it again, not even at the end.

use crate::error::{Error, ErrorKind, Result};
use crate::ids::ShardId;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

type Job = Box<dyn FnOnce() + Send>;

const RUNNING: u8 = 0;
const ENDED: u8 = 1;
const GIVEN_UP: u8 = 2;

/// A job that has been started.
#[derive(Debug)]
pub struct Ticket<T> {
    receiver: Receiver<Result<T>>,
    state: Arc<AtomicU8>,
}

/// Runs one shard's jobs.
#[derive(Debug)]
pub struct Worker {
    shard: ShardId,
    thread: Option<(Sender<Job>, JoinHandle<()>)>,
    // Jobs that were given up, and have not ended yet.
    stuck: Arc<AtomicU64>,
}

impl Worker {
    /// A worker that runs jobs in the caller.
    fn by_hand(shard: ShardId) -> Worker {
        Worker { shard, thread: None, stuck: Arc::default() }
    }

    /// A worker with a thread of its own.
    fn spawn(shard: ShardId) -> Result<Worker> {
        let (sender, jobs) = channel::<Job>();
        let thread = std::thread::Builder::new()
            .name(format!("annulus-shard-{shard}"))
            .spawn(move || jobs.into_iter().for_each(|job| job()))
            .map_err(|e| {
                Error::new(ErrorKind::Io, "cannot start a flush worker's thread").on(shard).caused_by(e)
            })?;
        Ok(Worker { shard, thread: Some((sender, thread)), stuck: Arc::default() })
    }

    /// A worker with a thread of its own, or one that is driven by hand.
    pub fn start(shard: ShardId, background: bool) -> Result<Worker> {
        if background { Worker::spawn(shard) } else { Ok(Worker::by_hand(shard)) }
    }

    /// Starts a job.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> Result<T> + Send + 'static) -> Ticket<T> {
        let (outcome, receiver) = channel();
        let state = Arc::new(AtomicU8::new(RUNNING));
        let (shard, stuck, ended) = (self.shard, self.stuck.clone(), state.clone());
        let job = move || {
            let result =
                catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|panic| Err(panicked(shard, &panic)));
            // A caller that no longer waits needs no answer.
            let _ = outcome.send(result);
            if ended.swap(ENDED, Ordering::AcqRel) == GIVEN_UP {
                stuck.fetch_sub(1, Ordering::AcqRel);
            }
        };
        match &self.thread {
            // A send fails only if the thread is gone; the receiver then reports a closed channel.
            Some((sender, _)) => drop(sender.send(Box::new(job))),
            None => job(),
        }
        Ticket { receiver, state }
    }

    /// Waits for the outcome of a job, as long as `beats` counts up at least once in `limit`.
    pub fn wait<T>(&self, ticket: &Ticket<T>, limit: Duration, beats: &AtomicU64) -> Result<T> {
        let gone = || Error::new(ErrorKind::Unavailable, "the shard's worker is gone").on(self.shard);
        let mut seen = beats.load(Ordering::Relaxed);
        loop {
            match ticket.receiver.recv_timeout(limit) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Disconnected) => return Err(gone()),
                Err(RecvTimeoutError::Timeout) => {
                    let now = beats.load(Ordering::Relaxed);
                    if now == std::mem::replace(&mut seen, now) {
                        break;
                    }
                }
            }
        }
        self.stuck.fetch_add(1, Ordering::AcqRel);
        let given_up = ticket.state.compare_exchange(RUNNING, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire);
        if given_up.is_err() {
            // It has ended just now.
            self.stuck.fetch_sub(1, Ordering::AcqRel);
            return ticket.receiver.recv().unwrap_or_else(|_| Err(gone()));
        }
        let text = format!("the shard has not answered for {limit:?}");
        Err(Error::new(ErrorKind::Unavailable, text)
            .on(self.shard)
            .remedy("look at its disk and the kernel log; it is taken back when it answers"))
    }

    /// Whether a job that was given up is still at it.
    pub fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Acquire) > 0
    }
}

fn panicked(shard: ShardId, panic: &(dyn std::any::Any + Send)) -> Error {
    let text = panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no text".to_owned());
    Error::corruption(format!("the shard's worker panicked: {text}")).on(shard)
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.thread.take() {
            drop(sender);
            if self.is_stuck() {
                return;
            }
            // The last to hold a layout may be the worker itself, which must not wait for its own end.
            if thread.thread().id() == std::thread::current().id() {
                return;
            }
            // Jobs catch their panics, so the thread ends in order.
            let _ = thread.join();
        }
    }
}
