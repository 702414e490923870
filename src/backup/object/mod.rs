//! Repositories on object storage, by way of the crate `object_store`.
//!
//! Invariants:
//! - One put is one object, whole or not there: the storage's promise. After an error that leaves open whether a put or a deletion was
//!   carried out, what is there is looked at; where that does not settle it, the lock is not given back, but left to run out.
//! - While this storage is locked, nothing but objects that are written once and never changed is written, and nothing is deleted, unless
//!   the storage has just said that the lock is ours, and it is ours by our own clock whenever the request makes a step.
//!
//! | room | what it is for |
//! |---|---|
//! | [`driver`] | the thread that carries requests |
//! | [`lock`] | what a lock says, and when it counts |
//! | `lease` | taking, renewing and giving back |
//! | `url` | addresses |

mod driver;
mod lease;
mod lock;
mod url;

use super::storage::{Object, Storage};
use crate::error::{Error, ErrorKind, Result};
use driver::Driver;
use lock::{Held, LEASES};
use object_store::path::Path as Place;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use parking_lot::Mutex;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// Bounds a request with all its repetitions.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often a request that needs the lock is looked after.
const TICK: Duration = Duration::from_millis(500);
/// What is written once and never changed: to write it without the lock does no harm.
const IMMUTABLE: [&str; 2] = ["objects/", "archive/"];

/// A repository's bytes on object storage: S3, Google Cloud Storage, Azure, or whatever implements
/// [`ObjectStore`](object_store::ObjectStore). Needs the feature `object-store`, and for [`parse`](Self::parse) `s3`, `gcs` or `azure`.
///
/// Requests are carried by a thread of its own, so it may be used from any thread, within a runtime or without one; every call
/// blocks. One put or deletion is durable when it returns, as far as the storage is. Several values may stand for the same place, in one process or
/// on many machines; one of them at a time has the lock.
///
/// The lock is a lease, renewed while it is held: a process that dies leaves it to run out, which takes the lease and half of it again
/// since it was renewed last. See the guide on checkpoints for what that means.
///
/// ```
/// # fn main() -> annulus::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let store = annulus::Store::open(dir.path().join("data"))?;
/// use annulus::{BackupRepository, ObjectStorage};
/// use std::sync::Arc;
/// // In earnest: ObjectStorage::from_env("s3://bucket/orders")?, with the feature `s3`.
/// let storage = ObjectStorage::new(Arc::new(annulus::object_store::memory::InMemory::new()), "orders")?;
/// let repo = BackupRepository::open_with(Arc::new(storage))?;
/// let id = store.checkpoint(&repo)?;
/// assert!(repo.verify(id)?.is_whole());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct ObjectStorage {
    shared: Arc<Shared>,
}

/// What the guard of a lock needs too.
#[derive(Debug)]
struct Shared {
    store: Arc<dyn ObjectStore>,
    root: Place,
    /// What the root is called.
    address: String,
    lease: Duration,
    driver: Driver,
    held: Arc<Mutex<Option<Held>>>,
}

impl ObjectStorage {
    /// What lies under `prefix` in `store`. Nothing is asked or written yet.
    ///
    /// # Errors
    /// `InvalidInput` for a prefix that cannot be one, `Io` if no thread can be started.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: &str) -> Result<ObjectStorage> {
        let root = Place::parse(prefix).map_err(|e| {
            let text = format!("{prefix:?} cannot be a prefix in an object storage");
            Error::invalid(text)
                .remedy("use letters, digits, `-` and `.`, with `/` between them")
                .caused_by(e)
        })?;
        let address = format!("{store}/{root}");
        Self::at(store, root, address)
    }

    fn at(store: Arc<dyn ObjectStore>, root: Place, address: String) -> Result<ObjectStorage> {
        let address = address.trim_end_matches('/').to_owned();
        let (lease, held) = (Duration::from_secs(60), Arc::default());
        let shared = Shared { store, root, address, lease, driver: Driver::start()?, held };
        Ok(ObjectStorage { shared: Arc::new(shared) })
    }

    /// Sets for how long the lock is good after it was renewed: 60 seconds unless set, 3 seconds to 10 minutes. A longer one bears longer
    /// failures of the network, a shorter one keeps others out for a shorter time after a crash. It is renewed three times in its length.
    ///
    /// # Errors
    /// `InvalidInput` outside these limits, or while the lock is held.
    pub fn lease(mut self, lease: Duration) -> Result<ObjectStorage> {
        if !LEASES.contains(&lease) {
            return Err(Error::invalid(format!("a lease is 3 to 600 seconds, not {}", lease.as_secs_f64())));
        }
        match Arc::get_mut(&mut self.shared) {
            Some(shared) => shared.lease = lease,
            None => return Err(Error::invalid("a lease is set before the lock is taken")),
        }
        Ok(self)
    }
}

/// How a request went that was bounded.
type Answer<T> = std::result::Result<T, Failure>;

enum Failure {
    Store(object_store::Error),
    TooLong,
    /// The lock was lost meanwhile.
    Lost(Error),
    Panicked,
}

impl Failure {
    /// Whether the request was refused for sure, and so has changed nothing.
    fn is_refusal(&self) -> bool {
        use object_store::Error;
        match self {
            Failure::Store(
                Error::NotFound { .. }
                | Error::InvalidPath { .. }
                | Error::NotSupported { .. }
                | Error::NotImplemented { .. }
                | Error::PermissionDenied { .. }
                | Error::Unauthenticated { .. }
                | Error::UnknownConfigurationKey { .. },
            ) => true,
            Failure::Store(_) | Failure::TooLong | Failure::Lost(_) | Failure::Panicked => false,
        }
    }

    fn is_absence(&self) -> bool {
        matches!(self, Failure::Store(object_store::Error::NotFound { .. }))
    }

    fn error(self, what: &str, at: PathBuf) -> Error {
        let failed = || Error::new(ErrorKind::Io, format!("cannot {what}")).at(at.clone());
        match self {
            Failure::Lost(error) => error.at(at),
            Failure::TooLong => failed()
                .remedy("the object storage did not answer in time: check the network, then try again"),
            Failure::Panicked => failed().remedy("see the log for the panic's text"),
            Failure::Store(error) => {
                use object_store::Error;
                let remedy = match &error {
                    Error::NotFound { .. } => "check the address: the bucket or container must be there",
                    Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                        "check the credentials, and that they may list, read, write and delete there"
                    }
                    Error::NotImplemented { .. } | Error::NotSupported { .. } => {
                        "the object storage cannot do what a repository needs: use another one"
                    }
                    _ => "check the address, the credentials and the network, then try again",
                };
                failed().remedy(remedy).caused_by(error)
            }
        }
    }
}

/// Carries a request out within bounds; with `held`, only while the lock is ours.
async fn bounded<T>(
    held: Option<Arc<Mutex<Option<Held>>>>,
    request: impl Future<Output = object_store::Result<T>>,
) -> Answer<T> {
    let mut request = std::pin::pin!(request);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let guarded = std::future::poll_fn(|context| {
        // Before every step, so that a process that was stopped for long sends nothing any more when it goes on.
        if let Some(held) = &held
            && let Some(Err(lost)) = held.lock().as_mut().map(Held::check)
        {
            return Poll::Ready(Err(Failure::Lost(lost)));
        }
        while held.is_some() && tick.poll_tick(context).is_ready() {}
        request.as_mut().poll(context).map_err(Failure::Store)
    });
    tokio::time::timeout(PATIENCE, guarded).await.unwrap_or(Err(Failure::TooLong))
}

impl Shared {
    fn place(&self, name: &str) -> Place {
        name.split('/')
            .filter(|part| !part.is_empty())
            .fold(self.root.clone(), |place, part| place.join(part))
    }

    fn describe(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("{}/{name}", self.address))
    }

    fn run<T: Send + 'static>(
        &self,
        held: Option<Arc<Mutex<Option<Held>>>>,
        request: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> Answer<T> {
        self.driver.run(bounded(held, request)).unwrap_or(Err(Failure::Panicked))
    }

    fn list(&self, prefix: &str) -> Answer<Vec<Found>> {
        self.run(None, list(self.store.clone(), self.root.clone(), self.place(prefix), prefix.to_owned()))
    }

    fn read(&self, name: &str) -> Answer<Option<Vec<u8>>> {
        let (store, place) = (self.store.clone(), self.place(name));
        let read = async move { Ok(store.get(&place).await?.bytes().await?.to_vec()) };
        match self.run(None, read) {
            Err(failure) if failure.is_absence() => Ok(None),
            read => read.map(Some),
        }
    }

    fn put(&self, name: &str, bytes: &[u8], mode: PutMode, locked: bool) -> Answer<()> {
        let (store, place) = (self.store.clone(), self.place(name));
        let payload = PutPayload::from(bytes.to_vec());
        let put = async move { store.put_opts(&place, payload, mode.into()).await.map(drop) };
        self.run(locked.then(|| self.held.clone()), put)
    }

    /// A request that needed the lock has gone astray, and may yet arrive.
    fn went_astray(&self) {
        if let Some(held) = self.held.lock().as_mut() {
            held.unanswered = true;
        }
    }
}

/// What a listing says of an object.
struct Found {
    name: String,
    bytes: u64,
    written: std::time::SystemTime,
}

async fn list(
    store: Arc<dyn ObjectStore>,
    root: Place,
    place: Place,
    prefix: String,
) -> object_store::Result<Vec<Found>> {
    let within = (!place.as_ref().is_empty()).then_some(&place);
    let listed = match store.list_with_delimiter(within).await {
        Err(object_store::Error::NotFound { .. }) => return Ok(Vec::new()),
        listed => listed?,
    };
    let mut found = Vec::with_capacity(listed.objects.len());
    for object in listed.objects {
        let Some(parts) = object.location.prefix_match(&root) else { continue };
        let name = parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/");
        // What stands for a directory has no name of its own.
        if name.strip_prefix(&prefix).is_some_and(|rest| !rest.is_empty() && !rest.contains('/')) {
            found.push(Found { name, bytes: object.size, written: object.last_modified.into() });
        }
    }
    found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

impl Storage for ObjectStorage {
    fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        let failed = |failure: Failure| failure.error("list the objects", self.describe(prefix));
        let found = self.shared.list(prefix).map_err(failed)?;
        Ok(found.into_iter().map(|Found { name, bytes, .. }| Object { name, bytes }).collect())
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.shared.read(name).map_err(|failure| failure.error("read the object", self.describe(name)))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let shared = &self.shared;
        let locked = !IMMUTABLE.iter().any(|prefix| name.starts_with(prefix)) && shared.is_locked();
        if locked {
            shared.confirm()?;
        }
        let Err(failure) = shared.put(name, bytes, PutMode::Overwrite, locked) else { return Ok(()) };
        // The answer may have been lost, not the put.
        if !failure.is_refusal() {
            match shared.read(name) {
                Ok(Some(found)) if found == bytes => return Ok(()),
                _ if locked => shared.went_astray(),
                _ => {}
            }
        }
        Err(failure.error("write the object", self.describe(name)))
    }

    fn delete(&self, name: &str) -> Result<()> {
        let shared = &self.shared;
        let locked = shared.is_locked();
        if locked && (!IMMUTABLE.iter().any(|prefix| name.starts_with(prefix)) || shared.is_batch_over()) {
            shared.confirm()?;
        }
        let (store, place) = (shared.store.clone(), shared.place(name));
        let delete = async move { store.delete(&place).await };
        match shared.run(locked.then(|| shared.held.clone()), delete) {
            Ok(()) => Ok(()),
            Err(failure) if failure.is_absence() => Ok(()),
            Err(failure) => {
                if !failure.is_refusal() {
                    match shared.read(name) {
                        Ok(None) => return Ok(()),
                        _ if locked => shared.went_astray(),
                        _ => {}
                    }
                }
                Err(failure.error("delete the object", self.describe(name)))
            }
        }
    }

    fn settle(&self) -> Result<()> {
        Ok(())
    }

    fn lock(&self) -> Result<Box<dyn Send + Sync>> {
        Ok(Box::new(lease::take(&self.shared)?))
    }

    fn describe(&self, name: &str) -> PathBuf {
        self.shared.describe(name)
    }
}
