//! A shard's worker: a thread for its flushes, so that a slow disk holds up no other; a second one for all that is done to
//! the shard beside them, so that neither waits for the other, and who does it can leave it behind; and a third one that only looks,
//! for those who ask how the shard is and wait for nothing that is done to it.
//!
//! Invariants: jobs of a thread run one at a time, in order; a job that panics answers with an error and the thread goes on;
//! without threads (when every step is driven by hand, or where the system has none left) a job runs in the caller. A job that does not
//! get any further is left behind: nobody waits for it again, not even at the end. Its time runs from its beginning, so that of several that
//! hang together each has had its own when the first has. While a look has not answered nobody looks again, so that those who ask
//! do not queue up behind a disk that hangs; it says nothing against the shard.

use crate::error::{Error, ErrorKind, Result};
use crate::ids::ShardId;
use crate::sync::Instant;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use crate::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use crate::sync::thread::JoinHandle;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

struct Job(Box<dyn FnOnce() + Send>);

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Job")
    }
}

const RUNNING: u8 = 0;
const ENDED: u8 = 1;
const GIVEN_UP: u8 = 2;

type Thread = (Sender<Job>, JoinHandle<()>);

/// A job that has been started.
#[derive(Debug)]
pub struct Ticket<T> {
    receiver: Receiver<Result<T>>,
    state: Arc<AtomicU8>,
    begun: Instant,
    // Where it counts once it is given up, until it ends.
    left: Arc<AtomicU64>,
}

/// Runs one shard's jobs.
#[derive(Debug)]
pub struct Worker {
    shard: ShardId,
    thread: Option<Thread>,
    // Started when it is first needed.
    beside: Mutex<Option<Thread>>,
    // Started when somebody first asks.
    looking: Mutex<Option<Thread>>,
    // Jobs that were given up, and have not ended yet.
    stuck: Arc<AtomicU64>,
    // Looks of which the same is true.
    unanswered: Arc<AtomicU64>,
}

impl Worker {
    /// A worker with threads of its own, or one that runs jobs in the caller.
    pub fn start(shard: ShardId, background: bool) -> Result<Worker> {
        let thread = background.then(|| thread(format!("annulus-shard-{shard}"), shard)).transpose()?;
        let (beside, looking) = (Mutex::default(), Mutex::default());
        Ok(Worker { shard, thread, beside, looking, stuck: Arc::default(), unanswered: Arc::default() })
    }

    /// Starts a job.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> Result<T> + Send + 'static) -> Ticket<T> {
        let (job, ticket) = self.ticket(job, &self.stuck);
        match &self.thread {
            // A send fails only if the thread is gone; the receiver then reports a closed channel.
            Some((sender, _)) => drop(sender.send(job)),
            None => job.0(),
        }
        ticket
    }

    /// Starts a job that begins when all that was asked for has ended, beside the flushes as well, and what was given up.
    pub fn run_last<T: Send + 'static>(&self, job: impl FnOnce() -> Result<T> + Send + 'static) -> Ticket<T> {
        let (job, ticket) = self.ticket(job, &self.stuck);
        match (&self.thread, &*self.beside.lock()) {
            (None, _) => job.0(),
            (Some((sender, _)), None) => drop(sender.send(job)),
            (Some((sender, _)), Some((beside, _))) => {
                let sender = sender.clone();
                drop(beside.send(Job(Box::new(move || drop(sender.send(job))))));
            }
        }
        ticket
    }

    /// Starts something beside the flushes. Where no thread can be had for it that is nothing that the shard should be given up for: whoever
    /// asks does it himself.
    pub fn start_beside<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Ticket<T> {
        let (job, ticket) = self.ticket(job, &self.stuck);
        if let Err(job) = self.run_on(&self.beside, "beside", job) {
            job.0();
        }
        ticket
    }

    /// Starts a look at what only the disk can say; none while an earlier one has not answered.
    pub fn look<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Option<Ticket<T>> {
        if self.unanswered.load(Ordering::Acquire) > 0 {
            return None;
        }
        let (job, ticket) = self.ticket(job, &self.unanswered);
        self.run_on(&self.looking, "look", job).ok()?;
        Some(ticket)
    }

    /// Waits for a look for `limit`; none if it has not answered.
    pub fn wait_look<T>(&self, ticket: &Ticket<T>, limit: Duration) -> Option<Result<T>> {
        self.answer(ticket, limit, Instant::now(), &AtomicU64::new(0))
    }

    /// Runs a job on a thread that is started when it is first needed; gives it back where none can be had.
    fn run_on(&self, place: &Mutex<Option<Thread>>, name: &str, job: Job) -> Result<(), Job> {
        if self.thread.is_none() {
            job.0();
            return Ok(());
        }
        let mut place = place.lock();
        if place.is_none() {
            #[cfg(test)]
            if crate::sync::NO_THREADS.get() {
                return Err(job);
            }
            match thread(format!("annulus-{name}-{}", self.shard), self.shard) {
                Ok(thread) => *place = Some(thread),
                Err(error) => {
                    log::warn!("{error}");
                    return Err(job);
                }
            }
        }
        if let Some((sender, _)) = &*place {
            drop(sender.send(job));
        }
        Ok(())
    }

    /// Waits for it until `limit` after its beginning; the outer error says that it has not answered, and was left behind.
    pub fn wait_beside<T>(&self, ticket: &Ticket<T>, limit: Duration) -> Result<Result<T>> {
        self.answer(ticket, limit, ticket.begun, &AtomicU64::new(0)).ok_or_else(|| self.silence(limit))
    }

    fn ticket<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T> + Send + 'static,
        left: &Arc<AtomicU64>,
    ) -> (Job, Ticket<T>) {
        let (outcome, receiver) = channel();
        let state = Arc::new(AtomicU8::new(RUNNING));
        let (shard, still, ended) = (self.shard, left.clone(), state.clone());
        let job = move || {
            let result =
                catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|panic| Err(panicked(shard, &panic)));
            // A caller that no longer waits needs no answer.
            let _ = outcome.send(result);
            if ended.swap(ENDED, Ordering::AcqRel) == GIVEN_UP {
                still.fetch_sub(1, Ordering::AcqRel);
            }
        };
        (Job(Box::new(job)), Ticket { receiver, state, begun: Instant::now(), left: left.clone() })
    }

    /// Waits for the outcome of a job until `limit` after its beginning, or after it got further last, of which `beats` [tells](beat).
    pub fn wait<T>(&self, ticket: &Ticket<T>, limit: Duration, beats: &AtomicU64) -> Result<T> {
        self.answer(ticket, limit, ticket.begun, beats).unwrap_or_else(|| Err(self.silence(limit)))
    }

    /// The same; none if it was left behind.
    fn answer<T>(
        &self,
        ticket: &Ticket<T>,
        limit: Duration,
        since: Instant,
        beats: &AtomicU64,
    ) -> Option<Result<T>> {
        let gone = || Error::new(ErrorKind::Unavailable, "the shard's worker is gone").on(self.shard);
        loop {
            let seen = beats.load(Ordering::Relaxed);
            let quiet = since.elapsed().saturating_sub(Duration::from_millis(seen));
            match ticket.receiver.recv_timeout(limit.saturating_sub(quiet)) {
                Ok(result) => return Some(result),
                Err(RecvTimeoutError::Disconnected) => return Some(Err(gone())),
                Err(RecvTimeoutError::Timeout) if beats.load(Ordering::Relaxed) == seen => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        ticket.left.fetch_add(1, Ordering::AcqRel);
        let given_up = ticket.state.compare_exchange(RUNNING, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire);
        if given_up.is_err() {
            // It has ended just now.
            ticket.left.fetch_sub(1, Ordering::AcqRel);
            return Some(ticket.receiver.recv().unwrap_or_else(|_| Err(gone())));
        }
        None
    }

    fn silence(&self, limit: Duration) -> Error {
        let text = format!("the shard has not answered for {limit:?}");
        Error::new(ErrorKind::Unavailable, text)
            .on(self.shard)
            .remedy("look at its disk and the kernel log; it is taken back when it answers")
    }

    /// Whether a job that was given up is still at it.
    pub fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Acquire) > 0
    }
}

/// Takes note that a job that has `begun` then has got further, for who [waits](Worker::wait) for it: how long after, in milliseconds, and
/// always more than before.
pub fn beat(beats: &AtomicU64, begun: Instant) {
    let now = begun.elapsed().as_millis() as u64;
    let further = |before: u64| Some(now.max(before.saturating_add(1)));
    // The closure never declines.
    let _ = beats.fetch_update(Ordering::Relaxed, Ordering::Relaxed, further);
}

fn thread(name: String, shard: ShardId) -> Result<Thread> {
    let (sender, jobs) = channel::<Job>();
    let thread = crate::sync::thread::Builder::new()
        .name(name)
        .spawn(move || jobs.into_iter().for_each(|job| job.0()))
        .map_err(|e| Error::new(ErrorKind::Io, "cannot start a shard's thread").on(shard).caused_by(e))?;
    Ok((sender, thread))
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
        let (stuck, unanswered) = (self.is_stuck(), self.unanswered.load(Ordering::Acquire) > 0);
        let works = self.thread.take().into_iter().chain(self.beside.get_mut().take());
        let looks = self.looking.get_mut().take().into_iter().map(|thread| (thread, unanswered));
        for ((sender, thread), left_behind) in works.map(|thread| (thread, stuck)).chain(looks) {
            drop(sender);
            // The last to hold a layout may be the worker itself, which must not wait for its own end.
            if left_behind || thread.thread().id() == crate::sync::thread::current().id() {
                continue;
            }
            // Jobs catch their panics, so the thread ends in order.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(1);

    /// Those who ask do not queue up behind a disk that hangs, nothing else does, and it is asked again once it has answered.
    #[test]
    fn while_a_look_has_not_answered_nobody_looks_again_and_all_else_goes_on() {
        let worker = Worker::start(ShardId(0), true).unwrap();
        let (go_on, told) = channel::<()>();
        let hangs = worker.look(move || Ok(told.recv().is_ok())).unwrap();
        assert!(worker.wait_look(&hangs, SHORT).is_none());
        assert!(worker.look(|| Ok(())).is_none());
        assert!(!worker.is_stuck(), "it says nothing against the shard");
        worker.wait(&worker.run(|| Ok(())), LONG, &AtomicU64::new(0)).unwrap();
        worker.wait_beside(&worker.start_beside(|| Ok(())), LONG).unwrap().unwrap();
        go_on.send(()).unwrap();
        let again = loop {
            match worker.look(|| Ok(7)) {
                Some(again) => break again,
                None => std::thread::yield_now(),
            }
        };
        assert_eq!(worker.wait_look(&again, LONG).unwrap().unwrap(), 7);
    }

    /// What it does may be a write: it is not to go on behind the back of whoever has closed the store.
    #[test]
    fn a_worker_ends_after_what_it_does() {
        for kind in 0..3 {
            let worker = Worker::start(ShardId(0), true).unwrap();
            let (begins, begun) = channel::<()>();
            let ended = Arc::new(AtomicU8::new(0));
            let ends = ended.clone();
            let job = move || {
                begins.send(()).map_err(|_| Error::corruption("nobody waits"))?;
                std::thread::sleep(Duration::from_millis(100));
                ends.store(1, Ordering::Release);
                Ok(())
            };
            let ticket = match kind {
                0 => worker.run(job),
                1 => worker.start_beside(job),
                _ => worker.run_last(job),
            };
            begun.recv_timeout(LONG).unwrap();
            drop(worker);
            assert_eq!(ended.load(Ordering::Acquire), 1, "{kind}");
            ticket.receiver.recv_timeout(LONG).unwrap().unwrap();
        }
    }

    #[test]
    fn a_worker_ends_without_waiting_for_a_look_that_hangs() {
        let worker = Worker::start(ShardId(0), true).unwrap();
        let (go_on, told) = channel::<()>();
        let hangs = worker.look(move || Ok(told.recv().is_ok())).unwrap();
        assert!(worker.wait_look(&hangs, SHORT).is_none());
        let (ends, ended) = channel();
        std::thread::spawn(move || {
            drop(worker);
            ends.send(())
        });
        ended.recv_timeout(LONG).unwrap();
        go_on.send(()).unwrap();
        assert!(hangs.receiver.recv_timeout(LONG).unwrap().unwrap());
    }

    /// What a shard is in beside its flushes may write its seal when the disk answers: its engine, which keeps the next opening out, is closed after
    /// that.
    #[test]
    fn the_last_job_waits_for_what_was_given_up_on_either_thread() {
        for beside in [false, true] {
            let worker = Worker::start(ShardId(0), true).unwrap();
            worker.wait_beside(&worker.start_beside(|| Ok(())), LONG).unwrap().unwrap();
            let (go_on, told) = channel::<()>();
            let ended = Arc::new(AtomicU8::new(0));
            let ends = ended.clone();
            let hang = move || {
                let _ = told.recv();
                ends.store(1, Ordering::Release);
                Ok(())
            };
            let hung = if beside { worker.start_beside(hang) } else { worker.run(hang) };
            worker.wait_beside(&hung, Duration::from_millis(1)).unwrap_err();
            let last = worker.run_last(move || Ok(ended.load(Ordering::Acquire)));
            assert!(last.receiver.recv_timeout(Duration::from_millis(100)).is_err(), "{beside}: it has run");
            go_on.send(()).unwrap();
            assert_eq!(worker.wait(&last, LONG, &AtomicU64::new(0)).unwrap(), 1, "{beside}");
        }
    }

    /// That the system has no threads left is nothing that a shard is to be given up for.
    #[test]
    fn where_no_thread_can_be_had_what_is_asked_of_a_shard_is_done_by_who_asks() {
        let worker = Worker::start(ShardId(0), true).unwrap();
        crate::sync::NO_THREADS.set(true);
        let own = crate::sync::thread::current().id();
        let asked = worker.start_beside(move || Ok(crate::sync::thread::current().id() == own));
        assert!(worker.wait_beside(&asked, LONG).unwrap().unwrap());
        // Who only asks how a shard is does not wait for its disk.
        assert!(worker.look(|| Ok(())).is_none());
        crate::sync::NO_THREADS.set(false);
        let asked = worker.start_beside(move || Ok(crate::sync::thread::current().id() == own));
        assert!(!worker.wait_beside(&asked, LONG).unwrap().unwrap());
        assert!(worker.look(|| Ok(())).is_some());
    }

    /// Several shards lie on a disk that hangs, and are waited for one after another: each has had its time when the first has.
    #[test]
    fn those_that_hang_together_are_waited_for_together() {
        const LIMIT: Duration = Duration::from_secs(1);
        let (go_on, told) = channel::<()>();
        let told = Arc::new(Mutex::new(told));
        let hang = |told: Arc<Mutex<Receiver<()>>>| move || Ok(told.lock().recv().is_ok());
        let workers = [0, 1, 2, 3].map(|shard| Worker::start(ShardId(shard), true).unwrap());
        let begun = Instant::now();
        let flushes = [0, 1].map(|index| workers[index].run(hang(told.clone())));
        let others = [2, 3].map(|index| workers[index].start_beside(hang(told.clone())));
        for (worker, ticket) in workers[..2].iter().zip(&flushes) {
            worker.wait(ticket, LIMIT, &AtomicU64::new(0)).unwrap_err();
        }
        for (worker, ticket) in workers[2..].iter().zip(&others) {
            worker.wait_beside(ticket, LIMIT).unwrap_err();
        }
        assert!(workers.iter().all(Worker::is_stuck));
        assert!(begun.elapsed() < LIMIT * 3, "{:?}", begun.elapsed());
        // One that gets further has its time from there on.
        let worker = Worker::start(ShardId(4), true).unwrap();
        let beats = Arc::new(AtomicU64::new(0));
        let beating = beats.clone();
        let ticket = worker.run(move || {
            let begun = Instant::now();
            while begun.elapsed() < LIMIT * 3 / 2 {
                beat(&beating, begun);
                crate::sync::thread::sleep(LIMIT / 50);
            }
            Ok(())
        });
        worker.wait(&ticket, LIMIT, &beats).unwrap();
        drop(go_on);
    }
}
