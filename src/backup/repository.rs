//! A repository: where checkpoints lie, which there are, and who may write.
//!
//! Invariants: everything that changes it holds its lock; a number that a checkpoint had is never given out again; `WORKING`
//! stands from before the first object of a checkpoint, or the first deletion, until after the last, unless there was no room for it before
//! a deletion.

use super::checkpoint::{self, Body, CHECKPOINTS, Checkpoint, CheckpointId};
use super::hash::{OBJECTS, ObjectId, kind, random};
use super::index;
use super::layer::fetch;
use super::progress::Watch;
use super::storage::{DirStorage, Storage, advised};
use super::unread::twice;
use crate::disk::{Disk, RealDisk};
use crate::envelope::{self, Kind, hex128};
use crate::error::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

pub const MARKER: &str = "REPOSITORY";
const WORKING: &str = "WORKING";

const KIND: Kind = kind(
    b"ANNULUSR",
    "repository's marker",
    "the checkpoints may be whole: make another repository, put its marker here with this one's id, and verify them",
);
const WORKING_KIND: Kind = kind(b"ANNULUSG", "mark of work", "remove it: leftovers are then not swept");

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Marker {
    #[serde(with = "hex128")]
    repository: u128,
    next: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Working {
    #[serde(with = "hex128")]
    repository: u128,
}

/// A place for checkpoints of one or several stores: a directory, or what a [`Storage`](crate::Storage) stands for.
///
/// Checkpoints are complete by themselves and share what they have in common: records that did not change are stored once,
/// whatever checkpoint they are of, and deleting one leaves the others whole. Several processes may use a repository at
/// once; one of them at a time may write.
///
/// Cheap to clone.
///
/// ```
/// # fn main() -> annulus::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let (live, backup, new) = (dir.path().join("live"), dir.path().join("backup"), dir.path().join("new"));
/// use annulus::{BackupRepository, Retention, Store};
/// let store = Store::open(live)?;
/// store.insert("user/42/cart", b"2 apples")?;
///
/// let repo = BackupRepository::open(backup)?;
/// let id = store.checkpoint(&repo)?;
/// assert!(repo.verify(id)?.is_whole());
/// repo.prune(Retention::keep_last(7).daily(30))?;
///
/// let restored = repo.restore(id)?.shards(8).replication_factor(3).open(new)?;
/// assert_eq!(restored.get("user/42/cart")?.as_deref(), Some(&b"2 apples"[..]));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct BackupRepository {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) id: u128,
}

impl BackupRepository {
    /// Opens the repository in the directory `dir`, or creates one there if the directory is empty or absent.
    ///
    /// # Errors
    /// `InvalidInput` for the address of an object storage, such as `s3://bucket/prefix`: see `ObjectStorage`, with the feature
    /// `object-store`. `Foreign` for a directory of something else, `Corruption` or `Unsupported` for a damaged marker or one of another
    /// release, `Locked` if it is being created by somebody else, `Io`.
    pub fn open(dir: impl AsRef<Path>) -> Result<BackupRepository> {
        let dir = dir.as_ref();
        if is_address(dir) {
            let remedy = match cfg!(feature = "object-store") {
                true => "use ObjectStorage::from_env and BackupRepository::open_with",
                false => {
                    "build with the feature `s3`, `gcs` or `azure`; a directory of that name is found as ./NAME"
                }
            };
            return Err(Error::invalid("this is an address and not a directory").at(dir).remedy(remedy));
        }
        Self::on_disk(Arc::new(RealDisk), dir)
    }

    pub(crate) fn on_disk(disk: Arc<dyn Disk>, dir: &Path) -> Result<BackupRepository> {
        let exists = disk.exists(dir).map_err(|e| Error::io("look for the repository", dir, e))?;
        let names = match exists {
            true => disk.list(dir).map_err(|e| Error::io("list the repository", dir, e))?,
            false => Vec::new(),
        };
        let ours = |name: &String| matches!(name.as_str(), "LOCK" | "REPOSITORY.tmp" | "lost+found");
        if let Some(name) = names.iter().find(|name| !ours(name))
            && !names.iter().any(|name| name == MARKER)
        {
            let text = format!("the directory is not a backup repository and not empty: it holds {name}");
            return Err(Error::new(ErrorKind::Foreign, text)
                .at(dir)
                .remedy("name an empty or new directory"));
        }
        Self::open_with(Arc::new(DirStorage::new(disk, dir)))
    }

    /// Opens the repository that lies in a storage of the caller's, or creates one there.
    ///
    /// # Errors
    /// As [`open`](Self::open), but for `Foreign`: what else lies there is left alone.
    pub fn open_with(storage: Arc<dyn Storage>) -> Result<BackupRepository> {
        if let Some(marker) = load(storage.as_ref())? {
            return Ok(BackupRepository { storage, id: marker.repository });
        }
        let _lock = storage.lock()?;
        let id = match load(storage.as_ref())? {
            Some(marker) => marker.repository,
            None => {
                let marker = Marker { repository: random(), next: 1 };
                storage.write(MARKER, &envelope::encode(KIND, &marker)?)?;
                storage.settle()?;
                marker.repository
            }
        };
        Ok(BackupRepository { storage, id })
    }

    /// The checkpoints, in the order of their numbers. One whose manifest is damaged, or cannot be read while others can, is left out, and told
    /// in the log: [`verify_all`](Self::verify_all) says which.
    ///
    /// One whose process ended between its last write and its word of success is listed as well. A power cut may still take that one,
    /// up to the next checkpoint, `delete` or `prune` in the repository, each of which makes durable what is listed before anything goes.
    ///
    /// # Errors
    /// `Io` where nothing can be read.
    pub fn list(&self) -> Result<Vec<Checkpoint>> {
        let usable = self.ids()?.into_iter().filter_map(|id| self.usable(id).transpose());
        usable.map(|body| body.map(|body| body.outline())).collect()
    }

    /// One checkpoint.
    ///
    /// # Errors
    /// `NotFound` if there is none of that number. `Corruption` for a damaged manifest, `Foreign` for one of another repository or
    /// number, `Unsupported` for one of another release, `Io`.
    pub fn get(&self, id: CheckpointId) -> Result<Checkpoint> {
        Ok(self.load(id)?.outline())
    }

    pub(crate) fn ids(&self) -> Result<Vec<CheckpointId>> {
        let names = self.storage.list(CHECKPOINTS)?;
        Ok(names.iter().filter_map(|object| CheckpointId::from_name(&object.name)).collect())
    }

    pub(crate) fn load(&self, id: CheckpointId) -> Result<Body> {
        let name = id.name();
        let path = self.storage.describe(&name);
        let missing = || {
            Error::new(ErrorKind::NotFound, format!("there is no checkpoint {id}"))
                .at(&path)
                .remedy("list() tells which there are")
        };
        let read = twice(|| self.storage.read(&name));
        let read = read.map_err(|error| advised(error, checkpoint::KIND.remedy))?;
        Body::decode(&path, &read.ok_or_else(missing)?, self.id, id)
    }

    /// The same, if the manifest is the one of that hash.
    pub(crate) fn load_known(&self, id: CheckpointId, hash: [u8; 32]) -> Result<Option<Body>> {
        let name = id.name();
        let known = self.storage.read(&name)?.filter(|bytes| ObjectId::of(bytes).0 == hash);
        known.map(|bytes| Body::decode(&self.storage.describe(&name), &bytes, self.id, id)).transpose()
    }

    /// The manifests of all checkpoints. An error if one cannot be read: then nobody knows what it needs.
    pub(crate) fn load_all(&self) -> Result<Vec<Body>> {
        self.ids()?.into_iter().map(|id| self.load_needed(id)).collect()
    }

    pub(super) fn load_needed(&self, id: CheckpointId) -> Result<Body> {
        self.load(id).map_err(|error| needs_unknown(id, "its manifest", error))
    }

    /// The objects of the checkpoints that can be read, as far as they are there: what a new one need not write. What cannot be read, for
    /// whatever reason, costs nothing but room.
    pub(crate) fn reusable(&self) -> Result<HashSet<ObjectId>> {
        let mut named = HashSet::new();
        for id in self.ids()? {
            match self.load(id).and_then(|body| self.named(std::slice::from_ref(&body))) {
                Ok(objects) => named.extend(objects),
                Err(error) => log::error!("checkpoint {id} shares nothing with the next: {error}"),
            }
        }
        let mut there = HashSet::new();
        for digit in 0..16 {
            let objects = self.storage.list(&format!("{OBJECTS}{digit:x}/"))?;
            let ids = objects.iter().filter_map(|object| ObjectId::from_name(&object.name));
            there.extend(ids.filter(|id| named.contains(id)));
        }
        Ok(there)
    }

    /// Keeps others from writing, and gets rid of what an interrupted writer left.
    pub(crate) fn begin(&self) -> Result<Session<'_>> {
        self.begin_to(false)
    }

    /// The same for one who makes room, and so needs none.
    pub(crate) fn begin_to_delete(&self) -> Result<Session<'_>> {
        self.begin_to(true)
    }

    fn begin_to(&self, delete: bool) -> Result<Session<'_>> {
        let lock = self.storage.lock()?;
        let session = Session { repository: self, lock: Some(lock) };
        let is_there = match self.storage.read(WORKING) {
            // What it says does not matter, only that it is there.
            Err(error) if error.kind() == ErrorKind::Corruption => true,
            read => read?.is_some(),
        };
        if is_there {
            // A manifest that cannot be read keeps leftovers from being told; it need not keep anything else from being done.
            if let Err(error) = session.sweep(&Watch::default()) {
                log::warn!("leftovers in the backup repository cannot be swept: {error}");
            }
        } else {
            let working = Working { repository: self.id };
            match self.storage.write(WORKING, &envelope::encode(WORKING_KIND, &working)?) {
                // Whoever deletes after this one takes all that it leaves, though nobody says that there is anything.
                Err(error) if delete && error.is_want_of_room() => {
                    log::warn!(
                        "what is deleted now is not swept by the next checkpoint if this is interrupted: {error}"
                    )
                }
                written => written.and_then(|()| self.storage.settle())?,
            }
        }
        Ok(session)
    }

    fn marker(&self) -> Result<Marker> {
        let wrong = |text: &str, remedy: &str| {
            Error::new(ErrorKind::Foreign, text).at(self.storage.describe(MARKER)).remedy(remedy)
        };
        match load(self.storage.as_ref())? {
            Some(marker) if marker.repository == self.id => Ok(marker),
            Some(_) => {
                Err(wrong("the repository was replaced by another one while it was open", "open it again"))
            }
            None => Err(wrong(
                "the repository was opened here and is here no more",
                "see whether its disk is mounted, or put its files back",
            )),
        }
    }

    /// Errors unless what lies there is still the repository that was opened: a bare mount point lists nothing and takes every write.
    pub(crate) fn check_there(&self) -> Result<()> {
        self.marker().map(drop)
    }

    /// All objects that checkpoints name: none of them may go, and each was durable when a manifest got its name.
    pub(crate) fn named(&self, bodies: &[Body]) -> Result<HashSet<ObjectId>> {
        let mut named = HashSet::new();
        for body in bodies {
            for id in body.indexes() {
                // Many checkpoints share an index; it is read once.
                if named.insert(*id) {
                    let listed = twice(|| fetch(self.storage.as_ref(), id)).and_then(|bytes| {
                        index::decode(&bytes).map_err(|error| error.at(self.storage.describe(&id.name())))
                    });
                    let listed = listed.map_err(|error| needs_unknown(body.id, "an index of it", error))?;
                    named.extend(listed.iter().map(|chunk| chunk.id));
                }
            }
        }
        Ok(named)
    }
}

/// Nothing may be deleted while nobody knows what a checkpoint is made of.
fn needs_unknown(id: CheckpointId, what: &str, error: Error) -> Error {
    let text = format!("which objects checkpoint {id} needs is not known, since {what} cannot be read");
    let told =
        Error::new(error.kind(), text).remedy("delete that checkpoint by its number if it is of no more use");
    let told = if let Some(path) = error.path() { told.at(path) } else { told };
    told.caused_by(error)
}

/// Whether a path begins as an address does: with letters and `://`.
fn is_address(path: &Path) -> bool {
    let bytes = path.as_os_str().as_encoded_bytes();
    let letters = bytes.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
    letters > 1 && bytes[letters..].starts_with(b"://")
}

fn load(storage: &dyn Storage) -> Result<Option<Marker>> {
    match storage.read(MARKER).map_err(|error| advised(error, KIND.remedy))? {
        Some(bytes) => envelope::decode(KIND, &storage.describe(MARKER), &bytes).map(Some),
        None => Ok(None),
    }
}

/// The turn to write to a repository.
pub struct Session<'a> {
    pub repository: &'a BackupRepository,
    lock: Option<Box<dyn Send + Sync>>,
}

impl std::fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("locked", &self.lock.is_some()).finish()
    }
}

impl Session<'_> {
    /// The number of a new checkpoint. It counts as used from when [`keep_numbers`](Self::keep_numbers) or the checkpoint
    /// itself says so.
    pub fn next_id(&self) -> Result<CheckpointId> {
        let marker = self.repository.marker()?;
        let newest = self.repository.ids()?.last().map_or(0, |id| id.0.saturating_add(1));
        Ok(CheckpointId(marker.next.max(newest)))
    }

    /// Says that the numbers of these checkpoints are used, before they go. The highest number of all says so of those below it as long as it
    /// is there, durably.
    pub fn keep_numbers(&self, going: &[CheckpointId]) -> Result<()> {
        let marker = self.repository.marker()?;
        let newest = self.repository.ids()?.last().copied();
        let storage = self.repository.storage.as_ref();
        if let Some(newest) = newest.filter(|newest| newest.0 >= marker.next && going.contains(newest)) {
            let next = newest.0.saturating_add(1);
            storage.write(MARKER, &envelope::encode(KIND, &Marker { next, ..marker })?)?;
        }
        storage.settle()
    }

    /// Nothing of this session is left to be swept.
    pub fn end(mut self) -> Result<()> {
        let storage = self.repository.storage.as_ref();
        storage.delete(WORKING)?;
        let settled = storage.settle();
        self.lock = None;
        settled
    }
}
