//! Calls of sled's that wait for its threads, made on a thread of their own and given up after a while.
//!
//! sled hands what it writes to a pool of threads that all databases of the process share, and waits for it on a condition
//! without a limit. If one of them panics before it has noted what it wrote, whoever waits for that waits for ever: a flush,
//! the flush inside a drop, a read of what was pushed out of its cache before it was written. Each panic ends a thread, and
//! when the pool has none left, nothing of any database is written any more. Nothing of that can be seen from outside, so
//! what is bounded is the time.
//!
//! Invariants: after sled has not answered, or has panicked, it is asked to write nothing more; a call that was given up
//! keeps its handles, so the files stay locked until it ends.

use super::core::Core;
use super::place::Place;
use crate::error::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// How long sled may take for a few MiB, before it is taken for dead.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take to read its log at opening.
pub(super) const OPENING: Duration = Duration::from_secs(600);

/// A change of what sled holds.
pub(super) enum Change {
    Node(u64, Vec<u8>),
    NoNode(u64),
    Meta(Vec<u8>, Vec<u8>),
    NoMeta(Vec<u8>),
    /// All before it is written before anything after it.
    Flush,
}

type Call = Box<dyn FnOnce() + Send>;

impl Core {
    /// Makes changes in order; a failure is final.
    pub fn change_sled(&self, changes: Vec<Change>) -> Result<()> {
        self.check()?;
        if let Some(error) = self.place.panicked.get() {
            return Err(self.fail(error.clone()));
        }
        let (db, index, meta) = (self.db.clone(), self.index.clone(), self.meta.clone());
        let place = self.place.clone();
        #[cfg(test)]
        let stops = std::sync::Arc::clone(&self.stops);
        let make = move |change: Change| {
            #[cfg(test)]
            stops.pass_sled()?;
            match change {
                Change::Node(number, bytes) => index.insert(number.to_be_bytes(), bytes).map(|_| ()),
                Change::NoNode(number) => index.remove(number.to_be_bytes()).map(|_| ()),
                Change::Meta(key, bytes) => meta.insert(key, bytes).map(|_| ()),
                Change::NoMeta(key) => meta.remove(key).map(|_| ()),
                Change::Flush => db.flush().map(|_| ()),
            }
        };
        let all =
            move || changes.into_iter().try_for_each(|change| place.call("write the index", || make(change)));
        self.place.bounded("write the index", self.patience, all).map_err(|error| self.fail(error))
    }
}

impl Place {
    /// What `f` comes to, on another thread; an error if it takes longer than `patience`.
    pub fn bounded<T: Send + 'static>(
        &self,
        what: &str,
        patience: Duration,
        f: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let spawn = |call: Call| {
            std::thread::Builder::new().name(format!("annulus-sled-{}", self.shard)).spawn(call).map(drop)
        };
        self.bounded_on(spawn, what, patience, f)
    }

    /// The same on a thread that `spawn` starts.
    fn bounded_on<T: Send + 'static>(
        &self,
        spawn: impl FnOnce(Call) -> io::Result<()>,
        what: &str,
        patience: Duration,
        f: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (sender, receiver) = channel();
        let waits = Arc::new(Mutex::new(Some(f)));
        let taken = waits.clone();
        let call = move || {
            let Some(f) = taken.lock().take() else { return };
            let _ = sender.send(catch_unwind(AssertUnwindSafe(f)));
        };
        if let Err(error) = spawn(Box::new(call))
            && let Some(f) = waits.lock().take()
        {
            // That the system has no threads left is nothing that this shard should be given up for. Whoever calls waits himself, and
            // is waited for by somebody with patience of his own.
            log::warn!("{}: no thread could be started for sled: {error}", self.dir.display());
            return catch_unwind(AssertUnwindSafe(f))
                .unwrap_or_else(|panic| Err(self.note_panic(what, &*panic)));
        }
        match receiver.recv_timeout(patience) {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panic)) => Err(self.note_panic(what, &*panic)),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                let text = format!("cannot {what}: sled has not answered for {patience:?}");
                Err(self.locate(
                    Error::new(ErrorKind::Io, text)
                        .remedy("check the disk; rebuild the shard, or end the process, which a thread of sled's holds up"),
                ))
            }
        }
    }
}

/// Where a test stops the engine: after so many writes more, or, held, in the middle of the next one of sled's.
#[cfg(test)]
#[derive(Debug)]
pub(super) struct Stops {
    pub left: std::sync::atomic::AtomicI64,
    pub held: parking_lot::Mutex<Option<std::sync::mpsc::Receiver<()>>>,
    pub panics: std::sync::atomic::AtomicBool,
    /// Where reads of nodes wait.
    pub nodes: std::sync::Arc<Mutex<()>>,
}

#[cfg(test)]
impl Default for Stops {
    fn default() -> Self {
        Stops {
            left: i64::MAX.into(),
            held: parking_lot::Mutex::new(None),
            panics: std::sync::atomic::AtomicBool::new(false),
            nodes: std::sync::Arc::default(),
        }
    }
}

#[cfg(test)]
impl Stops {
    pub fn pass(&self) -> std::io::Result<()> {
        if self.left.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) <= 0 {
            return Err(std::io::Error::other("stopped by the test"));
        }
        Ok(())
    }

    fn pass_sled(&self) -> sled::Result<()> {
        let held = self.held.lock().take();
        if let Some(held) = held {
            // Until whoever holds the other end lets go of it.
            let _ = held.recv();
        }
        assert!(!self.panics.load(std::sync::atomic::Ordering::Relaxed), "a panic of the test's");
        self.pass().map_err(sled::Error::Io)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ShardId;

    #[test]
    fn where_no_thread_can_be_had_the_caller_does_it_himself() {
        let place = Place { dir: "/shard".into(), shard: ShardId(3), panicked: Arc::default() };
        let none = |_: Call| Err(io::Error::from(io::ErrorKind::WouldBlock));
        let own = std::thread::current().id();
        let done = place.bounded_on(none, "write the index", PATIENCE, move || {
            assert_eq!(std::thread::current().id(), own);
            Ok(7)
        });
        assert_eq!(done.unwrap(), 7);
        let panicked =
            place.bounded_on(none, "write the index", PATIENCE, || -> Result<()> { panic!("a test's") });
        assert!(panicked.is_err() && place.panicked.get().is_some());
    }
}
