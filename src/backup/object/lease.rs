//! Taking the lock, renewing it while it is held, and giving it back.

use super::lock::{Held, LOCKS, Lock, NOW, Until, who};
use super::{Failure, Found, Shared, bounded, list};
use crate::backup::hash::random;
use crate::error::{Error, ErrorKind, Result};
use object_store::path::Path as Place;
use object_store::{ObjectStore, ObjectStoreExt, PutMode};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, SystemTime};
use tokio::sync::oneshot;

/// How long the end of a writer waits for the storage to take the lock back.
const PARTING: Duration = Duration::from_secs(30);
/// How often a lock is asked for again when others come and go at the same time.
const ATTEMPTS: u32 = 4;

/// A lock that is held until this is dropped.
#[derive(Debug)]
pub struct Guard {
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<Parting>>,
    ended: Mutex<Receiver<bool>>,
}

/// What gives a lock back.
#[derive(Debug)]
struct Parting {
    number: u64,
    bytes: Vec<u8>,
}

/// What a look at the locks has shown.
enum Look {
    /// Nobody has it; the next number is this.
    Free(u64),
    Taken(Error),
    /// It changed while it was looked at.
    Moved,
}

pub fn take(shared: &Arc<Shared>) -> Result<Guard> {
    if shared.is_locked() {
        return Err(taken(shared, "another thread of this process"));
    }
    for _ in 0..ATTEMPTS {
        let number = match shared.look()? {
            Look::Free(number) => number,
            Look::Taken(error) => return Err(error),
            Look::Moved => continue,
        };
        if let Some(held) = shared.make(number)? {
            return keep(shared, held);
        }
    }
    Err(taken(shared, "somebody else"))
}

fn taken(shared: &Shared, who: &str) -> Error {
    let text = format!("{who} is writing to the backup repository: a checkpoint or a prune is under way");
    Error::new(ErrorKind::Locked, text).at(shared.describe(LOCKS)).remedy("try again when it is done")
}

/// Sees that the lock stays ours.
fn keep(shared: &Arc<Shared>, held: Held) -> Result<Guard> {
    {
        let mut place = shared.held.lock();
        if place.is_some() {
            return Err(taken(shared, "another thread of this process"));
        }
        *place = Some(held);
    }
    let (stop, stopped) = oneshot::channel();
    let (done, ended) = sync_channel(1);
    // Without a share in the whole, or the renewal would keep its own driver alive.
    let Shared { store, root, held, lease, .. } = &**shared;
    let renewal = Renewal {
        store: store.clone(),
        root: root.clone(),
        locks: shared.place(LOCKS),
        held: held.clone(),
        lease: *lease,
    };
    shared.driver.spawn(async move {
        let outcome = renewal.until(stopped).await;
        // Whoever waits for it has its own end.
        let _ = done.send(outcome);
    });
    Ok(Guard { shared: shared.clone(), stop: Some(stop), ended: Mutex::new(ended) })
}

/// Renews a lock while it is held. One request at a time: what gives it back is not overtaken by what renews it.
struct Renewal {
    store: Arc<dyn ObjectStore>,
    root: Place,
    locks: Place,
    held: Arc<Mutex<Option<Held>>>,
    lease: Duration,
}

impl Renewal {
    /// Goes on until it is told to stop; then writes what it is handed. Whether that was done.
    async fn until(self, mut stopped: oneshot::Receiver<Parting>) -> bool {
        let mut pause = self.lease / 3;
        loop {
            if let Ok(parting) = tokio::time::timeout(pause, &mut stopped).await {
                let Ok(Parting { number, bytes }) = parting else { return false };
                return self.store.put(&self.place(number), bytes.into()).await.is_ok();
            }
            pause = match self.renew().await {
                Some(pause) => pause,
                None => return false,
            };
        }
    }

    fn place(&self, number: u64) -> Place {
        self.locks.clone().join(format!("{number:016x}"))
    }

    /// Renews once. How long to wait then; none if it is lost.
    async fn renew(&self) -> Option<Duration> {
        let mine = self.held.lock().as_ref().map(|held| (held.number, held.lock.encode()));
        // Somebody is about to say that it is over.
        let Some((number, Ok(bytes))) = mine else { return Some(self.lease) };
        let until = Until::after(self.lease);
        let request = async {
            self.store.put(&self.place(number), bytes.into()).await?;
            list(self.store.clone(), self.root.clone(), self.locks.clone(), LOCKS.to_owned()).await
        };
        let renewed = tokio::time::timeout(self.lease / 3, bounded(Some(self.held.clone()), request)).await;
        let mut held = self.held.lock();
        let Some(held) = held.as_mut() else { return Some(self.lease) };
        let pause = match renewed {
            Ok(Ok(found)) => {
                held.heard(highest(&found), Some(until));
                self.lease / 3
            }
            // Soon again: it has not run out yet.
            _ => self.lease / 12,
        };
        held.check().is_ok().then_some(pause)
    }
}

/// The highest number of a lock.
fn highest(found: &[Found]) -> Option<u64> {
    found.iter().filter_map(|found| Lock::number(&found.name)).max()
}

impl Shared {
    pub(super) fn is_locked(&self) -> bool {
        self.held.lock().is_some()
    }

    pub(super) fn is_batch_over(&self) -> bool {
        self.held.lock().as_mut().is_some_and(Held::is_batch_over)
    }

    /// An error unless the storage says that the lock is ours.
    pub(super) fn confirm(&self) -> Result<()> {
        let found = self.list(LOCKS);
        let found = found.map_err(|failure| failure.error("see whose the lock is", self.describe(LOCKS)))?;
        match self.held.lock().as_mut() {
            Some(held) => {
                held.heard(highest(&found), None);
                held.check().map_err(|error| error.at(self.describe(LOCKS)))
            }
            None => Ok(()),
        }
    }

    fn look(&self) -> Result<Look> {
        let failed = |failure: Failure| failure.error("see whose the lock is", self.describe(LOCKS));
        let found = self.list(LOCKS).map_err(failed)?;
        let last = found.iter().filter(|found| Lock::number(&found.name).is_some()).max_by_key(|f| &f.name);
        let Some(last) = last else { return Ok(Look::Free(1)) };
        let next = Lock::number(&last.name).and_then(|number| number.checked_add(1));
        let next = next.ok_or_else(|| Error::corruption("the numbers of locks are used up"))?;
        let path = self.describe(&last.name);
        let Some(bytes) = self.read(&last.name).map_err(failed)? else { return Ok(Look::Moved) };
        let lock = Lock::decode(&path, &bytes)?;
        if lock.released {
            return Ok(Look::Free(next));
        }
        // When it was written is asked for after what time it is: however long these requests take, it is not found older than it is.
        let now = self.now()?;
        let again = self.list(LOCKS).map_err(failed)?;
        let same = again.iter().find(|found| found.name == last.name);
        let Some(written) = same.filter(|_| highest(&again) == Lock::number(&last.name)).map(|f| f.written)
        else {
            return Ok(Look::Moved);
        };
        if lock.is_over(written, now) {
            return Ok(Look::Free(next));
        }
        let remedy = format!(
            "try again when it is done; if it has died, {} seconds after it was last heard of",
            lock.patience().as_secs()
        );
        Ok(Look::Taken(taken(self, &lock.who).at(path).remedy(remedy)))
    }

    /// What time it is by the storage's clock.
    fn now(&self) -> Result<SystemTime> {
        let failed = |failure: Failure| failure.error("ask for the storage's time", self.describe(NOW));
        self.put(NOW, b"now", PutMode::Overwrite, false).map_err(failed)?;
        let (store, place) = (self.store.clone(), self.place(NOW));
        let head = async move { store.head(&place).await };
        Ok(self.run(None, head).map_err(failed)?.last_modified.into())
    }

    /// Makes the lock of a number, unless somebody else is faster.
    fn make(&self, number: u64) -> Result<Option<Held>> {
        let name = Lock::name(number);
        let path = || self.describe(&name);
        let lease = self.lease.as_millis() as u64;
        let lock = Lock { holder: random(), who: who(), lease, released: false };
        let until = Until::after(self.lease);
        if let Err(failure) = self.put(&name, &lock.encode()?, PutMode::Create, false) {
            // It may have been made all the same: an answer got lost, or the request was repeated and met itself.
            let found = self.read(&name).map_err(|failure| failure.error("read the lock", path()))?;
            let found = found.map(|bytes| Lock::decode(&path(), &bytes)).transpose()?;
            match (found, failure) {
                (Some(found), _) if found.holder == lock.holder => {}
                (Some(_), _) | (None, Failure::Store(object_store::Error::AlreadyExists { .. })) => {
                    return Ok(None);
                }
                (None, failure) => return Err(failure.error("take the lock", path())),
            }
        }
        // A number that was passed and swept away long ago can be made anew: then a higher one is there.
        let found = self.list(LOCKS).map_err(|failure| failure.error("see whose the lock is", path()))?;
        let mine = highest(&found) == Some(number);
        let passed = found
            .iter()
            .filter(|f| Lock::number(&f.name).is_some_and(|n| n < number || (n == number && !mine)));
        for found in passed {
            let (store, place) = (self.store.clone(), self.place(&found.name));
            // Whoever comes next tries again.
            drop(self.run(None, async move { store.delete(&place).await }));
        }
        Ok(mine.then(|| Held::new(number, lock, until)))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(mut held) = self.shared.held.lock().take() else { return };
        if held.check().is_err() {
            return;
        }
        if held.unanswered {
            log::warn!(
                "a request to {} has had no answer and may yet arrive: the lock is left to run out",
                self.shared.address
            );
            return;
        }
        let Ok(bytes) = (Lock { released: true, ..held.lock }).encode() else { return };
        let parting = Parting { number: held.number, bytes };
        let told = self.stop.take().is_some_and(|stop| stop.send(parting).is_ok());
        if !told || self.ended.lock().recv_timeout(PARTING) != Ok(true) {
            log::warn!("the lock at {} could not be given back, and runs out by itself", self.shared.address);
        }
    }
}
