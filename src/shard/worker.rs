//! A flush worker: one thread a shard, so that a slow disk holds up no other.
//!
//! Invariants: jobs run one at a time, in order; a job that panics answers with an error and the thread goes on; without
//! a thread (when every step is driven by hand) a job runs in the caller.

use crate::error::{Error, ErrorKind, Result};
use crate::ids::ShardId;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

type Job = Box<dyn FnOnce() + Send>;

/// Runs one shard's jobs.
#[derive(Debug)]
pub struct Worker {
    shard: ShardId,
    thread: Option<(Sender<Job>, JoinHandle<()>)>,
}

impl Worker {
    /// A worker that runs jobs in the caller.
    fn by_hand(shard: ShardId) -> Worker {
        Worker { shard, thread: None }
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
        Ok(Worker { shard, thread: Some((sender, thread)) })
    }

    /// A worker with a thread of its own, or one that is driven by hand.
    pub fn start(shard: ShardId, background: bool) -> Result<Worker> {
        if background { Worker::spawn(shard) } else { Ok(Worker::by_hand(shard)) }
    }

    /// Starts a job; the receiver gets its outcome.
    pub fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Receiver<Result<T>> {
        let (outcome, receiver) = channel();
        let shard = self.shard;
        let job = move || {
            let result =
                catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|panic| Err(panicked(shard, &panic)));
            // A caller that no longer waits needs no answer.
            let _ = outcome.send(result);
        };
        match &self.thread {
            // A send fails only if the thread is gone; the receiver then reports a closed channel.
            Some((sender, _)) => drop(sender.send(Box::new(job))),
            None => job(),
        }
        receiver
    }
}

/// Waits for the outcome of a job.
pub fn outcome<T>(shard: ShardId, receiver: &Receiver<Result<T>>) -> Result<T> {
    let gone = || Error::new(ErrorKind::Unavailable, "the shard's worker is gone").on(shard);
    receiver.recv().unwrap_or_else(|_| Err(gone()))
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
            // The last to hold a layout may be the worker itself, which must not wait for its own end.
            if thread.thread().id() == std::thread::current().id() {
                return;
            }
            // Jobs catch their panics, so the thread ends in order.
            let _ = thread.join();
        }
    }
}
